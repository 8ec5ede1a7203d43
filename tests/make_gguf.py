#!/usr/bin/env python3
"""Makes tests/fixtures/gguf with the package `gguf`: blocks.safetensors (random blocks of every kind as bytes, and what the package makes of them), and for some
families a small random model as NAME.gguf, with NAME.safetensors: the logits of transformers' model of the numbers that its blocks stand for, for PROMPT.

Run with gguf 0.17, transformers 5.23, torch 2.15.
"""
import os
import sys

import gguf
import numpy
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, Phi3Config, Qwen2Config, Qwen3Config

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures")
FOLDER = os.path.join(HERE, "gguf")
PROMPT = [3, 17, 9, 44, 2, 50]
KINDS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K", "F16", "BF16", "F32"]
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
         "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
         "post_attention_layernorm": "ffn_norm"}
GEMMA = {"pre_feedforward_layernorm": "ffn_norm", "post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"}
PHI = {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"}
TOPS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def blocks():
    out, random = {}, numpy.random.default_rng(5)
    for name in KINDS:
        kind = Kind[name]
        numbers, size = gguf.GGML_QUANT_SIZES[kind]
        n = 9 if numbers > 1 else 64
        raw = random.integers(0, 256, (n, size), dtype=numpy.uint8)
        halves = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2],
                  "Q6_K": [208]}.get(name, [])
        for at in halves:    # scales as files have them
            raw[:, at:at + 2] = (random.normal(size=n) * 0.02).astype(numpy.float16).view(numpy.uint8).reshape(n, 2)
        if name in ("Q8_K", "F32"):
            raw[:, :4] = random.normal(size=n).astype(numpy.float32).view(numpy.uint8).reshape(n, 4)
        if name in ("F16", "BF16"):
            raw = (random.normal(size=n).astype(numpy.float16) if name == "F16" else (random.normal(size=n).astype(numpy.float32).view(numpy.uint32) >> 16).astype(numpy.uint16)) \
                .view(numpy.uint8).reshape(n, 2)
        if name == "Q8_K":
            made = (raw[:, :4].copy().view(numpy.float32) * raw[:, 4:260].view(numpy.int8)).astype(numpy.float32)
        elif name == "F32":
            made = raw.copy().view(numpy.float32)
        else:
            made = gguf.quants.dequantize(raw, kind)
        out[f"{name}.blocks"] = torch.from_numpy(raw.copy())
        out[f"{name}.numbers"] = torch.from_numpy(numpy.ascontiguousarray(made, dtype=numpy.float32).reshape(-1))
    save_file(out, os.path.join(FOLDER, "blocks.safetensors"))


def permute(weights, heads):
    """As llama.cpp's conversion lays rows of q and k out."""
    return weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def words(writer):
    import json
    file = json.load(open(os.path.join(HERE, "tokenizers", "small.json")))
    tokens = sorted(file["model"]["vocab"], key=file["model"]["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in file["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_add_bos_token(True)
    return len(tokens)


def model(name, config, kinds, permuted):
    torch.manual_seed(sum(map(ord, name)))
    net = AutoModelForCausalLM.from_config(config).eval()
    path = os.path.join(FOLDER, name + ".gguf")
    writer = gguf.GGUFWriter(path, name.split("_")[0])
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_key_length(config.head_dim if getattr(config, "head_dim", None) else config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    words(writer)
    if name == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
        writer.add_sliding_window(config.sliding_window)
        writer.add_value_length(config.head_dim)
    if name == "phi3":
        writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
        writer.add_sliding_window(config.sliding_window or config.max_position_embeddings)
    kept = {}
    state = {n: x for n, x in net.state_dict().items() if not (n.startswith("lm_head") and config.tie_word_embeddings)}
    for n, x in state.items():
        x = (x + torch.randn(x.shape) * 0.1).float().numpy()
        whole = x
        stem, end = n.rsplit(".", 1)
        if stem.startswith("model.layers."):
            layer, part = stem[len("model.layers."):].split(".", 1)
            if permuted and part in ("self_attn.q_proj", "self_attn.k_proj"):
                x = permute(x, config.num_attention_heads if "q_proj" in part else config.num_key_value_heads)
            own = {"gemma2": GEMMA, "phi3": PHI}.get(name, {})
            theirs = f"blk.{layer}.{own.get(part) or NAMES[part]}.{end}"
        else:
            part, theirs = stem, f"{TOPS[stem]}.{end}"
        if name == "gemma2" and "norm" in stem:
            x = x + 1
        kind = Kind[kinds.get(part, "F32")] if x.ndim == 2 else Kind.F32
        data = x if kind == Kind.F32 else gguf.quants.quantize(numpy.ascontiguousarray(x), kind)
        # what the file's blocks stand for, in transformers' order of rows
        kept[n] = torch.from_numpy(whole if kind == Kind.F32 else gguf.quants.dequantize(gguf.quants.quantize(numpy.ascontiguousarray(whole), kind), kind)).clone()
        writer.add_tensor(theirs, data, raw_dtype=None if kind == Kind.F32 else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    theirs = net
    theirs.load_state_dict(kept, strict=False)
    theirs.tie_weights()
    if name in ("llama", "qwen2", "qwen3"):    # of the others transformers' loading leaves parts of the config out
        again = AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file=name + ".gguf", dtype=torch.float32).eval()
        with torch.no_grad():
            a, b = again(torch.tensor([PROMPT])).logits, net(torch.tensor([PROMPT])).logits
        assert (a - b).norm() < 1e-5 * b.norm(), name
    with torch.no_grad():
        out = theirs(torch.tensor([PROMPT])).logits[0]
    save_file({"logits": out.contiguous(), "prompt": torch.tensor(PROMPT)}, os.path.join(FOLDER, name + ".safetensors"))
    print(name, os.path.getsize(path), out.norm().item())


def main():
    os.makedirs(FOLDER, exist_ok=True)
    blocks()
    shape = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=60, max_position_embeddings=64)
    mixed = {"self_attn.q_proj": "Q8_0", "self_attn.k_proj": "Q5_0", "self_attn.v_proj": "Q5_1", "self_attn.o_proj": "F16", "mlp.gate_proj": "Q4_0", "mlp.up_proj": "Q4_1",
             "mlp.down_proj": "BF16", "model.embed_tokens": "Q8_0", "lm_head": "F16"}
    model("llama", LlamaConfig(**shape, tie_word_embeddings=True, rms_norm_eps=1e-5), mixed, True)
    model("qwen2", Qwen2Config(**shape, tie_word_embeddings=False, rms_norm_eps=1e-6), mixed, False)
    model("qwen3", Qwen3Config(**{**shape, "num_attention_heads": 2, "num_key_value_heads": 1}, head_dim=128, tie_word_embeddings=False, rms_norm_eps=1e-6), mixed, False)
    model("gemma2", Gemma2Config(**shape, head_dim=16, query_pre_attn_scalar=16, sliding_window=4, rms_norm_eps=1e-6), mixed, False)
    model("phi3", Phi3Config(**shape, tie_word_embeddings=False, rms_norm_eps=1e-5, pad_token_id=0),
          {**mixed, "self_attn.qkv_proj": "Q8_0", "mlp.gate_up_proj": "Q4_1"}, False)


if __name__ == "__main__":
    sys.exit(main())
