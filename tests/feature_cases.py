"""Sweeps and attributions over the features of sparse autoencoders, for make_fixtures.py: small SAEs of every kind that inset reads, and what PyTorch makes
of them: one patched run of transformers' model after the other, in double, with the features set, decoded and the error added back.

In features/: KIND/sae.safetensors and cfg.json; gpt2.safetensors has for each case "KIND SITE.LAYER AXES SOURCE METHOD" the numbers of logit_diff:11,12 at the
last position, [pair, axes...], NaN where a prompt has no such position, or scores of an attribution; "tensor" and "tensor by position" are sources.
"""
import itertools
import json
import os

import torch
from transformers import AutoModelForCausalLM

CLEAN = [[5, 17, 42, 8, 33, 21], [1, 2, 3, 4]]
CORRUPT = [[5, 18, 42, 8, 33, 20], [1, 7, 3, 5]]
MEAN = [[4, 9, 2, 7, 1, 6], [8, 8, 3, 2, 9, 9, 1], [3, 2]]
OTHER = [9, 4, 40, 4, 1, 30, 12]
FEATURES = 22

# kind, site, axes ("-": none), source, method ("patch", or an attribution's)
CASES = [("relu", "resid_pre.1", "position,feature", "clean", "patch"), ("relu", "resid_pre.1", "position,feature", "clean", "noise"),
         ("relu", "resid_pre.1", "feature", "clean", "patch"), ("relu", "resid_pre.1", "feature,position", "zero", "patch"),
         ("relu", "resid_pre.1", "position", "clean", "patch"), ("relu", "resid_pre.1", "-", "clean", "patch"),
         ("relu", "resid_pre.1", "position,feature", "mean", "patch"), ("relu", "resid_pre.1", "position,feature", "resample", "patch"),
         ("relu", "resid_pre.1", "position,feature", "tensor", "patch"), ("relu", "resid_pre.1", "feature", "tensors", "patch"),
         ("jumprelu", "mlp_out.0", "position,feature", "clean", "patch"), ("topk", "resid_post.2", "position,feature", "clean", "patch"),
         ("gated", "attn_out.1", "position,feature", "clean", "patch"), ("sparsify", "resid_mid.0", "position,feature", "clean", "patch"),
         ("plain", "post.1", "position,feature", "clean", "patch"),
         ("relu", "resid_pre.1", "position,feature", "clean", "atp"), ("relu", "resid_pre.1", "feature", "clean", "ends"),
         ("relu", "resid_pre.1", "position,feature", "zero", "atp"), ("jumprelu", "mlp_out.0", "position,feature", "clean", "steps"),
         ("topk", "resid_post.2", "position", "clean", "atp"), ("plain", "post.1", "feature,position", "clean", "atp")]


def make(kind, width, seed):
    """-> tensors of the file, cfg.json or None"""
    g = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.randn(*shape, generator=g)
    encoder, decoder, bias, out = rand(width, FEATURES) * 0.5, rand(FEATURES, width) * 0.3, rand(FEATURES) * 0.3 - 0.2, rand(width) * 0.1
    saelens = {"W_enc": encoder, "b_enc": bias, "W_dec": decoder, "b_dec": out}
    if kind == "relu":
        return saelens, {"architecture": "standard", "d_in": width, "d_sae": FEATURES, "normalize_activations": "none", "apply_b_dec_to_input": True}
    if kind == "jumprelu":
        return {**saelens, "threshold": torch.rand(FEATURES, generator=g) * 0.6}, {"architecture": "jumprelu", "apply_b_dec_to_input": False}
    if kind == "topk":
        return saelens, {"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}}
    if kind == "gated":
        return {"W_enc": encoder, "W_dec": decoder, "b_dec": out, "b_gate": bias, "r_mag": rand(FEATURES) * 0.2, "b_mag": rand(FEATURES) * 0.3}, \
            {"architecture": "gated"}
    if kind == "sparsify":
        return {"encoder.weight": encoder.T.contiguous(), "encoder.bias": bias, "W_dec": decoder, "b_dec": out}, {"k": 4, "d_in": width, "signed": False}
    # dictionary_learning's names, without cfg.json, and half of it in 16 bits
    return {"encoder.weight": encoder.T.contiguous(), "encoder.bias": bias, "decoder.weight": decoder.T.contiguous().half(), "bias": out.bfloat16()}, None


def encoder_of(kind, tensors, config):
    """What SAELens, sparsify and dictionary_learning compute, in double."""
    t = {name: x.double() for name, x in tensors.items()}
    matrix = t["W_enc"] if "W_enc" in t else t["encoder.weight"].T
    bias, out = t.get("b_enc", t.get("encoder.bias")), t["b_dec"] if "b_dec" in t else t["bias"]
    first = out if (config or {}).get("apply_b_dec_to_input", True) else 0 * out

    def encode(x):
        if kind == "gated":
            gate = (x - first) @ matrix + t["b_gate"] > 0
            return gate * torch.relu((x - first) @ (matrix * t["r_mag"].exp()) + t["b_mag"])
        pre = (x - first) @ matrix + bias
        if kind == "jumprelu":
            return torch.relu(pre) * (pre > t["threshold"])
        if kind in ("topk", "sparsify"):
            values, at = pre.topk(5 if kind == "topk" else 4, dim=-1)
            return torch.zeros_like(pre).scatter(-1, at, torch.relu(values))
        return torch.relu(pre)

    decoder = t["W_dec"] if "W_dec" in t else t["decoder.weight"].T
    return encode, lambda f: f @ decoder + out


class Model:
    def __init__(self, path):
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64).eval()

    def hook(self, site, change):
        """Puts change(x) in the place of a site's value."""
        name, layer = site.split(".")
        block = self.model.transformer.h[int(layer)]
        first = lambda out: out[0] if isinstance(out, tuple) else out
        if name in ("resid_pre", "resid_mid", "post"):
            # the stream between the branches is what ln_2 reads and what the MLP's output is added to: the whole block is written out
            module = {"resid_pre": block, "post": block.mlp.c_proj}.get(name)
            if module is not None:
                return module.register_forward_pre_hook(lambda m, a: (change(a[0]), *a[1:]))
            kept = []
            handles = [block.ln_2.register_forward_pre_hook(lambda m, a: (kept.append((a[0], change(a[0]))), (kept[-1][1],))[1]),
                       block.register_forward_hook(lambda m, a, out: out - kept[-1][0] + kept[-1][1] if not isinstance(out, tuple)
                                                   else (out[0] - kept[-1][0] + kept[-1][1], *out[1:]))]
            return type("Handles", (), {"remove": lambda self: [h.remove() for h in handles]})()
        module = {"resid_post": block, "mlp_out": block.mlp, "attn_out": block.attn}[name]
        return module.register_forward_hook(lambda m, a, out: (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out))

    def metric(self, prompt, site, change, embeddings=None):
        handle = self.hook(site, change)
        try:
            given = {"input_ids": torch.tensor([prompt])} if embeddings is None else {"inputs_embeds": embeddings}
            logits = self.model(**given).logits[0, -1]
        finally:
            handle.remove()
        return logits[11] - logits[12]

    def value(self, prompt, site):
        kept = []
        with torch.no_grad():
            self.metric(prompt, site, lambda x: (kept.append(x), x)[1])
        return kept[0][0]


