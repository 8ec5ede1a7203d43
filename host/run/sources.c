/* sources.c: names, shapes and types of a checkpoint's tensors beside those of a program's weights
 * (sources.h). Nothing here reads a number. */
#include "run/sources.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "run/model.h"

/* The type a config names, under its new or its old key; INSET_TYPE_COUNT when it names none that
 * models run in. */
static inset_type config_type(const json_document *config)
{
    static const char *const keys[] = {"dtype", "torch_dtype"};
    static const struct {
        const char *name;
        inset_type type;
    } known[] = {{"float32", INSET_F32}, {"bfloat16", INSET_BF16}, {"float16", INSET_F16}};
    for (size_t k = 0; k < 2; k++) {
        const char *name = "";
        if (!json_as_string(json_member(json_root(config), keys[k]), &name)) continue;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            if (strcmp(name, known[i].name) == 0) return known[i].type;
    }
    return INSET_TYPE_COUNT;
}

/* What may stand before a weight's name, and then the program's optional prefix or nothing. The
 * text part of a composite has a name there, at the front before transformers 4.52. */
static const char *const part_prefixes[] = {
    "", "language_model.", "model.language_model.", "model.text_model."};

static size_t count_prefixes(const program *p)
{
    return p->part_of ? sizeof part_prefixes / sizeof *part_prefixes : 1;
}

/* The tensor called `part` `prefix` `name` in the files; NULL when there is none. */
static inset_status find_named(const opening *o, const char *part, const char *prefix,
    const char *name, const file_tensor **out)
{
    size_t size = strlen(part) + strlen(prefix) + strlen(name) + 1;
    char *full = memory_new(o->context, size);
    *out = NULL;
    if (!full) return INSET_NO_MEMORY;
    snprintf(full, size, "%s%s%s", part, prefix, name);
    *out = weight_files_find(o->files, full);
    memory_free(o->context, full);
    return INSET_OK;
}

/* The names that a weight's tensor may have; some are NULL. */
enum { WEIGHT_NAMES = 3 };
static const char *name_of(const weight *w, size_t i)
{
    const char *const names[WEIGHT_NAMES] = {w->name, w->also, w->stacked};
    return names[i];
}

static bool matches(const char *const *patterns, const char *name)
{
    for (; patterns && *patterns; patterns++)
        if (fnmatch(*patterns, name, 0) == 0) return true;
    return false;
}

/* A weight's tensor in the files, under one of its names, with or without the prefixes; NULL
 * when there is none. *stacked: it is one of several in it. */
static inset_status find_tensor(
    const opening *o, const weight *w, const file_tensor **out, bool *stacked)
{
    const program *p = o->model->program;
    const size_t n = 2 * WEIGHT_NAMES, parts = count_prefixes(p);
    *out = NULL;
    *stacked = false;
    for (size_t i = 0; i < n * parts; i++) {
        const file_tensor *found;
        const size_t which = i / 2 % WEIGHT_NAMES;
        const char *name = name_of(w, which), *prefix = i % 2 ? p->optional_prefix : "";
        if (!name || !prefix) continue;
        if (*out && which == 1 && matches(p->ignored, name)) continue; /* a spare copy (BERT) */
        inset_status status = find_named(o, part_prefixes[i / n], prefix, name, &found);
        if (status) return status;
        if (*out && found)
            return error_set(o->context, INSET_FILE_ERROR,
                "%s: has both %s and %s, and they would be the same weight", o->directory,
                (*out)->name, found->name);
        if (found) *out = found, *stacked = name == w->stacked;
    }
    return INSET_OK;
}

static void add_shape(inset_context *context, text *out, const int64_t *shape, int32_t n)
{
    text_add(context, out, "[");
    for (int32_t i = 0; i < n; i++)
        text_add(context, out, "%s%lld", i ? ", " : "", (long long)shape[i]);
    text_add(context, out, "]");
}

