#!/usr/bin/env python3
"""Makes fixtures/FAMILY/cases/gradients_*.inset and what PyTorch's autograd, in double precision, says they save.

Needs what make_fixtures.py needs. The models are those that make_fixtures.py made.
"""
import pathlib

import torch
from transformers import AutoModelForCausalLM

from make_fixtures import write_tensors

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
# family: its blocks, a block's attention, and the module whose input is z
FAMILIES = {
    "gpt2": ("transformer.h", "attn", "c_proj"), "gpt_neox": ("gpt_neox.layers", "attention", "dense"),
    "gpt_neox_serial": ("gpt_neox.layers", "attention", "dense"),
    **{name: ("model.layers", "self_attn", "o_proj")
       for name in ("llama", "llama3", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "olmo2")},
}
CLEAN, CORRUPT = [3, 7, 11, 2, 5, 9], [3, 7, 20, 2, 8, 9]


# 16-bit models whose gradients are made in double precision from the same weights
SIXTEEN = {"gpt2_bf16": "gpt2", "gpt2_f16": "gpt2", "llama_bf16": "llama"}
FAMILIES.update({name: FAMILIES[like] for name, like in SIXTEEN.items()})


class Family:
    """One model, with hooks that change or note what its modules give."""

    def __init__(self, name):
        self.name = name
        self.dtype = {"bf16": torch.bfloat16, "f16": torch.float16}.get(name.rsplit("_", 1)[-1], torch.float32)
        self.blocks, self.attention, self.last = FAMILIES[name]
        self.model = AutoModelForCausalLM.from_pretrained(FIXTURES / name, attn_implementation="eager",
                                                          dtype=torch.float32).double().eval()
        for p in self.model.parameters():
            p.requires_grad_(False)
        self.model.get_input_embeddings().weight.requires_grad_(True)

    def run(self, tokens, outputs=None, inputs=None):
        """Logits; outputs and inputs: {module path below a block: function of the tensor, which may give another}."""
        handles = []
        for path, function in (outputs or {}).items():
            def after(module, args, out, function=function):
                first = out[0] if isinstance(out, tuple) else out
                changed = function(first)
                if changed is None:
                    return None
                return (changed,) + tuple(out[1:]) if isinstance(out, tuple) else changed
            handles.append(self.model.get_submodule(path).register_forward_hook(after))
        for path, function in (inputs or {}).items():
            def before(module, args, function=function):
                changed = function(args[0])
                return None if changed is None else (changed,) + tuple(args[1:])
            handles.append(self.model.get_submodule(path).register_forward_pre_hook(before))
        logits = self.model(torch.tensor(tokens)).logits
        for handle in handles:
            handle.remove()
        return logits

    def block(self, i, path=""):
        return f"{self.blocks}.{i}" + (f".{path}" if path else "")

    def site(self, i, path):
        return f"{self.blocks}[{i}].{path}"


def kept(into, name):
    """Notes a tensor whose gradient is wanted."""
    def note(x):
        x.retain_grad()
        into[name] = x
    return note


def write(family, name, script, values):
    folder = FIXTURES / family.name / "cases"
    (folder / f"gradients_{name}.inset").write_text(script)
    write_tensors(folder / f"gradients_{name}.safetensors",
                  {key: value.detach().to(family.dtype).contiguous() for key, value in values.items()})


def diff(row, a, b):
    return row[a].mean() - row[b].mean()


def sites(f):
    """Places inside a block, of one metric of a batch."""
    x = {}
    logits = f.run([CLEAN, CORRUPT], {f.block(0): kept(x, "block"), f.block(1, "mlp"): kept(x, "mlp"),
                                      f.block(1, f.attention): kept(x, "attention")},
                   {f.block(1, f"{f.attention}.{f.last}"): kept(x, "z")})
    diff(logits[1, -1], [3, 4], [7]).backward()
    heads = f.model.config.num_attention_heads
    z = x["z"].grad
    script = f"""# Gradients come from the last place to the first.
with invoke({[CLEAN, CORRUPT]}):
    block = {f.site(0, 'output')}
    z = {f.site(1, f.attention + '.z')}
    attention = {f.site(1, f.attention + '.output')}
    mlp = {f.site(1, 'mlp.output')}
    m = output.logits[1, -1].logit_diff([3, 4], 7)
    with m.backward():
        mlp_grad = mlp.grad.save()
        attention_grad = attention.grad.save()
        z_grad = z.grad.save()
        block_grad = block.grad[:, 1:].save()
"""
    write(f, "sites", script, {"mlp_grad": x["mlp"].grad, "attention_grad": x["attention"].grad,
                               "z_grad": z.reshape(2, len(CLEAN), heads, -1), "block_grad": x["block"].grad[:, 1:]})


