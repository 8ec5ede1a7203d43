#!/usr/bin/env python3
"""Makes the models and expected values under tests/fixtures, with PyTorch and transformers.

    make_fixtures.py models                     the models (config.json, weights) and the tensors that scripts load
    make_fixtures.py cases                      expected values of every NAME/cases/*.inset, beside it
    make_fixtures.py random --model DIR --count N --seed S --out FILE       random scripts: FILE.cases, values in FILE.safetensors
    make_fixtures.py validate DIR...            the reference against cases of known result (DIR/model, DIR/cases)
    make_fixtures.py sweeps                     expected values of sweeps: sweeps/MODEL.safetensors, see sweep_cases.py, and features/, see feature_cases.py
    make_fixtures.py all                        models, cases, sweeps, and the committed random scripts

Run with torch 2.15, transformers 5.23, safetensors 0.8, numpy 2.4 (python3 -m venv, pip install these four). What is committed is what
tests read: run it again only when a fixture changes. Scripts in cases/ are written by hand; this program fills in what PyTorch makes of
them, by reference.py, which was checked with `validate` against results of nnsight 0.8.1. Attention is transformers' eager one.
"""
import argparse
import copy
import glob
import json
import os
import re
import struct
import sys

import numpy as np
import torch
from torch import nn

from reference import Interpreter, Runner, ScriptError, Unsupported

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures")
STORED = {torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
          torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"}


# ---- files -----------------------------------------------------------------------------------------------------------------------------

def write_tensors(path, tensors):
    """A safetensors file that keeps the order of `tensors` (the library's own writer sorts)."""
    header, data = {}, b""
    for name, tensor in tensors.items():
        flat = torch.empty(tensor.numel(), dtype=tensor.dtype)
        raw = flat.copy_(tensor.detach().reshape(-1)).view(torch.uint8).numpy().tobytes()
        header[name] = {"dtype": STORED[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def loader(folder):
    from safetensors.torch import load_file

    def load(file, name=None):
        path = os.path.join(folder, file)
        try:
            return torch.from_numpy(np.load(path)) if file.endswith(".npy") else load_file(path)[name].clone()
        except (OSError, KeyError) as e:
            raise ScriptError("FileError", str(e))
    return load


# ---- models ----------------------------------------------------------------------------------------------------------------------------

class Sequential(nn.Module):
    """The model of a `sequential` config.json, built from torch.nn modules under their names."""
    def __init__(self, config):
        super().__init__()
        kinds = {"linear": lambda l: nn.Linear(l["in"], l["out"], bias=l.get("bias", True)), "relu": lambda l: nn.ReLU(),
                 "gelu": lambda l: nn.GELU(), "tanh": lambda l: nn.Tanh(), "sigmoid": lambda l: nn.Sigmoid(),
                 "layernorm": lambda l: nn.LayerNorm(l["in"], eps=l.get("eps", 1e-5))}
        for layer in config["layers"]:
            self.add_module(layer["name"], kinds[layer["type"]](layer))

    def forward(self, x):
        for layer in self.children():
            x = layer(x)
        return x


def open_model(folder, dtype=None):
    """-> (model in eval mode, sequential?)"""
    from safetensors.torch import load_file
    config = json.load(open(os.path.join(folder, "config.json")))
    if config["model_type"] == "sequential":
        model = Sequential(config)
        model.load_state_dict(load_file(os.path.join(folder, "model.safetensors")))
        return (model.to(dtype) if dtype else model).eval(), True
    from transformers import AutoModelForCausalLM, BertForMaskedLM
    model = (BertForMaskedLM if config["model_type"] == "bert" else AutoModelForCausalLM).from_pretrained(folder, attn_implementation="eager", dtype=dtype or "auto")
    return model.eval(), False


def random_weights(model, seed):
    """Weights of everyday size; no norm weight is 1 and no bias 0, so that a step that ignores them shows."""
    generator = torch.Generator().manual_seed(seed)
    noise = lambda p: torch.randn(p.shape, generator=generator)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if re.search(r"(ln_|norm|Norm).*weight", name):
                p.copy_(1 + 0.2 * noise(p))
            elif name.endswith("sinks"):
                p.copy_(noise(p))
            elif name.endswith("bias"):
                p.copy_(0.1 * noise(p))
            elif re.search(r"w[tp]e|embed_(in|tokens)|_embeddings", name):
                p.copy_(0.5 * noise(p))
            else:
                n_in = p.shape[0 if ".c_" in name else 1]            # GPT-2's Conv1D is [in, out]
                p.copy_(0.7 * noise(p) / n_in ** 0.5)


def make_sequential(name, layers, seed):
    from safetensors.torch import save_file
    folder = os.path.join(HERE, name)
    os.makedirs(folder, exist_ok=True)
    config = {"model_type": "sequential", "layers": layers}
    model = Sequential(config)
    random_weights(model, seed)
    with open(os.path.join(folder, "config.json"), "w") as file:
        rows = ",\n            ".join(json.dumps(l) for l in layers)
        file.write('{"model_type": "sequential",\n "layers": [%s]}\n' % rows)
    save_file(model.state_dict(), os.path.join(folder, "model.safetensors"))
    make_data(folder, layers[0]["in"], 8, 0)


def make_gpt2(name, seed, dtype=torch.float32, shard="1GB", **options):
    from transformers import GPT2Config, GPT2LMHeadModel
    folder = os.path.join(HERE, name)
    torch.manual_seed(seed)
    config = GPT2Config(**{**dict(n_embd=28, n_head=4, n_layer=3, n_positions=40, vocab_size=61, bos_token_id=None, eos_token_id=None,
                                  use_cache=False), **options})
    model = GPT2LMHeadModel(config)
    random_weights(model, seed)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    make_data(folder, config.n_embd, 0, config.vocab_size)


SMALL = dict(hidden_size=20, num_attention_heads=4, num_hidden_layers=2, intermediate_size=28, vocab_size=61, max_position_embeddings=40,
             bos_token_id=None, eos_token_id=None, pad_token_id=None, use_cache=False)
GROUPED = dict(SMALL, num_key_value_heads=2, head_dim=6)
FAMILIES = {
    "gpt_neox": ("GPTNeoX", dict(SMALL, hidden_size=24, num_attention_heads=3, rotary_pct=0.5, use_parallel_residual=True, tie_word_embeddings=False)),
    "gpt_neox_serial": ("GPTNeoX", dict(SMALL, hidden_size=24, rotary_pct=1.0, use_parallel_residual=False, attention_bias=False, tie_word_embeddings=True)),
    "llama": ("Llama", dict(GROUPED, tie_word_embeddings=False)),
    "llama3": ("Llama", dict(GROUPED, head_dim=8, tie_word_embeddings=True, rope_parameters=dict(
        rope_type="llama3", rope_theta=10000.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16))),
    "mistral": ("Mistral", dict(GROUPED, sliding_window=4, tie_word_embeddings=False)),
    "qwen2": ("Qwen2", dict(SMALL, hidden_size=24, num_key_value_heads=1, tie_word_embeddings=True)),
    "qwen3": ("Qwen3", dict(GROUPED, head_dim=8, tie_word_embeddings=False)),
    "gemma2": ("Gemma2", dict(GROUPED, sliding_window=4, query_pre_attn_scalar=10, attn_logit_softcapping=2.0, final_logit_softcapping=3.0)),
    "phi3": ("Phi3", dict(SMALL, hidden_size=24, num_key_value_heads=2, tie_word_embeddings=False)),
    "olmo2": ("Olmo2", dict(SMALL, hidden_size=24, num_key_value_heads=2, tie_word_embeddings=False)),
    "gemma": ("Gemma", dict(GROUPED)),
    "gemma3": ("Gemma3Text", dict(GROUPED, sliding_window=4, query_pre_attn_scalar=10, layer_types=["sliding_attention", "full_attention"], rope_parameters=dict(
        sliding_attention=dict(rope_type="default", rope_theta=100.0), full_attention=dict(rope_type="linear", factor=2.0, rope_theta=10000.0)))),
    "olmo3": ("Olmo3", dict(SMALL, hidden_size=24, num_key_value_heads=2, tie_word_embeddings=False, sliding_window=4,
                            layer_types=["sliding_attention", "full_attention"], rope_parameters=dict(
        sliding_attention=dict(rope_type="default", rope_theta=10000.0),
        full_attention=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, rope_theta=10000.0)))),
    "smollm3": ("SmolLM3", dict(GROUPED, tie_word_embeddings=True, no_rope_layers=[1, 0])),
}
FAMILIES["gpt_neo"] = ("GPTNeo", dict(hidden_size=20, num_heads=4, num_layers=2, attention_types=[[["global", "local"], 1]], window_size=4, vocab_size=61,
                                      max_position_embeddings=40, bos_token_id=None, eos_token_id=None, use_cache=False))
FAMILIES.update(
    gptj=("GPTJ", dict(n_embd=20, n_head=2, n_layer=2, rotary_dim=4, vocab_size=61, n_positions=40, bos_token_id=None, eos_token_id=None, use_cache=False)),
    phi=("Phi", dict(SMALL, hidden_size=32, partial_rotary_factor=0.5, num_key_value_heads=4)),
    stablelm=("StableLm", dict(SMALL, hidden_size=32, num_key_value_heads=2, use_qkv_bias=True)),
    stablelm_parallel=("StableLm", dict(SMALL, hidden_size=24, num_key_value_heads=4, use_parallel_residual=True, partial_rotary_factor=0.67)),
    starcoder2=("Starcoder2", dict(SMALL, hidden_size=24, num_key_value_heads=2, sliding_window=4)),
    granite=("Granite", dict(SMALL, hidden_size=24, num_key_value_heads=2, embedding_multiplier=3.0, residual_multiplier=0.7, attention_multiplier=0.3,
                             logits_scaling=1.5)),
    olmo=("Olmo", dict(SMALL, hidden_size=24, num_key_value_heads=2)),
    cohere=("Cohere", dict(SMALL, hidden_size=24, num_key_value_heads=2, logit_scale=0.6)),
    cohere2=("Cohere2", dict(SMALL, hidden_size=24, num_key_value_heads=2, logit_scale=0.6, sliding_window=4, layer_types=["sliding_attention", "full_attention"])),
    bloom=("Bloom", dict(hidden_size=24, n_head=3, n_layer=2, vocab_size=61, bos_token_id=None, eos_token_id=None, use_cache=False)),
    opt=("OPT", dict(hidden_size=20, num_attention_heads=4, num_hidden_layers=2, ffn_dim=28, vocab_size=61, max_position_embeddings=40,
                     bos_token_id=None, eos_token_id=None, pad_token_id=None, use_cache=False)))
FAMILIES.update(
    mixtral=("Mixtral", dict(GROUPED, num_local_experts=4, num_experts_per_tok=2, sliding_window=4)),
    qwen3_moe=("Qwen3Moe", dict(GROUPED, head_dim=8, num_experts=5, num_experts_per_tok=3, moe_intermediate_size=12, norm_topk_prob=False, num_hidden_layers=3,
                                mlp_only_layers=[1])),
    gpt_oss=("GptOss", dict(GROUPED, num_local_experts=4, num_experts_per_tok=2, sliding_window=4, swiglu_limit=1.5)),
    bert=("Bert", dict(hidden_size=20, num_attention_heads=4, num_hidden_layers=2, intermediate_size=28, vocab_size=61, max_position_embeddings=40)))
IN_BF16 = ("llama", "gemma2")


def make_family(name, seed, dtype=torch.float32):
    import transformers
    kind, options = FAMILIES[name]
    folder = os.path.join(HERE, name + ("_bf16" if dtype == torch.bfloat16 else ""))
    torch.manual_seed(seed)
    config = getattr(transformers, kind + "Config")(**options)
    model = getattr(transformers, kind.replace("3Text", "3") + ("ForMaskedLM" if kind == "Bert" else "ForCausalLM"))(config)
    random_weights(model, seed)
    model.to(dtype).save_pretrained(folder)
    if kind == "Bert":                                   # the bias of the logits under both of its names, as untied models have it
        from safetensors.torch import load_file, save_file
        path = os.path.join(folder, "model.safetensors")
        tensors = load_file(path)
        save_file({**tensors, "cls.predictions.decoder.bias": tensors["cls.predictions.bias"].clone()}, path, metadata={"format": "pt"})
    generation = os.path.join(folder, "generation_config.json")
    if os.path.exists(generation):
        os.remove(generation)
    make_data(folder, config.hidden_size, 0, config.vocab_size)
    write_family_cases(folder)


def write_case(reference, path, remark, lines):
    """A script without the saves that carry more rounding than the tests allow (in 16 bits)."""
    folder = os.path.dirname(path)
    others = [(reference.other, 8e-3)]
    if reference.dtype != torch.float32:                 # how far 16 bits are from the numbers they stand for
        others.append((Runner(open_model(os.path.dirname(folder), torch.float32)[0], False), 7e-3))
    why = "all"
    while why:
        text = "# " + remark + "\n" + "\n".join(lines) + "\n"
        for reference.other, allowed in others:
            why = reference.unstable(text, folder, reference.run(text, folder), allowed)
            if why:
                break
        reference.other = others[0][0]
        lines = [line for line in lines if not why or not line.strip().startswith(why.split()[0] + " ")]
    with open(path, "w") as file:
        file.write(text)


def write_family_cases(folder):
    """Every site of a prompt longer than the window; logits and blocks for lengths below, at and beyond it, alone and ragged."""
    reference, cases = Reference(folder), os.path.join(folder, "cases")
    indexed = lambda path: re.sub(r"\.(\d+)", r"[\1]", path)
    sites = ["output.logits" if path == "output" else indexed(path) + "." + site for path, site in reference.runner.sites]
    lines = ["with invoke([[7, 31, 2, 55, 19, 4, 44]]):"] + [f"    s{i} = {site}.save()" for i, site in enumerate(sites)]
    write_case(reference, os.path.join(cases, "every_site.inset"), "every site, in order", lines)
    block = indexed(next(p for p, s in reference.runner.sites if re.fullmatch(r"[a-z_.]+\.1", p)))
    prompts = [[7, 31, 2]], [[7, 31, 2, 55]], [[7, 31, 2, 55, 19, 4, 44, 8, 60]], [[9, 1, 33, 5, 6, 8, 60], [3, 4], [9, 1, 33, 6]]
    lines = []
    for i, prompt in enumerate(prompts):
        lines += [f"with invoke({prompt}):", f"    block{i} = {block}.output.save()", f"    logits{i} = output.logits[:, -1].save()", "    pass", ""]
    write_metrics(reference, cases, block)
    write_calls(reference, cases)
    write_case(reference, os.path.join(cases, "lengths.inset"), "below, at and beyond a window of 4; ragged", lines)


def write_metrics(reference, cases, block):
    """Metrics of plain and of patched runs, of whole rows and of few columns, ragged, of other tensors than logits."""
    lines = ["answers = [11, 12]",
             "with invoke([[7, 31, 2, 55, 19]]):",
             f"    source = {block}.output",
             "    clean = output.logits",
             "    d0 = clean[:, -1].logit_diff(11, 12).save()",
             "    p0 = clean[:, -1].probability(answers).save()",
             "    all0 = clean.log_probability([3, 5, 7]).save()",
             "with invoke([[7, 31, 9, 55, 20]]):",
             f"    {block}.output[:, 2] = source[:, 2]",
             f"    w = {block}.output[..., :8].logit_diff([1, 2], 3).save()",
             "    d1 = output.logits[:, -1].logit_diff(answers, [13, 3, 14]).save()",
             "    l1 = output.logits[0].logit(answers).save()",
             "    k1 = output.logits.kl(clean).save()",
             "    k2 = output.logits[0, 1:].kl(clean[0, -1]).save()",
             "    r1 = output.logits[0].rank(7).save()",
             "    r2 = output.logits[0].rank([7, 8, 9]).save()",
             "    p1 = output.logits[0, -1].probability(4).save()",
             "    l2 = output.logits[0, -1].log_probability(4).save()",
             "with invoke([[7, 31, 9], [2, 3, 4, 5, 6]]):",
             "    d3 = output.logits[:, -1].logit_diff(11, 12).save()",
             "    ragged = output.logits.logit([20, 21]).save()",
             "    output.logits[:, -1, 11] = 2",
             "    d4 = output.logits[:, -1].logit_diff(11, 12).save()",
             "    near = (output.logits[:, -1] * 1.01).kl(output.logits[:, -1]).save()",
             "    sum = (2 * output.logits[1, -1].logit(3) + output.logits[1, -1, 3]).save()"]
    if reference.dtype != torch.float32:                 # differences of logits are mostly their last bits there
        lines = [line for line in lines if "logit_diff" not in line]
    write_case(reference, os.path.join(cases, "metrics.inset"), "numbers made from rows of logits", lines)


def write_calls(reference, cases):
    """The lens of every block; every module of one block that can be applied, on values of another prompt, of views, ragged, and put back in."""
    indexed = lambda path: re.sub(r"\.(\d+)", r"[\1]", path)
    runner = reference.runner
    interpreter, widths = Interpreter(runner, None), {}
    for path in runner.modules:
        try:
            if not interpreter.attends(path):                          # blocks and attention take whole sequences (make_gradients.py has those)
                widths[path] = interpreter.callable_width(path)
        except ScriptError:
            pass
    blocks = sorted({p for p, s in runner.sites if p.rsplit(".", 1)[-1].isdigit() and s == "output" and re.fullmatch(r"[a-z_.]+\.\d+", p)})
    norm, head = [p for p in widths if not re.search(r"\d", p)][-2:]   # transformer.ln_f, lm_head
    width = widths[norm]
    lens = lambda x: f"{indexed(head)}({indexed(norm)}({x}))"
    last, mlp = indexed(blocks[-1]), indexed(next(p for p in widths if p.startswith(blocks[1]) and p.endswith(".mlp" if any(q.endswith(".mlp") for q in widths) else ("out_proj", ".dense"))))
    lines = ["with invoke([[7, 31, 2, 55, 19]]):"]
    for i, block in enumerate(blocks):
        lines += [f"    h{i} = {indexed(block)}.output", f"    lens{i} = {lens(f'h{i}[:, -1]')}.save()", f"    all{i} = {lens(f'h{i}')}[0, 1:3, :40].save()"]
    lines += ["    logits = output.logits[:, -1].save()",
              "with invoke([[7, 31, 2, 9, 20], [3, 4, 5, 6, 8]]):",
              f"    early = {mlp}(h0[:, 1:])"]
    lines += [f"    m{i} = {indexed(p)}({'h0' if widths[p] == width else 'wide'}{'[:, -1]' if i % 2 else '[0, 2:]'}){'[..., 3:19]'}.save()"
              for i, p in enumerate(p for p in widths if p.startswith(blocks[1]) and widths[p] == width)]
    lines += ["    seen = early.save()",
              f"    {last}.output[:, 1:3] += early[:, 1:3]",
              f"    odd = {mlp}({mlp}({last}.output[:, [0, 2]] * 0.5))[0].save()",
              f"    {last}.output[1] = {indexed(norm)}(h0[0])",
              "    back = output.logits[:, -1, :40].save()",
              "with invoke([[7, 31, 2, 9], [3, 4]]):",
              f"    ragged = {mlp}({indexed(blocks[0])}.output)[..., 5:17].save()",
              f"    diff = {lens(f'{indexed(blocks[1])}.output')}[:, -1].logit({[11, 12]}).save()",
              f"    row = {indexed(norm)}({indexed(blocks[1])}.output[0, 1])[2:30].save()"]
    write_case(reference, os.path.join(cases, "calls.inset"), "modules applied to values", lines)


def make_data(folder, width, rows, vocabulary):
    """Tensors for load(): one of every type a row wide, a matrix, tokens."""
    cases = os.path.join(folder, "cases")
    os.makedirs(cases, exist_ok=True)
    generator = torch.Generator().manual_seed(99)
    row = torch.randn(width, generator=generator)
    tensors = {"vec": row, "mat": torch.randn(6, width, generator=generator)}
    for name, dtype in (("f64", torch.float64), ("f16", torch.float16), ("bf16", torch.bfloat16)):
        tensors[name] = torch.randn(width, generator=generator, dtype=torch.float64).to(dtype)
    for name, dtype in (("i64", torch.int64), ("i32", torch.int32), ("i16", torch.int16), ("i8", torch.int8), ("u8", torch.uint8)):
        tensors[name] = torch.randint(0 if name == "u8" else -9, 10, (width,), generator=generator).to(dtype)
    tensors["bool"] = torch.rand(width, generator=generator) < 0.5
    if vocabulary:
        tensors["tokens"] = torch.randint(0, vocabulary, (2, 5), generator=generator)
        np.save(os.path.join(cases, "tokens.npy"), torch.randint(0, vocabulary, (2, 4), generator=generator, dtype=torch.int32).numpy())
    else:
        tensors["rows"] = torch.randn(3, width, generator=generator)
        np.save(os.path.join(cases, "rows.npy"), torch.randn(2, width, generator=generator, dtype=torch.float64).numpy())
    write_tensors(os.path.join(cases, "data.safetensors"), tensors)


def make_models():
    linear = lambda name, n_in, n_out, bias=True: {"name": name, "type": "linear", "in": n_in, "out": n_out, "bias": bias}
    make_sequential("notebook", [linear("layer1", 5, 10), linear("layer2", 10, 2)], 1)
    make_sequential("deep", [
        linear("wide", 7, 19), {"name": "relu", "type": "relu"}, {"name": "norm", "type": "layernorm", "in": 19, "eps": 1e-3},
        linear("narrow", 19, 9, False), {"name": "gelu", "type": "gelu"}, linear("middle", 9, 9), {"name": "tanh", "type": "tanh"},
        {"name": "last_norm", "type": "layernorm", "in": 9}, {"name": "sigmoid", "type": "sigmoid"}, linear("out", 9, 4)], 2)
    make_gpt2("gpt2", 3)
    for i, name in enumerate(FAMILIES):
        make_family(name, 10 + i)
        if name in IN_BF16:
            make_family(name, 116, torch.bfloat16)
    make_gpt2("gpt2_sharded", 3, shard="60KB")
    make_gpt2("gpt2_bf16", 3, torch.bfloat16)
    make_gpt2("gpt2_f16", 3, torch.float16)
    make_gpt2("gpt2_options", 4, n_embd=24, n_head=2, n_layer=2, n_inner=45, activation_function="relu", layer_norm_epsilon=1e-3,
              scale_attn_by_inverse_layer_idx=True, tie_word_embeddings=False)
    make_composite()


def make_composite():
    """A model of images and text, and the logits of a text."""
    import transformers
    torch.manual_seed(5)
    text = dict(GROUPED, tie_word_embeddings=False)
    vision = dict(hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4)
    model = transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**text), vision_config=transformers.CLIPVisionConfig(**vision), image_token_index=60)).eval()
    random_weights(model.model.language_model, 5)
    folder = os.path.join(HERE, "llava")
    model.save_pretrained(folder)
    os.remove(os.path.join(folder, "generation_config.json"))
    with torch.no_grad():
        logits = model(torch.tensor([[7, 31, 2, 55, 19, 4, 44, 8, 50, 11, 12]])).logits
    write_tensors(os.path.join(folder, "logits.safetensors"), {"logits": logits})


