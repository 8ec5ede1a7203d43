/* test_planner.c: the planner against a plain executor (plain_executor.h), on random traces and on sweeps.
 *
 *   numbers     what a run saves is what executing the trace literally gives; with sharing and without
 *   rows        the rows that each step computes are the least that any executor must compute
 *   sweeps      the same, for the patching studies that the planner is made for; and the number of strands stays in proportion to the patches
 *   memory      every allocation of building, planning and running a trace fails once: the answer is INSET_NO_MEMORY, and nothing leaks
 *
 * test_planner [-m MODEL] [-n COUNT] [-v] [SEED]: random traces from SEED on, for longer hunts; -v shows them. A failure names model and seed. */
#include "plain_executor.h"
#include "plan/plan.h"
#include "random_traces.h"
#include "run/run.h"
#include "world.h"

typedef struct bench {
    inset_context *context;
    const char *name;
    struct inset_model *model;
    void *numbers;
} bench;

static bool bench_start(bench *b, inset_context *context, const char *name)
{
    const char *device = getenv("INSET_TEST_DEVICE");
    *b = (bench){.context = context, .name = name};
    inset_status status = tiny_model(context, name, device ? device : "cpu", 7, &b->model, &b->numbers);
    return CHECK(!status, "%s: %s", name, inset_message(context));
}

static void bench_end(bench *b)
{
    model_free(b->model);
    free(b->numbers);
}

/* ---- showing a trace, with -v -------------------------------------------------------------------------------------------------------------- */

static bool verbose, skip_rows, skip_numbers;

static void show_view(const trace *t, const view *v)
{
    static const char kinds[] = "srC";
    const storage *s = &t->storages[v->storage];
    printf("#%d", v->storage);
    if (s->kind == STORAGE_VALUE) printf("=%d.%d", s->invoke, s->value);
    printf(":%s(", type_name(s->type));
    for (int d = 0; d < v->n_dimensions; d++)
        printf("%s%lld%c%s*%lld", d ? ", " : "", (long long)v->dimensions[d].extent, kinds[v->dimensions[d].kind], v->dimensions[d].ragged ? "~" : "",
               (long long)v->dimensions[d].stride);
    printf(" +%lld", (long long)v->column);
    for (int32_t i = 0; i < v->n_spans && i < 8; i++) printf(" %d[%d:%d]", v->spans[i].sequence, v->spans[i].start, v->spans[i].count);
    printf(")");
}

static void show_source(const trace *t, const source *s)
{
    if (s->view) show_view(t, s->view);
    else printf("%g", s->number);
}

static void show_trace(const trace *t)
{
    const program *g = t->program;
    for (size_t i = 0; i < g->n_steps; i++) {
        printf("step %zu kind %d value %d:", i, g->steps[i].kind, g->steps[i].value);
        for (int k = 0; k < g->steps[i].n_operands; k++)
            printf(" slot %d (value %d, column %d)", g->steps[i].operands[k], g->slots[g->steps[i].operands[k]].value, g->slots[g->steps[i].operands[k]].shape.column);
        printf("\n");
    }
    for (size_t i = 0; i < t->n_invokes; i++) {
        const invoke *v = &t->invokes[i];
        printf("invoke %zu, to event %d:", i, v->current_event);
        for (int32_t s = 0, at = 0; s < v->n_sequences; s++, printf(" |"))
            for (int32_t r = 0; r < v->lengths[s]; r++, at++) printf(" %lld", v->tokens ? (long long)v->tokens[at] : 0ll);
        printf("\n");
        for (size_t k = 0; k < v->n_rebindings; k++) {
            printf("  slot %d of value %d is ", v->rebindings[k].slot, g->slots[v->rebindings[k].slot].value);
            show_view(t, v->rebindings[k].view);
            printf("\n");
        }
        for (size_t k = 0; k < v->n_skips; k++) printf("  skips %s\n", g->modules[v->skips[k].module].path);
        for (size_t k = v->first_record; k < v->first_record + v->n_records; k++) {
            const trace_record *r = &t->records[k];
            printf("  event %d: ", r->event);
            show_view(t, r->target);
            printf(r->kind == TRACE_SET ? " set " : " is made by op %d of ", r->op);
            show_source(t, &r->a);
            printf(", ");
            show_source(t, &r->b);
            printf("\n");
        }
    }
    for (size_t i = 0; i < t->n_saves; i++)
        for (size_t k = 0; k < t->saves[i].n_views; k++) {
            printf("save %s: ", t->saves[i].name);
            show_view(t, &t->saves[i].view[k]);
            printf("\n");
        }
}

