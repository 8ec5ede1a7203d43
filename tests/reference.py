"""What a trace script means, the slow way: a small interpreter that runs it on the real PyTorch model.

One invoke runs after the other. The script's lines are a coroutine; the model's modules are wrapped so that each input and output
is an event; at an event the coroutine goes on as long as it asks for that very site. A name is a PyTorch tensor, an index makes
PyTorch's view, an in-place set is PyTorch's, so aliasing is not modelled here, it happens. Nothing is shared, ordered or planned.

Used by make_fixtures.py for expected values. It shares no code and no idea with the library, on purpose. What it does not serve
(some mixtures of ragged and plain tensors) raises Unsupported, and random scripts that need it are dropped.
"""
import ast
import copy
import operator
import re

import torch

import row_operations
from experts import Expert, Experts, open_experts
from named_sites import NamedSites, flat, is_norm, norm_with_scale

FUNCTIONS = {"exp": torch.exp, "log": torch.log, "sqrt": torch.sqrt, "abs": torch.abs, "relu": torch.relu, "sigmoid": torch.sigmoid,
             "tanh": torch.tanh, "gelu": torch.nn.functional.gelu, "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
             "silu": torch.nn.functional.silu, "clamp": torch.clamp, "clamp_min": torch.clamp_min, "clamp_max": torch.clamp_max,
             "float": lambda x: x.float(), "half": lambda x: x.half(), "bfloat16": lambda x: x.bfloat16()}
METHODS = ("clone", "kl", "logit_diff", "logit", "probability", "log_probability", "rank", "save", "append", "skip", *FUNCTIONS,
           *row_operations.NAMES)
NAMED = ("q", "k", "v", "rot_q", "rot_k", "scores", "pattern", "z", "pre", "up", "post", "scale", "attn_out", "mlp_out")


class ScriptError(Exception):
    def __init__(self, name, message, line=0):
        super().__init__(f"{name}: {message}")
        self.name, self.line = name, line


class Unsupported(Exception):
    """The reference cannot tell; says nothing about the script."""


class Stop(Exception):
    """Ends a forward early: nobody asks for anything any more."""


class Literal:
    """Nested lists of numbers: take the type of the tensor they meet."""
    def __init__(self, tensor):
        self.tensor = tensor


class Ragged:
    """Sequences of different lengths: a list of tensors [positions, ...], views of the padded `base` when there is one. Positions are the
    dimension `axis` of a part: 1 in scores and patterns, [head, query, key], whose keys are padded to the longest."""
    def __init__(self, parts, base=None, axis=0):
        self.parts, self.base, self.axis = parts, base, axis

    @staticmethod
    def of(base, lengths, axis=0):
        return Ragged([base[i].narrow(axis, 0, n) for i, n in enumerate(lengths)], base, axis)

    @property
    def lengths(self):
        return [p.shape[self.axis] if p.dim() > self.axis else 1 for p in self.parts]

    def fresh(self, tensors):
        """New tensors of the same ragged shape, in one padded base, so that they can take a slot's place."""
        if not tensors[0].dim():
            return Ragged(list(tensors))
        lengths, shape = [t.shape[self.axis] for t in tensors], list(tensors[0].shape)
        shape[self.axis] = max(lengths)
        base = tensors[0].new_zeros([len(tensors)] + shape)
        for i, t in enumerate(tensors):
            base[i].narrow(self.axis, 0, lengths[i]).copy_(t)
        return Ragged.of(base, lengths, self.axis)

    def dense(self):
        return self.fresh(self.parts).base if self.parts[0].dim() else torch.stack(self.parts)

    def beside(self, other):
        """`other`, one piece for each sequence."""
        n = len(self.parts)
        if isinstance(other, Ragged) and other.parts[0].dim() < self.parts[0].dim():
            other = plain(other)                         # dimensions meet from the last one on
        behind = self.parts[0].dim() - self.axis         # positions are this dimension from the last on
        if isinstance(other, Ragged):
            if other.parts[0].dim() - other.axis != behind or other.axis != self.axis:
                raise Unsupported
            if len(other.parts) == 1:
                return other.parts * n
            if len(other.parts) != n:
                raise ScriptError("ShapeError", "numbers of sequences differ")
            return other.parts
        if not isinstance(other, torch.Tensor):
            return [other] * n
        rank = self.parts[0].dim() + 1
        if other.dim() > rank:
            raise Unsupported
        along = other.shape[other.dim() - behind] if 0 < behind <= other.dim() else 1
        if other.dim() < rank:
            if along > 1 and len(set(self.lengths)) > 1:
                raise Unsupported
            return [other] * n
        if other.shape[0] not in (1, n):
            raise ScriptError("ShapeError", "numbers of sequences differ")
        pieces = [other[i if other.shape[0] > 1 else 0] for i in range(n)]
        if along > 1 and len(set(self.lengths)) > 1:
            if along != max(self.lengths) or other.shape[0] == 1:
                raise Unsupported
            pieces = [p.narrow(self.axis, 0, m) for p, m in zip(pieces, self.lengths)]
        return pieces

    def index(self, items):
        rank = self.parts[0].dim() + 1
        items = list(items)
        named = len(items) - items.count(None)
        if Ellipsis in items:
            at = items.index(Ellipsis)
            items[at:at + 1] = [slice(None)] * (rank - named + 1)
            named = rank
        if None in items:
            if any(isinstance(i, list) for i in items):
                raise ScriptError("IndexError", "None beside a list")
            if items[0] is None:
                if len(set(self.lengths)) == 1 or any(isinstance(i, int) for i in items):
                    raise Unsupported
                raise ScriptError("ShapeError", "None before prompts of different lengths")
        if named > rank:
            raise ScriptError("IndexError", "too many indices")
        first, rest = items[0], tuple(items[1:])
        if isinstance(first, int):
            return self.parts[first][rest]
        if isinstance(first, slice):
            parts = [p[rest] for p in self.parts[first]]
            whole = all(i == slice(None) for i in items) and self.base is not None
            if self.axis and any(isinstance(i, list) for i in rest):
                raise Unsupported
            old = [i for i in rest if i is not None]
            gone = len(old) > self.axis and isinstance(old[self.axis], int)
            before, at = 0, 0                              # what stands before the positions, None too
            while before < len(rest) and (at < self.axis or rest[before] is None):
                at += rest[before] is not None
                before += 1
            axis = 0 if gone else self.axis + sum((i is None) - isinstance(i, int) for i in rest[:before])
            return Ragged(parts, self.base if whole else None, axis)
        if rest and not isinstance(rest[0], slice):
            if self.axis and (len(rest) <= self.axis or isinstance(rest[self.axis], slice)):
                raise Unsupported
            n = max(len(i) for i in items if isinstance(i, list))
            pick = lambda i, k: i[k % len(i)] if isinstance(i, list) else i
            return torch.stack([self.parts[pick(first, k)][tuple(pick(i, k) for i in rest)] for k in range(n)])
        return self.fresh([self.parts[b] for b in first]).index([slice(None), *rest])


