/* tile_attention.cu: attention for a GPU, in tiles of 64 query rows and 64 keys.
 *
 * A block takes rows that follow each other and the query heads of one key-value head, stacked
 * (tile_shapes.h), a warp 16 of these tile rows. Keys are taken in tiles at absolute positions 64 t
 * of the row's list. In each tile the rows are walked in runs whose lists agree there: their keys
 * and values, gathered by row number, are read once, so that what forks of a sequence share is
 * shared here. 16-bit types multiply on tensor cores; fp32 by fused multiply-adds.
 *
 * A row's bits depend on its own context alone. Its tiles come in the same order whatever lies
 * beside it, and what it does not see changes nothing: a masked score is -inf and its weight 0, and
 * adding 0 times a finite value to a sum that began with 0 keeps the sum, but for the sign of a
 * zero, which the end makes positive. Values that are not finite would (0 * inf is NaN), so where a
 * tile has one and some row of the block does not see all of the tile, each row's product is done
 * without the keys that it does not see.
 *
 * The stages of a tile, a barrier between any two: keys are there, scores, next tile's keys begin
 * to arrive, weights, values are there, sums, next tile's values begin to arrive. In fp32 keys and
 * values take turns in one place, because more does not fit. */
#include "kernels/fused.h"
#include "kernels/tile_rows.h"

