"""Functions of whole rows of a value that is being recorded, as PyTorch names them: sum, mean, softmax, topk, where, transpose."""
import collections
import numbers
import sys

from . import errors

FUNCTIONS = ("sum", "mean", "amax", "amin", "norm", "argmax", "softmax", "log_softmax")
TopK = collections.namedtuple("TopK", "values indices")


def dimensions(dim):
    """(-1,) of -1; () of None, which is all of them."""
    if dim is None:
        return []
    found = list(dim) if isinstance(dim, (list, tuple)) else [dim]
    if not all(isinstance(d, numbers.Integral) for d in found):
        raise errors.TypeError(f"dimensions are integers, found {dim!r}")
    return [int(d) for d in found]


def _text(name, dims, keep):
    parts = [f"dim=({', '.join(map(str, dims))},)" if len(dims) > 1 else f"dim={dims[0]}"] if dims else []
    return f"{name}({', '.join(parts + ['keepdim=True'] * keep)})"


def _method(name, is_recorded):
    sums = FUNCTIONS.index(name) < FUNCTIONS.index("argmax")

    def method(self, dim=None, keepdim=False, *, axis=None, keepdims=None, dtype=None):
        if not is_recorded(self):
            return _plain(self, name, dim if axis is None else axis, keepdim if keepdims is None else keepdims)
        if dtype is not None:
            raise errors.TypeError(f"{name}(dtype=...): convert before it, x.float().{name}()")
        dims, keep = dimensions(dim if axis is None else axis), bool(keepdim if keepdims is None else keepdims)
        if keep and not sums:
            raise errors.TypeError(f"{name}() has no keepdim here: write [..., None] behind it")
        return self._rows(FUNCTIONS.index(name), dims, keep, _text(name, dims, keep))
    method.__name__, method.__doc__ = name, f"{name} over `dim`, a number or several, as in PyTorch."
    return method


def _plain(value, name, dim, keepdim):
    natural = value._natural()
    if "torch" in sys.modules:
        keep = {"keepdim": True} if keepdim else {}
        return getattr(natural, name)(**keep) if dim is None else getattr(natural, name)(dim=dim, **keep)
    name = {"amax": "max", "amin": "min"}.get(name, name)
    return getattr(natural, name)(axis=dim, keepdims=keepdim)


def attach(Value, is_recorded):
    """Gives the class its methods. is_recorded(value): it has no numbers yet."""
    for name in FUNCTIONS:
        if name != "norm":
            setattr(Value, name, _method(name, is_recorded))
    norm = _method("norm", is_recorded)

    def norm_of(self, p=2, dim=None, keepdim=False):
        """The 2-norm over `dim`, all of the value without one."""
        if p not in (2, "fro"):
            raise errors.ValueError(f"norm(p) is the 2-norm alone, found p = {p}; a dimension is named: norm(dim=-1)")
        return norm(self, dim, keepdim)

    def topk(self, k, dim=-1):
        """(values, indices) of the k largest along a dimension, in order."""
        if not is_recorded(self):
            return self._natural().topk(k, dim)
        return TopK(self._topk(k, dim, False), self._topk(k, dim, True))

    def transpose(self, dim0, dim1):
        """The same elements with two dimensions exchanged."""
        return self._transpose(dim0, dim1) if is_recorded(self) else self._natural().transpose(dim0, dim1)

    def turned(self):
        return self._transpose(-2, -1) if is_recorded(self) else self._natural().T

    def unsqueeze(self, dim):
        """A further dimension of extent 1."""
        at = dim if dim >= 0 else dim + len(self.shape) + 1
        if not 0 <= at <= len(self.shape):
            raise errors.IndexError(f"unsqueeze({dim}) of a value of {len(self.shape)} dimensions")
        return self[(slice(None),) * at + (None,)]

    Value.norm, Value.topk, Value.transpose, Value.unsqueeze = norm_of, topk, transpose, unsqueeze
    Value.T, Value.mT = property(turned, doc="The last two dimensions exchanged."), property(turned, doc="The last two dimensions exchanged.")
    Value.where = lambda self, condition, other: condition._where(self, other)
    Value.detach = lambda self: self._detach() if is_recorded(self) else self._natural()


def torch_function(name, arguments, keywords, is_value):
    """What torch.NAME(*arguments, **keywords) is of values being recorded; NotImplemented where it is none of these."""
    keywords = {k: v for k, v in keywords.items() if not k.startswith("_") and v is not None}
    if name == "where" and len(arguments) == 3 and is_value(arguments[0]) and not keywords:
        return arguments[0]._where(*arguments[1:])
    symbols = {"matmul": "@", "mm": "@", "bmm": "@", "mv": "@", "dot": "@", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
    if name in symbols and len(arguments) == 2 and not keywords:
        import operator
        a, b = arguments
        return {"@": operator.matmul, "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt,
                ">=": operator.ge}[symbols[name]](a, b)
    if name == "linear" and len(arguments) + len(keywords) <= 3 and is_value(arguments[0]):
        weight, bias = arguments[1], keywords.get("bias", arguments[2] if len(arguments) > 2 else None)
        made = arguments[0] @ weight.T
        return made if bias is None else made + bias
    name = {"linalg_norm": "norm", "linalg_vector_norm": "norm"}.get(name, name)
    if is_value(arguments[0]) and name in (*FUNCTIONS, "topk", "transpose", "unsqueeze", "detach"):
        rest = dict(keywords)
        if rest.pop("sorted", True) is not True or rest.pop("largest", True) is not True:
            raise errors.ValueError("topk() gives the largest, in order")
        if "ord" in rest:
            rest["p"] = rest.pop("ord")
        return getattr(arguments[0], name)(*arguments[1:], **rest)
    return NotImplemented
