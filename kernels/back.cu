/* back.cu: gradients of steps, row by row: what a row of a value sends back to the rows it was made
 * of. Sums are fp32 whatever the type; nothing is added by atomics, so a result has the same bits
 * every time. Any block size.
 *
 * Formulas: with x^ = (x - mean) / s and h = weight * dy, the gradient of a layer norm is
 * (h - mean(h) - x^ mean(h x^)) / s (Ba et al. 2016), that of an rms norm (h - x^ mean(h x^)) / s
 * with x^ = x / s (Zhang and Sennrich 2019). Of attention z_i = sum_j p_ij v_j with p_i the softmax
 * of s_ij = scale q_i k_j: ds_ij = p_ij (dz_i v_j - sum_k p_ik dz_i v_k), dq_i = scale sum_j ds_ij
 * k_j, dk_j = scale sum_i ds_ij q_i, dv_j = sum_i p_ij dz_i. */
#include "kernels/grid.h"
#include "kernels/activations.h"

namespace KERNEL_NAMESPACE {

/* ---- norms -------------------------------------------------------------- */

/* One group of one row. */
template <typename T>
DEVICE void norm_back_group(const norm_back_args &a, T *out, const T *x, const T *dy,
    const T *weight, const T *scale, int d)
{
    const float one = a.plus_one ? 1.0f : 0.0f;
    const float mean = a.centred ? block_sum_of(d, [=](int i) { return load(x[i]); }) / (float)d
                                 : 0.0f;
    const float square = scale ? 0.0f : block_sum_of(d, [=](int i) {
        const float c = load(x[i]) - mean;
        return c * c;
    }) / (float)d;
    const float inverse = 1.0f / (scale ? load(*scale) : square_root(square + a.eps));
    const float mean_h = !a.centred ? 0.0f : block_sum_of(d, [=](int i) {
        return load(dy[i]) * (weight ? one + load(weight[i]) : 1.0f);
    }) / (float)d;
    const float along = a.constant_scale || scale ? 0.0f : block_sum_of(d, [=](int i) {
        return load(dy[i]) * (weight ? one + load(weight[i]) : 1.0f)
               * ((load(x[i]) - mean) * inverse);
    }) / (float)d;
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        const float h = load(dy[i]) * (weight ? one + load(weight[i]) : 1.0f);
        out[i] = store<T>((h - mean_h - (load(x[i]) - mean) * inverse * along) * inverse);
    }
}

template <typename T>
KERNEL(norm_back, norm_back_args a)
{
    const int64_t row = blockIdx.x;
    const T *x = (const T *)a.x + (a.x_rows ? a.x_rows[row] : row) * a.x_stride;
    const T *dy = (const T *)a.dy + (a.dy_rows ? a.dy_rows[row] : row) * a.dy_stride;
    T *out = (T *)a.out + row * a.out_stride;
    const T *scale = (const T *)a.scale;
    if (scale) scale += (a.scale_rows ? a.scale_rows[row] : row) * a.scale_stride;
    const int d = (int)(a.width / a.groups);
    for (int64_t g = 0; g < a.groups; g++)
        norm_back_group(a, out + g * d, x + g * d, dy + g * d, (const T *)a.weight,
            scale ? scale + g : scale, d);
}

/* ---- activations -------------------------------------------------------- */

enum { SECANTS = 16 }; /* kinds of secants begin here */

/* a(x) / x, by an x that is never 0. */
DEVICE float secant_of(float x, float value) { return value / (x < 0.0f ? x - 1e-6f : x + 1e-6f); }
DEVICE float gelu_secant(float x)
{
    return secant_of(x, x * 0.5f * (1.0f + error_function(x * 0.70710678118654752f)));
}
DEVICE float gelu_tanh_secant(float x)
{
    const float t = hyperbolic_tangent(0.79788456080286536f * (x + 0.044715f * (x * x * x)));
    return secant_of(x, 0.5f * x * (1.0f + t));
}

template <typename T, typename F>
DEVICE void slope_row(T *RESTRICT out, const T *RESTRICT x, const T *RESTRICT dy, int d, F slope)
{
    for (int i = threadIdx.x; i < d; i += blockDim.x)
        out[i] = store<T>(load(dy[i]) * slope(load(x[i])));
}

