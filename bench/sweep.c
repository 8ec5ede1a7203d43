/* sweep.c: activation patching sweeps of GPT-2 small's shape, and what bounds them. bench/run_sweep
 * runs it beside its peers.
 *
 *     bench_sweep GPT2 [-d DEVICE] [-n SAMPLES] CASE...
 *
 * Lines, times in seconds: "sweep inset CASE TIME" from options to results, planning included;
 * "sweep script CASE TIME" the same as a double loop in a trace script; "plan", "rows", "flops" of
 * a case; "product onednn 1024 TIME" for one block's matrix products at 1024 rows, and "product
 * flops 1024 N"; "memory inset CASE BYTES", the most memory that the process had. Cases:
 * resid_pre-0 (prompts that differ from the first token), resid_pre-10 (from the eleventh), z-0,
 * attn_head_out_by_pos-0 (2160 points, no script), and any of them with -T30 or -P4 behind it for
 * 30 tokens or 4 pairs. */
#include "bench.h"

#include <math.h>

#include "base/base.h"
#include "device/device.h"
#include "inset.h"

enum {
    LAYERS = 12,
    WIDTH = 768,
    VOCABULARY = 50257,
    TOKEN_A = 11,
    TOKEN_B = 12,
    MOST_TOKENS = 128,
    MOST_PAIRS = 16
};

typedef struct sweep_case {
    const char *name;
    char site[32];
    int differ, tokens, pairs;
} sweep_case;

static int fail(inset_context *context)
{
    fprintf(stderr, "%s\n", inset_message(context));
    return 1;
}

static bool read_case(const char *name, sweep_case *out)
{
    const char *dash = strchr(name, '-'), *tokens = strstr(name, "-T"), *pairs = strstr(name, "-P");
    if (!dash || dash - name >= (long)sizeof out->site) return false;
    *out = (sweep_case){.name = name,
        .differ = atoi(dash + 1),
        .tokens = tokens ? atoi(tokens + 2) : 15,
        .pairs = pairs ? atoi(pairs + 2) : 1};
    memcpy(out->site, name, (size_t)(dash - name));
    return out->tokens > 0 && out->tokens <= MOST_TOKENS && out->pairs > 0
           && out->pairs <= MOST_PAIRS;
}

/* Pair `i`'s prompts; sweep.py makes the same. */
static void fill_pair(const sweep_case *c, int i, int64_t *clean, int64_t *corrupt)
{
    for (int k = 0; k < c->tokens; k++) {
        clean[k] = (int64_t)(7919 * (k + 1) + 104729 * i) % VOCABULARY;
        corrupt[k] = k < c->differ ? clean[k] : (clean[k] + 1234) % VOCABULARY;
    }
}

/* ---- the sweep ---------------------------------------------------------- */

static inset_status run_sweep(
    inset_model *model, const sweep_case *c, double *sum, inset_sweep_progress *is)
{
    int64_t clean[MOST_PAIRS * MOST_TOKENS], corrupt[MOST_PAIRS * MOST_TOKENS], lengths[MOST_PAIRS];
    const char *const metrics[] = {"logit_diff:11,12", NULL};
    inset_sweep *sweep = NULL;
    inset_sweep_result r;
    inset_sweep_options o = INSET_SWEEP_OPTIONS;
    for (int i = 0; i < c->pairs; i++) {
        fill_pair(c, i, clean + i * c->tokens, corrupt + i * c->tokens);
        lengths[i] = c->tokens;
    }
    o.clean = (inset_prompts){.count = c->pairs, .lengths = lengths, .tokens = clean};
    o.corrupt = (inset_prompts){.count = c->pairs, .lengths = lengths, .tokens = corrupt};
    o.patch = c->site;
    o.metrics = metrics;
    inset_status status = inset_sweep_create(model, &o, &sweep);
    while (!status && !inset_sweep_done(sweep)) status = inset_sweep_step(sweep);
    if (!status) status = inset_sweep_result_at(sweep, 0, &r);
    if (!status) status = inset_sweep_progress_of(sweep, is);
    *sum = 0;
    for (int64_t i = 0; !status && i < r.pairs * r.points; i++) *sum += fabs(r.values[i]);
    inset_sweep_free(sweep);
    return status;
}

static int bench_case(inset_context *context, inset_model *model, const sweep_case *c, int samples)
{
    double sum = 0;
    for (int i = -1; i < samples; i++) {
        inset_sweep_progress is = INSET_SWEEP_PROGRESS;
        double start = seconds();
        if (run_sweep(model, c, &sum, &is)) return fail(context);
        double passed = seconds() - start;
        if (i < 0) continue;
        printf("sweep inset %s %.9f\nplan inset %s %.9f\n", c->name, passed, c->name, is.planning);
        if (i == 0)
            printf("rows inset %s %lld\nflops inset %s %.0f\n", c->name, (long long)is.rows,
                c->name, is.flops);
    }
    printf("check inset %s %.6f\nmemory inset %s %.0f\n", c->name, sum, c->name,
        process_bytes("VmHWM"));
    fflush(stdout);
    return 0;
}

/* ---- the same as a script ----------------------------------------------- */

static void write_prompt(char *out, size_t size, const int64_t *tokens, int count)
{
    size_t n = (size_t)snprintf(out, size, "[[");
    for (int k = 0; k < count; k++)
        n += (size_t)snprintf(out + n, size - n, "%s%lld", k ? ", " : "", (long long)tokens[k]);
    snprintf(out + n, size - n, "]]");
}

