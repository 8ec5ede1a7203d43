/* file.h: files in and out: safetensors, npy, JSON. Every file is hostile until checked; a tensor
 * that is handed out lies inside the mapped file and has the size its type and shape say. All
 * failures are INSET_FILE_ERROR (or INSET_NO_MEMORY) and name the file. */
#ifndef INSET_FILE_H
#define INSET_FILE_H

#include "base/base.h"

enum { FILE_MAX_DIMENSIONS = 8 };

/* A tensor in a file. `data` is inside the mapping and holds until the file is closed; it may be
 * unaligned. */
typedef struct file_tensor {
    const char *name;
    /* INSET_TYPE_COUNT when the file's type is none of inset's: see stored_type */
    inset_type type;
    int32_t n_dimensions;
    int64_t shape[FILE_MAX_DIMENSIONS];
    const void *data;
    size_t bytes; /* the shape's product times the type's size */
    /* as the file spells it, "F8_E4M3"; NULL in tensors to be written or given in memory */
    const char *stored_type;
    int32_t gpu; /* 0: data is host memory; else an address on GPU gpu - 1 (tensors in memory) */
    /* NULL, or data is quantised blocks of this kind (gguf.h): gguf_numbers makes of them what type
     * and bytes say. heads: so many heads' rows are permuted. less_one: of a norm
     * that adds 1 to its weights, which the file has added already */
    const struct gguf_block *blocks;
    int32_t heads;
    bool less_one;
} file_tensor;

/* All functions that give an object through `out` set it to NULL when they fail. */

/* ---- safetensors in: memory-mapped, checked in full before use (header length, JSON, types, shape
 * times size against offsets, overlaps, holes, names). The format's types that inset lacks (F8 and
 * the like) may be in a file: such a tensor has the type INSET_TYPE_COUNT, which is no float type
 * and of size 0, and safetensors_need refuses it by name. */
typedef struct safetensors safetensors;
inset_status safetensors_open(inset_context *context, const char *path, safetensors **out);
void safetensors_close(safetensors *file); /* takes NULL */
size_t safetensors_count(const safetensors *file);
/* in the header's order */
const file_tensor *safetensors_at(const safetensors *file, size_t index);
/* NULL when there is none */
/* what the metadata says under a key; NULL: nothing */
const char *safetensors_metadata(const safetensors *file, const char *key);
const file_tensor *safetensors_find(const safetensors *file, const char *name);
/* The tensor `name`, of a type inset has; INSET_FILE_ERROR says which are there, or which type it
 * has. */
inset_status safetensors_need(const safetensors *file, const char *name, const file_tensor **out);
/* Tells the system that the pages of a tensor are not needed soon (after its weights were
 * packed). */
void safetensors_release_pages(const safetensors *file, const file_tensor *tensor);
/* The check itself, on bytes in memory, which must outlive the object: also the fuzz target. `name`
 * stands for the file in messages. */
inset_status safetensors_parse(
    inset_context *context, const char *name, const void *bytes, size_t size, safetensors **out);

/* The weights of a Hugging Face directory: model.safetensors, or else model.safetensors.index.json
 * and its shards. Every tensor the index lists must be in the shard it names, shards are plain
 * names in the directory, no name may be in two of them. A tensor of a shard that the index does
 * not list is there as well: whoever knows what the model needs says whether it is one too many. */
typedef struct weight_files weight_files;
inset_status weight_files_open(inset_context *context, const char *directory, weight_files **out);
/* The same from `count` tensors in memory, whose data is borrowed for as long as the object; `name`
 * stands for them in messages. A name twice is INSET_VALUE_ERROR. */
inset_status weight_files_from(inset_context *context, const char *name, const file_tensor *tensors,
    size_t count, weight_files **out);
void weight_files_close(weight_files *files); /* takes NULL */
size_t weight_files_count(const weight_files *files);
const file_tensor *weight_files_at(const weight_files *files, size_t index);
const file_tensor *weight_files_find(const weight_files *files, const char *name);
void weight_files_release_pages(const weight_files *files, const file_tensor *tensor);

/* ---- npy in (version 1 to 3, C order, little-endian) --------------------- */

