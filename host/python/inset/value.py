"""Values of a trace: recorded while its `with` block runs, arrays once it has run."""
import contextlib
import numbers
import sys

from . import _inset, arrays, errors, rows
from .trace import current

Value = _inset.Value
ADD, SUBTRACT, MULTIPLY, DIVIDE, PRODUCT = range(5)
COMPARISONS = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__")  # in the order of inset_operation, behind PRODUCT
FUNCTIONS = ("exp", "log", "sqrt", "abs", "relu", "sigmoid", "tanh", "gelu", "gelu_tanh", "silu")
CASTS = {"float": "f32", "half": "f16", "bfloat16": "bf16"}
METRICS = {"logit_diff": 0, "logit": 1, "probability": 2, "log_probability": 3, "rank": 4, "kl": 5}
NOTHING = []


def _plan_of(value):
    """The Saved of a value whose trace has run, else None."""
    saved = value._saved
    return saved if saved is not None and saved.plan is not None else None


def _need_array(value, what):
    saved = _plan_of(value)
    if saved is None:
        if value._saved is None:
            raise errors.UsageError(f"{what}: the trace records this value and has no numbers of it yet. Save it in the trace, x = x.save(), and look at "
                                    "it behind the `with` block")
        raise errors.UsageError(f"{what}: the trace has not run yet, its `with` block is still open: look at what is saved behind it")
    return saved


class Saved:
    """A value's name in its plan; the plan comes when the trace has run."""
    __slots__ = ("name", "plan", "array", "dtype", "gpu")

    def __init__(self, name, gpu):
        self.name, self.plan, self.array, self.dtype = name, None, None, None
        self.gpu = gpu  # which one has the numbers; -1: the CPU

    def load(self):
        if self.array is None:
            self.array, self.dtype = self.plan.saved(self.name)
        return self.array


def save(value):
    """Keeps the value: behind the trace it is an array. Returns it, so that `x = y.save()` reads as in nnsight; lists, tuples and dicts of values are
    saved one by one."""
    if isinstance(value, list):
        for i, x in enumerate(value):
            value[i] = save(x)
        return value
    if isinstance(value, tuple):
        return tuple(save(x) for x in value)
    if isinstance(value, dict):
        for k, x in value.items():
            value[k] = save(x)
        return value
    if not isinstance(value, Value):
        return value
    if value._saved is None:
        tracer = value._tracer()
        value._saved = Saved(value._save(), tracer._model._m.gpu)
        tracer._saved.append(value._saved)
    return value


def _tracer(self):
    tracer = current(self)
    if tracer is None:
        raise errors.UsageError("a value of a trace that is over: what is to be looked at behind it is saved in it, x = x.save(), and metrics belong into it too")
    return tracer


def _as_numpy(self):
    """The numbers, without a copy where numpy has the type (bfloat16 comes as float32). Read-only: they belong to the run."""
    saved = _need_array(self, "numpy()")
    array = saved.load()
    array = arrays.widened(array) if saved.dtype == "bf16" else array.view()
    array.flags.writeable = False
    return array


def _as_torch(self, device=None):
    """The numbers as a PyTorch tensor: where the model ran, or on another device. On the CPU without a copy; on a GPU they never were on the host."""
    saved = _need_array(self, "torch()")
    if saved.gpu < 0 or device == "cpu":
        tensor = arrays.to_torch(saved.load(), saved.dtype)
    else:
        import torch
        tensor = torch.from_dlpack(self)
    return tensor if device is None else tensor.to(device)


def _natural(self):
    """What was saved: a PyTorch tensor where PyTorch is there, else a numpy array: what methods that are not ours are looked up in. On the CPU where
    PyTorch knows no GPU."""
    saved = _need_array(self, "looking at it")
    if "torch" not in sys.modules:
        return _as_numpy(self)
    return _as_torch(self, "cpu" if saved.gpu >= 0 and not sys.modules["torch"].cuda.is_available() else None)


def _array(self, dtype=None, copy=None):
    array = _as_numpy(self)
    array = array if dtype is None else array.astype(dtype, copy=False)
    return array.copy() if copy else array


def _shape(self):
    saved = _plan_of(self)
    if saved is not None:
        return saved.load().shape
    text, _ = self._shape()
    return tuple(int(x) if "|" not in x else tuple(int(y) for y in x.split("|")) for x in text.strip("()").replace(" ", "").split(",") if x)


def _dtype(self):
    saved = _plan_of(self)
    if saved is not None:
        saved.load()
        return saved.dtype
    return self._shape()[1]


def _len(self):
    shape = self.shape
    if not shape:
        raise TypeError("len() of a value without dimensions")
    return len(shape[0]) if isinstance(shape[0], tuple) else shape[0]


def _repr(self):
    if _plan_of(self) is not None:
        return repr(_natural(self))
    text, dtype = self._shape()
    return f"<inset.Value {text} {dtype}, recorded: no numbers before its trace has run and unless it is saved>"


