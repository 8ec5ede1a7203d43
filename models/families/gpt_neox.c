/* gpt_neox.c: GPT-NeoX (Pythia) as transformers' GPTNeoXForCausalLM runs it, and the forward that
 * BLOOM shares with it (gpt_neox.h).
 *
 * What is its own: a rotary part of each head, attention and MLP side by side on the same stream
 * (or one after the other, as the config says). Heads lie apart in the projection, and are laid
 * side by side on their way to attention: by the rotary step, which turns nothing of v, nor of q
 * and k where there is no rotary embedding. */
#include "models/families/gpt_neox.h"
#include "models/place.h"

#include <math.h>
#include <stdio.h>

/* ---- reading ------------------------------------------------------------ */

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
        .root = "gpt_neox",
        .embedding = "embed_in",
        .layers = "layers",
        .attention = "attention",
        .act_name = "act",
        .last_norm = "final_layer_norm",
        .embedding_dropout = "emb_dropout",
        .attention_dropout = "post_attention_dropout",
        .mlp_dropout = "post_mlp_dropout",
        /* transformers called the head embed_out before it called it lm_head: files have either
         * name, and so may users */
        .head_also = "embed_out",
    };
    g.head_dim = config_head_dim(c, "hidden_size", g.d, "num_attention_heads", g.n_heads);
    g.rope = config_rope(c, p, g.head_dim, "rotary_emb_base", 10000, "rotary_pct", 0.25);
    return g;
}

/* ---- building ----------------------------------------------------------- */

/* q, k and v side by side, as attention reads them. */
static void lay_heads(const place *at, int32_t qkv, int32_t heads[3])
{
    static const char *const sites[] = {"q", "k", "v"}, *const turned[] = {"rot_q", "rot_k"};
    const neox *g = at->family;
    const int32_t shape[2] = {g->n_heads, g->head_dim}, apart = 3 * g->head_dim;
    const rotation still = {.attention_scale = 1}, turns = {g->rope.dims, g->rope.frequencies,
                                                       g->rope.attention_scale, false, false};
    for (int i = 0; i < 3; i++)
        heads[i] = program_site_heads(
            at->p, sites[i], qkv, i * g->head_dim, g->n_heads, g->head_dim, apart);
    for (int i = 0; i < 3; i++) {
        const bool turning = i < 2 && g->rope.dims;
        heads[i] = program_rope(
            at->p, heads[i], g->n_heads, g->head_dim, turning ? &turns : &still);
        if (turning) heads[i] = program_site_view(at->p, turned[i], heads[i], 0, 2, shape);
    }
}

/* What a branch gives back: itself, or the stream with it. */
static int32_t with_stream(const place *at, int32_t branch, int32_t stream)
{
    const neox *g = at->family;
    return g->adds_inside ? program_add(at->p, stream, branch, -1) : branch;
}

static int32_t attention(const place *at, int32_t x, int32_t stream)
{
    const neox *g = at->family;
    program *p = at->p;
    const int32_t heads[2] = {g->n_heads, g->head_dim};
    char first[64], last[64];
    snprintf(first, sizeof first, "%s.query_key_value", g->attention);
    snprintf(last, sizeof last, "%s.dense", g->attention);
    step like = program_like(STEP_ATTENTION);
    like.n_heads = like.n_kv_heads = g->n_heads;
    like.head_dim = g->head_dim;
    like.scale = (float)(1 / sqrt(g->head_dim));
    like.slopes = g->slopes;

    int32_t inputs[3], laid[3];
    x = program_enter(p, g->attention, x);
    program_head_inputs(p, x, g->n_heads, g->n_heads, inputs);
    int32_t qkv = place_linear(at, first, x, g->d, 3 * g->d, g->attention_bias);
    for (int i = 0; i < 3; i++)
        program_head_input_made(p, inputs[i],
            &(head_columns){qkv, i * g->head_dim, 3 * g->head_dim, 1, g->n_heads, g->head_dim}, -1);
    lay_heads(at, qkv, laid);
    int32_t z = program_enter_site(
        p, "dense", program_attention(p, laid[0], laid[1], laid[2], &like), "z", 2, heads);
    int32_t joined = place_project(at, last, z, g->d, g->d, g->attention_bias);
    program_head_results(p, z, joined, g->n_heads, g->head_dim);
    return program_leave(p, with_stream(at, program_leave(p, joined), stream));
}

