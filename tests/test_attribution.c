/* test_attribution.c: what must hold of attributions whatever their numbers are: integrated
 * gradients add up to what the metric changes by, sharing and memory limits change nothing,
 * verifying gives the sweep's numbers, and what cannot be estimated is refused. Numbers beside
 * autograd's are in fixtures/MODEL/cases/gradients_*. */
#include "test.h"

#include <inset.h>
#include <stdlib.h>
#include <unistd.h>

static const char clean[] = "[[11, 3, 42, 7, 55, 20, 33, 9, 3], [5, 8, 21, 30, 2, 17, 40, 6, 8]]",
                  corrupt[] =
                      "[[11, 50, 42, 7, 55, 20, 33, 9, 3], [5, 31, 21, 30, 2, 17, 40, 6, 8]]";

static inset_attribution_options options_of(const char *patch)
{
    static const char *const metrics[] = {"logit_diff:42,55", NULL};
    inset_attribution_options o = INSET_ATTRIBUTION_OPTIONS;
    o.sweep.clean.text = clean;
    o.sweep.corrupt.text = corrupt;
    o.sweep.patch = patch;
    o.sweep.metrics = metrics;
    return o;
}

/* All scores of the first result, [pairs * points], to be freed; NULL and a failed check. */
static float *scores_of(
    inset_model *model, inset_context *context, const inset_attribution_options *o, int64_t *n)
{
    inset_sweep *made = NULL;
    inset_sweep_result r;
    inset_status status = inset_attribution_create(model, o, &made);
    while (!status && !inset_sweep_done(made)) status = inset_sweep_step(made);
    if (!status) status = inset_sweep_result_at(made, 0, &r);
    if (!CHECK(!status, "%s: %s", o->sweep.patch, inset_message(context))) return NULL;
    *n = r.pairs * r.points;
    float *copy = malloc((size_t)*n * sizeof *copy);
    if (!copy) abort();
    memcpy(copy, r.values, (size_t)*n * sizeof *copy);
    inset_sweep_free(made);
    return copy;
}

static double distance(const float *a, const float *b, int64_t n)
{
    double apart = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        apart += (a[i] - b[i]) * (a[i] - b[i]);
        size += b[i] * b[i];
    }
    return sqrt(apart / size);
}

/* Sharing, and a memory limit that cuts the pairs into chunks, give the same numbers. */
static void the_same_numbers(inset_context *context, inset_model *model)
{
    static const char *const patches[] = {"resid_pre", "z", "k", "mlp_out"};
    for (size_t i = 0; i < sizeof patches / sizeof *patches; i++)
        for (int method = 0; method < 4; method++) {
            int64_t n, m;
            inset_attribution_options o = options_of(patches[i]);
            o.sweep.by = i % 2 ? NULL : "layer,position";
            o.steps = method == 1 ? 3 : 0;
            o.ends = method == 2;
            o.graddrop = method == 3;
            float *plain = scores_of(model, context, &o, &n);
            o.sweep.no_share = 1;
            float *apart = scores_of(model, context, &o, &m);
            o.sweep.no_share = 0;
            o.sweep.memory_limit = 230000;
            float *limited = scores_of(model, context, &o, &m);
            if (plain && apart && limited) {
                CHECK(distance(apart, plain, n) < 1e-5, "%s, method %d: %g apart without sharing",
                    patches[i], method, distance(apart, plain, n));
                CHECK(distance(limited, plain, n) < 1e-5, "%s, method %d: %g apart in chunks",
                    patches[i], method, distance(limited, plain, n));
            }
            free(plain);
            free(apart);
            free(limited);
        }
}

/* Integrated gradients of the stream before the first layer add up to the difference of the metric
 * between the two runs (Sundararajan et al. 2017, completeness). */
static void completeness(inset_context *context, inset_model *model)
{
    inset_attribution_options o = options_of("resid_pre");
    inset_sweep *made = NULL;
    inset_sweep_result r;
    o.sweep.layers = "0";
    o.steps = 300;
    inset_status status = inset_attribution_create(model, &o, &made);
    while (!status && !inset_sweep_done(made)) status = inset_sweep_step(made);
    if (!status) status = inset_sweep_result_at(made, 0, &r);
    if (!CHECK(!status, "%s", inset_message(context))) return;
    for (int64_t pair = 0; pair < r.pairs; pair++) {
        double sum = 0, change = r.clean[pair] - r.corrupt[pair];
        for (int64_t i = 0; i < r.points; i++) sum += r.values[pair * r.points + i];
        CHECK(fabs(sum - change) < 0.02 * fabs(change) + 0.02,
            "pair %d: scores add up to %g, not %g", (int)pair, sum, change);
    }
    inset_sweep_free(made);
}