# ---- the operations of a script on tensors ------------------------------------------------------------------------------------------

COMPARISONS = {ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge}
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
IN_PLACE = {ast.Add: operator.iadd, ast.Sub: operator.isub, ast.Mult: operator.imul, ast.Div: operator.itruediv}


def torch_errors(function):
    """PyTorch's complaints, as the script language names them."""
    def guarded(*args):
        try:
            return function(*args)
        except IndexError as e:
            raise ScriptError("IndexError", str(e))
        except TypeError as e:
            raise ScriptError("TypeError", str(e))
        except RuntimeError as e:
            text = str(e)
            if "can't be cast" in text or "not supported" in text:
                raise ScriptError("TypeError", text)
            raise ScriptError("ShapeError", text)
        except ValueError as e:
            raise ScriptError("ValueError", str(e))
    return guarded


def meet(literal, other):
    """A literal beside a tensor takes its type."""
    if not isinstance(literal, Literal):
        return literal
    dtype = other.parts[0].dtype if isinstance(other, Ragged) else other.dtype
    return literal.tensor.to(dtype)


@torch_errors
def binary(op, a, b):
    if isinstance(a, Literal) or isinstance(b, Literal):
        if not isinstance(a, (torch.Tensor, Ragged)) and not isinstance(b, (torch.Tensor, Ragged)):
            plain = lambda x: x.tensor if isinstance(x, Literal) else x
            return Literal(op(plain(a), plain(b)))
        a, b = meet(a, b), meet(b, a)
    if isinstance(a, Ragged):
        return a.fresh([op(x, y) for x, y in zip(a.parts, a.beside(b))])
    if isinstance(b, Ragged):
        return b.fresh([op(x, y) for x, y in zip(b.beside(a), b.parts)])
    return op(a, b)


def check_items(value, items):
    """Lists and integers side by side only; lists in range also where an empty slice beside them leaves PyTorch nothing to check."""
    shape = getattr(value, "shape", None)
    if shape is not None and len(items) <= len(shape) and None not in items:
        behind = items.index(Ellipsis) if Ellipsis in items else len(items)
        for i, item in enumerate(items):
            n = shape[i if i <= behind else i - len(items)]
            if isinstance(item, list) and not all(-n <= k < n for k in item):
                raise ScriptError("IndexError", f"{item} for a dimension of {n}")
    places = [i for i, item in enumerate(items) if isinstance(item, (list, int)) and not isinstance(item, bool)]
    if any(isinstance(i, list) for i in items) and places and places[-1] - places[0] + 1 != len(places):
        raise ScriptError("IndexError", "lists and integers separated by a slice")


@torch_errors
def index(value, items):
    check_items(value, items)
    if isinstance(value, list):
        if len(items) != 1 or not isinstance(items[0], int):
            raise ScriptError("IndexError", "a list takes one integer")
        return value[items[0]]
    if isinstance(value, Ragged):
        return value.index(items)
    if isinstance(value, Literal):
        return Literal(value.tensor[tuple(items)])
    return value[tuple(items)]


@torch_errors
def assign(target, items, value):
    """target[items] = value"""
    check_items(target, items)
    if isinstance(target, Ragged):
        if any(isinstance(i, list) for i in items):
            if not isinstance(items[0], list) or len(items) < 2 or isinstance(items[1], slice):
                raise Unsupported
            n = max(len(i) for i in items if isinstance(i, list))
            pick = lambda i, k: i[k % len(i)] if isinstance(i, list) else i
            where = torch.stack([target.parts[pick(items[0], k)][tuple(pick(i, k) for i in items[1:])] for k in range(n)])
            source = settle(value, where)
            source = source.expand(where.shape) if isinstance(source, torch.Tensor) else [source] * n
            for k in range(n):
                target.parts[pick(items[0], k)][tuple(pick(i, k) for i in items[1:])] = source[k]
            return
        where = target.index(items)
        if isinstance(where, Ragged):
            source = [settle(s, w) for s, w in zip(where.beside(value if not isinstance(value, Literal) else meet(value, where)),
                                                   where.parts)]
            for part, s in zip(where.parts, source):
                part[...] = s
        else:
            where[...] = settle(value, where)
        return
    value = plain(value)
    where = target[tuple(items)]
    target[tuple(items)] = settle(value, where)


def plain(value):
    """A source for a target whose sequences are of one length."""
    if not isinstance(value, Ragged):
        return value
    if len(set(value.lengths)) > 1:
        raise ScriptError("ShapeError", "a ragged source")
    return value.dense()


def settle(value, where):
    """A source as the target takes it: read in full before anything is written, in the target's type."""
    if isinstance(value, Literal):
        value = value.tensor
    return value.to(where.dtype).clone() if isinstance(value, torch.Tensor) else value


