/* statement.c: tokens to lines and blocks.
 *
 * A block is the lines of one indentation. Lines inside an invoke and lines at top level have one
 * parser; what belongs to one of them only says so. */
#include "script/reader.h"

#include <string.h>

static statement *lines(script *s, uint32_t indent);

/* ---- names -------------------------------------------------------------- */

int32_t script_name(script *s, token t)
{
    const char *word = s->text + t.at;
    size_t size = t.end - t.at, cursor = 0;
    uint64_t hash = hash_bytes(0, word, size);
    for (int32_t i; (i = table_next(&s->interned, hash, &cursor)) >= 0;)
        if (s->names[i].length == size && !memcmp(s->names[i].text, word, size)) return i;

    char *copy = arena_text(&s->memory, word, size);
    int32_t index = (int32_t)s->n_names;
    if (!copy
        || !array_reserve(
            s->context, &s->names, &s->names_capacity, s->n_names + 1, sizeof *s->names)
        || !table_add(s->context, &s->interned, hash, index)) {
        s->status = INSET_NO_MEMORY;
        s->current.kind = TOKEN_END;
        return 0;
    }
    s->names[s->n_names++] = (name){
        .text = copy, .length = size, .module = program_child(s->program, 0, copy, size)};
    return index;
}

bool script_refuse_word(script *s, token t)
{
    static const char *const words[] = {
        "False",
        "None",
        "True",
        "and",
        "as",
        "assert",
        "async",
        "await",
        "break",
        "class",
        "continue",
        "def",
        "del",
        "elif",
        "else",
        "except",
        "finally",
        "from",
        "global",
        "if",
        "import",
        "in",
        "is",
        "lambda",
        "nonlocal",
        "not",
        "or",
        "raise",
        "return",
        "try",
        "while",
        "yield",
        "with",
        "for",
        "pass",
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (!script_is(s, t, words[i])) continue;
        bool own = i >= sizeof words / sizeof *words - 3;
        script_refuse(s, t.at, INSET_SYNTAX_ERROR,
            own ? "'%s' has no place here" : "'%s' is not part of the trace language", words[i]);
        return true;
    }
    return false;
}

/* The line of a token; tokens come in order, so that the text is counted once. */
static int32_t count_lines(script *s, uint32_t at)
{
    for (; s->counted_to < at; s->counted_to++) s->line += s->text[s->counted_to] == '\n';
    return s->line;
}

static void note_binding(script *s, int32_t n, int32_t line)
{
    if (!s->status && !s->names[n].bound_line) s->names[n].bound_line = line;
}

static void only_inside(script *s, uint32_t at, const char *what)
{
    if (!s->in_invoke)
        script_refuse(s, at, INSET_SYNTAX_ERROR, "%s belongs inside an invoke", what);
}

static bool only_outside(script *s, uint32_t at, const char *what)
{
    if (s->in_invoke)
        script_refuse(s, at, INSET_SYNTAX_ERROR, "%s belongs outside of %s", what,
            s->in_edit ? "edit()" : "invokes");
    return !s->in_invoke;
}

static void refuse_in_edit(script *s, uint32_t at, const char *what)
{
    script_refuse(s, at, INSET_SYNTAX_ERROR, "%s belongs in an invoke, not in an edit()", what);
}

/* ---- right sides -------------------------------------------------------- */

/* "load" "(" STRING [ "," STRING ] ")" */
static expression *load(script *s, token head)
{
    expression *e = script_new(s, sizeof *e);
    e->kind = EXPRESSION_LOAD;
    e->at = head.at;
    only_outside(s, head.at, "load()");
    e->file = script_expect(s, TOKEN_STRING, "a file name in quotes");
    e->tensor.kind = TOKEN_END;
    if (script_accept(s, ','))
        e->tensor = script_expect(s, TOKEN_STRING, "the name of a tensor in quotes");
    e->end = script_expect(s, ')', "')'").end;
    return e;
}

