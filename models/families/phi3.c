/* phi3.c: Phi-3 and Phi-4 as transformers' Phi3ForCausalLM runs them: Llama with q, k, v in one
 * matrix and gate and up in another, dropouts around, and a window where the config sets one. */
#include "models/decoder.h"

void phi3_build(config *c, program *p)
{
    static const decoder_defaults otherwise = {.d = 3072,
        .m = 8192,
        .n_layers = 32,
        .n_heads = 32,
        .vocabulary = 32064,
        .positions = 4096,
        .eps = 1e-5,
        .act_key = "hidden_act",
        .act = "silu",
        .rotary_part = 1};
    decoder g = decoder_read(c, p, &otherwise);
    g.fused = true;
    g.act_name = "activation_fn";
    g.dropout_after_attention = "resid_attn_dropout";
    g.dropout_after_mlp = "resid_mlp_dropout";
    decoder_window_everywhere(c, &g, 0);
    if (!c->status) decoder_build(&g, p);
}
