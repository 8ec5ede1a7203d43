/* gguf.c: a GGUF file: magic, version, counts; metadata (key, type, value); what tensors there are;
 * then, at a multiple of the alignment, their data. */
#include <string.h>

#include "file/check.h"
#include "file/gguf/gguf.h"
#include "file/map.h"

enum {
    MOST_TENSORS = 1 << 16,
    MOST_KEYS = 1 << 16,
    MOST_NAME = 1024,
    MOST_ENTRIES = 1 << 24 /* of an array */
};

/* The format's types of metadata. */
enum {
    META_U8,
    META_I8,
    META_U16,
    META_I16,
    META_U32,
    META_I32,
    META_F32,
    META_BOOL,
    META_TEXT,
    META_ARRAY,
    META_U64,
    META_I64,
    META_F64,
    META_COUNT
};
static const uint8_t meta_bytes[META_COUNT] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

typedef struct entry {
    const char *key;
    uint32_t type; /* of an array its entries' */
    bool is_array;
    size_t count;         /* entries; 1 where it is none */
    const uint8_t *value; /* numbers one after the other */
    const char **texts;   /* [count] of META_TEXT */
} entry;

struct gguf {
    inset_context *context;
    arena memory;
    file_map map;
    const char *name;
    entry *entries;
    gguf_tensor *tensors;
    size_t n_entries, n_tensors;
    table by_name; /* of tensors */
};

/* What is left to read. */
typedef struct cursor {
    gguf *of;
    const uint8_t *at, *end;
} cursor;

static inset_status wrong(const gguf *g, const char *what)
{
    return error_set(
        g->context, INSET_FILE_ERROR, "%s: is no GGUF file that inset reads: %s", g->name, what);
}

static bool take(cursor *c, void *to, size_t size)
{
    if ((size_t)(c->end - c->at) < size) return false;
    memcpy(to, c->at, size);
    c->at += size;
    return true;
}

/* A text: its length (64 bits) and bytes. */
static inset_status take_text(cursor *c, size_t most, const char **out)
{
    uint64_t length;
    if (!take(c, &length, sizeof length) || length > (uint64_t)(c->end - c->at) || length > most)
        return wrong(c->of, "a text goes beyond its end");
    if (memchr(c->at, 0, (size_t)length)) return wrong(c->of, "a text has a NUL");
    *out = arena_text(&c->of->memory, (const char *)c->at, (size_t)length);
    c->at += length;
    return *out ? INSET_OK : INSET_NO_MEMORY;
}

/* ---- metadata ------------------------------------------------------------ */

static inset_status take_texts(cursor *c, entry *e)
{
    inset_status status = INSET_OK;
    /* each has a length at least */
    if (e->count > (size_t)(c->end - c->at) / 8)
        return wrong(c->of, "an array goes beyond its end");
    e->texts = arena_new(&c->of->memory, (e->count + 1) * sizeof *e->texts);
    if (!e->texts) return INSET_NO_MEMORY;
    for (size_t i = 0; i < e->count && !status; i++)
        status = take_text(c, (size_t)1 << 24, &e->texts[i]);
    return status;
}

static inset_status take_entry(cursor *c, entry *e)
{
    uint64_t count = 1;
    inset_status status = take_text(c, MOST_NAME, &e->key);
    if (status) return status;
    if (!take(c, &e->type, sizeof e->type)) return wrong(c->of, "its metadata is cut off");
    e->is_array = e->type == META_ARRAY;
    if (e->is_array && (!take(c, &e->type, sizeof e->type) || !take(c, &count, sizeof count)))
        return wrong(c->of, "its metadata is cut off");
    if (e->type >= META_COUNT || e->type == META_ARRAY || count > MOST_ENTRIES)
        return wrong(c->of, "its metadata has a type that the format has not got");
    e->count = (size_t)count;
    if (e->type == META_TEXT) return take_texts(c, e);
    e->value = c->at;
    if (e->count * meta_bytes[e->type] > (size_t)(c->end - c->at))
        return wrong(c->of, "its metadata is cut off");
    c->at += e->count * meta_bytes[e->type];
    return INSET_OK;
}

static const entry *find_entry(const gguf *g, const char *key)
{
    for (size_t i = 0; i < g->n_entries; i++)
        if (!strcmp(g->entries[i].key, key)) return &g->entries[i];
    return NULL;
}

