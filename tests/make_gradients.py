#!/usr/bin/env python3
"""Makes fixtures/FAMILY/cases/gradients_*.inset and what PyTorch's autograd, in double precision, says they save.

Needs what make_fixtures.py needs. The models are those that make_fixtures.py made.
"""
import operator
import pathlib
import re
import sys

import torch
from transformers import AutoModelForCausalLM, BertForMaskedLM
from transformers.pytorch_utils import Conv1D

from experts import open_experts
from make_fixtures import write_tensors
from named_sites import is_centred, with_sinks, with_eager_alibi, with_eager_attention, with_positions_apart

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
# family: its blocks, a block's attention, and the module whose input is z
FAMILIES = {
    "gpt2": ("transformer.h", "attn", "c_proj"), "gpt_neo": ("transformer.h", "attn.attention", "out_proj"),
    "gptj": ("transformer.h", "attn", "out_proj"), "bloom": ("transformer.h", "self_attention", "dense"),
    "gpt_neox": ("gpt_neox.layers", "attention", "dense"), "gpt_neox_serial": ("gpt_neox.layers", "attention", "dense"),
    **{name: ("model.layers", "self_attn", "o_proj")
       for name in ("llama", "llama3", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "olmo2", "gemma", "gemma3", "olmo3", "smollm3",
                    "stablelm", "stablelm_parallel", "starcoder2", "granite", "olmo", "cohere", "cohere2", "mixtral", "qwen3_moe", "gpt_oss")},
    "phi": ("model.layers", "self_attn", "dense"), "opt": ("model.decoder.layers", "self_attn", "out_proj"),
    "bert": ("bert.encoder.layer", "attention", "output.dense"),
}
EXPERTS = ("mixtral", "qwen3_moe", "gpt_oss")
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
        # what the MLP adds comes out of it, and a module of a block that takes and gives rows of the stream's width
        self.open = "attention.self" if name == "bert" else self.attention      # the module that has scores and patterns
        self.mlp, self.as_wide = {"bert": ("output.dense", "attention.output.dense"), "opt": ("fc2", "self_attn.out_proj"), "bloom": ("mlp.dense_4h_to_h", "self_attention.dense")}.get(name, ("mlp", "mlp"))
        self.model = (BertForMaskedLM if name == "bert" else AutoModelForCausalLM).from_pretrained(FIXTURES / name, attn_implementation="eager",
                                                          dtype=torch.float32).double().eval()
        self.shown = lambda path, site, x: x              # what experts show, and what takes its place
        open_experts(self.model, lambda *what: self.shown(*what))
        for p in self.model.parameters():
            p.requires_grad_(False)
        if name == "gpt_neo":
            with_eager_attention(sys.modules[type(self.model).__module__])
        if name == "bloom":
            with_eager_alibi(sys.modules[type(self.model).__module__])
        if name == "opt":
            with_positions_apart(self.model)
        self.model.get_input_embeddings().weight.requires_grad_(True)

    def in_the_open(self, shown):
        """Attention and norms that show what no module gives: shown(name of the module, site, tensor) gives what takes its place."""
        names = {module: name for name, module in self.model.named_modules()}
        source = sys.modules[type(self.model.get_submodule(self.block(0, self.open))).__module__]
        kept_forward = source.eager_attention_forward

        def attend(module, query, key, value, mask, scaling=None, softcap=None, alibi=None, **kwargs):
            copies = query.shape[1] // key.shape[1]
            scores = query @ key.repeat_interleave(copies, 1).transpose(2, 3) * (scaling or query.shape[-1] ** -0.5)
            if softcap:
                scores = torch.tanh(scores / softcap) * softcap
            if alibi is not None:
                scores = scores + alibi
            if mask is not None:
                scores = scores.masked_fill(mask[..., :key.shape[2]] < -1, -float("inf"))
            scores = shown(names[module], "scores", scores)
            pattern = shown(names[module], "pattern", with_sinks(module, scores, scores.dtype))
            return (pattern @ value.repeat_interleave(copies, 1)).transpose(1, 2).contiguous(), pattern

        def norm(module, x):
            y = x - x.mean(-1, keepdim=True) if is_centred(module) else x
            eps = getattr(module, "variance_epsilon", getattr(module, "eps", 1e-5))
            y = y / shown(names[module], "scale", (y.pow(2).mean(-1, keepdim=True) + eps).sqrt())
            weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
            if weight is not None:
                y = y * (1 + weight if type(module).__name__.startswith("Gemma") else weight)
            return y if bias is None else y + bias

        source.eager_attention_forward = attend
        norms = [m for m in names if re.search(r"(LayerNorm|RMSNorm)$", type(m).__name__)]
        for module in norms:
            module.forward = norm.__get__(module)

        def close():
            source.eager_attention_forward = kept_forward
            for module in norms:
                del module.forward
        return close

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

    def norm(self, i):
        """The first norm of block i, or the one before the logits."""
        if self.name == "opt" and i < 0:
            return "model.decoder.final_layer_norm"              # which is named before the blocks
        norms = [name for name, module in self.model.named_modules()
                 if re.search(r"(LayerNorm|RMSNorm)$", type(module).__name__)
                 and not (self.name == "gemma3" and name.endswith(("q_norm", "k_norm")))]    # heads before positions
        return norms[-1] if i < 0 else next(name for name in norms if name.startswith(self.block(i) + "."))

    def path(self, name):
        return re.sub(r"\.(\d+)\.", r"[\1].", name)

    def block(self, i, path=""):
        return f"{self.blocks}.{i}" + (f".{path}" if path else "")

    def site(self, i, path):
        return f"{self.blocks}[{i}].{path}"


