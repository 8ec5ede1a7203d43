/* run.c: forwards and sweeps of a shape on a GPU, and where their time goes.
 *
 *     gpu_run DEVICE SHAPE TYPE [-f] [-w GIB] [-n SAMPLES] CASE...
 *
 *     -f     as --fast
 *     -w     weights take so much of the device at most; the others are streamed
 *
 * SHAPE: a folder with a config.json; weights come from a seed. CASE: forward-T (logits of the last
 * position), sweep-SITE-T (one pair of prompts of T tokens that differ from the first on; every
 * layer and position, of `z` every layer and head), nodes-T, edges-T and ig5-T (scores of such a
 * pair's nodes of resid_pre and z, of all edges, and of these by 5 steps), records-T (a forward of
 * gpt2 with and without 100 sets). Lines "forward inset SHAPE-TYPE-T SECONDS", "sweep ...", "plan
 * ...", "flops ...", as bench/run reads them; "phase" lines say what the host did meanwhile. Then a
 * table of a run whose launches are made one by one: each kernel's launches and time, between an
 * event before it and one behind it. */
#include "gpu.h"

#include <math.h>
#include <string.h>

enum { MOST_TOKENS = 1024, PRODUCT = KERNEL_ALL, GELU_PRODUCT, FLOAT_PRODUCT, ZERO, SORTS };

/* ---- device time, launch by launch -------------------------------------- */

static struct {
    const device_functions *plain;
    cuda_event *events; /* events 2i and 2i + 1 are before and behind work i */
    int *sorts;         /* of work i */
    int n, capacity;
} marks;

static const char *const kernel_names[KERNEL_COUNT] = {
    [KERNEL_EMBED] = "embed",
    [KERNEL_GATHER] = "gather",
    [KERNEL_LAYERNORM] = "layernorm",
    [KERNEL_RMSNORM] = "rmsnorm",
    [KERNEL_ACTIVATION] = "activation",
    [KERNEL_GATE] = "gate",
    [KERNEL_ADD] = "add",
    [KERNEL_ADD_LAYERNORM] = "add + layernorm",
    [KERNEL_ADD_RMSNORM] = "add + rmsnorm",
    [KERNEL_SCALE] = "scale",
    [KERNEL_ROPE] = "rope",
    [KERNEL_ATTENTION] = "attention",
    [KERNEL_WHOLE_ATTENTION] = "whole attention",
    [KERNEL_COLUMNS] = "columns",
    [KERNEL_METRICS] = "metrics",
    [KERNEL_NORM_BACK] = "norm, back",
    [KERNEL_ACTIVATION_BACK] = "activation, back",
    [KERNEL_JOIN] = "join",
    [KERNEL_ATTENTION_BACK] = "attention, back",
    [KERNEL_THROUGH_NORM] = "through norm",
    [KERNEL_WIDEN] = "widen",
    [KERNEL_RECORDS] = "records",
    [KERNEL_FUNCTIONS] = "functions",
    [KERNEL_ROW_FUNCTIONS] = "row_functions",
    [KERNEL_EXPAND] = "expand",
};

/* sort -1: before the work, which is then said to be of a sort behind it. */
static void mark(device *base, int sort)
{
    cuda_device *d = (cuda_device *)base;
    if (marks.n >= marks.capacity) return;
    gpu_good(
        d->library.cudaEventRecord(marks.events[2 * marks.n + (sort >= 0)], d->stream), "an event");
    if (sort >= 0) marks.sorts[marks.n++] = sort;
}

static inset_status marked_launch(device *d, kernel_id kernel, inset_type type, const void *args,
    size_t size, int64_t blocks, int64_t work)
{
    mark(d, -1);
    inset_status status = marks.plain->launch(d, kernel, type, args, size, blocks, work);
    mark(d, (int)kernel);
    return status;
}

static inset_status marked_matmul(device *d, const matrix *m, const void *x, int64_t x_stride,
    void *y, int64_t y_stride, int64_t rows)
{
    mark(d, -1);
    inset_status status = marks.plain->matmul(d, m, x, x_stride, y, y_stride, rows);
    mark(d, PRODUCT);
    return status;
}

static inset_status marked_gelu(device *d, const matrix *m, const void *x, int64_t x_stride,
    void *y, int64_t y_stride, int64_t rows)
{
    mark(d, -1);
    inset_status status = marks.plain->matmul_gelu(d, m, x, x_stride, y, y_stride, rows);
    mark(d, GELU_PRODUCT);
    return status;
}

static inset_status marked_float_products(device *d, const float_product *x, int64_t n)
{
    mark(d, -1);
    inset_status status = marks.plain->float_products(d, x, n);
    mark(d, FLOAT_PRODUCT);
    return status;
}

