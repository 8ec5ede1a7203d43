/* attention.cu: softmax(scale * q k) v for one query row and one head, keys and values found
 * through a row table.
 *
 * The reference for what is launched in its place: attention_rows.h on the CPU, the same bits, and
 * tile_attention.cu on a GPU (host/device/cuda/tiles.c).
 *
 * One block a (row, head), block = row * n_heads + head; any block size. Keys are taken in chunks
 * of CHUNK, counted from the start of the row's own context, with the running maximum, sum and
 * weighted values of an online softmax, so that a row's bits depend on its context alone: not on
 * the rows beside it, nor on where its keys lie. Within a chunk, threads share the keys for the
 * scores and the columns of the head for the values. */
#include "kernels/attention_chunk.h"
#include "kernels/fused.h"

/* For blocks of one thread, but where PLAIN_ATTENTION asks for what follows to compare it with
 * (tests/plain_attention.cc). */
#if !defined(__CUDACC__) && !defined(GRID_THREADS) && !defined(PLAIN_ATTENTION)
#include "kernels/attention_rows.h"
#endif

namespace KERNEL_NAMESPACE {

template <typename T>
DEVICE float dot(const float *q, const T *k, int d)
{
    wide sums = wide_all(0.0f);
    int i = 0;
    for (; i + WIDTH <= d; i += WIDTH) sums = sums + wide_load(q + i) * wide_load(k + i);
    float sum = wide_sum(sums);
    for (; i < d; i++) sum += q[i] * load(k[i]);
    return sum;
}

/* values[i] = values[i] * rescale + sum over j of p[j] * v[rows[j]][i], for columns i .. i + N *
 * WIDTH - 1, which stay in registers. */
template <int N, typename T>
DEVICE void add_columns(float *values, const float *p, const T *v, int64_t v_stride,
    const int32_t *rows, int n, int i, float rescale)
{
    wide sums[N];
    for (int c = 0; c < N; c++) sums[c] = wide_load(values + i + c * WIDTH) * wide_all(rescale);
    for (int j = 0; j < n; j++) {
        const T *row = v + rows[j] * v_stride + i;
        const wide weight = wide_all(p[j]);
        for (int c = 0; c < N; c++) sums[c] = sums[c] + weight * wide_load(row + c * WIDTH);
    }
    for (int c = 0; c < N; c++) wide_store(values + i + c * WIDTH, sums[c]);
}

/* The same for all columns of the head, shared by threads. */
template <typename T>
DEVICE void add_values(float *values, const float *p, const T *v, int64_t v_stride,
    const int32_t *rows, int n, int d, float rescale)
{
    int done = 0;
    if (WIDTH > 1)
        for (; done + 4 * WIDTH <= d; done += 4 * WIDTH)
            add_columns<4>(values, p, v, v_stride, rows, n, done, rescale);
    for (int i = done + threadIdx.x * WIDTH; i + WIDTH <= d; i += blockDim.x * WIDTH)
        add_columns<1>(values, p, v, v_stride, rows, n, i, rescale);
    for (int i = d / WIDTH * WIDTH + threadIdx.x; i < d; i += blockDim.x) {
        float sum = values[i] * rescale;
        for (int j = 0; j < n; j++) sum += p[j] * load(v[rows[j] * v_stride + i]);
        values[i] = sum;
    }
}

template <typename T>
DEVICE void attention_head(const attention_args &a, int64_t row, int head)
{
    SHARED(float, query, MAX_HEAD);
    SHARED(float, values, MAX_HEAD);
    SHARED(float, scores, CHUNK);
    const int group = head / (a.n_heads / a.n_kv_heads), d = a.head_dim;
    const T *q = query_of<T>(a, row, head);
    const T *k = (const T *)a.k + (int64_t)group * d, *v = (const T *)a.v + (int64_t)group * d;
    T *out = result_of<T>(a, row, head);
    const seen_keys seen = keys_seen(a, row);

    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        query[i] = load(q[i]);
        values[i] = 0.0f;
    }
    __syncthreads();

    float largest = -INFINITE, sum = 0.0f;
    for (int start = 0; start < seen.count; start += CHUNK) {
        const int n = seen.count - start < CHUNK ? seen.count - start : CHUNK;
        for (int j = threadIdx.x; j < n; j += blockDim.x)
            scores[j] = a.scale * dot(query, k + seen.key_rows[start + j] * a.k_stride, d);
        const float rescale = weigh_chunk(
            scores, n, a.softcap, slope_of(a, seen, start, head), &largest, &sum);
        __syncthreads();
        add_values(values, scores, v, a.v_stride, seen.value_rows + start, n, d, rescale);
        __syncthreads();
    }
    sum += sink_of<T>(a.sinks, head, largest);
    for (int i = threadIdx.x; i < d; i += blockDim.x) out[i] = store<T>(values[i] / sum);
}

template <typename T>
KERNEL(attention, attention_args a)
{
    attention_head<T>(a, (int64_t)blockIdx.x / a.n_heads, (int)((int64_t)blockIdx.x % a.n_heads));
}

template <typename T>
ROOMY_KERNEL(attention_with_records, with_records<attention_args> a, 4)
{
    const int64_t row = (int64_t)blockIdx.x / a.args.n_heads;
    const int head = (int)((int64_t)blockIdx.x % a.args.n_heads);
    attention_head<T>(a.args, row, head);
    apply_records_part<T>(a.fused, row, head, a.args.head_dim);
}

void attention_entries(kernel_table *table)
{
#ifdef INSET_ATTENTION_ROWS_H
    attention_rows_entries(table);
#else
    BOTH_ENTRIES(table, KERNEL_ATTENTION, attention_args, attention);
#endif
}

} // namespace KERNEL_NAMESPACE
