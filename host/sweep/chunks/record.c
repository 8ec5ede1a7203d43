/* record.c: what came out of a chunk, as bytes:
 *
 *     head      first job, jobs, what was counted
 *     numbers   values [metrics, jobs]; clean and corrupt values [metrics, pairs of these jobs]
 *     hash      of all before it
 *
 * Numbers are as they lie in memory: records go between machines of one kind. The unpatched runs of
 * a pair are in each of its chunks; the pair's first chunk is the one that says, whoever comes
 * first. */
#include "sweep/chunks/book.h"

#include <math.h>
#include <string.h>

typedef struct record_head {
    int64_t first, count;
    chunk_counts counts;
} record_head;

static int64_t first_pair(const sweep *s, int64_t first) { return first / s->points; }
static int64_t pairs_of(const sweep *s, int64_t first, int64_t count)
{
    return (first + count - 1) / s->points - first_pair(s, first) + 1;
}

static size_t size_of(const sweep *s, int64_t first, int64_t count)
{
    return sizeof(record_head)
           + s->n_metrics * (size_t)(count + 2 * pairs_of(s, first, count)) * sizeof(float)
           + sizeof(uint64_t);
}

size_t record_size(const sweep *s, int64_t chunk)
{
    return size_of(s, chunk_first(s, chunk), chunk_jobs(s, chunk));
}

inset_status record_make(
    const sweep *s, int64_t chunk, const chunk_counts *counts, char **bytes, size_t *size)
{
    record_head h = {.counts = *counts};
    h.first = chunk_first(s, chunk);
    h.count = chunk_jobs(s, chunk);
    *size = size_of(s, h.first, h.count);
    char *at = *bytes = memory_new(s->context, *size);
    if (!at) return INSET_NO_MEMORY;
    memcpy(at, &h, sizeof h);
    at += sizeof h;
    const int64_t pair = first_pair(s, h.first);
    const size_t of_pairs = (size_t)pairs_of(s, h.first, h.count) * sizeof(float);
    for (int64_t m = 0; m < (int64_t)s->n_metrics; m++) {
        memcpy(at, s->values + m * s->jobs + h.first, (size_t)h.count * sizeof(float));
        at += (size_t)h.count * sizeof(float);
        memcpy(at, s->clean_values + m * s->pairs + pair, of_pairs);
        at += of_pairs;
        memcpy(at, s->corrupt_values + m * s->pairs + pair, of_pairs);
        at += of_pairs;
    }
    const uint64_t hash = hash_bytes(s->identity, *bytes, *size - sizeof hash);
    memcpy(at, &hash, sizeof hash);
    return INSET_OK;
}

int64_t record_chunk(const sweep *s, const void *bytes, size_t size)
{
    record_head h;
    uint64_t hash;
    if (size < sizeof h + sizeof hash) return -1;
    memcpy(&h, bytes, sizeof h);
    const int64_t chunk = chunk_at(s, h.first);
    if (chunk < 0 || h.count != chunk_jobs(s, chunk) || size != size_of(s, h.first, h.count))
        return -1;
    memcpy(&hash, (const char *)bytes + size - sizeof hash, sizeof hash);
    return hash == hash_bytes(s->identity, bytes, size - sizeof hash) ? chunk : -1;
}

/* One number a pair; where a pair began in an earlier chunk, only until that one is there. */
static void take_pairs(sweep *s, const record_head *h, float *to, const float *from)
{
    const int64_t pair = first_pair(s, h->first), n = pairs_of(s, h->first, h->count);
    for (int64_t i = 0; i < n; i++)
        if (h->first <= (pair + i) * s->points || isnan(to[pair + i])) to[pair + i] = from[i];
}

static void take_numbers(sweep *s, const record_head *h, const char *at)
{
    const int64_t n = pairs_of(s, h->first, h->count);
    for (int64_t m = 0; m < (int64_t)s->n_metrics; m++) {
        memcpy(s->values + m * s->jobs + h->first, at, (size_t)h->count * sizeof(float));
        const float *pairs = (const float *)(const void *)(at + (size_t)h->count * sizeof(float));
        take_pairs(s, h, s->clean_values + m * s->pairs, pairs);
        take_pairs(s, h, s->corrupt_values + m * s->pairs, pairs + n);
        at += (size_t)(h->count + 2 * n) * sizeof(float);
    }
}

bool record_take(sweep *s, const void *bytes)
{
    record_head h;
    memcpy(&h, bytes, sizeof h);
    book *b = s->book;
    const int64_t chunk = chunk_at(s, h.first);
    pthread_mutex_lock(&b->lock);
    const bool news = b->states[chunk] != CHUNK_DONE;
    if (news) {
        take_numbers(s, &h, (const char *)bytes + sizeof h);
        book_mark_done(b, chunk, &s->progress, &h.counts);
    }
    pthread_mutex_unlock(&b->lock);
    return news;
}
