/* grid.h: what lets one kernel source run on a GPU, on the CPU, and in tests with real blocks of
 * threads on the CPU.
 *
 * A kernel is CUDA C: a function of one block's threads, which share a row by loops `for (i =
 * threadIdx.x; i < d; i += blockDim.x)`, reduce with block_sum and block_max, and meet at
 * __syncthreads(). It is right for every block size. Three compilations:
 *
 *   nvcc                               __global__ functions, launched from C with cudaLaunchKernel
 *   host compiler                      a grid is a loop over blocks of one thread: threadIdx.x is
 *                                      the constant 0 and blockDim.x the constant 1, so that inner
 *                                      loops are plain loops, which vectorise, and barriers vanish
 *   host compiler, GRID_THREADS=n      each block is n POSIX threads with barriers (n = 32 or 64):
 *                                      ThreadSanitizer then sees races between the threads of a
 *                                      block without a GPU
 *
 * Rules for a kernel. blockIdx is visible in the kernel only, not in functions it calls. Every
 * thread of a block reaches every barrier, SHARED and block_ function (decide by what the whole
 * block knows). `return` before the first of them is fine for a whole block.
 *
 * All code of a .cu file lies in `namespace KERNEL_NAMESPACE`, whose name comes from the compile
 * line (kernels_avx2, ...), so that the linker never takes one instruction set's template for
 * another's. For the same reason no C++ library header is included. */
#ifndef INSET_GRID_H
#define INSET_GRID_H

#include <stdint.h>
#include "kernels/kernels.h"
#include "kernels/table.h"

#ifndef KERNEL_NAMESPACE
#ifdef __CUDACC__
#define KERNEL_NAMESPACE kernels_cuda
#else
#define KERNEL_NAMESPACE kernels_baseline
#endif
#endif

#define INFINITE __builtin_huge_valf()

#if defined(__CUDACC__)

/* ---- the GPU ------------------------------------------------------------ */
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define DEVICE __device__ __forceinline__
#define DEVICE_APART DEVICE /* too large for the host to have in every kernel that calls it */
#define KERNEL(name, parameter) \
    __global__ void __launch_bounds__(KERNEL_THREADS) name(const parameter)
/* A kernel that may take registers as long as `blocks` such blocks fit a multiprocessor: left
 * alone, the compiler spills some to have more. */
#define ROOMY_KERNEL(name, parameter, blocks) \
    __global__ void __launch_bounds__(KERNEL_THREADS, blocks) name(const parameter)
/* One that is always launched with so many threads, of which `blocks` blocks fit a
 * multiprocessor. */
#define SIZED_KERNEL(name, parameter, threads, blocks) \
    __global__ void __launch_bounds__(threads, blocks) name(const parameter)
#define SHARED(type, name, count) __shared__ type name[count]
/* What the launch brings along, beyond what SHARED may ask for: aligned to 16 bytes; one of them a
 * kernel. */
#define DYNAMIC_SHARED(name, bytes) extern __shared__ uint4 name[]
#define RESTRICT __restrict__

/* Before a loop that is short or rare: one element at a time, in few registers. */
#define ONE_BY_ONE _Pragma("unroll 1")
/* Before a loop whose number of turns is known and which picks registers by its counter. */
#define UNROLLED _Pragma("unroll")

/* Puts `kernel` into column `type` of a table under `id`; on a GPU the table holds what
 * cudaLaunchKernel takes. */
#define KERNEL_ENTRY(table, id, type, args, ...) \
    ((table)->entry[id][type] = (kernel_entry)(const void *)(void (*)(const args))__VA_ARGS__)

