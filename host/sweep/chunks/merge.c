/* merge.c: the parts of a sharded sweep as one. Each is a state file, whose description says what
 * the results are called, so that no model, prompts or options are needed:
 *
 *     {"model_type": "gpt2", "dtype": "f32", "version": "..", "estimates": false, "noise": false,
 *      "metrics": ["logit_diff:11,12"], "layers": [0, 1], "positions": [0, 1, 2],
 *      "tokens": [" Mary", ..],
 *      "chunks": [0, 3, 6], first jobs and the end,
 *      "sites": [{"name": "resid_pre", "axes": ["layer", "position"], "counts": [2, 3],
 *                 "members": ["resid_pre"], "points": 6, "by_keys": false, "grouped": false,
 *                 "heads": [], "features": []}]} */
#include <errno.h>
#include <string.h>

#include "file/file.h"
#include "file/json_writer.h"
#include "sweep/chunks/state.h"

static const char *const axes[AXIS_COUNT] = {"site", "layer", "position", "head", "feature"};

/* ---- out ----------------------------------------------------------------- */

static void add_numbers(writer *w, const char *name, const int64_t *numbers, int64_t n)
{
    writer_add(w, ", \"%s\": [", name);
    for (int64_t i = 0; i < n && numbers; i++)
        writer_add(w, "%s%lld", i ? ", " : "", (long long)numbers[i]);
    writer_bytes(w, "]", 1);
}

static void add_texts(writer *w, const char *name, const char *const *texts, int64_t n)
{
    writer_add(w, ", \"%s\": [", name);
    for (int64_t i = 0; i < n && texts; i++) {
        if (i) writer_bytes(w, ", ", 2);
        writer_text(w, texts[i]);
    }
    writer_bytes(w, "]", 1);
}

static void add_text(writer *w, const char *name, const char *value)
{
    if (!value) return;
    writer_add(w, ", \"%s\": ", name);
    writer_text(w, value);
}

static void add_flag(writer *w, const char *name, bool value)
{
    writer_add(w, ", \"%s\": %s", name, value ? "true" : "false");
}

static void add_site(writer *w, const sweep_site *site)
{
    const char *names[AXIS_COUNT];
    int64_t counts[AXIS_COUNT];
    for (int i = 0; i < site->n_axes; i++) {
        names[i] = axes[site->axes[i]];
        counts[i] = site->extents[site->axes[i]];
    }
    writer_add(w, "{\"points\": %lld", (long long)site->n_points);
    add_text(w, "name", site->name);
    add_texts(w, "axes", names, site->n_axes);
    add_numbers(w, "counts", counts, site->n_axes);
    add_texts(w, "members", site->members, site->n_members);
    add_flag(w, "by_keys", site->by_keys);
    add_flag(w, "grouped", site->grouped);
    add_numbers(w, "heads", site->head_labels, site->head_labels ? site->heads : 0);
    add_numbers(w, "features", site->feature_labels, site->features ? site->n_features : 0);
    writer_bytes(w, "}", 1);
}

inset_status sweep_describe(const sweep *s, char **out, size_t *length)
{
    writer w = {.context = s->context};
    writer_add(&w, "{\"inset\": \"%s\"", INSET_VERSION);
    add_text(&w, "model_type", s->model_type);
    add_text(&w, "dtype", type_name(s->type));
    add_text(&w, "version", s->version);
    add_text(&w, "command", s->command);
    add_flag(&w, "estimates", s->method.estimates);
    add_flag(&w, "noise", s->noise);
    writer_add(&w, ", \"metrics\": [");
    for (size_t i = 0; i < s->n_metrics; i++) {
        if (i) writer_bytes(&w, ", ", 2);
        writer_text(&w, s->metrics[i].name);
    }
    writer_bytes(&w, "]", 1);
    add_numbers(&w, "layers", s->layer_labels, s->chosen_layers);
    add_numbers(&w, "positions", s->position_labels, s->n_labels);
    if (s->position_texts) add_texts(&w, "tokens", s->position_texts, s->n_labels);
    add_numbers(&w, "chunks", s->book->firsts, s->book->n + 1);
    writer_add(&w, ", \"sites\": [");
    for (size_t i = 0; i < s->n_sites; i++) {
        if (i) writer_bytes(&w, ", ", 2);
        add_site(&w, &s->sites[i]);
    }
    writer_add(&w, "]}");
    return writer_finish(&w, INSET_OK, out, length);
}

/* ---- and back ------------------------------------------------------------ */

