/* product.c: rows times a matrix that a trace brings. A row of the result is a row of a strand
 * whose identity is the matrix and the row that is multiplied. */
#include "plan/rows/rows.h"

#include <string.h>

typedef struct product_maker {
    planner *p;
    tensor *t;
    strand like;
    inset_type type;
    segment_list out;
    int32_t sequence;
} product_maker;

static bool turn_to(product_maker *m, int32_t sequence)
{
    if (m->sequence == sequence) return true;
    if (m->sequence >= 0 && !(m->t->rows[m->sequence] = segments_finish(m->p, &m->out)))
        return false;
    segments_clear(&m->out);
    m->sequence = sequence;
    return true;
}

static inset_status product_rows(void *user, int32_t sequence, int32_t rows, const piece *one)
{
    product_maker *m = user;
    piece from = *one;
    int32_t made, row;
    bool repeats;
    inset_status status = pieces_readable(m->p, &from, m->type, from.c1);
    if (!status) status = pieces_combine(m->p, m->like, &from, 1, &made, &row, &repeats);
    if (status) return status;
    return turn_to(m, sequence) && pieces_add_rows(m->p, &m->out, made, row, rows, repeats)
               ? INSET_OK
               : INSET_NO_MEMORY;
}

inset_status product_apply(planner *p, const trace_record *r)
{
    const trace *t = p->trace;
    const view *matrix = t->matrices[r->matrix];
    product_maker m = {.p = p,
        .t = storage_tensor(p, r->target->storage),
        .type = t->storages[r->a.view->storage].type,
        .sequence = -1};
    if (!m.t) return INSET_NO_MEMORY;
    m.like = (strand){.kind = STRAND_PRODUCT,
        .type = (uint8_t)m.t->type,
        .born = DOMAIN_FREE,
        .width = (int32_t)m.t->width,
        .parent = PARENT_NONE,
        .parent_row = r->matrix};
    for (int32_t s = 0; s < m.t->n_sequences; s++) /* empty, until rows are made */
        if (!(m.t->rows[s] = segments_finish(p, &m.out))) return INSET_NO_MEMORY;
    view shape = {0}; /* a view that a record keeps ends behind its last dimension */
    memcpy(&shape, r->target,
        offsetof(view, dimensions) + (size_t)r->target->n_dimensions * sizeof shape.dimensions[0]);
    const int64_t in = matrix->dimensions[0].extent;
    shape.dimensions[shape.n_dimensions - 1].extent = in;
    inset_status status = view_pieces(p, r->a.view, &shape, (int32_t)in, product_rows, &m);
    if (!status && !turn_to(&m, -1)) status = INSET_NO_MEMORY;
    memory_free(p->context, m.out.at);
    return status;
}
