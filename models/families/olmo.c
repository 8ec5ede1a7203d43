/* olmo.c: OLMo as transformers' OlmoForCausalLM runs it: Llama with layer norms that have neither
 * weight nor bias, and rotations that are rounded once. (OLMo-2 and 3: olmo2.c.) */
#include "models/decoder.h"

void olmo_build(config *c, program *p)
{
    static const decoder_defaults otherwise = {.d = 4096,
        .m = 11008,
        .n_layers = 32,
        .n_heads = 32,
        .vocabulary = 50304,
        .positions = 2048,
        .act_key = "hidden_act",
        .act = "silu"};
    decoder g = decoder_read(c, p, &otherwise);
    g.norm = NORM_LAYER_PLAIN;
    g.eps = 1e-5f; /* a constant of the model's code */
    g.qkv_bias = g.o_bias = config_bool(c, "attention_bias", false);
    g.rope_round_once = true;
    if (config_has(c, "clip_qkv"))
        config_refuse(c, "'clip_qkv' is set, which inset does not support (only null)");
    if (!c->status) decoder_build(&g, p);
}