def norm_width(module, otherwise):
    weight = getattr(module, "weight", None)
    return otherwise if weight is None else weight.shape[0]


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
    logits = f.run([CLEAN, CORRUPT], {f.block(0): kept(x, "block"), f.block(1, f.mlp): kept(x, "mlp"),
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
    mlp = {f.site(1, f.mlp + '.output')}
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

    logits = f.run([CLEAN], {f.block(0): block, f.block(1, f.mlp): mlp})
    diff(logits[0, -1], [3], [7]).backward()
    script = f"""with invoke({[CLEAN]}):
    block = {f.site(0, 'output')}
    block[:, 1] = 0
    block[:, 2] *= 3
    mlp = {f.site(1, f.mlp + '.output')}
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
    f.run([CLEAN], {f.block(0): kept(clean, "block"), f.block(1, f.mlp): kept(clean, "mlp")})

    def block(t):
        corrupt["block"] = t
        t.retain_grad()
        changed = t.clone()
        changed[:, 2] = clean["block"][:, 2] * 2 - changed[:, 2]
        changed.retain_grad()
        corrupt["changed"] = changed
        return changed

    logits = f.run([CORRUPT], {f.block(0): block, f.block(1, f.mlp): lambda t: clean["mlp"] * 1.5})
    diff(logits[0, -1], [3], [7]).backward()
    script = f"""with invoke({[CLEAN]}):
    block = {f.site(0, 'output')}
    mlp = {f.site(1, f.mlp + '.output')}
with invoke({[CORRUPT]}):
    own = {f.site(0, 'output')}
    own[:, 2] = block[:, 2] * 2 - own[:, 2]
    {f.site(1, f.mlp + '.output')} = mlp * 1.5
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
    two = f.run([CORRUPT], {f.block(0): kept(second, "block"), f.block(1, f.mlp): lambda t: second["block"] * 0.5})
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
    {f.site(1, f.mlp)}.skip(second * 0.5)
    b = output.logits[0, -2].logit_diff(4, 7)
with (a + b * 2).backward():
    second_grad = second.grad.save()
    first_grad = first.grad.save()
with other.backward():
    other_grad = first.grad.save()
"""
    write(f, "several", script, values)


def in_the_open(f):
    """Scores, patterns and scales of norms: gradients of them, and through what is set in them."""
    x, last = {}, f.norm(-1)

    def shown(name, site, t):
        where = {f.block(0, f.open): 0, f.block(1, f.open): 1, f.norm(1): "norm", last: "last"}.get(name)
        if (where, site) == (0, "pattern"):
            t = t.clone()
            t[:, 1, 3] = t[:, 0, 3] * 0.5
        if (where, site) == (1, "scores"):
            t = t.clone()
            t[:, :, -1, 2] = t[:, :, -1, 2] * 2
        if (where, site) == ("norm", "scale"):
            t = t.clone()
            t[:, 2:4] = t[:, 2:4] * 1.5
        if where is not None:
            t.retain_grad()
            x[where, site] = t
        return t

    close = f.in_the_open(shown)
    logits = f.run([CLEAN], {f.block(0): kept(x, "block")})
    diff(logits[0, -1], [3, 4], [7]).backward()
    close()
    scale = [f"    scale = {f.path(f.norm(1))}.scale\n", "    scale[:, 2:4] *= 1.5\n"]
    scores = [f"    scores = {f.site(1, f.open + '.scores')}\n", "    scores[:, :, -1, 2] *= 2\n", f"    pattern = {f.site(1, f.open + '.pattern')}\n"]
    script = f"""with invoke({[CLEAN]}):
    early = {f.site(0, f.open + '.pattern')}
    early[:, 1, 3] = early[:, 0, 3] * 0.5
    block = {f.site(0, 'output')}
{"".join(scores + scale if f.name == "bert" else scale + scores)}    last = {f.path(last)}.scale
    m = output.logits[0, -1].logit_diff([3, 4], 7)
    with m.backward():
        last_grad = last.grad.save()
{"        scale_grad = scale.grad.save()" if f.name == "bert" else ""}
        pattern_grad = pattern.grad.save()
        scores_grad = scores.grad.save()
{"" if f.name == "bert" else "        scale_grad = scale.grad.save()"}
        block_grad = block.grad.save()
        early_grad = early.grad.save()
"""
    script = re.sub(r"\n\n+", "\n", script)
    grads = {"last": x["last", "scale"], "pattern": x[1, "pattern"], "scores": x[1, "scores"], "scale": x["norm", "scale"],
             "block": x["block"], "early": x[0, "pattern"]}
    write(f, "open", script, {name: grads[name[:-5]].grad for name in re.findall(r"(\w+_grad) =", script)})


def open_across(f):
    """A pattern from another invoke, and a metric that is a score itself."""
    x, long = {}, CLEAN

    def first(name, site, t):
        if name == f.block(1, f.open) and site == "pattern":
            t.retain_grad()
            x["clean"] = t
        return t

    def second(name, site, t):
        if name == f.block(1, f.open) and site == "pattern":
            return x["clean"] * 0.5 + t * 0.5
        if name == f.block(0, f.open) and site == "scores":
            t.retain_grad()
            x["scores"] = t
        return t

    close = f.in_the_open(first)
    f.run([long])
    close()
    close = f.in_the_open(second)
    logits = f.run([CORRUPT], {f.block(0): kept(x, "block")})
    close()
    (diff(logits[0, -1], [3], [7]) + x["scores"][0, 1, -1, 2]).backward()
    values = {"block_grad": x["block"].grad, "scores_grad": x["scores"].grad, "clean_grad": x["clean"].grad}
    script = f"""with invoke({[long]}):
    clean = {f.site(1, f.open + '.pattern')}
with invoke({[CORRUPT]}):
    scores = {f.site(0, f.open + '.scores')}
    one = scores[0, 1, -1, 2]
    block = {f.site(0, 'output')}
    {f.site(1, f.open + '.pattern')} = clean * 0.5 + {f.site(1, f.open + '.pattern')} * 0.5
    m = output.logits[0, -1].logit_diff(3, 7)
    with (m + one).backward():
        block_grad = block.grad.save()
        scores_grad = scores.grad.save()
        clean_grad = clean.grad.save()
"""
    write(f, "open_across", script, values)


def gathers(f):
    """Lists as indices, read and set, and zeros that two invokes fill and a third reads."""
    first, second, third = {}, {}, {}
    f.run([CLEAN], {f.block(0): kept(first, "block")})
    f.run([CORRUPT], {f.block(0): kept(second, "block")})
    store = torch.stack([first["block"][0, 3], second["block"][0, 2] * 2 + second["block"][0, [1, 4]][1]])

    def mlp(t):
        t = t.clone()
        t[:, [1, 4]] = first["block"][:, [0, 2]]
        t[:, -1] = store[0] * store[1]
        t.retain_grad()
        third["mlp"] = t
        return t

    logits = f.run([CLEAN], {f.block(1, f.mlp): mlp})
    diff(logits[0, -1], [3], [7]).backward()
    width = f.model.config.hidden_size
    script = f"""store = zeros(2, {width})
with invoke({[CLEAN]}):
    first = {f.site(0, 'output')}
    rows = first[:, [0, 2]]
    store[0] = first[0, 3]
with invoke({[CORRUPT]}):
    second = {f.site(0, 'output')}
    two = second[0, [1, 4]]
    store[1] = second[0, 2] * 2 + two[1]
with invoke({[CLEAN]}):
    mlp = {f.site(1, f.mlp + '.output')}
    mlp[:, [1, 4]] = rows
    mlp[:, -1] = store[0] * store[1]
    m = output.logits[0, -1].logit_diff(3, 7)
    with m.backward():
        mlp_grad = mlp.grad.save()
        second_grad = second.grad.save()
        first_grad = first.grad.save()
"""
    write(f, "gathers", script, {"mlp_grad": third["mlp"].grad, "second_grad": second["block"].grad,
                                 "first_grad": first["block"].grad})


def beside_nnsight(f):
    """The same lines run by nnsight: a set from another run, gradients read, changed in place and replaced."""
    from nnsight import NNsight
    wrapped = NNsight(f.model)
    blocks = wrapped
    for name in f.blocks.split("."):
        blocks = getattr(blocks, name)
    attention, last = f.attention, f.last
    inner, outer = operator.attrgetter(f"{attention}.{last}")(blocks[1]), blocks[0].mlp
    head = wrapped.lm_head if hasattr(f.model, "lm_head") else wrapped.embed_out
    with wrapped.trace(torch.tensor([CLEAN])):
        clean = outer.output.detach().save()
    with wrapped.trace(torch.tensor([CORRUPT])):
        mlp = outer.output
        mlp[:, 1] = clean[:, 2] * 2
        z = inner.input
        block = blocks[1].mlp.output
        rows = head.output[0, -1]
        with (rows[3] - rows[7]).backward():
            block_grad = block.grad.clone().save()
            block.grad = block.grad * 0.5
            z_grad = z.grad.clone().save()
            z.grad[:, 2] = 0
            mlp_grad = mlp.grad.clone().save()
    script = f"""with invoke({[CLEAN]}):
    clean = {f.site(0, f.mlp + '.output')}
with invoke({[CORRUPT]}):
    mlp = {f.site(0, f.mlp + '.output')}
    mlp[:, 1] = clean[:, 2] * 2
    z = {f.site(1, f'{f.attention}.{f.last}.input')}
    block = {f.site(1, f.mlp + '.output')}
    m = output.logits[0, -1].logit_diff(3, 7)
    with m.backward():
        block_grad = block.grad.clone().save()
        block.grad = block.grad * 0.5
        z_grad = z.grad.clone().save()
        z.grad[:, 2] = 0
        mlp_grad = mlp.grad.clone().save()
"""
    write(f, "nnsight", script, {"block_grad": block_grad, "z_grad": z_grad, "mlp_grad": mlp_grad})


def positions(f):
    """A position embedding, which all sequences of an invoke share."""
    x = {}

    def kept_position(t):
        t = t.clone()
        t[:, 2] = t[:, 2] * 2
        x["wpe"] = t.requires_grad_()
        return t

    logits = f.run([CLEAN, CORRUPT], {"transformer.wpe": kept_position})
    (diff(logits[0, -1], [3], [7]) + logits[1, 3, 5]).backward()
    script = f"""with invoke({[CLEAN, CORRUPT]}):
    wpe = transformer.wpe.output
    wpe[:, 2] *= 2
    m = output.logits[0, -1].logit_diff(3, 7) + output.logits[1, 3, 5]
    with m.backward():
        wpe_grad = wpe.grad.save()
"""
    write(f, "positions", script, {"wpe_grad": x["wpe"].grad})


def functions(f):
    """Functions of values, put back in at several positions."""
    x, F = {}, torch.nn.functional

    def block(t):
        x["block"] = t
        t.retain_grad()
        return None

    def mlp(t):
        t, b = t.clone(), x["block"]
        t[:, 0] = torch.exp(b[:, 0] * 0.25) + torch.log(b[:, 1].abs() + 1)
        t[:, 1] = torch.sigmoid(b[:, 1]) * torch.tanh(b[:, 2])
        t[:, 2] = F.gelu(b[:, 2]) - F.gelu(b[:, 3], approximate="tanh")
        t[:, 3] = F.silu(b[:, 3]) + F.relu(b[:, 4]) + torch.sqrt(b[:, 0] * b[:, 0] + 1)
        t[:, 4] = b[:, 4].clamp(-0.5, 0.75) + b[:, 1].clamp_min(0.1) - b[:, 2].clamp_max(0.2)
        return t

    logits = f.run([CLEAN], {f.block(0): block, f.block(1, f.mlp): mlp})
    diff(logits[0, -1], [3], [7]).backward()
    script = f"""with invoke({[CLEAN]}):
    b = {f.site(0, 'output')}
    mlp = {f.site(1, f.mlp + '.output')}
    mlp[:, 0] = exp(b[:, 0] * 0.25) + log(abs(b[:, 1]) + 1)
    mlp[:, 1] = sigmoid(b[:, 1]) * tanh(b[:, 2])
    mlp[:, 2] = gelu(b[:, 2]) - gelu_tanh(b[:, 3])
    mlp[:, 3] = silu(b[:, 3]) + relu(b[:, 4]) + sqrt(b[:, 0] * b[:, 0] + 1)
    mlp[:, 4] = b[:, 4].clamp(-0.5, 0.75) + b[:, 1].clamp_min(0.1) - b[:, 2].clamp_max(0.2)
    m = output.logits[0, -1].logit_diff(3, 7)
    with m.backward():
        block_grad = b.grad.save()
"""
    write(f, "functions", script, {"block_grad": x["block"].grad})


def rows(f):
    """Functions of whole rows and products, put back in at several positions."""
    x, width = {}, f.model.config.hidden_size
    seed = torch.Generator().manual_seed(5)
    w = (torch.randn(width, 6, generator=seed, dtype=torch.float64) * 4).round() / 8
    linear = next(n for n, m in f.model.named_modules() if n.startswith(f.block(1)) and isinstance(m, torch.nn.Linear | Conv1D)
                  and m.weight.shape[1 if isinstance(m, torch.nn.Linear) else 0] == width)
    weight = f.model.get_submodule(linear).weight
    matrix = weight[:8].T if isinstance(f.model.get_submodule(linear), torch.nn.Linear) else weight[:, :8]

    def block(t):
        x["block"] = t
        t.retain_grad()
        return None

    def mlp(t):
        t, b = t.clone(), x["block"]
        h = torch.relu((b - b.mean(1, keepdim=True)) @ w + 0.25)
        top = h[:, 3].topk(3).values
        t[:, 0] = h[:, 0] @ w.T + b.sum((0, 1)) / 8 + b[0].mean(0) * 2
        t[:, 1] = b[:, 1] * torch.softmax(b[:, 1] / 2, -1) + torch.log_softmax(b[:, 2], -1) / 8
        t[:, 2] = b[:, 2] / b[:, 2].norm(dim=-1, keepdim=True) + b[:, 0].amax(-1, keepdim=True) - b[:, 1].amin(-1, keepdim=True)
        t[:, 3] = torch.where(b[:, 3] > 0.1, b[:, 3] * b[:, 0], b[:, 4] / 2) + (top @ torch.tensor([1, 0.5, 0.25], dtype=b.dtype))[:, None]
        t[:, 4] -= (b[:, 4] @ b[0, 2])[:, None] * b[:, 5] - (b[:, 4] - (h[:, 4] @ w.T)).detach() + (b[:, 3] @ matrix).sum()
        t[:, 5] = ((b @ b.mT)[:, 5] @ b)[0] / 8 + b.amax((0, 1)) * b[:, :, 1].norm()
        return t

    logits = f.run([CLEAN], {f.block(0): block, f.block(1, f.mlp): mlp})
    diff(logits[0, -1], [3], [7]).backward()
    path, behind = f.path(linear), "[:8].T" if isinstance(f.model.get_submodule(linear), torch.nn.Linear) else "[:, :8]"
    script = f"""with invoke({[CLEAN]}):
    w = {w.tolist()}
    b = {f.site(0, 'output')}
    mlp = {f.site(1, f.mlp + '.output')}
    h = relu((b - b.mean(1, keepdim=True)) @ w + 0.25)
    top = h[:, 3].topk(3).values
    mlp[:, 0] = h[:, 0] @ w.T + b.sum((0, 1)) / 8 + b[0].mean(0) * 2
    mlp[:, 1] = b[:, 1] * softmax(b[:, 1] / 2, -1) + log_softmax(b[:, 2], -1) / 8
    mlp[:, 2] = b[:, 2] / b[:, 2].norm(dim=-1, keepdim=True) + b[:, 0].amax(-1, keepdim=True) - b[:, 1].amin(-1, keepdim=True)
    mlp[:, 3] = where(b[:, 3] > 0.1, b[:, 3] * b[:, 0], b[:, 4] / 2) + (top @ [1, 0.5, 0.25])[:, None]
    mlp[:, 4] -= (b[:, 4] @ b[0, 2])[:, None] * b[:, 5] - (b[:, 4] - (h[:, 4] @ w.T)).detach() + (b[:, 3] @ {path}.weight{behind}).sum()
    mlp[:, 5] = ((b @ b.mT)[:, 5] @ b)[0] / 8 + b.amax((0, 1)) * b[:, :, 1].norm()
    m = output.logits[0, -1].logit_diff(3, 7)
    with m.backward():
        block_grad = b.grad.save()
"""
    write(f, "rows", script, {"block_grad": x["block"].grad})


def calls(f):
    """Modules applied to values: a norm and the head, a whole MLP."""
    x, norm, width = {}, f.norm(-1), f.model.config.hidden_size
    first = next(n for n, m in f.model.named_modules() if re.search(r"(LayerNorm|RMSNorm)$", type(m).__name__) and norm_width(m, width) == width)
    head = "embed_out" if hasattr(f.model, "embed_out") else "cls.predictions.decoder" if f.name == "bert" else "lm_head"
    mlp_path = f.block(0, f.as_wide)
    call = lambda name, t: f.model.get_submodule(name)(t)

    def block(t):
        x["block"] = t
        t.retain_grad()
        return None

    def mlp(t):
        t, b = t.clone(), x["block"]
        lens = call(head, call(norm, b[:, 2] * 2))
        t[:, 0] = call(mlp_path, b[:, 0]) + call(first, b[:, 1]) * 0.5
        t[:, 1] += torch.softmax(lens, -1).amax(-1, keepdim=True)
        t[:, 2] += call(mlp_path, call(first, b[:, 3] + b[:, 4]))
        return t

    logits = f.run([CLEAN], {f.block(0): block, f.block(1, f.mlp): mlp})
    diff(logits[0, -1], [3], [7]).backward()
    script = f"""with invoke({[CLEAN]}):
    b = {f.site(0, 'output')}
    mlp = {f.site(1, f.mlp + '.output')}
    lens = {head.replace("embed_out", "lm_head")}({f.path(norm)}(b[:, 2] * 2))
    mlp[:, 0] = {f.path(mlp_path)}(b[:, 0]) + {f.path(first)}(b[:, 1]) * 0.5
    mlp[:, 1] += softmax(lens, -1).amax(-1, keepdim=True)
    mlp[:, 2] += {f.path(mlp_path)}({f.path(first)}(b[:, 3] + b[:, 4]))
    m = output.logits[0, -1].logit_diff(3, 7)
    with m.backward():
        block_grad = b.grad.save()
"""
    write(f, "calls", script, {"block_grad": x["block"].grad})


def sequences(f):
    """A block and an attention module applied to whole sequences, and to a part of each."""
    x, inside, block_path, attention = {}, [], f.block(0), f.block(1, f.attention)
    norm = next(n for n, m in f.model.named_modules() if n.startswith(f.block(1)) and re.search(r"(LayerNorm|RMSNorm)$", type(m).__name__)
                and norm_width(m, f.model.config.hidden_size) == f.model.config.hidden_size)

    def given(path, tokens):
        """What the model gives the module beside its input."""
        seen = {}
        handle = f.model.get_submodule(path).register_forward_pre_hook(lambda m, a, k: seen.update(args=a[1:], kwargs=k), with_kwargs=True)
        f.model(torch.tensor(tokens))
        handle.remove()
        seen["kwargs"] = {k: v for k, v in seen["kwargs"].items() if k not in ("hidden_states", "past_key_values", "past_key_value", "layer_past", "use_cache")}
        return seen

    whole, part = given(block_path, [CLEAN, CORRUPT]), given(attention, [CLEAN[:3], CORRUPT[:3]])

    def call(path, t, rest):
        inside.append(path)
        out = f.model.get_submodule(path)(t, *[None if hasattr(a, "get_seq_length") else a for a in rest["args"]], **rest["kwargs"])
        inside.pop()
        return out[0] if isinstance(out, tuple) else out

    def block(t):
        if inside:
            return None
        x["block"] = t
        t.retain_grad()
        return None

    def mlp(t):
        if inside:
            return None
        t, b = t.clone(), x["block"]
        u = b * 1.5
        y = call(block_path, u, whole)
        z = call(attention, f.model.get_submodule(norm)(b[:, 1:4]), part)
        for name, made in (("u", u), ("y", y), ("z", z)):
            made.retain_grad()
            x[name] = made
        t[:, -1] = y[:, -1] * 0.5 + z[:, 2]
        t[:, 1:4] += z + y[:, 0:3]
        return t

    logits = f.run([CLEAN, CORRUPT], {f.block(0): block, f.block(1, f.mlp): mlp})
    at = 1 if f.name == "bert" else -1                    # where rows come that see later ones
    (diff(logits[0, at], [3], [7]) + diff(logits[1, at], [4], [7]) * 2).backward()
    script = f"""with invoke({[CLEAN, CORRUPT]}):
    b = {f.site(0, 'output')}
    mlp = {f.site(1, f.mlp + '.output')}
    u = b * 1.5
    y = {f.path(block_path + '.')[:-1]}(u)
    z = {f.path(attention)}({f.path(norm)}(b[:, 1:4]))
    mlp[:, -1] = y[:, -1] * 0.5 + z[:, 2]
    mlp[:, 1:4] += z + y[:, 0:3]
    logits = output.logits
    m = logits[0, {at}].logit_diff(3, 7) + logits[1, {at}].logit_diff(4, 7) * 2
    with m.backward():
        z_grad = z.grad.save()
        y_grad = y.grad.save()
        u_grad = u.grad.save()
        block_grad = b.grad.save()
"""
    write(f, "sequences", script, {"z_grad": x["z"].grad, "y_grad": x["y"].grad, "u_grad": x["u"].grad, "block_grad": x["block"].grad})


def mixtures(f):
    """Experts: gradients of the router, of what rows have of their experts, of what each one alone reads and makes, and through what is set there."""
    x, first, second = {}, f.block(0, "mlp"), f.block(2 if f.name == "qwen3_moe" else 1, "mlp")

    def keep(name, t):
        t.retain_grad()
        x[name] = t
        return t

    def shown(path, site, t):
        if (path, site) == (first, "expert_weights"):
            t = t.clone()
            t[:, 2] = t[:, 2] * 2 + t[:, 3]
            t[:, 4, 1] = 0.25
            return keep("weights", t)
        if (path, site) == (second + ".experts.2", "input"):
            t = t.clone()
            t[:, 1] = t[:, 1] * 0.5
            return keep("input", t)
        if (path, site) == (second + ".experts.1", "output"):
            t = t.clone()
            t[:, 3] = x["block"][:, 3]
            return keep("output", t)
        if (path, site) == (second, "expert_weights"):
            return keep("last", t)
        return t

    f.shown = shown
    logits = f.run([CLEAN], {f.block(0): kept(x, "block"), first + (".router" if f.name == "gpt_oss" else ".gate"): kept(x, "router")})
    diff(logits[0, -1], [3, 4], [7]).backward()
    f.shown = lambda path, site, t: t
    a, b = f.path(first + ".")[:-1], f.path(second + ".")[:-1]
    script = f"""with invoke({[CLEAN]}):
    router = {a}.router
    weights = {a}.expert_weights
    weights[:, 2] = weights[:, 2] * 2 + weights[:, 3]
    weights[:, 4, 1] = 0.25
    block = {f.site(0, 'output')}
    last = {b}.expert_weights
    input = {b}.experts[2].input
    input[:, 1] *= 0.5
    output = {b}.experts[1].output
    output[:, 3] = block[:, 3]
    m = output.logits[0, -1].logit_diff([3, 4], 7)
    with m.backward():
        output_grad = output.grad.save()
        input_grad = input.grad.save()
        last_grad = last.grad.save()
        block_grad = block.grad.save()
        weights_grad = weights.grad.save()
        router_grad = router.grad.save()
"""
    script = script.replace("output = ", "made = ").replace("output[:", "made[:").replace("output_grad = output", "output_grad = made")
    write(f, "experts", script, {"output_grad": x["output"].grad, "input_grad": x["input"].grad, "last_grad": x["last"].grad,
                                 "block_grad": x["block"].grad, "weights_grad": x["weights"].grad, "router_grad": x["router"].grad})


if __name__ == "__main__":
    for name in sys.argv[1:] or FAMILIES:
        family = Family(name)
        for make in (sites,) if name in SIXTEEN else (sites, metrics, sets, across, several):
            make(family)
        if name in EXPERTS:
            mixtures(family)
        if name not in SIXTEEN:
            in_the_open(family)
            open_across(family)
            gathers(family)
            functions(family)
            rows(family)
            if name not in EXPERTS:                           # whose MLPs, applied to values, have no gradients
                calls(family)
            if name not in ("bloom", *EXPERTS):               # bloom's attention is given the stream, too
                sequences(family)
            # whose logits go through a cap or a factor behind the head, whose MLP is no module, adds inside or gives a pair; BERT's modules `output`
            # have other names there
            if name not in ("gemma2", "granite", "cohere", "cohere2", "opt", "bloom", "gpt_oss", "bert"):
                beside_nnsight(family)
        if name == "gpt2":
            positions(family)
        print(name)
