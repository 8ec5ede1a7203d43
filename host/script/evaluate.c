/* evaluate.c: expressions to operands, by the calls of trace.h.
 *
 * Numbers are Python's: integers stay integers (of 64 bits; beyond them is an error), "/" gives a
 * float, "//" and "%" round down. Whatever meets a tensor is the trace's affair. Buffers that an
 * index needs lie in its node, so that a loop's turns allocate nothing here. */
#include "script/reader.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

operand operand_of_integer(int64_t integer)
{
    operand o;
    memset(&o, 0, sizeof o);
    o.kind = OPERAND_INTEGER;
    o.integer = integer;
    o.number = (double)integer;
    return o;
}

static operand operand_of_float(double number)
{
    operand o;
    memset(&o, 0, sizeof o);
    o.kind = OPERAND_FLOAT;
    o.number = number;
    return o;
}

/* ---- numbers ------------------------------------------------------------ */

static inset_status number(script *s, const expression *e, operand *out)
{
    if (e->too_large)
        return script_refuse(s, e->at, INSET_VALUE_ERROR, "an integer beyond 64 bits");
    *out = e->is_float ? operand_of_float(e->number) : operand_of_integer(e->integer);
    return INSET_OK;
}

/* Python's floor division and remainder: the remainder has the divisor's sign. */
static int64_t floor_divide(int64_t a, int64_t b)
{
    return a / b - (a % b != 0 && (a < 0) != (b < 0));
}

static bool integer_op(script_op op, int64_t a, int64_t b, int64_t *out)
{
    switch (op) {
    case OP_ADD: return !__builtin_add_overflow(a, b, out);
    case OP_SUBTRACT: return !__builtin_sub_overflow(a, b, out);
    case OP_MULTIPLY: return !__builtin_mul_overflow(a, b, out);
    default: break;
    }
    if (b == -1) { /* the one division that may overflow */
        *out = 0;
        return op == OP_REMAINDER || !__builtin_sub_overflow((int64_t)0, a, out);
    }
    *out = floor_divide(a, b);
    if (op == OP_REMAINDER) *out = a - *out * b;
    return true;
}

static double float_op(script_op op, double a, double b)
{
    switch (op) {
    case OP_ADD: return a + b;
    case OP_SUBTRACT: return a - b;
    case OP_MULTIPLY: return a * b;
    default: return a / b;
    }
}

inset_status script_number_op(
    script *s, uint32_t at, script_op op, const operand *a, const operand *b, operand *out)
{
    bool integers = a->kind == OPERAND_INTEGER && b->kind == OPERAND_INTEGER;
    if (op >= OP_DIVIDE && b->number == 0)
        return script_refuse(s, at, INSET_VALUE_ERROR, "division by zero");
    if (op >= OP_FLOOR && !integers)
        return script_refuse(
            s, at, INSET_TYPE_ERROR, "'%s' is for integers", op == OP_FLOOR ? "//" : "%");
    if (!integers || op == OP_DIVIDE) {
        *out = operand_of_float(float_op(op, a->number, b->number));
        return INSET_OK;
    }
    int64_t result;
    if (!integer_op(op, a->integer, b->integer, &result))
        return script_refuse(s, at, INSET_VALUE_ERROR, "the result is an integer beyond 64 bits");
    *out = operand_of_integer(result);
    return INSET_OK;
}

/* ---- arithmetic --------------------------------------------------------- */

