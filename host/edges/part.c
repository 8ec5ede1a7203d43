/* part.c: what a shard of an attribution of edges leaves, and such parts put together. No model,
 * prompts or options are needed for that:
 *
 *     header        magic; how pairs are cut; the graph's numbers, from which its nodes follow
 *     description   JSON: {"model_type": "gpt2", "dtype": "f32", "version": "..", "command": "..",
 *                   "metrics": ["logit_diff:11,12"]}
 *     records       of this shard's chunks (share.c), in the order in which they were done
 *
 * A record that is cut off, or whose hash is wrong, was being written when the process ended; a
 * resumed shard cuts it away together with what follows. Sums are made when all parts are there, in
 * the order of the chunks. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "edges/edges.h"
#include "file/file.h"
#include "file/json_writer.h"
#include "sweep/chunks/state.h"

static const char magic[8] = "edgepar", sweeps_magic[6] = "inset\n";
enum { MOST_NODES = 1 << 24, MOST_TEXT = 1 << 24 };

typedef struct part_header {
    char magic[8];
    edge_cut cut;
    uint64_t given_limit;
    int64_t layers, heads, key_value_heads, width, positions;
    int64_t parallel, per_pair;
    uint64_t description; /* bytes of JSON behind the header */
    char device[128];
} part_header;

static part_header make_header(const edges *e, size_t description)
{
    const sweep *s = e->s;
    part_header h = {.cut = edges_cut(e),
        .given_limit = s->given_limit,
        .layers = s->n_layers,
        .heads = e->n_heads,
        .key_value_heads = e->n_kv_heads,
        .width = e->width,
        .positions = e->n_positions,
        .parallel = e->layers[0].parallel,
        .per_pair = e->per_pair != NULL,
        .description = description};
    memcpy(h.magic, magic, sizeof magic);
    snprintf(h.device, sizeof h.device, "%s", s->device);
    return h;
}

static bool read_header(FILE *file, part_header *out)
{
    const part_header *h = out;
    return fread(out, sizeof *out, 1, file) == 1 && !memcmp(h->magic, magic, sizeof magic)
           && h->cut.chunk > 0 && h->cut.pairs > 0 && h->cut.metrics > 0 && h->layers > 0
           && h->heads > 0 && h->key_value_heads > 0 && h->key_value_heads <= h->heads
           && h->heads < MOST_NODES / (4 * h->layers) && h->positions > 0
           && h->description < MOST_TEXT && memchr(h->device, 0, sizeof h->device);
}

/* The next record, checked, in *bytes, which grows; -1 at the end of what is whole, -2 when memory
 * is out. */
static int64_t read_record(const edges *e, FILE *file, char **bytes, size_t *capacity, size_t *size)
{
    int64_t first;
    if (fread(&first, sizeof first, 1, file) != 1) return -1;
    const int64_t chunk = chunk_at(e->s, first);
    if (chunk < 0) return -1;
    *size = edges_record_size(e, chunk);
    if (!array_extend(e->s->context, bytes, capacity, *size, 1)) return -2;
    memcpy(*bytes, &first, sizeof first);
    if (fread(*bytes + sizeof first, *size - sizeof first, 1, file) != 1) return -1;
    return edges_record_chunk(e, *bytes, *size);
}

/* ---- the shard's side ---------------------------------------------------- */

static inset_status refuse(const edges *e, const char *what)
{
    return error_set(e->s->context, INSET_FILE_ERROR, "%s: %s", e->s->state_path, what);
}

inset_status edges_part_open(edges *e, bool resume, bool *found)
{
    sweep *s = e->s;
    FILE *file = fopen(s->state_path, "rb");
    if (!file) return errno == ENOENT ? INSET_OK : refuse(e, strerror(errno));
    part_header h;
    const bool whole = read_header(file, &h);
    fclose(file);
    if (!resume)
        return refuse(
            e, "an unfinished attribution was left here: it can be resumed, or the file removed");
    const part_header own = make_header(e, 0);
    if (!whole || h.cut.identity != own.cut.identity || h.cut.shard != own.cut.shard
        || h.cut.shards != own.cut.shards || h.given_limit != own.given_limit
        || strcmp(h.device, own.device))
        return refuse(e, "this is the state of another attribution: its options, prompts, model, "
                         "device or version of inset differ");
    s->memory_limit = h.cut.memory_limit;
    s->chunk_pairs = h.cut.chunk;
    *found = true;
    return INSET_OK;
}

