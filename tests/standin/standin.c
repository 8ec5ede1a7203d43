/* standin.c: the CUDA runtime's part of the stand-in: memory, handles, one queue of work, failures
 * on demand. See standin.h. */
#include "standin/inside.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    PAGE = 4096,
    ALIGNMENT = 256,
    CANARY = 0xc3,
    UNSET = 0xff,
    NOT_YET_COPIED = 0xa5,
    ERROR_UNKNOWN = 999,
    ERROR_ILLEGAL_ACCESS = 700,
    ERROR_CAPTURE_UNSUPPORTED = 900,
    ERROR_CAPTURE_INVALIDATED = 901
};

#define STANDARD                                                         \
    {                                                                    \
        .shared_bytes = 227 << 10, .devices = 1, .major = 9, .minor = 0, \
        .bytes = (int64_t)4 << 30, .driver = 13000                       \
    }

standin_settings standin_now = STANDARD;
standin_counts standin_count;
int64_t standin_time;

typedef struct allocation {
    struct allocation *next;
    char *start, *region;
    size_t bytes, region_bytes;
    int64_t bytes_up; /* copied into it so far */
    bool live, pinned;
} allocation;

/* Operations in a graph; those of an instantiated one are its own. */
typedef struct standin_graph {
    standin_handle handle;
    operation *list;
    size_t count, capacity;
    /* something was called that may not be while a stream captures */
    bool invalid;
} standin_graph;

static struct {
    standin_graph *capturing; /* what the stream captures into, or NULL */
    allocation *allocations;  /* newest first, freed ones too */
    standin_handle *handles;
    /* addresses of device memory; none is used twice */
    char *reserve, *reserve_next, *reserve_end;
    int64_t device_bytes;
    operation *queue; /* queue[0 .. queued): not yet run, and those behind them */
    size_t queued, capacity;
    uint64_t first, seen; /* of the queue's first; operations queued since the start */
    cuda_stream main;     /* the stream that was made first */
    /* its name, for the message when it touches what it may not */
    const char *running;
    int last_error, device;
    char problems[8192];
    size_t problem_bytes;
} s;

/* ---- problems ----------------------------------------------------------- */

void standin_problem(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    if (s.problem_bytes < sizeof s.problems - 1) {
        int n = vsnprintf(
            s.problems + s.problem_bytes, sizeof s.problems - s.problem_bytes, format, list);
        if (n > 0) s.problem_bytes += (size_t)n;
        if (s.problem_bytes > sizeof s.problems - 2) s.problem_bytes = sizeof s.problems - 2;
        s.problems[s.problem_bytes++] = '\n';
        s.problems[s.problem_bytes] = 0;
    }
    va_end(list);
}

/* A page that may not be touched was. Says what was going on; the default action then ends the
 * program. */
static void on_fault(int number)
{
    static const char host[] =
        "stand-in: the host touched device memory, or memory that is not there\n";
    static const char device[] = "stand-in: memory that is not the operation's was touched by: ";
    const char *text = s.running ? device : host, *name = s.running ? s.running : "";
    bool written = write(2, text, strlen(text)) > 0 && write(2, name, strlen(name)) > 0
                   && write(2, "\n", 1) > 0;
    (void)written;
    signal(number, SIG_DFL);
    raise(number);
}

static void watch_faults(void)
{
    struct sigaction before;
    if (sigaction(SIGSEGV, NULL, &before) == 0 && before.sa_handler == SIG_DFL)
        signal(SIGSEGV, on_fault);
}

int standin_begin(int error)
{
    standin_count.calls++;
    if (standin_now.broken) error = ERROR_ILLEGAL_ACCESS;
    else if (!standin_now.fail_call || --standin_now.fail_call) return 0;
    return s.last_error = error;
}

int standin_begin_products(int error)
{
    const int before = s.last_error, result = standin_begin(error);
    s.last_error = before;
    return result ? error : 0;
}

static int refuse(int error) { return s.last_error = error; }

/* ---- handles ------------------------------------------------------------ */

void *handle_create(handle_kind kind, size_t size)
{
    standin_handle *h = calloc(1, size);
    if (!h) return NULL;
    *h = (standin_handle){s.handles, kind, true};
    s.handles = h;
    return h;
}

bool handle_good(const void *handle, handle_kind kind, const char *call)
{
    for (const standin_handle *h = s.handles; h; h = h->next)
        if (h == handle) {
            if (h->live && h->kind == kind) return true;
            standin_problem(
                "%s: the handle %s", call, h->live ? "is of another kind" : "was freed before");
            return false;
        }
    standin_problem("%s: %p is no handle", call, handle);
    return false;
}

void handle_destroy(void *handle, handle_kind kind, const char *call)
{
    if (handle_good(handle, kind, call)) ((standin_handle *)handle)->live = false;
}

/* Whether a stream captures, which `call` does not allow: as on a GPU, the capture is then
 * spoilt. */
static bool captures(const char *call)
{
    if (!s.capturing) return false;
    standin_problem("%s while a stream captures", call);
    s.capturing->invalid = true;
    return true;
}

/* ---- memory ------------------------------------------------------------- */

static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

/* What is asked for is soon asked for again: it moves to the front, and what was freed stays
 * behind. */
static allocation *find_allocation(const void *at, bool pinned)
{
    for (allocation **link = &s.allocations, *a; (a = *link); link = &a->next)
        if (a->pinned == pinned && (const char *)at >= a->start
            && (const char *)at < a->start + (a->bytes ? a->bytes : 1)) {
            *link = a->next;
            a->next = s.allocations;
            return s.allocations = a;
        }
    return NULL;
}

