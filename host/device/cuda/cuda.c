/* cuda.c: the CUDA device: memory, copies through pinned staging, and kernel launches, all of it on
 * one stream.
 *
 * An upload returns when its bytes are in pinned memory, not when they have arrived: whoever queues
 * a kernel after it finds them there, since the stream keeps order. A download waits. Every failure
 * is described once, with the driver's words, and taken out of CUDA's last error, so that it does
 * not show up again in somebody else's call (an illegal access stays, and the message says so).
 * What runs while cleaning up after a failure neither replaces its message nor stops halfway. */
#include "device/cuda/cuda.h"
#include "device/cuda/attention.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

enum { RESERVED_BYTES = 512 << 20 };

static cuda_device *of(device *base) { return (cuda_device *)base; }

/* Errors that stay with the process, whatever is done. */
static bool is_final(int error)
{
    return error == CUDA_ERROR_ILLEGAL_ADDRESS || error == 710 || (error >= 714 && error <= 719);
}

inset_status cuda_failed(cuda_device *d, int error, const char *doing)
{
    d->library.cudaGetLastError();
    inset_status status = error_set(d->base.context,
        error == CUDA_ERROR_MEMORY ? INSET_NO_MEMORY : INSET_DEVICE_ERROR,
        "cuda:%d: %s failed: %s (CUDA error %d)", d->index, doing,
        d->library.cudaGetErrorString(error), error);
    if (is_final(error))
        error_help(d->base.context,
            "After this error the process cannot use the GPU any more: start it again.");
    if (error == CUDA_ERROR_NO_IMAGE || error == CUDA_ERROR_NEW_PTX || error == CUDA_ERROR_BAD_PTX)
        error_help(d->base.context,
            "This build of inset has no code for this card, or the driver is older than it: build "
            "with CUDAARCHS=native, or take a newer driver.");
    return status;
}

/* While cleaning up: the message stays that of the first failure. */
static void ignore(cuda_device *d, int error)
{
    if (error) d->library.cudaGetLastError();
}

inset_status cuda_enter(cuda_device *d)
{
    int error = d->library.cudaSetDevice(d->index);
    return error ? cuda_failed(d, error, "choosing the device") : INSET_OK;
}

/* ---- memory ------------------------------------------------------------- */

inset_status cuda_allocate(device *base, size_t bytes, void **out)
{
    cuda_device *d = of(base);
    *out = NULL;
    inset_status status = cuda_enter(d);
    if (status) return status;
    int error = d->library.cudaMalloc(out, bytes ? bytes : 1);
    if (!error) return INSET_OK;
    *out = NULL;
    if (error != CUDA_ERROR_MEMORY) return cuda_failed(d, error, "allocating memory");
    d->library.cudaGetLastError();
    size_t available = 0, total = 0;
    ignore(d, d->library.cudaMemGetInfo(&available, &total));
    return error_set(base->context, INSET_NO_MEMORY,
        "%s: %zu bytes were asked for, %zu of %zu are free", base->name, bytes, available, total);
}

/* What is free now, whoever has the rest: other contexts, other processes, PyTorch's cache. A part
 * is left for what is not planned: probes of products, libraries' own. */
static inset_status cuda_memory_left(device *base, size_t *bytes)
{
    cuda_device *d = of(base);
    size_t available = 0, total = 0;
    inset_status status = cuda_enter(d);
    const int error = status ? 0 : d->library.cudaMemGetInfo(&available, &total);
    if (error) return cuda_failed(d, error, "asking for the memory that is free");
    const size_t reserve = available / 32 < RESERVED_BYTES ? available / 32 : RESERVED_BYTES;
    *bytes = available - reserve;
    return status;
}

/* cudaFree waits for the work that still uses the memory. */
void cuda_release(device *base, void *memory, size_t bytes)
{
    cuda_device *d = of(base);
    (void)bytes;
    if (!memory) return;
    ignore(d, d->library.cudaSetDevice(d->index));
    ignore(d, d->library.cudaFree(memory));
}

/* ---- copies ------------------------------------------------------------- */

static inset_status wait_for(cuda_device *d, staging_half *half)
{
    if (half->pending) {
        int error = d->library.cudaEventSynchronize(half->done);
        if (error) return cuda_failed(d, error, "waiting for a copy");
    }
    half->pending = false;
    half->used = 0;
    return INSET_OK;
}

/* Marks the end of a half's copies. Where even that fails, waiting for everything keeps the half
 * from being overwritten too early. */
