"""The package as it is installed; INSET_PYTHON_BUILD (or INSET_PYTHON_STANDIN, see test_device.py) names a build folder whose module is tested with the
sources' package instead."""
import importlib.util
import os
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
build = os.environ.get("INSET_PYTHON_STANDIN") or os.environ.get("INSET_PYTHON_BUILD")
if build:
    sys.path.insert(0, str(HERE.parent.parent / "host" / "python"))
    path = next(pathlib.Path(build).glob("_inset*.so"))
    spec = importlib.util.spec_from_file_location("inset._inset", path)
    sys.modules["inset._inset"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["inset._inset"])
