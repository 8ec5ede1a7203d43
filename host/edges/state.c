/* state.c: what is done of an attribution of edges, in a file beside its result, so that an ended
 * process loses at most the pairs it was at. The sums are one matrix however many pairs they are
 * of: after each step the file is written anew under another name and takes the old one's place.
 *
 *     header    magic, fingerprint of all that decides the numbers, pairs done and a chunk, bytes
 *     numbers   sums; of every metric, for the pairs done, the two runs' values, and their scores
 *               where they are kept; a hash of these is in the header
 *
 * Numbers are as they lie in memory: the file is for the machine that wrote it. How many pairs a
 * chunk has is kept, so that a resumed attribution has the same chunks and gives the same bytes. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "edges/edges.h"

static const char magic[8] = "edges\n3";

typedef struct header {
    char magic[8];
    uint64_t fingerprint, bytes, hash;
    int64_t next, chunk_pairs, rows, rows_unshared;
    double flops, flops_unshared;
} header;

/* What is done: the sums, and of every metric what the first `next` pairs have. Pairs behind them
 * may be at work in another thread while the file is written. */
typedef bool visit_bytes(void *user, void *at, size_t bytes);
static bool visit_done(const edges *e, int64_t next, visit_bytes *visit, void *user)
{
    const sweep *s = e->s;
    const size_t one = (size_t)edges_score_numbers(e), done = (size_t)next * sizeof(float);
    bool good = visit(user, e->sums, s->n_metrics * one * sizeof *e->sums);
    for (size_t m = 0; m < s->n_metrics && good; m++) {
        const size_t pair = m * (size_t)s->pairs;
        good = visit(user, s->clean_values + pair, done)
               && visit(user, s->corrupt_values + pair, done)
               && (!e->per_pair || visit(user, e->per_pair + pair * one, done * one));
    }
    return good;
}

static bool count_bytes(void *user, void *at, size_t bytes)
{
    (void)at;
    *(uint64_t *)user += bytes;
    return true;
}

static bool add_hash(void *user, void *at, size_t bytes)
{
    *(uint64_t *)user = hash_bytes(*(uint64_t *)user, at, bytes);
    return true;
}

static bool write_bytes(void *user, void *at, size_t bytes)
{
    return fwrite(at, bytes, 1, user) == 1;
}

static bool read_bytes(void *user, void *at, size_t bytes)
{
    return fread(at, bytes, 1, user) == 1;
}

static uint64_t size_of(const edges *e, int64_t next)
{
    uint64_t bytes = 0;
    visit_done(e, next, count_bytes, &bytes);
    return bytes;
}

static uint64_t hash_of(const edges *e, int64_t next)
{
    uint64_t hash = 1;
    visit_done(e, next, add_hash, &hash);
    return hash;
}

static inset_status refuse(const edges *e, const char *what)
{
    return error_set(e->s->context, INSET_FILE_ERROR, "%s: %s", e->s->state_path, what);
}

static inset_status restore(edges *e, FILE *file)
{
    sweep *s = e->s;
    header h;
    if (fread(&h, sizeof h, 1, file) != 1 || memcmp(h.magic, magic, sizeof magic)
        || h.fingerprint != e->s->fingerprint)
        return refuse(e, "this is the state of another attribution: its options, prompts, model or "
                         "version of inset differ");
    const bool whole = h.next > 0 && h.next <= s->pairs && h.chunk_pairs > 0
                       && h.chunk_pairs <= s->pairs && h.bytes == size_of(e, h.next)
                       && visit_done(e, h.next, read_bytes, file);
    if (!whole || h.hash != hash_of(e, h.next)) return refuse(e, "it is damaged; remove it");
    e->next = h.next;
    s->chunk_pairs = h.chunk_pairs;
    s->progress.done = s->progress.restored = h.next;
    s->progress.rows = h.rows, s->progress.rows_unshared = h.rows_unshared;
    s->progress.flops = h.flops, s->progress.flops_unshared = h.flops_unshared;
    return INSET_OK;
}

inset_status edges_state_open(edges *e, bool resume)
{
    if (!e->s->state_path) return INSET_OK;
    FILE *file = fopen(e->s->state_path, "rb");
    if (!file) return errno == ENOENT ? INSET_OK : refuse(e, strerror(errno));
    inset_status status = resume ? restore(e, file)
                                 : refuse(e, "an unfinished attribution was left here: it can be "
                                             "resumed, or the file removed");
    fclose(file);
    return status;
}

int edges_state_save(edges *e)
{
    const sweep *s = e->s;
    char path[PATH_MAX];
    if (!s->state_path) return 0;
    header h = {.fingerprint = s->fingerprint,
        .next = e->next,
        .chunk_pairs = s->chunk_pairs,
        .rows = s->progress.rows,
        .rows_unshared = s->progress.rows_unshared,
        .flops = s->progress.flops,
        .flops_unshared = s->progress.flops_unshared};
    memcpy(h.magic, magic, sizeof magic);
    h.bytes = size_of(e, e->next);
    h.hash = hash_of(e, e->next);
    if ((size_t)snprintf(path, sizeof path, "%s.new", s->state_path) >= sizeof path)
        return ENAMETOOLONG;
    FILE *file = fopen(path, "wb");
    bool good = file && fwrite(&h, sizeof h, 1, file) == 1
                && visit_done(e, e->next, write_bytes, file);
    good = good && fflush(file) == 0 && fsync(fileno(file)) == 0;
    int reason = errno;
    if (file && fclose(file)) good = false;
    if (good && rename(path, s->state_path)) reason = errno, good = false;
    if (!good) remove(path);
    return good ? 0 : reason ? reason : EIO;
}

void edges_state_remove(edges *e)
{
    if (e->s->state_path) remove(e->s->state_path);
}