static bool range_good(const void *at, size_t bytes, bool pinned, const char *what)
{
    const char *kind = pinned ? "pinned" : "device";
    const allocation *a = find_allocation(at, pinned);
    if (!a) standin_problem("%s: %p is no %s memory", what, at, kind);
    else if (!a->live) standin_problem("%s: %p is %s memory that was freed", what, at, kind);
    else if (bytes > (size_t)(a->start + a->bytes - (const char *)at))
        standin_problem("%s: %zu bytes from byte %zu of an allocation of %zu", what, bytes,
            (size_t)((const char *)at - a->start), a->bytes);
    else return true;
    return false;
}

bool device_range(const void *at, size_t bytes, const char *what)
{
    return range_good(at, bytes, false, what);
}

static void protect(int protection)
{
    for (allocation *a = s.allocations; a; a = a->next)
        if (a->live && !a->pinned) mprotect(a->region, a->region_bytes, protection);
}

/* Whether the bytes between an allocation and its pages' ends are as they were. The memory is
 * open. */
static void look_beside(const allocation *a)
{
    const char *end = a->start + a->bytes;
    for (const char *at = a->region; at < a->start; at++)
        if ((unsigned char)*at != CANARY) {
            standin_problem(
                "something wrote %td bytes before an allocation of %zu", a->start - at, a->bytes);
            return;
        }
    for (const char *at = end; at < a->region + a->region_bytes; at++)
        if ((unsigned char)*at != CANARY) {
            standin_problem(
                "something wrote %td bytes behind an allocation of %zu", at - end + 1, a->bytes);
            return;
        }
}

static bool reserve_addresses(void)
{
    const size_t size = (size_t)1 << 37;
    if (s.reserve) return true;
    char *pages = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) return false;
    s.reserve = s.reserve_next = pages;
    s.reserve_end = pages + size;
    watch_faults();
    return true;
}

static allocation *remember(size_t bytes, bool pinned)
{
    allocation *a = calloc(1, sizeof *a);
    if (!a) return NULL;
    *a = (allocation){.next = s.allocations, .bytes = bytes, .pinned = pinned, .live = true};
    return a;
}

static void forget(allocation *a)
{
    allocation **link = &s.allocations;
    while (*link != a) link = &(*link)->next;
    *link = a->next;
    free(a);
}

static int standin_malloc(void **out, size_t bytes)
{
    int error = standin_begin(CUDA_ERROR_MEMORY);
    if (error) return error;
    if (captures("cudaMalloc")) return refuse(ERROR_CAPTURE_UNSUPPORTED);
    standin_count.allocations++;
    const size_t padded = round_up(bytes, ALIGNMENT), region = round_up(padded, PAGE);
    if (standin_now.fail_allocation && !--standin_now.fail_allocation)
        return refuse(CUDA_ERROR_MEMORY);
    if ((int64_t)bytes < 0 || (int64_t)bytes > standin_now.bytes - s.device_bytes
        || !reserve_addresses() || region + PAGE > (size_t)(s.reserve_end - s.reserve_next))
        return refuse(CUDA_ERROR_MEMORY);
    allocation *a = remember(bytes, false);
    if (!a) return refuse(CUDA_ERROR_MEMORY);
    a->region = s.reserve_next;
    a->region_bytes = region;
    a->start = a->region + region - padded;
    s.reserve_next += region + PAGE; /* the page behind it stays untouchable */
    mprotect(a->region, region, PROT_READ | PROT_WRITE);
    memset(a->region, CANARY, region);
    memset(a->start, UNSET, bytes);
    mprotect(a->region, region, PROT_NONE);
    s.allocations = a;
    s.device_bytes += (int64_t)bytes;
    *out = a->start;
    return 0;
}

static int standin_malloc_host(void **out, size_t bytes)
{
    int error = standin_begin(CUDA_ERROR_MEMORY);
    if (error) return error;
    if (captures("cudaMallocHost")) return refuse(ERROR_CAPTURE_UNSUPPORTED);
    allocation *a = remember(bytes, true);
    char *memory = a ? malloc(bytes ? bytes : 1) : NULL;
    if (!memory) {
        free(a);
        return refuse(CUDA_ERROR_MEMORY);
    }
    a->start = a->region = memory;
    s.allocations = a;
    *out = memory;
    return 0;
}

/* ---- graphs ------------------------------------------------------------- */

static operation *graph_append(standin_graph *g, const char *name, void (*run)(operation *o))
{
    if (g->count == g->capacity) {
        size_t capacity = g->capacity ? 2 * g->capacity : 64;
        operation *moved = realloc(g->list, capacity * sizeof *moved);
        if (!moved) abort();
        g->list = moved;
        g->capacity = capacity;
    }
    operation *o = &g->list[g->count++];
    memset(o, 0, sizeof *o);
    o->name = name;
    o->run = run;
    return o;
}

static int capture_begin(cuda_stream stream, int mode)
{
    int error = standin_begin(ERROR_UNKNOWN);
    if (error) return error;
    if (!handle_good(stream, HANDLE_STREAM, "cudaStreamBeginCapture"))
        return refuse(CUDA_ERROR_INVALID);
    if (mode != CUDA_CAPTURE_THREAD_LOCAL)
        standin_problem("cudaStreamBeginCapture: mode %d, which other threads would notice", mode);
    if (captures("cudaStreamBeginCapture")) return refuse(ERROR_CAPTURE_UNSUPPORTED);
    s.capturing = handle_create(HANDLE_GRAPH, sizeof *s.capturing);
    return s.capturing ? 0 : refuse(CUDA_ERROR_MEMORY);
}

static void graph_clear(standin_graph *g)
{
    free(g->list);
    g->list = NULL;
    g->count = g->capacity = 0;
}

