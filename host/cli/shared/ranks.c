/* ranks.c: one piece of work by the ranks of an MPI job.
 *
 * Rank 0 has the book, the state file and the results, and runs chunks too; a thread of it answers
 * the others. Each rank opens the same files and makes the same work, cut as rank 0's:
 *
 *     a rank                          rank 0
 *     WANT                      ->
 *                               <-    CHUNK 17       when one is free; -1: all is done
 *     WANT_AHEAD                ->                   on a GPU, so that the device goes on to it
 *                               <-    CHUNK 18       at once; -1: none is free
 *     DONE, a chunk's numbers   ->
 *     FAILED, a message         ->                   ends the job */
#include <dlfcn.h>
#include <omp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/shared/shared.h"
#include "mpi/ranks.h"

enum { WANT = 1, WANT_AHEAD, CHUNK, DONE, FAILED };
enum { WAIT_MICROSECONDS = 200, MESSAGE = 512 };

struct rank_room {
    ranks *mpi;
    void *module;
    work work; /* from ranks_meet on */
    /* rank 0: the thread that answers */
    pthread_t thread;
    bool serving;
    bool *idle;   /* [size] does a rank wait for a chunk? */
    int64_t *has; /* [size, 2] which chunks it has; -1: none */
    int left;     /* ranks that have not been told that all is done */
    pthread_mutex_t lock;
    char failure[MESSAGE];
};

/* ---- starting ------------------------------------------------------------ */