/* "zeros" "(" int { "," int } ")" */
static expression *zeros(script *s, token head)
{
    expression *e = script_new(s, sizeof *e), **last = &e->extents;
    e->kind = EXPRESSION_ZEROS;
    e->at = head.at;
    only_outside(s, head.at, "zeros()");
    do {
        expression *extent = script_integer(s);
        if (s->status) return e;
        *last = extent;
        last = &extent->next;
        e->n_extents++;
    } while (script_accept(s, ','));
    e->end = script_expect(s, ')', "',' or ')'").end;
    return e;
}

/* load | zeros | saved */
static expression *right_side(script *s)
{
    token head = s->current;
    bool loads = script_is(s, head, "load"), fills = script_is(s, head, "zeros");
    if (!(loads || fills) || !script_followed_by(s, '(')) return script_saved(s);
    script_advance(s);
    script_advance(s);
    return loads ? load(s, head) : zeros(s, head);
}

/* ---- simple lines ------------------------------------------------------- */

static bound_name *new_name(script *s, const expression *e)
{
    bound_name *n = script_new(s, sizeof *n);
    n->name = e->kind == EXPRESSION_SITE ? e->head : e->name;
    n->at = e->at;
    return n;
}

/* A name and nothing else; a top-level module's name is one too, and refused when the line runs. */
static bool is_plain_name(const expression *e)
{
    bool name = e->kind == EXPRESSION_NAME || (e->kind == EXPRESSION_SITE && !e->parts && !e->site);
    return name && !e->links && !e->saved;
}

/* NAME { "," NAME } "=" saved { "," saved }, the names before the current token read already */
static void bind(script *s, statement *line, const expression *first)
{
    bound_name **last_name = &line->names;
    expression **last_value = &line->value;
    int32_t n_names = 0, n_values = 0;
    uint32_t at = 0;
    line->kind = STATEMENT_BIND;
    for (const expression *e = first;;) {
        if (!is_plain_name(e))
            script_refuse(
                s, e->at, INSET_SYNTAX_ERROR, "only names can be bound, several at a time");
        if (s->status) return;
        *last_name = new_name(s, e);
        note_binding(s, (*last_name)->name, line->line);
        last_name = &(*last_name)->next;
        n_names++;
        if (!script_accept(s, ',')) break;
        token head = script_expect(s, TOKEN_NAME, "a name");
        if (s->status) return;
        e = script_chain(s, head, false);
    }
    script_expect(s, '=', n_names > 1 ? "',' or '='" : "'='");
    do {
        at = s->current.at;
        expression *value = right_side(s);
        if (s->status) return;
        *last_value = value;
        last_value = &value->next;
        n_values++;
    } while (script_accept(s, ','));
    const link *last_link = n_names == 2 && n_values == 1 ? line->value->links : NULL;
    while (last_link && last_link->next) last_link = last_link->next;
    if (last_link && last_link->kind == LINK_ROWS && last_link->rows->function == TRACE_ROW_TOPK
        && last_link->rows->part == PART_BOTH && !line->value->saved)
        return; /* values, indices = x.topk(5) */
    if (n_names != n_values)
        script_refuse(s, n_values > n_names ? at : line->at, INSET_SYNTAX_ERROR,
            "%d name%s and %d value%s; there must be as many of one as of the other", (int)n_names,
            n_names == 1 ? "" : "s", (int)n_values, n_values == 1 ? "" : "s");
}

/* Only indices may stand between a target's name and its "=". */
static void check_target(script *s, const expression *target)
{
    if (target->saved)
        script_refuse(s, target->save_at, INSET_SYNTAX_ERROR, "a target ends before .save()");
    for (const link *l = target->links; l; l = l->next)
        if (l->kind != LINK_INDEX && l->kind != LINK_GRAD)
            script_refuse(
                s, l->at, INSET_SYNTAX_ERROR, "a target is a site or a name, and indices");
}

/* target ( "=" | "+=" | "-=" | "*=" | "/=" ) expr */
static void set(script *s, statement *line, expression *target, trace_op op)
{
    line->kind = STATEMENT_SET;
    line->op = op;
    line->target = target;
    check_target(s, target);
    only_inside(s, line->at, "a set");
    script_advance(s);
    line->value = script_expression(s);
    if (!s->status && s->current.kind == '=')
        script_refuse(s, s->current.at, INSET_SYNTAX_ERROR, "one '=' a line");
}

