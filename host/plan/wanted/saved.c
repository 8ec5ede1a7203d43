/* saved.c: which rows every saved tensor is made of, and where they go in it. */
#include "plan/wanted/wanted.h"

typedef struct saver {
    planner *p;
    schedule *s;
    const tensor *from;
    int32_t save;
    int64_t base, sequence_stride, row_stride;
    size_t element;
} saver;

static inset_status save_strip(void *user, const strip *g)
{
    saver *v = user;
    planner *p = v->p;
    for (size_t i = 0; i < g->n_pieces; i++) {
        const strip_piece *sp = &g->pieces[i];
        const map *m = v->from->rows[sp->source_sequence[0]];
        for (int32_t at = 0; at < g->n;) {
            int32_t index = 0, left = 0,
                    at_segment = map_find(
                        m, sp->source_row[0] + at * g->row_step[0], &index, &left);
            if (left > g->n - at || !g->row_step[0]) left = g->n - at;
            p->row_pieces.n = 0;
            if (!pieces_of_row(p, &p->row_pieces, v->from->domain, m->at[at_segment].strand, index,
                    g->row_step[0], sp->source_column[0], sp->source_step[0], (int32_t)sp->column,
                    (int32_t)sp->count))
                return INSET_NO_MEMORY;
            for (size_t k = 0; k < p->row_pieces.n; k++) {
                if (!array_extend(p->context, &v->s->rows, &v->s->rows_capacity, v->s->n_rows + 1,
                        sizeof *v->s->rows))
                    return INSET_NO_MEMORY;
                int64_t element = v->base + g->sequence * v->sequence_stride
                                  + (g->row + at) * v->row_stride;
                v->s->rows[v->s->n_rows++] = (saved_rows){v->save, left,
                    element * (int64_t)v->element, v->row_stride, p->row_pieces.at[k]};
            }
            at += left;
        }
    }
    return INSET_OK;
}

/* The dense tensor that a view is saved as, as a target for strips: by sequences where the view has
 * them, else by its leading dimensions. */
static inset_status dense_target(planner *p, const view *shape, view *out, saver *v)
{
    *out = (view){.storage = -1, .n_dimensions = shape->n_dimensions, .position_dimension = -1};
    int n = shape->n_dimensions, position = shape->position_dimension;
    bool by_sequence = view_sequence_dimension(shape) == 0, has_rows = by_sequence && position >= 0;
    for (int i = 1; i < n; i++)
        by_sequence &= i == position || shape->dimensions[i].kind == DIMENSION_COLUMN;
    has_rows &= by_sequence;
    int32_t n_spans = by_sequence ? (int32_t)shape->dimensions[0].extent : 1;
    span *spans = arena_new(&p->scratch, (size_t)(n_spans ? n_spans : 1) * sizeof *spans);
    if (!spans) return INSET_NO_MEMORY;
    out->spans = spans;
    out->n_spans = n_spans;
    int64_t element = 1, rows = 1; /* elements of the dense tensor from one to the next */
    for (int i = n - 1; i >= 0; i--) {
        const dimension *d = &shape->dimensions[i];
        bool column = by_sequence ? i && i != position : i == n - 1;
        out->dimensions[i] = (dimension){.kind = column ? DIMENSION_COLUMN : DIMENSION_ROW,
            .extent = d->extent,
            .stride = element};
        if (by_sequence && i == position) {
            out->dimensions[i].stride = 1;
            out->dimensions[i].ragged = d->ragged;
            out->position_dimension = i;
            v->row_stride = element;
        }
        if (by_sequence && !i) {
            out->dimensions[i] = (dimension){.kind = DIMENSION_SEQUENCE, .extent = n_spans};
            v->sequence_stride = element;
        }
        if (!by_sequence && !column) {
            out->dimensions[i].stride = rows;
            rows *= d->extent;
        }
        element *= d->extent;
        if (!by_sequence && column) v->row_stride = element;
    }
    for (int32_t i = 0; by_sequence && i < n_spans; i++)
        spans[i] = (span){i, 0,
            !has_rows                            ? 1
            : shape->dimensions[position].ragged ? shape->spans[i].count
                                                 : (int32_t)shape->dimensions[position].extent};
    if (by_sequence) return INSET_OK;
    spans[0] = (span){0, 0, 1};
    return INSET_OK;
}

static inset_status save_view(
    planner *p, schedule *s, int32_t save, const view *shown, int64_t base)
{
    tensor *t = storage_tensor(p, shown->storage);
    inset_status status = t ? tensor_freeze(p, t) : INSET_NO_MEMORY;
    if (status) return status;
    saver v = {
        .p = p, .s = s, .from = t, .save = save, .base = base, .element = type_size(t->type)};
    view target;
    if ((status = dense_target(p, shown, &target, &v))) return status;
    const view *const sources[STRIP_SOURCES] = {shown, NULL};
    return strips_walk(p->context, &p->strips, &target, sources, save_strip, &v);
}

inset_status plan_collect_saves(planner *p, schedule *s)
{
    s->n_saved = p->trace->n_saves;
    s->saved = arena_new(&p->memory, s->n_saved * sizeof *s->saved);
    if (!s->saved) return INSET_NO_MEMORY;
    for (size_t i = 0; i < s->n_saved; i++) {
        const saved_value *from = &p->trace->saves[i];
        saved_tensor *to = &s->saved[i];
        to->name = from->name;
        to->type = p->trace->storages[from->view->storage].type;
        if (from->stacked) to->shape[to->n_dimensions++] = (int64_t)from->n_views;
        int64_t elements = 1;
        for (int d = 0; d < from->view->n_dimensions; d++) {
            const dimension *dim = &from->view->dimensions[d];
            to->shape[to->n_dimensions++] = dim->extent;
            elements *= dim->extent;
            to->padded |= dim->ragged;
        }
        to->offset = s->saved_bytes;
        to->bytes = elements * (int64_t)from->n_views * (int64_t)type_size(to->type);
        s->saved_bytes += (to->bytes + 63) & ~(int64_t)63;
        for (size_t k = 0; k < from->n_views; k++) {
            const view *shown = from->stacked ? &((const view *)from->view)[k] : from->view;
            inset_status status = save_view(p, s, (int32_t)i, shown, (int64_t)k * elements);
            if (status) return status;
        }
    }
    return INSET_OK;
}
