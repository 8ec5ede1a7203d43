/* gpt2.c: GPT-2 as transformers' GPT2LMHeadModel runs it, and the forward pass that GPT-Neo and
 * GPT-J share with it (gpt2.h). Modules, order and shapes are those of
 * tests/fixtures/trees/gpt2.txt and gpt_neo.txt. Letters: d = width, m = width inside the MLP. */
#include "models/families/gpt2.h"
#include "models/place.h"

#include <math.h>
#include <stdio.h>

/* ---- reading ------------------------------------------------------------ */

void gpt2_make_layers(config *c, program *p, gpt2 *g)
{
    if (c->status) return;
    g->score_scales = arena_new(&p->memory, (size_t)g->n_layers * sizeof *g->score_scales);
    g->windows = arena_new(&p->memory, (size_t)g->n_layers * sizeof *g->windows);
    if (!g->score_scales || !g->windows) c->status = INSET_NO_MEMORY;
}

static gpt2 read_config(config *c, program *p)
{
    gpt2 g = {
        .d = config_size_or(c, "n_embd", 768),
        .n_layers = (int32_t)config_integer(c, "n_layer", 1, 10000, 12),
        .n_heads = config_size_or(c, "n_head", 12),
        .vocabulary = config_size_or(c, "vocab_size", 50257),
        .positions = config_size_or(c, "n_positions", 1024),
        .eps = (float)config_number(c, "layer_norm_epsilon", 0, 1, 1e-5),
        .act = config_activation(c, "activation_function", "gelu_new"),
        .tied = config_tied(c, true),
        .fused = true,
        .output_bias = true,
        .output = "c_proj",
        .mlp_first = "c_fc",
        .mlp_last = "c_proj",
    };
    const bool by_head = config_bool(c, "scale_attn_weights", true),
               by_layer = config_bool(c, "scale_attn_by_inverse_layer_idx", false);
    g.m = config_size_or(c, "n_inner", 4 * (int64_t)g.d);
    config_head_dim(c, "n_embd", g.d, "n_head", g.n_heads);
    config_refuse_if_true(c, "add_cross_attention");
    /* reorder_and_upcast_attn asks for scores and softmax in fp32, which attention always has
     * here. */
    config_bool(c, "reorder_and_upcast_attn", false);
    gpt2_make_layers(c, p, &g);
    for (int32_t layer = 0; !c->status && layer < g.n_layers; layer++)
        g.score_scales[layer] = (float)((by_head ? 1 / sqrt((double)g.d / g.n_heads) : 1)
                                        / (by_layer ? layer + 1.0 : 1));
    return g;
}

/* ---- building ----------------------------------------------------------- */

/* "attn.q_proj", or "attn.attention.q_proj" where another module attends. */
static const char *in_attention(const gpt2 *g, const char *module, char path[64])
{
    snprintf(path, 64, "attn.%s%s%s", g->inner ? g->inner : "", g->inner ? "." : "", module);
    return path;
}

/* q, k and v as attention reads them, from one projection or from three. */
static void queries_keys_values(const place *at, int32_t x, int32_t qkv[3])
{
    static const char *const modules[] = {"q_proj", "k_proj", "v_proj"};
    static const char *const sites[] = {"q", "k", "v"}, *const turned[] = {"rot_q", "rot_k"};
    const gpt2 *g = at->family;
    const int32_t heads[2] = {g->n_heads, g->d / g->n_heads};
    int32_t inputs[3], made = -1;
    program_head_inputs(at->p, x, heads[0], heads[0], inputs);
    if (g->fused) made = place_linear(at, "attn.c_attn", x, g->d, 3 * g->d, true);
    for (int i = 0; i < 3; i++) {
        const int32_t column = g->fused ? i * g->d : 0;
        char path[64];
        if (!g->fused)
            made = place_linear(at, in_attention(g, modules[i], path), x, g->d, g->d, false);
        program_head_input_made(
            at->p, inputs[i], &(head_columns){made, column, heads[1], 1, heads[0], heads[1]}, -1);
        qkv[i] = program_site_view(at->p, sites[i], made, column, 2, heads);
    }
    for (int i = 0; i < 2 && g->rotary; i++) {
        int32_t made_of = program_rope(at->p, qkv[i], heads[0], heads[1], g->rotary);
        qkv[i] = program_site_view(at->p, turned[i], made_of, 0, 2, heads);
    }
}

