/* match.c: patterns of sites: a path with `*` in the place of a name or an index,
 * "transformer.h[*].output". One `*` is one part of a path. */
#include "program/program.h"

#include <string.h>

enum { MOST_PARTS = 32 };

typedef struct part {
    const char *at;
    size_t length;
    bool any;
} part;

/* A pattern as parts, and where the walk that came furthest ended: what is said when none comes to
 * its end. */
typedef struct matcher {
    const program *p;
    part parts[MOST_PARTS];
    int n_parts, deepest;
    int32_t stuck; /* the module that has no such part */
    bool *chosen;
    size_t found;
} matcher;

/* "h[3].mlp" and "h.3.mlp" have the same parts. */
static bool split(matcher *m, const char *text, size_t length)
{
    const char *at = text, *end = text + length;
    while (at < end) {
        const bool bracket = *at == '[';
        if (bracket) at++;
        const char *from = at;
        while (at < end && (bracket ? *at != ']' : *at != '.' && *at != '[')) at++;
        if (at == from || m->n_parts == MOST_PARTS || (bracket && at == end)) return false;
        const size_t n = (size_t)(at - from);
        m->parts[m->n_parts++] = (part){from, n, n == 1 && *from == '*'};
        if (bracket) at++;
        if (at < end && *at == '.' && ++at == end) return false;
    }
    return m->n_parts > 0;
}

/* A part as a number, -1 from the end; false: it is a name. */
static bool number_of(const part *x, int64_t *out)
{
    const bool negative = *x->at == '-';
    size_t i = negative;
    *out = 0;
    if (i == x->length || x->length > 10) return false;
    for (; i < x->length; i++) {
        if (x->at[i] < '0' || x->at[i] > '9') return false;
        *out = *out * 10 + (x->at[i] - '0');
    }
    if (negative) *out = -*out;
    return true;
}

static void note_stuck(matcher *m, int depth, int32_t module)
{
    if (depth <= m->deepest) return;
    m->deepest = depth;
    m->stuck = module;
}

static void match_sites(matcher *m, int32_t module_index, const part *x)
{
    const module *at = &m->p->modules[module_index];
    const size_t before = m->found;
    for (int32_t i = 0; i < at->n_sites; i++) {
        const int32_t site = m->p->module_sites[at->first_site + i];
        if (!x->any && program_site(m->p, module_index, x->at, x->length) != site) continue;
        m->chosen[site] = true;
        m->found++;
    }
    if (m->found == before) note_stuck(m, m->n_parts, module_index);
}

static void walk(matcher *m, int32_t module_index, int depth)
{
    const part *x = &m->parts[depth];
    if (depth == m->n_parts - 1) {
        match_sites(m, module_index, x);
        return;
    }
    int64_t number;
    int32_t child = m->p->modules[module_index].first_child;
    if (!x->any)
        child = number_of(x, &number) ? program_child_at(m->p, module_index, number)
                                      : program_child(m->p, module_index, x->at, x->length);
    if (child < 0) note_stuck(m, depth + 1, module_index);
    for (; child >= 0; child = x->any ? m->p->modules[child].next_sibling : -1)
        walk(m, child, depth + 1);
}

inset_status program_match_sites(const program *p, const char *pattern, size_t length, bool *chosen)
{
    matcher m = {.p = p, .chosen = chosen};
    if (!split(&m, pattern, length))
        return error_set(p->context, INSET_UNKNOWN_SITE,
            "\"%.*s\" is no pattern of sites: write it like transformer.h[*].output",
            (int)(length < 100 ? length : 100), pattern);
    walk(&m, 0, 0);
    if (m.found) return INSET_OK;
    const part *x = &m.parts[m.deepest - 1];
    if (x->any)
        return error_set(p->context, INSET_UNKNOWN_SITE,
            "\"%.*s\" matches nothing: %s has nothing for its last * to stand for",
            (int)(length < 100 ? length : 100), pattern,
            m.stuck ? p->modules[m.stuck].path : "the model");
    return m.deepest == m.n_parts ? program_unknown_site(p, m.stuck, x->at, x->length)
                                  : program_unknown_module(p, m.stuck, x->at, x->length);
}