# ---- expected values ------------------------------------------------------------------------------------------------------------------

def round_once(model):
    """Has each layer of a 16-bit model compute in fp32 and round its result alone, as a fused kernel does."""
    def wrap(layer):
        dtype, forward = next((p.dtype for p in layer.parameters()), None), copy.deepcopy(layer).float().forward
        layer.forward = lambda x: forward(x.float()).to(dtype or x.dtype)
    for layer in model.modules():
        if not list(layer.children()) and not isinstance(layer, (nn.Embedding, nn.Dropout)) and not type(layer).__name__.endswith("RotaryEmbedding"):
            wrap(layer)


class Reference:
    """Runs scripts on a model, and again on one a little different to see how far its rounding reaches into the results."""
    def __init__(self, folder, dtype=None):
        self.model, self.sequential = open_model(folder, dtype)
        self.dtype = next(self.model.parameters()).dtype
        self.runner = Runner(self.model, self.sequential)
        other, _ = open_model(folder, dtype)
        if self.dtype == torch.float32:
            generator = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for p in other.parameters():
                    p.mul_(1 + 2.0 ** -24 * torch.randn(p.shape, generator=generator))
        else:
            round_once(other)
        self.other = Runner(other, self.sequential)

    def run(self, text, folder):
        return Interpreter(self.runner, loader(folder)).run(text)

    def run_other(self, text, folder):
        return Interpreter(self.other, loader(folder)).run(text)

    def unstable(self, text, folder, values, in_16_bits=8e-3):
        """None, or why no tolerance of the tests would be fair to these values."""
        allowed = 3e-6 if self.dtype == torch.float32 else in_16_bits
        try:
            others = self.run_other(text, folder)
        except ScriptError as e:
            return str(e)
        for name, value in values.items():
            a, b = value.double(), others[name].double()
            masked = (a == -float("inf")) & (b == -float("inf"))              # of scores
            a, b = a.masked_fill(masked, 0), b.masked_fill(masked, 0)
            if a.numel() and not a.abs().max() < 1e4:
                return f"{name} is huge or no number"
            if (a - b).norm() > allowed * b.norm() + 1e-8 * b.numel() ** 0.5:
                return f"{name} carries {((a - b).norm() / b.norm()).item():.1e} of rounding"
        return None


