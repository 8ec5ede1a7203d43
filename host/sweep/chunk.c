/* chunk.c: some jobs as one trace: for each of their pairs the clean and the corrupt run, then one invoke a job.
 *
 * This is the naive way to write a sweep, on purpose: that runs with the same rows are one is the planner's discovery. Every invoke is
 * one prompt, so pairs may differ in length and in what metrics ask of them. */
#include "sweep/sweep.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "run/run.h"

typedef enum run_kind { RUN_CLEAN, RUN_CORRUPT, RUN_PATCHED } run_kind;
typedef struct run_of { run_kind kind; int64_t pair, job; } run_of;

struct prepared {
    sweep *sweep;
    int64_t first, count;
    arena memory;
    trace *trace;
    plan *plan;
    run_of *runs; size_t n_runs;         /* in the order of the readings */
    readout readout;
    operand *taken, *external;           /* [n_taps] */
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- jobs ------------------------------------------------------------------------------------------------------------------------------ */

int64_t job_positions(const sweep *s, const job *j, int64_t *first, int64_t *step)
{
    int64_t length = s->clean.lengths[j->pair];
    *step = s->positions.step;
    if (j->at[AXIS_POSITION] < 0) return range_resolve(&s->positions, length, first);
    int64_t label = s->position_labels[j->at[AXIS_POSITION]];
    *first = label < 0 ? label + length : label;
    int64_t start, n = range_resolve(&s->positions, length, &start);
    bool chosen = *first >= start && (*first - start) % *step == 0 && (*first - start) / *step < n;
    return chosen;
}

bool job_at(const sweep *s, int64_t index, job *out)
{
    int64_t point = index % s->points, first, step;
    const sweep_site *site = s->sites + s->n_sites - 1;
    while (site->first_point > point) site--;
    *out = (job){.pair = index / s->points, .site = site, .at = {-1, -1, -1, -1}};
    point -= site->first_point;
    for (int i = site->n_axes - 1; i >= 0; i--) {
        out->at[site->axes[i]] = point % site->extents[site->axes[i]];
        point /= site->extents[site->axes[i]];
    }
    return job_positions(s, out, &first, &step) > 0;
}

/* ---- the trace ------------------------------------------------------------------------------------------------------------------------- */

static inset_status begin_invoke(trace *t, const prompts *p, int64_t i)
{
    return trace_invoke_tokens(t, 1, &p->lengths[i], p->tokens + p->starts[i]);
}

static inset_status take_taps(prepared *c)
{
    const sweep *s = c->sweep;
    inset_status status = INSET_OK;
    for (size_t i = 0; i < s->n_taps && !status; i++) status = trace_site(c->trace, s->taps[i].place, &c->taken[i]);
    return status;
}

static inset_status read_out(prepared *c, run_kind kind, int64_t pair, int64_t job_index)
{
    c->runs[c->n_runs++] = (run_of){kind, pair, job_index};
    return readout_take(c->sweep, c->trace, &c->readout, pair);
}

/* The runs that a pair's jobs share: the unpatched ones, and the one that the source is. */
static inset_status record_pair(prepared *c, int64_t pair)
{
    const sweep *s = c->sweep;
    bool other = s->source == SOURCE_OTHER_RUN;
    inset_status status = begin_invoke(c->trace, &s->clean, pair);
    if (!status && other && !s->noise) status = take_taps(c);
    if (!status) status = read_out(c, RUN_CLEAN, pair, -1);
    if (!status && s->has_corrupt) {
        status = begin_invoke(c->trace, &s->corrupt, pair);
        if (!status && other && s->noise) status = take_taps(c);
        if (!status) status = read_out(c, RUN_CORRUPT, pair, -1);
    }
    if (status || s->source != SOURCE_RESAMPLE) return status;
    status = begin_invoke(c->trace, &s->others, s->partners[pair]);
    return status ? status : take_taps(c);
}

static index_item slice_of(int64_t first, int64_t count, int64_t step)
{
    return (index_item){.kind = INDEX_SLICE, .has_start = true, .start = first, .has_stop = true, .stop = first + (count - 1) * step + 1,
                        .has_step = true, .step = step};
}

static place_items items_of(const sweep *s, const job *j)
{
    int64_t first, step, count = job_positions(s, j, &first, &step);
    const sweep_site *site = j->site;
    place_items where = {.n = 2, .items = {{.kind = INDEX_SLICE}}};
    where.items[1] = j->at[AXIS_POSITION] >= 0 ? (index_item){.kind = INDEX_INTEGER, .integer = first} : slice_of(first, count, step);
    bool all_heads = j->at[AXIS_HEAD] < 0 && site->heads == site->n_heads;
    if (!site->per_head || all_heads) return where;
    int64_t head = site->head_labels[j->at[AXIS_HEAD] < 0 ? 0 : j->at[AXIS_HEAD]];
    where.items[where.n++] = j->at[AXIS_HEAD] >= 0 ? (index_item){.kind = INDEX_INTEGER, .integer = head}
                                                   : slice_of(head, site->heads, s->heads.step);
    return where;
}

static inset_status patch_tap(prepared *c, int32_t tap_index, const place_items *where)
{
    operand target, source;
    const sweep *s = c->sweep;
    bool from_run = s->source == SOURCE_OTHER_RUN || s->source == SOURCE_RESAMPLE;
    inset_status status = trace_site(c->trace, s->taps[tap_index].place, &target);
    if (!status) status = source_take(s, c->trace, from_run ? c->taken : NULL, c->external, tap_index, where, &source);
    return status ? status : trace_set(c->trace, &target, where->n, where->items, TRACE_COPY, &source);
}

static inset_status record_job(prepared *c, const job *j, int64_t index)
{
    const sweep *s = c->sweep;
    place_items where = items_of(s, j);
    int64_t member = j->at[AXIS_SITE] < 0 ? 0 : j->at[AXIS_SITE], layer = j->at[AXIS_LAYER];
    int64_t from = layer < 0 ? 0 : layer, to = layer < 0 ? s->chosen_layers : layer + 1;
    inset_status status = begin_invoke(c->trace, s->noise ? &s->clean : &s->corrupt, j->pair);
    for (; from < to && !status; from++) status = patch_tap(c, j->site->taps[member][from], &where);
    return status ? status : read_out(c, RUN_PATCHED, j->pair, index);
}

static inset_status record_jobs(prepared *c)
{
    const sweep *s = c->sweep;
    inset_status status = s->source == SOURCE_TENSOR ? source_externals(s, c->trace, c->external) : INSET_OK;
    for (int64_t i = c->first; i < c->first + c->count && !status; i++) {
        job j;
        if (i == c->first || i % s->points == 0) status = record_pair(c, i / s->points);
        if (!status && job_at(s, i, &j)) status = record_job(c, &j, i);
    }
    trace_end_invoke(c->trace);
    return status ? status : readout_save(s, c->trace, &c->readout);
}

static inset_status chunk_build(prepared *c)
{
    sweep *s = c->sweep;
    size_t pairs = (size_t)((c->first + c->count - 1) / s->points - c->first / s->points + 1), runs = (size_t)c->count + 2 * pairs;
    plan_options options = {.no_share = s->no_share, .memory_limit = s->memory_limit, .traits = model_traits(s->model)};
    c->runs = arena_new(&c->memory, runs * sizeof *c->runs);
    c->taken = arena_new(&c->memory, s->n_taps * sizeof *c->taken);
    c->external = arena_new(&c->memory, s->n_taps * sizeof *c->external);
    if (!c->runs || !c->taken || !c->external) return INSET_NO_MEMORY;
    inset_status status = readout_start(s, &c->memory, &c->readout, runs);
    if (!status) status = trace_create(s->context, s->program, s->model->type, &c->trace);
    if (!status) status = record_jobs(c);
    return status ? status : plan_create(c->trace, &options, &c->plan);
}

inset_status chunk_prepare(sweep *s, int64_t first, int64_t count, prepared **out)
{
    *out = NULL;
    double start = now();
    prepared *c = memory_new(s->context, sizeof *c);
    if (!c) return INSET_NO_MEMORY;
    *c = (prepared){.sweep = s, .first = first, .count = count};
    arena_start(&c->memory, s->context);
    inset_status status = chunk_build(c);
    if (status) {
        chunk_free(c);
        return status;
    }
    s->progress.planning += now() - start;
    *out = c;
    return INSET_OK;
}

void chunk_free(prepared *c)
{
    if (!c) return;
    plan_free(c->plan);
    trace_free(c->trace);
    arena_free(&c->memory);
    memory_free(c->sweep->context, c);
}

int64_t chunk_count(const prepared *c) { return c->count; }

/* ---- the run --------------------------------------------------------------------------------------------------------------------------- */

/* The readings of all runs as floats: [n_readings]. */
static inset_status read_saved(prepared *c, run *r, const float **out)
{
    for (size_t i = 0; i < c->sweep->n_readings; i++) {
        inset_tensor saved;
        inset_status status = run_saved(r, i, &saved);
        if (status) return status;
        out[i] = saved.data;
        if (saved.type == INSET_F32) continue;
        size_t count = c->n_runs * (size_t)c->sweep->readings[i].count;
        float *widened = arena_new(&c->memory, count * sizeof *widened);
        if (!widened) return INSET_NO_MEMORY;
        for (size_t k = 0; k < count; k++) widened[k] = (float)element_get(saved.type, (const char *)saved.data + k * type_size(saved.type));
        out[i] = widened;
    }
    return INSET_OK;
}

static void keep_value(prepared *c, const run_of *of, size_t metric_index, double value)
{
    sweep *s = c->sweep;
    if (of->kind == RUN_PATCHED) s->values[(int64_t)metric_index * s->jobs + of->job] = (float)value;
    else if (c->first <= of->pair * s->points)           /* a pair's first chunk says */
        (of->kind == RUN_CLEAN ? s->clean_values : s->corrupt_values)[(int64_t)metric_index * s->pairs + of->pair] = (float)value;
}

/* Numbers become values. With every pair the run begins that its patches start from. */
static inset_status gather(prepared *c, const float *const *readings)
{
    sweep *s = c->sweep;
    row now_read;
    distribution *unpatched = arena_new(&c->memory, s->n_readings * sizeof *unpatched);
    if (!unpatched) return INSET_NO_MEMORY;
    for (size_t i = 0; i < s->n_readings; i++)
        if (s->readings[i].needs_distribution
            && !(unpatched[i].p = arena_new(&c->memory, (size_t)s->program->vocabulary * sizeof *unpatched[i].p))) return INSET_NO_MEMORY;
    for (size_t i = 0; i < s->n_readings; i++) {
        const reading *reading = &s->readings[i];
        for (size_t r = 0; r < c->n_runs; r++) {
            if (c->runs[r].kind == RUN_CLEAN) {
                row_read(s, reading, readings[i] + (int64_t)(r + !s->noise) * reading->count, &now_read);
                row_keep(s, reading, &now_read, &unpatched[i]);
            }
            row_read(s, reading, readings[i] + (int64_t)r * reading->count, &now_read);
            for (size_t m = 0; m < s->n_metrics; m++)
                if (s->metrics[m].reading == (int32_t)i)
                    keep_value(c, &c->runs[r], m, metric_value(s, &s->metrics[m], c->runs[r].pair, &now_read, &unpatched[i]));
        }
    }
    return INSET_OK;
}

static void count_up(prepared *c)
{
    inset_sweep_progress *p = &c->sweep->progress;
    const plan_statistics *is = plan_get_statistics(c->plan);
    for (size_t r = 0; r < c->n_runs; r++) p->done += c->runs[r].kind == RUN_PATCHED;
    p->rows += is->rows;
    p->rows_unshared += is->rows_unshared;
    p->flops += is->flops;
    p->flops_unshared += is->flops_unshared;
}

inset_status chunk_run(prepared *c)
{
    run *r = NULL;
    double start = now();
    sweep *s = c->sweep;
    const float **readings = arena_new(&c->memory, s->n_readings * sizeof *readings);
    if (!readings) return INSET_NO_MEMORY;
    inset_status status = run_create(s->model, c->plan, &r);
    if (!status) status = run_execute(r);
    if (!status) status = read_saved(c, r, readings);
    if (!status) status = gather(c, readings);
    if (!status) {
        count_up(c);
        s->progress.running += now() - start;
    }
    run_free(r);
    return status;
}
