/* plan.c: what planning costs: thousands of one-place patches of a 64-token prompt on a model of 32
 * layers, written one invoke each. No weights and no device: nothing is run.
 *
 *     bench_plan [-n SAMPLES] [PATCHES]
 *
 * Lines: "plan trace CASE TIME" the calls that make the trace, "plan plan CASE TIME" planning it,
 * in seconds of processor time; "plan table CASE BYTES" the plan's tables and "plan memory CASE
 * BYTES" what the host keeps of the plan, "plan peak CASE BYTES" the most host memory while
 * planning, all a patch; "plan launches CASE N", "plan rows CASE N". Cases: sites, five places in
 * every layer of one pair of prompts; pairs, the residual stream of several pairs; heads, z of each
 * head of one pair; late, sites of prompts that differ from the middle on. */
#include "bench.h"

#include <stdbool.h>
#include <unistd.h>

#include "inset.h"

enum { LAYERS = 32, TOKENS = 64, HEADS = 8, SITES = 5 };

static double processor_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- an allocator that counts ------------------------------------------- */

typedef struct counter {
    size_t now, most;
} counter;

static void *counted(void *user, void *block, size_t size)
{
    counter *c = user;
    size_t *head = block ? (size_t *)((char *)block - 16) : NULL, old = head ? *head : 0;
    c->now -= old;
    if (!size) return free(head), NULL;
    if (!(head = realloc(head, size + 16))) return NULL;
    *head = size;
    c->now += size;
    if (c->now > c->most) c->most = c->now;
    return (char *)head + 16;
}

/* ---- traces ------------------------------------------------------------- */

typedef struct places {
    const char *name;
    int n;
    const char *sites[SITES];
    int heads, differ;
} places;

static const places cases[] = {
    {"sites", SITES, {"input", "attn.output", "ln_2.input", "mlp.output", "output"}, 1, 0},
    {"pairs", 1, {"input"}, 1, 0},
    {"heads", 1, {"attn.z"}, HEADS, 0},
    {"late", SITES, {"input", "attn.output", "ln_2.input", "mlp.output", "output"}, 1, TOKENS / 2},
};

static void fill(int64_t *tokens, int pair, int differ)
{
    for (int k = 0; k < TOKENS; k++) tokens[k] = 100 * (pair + 1) + k + (k >= differ ? 4000 : 0);
}

/* The clean run of a pair, every site kept in `values`, then a patch an invoke of the corrupt
 * one. */
static inset_status add_pair(
    inset_trace *trace, const places *c, int pair, int patches, inset_value **score)
{
    int64_t clean[TOKENS], corrupt[TOKENS], length = TOKENS;
    char text[128];
    static inset_value *values[LAYERS][SITES];
    fill(clean, pair, TOKENS);
    fill(corrupt, pair, c->differ);
    inset_status status = inset_invoke_tokens(trace, 1, &length, clean);
    for (int layer = 0; layer < LAYERS; layer++)
        for (int k = 0; k < c->n && !status; k++) {
            snprintf(text, sizeof text, "transformer.h[%d].%s", layer, c->sites[k]);
            status = inset_get(trace, text, &values[layer][k]);
        }
    for (int i = 0; i < patches && !status; i++) {
        int head = i % c->heads, position = i / c->heads % TOKENS, k = i / c->heads / TOKENS % c->n,
            layer = i / c->heads / TOKENS / c->n % LAYERS;
        char index[32];
        inset_value *source = NULL, *logits = NULL;
        if (c->heads > 1) snprintf(index, sizeof index, "[:, %d, %d]", position, head);
        else snprintf(index, sizeof index, "[:, %d]", position);
        status = inset_invoke_tokens(trace, 1, &length, corrupt);
        if (!status) status = inset_index(values[layer][k], index, &source);
        snprintf(text, sizeof text, "transformer.h[%d].%s%s", layer, c->sites[k], index);
        if (!status) status = inset_set(trace, text, source);
        if (!status) status = inset_get(trace, "lm_head.output[0, -1]", &logits);
        if (!status)
            status = inset_metric(logits, INSET_LOGIT_DIFF, 1, (const int64_t[]){11}, 1,
                (const int64_t[]){12}, NULL, &score[i]);
    }
    return status;
}

static inset_status bench_case(
    inset_model *model, const places *c, int patches, const counter *count, int first)
{
    inset_trace *trace = NULL;
    inset_plan *plan = NULL;
    inset_statistics is = INSET_STATISTICS;
    inset_value **score = malloc((size_t)patches * sizeof *score);
    int a_pair = LAYERS * TOKENS * c->n * c->heads;
    double start = processor_seconds();
    inset_status status = inset_trace_create(model, &trace);
    for (int done = 0, pair = 0; done < patches && !status; done += a_pair, pair++)
        status = add_pair(
            trace, c, pair, patches - done < a_pair ? patches - done : a_pair, score + done);
    if (!status) status = inset_save_stack(trace, "score", (size_t)patches, score);
    double traced = processor_seconds();
    size_t before = count->now;
    ((counter *)count)->most = before;
    if (!status) status = inset_plan_create(trace, NULL, &plan);
    double planned = processor_seconds();
    if (!status) status = inset_plan_statistics(plan, &is);
    printf("plan trace %s %.6f\nplan plan %s %.6f\n", c->name, traced - start, c->name,
        planned - traced);
    if (first)
        printf("plan table %s %.0f\nplan memory %s %.0f\nplan peak %s %.0f\nplan launches %s "
               "%lld\nplan rows %s %lld\n",
            c->name, (double)is.table_bytes / patches, c->name,
            (double)(count->now - before) / patches, c->name,
            (double)(count->most - before) / patches, c->name, (long long)is.launches, c->name,
            (long long)is.rows);
    fflush(stdout);
    inset_trace_free(trace);
    free(score);
    return status;
}

static bool write_config(const char *directory)
{
    char path[256];
    snprintf(path, sizeof path, "%s/config.json", directory);
    FILE *file = fopen(path, "w");
    if (!file) return false;
    fprintf(file,
        "{\"model_type\": \"gpt2\", \"n_embd\": 4096, \"n_layer\": %d, \"n_head\": %d, "
        "\"n_positions\": %d, \"vocab_size\": 50257}\n",
        LAYERS, HEADS * 4, TOKENS);
    return !fclose(file);
}

int main(int count, char **arguments)
{
    int samples = 5, patches = 10000;
    char directory[] = "/tmp/bench_plan_XXXXXX", path[64];
    counter bytes = {0};
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_model_options options = INSET_MODEL_OPTIONS;
    options.device = "none";
    for (int i = 1; i < count; i++)
        if (!strcmp(arguments[i], "-n") && i + 1 < count) samples = atoi(arguments[++i]);
        else patches = atoi(arguments[i]);
    if (!mkdtemp(directory) || !write_config(directory)
        || inset_context_create(&(inset_allocator){counted, &bytes}, &context))
        return 2;
    inset_status status = inset_model_open(context, directory, &options, &model);
    for (size_t k = 0; k < sizeof cases / sizeof *cases && !status; k++)
        for (int i = 0; i < samples && !status; i++)
            status = bench_case(model, &cases[k], patches, &bytes, i == 0);
    if (status) fprintf(stderr, "%s\n", inset_message(context));
    inset_context_free(context);
    snprintf(path, sizeof path, "%s/config.json", directory);
    unlink(path);
    rmdir(directory);
    return status != INSET_OK;
}
