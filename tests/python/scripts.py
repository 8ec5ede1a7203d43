"""Trace scripts as Python: their lines are Python's, so a fixture's script is run by exec in a trace of the package, and what it saves is held against
what nnsight and transformers made of it (tests/make_fixtures.py)."""
import json
import pathlib
import re
import struct

import numpy

import inset
from inset import Module, ModuleList

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "fixtures"
TYPES = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}


def read(path):
    """{name: array} of a safetensors file; bfloat16 as float32."""
    raw = pathlib.Path(path).read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + length])
    header.pop("__metadata__", None)
    out = {}
    for name, h in header.items():
        begin, end = h["data_offsets"]
        x = numpy.frombuffer(raw[8 + length + begin:8 + length + end], dtype=TYPES[h["dtype"]])
        out[name] = ((x.astype(numpy.uint32) << 16).view(numpy.float32) if h["dtype"] == "BF16" else x).reshape(h["shape"])
    return out


def python_of(script):
    """transformer.h.5 is transformer.h[5], a list has no save(), and a matrix that is written is a tensor."""
    script = re.sub(r"^(\s+\w+ = )(\[\[.*\.\d.*\]\])$", r"\1tracer.tensor(float32(\2))", script, flags=re.MULTILINE)
    script = re.sub(r"^(\s*)(\w+)\.save\(\)", r"\1\2 = save(\2)", script, flags=re.MULTILINE)
    return re.sub(r"(?<=[A-Za-z_\]])\.(\d+)(?=[.\s\[(]|$)", r"[\1]", script, flags=re.MULTILINE)


tracers = []  # the one that runs


def function(name):
    """relu(x) as x.relu(); lists of numbers are float32 then."""
    return lambda x, *bounds, **named: getattr(x if isinstance(x, inset.Value) else tracers[0].tensor(numpy.float32(x)), name)(*bounds, **named)


def run(model, script, folder, name="script", **options):
    """The names of the script after it has run."""
    names = {n: function(n) for n in ("exp", "log", "sqrt", "abs", "relu", "sigmoid", "tanh", "gelu", "gelu_tanh", "silu", "clamp", "clamp_min", "clamp_max", "sum",
                                         "mean", "amax", "amin", "norm", "argmax", "softmax", "log_softmax", "topk")}
    names.update(where=lambda condition, a, b: condition._where(a, b), float32=numpy.float32)
    names.update({n: x for n, x in vars(model).items() if isinstance(x, (Module, ModuleList))})
    code = compile(python_of(script), name, "exec")
    with model.trace(**options) as tracer:
        tracers[:] = [tracer]
        names.update(tracer=tracer, invoke=tracer.invoke, edit=tracer.edit, clear_edits=tracer.clear_edits, save=inset.save, zeros=tracer.zeros, stop=tracer.stop,
                     load=lambda file, key=None: tracer.tensor(read(folder / file)[key] if key else numpy.load(folder / file)))
        exec(code, names)
    return names


def saved(x):
    """A name's numbers; a list's, stacked."""
    return numpy.stack([saved(one) for one in x]) if isinstance(x, list) else numpy.asarray(x.numpy(), dtype=numpy.float64)


def distance(got, want):
    """Relative error of a whole tensor; infinities must be in the same places."""
    got, want = numpy.asarray(got, dtype=numpy.float64), numpy.asarray(want, dtype=numpy.float64)
    assert got.shape == want.shape, f"shape {got.shape}, expected {want.shape}"
    there = numpy.abs(want) < 1e30
    assert (there == (numpy.abs(got) < 1e30)).all(), "infinities or NaN where none are expected"
    norm = numpy.linalg.norm(want[there])
    return numpy.linalg.norm(got[there] - want[there]) / (norm if norm else 1)


def random_scripts(folder, which="random"):
    """(name, errors, line, text) of random.cases, or edits.cases."""
    text = (folder / f"{which}.cases").read_text()
    for part in re.split(r"^--- ", text, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        words = head.split()
        yield words[0], words[1].split("|") if len(words) > 1 else [], int(words[2]) if len(words) > 2 else 0, body
