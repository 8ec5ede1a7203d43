/* embed.cu: rows copied whole from a table, by token id (embed) or by row number (gather). One
 * block a row; any block size. */
#include "kernels/fused.h"
#include "kernels/packs.h"

namespace KERNEL_NAMESPACE {

template <typename T>
DEVICE void copy_row(T *RESTRICT out, const T *RESTRICT x, int d)
{
    const int size = packed<T>::SIZE;
    if (moves_sixteen() && is_wide(out) && is_wide(x) && d % size == 0) {
        for (int i = threadIdx.x; i < d / size; i += blockDim.x)
            ((sixteen *)out)[i] = ((const sixteen *)x)[i];
        return;
    }
    for (int i = threadIdx.x; i < d; i += blockDim.x) out[i] = x[i];
}

template <typename T>
DEVICE void embed_row(const embed_args &a, int64_t row)
{
    copy_row(
        (T *)a.out + row * a.out_stride, (const T *)a.table + a.ids[row] * a.width, (int)a.width);
}
ROW_KERNEL(embed, embed_args)

template <typename T>
KERNEL(gather, gather_args a)
{
    const int64_t row = blockIdx.x;
    copy_row((T *)a.out + row * a.out_stride,
        (const T *)a.x + (int64_t)(a.x_rows ? a.x_rows[row] : row) * a.x_stride, (int)a.width);
}

void embed_entries(kernel_table *table)
{
    BOTH_ENTRIES(table, KERNEL_EMBED, embed_args, embed);
    KERNEL_ENTRIES(table, KERNEL_GATHER, gather_args, gather);
}

} // namespace KERNEL_NAMESPACE
