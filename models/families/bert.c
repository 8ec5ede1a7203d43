/* bert.c: BERT as transformers' BertForMaskedLM runs it: every token sees all of its prompt, the
 * ones behind it too, and norms stand behind each addition to the stream. Prompts are one segment:
 * all tokens have the first row of the table of token types. Modules, order and shapes are those of
 * tests/fixtures/trees/bert.txt. Letters: d = width, m = width inside the MLP. */
#include "models/models.h"
#include "models/place.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct bert {
    int32_t d, m, n_layers, n_heads, vocabulary, positions, types;
    float eps;
    activation act;
    bool tied;
} bert;

/* ---- reading ------------------------------------------------------------ */

static bert read_config(config *c)
{
    bert g = {
        .d = config_size_or(c, "hidden_size", 768),
        .m = config_size_or(c, "intermediate_size", 3072),
        .n_layers = (int32_t)config_integer(c, "num_hidden_layers", 1, 10000, 12),
        .n_heads = config_size_or(c, "num_attention_heads", 12),
        .vocabulary = config_size_or(c, "vocab_size", 30522),
        .positions = config_size_or(c, "max_position_embeddings", 512),
        .types = config_size_or(c, "type_vocab_size", 2),
        .eps = (float)config_number(c, "layer_norm_eps", 0, 1, 1e-12),
        .act = config_activation(c, "hidden_act", "gelu"),
        .tied = config_tied(c, true),
    };
    config_head_dim(c, "hidden_size", g.d, "num_attention_heads", g.n_heads);
    config_refuse_if_true(c, "is_decoder");
    config_refuse_if_true(c, "add_cross_attention");
    const char *positions = config_string(c, "position_embedding_type", "absolute");
    if (!c->status && strcmp(positions, "absolute"))
        config_refuse(c,
            "'position_embedding_type' is \"%.60s\", which inset does not support (only "
            "\"absolute\")",
            positions);
    return g;
}

/* ---- building ----------------------------------------------------------- */

/* Its weight and bias have two names: files from before 2019 call them gamma and beta. */
static int32_t norm(const place *at, const char *path, int32_t x)
{
    static const char *const kinds[2][2] = {{"weight", "gamma"}, {"bias", "beta"}};
    const bert *g = at->family;
    int32_t made[2];
    for (int i = 0; i < 2; i++) {
        char also[128];
        if (at->layer < 0) snprintf(also, sizeof also, "%s.%s", path, kinds[i][1]);
        else
            snprintf(
                also, sizeof also, "%s.%d.%s.%s", at->layers, (int)at->layer, path, kinds[i][1]);
        made[i] = place_weight(at, WEIGHT_VECTOR, path, kinds[i][0], 1, g->d);
        program_weight_also(at->p, made[i], also);
    }
    return program_layernorm_module(at->p, "LayerNorm", x, made[0], made[1], g->eps);
}

/* What a branch adds, and the norm of the sum: the modules `output` of attention, whose input is
 * the heads' z, and of the MLP. */
static int32_t add_branch(
    const place *at, const char *path, int32_t x, int32_t in, int32_t stream, bool of_attention)
{
    const bert *g = at->family;
    program *p = at->p;
    const int32_t heads[2] = {g->n_heads, g->d / g->n_heads};
    char name[64];
    x = of_attention ? program_enter_site(p, "output", x, "z", 2, heads)
                     : program_enter(p, "output", x);
    const int32_t z = x;
    snprintf(name, sizeof name, "%s.dense", path);
    x = place_linear(at, name, x, in, g->d, true);
    if (of_attention) program_head_results(p, z, x, heads[0], heads[1]);
    x = program_add(p, program_identity_module(p, "dropout", x), stream, -1);
    snprintf(name, sizeof name, "%s.LayerNorm", path);
    return program_leave(p, norm(at, name, x));
}

static int32_t attention(const place *at, int32_t stream)
{
    static const char *const modules[] = {
        "attention.self.query", "attention.self.key", "attention.self.value"};
    static const char *const sites[] = {"q", "k", "v"};
    const bert *g = at->family;
    program *p = at->p;
    const int32_t heads[2] = {g->n_heads, g->d / g->n_heads};
    step like = program_like(STEP_ATTENTION);
    like.n_heads = like.n_kv_heads = heads[0];
    like.head_dim = heads[1];
    like.scale = (float)(1 / sqrt(heads[1]));
    like.both_ways = true;
    int32_t qkv[3], inputs[3];
    stream = program_enter(p, "attention", stream);
    int32_t x = program_enter(p, "self", stream);
    program_head_inputs(p, x, heads[0], heads[0], inputs);
    for (int i = 0; i < 3; i++) {
        const int32_t made = place_linear(at, modules[i], x, g->d, g->d, true);
        program_head_input_made(
            p, inputs[i], &(head_columns){made, 0, heads[1], 1, heads[0], heads[1]}, -1);
        qkv[i] = program_site_view(p, sites[i], made, 0, 2, heads);
    }
    x = program_leave(p, program_attention(p, qkv[0], qkv[1], qkv[2], &like));
    return program_leave(p, add_branch(at, "attention.output", x, g->d, stream, true));
}