static inset_status combine(
    script *s, const term *t, const operand *a, const operand *b, operand *out)
{
    static const trace_op ops[] = {TRACE_ADD, TRACE_SUBTRACT, TRACE_MULTIPLY, TRACE_DIVIDE};
    if (t->op == OP_PRODUCT) return script_at(s, t->at, trace_product(s->trace, a, b, out));
    if (t->op > OP_PRODUCT && a->kind != OPERAND_TENSOR && b->kind != OPERAND_TENSOR)
        return script_refuse(
            s, t->at, INSET_TYPE_ERROR, "a comparison of two numbers decides nothing here");
    if (t->op > OP_PRODUCT)
        return script_at(s, t->at,
            trace_binary(s->trace, (trace_op)(TRACE_EQUAL + (t->op - OP_EQUAL)), a, b, out));
    if (a->kind != OPERAND_TENSOR && b->kind != OPERAND_TENSOR)
        return script_number_op(s, t->at, t->op, a, b, out);
    if (t->op >= OP_FLOOR)
        return script_refuse(s, t->at, INSET_TYPE_ERROR, "'%s' is for integers, not for tensors",
            t->op == OP_FLOOR ? "//" : "%");
    return script_at(s, t->at, trace_binary(s->trace, ops[t->op], a, b, out));
}

static inset_status chain(script *s, const expression *e, operand *out)
{
    operand left, right;
    inset_status status = script_operand(s, e->first, out);
    for (const term *t = e->terms; t && !status; t = t->next) {
        left = *out;
        status = script_operand(s, t->operand, &right);
        if (!status) status = combine(s, t, &left, &right, out);
    }
    return status;
}

static inset_status negate(script *s, const expression *e, operand *out)
{
    inset_status status = script_operand(s, e->operand, out);
    for (int32_t i = 0; i < e->times && !status; i++) {
        operand a = *out, zero = operand_of_integer(0);
        if (a.kind == OPERAND_FLOAT) *out = operand_of_float(-a.number);
        else if (a.kind == OPERAND_INTEGER)
            status = script_number_op(s, e->at, OP_SUBTRACT, &zero, &a, out);
        else status = script_at(s, e->at, trace_negate(s->trace, &a, out));
    }
    return status;
}

/* ---- integers and indices ----------------------------------------------- */

inset_status script_evaluate_integer(script *s, expression *e, int64_t *out)
{
    if (e->kind == EXPRESSION_NUMBER && !e->is_float && !e->too_large) {
        *out = e->integer;
        return INSET_OK;
    }
    operand o;
    inset_status status = script_operand(s, e, &o);
    if (status) return status;
    if (o.kind != OPERAND_INTEGER) {
        char shape[128] = "";
        if (o.kind == OPERAND_TENSOR) trace_shape_text(s->trace, &o, shape, sizeof shape);
        else snprintf(shape, sizeof shape, "the number %g", o.number);
        return script_refuse(s, e->at, INSET_TYPE_ERROR, "an integer is needed here, this is %s%s",
            o.kind == OPERAND_TENSOR ? "a tensor of shape " : "", shape);
    }
    *out = o.integer;
    return INSET_OK;
}

static inset_status optional_integer(script *s, expression *e, bool *has, int64_t *out)
{
    *has = e != NULL;
    return e ? script_evaluate_integer(s, e, out) : INSET_OK;
}

static inset_status slice(script *s, const item *i, index_item *out)
{
    inset_status status = optional_integer(s, i->start, &out->has_start, &out->start);
    if (!status) status = optional_integer(s, i->stop, &out->has_stop, &out->stop);
    if (!status) status = optional_integer(s, i->step, &out->has_step, &out->step);
    return status;
}

static inset_status index_item_value(script *s, const item *i, index_item *out)
{
    memset(out, 0, sizeof *out);
    out->kind = i->kind;
    if (i->kind == INDEX_INTEGER) return script_evaluate_integer(s, i->start, &out->integer);
    if (i->kind == INDEX_SLICE) return slice(s, i, out);
    if (i->kind == INDEX_NEW) return INSET_OK;
    int64_t *value = i->list_values;
    for (expression *e = i->list; e; e = e->next) {
        inset_status status = script_evaluate_integer(s, e, value++);
        if (status) return status;
    }
    out->list = i->list_values;
    out->list_length = i->list_length;
    return INSET_OK;
}

inset_status script_evaluate_index(script *s, link *index)
{
    index_item *value = index->values;
    for (const item *i = index->items; i; i = i->next) {
        inset_status status = index_item_value(s, i, value++);
        if (status) return status;
    }
    return INSET_OK;
}

/* ---- paths -------------------------------------------------------------- */