/* The kind is decided before the loop, whose body is straight then and vectorises. */
template <typename T>
KERNEL(activation_back, activation_back_args a)
{
    const int64_t row = blockIdx.x;
    const T *x = (const T *)a.x + (a.x_rows ? a.x_rows[row] : row) * a.x_stride;
    const T *dy = (const T *)a.dy + (a.dy_rows ? a.dy_rows[row] : row) * a.dy_stride;
    T *out = (T *)a.out + row * a.out_stride;
    const int d = (int)a.width;
    const float cap = a.softcap;
    const int kind = a.secant && a.kind != ACTIVATION_BACK_SOFTCAP ? SECANTS + a.kind : a.kind;
    switch (kind) {
    case 0: slope_row(out, x, dy, d, [](float v) { return gelu_slope(v); }); break;
    case 1: slope_row(out, x, dy, d, [](float v) { return gelu_tanh_slope(v); }); break;
    case 2: slope_row(out, x, dy, d, [](float v) { return v > 0.0f ? 1.0f : 0.0f; }); break;
    case 3: slope_row(out, x, dy, d, [](float v) { return silu_slope(v); }); break;
    case 4: slope_row(out, x, dy, d, [](float v) { return tanh_slope(v); }); break;
    case 5: slope_row(out, x, dy, d, [](float v) { return sigmoid_slope(v); }); break;
    case ACTIVATION_BACK_SOFTCAP:
        slope_row(out, x, dy, d, [=](float v) { return tanh_slope(v / cap); });
        break;
    case SECANTS: slope_row(out, x, dy, d, [](float v) { return gelu_secant(v); }); break;
    case SECANTS + 1: slope_row(out, x, dy, d, [](float v) { return gelu_tanh_secant(v); }); break;
    case SECANTS + 2:
        slope_row(out, x, dy, d, [](float v) { return secant_of(v, v > 0.0f ? v : 0.0f); });
        break;
    case SECANTS + 3:
        slope_row(
            out, x, dy, d, [](float v) { return secant_of(v, v / (1.0f + exponential(-v))); });
        break;
    case SECANTS + 4:
        slope_row(out, x, dy, d, [](float v) { return secant_of(v, hyperbolic_tangent(v)); });
        break;
    case SECANTS + 5:
        slope_row(
            out, x, dy, d, [](float v) { return secant_of(v, 1.0f / (1.0f + exponential(-v))); });
        break;
    }
}

/* ---- columns ------------------------------------------------------------ */

template <typename T>
KERNEL(join, join_args a)
{
    const int64_t row = blockIdx.x;
    const T *x = (const T *)a.x + (a.x_rows ? a.x_rows[row] : row) * a.x_stride;
    T *out = (T *)a.out + row * a.out_stride;
    for (int i = threadIdx.x; i < (int)a.width; i += blockDim.x) {
        const int at = i - a.column, part = at >= 0 ? at / a.part_stride : -1,
                  inside = at - part * a.part_stride;
        const bool shown = at >= 0 && part < a.parts && inside < a.part;
        out[i] = shown ? x[part * a.part + inside] : store<T>(0.0f);
    }
}

/* ---- attention ---------------------------------------------------------- */

enum { MAX_BACK_HEAD = 256 };

/* Where a block keeps row j of its unit: dk, dv and, of the query at hand, the score, its weight
 * and what comes back to it. */
struct back_scratch {
    float *at;
    int d;
};
DEVICE float *key_back(const back_scratch &s, int64_t j) { return s.at + j * (2 * s.d + 3); }
DEVICE float *value_back(const back_scratch &s, int64_t j) { return key_back(s, j) + s.d; }
DEVICE float &slope_at(const back_scratch &s, int64_t j) { return key_back(s, j)[2 * s.d]; }
DEVICE float &weight_at(const back_scratch &s, int64_t j) { return key_back(s, j)[2 * s.d + 1]; }
DEVICE float &back_at(const back_scratch &s, int64_t j) { return key_back(s, j)[2 * s.d + 2]; }

template <typename T>
DEVICE float dot_back(const float *q, const T *k, int d)
{
    wide sums = wide_all(0.0f);
    int i = 0;
    for (; i + WIDTH <= d; i += WIDTH) sums = sums + wide_load(q + i) * wide_load(k + i);
    float sum = wide_sum(sums);
    for (; i < d; i++) sum += q[i] * load(k[i]);
    return sum;
}

