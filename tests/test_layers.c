/* test_layers.c: includes point down the layers only. Each folder of host/ may include itself and
 * those before it; models/ builds on program and below; cli uses inset.h alone; kernels/ know
 * nothing of the host. */
#include "test.h"

#include <dirent.h>

/* In order; "kernels" stands where its header is first needed. */
static const char *const order[] = {"base", "file", "text", "program", "models", "trace",
    "trace/gradient", "trace/edit", "script", "kernels", "plan/rows", "plan/wanted", "plan/emit",
    "plan", "device", "device/cpu", "device/cuda", "run", "sweep", "sweep/features", "edges",
    "cache", "api"};
enum { N_LAYERS = sizeof order / sizeof *order };

/* The length of "sweep" in "sweep/chunks": such folders are parts of one layer, unless the list has
 * them. */
static size_t whole_of(const char *folder, size_t length)
{
    const char *slash = memchr(folder, '/', length);
    return slash ? (size_t)(slash - folder) : length;
}

static int rank_of(const char *folder, size_t length)
{
    for (int i = 0; i < N_LAYERS; i++)
        if (strlen(order[i]) == length && !strncmp(order[i], folder, length)) return i;
    const size_t whole = whole_of(folder, length);
    return whole < length ? rank_of(folder, whole) : -1;
}

/* Whether a file of `folder` may include "path". */
static bool allowed(const char *folder, const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return !strcmp(path, "inset.h") || (!strcmp(folder, "kernels") && strcmp(path, "inset.h"));
    size_t length = (size_t)(slash - path);
    if (strlen(folder) == length && !strncmp(folder, path, length)) return true;
    if (!strcmp(folder, "mpi")) return false;
    if (!strncmp(folder, "cli", 3)) /* a user of inset.h, and of the module for MPI */
        return !strncmp(path, "cli/", 4) || !strncmp(path, "mpi/", 4);
    if (!strcmp(folder, "kernels")) return false;
    const int target = rank_of(path, length), own = rank_of(folder, strlen(folder));
    const bool one_layer = target == own
                           && whole_of(path, length) == whole_of(folder, strlen(folder))
                           && !strncmp(path, folder, whole_of(path, length));
    return target >= 0 && own >= 0 && (target < own || one_layer);
}

static int check_file(const char *folder, const char *path)
{
    char *text = test_read(path, NULL), *line = text;
    int includes = 0;
    if (!CHECK(text, "%s cannot be read", path)) return 0;
    for (int number = 1; line && *line; number++) {
        char *end = strchr(line, '\n'), included[256];
        if (end) *end = 0;
        if (sscanf(line, " # include \"%255[^\"]\"", included) == 1) {
            includes++;
            CHECK(allowed(folder, included), "%s:%d: %s must not include \"%s\"", path, number,
                folder, included);
        }
        line = end ? end + 1 : NULL;
    }
    free(text);
    return includes;
}

static int check_folder(const char *folder, const char *below)
{
    char path[4096], file[8192];
    int includes = 0;
    snprintf(path, sizeof path, "../%s%s", below, folder);
    DIR *directory = opendir(path);
    if (!directory) return 0;
    for (struct dirent *entry; (entry = readdir(directory));) {
        const char *dot = strrchr(entry->d_name, '.');
        if (!dot
            || (strcmp(dot, ".c") && strcmp(dot, ".h") && strcmp(dot, ".cu") && strcmp(dot, ".cc")))
            continue;
        snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
        includes += check_file(folder, file);
    }
    closedir(directory);
    return includes;
}

int main(void)
{
    static const char *const parts[] = {
        "cli", "cli/sweep", "mpi", "file/gguf", "sweep/chunks", "sweep/attribution"};
    int includes = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        includes += check_folder(parts[i], "host/");
    for (int i = 0; i < N_LAYERS; i++)
        includes += check_folder(
            order[i], strcmp(order[i], "models") && strcmp(order[i], "kernels") ? "host/" : "");
    CHECK(includes > 50, "only %d includes were found", includes);

    /* The test of the test. */
    CHECK(!allowed("base", "file/file.h"), "an include up the layers was allowed");
    CHECK(!allowed("cli", "base/base.h"), "an include past inset.h was allowed");
    CHECK(!allowed("models", "trace/trace.h"), "a model that knows traces was allowed");
    CHECK(!allowed("plan/rows", "plan/emit/emit.h"), "rows that know launches were allowed");
    CHECK(!allowed("plan/wanted", "plan/plan.h"), "an include of the folder around was allowed");
    CHECK(!allowed("trace", "script/script.h"), "a trace that knows its reader was allowed");
    CHECK(allowed("run", "models/models.h"), "an include down the layers was refused");
    return test_result();
}
