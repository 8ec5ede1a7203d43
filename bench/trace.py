#!/usr/bin/env python3
"""The same traces as trace.c in nnsight: lines "trace nnsight build-plan-run SECONDS", and with a GPT-2 directory "records nnsight ...".

    trace.py TINY [GPT2] SAMPLES        needs nnsight, torch, transformers; versions go to standard error"""
import json
import os
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import nnsight
import torch
import transformers

LAYERS, RECORDS = 12, 100


def tiny(folder, samples):
    from safetensors.torch import load_file
    layers = json.load(open(os.path.join(folder, "config.json")))["layers"]
    net = torch.nn.Sequential()
    for layer in layers:
        net.add_module(layer["name"], torch.nn.Linear(layer["in"], layer["out"]))
    net.load_state_dict(load_file(os.path.join(folder, "model.safetensors")))
    model, x = nnsight.NNsight(net), torch.tensor([[0.9, 0.1, 0.4, 0.7, 0.2]])
    with torch.inference_mode():
        for i in range(-samples // 10, samples):
            start = time.perf_counter()
            with model.trace(x):
                l1 = model.layer1.output.save()
            if i >= 0:
                print(f"trace nnsight build-plan-run {time.perf_counter() - start:.9f}")


def gpt2(folder, samples):
    transformers.utils.logging.disable_progress_bar()
    model = nnsight.NNsight(transformers.AutoModelForCausalLM.from_pretrained(folder).eval())
    for length in (15, 128):
        ids = torch.tensor([[7919 * (i + 1) % 50257 for i in range(length)]])
        with torch.inference_mode():
            for i in range(-2, samples):
                start = time.perf_counter()
                with model.trace(ids, use_cache=False, logits_to_keep=1):
                    logits = model.output.logits.save()
                between = time.perf_counter()
                with model.trace(ids, use_cache=False, logits_to_keep=1):
                    saved = list().save()
                    for record in range(RECORDS):
                        at = record * LAYERS * 5 // RECORDS
                        block, position = model.transformer.h[at // 5], record % length
                        module = [block.ln_1, block.attn, block.mlp.act, block.mlp, block][at % 5]
                        value = module.output[0] if at % 5 == 1 else module.output
                        if record % 2:
                            saved.append(value[:, position])
                        else:
                            value[:, position] = 0.5
                    logits = model.output.logits.save()
                if i >= 0:
                    print(f"records nnsight {length}-plain {between - start:.9f}")
                    print(f"records nnsight {length}-records {time.perf_counter() - between:.9f}")


def main():
    *folders, samples = sys.argv[1:]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    print(f"nnsight {nnsight.__version__}, torch {torch.__version__}", file=sys.stderr)
    tiny(folders[0], 10 * int(samples))
    if len(folders) > 1:
        gpt2(folders[1], int(samples))


if __name__ == "__main__":
    main()