static int32_t block(const place *at, int32_t x)
{
    const bert *g = at->family;
    program *p = at->p;
    char module[32];
    snprintf(module, sizeof module, "encoder.layer.%d", (int)at->layer);
    program_block(p, x);
    x = attention(at, program_enter(p, module, x));
    int32_t inside = program_enter(p, "intermediate", x);
    inside = place_linear(at, "intermediate.dense", inside, g->d, g->m, true);
    inside = program_site_view(p, "pre", inside, 0, 1, &g->m);
    inside = program_activation_module(p, "intermediate_act_fn", inside, g->act);
    inside = program_leave(p, program_site_view(p, "post", inside, 0, 1, &g->m));
    return program_leave(p, add_branch(at, "output", inside, g->m, x, false));
}

static int32_t embeddings(const place *at, int32_t words, int32_t tokens)
{
    const bert *g = at->family;
    program *p = at->p;
    const int32_t types = place_weight(
        at, WEIGHT_TABLE, "embeddings.token_type_embeddings", "weight", g->types, g->d);
    const int32_t places = place_weight(
        at, WEIGHT_TABLE, "embeddings.position_embeddings", "weight", g->positions, g->d);
    const int32_t positions = program_positions(p);
    tokens = program_enter(p, "embeddings", tokens);
    int32_t x = program_embed_module(p, "word_embeddings", tokens, words);
    program_enter(p, "token_type_embeddings", -1);
    x = program_add(p, x, program_leave(p, program_embed_row(p, tokens, types, 0)), -1);
    x = program_add(p, x, program_embed_module(p, "position_embeddings", positions, places), -1);
    x = norm(at, "embeddings.LayerNorm", x);
    return program_leave(p, program_identity_module(p, "dropout", x));
}

/* The logits: a transform of the stream, then a product with the embeddings, and a bias that older
 * files have beside the product. */
static int32_t head(const place *at, int32_t words, int32_t x)
{
    const bert *g = at->family;
    program *p = at->p;
    x = program_enter(p, "cls", x);
    x = program_enter(p, "predictions", x);
    x = program_enter(p, "transform", x);
    x = place_linear(at, "cls.predictions.transform.dense", x, g->d, g->d, true);
    x = program_activation_module(p, "transform_act_fn", x, g->act);
    x = program_leave(p, norm(at, "cls.predictions.transform.LayerNorm", x));
    static const char weight[] = "cls.predictions.decoder.weight";
    const int32_t matrix = g->tied ? program_weight_tied(p, weight, words)
                                   : program_weight(p, WEIGHT_MATRIX, weight, g->vocabulary, g->d);
    const int32_t bias = program_weight(
        p, WEIGHT_VECTOR, "cls.predictions.decoder.bias", 1, g->vocabulary);
    program_weight_also(p, bias, "cls.predictions.bias");
    x = program_linear_module(p, "decoder", x, matrix, bias);
    return program_leave(p, program_leave(p, x));
}

void bert_build(config *c, program *p)
{
    static const char *const ignored[] = {"embeddings.position_ids", "pooler.dense.weight",
        "pooler.dense.bias", "cls.seq_relationship.weight", "cls.seq_relationship.bias",
        "cls.predictions.bias", NULL};
    const bert g = read_config(c);
    if (c->status) return;
    const place last = {p, &g, "encoder.layer", -1, false};
    p->optional_prefix = "bert.";
    p->ignored = ignored;
    p->vocabulary = g.vocabulary;
    p->max_positions = g.positions;
    const int32_t words = program_weight(
                      p, WEIGHT_TABLE, "embeddings.word_embeddings.weight", g.vocabulary, g.d),
                  tokens = program_tokens(p);
    program_enter(p, "bert", -1);
    int32_t x = embeddings(&last, words, tokens);
    for (int32_t layer = 0; layer < g.n_layers && !p->status; layer++)
        x = block(&(place){p, &g, "encoder.layer", layer, false}, x);
    program_leave(p, -1);
    program_logits(p, head(&last, words, x));
}
