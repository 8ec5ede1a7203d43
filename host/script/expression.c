/* expression.c: tokens to expressions. Each grammar function begins with its production;
 * LANGUAGE.md has them all.
 *
 * Nesting is bounded by the scanner's bound on brackets, because everything that could grow without
 * brackets is a loop here: a chain of terms is one node with a list, so are several minus signs,
 * and whatever follows a name by dots and brackets.
 *
 * Integers (in indices, paths and ranges) are parsed as any other expression and then looked at
 * once more, so that what is wrong with "x[1.5]" can be said in a sentence. */
#include "script/reader.h"

#include <stdlib.h>
#include <string.h>

static expression *comparison(script *s);

/* ---- tokens ------------------------------------------------------------- */

void *script_new(script *s, size_t size)
{
    void *made = arena_new(&s->memory, size);
    if (made) return made;
    if (!s->status) s->status = INSET_NO_MEMORY;
    s->current.kind = TOKEN_END;
    memset(&s->spare, 0, sizeof s->spare);
    return &s->spare;
}

bool script_accept(script *s, int kind)
{
    if (s->current.kind != kind) return false;
    script_advance(s);
    return true;
}

void script_unexpected(script *s, const char *expected)
{
    token t = s->current;
    if (s->status) return;
    if (t.kind == TOKEN_END || t.kind == TOKEN_NEWLINE) {
        script_refuse(s, t.at, INSET_SYNTAX_ERROR, "expected %s, found the end of the %s", expected,
            t.kind == TOKEN_END ? "script" : "line");
    } else {
        script_refuse(s, t.at, INSET_SYNTAX_ERROR, "expected %s, found '%.*s'", expected,
            script_quote_length(t.at, t.end), s->text + t.at);
        int32_t line = s->depth ? script_line_of(s, s->open[s->depth - 1].at) : 0;
        if (line && line != script_line_of(s, t.at))
            error_help(s->context, "'%c' of line %d is still open here.",
                s->open[s->depth - 1].bracket, (int)line);
    }
    s->current.kind = TOKEN_END;
}

token script_expect(script *s, int kind, const char *what)
{
    token t = s->current;
    if (t.kind == kind) script_advance(s);
    else script_unexpected(s, what);
    return t;
}

expression *script_new_expression(script *s, expression_kind kind, uint32_t at, uint32_t end)
{
    expression *e = script_new(s, sizeof *e);
    e->kind = kind;
    e->at = at;
    e->end = end;
    return e;
}

/* ---- chains ------------------------------------------------------------- */

