#!/usr/bin/env python3
"""attribution.py BENCH_ATTRIBUTE INSET [--pairs N] [--tokens N] [--edges] [--steps M]: attribution on GPT-2 small's shape (random weights, logit
difference), inset beside PyTorch's autograd written by hand, in one run. Nodes: resid_pre and z, two forwards and a backward with the gradients
of the sites alone. Edges (EAP, with --steps EAP-IG): by hand the stream's readers get their gradients from those of q, k and v through each
head's weights and the norm, written out, and one einsum a layer multiplies them with all writers before. Seconds a call, the fastest of
several after the first, and the ratio; --peers: nodes also by nnsight and
TransformerLens, as their users write it. Needs torch, transformers, numpy (nnsight, transformer_lens)."""
import argparse
import json
import pathlib
import random
import subprocess
import tempfile
import time

import numpy
import torch
from safetensors.numpy import load_file
from transformers import GPT2Config, GPT2LMHeadModel

parser = argparse.ArgumentParser()
parser.add_argument("bench")
parser.add_argument("inset")
parser.add_argument("--pairs", type=int, default=1)
parser.add_argument("--tokens", type=int, default=15)
parser.add_argument("--edges", action="store_true")
parser.add_argument("--steps", type=int, default=0)
parser.add_argument("--peers", action="store_true", help="nodes by nnsight and TransformerLens too")
parser.add_argument("--layers", type=int, default=12)
parser.add_argument("--model", help="where GPT-2 small's shape is, or is put")
given = parser.parse_args()

folder = given.model or tempfile.mkdtemp()
if not pathlib.Path(folder, "config.json").exists():
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_layer=given.layers)).save_pretrained(folder)
model = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()
for p in model.parameters():
    p.requires_grad_(False)
random.seed(3)
clean = [[random.randrange(50257) for _ in range(given.tokens)] for _ in range(given.pairs)]
corrupt = [[random.randrange(50257) for _ in range(given.tokens)] for _ in range(given.pairs)]
A, B, LAYERS, HEADS, D = 11, 12, model.config.n_layer, 12, 64


def run(tokens, names, wants=(), embedding=None):
    """Notes the inputs ("in.", "copy.": a copy that is read alone) and outputs ("out.") of modules; keeps gradients of `wants`."""
    kept, handles = {}, []

    def keep(name, x):
        if name in wants:
            x = x if x.requires_grad else x.requires_grad_(True)
            x.retain_grad()
        kept[name] = x
        return x
    for name in names:
        kind, path = name.split(".", 1)
        module = model.get_submodule(path)
        if kind == "out":
            handles.append(module.register_forward_hook(lambda m, a, out, name=name: keep(name, out)))
        elif kind == "in":
            handles.append(module.register_forward_pre_hook(lambda m, a, name=name: (keep(name, a[0]),) + a[1:]))
        else:
            handles.append(module.register_forward_pre_hook(lambda m, a, name=name: (keep(name, a[0] * 1),) + a[1:]))
    if embedding is not None:
        handles.append(model.transformer.wte.register_forward_hook(lambda m, a, out: embedding.detach().requires_grad_(True)))
    logits = model(torch.tensor(tokens)).logits[:, -1]
    for h in handles:
        h.remove()
    return (logits[:, A] - logits[:, B]).sum(), kept


def nodes_by_hand():
    """Scores [layers, positions] and [layers, heads], of the corrupt run towards the clean one."""
    names = [n for i in range(LAYERS) for n in (f"in.transformer.h.{i}", f"in.transformer.h.{i}.attn.c_proj")]
    with torch.no_grad():
        _, other = run(clean, names)
    metric, kept = run(corrupt, names, names)
    metric.backward()
    scores = {n: (other[n] - kept[n].detach()) * kept[n].grad for n in names}
    resid = torch.stack([scores[f"in.transformer.h.{i}"].sum(-1).mean(0) for i in range(LAYERS)])
    z = torch.stack([scores[f"in.transformer.h.{i}.attn.c_proj"].unflatten(-1, (HEADS, D)).sum((-1, 1)).mean(0) for i in range(LAYERS)])
    return resid, z


def gathered(other, base, grads):
    """The scores of nodes_by_hand, from lists by layer: resid_pre and z each."""
    parts = [[(o - b.detach()) * g for o, b, g in zip(*kinds)] for kinds in zip(other, base, grads)]
    return (torch.stack([x.sum(-1).mean(0) for x in parts[0]]),
            torch.stack([x.unflatten(-1, (HEADS, D)).sum((-1, 1)).mean(0) for x in parts[1]]))


