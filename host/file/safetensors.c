/* safetensors.c: reading a safetensors file, checked in full before anything of it is handed out.
 *
 *     8 bytes      n, the length of the header, little-endian
 *     n bytes      JSON: {"__metadata__": {text: text}, "name": {"dtype": "F32", "shape": [2, 3],
 *                  "data_offsets": [begin, end]}, ...}
 *     the rest     data; offsets count from its first byte
 *
 * The format wants every byte of the data in exactly one tensor. That makes the layout check
 * simple: in the order of their offsets, each tensor begins where the one before it ended, and the
 * last ends with the file. Nothing is promised about alignment. */
#include "file/check.h"
#include "file/file.h"
#include "file/map.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
    "tensors are used as the file has them, little-endian");

/* the format's limit; the longest names in use have about 100 bytes */
enum { MOST_HEADER = 100000000, MOST_NAME = 1024 };

struct safetensors {
    inset_context *context;
    arena arena;      /* names */
    file_map map;     /* empty when the bytes are the caller's */
    const char *name; /* of the file */
    const char *data;
    size_t data_size;
    file_tensor *tensors;
    size_t count, capacity;
    table by_name;
    const char **metadata; /* key, value, key, value, ... */
    size_t n_metadata, metadata_capacity;
};

/* The format's types and their bits; some share bytes between elements. */
static const struct {
    const char *name;
    int bits;
    inset_type type;
} types[] = {
    {"F32", 32, INSET_F32},
    {"BF16", 16, INSET_BF16},
    {"F16", 16, INSET_F16},
    {"F64", 64, INSET_F64},
    {"I64", 64, INSET_I64},
    {"I32", 32, INSET_I32},
    {"I16", 16, INSET_I16},
    {"I8", 8, INSET_I8},
    {"U8", 8, INSET_U8},
    {"BOOL", 8, INSET_BOOL},
    {"U16", 16, INSET_TYPE_COUNT},
    {"U32", 32, INSET_TYPE_COUNT},
    {"U64", 64, INSET_TYPE_COUNT},
    {"C64", 64, INSET_TYPE_COUNT},
    {"F8_E4M3", 8, INSET_TYPE_COUNT},
    {"F8_E5M2", 8, INSET_TYPE_COUNT},
    {"F8_E8M0", 8, INSET_TYPE_COUNT},
    {"F6_E2M3", 6, INSET_TYPE_COUNT},
    {"F6_E3M2", 6, INSET_TYPE_COUNT},
    {"F4", 4, INSET_TYPE_COUNT},
};

/* ---- one tensor --------------------------------------------------------- */

static inset_status read_type(
    safetensors *file, file_tensor *tensor, const json_node *info, int *bits)
{
    const char *stored = NULL;
    if (!json_as_string(json_member(info, "dtype"), &stored))
        return error_set(file->context, INSET_FILE_ERROR,
            "%s: tensor '%s': 'dtype' must be a string", file->name, tensor->name);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (strcmp(stored, types[i].name)) continue;
        tensor->type = types[i].type;
        tensor->stored_type = types[i].name;
        *bits = types[i].bits;
        return INSET_OK;
    }
    return error_set(file->context, INSET_FILE_ERROR,
        "%s: tensor '%s': the format has no dtype '%.16s'", file->name, tensor->name,
        name_is_plain(stored, SIZE_MAX - 1) ? stored : "?");
}

static inset_status read_shape(
    safetensors *file, file_tensor *tensor, const json_node *info, int bits)
{
    const json_node *shape = json_member(info, "shape");
    int64_t product;
    if (!json_is_array(shape))
        return error_set(file->context, INSET_FILE_ERROR,
            "%s: tensor '%s': 'shape' must be an array", file->name, tensor->name);
    if (json_length(shape) > FILE_MAX_DIMENSIONS)
        return error_set(file->context, INSET_FILE_ERROR,
            "%s: tensor '%s' has %zu dimensions, at most %d are possible", file->name, tensor->name,
            json_length(shape), FILE_MAX_DIMENSIONS);
    tensor->n_dimensions = (int32_t)json_length(shape);
    for (int i = 0; i < tensor->n_dimensions; i++)
        if (!json_as_integer(json_item(shape, (size_t)i), &tensor->shape[i])
            || tensor->shape[i] < 0)
            return error_set(file->context, INSET_FILE_ERROR,
                "%s: tensor '%s': dimension %d of its shape is no integer from 0 up", file->name,
                tensor->name, i);
    if (!shape_product(bits, tensor->n_dimensions, tensor->shape, &product))
        return error_set(file->context, INSET_FILE_ERROR,
            "%s: tensor '%s': the product of its shape does not fit 64 bits", file->name,
            tensor->name);
    if (product % 8)
        return error_set(file->context, INSET_FILE_ERROR,
            "%s: tensor '%s': %lld bits are no whole bytes", file->name, tensor->name,
            (long long)product);
    tensor->bytes = (size_t)product / 8;
    return INSET_OK;
}

