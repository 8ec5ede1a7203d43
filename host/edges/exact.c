/* exact.c: edges patched one by one, and circuits run, as traces whose rows are shared.
 *
 * A reader alone sees another stream: for an MLP or the logits its input is replaced, for a head's
 * q, k or v that head's part of `.q_input`, `.k_input`, `.v_input` is set (in circuits; for a
 * single edge see reader_of_run).
 *
 * A writer's difference: the stream's or the MLP's own; a head's `.result`. Where a norm stands
 * behind the projection, what the norm makes of that head's z in the place of the other's, less
 * what it made before. */
#include <stdio.h>
#include <string.h>

#include "edges/edges.h"
#include "plan/plan.h"
#include "run/run.h"
#include "trace/records.h"

/* What a run is given in the place of its own: columns of a site, or all a module reads. */
typedef struct change {
    int32_t site, event, head; /* head -1: the site's slot is replaced */
    operand value;
} change;

typedef struct maker {
    edges *e;
    trace *t;
    arena memory;
    int64_t pair;
    operand *base, *other; /* [n_layers * PLACE_COUNT] of the two runs of the pair */
    operand base_metric;
    operand *scratch; /* [n_metrics] */
    /* a circuit: what the run has so far, and what each writer's output is in it, less the other
     * run's */
    change *changes;
    size_t n_changes;
    operand *own;    /* [n_layers * PLACE_COUNT] of the run with the changes */
    operand *deltas; /* [n_writers] */
    bool *has_delta;
    operand *results; /* [n_results] numbers to be saved */
    size_t n_results;
} maker;

static inset_status begin(maker *m, bool base)
{
    const sweep *s = m->e->s;
    const prompts *p = base == s->noise ? &s->clean : &s->corrupt;
    return trace_invoke_tokens(m->t, 1, &p->lengths[m->pair], p->tokens + p->starts[m->pair]);
}

static inset_status take_metric(maker *m, operand *out)
{
    inset_status status = metrics_take(m->e->s, m->t, m->pair, m->scratch);
    *out = m->scratch[0];
    return status;
}

/* A head of [batch, position, head, d]. */
static inset_status head_of(maker *m, const operand *x, int32_t head, operand *out)
{
    const index_item items[3] = {
        {.kind = INDEX_SLICE}, {.kind = INDEX_SLICE}, {.kind = INDEX_INTEGER, .integer = head}};
    return trace_index(m->t, x, 3, items, out);
}

static inset_status set_head(maker *m, const operand *x, int32_t head, const operand *value)
{
    const index_item items[3] = {
        {.kind = INDEX_SLICE}, {.kind = INDEX_SLICE}, {.kind = INDEX_INTEGER, .integer = head}};
    return trace_set(m->t, x, 3, items, TRACE_COPY, value);
}

/* ---- runs --------------------------------------------------------------- */

typedef struct wanted {
    int32_t site, event;
    operand *to;
} wanted;

static void want(const maker *m, wanted *list, size_t *n, int32_t site, operand *to)
{
    if (site < 0) return;
    const int32_t event = m->e->s->program->sites[site].event;
    size_t i = (*n)++;
    for (; i > 0 && list[i - 1].event > event; i--) list[i] = list[i - 1];
    list[i] = (wanted){site, event, to};
}

/* Goes on with the open invoke: changes and reads, in the order of the run. */
static inset_status travel(
    maker *m, const change *changes, size_t n_changes, const wanted *reads, size_t n_reads)
{
    inset_status status = INSET_OK;
    for (size_t i = 0, k = 0; (i < n_changes || k < n_reads) && !status;) {
        operand here;
        if (k < n_reads && (i == n_changes || reads[k].event < changes[i].event)) {
            status = trace_site(m->t, reads[k].site, &here);
            *reads[k++].to = here;
        } else if (changes[i].head < 0) {
            status = trace_replace(m->t, changes[i].site, &changes[i].value);
            i++;
        } else {
            status = trace_site(m->t, changes[i].site, &here);
            if (!status) status = set_head(m, &here, changes[i].head, &changes[i].value);
            i++;
        }
    }
    return status;
}

