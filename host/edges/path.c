/* path.c: edges and paths of them as text.
 *
 *     PATHS    PATH, PATH, ...       commas or lines
 *     PATH     STEP->STEP->...       a writer, readers on the way, at last the reader that counts
 *     STEP     NODE+NODE+...         several together
 *     NODE     input  m3  a3.h1  as writers;  a3.h1<q>  m3  logits  as readers;  with a * or
 *              without what stands behind, each of several: a3 (its heads), a*.h1, m*, 3 (all of
 *              the layer), * (all)
 *
 * A step of one NODE that means several makes a path for each; what is no edge is left out of them.
 * NODEs that stand together go together. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "edges/path.h"

enum { MOST_PATHS = 1 << 20, ANY = -1 };

/* What a NODE may stand for. */
typedef struct pattern {
    char kind; /* 'i', 'l', 'a', 'm', or '*' */
    int32_t layer, head;
    char part; /* 'q', 'k', 'v', or 0 */
} pattern;

typedef struct parser {
    edges *e;
    edge_paths *out;
    const char *text, *end; /* the PATH at hand */
    int32_t n_steps;
    struct {
        int64_t *nodes;
        int32_t n;
        bool together;
    } steps[MOST_PATH_STEPS];
} parser;

/* ---- nodes -------------------------------------------------------------- */

static bool read_number(const char **at, const char *end, int32_t *out)
{
    if (*at < end && **at == '*') return (*at)++, *out = ANY, true;
    int64_t n = 0;
    const char *from = *at;
    while (*at < end && isdigit((unsigned char)**at) && n < 1000000) n = 10 * n + *(*at)++ - '0';
    *out = (int32_t)n;
    return *at > from;
}

static bool is_word(const char *at, const char *end, const char *word)
{
    return (size_t)(end - at) == strlen(word) && !strncmp(at, word, strlen(word));
}

static bool read_pattern(const char *at, const char *end, pattern *out)
{
    *out = (pattern){'*', ANY, ANY, 0};
    if (is_word(at, end, "*")) return true;
    if (is_word(at, end, "input") || is_word(at, end, "logits")) return out->kind = *at, true;
    if (at < end && isdigit((unsigned char)*at))
        return read_number(&at, end, &out->layer) && at == end;
    if (at == end || (*at != 'a' && *at != 'm')) return false;
    out->kind = *at++;
    if (!read_number(&at, end, &out->layer)) return false;
    if (out->kind == 'm') return at == end;
    if (end - at > 2 && at[0] == '.' && at[1] == 'h') {
        at += 2;
        if (!read_number(&at, end, &out->head)) return false;
    }
    if (end - at == 3 && at[0] == '<' && strchr("qkv", at[1]) && at[2] == '>')
        out->part = at[1], at += 3;
    return at == end;
}

static bool matches(const edge_node *n, const pattern *p)
{
    const char kind = strchr("qkvz", n->part) ? 'a' : (char)n->part;
    if (p->kind == '*') return p->layer == ANY || n->layer == p->layer;
    if (p->kind != kind) return false;
    return (p->layer == ANY || n->layer == p->layer) && (p->head == ANY || n->head == p->head)
           && (!p->part || n->part == p->part);
}

static inset_status no_node(parser *r, bool writer, const char *at, const char *end)
{
    const edges *e = r->e;
    inset_status status = error_set(e->s->context, INSET_VALUE_ERROR,
        "'%.*s' is no %s of this graph", (int)(end - at), at, writer ? "source" : "destination");
    error_help(e->s->context,
        writer ? "Sources are input, a0.h0 to a%d.h%d, and m0 to m%d."
               : "Destinations are a0.h0<q> to a%d.h%d<q> (%d heads have a <k> and a <v>), m0 and "
                 "so on, and logits.",
        e->s->n_layers - 1, e->n_heads - 1, writer ? e->s->n_layers - 1 : e->n_kv_heads);
    return status;
}

/* ---- steps -------------------------------------------------------------- */

static inset_status read_node(parser *r, const char *at, const char *end)
{
    const edges *e = r->e;
    const bool writer = r->n_steps == 1;
    const edge_node *nodes = writer ? e->writers : e->readers;
    const int64_t n = writer ? e->n_writers : e->n_readers;
    const int32_t k = r->n_steps - 1;
    const int32_t before = r->steps[k].n;
    pattern p;
    while (at < end && isspace((unsigned char)*at)) at++;
    while (at < end && isspace((unsigned char)end[-1])) end--;
    if (read_pattern(at, end, &p))
        for (int64_t i = 0; i < n; i++)
            if (matches(&nodes[i], &p)) r->steps[k].nodes[r->steps[k].n++] = i;
    return r->steps[k].n > before ? INSET_OK : no_node(r, writer, at, end);
}

static inset_status read_step(parser *r, const char *at, const char *end)
{
    const edges *e = r->e;
    const int64_t most = e->n_writers + e->n_readers;
    if (r->n_steps == MOST_PATH_STEPS)
        return error_set(e->s->context, INSET_VALUE_ERROR, "a path has at most %d steps: %.*s",
            (int)MOST_PATH_STEPS, (int)(r->end - r->text), r->text);
    const int32_t k = r->n_steps++;
    r->steps[k].n = 0;
    r->steps[k].together = memchr(at, '+', (size_t)(end - at)) != NULL;
    for (;;) {
        const char *plus = memchr(at, '+', (size_t)(end - at)), *stop = plus ? plus : end;
        if (r->steps[k].n > most)
            return error_set(e->s->context, INSET_VALUE_ERROR, "a step names a node twice: %.*s",
                (int)(r->end - r->text), r->text);
        inset_status status = read_node(r, at, stop);
        if (status || !plus) return status;
        at = plus + 1;
    }
}

