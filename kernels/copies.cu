/* copies.cu: rows whose parts are there several times, for heads that stand alone: a copy of the
 * stream for each head, a key for each query head that reads it, and back, the sum of the copies.
 * One block a row; any block size. */
#include "kernels/grid.h"

namespace KERNEL_NAMESPACE {

template <typename T>
KERNEL(spread, copies_args a)
{
    const int64_t row = blockIdx.x, from = a.x_rows ? a.x_rows[row] : row;
    const T *x = (const T *)a.x + from * a.x_stride;
    T *out = (T *)a.out + row * a.out_stride;
    const int d = (int)a.width, block = a.part * a.copies;
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        const int part = i / block, column = i % block % a.part;
        out[i] = x[(int64_t)part * a.part + column];
    }
}

template <typename T>
KERNEL(fold, copies_args a)
{
    const int64_t row = blockIdx.x, from = a.x_rows ? a.x_rows[row] : row;
    const T *x = (const T *)a.x + from * a.x_stride, *bias = (const T *)a.bias;
    T *out = (T *)a.out + row * a.out_stride;
    const int d = (int)a.width;
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        const int part = i / a.part, column = i % a.part;
        const T *first = x + (int64_t)part * a.copies * a.part + column;
        float sum = 0.0f;
        for (int c = 0; c < a.copies; c++) sum += load(first[(int64_t)c * a.part]);
        out[i] = store<T>(sum + (bias ? load(bias[i]) : 0.0f));
    }
}

void copies_entries(kernel_table *table)
{
    KERNEL_ENTRIES(table, KERNEL_SPREAD, copies_args, spread);
    KERNEL_ENTRIES(table, KERNEL_FOLD, copies_args, fold);
}

} // namespace KERNEL_NAMESPACE
