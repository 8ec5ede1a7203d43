/* gpt_oss.c: gpt-oss as transformers runs it: experts with a clamped gate, a router with a bias,
 * and in attention a score of each head's own (sinks) that takes its part of the softmax. Its
 * published files are quantised: opened are those that were saved in bf16. */
#include <stdio.h>
#include <string.h>

#include "models/decoder.h"

static const double THETA = 150000;

/* Where the config says nothing of rotary embeddings, it is this. */
static rope read_rope(config *c, program *p, int32_t head_dim)
{
    if (config_has(c, "rope_parameters") || config_has(c, "rope_scaling"))
        return config_rope(c, p, head_dim, "rope_theta", THETA, NULL, 1);
    char text[256];
    snprintf(text, sizeof text,
        "{\"rope_parameters\": {\"rope_type\": \"yarn\", \"rope_theta\": %.17g, \"factor\": 32.0, "
        "\"beta_fast\": 32.0, \"beta_slow\": 1.0, \"truncate\": false, "
        "\"original_max_position_embeddings\": 4096}}",
        config_number(c, "rope_theta", 1, 1e12, THETA));
    json_document *otherwise = NULL;
    config said = *c;
    if (!said.status)
        said.status = json_parse(c->context, "the default", text, strlen(text), &otherwise);
    said.object = json_root(otherwise);
    const rope r = said.status ? (rope){0}
                               : config_rope(&said, p, head_dim, "rope_theta", THETA, NULL, 1);
    c->status = said.status;
    json_close(otherwise);
    return r;
}

static bool every_other(int32_t layer, int32_t context)
{
    (void)context;
    return layer % 2 == 0;
}

static void read_windows(config *c, decoder *g)
{
    const bool none = config_is_null(c, "sliding_window");
    const int64_t window = none ? g->positions
                                : config_integer(c, "sliding_window", 1, INT32_MAX, 128);
    if (!c->status) decoder_window_by_layer(c, g, (int32_t)window, every_other, 0);
}

void gpt_oss_build(config *c, program *p)
{
    static const decoder_defaults otherwise = {.d = 2880,
        .m = 2880,
        .n_layers = 36,
        .n_heads = 64,
        .n_kv_heads = 8,
        .vocabulary = 201088,
        .positions = 131072,
        .head_dim = 64,
        .eps = 1e-5,
        .act_key = "hidden_act",
        .act = "silu",
        .ropes_by_layer = true};
    decoder g = decoder_read(c, p, &otherwise);
    if (!c->status) g.rope = read_rope(c, p, g.head_dim);
    g.qkv_bias = g.o_bias = config_bool(c, "attention_bias", true);
    g.norm_weight = RMS_WEIGHT_FIRST;
    g.sinks = true;
    read_windows(c, &g);
    mixture experts = {.layout = MIXTURE_INTERLEAVED,
        .router = "router",
        .m = g.m,
        .limit = (float)config_number(c, "swiglu_limit", 1e-6, 1e6, 7),
        .alpha = (float)config_number(c, "swiglu_alpha", -1e6, 1e6, 1.702)};
    decoder_read_mixture(c, &experts, "num_local_experts", 128, 4);
    g.mixture = &experts;
    if (!c->status) decoder_build(&g, p);
}
