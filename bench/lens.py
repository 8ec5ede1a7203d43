#!/usr/bin/env python3
"""lens.py [--samples N] [--model FOLDER] [--length T]: the logit lens of all layers, at the last position (its logits) and at all positions (the log probability
of one token), of GPT-2's shape: inset beside PyTorch (the hidden states of one forward, one product for all layers, by hand) and nnsight, in one run. Needs
inset, torch, transformers, nnsight."""
import argparse
import pathlib
import statistics
import tempfile
import time

import numpy
import torch

import inset

parser = argparse.ArgumentParser()
parser.add_argument("--samples", type=int, default=5)
parser.add_argument("--model")
parser.add_argument("--length", type=int, default=64)
given = parser.parse_args()

import nnsight  # noqa: E402
from transformers import GPT2Config, GPT2LMHeadModel  # noqa: E402

folder = given.model or tempfile.mkdtemp()
if not pathlib.Path(folder, "config.json").exists():
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
ours = inset.Model(folder, device="cpu")
net = GPT2LMHeadModel.from_pretrained(folder).eval()
theirs = nnsight.NNsight(net)
prompt = [7919 * (i + 1) % 50257 for i in range(given.length)]
TOKEN = 11


def inset_lens(everywhere):
    with ours.trace([prompt]):
        made = []
        for block in ours.transformer.h:
            logits = ours.lm_head(ours.transformer.ln_f(block.output if everywhere else block.output[:, -1]))
            made.append((logits.log_probability(TOKEN) if everywhere else logits).save())
    return numpy.stack([x.numpy()[0] for x in made])


def read(logits, everywhere):
    return torch.log_softmax(logits, -1)[..., TOKEN] if everywhere else logits


@torch.no_grad()
def torch_lens(everywhere):
    hidden = []
    handles = [block.register_forward_hook(lambda m, args, out: hidden.append(out[0] if isinstance(out, tuple) else out)) for block in net.transformer.h]
    net(torch.tensor([prompt]), logits_to_keep=1)
    for handle in handles:
        handle.remove()
    x = torch.cat(hidden) if everywhere else torch.cat(hidden)[:, -1]
    return read(net.lm_head(net.transformer.ln_f(x)), everywhere).numpy()


@torch.no_grad()
def nnsight_lens(everywhere):
    with theirs.trace(torch.tensor([prompt])):
        made = nnsight.save([])
        for block in theirs.transformer.h:
            logits = theirs.lm_head(theirs.transformer.ln_f(block.output if everywhere else block.output[:, -1]))
            made.append(torch.log_softmax(logits, -1)[..., TOKEN] if everywhere else logits)
    return torch.cat(list(made)).numpy()


for everywhere in (False, True):
    times, found = {}, {}
    for _ in range(given.samples + 1):
        for name, function in (("inset", inset_lens), ("torch", torch_lens), ("nnsight", nnsight_lens)):
            start = time.perf_counter()
            found[name] = function(everywhere)
            times.setdefault(name, []).append(time.perf_counter() - start)
    best = {name: statistics.median(t[1:]) for name, t in times.items()}
    apart = max(abs(found[name] - found["inset"]).max() for name in found)
    where = f"all {given.length} positions" if everywhere else "the last position"
    print(f"lens of {len(ours.transformer.h)} layers, {where}: inset {best['inset'] * 1e3:.0f} ms, torch {best['torch'] / best['inset']:.2f} times that, "
          f"nnsight {best['nnsight'] / best['inset']:.2f} times; numbers differ by {apart:.1e}", flush=True)
