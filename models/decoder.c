/* decoder.c: the forward pass that Llama and its relatives share; see decoder.h. Modules, order and
 * shapes are those of tests/fixtures/trees. Letters: d = width, m = width inside the MLP. */
#include "models/decoder.h"
#include "models/place.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- reading ------------------------------------------------------------ */

static void read_heads(config *c, decoder *g, const decoder_defaults *otherwise)
{
    g->n_kv_heads = config_size_or(
        c, "num_key_value_heads", otherwise->n_kv_heads ? otherwise->n_kv_heads : g->n_heads);
    config_divides(c, "num_attention_heads", g->n_heads, "num_key_value_heads", g->n_kv_heads);
    bool derived = !otherwise->head_dim && !config_has(c, "head_dim");
    if (derived) config_divides(c, "hidden_size", g->d, "num_attention_heads", g->n_heads);
    g->head_dim = derived ? g->d / g->n_heads
                          : (int32_t)config_integer(
                              c, "head_dim", 1, PROGRAM_MAX_HEAD_DIM, otherwise->head_dim);
    if (g->head_dim < 1 || g->head_dim > PROGRAM_MAX_HEAD_DIM)
        config_refuse(c, "'hidden_size' / 'num_attention_heads' must be from 1 to %d, found %d",
            (int)PROGRAM_MAX_HEAD_DIM, (int)g->head_dim);
    if (!c->status && g->n_heads > (1 << 28) / g->head_dim)
        config_refuse(c, "'num_attention_heads' (%d) times 'head_dim' (%d) is too large",
            (int)g->n_heads, (int)g->head_dim);
}

decoder decoder_read(config *c, program *p, const decoder_defaults *otherwise)
{
    decoder g = {
        .d = config_size_or(c, "hidden_size", otherwise->d),
        .m = config_size_or(
            c, otherwise->m_key ? otherwise->m_key : "intermediate_size", otherwise->m),
        .n_layers = (int32_t)config_integer(c, "num_hidden_layers", 1, 10000, otherwise->n_layers),
        .n_heads = config_size_or(c, "num_attention_heads", otherwise->n_heads),
        .vocabulary = config_size_or(c, "vocab_size", otherwise->vocabulary),
        .positions = config_size_or(c, "max_position_embeddings", otherwise->positions),
        .eps = (float)config_number(
            c, otherwise->eps_key ? otherwise->eps_key : "rms_norm_eps", 0, 1, otherwise->eps),
        .act = config_activation(c, otherwise->act_key, otherwise->act),
        .tied = config_tied(c, otherwise->tied),
        .norm_before_attention = "input_layernorm",
        .norm_before_mlp = "post_attention_layernorm",
        .norm_before_head = "norm",
        .attention_output = "o_proj",
        .act_name = "act_fn",
        .embed_scale = 1,
        .stream_scale = 1,
        .branch_scale = 1,
        .logit_scale = 1,
    };
    read_heads(c, &g, otherwise);
    g.n_key_heads = p->ungroup ? g.n_heads : g.n_kv_heads;
    if (c->status) return g;
    g.score_scale = (float)(1 / sqrt(g.head_dim));
    if (!otherwise->ropes_by_layer && !otherwise->no_rope)
        g.rope = config_rope(c, p, g.head_dim, "rope_theta",
            otherwise->theta > 0 ? otherwise->theta : 10000,
            otherwise->rotary_part > 0 ? "partial_rotary_factor" : NULL,
            otherwise->rotary_part > 0 ? otherwise->rotary_part : 1);
    if (c->status) return g;
    if (g.rope.positions && g.rope.positions < g.positions) g.positions = g.rope.positions;
    g.windows = arena_new(&p->memory, (size_t)g.n_layers * sizeof *g.windows);
    if (!g.windows) c->status = INSET_NO_MEMORY;
    return g;
}

void decoder_window_everywhere(config *c, decoder *g, int32_t otherwise)
{
    int64_t window = config_is_null(c, "sliding_window")
                         ? 0
                         : config_integer(c, "sliding_window", 1, INT32_MAX, otherwise);
    for (int32_t layer = 0; !c->status && layer < g->n_layers; layer++)
        g->windows[layer] = (int32_t)window;
}