/* Ends the capture even when made to fail. */
static int capture_end(cuda_stream stream, cuda_graph *out)
{
    int error = standin_begin(ERROR_UNKNOWN);
    standin_graph *g = s.capturing;
    *out = NULL;
    if (!handle_good(stream, HANDLE_STREAM, "cudaStreamEndCapture"))
        return refuse(CUDA_ERROR_INVALID);
    if (!g) {
        standin_problem("cudaStreamEndCapture: nothing is captured");
        return refuse(CUDA_ERROR_INVALID);
    }
    s.capturing = NULL;
    if (!error && g->invalid) error = refuse(ERROR_CAPTURE_INVALIDATED);
    if (error) {
        g->handle.live = false;
        graph_clear(g);
        return error;
    }
    standin_count.captures++;
    *out = (cuda_graph)g;
    return 0;
}

static int graph_instantiate(cuda_graph_exec *out, cuda_graph graph, unsigned long long flags)
{
    int error = standin_begin(CUDA_ERROR_MEMORY);
    if (error) return error;
    if (!handle_good(graph, HANDLE_GRAPH, "cudaGraphInstantiate") || flags)
        return refuse(CUDA_ERROR_INVALID);
    const standin_graph *g = (const standin_graph *)graph;
    standin_graph *made = handle_create(HANDLE_GRAPH_EXEC, sizeof *made);
    if (!made) return refuse(CUDA_ERROR_MEMORY);
    for (size_t i = 0; i < g->count; i++) *graph_append(made, NULL, NULL) = g->list[i];
    *out = (cuda_graph_exec)made;
    return 0;
}

static int graph_launch(cuda_graph_exec graph, cuda_stream stream)
{
    static const char call[] = "cudaGraphLaunch";
    int error = standin_begin(ERROR_UNKNOWN);
    if (error) return error;
    if (!handle_good(graph, HANDLE_GRAPH_EXEC, call) || captures(call))
        return refuse(CUDA_ERROR_INVALID);
    const standin_graph *g = (const standin_graph *)graph;
    for (size_t i = 0; i < g->count; i++) {
        operation *o = standin_queue(stream, call, NULL);
        if (!o) return refuse(CUDA_ERROR_INVALID);
        const uint64_t at = o->at;
        *o = g->list[i];
        o->stream = stream;
        o->at = at;
    }
    standin_count.replays++;
    standin_count.replayed += (int64_t)g->count;
    return 0;
}

static int graph_end(void *graph, handle_kind kind, const char *call)
{
    int error = standin_begin(ERROR_UNKNOWN);
    if (!handle_good(graph, kind, call)) return refuse(CUDA_ERROR_INVALID);
    graph_clear(graph);
    handle_destroy(graph, kind, call);
    return error;
}

static int graph_destroy(cuda_graph graph)
{
    return graph_end(graph, HANDLE_GRAPH, "cudaGraphDestroy");
}
static int graph_exec_destroy(cuda_graph_exec graph)
{
    return graph_end(graph, HANDLE_GRAPH_EXEC, "cudaGraphExecDestroy");
}

/* ---- the queue ---------------------------------------------------------- */

static void run_operation(operation *o)
{
    o->done = true;
    if (standin_now.break_at && !--standin_now.break_at) standin_now.broken = true;
    if (standin_now.broken || !o->run) return;
    s.running = o->name;
    o->run(o);
    s.running = NULL;
}

/* What a stream (NULL: every one) was given before `seen`, in its order, and what that waits for.
 * An operation waits for earlier ones alone, so this ends. */
static void run_stream(cuda_stream stream, uint64_t seen)
{
    for (size_t i = 0; i < s.queued && s.queue[i].at < seen; i++) {
        operation *o = &s.queue[i];
        if (o->done || (stream && o->stream != stream)) continue;
        if (o->wait_stream) run_stream(o->wait_stream, o->wait_before);
        run_operation(o);
    }
}

static void forget_done(void)
{
    size_t n = 0;
    while (n < s.queued && s.queue[n].done) n++;
    s.queued -= n;
    s.first += n;
    memmove(s.queue, s.queue + n, s.queued * sizeof *s.queue);
}

static void run_until_of(cuda_stream stream, uint64_t seen)
{
    if (!s.queued) return;
    protect(PROT_READ | PROT_WRITE);
    run_stream(stream, seen);
    forget_done();
    protect(PROT_NONE);
}

static void run_until(uint64_t seen) { run_until_of(NULL, seen); }

/* Has all run that a stream was given before `seen`? */
static bool has_run(cuda_stream stream, uint64_t seen)
{
    for (size_t i = 0; i < s.queued && s.queue[i].at < seen; i++)
        if (!s.queue[i].done && s.queue[i].stream == stream) return false;
    return true;
}

/* Streams beside the first run ahead as far as they may, where that is asked for: a wait that is
 * missing there shows as numbers that were overwritten too early. Otherwise they run as late as
 * they may: a wait that is missing in the first stream shows as numbers that are not there. */
static void run_ahead(void)
{
    bool open = false;
    if (!standin_now.eager || s.running) return;
    for (size_t i = 0; i < s.queued; i++) {
        operation *o = &s.queue[i];
        if (o->done || o->stream == s.main || !has_run(o->stream, o->at)) continue;
        if (o->wait_stream && !has_run(o->wait_stream, o->wait_before)) continue;
        if (!open) protect(PROT_READ | PROT_WRITE);
        open = true;
        run_operation(o);
    }
    if (!open) return;
    forget_done();
    protect(PROT_NONE);
}

