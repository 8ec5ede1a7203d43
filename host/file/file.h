/* file.h: files in and out: safetensors, npy, JSON. Every file is hostile until checked; a tensor that is handed out lies inside the
 * mapped file and has the size its type and shape say. All failures are INSET_FILE_ERROR (or INSET_NO_MEMORY) and name the file. */
#ifndef INSET_FILE_H
#define INSET_FILE_H

#include "base/base.h"

enum { FILE_MAX_DIMENSIONS = 8 };

/* A tensor in a file. `data` is inside the mapping and holds until the file is closed; it may be unaligned. */
typedef struct file_tensor {
    const char *name;
    inset_type type;
    int32_t n_dimensions;
    int64_t shape[FILE_MAX_DIMENSIONS];
    const void *data;
    size_t bytes;
} file_tensor;

/* ---- safetensors in: memory-mapped, checked in full before use (header length, JSON, types, shape times size against offsets,
 * overlaps, holes, names). Types other than inset's (F8 and the like) are allowed in a file but refused when such a tensor is asked for. */
typedef struct safetensors safetensors;
inset_status safetensors_open(inset_context *context, const char *path, safetensors **out);
void safetensors_close(safetensors *file);                        /* takes NULL */
size_t safetensors_count(const safetensors *file);
const file_tensor *safetensors_at(const safetensors *file, size_t index);     /* in the header's order */
const file_tensor *safetensors_find(const safetensors *file, const char *name);   /* NULL when there is none */
/* Tells the system that the pages of a tensor are not needed soon (after its weights were packed). */
void safetensors_release_pages(const safetensors *file, const file_tensor *tensor);
/* The check itself, on bytes in memory: also the fuzz target. */
inset_status safetensors_parse(inset_context *context, const char *name, const void *bytes, size_t size, safetensors **out);

/* The weights of a Hugging Face directory: model.safetensors, or model.safetensors.index.json and its shards. */
typedef struct weight_files weight_files;
inset_status weight_files_open(inset_context *context, const char *directory, weight_files **out);
void weight_files_close(weight_files *files);
size_t weight_files_count(const weight_files *files);
const file_tensor *weight_files_at(const weight_files *files, size_t index);
const file_tensor *weight_files_find(const weight_files *files, const char *name);
void weight_files_release_pages(const weight_files *files, const file_tensor *tensor);

/* ---- npy in (version 1 to 3, C order, little-endian) -------------------------------------------------------------------------- */
typedef struct npy npy;
inset_status npy_open(inset_context *context, const char *path, npy **out);
inset_status npy_parse(inset_context *context, const char *name, const void *bytes, size_t size, npy **out);
const file_tensor *npy_tensor(const npy *file);
void npy_close(npy *file);

/* ---- safetensors out: written to a temporary name in the same directory, synced, renamed. Nothing is left behind on failure. ------ */
inset_status safetensors_write(inset_context *context, const char *path, const file_tensor *tensors, size_t count,
                               const char *const *metadata /* key, value, key, value, ..., NULL; or NULL */);

/* ---- JSON: typed getters over Jansson. 64-bit integers, duplicate keys refused, error positions, depth bounded. ------------------- */
typedef struct json_document json_document;
typedef struct json_node json_node;              /* a value inside a document; borrowed */
inset_status json_open(inset_context *context, const char *path, json_document **out);
inset_status json_parse(inset_context *context, const char *name, const void *bytes, size_t size, json_document **out);
void json_close(json_document *document);
const json_node *json_root(const json_document *document);
/* Members: NULL when the key is absent or null. */
const json_node *json_member(const json_node *object, const char *key);
size_t json_length(const json_node *node);                        /* of an array or object; 0 otherwise */
const json_node *json_item(const json_node *array, size_t index);
bool json_is_object(const json_node *n);
bool json_is_array(const json_node *n);
bool json_is_string(const json_node *n);
bool json_is_number(const json_node *n);
/* Typed getters: when the key is absent they leave *out as it is and return INSET_OK; when it has another type or is out of range they
 * fail naming document, key, what was expected and what was found. */
inset_status json_get_integer(const json_document *d, const json_node *object, const char *key, int64_t least, int64_t most, int64_t *out);
inset_status json_get_number(const json_document *d, const json_node *object, const char *key, double *out);
inset_status json_get_bool(const json_document *d, const json_node *object, const char *key, bool *out);
inset_status json_get_string(const json_document *d, const json_node *object, const char *key, const char **out);
/* The same, but absence is an error too. */
inset_status json_need_integer(const json_document *d, const json_node *object, const char *key, int64_t least, int64_t most, int64_t *out);
inset_status json_need_string(const json_document *d, const json_node *object, const char *key, const char **out);
const char *json_document_name(const json_document *d);

/* The whole of a file in memory (for scripts); freed with memory_free. At most `limit` bytes. */
inset_status file_read(inset_context *context, const char *path, size_t limit, char **bytes, size_t *size);

#endif
