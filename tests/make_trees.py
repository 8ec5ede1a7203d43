#!/usr/bin/env python3
"""Writes tests/fixtures/trees: for each family a config.json and the module tree that transformers runs for it.

    make_trees.py [FAMILY ...]        needs torch and transformers

A line of FAMILY.txt is one module entered or left in a forward of two prompts of three tokens (eager attention), in execution order:

    enter|leave PATH [shape] #tensor

Experts are opened (experts.py), and each one's own module is left out. Tensors are numbered by their storage as they first appear, so two lines with one number are one tensor. Modules that return no tensor
(the inner model, the rotary embedding's pair of tables) are left out, OPT's embeddings of positions, which are given a mask, and Gemma 3's norms of q and k, which have heads before positions, and GPT-Neo's and BLOOM's dropout of patterns
and Phi's of residuals (called twice), and BERT's embeddings of token types (given zeros that nobody passed). FAMILY.weights has every weight and its shape; FAMILY.rope, where there is
one, the rotary embedding's factor on cosine and sine and then its frequencies. test_models compares inset's programs with these files."""
import json
import os
import sys

import torch
import transformers as t

from experts import Expert, open_experts
from named_sites import with_positions_apart

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures", "trees")
LLAMA = dict(vocab_size=13, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=32, bos_token_id=None, eos_token_id=None, pad_token_id=None)
FAMILIES = {
    "gpt2": (t.GPT2Config, t.GPT2LMHeadModel, dict(n_embd=16, n_layer=2, n_head=4, n_positions=8, vocab_size=11, bos_token_id=None,
                                                   eos_token_id=None)),
    "gpt2_inner": (t.GPT2Config, t.GPT2LMHeadModel, dict(n_embd=12, n_layer=1, n_head=3, n_inner=20, n_positions=8, vocab_size=11,
                                                         activation_function="relu", tie_word_embeddings=False, bos_token_id=None,
                                                         eos_token_id=None)),
    "gpt_neo": (t.GPTNeoConfig, t.GPTNeoForCausalLM, dict(vocab_size=13, hidden_size=16, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]],
                                                          window_size=3, max_position_embeddings=8, bos_token_id=None, eos_token_id=None)),
    "gptj": (t.GPTJConfig, t.GPTJForCausalLM, dict(vocab_size=13, n_embd=24, n_layer=2, n_head=3, rotary_dim=6, n_positions=8, bos_token_id=None, eos_token_id=None)),
    "gpt_neox": (t.GPTNeoXConfig, t.GPTNeoXForCausalLM, dict(vocab_size=13, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                                                             intermediate_size=48, max_position_embeddings=32, bos_token_id=None,
                                                             eos_token_id=None)),
    "bert": (t.BertConfig, t.BertForMaskedLM, dict(vocab_size=13, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
                                                   max_position_embeddings=8)),
    "bert_untied": (t.BertConfig, t.BertForMaskedLM, dict(vocab_size=13, hidden_size=12, intermediate_size=20, num_hidden_layers=1, num_attention_heads=3,
                                                          max_position_embeddings=8, hidden_act="relu", tie_word_embeddings=False)),
    "gpt_neox_serial": (t.GPTNeoXConfig, t.GPTNeoXForCausalLM, dict(vocab_size=13, hidden_size=32, num_hidden_layers=2,
                                                                    num_attention_heads=4, intermediate_size=48,
                                                                    max_position_embeddings=32, use_parallel_residual=False,
                                                                    attention_bias=False, bos_token_id=None, eos_token_id=None)),
    "llama": (t.LlamaConfig, t.LlamaForCausalLM, dict(LLAMA)),
    "llama3": (t.LlamaConfig, t.LlamaForCausalLM, dict(LLAMA, head_dim=10, attention_bias=True, mlp_bias=True, rope_parameters=dict(
        rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16))),
    "llama_linear": (t.LlamaConfig, t.LlamaForCausalLM, dict(LLAMA, num_hidden_layers=1, rope_parameters=dict(
        rope_type="linear", rope_theta=1000.0, factor=3.0))),
    "mistral": (t.MistralConfig, t.MistralForCausalLM, dict(LLAMA, head_dim=6, sliding_window=4)),
    "qwen2": (t.Qwen2Config, t.Qwen2ForCausalLM, dict(LLAMA, tie_word_embeddings=True)),
    "qwen3": (t.Qwen3Config, t.Qwen3ForCausalLM, dict(LLAMA, head_dim=6)),
    "gemma2": (t.Gemma2Config, t.Gemma2ForCausalLM, dict(LLAMA, head_dim=6, sliding_window=4, query_pre_attn_scalar=5)),
    "phi3": (t.Phi3Config, t.Phi3ForCausalLM, dict(LLAMA)),
    "phi3_long": (t.Phi3Config, t.Phi3ForCausalLM, dict(LLAMA, num_hidden_layers=1, num_attention_heads=2, original_max_position_embeddings=8,
                                                        rope_parameters=dict(rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=0.75,
                                                                             short_factor=[1.0, 1.5, 2.25], long_factor=[2.0, 4.0, 8.0]))),
    "olmo2": (t.Olmo2Config, t.Olmo2ForCausalLM, dict(LLAMA)),
    "llama_yarn": (t.LlamaConfig, t.LlamaForCausalLM, dict(LLAMA, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, rope_parameters=dict(
        rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=16))),
    "llama_yarn_mscale": (t.LlamaConfig, t.LlamaForCausalLM, dict(LLAMA, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, rope_parameters=dict(
        rope_type="yarn", rope_theta=5000.0, factor=8.0, original_max_position_embeddings=64, beta_fast=20.0, beta_slow=0.5, mscale=0.8, mscale_all_dim=0.5, truncate=False))),
    "llama_dynamic": (t.LlamaConfig, t.LlamaForCausalLM, dict(LLAMA, num_hidden_layers=1, rope_parameters=dict(rope_type="dynamic", rope_theta=10000.0, factor=4.0))),
    "gemma": (t.GemmaConfig, t.GemmaForCausalLM, dict(LLAMA, head_dim=6)),
    "gemma3_text": (t.Gemma3TextConfig, t.Gemma3ForCausalLM, dict(LLAMA, num_hidden_layers=3, head_dim=6, sliding_window=4, query_pre_attn_scalar=5,
                                                                  layer_types=["sliding_attention", "full_attention", "sliding_attention"])),
    "olmo3": (t.Olmo3Config, t.Olmo3ForCausalLM, dict(LLAMA, num_hidden_layers=4, sliding_window=4)),
    "phi": (t.PhiConfig, t.PhiForCausalLM, dict(LLAMA, num_key_value_heads=4)),
    "stablelm": (t.StableLmConfig, t.StableLmForCausalLM, dict(LLAMA, hidden_size=32)),
    "stablelm_parallel": (t.StableLmConfig, t.StableLmForCausalLM, dict(LLAMA, use_parallel_residual=True, use_qkv_bias=True, num_hidden_layers=1,
                                                                        partial_rotary_factor=0.5)),
    "starcoder2": (t.Starcoder2Config, t.Starcoder2ForCausalLM, dict(LLAMA, sliding_window=4)),
    "granite": (t.GraniteConfig, t.GraniteForCausalLM, dict(LLAMA, embedding_multiplier=12.0, residual_multiplier=0.22, attention_multiplier=0.1,
                                                            logits_scaling=8.0)),
    "olmo": (t.OlmoConfig, t.OlmoForCausalLM, dict(LLAMA)),
    "cohere": (t.CohereConfig, t.CohereForCausalLM, dict(LLAMA)),
    "cohere2": (t.Cohere2Config, t.Cohere2ForCausalLM, dict(LLAMA, num_hidden_layers=3, sliding_window=4,
                                                            layer_types=["full_attention", "sliding_attention", "sliding_attention"])),
    "bloom": (t.BloomConfig, t.BloomForCausalLM, dict(vocab_size=13, hidden_size=24, n_layer=2, n_head=6, bos_token_id=None, eos_token_id=None)),
    "opt": (t.OPTConfig, t.OPTForCausalLM, dict(vocab_size=13, hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=8,
                                                bos_token_id=None, eos_token_id=None, pad_token_id=None)),
    "mixtral": (t.MixtralConfig, t.MixtralForCausalLM, dict(LLAMA, num_local_experts=3)),
    "qwen3_moe": (t.Qwen3MoeConfig, t.Qwen3MoeForCausalLM, dict(LLAMA, head_dim=6, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=10,
                                                                decoder_sparse_step=2)),
    "gpt_oss": (t.GptOssConfig, t.GptOssForCausalLM, dict(LLAMA, head_dim=6, num_local_experts=3, num_experts_per_tok=2, sliding_window=4)),
    "smollm3": (t.SmolLM3Config, t.SmolLM3ForCausalLM, dict(LLAMA, num_hidden_layers=4)),
}


