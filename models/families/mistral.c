/* mistral.c: Mistral as transformers' MistralForCausalLM runs it: Llama with a sliding window in
 * every layer, unless the config has null for it (from v0.2 on). */
#include "models/decoder.h"

void mistral_build(config *c, program *p)
{
    static const decoder_defaults otherwise = {.d = 4096,
        .m = 14336,
        .n_layers = 32,
        .n_heads = 32,
        .n_kv_heads = 8,
        .vocabulary = 32000,
        .positions = 4096 * 32,
        .eps = 1e-6,
        .act_key = "hidden_act",
        .act = "silu"};
    decoder g = decoder_read(c, p, &otherwise);
    decoder_window_everywhere(c, &g, 4096);
    if (!c->status) decoder_build(&g, p);
}
