/* call.c: a module applied to rows of a trace. The rows become rows of the module's input, as if
 * they had been set there; the module's steps then make row i of row i, so the result is the same
 * rows at its output. Rows that the model has there anyway are those, and nothing is computed
 * twice: the lens of a block's output at the last position is one row more of the norm and the head,
 * that of the last block none. */
#include "plan/rows/reader.h"

#include <string.h>

/* What a slot shows of rows of the module's input. */
static const map *rows_at(
    planner *p, int32_t slot_index, int32_t input, const map *given, int32_t rows)
{
    const slot *s = &p->program->slots[slot_index];
    const map *in[3] = {NULL, NULL, NULL}, *made = given;
    if (s->value != input) {
        const step *st = &p->program->steps[p->program->values[s->value].step];
        for (int k = 0; k < st->n_operands; k++)
            if (!(in[k] = rows_at(p, st->operands[k], input, given, rows))) return NULL;
        made = step_rows(p, st, in, rows);
    }
    return made ? identity_slot(p, s, made) : NULL;
}

inset_status call_apply(planner *p, const trace_record *r)
{
    module_call call;
    tensor *t = storage_tensor(p, r->target->storage);
    if (!t) return INSET_NO_MEMORY;
    if (!program_callable(p->program, r->module, &call)) return INSET_USAGE_ERROR;
    const slot *in = &p->program->slots[call.in];
    view shape = {0}; /* a view that a record keeps ends behind its last dimension */
    memcpy(&shape, r->target,
        offsetof(view, dimensions) + (size_t)r->target->n_dimensions * sizeof shape.dimensions[0]);
    shape.column = in->shape.column;
    shape.dimensions[shape.n_dimensions - 1].extent = slot_columns(in);
    t->domain = p->program->slots[call.out].value;
    segments_clear(&p->segments);
    for (int32_t s = 0; s < t->n_sequences; s++) /* empty, until rows are made */
        if (!(t->rows[s] = segments_finish(p, &p->segments))) return INSET_NO_MEMORY;
    inset_status status = view_as_rows(p, r->a.view, &shape, call.in, t->rows);
    for (int32_t s = 0; s < t->n_sequences && !status; s++) {
        if (!t->rows[s]->rows) continue;
        t->rows[s] = rows_at(p, call.out, in->value, t->rows[s], t->rows[s]->rows);
        if (!t->rows[s]) status = INSET_NO_MEMORY;
    }
    return status;
}
