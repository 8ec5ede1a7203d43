/* test_planning.c: what a plan costs, in counts. A patch costs work where it is made and where its rows join those of others, not in the layers
 * behind it: the same patches on a deeper model make as many strands, and the tables of all its layers are described by hardly more runs. */
#include "files.h"
#include "plan/launches.h"
#include "run/model.h"

enum { TOKENS = 32, SHALLOW = 4, DEEP = 24 };

typedef struct family { const char *name, *config, *block, *site; } family;

static const family families[] = {
    {"gpt2", "{\"model_type\": \"gpt2\", \"n_embd\": 16, \"n_layer\": %d, \"n_head\": 4, \"n_positions\": 64, \"vocab_size\": 5000}", "transformer.h[1]", "input"},
    {"gpt2", "{\"model_type\": \"gpt2\", \"n_embd\": 16, \"n_layer\": %d, \"n_head\": 4, \"n_positions\": 64, \"vocab_size\": 5000}", "transformer.h[1]", "attn.z"},
    {"llama", "{\"model_type\": \"llama\", \"hidden_size\": 16, \"num_hidden_layers\": %d, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"intermediate_size\": 24,"
              " \"max_position_embeddings\": 64, \"vocab_size\": 5000}", "model.layers[1]", "input"},
    {"llama", "{\"model_type\": \"llama\", \"hidden_size\": 16, \"num_hidden_layers\": %d, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"intermediate_size\": 24,"
              " \"max_position_embeddings\": 64, \"vocab_size\": 5000}", "model.layers[1]", "self_attn.k"},
};

static int32_t site_of(const program *g, const char *name)
{
    int32_t site = -1;
    CHECK(!program_find_site(g, name, strlen(name), &site), "%s", name);
    return site;
}

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
        const index_item items[3] = {all, {.kind = INDEX_INTEGER, .integer = i}, {.kind = INDEX_INTEGER, .integer = 1}};
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

typedef struct costs { int64_t strands, runs, rows; } costs;

static costs plan_costs(inset_context *context, const family *f, int layers)
{
    costs found = {0};
    char config[512];
    program *g = NULL;
    trace *t = NULL;
    plan *p = NULL;
    snprintf(config, sizeof config, f->config, layers);
    write_text(at("config.json"), config);
    inset_status status = model_program(context, directory, &g);
    if (!status) status = trace_create(context, g, INSET_F32, &t);
    if (!status) status = build(t, f);
    if (!status) status = plan_create(t, NULL, &p);
    if (CHECK(!status, "%s of %d layers: %s", f->name, layers, inset_message(context)))
        found = (costs){plan_get_statistics(p)->strands, (int64_t)(p->n_runs + p->n_repeats), plan_get_statistics(p)->rows};
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
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        const family *f = &families[i];
        costs shallow = plan_costs(w.context, f, SHALLOW), deep = plan_costs(w.context, f, DEEP);
        CHECK(deep.rows > 4 * shallow.rows, "%s.%s: %lld rows of %d layers and %lld of %d", f->name, f->site, (long long)shallow.rows, SHALLOW,
              (long long)deep.rows, DEEP);
        CHECK(deep.strands == shallow.strands, "%s.%s: %lld strands with %d layers and %lld with %d", f->name, f->site, (long long)shallow.strands, SHALLOW,
              (long long)deep.strands, DEEP);
        CHECK(deep.runs - shallow.runs <= 4 * (DEEP - SHALLOW), "%s.%s: the tables have %lld runs with %d layers and %lld with %d", f->name, f->site,
              (long long)shallow.runs, SHALLOW, (long long)deep.runs, DEEP);
    }
    directory_end();
    world_end(&w, "planning");
    return test_result();
}
