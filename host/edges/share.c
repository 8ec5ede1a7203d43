/* share.c: an attribution of edges in chunks of pairs, which others may run.
 *
 * A sum of floating-point numbers depends on its order. So the scores of a chunk are added up by
 * whoever runs it, and the chunks' sums by whoever has the book, in the order of the chunks: one
 * that comes early waits for those before it. Example: chunks 0, 2, 3 are there, so `folded` is 1,
 * and the records of 2 and 3 wait for 1. Nothing is given out further ahead than MOST_WAITING, so
 * few wait.
 *
 * A chunk's numbers as bytes, as they lie in memory (for machines of one kind):
 *
 *     head      first pair, pairs, what was counted
 *     scores    [metrics, positions, writers, readers], summed over the pairs, as fp32
 *     metrics   of the clean and of the corrupt run, [2, metrics, pairs]
 *     pairs     each pair's scores [metrics, pairs, positions, writers, readers], where kept
 *     hash      of all before it */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "edges/edges.h"

enum {
    MOST_WAITING = 64,
    FEWEST_CHUNKS = 16, /* where records are large */
    ROWS_AT_ONCE = 8192,
    ROWS_WORTH_HAVING = 1024 /* products of fewer are slower a row */
};
static const double most_saved = 1e9, /* bytes of what is saved of a chunk */
    most_records = 4e9;               /* of all chunks, where several run them */

typedef struct waiting_record {
    struct waiting_record *next;
    int64_t chunk;
    size_t size;
    char bytes[];
} waiting_record;

typedef struct record_head {
    int64_t first, count;
    chunk_counts counts;
} record_head;

/* ---- how pairs are cut --------------------------------------------------- */

int64_t edges_score_numbers(const edges *e) { return e->n_positions * e->n_writers * e->n_readers; }

static size_t size_of(const edges *e, int64_t count)
{
    const size_t all = (size_t)edges_score_numbers(e),
                 a_metric = all + 2 * (size_t)count + (e->per_pair ? all * (size_t)count : 0);
    return sizeof(record_head) + e->s->n_metrics * a_metric * sizeof(float) + sizeof(uint64_t);
}

/* As many pairs as rows are worth having, and what is saved of them fits; where several run them,
 * so few that everyone has some, the same whoever and however many they are. */
void edges_choose_chunk(edges *e)
{
    sweep *s = e->s;
    const double runs = 2.0 + (s->method.steps > 1 ? s->method.steps - 1 : 0),
                 backward = s->method.steps  ? s->method.steps
                            : s->method.ends ? 2
                                             : 1,
                 longest = (double)s->clean.longest, rows = (runs + backward) * longest;
    const double saved = 4 * longest * s->n_layers
                         * (2.0 * e->width + (double)s->n_metrics * backward * 5 * e->width);
    double pairs = ROWS_AT_ONCE / rows, fit = most_saved / (saved + 1);
    if (s->shared) {
        double chunks = most_records / (double)size_of(e, 0);
        if (chunks > SHARED_CHUNKS) chunks = SHARED_CHUNKS;
        if (chunks < FEWEST_CHUNKS) chunks = FEWEST_CHUNKS;
        double share = (double)s->pairs / chunks + 1;
        if (share < ROWS_WORTH_HAVING / rows) share = ROWS_WORTH_HAVING / rows;
        if (share < pairs) pairs = share;
    }
    if (fit < pairs) pairs = fit;
    s->chunk_pairs = pairs < 1 ? 1 : pairs > (double)s->pairs ? s->pairs : (int64_t)pairs;
}

edge_cut edges_cut(const edges *e)
{
    const sweep *s = e->s;
    return (edge_cut){.identity = s->identity,
        .pairs = s->pairs,
        .metrics = (int64_t)s->n_metrics,
        .memory_limit = s->memory_limit,
        .chunk = s->chunk_pairs,
        .rows = edges_rows_at_once(e),
        .shard = s->shard,
        .shards = s->shards};
}

inset_status edges_cut_as(edges *e, const edge_cut *cut)
{
    sweep *s = e->s;
    if (cut->identity != s->identity || cut->pairs != s->pairs
        || cut->metrics != (int64_t)s->n_metrics || cut->chunk < 1 || !s->shared || e->next)
        return error_set(s->context, INSET_USAGE_ERROR,
            "these are not the same edges: who runs chunks of another's has the same options, "
            "prompts and weights, `shared` set, and was not stepped");
    s->memory_limit = cut->memory_limit;
    s->chunk_pairs = cut->chunk;
    book_close(s);
    return edges_open_book(e);
}

/* Nothing is given out further ahead than it may wait; a shard's do not wait. */
static void move_on(const edges *e)
{
    book *b = e->s->book;
    const int64_t until = e->folded + MOST_WAITING;
    b->until = e->s->shards || until > b->n ? b->n : until;
}

inset_status edges_open_book(edges *e)
{
    sweep *s = e->s;
    const int64_t n = (s->pairs + s->chunk_pairs - 1) / s->chunk_pairs;
    int64_t *firsts = memory_new(s->context, ((size_t)n + 1) * sizeof *firsts);
    if (!firsts) return INSET_NO_MEMORY;
    for (int64_t i = 0; i < n; i++) firsts[i] = i * s->chunk_pairs;
    firsts[n] = s->pairs;
    inset_status status = book_open_at(s, firsts, n);
    memory_free(s->context, firsts);
    if (status) return status;
    while (e->folded < n && chunk_first(s, e->folded) < e->next) {
        s->book->states[e->folded++] = CHUNK_DONE;
        s->book->left--;
    }
    move_on(e);
    if (s->book->firsts[e->folded] == e->next) return INSET_OK;
    return error_set(s->context, INSET_FILE_ERROR, "%s: it is damaged; remove it", s->state_path);
}