def nnsight_nodes():
    """As its users write it: one trace a run, gradients in reverse order."""
    from nnsight import NNsight
    wrapped = NNsight(model)

    def run_it():
        blocks = wrapped.transformer.h
        with torch.no_grad():
            with wrapped.trace(torch.tensor(clean)):
                ox, oz = list().save(), list().save()
                for i in range(LAYERS):
                    ox.append(blocks[i].input)
                    oz.append(blocks[i].attn.c_proj.input)
        with wrapped.trace(torch.tensor(corrupt)):
            bx, bz, gx, gz = list().save(), list().save(), list().save(), list().save()
            wrapped.transformer.wte.output.requires_grad_(True)
            for i in range(LAYERS):
                bx.append(blocks[i].input)
                bz.append(blocks[i].attn.c_proj.input)
            last = wrapped.lm_head.output[:, -1]
            with (last[:, A] - last[:, B]).sum().backward():
                for i in reversed(range(LAYERS)):
                    gz.append(bz[i].grad)
                    gx.append(bx[i].grad)
        return gathered((ox, oz), (bx, bz), (gx[::-1], gz[::-1]))
    return run_it


def lens_nodes():
    """TransformerLens: hooks forward and backward on hook_resid_pre and hook_z."""
    from transformer_lens.model_bridge import TransformerBridge
    bridge = TransformerBridge.boot_transformers(str(folder), device="cpu")
    for p in bridge.parameters():
        p.requires_grad_(False)

    def wanted(name):
        return name.startswith("blocks.") and name.endswith(("hook_resid_pre", "attn.hook_z"))

    def run_it():
        other, base, grads = {}, {}, {}

        def note(into):
            return lambda x, hook: into.__setitem__(hook.name, x.detach())
        with torch.no_grad(), bridge.hooks(fwd_hooks=[(wanted, note(other))]):
            bridge(torch.tensor(clean))
        with bridge.hooks(fwd_hooks=[("hook_embed", lambda x, hook: x.requires_grad_(True)), (wanted, note(base))],
                          bwd_hooks=[(wanted, note(grads))]):
            last = bridge(torch.tensor(corrupt))[:, -1]
            (last[:, A] - last[:, B]).sum().backward()
        names = [[f"blocks.{i}.{end}" for i in range(LAYERS)] for end in ("hook_in", "attn.o.hook_in")]
        return gathered(*[[[d[n].flatten(2) for n in kind] for kind in names] for d in (other, base, grads)])
    return run_it