static void append(script *s, statement *line, const expression *list)
{
    link *l = list->links;
    line->kind = STATEMENT_APPEND;
    if (list->kind != EXPRESSION_NAME || l->kind != LINK_APPEND) {
        script_refuse(s, list->at, INSET_SYNTAX_ERROR, ".append() is for the name of a list");
        return;
    }
    line->names = new_name(s, list);
    line->value = l->argument;
    line->save_at = l->at;
}

/* module "." "skip" "(" expr ")": what comes before ".skip" is a path */
static void skip(script *s, statement *line, expression *module)
{
    link **at = &module->links;
    line->kind = STATEMENT_SKIP;
    line->target = module;
    only_inside(s, line->at, ".skip()");
    while ((*at)->kind != LINK_SKIP) {
        bool good = (*at)->kind == LINK_NAME || (*at)->kind == LINK_NUMBER
                    || ((*at)->kind == LINK_INDEX && (*at)->n_items == 1
                        && (*at)->items->kind == INDEX_INTEGER);
        if (!good) script_refuse(s, (*at)->at, INSET_SYNTAX_ERROR, ".skip() is for a module");
        at = &(*at)->next;
    }
    line->value = (*at)->argument;
    *at = NULL;
    int32_t head = module->name;
    module->kind = EXPRESSION_SITE;
    module->head = head;
    module->parts = module->links;
    module->site = NULL;
    module->resolved = false;
    module->links = NULL;
}

/* A chain with nothing behind it on its line. */
static void lone_chain(script *s, statement *line, expression *e)
{
    const link *last = e->links;
    while (last && last->next) last = last->next;
    if (last && last->kind == LINK_SKIP) {
        skip(s, line, e);
    } else if (last && last->kind == LINK_APPEND) {
        append(s, line, e);
    } else if (e->saved) {
        line->kind = e->kind == EXPRESSION_NAME && !e->links ? STATEMENT_SAVE
                                                             : STATEMENT_UNNAMED_SAVE;
        line->names = new_name(s, e);
        line->save_at = e->save_at;
        line->target = e;
    } else {
        script_refuse(s, line->at, INSET_SYNTAX_ERROR, "this line does nothing");
        error_help(s->context, "A line binds a name, sets a site, saves, appends, skips or stops.");
    }
}

/* "stop" "(" ")" */
static void stop(script *s, statement *line)
{
    line->kind = STATEMENT_STOP;
    if (s->in_edit) refuse_in_edit(s, line->at, "stop()");
    only_inside(s, line->at, "stop()");
    script_advance(s);
    script_expect(s, ')', "')'");
}

/* "clear_edits" "(" ")" */
static void clear_edits(script *s, statement *line)
{
    line->kind = STATEMENT_CLEAR_EDITS;
    only_outside(s, line->at, "clear_edits()");
    script_advance(s);
    script_expect(s, ')', "')'");
}

static void simple_line(script *s, statement *line)
{
    token head = s->current;
    if (script_is(s, head, "pass")) {
        line->kind = STATEMENT_PASS;
        script_advance(s);
        return;
    }
    if (script_refuse_word(s, head)) return;
    script_expect(s, TOKEN_NAME, "a line that begins with a name");
    if (s->status) return;
    if (s->current.kind == '(' && script_is(s, head, "stop")) {
        stop(s, line);
        return;
    }
    if (s->current.kind == '(' && script_is(s, head, "cache")) {
        only_inside(s, line->at, "cache()");
        if (s->in_edit) refuse_in_edit(s, line->at, "cache()");
        script_cache_line(s, line);
        return;
    }
    if (s->current.kind == '(' && script_is(s, head, "clear_edits")) {
        clear_edits(s, line);
        return;
    }
    if (s->current.kind == '(') {
        script_refuse(s, head.at, INSET_SYNTAX_ERROR, "a line cannot begin with a call of %.*s()",
            script_quote_length(head.at, head.end), s->text + head.at);
        return;
    }
    expression *e = script_chain(s, head, true);
    if (s->status) return;
    switch (s->current.kind) {
    case TOKEN_NEWLINE: lone_chain(s, line, e); return;
    case TOKEN_ADD_SET: set(s, line, e, TRACE_ADD); return;
    case TOKEN_SUBTRACT_SET: set(s, line, e, TRACE_SUBTRACT); return;
    case TOKEN_MULTIPLY_SET: set(s, line, e, TRACE_MULTIPLY); return;
    case TOKEN_DIVIDE_SET: set(s, line, e, TRACE_DIVIDE); return;
    case ',': bind(s, line, e); return;
    case '=':
        if (is_plain_name(e)) bind(s, line, e);
        else set(s, line, e, TRACE_COPY);
        return;
    default: script_unexpected(s, "'=' or the end of the line");
    }
}

