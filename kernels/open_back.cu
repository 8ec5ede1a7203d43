/* open_back.cu: gradients through what is in the open: scores, patterns, and what a norm divides
 * by. The formulas are back.cu's, a step each. Any block size. */
#include "kernels/grid.h"
#include "kernels/math.h"

namespace KERNEL_NAMESPACE {

/* Of a softmax, part by part of a row: out = x (dy - sum x dy). Of scores (scaled): out = dy scale
 * (1 - (x / softcap)^2), and 0 where the score is masked. block = row. */
template <typename T>
KERNEL(softmax_back, softmax_back_args a)
{
    const int64_t row = blockIdx.x;
    for (int64_t g = 0; g < a.groups; g++) {
        const T *x = (const T *)a.x + row * a.x_stride + g * a.n_columns;
        const T *dy = (const T *)a.dy + row * a.dy_stride + g * a.n_columns;
        T *out = (T *)a.out + row * a.out_stride + g * a.n_columns;
        const float sum = a.scaled ? 0.0f : block_sum_of((int)a.n_columns, [=](int j) {
            return load(x[j]) * load(dy[j]);
        });
        for (int64_t j = threadIdx.x; j < a.n_columns; j += blockDim.x) {
            const float at = load(x[j]), t = a.softcap > 0.0f ? at / a.softcap : 0.0f;
            const float slope = at == -INFINITE ? 0.0f : load(dy[j]) * a.scale * (1.0f - t * t);
            out[j] = store<T>(a.scaled ? slope : at * (load(dy[j]) - sum));
        }
    }
}

/* The transpose of KERNEL_MIX, for the keys j of one sequence: block = j. */
template <typename T>
KERNEL(mix_back, mix_back_args a)
{
    const int64_t key = blockIdx.x;
    const int heads = a.n_heads / a.n_kv_heads, width = a.n_kv_heads * a.head_dim;
    T *out = (T *)a.out + key * a.out_stride;
    float *sums = a.scratch + key * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        const int group = i / a.head_dim, column = i % a.head_dim;
        float sum = a.first ? 0.0f : sums[i];
        for (int64_t r = 0; r < a.n_rows; r++) {
            const T *x = (const T *)a.x + a.x_rows[r] * a.x_stride + column;
            const T *pattern = (const T *)a.pattern + r * a.pattern_stride + key;
            for (int h = group * heads; h < (group + 1) * heads; h++)
                sum += load(pattern[h * a.n_columns]) * load(x[(int64_t)h * a.head_dim]);
        }
        sums[i] = sum;
        if (a.last) out[i] = store<T>(sum);
    }
}

/* What a norm divides by, in the open: d/ds of w (x - mean) / s is -w (x - mean) / s^2, summed over
 * a part. block = row. */
template <typename T>
KERNEL(divisor_back, divisor_back_args a)
{
    const int64_t row = blockIdx.x;
    const T *x = (const T *)a.x + (a.x_rows ? a.x_rows[row] : row) * a.x_stride;
    const T *dy = (const T *)a.dy + (a.dy_rows ? a.dy_rows[row] : row) * a.dy_stride;
    const T *scale = (const T *)a.scale + (a.scale_rows ? a.scale_rows[row] : row) * a.scale_stride;
    const T *weight = (const T *)a.weight;
    const int d = (int)(a.width / a.groups);
    const float one = a.plus_one ? 1.0f : 0.0f;
    for (int64_t g = 0; g < a.groups; g++) {
        const T *part = x + g * d, *back = dy + g * d;
        const float mean = a.centred
                               ? block_sum_of(d, [=](int i) { return load(part[i]); }) / (float)d
                               : 0.0f;
        const float s = load(scale[g]);
        const float sum = block_sum_of(d, [=](int i) {
            return load(back[i]) * (weight ? one + load(weight[i]) : 1.0f) * (load(part[i]) - mean);
        });
        if (threadIdx.x == 0) ((T *)a.out + row * a.out_stride)[g] = store<T>(-sum / (s * s));
    }
}

/* s = sqrt(mean (x - mean)^2 + eps): ds/dx = (x - mean) / (d s), of each part. block = row. */
template <typename T>
KERNEL(norm_scale_back, norm_back_args a)
{
    const int64_t row = blockIdx.x;
    const T *x = (const T *)a.x + (a.x_rows ? a.x_rows[row] : row) * a.x_stride;
    const T *ds = (const T *)a.dy + (a.dy_rows ? a.dy_rows[row] : row) * a.dy_stride;
    const int d = (int)(a.width / a.groups);
    for (int64_t g = 0; g < a.groups; g++) {
        const T *part = x + g * d;
        T *out = (T *)a.out + row * a.out_stride + g * d;
        const float mean = a.centred
                               ? block_sum_of(d, [=](int i) { return load(part[i]); }) / (float)d
                               : 0.0f;
        const float square = block_sum_of(d, [=](int i) {
            const float c = load(part[i]) - mean;
            return c * c;
        }) / (float)d;
        const float factor = load(ds[g]) / ((float)d * square_root(square + a.eps));
        for (int i = threadIdx.x; i < d; i += blockDim.x)
            out[i] = store<T>((load(part[i]) - mean) * factor);
    }
}

void open_back_entries(kernel_table *table)
{
    KERNEL_ENTRIES(table, KERNEL_SOFTMAX_BACK, softmax_back_args, softmax_back);
    KERNEL_ENTRIES(table, KERNEL_MIX_BACK, mix_back_args, mix_back);
    KERNEL_ENTRIES(table, KERNEL_DIVISOR_BACK, divisor_back_args, divisor_back);
    KERNEL_ENTRIES(table, KERNEL_NORM_SCALE_BACK, norm_back_args, norm_scale_back);
}

} // namespace KERNEL_NAMESPACE
