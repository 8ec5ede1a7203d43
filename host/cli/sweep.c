/* sweep.c: `inset sweep`: a grid of patches from its options to files and pictures. */
#include "cli/sweep.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

typedef enum file_kind { FILE_SAFETENSORS, FILE_NPY, FILE_CSV, FILE_NONE } file_kind;

typedef struct session {
    const options *given;
    inset_context *context;
    inset_model *model;
    inset_sweep *sweep;
    bool estimates; /* inset attribute */
    file_kind kind; /* of -o */
    char command[8192], version[32];
    char state[PATH_MAX]; /* OUT.partial */
    const inset_verified *verified;
    size_t n_verified;
    double rank;
    double seconds; /* from the loaded model to the last patch */
} session;

double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- before any work ---------------------------------------------------- */

static int find_kind(session *s)
{
    static const char *const ends[] = {".safetensors", ".npy", ".csv"};
    s->kind = FILE_NONE;
    if (!s->given->output) return EXIT_OK;
    for (int i = 0; i < FILE_NONE; i++)
        if (ends_with(s->given->output, ends[i])) s->kind = (file_kind)i;
    if (s->kind == FILE_NONE)
        return usage_error("sweep",
            "-o: OUT.safetensors, OUT.npy or OUT.csv was expected, found '%s'", s->given->output);
    return EXIT_OK;
}

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

/* The same with gradients in place of patches. */
static inset_status create_attribution(session *s, const inset_sweep_options *wanted)
{
    char rules[256];
    const inset_attribution_options all = attribution_options(
        s->given, wanted, rules, sizeof rules);
    return inset_attribution_create(s->model, &all, &s->sweep);
}

static int create_sweep(session *s)
{
    const options *given = s->given;
    inset_sweep_options wanted = sweep_options(given, s->version);
    wanted.state = given->output ? s->state : NULL;
    inset_status status = s->estimates ? create_attribution(s, &wanted)
                                       : inset_sweep_create(s->model, &wanted, &s->sweep);
    if (!status) return EXIT_OK;
    return report(s->context,
        status == INSET_NO_MEMORY || status == INSET_DEVICE_ERROR ? EXIT_MACHINE : EXIT_REQUEST);
}

/* What the output takes must fit on its disk, and an npy file holds one array. */
static int check_size(const session *s)
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

/* ---- the run ------------------------------------------------------------ */

enum { PROGRESS_BAR = 30 };

static void draw_progress(const session *s, double started, bool last)
{
    inset_sweep_progress is = INSET_SWEEP_PROGRESS;
    if (!isatty(STDERR_FILENO) || inset_sweep_progress_of(s->sweep, &is)) return;
    if (last) {
        fprintf(stderr, "\r\033[K");
        return;
    }
    double passed = now_seconds() - started, here = (double)(is.done - is.restored),
           rate = passed > 0 ? here / passed : 0;
    int full = is.patches ? (int)(PROGRESS_BAR * is.done / is.patches) : 0;
    fprintf(stderr, "\r\033[K[%.*s%*s] %" PRId64 "/%" PRId64 " patches", full,
        "##############################", PROGRESS_BAR - full, "", is.done, is.patches);
    if (here > 0)
        fprintf(stderr, "  %.3g/s  %.0f s left", rate, (double)(is.patches - is.done) / rate);
    fflush(stderr);
}

static int run_chunks(session *s)
{
    double started = now_seconds();
    while (!inset_sweep_done(s->sweep)) {
        draw_progress(s, started, false);
        inset_status status = inset_sweep_step(s->sweep);
        if (!status) continue;
        draw_progress(s, started, true);
        return report(s->context, EXIT_MACHINE);
    }
    draw_progress(s, started, true);
    return EXIT_OK;
}

/* ---- results ------------------------------------------------------------ */

static bool write_csv(const void *what, FILE *to)
{
    return csv_write((inset_sweep *)(uintptr_t)what, to);
}
static bool write_npy(const void *what, FILE *to)
{
    return npy_write((inset_sweep *)(uintptr_t)what, to);
}
static bool write_svg(const void *what, FILE *to) { return svg_write(what, to); }

static int write_output(session *s)
{
    const char *path = s->given->output;
    if (!path) return EXIT_OK;
    if (s->kind == FILE_SAFETENSORS)
        return inset_sweep_write(s->sweep, path, s->command) ? report(s->context, EXIT_MACHINE)
                                                             : EXIT_OK;
    int status = write_file(path, s->kind == FILE_CSV ? write_csv : write_npy, s->sweep);
    if (!status) remove(s->state);
    return status;
}