static int32_t attention(const place *at, int32_t x)
{
    const gpt2 *g = at->family;
    program *p = at->p;
    const int32_t heads[2] = {g->n_heads, g->d / g->n_heads};
    const int32_t window = g->windows[at->layer];
    char path[64];
    step like = program_like(STEP_ATTENTION);
    like.n_heads = like.n_kv_heads = heads[0];
    like.head_dim = heads[1];
    like.scale = g->score_scales[at->layer];
    like.window = window < g->positions ? window : 0;

    int32_t qkv[3];
    x = program_enter(p, "attn", x);
    if (g->inner) x = program_enter(p, g->inner, x);
    queries_keys_values(at, x, qkv);
    int32_t z = program_enter_site(
        p, g->output, program_attention(p, qkv[0], qkv[1], qkv[2], &like), "z", 2, heads);
    x = place_project(at, in_attention(g, g->output, path), z, g->d, g->d, g->output_bias);
    program_head_results(p, z, x, heads[0], heads[1]);
    x = program_identity_module(p, "resid_dropout", program_leave(p, x));
    if (g->inner) x = program_leave(p, x);
    return program_leave(p, x);
}

static int32_t mlp(const place *at, int32_t x)
{
    const gpt2 *g = at->family;
    program *p = at->p;
    char first[64], last[64];
    snprintf(first, sizeof first, "mlp.%s", g->mlp_first);
    snprintf(last, sizeof last, "mlp.%s", g->mlp_last);
    x = program_enter(p, "mlp", x);
    x = place_linear(at, first, x, g->d, g->m, true);
    x = program_site_view_last(p, "pre", x, 0, 1, &g->m);
    x = program_activation_module(p, "act", x, g->act);
    x = program_enter_site(p, g->mlp_last, x, "post", 1, &g->m);
    x = program_leave(p, place_project(at, last, x, g->m, g->d, true));
    return program_leave(p, program_identity_module(p, "dropout", x));
}

static int32_t block(const place *at, int32_t x)
{
    program *p = at->p;
    char module[32];
    snprintf(module, sizeof module, "h.%d", (int)at->layer);
    program_block(p, x);
    x = program_enter(p, module, x);
    const gpt2 *g = at->family;
    const int32_t normed = place_layernorm(at, "ln_1", x, g->d, g->eps),
                  made = attention(at, normed);
    if (g->parallel) return program_leave(p, program_add(p, made, mlp(at, normed), x));
    x = program_add(p, made, x, -1);
    int32_t branch = mlp(at, place_layernorm(at, "ln_2", x, g->d, g->eps));
    return program_leave(p, program_add(p, x, branch, -1));
}

void gpt2_write(const gpt2 *g, program *p)
{
    /* Older files carry the causal mask of each layer. */
    static const char *const ignored[] = {"h.*.attn.bias", "h.*.attn.masked_bias",
        "h.*.attn.attention.bias", "h.*.attn.attention.masked_bias", NULL};
    p->optional_prefix = "transformer.";
    p->ignored = ignored;
    p->vocabulary = g->vocabulary;
    p->max_positions = g->positions;

    int32_t wte = program_weight(p, WEIGHT_TABLE, "wte.weight", g->vocabulary, g->d);
    int32_t wpe = g->rotary ? -1
                            : program_weight(p, WEIGHT_TABLE, "wpe.weight", g->positions, g->d);
    int32_t tokens = program_tokens(p), positions = g->rotary ? -1 : program_positions(p);
    program_enter(p, "transformer", -1);
    int32_t x = program_embed_module(p, "wte", tokens, wte);
    if (!g->rotary) x = program_add(p, x, program_embed_module(p, "wpe", positions, wpe), -1);
    x = program_identity_module(p, "drop", x);
    for (int32_t layer = 0; layer < g->n_layers && !p->status; layer++)
        x = block(&(place){p, g, "h", layer, g->fused}, x);
    x = place_layernorm(&(place){.p = p, .layer = -1}, "ln_f", x, g->d, g->eps);
    program_leave(p, -1);
    program_logits(p, place_head(p, x, wte, g->tied, g->head_bias));
}

void gpt2_build(config *c, program *p)
{
    gpt2 g = read_config(c, p);
    if (!c->status) gpt2_write(&g, p);
}