void decoder_window_by_layer(config *c, decoder *g, int32_t window,
    bool (*slides)(int32_t layer, int32_t context), int32_t context)
{
    const json_node *types = json_member(c->object, "layer_types");
    if (types && (!json_is_array(types) || json_length(types) != (size_t)g->n_layers))
        config_refuse(c, "'layer_types' must be a list of one name for each of the %d layers",
            (int)g->n_layers);
    for (int32_t layer = 0; !c->status && layer < g->n_layers; layer++) {
        const char *type = slides(layer, context) ? "sliding_attention" : "full_attention";
        if (types && !json_as_string(json_item(types, (size_t)layer), &type)) type = "no text";
        bool sliding = strcmp(type, "sliding_attention") == 0;
        if (!sliding && strcmp(type, "full_attention"))
            config_refuse(c,
                "'layer_types'[%d] must be full_attention or sliding_attention, found \"%.60s\"",
                (int)layer, type);
        if (sliding && !window)
            config_refuse(c,
                "'layer_types'[%d] is sliding_attention, and 'sliding_window' is not set or not "
                "used",
                (int)layer);
        g->windows[layer] = sliding ? window : 0;
    }
}

static bool but_every(int32_t layer, int32_t pattern) { return (layer + 1) % pattern != 0; }

void decoder_window_but_every(config *c, decoder *g, int32_t pattern)
{
    const int64_t window = config_is_null(c, "sliding_window")
                               ? g->positions
                               : config_integer(c, "sliding_window", 1, INT32_MAX, 4096);
    if (!c->status) decoder_window_by_layer(c, g, (int32_t)window, but_every, pattern);
}

void decoder_read_mixture(config *c, mixture *m, const char *key, int32_t n, int32_t chosen)
{
    enum { MOST_EXPERTS = 1024 }; /* what the kernels take */
    if (!config_has(c, key))
        key = config_has(c, "num_experts") ? "num_experts" : "num_local_experts";
    m->n = (int32_t)config_integer(c, key, 1, MOST_EXPERTS, n);
    m->chosen = (int32_t)config_integer(c, "num_experts_per_tok", 1, MOST_EXPERTS, chosen);
    if (!c->status && m->chosen > m->n)
        config_refuse(c, "'num_experts_per_tok' (%d) must be at most '%s' (%d)", (int)m->chosen,
            key, (int)m->n);
}

/* ---- building ----------------------------------------------------------- */

/* A norm module over `groups` parts of a row, each `width` wide. */
static int32_t norm(const place *at, const char *path, int32_t x, int32_t width, int32_t groups)
{
    const decoder *g = at->family;
    const char *name = place_last_part(path);
    int32_t scale = -1, bias = -1;
    if (g->norm != NORM_LAYER_PLAIN)
        scale = place_weight(at, WEIGHT_VECTOR, path, "weight", 1, width);
    if (g->norm == NORM_LAYER) bias = place_weight(at, WEIGHT_VECTOR, path, "bias", 1, width);
    return g->norm == NORM_RMS
               ? program_rmsnorm_module(at->p, name, x, scale, g->eps, g->norm_weight, groups)
               : program_layernorm_module(at->p, name, x, scale, bias, g->eps);
}

static int32_t norm_if(const place *at, const char *name, int32_t x)
{
    const decoder *g = at->family;
    return name ? norm(at, name, x, g->d, 1) : x;
}

/* q's or k's norm, when the family has one: over each head, or over all heads at once. */
static int32_t head_norm(const place *at, const char *path, int32_t x, int32_t n_heads)
{
    const decoder *g = at->family;
    const int32_t width = n_heads * g->head_dim;
    if (g->qk_norm == QK_NORM_HEAD && !g->qk_norm_last)
        return norm(at, path, x, g->head_dim, n_heads);
    if (g->qk_norm == QK_NORM_HEAD) { /* transformers has heads before positions here: no tensors */
        int32_t scale = place_weight(at, WEIGHT_VECTOR, path, "weight", 1, g->head_dim);
        program_enter(at->p, place_last_part(path), -1);
        x = program_rmsnorm(at->p, x, scale, g->eps, g->norm_weight, n_heads);
        program_leave(at->p, -1);
        return x;
    }
    if (g->qk_norm == QK_NORM_NONE) return x;
    int32_t scale = place_weight(at, WEIGHT_VECTOR, path, "weight", 1, width);
    x = program_enter_flat(at->p, place_last_part(path), x);
    return program_leave(at->p, program_rmsnorm(at->p, x, scale, g->eps, g->norm_weight, 1));
}

