/* weights.c: the weights of a Hugging Face directory as one list of tensors, whether they lie in
 * one file or in shards with an index, or were given in memory.
 *
 * The index is a JSON object whose "weight_map" gives each tensor the name of its shard. It is as
 * hostile as any file: a shard must be a plain name, so that an index cannot reach outside its
 * directory, and what it says about a tensor must be so. */
#include "file/check.h"
#include "file/file.h"
#include "file/gguf/gguf.h"

#include <string.h>
#include <sys/stat.h>

static const char single_name[] = "model.safetensors",
                  index_name[] = "model.safetensors.index.json";
enum { MOST_FILE_NAME = 255, MOST_NAME = 1024 };

typedef struct shard {
    const char *name;
    safetensors *file;
} shard;

struct weight_files {
    inset_context *context;
    arena arena; /* names and paths */
    const char *directory;
    shard *shards;
    size_t n_shards, shard_capacity;
    table shards_by_name;
    const file_tensor **tensors; /* of all shards */
    int32_t *shard_of;           /* beside tensors */
    size_t count;
    table by_name;
    gguf *quantised; /* where the weights are one GGUF file */
};

static const char *path_in(weight_files *files, const char *name)
{
    size_t length = strlen(files->directory), size = length + strlen(name) + 2;
    char *path = arena_new(&files->arena, size);
    if (!path) return NULL;
    memcpy(path, files->directory, length);
    if (length && path[length - 1] != '/') path[length++] = '/';
    strcpy(path + length, name);
    return path;
}

/* ---- shards ------------------------------------------------------------- */

static const shard *find_shard(const weight_files *files, const char *name)
{
    size_t cursor = 0;
    int32_t index;
    while ((index = table_next(&files->shards_by_name, hash_bytes(0, name, strlen(name)), &cursor))
           >= 0)
        if (!strcmp(files->shards[index].name, name)) return &files->shards[index];
    return NULL;
}

static inset_status add_shard(weight_files *files, const char *name)
{
    const char *path = path_in(files, name);
    if (!path
        || !array_reserve(files->context, &files->shards, &files->shard_capacity,
            files->n_shards + 1, sizeof *files->shards))
        return INSET_NO_MEMORY;
    shard *added = &files->shards[files->n_shards];
    if (!(added->name = arena_text(&files->arena, name, strlen(name)))) return INSET_NO_MEMORY;
    inset_status status = safetensors_open(files->context, path, &added->file);
    if (status) return status;
    files->n_shards++;
    return table_add(files->context, &files->shards_by_name, hash_bytes(0, name, strlen(name)),
               (int32_t)files->n_shards - 1)
               ? INSET_OK
               : INSET_NO_MEMORY;
}

static inset_status add_tensor(weight_files *files, int32_t shard_index, const file_tensor *tensor)
{
    const shard *of = &files->shards[shard_index];
    const file_tensor *other = weight_files_find(files, tensor->name);
    if (other) {
        int32_t first = 0;
        while (safetensors_find(files->shards[first].file, tensor->name) != other) first++;
        return error_set(files->context, INSET_FILE_ERROR,
            "%s: tensor '%s' is in two shards, '%s' and '%s'", files->directory, tensor->name,
            files->shards[first].name, of->name);
    }
    files->tensors[files->count] = tensor;
    files->shard_of[files->count] = shard_index;
    if (!table_add(files->context, &files->by_name,
            hash_bytes(0, tensor->name, strlen(tensor->name)), (int32_t)files->count))
        return INSET_NO_MEMORY;
    files->count++;
    return INSET_OK;
}

/* All tensors of all shards as one list. */
static inset_status collect(weight_files *files)
{
    size_t total = 0;
    inset_status status = INSET_OK;
    for (size_t s = 0; s < files->n_shards; s++) total += safetensors_count(files->shards[s].file);
    files->tensors = memory_new(files->context, total * sizeof *files->tensors);
    files->shard_of = memory_new(files->context, total * sizeof *files->shard_of);
    if (!files->tensors || !files->shard_of) return INSET_NO_MEMORY;
    for (size_t s = 0; s < files->n_shards; s++)
        for (size_t i = 0; !status && i < safetensors_count(files->shards[s].file); i++)
            status = add_tensor(files, (int32_t)s, safetensors_at(files->shards[s].file, i));
    return status;
}