/* What query i of one head sends back: its own gradient, and its part of the keys' and values'. */
template <typename T>
DEVICE void back_query(const attention_back_args &a, const back_scratch &s, int64_t first, int i,
    int count, int head, int group, float *query, float *back)
{
    const int d = a.head_dim;
    const T *k = (const T *)a.k + (int64_t)group * d, *v = (const T *)a.v + (int64_t)group * d;
    const T *q = (const T *)a.q + a.q_rows[first + i] * a.q_stride + (int64_t)head * d;
    const T *dz = (const T *)a.dz + a.dz_rows[first + i] * a.dz_stride + (int64_t)head * d;
    T *dq = (T *)a.out + (first + i) * a.out_stride + (int64_t)head * d;
    const int from = a.window > 0 && i + 1 > a.window ? i + 1 - a.window : 0,
              end = a.both_ways ? count : i + 1;
    for (int c = threadIdx.x; c < d; c += blockDim.x) {
        query[c] = load(q[c]);
        back[c] = load(dz[c]);
    }
    __syncthreads();
    float most = -INFINITE;
    for (int j = from + threadIdx.x; j < end; j += blockDim.x) {
        float score = a.scale * dot_back(query, k + a.key_rows[first + j] * a.k_stride, d);
        slope_at(s, j) = a.scale;
        if (a.softcap > 0.0f) {
            const float t = hyperbolic_tangent(score / a.softcap);
            score = a.softcap * t;
            slope_at(s, j) = a.scale * (1.0f - t * t);
        }
        if (a.slopes) score += a.slopes[head] * (float)j;
        weight_at(s, j) = score;
        back_at(s, j) = dot_back(back, v + a.value_rows[first + j] * a.v_stride, d);
        most = maximum(score, most);
    }
    const float largest = block_max(most), base = largest == -INFINITE ? 0.0f : largest;
    float part = 0.0f, weighted = 0.0f;
    for (int j = from + threadIdx.x; j < end; j += blockDim.x) {
        const float p = exponential(weight_at(s, j) - base);
        weight_at(s, j) = p;
        part += p;
        weighted += p * back_at(s, j);
    }
    const float sink = a.sinks ? exponential(load(((const T *)a.sinks)[head]) - base) : 0.0f,
                sum = block_sum(part) + sink, mean = block_sum(weighted) / sum;
    for (int j = from + threadIdx.x; j < end; j += blockDim.x) {
        const float p = weight_at(s, j) / sum;
        weight_at(s, j) = p;
        slope_at(s, j) = slope_at(s, j) * (p * (back_at(s, j) - mean));
    }
    __syncthreads();
    for (int c = threadIdx.x; c < d; c += blockDim.x) {
        float total = 0.0f;
        for (int j = from; j < end; j++) {
            total += slope_at(s, j) * load(k[a.key_rows[first + j] * a.k_stride + c]);
            key_back(s, j)[c] += slope_at(s, j) * query[c];
            value_back(s, j)[c] += weight_at(s, j) * back[c];
        }
        dq[c] = store<T>(total);
    }
    __syncthreads();
}

/* One block a unit and key-value head: its queries one after the other. */
template <typename T>
KERNEL(attention_back, attention_back_args a)
{
    SHARED(float, query, MAX_BACK_HEAD);
    SHARED(float, back, MAX_BACK_HEAD);
    const attention_context unit = a.units[(int64_t)blockIdx.x / a.n_kv_heads];
    const int group = (int)((int64_t)blockIdx.x % a.n_kv_heads), d = a.head_dim,
              heads = a.n_heads / a.n_kv_heads;
    const int64_t first = unit.first;
    const back_scratch s = {a.scratch + ((int64_t)group * a.n_rows + first) * (2 * d + 3), d};
    for (int j = 0; j < unit.count; j++)
        for (int c = threadIdx.x; c < 2 * d; c += blockDim.x) key_back(s, j)[c] = 0.0f;
    __syncthreads();
    for (int i = 0; i < unit.count; i++)
        for (int h = 0; h < heads; h++)
            back_query<T>(a, s, first, i, unit.count, group * heads + h, group, query, back);
    const int64_t keys = (int64_t)a.n_heads * d, values = keys + (int64_t)a.n_kv_heads * d;
    for (int j = 0; j < unit.count; j++) {
        T *out = (T *)a.out + (first + j) * a.out_stride + (int64_t)group * d;
        for (int c = threadIdx.x; c < d; c += blockDim.x) {
            out[keys + c] = store<T>(key_back(s, j)[c]);
            out[values + c] = store<T>(value_back(s, j)[c]);
        }
    }
}

void back_entries(kernel_table *table)
{
    KERNEL_ENTRIES(table, KERNEL_NORM_BACK, norm_back_args, norm_back);
    KERNEL_ENTRIES(table, KERNEL_ACTIVATION_BACK, activation_back_args, activation_back);
    KERNEL_ENTRIES(table, KERNEL_JOIN, join_args, join);
    KERNEL_ENTRIES(table, KERNEL_ATTENTION_BACK, attention_back_args, attention_back);
}

} // namespace KERNEL_NAMESPACE
