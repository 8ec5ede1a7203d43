/* tiles.c: attention by tiles (kernels/tile_attention.cu) in place of KERNEL_ATTENTION: its grid,
 * its shared memory, and whether the card can do it.
 *
 * Which kernel it is depends on the type, the width of the heads and the card, never on how many
 * rows there are: a row's bits must not. */
#include "device/cuda/cuda.h"
#include "kernels/tile_shapes.h"

#include <string.h>

/* what needs no asking; what the kernel declares itself, at most */
enum { PLAIN_SHARED_BYTES = 48 << 10, FIXED_SHARED_BYTES = 4 << 10 };

inset_status cuda_tiles_open(cuda_device *d)
{
    static const int widths[] = {64, 128, 256};
    int error = 0;
    for (int w = 0; w < 3; w++)
        for (int type = 0; type < KERNEL_TYPES && !error; type++) {
            kernel_entry *entry = &d->kernels.entry[tile_attention_kernel(widths[w])][type];
            const int bytes = tile_attention_shared_bytes(type, widths[w]);
            if (bytes + FIXED_SHARED_BYTES > d->shared_bytes) *entry = NULL;
            if (*entry && bytes > PLAIN_SHARED_BYTES)
                error = d->library.allow_shared(*entry, (size_t)bytes);
        }
    return error ? cuda_failed(d, error, "asking for shared memory") : INSET_OK;
}

/* As many rows a block as there is room for, fewer where a launch would leave multiprocessors
 * without work; but not so few that a tile of 16 is not full. */
static void choose_rows(const cuda_device *d, tile_attention_args *t)
{
    const int heads = tile_attention_heads(&t->attention);
    int32_t *rows = &t->rows_per_block;
    *rows = tile_attention_most_rows(&t->attention);
    while (*rows > 1 && *rows * heads > 16
           && tile_attention_blocks(t) < 8 * (int64_t)d->multiprocessors)
        *rows = (*rows + 1) / 2;
}

bool cuda_tiles_launch(
    cuda_device *d, inset_type type, const void *args, bool with_records, int *error)
{
    tile_attention_args tiles;
    const attention_args *a = with_records
                                  ? (const void *)((const char *)args + sizeof(fused_records))
                                  : args;
    kernel_entry entry = d->kernels.entry[tile_attention_kernel(a->head_dim)][type];
    if (!entry) return false;
    memset(&tiles, 0, sizeof tiles);
    if (with_records) memcpy(&tiles.fused, args, sizeof tiles.fused);
    tiles.attention = *a;
    choose_rows(d, &tiles);
    const size_t bytes = (size_t)tile_attention_shared_bytes((int)type, a->head_dim);
    *error = d->library.launch(entry, &tiles, sizeof tiles, (unsigned)tile_attention_blocks(&tiles),
        TILE_THREADS, bytes, d->stream);
    return true;
}