def back(norm, x, dy):
    """Through a layer norm: dy [batch, position, ..., d]."""
    x = x.detach()
    s = (x.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    y, h = (x - x.mean(-1, keepdim=True)) / s, dy * norm.weight
    while y.dim() < h.dim():
        y, s = y.unsqueeze(-2), s.unsqueeze(-2)
    return (h - h.mean(-1, keepdim=True) - y * (h * y).mean(-1, keepdim=True)) / s


def edges_by_hand():
    """The matrix [writers, readers], readers by layer: q, k, v heads, the MLP; last the logits."""
    block = lambda i: f"transformer.h.{i}"
    writers = ["in." + block(0)] + [n for i in range(LAYERS) for n in (f"in.{block(i)}.attn.c_proj", f"out.{block(i)}.mlp")]
    streams = [f"in.{block(i)}.ln_1" for i in range(LAYERS)]
    wants = [n for i in range(LAYERS) for n in (f"out.{block(i)}.attn.c_attn", f"copy.{block(i)}.ln_2")] + ["copy.transformer.ln_f"]
    with torch.no_grad():
        _, other = run(clean, writers + ["out.transformer.wte"])
    points = max(given.steps, 1)
    grads, base = {}, None
    for k in range(points):
        embedding = None
        if k:
            embedding = base["out.transformer.wte"] + k / points * (other["out.transformer.wte"] - base["out.transformer.wte"])
        metric, kept = run(corrupt, writers + streams + wants + ["out.transformer.wte"], wants + (["in." + block(0)]), embedding)
        metric.backward()
        if k == 0:
            base = {n: x.detach() for n, x in kept.items()}
        for i in range(LAYERS):
            dq = kept[f"out.{block(i)}.attn.c_attn"].grad.unflatten(-1, (3 * HEADS, D))
            weight = model.transformer.h[i].attn.c_attn.weight.unflatten(-1, (3 * HEADS, D))
            g = back(model.transformer.h[i].ln_1, kept[streams[i]], torch.einsum("bphd,ehd->bphe", dq, weight))
            g = torch.cat([g, kept[f"copy.{block(i)}.ln_2"].grad.unsqueeze(2)], 2)
            grads[i] = grads[i] + g / points if i in grads else g / points
        last = kept["copy.transformer.ln_f"].grad.unsqueeze(2) / points
        grads[LAYERS] = grads[LAYERS] + last if LAYERS in grads else last
    delta = [(other[writers[0]] - base[writers[0]]).unsqueeze(2)]
    columns = []
    for i in range(LAYERS):
        z = (other[f"in.{block(i)}.attn.c_proj"] - base[f"in.{block(i)}.attn.c_proj"]).unflatten(-1, (HEADS, D))
        heads = torch.einsum("bphd,hde->bphe", z, model.transformer.h[i].attn.c_proj.weight.unflatten(0, (HEADS, D)))
        before = torch.cat(delta, 2)
        attention = torch.einsum("bpue,bpve->uv", before, grads[i][:, :, :-1])
        delta += [heads, (other[f"out.{block(i)}.mlp"] - base[f"out.{block(i)}.mlp"]).unsqueeze(2)]
        mlp = torch.einsum("bpue,bpve->uv", torch.cat([before, heads], 2), grads[i][:, :, -1:])
        columns += [attention, mlp]
    columns.append(torch.einsum("bpue,bpve->uv", torch.cat(delta, 2), grads[LAYERS]))
    matrix = torch.zeros(1 + LAYERS * (HEADS + 1), sum(c.shape[1] for c in columns))
    at = 0
    for c in columns:
        matrix[:c.shape[0], at:at + c.shape[1]] = c / given.pairs
        at += c.shape[1]
    return matrix


def timed(function, n):
    times = []
    for _ in range(n):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return min(times), result


what = "edges" if given.edges else "nodes"
metric, pairs = f"logit_diff:{A},{B}", [json.dumps(clean), json.dumps(corrupt)]
theirs, wanted = timed(edges_by_hand if given.edges else nodes_by_hand, 4)
lines = subprocess.run([given.bench, folder, *pairs, metric, what, str(given.steps), "6"], capture_output=True, text=True, check=True).stdout
mine = min(float(line.split()[3]) for line in lines.splitlines() if " again " in line)
first = next(float(line.split()[3]) for line in lines.splitlines() if " first " in line)
memory = next(float(line.split()[2]) for line in lines.splitlines() if line.startswith("memory"))
again, _ = timed(edges_by_hand if given.edges else nodes_by_hand, 4)
theirs = min(theirs, again)

out = tempfile.mkdtemp() + "/o.safetensors"
subprocess.run([given.inset, "attribute", "-m", folder, "--clean", pairs[0], "--corrupt", pairs[1], "--metric", metric, "-o", out]
               + (["--edges"] if given.edges else ["--patch", "resid_pre,z"]) + (["--steps", str(given.steps)] if given.steps else []),
               capture_output=True, check=True)
got = load_file(out)
if given.edges:
    checks = [(got[f"edges.{metric}.mean"], wanted.detach().numpy())]
else:
    checks = [(got[f"{s}.{metric}.mean"], w.detach().numpy()) for s, w in zip(("resid_pre", "z"), wanted)] if not given.steps else []
error = max([float(numpy.linalg.norm(g - w) / numpy.linalg.norm(w)) for g, w in checks], default=float("nan"))
print(f"{what}, {given.steps or 'no'} steps, {given.pairs} pairs of {given.tokens} tokens: inset {mine:.3f} s (the first time {first:.3f} s, "
      f"{memory / 2**20:.0f} MiB), autograd by hand {theirs:.3f} s, ratio {theirs / mine:.2f}; scores differ by {error:.1e} of their norm")
if given.peers:
    for name, make in (("nnsight", nnsight_nodes), ("TransformerLens", lens_nodes)):
        function = make()
        function()
        seconds, found = timed(function, 4)
        apart = max(float((g - w).norm() / w.norm()) for g, w in zip(found, wanted))
        print(f"    {name} {seconds:.3f} s, ratio {seconds / mine:.1f}; scores differ from autograd by hand by {apart:.1e} of their norm")
