/* units.c: work of pieces that each give a few numbers, which are kept side by side: nobody's sum,
 * so that neither their order nor who made them shows. */
#include "cli/shared/work.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WAIT_MICROSECONDS = 200 };
typedef enum unit_state { UNIT_FREE, UNIT_TAKEN, UNIT_DONE } unit_state;

/* All of it under the lock. Before `from` nothing is free. */
typedef struct unit_book {
    pthread_mutex_t lock;
    unsigned char *states; /* [n] of unit_state */
    int64_t from, done;
} unit_book;

typedef struct unit_record {
    int64_t unit;
    double numbers[];
} unit_record;

uint64_t units_hash(uint64_t seed, const void *bytes, size_t size)
{
    const unsigned char *at = bytes; /* FNV-1a */
    for (size_t i = 0; i < size; i++) seed = (seed ^ at[i]) * 1099511628211u;
    return seed;
}

static size_t record_size(const units *u)
{
    return sizeof(unit_record) + (size_t)u->most * sizeof(double);
}

int units_open(units *u)
{
    u->record = calloc(1, record_size(u));
    u->numbers = calloc((size_t)(u->n * u->most), sizeof *u->numbers);
    u->book = calloc(1, sizeof *u->book);
    if (u->book) {
        pthread_mutex_init(&u->book->lock, NULL);
        u->book->states = calloc((size_t)u->n, 1);
    }
    if (u->record && u->numbers && u->book && u->book->states) return EXIT_OK;
    fprintf(stderr, "MemoryError: out of memory on the host\n");
    return EXIT_MACHINE;
}

void units_close(units *u)
{
    if (u->book) {
        pthread_mutex_destroy(&u->book->lock);
        free(u->book->states);
    }
    free(u->book);
    free(u->record);
    free(u->numbers);
    u->book = NULL, u->record = NULL, u->numbers = NULL;
}

static int64_t take(void *of)
{
    const units *u = of;
    unit_book *b = u->book;
    int64_t found = -1;
    pthread_mutex_lock(&b->lock);
    while (b->from < u->n && b->states[b->from] != UNIT_FREE) b->from++;
    if (b->from < u->n) b->states[found = b->from++] = UNIT_TAKEN;
    pthread_mutex_unlock(&b->lock);
    return found;
}

static void give_back(void *of, int64_t unit)
{
    const units *u = of;
    unit_book *b = u->book;
    if (unit < 0 || unit >= u->n) return;
    pthread_mutex_lock(&b->lock);
    if (b->states[unit] == UNIT_TAKEN) b->states[unit] = UNIT_FREE, b->from = 0;
    pthread_mutex_unlock(&b->lock);
}

static inset_status put(void *of, const void *bytes, size_t size)
{
    const units *u = of;
    unit_book *b = u->book;
    int64_t unit;
    if (size != record_size(u)) return INSET_VALUE_ERROR;
    memcpy(&unit, bytes, sizeof unit);
    if (unit < 0 || unit >= u->n) return INSET_VALUE_ERROR;
    pthread_mutex_lock(&b->lock);
    memcpy(u->numbers + unit * u->most, (const char *)bytes + sizeof(unit_record),
        size - sizeof(unit_record));
    b->done += b->states[unit] != UNIT_DONE;
    b->states[unit] = UNIT_DONE;
    pthread_mutex_unlock(&b->lock);
    return INSET_OK;
}

static void progress(const void *of, inset_sweep_progress *out)
{
    const units *u = of;
    pthread_mutex_lock(&u->book->lock);
    out->done = u->book->done;
    pthread_mutex_unlock(&u->book->lock);
    out->patches = u->n;
}

static bool done(const void *of)
{
    inset_sweep_progress is = INSET_SWEEP_PROGRESS;
    progress(of, &is);
    return is.done == is.patches;
}

static inset_status run(void *of, int64_t unit, int64_t ahead, const void **bytes, size_t *size)
{
    units *u = of;
    (void)ahead;
    *size = record_size(u);
    *bytes = u->record;
    memset(u->record, 0, *size);
    u->record->unit = unit;
    return u->run(u->of, u->edges, unit, u->record->numbers);
}

static inset_status step(void *of)
{
    const void *bytes;
    size_t size;
    const int64_t unit = take(of);
    if (unit < 0) return usleep(WAIT_MICROSECONDS), INSET_OK;
    inset_status status = run(of, unit, -1, &bytes, &size);
    if (status) give_back(of, unit);
    return status ? status : put(of, bytes, size);
}

/* The edges' own, whose identity also says what units are made of: who has others is told what
 * edges say to those that are not the same. */
static uint64_t marks(const units *u)
{
    const int64_t numbers[] = {u->n, u->most};
    return units_hash(u->hash, numbers, sizeof numbers);
}

static inset_status cut(const void *of, inset_cut *out)
{
    const units *u = of;
    inset_status status = inset_edges_cut(u->edges, out);
    if (!status) out->numbers[0] ^= marks(u);
    return status;
}

static inset_status cut_as(void *of, const inset_cut *given)
{
    const units *u = of;
    inset_cut own = *given;
    own.numbers[0] ^= marks(u);
    return inset_edges_cut_as(u->edges, &own);
}

work work_of_units(inset_context *context, inset_model *model, units *u)
{
    static const work_kind kind = {
        "units", take, give_back, put, done, step, progress, cut, cut_as, run, false};
    return (work){u->book ? &kind : NULL, u, context, model};
}
