/* gptj.c: GPT-J as transformers' GPTJForCausalLM runs it. What is its own beside GPT-2 (gpt2.h): a
 * projection each for q, k and v, rotary embeddings of neighbouring columns, and one norm that
 * attention and MLP read. */
#include "models/families/gpt2.h"

#include <math.h>

/* The frequencies of create_sinusoidal_positions, in fp32 as there. */
static rotation *read_rotation(config *c, program *p, const gpt2 *g)
{
    const int32_t head_dim = g->d / g->n_heads,
                  dims = (int32_t)config_integer(c, "rotary_dim", 2, head_dim, 64);
    if (config_is_null(c, "rotary_dim") || dims > head_dim || dims % 2)
        config_refuse(c, "'rotary_dim' must be an even number of a head's %d columns, found %d",
            (int)head_dim, config_is_null(c, "rotary_dim") ? 0 : (int)dims);
    rotation *made = arena_new(&p->memory, sizeof *made);
    float *frequencies = arena_new(&p->memory, (size_t)dims / 2 * sizeof *frequencies);
    if (!made || !frequencies) {
        if (!c->status) c->status = INSET_NO_MEMORY;
        return NULL;
    }
    for (int32_t i = 0; i < dims / 2; i++)
        frequencies[i] = 1 / powf(10000, (float)(2 * i) / (float)dims);
    *made = (rotation){dims, frequencies, 1, false, true};
    return made;
}

void gptj_build(config *c, program *p)
{
    gpt2 g = {
        .d = config_size_or(c, "n_embd", 4096),
        .n_layers = (int32_t)config_integer(c, "n_layer", 1, 10000, 28),
        .n_heads = config_size_or(c, "n_head", 16),
        .vocabulary = config_size_or(c, "vocab_size", 50400),
        .positions = config_size_or(c, "n_positions", 2048),
        .eps = (float)config_number(c, "layer_norm_epsilon", 0, 1, 1e-5),
        .act = config_activation(c, "activation_function", "gelu_new"),
        .tied = config_tied(c, false),
        .head_bias = true,
        .parallel = true,
        .output = "out_proj",
        .mlp_first = "fc_in",
        .mlp_last = "fc_out",
    };
    g.m = config_size_or(c, "n_inner", 4 * (int64_t)g.d);
    config_head_dim(c, "n_embd", g.d, "n_head", g.n_heads);
    gpt2_make_layers(c, p, &g);
    if (!c->status) g.rotary = read_rotation(c, p, &g);
    for (int32_t layer = 0; !c->status && layer < g.n_layers; layer++)
        g.score_scales[layer] = (float)(1 / sqrt((double)g.d / g.n_heads));
    if (!c->status) gpt2_write(&g, p);
}
