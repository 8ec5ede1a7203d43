/* table.h: the table kernel x storage type -> function that each compilation of the kernels fills.
 *
 * Plain C for whoever launches kernels. There is one fill function a compilation, named after its
 * namespace:
 *     kernels_baseline_fill, kernels_avx2_fill, kernels_avx512_fill     entries are kernel_blocks
 *     functions
 *     kernels_threads_fill (tests)                                      the same, each block run by
 *     real threads
 *     kernels_cuda_fill                                                 entries are what
 *     cudaLaunchKernel takes as its function; the one kernel
 *                                                                       parameter is the args
 *                                                                       struct by value, grid
 *                                                                       (blocks, 1, 1), any block
 *                                                                       (n, 1, 1) with n a multiple
 *                                                                       of 32 up to 1024, no
 *                                                                       dynamic shared memory; but
 *                                                                       KERNEL_TILE_ATTENTION_.. as
 *                                                                       tile_shapes.h says */
#ifndef INSET_KERNEL_TABLE_H
#define INSET_KERNEL_TABLE_H

#include "kernels/kernels.h"

/* the most that a block is launched with on a GPU: registers are shared out for it */
enum { KERNEL_THREADS = 256 };
enum { KERNEL_TYPES = 3 }; /* f32, bf16, f16: the values of inset_type */

/* Runs the blocks first .. end - 1. */
typedef void kernel_blocks(const void *args, int64_t first, int64_t end);

/* Cast to kernel_blocks * or, for CUDA, to const void *. */
typedef void (*kernel_entry)(void);

typedef struct kernel_table {
    /* KERNEL_EXPAND and what follows it: column 0 only, the others are NULL */
    kernel_entry entry[KERNEL_ALL][KERNEL_TYPES];
} kernel_table;

#ifdef __cplusplus
extern "C" {
#endif
void kernels_baseline_fill(kernel_table *table);
void kernels_avx2_fill(kernel_table *table);
void kernels_avx512_fill(kernel_table *table);
void kernels_threads_fill(kernel_table *table);
void kernels_cuda_fill(kernel_table *table);
#ifdef __cplusplus
}
#endif

#endif