static inset_status mark(cuda_device *d, staging_half *half)
{
    int error = d->library.cudaEventRecord(half->done, d->stream);
    if (!error) {
        half->pending = true;
        return INSET_OK;
    }
    inset_status status = cuda_failed(d, error, "marking the end of a copy");
    ignore(d, d->library.cudaStreamSynchronize(d->stream));
    half->used = 0;
    return status;
}

/* Turns to the other half, empty. */
static inset_status turn(cuda_device *d)
{
    staging_half *half = &d->halves[d->half];
    inset_status status = half->used && !half->pending ? mark(d, half) : INSET_OK;
    if (status) return status;
    d->half = !d->half;
    return wait_for(d, &d->halves[d->half]);
}

/* Room for up to `want` bytes of the half being filled, at least 16; *got says how many: all of
 * them if a half holds them, so that they are one copy. */
static inset_status stage(cuda_device *d, size_t want, char **at, size_t *got)
{
    staging_half *half = &d->halves[d->half];
    if (half->used == STAGING_BYTES || half->pending
        || (want <= STAGING_BYTES && want > STAGING_BYTES - half->used)) {
        inset_status status = turn(d);
        if (status) return status;
        half = &d->halves[d->half];
    }
    size_t room = STAGING_BYTES - half->used;
    *at = half->bytes + half->used;
    *got = want < room ? want : room;
    return INSET_OK;
}

/* Queues the copy of `bytes` staged bytes. */
static inset_status send(cuda_device *d, void *to, const char *at, size_t bytes)
{
    staging_half *half = &d->halves[d->half];
    int error = d->library.cudaMemcpyAsync(to, at, bytes, CUDA_HOST_TO_DEVICE, d->stream);
    if (error) return cuda_failed(d, error, "copying to the device");
    half->used += (bytes + 15) & ~(size_t)15;
    return INSET_OK;
}

inset_status cuda_upload(device *base, void *to, const void *from, size_t bytes)
{
    return cuda_upload_as(base, to, INSET_U8, from, INSET_U8, (int64_t)bytes);
}

inset_status cuda_upload_as(
    device *base, void *to, inset_type type, const void *from, inset_type from_type, int64_t count)
{
    cuda_device *d = of(base);
    const size_t size = type_size(type), from_size = type_size(from_type);
    inset_status status = cuda_enter(d);
    for (int64_t done = 0; !status && done < count;) {
        char *at;
        size_t got;
        if ((status = stage(d, (size_t)(count - done) * size, &at, &got))) break;
        int64_t n = (int64_t)(got / size);
        const char *source = (const char *)from + (size_t)done * from_size;
        if (type == from_type) memcpy(at, source, (size_t)n * size);
        else elements_convert(type, at, from_type, source, n);
        status = send(d, (char *)to + (size_t)done * size, at, (size_t)n * size);
        done += n;
    }
    return status;
}

/* A piece of a download that is under way into one half. */
typedef struct piece {
    char *to;
    size_t bytes;
    staging_half *half;
} piece;

static inset_status fetch(cuda_device *d, piece *p, const void *from)
{
    inset_status status = turn(d);
    if (status) return status;
    p->half = &d->halves[d->half];
    int error = d->library.cudaMemcpyAsync(
        p->half->bytes, from, p->bytes, CUDA_DEVICE_TO_HOST, d->stream);
    if (error) return cuda_failed(d, error, "copying from the device");
    return mark(d, p->half);
}

static inset_status finish(cuda_device *d, const piece *p)
{
    if (!p->half) return INSET_OK;
    inset_status status = wait_for(d, p->half);
    if (!status) memcpy(p->to, p->half->bytes, p->bytes);
    return status;
}

/* While one piece is copied out of the staging memory the next is on its way. */
inset_status cuda_download(device *base, void *to, const void *from, size_t bytes)
{
    cuda_device *d = of(base);
    piece previous = {0};
    inset_status status = cuda_enter(d);
    for (size_t done = 0; !status && done < bytes;) {
        piece next = {.to = (char *)to + done,
            .bytes = bytes - done < STAGING_BYTES ? bytes - done : STAGING_BYTES};
        if ((status = fetch(d, &next, (const char *)from + done))
            || (status = finish(d, &previous)))
            break;
        done += next.bytes;
        previous = next;
    }
    return status ? status : finish(d, &previous);
}

