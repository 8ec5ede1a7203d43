/* trace.c: the runs of some pairs, and what edges want of them.
 *
 * A gradient with respect to what one module reads, and nobody else, is that of a copy put in the
 * place of its input: the copy has the same rows, so no run changes by it. What heads read is taken
 * apart behind the run, from the gradients of q, k and v (score.c). */
#include "edges/edges.h"

#include <stdio.h>
#include <string.h>

#include "plan/plan.h"
#include "trace/records.h"

/* A place of a layer in the order of the run. */
typedef struct visit {
    int32_t layer, event;
    edge_place place;
} visit;

typedef struct writer {
    edges *e;
    trace *t;
    arena *memory;
    visit *forward, *backward; /* the order of places, and of gradients */
    size_t n_forward, n_backward;
    edge_saved *saved;
    int64_t pair;
    operand *clean, *corrupt; /* [n_layers * PLACE_COUNT] */
    operand **points;         /* [steps] the same */
    operand embedding[2];     /* of the clean run and of the corrupt one */
    operand *metrics;         /* [2 + steps][n_metrics] of the runs of a pair */
    operand *all;             /* [n_metrics][2 * count] */
} writer;

/* ---- orders ------------------------------------------------------------- */

static bool is_copied(const edge_layer *at, edge_place place)
{
    return place == edges_mlp_reads(at) || place == PLACE_LAST;
}

static bool has_gradient(const edge_layer *at, edge_place place)
{
    return is_copied(at, place) || place == PLACE_Q || place == PLACE_K || place == PLACE_V;
}

/* Attention's output and its heads' are there for exact edges only, as is the stream that an MLP
 * reads through attention's norm (it is PLACE_NORM_INPUT). */
static bool is_taken(const edge_layer *at, edge_place place)
{
    return place != PLACE_ATTN_OUT && place != PLACE_RESULT
           && (place != PLACE_MLP_INPUT || edges_mlp_reads(at) == PLACE_MLP_INPUT);
}

static void insert(visit *list, size_t *n, visit v, bool backwards)
{
    size_t i = (*n)++;
    for (; i > 0 && (backwards ? list[i - 1].event < v.event : list[i - 1].event > v.event); i--)
        list[i] = list[i - 1];
    list[i] = v;
}

static inset_status find_orders(writer *w)
{
    const edges *e = w->e;
    const program *p = e->s->program;
    const size_t most = (size_t)e->s->n_layers * PLACE_COUNT;
    w->forward = arena_new(w->memory, most * sizeof *w->forward);
    w->backward = arena_new(w->memory, most * sizeof *w->backward);
    if (!w->forward || !w->backward) return INSET_NO_MEMORY;
    for (int32_t l = 0; l < e->s->n_layers; l++)
        for (int k = 0; k < PLACE_COUNT; k++) {
            const int32_t site = e->layers[l].place[k];
            if (site < 0 || !is_taken(&e->layers[l], (edge_place)k)) continue;
            insert(
                w->forward, &w->n_forward, (visit){l, p->sites[site].event, (edge_place)k}, false);
            if (!has_gradient(&e->layers[l], (edge_place)k)) continue;
            /* of a value where it is made, of a copy where it was made */
            const int32_t value = p->slots[p->sites[site].slot].value;
            const int32_t event = is_copied(&e->layers[l], (edge_place)k)
                                      ? p->sites[site].event
                                      : p->steps[p->values[value].step].event;
            insert(w->backward, &w->n_backward, (visit){l, event, (edge_place)k}, true);
        }
    return INSET_OK;
}

/* ---- runs --------------------------------------------------------------- */

static inset_status take_places(writer *w, operand *out)
{
    inset_status status = INSET_OK;
    for (size_t i = 0; i < w->n_forward && !status; i++) {
        const visit *v = &w->forward[i];
        const int32_t site = w->e->layers[v->layer].place[v->place];
        operand here, *to = entry(out, v->layer, v->place);
        status = trace_site(w->t, site, &here);
        *to = here;
        if (status || !is_copied(&w->e->layers[v->layer], v->place)) continue;
        status = trace_clone(w->t, &here, to);
        if (!status) status = trace_replace(w->t, site, to);
    }
    return status;
}

static inset_status begin(writer *w, bool clean)
{
    const prompts *p = clean ? &w->e->s->clean : &w->e->s->corrupt;
    return trace_invoke_tokens(w->t, 1, &p->lengths[w->pair], p->tokens + p->starts[w->pair]);
}