static inset_status read_offsets(safetensors *file, file_tensor *tensor, const json_node *info)
{
    const json_node *offsets = json_member(info, "data_offsets");
    int64_t begin = -1, end = -1;
    if (!json_is_array(offsets) || json_length(offsets) != 2
        || !json_as_integer(json_item(offsets, 0), &begin)
        || !json_as_integer(json_item(offsets, 1), &end) || begin < 0 || end < begin)
        return error_set(file->context, INSET_FILE_ERROR,
            "%s: tensor '%s': 'data_offsets' must be two integers, 0 <= begin <= end", file->name,
            tensor->name);
    if ((size_t)end > file->data_size)
        return error_set(file->context, INSET_FILE_ERROR,
            "%s: tensor '%s' ends at byte %lld of the data, the file has %zu: is it cut short?",
            file->name, tensor->name, (long long)end, file->data_size);
    if ((size_t)(end - begin) != tensor->bytes)
        return error_set(file->context, INSET_FILE_ERROR,
            "%s: tensor '%s': its shape needs %zu bytes of %s, its offsets give %lld", file->name,
            tensor->name, tensor->bytes, tensor->stored_type, (long long)(end - begin));
    tensor->data = file->data + begin;
    return INSET_OK;
}

static inset_status read_tensor(safetensors *file, const char *name, const json_node *info)
{
    int bits = 0;
    inset_status status;
    if (!name_is_plain(name, MOST_NAME))
        return error_set(file->context, INSET_FILE_ERROR,
            "%s: tensor %zu: its name must have 1 to %d bytes and no control characters",
            file->name, file->count, MOST_NAME);
    if (!array_reserve(
            file->context, &file->tensors, &file->capacity, file->count + 1, sizeof *file->tensors))
        return INSET_NO_MEMORY;
    file_tensor *tensor = &file->tensors[file->count];
    if (!(tensor->name = arena_text(&file->arena, name, strlen(name)))) return INSET_NO_MEMORY;
    if (!json_is_object(info))
        return error_set(
            file->context, INSET_FILE_ERROR, "%s: tensor '%s' must be an object", file->name, name);
    if ((status = read_type(file, tensor, info, &bits))
        || (status = read_shape(file, tensor, info, bits))
        || (status = read_offsets(file, tensor, info)))
        return status;
    if (json_length(info) != 3)
        return error_set(file->context, INSET_FILE_ERROR,
            "%s: tensor '%s' has %zu members, expected dtype, shape, data_offsets", file->name,
            name, json_length(info));
    /* Duplicate names are refused by the JSON reader. */
    if (!table_add(
            file->context, &file->by_name, hash_bytes(0, name, strlen(name)), (int32_t)file->count))
        return INSET_NO_MEMORY;
    file->count++;
    return INSET_OK;
}

/* ---- the whole header --------------------------------------------------- */

static inset_status read_metadata(safetensors *file, const json_node *metadata)
{
    void *cursor = NULL;
    const char *key, *text;
    const json_node *value;
    if (!json_is_object(metadata))
        return error_set(file->context, INSET_FILE_ERROR,
            "%s: '__metadata__' must be an object of strings", file->name);
    while (json_next(metadata, &cursor, &key, &value)) {
        if (!json_as_string(value, &text))
            return error_set(file->context, INSET_FILE_ERROR,
                "%s: '__metadata__' must hold strings only, its member '%.64s' is none", file->name,
                name_is_plain(key, SIZE_MAX - 1) ? key : "?");
        const size_t n = file->n_metadata;
        if (!array_reserve(file->context, &file->metadata, &file->metadata_capacity, n + 2,
                sizeof *file->metadata)
            || !(file->metadata[n] = arena_text(&file->arena, key, strlen(key)))
            || !(file->metadata[n + 1] = arena_text(&file->arena, text, strlen(text))))
            return INSET_NO_MEMORY;
        file->n_metadata += 2;
    }
    return INSET_OK;
}

