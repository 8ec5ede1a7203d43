/* row_function.c: functions of whole rows that are due at a moment: one table and one launch for
 * all of a level, whatever they are. */
#include "plan/emit/emit.h"

/* Where row `row` of a piece lies, and bytes to the next row. */
static const void *row_at(const emitter *e, const piece *from, int32_t row, int64_t *step)
{
    record r = {0};
    emit_record_operand(
        e, from, row, from->c0, &r.a, &r.a_constant, &r.a_row, &r.a_column, &r.a_type, INSET_F32);
    *step = r.a_row * (int64_t)type_size((inset_type)r.a_type);
    return r.a;
}

static inset_type operand_type(const emitter *e, const strand *t)
{
    const piece *from = &t->pieces[t->op == ROW_WHERE ? 1 : 0];
    return strand_type(e->p, from->domain, from->strand);
}

/* One line of the table for each row of a need. */
static bool add_calls(emitter *e, const need *n, int64_t *work)
{
    plan *out = e->out;
    const strand *t = &e->p->strands[n->strand];
    const int64_t rows = n->hi - n->lo, first = (int64_t)out->n_row_operands,
                  width = t->pieces[0].c1;
    row_call one = {.n = t->n,
        .inner = t->op == ROW_WHERE ? 1 : t->parent_row,
        .k = t->start,
        .function = t->op,
        .type = (uint8_t)operand_type(e, t),
        .out_type = t->type};
    one.kept = (int32_t)(width / one.inner);
    one.made = t->width / one.kept;
    if (first + rows * t->n > INT32_MAX) {
        error_set(e->p->context, INSET_NO_MEMORY,
            "functions of rows that go together read more than %d rows: a smaller --memory takes "
            "fewer at a time",
            INT32_MAX);
        return false;
    }
    if (!array_extend(e->p->context, &out->row_calls, &out->row_calls_capacity,
            out->n_row_calls + (size_t)rows, sizeof one)
        || !array_extend(e->p->context, &out->row_operands, &out->row_operands_capacity,
            out->n_row_operands + (size_t)(rows * t->n), sizeof *out->row_operands))
        return false;
    out->n_row_operands += (size_t)(rows * t->n);
    for (int32_t k = 0; k < t->n; k++) {
        int64_t step;
        const char *at = row_at(e, &t->pieces[k], n->lo, &step);
        for (int64_t i = 0; i < rows; i++) out->row_operands[first + i * t->n + k] = at + i * step;
    }
    char *to = emit_row_address(e, DOMAIN_FREE, n->strand, n->lo);
    for (int64_t i = 0; i < rows; i++) {
        row_call *line = &out->row_calls[out->n_row_calls++];
        *line = one;
        line->first = (int32_t)(first + i * t->n);
        line->out = to + i * t->width * (int64_t)type_size((inset_type)t->type);
    }
    const bool ordered = t->op == ROW_TOPK || t->op == ROW_TOPK_AT || t->op == ROW_TOPK_BACK;
    *work += rows * width * t->n * (ordered ? 2 * (one.k > 0 ? one.k : one.made) : 4);
    return true;
}

inset_status emit_row_functions(emitter *e, int32_t level)
{
    const moment_plan *m = &e->s->moments[e->now];
    const size_t first = e->out->n_row_calls;
    int64_t work = 0;
    for (int32_t i = 0; i < m->n_order; i++) {
        const need *n = &e->s->needs[m->order[i]];
        if (n->kind != NEED_FREE || n->level != level
            || e->p->strands[n->strand].kind != STRAND_ROWS)
            continue;
        if (!add_calls(e, n, &work)) return INSET_NO_MEMORY;
    }
    const int64_t calls = (int64_t)(e->out->n_row_calls - first);
    if (!calls) return INSET_OK;
    launch *l = emit_kernel(e, KERNEL_ROW_FUNCTIONS, sizeof(row_functions_args), calls, work);
    if (!l) return INSET_NO_MEMORY;
    l->type = INSET_F32;
    l->args.row_functions = (row_functions_args){
        tagged(AREA_ROW_CALLS, (int64_t)(first * sizeof(row_call))), tagged(AREA_ROW_OPERANDS, 0),
        calls};
    return INSET_OK;
}
