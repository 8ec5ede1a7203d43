/* files.h: what the tests of host/file share: a directory of their own, files with given bytes,
 * refusals with given words. */
#ifndef INSET_FILES_H
#define INSET_FILES_H

#include "file/file.h"
#include "world.h"

#include <unistd.h>

/* of this run's files; removed at the end */
__attribute__((unused)) static char directory[256];

/* A path in it; one of eight buffers. */
__attribute__((unused)) static const char *at(const char *name)
{
    static char paths[8][512];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

__attribute__((unused)) static void write_file(const char *path, const void *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    NEED(file, "%s", path);
    CHECK(fwrite(bytes, 1, size, file) == size, "%s", path);
    fclose(file);
}

__attribute__((unused)) static void write_text(const char *path, const char *text)
{
    write_file(path, text, strlen(text));
}

/* length, header, `data_size` bytes 0, 1, 2, ...; the size is returned. */
__attribute__((unused)) static size_t make_safetensors(
    char *out, const char *header, size_t data_size)
{
    uint64_t length = strlen(header);
    memcpy(out, &length, 8);
    memcpy(out + 8, header, length);
    for (size_t i = 0; i < data_size; i++) out[8 + length + i] = (char)i;
    return 8 + length + data_size;
}

__attribute__((unused)) static void write_safetensors(
    const char *path, const char *header, size_t data_size)
{
    char bytes[4096];
    write_file(path, bytes, make_safetensors(bytes, header, data_size));
}

#define TENSOR(name, type, shape, begin, end)                                                     \
    "\"" name "\":{\"dtype\":\"" type "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end \
    "]}"

/* A FileError of one line, without escape sequences, that has these words. */
__attribute__((unused)) static void check_refused(
    inset_context *context, inset_status status, const char *name, const char *words)
{
    const char *message = inset_message(context);
    CHECK(status == INSET_FILE_ERROR, "%s: status %d (%s)", name, status, message);
    CHECK(strstr(message, words), "%s:\n  expected: %s\n  found: %s", name, words, message);
    CHECK(!strncmp(message, "FileError: ", 11) && !strchr(message, '\n') && !strchr(message, 27),
        "%s: %s", name, message);
}

/* Whether a writer left its temporary file in the directory. */
__attribute__((unused)) static bool left_behind(void)
{
    char command[600];
    snprintf(command, sizeof command, "ls -a '%s' | grep -q '^[.]inset'", directory);
    return system(command) == 0;
}

/* Makes the directory; 1 when that cannot be. */
__attribute__((unused)) static int directory_start(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(directory, sizeof directory, "%s/inset-test-XXXXXX", base && *base ? base : "/tmp");
    if (mkdtemp(directory)) return 0;
    perror(directory);
    return 1;
}

__attribute__((unused)) static void directory_end(void)
{
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s'", directory);
    if (system(command)) perror(command);
}

#endif