static double number_of(const entry *e, size_t index)
{
    const uint8_t *at = e->value + index * meta_bytes[e->type];
    union {
        uint64_t u64;
        int64_t i64;
        double f64;
        float f32;
        uint32_t u32;
        int32_t i32;
        uint16_t u16;
        int16_t i16;
        uint8_t u8;
        int8_t i8;
    } x = {0};
    memcpy(&x, at, meta_bytes[e->type]);
    switch (e->type) {
    case META_U8:
    case META_BOOL: return x.u8;
    case META_I8: return x.i8;
    case META_U16: return x.u16;
    case META_I16: return x.i16;
    case META_U32: return x.u32;
    case META_I32: return x.i32;
    case META_F32: return x.f32;
    case META_U64: return (double)x.u64;
    case META_I64: return (double)x.i64;
    default: return x.f64;
    }
}

bool gguf_text(const gguf *g, const char *key, const char **out)
{
    const entry *e = find_entry(g, key);
    if (!e || e->is_array || e->type != META_TEXT) return false;
    *out = e->texts[0];
    return true;
}

bool gguf_number(const gguf *g, const char *key, double *out)
{
    const entry *e = find_entry(g, key);
    if (!e || e->is_array || e->type == META_TEXT) return false;
    *out = number_of(e, 0);
    return true;
}

bool gguf_integer(const gguf *g, const char *key, int64_t *out)
{
    const entry *e = find_entry(g, key);
    double x;
    if (!e || e->type == META_F32 || e->type == META_F64 || !gguf_number(g, key, &x)) return false;
    if (!(x >= -9e15 && x <= 9e15)) return false;
    *out = (int64_t)x;
    return true;
}

size_t gguf_length(const gguf *g, const char *key)
{
    const entry *e = find_entry(g, key);
    return e && e->is_array ? e->count : 0;
}

bool gguf_text_at(const gguf *g, const char *key, size_t index, const char **out)
{
    const entry *e = find_entry(g, key);
    if (!e || !e->is_array || e->type != META_TEXT || index >= e->count) return false;
    *out = e->texts[index];
    return true;
}

bool gguf_number_at(const gguf *g, const char *key, size_t index, double *out)
{
    const entry *e = find_entry(g, key);
    if (!e || !e->is_array || e->type == META_TEXT || index >= e->count) return false;
    *out = number_of(e, index);
    return true;
}

/* ---- tensors ------------------------------------------------------------- */

static inset_status take_shape(cursor *c, gguf_tensor *t, int64_t *count)
{
    uint32_t n;
    *count = 1;
    if (!take(c, &n, sizeof n) || n < 1 || n > 4) return wrong(c->of, "a tensor's dimensions");
    t->n_dimensions = (int32_t)n;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t extent;
        if (!take(c, &extent, sizeof extent) || extent > (uint64_t)1 << 40
            || __builtin_mul_overflow(*count, (int64_t)extent, count) || *count > (int64_t)1 << 46)
            return wrong(c->of, "a tensor's dimensions");
        t->shape[n - 1 - i] = (int64_t)extent;
    }
    return INSET_OK;
}

/* offsets: where its data lies, [index]. */
static inset_status take_tensor(cursor *c, gguf_tensor *t, uint64_t *offset)
{
    uint32_t type;
    int64_t count;
    inset_status status = take_text(c, MOST_NAME, &t->name);
    if (!status && !name_is_plain(t->name, MOST_NAME)) status = wrong(c->of, "a tensor's name");
    if (!status) status = take_shape(c, t, &count);
    if (status) return status;
    if (!take(c, &type, sizeof type) || !take(c, offset, sizeof *offset))
        return wrong(c->of, "its list of tensors is cut off");
    if (!(t->block = gguf_block_of(type)))
        return error_set(c->of->context, INSET_FILE_ERROR,
            "%s: tensor %s has the type %u; F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q2_K "
            "to Q8_K are read",
            c->of->name, t->name, type);
    if (t->shape[t->n_dimensions - 1] % t->block->numbers)
        return wrong(c->of, "a tensor's rows are no whole blocks");
    t->bytes = (size_t)(count / t->block->numbers) * (size_t)t->block->bytes;
    return INSET_OK;
}

