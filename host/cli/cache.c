/* cache.c: `inset cache`: what sites hold in the runs of many prompts, as a folder of shards. */
#include "cli/shared/shared.h"

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
    rank_room *ranks;      /* NULL: mpirun did not start this process */
    int64_t part, parts;   /* 0, 0: all of it */
    double started, drawn; /* seconds */
} session;

static inset_cache_options cache_options(const session *s, const char *version)
{
    const options *given = s->given;
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
    wanted.part = s->part;
    wanted.parts = s->parts;
    return wanted;
}

/* On a terminal, ten times a second. */
static void draw_progress(session *s, bool last)
{
    inset_cache_progress is = INSET_CACHE_PROGRESS;
    const double now = now_seconds(), passed = now - s->started;
    if (!isatty(STDERR_FILENO) || !ranks_is_first(s->ranks) || (!last && now - s->drawn < 0.1))
        return;
    s->drawn = now;
    fprintf(stderr, "\r\033[K");
    if (last || inset_cache_progress_of(s->cache, &is)) return;
    const double here = (double)(is.done - is.restored), rate = passed > 0 ? here / passed : 0;
    fprintf(stderr, "%" PRId64 "/%" PRId64 " prompts", is.done, is.mine);
    if (here > 0)
        fprintf(stderr, "  %.3g/s  %.0f s left", rate, (double)(is.mine - is.done) / rate);
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
    if (s->given->shard && !is.complete)
        printf("part %s is done: cache.json is written when all are there\n", s->given->shard);
    if (is.restored == is.prompts) printf("all were there already\n");
    else if (is.restored) printf("%" PRId64 " prompts were there already\n", is.restored);
}

/* Who is alone says what failed; of several the first does. */
static int failed(session *s, int status)
{
    return ranks_is_first(s->ranks) ? report(s->context, status) : status;
}

static int run_batches(session *s)
{
    s->started = now_seconds();
    while (!inset_cache_done(s->cache)) {
        draw_progress(s, false);
        if (!inset_cache_step(s->cache)) continue;
        draw_progress(s, true);
        return failed(s, EXIT_MACHINE);
    }
    draw_progress(s, true);
    return EXIT_OK;
}

static int make_cache(session *s, const char *device)
{
    int status = EXIT_OK;
    char version[32];
    s->model = open_model(s->context, s->given, device, &status);
    if (!s->model) return status;
    model_version(s->given->model, version, sizeof version);
    const inset_cache_options wanted = cache_options(s, version);
    const inset_status made = inset_cache_create(s->model, &wanted, &s->cache);
    if (!made) return EXIT_OK;
    return failed(
        s, made == INSET_NO_MEMORY || made == INSET_DEVICE_ERROR ? EXIT_MACHINE : EXIT_REQUEST);
}

static int run(session *s)
{
    device_list devices;
    int status = devices_read(s->context, s->given->device, &devices);
    if (!status && devices.n > 1 && !s->ranks)
        status = usage_error("cache", "one device is used: -d %s, or mpirun", devices.names[0]);
    if (!status) ranks_choose_device(s->ranks, s->context, &devices);
    if (!status) status = make_cache(s, devices.names[0]);
    if ((status = ranks_agree(s->ranks, s->context, status))) return status;
    status = ranks_agree(s->ranks, s->context, run_batches(s));
    if (!status && ranks_is_first(s->ranks)) show(s, now_seconds() - s->started);
    return status;
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

/* The parts of a job array have a part a rank each. */
static void share(session *s)
{
    int64_t part, parts;
    ranks_part(s->ranks, &part, &parts);
    if (!parts) return;
    /* of the shards of part 2 of 3, which are 1, 4, 7, ..., every parts-th */
    s->part = s->parts ? s->part + s->parts * (part - 1) : part;
    s->parts = s->parts ? s->parts * parts : parts;
}

int command_cache(const options *given)
{
    session s = {.given = given};
    int status = shard_numbers("cache", given->shard, &s.part, &s.parts);
    if (!status) status = ranks_start(&s.ranks);
    if (status) return status;
    share(&s);
    if (inset_context_create(NULL, &s.context)) {
        fprintf(stderr, "MemoryError: out of memory on the host\n");
        return EXIT_MACHINE;
    }
    if (ranks_is_first(s.ranks)) status = check_folder(given);
    status = status ? ranks_agree(s.ranks, s.context, status) : run(&s);
    if (!status) status = finish_output();
    ranks_end(s.ranks, status);
    inset_context_free(s.context);
    return status;
}
