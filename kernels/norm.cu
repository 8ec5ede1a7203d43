/* norm.cu: layernorm, rmsnorm, and the residual add fused with the norm that follows it.
 *
 * One block a row; any block size. Rows need no alignment. Statistics are fp32 and taken in two
 * passes over the row (the second sums squared deviations), as accurate as PyTorch's; a thread
 * keeps its part of the row in registers between them (packs.h), a block of one thread finds it in
 * the nearest cache. The fused kernels call the same functions on the rounded sum, so that their
 * bits are those of the two kernels one after the other. */
#include "kernels/fused.h"
#include "kernels/packs.h"

namespace KERNEL_NAMESPACE {

template <typename T>
DEVICE void normalise_packs(T *out, const held_row<T> &x, const T *weight, const T *bias, float eps)
{
    const int d = x.d;
    const float mean = sum_of(x, [](float v) { return v; }) / (float)d;
    const float variance = sum_of(x, [=](float v) { return (v - mean) * (v - mean); }) / (float)d;
    const float scale = 1.0f / square_root(variance + eps);
    const bool out_wide = is_wide(out), weight_wide = is_wide(weight), bias_wide = is_wide(bias);
    each_pack(x, [&](int i, const pack<T> &p) {
        pack<T> y = p, w, b;
        if (weight) w = read_pack(weight, i, d, weight_wide);
        if (bias) b = read_pack(bias, i, d, bias_wide);
        UNROLLED for (int e = 0; e < packed<T>::SIZE; e++)
            y.x[e] = (p.x[e] - mean) * scale * (weight ? w.x[e] : 1.0f) + (bias ? b.x[e] : 0.0f);
        write_pack(out, i, d, out_wide, y);
    });
}

template <typename T>
DEVICE void normalise_row(
    T *RESTRICT out, const T *x, const T *RESTRICT weight, const T *RESTRICT bias, int d, float eps)
{
    if (moves_sixteen()) {
        held_row<T> row;
        hold(row, x, d);
        normalise_packs(out, row, weight, bias, eps);
        return;
    }
    const float mean = block_sum_of(d, [=](int i) { return load(x[i]); }) / (float)d;
    const float variance = block_sum_of(d, [=](int i) {
        float c = load(x[i]) - mean;
        return c * c;
    }) / (float)d;
    const float scale = 1.0f / square_root(variance + eps);

    if (weight && bias)
        for (int i = threadIdx.x; i < d; i += blockDim.x)
            out[i] = store<T>((load(x[i]) - mean) * scale * load(weight[i]) + load(bias[i]));
    else
        for (int i = threadIdx.x; i < d; i += blockDim.x)
            out[i] = store<T>((load(x[i]) - mean) * scale * (weight ? load(weight[i]) : 1.0f)
                              + (bias ? load(bias[i]) : 0.0f));
}

template <typename T>
DEVICE void layernorm_row(const layernorm_args &a, int64_t row)
{
    const int64_t from = a.x_rows ? a.x_rows[row] : row;
    const int d = (int)(a.width / a.groups);
    for (int64_t group = 0; group < a.groups; group++)
        normalise_row((T *)a.out + row * a.out_stride + group * d,
            (const T *)a.x + from * a.x_stride + group * d, (const T *)a.weight, (const T *)a.bias,
            d, a.eps);
}
ROW_KERNEL(layernorm, layernorm_args)

/* The sum that a fused kernel starts with; returns where its row is. Each thread reads back only
 * what it wrote: the loops of the norms take the same packs, or elements. */
template <typename T, typename A>
DEVICE const T *add_row(const A &args, int64_t row)
{
    const T *RESTRICT a = (const T *)args.a
                          + (int64_t)(args.a_rows ? args.a_rows[row] : row) * args.a_stride;
    const T *RESTRICT b = (const T *)args.b
                          + (int64_t)(args.b_rows ? args.b_rows[row] : row) * args.b_stride;
    T *out = (T *)args.out + row * args.out_stride;
    const int d = (int)args.width;
    if (moves_sixteen()) {
        map_packs(out, a, b, (const T *)nullptr, d, [](float x, float y, float) { return x + y; });
        return out;
    }
    for (int i = threadIdx.x; i < d; i += blockDim.x) out[i] = store<T>(load(a[i]) + load(b[i]));
    return out;
}

template <typename T>
DEVICE void add_layernorm_row(const add_layernorm_args &a, int64_t row)
{
    normalise_row((T *)a.norm + row * a.norm_stride, add_row<T>(a, row), (const T *)a.weight,
        (const T *)a.bias, (int)a.width, a.eps);
}
ROW_KERNEL(add_layernorm, add_layernorm_args)

template <typename T>
DEVICE void rms_normalise_packs(
    T *out, const held_row<T> &x, const T *weight, float eps, bool plus_one, bool round_once)
{
    const int d = x.d;
    const float scale = 1.0f
                        / square_root(sum_of(x, [](float v) { return v * v; }) / (float)d + eps),
                one = plus_one ? 1.0f : 0.0f;
    const bool out_wide = is_wide(out), weight_wide = is_wide(weight),
               rounds = !plus_one && !round_once;
    each_pack(x, [&](int i, const pack<T> &p) {
        pack<T> y, w = read_pack(weight, i, d, weight_wide);
        UNROLLED for (int e = 0; e < packed<T>::SIZE; e++)
            y.x[e] = rounds ? load(store<T>(p.x[e] * scale)) * w.x[e]
                            : p.x[e] * scale * (one + w.x[e]);
        write_pack(out, i, d, out_wide, y);
    });
}

template <typename T>
DEVICE void rms_normalise_row(T *RESTRICT out, const T *x, const T *RESTRICT weight, int d,
    float eps, int plus_one, int round_once)
{
    if (moves_sixteen()) {
        held_row<T> row;
        hold(row, x, d);
        rms_normalise_packs(out, row, weight, eps, plus_one != 0, round_once != 0);
        return;
    }
    const float square = block_sum_of(d, [=](int i) {
        float v = load(x[i]);
        return v * v;
    }) / (float)d;
    const float scale = 1.0f / square_root(square + eps);
    const float one = plus_one ? 1.0f : 0.0f;
    if (plus_one || round_once)
        for (int i = threadIdx.x; i < d; i += blockDim.x)
            out[i] = store<T>(load(x[i]) * scale * (one + load(weight[i])));
    else
        for (int i = threadIdx.x; i < d; i += blockDim.x)
            out[i] = store<T>(load(store<T>(load(x[i]) * scale)) * load(weight[i]));
}

/* The groups of a row one after the other: a norm of queries or keys has a group a head. */
template <typename T>
DEVICE void rmsnorm_row(const rmsnorm_args &a, int64_t row)
{
    const int64_t from = a.x_rows ? a.x_rows[row] : row;
    const int d = (int)(a.width / a.groups);
    for (int64_t group = 0; group < a.groups; group++)
        rms_normalise_row((T *)a.out + row * a.out_stride + group * d,
            (const T *)a.x + from * a.x_stride + group * d, (const T *)a.weight, d, a.eps,
            a.plus_one, a.round_once);
}
ROW_KERNEL(rmsnorm, rmsnorm_args)

template <typename T>
DEVICE void add_rmsnorm_row(const add_rmsnorm_args &a, int64_t row)
{
    rms_normalise_row((T *)a.norm + row * a.norm_stride, add_row<T>(a, row), (const T *)a.weight,
        (int)a.width, a.eps, a.plus_one, a.round_once);
}
ROW_KERNEL(add_rmsnorm, add_rmsnorm_args)

/* ---- the scale in the open: for rows whose `.scale` somebody looks at or sets ---- */

template <typename T>
DEVICE float part_mean(const T *RESTRICT x, int d, int centred)
{
    return centred ? block_sum_of(d, [=](int i) { return load(x[i]); }) / (float)d : 0.0f;
}

template <typename T>
KERNEL(norm_scale, norm_scale_args a)
{
    const int64_t row = blockIdx.x, from = a.x_rows ? a.x_rows[row] : row;
    const int d = (int)(a.width / a.groups);
    for (int64_t group = 0; group < a.groups; group++) {
        const T *RESTRICT x = (const T *)a.x + from * a.x_stride + group * d;
        const float mean = part_mean(x, d, a.centred);
        const float square = block_sum_of(d, [=](int i) {
            float c = load(x[i]) - mean;
            return c * c;
        }) / (float)d;
        if (threadIdx.x == 0)
            ((T *)a.out)[row * a.out_stride + group] = store<T>(square_root(square + a.eps));
    }
}

template <typename T>
KERNEL(norm_by_scale, norm_by_scale_args a)
{
    const int64_t row = blockIdx.x, from = a.x_rows ? a.x_rows[row] : row,
                  scale_row = a.scale_rows ? a.scale_rows[row] : row;
    const int d = (int)(a.width / a.groups);
    const T *RESTRICT weight = (const T *)a.weight, *RESTRICT bias = (const T *)a.bias;
    for (int64_t group = 0; group < a.groups; group++) {
        const T *RESTRICT x = (const T *)a.x + from * a.x_stride + group * d;
        T *RESTRICT out = (T *)a.out + row * a.out_stride + group * d;
        const float mean = part_mean(x, d, a.centred),
                    scale = load(((const T *)a.scale)[scale_row * a.scale_stride + group]);
        for (int i = threadIdx.x; i < d; i += blockDim.x) {
            const float y = (load(x[i]) - mean) / scale;
            if (a.centred)
                out[i] = store<T>(
                    y * (weight ? load(weight[i]) : 1.0f) + (bias ? load(bias[i]) : 0.0f));
            else
                out[i] = a.plus_one
                             ? store<T>(y * (1.0f + load(weight[i])))
                             : store<T>((a.round_once ? y : load(store<T>(y))) * load(weight[i]));
        }
    }
}

void norm_entries(kernel_table *table)
{
    BOTH_ENTRIES(table, KERNEL_LAYERNORM, layernorm_args, layernorm);
    BOTH_ENTRIES(table, KERNEL_ADD_LAYERNORM, add_layernorm_args, add_layernorm);
    BOTH_ENTRIES(table, KERNEL_RMSNORM, rmsnorm_args, rmsnorm);
    BOTH_ENTRIES(table, KERNEL_ADD_RMSNORM, add_rmsnorm_args, add_rmsnorm);
    KERNEL_ENTRIES(table, KERNEL_NORM_SCALE, norm_scale_args, norm_scale);
    KERNEL_ENTRIES(table, KERNEL_NORM_BY_SCALE, norm_by_scale_args, norm_by_scale);
}

} // namespace KERNEL_NAMESPACE
