"""The notebook runs, and prints what it shows."""
import pathlib

import notebook
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("name", ["setting.ipynb"])
def test_notebook(name):
    pytest.importorskip("matplotlib").use("Agg")
    _, cells = notebook.run(ROOT / "demo" / name)
    assert len(cells) > 5
    for cell, printed, shown in cells:
        assert printed == shown, "".join(cell["source"])
