/* cache.c: `inset cache`: what sites hold in the runs of many prompts, as a folder of shards. */
#include "cli/sweep/sweep.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct session {
    const options *given;
    inset_context *context;
    inset_model *model;
    inset_cache *cache;
    double started, drawn; /* seconds */
} session;

static inset_cache_options cache_options(const options *given, const char *version)
{
    inset_cache_options wanted = INSET_CACHE_OPTIONS;
    wanted.prompts.text = given->prompts;
    wanted.sites = given->sites;
    wanted.layers = given->layers;
    wanted.positions = given->positions;
    wanted.dtype = given->kept_dtype;
    wanted.directory = given->output;
    wanted.shard_bytes = given->shard_bytes;
    wanted.batch_tokens = given->batch;
    wanted.no_share = given->no_share;
    wanted.memory_limit = given->memory;
    wanted.model = given->model;
    wanted.version = version;
    return wanted;
}

/* On a terminal, ten times a second. */
static void draw_progress(session *s, bool last)
{
    inset_cache_progress is = INSET_CACHE_PROGRESS;
    const double now = now_seconds(), passed = now - s->started;
    if (!isatty(STDERR_FILENO) || (!last && now - s->drawn < 0.1)) return;
    s->drawn = now;
    fprintf(stderr, "\r\033[K");
    if (last || inset_cache_progress_of(s->cache, &is)) return;
    const double here = (double)(is.done - is.restored), rate = passed > 0 ? here / passed : 0;
    fprintf(stderr, "%" PRId64 "/%" PRId64 " prompts", is.done, is.prompts);
    if (here > 0)
        fprintf(stderr, "  %.3g/s  %.0f s left", rate, (double)(is.prompts - is.done) / rate);
    fflush(stderr);
}

static void show(const session *s, double seconds)
{
    inset_cache_progress is = INSET_CACHE_PROGRESS;
    inset_cache_progress_of(s->cache, &is);
    if (s->given->json) {
        printf("{\n  \"prompts\": %" PRId64 ",\n  \"restored\": %" PRId64 ",\n  \"rows\": %" PRId64
               ",\n  \"tensors\": %" PRId64 ",\n  \"shards\": %" PRId64 ",\n  \"batches\": %" PRId64
               ",\n  \"plans\": %" PRId64 ",\n  \"bytes\": %" PRId64
               ",\n  \"fast\": %s,\n  \"seconds\": %.6f,\n  \"planning\": %.6f,\n  \"running\": "
               "%.6f,\n  \"waiting\": %.6f\n}\n",
            is.prompts, is.restored, is.rows, is.tensors, is.shards, is.batches, is.plans, is.bytes,
            s->given->fast ? "true" : "false", seconds, is.planning, is.running, is.waiting);
        return;
    }
    printf("%" PRId64 " prompts, %" PRId64 " rows of %" PRId64 " tensors in %" PRId64
           " shard%s: %s\n",
        is.prompts, is.rows, is.tensors, is.shards, is.shards == 1 ? "" : "s", s->given->output);
    if (is.restored == is.prompts) printf("all were there already\n");
    else if (is.restored) printf("%" PRId64 " prompts were there already\n", is.restored);
}

static int run_batches(session *s)
{
    s->started = now_seconds();
    while (!inset_cache_done(s->cache)) {
        draw_progress(s, false);
        if (!inset_cache_step(s->cache)) continue;
        draw_progress(s, true);
        return report(s->context, EXIT_MACHINE);
    }
    draw_progress(s, true);
    show(s, now_seconds() - s->started);
    return EXIT_OK;
}

static int run(session *s)
{
    int status = EXIT_OK;
    char version[32];
    s->model = open_model(s->context, s->given, s->given->device, &status);
    if (!s->model) return status;
    model_version(s->given->model, version, sizeof version);
    const inset_cache_options wanted = cache_options(s->given, version);
    const inset_status made = inset_cache_create(s->model, &wanted, &s->cache);
    if (!made) return run_batches(s);
    return report(s->context,
        made == INSET_NO_MEMORY || made == INSET_DEVICE_ERROR ? EXIT_MACHINE : EXIT_REQUEST);
}

/* Whether the folder is there or can be made: said before a model is opened. */
static int check_folder(const options *given)
{
    struct stat found;
    char path[PATH_MAX];
    size_t length = strlen(given->output);
    while (length > 1 && given->output[length - 1] == '/') length--;
    if (length >= sizeof path) return file_error(given->output, "the path is too long");
    snprintf(path, sizeof path, "%.*s", (int)length, given->output);
    if (stat(path, &found)) return check_place(given, path);
    if (!S_ISDIR(found.st_mode)) return file_error(path, strerror(ENOTDIR));
    return access(path, W_OK) ? file_error(path, strerror(errno)) : EXIT_OK;
}

int command_cache(const options *given)
{
    session s = {.given = given};
    const int place = check_folder(given);
    if (place) return place;
    if (inset_context_create(NULL, &s.context)) {
        fprintf(stderr, "MemoryError: out of memory on the host\n");
        return EXIT_MACHINE;
    }
    const int status = run(&s);
    inset_context_free(s.context);
    return status ? status : finish_output();
}
