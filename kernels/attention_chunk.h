/* attention_chunk.h: what attention does alike for one query (attention.cu) and for many together
 * (attention_rows.h): which keys a row has, and a chunk's scores made weights. */
#ifndef INSET_ATTENTION_CHUNK_H
#define INSET_ATTENTION_CHUNK_H

#include "kernels/grid.h"
#include "kernels/math.h"

namespace KERNEL_NAMESPACE {

enum { MAX_HEAD = 256, CHUNK = 64 };

/* The keys and values that a row sees: numbers of their rows, oldest first, which is at position
 * `oldest`. */
struct seen_keys {
    const int32_t *key_rows, *value_rows;
    int count, oldest;
};

DEVICE seen_keys keys_seen(const attention_args &a, int64_t row)
{
    const attention_context context = a.contexts[row];
    const int count = a.window > 0 && a.window < context.count ? a.window : context.count;
    const int oldest = context.count - count, first = context.first + oldest;
    return seen_keys{a.key_rows + first, a.value_rows + first, count, oldest};
}

template <typename T>
DEVICE const T *query_of(const attention_args &a, int64_t row, int head)
{
    return (const T *)a.q + (int64_t)(a.q_rows ? a.q_rows[row] : row) * a.q_stride
           + (int64_t)head * a.head_dim;
}

template <typename T>
DEVICE T *result_of(const attention_args &a, int64_t row, int head)
{
    return (T *)a.out + row * a.out_stride + (int64_t)head * a.head_dim;
}

/* The largest and the sum of scores[0 .. n - 1]; n is a multiple of 16. */
DEVICE float largest_score(const float *scores, int n)
{
    wide largest = wide_all(-INFINITE);
    for (int j = threadIdx.x * WIDTH; j < n; j += blockDim.x * WIDTH)
        largest = wide_maximum(wide_load(scores + j), largest);
    return block_max(wide_largest(largest));
}
DEVICE float sum_scores(const float *scores, int n)
{
    wide sum = wide_all(0.0f);
    for (int j = threadIdx.x * WIDTH; j < n; j += blockDim.x * WIDTH)
        sum = sum + wide_load(scores + j);
    return block_sum(wide_sum(sum));
}

/* What a head's sink adds to the sum of weights whose largest score is `largest`. */
template <typename T>
DEVICE float sink_of(const void *sinks, int head, float largest)
{
    return sinks ? exponential(load(((const T *)sinks)[head]) - largest) : 0.0f;
}

/* What scores that begin with the key at `position` grow by (attention_args.slopes). */
struct score_slope {
    float slope; /* 0: none */
    int position;
};

DEVICE score_slope slope_of(const attention_args &a, const seen_keys &seen, int start, int head)
{
    return score_slope{a.slopes ? a.slopes[head] : 0.0f, seen.oldest + start};
}

/* A chunk of scores, up to 16 of which behind the first n may be written, becomes weights relative
 * to the largest score so far. Returns what the weighted values of earlier chunks are to be
 * multiplied with. Each thread has written scores[its number + i * threads]. */
DEVICE float weigh_chunk(
    float *scores, int n, float softcap, score_slope grows, float *largest, float *sum)
{
    const int padded = (n + 15) / 16 * 16;
    for (int j = threadIdx.x; j < padded; j += blockDim.x)
        if (j >= n) scores[j] = -INFINITE;
    if (softcap > 0.0f)
        for (int j = threadIdx.x; j < n; j += blockDim.x)
            scores[j] = softcap * hyperbolic_tangent(scores[j] / softcap);
    if (grows.slope != 0.0f)
        for (int j = threadIdx.x; j < n; j += blockDim.x)
            scores[j] += grows.slope * (float)(grows.position + j);

    const float before = *largest;
    *largest = maximum(largest_score(scores, padded), before);
    /* nothing but -inf so far: weights 0, not exp(-inf + inf) */
    const float base = *largest == -INFINITE ? 0.0f : *largest;
    const float rescale = exponential(before - base);
    for (int j = threadIdx.x; j < padded; j += blockDim.x)
        scores[j] = exponential(scores[j] - base);
    *sum = *sum * rescale + sum_scores(scores, padded);
    return rescale;
}

} // namespace KERNEL_NAMESPACE

#endif
