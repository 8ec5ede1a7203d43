/* product.c: rows times matrices that the trace brings: for each matrix, all rows of a level at
 * once. Rows that lie apart are brought side by side behind the arena, and what the product makes
 * is taken from there to its places; where either is one block already, it stays. */
#include "plan/emit/emit.h"

#include "kernels/products.h"

/* Rows in one block: where, and elements from one to the next. */
typedef struct block_rows {
    void *at;
    int64_t stride;
} block_rows;

static bool is_due(const emitter *e, const need *n, int32_t level, int32_t matrix)
{
    const strand *t = &e->p->strands[n->strand];
    return n->kind == NEED_FREE && n->level == level && t->kind == STRAND_PRODUCT
           && t->parent_row == matrix;
}

/* Copies between the rows of all needs and a block, of `width` elements each: to it, or from it
 * (out). Where the rows are a block themselves, and may stay there, they are *block. */
static inset_status move_rows(emitter *e, int32_t level, int32_t matrix, bool out, bool may_stay,
    int64_t width, block_rows *block)
{
    const moment_plan *m = &e->s->moments[e->now];
    int64_t row = 0;
    e->first_record = e->out->n_records;
    for (int32_t i = 0; i < m->n_order; i++) {
        const need *n = &e->s->needs[m->order[i]];
        if (!is_due(e, n, level, matrix)) continue;
        const strand *t = &e->p->strands[n->strand];
        const int64_t size = (int64_t)type_size((inset_type)t->type);
        record r = {.op = RECORD_COPY,
            .rows = n->hi - n->lo,
            .columns = (int32_t)width,
            .out_column = 1,
            .a_column = 1,
            .out_row = width,
            .a_row = width,
            .out_type = t->type,
            .a_type = t->type,
            .compute = t->type};
        void *in_block = moved(block->at, row * block->stride * size);
        if (out) {
            r.out = emit_row_address(e, DOMAIN_FREE, n->strand, n->lo);
            r.a = in_block;
        } else {
            r.out = in_block;
            emit_record_operand(e, &t->pieces[0], n->lo, 0, &r.a, &r.a_constant, &r.a_row,
                &r.a_column, &r.a_type, (inset_type)t->type);
        }
        if (!emit_record(e, &r)) return INSET_NO_MEMORY;
        row += r.rows;
    }
    if (!may_stay || e->out->n_records != e->first_record + 1) return INSET_OK;
    const record *one = &e->out->records[e->first_record];
    const int64_t stride = out ? one->out_row : one->a_row;
    if (one->rows > 1 && (stride < width || (out && stride != width))) return INSET_OK;
    *block = (block_rows){
        out ? one->out : (void *)(uintptr_t)one->a, one->rows > 1 ? stride : width};
    e->out->n_records--;
    return INSET_OK;
}

/* Copies that have been made become a launch. */
static inset_status finish_copies(emitter *e)
{
    const size_t n = e->out->n_records - e->first_record;
    e->out->statistics.alone_records += (int64_t)n;
    e->out->statistics.alone_launches += n > 0;
    return emit_finish_records(e, KERNEL_RECORDS);
}

static int64_t in_bytes(int64_t rows, int64_t width, inset_type type)
{
    return (rows * width * (int64_t)type_size(type) + 255) & ~(int64_t)255;
}

static given_matrix *use_matrix(emitter *e, int32_t index)
{
    const trace *t = e->p->trace;
    const view *v = t->matrices[index];
    const storage *s = &t->storages[v->storage];
    given_matrix *g = &e->out->matrices[index];
    if (g->in) return g;
    *g = (given_matrix){.storage = v->storage,
        .weight = s->weight - 1,
        .type = s->type,
        .in = (int32_t)v->dimensions[0].extent,
        .out = (int32_t)v->dimensions[1].extent,
        .rows = s->lengths[0],
        .width = s->width,
        .base = v->spans[0].start * s->width + v->column};
    int64_t *const steps[2] = {&g->in_step, &g->out_step};
    for (int i = 0; i < 2; i++)
        *steps[i] = v->dimensions[i].stride
                    * (v->dimensions[i].kind == DIMENSION_ROW ? s->width : 1);
    return g;
}

static inset_status emit_product(emitter *e, int32_t level, int32_t matrix, int64_t rows)
{
    const given_matrix *g = use_matrix(e, matrix);
    const int64_t widest = (g->in > g->out ? g->in : g->out) * (int64_t)type_size(g->type),
                  padded = product_padded(e->p->options.traits.row_block, rows, widest),
                  x_bytes = in_bytes(padded, g->in, g->type);
    block_rows x = {tagged(AREA_ARENA, e->s->arena_bytes), g->in},
               y = {tagged(AREA_ARENA, e->s->arena_bytes + x_bytes), g->out};
    const int64_t used = x_bytes + in_bytes(padded, g->out, g->type);
    if (used > e->scratch_bytes) e->scratch_bytes = used;
    inset_status status = move_rows(e, level, matrix, false, true, g->in, &x);
    if (!status) status = finish_copies(e);
    launch *l = status ? NULL : emit_launch(e);
    if (!l) return status ? status : INSET_NO_MEMORY;
    const size_t at = e->out->n_launches - 1;
    *l = (launch){.is_matmul = true,
        .type = (uint8_t)g->type,
        .weight = -1,
        .bias = -1,
        .given = matrix + 1,
        .x = x.at,
        .x_stride = x.stride,
        .rows = rows};
    const int64_t end = (int64_t)((uint64_t)(uintptr_t)x.at & ((1ull << 56) - 1))
                        + ((padded - 1) * x.stride + g->in) * (int64_t)type_size(g->type);
    if (end > e->read_end && (uint64_t)(uintptr_t)x.at >> 56 == AREA_ARENA) e->read_end = end;
    /* padding is written behind the rows: only behind the arena there is room for it */
    status = move_rows(e, level, matrix, true, padded == rows, g->out, &y);
    e->out->launches[at].y = y.at;
    e->out->launches[at].y_stride = y.stride;
    e->out->statistics.flops += 2.0 * (double)rows * g->in * g->out;
    return status ? status : finish_copies(e);
}

inset_status emit_products(emitter *e, int32_t level)
{
    const moment_plan *m = &e->s->moments[e->now];
    inset_status status = INSET_OK;
    for (int32_t matrix = 0; matrix < (int32_t)e->p->trace->n_matrices && !status; matrix++) {
        int64_t rows = 0;
        for (int32_t i = 0; i < m->n_order; i++) {
            const need *n = &e->s->needs[m->order[i]];
            if (is_due(e, n, level, matrix)) rows += n->hi - n->lo;
        }
        if (rows) status = emit_product(e, level, matrix, rows);
    }
    return status;
}
