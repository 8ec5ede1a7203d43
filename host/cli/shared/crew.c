/* crew.c: other devices of this process, each with a thread that runs chunks there. */
#include <unistd.h>

#include "cli/shared/shared.h"

enum { WAIT_MICROSECONDS = 200 };

static void fail(crew_member *m, const char *what)
{
    pthread_mutex_lock(&m->crew->lock);
    if (!*m->crew->failure) snprintf(m->crew->failure, sizeof m->crew->failure, "%s", what);
    pthread_mutex_unlock(&m->crew->lock);
}

/* False: the member fails. */
static bool run_one(crew_member *m, int64_t chunk)
{
    const work *of = &m->crew->of, *with = &m->with;
    const void *bytes;
    size_t size;
    char message[512];
    inset_status status = with->kind->run(with->of, chunk, -1, &bytes, &size);
    if (!status && !of->kind->put(of->of, bytes, size)) return true;
    snprintf(message, sizeof message, "%s: %s", inset_model_device(with->model),
        status ? inset_message(with->context) : "what is done cannot be kept in the state file");
    fail(m, message);
    of->kind->give_back(of->of, chunk);
    return false;
}

static void *serve(void *given)
{
    crew_member *m = given;
    const work *of = &m->crew->of;
    while (!crew_failure(m->crew) && !of->kind->done(of->of)) {
        const int64_t chunk = of->kind->take(of->of);
        if (chunk < 0) usleep(WAIT_MICROSECONDS);
        else if (!run_one(m, chunk)) break;
    }
    return NULL;
}

void crew_open(crew *c, const work *of)
{
    *c = (crew){.of = *of};
    pthread_mutex_init(&c->lock, NULL);
}

int crew_add(crew *c, const work *with, const inset_cut *cut)
{
    crew_member *m = &c->members[c->n];
    if (with->kind->cut_as(with->of, cut)) return report(with->context, EXIT_MACHINE);
    *m = (crew_member){.crew = c, .with = *with};
    if (pthread_create(&m->thread, NULL, serve, m)) {
        fprintf(stderr, "MemoryError: no thread can be started for a device\n");
        return EXIT_MACHINE;
    }
    c->n++;
    return EXIT_OK;
}

const char *crew_failure(crew *c)
{
    pthread_mutex_lock(&c->lock);
    const bool any = *c->failure;
    pthread_mutex_unlock(&c->lock);
    return any ? c->failure : NULL;
}

void crew_close(crew *c, bool failed)
{
    if (failed && c->n) fail(&c->members[0], "ended");
    for (int i = 0; i < c->n; i++) pthread_join(c->members[i].thread, NULL);
    pthread_mutex_destroy(&c->lock);
    c->n = 0;
}
