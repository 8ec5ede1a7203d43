/* gpt2.c: GPT-2 as transformers' GPT2LMHeadModel runs it.
 *
 * What is its own: learned positions, LayerNorm before attention and MLP, q, k and v from one
 * projection, matrices stored [in, out] (Conv1D), the head tied to the embedding. Modules, order
 * and shapes are those of tests/fixtures/trees/gpt2.txt. Letters: d = width, m = width inside the
 * MLP. */
#include "models/models.h"

#include <math.h>
#include <stdio.h>

typedef struct gpt2 {
    int32_t d, m, n_layers, n_heads, vocabulary, positions;
    float eps;
    activation act;
    bool scale_by_head, scale_by_layer, tied;
} gpt2;

static gpt2 read_config(config *c)
{
    gpt2 g = {
        .d = config_size_or(c, "n_embd", 768),
        .n_layers = (int32_t)config_integer(c, "n_layer", 1, 10000, 12),
        .n_heads = config_size_or(c, "n_head", 12),
        .vocabulary = config_size_or(c, "vocab_size", 50257),
        .positions = config_size_or(c, "n_positions", 1024),
        .eps = (float)config_number(c, "layer_norm_epsilon", 0, 1, 1e-5),
        .act = config_activation(c, "activation_function", "gelu_new"),
        .scale_by_head = config_bool(c, "scale_attn_weights", true),
        .scale_by_layer = config_bool(c, "scale_attn_by_inverse_layer_idx", false),
        .tied = config_bool(c, "tie_word_embeddings", true),
    };
    g.m = config_size_or(c, "n_inner", 4 * (int64_t)g.d);
    config_divides(c, "n_embd", g.d, "n_head", g.n_heads);
    if (g.d / g.n_heads > PROGRAM_MAX_HEAD_DIM)
        config_refuse(c, "'n_embd' / 'n_head' must be at most %d, found %d",
            (int)PROGRAM_MAX_HEAD_DIM, (int)(g.d / g.n_heads));
    config_refuse_if_true(c, "add_cross_attention");
    /* reorder_and_upcast_attn asks for scores and softmax in fp32, which attention always has
     * here. */
    config_bool(c, "reorder_and_upcast_attn", false);
    return g;
}

/* The vector of weights called `name`.`kind`. */
static int32_t vector(program *p, const char *name, const char *kind, int32_t width)
{
    char full[96];
    snprintf(full, sizeof full, "%s.%s", name, kind);
    return program_weight(p, WEIGHT_VECTOR, full, 1, width);
}

/* A linear step with the weights `name`.weight [in, out] and `name`.bias. */
static int32_t conv(program *p, const char *name, int32_t x, int32_t in, int32_t out)
{
    char full[96];
    snprintf(full, sizeof full, "%s.weight", name);
    int32_t matrix = program_weight_in_out(p, full, in, out), bias = vector(p, name, "bias", out);
    return program_linear(p, x, matrix, bias);
}

static int32_t norm(program *p, const gpt2 *g, const char *module, const char *name, int32_t x)
{
    int32_t scale = vector(p, name, "weight", g->d), bias = vector(p, name, "bias", g->d);
    return program_layernorm_module(p, module, x, scale, bias, g->eps);
}