/* Floats of 2, 4 and 8
 * bytes, signed integers, unsigned bytes and booleans; others are refused by name (Fortran order,
 * Python objects, other byte order, unsigned, complex, text). Bytes behind the data are refused.
 * npy_parse: as safetensors_parse. */
typedef struct npy npy;
inset_status npy_open(inset_context *context, const char *path, npy **out);
inset_status npy_parse(
    inset_context *context, const char *name, const void *bytes, size_t size, npy **out);
const file_tensor *npy_tensor(const npy *file);
void npy_close(npy *file);

/* ---- safetensors out: written to a temporary name in the same directory, synced, renamed. Nothing
 * is left behind on failure. ---- The header has the tensors in the order given; so has the data,
 * unless that would leave a tensor misaligned for its type (the format has no gaps): then wider
 * types come first. Refused: a name twice or not in UTF-8, a type outside inset_type, bytes that
 * are not the shape's, a path that exists and is no regular file. A link is followed, what it
 * points to is replaced. */
inset_status safetensors_write(inset_context *context, const char *path, const file_tensor *tensors,
    size_t count, const char *const *metadata /* key, value, key, value, ..., NULL; or NULL */);

/* The same without the data, for a file that is written piece by piece: the bytes it begins with,
 * freed with memory_free, and where in it each tensor begins, [count]. The tensors' `data` may be
 * NULL. */
inset_status safetensors_layout(inset_context *context, const char *path,
    const file_tensor *tensors, size_t count, const char *const *metadata, char **header,
    size_t *header_size, uint64_t *offsets);

/* ---- JSON: typed getters over Jansson. 64-bit integers, duplicate keys refused, error positions
 * (NAME:line:column), depth and number of values bounded. Strings hold no NUL. json_parse needs
 * `bytes` only during the call. */
typedef struct json_document json_document;
typedef struct json_node json_node; /* a value inside a document; borrowed */
inset_status json_open(inset_context *context, const char *path, json_document **out);
inset_status json_parse(
    inset_context *context, const char *name, const void *bytes, size_t size, json_document **out);
void json_close(json_document *document);
const json_node *json_root(const json_document *document);
/* Members: NULL when the key is absent or null. */
const json_node *json_member(const json_node *object, const char *key);
/* of an array or object; 0 otherwise */
size_t json_length(const json_node *node);
const json_node *json_item(const json_node *array, size_t index);
bool json_is_object(const json_node *n);
bool json_is_array(const json_node *n);
bool json_is_string(const json_node *n);
bool json_is_number(const json_node *n);
/* The value itself, for items of arrays: false, and *out as it was, when the node is of another
 * type (or NULL). */
bool json_as_integer(const json_node *n, int64_t *out);
bool json_as_number(const json_node *n, double *out); /* integers too */
bool json_as_bool(const json_node *n, bool *out);
bool json_as_string(const json_node *n, const char **out); /* the text is the document's */
/* Walks the members of an object in the document's order: start with *cursor = NULL, ends with
 * false. */
bool json_next(const json_node *object, void **cursor, const char **key, const json_node **value);
/* Typed getters: when the key is absent or null they leave *out as it is and return INSET_OK; when
 * it has another type or is out of range they fail naming document, key, what was expected and what
 * was found. An integer is one without a point or exponent. */
inset_status json_get_integer(const json_document *d, const json_node *object, const char *key,
    int64_t least, int64_t most, int64_t *out);
inset_status json_get_number(
    const json_document *d, const json_node *object, const char *key, double *out);
inset_status json_get_bool(
    const json_document *d, const json_node *object, const char *key, bool *out);
inset_status json_get_string(
    const json_document *d, const json_node *object, const char *key, const char **out);
/* The same, but absence is an error too. */
inset_status json_need_integer(const json_document *d, const json_node *object, const char *key,
    int64_t least, int64_t most, int64_t *out);
inset_status json_need_string(
    const json_document *d, const json_node *object, const char *key, const char **out);
const char *json_document_name(const json_document *d);

/* The whole of a file in memory (for scripts, so a pipe will do), at most `limit` bytes, with a NUL
 * behind that is not counted; freed with memory_free. */
inset_status file_read(
    inset_context *context, const char *path, size_t limit, char **bytes, size_t *size);

#endif
