/* bloom.c: BLOOM as transformers' BloomForCausalLM runs it: positions are known to attention alone,
 * whose scores grow with a key's position (ALiBi), and attention and MLP are given the stream and
 * add to it inside their modules. */
#include "models/families/gpt_neox.h"

#include <math.h>

/* ALiBi's slopes: with n a power of two 2^(-8 i / n) for heads i = 1 .. n, and for more heads than
 * the largest power of two in their number every second one of twice as many. */
static void set_slopes(float *slopes, int32_t n_heads)
{
    int32_t n = 1;
    while (2 * n <= n_heads) n *= 2;
    for (int32_t h = 0; h < n_heads; h++)
        slopes[h] = (float)(h < n ? pow(2, -8.0 * (h + 1) / n)
                                  : pow(2, -4.0 * (2 * (h - n) + 1) / n));
}

static neox read_config(config *c, program *p)
{
    const char *width = config_has(c, "n_embed") ? "n_embed" : "hidden_size",
               *layers = config_has(c, "num_hidden_layers") ? "num_hidden_layers" : "n_layer",
               *heads = config_has(c, "num_attention_heads") ? "num_attention_heads" : "n_head";
    neox g = {
        .d = config_size_or(c, width, 64),
        .n_layers = (int32_t)config_integer(c, layers, 1, 10000, 2),
        .n_heads = config_size_or(c, heads, 8),
        .vocabulary = config_size_or(c, "vocab_size", 250880),
        .positions = INT32_MAX, /* distances have no end */
        .eps = (float)config_number(c, "layer_norm_epsilon", 0, 1, 1e-5),
        .act = ACTIVATION_GELU_TANH,
        .attention_bias = true,
        .adds_inside = true,
        .tied = config_tied(c, true),
        .root = "transformer",
        .embedding = "word_embeddings",
        .embedding_norm = "word_embeddings_layernorm",
        .layers = "h",
        .attention = "self_attention",
        .act_name = "gelu_impl",
        .last_norm = "ln_f",
    };
    g.m = 4 * g.d;
    g.head_dim = config_head_dim(c, width, g.d, heads, g.n_heads);
    /* what pretraining_tp and slow_but_exact ask for is another order of sums */
    config_refuse_if_true(c, "apply_residual_connection_post_layernorm");
    float *slopes = c->status ? NULL : arena_new(&p->memory, (size_t)g.n_heads * sizeof *slopes);
    if (!slopes && !c->status) c->status = INSET_NO_MEMORY;
    if (slopes) set_slopes(slopes, g.n_heads);
    g.slopes = slopes;
    return g;
}

void bloom_build(config *c, program *p)
{
    const neox g = read_config(c, p);
    if (c->status) return;
    p->optional_prefix = "transformer.";
    neox_write(&g, p);
}
