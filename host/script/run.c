/* run.c: statements to records. The tree is walked once, loops are unrolled by walking their bodies
 * again.
 *
 * The order of a line's calls is Python's: the right side before the target, for "+=" and its like
 * the target first. */
#include "script/reader.h"

#include <inttypes.h>

static inset_status run(script *s, const statement *first);

/* ---- binding ------------------------------------------------------------ */

static inset_status save_if_asked(
    script *s, const expression *value, const bound_name *n, const script_value *v)
{
    return value->saved ? script_save(s, n->name, value->save_at, v) : INSET_OK;
}

static inset_status bind_one(script *s, const statement *line)
{
    script_value v;
    inset_status status = script_check_bindable(s, line->names->name, line->names->at);
    if (!status) status = script_evaluate(s, line->value, &v);
    if (!status) status = script_bind(s, line->names->name, line->names->at, &v);
    return status ? status : save_if_asked(s, line->value, line->names, &v);
}

/* All values first, then all names: "a, b = b, a" swaps. */
static inset_status bind_several(script *s, const statement *line, size_t count)
{
    script_value v;
    inset_status status = INSET_OK;
    kept_value *values = memory_new(s->context, count * sizeof *values), *at = values;
    if (!values) return INSET_NO_MEMORY;
    for (const bound_name *n = line->names; n && !status; n = n->next)
        status = script_check_bindable(s, n->name, n->at);
    for (expression *e = line->value; e && !status; e = e->next) {
        status = script_evaluate(s, e, &v);
        if (!status) status = script_keep(s, &v, at++);
    }
    at = values;
    const expression *e = line->value;
    for (const bound_name *n = line->names; n && !status; n = n->next, e = e->next) {
        script_recall(at++, &v);
        status = script_bind(s, n->name, n->at, &v);
        if (!status) status = save_if_asked(s, e, n, &v);
    }
    memory_free(s->context, values);
    return status;
}

/* values, indices = x.topk(5) */
static inset_status bind_topk(script *s, const statement *line)
{
    const link *last = line->value->links;
    while (last->next) last = last->next;
    script_value v, places = {.kind = VALUE_OPERAND};
    inset_status status = script_evaluate_before(s, line->value, last, &v);
    if (!status) status = script_as_operand(s, line->value->at, &v);
    if (!status) status = script_topk_both(s, last, &v.operand, &places.operand);
    const bound_name *first = line->names, *second = first->next;
    if (!status) status = script_bind(s, first->name, first->at, &v);
    return status ? status : script_bind(s, second->name, second->at, &places);
}

static inset_status bind(script *s, const statement *line)
{
    size_t count = 0;
    for (const bound_name *n = line->names; n; n = n->next) count++;
    if (count == 2 && !line->value->next) return bind_topk(s, line);
    return count == 1 ? bind_one(s, line) : bind_several(s, line, count);
}

/* ---- sets --------------------------------------------------------------- */

static link *last_link(const expression *e)
{
    link *l = e->links;
    while (l && l->next) l = l->next;
    return l && l->kind == LINK_GRAD ? NULL : l; /* x.grad = v is of all of it */
}

/* What the last index of a target applies to: the site or the name, and all indices but the
 * last. */
static inset_status target_base(script *s, expression *target, script_value *out)
{
    return script_evaluate_before(s, target, last_link(target), out);
}

static script_op number_op(trace_op op)
{
    return op == TRACE_ADD        ? OP_ADD
           : op == TRACE_SUBTRACT ? OP_SUBTRACT
           : op == TRACE_MULTIPLY ? OP_MULTIPLY
                                  : OP_DIVIDE;
}

/* n += 1 on a number makes a new number. */
static inset_status change_number(
    script *s, const statement *line, const operand *old, const operand *by, script_value *out)
{
    if (by->kind == OPERAND_TENSOR)
        return script_refuse(s, line->target->at, INSET_TYPE_ERROR,
            "a number cannot be changed in place by a tensor");
    out->kind = VALUE_OPERAND;
    return script_number_op(s, line->at, number_op(line->op), old, by, &out->operand);
}

