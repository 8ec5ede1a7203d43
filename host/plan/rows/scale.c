/* scale.c: what a norm divides by, in the open. A norm computes its scale without showing it; where
 * an invoke touches `.scale` the scale becomes a value of its own, whose rows go with the rows of
 * the norm's input. Where they still do when the norm runs, the norm is the one that everybody runs
 * and no bit of it changes; where they do not, because the scale was set or replaced (or the input
 * was, after the scale was taken), the row is a step of two operands, and a kernel divides by what
 * it is given. */
#include "plan/rows/rows.h"

bool scale_touched(const planner *p, const invoke *v, const step *scale)
{
    if (p->value_storage[scale->value] >= 0) return true;
    for (size_t i = 0; i < v->n_rebindings; i++)
        if (p->program->slots[v->rebindings[i].slot].value == scale->value) return true;
    return false;
}

static int32_t scale_slot(const step *s) { return step_is_norm(s) ? s->operands[1] : -1; }

int32_t scale_operands(const planner *p, const step *s)
{
    int32_t shown = scale_slot(s);
    return s->n_operands + (shown >= 0 && p->values[p->program->slots[shown].value]);
}

bool scale_given(const planner *p, const step *s, int32_t strand_index)
{
    const strand *t = &p->strands[strand_index];
    return scale_slot(s) >= 0 && t->kind == STRAND_STEP && t->born == s->value;
}
