/* pack.c: prompts into shards, and a shard's prompts into batches.
 *
 * A shard has consecutive prompts in their order. Within it prompts are packed by length: as many
 * of one length as fill a batch go together, so that the same batch comes again in every shard and
 * has one plan; what is left over of the lengths is put together until a batch is full. Both depend
 * on the settings and the prompts alone, so that what goes on after an interruption runs the same
 * batches. */
#include "cache/cache.h"

#include <stdlib.h>
#include <string.h>

/* Bytes of a batch's rows, of which two batches and two packets are in memory. */
enum { MOST_BATCH_BYTES = 32 << 20 };

/* ---- shards ------------------------------------------------------------- */

/* Where shards begin and how many rows they have, into c->first_prompt and c->rows unless these are
 * not there yet; how many there are. A prompt without rows never begins one, so none is empty. */
static int64_t cut(const cache *c)
{
    const int64_t most = (int64_t)(c->shard_bytes / c->row_bytes);
    int64_t n = 0, rows = 0;
    for (int64_t i = 0; i < c->prompts.count; i++) {
        const int64_t more = prompt_rows(c, i);
        if (more && rows && rows + more > most) {
            if (c->rows) c->rows[n] = rows;
            n++;
            rows = 0;
            if (c->rows) c->first_prompt[n] = i;
        }
        rows += more;
    }
    if (c->rows) {
        c->rows[n] = rows;
        c->first_prompt[n + 1] = c->prompts.count;
    }
    return n + 1;
}

inset_status pack_cut(cache *c)
{
    c->n_shards = cut(c);
    c->first_prompt = arena_new(&c->memory, (size_t)(c->n_shards + 1) * sizeof *c->first_prompt);
    c->done = arena_new(&c->memory, (size_t)c->n_shards);
    c->rows = arena_new(&c->memory, (size_t)c->n_shards * sizeof *c->rows);
    if (!c->first_prompt || !c->done || !c->rows) return INSET_NO_MEMORY;
    cut(c);
    return INSET_OK;
}

/* ---- batches ------------------------------------------------------------ */

typedef struct entry {
    int64_t length, prompt;
} entry;

static int by_length(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    if (x->length != y->length) return x->length < y->length ? -1 : 1;
    return x->prompt < y->prompt ? -1 : x->prompt > y->prompt;
}

/* Prompts of one length in a full batch. */
static int64_t full_batch(const cache *c, int64_t length)
{
    const int64_t bytes = c->rows_a_length[length] * (int64_t)c->row_bytes,
                  by_tokens = c->batch_tokens / length, by_bytes = MOST_BATCH_BYTES / bytes,
                  n = by_tokens < by_bytes ? by_tokens : by_bytes;
    return n < 1 ? 1 : n;
}

static void add_batch(cache *c, int64_t first, int64_t count)
{
    if (count) c->batches[c->n_batches++] = (batch_span){first, count};
}

/* Batches of one length each; what is left over is moved to the front of `entries`, and returned is
 * how much that is. */
static int64_t pack_alike(cache *c, entry *entries, int64_t n, int64_t *written)
{
    int64_t left = 0;
    for (int64_t i = 0, end; i < n; i = end) {
        for (end = i; end < n && entries[end].length == entries[i].length;) end++;
        const int64_t full = full_batch(c, entries[i].length);
        for (; end - i >= full; i += full) {
            for (int64_t k = 0; k < full; k++) c->order[*written + k] = entries[i + k].prompt;
            add_batch(c, *written, full);
            *written += full;
        }
        for (; i < end; i++) entries[left++] = entries[i];
    }
    return left;
}

static void pack_rest(cache *c, const entry *entries, int64_t n, int64_t written)
{
    int64_t first = written, tokens = 0, bytes = 0;
    for (int64_t i = 0; i < n; i++) {
        const int64_t more = c->rows_a_length[entries[i].length] * (int64_t)c->row_bytes;
        if (tokens + entries[i].length > c->batch_tokens || bytes + more > MOST_BATCH_BYTES) {
            add_batch(c, first, written - first);
            first = written;
            tokens = bytes = 0;
        }
        tokens += entries[i].length;
        bytes += more;
        c->order[written++] = entries[i].prompt;
    }
    add_batch(c, first, written - first);
}

inset_status pack_shard(cache *c, int64_t number)
{
    const int64_t from = c->first_prompt[number], to = c->first_prompt[number + 1];
    const size_t most = (size_t)(to - from);
    int64_t n = 0, written = 0;
    entry *entries = memory_new(c->context, most * sizeof *entries);
    if (!entries || !array_extend(c->context, &c->order, &c->order_capacity, most, sizeof *c->order)
        || !array_extend(c->context, &c->batches, &c->batches_capacity, most, sizeof *c->batches)) {
        memory_free(c->context, entries);
        return INSET_NO_MEMORY;
    }
    for (int64_t i = from; i < to; i++)
        if (prompt_rows(c, i)) entries[n++] = (entry){c->prompts.lengths[i], i};
    qsort(entries, (size_t)n, sizeof *entries, by_length);
    c->n_batches = 0;
    n = pack_alike(c, entries, n, &written);
    pack_rest(c, entries, n, written);
    memory_free(c->context, entries);
    return INSET_OK;
}

/* ---- what could be shared ----------------------------------------------- */

static int64_t common_start(const prompts *p, int64_t a, int64_t b)
{
    const int64_t *x = p->tokens + p->starts[a], *y = p->tokens + p->starts[b];
    const int64_t most = p->lengths[a] < p->lengths[b] ? p->lengths[a] : p->lengths[b];
    int64_t n = 0;
    while (n < most && x[n] == y[n]) n++;
    return n;
}

static bool comes_before(const prompts *p, int64_t a, int64_t b)
{
    const int64_t n = common_start(p, a, b);
    if (n == p->lengths[a] || n == p->lengths[b]) return p->lengths[a] < p->lengths[b];
    return p->tokens[p->starts[a] + n] < p->tokens[p->starts[b] + n];
}

/* A heap sort by tokens, in place: prompts that begin alike come together. */
static void sift(const prompts *p, int64_t *at, int64_t i, int64_t n)
{
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && comes_before(p, at[child], at[child + 1])) child++;
        if (!comes_before(p, at[i], at[child])) return;
        const int64_t swap = at[i];
        at[i] = at[child];
        at[child] = swap;
    }
}

int64_t pack_shared(const cache *c, int64_t n, int64_t *prompts)
{
    int64_t shared = 0;
    for (int64_t i = n / 2 - 1; i >= 0; i--) sift(&c->prompts, prompts, i, n);
    for (int64_t end = n - 1; end > 0; end--) {
        const int64_t largest = prompts[0];
        prompts[0] = prompts[end];
        prompts[end] = largest;
        sift(&c->prompts, prompts, 0, end);
    }
    for (int64_t i = 1; i < n; i++) shared += common_start(&c->prompts, prompts[i - 1], prompts[i]);
    return shared;
}
