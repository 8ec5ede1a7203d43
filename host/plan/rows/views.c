/* views.c: views as rows: what a step reads where a slot was replaced, and a view's rows one piece
 * each. */
#include "plan/rows/reader.h"

#include <string.h>

/* ---- what a step reads after a replacement ------------------------------ */

typedef struct caster {
    reader r;
    int32_t value, c0, c1;
} caster;

static inset_status cast_strip(void *user, const strip *s)
{
    caster *c = user;
    reader *r = &c->r;
    planner *p = r->p;
    if (r->sequence != s->sequence) {
        if (r->sequence >= 0 && !(r->maps[r->sequence] = segments_finish(p, &r->out)))
            return INSET_NO_MEMORY;
        segments_clear(&r->out);
        r->sequence = s->sequence;
    }
    inset_type type = strand_type(p, c->value, -1);
    for (int32_t at = 0; at < s->n;) {
        int32_t left = s->n - at, made = 0, row = 0;
        bool repeats;
        if (!source_pieces(r, s, 0, at, &p->new_pieces, &left, type, 0)) return INSET_NO_MEMORY;
        inset_status status = pieces_row(p, c->value, type, p->program->values[c->value].width,
            p->new_pieces.at, p->new_pieces.n, c->c0, c->c1, &made, &row, &repeats);
        if (status) return status;
        if (!pieces_add_rows(p, &r->out, made, row, left, repeats)) return INSET_NO_MEMORY;
        at += left;
    }
    return INSET_OK;
}

/* The view a slot would have if nothing were replaced, for its shape and columns alone. */
static inset_status nominal_view(planner *p, const invoke *inv, const slot *s, view *out)
{
    const value *made = &p->program->values[s->value];
    int32_t n = made->per_position ? 1 : inv->n_sequences;
    span *spans = arena_new(&p->scratch, (size_t)n * sizeof *spans);
    if (!spans) return INSET_NO_MEMORY;
    *out = (view){.storage = -1,
        .n_spans = n,
        .spans = spans,
        .column = s->shape.column,
        .position_dimension = -1};
    out->dimensions[out->n_dimensions++] = (dimension){.kind = DIMENSION_SEQUENCE, .extent = n};
    bool ragged = false;
    for (int32_t i = 0; i < n; i++) {
        spans[i] = (span){i, 0, made->per_position ? inv->longest : inv->lengths[i]};
        ragged |= spans[i].count != spans[0].count;
    }
    if (s->shape.has_position) {
        out->position_dimension = out->n_dimensions;
        out->dimensions[out->n_dimensions++] = (dimension){
            .kind = DIMENSION_ROW, .extent = inv->longest, .stride = 1, .ragged = ragged};
    }
    int64_t stride = 1;
    for (int i = s->shape.n_columns - 1; i >= 0; i--) {
        out->dimensions[out->n_dimensions + i] = (dimension){
            .kind = DIMENSION_COLUMN, .extent = s->shape.extent[i], .stride = stride};
        stride = s->shape.stride ? s->shape.stride : stride * s->shape.extent[i];
    }
    out->n_dimensions += s->shape.n_columns;
    return INSET_OK;
}

/* Does the view show whole rows, in order, of a tensor that has the value's own rows? Then its maps
 * are what the step reads. */
static bool shows_value(const view *v, const tensor *t, const slot *s)
{
    if (t->domain != s->value || v->column != s->shape.column || v->n_spans != t->n_sequences
        || t->draft || (v->position_dimension >= 0 && v->position_dimension != 1))
        return false; /* also where dimensions were exchanged */
    int64_t stride = 1;
    for (int i = v->n_dimensions - 1; i >= 0; i--) {
        const dimension *d = &v->dimensions[i];
        if (d->kind != DIMENSION_COLUMN) {
            if (d->kind == DIMENSION_ROW && d->stride != 1) return false;
            continue;
        }
        if (d->stride != stride && d->extent != 1) return false;
        stride = s->shape.stride ? s->shape.stride : stride * d->extent;
    }
    for (int32_t i = 0; i < v->n_spans; i++)
        if (v->spans[i].sequence != i || v->spans[i].start
            || (v->position_dimension >= 0 && v->spans[i].count != t->rows[i]->rows))
            return false;
    return v->position_dimension >= 0 || !s->shape.has_position;
}

inset_status view_as_rows(
    planner *p, const view *v, const view *target, int32_t slot_index, const map **out)
{
    const slot *s = &p->program->slots[slot_index];
    tensor *t = storage_tensor(p, v->storage);
    inset_status status = t ? tensor_freeze(p, t) : INSET_NO_MEMORY;
    if (status) return status;
    caster c = {.r = {.p = p, .sequence = -1, .maps = out, .sources = {t, NULL}},
        .value = s->value,
        .c0 = s->shape.column,
        .c1 = slot_column_end(s)};
    const view *const sources[STRIP_SOURCES] = {v, NULL};
    status = strips_walk(p->context, &p->strips, target, sources, cast_strip, &c);
    if (!status && c.r.sequence >= 0 && !(out[c.r.sequence] = segments_finish(p, &c.r.out)))
        status = INSET_NO_MEMORY;
    memory_free(p->context, c.r.out.at);
    return status;
}

inset_status view_as_value(
    planner *p, const view *v, const invoke *inv, int32_t slot_index, const map **out)
{
    const slot *s = &p->program->slots[slot_index];
    tensor *t = storage_tensor(p, v->storage);
    inset_status status = t ? tensor_freeze(p, t) : INSET_NO_MEMORY;
    if (status) return status;
    if (shows_value(v, t, s)) {
        memcpy(out, t->rows, (size_t)t->n_sequences * sizeof *out);
        return INSET_OK;
    }
    view target;
    status = nominal_view(p, inv, s, &target);
    return status ? status : view_as_rows(p, v, &target, slot_index, out);
}

/* ---- rows of a view, one piece each ------------------------------------- */

typedef struct piece_walk {
    reader r;
    int32_t width;
    piece_function *visit;
    void *user;
} piece_walk;

static inset_status piece_strip(void *user, const strip *s)
{
    piece_walk *w = user;
    planner *p = w->r.p;
    for (int32_t at = 0; at < s->n;) {
        int32_t left = s->n - at;
        piece one;
        if (!source_pieces(&w->r, s, 0, at, &p->new_pieces, &left, INSET_F64, 0))
            return INSET_NO_MEMORY;
        inset_status status = pieces_operand(
            p, &p->new_pieces, w->r.sources[0]->type, w->width, &one);
        if (status || (status = w->visit(w->user, s->sequence, left, &one))) return status;
        at += left;
    }
    return INSET_OK;
}

inset_status view_pieces(
    planner *p, const view *v, const view *shape, int32_t width, piece_function *visit, void *user)
{
    tensor *t = storage_tensor(p, v->storage);
    inset_status status = t ? tensor_freeze(p, t) : INSET_NO_MEMORY;
    if (status) return status;
    piece_walk w = {.r = {.p = p, .sequence = -1, .sources = {t, NULL}},
        .width = width,
        .visit = visit,
        .user = user};
    const view *const sources[STRIP_SOURCES] = {v, NULL};
    return strips_walk(p->context, &p->strips, shape, sources, piece_strip, &w);
}
