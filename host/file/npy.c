/* npy.c: reading NumPy's .npy.
 *
 *     6 bytes        \x93NUMPY
 *     2 bytes        version, major and minor
 *     2 or 4 bytes   n, the length of the header, little-endian (2 in version 1)
 *     n bytes        a Python dictionary: {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3),
 *                    }, then spaces and a newline
 *     the rest       the elements
 *
 * NumPy reads the dictionary with Python's own parser; here is just as much of one as numpy.save
 * writes: the three keys in any order, each once. */
#include "file/check.h"
#include "file/file.h"
#include "file/map.h"

#include <string.h>

enum { MOST_HEADER = 1 << 16 }; /* numpy.load itself stops at 10,000 */

struct npy {
    inset_context *context;
    file_map map; /* empty when the bytes are the caller's */
    char *name;
    file_tensor tensor;
};

/* The reader of the dictionary. The first error sticks, and what follows then reads nothing. */
typedef struct reader {
    npy *file;
    const char *start, *at, *end;
    inset_status status;
    bool has_type, has_order, has_shape;
} reader;

static inset_status expected(reader *r, const char *what)
{
    if (r->status) return r->status;
    return r->status = error_set(r->file->context, INSET_FILE_ERROR,
               "%s: byte %zu of the header: expected %s", r->file->name, (size_t)(r->at - r->start),
               what);
}

static void skip_spaces(reader *r)
{
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\t' || *r->at == '\r'))
        r->at++;
}

/* Takes the character when it comes next. */
static bool take(reader *r, char c)
{
    skip_spaces(r);
    if (r->status || r->at == r->end || *r->at != c) return false;
    r->at++;
    return true;
}

static void need(reader *r, char c)
{
    char what[] = {'\'', c, '\'', 0};
    if (!take(r, c)) expected(r, what);
}

static bool take_word(reader *r, const char *word)
{
    size_t length = strlen(word);
    skip_spaces(r);
    if (r->status || (size_t)(r->end - r->at) < length || memcmp(r->at, word, length)) return false;
    r->at += length;
    return true;
}

/* A quoted text without escapes, of printable ASCII. */
static void read_string(reader *r, char *out, size_t size)
{
    char quote = take(r, '\'') ? '\'' : take(r, '"') ? '"' : 0;
    size_t length = 0;
    out[0] = 0;
    if (!quote) {
        expected(r, "a quoted text");
        return;
    }
    for (; r->at < r->end && *r->at != quote; r->at++) {
        if (*r->at < 0x20 || *r->at > 0x7e || *r->at == '\\' || length + 1 == size) {
            expected(r, "a short text of plain characters");
            return;
        }
        out[length++] = *r->at;
    }
    out[length] = 0;
    need(r, quote);
}

/* ---- the three entries -------------------------------------------------- */

static const struct {
    const char *name;
    inset_type type;
} types[] = {
    {"f4", INSET_F32},
    {"f2", INSET_F16},
    {"f8", INSET_F64},
    {"i8", INSET_I64},
    {"i4", INSET_I32},
    {"i2", INSET_I16},
    {"i1", INSET_I8},
    {"u1", INSET_U8},
    {"b1", INSET_BOOL},
};

/* Why a type is not read, for the kinds people meet. */
static const char *what_is(const char *descr)
{
    char order = descr[0], kind = order && strchr("<>|=", order) ? descr[1] : order;
    if (kind == 'O') return "Python objects";
    if (kind == 'V')
        return "raw bytes or records (NumPy has no bfloat16: save it as float32, or as "
               "safetensors)";
    if (kind == 'U' || kind == 'S' || kind == 'a') return "text";
    if (kind == 'c') return "complex numbers";
    if (kind == 'M' || kind == 'm') return "dates";
    if (order == '>') return "big-endian numbers";
    if (kind == 'u') return "unsigned integers";
    return "a type inset does not read";
}