/* Marks what the file has as done: its numbers stay where they are. */
inset_status edges_part_restore(edges *e)
{
    sweep *s = e->s;
    part_header h;
    char *bytes = NULL;
    size_t capacity = 0, size;
    int64_t chunk;
    FILE *file = fopen(s->state_path, "rb");
    if (!file || !read_header(file, &h) || fseeko(file, (off_t)h.description, SEEK_CUR)) {
        if (file) fclose(file);
        return refuse(e, "it cannot be read");
    }
    off_t end = (off_t)(sizeof h + h.description);
    while ((chunk = read_record(e, file, &bytes, &capacity, &size)) >= 0) {
        const chunk_counts counts = {.done = chunk_jobs(s, chunk)};
        end += (off_t)size;
        if (s->book->states[chunk] == CHUNK_DONE) continue;
        book_mark_done(s->book, chunk, &s->progress, &counts);
        e->next += counts.done;
    }
    fclose(file);
    memory_free(s->context, bytes);
    if (chunk == -2) return INSET_NO_MEMORY;
    s->progress.restored = s->progress.done;
    return truncate(s->state_path, end) ? refuse(e, strerror(errno)) : INSET_OK;
}

static void add_text(writer *w, const char *name, const char *value)
{
    writer_add(w, ", \"%s\": ", name);
    writer_text(w, value ? value : "");
}

static inset_status describe(const edges *e, char **out, size_t *length)
{
    const sweep *s = e->s;
    writer w = {.context = s->context};
    writer_add(&w, "{\"inset\": \"%s\"", INSET_VERSION);
    add_text(&w, "model_type", s->model_type);
    add_text(&w, "dtype", type_name(s->type));
    add_text(&w, "version", s->version);
    add_text(&w, "command", s->command);
    writer_add(&w, ", \"metrics\": [");
    for (size_t m = 0; m < s->n_metrics; m++) {
        if (m) writer_bytes(&w, ", ", 2);
        writer_text(&w, s->metrics[m].name);
    }
    writer_add(&w, "]}");
    return writer_finish(&w, INSET_OK, out, length);
}

inset_status edges_part_begin(edges *e)
{
    char *description = NULL;
    size_t length = 0;
    inset_status status = describe(e, &description, &length);
    if (status) return status;
    const part_header h = make_header(e, length);
    FILE *file = fopen(e->s->state_path, "wbx");
    bool good = file && fwrite(&h, sizeof h, 1, file) == 1
                && fwrite(description, length, 1, file) == 1;
    const int reason = errno;
    if (file && fclose(file)) good = false;
    memory_free(e->s->context, description);
    return good ? INSET_OK : refuse(e, strerror(reason));
}

int edges_part_append(edges *e, const void *bytes, size_t size)
{
    if (!e->s->state_path) return 0;
    FILE *file = fopen(e->s->state_path, "ab");
    bool good = file && fwrite(bytes, size, 1, file) == 1 && fflush(file) == 0
                && fsync(fileno(file)) == 0;
    const int reason = errno;
    if (file && fclose(file)) good = false;
    return good ? 0 : reason ? reason : EIO;
}

/* ---- merging ------------------------------------------------------------- */

/* Where a chunk's record is; part -1: nowhere. */
typedef struct record_place {
    int64_t part;
    off_t at;
} record_place;

typedef struct merger {
    edges *e; /* has a book once the first part was read */
    const char *const *parts;
    const char *path;     /* of the one that is read */
    bool *seen;           /* [shards] */
    record_place *places; /* [chunks] */
    int64_t rows;         /* edges_cut's */
    bool mixed;           /* parts of several kinds of devices */
} merger;

static inset_status wrong(const merger *m, const char *what)
{
    return error_set(m->e->s->context, INSET_FILE_ERROR, "%s: %s", m->path, what);
}

static inset_status read_metrics(merger *m, const json_node *list, int64_t n)
{
    sweep *s = m->e->s;
    const char *name;
    if (!json_is_array(list) || (int64_t)json_length(list) != n)
        return wrong(m, "its description is damaged");
    s->n_metrics = (size_t)n;
    s->metrics = arena_new(&s->memory, (size_t)n * sizeof *s->metrics);
    if (!s->metrics) return INSET_NO_MEMORY;
    for (size_t i = 0; i < s->n_metrics; i++) {
        if (!json_as_string(json_item(list, i), &name))
            return wrong(m, "its description is damaged");
        if (!(s->metrics[i].name = arena_text(&s->memory, name, strlen(name))))
            return INSET_NO_MEMORY;
    }
    return INSET_OK;
}

