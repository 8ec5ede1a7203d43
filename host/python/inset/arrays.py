"""Arrays of others: numpy's and PyTorch's, in and out."""
import sys

import numpy

from . import _inset, errors


def to_numpy(x, dtype=None):
    """What a line puts into the model, on the CPU and in one piece. dtype: the type that nested lists of numbers get, bfloat16 as its bits; or "copy"."""
    torch = sys.modules.get("torch")
    if dtype == "copy":  # for the log: numbers that nobody changes any more
        if torch is not None and isinstance(x, torch.Tensor):
            x = x.detach().cpu()
            x = (x.float() if x.dtype == torch.bfloat16 else x).numpy()
        return numpy.array(x)
    if torch is not None and isinstance(x, torch.Tensor):
        return x.detach().cpu().contiguous()
    if hasattr(x, "_saved_array"):
        return x._saved_array()
    try:
        array = numpy.asarray(x)
    except (ValueError, TypeError):
        array = None
    if array is None or array.dtype.kind not in "iufb":
        raise errors.TypeError(f"a number, a value of this trace or an array was expected, found {type(x).__name__}")
    if dtype == "bf16":
        array = rounded(array.astype(numpy.float32))
    elif dtype:
        array = array.astype(numpy.float16 if dtype == "f16" else numpy.float32)
    return array if array.flags.c_contiguous else array.copy()


_inset.set_convert(to_numpy)


def rounded(numbers):
    """float32 as bits of bfloat16, to the nearest, ties to even."""
    bits = numbers.view(numpy.uint32)
    return ((bits + 0x7fff + (bits >> 16 & 1)) >> 16).astype(numpy.uint16)


def widened(bits):
    """bfloat16 bits as float32 numbers."""
    return (bits.astype(numpy.uint32) << 16).view(numpy.float32)


def to_torch(array, dtype):
    """A tensor over the same memory."""
    import torch
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype == "bf16" else tensor