static inset_status cuda_copy(device *base, void *to, const void *from, size_t bytes)
{
    cuda_device *d = of(base);
    inset_status status = cuda_enter(d);
    if (status) return status;
    int error = d->library.cudaMemcpyAsync(to, from, bytes, CUDA_DEVICE_TO_DEVICE, d->stream);
    return error ? cuda_failed(d, error, "copying on the device") : INSET_OK;
}

static inset_status cuda_zero(device *base, void *at, size_t bytes)
{
    cuda_device *d = of(base);
    inset_status status = cuda_enter(d);
    if (status) return status;
    int error = d->library.cudaMemsetAsync(at, 0, bytes, d->stream);
    return error ? cuda_failed(d, error, "zeroing memory") : INSET_OK;
}

/* ---- launches ----------------------------------------------------------- */

/* Columns of a row of a kernel whose blocks share a row by packs of 16 bytes (kernels/packs.h); 0:
 * another kernel. */
static int64_t packed_columns(kernel_id kernel, const void *args)
{
    switch (kernel) {
    case KERNEL_EMBED: return ((const embed_args *)args)->width;
    case KERNEL_GATHER: return ((const gather_args *)args)->width;
    case KERNEL_LAYERNORM: return ((const layernorm_args *)args)->width;
    case KERNEL_RMSNORM:
        return ((const rmsnorm_args *)args)->width / ((const rmsnorm_args *)args)->groups;
    case KERNEL_ACTIVATION: return ((const activation_args *)args)->width;
    case KERNEL_GATE: return ((const gate_args *)args)->width;
    case KERNEL_ADD: return ((const add_args *)args)->width;
    case KERNEL_ADD_LAYERNORM: return ((const add_layernorm_args *)args)->width;
    case KERNEL_ADD_RMSNORM: return ((const add_rmsnorm_args *)args)->width;
    case KERNEL_SCALE: return ((const scale_args *)args)->width;
    default: return 0;
    }
}

/* Threads a block: as many as a row has packs, at least two warps. A kernel's sums depend on the
 * number, so it depends on the kernel, the type and a row's width, and never on how many rows there
 * are: a row must come out the same whatever runs beside it. */
static unsigned threads_of(kernel_id kernel, inset_type type, const void *args)
{
    const kernel_id plain = (kernel_id)(kernel % KERNEL_COUNT);
    const int64_t columns = packed_columns(
        plain, kernel >= KERNEL_COUNT ? (const char *)args + sizeof(fused_records) : args);
    const int64_t threads = (columns * (int64_t)type_size(type) / 16 + 31) / 32 * 32;
    if (columns)
        return threads < 64 ? 64 : threads > KERNEL_THREADS ? KERNEL_THREADS : (unsigned)threads;
    switch (plain) {                  /* with records or without */
    case KERNEL_ATTENTION: return 64; /* its chunk of keys, and the columns of a usual head */
    case KERNEL_ROPE: return 128;
    default: return KERNEL_THREADS;
    }
}

inset_status cuda_launch(device *base, kernel_id kernel, inset_type type, const void *args,
    size_t args_size, int64_t blocks, int64_t work)
{
    cuda_device *d = of(base);
    (void)work;
    inset_status status = cuda_enter(d);
    if (status) return status;
    if (kernel == KERNEL_WHOLE_ATTENTION) return cuda_whole_attention(d, type, args);
    const int column = kernel == KERNEL_RECORDS || kernel == KERNEL_FUNCTIONS ? 0 : (int)type;
    kernel_entry entry = column < KERNEL_TYPES ? d->kernels.entry[kernel][column] : NULL;
    if (!entry)
        return error_set(base->context, INSET_DEVICE_ERROR, "cuda:%d: there is no kernel %d for %s",
            d->index, (int)kernel, type_name(type));
    if (blocks > INT_MAX)
        return error_set(base->context, INSET_DEVICE_ERROR,
            "cuda:%d: a launch of %lld blocks; a grid has at most %d", d->index, (long long)blocks,
            INT_MAX);
    int error;
    if (kernel % KERNEL_COUNT != KERNEL_ATTENTION
        || !cuda_tiles_launch(d, type, args, kernel >= KERNEL_COUNT, &error))
        error = d->library.launch(
            entry, args, args_size, (unsigned)blocks, threads_of(kernel, type, args), 0, d->stream);
    if (!error) return INSET_OK;
    char doing[64];
    snprintf(doing, sizeof doing, "launching kernel %d", (int)kernel);
    return cuda_failed(d, error, doing);
}

