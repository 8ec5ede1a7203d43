/* find.c: from names to modules and sites, and what to say when a name is not there.
 *
 * A user who mistypes a name gets the names that come nearest, among the children of the module the
 * path had reached; a layer number out of range gets the range. Paths are short and trees small, so
 * a walk over siblings is all the search there is. */
#include "program/program.h"

#include <stdio.h>
#include <string.h>

enum { MOST_OFFERED = 8, LONGEST_NAME = 160 };

static bool same(const char *name, const char *bytes, size_t length)
{
    return strncmp(name, bytes, length) == 0 && name[length] == 0;
}

/* A child that is called as what every module has (BERT's `output`) may be asked for as E_output,
 * as in nnsight. */
static bool is_extra(const char *child, const char *name, size_t length)
{
    return length > 2 && !memcmp(name, "E_", 2) && same(child, name + 2, length - 2)
           && (!strcmp(child, "output") || !strcmp(child, "input"));
}

int32_t program_child(const program *p, int32_t parent, const char *name, size_t length)
{
    for (int32_t child = p->modules[parent].first_child; child >= 0;
         child = p->modules[child].next_sibling)
        if (same(p->modules[child].name, name, length)
            || (p->modules[child].also && same(p->modules[child].also, name, length))
            || is_extra(p->modules[child].name, name, length))
            return child;
    return -1;
}

/* Modules in a list are named 0, 1, 2...: the first name tells. */
static bool is_list(const program *p, int32_t index)
{
    int32_t child = p->modules[index].first_child;
    return child >= 0 && strcmp(p->modules[child].name, "0") == 0;
}

int32_t program_child_at(const program *p, int32_t parent, int64_t index)
{
    if (!is_list(p, parent)) return -1;
    int64_t count = p->modules[parent].n_children;
    if (index < 0) index += count;
    if (index < 0 || index >= count) return -1;
    char name[24];
    int length = snprintf(name, sizeof name, "%lld", (long long)index);
    return program_child(p, parent, name, (size_t)length);
}

int32_t program_site(const program *p, int32_t in_module, const char *name, size_t length)
{
    /* the only input there is */
    if (length == 6 && memcmp(name, "inputs", 6) == 0) length = 5;
    const module *m = &p->modules[in_module];
    for (int32_t i = 0; i < m->n_sites; i++) {
        int32_t index = p->module_sites[m->first_site + i];
        if (same(p->sites[index].name, name, length)) return index;
    }
    return -1;
}

/* path "." name, the prefix that files may leave out aside: is it what a weight is called? */
static bool is_weight_of(
    const program *p, const char *called, const char *path, const char *name, size_t length)
{
    const char *prefix = p->optional_prefix;
    const size_t n = prefix ? strlen(prefix) : 0, at = strlen(path);
    if (!called) return false;
    if (n && !strncmp(called, prefix, n)) called += n;
    if (n && !strncmp(path, prefix, n))
        return !strncmp(called, path + n, at - n) && called[at - n] == '.'
               && same(called + at - n + 1, name, length);
    return !strncmp(called, path, at) && called[at] == '.' && same(called + at + 1, name, length);
}

int32_t program_weight_of(const program *p, int32_t in_module, const char *name, size_t length)
{
    for (size_t i = 0; i < p->n_weights; i++)
        if (is_weight_of(p, p->weights[i].name, p->modules[in_module].path, name, length)
            || is_weight_of(p, p->weights[i].also, p->modules[in_module].path, name, length))
            return (int32_t)i;
    return -1;
}

/* ---- names that were not found ------------------------------------------ */

static const char *path_or_model(const program *p, int32_t index)
{
    return index ? p->modules[index].path : "the model";
}

/* The i-th name below a module: its children, then its sites; NULL behind the last. */
static const char *name_below(
    const program *p, int32_t index, bool with_modules, bool with_sites, int32_t i)
{
    const module *m = &p->modules[index];
    if (with_modules)
        for (int32_t child = m->first_child; child >= 0; child = p->modules[child].next_sibling)
            if (i-- == 0) return p->modules[child].name;
    if (with_sites && i < m->n_sites) return p->sites[p->module_sites[m->first_site + i]].name;
    return NULL;
}