/* q or k as attention multiplies it: rotated, where positions are not embedded. */
static int32_t rotate(const place *at, const char *site, int32_t x, int32_t n_heads)
{
    const decoder *g = at->family;
    const int32_t heads[2] = {n_heads, g->head_dim};
    if (g->embed_positions) return x;
    const bool still = g->without_rope && g->without_rope[at->layer];
    const rope *by = g->has_window_rope && g->windows[at->layer] ? &g->window_rope : &g->rope;
    const rotation how = {by->dims, by->frequencies, by->attention_scale, g->rope_round_once,
                       g->rope_interleaved},
                   none = {.attention_scale = 1, .round_once = g->rope_round_once};
    x = program_rope(at->p, x, n_heads, g->head_dim, still ? &none : &how);
    return program_site_view(at->p, site, x, 0, 2, heads);
}

/* Keys or values, from where a product makes them: a copy for each query head where the model is
 * ungrouped. `alone`: the head_input that it can be made of, a head at a time. */
static int32_t keys_of(
    const place *at, const char *site, int32_t linear, int32_t column, int32_t alone)
{
    const decoder *g = at->family;
    const int32_t copies = g->n_key_heads / g->n_kv_heads, heads[2] = {g->n_key_heads, g->head_dim};
    const head_columns from = {linear, column, g->head_dim, copies, g->n_key_heads, g->head_dim};
    int32_t x = linear;
    if (copies > 1) {
        x = program_slot_heads(at->p, linear, column, g->n_kv_heads, g->head_dim, g->head_dim,
            (int32_t)at->p->n_events - 1);
        x = program_spread(at->p, x, g->n_kv_heads, copies, g->head_dim, false);
    }
    program_head_input_made(at->p, alone, &from, copies > 1 ? x : -1);
    return program_site_view(at->p, site, x, copies > 1 ? 0 : column, 2, heads);
}

static int32_t attention(const place *at, int32_t x)
{
    const decoder *g = at->family;
    program *p = at->p;
    const int32_t heads[2] = {g->n_heads, g->head_dim};
    const int32_t q_width = g->n_heads * g->head_dim, kv_width = g->n_kv_heads * g->head_dim;
    int32_t q, k, v, inputs[3];
    x = program_enter(p, "self_attn", x);
    program_head_inputs(p, x, g->n_heads, g->n_key_heads, inputs);
    head_columns queries = {-1, 0, g->head_dim, 1, g->n_heads, g->head_dim};
    if (g->fused) {
        int32_t qkv = queries.linear = place_linear(
            at, "self_attn.qkv_proj", x, g->d, q_width + 2 * kv_width, g->qkv_bias);
        program_head_input_made(p, inputs[0], &queries, -1);
        q = program_site_view(p, "q", qkv, 0, 2, heads);
        k = keys_of(at, "k", qkv, q_width, inputs[1]);
        v = keys_of(at, "v", qkv, q_width + kv_width, inputs[2]);
    } else {
        q = queries.linear = place_linear(at, "self_attn.q_proj", x, g->d, q_width, g->qkv_bias);
        program_head_input_made(p, inputs[0], &queries, -1);
        q = program_site_view(p, "q", q, 0, 2, heads);
        if (!g->qk_norm_last) q = head_norm(at, "self_attn.q_norm", q, g->n_heads);
        k = place_linear(at, "self_attn.k_proj", x, g->d, kv_width, g->qkv_bias);
        k = keys_of(at, "k", k, 0, inputs[1]);
        if (!g->qk_norm_last) k = head_norm(at, "self_attn.k_norm", k, g->n_key_heads);
        v = place_linear(at, "self_attn.v_proj", x, g->d, kv_width, g->qkv_bias);
        v = keys_of(at, "v", v, 0, inputs[2]);
        if (g->qk_norm_last) {
            q = head_norm(at, "self_attn.q_norm", q, g->n_heads);
            k = head_norm(at, "self_attn.k_norm", k, g->n_key_heads);
        }
    }
    q = rotate(at, "rot_q", q, g->n_heads);
    k = rotate(at, "rot_k", k, g->n_key_heads);
    step like = program_like(STEP_ATTENTION);
    like.n_heads = g->n_heads;
    like.n_kv_heads = g->n_key_heads;
    like.head_dim = g->head_dim;
    like.scale = g->score_scale;
    like.softcap = g->score_softcap;
    like.window = g->windows[at->layer] < g->positions ? g->windows[at->layer] : 0;
    if (g->sinks)
        like.weight = place_weight(at, WEIGHT_VECTOR, "self_attn", "sinks", 1, g->n_heads);
    char path[64];
    snprintf(path, sizeof path, "self_attn.%s", g->attention_output);
    int32_t z = program_enter_site(
        p, g->attention_output, program_attention(p, q, k, v, &like), "z", 2, heads);
    int32_t joined = place_project(at, path, z, q_width, g->d, g->o_bias);
    program_head_results(p, z, joined, g->n_heads, g->head_dim);
    return program_leave(p, program_leave(p, joined));
}

