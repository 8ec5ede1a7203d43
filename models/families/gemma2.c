/* gemma2.c: Gemma-2 as transformers' Gemma2ForCausalLM runs it: norms that multiply by 1 + weight
 * before and after attention and MLP, embeddings times sqrt(d), soft caps on scores and logits, a
 * sliding window in every other layer, a scale for the scores of its own. */
#include "models/decoder.h"

#include <math.h>

/* A cap: null in the file is none. */
static float read_cap(config *c, const char *key, double otherwise)
{
    return config_is_null(c, key) ? 0 : (float)config_number(c, key, 1e-3, 1e6, otherwise);
}

void gemma2_build(config *c, program *p)
{
    static const decoder_defaults otherwise = {.d = 2304,
        .m = 9216,
        .n_layers = 26,
        .n_heads = 8,
        .n_kv_heads = 4,
        .vocabulary = 256000,
        .positions = 8192,
        .head_dim = 256,
        .eps = 1e-6,
        .act_key = "hidden_activation",
        .act = "gelu_pytorch_tanh",
        .tied = true};
    decoder g = decoder_read(c, p, &otherwise);
    g.qkv_bias = g.o_bias = config_bool(c, "attention_bias", false);
    g.norm_weight = RMS_WEIGHT_PLUS_ONE;
    g.norm_after_attention = "post_attention_layernorm";
    g.norm_before_mlp = "pre_feedforward_layernorm";
    g.norm_after_mlp = "post_feedforward_layernorm";
    g.embed_scale = (float)sqrt(g.d);
    g.score_scale = (float)(1 / sqrt(config_number(c, "query_pre_attn_scalar", 1e-3, 1e6, 256)));
    g.score_softcap = read_cap(c, "attn_logit_softcapping", 50);
    g.logit_softcap = read_cap(c, "final_logit_softcapping", 30);
    config_refuse_if_true(c, "use_bidirectional_attention");
    decoder_window_but_every(c, &g, 2);
    if (!c->status) decoder_build(&g, p);
}
