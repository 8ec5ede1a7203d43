/* patching.c: pieces of which traces of patched edges are made; see patching.h. */
#include "edges/patching.h"

#include <string.h>

#include "plan/plan.h"
#include "run/run.h"
#include "sweep/prompt_runs.h"

inset_status patching_begin(maker *m, bool base)
{
    const sweep *s = m->e->s;
    const prompts *p = base == s->noise ? &s->clean : &s->corrupt;
    return trace_invoke_tokens(m->t, 1, &p->lengths[m->pair], p->tokens + p->starts[m->pair]);
}

inset_status patching_metric(maker *m, operand *out)
{
    inset_status status = metrics_take(m->e->s, m->t, m->pair, m->scratch);
    *out = m->scratch[0];
    return status;
}

inset_status patching_head(maker *m, const operand *x, int32_t head, operand *out)
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

void patching_want(const maker *m, wanted *list, size_t *n, int32_t site, operand *to)
{
    if (site < 0) return;
    const int32_t event = m->e->s->program->sites[site].event;
    size_t i = (*n)++;
    for (; i > 0 && list[i - 1].event > event; i--) list[i] = list[i - 1];
    list[i] = (wanted){site, event, to};
}

inset_status patching_travel(
    maker *m, const change *changes, size_t n_changes, const wanted *reads, size_t n_reads)
{
    inset_status status = INSET_OK;
    for (size_t i = 0, k = 0; (i < n_changes || k < n_reads) && !status;) {
        operand here;
        if (k < n_reads && (i == n_changes || reads[k].event < changes[i].event)) {
            status = trace_site(m->t, reads[k].site, &here);
            *reads[k++].to = here;
        } else {
            const change *c = &changes[i++];
            if (c->head == CHANGE_SLOT) {
                status = trace_replace(m->t, c->site, &c->value);
                continue;
            }
            status = trace_site(m->t, c->site, &here);
            if (!status)
                status = c->head == CHANGE_ALL
                             ? trace_set(m->t, &here, 0, NULL, TRACE_COPY, &c->value)
                             : set_head(m, &here, c->head, &c->value);
        }
    }
    return status;
}

inset_status patching_other_run(maker *m, const wanted *reads, size_t n)
{
    inset_status status = patching_begin(m, m->ablated != NULL);
    return status ? status : patching_travel(m, m->ablated, m->n_ablated, reads, n);
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
            patching_want(m, reads, &n, e->layers[l].place[k], entry(out, l, (edge_place)k));
    inset_status status = INSET_OK;
    if (!base) status = patching_other_run(m, reads, n);
    else if (!(status = patching_begin(m, true))) status = patching_travel(m, NULL, 0, reads, n);
    return status || !metric ? status : patching_metric(m, metric);
}

/* ---- writers ------------------------------------------------------------ */

inset_status patching_delta(maker *m, int64_t u, operand *of, operand *less, operand *out)
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
        inset_status status = patching_head(m, entry(of, w->layer, PLACE_RESULT), w->head, &here);
        if (!status)
            status = patching_head(m, entry(less, w->layer, PLACE_RESULT), w->head, &there);
        if (!status) status = trace_binary(m->t, TRACE_SUBTRACT, &here, &there, out);
        const operand scale = {.kind = OPERAND_FLOAT, .number = m->e->layers[w->layer].out_scale};
        if (status || scale.number == 1) return status;
        const operand unscaled = *out;
        return trace_binary(m->t, TRACE_MULTIPLY, &unscaled, &scale, out);
    }
    const int32_t *at = m->e->layers[w->layer].place;
    operand z, head, made;
    inset_status status = patching_begin(m, true);
    if (status || (status = trace_site(m->t, at[PLACE_Z], &z))
        || (status = trace_set(m->t, &z, 0, NULL, TRACE_COPY, entry(less, w->layer, PLACE_Z)))
        || (status = patching_head(m, entry(of, w->layer, PLACE_Z), w->head, &head))
        || (status = set_head(m, &z, w->head, &head))
        || (status = trace_site(m->t, at[PLACE_ATTN_OUT], &made)))
        return status;
    return trace_binary(m->t, TRACE_SUBTRACT, &made, entry(less, w->layer, PLACE_ATTN_OUT), out);
}

/* ---- readers ------------------------------------------------------------ */

int patching_which(const edge_node *v) { return v->part == 'q' ? 0 : v->part == 'k' ? 1 : 2; }

