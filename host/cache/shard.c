/* shard.c: the thread that writes shards, while the next batch runs.
 *
 * A shard is made under the name SHARD.partial with all its room, so that a disk that is too full
 * says so before the work is done; batches fill in their rows where they belong; and when the last
 * one has, it reaches the disk (fsync) and takes its name. Only then cache.json, which says that it
 * is whole, is replaced in the same way. The thread knows no tensors, allocates nothing and never
 * touches the context: what goes wrong it leaves for the caller's next call. */
#include "cache/cache.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PACKETS = 2 };

struct shard_writer {
    inset_context *context;
    int directory;
    const char *path; /* of the directory, for messages */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    packet packets[PACKETS];
    int filling; /* the next for the caller */
    atomic_bool quit;
    /* what failed first: errno, what was being done, to which file; held with the lock */
    int failure;
    const char *doing;
    char failed[64];
    /* the thread's own */
    int file; /* of the shard that is written; -1: none */
    char partial[64], name[40];
};

void shard_name(int64_t shard, char out[40])
{
    snprintf(out, 40, "%05lld.safetensors", (long long)shard);
}

/* ---- the thread --------------------------------------------------------- */

static bool fail(shard_writer *w, const char *file, const char *doing)
{
    const int reason = errno;
    pthread_mutex_lock(&w->lock);
    if (!w->failure) {
        w->failure = reason ? reason : EIO;
        w->doing = doing;
        snprintf(w->failed, sizeof w->failed, "%s", file);
    }
    pthread_mutex_unlock(&w->lock);
    return false;
}