static inset_status place_tensors(cursor *c, const uint8_t *start, const uint64_t *offsets)
{
    gguf *g = c->of;
    int64_t alignment = 32;
    if (gguf_integer(g, "general.alignment", &alignment)
        && (alignment < 1 || alignment > 1 << 20 || (alignment & (alignment - 1))))
        return wrong(g, "its alignment");
    const size_t size = (size_t)(c->end - start), used = (size_t)(c->at - start),
                 base = (used + (size_t)alignment - 1) / (size_t)alignment * (size_t)alignment;
    for (size_t i = 0; i < g->n_tensors; i++) {
        gguf_tensor *t = &g->tensors[i];
        if (base > size || offsets[i] > size - base || t->bytes > size - base - offsets[i])
            return error_set(g->context, INSET_FILE_ERROR,
                "%s: the data of tensor %s goes beyond the end of the file: it is cut off", g->name,
                t->name);
        if (offsets[i] % (uint64_t)alignment) return wrong(g, "a tensor's place");
        t->data = start + base + offsets[i];
        if (gguf_find(g, t->name))
            return error_set(
                g->context, INSET_FILE_ERROR, "%s: tensor %s is there twice", g->name, t->name);
        if (!table_add(
                g->context, &g->by_name, hash_bytes(0, t->name, strlen(t->name)), (int32_t)i))
            return INSET_NO_MEMORY;
    }
    return INSET_OK;
}

static inset_status read_file(gguf *g, const void *bytes, size_t size)
{
    cursor c = {.of = g, .at = bytes, .end = (const uint8_t *)bytes + size};
    uint32_t magic, version;
    uint64_t n_tensors, n_entries;
    if (!take(&c, &magic, sizeof magic) || memcmp(&magic, "GGUF", 4))
        return wrong(g, "it does not begin with GGUF");
    if (!take(&c, &version, sizeof version) || (version != 2 && version != 3))
        return wrong(g, "its version is neither 2 nor 3");
    if (!take(&c, &n_tensors, sizeof n_tensors) || !take(&c, &n_entries, sizeof n_entries)
        || n_tensors > MOST_TENSORS || n_entries > MOST_KEYS)
        return wrong(g, "its counts");
    g->entries = arena_new(&g->memory, (size_t)(n_entries + 1) * sizeof *g->entries);
    g->tensors = arena_new(&g->memory, (size_t)(n_tensors + 1) * sizeof *g->tensors);
    uint64_t *offsets = arena_new(&g->memory, (size_t)(n_tensors + 1) * sizeof *offsets);
    if (!g->entries || !g->tensors || !offsets) return INSET_NO_MEMORY;
    inset_status status = INSET_OK;
    for (; g->n_entries < n_entries && !status; g->n_entries++)
        status = take_entry(&c, &g->entries[g->n_entries]);
    if (status) return status;
    for (; g->n_tensors < n_tensors && !status; g->n_tensors++)
        status = take_tensor(&c, &g->tensors[g->n_tensors], &offsets[g->n_tensors]);
    return status ? status : place_tensors(&c, bytes, offsets);
}

/* ---- open, close --------------------------------------------------------- */

static inset_status start(inset_context *context, const char *name, gguf **out)
{
    gguf *g = *out = memory_new(context, sizeof *g);
    if (!g) return INSET_NO_MEMORY;
    g->context = context;
    arena_start(&g->memory, context);
    g->name = arena_text(&g->memory, name, strlen(name));
    return g->name ? INSET_OK : INSET_NO_MEMORY;
}

static inset_status finish(inset_status status, gguf **out)
{
    if (!status) return INSET_OK;
    gguf_close(*out);
    *out = NULL;
    return status;
}

inset_status gguf_open(inset_context *context, const char *path, gguf **out)
{
    inset_status status = start(context, path, out);
    if (!status) status = map_open(context, path, &(*out)->map);
    if (!status) status = read_file(*out, (*out)->map.bytes, (*out)->map.size);
    return finish(status, out);
}

inset_status gguf_parse(
    inset_context *context, const char *name, const void *bytes, size_t size, gguf **out)
{
    inset_status status = start(context, name, out);
    if (!status) status = read_file(*out, bytes, size);
    return finish(status, out);
}

void gguf_close(gguf *g)
{
    if (!g) return;
    map_close(&g->map);
    table_free(g->context, &g->by_name);
    arena_free(&g->memory);
    memory_free(g->context, g);
}

const char *gguf_name(const gguf *g) { return g->name; }
size_t gguf_count(const gguf *g) { return g->n_tensors; }
const gguf_tensor *gguf_at(const gguf *g, size_t index) { return &g->tensors[index]; }

const gguf_tensor *gguf_find(const gguf *g, const char *name)
{
    size_t cursor = 0;
    int32_t index;
    while ((index = table_next(&g->by_name, hash_bytes(0, name, strlen(name)), &cursor)) >= 0)
        if (!strcmp(g->tensors[index].name, name)) return &g->tensors[index];
    return NULL;
}
