/* index.c: cache.json, which says with what a cache was made and which shards are whole; the folder
 * it is in; and what a shard's file has where.
 *
 * The settings are all that decides the bytes of the shards. A folder that was begun with others is
 * refused, by the name of the first that differs. */
#include "cache/cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device/device.h"
#include "file/file.h"

static const char format[] = "inset cache 1";

static inset_status refuse(const cache *c, const char *what)
{
    return error_set(c->context, INSET_FILE_ERROR, "%s: %s", c->directory, what);
}

/* ---- cache.json out ----------------------------------------------------- */

static json_t *settings_json(const cache *c)
{
    json_t *all = json_object();
    for (int i = 0; i < c->n_settings; i++)
        json_object_set_new(all, c->settings[i].name, json_string(c->settings[i].value));
    return all;
}

static json_t *tensors_json(const cache *c)
{
    json_t *all = json_array();
    for (size_t i = 0; i < c->n_taps; i++) {
        const cache_tap *tap = &c->taps[i];
        char site[256];
        program_site_name(c->program, tap->place, site, sizeof site);
        json_t *shape = json_array();
        for (int d = 0; d < tap->n_dimensions; d++)
            json_array_append_new(shape, json_integer(tap->shape[d]));
        json_array_append_new(
            all, json_pack("{s:s, s:s, s:o}", "name", tap->name, "site", site, "shape", shape));
    }
    return all;
}

static json_t *shards_json(const cache *c, int64_t and)
{
    json_t *all = json_array();
    for (int64_t i = 0; i < c->n_shards; i++) {
        char name[INDEX_NAME_MOST];
        if (!c->done[i] && i != and) continue;
        shard_name(i, name);
        json_array_append_new(all, json_pack("{s:s, s:I, s:I, s:I}", "file", name, "first_prompt",
                                       (json_int_t)c->first_prompt[i], "prompts",
                                       (json_int_t)(c->first_prompt[i + 1] - c->first_prompt[i]),
                                       "rows", (json_int_t)c->rows[i]));
    }
    return all;
}

char *index_text(const cache *c, int64_t and)
{
    bool complete = true;
    for (int64_t i = 0; i < c->n_shards; i++) complete = complete && (c->done[i] || i == and);
    json_t *all = json_pack("{s:s, s:s, s:o, s:o, s:I, s:I, s:I, s:o, s:b}", "format", format,
        "model", c->model_name ? c->model_name : "", "settings", settings_json(c), "tensors",
        tensors_json(c), "prompts", (json_int_t)c->prompts.count, "tokens",
        (json_int_t)c->total_tokens, "rows", (json_int_t)c->total_rows, "shards",
        shards_json(c, and), "complete", (int)complete);
    char *text = all ? json_dumps(all, JSON_INDENT(1)) : NULL;
    json_decref(all);
    return text;
}

/* ---- a shard's file ----------------------------------------------------- */

static void describe_tensors(const cache *c, int64_t rows, file_tensor *out)
{
    static const char *const names[INDEX_TENSORS] = {"prompt", "position", "token"};
    for (size_t i = 0; i < c->n_taps + INDEX_TENSORS; i++) {
        const cache_tap *tap = i < c->n_taps ? &c->taps[i] : NULL;
        out[i] = (file_tensor){.name = tap ? tap->name : names[i - c->n_taps],
            .type = tap ? c->type : INSET_I64,
            .n_dimensions = 1 + (tap ? tap->n_dimensions : 0),
            .shape = {rows},
            .bytes = (size_t)rows * (tap ? tap->row_bytes : sizeof(int64_t))};
        for (int d = 0; tap && d < tap->n_dimensions; d++) out[i].shape[d + 1] = tap->shape[d];
    }
}

inset_status index_shard_layout(
    cache *c, int64_t number, char **header, size_t *header_size, uint64_t *file_size)
{
    const size_t n = c->n_taps + INDEX_TENSORS;
    const int64_t rows = c->rows[number];
    char name[INDEX_NAME_MOST], prompts[64];
    const char *const metadata[] = {"inset", format, "prompts", prompts, NULL};
    file_tensor *tensors = memory_new(c->context, n * sizeof *tensors);
    if (!tensors) return INSET_NO_MEMORY;
    shard_name(number, name);
    snprintf(prompts, sizeof prompts, "%" PRId64 ":%" PRId64, c->first_prompt[number],
        c->first_prompt[number + 1]);
    describe_tensors(c, rows, tensors);
    inset_status status = safetensors_layout(
        c->context, name, tensors, n, metadata, header, header_size, c->offsets);
    if (!status) *file_size = *header_size + (uint64_t)rows * c->row_bytes;
    memory_free(c->context, tensors);
    return status;
}