/* mlp_last(act(mlp_first(x))) */
static int32_t plain_mlp(const place *at, int32_t x)
{
    const decoder *g = at->family;
    program *p = at->p;
    const char *of = g->mlp_in_block ? "" : "mlp.";
    char first[64], last[64];
    snprintf(first, sizeof first, "%s%s", of, g->mlp_first);
    snprintf(last, sizeof last, "%s%s", of, g->mlp_last);
    if (!g->mlp_in_block) x = program_enter(p, "mlp", x);
    x = place_linear(at, first, x, g->d, g->m, g->mlp_bias);
    x = program_activation_module(
        p, g->act_name, program_site_view_last(p, "pre", x, 0, 1, &g->m), g->act);
    x = program_enter_site(p, g->mlp_last, x, "post", 1, &g->m);
    x = program_leave(p, place_project(at, last, x, g->m, g->d, g->mlp_bias));
    return g->mlp_in_block ? x : program_leave(p, x);
}

static int32_t mlp(const place *at, int32_t x)
{
    const decoder *g = at->family;
    program *p = at->p;
    int32_t gate, up;
    if (g->mlp_first) return plain_mlp(at, x);
    if (g->mixture && !(g->mixture->absent && g->mixture->absent[at->layer]))
        return place_mixture(at, g->mixture, x, g->d, g->act);
    x = program_enter(p, "mlp", x);
    if (g->fused) {
        int32_t both = place_linear(at, "mlp.gate_up_proj", x, g->d, 2 * g->m, g->mlp_bias);
        gate = program_site_view_last(p, "pre", both, 0, 1, &g->m);
        up = program_site_view_last(p, "up", both, g->m, 1, &g->m);
        gate = program_activation_module(p, g->act_name, gate, g->act);
    } else {
        gate = program_site_view_last(
            p, "pre", place_linear(at, "mlp.gate_proj", x, g->d, g->m, g->mlp_bias), 0, 1, &g->m);
        gate = program_activation_module(p, g->act_name, gate, g->act);
        up = program_site_view_last(
            p, "up", place_linear(at, "mlp.up_proj", x, g->d, g->m, g->mlp_bias), 0, 1, &g->m);
    }
    x = program_enter_site(p, "down_proj", program_gate(p, gate, up), "post", 1, &g->m);
    return program_leave(
        p, program_leave(p, place_project(at, "mlp.down_proj", x, g->m, g->d, g->mlp_bias)));
}

/* What a branch adds to the stream, a site of the block where its module returns another thing. */
static int32_t scaled_branch(const place *at, const char *site, int32_t x)
{
    const decoder *g = at->family;
    if (g->branch_scale == 1) return x;
    x = program_scale_in_fp32(at->p, x, g->branch_scale);
    return program_site_view(at->p, site, x, 0, 1, &g->d);
}

