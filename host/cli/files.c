/* files.c: what several commands do with files: may a name be taken, writing under another name
 * first, and what the metadata says. */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"

int file_error(const char *path, const char *what)
{
    if (!ranks_are_silent()) fprintf(stderr, "FileError: %s: %s\n", path, what);
    return EXIT_MACHINE;
}

bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n > m && !strcmp(text + n - m, end);
}

/* Whether a file can be made at `path`, and none is there that must not be replaced. */
int check_place(const options *given, const char *path)
{
    struct stat found;
    char folder[PATH_MAX];
    if (!path) return EXIT_OK;
    const char *slash = strrchr(path, '/');
    size_t length = !slash ? 0 : slash == path ? 1 : (size_t)(slash - path);
    if (strlen(path) + sizeof ".partial" >= sizeof folder)
        return file_error(path, "the path is too long");
    snprintf(folder, sizeof folder, "%.*s", (int)length, length ? path : "");
    if (stat(length ? folder : ".", &found)) return file_error(path, strerror(errno));
    if (!S_ISDIR(found.st_mode)) return file_error(path, strerror(ENOTDIR));
    if (access(length ? folder : ".", W_OK)) return file_error(path, strerror(errno));
    if (stat(path, &found)) return EXIT_OK;
    if (S_ISDIR(found.st_mode)) return file_error(path, strerror(EISDIR));
    return given->force ? EXIT_OK : file_error(path, "it exists; --force replaces it");
}

int check_state(const options *given, const char *output, char *state, size_t size)
{
    if (!output) return EXIT_OK;
    snprintf(state, size, "%s.partial", output);
    if (given->resume || access(state, F_OK)) return EXIT_OK;
    if (!given->force)
        return file_error(state,
            "an unfinished sweep was left here: --resume goes on with it, --force starts anew");
    return remove(state) ? file_error(state, strerror(errno)) : EXIT_OK;
}

/* An argument that decides no number: where results go, and by whom. *takes_value: the
 * next word belongs to it. */
static bool is_left_out(const char *argument, bool *takes_value)
{
    static const char *const flags[] = {"--resume", "--force", "--json"}, *const words[] = {"-o",
                                                                              "--output", "--plot",
                                                                              "-d", "--device",
                                                                              "--shard"};
    *takes_value = false;
    for (int i = 0; i < 6; i++) {
        size_t n = strlen(words[i]);
        if ((i < 3 && !strcmp(argument, flags[i]))
            || (n > 2 && !strncmp(argument, words[i], n) && argument[n] == '='))
            return true;
        if (!strcmp(argument, words[i])) return *takes_value = true;
    }
    return false;
}

/* The command for the metadata, so that an interrupted and resumed sweep, or one under another
 * name, gives the same file. */
void command_text(int count, char **arguments, char *out, size_t size)
{
    bool takes_value;
    size_t n = (size_t)snprintf(out, size, "inset");
    for (int i = 0; i < count && n < size; i++) {
        if (is_left_out(arguments[i], &takes_value)) {
            i += takes_value;
            continue;
        }
        bool plain = *arguments[i]
                     && !arguments[i][strcspn(arguments[i], " \t\n'\"\\$&|;<>()[]*?#~`{}!")];
        n += (size_t)snprintf(out + n, size - n, plain ? " %s" : " '%s'", arguments[i]);
    }
}

/* A hash of config.json and of the weights' files, or of the GGUF file: their sizes, and blocks
 * from all over them. */
void model_version(const char *directory, char *out, size_t size)
{
    enum { BLOCK = 1 << 16, BLOCKS = 64 };
    static const char *const names[] = {
        "config.json", "model.safetensors", "model.safetensors.index.json"};
    unsigned char block[BLOCK];
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[PATH_MAX];
        struct stat found;
        if (ends_with(directory, ".gguf") && i) break;
        if (ends_with(directory, ".gguf")) snprintf(path, sizeof path, "%s", directory);
        else snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        FILE *file = fopen(path, "rb");
        if (!file) continue;
        long long bytes = fstat(fileno(file), &found) ? 0 : (long long)found.st_size,
                  step = bytes / BLOCKS < BLOCK ? BLOCK : bytes / BLOCKS;
        for (long long at = 0; at < bytes && fseeko(file, (off_t)at, SEEK_SET) == 0; at += step) {
            size_t n = fread(block, 1, sizeof block, file);
            for (size_t k = 0; k < n; k++) hash = (hash ^ block[k]) * 0x100000001b3u;
        }
        hash = (hash ^ (uint64_t)bytes) * 0x100000001b3u;
        fclose(file);
    }
    snprintf(out, size, "%016" PRIx64, hash);
}

/* Writes through `write` to another name, which then takes the place of `path`. */
int write_file(const char *path, bool (*write)(const void *what, FILE *to), const void *what)
{
    char temporary[PATH_MAX + 16];
    snprintf(temporary, sizeof temporary, "%s.%ld", path, (long)getpid());
    FILE *file = fopen(temporary, "wb");
    if (!file) return file_error(path, strerror(errno));
    bool good = write(what, file) && fflush(file) == 0 && fsync(fileno(file)) == 0;
    int reason = errno;
    if (fclose(file) && good) {
        good = false;
        reason = errno;
    }
    if (good && rename(temporary, path) == 0) return EXIT_OK;
    if (good) reason = errno;
    remove(temporary);
    return file_error(path, strerror(reason));
}