static inset_status check_tensor(
    const opening *o, const weight *w, const file_tensor *t, bool stacked)
{
    if (t->type != INSET_F32 && t->type != INSET_BF16 && t->type != INSET_F16
        && t->type != INSET_F64)
        return error_set(o->context, INSET_FILE_ERROR,
            "%s: weight %s must be F32, BF16, F16 or F64, found %s", o->directory, t->name,
            t->stored_type                       ? t->stored_type
            : (size_t)t->type < INSET_TYPE_COUNT ? type_torch_name(t->type)
                                                 : "another type");
    bool vector = w->role == WEIGHT_VECTOR;
    const int64_t alone[3] = {vector ? w->columns : w->rows, w->columns},
                  all[3] = {w->stack[0], w->stack[1], w->stack[2]},
                  *expected = stacked ? all : alone;
    const int32_t n = !stacked ? 2 - vector : w->stack[2] ? 3 : 2;
    if (t->n_dimensions == n && memcmp(t->shape, expected, (size_t)n * sizeof *expected) == 0)
        return INSET_OK;
    text shapes = {0};
    add_shape(o->context, &shapes, expected, n);
    text_add(o->context, &shapes, ", found ");
    add_shape(o->context, &shapes, t->shape, t->n_dimensions);
    inset_status status = error_set(o->context, INSET_FILE_ERROR,
        "%s: weight %s must have the shape %s", o->directory, t->name,
        shapes.bytes ? shapes.bytes : "of the config");
    text_free(o->context, &shapes);
    return status;
}

enum { MOST_LISTED = 5 };

static void list_name(inset_context *context, text *list, size_t count, const char *name)
{
    if (count < MOST_LISTED) text_add(context, list, "%s%.120s", count ? ", " : "", name);
    else if (count == MOST_LISTED) text_add(context, list, ", ...");
}

/* The whole of a tensor, or the weight's part of one. */
static source source_in(const weight *w, const file_tensor *t, bool stacked)
{
    const size_t size = type_size(t->type);
    if (!stacked) return (source){t->data, t->type, t, t->bytes};
    return (source){(const char *)t->data + (size_t)w->stack_first * size, t->type, t,
        (size_t)w->rows * (size_t)w->columns * size};
}

inset_status sources_find(opening *o)
{
    program *p = o->model->program;
    text missing = {0};
    size_t n_missing = 0;
    inset_status status = INSET_OK;
    for (size_t i = 0; i < p->n_weights && !status; i++) {
        const weight *w = &p->weights[i];
        const file_tensor *t = NULL;
        bool stacked;
        status = find_tensor(o, w, &t, &stacked);
        if (!status && t) status = check_tensor(o, w, t, stacked);
        if (status) break;
        if (t && p->part_of) p->weights[i].same_as = -1; /* config_tied */
        if (w->same_as >= 0) o->sources[i] = o->sources[w->same_as];
        else if (t) o->sources[i] = source_in(w, t, stacked);
        else list_name(o->context, &missing, n_missing++, w->name);
    }
    if (!status && n_missing)
        status = error_set(o->context, INSET_FILE_ERROR, "%s: %zu weight%s missing: %s",
            o->directory, n_missing, n_missing == 1 ? " is" : "s are",
            missing.bytes ? missing.bytes : "");
    text_free(o->context, &missing);
    return status;
}

/* Whether the program has a weight of this name; `names` holds all its names. */
static bool is_weight(const program *p, const table *names, const char *name)
{
    size_t cursor = 0;
    uint64_t hash = hash_bytes(0, name, strlen(name));
    for (int32_t i; (i = table_next(names, hash, &cursor)) >= 0;)
        for (size_t k = 0; k < WEIGHT_NAMES; k++) {
            const char *known = name_of(&p->weights[i], k);
            if (known && strcmp(known, name) == 0) return true;
        }
    return false;
}

