"""A model: its modules as attributes, whose sites traces read and set."""
import contextlib
import os
import pathlib
import sys

import numpy

from . import _inset, errors
from .cache import Caching
from .sweep import Sweeping
from .text import Text
from .trace import ModelEdit, Tracer

_classes = {}


def _module_class(sites, children, numbered):
    """A class with a property a site, so that they are completed and misspelt ones are refused. A child of a site's name takes its place (gpt-oss's
    router); numbered: the children are a list, too."""
    key = tuple(sites), frozenset(children) & {name for name, _ in sites}, numbered
    if key not in _classes:
        def site(which, name, shape):
            return property(lambda self: self._get(which), lambda self, source: self._set(which, source), doc=f"{name} {list(shape)}")
        members = {name: site(which, name, shape) for which, (name, shape) in enumerate(sites) if name not in children}
        if "input" in members:
            members["inputs"] = members["input"]
        _classes[key] = type("Module", (NumberedModule if numbered else Module,), members)
    return _classes[key]


class Module(_inset.Module):
    """A module of the model: `.output`, `.input` and whatever else it shows, its children as attributes. Norms, linear layers and MLPs can be applied to
    values of a trace, [.., in] -> [.., out]: `model.lm_head(model.transformer.ln_f(x))`."""

    def skip(self, output):
        """The module does not run; its output is this."""
        self._skip(output)

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        if name in ("weight", "bias") and self._path:
            return self._weight(name)
        here = self._path or "the model"
        there = sorted(set(n for n in dir(self) if not n.startswith("_")) - {"skip"})
        import difflib
        near = difflib.get_close_matches(name, there, 3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise errors.UnknownSiteError(f"{here} has no '{name}': {hint}there is {', '.join(there)}")

    def __setattr__(self, name, source):
        if name.startswith("_") or isinstance(source, (Module, ModuleList)) or isinstance(getattr(type(self), name, None), property):
            object.__setattr__(self, name, source)
        else:
            self.__getattr__(name)

    def __repr__(self):
        return f"<{self._path or 'model'}: {', '.join(n for n in dir(self) if not n.startswith('_') and n != 'skip')}>"


class NumberedModule(Module):
    """A module with numbered modules in it: a layer's experts."""

    def __getitem__(self, index):
        return self._list[index]

    def __len__(self):
        return len(self._list)

    def __iter__(self):
        return iter(self._list)

    def __bool__(self):
        return True


class ModuleList(list):
    """Numbered modules, such as a model's blocks."""

    def __repr__(self):
        return f"<{len(self)} modules>"


def _child_name(path):
    """A child called as what every module has (BERT's `output`) is `E_output`, as in nnsight."""
    name = path.rpartition(".")[2]
    return f"E_{name}" if name in ("input", "output") and "." in path else name


def _tree(m):
    """The root's children by name."""
    sites = {}
    numbers = {}
    for number, (module, name, path, _, _, _, shape) in enumerate(m.sites()):
        if not module:
            module, name = path.rsplit(".", 1)  # the root's logits, output.logits
        sites.setdefault(module, []).append((name, shape))
        numbers.setdefault(module, []).append(number)
    nodes, root = {}, {}
    for path in sites:
        parts = path.split(".")
        for n in range(1, len(parts) + 1):
            nodes.setdefault(".".join(parts[:n]), None)
    numbered = {path.rsplit(".", 1)[0] for path in nodes if path.rsplit(".", 1)[-1].isdigit()}
    children = {}
    for path in nodes:
        children.setdefault(path.rpartition(".")[0], set()).add(_child_name(path))
    for path in nodes:
        own = sites.get(path, ())
        is_list = path in numbered
        nodes[path] = ModuleList() if is_list and not own else _module_class(own, children.get(path, ()), is_list)(m, path, numbers.get(path, []))
        if is_list and own:
            object.__setattr__(nodes[path], "_list", ModuleList())
    for path, node in nodes.items():
        parent, name = path.rpartition(".")[0], _child_name(path)
        if parent in numbered:
            getattr(nodes[parent], "_list", nodes[parent]).append(node)
        elif parent:
            setattr(nodes[parent], name, node)
        else:
            root[name] = node
    return root


def _directory(source):
    """A folder with config.json: given, or of a name in the local Hugging Face cache."""
    if os.path.exists(os.path.join(source, "config.json")):
        return str(source)
    cache = pathlib.Path(os.environ.get("HF_HUB_CACHE") or pathlib.Path(os.environ.get("HF_HOME", "~/.cache/huggingface"), "hub")).expanduser()
    snapshots = sorted(cache.glob(f"models--{str(source).replace('/', '--')}/snapshots/*/config.json"), key=os.path.getmtime)
    if snapshots:
        return str(snapshots[-1].parent)
    if os.path.exists(source):
        return str(source)
    raise errors.FileError(f"'{source}' is neither a folder with a config.json nor a model in {cache}; nothing is downloaded")


def _find_cuda(device):
    """CUDA's libraries may be pip's (nvidia-cublas-..., nvidia-cudnn-...), in folders where the loader does not look: names them to the device."""
    if device == "cpu" or "INSET_CUDA_LIBRARIES" in os.environ:
        return
    folders = [str(f) for place in sys.path for f in sorted(pathlib.Path(place or ".").glob("nvidia/*/lib"))]
    if folders:
        os.environ["INSET_CUDA_LIBRARIES"] = ":".join(dict.fromkeys(folders))


def _is_float_rows(x):
    """A tensor of PyTorch's that can be read as it is."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor) and x.dtype == torch.float32 and x.ndim == 2 and not x.requires_grad


def _in_memory(model, device):
    """(config, {name: tensor}, device) of a transformers model: its own tensors, which stay where they are. On a GPU the model runs there too, unless the
    caller wants another device, to which the tensors are then copied by way of the CPU."""
    if not hasattr(getattr(model, "config", None), "to_json_string"):
        raise errors.TypeError(f"{type(model).__name__} has weights and no config: a transformers model, or a folder with its config.json, was expected")
    tensors = {name: x.detach().contiguous() for name, x in model.state_dict().items()}
    gpus = {x.device.index for x in tensors.values() if x.device.type == "cuda"}
    if len(gpus) == 1 and device in (None, "auto", "cuda", f"cuda:{next(iter(gpus))}"):
        return model.config.to_json_string(use_diff=False), tensors, f"cuda:{gpus.pop()}"
    if any(x.device.type == "meta" for x in tensors.values()):
        raise errors.ValueError("the model has tensors without numbers (on the meta device): load it whole")
    return model.config.to_json_string(use_diff=False), {name: x.cpu() for name, x in tensors.items()}, device


class Model(Sweeping, Caching):
    """A model that traces run on.

    source: a folder in Hugging Face's form, a file in GGUF's (model.gguf), the name of a model in the local Hugging Face cache, or a transformers model in memory, whose own tensors are
    read, on the CPU or on a GPU, where matrices are not even copied if they lie as they are used: leave them unchanged while this model is there.
    device: None (a GPU where one answers, else the CPU), "cpu", "cuda", "cuda:1". dtype: "f32", "bf16", "f16"; None: the file's. fast: the fastest way
    even where a row's last bits then depend on what is computed beside it. ungroup: a copy of shared keys and values for each query head.
    weight_memory: most bytes that the weights may take on the device; layers beyond it are brought when a run comes to them. 0: what there is.
    tokenizer: a `tokenizers.Tokenizer`, a path to a tokenizer.json, or None: the folder's.
    Raises FileError, DeviceError, UsageError, MemoryError.
    """

    def __init__(self, source, *, device=None, dtype=None, fast=False, ungroup=False, weight_memory=0, tokenizer=None):
        _find_cuda(device)
        if hasattr(source, "state_dict"):
            config, tensors, device = _in_memory(source, device)
            self._m = _inset.Model.from_tensors(config, tensors, device, dtype, fast, ungroup, weight_memory)
            self.text = Text(self._m, None, tokenizer)
            self._folder = None
        else:
            folder = self._folder = _directory(source)
            self._m = _inset.Model.open(folder, device, dtype, fast, ungroup, weight_memory)
            self.text = Text(self._m, folder, tokenizer)
        self._takes_rows = not any(integer for _, _, _, _, _, integer, _ in self._m.sites())
        self._name = str(getattr(source, "name_or_path", "") or source)
        for name, node in _tree(self._m).items():
            if hasattr(type(self), name):
                name += "_"
            setattr(self, name, node)

    device = property(lambda self: self._m.device, doc="What runs it.")
    kind = property(lambda self: self._m.kind, doc="Its family: config.json's model_type.")
    dtype = property(lambda self: self._m.dtype, doc="The type of its numbers.")

    @property
    def sites(self):
        """Paths of all that can be read or set, in execution order, with their shapes: {"transformer.h.0.output": ("batch", "position", 768)}."""
        return {path: shape for _, _, path, _, _, _, shape in self._m.sites()}

    def trace(self, inputs=None, *, memory=0, no_share=False, explain=False, checkpoint=False):
        """`with model.trace(prompt) as tracer:` - the body's lines are recorded, and run as one program when the block ends. Without a prompt the body holds
        `with tracer.invoke(prompt):` blocks. What is saved in it is an array behind it.

        memory: bytes of device memory beside the weights that a run may take. explain: tracer.plan.explanation() is the plan in words. checkpoint: gradients in less memory, blocks are run again for them.
        """
        return Tracer(self, inputs, True, {"memory": memory, "no_share": no_share, "explain": explain, "checkpoint": checkpoint})

    def scan(self, inputs=None):
        """As trace, but nothing is run: everything is checked, and values have shapes and types."""
        return Tracer(self, inputs, False, {})

    def edit(self, *, inplace=True):
        """`with model.edit():` - lines that every later trace of the model repeats in each of its invokes, before the invoke's own lines at the same place,
        until model.clear_edits(). What depends on shapes is checked in the invoke. Values that it makes are for its own lines; arrays are copied. Sweeps,
        attribution and circuits refuse a model with edits. inplace: nnsight's; False, an edited copy, is refused (UsageError)."""
        if not inplace:
            raise errors.UsageError("edit(inplace=False): there are no edited copies of a model; an edit is the model's own, until model.clear_edits()")
        return ModelEdit(self)

    def clear_edits(self):
        """Later traces are without edits."""
        self._m.clear_edits()

    @property
    def edits(self):
        """What the edits do, the oldest first: ["sets transformer.h.1.output"]."""
        return self._m.edits().splitlines()

    @contextlib.contextmanager
    def session(self):
        """nnsight's: traces in it may use what earlier ones saved, as they may without it, since a trace runs when its block ends."""
        yield self

    @contextlib.contextmanager
    def watch(self, progress):
        """`with model.watch(f):` - f(doing, done, total) is called about ten times a second while the model plans or runs; doing is "planning" or "running".
        An exception that it raises stops the call and comes out of it. (Ctrl-C does without.)"""
        before, self._m.on_progress = self._m.on_progress, progress
        try:
            yield
        finally:
            self._m.on_progress = before

    def tokens(self, text):
        """(ids, pieces) of a text, as the model's prompts get them."""
        ids = self.text.ids(text)
        return ids, [self.text.piece(i) for i in ids]

    def _answer(self, answer):
        return self.text.answer(answer)

    def _input(self, inputs):
        """("tokens", lists of ids) or ("rows", numbers)."""
        if self._takes_rows and not isinstance(inputs, str):
            if isinstance(inputs, numpy.ndarray) and inputs.ndim == 2 and inputs.dtype.char == "f" or _is_float_rows(inputs):
                return "rows", inputs
            numbers = numpy.asarray(inputs.detach().cpu() if hasattr(inputs, "detach") else inputs, dtype=numpy.float32, order="C")
            return "rows", numbers if numbers.ndim == 2 else numpy.atleast_2d(numbers)
        if isinstance(inputs, str):
            return "tokens", [self.text.ids(inputs)]
        if isinstance(inputs, (list, tuple)) and inputs and all(isinstance(x, str) for x in inputs):
            return "tokens", [self.text.ids(x) for x in inputs]
        if isinstance(inputs, (list, tuple)) and inputs and all(isinstance(x, (list, tuple)) for x in inputs) \
                and all(isinstance(y, int) for x in inputs for y in x):
            return "tokens", [list(x) for x in inputs]
        if isinstance(inputs, dict) or hasattr(inputs, "input_ids"):
            ids, mask = (numpy.asarray(inputs[k]) if k in inputs else None for k in ("input_ids", "attention_mask"))
            return "tokens", [row[m.astype(bool)].tolist() for row, m in zip(ids, numpy.ones_like(ids) if mask is None else mask)]
        array = numpy.asarray(inputs.detach().cpu() if hasattr(inputs, "detach") else inputs)
        if array.dtype.kind in "iu" and array.ndim in (1, 2):
            return "tokens", numpy.atleast_2d(array).tolist()
        raise errors.TypeError(f"an input is a text, a list of token ids, or a list of either; found {type(inputs).__name__}")

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        there = [n for n, x in vars(self).items() if isinstance(x, (Module, ModuleList))]
        raise errors.UnknownSiteError(f"the model has no '{name}': there is {', '.join(there)}")

    def __repr__(self):
        return f"<inset.Model {self._name}: {self.kind}, {self.dtype}, on {self.device}>"
