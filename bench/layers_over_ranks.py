#!/usr/bin/env python3
"""layers_over_ranks.py INSET [--tokens 64] [--pairs 100] [--chunk 2048]: should a model that fits no card be cut into a pipeline of cards, or stream its weights?

The sweep is layers x positions of the residual stream, prompts that differ at the eighth token, for the shapes of Llama 3.1 8B, 70B and 405B in bf16. The rows that
each layer computes are the planner's own (`inset check --explain` of the chunk as a script; no weights, no card). From there on it is a model:

    a product     rows x 2 x weights / RATE
    streaming     of each layer what does not stay in WEIGHTS bytes is copied over the bus while the layer before computes: max(products, copy) a layer
    a pipeline    as many cards as hold the weights, layers cut so that the slowest card has least to do; a card takes a chunk when it is free and the card before
                  it is done; a hop is rows x width x 2 bytes over the link; cards over make further pipelines

Chunks of all pairs go to whoever is free, the dearest first. Times are seconds for all pairs; "best" is all FLOPs at RATE on all cards."""
import argparse
import json
import os
import re
import subprocess
import tempfile

parser = argparse.ArgumentParser()
parser.add_argument("inset")
parser.add_argument("--tokens", type=int, default=64)
parser.add_argument("--pairs", type=int, default=100)
parser.add_argument("--chunk", type=int, default=2048)
given = parser.parse_args()

RATE, BUS, LINK, WEIGHTS, MEMORY = 480e12, 50e9, 40e9, 60e9, 3.3e12     # an H100: 60 % of what it multiplies, PCIe 5, between machines, of its 80 GB, its own
SHAPES = {"8B": (4096, 14336, 32, 32), "70B": (8192, 28672, 64, 80), "405B": (16384, 53248, 128, 126)}


def config(width, inner, heads, layers):
    return dict(model_type="llama", architectures=["LlamaForCausalLM"], hidden_act="silu", hidden_size=width, intermediate_size=inner, num_attention_heads=heads, num_key_value_heads=8,
                num_hidden_layers=layers, max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=500000.0, tie_word_embeddings=False, vocab_size=128256, torch_dtype="bfloat16")


def script(points):
    clean = list(range(1, given.tokens + 1))
    corrupt = [99999 if i == 7 else t for i, t in enumerate(clean)]
    metric = "output.logits[0,-1].logit_diff(5, 6).save()"
    layers = sorted({layer for layer, _ in points})
    lines = [f"with invoke([{clean}]):", *(f"    h{i} = model.layers[{i}].input" for i in layers), f"    c = {metric}", f"with invoke([{corrupt}]):", f"    d = {metric}"]
    for k, (layer, position) in enumerate(points):
        lines += [f"with invoke([{corrupt}]):", f"    model.layers[{layer}].input[:, {position}] = h{layer}[:, {position}]", f"    x{k} = {metric}"]
    return "\n".join(lines) + "\n"


def chunks(shape):
    """For each chunk: a list of (FLOPs, rows) a layer, by the planner."""
    width, inner, heads, layers = shape
    sizes = {"q_proj": width * width, "k_proj": width * width * 8 // heads, "v_proj": width * width * 8 // heads, "o_proj": width * width, "gate_proj": width * inner,
             "up_proj": width * inner, "down_proj": width * inner}
    points = [(layer, position) for layer in range(layers) for position in range(given.tokens)]
    out = []
    with tempfile.TemporaryDirectory() as folder:
        json.dump(config(*shape), open(os.path.join(folder, "config.json"), "w"))
        for first in range(0, len(points), given.chunk):
            text = subprocess.run([given.inset, "check", "-m", folder, "-d", "none", "--dtype", "bf16", "--explain", "-"], input=script(points[first:first + given.chunk]), text=True,
                                  stdout=subprocess.PIPE, check=True).stdout
            flops, rows = [0.0] * layers, [0] * layers
            for layer, part, n in re.findall(r"model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)\.output +linear +(\d+) rows", text):
                flops[int(layer)] += 2.0 * int(n) * sizes[part]
                rows[int(layer)] = max(rows[int(layer)], int(n))
            out.append(list(zip(flops, rows)))
    return out, 2 * sum(sizes.values())


def deal(costs, cards):
    until = [0.0] * cards
    for cost in sorted(costs, reverse=True):
        until[until.index(min(until))] += cost
    return max(until)


def streaming(list_of_chunks, layer_bytes, cards):
    total = layer_bytes * len(list_of_chunks[0])
    copy = layer_bytes * max(0.0, 1 - WEIGHTS / total) / BUS
    return deal([sum(max(flops / RATE, copy) for flops, _ in c) for c in list_of_chunks], cards)


def cut(work, stages):
    """Contiguous parts of the layers whose dearest is as cheap as may be: by bisection."""
    low, high = max(work), sum(work)
    for _ in range(60):
        middle, parts, now = (low + high) / 2, 1, 0.0
        for w in work:
            if now + w > middle:
                parts, now = parts + 1, 0.0
            now += w
        low, high = (low, middle) if parts <= stages else (middle, high)
    bounds, now = [0], 0.0
    for i, w in enumerate(work):
        if now + w > high * (1 + 1e-9):
            bounds.append(i)
            now = 0.0
        now += w
    return bounds + [len(work)]


def pipeline(list_of_chunks, layer_bytes, cards, width):
    layers = len(list_of_chunks[0])
    stages = -(-layer_bytes * layers // int(WEIGHTS))
    if stages < 2 or cards < stages:
        return None
    bounds = cut([sum(c[i][0] for c in list_of_chunks) for i in range(layers)], stages)
    costs = sorted(list_of_chunks, key=lambda c: -sum(f for f, _ in c))
    ends = []
    for pipe in range(cards // stages):
        free = [0.0] * (len(bounds) - 1)
        for c in costs[pipe::cards // stages]:
            ready = 0.0
            for s in range(len(bounds) - 1):
                hop = c[bounds[s] - 1][1] * width * 2 / LINK if s else 0.0
                free[s] = ready = max(free[s], ready + hop) + sum(f for f, _ in c[bounds[s]:bounds[s + 1]]) / RATE
        ends.append(max(free))
    return max(ends)


def main():
    print("| model | cards | best | streaming or resident | beside best | pipeline | beside best |\n|---|---|---|---|---|---|---|")
    for name, shape in SHAPES.items():
        one_pair, layer_bytes = chunks(shape)
        list_of_chunks = one_pair * given.pairs
        flops = sum(f for c in list_of_chunks for f, _ in c)
        for cards in (1, 8, 64):
            best = flops / RATE / cards
            a, b = streaming(list_of_chunks, layer_bytes, cards), pipeline(list_of_chunks, layer_bytes, cards, shape[0])
            print(f"| {name} | {cards} | {best:.0f} | {a:.0f} | {a / best:.2f} | {'' if b is None else f'{b:.0f}'} | {'' if b is None else f'{b / best:.2f}'} |")
        total = layer_bytes * shape[3]
        hidden = layer_bytes * max(0.0, 1 - WEIGHTS / total) / BUS * RATE / layer_bytes
        least = min(c[i][1] for c in one_pair for i in range(shape[3]))
        stages = -(-total // int(WEIGHTS))
        print(f"<!-- {name}: {len(one_pair)} chunks a pair, rows a layer from {least}; {hidden:.0f} rows hide a layer's copy; one trace of 16 tokens: "
              f"streamed {max(0.0, total - WEIGHTS) / BUS + total / MEMORY:.2f} s, {stages} cards {total / MEMORY:.2f} s -->")


main()
