/* script.c: the two ways into the script reader: a whole script, and one site's text from the C
 * API. */
#include "script/reader.h"

#include <string.h>

bool script_start(
    script *s, trace *t, const char *file, const char *directory, const char *text, size_t length)
{
    memset(s, 0, sizeof *s);
    s->context = trace_context(t);
    s->trace = t;
    s->program = trace_program(t);
    s->file = file;
    s->directory = directory;
    s->text = text ? text : "";
    s->last_save = &s->saves;
    arena_start(&s->memory, s->context);
    if (length > INT32_MAX) {
        s->status = error_set(
            s->context, INSET_VALUE_ERROR, "a script of %zu bytes; 2 GiB is the most", length);
        return false;
    }
    s->length = (uint32_t)length;
    script_scan_start(s);
    return !s->status;
}

void script_free(script *s)
{
    memory_free(s->context, s->names);
    memory_free(s->context, s->numbers);
    memory_free(s->context, s->rows);
    table_free(s->context, &s->interned);
    arena_free(&s->memory);
}

inset_status script_read(
    trace *t, const char *file, const char *directory, const char *text, size_t length)
{
    script s;
    statement *first = script_start(&s, t, file ? file : "script", directory, text, length)
                           ? script_statements(&s)
                           : NULL;
    trace_begin_script(t);
    inset_status status = s.status ? s.status : script_run(&s, first);
    trace_line(t, 0); /* what comes behind is no line of it */
    script_free(&s);
    return status;
}

/* ---- sites of the C API ------------------------------------------------- */

/* Copies the values of an index to where they outlive the reader. */
static inset_status give_index(script *s, link *index, size_t *n_items, index_item **items)
{
    inset_status status = script_evaluate_index(s, index);
    if (status) return status;
    arena *memory = trace_arena(s->trace);
    index_item *copy = arena_copy(memory, index->values, index->n_items * sizeof *copy);
    for (size_t i = 0; copy && i < index->n_items; i++) {
        if (copy[i].kind != INDEX_LIST) continue;
        copy[i].list = arena_copy(memory, copy[i].list, copy[i].list_length * sizeof *copy[i].list);
        if (!copy[i].list) return INSET_NO_MEMORY;
    }
    *items = copy;
    *n_items = index->n_items;
    return copy ? INSET_OK : INSET_NO_MEMORY;
}

/* site [ index ] */
static inset_status read_site(script *s, int32_t *site, size_t *n_items, index_item **items)
{
    token head = script_expect(s, TOKEN_NAME, "a site");
    expression *e = s->status ? NULL : script_chain(s, head, false);
    if (!s->status && s->current.kind != TOKEN_NEWLINE) script_unexpected(s, "the end of the site");
    if (s->status) return s->status;
    if (e->saved)
        return script_refuse(s, e->save_at, INSET_SYNTAX_ERROR, "a site ends before .save()");
    if (e->kind != EXPRESSION_SITE)
        return script_at(
            s, e->at, program_unknown_module(s->program, 0, s->text + e->at, e->end - e->at));
    for (const link *l = e->links; l; l = l->next)
        if (l->kind != LINK_INDEX || l->next)
            return script_refuse(s, l->at, INSET_SYNTAX_ERROR, "a site has one index at its end");
    inset_status status = script_find_site(s, e, site);
    return status || !e->links ? status : give_index(s, e->links, n_items, items);
}

inset_status script_parse_site(
    trace *t, const char *text, int32_t *site, size_t *n_items, index_item **items)
{
    script s;
    *site = -1;
    *n_items = 0;
    *items = NULL;
    inset_status status = script_start(&s, t, NULL, NULL, text, text ? strlen(text) : 0)
                              ? read_site(&s, site, n_items, items)
                              : s.status;
    script_free(&s);
    return status;
}

/* An index stands behind a name in the grammar, so it is read behind one. */
inset_status script_parse_index(trace *t, const char *text, size_t *n_items, index_item **items)
{
    script s;
    inset_context *context = trace_context(t);
    *n_items = 0;
    *items = NULL;
    if (!*text) return INSET_OK;
    size_t length = strlen(text) + 1;
    char *named = memory_new(context, length + 1);
    if (!named) return INSET_NO_MEMORY;
    named[0] = '_';
    memcpy(named + 1, text, length - 1);
    if (script_start(&s, t, NULL, NULL, named, length)) {
        token head = script_expect(&s, TOKEN_NAME, "an index");
        expression *e = s.status ? NULL : script_chain(&s, head, false);
        if (!s.status && s.current.kind != TOKEN_NEWLINE)
            script_unexpected(&s, "the end of the index");
        if (!s.status
            && (e->kind != EXPRESSION_NAME || head.end != 1 || !e->links
                || e->links->kind != LINK_INDEX || e->links->next || e->saved))
            script_refuse(&s, e->at, INSET_SYNTAX_ERROR, "an index in brackets was expected");
        if (!s.status) s.status = give_index(&s, e->links, n_items, items);
    }
    inset_status status = s.status;
    script_free(&s);
    memory_free(context, named);
    return status;
}