/* ---- numbers ------------------------------------------------------------------------------------------------------------------------------- */

/* Elements of what a run saved. */
static double *saved_numbers(run *work, size_t save, int64_t *count)
{
    inset_tensor tensor;
    if (run_saved(work, save, &tensor)) return NULL;
    *count = 1;
    for (int d = 0; d < tensor.n_dimensions; d++) *count *= tensor.shape[d];
    double *out = malloc((size_t)(*count + 1) * sizeof *out);
    for (int64_t i = 0; out && i < *count; i++) out[i] = element_get(tensor.type, (const char *)tensor.data + (size_t)i * type_size(tensor.type));
    return out;
}

/* The largest difference, as a part of the largest number; infinities and NaNs must be the same. */
static double difference(const double *got, const double *want, int64_t n)
{
    double most = 0, worst = 0;
    for (int64_t i = 0; i < n; i++)
        if (isfinite(want[i]) && fabs(want[i]) > most) most = fabs(want[i]);
    for (int64_t i = 0; i < n; i++) {
        if (isnan(got[i]) && isnan(want[i])) continue;
        if (got[i] == want[i]) continue;
        if (!isfinite(got[i]) || !isfinite(want[i])) return INFINITY;
        if (fabs(got[i] - want[i]) > worst) worst = fabs(got[i] - want[i]);
    }
    return worst / (most + 1e-2);
}

typedef struct outcome { size_t n; double **saved; int64_t *counts; } outcome;

static void outcome_free(outcome *o)
{
    for (size_t i = 0; i < o->n; i++) free(o->saved[i]);
    free(o->saved);
    free(o->counts);
    *o = (outcome){0};
}

static outcome outcome_of_run(run *work, const plan *p)
{
    outcome o = {plan_saved_count(p), calloc(plan_saved_count(p) + 1, sizeof *o.saved), calloc(plan_saved_count(p) + 1, sizeof *o.counts)};
    for (size_t i = 0; i < o.n; i++) o.saved[i] = saved_numbers(work, i, &o.counts[i]);
    return o;
}

static outcome outcome_of_plain(trace *t)
{
    plain *p = plain_execute(t, false);
    outcome o = {t->n_saves, calloc(t->n_saves + 1, sizeof *o.saved), calloc(t->n_saves + 1, sizeof *o.counts)};
    for (size_t i = 0; i < o.n; i++) {
        plain_cell *cells = plain_saved(p, i, &o.counts[i]);
        o.saved[i] = malloc((size_t)(o.counts[i] + 1) * sizeof **o.saved);
        for (int64_t k = 0; k < o.counts[i]; k++) o.saved[i][k] = cells[k].number;
        free(cells);
    }
    plain_free(p);
    return o;
}

static void agree(const char *what, const bench *b, uint64_t seed, const trace *t, const outcome *got, const outcome *want, double tolerance)
{
    NEED(got->n == want->n, "%s, %s, seed %llu: %zu values saved instead of %zu", what, b->name, (unsigned long long)seed, got->n, want->n);
    for (size_t i = 0; i < got->n; i++) {
        NEED(got->saved[i] && got->counts[i] == want->counts[i], "%s, %s, seed %llu: %s has %lld elements instead of %lld", what, b->name,
             (unsigned long long)seed, t->saves[i].name, (long long)got->counts[i], (long long)want->counts[i]);
        double d = difference(got->saved[i], want->saved[i], got->counts[i]);
        if (d > tolerance && verbose)
            for (int64_t k = 0; k < got->counts[i]; k++) printf("%s[%lld] %g %g\n", t->saves[i].name, (long long)k, got->saved[i][k], want->saved[i][k]);
        NEED(d <= tolerance, "%s, %s, seed %llu: %s differs by %.3g", what, b->name, (unsigned long long)seed, t->saves[i].name, d);
    }
}

