/* metric.c: calls that make numbers of rows of logits: x.logit_diff(a, b), x.kl(reference), ... */
#include "script/reader.h"

#include <string.h>

/* ---- reading ------------------------------------------------------------ */

int script_metric_named(const script *s, token t)
{
    for (int kind = INSET_LOGIT_DIFF; kind <= INSET_KL; kind++)
        if (script_is(s, t, trace_metric_name((inset_metric_kind)kind))) return kind;
    return -1;
}

/* tokens = int | STRING | "[" ( int | STRING ) { "," ... } "]" */
static item *token_set(script *s)
{
    item *i = script_new(s, sizeof *i);
    if (s->current.kind == '[') script_integer_list(s, i, true);
    else if (s->current.kind == TOKEN_STRING) i->start = script_answer(s);
    else i->start = script_integer(s);
    return i;
}

/* metric = "logit_diff" "(" tokens "," tokens ")" | ( "logit" | "probability" | "log_probability" |
 * "rank" ) "(" tokens ")" | "kl" "(" expr ")" */
void script_metric_arguments(script *s, link *l)
{
    if (l->metric == INSET_KL) {
        l->argument = script_expression(s);
        return;
    }
    l->items = token_set(s);
    if (l->metric != INSET_LOGIT_DIFF || s->status) return;
    script_expect(s, ',', "',' and the tokens that are taken off");
    if (!s->status) l->items->next = token_set(s);
}

/* ---- evaluating --------------------------------------------------------- */

/* The tokens of a written list, or room for them. */
static inset_status written_set(script *s, item *i, token_list *out)
{
    int64_t *value = i->list_values;
    for (expression *e = i->list; e; e = e->next) {
        inset_status status = script_evaluate_integer(s, e, value++);
        if (status) return status;
    }
    *out = (token_list){i->list_length, i->list_values};
    return INSET_OK;
}

static inset_status not_tokens(script *s, const item *i)
{
    return script_refuse(
        s, i->start->at, INSET_TYPE_ERROR, "tokens are an integer or a list of integers");
}

/* A list that was appended to. */
static inset_status listed_set(script *s, const item *i, const list *from, token_list *out)
{
    int64_t *tokens = arena_new(&s->memory, from->length * sizeof *tokens);
    if (!tokens) return INSET_NO_MEMORY;
    for (size_t k = 0; k < from->length; k++) {
        if (from->items[k].kind != VALUE_OPERAND || from->items[k].number_kind != OPERAND_INTEGER)
            return not_tokens(s, i);
        tokens[k] = from->items[k].integer;
    }
    *out = (token_list){from->length, tokens};
    return INSET_OK;
}

/* An integer, or the name of a list of integers. */
static inset_status evaluated_set(script *s, item *i, int64_t *one, token_list *out)
{
    script_value v;
    inset_status status = script_evaluate(s, i->start, &v);
    if (status) return status;
    if (v.kind == VALUE_LIST) return listed_set(s, i, v.list, out);
    if (v.kind == VALUE_LITERAL) {
        const literal *l = v.literal->literal;
        if (l->n_dimensions != 1 || !l->integers || l->too_large) return not_tokens(s, i);
        *out = (token_list){l->count, l->integers};
        return INSET_OK;
    }
    if (v.kind != VALUE_OPERAND || v.operand.kind != OPERAND_INTEGER) return not_tokens(s, i);
    *one = v.operand.integer;
    *out = (token_list){1, one};
    return INSET_OK;
}

inset_status script_metric(script *s, link *l, operand *v)
{
    metric_request m = {.kind = l->metric};
    operand row = *v, reference;
    int64_t ones[2];
    inset_status status = INSET_OK;
    int k = 0;
    for (item *i = l->items; i && !status; i = i->next, k++)
        status = i->kind == INDEX_LIST ? written_set(s, i, &m.sets[k])
                                       : evaluated_set(s, i, &ones[k], &m.sets[k]);
    if (!status && l->argument) status = script_operand(s, l->argument, &reference);
    if (status) return status;
    m.reference = l->argument ? &reference : NULL;
    return script_at(s, l->at, trace_metric(s->trace, &row, &m, v));
}