static inset_status marked_zero(device *d, void *at, size_t bytes)
{
    mark(d, -1);
    inset_status status = marks.plain->zero(d, at, bytes);
    mark(d, ZERO);
    return status;
}

static void marks_start(device *base)
{
    static device_functions functions;
    cuda_device *d = (cuda_device *)base;
    marks.plain = base->functions;
    functions = *base->functions;
    functions.launch = marked_launch;
    functions.matmul = marked_matmul;
    functions.matmul_gelu = marked_gelu;
    functions.zero = marked_zero;
    functions.float_products = marked_float_products;
    functions.capture_begin = NULL; /* runs are launched one by one */
    functions.replay = NULL;
    marks.capacity = 32768;
    marks.events = calloc(2 * (size_t)marks.capacity, sizeof *marks.events);
    marks.sorts = calloc((size_t)marks.capacity, sizeof *marks.sorts);
    marks.n = 0;
    for (int i = 0; i < 2 * marks.capacity; i++)
        gpu_good(d->library.cudaEventCreateWithFlags(&marks.events[i], 0), "an event");
    base->functions = &functions;
}

static void marks_end(device *base, const char *what)
{
    static double time[SORTS];
    static int launches[SORTS];
    cuda_device *d = (cuda_device *)base;
    double all = 0;
    base->functions = marks.plain;
    memset(time, 0, sizeof time);
    memset(launches, 0, sizeof launches);
    gpu_need(base->context, device_synchronize(base));
    for (int i = 0; i < marks.n; i++) {
        float milliseconds = 0;
        gpu_good(d->library.cudaEventElapsedTime(
                     &milliseconds, marks.events[2 * i], marks.events[2 * i + 1]),
            "a time");
        time[marks.sorts[i]] += (double)milliseconds;
        launches[marks.sorts[i]]++;
        all += (double)milliseconds;
    }
    printf("\n%s, launch by launch: %d launches, %.3f ms\n\n| work | launches | ms | share "
           "|\n|---|---|---|---|\n",
        what, marks.n, all);
    for (int i = 0; i < SORTS; i++) {
        if (!launches[i]) continue;
        const char *name = i == PRODUCT         ? "product"
                           : i == GELU_PRODUCT  ? "product with GELU"
                           : i == FLOAT_PRODUCT ? "products of edges"
                           : i == ZERO          ? "zero"
                                                : kernel_names[i % KERNEL_COUNT];
        printf("| %s%s | %d | %.3f | %.1f %% |\n", name ? name : "?",
            i >= KERNEL_COUNT && i < KERNEL_ALL ? " with records" : "", launches[i], time[i],
            100 * time[i] / all);
    }
    printf("\n");
    for (int i = 0; i < 2 * marks.capacity; i++) d->library.cudaEventDestroy(marks.events[i]);
    free(marks.events);
    free(marks.sorts);
    fflush(stdout);
}

/* ---- cases -------------------------------------------------------------- */

typedef struct subject {
    inset_context *context;
    inset_model *model;
    const char *name;
    int samples;
} subject;

static double run_forward(subject *s, int length, inset_plan **plan)
{
    int64_t lengths[] = {length}, tokens[MOST_TOKENS];
    inset_trace *trace;
    inset_value *value;
    inset_tensor saved;
    const char *site = strcmp(inset_model_kind(s->model), "gpt2") ? "lm_head.output[:, -1]"
                                                                  : "output.logits[:, -1]";
    const double start = seconds();
    if (!*plan) {
        fill_prompt(tokens, length);
        gpu_need(s->context, inset_trace_create(s->model, &trace));
        gpu_need(s->context, inset_invoke_tokens(trace, 1, lengths, tokens));
        gpu_need(s->context, inset_get(trace, site, &value));
        gpu_need(s->context, inset_save(trace, "logits", value));
        gpu_need(s->context, inset_plan_create(trace, NULL, plan));
    }
    gpu_need(s->context, inset_run(*plan));
    gpu_need(s->context, inset_saved(*plan, "logits", &saved));
    return seconds() - start;
}

static void forward_case(subject *s, int length)
{
    char what[256];
    inset_plan *plan = NULL, *once = NULL;
    for (int i = -3; i < s->samples; i++) {
        const double time = run_forward(s, length, &plan);
        if (i >= 0) printf("forward inset %s-%d %.9f\n", s->name, length, time);
    }
    marks_start(s->model->device);
    run_forward(s, length, &once);
    snprintf(what, sizeof what, "A forward of %s, T=%d", s->name, length);
    marks_end(s->model->device, what);
}

/* A forward of GPT-2's shape with and without 100 sets: 64 columns at each of 10 positions of 10
 * layers. */