static inset_status plain_run(writer *w, bool clean, operand *out)
{
    const sweep *s = w->e->s;
    operand *metrics = w->metrics + (size_t)(clean ? 0 : 1) * s->n_metrics;
    inset_status status = begin(w, clean);
    if (!status && w->e->embedding >= 0)
        status = trace_site(w->t, w->e->embedding, &w->embedding[!clean]);
    if (!status) status = take_places(w, out);
    if (!status) status = metrics_take(s, w->t, w->pair, metrics);
    for (size_t m = 0; m < s->n_metrics && !status; m++)
        w->all[m * 2 * (size_t)w->saved->count + 2 * (size_t)(w->pair - w->saved->first) + !clean] =
            metrics[m];
    return status;
}

static inset_status point_run(writer *w, int32_t k)
{
    const sweep *s = w->e->s;
    inset_status status = begin(w, false);
    if (!status)
        status = attribute_point(
            s, w->t, w->pair, w->e->embedding, k, &w->embedding[0], &w->embedding[1]);
    if (!status) status = take_places(w, w->points[k]);
    if (status) return status;
    return metrics_take(s, w->t, w->pair, w->metrics + (size_t)(1 + k) * s->n_metrics);
}

/* ---- what is saved ------------------------------------------------------ */

static inset_status as_float(writer *w, const operand *value, operand *out)
{
    return trace_operand_type(w->t, value) == INSET_F32
               ? trace_clone(w->t, value, out)
               : trace_convert(w->t, value, INSET_F32, out);
}

static inset_status save(writer *w, const operand *value, int32_t *index)
{
    operand kept;
    char name[32];
    inset_status status = as_float(w, value, &kept);
    if (status) return status;
    snprintf(name, sizeof name, "e%d", (int)w->saved->n);
    *index = w->saved->n++;
    return trace_save(w->t, name, &kept);
}

static inset_status save_deltas(writer *w)
{
    const sweep *s = w->e->s;
    operand *base = s->noise ? w->clean : w->corrupt, *other = s->noise ? w->corrupt : w->clean;
    int32_t *at = w->saved->deltas + (w->pair - w->saved->first) * s->n_layers * PLACE_COUNT;
    for (int32_t l = 0; l < s->n_layers; l++) {
        static const edge_place written[] = {PLACE_STREAM, PLACE_Z, PLACE_MLP_OUT};
        for (size_t k = 0; k < sizeof written / sizeof *written; k++) {
            if (w->e->layers[l].place[written[k]] < 0) continue;
            operand delta, from, to;
            inset_status status = as_float(w, entry(other, l, written[k]), &from);
            if (!status) status = as_float(w, entry(base, l, written[k]), &to);
            if (!status) status = trace_binary(w->t, TRACE_SUBTRACT, &from, &to, &delta);
            if (status || (status = save(w, &delta, &at[l * PLACE_COUNT + (int)written[k]])))
                return status;
        }
        if (w->e->layers[l].place[PLACE_OUT] < 0) continue;
        inset_status status = save(w, entry(base, l, PLACE_OUT), &at[l * PLACE_COUNT + PLACE_OUT]);
        if (status) return status;
    }
    return INSET_OK;
}

/* One backward of one run: gradients, and what the norms before attention read there. */
static inset_status save_gradients(
    writer *w, size_t metric, int32_t run, const operand *number, operand *of)
{
    const edges *e = w->e;
    const edge_saved *saved = w->saved;
    const int64_t pair = (int64_t)metric * saved->count + (w->pair - saved->first);
    int32_t *at = saved->gradients + (pair * saved->runs + run) * e->s->n_layers * PLACE_COUNT;
    inset_status status = trace_backward(w->t, number);
    for (size_t i = 0; i < w->n_backward && !status; i++) {
        const visit *v = &w->backward[i];
        operand g;
        status = trace_gradient(w->t, entry(of, v->layer, v->place), &g);
        if (!status) status = save(w, &g, &at[v->layer * PLACE_COUNT + (int)v->place]);
    }
    /* what norms read is no metric's own: saved with the first */
    const int32_t *first = at
                           - (int64_t)metric * saved->count * saved->runs * e->s->n_layers
                                 * PLACE_COUNT;
    for (int32_t l = 0; l < e->s->n_layers && !status; l++) {
        const int32_t k = l * PLACE_COUNT + PLACE_NORM_INPUT;
        if (e->layers[l].norm < 0) continue;
        if (metric) at[k] = first[k];
        else status = save(w, entry(of, l, PLACE_NORM_INPUT), &at[k]);
    }
    trace_end_backward(w->t);
    return status;
}