/* An empty text is one that was not given. */
static inset_status read_text(merger *m, const json_document *d, const char *key, const char **out)
{
    const char *found = "";
    inset_status status = json_need_string(d, json_root(d), key, &found);
    if (status || !*found) return status;
    *out = arena_text(&m->e->s->memory, found, strlen(found));
    return *out ? INSET_OK : INSET_NO_MEMORY;
}

static inset_status read_description(merger *m, FILE *file, const part_header *h)
{
    sweep *s = m->e->s;
    json_document *d = NULL;
    const char *dtype = NULL;
    char *bytes = memory_new(s->context, (size_t)h->description + 1);
    if (!bytes) return INSET_NO_MEMORY;
    inset_status status = fread(bytes, 1, (size_t)h->description, file) == h->description
                              ? json_parse(s->context, m->path, bytes, (size_t)h->description, &d)
                              : wrong(m, "its description is damaged");
    if (!status) status = read_text(m, d, "model_type", &s->model_type);
    if (!status) status = read_text(m, d, "dtype", &dtype);
    if (!status) status = read_text(m, d, "version", &s->version);
    if (!status) status = read_text(m, d, "command", &s->command);
    if (!status) status = read_metrics(m, json_member(json_root(d), "metrics"), h->cut.metrics);
    json_close(d);
    memory_free(s->context, bytes);
    if (status) return status;
    while (s->type < INSET_TYPE_COUNT && dtype && strcmp(type_name(s->type), dtype)) s->type++;
    return s->type < INSET_TYPE_COUNT && dtype && s->model_type
               ? INSET_OK
               : wrong(m, "its description is damaged");
}

static inset_status make_graph(merger *m, const part_header *h)
{
    edges *e = m->e;
    sweep *s = e->s;
    s->n_layers = (int32_t)h->layers;
    s->pairs = s->jobs = s->progress.patches = h->cut.pairs;
    s->identity = h->cut.identity;
    s->chunk_pairs = h->cut.chunk;
    s->memory_limit = h->cut.memory_limit;
    e->n_heads = (int32_t)h->heads, e->n_kv_heads = (int32_t)h->key_value_heads;
    e->width = (int32_t)h->width;
    e->n_positions = h->positions;
    e->layers = arena_new(&s->memory, (size_t)h->layers * sizeof *e->layers);
    s->device = arena_text(&s->memory, h->device, strlen(h->device));
    m->seen = arena_new(&s->memory, (size_t)h->cut.shards);
    if (!e->layers || !s->device || !m->seen) return INSET_NO_MEMORY;
    for (int64_t l = 0; l < h->layers; l++) e->layers[l].parallel = h->parallel != 0;
    inset_status status = edges_make_nodes(e);
    if (!status) status = edges_make_arrays(e, h->per_pair != 0);
    const size_t pairs = s->n_metrics * (size_t)s->pairs;
    s->clean_values = arena_new(&s->memory, pairs * sizeof *s->clean_values);
    s->corrupt_values = arena_new(&s->memory, pairs * sizeof *s->corrupt_values);
    if (!status && (!s->clean_values || !s->corrupt_values)) return INSET_NO_MEMORY;
    if (status || (status = edges_open_book(e))) return status;
    m->rows = h->cut.rows;
    m->places = arena_new(&s->memory, (size_t)s->book->n * sizeof *m->places);
    for (int64_t i = 0; m->places && i < s->book->n; i++) m->places[i].part = -1;
    return m->places ? INSET_OK : INSET_NO_MEMORY;
}

/* The first part says what the edges are. */
static inset_status begin(merger *m, FILE *file, const part_header *h)
{
    if (h->cut.shards < 1 || h->cut.shards > 1 << 24) return wrong(m, "it is damaged");
    inset_status status = read_description(m, file, h);
    return status ? status : make_graph(m, h);
}

static bool belongs(const merger *m, const part_header *h)
{
    const edges *e = m->e;
    const sweep *s = e->s;
    return h->cut.identity == s->identity && h->cut.pairs == s->pairs
           && h->cut.metrics == (int64_t)s->n_metrics && h->cut.shards == s->shards;
}

