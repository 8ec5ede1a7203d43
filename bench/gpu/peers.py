#!/usr/bin/env python3
"""What gpu_run measures, in PyTorch on the same card, with weights from a seed.

    peers.py SHAPE DTYPE SAMPLES WHO CASE...     WHO: eager, sdpa, compiled, graph; CASE: forward-T, sweep-SITE-T as in run.c; product

    forward    logits of the last position, on the host
    sweep      hooks: a batch of all points of a layer, one forward a layer, as TransformerLens users batch by hand
    product    the matrix products of shapes/llama8b at 32768 rows, the rate that a sweep could reach at most

Lines "forward WHO SHAPE-DTYPE-T SECONDS" as bench/run reads them."""
import os
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
import transformers

A, B = 11, 12
TYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def load(shape, dtype, attention):
    config = transformers.AutoConfig.from_pretrained(shape)
    config._attn_implementation = attention
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    model = model.to(dtype).to_empty(device="cuda")
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        torch.nn.init.ones_(weight) if weight.ndim == 1 and name.endswith("weight") else torch.nn.init.normal_(weight, std=0.02)
    for module in model.modules():
        if hasattr(module, "inv_freq"):
            with torch.device("cuda"):
                module.inv_freq = type(module)(config=config).inv_freq
    model.tie_weights()
    return model.eval()


def tokens(length):
    clean = [7919 * (k + 1) % 50257 for k in range(length)]
    return torch.tensor([clean], device="cuda"), torch.tensor([[(t + 1234) % 50257 for t in clean]], device="cuda")


def timed(line, samples, run, warm):
    for i in range(-warm, samples):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        if i >= 0:
            print(f"{line} {time.perf_counter() - start:.9f}", flush=True)


def forward(model, who, name, length, samples):
    ids = tokens(length)[0]
    run = torch.compile(model, dynamic=False, mode="reduce-overhead" if who == "graph" else None) if who in ("compiled", "graph") else model
    timed(f"forward {who} {name}-{length}", samples, lambda: run(ids, use_cache=False, logits_to_keep=1).logits.float().cpu(), 4)


def blocks(model):
    return model.transformer.h if hasattr(model, "transformer") else model.model.layers


def inputs(model, site):
    """The modules whose input is the site."""
    if site == "resid_pre":
        return list(blocks(model))
    return [b.attn.c_proj if hasattr(b, "attn") else b.self_attn.o_proj for b in blocks(model)]


def patched(x, source, site, heads):
    """x [n, T, d]: row i gets the source's position i, or head i."""
    x, each = x.clone(), torch.arange(len(x), device=x.device)
    if site == "z":
        view = x.view(len(x), x.shape[1], heads, -1)
        view[each, :, each] = source.view(x.shape[1], heads, -1).transpose(0, 1)
    else:
        x[each, each] = source[0, each]
    return x


def sweep(model, site, length):
    clean, corrupt = tokens(length)
    kept, out, heads = {}, [], model.config.num_attention_heads
    n = heads if site == "z" else length
    where = inputs(model, site)
    handles = [m.register_forward_pre_hook(lambda m, args, kwargs, i=i: kept.__setitem__(i, args[0] if args else kwargs["hidden_states"]),
                                           with_kwargs=True) for i, m in enumerate(where)]
    model(clean, use_cache=False, logits_to_keep=1)
    for handle in handles:
        handle.remove()
    for i, module in enumerate(where):
        def put(module, args, kwargs, i=i):
            if args:
                return (patched(args[0], kept[i], site, heads),) + args[1:], kwargs
            return args, {**kwargs, "hidden_states": patched(kwargs["hidden_states"], kept[i], site, heads)}
        handle = module.register_forward_pre_hook(put, with_kwargs=True)
        logits = model(corrupt.expand(n, -1), use_cache=False, logits_to_keep=1).logits[:, -1]
        out.append(logits[:, A] - logits[:, B])
        handle.remove()
    return torch.cat(out).float().cpu()


def products(dtype, samples):
    rows, flops, jobs = 32768, 0, []
    for i, o in ((4096, 4096), (4096, 1024), (4096, 1024), (4096, 4096), (4096, 14336), (4096, 14336), (14336, 4096)):
        jobs.append((torch.randn(rows, i, device="cuda", dtype=dtype), torch.randn(o, i, device="cuda", dtype=dtype)))
        flops += 2 * rows * i * o
    timed("product torch llama8b-32768", samples, lambda: [torch.nn.functional.linear(x, w) for x, w in jobs], 2)
    print(f"product flops llama8b-32768 {flops}")


def main():
    shape, dtype, samples, who = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    torch.set_grad_enabled(False)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.cuda.get_device_name()}", file=sys.stderr)
    name = f"{os.path.basename(shape)}-{dtype}"
    model = None
    for case in sys.argv[5:]:
        if case == "product":
            products(TYPES[dtype], samples)
            continue
        model = model or load(shape, TYPES[dtype], "eager" if who == "eager" else "sdpa")
        kind, *site, length = case.split("-")
        if kind == "forward":
            forward(model, who, name, int(length), samples)
        else:
            timed(f"sweep hooks-{who} {name}-{site[0]}-{length}", samples, lambda: sweep(model, site[0], int(length)), 1)


if __name__ == "__main__":
    main()
