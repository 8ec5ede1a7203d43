/* finish.c: runs what is left of some work, with all who share it, and shows how far it is. */
#include <inttypes.h>
#include <time.h>
#include <unistd.h>

#include "cli/shared/shared.h"

enum { PROGRESS_BAR = 30 };

double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void draw_progress(const work *w, double started, bool last)
{
    inset_sweep_progress is = INSET_SWEEP_PROGRESS;
    if (!isatty(STDERR_FILENO)) return;
    if (last) {
        fprintf(stderr, "\r\033[K");
        return;
    }
    w->kind->progress(w->of, &is);
    double passed = now_seconds() - started, here = (double)(is.done - is.restored),
           rate = passed > 0 ? here / passed : 0;
    int full = is.patches ? (int)(PROGRESS_BAR * is.done / is.patches) : 0;
    fprintf(stderr, "\r\033[K[%.*s%*s] %" PRId64 "/%" PRId64 " %s", full,
        "##############################", PROGRESS_BAR - full, "", is.done, is.patches,
        w->kind->things);
    if (here > 0)
        fprintf(stderr, "  %.3g/s  %.0f s left", rate, (double)(is.patches - is.done) / rate);
    fflush(stderr);
}

int work_run_all(const work *w, rank_room *ranks, crew *crew)
{
    const double started = now_seconds();
    inset_status status = INSET_OK;
    const char *failure = NULL;
    while (!status && !failure && !w->kind->done(w->of)) {
        draw_progress(w, started, false);
        status = w->kind->step(w->of);
        failure = ranks_failure(ranks);
        if (!failure && crew) failure = crew_failure(crew);
    }
    draw_progress(w, started, true);
    if (status) return report(w->context, EXIT_MACHINE);
    if (!failure) return EXIT_OK;
    fprintf(stderr, "%s\n", failure);
    return EXIT_MACHINE;
}
