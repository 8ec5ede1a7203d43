"""The package as it is installed; INSET_PYTHON_BUILD names a build folder whose module is tested with the sources' package instead."""
import importlib.util
import os
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
if "INSET_PYTHON_BUILD" in os.environ:
    sys.path.insert(0, str(HERE.parent.parent / "host" / "python"))
    path = next(pathlib.Path(os.environ["INSET_PYTHON_BUILD"]).glob("_inset*.so"))
    spec = importlib.util.spec_from_file_location("inset._inset", path)
    sys.modules["inset._inset"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["inset._inset"])