static inset_status cuda_synchronize(device *base)
{
    cuda_device *d = of(base);
    inset_status status = cuda_enter(d);
    if (status) return status;
    int error = d->library.cudaStreamSynchronize(d->stream);
    return error ? cuda_failed(d, error, "waiting for the device") : INSET_OK;
}

/* ---- graphs ------------------------------------------------------------- */

struct device_graph {
    cuda_graph_exec nodes;
};

static inset_status cuda_capture_begin(device *base)
{
    cuda_device *d = of(base);
    inset_status status = cuda_enter(d);
    if (status) return status;
    int error = d->library.cudaStreamBeginCapture(d->stream, CUDA_CAPTURE_THREAD_LOCAL);
    if (error) return cuda_failed(d, error, "beginning to capture launches");
    d->capturing = true;
    return INSET_OK;
}

/* The graph as the device runs it; the one that was captured is only needed for that. */
static inset_status make_runnable(cuda_device *d, cuda_graph captured, device_graph **out)
{
    device_graph *g = memory_new(d->base.context, sizeof *g);
    if (!g) return INSET_NO_MEMORY;
    int error = d->library.cudaGraphInstantiate(&g->nodes, captured, 0);
    if (error) {
        memory_free(d->base.context, g);
        return cuda_failed(d, error, "making a graph of launches");
    }
    *out = g;
    return INSET_OK;
}

/* Where the first failure was in between, its message stays: out is NULL then. */
static inset_status cuda_capture_end(device *base, device_graph **out)
{
    cuda_device *d = of(base);
    cuda_graph captured = NULL;
    if (out) *out = NULL;
    d->capturing = false;
    int error = d->library.cudaStreamEndCapture(d->stream, &captured);
    inset_status status = INSET_OK;
    if (error && out) status = cuda_failed(d, error, "capturing launches");
    else if (error) ignore(d, error);
    else if (out) status = make_runnable(d, captured, out);
    if (captured) ignore(d, d->library.cudaGraphDestroy(captured));
    return status;
}

static inset_status cuda_replay(device *base, device_graph *g)
{
    cuda_device *d = of(base);
    inset_status status = cuda_enter(d);
    if (status) return status;
    int error = d->library.cudaGraphLaunch(g->nodes, d->stream);
    return error ? cuda_failed(d, error, "launching a graph") : INSET_OK;
}

static void cuda_graph_free(device *base, device_graph *g)
{
    cuda_device *d = of(base);
    ignore(d, d->library.cudaSetDevice(d->index));
    ignore(d, d->library.cudaGraphExecDestroy(g->nodes));
    memory_free(base->context, g);
}

/* ---- opening and closing ------------------------------------------------ */

static void cuda_close(device *base)
{
    cuda_device *d = of(base);
    cuda_library *l = &d->library;
    if (d->stream) {
        ignore(d, l->cudaSetDevice(d->index));
        ignore(d, l->cudaStreamSynchronize(d->stream));
    }
    cuda_attention_close(d);
    if (d->products) l->cublasLtDestroy(d->products);
    cuda_release(base, d->workspace, WORKSPACE_BYTES);
    for (int i = 0; i < 2; i++) {
        if (d->halves[i].done) ignore(d, l->cudaEventDestroy(d->halves[i].done));
        if (d->halves[i].bytes) ignore(d, l->cudaFreeHost(d->halves[i].bytes));
    }
    if (d->stream) ignore(d, l->cudaStreamDestroy(d->stream));
    cuda_library_close(l);
    memory_free(base->context, d->choices);
    memory_free(base->context, d->float_choices);
    memory_free(base->context, d);
}

static const device_functions functions = {
    .close = cuda_close,
    .allocate = cuda_allocate,
    .release = cuda_release,
    .memory_left = cuda_memory_left,
    .upload = cuda_upload,
    .download = cuda_download,
    .upload_as = cuda_upload_as,
    .zero = cuda_zero,
    .copy = cuda_copy,
    .share = cuda_share,
    .matrix_create = cuda_matrix_create,
    .matrix_over = cuda_matrix_over,
    .matrix_reverse = cuda_matrix_reverse,
    .matrix_free = cuda_matrix_free,
    .matrix_bytes = cuda_matrix_bytes,
    .matrix_gelu = cuda_matrix_gelu,
    .matmul = cuda_matmul,
    .matmul_group = cuda_matmul_group,
    .float_products = cuda_float_products,
    .matrix_numbers = cuda_matrix_numbers,
    .slot_create = cuda_slot_create,
    .slot_free = cuda_slot_free,
    .slot_used = cuda_slot_used,
    .slot_arrive = cuda_slot_arrive,
    .matrix_empty = cuda_matrix_empty,
    .matrix_room = cuda_matrix_room,
    .matrix_put = cuda_matrix_put,
    .matmul_gelu = cuda_matmul_gelu,
    .launch = cuda_launch,
    .synchronize = cuda_synchronize,
    .wait_for = cuda_wait_for,
    .capture_begin = cuda_capture_begin,
    .capture_end = cuda_capture_end,
    .replay = cuda_replay,
    .graph_free = cuda_graph_free,
    .landing_create = cuda_landing_create,
    .landing_free = cuda_landing_free,
    .landing_start = cuda_landing_start,
    .landing_wait = cuda_landing_wait,
    .takes_attention = cuda_takes_attention,
};