/* Help line "did you mean a or b?": the names below `index` that are nearest to `wanted`, at most
 * three of them. */
static void offer_nearest(
    const program *p, int32_t index, bool with_modules, bool with_sites, const char *wanted)
{
    const char *best[3] = {0};
    int count = 0, limit = (int)strlen(wanted) / 3 + 1;
    const char *name;
    for (int32_t i = 0; (name = name_below(p, index, with_modules, with_sites, i)); i++) {
        int distance = text_distance(wanted, name, limit);
        if (distance > limit) continue;
        /* nearer than those before, which are forgotten */
        if (distance < limit) count = 0;
        limit = distance;
        if (count < 3) best[count++] = name;
    }
    const char *above = p->modules[index].path, *dot = *above ? "." : "";
    if (count == 3)
        error_help(
            p->context, "did you mean %s%s%s, %s or %s?", above, dot, best[0], best[1], best[2]);
    else if (count == 2)
        error_help(p->context, "did you mean %s%s%s or %s?", above, dot, best[0], best[1]);
    else if (count == 1) error_help(p->context, "did you mean %s%s%s?", above, dot, best[0]);
}

/* Help line "h has: a, b, c". */
static void list_names(const program *p, int32_t index, bool with_modules, bool with_sites)
{
    text names = {0};
    const char *name;
    int32_t i = 0;
    for (; (name = name_below(p, index, with_modules, with_sites, i)); i++)
        if (i < 2 * MOST_OFFERED) text_add(p->context, &names, "%s%s", i ? ", " : "", name);
    if (i > 2 * MOST_OFFERED)
        text_add(p->context, &names, ", and %d more", (int)(i - 2 * MOST_OFFERED));
    if (names.length) error_help(p->context, "%s has: %s", path_or_model(p, index), names.bytes);
    text_free(p->context, &names);
}

static bool is_integer(const char *word)
{
    word += *word == '-';
    if (!*word) return false;
    for (; *word; word++)
        if (*word < '0' || *word > '9') return false;
    return true;
}

/* "h" has the modules 0 to 11, or it is no list. */
static inset_status no_such_number(const program *p, int32_t parent, const char *wanted)
{
    const module *m = &p->modules[parent];
    if (is_list(p, parent))
        return error_set(p->context, INSET_UNKNOWN_SITE,
            "%s[%s] does not exist: %s has %d modules, 0 to %d", m->path, wanted, m->path,
            (int)m->n_children, (int)m->n_children - 1);
    inset_status status = error_set(p->context, INSET_UNKNOWN_SITE,
        "%s is not a list of modules: there is no [%s] of it", path_or_model(p, parent), wanted);
    if (m->n_children) list_names(p, parent, true, false);
    return status;
}

/* A copy of what the user wrote, cut where no name is that long. */
static const char *word_of(const char *wanted, size_t length, char word[LONGEST_NAME])
{
    snprintf(word, LONGEST_NAME, "%.*s", (int)(length < LONGEST_NAME ? length : LONGEST_NAME - 1),
        wanted);
    return word;
}

inset_status program_unknown_module(
    const program *p, int32_t parent, const char *wanted, size_t length)
{
    char buffer[LONGEST_NAME];
    const char *word = word_of(wanted, length, buffer);
    if (is_integer(word)) return no_such_number(p, parent, word);
    const char *above = p->modules[parent].path;
    inset_status status = error_set(
        p->context, INSET_UNKNOWN_SITE, "%s%s%s does not exist", above, *above ? "." : "", word);
    if (is_list(p, parent)) {
        error_help(p->context, "%s is a list of %d modules: write %s[0] to %s[%d]", above,
            (int)p->modules[parent].n_children, above, above,
            (int)p->modules[parent].n_children - 1);
        return status;
    }
    offer_nearest(p, parent, true, true, word);
    list_names(p, parent, true, true);
    return status;
}

