/* tile_attention.cu: attention for a GPU, in tiles of 64 query rows and 64 keys.
 *
 * A block takes rows that follow each other and the query heads of one key-value head, stacked (tile_shapes.h), a warp 16 of these tile
 * rows. Keys are taken in tiles at absolute positions 64 t of the row's list. In each tile the rows are walked in runs whose lists agree
 * there: their keys and values, gathered by row number, are read once, so that what forks of a sequence share is shared here. 16-bit
 * types multiply on tensor cores; fp32 by fused multiply-adds.
 *
 * A row's bits depend on its own context alone. Its tiles come in the same order whatever lies beside it, and what it does not see changes
 * nothing: a masked score is -inf and its weight 0, and adding 0 times a finite value to a sum that began with 0 keeps the sum, but
 * for the sign of a zero, which the end makes positive. Values that are not finite would (0 * inf is NaN), so where a tile has
 * one and some row of the block does not see all of the tile, each row's product is done without the keys that it does not see.
 *
 * The stages of a tile, a barrier between any two: keys are there, scores, next tile's keys begin to arrive, weights, values are there,
 * sums, next tile's values begin to arrive. In fp32 keys and values take turns in one place, because more does not fit. */
#include "kernels/fused.h"
#include "kernels/math.h"
#include "kernels/tile.h"