static void read_type(reader *r)
{
    char descr[32];
    skip_spaces(r);
    if (!r->status && r->at < r->end && *r->at == '[') {
        r->status = error_set(r->file->context, INSET_FILE_ERROR,
            "%s: holds records (a structured dtype), expected plain numbers", r->file->name);
        return;
    }
    read_string(r, descr, sizeof descr);
    if (r->status) return;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        bool bytes = type_size(types[i].type) == 1; /* single bytes have no order */
        if (strcmp(descr + (descr[0] != 0), types[i].name)
            || !(descr[0] == '<' || (bytes && (descr[0] == '|' || descr[0] == '>'))))
            continue;
        r->file->tensor.type = types[i].type;
        r->file->tensor.stored_type = types[i].name;
        return;
    }
    r->status = error_set(r->file->context, INSET_FILE_ERROR, "%s: its dtype '%s' is %s",
        r->file->name, descr, what_is(descr));
}

static void read_order(reader *r)
{
    if (take_word(r, "False")) return;
    if (!take_word(r, "True")) expected(r, "True or False");
    else
        r->status = error_set(r->file->context, INSET_FILE_ERROR,
            "%s: is in Fortran order, expected C order (numpy.ascontiguousarray makes it so)",
            r->file->name);
}

static int64_t read_extent(reader *r)
{
    int64_t extent = 0;
    skip_spaces(r);
    if (r->status || r->at == r->end || *r->at < '0' || *r->at > '9') {
        expected(r, "an integer from 0 up");
        return 0;
    }
    for (; r->at < r->end && *r->at >= '0' && *r->at <= '9'; r->at++)
        if (__builtin_mul_overflow(extent, 10, &extent)
            || __builtin_add_overflow(extent, *r->at - '0', &extent)) {
            expected(r, "an integer that fits 64 bits");
            return 0;
        }
    return extent;
}

/* (), (3,), (3, 4), (3, 4,): a tuple of one has its comma. */
static void read_shape(reader *r)
{
    file_tensor *tensor = &r->file->tensor;
    bool comma = true;
    need(r, '(');
    while (!r->status && !take(r, ')')) {
        if (!comma) expected(r, "',' or ')'");
        else if (tensor->n_dimensions == FILE_MAX_DIMENSIONS)
            r->status = error_set(r->file->context, INSET_FILE_ERROR,
                "%s: has more than %d dimensions", r->file->name, FILE_MAX_DIMENSIONS);
        else tensor->shape[tensor->n_dimensions++] = read_extent(r);
        comma = take(r, ',');
        if (tensor->n_dimensions == 1 && !comma)
            expected(r, "',' after the only extent of a shape");
    }
}

static void read_entry(reader *r)
{
    char key[32];
    read_string(r, key, sizeof key);
    bool *seen = !strcmp(key, "descr")           ? &r->has_type
                 : !strcmp(key, "fortran_order") ? &r->has_order
                 : !strcmp(key, "shape")         ? &r->has_shape
                                                 : NULL;
    if (!r->status && (!seen || *seen))
        r->status = error_set(r->file->context, INSET_FILE_ERROR, "%s: its header has %s '%s'",
            r->file->name, seen ? "a second" : "an unknown entry", key);
    need(r, ':');
    if (r->status) return;
    *seen = true;
    if (seen == &r->has_type) read_type(r);
    else if (seen == &r->has_order) read_order(r);
    else read_shape(r);
}

static inset_status read_dictionary(reader *r)
{
    bool comma = true;
    need(r, '{');
    while (!r->status && !take(r, '}')) {
        if (!comma) expected(r, "',' or '}'");
        read_entry(r);
        comma = take(r, ',');
    }
    skip_spaces(r);
    if (!r->status && r->at != r->end) expected(r, "nothing but spaces");
    if (r->status) return r->status;
    if (!r->has_type || !r->has_order || !r->has_shape)
        return error_set(r->file->context, INSET_FILE_ERROR, "%s: its header lacks '%s'",
            r->file->name,
            !r->has_type    ? "descr"
            : !r->has_order ? "fortran_order"
                            : "shape");
    return INSET_OK;
}

