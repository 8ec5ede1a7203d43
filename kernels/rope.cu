/* rope.cu: rotary position embedding, half-split, as transformers' apply_rotary_pos_emb computes it, roundings included.
 *
 * One block a row; any block size. A row's cosines and sines are computed once into shared memory and serve all its heads.
 * rotary_dims is even and at most 256; the columns of a head beyond it are copied. */
#include "kernels/fused.h"
#include "kernels/math.h"

namespace KERNEL_NAMESPACE {

enum { MAX_HALF = 128 };

template <typename T>
DEVICE void rope_row(const rope_args &a, int64_t row)
{
    SHARED(float, cosines, MAX_HALF);
    SHARED(float, sines, MAX_HALF);
    const int64_t from = a.x_rows ? a.x_rows[row] : row;
    const int half = a.rotary_dims / 2, d = a.head_dim;
    const float position = (float)a.positions[row];
    for (int i = threadIdx.x; i < half; i += blockDim.x) {
        const float angle = position * a.frequencies[i];
        const float c = cosine(angle) * a.attention_scale, s = sine(angle) * a.attention_scale;
        cosines[i] = a.round_once ? c : load(store<T>(c));
        sines[i] = a.round_once ? s : load(store<T>(s));
    }
    __syncthreads();

    for (int head = 0; head < a.n_heads; head++) {
        const T *RESTRICT x = (const T *)a.x + from * a.x_stride + (int64_t)head * (a.x_head_stride ? a.x_head_stride : d);
        T *RESTRICT out = (T *)a.out + row * a.out_stride + (int64_t)head * d;
        for (int i = threadIdx.x; a.round_once && i < half; i += blockDim.x) {
            const float low = load(x[i]), high = load(x[i + half]);
            out[i] = store<T>(low * cosines[i] - high * sines[i]);
            out[i + half] = store<T>(high * cosines[i] + low * sines[i]);
        }
        for (int i = threadIdx.x; !a.round_once && i < half; i += blockDim.x) {
            const float low = load(x[i]), high = load(x[i + half]);
            out[i] = store<T>(load(store<T>(low * cosines[i])) - load(store<T>(high * sines[i])));
            out[i + half] = store<T>(load(store<T>(high * cosines[i])) + load(store<T>(low * sines[i])));
        }
        for (int i = 2 * half + threadIdx.x; i < d; i += blockDim.x)
            out[i] = x[i];
    }
}
ROW_KERNEL(rope, rope_args)

void rope_entries(kernel_table *table)
{
    BOTH_ENTRIES(table, KERNEL_ROPE, rope_args, rope);
}

}
