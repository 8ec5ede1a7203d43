/* shared.h: work that several share: which devices and shards (devices.c), other devices of this
 * process (crew.c), processes started by mpirun (ranks.c), and the first one's part (finish.c). */
#ifndef INSET_CLI_SHARED_H
#define INSET_CLI_SHARED_H

#include <limits.h>
#include <pthread.h>

#include "cli/shared/work.h"

enum { MOST_DEVICES = 64, DEVICE_NAME = 64 };
typedef struct device_list {
    char names[MOST_DEVICES][DEVICE_NAME];
    int n; /* 1 at least */
} device_list;
/* "cuda:0,cuda:1", "cuda:all"; NULL: auto. Prints what is wrong and gives the exit status. */
int devices_read(inset_context *context, const char *given, device_list *out);

/* "3/16" of `command`; 0, 0 where nothing is given. Prints what is wrong. */
int shard_numbers(const char *command, const char *given, int64_t *shard, int64_t *shards);
/* A shard, and where it leaves its part: OUT.3-of-16. */
typedef struct shard {
    int64_t number, of; /* 3 of 16; 0 of 0: all of it */
    char part[PATH_MAX];
} shard;
/* --shard; "attribute" or "sweep" is the command. */
int shard_read(const options *given, const char *command, shard *out);
/* What is done becomes the part's file. */
int shard_finish(
    const options *given, const shard *s, const char *state, const work *w, double seconds);

/* ---- crew.c ---- */
typedef struct crew crew;
typedef struct crew_member {
    crew *crew;
    work with; /* the same work on its device, in a context of its own */
    pthread_t thread;
} crew_member;
struct crew {
    work of; /* the first device's, which has the book */
    crew_member members[MOST_DEVICES];
    int n;
    pthread_mutex_t lock;
    char failure[512]; /* "": none; those that find one end */
};
void crew_open(crew *c, const work *of);
/* Starts a thread that runs chunks on `with`, cut as `of` is. Prints what is wrong. */
int crew_add(crew *c, const work *with, const inset_cut *cut);
const char *crew_failure(crew *c); /* NULL: none */
/* Waits for them; failed: they are to end. */
void crew_close(crew *c, bool failed);

/* ---- finish.c ---- */
/* Runs what is left, with the others, and shows how far it is. `crew` may be NULL. */
struct rank_room;
double now_seconds(void);
int work_run_all(const work *w, struct rank_room *ranks, crew *crew);

/* ---- ranks.c ---- */
typedef struct rank_room rank_room;
/* Is this one of several processes of one job? *first: the first of them, which alone says what is
 * wrong. (In cli.h: ranks_are_silent.) */
bool ranks_are_several(bool *first);
/* NULL in *out: mpirun did not start this process. Prints what is wrong. */
int ranks_start(rank_room **out);
/* Is this the rank that has the book, the output and the terminal? Also where there are none. */
bool ranks_is_first(const rank_room *r);
/* Which device: of several given, and of several GPUs, one a rank of this machine. */
void ranks_choose_device(const rank_room *r, inset_context *context, device_list *devices);
/* After the work was made, or not (then it has no kind): tells everyone how it is cut. The exit
 * status is everyone's. */
int ranks_meet(rank_room *r, const work *w, int status);
/* How everyone is, of a command whose ranks each do their own part: the exit status is everyone's,
 * and what failed elsewhere is printed by the first. */
int ranks_agree(rank_room *r, inset_context *context, int status);
/* 1 to the number of ranks, and that; 0, 0 where there are none or one. */
void ranks_part(const rank_room *r, int64_t *part, int64_t *parts);
/* The others: run what they are given, until nothing is left. */
int ranks_work(rank_room *r);
/* The first: answers the others in a thread while it runs chunks itself. */
int ranks_serve(rank_room *r);
/* What another rank failed with, since ranks_serve; NULL: nothing. */
const char *ranks_failure(rank_room *r);
/* Waits until all are done. */
void ranks_served(rank_room *r);
/* Ends this process's part; status: of the whole. Where it failed all processes are ended. */
void ranks_end(rank_room *r, int status);

#endif
