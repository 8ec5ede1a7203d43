/* tile_shapes.h: how the tiled attention kernel cuts its work: what a launch of it needs to know.
 * Plain C, for whoever launches it and for the kernel itself.
 *
 * A block works on one key-value head and on rows_per_block rows that follow each other. The query
 * heads of that key-value head lie below each other in a tile of TILE_ROWS: tile row = row in the
 * block * heads + head. Where one key-value head has more than TILE_ROWS query heads, they are cut
 * in equal parts, each with blocks of its own. */
#ifndef INSET_TILE_SHAPES_H
#define INSET_TILE_SHAPES_H

#include "kernels/kernels.h"

#ifdef __CUDACC__
#define ON_BOTH __host__ __device__
#else
#define ON_BOTH
#endif

enum { TILE_ROWS = 64, TILE_KEYS = 64, TILE_THREADS = 128 }; /* threads: of a block on a GPU */

/* Parts that the query heads of a key-value head are cut in, and heads of a part (the last may have
 * fewer). */
ON_BOTH static inline int tile_attention_parts(const attention_args *a)
{
    return (a->n_heads / a->n_kv_heads + TILE_ROWS - 1) / TILE_ROWS;
}
ON_BOTH static inline int tile_attention_heads(const attention_args *a)
{
    const int parts = tile_attention_parts(a);
    return (a->n_heads / a->n_kv_heads + parts - 1) / parts;
}

/* Rows that a block can take. */
ON_BOTH static inline int tile_attention_most_rows(const attention_args *a)
{
    return TILE_ROWS / tile_attention_heads(a);
}

ON_BOTH static inline int64_t tile_attention_blocks(const tile_attention_args *a)
{
    const int64_t row_blocks = (a->attention.n_rows + a->rows_per_block - 1) / a->rows_per_block;
    return row_blocks * a->attention.n_kv_heads * tile_attention_parts(&a->attention);
}

/* Columns of a head that the kernel for heads of head_dim (1 .. 256) has room for, and which kernel
 * that is. */
ON_BOTH static inline int tile_attention_width(int head_dim)
{
    return head_dim <= 64 ? 64 : head_dim <= 128 ? 128 : 256;
}
ON_BOTH static inline kernel_id tile_attention_kernel(int head_dim)
{
    return head_dim <= 64    ? KERNEL_TILE_ATTENTION_64
           : head_dim <= 128 ? KERNEL_TILE_ATTENTION_128
                             : KERNEL_TILE_ATTENTION_256;
}

/* Elements from one row of a tile in shared memory to the next: 16 bytes more than a row has, so
 * that eight rows at one column lie in different banks. */
#define TILE_STRIDE(width, element_bytes) ((width) + 16 / (element_bytes))
/* of fp32 weights: four rows at one column lie in different banks, 8 apart */
enum { WEIGHT_STRIDE = TILE_KEYS + 8 };

/* Queries, keys and values of a block; in fp32 keys and values take turns in one place, and the
 * weights lie there too. */
#define TILE_BYTES(width, element_bytes) \
    (TILE_ROWS * TILE_STRIDE(width, element_bytes) * (element_bytes))
#define TILE_SHARED_BYTES(width, element_bytes)                                      \
    ((element_bytes) == 4 ? 2 * TILE_BYTES(width, 4) + TILE_ROWS * WEIGHT_STRIDE * 4 \
                          : 3 * TILE_BYTES(width, element_bytes))

/* Dynamic shared memory of a launch. type: an inset_type, 0 f32, 1 bf16, 2 f16. */
ON_BOTH static inline int tile_attention_shared_bytes(int type, int head_dim)
{
    const int width = tile_attention_width(head_dim);
    return type == 0 ? TILE_SHARED_BYTES(width, 4) : TILE_SHARED_BYTES(width, 2);
}

#endif