/* ---- blocks ------------------------------------------------------------- */

/* ":" NEWLINE, and lines that are indented deeper than `indent` */
static statement *block(script *s, uint32_t indent)
{
    token colon = script_expect(s, ':', "':'");
    script_expect(s, TOKEN_NEWLINE, "the end of the line (a block begins on the next)");
    if (s->status) return NULL;
    if (s->current.kind == TOKEN_END || s->indent <= indent) {
        script_refuse(s, colon.at, INSET_SYNTAX_ERROR, "an indented block must follow");
        error_help(s->context, "Write `pass` where there is nothing to do.");
    } else if (s->blocks == SCRIPT_NESTING) {
        script_refuse(
            s, colon.at, INSET_SYNTAX_ERROR, "blocks nest more than %d deep", SCRIPT_NESTING);
    }
    if (s->status) return NULL;
    s->blocks++;
    statement *body = lines(s, s->indent);
    s->blocks--;
    return body;
}

/* "with" expr "." "backward" "(" ")" ":" block */
static void backward_line(script *s, statement *line, uint32_t indent)
{
    const bool inside = s->in_invoke;
    line->kind = STATEMENT_BACKWARD;
    if (s->in_edit) {
        refuse_in_edit(s, line->at, "backward()");
        return;
    }
    line->value = script_expression(s);
    if (s->status) return;
    link **last = &line->value->links;
    while (*last && (*last)->next) last = &(*last)->next;
    if (!*last || (*last)->kind != LINK_BACKWARD) {
        script_refuse(s, line->value->at, INSET_SYNTAX_ERROR,
            "expected invoke(...), edit() or METRIC.backward(), found '%.*s'",
            script_quote_length(line->value->at, line->value->end), s->text + line->value->at);
        return;
    }
    *last = NULL;
    s->in_invoke = true;
    line->body = block(s, indent);
    s->in_invoke = inside;
}

/* "with" "edit" "(" ")" ":" block */
static void edit_line(script *s, statement *line, uint32_t indent)
{
    line->kind = STATEMENT_EDIT;
    if (!only_outside(s, line->at, s->in_edit ? "another edit()" : "an edit()")) return;
    script_advance(s);
    script_expect(s, '(', "'('");
    script_expect(s, ')', "')'");
    s->in_invoke = s->in_edit = true;
    line->body = block(s, indent);
    s->in_invoke = s->in_edit = false;
}

/* "with" "invoke" "(" expr ")" ":" block */
static void invoke_line(script *s, statement *line, uint32_t indent)
{
    script_advance(s);
    token word = s->current;
    if (script_is(s, word, "edit") && script_followed_by(s, '(')) {
        edit_line(s, line, indent);
        return;
    }
    if (!script_is(s, word, "invoke")) {
        if (word.kind == TOKEN_NAME && script_followed_by(s, '('))
            script_refuse(s, word.at, INSET_SYNTAX_ERROR,
                "expected invoke(...) or edit(), found '%.*s'",
                script_quote_length(word.at, word.end), s->text + word.at);
        else backward_line(s, line, indent);
        return;
    }
    line->kind = STATEMENT_INVOKE;
    if (!only_outside(s, line->at, "an invoke")) return;
    script_advance(s);
    script_expect(s, '(', "'('");
    line->value = script_expression(s);
    script_expect(s, ')', "')'");
    s->in_invoke = true;
    line->body = block(s, indent);
    s->in_invoke = false;
}

/* int { "," int }, at most `most` of them, up to `close` */
static expression *integers(script *s, int most, int close, const char *what)
{
    expression *first = NULL, **last = &first;
    do {
        if (!most--)
            script_refuse(
                s, s->current.at, INSET_SYNTAX_ERROR, "range() takes one to three integers");
        expression *e = script_integer(s);
        if (s->status) return NULL;
        *last = e;
        last = &e->next;
    } while (script_accept(s, ','));
    script_expect(s, close, what);
    return first;
}