def make_cases():
    """Expected values beside every hand-written script."""
    for folder in sorted(glob.glob(os.path.join(HERE, "*", "cases"))):
        scripts = sorted(glob.glob(os.path.join(folder, "*.inset")))
        if not scripts:
            continue
        reference = Reference(os.path.dirname(folder))
        for path in scripts:
            text = open(path).read()
            try:
                values = reference.run(text, folder)
            except (ScriptError, Unsupported) as e:
                sys.exit(f"{path}:{getattr(e, 'line', 0)}: {type(e).__name__}: {e}")
            why = reference.unstable(text, folder, values)
            if why:
                sys.exit(f"{path}: {why}")
            write_tensors(path[:-len("inset")] + "safetensors", values)
        print(f"{folder}: {len(scripts)} cases")


def make_sweeps():
    import sweep_cases
    os.makedirs(os.path.join(HERE, "sweeps"), exist_ok=True)
    for name in sweep_cases.CASES:
        values = sweep_cases.expected(name, Reference(os.path.join(HERE, name)).runner)
        write_tensors(os.path.join(HERE, "sweeps", name + ".safetensors"), values)
        print(f"sweeps of {name}: {len(values)} tensors")
    import feature_cases
    feature_cases.write(os.path.join(HERE, "features"), os.path.join(HERE, "gpt2"), write_tensors)