/* model.trace(...), tracer.invoke(...) and model.edit(), as Python has them? */
static bool is_python_block(const script *s, const link *l)
{
    static const char *const names[] = {"trace", "invoke", "edit"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (l->end - l->at == strlen(names[i])
            && !memcmp(s->text + l->at, names[i], strlen(names[i])))
            return true;
    return false;
}

static void refuse_method(script *s, const link *l)
{
    script_refuse(s, l->at, INSET_SYNTAX_ERROR, "there is no call .%.*s()",
        script_quote_length(l->at, l->end), s->text + l->at);
    if (is_python_block(s, l)) {
        error_help(s->context, "In a script these stand without model. or tracer.: "
                               "with invoke(TOKENS): and with edit():");
        return;
    }
    error_help(s->context, "Values have .clone() and .save(), rows of logits .logit_diff(), "
                           ".logit(), .probability(), .log_probability(), .rank() and .kl(), "
                           "lists .append(), modules .skip(). Functions: .exp(), .log(), .sqrt(), "
                           ".abs(), .relu(), .sigmoid(), .tanh(), .gelu(), .gelu_tanh(), .silu(), "
                           ".clamp(); of rows .sum(), .mean(), .amax(), .amin(), .norm(), "
                           ".argmax(), .softmax(), .log_softmax(), .topk(); .transpose(), .T, "
                           ".detach(); casts .float(), .half(), .bfloat16().");
}

static bool text_is(const script *s, uint32_t at, uint32_t end, const char *word)
{
    return strlen(word) == end - at && !memcmp(s->text + at, word, end - at);
}

/* Is a name that a site has a module's here (BERT's `output`), and what follows a child of it? */
static bool is_module_of(const script *s, const link *l, uint32_t at, uint32_t end)
{
    const program *p = s->program;
    for (size_t i = 0; i < p->n_modules; i++)
        if (text_is(s, l->at, l->end, p->modules[i].name)
            && program_child(p, (int32_t)i, s->text + at, end - at) >= 0)
            return true;
    return false;
}

/* Do the links, and then `next`, come by a site's name, or a weight's? Then they have left the
 * modules. */
static bool reached_site(const script *s, const link *first, token next)
{
    for (const link *l = first; l; l = l->next)
        for (size_t i = 0; l->kind == LINK_NAME && i < s->program->n_sites; i++)
            if (text_is(s, l->at, l->end, s->program->sites[i].name)
                && !(l->next ? is_module_of(s, l, l->next->at, l->next->end)
                             : is_module_of(s, l, next.at, next.end)))
                return true;
    for (const link *l = first; l; l = l->next) /* or of a weight? */
        if (l->kind == LINK_NAME
            && (text_is(s, l->at, l->end, "weight") || text_is(s, l->at, l->end, "bias")))
            return true;
    return false;
}

/* What follows ".": a name, a number of a path, or a call. path: of a module, by the links
 * before. */
static void dot_link(script *s, link *l, bool own_line, bool path, const link *before)
{
    token t = s->current;
    l->at = t.at;
    l->end = t.end;
    if (t.kind == TOKEN_INTEGER) {
        l->kind = LINK_NUMBER;
        script_advance(s);
        return;
    }
    script_expect(s, TOKEN_NAME, "a name");
    l->kind = script_is(s, t, "grad")                         ? LINK_GRAD
              : script_is(s, t, "T") || script_is(s, t, "mT") ? LINK_TRANSPOSE
                                                              : LINK_NAME;
    if (s->current.kind != '(') return;
    script_advance(s);
    if (script_is(s, t, "clone")) {
        l->kind = LINK_CLONE;
    } else if (script_is(s, t, "save")) {
        l->kind = LINK_SAVE;
        s->n_saves++;
        s->latest_save = t.at;
    } else if (script_is(s, t, "backward")) {
        l->kind = LINK_BACKWARD;
    } else if (script_metric_named(s, t) >= 0) {
        l->kind = LINK_METRIC;
        l->metric = (inset_metric_kind)script_metric_named(s, t);
        script_metric_arguments(s, l);
    } else if (!(path && !reached_site(s, before, t)) && script_function_named(s, t, l)) {
        script_function_arguments(s, l, false);
    } else if (!(path && !reached_site(s, before, t)) && script_row_function_named(s, t, l)) {
        script_row_function_arguments(s, l, false);
    } else if (own_line && (script_is(s, t, "append") || script_is(s, t, "skip"))) {
        l->kind = script_is(s, t, "append") ? LINK_APPEND : LINK_SKIP;
        l->argument = l->kind == LINK_APPEND ? script_saved(s) : script_expression(s);
    } else if (script_is(s, t, "append") || script_is(s, t, "skip")) {
        script_refuse(s, t.at, INSET_SYNTAX_ERROR, ".%.*s() stands on a line of its own",
            (int)(t.end - t.at), s->text + t.at);
    } else if (path && !reached_site(s, before, t)) {
        l->kind = LINK_CALL;
        l->argument = script_expression(s);
    } else refuse_method(s, l);
    script_expect(s, ')', "')'");
    if (!s->status) script_topk_part(s, l);
}

/* { "." NAME | "." INT | "." CALL "(" ... ")" | index | "(" expr ")" }, in the order of the text;
 * the last behind the path of a module */
static link *read_links(script *s, bool own_line, bool path)
{
    link *first = NULL, **last = &first;
    while (s->current.kind == '.' || s->current.kind == '[' || (path && s->current.kind == '(')) {
        link *l = script_new(s, sizeof *l);
        l->at = l->end = s->current.at;
        if (s->current.kind == '(') { /* lm_head(x), h[3](x) */
            script_advance(s);
            l->kind = LINK_CALL;
            l->argument = script_expression(s);
            script_expect(s, ')', "')'");
        } else if (s->current.kind == '[') {
            script_index(s, l);
        } else {
            script_advance(s);
            dot_link(s, l, own_line, path, first);
        }
        if (s->status) return NULL;
        *last = l;
        last = &l->next;
        if (l->kind == LINK_CALL) path = false; /* a value from here on */
        if (l->kind == LINK_APPEND || l->kind == LINK_SKIP) break;
    }
    return first;
}

/* Takes ".save()" off the end of the links. */
static void take_save(expression *e)
{
    for (link **at = &e->links; *at; at = &(*at)->next)
        if ((*at)->kind == LINK_SAVE && !(*at)->next) {
            e->saved = true;
            e->save_at = (*at)->at;
            *at = NULL;
            return;
        }
}

/* What comes before the site in a path: names, numbers, and indices of one integer. */
static void check_path(script *s, const link *first, const link *end)
{
    for (const link *l = first; l != end && !s->status; l = l->next) {
        if (l->kind == LINK_NAME || l->kind == LINK_NUMBER) continue;
        if (l->kind != LINK_INDEX)
            script_refuse(s, l->at, INSET_SYNTAX_ERROR, "a path does not go on behind .%.*s()",
                (int)(l->end - l->at), s->text + l->at);
        else if (l->n_items != 1 || l->items->kind != INDEX_INTEGER)
            script_refuse(
                s, l->at, INSET_SYNTAX_ERROR, "a module's number in a path is one integer");
    }
}

/* site = module "." NAME;  module = NAME { "." NAME | "[" int "]" | "." INT }. The last plain name
 *                          of the links is the site. */
static void make_site(script *s, expression *e, int32_t head, link *links)
{
    link **site = NULL, **behind = &links;
    for (link **at = &links; *at; at = &(*at)->next) {
        if ((*at)->kind == LINK_NAME) site = at;
        if ((*at)->kind == LINK_NAME || (*at)->kind == LINK_NUMBER) behind = &(*at)->next;
    }
    check_path(s, links, *behind);
    e->kind = EXPRESSION_SITE;
    e->head = head;
    e->links = *behind;
    *behind = NULL;
    if (site && !(*site)->next) {
        e->site = *site;
        e->end = e->site->end;
        *site = NULL;
    }
    e->parts = links;
}

/* call = module "(" expr ")"; false where the links call no module. */
static bool make_call(script *s, expression *e, int32_t head, link *links)
{
    link **call = &links;
    while (*call && (*call)->kind != LINK_CALL) call = &(*call)->next;
    if (!*call) return false;
    e->kind = EXPRESSION_CALL;
    e->head = head;
    e->argument = (*call)->argument;
    e->links = (*call)->next;
    e->end = (*call)->end;
    if (s->text[(*call)->at] == '(') *call = NULL;
    else (*call)->kind = LINK_NAME, (*call)->next = NULL; /* .ln_f(x): part of the path */
    e->parts = links;
    check_path(s, links, NULL);
    for (const link *l = e->links; l && !s->status; l = l->next)
        if (l->kind == LINK_NAME || l->kind == LINK_NUMBER)
            script_refuse(s, l->at, INSET_SYNTAX_ERROR, "a value has no .%.*s",
                script_quote_length(l->at, l->end), s->text + l->at);
    take_save(e);
    return true;
}

static bool has_plain_name(const link *l)
{
    for (; l; l = l->next)
        if (l->kind == LINK_NAME || l->kind == LINK_NUMBER) return true;
    return false;
}

static bool skips(const link *l)
{
    for (; l; l = l->next)
        if (l->kind == LINK_SKIP) return true;
    return false;
}

expression *script_chain(script *s, token head, bool own_line)
{
    int32_t name = script_name(s, head);
    expression *e = script_new_expression(s, EXPRESSION_NAME, head.at, head.end);
    if (s->status) return e;
    e->name = name;
    const bool path = s->names[name].module >= 0 || s->names[name].of_loop;
    link *links = read_links(s, own_line, path);
    if (s->status) return e;
    if (make_call(s, e, name, links)) return e;
    if (skips(links) || !(s->names[name].module >= 0 || has_plain_name(links))) e->links = links;
    else make_site(s, e, name, links);
    take_save(e);
    return e;
}

/* ---- factors ------------------------------------------------------------ */

/* "len" "(" ( NAME | module ) ")" */
static expression *length(script *s, token head)
{
    script_advance(s);
    token t = script_expect(s, TOKEN_NAME, "the name of a list or a tensor");
    expression *e = script_new_expression(s, EXPRESSION_LENGTH, head.at, head.end);
    if (s->status) return e;
    const int32_t name = script_name(s, t);
    if (!s->status && s->names[name].module >= 0) {
        e = script_chain(s, t, false);
        if (!s->status && (e->kind != EXPRESSION_SITE || e->links))
            script_refuse(s, t.at, INSET_SYNTAX_ERROR,
                "len() takes a list, a tensor's name, or modules: len(transformer.h)");
        e->kind = EXPRESSION_MODULES;
    } else e->name = name;
    e->end = script_expect(s, ')', "')'").end;
    return e;
}

/* function = NAME "(" expr [ "," bounds ] ")": the argument with the function behind it */
static expression *function(script *s, token head, const link *known)
{
    script_advance(s);
    expression *e = comparison(s);
    link *l = script_new(s, sizeof *l), **last = &e->links;
    if (s->status) return e;
    if (e->saved) script_refuse(s, e->save_at, INSET_SYNTAX_ERROR, ".save() ends a right side");
    *l = *known;
    l->at = head.at;
    l->end = head.end;
    if (l->kind == LINK_FUNCTION) script_function_arguments(s, l, true);
    else script_row_function_arguments(s, l, true);
    while (*last) last = &(*last)->next;
    *last = l;
    script_expect(s, ')', "')'");
    if (!s->status) script_topk_part(s, l);
    return e;
}

/* Functions that may stand before what they are of: exp(x), sum(x, -1), where(c, a, b). */
static bool called_by_name(script *s, token t, link *known)
{
    if (script_function_named(s, t, known)) return known->kind != LINK_CAST;
    return script_row_function_named(s, t, known) && known->kind != LINK_DETACH
           && known->kind != LINK_TRANSPOSE;
}

static void refuse_call(script *s, token head)
{
    static const struct {
        const char *word, *help;
    } known[] = {
        {"load", "Bind what it gives to a name first, before the invoke: NAME = "
                 "load(\"file.safetensors\", \"tensor\")."},
        {"zeros", "Bind what it gives to a name first, before the invoke: NAME = zeros(12, 3)."},
        {"range", "It stands in a `for` line: for NAME in range(12):"},
        {"invoke", "It stands in a `with` line: with invoke(NAME):"},
        {"stop", "It stands on a line of its own, inside an invoke."},
        {"cache", "It stands on a line of its own, inside an invoke; what it keeps has the sites' "
                  "paths for names."},
    };
    script_refuse(s, head.at, INSET_SYNTAX_ERROR, "a call of %.*s() has no place here",
        script_quote_length(head.at, head.end), s->text + head.at);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (script_is(s, head, known[i].word)) {
            error_help(s->context, "%s", known[i].help);
            return;
        }
    error_help(s->context,
        "The calls are load, zeros, invoke, edit, range, len, cache, stop, functions such as "
        "relu(x), modules of the model, and .clone(), .save(), .append(), "
        ".skip().");
}

/* Links behind a bracketed expression or a literal: indices, clones, metrics, a save. */
static void value_links(script *s, expression *e)
{
    link **last = &e->links;
    link *more = read_links(s, false, false);
    if (s->status) return;
    if (more && e->saved) {
        script_refuse(s, e->save_at, INSET_SYNTAX_ERROR, ".save() ends a right side");
        return;
    }
    for (const link *l = more; l; l = l->next)
        if (l->kind == LINK_NAME || l->kind == LINK_NUMBER) {
            script_refuse(s, l->at, INSET_SYNTAX_ERROR, "a value has no .%.*s",
                script_quote_length(l->at, l->end), s->text + l->at);
            return;
        }
    while (*last) last = &(*last)->next;
    *last = more;
    take_save(e);
}

/* factor = ( NUMBER | literal | NAME | site | "len" "(" NAME ")" | "(" expr ")" ) { index | "."
 * "clone" "(" ")" | "." metric } */
static expression *factor(script *s)
{
    token t = s->current;
    expression *e;
    switch (t.kind) {
    case TOKEN_INTEGER:
    case TOKEN_FLOAT: return script_number(s);
    case '[':
    case TOKEN_STRING: e = script_literal(s); break;
    case '(':
        script_advance(s);
        e = comparison(s);
        script_expect(s, ')', "')'");
        break;
    case TOKEN_NAME:
        if (script_refuse_word(s, t))
            return script_new_expression(s, EXPRESSION_NUMBER, t.at, t.end);
        script_advance(s);
        if (s->current.kind != '('
            || program_child(s->program, 0, s->text + t.at, t.end - t.at) >= 0)
            return script_chain(s, t, false);
        if (script_is(s, t, "len")) return length(s, t);
        link known = {0};
        if (!called_by_name(s, t, &known)) {
            refuse_call(s, t);
            return script_new_expression(s, EXPRESSION_NUMBER, t.at, t.end);
        }
        e = function(s, t, &known);
        break;
    default:
        script_unexpected(s, "a value");
        return script_new_expression(s, EXPRESSION_NUMBER, t.at, t.end);
    }
    if (!s->status) value_links(s, e);
    return e;
}

/* { "-" | "+" } factor */
static expression *signed_factor(script *s)
{
    token first = s->current;
    int32_t minus = 0;
    for (; s->current.kind == '-' || s->current.kind == '+'; script_advance(s))
        minus += s->current.kind == '-';
    expression *operand = factor(s);
    if (!minus) return operand;
    expression *e = script_new_expression(s, EXPRESSION_NEGATE, first.at, operand->end);
    e->operand = operand;
    e->times = minus;
    return e;
}

/* ---- arithmetic --------------------------------------------------------- */

static bool operator_of(int kind, bool products, script_op *op)
{
    switch (kind) {
    case '+': *op = OP_ADD; return !products;
    case '-': *op = OP_SUBTRACT; return !products;
    case '*': *op = OP_MULTIPLY; return products;
    case '/': *op = OP_DIVIDE; return products;
    case '%': *op = OP_REMAINDER; return products;
    case '@': *op = OP_PRODUCT; return products;
    case TOKEN_FLOOR: *op = OP_FLOOR; return products;
    default: return false;
    }
}

static expression *chain(script *s, bool products);

static expression *chain_operand(script *s, bool products)
{
    return products ? signed_factor(s) : chain(s, true);
}

/* operand { operator operand }, all operators of one priority */
static expression *chain(script *s, bool products)
{
    expression *first = chain_operand(s, products), *e = first;
    term **last = NULL;
    script_op op;
    bool integers = false;
    while (!s->status && operator_of(s->current.kind, products, &op)) {
        term *t = script_new(s, sizeof *t);
        if (!last) {
            e = script_new_expression(s, EXPRESSION_CHAIN, first->at, first->end);
            e->first = first;
            last = &e->terms;
        }
        t->op = op;
        t->at = s->current.at;
        script_advance(s);
        t->operand = chain_operand(s, products);
        if (s->status) return first;
        integers |= op == OP_FLOOR || op == OP_REMAINDER;
        e->end = t->operand->end;
        *last = t;
        last = &t->next;
    }
    if (integers) script_require_integer(s, e, "beside // and %");
    return e;
}

/* sum = product { ( "+" | "-" ) product };  product = factor { ( "*" | "/" | "//" | "%" | "@" )
 *                                           factor } */
static expression *sum(script *s) { return chain(s, false); }

static bool comparison_of(int kind, script_op *op)
{
    switch (kind) {
    case TOKEN_EQUAL: *op = OP_EQUAL; return true;
    case TOKEN_UNEQUAL: *op = OP_UNEQUAL; return true;
    case '<': *op = OP_LESS; return true;
    case TOKEN_LESS_EQUAL: *op = OP_LESS_EQUAL; return true;
    case '>': *op = OP_GREATER; return true;
    case TOKEN_GREATER_EQUAL: *op = OP_GREATER_EQUAL; return true;
    default: return false;
    }
}

/* expr = sum [ ( "==" | "!=" | "<" | "<=" | ">" | ">=" ) sum ] */
static expression *comparison(script *s)
{
    expression *first = sum(s);
    script_op op;
    if (s->status || !comparison_of(s->current.kind, &op)) return first;
    expression *e = script_new_expression(s, EXPRESSION_CHAIN, first->at, first->end);
    term *t = script_new(s, sizeof *t);
    e->first = first;
    e->terms = t;
    t->op = op;
    t->at = s->current.at;
    script_advance(s);
    t->operand = sum(s);
    if (s->status) return first;
    e->end = t->operand->end;
    if (comparison_of(s->current.kind, &op))
        script_refuse(s, s->current.at, INSET_SYNTAX_ERROR,
            "comparisons do not go on: compare twice, and multiply what comes out");
    return e;
}

static void refuse_save(script *s, uint32_t at)
{
    script_refuse(s, at, INSET_SYNTAX_ERROR,
        ".save() ends the right side of an assignment, or the argument of append");
    error_help(s->context,
        "Bind the value to a name with .save() on a line before, and use the name here.");
}

/* An expression, and how many ".save()" it holds. */
static expression *counted(script *s, uint32_t *n_saves)
{
    uint32_t before = s->n_saves;
    s->n_saves = 0;
    expression *e = comparison(s);
    *n_saves = s->n_saves;
    s->n_saves += before;
    return e;
}

expression *script_expression(script *s)
{
    uint32_t n_saves;
    expression *e = counted(s, &n_saves);
    if (n_saves && !s->status) refuse_save(s, s->latest_save);
    return e;
}

/* saved = expr | factor "." "save" "(" ")" | "[" "]" */
expression *script_saved(script *s)
{
    uint32_t n_saves;
    expression *e = counted(s, &n_saves);
    if (n_saves && !s->status && !(n_saves == 1 && e->saved)) refuse_save(s, s->latest_save);
    return e;
}
