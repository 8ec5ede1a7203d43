/* test_planning.c: what a plan costs, in counts.
 *
 *   norms    an addition and the norm of the whole of its sum are one launch; other norms are
 *            launches of their own
 *   depth    a patch costs work where it is made and where its rows join those of others, not in
 *            the layers behind it: the same patches on a deeper model make as many strands, and the
 *            tables of all its layers are described by hardly more runs */
#include "files.h"
#include "plan/emit/launches.h"
#include "run/model.h"

static int32_t site_of(const program *g, const char *name)
{
    int32_t site = -1;
    CHECK(!program_find_site(g, name, strlen(name), &site), "%s", name);
    return site;
}

/* ---- norms -------------------------------------------------------------- */

enum { WIDTH = 8 };

typedef enum norm_input { WHOLE_SUM, PART_OF_SUM, SUM_OF_THREE, NO_SUM } norm_input;

/* A norm, what it reads, whether its .scale is set, and the kernel that then does it. */
typedef struct norm_case {
    bool centred;
    rms_weight when;
    int32_t groups;
    norm_input input;
    bool set_scale;
    kernel_id kernel;
} norm_case;

static const norm_case norm_cases[] = {
    {true, RMS_WEIGHT_ROUNDED, 1, WHOLE_SUM, false, KERNEL_ADD_LAYERNORM},
    {false, RMS_WEIGHT_ROUNDED, 1, WHOLE_SUM, false, KERNEL_ADD_RMSNORM},
    {false, RMS_WEIGHT_PLUS_ONE, 1, WHOLE_SUM, false, KERNEL_ADD_RMSNORM},
    {false, RMS_WEIGHT_FIRST, 1, WHOLE_SUM, false, KERNEL_ADD_RMSNORM},
    {false, RMS_WEIGHT_ROUNDED, 2, WHOLE_SUM, false, KERNEL_RMSNORM},
    {true, RMS_WEIGHT_ROUNDED, 1, PART_OF_SUM, false, KERNEL_LAYERNORM},
    {false, RMS_WEIGHT_ROUNDED, 1, PART_OF_SUM, false, KERNEL_RMSNORM},
    {false, RMS_WEIGHT_ROUNDED, 1, SUM_OF_THREE, false, KERNEL_RMSNORM},
    {false, RMS_WEIGHT_ROUNDED, 1, NO_SUM, false, KERNEL_RMSNORM},
    {true, RMS_WEIGHT_ROUNDED, 1, WHOLE_SUM, true, KERNEL_NORM_BY_SCALE},
    {false, RMS_WEIGHT_ROUNDED, 1, WHOLE_SUM, true, KERNEL_NORM_BY_SCALE},
};

static inset_status norm_program(inset_context *context, const norm_case *c, program **out)
{
    inset_status status = program_create(context, "sequential", out);
    if (status) return status;
    program *p = *out;
    const int32_t x = program_enter(p, "a", program_input(p, WIDTH)), part = WIDTH / 2;
    const int32_t y = program_linear_module(
        p, "l", x, program_weight(p, WEIGHT_MATRIX, "l", WIDTH, WIDTH), -1);
    int32_t in = c->input == NO_SUM ? y : program_add(p, x, y, c->input == SUM_OF_THREE ? y : -1);
    if (c->input == PART_OF_SUM) in = program_site_view(p, "part", in, 0, 1, &part);
    const int32_t weight = program_weight(
        p, WEIGHT_VECTOR, "n", 1, (c->input == PART_OF_SUM ? part : WIDTH) / c->groups);
    program_leave(p, c->centred
                         ? program_layernorm_module(p, "n", in, weight, -1, 1e-5f)
                         : program_rmsnorm_module(p, "n", in, weight, 1e-5f, c->when, c->groups));
    return program_finish(p);
}

static inset_status norm_trace(trace *t, const norm_case *c)
{
    static const float rows[2 * WIDTH] = {1, 2};
    const operand number = {.kind = OPERAND_FLOAT, .number = 2};
    const index_item all = {.kind = INDEX_SLICE};
    operand site;
    inset_status status = trace_invoke_rows(t, 2, WIDTH, rows);
    if (!status && c->set_scale)
        status = trace_site(t, site_of(trace_program(t), "a.n.scale"), &site);
    if (!status && c->set_scale) status = trace_set(t, &site, 1, &all, TRACE_COPY, &number);
    if (!status) status = trace_site(t, site_of(trace_program(t), "a.n.output"), &site);
    return status ? status : trace_save(t, "n", &site);
}

/* The launch of the norm is the only one of a norm. */
static void check_norm(inset_context *context, const norm_case *c)
{
    program *g = NULL;
    trace *t = NULL;
    plan *p = NULL;
    const int number = (int)(c - norm_cases);
    inset_status status = norm_program(context, c, &g);
    if (!status) status = trace_create(context, g, INSET_F32, &t);
    if (!status) status = norm_trace(t, c);
    if (!status) status = plan_create(t, NULL, &p);
    CHECK(!status, "norm %d: %s", number, inset_message(context));
    int norms = 0;
    for (size_t i = 0; p && i < p->n_launches; i++) {
        if (p->launches[i].is_matmul) continue;
        const kernel_id k = (kernel_id)p->launches[i].kernel;
        if (k != KERNEL_LAYERNORM && k != KERNEL_RMSNORM && k != KERNEL_ADD_LAYERNORM
            && k != KERNEL_ADD_RMSNORM && k != KERNEL_NORM_BY_SCALE)
            continue;
        CHECK(k == c->kernel, "norm %d: kernel %d, not %d", number, (int)k, (int)c->kernel);
        norms++;
    }
    CHECK(norms == 1, "norm %d: %d launches of norms", number, norms);
    plan_free(p);
    trace_free(t);
    program_free(g);
}

