/* devices.c: which devices -d names, and which part of the work --shard is. */
#include "cli/shared/shared.h"

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

int shard_read(const options *given, const char *command, shard *out)
{
    const int status = shard_numbers(command, given->shard, &out->number, &out->of);
    if (status || !given->shard) return status;
    if (!given->output)
        return usage_error(command, "--shard writes a part of -o OUT.safetensors; which?");
    if (given->verify)
        return usage_error(command, "--verify takes all scores, and --shard makes a part");
    snprintf(out->part, sizeof out->part, "%.*s.%lld-of-%lld", (int)(sizeof out->part - 64),
        given->output, (long long)out->number, (long long)out->of);
    return EXIT_OK;
}

int shard_finish(
    const options *given, const shard *s, const char *state, const work *w, double seconds)
{
    inset_sweep_progress is = INSET_SWEEP_PROGRESS;
    w->kind->progress(w->of, &is);
    if (rename(state, s->part)) return file_error(s->part, "it cannot be written");
    if (given->json)
        printf("{\n  \"shard\": %lld,\n  \"shards\": %lld,\n  \"%s\": %lld,\n  \"done\": %lld,\n"
               "  \"seconds\": %.6f\n}\n",
            (long long)s->number, (long long)s->of, w->kind->things, (long long)is.patches,
            (long long)is.done, seconds);
    else
        printf("%s: %lld of %lld %s\nAll %lld together: inset merge %s %s.*-of-%lld\n", s->part,
            (long long)is.done, (long long)is.patches, w->kind->things, (long long)s->of,
            given->output, given->output, (long long)s->of);
    return EXIT_OK;
}