def first_tensor(values):
    for v in values:
        if torch.is_tensor(v):
            return v
        if isinstance(v, (tuple, list)) and v and torch.is_tensor(v[0]):
            return v[0]
    return None


def tree(model, tokens):
    """The lines of one forward. Tensors are kept alive, so that no address is used twice."""
    calls, kept, numbers = [], [], {}

    def entered(path):
        return lambda module, args, kwargs: calls.append(("enter", path, first_tensor([*args, *kwargs.values()])))

    def left(path):
        return lambda module, args, out: calls.append(("leave", path, out if torch.is_tensor(out) else
                                                       out[0] if isinstance(out, tuple) and torch.is_tensor(out[0]) else None))

    for path, module in model.named_modules():
        if path and not isinstance(module, Expert) and not path.endswith(("rotary_emb", ".attn_dropout", ".attention_dropout", ".embed_positions", ".token_type_embeddings", *([".resid_dropout"] if model.config.model_type == "phi" else []))):
            module.register_forward_pre_hook(entered(path), with_kwargs=True)
            module.register_forward_hook(left(path))
    with torch.no_grad():
        model(tokens, use_cache=False)
    tensorless = {path for kind, path, x in calls if x is None}
    lines = []
    for kind, path, x in calls:
        if path in tensorless or (model.config.model_type == "gemma3_text" and path.endswith(("q_norm", "k_norm"))):
            continue
        kept.append(x)
        number = numbers.setdefault(x.untyped_storage().data_ptr(), len(numbers))
        lines.append(f"{kind} {path} {list(x.shape)} #{number}")
    return lines


