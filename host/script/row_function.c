/* row_function.c: functions of whole rows, x.sum(-1), softmax(x, dim=-1), x.topk(5).values;
 * where(c, a, b); x.T, x.transpose(0, 1) and x.detach(). */
#include "script/reader.h"

#include <string.h>

/* ---- reading ------------------------------------------------------------- */

bool script_row_function_named(script *s, token t, link *l)
{
    static const trace_row_op functions[] = {TRACE_ROW_SUM, TRACE_ROW_MEAN, TRACE_ROW_AMAX,
        TRACE_ROW_AMIN, TRACE_ROW_NORM, TRACE_ROW_ARGMAX, TRACE_ROW_SOFTMAX, TRACE_ROW_LOG_SOFTMAX,
        TRACE_ROW_TOPK};
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (script_is(s, t, trace_row_function_name(functions[i]))) {
            l->kind = LINK_ROWS;
            l->rows = script_new(s, sizeof *l->rows);
            l->rows->function = functions[i];
            return true;
        }
    static const struct {
        const char *name;
        link_kind kind;
    } others[] = {{"transpose", LINK_TRANSPOSE}, {"detach", LINK_DETACH}, {"where", LINK_WHERE}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (script_is(s, t, others[i].name)) {
            l->kind = others[i].kind;
            return true;
        }
    return false;
}

static void add_dimension(script *s, row_link *r)
{
    expression **last = &r->dimensions;
    while (*last) last = &(*last)->next;
    *last = script_integer(s);
    if (++r->n_dimensions > INSET_MAX_DIMENSIONS && !s->status)
        script_refuse(
            s, (*last)->at, INSET_SYNTAX_ERROR, "more than %d dimensions", INSET_MAX_DIMENSIONS);
}

/* int | "(" int { "," int } ")" | "[" int { "," int } "]" */
static void dimensions(script *s, row_link *r)
{
    const int close = s->current.kind == '(' ? ')' : s->current.kind == '[' ? ']' : 0;
    if (!close) {
        add_dimension(s, r);
        return;
    }
    script_advance(s);
    do {
        if (s->current.kind == close) break;
        add_dimension(s, r);
    } while (!s->status && script_accept(s, ','));
    script_expect(s, close, close == ')' ? "',' or ')'" : "',' or ']'");
}

static void boolean(script *s, bool *out)
{
    token t = s->current;
    *out = script_is(s, t, "True");
    if (*out || script_is(s, t, "False")) script_advance(s);
    else script_unexpected(s, "True or False");
}

/* NAME "=": the keyword; false where none stands here. */
static bool keyword(script *s, token *name)
{
    if (s->current.kind != TOKEN_NAME || !script_followed_by(s, '=')) return false;
    *name = s->current;
    script_advance(s);
    script_advance(s);
    return true;
}

static void keyword_argument(script *s, row_link *r, token name)
{
    const bool sums = r->function < TRACE_ROW_ARGMAX;
    if ((script_is(s, name, "dim") || script_is(s, name, "axis")) && !r->dimensions)
        dimensions(s, r);
    else if (script_is(s, name, "keepdim") && sums) boolean(s, &r->keep);
    else if (script_is(s, name, "k") && r->function == TRACE_ROW_TOPK && !r->k)
        r->k = script_integer(s);
    else if (script_is(s, name, "p") && r->function == TRACE_ROW_NORM && !r->p)
        r->p = script_integer(s);
    else
        script_refuse(s, name.at, INSET_SYNTAX_ERROR, "%s() has no argument %.*s here",
            trace_row_function_name(r->function), script_quote_length(name.at, name.end),
            s->text + name.at);
}

static void plain_argument(script *s, row_link *r, int index)
{
    if (r->function == TRACE_ROW_TOPK && !index) r->k = script_integer(s);
    else if (r->function == TRACE_ROW_NORM && !index) r->p = script_integer(s);
    else if (!r->dimensions) dimensions(s, r);
    else script_unexpected(s, "')'");
}

static void row_arguments(script *s, link *l, bool behind)
{
    token name;
    row_link *r = l->rows;
    for (int i = 0; s->current.kind != ')' && !s->status; i++) {
        if ((i || behind) && !script_accept(s, ',')) {
            script_unexpected(s, "',' or ')'");
            return;
        }
        if (s->current.kind == ')') return;
        if (keyword(s, &name)) keyword_argument(s, r, name);
        else plain_argument(s, r, i);
    }
    if (r->function == TRACE_ROW_TOPK && !r->k && !s->status)
        script_refuse(s, l->at, INSET_SYNTAX_ERROR, "topk(k) needs how many, as in topk(5)");
}

void script_row_function_arguments(script *s, link *l, bool behind)
{
    switch (l->kind) {
    case LINK_ROWS: row_arguments(s, l, behind); break;
    case LINK_TRANSPOSE:
        if (behind) script_expect(s, ',', "','");
        l->argument = script_integer(s);
        script_expect(s, ',', "',' and the other dimension");
        if (!s->status) l->argument->next = script_integer(s);
        break;
    case LINK_WHERE: /* where(condition, a, b): the condition stands before */
        if (!behind)
            script_refuse(
                s, l->at, INSET_SYNTAX_ERROR, "write where(condition, a, b), as torch.where");
        script_expect(s, ',', "',' and the value where it is true");
        if (!s->status) l->argument = script_expression(s);
        script_expect(s, ',', "',' and the value where it is not");
        if (!s->status) l->argument->next = script_expression(s);
        break;
    default: break;
    }
}

/* ".values" or ".indices" behind topk(...) */
void script_topk_part(script *s, link *l)
{
    if (l->kind != LINK_ROWS || l->rows->function != TRACE_ROW_TOPK || s->current.kind != '.')
        return;
    script_advance(s);
    const token t = s->current;
    l->rows->part = script_is(s, t, "values") ? PART_VALUES : PART_PLACES;
    if (l->rows->part == PART_PLACES && !script_is(s, t, "indices"))
        script_unexpected(s, ".values or .indices of topk()");
    else script_advance(s);
}

/* ---- evaluating ---------------------------------------------------------- */

static inset_status evaluate_dimensions(script *s, const row_link *r, int64_t *out)
{
    inset_status status = INSET_OK;
    for (expression *e = r->dimensions; e && !status; e = e->next)
        status = script_evaluate_integer(s, e, out++);
    return status;
}

static inset_status rows_of(script *s, const link *l, bool places, const operand *x, operand *out)
{
    const row_link *r = l->rows;
    int64_t all[INSET_MAX_DIMENSIONS], p = 2;
    row_request request = {.function = places ? TRACE_ROW_TOPK_AT : r->function,
        .n_dimensions = r->n_dimensions,
        .dimensions = all,
        .keep = r->keep};
    inset_status status = evaluate_dimensions(s, r, all);
    if (!status && r->k) status = script_evaluate_integer(s, r->k, &request.k);
    if (!status && r->p) status = script_evaluate_integer(s, r->p, &p);
    if (status) return status;
    if (p != 2) {
        status = script_refuse(s, r->p->at, INSET_VALUE_ERROR,
            "norm(p) is the 2-norm alone, found p = %lld", (long long)p);
        error_help(s->context, "A dimension is named: norm(dim=-1).");
        return status;
    }
    if (r->function == TRACE_ROW_TOPK && !r->n_dimensions) all[0] = -1, request.n_dimensions = 1;
    return script_at(s, l->at, trace_row_function(s->trace, x, &request, out));
}

inset_status script_topk_both(script *s, const link *l, operand *x, operand *places)
{
    operand of = *x;
    inset_status status = rows_of(s, l, false, &of, x);
    return status ? status : rows_of(s, l, true, &of, places);
}

static inset_status transpose(script *s, const link *l, const operand *x, operand *out)
{
    int64_t first = -2, second = -1;
    inset_status status = INSET_OK;
    if (l->argument) {
        status = script_evaluate_integer(s, l->argument, &first);
        if (!status) status = script_evaluate_integer(s, l->argument->next, &second);
    }
    return status ? status : script_at(s, l->at, trace_transpose(s->trace, x, first, second, out));
}

static inset_status where(script *s, const link *l, const operand *condition, operand *out)
{
    operand a, b;
    inset_status status = script_operand(s, l->argument, &a);
    if (!status) status = script_operand(s, l->argument->next, &b);
    return status ? status : script_at(s, l->at, trace_where(s->trace, condition, &a, &b, out));
}

inset_status script_row_function(script *s, const link *l, operand *v)
{
    const operand x = *v;
    switch (l->kind) {
    case LINK_TRANSPOSE: return transpose(s, l, &x, v);
    case LINK_WHERE: return where(s, l, &x, v);
    case LINK_DETACH: return script_at(s, l->at, trace_detach(s->trace, &x, v));
    default: break;
    }
    if (l->rows->function == TRACE_ROW_TOPK && l->rows->part == PART_BOTH) {
        inset_status status = script_refuse(s, l->at, INSET_TYPE_ERROR,
            "topk() gives two tensors: write .topk(k).values or .topk(k).indices");
        error_help(s->context, "Both at once: values, indices = x.topk(k).");
        return status;
    }
    return rows_of(s, l, l->rows->part == PART_PLACES, &x, v);
}
