/* index.c: what stands in brackets: integers, slices, lists of integers. */
#include "script/reader.h"

#include <string.h>

static int operator_length(script_op op)
{
    return op == OP_EQUAL || op == OP_UNEQUAL || op == OP_LESS_EQUAL || op == OP_GREATER_EQUAL ? 2
                                                                                               : 1;
}

/* ---- integers ----------------------------------------------------------- */

void script_require_integer(script *s, const expression *e, const char *where)
{
    if (s->status) return;
    for (const link *l = e->links; l; l = l->next)
        if (l->kind != LINK_INDEX) {
            script_refuse(s, l->at, INSET_SYNTAX_ERROR, "an integer is needed %s", where);
            return;
        }
    switch (e->kind) {
    case EXPRESSION_NAME:
    case EXPRESSION_MODULES:
    case EXPRESSION_LENGTH: return;
    case EXPRESSION_NUMBER:
        if (e->is_float) break;
        return;
    case EXPRESSION_NEGATE: script_require_integer(s, e->operand, where); return;
    case EXPRESSION_CHAIN:
        script_require_integer(s, e->first, where);
        for (const term *t = e->terms; t && !s->status; t = t->next) {
            script_require_integer(s, t->operand, where);
            if ((t->op != OP_DIVIDE && t->op < OP_PRODUCT) || s->status) continue;
            script_refuse(s, t->at, INSET_SYNTAX_ERROR,
                "an integer is needed %s, and '%.*s' gives none", where, operator_length(t->op),
                s->text + t->at);
            if (t->op == OP_DIVIDE)
                error_help(s->context, "Write // for the quotient rounded down.");
        }
        return;
    default: break;
    }
    script_refuse(s, e->at, INSET_SYNTAX_ERROR, "an integer is needed %s, not %.*s", where,
        script_quote_length(e->at, e->end), s->text + e->at);
}

/* int = integers, names of integers, len(NAME), + - * // %, parentheses */
expression *script_integer(script *s)
{
    expression *e = script_expression(s);
    script_require_integer(s, e, "here");
    return e;
}

/* A word, as the number of the one token that it is. */
expression *script_answer(script *s)
{
    const token t = s->current;
    const text_source *source = trace_text_source(s->trace);
    const char *plain = script_unquoted(s, t);
    expression *e = script_new_expression(s, EXPRESSION_NUMBER, t.at, t.end);
    inset_status status = plain ? INSET_OK : INSET_NO_MEMORY;
    if (!status)
        status = source->answer ? source->answer(source->of, plain, strlen(plain), &e->integer)
                                : error_set(s->context, INSET_USAGE_ERROR,
                                    "a word needs a model's tokenizer, and there is none here");
    if (status && !s->status) s->status = script_at(s, t.at, status);
    script_advance(s);
    return e;
}

/* ---- indices ------------------------------------------------------------ */

void script_integer_list(script *s, item *i, bool empty)
{
    expression **last = &i->list;
    i->kind = INDEX_LIST;
    script_advance(s);
    if (empty && script_accept(s, ']')) return;
    do {
        if (s->current.kind == '[') {
            script_refuse(s, s->current.at, INSET_SYNTAX_ERROR, "%s holds integers only",
                empty ? "a set of tokens" : "a list in an index");
            return;
        }
        expression *e = empty && s->current.kind == TOKEN_STRING ? script_answer(s)
                                                                 : script_integer(s);
        if (s->status) return;
        *last = e;
        last = &e->next;
        i->list_length++;
    } while (script_accept(s, ','));
    script_expect(s, ']', "',' or ']'");
    i->list_values = script_new(s, i->list_length * sizeof *i->list_values);
}

static bool at_item_end(const script *s)
{
    return s->current.kind == ',' || s->current.kind == ']';
}

/* item = int | [ int ] ":" [ int ] [ ":" [ int ] ] | "..." | "None" | "[" int { "," int } "]" */
static item *index_item_of(script *s)
{
    item *i = script_new(s, sizeof *i);
    if (script_accept(s, TOKEN_ELLIPSIS)) {
        i->kind = INDEX_ELLIPSIS;
        return i;
    }
    if (s->current.kind == '[') {
        script_integer_list(s, i, false);
        return i;
    }
    if (s->current.kind == TOKEN_NAME && script_is(s, s->current, "None")) {
        script_advance(s);
        i->kind = INDEX_NEW;
        return i;
    }
    if (s->current.kind != ':') i->start = script_integer(s);
    if (!script_accept(s, ':')) return i;
    i->kind = INDEX_SLICE;
    if (!at_item_end(s) && s->current.kind != ':') i->stop = script_integer(s);
    if (script_accept(s, ':') && !at_item_end(s)) i->step = script_integer(s);
    return i;
}

/* index = "[" item { "," item } "]" */
void script_index(script *s, link *l)
{
    item **last = &l->items;
    l->kind = LINK_INDEX;
    script_advance(s);
    do {
        item *i = index_item_of(s);
        if (s->status) return;
        *last = i;
        last = &i->next;
        l->n_items++;
    } while (script_accept(s, ','));
    l->end = script_expect(s, ']', "',' or ']'").end;
    l->values = script_new(s, l->n_items * sizeof *l->values);
}