def make_random(folder, count, seed, out, edits=False):
    """`count` random scripts for a model, one in five to be refused, or all with edits: out.cases (text) and out.safetensors."""
    import random_scripts
    reference, cases = Reference(folder), os.path.join(folder, "cases")
    load = loader(cases)
    texts, values, dropped = [], {}, 0
    attempt = seed * 100000
    while len(texts) < count:
        attempt += 1
        name = f"{len(texts):04d}"
        if len(texts) % 5 == 4 and not edits:
            script, errors, line = random_scripts.invalid(reference, attempt, load)
            try:
                reference.run(script, cases)
                dropped += 1
                continue
            except ScriptError as e:
                if e.name not in errors.split("|"):
                    dropped += 1
                    continue
                # Python cannot say where a bracket is missed; else the line is known from how the script was made.
                line = 0 if e.name == "SyntaxError" or e.line != line else line
            except Unsupported:
                continue
            texts.append(f"--- {name} {errors} {line}\n{script}")
            continue
        script = (random_scripts.edited if edits else random_scripts.valid)(reference, attempt, load)
        try:
            saved = reference.run(script, cases)
        except (ScriptError, Unsupported):
            dropped += 1
            continue
        if not saved or reference.unstable(script, cases, saved):
            dropped += 1
            continue
        texts.append(f"--- {name}\n{script}")
        values.update({f"{name}/{key}": value for key, value in saved.items()})
    with open(out + ".cases", "w") as file:
        file.write("\n".join(texts))
    write_tensors(out + ".safetensors", values)
    print(f"{out}: {count} scripts, {dropped} dropped, {os.path.getsize(out + '.cases')} + {os.path.getsize(out + '.safetensors')} bytes")