namespace KERNEL_NAMESPACE {

typedef __nv_bfloat16 bf16;
typedef __half f16;

/* What one access moves at most; worth asking for where a block has many threads (one thread's
 * loops vectorise by themselves). */
typedef uint4 sixteen;
enum { SIXTEEN_BYTES = 1 };

DEVICE float load(float x) { return x; }
DEVICE float load(bf16 x) { return __bfloat162float(x); }
DEVICE float load(f16 x) { return __half2float(x); }

/* Rounds to the storage type, to nearest even. */
template <typename T>
DEVICE T store(float x);
template <>
DEVICE float store<float>(float x)
{
    return x;
}
template <>
DEVICE bf16 store<bf16>(float x)
{
    return __float2bfloat16_rn(x);
}
template <>
DEVICE f16 store<f16>(float x)
{
    return __float2half_rn(x);
}

DEVICE float bits_to_float(uint32_t x) { return __uint_as_float(x); }
DEVICE uint32_t float_to_bits(float x) { return __float_as_uint(x); }
DEVICE float square_root(float x) { return sqrtf(x); }
DEVICE float maximum(float a, float b) { return fmaxf(a, b); }

/* The block's total of one value per thread, the same in every thread. The order of additions
 * depends on blockDim.x alone. */
DEVICE float block_sum(float x)
{
    __shared__ float parts[32];
    for (int other = 16; other > 0; other /= 2) x += __shfl_xor_sync(0xffffffffu, x, other);
    if (blockDim.x <= 32) return x;
    /* parts may still be read from the last time */
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    x = threadIdx.x % 32 < (blockDim.x + 31) / 32 ? parts[threadIdx.x % 32] : 0.0f;
    for (int other = 16; other > 0; other /= 2) x += __shfl_xor_sync(0xffffffffu, x, other);
    return x;
}

/* The largest; NaNs are passed over. */
DEVICE float block_max(float x)
{
    __shared__ float parts[32];
    for (int other = 16; other > 0; other /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, other));
    if (blockDim.x <= 32) return x;
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    x = parts[threadIdx.x % 32 < (blockDim.x + 31) / 32 ? threadIdx.x % 32 : 0];
    for (int other = 16; other > 0; other /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, other));
    return x;
}

/* The sum of f(0) .. f(n - 1), spread over the block. */
template <typename F>
DEVICE float block_sum_of(int n, F f)
{
    float sum = 0.0f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += f(i);
    return block_sum(sum);
}

/* The columns of a row that one thread handles together: one on a GPU. See the one-thread blocks
 * below. */
typedef float wide;
enum { WIDTH = 1 };
template <typename T>
DEVICE wide wide_load(const T *p)
{
    return load(*p);
}
DEVICE void wide_store(float *p, wide x) { *p = x; }
DEVICE wide wide_all(float x) { return x; }
DEVICE wide wide_maximum(wide a, wide b) { return maximum(a, b); }
DEVICE float wide_sum(wide x) { return x; }
DEVICE float wide_largest(wide x) { return x; }

} // namespace KERNEL_NAMESPACE

#else

/* ---- the host compiler -------------------------------------------------- */

#define ROOMY_KERNEL(name, parameter, blocks) KERNEL(name, parameter)
#define SIZED_KERNEL(name, parameter, threads, blocks) KERNEL(name, parameter)
#define ONE_BY_ONE
#define UNROLLED
#define DEVICE_APART static __attribute__((noinline))
#define DEVICE static inline __attribute__((always_inline))
#define SPECIALISED \
    inline __attribute__((always_inline)) /* DEVICE, for a specialisation of a template */
#define RESTRICT __restrict__

namespace KERNEL_NAMESPACE {

struct grid_index {
    int64_t x;
};

struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};

struct __attribute__((may_alias, aligned(16))) sixteen {
    uint64_t parts[2];
};
#ifdef GRID_THREADS
enum { SIXTEEN_BYTES = 1 };
#else
enum { SIXTEEN_BYTES = 0 };
#endif

DEVICE float bits_to_float(uint32_t x)
{
    float y;
    __builtin_memcpy(&y, &x, sizeof y);
    return y;
}
DEVICE uint32_t float_to_bits(float x)
{
    uint32_t y;
    __builtin_memcpy(&y, &x, sizeof y);
    return y;
}
DEVICE float square_root(float x) { return __builtin_sqrtf(x); }
DEVICE float maximum(float a, float b) { return a > b ? a : b; } /* b when one of them is NaN */

DEVICE float load(float x) { return x; }
DEVICE float load(bf16 x) { return bits_to_float((uint32_t)x.bits << 16); }

/* Without branches, so that it vectorises. A half's exponent and mantissa move to a float's place;
 * what is left to mend is the exponent's bias (a multiplication by 2^112, exact also for subnormal
 * halves) and the exponent of infinities and NaNs. */
