#!/usr/bin/env python3
"""cache.py [--prompts N] [--samples N] [--model FOLDER] [--inset COMMAND] [--memory]: keeping the residual stream behind every block, all positions of prompts
of 8 to 24 tokens, as safetensors on the disk: `inset cache` beside PyTorch with hooks (batches of prompts sorted by length and padded, rows taken out of the
padding, a shard for as many rows) and TransformerLens's run_with_cache and nnsight (the same batches), in one run, in turn. Nobody computes logits but TransformerLens and nnsight, whose traces run the whole model. --memory: `inset cache`
alone, with an eighth of the prompts and with all, and what its process takes. Needs torch, transformers, safetensors, numpy; transformer_lens, nnsight."""
import argparse
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import tempfile
import time

import numpy
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

parser = argparse.ArgumentParser()
parser.add_argument("--prompts", type=int, default=10000)
parser.add_argument("--samples", type=int, default=3)
parser.add_argument("--model", default="/tmp/gpt2s")
parser.add_argument("--inset", default="build/inset")
parser.add_argument("--memory", action="store_true")
parser.add_argument("--threads", type=int, default=2)
given = parser.parse_args()
torch.set_num_threads(given.threads)
torch.set_grad_enabled(False)

if not pathlib.Path(given.model, "config.json").exists():
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(given.model)
random = numpy.random.default_rng(0)
lengths = random.integers(8, 25, given.prompts)
prompts = [random.integers(0, 50257, n).tolist() for n in lengths]
work = pathlib.Path(tempfile.mkdtemp())
BATCH, SHARD = 2048, 512 << 20  # tokens, bytes


def batches(count):
    """Prompts sorted by length, as many as fill BATCH tokens."""
    order, at = numpy.argsort(lengths[:count], kind="stable"), []
    for i in order:
        if at and (len(at) + 1) * lengths[i] > BATCH:
            yield at
            at = []
        at.append(i)
    yield at


def keep(layers, chosen, writer):
    """Rows out of the padding."""
    mask = torch.arange(layers[0].shape[1])[None] < torch.tensor(lengths[chosen])[:, None]
    writer.add([x[mask] for x in layers], chosen)


class Writer:
    """Rows into shards of about SHARD bytes."""

    def __init__(self, folder):
        self.folder, self.rows, self.where, self.bytes, self.shards = folder, None, [], 0, 0
        folder.mkdir()

    def add(self, layers, chosen):
        self.rows = [[] for _ in layers] if self.rows is None else self.rows
        for kept, x in zip(self.rows, layers):
            kept.append(x)
        self.where += [(p, i, prompts[p][i]) for p in chosen for i in range(lengths[p])]
        self.bytes += sum(x.numel() * 4 for x in layers)
        if self.bytes > SHARD:
            self.flush()

    def flush(self):
        if not self.where:
            return
        tensors = {f"resid_post.{n}": torch.cat(x) for n, x in enumerate(self.rows)}
        for name, column in zip(("prompt", "position", "token"), torch.tensor(self.where).T):
            tensors[name] = column.contiguous()
        save_file(tensors, self.folder / f"{self.shards:05}.safetensors")
        self.rows, self.where, self.bytes, self.shards = None, [], 0, self.shards + 1


def padded(chosen):
    longest = max(lengths[chosen])
    return torch.tensor([prompts[p] + [0] * (longest - lengths[p]) for p in chosen])


def by_hooks(net, count, folder):
    writer, layers = Writer(folder), []
    handles = [b.register_forward_hook(lambda m, a, out: layers.append(out[0] if isinstance(out, tuple) else out)) for b in net.transformer.h]
    for chosen in batches(count):
        layers.clear()
        net.transformer(padded(chosen), use_cache=False)  # padding is behind and causal attention does not see it
        keep(layers, chosen, writer)
    for handle in handles:
        handle.remove()
    writer.flush()


