/* helper.c: other devices. A helper is the same sweep in a context and on a model of its own; a
 * thread takes chunks from the first sweep's book, runs them there and brings their numbers
 * back. */
#include "sweep/chunks/book.h"

#include <stdio.h>
#include <string.h>

typedef struct helper {
    struct helper *next;
    sweep *of, *with;
    pthread_t thread;
    bool started;
} helper;

inset_status sweep_cut_as(sweep *s, const sweep_cut *cut)
{
    const sweep_cut own = cut_of(s);
    if (cut->identity != own.identity || cut->jobs != own.jobs || cut->metrics != own.metrics
        || cut->chunk < 1 || !s->shared)
        return error_set(s->context, INSET_USAGE_ERROR,
            "this is not the same sweep: who runs chunks of another's has the same options, "
            "prompts and weights, and `shared` set");
    sweep_leave_device(s); /* what it planned was cut by itself */
    book_close(s);
    cut_apply(s, cut);
    return book_open(s);
}

inset_status helper_add(sweep *s, sweep *with)
{
    const sweep_cut cut = cut_of(s);
    if (s->context == with->context)
        return error_set(
            s->context, INSET_USAGE_ERROR, "a helper has a context and a model of its own");
    helper *h = memory_new(s->context, sizeof *h);
    if (!h) return INSET_NO_MEMORY;
    *h = (helper){.next = s->helpers, .of = s, .with = with};
    inset_status status = sweep_cut_as(with, &cut);
    if (status) {
        memory_free(s->context, h);
        return error_set(s->context, status, "%s", inset_message(with->context));
    }
    s->helpers = h;
    return INSET_OK;
}

static inset_status run_one(helper *h, int64_t chunk, int64_t ahead)
{
    chunk_counts counts;
    char *record = NULL;
    size_t size;
    inset_status status = sweep_run_chunk(h->with, chunk, ahead, &counts);
    if (!status) status = record_make(h->with, chunk, &counts, &record, &size);
    const int reason = status ? 0 : sweep_keep_chunk(h->of, chunk, record, size);
    if (reason)
        status = error_set(
            h->with->context, INSET_FILE_ERROR, "%s: %s", h->of->state_path, strerror(reason));
    memory_free(h->with->context, record);
    return status;
}

/* A failed helper gives its chunks back, for others to take, and ends. */
static void give_up(helper *h, int64_t chunk, int64_t ahead, inset_status status)
{
    char message[512];
    snprintf(message, sizeof message, "%s: %s", h->with->model->device->name,
        inset_message(h->with->context));
    book_give_back(h->of, chunk);
    book_give_back(h->of, ahead);
    book_fail(h->of, status, message);
}

static void *work(void *of)
{
    helper *h = of;
    const bool ahead_too = !h->with->method.estimates && device_works_ahead(h->with->model->device);
    for (int64_t chunk = book_take(h->of), ahead; chunk >= 0; chunk = ahead) {
        ahead = ahead_too ? book_take(h->of) : -1;
        inset_status status = run_one(h, chunk, ahead);
        if (status) {
            give_up(h, chunk, ahead, status);
            break;
        }
        if (ahead < 0) ahead = book_take(h->of);
    }
    sweep_leave_device(h->with);
    return NULL;
}

inset_status helpers_start(sweep *s)
{
    for (helper *h = s->helpers; h; h = h->next) {
        if (h->started) continue;
        if (pthread_create(&h->thread, NULL, work, h))
            return error_set(s->context, INSET_NO_MEMORY, "no thread can be started for a helper");
        h->started = true;
    }
    return INSET_OK;
}

void helpers_end(sweep *s)
{
    if (!s->helpers) return;
    book_stop(s, true);
    for (helper *h = s->helpers, *next; h; h = next) {
        next = h->next;
        if (h->started) pthread_join(h->thread, NULL);
        memory_free(s->context, h);
    }
    s->helpers = NULL;
    book_stop(s, false);
}