/* metric: NULL when it is not wanted. */
static inset_status whole_run(maker *m, bool base, operand *out, operand *metric)
{
    const edges *e = m->e;
    size_t n = 0;
    wanted *reads = arena_new(&m->memory, (size_t)e->s->n_layers * PLACE_COUNT * sizeof *reads);
    if (!reads) return INSET_NO_MEMORY;
    for (int32_t l = 0; l < e->s->n_layers; l++)
        for (int k = 0; k < PLACE_COUNT; k++)
            want(m, reads, &n, e->layers[l].place[k], entry(out, l, (edge_place)k));
    inset_status status = begin(m, base);
    if (!status) status = travel(m, NULL, 0, reads, n);
    return status || !metric ? status : take_metric(m, metric);
}

/* ---- writers ------------------------------------------------------------ */

/* What a writer's output is in one run less another's: `of` and `less` hold the places of both; a
 * head's z of `of` among those of `less`. Opens an invoke where a head asks for one. */
static inset_status writer_delta(maker *m, int64_t u, operand *of, operand *less, operand *out)
{
    const edge_node *w = &m->e->writers[u];
    if (w->part != 'z') {
        const edge_place place = w->part == 'i' ? PLACE_STREAM : PLACE_MLP_OUT;
        const int32_t layer = w->part == 'i' ? 0 : w->layer;
        return trace_binary(
            m->t, TRACE_SUBTRACT, entry(of, layer, place), entry(less, layer, place), out);
    }
    if (m->e->layers[w->layer].out_norm < 0) {
        operand here, there;
        inset_status status = head_of(m, entry(of, w->layer, PLACE_RESULT), w->head, &here);
        if (!status) status = head_of(m, entry(less, w->layer, PLACE_RESULT), w->head, &there);
        return status ? status : trace_binary(m->t, TRACE_SUBTRACT, &here, &there, out);
    }
    const int32_t *at = m->e->layers[w->layer].place;
    operand z, head, made;
    inset_status status = begin(m, true);
    if (status || (status = trace_site(m->t, at[PLACE_Z], &z))
        || (status = trace_set(m->t, &z, 0, NULL, TRACE_COPY, entry(less, w->layer, PLACE_Z)))
        || (status = head_of(m, entry(of, w->layer, PLACE_Z), w->head, &head))
        || (status = set_head(m, &z, w->head, &head))
        || (status = trace_site(m->t, at[PLACE_ATTN_OUT], &made)))
        return status;
    return trace_binary(m->t, TRACE_SUBTRACT, &made, entry(less, w->layer, PLACE_ATTN_OUT), out);
}

/* ---- readers ------------------------------------------------------------ */

static int which_of(const edge_node *v) { return v->part == 'q' ? 0 : v->part == 'k' ? 1 : 2; }

/* The site through which a reader reads. */
static int32_t reading_site(const edges *e, const edge_node *v)
{
    if (v->part == 'l') return e->layers[0].place[PLACE_LAST];
    if (v->part == 'm') return e->layers[v->layer].place[PLACE_MLP_INPUT];
    return e->layers[v->layer].read[which_of(v)];
}

/* The change by which a reader alone sees `stream`. */
static change reader_change(const maker *m, const edge_node *v, const operand *stream)
{
    const edges *e = m->e;
    const bool head = v->part != 'm' && v->part != 'l';
    const int32_t site = head ? e->layers[v->layer].alone[which_of(v)] : reading_site(e, v);
    return (change){site, e->s->program->sites[site].event, head ? v->head : -1, *stream};
}

/* The same for one edge: a head's q, k or v as a run makes it all of whose heads read `stream`. It
 * is the product that the base run has, so that a row whose difference is zero is the base's row
 * to the bit. */
static inset_status reader_of_run(maker *m, const edge_node *v, const operand *stream, change *out)
{
    const edges *e = m->e;
    *out = reader_change(m, v, stream);
    if (out->head < 0) return INSET_OK;
    const int32_t shown = e->layers[v->layer].place[PLACE_Q + which_of(v)];
    operand read;
    inset_status status = begin(m, true);
    if (!status) status = trace_replace(m->t, reading_site(e, v), stream);
    if (!status) status = trace_site(m->t, shown, &read);
    *out = (change){shown, e->s->program->sites[shown].event, v->head, {0}};
    return status ? status : head_of(m, &read, v->head, &out->value);
}

