/* book.c: chunks given out and taken back, under one lock. */
#include "sweep/chunks/book.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- how jobs are cut ---------------------------------------------------- */

sweep_cut cut_of(const sweep *s)
{
    return (sweep_cut){.identity = s->identity,
        .jobs = s->jobs,
        .metrics = (int64_t)s->n_metrics,
        .memory_limit = s->memory_limit,
        .chunk = s->method.estimates ? s->chunk_pairs : s->chunk,
        .again = s->again,
        .shard = s->shard,
        .shards = s->shards};
}

void cut_apply(sweep *s, const sweep_cut *cut)
{
    s->memory_limit = cut->memory_limit;
    if (s->method.estimates) s->chunk_pairs = cut->chunk;
    else s->chunk = cut->chunk;
    s->again = cut->again != 0;
}

static inset_status list_firsts(sweep *s, int64_t **firsts, int64_t *n)
{
    size_t capacity = 0;
    for (int64_t first = 0;; first += sweep_count_from(s, first)) {
        if (!array_extend(s->context, firsts, &capacity, (size_t)*n + 1, sizeof **firsts))
            return INSET_NO_MEMORY;
        (*firsts)[*n] = first;
        if (first >= s->jobs) return INSET_OK;
        (*n)++;
    }
}

double chunk_cost(const sweep *s, int64_t chunk)
{
    double cost = 0;
    for (int64_t i = chunk_first(s, chunk); i < s->book->firsts[chunk + 1]; i++) {
        job j;
        if (!job_runs(s, i) || !job_at(s, i, &j)) continue;
        int64_t first, step;
        job_positions(s, &j, &first, &step);
        const int64_t layer = j.at[AXIS_LAYER] < 0
                                  ? s->first_layer
                                  : s->first_layer + j.at[AXIS_LAYER] * s->layers.step;
        cost += (double)(s->n_layers - layer) * (double)(s->clean.lengths[j.pair] - first);
    }
    return cost;
}

typedef struct costly {
    double cost;
    int64_t chunk;
} costly;

static int dearest_first(const void *a, const void *b)
{
    const costly *x = a, *y = b;
    if (x->cost != y->cost) return x->cost > y->cost ? -1 : 1;
    return x->chunk < y->chunk ? -1 : 1;
}

/* The dearest first where several take them, so that nobody is left with one at the end; else, and
 * where there are no points to go by (edges), as they come. Shards are dealt the same order in
 * turn. */
static inset_status find_order(sweep *s, book *b)
{
    costly *list = memory_new(s->context, ((size_t)b->n + 1) * sizeof *list);
    if (!list) return INSET_NO_MEMORY;
    for (int64_t i = 0; i < b->n; i++)
        list[i] = (costly){s->shared && s->points ? chunk_cost(s, i) : 0, i};
    qsort(list, (size_t)b->n, sizeof *list, dearest_first);
    b->left = 0;
    for (int64_t i = 0; i < b->n; i++) {
        const bool mine = s->shards < 1 || i % s->shards == s->shard - 1;
        b->order[i] = list[i].chunk;
        b->states[list[i].chunk] = mine ? CHUNK_FREE : CHUNK_ELSEWHERE;
        b->left += mine;
    }
    memory_free(s->context, list);
    return INSET_OK;
}

inset_status book_open_at(sweep *s, const int64_t *firsts, int64_t n)
{
    book *b = memory_new(s->context, sizeof *b);
    if (!b) return INSET_NO_MEMORY;
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->changed, NULL);
    s->book = b;
    b->n = b->until = n;
    b->firsts = memory_new(s->context, ((size_t)n + 1) * sizeof *b->firsts);
    b->states = memory_new(s->context, (size_t)n + 1);
    b->order = memory_new(s->context, ((size_t)n + 1) * sizeof *b->order);
    if (!b->firsts || !b->states || !b->order) return INSET_NO_MEMORY;
    memcpy(b->firsts, firsts, ((size_t)n + 1) * sizeof *b->firsts);
    return find_order(s, b);
}

inset_status book_open(sweep *s)
{
    int64_t *firsts = NULL, n = 0;
    inset_status status = list_firsts(s, &firsts, &n);
    if (!status) status = book_open_at(s, firsts, n);
    memory_free(s->context, firsts);
    return status;
}