static inset_status backwards(writer *w, size_t metric)
{
    const sweep *s = w->e->s;
    const operand *clean = w->metrics + metric, *corrupt = w->metrics + s->n_metrics + metric;
    if (s->method.ends) {
        inset_status status = save_gradients(w, metric, 0, clean, w->clean);
        return status ? status : save_gradients(w, metric, 1, corrupt, w->corrupt);
    }
    if (!s->method.steps)
        return s->noise ? save_gradients(w, metric, 0, clean, w->clean)
                        : save_gradients(w, metric, 0, corrupt, w->corrupt);
    inset_status status = save_gradients(w, metric, 0, corrupt, w->corrupt);
    for (int32_t k = 1; k < s->method.steps && !status; k++)
        status = save_gradients(
            w, metric, k, w->metrics + (size_t)(1 + k) * s->n_metrics + metric, w->points[k]);
    return status;
}

static inset_status write_pair(writer *w)
{
    const sweep *s = w->e->s;
    inset_status status = plain_run(w, true, w->clean);
    if (!status) status = plain_run(w, false, w->corrupt);
    for (int32_t k = 1; k < s->method.steps && !status; k++) status = point_run(w, k);
    if (!status) status = save_deltas(w);
    trace_end_invoke(w->t);
    for (size_t m = 0; m < s->n_metrics && !status; m++) status = backwards(w, m);
    return status;
}

/* ---- the plan ----------------------------------------------------------- */

static int32_t *indices(arena *a, int64_t n)
{
    int32_t *at = arena_new(a, (size_t)n * sizeof *at);
    for (int64_t i = 0; at && i < n; i++) at[i] = -1;
    return at;
}

static inset_status start(writer *w)
{
    sweep *s = w->e->s;
    arena *m = w->memory;
    edge_saved *saved = w->saved;
    const size_t places = (size_t)s->n_layers * PLACE_COUNT, points = (size_t)s->method.steps + 1;
    saved->runs = s->method.steps ? s->method.steps : s->method.ends ? 2 : 1;
    saved->deltas = indices(m, saved->count * (int64_t)places);
    saved->gradients = indices(
        m, (int64_t)s->n_metrics * saved->count * saved->runs * (int64_t)places);
    w->clean = arena_new(m, places * sizeof *w->clean);
    w->corrupt = arena_new(m, places * sizeof *w->corrupt);
    w->points = arena_new(m, points * sizeof *w->points);
    w->metrics = arena_new(m, (2 + points) * s->n_metrics * sizeof *w->metrics);
    w->all = arena_new(m, s->n_metrics * 2 * (size_t)saved->count * sizeof *w->all);
    if (!saved->deltas || !saved->gradients || !w->clean || !w->corrupt || !w->points || !w->metrics
        || !w->all)
        return INSET_NO_MEMORY;
    for (size_t k = 0; k < points; k++)
        if (!(w->points[k] = arena_new(m, places * sizeof **w->points))) return INSET_NO_MEMORY;
    inset_status status = find_orders(w);
    if (!status) status = trace_create(s->context, s->program, s->model->type, &w->t);
    if (!status) trace_rules(w->t, s->method.rules), trace_again(w->t, s->again);
    return status;
}

static inset_status save_metrics(writer *w)
{
    w->saved->metrics = w->saved->n;
    trace_reopen(w->t);
    for (size_t m = 0; m < w->e->s->n_metrics; m++) {
        char name[32];
        const size_t n = 2 * (size_t)w->saved->count;
        snprintf(name, sizeof name, "e%d", (int)w->saved->n++);
        inset_status status = trace_save_stack(w->t, name, n, w->all + m * n);
        if (status) return status;
    }
    return INSET_OK;
}

inset_status edges_plan(
    edges *e, int64_t first, int64_t count, arena *memory, edge_saved *saved, plan **out)
{
    writer w = {.e = e, .memory = memory, .saved = saved};
    const int64_t room = edges_room_bytes(e);
    const size_t limit = e->s->memory_limit;
    const int64_t there = limit && limit < INT64_MAX ? (int64_t)limit : INT64_MAX;
    const plan_options options = {.no_share = e->s->no_share,
        .memory_limit = (size_t)(there - room),
        .traits = sweep_traits(e->s)};
    if (room >= there)
        return error_set(e->s->context, INSET_NO_MEMORY,
            "one row of all writers' differences and a layer's readers take %.3g GB beside the "
            "weights, and there are %.3g",
            (double)room / 1e9, (double)there / 1e9);
    *saved = (edge_saved){.first = first, .count = count};
    inset_status status = start(&w);
    for (w.pair = first; w.pair < first + count && !status; w.pair++) status = write_pair(&w);
    if (!status) status = save_metrics(&w);
    if (!status) status = plan_create(w.t, &options, out);
    trace_free(w.t);
    return status;
}