static void records_case(subject *s, int length)
{
    char text[MOST_TOKENS * 8];
    for (int k = 0; k < 2; k++) {
        inset_trace *trace;
        inset_plan *plan;
        int at = snprintf(text, sizeof text, "with invoke([[");
        for (int i = 0; i < length; i++)
            at += snprintf(
                text + at, sizeof text - (size_t)at, "%s%d", i ? ", " : "", 7919 * (i + 1) % 50257);
        at += snprintf(text + at, sizeof text - (size_t)at, "]]):\n");
        if (k)
            at += snprintf(text + at, sizeof text - (size_t)at,
                "    for layer in range(10):\n        for p in range(10):\n"
                "            transformer.h[layer].output[:, p, 64:128] = "
                "transformer.h[layer].output[:, p, 0:64] * 0.5\n");
        at += snprintf(
            text + at, sizeof text - (size_t)at, "    logits = output.logits[:, -1].save()\n");
        gpu_need(s->context, inset_trace_create(s->model, &trace));
        gpu_need(s->context, inset_script(trace, "records.inset", NULL, text, (size_t)at));
        gpu_need(s->context, inset_plan_create(trace, NULL, &plan));
        for (int i = -3; i < 10 * s->samples; i++) {
            inset_tensor saved;
            const double start = seconds();
            gpu_need(s->context, inset_run(plan));
            gpu_need(s->context, inset_saved(plan, "logits", &saved));
            if (i >= 0)
                printf("records %s %s-%d %.9f\n", k ? "100" : "none", s->name, length,
                    seconds() - start);
        }
    }
}

/* A pair of prompts of `length` tokens that differ from the first on. */
static void fill_pair(int length, int64_t *clean, int64_t *corrupt)
{
    for (int k = 0; k < length; k++) {
        clean[k] = (int64_t)(7919 * (k + 1)) % 50257;
        corrupt[k] = (clean[k] + 1234) % 50257;
    }
}

static double run_sweep(
    subject *s, const char *site, int length, double *sum, inset_sweep_progress *progress)
{
    int64_t clean[MOST_TOKENS], corrupt[MOST_TOKENS], lengths[] = {length};
    const char *const metrics[] = {"logit_diff:11,12", NULL};
    inset_sweep *sweep;
    inset_sweep_result r;
    inset_sweep_options o = INSET_SWEEP_OPTIONS;
    fill_pair(length, clean, corrupt);
    o.clean = (inset_prompts){.count = 1, .lengths = lengths, .tokens = clean};
    o.corrupt = (inset_prompts){.count = 1, .lengths = lengths, .tokens = corrupt};
    o.patch = site;
    o.metrics = metrics;
    const double start = seconds();
    gpu_need(s->context, inset_sweep_create(s->model, &o, &sweep));
    const double created = seconds();
    while (!inset_sweep_done(sweep)) gpu_need(s->context, inset_sweep_step(sweep));
    const double stepped = seconds();
    gpu_need(s->context, inset_sweep_result_at(sweep, 0, &r));
    const double passed = seconds() - start;
    gpu_need(s->context, inset_sweep_progress_of(sweep, progress));
    *sum = 0;
    for (int64_t i = 0; i < r.pairs * r.points; i++) *sum += fabs(r.values[i]);
    inset_sweep_free(sweep);
    printf("phase %s-%s-%d created %.6f stepped %.6f freed %.6f\n", s->name, site, length,
        created - start, stepped - created, seconds() - start - passed);
    return passed;
}

static void sweep_case(subject *s, const char *site, int length)
{
    char what[256];
    double sum;
    inset_sweep_progress is = INSET_SWEEP_PROGRESS;
    for (int i = -1; i < s->samples; i++) {
        const double time = run_sweep(s, site, length, &sum, &is);
        if (i < 0) continue;
        printf("sweep inset %s-%s-%d %.9f\nplan inset %s-%s-%d %.9f\n", s->name, site, length, time,
            s->name, site, length, is.planning);
    }
    printf("rows inset %s-%s-%d %lld\nflops inset %s-%s-%d %.0f\ncheck inset %s-%s-%d %.6f\n",
        s->name, site, length, (long long)is.rows, s->name, site, length, is.flops, s->name, site,
        length, sum);
    marks_start(s->model->device);
    run_sweep(s, site, length, &sum, &is);
    snprintf(what, sizeof what, "A sweep of %s over %s, T=%d", s->name, site, length);
    marks_end(s->model->device, what);
}

