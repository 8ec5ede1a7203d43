/* write.c: scores of edges as safetensors, and from there: edges.METRIC.mean [source,
 * destination], with the pairs' own as edges.METRIC where they were kept, .clean and .corrupt
 * [pair], and what the rows and columns are in the metadata. */
#include <stdio.h>
#include <string.h>

#include "edges/edges.h"
#include "file/file.h"

enum { TENSORS_A_METRIC = 4, MOST_ENTRIES = 16 };

/* ["input", "a0.h0"]; NULL: memory is out. Names are plain and short (edge_node). */
static const char *names_text(arena *a, const char **names, int64_t n)
{
    char *all = arena_new(a, (size_t)n * (sizeof((edge_node *)0)->name + 4) + 3), *at = all;
    if (!all) return NULL;
    *at++ = '[';
    for (int64_t i = 0; i < n; i++) at += sprintf(at, "%s\"%s\"", i ? ", " : "", names[i]);
    *at = ']';
    return all;
}

static file_tensor tensor(inset_context *c, arena *a, const char *metric, const char *end,
    const float *data, int n_dimensions, const int64_t *shape)
{
    file_tensor t = {.type = INSET_F32, .n_dimensions = n_dimensions, .data = data};
    text name = {0};
    int64_t n = 1;
    text_add(c, &name, "edges.%s%s", metric, end);
    if (name.bytes) t.name = arena_text(a, name.bytes, strlen(name.bytes));
    text_free(c, &name);
    for (int i = 0; i < n_dimensions; i++) n *= t.shape[i] = shape[i];
    t.bytes = (size_t)n * sizeof *data;
    return t;
}

inset_status edges_write(edges *e, const char *path, const char *command)
{
    sweep *s = e->s;
    inset_context *c = s->context;
    arena a;
    const float *means = edges_means(e);
    const bool by_position = e->n_positions > 1;
    int64_t shape[4] = {s->pairs, e->n_positions, e->n_writers, e->n_readers};
    const int64_t all = shape[1] * shape[2] * shape[3];
    const int axes = by_position ? 3 : 2;
    if (!by_position) shape[1] = shape[2], shape[2] = shape[3];
    size_t n = 0, k = 0;
    arena_start(&a, c);
    file_tensor *tensors = arena_new(&a, s->n_metrics * TENSORS_A_METRIC * sizeof *tensors);
    const char **entries = arena_new(&a, (2 * MOST_ENTRIES + 1) * sizeof *entries);
    bool fine = tensors && entries;
    for (size_t m = 0; m < s->n_metrics && fine; m++) {
        const char *name = s->metrics[m].name;
        tensors[n++] = tensor(c, &a, name, ".mean", means + (int64_t)m * all, axes, shape + 1);
        if (e->per_pair)
            tensors[n++] = tensor(
                c, &a, name, "", e->per_pair + (int64_t)m * s->pairs * all, axes + 1, shape);
        tensors[n++] = tensor(
            c, &a, name, ".clean", s->clean_values + (int64_t)m * s->pairs, 1, shape);
        tensors[n++] = tensor(
            c, &a, name, ".corrupt", s->corrupt_values + (int64_t)m * s->pairs, 1, shape);
    }
    const char *const pairs[][2] = {{"inset", INSET_VERSION}, {"model", s->model_type},
        {"dtype", type_name(s->type)},
        {"edges.axes", by_position ? "[\"position\", \"source\", \"destination\"]"
                                   : "[\"source\", \"destination\"]"},
        {"edges.sources", fine ? names_text(&a, e->writer_names, e->n_writers) : NULL},
        {"edges.destinations", fine ? names_text(&a, e->reader_names, e->n_readers) : NULL},
        {"command", command      ? command
                    : s->command ? s->command
                                 : ""},
        {"model_version", s->version ? s->version : ""}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs && fine; i++) {
        fine = pairs[i][1] != NULL;
        if (!fine || !*pairs[i][1]) continue;
        entries[k++] = pairs[i][0];
        entries[k++] = pairs[i][1];
    }
    for (size_t i = 0; i < n && fine; i++) fine = tensors[i].name != NULL;
    inset_status status = fine ? safetensors_write(c, path, tensors, n, entries) : INSET_NO_MEMORY;
    arena_free(&a);
    if (!status) edges_state_remove(e);
    return status;
}

