/* slots.c: weights that come and go. A slot is device memory that one layer's weights are in after
 * another's: they are copied on a stream of their own, while products of other slots run.
 *
 *     copying stream   wait for `used` | copies ... | record `arrived`
 *     the device's     wait for `arrived` | products | record `used`
 *
 * Numbers go through two pinned buffers; they are converted there, by all threads, since one thread
 * does not keep up with the bus. */
#include "device/cuda/cuda.h"

#include <string.h>

enum { BUFFER_BYTES = 16 << 20, PIECE_BYTES = 1 << 18 };

struct device_slot {
    char *memory;
    size_t bytes;
    cuda_event used, arrived;
    bool was_used; /* `used` is recorded and the copying stream has not been told */
};

/* What all slots of a device copy through. */
struct cuda_copier {
    cuda_stream stream;
    staging_half buffers[2];
    int next;
    int slots; /* that there are */
};

static void ignore(cuda_device *d, int error)
{
    if (error) d->library.cudaGetLastError();
}

/* ---- the copier ---------------------------------------------------------- */

static void copier_close(cuda_device *d)
{
    cuda_copier *c = d->copier;
    if (!c) return;
    if (c->stream) ignore(d, d->library.cudaStreamSynchronize(c->stream));
    for (int i = 0; i < 2; i++) {
        if (c->buffers[i].done) ignore(d, d->library.cudaEventDestroy(c->buffers[i].done));
        if (c->buffers[i].bytes) ignore(d, d->library.cudaFreeHost(c->buffers[i].bytes));
    }
    if (c->stream) ignore(d, d->library.cudaStreamDestroy(c->stream));
    memory_free(d->base.context, c);
    d->copier = NULL;
}

static inset_status make_buffer(cuda_device *d, staging_half *b)
{
    void *bytes = NULL;
    int error = d->library.cudaEventCreateWithFlags(&b->done, CUDA_EVENT_NO_TIMING);
    if (error) return cuda_failed(d, error, "creating an event");
    if ((error = d->library.cudaMallocHost(&bytes, BUFFER_BYTES)))
        return cuda_failed(d, error, "allocating pinned memory for weights");
    b->bytes = bytes;
    return INSET_OK;
}

static inset_status copier_open(cuda_device *d)
{
    if (d->copier) return INSET_OK;
    cuda_copier *c = d->copier = memory_new(d->base.context, sizeof *c);
    if (!c) return INSET_NO_MEMORY;
    int error = d->library.cudaStreamCreateWithFlags(&c->stream, CUDA_STREAM_NON_BLOCKING);
    inset_status status = error ? cuda_failed(d, error, "creating a stream") : INSET_OK;
    for (int i = 0; i < 2 && !status; i++) status = make_buffer(d, &c->buffers[i]);
    if (status) copier_close(d);
    return status;
}

/* ---- slots --------------------------------------------------------------- */

void cuda_slot_free(device *base, device_slot *s)
{
    cuda_device *d = (cuda_device *)base;
    if (!s) return;
    ignore(d, d->library.cudaSetDevice(d->index));
    if (d->copier) ignore(d, d->library.cudaStreamSynchronize(d->copier->stream));
    cuda_release(base, s->memory, s->bytes); /* waits for what reads it */
    if (s->used) ignore(d, d->library.cudaEventDestroy(s->used));
    if (s->arrived) ignore(d, d->library.cudaEventDestroy(s->arrived));
    memory_free(base->context, s);
    if (d->copier && --d->copier->slots == 0) copier_close(d);
}

inset_status cuda_slot_create(device *base, size_t bytes, device_slot **out)
{
    cuda_device *d = (cuda_device *)base;
    *out = NULL;
    inset_status status = cuda_enter(d);
    if (!status) status = copier_open(d);
    if (status) return status;
    device_slot *s = memory_new(base->context, sizeof *s);
    if (!s) {
        if (!d->copier->slots) copier_close(d);
        return INSET_NO_MEMORY;
    }
    d->copier->slots++;
    s->bytes = bytes;
    void *memory = NULL;
    status = cuda_allocate(base, bytes, &memory);
    s->memory = memory;
    int error = status ? 0 : d->library.cudaEventCreateWithFlags(&s->used, CUDA_EVENT_NO_TIMING);
    if (!error && !status)
        error = d->library.cudaEventCreateWithFlags(&s->arrived, CUDA_EVENT_NO_TIMING);
    if (error) status = cuda_failed(d, error, "creating an event");
    if (status) cuda_slot_free(base, s);
    else *out = s;
    return status;
}