@torch_errors
def in_place(op, target, items, value):
    """target[items] op= value; items may be None"""
    if items is None:
        if isinstance(target, Ragged):
            pieces = target.beside(meet(value, target))
            pieces = [v.clone() if isinstance(v, torch.Tensor) else v for v in pieces]      # all is read before anything is written
            for part, v in zip(target.parts, pieces):
                op(part, v)
        else:
            value = meet(plain(value), target)
            op(target, value.clone() if isinstance(value, torch.Tensor) else value)
        return
    old = index(target, items)
    new = old.fresh([p.clone() for p in old.parts]) if isinstance(old, Ragged) else old.clone()
    in_place(op, new, None, value)
    assign(target, items, new)


def metric(name, row, tokens, reference=None):
    """A number a row of logits, [..., n] -> [...], in double from the logits as they are."""
    x = row.double()
    p = torch.softmax(x, -1)
    if name == "logit":
        made = x[..., tokens[0]].mean(-1)
    elif name == "logit_diff":
        made = x[..., tokens[0]].mean(-1) - x[..., tokens[1]].mean(-1)
    elif name == "probability":
        made = p[..., tokens[0]].sum(-1)
    elif name == "log_probability":
        made = torch.logsumexp(torch.log_softmax(x, -1)[..., tokens[0]], -1)
    elif name == "rank":
        made = (x > x[..., tokens[0]].amax(-1, keepdim=True)).sum(-1)
    else:
        q, p = torch.log_softmax(x, -1), torch.log_softmax(reference.double(), -1)
        made = torch.nn.functional.kl_div(q, p.expand(q.shape), log_target=True, reduction="none").sum(-1)
    return made.float()


@torch_errors
def function_of(name, value, bounds):
    if isinstance(value, (int, float)):
        raise ScriptError("TypeError", "a function of a number")
    if isinstance(value, Literal):
        value = value.tensor.float()
    f = lambda x: FUNCTIONS[name](x if x.is_floating_point() or name not in ("gelu", "gelu_tanh", "silu") else x.float(), *bounds)
    if isinstance(value, Ragged):
        return value.fresh([f(p) for p in value.parts])
    made = f(value)
    return made.clone() if made is value else made          # .float() of a float


@torch_errors
def metric_of(name, value, tokens, reference=None):
    if not isinstance(value, Ragged):
        return metric(name, value, tokens, plain(reference))
    references = value.beside(reference) if reference is not None else [None] * len(value.parts)
    return value.fresh([metric(name, p, tokens, r) for p, r in zip(value.parts, references)])


ROWS = row_operations.Rows(ScriptError, Ragged, Unsupported)


def as_tensor(value):
    return value.tensor.float() if isinstance(value, Literal) and value.tensor.is_floating_point() else \
        value.tensor if isinstance(value, Literal) else value


@torch_errors
def rows_of(name, value, dims, keep, k):
    return ROWS.function(name, as_tensor(value), dims, keep, k)


@torch_errors
def where_of(condition, a, b):
    typed = next((x for x in (a, b) if isinstance(x, (torch.Tensor, Ragged))), None)
    dress = lambda x: meet(x, typed) if typed is not None else as_tensor(x)
    return ROWS.where(condition, dress(a), dress(b))


@torch_errors
def product_of(a, b):
    if isinstance(a, Literal) and isinstance(b, Literal):
        return ROWS.product(a.tensor.float(), b.tensor.float())
    return ROWS.product(meet(a, b) if isinstance(a, Literal) else a, meet(b, a) if isinstance(b, Literal) else b)


def clone(value):
    return value.fresh([p.clone() for p in value.parts]) if isinstance(value, Ragged) else value.clone()


# ---- models ---------------------------------------------------------------------------------------------------------------------------

class Runner:
    """A model whose modules report their inputs and outputs to self.driver while it runs."""
    def __init__(self, model, sequential):
        self.model, self.sequential, self.driver = model, sequential, None
        self.ids = []                                    # token ids and positions handed to a script: not to be changed
        open_experts(model, lambda path, site, x: self.driver.event((path, site), x) if self.driver else x)
        self.modules = dict(model.named_modules())
        self.named = None if sequential else NamedSites(self)
        # Gemma 3's norms of q and k have heads before positions: no sites
        behind = ("q_norm", "k_norm") if not sequential and model.config.model_type == "gemma3_text" else ()
        # GPT-Neo's dropout of patterns, and Phi's of residuals, which is called twice
        # and OPT's embeddings of positions, which are given no tensor but a mask, and BERT's of token types, given zeros that nobody passed
        kind = None if sequential else model.config.model_type
        no_sites = (".attn_dropout", ".resid_dropout") if kind == "phi" else (".attn_dropout", ".embed_positions", ".token_type_embeddings")
        for path, module in self.modules.items():
            if (path.endswith(behind) and behind) or path.endswith(no_sites):
                continue
            if path and (isinstance(module, Experts) or not isinstance(module, (torch.nn.ModuleList, Expert))) and path not in ("transformer", "model", "gpt_neox", "model.decoder", "bert", "bert.encoder") and not path.endswith("rotary_emb"):
                self.wrap(path, module)
        self.sites, self.shapes = [], {}
        self.learn_sites()

    def wrap(self, path, module):
        forward = module.forward

        def wrapped(*args, **kwargs):
            for first in ("hidden_states", "input_ids"):
                if not args and first in kwargs:
                    args = (kwargs.pop(first),)
            if not (args and isinstance(args[0], torch.Tensor)) or self.driver is None:
                return forward(*args, **kwargs)          # a module without a tensor has no sites
            named = self.named
            x, others = self.driver.group((path, "input"), args[0], named.beside_input(path) if named else [])
            for value in others.values():
                x = flat(value, x)
            skipped = self.driver.skipped(path)
            if named and module in named.paths:
                named.here = path
            if skipped is not None:
                result = (skipped, None) if named and named.returns_tuple(path, module) else skipped
            elif is_norm(module):
                result = norm_with_scale(module, forward, x, lambda scale: self.driver.event((path, "scale"), scale))
            else:
                result = forward(x, *args[1:], **kwargs)
            first = result[0] if isinstance(result, tuple) else result
            if not isinstance(first, torch.Tensor):
                return result
            first, others = self.driver.group((path, "output"), first, named.beside_output(path) if named else [])
            if named:
                first = named.after_output(path, first, others)
            return (first, *result[1:]) if isinstance(result, tuple) else first
        module.forward = wrapped

    def learn_sites(self):
        """All sites in execution order, with the shapes they have in a batch of 2 (sequential) or 2 x 3 tokens."""
        runner = self

        class Listener:
            def event(self, key, tensor):
                runner.sites.append(key)
                runner.shapes[key] = tuple(tensor.shape)
                return tensor

            def group(self, key, tensor, beside):
                self.event(key, tensor)
                for other, view in beside:
                    self.event(other, view(tensor))
                return tensor, {}

            def skipped(self, path):
                return None
        self.driver = Listener()
        width = next(m for m in self.modules.values() if isinstance(m, torch.nn.Linear)).in_features if self.sequential else 0
        self.forward(torch.zeros(2, width) if self.sequential else torch.zeros(2, 3, dtype=torch.int64))
        self.driver = None

    def forward(self, inputs):
        if self.named:
            self.named.install()
        with torch.no_grad():
            if self.sequential:
                self.model(inputs)
            else:
                logits = self.model(inputs, use_cache=False).logits
                self.driver.event(("output", "logits"), logits)