static bool started_by_mpirun(void)
{
    static const char *const names[] = {
        "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "PMI_RANK", "MPI_LOCALNRANKS"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (getenv(names[i])) return true;
    return false;
}

/* A number that a launcher gave, by the first of these names that is set. */
static int number_of_launcher(const char *const *names, int otherwise)
{
    for (; *names; names++)
        if (getenv(*names)) return atoi(getenv(*names));
    return otherwise;
}

bool ranks_are_several(bool *first)
{
    static const char *const sizes[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", NULL},
                             *const places[] = {
                                 "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", NULL};
    const int rank = number_of_launcher(places, 0);
    *first = rank == 0;
    return rank > 0 || number_of_launcher(sizes, 1) > 1;
}

bool ranks_are_silent(void)
{
    bool first;
    return ranks_are_several(&first) && !first;
}

/* Beside the command, as it is built; in ../lib/inset and its like, as it is installed. */
static void *open_module(char *error, size_t size)
{
    static const char *const places[] = {"", "../lib/inset/", "../lib64/inset/",
        "../lib/x86_64-linux-gnu/inset/", "../lib/aarch64-linux-gnu/inset/"};
    char self[PATH_MAX], path[PATH_MAX + 64];
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = 0;
    char *slash = strrchr(self, '/');
    if (slash) slash[1] = 0;
    snprintf(error, size, "this inset was built without MPI (openmpi-bin libopenmpi-dev)");
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        snprintf(path, sizeof path, "%s%sinset_mpi.so", self, places[i]);
        if (access(path, F_OK)) continue;
        /* its MPI's symbols must be seen by the plugins that MPI opens */
        void *module = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
        if (!module) snprintf(error, size, "%s", dlerror());
        return module;
    }
    return NULL;
}

static int refuse(rank_room *r, const char *why)
{
    fprintf(stderr, "DeviceError: mpirun started this process, and its work cannot be shared: %s\n",
        why);
    if (r && r->module) dlclose(r->module);
    free(r);
    return EXIT_MACHINE;
}

/* Cores are shared by the ranks of a machine, unless the launcher or OMP_NUM_THREADS says more. */
static void divide_cores(const ranks *mpi)
{
    const int all = (int)sysconf(_SC_NPROCESSORS_ONLN), bound = omp_get_num_procs();
    int mine = all / (mpi->local_size > 0 ? mpi->local_size : 1);
    if (mine > bound) mine = bound;
    if (!getenv("OMP_NUM_THREADS")) omp_set_num_threads(mine > 1 ? mine : 1);
}

int ranks_start(rank_room **out)
{
    char error[256];
    *out = NULL;
    if (!started_by_mpirun()) return EXIT_OK;
    rank_room *r = calloc(1, sizeof *r);
    if (!r) return refuse(r, "out of memory");
    if (!(r->module = open_module(error, sizeof error))) return refuse(r, error);
    ranks_open_function *start;
    *(void **)&start = dlsym(r->module, "inset_ranks_open");
    if (!start) return refuse(r, "the module inset_mpi is another version's");
    if (!(r->mpi = start(error, sizeof error))) return refuse(r, error);
    pthread_mutex_init(&r->lock, NULL);
    r->idle = calloc((size_t)r->mpi->size, sizeof *r->idle);
    r->has = malloc((size_t)r->mpi->size * 2 * sizeof *r->has);
    if (!r->idle || !r->has) return refuse(r, "out of memory");
    for (int i = 0; i < 2 * r->mpi->size; i++) r->has[i] = -1;
    divide_cores(r->mpi);
    *out = r;
    return EXIT_OK;
}

bool ranks_is_first(const rank_room *r) { return !r || !r->mpi->rank; }

void ranks_choose_device(const rank_room *r, inset_context *context, device_list *devices)
{
    if (!r) return;
    const char *name = devices->names[0];
    const int gpus = strcmp(name, "auto") && strcmp(name, "cuda") ? 0 : inset_gpu_count(context);
    char mine[DEVICE_NAME];
    if (gpus) snprintf(mine, sizeof mine, "cuda:%d", r->mpi->local % gpus);
    else snprintf(mine, sizeof mine, "%s", devices->names[r->mpi->local % devices->n]);
    *devices = (device_list){.n = 1};
    memcpy(devices->names[0], mine, sizeof mine);
}

/* ---- how everyone is ------------------------------------------------------ */

typedef struct state_of_rank {
    int32_t status;
    char message[MESSAGE];
} state_of_rank;

/* Rank 0: the first that failed is told; its own failure it has printed. */
static int32_t find_failure(const rank_room *r, const state_of_rank *all)
{
    for (int i = 0; i < r->mpi->size; i++) {
        if (!all[i].status) continue;
        if (i) fprintf(stderr, "rank %d: %s\n", i, all[i].message);
        return all[i].status;
    }
    return EXIT_OK;
}

static int32_t gather_states(rank_room *r, const state_of_rank *mine)
{
    state_of_rank *all = r->mpi->rank ? NULL : calloc((size_t)r->mpi->size, sizeof *all);
    int32_t status = EXIT_MACHINE;
    if ((r->mpi->rank || all) && r->mpi->gather(r->mpi, mine, sizeof *mine, all))
        status = r->mpi->rank ? EXIT_OK : find_failure(r, all);
    if (!r->mpi->broadcast(r->mpi, &status, sizeof status)) status = EXIT_MACHINE;
    free(all);
    return status;
}

int ranks_agree(rank_room *r, inset_context *context, int status)
{
    state_of_rank mine = {.status = status};
    if (!r) return status;
    snprintf(mine.message, sizeof mine.message, "%s: %s", r->mpi->host, inset_message(context));
    return gather_states(r, &mine);
}

void ranks_part(const rank_room *r, int64_t *part, int64_t *parts)
{
    const bool several = r && r->mpi->size > 1;
    *part = several ? r->mpi->rank + 1 : 0;
    *parts = several ? r->mpi->size : 0;
}

int ranks_meet(rank_room *r, const work *w, int status)
{
    inset_cut cut = {{0}};
    state_of_rank mine = {.status = status};
    if (!r) return status;
    r->work = *w;
    snprintf(mine.message, sizeof mine.message, "%s: %s", r->mpi->host, inset_message(w->context));
    if ((status = gather_states(r, &mine))) return status;
    w->kind->cut(w->of, &cut);
    if (!r->mpi->broadcast(r->mpi, &cut, sizeof cut)) return EXIT_MACHINE;
    mine.status = r->mpi->rank && w->kind->cut_as(w->of, &cut) ? EXIT_MACHINE : EXIT_OK;
    snprintf(mine.message, sizeof mine.message, "%s: %s", r->mpi->host, inset_message(w->context));
    return gather_states(r, &mine);
}

/* ---- the others ---------------------------------------------------------- */

/* A chunk; -1: there is none, or the job is lost. */
static int64_t ask(rank_room *r, int32_t kind)
{
    int there = 0;
    for (int fine = r->mpi->send(r->mpi, 0, kind, NULL, 0); fine;) {
        ranks_message m;
        int64_t chunk = -1;
        fine = r->mpi->poll(r->mpi, &m, &there);
        if (fine && there && m.kind == CHUNK && m.size == sizeof chunk) {
            memcpy(&chunk, m.bytes, sizeof chunk);
            return chunk;
        }
        usleep(WAIT_MICROSECONDS);
    }
    return -1;
}

static int give_up(rank_room *r)
{
    char message[MESSAGE];
    snprintf(message, sizeof message, "rank %d on %s: %s", r->mpi->rank, r->mpi->host,
        inset_message(r->work.context));
    r->mpi->send(r->mpi, 0, FAILED, message, strlen(message) + 1);
    ask(r, WANT); /* rank 0 ends the job */
    return EXIT_MACHINE;
}

int ranks_work(rank_room *r)
{
    const work *w = &r->work;
    const bool ahead_too = w->kind->works_ahead
                           && !strncmp(inset_model_device(w->model), "cuda", 4);
    for (int64_t chunk = ask(r, WANT), ahead; chunk >= 0;) {
        const void *data;
        size_t size;
        ahead = ahead_too ? ask(r, WANT_AHEAD) : -1;
        if (w->kind->run(w->of, chunk, ahead, &data, &size)) return give_up(r);
        if (!r->mpi->send(r->mpi, 0, DONE, data, size)) return EXIT_MACHINE;
        chunk = ahead >= 0 ? ahead : ask(r, WANT);
    }
    return EXIT_OK;
}

/* ---- the first ----------------------------------------------------------- */

static void fail(rank_room *r, const char *what)
{
    pthread_mutex_lock(&r->lock);
    if (!*r->failure) snprintf(r->failure, sizeof r->failure, "%s", what);
    pthread_mutex_unlock(&r->lock);
}

const char *ranks_failure(rank_room *r)
{
    if (!r) return NULL;
    pthread_mutex_lock(&r->lock);
    const bool any = *r->failure;
    pthread_mutex_unlock(&r->lock);
    return any ? r->failure : NULL;
}

static void answer(rank_room *r, int to, int64_t chunk)
{
    int64_t *has = r->has + 2 * to;
    if (chunk >= 0) has[has[0] >= 0] = chunk;
    if (!r->mpi->send(r->mpi, to, CHUNK, &chunk, sizeof chunk)) fail(r, r->mpi->error);
}

/* Gives what is free to those that wait, and tells them when all is done. */
static void give_out(rank_room *r)
{
    const work *w = &r->work;
    const bool done = w->kind->done(w->of) || ranks_failure(r);
    for (int i = 1; i < r->mpi->size; i++) {
        if (!r->idle[i]) continue;
        const int64_t chunk = done ? -1 : w->kind->take(w->of);
        if (chunk < 0 && !done) return;
        answer(r, i, chunk);
        r->idle[i] = false;
        r->left -= chunk < 0;
    }
}

static void take_numbers(rank_room *r, const ranks_message *m)
{
    int64_t *has = r->has + 2 * m->from;
    const inset_status status = r->work.kind->put(r->work.of, m->bytes, m->size);
    if (status == INSET_FILE_ERROR) fail(r, "what is done cannot be kept in the state file");
    else if (status) fail(r, "a rank's numbers came damaged");
    has[0] = has[1];
    has[1] = -1;
}

static void take_message(rank_room *r, const ranks_message *m)
{
    if (m->kind == DONE) take_numbers(r, m);
    if (m->kind == FAILED && m->size) {
        fail(r, m->bytes);
        for (int k = 0; k < 2; k++) { /* nobody is to wait for them */
            r->work.kind->give_back(r->work.of, r->has[2 * m->from + k]);
            r->has[2 * m->from + k] = -1;
        }
    }
    if (m->kind == WANT) r->idle[m->from] = true;
    if (m->kind == WANT_AHEAD) answer(r, m->from, r->work.kind->take(r->work.of));
}

static void *serve(void *of)
{
    rank_room *r = of;
    while (r->left > 0) {
        ranks_message m;
        int there = 0;
        if (!r->mpi->poll(r->mpi, &m, &there)) {
            fail(r, r->mpi->error);
            break;
        }
        if (there) take_message(r, &m);
        give_out(r);
        if (!there) usleep(WAIT_MICROSECONDS);
    }
    return NULL;
}

int ranks_serve(rank_room *r)
{
    if (!r || r->mpi->size < 2) return EXIT_OK;
    r->left = r->mpi->size - 1;
    r->serving = !pthread_create(&r->thread, NULL, serve, r);
    if (r->serving) return EXIT_OK;
    fprintf(stderr, "MemoryError: no thread can be started for the other ranks\n");
    return EXIT_MACHINE;
}

void ranks_served(rank_room *r)
{
    if (r && r->serving) pthread_join(r->thread, NULL);
    if (r) r->serving = false;
}

void ranks_end(rank_room *r, int status)
{
    if (!r) return;
    fflush(NULL);
    if (status && r->mpi->size > 1 && r->serving) r->mpi->abort(r->mpi, status);
    r->mpi->finish(r->mpi);
    pthread_mutex_destroy(&r->lock);
    free(r->idle);
    free(r->has);
    free(r); /* the module stays: MPI's threads may be in it */
}