static int32_t attention(program *p, const gpt2 *g, int32_t layer, int32_t x)
{
    char name[64];
    const int32_t heads[2] = {g->n_heads, g->d / g->n_heads};
    step like = program_like(STEP_ATTENTION);
    like.n_heads = like.n_kv_heads = heads[0];
    like.head_dim = heads[1];
    like.scale = (float)((g->scale_by_head ? 1 / sqrt(heads[1]) : 1)
                         / (g->scale_by_layer ? layer + 1.0 : 1));

    int32_t inputs[3];
    x = program_enter(p, "attn", x);
    program_head_inputs(p, x, heads[0], heads[0], inputs);
    snprintf(name, sizeof name, "h.%d.attn.c_attn", (int)layer);
    int32_t qkv = program_leave(p, conv(p, name, program_enter(p, "c_attn", x), g->d, 3 * g->d));
    for (int k = 0; k < 3; k++)
        program_head_input_made(
            p, inputs[k], &(head_columns){qkv, k * g->d, heads[1], 1, heads[0], heads[1]}, -1);
    int32_t q = program_site_view(p, "q", qkv, 0, 2, heads);
    int32_t k = program_site_view(p, "k", qkv, g->d, 2, heads);
    int32_t v = program_site_view(p, "v", qkv, 2 * g->d, 2, heads);
    int32_t z = program_enter_site(
        p, "c_proj", program_attention(p, q, k, v, &like), "z", 2, heads);
    snprintf(name, sizeof name, "h.%d.attn.c_proj", (int)layer);
    x = conv(p, name, z, g->d, g->d);
    program_head_results(p, z, x, heads[0], heads[1]);
    x = program_leave(p, x);
    return program_leave(p, program_identity_module(p, "resid_dropout", x));
}

static int32_t mlp(program *p, const gpt2 *g, int32_t layer, int32_t x)
{
    char name[64];
    x = program_enter(p, "mlp", x);
    snprintf(name, sizeof name, "h.%d.mlp.c_fc", (int)layer);
    x = program_leave(p, conv(p, name, program_enter(p, "c_fc", x), g->d, g->m));
    x = program_site_view_last(p, "pre", x, 0, 1, &g->m);
    x = program_activation_module(p, "act", x, g->act);
    x = program_enter_site(p, "c_proj", x, "post", 1, &g->m);
    snprintf(name, sizeof name, "h.%d.mlp.c_proj", (int)layer);
    x = program_leave(p, conv(p, name, x, g->m, g->d));
    return program_leave(p, program_identity_module(p, "dropout", x));
}

static int32_t block(program *p, const gpt2 *g, int32_t layer, int32_t x)
{
    char module[32], name[64];
    snprintf(module, sizeof module, "h.%d", (int)layer);
    program_block(p, x);
    x = program_enter(p, module, x);
    snprintf(name, sizeof name, "h.%d.ln_1", (int)layer);
    int32_t branch = attention(p, g, layer, norm(p, g, "ln_1", name, x));
    x = program_add(p, branch, x, -1);
    snprintf(name, sizeof name, "h.%d.ln_2", (int)layer);
    branch = mlp(p, g, layer, norm(p, g, "ln_2", name, x));
    return program_leave(p, program_add(p, x, branch, -1));
}

void gpt2_build(config *c, program *p)
{
    /* Older files carry the causal mask of each layer. */
    static const char *const ignored[] = {"h.*.attn.bias", "h.*.attn.masked_bias", NULL};
    gpt2 g = read_config(c);
    if (c->status) return;
    p->optional_prefix = "transformer.";
    p->ignored = ignored;
    p->vocabulary = g.vocabulary;
    p->max_positions = g.positions;

    int32_t wte = program_weight(p, WEIGHT_TABLE, "wte.weight", g.vocabulary, g.d);
    int32_t wpe = program_weight(p, WEIGHT_TABLE, "wpe.weight", g.positions, g.d);
    int32_t tokens = program_tokens(p), positions = program_positions(p);
    program_enter(p, "transformer", -1);
    int32_t x = program_embed_module(p, "wte", tokens, wte);
    x = program_add(p, x, program_embed_module(p, "wpe", positions, wpe), -1);
    x = program_identity_module(p, "drop", x);
    for (int32_t layer = 0; layer < g.n_layers; layer++) x = block(p, &g, layer, x);
    x = norm(p, &g, "ln_f", "ln_f", x);
    program_leave(p, -1);

    int32_t head = g.tied ? program_weight_tied(p, "lm_head.weight", wte)
                          : program_weight(p, WEIGHT_MATRIX, "lm_head.weight", g.vocabulary, g.d);
    program_logits(p, program_linear_module(p, "lm_head", x, head, -1));
}