typedef struct merger {
    sweep *s;
    const char *path; /* of the part being read */
    json_document *document;
    bool *seen; /* [shards] */
    int64_t shards;
    bool mixed;     /* parts of several kinds of devices */
    bool no_memory; /* for what the description says */
} merger;

static inset_status wrong(const merger *m, const char *what)
{
    return error_set(m->s->context, INSET_FILE_ERROR, "%s: %s", m->path, what);
}

static inset_status damaged(const merger *m)
{
    return m->no_memory ? INSET_NO_MEMORY : wrong(m, "its description is damaged");
}

static void *room(merger *m, size_t size)
{
    void *made = arena_new(&m->s->memory, size);
    m->no_memory |= !made;
    return made;
}

static const char *copy(merger *m, const char *text)
{
    const char *made = arena_text(&m->s->memory, text, strlen(text));
    m->no_memory |= !made;
    return made;
}

/* A list of integers, in the sweep's memory. */
static const int64_t *numbers_of(merger *m, const json_node *object, const char *name, int64_t *n)
{
    const json_node *list = json_member(object, name);
    int64_t *out = room(m, (json_length(list) + 1) * sizeof *out);
    *n = (int64_t)json_length(list);
    for (size_t i = 0; out && i < json_length(list); i++)
        if (!json_as_integer(json_item(list, i), &out[i])) return NULL;
    return json_is_array(list) ? out : NULL;
}

static const char **texts_of(merger *m, const json_node *object, const char *name, int64_t *n)
{
    const json_node *list = json_member(object, name);
    const char **out = room(m, (json_length(list) + 1) * sizeof *out), *text;
    *n = (int64_t)json_length(list);
    for (size_t i = 0; out && i < json_length(list); i++) {
        if (!json_as_string(json_item(list, i), &text)) return NULL;
        if (!(out[i] = copy(m, text))) return NULL;
    }
    return json_is_array(list) ? out : NULL;
}

static bool read_axes(
    sweep_site *site, const char *const *names, int64_t n, const int64_t *counts, int64_t n_counts)
{
    if (n > 4 || n != n_counts) return false;
    site->n_axes = (int32_t)n;
    for (int k = 0; k < AXIS_COUNT; k++) site->extents[k] = 1;
    for (int64_t i = 0, points = 1; i < n; i++) {
        int k = 0;
        while (k < AXIS_COUNT && strcmp(axes[k], names[i])) k++;
        if (k == AXIS_COUNT || counts[i] < 1 || counts[i] > site->n_points / points) return false;
        site->axes[i] = (sweep_axis)k;
        site->extents[k] = counts[i];
        points *= counts[i];
        if (i == n - 1 && points != site->n_points) return false;
    }
    return n > 0 || site->n_points == 1;
}

static inset_status read_site(merger *m, const json_node *node, sweep_site *site)
{
    sweep *s = m->s;
    int64_t n_names, n_counts, n_members, n_heads, n_features;
    const char *name = "";
    inset_status status = json_need_integer(
        m->document, node, "points", 1, (int64_t)1 << 40, &site->n_points);
    if (!status) status = json_need_string(m->document, node, "name", &name);
    if (status) return status;
    const char **names = texts_of(m, node, "axes", &n_names),
               **members = texts_of(m, node, "members", &n_members);
    const int64_t *counts = numbers_of(m, node, "counts", &n_counts),
                  *heads = numbers_of(m, node, "heads", &n_heads),
                  *features = numbers_of(m, node, "features", &n_features);
    site->name = copy(m, name);
    json_as_bool(json_member(node, "by_keys"), &site->by_keys);
    json_as_bool(json_member(node, "grouped"), &site->grouped);
    if (!site->name || !names || !members || !counts || !heads || !features
        || n_members > MAX_MEMBERS || !read_axes(site, names, n_names, counts, n_counts))
        return damaged(m);
    const int64_t *there[AXIS_COUNT] = {
        &n_members, &s->chosen_layers, &s->n_labels, &n_heads, &n_features};
    for (int i = 0; i < site->n_axes; i++)
        if (site->extents[site->axes[i]] != *there[site->axes[i]]) return damaged(m);
    site->n_members = (int32_t)n_members;
    for (int64_t i = 0; i < n_members; i++) site->members[i] = members[i];
    site->head_labels = (int64_t *)(uintptr_t)heads;
    site->feature_labels = (int64_t *)(uintptr_t)features;
    return INSET_OK;
}