inset_status cuda_slot_used(device *base, device_slot *s)
{
    cuda_device *d = (cuda_device *)base;
    inset_status status = cuda_enter(d);
    int error = status ? 0 : d->library.cudaEventRecord(s->used, d->stream);
    s->was_used = true;
    return error ? cuda_failed(d, error, "marking the end of a layer") : status;
}

inset_status cuda_slot_arrive(device *base, device_slot *s)
{
    cuda_device *d = (cuda_device *)base;
    inset_status status = cuda_enter(d);
    int error = status ? 0 : d->library.cudaEventRecord(s->arrived, d->copier->stream);
    if (!error && !status) error = d->library.cudaStreamWaitEvent(d->stream, s->arrived, 0);
    return error ? cuda_failed(d, error, "waiting for weights") : status;
}

/* ---- matrices ------------------------------------------------------------ */

static void convert(inset_type type, char *to, inset_type from_type, const char *from, int64_t n)
{
    const int64_t piece = PIECE_BYTES / (int64_t)type_size(type);
#ifdef _OPENMP
#pragma omp parallel for schedule(static) if (n > 8 * piece)
#endif
    for (int64_t i = 0; i < n; i += piece) {
        const int64_t some = n - i < piece ? n - i : piece;
        char *at = to + (size_t)i * type_size(type);
        const char *source = from + (size_t)i * type_size(from_type);
        if (type == from_type) memcpy(at, source, (size_t)some * type_size(type));
        else elements_convert(type, at, from_type, source, some);
    }
}

/* The buffer that was given away longest ago, once its copy has run. */
static inset_status take_buffer(cuda_device *d, staging_half **out)
{
    cuda_copier *c = d->copier;
    staging_half *b = *out = &c->buffers[c->next];
    c->next = !c->next;
    int error = b->pending ? d->library.cudaEventSynchronize(b->done) : 0;
    b->pending = false;
    return error ? cuda_failed(d, error, "waiting for a copy of weights") : INSET_OK;
}

static inset_status send_piece(
    cuda_device *d, void *to, inset_type type, const void *from, inset_type from_type, int64_t n)
{
    staging_half *b;
    inset_status status = take_buffer(d, &b);
    if (status) return status;
    convert(type, b->bytes, from_type, from, n);
    int error = d->library.cudaMemcpyAsync(
        to, b->bytes, (size_t)n * type_size(type), CUDA_HOST_TO_DEVICE, d->copier->stream);
    if (!error) error = d->library.cudaEventRecord(b->done, d->copier->stream);
    b->pending = !error;
    return error ? cuda_failed(d, error, "copying weights to the device") : INSET_OK;
}

inset_status cuda_matrix_put(device *base, matrix *m, device_slot *s, size_t offset,
    const void *weight, inset_type weight_type)
{
    cuda_device *d = (cuda_device *)base;
    const size_t size = type_size(m->type), from_size = type_size(weight_type);
    const int64_t count = m->in * m->out, most = BUFFER_BYTES / (int64_t)size;
    inset_status status = cuda_enter(d);
    int error = 0;
    if (!status && s->was_used)
        error = d->library.cudaStreamWaitEvent(d->copier->stream, s->used, 0);
    if (error) return cuda_failed(d, error, "waiting for a layer");
    s->was_used = false;
    for (int64_t done = 0; done < count && !status; done += most)
        status = send_piece(d, s->memory + offset + (size_t)done * size, m->type,
            (const char *)weight + (size_t)done * from_size, weight_type,
            count - done < most ? count - done : most);
    m->weight = s->memory + offset;
    return status;
}

int64_t cuda_matrix_room(const matrix *m) { return m->in * m->out * (int64_t)type_size(m->type); }
