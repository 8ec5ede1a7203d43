/* starcoder2.c: StarCoder2 as transformers' Starcoder2ForCausalLM runs it: Llama with LayerNorm, an
 * MLP of two products, and biases everywhere. */
#include "models/decoder.h"

void starcoder2_build(config *c, program *p)
{
    static const decoder_defaults otherwise = {.d = 3072,
        .m = 12288,
        .n_layers = 30,
        .n_heads = 24,
        .n_kv_heads = 2,
        .vocabulary = 49152,
        .positions = 4096,
        .eps = 1e-5,
        .eps_key = "norm_epsilon",
        .act_key = "hidden_act",
        .act = "gelu_pytorch_tanh",
        .tied = true};
    decoder g = decoder_read(c, p, &otherwise);
    g.norm = NORM_LAYER;
    g.qkv_bias = g.o_bias = g.mlp_bias = config_bool(c, "use_bias", true);
    g.mlp_first = "c_fc";
    g.act_name = "act";
    g.mlp_last = "c_proj";
    decoder_window_everywhere(c, &g, 0);
    if (!c->status) decoder_build(&g, p);
}
