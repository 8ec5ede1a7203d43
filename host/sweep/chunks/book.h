/* book.h: which chunks a sweep is cut into, who has them and which are done; and a chunk's numbers
 * as bytes, for the state file and for whoever ran it somewhere else.
 *
 * The sweep's own steps, helpers on other devices (helper.c) and other processes (inset_sweep_take,
 * inset_sweep_put) take chunks here and bring their numbers back. All of it, and the arrays that
 * the numbers go into, lies under one lock. A chunk is FREE, TAKEN, DONE, or ELSEWHERE, another
 * shard's.
 *
 * Example: 420 jobs in four chunks, firsts {0, 105, 210, 315, 420}; after the first is done and
 * while a helper has the second, states {DONE, TAKEN, FREE, FREE} and left 3. */
#ifndef INSET_SWEEP_BOOK_H
#define INSET_SWEEP_BOOK_H

#include <pthread.h>

#include "sweep/sweep.h"

/* Where several run a sweep: so many chunks for them all, whoever and however many they are. */
enum { SHARED_CHUNKS = 256 };

typedef enum chunk_state { CHUNK_FREE, CHUNK_TAKEN, CHUNK_DONE, CHUNK_ELSEWHERE } chunk_state;

typedef struct book {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a chunk was done or given back, or a helper failed */
    int64_t n;
    int64_t *firsts;       /* [n + 1]: chunk i is the jobs firsts[i] .. firsts[i + 1] */
    unsigned char *states; /* [n] of chunk_state */
    int64_t *order;        /* [n]: as they are given out */
    int64_t from;          /* in that order all before it are not free */
    int64_t until;         /* and those from here on are not given out yet */
    int64_t left;          /* free or taken */
    bool stopped;          /* nothing is given out any more */
    int64_t done;          /* chunks done: what results were made of */
    /* of a helper or another process; INSET_OK: none failed */
    inset_status failed;
    char failure[512];
} book;

/* What decides how a sweep is cut, and that two sweeps are the same one but for the device. */
struct sweep_cut {
    uint64_t identity;
    int64_t jobs, metrics;
    uint64_t memory_limit;
    int64_t chunk; /* most jobs, or an attribution's pairs */
    int64_t again; /* blocks are run a second time */
    int64_t shard, shards;
};
sweep_cut cut_of(const sweep *s);
void cut_apply(sweep *s, const sweep_cut *cut);

/* What was counted while a chunk ran. */
struct chunk_counts {
    int64_t done, rows, rows_unshared;
    double flops, flops_unshared;
};

/* Cuts the sweep; all is free, or another shard's. */
inset_status book_open(sweep *s);
/* The same for chunks that are known, firsts [n + 1]. */
inset_status book_open_at(sweep *s, const int64_t *firsts, int64_t n);
void book_close(sweep *s);                    /* takes a sweep without one */
bool book_done(const sweep *s);               /* nothing of this shard is left */
int64_t book_take(sweep *s);                  /* -1: none is free now */
void book_give_back(sweep *s, int64_t chunk); /* takes -1 */
/* The failure of a helper, once. */
inset_status book_check(sweep *s);
/* Waits until a chunk is free, all are done, or a helper failed; then the same. */
inset_status book_wait(sweep *s);
void book_fail(sweep *s, inset_status status, const char *message);
void book_stop(sweep *s, bool stopped);
/* A chunk's numbers are there. Under the lock. */
void book_mark_done(book *b, int64_t chunk, inset_sweep_progress *progress, const chunk_counts *of);
/* Chunks as ranges of jobs. -1: no chunk begins there. */
int64_t chunk_first(const sweep *s, int64_t chunk);
int64_t chunk_jobs(const sweep *s, int64_t chunk);
int64_t chunk_at(const sweep *s, int64_t first);
/* How long a chunk takes beside others: layers left times rows left. */
double chunk_cost(const sweep *s, int64_t chunk);

/* ---- record.c ---- */
/* A chunk's numbers from the sweep's arrays as bytes, to be freed with memory_free. */
inset_status record_make(
    const sweep *s, int64_t chunk, const chunk_counts *counts, char **bytes, size_t *size);
/* Which chunk a record is of; -1: it is none, or not whole. */
int64_t record_chunk(const sweep *s, const void *bytes, size_t size);
/* Takes a record into the arrays and the book, which must not be locked. False: the chunk was done
 * already. */
bool record_take(sweep *s, const void *bytes);
size_t record_size(const sweep *s, int64_t chunk);

/* ---- the sweep's side (sweep.c) ---- */
/* Runs a chunk; `ahead`, which is to be next, is started behind it where the device works ahead;
 * -1: none. Its numbers are in the sweep's arrays then. */
inset_status sweep_run_chunk(sweep *s, int64_t chunk, int64_t ahead, chunk_counts *counts);
/* Its record goes into the state file, if there is one, and the book. 0, or errno's number. */
int sweep_keep_chunk(sweep *s, int64_t chunk, const void *record, size_t size);

/* ---- helper.c ---- */
/* Cuts a sweep as another is. USAGE_ERROR: it is not the same. */
inset_status sweep_cut_as(sweep *s, const sweep_cut *cut);
/* `with` runs chunks of `s` in a thread of its own, from the next step on. USAGE_ERROR: it is not
 * the same sweep, or of the same context. */
inset_status helper_add(sweep *s, sweep *with);
inset_status helpers_start(sweep *s);
/* Waits for them; takes a sweep without any. */
void helpers_end(sweep *s);

#endif
