/* gpt_neox.c: GPT-NeoX (Pythia) as transformers' GPTNeoXForCausalLM runs it.
 *
 * What is its own: LayerNorm with a rotary part of each head, attention and MLP side by side on the
 * same residual (or one after the other, as the config says), and a projection whose columns go by
 * head: q, k and v of head 0, then of head 1, and so on. Heads are therefore laid side by side on
 * their way to attention, q and k by the rotary step, v by one that turns nothing. Letters: d =
 * width, m = width inside the MLP. */
#include "models/decoder.h"
#include "models/place.h"

#include <math.h>
#include <stdio.h>

typedef struct neox {
    int32_t d, m, n_layers, n_heads, head_dim, vocabulary, positions;
    float eps;
    activation act;
    bool parallel, attention_bias, tied;
    rope rope;
} neox;

static neox read_config(config *c, program *p)
{
    neox g = {
        .d = config_size_or(c, "hidden_size", 6144),
        .m = config_size_or(c, "intermediate_size", 24576),
        .n_layers = (int32_t)config_integer(c, "num_hidden_layers", 1, 10000, 44),
        .n_heads = config_size_or(c, "num_attention_heads", 64),
        .vocabulary = config_size_or(c, "vocab_size", 50432),
        .positions = config_size_or(c, "max_position_embeddings", 2048),
        .eps = (float)config_number(c, "layer_norm_eps", 0, 1, 1e-5),
        .act = config_activation(c, "hidden_act", "gelu"),
        .parallel = config_bool(c, "use_parallel_residual", true),
        .attention_bias = config_bool(c, "attention_bias", true),
        .tied = config_tied(c, false),
    };
    config_divides(c, "hidden_size", g.d, "num_attention_heads", g.n_heads);
    g.head_dim = g.d / g.n_heads;
    if (g.head_dim > PROGRAM_MAX_HEAD_DIM)
        config_refuse(c, "'hidden_size' / 'num_attention_heads' must be at most %d, found %d",
            (int)PROGRAM_MAX_HEAD_DIM, (int)g.head_dim);
    g.rope = config_rope(c, p, g.head_dim, "rotary_emb_base", 10000, "rotary_pct", 0.25);
    return g;
}

static int32_t rotate(const place *at, const char *site, int32_t x)
{
    const neox *g = at->family;
    const int32_t heads[2] = {g->n_heads, g->head_dim};
    x = program_rope(at->p, x, g->n_heads, g->head_dim,
        &(rotation){g->rope.dims, g->rope.frequencies, g->rope.attention_scale, false, false});
    return program_site_view(at->p, site, x, 0, 2, heads);
}

static int32_t attention(const place *at, int32_t x)
{
    const neox *g = at->family;
    program *p = at->p;
    const int32_t heads[2] = {g->n_heads, g->head_dim}, apart = 3 * g->head_dim;
    step like = program_like(STEP_ATTENTION);
    like.n_heads = like.n_kv_heads = g->n_heads;
    like.head_dim = g->head_dim;
    like.scale = (float)(1 / sqrt(g->head_dim));

    int32_t inputs[3];
    x = program_enter(p, "attention", x);
    program_head_inputs(p, x, g->n_heads, g->n_heads, inputs);
    int32_t qkv = program_enter(p, "query_key_value", x);
    qkv = program_leave(
        p, place_project(at, "attention.query_key_value", qkv, g->d, 3 * g->d, g->attention_bias));
    for (int i = 0; i < 3; i++)
        program_head_input_made(p, inputs[i],
            &(head_columns){qkv, i * g->head_dim, apart, 1, g->n_heads, g->head_dim}, -1);
    int32_t q = program_site_heads(p, "q", qkv, 0, g->n_heads, g->head_dim, apart);
    int32_t k = program_site_heads(p, "k", qkv, g->head_dim, g->n_heads, g->head_dim, apart);
    int32_t v = program_site_heads(p, "v", qkv, 2 * g->head_dim, g->n_heads, g->head_dim, apart);
    q = rotate(at, "rot_q", q);
    k = rotate(at, "rot_k", k);
    v = program_rope(p, v, g->n_heads, g->head_dim, &(rotation){.attention_scale = 1});
    int32_t z = program_enter_site(p, "dense", program_attention(p, q, k, v, &like), "z", 2, heads);
    int32_t joined = place_project(at, "attention.dense", z, g->d, g->d, g->attention_bias);
    program_head_results(p, z, joined, g->n_heads, g->head_dim);
    return program_leave(p, program_leave(p, joined));
}

static int32_t mlp(const place *at, int32_t x)
{
    const neox *g = at->family;
    program *p = at->p;
    x = program_enter(p, "mlp", x);
    x = program_enter(p, "dense_h_to_4h", x);
    x = program_leave(p, place_project(at, "mlp.dense_h_to_4h", x, g->d, g->m, true));
    x = program_activation_module(
        p, "act", program_site_view_last(p, "pre", x, 0, 1, &g->m), g->act);
    x = program_enter_site(p, "dense_4h_to_h", x, "post", 1, &g->m);
    return program_leave(
        p, program_leave(p, place_project(at, "mlp.dense_4h_to_h", x, g->m, g->d, true)));
}

static int32_t block(const place *at, int32_t x)
{
    program *p = at->p;
    const neox *g = at->family;
    char module[32];
    snprintf(module, sizeof module, "layers.%d", (int)at->layer);
    program_block(p, x);
    x = program_enter(p, module, x);
    int32_t a = program_identity_module(p, "post_attention_dropout",
        attention(at, place_layernorm(at, "input_layernorm", x, g->d, g->eps)));
    if (!g->parallel) x = a = program_add(p, a, x, -1);
    int32_t m = program_identity_module(p, "post_mlp_dropout",
        mlp(at, place_layernorm(at, "post_attention_layernorm", x, g->d, g->eps)));
    return program_leave(p, g->parallel ? program_add(p, m, a, x) : program_add(p, m, a, -1));
}

void gpt_neox_build(config *c, program *p)
{
    /* Older files carry each layer's mask and frequencies. */
    static const char *const ignored[] = {"layers.*.attention.bias",
        "layers.*.attention.masked_bias", "layers.*.attention.rotary_emb.inv_freq", NULL};
    neox g = read_config(c, p);
    if (c->status) return;
    p->optional_prefix = "gpt_neox.";
    p->ignored = ignored;
    p->vocabulary = g.vocabulary;
    p->max_positions = g.positions;

    int32_t table = program_weight(p, WEIGHT_TABLE, "embed_in.weight", g.vocabulary, g.d),
            tokens = program_tokens(p);
    program_enter(p, "gpt_neox", -1);
    int32_t x = program_identity_module(
        p, "emb_dropout", program_embed_module(p, "embed_in", tokens, table));
    for (int32_t layer = 0; layer < g.n_layers && !p->status; layer++)
        x = block(&(place){p, &g, "layers", layer, false}, x);
    x = place_layernorm(&(place){.p = p, .layer = -1}, "final_layer_norm", x, g.d, g.eps);
    program_leave(p, -1);

    /* transformers called the head embed_out before it called it lm_head: files have either name,
     * and so may users. */
    int32_t head = g.tied ? program_weight_tied(p, "lm_head.weight", table)
                          : program_weight(p, WEIGHT_MATRIX, "lm_head.weight", g.vocabulary, g.d);
    program_weight_also(p, head, "embed_out.weight");
    x = program_linear_module(p, "lm_head", x, head, -1);
    program_module_also(p, program_child(p, 0, "lm_head", 7), "embed_out");
    program_logits(p, x);
}
