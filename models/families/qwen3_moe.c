/* qwen3_moe.c: Qwen3 with experts for MLPs, as transformers runs it; some layers may keep an MLP.
 * */
#include "models/decoder.h"

/* Layers with an MLP: those that mlp_only_layers lists, and all but every decoder_sparse_step-th.
 * */
static const bool *read_plain_layers(config *c, program *p, const decoder *g)
{
    const int64_t every = config_integer(c, "decoder_sparse_step", 1, INT32_MAX, 1);
    const json_node *listed = json_member(c->object, "mlp_only_layers");
    bool *plain = arena_new(&p->memory, (size_t)g->n_layers * sizeof *plain);
    if (!plain) c->status = INSET_NO_MEMORY;
    if (listed && !json_is_array(listed) && !config_is_null(c, "mlp_only_layers"))
        config_refuse(c, "'mlp_only_layers' must be a list of layers");
    for (int32_t layer = 0; !c->status && layer < g->n_layers; layer++)
        plain[layer] = (layer + 1) % every != 0;
    for (size_t i = 0; !c->status && json_is_array(listed) && i < json_length(listed); i++) {
        int64_t layer;
        if (!json_as_integer(json_item(listed, i), &layer))
            config_refuse(c, "'mlp_only_layers' must be a list of layers");
        else if (layer >= 0 && layer < g->n_layers) plain[layer] = true;
    }
    return plain;
}

void qwen3_moe_build(config *c, program *p)
{
    static const decoder_defaults otherwise = {.d = 2048,
        .m = 6144,
        .n_layers = 24,
        .n_heads = 32,
        .n_kv_heads = 4,
        .vocabulary = 151936,
        .positions = 32768,
        .eps = 1e-6,
        .act_key = "hidden_act",
        .act = "silu"};
    decoder g = decoder_read(c, p, &otherwise);
    g.qkv_bias = g.o_bias = config_bool(c, "attention_bias", false);
    g.qk_norm = QK_NORM_HEAD;
    if (config_bool(c, "use_sliding_window", false)) decoder_window_everywhere(c, &g, 4096);
    mixture experts = {.layout = MIXTURE_EACH,
        .router = "gate",
        .m = config_size_or(c, "moe_intermediate_size", 768),
        .over_all = !config_bool(c, "norm_topk_prob", false),
        .absent = read_plain_layers(c, p, &g)};
    decoder_read_mixture(c, &experts, "num_experts", 128, 8);
    g.mixture = &experts;
    if (!c->status) decoder_build(&g, p);
}
