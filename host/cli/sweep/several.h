/* several.h: a sweep that several run: devices and shards (several.c), ranks of MPI (ranks.c). */
#ifndef INSET_CLI_SEVERAL_H
#define INSET_CLI_SEVERAL_H

#include "cli/sweep/sweep.h"

enum { MOST_DEVICES = 64, DEVICE_NAME = 64 };
typedef struct device_list {
    char names[MOST_DEVICES][DEVICE_NAME];
    int n; /* 1 at least */
} device_list;
/* "cuda:0,cuda:1", "cuda:all"; NULL: auto. Prints what is wrong and gives the exit status. */
int devices_read(inset_context *context, const char *given, device_list *out);

/* The sweep once more on each of the other devices, in a context of its own. */
typedef struct helper {
    inset_context *context;
    inset_model *model;
    inset_sweep *sweep;
} helper;
typedef struct helpers {
    helper at[MOST_DEVICES];
    int n;
} helpers;
int helpers_open(sweep_session *s, const device_list *devices, helpers *out);
void helpers_close(helpers *h);

/* "3/16" of `command`; 0, 0 where nothing is given. Prints what is wrong. */
int shard_numbers(const char *command, const char *given, int64_t *shard, int64_t *shards);
int shard_read(sweep_session *s);         /* --shard */
int shard_finish(const sweep_session *s); /* what is done becomes the part's file */

/* ---- ranks.c ---- */
typedef struct rank_room rank_room;
/* Is this one of several processes of one job? *first: the first of them. For commands that are not
 * shared, each of which would write the same files. */
bool ranks_are_several(bool *first);
/* NULL in *out: mpirun did not start this process. Prints what is wrong. */
int ranks_start(rank_room **out);
/* Is this the rank that has the book, the output and the terminal? Also where there are none. */
bool ranks_is_first(const rank_room *r);
/* Which device: of several given, and of several GPUs, one a rank of this machine. */
void ranks_choose_device(const rank_room *r, inset_context *context, device_list *devices);
/* After the sweep was made, or not (then s->sweep is NULL): tells everyone how it is cut. The exit
 * status is everyone's. */
int ranks_meet(rank_room *r, sweep_session *s, int status);
/* How everyone is, of a command whose ranks each do their own part: the exit status is everyone's,
 * and what failed elsewhere is printed by the first. */
int ranks_agree(rank_room *r, inset_context *context, int status);
/* 1 to the number of ranks, and that; 0, 0 where there are none or one. */
void ranks_part(const rank_room *r, int64_t *part, int64_t *parts);
/* The others: run what they are given, until nothing is left. */
int ranks_work(rank_room *r, sweep_session *s);
/* The first: answers the others in a thread while it runs chunks itself. */
int ranks_serve(rank_room *r, sweep_session *s);
/* What another rank failed with, since ranks_serve; NULL: nothing. */
const char *ranks_failure(rank_room *r);
/* Waits until all are done. */
void ranks_served(rank_room *r);
/* Ends this process's part; status: of the whole. Where it failed all processes are ended. */
void ranks_end(rank_room *r, int status);

#endif