/* The runtime calls a missing driver too old as well; users need to know which it is. */
static inset_status no_device(cuda_device *d, int error)
{
    cuda_library *l = &d->library;
    int driver = 0, runtime = 0;
    const char *words = l->cudaGetErrorString(error);
    if (error == CUDA_ERROR_OLD_DRIVER) {
        ignore(d, l->cudaDriverGetVersion(&driver));
        ignore(d, l->cudaRuntimeGetVersion(&runtime));
    }
    l->cudaGetLastError();
    if (error == CUDA_ERROR_OLD_DRIVER && driver == 0)
        return error_set(d->base.context, INSET_DEVICE_ERROR,
            "cuda:%d: this machine has no CUDA driver", d->index);
    if (error == CUDA_ERROR_OLD_DRIVER)
        return error_set(d->base.context, INSET_DEVICE_ERROR,
            "cuda:%d: the driver is for CUDA %d.%d, this build of inset needs %d.%d", d->index,
            driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    return error_set(d->base.context, INSET_DEVICE_ERROR, "cuda:%d: no CUDA device answers: %s",
        d->index, words);
}

/* The library's runtime answers and there is a device `index`. */
static inset_status find_device(cuda_device *d)
{
    inset_status status = cuda_library_open(d->base.context, &d->library);
    if (status) return status;
    int count = 0, error = d->library.cudaGetDeviceCount(&count);
    if (error) return no_device(d, error);
    if (d->index >= 0 && d->index < count) return INSET_OK;
    if (count == 0)
        return error_set(d->base.context, INSET_DEVICE_ERROR,
            "cuda:%d: this machine has no CUDA device", d->index);
    return error_set(d->base.context, INSET_DEVICE_ERROR,
        "cuda:%d: this machine has %d CUDA device%s, numbered from 0", d->index, count,
        count == 1 ? "" : "s");
}

static inset_status read_facts(cuda_device *d)
{
    cuda_library *l = &d->library;
    int error, major = 0, minor = 0;
    char name[96] = "";
    inset_status status = cuda_enter(d);
    if (status) return status;
    if ((error = l->device_name(d->index, name, sizeof name))
        || (error = l->cudaDeviceGetAttribute(&d->multiprocessors, CUDA_MULTIPROCESSORS, d->index))
        || (error = l->cudaDeviceGetAttribute(&d->shared_bytes, CUDA_SHARED_BYTES, d->index))
        || (error = l->cudaDeviceGetAttribute(&major, CUDA_CAPABILITY_MAJOR, d->index))
        || (error = l->cudaDeviceGetAttribute(&minor, CUDA_CAPABILITY_MINOR, d->index))
        || (error = l->cudaMemGetInfo(&d->base.memory_free, &d->base.memory_total)))
        return cuda_failed(d, error, "asking what the device is");
    snprintf(d->base.name, sizeof d->base.name, "cuda:%d: %s", d->index, name);
    if (major < 8)
        return error_set(d->base.context, INSET_DEVICE_ERROR,
            "%s has compute capability %d.%d; inset needs 8.0 or later", d->base.name, major,
            minor);
    return INSET_OK;
}

static inset_status make_stream(cuda_device *d)
{
    cuda_library *l = &d->library;
    int error = l->cudaStreamCreateWithFlags(&d->stream, CUDA_STREAM_NON_BLOCKING);
    if (error) return cuda_failed(d, error, "creating a stream");
    for (int i = 0; i < 2; i++) {
        void *bytes = NULL;
        error = l->cudaEventCreateWithFlags(&d->halves[i].done, CUDA_EVENT_NO_TIMING);
        if (error) return cuda_failed(d, error, "creating an event");
        if ((error = l->cudaMallocHost(&bytes, STAGING_BYTES))) {
            if (error != CUDA_ERROR_MEMORY)
                return cuda_failed(d, error, "allocating pinned memory");
            l->cudaGetLastError();
            return error_set(d->base.context, INSET_NO_MEMORY,
                "%d bytes of pinned host memory for copies to cuda:%d cannot be had", STAGING_BYTES,
                d->index);
        }
        d->halves[i].bytes = bytes;
    }
    l->fill_kernels(&d->kernels);
    return INSET_OK;
}

static inset_status make_products(cuda_device *d)
{
    inset_status status = cuda_library_open_products(d->base.context, &d->library);
    if (status) return status;
    int error = d->library.cublasLtCreate(&d->products);
    if (error)
        return error_set(d->base.context, INSET_DEVICE_ERROR,
            "cuda:%d: cuBLASLt does not start: %s", d->index,
            d->library.cublasLtGetStatusString(error));
    return cuda_allocate(&d->base, WORKSPACE_BYTES, &d->workspace);
}

inset_status device_open_cuda(inset_context *context, int index, device **out)
{
    cuda_device *d = memory_new(context, sizeof *d);
    *out = NULL;
    if (!d) return INSET_NO_MEMORY;
    d->base = (device){.context = context,
        .functions = &functions,
        .is_cuda = true,
        .index = index,
        .steady = true,
        .row_block = PRODUCT_TALLEST};
    d->index = index;
    snprintf(d->base.name, sizeof d->base.name, "cuda:%d", index);
    inset_status status;
    if ((status = find_device(d)) || (status = read_facts(d)) || (status = make_stream(d))
        || (status = cuda_tiles_open(d)) || (status = make_products(d))) {
        cuda_close(&d->base);
        return status;
    }
    *out = &d->base;
    return INSET_OK;
}

/* "13.0" of CUDA's 13000. */
static void add_version(inset_context *context, text *out, const char *name, int version)
{
    text_add(context, out, "%s %d.%d", name, version / 1000, version % 1000 / 10);
}

static void describe_opened(cuda_device *d, text *out)
{
    cuda_library *l = &d->library;
    inset_context *context = d->base.context;
    int runtime = 0, driver = 0;
    ignore(d, l->cudaRuntimeGetVersion(&runtime));
    ignore(d, l->cudaDriverGetVersion(&driver));
    size_t products = l->cublasLtGetVersion();
    text_add(context, out, "%s, %.1f GiB, %.1f free (", d->base.name,
        (double)d->base.memory_total / (1 << 30), (double)d->base.memory_free / (1 << 30));
    add_version(context, out, "CUDA", runtime);
    add_version(context, out, ", driver", driver);
    text_add(context, out, ", cuBLASLt %zu.%zu.%zu, ", products / 10000, products / 100 % 100,
        products % 100);
    cuda_attention_describe(d, out);
    text_add(context, out, ")\n");
}

int device_count_cuda(inset_context *context)
{
    cuda_library library = {0};
    int count = 0;
    if (cuda_library_open(context, &library)) return 0;
    if (library.cudaGetDeviceCount(&count)) {
        library.cudaGetLastError();
        count = 0;
    }
    cuda_library_close(&library);
    return count;
}

bool device_cuda_absent(inset_context *context)
{
    cuda_library library = {0};
    int count = 0, major = 0, driver = 0;
    if (cuda_library_open(context, &library)) return true;
    const int error = library.cudaGetDeviceCount(&count);
    if (error) library.cudaGetLastError();
    bool absent = error == CUDA_ERROR_NO_DEVICE || (!error && !count);
    if (error == CUDA_ERROR_OLD_DRIVER)
        absent = library.cudaDriverGetVersion(&driver) || driver == 0;
    if (!error && count)
        absent = !library.cudaDeviceGetAttribute(&major, CUDA_CAPABILITY_MAJOR, 0) && major < 8;
    cuda_library_close(&library);
    return absent;
}

void device_describe_cuda(inset_context *context, text *out)
{
    const int count = device_count_cuda(context);
    for (int index = 0; index < count; index++) {
        device *base = NULL;
        if (device_open_cuda(context, index, &base)) {
            text_add(context, out, "%s\n",
                context->sentence.length ? context->sentence.bytes
                                         : "cuda: out of memory on the host");
            continue;
        }
        describe_opened((cuda_device *)base, out);
        cuda_close(base);
    }
}
