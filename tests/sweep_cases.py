"""Expected sweeps, for make_fixtures.py: one patched run of transformers' model after the other, as scripts of two invokes that reference.py runs.

A case is a list of axes over one site; its tensor in sweeps/MODEL.safetensors is logit_diff:11,12 at the last position, [pair, axes...], NaN where a
prompt has no such position. What is put there comes from the clean run, is zero, the mean of MEAN, the run of OTHER, or the tensor SITE.tensor beside it.
"""
import itertools

import torch

from reference import Interpreter

CLEAN = [[5, 17, 42, 8, 33, 21], [1, 2, 3, 4]]
CORRUPT = [[5, 18, 42, 8, 33, 20], [1, 7, 3, 5]]
MEAN = [[4, 9, 2, 7, 1, 6], [8, 8, 3, 2, 9, 9, 1], [3, 2]]
OTHER = [9, 4, 40, 4, 1, 30, 12]

# site, axes, source
CASES = {
    "gpt2": [("pattern", "layer,head", "clean"), ("pattern", "layer,head,position", "clean"), ("pattern", "head", "clean"), ("pattern", "layer,head", "zero"),
             ("pattern", "layer,position", "mean"), ("pattern", "layer,head,position", "resample"), ("pattern", "head,position", "tensor"),
             ("pre", "layer,position", "clean"), ("pre", "layer", "clean"), ("post", "layer,position", "clean"), ("post", "layer", "clean"),
             ("pre", "layer,position", "zero"), ("post", "layer,position", "mean"), ("post", "layer", "resample"), ("pre", "position", "tensor"),
             ("scores", "layer,head,position", "clean"), ("scores", "layer,head", "mean")],
    "llama": [("pattern", "layer,head", "clean"), ("pattern", "layer,head,position", "clean"), ("pattern", "layer,head", "mean"), ("pre", "layer,position", "clean"),
              ("post", "layer,position", "clean"), ("up", "layer,position", "clean"), ("k", "layer,head", "clean"), ("v", "layer,position,head", "clean"),
              ("rot_k", "layer,head", "clean"), ("rot_q", "layer,head", "zero"), ("scores", "layer,head", "clean"), ("k", "layer,head", "mean"),
              ("v", "layer,head", "tensor"), ("k", "position,head", "resample")],
}
HEADS, KEYS = ("z", "q", "k", "v", "rot_q", "rot_k"), ("pattern", "scores")


class Sweep:
    def __init__(self, runner, site):
        config = runner.model.config
        part = {"gpt2": ("transformer.h", "attn"), "llama": ("model.layers", "self_attn")}[config.model_type]
        self.runner, self.site = runner, site
        self.layers = config.num_hidden_layers
        self.heads = config.num_attention_heads
        if site in ("k", "v", "rot_k"):
            self.heads = getattr(config, "num_key_value_heads", self.heads)
        self.path = lambda layer: f"{part[0]}[{layer}].{part[1] if site in HEADS + KEYS else 'mlp'}.{site}"

    def run(self, text, tensors=None):
        return Interpreter(self.runner, lambda file, name=None: tensors[file].clone()).run(text)

    def shape(self, positions):
        """Of one layer's values of a prompt."""
        value = self.run(f"with invoke([{[1] * positions}]):\n    x = {self.path(0)}.save()\n")["x"]
        return value.shape[1:]

    def mean(self, layer):
        """Over the prompts that have a position, in double."""
        longest = max(map(len, MEAN))
        total, count = torch.zeros(self.shape(longest), dtype=torch.float64), torch.zeros(longest, dtype=torch.float64)
        at = 1 if self.site in KEYS else 0
        for prompt in MEAN:
            n = len(prompt)
            value = self.run(f"with invoke([{prompt}]):\n    x = {self.path(layer)}.save()\n")["x"][0].double()
            (total[:, :n, :n] if at else total[:n]).add_(value)
            count[:n] += 1
        return (total / count.reshape([-1 if d == at else 1 for d in range(total.dim())])).float()

    def index(self, axes, point, length):
        """The text of an index behind the batch; of other tensors too, which may be longer."""
        at = dict(zip(axes, point))
        position, head = str(at.get("position", f":{length}")), str(at.get("head", ":"))
        return ", ".join([head, position, f":{length}"] if self.site in KEYS else [position, head] if self.site in HEADS else [position])

    def point(self, axes, point, pair, source, tensors):
        at, length = dict(zip(axes, point)), len(CLEAN[pair])
        layers, index, noise = [at["layer"]] if "layer" in at else range(self.layers), self.index(axes, point, length), source != "clean"
        lines, values = [], ["0"] * self.layers
        if source in ("clean", "resample"):
            lines.append(f"with invoke([{OTHER if noise else CLEAN[pair]}]):")
        for layer in layers if source != "zero" else []:
            values[layer] = f"v{layer}"
            lines.append(f"v{layer} = load('{source}{layer}')[{index}]" if tensors else f"    v{layer} = {self.path(layer)}[:, {index}]")
        lines.append(f"with invoke([{(CLEAN if noise else CORRUPT)[pair]}]):")
        lines += [f"    {self.path(layer)}[:, {index}] = {values[layer]}" for layer in layers]
        lines += ["    logits = output.logits[0, -1].save()"]
        logits = self.run("\n".join(lines) + "\n", tensors)["logits"].double()
        return (logits[11] - logits[12]).item()

    def all(self, axes, source, tensor):
        tensors = {f"{source}{layer}": self.mean(layer) if source == "mean" else tensor[layer] for layer in range(self.layers)} if source in ("mean", "tensor") else {}
        extents = {"layer": self.layers, "head": self.heads, "position": max(map(len, CLEAN))}
        out = torch.full([len(CLEAN)] + [extents[axis] for axis in axes], float("nan"))
        for pair in range(len(CLEAN)):
            for point in itertools.product(*(range(extents[axis]) for axis in axes)):
                if dict(zip(axes, point)).get("position", 0) < len(CLEAN[pair]):
                    out[(pair, *point)] = self.point(axes, point, pair, source, tensors)
        return out


def expected(name, runner):
    """-> {"SITE AXES SOURCE": values, "SITE.tensor": what the source `tensor` is}"""
    out, generator = {}, torch.Generator().manual_seed(7)
    for site, axes, source in CASES[name]:
        sweep, tensor = Sweep(runner, site), None
        if source == "tensor":
            tensor = torch.rand((sweep.layers, *sweep.shape(7)), generator=generator)
            out[f"{site}.tensor"] = tensor
        out[f"{site} {axes} {source}"] = sweep.all(axes.split(","), source, tensor)
    return out
