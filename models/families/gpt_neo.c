/* gpt_neo.c: GPT-Neo as transformers' GPTNeoForCausalLM runs it (EleutherAI's models and
 * TinyStories). What is its own beside GPT-2 (gpt2.h): a projection each for q, k and v, scores
 * that are not scaled, and layers that see everything ("global") or the last window_size tokens
 * ("local"). */
#include "models/families/gpt2.h"

#include <string.h>

/* The windows of the layers that one item of attention_types, [[NAME, ...], TIMES], stands for;
 * n_layers + 1 where they are more than the model has. */
static int32_t read_item(config *c, gpt2 *g, const json_node *item, int32_t window, int32_t layer)
{
    const json_node *names = json_item(item, 0);
    int64_t times = 0;
    if (!json_is_array(item) || json_length(item) != 2 || !json_is_array(names)
        || !json_as_integer(json_item(item, 1), &times) || times < 0) {
        config_refuse(c, "'attention_types' must be a list of [[NAME, ...], TIMES]");
        return layer;
    }
    for (int64_t k = 0; k < times && layer <= g->n_layers && json_length(names); k++)
        for (size_t i = 0; i < json_length(names) && layer <= g->n_layers; i++, layer++) {
            const char *name = "no text";
            json_as_string(json_item(names, i), &name);
            const bool local = strcmp(name, "local") == 0;
            if (!local && strcmp(name, "global"))
                config_refuse(
                    c, "'attention_types' must name global or local layers, found \"%.60s\"", name);
            if (layer < g->n_layers) g->windows[layer] = local ? window : 0;
        }
    return layer;
}

static void read_windows(config *c, gpt2 *g)
{
    const int32_t window = (int32_t)config_integer(c, "window_size", 1, INT32_MAX, 256);
    const bool listed = config_has(c, "attention_types");
    const json_node *types = json_member(c->object, "attention_types");
    int32_t layer = 0;
    if (c->status) return;
    if (listed && !json_is_array(types))
        config_refuse(c, "'attention_types' must be a list of [[NAME, ...], TIMES]");
    for (size_t i = 0; listed && !c->status && i < json_length(types); i++)
        layer = read_item(c, g, json_item(types, i), window, layer);
    for (; !listed && layer < 24; layer++) /* [[["global", "local"], 12]] */
        if (layer < g->n_layers) g->windows[layer] = layer % 2 ? window : 0;
    if (layer != g->n_layers)
        config_refuse(c, "'attention_types' is for %s%d layers, and 'num_layers' is %d%s",
            layer > g->n_layers && listed ? "at least " : "", (int)layer, (int)g->n_layers,
            listed ? "" : " (without the key: global and local in turn, 24)");
}

void gpt_neo_build(config *c, program *p)
{
    gpt2 g = {
        .d = config_size_or(c, "hidden_size", 2048),
        .n_layers = (int32_t)config_integer(c, "num_layers", 1, 10000, 24),
        .n_heads = config_size_or(c, "num_heads", 16),
        .vocabulary = config_size_or(c, "vocab_size", 50257),
        .positions = config_size_or(c, "max_position_embeddings", 2048),
        .eps = (float)config_number(c, "layer_norm_epsilon", 0, 1, 1e-5),
        .act = config_activation(c, "activation_function", "gelu_new"),
        .tied = config_tied(c, true),
        .inner = "attention",
        .output = "out_proj",
        .output_bias = true,
        .mlp_first = "c_fc",
        .mlp_last = "c_proj",
    };
    g.m = config_size_or(c, "intermediate_size", 4 * (int64_t)g.d);
    config_head_dim(c, "hidden_size", g.d, "num_heads", g.n_heads);
    gpt2_make_layers(c, p, &g);
    read_windows(c, &g);
    for (int32_t layer = 0; !c->status && layer < g.n_layers; layer++) g.score_scales[layer] = 1;
    if (!c->status) gpt2_write(&g, p);
}