DEVICE float load(f16 x)
{
    uint32_t magnitude = (uint32_t)(x.bits & 0x7fff) << 13, sign = (uint32_t)(x.bits & 0x8000)
                                                                   << 16;
    float scaled = bits_to_float(magnitude) * 0x1p112f;
    uint32_t special = magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : float_to_bits(scaled);
    return bits_to_float(special | sign);
}

/* Rounds to the storage type, to nearest even. */
template <typename T>
DEVICE T store(float x);
template <>
SPECIALISED float store<float>(float x)
{
    return x;
}
template <>
SPECIALISED bf16 store<bf16>(float x)
{
    uint32_t bits = float_to_bits(x);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
    uint32_t quiet = (bits >> 16) | 0x40u;
    return bf16{(uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded)};
}
/* A subnormal result (below 2^-14) is rounded by adding 0.5, whose last place is a half's smallest
 * step. */
template <>
SPECIALISED f16 store<f16>(float x)
{
    uint32_t bits = float_to_bits(x), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1)) >> 13;
    uint32_t small = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t half = magnitude < 0x38800000u ? small : normal;
    half = magnitude >= 0x477ff000u ? 0x7c00u : half;
    half = magnitude > 0x7f800000u ? 0x7e00u | ((magnitude >> 13) & 0x3ffu) : half;
    return f16{(uint16_t)(half | sign)};
}

} // namespace KERNEL_NAMESPACE

#ifdef GRID_THREADS

/* ---- blocks of real threads --------------------------------------------- */
#include <pthread.h>

namespace KERNEL_NAMESPACE {

/* What the threads of a block share. SHARED arrays are cut from `memory` in the order in which
 * every thread asks for them. */
struct grid_team {
    pthread_barrier_t barrier;
    float values[GRID_THREADS];
    /* the most that a GPU's block may have, dynamic shared memory included */
    alignas(64) char memory[227 << 10];
};

static thread_local grid_team *team;
static thread_local int64_t team_used;
static thread_local grid_index threadIdx;
static constexpr grid_index blockDim = {GRID_THREADS};

static inline void __syncthreads() { pthread_barrier_wait(&team->barrier); }

template <typename T>
static inline T *team_array(int64_t count)
{
    char *start = team->memory + team_used;
    team_used += (count * (int64_t)sizeof(T) + 63) / 64 * 64;
    if (team_used > (int64_t)sizeof team->memory)
        /* a kernel asks for more than a GPU's block has */
        __builtin_trap();
    return (T *)start;
}

#define KERNEL(name, parameter) static void name(const parameter, const grid_index blockIdx)
#define SHARED(type, name, count) type *name = team_array<type>(count)
#define DYNAMIC_SHARED(name, bytes) char *name = team_array<char>(bytes)

static inline float block_sum(float x)
{
    team->values[threadIdx.x] = x;
    __syncthreads();
    float sum = 0.0f;
    for (int i = 0; i < GRID_THREADS; i++) sum += team->values[i];
    __syncthreads();
    return sum;
}

static inline float block_max(float x)
{
    team->values[threadIdx.x] = x;
    __syncthreads();
    float largest = team->values[0];
    for (int i = 1; i < GRID_THREADS; i++) largest = maximum(team->values[i], largest);
    __syncthreads();
    return largest;
}

template <typename F>
static inline float block_sum_of(int n, F f)
{
    float sum = 0.0f;
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) sum += f(i);
    return block_sum(sum);
}

typedef float wide;
enum { WIDTH = 1 };
template <typename T>
DEVICE wide wide_load(const T *p)
{
    return load(*p);
}
DEVICE void wide_store(float *p, wide x) { *p = x; }
DEVICE wide wide_all(float x) { return x; }
DEVICE wide wide_maximum(wide a, wide b) { return maximum(a, b); }
DEVICE float wide_sum(wide x) { return x; }
DEVICE float wide_largest(wide x) { return x; }

template <typename A>
struct grid_thread {
    void (*kernel)(const A, const grid_index);
    const A *args;
    int64_t first, end;
    grid_team *shared;
    int index;
    pthread_t handle;
};

