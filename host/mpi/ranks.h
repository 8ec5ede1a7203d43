/* ranks.h: processes of one job that carry bytes between them, as the command line sees MPI. The
 * module that has it (ranks_mpi.c) is opened only in a process that mpirun or srun started, so that
 * inset itself needs no MPI. It knows nothing of sweeps. */
#ifndef INSET_RANKS_H
#define INSET_RANKS_H

#include <stddef.h>
#include <stdint.h>

/* A message that arrived: bytes hold until the next call, in the thread that asked. */
typedef struct ranks_message {
    int from;
    int32_t kind;
    const void *bytes;
    size_t size;
} ranks_message;

/* All calls of one process come from one thread at a time. Those that return int: 1, or 0 with the
 * reason in `error`. */
typedef struct ranks {
    int rank, size;
    int local, local_size; /* among those of this machine */
    char host[64], error[256];
    int (*broadcast)(struct ranks *r, void *bytes, size_t size); /* rank 0's, to all */
    /* everyone's `size` bytes, in rank 0's all [ranks, size] */
    int (*gather)(struct ranks *r, const void *bytes, size_t size, void *all);
    int (*send)(struct ranks *r, int to, int32_t kind, const void *bytes, size_t size);
    /* *there 0: no message is waiting */
    int (*poll)(struct ranks *r, ranks_message *out, int *there);
    void (*finish)(struct ranks *r);            /* all ranks call it; frees r */
    void (*abort)(struct ranks *r, int status); /* ends the whole job */
} ranks;

/* What the module has by the name "inset_ranks_open"; NULL when MPI cannot be started, `error` says
 * why. */
typedef ranks *ranks_open_function(char *error, size_t size);

#endif