/* ---- depth -------------------------------------------------------------- */

enum { TOKENS = 32, SHALLOW = 4, DEEP = 24 };

typedef struct family {
    const char *name, *config, *block, *site;
} family;

static const family families[] = {
    {"gpt2",
        "{\"model_type\": \"gpt2\", \"n_embd\": 16, \"n_layer\": %d, \"n_head\": 4, "
        "\"n_positions\": 64, \"vocab_size\": 5000}",
        "transformer.h[1]", "input"},
    {"gpt2",
        "{\"model_type\": \"gpt2\", \"n_embd\": 16, \"n_layer\": %d, \"n_head\": 4, "
        "\"n_positions\": 64, \"vocab_size\": 5000}",
        "transformer.h[1]", "attn.z"},
    {"llama",
        "{\"model_type\": \"llama\", \"hidden_size\": 16, \"num_hidden_layers\": %d, "
        "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"intermediate_size\": 24,"
        " \"max_position_embeddings\": 64, \"vocab_size\": 5000}",
        "model.layers[1]", "input"},
    {"llama",
        "{\"model_type\": \"llama\", \"hidden_size\": 16, \"num_hidden_layers\": %d, "
        "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"intermediate_size\": 24,"
        " \"max_position_embeddings\": 64, \"vocab_size\": 5000}",
        "model.layers[1]", "self_attn.k"},
};

/* One prompt into another, a position an invoke. */
static inset_status build(trace *t, const family *f)
{
    const program *g = trace_program(t);
    char name[96];
    int64_t tokens[TOKENS], length = TOKENS;
    operand clean, target, source, logits, last;
    const index_item all = {.kind = INDEX_SLICE}, end = {.kind = INDEX_INTEGER, .integer = -1};
    snprintf(name, sizeof name, "%s.%s", f->block, f->site);
    int32_t site = site_of(g, name), output = site_of(g, "lm_head.output");
    for (int i = 0; i < TOKENS; i++) tokens[i] = i;
    inset_status status = trace_invoke_tokens(t, 1, &length, tokens);
    if (!status) status = trace_site(t, site, &clean);
    for (int i = 0; i < TOKENS; i++) tokens[i] += 1000;
    for (int i = 0; i < TOKENS && !status; i++) {
        const index_item items[3] = {
            all, {.kind = INDEX_INTEGER, .integer = i}, {.kind = INDEX_INTEGER, .integer = 1}};
        size_t n = strchr(f->site, '.') ? 3 : 2;
        snprintf(name, sizeof name, "logits%d", i);
        status = trace_invoke_tokens(t, 1, &length, tokens);
        if (!status) status = trace_site(t, site, &target);
        if (!status) status = trace_index(t, &clean, n, items, &source);
        if (!status) status = trace_set(t, &target, n, items, TRACE_COPY, &source);
        if (!status) status = trace_site(t, output, &logits);
        if (!status) status = trace_index(t, &logits, 2, (const index_item[]){all, end}, &last);
        if (!status) status = trace_save(t, name, &last);
    }
    return status;
}

typedef struct costs {
    int64_t strands, runs, rows;
} costs;

static costs plan_costs(inset_context *context, const family *f, int layers)
{
    costs found = {0};
    char config[512];
    program *g = NULL;
    trace *t = NULL;
    plan *p = NULL;
    snprintf(config, sizeof config, f->config, layers);
    write_text(at("config.json"), config);
    inset_status status = model_program(context, directory, false, &g);
    if (!status) status = trace_create(context, g, INSET_F32, &t);
    if (!status) status = build(t, f);
    if (!status) status = plan_create(t, NULL, &p);
    if (CHECK(!status, "%s of %d layers: %s", f->name, layers, inset_message(context)))
        found = (costs){plan_get_statistics(p)->strands, (int64_t)(p->n_runs + p->n_repeats),
            plan_get_statistics(p)->rows};
    plan_free(p);
    trace_free(t);
    program_free(g);
    return found;
}

int main(void)
{
    world w;
    if (!CHECK(world_start(&w) != NULL, "no context")) return test_result();
    if (directory_start()) return 1;
    for (size_t i = 0; i < sizeof norm_cases / sizeof *norm_cases; i++)
        check_norm(w.context, &norm_cases[i]);
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        const family *f = &families[i];
        costs shallow = plan_costs(w.context, f, SHALLOW), deep = plan_costs(w.context, f, DEEP);
        CHECK(deep.rows > 4 * shallow.rows, "%s.%s: %lld rows of %d layers and %lld of %d", f->name,
            f->site, (long long)shallow.rows, SHALLOW, (long long)deep.rows, DEEP);
        CHECK(deep.strands == shallow.strands,
            "%s.%s: %lld strands with %d layers and %lld with %d", f->name, f->site,
            (long long)shallow.strands, SHALLOW, (long long)deep.strands, DEEP);
        CHECK(deep.runs - shallow.runs <= 4 * (DEEP - SHALLOW),
            "%s.%s: the tables have %lld runs with %d layers and %lld with %d", f->name, f->site,
            (long long)shallow.runs, SHALLOW, (long long)deep.runs, DEEP);
    }
    directory_end();
    world_end(&w, "planning");
    return test_result();
}