/* ---- paths -------------------------------------------------------------- */

bool edge_leads_on(const edges *e, int64_t reader, int64_t u)
{
    return edge_is_of_node(e, &e->readers[reader], &e->writers[u]);
}

/* Can what a step reads come from what the step before wrote? Of the first: the writers' own. */
static bool goes_on(const edges *e, bool first, const int64_t *from, int32_t n_from,
    const int64_t *to, int32_t n_to)
{
    for (int32_t k = 0; k < n_to; k++)
        for (int32_t i = 0; i < n_from; i++) {
            bool one = first && edge_exists(e, from[i], to[k]);
            for (int64_t u = 0; u < e->n_writers && !one && !first; u++)
                one = edge_leads_on(e, from[i], u) && edge_exists(e, u, to[k]);
            if (!one) return false;
        }
    return true;
}

static inset_status name_path(edges *e, edge_path *p)
{
    text name = {0};
    inset_context *c = e->s->context;
    for (int32_t k = 0; k < p->n; k++)
        for (int32_t i = 0; i < p->steps[k].n; i++)
            text_add(c, &name, "%s%s",
                i   ? "+"
                : k ? "->"
                    : "",
                (k ? e->reader_names : e->writer_names)[p->steps[k].nodes[i]]);
    if (name.bytes) p->name = arena_text(&e->s->memory, name.bytes, strlen(name.bytes));
    text_free(c, &name);
    return p->name ? INSET_OK : INSET_NO_MEMORY;
}

/* The path of one choice of every step, where it is one. */
static inset_status add_path(parser *r, const int32_t *choice)
{
    edges *e = r->e;
    edge_path made = {.n = r->n_steps};
    for (int32_t k = 0; k < made.n; k++) {
        const bool all = r->steps[k].together;
        made.steps[k].nodes = r->steps[k].nodes + (all ? 0 : choice[k]);
        made.steps[k].n = all ? r->steps[k].n : 1;
        if (k
            && !goes_on(e, k == 1, made.steps[k - 1].nodes, made.steps[k - 1].n,
                made.steps[k].nodes, made.steps[k].n))
            return INSET_OK;
    }
    if (r->out->n == MOST_PATHS)
        return error_set(
            e->s->context, INSET_VALUE_ERROR, "more than %d paths at once", (int)MOST_PATHS);
    for (int32_t k = 0; k < made.n; k++) {
        const size_t bytes = (size_t)made.steps[k].n * sizeof(int64_t);
        made.steps[k].nodes = arena_copy(&e->s->memory, made.steps[k].nodes, bytes);
        if (!made.steps[k].nodes) return INSET_NO_MEMORY;
    }
    inset_status status = name_path(e, &made);
    if (status) return status;
    if (!array_reserve(
            e->s->context, &r->out->at, &r->out->capacity, r->out->n + 1, sizeof *r->out->at))
        return INSET_NO_MEMORY;
    r->out->at[r->out->n++] = made;
    return INSET_OK;
}

static inset_status add_choices(parser *r)
{
    int32_t choice[MOST_PATH_STEPS] = {0};
    const size_t before = r->out->n;
    for (;;) {
        inset_status status = add_path(r, choice);
        if (status) return status;
        int32_t k = r->n_steps - 1;
        for (; k >= 0; choice[k--] = 0)
            if (++choice[k] < (r->steps[k].together ? 1 : r->steps[k].n)) break;
        if (k < 0) break;
    }
    if (r->out->n > before) return INSET_OK;
    return error_set(r->e->s->context, INSET_VALUE_ERROR,
        "'%.*s' is no path: what is written there comes behind what reads it",
        (int)(r->end - r->text), r->text);
}

static inset_status read_path(parser *r)
{
    const char *at = r->text;
    r->n_steps = 0;
    for (const char *arrow;; at = arrow + 2) {
        for (arrow = at; arrow + 1 < r->end && strncmp(arrow, "->", 2); arrow++) continue;
        const bool last = arrow + 1 >= r->end;
        inset_status status = read_step(r, at, last ? r->end : arrow);
        if (status) return status;
        if (last) break;
    }
    if (r->n_steps > 1) return add_choices(r);
    return error_set(r->e->s->context, INSET_VALUE_ERROR,
        "an edge is SOURCE->DESTINATION, as a0.h1->m2; found '%.*s'", (int)(r->end - r->text),
        r->text);
}

inset_status edges_read_paths(edges *e, const char *text, edge_paths *out)
{
    parser r = {.e = e, .out = out};
    arena scratch;
    inset_status status = INSET_OK;
    *out = (edge_paths){0};
    arena_start(&scratch, e->s->context);
    for (int k = 0; k < MOST_PATH_STEPS && !status; k++) {
        r.steps[k].nodes = arena_new(
            &scratch, (size_t)(2 * (e->n_writers + e->n_readers) + 2) * sizeof(int64_t));
        if (!r.steps[k].nodes) status = INSET_NO_MEMORY;
    }
    for (const char *at = text; *at && !status;) {
        const size_t n = strcspn(at, ",\n");
        r.text = at, r.end = at + n;
        while (r.text < r.end && isspace((unsigned char)*r.text)) r.text++;
        while (r.text < r.end && isspace((unsigned char)r.end[-1])) r.end--;
        if (r.text < r.end) status = read_path(&r);
        at += n + (at[n] != 0);
    }
    if (!status && !out->n)
        status = error_set(e->s->context, INSET_VALUE_ERROR, "which edges? a0.h1->m2, for example");
    arena_free(&scratch);
    if (status) edge_paths_free(e, out);
    return status;
}

void edge_paths_free(edges *e, edge_paths *p)
{
    memory_free(e->s->context, p->at);
    *p = (edge_paths){0};
}
