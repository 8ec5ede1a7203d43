/* attention_rows.h: attention on the CPU, many queries together, each with the bits that
 * attention.cu's kernel gives it alone.
 *
 * A query is one head of one row. Queries of the same key-value head whose lists of keys begin
 * alike (rows of one sequence, forks of a prompt, the heads of a group) form a block. It goes
 * through their keys chunk by chunk; what is alike in a chunk is read once for all of them, and
 * made floats and copied side by side first where enough of them read it: rows of keys lie a whole
 * page of qkv apart, which caches hold few of. Small tiles of scores, and of values, are summed in
 * registers. What a query sees alone, its own last key often, it goes through alone.
 *
 * No sum changes its order: a score's products are added lane by lane and then in wide_sum's tree
 * (wide_sums does several at once), a chunk is weighed by weigh_chunk, weighted values are added
 * key after key, and chunks begin where the query's own list has them, since lists that agree do so
 * from their first key. */
#ifndef INSET_ATTENTION_ROWS_H
#define INSET_ATTENTION_ROWS_H

#include "kernels/attention_chunk.h"
#include "kernels/fused.h"

namespace KERNEL_NAMESPACE {

enum {
    MOST_QUERIES = 32,
    MOST_FLOATS = MOST_QUERIES * MAX_HEAD / 2, /* their columns: wide heads have fewer queries */
    COPY_FROM = 8,                             /* queries that are worth a copy of floats */
    SCORES_STRIDE = CHUNK + 16,                /* a tile may write beyond a chunk */
    MOST_COLUMNS = WIDTH > 8 ? 4 : 2           /* vectors of values in a tile of four queries */
};

template <typename T>
struct query_state {
    T *out;
    seen_keys seen;
    int alike; /* of its keys, how many are the block's first */
    int head;
    float largest, sum, rescale;
};

template <typename T>
struct query_block {
    const attention_args *a;
    const T *k, *v;    /* at the block's key-value head */
    seen_keys longest; /* the list that the others are compared with */
    int n, stride;     /* queries; floats from one row to the next in what follows */
    query_state<T> each[MOST_QUERIES];
    alignas(64) float queries[MOST_FLOATS];
    alignas(64) float values[MOST_FLOATS];
    alignas(64) float scores[MOST_QUERIES * SCORES_STRIDE];
    alignas(64) float copies[CHUNK * MAX_HEAD];
};

/* ---- tiles -------------------------------------------------------------- */

/* The dot products of Q queries with WIDTH / Q keys, in that order. */
template <int Q, typename T>
DEVICE wide score_tile(const float *queries, int stride, const T *const *keys, int d)
{
    enum { K = WIDTH / Q };
    wide sums[WIDTH];
    for (int s = 0; s < WIDTH; s++) sums[s] = wide_all(0.0f);
    int i = 0;
    for (; i + WIDTH <= d; i += WIDTH) {
        wide key[K];
        for (int j = 0; j < K; j++) key[j] = wide_load(keys[j] + i);
        for (int q = 0; q < Q; q++) {
            const wide query = wide_load(queries + q * stride + i);
            for (int j = 0; j < K; j++) sums[q * K + j] = sums[q * K + j] + query * key[j];
        }
    }
    wide totals = wide_sums(sums);
    if (i == d) return totals;
    float each[WIDTH];
    wide_store(each, totals);
    for (; i < d; i++)
        for (int s = 0; s < WIDTH; s++)
            each[s] += queries[s / K * stride + i] * load(keys[s % K][i]);
    return wide_load(each);
}

/* Scores of Q queries and n keys; those of up to WIDTH / Q - 1 more are read and written. */
template <int Q, typename T>
DEVICE_APART void score_keys(float *scores, const float *queries, int stride, const T *const *keys,
    int n, int d, float scale)
{
    enum { K = WIDTH / Q };
    for (int j = 0; j < n; j += K) {
        float tile[WIDTH];
        wide_store(tile, wide_all(scale) * score_tile<Q>(queries, stride, keys + j, d));
        for (int q = 0; q < Q; q++)
            __builtin_memcpy(scores + q * SCORES_STRIDE + j, tile + q * K, K * sizeof(float));
    }
}

/* values = values * rescale + the sum of weights[j] * rows[j] for j < n, for Q queries and C
 * vectors of columns from i on. */
template <int Q, int C, typename T>
DEVICE void value_tile(float *values, int stride, const float *weights, const float *rescale,
    const T *const *rows, int n, int i)
{
    wide sums[Q][C];
    for (int q = 0; q < Q; q++)
        for (int c = 0; c < C; c++)
            sums[q][c] = wide_load(values + q * stride + i + c * WIDTH) * wide_all(rescale[q]);
    for (int j = 0; j < n; j++) {
        wide row[C];
        for (int c = 0; c < C; c++) row[c] = wide_load(rows[j] + i + c * WIDTH);
        for (int q = 0; q < Q; q++) {
            const wide weight = wide_all(weights[q * SCORES_STRIDE + j]);
            for (int c = 0; c < C; c++) sums[q][c] = sums[q][c] + weight * row[c];
        }
    }
    for (int q = 0; q < Q; q++)
        for (int c = 0; c < C; c++) wide_store(values + q * stride + i + c * WIDTH, sums[q][c]);
}

/* All columns from i on, as many vectors at once as go. */
template <int Q, int C>
struct value_columns {
    template <typename T>
    static inline void add(float *values, int stride, const float *weights, const float *rescale,
        const T *const *rows, int n, int i, int d)
    {
        for (; i + C * WIDTH <= d; i += C * WIDTH)
            value_tile<Q, C>(values, stride, weights, rescale, rows, n, i);
        value_columns<Q, C / 2>::add(values, stride, weights, rescale, rows, n, i, d);
    }
};
template <int Q>
struct value_columns<Q, 0> {
    template <typename T>
    static inline void add(float *values, int stride, const float *weights, const float *rescale,
        const T *const *rows, int n, int i, int d)
    {
        for (; i < d; i++)
            for (int q = 0; q < Q; q++) {
                float sum = values[q * stride + i] * rescale[q];
                for (int j = 0; j < n; j++)
                    sum += weights[q * SCORES_STRIDE + j] * load(rows[j][i]);
                values[q * stride + i] = sum;
            }
    }
};

template <int Q, typename T>
DEVICE_APART void add_rows(float *values, int stride, const float *weights, const float *rescale,
    const T *const *rows, int n, int d)
{
    value_columns<Q, Q == 1 ? 8 : MOST_COLUMNS>::add(
        values, stride, weights, rescale, rows, n, 0, d);
}

/* ---- a chunk ------------------------------------------------------------ */

DEVICE int clamp(int n, int most) { return n < 0 ? 0 : n < most ? n : most; }

/* A chunk's rows of keys or of values, found through a list. */
template <typename T>
struct listed_rows {
    const T *first;
    int64_t stride;
    const int32_t *list;
    int n;
};
template <typename T>
DEVICE const T *listed_row(const listed_rows<T> &x, int j)
{
    return x.first + x.list[j] * x.stride;
}
template <typename T>
DEVICE listed_rows<T> keys_of(const query_block<T> &b, const seen_keys &s, int start)
{
    return {b.k, b.a->k_stride, s.key_rows + start, clamp(s.count - start, CHUNK)};
}
template <typename T>
DEVICE listed_rows<T> values_of(const query_block<T> &b, const seen_keys &s, int start)
{
    return {b.v, b.a->v_stride, s.value_rows + start, clamp(s.count - start, CHUNK)};
}

/* Asks for row j, which is to be read soon: processors foresee no rows of a table. */
template <typename T>
DEVICE void ask_for(const listed_rows<T> &x, int j, int d)
{
    enum { LINE = 64 / sizeof(T) };
    if (j >= x.n) return;
    const T *row = listed_row(x, j);
    for (int i = 0; i < d; i += LINE) __builtin_prefetch(row + i, 0, 2);
}

/* Whether rows are read as copies: for few queries only where they have to be made floats. */
template <typename T>
DEVICE bool copies_rows(const query_block<T> &b)
{
    return sizeof(T) != sizeof(float) || b.n >= COPY_FROM;
}

/* at: where the block's rows of a chunk lie as floats; behind them the last one again, which tiles
 * may read. Behind a copy's columns are zeros. next: what is to be brought after these. */
template <typename T>
DEVICE_APART void bring_rows(
    query_block<T> &b, const float **at, const listed_rows<T> &x, const listed_rows<T> &next)
{
    const bool copied = copies_rows(b);
    const int d = b.a->head_dim;
    for (int j = 0; j < x.n; j++) {
        const T *row = listed_row(x, j);
        float *copy = b.copies + j * b.stride;
        at[j] = copied ? copy : (const float *)(const void *)row;
        if (!copied) continue;
        ask_for(next, j, d);
        int i = 0;
        for (; i + WIDTH <= d; i += WIDTH) wide_store(copy + i, wide_load(row + i));
        for (; i < d; i++) copy[i] = load(row[i]);
        for (; i < b.stride; i++) copy[i] = 0.0f;
    }
    for (int j = x.n; j < CHUNK + WIDTH; j++) at[j] = at[x.n - 1];
}

/* How many queries go together from query q on, and how many of a chunk's rows they share. */
template <typename T>
DEVICE int tile_of(const query_block<T> &b, int q)
{
    return b.n - q >= 4 ? 4 : b.n - q >= 2 ? 2 : 1;
}
template <typename T>
DEVICE int alike_of(const query_block<T> &b, int first, int n, int start)
{
    int least = b.n > 1 ? CHUNK : 0;
    for (int q = first; q < first + n; q++) least = clamp(b.each[q].alike - start, least);
    return least;
}

/* The scores of the rows of one query's chunk that it does not share, from .. x.n - 1. */
template <typename T>
DEVICE void score_alone(query_block<T> &b, int q, const listed_rows<T> &x, int from)
{
    const T *at[CHUNK + WIDTH];
    if (from >= x.n) return;
    for (int j = from; j < x.n; j++) at[j] = listed_row(x, j);
    for (int j = x.n; j < x.n + WIDTH; j++) at[j] = at[x.n - 1];
    score_keys<1>(b.scores + q * SCORES_STRIDE + from, b.queries + q * b.stride, b.stride,
        at + from, x.n - from, b.a->head_dim, b.a->scale);
}

/* The same for values: what is shared has already multiplied by rescale. */
template <typename T>
DEVICE void add_alone(query_block<T> &b, int q, const listed_rows<T> &x, int from)
{
    const T *at[CHUNK];
    if (from >= x.n) return;
    const float rescale = from ? 1.0f : b.each[q].rescale;
    for (int j = from; j < x.n; j++) at[j] = listed_row(x, j);
    add_rows<1>(b.values + q * b.stride, b.stride, b.scores + q * SCORES_STRIDE + from, &rescale,
        at + from, x.n - from, b.a->head_dim);
}

template <typename T>
static void score_chunk(query_block<T> &b, int start)
{
    const float *at[CHUNK + WIDTH];
    const int d = b.a->head_dim;
    if (b.n > 1 && start < b.longest.count)
        bring_rows(b, at, keys_of(b, b.longest, start), values_of(b, b.longest, start));
    for (int q = 0, tile; q < b.n; q += tile) {
        tile = tile_of(b, q);
        const int alike = alike_of(b, q, tile, start);
        float *scores = b.scores + q * SCORES_STRIDE;
        const float *queries = b.queries + q * b.stride;
        if (tile == 4) score_keys<4>(scores, queries, b.stride, at, alike, d, b.a->scale);
        else if (tile == 2) score_keys<2>(scores, queries, b.stride, at, alike, d, b.a->scale);
        else score_keys<1>(scores, queries, b.stride, at, alike, d, b.a->scale);
        for (int i = q; i < q + tile; i++)
            score_alone(b, i, keys_of(b, b.each[i].seen, start), alike);
    }
}

template <typename T>
static void add_chunk(query_block<T> &b, int start)
{
    const float *at[CHUNK + WIDTH];
    const int d = copies_rows(b) ? (b.a->head_dim + WIDTH - 1) / WIDTH * WIDTH : b.a->head_dim;
    if (b.n > 1 && start < b.longest.count)
        bring_rows(b, at, values_of(b, b.longest, start), keys_of(b, b.longest, start + CHUNK));
    for (int q = 0, tile; q < b.n; q += tile) {
        tile = tile_of(b, q);
        const int alike = alike_of(b, q, tile, start);
        float *values = b.values + q * b.stride, rescale[4];
        const float *weights = b.scores + q * SCORES_STRIDE;
        for (int i = 0; i < tile; i++) rescale[i] = b.each[q + i].rescale;
        if (alike > 0 && tile == 4) add_rows<4>(values, b.stride, weights, rescale, at, alike, d);
        if (alike > 0 && tile == 2) add_rows<2>(values, b.stride, weights, rescale, at, alike, d);
        if (alike > 0 && tile == 1) add_rows<1>(values, b.stride, weights, rescale, at, alike, d);
        for (int i = q; i < q + tile; i++)
            add_alone(b, i, values_of(b, b.each[i].seen, start), alike);
    }
}

/* ---- blocks ------------------------------------------------------------- */

/* Does what the block has gathered, and empties it. */
template <typename T>
static void attend(query_block<T> &b)
{
    int count = 0;
    for (int q = 0; q < b.n; q++)
        count = b.each[q].seen.count > count ? b.each[q].seen.count : count;
    for (int start = 0; start < count; start += CHUNK) {
        score_chunk(b, start);
        for (int q = 0; q < b.n; q++) {
            query_state<T> &s = b.each[q];
            const int n = clamp(s.seen.count - start, CHUNK);
            float *scores = b.scores + q * SCORES_STRIDE;
            if (n > 0)
                s.rescale = weigh_chunk(scores, n, b.a->softcap,
                    slope_of(*b.a, s.seen, start, s.head), &s.largest, &s.sum);
        }
        add_chunk(b, start);
    }
    for (int q = 0; q < b.n; q++) {
        const query_state<T> &s = b.each[q];
        const float sum = s.sum + sink_of<T>(b.a->sinks, s.head, s.largest);
        for (int i = 0; i < b.a->head_dim; i++)
            s.out[i] = store<T>(b.values[q * b.stride + i] / sum);
    }
    b.n = 0;
}

DEVICE int rows_alike(const int32_t *x, const int32_t *y, int n)
{
    int i = 0;
    if (x == y) return n;
    while (i + CHUNK <= n && !__builtin_memcmp(x + i, y + i, CHUNK * sizeof *x)) i += CHUNK;
    while (i < n && x[i] == y[i]) i++;
    return i;
}

/* How many keys two lists have alike from their first on. */
DEVICE int keys_alike(const seen_keys &x, const seen_keys &y)
{
    const int n = rows_alike(x.key_rows, y.key_rows, x.count < y.count ? x.count : y.count);
    if (x.value_rows == x.key_rows && y.value_rows == y.key_rows) return n;
    return rows_alike(x.value_rows, y.value_rows, n);
}

/* Takes a query into the block, which is done first where it is full or where less than three
 * quarters of the query's keys are among the block's. */
template <typename T>
static void gather(query_block<T> &b, const seen_keys &seen, int head, const T *query, T *out)
{
    int alike = b.n ? keys_alike(seen, b.longest) : 0;
    const bool full = b.n == MOST_QUERIES || (b.n + 1) * b.stride > MOST_FLOATS;
    if (full || (b.n && alike < seen.count - seen.count / 4)) attend(b);
    if (!b.n || alike == b.longest.count) {
        b.longest = seen;
        alike = seen.count;
    }
    b.each[b.n] = query_state<T>{out, seen, alike, head, -INFINITE, 0.0f, 0.0f};
    float *to = b.queries + b.n * b.stride, *values = b.values + b.n * b.stride;
    for (int i = 0; i < b.a->head_dim; i++) to[i] = load(query[i]);
    for (int i = 0; i < b.stride; i++) values[i] = 0.0f;
    b.n++;
}

/* Blocks of the kernel first .. end - 1. */
template <typename T>
static void attend_all(const attention_args &a, int64_t first, int64_t end)
{
    query_block<T> b;
    const int heads = a.n_heads / a.n_kv_heads;
    b.a = &a;
    b.n = 0;
    b.stride = (a.head_dim + 15) / 16 * 16;
    for (int group = 0; group < a.n_kv_heads; group++) {
        b.k = (const T *)a.k + (int64_t)group * a.head_dim;
        b.v = (const T *)a.v + (int64_t)group * a.head_dim;
        for (int64_t row = first / a.n_heads; row * a.n_heads < end; row++) {
            const seen_keys seen = keys_seen(a, row);
            for (int head = group * heads; head < (group + 1) * heads; head++) {
                const int64_t block = row * a.n_heads + head;
                if (block < first || block >= end) continue;
                gather(b, seen, head, query_of<T>(a, row, head), result_of<T>(a, row, head));
            }
        }
        attend(b);
    }
}

/* ---- entries ------------------------------------------------------------ */

template <typename T>
static void attention_rows(const void *args, int64_t first, int64_t end)
{
    const attention_args a = *(const attention_args *)args;
    attend_all<T>(a, first, end);
}

template <typename T>
static void attention_rows_with_records(const void *args, int64_t first, int64_t end)
{
    const with_records<attention_args> a = *(const with_records<attention_args> *)args;
    attend_all<T>(a.args, first, end);
    for (int64_t block = first; block < end; block++)
        apply_records_part<T>(
            a.fused, block / a.args.n_heads, (int)(block % a.args.n_heads), a.args.head_dim);
}

static void attention_rows_entries(kernel_table *table)
{
    kernel_entry *plain = table->entry[KERNEL_ATTENTION],
                 *recorded = table->entry[KERNEL_COUNT + KERNEL_ATTENTION];
    plain[0] = (kernel_entry)attention_rows<float>;
    plain[1] = (kernel_entry)attention_rows<bf16>;
    plain[2] = (kernel_entry)attention_rows<f16>;
    recorded[0] = (kernel_entry)attention_rows_with_records<float>;
    recorded[1] = (kernel_entry)attention_rows_with_records<bf16>;
    recorded[2] = (kernel_entry)attention_rows_with_records<f16>;
}

} // namespace KERNEL_NAMESPACE

#endif