static inset_status read_sites(merger *m, const json_node *list)
{
    sweep *s = m->s;
    s->n_sites = json_length(list);
    s->sites = arena_new(&s->memory, (s->n_sites + 1) * sizeof *s->sites);
    inset_status status = s->sites ? INSET_OK : INSET_NO_MEMORY;
    for (size_t i = 0; i < s->n_sites && !status; i++) {
        status = read_site(m, json_item(list, i), &s->sites[i]);
        s->sites[i].first_point = s->points;
        s->points += s->sites[i].n_points;
    }
    return status;
}

static const char *text_or(merger *m, const char *name, const char *otherwise)
{
    const char *found = otherwise;
    json_as_string(json_member(json_root(m->document), name), &found);
    return found ? copy(m, found) : NULL;
}

static inset_status read_description(merger *m)
{
    sweep *s = m->s;
    const json_node *root = json_root(m->document);
    int64_t n_metrics, n_texts;
    const char **names = texts_of(m, root, "metrics", &n_metrics),
               *dtype = text_or(m, "dtype", "f32");
    s->layer_labels = (int64_t *)(uintptr_t)numbers_of(m, root, "layers", &s->chosen_layers);
    s->position_labels = (int64_t *)(uintptr_t)numbers_of(m, root, "positions", &s->n_labels);
    if (json_member(root, "tokens")) {
        s->position_texts = texts_of(m, root, "tokens", &n_texts);
        if (!s->position_texts || n_texts != s->n_labels) return damaged(m);
    }
    s->model_type = text_or(m, "model_type", "?");
    s->version = text_or(m, "version", NULL);
    s->command = text_or(m, "command", NULL);
    json_as_bool(json_member(root, "estimates"), &s->method.estimates);
    json_as_bool(json_member(root, "noise"), &s->noise);
    while (dtype && s->type < INSET_TYPE_COUNT && strcmp(type_name(s->type), dtype)) s->type++;
    s->n_metrics = (size_t)n_metrics;
    s->metrics = room(m, ((size_t)n_metrics + 1) * sizeof *s->metrics);
    if (!names || !s->metrics || !s->layer_labels || !s->position_labels || !dtype || !s->model_type
        || !n_metrics)
        return damaged(m);
    for (int64_t i = 0; i < n_metrics; i++) s->metrics[i].name = names[i];
    return read_sites(m, json_member(root, "sites"));
}

static inset_status make_arrays(merger *m, const state_header *h)
{
    sweep *s = m->s;
    s->pairs = h->pairs;
    if (h->points != s->points || h->pairs < 1 || h->pairs > ((int64_t)1 << 40) / s->points
        || h->cut.metrics != (int64_t)s->n_metrics || h->cut.jobs != h->pairs * s->points)
        return damaged(m);
    s->jobs = s->pairs * s->points;
    const size_t values = s->n_metrics * (size_t)s->jobs, pairs = s->n_metrics * (size_t)s->pairs;
    s->values = arena_new(&s->memory, values * sizeof *s->values);
    s->clean_values = arena_new(&s->memory, pairs * sizeof *s->clean_values);
    s->corrupt_values = arena_new(&s->memory, pairs * sizeof *s->corrupt_values);
    if (!s->values || !s->clean_values || !s->corrupt_values) return INSET_NO_MEMORY;
    for (size_t i = 0; i < values; i++) s->values[i] = __builtin_nanf("");
    for (size_t i = 0; i < pairs; i++)
        s->clean_values[i] = s->corrupt_values[i] = __builtin_nanf("");
    return INSET_OK;
}

static inset_status read_chunks(merger *m)
{
    int64_t n;
    const int64_t *firsts = numbers_of(m, json_root(m->document), "chunks", &n);
    if (!firsts || n < 2 || firsts[0] || firsts[n - 1] != m->s->jobs) return damaged(m);
    for (int64_t i = 1; i < n; i++)
        if (firsts[i] <= firsts[i - 1]) return damaged(m);
    return book_open_at(m->s, firsts, n - 1);
}

/* The first part says what the sweep is. */
static inset_status begin(merger *m, FILE *file, const state_header *h)
{
    sweep *s = m->s;
    char *bytes = memory_new(s->context, (size_t)h->description + 1);
    if (!bytes) return INSET_NO_MEMORY;
    inset_status status = fread(bytes, 1, (size_t)h->description, file) == h->description
                              ? json_parse(
                                  s->context, m->path, bytes, (size_t)h->description, &m->document)
                              : damaged(m);
    if (!status) status = read_description(m);
    if (!status) status = make_arrays(m, h);
    if (!status) status = read_chunks(m);
    memory_free(s->context, bytes);
    json_close(m->document);
    if (status) return status;
    s->identity = h->cut.identity;
    s->device = arena_text(&s->memory, h->device, strlen(h->device));
    m->shards = h->cut.shards;
    if (h->cut.shards < 1 || h->cut.shards > (int64_t)1 << 24)
        return wrong(m, "this is what an unfinished sweep left, and no shard's part: --resume");
    m->seen = arena_new(&s->memory, (size_t)m->shards);
    if (!s->device || !m->seen) return INSET_NO_MEMORY;
    cut_apply(s, &h->cut);
    return INSET_OK;
}

