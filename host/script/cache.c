/* cache.c: cache("transformer.h[*].output", ...): what all sites of a pattern hold, saved under
 * their paths when the invoke ends. */
#include "script/reader.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- the line ----------------------------------------------------------- */

/* "prefix" "=" ( STRING | int ), behind a comma */
static void prefix(script *s, statement *line)
{
    if (!script_is(s, s->current, "prefix")) {
        script_unexpected(s, "a pattern in quotes, or prefix=");
        return;
    }
    script_advance(s);
    script_expect(s, '=', "'='");
    if (s->status) return;
    if (s->current.kind != TOKEN_STRING) {
        line->value = script_integer(s);
        return;
    }
    line->prefix = script_new(s, sizeof *line->prefix);
    line->prefix->text = s->current;
    script_advance(s);
}

/* "(" STRING { "," STRING } [ "," "prefix" "=" ( STRING | int ) ] ")" */
void script_cache_line(script *s, statement *line)
{
    quoted_text **last = &line->patterns;
    line->kind = STATEMENT_CACHE;
    do {
        script_advance(s);
        if (s->status) return;
        if (line->patterns && s->current.kind != TOKEN_STRING) {
            prefix(s, line);
            break;
        }
        quoted_text *q = script_new(s, sizeof *q);
        q->text = s->current;
        script_expect(s, TOKEN_STRING, "a pattern in quotes, \"transformer.h[*].output\"");
        *last = q;
        last = &q->next;
    } while (!s->status && s->current.kind == ',');
    script_expect(s, ')', "',' or ')'");
}

/* ---- the run ------------------------------------------------------------ */

static inset_status read_prefix(script *s, const statement *line, const char **out)
{
    char number[32];
    int64_t n;
    *out = line->prefix ? script_unquoted(s, line->prefix->text) : "";
    if (!line->value) return *out ? INSET_OK : INSET_NO_MEMORY;
    inset_status status = script_evaluate_integer(s, line->value, &n);
    if (status) return status;
    snprintf(number, sizeof number, "%" PRId64 ".", n);
    *out = arena_text(&s->memory, number, strlen(number));
    return *out ? INSET_OK : INSET_NO_MEMORY;
}

inset_status script_cache(script *s, const statement *line)
{
    pending_cache *made = arena_new(&s->memory, sizeof *made);
    bool *chosen = arena_new(&s->memory, s->program->n_sites + 1);
    if (!made || !chosen) return INSET_NO_MEMORY;
    if (trace_in_backward(s->trace))
        return script_refuse(s, line->at, INSET_SYNTAX_ERROR,
            "cache() keeps what sites hold and belongs before backward(), in the invoke");
    *made = (pending_cache){chosen, NULL, line->at, line->line, s->caches};
    inset_status status = read_prefix(s, line, &made->prefix);
    for (const quoted_text *q = line->patterns; q && !status; q = q->next) {
        const char *pattern = script_unquoted(s, q->text);
        if (!pattern) return INSET_NO_MEMORY;
        status = script_at(
            s, q->text.at, program_match_sites(s->program, pattern, strlen(pattern), chosen));
    }
    if (!status) s->caches = made;
    return status;
}

inset_status script_fill_caches(script *s)
{
    inset_status status = INSET_OK;
    pending_cache *first = NULL;
    for (pending_cache *c = s->caches, *next; c; c = next) { /* in the order of the lines */
        next = c->next;
        c->next = first;
        first = c;
    }
    s->caches = NULL;
    for (const pending_cache *c = first; c && !status; c = c->next) {
        trace_line(s->trace, c->line);
        status = script_at(s, c->at, trace_save_sites(s->trace, c->chosen, c->prefix));
    }
    return status;
}
