/* granite.c: Granite as transformers' GraniteForCausalLM runs it: Llama with four factors, on the
 * embeddings, on what attention and MLP add to the stream, on scores and on the logits. What is
 * added is thus no module's output: the block shows it as attn_out and mlp_out. */
#include "models/decoder.h"

void granite_build(config *c, program *p)
{
    static const decoder_defaults otherwise = {.d = 4096,
        .m = 11008,
        .n_layers = 32,
        .n_heads = 32,
        .vocabulary = 32000,
        .positions = 2048,
        .eps = 1e-6,
        .act_key = "hidden_act",
        .act = "silu"};
    decoder g = decoder_read(c, p, &otherwise);
    g.qkv_bias = g.o_bias = config_bool(c, "attention_bias", false);
    g.mlp_bias = config_bool(c, "mlp_bias", false);
    g.stream_scale = (float)config_number(c, "embedding_multiplier", 1e-6, 1e6, 1);
    g.branch_scale = (float)config_number(c, "residual_multiplier", 1e-6, 1e6, 1);
    g.score_scale = (float)config_number(c, "attention_multiplier", 1e-6, 1e6, 1);
    g.logit_scale = (float)(1 / config_number(c, "logits_scaling", 1e-6, 1e6, 1));
    if (!c->status) decoder_build(&g, p);
}
