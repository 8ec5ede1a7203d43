#!/usr/bin/env python3
"""python.py [--samples N] [--model FOLDER]: what a trace costs from Python, inset beside nnsight in one run: microseconds an empty trace with one save, a set
and a read more in it, an invoke more; and a sweep of GPT-2's shape (12 layers x 35 positions = 420 patches) written as a double loop of invokes, beside model.sweep
and (with --loop) nnsight's loop. The small model is the notebook's, so that the model itself takes no time. Needs inset, torch, transformers, nnsight."""
import argparse
import pathlib
import statistics
import tempfile
import time

import torch

import inset

parser = argparse.ArgumentParser()
parser.add_argument("--samples", type=int, default=7)
parser.add_argument("--model")
parser.add_argument("--loop", action="store_true")
given = parser.parse_args()
NOTEBOOK = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "notebook"
INPUT = torch.rand(1, 5)


def microseconds(function, n):
    function()
    times = []
    for _ in range(given.samples):
        start = time.perf_counter()
        for _ in range(n):
            function()
        times.append((time.perf_counter() - start) / n * 1e6)
    return statistics.median(times)


def small(model, sets, reads):
    """One trace with so many lines."""
    if sets == 100:
        with model.trace(INPUT):
            for _ in range(100):
                model.layer1.output[:, 0] = 1
            model.layer2.output.save()
    elif reads == 100:
        with model.trace(INPUT):
            for _ in range(100):
                x = model.layer1.output
            model.layer2.output.save()
    else:
        with model.trace(INPUT):
            model.layer2.output.save()


def measure(name, model, n):
    plain = microseconds(lambda: small(model, 0, 0), n)
    sets = (microseconds(lambda: small(model, 100, 0), max(n // 20, 3)) - plain) / 100
    reads = (microseconds(lambda: small(model, 0, 100), max(n // 20, 3)) - plain) / 100
    print(f"{name}: a trace with one save {plain:.1f} us, a set {sets:.2f}, a read {reads:.2f}")
    return plain, sets, reads


from collections import OrderedDict  # noqa: E402

import nnsight  # noqa: E402
from transformers import GPT2Config, GPT2LMHeadModel  # noqa: E402

ours = inset.Model(NOTEBOOK, device="cpu")
net = torch.nn.Sequential(OrderedDict([("layer1", torch.nn.Linear(5, 10)), ("layer2", torch.nn.Linear(10, 2))]))
a, b = measure("inset", ours, 2000), measure("nnsight", nnsight.NNsight(net), 100)
print("ratios: trace %.1f, set %.1f, read %.1f" % tuple(y / x for x, y in zip(a, b)))

folder = given.model or tempfile.mkdtemp()
if not pathlib.Path(folder, "config.json").exists():
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
model = inset.Model(folder, device="cpu")
LAYERS, POSITIONS = 12, 35
clean, corrupt = ([(7919 * (k + 1) + shift) % 50257 for k in range(POSITIONS)] for shift in (0, 1234))


def loop():
    with model.trace() as tracer:
        with tracer.invoke([clean]):
            source = [block.input for block in model.transformer.h]
        out = []
        for layer in range(LAYERS):
            for p in range(POSITIONS):
                with tracer.invoke([corrupt]):
                    model.transformer.h[layer].input[:, p] = source[layer][:, p]
                    out.append(model.output.logits[0, -1].logit_diff(11, 12).save())
    return [float(x) for x in out]


def sweep():
    return model.sweep(clean, corrupt, patch="resid_pre", metric="logit_diff:11,12", progress=False).mean.ravel().tolist()


times = {}
for name, function in (("loop", loop), ("sweep", sweep), ("loop", loop), ("sweep", sweep)):
    for _ in range(2):
        start = time.perf_counter()
        found = function()
        times.setdefault(name, []).append((time.perf_counter() - start, found))
best = {name: min(t for t, _ in runs) for name, runs in times.items()}
apart = max(abs(x - y) for x, y in zip(times["loop"][-1][1], times["sweep"][-1][1]))
print(f"420 patches: a double loop of invokes {best['loop']:.2f} s, model.sweep {best['sweep']:.2f} s, ratio {best['loop'] / best['sweep']:.2f}; numbers differ by {apart:.1e}")

if given.loop:
    theirs = nnsight.NNsight(GPT2LMHeadModel.from_pretrained(folder).eval())
    start = time.perf_counter()
    with torch.no_grad():
        with theirs.trace(torch.tensor([clean])):
            source = nnsight.save([block.input for block in theirs.transformer.h])
        for layer in range(LAYERS):
            for p in range(POSITIONS):
                with theirs.trace(torch.tensor([corrupt])):
                    theirs.transformer.h[layer].input[:, p] = source[layer][:, p]
                    last = theirs.lm_head.output[0, -1].save()
    seconds = time.perf_counter() - start
    print(f"nnsight's loop {seconds:.1f} s, {seconds / best['loop']:.0f} times the loop here")
