/* mixtral.c: Mixtral as transformers runs it: Mistral with experts for MLPs, of which a row has
 * those with the largest router logits, weighted by the softmax over these. */
#include "models/decoder.h"

void mixtral_build(config *c, program *p)
{
    static const decoder_defaults otherwise = {.d = 4096,
        .m = 14336,
        .n_layers = 32,
        .n_heads = 32,
        .n_kv_heads = 8,
        .vocabulary = 32000,
        .positions = 4096 * 32,
        .eps = 1e-5,
        .theta = 1000000,
        .act_key = "hidden_act",
        .act = "silu"};
    decoder g = decoder_read(c, p, &otherwise);
    decoder_window_everywhere(c, &g, 0);
    mixture experts = {.layout = MIXTURE_NUMBERED, .router = "gate", .m = g.m};
    decoder_read_mixture(c, &experts, "num_local_experts", 8, 2);
    g.mixture = &experts;
    if (!c->status) decoder_build(&g, p);
}
