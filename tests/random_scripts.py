"""Random trace scripts, valid and invalid, for make_fixtures.py.

A line is proposed at random and tried on zeros of the right shapes with the reference's own interpreter: what it refuses (shapes that
do not broadcast, sites out of order) is proposed again. So the text needs no cleverness, and every index form, operator and aliasing
meets every other. Refused scripts are a valid beginning and one wrong line whose error is known by how it was made.
"""
import random

import torch

from reference import Driver, Interpreter, Ragged, ScriptError, Unsupported, parse

LARGEST_SAVE = 170               # elements of one saved value: fixtures are committed


class Sketch:
    """A script under construction: its lines, and zeros in the shapes of its names."""
    def __init__(self, reference, seed, folder_load):
        self.random = random.Random(seed)
        self.runner, self.dtype = reference.runner, reference.dtype
        self.interpreter = Interpreter(self.runner, folder_load)
        self.lines, self.count, self.sequential = [], 0, self.runner.sequential
        self.older = []              # names of earlier invokes

    def fresh(self, letter):
        self.count += 1
        return f"{letter}{self.count}"

    # ---- trying a line
    def zeros(self, key):
        known, now = self.runner.shapes[key], (len(self.lengths), max(self.lengths))
        dtype = torch.int64 if key[1] == "input" and key[0].split(".")[-1] in ("wte", "wpe", "embed_tokens", "embed_in") else self.dtype
        if self.sequential:
            return torch.zeros(now[:1] + known[1:], dtype=dtype)
        first = (1,) if key[0].endswith("wpe") else now[:1]
        if key[1] in ("scores", "pattern"):
            base, axis = torch.zeros(first + known[1:2] + 2 * now[1:], dtype=dtype), 1
        else:
            base, axis = torch.zeros(first + now[1:] + known[2:], dtype=dtype), 0
        ragged = len(set(self.lengths)) > 1 and not key[0].endswith("wpe")
        return Ragged.of(base, self.lengths, axis) if ragged else base

    def attempt(self, line):
        """Adds the line if it may stand here."""
        here = self.position
        try:
            coroutine = self.interpreter.block(parse(line))
            request = next(coroutine)
            driver = Driver(self.runner, coroutine, self.lengths)
            while True:
                key = request[1]
                at = self.runner.sites.index(key)
                if at < here:
                    return False
                answer = None
                if request[0] == "get":
                    answer = driver.show(key, self.base(self.zeros(key)))
                elif request[0] == "put":
                    driver.replacement(key, self.base(self.zeros(key)), request[2])
                else:
                    driver.replacement(key, torch.zeros(driver.output_shape(key[0]), dtype=self.dtype), request[2])
                    at = self.runner.sites.index((key[0], "output"))
                here = at
                request = coroutine.send(answer)
        except StopIteration:
            pass
        except (ScriptError, Unsupported):
            return False
        self.position = here
        self.lines.append("    " + line)
        return True

    @staticmethod
    def base(value):
        return value.base if isinstance(value, Ragged) else value

    # ---- text
    def pick(self, *choices):
        return self.random.choice(choices)

    def module_text(self, path):
        parts, text, modules = path.split("."), "", self.runner.modules
        for i, part in enumerate(parts):
            if part.isdigit():
                n = len(modules[".".join(parts[:i])])
                text += self.pick(f"[{part}]", f".{part}", f"[{int(part) - n}]")
            else:
                text += ("." if text else "") + part
        return text

    def site_text(self, key):
        if key == ("output", "logits"):
            return "output.logits"
        return self.module_text(key[0]) + "." + (self.pick("input", "input", "inputs") if key[1] == "input" else key[1])

    def some_site(self, reach=24):
        sites = self.runner.sites
        at = min(len(sites) - 1, self.position + 1 + int(self.random.random() ** 2 * reach))
        return sites[max(0, at - self.pick(0, 0, 1))]

    def number(self):
        return self.pick("0", "1", "2", "0.5", "-0.5", "1.5", "-2", "0.25", "3")

    def slice_text(self, n):
        a, b = self.random.randint(-n, n), self.random.randint(-n, n + 2)
        return self.pick(":", f"{a}:", f":{b}", f"{min(a, b)}:{max(a, b)}" if (a < 0) == (b < 0) else f"{a}:", "::2", f"{abs(a)}::3",
                         f"{max(0, a)}:{max(0, a) + 1}")

    def integer_text(self, n):
        return str(self.random.randint(-n, n - 1))

    def list_text(self, n, length=None):
        places = self.random.sample(range(n), min(n, length or self.random.randint(1, 3)))
        return "[" + ", ".join(str(p if self.random.random() < 0.6 else p - n) for p in places) + "]"

    def index_text(self, value):
        shape = list(value.shape) if isinstance(value, torch.Tensor) else None
        if shape is None:                                # ragged
            m, sizes = min(value.lengths), value.parts[0].shape if value.parts[0].dim() else ()
            items = [self.pick(":", ":", ":", self.integer_text(len(value.parts)), "1:")]
            items += [self.pick(":", "-1", "0", "1:", ":-1", ":2", "-2:", self.integer_text(m)) if i == value.axis and m
                      else self.pick(":", self.slice_text(n), self.integer_text(n)) if n else ":" for i, n in enumerate(sizes)]
            return "[" + ", ".join(items) + "]"
        if not shape or 0 in shape:
            return ""
        kinds = [self.pick("slice", "slice", "integer", "all") for _ in shape]
        if self.random.random() < 0.25:
            at = self.random.randrange(len(shape))
            kinds = ["all" if k == "integer" else k for k in kinds]
            kinds[at] = "list"
            if at + 1 < len(shape) and self.random.random() < 0.5:
                kinds[at + 1] = self.pick("list", "integer")
        length = self.random.randint(1, 3)
        if kinds.count("list") > 1:
            length = min([length] + [n for n, k in zip(shape, kinds) if k == "list"])
        items = [{"slice": self.slice_text(n), "integer": self.integer_text(n), "all": ":", "list": self.list_text(n, length)}[k]
                 for n, k in zip(shape, kinds)]
        while len(items) > 1 and items[-1] == ":" and self.random.random() < 0.8:
            items.pop()
        if len(items) > 1 and items[0] == ":" and items[1] == ":" and self.random.random() < 0.5:
            items[:2] = ["..."]
        elif items == [":"]:
            items = [self.pick(":", "...")]
        return "[" + ", ".join(items) + "]"

    def names(self):
        return [n for n, v in self.interpreter.names.items() if isinstance(v, (torch.Tensor, Ragged))]

    def term(self, site_text=None):
        names = self.names()
        roll = self.random.random()
        if names and roll < 0.6:
            name = self.random.choice(names[-6:])
            value = self.interpreter.names[name]
            return name + (self.index_text(value) if self.random.random() < 0.45 else "") + (".clone()" if roll < 0.05 else "")
        if site_text and roll < 0.85:
            return site_text
        return self.number()

    def function_text(self, a):
        """A function of a term, of no unbounded growth."""
        if a.lstrip("-").replace(".", "").isdigit():
            return a
        name = self.pick("relu", "abs", "sigmoid", "tanh", "gelu", "gelu_tanh", "silu")
        return self.pick(f"{name}({a})", f"{name}({a})", f"({a}).{name}()", f"clamp({a}, -0.5, 1.5)", f"({a}).clamp_min(0)", f"({a}).clamp(-1, 2)",
                         f"({a} * 0.25).exp()", f"sqrt(abs({a}) + 1)", f"log(abs({a}) + 2)", f"({a}).float()", f"({a}).half()")

    def weight_text(self):
        paths = [p for p, m in self.runner.modules.items() if getattr(m, "weight", None) is not None and p]
        path = self.random.choice(paths)
        weight = self.runner.modules[path].weight
        text = f"{self.module_text(path)}.weight"
        if weight.dim() == 1:
            return text
        return text + self.pick("", ".T", f"[{self.random.randrange(weight.shape[0])}]", "[:, 1]", "[:3]", "[:, 2:6]", ".T[:, :4]", "[::2]")

    def rows_text(self, a, b):
        """A function of whole rows of a term, a product, a comparison, another shape."""
        if a.lstrip("-").replace(".", "").isdigit():
            return a
        if "f16" in a or "half" in a:                    # PyTorch's last bit of such sums is not ours
            a = f"({a}).float()"
        dims = self.pick("-1", "-1", "-1", "0", "1", "(0, 1)", "(1, 2)", "(0, -1)", "[1]", "")
        keep = self.pick(", keepdim=True", ", keepdim=True", "") if dims else self.pick("keepdim=True", "")
        reduction = self.pick("sum", "mean", "mean", "amax", "amin")
        return self.pick(f"({a}).{reduction}({dims}{keep})", f"{reduction}({a}{', dim=' + dims + keep if dims else ''})",
                         f"({a}).norm(dim={dims or -1}{keep if dims else ''})", f"norm({a})", f"softmax({a}, {self.pick('-1', '1', '0')})",
                         f"({a}).log_softmax(dim=-1)", f"({a}).topk(2).values", f"({a}).topk(1, {self.pick('0', '1')}).values",
                         f"({a}).argmax(-1)", f"({a}).topk(2).indices", f"where({a} > {b}, {a}, {b})", f"where({a} <= 0.1, {self.number()}, {a})",
                         f"({a} > {b}).sum({dims})", f"({a} != 0)", f"({a}) @ {b}", f"({a}) @ {self.weight_text()}", f"({a}) @ {self.weight_text()}",
                         f"({a})[..., None]", f"({a})[:, None]", f"({a}).mT", f"({a}).transpose({self.pick('0, 1', '1, 2', '-1, 1')})",
                         f"({a})[:, -1] @ {self.weight_text()}", f"({a}) * {self.weight_text()}", f"({a}).detach()",
                         f"({a}) - ({a}).mean({dims}{keep})", f"({a}) / (({a}).norm(dim=-1, keepdim=True) + 1)")

    def expression(self, site_text=None):
        a, b = self.term(site_text), self.term(site_text)
        if self.random.random() < 0.15:
            a = self.function_text(a)
        elif self.random.random() < 0.22:
            a = self.rows_text(a, b)
        return self.pick(a, a, f"{self.number()} * {a}", f"{a} * {self.number()} + {self.number()}", f"{a} + {b}", f"{a} - {b}",
                         f"({a} - {b}) / 2", f"-{a}", f"{a} / 4", f"{a} * {b}", f"0.5 * ({a} + {b})")

    def callable_modules(self):
        if not hasattr(self, "known_callable"):
            self.known_callable = {}
            for path, module in self.runner.modules.items():
                try:
                    self.known_callable[path] = self.interpreter.callable_width(path)
                except ScriptError:
                    pass
        return self.known_callable

    def call_text(self, site_text):
        """A module applied to a value whose rows it takes, if there is one."""
        widths = self.callable_modules()
        if not widths:
            return site_text
        path = self.random.choice(sorted(widths))
        fits = [n for n in self.names() if widths[path] == (self.interpreter.names[n].parts[0] if isinstance(self.interpreter.names[n], Ragged)
                                                            else self.interpreter.names[n]).shape[-1:].numel()]
        value = self.random.choice(fits[-5:]) if fits and self.random.random() < 0.7 else site_text
        if fits and self.random.random() < 0.4:
            value += self.pick("[:, -1]", "[0]", "[:, 1:]", " * 2", "[-1:, 0]", "[[0]]", " + 1")
        outer = [p for p in sorted(widths) if self.random.random() < 0.2]
        text = f"{self.module_text(path)}({value})"
        return f"{self.module_text(outer[0])}({text})" if outer else text

    # ---- lines
    def propose(self):
        if self.random.random() < 0.12:
            key = self.some_site()
            call = self.call_text(self.site_text(key))
            return self.pick(f"{self.fresh('c')} = {call}", f"{self.fresh('c')} = {call}", f"{self.fresh('c')} = {call} - {self.number()}",
                             f"{self.site_text(key)}{self.index_text(self.zeros(key))} = {call}", f"{self.site_text(key)} += {call}")
        key = self.some_site()
        site, roll = self.site_text(key), self.random.random()
        value = self.zeros(key)
        if self.random.random() < 0.18:
            a = self.term(site) if self.random.random() < 0.6 else site + self.index_text(value)
            made, index = self.rows_text(a, self.term(site)), self.index_text(value)
            return self.pick(f"{self.fresh('w')} = {made}", f"{self.fresh('w')} = {made}", f"{site}{index} += {made}", f"{site} = {site} - {made}")
        if self.older and self.random.random() < 0.35:   # a value of an earlier invoke, at a place of the same shape
            name, index = self.random.choice(self.older), self.index_text(value)
            return self.pick(f"{site}{index} = {name}{index}", f"{site} = {name}", f"{site} = 0.5 * {site} + {name}",
                             f"{site}{index} += {name}{index}", f"{name}{index} = {site}{index}")
        if roll < 0.16:
            return f"{self.fresh('r')} = {site}" + self.pick("", "", ".clone()", self.index_text(value))
        if roll < 0.24:
            return f"{self.fresh('a')} = {self.expression(site)}"
        if roll < 0.50:
            index = self.index_text(value)
            own = site + self.pick("", self.index_text(value), index)
            return f"{site}{index} = {self.pick(self.expression(own), self.expression(), self.number(), own)}"
        if roll < 0.60:
            return f"{site}{self.pick('', self.index_text(value))} {self.pick('+=', '-=', '*=')} {self.expression()}"
        if roll < 0.63:
            return f"{site}{self.index_text(value)} /= {self.pick('2', '-0.5', '4')}"
        if roll < 0.80:
            return f"{site} = {self.expression(site)}"
        if roll < 0.90 and self.names():
            name = self.random.choice(self.names())
            return f"{name}{self.index_text(self.interpreter.names[name])} {self.pick('=', '+=', '*=')} {self.expression(site)}"
        if roll < 0.95 and key[1] == "input" and (key[0], "output") in self.runner.shapes:
            module = self.module_text(key[0])
            return f"{module}.skip({self.pick(self.expression(module + '.input'), module + '.input')})"
        return f"{self.fresh('x')} = {site}"

    def small(self, value):
        """An index that leaves few enough elements of a value to save."""
        whole = value.dense() if isinstance(value, Ragged) else value
        if whole.numel() <= LARGEST_SAVE:
            return ""
        if whole.dim() == 1:
            return f"[:{LARGEST_SAVE}]"
        if whole.dim() == 4:
            return self.pick("[0]", "[:, -1]", "[:, :, 1]", "[..., 0]", "[-1, 1:]")
        return self.pick("[:, -1, 3:40]", "[0, :, :15]", "[:, 0, ::3]", "[..., 1::5]", "[:, :, -9:]") if whole.dim() == 3 else "[-1]"

    def save_line(self):
        roll, here = self.random.random(), len(self.lines)
        name = self.fresh("s")
        if roll < 0.5 or not self.names():
            site = self.site_text(self.some_site(6))
            self.attempt(f"{name} = {site}")
        else:
            source = self.random.choice(self.names())
            self.attempt(f"{name} = {source}")
        if len(self.lines) > here:
            value, text = self.interpreter.names[name], self.lines.pop().strip()
            clone = self.pick("", "", "", ".clone()")
            self.position, self.interpreter.names = self.position, dict(self.interpreter.names)
            del self.interpreter.names[name]
            self.attempt(text + self.small(value) + clone + ".save()")

    def inputs(self, old):
        batch, width = self.random.randint(1, 3), self.random.randint(2, 5)
        if self.sequential:
            n = next(m for m in self.runner.modules.values() if isinstance(m, torch.nn.Linear)).in_features
            if old and self.random.random() < 0.5:
                return self.random.choice(old)
            return [[round(self.random.uniform(-2, 2), 2) for _ in range(n)] for _ in range(batch)]
        vocabulary = self.runner.model.config.vocab_size
        token = lambda: self.random.randrange(vocabulary)
        roll = self.random.random()
        if old and roll < 0.5:
            return self.random.choice(old)
        if old and roll < 0.75:                          # the same beginning
            rows = [list(r) for r in self.random.choice(old)]
            for row in rows:
                at = self.random.randrange(len(row))
                row[at:] = [token() for _ in row[at:]]
            return rows
        rows = [[token() for _ in range(width)] for _ in range(batch)]
        if roll > 0.9 and batch > 1:
            rows = [[token() for _ in range(self.random.randint(1, 5))] for _ in range(batch)]
        if batch > 1 and self.random.random() < 0.2:
            rows[-1] = list(rows[0])
        return rows

    def invoke(self, inputs):
        self.lengths = [1 if self.sequential else len(r) for r in inputs]
        self.position, self.older = 0, self.names()
        self.lines.append(f"with invoke({inputs}):")
        wanted, tries = self.random.randint(2, 6), 0
        start = len(self.lines)
        while len(self.lines) - start < wanted and tries < 120:
            tries += 1
            self.attempt(self.propose())
        if self.random.random() < 0.7:
            self.save_line()
        for name in list(self.names()):
            value = self.interpreter.names[name]
            whole = value.dense() if isinstance(value, Ragged) else value
            if name not in self.interpreter.saves and whole.numel() <= LARGEST_SAVE and self.random.random() < 0.12:
                self.attempt(f"{name}.save()")
        if self.random.random() < 0.6:
            last = self.random.choice(self.runner.sites[-3:])
            value = self.zeros(last)
            self.attempt(f"{self.fresh('out')} = {self.site_text(last)}{self.small(value)}.save()")
        elif self.random.random() < 0.2:
            self.lines.append("    stop()")
        if len(self.lines) == start:
            self.lines.append("    pass")
        self.lines.append("")

    def edit(self):
        """Lines that later invokes repeat, tried in an invoke of the least shape; what they bind is gone behind them."""
        self.lengths, self.position, self.older = [1] if self.sequential else [2], 0, self.names()
        before, start = dict(self.interpreter.names), len(self.lines) + 1
        self.lines.append("with edit():")
        wanted, tries = self.random.randint(1, 4), 0
        while len(self.lines) - start < wanted and tries < 60:
            tries += 1
            self.attempt(self.propose())
        self.interpreter.names = before
        if len(self.lines) == start:
            self.lines.append("    pass")
        self.lines.append("")

    def build_edited(self):
        inputs = []
        for _ in range(self.random.choice((2, 3, 4))):
            roll = self.random.random()
            if roll < 0.8 or not inputs:
                self.edit()
            elif roll < 0.9:
                self.lines += ["clear_edits()", ""]
            inputs.append(self.inputs(inputs))
            self.invoke(inputs[-1])
        return "\n".join(self.lines).rstrip() + "\n"

    def build(self):
        for name in ("vec", "mat", "f64", "f16", "i64"):
            if self.random.random() < 0.1:
                text = f'{name} = load("data.safetensors", "{name}")'
                for _ in self.interpreter.block(parse(text)):
                    pass
                self.lines.append(text)
        inputs = []
        for _ in range(self.random.choice((1, 1, 2, 2, 3, 4))):
            inputs.append(self.inputs(inputs))
            self.invoke(inputs[-1])
        return "\n".join(self.lines).rstrip() + "\n"