def gradient(model, prompt, site, embeddings=None):
    """dM/dx [positions, width]."""
    leaf = []

    def change(x):
        leaf.append(x.detach().clone().requires_grad_())
        return leaf[0]
    model.metric(prompt, site, change, embeddings).backward()
    return leaf[0].grad[0]


def case(model, kind, site, axes, source, method, tensors, sae):
    encode, decode = sae
    axes = [] if axes == "-" else axes.split(",")
    extents = {"position": max(map(len, CLEAN)), "feature": FEATURES}
    out = torch.full([len(CLEAN)] + [extents[a] for a in axes], float("nan"), dtype=torch.float64)
    noise = method == "noise" or source != "clean"
    for pair, (clean, corrupt) in enumerate(zip(CLEAN, CORRUPT)):
        base, other = (clean, corrupt) if noise else (corrupt, clean)
        f, n = encode(model.value(base, site)), len(base)
        if source == "mean":
            rows = [encode(model.value(p, site)) for p in MEAN]
            wanted = torch.stack([torch.stack([r[i] for r in rows if len(r) > i]).mean(0) for i in range(n)])
        else:
            wanted = {"clean": lambda: encode(model.value(other, site)), "zero": lambda: torch.zeros_like(f),
                      "resample": lambda: encode(model.value(OTHER, site))[:n], "tensor": lambda: tensors["tensor"].double().expand(n, -1),
                      "tensors": lambda: tensors["tensors"].double()[:n]}[source]()
        if method in ("atp", "ends", "steps"):
            runs = [(base, None)]
            if method == "ends":
                runs = [(clean, None), (corrupt, None)]
            if method == "steps":
                wte = model.model.transformer.wte.weight
                runs = [(corrupt, (wte[corrupt] + k / 3 * (wte[clean] - wte[corrupt]))[None].detach()) for k in range(3)]
            g = sum(gradient(model, p, site, e) for p, e in runs) / len(runs)
            scores = (wanted - f) * (g @ (decode(torch.eye(FEATURES, dtype=torch.float64)) - decode(torch.zeros(1, FEATURES, dtype=torch.float64))).T)
        for point in itertools.product(*(range(extents[a]) for a in axes)):
            at = dict(zip(axes, point))
            if at.get("position", 0) >= n:
                continue
            where = torch.zeros(n, FEATURES, dtype=torch.bool)
            where[at.get("position", slice(None)), at.get("feature", slice(None))] = True
            if method in ("atp", "ends", "steps"):
                out[(pair, *point)] = scores[where].sum()
                continue

            def change(x):
                features = encode(x)
                return decode(torch.where(where, wanted, features)) + (x - decode(features))
            with torch.no_grad():
                out[(pair, *point)] = model.metric(base, site, change)
    return out


def write(folder, model_path, write_tensors):
    model, width = Model(model_path), {"post": 112}
    tensors = {"tensor": torch.rand(FEATURES, generator=torch.Generator().manual_seed(1)),
               "tensors": torch.rand(7, FEATURES, generator=torch.Generator().manual_seed(2))}
    saes, out = {}, dict(tensors)
    for seed, kind in enumerate(("relu", "jumprelu", "topk", "gated", "sparsify", "plain")):
        made, config = make(kind, model.model.config.n_embd if kind != "plain" else 4 * model.model.config.n_embd, seed)
        os.makedirs(os.path.join(folder, kind), exist_ok=True)
        write_tensors(os.path.join(folder, kind, "sae.safetensors"), made)
        if config:
            with open(os.path.join(folder, kind, "cfg.json"), "w") as to:
                json.dump(config, to, indent=1)
        saes[kind] = encoder_of(kind, made, config)
    for kind, site, axes, source, method in CASES:
        out[f"{kind} {site} {axes} {source} {method}"] = case(model, kind, site, axes, source, method, tensors, saes[kind]).float()
    write_tensors(os.path.join(folder, "gpt2.safetensors"), out)
    print(f"features: {len(out)} tensors")
