/* circuit.c: a run with all edges but the kept ones carrying the other run's value. */
#include <string.h>

#include "edges/patching.h"

/* The circuit's run so far, up to the places asked for. */
static inset_status run_so_far(maker *m, const wanted *reads, size_t n)
{
    inset_status status = patching_begin(m, true);
    return status ? status : patching_travel(m, m->changes, m->n_changes, reads, n);
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
        status = patching_delta(m, u, m->own, m->other, &m->deltas[u]);
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
    if (kind == 1 && edge_is_of_head(to)) {
        const edge_place place = PLACE_Q + patching_which(to);
        const int32_t site = m->e->layers[to->layer].place[place];
        made = (change){site, m->e->s->program->sites[site].event, to->head, {0}};
        status = patching_head(m, entry(m->other, to->layer, place), to->head, &made.value);
    } else status = patching_change(m, to, kind == 1 ? other : &stream, &made);
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
        patching_want(m, reads, &n, e->layers[layer - 1].place[PLACE_MLP_OUT],
            entry(m->own, layer - 1, PLACE_MLP_OUT));
    else patching_want(m, reads, &n, at->place[PLACE_STREAM], entry(m->own, 0, PLACE_STREAM));
    for (int k = 0; k < 3; k++)
        if (!k || at->read[k] != at->read[0]) patching_want(m, reads, &n, at->read[k], &x->own[k]);
    inset_status status = run_so_far(m, reads, n);
    for (int k = 1; k < 3; k++)
        if (at->read[k] == at->read[0]) x->own[k] = x->own[0];
    n = 0; /* the same of the other run */
    for (int k = 0; k < 3; k++)
        if (!k || at->read[k] != at->read[0])
            patching_want(m, reads, &n, at->read[k], &x->other[k]);
    if (!status) status = patching_other_run(m, reads, n);
    for (int k = 1; k < 3; k++)
        if (at->read[k] == at->read[0]) x->other[k] = x->other[0];
    for (int k = 0; k < 3; k++)
        for (int32_t h = 0; h < (k ? e->n_kv_heads : e->n_heads) && !status; h++)
            status = add_reader(m, v++, kept, &x->own[k], &x->other[k]);
    n = 0;
    patching_want(m, reads, &n, at->place[PLACE_Z], entry(m->own, layer, PLACE_Z));
    patching_want(m, reads, &n, at->place[PLACE_RESULT], entry(m->own, layer, PLACE_RESULT));
    patching_want(m, reads, &n, at->place[PLACE_MLP_INPUT], entry(m->own, layer, PLACE_MLP_INPUT));
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
    patching_want(
        m, reads, &n, e->layers[last].place[PLACE_MLP_OUT], entry(m->own, last, PLACE_MLP_OUT));
    patching_want(m, reads, &n, e->layers[0].place[PLACE_LAST], entry(m->own, 0, PLACE_LAST));
    if (!status) status = run_so_far(m, reads, n);
    if (!status)
        status = add_reader(m, e->n_readers - 1, kept, entry(m->own, 0, PLACE_LAST),
            entry(m->other, 0, PLACE_LAST));
    if (!status) status = run_so_far(m, NULL, 0);
    return status ? status : patching_metric(m, metric);
}

inset_status edges_circuit(edges *e, const bool *kept, int64_t pair, double *out)
{
    maker m;
    *out = 0;
    inset_status status = ablation_prepare(e);
    if (status) return status;
    status = patching_open(&m, e, 1);
    m.pair = pair;
    if (!status) status = ablation_changes(&m);
    if (!status) status = patching_both_runs(&m);
    if (!status) status = circuit_pair(&m, kept, &m.results[m.n_results++]);
    if (!status) status = patching_finish(&m, out, 1);
    patching_close(&m);
    return status;
}