operation *standin_queue(cuda_stream stream, const char *name, void (*run)(operation *o))
{
    if (!handle_good(stream, HANDLE_STREAM, name)) return NULL;
    if (s.capturing) return graph_append(s.capturing, name, run);
    run_ahead();
    if (s.queued == s.capacity) {
        size_t capacity = s.capacity ? 2 * s.capacity : 64;
        operation *moved = realloc(s.queue, capacity * sizeof *moved);
        if (!moved) abort();
        s.queue = moved;
        s.capacity = capacity;
    }
    operation *o = &s.queue[s.queued++];
    memset(o, 0, sizeof *o);
    o->name = name;
    o->run = run;
    o->stream = stream;
    o->at = s.seen++;
    standin_time += 2;
    return o;
}

static int waited(int error)
{
    standin_count.waits++;
    return standin_now.broken ? refuse(ERROR_ILLEGAL_ACCESS) : error;
}

/* Freeing waits for the device, as CUDA does. Frees even when made to fail. */
static int free_memory(void *memory, bool pinned)
{
    int error = standin_begin(ERROR_UNKNOWN);
    if (!memory) return error;
    if (captures(pinned ? "cudaFreeHost" : "cudaFree")) return refuse(ERROR_CAPTURE_UNSUPPORTED);
    run_until(s.seen);
    allocation *a = find_allocation(memory, pinned);
    if (!a || !a->live || a->start != memory) {
        standin_problem("%s: %p %s", pinned ? "cudaFreeHost" : "cudaFree", memory,
            a && !a->live ? "was freed before" : "is no such allocation");
        return refuse(CUDA_ERROR_INVALID);
    }
    /* the host's allocator may give these addresses out again: nothing to remember */
    if (pinned) {
        free(a->start);
        forget(a);
        return error;
    }
    mprotect(a->region, a->region_bytes, PROT_READ | PROT_WRITE);
    look_beside(a);
    madvise(a->region, a->region_bytes, MADV_DONTNEED);
    mprotect(a->region, a->region_bytes, PROT_NONE);
    s.device_bytes -= (int64_t)a->bytes;
    a->live = false;
    return error;
}

static int standin_free(void *memory) { return free_memory(memory, false); }
static int standin_free_host(void *memory) { return free_memory(memory, true); }

/* ---- streams and events ------------------------------------------------- */

typedef struct standin_event {
    standin_handle handle;
    uint64_t after;     /* operations that have been queued when it was recorded */
    cuda_stream stream; /* that it was recorded in */
    bool takes_times;
    int64_t time; /* standin_time when it was recorded */
} standin_event;

static int stream_create(cuda_stream *out, unsigned flags)
{
    int error = standin_begin(CUDA_ERROR_MEMORY);
    if (error) return error;
    if (flags != CUDA_STREAM_NON_BLOCKING)
        standin_problem("a stream that waits for the default stream");
    *out = handle_create(HANDLE_STREAM, sizeof(standin_handle));
    if (!s.main) s.main = *out;
    return *out ? 0 : refuse(CUDA_ERROR_MEMORY);
}

static int stream_destroy(cuda_stream stream)
{
    int error = standin_begin(ERROR_UNKNOWN);
    handle_destroy(stream, HANDLE_STREAM, "cudaStreamDestroy");
    run_until(s.seen);
    if (stream == s.main) s.main = NULL;
    return error;
}

static int stream_synchronize(cuda_stream stream)
{
    int error = standin_begin(ERROR_UNKNOWN);
    /* NULL: the default stream, on which nothing was put */
    if (stream && !handle_good(stream, HANDLE_STREAM, "cudaStreamSynchronize"))
        return refuse(CUDA_ERROR_INVALID);
    if (captures("cudaStreamSynchronize")) return refuse(ERROR_CAPTURE_UNSUPPORTED);
    run_until_of(stream, s.seen);
    return waited(error);
}

static int event_create(cuda_event *out, unsigned flags)
{
    int error = standin_begin(CUDA_ERROR_MEMORY);
    if (error) return error;
    *out = handle_create(HANDLE_EVENT, sizeof(standin_event));
    if (!*out) return refuse(CUDA_ERROR_MEMORY);
    ((standin_event *)*out)->takes_times = flags != CUDA_EVENT_NO_TIMING;
    return 0;
}

static int event_destroy(cuda_event event)
{
    int error = standin_begin(ERROR_UNKNOWN);
    handle_destroy(event, HANDLE_EVENT, "cudaEventDestroy");
    return error;
}

static int event_record(cuda_event event, cuda_stream stream)
{
    int error = standin_begin(ERROR_UNKNOWN);
    if (error) return error;
    if (!handle_good(event, HANDLE_EVENT, "cudaEventRecord")
        || !handle_good(stream, HANDLE_STREAM, "cudaEventRecord"))
        return refuse(CUDA_ERROR_INVALID);
    if (captures("cudaEventRecord")) return refuse(ERROR_CAPTURE_UNSUPPORTED);
    ((standin_event *)event)->after = s.seen;
    ((standin_event *)event)->stream = stream;
    ((standin_event *)event)->time = standin_time;
    return 0;
}

/* What was queued between the two takes. */
static int event_elapsed(float *milliseconds, cuda_event start, cuda_event end)
{
    if (!handle_good(start, HANDLE_EVENT, "cudaEventElapsedTime")
        || !handle_good(end, HANDLE_EVENT, "cudaEventElapsedTime"))
        return refuse(CUDA_ERROR_INVALID);
    if (!((standin_event *)start)->takes_times || !((standin_event *)end)->takes_times) {
        standin_problem("cudaEventElapsedTime of an event that takes no times");
        return refuse(CUDA_ERROR_INVALID);
    }
    *milliseconds = 0.5e-3f
                    * (float)(((standin_event *)end)->time - ((standin_event *)start)->time);
    return 0;
}

