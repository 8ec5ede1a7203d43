/* along.c: paths patched while all else stays as it is in the base run. A component on the path is
 * run with the difference added to what it reads; what its own output changes by is the difference
 * of the next step. All else is the base run's rows, so a path costs the rows of its components,
 * and of the last norm and logits. */
#include <string.h>

#include "edges/patching.h"
#include "edges/path.h"

/* Adds a difference to what a reader reads in the open invoke, from the first token that
 * differs on. */
static inset_status read_more(maker *m, const edge_node *v, const operand *delta)
{
    const int64_t first = attribute_first_difference(m->e->s, m->pair);
    const int32_t alone = patching_alone_at(m->e, v),
                  site = edge_is_of_head(v) ? alone : patching_reads_at(m->e, v);
    const index_item items[3] = {{.kind = INDEX_SLICE},
        {.kind = INDEX_SLICE, .has_start = true, .start = first},
        {.kind = INDEX_INTEGER, .integer = v->head}};
    operand here, copy, part, seen;
    inset_status status = trace_index(m->t, delta, 2, items, &part);
    if (!status) status = trace_site(m->t, site, &here);
    if (status) return status;
    if (edge_is_of_head(v)) return trace_set(m->t, &here, 3, items, TRACE_ADD, &part);
    if ((status = trace_clone(m->t, &here, &copy))
        || (status = trace_set(m->t, &copy, 2, items, TRACE_ADD, &part))
        || (status = patching_seen(m, v, &copy, &seen)))
        return status;
    return trace_replace(m->t, alone, &seen);
}

static int32_t reads_when(const maker *m, const edge_node *v)
{
    return m->e->s->program->sites[patching_alone_at(m->e, v)].event;
}

static inset_status add_to(maker *m, operand *sum, bool *begun, const operand *more)
{
    const operand before = *sum;
    if (!*begun) return *begun = true, *sum = *more, INSET_OK;
    return trace_binary(m->t, TRACE_ADD, &before, more, sum);
}

/* What the components of one layer's attention (or its MLP) that `readers` lead to change by. */
static inset_status component_delta(maker *m, int32_t layer, bool mlp, const int64_t *readers,
    int32_t n, const operand *delta, operand *sum, bool *begun)
{
    const edges *e = m->e;
    const int32_t *at = e->layers[layer].place;
    wanted reads[3];
    size_t n_reads = 0;
    inset_status status = patching_begin(m, true);
    for (int32_t event = -1, next; !status; event = next) { /* in the order of the run */
        next = INT32_MAX;
        for (int32_t i = 0; i < n; i++) {
            const edge_node *v = &e->readers[readers[i]];
            if (v->layer != layer || (v->part == 'm') != mlp) continue;
            if (reads_when(m, v) > event && reads_when(m, v) < next) next = reads_when(m, v);
        }
        if (next == INT32_MAX) break;
        for (int32_t i = 0; i < n && !status; i++) {
            const edge_node *v = &e->readers[readers[i]];
            if (v->layer == layer && (v->part == 'm') == mlp && reads_when(m, v) == next)
                status = read_more(m, v, delta);
        }
    }
    if (mlp)
        patching_want(m, reads, &n_reads, at[PLACE_MLP_OUT], entry(m->own, layer, PLACE_MLP_OUT));
    else {
        patching_want(m, reads, &n_reads, at[PLACE_Z], entry(m->own, layer, PLACE_Z));
        patching_want(m, reads, &n_reads, at[PLACE_RESULT], entry(m->own, layer, PLACE_RESULT));
    }
    if (!status) status = patching_travel(m, NULL, 0, reads, n_reads);
    for (int64_t u = 0; u < e->n_writers && !status; u++) {
        bool on_path = false;
        if (e->writers[u].layer != layer || (e->writers[u].part == 'm') != mlp) continue;
        for (int32_t i = 0; i < n; i++) on_path |= edge_leads_on(e, readers[i], u);
        operand more;
        if (!on_path) continue;
        if (!(status = patching_delta(m, u, m->own, m->base, &more)))
            status = add_to(m, sum, begun, &more);
    }
    return status;
}

