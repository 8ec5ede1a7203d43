/* llama.c: Llama 2 and 3.x as transformers' LlamaForCausalLM runs them. The decoder is theirs: all
 * there is to say is the keys' defaults and the optional biases. */
#include "models/decoder.h"

void llama_build(config *c, program *p)
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
    if (!c->status) decoder_build(&g, p);
}
