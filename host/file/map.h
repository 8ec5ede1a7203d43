/* map.h: regular files as bytes in memory; shared by the files of this folder only. */
#ifndef INSET_FILE_MAP_H
#define INSET_FILE_MAP_H

#include "base/base.h"

/* A file mapped for reading. A file that someone shortens while it is mapped ends the program at
 * the next touch (SIGBUS); nothing short of copying it whole prevents that, so weights must not be
 * rewritten in place. inset itself replaces files by renaming. */
typedef struct file_map {
    const void *bytes;
    size_t size; /* 0 while nothing is mapped */
} file_map;

/* Maps `path` whole. INSET_FILE_ERROR when it is missing (saying where it was looked for), empty,
 * or no regular file. */
inset_status map_open(inset_context *context, const char *path, file_map *out);
void map_close(file_map *map); /* takes one that maps nothing */
/* Drops the pages under [at, at + size): they come back from the file when touched again. */
void map_release(const file_map *map, const void *at, size_t size);

/* Opens `path` for reading without waiting for anybody; a regular file only, unless `any_kind`,
 * which leaves out directories. The size is the file's, 0 for pipes and devices. */
inset_status file_open(
    inset_context *context, const char *path, bool any_kind, int *descriptor, size_t *size);
/* As file_read, from a regular file. */
inset_status file_read_regular(
    inset_context *context, const char *path, size_t limit, char **bytes, size_t *size);

#endif