template <typename A>
static void *grid_thread_run(void *argument)
{
    grid_thread<A> *thread = (grid_thread<A> *)argument;
    team = thread->shared;
    threadIdx.x = thread->index;
    for (int64_t block = thread->first; block < thread->end; block++) {
        team_used = 0;
        thread->kernel(*thread->args, grid_index{block});
        /* the next block uses the same shared memory */
        __syncthreads();
    }
    return nullptr;
}

template <typename A, void (*kernel)(const A, const grid_index)>
static void run_blocks(const void *args, int64_t first, int64_t end)
{
    grid_team *shared = new grid_team;
    grid_thread<A> *threads = new grid_thread<A>[GRID_THREADS];
    pthread_barrier_init(&shared->barrier, nullptr, GRID_THREADS);
    for (int i = 0; i < GRID_THREADS; i++) {
        threads[i] = grid_thread<A>{kernel, (const A *)args, first, end, shared, i, {}};
        if (pthread_create(&threads[i].handle, nullptr, grid_thread_run<A>, &threads[i]))
            __builtin_trap();
    }
    for (int i = 0; i < GRID_THREADS; i++) pthread_join(threads[i].handle, nullptr);
    pthread_barrier_destroy(&shared->barrier);
    delete[] threads;
    delete shared;
}

} // namespace KERNEL_NAMESPACE

#else

/* ---- blocks of one thread ----------------------------------------------- */
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace KERNEL_NAMESPACE {

static constexpr grid_index threadIdx = {0}, blockDim = {1};

DEVICE void __syncthreads() {}

#define KERNEL(name, parameter)                             \
    static inline __attribute__((always_inline)) void name( \
        const parameter, const grid_index blockIdx)
#define SHARED(type, name, count) alignas(64) type name[count]
#define DYNAMIC_SHARED(name, bytes) alignas(64) static thread_local char name[bytes]

DEVICE float block_sum(float x) { return x; }
DEVICE float block_max(float x) { return x; }

/* Compilers may not reorder a float sum, so the lanes of a vector are written out; they are added
 * in a fixed tree. */
template <typename F>
DEVICE float block_sum_of(int n, F f)
{
    enum { LANES = 64 };
    float lanes[LANES] = {};
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int lane = 0; lane < LANES; lane++) lanes[lane] += f(i + lane);
    for (int lane = 0; i + lane < n; lane++) lanes[lane] += f(i + lane);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];
    return lanes[0];
}

/* A vector of WIDTH neighbouring columns, for the few loops that compilers do not vectorise well by
 * themselves: sums and maxima along a row, and sums over rows that should stay in registers. Where
 * blocks have many threads WIDTH is 1 and a vector is one float, so that one source serves both;
 * `wide` has + and *. */
#if defined(__AVX512F__)
enum { WIDTH = 16 };
#elif defined(__AVX2__)
enum { WIDTH = 8 };
#else
enum { WIDTH = 4 };
#endif
typedef float wide __attribute__((vector_size(4 * WIDTH)));
typedef int32_t wide_mask __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t wide_bits __attribute__((vector_size(4 * WIDTH)));
typedef uint16_t wide_short __attribute__((vector_size(2 * WIDTH)));

DEVICE wide wide_load(const float *p)
{
    wide x;
    __builtin_memcpy(&x, p, sizeof x);
    return x;
}
DEVICE wide wide_load(const bf16 *p)
{
    wide_short x;
    __builtin_memcpy(&x, p, sizeof x);
    return (wide)(__builtin_convertvector(x, wide_bits) << 16);
}
DEVICE wide wide_load(const f16 *p)
{
    wide_short x;
    __builtin_memcpy(&x, p, sizeof x);
#if defined(__AVX512F__)
    return (wide)_mm512_maskz_cvtph_ps((__mmask16)-1, (__m256i)x);
#else
    /* as load(f16) */
    const wide_mask bits = (wide_mask) __builtin_convertvector(x, wide_bits),
                    magnitude = (bits & 0x7fff) << 13;
    const wide_mask scaled = (wide_mask)((wide)magnitude * 0x1p112f),
                    special = magnitude >= 0x0f800000;
    return (
        wide)(((magnitude | 0x7f800000) & special) | (scaled & ~special) | (bits & 0x8000) << 16);
#endif
}
DEVICE void wide_store(float *p, wide x) { __builtin_memcpy(p, &x, sizeof x); }
DEVICE wide wide_all(float x) { return x - (wide){}; }
DEVICE wide wide_maximum(wide a, wide b)
{
    const wide_mask larger = a > b;
    return (wide)(((wide_mask)a & larger) | ((wide_mask)b & ~larger));
}