/* ---- the whole file ----------------------------------------------------- */

static inset_status read_data(npy *file, const char *data, size_t size)
{
    int64_t bytes;
    if (!shape_product((int64_t)type_size(file->tensor.type), file->tensor.n_dimensions,
            file->tensor.shape, &bytes))
        return error_set(file->context, INSET_FILE_ERROR,
            "%s: the product of its shape does not fit 64 bits", file->name);
    file->tensor.bytes = (size_t)bytes;
    if (file->tensor.bytes > size)
        return error_set(file->context, INSET_FILE_ERROR,
            "%s: its shape needs %zu bytes of data, the file has %zu: is it cut short?", file->name,
            file->tensor.bytes, size);
    if (file->tensor.bytes < size)
        return error_set(file->context, INSET_FILE_ERROR, "%s: has %zu bytes behind its data",
            file->name, size - file->tensor.bytes);
    file->tensor.data = data;
    return INSET_OK;
}

static inset_status read_bytes(npy *file, const unsigned char *bytes, size_t size)
{
    if (size < 10 || memcmp(bytes, "\x93NUMPY", 6))
        return error_set(
            file->context, INSET_FILE_ERROR, "%s: does not begin as an .npy file does", file->name);
    int version = bytes[6];
    size_t length_size = version == 1 ? 2 : 4, start = 8 + length_size;
    if (version < 1 || version > 3 || bytes[7])
        return error_set(file->context, INSET_FILE_ERROR,
            "%s: is of version %d.%d, expected 1.0, 2.0 or 3.0", file->name, version, bytes[7]);
    if (size < start)
        return error_set(file->context, INSET_FILE_ERROR, "%s: ends before its header", file->name);
    uint32_t length = 0;
    memcpy(&length, bytes + 8, length_size);
    if (length > MOST_HEADER)
        return error_set(file->context, INSET_FILE_ERROR,
            "%s: its header would have %u bytes, at most %d are read", file->name, length,
            MOST_HEADER);
    if (length > size - start)
        return error_set(file->context, INSET_FILE_ERROR,
            "%s: its header would have %u bytes, the file has only %zu behind the length: is it "
            "cut short?",
            file->name, length, size - start);
    const char *header = (const char *)bytes + start;
    reader r = {.file = file, .start = header, .at = header, .end = header + length};
    inset_status status = read_dictionary(&r);
    return status ? status : read_data(file, header + length, size - start - length);
}

/* ---- open and close ----------------------------------------------------- */

static npy *create(inset_context *context, const char *name)
{
    npy *file = memory_new(context, sizeof *file);
    if (!file) return NULL;
    file->context = context;
    if (!(file->name = memory_text(context, name, strlen(name)))) {
        npy_close(file);
        return NULL;
    }
    file->tensor.name = file->name;
    return file;
}

inset_status npy_parse(
    inset_context *context, const char *name, const void *bytes, size_t size, npy **out)
{
    *out = NULL;
    npy *file = create(context, name);
    if (!file) return INSET_NO_MEMORY;
    inset_status status = read_bytes(file, bytes, size);
    if (status) {
        npy_close(file);
        return status;
    }
    *out = file;
    return INSET_OK;
}

inset_status npy_open(inset_context *context, const char *path, npy **out)
{
    *out = NULL;
    npy *file = create(context, path);
    if (!file) return INSET_NO_MEMORY;
    inset_status status = map_open(context, path, &file->map);
    if (!status) status = read_bytes(file, file->map.bytes, file->map.size);
    if (status) {
        npy_close(file);
        return status;
    }
    *out = file;
    return INSET_OK;
}

const file_tensor *npy_tensor(const npy *file) { return &file->tensor; }

void npy_close(npy *file)
{
    if (!file) return;
    map_close(&file->map);
    memory_free(file->context, file->name);
    memory_free(file->context, file);
}