class Lines:
    """A coroutine of lines, and what it asks for now."""
    def __init__(self, coroutine):
        self.coroutine, self.pending, self.finished = coroutine, None, False

    def advance(self, answer=None):
        try:
            self.pending = self.coroutine.send(answer)
        except StopIteration:
            self.pending, self.finished = None, True

    def fail(self, name, message):
        """Raised where the script is, so that the error has its line."""
        self.coroutine.throw(ScriptError(name, message))


class Driver:
    """One invoke: hands each event to the script's lines while they ask for it, to those of edits first. stopped() says that the invoke's own lines
    have come to stop()."""
    def __init__(self, runner, coroutine, lengths, edits=(), stopped=lambda: False):
        self.runner, self.lengths, self.stopped = runner, lengths, stopped
        self.own = Lines(coroutine)
        self.all = [*(Lines(e) for e in edits), self.own]
        self.seen = set()
        self.ragged = len(set(lengths)) > 1

    @property
    def finished(self):
        return self.own.finished and (self.stopped() or all(lines.finished for lines in self.all))

    def run(self, inputs):
        for lines in self.all:
            lines.advance()
        if not self.finished:
            self.runner.driver = self
            try:
                self.runner.forward(inputs)
            except Stop:
                pass
            finally:
                self.runner.driver = None
        if not self.own.finished:
            key = self.own.pending[1]
            late = key in self.seen
            self.own.fail("OutOfOrderError" if late else "MissedProviderError", f"Value was missed for model.{key[0]}.{key[1]}.i0.")
        if not self.finished:
            raise Unsupported                            # an edit inside a module that is skipped

    def event(self, key, tensor):
        return self.group(key, tensor, [])[0]

    def group(self, key, tensor, beside):
        """A site, and those that show it at the same event, in any order: the tensor then, and what took the others' places."""
        views, others = dict(beside), {}
        for lines in self.all:
            while lines.pending and lines.pending[0] in ("get", "put") and (lines.pending[1] == key or lines.pending[1] in views):
                asked = lines.pending[1]
                current = tensor if asked == key else others[asked] if asked in others else views[asked](tensor)
                whole = asked != key and key[1] == "input"   # z, post: they and the input are one
                if lines.pending[0] == "put":
                    value = self.replacement(asked, current, lines.pending[2], lines)
                    if asked == key:
                        tensor = value
                    elif whole:
                        tensor = flat(value, tensor)
                    else:
                        others[asked] = value
                    lines.advance()
                else:
                    lines.advance(self.show(asked, current))
        self.seen.update((key, *views))
        if self.finished:
            raise Stop
        return tensor, others

    def skipped(self, path):
        key, value = (path, "input"), None
        for lines in self.all:
            while lines.pending and lines.pending[0] == "skip" and lines.pending[1] == key:
                value = lines.pending[2]
                like = torch.empty(self.output_shape(path), dtype=next(self.runner.model.parameters()).dtype)
                value = self.replacement(key, like, value, lines)
                lines.advance()
        if self.finished:
            raise Stop
        return value

    def output_shape(self, path):
        known, now = self.runner.shapes[(path, "output")], (len(self.lengths), max(self.lengths))
        if self.runner.sequential:
            return now[:1] + known[1:]
        return ((1,) if path.endswith("wpe") else now[:1]) + now[1:] + known[2:]

    def show(self, key, tensor):
        if tensor.dtype == torch.int64:
            self.runner.ids.append(tensor)
        if self.ragged and not key[0].endswith("wpe"):
            return Ragged.of(tensor, self.lengths, 1 if key[1] in ("scores", "pattern") else 0)
        return tensor

    def replacement(self, key, current, value, lines=None):
        fail = (lines or self.own).fail
        if isinstance(value, (int, float)):
            fail("TypeError", "a number cannot take a tensor's place")
        if isinstance(value, Literal):
            value = value.tensor.to(current.dtype)
        if current.dtype == torch.int64:
            fail("TypeError", "token ids cannot be set")
        if isinstance(value, Ragged):
            if not self.ragged or value.lengths != self.lengths:
                fail("ShapeError", "lengths differ")
            if value.base is None or value.axis != (1 if key[1] in ("scores", "pattern") else 0):
                raise Unsupported
            value = value.base
        if tuple(value.shape) != tuple(current.shape):
            fail("ShapeError", f"{tuple(value.shape)}, expected {tuple(current.shape)}")
        if value.dtype != current.dtype:
            fail("TypeError", f"{value.dtype}, expected {current.dtype}")
        return value


# ---- the interpreter -------------------------------------------------------------------------------------------------------------------