def _getattr(self, name):
    if name.startswith("_"):
        raise AttributeError(name)
    if _plan_of(self) is None:
        raise errors.UsageError(f".{name}: a recorded value has no such thing; it has arithmetic (+ - * / @), comparisons, indices, .clone(), .save(), .grad, "
                                f"{', '.join('.' + m + '()' for m in (*FUNCTIONS, 'clamp', *CASTS, *rows.FUNCTIONS, 'topk', 'where', 'transpose', 'detach', *METRICS))}. Save it and compute behind the `with` block")
    return getattr(_natural(self), name)


def _binary(operation, symbol, reflected=False):
    def method(self, other):
        if _plan_of(self) is None:
            return self._arithmetic(operation, other, reflected)
        a, b = _natural(self), _natural(other) if isinstance(other, Value) else other
        a, b = (b, a) if reflected else (a, b)
        if operation == PRODUCT:
            return a @ b
        return a + b if operation == ADD else a - b if operation == SUBTRACT else a * b if operation == MULTIPLY else a / b
    method.__doc__ = f"x {symbol} y"
    return method


def _in_place(operation):
    return lambda self, other: self._update(operation, other)


def _compare(name):
    def method(self, other):
        if _plan_of(self) is None and (isinstance(other, (Value, numbers.Real)) or hasattr(other, "shape")):
            return self._arithmetic(PRODUCT + 1 + COMPARISONS.index(name), other, False)
        _need_array(self, "a comparison with what is no number")
        return getattr(_natural(self), name)(_natural(other) if isinstance(other, Value) else other)
    return method


def _scalar(kind):
    def method(self):
        _need_array(self, f"{kind.__name__}()")
        return kind(_as_numpy(self))
    return method


def _iter(self):
    if _plan_of(self) is not None:
        return iter(_natural(self))
    return (self[i] for i in range(len(self)))


def _metric(name, parameters, doc):
    def method(self, *answers):
        if len(answers) != parameters:
            raise TypeError(f"{name}() takes {parameters} set{'s' if parameters > 1 else ''} of tokens, found {len(answers)}")
        tokens = _tracer(self)._model._answer
        sets = [tokens(a) for a in answers] + [NOTHING, NOTHING]
        return self._metric(METRICS[name], sets[0], sets[1], None)
    method.__name__, method.__doc__ = name, doc
    return method


def _function(name):
    def method(self, *arguments):
        if _plan_of(self) is not None or arguments:
            return getattr(_natural(self), name)(*arguments)
        return self._apply(FUNCTIONS.index(name), name)
    method.__name__, method.__doc__ = name, f"{name} of each element, a new value of the same shape. TypeError."
    return method


def _cast(name):
    def method(self):
        return getattr(_natural(self), name)() if _plan_of(self) is not None else self._cast(CASTS[name], name)
    method.__name__, method.__doc__ = name, f"A copy in {CASTS[name]}."
    return method


def _clamp(self, min=None, max=None):
    """At least min and at most max, numbers; either may be None. TypeError."""
    if _plan_of(self) is not None:
        return _natural(self).clamp(min, max) if "torch" in sys.modules else _natural(self).clip(min, max)
    if min is None and max is None:
        raise errors.ValueError("clamp() needs min or max")
    bounds = [int(b) if isinstance(b, numbers.Integral) else float(b) if isinstance(b, numbers.Real) else b for b in (min, max)]
    if not all(b is None or isinstance(b, (int, float)) for b in bounds):
        raise errors.TypeError("the bounds of clamp() are numbers, or None")
    return self._clamp(*bounds)


def _kl(self, reference):
    """KL(reference's distribution || this row's): how far the row's probabilities are from the reference's. [..] of the row's [.., vocabulary]."""
    return self._metric(METRICS["kl"], NOTHING, NOTHING, reference)


@contextlib.contextmanager
def _backward_block(self):
    tracer = _tracer(self)
    tracer._fill_caches()  # the invoke ends here
    self._backward()
    yield self
    tracer._trace.invoke_end()


def _grad_set(self, source):
    self._gradient()._set_all(source)


def _recorded_function(function, arguments, keywords):
    """torch.relu(x), F.gelu(x, approximate="tanh"), torch.clamp(x, 0, 1) of a value that is being recorded."""
    name, x, rest, keywords = getattr(function, "__name__", ""), arguments[0], arguments[1:], dict(keywords or {})
    made = rows.torch_function(name, arguments, keywords, lambda x: isinstance(x, Value))
    if made is not NotImplemented:
        return made
    keywords.pop("inplace", None)
    if name == "gelu" and keywords.pop("approximate", "none") == "tanh":
        name = "gelu_tanh"
    if isinstance(x, Value) and not rest and not keywords and name in FUNCTIONS + ("clone",):
        return getattr(x, name)()
    if isinstance(x, Value) and name in ("clamp", "clamp_min", "clamp_max", "add", "sub", "mul", "div"):
        plain = {"add": "__add__", "sub": "__sub__", "mul": "__mul__", "div": "__truediv__"}.get(name, name)
        if not keywords or name == "clamp":
            return getattr(x, plain)(*rest, **keywords)
    raise errors.TypeError(f"torch.{name} of a value that is being recorded: the trace language has + - * / @, comparisons, indices, where, topk, "
                           f"transpose, clamp, {', '.join(FUNCTIONS + rows.FUNCTIONS)} and the metrics. Save it and compute behind the `with` block")