def valid(reference, seed, load):
    return Sketch(reference, seed, load).build()


def edited(reference, seed, load):
    """A valid script with edit() blocks."""
    return Sketch(reference, seed, load).build_edited()


# ---- scripts that must be refused --------------------------------------------------------------------------------------------------------

def invalid(reference, seed, load):
    """-> (script, errors that are right, line)"""
    r = random.Random(seed)
    runner, sequential = reference.runner, reference.sequential
    sketch = Sketch(reference, seed, load)
    sites = [s for s in runner.sites if not s[0].endswith(("wpe", "wte", "embed_tokens", "embed_in")) and s[0] != "output" and len(runner.shapes[s]) < 4
             and s[1] in ("input", "output")]
    i, j = sorted(r.sample(range(len(sites)), 2))
    early, late = sites[i], sites[j]
    batch, width = r.randint(1, 2), r.randint(2, 5)
    n_in = runner.shapes[runner.sites[0]][-1]
    rows = [[round(r.uniform(-1, 1), 2) for _ in range(n_in)] if sequential else [r.randrange(61) for _ in range(width)] for _ in range(batch)]
    S, E, L = (sketch.site_text(k) for k in (r.choice(sites), early, late))
    d = runner.shapes[late][-1]
    module = sketch.module_text(r.choice([s[0] for s in sites]))
    blocks = [s[0] for s in runner.sites if s[0].count(".") == 2 and s[1] == "input"] or None
    block = sketch.module_text(r.choice(blocks)) if blocks else None
    last = f"{width}" if not sequential else f"{d}"
    w = runner.shapes[late][-1]

    choices = [
        (["a = {L}.save()", "b = {E}.save()"], "OutOfOrderError"),
        (["{L}[:] = 0", "{E}[:] *= 2"], "OutOfOrderError"),
        (["b = ({L} + {E}).save()"], "OutOfOrderError"),
        (["a = {E}.clone()", "c = {L}", "a[:] = {E}"], "OutOfOrderError"),
        (["a = {E}.save()", "stop()", "b = {L}.save()"], "MissedProviderError"),
        (["a = {S}.save()", "stop()", "a *= 2"], "MissedProviderError"),
        (["u = " + S.replace(".", "_.", 1) + ".save()"], "UnknownSiteError|NameError"),
        (["u = {module}.outputs.save()"], "UnknownSiteError"),
        (["u = {module}.weights.save()"], "UnknownSiteError"),
        (["u = {module}.nothing.output.save()"], "UnknownSiteError"),
        (["u = {L}[..., {w}].save()"], "IndexError"),
        (["u = {L}[{batch}].save()"], "IndexError"),
        (["{L}[-{batch1}] = 0"], "IndexError"),
        (["u = {L}[[0, {batch}]].save()"], "IndexError"),
        (["u = {L}[0, 0, 0, 0].save()"], "IndexError"),
        (["u = {L}[..., ::0].save()"], "ValueError|IndexError"),
        (["{L}[[0]][:, 0] = 1"], "ValueError|IndexError"),
        (["{L}[..., :2] = [1, 2, 3]"], "ShapeError"),
        (["{L} = {L}[..., 1:]"], "ShapeError"),
        (["a = {L}[..., 1:] - {L}"], "ShapeError"),
        (["{L} += {L}[..., :-1]"], "ShapeError"),
        (["{L} = 0"], "TypeError"),
        (["{module}.skip(1)"], "TypeError"),
        (["n = 3", "n.save()"], "TypeError|NameError"),
        (["a = nobody + 1"], "NameError|UnknownSiteError"),
        (["a = {S}.save()", "a = 2 * a"], "NameError"),
        (["a = {S}.save()", "a.save()"], "NameError"),
        (["{S}.save()"], "NameError|SyntaxError"),
        (["b = later * 2", "", "with invoke({rows}):", "    later = {S}.save()"], "NameError|UnknownSiteError"),
        (["a, b = {S}"], "SyntaxError"),
        (["a = {S}.save() + 1"], "SyntaxError"),
        (["a = {S}.median().save()"], "SyntaxError"),
        (["a = ({S}.save()"], "SyntaxError"),
        (["a = {S}[1.5]"], "SyntaxError|IndexError|TypeError"),
        (["{S} == 0"], "SyntaxError"),
        (["layer1 = layer1.output" if "layer1" in runner.modules else f"{sites[0][0].split('.')[0]} = {{S}}"], "NameError"),
    ]
    if not sequential:
        choices += [
            (["u = {L}[:, {width}].save()"], "IndexError"),
            (["{L}[[0], [{width}]] = 1"], "IndexError"),
            (["u = {L}[[0], :, [1]].save()"], "IndexError"),
            (["{L}[:, 0] = {L}[:, :, :3]"], "ShapeError"),
            (["{block}.skip({block}.input[:, :1])"], "ShapeError"),
            (["{block}.skip({block}.input)", "u = {block}.mlp.output.save()"], "MissedProviderError"),
            (["{block}.skip({block}.input)", "{block}.ln_1.input[:] = 0"], "MissedProviderError"),
            (["a = {block}.ln_1.input", "{block}.skip(a)"], "OutOfOrderError"),
            (["a = {block}.output", "{block}.skip(a)"], "OutOfOrderError"),
            (["u = transformer.h[3].output.save()"], "UnknownSiteError"),
            (["u = transformer.h[-4].output.save()"], "UnknownSiteError"),
            (["u = transformer.h.output.save()"], "UnknownSiteError"),
            (["u = transformer.output.save()"], "UnknownSiteError"),
            (["transformer.wte.input[:] = 1"], "TypeError"),
            (["transformer.wpe.input += 1"], "TypeError"),
        ]
    top = [
        ('w = load("nothing.safetensors", "a")', "FileError"),
        ('w = load("data.safetensors", "nothing")', "FileError"),
        ('w = load("cases")', "FileError"),
    ]
    if not sequential:
        top += [("with invoke([[1, 61]]):\n    a = {S}.save()", "IndexError|ValueError"),
                ("with invoke([[-1, 3]]):\n    a = {S}.save()", "IndexError|ValueError"),
                ("with invoke([[" + ", ".join(["1"] * 41) + "]]):\n    a = {S}.save()", "ValueError|IndexError"),
                ("with invoke([[]]):\n    a = {S}.save()", "ValueError|IndexError|SyntaxError"),
                ("with invoke([[1.5, 2]]):\n    a = {S}.save()", "TypeError"),
                ("with invoke(a):\n    b = {S}.save()", "NameError|UnknownSiteError")]
    values = dict(S=S, E=E, L=L, w=w, batch=batch, batch1=batch + 1, width=width, module=module, block=block, rows=rows)
    beginning = valid(reference, seed, load) + "\n" if r.random() < 0.4 else ""
    if r.random() < 0.12:
        text, errors = r.choice(top)
        return beginning + text.replace("{S}", S) + "\n", errors, beginning.count("\n") + 1
    lines, errors = r.choice(choices)
    body = [l if l.startswith("with") or not l else "    " + l for l in (l.format(**values) for l in lines)]
    text = beginning + f"with invoke({rows}):\n" + "\n".join(body) + "\n"
    wrong = next((k for k, l in enumerate(lines) if not l), len(lines)) if "later" in lines[0] else len(lines)
    return text, errors, beginning.count("\n") + 1 + wrong