/* A copy of a stream with a difference added from the first token on that differs: rows before it
 * stay the very same rows. */
static inset_status add_delta(maker *m, const operand *seen, const operand *delta, operand *out)
{
    const index_item from[2] = {
        {.kind = INDEX_SLICE}, {.kind = INDEX_SLICE,
                                   .has_start = true,
                                   .start = attribute_first_difference(m->e->s, m->pair)}};
    operand part;
    inset_status status = trace_clone(m->t, seen, out);
    if (!status) status = trace_index(m->t, delta, 2, from, &part);
    return status ? status : trace_set(m->t, out, 2, from, TRACE_ADD, &part);
}

/* ---- one edge ----------------------------------------------------------- */

static inset_status patch_edge(maker *m, int64_t u, int64_t v, operand *metric)
{
    const edge_node *to = &m->e->readers[v];
    operand stream, seen;
    wanted read;
    size_t n = 0;
    inset_status status = INSET_OK;
    if (attribute_first_difference(m->e->s, m->pair) == m->e->s->clean.lengths[m->pair])
        return *metric = m->base_metric, INSET_OK; /* the two runs are one */
    if (!m->has_delta[u]) status = writer_delta(m, u, m->other, m->base, &m->deltas[u]);
    m->has_delta[u] = true;
    if (status || (status = begin(m, true))) return status;
    want(m, &read, &n, reading_site(m->e, to), &seen);
    change made;
    if ((status = travel(m, NULL, 0, &read, n))
        || (status = add_delta(m, &seen, &m->deltas[u], &stream))
        || (status = reader_of_run(m, to, &stream, &made)) || (status = begin(m, true))
        || (status = travel(m, &made, 1, NULL, 0)))
        return status;
    return take_metric(m, metric);
}

/* ---- circuits ----------------------------------------------------------- */

/* The circuit's run so far, up to the places asked for. */
static inset_status run_so_far(maker *m, const wanted *reads, size_t n)
{
    inset_status status = begin(m, true);
    return status ? status : travel(m, m->changes, m->n_changes, reads, n);
}

/* The stream that a reader sees: its own less the edges that are not kept, or the other run's and
 * those that are, whichever is shorter. kind: 0 its own, 1 the other run's, 2 `*out`. */
static inset_status circuit_stream(maker *m, int64_t v, const bool *kept, const operand *own,
    const operand *other, operand *out, int *kind)
{
    const edges *e = m->e;
    int64_t there = 0, n_kept = 0;
    for (int64_t u = 0; u < e->n_writers; u++) {
        there += edge_exists(e, u, v);
        n_kept += kept[u * e->n_readers + v];
    }
    *kind = n_kept == there ? 0 : n_kept == 0 ? 1 : 2;
    if (*kind < 2) return INSET_OK;
    /* behind a norm differences do not add up to the whole: those of the edges let go count */
    const bool from_other = e->layers[0].out_norm < 0 && n_kept <= there - n_kept;
    inset_status status = INSET_OK;
    for (int64_t u = 0; u < e->n_writers && !status; u++) {
        if (!edge_exists(e, u, v) || kept[u * e->n_readers + v] != from_other || m->has_delta[u])
            continue;
        status = writer_delta(m, u, m->own, m->other, &m->deltas[u]);
        m->has_delta[u] = true;
    }
    *out = from_other ? *other : *own;
    for (int64_t u = 0; u < e->n_writers && !status; u++) {
        if (!edge_exists(e, u, v) || kept[u * e->n_readers + v] != from_other) continue;
        const operand sum = *out;
        status = trace_binary(
            m->t, from_other ? TRACE_ADD : TRACE_SUBTRACT, &sum, &m->deltas[u], out);
    }
    return status;
}