/* Only what was queued before the event runs; the rest stays queued. */
static int event_synchronize(cuda_event event)
{
    int error = standin_begin(ERROR_UNKNOWN);
    if (error) return error;
    if (!handle_good(event, HANDLE_EVENT, "cudaEventSynchronize"))
        return refuse(CUDA_ERROR_INVALID);
    if (captures("cudaEventSynchronize")) return refuse(ERROR_CAPTURE_UNSUPPORTED);
    if (((standin_event *)event)->stream)
        run_until_of(((standin_event *)event)->stream, ((standin_event *)event)->after);
    return waited(0);
}

/* An event that was never recorded is no wait, as on a GPU. */
static int stream_wait_event(cuda_stream stream, cuda_event event, unsigned flags)
{
    int error = standin_begin(ERROR_UNKNOWN);
    if (error) return error;
    if (!handle_good(event, HANDLE_EVENT, "cudaStreamWaitEvent") || flags)
        return refuse(CUDA_ERROR_INVALID);
    if (captures("cudaStreamWaitEvent")) return refuse(ERROR_CAPTURE_UNSUPPORTED);
    operation *o = standin_queue(stream, "a wait for an event", NULL);
    if (!o) return refuse(CUDA_ERROR_INVALID);
    o->wait_stream = ((standin_event *)event)->stream;
    o->wait_before = ((standin_event *)event)->after;
    return 0;
}

/* ---- copies and launches ------------------------------------------------ */

static void run_copy_up(operation *o)
{
    static const char what[] = "a copy to the device, when it ran";
    if (!device_range(o->to, o->bytes, what) || !range_good(o->from, o->bytes, true, what)) return;
    if (hash_bytes(1, o->from, o->bytes) != o->hash)
        standin_problem("the host changed a buffer before its copy to the device ran");
    memcpy(o->to, o->from, o->bytes);
}

static void run_copy_down(operation *o)
{
    static const char what[] = "a copy from the device, when it ran";
    if (!device_range(o->from, o->bytes, what) || !range_good(o->to, o->bytes, true, what)) return;
    memcpy(o->to, o->from, o->bytes);
}

static void run_copy_on(operation *o)
{
    if (device_range(o->to, o->bytes, "a copy on the device, when it ran"))
        memcpy(o->to, o->from, o->bytes);
}

static int copy_on(void *to, const void *from, size_t bytes, cuda_stream stream)
{
    if (!device_range(to, bytes, "a copy on the device")
        || !device_range(from, bytes, "a copy on the device"))
        return refuse(CUDA_ERROR_INVALID);
    operation *o = standin_queue(stream, "a copy on the device", run_copy_on);
    if (!o) return refuse(CUDA_ERROR_INVALID);
    o->to = to;
    o->from = from;
    o->bytes = bytes;
    return 0;
}

static int copy(void *to, const void *from, size_t bytes, int kind, cuda_stream stream)
{
    int error = standin_begin(ERROR_UNKNOWN);
    if (error) return error;
    const bool up = kind == CUDA_HOST_TO_DEVICE;
    if (kind == CUDA_DEVICE_TO_DEVICE) return copy_on(to, from, bytes, stream);
    if (!up && kind != CUDA_DEVICE_TO_HOST) {
        standin_problem("cudaMemcpyAsync: kind %d", kind);
        return refuse(CUDA_ERROR_INVALID);
    }
    const char *name = up ? "a copy to the device" : "a copy from the device";
    if (captures(name)) return refuse(ERROR_CAPTURE_UNSUPPORTED);
    if (!device_range(up ? to : from, bytes, name)
        || !range_good(up ? from : to, bytes, true, name))
        return refuse(CUDA_ERROR_INVALID);
    operation *o = standin_queue(stream, name, up ? run_copy_up : run_copy_down);
    if (!o) return refuse(CUDA_ERROR_INVALID);
    o->to = to;
    o->from = from;
    o->bytes = bytes;
    if (up) find_allocation(to, false)->bytes_up += (int64_t)bytes;
    if (up) o->hash = hash_bytes(1, from, bytes);
    else memset(to, NOT_YET_COPIED, bytes); /* who looks too early finds this */
    *(up ? &standin_count.copies_up : &standin_count.copies_down) += 1;
    *(up ? &standin_count.bytes_up : &standin_count.bytes_down) += (int64_t)bytes;
    return 0;
}

static void run_fill(operation *o)
{
    if (device_range(o->to, o->bytes, "cudaMemsetAsync, when it ran"))
        memset(o->to, o->value, o->bytes);
}

static int fill(void *at, int byte, size_t bytes, cuda_stream stream)
{
    int error = standin_begin(ERROR_UNKNOWN);
    if (error) return error;
    operation *o = device_range(at, bytes, "cudaMemsetAsync")
                       ? standin_queue(stream, "cudaMemsetAsync", run_fill)
                       : NULL;
    if (!o) return refuse(CUDA_ERROR_INVALID);
    o->to = at;
    o->value = byte;
    o->bytes = bytes;
    standin_count.fills++;
    return 0;
}

