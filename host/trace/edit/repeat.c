/* repeat.c: edits in the invokes that come after them: each of their lines is made again, by the
 * calls that it was, as soon as the invoke comes to where it stands. */
#include "trace/edit.h"

#include <string.h>

static invoke *current(trace *t) { return &t->invokes[t->n_invokes - 1]; }

/* ---- which edits there are ---------------------------------------------- */

inset_status trace_add_edit(trace *t, edit *e)
{
    if (!array_reserve(t->context, &t->edits, &t->edits_capacity, t->n_edits + 1, sizeof *t->edits))
        return INSET_NO_MEMORY;
    edit_run r = {.holds = true, .next = e->n_entries};
    r.made = memory_new(t->context, e->n_entries * sizeof *r.made);
    r.state = memory_new(t->context, e->n_entries * sizeof *r.state);
    if (!r.made || !r.state) {
        memory_free(t->context, r.made);
        memory_free(t->context, r.state);
        return INSET_NO_MEMORY;
    }
    r.edit = edit_hold(e);
    t->edits[t->n_edits++] = r;
    return INSET_OK;
}

void trace_clear_edits(trace *t)
{
    for (size_t i = 0; i < t->n_edits; i++) t->edits[i].holds = false;
}

void trace_describe_edits(const trace *t, text *out)
{
    for (size_t i = 0; i < t->n_edits; i++)
        if (t->edits[i].holds) edit_describe(t->program, t->edits[i].edit, out);
}

void edits_free(trace *t)
{
    for (size_t i = 0; i < t->n_edits; i++) {
        memory_free(t->context, t->edits[i].made);
        memory_free(t->context, t->edits[i].state);
        edit_release(t->edits[i].edit);
    }
    memory_free(t->context, t->edits);
    edit_release(t->edit);
}

/* ---- what entries read -------------------------------------------------- */

static bool is_external(const edit_entry *x)
{
    return x->kind == EDIT_EXTERNAL || x->kind == EDIT_LITERAL;
}

/* What an operand of an entry is in this invoke. */
static operand resolved(const edit_run *r, const operand *o)
{
    if (!o) return (operand){0};
    if (!o->edit) return *o;
    operand here = r->made[o->edit_entry];
    here.copy = o->copy; /* a name or a handle may keep it by now */
    return here;
}

static bool is_missing(const edit_run *r, const operand *o)
{
    return o && o->edit && r->state[o->edit_entry] == EDIT_MISSING;
}

static bool is_skipped(const invoke *v, int32_t event)
{
    for (size_t i = 0; i < v->n_skips; i++)
        if (event > v->skips[i].enter && event < v->skips[i].leave) return true;
    return false;
}

/* Does an entry fall away, because it, or what it is for, lies in a module that the invoke
 * skips? */
static bool falls_away(trace *t, const edit_run *r, const edit_entry *x)
{
    switch (x->kind) {
    case EDIT_SITE:
    case EDIT_REPLACE:
    case EDIT_SKIP: return is_skipped(current(t), x->event);
    case EDIT_SET: return is_missing(r, x->a);
    default: return is_missing(r, x->a) || is_missing(r, x->b) || is_missing(r, x->c);
    }
}

/* A line for a place that is there, of a value that is not. */
static inset_status check_sources(trace *t, const edit_run *r, const edit_entry *x)
{
    if (!is_missing(r, x->a) && !is_missing(r, x->b)) return INSET_OK;
    return error_set(t->context, INSET_MISSED_PROVIDER,
        "what this line reads is never reached: it lies inside a module that is skipped");
}

/* ---- the calls again ---------------------------------------------------- */

static inset_status again(trace *t, const edit_entry *x, const operand *a, const operand *b,
    const operand *c, operand *out)
{
    metric_request m = x->metric;
    row_request rows = x->rows;
    rows.dimensions = x->shape;
    switch (x->kind) {
    case EDIT_SITE: return trace_site(t, x->place, out);
    case EDIT_EXTERNAL: return trace_external(t, x->type, x->n_dimensions, x->shape, x->data, out);
    case EDIT_LITERAL:
        return trace_literal(t, x->n_dimensions, x->shape, x->data, x->integers, out);
    case EDIT_ZEROS: return trace_zeros(t, x->n_dimensions, x->shape, out);
    case EDIT_INDEX: return trace_index(t, a, x->n_items, x->items, out);
    case EDIT_FUNCTION: return trace_function(t, x->op, a, x->b ? b : NULL, out);
    case EDIT_CAST: return trace_cast(t, a, x->type, out);
    case EDIT_CALL: return trace_call(t, x->place, a, out);
    case EDIT_CLONE: return trace_clone(t, a, out);
    case EDIT_BINARY: return trace_binary(t, x->op, a, b, out);
    case EDIT_NEGATE: return trace_negate(t, a, out);
    case EDIT_DETACH: return trace_detach(t, a, out);
    case EDIT_ROWS: return trace_row_function(t, a, &rows, out);
    case EDIT_WHERE: return trace_where(t, c, a, b, out);
    case EDIT_PRODUCT: return trace_product(t, a, b, out);
    case EDIT_TRANSPOSE: return trace_transpose(t, a, x->shape[0], x->shape[1], out);
    case EDIT_WEIGHT: return trace_weight(t, x->place, out);
    case EDIT_METRIC: m.reference = x->b ? b : NULL; return trace_metric(t, a, &m, out);
    case EDIT_SET: return trace_set(t, a, x->n_items, x->items, x->op, b);
    case EDIT_REPLACE: return trace_replace(t, x->place, a);
    case EDIT_SKIP: return trace_skip(t, x->place, a);
    }
    return INSET_OK;
}

