#!/usr/bin/env python3
"""eap_package.py BENCH_ATTRIBUTE INSET CHECKOUT [--pairs N] [--tokens N] [--steps M] [--layers N]: the scores of all edges of a model of GPT-2
small's shape (random weights, logit difference), inset beside the EAP-IG package itself (https://github.com/hannamw/EAP-IG, a checkout of it)
on TransformerLens, in one run: how far apart the scores are, seconds a call (the fastest of three after the first) and the ratio. With --steps
EAP-IG, else EAP. The package names its device 'cuda' in places and takes strings: both are got round from outside, and nothing it computes is
changed. Needs torch, transformers, transformer_lens, safetensors, numpy, matplotlib."""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time
import warnings

import numpy
import torch
from safetensors.numpy import load_file
from transformers import GPT2Config, GPT2LMHeadModel
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

warnings.filterwarnings("ignore", category=DeprecationWarning)
parser = argparse.ArgumentParser()
parser.add_argument("bench")
parser.add_argument("inset")
parser.add_argument("checkout")
parser.add_argument("--pairs", type=int, default=1)
parser.add_argument("--tokens", type=int, default=15)
parser.add_argument("--steps", type=int, default=0)
parser.add_argument("--layers", type=int, default=12)
given = parser.parse_args()
sys.path.insert(0, str(pathlib.Path(given.checkout, "src")))
import eap.attribute  # noqa: E402
from eap.graph import Graph  # noqa: E402

A, B = 11, 12
real_zeros = torch.zeros
torch.zeros = lambda *a, **k: real_zeros(*a, **{**k, "device": "cpu" if k.get("device") == "cuda" else k.get("device")})


def tokenize_plus(model, inputs, max_length=None):
    """Prompts are lists of ids, all of one length."""
    ids = torch.tensor(inputs)
    return ids, torch.ones_like(ids), torch.full((len(inputs),), ids.shape[1]), ids.shape[1]


eap.attribute.tokenize_plus = tokenize_plus

torch.manual_seed(0)
config = GPT2Config(n_layer=given.layers)
model = GPT2LMHeadModel(config).eval()
folder = tempfile.mkdtemp()
model.save_pretrained(folder)
lens = HookedTransformer(HookedTransformerConfig(
    n_layers=config.n_layer, d_model=config.n_embd, n_ctx=config.n_positions, d_head=config.n_embd // config.n_head, n_heads=config.n_head,
    d_vocab=config.vocab_size, act_fn="gelu_new", normalization_type="LN", d_mlp=4 * config.n_embd, eps=config.layer_norm_epsilon,
    attention_dir="causal", device="cpu"))
lens.load_state_dict(convert_gpt2_weights(model, lens.cfg), strict=False)
lens.eval()  # parameters keep their gradients, as they do for whoever follows the package's own notebooks
for flag in ("use_attn_result", "use_split_qkv_input", "use_hook_mlp_in"):
    lens.cfg.__dict__[flag] = True

random.seed(3)
clean, corrupt = ([[random.randrange(50257) for _ in range(given.tokens)] for _ in range(given.pairs)] for _ in range(2))


def theirs():
    graph = Graph.from_model(lens)
    metric = lambda logits, clean_logits, lengths, label: (logits[:, -1, A] - logits[:, -1, B]).sum()  # noqa: E731
    options = {"method": "EAP-IG-inputs", "ig_steps": given.steps} if given.steps else {"method": "EAP"}
    eap.attribute.attribute(lens, graph, [(clean, corrupt, None)], metric, quiet=True, **options)
    return graph


def timed(n):
    times = []
    for _ in range(n):
        start = time.perf_counter()
        graph = theirs()
        times.append(time.perf_counter() - start)
    return min(times), graph


theirs()
seconds, graph = timed(3)
metric, pairs = f"logit_diff:{A},{B}", [json.dumps(clean), json.dumps(corrupt)]
lines = subprocess.run([given.bench, folder, *pairs, metric, "edges", str(given.steps), "6"], capture_output=True, text=True, check=True).stdout
mine = min(float(line.split()[3]) for line in lines.splitlines() if " again " in line)
again, _ = timed(3)
seconds = min(seconds, again)

out = tempfile.mkdtemp() + "/edges.safetensors"
subprocess.run([given.inset, "attribute", "-m", folder, "--clean", pairs[0], "--corrupt", pairs[1], "--metric", metric, "--direction", "noise",
                "--edges", "-o", out] + (["--steps", str(given.steps)] if given.steps else []), capture_output=True, check=True)
got = torch.from_numpy(load_file(out)[f"edges.{metric}.mean"])
# their readers are a layer's q heads, k heads, v heads and MLP, as ours
wanted = graph.scores
apart = float((got - wanted).norm() / wanted.norm())
largest = float((got - wanted).abs().max() / wanted.abs().max())
print(f"edges, {given.steps or 'no'} steps, {given.pairs} pairs of {given.tokens} tokens: inset {mine:.3f} s, the EAP-IG package {seconds:.3f} s, "
      f"ratio {seconds / mine:.1f}; scores differ by {apart:.1e} of their norm, at most by {largest:.1e} of the largest")