static bool write_at(int file, const char *bytes, size_t size, uint64_t at)
{
    while (size) {
        const ssize_t n = pwrite(file, bytes, size < 1 << 30 ? size : 1 << 30, (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        bytes += n;
        at += (uint64_t)n;
        size -= (size_t)n;
    }
    return true;
}

/* Some file systems have no fsync for directories and do it themselves. */
static bool sync_directory(const shard_writer *w)
{
    return fsync(w->directory) == 0 || errno == EINVAL || errno == ENOTSUP || errno == EROFS;
}

static void give_up_file(shard_writer *w)
{
    if (w->file < 0) return;
    close(w->file);
    unlinkat(w->directory, w->partial, 0);
    w->file = -1;
}

static bool begin_file(shard_writer *w, const packet *p)
{
    shard_name(p->shard, w->name);
    snprintf(w->partial, sizeof w->partial, "%s.partial", w->name);
    w->file = openat(w->directory, w->partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (w->file < 0) return fail(w, w->name, "cannot be made");
    int reason;
    while ((reason = posix_fallocate(w->file, 0, (off_t)p->file_size)) == EINTR) {}
    if (!reason || reason == EOPNOTSUPP || reason == EINVAL) return true;
    errno = reason;
    return fail(w, w->name, "cannot be given its room");
}

static bool end_file(shard_writer *w)
{
    if (fsync(w->file)) return fail(w, w->name, "cannot be brought to the disk");
    const int file = w->file;
    w->file = -1;
    if (close(file)) {
        unlinkat(w->directory, w->partial, 0);
        return fail(w, w->name, "cannot be written");
    }
    if (renameat(w->directory, w->partial, w->directory, w->name))
        return fail(w, w->name, "cannot get its name");
    return sync_directory(w) || fail(w, w->name, "cannot be brought to the disk");
}

static bool replace_index(shard_writer *w, const char *name, const char *text)
{
    char partial[64];
    snprintf(partial, sizeof partial, "%s.partial", name);
    const int file = openat(w->directory, partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (file < 0) return fail(w, name, "cannot be made");
    bool good = write_at(file, text, strlen(text), 0) && fsync(file) == 0;
    if (!good) fail(w, name, "cannot be written");
    if (close(file) && good) good = fail(w, name, "cannot be written");
    if (good && renameat(w->directory, partial, w->directory, name))
        good = fail(w, name, "cannot get its name");
    if (!good) unlinkat(w->directory, partial, 0);
    return good && (sync_directory(w) || fail(w, name, "cannot be brought to the disk"));
}

static bool write_packet(shard_writer *w, const packet *p)
{
    if (p->begins && !begin_file(w, p)) return false;
    for (size_t i = 0; i < p->n_pieces; i++) {
        const piece *x = &p->pieces[i];
        if (w->quit) return false;
        if (!write_at(w->file, p->bytes + x->from, x->size, x->at))
            return fail(w, w->name, "cannot be written");
    }
    if (p->ends && !end_file(w)) return false;
    return !p->index || replace_index(w, p->index_name, p->index);
}

static void *run_thread(void *argument)
{
    shard_writer *w = argument;
    int at = 0;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->packets[at].full && !w->quit) pthread_cond_wait(&w->changed, &w->lock);
        if (w->quit) break;
        const bool dead = w->failure != 0;
        pthread_mutex_unlock(&w->lock);
        if (!dead && !write_packet(w, &w->packets[at])) give_up_file(w);
        pthread_mutex_lock(&w->lock);
        w->packets[at].full = false;
        at = (at + 1) % PACKETS;
        pthread_cond_broadcast(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
    give_up_file(w);
    return NULL;
}

/* ---- the caller --------------------------------------------------------- */

/* Signals are the caller's threads': none of them ends up here. (One for a file beyond the
 * process's limit is this thread's own, and waits; the write fails.) */
static bool start_thread(shard_writer *w)
{
    sigset_t all, before;
    sigfillset(&all);
    if (pthread_sigmask(SIG_SETMASK, &all, &before)) return false;
    const bool good = pthread_create(&w->thread, NULL, run_thread, w) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return good;
}

inset_status shard_writer_create(
    inset_context *context, int directory, const char *path, shard_writer **out)
{
    shard_writer *w = memory_new(context, sizeof *w);
    if (!w) return INSET_NO_MEMORY;
    w->context = context;
    w->directory = directory;
    w->path = path;
    w->file = -1;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    if (!start_thread(w)) {
        pthread_mutex_destroy(&w->lock);
        pthread_cond_destroy(&w->changed);
        memory_free(context, w);
        return error_set(context, INSET_NO_MEMORY, "a thread that writes could not be started");
    }
    *out = w;
    return INSET_OK;
}

void shard_writer_free(shard_writer *w)
{
    if (!w) return;
    pthread_mutex_lock(&w->lock);
    w->quit = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->changed);
    for (int i = 0; i < PACKETS; i++) {
        memory_free(w->context, w->packets[i].bytes);
        memory_free(w->context, w->packets[i].pieces);
        free(w->packets[i].index);
    }
    memory_free(w->context, w);
}

/* With the lock held. */
static inset_status failure(const shard_writer *w)
{
    if (!w->failure) return INSET_OK;
    error_set(w->context, INSET_FILE_ERROR, "%s/%s: %s: %s", w->path, w->failed, w->doing,
        strerror(w->failure));
    error_help(w->context, "The shards that cache.json lists are whole; the same command goes on "
                           "with those that are missing.");
    return INSET_FILE_ERROR;
}

inset_status shard_packet(shard_writer *w, packet **out)
{
    packet *p = &w->packets[w->filling];
    pthread_mutex_lock(&w->lock);
    while (p->full && !w->failure) pthread_cond_wait(&w->changed, &w->lock);
    inset_status status = failure(w);
    pthread_mutex_unlock(&w->lock);
    if (status) return status;
    free(p->index);
    p->index = NULL;
    p->n_bytes = p->n_pieces = 0;
    p->begins = p->ends = false;
    *out = p;
    return INSET_OK;
}

void shard_submit(shard_writer *w, packet *p)
{
    pthread_mutex_lock(&w->lock);
    p->full = true;
    w->filling = (w->filling + 1) % PACKETS;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

inset_status shard_drain(shard_writer *w)
{
    bool full;
    pthread_mutex_lock(&w->lock);
    do {
        full = false;
        for (int i = 0; i < PACKETS; i++) full |= w->packets[i].full;
        if (full && !w->failure) pthread_cond_wait(&w->changed, &w->lock);
    } while (full && !w->failure);
    inset_status status = failure(w);
    pthread_mutex_unlock(&w->lock);
    return status;
}

bool packet_add(inset_context *context, packet *p, uint64_t at, const void *bytes, size_t size)
{
    if (!array_extend(context, &p->bytes, &p->bytes_capacity, p->n_bytes + size, 1)
        || !array_extend(
            context, &p->pieces, &p->pieces_capacity, p->n_pieces + 1, sizeof *p->pieces))
        return false;
    memcpy(p->bytes + p->n_bytes, bytes, size);
    piece *last = p->n_pieces ? &p->pieces[p->n_pieces - 1] : NULL;
    if (last && last->at + last->size == at) last->size += size;
    else p->pieces[p->n_pieces++] = (piece){at, p->n_bytes, size};
    p->n_bytes += size;
    return true;
}
