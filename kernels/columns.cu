/* columns.cu: a few columns of the vocabulary projection: dot products of a row with just the rows
 * of the table that somebody asks for. One block a row; any block size. Bits of a result depend on
 * the row and the column alone. */
#include "kernels/fused.h"

namespace KERNEL_NAMESPACE {

template <typename T>
DEVICE void columns_row(const columns_args &a, int64_t row)
{
    const T *x = (const T *)a.x + (int64_t)(a.x_rows ? a.x_rows[row] : row) * a.x_stride;
    T *out = (T *)a.out + row * a.out_stride;
    for (int64_t j = 0; j < a.n_columns; j++) {
        const int64_t column = a.columns ? a.columns[j] : j;
        const T *w = (const T *)a.weight + column * a.width;
        float sum = block_sum_of((int)a.width, [=](int i) { return load(x[i]) * load(w[i]); });
        if (threadIdx.x == 0)
            out[j] = store<T>(a.bias ? sum + load(((const T *)a.bias)[column]) : sum);
    }
}
ROW_KERNEL(columns, columns_args)

void columns_entries(kernel_table *table)
{
    BOTH_ENTRIES(table, KERNEL_COLUMNS, columns_args, columns);
}

} // namespace KERNEL_NAMESPACE
