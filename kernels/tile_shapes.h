/* tile_shapes.h: how attention by tiles (tile_attention.cu) is launched: what the kernel and whoever launches it must agree on. Plain C. */
#ifndef INSET_TILE_SHAPES_H
#define INSET_TILE_SHAPES_H

#include "kernels/kernels.h"

enum { TILE_THREADS = 128, TILE_MOST_ROWS = 64 /* (row, head) pairs of a block */ };

#ifdef __CUDACC__
#define TILE_SHAPE __host__ __device__ static inline
#else
#define TILE_SHAPE static inline
#endif

/* The width that shared memory has for a head of head_dim columns, and the kernel for it. */
static inline int tile_width(int head_dim) { return head_dim <= 64 ? 64 : head_dim <= 128 ? 128 : 256; }
static inline kernel_id tile_kernel(int head_dim)
{
    return head_dim <= 64 ? KERNEL_TILE_ATTENTION_64 : head_dim <= 128 ? KERNEL_TILE_ATTENTION_128 : KERNEL_TILE_ATTENTION_256;
}

/* Bytes of shared memory of a block: queries, keys and values, 64 rows each, with 16 bytes between rows. */
#define TILE_BYTES(width, element_size) (3 * TILE_MOST_ROWS * ((width) * (int)(element_size) + 16))

/* Query heads of a block, of the `group` that share a key-value head. */
TILE_SHAPE int tile_heads(int group) { return group < TILE_MOST_ROWS ? group : TILE_MOST_ROWS; }

/* The most rows of a block. */
static inline int32_t tile_rows(const attention_args *a) { return TILE_MOST_ROWS / tile_heads(a->n_heads / a->n_kv_heads); }

static inline int64_t tile_blocks(const attention_args *a, int32_t rows_per_block)
{
    const int group = a->n_heads / a->n_kv_heads, heads = tile_heads(group);
    return (a->n_rows + rows_per_block - 1) / rows_per_block * a->n_kv_heads * ((group + heads - 1) / heads);
}

#endif