/* Is the shard's file there, and as long as it must be? */
static inset_status is_there(cache *c, int64_t number, bool *out)
{
    char *header, name[INDEX_NAME_MOST];
    size_t header_size;
    uint64_t size;
    struct stat found;
    inset_status status = index_shard_layout(c, number, &header, &header_size, &size);
    if (status) return status;
    memory_free(c->context, header);
    shard_name(number, name);
    *out = fstatat(c->descriptor, name, &found, 0) == 0 && S_ISREG(found.st_mode)
           && (uint64_t)found.st_size == size;
    return INSET_OK;
}

/* ---- cache.json in ------------------------------------------------------ */

static inset_status compare_settings(const cache *c, const json_node *root)
{
    const json_node *found = json_member(root, "settings");
    for (int i = 0; i < c->n_settings; i++) {
        const char *before = "";
        json_as_string(json_member(found, c->settings[i].name), &before);
        if (!strcmp(before, c->settings[i].value)) continue;
        inset_status status = error_set(c->context, INSET_VALUE_ERROR,
            "%s was begun with other settings: %s was '%s' and is now '%s'", c->directory,
            c->settings[i].name, before, c->settings[i].value);
        error_help(c->context, "Give what it was begun with to go on, or another folder.");
        return status;
    }
    return INSET_OK;
}

/* Both lists of shards are in the order of their prompts. */
static inset_status read_done(cache *c, const json_node *shards)
{
    inset_status status = INSET_OK;
    int64_t k = 0;
    for (size_t i = 0; i < json_length(shards) && !status; i++) {
        int64_t first = -1;
        json_as_integer(json_member(json_item(shards, i), "first_prompt"), &first);
        while (k < c->n_shards && c->first_prompt[k] < first) k++;
        if (k < c->n_shards && c->first_prompt[k] == first) status = is_there(c, k, &c->done[k]);
    }
    return status;
}

static inset_status read_index(cache *c, const char *path)
{
    json_document *document;
    inset_status status = json_open(c->context, path, &document);
    if (status) return status;
    const json_node *root = json_root(document);
    const char *found = "";
    json_as_string(json_member(root, "format"), &found);
    if (strcmp(found, format))
        status = error_set(c->context, INSET_FILE_ERROR,
            "%s: this is no cache of this version of inset: its format is '%s', expected '%s'",
            path, found, format);
    if (!status) status = compare_settings(c, root);
    if (!status) status = read_done(c, json_member(root, "shards"));
    json_close(document);
    return status;
}

/* ---- the folder --------------------------------------------------------- */

enum { LOCK_NAME_MOST = 64 };

/* "cache.3-of-16.json", what a part has made. */
static bool is_part_index(const char *name)
{
    int64_t part, parts;
    int end = 0;
    sscanf(name, "cache.%" SCNd64 "-of-%" SCNd64 ".json%n", &part, &parts, &end);
    return end && !name[end];
}

/* The same, and what a killed process left beside it. */
static bool is_of_a_part(const char *name)
{
    char index[NAME_MAX + 1];
    snprintf(index, sizeof index, "%s", name);
    char *end = strstr(index, ".json");
    if (end) end[5] = 0;
    return end && is_part_index(index);
}

/* What belongs to a cache of parts, of which others may write some at this moment. */
static bool is_of_parts(const char *name)
{
    return !strncmp(name, "cache.", 6) || (name[0] >= '0' && name[0] <= '9');
}

/* May a cache begin here? What a killed process left before its first index does not count. */
static inset_status need_empty(const cache *c)
{
    DIR *folder = opendir(c->directory);
    bool empty = true;
    if (!folder) return refuse(c, strerror(errno));
    for (const struct dirent *entry; (entry = readdir(folder));) {
        const char *name = entry->d_name, *dot = strrchr(name, '.');
        const bool left = !strncmp(name, "cache.", 6)
                          && (!strcmp(dot, ".partial") || !strcmp(dot, ".lock"));
        empty = empty
                && (!strcmp(name, ".") || !strcmp(name, "..") || left
                    || (c->parts && is_of_parts(name)));
    }
    closedir(folder);
    return empty ? INSET_OK
                 : refuse(c, "the folder has other files and no cache.json; an empty or a new one "
                             "was expected");
}