static void refuse_loop(script *s, uint32_t at)
{
    script_refuse(s, at, INSET_SYNTAX_ERROR,
        "a loop runs over range(...), a list of integers written here, or modules: transformer.h");
    error_help(s->context, "For the values of a list: for i in range(len(xs)): ... xs[i]");
}

/* for block in transformer.h: or transformer.h[2:5]: */
static void modules_of_loop(script *s, statement *line, int32_t name)
{
    token head = s->current;
    script_advance(s);
    expression *path = script_chain(s, head, false);
    if (s->status) return;
    const link *l = path->links;
    const bool sliced = l && l->kind == LINK_INDEX && l->n_items == 1
                        && l->items->kind == INDEX_SLICE && !l->next;
    if (path->kind != EXPRESSION_SITE || path->saved || (l && !sliced)) refuse_loop(s, head.at);
    line->value = path;
    line->modules = true;
    s->names[name].of_loop = true;
}

/* "for" NAME "in" ( "range" "(" int [ "," int [ "," int ] ] ")" | "[" INT { "," INT } "]" ) ":"
 * block */
static void for_line(script *s, statement *line, uint32_t indent)
{
    line->kind = STATEMENT_FOR;
    script_advance(s);
    token head = s->current, in, what;
    if (script_refuse_word(s, head)) return;
    script_expect(s, TOKEN_NAME, "the loop's name");
    if (s->status) return;
    bound_name *n = script_new(s, sizeof *n);
    n->name = script_name(s, head);
    n->at = head.at;
    line->names = n;
    note_binding(s, n->name, line->line);
    in = s->current;
    script_expect(s, TOKEN_NAME, "'in'");
    if (!s->status && !script_is(s, in, "in"))
        script_refuse(s, in.at, INSET_SYNTAX_ERROR, "expected 'in' here");
    what = s->current;
    line->save_at = what.at;
    line->listed = what.kind == '[';
    if (!s->status && what.kind == TOKEN_NAME && !script_is(s, what, "range")) {
        modules_of_loop(s, line, n->name);
        line->body = block(s, indent);
        return;
    }
    if (!s->status && !line->listed && !script_is(s, what, "range")) refuse_loop(s, what.at);
    script_advance(s);
    if (!line->listed) script_expect(s, '(', "'('");
    line->value = line->listed ? integers(s, -1, ']', "',' or ']'")
                               : integers(s, 3, ')', "',' or ')'");
    line->body = block(s, indent);
}

static void refuse_edit_save(script *s)
{
    refuse_in_edit(s, s->latest_save, ".save()");
    error_help(s->context, "Every later invoke repeats these lines; one name can be saved once.");
}

static statement *line_of(script *s, uint32_t indent)
{
    statement *line = script_new(s, sizeof *line);
    line->at = s->current.at;
    line->line = count_lines(s, s->current.at);
    if (script_is(s, s->current, "with")) {
        invoke_line(s, line, indent);
    } else if (script_is(s, s->current, "for")) {
        for_line(s, line, indent);
    } else {
        const uint32_t saves = s->n_saves;
        simple_line(s, line);
        script_expect(s, TOKEN_NEWLINE, "the end of the line");
        if (s->in_edit && s->n_saves != saves && !s->status) refuse_edit_save(s);
    }
    return line;
}

/* { line }, all with this indentation */
static statement *lines(script *s, uint32_t indent)
{
    statement *first = NULL, *before = NULL;
    while (s->current.kind != TOKEN_END && s->indent >= indent) {
        if (s->indent > indent) {
            script_refuse(s, s->current.at, INSET_SYNTAX_ERROR, "%s",
                before && before->body ? "this indentation matches no block"
                                       : "unexpected indentation");
            break;
        }
        statement *line = line_of(s, indent);
        if (s->status) break;
        if (before) before->next = line;
        else first = line;
        before = line;
    }
    return first;
}

statement *script_statements(script *s)
{
    s->line = 1;
    return lines(s, 0);
}