/* What all that a step reads changes by. */
static inset_status step_delta(maker *m, const int64_t *readers, int32_t n, operand *delta)
{
    operand sum = {0};
    bool begun = false;
    inset_status status = INSET_OK;
    for (int32_t layer = 0; layer < m->e->s->n_layers && !status; layer++)
        for (int mlp = 0; mlp < 2 && !status; mlp++) {
            bool there = false;
            for (int32_t i = 0; i < n; i++) {
                const edge_node *v = &m->e->readers[readers[i]];
                there |= v->layer == layer && (v->part == 'm') == (mlp != 0);
            }
            if (there)
                status = component_delta(m, layer, mlp != 0, readers, n, delta, &sum, &begun);
        }
    if (!status) *delta = sum;
    return status;
}

static inset_status patch_path(maker *m, const void *paths, size_t i_path, operand *metric)
{
    const edge_path *p = (const edge_path *)paths + i_path;
    const edges *e = m->e;
    operand delta = {0};
    bool begun = false;
    inset_status status = INSET_OK;
    if (attribute_first_difference(e->s, m->pair) == e->s->clean.lengths[m->pair])
        return *metric = m->base_metric, INSET_OK; /* the two runs are one */
    for (int32_t i = 0; i < p->steps[0].n && !status; i++) {
        const int64_t u = p->steps[0].nodes[i];
        if (!m->has_delta[u]) status = patching_delta(m, u, m->other, m->base, &m->deltas[u]);
        m->has_delta[u] = true;
        if (!status) status = add_to(m, &delta, &begun, &m->deltas[u]);
    }
    for (int32_t k = 1; k < p->n && !status; k++)
        if (e->readers[p->steps[k].nodes[0]].part != 'l')
            status = step_delta(m, p->steps[k].nodes, p->steps[k].n, &delta);
    if (!status) status = patching_begin(m, true);
    if (!status) status = read_more(m, &e->readers[e->n_readers - 1], &delta);
    return status ? status : patching_metric(m, metric);
}

static inset_status run_plain(edges *e, int64_t pair, const edge_path *paths, size_t n, double *out)
{
    int64_t(*chosen)[2] = memory_new(e->s->context, n * sizeof *chosen);
    if (!chosen) return INSET_NO_MEMORY;
    for (size_t i = 0; i < n; i++)
        chosen[i][0] = paths[i].steps[0].nodes[0], chosen[i][1] = paths[i].steps[1].nodes[0];
    inset_status status = edges_exact_pair(e, pair, n, (const int64_t(*)[2])chosen, out);
    memory_free(e->s->context, chosen);
    return status;
}

static inset_status check_path(const edges *e, const edge_path *p, bool freeze)
{
    for (int32_t k = 1; k < p->n; k++)
        for (int32_t i = 0; i < p->steps[k].n; i++)
            if (e->readers[p->steps[k].nodes[i]].part == 'l' && (k + 1 < p->n || p->steps[k].n > 1))
                return error_set(e->s->context, INSET_VALUE_ERROR,
                    "'%s': logits stand at the end and alone", p->name);
    if (freeze || (p->n == 2 && p->steps[0].n == 1 && p->steps[1].n == 1)) return INSET_OK;
    return error_set(e->s->context, INSET_USAGE_ERROR,
        "'%s' is more than one edge: a path is patched with --freeze", p->name);
}

inset_status edges_check_paths(const edges *e, const edge_paths *paths, bool freeze)
{
    inset_status status = INSET_OK;
    for (size_t i = 0; i < paths->n && !status; i++) status = check_path(e, &paths->at[i], freeze);
    return status;
}

inset_status edges_along(
    edges *e, int64_t pair, const edge_path *paths, size_t n, bool freeze, double *out)
{
    inset_status status = INSET_OK;
    for (size_t i = 0; i < n && !status; i += PATHS_A_PLAN) {
        const size_t some = n - i < PATHS_A_PLAN ? n - i : PATHS_A_PLAN;
        status = freeze ? patching_pair(e, pair, some, patch_path, paths + i, out + i)
                        : run_plain(e, pair, paths + i, some, out + i);
    }
    return status;
}
