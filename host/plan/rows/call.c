/* call.c: a module applied to rows of a trace. The rows become rows of the module's input, as if
 * they had been set there; the module's steps then make row i of row i, so the result is the same
 * rows at its output. Rows that the model has there anyway are those, and nothing is computed
 * twice: the lens of a block's output at the last position is one row more of the norm and the
 * head, that of the last block none.
 *
 * A module that attends takes sequences: the rows of one are each other's context, and their
 * positions count from its first. */
#include "plan/rows/reader.h"

#include <string.h>

/* One sequence of rows on its way through the module. */
typedef struct passage {
    planner *p;
    int32_t input; /* the module's input: this value */
    const map *given, *positions;
    const map **made; /* of each value, NULL until it is asked for */
} passage;

/* What a slot shows of the rows. */
static const map *rows_at(passage *w, int32_t slot_index)
{
    planner *p = w->p;
    const slot *s = &p->program->slots[slot_index];
    const map **made = &w->made[s->value], *in[3] = {NULL, NULL, NULL};
    if (s->value == w->input) *made = w->given;
    if (!*made) {
        const step *st = &p->program->steps[p->program->values[s->value].step];
        for (int k = 0; k < st->n_operands; k++)
            if (!(in[k] = rows_at(w, st->operands[k]))) return NULL;
        if (st->kind == STEP_ROPE) in[1] = w->positions;
        *made = step_rows(p, st, in, w->given->rows);
    }
    return *made ? identity_slot(p, s, *made) : NULL;
}

static const map *pass(planner *p, const module_call *call, const map *given)
{
    passage w = {.p = p, .input = p->program->slots[call->in].value, .given = given};
    w.made = arena_new(&p->passing, p->program->n_values * sizeof *w.made);
    if (!w.made) return NULL;
    if (call->attends && !(w.positions = identity_positions(p, given->rows))) return NULL;
    return rows_at(&w, call->out);
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
        t->rows[s] = pass(p, &call, t->rows[s]);
        if (!t->rows[s]) status = INSET_NO_MEMORY;
    }
    return status;
}