/* A kernel without a line here runs too; its arguments' size is then taken as it comes. */
static const struct {
    const char *name;
    size_t args_size;
} kernels[KERNEL_COUNT] = {
    [KERNEL_EMBED] = {"the embed kernel", sizeof(embed_args)},
    [KERNEL_GATHER] = {"the gather kernel", sizeof(gather_args)},
    [KERNEL_LAYERNORM] = {"the layernorm kernel", sizeof(layernorm_args)},
    [KERNEL_RMSNORM] = {"the rmsnorm kernel", sizeof(rmsnorm_args)},
    [KERNEL_ACTIVATION] = {"the activation kernel", sizeof(activation_args)},
    [KERNEL_GATE] = {"the gate kernel", sizeof(gate_args)},
    [KERNEL_ADD] = {"the add kernel", sizeof(add_args)},
    [KERNEL_ADD_LAYERNORM] = {"the add_layernorm kernel", sizeof(add_layernorm_args)},
    [KERNEL_ADD_RMSNORM] = {"the add_rmsnorm kernel", sizeof(add_rmsnorm_args)},
    [KERNEL_SCALE] = {"the scale kernel", sizeof(scale_args)},
    [KERNEL_ROPE] = {"the rope kernel", sizeof(rope_args)},
    [KERNEL_ATTENTION] = {"the attention kernel", sizeof(attention_args)},
    [KERNEL_TILE_ATTENTION_64] = {"the tile_attention kernel", sizeof(tile_attention_args)},
    [KERNEL_TILE_ATTENTION_128] = {"the tile_attention kernel", sizeof(tile_attention_args)},
    [KERNEL_TILE_ATTENTION_256] = {"the tile_attention kernel", sizeof(tile_attention_args)},
    [KERNEL_COLUMNS] = {"the columns kernel", sizeof(columns_args)},
    [KERNEL_SCORES] = {"the scores kernel", sizeof(scores_args)},
    [KERNEL_SOFTMAX] = {"the softmax kernel", sizeof(softmax_args)},
    [KERNEL_MIX] = {"the mix kernel", sizeof(mix_args)},
    [KERNEL_NORM_SCALE] = {"the norm_scale kernel", sizeof(norm_scale_args)},
    [KERNEL_NORM_BY_SCALE] = {"the norm_by_scale kernel", sizeof(norm_by_scale_args)},
    [KERNEL_NORM_BACK] = {"the norm_back kernel", sizeof(norm_back_args)},
    [KERNEL_ACTIVATION_BACK] = {"the activation_back kernel", sizeof(activation_back_args)},
    [KERNEL_JOIN] = {"the join kernel", sizeof(join_args)},
    [KERNEL_ATTENTION_BACK] = {"the attention_back kernel", sizeof(attention_back_args)},
    [KERNEL_SOFTMAX_BACK] = {"the softmax_back kernel", sizeof(softmax_back_args)},
    [KERNEL_MIX_BACK] = {"the mix_back kernel", sizeof(mix_back_args)},
    [KERNEL_SPREAD] = {"the spread kernel", sizeof(copies_args)},
    [KERNEL_FOLD] = {"the fold kernel", sizeof(copies_args)},
    [KERNEL_ROUTE] = {"the route kernel", sizeof(route_args)},
    [KERNEL_ROUTE_BACK] = {"the route_back kernel", sizeof(route_args)},
    [KERNEL_EXPERT_COUNT] = {"the expert_count kernel", sizeof(expert_table_args)},
    [KERNEL_EXPERT_PLACE] = {"the expert_place kernel", sizeof(expert_table_args)},
    [KERNEL_EXPERT_GATHER] = {"the expert_gather kernel", sizeof(expert_gather_args)},
    [KERNEL_EXPERT_GATE] = {"the expert_gate kernel", sizeof(expert_gate_args)},
    [KERNEL_EXPERT_SUM] = {"the expert_sum kernel", sizeof(expert_sum_args)},
    [KERNEL_EXPERT_GATE_BACK] = {"the expert_gate_back kernel", sizeof(expert_gate_back_args)},
    [KERNEL_EXPERT_WEIGHT_BACK] = {"the expert_weight_back kernel",
        sizeof(expert_weight_back_args)},
    [KERNEL_EXPERT_SUM_BACK] = {"the expert_sum_back kernel", sizeof(expert_sum_back_args)},
    [KERNEL_EXPERTS_JOINED_BACK] = {"the experts_joined_back kernel",
        sizeof(expert_joined_back_args)},
    [KERNEL_GROUPED_PRODUCT] = {"the grouped_product kernel", sizeof(grouped_args)},
    [KERNEL_DIVISOR_BACK] = {"the divisor_back kernel", sizeof(divisor_back_args)},
    [KERNEL_NORM_SCALE_BACK] = {"the norm_scale_back kernel", sizeof(norm_back_args)},
    [KERNEL_THROUGH_NORM] = {"the through_norm kernel", sizeof(through_norm_args)},
    [KERNEL_WIDEN] = {"the widen kernel", sizeof(widen_args)},
    [KERNEL_METRICS] = {"the metrics kernel", sizeof(metrics_args)},
    [KERNEL_RECORDS] = {"the records kernel", sizeof(records_args)},
    [KERNEL_FUNCTIONS] = {"the functions kernel", sizeof(records_args)},
    [KERNEL_EXPAND] = {"the expand kernel", sizeof(expand_args)},
};

static void run_kernel(operation *o) { ((kernel_blocks *)o->kernel)(o->args, 0, o->blocks); }

/* Which kernel an entry of the table is, or -1. */
static int kernel_of(kernel_entry entry)
{
    kernel_table table;
    kernels_baseline_fill(&table);
    for (int kernel = 0; entry && kernel < KERNEL_ALL; kernel++)
        for (int type = 0; type < KERNEL_TYPES; type++)
            if (table.entry[kernel][type] == entry) return kernel;
    return -1;
}

enum { PLAIN_SHARED_BYTES = 48 << 10 };
static size_t shared_allowed[KERNEL_ALL][KERNEL_TYPES];

static int allow_shared(kernel_entry entry, size_t shared_bytes)
{
    int error = standin_begin(ERROR_UNKNOWN);
    if (error) return error;
    kernel_table table;
    kernels_baseline_fill(&table);
    if (shared_bytes > (size_t)standin_now.shared_bytes) return refuse(CUDA_ERROR_INVALID);
    for (int kernel = 0; kernel < KERNEL_ALL; kernel++)
        for (int type = 0; type < KERNEL_TYPES; type++)
            if (table.entry[kernel][type] == entry) shared_allowed[kernel][type] = shared_bytes;
    return 0;
}