def parse(text):
    """Python's own parser, after h.0.attn has become h[0].attn."""
    text = re.sub(r"(?<=[A-Za-z_\]])\.(\d+)\b", r"[\1]", text)
    try:
        return ast.parse(text).body
    except SyntaxError as e:
        raise ScriptError("SyntaxError", str(e), e.lineno or 0)


class Interpreter:
    def __init__(self, runner, load):
        """load(file, name) -> tensor"""
        self.runner, self.load = runner, load
        self.names, self.loops, self.saves, self.line = {}, {}, {}, 0
        self.aliases = {}                                # names of modules: their paths' parts
        self.outputs = []                                # (module, its output), as lines got them
        self.firsts = []                                 # what output[0] of a block or an attention module gave: not to be indexed again
        self.top_level = {p.split(".")[0] for p in runner.modules if p}
        self.stopped = False
        self.edits = []                                  # (interpreter with the names of the block, its lines)

    def run(self, text):
        """Runs a script; returns {name: tensor} in the order of saving."""
        try:
            for _ in self.block(parse(text)):
                raise ScriptError("SyntaxError", "a site outside an invoke")
        except ScriptError as e:
            e.line = e.line or self.line
            raise
        return {name: self.result(value) for name, value in self.saves.items()}

    def result(self, value):
        if isinstance(value, list):
            return torch.stack([self.result(v) for v in value])
        return value.dense() if isinstance(value, Ragged) else value.clone()

    # statements: each is a coroutine that yields ("get", site), ("put", site, value), ("skip", site, value)
    def block(self, body):
        for statement in body:
            self.line = statement.lineno
            if self.stopped:
                raise ScriptError("MissedProviderError", "a line after stop()")
            yield from getattr(self, "do_" + type(statement).__name__, self.unknown)(statement)

    def unknown(self, statement):
        raise ScriptError("SyntaxError", type(statement).__name__)
        yield

    def do_Pass(self, statement):
        return
        yield

    def do_For(self, statement):
        if isinstance(statement.iter, (ast.Attribute, ast.Subscript)):   # modules
            over, places = statement.iter, slice(None)
            if isinstance(over, ast.Subscript):
                over, places = over.value, self.items(over.slice)[0]
            parts = self.parts(over)
            for i in range(len(self.runner.modules[self.join(parts)]))[places]:
                self.aliases[statement.target.id] = parts + [i]
                yield from self.block(statement.body)
                if self.stopped:
                    return
            return
        if isinstance(statement.iter, ast.Call):
            values = range(*[self.integer(a) for a in statement.iter.args])
        else:
            values = [self.integer(e) for e in statement.iter.elts]
        for value in values:
            self.loops[statement.target.id] = value
            yield from self.block(statement.body)
            if self.stopped:
                return

    def do_With(self, statement):
        call = statement.items[0].context_expr
        if call.func.id == "edit":                       # its names are what they hold here
            frozen = copy.copy(self)
            frozen.names, frozen.loops, frozen.aliases = dict(self.names), dict(self.loops), dict(self.aliases)
            self.edits.append((frozen, statement.body))
            return
        value = yield from self.evaluate(call.args[0])
        lengths, inputs = self.inputs(value)
        self.stopped = False
        edits = [frozen.edited(body) for frozen, body in self.edits]
        Driver(self.runner, self.block(statement.body), lengths, edits, lambda: self.stopped).run(inputs)
        self.stopped = False

    def edited(self, body):
        """An edit's lines, for one invoke."""
        own = copy.copy(self)
        own.names, own.loops, own.aliases = dict(self.names), dict(self.loops), dict(self.aliases)
        try:
            yield from own.block(body)
        except ScriptError as e:
            e.line = e.line or own.line
            raise

    def inputs(self, value):
        if isinstance(value, list):                      # rows of different lengths
            longest = max(len(row) for row in value)
            padded = [row + [0] * (longest - len(row)) for row in value]
            return [len(row) for row in value], torch.tensor(padded)
        tensor = value.tensor if isinstance(value, Literal) else value
        if tensor.dim() == 1:
            tensor = tensor[None]
        if self.runner.sequential:
            return [1] * tensor.shape[0], tensor.to(next(self.runner.model.parameters()).dtype)
        if tensor.is_floating_point():
            raise ScriptError("TypeError", "a float as token")
        config = self.runner.model.config
        if not tensor.numel():
            raise ScriptError("ValueError", "an empty prompt")
        if tensor.min() < 0 or tensor.max() >= config.vocab_size:
            raise ScriptError("IndexError", "a token outside the vocabulary")
        if tensor.shape[1] > getattr(config, "max_position_embeddings", tensor.shape[1]):
            raise ScriptError("ValueError", "more positions than the model has")
        return [tensor.shape[1]] * tensor.shape[0], tensor.to(torch.int64, copy=True)

    def do_Assign(self, statement):
        target, value = statement.targets[0], statement.value
        if isinstance(target, (ast.Name, ast.Tuple)):
            names = target.elts if isinstance(target, ast.Tuple) else [target]
            values = value.elts if isinstance(value, ast.Tuple) else [value]
            topk = len(names) == 2 and isinstance(value, ast.Call) and getattr(value.func, "attr", getattr(value.func, "id", "")) == "topk"
            if topk:
                for name, v in zip(names, (yield from self.evaluate(value))):
                    self.bind(name.id, v)
                return
            if len(names) != len(values):
                raise ScriptError("SyntaxError", "more names than values")
            bound = []
            for v in values:
                bound.append((yield from self.maybe_saved(v)))
            for name, (v, saved) in zip(names, bound):
                self.bind(name.id, v)
                if saved:
                    self.save(name.id)
            return
        new = yield from self.evaluate(value)
        site = self.site(target)
        if site:
            if isinstance(new, (int, float)):
                raise ScriptError("TypeError", f"try {site[0]}.{site[1]}[:] = ...")
            yield ("put", site, new)
            return
        if not isinstance(target, ast.Subscript):
            raise ScriptError("SyntaxError", "cannot be assigned")
        self.refuse_copy(target.value)
        old = yield from self.evaluate(target.value)
        self.refuse_tuple(old)
        self.changeable(old)
        assign(old, self.items(target.slice), new)

    def do_AugAssign(self, statement):
        target, op = statement.target, IN_PLACE[type(statement.op)]
        items = None
        if isinstance(target, ast.Subscript) and not self.site(target):
            items = self.items(target.slice)
            self.refuse_copy(target.value)
            target = target.value
        old = yield from self.evaluate(target)
        if items is not None:
            self.refuse_tuple(old)
        self.changeable(old)
        value = yield from self.evaluate(statement.value)
        in_place(op, old, items, value)

    def do_Expr(self, statement):
        call = statement.value
        if not isinstance(call, ast.Call):
            raise ScriptError("SyntaxError", "not a statement")
        function = call.func
        if isinstance(function, ast.Name) and function.id == "stop":
            self.stopped = True
            return
        if isinstance(function, ast.Name) and function.id == "clear_edits":
            self.edits = []
            return
        if not isinstance(function, ast.Attribute):
            raise ScriptError("SyntaxError", "another call")
        if function.attr == "skip":
            path = self.path(function.value)
            value = yield from self.evaluate(call.args[0])
            if isinstance(value, (int, float)):
                raise ScriptError("TypeError", "skip takes a tensor")
            if (path, "output") not in self.runner.shapes:
                raise ScriptError("UnknownSiteError", path)
            yield ("skip", (path, "input"), value)
        elif function.attr == "save" and isinstance(function.value, ast.Name):
            self.lookup(function.value.id)
            self.save(function.value.id)
        elif function.attr == "append" and isinstance(function.value, ast.Name):
            value, saved = yield from self.maybe_saved(call.args[0])
            items = self.lookup(function.value.id)
            items.append(value)
            if saved and function.value.id not in self.saves:
                self.saves[function.value.id] = items
        elif function.attr == "save":
            raise ScriptError("NameError", "a save without a name")
        else:
            raise ScriptError("SyntaxError", "another call")

    # names
    def bind(self, name, value):
        if name in self.top_level:
            raise ScriptError("NameError", f"{name} is a module")
        if name in self.saves:
            raise ScriptError("NameError", f"{name} is saved")
        self.names[name] = value

    def lookup(self, name):
        if name in self.loops:
            return self.loops[name]
        if name not in self.names:
            raise ScriptError("NameError", name)
        return self.names[name]

    def save(self, name):
        if name in self.saves:
            raise ScriptError("NameError", f"{name} saved twice")
        if isinstance(self.names[name], (int, float)):
            raise ScriptError("TypeError", "a number cannot be saved")
        self.saves[name] = self.names[name]

    def refuse_copy(self, node):
        while isinstance(node, ast.Subscript) and not self.site(node):
            if any(isinstance(i, list) for i in self.items(node.slice)):
                raise ScriptError("ValueError", "writing through a copy")
            node = node.value

    def changeable(self, value):
        tensor = value.parts[0] if isinstance(value, Ragged) else value
        if not isinstance(tensor, torch.Tensor):
            raise ScriptError("TypeError", "not a tensor")
        if tensor.untyped_storage().data_ptr() in {t.untyped_storage().data_ptr() for t in self.runner.ids}:
            raise ScriptError("TypeError", "token ids cannot be set")

    def output_of(self, node):
        """The module whose output a node is: a site, or a name of one."""
        if isinstance(node, ast.Name):
            value = self.names.get(node.id)
            return next((path for path, tensor in self.outputs if tensor is value), None)
        site = self.site(node)
        return site[0] if site and site[1] == "output" and site[0] in self.runner.modules else None

    def refuse_tuple(self, value):
        if any(value is first for first in self.firsts):
            raise ScriptError("IndexError", "output[0] with another index is read in two ways")

    # sites
    def parts(self, node):
        """Names and numbers of a dotted path, or None."""
        if isinstance(node, ast.Name):
            return None if node.id in self.names or node.id in self.loops else self.aliases.get(node.id, [node.id])
        if isinstance(node, ast.Attribute):
            before = self.parts(node.value)
            return before and before + [node.attr]
        if isinstance(node, ast.Subscript) and isinstance(node.value, (ast.Attribute, ast.Name)):
            before = self.parts(node.value)
            if not before or before[-1] in ("input", "inputs", "output", "logits", *NAMED):
                return None
            return before + [self.integer(node.slice)]
        return None

    def site(self, node):
        """(path, "input" or "output") of a node that is a site, else None."""
        if not isinstance(node, ast.Attribute) or node.attr in ("T", "mT", "values", "indices") or self.weight(node) is not None:
            return None
        parts = self.parts(node)
        if not parts:
            return None
        if parts == ["output", "logits"] and not self.runner.sequential:
            return ("output", "logits")
        attribute = {"inputs": "input"}.get(parts[-1], parts[-1])
        key = (self.join(parts[:-1]), attribute)
        if key not in self.runner.shapes:
            raise ScriptError("UnknownSiteError", f"{key[0]}.{attribute}")
        return key

    def join(self, parts):
        path = ""
        for part in parts:
            if isinstance(part, int):
                container = self.runner.modules.get(path)
                if not isinstance(container, torch.nn.ModuleList) or not -len(container) <= part < len(container):
                    raise ScriptError("UnknownSiteError", f"{path}[{part}]")
                part = part % len(container)
            path = f"{path}.{part}" if path else str(part)
            if path not in self.runner.modules:
                raise ScriptError("UnknownSiteError", path)
        return path

    def path(self, node):
        parts = self.parts(node)
        if not parts:
            raise ScriptError("SyntaxError", "not a module")
        return self.join(parts)

    # expressions
    def integer(self, node):
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self.integer(node.operand)
        if isinstance(node, ast.Name) and node.id in self.loops:
            return self.loops[node.id]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "len":
            if not isinstance(node.args[0], ast.Name):
                return len(self.runner.modules[self.path(node.args[0])])
            value = self.lookup(node.args[0].id)
            return len(value.parts if isinstance(value, Ragged) else value)
        if isinstance(node, ast.BinOp):
            op = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
                  ast.Mod: operator.mod}.get(type(node.op))
            if op:
                return op(self.integer(node.left), self.integer(node.right))
        raise ScriptError("SyntaxError", "an integer is expected")

    def items(self, node):
        items = []
        for e in node.elts if isinstance(node, ast.Tuple) else [node]:
            if isinstance(e, ast.Slice):
                bounds = [b and self.integer(b) for b in (e.lower, e.upper, e.step)]
                if bounds[2] is not None and bounds[2] < 1:
                    raise ScriptError("ValueError", "a step below 1")
                items.append(slice(*bounds))
            elif isinstance(e, ast.List):
                items.append([self.integer(i) for i in e.elts])
            elif isinstance(e, ast.Constant) and e.value is None:
                items.append(None)
            elif isinstance(e, ast.Constant) and e.value is Ellipsis:
                items.append(Ellipsis)
            else:
                items.append(self.integer(e))
        return items

    def maybe_saved(self, node):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "save":
            return (yield from self.evaluate(node.func.value)), True
        return (yield from self.evaluate(node)), False

    def weight(self, node):
        """A weight of the model, lm_head.weight, else None."""
        if not isinstance(node, ast.Attribute) or node.attr not in ("weight", "bias"):
            return None
        parts = self.parts(node.value)
        return getattr(self.runner.modules[self.join(parts)], node.attr, None) if parts else None

    def evaluate(self, node):
        weight = self.weight(node)
        if weight is not None:
            return weight.detach()
        if isinstance(node, ast.Attribute) and node.attr in ("T", "mT"):
            return torch_errors(ROWS.transpose)((yield from self.evaluate(node.value)), -2, -1)
        if isinstance(node, ast.Attribute) and node.attr in ("values", "indices") and isinstance(node.value, ast.Call):
            return (yield from self.evaluate(node.value))[0 if node.attr == "values" else 1]
        if isinstance(node, ast.Compare):
            a = yield from self.evaluate(node.left)
            b = yield from self.evaluate(node.comparators[0])
            return binary(COMPARISONS[type(node.ops[0])], a, b)
        site = self.site(node)
        if site:
            got = yield ("get", site)
            if self.output_of(node):
                self.outputs.append((site[0], got))
            return got
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return node.value
        if isinstance(node, ast.List):
            return self.literal(node)
        if isinstance(node, ast.Name):
            if node.id not in self.names and node.id not in self.loops and node.id in self.top_level:
                raise ScriptError("NameError", f"{node.id} is a module")
            return self.lookup(node.id)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = yield from self.evaluate(node.operand)
            dtype = value.parts[0].dtype if isinstance(value, Ragged) else getattr(value, "dtype", None)
            if dtype == torch.bool:
                raise ScriptError("TypeError", "- of bools")
            return binary(operator.mul, value, -1)
        if isinstance(node, ast.BinOp) and (type(node.op) in OPERATORS or isinstance(node.op, ast.MatMult)):
            a = yield from self.evaluate(node.left)
            b = yield from self.evaluate(node.right)
            if isinstance(node.op, ast.MatMult):
                return product_of(a, b)
            return binary(OPERATORS[type(node.op)], a, b)
        if isinstance(node, ast.Subscript):
            items = self.items(node.slice)
            base = yield from self.evaluate(node.value)
            self.refuse_tuple(base)
            made, site = index(base, items), self.output_of(node.value)
            if items == [0] and site and any("Attention" in type(m).__name__ for m in self.runner.modules[site].modules()):
                self.firsts.append(made)
            return made
        if isinstance(node, ast.Call):
            return (yield from self.call(node))
        raise ScriptError("SyntaxError", type(node).__name__)

    def callable_width(self, path):
        """How long rows are that a module takes which makes each row of its output of that row alone; else a TypeError."""
        module, shape = self.runner.modules[path], self.runner.shapes.get((path, "input"))
        inside = [type(m).__name__ for m in module.modules()]
        if isinstance(module, (Expert, Experts)):
            raise ScriptError("TypeError", f"{path} is given weights too")
        if not self.runner.sequential and self.runner.model.config.model_type == "bloom" and path.endswith((".self_attention", ".mlp")):
            raise ScriptError("TypeError", f"{path} is given the stream too")
        if {"BertOutput", "BertSelfOutput"} & {inside[0]}:
            raise ScriptError("TypeError", f"{path} is given the stream too")
        if self.attends(path) and "Embedding" not in "".join(inside):
            return shape[-1]
        if not shape or len(shape) != (2 if self.runner.sequential else 3) or any("Attention" in n or "Embedding" in n for n in inside):
            raise ScriptError("TypeError", f"{path} is not made row by row")
        return shape[-1]

    def attends(self, path):
        return not self.runner.sequential and (path, "output") in self.runner.shapes and any(
            "Attention" in type(m).__name__ for m in self.runner.modules[path].modules())

    def sequence_call(self, path, value):
        """What an attention module or a block makes of whole sequences: of each one alone, in a run of the model in which it gets them."""
        module, made = self.runner.modules[path], []
        parts = [p[None] for p in value.parts] if isinstance(value, Ragged) else [value[i:i + 1] for i in range(len(value))]
        if parts and parts[0].dim() != 3:
            raise ScriptError("ShapeError", f"{path} takes [batch, position, width]")
        for part in parts:
            if part.shape[1] > getattr(self.runner.model.config, "max_position_embeddings", part.shape[1]):
                raise ScriptError("ValueError", "more positions than the model has")
            given = lambda m, args, kwargs: ((part, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": part})
            kept = lambda m, args, out: made.append((out[0] if isinstance(out, tuple) else out).clone())
            handles = [module.register_forward_pre_hook(given, with_kwargs=True, prepend=True), module.register_forward_hook(kept)]
            driver, self.runner.driver = self.runner.driver, None
            try:
                with torch.no_grad():
                    self.runner.model(torch.zeros(1, part.shape[1], dtype=torch.int64), use_cache=False)
            finally:
                self.runner.driver = driver
                for handle in handles:
                    handle.remove()
        return value.fresh([m[0] for m in made]) if isinstance(value, Ragged) else torch.cat(made)

    def module_call(self, path, value):
        width, dtype = self.callable_width(path), next(self.runner.model.parameters()).dtype
        if isinstance(value, (int, float)):
            raise ScriptError("TypeError", "a module of a number")
        if isinstance(value, Literal):
            value = Literal(value.tensor.to(dtype)).tensor
        value = ROWS.equal_or_ragged(value)
        parts = value.parts if isinstance(value, Ragged) else [value]
        if not parts[0].dim() or parts[0].shape[-1] != width or (isinstance(value, Ragged) and value.axis == parts[0].dim() - 1):
            raise ScriptError("ShapeError", f"{path} takes rows of {width}")
        if parts[0].dtype != dtype:
            raise ScriptError("TypeError", f"{path} takes {dtype}")
        if self.attends(path):
            if isinstance(value, Ragged) and (parts[0].dim() != 2 or value.axis):
                raise ScriptError("ShapeError", f"{path} takes [batch, position, width]")
            return self.sequence_call(path, value)
        if isinstance(value, Ragged) and parts[0].dim() > 2:
            raise ScriptError("ShapeError", "heads of ragged prompts")
        driver, self.runner.driver = self.runner.driver, None
        try:
            with torch.no_grad():
                made = [self.runner.modules[path](p.contiguous()) for p in parts]   # Conv1D wants them so
                made = [m[0] if isinstance(m, tuple) else m for m in made]
        finally:
            self.runner.driver = driver
        return value.fresh(made) if isinstance(value, Ragged) else made[0].clone()

    def row_call(self, node):
        """x.sum(-1), softmax(x, dim=-1), where(c, a, b)..."""
        method = isinstance(node.func, ast.Attribute)
        name, given = (node.func.attr, [node.func.value, *node.args]) if method else (node.func.id, node.args)
        value = yield from self.evaluate(given[0])
        named = {k.arg: k.value for k in node.keywords}
        if name == "where":
            a = yield from self.evaluate(given[1])
            b = yield from self.evaluate(given[2])
            return where_of(value, a, b)
        if name == "detach":
            return clone(value)
        numbers = [self.dimensions(a) for a in given[1:]]
        if name == "transpose":
            return torch_errors(ROWS.transpose)(value, numbers[0][0], numbers[1][0])
        k = numbers.pop(0)[0] if name == "topk" else None
        if name == "norm" and numbers and numbers.pop(0)[0] != 2:
            raise ScriptError("ValueError", "another norm")
        dims = self.dimensions(named["dim"]) if "dim" in named else numbers[0] if numbers else None
        keep = named["keepdim"].value if "keepdim" in named else False
        return rows_of(name, value, (dims or (-1,)) if name == "topk" else dims, keep, k)

    def is_module(self, node):
        parts = self.parts(node) if isinstance(node, ast.Attribute) else None
        return bool(parts) and ".".join(map(str, parts)) in self.runner.modules

    def dimensions(self, node):
        return tuple(self.integer(e) for e in node.elts) if isinstance(node, (ast.Tuple, ast.List)) else (self.integer(node),)

    def call(self, node):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id if isinstance(node.func, ast.Name) else ""
        if name in row_operations.NAMES and name not in self.top_level and not self.is_module(node.func):
            return (yield from self.row_call(node))
        parts = self.parts(node.func) if not (isinstance(node.func, ast.Name) and node.func.id not in self.top_level) else None
        if parts and parts[0] in self.top_level and len(node.args) == 1 and (self.is_module(node.func) or not (isinstance(node.func, ast.Attribute) and node.func.attr in METHODS)):
            value = yield from self.evaluate(node.args[0])
            return self.module_call(self.join(parts), value)
        if isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS and node.func.id not in self.top_level and node.args:
            value = yield from self.evaluate(node.args[0])
            return function_of(node.func.id, value, [ast.literal_eval(a) for a in node.args[1:]])
        if isinstance(node.func, ast.Attribute) and node.func.attr in FUNCTIONS:
            value = yield from self.evaluate(node.func.value)
            return function_of(node.func.attr, value, [ast.literal_eval(a) for a in node.args])
        if isinstance(node.func, ast.Attribute) and node.func.attr == "clone" and not node.args:
            return clone((yield from self.evaluate(node.func.value)))
        if isinstance(node.func, ast.Attribute) and node.func.attr == "kl":
            value = yield from self.evaluate(node.func.value)
            return metric_of("kl", value, [], (yield from self.evaluate(node.args[0])))
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("logit_diff", "logit", "probability", "log_probability", "rank"):
            value = yield from self.evaluate(node.func.value)
            return metric_of(node.func.attr, value, [self.tokens(a) for a in node.args])
        if isinstance(node.func, ast.Name) and node.func.id == "load":
            return self.load(*[a.value for a in node.args])
        if isinstance(node.func, ast.Name) and node.func.id == "zeros":
            return torch.zeros([self.integer(a) for a in node.args])
        raise ScriptError("SyntaxError", "another call")

    def tokens(self, node):
        if isinstance(node, ast.Name) and isinstance(self.names.get(node.id), Literal):
            return self.names[node.id].tensor.tolist()
        return [self.integer(e) for e in node.elts] if isinstance(node, ast.List) else [self.integer(node)]

    def literal(self, node):
        numbers = ast.literal_eval(node)
        if not numbers:
            return []
        if isinstance(numbers[0], list) and len({len(r) for r in numbers}) > 1:
            return numbers
        tensor = torch.tensor(numbers)
        return Literal(tensor.to(torch.float64) if tensor.is_floating_point() else tensor)
