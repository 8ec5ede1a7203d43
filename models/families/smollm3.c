/* smollm3.c: SmolLM3 as transformers' SmolLM3ForCausalLM runs it: Llama's decoder in which every
 * fourth layer does not turn q and k (NoPE); these may have a window. */
#include "models/decoder.h"

/* Which layers turn: no_rope_layers, 1 for those that do (sic), or all but every so many. */
static const bool *read_still(config *c, program *p, int32_t n_layers)
{
    const json_node *given = json_member(c->object, "no_rope_layers");
    const bool listed = config_has(c, "no_rope_layers");
    const int64_t interval = config_integer(c, "no_rope_layer_interval", 1, 10000, 4);
    bool *still = arena_new(&p->memory, (size_t)n_layers * sizeof *still);
    if (!still) c->status = INSET_NO_MEMORY;
    if (listed && (!json_is_array(given) || json_length(given) < (size_t)n_layers))
        config_refuse(c, "'no_rope_layers' must be a list of 0 or 1 for each of the %d layers",
            (int)n_layers);
    for (int32_t i = 0; !c->status && i < n_layers; i++) {
        int64_t turns = (i + 1) % interval != 0;
        if (listed
            && (!json_as_integer(json_item(given, (size_t)i), &turns) || turns < 0 || turns > 1))
            config_refuse(c, "'no_rope_layers'[%d] must be 0 or 1", (int)i);
        still[i] = !turns;
    }
    return still;
}

static bool never(int32_t layer, int32_t unused)
{
    (void)layer, (void)unused;
    return false;
}

void smollm3_build(config *c, program *p)
{
    static const decoder_defaults otherwise = {.d = 2048,
        .m = 11008,
        .n_layers = 36,
        .n_heads = 16,
        .n_kv_heads = 4,
        .vocabulary = 128256,
        .positions = 32768,
        .eps = 1e-6,
        .act_key = "hidden_act",
        .act = "silu",
        .tied = true,
        .theta = 2e6};
    decoder g = decoder_read(c, p, &otherwise);
    g.qkv_bias = g.o_bias = config_bool(c, "attention_bias", false);
    g.mlp_bias = config_bool(c, "mlp_bias", false);
    if (!c->status) g.without_rope = read_still(c, p, g.n_layers);
    const bool slides = config_bool(c, "use_sliding_window", false)
                        && config_has(c, "sliding_window");
    const int32_t window = slides ? (int32_t)config_integer(c, "sliding_window", 1, INT32_MAX, 1)
                                  : 0;
    if (!c->status && (slides || config_has(c, "layer_types")))
        decoder_window_by_layer(c, &g, window, never, 0);
    /* where nothing names them, layers that do not turn slide */
    for (int32_t i = 0; !c->status && slides && !config_has(c, "layer_types") && i < g.n_layers;
         i++)
        g.windows[i] = g.without_rope[i] ? window : 0;
    if (!c->status) decoder_build(&g, p);
}
