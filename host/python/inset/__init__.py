"""inset: set values inside a running transformer.

    import inset
    model = inset.Model("path/to/gpt2")
    with model.trace("The Eiffel Tower is in the city of"):
        hidden = model.transformer.h[5].output.save()
        model.transformer.h[7].mlp.output[:, -1] = 0
        logits = model.output.logits[:, -1].save()
    hidden.shape, logits.torch()

The body of a trace is ordinary Python that records; it runs as one program when the block ends. See Model.trace, Model.sweep, Model.attribute.
"""
from . import _inset, errors
from .errors import InsetError
from .model import Model, Module, ModuleList
from .result import EdgeResult, Result
from .trace import Tracer
from .value import Value, save

__version__ = _inset.version()
__all__ = ["EdgeResult", "InsetError", "Model", "Module", "ModuleList", "Result", "Tracer", "Value", "errors", "save"]
