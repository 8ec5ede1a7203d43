/* packs.h: rows read and written 16 bytes at a time by the threads of a block, where the addresses
 * allow it. Where blocks are one thread (SIXTEEN_BYTES 0), plain loops vectorise by themselves and
 * kernels use those.
 *
 * A row is cut into packs of packed<T>::SIZE elements, from its first on; thread t has packs t, t +
 * blockDim.x, ... That is so whether or not its place allows accesses of 16 bytes, so sums are
 * added in the same order wherever a row lies. */
#ifndef INSET_PACKS_H
#define INSET_PACKS_H

#include "kernels/grid.h"

namespace KERNEL_NAMESPACE {

template <typename T>
struct packed {
    enum { SIZE = 16 / sizeof(T) };
};

/* Elements of a pack as fp32; those behind the row's end are 0. */
template <typename T>
struct pack {
    float x[packed<T>::SIZE];
};

/* Whether a block has many threads, so that packs pay. */
DEVICE bool moves_sixteen() { return SIXTEEN_BYTES; }
DEVICE bool is_wide(const void *at) { return (uintptr_t)at % 16 == 0; }

/* Elements i .. of a row of d; `wide`: the row begins at a multiple of 16 bytes. */
template <typename T>
DEVICE pack<T> read_pack(const T *row, int i, int d, bool wide)
{
    enum { N = packed<T>::SIZE };
    pack<T> p;
    if (wide && i + N <= d) {
        union {
            sixteen bytes;
            T elements[N];
        } all;
        all.bytes = *(const sixteen *)(row + i);
        UNROLLED for (int e = 0; e < N; e++) p.x[e] = load(all.elements[e]);
        return p;
    }
    UNROLLED for (int e = 0; e < N; e++) p.x[e] = i + e < d ? load(row[i + e]) : 0.0f;
    return p;
}

template <typename T>
DEVICE void write_pack(T *row, int i, int d, bool wide, const pack<T> &p)
{
    enum { N = packed<T>::SIZE };
    if (wide && i + N <= d) {
        union {
            sixteen bytes;
            T elements[N];
        } all;
        UNROLLED for (int e = 0; e < N; e++) all.elements[e] = store<T>(p.x[e]);
        *(sixteen *)(row + i) = all.bytes;
        return;
    }
    UNROLLED for (int e = 0; e < N; e++) if (i + e < d) row[i + e] = store<T>(p.x[e]);
}

/* out[i] = f(a[i], b[i], c[i]) for the elements of a row; operands that are not there (NULL) are
 * 0. */
template <typename T, typename F>
DEVICE void map_packs(T *out, const T *a, const T *b, const T *c, int d, F f)
{
    enum { N = packed<T>::SIZE };
    const bool out_wide = is_wide(out), a_wide = is_wide(a), b_wide = is_wide(b),
               c_wide = is_wide(c);
    for (int i = threadIdx.x * N; i < d; i += blockDim.x * N) {
        pack<T> x = read_pack(a, i, d, a_wide), y = {}, z = {};
        if (b) y = read_pack(b, i, d, b_wide);
        if (c) z = read_pack(c, i, d, c_wide);
        UNROLLED for (int e = 0; e < N; e++) x.x[e] = f(x.x[e], y.x[e], z.x[e]);
        write_pack(out, i, d, out_wide, x);
    }
}

/* A row of which a thread keeps its part, for several passes: the first HELD packs in registers;
 * what is behind them is read again each time. */
template <typename T>
struct held_row {
    enum { N = packed<T>::SIZE, HELD = 16 / N };
    const T *row;
    int d;
    bool wide;
    pack<T> packs[HELD];
};

template <typename T>
DEVICE void hold(held_row<T> &r, const T *row, int d)
{
    r.row = row;
    r.d = d;
    r.wide = is_wide(row);
    UNROLLED for (int h = 0; h < held_row<T>::HELD; h++)
    {
        const int i = (threadIdx.x + h * blockDim.x) * held_row<T>::N;
        if (i < d) r.packs[h] = read_pack(row, i, d, r.wide);
    }
}

/* f(i, pack) for each of the thread's packs, in order. */
template <typename T, typename F>
DEVICE void each_pack(const held_row<T> &r, F f)
{
    enum { N = held_row<T>::N, HELD = held_row<T>::HELD };
    UNROLLED for (int h = 0; h < HELD; h++)
    {
        const int i = (threadIdx.x + h * blockDim.x) * N;
        if (i < r.d) f(i, r.packs[h]);
    }
    for (int i = (threadIdx.x + HELD * blockDim.x) * N; i < r.d; i += blockDim.x * N)
        f(i, read_pack(r.row, i, r.d, r.wide));
}

/* The block's sum of f(x) over the row. */
template <typename T, typename F>
DEVICE float sum_of(const held_row<T> &r, F f)
{
    float total = 0.0f;
    const int d = r.d;
    each_pack(r, [&](int i, const pack<T> &p) {
        UNROLLED for (int e = 0; e < held_row<T>::N; e++) if (i + e < d) total += f(p.x[e]);
    });
    return block_sum(total);
}

} // namespace KERNEL_NAMESPACE

#endif
