/* gemma.c: Gemma as transformers' GemmaForCausalLM runs it, and Gemma 3's text model
 * (Gemma3ForCausalLM): norms that multiply by 1 + weight, embeddings times sqrt(d). Gemma 3 has
 * norms before and after attention and MLP and over each head of q and k, and five layers with a
 * window for one that sees everything, which turn by frequencies of their own. (Gemma 2:
 * gemma2.c.) */
#include "models/decoder.h"

#include <math.h>
#include <string.h>

void gemma_build(config *c, program *p)
{
    static const decoder_defaults otherwise = {.d = 3072,
        .m = 24576,
        .n_layers = 28,
        .n_heads = 16,
        .n_kv_heads = 16,
        .vocabulary = 256000,
        .positions = 8192,
        .head_dim = 256,
        .eps = 1e-6,
        .act_key = "hidden_act",
        .act = "gelu_pytorch_tanh",
        .tied = true};
    decoder g = decoder_read(c, p, &otherwise);
    /* the first files say "gelu" and mean its tanh form */
    if (g.act == ACTIVATION_GELU) g.act = ACTIVATION_GELU_TANH;
    g.qkv_bias = g.o_bias = config_bool(c, "attention_bias", false);
    g.norm_weight = RMS_WEIGHT_PLUS_ONE;
    g.embed_scale = (float)sqrt(g.d);
    config_refuse_if_true(c, "use_bidirectional_attention");
    if (!c->status) decoder_build(&g, p);
}

/* ---- Gemma 3 ------------------------------------------------------------- */

/* A cap: null in the file, or no such key, is none. */
static float read_cap(config *c, const char *key)
{
    return config_has(c, key) ? (float)config_number(c, key, 1e-3, 1e6, 1) : 0;
}

void gemma3_build(config *c, program *p)
{
    static const decoder_defaults otherwise = {.d = 2304,
        .m = 9216,
        .n_layers = 26,
        .n_heads = 8,
        .n_kv_heads = 4,
        .vocabulary = 262208,
        .positions = 131072,
        .head_dim = 256,
        .eps = 1e-6,
        .act_key = "hidden_activation",
        .act = "gelu_pytorch_tanh",
        .tied = true,
        .ropes_by_layer = true};
    decoder g = decoder_read(c, p, &otherwise);
    g.qkv_bias = g.o_bias = config_bool(c, "attention_bias", false);
    g.qk_norm = QK_NORM_HEAD;
    g.qk_norm_last = true;
    g.norm_weight = RMS_WEIGHT_PLUS_ONE;
    g.norm_after_attention = "post_attention_layernorm";
    g.norm_before_mlp = "pre_feedforward_layernorm";
    g.norm_after_mlp = "post_feedforward_layernorm";
    g.embed_scale = (float)sqrt(g.d);
    g.score_scale = (float)(1 / sqrt(config_number(c, "query_pre_attn_scalar", 1e-3, 1e6, 256)));
    g.score_softcap = read_cap(c, "attn_logit_softcapping");
    g.logit_softcap = read_cap(c, "final_logit_softcapping");
    config_refuse_if_true(c, "use_bidirectional_attention");
    g.rope = config_rope_of_layers(c, p, g.head_dim, "full_attention", "rope_theta", 1e6);
    g.has_window_rope = true;
    g.window_rope = config_rope_of_layers(
        c, p, g.head_dim, "sliding_attention", "rope_local_base_freq", 10000);
    decoder_window_but_every(
        c, &g, (int32_t)config_integer(c, "sliding_window_pattern", 1, 10000, 6));
    if (!c->status) decoder_build(&g, p);
}
