/* exact.c: edges patched one by one: what a reader makes when it alone sees the stream with the
 * writer's other value. */
#include "edges/patching.h"

/* The change by which a reader alone sees `stream`: a head's q, k or v as a run makes it all of
 * whose heads read `stream`. It is the product that the base run has, so that a row whose
 * difference is zero is the base's row to the bit. */
static inset_status reader_of_run(maker *m, const edge_node *v, const operand *stream, change *out)
{
    const edges *e = m->e;
    inset_status status = patching_change(m, v, stream, out);
    if (status || out->head < 0) return status;
    const int32_t shown = e->layers[v->layer].place[PLACE_Q + patching_which(v)];
    operand read;
    status = patching_begin(m, true);
    if (!status) status = trace_replace(m->t, patching_reads_at(e, v), stream);
    if (!status) status = trace_site(m->t, shown, &read);
    *out = (change){shown, e->s->program->sites[shown].event, v->head, {0}};
    return status ? status : patching_head(m, &read, v->head, &out->value);
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

static inset_status patch_edge(maker *m, const void *edges, size_t i, operand *metric)
{
    const int64_t *edge = ((const int64_t(*)[2])edges)[i], u = edge[0];
    const edge_node *to = &m->e->readers[edge[1]];
    operand stream, seen;
    inset_status status = INSET_OK;
    if (attribute_first_difference(m->e->s, m->pair) == m->e->s->clean.lengths[m->pair])
        return *metric = m->base_metric, INSET_OK; /* the two runs are one */
    if (!m->has_delta[u]) status = patching_delta(m, u, m->other, m->base, &m->deltas[u]);
    m->has_delta[u] = true;
    if (status || (status = patching_begin(m, true))) return status;
    change made;
    if ((status = trace_site(m->t, patching_reads_at(m->e, to), &seen))
        || (status = add_delta(m, &seen, &m->deltas[u], &stream))
        || (status = reader_of_run(m, to, &stream, &made)) || (status = patching_begin(m, true))
        || (status = patching_travel(m, &made, 1, NULL, 0)))
        return status;
    return patching_metric(m, metric);
}

inset_status edges_exact(edges *e, size_t n, const int64_t (*chosen)[2], double *out)
{
    return patching_each(e, n, patch_edge, chosen, out);
}

inset_status edges_exact_pair(
    edges *e, int64_t pair, size_t n, const int64_t (*chosen)[2], double *out)
{
    return patching_pair(e, pair, n, patch_edge, chosen, out);
}
