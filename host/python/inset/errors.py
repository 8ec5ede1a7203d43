"""The library's errors as Python's: each is an InsetError and the built-in error that comes nearest."""
import builtins

from . import _inset


class InsetError(Exception):
    """What all errors of inset are."""


def _error(name, base, text):
    return type(name, (InsetError, base), {"__doc__": text, "__module__": "inset"})


MemoryError = _error("MemoryError", builtins.MemoryError, "The host or the device has too little memory.")
SyntaxError = _error("SyntaxError", builtins.ValueError, "A site, an index or a range that cannot be read.")
NameError = _error("NameError", builtins.NameError, "A name that is not there, or there already.")
UnknownSiteError = _error("UnknownSiteError", builtins.AttributeError, "The model has no such module or site.")
OutOfOrderError = _error("OutOfOrderError", builtins.RuntimeError, "A place that the forward has passed already.")
MissedProviderError = _error("MissedProviderError", builtins.RuntimeError, "A place that does not run, since its module is skipped or the invoke stops.")
IndexError = _error("IndexError", builtins.IndexError, "An index or a token out of range.")
ValueError = _error("ValueError", builtins.ValueError, "A value that makes no sense here.")
ShapeError = _error("ShapeError", builtins.ValueError, "Shapes that do not fit.")
TypeError = _error("TypeError", builtins.TypeError, "Types that do not fit.")
FileError = _error("FileError", builtins.OSError, "Something is wrong with a file.")
DeviceError = _error("DeviceError", builtins.RuntimeError, "The device does not answer, or failed.")
UsageError = _error("UsageError", builtins.RuntimeError, "A call that makes no sense.")
StoppedError = _error("StoppedError", builtins.RuntimeError, "Somebody who watches asked a long call to stop.")

NAMES = ("MemoryError", "SyntaxError", "NameError", "UnknownSiteError", "OutOfOrderError", "MissedProviderError", "IndexError", "ValueError",
         "ShapeError", "TypeError", "FileError", "DeviceError", "UsageError", "StoppedError")
_inset.set_errors({name: globals()[name] for name in NAMES})
