/* grouped.cu: products of rows that are sorted by which matrix multiplies them (of experts): a
 * GPU's. How many rows each matrix has is only known on the device, so the grid has room for the
 * most blocks there can be, and a block finds its own: the tiles of the first matrix that has rows,
 * then those of the next. Blocks that nothing is left for end at once.
 *
 * Every element is one sum over k in order, so a row's bits do not depend on how many others its
 * matrix has. In 16 bits tiles of 64 rows and 128 columns are multiplied by tensor cores (tile.h),
 * the next 32 of k being copied meanwhile; in fp32 tiles of 64 by 64, a thread four rows and eight
 * columns. */
#include "kernels/tile.h"

namespace KERNEL_NAMESPACE {

/* A block's rows first .. first + rows - 1 of x and y, columns column .. of y; rows 0: it has
 * none. */
struct grouped_place {
    int matrix, rows;
    int64_t first, column;
};

template <typename T>
DEVICE grouped_place find_place(const grouped_args &a, int64_t block)
{
    const int64_t across = (a.out + GROUPED_COLUMNS(sizeof(T)) - 1) / GROUPED_COLUMNS(sizeof(T));
    int64_t tile = block / across;
    for (int i = 0; i < a.n; i++) {
        const int64_t rows = a.offsets[i + 1] - a.offsets[i],
                      tiles = (rows + GROUPED_ROWS - 1) / GROUPED_ROWS;
        if (tile >= tiles) {
            tile -= tiles;
            continue;
        }
        const int64_t left = rows - tile * GROUPED_ROWS;
        return {i, left < GROUPED_ROWS ? (int)left : (int)GROUPED_ROWS,
            a.offsets[i] + tile * GROUPED_ROWS, block % across * GROUPED_COLUMNS(sizeof(T))};
    }
    return {0, 0, 0, 0};
}

template <typename T>
DEVICE void put_sum(const grouped_args &a, const grouped_place &at, int row, int column, float sum)
{
    if (row >= at.rows || at.column + column >= a.out) return;
    const T *bias = (const T *)a.biases[at.matrix];
    if (bias) sum += load(bias[at.column + column]);
    ((T *)a.y)[(at.first + row) * a.out + at.column + column] = store<T>(sum);
}

/* ---- 16 bits ------------------------------------------------------------ */

enum {
    STEP_K = 32,
    STRIP = 32, /* columns of a warp */
    STRIPS = GROUPED_COLUMNS(2) / STRIP,
    OWN_STRIPS = (STRIPS + BLOCK_WARPS - 1) / BLOCK_WARPS,
    ROW_STRIDE = STEP_K + 8,               /* of x, and of a weight [out, in] */
    ACROSS_STRIDE = GROUPED_COLUMNS(2) + 8 /* of a weight [in, out] */
};

template <typename T>
struct grouped_stage {
    alignas(16) T x[GROUPED_ROWS * ROW_STRIDE], w[GROUPED_COLUMNS(2) * ROW_STRIDE];
};

/* `count` elements from `at` on, as many as there are up to `end`, in 16 bytes at once where all
 * addresses allow it. */
template <typename T>
DEVICE void copy_eight(T *to, const T *row, int64_t at, int64_t end, bool there, bool wide)
{
    if (wide) {
        const bool some = there && at < end;
        copy_sixteen(to, some ? row + at : row, some);
        return;
    }
    for (int i = 0; i < 8; i++) to[i] = there && at + i < end ? row[at + i] : store<T>(0.0f);
}

template <typename T>
DEVICE void load_stage(
    const grouped_args &a, const grouped_place &at, int64_t k, bool wide, grouped_stage<T> &to)
{
    enum { PACKS = STEP_K / 8, ACROSS_PACKS = GROUPED_COLUMNS(2) / 8 };
    const T *x = (const T *)a.x + at.first * a.in, *w = (const T *)a.weights[at.matrix];
    for (int i = threadIdx.x; i < GROUPED_ROWS * PACKS; i += BLOCK_THREADS) {
        const int row = i / PACKS, pack = i % PACKS * 8;
        copy_eight(to.x + row * ROW_STRIDE + pack, x + (row < at.rows ? row : 0) * a.in, k + pack,
            a.in, row < at.rows, wide);
    }
    if (a.in_out)
        for (int i = threadIdx.x; i < STEP_K * ACROSS_PACKS; i += BLOCK_THREADS) {
            const int row = i / ACROSS_PACKS, pack = i % ACROSS_PACKS * 8;
            const bool there = k + row < a.in;
            copy_eight(to.w + row * ACROSS_STRIDE + pack, w + (there ? k + row : 0) * a.out,
                at.column + pack, a.out, there, wide);
        }
    else
        for (int i = threadIdx.x; i < GROUPED_COLUMNS(2) * PACKS; i += BLOCK_THREADS) {
            const int column = i / PACKS, pack = i % PACKS * 8;
            const bool there = at.column + column < a.out;
            copy_eight(to.w + column * ROW_STRIDE + pack,
                w + (there ? at.column + column : 0) * a.in, k + pack, a.in, there, wide);
        }
    copies_end();
}

template <typename T>
DEVICE void multiply_stage(
    const grouped_stage<T> &from, bool in_out, int strip, sums_tile (*sums)[STRIP / 8])
{
    UNROLLED
    for (int k = 0; k < STEP_K; k += 16) {
        right_tile<T> right[STRIP / 8];
        UNROLLED
        for (int j = 0; j < STRIP; j += 16)
            if (in_out)
                load_right_by_rows(
                    right + j / 8, from.w + k * ACROSS_STRIDE + strip * STRIP + j, ACROSS_STRIDE);
            else
                load_right(
                    right + j / 8, from.w + (strip * STRIP + j) * ROW_STRIDE + k, ROW_STRIDE);
        UNROLLED
        for (int i = 0; i < GROUPED_ROWS / 16; i++) {
            left_tile<T> left;
            load_left(left, from.x + i * 16 * ROW_STRIDE + k, ROW_STRIDE);
            UNROLLED
            for (int j = 0; j < STRIP / 8; j++) multiply_tiles(sums[i][j], left, right[j]);
        }
    }
}

template <typename T>
DEVICE bool lies_wide(const grouped_args &a, const grouped_place &at)
{
    return (a.in_out ? a.out % 8 == 0 : true) && a.in % 8 == 0 && (uintptr_t)a.x % 16 == 0
           && (uintptr_t)a.weights[at.matrix] % 16 == 0;
}

template <typename T>
SIZED_KERNEL(grouped_product, grouped_args a, TILE_THREADS, 2)
{
    SHARED(grouped_stage<T>, stages, 2);
    const grouped_place at = find_place<T>(a, blockIdx.x);
    if (!at.rows) return;
    sums_tile sums[OWN_STRIPS][GROUPED_ROWS / 16][STRIP / 8] = {};
    const bool wide = lies_wide<T>(a, at);
    load_stage(a, at, 0, wide, stages[0]);
    for (int64_t k = 0, turn = 0; k < a.in; k += STEP_K, turn = !turn) {
        if (k + STEP_K < a.in) {
            load_stage(a, at, k + STEP_K, wide, stages[!turn]);
            copies_wait<1>();
        } else copies_wait<0>();
        __syncthreads();
        for (int own = 0; own < OWN_STRIPS; own++) {
            const int strip = warp_index() + own * BLOCK_WARPS;
            if (strip < STRIPS) multiply_stage(stages[turn], a.in_out, strip, sums[own]);
        }
        __syncthreads();
    }
    for (int own = 0; own < OWN_STRIPS; own++) {
        const int strip = warp_index() + own * BLOCK_WARPS;
        if (strip >= STRIPS) break;
        UNROLLED
        for (int i = 0; i < GROUPED_ROWS / 16; i++) UNROLLED
        for (int j = 0; j < STRIP / 8; j++) UNROLLED
        for (int e = 0; e < FRAGMENT_ROWS * FRAGMENT_COLUMNS; e++)
            put_sum<T>(a, at, i * 16 + fragment_row() + e / FRAGMENT_COLUMNS * ROW_STEP,
                strip * STRIP + j * 8 + fragment_column() + e % FRAGMENT_COLUMNS,
                sums[own][i][j].x[e]);
    }
}

/* ---- fp32 --------------------------------------------------------------- */

enum {
    FLOAT_K = 16,
    THREAD_ROWS = 4,
    THREAD_COLUMNS = 8,
    PARTS_ACROSS = GROUPED_COLUMNS(4) / THREAD_COLUMNS,
    PARTS = GROUPED_ROWS / THREAD_ROWS * PARTS_ACROSS,
    OWN_PARTS = (PARTS + BLOCK_THREADS - 1) / BLOCK_THREADS
};

struct float_stage {
    float x[FLOAT_K][GROUPED_ROWS + 4], w[FLOAT_K][GROUPED_COLUMNS(4) + 4];
};

DEVICE void load_floats(const grouped_args &a, const grouped_place &at, int64_t k, float_stage &to)
{
    const float *x = (const float *)a.x + at.first * a.in, *w = (const float *)a.weights[at.matrix];
    for (int i = threadIdx.x; i < GROUPED_ROWS * FLOAT_K; i += BLOCK_THREADS) {
        const int row = i / FLOAT_K, j = i % FLOAT_K;
        to.x[j][row] = row < at.rows && k + j < a.in ? x[row * a.in + k + j] : 0.0f;
    }
    for (int i = threadIdx.x; i < GROUPED_COLUMNS(4) * FLOAT_K; i += BLOCK_THREADS) {
        /* neighbouring threads read neighbouring numbers */
        const int column = a.in_out ? i % GROUPED_COLUMNS(4) : i / FLOAT_K,
                  j = a.in_out ? i / GROUPED_COLUMNS(4) : i % FLOAT_K;
        const int64_t o = at.column + column;
        const bool there = o < a.out && k + j < a.in;
        to.w[j][column] = !there ? 0.0f : a.in_out ? w[(k + j) * a.out + o] : w[o * a.in + k + j];
    }
}

DEVICE void multiply_floats(const float_stage &from, int part, float (*sums)[THREAD_COLUMNS])
{
    const int row = part / PARTS_ACROSS * THREAD_ROWS,
              column = part % PARTS_ACROSS * THREAD_COLUMNS;
    for (int k = 0; k < FLOAT_K; k++) UNROLLED
    for (int i = 0; i < THREAD_ROWS; i++) UNROLLED
    for (int j = 0; j < THREAD_COLUMNS; j++)
        sums[i][j] = multiply_add(from.x[k][row + i], from.w[k][column + j], sums[i][j]);
}

SIZED_KERNEL(grouped_product_float, grouped_args a, TILE_THREADS, 2)
{
    SHARED(float_stage, stage, 1);
    const grouped_place at = find_place<float>(a, blockIdx.x);
    if (!at.rows) return;
    float sums[OWN_PARTS][THREAD_ROWS][THREAD_COLUMNS] = {};
    for (int64_t k = 0; k < a.in; k += FLOAT_K) {
        load_floats(a, at, k, stage[0]);
        __syncthreads();
        for (int own = 0; own < OWN_PARTS; own++) {
            const int part = (int)threadIdx.x + own * BLOCK_THREADS;
            if (part < PARTS) multiply_floats(stage[0], part, sums[own]);
        }
        __syncthreads();
    }
    for (int own = 0; own < OWN_PARTS; own++) {
        const int part = (int)threadIdx.x + own * BLOCK_THREADS;
        for (int e = 0; part < PARTS && e < THREAD_ROWS * THREAD_COLUMNS; e++)
            put_sum<float>(a, at, part / PARTS_ACROSS * THREAD_ROWS + e / THREAD_COLUMNS,
                part % PARTS_ACROSS * THREAD_COLUMNS + e % THREAD_COLUMNS,
                sums[own][e / THREAD_COLUMNS][e % THREAD_COLUMNS]);
    }
}

void grouped_entries(kernel_table *table)
{
    KERNEL_ENTRY(table, KERNEL_GROUPED_PRODUCT, 0, grouped_args, grouped_product_float);
    KERNEL_ENTRY(table, KERNEL_GROUPED_PRODUCT, 1, grouped_args, grouped_product<bf16>);
    KERNEL_ENTRY(table, KERNEL_GROUPED_PRODUCT, 2, grouped_args, grouped_product<f16>);
}

} // namespace KERNEL_NAMESPACE