def main():
    os.makedirs(HERE, exist_ok=True)
    for name in sys.argv[1:] or FAMILIES:
        config_class, model_class, values = FAMILIES[name]
        config = config_class(**values, attn_implementation="eager")
        torch.manual_seed(0)
        model = model_class(config).eval()
        if name == "opt":
            with_positions_apart(model)
        stacked = sorted((k, list(v.shape)) for k, v in model.state_dict().items())
        open_experts(model)
        lines = tree(model, torch.tensor([[1, 2, 3], [4, 5, 6]]))
        kept = {k: v for k, v in json.loads(config.to_json_string()).items() if k != "transformers_version"}
        with open(os.path.join(HERE, name + ".json"), "w") as file:
            json.dump(kept, file, indent=1)
            file.write("\n")
        with open(os.path.join(HERE, name + ".txt"), "w") as file:
            file.write("\n".join(lines) + "\n")
        rotary = getattr(model.base_model, "rotary_emb", None)
        if config.model_type == "gptj":                                # keeps sines and cosines, not its frequencies
            frequencies = 1.0 / (10000 ** (torch.arange(0, config.rotary_dim, 2, dtype=torch.int64) / config.rotary_dim))
            with open(os.path.join(HERE, name + ".rope"), "w") as file:
                file.write("".join(f"{x:.9g}\n" for x in [1.0, *frequencies.tolist()]))
        elif rotary is not None:
            kind = "" if hasattr(rotary, "attention_scaling") else model.config.layer_types[-1] + "_"    # where layers differ: the last one's
            with open(os.path.join(HERE, name + ".rope"), "w") as file:
                file.write("".join(f"{x:.9g}\n" for x in [getattr(rotary, kind + "attention_scaling"), *getattr(rotary, kind + "inv_freq").tolist()]))
        with open(os.path.join(HERE, name + ".weights"), "w") as file:
            file.write("".join(f"{k} {shape}\n" for k, shape in stacked))


main()