static bool belongs(const merger *m, const state_header *h)
{
    const sweep_cut cut = cut_of(m->s);
    return h->cut.identity == cut.identity && h->cut.jobs == cut.jobs
           && h->cut.metrics == cut.metrics && h->cut.shards == m->shards
           && h->pairs == m->s->pairs;
}

static inset_status read_part(merger *m, FILE *file)
{
    state_header h;
    sweep *s = m->s;
    char *bytes = NULL;
    size_t capacity = 0, size;
    h.device[0] = 0;
    if (!state_read_header(file, &h) || memchr(h.device, 0, sizeof h.device) == NULL)
        return wrong(m, "it is no part of a sweep: a file that inset sweep --shard wrote was "
                        "expected");
    inset_status status = s->book ? INSET_OK : begin(m, file, &h);
    if (status) return status;
    if (!belongs(m, &h))
        return wrong(m, "it is a part of another sweep: options, prompts, model, version of inset "
                        "or number of shards differ");
    const sweep_cut cut = cut_of(s);
    if (h.cut.chunk != cut.chunk || h.cut.again != cut.again)
        return wrong(m, "it was cut otherwise, since less memory was there: give all shards one "
                        "--memory");
    if (h.cut.shard < 1 || h.cut.shard > m->shards) return damaged(m);
    if (m->seen[h.cut.shard - 1]) return wrong(m, "this shard is there twice");
    m->seen[h.cut.shard - 1] = true;
    m->mixed |= strcmp(h.device, s->device) != 0;
    if (fseeko(file, (off_t)(sizeof h + h.description), SEEK_SET)) return damaged(m);
    int64_t chunk;
    while ((chunk = state_read_record(s, file, &bytes, &capacity, &size)) >= 0)
        record_take(s, bytes);
    memory_free(s->context, bytes);
    return chunk == -2 ? INSET_NO_MEMORY : INSET_OK;
}

inset_status shards_are_there(inset_context *context, const bool *seen, int64_t shards)
{
    text missing = {0};
    for (int64_t i = 0, n = 0; i < shards; i++) {
        if (seen[i]) continue;
        if (++n <= 8) text_add(context, &missing, "%s%lld", n > 1 ? ", " : "", (long long)i + 1);
        else if (n == 9) text_add(context, &missing, ", ...");
    }
    inset_status status = INSET_OK;
    if (missing.length)
        status = error_set(context, INSET_VALUE_ERROR, "of %lld shards are missing: %s",
            (long long)shards, missing.bytes ? missing.bytes : "");
    text_free(context, &missing);
    return status;
}

/* All shards must be there, and whole. */
static inset_status check_complete(merger *m)
{
    sweep *s = m->s;
    inset_status status = shards_are_there(s->context, m->seen, m->shards);
    if (!status && !book_done(s))
        status = error_set(s->context, INSET_VALUE_ERROR,
            "%lld of %lld chunks are missing: a shard is not done; run it again with --resume",
            (long long)s->book->left, (long long)s->book->n);
    s->progress.patches = s->progress.done;
    s->progress.mixed_devices = m->mixed;
    return status;
}

inset_status sweep_merge(inset_context *context, size_t n, const char *const *parts, sweep **out)
{
    merger m = {.s = memory_new(context, sizeof *m.s)};
    *out = NULL;
    if (!m.s) return INSET_NO_MEMORY;
    m.s->context = context;
    m.s->ahead = -1;
    arena_start(&m.s->memory, context);
    inset_status status = n ? INSET_OK
                            : error_set(context, INSET_USAGE_ERROR, "which parts? There are none");
    for (size_t i = 0; i < n && !status; i++) {
        FILE *file = fopen(m.path = parts[i], "rb");
        status = file ? read_part(&m, file)
                      : error_set(context, INSET_FILE_ERROR, "%s: %s", parts[i], strerror(errno));
        if (file) fclose(file);
    }
    if (!status) status = check_complete(&m);
    if (status) sweep_free(m.s);
    else *out = m.s;
    return status;
}