/* z is linear in the pattern, and in the values: zeroing a row of the pattern changes to first
 * order what zeroing that z changes. */
static void patterns(inset_context *context, inset_model *model)
{
    static const char *const patches[2] = {"z", "pattern"};
    float *scores[2];
    int64_t n[2] = {0};
    for (int k = 0; k < 2; k++) {
        inset_attribution_options o = options_of(patches[k]);
        o.sweep.source = "zero";
        o.sweep.by = k ? "layer,head,destination" : "layer,head,position";
        scores[k] = scores_of(model, context, &o, &n[k]);
    }
    if (scores[0] && scores[1])
        CHECK(n[0] == n[1] && distance(scores[1], scores[0], n[0]) < 1e-5,
            "pattern and z, zeroed, are %g apart", distance(scores[1], scores[0], n[0]));
    free(scores[0]);
    free(scores[1]);
}

/* ---- a model that is linear --------------------------------------------- */

enum { V = 11, P = 6, D = 6, H = 2, HD = 3 };
typedef struct linear_block {
    float qkv[3 * D * D], proj[D * D], mlp[D * D];
} linear_block;

/* Queries are 0, so that attention is a mean of values; no norm, no activation. */
static inset_slot add_block(inset_builder *b, const char *name, inset_slot x, linear_block *w)
{
    for (int i = 0; i < D * D; i++) w->qkv[i] = 0;
    x = inset_builder_enter(b, name, x);
    inset_slot y = inset_builder_enter(b, "attn", x);
    y = inset_builder_linear(b, "qkv", y, INSET_TENSOR(w->qkv, INSET_F32, 3 * D, D), NULL);
    inset_slot q = inset_builder_view(b, "q", y, 0, H, HD),
               k = inset_builder_view(b, "k", y, D, H, HD),
               v = inset_builder_view(b, "v", y, 2 * D, H, HD);
    y = inset_builder_view(b, "z", inset_builder_attention(b, q, k, v, H, H, HD), 0, H, HD);
    y = inset_builder_leave(
        b, inset_builder_linear(b, "proj", y, INSET_TENSOR(w->proj, INSET_F32, D, D), NULL));
    x = inset_builder_add(b, x, y);
    y = inset_builder_linear(b, "mlp", x, INSET_TENSOR(w->mlp, INSET_F32, D, D), NULL);
    return inset_builder_leave(b, inset_builder_add(b, x, y));
}

static inset_model *linear_model(inset_context *context)
{
    static linear_block blocks[2];
    static float wte[V * D], head[V * D];
    uint64_t random = 5;
    float *const lists[] = {wte, head, blocks[0].qkv, blocks[1].qkv};
    const size_t sizes[] = {
        V * D, V * D, sizeof blocks[0] / sizeof(float), sizeof blocks[1] / sizeof(float)};
    for (int k = 0; k < 4; k++)
        for (size_t i = 0; i < sizes[k]; i++) lists[k][i] = (float)test_uniform(&random);
    inset_builder *b = NULL;
    inset_model *model = NULL;
    inset_model_options options = INSET_MODEL_OPTIONS;
    options.device = "cpu";
    inset_status status = inset_builder_create(context, &b);
    inset_slot x = inset_builder_embed(
        b, "wte", inset_builder_tokens(b, V, P), INSET_TENSOR(wte, INSET_F32, V, D));
    x = add_block(b, "h.0", x, &blocks[0]);
    x = add_block(b, "h.1", x, &blocks[1]);
    x = inset_builder_linear(b, "head", x, INSET_TENSOR(head, INSET_F32, V, D), NULL);
    if (!status) status = inset_builder_finish(b, x, &options, &model);
    CHECK(!status, "the linear model: %s", inset_message(context));
    return model;
}

/* Where everything is linear, the estimate is the effect. */
static void exact_where_linear(inset_context *context)
{
    static const char *const patches[] = {"resid_pre", "attn_out", "mlp_out", "z", "v"};
    inset_model *model = linear_model(context);
    for (size_t i = 0; model && i < sizeof patches / sizeof *patches; i++) {
        static const char *const metrics[] = {"logit_diff:3,5", NULL};
        inset_attribution_options o = options_of(patches[i]);
        o.sweep.clean.text = "[[1, 4, 2, 7, 9, 3]]";
        o.sweep.corrupt.text = "[[1, 5, 2, 8, 9, 10]]";
        o.sweep.metrics = metrics;
        int64_t n;
        float *scores = scores_of(model, context, &o, &n);
        inset_sweep *sweep = NULL;
        inset_sweep_result r;
        inset_status status = inset_sweep_create(model, &o.sweep, &sweep);
        while (!status && !inset_sweep_done(sweep)) status = inset_sweep_step(sweep);
        if (!status) status = inset_sweep_result_at(sweep, 0, &r);
        if (CHECK(
                !status && scores && r.points == n, "%s: %s", patches[i], inset_message(context))) {
            float *effects = malloc((size_t)n * sizeof *effects);
            for (int64_t k = 0; k < n; k++) effects[k] = r.values[k] - r.corrupt[0];
            CHECK(distance(scores, effects, n) < 1e-5,
                "%s of a linear model: AtP is %g from the sweep", patches[i],
                distance(scores, effects, n));
            free(effects);
        }
        free(scores);
        inset_sweep_free(sweep);
    }
    inset_model_free(model);
}

