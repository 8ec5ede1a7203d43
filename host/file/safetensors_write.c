/* safetensors_write.c: results as a safetensors file that is either whole or not there. The bytes
 * go to a temporary name in the same directory, reach the disk (fsync), and take the real name by
 * rename, which the system does at once; then the directory reaches the disk. Whatever fails before
 * that, the temporary name is removed and an older file of that name is untouched. */
#include "file/check.h"
#include "file/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const stored_names[INSET_TYPE_COUNT] = {
    [INSET_F32] = "F32",
    [INSET_BF16] = "BF16",
    [INSET_F16] = "F16",
    [INSET_F64] = "F64",
    [INSET_I64] = "I64",
    [INSET_I32] = "I32",
    [INSET_I16] = "I16",
    [INSET_I8] = "I8",
    [INSET_U8] = "U8",
    [INSET_BOOL] = "BOOL",
};

enum { MOST_HEADER = 100000000 }; /* the format's */

typedef struct writer {
    inset_context *context;
    const char *path; /* as the caller gave it, for messages */
    const file_tensor *tensors;
    size_t count;
    bool planned;      /* the tensors have no data yet */
    size_t *order;     /* of the data: indices into tensors */
    uint64_t *offsets; /* by tensor */
    char *header;      /* starts with its length, padded to a multiple of 8 */
    size_t header_size, header_capacity;
    bool out_of_memory;
    char target[PATH_MAX], directory[PATH_MAX], temporary[PATH_MAX];
    int descriptor; /* of the temporary file; -1 while there is none */
    size_t buffered;
    char buffer[1 << 16]; /* many small tensors, few writes */
} writer;

static inset_status refuse(writer *w, const char *doing)
{
    return error_set(w->context, INSET_FILE_ERROR, "%s: %s: %s", w->path, doing, strerror(errno));
}

/* ---- the header --------------------------------------------------------- */

static void put(writer *w, const char *bytes, size_t size)
{
    if (w->out_of_memory
        || !array_reserve(w->context, &w->header, &w->header_capacity, w->header_size + size, 1)) {
        w->out_of_memory = true;
        return;
    }
    memcpy(w->header + w->header_size, bytes, size);
    w->header_size += size;
}

static void put_text(writer *w, const char *text) { put(w, text, strlen(text)); }

static void put_quoted(writer *w, const char *text)
{
    put(w, "\"", 1);
    for (; *text; text++) {
        char escaped[8];
        if (*text == '"' || *text == '\\') snprintf(escaped, sizeof escaped, "\\%c", *text);
        else if ((unsigned char)*text < 0x20) snprintf(escaped, sizeof escaped, "\\u%04x", *text);
        else snprintf(escaped, sizeof escaped, "%c", *text);
        put_text(w, escaped);
    }
    put(w, "\"", 1);
}

static void put_tensor(writer *w, size_t index)
{
    const file_tensor *tensor = &w->tensors[index];
    char number[64];
    put_quoted(w, tensor->name);
    put_text(w, ":{\"dtype\":\"");
    put_text(w, stored_names[tensor->type]);
    put_text(w, "\",\"shape\":[");
    for (int i = 0; i < tensor->n_dimensions; i++) {
        snprintf(number, sizeof number, "%s%lld", i ? "," : "", (long long)tensor->shape[i]);
        put_text(w, number);
    }
    snprintf(number, sizeof number, "],\"data_offsets\":[%llu,%llu]}",
        (unsigned long long)w->offsets[index],
        (unsigned long long)(w->offsets[index] + tensor->bytes));
    put_text(w, number);
}

static void put_metadata(writer *w, const char *const *metadata)
{
    put_text(w, "\"__metadata__\":{");
    for (size_t i = 0; metadata[i] && metadata[i + 1]; i += 2) {
        if (i) put(w, ",", 1);
        put_quoted(w, metadata[i]);
        put(w, ":", 1);
        put_quoted(w, metadata[i + 1]);
    }
    put(w, "}", 1);
}