namespace KERNEL_NAMESPACE {

enum { WARP_ROWS = 16, WARP_TILES = TILE_ROWS / WARP_ROWS };
enum { TILES_A_WARP = (WARP_TILES + BLOCK_WARPS - 1) / BLOCK_WARPS };     /* 1 but for a block of one thread */

/* ---- which keys ------------------------------------------------------------------------------------------------------------------- */

/* Rows of the block that follow each other and have the same `first`: rows .. end - 1. Their counts are least .. most, and the first
 * positions that they see lowest .. highest. */
struct segment { int32_t first, end, least, most, lowest, highest; };

/* Rows begin .. end - 1 of the block and the keys from .. n - 1 of a tile, which are all that one of the rows sees; they stand in the
 * tables from `list` on. n 0: there is no more to do. */
struct tile_step {
    int start, begin, end, from, n;
    int64_t list;
    bool partial;                        /* some row of the block does not see all of the keys */
};

/* Rows row .. row + rows - 1 and query heads head .. head + heads - 1; `stack` tile rows are a row's. */
struct tile_place { int64_t row; int rows, head, heads, stack, kv_head; };

/* What all threads of a block know; in shared memory, because registers are for sums. Row i of the block sees low[i] .. high[i] - 1. At each row
 * that begins a segment is that segment. */
struct tile_block {
    tile_place place;
    tile_step steps[2];                  /* this step and the next, in turns */
    int32_t numbers[2][2 * TILE_KEYS];   /* the rows of their keys and of their values; -1 where nothing is to be read */
    int32_t low[TILE_ROWS], high[TILE_ROWS];
    segment segments[TILE_ROWS];
};

DEVICE int smaller(int a, int b) { return a < b ? a : b; }
DEVICE int larger(int a, int b) { return a > b ? a : b; }

/* The place is known. */
DEVICE_APART void read_contexts(const attention_args &a, tile_block &b)
{
    const int rows = b.place.rows;
    for (int i = threadIdx.x; i < rows; i += BLOCK_THREADS) {
        const attention_context context = a.contexts[b.place.row + i];
        b.high[i] = context.count;
        b.low[i] = a.window > 0 && a.window < context.count ? context.count - a.window : 0;
        b.segments[i].first = context.first;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < rows; i += BLOCK_THREADS) {
        const int32_t first = b.segments[i].first;
        if (i > 0 && b.segments[i - 1].first == first)
            continue;
        segment s = {first, i, b.high[i], b.high[i], b.low[i], b.low[i]};
        for (; s.end < rows && b.segments[s.end].first == first; s.end++) {
            s.least = smaller(s.least, b.high[s.end]);
            s.most = larger(s.most, b.high[s.end]);
            s.lowest = smaller(s.lowest, b.low[s.end]);
            s.highest = larger(s.highest, b.low[s.end]);
        }
        b.segments[i].end = s.end;                     /* not `first`, which others read now */
        b.segments[i].least = s.least;
        b.segments[i].most = s.most;
        b.segments[i].lowest = s.lowest;
        b.segments[i].highest = s.highest;
    }
    __syncthreads();
}

/* Whether two lists agree in n entries. The whole block asks. */
DEVICE_APART bool same_lists(const attention_args &a, int64_t one, int64_t other, int n)
{
    bool differ = false;
    for (int j = threadIdx.x; j < n; j += BLOCK_THREADS)
        differ |= a.key_rows[one + j] != a.key_rows[other + j] || a.value_rows[one + j] != a.value_rows[other + j];
    return !block_any(differ);
}

DEVICE bool is_present(const segment &s, int start) { return s.most > start && s.lowest < start + TILE_KEYS; }

/* Finds step `turn`, the next from row `begin` of the tile at `start` on; it and its row numbers are there after a barrier. The whole block asks. */
DEVICE_APART void find_step(const attention_args &a, tile_block &b, int turn, int start, int begin)
{
    const int rows = b.place.rows;
    tile_step s = {};
    for (s.start = start; ; s.start += TILE_KEYS, begin = 0) {
        bool later = false;                            /* a row has keys behind this tile */
        for (int i = 0; i < rows; i = b.segments[i].end)
            later |= b.segments[i].most > s.start + TILE_KEYS;
        while (begin < rows && !is_present(b.segments[begin], s.start))
            begin = b.segments[begin].end;
        if (begin < rows || !later)
            break;
    }
    if (begin < rows) {
        segment run = b.segments[begin];
        bool all = begin == 0;
        while (run.end < rows) {
            const segment next = b.segments[run.end];
            if (is_present(next, s.start)) {
                const int common = smaller(smaller(run.most, next.most) - s.start, TILE_KEYS);
                if (next.first != run.first && !same_lists(a, (int64_t)run.first + s.start, (int64_t)next.first + s.start, common))
                    break;
                if (next.most > run.most)
                    run.first = next.first;
                run.least = smaller(run.least, next.least);
                run.most = larger(run.most, next.most);
                run.lowest = smaller(run.lowest, next.lowest);
                run.highest = larger(run.highest, next.highest);
            } else
                all = false;
            run.end = next.end;
        }
        s.begin = begin;
        s.end = run.end;
        s.from = larger(run.lowest - s.start, 0);
        s.n = smaller(run.most - s.start, TILE_KEYS);
        s.list = (int64_t)run.first + s.start;
        s.partial = !all || run.end < rows || run.least < s.start + s.n || run.highest > s.start + s.from;
    }
    if (threadIdx.x == 0)
        b.steps[turn] = s;
    for (int i = threadIdx.x; i < 2 * TILE_KEYS; i += BLOCK_THREADS) {
        const int j = i % TILE_KEYS;
        const int32_t *rows = i < TILE_KEYS ? a.key_rows : a.value_rows;
        b.numbers[turn][i] = j >= s.from && j < s.n ? rows[s.list + j] : -1;
    }
}

/* ---- tiles in shared memory -------------------------------------------------------------------------------------------------------- */

/* How rows of d elements lie in memory and in tiles of shared memory. */
struct row_form { int64_t stride; int d, padded; bool by_sixteen; };

template <typename T>
DEVICE row_form form_of(const void *base, int64_t stride, int d)
{
    const int elements = 16 / (int)sizeof(T);
    return row_form{stride, d, (d + 15) / 16 * 16, (uintptr_t)base % 16 == 0 && stride % elements == 0 && d % elements == 0};
}

/* Begins to bring n rows of a matrix to a tile; rows without a number, those up to the next multiple of 16, and columns behind the matrix's
 * become 0. Returns whether an element that this thread brought is not finite, as far as it looked: not where copies are
 * asynchronous. */
template <typename T, int D>
DEVICE_APART bool load_rows(T *tile, const T *base, const row_form &form, const int32_t *numbers, int n)
{
    enum { STRIDE = TILE_STRIDE(D, (int)sizeof(T)), ELEMENTS = 16 / (int)sizeof(T), CHUNKS = D / ELEMENTS, TOGETHER = 4 };
    const int whole = (n + 15) / 16 * 16;
    bool odd = false;
    if (form.by_sixteen) {
        ONE_BY_ONE
        for (int i = threadIdx.x; i < whole * CHUNKS; i += TOGETHER * BLOCK_THREADS) {
            int32_t number[TOGETHER];                  /* all read before the first copy */
            UNROLLED
            for (int b = 0; b < TOGETHER; b++) {
                const int row = (i + b * BLOCK_THREADS) / CHUNKS;
                number[b] = row < whole ? numbers[row] : -1;
            }
            UNROLLED
            for (int b = 0; b < TOGETHER; b++) {
                const int row = (i + b * BLOCK_THREADS) / CHUNKS, column = (i + b * BLOCK_THREADS) % CHUNKS * ELEMENTS;
                const bool there = number[b] >= 0 && column < form.d;
                if (row < whole && column < form.padded)
                    copy_sixteen(tile + row * STRIDE + column, there ? base + number[b] * form.stride + column : base, there);
            }
        }
        return false;
    }
    ONE_BY_ONE
    for (int i = threadIdx.x; i < whole * D; i += BLOCK_THREADS) {
        const int row = i / D, column = i % D;
        if (column >= form.padded)
            continue;
        T x = store<T>(0.0f);
        if (numbers[row] >= 0 && column < form.d)
            x = base[numbers[row] * form.stride + column];
        tile[row * STRIDE + column] = x;
        odd |= !(load(x) - load(x) == 0.0f);
    }
    return odd;
}

/* Whether an element that load_rows brought here by 16 bytes, for this thread, is not finite. */
template <typename T, int D>
DEVICE_APART bool find_odd(const T *tile, const row_form &form, int from, int n)
{
    enum { STRIDE = TILE_STRIDE(D, (int)sizeof(T)), ELEMENTS = 16 / (int)sizeof(T), CHUNKS = D / ELEMENTS };
    bool odd = false;
    ONE_BY_ONE
    for (int i = threadIdx.x; i < n * CHUNKS; i += BLOCK_THREADS) {
        const int row = i / CHUNKS, column = i % CHUNKS * ELEMENTS;
        if (row < from || column >= form.d)
            continue;
        odd |= odd_sixteen(tile + row * STRIDE + column);
    }
    return odd;
}

/* ---- 16 tile rows, in registers of a warp --------------------------------------------------------------------------------------------- */

/* Statistics of the rows of which a lane has elements; lanes that share a row have them all. */
template <int ROWS> struct row_state {
    float largest[ROWS], sum[ROWS];
    int32_t low[ROWS], high[ROWS];       /* the positions that the row sees; none where the tile row is not used */
    int query[ROWS];                     /* the row of the block */
};

/* 16-bit types: fragments of tensor cores. */
template <typename T, int D> struct half_rows {
    enum { APART = 1, STRIDE = TILE_STRIDE(D, 2), SHARING = 8 / FRAGMENT_COLUMNS };      /* SHARING: lanes that share a row */
    enum { ROWS = FRAGMENT_ROWS, KEYS = TILE_KEYS / SHARING, COLUMNS = D / SHARING };
    row_state<ROWS> state;
    sums_tile scores[TILE_KEYS / 8], values[D / 8];
};

/* fp32: on a GPU a lane has every fourth row, every eighth key, and four columns of every 32. */
template <int D> struct float_rows {
    enum { APART = 0, STRIDE = TILE_STRIDE(D, 4), SHARING = WARP_LANES == 1 ? 1 : 8, ROW_LANES = WARP_LANES / SHARING };
    enum { ROWS = WARP_ROWS / ROW_LANES, KEYS = TILE_KEYS / SHARING, COLUMNS = D / SHARING };
    row_state<ROWS> state;
    float scores[ROWS][KEYS], values[ROWS][COLUMNS];
};

template <typename T, int D> struct rows_of { typedef half_rows<T, D> type; };
template <int D> struct rows_of<float, D> { typedef float_rows<D> type; };

/* Where a lane's element (i, c) is, and which row of the 16, key of the tile and column of the head it belongs to. */
template <typename T, int D> DEVICE float &score_of(half_rows<T, D> &w, int i, int c)
{
    return w.scores[c / FRAGMENT_COLUMNS].x[i * FRAGMENT_COLUMNS + c % FRAGMENT_COLUMNS];
}
template <typename T, int D> DEVICE float &value_of(half_rows<T, D> &w, int i, int c)
{
    return w.values[c / FRAGMENT_COLUMNS].x[i * FRAGMENT_COLUMNS + c % FRAGMENT_COLUMNS];
}
template <typename T, int D> DEVICE int row_number(const half_rows<T, D> &, int i) { return fragment_row() + i * ROW_STEP; }
template <typename T, int D> DEVICE int key_number(const half_rows<T, D> &, int c)
{
    return c / FRAGMENT_COLUMNS * 8 + fragment_column() + c % FRAGMENT_COLUMNS;
}
template <typename T, int D> DEVICE int column_number(const half_rows<T, D> &w, int c) { return key_number(w, c); }

template <int D> DEVICE float &score_of(float_rows<D> &w, int i, int c) { return w.scores[i][c]; }
template <int D> DEVICE float &value_of(float_rows<D> &w, int i, int c) { return w.values[i][c]; }
template <int D> DEVICE int row_number(const float_rows<D> &, int i)
{
    return lane_index() / float_rows<D>::SHARING + i * float_rows<D>::ROW_LANES;
}
template <int D> DEVICE int key_number(const float_rows<D> &, int c)
{
    return lane_index() % float_rows<D>::SHARING + c * float_rows<D>::SHARING;
}
template <int D> DEVICE int column_number(const float_rows<D> &, int c)
{
    return (c / 4 * float_rows<D>::SHARING + lane_index() % float_rows<D>::SHARING) * 4 + c % 4;
}

/* The keys of a step that row i of a lane sees, from .. to - 1; none where the row is not the run's. */
template <int ROWS>
DEVICE void seen_keys(const row_state<ROWS> &r, int i, const tile_step &s, int &from, int &to)
{
    const bool inside = r.query[i] >= s.begin && r.query[i] < s.end;
    from = larger(r.low[i] - s.start, 0);
    to = inside ? smaller(r.high[i] - s.start, TILE_KEYS) : 0;
}

/* ---- scores ------------------------------------------------------------------------------------------------------------------------- */

/* Products of 16 queries with the first n keys; other scores are 0. WHOLE: as many keys and columns as there is room for. */
template <bool WHOLE, typename T, int D>
DEVICE_APART void multiply_keys(half_rows<T, D> &w, const T *queries, const T *keys, int d, int n)
{
    enum { STRIDE = half_rows<T, D>::STRIDE };
    UNROLLED
    for (int j = 0; j < TILE_KEYS / 8; j++)
        w.scores[j] = sums_tile{};
    UNROLLED
    for (int k = 0; k < D / 16; k++) {
        if (!WHOLE && k * 16 >= d)
            continue;
        left_tile<T> q;
        load_left(q, queries + k * 16, STRIDE);
        UNROLLED
        for (int j = 0; j < TILE_KEYS / 16; j++) {
            if (!WHOLE && j * 16 >= n)
                continue;
            right_tile<T> b[2];
            load_right(b, keys + j * 16 * STRIDE + k * 16, STRIDE);
            multiply_tiles(w.scores[2 * j], q, b[0]);
            multiply_tiles(w.scores[2 * j + 1], q, b[1]);
        }
    }
}

template <bool WHOLE, int D>
DEVICE_APART void multiply_keys(float_rows<D> &w, const float *queries, const float *keys, int d, int n)
{
    typedef float_rows<D> rows;
    UNROLLED
    for (int i = 0; i < rows::ROWS; i++)
        UNROLLED
        for (int c = 0; c < rows::KEYS; c++)
            w.scores[i][c] = 0.0f;
    const float *query = queries + row_number(w, 0) * rows::STRIDE, *key = keys + key_number(w, 0) * rows::STRIDE;
    for (int x = 0; x < d; x += 4) {                    /* columns behind the head's are 0 */
        quad q[rows::ROWS];
        UNROLLED
        for (int i = 0; i < rows::ROWS; i++)
            q[i] = *(const quad *)(query + i * rows::ROW_LANES * rows::STRIDE + x);
        UNROLLED
        for (int c = 0; c < rows::KEYS; c++) {
            if (!WHOLE && c * rows::SHARING >= n)
                continue;
            const quad k = *(const quad *)(key + c * rows::SHARING * rows::STRIDE + x);
            UNROLLED
            for (int i = 0; i < rows::ROWS; i++)
                UNROLLED
                for (int e = 0; e < 4; e++)
                    w.scores[i][c] = multiply_add(q[i].x[e], k.x[e], w.scores[i][c]);
        }
    }
}

template <typename T, int D>
DEVICE void score_step(half_rows<T, D> &w, const T *queries, const T *keys, int d, int n)
{
    if (d > D - 16 && n > TILE_KEYS - 16)
        multiply_keys<true>(w, queries, keys, d, n);
    else
        multiply_keys<false>(w, queries, keys, d, n);
}
template <int D>
DEVICE void score_step(float_rows<D> &w, const float *queries, const float *keys, int d, int n)
{
    if (n > TILE_KEYS - float_rows<D>::SHARING)
        multiply_keys<true>(w, queries, keys, d, n);
    else
        multiply_keys<false>(w, queries, keys, d, n);
}

/* ---- softmax ------------------------------------------------------------------------------------------------------------------------ */

/* Makes scores weights, over a base that has risen to the largest score so far, and takes what is there already to that base. */
template <typename W>
DEVICE_APART void weigh(W &w, const attention_args &a, const tile_step &s)
{
    const bool masked = s.partial || s.from > 0 || s.n < TILE_KEYS;
    UNROLLED
    for (int i = 0; i < W::ROWS; i++) {
        UNROLLED
        for (int c = 0; c < W::KEYS; c++)
            score_of(w, i, c) = a.scale * score_of(w, i, c);
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
        for (int c = 0; c < W::KEYS; c++)
            top = maximum(score_of(w, i, c), top);
        const float before = w.state.largest[i], largest = maximum(lanes_max(top, W::SHARING), before);
        const float base = largest == -INFINITE ? 0.0f : largest;      /* nothing but -inf so far: weights 0, not exp(-inf + inf) */
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
        for (int c = 0; c < W::COLUMNS; c++)
            value_of(w, i, c) *= rescale;
    }
}

/* ---- sums of values ------------------------------------------------------------------------------------------------------------------ */

template <bool WHOLE, typename T, int D>
DEVICE_APART void multiply_values(half_rows<T, D> &w, const T *values, int d, int n)
{
    enum { STRIDE = half_rows<T, D>::STRIDE };
    UNROLLED
    for (int k = 0; k < TILE_KEYS / 16; k++) {
        if (!WHOLE && k * 16 >= n)
            continue;
        left_tile<T> p;
        round_left(p, w.scores[2 * k], w.scores[2 * k + 1]);
        UNROLLED
        for (int j = 0; j < D / 16; j++) {
            if (!WHOLE && j * 16 >= d)
                continue;
            right_tile<T> b[2];
            load_right_by_rows(b, values + k * 16 * STRIDE + j * 16, STRIDE);
            multiply_tiles(w.values[2 * j], p, b[0]);
            multiply_tiles(w.values[2 * j + 1], p, b[1]);
        }
    }
}

/* The same where a value is not finite: a product for each row of the block that the run and these tile rows have, without the keys
 * that it does not see, of which its own tile rows are kept. first: of these tile rows. */
template <typename T, int D>
DEVICE_APART void add_step_seen(half_rows<T, D> &w, const T *values, float *, int d, const tile_block &block, const tile_step &s, int first)
{
    enum { STRIDE = half_rows<T, D>::STRIDE, ROWS = half_rows<T, D>::ROWS };
    const int begin = larger(s.begin, first / block.place.stack), end = smaller(s.end, (first + WARP_ROWS - 1) / block.place.stack + 1);
    left_tile<T> p[TILE_KEYS / 16];
    UNROLLED
    for (int k = 0; k < TILE_KEYS / 16; k++)
        round_left(p[k], w.scores[2 * k], w.scores[2 * k + 1]);
    UNROLLED
    for (int j = 0; j < D / 16; j++) {
        if (j * 16 >= d)
            continue;
        const sums_tile before[2] = {w.values[2 * j], w.values[2 * j + 1]};
        ONE_BY_ONE
        for (int query = begin; query < end; query++) {
            sums_tile sums[2] = {before[0], before[1]};
            UNROLLED
            for (int k = 0; k < TILE_KEYS / 16; k++) {
                if (k * 16 >= s.n)
                    continue;
                right_tile<T> b[2];
                load_right_by_rows(b, values + k * 16 * STRIDE + j * 16, STRIDE);
                UNROLLED
                for (int t = 0; t < 2; t++) {
                    keep_rows(b[t], block.low[query] - s.start - k * 16, block.high[query] - s.start - k * 16);
                    multiply_tiles(sums[t], p[k], b[t]);
                }
            }
            UNROLLED
            for (int i = 0; i < ROWS; i++)
                UNROLLED
                for (int c = i * FRAGMENT_COLUMNS; c < (i + 1) * FRAGMENT_COLUMNS; c++)
                    UNROLLED
                    for (int t = 0; t < 2; t++)
                        w.values[2 * j + t].x[c] = w.state.query[i] == query ? sums[t].x[c] : w.values[2 * j + t].x[c];
        }
    }
}

/* Four keys at a time, whose weights come through shared memory from the lanes that have them. CAREFUL: keys that a row does not see are left out. */
template <bool WHOLE, bool CAREFUL, int D>
DEVICE_APART void add_values(float_rows<D> &w, const float *values, float *weights, int d, const tile_step &s)
{
    typedef float_rows<D> rows;
    UNROLLED
    for (int i = 0; i < rows::ROWS; i++)
        UNROLLED
        for (int c = 0; c < rows::KEYS; c++)
            weights[row_number(w, i) * WEIGHT_STRIDE + key_number(w, c)] = w.scores[i][c];
    warp_barrier();
    int from[rows::ROWS], to[rows::ROWS];
    UNROLLED
    for (int i = 0; i < rows::ROWS; i++)
        seen_keys(w.state, i, s, from[i], to[i]);
    const float *weight = weights + row_number(w, 0) * WEIGHT_STRIDE, *value = values + column_number(w, 0);
    for (int key = 0; key < s.n; key += 4) {
        quad p[rows::ROWS];
        UNROLLED
        for (int i = 0; i < rows::ROWS; i++)
            p[i] = *(const quad *)(weight + i * rows::ROW_LANES * WEIGHT_STRIDE + key);
        UNROLLED
        for (int t = 0; t < 4; t++)
            UNROLLED
            for (int c = 0; c < rows::COLUMNS; c += 4) {
                if (!WHOLE && c * rows::SHARING >= d)
                    continue;
                const quad v = *(const quad *)(value + (key + t) * rows::STRIDE + c * rows::SHARING);
                UNROLLED
                for (int i = 0; i < rows::ROWS; i++)
                    UNROLLED
                    for (int e = 0; e < 4; e++)
                        if (!CAREFUL || (key + t >= from[i] && key + t < to[i]))
                            w.values[i][c + e] = multiply_add(p[i].x[t], v.x[e], w.values[i][c + e]);
            }
    }
    warp_barrier();                                    /* the next tile's weights go to the same place */
}

template <typename T, int D>
DEVICE void add_step(half_rows<T, D> &w, const T *values, float *, int d, const tile_step &s)
{
    if (d > D - 16 && s.n > TILE_KEYS - 16)
        multiply_values<true>(w, values, d, s.n);
    else
        multiply_values<false>(w, values, d, s.n);
}
template <int D>
DEVICE void add_step(float_rows<D> &w, const float *values, float *weights, int d, const tile_step &s)
{
    if (d > D - 4 * float_rows<D>::SHARING)
        add_values<true, false>(w, values, weights, d, s);
    else
        add_values<false, false>(w, values, weights, d, s);
}
template <int D>
DEVICE_APART void add_step_seen(float_rows<D> &w, const float *values, float *weights, int d, const tile_block &, const tile_step &s, int)
{
    add_values<false, true>(w, values, weights, d, s);
}

/* ---- a block ------------------------------------------------------------------------------------------------------------------------ */

DEVICE tile_place place_of(const tile_attention_args &args, int64_t block)
{
    const attention_args &a = args.attention;
    const int parts = tile_attention_parts(&a), group = a.n_heads / a.n_kv_heads, part = (int)(block % parts);
    tile_place p;
    p.kv_head = (int)(block / parts % a.n_kv_heads);
    p.row = block / parts / a.n_kv_heads * args.rows_per_block;
    p.rows = a.n_rows - p.row < args.rows_per_block ? (int)(a.n_rows - p.row) : args.rows_per_block;
    p.stack = tile_attention_heads(&a);
    p.head = p.kv_head * group + part * p.stack;
    p.heads = smaller(p.stack, group - part * p.stack);
    return p;
}

/* Begins to bring the queries; tile rows that are not used become 0. */
template <typename T, int D>
DEVICE_APART void load_queries(T *tile, const attention_args &a, const tile_place &p)
{
    enum { STRIDE = TILE_STRIDE(D, (int)sizeof(T)), ELEMENTS = 16 / (int)sizeof(T), CHUNKS = D / ELEMENTS };
    const row_form form = form_of<T>(a.q, a.q_stride, a.head_dim);
    const int whole = (p.rows * p.stack + WARP_ROWS - 1) / WARP_ROWS * WARP_ROWS;
    for (int i = threadIdx.x; i < whole * CHUNKS; i += BLOCK_THREADS) {
        const int tile_row = i / CHUNKS, column = i % CHUNKS * ELEMENTS, query = tile_row / p.stack, head = tile_row % p.stack;
        const bool used = query < p.rows && head < p.heads;
        if (column >= form.padded)
            continue;
        const T *from = (const T *)a.q;
        if (used)
            from += (a.q_rows ? a.q_rows[p.row + query] : p.row + query) * form.stride + (int64_t)(p.head + head) * form.d + column;
        T *to = tile + tile_row * STRIDE + column;
        if (form.by_sixteen)
            copy_sixteen(to, used && column < form.d ? from : (const T *)a.q, used && column < form.d);
        else
            for (int e = 0; e < ELEMENTS; e++)
                to[e] = used && column + e < form.d ? from[e] : store<T>(0.0f);
    }
}

/* Rounds the results of 16 tile rows into the place of their queries and writes them from there, side by side. */
template <typename T, int D, typename W>
DEVICE_APART void write_rows(W &w, T *tile, const attention_args &a, const tile_place &p, int first)
{
    enum { STRIDE = TILE_STRIDE(D, (int)sizeof(T)), ELEMENTS = 16 / (int)sizeof(T), CHUNKS = D / ELEMENTS };
    UNROLLED
    for (int i = 0; i < W::ROWS; i++) {
        const float inverse = 1.0f / w.state.sum[i];
        T *row = tile + (first + row_number(w, i)) * STRIDE;
        UNROLLED
        for (int c = 0; c < W::COLUMNS; c++)
            row[column_number(w, c)] = store<T>(value_of(w, i, c) * inverse + 0.0f);      /* -0 becomes 0 */
    }
    warp_barrier();
    const row_form form = form_of<T>(a.out, a.out_stride, a.head_dim);
    for (int i = lane_index(); i < WARP_ROWS * CHUNKS; i += WARP_LANES) {
        const int tile_row = first + i / CHUNKS, column = i % CHUNKS * ELEMENTS, query = tile_row / p.stack, head = tile_row % p.stack;
        if (query >= p.rows || head >= p.heads || column >= form.d)
            continue;
        T *to = (T *)a.out + (p.row + query) * form.stride + (int64_t)(p.head + head) * form.d + column;
        const T *from = tile + tile_row * STRIDE + column;
        if (form.by_sixteen)
            *(sixteen *)to = *(const sixteen *)from;
        else
            for (int e = 0; e < ELEMENTS && column + e < form.d; e++)
                to[e] = from[e];
    }
}

template <typename W>
DEVICE_APART void start_rows(W &w, const tile_block &b, int first)
{
    const tile_place &p = b.place;
    UNROLLED
    for (int i = 0; i < W::ROWS; i++) {
        const int tile_row = first + row_number(w, i), query = tile_row / p.stack;
        const bool used = query < p.rows && tile_row % p.stack < p.heads;
        w.state.query[i] = query;
        w.state.low[i] = used ? b.low[query] : 0;
        w.state.high[i] = used ? b.high[query] : 0;
        w.state.largest[i] = -INFINITE;
        w.state.sum[i] = 0.0f;
        UNROLLED
        for (int c = 0; c < W::COLUMNS; c++)
            value_of(w, i, c) = 0.0f;
    }
}

/* Begin to bring a step's keys and values. */
template <typename T, int D>
DEVICE void load_keys(T *tile, const attention_args &a, const tile_block &b, int turn)
{
    const T *k = (const T *)a.k + (int64_t)b.place.kv_head * a.head_dim;
    load_rows<T, D>(tile, k, form_of<T>(k, a.k_stride, a.head_dim), b.numbers[turn], b.steps[turn].n);
}
template <typename T, int D>
DEVICE bool load_values(T *tile, const attention_args &a, const tile_block &b, int turn)
{
    const T *v = (const T *)a.v + (int64_t)b.place.kv_head * a.head_dim;
    return load_rows<T, D>(tile, v, form_of<T>(v, a.v_stride, a.head_dim), b.numbers[turn] + TILE_KEYS, b.steps[turn].n);
}

/* Whether a value of the step is not finite, as far as this thread brought it; odd: what load_values said. */
template <typename T, int D>
DEVICE bool values_odd(const T *tile, const attention_args &a, const tile_block &b, const tile_step &s, bool odd)
{
    const row_form form = form_of<T>((const T *)a.v + (int64_t)b.place.kv_head * a.head_dim, a.v_stride, a.head_dim);
    return form.by_sixteen ? find_odd<T, D>(tile, form, s.from, s.n) : odd;
}

/* Whether the run has one of 16 tile rows. Other warps have nothing to do but to help with copies. */
DEVICE bool has_rows(const tile_block &b, const tile_step &s, int first)
{
    return first < TILE_ROWS && first < s.end * b.place.stack && first + WARP_ROWS > s.begin * b.place.stack;
}

template <typename T, int D>
DEVICE_APART void tile_attention_block(const tile_attention_args &args, int64_t block, char *memory)
{
    typedef typename rows_of<T, D>::type warp_rows;
    enum { BYTES = TILE_BYTES(D, (int)sizeof(T)), APART = warp_rows::APART, STRIDE = warp_rows::STRIDE };
    SHARED(tile_block, shared, 1);
    tile_block &b = *shared;
    const attention_args &a = args.attention;
    T *const queries = (T *)memory, *const keys = (T *)(memory + BYTES), *const values = APART ? (T *)(memory + 2 * BYTES) : keys;
    float *const weights = (float *)(memory + 2 * BYTES);              /* in fp32 */

    if (threadIdx.x == 0)
        b.place = place_of(args, block);
    __syncthreads();
    load_queries<T, D>(queries, a, b.place);
    read_contexts(a, b);
    warp_rows w[TILES_A_WARP];
    UNROLLED
    for (int t = 0; t < TILES_A_WARP; t++)
        start_rows(w[t], b, (warp_index() + t * BLOCK_WARPS) * WARP_ROWS);
    int lowest = b.segments[0].lowest;
    for (int i = 0; i < b.place.rows; i = b.segments[i].end)
        lowest = smaller(lowest, b.segments[i].lowest);
    find_step(a, b, 0, lowest / TILE_KEYS * TILE_KEYS, 0);
    __syncthreads();
    if (APART && b.steps[0].n > 0)
        load_keys<T, D>(keys, a, b, 0);
    copies_end();

    ONE_BY_ONE
    for (int turn = 0; b.steps[turn].n > 0; turn ^= 1) {
        const tile_step &now = b.steps[turn];
        bool odd = false;
        if (APART)
            odd = load_values<T, D>(values, a, b, turn);
        else
            load_keys<T, D>(keys, a, b, turn);
        copies_end();
        copies_wait<APART>();
        __syncthreads();

        UNROLLED
        for (int t = 0; t < TILES_A_WARP; t++) {
            const int first = (warp_index() + t * BLOCK_WARPS) * WARP_ROWS;
            if (has_rows(b, now, first))
                score_step(w[t], queries + first * STRIDE, keys, a.head_dim, now.n);
        }
        find_step(a, b, turn ^ 1, now.start, now.end);
        __syncthreads();

        if (!APART)
            odd = load_values<T, D>(values, a, b, turn);
        else if (b.steps[turn ^ 1].n > 0)
            load_keys<T, D>(keys, a, b, turn ^ 1);
        copies_end();
        UNROLLED
        for (int t = 0; t < TILES_A_WARP; t++)
            if (has_rows(b, now, (warp_index() + t * BLOCK_WARPS) * WARP_ROWS))
                weigh(w[t], a, now);
        copies_wait<APART>();
        if (now.partial)
            odd = values_odd<T, D>(values, a, b, now, odd);
        const bool careful = block_any(now.partial && odd);

        UNROLLED
        for (int t = 0; t < TILES_A_WARP; t++) {
            const int first = (warp_index() + t * BLOCK_WARPS) * WARP_ROWS;
            float *const own = APART ? weights : weights + first * WEIGHT_STRIDE;
            if (!has_rows(b, now, first))
                continue;
            if (careful)
                add_step_seen(w[t], values, own, a.head_dim, b, now, first);
            else
                add_step(w[t], values, own, a.head_dim, now);
        }
        __syncthreads();
    }
    UNROLLED
    for (int t = 0; t < TILES_A_WARP; t++) {
        const int first = (warp_index() + t * BLOCK_WARPS) * WARP_ROWS;
        if (first < TILE_ROWS)
            write_rows<T, D>(w[t], queries, a, b.place, first);
    }
}

/* Blocks that a multiprocessor is to hold, which bounds the registers: as many as go without spills. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
enum { HALF_BLOCKS_128 = 2 };
#else
enum { HALF_BLOCKS_128 = 3 };
#endif
template <typename T, int D> struct roominess {
    static constexpr int blocks = sizeof(T) == 4 ? (D == 64 ? 3 : D == 128 ? 2 : 1) : D == 64 ? 3 : D == 128 ? HALF_BLOCKS_128 : 2;
};

/* For heads of up to D columns. One form does with records what others have a second for, since sums need their registers no more then. */
template <typename T, int D>
SIZED_KERNEL(tile_attention, tile_attention_args a, TILE_THREADS, (roominess<T, D>::blocks))
{
    DYNAMIC_SHARED(memory, TILE_SHARED_BYTES(D, (int)sizeof(T)));
    tile_attention_block<T, D>(a, blockIdx.x, (char *)memory);
    if (!a.fused.n_rows)
        return;
    const tile_place p = place_of(a, blockIdx.x);
    ONE_BY_ONE
    for (int i = 0; i < p.rows * p.heads; i++)
        apply_records_part<T>(a.fused, p.row + i / p.heads, p.head + i % p.heads, a.attention.head_dim);
}

#define TILE_ENTRIES(table, id, D) \
    (KERNEL_ENTRY(table, id, 0, tile_attention_args, tile_attention<float, D>), \
     KERNEL_ENTRY(table, id, 1, tile_attention_args, tile_attention<bf16, D>), \
     KERNEL_ENTRY(table, id, 2, tile_attention_args, tile_attention<f16, D>))

/* On the host only tests run these, so there the widest does all: each takes minutes to compile. */
#if defined(__CUDACC__)
enum { NARROW = 64, USUAL = 128 };
#else
enum { NARROW = 256, USUAL = 256 };
#endif

void tile_attention_entries(kernel_table *table)
{
    TILE_ENTRIES(table, KERNEL_TILE_ATTENTION_64, NARROW);
    TILE_ENTRIES(table, KERNEL_TILE_ATTENTION_128, USUAL);
    TILE_ENTRIES(table, KERNEL_TILE_ATTENTION_256, 256);
}

}