/* ---- the index ---------------------------------------------------------- */

static inset_status check_entry(weight_files *files, const char *path, const char *tensor,
    const json_node *node, const char **file)
{
    if (!name_is_plain(tensor, MOST_NAME))
        return error_set(files->context, INSET_FILE_ERROR,
            "%s: a tensor's name in 'weight_map' must have 1 to %d bytes and no control characters",
            path, MOST_NAME);
    if (!json_as_string(node, file))
        return error_set(files->context, INSET_FILE_ERROR,
            "%s: 'weight_map' must give tensor '%s' the name of a file", path, tensor);
    if (!name_is_plain(*file, MOST_FILE_NAME) || strchr(*file, '/') || !strcmp(*file, ".")
        || !strcmp(*file, ".."))
        return error_set(files->context, INSET_FILE_ERROR,
            "%s: tensor '%s': '%.64s' is no plain name of a file in this directory", path, tensor,
            name_is_plain(*file, SIZE_MAX - 1) ? *file : "?");
    return INSET_OK;
}

static inset_status open_shards(weight_files *files, const char *path, const json_node *map)
{
    void *cursor = NULL;
    const char *tensor, *file;
    const json_node *node;
    inset_status status = INSET_OK;
    while (!status && json_next(map, &cursor, &tensor, &node)) {
        status = check_entry(files, path, tensor, node, &file);
        if (!status && !find_shard(files, file)) status = add_shard(files, file);
    }
    return status;
}

static inset_status check_map(weight_files *files, const char *path, const json_node *map)
{
    void *cursor = NULL;
    const char *tensor, *file = "";
    const json_node *node;
    while (json_next(map, &cursor, &tensor, &node)) {
        json_as_string(node, &file);
        if (!safetensors_find(find_shard(files, file)->file, tensor))
            return error_set(files->context, INSET_FILE_ERROR,
                "%s: tensor '%s' should be in '%s', which does not have it", path, tensor, file);
    }
    return INSET_OK;
}

static inset_status read_index(weight_files *files, const char *path)
{
    json_document *index = NULL;
    inset_status status = json_open(files->context, path, &index);
    if (status) return status;
    const json_node *map = json_member(json_root(index), "weight_map");
    if (!json_is_object(map) || !json_length(map))
        status = error_set(files->context, INSET_FILE_ERROR,
            "%s: 'weight_map' must be an object that gives each tensor its file", path);
    else if (!(status = open_shards(files, path, map))) status = check_map(files, path, map);
    json_close(index);
    return status;
}

/* ---- open, close, look up ----------------------------------------------- */

static bool exists(weight_files *files, const char *name, const char **path)
{
    struct stat about;
    /* a link to nowhere exists too: opening says where */
    return (*path = path_in(files, name)) && !lstat(*path, &about);
}

static inset_status no_weights(weight_files *files)
{
    struct stat about;
    const char *path, *directory = *files->directory ? files->directory : ".";
    if (stat(directory, &about))
        return error_set(
            files->context, INSET_FILE_ERROR, "%s: there is no such directory", directory);
    if (!S_ISDIR(about.st_mode))
        return error_set(files->context, INSET_FILE_ERROR,
            "%s: is no directory; a model is a directory with config.json and %s", directory,
            single_name);
    bool pickled = exists(files, "pytorch_model.bin", &path)
                   || exists(files, "pytorch_model.bin.index.json", &path);
    return error_set(files->context, INSET_FILE_ERROR, "%s: has neither %s nor %s%s", directory,
        single_name, index_name,
        pickled ? "; inset does not read pytorch_model.bin, which "
                  "save_pretrained(safe_serialization=True) converts"
                : "");
}

static inset_status build(weight_files *files, const char *directory)
{
    const char *path = NULL;
    inset_status status;
    if (!(files->directory = arena_text(&files->arena, directory, strlen(directory))))
        return INSET_NO_MEMORY;
    if (exists(files, single_name, &path)) status = add_shard(files, single_name);
    else if (path && exists(files, index_name, &path)) status = read_index(files, path);
    else status = path ? no_weights(files) : INSET_NO_MEMORY;
    return status ? status : collect(files);
}

