"""Every fixture's scripts as Python, beside nnsight's and transformers' numbers; refused ones raise what they should, at the user's own line."""
import traceback

import numpy
import pytest
import scripts

import inset

MODELS = ["notebook", "deep", "gpt2", "gpt2_options", "gpt_neox", "gpt_neox_serial", "llama", "llama3", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "olmo2", "mixtral"]
SIXTEEN = ["gpt2_bf16", "gpt2_f16", "llama_bf16"]


ONLY_SCRIPTS = {"NameError", "SyntaxError", "FileError"}


@pytest.mark.parametrize("name", MODELS + SIXTEEN)
def test_cases(name):
    folder = scripts.FIXTURES / name
    model = inset.Model(folder, device="cpu")
    ran = 0
    for path in sorted((folder / "cases").glob("*.inset")):
        want = scripts.read(path.with_suffix(".safetensors"))
        names = scripts.run(model, path.read_text(), folder / "cases", path.name)
        for key, x in want.items():
            apart = scripts.distance(scripts.saved(names[key]), x)
            assert apart < (1e-2 if name in SIXTEEN else 1e-5), f"{path.name}: {key} is {apart} apart"
        ran += 1
    assert ran > 0 or not (folder / "cases").exists()


@pytest.mark.parametrize("name", MODELS)
def test_random(name):
    folder = scripts.FIXTURES / name
    if not (folder / "random.cases").exists():
        pytest.skip("no random scripts")
    model = inset.Model(folder, device="cpu")
    want = scripts.read(folder / "random.safetensors")
    ran = refused = 0
    for case, errors, line, text in scripts.random_scripts(folder):
        if not errors:
            names = scripts.run(model, text, folder / "cases", case)
            for key, x in want.items():
                if key.startswith(case + "/"):
                    apart = scripts.distance(scripts.saved(names[key.split("/")[1]]), x)
                    assert apart < 1e-5, f"{case}: {key} is {apart} apart"
            ran += 1
            continue
        if ONLY_SCRIPTS >= set(errors) or errors == ["TypeError", "NameError"] or "]][" in text.splitlines()[line - 1]:
            continue  # what is no error in Python, or another: names bound twice, files, a part of a copy
        with pytest.raises(Exception) as found:
            scripts.run(model, text, folder / "cases", case)
        # a missing attribute or block is Python's own error where the library is not even asked
        assert type(found.value).__name__ in errors or isinstance(found.value, (NameError, IndexError, AttributeError)), f"{case}: {found.value!r}"
        at = [frame.lineno for frame in traceback.extract_tb(found.value.__traceback__) if frame.filename == case]
        assert not line or not at or at[-1] == line, f"{case}: at line {at}, expected {line}"
        refused += 1
    assert ran > 5 and refused > 0


@pytest.mark.parametrize("name", sorted(path.parent.name for path in scripts.FIXTURES.glob("*/edits.cases")))
def test_edits(name):
    folder = scripts.FIXTURES / name
    model = inset.Model(folder, device="cpu")
    want = scripts.read(folder / "edits.safetensors")
    for case, _, _, text in scripts.random_scripts(folder, "edits"):
        names = scripts.run(model, text, folder / "cases", case)
        for key, x in want.items():
            if key.startswith(case + "/"):
                apart = scripts.distance(scripts.saved(names[key.split("/")[1]]), x)
                assert apart < 1e-5, f"{case}: {key} is {apart} apart"
    assert len(want) > 20


@pytest.mark.parametrize("name", MODELS)
def test_read_back(name):
    """tracer.script() of a trace, run again, gives the same bits."""
    folder = scripts.FIXTURES / name
    model = inset.Model(folder, device="cpu")
    texts = [(path.name, path.read_text()) for path in sorted((folder / "cases").glob("*.inset"))]
    for which in ("random", "edits"):
        if (folder / f"{which}.cases").exists():
            texts += [(case, text) for case, errors, _, text in scripts.random_scripts(folder, which) if not errors]
    read = 0
    for case, text in texts:
        names = scripts.run(model, text, folder / "cases", case)
        try:
            script = names["tracer"].script()
        except inset.errors.UsageError:
            continue  # a large array
        again = scripts.run(model, script, folder / "cases", "again")
        order = [saved for saved in names["tracer"]._saved]
        for first, second in zip(order, again["tracer"]._saved):
            assert numpy.array_equal(first.load(), second.load(), equal_nan=True), f"{case}:\n{script}"
        assert len(order) == len(again["tracer"]._saved)
        read += 1
    assert read > 0
