/* phi.c: Phi-1, 1.5 and 2 as transformers' PhiForCausalLM runs them: one LayerNorm that attention
 * and an MLP of two products read, biases everywhere, and half of each head turns. (Phi-3 and 4:
 * phi3.c.) The module resid_dropout is called twice in a block and is none here: what goes through
 * it are the outputs of attention and MLP. */
#include "models/decoder.h"

void phi_build(config *c, program *p)
{
    static const decoder_defaults otherwise = {.d = 2048,
        .m = 8192,
        .n_layers = 24,
        .n_heads = 32,
        .vocabulary = 51200,
        .positions = 2048,
        .eps = 1e-5,
        .eps_key = "layer_norm_eps",
        .act_key = "hidden_act",
        .act = "gelu_new",
        .rotary_part = 0.5};
    decoder g = decoder_read(c, p, &otherwise);
    g.norm = NORM_LAYER;
    g.qkv_bias = g.o_bias = g.mlp_bias = g.head_bias = true;
    g.parallel = PARALLEL_STREAM_LAST;
    g.attention_output = "dense";
    g.mlp_first = "fc1";
    g.act_name = "activation_fn";
    g.mlp_last = "fc2";
    g.dropout_after_embedding = "embed_dropout";
    g.norm_before_head = "final_layernorm";
    config_refuse_if_true(c, "qk_layernorm");
    if (!c->status) decoder_build(&g, p);
}