inset_status program_unknown_site(
    const program *p, int32_t in_module, const char *wanted, size_t length)
{
    char buffer[LONGEST_NAME];
    const char *word = word_of(wanted, length, buffer);
    const module *m = &p->modules[in_module];
    bool usual = strcmp(word, "input") == 0 || strcmp(word, "inputs") == 0
                 || strcmp(word, "output") == 0;
    if (m->n_sites || !usual) return program_unknown_module(p, in_module, wanted, length);
    const char *path = path_or_model(p, in_module);
    inset_status status = m->enter < 0 ? error_set(p->context, INSET_UNKNOWN_SITE,
                              "%s has no .%s: it is %s and is never called itself", path, word,
                              is_list(p, in_module) ? "a list of modules" : "a group of modules")
                                       : error_set(p->context, INSET_UNKNOWN_SITE,
                                           "%s has no .%s: it returns no tensor", path, word);
    if (is_list(p, in_module))
        error_help(p->context, "ask for one of them: %s[0].%s to %s[%d].%s", path, word, path,
            (int)m->n_children - 1, word);
    else if (m->n_children) list_names(p, in_module, true, false);
    return status;
}

/* ---- paths -------------------------------------------------------------- */

/* One part of a path: a name, or a number in brackets. */
typedef struct part {
    const char *name;
    size_t length;
    bool bracket;
    int64_t number;
} part;

/* Reads the part at *at and moves *at behind it and behind the dot that follows. False when there
 * is none or it is malformed. */
static bool next_part(const char **at, const char *end, part *out)
{
    const char *c = *at;
    *out = (part){.name = c};
    if (c < end && *c == '[') {
        out->bracket = true;
        out->name = ++c;
        bool negative = c < end && *c == '-';
        c += negative;
        const char *digits = c;
        for (; c < end && *c >= '0' && *c <= '9' && c - digits < 10; c++)
            out->number = out->number * 10 + (*c - '0');
        out->length = (size_t)(c - out->name);
        if (c == digits || c == end || *c != ']') return false;
        if (negative) out->number = -out->number;
        c++;
    } else {
        while (c < end && *c != '.' && *c != '[') c++;
        out->length = (size_t)(c - out->name);
        if (!out->length) return false;
    }
    if (c < end && *c == '.') {
        if (++c == end) return false;
    } else if (c < end && *c != '[') {
        return false;
    }
    *at = c;
    return true;
}

static inset_status malformed(const program *p, const char *text, size_t length)
{
    char word[LONGEST_NAME];
    return error_set(p->context, INSET_UNKNOWN_SITE,
        "\"%s\" is no path: write it like transformer.h[5].output", word_of(text, length, word));
}

static int32_t child_of_part(const program *p, int32_t parent, const part *wanted)
{
    return wanted->bracket ? program_child_at(p, parent, wanted->number)
                           : program_child(p, parent, wanted->name, wanted->length);
}

/* Follows a path; with `site` the last part is a site of what the others lead to. */
static inset_status follow(
    const program *p, const char *text, size_t length, int32_t *found, int32_t *site)
{
    const char *at = text, *end = text + length;
    int32_t here = 0;
    while (at < end) {
        part next;
        if (!next_part(&at, end, &next)) return malformed(p, text, length);
        bool last = at == end;
        if (last && site && !next.bracket
            && (*site = program_site(p, here, next.name, next.length)) >= 0)
            return INSET_OK;
        int32_t child = child_of_part(p, here, &next);
        if (child < 0)
            return last && site ? program_unknown_site(p, here, next.name, next.length)
                                : program_unknown_module(p, here, next.name, next.length);
        here = child;
    }
    if (site || !length) {
        if (!length) return malformed(p, text, length);
        inset_status status = error_set(
            p->context, INSET_UNKNOWN_SITE, "%s is a module, not a site", p->modules[here].path);
        if (p->modules[here].n_sites) list_names(p, here, false, true);
        return status;
    }
    *found = here;
    return INSET_OK;
}

inset_status program_find_module(const program *p, const char *text, size_t length, int32_t *found)
{
    return follow(p, text, length, found, NULL);
}

inset_status program_find_site(const program *p, const char *text, size_t length, int32_t *site)
{
    int32_t found = -1;
    return follow(p, text, length, &found, site);
}

void program_site_name(const program *p, int32_t site, char *out, size_t size)
{
    const char *path = p->modules[p->sites[site].module].path;
    snprintf(out, size, "%s%s%s", path, *path ? "." : "", p->sites[site].name);
}
