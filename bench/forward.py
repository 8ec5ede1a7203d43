#!/usr/bin/env python3
"""The same forwards as forward.c in PyTorch: lines "forward WHO T-last SECONDS" and "forward WHO T-all SECONDS".

    forward.py DIRECTORY {eager|compiled} SAMPLES T...      needs torch and transformers; versions go to standard error

Eager is PyTorch as transformers runs it; compiled is torch.compile with its default mode, one compilation per length."""
import os
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
import transformers


def main():
    folder, who, samples, lengths = sys.argv[1], sys.argv[2], int(sys.argv[3]), [int(t) for t in sys.argv[4:]]
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads", file=sys.stderr)
    run = torch.compile(model, dynamic=False) if who == "compiled" else model
    for length in lengths:
        ids = torch.tensor([[7919 * (i + 1) % 50257 for i in range(length)]])
        for name, options in (("last", {"logits_to_keep": 1}), ("all", {})):
            with torch.inference_mode():
                for _ in range(3):
                    logits = run(ids, use_cache=False, **options).logits
                for _ in range(samples if length <= 200 or name == "last" else (samples + 1) // 2):
                    start = time.perf_counter()
                    logits = run(ids, use_cache=False, **options).logits
                    print(f"forward {who} {length}-{name} {time.perf_counter() - start:.9f}")
            print(f"check {who} {length}-{name} {logits[0, -1].double().abs().sum().item():.6f}", flush=True)


if __name__ == "__main__":
    main()
