/* tile_attention.cu: what attention.cu computes, by tiles: for a GPU, where attention.cu's loads are the bound.
 *
 * A block takes one key-value head, as many of the query heads that share it as fit (`heads`), and rows_per_block output rows, one after the other. Its
 * TILE_ROWS tile rows are (row, head) pairs, heads of a row side by side. Keys come in tiles of TILE_KEYS, at absolute positions of a context: tile t
 * holds keys 64 t to 64 t + 63 of whatever list a row has. Rows of one strand have one list; those of another often begin with the same rows. So for each
 * tile the block's rows are taken in runs whose lists agree on that tile, and a run's keys and values are gathered into shared memory once.
 *
 * A row's bits depend on its own context alone: each of its numbers comes from its own row of the tile products, tiles begin at fixed places, and a row that is
 * not of the run, or sees nothing of a tile, is left as it is. One thing could leak: a weight of 0 times an infinite value of a position that the row does
 * not see. Where a tile that is seen in part holds such a value, each of its rows is done alone, without what it does not see. */
#include "kernels/fused.h"
#include "kernels/math.h"
#include "kernels/tile.h"
#include "kernels/tile_shapes.h"

namespace KERNEL_NAMESPACE {

/* What all threads of a block know. */
template <typename T, int D> struct tile_block {
    const attention_args &a;
    T *q, *k, *v;                    /* in shared memory */
    int32_t *first, *count;          /* [rows]: of the rows' contexts; first is where the row's window's list begins, see key_at */
    int64_t row0;
    int rows, heads, head0, kv_head; /* query heads head0 .. head0 + heads - 1 */
    bool by_sixteen;                 /* rows of q, k and v may be moved 16 bytes at a time */
};

/* Rows lo .. hi of a run, the keys `from` .. `to` of the tile that begins at `base`, as they stand in the list of row `of`. */
struct tile_run { int lo, hi, of, base, from, to; };

/* Which keys of a tile a row sees: from .. to, empty if none. */
template <typename T, int D>
DEVICE void seen_keys(const tile_block<T, D> &b, int row, int base, int &from, int &to)
{
    const int count = b.count[row], window = b.a.window > 0 && b.a.window < count ? b.a.window : count;
    from = count - window - base;
    to = count - base;
    from = from > 0 ? from : 0;
    to = to < TILE_KEYS ? to : TILE_KEYS;
}

/* ---- loading -------------------------------------------------------------------------------------------------------------------- */

/* One row of shared memory's, its padding columns zeroed, from `from`; all of it zeroed where that is NULL. `part` of `parts` threads. */
template <typename T, int D>
DEVICE void load_row(T *to, const T *from, int width, bool by_sixteen, int part, int parts)
{
    const int pack = 16 / (int)sizeof(T);
    if (by_sixteen) {
        for (int i = part * pack; i < D; i += parts * pack)
            if (from && i < width)
                copy_sixteen(to + i, from + i);
            else
                *(sixteen *)(to + i) = sixteen{};
        return;
    }
    for (int i = part; i < D; i += parts)
        to[i] = from && i < width ? from[i] : store<T>(0.0f);
}

/* Keys or values of a run into a tile. */
template <typename T, int D>
DEVICE void load_tile(const tile_block<T, D> &b, T *to, const void *x, int64_t stride, const int32_t *list, const tile_run &run)
{
    const int parts = 8, each = blockDim.x >= 8 ? blockDim.x / parts : 1, part = blockDim.x >= 8 ? threadIdx.x % parts : 0;
    const int32_t *rows = list + b.first[run.of] + run.base;
    for (int key = blockDim.x >= 8 ? threadIdx.x / parts : 0; key < TILE_KEYS; key += each) {
        const T *from = key >= run.from && key < run.to ? (const T *)x + rows[key] * stride + (int64_t)b.kv_head * b.a.head_dim : nullptr;
        load_row<T, D>(to + key * pitch<T, D>(), from, b.a.head_dim, b.by_sixteen, part, blockDim.x >= 8 ? parts : 1);
    }
    copies_end();
}

template <typename T, int D>
DEVICE void load_queries(const tile_block<T, D> &b)
{
    const int parts = 8, each = blockDim.x >= 8 ? blockDim.x / parts : 1, part = blockDim.x >= 8 ? threadIdx.x % parts : 0;
    for (int at = blockDim.x >= 8 ? threadIdx.x / parts : 0; at < TILE_ROWS; at += each) {
        const int row = at / b.heads;
        const T *from = nullptr;
        if (row < b.rows) {
            const int64_t q_row = b.a.q_rows ? b.a.q_rows[b.row0 + row] : b.row0 + row;
            from = (const T *)b.a.q + q_row * b.a.q_stride + (int64_t)(b.head0 + at % b.heads) * b.a.head_dim;
        }
        load_row<T, D>(b.q + at * pitch<T, D>(), from, b.a.head_dim, b.by_sixteen, part, blockDim.x >= 8 ? parts : 1);
    }
    copies_end();
}

/* Whether one of the numbers in four bytes is an infinity or a NaN: all bits of its exponent are 1. */
template <typename T> DEVICE bool is_infinite(uint32_t x);
template <> DEVICE_SPECIAL bool is_infinite<float>(uint32_t x) { return (x & 0x7f800000u) == 0x7f800000u; }
template <> DEVICE_SPECIAL bool is_infinite<bf16>(uint32_t x) { return (x & 0x7f80u) == 0x7f80u || (x & 0x7f800000u) == 0x7f800000u; }
template <> DEVICE_SPECIAL bool is_infinite<f16>(uint32_t x) { return (x & 0x7c00u) == 0x7c00u || (x & 0x7c000000u) == 0x7c000000u; }

template <typename T, int D>
DEVICE bool holds_infinite(const T *v)
{
    const int packs = D * (int)sizeof(T) / 16;
    float found = 0.0f;
    for (int i = threadIdx.x; i < TILE_KEYS * packs; i += blockDim.x) {
        uint32_t words[4];
        *(sixteen *)words = *(const sixteen *)(v + i / packs * pitch<T, D>() + i % packs * (16 / (int)sizeof(T)));
        if (is_infinite<T>(words[0]) || is_infinite<T>(words[1]) || is_infinite<T>(words[2]) || is_infinite<T>(words[3]))
            found = 1.0f;
    }
    return block_max(found) > 0.0f;
}

/* ---- runs ----------------------------------------------------------------------------------------------------------------------- */

/* Whether rows i and j have the same keys and values at positions base + from .. base + to. */
template <typename T, int D>
DEVICE bool lists_agree(const tile_block<T, D> &b, int i, int j, int base, int from, int to)
{
    if (b.first[i] == b.first[j])
        return true;
    float differ = 0.0f;
    for (int key = from + threadIdx.x; key < to; key += blockDim.x) {
        const int64_t x = b.first[i] + base + key, y = b.first[j] + base + key;
        if (b.a.key_rows[x] != b.a.key_rows[y] || b.a.value_rows[x] != b.a.value_rows[y])
            differ = 1.0f;
    }
    return block_max(differ) == 0.0f;
}

/* The run that begins with row lo or the next that sees something of the tile; lo = hi when there is none. The row that sees most of the tile (`of`) has
 * the list of all: up to where another ends, the two agree. */
template <typename T, int D>
DEVICE tile_run next_run(const tile_block<T, D> &b, int lo, int base)
{
    tile_run run = {lo, lo, lo, base, 0, 0};
    int from, to;
    for (; run.lo < b.rows; run.lo++) {
        seen_keys(b, run.lo, base, run.from, run.to);
        if (run.from < run.to)
            break;
    }
    run.of = run.lo;
    for (run.hi = run.lo < b.rows ? run.lo + 1 : run.lo; run.hi < b.rows; run.hi++) {
        seen_keys(b, run.hi, base, from, to);
        if (from >= to)
            break;
        const int least = from < run.from ? from : run.from;
        if (!lists_agree(b, run.of, run.hi, base, least, to < run.to ? to : run.to))
            break;
        if (to > run.to) {
            run.of = run.hi;
            run.to = to;
        }
        run.from = least;
    }
    return run;
}

/* ---- rows ----------------------------------------------------------------------------------------------------------------------- */

/* What a warp keeps of its 16 tile rows from tile to tile. */
template <int D> struct tile_state {
    fragment o[D / 8];
    float largest[SLOTS], sum[SLOTS];
};

/* Scores of tile rows, masked: -inf what a row does not see. */
template <typename T, int D>
DEVICE void finish_scores(const tile_block<T, D> &b, int tile, const tile_run &run, fragment (&s)[KEY_FRAGMENTS])
{
    UNROLLED for (int slot = 0; slot < SLOTS; slot++) {
        const int row = (tile * 16 + row_of(slot)) / b.heads;
        int from = 0, to = 0;
        if (row >= run.lo && row < run.hi)
            seen_keys(b, row, run.base, from, to);
        UNROLLED for (int n = 0; n < KEY_FRAGMENTS; n++)
            UNROLLED for (int e = 0; e < ELEMENTS; e++) {
                if (slot_of(e) != slot)
                    continue;
                const int key = key_of<T>(n, e);
                float x = s[n].x[e] * b.a.scale;
                if (b.a.softcap > 0.0f)
                    x = b.a.softcap * hyperbolic_tangent(x / b.a.softcap);
                s[n].x[e] = key >= from && key < to ? x : -INFINITE;
            }
    }
}

/* The online softmax's step: s becomes weights; rescale is what earlier sums are worth now. Rows out of lo .. hi stay. */
template <typename T, int D>
DEVICE void weigh(const tile_block<T, D> &b, int tile, int lo, int hi, fragment (&s)[KEY_FRAGMENTS], tile_state<D> &state, float (&rescale)[SLOTS],
                  bool (&active)[SLOTS])
{
    UNROLLED for (int slot = 0; slot < SLOTS; slot++) {
        const int row = (tile * 16 + row_of(slot)) / b.heads;
        float most = -INFINITE, total = 0.0f;
        UNROLLED for (int n = 0; n < KEY_FRAGMENTS; n++)
            UNROLLED for (int e = 0; e < ELEMENTS; e++)
                if (slot_of(e) == slot)
                    most = maximum(s[n].x[e], most);
        active[slot] = row >= lo && row < hi;
        const float before = state.largest[slot], now = maximum(row_largest(most), before);
        const float base = now == -INFINITE ? 0.0f : now;        /* nothing but -inf so far: weights 0, not exp(-inf + inf) */
        rescale[slot] = exponential(before - base);
        UNROLLED for (int n = 0; n < KEY_FRAGMENTS; n++)
            UNROLLED for (int e = 0; e < ELEMENTS; e++)
                if (slot_of(e) == slot) {
                    s[n].x[e] = exponential(s[n].x[e] - base);
                    total += s[n].x[e];
                }
        total = row_sum(total);
        if (active[slot]) {
            state.largest[slot] = now;
            state.sum[slot] = state.sum[slot] * rescale[slot] + total;
        }
    }
}

/* Whether some of a warp's 16 tile rows are of rows lo .. hi. */
template <typename T, int D>
DEVICE bool has_rows(const tile_block<T, D> &b, int tile, int lo, int hi)
{
    return tile < M_TILES && tile * 16 < hi * b.heads && tile * 16 + 16 > lo * b.heads;
}

/* Whether some row of a run does not see all of its keys. */
template <typename T, int D>
DEVICE bool sees_in_part(const tile_block<T, D> &b, const tile_run &run)
{
    for (int row = run.lo; row < run.hi; row++) {
        int from, to;
        seen_keys(b, row, run.base, from, to);
        if (from > run.from || to < run.to)
            return true;
    }
    return false;
}

/* A run's keys and values into shared memory, and its rows' scores, once all threads of the block are here. */
template <typename T, int D>
DEVICE void score(const tile_block<T, D> &b, const tile_run &run, fragment (&s)[MINE][KEY_FRAGMENTS])
{
    __syncthreads();                                   /* the tiles before are not read any more */
    load_tile(b, b.k, b.a.k, b.a.k_stride, b.a.key_rows, run);
    load_tile(b, b.v, b.a.v, b.a.v_stride, b.a.value_rows, run);
    copies_wait<1>();
    __syncthreads();
    UNROLLED for (int mine = 0; mine < MINE; mine++) {
        const int tile = threadIdx.x / LANES + mine * (int)(blockDim.x / LANES);
        if (!has_rows(b, tile, run.lo, run.hi))
            continue;
        tile_products<T, D>::scores(s[mine], b.q + tile * 16 * pitch<T, D>(), b.k);
        finish_scores(b, tile, run, s[mine]);
    }
    copies_wait<0>();
    __syncthreads();                                   /* the values are there; fp32's weights go where the keys were */
}

/* One run and one tile. Where it holds infinities and some row sees it in part, it is done again, each row alone: what that row does not see is
 * not loaded then. */
template <typename T, int D>
DEVICE void attend(const tile_block<T, D> &b, const tile_run &run, tile_state<D> (&state)[MINE])
{
    tile_run now = run;
    bool alone = false;
    for (int row = run.lo; row < run.hi;) {
        fragment s[MINE][KEY_FRAGMENTS];
        score(b, now, s);
        if (!alone && sees_in_part(b, run) && holds_infinite<T, D>(b.v)) {
            alone = true;
        } else {
            UNROLLED for (int mine = 0; mine < MINE; mine++) {
                const int tile = threadIdx.x / LANES + mine * (int)(blockDim.x / LANES);
                float rescale[SLOTS];
                bool active[SLOTS];
                if (!has_rows(b, tile, now.lo, now.hi))
                    continue;
                weigh(b, tile, now.lo, now.hi, s[mine], state[mine], rescale, active);
                tile_products<T, D>::values(state[mine].o, s[mine], b.v, rescale, active, b.k + tile * 16 * (TILE_KEYS + 4));
            }
            row = now.hi;
        }
        if (alone && row < run.hi) {
            now = {row, row + 1, row, run.base, 0, 0};
            seen_keys(b, row, run.base, now.from, now.to);
        }
    }
}

template <typename T, int D>
DEVICE void write_rows(const tile_block<T, D> &b, const tile_state<D> (&state)[MINE])
{
    UNROLLED for (int mine = 0; mine < MINE; mine++) {
        const int tile = threadIdx.x / LANES + mine * (int)(blockDim.x / LANES);
        if (!has_rows(b, tile, 0, b.rows))
            continue;
        UNROLLED for (int e = 0; e < ELEMENTS; e++) {
            const int slot = slot_of(e), at = tile * 16 + row_of(slot), row = at / b.heads;
            if (row >= b.rows)
                continue;
            T *out = (T *)b.a.out + (b.row0 + row) * b.a.out_stride + (int64_t)(b.head0 + at % b.heads) * b.a.head_dim;
            UNROLLED for (int n = 0; n < D / 8; n++) {
                const int column = column_of<T>(n, e);
                if (column < b.a.head_dim)
                    out[column] = store<T>(state[mine].o[n].x[e] / state[mine].sum[slot]);
            }
        }
    }
}

/* ---- the kernel ----------------------------------------------------------------------------------------------------------------- */

template <typename T>
DEVICE bool lies_by_sixteen(const attention_args &a)
{
    const uint64_t places = (uint64_t)(uintptr_t)a.q | (uint64_t)(uintptr_t)a.k | (uint64_t)(uintptr_t)a.v
        | (uint64_t)((a.q_stride | a.k_stride | a.v_stride | a.head_dim) * (int64_t)sizeof(T));
    return places % 16 == 0;
}

template <typename T, int D>
DEVICE_APART void attend_block(const tile_attention_args &args, int64_t block)
{
    const attention_args &a = args.attention;
    DYNAMIC_SHARED(memory, TILE_BYTES(D, sizeof(T)));
    SHARED(int32_t, first, TILE_ROWS);
    SHARED(int32_t, count, TILE_ROWS);
    const int group = a.n_heads / a.n_kv_heads, heads = tile_heads(group), parts = (group + heads - 1) / heads;
    const int part = (int)(block % parts), kv_head = (int)(block / parts % a.n_kv_heads);
    const int64_t row0 = block / parts / a.n_kv_heads * args.rows_per_block, left = a.n_rows - row0;
    T *q = (T *)memory, *k = q + TILE_ROWS * pitch<T, D>(), *v = k + TILE_KEYS * pitch<T, D>();
    const int here = (part + 1) * heads <= group ? heads : group - part * heads;
    const tile_block<T, D> b = {a, q, k, v, first, count, row0, (int)(left < args.rows_per_block ? left : args.rows_per_block), here,
                                kv_head * group + part * heads, kv_head, lies_by_sixteen<T>(a)};
    for (int i = threadIdx.x; i < b.rows; i += blockDim.x) {
        first[i] = a.contexts[row0 + i].first;
        count[i] = a.contexts[row0 + i].count;
    }
    load_queries(b);
    tile_state<D> state[MINE];
    UNROLLED for (int mine = 0; mine < MINE; mine++) {
        UNROLLED for (int n = 0; n < D / 8; n++)
            state[mine].o[n] = fragment{};
        UNROLLED for (int slot = 0; slot < SLOTS; slot++) {
            state[mine].largest[slot] = -INFINITE;
            state[mine].sum[slot] = 0.0f;
        }
    }
    __syncthreads();
    int longest = 0, start = INT32_MAX;
    for (int i = 0; i < b.rows; i++) {
        const int unseen = a.window > 0 && a.window < count[i] ? count[i] - a.window : 0;
        longest = count[i] > longest ? count[i] : longest;
        start = unseen < start ? unseen : start;
    }
    for (int base = start / TILE_KEYS * TILE_KEYS; base < longest; base += TILE_KEYS)
        for (tile_run run = next_run(b, 0, base); run.lo < run.hi; run = next_run(b, run.hi, base))
            attend(b, run, state);
    write_rows(b, state);
    for (int i = 0; args.fused.n_rows && i < b.rows * here; i++)
        apply_records_part<T>(args.fused, row0 + i / here, b.head0 + i % here, a.head_dim);
}

template <typename T, int D>
SIZED_KERNEL(tile_attention, tile_attention_args args, TILE_THREADS, D == 64 ? 3 : D == 128 ? 2 : 1)
{
    attend_block<T, D>(args, blockIdx.x);
}

/* On the host only tests and the stand-in run this, so there it is compiled once, for the widest heads, and for no instruction set but the first. */
#if defined(__CUDACC__)
enum { WIDTH_64 = 64, WIDTH_128 = 128 };
#else
enum { WIDTH_64 = 256, WIDTH_128 = 256 };
#endif

void tile_attention_entries(kernel_table *table)
{
#if defined(__CUDACC__) || !defined(__AVX2__)
    KERNEL_ENTRY(table, KERNEL_TILE_ATTENTION_64, 0, tile_attention_args, tile_attention<float, WIDTH_64>);
    KERNEL_ENTRY(table, KERNEL_TILE_ATTENTION_64, 1, tile_attention_args, tile_attention<bf16, WIDTH_64>);
    KERNEL_ENTRY(table, KERNEL_TILE_ATTENTION_64, 2, tile_attention_args, tile_attention<f16, WIDTH_64>);
    KERNEL_ENTRY(table, KERNEL_TILE_ATTENTION_128, 0, tile_attention_args, tile_attention<float, WIDTH_128>);
    KERNEL_ENTRY(table, KERNEL_TILE_ATTENTION_128, 1, tile_attention_args, tile_attention<bf16, WIDTH_128>);
    KERNEL_ENTRY(table, KERNEL_TILE_ATTENTION_128, 2, tile_attention_args, tile_attention<f16, WIDTH_128>);
    KERNEL_ENTRY(table, KERNEL_TILE_ATTENTION_256, 0, tile_attention_args, tile_attention<float, 256>);
    KERNEL_ENTRY(table, KERNEL_TILE_ATTENTION_256, 1, tile_attention_args, tile_attention<bf16, 256>);
    KERNEL_ENTRY(table, KERNEL_TILE_ATTENTION_256, 2, tile_attention_args, tile_attention<f16, 256>);
#else
    (void)table;
#endif
}

}