/* Numbers from outside are one tensor for all invokes, unless a line writes to them. */
static bool is_there(const edit_run *r, const edit_entry *x)
{
    return is_external(x) && !x->anew && r->state[r->next] == EDIT_MADE;
}

static inset_status repeat(trace *t, edit_run *r)
{
    const size_t at = r->next;
    const edit_entry *x = &r->edit->entries[at];
    if (is_there(r, x)) return INSET_OK;
    if (falls_away(t, r, x)) {
        r->state[at] = EDIT_MISSING;
        return INSET_OK;
    }
    inset_status status = check_sources(t, r, x);
    if (status) return status;
    const operand a = resolved(r, x->a), b = resolved(r, x->b), c = resolved(r, x->c);
    operand made = {0};
    if ((status = again(t, x, &a, &b, &c, &made))) return status;
    r->made[at] = made;
    r->state[at] = EDIT_MADE;
    return INSET_OK;
}

/* ---- as the invoke goes on ---------------------------------------------- */

inset_status edits_begin(trace *t)
{
    for (size_t i = 0; i < t->n_edits; i++) {
        edit_run *r = &t->edits[i];
        r->next = r->holds ? 0 : r->edit->n_entries;
        for (size_t k = 0; k < r->edit->n_entries && r->holds; k++)
            if (!is_external(&r->edit->entries[k])) r->state[k] = EDIT_TO_MAKE;
    }
    return edits_wait(t) ? edits_go_on(t, -1) : INSET_OK;
}

/* The run whose next entry is the first by its place, up to `event`; of one place the older. */
static edit_run *earliest(trace *t, int32_t event)
{
    edit_run *found = NULL;
    for (size_t i = 0; i < t->n_edits; i++) {
        edit_run *r = &t->edits[i];
        if (r->next == r->edit->n_entries) continue;
        const int32_t at = r->edit->entries[r->next].event;
        if (at > event || (found && found->edit->entries[found->next].event <= at)) continue;
        found = r;
    }
    return found;
}

/* An edit's line fails in an invoke of somebody else's, whose line is `line`: says which, and
 * where. */
static void say_where(trace *t, const edit_run *r, int32_t line)
{
    const edit *e = r->edit;
    const bool here = line && e->script == t->script;
    t->failed_line = here ? e->entries[r->next].line : 0;
    if (here) {
        error_help(t->context, "edit() repeats this line in the invoke on line %d.",
            (int)current(t)->line);
        return;
    }
    text words = {0};
    edit_describe(t->program, e, &words);
    if (words.length) words.bytes[words.length - 1] = 0; /* the end of the line */
    error_help(t->context, "This is an edit's, repeated in invoke %zu: it %s.", t->n_invokes,
        words.bytes ? words.bytes : "");
    text_free(t->context, &words);
}

inset_status edits_go_on(trace *t, int32_t event)
{
    const int32_t line = t->line;
    inset_status status = INSET_OK;
    t->repeating = true;
    for (edit_run *r; !status && (r = earliest(t, event));) {
        t->line = r->edit->entries[r->next].line;
        status = repeat(t, r);
        if (status) say_where(t, r, line);
        else r->next++;
    }
    t->repeating = false;
    t->line = line;
    return status;
}

inset_status edits_finish(trace *t)
{
    return edits_wait(t) && !current(t)->stopped ? edits_go_on(t, INT32_MAX) : INSET_OK;
}

inset_status trace_finish_edits(trace *t) { return edits_finish(t); }

int32_t trace_take_failed_line(trace *t)
{
    const int32_t line = t->failed_line;
    t->failed_line = 0;
    return line;
}