static void write_script(const sweep_case *c, char *out, size_t size)
{
    int64_t clean[MOST_TOKENS], corrupt[MOST_TOKENS];
    char a[2048], b[2048];
    bool z = !strcmp(c->site, "z");
    const char *site = z ? "attn.z" : "input", *inner = z ? "head" : "pos",
               *index = z ? ":, :, head" : ":, pos";
    int count = z ? 12 : c->tokens;
    fill_pair(c, 0, clean, corrupt);
    write_prompt(a, sizeof a, clean, c->tokens);
    write_prompt(b, sizeof b, corrupt, c->tokens);
    snprintf(out, size,
        "score = zeros(%d, %d)\n"
        "with invoke(%s):\n"
        "    source = []\n"
        "    for layer in range(%d):\n"
        "        source.append(transformer.h[layer].%s)\n"
        "for layer in range(%d):\n"
        "    for %s in range(%d):\n"
        "        with invoke(%s):\n"
        "            transformer.h[layer].%s[%s] = source[layer][%s]\n"
        "            logits = lm_head.output[0, -1]\n"
        "            score[layer, %s] = logits[%d] - logits[%d]\n"
        "score.save()\n",
        LAYERS, count, a, LAYERS, site, LAYERS, inner, count, b, site, index, index, inner, TOKEN_A,
        TOKEN_B);
}

static inset_status run_script(inset_model *model, const char *text, double *sum)
{
    inset_trace *trace = NULL;
    inset_plan *plan = NULL;
    inset_tensor saved;
    inset_status status = inset_trace_create(model, &trace);
    if (!status) status = inset_script(trace, "sweep.inset", NULL, text, strlen(text));
    if (!status) status = inset_plan_create(trace, NULL, &plan);
    if (!status) status = inset_run(plan);
    if (!status) status = inset_saved(plan, "score", &saved);
    *sum = 0;
    for (int64_t i = 0; !status && i < inset_tensor_count(&saved); i++)
        *sum += fabs(inset_tensor_element(&saved, i));
    inset_trace_free(trace);
    return status;
}

static int bench_script(
    inset_context *context, inset_model *model, const sweep_case *c, int samples)
{
    char text[8192];
    double sum = 0;
    if (c->pairs > 1 || !strncmp(c->site, "attn", 4)) return 0;
    write_script(c, text, sizeof text);
    for (int i = -1; i < samples; i++) {
        double start = seconds();
        if (run_script(model, text, &sum)) return fail(context);
        if (i >= 0) printf("sweep script %s %.9f\n", c->name, seconds() - start);
    }
    printf("check script %s %.6f\n", c->name, sum);
    fflush(stdout);
    return 0;
}

/* ---- the product -------------------------------------------------------- */

/* The matrix products of one block on packed weights, nothing else: the rate that a sweep could
 * reach at most. */
static int bench_product(inset_context *context, const char *device_name, int samples)
{
    enum { ROWS = 1024 };
    static const int64_t shapes[4][2] = {
        {WIDTH, 3 * WIDTH}, {WIDTH, WIDTH}, {WIDTH, 4 * WIDTH}, {4 * WIDTH, WIDTH}};
    device *d = NULL;
    matrix *m[4] = {NULL};
    void *x = NULL, *y = NULL;
    size_t bytes = (size_t)ROWS * 4 * WIDTH * sizeof(float);
    double flops = 0;
    float *weight = calloc((size_t)4 * WIDTH * WIDTH, sizeof *weight);
    inset_status status = weight ? device_open(context, device_name, &d) : INSET_NO_MEMORY;
    if (!status) status = device_allocate(d, bytes, &x);
    if (!status) status = device_allocate(d, bytes, &y);
    if (!status) status = device_zero(d, x, bytes);
    for (int k = 0; k < 4 && !status; k++) {
        status = device_matrix_create(d, INSET_F32, shapes[k][0], shapes[k][1], weight, INSET_F32,
            true, NULL, INSET_F32, &m[k]);
        flops += 2.0 * ROWS * (double)shapes[k][0] * (double)shapes[k][1];
    }
    for (int i = -3; i < 5 * samples && !status; i++) {
        double start = seconds();
        for (int k = 0; k < 4 && !status; k++)
            status = device_matmul(d, m[k], x, shapes[k][0], y, shapes[k][1], ROWS);
        if (!status) status = device_synchronize(d);
        if (i >= 0 && !status) printf("product onednn 1024 %.9f\n", seconds() - start);
    }
    printf("product flops 1024 %.0f\n", flops);
    for (int k = 0; k < 4; k++) device_matrix_free(d, m[k]);
    if (x) device_release(d, x, bytes);
    if (y) device_release(d, y, bytes);
    device_close(d);
    free(weight);
    return status ? fail(context) : 0;
}

int main(int count, char **arguments)
{
    int samples = 5, failed = 0;
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_model_options options = INSET_MODEL_OPTIONS;
    options.device = "cpu";
    if (count < 3 || inset_context_create(NULL, &context)) return 2;
    int at = 2;
    for (; at + 1 < count && arguments[at][0] == '-'; at += 2) {
        if (!strcmp(arguments[at], "-d")) options.device = arguments[at + 1];
        else if (!strcmp(arguments[at], "-n")) samples = atoi(arguments[at + 1]);
        else return 2;
    }
    if (inset_model_open(context, arguments[1], &options, &model)) return fail(context);
    fprintf(stderr, "inset %s on %s\n", inset_version(), inset_model_device(model));
    printf("memory inset loaded %.0f\n", process_bytes("VmHWM"));
    for (; at < count && !failed; at++) {
        sweep_case c;
        if (!read_case(arguments[at], &c)) return 2;
        failed = bench_case(context, model, &c, samples);
        if (!failed && c.tokens == 15) failed = bench_script(context, model, &c, samples);
    }
    if (!failed) failed = bench_product(context, options.device, samples);
    inset_context_free(context);
    return failed;
}