/* ---- records ------------------------------------------------------------- */

size_t edges_record_size(const edges *e, int64_t chunk)
{
    return size_of(e, chunk_jobs(e->s, chunk));
}

/* Copies between a record and the arrays, a metric at a time; where it ends. */
static char *carry_pairs(const edges *e, const record_head *h, char *at, bool out)
{
    const sweep *s = e->s;
    const size_t one = (size_t)edges_score_numbers(e), n = (size_t)h->count;
    for (int k = 0; k < 2 + (e->per_pair != NULL); k++)
        for (size_t m = 0; m < s->n_metrics; m++) {
            const size_t numbers = k < 2 ? 1 : one, bytes = n * numbers * sizeof(float);
            float *array = k == 0   ? s->clean_values
                           : k == 1 ? s->corrupt_values
                                    : e->per_pair,
                  *to = array + (m * (size_t)s->pairs + (size_t)h->first) * numbers;
            if (out) memcpy(at, to, bytes);
            else memcpy(to, at, bytes);
            at += bytes;
        }
    return at;
}

inset_status edges_record_make(
    const edges *e, int64_t chunk, const chunk_counts *counts, char **bytes, size_t *size)
{
    const sweep *s = e->s;
    const record_head h = {chunk_first(s, chunk), chunk_jobs(s, chunk), *counts};
    *size = size_of(e, h.count);
    char *at = *bytes = memory_new(s->context, *size);
    if (!at) return INSET_NO_MEMORY;
    memcpy(at, &h, sizeof h);
    at += sizeof h;
    const int64_t numbers = (int64_t)s->n_metrics * edges_score_numbers(e);
    for (int64_t i = 0; i < numbers; i++, at += sizeof(float)) {
        const float sum = (float)e->chunk_sums[i];
        memcpy(at, &sum, sizeof sum);
    }
    at = carry_pairs(e, &h, at, true);
    const uint64_t hash = hash_bytes(s->identity, *bytes, *size - sizeof hash);
    memcpy(at, &hash, sizeof hash);
    return INSET_OK;
}

int64_t edges_record_chunk(const edges *e, const void *bytes, size_t size)
{
    record_head h;
    uint64_t hash;
    if (size < sizeof h + sizeof hash) return -1;
    memcpy(&h, bytes, sizeof h);
    const int64_t chunk = chunk_at(e->s, h.first);
    if (chunk < 0 || h.count != chunk_jobs(e->s, chunk) || size != size_of(e, h.count)) return -1;
    memcpy(&hash, (const char *)bytes + size - sizeof hash, sizeof hash);
    return hash == hash_bytes(e->s->identity, bytes, size - sizeof hash) ? chunk : -1;
}

/* ---- sums ---------------------------------------------------------------- */

/* All of these under the book's lock. */
static void fold(edges *e, const char *bytes)
{
    record_head h;
    memcpy(&h, bytes, sizeof h);
    const int64_t numbers = (int64_t)e->s->n_metrics * edges_score_numbers(e);
    const char *at = bytes + sizeof h;
    for (int64_t i = 0; i < numbers; i++, at += sizeof(float)) {
        float sum;
        memcpy(&sum, at, sizeof sum);
        e->sums[i] += sum;
    }
    carry_pairs(e, &h, (char *)(uintptr_t)at, false);
    e->next += h.count;
    e->folded++;
}

static void fold_waiting(edges *e)
{
    for (waiting_record **at = &e->waiting; *at;) {
        waiting_record *w = *at;
        if (w->chunk != e->folded) {
            at = &w->next;
            continue;
        }
        fold(e, w->bytes);
        *at = w->next;
        free(w);
        at = &e->waiting; /* the list is in no order */
    }
}

/* malloc: the context's memory is its own thread's. */
static int let_wait(edges *e, int64_t chunk, const void *bytes, size_t size)
{
    waiting_record *w = malloc(sizeof *w + size);
    if (!w) return ENOMEM;
    *w = (waiting_record){.next = e->waiting, .chunk = chunk, .size = size};
    memcpy(w->bytes, bytes, size);
    e->waiting = w;
    return 0;
}

void edges_forget_waiting(edges *e)
{
    for (waiting_record *w = e->waiting, *next; w; w = next) next = w->next, free(w);
    e->waiting = NULL;
}

/* What is in the sums is done, also where it then cannot be kept in the state file. */
static int take(edges *e, int64_t chunk, const void *bytes, size_t size, const record_head *h)
{
    const bool early = !e->s->shards && chunk != e->folded;
    const int reason = early          ? let_wait(e, chunk, bytes, size)
                       : e->s->shards ? edges_part_append(e, bytes, size)
                                      : 0;
    if (reason) return reason;
    if (e->s->shards) e->next += h->count;
    else if (!early) {
        fold(e, bytes);
        fold_waiting(e);
        move_on(e);
    }
    book_mark_done(e->s->book, chunk, &e->s->progress, &h->counts);
    return e->s->shards || early ? 0 : edges_state_save(e);
}

int edges_keep(edges *e, int64_t chunk, const void *bytes, size_t size)
{
    book *b = e->s->book;
    record_head h;
    memcpy(&h, bytes, sizeof h);
    pthread_mutex_lock(&b->lock);
    const bool there = b->states[chunk] == CHUNK_DONE;
    const int reason = there ? 0 : take(e, chunk, bytes, size, &h);
    pthread_mutex_unlock(&b->lock);
    return reason;
}