static inset_status read_entries(safetensors *file, const json_node *header)
{
    void *cursor = NULL;
    const char *name;
    const json_node *info;
    inset_status status = INSET_OK;
    while (!status && json_next(header, &cursor, &name, &info))
        status = strcmp(name, "__metadata__") ? read_tensor(file, name, info)
                                              : read_metadata(file, info);
    return status;
}

static int by_place(const void *left, const void *right)
{
    const file_tensor *a = *(const file_tensor *const *)left,
                      *b = *(const file_tensor *const *)right;
    uintptr_t x = (uintptr_t)a->data, y = (uintptr_t)b->data;
    if (x != y) return x < y ? -1 : 1;
    return a->bytes < b->bytes ? -1 : a->bytes > b->bytes;
}

/* Tensors in the order of their data, each beginning where the last one ended. */
static inset_status check_order(safetensors *file, const file_tensor *const *sorted)
{
    size_t end = 0;
    for (size_t i = 0; i < file->count; i++) {
        size_t begin = (size_t)((const char *)sorted[i]->data - file->data);
        if (begin < end)
            return error_set(file->context, INSET_FILE_ERROR,
                "%s: tensors '%s' and '%s' overlap at byte %zu of the data", file->name,
                sorted[i - 1]->name, sorted[i]->name, begin);
        if (begin > end)
            return error_set(file->context, INSET_FILE_ERROR,
                "%s: bytes %zu to %zu of the data, before tensor '%s', are in no tensor",
                file->name, end, begin, sorted[i]->name);
        end = begin + sorted[i]->bytes;
    }
    if (end != file->data_size)
        return error_set(file->context, INSET_FILE_ERROR,
            "%s: %zu bytes behind the last tensor are in no tensor", file->name,
            file->data_size - end);
    return INSET_OK;
}

static inset_status check_layout(safetensors *file)
{
    const file_tensor **sorted = memory_new(file->context, file->count * sizeof *sorted);
    if (!sorted) return INSET_NO_MEMORY;
    for (size_t i = 0; i < file->count; i++) sorted[i] = &file->tensors[i];
    qsort(sorted, file->count, sizeof *sorted, by_place);
    inset_status status = check_order(file, sorted);
    memory_free(file->context, sorted);
    return status;
}

static inset_status read_header(safetensors *file, const char *bytes, size_t size)
{
    static const char part[] = ": header";
    json_document *header = NULL;
    size_t length = strlen(file->name);
    char *title = arena_new(&file->arena, length + sizeof part);
    if (!title) return INSET_NO_MEMORY;
    memcpy(title, file->name, length);
    memcpy(title + length, part, sizeof part);
    inset_status status = json_parse(file->context, title, bytes, size, &header);
    if (status) return status;
    if (bytes[0] != '{')
        status = error_set(file->context, INSET_FILE_ERROR,
            "%s: the header must be a JSON object without spaces before it", file->name);
    else if (!(status = read_entries(file, json_root(header)))) status = check_layout(file);
    json_close(header);
    return status;
}

/* A repository cloned without Git LFS has short texts where the weights should be; everybody meets
 * this once. */
static bool is_lfs_pointer(const void *bytes, size_t size)
{
    static const char start[] = "version https://git-lfs";
    return size >= sizeof start - 1 && !memcmp(bytes, start, sizeof start - 1);
}

static inset_status read_bytes(safetensors *file, const void *bytes, size_t size)
{
    uint64_t length;
    if (is_lfs_pointer(bytes, size))
        return error_set(file->context, INSET_FILE_ERROR,
            "%s: is a pointer of Git LFS, not the file itself (try `git lfs pull`)", file->name);
    if (size < sizeof length)
        return error_set(file->context, INSET_FILE_ERROR,
            "%s: has %zu bytes, a safetensors file begins with 8 bytes for the header's length",
            file->name, size);
    memcpy(&length, bytes, sizeof length);
    if (length > MOST_HEADER)
        return error_set(file->context, INSET_FILE_ERROR,
            "%s: its header would have %llu bytes, at most %d are allowed: is it a safetensors "
            "file?",
            file->name, (unsigned long long)length, MOST_HEADER);
    if (length > size - sizeof length)
        return error_set(file->context, INSET_FILE_ERROR,
            "%s: its header would have %llu bytes, the file has only %zu behind the length: is it "
            "cut short?",
            file->name, (unsigned long long)length, size - sizeof length);
    file->data = (const char *)bytes + sizeof length + length;
    file->data_size = size - sizeof length - length;
    return read_header(file, (const char *)bytes + sizeof length, length);
}