/* A path's first name that is no module: what was meant depends on whether it is a name of the
 * script. */
static inset_status unknown_head(script *s, const expression *path)
{
    const name *head = &s->names[path->head];
    const link *behind = path->parts ? path->parts : path->site;
    if (!head->bound_line || !behind)
        return script_at(
            s, path->at, program_unknown_module(s->program, 0, head->text, head->length));
    return script_refuse(s, behind->at, INSET_SYNTAX_ERROR,
        "'%.*s' is a name of this script; its value has no .%.*s",
        script_quote_length(0, (uint32_t)head->length), head->text,
        script_quote_length(behind->at, behind->end), s->text + behind->at);
}

static inset_status child_at(script *s, const link *l, int32_t *module)
{
    int64_t number = 0;
    char text[24];
    inset_status status = script_evaluate_integer(s, l->items->start, &number);
    if (status) return status;
    int32_t child = program_child_at(s->program, *module, number);
    if (child < 0) {
        int size = snprintf(text, sizeof text, "%" PRId64, number);
        return script_at(s, l->items->start->at,
            program_unknown_module(s->program, *module, text, (size_t)size));
    }
    *module = child;
    return INSET_OK;
}

static inset_status child(script *s, const link *l, int32_t *module)
{
    if (l->kind == LINK_INDEX) return child_at(s, l, module);
    int32_t found = program_child(s->program, *module, s->text + l->at, l->end - l->at);
    if (found < 0)
        return script_at(
            s, l->at, program_unknown_module(s->program, *module, s->text + l->at, l->end - l->at));
    *module = found;
    return INSET_OK;
}

/* True when the path says the same in every turn of a loop: h[3], h[-1]. */
static bool is_constant(const script *s, const expression *path)
{
    if (s->names[path->head].of_loop) return false;
    for (const link *l = path->parts; l; l = l->next) {
        if (l->kind != LINK_INDEX) continue;
        const expression *number = l->items->start;
        if (number->kind == EXPRESSION_NEGATE) number = number->operand;
        if (number->kind != EXPRESSION_NUMBER) return false;
    }
    return true;
}

inset_status script_find_module(script *s, expression *path, int32_t *module)
{
    inset_status status = INSET_OK;
    *module = s->names[path->head].module;
    if (*module < 0) return unknown_head(s, path);
    for (const link *l = path->parts; l && !status; l = l->next) status = child(s, l, module);
    return status;
}

inset_status script_find_modules(script *s, expression *path, int32_t *module, int64_t *count)
{
    inset_status status = script_find_module(s, path, module);
    if (!status && path->site) status = child(s, path->site, module);
    if (status) return status;
    const program *p = s->program;
    *count = program_child_at(p, *module, 0) < 0 ? 0 : p->modules[*module].n_children;
    if (*count) return INSET_OK;
    script_refuse(
        s, path->at, INSET_TYPE_ERROR, "%s is no list of modules", p->modules[*module].path);
    for (size_t i = 1; i < p->n_modules; i++)
        if (program_child_at(p, (int32_t)i, 0) >= 0) {
            error_help(s->context, "%s is one.", p->modules[i].path);
            break;
        }
    return INSET_TYPE_ERROR;
}

/* The path ends at a module, where a tensor is needed. */
static inset_status refuse_module(script *s, uint32_t at, int32_t module)
{
    const char *path = s->program->modules[module].path;
    script_refuse(s, at, INSET_UNKNOWN_SITE, "%s is a module, not a tensor", path);
    for (int32_t i = 0; i < s->program->modules[module].n_sites; i++) {
        const site *known =
            &s->program
                 ->sites[s->program->module_sites[s->program->modules[module].first_site + i]];
        if (!strcmp(known->name, "output")) error_help(s->context, "Ask for %s.output.", path);
    }
    if (program_child_at(s->program, module, 0) >= 0)
        error_help(s->context, "Ask for a site of one of its modules, as in %s[0].output.", path);
    return INSET_UNKNOWN_SITE;
}

