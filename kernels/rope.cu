/* rope.cu: rotary position embedding, half-split or interleaved, as transformers'
 * apply_rotary_pos_emb computes it, roundings included.
 *
 * One block a row; any block size. A row's cosines and sines are computed once into shared memory
 * and serve all its heads. rotary_dims is even and at most 256; the columns of a head beyond it are
 * copied. */
#include "kernels/fused.h"
#include "kernels/math.h"
#include "kernels/packs.h"

namespace KERNEL_NAMESPACE {

enum { MAX_HALF = 128 };

/* One pair of columns, which turns by an angle. */
template <typename T>
DEVICE void turn(float &low, float &high, float c, float s, bool round_once)
{
    const float x = low, y = high;
    low = round_once ? x * c - y * s : load(store<T>(x * c)) - load(store<T>(y * s));
    high = round_once ? y * c + x * s : load(store<T>(y * c)) + load(store<T>(x * s));
}

/* All heads of a row, which threads share; 16 bytes at a time where every head's two halves allow
 * it. */
template <typename T>
DEVICE void rotate_packs(
    const rope_args &a, T *out, const T *x, int apart, const float *cosines, const float *sines)
{
    enum { N = packed<T>::SIZE };
    const int half = a.rotary_dims / 2, d = a.head_dim, packs = half / N;
    for (int at = threadIdx.x; at < packs * a.n_heads; at += blockDim.x) {
        const int head = at / packs, i = at % packs * N;
        const T *from = x + (int64_t)head * apart;
        pack<T> low = read_pack(from, i, d, true), high = read_pack(from, i + half, d, true);
        UNROLLED for (int e = 0; e < N; e++)
            turn<T>(low.x[e], high.x[e], cosines[i + e], sines[i + e], a.round_once != 0);
        write_pack(out + (int64_t)head * d, i, d, true, low);
        write_pack(out + (int64_t)head * d, i + half, d, true, high);
    }
}

template <typename T>
DEVICE void rotate_heads(
    const rope_args &a, int64_t row, int64_t from, const float *cosines, const float *sines)
{
    const int half = a.rotary_dims / 2, d = a.head_dim,
              apart = a.x_head_stride ? a.x_head_stride : d, size = packed<T>::SIZE;
    const T *x = (const T *)a.x + from * a.x_stride;
    T *out = (T *)a.out + row * a.out_stride;
    if (!a.interleaved && moves_sixteen() && 2 * half == d && half % size == 0 && apart % size == 0
        && is_wide(x) && is_wide(out)) {
        rotate_packs(a, out, x, apart, cosines, sines);
        return;
    }
    for (int head = 0; head < a.n_heads; head++, x += apart, out += d) {
        for (int i = threadIdx.x; i < half; i += blockDim.x) {
            const int at = a.interleaved ? 2 * i : i, other = a.interleaved ? at + 1 : i + half;
            float low = load(x[at]), high = load(x[other]);
            turn<T>(low, high, cosines[i], sines[i], a.round_once != 0);
            out[at] = store<T>(low);
            out[other] = store<T>(high);
        }
        for (int i = 2 * half + threadIdx.x; i < d; i += blockDim.x) out[i] = x[i];
    }
}

template <typename T>
DEVICE void rope_row(const rope_args &a, int64_t row)
{
    SHARED(float, cosines, MAX_HALF);
    SHARED(float, sines, MAX_HALF);
    const int64_t from = a.x_rows ? a.x_rows[row] : row;
    const int half = a.rotary_dims / 2;
    const float position = (float)a.positions[row];
    for (int i = threadIdx.x; i < half; i += blockDim.x) {
        const float angle = position * a.frequencies[i];
        const float c = cosine(angle) * a.attention_scale, turned = sine(angle) * a.attention_scale,
                    s = a.inverse ? -turned : turned;
        cosines[i] = a.round_once ? c : load(store<T>(c));
        sines[i] = a.round_once ? s : load(store<T>(s));
    }
    __syncthreads();

    rotate_heads<T>(a, row, from, cosines, sines);
}
ROW_KERNEL(rope, rope_args)

void rope_entries(kernel_table *table) { BOTH_ENTRIES(table, KERNEL_ROPE, rope_args, rope); }

} // namespace KERNEL_NAMESPACE
