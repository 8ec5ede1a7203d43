/* show.c: a sweep's results: the file of -o, the picture, the terminal or JSON. */
#include "cli/sweep/sweep.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

int sweep_find_kind(sweep_session *s, const char *command)
{
    static const char *const ends[] = {".safetensors", ".npy", ".csv"};
    s->kind = FILE_NONE;
    if (!s->given->output) return EXIT_OK;
    for (int i = 0; i < FILE_NONE; i++)
        if (ends_with(s->given->output, ends[i])) s->kind = (file_kind)i;
    if (s->kind == FILE_NONE)
        return usage_error(command,
            "-o: OUT.safetensors, OUT.npy or OUT.csv was expected, found '%s'", s->given->output);
    return EXIT_OK;
}

static bool write_csv(const void *what, FILE *to)
{
    return csv_write((inset_sweep *)(uintptr_t)what, to);
}
static bool write_npy(const void *what, FILE *to)
{
    return npy_write((inset_sweep *)(uintptr_t)what, to);
}
static bool write_svg(const void *what, FILE *to) { return svg_write(what, to); }

int sweep_write(sweep_session *s)
{
    const char *path = s->given->output;
    if (!path) return EXIT_OK;
    if (s->kind == FILE_SAFETENSORS)
        return inset_sweep_write(s->sweep, path, NULL) ? report(s->context, EXIT_MACHINE) : EXIT_OK;
    int status = write_file(path, s->kind == FILE_CSV ? write_csv : write_npy, s->sweep);
    if (!status && *s->state) remove(s->state);
    return status;
}

/* Both numbers of what was verified, as a table. */
static void show_verified(const sweep_session *s)
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

/* Of features: how many of the patches had anything to change. */
static void show_unchanged(const sweep_session *s)
{
    inset_sweep_progress is = INSET_SWEEP_PROGRESS;
    if (inset_sweep_progress_of(s->sweep, &is) || !is.unchanged) return;
    printf("\n%" PRId64 " of %" PRId64
           " points have a feature that differs; the others change nothing\n",
        is.patches - is.unchanged, is.patches);
}

int sweep_show(const sweep_session *s)
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
