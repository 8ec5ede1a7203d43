/* olmo2.c: OLMo-2 as transformers' Olmo2ForCausalLM runs it: norms after attention and MLP instead
 * of before, and a norm over all heads of q and of k at once; in 16 bits its norms and its rotation
 * round their results alone. */
#include "models/decoder.h"

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
    g.qkv_bias = g.o_bias = config_bool(c, "attention_bias", false);
    g.qk_norm = QK_NORM_WHOLE;
    g.norm_weight = RMS_WEIGHT_FIRST;
    g.rope_round_once = true;
    g.norm_before_attention = g.norm_before_mlp = NULL;
    g.norm_after_attention = "post_attention_layernorm";
    g.norm_after_mlp = "post_feedforward_layernorm";
    if (!c->status) decoder_build(&g, p);
}
