/* grouped.c: products of rows sorted by their matrices (kernels/grouped.cu). A launch takes so many
 * matrices as its arguments have room for; what rows they have is on the device, so the grid is
 * made for the most. No descriptor, no workspace: they can be captured as they are. */
#include "device/cuda/cuda.h"
#include "kernels/tile_shapes.h"

#include <limits.h>
#include <string.h>

static inset_status launch_some(cuda_device *d, const matrix *const *group, int32_t n,
    const int32_t *offsets, const void *x, void *y, int64_t most)
{
    const matrix *first = group[0];
    const int64_t columns = GROUPED_COLUMNS((int)type_size(first->type)),
                  across = (first->out + columns - 1) / columns,
                  blocks = across * ((most + GROUPED_ROWS - 1) / GROUPED_ROWS + n);
    if (blocks > INT_MAX)
        return error_set(d->base.context, INSET_DEVICE_ERROR,
            "%s: a launch of %lld blocks; a grid has at most %d", d->base.name, (long long)blocks,
            INT_MAX);
    grouped_args args;
    memset(&args, 0, sizeof args);
    args.y = y, args.x = x, args.offsets = offsets;
    args.in = first->in, args.out = first->out;
    args.n = n, args.in_out = first->in_out;
    for (int32_t i = 0; i < n; i++) {
        args.weights[i] = group[i]->weight;
        args.biases[i] = group[i]->bias;
    }
    kernel_entry entry = d->kernels.entry[KERNEL_GROUPED_PRODUCT][first->type];
    int error = d->library.launch(
        entry, &args, sizeof args, (unsigned)blocks, TILE_THREADS, 0, d->stream);
    return error ? cuda_failed(d, error, "launching a grouped product") : INSET_OK;
}

inset_status cuda_matmul_group(device *base, const matrix *const *group, int32_t n,
    const int32_t *offsets, const void *x, void *y, int64_t most)
{
    cuda_device *d = (cuda_device *)base;
    inset_status status = cuda_enter(d);
    for (int32_t i = 0; i < n && !status; i += GROUPED_MATRICES)
        status = launch_some(d, group + i, n - i < GROUPED_MATRICES ? n - i : GROUPED_MATRICES,
            offsets + i, x, y, most);
    return status;
}
