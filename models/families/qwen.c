/* qwen.c: Qwen2, Qwen2.5 and Qwen3 as transformers runs them. Qwen2 is Llama with biases on q, k
 * and v; Qwen3 has a norm over each head of q and k instead, and heads of their own width. Both may
 * slide a window over their later layers. */
#include "models/decoder.h"

static bool from_layer_on(int32_t layer, int32_t first) { return layer >= first; }

static void read_windows(config *c, decoder *g)
{
    bool used = config_bool(c, "use_sliding_window", false);
    int32_t window = (int32_t)config_integer(c, "sliding_window", 1, INT32_MAX, 4096);
    int32_t first = (int32_t)config_integer(c, "max_window_layers", 0, INT32_MAX, 28);
    if (!used || config_is_null(c, "sliding_window")) {
        window = 0;
        first = g->n_layers;
    }
    decoder_window_by_layer(c, g, window, from_layer_on, first);
}

void qwen2_build(config *c, program *p)
{
    static const decoder_defaults otherwise = {.d = 4096,
        .m = 22016,
        .n_layers = 32,
        .n_heads = 32,
        .n_kv_heads = 32,
        .vocabulary = 151936,
        .positions = 32768,
        .eps = 1e-6,
        .act_key = "hidden_act",
        .act = "silu"};
    decoder g = decoder_read(c, p, &otherwise);
    g.qkv_bias = true;
    read_windows(c, &g);
    if (!c->status) decoder_build(&g, p);
}

void qwen3_build(config *c, program *p)
{
    static const decoder_defaults otherwise = {.d = 4096,
        .m = 22016,
        .n_layers = 32,
        .n_heads = 32,
        .n_kv_heads = 32,
        .vocabulary = 151936,
        .positions = 32768,
        .head_dim = 128,
        .eps = 1e-6,
        .act_key = "hidden_act",
        .act = "silu"};
    decoder g = decoder_read(c, p, &otherwise);
    g.qkv_bias = g.o_bias = config_bool(c, "attention_bias", false);
    g.qk_norm = QK_NORM_HEAD;
    read_windows(c, &g);
    if (!c->status) decoder_build(&g, p);
}
