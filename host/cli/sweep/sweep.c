/* sweep.c: `inset sweep`: a grid of patches from its options to files and pictures. */
#include "cli/sweep/sweep.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

/* ---- before any work ---------------------------------------------------- */

inset_sweep_options sweep_options(const options *given, const char *version)
{
    inset_sweep_options wanted = INSET_SWEEP_OPTIONS;
    wanted.clean.text = given->clean;
    wanted.corrupt.text = given->corrupt;
    wanted.patch = given->patch;
    wanted.by = given->by;
    wanted.layers = given->layers;
    wanted.positions = given->positions;
    wanted.heads = given->heads;
    wanted.features = given->features;
    wanted.source = given->source;
    wanted.direction = given->direction;
    wanted.metrics = given->metrics;
    wanted.seed = (uint64_t)given->seed;
    wanted.no_share = given->no_share;
    wanted.memory_limit = given->memory;
    wanted.version = version;
    wanted.resume = given->resume;
    return wanted;
}

inset_attribution_options attribution_options(
    const options *given, const inset_sweep_options *runs, char *rules, size_t size)
{
    inset_attribution_options all = INSET_ATTRIBUTION_OPTIONS;
    all.sweep = *runs;
    all.steps = given->steps < 0 ? 0 : (int)given->steps;
    all.ends = given->ends;
    all.qk = given->qk || given->star;
    all.graddrop = given->graddrop || given->star;
    snprintf(rules, size, "%s%s%s", given->relp ? "relp" : "",
        given->relp && given->rules ? "," : "", given->rules ? given->rules : "");
    all.rules = rules;
    return all;
}

inset_status sweep_create_on(
    const sweep_session *s, inset_model *model, const char *state, inset_sweep **out)
{
    inset_sweep_options wanted = sweep_options(s->given, s->version);
    wanted.state = state;
    wanted.resume = s->given->resume && state;
    wanted.shared = s->shared;
    wanted.shard = s->shard.number;
    wanted.shards = s->shard.of;
    wanted.command = s->command;
    if (!s->estimates) return inset_sweep_create(model, &wanted, out);
    char rules[256];
    const inset_attribution_options all = attribution_options(
        s->given, &wanted, rules, sizeof rules);
    return inset_attribution_create(model, &all, out);
}

static int exit_status(inset_status status)
{
    if (!status) return EXIT_OK;
    return status == INSET_NO_MEMORY || status == INSET_DEVICE_ERROR ? EXIT_MACHINE : EXIT_REQUEST;
}

/* What the output takes must fit on its disk, and an npy file holds one array. */
static int check_size(const sweep_session *s)
{
    struct statvfs disk;
    inset_sweep_result r;
    double bytes = 0;
    const char *slash = s->given->output ? strrchr(s->given->output, '/') : NULL;
    char folder[PATH_MAX];
    if (!s->given->output) return EXIT_OK;
    for (size_t i = 0; i < inset_sweep_result_count(s->sweep); i++) {
        if (inset_sweep_result_at(s->sweep, i, &r)) return report(s->context, EXIT_MACHINE);
        bytes += (double)sizeof(float)
                 * ((double)r.pairs * 4 + (double)r.points * 2
                     + (double)r.pairs * (double)r.points * (s->kind == FILE_CSV ? 30 : 3));
    }
    if (s->kind == FILE_NPY && inset_sweep_result_count(s->sweep) != 1)
        return usage_error("sweep",
            "-o: an npy file holds one site and one metric; there are %zu: OUT.safetensors holds "
            "them all",
            inset_sweep_result_count(s->sweep));
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - s->given->output) + 1 : 1,
        slash ? s->given->output : ".");
    if (statvfs(folder, &disk)) return EXIT_OK;
    double available = (double)disk.f_bavail * (double)disk.f_frsize;
    if (bytes <= available) return EXIT_OK;
    fprintf(stderr, "FileError: %s: about %.3g MB are needed, %.3g MB are free\n", s->given->output,
        bytes / 1e6, available / 1e6);
    return EXIT_MACHINE;
}

/* ---- other devices ------------------------------------------------------- */

/* The sweep once more on each of the other devices, in a context of its own. */
typedef struct helper {
    inset_context *context;
    inset_model *model;
    inset_sweep *sweep;
} helper;
typedef struct helpers {
    helper at[MOST_DEVICES];
    int n;
} helpers;

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

static int helpers_open(sweep_session *s, const device_list *devices, helpers *out)
{
    int status = EXIT_OK;
    *out = (helpers){.n = 0};
    for (int i = 1; i < devices->n && !status; i++)
        status = open_helper(s, devices->names[i], &out->at[out->n++]);
    return status;
}

/* After the sweep that they helped. */
static void helpers_close(helpers *h)
{
    for (int i = 0; i < h->n; i++) inset_context_free(h->at[i].context);
    h->n = 0;
}

/* ---- all ----------------------------------------------------------------- */

static int verify(sweep_session *s)
{
    if (!s->given->verify) return EXIT_OK;
    return inset_attribution_verify(
               s->sweep, (size_t)s->given->verify, &s->verified, &s->n_verified, &s->rank)
               ? report(s->context, EXIT_MACHINE)
               : EXIT_OK;
}