static int32_t mlp(const place *at, int32_t x, int32_t stream)
{
    const neox *g = at->family;
    program *p = at->p;
    x = program_enter(p, "mlp", x);
    x = place_linear(at, "mlp.dense_h_to_4h", x, g->d, g->m, true);
    x = program_activation_module(
        p, g->act_name, program_site_view_last(p, "pre", x, 0, 1, &g->m), g->act);
    x = program_enter_site(p, "dense_4h_to_h", x, "post", 1, &g->m);
    x = program_leave(p, place_project(at, "mlp.dense_4h_to_h", x, g->m, g->d, true));
    return program_leave(p, with_stream(at, x, stream));
}

static int32_t block(const place *at, int32_t x)
{
    program *p = at->p;
    const neox *g = at->family;
    char module[32];
    snprintf(module, sizeof module, "%s.%d", g->layers, (int)at->layer);
    program_block(p, x);
    x = program_enter(p, module, x);
    int32_t a = place_dropout(at, g->attention_dropout,
        attention(at, place_layernorm(at, "input_layernorm", x, g->d, g->eps), x));
    if (g->adds_inside) x = a;
    else if (!g->parallel) x = a = program_add(p, a, x, -1);
    int32_t m = place_dropout(at, g->mlp_dropout,
        mlp(at, place_layernorm(at, "post_attention_layernorm", x, g->d, g->eps), x));
    if (!g->adds_inside) m = g->parallel ? program_add(p, m, a, x) : program_add(p, m, a, -1);
    return program_leave(p, m);
}

/* Files and users may call the head by another name. */
static void name_head(program *p, int32_t x, const char *name)
{
    char weight[64];
    if (p->status) return;
    snprintf(weight, sizeof weight, "%s.weight", name);
    program_weight_also(p, program_maker(p, x)->weight, weight);
    program_module_also(p, program_child(p, 0, "lm_head", 7), name);
}

void neox_write(const neox *g, program *p)
{
    const place last = {.p = p, .layer = -1};
    p->vocabulary = g->vocabulary;
    p->max_positions = g->positions;
    char name[64];
    snprintf(name, sizeof name, "%s.weight", g->embedding);
    int32_t table = program_weight(p, WEIGHT_TABLE, name, g->vocabulary, g->d),
            tokens = program_tokens(p);
    program_enter(p, g->root, -1);
    int32_t x = program_embed_module(p, g->embedding, tokens, table);
    const place at = {p, g, g->layers, -1, false};
    x = place_dropout(&at, g->embedding_dropout, x);
    if (g->embedding_norm) x = place_layernorm(&last, g->embedding_norm, x, g->d, g->eps);
    for (int32_t layer = 0; layer < g->n_layers && !p->status; layer++)
        x = block(&(place){p, g, g->layers, layer, false}, x);
    x = place_layernorm(&last, g->last_norm, x, g->d, g->eps);
    program_leave(p, -1);
    x = place_head(p, x, table, g->tied, false);
    if (g->head_also) name_head(p, x, g->head_also);
    program_logits(p, x);
}

void gpt_neox_build(config *c, program *p)
{
    /* Older files carry each layer's mask and frequencies. */
    static const char *const ignored[] = {"layers.*.attention.bias",
        "layers.*.attention.masked_bias", "layers.*.attention.rotary_emb.inv_freq", NULL};
    const neox g = read_config(c, p);
    if (c->status) return;
    p->optional_prefix = "gpt_neox.";
    p->ignored = ignored;
    neox_write(&g, p);
}