/* Exact effects of the points with the largest scores are the sweep's. */
static void verified(inset_context *context, inset_model *model)
{
    inset_attribution_options o = options_of("z");
    inset_sweep *made = NULL, *sweep = NULL;
    inset_sweep_result exact;
    const inset_verified *found;
    size_t n = 0;
    double rank = 0;
    inset_status status = inset_attribution_create(model, &o, &made);
    while (!status && !inset_sweep_done(made)) status = inset_sweep_step(made);
    if (!status) status = inset_attribution_verify(made, 5, &found, &n, &rank);
    if (!status) status = inset_sweep_create(model, &o.sweep, &sweep);
    while (!status && !inset_sweep_done(sweep)) status = inset_sweep_step(sweep);
    if (!status) status = inset_sweep_result_at(sweep, 0, &exact);
    if (!CHECK(!status, "%s", inset_message(context))) return;
    /* other points than before: no plan of theirs may be taken again */
    status = inset_attribution_verify(made, 3, &found, &n, &rank);
    CHECK(!status && n == 3, "verified again: %d points, %s", (int)n, inset_message(context));
    if (!status) status = inset_attribution_verify(made, 5, &found, &n, &rank);
    CHECK(n == 5 && rank >= -1 && rank <= 1, "%d points, rank %g", (int)n, rank);
    const int64_t heads = exact.axes[1].count;
    double base = 0;
    for (int64_t pair = 0; pair < exact.pairs; pair++)
        base += exact.corrupt[pair] / (double)exact.pairs;
    for (size_t i = 0; i < n; i++) {
        const double want = exact.mean[found[i].at[0] * heads + found[i].at[1]] - base;
        CHECK(fabs(found[i].exact - want) < 1e-4 * (1 + fabs(want)),
            "layer %d head %d: %g, the sweep says %g", (int)found[i].at[0], (int)found[i].at[1],
            found[i].exact, want);
    }
    CHECK(inset_attribution_verify(sweep, 5, &found, &n, &rank) == INSET_USAGE_ERROR,
        "a sweep was verified");
    inset_sweep_free(made);
    inset_sweep_free(sweep);
}

/* Interrupted after its first pairs, an attribution goes on from its state to the same numbers. */
static void resumed(inset_context *context, inset_model *model)
{
    char state[] = "/tmp/inset-attribution-XXXXXX";
    const int made = mkstemp(state);
    inset_attribution_options o = options_of("z");
    inset_sweep *begun = NULL;
    int64_t n, m;
    if (!CHECK(made >= 0, "no file for the state")) return;
    close(made);
    unlink(state);
    enum { PAIRS = 40, LENGTH = 9 };
    int64_t lengths[PAIRS], tokens[2][PAIRS * LENGTH];
    for (int i = 0; i < PAIRS * LENGTH; i++) {
        lengths[i / LENGTH] = LENGTH;
        tokens[0][i] = tokens[1][i] = (i * 37 + i / LENGTH * 11) % 60;
        if (i % LENGTH == 1) tokens[1][i] = (tokens[0][i] + 7) % 60;
    }
    o.sweep.clean = (inset_prompts){.count = PAIRS, .lengths = lengths, .tokens = tokens[0]};
    o.sweep.corrupt = (inset_prompts){.count = PAIRS, .lengths = lengths, .tokens = tokens[1]};
    o.sweep.memory_limit = 150000; /* the scores of all do not fit at once */
    float *whole = scores_of(model, context, &o, &n);
    o.sweep.state = state;
    inset_status status = inset_attribution_create(model, &o, &begun);
    if (!status) status = inset_sweep_step(begun);
    CHECK(!status && !inset_sweep_done(begun), "not interrupted: %s", inset_message(context));
    inset_sweep_free(begun);
    o.sweep.resume = 1;
    float *rest = scores_of(model, context, &o, &m);
    if (whole && rest)
        CHECK(n == m && !memcmp(whole, rest, (size_t)n * sizeof *whole), "resumed: other numbers");
    o.steps = 2; /* another method's state is refused */
    begun = NULL;
    status = inset_attribution_create(model, &o, &begun);
    CHECK(status, "the state of AtP was taken for integrated gradients");
    inset_sweep_free(begun);
    unlink(state);
    free(whole);
    free(rest);
}

