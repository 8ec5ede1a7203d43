/* pick.c: which taps, layers and positions a cache keeps.
 *
 * A site is a short name, which stands for a tap in every chosen layer, or a path, perhaps with
 * `*`, which names its layers itself. What a row of one width cannot hold is refused where it is
 * named and left out where a `*` stands for it: scores and patterns (as wide as the prompt is
 * long), token ids, and what has one row a position for all prompts. */
#include "cache/cache.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* ---- lists -------------------------------------------------------------- */

/* One part of "a,b,c"; *at moves behind the comma, and is NULL after the last. */
static const char *next_part(arena *a, const char **at)
{
    const size_t length = strcspn(*at, ",");
    const char *from = *at;
    *at = from[length] ? from + length + 1 : NULL;
    return arena_text(a, from, length);
}

static size_t count_parts(const char *text)
{
    size_t n = 1;
    for (; *text; text++) n += *text == ',';
    return n;
}

/* "5-7", both ends included. */
static bool read_span(const char *text, range *out)
{
    size_t n = 0;
    long long first, last;
    while (isdigit((unsigned char)text[n])) n++;
    if (!n || n > 9 || text[n] != '-' || !isdigit((unsigned char)text[n + 1])) return false;
    if (strspn(text + n + 1, "0123456789") != strlen(text + n + 1) || strlen(text + n + 1) > 9)
        return false;
    sscanf(text, "%lld-%lld", &first, &last);
    *out = (range){
        .has_start = true, .has_stop = true, .start = first, .stop = last + 1, .step = 1};
    return last >= first;
}

/* "0,3,5-7", "-1", "4:9": ranges; NULL and "all": none, which stands for all. */
static inset_status read_list(
    cache *c, const char *option, const char *text, range **out, int64_t *n)
{
    *n = 0;
    if (!text || !strcmp(text, "all")) return INSET_OK;
    *out = arena_new(&c->memory, count_parts(text) * sizeof **out);
    if (!*out) return INSET_NO_MEMORY;
    for (const char *at = text; at;) {
        const char *part = next_part(&c->memory, &at);
        if (!part) return INSET_NO_MEMORY;
        range *r = &(*out)[(*n)++];
        if (read_span(part, r)) continue;
        inset_status status = range_read(&c->reader, option, part, r);
        if (status) {
            error_help(c->context, "A list has commas between: 0,3,5-7.");
            return status;
        }
    }
    return INSET_OK;
}

/* Marks what the ranges choose of `extent` things; how many. *empty: the first that chooses
 * none. */
static int64_t mark_chosen(
    const range *ranges, int64_t n, int64_t extent, bool *mark, int64_t *empty)
{
    int64_t first, count = 0;
    *empty = -1;
    memset(mark, !n, (size_t)extent);
    for (int64_t i = 0; i < n; i++) {
        const int64_t some = range_resolve(&ranges[i], extent, &first);
        if (!some && *empty < 0) *empty = i;
        for (int64_t k = 0; k < some; k++) mark[first + k * ranges[i].step] = true;
    }
    for (int64_t i = 0; i < extent; i++) count += mark[i];
    return count;
}

/* ---- positions ---------------------------------------------------------- */

int64_t positions_of(const cache *c, int64_t length, int64_t *out)
{
    int64_t empty, n = 0;
    const int64_t count = mark_chosen(c->positions, c->n_positions, length, c->mark, &empty);
    for (int64_t i = 0; out && i < length; i++)
        if (c->mark[i]) out[n++] = i;
    return count;
}

int64_t prompt_rows(const cache *c, int64_t prompt)
{
    return c->rows_a_length[c->prompts.lengths[prompt]];
}

static inset_status read_positions(cache *c, const char *text)
{
    inset_status status = read_list(c, "positions", text, &c->positions, &c->n_positions);
    const int64_t longest = c->prompts.longest;
    if (status) return status;
    c->mark = arena_new(&c->memory, (size_t)longest + 1);
    c->rows_a_length = arena_new(&c->memory, ((size_t)longest + 1) * sizeof *c->rows_a_length);
    if (!c->mark || !c->rows_a_length) return INSET_NO_MEMORY;
    for (int64_t i = 1; i <= longest; i++) c->rows_a_length[i] = positions_of(c, i, NULL);
    for (int64_t i = 0; i < c->prompts.count; i++) {
        c->total_rows += prompt_rows(c, i);
        c->total_tokens += c->prompts.lengths[i];
    }
    if (c->total_rows) return INSET_OK;
    return error_set(c->context, INSET_VALUE_ERROR,
        "positions: '%s' chooses none of the positions of any prompt; the longest has %lld", text,
        (long long)longest);
}

/* ---- taps --------------------------------------------------------------- */

/* Why a row of one width cannot hold what the place shows; NULL: it can. */
static const char *not_rows(const program *p, int32_t place)
{
    const slot *s = &p->slots[p->sites[place].slot];
    const value *v = &p->values[s->value];
    if (s->shape.by_keys)
        return "is as wide as its prompt is long, so it has no rows of one width; in a script, "
               "cache(\"...\") keeps it";
    if (v->integer)
        return "holds token ids or positions, which the tensors token and position have";
    if (v->per_position) return "has one row a position for all prompts";
    return NULL;
}

static inset_status add_tap(cache *c, const char *name, int32_t place)
{
    const program *p = c->program;
    const slot_shape *shape = &p->slots[p->sites[place].slot].shape;
    cache_tap tap = {.name = arena_text(&c->memory, name, strlen(name)),
        .place = place,
        .event = p->sites[place].event,
        .n_dimensions = shape->n_columns,
        .row_bytes = type_size(c->type)};
    if (!tap.name) return INSET_NO_MEMORY;
    for (int i = 0; i < tap.n_dimensions; i++) {
        tap.shape[i] = shape->extent[i];
        tap.row_bytes *= (size_t)tap.shape[i];
    }
    size_t at = c->n_taps++;
    for (; at && c->taps[at - 1].event > tap.event; at--) c->taps[at] = c->taps[at - 1];
    c->taps[at] = tap;
    return INSET_OK;
}