/* ---- and back ----------------------------------------------------------- */

/* The mean scores of the first metric, or of the only one in the file. */
static const file_tensor *scores_in(const edges *e, const safetensors *file)
{
    const file_tensor *only = NULL;
    char name[512];
    snprintf(name, sizeof name, "edges.%s.mean", e->s->metrics[0].name);
    const file_tensor *found = safetensors_find(file, name);
    for (size_t i = 0; i < safetensors_count(file) && !found; i++) {
        const file_tensor *t = safetensors_at(file, i);
        const size_t n = strlen(t->name);
        if (strncmp(t->name, "edges.", 6) || n < 11 || strcmp(t->name + n - 5, ".mean")) continue;
        if (only) return NULL;
        only = t;
    }
    return found ? found : only;
}

/* Where each of the names in a JSON list stands among ours: out [n]. */
static inset_status match_names(const edges *e, const safetensors *file, const char *path,
    const char *key, const char **ours, int64_t n, int64_t *out)
{
    inset_context *c = e->s->context;
    const char *text = safetensors_metadata(file, key), *name;
    json_document *list = NULL;
    if (!text)
        return error_set(c, INSET_FILE_ERROR,
            "%s: its metadata has no %s: is it what attribute --edges wrote?", path, key);
    inset_status status = json_parse(c, key, text, strlen(text), &list);
    const json_node *root = status ? NULL : json_root(list);
    if (!status && (!json_is_array(root) || (int64_t)json_length(root) != n))
        status = error_set(c, INSET_VALUE_ERROR,
            "%s: its %s are %lld names, those of this model %lld", path, key,
            (long long)(json_is_array(root) ? json_length(root) : 0), (long long)n);
    for (int64_t i = 0; i < n && !status; i++) {
        out[i] = -1;
        const bool is_text = json_as_string(json_item(root, (size_t)i), &name);
        for (int64_t k = 0; k < n && is_text && out[i] < 0; k++) {
            const int64_t at = (i + k) % n; /* mostly the same order */
            if (!strcmp(ours[at], name)) out[i] = at;
        }
        if (out[i] < 0)
            status = error_set(c, INSET_VALUE_ERROR, "%s: %s: '%.64s' is nothing of this model's",
                path, key, is_text ? name : "?");
    }
    json_close(list);
    return status;
}

static inset_status read_scores(edges *e, const safetensors *file, const char *path, float *out)
{
    inset_context *c = e->s->context;
    const file_tensor *t = scores_in(e, file);
    int64_t *rows = memory_new(c, (size_t)(e->n_writers + e->n_readers) * sizeof *rows);
    if (!rows) return INSET_NO_MEMORY;
    int64_t *columns = rows + e->n_writers;
    inset_status status = INSET_OK;
    if (!t)
        status = error_set(
            c, INSET_FILE_ERROR, "%s: has no edges.%s.mean", path, e->s->metrics[0].name);
    else if (t->type != INSET_F32 || t->n_dimensions != 2 || t->shape[0] != e->n_writers
             || t->shape[1] != e->n_readers)
        status = error_set(c, INSET_SHAPE_ERROR,
            "%s: scores f32 [%lld, %lld] were expected, sources and destinations of this model",
            path, (long long)e->n_writers, (long long)e->n_readers);
    if (!status)
        status = match_names(e, file, path, "edges.sources", e->writer_names, e->n_writers, rows);
    if (!status)
        status = match_names(
            e, file, path, "edges.destinations", e->reader_names, e->n_readers, columns);
    for (int64_t u = 0; u < e->n_writers && !status; u++)
        for (int64_t v = 0; v < e->n_readers; v++)
            memcpy(&out[rows[u] * e->n_readers + columns[v]],
                (const char *)t->data + (u * e->n_readers + v) * (int64_t)sizeof *out, sizeof *out);
    memory_free(c, rows);
    return status;
}

inset_status edges_read(edges *e, const char *path, float *out)
{
    safetensors *file = NULL;
    inset_status status = safetensors_open(e->s->context, path, &file);
    if (!status) status = read_scores(e, file, path, out);
    safetensors_close(file);
    return status;
}