int32_t patching_reads_at(const edges *e, const edge_node *v)
{
    if (v->part == 'l') return e->layers[0].place[PLACE_LAST];
    if (v->part == 'm') return e->layers[v->layer].place[PLACE_MLP_INPUT];
    return e->layers[v->layer].read[patching_which(v)];
}

int32_t patching_alone_at(const edges *e, const edge_node *v)
{
    if (v->part == 'l') return patching_reads_at(e, v);
    const edge_layer *at = &e->layers[v->layer];
    return edge_is_of_head(v) ? at->alone[patching_which(v)] : at->place[edges_mlp_reads(at)];
}

inset_status patching_seen(maker *m, const edge_node *v, const operand *stream, operand *out)
{
    const program *p = m->e->s->program;
    const int32_t read = patching_reads_at(m->e, v);
    const bool behind_norm = !edge_is_of_head(v) && patching_alone_at(m->e, v) != read;
    if (behind_norm) return trace_call(m->t, p->sites[read].module, stream, out);
    return *out = *stream, INSET_OK;
}

inset_status patching_change(maker *m, const edge_node *v, const operand *stream, change *out)
{
    const int32_t site = patching_alone_at(m->e, v);
    *out = (change){
        site, m->e->s->program->sites[site].event, edge_is_of_head(v) ? v->head : CHANGE_SLOT, {0}};
    return patching_seen(m, v, stream, &out->value);
}

/* ---- plans -------------------------------------------------------------- */

inset_status patching_open(maker *m, edges *e, size_t n_results)
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

void patching_close(maker *m)
{
    trace_free(m->t);
    arena_free(&m->memory);
}

/* Runs a plan, and adds its results' numbers. */
static inset_status run_plan(maker *m, plan *planned, double *out, size_t of)
{
    run *r = NULL;
    inset_tensor x;
    inset_status status = run_create(m->e->s->model, planned, &r);
    if (!status) status = run_execute(r);
    if (!status) status = run_saved(r, 0, &x);
    for (size_t i = 0; i < m->n_results && !status; i++) out[i % of] += ((const float *)x.data)[i];
    run_free(r);
    return status;
}

inset_status patching_finish(maker *m, double *out, size_t of)
{
    const edges *e = m->e;
    const plan_options options = {.no_share = e->s->no_share,
        .memory_limit = e->s->memory_limit,
        .traits = sweep_traits(e->s)};
    plan *planned = NULL;
    inset_status status = trace_save_stack(m->t, "results", m->n_results, m->results);
    if (!status) status = plan_create(m->t, &options, &planned);
    if (!status && e->only_cost) cost_add_plan(e->only_cost, planned);
    else if (!status) status = run_plan(m, planned, out, of);
    plan_free(planned);
    return status;
}

inset_status patching_both_runs(maker *m)
{
    memset(m->has_delta, 0, (size_t)m->e->n_writers * sizeof *m->has_delta);
    inset_status status = whole_run(m, true, m->base, &m->base_metric);
    return status ? status : whole_run(m, false, m->other, NULL);
}

inset_status patching_pair(
    edges *e, int64_t pair, size_t n, patch_one *patch, const void *things, double *out)
{
    maker m;
    double *metrics = memory_new(e->s->context, (n + 1) * sizeof *metrics);
    if (!metrics) return INSET_NO_MEMORY;
    inset_status status = patching_open(&m, e, n + 1);
    m.pair = pair;
    if (!status) status = patching_both_runs(&m);
    if (!status) m.results[m.n_results++] = m.base_metric;
    for (size_t i = 0; i < n && !status; i++)
        status = patch(&m, things, i, &m.results[m.n_results++]);
    if (!status) status = patching_finish(&m, metrics, n + 1);
    patching_close(&m);
    for (size_t i = 0; i < n && !status; i++) out[i] = metrics[1 + i] - metrics[0];
    memory_free(e->s->context, metrics);
    return status;
}

inset_status patching_each(edges *e, size_t n, patch_one *patch, const void *things, double *out)
{
    double *effects = memory_new(e->s->context, (n + 1) * sizeof *effects);
    inset_status status = effects ? INSET_OK : INSET_NO_MEMORY;
    for (size_t i = 0; i < n; i++) out[i] = 0;
    for (int64_t pair = 0; pair < e->s->pairs && !status; pair++) {
        status = patching_pair(e, pair, n, patch, things, effects);
        for (size_t i = 0; i < n && !status; i++) out[i] += effects[i];
    }
    for (size_t i = 0; i < n; i++) out[i] /= (double)e->s->pairs;
    memory_free(e->s->context, effects);
    return status;
}
