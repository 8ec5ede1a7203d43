#!/usr/bin/env python3
"""attribution.py INSET [--pairs N]: node attribution of resid_pre and z on GPT-2 small's shape (random weights, 15 tokens, logit
difference), inset beside PyTorch's autograd written by hand (two forwards and a backward with the gradients of the sites alone), in one
run. Seconds a call, the fastest of several, and the ratio. Needs torch, transformers, numpy."""
import argparse
import json
import pathlib
import random
import subprocess
import tempfile
import time

import numpy
import torch
from transformers import GPT2Config, GPT2LMHeadModel

parser = argparse.ArgumentParser()
parser.add_argument("inset")
parser.add_argument("--pairs", type=int, default=1)
parser.add_argument("--tokens", type=int, default=15)
parser.add_argument("--model", help="where GPT-2 small's shape is, or is put")
given = parser.parse_args()

folder = given.model or tempfile.mkdtemp()
if not pathlib.Path(folder, "config.json").exists():
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
model = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()
for p in model.parameters():
    p.requires_grad_(False)
random.seed(3)
clean = [[random.randrange(50257) for _ in range(given.tokens)] for _ in range(given.pairs)]
corrupt = [[random.randrange(50257) for _ in range(given.tokens)] for _ in range(given.pairs)]
A, B = 11, 12


def by_hand():
    """Scores [layers, positions] and [layers, heads], of the corrupt run towards the clean one."""
    kept = {}

    def note(name, wants):
        def hook(module, args):
            x = args[0]
            if wants and not x.requires_grad:
                x.requires_grad_(True)
            if wants:
                x.retain_grad()
            kept[name] = x
        return hook

    def run(tokens, wants):
        handles = []
        for i, block in enumerate(model.transformer.h):
            handles.append(block.register_forward_pre_hook(note(("resid", i), wants)))
            handles.append(block.attn.c_proj.register_forward_pre_hook(note(("z", i), wants)))
        logits = model(torch.tensor(tokens)).logits[:, -1]
        for h in handles:
            h.remove()
        return (logits[:, A] - logits[:, B]).sum()

    with torch.no_grad():
        run(clean, False)
    other = dict(kept)
    run(corrupt, True).backward()
    resid = torch.stack([((other["resid", i] - kept["resid", i]) * kept["resid", i].grad).sum(-1).mean(0) for i in range(12)])
    z = torch.stack([((other["z", i] - kept["z", i]) * kept["z", i].grad).unflatten(-1, (12, 64)).sum((-1, 1)).mean(0)
                     for i in range(12)])
    return resid.detach(), z.detach()


def by_inset(out):
    done = subprocess.run([given.inset, "attribute", "-m", folder, "--clean", json.dumps(clean), "--corrupt", json.dumps(corrupt),
                           "--metric", f"logit_diff:{A},{B}", "--patch", "resid_pre,z", "-o", out, "--force", "--json"],
                          capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["seconds"]


out = tempfile.mkdtemp() + "/o.safetensors"
mine, theirs = [], []
for _ in range(5):
    mine.append(by_inset(out))
    for _ in range(2):
        start = time.perf_counter()
        resid, z = by_hand()
        theirs.append(time.perf_counter() - start)
from safetensors.numpy import load_file
got = load_file(out)
error = max(numpy.linalg.norm(got[f"{s}.logit_diff:{A},{B}.mean"] - w.numpy()) / numpy.linalg.norm(w.numpy())
            for s, w in (("resid_pre", resid), ("z", z)))
print(f"{given.pairs} pairs of {given.tokens} tokens: inset {min(mine):.3f} s, autograd by hand {min(theirs):.3f} s, "
      f"ratio {min(theirs) / min(mine):.2f}; scores differ by {error:.1e} of their norm")