/* Halves are added until four are left. */
typedef float four __attribute__((vector_size(16)));
DEVICE float four_sum(four x) { return (x[0] + x[2]) + (x[1] + x[3]); }
#if defined(__AVX2__)
typedef float eight __attribute__((vector_size(32)));
DEVICE float eight_sum(eight x)
{
    return four_sum(
        __builtin_shufflevector(x, x, 0, 1, 2, 3) + __builtin_shufflevector(x, x, 4, 5, 6, 7));
}
#endif
#if defined(__AVX512F__)
DEVICE float wide_sum(wide x)
{
    return eight_sum(__builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7)
                     + __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15));
}
#elif defined(__AVX2__)
DEVICE float wide_sum(wide x) { return eight_sum(x); }
#else
DEVICE float wide_sum(wide x) { return four_sum(x); }
#endif

/* wide_sums: lane i is wide_sum(x[i]). Halves are added in the same tree, but those of two vectors
 * at once: half_sums_N of two that hold sums' last 2 N parts side by side. */
#if defined(__AVX512F__)
DEVICE wide half_sums_8(wide a, wide b)
{
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)
           + __builtin_shufflevector(
               a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
}
DEVICE wide half_sums_4(wide a, wide b)
{
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
           + __builtin_shufflevector(
               a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
}
DEVICE wide half_sums_2(wide a, wide b)
{
    return __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
           + __builtin_shufflevector(
               a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
}
DEVICE wide half_sums_1(wide a, wide b)
{
    return __builtin_shufflevector(a, b, 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30)
           + __builtin_shufflevector(
               a, b, 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31);
}
DEVICE wide four_of_sums(const wide *x)
{
    return half_sums_4(half_sums_8(x[0], x[4]), half_sums_8(x[8], x[12]));
}
#elif defined(__AVX2__)
DEVICE wide half_sums_4(wide a, wide b)
{
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11)
           + __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
}
DEVICE wide half_sums_2(wide a, wide b)
{
    return __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13)
           + __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
}
DEVICE wide half_sums_1(wide a, wide b)
{
    return __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14)
           + __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
}
DEVICE wide four_of_sums(const wide *x) { return half_sums_4(x[0], x[4]); }
#else
DEVICE wide half_sums_2(wide a, wide b)
{
    return __builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7);
}
DEVICE wide half_sums_1(wide a, wide b)
{
    return __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7);
}
DEVICE wide four_of_sums(const wide *x) { return x[0]; }
#endif
DEVICE wide wide_sums(const wide *x)
{
    return half_sums_1(half_sums_2(four_of_sums(x), four_of_sums(x + 1)),
        half_sums_2(four_of_sums(x + 2), four_of_sums(x + 3)));
}
DEVICE float wide_largest(wide x)
{
    float largest = x[0];
    for (int i = 1; i < WIDTH; i++) largest = maximum(x[i], largest);
    return largest;
}

template <typename A, void (*kernel)(const A, const grid_index)>
static void run_blocks(const void *args, int64_t first, int64_t end)
{
    const A copy = *(const A *)args;
    for (int64_t block = first; block < end; block++) kernel(copy, grid_index{block});
}

} // namespace KERNEL_NAMESPACE

#endif

/* Puts `kernel` into column `type` of a table under `id`. */
#define KERNEL_ENTRY(table, id, type, args, ...) \
    ((table)->entry[id][type] = (kernel_entry)run_blocks<args, __VA_ARGS__>)

#endif

/* The three storage types of one kernel. */
#define KERNEL_ENTRIES(table, id, args, kernel)         \
    (KERNEL_ENTRY(table, id, 0, args, kernel<float>),   \
        KERNEL_ENTRY(table, id, 1, args, kernel<bf16>), \
        KERNEL_ENTRY(table, id, 2, args, kernel<f16>))

#endif