/* Reads an index, or none where it is gone by now: a part that was joined. */
static inset_status read_if_there(cache *c, const char *name, bool *found)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", c->directory, name);
    if (faccessat(c->descriptor, name, F_OK, 0)) return INSET_OK;
    inset_status status = read_index(c, path);
    if (status && faccessat(c->descriptor, name, F_OK, 0)) return INSET_OK;
    *found = true;
    return status;
}

/* All parts', then cache.json: a part's is only gone when cache.json has what it said. */
static inset_status read_all(cache *c, bool *found)
{
    DIR *folder = opendir(c->directory);
    inset_status status = INSET_OK;
    *found = false;
    if (!folder) return refuse(c, strerror(errno));
    for (const struct dirent *entry; !status && (entry = readdir(folder));)
        if (is_part_index(entry->d_name)) status = read_if_there(c, entry->d_name, found);
    closedir(folder);
    return status ? status : read_if_there(c, "cache.json", found);
}

static void name_lock(const cache *c, char out[LOCK_NAME_MOST])
{
    snprintf(out, LOCK_NAME_MOST, "%s.lock", c->index_name);
}

/* Parts share the folder, and each has a file of its own to lock. */
static inset_status lock_part(cache *c)
{
    char name[LOCK_NAME_MOST];
    if (!c->parts) return INSET_OK;
    name_lock(c, name);
    c->part_lock = openat(c->descriptor, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (c->part_lock < 0) return refuse(c, strerror(errno));
    if (flock(c->part_lock, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK)
        return refuse(c, "another process is writing this part of the cache");
    return INSET_OK;
}

static inset_status lock_folder(cache *c)
{
    if (mkdir(c->directory, 0777) && errno != EEXIST) return refuse(c, strerror(errno));
    c->descriptor = open(c->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (c->descriptor < 0) return refuse(c, strerror(errno));
    if (faccessat(c->descriptor, ".", W_OK, 0)) return refuse(c, strerror(errno));
    /* a file system without locks has none */
    if (flock(c->descriptor, (c->parts ? LOCK_SH : LOCK_EX) | LOCK_NB) && errno == EWOULDBLOCK)
        return refuse(c, "another process is writing this cache");
    return lock_part(c);
}

inset_status index_open(cache *c)
{
    bool found;
    if (strlen(c->directory) + 2 * INDEX_NAME_MOST > PATH_MAX)
        return refuse(c, "the path is too long");
    if (c->parts)
        snprintf(c->index_name, sizeof c->index_name, "cache.%" PRId64 "-of-%" PRId64 ".json",
            c->part, c->parts);
    else snprintf(c->index_name, sizeof c->index_name, "cache.json");
    inset_status status = lock_folder(c);
    if (!status) status = read_all(c, &found);
    return status || found ? status : need_empty(c);
}

void index_close(cache *c)
{
    char name[LOCK_NAME_MOST];
    if (c->part_lock >= 0) {
        name_lock(c, name);
        unlinkat(c->descriptor, name, 0);
        close(c->part_lock);
    }
    if (c->descriptor >= 0) close(c->descriptor);
}

/* ---- parts that are done ------------------------------------------------- */

/* Several may find at once that all is there: they write the same bytes. */
static inset_status write_joined(cache *c)
{
    char *text = index_text(c, -1), partial[64];
    if (!text) return error_no_memory(c->context);
    const size_t size = strlen(text);
    snprintf(partial, sizeof partial, "%s.joined.partial", c->index_name);
    const int file = openat(c->descriptor, partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    bool good = file >= 0 && write(file, text, size) == (ssize_t)size && fsync(file) == 0;
    if (file >= 0 && close(file)) good = false;
    good = good && renameat(c->descriptor, partial, c->descriptor, "cache.json") == 0;
    /* another has joined them, and removed this with all that was the parts' */
    if (!good && errno == ENOENT) good = faccessat(c->descriptor, "cache.json", F_OK, 0) == 0;
    free(text);
    return good ? INSET_OK : refuse(c, strerror(errno));
}

static void remove_parts(const cache *c)
{
    DIR *folder = opendir(c->directory);
    if (!folder) return;
    for (const struct dirent *entry; (entry = readdir(folder));)
        if (is_of_a_part(entry->d_name)) unlinkat(c->descriptor, entry->d_name, 0);
    closedir(folder);
}

inset_status index_join(cache *c, bool *complete)
{
    bool found;
    inset_status status = c->parts ? read_all(c, &found) : INSET_OK;
    *complete = !status;
    for (int64_t i = 0; i < c->n_shards; i++) *complete = *complete && c->done[i];
    if (!*complete) return status;
    if (c->parts && (status = write_joined(c))) return status;
    remove_parts(c);
    return INSET_OK;
}