static inset_status copy_tensors(weight_files *files, const file_tensor *tensors, size_t count);

/* A GGUF file in the place of a directory. */
static inset_status build_from_gguf(weight_files *files, const char *path)
{
    file_tensor *tensors;
    size_t count;
    if (!(files->directory = arena_text(&files->arena, path, strlen(path)))) return INSET_NO_MEMORY;
    inset_status status = gguf_open(files->context, path, &files->quantised);
    if (!status) status = gguf_weights(files->quantised, &files->arena, &tensors, &count);
    return status ? status : copy_tensors(files, tensors, count);
}

inset_status weight_files_open(inset_context *context, const char *directory, weight_files **out)
{
    *out = NULL;
    weight_files *files = memory_new(context, sizeof *files);
    if (!files) return INSET_NO_MEMORY;
    files->context = context;
    arena_start(&files->arena, context);
    inset_status status = is_gguf(directory) ? build_from_gguf(files, directory)
                                             : build(files, directory);
    if (status) {
        weight_files_close(files);
        return status;
    }
    *out = files;
    return INSET_OK;
}

static inset_status copy_tensors(weight_files *files, const file_tensor *tensors, size_t count)
{
    file_tensor *own = arena_new(&files->arena, count * sizeof *own);
    files->tensors = memory_new(files->context, count * sizeof *files->tensors);
    if (!own || !files->tensors) return INSET_NO_MEMORY;
    for (size_t i = 0; i < count; i++) {
        own[i] = tensors[i];
        if (!(own[i].name = arena_text(&files->arena, tensors[i].name, strlen(tensors[i].name))))
            return INSET_NO_MEMORY;
        if (weight_files_find(files, own[i].name))
            return error_set(files->context, INSET_VALUE_ERROR, "%s: '%s' is there twice",
                files->directory, own[i].name);
        files->tensors[i] = &own[i];
        if (!table_add(files->context, &files->by_name,
                hash_bytes(0, own[i].name, strlen(own[i].name)), (int32_t)i))
            return INSET_NO_MEMORY;
        files->count++;
    }
    return INSET_OK;
}

inset_status weight_files_from(inset_context *context, const char *name, const file_tensor *tensors,
    size_t count, weight_files **out)
{
    *out = NULL;
    weight_files *files = memory_new(context, sizeof *files);
    if (!files) return INSET_NO_MEMORY;
    files->context = context;
    arena_start(&files->arena, context);
    inset_status status = INSET_NO_MEMORY;
    if ((files->directory = arena_text(&files->arena, name, strlen(name))))
        status = copy_tensors(files, tensors, count);
    if (status) weight_files_close(files);
    else *out = files;
    return status;
}

void weight_files_close(weight_files *files)
{
    if (!files) return;
    for (size_t s = 0; s < files->n_shards; s++) safetensors_close(files->shards[s].file);
    memory_free(files->context, files->shards);
    table_free(files->context, &files->shards_by_name);
    memory_free(files->context, files->tensors);
    memory_free(files->context, files->shard_of);
    table_free(files->context, &files->by_name);
    gguf_close(files->quantised);
    arena_free(&files->arena);
    memory_free(files->context, files);
}

size_t weight_files_count(const weight_files *files) { return files->count; }

const file_tensor *weight_files_at(const weight_files *files, size_t index)
{
    return index < files->count ? files->tensors[index] : NULL;
}

static int32_t find_index(const weight_files *files, const char *name)
{
    size_t cursor = 0;
    int32_t index;
    while ((index = table_next(&files->by_name, hash_bytes(0, name, strlen(name)), &cursor)) >= 0)
        if (!strcmp(files->tensors[index]->name, name)) return index;
    return -1;
}

const file_tensor *weight_files_find(const weight_files *files, const char *name)
{
    int32_t index = find_index(files, name);
    return index < 0 ? NULL : files->tensors[index];
}

void weight_files_release_pages(const weight_files *files, const file_tensor *tensor)
{
    int32_t index = files->n_shards ? find_index(files, tensor->name) : -1;
    if (index >= 0) safetensors_release_pages(files->shards[files->shard_of[index]].file, tensor);
}