static bool is_known_as(const program *p, const table *names, const char *name)
{
    size_t prefix = p->optional_prefix ? strlen(p->optional_prefix) : 0;
    if (is_weight(p, names, name) || matches(p->ignored, name)) return true;
    if (!prefix || strncmp(name, p->optional_prefix, prefix)) return false;
    return is_weight(p, names, name + prefix) || matches(p->ignored, name + prefix);
}

/* Of a composite, all that is not of its text part is another part's. */
static bool is_known(const program *p, const table *names, const char *name)
{
    bool of_text = !p->part_of;
    for (size_t i = 0; i < count_prefixes(p); i++) {
        const size_t n = strlen(part_prefixes[i]);
        if (strncmp(name, part_prefixes[i], n)) continue;
        if (is_known_as(p, names, name + n)) return true;
        of_text |= n > 0;
    }
    return !of_text;
}

inset_status sources_refuse_extra(opening *o)
{
    const program *p = o->model->program;
    table names = {0};
    for (size_t i = 0; i < WEIGHT_NAMES * p->n_weights; i++) {
        const weight *w = &p->weights[i / WEIGHT_NAMES];
        const char *name = name_of(w, i % WEIGHT_NAMES);
        const bool again = name == w->stacked && w->stack_first > 0; /* the first one says it */
        if (!name || again
            || table_add(
                o->context, &names, hash_bytes(0, name, strlen(name)), (int32_t)(i / WEIGHT_NAMES)))
            continue;
        table_free(o->context, &names);
        return INSET_NO_MEMORY;
    }
    text extra = {0};
    size_t n_extra = 0;
    for (size_t i = 0; i < weight_files_count(o->files); i++) {
        const char *name = weight_files_at(o->files, i)->name;
        if (!is_known(p, &names, name)) list_name(o->context, &extra, n_extra++, name);
    }
    inset_status status = INSET_OK;
    if (n_extra)
        status = error_set(o->context, INSET_FILE_ERROR,
            "%s: %zu tensor%s no weight of this %s model: %s", o->directory, n_extra,
            n_extra == 1 ? " is" : "s are", p->model_type, extra.bytes ? extra.bytes : "");
    text_free(o->context, &extra);
    table_free(o->context, &names);
    return status;
}

inset_status sources_in_memory(opening *o)
{
    const program *p = o->model->program;
    for (size_t i = 0; i < p->n_weights; i++) {
        const weight *w = &p->weights[i];
        if (w->same_as >= 0) o->sources[i] = o->sources[w->same_as];
        else if (w->data && type_is_float(w->data_type))
            o->sources[i] = (source){w->data, w->data_type, NULL,
                (size_t)w->rows * (size_t)w->columns * type_size(w->data_type)};
        else
            return error_set(o->context, INSET_USAGE_ERROR,
                w->data ? "weight %s must be of a float type" : "weight %s has no numbers",
                w->name);
    }
    return INSET_OK;
}

inset_type sources_type(const opening *o, inset_type asked)
{
    const program *p = o->model->program;
    if (asked != INSET_TYPE_COUNT) return asked;
    inset_type all = INSET_TYPE_COUNT, first_matrix = INSET_TYPE_COUNT;
    bool mixed = false;
    for (size_t i = 0; i < p->n_weights; i++) {
        inset_type type = o->sources[i].type == INSET_F64 ? INSET_F32 : o->sources[i].type;
        mixed = mixed || (all != INSET_TYPE_COUNT && type != all);
        all = type;
        if (first_matrix == INSET_TYPE_COUNT && p->weights[i].role == WEIGHT_MATRIX)
            first_matrix = type;
    }
    inset_type said = mixed && o->config ? config_type(o->config) : INSET_TYPE_COUNT;
    if (said != INSET_TYPE_COUNT) return said;
    if (mixed && first_matrix != INSET_TYPE_COUNT) return first_matrix;
    return all == INSET_TYPE_COUNT ? INSET_F32 : all;
}