void show_cost(const inset_cost *c, bool json)
{
    if (json) {
        printf("{\n  \"pairs\": %" PRId64 ",\n  \"pairs_at_once\": %" PRId64
               ",\n  \"rows\": %" PRId64 ",\n  \"flops\": %.0f,\n  \"weight_bytes\": %" PRId64
               ",\n  \"device_bytes\": %" PRId64 ",\n  \"host_bytes\": %" PRId64
               ",\n  \"blocks_again\": %" PRId64 "\n}\n",
            c->pairs, c->pairs_at_once, c->rows, c->flops, c->weight_bytes, c->device_bytes,
            c->host_bytes, c->blocks_again);
        return;
    }
    printf("pairs      %" PRId64 ", %" PRId64 " at once\nrows       %" PRId64 "\nFLOPs      %.4g\n",
        c->pairs, c->pairs_at_once, c->rows, c->flops);
    printf("memory     %.4g GB beside %.4g GB of weights\nhost       %.4g GB\n",
        (double)c->device_bytes / 1e9, (double)c->weight_bytes / 1e9, (double)c->host_bytes / 1e9);
    if (c->blocks_again)
        printf("again      %" PRId64
               " blocks, for want of memory: run a second time before they go "
               "backwards\n",
            c->blocks_again);
}

/* Opens the model and makes the sweep, on the first device. */
static int open_sweep(sweep_session *s, rank_room *ranks, const char *device)
{
    int status = EXIT_OK;
    const bool first = ranks_is_first(ranks);
    s->model = open_model(s->context, s->given, device, &status);
    if (!s->model) return status;
    if (first && isatty(STDERR_FILENO) && (!s->given->device || !strcmp(device, "auto")))
        fprintf(stderr, "on %s\n", inset_model_device(s->model));
    const inset_status made = sweep_create_on(
        s, s->model, first && s->given->output ? s->state : NULL, &s->sweep);
    return made ? report(s->context, exit_status(made)) : EXIT_OK;
}

/* All chunks, here and elsewhere. */
static int run_all(sweep_session *s, rank_room *ranks, const device_list *devices)
{
    static helpers others;
    const double started = now_seconds();
    const work w = work_of_sweep(s->context, s->model, s->sweep);
    int status = ranks_serve(ranks);
    if (!status) status = helpers_open(s, devices, &others);
    if (!status) status = work_run_all(&w, ranks, NULL);
    if (!status) ranks_served(ranks);
    s->seconds = now_seconds() - started;
    if (status) inset_sweep_free(s->sweep), s->sweep = NULL; /* its helpers end */
    helpers_close(&others);
    return status;
}

static int run(sweep_session *s, rank_room *ranks)
{
    device_list devices;
    int status = devices_read(s->context, s->given->device, &devices);
    if (!status) ranks_choose_device(ranks, s->context, &devices);
    s->shared = ranks || devices.n > 1;
    if (!status) status = open_sweep(s, ranks, devices.names[0]);
    if (!status && s->given->dry_run) {
        inset_cost cost;
        if (inset_attribution_cost(s->sweep, &cost)) return report(s->context, EXIT_MACHINE);
        if (ranks_is_first(ranks)) show_cost(&cost, s->given->json);
        return EXIT_OK;
    }
    if (!status && ranks_is_first(ranks)) status = check_size(s);
    const work w = work_of_sweep(s->context, s->model, s->sweep);
    if ((status = ranks_meet(ranks, &w, status))) return status;
    if (!ranks_is_first(ranks)) return ranks_work(ranks);
    if ((status = run_all(s, ranks, &devices))) return status;
    if (s->shard.of) return shard_finish(s->given, &s->shard, s->state, &w, s->seconds);
    if (!status) status = verify(s);
    if (!status) status = sweep_write(s);
    return status ? status : sweep_show(s);
}

static int check_options(sweep_session *s)
{
    const options *given = s->given;
    int status = sweep_find_kind(s, "sweep");
    if (!status && !s->estimates && given->dry_run)
        status = usage_error("sweep", "--dry-run is of --patch edges; of places, attribute "
                                      "--dry-run says what their estimates "
                                      "take");
    if (!status && s->estimates && given->steps == 0)
        status = usage_error(
            "attribute", "--steps: one or more were expected, found 0; leave it out for AtP");
    return status ? status : shard_read(given, s->estimates ? "attribute" : "sweep", &s->shard);
}

/* Only the first rank looks at the places where files go. */
static int check_files(sweep_session *s)
{
    const char *output = s->shard.of ? s->shard.part : s->given->output;
    int status = check_place(s->given, output);
    if (!status) status = check_place(s->given, s->given->plot);
    return status ? status : check_state(s->given, output, s->state, sizeof s->state);
}

static int start(sweep_session *s, rank_room *ranks)
{
    int status = ranks_is_first(ranks) ? check_files(s) : EXIT_OK;
    model_version(s->given->model, s->version, sizeof s->version);
    const work none = {.context = s->context};
    return status ? ranks_meet(ranks, &none, status) : run(s, ranks);
}

int command_sweep(const options *given, int count, char **arguments)
{
    sweep_session s = {
        .given = given, .estimates = count > 0 && !strcmp(arguments[0], "attribute")};
    rank_room *ranks = NULL;
    command_text(count, arguments, s.command, sizeof s.command);
    int status = check_options(&s);
    if (!status) status = ranks_start(&ranks);
    if (status) return status;
    if (inset_context_create(NULL, &s.context)) {
        fprintf(stderr, "MemoryError: out of memory on the host\n");
        return EXIT_MACHINE;
    }
    status = start(&s, ranks);
    if (!status) status = finish_output();
    ranks_end(ranks, status);
    inset_context_free(s.context);
    return status;
}
