/* tile.h: products of small tiles that a warp holds in registers, for attention: on a GPU's tensor cores in 16-bit types, by fused multiply-adds in
 * fp32, and as plain loops on the host, where a warp is one thread that holds whole fragments.
 *
 * Tiles lie in shared memory, rows of `pitch<T, D>()` elements: D and a padding of 16 bytes, so that eight rows begin in different banks. A fragment is
 * 16 rows by 8 columns of fp32 sums. Element e of a thread's part of it is at
 *
 *     row     row_of(slot_of(e)):  a thread has SLOTS rows
 *     column  of fragment n, counted from the first column of fragment 0: key_of<T>(n, e) in scores, column_of<T>(n, e) in outputs
 *
 * On a GPU (PTX ISA, mma.m16n8k16): with g = lane / 4 and t = lane % 4, a thread has rows g and g + 8, and columns 2t and 2t + 1 of each fragment. In fp32
 * nothing prescribes the places: keys are such that four lanes read four rows that lie side by side (other banks), and output columns come in runs of
 * four, which two fragments share, for loads of 16 bytes. */
#ifndef INSET_TILE_H
#define INSET_TILE_H

#include "kernels/grid.h"

namespace KERNEL_NAMESPACE {

enum { TILE_ROWS = 64, TILE_KEYS = 64, M_TILES = TILE_ROWS / 16, KEY_FRAGMENTS = TILE_KEYS / 8 };

template <typename T, int D> DEVICE constexpr int pitch() { return D + 16 / (int)sizeof(T); }

#if defined(__CUDACC__)
/* ---- the GPU ------------------------------------------------------------------------------------------------------------------ */

enum { LANES = 32, ELEMENTS = 4, SLOTS = 2, MINE = 1 };      /* MINE: tiles of 16 rows that a warp has */

DEVICE int lane() { return threadIdx.x % 32; }
DEVICE int slot_of(int e) { return e / 2; }
DEVICE int row_of(int slot) { return lane() / 4 + 8 * slot; }
template <typename T> DEVICE int column_of(int n, int e) { return n * 8 + lane() % 4 * 2 + e % 2; }
template <> DEVICE int column_of<float>(int n, int e) { return n / 2 * 16 + lane() % 4 * 4 + n % 2 * 2 + e % 2; }
template <typename T> DEVICE int key_of(int n, int e) { return column_of<T>(n, e); }
template <> DEVICE int key_of<float>(int n, int e) { return n * 8 + e % 2 * 4 + lane() % 4; }

/* Over the threads that have the other columns of the same rows. */
DEVICE float row_largest(float x)
{
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
DEVICE float row_sum(float x)
{
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

struct fragment { float x[ELEMENTS]; };

/* A copy of 16 bytes that goes on while the thread does; copies_done() waits for all of the thread's. */
DEVICE void copy_sixteen(void *to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((unsigned)__cvta_generic_to_shared(to)), "l"(from) : "memory");
}
DEVICE void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT> DEVICE void copies_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory"); }

/* Four 8 x 8 matrices of 16-bit elements; lanes 8i .. 8i + 7 name the rows of matrix i. Thread (g, t) gets elements 2t and 2t + 1 of row g of each, or,
 * transposed, of column g. */
DEVICE void load_matrices(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");
}
DEVICE void load_transposed(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");
}

/* c += a b, a 16 x 16 by rows, b 16 x 8 by columns. */
template <typename T> DEVICE void multiply(fragment &c, const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <> DEVICE void multiply<bf16>(fragment &c, const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c.x[0]), "+f"(c.x[1]), "+f"(c.x[2]), "+f"(c.x[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <> DEVICE void multiply<f16>(fragment &c, const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c.x[0]), "+f"(c.x[1]), "+f"(c.x[2]), "+f"(c.x[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

DEVICE uint32_t two(bf16 low, bf16 high) { return (uint32_t)__bfloat16_as_ushort(low) | (uint32_t)__bfloat16_as_ushort(high) << 16; }
DEVICE uint32_t two(f16 low, f16 high) { return (uint32_t)__half_as_ushort(low) | (uint32_t)__half_as_ushort(high) << 16; }

template <typename T, int D> struct tile_products {
    /* s [16, TILE_KEYS] = q [16, D] k [TILE_KEYS, D]' */
    DEVICE static void scores(fragment (&s)[KEY_FRAGMENTS], const T *q, const T *k)
    {
        const int l = lane(), P = pitch<T, D>();
        const T *q_row = q + (l / 8 % 2 * 8 + l % 8) * P + l / 16 * 8, *k_row = k + (l / 16 * 8 + l % 8) * P + l / 8 % 2 * 8;
        UNROLLED for (int n = 0; n < KEY_FRAGMENTS; n++)
            s[n] = fragment{};
#pragma unroll (D > 128 ? 2 : 8)
        for (int d = 0; d < D; d += 16) {
            uint32_t a[4];
            load_matrices(a, q_row + d);
            UNROLLED for (int n = 0; n < KEY_FRAGMENTS; n += 2) {
                uint32_t b[4];
                load_matrices(b, k_row + n * 8 * P + d);
                multiply<T>(s[n], a, b[0], b[1]);
                multiply<T>(s[n + 1], a, b[2], b[3]);
            }
        }
    }

    /* Rows whose slot is `active`: o = o * rescale + T(p) v; the others stay. */
    DEVICE static void values(fragment (&o)[D / 8], const fragment (&p)[KEY_FRAGMENTS], const T *v, const float (&rescale)[SLOTS],
                              const bool (&active)[SLOTS], T *)
    {
        const int l = lane(), P = pitch<T, D>();
        const T *v_row = v + (l / 8 % 2 * 8 + l % 8) * P + l / 16 * 8;
        uint32_t a[TILE_KEYS / 16][4];
        UNROLLED for (int i = 0; i < TILE_KEYS / 16; i++)
            UNROLLED for (int j = 0; j < 4; j++)
                a[i][j] = two(store<T>(p[2 * i + j / 2].x[j % 2 * 2]), store<T>(p[2 * i + j / 2].x[j % 2 * 2 + 1]));
        UNROLLED for (int n = 0; n < D / 8; n += 2) {
            fragment c[2];
            UNROLLED for (int e = 0; e < ELEMENTS; e++) {
                c[0].x[e] = o[n].x[e] * rescale[slot_of(e)];
                c[1].x[e] = o[n + 1].x[e] * rescale[slot_of(e)];
            }
            UNROLLED for (int i = 0; i < TILE_KEYS / 16; i++) {
                uint32_t b[4];
                load_transposed(b, v_row + i * 16 * P + n * 8);
                multiply<T>(c[0], a[i], b[0], b[1]);
                multiply<T>(c[1], a[i], b[2], b[3]);
            }
            UNROLLED for (int e = 0; e < ELEMENTS; e++) {
                o[n].x[e] = active[slot_of(e)] ? c[0].x[e] : o[n].x[e];
                o[n + 1].x[e] = active[slot_of(e)] ? c[1].x[e] : o[n + 1].x[e];
            }
        }
    }
};

template <int D> struct tile_products<float, D> {
    DEVICE static void scores(fragment (&s)[KEY_FRAGMENTS], const float *q, const float *k)
    {
        const int P = pitch<float, D>();
        const float *q_row = q + row_of(0) * P;
        UNROLLED for (int n = 0; n < KEY_FRAGMENTS; n++)
            s[n] = fragment{};
        ONE_BY_ONE for (int d = 0; d < D; d += 4) {
            const float4 x = *(const float4 *)(q_row + d), y = *(const float4 *)(q_row + 8 * P + d);
            UNROLLED for (int n = 0; n < KEY_FRAGMENTS; n++)
                UNROLLED for (int e = 0; e < 2; e++) {
                    const float4 key = *(const float4 *)(k + key_of<float>(n, e) * P + d);
                    s[n].x[e] = fmaf(x.w, key.w, fmaf(x.z, key.z, fmaf(x.y, key.y, fmaf(x.x, key.x, s[n].x[e]))));
                    s[n].x[e + 2] = fmaf(y.w, key.w, fmaf(y.z, key.z, fmaf(y.y, key.y, fmaf(y.x, key.x, s[n].x[e + 2]))));
                }
        }
    }

    /* Weights go round through `scratch`, TILE_KEYS + 4 numbers a row, of which a warp sees its own 16. */
    DEVICE static void values(fragment (&o)[D / 8], const fragment (&p)[KEY_FRAGMENTS], const float *v, const float (&rescale)[SLOTS],
                              const bool (&active)[SLOTS], float *scratch)
    {
        const int P = pitch<float, D>(), S = TILE_KEYS + 4;
        const float *v_at = v + lane() % 4 * 4;
        __syncwarp();
        UNROLLED for (int n = 0; n < KEY_FRAGMENTS; n++)
            UNROLLED for (int e = 0; e < ELEMENTS; e++)
                scratch[row_of(slot_of(e)) * S + key_of<float>(n, e)] = p[n].x[e];
        __syncwarp();
        UNROLLED for (int n = 0; n < D / 8; n++)
            UNROLLED for (int e = 0; e < ELEMENTS; e++)
                o[n].x[e] = active[slot_of(e)] ? o[n].x[e] * rescale[slot_of(e)] : o[n].x[e];
        ONE_BY_ONE for (int key = 0; key < TILE_KEYS; key += 4) {
            float x[4], y[4];
            *(float4 *)x = *(const float4 *)(scratch + row_of(0) * S + key);
            *(float4 *)y = *(const float4 *)(scratch + row_of(1) * S + key);
            UNROLLED for (int i = 0; i < 4; i++)
                UNROLLED for (int n = 0; n < D / 8; n += 2) {
                    float value[4];
                    *(float4 *)value = *(const float4 *)(v_at + (key + i) * P + n * 8);
                    UNROLLED for (int e = 0; e < 4; e++) {
                        float &first = o[n + e / 2].x[e % 2], &second = o[n + e / 2].x[e % 2 + 2];
                        first = active[0] ? fmaf(x[i], value[e], first) : first;
                        second = active[1] ? fmaf(y[i], value[e], second) : second;
                    }
                }
        }
    }
};

#else
/* ---- the host ------------------------------------------------------------------------------------------------------------------- */

#ifdef GRID_THREADS
enum { MINE = 1 };
#else
enum { MINE = M_TILES };
#endif
enum { LANES = 1, ELEMENTS = 128, SLOTS = 16 };

DEVICE int slot_of(int e) { return e / 8; }
DEVICE int row_of(int slot) { return slot; }
template <typename T> DEVICE int column_of(int n, int e) { return n * 8 + e % 8; }
template <typename T> DEVICE int key_of(int n, int e) { return n * 8 + e % 8; }
DEVICE float row_largest(float x) { return x; }
DEVICE float row_sum(float x) { return x; }

struct fragment { float x[ELEMENTS]; };

DEVICE void copy_sixteen(void *to, const void *from) { __builtin_memcpy(to, from, 16); }
DEVICE void copies_end() {}
template <int LEFT> DEVICE void copies_wait() {}

template <typename T, int D> struct tile_products {
    static __attribute__((noinline)) void scores(fragment (&s)[KEY_FRAGMENTS], const T *q, const T *k)
    {
        for (int row = 0; row < 16; row++)
            for (int key = 0; key < TILE_KEYS; key++) {
                float sum = 0.0f;
                for (int d = 0; d < D; d++)
                    sum += load(q[row * pitch<T, D>() + d]) * load(k[key * pitch<T, D>() + d]);
                s[key / 8].x[row * 8 + key % 8] = sum;
            }
    }
    static __attribute__((noinline)) void values(fragment (&o)[D / 8], const fragment (&p)[KEY_FRAGMENTS], const T *v, const float (&rescale)[SLOTS],
                                                 const bool (&active)[SLOTS], T *)
    {
        for (int row = 0; row < 16; row++)
            for (int d = 0; d < D && active[row]; d++) {
                float &at = o[d / 8].x[row * 8 + d % 8], sum = at * rescale[row];
                for (int key = 0; key < TILE_KEYS; key++)
                    sum += load(store<T>(p[key / 8].x[row * 8 + key % 8])) * load(v[key * pitch<T, D>() + d]);
                at = sum;
            }
    }
};

#endif

}   /* namespace */

#endif
