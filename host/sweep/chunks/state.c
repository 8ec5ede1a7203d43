/* state.c: what is done of a sweep, in a file that grows by a record a chunk (record.c), so that an
 * ended process loses at most the chunks it was in. It is also what a shard leaves: see merge.c.
 *
 *     header        magic, what the sweep is, how it is cut, the device's kind, sizes
 *     description   JSON: the results' names and labels (merge.c)
 *     records       in the order in which chunks were done
 *
 * Numbers are as they lie in memory: the file is for machines of one kind. A record that is cut
 * off, or whose hash is wrong, was being written when the process ended; it is cut away together
 * with what follows. How the sweep was cut is kept because it decides last bits: a resumed sweep
 * has the same chunks, and so gives the same bytes. */
#include "sweep/chunks/state.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static inset_status refuse(sweep *s, const char *what)
{
    return error_set(s->context, INSET_FILE_ERROR, "%s: %s", s->state_path, what);
}

static state_header make_header(const sweep *s, size_t description)
{
    state_header h = {.cut = cut_of(s),
        .given_limit = s->given_limit,
        .pairs = s->pairs,
        .points = s->points,
        .description = description};
    memcpy(h.magic, state_magic, sizeof state_magic);
    snprintf(h.device, sizeof h.device, "%s", s->device);
    return h;
}

bool state_read_header(FILE *file, state_header *out)
{
    return fread(out, sizeof *out, 1, file) == 1
           && !memcmp(out->magic, state_magic, sizeof state_magic)
           && out->description < (uint64_t)1 << 32 && out->cut.chunk > 0;
}

/* One record from the file, checked, in *bytes, which grows; -1 at the end of what is whole, -2
 * when memory is out. */
int64_t state_read_record(const sweep *s, FILE *file, char **bytes, size_t *capacity, size_t *size)
{
    int64_t first;
    if (fread(&first, sizeof first, 1, file) != 1) return -1;
    const int64_t chunk = chunk_at(s, first);
    *size = chunk < 0 ? 0 : record_size(s, chunk);
    if (!*size) return -1;
    if (!array_extend(s->context, bytes, capacity, *size, 1)) return -2;
    memcpy(*bytes, &first, sizeof first);
    if (fread(*bytes + sizeof first, *size - sizeof first, 1, file) != 1) return -1;
    return record_chunk(s, *bytes, *size);
}

inset_status state_open(sweep *s, bool resume, sweep_cut *cut, bool *found)
{
    state_header h, wanted = make_header(s, 0);
    FILE *file = fopen(s->state_path, "rb");
    *found = false;
    if (!file) return errno == ENOENT ? INSET_OK : refuse(s, strerror(errno));
    const bool whole = state_read_header(file, &h);
    fclose(file);
    if (!resume)
        return refuse(
            s, "an unfinished sweep was left here: it can be resumed, or the file removed");
    if (!whole || h.cut.identity != wanted.cut.identity || strcmp(h.device, wanted.device)
        || h.given_limit != wanted.given_limit || h.pairs != wanted.pairs
        || h.points != wanted.points || h.cut.shard != wanted.cut.shard
        || h.cut.shards != wanted.cut.shards || h.cut.metrics != wanted.cut.metrics)
        return refuse(s, "this is the state of another sweep: its options, prompts, model, device "
                         "or version of inset differ");
    *cut = h.cut;
    *found = true;
    return INSET_OK;
}

inset_status state_restore(sweep *s)
{
    state_header h;
    char *bytes = NULL;
    size_t capacity = 0, size;
    int64_t chunk;
    FILE *file = fopen(s->state_path, "rb");
    if (!file || !state_read_header(file, &h) || fseeko(file, (off_t)h.description, SEEK_CUR)) {
        if (file) fclose(file);
        return refuse(s, "it cannot be read");
    }
    off_t end = (off_t)(sizeof h + h.description);
    while ((chunk = state_read_record(s, file, &bytes, &capacity, &size)) >= 0) {
        record_take(s, bytes);
        end += (off_t)size;
    }
    fclose(file);
    memory_free(s->context, bytes);
    if (chunk == -2) return INSET_NO_MEMORY;
    s->progress.restored = s->progress.done;
    return truncate(s->state_path, end) ? refuse(s, strerror(errno)) : INSET_OK;
}

/* The file with its header, made when the first chunk is done: a refused sweep leaves nothing
 * behind. */
static bool begin_file(const sweep *s)
{
    char *description = NULL;
    size_t length = 0;
    if (sweep_describe(s, &description, &length)) return false;
    state_header h = make_header(s, length);
    FILE *file = fopen(s->state_path, "wbx");
    bool good = file && fwrite(&h, sizeof h, 1, file) == 1
                && (!length || fwrite(description, length, 1, file) == 1);
    if (file && fclose(file)) good = false;
    memory_free(s->context, description);
    return good;
}

inset_status state_begin(sweep *s) { return begin_file(s) ? INSET_OK : refuse(s, strerror(errno)); }

int state_append(sweep *s, const void *bytes, size_t size)
{
    bool good = access(s->state_path, F_OK) == 0 || begin_file(s);
    FILE *file = good ? fopen(s->state_path, "ab") : NULL;
    good = file && fwrite(bytes, size, 1, file) == 1 && fflush(file) == 0
           && fsync(fileno(file)) == 0;
    int reason = errno;
    if (file && fclose(file)) good = false;
    return good ? 0 : reason ? reason : EIO;
}

void state_remove(sweep *s)
{
    if (s->state_path) remove(s->state_path);
}
