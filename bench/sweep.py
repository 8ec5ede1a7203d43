#!/usr/bin/env python3
"""The sweeps of sweep.c with the tools that people use for them, and as an expert would write them in PyTorch.

    sweep.py GPT2 SAMPLES WHO CASE...      WHO: nnsight nnsight_layer transformer_lens hooks expert expert_onednn
                                           CASE: resid_pre-0, resid_pre-10, z-0, as in sweep.c, one pair

    nnsight            its documented loop: one trace a point
    nnsight_layer      one trace a layer, an invoke a point
    transformer_lens   its generic_activation_patch, one forward a point
    hooks              PyTorch hooks, a batch of all points of a layer
    expert             layers resumed: all points in one batch that grows layer by layer, the logits of two tokens at the last position only
    expert_onednn      the same with every weight matrix packed by oneDNN (torch.ops.mkldnn)

Lines "sweep WHO CASE SECONDS" and "check WHO CASE SUM", the sum of all absolute logit differences. Versions go to standard error."""
import os
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
import transformers

VOCABULARY, A, B, TOKENS = 50257, 11, 12, 15


def prompts(differ):
    clean = [7919 * (k + 1) % VOCABULARY for k in range(TOKENS)]
    return torch.tensor([clean]), torch.tensor([[t if k < differ else (t + 1234) % VOCABULARY for k, t in enumerate(clean)]])


def load(folder, **options):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def difference(logits):
    return logits[..., A] - logits[..., B]


# ---- nnsight -----------------------------------------------------------------------------------------------------------------------------

def nnsight_model(folder):
    import nnsight
    return nnsight.NNsight(load(folder))


def put(model, site, layer, point, source):
    """Sets a point of the current invoke. nnsight has no per-head site: z's head is its columns of c_proj's input."""
    if site == "z":
        width = source.shape[-1] // model.config.n_head
        columns = slice(point * width, (point + 1) * width)
        model.transformer.h[layer].attn.c_proj.input[:, :, columns] = source[:, :, columns]
    else:
        model.transformer.h[layer].input[:, point] = source[:, point]


def nnsight_sources(model, site, clean):
    with model.trace(clean, use_cache=False, logits_to_keep=1):
        sources = list().save()
        for block in model.transformer.h:
            sources.append(block.attn.c_proj.input.clone() if site == "z" else block.input.clone())
    return sources


def nnsight(model, site, clean, corrupt):
    sources = nnsight_sources(model, site, clean)
    out = []
    for layer in range(len(model.transformer.h)):
        for point in range(points(model.config, site)):
            with model.trace(corrupt, use_cache=False, logits_to_keep=1):
                put(model, site, layer, point, sources[layer])
                score = difference(model.output.logits[0, -1]).save()
            out.append(score)
    return torch.stack(out)


def nnsight_layer(model, site, clean, corrupt):
    """NNsight on a bare module does not batch invokes, so the batch of a layer's points is written out."""
    sources = nnsight_sources(model, site, clean)
    n, out = points(model.config, site), []
    width = sources[0].shape[-1] // model.config.n_head
    for layer in range(len(model.transformer.h)):
        with model.trace(corrupt.expand(n, -1), use_cache=False, logits_to_keep=1):
            for point in range(n):
                if site == "z":
                    columns = slice(point * width, (point + 1) * width)
                    model.transformer.h[layer].attn.c_proj.input[point, :, columns] = sources[layer][0, :, columns]
                else:
                    model.transformer.h[layer].input[point, point] = sources[layer][0, point]
            score = difference(model.output.logits[:, -1]).save()
        out.append(score)
    return torch.cat(out)


# ---- TransformerLens -----------------------------------------------------------------------------------------------------------------------

def lens_model(folder):
    """Weights as they are: nothing folded or centred, so that the numbers are comparable. It wants a tokenizer, and gets one of one word."""
    import tempfile
    from tokenizers import Tokenizer, models
    from transformer_lens.model_bridge import TransformerBridge
    word = "<|endoftext|>"
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({word: 0}, unk_token=word)), bos_token=word,
                                                     eos_token=word, pad_token=word)
    with tempfile.TemporaryDirectory() as place:
        tokenizer.save_pretrained(place)
        model = TransformerBridge.boot_transformers(folder, hf_model=load(folder, attn_implementation="eager"), device="cpu",
                                                    tokenizer=transformers.AutoTokenizer.from_pretrained(place))
    model.enable_compatibility_mode(no_processing=True)
    return model


def transformer_lens(model, site, clean, corrupt):
    from transformer_lens import patching
    _, cache = model.run_with_cache(clean)
    patch = patching.get_act_patch_attn_head_out_all_pos if site == "z" else patching.get_act_patch_resid_pre
    return patch(model, corrupt, cache, lambda logits: difference(logits[0, -1]))


# ---- hooks ---------------------------------------------------------------------------------------------------------------------------------

def taps(model, site):
    return [block.attn.c_proj if site == "z" else block for block in model.transformer.h]


def points(config, site):
    return config.n_head if site == "z" else TOKENS