/* xs[i] = v binds the item anew, xs[i] += v changes the tensor that it is. */
static inset_status set_item(script *s, const statement *line, const script_value *base)
{
    script_value v, item;
    kept_value *found;
    link *index = last_link(line->target);
    inset_status status = script_list_item(s, index->at, base, index, &found);
    if (!status && base->list->saved && line->op == TRACE_COPY)
        status = script_refuse(s, line->at, INSET_NAME_ERROR,
            "the values of this list are saved and cannot be replaced");
    if (status) return status;
    if (line->op == TRACE_COPY) {
        status = script_evaluate(s, line->value, &v);
        return status ? status : script_keep(s, &v, found);
    }
    script_recall(found, &item);
    status = script_as_operand(s, line->at, &item);
    if (!status) status = script_operand(s, line->value, &v.operand);
    if (status) return status;
    if (item.operand.kind == OPERAND_TENSOR)
        return script_at(
            s, line->at, trace_set(s->trace, &item.operand, 0, NULL, line->op, &v.operand));
    operand by = v.operand;
    status = change_number(s, line, &item.operand, &by, &v);
    return status ? status : script_keep(s, &v, found);
}

static inset_status set_tensor(
    script *s, const statement *line, script_value *base, const operand *source)
{
    link *index = last_link(line->target);
    script_value changed;
    inset_status status = script_as_operand(s, line->at, base);
    if (!status && index) status = script_evaluate_index(s, index);
    if (status) return status;
    if (base->operand.kind == OPERAND_TENSOR)
        return script_at(s, line->at,
            trace_set(s->trace, &base->operand, index ? index->n_items : 0,
                index ? index->values : NULL, line->op, source));
    if (index || line->target->kind != EXPRESSION_NAME)
        return script_refuse(s, line->at, INSET_TYPE_ERROR, "a number has no index");
    status = change_number(s, line, &base->operand, source, &changed);
    return status ? status : script_bind(s, line->target->name, line->at, &changed);
}

/* target op= expr: the target is asked for first. */
static inset_status set_by(script *s, const statement *line)
{
    script_value base;
    operand source;
    inset_status status = target_base(s, line->target, &base);
    if (status) return status;
    if (base.kind == VALUE_LIST && line->target->links) return set_item(s, line, &base);
    status = script_operand(s, line->value, &source);
    return status ? status : set_tensor(s, line, &base, &source);
}

/* target[...] = expr, site = expr: the right side comes first. */
static inset_status set_to(script *s, const statement *line)
{
    script_value base, v;
    int32_t found;
    expression *target = line->target;
    if (target->kind == EXPRESSION_NAME) { /* asks for no site, and may be a list */
        inset_status status = target_base(s, target, &base);
        if (status || base.kind == VALUE_LIST) return status ? status : set_item(s, line, &base);
        status = script_operand(s, line->value, &v.operand);
        return status ? status : set_tensor(s, line, &base, &v.operand);
    }
    inset_status status = script_operand(s, line->value, &v.operand);
    if (status) return status;
    if (!target->links) {
        status = script_find_site(s, target, &found);
        return status ? status
                      : script_at(s, target->at, trace_replace(s->trace, found, &v.operand));
    }
    status = target_base(s, target, &base);
    return status ? status : set_tensor(s, line, &base, &v.operand);
}

/* ---- the other lines ---------------------------------------------------- */

static inset_status unnamed_save(script *s, const statement *line)
{
    uint32_t at = line->target->at, end = line->save_at - 1;
    script_refuse(s, line->save_at, INSET_NAME_ERROR, "a saved value needs a name");
    error_help(s->context, "Write NAME = %.*s.save()", script_quote_length(at, end), s->text + at);
    return INSET_NAME_ERROR;
}

static inset_status save(script *s, const statement *line)
{
    script_value v;
    inset_status status = script_look_up(s, line->names->name, line->names->at, &v);
    return status ? status : script_save(s, line->names->name, line->save_at, &v);
}

static inset_status skip(script *s, const statement *line)
{
    operand v;
    int32_t module;
    inset_status status = script_operand(s, line->value, &v);
    if (!status) status = script_find_module(s, line->target, &module);
    return status ? status : script_at(s, line->target->at, trace_skip(s->trace, module, &v));
}

static inset_status stop(script *s, const statement *line)
{
    s->stop_line = line->line;
    return script_at(s, line->at, trace_stop(s->trace));
}

