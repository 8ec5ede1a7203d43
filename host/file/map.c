/* map.c: opening, mapping and reading files. What cannot be mapped safely (pipes, devices,
 * directories, empty files) is refused by its kind, because the system's own words for it ("No such
 * device") do not say what is wrong. */
#include "file/map.h"
#include "file/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *kind_of(mode_t mode)
{
    if (S_ISDIR(mode)) return "a directory";
    if (S_ISFIFO(mode)) return "a pipe";
    if (S_ISSOCK(mode)) return "a socket";
    if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
    return "no regular file";
}

/* A missing file: its name and the directory it was looked for in, in full, for a path relative to
 * somewhere else is the usual reason. */
static inset_status missing(inset_context *context, const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char directory[PATH_MAX] = ".", full[PATH_MAX];
    struct stat about;
    size_t length = slash ? (size_t)(slash - path) : 0;
    if (slash && length < sizeof directory) {
        memcpy(directory, path, length);
        directory[length] = 0;
        if (!length) strcpy(directory, "/");
    }
    if (!realpath(directory, full) || stat(full, &about) || !S_ISDIR(about.st_mode))
        return error_set(context, INSET_FILE_ERROR,
            "%s: there is no directory '%s' to look for '%s' in", path, directory, name);
    return error_set(
        context, INSET_FILE_ERROR, "%s: there is no file '%s' in '%s'", path, name, full);
}

static inset_status cannot_open(inset_context *context, const char *path, int error)
{
    struct stat about;
    if (error == ENOENT || error == ENOTDIR) return missing(context, path);
    if (!stat(path, &about) && !S_ISREG(about.st_mode))
        return error_set(
            context, INSET_FILE_ERROR, "%s: is %s, expected a file", path, kind_of(about.st_mode));
    return error_set(context, INSET_FILE_ERROR, "%s: cannot be opened: %s", path, strerror(error));
}

inset_status file_open(
    inset_context *context, const char *path, bool any_kind, int *descriptor, size_t *size)
{
    struct stat about;
    /* Without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever. */
    int opened = open(path, O_RDONLY | O_CLOEXEC | (any_kind ? 0 : O_NONBLOCK));
    if (opened < 0) return cannot_open(context, path, errno);
    inset_status status = INSET_OK;
    if (fstat(opened, &about)) status = cannot_open(context, path, errno);
    else if (S_ISDIR(about.st_mode) || (!any_kind && !S_ISREG(about.st_mode)))
        status = error_set(
            context, INSET_FILE_ERROR, "%s: is %s, expected a file", path, kind_of(about.st_mode));
    if (status) {
        close(opened);
        return status;
    }
    *descriptor = opened;
    *size = S_ISREG(about.st_mode) ? (size_t)about.st_size : 0;
    return INSET_OK;
}

inset_status map_open(inset_context *context, const char *path, file_map *out)
{
    int descriptor;
    size_t size;
    *out = (file_map){0};
    inset_status status = file_open(context, path, false, &descriptor, &size);
    if (status) return status;
    void *bytes = size ? mmap(NULL, size, PROT_READ, MAP_PRIVATE, descriptor, 0) : MAP_FAILED;
    int error = errno;
    close(descriptor);
    if (!size) return error_set(context, INSET_FILE_ERROR, "%s: is empty", path);
    if (bytes == MAP_FAILED)
        return error_set(context, INSET_FILE_ERROR, "%s: cannot be mapped (%zu bytes): %s", path,
            size, strerror(error));
    *out = (file_map){bytes, size};
    return INSET_OK;
}

void map_close(file_map *map)
{
    if (map->size) munmap((void *)map->bytes, map->size);
    *map = (file_map){0};
}

void map_release(const file_map *map, const void *at, size_t size)
{
    if (!map->size || !size) return;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), start = (uintptr_t)at & ~(page - 1);
    /* only advice: failing is harmless */
    madvise((void *)start, (uintptr_t)at + size - start, MADV_DONTNEED);
}

static inset_status too_long(inset_context *context, const char *path, size_t limit)
{
    return error_set(context, INSET_FILE_ERROR,
        "%s: is longer than %zu bytes, the most that is read of such a file", path, limit);
}

/* Reads to the end of the file into a buffer that grows; `size` is what the system announced, 0
 * when it could not. One byte more than the limit is asked for, to see that there is one. */
static inset_status read_all(inset_context *context, const char *path, int descriptor, size_t limit,
    size_t size, char **bytes, size_t *length)
{
    size_t capacity = 0, have = 0;
    if (size > limit) return too_long(context, path, limit);
    for (;;) {
        size_t want = have + 2 > size + 2 ? have + 2 : size + 2;
        if (!array_reserve(context, bytes, &capacity, want, 1)) return INSET_NO_MEMORY;
        ssize_t got = read(descriptor, *bytes + have, capacity - have - 1);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return error_set(
                context, INSET_FILE_ERROR, "%s: cannot be read: %s", path, strerror(errno));
        if (got == 0) break;
        have += (size_t)got;
        if (have > limit) return too_long(context, path, limit);
    }
    (*bytes)[have] = 0;
    *length = have;
    return INSET_OK;
}

static inset_status read_file(inset_context *context, const char *path, bool any_kind, size_t limit,
    char **bytes, size_t *size)
{
    int descriptor;
    size_t announced;
    *bytes = NULL;
    *size = 0;
    inset_status status = file_open(context, path, any_kind, &descriptor, &announced);
    if (status) return status;
    status = read_all(context, path, descriptor, limit, announced, bytes, size);
    close(descriptor);
    if (status) {
        memory_free(context, *bytes);
        *bytes = NULL;
    }
    return status;
}

inset_status file_read_regular(
    inset_context *context, const char *path, size_t limit, char **bytes, size_t *size)
{
    return read_file(context, path, false, limit, bytes, size);
}

inset_status file_read(
    inset_context *context, const char *path, size_t limit, char **bytes, size_t *size)
{
    return read_file(context, path, true, limit, bytes, size);
}