def _torch_function(cls, function, types, arguments=(), keywords=None):
    if any(isinstance(x, Value) and _plan_of(x) is None for x in arguments):
        return _recorded_function(function, arguments, keywords)

    def plain(x):
        return _as_torch(x) if isinstance(x, Value) else type(x)(map(plain, x)) if isinstance(x, (list, tuple)) else x
    return function(*map(plain, arguments), **{k: plain(v) for k, v in (keywords or {}).items()})


def _dlpack(self, **options):
    saved = _need_array(self, "DLPack")
    if saved.gpu >= 0:
        return saved.plan.saved_device(saved.name)  # whole already, on whatever stream it is read
    array = saved.load()  # numpy has no bfloat16
    return (arrays.to_torch(array, "bf16") if saved.dtype == "bf16" else array).__dlpack__(**options)


def _dlpack_device(self):
    gpu = _need_array(self, "DLPack").gpu
    return (1, 0) if gpu < 0 else (2, gpu)


Value.__doc__ = """A tensor of the model in a trace. While the trace is recorded it has a shape and a type, indices, arithmetic, metrics and a gradient; saved
(`.save()`) it is an array behind the trace: .numpy(), .torch(), numpy.asarray(x), torch functions, x[..]."""
Value.save = save
Value._named = staticmethod(Saved)
Value._saved = None
Value._tracer = _tracer
Value.numpy, Value.torch = _as_numpy, _as_torch
Value.shape, Value.dtype = property(_shape, doc="Extents; of sequences of different length a tuple of theirs."), property(_dtype, doc="'f32', 'bf16', ...")
Value.ndim = property(lambda self: len(self.shape))
Value._saved_array = lambda self: _need_array(self, "a source").load()
Value.__array__, Value.__dlpack__, Value.__dlpack_device__ = _array, _dlpack, _dlpack_device
Value.__torch_function__ = classmethod(_torch_function)
Value.__len__, Value.__iter__, Value._natural = _len, _iter, _natural
Value.__repr__, Value.__getattr__ = _repr, _getattr
Value.__add__, Value.__radd__, Value.__iadd__ = _binary(ADD, "+"), _binary(ADD, "+", True), _in_place(ADD)
Value.__sub__, Value.__rsub__, Value.__isub__ = _binary(SUBTRACT, "-"), _binary(SUBTRACT, "-", True), _in_place(SUBTRACT)
Value.__mul__, Value.__rmul__, Value.__imul__ = _binary(MULTIPLY, "*"), _binary(MULTIPLY, "*", True), _in_place(MULTIPLY)
Value.__truediv__, Value.__rtruediv__, Value.__itruediv__ = _binary(DIVIDE, "/"), _binary(DIVIDE, "/", True), _in_place(DIVIDE)
Value.__neg__ = lambda self: self._negate() if _plan_of(self) is None else -_natural(self)
Value.__matmul__, Value.__rmatmul__ = _binary(PRODUCT, "@"), _binary(PRODUCT, "@", True)
rows.attach(Value, lambda value: _plan_of(value) is None)
for _name in COMPARISONS:
    setattr(Value, _name, _compare(_name))
Value.__hash__ = object.__hash__
Value.__bool__, Value.__float__, Value.__int__ = _scalar(bool), _scalar(float), _scalar(int)
Value.item = lambda self: _as_numpy(self).item()
Value.clone = lambda self: self._clone() if _plan_of(self) is None else _natural(self).copy() if "torch" not in sys.modules else _natural(self).clone()
Value.grad = property(lambda self: self._gradient(), _grad_set, doc="Inside `with metric.backward():`, the metric's derivative with respect to this value.")
Value.backward = _backward_block
for _name in FUNCTIONS:
    setattr(Value, _name, _function(_name))
for _name in CASTS:
    setattr(Value, _name, _cast(_name))
Value.clamp, Value.__abs__ = _clamp, lambda self: self.abs()
Value.clamp_min = lambda self, min: self.clamp(min=min)
Value.clamp_max = lambda self, max: self.clamp(max=max)
Value.logit_diff = _metric("logit_diff", 2, "The mean logit of the first tokens less that of the second, of each row. Tokens: ids, words, lists of them.")
Value.logit = _metric("logit", 1, "The mean logit of the tokens, of each row.")
Value.probability = _metric("probability", 1, "The tokens' probability together, of each row.")
Value.log_probability = _metric("log_probability", 1, "Its natural logarithm.")
Value.rank = _metric("rank", 1, "How many logits of the row are larger than the largest of these tokens'.")
Value.kl = _kl