/* The most dynamic shared memory that a kernel may be launched with. */
static size_t shared_allowed_of(kernel_entry entry)
{
    kernel_table table;
    kernels_baseline_fill(&table);
    for (int kernel = 0; kernel < KERNEL_ALL; kernel++)
        for (int type = 0; type < KERNEL_TYPES; type++)
            if (table.entry[kernel][type] == entry && shared_allowed[kernel][type])
                return shared_allowed[kernel][type];
    return PLAIN_SHARED_BYTES;
}

static int launch(kernel_entry entry, const void *args, size_t args_size, unsigned blocks,
    unsigned threads, size_t shared_bytes, cuda_stream stream)
{
    int error = standin_begin(ERROR_UNKNOWN);
    if (error) return error;
    const int found = kernel_of(entry), kernel = found < 0 ? -1 : found % KERNEL_COUNT;
    const size_t wanted = kernel < 0 ? 0
                                     : kernels[kernel].args_size
                                           + (found >= KERNEL_COUNT ? sizeof(fused_records) : 0);
    const char *name = kernel >= 0 && kernels[kernel].name ? kernels[kernel].name : "a kernel";
    if (kernel < 0) standin_problem("a launch of what is no kernel");
    else if (args_size > sizeof((operation *)0)->args
             || (kernels[kernel].name && args_size != wanted))
        standin_problem("%s: %zu bytes of arguments, not %zu", name, args_size, wanted);
    else if (blocks == 0 || blocks > 0x7fffffffu) standin_problem("%s: %u blocks", name, blocks);
    else if (shared_bytes > shared_allowed_of(entry))
        standin_problem("%s: %zu bytes of shared memory", name, shared_bytes);
    else if (threads == 0 || threads % 32 || threads > KERNEL_THREADS)
        standin_problem("%s: blocks of %u threads", name, threads);
    else {
        operation *o = standin_queue(stream, name, run_kernel);
        if (!o) return refuse(CUDA_ERROR_INVALID);
        o->kernel = entry;
        o->blocks = blocks;
        memcpy(o->args, args, args_size);
        standin_count.launches++;
        standin_count.kernels[kernel]++;
        standin_count.with_records += found >= KERNEL_COUNT;
        return 0;
    }
    return refuse(CUDA_ERROR_INVALID);
}

/* ---- the machine -------------------------------------------------------- */

static int device_count(int *count)
{
    int error = standin_begin(ERROR_UNKNOWN);
    *count = standin_now.devices;
    return error ? error : standin_now.count_error ? refuse(standin_now.count_error) : 0;
}

static int set_device(int device)
{
    int error = standin_begin(ERROR_UNKNOWN);
    if (error) return error;
    if (device < 0 || device >= standin_now.devices) return refuse(CUDA_ERROR_INVALID);
    s.device = device;
    return 0;
}

static int device_name(int device, char *name, size_t size)
{
    int error = standin_begin(ERROR_UNKNOWN);
    if (error) return error;
    snprintf(name, size, "stand-in on host memory");
    return device < standin_now.devices ? 0 : refuse(CUDA_ERROR_INVALID);
}

static int attribute(int *value, int which, int device)
{
    int error = standin_begin(ERROR_UNKNOWN);
    if (error) return error;
    *value = which == CUDA_CAPABILITY_MAJOR   ? standin_now.major
             : which == CUDA_CAPABILITY_MINOR ? standin_now.minor
             : which == CUDA_SHARED_BYTES     ? standin_now.shared_bytes
                                              : 132;
    return device < standin_now.devices ? 0 : refuse(CUDA_ERROR_INVALID);
}

static int memory_info(size_t *available, size_t *total)
{
    int error = standin_begin(ERROR_UNKNOWN);
    if (error) return error;
    *total = (size_t)standin_now.bytes;
    *available = (size_t)(standin_now.bytes - s.device_bytes);
    return 0;
}

static int runtime_version(int *out)
{
    int error = standin_begin(ERROR_UNKNOWN);
    *out = 13000;
    return error;
}

static int driver_version(int *out)
{
    int error = standin_begin(ERROR_UNKNOWN);
    *out = standin_now.driver;
    return error;
}

static int last_error(void)
{
    int error = s.last_error;
    s.last_error = 0;
    return error;
}

static const char *error_string(int error)
{
    switch (error) {
    case CUDA_ERROR_INVALID: return "invalid argument";
    case CUDA_ERROR_MEMORY: return "out of memory";
    case CUDA_ERROR_OLD_DRIVER:
        return "CUDA driver version is insufficient for CUDA runtime version";
    case CUDA_ERROR_NO_DEVICE: return "no CUDA-capable device is detected";
    case ERROR_ILLEGAL_ACCESS: return "an illegal memory access was encountered";
    default: return "unknown error";
    }
}

