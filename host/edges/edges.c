/* edges.c: attribution of edges from its options to its last pair. */
#include "edges/edges.h"

#include <string.h>
#include <unistd.h>

#include "plan/plan.h"
#include "run/run.h"

static inset_status check_options(const sweep *s, const inset_sweep_options *o)
{
    static const char *const names[] = {"--patch", "--layers", "--positions", "--heads"};
    const char *const given[] = {o->patch, o->layers, o->positions, o->heads};
    if (o->by && strcmp(o->by, "position"))
        return error_set(s->context, INSET_USAGE_ERROR,
            "edges are of the whole graph: --by position, or leave it out; found '%s'", o->by);
    for (size_t i = 0; i < sizeof given / sizeof *given; i++)
        if (given[i])
            return error_set(s->context, INSET_USAGE_ERROR,
                "edges are of the whole graph: leave out %s", names[i]);
    if (!source_is_other_run(o->source))
        return error_set(s->context, INSET_USAGE_ERROR,
            "an edge carries the other run's value: leave out --source");
    if (s->method.qk || s->method.graddrop)
        return error_set(s->context, INSET_USAGE_ERROR,
            "AtP* (--star, --qk, --graddrop) is of nodes: leave it out with --edges");
    return INSET_OK;
}

/* Scores are held for all edges: a model that is too large for that says so. */
inset_status edges_make_arrays(edges *e, bool per_pair)
{
    sweep *s = e->s;
    const double all = (double)e->n_positions * (double)e->n_writers * (double)e->n_readers
                       * (double)s->n_metrics;
    const double needed = all * (20 + (per_pair ? 4.0 * (double)s->pairs : 0)),
                 there = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    if (needed > there)
        return error_set(s->context, INSET_NO_MEMORY,
            "the scores of %lld edges take %.3g GB; the machine has %.3g GB%s",
            (long long)(e->n_positions * e->n_writers * e->n_readers), needed / 1e9, there / 1e9,
            per_pair ? "; leave out --per-pair" : "");
    e->sums = memory_new(s->context, (size_t)all * sizeof *e->sums);
    e->chunk_sums = memory_new(s->context, (size_t)all * sizeof *e->chunk_sums);
    e->means = memory_new(s->context, (size_t)all * sizeof *e->means);
    if (per_pair)
        e->per_pair = memory_new(s->context, (size_t)all * (size_t)s->pairs * sizeof *e->per_pair);
    return e->sums && e->chunk_sums && e->means && (!per_pair || e->per_pair) ? INSET_OK
                                                                              : INSET_NO_MEMORY;
}

/* As the state file has them cut, where there is one. */
static inset_status open_chunks(edges *e, bool resume)
{
    bool found = false;
    const bool part = e->s->shards && e->s->state_path;
    inset_status status = part ? edges_part_open(e, resume, &found) : edges_state_open(e, resume);
    if (!status) status = edges_open_book(e);
    if (status || !part) return status;
    return found ? edges_part_restore(e) : edges_part_begin(e);
}

static inset_status build(edges *e, const inset_sweep_options *o, bool per_pair)
{
    sweep *s = e->s;
    inset_status status = check_options(s, o);
    if (!status) status = attribute_check_method(s);
    if (status) return status;
    e->embedding = -1;
    if (s->method.steps > 1) status = attribute_embedding(s, &e->embedding);
    e->n_positions = o->by ? s->clean.longest : 1;
    if (!status) status = edges_find(e);
    if (!status) status = edges_make_arrays(e, per_pair);
    /* on the CPU products read weights from a copy on the host; elsewhere those that do not stay */
    if (!status && s->model->device && (s->model->device->shares_host_memory || s->model->stream))
        status = model_weights_open(s->model, &e->weights);
    if (!status) status = sweep_take_fingerprint(s, o);
    if (status) return status;
    const int64_t graph[] = {e->n_positions, e->n_writers, e->n_readers, per_pair};
    s->identity = hash_bytes(s->identity, graph, sizeof graph);
    s->fingerprint = hash_bytes(s->fingerprint, graph, sizeof graph);
    s->jobs = s->progress.patches = s->pairs;
    edges_choose_chunk(e);
    return open_chunks(e, o->resume != 0);
}

inset_status edges_create(struct inset_model *model, const inset_sweep_options *options,
    const attribution_method *method, bool per_pair, edges **out)
{
    *out = NULL;
    edges *e = memory_new(model->context, sizeof *e);
    if (!e) return INSET_NO_MEMORY;
    inset_status status = sweep_of_runs(model, options, method, &e->s);
    if (status) {
        memory_free(model->context, e);
        return status;
    }
    if ((status = build(e, options, per_pair))) edges_free(e);
    else *out = e;
    return status;
}

void edges_free(edges *e)
{
    if (!e) return;
    inset_context *context = e->s->context;
    model_weights_close(e->weights);
    edges_forget_waiting(e);
    memory_free(context, e->chunk_sums);
    memory_free(context, e->sums);
    memory_free(context, e->means);
    memory_free(context, e->per_pair);
    sweep_free(e->s);
    memory_free(context, e);
}

bool edges_done(const edges *e) { return book_done(e->s); }

static inset_status run_pairs(edges *e, int64_t first, int64_t count, chunk_counts *counts)
{
    edge_saved saved;
    arena memory;
    plan *planned = NULL;
    run *r = NULL;
    arena_start(&memory, e->s->context);
    inset_status status = edges_plan(e, first, count, &memory, &saved, &planned);
    if (!status) status = run_create(e->s->model, planned, &r);
    if (!status) status = run_execute(r);
    if (!status) status = edges_add_scores(e, r, &saved);
    if (!status) {
        const plan_statistics *is = plan_get_statistics(planned);
        counts->done += count;
        counts->rows += is->rows;
        counts->rows_unshared += is->rows_unshared;
        counts->flops += is->flops;
        counts->flops_unshared += is->flops_unshared;
    }
    run_free(r);
    plan_free(planned);
    arena_free(&memory);
    return status;
}