static inset_status make_header(writer *w, const char *const *metadata)
{
    json_document *check;
    uint64_t length;
    put(w, "\0\0\0\0\0\0\0", 8);
    put(w, "{", 1);
    if (metadata) put_metadata(w, metadata);
    for (size_t i = 0; i < w->count; i++) {
        if (i || metadata) put(w, ",", 1);
        put_tensor(w, i);
    }
    put(w, "}", 1);
    while (w->header_size % 8 && !w->out_of_memory) put(w, " ", 1);
    if (w->out_of_memory) return INSET_NO_MEMORY;
    length = w->header_size - 8;
    if (length > MOST_HEADER)
        return error_set(w->context, INSET_FILE_ERROR,
            "%s: %zu tensors need a header of %llu bytes, the format allows %d", w->path, w->count,
            (unsigned long long)length, MOST_HEADER);
    memcpy(w->header, &length, sizeof length);
    /* The reader's own parser refuses what must not be written: a name twice, a name not in
     * UTF-8. */
    inset_status status = json_parse(w->context, w->path, w->header + 8, length, &check);
    if (!status) json_close(check);
    return status;
}

/* ---- what is written where ---------------------------------------------- */

static inset_status check_tensor(writer *w, const file_tensor *tensor)
{
    if (!tensor->name || !*tensor->name || !strcmp(tensor->name, "__metadata__"))
        return error_set(w->context, INSET_FILE_ERROR, "%s: a tensor cannot have the name '%s'",
            w->path, tensor->name ? tensor->name : "");
    if ((unsigned)tensor->type >= INSET_TYPE_COUNT || tensor->n_dimensions < 0
        || tensor->n_dimensions > FILE_MAX_DIMENSIONS)
        return error_set(w->context, INSET_FILE_ERROR,
            "%s: tensor '%s': type %d with %d dimensions cannot be written", w->path, tensor->name,
            (int)tensor->type, tensor->n_dimensions);
    int64_t bytes;
    if (!shape_product(
            (int64_t)type_size(tensor->type), tensor->n_dimensions, tensor->shape, &bytes)
        || (size_t)bytes != tensor->bytes || (bytes && !tensor->data && !w->planned))
        return error_set(w->context, INSET_FILE_ERROR,
            "%s: tensor '%s': its shape does not go with its %zu bytes", w->path, tensor->name,
            tensor->bytes);
    return INSET_OK;
}

/* Gives the tensors their places in the order w->order; false when one would not be aligned to its
 * type. */
static bool place(writer *w)
{
    uint64_t end = 0;
    bool aligned = true;
    for (size_t i = 0; i < w->count; i++) {
        const file_tensor *tensor = &w->tensors[w->order[i]];
        if (end % type_size(tensor->type)) aligned = false;
        w->offsets[w->order[i]] = end;
        end += tensor->bytes;
    }
    return aligned;
}

/* Wider types first, else as given: then every tensor is aligned, since sizes are powers of two and
 * the data begins at a multiple of 8. */
static void order_by_width(writer *w)
{
    size_t n = 0;
    for (size_t width = 8; width; width /= 2)
        for (size_t i = 0; i < w->count; i++)
            if (type_size(w->tensors[i].type) == width) w->order[n++] = i;
}

static inset_status lay_out(writer *w)
{
    inset_status status = INSET_OK;
    for (size_t i = 0; !status && i < w->count; i++) status = check_tensor(w, &w->tensors[i]);
    if (status) return status;
    w->order = memory_new(w->context, w->count * sizeof *w->order);
    w->offsets = memory_new(w->context, w->count * sizeof *w->offsets);
    if (!w->order || !w->offsets) return INSET_NO_MEMORY;
    for (size_t i = 0; i < w->count; i++) w->order[i] = i;
    if (place(w)) return INSET_OK;
    order_by_width(w);
    place(w);
    return INSET_OK;
}

/* ---- the file ----------------------------------------------------------- */

/* Where the path leads, through links, and the directory that is in. What is there already must be
 * a regular file: renaming onto a device such as /dev/null would replace it. */
static inset_status find_target(writer *w)
{
    struct stat about;
    if (!realpath(w->path, w->target)) {
        if (errno != ENOENT || strlen(w->path) >= sizeof w->target)
            return refuse(w, "cannot be written");
        strcpy(w->target, w->path);
    } else if (!stat(w->target, &about) && !S_ISREG(about.st_mode))
        return error_set(w->context, INSET_FILE_ERROR, "%s: is %s, expected a file or a new name",
            w->path, S_ISDIR(about.st_mode) ? "a directory" : "no regular file");
    strcpy(w->directory, w->target);
    char *slash = strrchr(w->directory, '/');
    if (!slash) strcpy(w->directory, ".");
    else slash[slash == w->directory] = 0;
    return INSET_OK;
}

/* A name of our own in that directory. It must not exist yet (O_EXCL), so nobody else's file is
 * touched and no link followed. */
