/* tile_rows.h: what a warp of tile_attention.cu does with its 16 tile rows: scores, the online
 * softmax's step, sums of values, in registers. 16-bit types have the fragments of tensor cores,
 * fp32 rows and columns of its own choice; score_of and value_of find an element in either. */
#ifndef INSET_TILE_ROWS_H
#define INSET_TILE_ROWS_H

#include "kernels/math.h"
#include "kernels/tile_steps.h"

namespace KERNEL_NAMESPACE {

enum { WARP_ROWS = 16 };

/* ---- 16 tile rows, in registers of a warp ------------------------------- */

/* Statistics of the rows of which a lane has elements; lanes that share a row have them all. */
template <int ROWS>
struct row_state {
    float largest[ROWS], sum[ROWS];
    /* the positions that the row sees; none where the tile row is not used */
    int32_t low[ROWS], high[ROWS];
    int query[ROWS]; /* the row of the block */
};

/* 16-bit types: fragments of tensor cores. */
template <typename T, int D>
struct half_rows {
    /* SHARING: lanes that share a row */
    enum { APART = 1, STRIDE = TILE_STRIDE(D, 2), SHARING = 8 / FRAGMENT_COLUMNS };
    enum { ROWS = FRAGMENT_ROWS, KEYS = TILE_KEYS / SHARING, COLUMNS = D / SHARING };
    row_state<ROWS> state;
    sums_tile scores[TILE_KEYS / 8], values[D / 8];
};

/* fp32: on a GPU a lane has every fourth row, every eighth key, and four columns of every 32. */
template <int D>
struct float_rows {
    enum {
        APART = 0,
        STRIDE = TILE_STRIDE(D, 4),
        SHARING = WARP_LANES == 1 ? 1 : 8,
        ROW_LANES = WARP_LANES / SHARING
    };
    enum { ROWS = WARP_ROWS / ROW_LANES, KEYS = TILE_KEYS / SHARING, COLUMNS = D / SHARING };
    row_state<ROWS> state;
    float scores[ROWS][KEYS], values[ROWS][COLUMNS];
};

template <typename T, int D>
struct rows_of {
    typedef half_rows<T, D> type;
};
template <int D>
struct rows_of<float, D> {
    typedef float_rows<D> type;
};

/* Where a lane's element (i, c) is, and which row of the 16, key of the tile and column of the head
 * it belongs to. */
template <typename T, int D>
DEVICE float &score_of(half_rows<T, D> &w, int i, int c)
{
    return w.scores[c / FRAGMENT_COLUMNS].x[i * FRAGMENT_COLUMNS + c % FRAGMENT_COLUMNS];
}
template <typename T, int D>
DEVICE float &value_of(half_rows<T, D> &w, int i, int c)
{
    return w.values[c / FRAGMENT_COLUMNS].x[i * FRAGMENT_COLUMNS + c % FRAGMENT_COLUMNS];
}
template <typename T, int D>
DEVICE int row_number(const half_rows<T, D> &, int i)
{
    return fragment_row() + i * ROW_STEP;
}
template <typename T, int D>
DEVICE int key_number(const half_rows<T, D> &, int c)
{
    return c / FRAGMENT_COLUMNS * 8 + fragment_column() + c % FRAGMENT_COLUMNS;
}
template <typename T, int D>
DEVICE int column_number(const half_rows<T, D> &w, int c)
{
    return key_number(w, c);
}

template <int D>
DEVICE float &score_of(float_rows<D> &w, int i, int c)
{
    return w.scores[i][c];
}
template <int D>
DEVICE float &value_of(float_rows<D> &w, int i, int c)
{
    return w.values[i][c];
}
template <int D>
DEVICE int row_number(const float_rows<D> &, int i)
{
    return lane_index() / float_rows<D>::SHARING + i * float_rows<D>::ROW_LANES;
}
template <int D>
DEVICE int key_number(const float_rows<D> &, int c)
{
    return lane_index() % float_rows<D>::SHARING + c * float_rows<D>::SHARING;
}
template <int D>
DEVICE int column_number(const float_rows<D> &, int c)
{
    return (c / 4 * float_rows<D>::SHARING + lane_index() % float_rows<D>::SHARING) * 4 + c % 4;
}

/* The keys of a step that row i of a lane sees, from .. to - 1; none where the row is not the
 * run's. */
template <int ROWS>
DEVICE void seen_keys(const row_state<ROWS> &r, int i, const tile_step &s, int &from, int &to)
{
    const bool inside = r.query[i] >= s.begin && r.query[i] < s.end;
    from = larger(r.low[i] - s.start, 0);
    to = inside ? smaller(r.high[i] - s.start, TILE_KEYS) : 0;
}

/* ---- scores ------------------------------------------------------------- */

/* Products of 16 queries with the first n keys; other scores are 0. WHOLE: as many keys and columns
 * as there is room for. */
template <bool WHOLE, typename T, int D>
DEVICE_APART void multiply_keys(half_rows<T, D> &w, const T *queries, const T *keys, int d, int n)
{
    enum { STRIDE = half_rows<T, D>::STRIDE };
    UNROLLED
    for (int j = 0; j < TILE_KEYS / 8; j++) w.scores[j] = sums_tile{};
    UNROLLED
    for (int k = 0; k < D / 16; k++) {
        if (!WHOLE && k * 16 >= d) continue;
        left_tile<T> q;
        load_left(q, queries + k * 16, STRIDE);
        UNROLLED
        for (int j = 0; j < TILE_KEYS / 16; j++) {
            if (!WHOLE && j * 16 >= n) continue;
            right_tile<T> b[2];
            load_right(b, keys + j * 16 * STRIDE + k * 16, STRIDE);
            multiply_tiles(w.scores[2 * j], q, b[0]);
            multiply_tiles(w.scores[2 * j + 1], q, b[1]);
        }
    }
}

template <bool WHOLE, int D>
DEVICE_APART void multiply_keys(
    float_rows<D> &w, const float *queries, const float *keys, int d, int n)
{
    typedef float_rows<D> rows;
    UNROLLED
    for (int i = 0; i < rows::ROWS; i++) UNROLLED
    for (int c = 0; c < rows::KEYS; c++) w.scores[i][c] = 0.0f;
    const float *query = queries + row_number(w, 0) * rows::STRIDE,
                *key = keys + key_number(w, 0) * rows::STRIDE;
    for (int x = 0; x < d; x += 4) { /* columns behind the head's are 0 */
        quad q[rows::ROWS];
        UNROLLED
        for (int i = 0; i < rows::ROWS; i++)
            q[i] = *(const quad *)(query + i * rows::ROW_LANES * rows::STRIDE + x);
        UNROLLED
        for (int c = 0; c < rows::KEYS; c++) {
            if (!WHOLE && c * rows::SHARING >= n) continue;
            const quad k = *(const quad *)(key + c * rows::SHARING * rows::STRIDE + x);
            UNROLLED
            for (int i = 0; i < rows::ROWS; i++) UNROLLED
            for (int e = 0; e < 4; e++)
                w.scores[i][c] = multiply_add(q[i].x[e], k.x[e], w.scores[i][c]);
        }
    }
}

template <typename T, int D>
DEVICE void score_step(half_rows<T, D> &w, const T *queries, const T *keys, int d, int n)
{
    if (d > D - 16 && n > TILE_KEYS - 16) multiply_keys<true>(w, queries, keys, d, n);
    else multiply_keys<false>(w, queries, keys, d, n);
}
template <int D>
DEVICE void score_step(float_rows<D> &w, const float *queries, const float *keys, int d, int n)
{
    if (n > TILE_KEYS - float_rows<D>::SHARING) multiply_keys<true>(w, queries, keys, d, n);
    else multiply_keys<false>(w, queries, keys, d, n);
}

/* ---- softmax ------------------------------------------------------------ */

/* Products become scores that grow with a key's position (attention_args.slopes). A pass of its
 * own, because the softmax's has no register left. first: of these tile rows. */
template <typename W>
DEVICE_APART void tilt(
    W &w, const attention_args &a, const tile_place &p, const tile_step &s, int first)
{
    UNROLLED
    for (int i = 0; i < W::ROWS; i++) {
        const int head = smaller((first + row_number(w, i)) % p.stack, p.heads - 1);
        const float slope = a.slopes[p.head + head];
        UNROLLED
        for (int c = 0; c < W::KEYS; c++)
            score_of(w, i, c) = a.scale * score_of(w, i, c)
                                + slope * (float)(s.start + key_number(w, c));
    }
}

/* Makes scores weights, over a base that has risen to the largest score so far, and takes what is
 * there already to that base. scale: what is still to be multiplied to them. */
template <typename W>
DEVICE_APART void weigh(W &w, const attention_args &a, const tile_step &s, float scale)
{
    const bool masked = s.partial || s.from > 0 || s.n < TILE_KEYS;
    UNROLLED
    for (int i = 0; i < W::ROWS; i++) {
        UNROLLED
        for (int c = 0; c < W::KEYS; c++) score_of(w, i, c) = scale * score_of(w, i, c);
        if (a.softcap > 0.0f) {
            UNROLLED
            for (int c = 0; c < W::KEYS; c++)
                score_of(w, i, c) = a.softcap * hyperbolic_tangent(score_of(w, i, c) / a.softcap);
        }
        if (masked) {
            int from, to;
            seen_keys(w.state, i, s, from, to);
            UNROLLED
            for (int c = 0; c < W::KEYS; c++) {
                const int key = key_number(w, c);
                score_of(w, i, c) = key >= from && key < to ? score_of(w, i, c) : -INFINITE;
            }
        }
        float top = -INFINITE;
        UNROLLED
        for (int c = 0; c < W::KEYS; c++) top = maximum(score_of(w, i, c), top);
        const float before = w.state.largest[i],
                    largest = maximum(lanes_max(top, W::SHARING), before);
        /* nothing but -inf so far: weights 0, not exp(-inf + inf) */
        const float base = largest == -INFINITE ? 0.0f : largest;
        const float rescale = exponential(before - base);
        float sum = 0.0f;
        UNROLLED
        for (int c = 0; c < W::KEYS; c++) {
            const float weight = exponential(score_of(w, i, c) - base);
            score_of(w, i, c) = weight;
            sum += weight;
        }
        w.state.largest[i] = largest;
        w.state.sum[i] = w.state.sum[i] * rescale + lanes_sum(sum, W::SHARING);
        UNROLLED
        for (int c = 0; c < W::COLUMNS; c++) value_of(w, i, c) *= rescale;
    }
}

/* ---- sums of values ----------------------------------------------------- */

template <bool WHOLE, typename T, int D>
DEVICE_APART void multiply_values(half_rows<T, D> &w, const T *values, int d, int n)
{
    enum { STRIDE = half_rows<T, D>::STRIDE };
    UNROLLED
    for (int k = 0; k < TILE_KEYS / 16; k++) {
        if (!WHOLE && k * 16 >= n) continue;
        left_tile<T> p;
        round_left(p, w.scores[2 * k], w.scores[2 * k + 1]);
        UNROLLED
        for (int j = 0; j < D / 16; j++) {
            if (!WHOLE && j * 16 >= d) continue;
            right_tile<T> b[2];
            load_right_by_rows(b, values + k * 16 * STRIDE + j * 16, STRIDE);
            multiply_tiles(w.values[2 * j], p, b[0]);
            multiply_tiles(w.values[2 * j + 1], p, b[1]);
        }
    }
}

/* The same where a value is not finite: a product for each row of the block that the run and these
 * tile rows have, without the keys that it does not see, of which its own tile rows are kept.
 * first: of these tile rows. */
template <typename T, int D>
DEVICE_APART void add_step_seen(half_rows<T, D> &w, const T *values, float *, int d,
    const tile_block &block, const tile_step &s, int first)
{
    enum { STRIDE = half_rows<T, D>::STRIDE, ROWS = half_rows<T, D>::ROWS };
    const int begin = larger(s.begin, first / block.place.stack),
              end = smaller(s.end, (first + WARP_ROWS - 1) / block.place.stack + 1);
    left_tile<T> p[TILE_KEYS / 16];
    UNROLLED
    for (int k = 0; k < TILE_KEYS / 16; k++) round_left(p[k], w.scores[2 * k], w.scores[2 * k + 1]);
    UNROLLED
    for (int j = 0; j < D / 16; j++) {
        if (j * 16 >= d) continue;
        const sums_tile before[2] = {w.values[2 * j], w.values[2 * j + 1]};
        ONE_BY_ONE
        for (int query = begin; query < end; query++) {
            sums_tile sums[2] = {before[0], before[1]};
            UNROLLED
            for (int k = 0; k < TILE_KEYS / 16; k++) {
                if (k * 16 >= s.n) continue;
                right_tile<T> b[2];
                load_right_by_rows(b, values + k * 16 * STRIDE + j * 16, STRIDE);
                UNROLLED
                for (int t = 0; t < 2; t++) {
                    keep_rows(b[t], block.low[query] - s.start - k * 16,
                        block.high[query] - s.start - k * 16);
                    multiply_tiles(sums[t], p[k], b[t]);
                }
            }
            UNROLLED
            for (int i = 0; i < ROWS; i++) UNROLLED
            for (int c = i * FRAGMENT_COLUMNS; c < (i + 1) * FRAGMENT_COLUMNS; c++) UNROLLED
            for (int t = 0; t < 2; t++)
                w.values[2 * j + t].x[c] = w.state.query[i] == query ? sums[t].x[c]
                                                                     : w.values[2 * j + t].x[c];
        }
    }
}

/* Four keys at a time, whose weights come through shared memory from the lanes that have them.
 * CAREFUL: keys that a row does not see are left out. */
template <bool WHOLE, bool CAREFUL, int D>
DEVICE_APART void add_values(
    float_rows<D> &w, const float *values, float *weights, int d, const tile_step &s)
{
    typedef float_rows<D> rows;
    UNROLLED
    for (int i = 0; i < rows::ROWS; i++) UNROLLED
    for (int c = 0; c < rows::KEYS; c++)
        weights[row_number(w, i) * WEIGHT_STRIDE + key_number(w, c)] = w.scores[i][c];
    warp_barrier();
    int from[rows::ROWS], to[rows::ROWS];
    UNROLLED
    for (int i = 0; i < rows::ROWS; i++) seen_keys(w.state, i, s, from[i], to[i]);
    const float *weight = weights + row_number(w, 0) * WEIGHT_STRIDE,
                *value = values + column_number(w, 0);
    for (int key = 0; key < s.n; key += 4) {
        quad p[rows::ROWS];
        UNROLLED
        for (int i = 0; i < rows::ROWS; i++)
            p[i] = *(const quad *)(weight + i * rows::ROW_LANES * WEIGHT_STRIDE + key);
        UNROLLED
        for (int t = 0; t < 4; t++) UNROLLED
        for (int c = 0; c < rows::COLUMNS; c += 4) {
            if (!WHOLE && c * rows::SHARING >= d) continue;
            const quad v = *(const quad *)(value + (key + t) * rows::STRIDE + c * rows::SHARING);
            UNROLLED
            for (int i = 0; i < rows::ROWS; i++) UNROLLED
            for (int e = 0; e < 4; e++)
                if (!CAREFUL || (key + t >= from[i] && key + t < to[i]))
                    w.values[i][c + e] = multiply_add(p[i].x[t], v.x[e], w.values[i][c + e]);
        }
    }
    /* the next tile's weights go to the same place */
    warp_barrier();
}

template <typename T, int D>
DEVICE void add_step(half_rows<T, D> &w, const T *values, float *, int d, const tile_step &s)
{
    if (d > D - 16 && s.n > TILE_KEYS - 16) multiply_values<true>(w, values, d, s.n);
    else multiply_values<false>(w, values, d, s.n);
}
template <int D>
DEVICE void add_step(
    float_rows<D> &w, const float *values, float *weights, int d, const tile_step &s)
{
    if (d > D - 4 * float_rows<D>::SHARING) add_values<true, false>(w, values, weights, d, s);
    else add_values<false, false>(w, values, weights, d, s);
}
template <int D>
DEVICE_APART void add_step_seen(float_rows<D> &w, const float *values, float *weights, int d,
    const tile_block &, const tile_step &s, int)
{
    add_values<false, true>(w, values, weights, d, s);
}

} // namespace KERNEL_NAMESPACE

#endif