static inset_status invoke_block(script *s, const statement *line)
{
    s->stop_line = s->closed_line = 0;
    s->caches = NULL;
    inset_status status = script_invoke(s, line->value);
    if (!status) status = run(s, line->body);
    if (!status) status = script_fill_caches(s);
    if (status) return status;
    s->stop_line = s->closed_line = 0;
    return script_at(s, line->at, trace_end_invoke(s->trace));
}

static inset_status edit_block(script *s, const statement *line)
{
    inset_status status = script_at(s, line->at, trace_edit(s->trace));
    if (!status) status = run(s, line->body);
    if (status) return status;
    return script_at(s, line->at, trace_end_edit(s->trace));
}

/* The metric may stand at top level: arithmetic of it then belongs to the last invoke. */
static inset_status backward_block(script *s, const statement *line)
{
    operand metric;
    const bool inside = trace_in_invoke(s->trace) && !trace_in_backward(s->trace);
    trace_reopen(s->trace);
    inset_status status = script_operand(s, line->value, &metric);
    if (!status) status = script_fill_caches(s); /* the invoke ends here */
    if (!status) status = script_at(s, line->at, trace_backward(s->trace, &metric));
    if (!status) status = run(s, line->body);
    trace_end_backward(s->trace);
    if (inside) s->closed_line = line->line;
    return status;
}

/* ---- loops -------------------------------------------------------------- */

typedef struct range {
    int64_t start, stop, step;
} range;

/* How many integers a range has; more than int64_t holds only where start and stop are nearly its
 * whole width apart. */
static uint64_t range_count(const range *r)
{
    if (r->step > 0 ? r->start >= r->stop : r->start <= r->stop) return 0;
    uint64_t width = r->step > 0 ? (uint64_t)r->stop - (uint64_t)r->start
                                 : (uint64_t)r->start - (uint64_t)r->stop;
    uint64_t step = r->step > 0 ? (uint64_t)r->step : 0 - (uint64_t)r->step;
    return (width - 1) / step + 1;
}

static inset_status read_range(script *s, const statement *line, range *r)
{
    int64_t given[3];
    int n = 0;
    for (expression *e = line->value; e; e = e->next) {
        inset_status status = script_evaluate_integer(s, e, &given[n++]);
        if (status) return status;
    }
    *r = (range){n > 1 ? given[0] : 0, n > 1 ? given[1] : given[0], n > 2 ? given[2] : 1};
    return r->step ? INSET_OK
                   : script_refuse(s, line->save_at, INSET_VALUE_ERROR, "range() with a step of 0");
}

static inset_status turn(script *s, const statement *line, running_loop *loop, int64_t value)
{
    script_value v = {.kind = VALUE_OPERAND};
    v.operand = operand_of_integer(value);
    loop->value = value;
    s->bodies++;
    inset_status status = script_bind(s, line->names->name, line->names->at, &v);
    return status ? status : run(s, line->body);
}

static inset_status loop_over_range(script *s, const statement *line, running_loop *loop)
{
    range r;
    inset_status status = read_range(s, line, &r);
    if (status) return status;
    uint64_t count = range_count(&r);
    if (count > (uint64_t)(SCRIPT_BODIES - s->bodies))
        return script_refuse(s, line->save_at, INSET_VALUE_ERROR,
            "range(%" PRId64 ", %" PRId64 ", %" PRId64 ") has %" PRIu64
            " turns; the loops of a script may have %d in all%s",
            r.start, r.stop, r.step, count, SCRIPT_BODIES,
            s->bodies ? ", and others come before" : "");
    s->loops = loop;
    for (uint64_t i = 0; i < count && !status && !s->stop_line; i++)
        status = turn(s, line, loop, (int64_t)((uint64_t)r.start + i * (uint64_t)r.step));
    return status;
}

static inset_status loop_over_list(script *s, const statement *line, running_loop *loop)
{
    inset_status status = INSET_OK;
    for (expression *e = line->value; e && !status && !s->stop_line; e = e->next) {
        int64_t value;
        s->loops = loop->outer;
        status = script_evaluate_integer(s, e, &value);
        if (!status && s->bodies >= SCRIPT_BODIES)
            status = script_refuse(s, line->save_at, INSET_VALUE_ERROR,
                "the loops of a script may have %d turns in all", SCRIPT_BODIES);
        s->loops = loop;
        if (!status) status = turn(s, line, loop, value);
    }
    return status;
}

