/* watch.c: the caller's eye on long calls: how far they are, and whether they are to stop. */
#include "base/base.h"

#include <math.h>
#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

inset_status inset_watch(inset_context *context, inset_watcher watcher, void *user, double seconds)
{
    if (!context) return INSET_USAGE_ERROR;
    if (!(seconds >= 0) || isinf(seconds))
        return error_set(context, INSET_USAGE_ERROR,
            "a watcher is called every so many seconds, 0 or more; found %g", seconds);
    context->watcher = watcher;
    context->watcher_user = user;
    context->watch_every = seconds;
    context->watched = now();
    return INSET_OK;
}

inset_status context_watch(inset_context *context, const char *doing, int64_t done, int64_t total)
{
    if (!context->watcher) return INSET_OK;
    const double time = context->watch_every > 0 ? now() : 0;
    if (time - context->watched < context->watch_every && context->watch_every > 0) return INSET_OK;
    context->watched = time;
    const inset_progress progress = {doing, done, total};
    if (!context->watcher(context->watcher_user, &progress)) return INSET_OK;
    return error_set(context, INSET_STOPPED, "stopped by the watcher while %s, at %lld of %lld",
        doing, (long long)done, (long long)total);
}
