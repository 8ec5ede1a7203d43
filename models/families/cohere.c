/* cohere.c: Command R as transformers' CohereForCausalLM runs it, and Command R7B
 * (Cohere2ForCausalLM): one layer norm without bias that attention and MLP read, neighbouring
 * columns that turn together, and logits times a factor. Cohere 2 has a window in three layers of
 * four, and the fourth does not turn. */
#include "models/decoder.h"

static decoder read_decoder(config *c, program *p)
{
    static const decoder_defaults otherwise = {.d = 8192,
        .m = 22528,
        .n_layers = 40,
        .n_heads = 64,
        .vocabulary = 256000,
        .positions = 8192,
        .eps = 1e-5,
        .eps_key = "layer_norm_eps",
        .act_key = "hidden_act",
        .act = "silu",
        .tied = true};
    decoder g = decoder_read(c, p, &otherwise);
    g.norm = NORM_LAYER_SCALED;
    g.parallel = PARALLEL_STREAM_FIRST;
    g.rope_interleaved = g.rope_round_once = true;
    g.qkv_bias = g.o_bias = config_bool(c, "attention_bias", false);
    g.logit_scale = (float)config_number(c, "logit_scale", 1e-6, 1e6, 0.0625);
    config_refuse_if_true(c, "use_qk_norm");
    return g;
}

void cohere_build(config *c, program *p)
{
    decoder g = read_decoder(c, p);
    if (!c->status) decoder_build(&g, p);
}

/* ---- Cohere 2 ------------------------------------------------------------ */

void cohere2_build(config *c, program *p)
{
    decoder g = read_decoder(c, p);
    decoder_window_but_every(
        c, &g, (int32_t)config_integer(c, "sliding_window_pattern", 1, 10000, 4));
    if (c->status) return;
    bool *still = arena_new(&p->memory, (size_t)g.n_layers * sizeof *still);
    if (!still) c->status = INSET_NO_MEMORY;
    for (int32_t layer = 0; !c->status && layer < g.n_layers; layer++)
        still[layer] = g.windows[layer] == 0;
    g.without_rope = still;
    if (!c->status) decoder_build(&g, p);
}