/* Adds what a reader sees to the run's changes. */
static inset_status add_reader(
    maker *m, int64_t v, const bool *kept, const operand *own, const operand *other)
{
    const edge_node *to = &m->e->readers[v];
    operand stream;
    change made;
    int kind;
    inset_status status = circuit_stream(m, v, kept, own, other, &stream, &kind);
    if (status || !kind) return status;
    if (kind == 1 && (to->part == 'q' || to->part == 'k' || to->part == 'v')) {
        const edge_place place = PLACE_Q + which_of(to);
        const int32_t site = m->e->layers[to->layer].place[place];
        made = (change){site, m->e->s->program->sites[site].event, to->head, {0}};
        status = head_of(m, entry(m->other, to->layer, place), to->head, &made.value);
    } else made = reader_change(m, to, kind == 1 ? other : &stream);
    if (status) return status;
    size_t i = m->n_changes++;
    for (; i > 0 && m->changes[i - 1].event > made.event; i--) m->changes[i] = m->changes[i - 1];
    m->changes[i] = made;
    return INSET_OK;
}

/* What each of a reader's reading sites shows in the run and in the other one. */
typedef struct readings {
    operand own[3], other[3];
} readings;

static inset_status circuit_layer(maker *m, int32_t layer, const bool *kept, readings *x)
{
    const edges *e = m->e;
    const edge_layer *at = &e->layers[layer];
    wanted reads[8];
    size_t n = 0;
    int64_t v = (int64_t)layer * (e->n_heads + 2 * e->n_kv_heads + 1);
    if (layer)
        want(m, reads, &n, e->layers[layer - 1].place[PLACE_MLP_OUT],
            entry(m->own, layer - 1, PLACE_MLP_OUT));
    else want(m, reads, &n, at->place[PLACE_STREAM], entry(m->own, 0, PLACE_STREAM));
    for (int k = 0; k < 3; k++)
        if (!k || at->read[k] != at->read[0]) want(m, reads, &n, at->read[k], &x->own[k]);
    inset_status status = run_so_far(m, reads, n);
    for (int k = 1; k < 3; k++)
        if (at->read[k] == at->read[0]) x->own[k] = x->own[0];
    n = 0; /* the same of the other run */
    if (!status) status = begin(m, false);
    for (int k = 0; k < 3; k++)
        if (!k || at->read[k] != at->read[0]) want(m, reads, &n, at->read[k], &x->other[k]);
    if (!status) status = travel(m, NULL, 0, reads, n);
    for (int k = 1; k < 3; k++)
        if (at->read[k] == at->read[0]) x->other[k] = x->other[0];
    for (int k = 0; k < 3; k++)
        for (int32_t h = 0; h < (k ? e->n_kv_heads : e->n_heads) && !status; h++)
            status = add_reader(m, v++, kept, &x->own[k], &x->other[k]);
    n = 0;
    want(m, reads, &n, at->place[PLACE_Z], entry(m->own, layer, PLACE_Z));
    want(m, reads, &n, at->place[PLACE_RESULT], entry(m->own, layer, PLACE_RESULT));
    want(m, reads, &n, at->place[PLACE_MLP_INPUT], entry(m->own, layer, PLACE_MLP_INPUT));
    if (!status) status = run_so_far(m, reads, n);
    return status ? status
                  : add_reader(m, v, kept, entry(m->own, layer, PLACE_MLP_INPUT),
                      entry(m->other, layer, PLACE_MLP_INPUT));
}

static inset_status circuit_pair(maker *m, const bool *kept, operand *metric)
{
    const edges *e = m->e;
    const int32_t last = e->s->n_layers - 1;
    readings *x = arena_new(&m->memory, sizeof *x);
    wanted reads[2];
    size_t n = 0;
    inset_status status = x ? INSET_OK : INSET_NO_MEMORY;
    m->n_changes = 0;
    memset(m->has_delta, 0, (size_t)e->n_writers * sizeof *m->has_delta);
    for (int32_t l = 0; l <= last && !status; l++) status = circuit_layer(m, l, kept, x);
    want(m, reads, &n, e->layers[last].place[PLACE_MLP_OUT], entry(m->own, last, PLACE_MLP_OUT));
    want(m, reads, &n, e->layers[0].place[PLACE_LAST], entry(m->own, 0, PLACE_LAST));
    if (!status) status = run_so_far(m, reads, n);
    if (!status)
        status = add_reader(m, e->n_readers - 1, kept, entry(m->own, 0, PLACE_LAST),
            entry(m->other, 0, PLACE_LAST));
    if (!status) status = run_so_far(m, NULL, 0);
    return status ? status : take_metric(m, metric);
}

