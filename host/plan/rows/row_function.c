/* row_function.c: functions of whole rows (kernels.h, row_function). A row of results is a row of a
 * strand whose parts are the rows it is made of, one piece an operand: x.sum(-1) of a strand is a
 * strand as long, x.mean(0) over sequences one of a piece from each. Equal functions of equal rows
 * are one row. */
#include "plan/rows/rows.h"

#include <string.h>

_Static_assert((int)TRACE_ROW_WHERE == (int)ROW_WHERE && (int)TRACE_ROW_DOT == (int)ROW_DOT
                   && (int)TRACE_ROW_TOPK == (int)ROW_TOPK,
    "a trace names the kernel's functions in their order");

/* Rows of an operand, in the order of the results. */
typedef struct operand_run {
    int32_t sequence, rows;
    piece from;
} operand_run;

typedef struct operand_runs {
    operand_run *at;
    size_t n, capacity;
    size_t next;
    int32_t done; /* rows of `next` taken so far */
    inset_type type;
    int32_t width;
    planner *p;
} operand_runs;

static inset_status add_run(void *user, int32_t sequence, int32_t rows, const piece *one)
{
    operand_runs *o = user;
    planner *p = o->p;
    operand_run run = {sequence, rows, *one};
    inset_status status = pieces_readable(p, &run.from, o->type, o->width);
    if (status) return status;
    if (!array_extend(p->context, &o->at, &o->capacity, o->n + 1, sizeof *o->at))
        return INSET_NO_MEMORY;
    o->at[o->n++] = run;
    return INSET_OK;
}

static inset_status read_operand(
    planner *p, const trace_record *r, int32_t k, const view *shape, operand_runs *out)
{
    const row_operation *o = r->rows;
    const view *v = o->operands[k];
    const bool second = o->function == TRACE_ROW_TOPK_BACK && k == 1;
    *out = (operand_runs){.type = p->trace->storages[v->storage].type,
        .width = o->kept * (second ? o->k : o->inner),
        .p = p};
    return view_pieces(p, v, second ? o->second : shape, out->width, add_run, out);
}

/* The next rows of all operands, as many as go on alike: their pieces, and in *sequence whose. */
static int32_t next_rows(operand_runs *all, int32_t n, piece *pieces, int32_t *sequence)
{
    int32_t left = INT32_MAX;
    for (int32_t k = 0; k < n; k++) {
        const operand_run *run = &all[k].at[all[k].next];
        if (run->rows - all[k].done < left) left = run->rows - all[k].done;
    }
    for (int32_t k = 0; k < n; k++) {
        operand_runs *o = &all[k];
        const operand_run *run = &o->at[o->next];
        pieces[k] = run->from;
        if (pieces[k].row_step) pieces[k].shift += o->done;
        *sequence = run->sequence;
        o->done += left;
        if (o->done == run->rows) o->next++, o->done = 0;
    }
    return left;
}

static inset_status make_rows(planner *p, const trace_record *r, operand_runs *all, piece *pieces)
{
    const row_operation *o = r->rows;
    tensor *t = storage_tensor(p, r->target->storage);
    if (!t) return INSET_NO_MEMORY;
    const strand like = {.kind = STRAND_ROWS,
        .type = (uint8_t)t->type,
        .op = (uint8_t)o->function,
        .born = DOMAIN_FREE,
        .width = (int32_t)t->width,
        .parent = PARENT_NONE,
        .parent_row = o->inner,
        .start = o->k};
    segment_list out = {0};
    inset_status status = INSET_OK;
    for (int32_t s = 0; s < t->n_sequences; s++) /* empty, until rows are made */
        if (!(t->rows[s] = segments_finish(p, &out))) return INSET_NO_MEMORY;
    for (int32_t at = -1, sequence = -1; all->next < all->n && !status; at = sequence) {
        int32_t made, row;
        bool repeats;
        const int32_t count = next_rows(all, o->n, pieces, &sequence);
        if (at != sequence) segments_clear(&out);
        status = pieces_combine(p, like, pieces, o->n, &made, &row, &repeats);
        if (!status && !pieces_add_rows(p, &out, made, row, count, repeats))
            status = INSET_NO_MEMORY;
        const bool last = all->next == all->n || all->at[all->next].sequence != sequence;
        if (!status && last && !(t->rows[sequence] = segments_finish(p, &out)))
            status = INSET_NO_MEMORY;
    }
    memory_free(p->context, out.at);
    return status;
}

inset_status row_function_apply(planner *p, const trace_record *r)
{
    const int32_t n = r->rows->n;
    operand_runs *all = arena_new(&p->passing, (size_t)n * sizeof *all);
    piece *pieces = arena_new(&p->passing, (size_t)n * sizeof *pieces);
    if (!all || !pieces) return INSET_NO_MEMORY;
    /* a view that a record keeps ends behind its last dimension */
    view shape = {0};
    const view *from = r->rows->shape ? r->rows->shape : r->target;
    memcpy(&shape, from,
        offsetof(view, dimensions) + (size_t)from->n_dimensions * sizeof from->dimensions[0]);
    inset_status status = INSET_OK;
    for (int32_t k = 0; k < n && !status; k++) status = read_operand(p, r, k, &shape, &all[k]);
    if (!status) status = make_rows(p, r, all, pieces);
    for (int32_t k = 0; k < n; k++) memory_free(p->context, all[k].at);
    return status;
}