static inset_status open_temporary(writer *w)
{
    for (int attempt = 0; attempt < 100 && w->descriptor < 0; attempt++) {
        int length = snprintf(w->temporary, sizeof w->temporary, "%.*s/.inset-%ld-%d.tmp",
            (int)sizeof w->temporary - 64, w->directory, (long)getpid(), attempt);
        if (length < 0 || strlen(w->directory) > sizeof w->temporary - 64) errno = ENAMETOOLONG;
        else w->descriptor = open(w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (w->descriptor < 0 && errno != EEXIST) break;
    }
    if (w->descriptor >= 0) return INSET_OK;
    if (errno == ENOENT)
        return error_set(w->context, INSET_FILE_ERROR,
            "%s: there is no directory '%s' to write it to", w->path, w->directory);
    return refuse(w, "cannot be written");
}

static inset_status write_out(writer *w, const char *bytes, size_t size)
{
    while (size) {
        ssize_t written = write(w->descriptor, bytes, size < 1 << 30 ? size : 1 << 30);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return refuse(w, "cannot be written");
        bytes += written;
        size -= (size_t)written;
    }
    return INSET_OK;
}

static inset_status write_buffered(writer *w, const void *bytes, size_t size)
{
    inset_status status = INSET_OK;
    if (w->buffered + size > sizeof w->buffer) {
        status = write_out(w, w->buffer, w->buffered);
        w->buffered = 0;
    }
    if (status) return status;
    if (size > sizeof w->buffer) return write_out(w, bytes, size);
    if (size) memcpy(w->buffer + w->buffered, bytes, size);
    w->buffered += size;
    return INSET_OK;
}

static inset_status write_all(writer *w)
{
    inset_status status = write_buffered(w, w->header, w->header_size);
    for (size_t i = 0; !status && i < w->count; i++)
        status = write_buffered(w, w->tensors[w->order[i]].data, w->tensors[w->order[i]].bytes);
    if (!status) status = write_out(w, w->buffer, w->buffered);
    if (!status && fsync(w->descriptor)) status = refuse(w, "cannot be brought to the disk");
    return status;
}

/* A rename is on the disk when its directory is. Some file systems have no such call for
 * directories and do it themselves. */
static inset_status sync_directory(writer *w)
{
    inset_status status = INSET_OK;
    int directory = open(w->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* writable, not readable */
    if (directory < 0)
        return errno == EACCES ? INSET_OK : refuse(w, "its directory cannot be opened");
    if (fsync(directory) && errno != EINVAL && errno != ENOTSUP && errno != EROFS)
        status = refuse(w, "its directory cannot be brought to the disk");
    close(directory);
    return status;
}

static inset_status write_file(writer *w)
{
    inset_status status = find_target(w);
    if (!status) status = open_temporary(w);
    if (status) return status;
    status = write_all(w);
    if (close(w->descriptor) && !status) status = refuse(w, "cannot be written");
    if (!status && rename(w->temporary, w->target)) status = refuse(w, "cannot get its name");
    if (status) {
        unlink(w->temporary);
        return status;
    }
    if ((status = sync_directory(w))) unlink(w->target);
    return status;
}

inset_status safetensors_write(inset_context *context, const char *path, const file_tensor *tensors,
    size_t count, const char *const *metadata)
{
    writer *w = memory_new(context, sizeof *w);
    if (!w) return INSET_NO_MEMORY;
    w->context = context;
    w->path = path;
    w->tensors = tensors;
    w->count = count;
    w->descriptor = -1;
    inset_status status;
    if (!(status = lay_out(w)) && !(status = make_header(w, metadata))) status = write_file(w);
    memory_free(context, w->order);
    memory_free(context, w->offsets);
    memory_free(context, w->header);
    memory_free(context, w);
    return status;
}

inset_status safetensors_layout(inset_context *context, const char *path,
    const file_tensor *tensors, size_t count, const char *const *metadata, char **header,
    size_t *header_size, uint64_t *offsets)
{
    writer *w = memory_new(context, sizeof *w);
    if (!w) return INSET_NO_MEMORY;
    w->context = context;
    w->path = path;
    w->tensors = tensors;
    w->count = count;
    w->planned = true;
    w->descriptor = -1;
    inset_status status = lay_out(w);
    if (!status) status = make_header(w, metadata);
    for (size_t i = 0; i < count && !status; i++) offsets[i] = w->header_size + w->offsets[i];
    if (status) memory_free(context, w->header);
    else {
        *header = w->header;
        *header_size = w->header_size;
    }
    memory_free(context, w->order);
    memory_free(context, w->offsets);
    memory_free(context, w);
    return status;
}
