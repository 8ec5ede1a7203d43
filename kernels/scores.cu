/* scores.cu: attention in the open, for rows whose scores or pattern somebody looks at or sets:
 * scores, their softmax, and the mix of the values. The fused kernel of attention.cu serves
 * everybody else. One block a row (scores: a row and a head); any block size. */
#include "kernels/grid.h"
#include "kernels/math.h"

namespace KERNEL_NAMESPACE {

/* out[r, h, j]: block = r * n_heads + h. */
template <typename T>
KERNEL(scores, scores_args a)
{
    const int64_t row = blockIdx.x / a.n_heads;
    const int head = (int)(blockIdx.x % a.n_heads), group = head / (a.n_heads / a.n_kv_heads);
    const int64_t position = a.first_position + row,
                  oldest = a.window > 0 ? position - a.window + 1 : 0;
    const T *q = (const T *)a.q + (int64_t)(a.q_rows ? a.q_rows[row] : row) * a.q_stride
                 + (int64_t)head * a.head_dim;
    T *out = (T *)a.out + row * a.out_stride + (int64_t)head * a.n_columns;
    for (int64_t j = 0; j < a.n_columns; j++) {
        if (j > position || j >= a.n_keys || j < oldest) {
            if (threadIdx.x == 0) out[j] = store<T>(a.masked);
            continue;
        }
        const T *k = (const T *)a.k + (int64_t)a.key_rows[j] * a.k_stride
                     + (int64_t)group * a.head_dim;
        float sum = block_sum_of(a.head_dim, [=](int i) { return load(q[i]) * load(k[i]); });
        if (a.slopes)
            sum = load(store<T>(sum * a.scale + load(store<T>(a.slopes[head] * (float)(int)j))));
        else sum = load(store<T>(load(store<T>(sum)) * a.scale));
        if (a.softcap > 0.0f)
            sum = load(store<T>(
                load(store<T>(hyperbolic_tangent(load(store<T>(sum / a.softcap))))) * a.softcap));
        if (threadIdx.x == 0) out[j] = store<T>(sum);
    }
}

/* Each of `groups` parts of n_columns of a row on its own: exp(x - max) / sum over its first
 * n_keys, in fp32, rounded once; then zeros. block = row. */
template <typename T>
ROOMY_KERNEL(softmax, softmax_args a, 8)
{
    const int64_t row = blockIdx.x;
    for (int64_t g = 0; g < a.groups; g++) {
        const T *x = (const T *)a.x + row * a.x_stride + g * a.n_columns;
        T *out = (T *)a.out + row * a.out_stride + g * a.n_columns;
        float largest = -INFINITE, nan = 0.0f;
        for (int64_t j = threadIdx.x; j < a.n_keys; j += blockDim.x) {
            const float y = load(x[j]);
            largest = y > largest ? y : largest;
            nan += y != y ? 1.0f : 0.0f;
        }
        largest = block_max(largest);
        nan = block_sum(nan);
        if (a.sinks) largest = maximum(load(((const T *)a.sinks)[g]), largest);
        /* all -inf: -inf - -inf is NaN, as in PyTorch */
        const float shift = nan > 0.0f ? largest - largest : largest;
        const float sink = a.sinks ? exponential(load(((const T *)a.sinks)[g]) - shift) : 0.0f;
        const float sum = sink + block_sum_of((int)a.n_keys, [=](int j) {
            return exponential(load(x[j]) - shift);
        });
        for (int64_t j = threadIdx.x; j < a.n_columns; j += blockDim.x)
            out[j] = store<T>(j < a.n_keys ? exponential(load(x[j]) - shift) / sum : 0.0f);
    }
}

/* out[r, h, :] = sum over keys j of pattern[r, h, j] * v[value_rows[j], group of h, :]. block =
 * row. */
template <typename T>
KERNEL(mix, mix_args a)
{
    const int64_t row = blockIdx.x;
    for (int i = threadIdx.x; i < a.n_heads * a.head_dim; i += blockDim.x) {
        const int head = i / a.head_dim,
                  column = head / (a.n_heads / a.n_kv_heads) * a.head_dim + i % a.head_dim;
        const T *pattern = (const T *)a.pattern + row * a.pattern_stride
                           + (int64_t)head * a.n_columns;
        float sum = 0.0f;
        for (int64_t j = 0; j < a.n_keys; j++)
            sum += load(pattern[j])
                   * load(((const T *)a.v)[(int64_t)a.value_rows[j] * a.v_stride + column]);
        ((T *)a.out)[row * a.out_stride + i] = store<T>(sum);
    }
}

void scores_entries(kernel_table *table)
{
    KERNEL_ENTRIES(table, KERNEL_SCORES, scores_args, scores);
    KERNEL_ENTRIES(table, KERNEL_SOFTMAX, softmax_args, softmax);
    KERNEL_ENTRIES(table, KERNEL_MIX, mix_args, mix);
}

} // namespace KERNEL_NAMESPACE
