/* several.c: who else runs a sweep: the other devices of -d, and shards. (Ranks of MPI:
 * ranks.c.) */
#include "cli/sweep/several.h"

#include <stdlib.h>
#include <string.h>

/* ---- devices ------------------------------------------------------------- */

/* "cuda:all" as many names as there are GPUs; else what stands between commas. */
int devices_read(inset_context *context, const char *given, device_list *out)
{
    *out = (device_list){.n = 0};
    if (given && !strcmp(given, "cuda:all")) {
        const int there = inset_gpu_count(context);
        for (int i = 0; i < there && i < MOST_DEVICES; i++)
            snprintf(out->names[out->n++], DEVICE_NAME, "cuda:%d", i);
        if (out->n) return EXIT_OK;
        fprintf(stderr, "DeviceError: -d cuda:all: no GPU answers; inset version says more\n");
        return EXIT_MACHINE;
    }
    for (const char *at = given ? given : "auto";; at++) {
        const size_t n = strcspn(at, ",");
        if (!n || n >= DEVICE_NAME || out->n == MOST_DEVICES)
            return usage_error("sweep",
                "-d: devices such as cuda:0,cuda:1 were expected, at most "
                "%d, found '%s'",
                MOST_DEVICES, given);
        snprintf(out->names[out->n], DEVICE_NAME, "%.*s", (int)n, at);
        for (int i = 0; i < out->n; i++)
            if (!strncmp(at, "cuda", 4) && !strcmp(out->names[i], out->names[out->n]))
                return usage_error("sweep", "-d: %s is there twice", out->names[i]);
        out->n++;
        at += n;
        if (!*at) return EXIT_OK;
    }
}

/* ---- helpers ------------------------------------------------------------- */

static int open_helper(sweep_session *s, const char *device, helper *h)
{
    int status = EXIT_OK;
    if (inset_context_create(NULL, &h->context)) {
        fprintf(stderr, "MemoryError: out of memory on the host\n");
        return EXIT_MACHINE;
    }
    h->model = open_model(h->context, s->given, device, &status);
    if (!h->model) return status;
    if (sweep_create_on(s, h->model, NULL, &h->sweep)) return report(h->context, EXIT_MACHINE);
    return inset_sweep_help(s->sweep, h->sweep) ? report(s->context, EXIT_MACHINE) : EXIT_OK;
}

int helpers_open(sweep_session *s, const device_list *devices, helpers *out)
{
    int status = EXIT_OK;
    *out = (helpers){.n = 0};
    for (int i = 1; i < devices->n && !status; i++)
        status = open_helper(s, devices->names[i], &out->at[out->n++]);
    return status;
}

/* After the sweep that they helped. */
void helpers_close(helpers *h)
{
    for (int i = 0; i < h->n; i++) inset_context_free(h->at[i].context);
    h->n = 0;
}

/* ---- shards -------------------------------------------------------------- */

int shard_numbers(const char *command, const char *given, int64_t *shard, int64_t *shards)
{
    char *end, *last;
    *shard = *shards = 0;
    if (!given) return EXIT_OK;
    *shard = strtoll(given, &end, 10);
    *shards = *end == '/' ? strtoll(end + 1, &last, 10) : 0;
    if (*end != '/' || *last || *shard < 1 || *shards < *shard || *shards > 1 << 24)
        return usage_error(
            command, "--shard: 1/16 to 16/16, for example, were expected, found '%s'", given);
    return EXIT_OK;
}

int shard_read(sweep_session *s)
{
    const char *given = s->given->shard;
    const int status = shard_numbers("sweep", given, &s->shard, &s->shards);
    if (status || !given) return status;
    if (!s->given->output)
        return usage_error("sweep", "--shard writes a part of -o OUT.safetensors; which?");
    if (s->given->verify)
        return usage_error("attribute", "--verify takes all scores, and --shard makes a part");
    snprintf(s->part, sizeof s->part, "%.*s.%lld-of-%lld", (int)(sizeof s->part - 64),
        s->given->output, (long long)s->shard, (long long)s->shards);
    return EXIT_OK;
}

int shard_finish(const sweep_session *s)
{
    inset_sweep_progress is = INSET_SWEEP_PROGRESS;
    if (inset_sweep_progress_of(s->sweep, &is)) return report(s->context, EXIT_MACHINE);
    if (rename(s->state, s->part)) return file_error(s->part, "it cannot be written");
    if (s->given->json)
        printf(
            "{\n  \"shard\": %lld,\n  \"shards\": %lld,\n  \"patches\": %lld,\n  \"done\": %lld,\n"
            "  \"seconds\": %.6f\n}\n",
            (long long)s->shard, (long long)s->shards, (long long)is.patches, (long long)is.done,
            s->seconds);
    else
        printf("%s: %lld of %lld patches\nAll %lld together: inset merge %s %s.*-of-%lld\n",
            s->part, (long long)is.done, (long long)is.patches, (long long)s->shards,
            s->given->output, s->given->output, (long long)s->shards);
    return EXIT_OK;
}
