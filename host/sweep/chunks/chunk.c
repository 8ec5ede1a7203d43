/* chunk.c: some jobs as one trace: for each of their pairs the clean and the corrupt run, then one
 * invoke a job.
 *
 * This is the naive way to write a sweep, on purpose: that runs with the same rows are one is the
 * planner's discovery. Every invoke is one prompt, so pairs may differ in length and in what
 * metrics ask of them. Chunks with the same pattern of equal tokens have one plan. */
#include "sweep/chunks/chunk.h"
#include "sweep/chunks/book.h"

#include <string.h>
#include <time.h>

/* What is needed while a chunk's trace is made. */
typedef struct recorder {
    prepared *chunk;
    const sweep *sweep;
    trace *trace;
    readout readout;
    arena *scratch;
    operand *taken, *external; /* [n_taps] */
    feature_rows *rows;        /* [n_sites] */
} recorder;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- jobs --------------------------------------------------------------- */

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
    *out = (job){.pair = index / s->points,
        .point = point - site->first_point,
        .site = site,
        .at = {-1, -1, -1, -1, -1}};
    point -= site->first_point;
    for (int i = site->n_axes - 1; i >= 0; i--) {
        out->at[site->axes[i]] = point % site->extents[site->axes[i]];
        point /= site->extents[site->axes[i]];
    }
    if (s->chosen && !s->chosen[index % s->points]) return false;
    return job_positions(s, out, &first, &step) > 0;
}

bool job_runs(const sweep *s, int64_t index)
{
    job j;
    return job_at(s, index, &j) && !features_unchanged(&j);
}

/* ---- runs --------------------------------------------------------------- */

const int64_t *run_prompt(const sweep *s, const run_of *r, int64_t *length)
{
    bool clean = r->kind == RUN_CLEAN || (r->kind == RUN_PATCHED && s->noise);
    const prompts *p = r->kind == RUN_OTHER ? &s->others : clean ? &s->clean : &s->corrupt;
    int64_t i = r->kind == RUN_OTHER ? s->partners[r->pair] : r->pair;
    *length = p->lengths[i];
    return p->tokens + p->starts[i];
}

/* With every pair begin the runs that its jobs share: the unpatched ones, and the one that the
 * source is. */
static inset_status list_runs(prepared *c)
{
    const sweep *s = c->sweep;
    size_t pairs = (size_t)((c->first + c->count - 1) / s->points - c->first / s->points + 1);
    if (!(c->runs = arena_new(&c->memory, ((size_t)c->count + 3 * pairs) * sizeof *c->runs)))
        return INSET_NO_MEMORY;
    for (int64_t i = c->first; i < c->first + c->count; i++) {
        int64_t pair = i / s->points;
        if (i == c->first || i % s->points == 0) {
            c->runs[c->n_runs++] = (run_of){RUN_CLEAN, pair, -1};
            if (s->has_corrupt) c->runs[c->n_runs++] = (run_of){RUN_CORRUPT, pair, -1};
            if (s->source == SOURCE_RESAMPLE) c->runs[c->n_runs++] = (run_of){RUN_OTHER, pair, -1};
        }
        if (job_runs(s, i)) c->runs[c->n_runs++] = (run_of){RUN_PATCHED, pair, i};
    }
    return INSET_OK;
}

/* ---- the trace ---------------------------------------------------------- */

static inset_status take_taps(recorder *r)
{
    inset_status status = INSET_OK;
    for (size_t i = 0; i < r->sweep->n_taps && !status; i++)
        status = trace_site(r->trace, r->sweep->taps[i].place, &r->taken[i]);
    return status;
}

static index_item slice_of(int64_t first, int64_t count, int64_t step)
{
    return (index_item){.kind = INDEX_SLICE,
        .has_start = true,
        .start = first,
        .has_stop = true,
        .stop = first + (count - 1) * step + 1,
        .has_step = true,
        .step = step};
}