def by_lens(net, count, folder):
    writer = Writer(folder)
    names = [f"blocks.{n}.hook_resid_post" for n in range(12)]
    for chosen in batches(count):
        _, cache = net.run_with_cache(padded(chosen), names_filter=names, return_type=None)
        keep([cache[n] for n in names], chosen, writer)
    writer.flush()


def by_nnsight(net, count, folder):
    writer = Writer(folder)
    for chosen in batches(count):
        with net.trace(padded(chosen), use_cache=False):
            layers = nnsight.save([])
            for block in net.transformer.h:
                layers.append(block.output[0] if isinstance(block.output, tuple) else block.output)
        keep(list(layers), chosen, writer)
    writer.flush()


def by_inset(count, folder):
    with open(work / "prompts.jsonl", "w") as file:
        file.writelines(json.dumps(p) + "\n" for p in prompts[:count])
    out = subprocess.run([given.inset, "cache", "-d", "cpu", "-m", given.model, "--prompts", str(work / "prompts.jsonl"), "--sites", "resid_post", "-o", str(folder),
                          "--json"], check=True, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": str(given.threads)}).stdout
    said = json.loads(out)
    said["peak"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return said


def numbers(folder, prompt):
    """Rows of one prompt, wherever they are."""
    for path in sorted(folder.glob("*.safetensors")):
        tensors = load_file(path)
        here = tensors["prompt"] == prompt
        if here.any():
            order = tensors["position"][here].argsort()
            return torch.stack([tensors[f"resid_post.{n}"][here][order] for n in range(12)])


def timed(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def sample(name, run):
    """One turn: seconds, and the rows of prompt 7."""
    seconds = run(work / "out")
    times.setdefault(name, []).append(seconds)
    found.setdefault(name, numbers(work / "out", 7))
    shutil.rmtree(work / "out")


if given.memory:
    for count in (given.prompts // 8, given.prompts):
        said = by_inset(count, work / "out")
        print(f"{count} prompts, {int(lengths[:count].sum())} rows, {said['bytes'] / 1e9:.2f} GB: {said['seconds']:.0f} s, the process takes at most {said['peak']:.0f} MiB", flush=True)
        shutil.rmtree(work / "out")
    shutil.rmtree(work)
    raise SystemExit

times, found, said = {}, {}, []
net = GPT2LMHeadModel.from_pretrained(given.model).eval()
runs = {"inset cache": lambda folder: said.append(by_inset(given.prompts, folder)) or said[-1]["seconds"],
        "PyTorch, hooks by hand": lambda folder: timed(by_hooks, net, given.prompts, folder)}
try:
    import nnsight
    theirs = nnsight.NNsight(net)
    runs["nnsight"] = lambda folder: timed(by_nnsight, theirs, given.prompts, folder)
except ImportError:
    print("nnsight is not there")
try:
    from transformer_lens.model_bridge import TransformerBridge
    lens = TransformerBridge.boot_transformers(given.model, device="cpu")
    runs["TransformerLens, run_with_cache"] = lambda folder: timed(by_lens, lens, given.prompts, folder)
except ImportError as error:
    print(f"TransformerLens is not there: {error}")
for _ in range(given.samples):
    for name, run in runs.items():
        sample(name, run)
rows = int(lengths.sum())
print(f"{given.prompts} prompts, {rows} rows of 12 layers, {said[-1]['bytes'] / 1e9:.2f} GB; {said[-1]['plans']} plans of {said[-1]['batches']} batches, planning "
      f"{said[-1]['planning']:.3f} s, waiting for the disk {said[-1]['waiting']:.3f} s\n\n| | seconds, median (least) | times inset's | numbers differ by |\n|---|---|---|---|")
base = statistics.median(times["inset cache"])
for name, seconds in times.items():
    ours = found["inset cache"]
    print(f"| {name} | {statistics.median(seconds):.2f} ({min(seconds):.2f}) | {statistics.median(seconds) / base:.2f} | "
          f"{(found[name] - ours).abs().max() / ours.abs().max():.1e} |")
shutil.rmtree(work)
