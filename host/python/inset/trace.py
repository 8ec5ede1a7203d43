"""Traces: `with model.trace(...)` records its body, and plans and runs it when the block ends."""
import collections.abc
import fnmatch

from . import _inset, errors

_open = {}  # trace -> its Tracer, while its block is open


def current(value):
    """The tracer of the model whose block is open and that recorded the value; None where its block is over."""
    for tracer in _open.values():
        if tracer._owns(value):
            return tracer
    return None


class Tracer:
    """What `with model.trace(...) as tracer` gives."""

    def __init__(self, model, inputs, run, options):
        self._model, self._inputs, self._run, self._options = model, inputs, run, options
        self._trace, self._saved, self.plan = None, [], None
        self._caches = []  # of the invoke whose block is open

    def __enter__(self):
        self._trace = _inset.Trace.begin(self._model._m)
        _open[id(self)] = self
        try:
            if self._inputs is not None:
                self._begin(self._inputs)
            if self._options.get("checkpoint"):
                self._trace.again(True)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, kind, error, traceback):
        try:
            if kind is None and self._inputs is not None:
                self._fill_caches()
        finally:
            self._close()
        if kind is not None or not self._run:
            return False
        self.plan = self._trace.plan(bool(self._options.get("no_share")), int(self._options.get("memory") or 0), bool(self._options.get("explain")))
        for saved in self._saved:
            saved.plan = self.plan
        return False

    def _close(self):
        _open.pop(id(self), None)
        self._trace.end()

    def _owns(self, value):
        return value._of(self._trace)

    def _begin(self, inputs):
        if isinstance(inputs, _inset.Value) and self._owns(inputs):
            self._trace.invoke_value(inputs)
            return
        kind, given = self._model._input(inputs)
        if kind == "tokens":
            self._trace.invoke_tokens(given)
        else:
            self._trace.invoke_rows(given)

    def invoke(self, inputs):
        """`with tracer.invoke(prompt):` - another input, with records of its own; values of earlier invokes may be used in it. inputs: a text, a list of
        token ids, a list of either (a batch), or rows of numbers for a model that takes them."""
        return Invoke(self, inputs)

    def edit(self):
        """`with tracer.edit():` - lines that every later invoke of this trace repeats, before its own lines at the same place. Values that it makes are
        for its own lines; what it saves, and tracer.stop(), are refused."""
        return Edit(self)

    def clear_edits(self):
        """Later invokes go without the edits so far, the model's too."""
        self._trace.clear_edits()

    def cache(self, modules=None, include_output=True, include_inputs=False):
        """Keeps the outputs (and inputs) of all modules, or of some, of this invoke, as they are when the trace ends: a Cache. modules: Modules, lists of them,
        or paths ("transformer.h.*.mlp"). Modules that do not run are not in it."""
        made = Cache(self._model, modules, include_output, include_inputs)
        self._caches.append(made)
        return made

    def _fill_caches(self):
        for cache in self._caches:
            cache._fill(self)
        self._caches = []

    def stop(self):
        """Ends the invoke here: what comes behind does not run."""
        self._trace.stop()

    def barrier(self, n=None):
        """nnsight's; nothing is to be waited for here."""

        def reached():
            pass
        return reached

    def zeros(self, *shape):
        """Zeros, float32, to be filled by lines of the trace."""
        return self._trace.zeros(list(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else list(shape))

    def tensor(self, array):
        """An array as a value of the trace, copied."""
        return self._trace.external(array)

    def script(self):
        """The lines recorded so far as a trace script, which `inset run -m MODEL` takes; values are called v0, v1, ... Arrays from outside
        have the model's type in it. UsageError: one of more than 4096 numbers, or tracer.tensor()."""
        return self._trace.script()

    @property
    def statistics(self):
        """Rows computed and spared, FLOPs, bytes: of the trace as it was planned when its block ended."""
        if self.plan is None:
            raise errors.UsageError("statistics: the trace is planned when its block ends")
        return self.plan.statistics()


class Invoke:
    """A `with tracer.invoke(...)` block."""

    def __init__(self, tracer, inputs):
        self._tracer, self._inputs = tracer, inputs

    def __enter__(self):
        self._tracer._begin(self._inputs)
        return self._tracer

    def __exit__(self, kind, error, traceback):
        if kind is None:
            self._tracer._fill_caches()
            self._tracer._trace.invoke_end()
        return False


class Edit:
    """A `with tracer.edit():` block."""

    def __init__(self, tracer):
        self._tracer = tracer

    def __enter__(self):
        self._tracer._trace.edit()
        return self._tracer

    def __exit__(self, kind, error, traceback):
        if kind is None:
            self._tracer._trace.invoke_end()
        return False


class ModelEdit(Tracer):
    """A `with model.edit():` block; what it gives is the model."""

    def __init__(self, model):
        super().__init__(model, None, False, {})

    def __enter__(self):
        self._trace = _inset.Trace.begin_model_edit(self._model._m)
        _open[id(self)] = self
        return self._model

    def __exit__(self, kind, error, traceback):
        try:
            if kind is None:
                self._trace.end_model_edit()
        finally:
            self._close()
        return False


class Cached:
    """What a module had: `.output`, `.input` (`.inputs`), as arrays behind the trace."""

    def __repr__(self):
        return f"<{', '.join(f'{n} {tuple(x.shape)}' for n, x in vars(self).items())}>"


class Cache(collections.abc.Mapping):
    """{module path: Cached}, in execution order, filled when its invoke ends: cache["transformer.h.5.mlp"].output."""

    def __init__(self, model, modules, output, inputs):
        self._wanted = ["*"] if modules is None else _paths(modules)
        self._names = [name for name, there in (("input", inputs), ("output", output)) if there]
        self._sites = model._m.sites()
        self._modules = {}
        if modules is not None:
            for pattern in self._wanted:
                if not any(fnmatch.fnmatchcase(module, pattern) for module, *_ in self._sites):
                    raise errors.UnknownSiteError(f"cache(): no module of the model is called '{pattern}'")

    def _fill(self, tracer):
        for number, (module, name, *_) in enumerate(self._sites):
            if name not in self._names or not module or not any(fnmatch.fnmatchcase(module, p) for p in self._wanted):
                continue
            saved = tracer._trace.save_site(number)
            if saved is not None:
                value = saved[1]
                value._saved = value._named(saved[0], tracer._model._m.gpu)
                tracer._saved.append(value._saved)
                kept = self._modules.setdefault(module, Cached())
                setattr(kept, name, value)
                if name == "input":
                    kept.inputs = value

    def __getitem__(self, path):
        path = path.removeprefix("model.") if path not in self._modules else path
        if path not in self._modules:
            raise KeyError(path)
        return self._modules[path]

    def __iter__(self):
        return iter(self._modules)

    def __len__(self):
        return len(self._modules)

    def __repr__(self):
        return f"<inset.Cache of {len(self)} modules>"


def _paths(modules):
    """Patterns of paths from Modules, lists of them, and texts ("h[3]" as "h.3")."""
    if isinstance(modules, str):
        return [modules.replace("[", ".").replace("]", "").removeprefix("model.") if "[" in modules else modules]
    if isinstance(modules, _inset.Module):
        return [modules._path]
    return [path for one in modules for path in _paths(one)]
