/* landing.c: downloads that the host does not wait for: pinned memory of their own and an event
 * behind the copy. */
#include "device/cuda/cuda.h"

struct device_landing {
    void *bytes; /* pinned; NULL until the first download */
    size_t size;
    cuda_event arrived;
    bool pending; /* `arrived` is recorded and nobody has waited for it */
};

static cuda_device *of(device *base) { return (cuda_device *)base; }

inset_status cuda_landing_create(device *base, device_landing **out)
{
    cuda_device *d = of(base);
    *out = NULL;
    inset_status status = cuda_enter(d);
    if (status) return status;
    device_landing *l = memory_new(base->context, sizeof *l);
    if (!l) return INSET_NO_MEMORY;
    int error = d->library.cudaEventCreateWithFlags(&l->arrived, CUDA_EVENT_NO_TIMING);
    if (error) {
        memory_free(base->context, l);
        return cuda_failed(d, error, "creating an event");
    }
    *out = l;
    return INSET_OK;
}

/* What is still under way into the memory is waited for; a failure there is not this call's to
 * tell. */
static void let_go(cuda_device *d, device_landing *l)
{
    if (l->pending && d->library.cudaEventSynchronize(l->arrived)) d->library.cudaGetLastError();
    if (l->bytes && d->library.cudaFreeHost(l->bytes)) d->library.cudaGetLastError();
    l->bytes = NULL;
    l->size = 0;
    l->pending = false;
}

void cuda_landing_free(device *base, device_landing *l)
{
    cuda_device *d = of(base);
    if (d->library.cudaSetDevice(d->index)) d->library.cudaGetLastError();
    let_go(d, l);
    if (d->library.cudaEventDestroy(l->arrived)) d->library.cudaGetLastError();
    memory_free(base->context, l);
}

static inset_status make_room(cuda_device *d, device_landing *l, size_t bytes)
{
    if (l->size >= bytes) return INSET_OK;
    let_go(d, l);
    int error = d->library.cudaMallocHost(&l->bytes, bytes);
    if (!error) {
        l->size = bytes;
        return INSET_OK;
    }
    l->bytes = NULL;
    if (error != CUDA_ERROR_MEMORY) return cuda_failed(d, error, "allocating pinned memory");
    d->library.cudaGetLastError();
    return error_set(d->base.context, INSET_NO_MEMORY,
        "%zu bytes of pinned host memory for results of cuda:%d cannot be had", bytes, d->index);
}

/* Where the copy is queued but its end cannot be marked, waiting for everything keeps the memory
 * from being used too early. */
static inset_status mark(cuda_device *d, device_landing *l)
{
    int error = d->library.cudaEventRecord(l->arrived, d->stream);
    if (!error) {
        l->pending = true;
        return INSET_OK;
    }
    inset_status status = cuda_failed(d, error, "marking the end of a copy");
    if (d->library.cudaStreamSynchronize(d->stream)) d->library.cudaGetLastError();
    return status;
}

inset_status cuda_landing_start(device *base, device_landing *l, const void *from, size_t bytes)
{
    const void *earlier;
    cuda_device *d = of(base);
    inset_status status = l->pending ? cuda_landing_wait(base, l, &earlier) : cuda_enter(d);
    if (!status) status = make_room(d, l, bytes);
    if (status) return status;
    int error = bytes ? d->library.cudaMemcpyAsync(
                    l->bytes, from, bytes, CUDA_DEVICE_TO_HOST, d->stream)
                      : 0;
    return error ? cuda_failed(d, error, "copying from the device") : mark(d, l);
}

inset_status cuda_landing_wait(device *base, device_landing *l, const void **at)
{
    cuda_device *d = of(base);
    inset_status status = cuda_enter(d);
    if (status) return status;
    if (l->pending) {
        int error = d->library.cudaEventSynchronize(l->arrived);
        if (error) return cuda_failed(d, error, "waiting for results");
    }
    l->pending = false;
    *at = l->bytes;
    return INSET_OK;
}