/* A plan with gradients that is given other tokens and answers is the plan of those. */
static void other_inputs(inset_context *context, inset_model *model)
{
    static const char text[] =
        "with invoke([[%d, 3, 42, 7]]):\n    x = transformer.h[0].output\n    m = "
        "output.logits[0, -1].logit_diff(%d, 55)\n    with m.backward():\n        g = "
        "x.grad.save()\n";
    const int64_t tokens[] = {5, 3, 42, 7}, answers[] = {9, 55};
    float *numbers[2] = {NULL, NULL};
    int64_t n = 0;
    for (int k = 0; k < 2; k++) { /* told later, told at once */
        char script[512];
        inset_trace *trace = NULL;
        inset_plan *plan = NULL;
        inset_tensor g;
        snprintf(script, sizeof script, text, k ? 5 : 11, k ? 9 : 42);
        inset_status status = inset_trace_create(model, &trace);
        if (!status) status = inset_script(trace, "x", "", script, strlen(script));
        if (!status) status = inset_plan_create(trace, NULL, &plan);
        if (!status) status = inset_run(plan);
        if (!status && !k) status = inset_plan_tokens(plan, 0, 4, tokens);
        if (!status && !k) status = inset_plan_answers(plan, 0, 0, 2, answers);
        if (!status && !k) status = inset_run(plan);
        if (!status) status = inset_saved(plan, "g", &g);
        if (!CHECK(!status, "%s", inset_message(context))) return;
        n = g.shape[1] * g.shape[2];
        numbers[k] = malloc((size_t)n * sizeof(float));
        if (!numbers[k]) abort();
        memcpy(numbers[k], g.data, (size_t)n * sizeof(float));
        CHECK(inset_plan_tokens(plan, 1, 4, tokens) == INSET_INDEX_ERROR,
            "a shadow was taken for an invoke");
        inset_trace_free(trace);
    }
    CHECK(distance(numbers[0], numbers[1], n) < 1e-6, "other tokens: gradients %g apart",
        distance(numbers[0], numbers[1], n));
    free(numbers[0]);
    free(numbers[1]);
}

static void refused(inset_context *context, inset_model *model, inset_attribution_options o,
    inset_status want, const char *part)
{
    inset_sweep *made = NULL;
    const inset_status status = inset_attribution_create(model, &o, &made);
    CHECK(status == want && strstr(inset_message(context), part), "expected %s with '%s', found %s",
        inset_status_name(want), part, status ? inset_message(context) : "an attribution");
    inset_sweep_free(made);
}

static void refusals(inset_context *context, inset_model *model)
{
    static const char *const ranks[] = {"rank:3", NULL}, *const kls[] = {"kl", NULL};
    inset_attribution_options o = options_of("z");
    o.steps = -1;
    refused(context, model, o, INSET_VALUE_ERROR, "-1 steps");
    o.steps = 3, o.ends = 1;
    refused(context, model, o, INSET_USAGE_ERROR, "two methods");
    o = options_of("z"), o.rules = "ln,hlf";
    refused(context, model, o, INSET_VALUE_ERROR, "'hlf' is no rule");
    o = options_of("z"), o.qk = 1;
    refused(context, model, o, INSET_USAGE_ERROR, "q and k");
    o = options_of("z"), o.sweep.metrics = ranks;
    refused(context, model, o, INSET_VALUE_ERROR, "no gradient");
    o = options_of("z"), o.sweep.metrics = kls;
    refused(context, model, o, INSET_VALUE_ERROR, "unpatched run");
    o = options_of("z"), o.rules = "relp", o.graddrop = 1;
    refused(context, model, o, INSET_USAGE_ERROR, "two methods");
}

int main(void)
{
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_model_options cpu = INSET_MODEL_OPTIONS;
    cpu.device = getenv("INSET_TEST_DEVICE") ? getenv("INSET_TEST_DEVICE") : "cpu";
    inset_status status = inset_context_create(NULL, &context);
    if (!status) status = inset_model_open(context, "fixtures/induction", &cpu, &model);
    if (status == INSET_DEVICE_ERROR && strcmp(cpu.device, "cpu")) {
        fprintf(stderr, "%s\n", inset_message(context));
        inset_context_free(context);
        return TEST_SKIP;
    }
    if (!CHECK(!status, "%s", inset_message(context))) return test_result();
    the_same_numbers(context, model);
    completeness(context, model);
    verified(context, model);
    patterns(context, model);
    exact_where_linear(context);
    resumed(context, model);
    other_inputs(context, model);
    refusals(context, model);
    inset_context_free(context);
    return test_result();
}