inset_status cuda_library_open(inset_context *context, cuda_library *library)
{
    (void)context;
    *library = (cuda_library){
        .cudaGetDeviceCount = device_count,
        .device_name = device_name,
        .cudaDeviceGetAttribute = attribute,
        .cudaSetDevice = set_device,
        .cudaMemGetInfo = memory_info,
        .cudaDriverGetVersion = driver_version,
        .cudaRuntimeGetVersion = runtime_version,
        .cudaMalloc = standin_malloc,
        .cudaFree = standin_free,
        .cudaMallocHost = standin_malloc_host,
        .cudaFreeHost = standin_free_host,
        .cudaStreamCreateWithFlags = stream_create,
        .cudaStreamDestroy = stream_destroy,
        .cudaStreamSynchronize = stream_synchronize,
        .cudaEventCreateWithFlags = event_create,
        .cudaEventDestroy = event_destroy,
        .cudaEventRecord = event_record,
        .cudaStreamWaitEvent = stream_wait_event,
        .cudaEventSynchronize = event_synchronize,
        .cudaEventElapsedTime = event_elapsed,
        .cudaMemcpyAsync = copy,
        .cudaMemsetAsync = fill,
        .launch = launch,
        .allow_shared = allow_shared,
        .cudaStreamBeginCapture = capture_begin,
        .cudaStreamEndCapture = capture_end,
        .cudaGraphInstantiate = graph_instantiate,
        .cudaGraphLaunch = graph_launch,
        .cudaGraphDestroy = graph_destroy,
        .cudaGraphExecDestroy = graph_exec_destroy,
        .cudaGetLastError = last_error,
        .cudaGetErrorString = error_string,
        .fill_kernels = kernels_baseline_fill,
    };
    return INSET_OK;
}

inset_status cuda_library_open_products(inset_context *context, cuda_library *library)
{
    if (standin_now.no_products)
        return error_set(context, INSET_DEVICE_ERROR,
            "a CUDA device needs cuBLASLt, and the stand-in was told to have none");
    standin_fill_products(library);
    return INSET_OK;
}

void cuda_library_close(cuda_library *library) { memset(library, 0, sizeof *library); }

/* ---- what tests ask ----------------------------------------------------- */

standin_counts standin_counted(void) { return standin_count; }

int64_t standin_live(void)
{
    int64_t live = 0;
    for (const allocation *a = s.allocations; a; a = a->next) live += a->live;
    for (const standin_handle *h = s.handles; h; h = h->next) live += h->live;
    return live;
}

void standin_eager(bool eager) { standin_now.eager = eager; }

int64_t standin_waiting(void) { return (int64_t)s.queued; }

const char *standin_problems(void)
{
    protect(PROT_READ | PROT_WRITE);
    for (const allocation *a = s.allocations; a; a = a->next)
        if (a->live && !a->pinned) look_beside(a);
    protect(PROT_NONE);
    if (s.last_error) {
        standin_problem("error %d was not taken back", s.last_error);
        s.last_error = 0;
    }
    return s.problems;
}

void standin_reset(void)
{
    const standin_settings standard = STANDARD;
    standin_now = standard;
    standin_count = (standin_counts){0};
    s.problems[0] = 0;
    s.problem_bytes = 0;
    s.last_error = 0;
    for (allocation *a = s.allocations, *next; a; a = next) {
        next = a->next;
        if (!a->live) forget(a);
    }
    for (standin_handle **link = &s.handles, *h; (h = *link);) {
        if (h->live) {
            link = &h->next;
        } else {
            *link = h->next;
            free(h);
        }
    }
}

void standin_machine(int devices, int major, int minor, int64_t bytes, int error, int driver)
{
    standin_now.devices = devices;
    standin_now.major = major;
    standin_now.minor = minor;
    standin_now.bytes = bytes;
    standin_now.count_error = error;
    standin_now.driver = driver;
}

void standin_without_products(bool missing) { standin_now.no_products = missing; }
void standin_attention(bool missing, int64_t most_sequences, int64_t refused_length)
{
    standin_now.no_attention = missing;
    standin_now.most_sequences = most_sequences;
    standin_now.refused_length = refused_length;
}

void standin_fail_call(int64_t n) { standin_now.fail_call = n; }
void standin_fail_allocation(int64_t n) { standin_now.fail_allocation = n; }
void standin_break(int64_t n) { standin_now.break_at = n; }

void standin_mend(void)
{
    standin_now.broken = false;
    standin_now.break_at = 0;
}

void standin_candidates(int refused, int tall_only, int unsteady, int uneven)
{
    standin_now.uneven = uneven;
    standin_now.refused = refused;
    standin_now.tall_only = tall_only;
    standin_now.unsteady = unsteady;
}

void standin_shared(int bytes) { standin_now.shared_bytes = bytes; }

void standin_quick(int first, int count)
{
    standin_now.quick_first = first;
    standin_now.quick_count = count;
}

void standin_gelu_rounding(standin_gelu how) { standin_now.gelu_rounds = how; }

int64_t standin_bytes_in_use(void)
{
    int64_t bytes = 0;
    for (const allocation *a = s.allocations; a; a = a->next)
        if (a->live && !a->pinned) bytes += a->bytes_up;
    return bytes;
}

void standin_peek(void *to, const void *device_memory, int64_t bytes)
{
    run_until(s.seen);
    if (!device_range(device_memory, (size_t)bytes, "standin_peek")) return;
    protect(PROT_READ);
    memcpy(to, device_memory, (size_t)bytes);
    protect(PROT_NONE);
}

static void free_everything(void)
{
    for (allocation *a = s.allocations, *next; a; a = next) {
        next = a->next;
        if (a->pinned) free(a->start);
        free(a);
    }
    for (standin_handle *h = s.handles, *next; h; h = next) {
        next = h->next;
        free(h);
    }
    free(s.queue);
    if (s.reserve) munmap(s.reserve, (size_t)(s.reserve_end - s.reserve));
}

__attribute__((destructor)) static void at_the_end(void)
{
    const int64_t live = standin_live();
    const char *problems = standin_problems();
    const bool good = live == 0 && !*problems;
    if (!good)
        fprintf(stderr, "%sstand-in: %lld allocations and handles were never freed\n", problems,
            (long long)live);
    free_everything();
    if (good) return;
    fflush(NULL);
    _exit(1);
}