def metrics(f):
    """Metrics that depend on whole rows, and arithmetic of them."""
    x = {}
    logits = f.run([CLEAN], {f.block(0): kept(x, "block")})
    p = torch.log_softmax(logits[0], -1)
    (p[-1, [3, 4]].logsumexp(-1) * 0.5 - p[2, 7].exp() * 3 + logits[0, 1, 5] / 4).backward()
    script = f"""with invoke({[CLEAN]}):
    block = {f.site(0, 'output')}
    rows = output.logits
    a = rows[0, -1].log_probability([3, 4])
    b = rows[0, 2].probability(7)
    m = a * 0.5 - b * 3 + rows[0, 1, 5] / 4
    with m.backward():
        block_grad = block.grad.save()
"""
    write(f, "metrics", script, {"block_grad": x["block"].grad})


def sets(f):
    """Sets in place, from a number, from itself and from another place; and of a gradient."""
    x, grads = {}, {}

    def block(t):
        t = t.clone()
        t[:, 1] = 0
        t[:, 2] = t[:, 2] * 3
        t.retain_grad()
        x["block"] = t
        return t

    def mlp(t):
        t = t.clone()
        t[:, -1] = x["block"][:, 3]

        def back(g):
            grads["mlp"] = g.clone()
            g = g.clone()
            g[:, 0] = 0
            return g
        t.register_hook(back)
        return t

    logits = f.run([CLEAN], {f.block(0): block, f.block(1, "mlp"): mlp})
    diff(logits[0, -1], [3], [7]).backward()
    script = f"""with invoke({[CLEAN]}):
    block = {f.site(0, 'output')}
    block[:, 1] = 0
    block[:, 2] *= 3
    mlp = {f.site(1, 'mlp.output')}
    mlp[:, -1] = block[:, 3]
    m = output.logits[0, -1].logit_diff(3, 7)
    with m.backward():
        mlp_grad = mlp.grad.clone().save()
        mlp.grad[:, 0] = 0
        block_grad = block.grad.save()
"""
    write(f, "sets", script, {"mlp_grad": grads["mlp"], "block_grad": x["block"].grad})


def across(f):
    """From one invoke into another: a set, a replacement, arithmetic; gradients of both."""
    clean, corrupt = {}, {}
    f.run([CLEAN], {f.block(0): kept(clean, "block"), f.block(1, "mlp"): kept(clean, "mlp")})

    def block(t):
        corrupt["block"] = t
        t.retain_grad()
        changed = t.clone()
        changed[:, 2] = clean["block"][:, 2] * 2 - changed[:, 2]
        changed.retain_grad()
        corrupt["changed"] = changed
        return changed

    logits = f.run([CORRUPT], {f.block(0): block, f.block(1, "mlp"): lambda t: clean["mlp"] * 1.5})
    diff(logits[0, -1], [3], [7]).backward()
    script = f"""with invoke({[CLEAN]}):
    block = {f.site(0, 'output')}
    mlp = {f.site(1, 'mlp.output')}
with invoke({[CORRUPT]}):
    own = {f.site(0, 'output')}
    own[:, 2] = block[:, 2] * 2 - own[:, 2]
    {f.site(1, 'mlp.output')} = mlp * 1.5
    m = output.logits[0, -1].logit_diff(3, 7)
    with m.backward():
        own_grad = own.grad.save()
        mlp_grad = mlp.grad.save()
        block_grad = block.grad.save()
"""
    write(f, "across", script, {"own_grad": corrupt["changed"].grad, "mlp_grad": clean["mlp"].grad,
                                "block_grad": clean["block"].grad})


def several(f):
    """A metric of two invokes, a skipped module, and two metrics of one invoke after each other."""
    first, second = {}, {}
    one = f.run([CLEAN], {f.block(0): kept(first, "block")})
    two = f.run([CORRUPT], {f.block(0): kept(second, "block"), f.block(1, "mlp"): lambda t: second["block"] * 0.5})
    a, b = diff(one[0, -1], [3], [7]), diff(two[0, -2], [4], [7])
    values = {}
    (a + b * 2).backward(retain_graph=True)
    values["second_grad"], values["first_grad"] = second["block"].grad.clone(), first["block"].grad.clone()
    first["block"].grad = None
    one[0, 1, 9].backward()
    values["other_grad"] = first["block"].grad.clone()
    script = f"""with invoke({[CLEAN]}):
    first = {f.site(0, 'output')}
    a = output.logits[0, -1].logit_diff(3, 7)
    other = output.logits[0, 1, 9]
with invoke({[CORRUPT]}):
    second = {f.site(0, 'output')}
    {f.site(1, 'mlp')}.skip(second * 0.5)
    b = output.logits[0, -2].logit_diff(4, 7)
with (a + b * 2).backward():
    second_grad = second.grad.save()
    first_grad = first.grad.save()
with other.backward():
    other_grad = first.grad.save()
"""
    write(f, "several", script, values)


if __name__ == "__main__":
    for name in FAMILIES:
        family = Family(name)
        for make in (sites,) if name in SIXTEEN else (sites, metrics, sets, across, several):
            make(family)
        print(name)
