/* trace.c: what a trace costs beside the model's own work.
 *
 *     bench_trace TINY [GPT2] [-d DEVICE] [-n SAMPLES]
 *
 * TINY, a directory with the two-layer model (tests/fixtures/notebook):
 *     trace inset build-plan-run    a one-save trace built, planned, run, its value read, all freed
 *     trace inset run-again         a run of the same plan, its value read
 * GPT2, a directory of GPT-2's shape, T = 15 and 128: "records inset T-plain" and "T-records"
 * alternate a forward alone and the same with 100 records spread over it: one position of a block's
 * parts, set and read in turn. */
#include "bench.h"
#include "inset.h"

enum { RECORDS = 100, LAYERS = 12 };

static inset_context *context; /* for the message of a failure */

static void need(inset_status status)
{
    if (!status) return;
    fprintf(stderr, "%s\n", inset_message(context));
    exit(1);
}

static inset_plan *plan_tiny(inset_model *model, inset_trace **trace)
{
    static const float row[] = {0.9f, 0.1f, 0.4f, 0.7f, 0.2f};
    inset_plan *plan = NULL;
    inset_value *value = NULL;
    need(inset_trace_create(model, trace));
    need(inset_invoke_rows(*trace, 1, 5, row));
    need(inset_get(*trace, "layer1.output", &value));
    need(inset_save(*trace, "l1", value));
    need(inset_plan_create(*trace, NULL, &plan));
    return plan;
}

static void tiny(const char *directory, const inset_model_options *options, int n)
{
    inset_model *model = NULL;
    inset_trace *trace = NULL;
    inset_tensor saved;
    need(inset_model_open(context, directory, options, &model));
    for (int i = -n / 10; i < n; i++) { /* the first tenth warms up */
        double start = seconds();
        inset_plan *plan = plan_tiny(model, &trace);
        need(inset_run(plan));
        need(inset_saved(plan, "l1", &saved));
        inset_trace_free(trace);
        if (i >= 0) printf("trace inset build-plan-run %.9f\n", seconds() - start);
    }
    inset_plan *plan = plan_tiny(model, &trace);
    for (int i = -n / 10; i < n; i++) {
        double start = seconds();
        need(inset_run(plan));
        need(inset_saved(plan, "l1", &saved));
        if (i >= 0) printf("trace inset run-again %.9f\n", seconds() - start);
    }
    inset_model_free(model);
}

static void add_record(inset_trace *trace, int i, int length)
{
    static const char *const parts[] = {
        "ln_1.output", "attn.output", "mlp.act.output", "mlp.output", "output"};
    char site[96], name[32];
    inset_value *value = NULL;
    int at = i * LAYERS * 5 / RECORDS; /* in execution order */
    snprintf(site, sizeof site, "transformer.h[%d].%s[:, %d]", at / 5, parts[at % 5], i % length);
    snprintf(name, sizeof name, "record%d", i);
    if (i % 2) {
        need(inset_get(trace, site, &value));
        need(inset_save(trace, name, value));
    } else {
        need(inset_number(trace, 0.5, &value));
        need(inset_set(trace, site, value));
    }
}

static inset_plan *plan_gpt2(inset_model *model, int length, int n_records)
{
    inset_trace *trace = NULL;
    inset_plan *plan = NULL;
    inset_value *logits = NULL;
    int64_t tokens[1024], lengths[] = {length};
    fill_prompt(tokens, length);
    need(inset_trace_create(model, &trace));
    need(inset_invoke_tokens(trace, 1, lengths, tokens));
    for (int i = 0; i < n_records; i++) add_record(trace, i, length);
    need(inset_get(trace, "output.logits[:, -1]", &logits));
    need(inset_save(trace, "logits", logits));
    need(inset_plan_create(trace, NULL, &plan));
    return plan;
}

static double time_run(inset_plan *plan)
{
    double start = seconds();
    need(inset_run(plan));
    return seconds() - start;
}

static void gpt2(const char *directory, const inset_model_options *options, int n)
{
    inset_model *model = NULL;
    need(inset_model_open(context, directory, options, &model));
    for (int length = 15; length <= 128; length += 113) {
        inset_plan *plain = plan_gpt2(model, length, 0),
                   *records = plan_gpt2(model, length, RECORDS);
        for (int i = -3; i < n; i++) {
            double a = time_run(plain), b = time_run(records);
            if (i < 0) continue;
            printf("records inset %d-plain %.9f\nrecords inset %d-records %.9f\n", length, a,
                length, b);
        }
    }
    inset_model_free(model);
}

int main(int argc, char **argv)
{
    inset_model_options options = INSET_MODEL_OPTIONS;
    const char *directories[2] = {NULL, NULL};
    int n = 0, n_directories = 0;
    options.device = "cpu";
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-d") && i + 1 < argc) options.device = argv[++i];
        else if (!strcmp(argv[i], "-n") && i + 1 < argc) n = atoi(argv[++i]);
        else if (n_directories < 2) directories[n_directories++] = argv[i];
    }
    if (!n_directories || inset_context_create(NULL, &context)) return 2;
    tiny(directories[0], &options, n ? n : 2000);
    if (n_directories > 1) gpt2(directories[1], &options, n ? n : 30);
    inset_context_free(context);
    return 0;
}