/* steps < 0: nodes; else edges, with 0 steps EAP. *sum: of all sizes. */
static double run_attribution(subject *s, int steps, int length, double *sum)
{
    int64_t clean[MOST_TOKENS], corrupt[MOST_TOKENS], lengths[] = {length};
    const char *const metrics[] = {"logit_diff:11,12", NULL};
    inset_attribution_options o = INSET_ATTRIBUTION_OPTIONS;
    fill_pair(length, clean, corrupt);
    o.sweep.clean = (inset_prompts){.count = 1, .lengths = lengths, .tokens = clean};
    o.sweep.corrupt = (inset_prompts){.count = 1, .lengths = lengths, .tokens = corrupt};
    o.sweep.metrics = metrics;
    o.steps = steps > 0 ? steps : 0;
    *sum = 0;
    double passed, start = seconds();
    if (steps < 0) {
        inset_sweep *nodes;
        inset_sweep_result r;
        o.sweep.patch = "resid_pre,z";
        gpu_need(s->context, inset_attribution_create(s->model, &o, &nodes));
        while (!inset_sweep_done(nodes)) gpu_need(s->context, inset_sweep_step(nodes));
        passed = seconds() - start;
        gpu_need(s->context, inset_sweep_result_at(nodes, 0, &r));
        for (int64_t i = 0; i < r.pairs * r.points; i++) *sum += fabs(r.values[i]);
        inset_sweep_free(nodes);
        return passed;
    }
    inset_edges *edges;
    inset_edge_result r;
    gpu_need(s->context, inset_edges_create(s->model, &o, 0, &edges));
    while (!inset_edges_done(edges)) gpu_need(s->context, inset_edges_step(edges));
    passed = seconds() - start;
    gpu_need(s->context, inset_edges_result(edges, 0, &r));
    for (int64_t i = 0; i < r.sources * r.destinations; i++) *sum += fabs((double)r.mean[i]);
    inset_edges_free(edges);
    return passed;
}

static void attribution_case(subject *s, const char *sort, int steps, int length)
{
    char what[256];
    double sum;
    for (int i = -1; i < s->samples; i++) {
        const double time = run_attribution(s, steps, length, &sum);
        if (i >= 0) printf("%s inset %s-%d %.9f\n", sort, s->name, length, time);
    }
    printf("check inset %s-%s-%d %.6f\n", s->name, sort, length, sum);
    marks_start(s->model->device);
    run_attribution(s, steps, length, &sum);
    snprintf(what, sizeof what, "Scores of %s of %s, T=%d", sort, s->name, length);
    marks_end(s->model->device, what);
}

int main(int count, char **arguments)
{
    subject s = {.samples = 5};
    void *numbers;
    char name[64];
    int at = 4;
    if (count < 5 || inset_context_create(NULL, &s.context)) return 2;
    inset_model_options options = INSET_MODEL_OPTIONS;
    const bool fast = !strcmp(arguments[at], "-f");
    at += fast;
    if (!strcmp(arguments[at], "-w") && count > at + 2)
        options.weight_memory = (size_t)(atof(arguments[at + 1]) * 0x1p30), at += 2;
    if (!strcmp(arguments[at], "-n") && count > at + 2)
        s.samples = atoi(arguments[at + 1]), at += 2;
    const inset_type type = !strcmp(arguments[3], "bf16")  ? INSET_BF16
                            : !strcmp(arguments[3], "f16") ? INSET_F16
                                                           : INSET_F32;
    const char *slash = strrchr(arguments[2], '/');
    snprintf(name, sizeof name, "%s-%s%s%s", slash ? slash + 1 : arguments[2], type_name(type),
        fast ? "-fast" : "", options.weight_memory ? "-streamed" : "");
    options.device = arguments[1];
    options.dtype = type_name(type);
    options.fast = fast;
    s.name = name;
    gpu_need(s.context, gpu_model(s.context, arguments[2], type, &options, &numbers, &s.model));
    for (; at < count; at++) {
        char *sort = arguments[at], *site = strchr(sort, '-'), *length = strrchr(sort, '-');
        if (!site || atoi(length + 1) < 1 || atoi(length + 1) > MOST_TOKENS) return 2;
        if (!strncmp(sort, "forward-", 8)) forward_case(&s, atoi(length + 1));
        else if (!strncmp(sort, "records-", 8)) records_case(&s, atoi(length + 1));
        else if (!strncmp(sort, "nodes-", 6)) attribution_case(&s, "nodes", -1, atoi(length + 1));
        else if (!strncmp(sort, "edges-", 6)) attribution_case(&s, "edges", 0, atoi(length + 1));
        else if (!strncmp(sort, "ig5-", 4)) attribution_case(&s, "ig5", 5, atoi(length + 1));
        else {
            *length = 0;
            sweep_case(&s, site + 1, atoi(length + 1));
        }
        fflush(stdout);
    }
    inset_context_free(s.context);
    free(numbers);
    return 0;
}
