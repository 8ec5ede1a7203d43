/* state.c: what is done of a sweep, in a file that grows by a record a chunk, so that an ended
 * process loses at most the chunk it was in.
 *
 *     header      magic, fingerprint of all that decides the numbers, jobs, pairs, metrics, memory
 *                 limit
 *     record      first job, jobs, rows and FLOPs of the chunk; values [metrics, jobs]; clean and
 *                 corrupt values [metrics, pairs of these jobs]; a hash of the record
 *
 * Numbers are as they lie in memory: the file is for the machine that wrote it. A record that is
 * cut off, or whose hash is wrong, was being written when the process ended; it is cut away
 * together with what follows. The memory limit is kept because chunks depend on it: a resumed sweep
 * cuts the same chunks, and so gives the same bytes. */
#include "sweep/sweep.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char magic[8] = "inset\n1";

typedef struct header {
    char magic[8];
    uint64_t fingerprint;
    int64_t jobs, pairs, metrics;
    uint64_t memory_limit;
} header;

typedef struct record_head {
    int64_t first, count, done, rows, rows_unshared;
    double flops, flops_unshared;
} record_head;

static inset_status refuse(sweep *s, const char *what)
{
    return error_set(s->context, INSET_FILE_ERROR, "%s: %s", s->state_path, what);
}

static header make_header(const sweep *s)
{
    header h = {.fingerprint = s->fingerprint,
        .jobs = s->jobs,
        .pairs = s->pairs,
        .metrics = (int64_t)s->n_metrics,
        .memory_limit = s->memory_limit};
    memcpy(h.magic, magic, sizeof magic);
    return h;
}

/* ---- one record --------------------------------------------------------- */

static int64_t first_pair(const sweep *s, const record_head *h) { return h->first / s->points; }
static int64_t pairs_of(const sweep *s, const record_head *h)
{
    return (h->first + h->count - 1) / s->points - first_pair(s, h) + 1;
}
static size_t record_bytes(const sweep *s, const record_head *h)
{
    return sizeof *h + s->n_metrics * (size_t)(h->count + 2 * pairs_of(s, h)) * sizeof(float)
           + sizeof(uint64_t);
}

/* Copies between the sweep's arrays and a record's numbers. */
static void move_numbers(sweep *s, const record_head *h, char *numbers, bool out)
{
    for (size_t m = 0; m < s->n_metrics; m++) {
        float *const arrays[3] = {s->values + (int64_t)m * s->jobs + h->first,
            s->clean_values + (int64_t)m * s->pairs + first_pair(s, h),
            s->corrupt_values + (int64_t)m * s->pairs + first_pair(s, h)};
        for (int k = 0; k < 3; k++) {
            size_t size = (size_t)(k ? pairs_of(s, h) : h->count) * sizeof(float);
            if (out) memcpy(numbers, arrays[k], size);
            else memcpy(arrays[k], numbers, size);
            numbers += size;
        }
    }
}

/* Reads one record; false at the end of what is whole. */
static bool read_record(sweep *s, FILE *file, int64_t *end)
{
    record_head h;
    if (fread(&h, sizeof h, 1, file) != 1 || h.first != s->next || h.count < 1
        || h.count > s->jobs - h.first)
        return false;
    size_t size = record_bytes(s, &h);
    char *bytes = memory_new(s->context, size);
    if (!bytes) return false;
    uint64_t hash;
    memcpy(bytes, &h, sizeof h);
    bool good = fread(bytes + sizeof h, size - sizeof h, 1, file) == 1;
    memcpy(&hash, bytes + size - sizeof hash, sizeof hash);
    good = good && hash == hash_bytes(s->fingerprint, bytes, size - sizeof hash);
    if (good) {
        move_numbers(s, &h, bytes + sizeof h, false);
        s->next += h.count;
        s->progress.done = s->progress.restored = h.done;
        s->progress.rows = h.rows;
        s->progress.rows_unshared = h.rows_unshared;
        s->progress.flops = h.flops;
        s->progress.flops_unshared = h.flops_unshared;
        *end += (int64_t)size;
    }
    memory_free(s->context, bytes);
    return good;
}

/* ---- the file ----------------------------------------------------------- */

static inset_status restore(sweep *s, FILE *file)
{
    header found = {.jobs = 0}, wanted = make_header(s);
    bool whole = fread(&found, sizeof found, 1, file) == 1;
    /* what is free now is not what was free then; a limit that was given is hashed */
    if (whole) wanted.memory_limit = found.memory_limit;
    if (!whole || memcmp(&found, &wanted, sizeof found))
        return refuse(s, "this is the state of another sweep: its options, prompts, model or "
                         "version of inset differ");
    s->memory_limit = found.memory_limit;
    int64_t end = sizeof found;
    while (read_record(s, file, &end)) {}
    return truncate(s->state_path, end) ? refuse(s, strerror(errno)) : INSET_OK;
}

inset_status state_open(sweep *s, bool resume)
{
    FILE *file = fopen(s->state_path, "rb");
    if (!file) return errno == ENOENT ? INSET_OK : refuse(s, strerror(errno));
    inset_status status =
        resume ? restore(s, file)
               : refuse(
                   s, "an unfinished sweep was left here: it can be resumed, or the file removed");
    fclose(file);
    return status;
}

/* The file with its header, made when the first chunk is done: a refused sweep leaves nothing
 * behind. */
static bool begin_file(const sweep *s)
{
    header h = make_header(s);
    FILE *file = fopen(s->state_path, "wbx");
    bool good = file && fwrite(&h, sizeof h, 1, file) == 1;
    if (file && fclose(file)) good = false;
    return good;
}

inset_status state_append(sweep *s, int64_t first, int64_t count)
{
    record_head h = {.first = first,
        .count = count,
        .done = s->progress.done,
        .rows = s->progress.rows,
        .rows_unshared = s->progress.rows_unshared,
        .flops = s->progress.flops,
        .flops_unshared = s->progress.flops_unshared};
    size_t size = record_bytes(s, &h);
    char *bytes = memory_new(s->context, size);
    if (!bytes) return INSET_NO_MEMORY;
    memcpy(bytes, &h, sizeof h);
    move_numbers(s, &h, bytes + sizeof h, true);
    uint64_t hash = hash_bytes(s->fingerprint, bytes, size - sizeof hash);
    memcpy(bytes + size - sizeof hash, &hash, sizeof hash);
    bool good = access(s->state_path, F_OK) == 0 || begin_file(s);
    FILE *file = good ? fopen(s->state_path, "ab") : NULL;
    good = file && fwrite(bytes, size, 1, file) == 1 && fflush(file) == 0
           && fsync(fileno(file)) == 0;
    int reason = errno;
    if (file && fclose(file)) good = false;
    memory_free(s->context, bytes);
    return good ? INSET_OK : refuse(s, strerror(reason));
}

void state_remove(sweep *s)
{
    if (s->state_path) remove(s->state_path);
}