static inset_status find_records(merger *m, int64_t part, FILE *file, off_t at)
{
    char *bytes = NULL;
    size_t capacity = 0, size;
    int64_t chunk;
    if (fseeko(file, at, SEEK_SET)) return wrong(m, "it is damaged");
    while ((chunk = read_record(m->e, file, &bytes, &capacity, &size)) >= 0) {
        m->places[chunk] = (record_place){part, at};
        at += (off_t)size;
    }
    memory_free(m->e->s->context, bytes);
    return chunk == -2 ? INSET_NO_MEMORY : INSET_OK;
}

static inset_status read_part(merger *m, int64_t part, FILE *file)
{
    part_header h = {.cut = {0}};
    sweep *s = m->e->s;
    if (!read_header(file, &h)) {
        if (!s->book && !memcmp(h.magic, sweeps_magic, sizeof sweeps_magic))
            return error_set(s->context, INSET_TYPE_ERROR, "%s: a part of a sweep", m->path);
        return wrong(m, "it is no part of edges: a file that inset attribute --edges --shard wrote "
                        "was expected");
    }
    if (!s->book) {
        inset_status status = begin(m, file, &h);
        if (status) return status;
        s->shards = h.cut.shards;
    }
    if (!belongs(m, &h))
        return wrong(m, "it is a part of another attribution: options, prompts, model, version of "
                        "inset or number of shards differ");
    if (h.cut.chunk != s->chunk_pairs || h.cut.rows != m->rows)
        return wrong(m, "it was cut otherwise, since less memory was there: give all shards one "
                        "--memory");
    if (h.cut.shard < 1 || h.cut.shard > s->shards) return wrong(m, "it is damaged");
    if (m->seen[h.cut.shard - 1]) return wrong(m, "this shard is there twice");
    m->seen[h.cut.shard - 1] = true;
    m->mixed |= strcmp(h.device, s->device) != 0;
    return find_records(m, part, file, (off_t)(sizeof h + h.description));
}

/* In the order of the chunks, so that none has to wait in memory. */
static inset_status add_up(merger *m)
{
    edges *e = m->e;
    char *bytes = NULL;
    size_t capacity = 0, size;
    inset_status status = INSET_OK;
    for (int64_t i = 0; i < e->s->book->n && !status; i++) {
        FILE *file = fopen(m->path = m->parts[m->places[i].part], "rb");
        int64_t chunk = -1;
        if (file && !fseeko(file, m->places[i].at, SEEK_SET))
            chunk = read_record(e, file, &bytes, &capacity, &size);
        if (file) fclose(file);
        if (chunk == i) edges_keep(e, chunk, bytes, size);
        else status = chunk == -2 ? INSET_NO_MEMORY : wrong(m, "it changed meanwhile");
    }
    memory_free(e->s->context, bytes);
    return status;
}

static inset_status check_complete(const merger *m)
{
    const sweep *s = m->e->s;
    inset_status status = shards_are_there(s->context, m->seen, s->shards);
    int64_t chunks = 0;
    for (int64_t i = 0; i < s->book->n; i++) chunks += m->places[i].part < 0;
    if (!status && chunks)
        status = error_set(s->context, INSET_VALUE_ERROR,
            "%lld of %lld chunks are missing: a shard is not done; run it again with --resume",
            (long long)chunks, (long long)s->book->n);
    return status;
}

static edges *new_edges(inset_context *context)
{
    edges *e = memory_new(context, sizeof *e);
    sweep *s = e ? memory_new(context, sizeof *s) : NULL;
    if (!s) {
        memory_free(context, e);
        return NULL;
    }
    s->context = context;
    s->ahead = -1;
    arena_start(&s->memory, context);
    e->s = s;
    return e;
}

inset_status edges_merge(inset_context *context, size_t n, const char *const *parts, edges **out)
{
    merger m = {.e = new_edges(context), .parts = parts};
    *out = NULL;
    if (!m.e) return INSET_NO_MEMORY;
    inset_status status = n ? INSET_OK
                            : error_set(context, INSET_USAGE_ERROR, "which parts? There are none");
    for (size_t i = 0; i < n && !status; i++) {
        FILE *file = fopen(m.path = parts[i], "rb");
        status = file ? read_part(&m, (int64_t)i, file)
                      : error_set(context, INSET_FILE_ERROR, "%s: %s", parts[i], strerror(errno));
        if (file) fclose(file);
    }
    if (!status) status = check_complete(&m);
    m.e->s->shards = 0; /* it is whole */
    if (!status) status = add_up(&m);
    m.e->s->progress.mixed_devices = m.mixed;
    if (status) edges_free(m.e);
    else *out = m.e;
    return status;
}
