/* tile.h: warps, small matrix products and asynchronous copies, for kernels that work in tiles.
 *
 * On a GPU a warp is 32 lanes that hold a tile's elements together: fragments, as mma.m16n8k16 has
 * them. On the host a warp is one thread, which holds whole tiles. Kernels are written over the
 * numbers here: a lane has FRAGMENT_ROWS rows and FRAGMENT_COLUMNS columns of each 16 x 8 tile of
 * sums, rows ROW_STEP apart from fragment_row() on and columns side by side from fragment_column()
 * on; element (i, c) is x[i * FRAGMENT_COLUMNS + c]. Reductions over a row's lanes are lanes_max
 * and lanes_sum.
 *
 * The lanes of mma.m16n8k16 (PTX ISA, "matrix fragments for mma.m16n8k16 with floating point
 * type"), with g = lane / 4 and p = 2 (lane % 4):
 *     A, 16 x 16    register 0: (g, p) (g, p + 1)    1: (g + 8, p ..)    2: (g, p + 8 ..)    3: (g
 *                   + 8, p + 8 ..)
 *     B, 16 x 8     register 0: (p, g) (p + 1, g)    1: (p + 8, g) (p + 9, g)
 *     C, 16 x 8     float 0, 1: (g, p) (g, p + 1)    2, 3: (g + 8, p) (g + 8, p + 1)
 * ldmatrix.x4 reads four 8 x 8 tiles; lane l gives the address of row l % 8 of tile l / 8 and gets,
 * of each tile, elements (l / 4, 2 (l % 4)) and the next; with .trans, of the transposed tile. */
#ifndef INSET_TILE_H
#define INSET_TILE_H

#include "kernels/grid.h"
#include "kernels/tile_shapes.h"

namespace KERNEL_NAMESPACE {

/* Four floats that are read and written together. */
struct alignas(16) quad {
    float x[4];
};

template <typename T>
struct exponent; /* all ones: an infinity or a NaN */
template <>
struct exponent<float> {
    static constexpr uint32_t bits = 0x7f800000u;
};
template <>
struct exponent<bf16> {
    static constexpr uint32_t bits = 0x7f80u;
};
template <>
struct exponent<f16> {
    static constexpr uint32_t bits = 0x7c00u;
};

/* Whether four bytes hold an element that is no finite number. */
template <typename T>
DEVICE bool odd_number(uint32_t word)
{
    const uint32_t low = exponent<T>::bits, high = sizeof(T) == 2 ? low << 16 : low;
    return (word & low) == low || (word & high) == high;
}

/* The same of 16 aligned bytes. */
template <typename T>
DEVICE bool odd_sixteen(const T *at)
{
    const sixteen x = *(const sixteen *)at;
#if defined(__CUDACC__)
    return odd_number<T>(x.x) || odd_number<T>(x.y) || odd_number<T>(x.z) || odd_number<T>(x.w);
#else
    bool odd = false;
    for (int i = 0; i < 2; i++)
        odd |= odd_number<T>((uint32_t)x.parts[i]) || odd_number<T>((uint32_t)(x.parts[i] >> 32));
    return odd;
#endif
}

#if defined(__CUDACC__)

/* ---- the GPU ------------------------------------------------------------ */

enum { BLOCK_THREADS = TILE_THREADS, BLOCK_WARPS = TILE_THREADS / 32, WARP_LANES = 32 };
enum { FRAGMENT_ROWS = 2, FRAGMENT_COLUMNS = 2, ROW_STEP = 8 };

DEVICE int warp_index() { return threadIdx.x / 32; }
DEVICE int lane_index() { return threadIdx.x % 32; }
DEVICE int fragment_row() { return threadIdx.x % 32 / 4; }
DEVICE int fragment_column() { return threadIdx.x % 4 * 2; }

/* What a warp's lanes wrote to shared memory is there for its other lanes. */
DEVICE void warp_barrier() { __syncwarp(); }
/* A barrier of the block; whether x holds in any of its threads. */
DEVICE bool block_any(bool x) { return __syncthreads_or(x); }

DEVICE float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }

/* Over lanes whose numbers differ in the bits below `lanes`: the same bits in each, since both
 * sides of every addition are the same two. */
DEVICE float lanes_max(float x, int lanes)
{
    UNROLLED
    for (int other = 1; other < lanes; other *= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, other));
    return x;
}
DEVICE float lanes_sum(float x, int lanes)
{
    UNROLLED
    for (int other = 1; other < lanes; other *= 2) x += __shfl_xor_sync(0xffffffffu, x, other);
    return x;
}

DEVICE uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

/* Begins to copy 16 bytes to shared memory, or zeros where there is nothing to copy; done after
 * copies_wait, for other threads after a barrier. */
DEVICE void copy_sixteen(void *to, const void *from, bool there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(__cvta_generic_to_global(from)), "r"(there ? 16 : 0)
                 : "memory");
}
/* Ends a group of copies. */
DEVICE void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* Waits for all groups of this thread but the last `more`. */
template <int more>
DEVICE void copies_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(more) : "memory");
}

template <typename T>
struct left_tile {
    uint32_t x[4];
}; /* 16 x 16: A */
template <typename T>
struct right_tile {
    uint32_t x[2];
}; /* 16 x 8: B */
struct sums_tile {
    float x[4];
}; /* 16 x 8: C */

/* 16 rows of 16 elements, `stride` apart. */
template <typename T>
DEVICE void load_left(left_tile<T> &a, const T *at, int stride)
{
    const int lane = lane_index();
    const uint32_t address = shared_address(at + lane % 16 * stride + lane / 16 * 8);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a.x[0]), "=r"(a.x[1]), "=r"(a.x[2]), "=r"(a.x[3])
                 : "r"(address)
                 : "memory");
}

/* B whose 16 columns, two tiles of 8, are rows of 16 elements each. */
template <typename T>
DEVICE void load_right(right_tile<T> *b, const T *at, int stride)
{
    const int lane = lane_index();
    const uint32_t address = shared_address(
        at + (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b[0].x[0]), "=r"(b[0].x[1]), "=r"(b[1].x[0]), "=r"(b[1].x[1])
                 : "r"(address)
                 : "memory");
}

/* B whose 16 rows are rows of 16 elements: two tiles of 8 columns. */
template <typename T>
DEVICE void load_right_by_rows(right_tile<T> *b, const T *at, int stride)
{
    const int lane = lane_index();
    const uint32_t address = shared_address(at + lane % 16 * stride + lane / 16 * 8);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b[0].x[0]), "=r"(b[0].x[1]), "=r"(b[1].x[0]), "=r"(b[1].x[1])
                 : "r"(address)
                 : "memory");
}

/* B with zeros in all rows but from .. to - 1. */
template <typename T>
DEVICE void keep_rows(right_tile<T> &b, int from, int to)
{
    UNROLLED
    for (int i = 0; i < 2; i++) {
        const int row = lane_index() % 4 * 2 + i * 8;
        const uint32_t first = row >= from && row < to ? 0xffffu : 0,
                       second = row + 1 >= from && row + 1 < to ? 0xffff0000u : 0;
        b.x[i] &= first | second;
    }
}

/* c += a b */
DEVICE void multiply_tiles(sums_tile &c, const left_tile<bf16> &a, const right_tile<bf16> &b)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c.x[0]), "+f"(c.x[1]), "+f"(c.x[2]), "+f"(c.x[3])
        : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b.x[0]), "r"(b.x[1]));
}
DEVICE void multiply_tiles(sums_tile &c, const left_tile<f16> &a, const right_tile<f16> &b)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c.x[0]), "+f"(c.x[1]), "+f"(c.x[2]), "+f"(c.x[3])
        : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b.x[0]), "r"(b.x[1]));
}

DEVICE uint32_t store_pair(float low, float high, bf16)
{
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *(const uint32_t *)&pair;
}
DEVICE uint32_t store_pair(float low, float high, f16)
{
    const __half2 pair = __floats2half2_rn(low, high);
    return *(const uint32_t *)&pair;
}

