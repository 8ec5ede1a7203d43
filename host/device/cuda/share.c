/* share.c: memory of the GPU that outlives the device, and numbers that others make on their own
 * streams. */
#include "device/cuda/cuda.h"

#include <stdlib.h>

typedef struct shared_memory {
    int (*free)(void *memory); /* cudaFree, which needs no device to be chosen */
    void *data;
} shared_memory;

static void release_shared(void *owner)
{
    shared_memory *s = owner;
    s->free(s->data);
    free(s);
}

inset_status cuda_share(device *base, size_t bytes, device_share *out)
{
    shared_memory *s = malloc(sizeof *s); /* not from the context, which it may outlive */
    if (!s) return error_no_memory(base->context);
    s->free = ((cuda_device *)base)->library.cudaFree;
    inset_status status = cuda_allocate(base, bytes, &s->data);
    if (status) free(s);
    else *out = (device_share){s->data, s, release_shared};
    return status;
}

inset_status cuda_wait_for(device *base, void *stream)
{
    cuda_device *d = (cuda_device *)base;
    inset_status status = cuda_enter(d);
    if (status) return status;
    int error = d->library.cudaStreamSynchronize((cuda_stream)stream);
    return error ? cuda_failed(d, error, "waiting for the stream of a tensor") : INSET_OK;
}