/* A chunk's pairs, `count` at a time. What it adds to begins at zero. */
static inset_status run_some_at_once(edges *e, int64_t chunk, int64_t count, chunk_counts *counts)
{
    const sweep *s = e->s;
    const int64_t first = chunk_first(s, chunk), end = first + chunk_jobs(s, chunk);
    const size_t all = (size_t)edges_score_numbers(e);
    inset_status status = INSET_OK;
    *counts = (chunk_counts){.done = 0};
    memset(e->chunk_sums, 0, s->n_metrics * all * sizeof *e->chunk_sums);
    for (size_t m = 0; m < s->n_metrics && e->per_pair; m++)
        memset(e->per_pair + (m * (size_t)s->pairs + (size_t)first) * all, 0,
            (size_t)(end - first) * all * sizeof *e->per_pair);
    for (int64_t at = first; at < end && !status; at += count)
        status = run_pairs(e, at, end - at < count ? end - at : count, counts);
    return status;
}

/* After pairs that did not fit: fewer at once, or one whose blocks are run again. False: there is
 * nothing left to try. */
static bool fewer_pairs(edges *e, int64_t *count)
{
    if (*count == 1 && e->s->again) return false;
    if (*count == 1) e->s->again = true;
    else *count /= 2;
    return true;
}

/* Every chunk begins with all its pairs at once, whatever those before it took: so its numbers do
 * not depend on who runs it. */
inset_status edges_run_chunk(edges *e, int64_t chunk, chunk_counts *counts)
{
    int64_t count = chunk_jobs(e->s, chunk);
    e->s->again = false;
    for (;;) {
        inset_status status = run_some_at_once(e, chunk, count, counts);
        if (status != INSET_NO_MEMORY || !fewer_pairs(e, &count)) return status;
    }
}

static inset_status step_own(edges *e, int64_t chunk)
{
    sweep *s = e->s;
    chunk_counts counts;
    char *record = NULL;
    size_t size;
    inset_status status = edges_run_chunk(e, chunk, &counts);
    if (!status) status = edges_record_make(e, chunk, &counts, &record, &size);
    const int reason = status ? 0 : edges_keep(e, chunk, record, size);
    if (reason)
        status = error_set(s->context, INSET_FILE_ERROR, "%s: %s",
            s->state_path ? s->state_path : "edges", strerror(reason));
    memory_free(s->context, record);
    if (status) book_give_back(s, chunk);
    return status;
}

inset_status edges_step(edges *e)
{
    if (edges_done(e)) return INSET_OK;
    const int64_t chunk = book_take(e->s);
    return chunk >= 0 ? step_own(e, chunk) : book_wait(e->s);
}

/* Bytes on the host beside a CPU's own: sums and means of all, a chunk's, a layer's scores, and
 * four matrices as fp32 where a CPU has them packed. */
static double host_bytes(const edges *e)
{
    const sweep *s = e->s;
    const double readers = e->n_heads + 2.0 * e->n_kv_heads + 1,
                 all = (double)s->n_metrics * (double)e->n_positions * (double)e->n_writers
                       * (double)e->n_readers;
    return 4 * (double)e->n_positions * (double)e->n_writers * readers
           + all * (20 + (e->per_pair ? 4.0 * (double)s->pairs : 0))
           + (e->weights ? 16.0 * e->width * e->n_heads * e->head_dim : 0);
}

inset_status edges_cost(edges *e, inset_cost *out)
{
    const sweep *s = e->s;
    int64_t count = s->chunk_pairs < s->pairs ? s->chunk_pairs : s->pairs;
    edge_saved saved;
    arena memory;
    plan *planned = NULL;
    arena_start(&memory, s->context);
    e->s->again = false;
    inset_status status = edges_plan(e, 0, count, &memory, &saved, &planned);
    while (status == INSET_NO_MEMORY && fewer_pairs(e, &count)) {
        arena_free(&memory);
        arena_start(&memory, s->context);
        status = edges_plan(e, 0, count, &memory, &saved, &planned);
    }
    if (!status) {
        const plan_statistics *is = plan_get_statistics(planned);
        const double share = (double)s->pairs / (double)count,
                     n = (double)s->clean.longest * e->width,
                     readers = e->n_heads + 2.0 * e->n_kv_heads + 1;
        /* heads' parts, readers' gradients, and half of all writers with all readers */
        const double products = 2.0 * n * e->head_dim
                                    * (e->n_heads + saved.runs * (double)s->n_metrics * readers)
                                    * s->n_layers
                                + (double)s->n_metrics * n * (double)e->n_writers
                                      * (double)e->n_readers;
        *out = (inset_cost){.pairs = s->pairs,
            .pairs_at_once = count,
            .rows = (int64_t)((double)is->rows * share),
            .flops = is->flops * share + products * (double)s->pairs,
            .blocks_again = is->blocks_again,
            .device_bytes = is->arena_bytes + is->saved_bytes + edges_room_bytes(e),
            .weight_bytes = s->model->device ? model_bytes_backward(s->model) : is->weight_bytes,
            .host_bytes = (int64_t)host_bytes(e)};
    }
    plan_free(planned);
    arena_free(&memory);
    return status;
}

const float *edges_means(edges *e)
{
    const int64_t n = (int64_t)e->s->n_metrics * e->n_positions * e->n_writers * e->n_readers;
    for (int64_t i = 0; i < n; i++)
        e->means[i] = (float)(e->sums[i] / (double)(e->next ? e->next : 1));
    return e->means;
}