place_items job_items(const sweep *s, const job *j)
{
    int64_t first, step, count = job_positions(s, j, &first, &step);
    const sweep_site *site = j->site;
    place_items where = {.n = 2, .items = {{.kind = INDEX_SLICE}}};
    index_item position = j->at[AXIS_POSITION] >= 0
                              ? (index_item){.kind = INDEX_INTEGER, .integer = first}
                              : slice_of(first, count, step);
    where.items[1] = position;
    bool all_heads = j->at[AXIS_HEAD] < 0 && site->heads == site->n_heads;
    if (!site->per_head || (all_heads && !site->by_keys)) return where;
    int64_t head = site->head_labels[j->at[AXIS_HEAD] < 0 ? 0 : j->at[AXIS_HEAD]];
    where.items[2] = j->at[AXIS_HEAD] >= 0 ? (index_item){.kind = INDEX_INTEGER, .integer = head}
                                           : slice_of(head, site->heads, s->heads.step);
    where.n = 3;
    if (!site->by_keys) return where;
    where.items[1] = where.items[2];
    /* a longer prompt's row is cut: it attends to nothing behind the position */
    where.items[2] = position;
    where.items[where.n++] = slice_of(0, s->clean.lengths[j->pair], 1);
    return where;
}

static inset_status patch_tap(recorder *r, int32_t tap_index, const place_items *where)
{
    operand target, source;
    const sweep *s = r->sweep;
    bool from_run = s->source == SOURCE_OTHER_RUN || s->source == SOURCE_RESAMPLE;
    inset_status status = trace_site(r->trace, s->taps[tap_index].place, &target);
    if (!status)
        status = source_take(
            s, r->trace, from_run ? r->taken : NULL, r->external, tap_index, where, &source);
    return status ? status
                  : trace_set(r->trace, &target, where->n, where->items, TRACE_COPY, &source);
}

static inset_status patch(recorder *r, const job *j)
{
    const sweep *s = r->sweep;
    if (j->site->features) return features_patch(s, r->trace, j, r->rows);
    place_items where = job_items(s, j);
    int64_t member = j->at[AXIS_SITE] < 0 ? 0 : j->at[AXIS_SITE], layer = j->at[AXIS_LAYER];
    int64_t from = layer < 0 ? 0 : layer, to = layer < 0 ? s->chosen_layers : layer + 1;
    inset_status status = INSET_OK;
    for (; from < to && !status; from++) status = patch_tap(r, j->site->taps[member][from], &where);
    return status;
}

/* Is this the run whose values are put elsewhere? */
static bool is_source(const sweep *s, run_kind kind)
{
    if (s->source == SOURCE_OTHER_RUN) return kind == (s->noise ? RUN_CORRUPT : RUN_CLEAN);
    return kind == RUN_OTHER;
}

/* Is this the run that patches start from? */
static bool is_unpatched(const sweep *s, run_kind kind)
{
    return kind == (s->noise ? RUN_CLEAN : RUN_CORRUPT);
}

static inset_status record_run(recorder *r, const run_of *of)
{
    job j;
    int64_t length;
    const int64_t *tokens = run_prompt(r->sweep, of, &length);
    inset_status status = trace_invoke_tokens(r->trace, 1, &length, tokens);
    if (!status && is_source(r->sweep, of->kind)) status = take_taps(r);
    if (!status && of->kind == RUN_PATCHED && job_at(r->sweep, of->job, &j)) status = patch(r, &j);
    if (status || of->kind == RUN_OTHER) return status;
    return readout_take(
        r->sweep, r->trace, &r->readout, of->pair, is_unpatched(r->sweep, of->kind));
}

static inset_status record_runs(recorder *r)
{
    const sweep *s = r->sweep;
    inset_status status = s->source == SOURCE_TENSOR ? source_externals(s, r->trace, r->external)
                                                     : INSET_OK;
    if (!status)
        status = features_rows(s, r->trace, r->scratch, r->chunk->first, r->chunk->count, r->rows);
    for (size_t i = 0; i < r->chunk->n_runs && !status; i++)
        status = record_run(r, &r->chunk->runs[i]);
    trace_end_invoke(r->trace);
    return status ? status : readout_save(s, r->trace, &r->readout);
}

