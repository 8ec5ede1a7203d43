/* tuple.c: a trap. Before transformers 5 a block returned a tuple (an attention module still does),
 * and thousands of notebooks say h[5].output[0][:, 1] for the tensor's column 1. Here, as in
 * transformers 5, `.output` is the tensor and [0] its sequence 0, so that line would set something
 * else. It is refused, whatever name output[0] has by then; output[0] alone is what it says. */
#include <inttypes.h>
#include <stdio.h>

#include "trace/records.h"

/* Does the module attend? Those are the ones that return or returned tuples. */
static bool attends(const program *p, const module *m)
{
    for (size_t i = 0; i < p->n_steps; i++)
        if (p->steps[i].kind == STEP_ATTENTION && p->steps[i].event > m->enter
            && p->steps[i].event < m->leave)
            return true;
    return false;
}

static void add_integer(inset_context *c, text *out, bool there, int64_t number)
{
    if (there) text_add(c, out, "%" PRId64, number);
}

/* ":, 1" */
static void add_items(inset_context *c, text *out, size_t n, const index_item *items)
{
    for (size_t i = 0; i < n; i++) {
        const index_item *x = &items[i];
        if (i) text_add(c, out, ", ");
        if (x->kind == INDEX_INTEGER) add_integer(c, out, true, x->integer);
        else if (x->kind == INDEX_ELLIPSIS) text_add(c, out, "...");
        else if (x->kind == INDEX_NEW) text_add(c, out, "None");
        else if (x->kind == INDEX_LIST) {
            for (size_t k = 0; k < x->list_length && k < 8; k++)
                text_add(c, out, "%s%" PRId64, k ? ", " : "[", x->list[k]);
            text_add(c, out, x->list_length > 8 ? ", ...]" : x->list_length ? "]" : "[]");
        } else {
            add_integer(c, out, x->has_start, x->start);
            text_add(c, out, ":");
            add_integer(c, out, x->has_stop, x->stop);
            if (x->has_step) text_add(c, out, ":%" PRId64, x->step);
        }
    }
}

inset_status trace_refuse_tuple(
    trace *t, const operand *base, size_t n_items, const index_item *items)
{
    if (!base->first_of || !n_items) return INSET_OK;
    const program *p = t->program;
    const module *m = &p->modules[p->sites[base->first_of - 1].module];
    if (!attends(p, m)) return INSET_OK;
    text index = {0};
    add_items(t->context, &index, n_items, items);
    const char *said = index.bytes ? index.bytes : "...";
    inset_status status = error_set(t->context, INSET_INDEX_ERROR,
        "%s.output[0] is sequence 0 here, and the tensor itself where the module returns a tuple "
        "(transformers before 5): [%s] of it would mean two things",
        m->path, said);
    error_help(t->context,
        "Write %s.output[%s] for the tensor, or %s.output[0, %s] for its sequence 0.", m->path,
        said, m->path, said);
    text_free(t->context, &index);
    return status;
}