namespace KERNEL_NAMESPACE {

enum { WARP_TILES = TILE_ROWS / WARP_ROWS };
/* 1 but for a block of one thread */
enum { TILES_A_WARP = (WARP_TILES + BLOCK_WARPS - 1) / BLOCK_WARPS };

/* ---- tiles in shared memory --------------------------------------------- */

/* How rows of d elements lie in memory and in tiles of shared memory. */
struct row_form {
    int64_t stride;
    int d, padded;
    bool by_sixteen;
};

template <typename T>
DEVICE row_form form_of(const void *base, int64_t stride, int d)
{
    const int elements = 16 / (int)sizeof(T);
    return row_form{stride, d, (d + 15) / 16 * 16,
        (uintptr_t)base % 16 == 0 && stride % elements == 0 && d % elements == 0};
}

/* Begins to bring n rows of a matrix to a tile; rows without a number, those up to the next
 * multiple of 16, and columns behind the matrix's become 0. Returns whether an element that this
 * thread brought is not finite, as far as it looked: not where copies are asynchronous. */
template <typename T, int D>
DEVICE_APART bool load_rows(
    T *tile, const T *base, const row_form &form, const int32_t *numbers, int n)
{
    enum {
        STRIDE = TILE_STRIDE(D, (int)sizeof(T)),
        ELEMENTS = 16 / (int)sizeof(T),
        CHUNKS = D / ELEMENTS,
        TOGETHER = 4
    };
    const int whole = (n + 15) / 16 * 16;
    bool odd = false;
    if (form.by_sixteen) {
        ONE_BY_ONE
        for (int i = threadIdx.x; i < whole * CHUNKS; i += TOGETHER * BLOCK_THREADS) {
            int32_t number[TOGETHER]; /* all read before the first copy */
            UNROLLED
            for (int b = 0; b < TOGETHER; b++) {
                const int row = (i + b * BLOCK_THREADS) / CHUNKS;
                number[b] = row < whole ? numbers[row] : -1;
            }
            UNROLLED
            for (int b = 0; b < TOGETHER; b++) {
                const int row = (i + b * BLOCK_THREADS) / CHUNKS,
                          column = (i + b * BLOCK_THREADS) % CHUNKS * ELEMENTS;
                const bool there = number[b] >= 0 && column < form.d;
                if (row < whole && column < form.padded)
                    copy_sixteen(tile + row * STRIDE + column,
                        there ? base + number[b] * form.stride + column : base, there);
            }
        }
        return false;
    }
    ONE_BY_ONE
    for (int i = threadIdx.x; i < whole * D; i += BLOCK_THREADS) {
        const int row = i / D, column = i % D;
        if (column >= form.padded) continue;
        T x = store<T>(0.0f);
        if (numbers[row] >= 0 && column < form.d) x = base[numbers[row] * form.stride + column];
        tile[row * STRIDE + column] = x;
        odd |= !(load(x) - load(x) == 0.0f);
    }
    return odd;
}

/* Whether an element that load_rows brought here by 16 bytes, for this thread, is not finite. */
template <typename T, int D>
DEVICE_APART bool find_odd(const T *tile, const row_form &form, int from, int n)
{
    enum {
        STRIDE = TILE_STRIDE(D, (int)sizeof(T)),
        ELEMENTS = 16 / (int)sizeof(T),
        CHUNKS = D / ELEMENTS
    };
    bool odd = false;
    ONE_BY_ONE
    for (int i = threadIdx.x; i < n * CHUNKS; i += BLOCK_THREADS) {
        const int row = i / CHUNKS, column = i % CHUNKS * ELEMENTS;
        if (row < from || column >= form.d) continue;
        odd |= odd_sixteen(tile + row * STRIDE + column);
    }
    return odd;
}

/* ---- a block ------------------------------------------------------------ */

DEVICE tile_place place_of(const tile_attention_args &args, int64_t block)
{
    const attention_args &a = args.attention;
    const int parts = tile_attention_parts(&a), group = a.n_heads / a.n_kv_heads,
              part = (int)(block % parts);
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
    enum {
        STRIDE = TILE_STRIDE(D, (int)sizeof(T)),
        ELEMENTS = 16 / (int)sizeof(T),
        CHUNKS = D / ELEMENTS
    };
    const row_form form = form_of<T>(a.q, a.q_stride, a.head_dim);
    const int whole = (p.rows * p.stack + WARP_ROWS - 1) / WARP_ROWS * WARP_ROWS;
    for (int i = threadIdx.x; i < whole * CHUNKS; i += BLOCK_THREADS) {
        const int tile_row = i / CHUNKS, column = i % CHUNKS * ELEMENTS, query = tile_row / p.stack,
                  head = tile_row % p.stack;
        const bool used = query < p.rows && head < p.heads;
        if (column >= form.padded) continue;
        const T *from = (const T *)a.q;
        if (used)
            from += (a.q_rows ? a.q_rows[p.row + query] : p.row + query) * form.stride
                    + (int64_t)(p.head + head) * form.d + column;
        T *to = tile + tile_row * STRIDE + column;
        if (form.by_sixteen)
            copy_sixteen(
                to, used && column < form.d ? from : (const T *)a.q, used && column < form.d);
        else
            for (int e = 0; e < ELEMENTS; e++)
                to[e] = used && column + e < form.d ? from[e] : store<T>(0.0f);
    }
}

/* Rounds the results of 16 tile rows into the place of their queries and writes them from there,
 * side by side. */
template <typename T, int D, typename W>
DEVICE_APART void write_rows(W &w, T *tile, const attention_args &a, const tile_place &p, int first)
{
    enum {
        STRIDE = TILE_STRIDE(D, (int)sizeof(T)),
        ELEMENTS = 16 / (int)sizeof(T),
        CHUNKS = D / ELEMENTS
    };
    UNROLLED
    for (int i = 0; i < W::ROWS; i++) {
        float sum = w.state.sum[i];
        const int head = (first + row_number(w, i)) % p.stack;
        if (a.sinks && head < p.heads)
            sum += exponential(load(((const T *)a.sinks)[p.head + head]) - w.state.largest[i]);
        const float inverse = 1.0f / sum;
        T *row = tile + (first + row_number(w, i)) * STRIDE;
        UNROLLED
        for (int c = 0; c < W::COLUMNS; c++) /* -0 becomes 0 */
            row[column_number(w, c)] = store<T>(value_of(w, i, c) * inverse + 0.0f);
    }
    warp_barrier();
    const row_form form = form_of<T>(a.out, a.out_stride, a.head_dim);
    for (int i = lane_index(); i < WARP_ROWS * CHUNKS; i += WARP_LANES) {
        const int tile_row = first + i / CHUNKS, column = i % CHUNKS * ELEMENTS,
                  query = tile_row / p.stack, head = tile_row % p.stack;
        if (query >= p.rows || head >= p.heads || column >= form.d) continue;
        T *to = (T *)a.out + (p.row + query) * form.stride + (int64_t)(p.head + head) * form.d
                + column;
        const T *from = tile + tile_row * STRIDE + column;
        if (form.by_sixteen) *(sixteen *)to = *(const sixteen *)from;
        else
            for (int e = 0; e < ELEMENTS && column + e < form.d; e++) to[e] = from[e];
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
        for (int c = 0; c < W::COLUMNS; c++) value_of(w, i, c) = 0.0f;
    }
}

/* Begin to bring a step's keys and values. */
template <typename T, int D>
DEVICE void load_keys(T *tile, const attention_args &a, const tile_block &b, int turn)
{
    const T *k = (const T *)a.k + (int64_t)b.place.kv_head * a.head_dim;
    load_rows<T, D>(
        tile, k, form_of<T>(k, a.k_stride, a.head_dim), b.numbers[turn], b.steps[turn].n);
}
template <typename T, int D>
DEVICE bool load_values(T *tile, const attention_args &a, const tile_block &b, int turn)
{
    const T *v = (const T *)a.v + (int64_t)b.place.kv_head * a.head_dim;
    return load_rows<T, D>(tile, v, form_of<T>(v, a.v_stride, a.head_dim),
        b.numbers[turn] + TILE_KEYS, b.steps[turn].n);
}

/* Whether a value of the step is not finite, as far as this thread brought it; odd: what
 * load_values said. */
template <typename T, int D>
DEVICE bool values_odd(
    const T *tile, const attention_args &a, const tile_block &b, const tile_step &s, bool odd)
{
    const row_form form = form_of<T>(
        (const T *)a.v + (int64_t)b.place.kv_head * a.head_dim, a.v_stride, a.head_dim);
    return form.by_sixteen ? find_odd<T, D>(tile, form, s.from, s.n) : odd;
}

/* Whether the run has one of 16 tile rows. Other warps have nothing to do but to help with
 * copies. */
DEVICE bool has_rows(const tile_block &b, const tile_step &s, int first)
{
    return first < TILE_ROWS && first < s.end * b.place.stack
           && first + WARP_ROWS > s.begin * b.place.stack;
}

template <typename T, int D>
DEVICE_APART void tile_attention_block(const tile_attention_args &args, int64_t block, char *memory)
{
    typedef typename rows_of<T, D>::type warp_rows;
    enum {
        BYTES = TILE_BYTES(D, (int)sizeof(T)),
        APART = warp_rows::APART,
        STRIDE = warp_rows::STRIDE
    };
    SHARED(tile_block, shared, 1);
    tile_block &b = *shared;
    const attention_args &a = args.attention;
    T *const queries = (T *)memory, *const keys = (T *)(memory + BYTES),
             *const values = APART ? (T *)(memory + 2 * BYTES) : keys;
    float *const weights = (float *)(memory + 2 * BYTES); /* in fp32 */

    if (threadIdx.x == 0) b.place = place_of(args, block);
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
    if (APART && b.steps[0].n > 0) load_keys<T, D>(keys, a, b, 0);
    copies_end();

    ONE_BY_ONE
    for (int turn = 0; b.steps[turn].n > 0; turn ^= 1) {
        const tile_step &now = b.steps[turn];
        bool odd = false;
        if (APART) odd = load_values<T, D>(values, a, b, turn);
        else load_keys<T, D>(keys, a, b, turn);
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

        if (!APART) odd = load_values<T, D>(values, a, b, turn);
        else if (b.steps[turn ^ 1].n > 0) load_keys<T, D>(keys, a, b, turn ^ 1);
        copies_end();
        UNROLLED
        for (int t = 0; t < TILES_A_WARP; t++) {
            const int first = (warp_index() + t * BLOCK_WARPS) * WARP_ROWS;
            if (!has_rows(b, now, first)) continue;
            if (a.slopes) tilt(w[t], a, b.place, now, first);
            weigh(w[t], a, now, a.slopes ? 1.0f : a.scale);
        }
        copies_wait<APART>();
        if (now.partial) odd = values_odd<T, D>(values, a, b, now, odd);
        const bool careful = block_any(now.partial && odd);

        UNROLLED
        for (int t = 0; t < TILES_A_WARP; t++) {
            const int first = (warp_index() + t * BLOCK_WARPS) * WARP_ROWS;
            float *const own = APART ? weights : weights + first * WEIGHT_STRIDE;
            if (!has_rows(b, now, first)) continue;
            if (careful) add_step_seen(w[t], values, own, a.head_dim, b, now, first);
            else add_step(w[t], values, own, a.head_dim, now);
        }
        __syncthreads();
    }
    UNROLLED
    for (int t = 0; t < TILES_A_WARP; t++) {
        const int first = (warp_index() + t * BLOCK_WARPS) * WARP_ROWS;
        if (first < TILE_ROWS) write_rows<T, D>(w[t], queries, a, b.place, first);
    }
}

/* Blocks that a multiprocessor is to hold, which bounds the registers: as many as go without
 * spills, but for 16 bytes of 16-bit heads of 128. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
enum { HALF_BLOCKS_128 = 2 };
#else
enum { HALF_BLOCKS_128 = 3 };
#endif
template <typename T, int D>
struct roominess {
    static constexpr int blocks = sizeof(T) == 4 ? (D == 64    ? 3
                                                    : D == 128 ? 2
                                                               : 1)
                                  : D == 64      ? 3
                                  : D == 128     ? HALF_BLOCKS_128
                                                 : 2;
};

/* For heads of up to D columns. One form does with records what others have a second for, since
 * sums need their registers no more then. */
template <typename T, int D>
SIZED_KERNEL(tile_attention, tile_attention_args a, TILE_THREADS, (roominess<T, D>::blocks))
{
    DYNAMIC_SHARED(memory, TILE_SHARED_BYTES(D, (int)sizeof(T)));
    tile_attention_block<T, D>(a, blockIdx.x, (char *)memory);
    if (!a.fused.n_rows) return;
    const tile_place p = place_of(a, blockIdx.x);
    ONE_BY_ONE
    for (int i = 0; i < p.rows * p.heads; i++)
        apply_records_part<T>(
            a.fused, p.row + i / p.heads, p.head + i % p.heads, a.attention.head_dim);
}

#define TILE_ENTRIES(table, id, D)                                                \
    (KERNEL_ENTRY(table, id, 0, tile_attention_args, tile_attention<float, D>),   \
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

} // namespace KERNEL_NAMESPACE