def rows_of(x, source, site, heads):
    """x [n, tokens, d]: row i gets source's head or position i."""
    x, n = x.clone(), len(x)
    if site == "z":
        view, each = x.view(n, x.shape[1], heads, -1), torch.arange(n)
        view[each, :, each] = source.view(x.shape[1], heads, -1).transpose(0, 1)
    else:
        each = torch.arange(n)
        x[each, each] = source[0, each]
    return x


def hooks(model, site, clean, corrupt):
    kept, out, n = [], [], points(model.config, site)
    handles = [tap.register_forward_pre_hook(lambda module, args: kept.append(args[0])) for tap in taps(model, site)]
    model(clean, use_cache=False, logits_to_keep=1)
    for handle in handles:
        handle.remove()
    for layer, tap in enumerate(taps(model, site)):
        handle = tap.register_forward_pre_hook(lambda module, args: (rows_of(args[0], kept[layer], site, model.config.n_head),) + args[1:])
        out.append(difference(model(corrupt.expand(n, -1), use_cache=False, logits_to_keep=1).logits[:, -1]))
        handle.remove()
    return torch.cat(out)


# ---- the expert ----------------------------------------------------------------------------------------------------------------------------

class Matrix:
    """x W + b; `packed`: W in oneDNN's own layout, which it chooses for about as many rows as a sweep has."""

    def __init__(self, conv, packed):
        self.bias, self.packed = conv.bias, packed
        self.weight = torch.ops.mkldnn._reorder_linear_weight(conv.weight.t().contiguous(), 1024) if packed else conv.weight

    def __call__(self, x):
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)


class Expert:
    def __init__(self, folder, packed):
        self.hf = load(folder)
        self.config, t = self.hf.config, self.hf.transformer
        self.blocks = [(b.ln_1, Matrix(b.attn.c_attn, packed), Matrix(b.attn.c_proj, packed), b.ln_2, Matrix(b.mlp.c_fc, packed),
                        Matrix(b.mlp.c_proj, packed)) for b in t.h]

    def embed(self, ids):
        t = self.hf.transformer
        return t.wte(ids) + t.wpe(torch.arange(ids.shape[1]))

    def z(self, block, x):
        n, length, d = x.shape
        q, k, v = (y.view(n, length, self.config.n_head, -1).transpose(1, 2) for y in block[1](block[0](x)).split(d, dim=-1))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, length, d)

    def after(self, block, x, z):
        x = x + block[2](z)
        return x + block[5](torch.nn.functional.gelu(block[4](block[3](x)), approximate="tanh"))

    def score(self, x):
        last = self.hf.transformer.ln_f(x[:, -1])
        two = self.hf.lm_head.weight[[A, B]]
        return (last @ two.t()) @ torch.tensor([1.0, -1.0])

    def __call__(self, site, clean, corrupt):
        """The batch holds the clean run, the corrupt one, and every patched run from the layer on where it leaves the corrupt one."""
        n, heads = points(self.config, site), self.config.n_head
        x = self.embed(torch.cat([clean, corrupt]))
        for block in self.blocks:
            if site == "resid_pre":
                x = torch.cat([x, rows_of(x[1:2].expand(n, -1, -1), x[0:1], site, heads)])
                z = self.z(block, x)
            else:
                z = self.z(block, x)
                z = torch.cat([z, rows_of(z[1:2].expand(n, -1, -1), z[0:1], site, heads)])
                x = torch.cat([x, x[1:2].expand(n, -1, -1)])
            x = self.after(block, x, z)
        return self.score(x[2:])


def main():
    folder, samples, who, cases = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:]
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_grad_enabled(False)
    if who.startswith("nnsight"):
        model, sweep = nnsight_model(folder), {"nnsight": nnsight, "nnsight_layer": nnsight_layer}[who]
    elif who == "transformer_lens":
        model, sweep = lens_model(folder), transformer_lens
    elif who == "hooks":
        model, sweep = load(folder), hooks
    else:
        expert = Expert(folder, who == "expert_onednn")
        model, sweep = None, lambda _, site, clean, corrupt: expert(site, clean, corrupt)
    names = {"nnsight": "nnsight", "nnsight_layer": "nnsight", "transformer_lens": "transformer_lens"}
    if who in names:
        import importlib.metadata
        print(f"{names[who]} {importlib.metadata.version(names[who].replace('_', '-'))}", file=sys.stderr)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads", file=sys.stderr)
    for case in cases:
        site, differ = case.rsplit("-", 1)
        clean, corrupt = prompts(int(differ))
        slow = who in ("nnsight", "transformer_lens")
        for i in range(0 if slow else -1, samples):
            start = time.perf_counter()
            scores = sweep(model, site, clean, corrupt)
            if i >= 0:
                print(f"sweep {who} {case} {time.perf_counter() - start:.9f}", flush=True)
            if slow and i >= 1:
                break                                            # a loop of this length needs no more than two samples
        print(f"check {who} {case} {scores.double().abs().sum().item():.6f}", flush=True)


if __name__ == "__main__":
    main()
