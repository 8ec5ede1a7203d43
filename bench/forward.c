/* forward.c: how long a forward of a model (GPT-2 small's shape, a Llama's: write_gpt2.c) takes,
 * and how much memory.
 *
 *     bench_forward DIRECTORY [-d DEVICE] [-n SAMPLES] T...      lines "forward inset T-last
 *     SECONDS", "forward inset T-all SECONDS"
 *     bench_forward DIRECTORY -m [-d DEVICE] T                   lines "memory inset T-NAME BYTES"
 *
 * A sample is one run of a plan that saves the logits: of the last position (last), of all (all).
 * It ends with the logits in host memory. "check" lines carry a sum over the last position's
 * logits, to compare with forward.py on the same directory. */
#include <math.h>

#include "bench.h"
#include "inset.h"

typedef struct forward {
    inset_context *context;
    inset_model *model;
    inset_trace *trace;
    inset_plan *plan;
} forward;

static void fail(forward *f)
{
    fprintf(stderr, "%s\n", inset_message(f->context));
    inset_context_free(f->context);
    exit(1);
}

static void plan_forward(forward *f, int length, const char *logits)
{
    int64_t lengths[] = {length};
    int64_t *tokens = malloc(sizeof *tokens * (size_t)length);
    inset_value *value = NULL;
    fill_prompt(tokens, length);
    inset_status status = inset_trace_create(f->model, &f->trace);
    if (!status) status = inset_invoke_tokens(f->trace, 1, lengths, tokens);
    if (!status) status = inset_get(f->trace, logits, &value);
    if (!status) status = inset_save(f->trace, "logits", value);
    if (!status) status = inset_plan_create(f->trace, NULL, &f->plan);
    free(tokens);
    if (status) fail(f);
}

/* One run, and its logits where the host can read them. */
static double sample(forward *f, inset_tensor *logits)
{
    double start = seconds();
    if (inset_run(f->plan) || inset_saved(f->plan, "logits", logits)) fail(f);
    return seconds() - start;
}

static void time_forward(forward *f, int length, const char *logits, const char *name, int n)
{
    inset_tensor saved;
    plan_forward(f, length, logits);
    for (int i = 0; i < 3; i++) sample(f, &saved);
    for (int i = 0; i < n; i++)
        printf("forward inset %d-%s %.9f\n", length, name, sample(f, &saved));
    double sum = 0;
    const float *last = (const float *)saved.data + inset_tensor_count(&saved)
                        - saved.shape[saved.n_dimensions - 1];
    for (int64_t i = 0; i < saved.shape[saved.n_dimensions - 1]; i++) sum += fabs((double)last[i]);
    printf("check inset %d-%s %.6f\n", length, name, sum);
    inset_trace_free(f->trace);
}

/* The most memory the process has had, beside what the plan announced. */
static void show_memory(forward *f, int length)
{
    inset_tensor saved;
    inset_statistics statistics = INSET_STATISTICS;
    printf("memory inset %d-loaded %.0f\n", length, process_bytes("VmHWM"));
    plan_forward(f, length, "output.logits[:, -1]");
    sample(f, &saved);
    if (inset_plan_statistics(f->plan, &statistics)) fail(f);
    printf("memory inset %d-weights %lld\n", length, (long long)statistics.weight_bytes);
    printf("memory inset %d-arena %lld\n", length, (long long)statistics.arena_bytes);
    printf("memory inset %d-peak %.0f\n", length, process_bytes("VmHWM"));
}

int main(int argc, char **argv)
{
    forward f = {NULL, NULL, NULL, NULL};
    inset_model_options options = INSET_MODEL_OPTIONS;
    int n = 20, memory = 0;
    options.device = "cpu";
    if (argc < 3 || inset_context_create(NULL, &f.context)) return 2;
    int i = 2;
    for (; i < argc && argv[i][0] == '-'; i++) {
        if (!strcmp(argv[i], "-m")) memory = 1;
        else if (!strcmp(argv[i], "-d") && i + 1 < argc) options.device = argv[++i];
        else if (!strcmp(argv[i], "-n") && i + 1 < argc) n = atoi(argv[++i]);
    }
    double start = seconds();
    if (inset_model_open(f.context, argv[1], &options, &f.model)) fail(&f);
    printf("load inset - %.6f\n", seconds() - start);
    fprintf(stderr, "inset %s on %s\n", inset_version(), inset_model_device(f.model));
    for (; i < argc; i++) {
        int length = atoi(argv[i]);
        if (memory) show_memory(&f, length);
        else {
            time_forward(&f, length, "output.logits[:, -1]", "last", n);
            time_forward(&f, length, "output.logits", "all", length > 200 ? (n + 1) / 2 : n);
        }
        fflush(stdout);
    }
    inset_context_free(f.context);
    return 0;
}
