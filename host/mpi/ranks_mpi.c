/* ranks_mpi.c: ranks.h by MPI: the module inset_mpi. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/ranks.h"

typedef struct mpi_ranks {
    ranks base;
    char *bytes; /* of the last message, [capacity] */
    size_t capacity;
} mpi_ranks;

static int fine(ranks *r, int code, const char *what)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    if (code == MPI_SUCCESS) return 1;
    MPI_Error_string(code, text, &length);
    snprintf(r->error, sizeof r->error, "MPI, %s: %.180s", what, text);
    return 0;
}

/* Counts are ints in MPI. */
static int fits(ranks *r, size_t size)
{
    if (size < (size_t)1 << 31) return 1;
    snprintf(r->error, sizeof r->error, "a message of %zu bytes is too large for MPI", size);
    return 0;
}

static int broadcast(ranks *r, void *bytes, size_t size)
{
    return fine(r, MPI_Bcast(bytes, (int)size, MPI_BYTE, 0, MPI_COMM_WORLD), "broadcast");
}

static int gather(ranks *r, const void *bytes, size_t size, void *all)
{
    return fine(r,
        MPI_Gather(bytes, (int)size, MPI_BYTE, all, (int)size, MPI_BYTE, 0, MPI_COMM_WORLD),
        "gather");
}

static int send_message(ranks *r, int to, int32_t kind, const void *bytes, size_t size)
{
    return fits(r, size)
           && fine(r, MPI_Send(bytes, (int)size, MPI_BYTE, to, kind, MPI_COMM_WORLD), "send");
}

static int poll_messages(ranks *r, ranks_message *out, int *there)
{
    mpi_ranks *m = (mpi_ranks *)r;
    MPI_Status status;
    int size = 0;
    if (!fine(r, MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, there, &status), "probe"))
        return 0;
    if (!*there) return 1;
    MPI_Get_count(&status, MPI_BYTE, &size);
    if ((size_t)size > m->capacity) {
        free(m->bytes);
        m->bytes = malloc((size_t)size);
        m->capacity = m->bytes ? (size_t)size : 0;
        if (!m->bytes) {
            snprintf(r->error, sizeof r->error, "no memory for a message of %d bytes", size);
            return 0;
        }
    }
    *out = (ranks_message){status.MPI_SOURCE, status.MPI_TAG, m->bytes, (size_t)size};
    return fine(r,
        MPI_Recv(m->bytes, size, MPI_BYTE, status.MPI_SOURCE, status.MPI_TAG, MPI_COMM_WORLD,
            MPI_STATUS_IGNORE),
        "receive");
}

static void finish(ranks *r)
{
    MPI_Finalize();
    free(((mpi_ranks *)r)->bytes);
    free(r);
}

static void abort_all(ranks *r, int status)
{
    (void)r;
    MPI_Abort(MPI_COMM_WORLD, status);
}

static void find_place(ranks *r)
{
    MPI_Comm machine;
    int length = 0;
    char host[MPI_MAX_PROCESSOR_NAME] = "";
    MPI_Comm_rank(MPI_COMM_WORLD, &r->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &r->size);
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, r->rank, MPI_INFO_NULL, &machine);
    MPI_Comm_rank(machine, &r->local);
    MPI_Comm_size(machine, &r->local_size);
    MPI_Comm_free(&machine);
    MPI_Get_processor_name(host, &length);
    snprintf(r->host, sizeof r->host, "%.63s", host);
}

__attribute__((visibility("default"))) ranks *inset_ranks_open(char *error, size_t size)
{
    int provided = 0;
    mpi_ranks *m = calloc(1, sizeof *m);
    /* one thread at a time, and not always the same one */
    if (!m || MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &provided) != MPI_SUCCESS) {
        snprintf(error, size, "%s", m ? "MPI cannot be started" : "out of memory");
        free(m);
        return NULL;
    }
    if (provided < MPI_THREAD_SERIALIZED) {
        snprintf(error, size, "this MPI does not allow threads (MPI_THREAD_SERIALIZED)");
        MPI_Finalize();
        free(m);
        return NULL;
    }
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    m->base = (ranks){.broadcast = broadcast,
        .gather = gather,
        .send = send_message,
        .poll = poll_messages,
        .finish = finish,
        .abort = abort_all};
    find_place(&m->base);
    return &m->base;
}
