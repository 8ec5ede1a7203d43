/* attention.cu: softmax(scale * q k) v for one query row and one head, keys and values found through a row table.
 *
 * One block a (row, head), block = row * n_heads + head; any block size. Keys are taken in chunks of CHUNK, counted from the start
 * of the row's own context, with the running maximum, sum and weighted values of an online softmax, so that a row's bits depend on its
 * context alone: not on the rows beside it, nor on where its keys lie. Within a chunk, threads share the keys for the scores and
 * the columns of the head for the values. */
#include "kernels/grid.h"
#include "kernels/math.h"

namespace KERNEL_NAMESPACE {

enum {
    MAX_HEAD = 256,
    CHUNK = 64,
    TOGETHER = 4             /* value rows added in one pass over the head's columns */
};

#if defined(__CUDACC__) || defined(GRID_THREADS)
template <typename T>
DEVICE float dot(const float *q, const T *k, int d)
{
    float sum = 0.0f;
    for (int i = 0; i < d; i++)
        sum += q[i] * load(k[i]);
    return sum;
}
#else
/* One thread does it alone: a vector of partial sums, added in a fixed tree. */
template <typename T>
DEVICE float dot(const float *q, const T *k, int d)
{
    return block_sum_of<16>(d, [=](int i) { return q[i] * load(k[i]); });
}
#endif

/* values[i] = values[i] * rescale + sum over j of p[j] * v[rows[j]][i]. `columns` of a head by threads. */
template <typename T>
DEVICE void add_values(float *RESTRICT values, const float *p, const T *v, int64_t v_stride, const int32_t *rows, int n, int d, float rescale)
{
    for (int i = threadIdx.x; i < d; i += blockDim.x)
        values[i] *= rescale;
    int j = 0;
    for (; j + TOGETHER <= n; j += TOGETHER) {
        const T *v0 = v + rows[j] * v_stride, *v1 = v + rows[j + 1] * v_stride;
        const T *v2 = v + rows[j + 2] * v_stride, *v3 = v + rows[j + 3] * v_stride;
        const float p0 = p[j], p1 = p[j + 1], p2 = p[j + 2], p3 = p[j + 3];
        for (int i = threadIdx.x; i < d; i += blockDim.x)
            values[i] = values[i] + p0 * load(v0[i]) + p1 * load(v1[i]) + p2 * load(v2[i]) + p3 * load(v3[i]);
    }
    for (; j < n; j++) {
        const T *v0 = v + rows[j] * v_stride;
        const float p0 = p[j];
        for (int i = threadIdx.x; i < d; i += blockDim.x)
            values[i] += p0 * load(v0[i]);
    }
}

template <typename T>
KERNEL(attention, attention_args a)
{
    SHARED(float, query, MAX_HEAD);
    SHARED(float, values, MAX_HEAD);
    SHARED(float, scores, CHUNK);
    const int64_t row = (int64_t)blockIdx.x / a.n_heads;
    const int head = (int)((int64_t)blockIdx.x % a.n_heads), group = head / (a.n_heads / a.n_kv_heads), d = a.head_dim;
    const T *q = (const T *)a.q + (int64_t)(a.q_rows ? a.q_rows[row] : row) * a.q_stride + (int64_t)head * d;
    const T *k = (const T *)a.k + (int64_t)group * d, *v = (const T *)a.v + (int64_t)group * d;
    T *out = (T *)a.out + row * a.out_stride + (int64_t)head * d;
    const attention_context context = a.contexts[row];
    const int count = a.window > 0 && a.window < context.count ? a.window : context.count;
    const int32_t *key_rows = a.key_rows + context.first + (context.count - count);
    const int32_t *value_rows = a.value_rows + context.first + (context.count - count);

    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        query[i] = load(q[i]);
        values[i] = 0.0f;
    }
    __syncthreads();

    float largest = -INFINITE, sum = 0.0f;
    for (int start = 0; start < count; start += CHUNK) {
        const int n = count - start < CHUNK ? count - start : CHUNK;
        for (int j = threadIdx.x; j < CHUNK; j += blockDim.x)
            scores[j] = -INFINITE;
        for (int j = threadIdx.x; j < n; j += blockDim.x)
            scores[j] = a.scale * dot(query, k + key_rows[start + j] * a.k_stride, d);
        if (a.softcap > 0.0f)
            for (int j = threadIdx.x; j < n; j += blockDim.x)
                scores[j] = a.softcap * hyperbolic_tangent(scores[j] / a.softcap);

        const float before = largest;
        largest = maximum(block_max_of(CHUNK, [=](int j) { return scores[j]; }), before);
        const float base = largest == -INFINITE ? 0.0f : largest;      /* nothing but -inf so far: weights 0, not exp(-inf + inf) */
        const float rescale = exponential(before - base);
        for (int j = threadIdx.x; j < CHUNK; j += blockDim.x)
            scores[j] = exponential(scores[j] - base);
        sum = sum * rescale + block_sum_of<16>(CHUNK, [=](int j) { return scores[j]; });
        __syncthreads();
        add_values(values, scores, v, a.v_stride, value_rows + start, n, d, rescale);
        __syncthreads();
    }
    for (int i = threadIdx.x; i < d; i += blockDim.x)
        out[i] = store<T>(values[i] / sum);
}

void attention_entries(kernel_table *table)
{
    KERNEL_ENTRIES(table, KERNEL_ATTENTION, attention_args, attention);
}

}
