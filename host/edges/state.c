/* state.c: what is done of an attribution of edges, in a file beside its result, so that an ended
 * process loses at most the pairs it was at. The sums are one matrix however many pairs they are
 * of: after each step the file is written anew under another name and takes the old one's place.
 *
 *     header    magic, fingerprint of all that decides the numbers, pairs done and a chunk, bytes
 *     numbers   sums, metrics of the two runs, each pair's scores where they are kept; a hash
 *
 * Numbers are as they lie in memory: the file is for the machine that wrote it. How many pairs a
 * chunk has is kept, so that a resumed attribution has the same chunks and gives the same bytes. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "edges/edges.h"

static const char magic[8] = "edges\n2";

typedef struct header {
    char magic[8];
    uint64_t fingerprint, bytes, hash;
    int64_t next, chunk_pairs, rows, rows_unshared;
    double flops, flops_unshared;
} header;

typedef struct part {
    void *at;
    size_t bytes;
} part;
enum { PARTS = 4 };

static size_t parts_of(const edges *e, part out[PARTS])
{
    const sweep *s = e->s;
    const size_t pairs = s->n_metrics * (size_t)s->pairs * sizeof(float),
                 all = s->n_metrics * (size_t)(e->n_positions * e->n_writers * e->n_readers);
    out[0] = (part){e->sums, all * sizeof *e->sums};
    out[1] = (part){s->clean_values, pairs};
    out[2] = (part){s->corrupt_values, pairs};
    out[3] = (part){e->per_pair, e->per_pair ? all * (size_t)s->pairs * sizeof *e->per_pair : 0};
    size_t bytes = 0;
    for (int i = 0; i < PARTS; i++) bytes += out[i].bytes;
    return bytes;
}

static inset_status refuse(const edges *e, const char *what)
{
    return error_set(e->s->context, INSET_FILE_ERROR, "%s: %s", e->s->state_path, what);
}

static uint64_t hash_of(const part *parts)
{
    uint64_t hash = 1;
    for (int i = 0; i < PARTS; i++)
        if (parts[i].bytes) hash = hash_bytes(hash, parts[i].at, parts[i].bytes);
    return hash;
}

static inset_status restore(edges *e, FILE *file)
{
    sweep *s = e->s;
    part parts[PARTS];
    header h;
    const size_t bytes = parts_of(e, parts);
    if (fread(&h, sizeof h, 1, file) != 1 || memcmp(h.magic, magic, sizeof magic)
        || h.fingerprint != e->s->fingerprint || h.bytes != bytes)
        return refuse(e, "this is the state of another attribution: its options, prompts, model or "
                         "version of inset differ");
    bool whole = h.next > 0 && h.next <= s->pairs && h.chunk_pairs > 0 && h.chunk_pairs <= s->pairs;
    for (int i = 0; i < PARTS && whole; i++)
        whole = !parts[i].bytes || fread(parts[i].at, parts[i].bytes, 1, file) == 1;
    if (!whole || h.hash != hash_of(parts)) return refuse(e, "it is damaged; remove it");
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
    part parts[PARTS];
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
    h.bytes = parts_of(e, parts);
    h.hash = hash_of(parts);
    if ((size_t)snprintf(path, sizeof path, "%s.new", s->state_path) >= sizeof path)
        return ENAMETOOLONG;
    FILE *file = fopen(path, "wb");
    bool good = file && fwrite(&h, sizeof h, 1, file) == 1;
    for (int i = 0; i < PARTS && good; i++)
        good = !parts[i].bytes || fwrite(parts[i].at, parts[i].bytes, 1, file) == 1;
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