static bool has_tap(const cache *c, const char *name)
{
    for (size_t i = 0; i < c->n_taps; i++)
        if (!strcmp(c->taps[i].name, name)) return true;
    return false;
}

static inset_status refuse_rows(cache *c, const char *name, const char *why)
{
    return error_set(c->context, INSET_USAGE_ERROR, "%s %s", name, why);
}

static inset_status add_members(cache *c, const char *name, const bool *layers)
{
    const char *member = site_member(name);
    if (!member) return site_unknown(&c->reader, name, "keep");
    for (int32_t layer = 0; layer < c->reader.n_layers; layer++) {
        char full[128];
        if (!layers[layer]) continue;
        const int32_t place = layer_place(&c->reader, layer, member);
        if (place < 0) return site_not_there(&c->reader, member, layer);
        const char *why = not_rows(c->program, place);
        if (why) return refuse_rows(c, name, why);
        snprintf(full, sizeof full, "%s.%d", name, (int)layer);
        if (has_tap(c, full))
            return error_set(c->context, INSET_VALUE_ERROR, "the site %s is named twice", name);
        inset_status status = add_tap(c, full, place);
        if (status) return status;
    }
    return INSET_OK;
}

/* A short name; block_every is three. */
static inset_status add_short(cache *c, const char *name, const bool *layers)
{
    static const char *const every[] = {"resid_pre", "attn_out", "mlp_out"};
    inset_status status = INSET_OK;
    if (strcmp(name, "block_every")) return add_members(c, name, layers);
    for (int i = 0; i < 3 && !status; i++) status = add_members(c, every[i], layers);
    return status;
}

/* A path, perhaps a pattern of several. */
static inset_status add_paths(cache *c, const char *pattern)
{
    const program *p = c->program;
    const size_t before = c->n_taps;
    bool *chosen = arena_new(&c->memory, p->n_sites + 1), known = false;
    if (!chosen) return INSET_NO_MEMORY;
    inset_status status = program_match_sites(p, pattern, strlen(pattern), chosen);
    for (size_t i = 0; i < p->n_sites && !status; i++) {
        char name[256];
        if (!chosen[i]) continue;
        program_site_name(p, (int32_t)i, name, sizeof name);
        const char *why = not_rows(p, (int32_t)i);
        if (why && !strchr(pattern, '*')) return refuse_rows(c, name, why);
        known |= has_tap(c, name);
        if (!why && !has_tap(c, name)) status = add_tap(c, name, (int32_t)i);
    }
    if (status || known || c->n_taps > before) return status;
    return error_set(c->context, INSET_USAGE_ERROR,
        "'%s' stands for nothing that has rows: scores, patterns, token ids and position "
        "embeddings have none of one width",
        pattern);
}

static inset_status read_layers(cache *c, const char *text, bool *layers)
{
    range *ranges = NULL;
    int64_t n, empty;
    inset_status status = read_list(c, "layers", text, &ranges, &n);
    if (status) return status;
    mark_chosen(ranges, n, c->reader.n_layers, layers, &empty);
    if (empty < 0) return INSET_OK;
    return error_set(c->context, INSET_VALUE_ERROR,
        "layers: part %lld of '%s' chooses none of the %d layers", (long long)empty + 1, text,
        (int)c->reader.n_layers);
}

/* Most taps that texts may stand for: all sites by paths, all layers by a short name. */
static size_t most_taps(const cache *c, const char *sites)
{
    return c->program->n_sites + 3 * count_parts(sites) * (size_t)c->reader.n_layers;
}

static inset_status read_sites(cache *c, const inset_cache_options *o)
{
    bool *layers = arena_new(&c->memory, (size_t)c->reader.n_layers + 1), short_names = false;
    c->taps = arena_new(&c->memory, most_taps(c, o->sites) * sizeof *c->taps);
    if (!layers || !c->taps) return INSET_NO_MEMORY;
    inset_status status = read_layers(c, o->layers, layers);
    for (const char *at = o->sites; at && !status;) {
        const char *part = next_part(&c->memory, &at);
        if (!part) return INSET_NO_MEMORY;
        const bool path = strpbrk(part, ".[*") != NULL;
        short_names |= !path;
        status = path ? add_paths(c, part) : add_short(c, part, layers);
    }
    if (!status && o->layers && !short_names)
        status = error_set(c->context, INSET_VALUE_ERROR,
            "layers: '%s' chooses layers of short names such as resid_post; a path names its own",
            o->layers);
    return status;
}

static inset_status read_type(cache *c, const char *text)
{
    c->type = c->model->type;
    if (!text) return INSET_OK;
    for (inset_type t = INSET_F32; t <= INSET_F16; t++)
        if (!strcmp(type_name(t), text)) {
            c->type = t;
            return INSET_OK;
        }
    return error_set(
        c->context, INSET_VALUE_ERROR, "dtype: f32, bf16 or f16 was expected, found '%s'", text);
}

inset_status pick_read(cache *c, const inset_cache_options *o)
{
    inset_status status = read_type(c, o->dtype);
    if (!status) status = read_positions(c, o->positions);
    if (!status) status = read_sites(c, o);
    c->row_bytes = INDEX_TENSORS * sizeof(int64_t);
    for (size_t i = 0; i < c->n_taps && !status; i++) c->row_bytes += c->taps[i].row_bytes;
    return status;
}
