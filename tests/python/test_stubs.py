"""The stubs say what is there: every class, every public method with its parameters."""
import ast
import inspect
import pathlib

import inset
import inset.model
import inset.result
import inset.trace
import inset.value

FOLDER = pathlib.Path(inset.__file__).parent


def parameters(function):
    try:
        return [p.name for p in inspect.signature(function).parameters.values()]
    except (TypeError, ValueError):
        return None  # the extension module's


def test_stubs():
    checked = 0
    for module in (inset.model, inset.result, inset.trace, inset.value):
        path = FOLDER / (module.__name__.rsplit(".", 1)[1] + ".pyi")
        for item in ast.parse(path.read_text()).body:
            if not isinstance(item, ast.ClassDef):
                continue
            there = getattr(module, item.name)
            listed = {f.name: f for f in item.body if isinstance(f, ast.FunctionDef)}
            for name, f in listed.items():
                assert hasattr(there, name) or name == "__getattr__", f"{path.name}: {item.name} has no {name}"
                said = [a.arg for a in f.args.posonlyargs + f.args.args + f.args.kwonlyargs] + [a.arg for a in (f.args.vararg, f.args.kwarg) if a]
                if module is not inset.value and name not in ("__getattr__", "__setattr__"):
                    found = parameters(getattr(there, name))
                    assert found is None or found == said, f"{path.name}: {item.name}.{name} takes {found}, the stub says {said}"
                checked += 1
            if module is not inset.value:
                for name, member in vars(there).items():
                    if not name.startswith("_") and inspect.isfunction(member):
                        assert name in listed, f"{path.name}: {item.name}.{name} is not listed"
    assert checked > 40