/* A made of two tiles of sums side by side, rounded to T. */
template <typename T>
DEVICE void round_left(left_tile<T> &a, const sums_tile &left, const sums_tile &right)
{
    a.x[0] = store_pair(left.x[0], left.x[1], T());
    a.x[1] = store_pair(left.x[2], left.x[3], T());
    a.x[2] = store_pair(right.x[0], right.x[1], T());
    a.x[3] = store_pair(right.x[2], right.x[3], T());
}

#else

/* ---- the host: a warp is one thread ------------------------------------- */

enum { WARP_LANES = 1, FRAGMENT_ROWS = 16, FRAGMENT_COLUMNS = 8, ROW_STEP = 1 };

DEVICE int lane_index() { return 0; }
DEVICE int fragment_row() { return 0; }
DEVICE int fragment_column() { return 0; }
DEVICE void warp_barrier() {}
DEVICE float lanes_max(float x, int) { return x; }
DEVICE float lanes_sum(float x, int) { return x; }
DEVICE float multiply_add(float a, float b, float c) { return a * b + c; }

#ifdef GRID_THREADS
enum { BLOCK_THREADS = GRID_THREADS, BLOCK_WARPS = GRID_THREADS };
DEVICE int warp_index() { return (int)threadIdx.x; }
static inline bool block_any(bool x)
{
    team->values[threadIdx.x] = x;
    __syncthreads();
    bool any = false;
    for (int i = 0; i < GRID_THREADS; i++) any |= team->values[i] != 0.0f;
    __syncthreads();
    return any;
}
#else
enum { BLOCK_THREADS = 1, BLOCK_WARPS = 1 };
DEVICE int warp_index() { return 0; }
DEVICE bool block_any(bool x) { return x; }
#endif

DEVICE void copy_sixteen(void *to, const void *from, bool there)
{
    if (there) __builtin_memcpy(to, from, 16);
    else __builtin_memset(to, 0, 16);
}
DEVICE void copies_end() {}
template <int more>
DEVICE void copies_wait()
{
}

/* The elements are floats, whose values T holds. */
template <typename T>
struct left_tile {
    float x[16][16];
};
template <typename T>
struct right_tile {
    float x[16][8];
};
struct sums_tile {
    float x[16 * 8];
};

template <typename T>
DEVICE_APART void load_left(left_tile<T> &a, const T *at, int stride)
{
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++) a.x[i][k] = load(at[i * stride + k]);
}

template <typename T>
DEVICE_APART void load_right(right_tile<T> *b, const T *at, int stride)
{
    for (int j = 0; j < 16; j++)
        for (int k = 0; k < 16; k++) b[j / 8].x[k][j % 8] = load(at[j * stride + k]);
}

template <typename T>
DEVICE_APART void load_right_by_rows(right_tile<T> *b, const T *at, int stride)
{
    for (int k = 0; k < 16; k++)
        for (int j = 0; j < 16; j++) b[j / 8].x[k][j % 8] = load(at[k * stride + j]);
}

template <typename T>
DEVICE_APART void keep_rows(right_tile<T> &b, int from, int to)
{
    for (int k = 0; k < 16; k++)
        for (int j = 0; j < 8; j++) b.x[k][j] = k >= from && k < to ? b.x[k][j] : 0.0f;
}

template <typename T>
DEVICE_APART void multiply_tiles(sums_tile &c, const left_tile<T> &a, const right_tile<T> &b)
{
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++)
            for (int j = 0; j < 8; j++) c.x[i * 8 + j] += a.x[i][k] * b.x[k][j];
}

template <typename T>
DEVICE_APART void round_left(left_tile<T> &a, const sums_tile &left, const sums_tile &right)
{
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            a.x[i][j] = load(store<T>(left.x[i * 8 + j]));
            a.x[i][j + 8] = load(store<T>(right.x[i * 8 + j]));
        }
}

#endif

} // namespace KERNEL_NAMESPACE

#endif