inset_status script_find_site(script *s, expression *path, int32_t *found)
{
    int32_t module = -1;
    if (path->resolved) {
        *found = path->found;
        return INSET_OK;
    }
    inset_status status = script_find_module(s, path, &module);
    if (status) return status;
    if (!path->site) return refuse_module(s, path->at, module);
    const char *wanted = s->text + path->site->at;
    size_t size = path->site->end - path->site->at;
    *found = program_site(s->program, module, wanted, size);
    if (*found < 0) {
        int32_t inner = program_child(s->program, module, wanted, size);
        if (inner >= 0) return refuse_module(s, path->at, inner);
        if (program_weight_of(s->program, module, wanted, size) >= 0)
            return script_refuse(s, path->at, INSET_TYPE_ERROR, "weights can be read and not set");
        return script_at(s, path->site->at, program_unknown_site(s->program, module, wanted, size));
    }
    path->found = *found;
    path->resolved = is_constant(s, path);
    return INSET_OK;
}

/* ---- expressions -------------------------------------------------------- */

static inset_status length(script *s, const expression *e, operand *out)
{
    script_value v;
    inset_status status = script_look_up(s, e->name, e->at, &v);
    if (status) return status;
    int64_t n = v.kind == VALUE_LIST      ? (int64_t)v.list->length
                : v.kind == VALUE_LITERAL ? v.literal->literal->shape[0]
                                          : trace_operand_length(s->trace, &v.operand);
    if (n < 0 && v.kind == VALUE_OPERAND && v.operand.edit)
        return script_refuse(s, e->at, INSET_TYPE_ERROR,
            "the length of a value of edit() is known only where an invoke repeats it");
    if (n < 0) return script_refuse(s, e->at, INSET_TYPE_ERROR, "this value has no length");
    *out = operand_of_integer(n);
    return INSET_OK;
}

static inset_status count_modules(script *s, expression *e, operand *out)
{
    int32_t module;
    int64_t count;
    inset_status status = script_find_modules(s, e, &module, &count);
    if (!status) *out = operand_of_integer(count);
    return status;
}

inset_status script_find_weight(script *s, expression *path, int32_t *weight)
{
    int32_t module;
    *weight = -1;
    if (path->resolved || !path->site) return INSET_OK;
    inset_status status = script_find_module(s, path, &module);
    if (!status)
        *weight = program_weight_of(
            s->program, module, s->text + path->site->at, path->site->end - path->site->at);
    return status;
}

static inset_status site_operand(script *s, expression *e, operand *out)
{
    int32_t found;
    inset_status status = script_find_weight(s, e, &found);
    if (!status && found >= 0) return script_at(s, e->at, trace_weight(s->trace, found, out));
    if (!status) status = script_find_site(s, e, &found);
    return status ? status : script_at(s, e->at, trace_site(s->trace, found, out));
}

/* What a module makes of a value. */
static inset_status call(script *s, expression *e, operand *out)
{
    int32_t module;
    operand x;
    inset_status status = script_find_module(s, e, &module);
    if (!status) status = script_operand(s, e->argument, &x);
    return status ? status : script_at(s, e->at, trace_call(s->trace, module, &x, out));
}

/* "[]" is a new list; any other literal may become a tensor later. */
static inset_status literal_value(script *s, const expression *e, script_value *out)
{
    if (e->literal->n_dimensions == 1 && !e->literal->count) return script_list_new(s, out);
    out->literal = arena_new(&s->memory, sizeof *out->literal);
    if (!out->literal) return INSET_NO_MEMORY;
    out->literal->literal = e->literal;
    out->literal->in_edit = trace_in_edit(s->trace);
    out->kind = VALUE_LITERAL;
    return INSET_OK;
}