/* ---- plans -------------------------------------------------------------- */

static inset_status open_maker(maker *m, edges *e, size_t n_results)
{
    const size_t places = (size_t)e->s->n_layers * PLACE_COUNT;
    *m = (maker){.e = e};
    arena_start(&m->memory, e->s->context);
    arena *a = &m->memory;
    m->base = arena_new(a, places * sizeof *m->base);
    m->other = arena_new(a, places * sizeof *m->other);
    m->own = arena_new(a, places * sizeof *m->own);
    m->scratch = arena_new(a, e->s->n_metrics * sizeof *m->scratch);
    m->changes = arena_new(a, (size_t)e->n_readers * sizeof *m->changes);
    m->deltas = arena_new(a, (size_t)e->n_writers * sizeof *m->deltas);
    m->has_delta = arena_new(a, (size_t)e->n_writers * sizeof *m->has_delta);
    m->results = arena_new(a, n_results * sizeof *m->results);
    if (!m->base || !m->other || !m->own || !m->scratch || !m->changes || !m->deltas
        || !m->has_delta || !m->results)
        return INSET_NO_MEMORY;
    return trace_create(e->s->context, e->s->program, e->s->model->type, &m->t);
}

static void close_maker(maker *m)
{
    trace_free(m->t);
    arena_free(&m->memory);
}

/* Runs the trace; the results' numbers are added to out [of]: result i to out[i % of]. */
static inset_status finish(maker *m, double *out, size_t of)
{
    const edges *e = m->e;
    const plan_options options = {.no_share = e->s->no_share,
        .memory_limit = e->s->memory_limit,
        .traits = sweep_traits(e->s)};
    plan *planned = NULL;
    run *r = NULL;
    inset_tensor x;
    inset_status status = trace_save_stack(m->t, "results", m->n_results, m->results);
    if (!status) status = plan_create(m->t, &options, &planned);
    if (!status) status = run_create(e->s->model, planned, &r);
    if (!status) status = run_execute(r);
    if (!status) status = run_saved(r, 0, &x);
    for (size_t i = 0; i < m->n_results && !status; i++) out[i % of] += ((const float *)x.data)[i];
    run_free(r);
    plan_free(planned);
    return status;
}

static inset_status both_runs(maker *m)
{
    memset(m->has_delta, 0, (size_t)m->e->n_writers * sizeof *m->has_delta);
    inset_status status = whole_run(m, true, m->base, &m->base_metric);
    return status ? status : whole_run(m, false, m->other, NULL);
}

inset_status edges_exact(edges *e, size_t n, const int64_t (*chosen)[2], double *out)
{
    double *sums = memory_new(e->s->context, (n + 1) * sizeof *sums);
    inset_status status = sums ? INSET_OK : INSET_NO_MEMORY;
    for (int64_t pair = 0; pair < e->s->pairs && !status; pair++) {
        maker m;
        status = open_maker(&m, e, n + 1);
        m.pair = pair;
        if (!status) status = both_runs(&m);
        if (!status) m.results[m.n_results++] = m.base_metric;
        for (size_t i = 0; i < n && !status; i++)
            status = patch_edge(&m, chosen[i][0], chosen[i][1], &m.results[m.n_results++]);
        if (!status) status = finish(&m, sums, n + 1);
        close_maker(&m);
    }
    for (size_t i = 0; i < n && !status; i++)
        out[i] = (sums[1 + i] - sums[0]) / (double)e->s->pairs;
    memory_free(e->s->context, sums);
    return status;
}

inset_status edges_circuit(edges *e, const bool *kept, double *out)
{
    double sum = 0;
    inset_status status = INSET_OK;
    for (int64_t pair = 0; pair < e->s->pairs && !status; pair++) {
        maker m;
        status = open_maker(&m, e, 1);
        m.pair = pair;
        if (!status) status = both_runs(&m);
        if (!status) status = circuit_pair(&m, kept, &m.results[m.n_results++]);
        if (!status) status = finish(&m, &sum, 1);
        close_maker(&m);
    }
    *out = sum / (double)e->s->pairs;
    return status;
}