void book_close(sweep *s)
{
    book *b = s->book;
    if (!b) return;
    pthread_mutex_destroy(&b->lock);
    pthread_cond_destroy(&b->changed);
    memory_free(s->context, b->firsts);
    memory_free(s->context, b->states);
    memory_free(s->context, b->order);
    memory_free(s->context, b);
    s->book = NULL;
}

int64_t chunk_first(const sweep *s, int64_t chunk) { return s->book->firsts[chunk]; }
int64_t chunk_jobs(const sweep *s, int64_t chunk)
{
    return s->book->firsts[chunk + 1] - s->book->firsts[chunk];
}

int64_t chunk_at(const sweep *s, int64_t first)
{
    int64_t low = 0, high = s->book->n;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (s->book->firsts[middle] < first) low = middle + 1;
        else high = middle;
    }
    return low < s->book->n && s->book->firsts[low] == first ? low : -1;
}

/* ---- giving out ---------------------------------------------------------- */

bool book_done(const sweep *s)
{
    book *b = s->book;
    pthread_mutex_lock(&b->lock);
    const bool done = !b->left;
    pthread_mutex_unlock(&b->lock);
    return done;
}

int64_t book_take(sweep *s)
{
    book *b = s->book;
    int64_t found = -1;
    pthread_mutex_lock(&b->lock);
    while (b->from < b->n && b->states[b->order[b->from]] != CHUNK_FREE) b->from++;
    if (b->from < b->until && !b->stopped) {
        found = b->order[b->from++];
        b->states[found] = CHUNK_TAKEN;
    }
    pthread_mutex_unlock(&b->lock);
    return found;
}

void book_give_back(sweep *s, int64_t chunk)
{
    book *b = s->book;
    if (chunk < 0) return;
    pthread_mutex_lock(&b->lock);
    if (b->states[chunk] == CHUNK_TAKEN) {
        b->states[chunk] = CHUNK_FREE;
        b->from = 0;
    }
    pthread_cond_broadcast(&b->changed);
    pthread_mutex_unlock(&b->lock);
}

static bool any_free(const book *b)
{
    for (int64_t i = b->from; i < b->until; i++)
        if (b->states[b->order[i]] == CHUNK_FREE) return true;
    return false;
}

/* Under the lock. */
static inset_status tell_failure(sweep *s)
{
    const inset_status status = s->book->failed;
    if (status) error_set(s->context, status, "%s", s->book->failure);
    s->book->failed = INSET_OK;
    return status;
}

inset_status book_check(sweep *s)
{
    pthread_mutex_lock(&s->book->lock);
    const inset_status status = tell_failure(s);
    pthread_mutex_unlock(&s->book->lock);
    return status;
}

inset_status book_wait(sweep *s)
{
    book *b = s->book;
    pthread_mutex_lock(&b->lock);
    while (b->left && !b->failed && !any_free(b)) pthread_cond_wait(&b->changed, &b->lock);
    const inset_status status = tell_failure(s);
    pthread_mutex_unlock(&b->lock);
    return status;
}

void book_stop(sweep *s, bool stopped)
{
    book *b = s->book;
    pthread_mutex_lock(&b->lock);
    b->stopped = stopped;
    pthread_mutex_unlock(&b->lock);
}

void book_fail(sweep *s, inset_status status, const char *message)
{
    book *b = s->book;
    pthread_mutex_lock(&b->lock);
    if (!b->failed) {
        b->failed = status;
        snprintf(b->failure, sizeof b->failure, "%s", message);
    }
    pthread_cond_broadcast(&b->changed);
    pthread_mutex_unlock(&b->lock);
}

void book_mark_done(book *b, int64_t chunk, inset_sweep_progress *progress, const chunk_counts *of)
{
    progress->done += of->done;
    progress->rows += of->rows;
    progress->rows_unshared += of->rows_unshared;
    progress->flops += of->flops;
    progress->flops_unshared += of->flops_unshared;
    b->left -= b->states[chunk] != CHUNK_ELSEWHERE;
    b->states[chunk] = CHUNK_DONE;
    b->done++;
    pthread_cond_broadcast(&b->changed);
}
