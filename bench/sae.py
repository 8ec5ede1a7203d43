#!/usr/bin/env python3
"""sae.py [--samples N] [--model FOLDER] [--length T] [--features N] [--layer L] [--bias B]: features of a sparse autoencoder (768 wide, 24,576 features, of
random numbers) set to zero one by one at the last position of one layer of GPT-2's shape, the error term kept, and a logit difference read: inset (a sweep;
and one trace, an invoke a feature) beside PyTorch (hooks, features batched by hand) and nnsight (a trace a feature, some of them), in one run. Then all
features at all positions: inset's sweep, and its attribution. B, the encoder's mean bias, says how many features are not zero: 0 for half of them.
Needs inset, torch, transformers, nnsight, safetensors."""
import argparse
import pathlib
import statistics
import tempfile
import time

import numpy
import torch

import inset

parser = argparse.ArgumentParser()
parser.add_argument("--samples", type=int, default=3)
parser.add_argument("--model")
parser.add_argument("--length", type=int, default=16)
parser.add_argument("--features", type=int, default=1000)
parser.add_argument("--layer", type=int, default=8)
parser.add_argument("--bias", type=float, default=0)
parser.add_argument("--batch", type=int, default=50)
given = parser.parse_args()

import nnsight  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import GPT2Config, GPT2LMHeadModel  # noqa: E402

folder = given.model or tempfile.mkdtemp()
if not pathlib.Path(folder, "config.json").exists():
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
ours = inset.Model(folder, device="cpu")
net = GPT2LMHeadModel.from_pretrained(folder).eval()
theirs = nnsight.NNsight(net)
prompt = [7919 * (i + 1) % 50257 for i in range(given.length)]
WIDTH, SIZE, A, B, FEW = net.config.n_embd, 24576, 11, 13, 20
torch.manual_seed(1)
encode, decode = torch.randn(WIDTH, SIZE) / WIDTH ** 0.5, torch.randn(SIZE, WIDTH) / SIZE ** 0.5
bias, centre = torch.randn(SIZE) * 0.1 + given.bias, torch.randn(WIDTH) * 0.1


sae = str(pathlib.Path(tempfile.mkdtemp(), "sae.safetensors"))
save_file({"W_enc": encode, "b_enc": bias, "W_dec": decode, "b_dec": centre}, sae)
SITE = f"features:{sae}@resid_post.{given.layer}"


def features_of(x):
    return torch.relu((x - centre) @ encode + bias)


def inset_features(chosen):
    made = ours.sweep([prompt], patch=SITE, positions="-1", features=range(len(chosen)), source="zero", metric=("logit_diff", A, B), progress=False)
    return made.values[0, 0]


def inset_trace(chosen):
    block = ours.transformer.h[given.layer]
    with ours.trace() as tracer:
        made = []
        for i in chosen:
            with tracer.invoke([prompt]):
                x = block.output
                f = features_of(x)
                error = x - (f @ decode + centre)
                f[:, -1, i] = 0
                x[:] = f @ decode + centre + error
                made.append(ours.lm_head.output[:, -1].logit_diff(A, B).save())
    return numpy.array([m.item() for m in made])


@torch.no_grad()
def torch_sweep(chosen):
    made = []
    for start in range(0, len(chosen), given.batch):
        some = torch.tensor(chosen[start:start + given.batch])

        def change(module, args, out, some=some):
            x = out[0] if isinstance(out, tuple) else out
            f = features_of(x[:, -1])
            error = x[:, -1] - (f @ decode + centre)
            f[torch.arange(len(some)), some] = 0
            x = x.clone()
            x[:, -1] = f @ decode + centre + error
            return (x, *out[1:]) if isinstance(out, tuple) else x

        handle = net.transformer.h[given.layer].register_forward_hook(change)
        logits = net(torch.tensor([prompt] * len(some)), logits_to_keep=1).logits[:, -1]
        handle.remove()
        made.append(logits[:, A] - logits[:, B])
    return torch.cat(made).numpy()


@torch.no_grad()
def nnsight_sweep(chosen):
    made = []
    for i in chosen[:FEW]:
        with theirs.trace(torch.tensor([prompt])):
            x = theirs.transformer.h[given.layer].output
            f = features_of(x[:, -1])
            error = x[:, -1] - (f @ decode + centre)
            f[:, i] = 0
            x[:, -1] = f @ decode + centre + error
            logits = theirs.lm_head.output[:, -1]
            difference = (logits[:, A] - logits[:, B]).save()
        made.append(difference.item())
    return numpy.array(made)


chosen = list(range(given.features))
times, found = {}, {}
for _ in range(given.samples + 1):
    for name, function in (("inset", inset_features), ("trace", inset_trace), ("torch", torch_sweep), ("nnsight", nnsight_sweep)):
        start = time.perf_counter()
        found[name] = function(chosen)
        times.setdefault(name, []).append(time.perf_counter() - start)
best = {name: statistics.median(t[1:]) for name, t in times.items()}
best["nnsight"] *= len(chosen) / len(found["nnsight"])
apart = max(abs(found[name] - found["inset"][:len(found[name])]).max() for name in found)
not_zero = int((features_of(torch.from_numpy(numpy.zeros((1, WIDTH), "float32"))) > 0).sum())
print(f"{len(chosen)} features at one position of layer {given.layer}, {given.length} tokens (of a row of zeros {not_zero} of {SIZE} features are not zero): inset's sweep "
      f"{best['inset']:.2f} s, a trace {best['trace'] / best['inset']:.1f} times that, torch in batches of {given.batch} {best['torch'] / best['inset']:.1f} times, nnsight "
      f"{best['nnsight'] / best['inset']:.0f} times (of {FEW} features); numbers differ by {apart:.1e}")
for name, all_of in (("sweep", ours.sweep), ("attribute", ours.attribute)):
    if name == "sweep" and not_zero > SIZE / 10:
        continue
    start = time.perf_counter()
    made = all_of([prompt], patch=SITE, source="zero", metric=("logit_diff", A, B), progress=False)
    seconds, changed = time.perf_counter() - start, numpy.count_nonzero(made.values != (made.clean[0] if name == "sweep" else 0))
    print(f"all {made.values.size} features and positions, of which {changed} have an effect, {name}: {seconds:.2f} s")