static int32_t parallel_block(const place *at, int32_t x)
{
    const decoder *g = at->family;
    int32_t normed = norm_if(at, g->norm_before_attention, x);
    int32_t a = place_dropout(at, g->dropout_after_attention, attention(at, normed));
    int32_t m = place_dropout(at, g->dropout_after_mlp, mlp(at, normed));
    return g->parallel == PARALLEL_STREAM_FIRST ? program_add(at->p, x, a, m)
                                                : program_add(at->p, a, m, x);
}

static int32_t serial_block(const place *at, int32_t x)
{
    const decoder *g = at->family;
    int32_t branch = attention(at, norm_if(at, g->norm_before_attention, x));
    branch = norm_if(
        at, g->norm_after_attention, place_dropout(at, g->dropout_after_attention, branch));
    x = program_add(at->p, x, scaled_branch(at, "attn_out", branch), -1);
    branch = place_dropout(at, g->dropout_after_mlp, mlp(at, norm_if(at, g->norm_before_mlp, x)));
    branch = norm_if(at, g->norm_after_mlp, branch);
    return program_add(at->p, x, scaled_branch(at, "mlp_out", branch), -1);
}

static int32_t block(const place *at, int32_t x)
{
    char module[32];
    snprintf(module, sizeof module, "layers.%d", (int)at->layer);
    program_block(at->p, x);
    x = program_enter(at->p, module, x);
    const decoder *g = at->family;
    x = g->parallel ? parallel_block(at, x) : serial_block(at, x);
    return program_leave(at->p, x);
}

/* Token embeddings, with those of the positions where they have any: the stream's first value. */
static int32_t embeddings(const place *at, int32_t table, int32_t tokens)
{
    const decoder *g = at->family;
    program *p = at->p;
    int32_t x = program_embed(p, program_enter(p, "embed_tokens", tokens), table);
    if (g->embed_scale != 1) x = program_scale(p, x, g->embed_scale);
    x = place_dropout(at, g->dropout_after_embedding, program_leave(p, x));
    if (g->stream_scale != 1) x = program_scale_in_fp32(p, x, g->stream_scale);
    if (!g->embed_positions) return x;
    const int32_t rows = g->positions + g->first_position,
                  places = place_weight(at, WEIGHT_TABLE, g->embed_positions, "weight", rows, g->d);
    program_enter(p, place_last_part(g->embed_positions), -1);
    return program_add(
        p, x, program_leave(p, program_embed_positions(p, tokens, places, g->first_position)), -1);
}

void decoder_build(const decoder *g, program *p)
{
    static const char *const ignored[] = {
        "layers.*.self_attn.rotary_emb.inv_freq", "rotary_emb.inv_freq", NULL};
    const char *const inner = g->inner ? g->inner : "", *const dot = g->inner ? "." : "";
    char root[64], layers[64], name[64];
    snprintf(root, sizeof root, "model%s%s", dot, inner);
    snprintf(layers, sizeof layers, "%s%slayers", inner, dot);
    const place last = {p, g, layers, -1, false};
    if (g->qk_norm == QK_NORM_WHOLE && g->n_key_heads > g->n_kv_heads)
        p->status = error_set(p->context, INSET_VALUE_ERROR,
            "%s norms the keys of all heads at once: they cannot be ungrouped", p->model_type);
    p->optional_prefix = "model.";
    p->ignored = ignored;
    p->vocabulary = g->vocabulary;
    p->max_positions = g->positions;
    snprintf(name, sizeof name, "%s%sembed_tokens.weight", inner, dot);
    int32_t table = program_weight(p, WEIGHT_TABLE, name, g->vocabulary, g->d),
            tokens = program_tokens(p);
    program_enter(p, root, -1);
    int32_t x = embeddings(&last, table, tokens);
    for (int32_t layer = 0; layer < g->n_layers && !p->status; layer++)
        x = block(&(place){p, g, layers, layer, false}, x);
    x = norm(&last, g->norm_before_head, x, g->d, 1);
    program_leave(p, -1);
    x = place_head(p, x, table, g->tied, g->head_bias);
    if (g->logit_scale != 1) x = program_scale_in_fp32(p, x, g->logit_scale);
    program_logits(p, g->logit_softcap > 0 ? program_softcap(p, x, g->logit_softcap) : x);
}