def difference(got, want):
    """None, or how two dictionaries of tensors differ."""
    if list(got) != list(want):
        return f"saved {list(got)}, expected {list(want)}"
    for name in want:
        a, b = got[name], want[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"{name}: {tuple(a.shape)} {a.dtype}, expected {tuple(b.shape)} {b.dtype}"
        a, b = a.double(), b.double()
        if (a - b).norm() > 1e-5 * b.norm() + 1e-6 * b.numel() ** 0.5:
            return f"{name}: differs by {((a - b).norm() / b.norm()).item():.2g}"
    return None


def validate(folders):
    """The reference against cases of known result: model/, cases/NNNN.{inset,json,safetensors}."""
    from safetensors.torch import load_file
    bad = 0
    for folder in folders:
        reference, cases, counts = Reference(os.path.join(folder, "model")), os.path.join(folder, "cases"), [0, 0, 0]
        for path in sorted(glob.glob(os.path.join(cases, "*.json"))):
            case = json.load(open(path))
            text = open(os.path.join(cases, case["file"])).read()
            why = None
            try:
                values = reference.run(text, cases)
                if "error" in case:
                    why = f"no error, expected {case['error']}"
                else:
                    want = load_file(path[:-4] + "safetensors")
                    why = difference(values, {name: want[name] for name in case["saves"]})
            except Unsupported:
                why = "unsupported"
            except ScriptError as e:
                if "error" not in case:
                    why = str(e)
                elif e.name not in case["accept"] and (e.name, case["error"]) != ("NameError", "SyntaxError"):
                    why = f"{e}, expected {case['error']}"
            named = re.search(r"\.(q|k|v|z|scores|pattern|pre|post|scale|up)\b", text)
            counts[2 if why and named else 1 if why else 0] += 1
            if why and not named:
                print(f"{path}: {why}")
        bad += counts[1]
        print(f"{folder}: {counts[0]} agree, {counts[1]} differ, {counts[2]} need named sites")
    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("models", "cases", "sweeps", "random", "validate", "all"))
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--model")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out")
    parser.add_argument("--edits", action="store_true", help="random scripts with edit() blocks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import transformers
    transformers.utils.logging.disable_progress_bar()
    if options.what == "validate":
        return validate(options.folders)
    if options.what == "random":
        make_random(options.model, options.count, options.seed, options.out, options.edits)
    if options.what in ("models", "all"):
        make_models()
    if options.what in ("cases", "all"):
        make_cases()
    if options.what in ("sweeps", "all"):
        make_sweeps()
    if options.what == "all":
        for name, count, seed in (("gpt2", 150, 1), ("notebook", 30, 1), ("deep", 40, 1), *((name, 17, 2 + i) for i, name in enumerate(FAMILIES))):
            folder = os.path.join(HERE, name)
            make_random(folder, count, seed, os.path.join(folder, "random"))
        for name, count in (("gpt2", 60), ("notebook", 20), ("llama", 30), ("gemma2", 15)):
            folder = os.path.join(HERE, name)
            make_random(folder, count, 1, os.path.join(folder, "edits"), edits=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
