/* olmo2.c: OLMo-2 as transformers' Olmo2ForCausalLM runs it, and OLMo-3 (Olmo3ForCausalLM): norms
 * after attention and MLP instead of before, and a norm over all heads of q and of k at once; in 16
 * bits its norms and its rotation round their results alone. OLMo-3 has a window in three layers of
 * four, and frequencies by kind. */
#include "models/decoder.h"

static void set_norms(config *c, decoder *g)
{
    g->qkv_bias = g->o_bias = config_bool(c, "attention_bias", false);
    g->qk_norm = QK_NORM_WHOLE;
    g->norm_weight = RMS_WEIGHT_FIRST;
    g->rope_round_once = true;
    g->norm_before_attention = g->norm_before_mlp = NULL;
    g->norm_after_attention = "post_attention_layernorm";
    g->norm_after_mlp = "post_feedforward_layernorm";
}

void olmo2_build(config *c, program *p)
{
    static const decoder_defaults otherwise = {.d = 4096,
        .m = 11008,
        .n_layers = 32,
        .n_heads = 32,
        .vocabulary = 50304,
        .positions = 2048,
        .eps = 1e-5,
        .act_key = "hidden_act",
        .act = "silu"};
    decoder g = decoder_read(c, p, &otherwise);
    set_norms(c, &g);
    if (!c->status) decoder_build(&g, p);
}

/* ---- OLMo-3 -------------------------------------------------------------- */

void olmo3_build(config *c, program *p)
{
    static const decoder_defaults otherwise = {.d = 4096,
        .m = 11008,
        .n_layers = 32,
        .n_heads = 32,
        .vocabulary = 50304,
        .positions = 2048,
        .eps = 1e-5,
        .act_key = "hidden_act",
        .act = "silu",
        .ropes_by_layer = true};
    decoder g = decoder_read(c, p, &otherwise);
    set_norms(c, &g);
    g.rope = config_rope_of_layers(c, p, g.head_dim, "full_attention", "rope_theta", 5e5);
    g.has_window_rope = true;
    g.window_rope = config_rope_of_layers(c, p, g.head_dim, "sliding_attention", NULL, 5e5);
    decoder_window_but_every(c, &g, 4);
    if (!c->status) decoder_build(&g, p);
}