/* A bound of a slice as Python clips it. */
static int64_t clipped(int64_t at, int64_t count)
{
    if (at < 0) at = at < -count ? 0 : at + count;
    return at > count ? count : at;
}

/* Numbered modules, all or a slice of them: in each turn the loop's name is one. */
static inset_status loop_over_modules(script *s, const statement *line, running_loop *loop)
{
    int32_t container;
    int64_t count, start = 0, stop, step = 1;
    expression *path = line->value;
    inset_status status = script_find_modules(s, path, &container, &count);
    if (status) return status;
    stop = count;
    if (path->links) {
        if ((status = script_evaluate_index(s, path->links))) return status;
        const index_item *x = path->links->values;
        if (x->has_step) step = x->step;
        if (step < 1)
            return script_refuse(s, path->links->at, INSET_VALUE_ERROR,
                "a slice's step must be 1 or more, found %" PRId64, step);
        if (x->has_start) start = clipped(x->start, count);
        if (x->has_stop) stop = clipped(x->stop, count);
    }
    s->loops = loop;
    name *n = &s->names[line->names->name];
    for (int64_t i = start; i < stop && !status && !s->stop_line;
         i += step > count ? count : step) {
        if (s->bodies++ >= SCRIPT_BODIES)
            return script_refuse(s, line->save_at, INSET_VALUE_ERROR,
                "the loops of a script may have %d turns in all", SCRIPT_BODIES);
        loop->value = i;
        n->module = program_child_at(s->program, container, i);
        status = run(s, line->body);
        n->module = -1;
    }
    return status;
}

/* stop() inside the loop ends it; what follows it in the invoke is then never reached. */
static inset_status loop(script *s, const statement *line)
{
    running_loop running = {line->names->name, 0, s->loops};
    inset_status status = script_check_bindable(s, line->names->name, line->names->at);
    if (!status)
        status = line->modules  ? loop_over_modules(s, line, &running)
                 : line->listed ? loop_over_list(s, line, &running)
                                : loop_over_range(s, line, &running);
    s->loops = running.outer;
    return status;
}

/* ---- lines -------------------------------------------------------------- */

static inset_status run_line(script *s, const statement *line)
{
    s->running_line = line->line;
    trace_line(s->trace, line->line);
    switch (line->kind) {
    case STATEMENT_BIND: return bind(s, line);
    case STATEMENT_SET: return line->op == TRACE_COPY ? set_to(s, line) : set_by(s, line);
    case STATEMENT_SAVE: return save(s, line);
    case STATEMENT_UNNAMED_SAVE: return unnamed_save(s, line);
    case STATEMENT_APPEND: return script_append(s, line);
    case STATEMENT_SKIP: return skip(s, line);
    case STATEMENT_STOP: return stop(s, line);
    case STATEMENT_CACHE: return script_cache(s, line);
    case STATEMENT_INVOKE: return invoke_block(s, line);
    case STATEMENT_BACKWARD: return backward_block(s, line);
    case STATEMENT_EDIT: return edit_block(s, line);
    case STATEMENT_FOR: return loop(s, line);
    case STATEMENT_CLEAR_EDITS: trace_clear_edits(s->trace); break;
    case STATEMENT_PASS: break;
    }
    return INSET_OK;
}

static inset_status run(script *s, const statement *first)
{
    inset_status status = INSET_OK;
    for (const statement *line = first; line && !status; line = line->next) {
        if (s->stop_line)
            return script_refuse(s, line->at, INSET_MISSED_PROVIDER,
                "this line is never reached: stop() on line %d ended the invoke",
                (int)s->stop_line);
        if (s->closed_line)
            return script_refuse(s, line->at, INSET_SYNTAX_ERROR,
                "backward() on line %d is the last thing of its invoke", (int)s->closed_line);
        status = run_line(s, line);
    }
    return status;
}

inset_status script_run(script *s, const statement *first)
{
    inset_status status = run(s, first);
    return status ? status : script_save_all(s);
}