/* Plans and runs a trace; what it saves. An empty outcome after a failure, which is reported. */
static outcome run_trace(bench *b, uint64_t seed, trace *t, bool no_share, plan **kept)
{
    plan_options options = {.no_share = no_share};
    plan *p = NULL;
    run *work = NULL;
    outcome o = {0};
    inset_status status = plan_create(t, &options, &p);
    if (!status) status = run_create(b->model, p, &work);
    if (!status) status = run_execute(work);
    if (CHECK(!status, "%s, seed %llu: %s", b->name, (unsigned long long)seed, inset_message(b->context))) o = outcome_of_run(work, p);
    run_free(work);
    if (kept) *kept = p;
    else plan_free(p);
    return o;
}

/* ---- rows ----------------------------------------------------------------------------------------------------------------------------------- */

static void check_rows(const bench *b, const char *name, uint64_t seed, trace *t, const plan *p)
{
    const program *g = b->model->program;
    plain *symbols = plain_execute(t, true);
    int64_t *least = plain_rows_needed(symbols);
    for (size_t i = 0; i < g->n_values; i++) {
        step_kind kind = g->steps[g->values[i].step].kind;
        if (kind == STEP_TOKENS || kind == STEP_POSITIONS || kind == STEP_PAIR || kind == STEP_SCORES || kind == STEP_PATTERN || kind == STEP_NORM_SCALE) continue;
        int64_t rows = plan_rows(p, (int32_t)i);
        if (!CHECK(rows == least[i], "%s, %s, seed %llu: value %zu (step kind %d) has %lld rows computed, %lld would do", b->name, name,
                   (unsigned long long)seed, i, kind, (long long)rows, (long long)least[i])) break;
    }
    free(least);
    plain_free(symbols);
}

static void check_trace(bench *b, uint64_t seed)
{
    trace *t = NULL;
    plan *p = NULL;
    inset_status status = random_trace(b->model, seed, &t);
    if (CHECK(!status, "%s, seed %llu: %s", b->name, (unsigned long long)seed, inset_message(b->context))) {
        if (verbose) show_trace(t);
        outcome want = outcome_of_plain(t), shared = run_trace(b, seed, t, false, &p), alone = run_trace(b, seed, t, true, NULL);
        if (p) {
            if (!skip_numbers) agree("plain", b, seed, t, &shared, &want, 1e-3);
            agree("sharing", b, seed, t, &alone, &shared, 1e-5);
            if (!skip_rows) check_rows(b, "random", seed, t, p);
        }
        outcome_free(&want);
        outcome_free(&shared);
        outcome_free(&alone);
    }
    plan_free(p);
    trace_free(t);
}

int main(int argc, char **argv)
{
    const char *only = NULL;
    uint64_t first = 1, count = 20;
    world w;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-R")) skip_rows = true;
        else if (!strcmp(argv[i], "-N")) skip_numbers = true;
        else if (!strcmp(argv[i], "-m") && i + 1 < argc) only = argv[++i];
        else if (!strcmp(argv[i], "-n") && i + 1 < argc) count = strtoull(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "-v")) verbose = true;
        else first = strtoull(argv[i], NULL, 10);
    }
    if (!CHECK(world_start(&w) != NULL, "no context")) return test_result();
    for (int i = 0; tiny_models[i]; i++) {
        bench b;
        if (only && strcmp(only, tiny_models[i])) continue;
        if (bench_start(&b, w.context, tiny_models[i]))
            for (uint64_t seed = first; seed < first + count; seed++) check_trace(&b, seed);
        bench_end(&b);
    }
    world_end(&w, "planner");
    return test_result();
}