static inset_status start_recorder(recorder *r, arena *a)
{
    sweep *s = r->chunk->sweep;
    r->taken = arena_new(a, s->n_taps * sizeof *r->taken);
    r->external = arena_new(a, s->n_taps * sizeof *r->external);
    r->rows = arena_new(a, s->n_sites * sizeof *r->rows);
    r->scratch = a;
    if (!r->taken || !r->external || !r->rows) return INSET_NO_MEMORY;
    inset_status status = readout_start(s, a, &r->readout, r->chunk->n_runs);
    return status ? status : trace_create(s->context, s->program, s->model->type, &r->trace);
}

static inset_status make_plan(prepared *c, plan **out)
{
    sweep *s = c->sweep;
    arena scratch;
    recorder r = {.chunk = c, .sweep = s};
    plan_options options = {
        .no_share = s->no_share, .memory_limit = s->memory_limit, .traits = sweep_traits(s)};
    arena_start(&scratch, s->context);
    inset_status status = start_recorder(&r, &scratch);
    if (!status) status = record_runs(&r);
    if (!status) status = plan_create(r.trace, &options, out);
    trace_free(r.trace);
    arena_free(&scratch);
    return status;
}

inset_status chunk_prepare(sweep *s, int64_t chunk, prepared **out)
{
    *out = NULL;
    double start = now();
    prepared *c = memory_new(s->context, sizeof *c);
    if (!c) return INSET_NO_MEMORY;
    *c = (prepared){
        .sweep = s, .chunk = chunk, .first = chunk_first(s, chunk), .count = chunk_jobs(s, chunk)};
    arena_start(&c->memory, s->context);
    inset_status status = list_runs(c);
    if (!status) status = pattern_plan(c, make_plan);
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
    sweep *s = c->sweep;
    if (s->prepared == c) s->prepared = NULL;
    if (c->started) run_finish(c->run, c->slot); /* given up: its numbers are nobody's */
    if (c->run != s->run) run_free(c->run);
    arena_free(&c->memory);
    memory_free(c->sweep->context, c);
}

int64_t chunk_of(const prepared *c) { return c->chunk; }

/* ---- the run ------------------------------------------------------------ */

static void count_up(const prepared *c, chunk_counts *counts)
{
    const plan_statistics *is = plan_get_statistics(c->plan->plan);
    job j;
    for (int64_t i = c->first; i < c->first + c->count; i++)
        counts->done += job_at(c->sweep, i, &j);
    counts->rows += is->rows;
    counts->rows_unshared += is->rows_unshared;
    counts->flops += is->flops;
    counts->flops_unshared += is->flops_unshared;
}

/* The sweep's run becomes one of the chunk's plan, if it is not already. The one before stays while
 * the chunk before is not finished. */
static inset_status find_run(prepared *c)
{
    sweep *s = c->sweep;
    run *before = s->run;
    inset_status status = INSET_OK;
    if (!before || s->run_plan != c->plan) {
        s->run = NULL;
        s->run_plan = c->plan;
        status = run_create_in(s->room, c->plan->plan, &s->run);
        if (!s->prepared || s->prepared == c || s->prepared->run != before) run_free(before);
    }
    c->run = s->run;
    return status;
}

inset_status chunk_start(prepared *c)
{
    double start = now();
    sweep *s = c->sweep;
    inset_status status = s->room ? INSET_OK : run_room_create(s->model, &s->room);
    if (!status) status = find_run(c);
    if (!status) status = pattern_set_inputs(c, c->run);
    if (status) return status;
    c->slot = s->slot;
    s->slot = (s->slot + 1) % RUN_SLOTS;
    status = run_start(c->run, c->slot);
    s->progress.running += now() - start;
    c->started = !status;
    return status;
}

bool chunk_started(const prepared *c) { return c->started; }

inset_status chunk_finish(prepared *c, chunk_counts *counts)
{
    double start = now();
    inset_status status = run_finish(c->run, c->slot);
    c->started = false;
    if (status) return status;
    gather_values(c);
    count_up(c, counts);
    c->sweep->progress.running += now() - start;
    return INSET_OK;
}