inset_status script_evaluate_before(script *s, expression *e, const link *end, script_value *out)
{
    inset_status status = INSET_OK;
    out->kind = VALUE_OPERAND;
    switch (e->kind) {
    case EXPRESSION_NUMBER: status = number(s, e, &out->operand); break;
    case EXPRESSION_LITERAL: status = literal_value(s, e, out); break;
    case EXPRESSION_NAME: status = script_look_up(s, e->name, e->at, out); break;
    case EXPRESSION_SITE: status = site_operand(s, e, &out->operand); break;
    case EXPRESSION_CALL: status = call(s, e, &out->operand); break;
    case EXPRESSION_CHAIN: status = chain(s, e, &out->operand); break;
    case EXPRESSION_NEGATE: status = negate(s, e, &out->operand); break;
    case EXPRESSION_MODULES: status = count_modules(s, e, &out->operand); break;
    case EXPRESSION_LENGTH: status = length(s, e, &out->operand); break;
    case EXPRESSION_LOAD: status = script_load(s, e, &out->operand); break;
    case EXPRESSION_ZEROS: status = script_zeros(s, e, &out->operand); break;
    }
    for (link *l = e->links; l && l != end && !status; l = l->next)
        status = script_follow(s, l, out);
    return status;
}

inset_status script_evaluate(script *s, expression *e, script_value *out)
{
    return script_evaluate_before(s, e, NULL, out);
}

inset_status script_operand(script *s, expression *e, operand *out)
{
    script_value v;
    inset_status status = script_evaluate(s, e, &v);
    if (!status) status = script_as_operand(s, e->at, &v);
    if (!status) *out = v.operand;
    return status;
}

/* ---- links -------------------------------------------------------------- */

inset_status script_as_operand(script *s, uint32_t at, script_value *v)
{
    if (v->kind == VALUE_OPERAND) return INSET_OK;
    if (v->kind == VALUE_LIST)
        return script_refuse(
            s, at, INSET_TYPE_ERROR, "a list is no tensor; take one of its values: xs[i]");
    if (!v->literal->made) {
        operand *made = arena_new(&s->memory, sizeof *made);
        if (!made) return INSET_NO_MEMORY;
        inset_status status = script_literal_operand(
            s, at, v->literal->literal, !v->literal->in_edit, made);
        if (status) return status;
        v->literal->made = made;
    }
    v->operand = *v->literal->made;
    v->kind = VALUE_OPERAND;
    return INSET_OK;
}

static inset_status index_value(script *s, link *l, script_value *v)
{
    if (v->kind == VALUE_LIST) {
        kept_value *found;
        inset_status status = script_list_item(s, l->at, v, l, &found);
        if (!status) script_recall(found, v);
        return status;
    }
    inset_status status = script_as_operand(s, l->at, v);
    if (status) return status;
    if (v->operand.kind != OPERAND_TENSOR)
        return script_refuse(s, l->at, INSET_TYPE_ERROR, "a number has no index");
    status = script_evaluate_index(s, l);
    if (status) return status;
    operand base = v->operand;
    return script_at(s, l->at, trace_index(s->trace, &base, l->n_items, l->values, &v->operand));
}

inset_status script_follow(script *s, link *l, script_value *v)
{
    if (l->kind == LINK_INDEX) return index_value(s, l, v);
    inset_status status = script_as_operand(s, l->at, v);
    if (status) return status;
    if (l->kind == LINK_METRIC) return script_metric(s, l, &v->operand);
    if (l->kind == LINK_FUNCTION || l->kind == LINK_CAST) return script_function(s, l, &v->operand);
    if (l->kind >= LINK_ROWS && l->kind <= LINK_DETACH)
        return script_row_function(s, l, &v->operand);
    if (l->kind == LINK_BACKWARD) {
        status = script_refuse(
            s, l->at, INSET_SYNTAX_ERROR, "backward() begins a block of gradients");
        error_help(s->context, "Write `with METRIC.backward():` and ask for NAME.grad inside.");
        return status;
    }
    if (l->kind == LINK_GRAD) {
        operand of = v->operand;
        return script_at(s, l->at, trace_gradient(s->trace, &of, &v->operand));
    }
    if (v->operand.kind != OPERAND_TENSOR)
        return script_refuse(s, l->at, INSET_TYPE_ERROR, "clone() of a number");
    operand base = v->operand;
    return script_at(s, l->at, trace_clone(s->trace, &base, &v->operand));
}
