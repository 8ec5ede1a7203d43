/* edges.cu: what scores of edges need besides products: differences and gradients of single heads
 * through a norm, and weights as fp32. Any block size.
 *
 * With x^ = (x - mean) / s and P v = v - mean(v) - x^ mean(v x^) (without the means where the norm
 * is not centred), a small difference v of x becomes w P v / s behind the norm, and a gradient v
 * of what the norm makes becomes P (w v) / s before it: back.cu's formula, for many v of one x. */
#include "kernels/grid.h"
#include "kernels/math.h"

namespace KERNEL_NAMESPACE {

/* One v. `inverse` is 1 / s. */
template <typename T>
DEVICE void through_norm_row(const through_norm_args &a, float *out, const float *v, const float *x,
    float mean, float inverse)
{
    const T *weight = (const T *)a.weight;
    const int d = (int)a.width;
    const float one = a.plus_one ? 1.0f : 0.0f;
    const bool before = weight && !a.forward;
    const float mean_v = !a.centred ? 0.0f : block_sum_of(d, [=](int i) {
        return v[i] * (before ? one + load(weight[i]) : 1.0f);
    }) / (float)d;
    const float along = a.constant_scale ? 0.0f : block_sum_of(d, [=](int i) {
        return v[i] * (before ? one + load(weight[i]) : 1.0f) * ((x[i] - mean) * inverse);
    }) / (float)d;
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        const float w = weight ? one + load(weight[i]) : 1.0f, h = v[i] * (before ? w : 1.0f),
                    made = (h - mean_v - (x[i] - mean) * inverse * along) * inverse
                           * (before ? 1.0f : w) * a.share;
        out[i] = a.add ? out[i] + made : made;
    }
}

/* block = a row of x and some heads. */
template <typename T>
KERNEL(through_norm, through_norm_args a)
{
    const int64_t row = blockIdx.x % a.n_rows;
    const int first = (int)(blockIdx.x / a.n_rows) * a.heads_a_block,
              end = first + a.heads_a_block < a.n_heads ? first + a.heads_a_block : a.n_heads,
              d = (int)a.width;
    const float *x = a.x ? a.x + row * a.width : nullptr;
    const float mean = x && a.centred ? block_sum_of(d, [=](int i) { return x[i]; }) / (float)d
                                      : 0.0f;
    const float square = x ? block_sum_of(d,
                                 [=](int i) {
                                     const float c = x[i] - mean;
                                     return c * c;
                                 })
                                 / (float)d
                           : 0.0f;
    for (int h = first; h < end; h++) {
        const float *v = a.v + (h * a.n_rows + row) * a.width;
        float *out = a.out + (h * a.n_rows + row) * a.width;
        if (x) through_norm_row<T>(a, out, v, x, mean, 1.0f / square_root(square + a.eps));
        else
            for (int i = threadIdx.x; i < d; i += blockDim.x)
                out[i] = a.add ? out[i] + v[i] * a.share : v[i] * a.share;
    }
}

template <typename T>
KERNEL(widen, widen_args a)
{
    const int64_t first = blockIdx.x * (int64_t)WIDEN_A_BLOCK, left = a.count - first;
    const int n = left < WIDEN_A_BLOCK ? (int)left : (int)WIDEN_A_BLOCK;
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        a.out[first + i] = load(((const T *)a.x)[first + i]);
}

void edges_entries(kernel_table *table)
{
    KERNEL_ENTRIES(table, KERNEL_THROUGH_NORM, through_norm_args, through_norm);
    KERNEL_ENTRIES(table, KERNEL_WIDEN, widen_args, widen);
}

} // namespace KERNEL_NAMESPACE