/* Both numbers of what was verified, as a table. */
static void show_verified(const session *s)
{
    printf("\n%-44s %12s %12s\n", "verified", "estimate", "exact");
    for (size_t i = 0; i < s->n_verified; i++) {
        const inset_verified *v = &s->verified[i];
        char where[128];
        size_t n = (size_t)snprintf(where, sizeof where, "%s", v->site);
        for (int k = 0; k < v->n_axes && n < sizeof where; k++)
            n += (size_t)snprintf(
                where + n, sizeof where - n, "  %s %" PRId64, v->axes[k], v->at[k]);
        printf("%-44s %12.5g %12.5g\n", where, v->score, v->exact);
    }
    printf("rank correlation %.3f\n", s->rank);
}

static int verify(session *s)
{
    if (!s->given->verify) return EXIT_OK;
    return inset_attribution_verify(
               s->sweep, (size_t)s->given->verify, &s->verified, &s->n_verified, &s->rank)
               ? report(s->context, EXIT_MACHINE)
               : EXIT_OK;
}

/* Of features: how many of the patches had anything to change. */
static void show_unchanged(const session *s)
{
    inset_sweep_progress is = INSET_SWEEP_PROGRESS;
    if (inset_sweep_progress_of(s->sweep, &is) || !is.unchanged) return;
    printf("\n%" PRId64 " of %" PRId64
           " points have a feature that differs; the others change nothing\n",
        is.patches - is.unchanged, is.patches);
}

static int show(session *s)
{
    panels p;
    int status = EXIT_OK;
    if (!panels_make(s->sweep, &p)) {
        panels_free(&p);
        fprintf(stderr, "MemoryError: out of memory on the host\n");
        return EXIT_MACHINE;
    }
    if (s->given->plot) status = write_file(s->given->plot, write_svg, &p);
    if (s->given->json)
        sweep_print_json(s->sweep, s->seconds, s->given->fast, s->verified, s->n_verified, s->rank);
    else terminal_draw(&p);
    if (!s->given->json) show_unchanged(s);
    if (!s->given->json && s->n_verified) show_verified(s);
    panels_free(&p);
    return status;
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

static int run(session *s)
{
    int status = EXIT_OK;
    s->model = open_model(s->context, s->given, s->given->device, &status);
    if (!s->model) return status;
    if (isatty(STDERR_FILENO) && (!s->given->device || !strcmp(s->given->device, "auto")))
        fprintf(stderr, "on %s\n", inset_model_device(s->model));
    double started = now_seconds();
    status = create_sweep(s);
    if (!status && s->given->dry_run) {
        inset_cost cost;
        if (inset_attribution_cost(s->sweep, &cost)) return report(s->context, EXIT_MACHINE);
        show_cost(&cost, s->given->json);
        return EXIT_OK;
    }
    if (!status) status = check_size(s);
    if (!status) status = run_chunks(s);
    s->seconds = now_seconds() - started;
    if (!status) status = verify(s);
    if (!status) status = write_output(s);
    return status ? status : show(s);
}

int command_sweep(const options *given, int count, char **arguments)
{
    session s = {.given = given, .estimates = count > 0 && !strcmp(arguments[0], "attribute")};
    int status = find_kind(&s);
    if (!status && !s.estimates && given->dry_run)
        status = usage_error("sweep", "--dry-run is of --patch edges; of places, attribute "
                                      "--dry-run says what their estimates "
                                      "take");
    if (!status && s.estimates && given->steps == 0)
        status = usage_error(
            "attribute", "--steps: one or more were expected, found 0; leave it out for AtP");
    if (!status) status = check_place(given, given->output);
    if (!status) status = check_place(given, given->plot);
    if (!status) status = check_state(given, s.state, sizeof s.state);
    if (status) return status;
    command_text(count, arguments, s.command, sizeof s.command);
    model_version(given->model, s.version, sizeof s.version);
    if (inset_context_create(NULL, &s.context)) {
        fprintf(stderr, "MemoryError: out of memory on the host\n");
        return EXIT_MACHINE;
    }
    status = run(&s);
    inset_context_free(s.context);
    return status ? status : finish_output();
}