/* ---- open, close, look up ----------------------------------------------- */

static inset_status build(safetensors *file, const char *name, const void *bytes, size_t size)
{
    if (!(file->name = arena_text(&file->arena, name, strlen(name)))) return INSET_NO_MEMORY;
    return read_bytes(file, bytes, size);
}

static safetensors *create(inset_context *context)
{
    safetensors *file = memory_new(context, sizeof *file);
    if (!file) return NULL;
    file->context = context;
    arena_start(&file->arena, context);
    return file;
}

inset_status safetensors_parse(
    inset_context *context, const char *name, const void *bytes, size_t size, safetensors **out)
{
    *out = NULL;
    safetensors *file = create(context);
    if (!file) return INSET_NO_MEMORY;
    inset_status status = build(file, name, bytes, size);
    if (status) {
        safetensors_close(file);
        return status;
    }
    *out = file;
    return INSET_OK;
}

inset_status safetensors_open(inset_context *context, const char *path, safetensors **out)
{
    *out = NULL;
    safetensors *file = create(context);
    if (!file) return INSET_NO_MEMORY;
    inset_status status = map_open(context, path, &file->map);
    if (!status) status = build(file, path, file->map.bytes, file->map.size);
    if (status) {
        safetensors_close(file);
        return status;
    }
    *out = file;
    return INSET_OK;
}

void safetensors_close(safetensors *file)
{
    if (!file) return;
    map_close(&file->map);
    table_free(file->context, &file->by_name);
    memory_free(file->context, file->tensors);
    memory_free(file->context, file->metadata);
    arena_free(&file->arena);
    memory_free(file->context, file);
}

size_t safetensors_count(const safetensors *file) { return file->count; }

const file_tensor *safetensors_at(const safetensors *file, size_t index)
{
    return index < file->count ? &file->tensors[index] : NULL;
}

const char *safetensors_metadata(const safetensors *file, const char *key)
{
    for (size_t i = 0; i < file->n_metadata; i += 2)
        if (!strcmp(file->metadata[i], key)) return file->metadata[i + 1];
    return NULL;
}

const file_tensor *safetensors_find(const safetensors *file, const char *name)
{
    size_t cursor = 0;
    int32_t index;
    while ((index = table_next(&file->by_name, hash_bytes(0, name, strlen(name)), &cursor)) >= 0)
        if (!strcmp(file->tensors[index].name, name)) return &file->tensors[index];
    return NULL;
}

/* The names a file has, as many as a line holds. */
static inset_status no_such_tensor(const safetensors *file, const char *name)
{
    enum { SHOWN = 8 };
    text names = {0};
    for (size_t i = 0; i < file->count && i < SHOWN; i++)
        text_add(file->context, &names, "%s'%s'", i ? ", " : "", file->tensors[i].name);
    if (file->count > SHOWN) text_add(file->context, &names, " and %zu more", file->count - SHOWN);
    error_set(file->context, INSET_FILE_ERROR, "%s: there is no tensor '%s' in it; it has %s",
        file->name, name, file->count && names.bytes ? names.bytes : "none");
    text_free(file->context, &names);
    return INSET_FILE_ERROR;
}

inset_status safetensors_need(const safetensors *file, const char *name, const file_tensor **out)
{
    const file_tensor *tensor = safetensors_find(file, name);
    *out = NULL;
    if (!tensor) return no_such_tensor(file, name);
    if (tensor->type == INSET_TYPE_COUNT)
        return error_set(file->context, INSET_FILE_ERROR,
            "%s: tensor '%s' is of type %s, which inset does not read", file->name, name,
            tensor->stored_type);
    *out = tensor;
    return INSET_OK;
}

void safetensors_release_pages(const safetensors *file, const file_tensor *tensor)
{
    map_release(&file->map, tensor->data, tensor->bytes);
}
