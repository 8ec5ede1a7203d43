/* row_functions.cu: functions of whole rows that a trace writes itself: sums, norms, softmax, the k
 * largest. Block i does call i, one row of results, whatever it is of and wherever its operands
 * lie; any block size. fp32 arithmetic, each result rounded once. */
#include "kernels/math.h"
#include "kernels/record.h"

namespace KERNEL_NAMESPACE {

/* Elements j of operand r. */
template <typename T>
DEVICE const T *row_operand(const row_functions_args &a, const row_call &c, int r, int j)
{
    return (const T *)a.operands[c.first + r] + (int64_t)j * c.inner;
}

DEVICE float not_a_number() { return bits_to_float(0x7fc00000u); }

/* ---- one number of many -------------------------------------------------- */

/* The largest of sign * x, NaN where one is. */
template <typename T>
DEVICE float extreme(const row_functions_args &a, const row_call &c, int j, float sign)
{
    float most = -INFINITE, broken = 0.0f;
    for (int r = 0; r < c.n; r++) {
        const T *x = row_operand<T>(a, c, r, j);
        for (int i = threadIdx.x; i < c.inner; i += blockDim.x) {
            const float at = sign * load(x[i]);
            most = at > most ? at : most;
            broken = at != at ? 1.0f : broken;
        }
    }
    const float found = sign * block_max(most);
    return block_max(broken) > 0.0f ? not_a_number() : found;
}

template <typename T>
DEVICE float sum_over(const row_functions_args &a, const row_call &c, int j)
{
    float sum = 0.0f;
    for (int r = 0; r < c.n; r++) {
        const T *x = row_operand<T>(a, c, r, j);
        if (c.function == ROW_NORM) {
            sum += block_sum_of(c.inner, [=](int i) { return load(x[i]) * load(x[i]); });
        } else if (c.function == ROW_DOT) {
            const T *y = row_operand<T>(a, c, ++r, j);
            sum += block_sum_of(c.inner, [=](int i) { return load(x[i]) * load(y[i]); });
        } else sum += block_sum_of(c.inner, [=](int i) { return load(x[i]); });
    }
    return sum;
}

template <typename T>
DEVICE float reduced(const row_functions_args &a, const row_call &c, int j)
{
    switch (c.function) {
    case ROW_AMAX: return extreme<T>(a, c, j, 1.0f);
    case ROW_AMIN: return extreme<T>(a, c, j, -1.0f);
    case ROW_NORM: return square_root(sum_over<T>(a, c, j));
    case ROW_MEAN: return sum_over<T>(a, c, j) / ((float)c.n * (float)c.inner);
    default: return sum_over<T>(a, c, j);
    }
}

/* Column j of many rows of one element each, in the one thread that has it. */
template <typename T>
DEVICE float reduced_column(const row_functions_args &a, const row_call &c, int j)
{
    const bool largest = c.function == ROW_AMAX, smallest = c.function == ROW_AMIN;
    float sum = largest ? -INFINITE : smallest ? INFINITE : 0.0f, broken = 0.0f;
    for (int r = 0; r < c.n; r++) {
        const float x = load(((const T *)a.operands[c.first + r])[j]);
        if (largest || smallest) {
            sum = largest == (x > sum) ? x : sum;
            broken = x != x ? 1.0f : broken;
        } else if (c.function == ROW_DOT)
            sum += x * load(((const T *)a.operands[c.first + ++r])[j]);
        else sum += c.function == ROW_NORM ? x * x : x;
    }
    if (broken > 0.0f) return not_a_number();
    return c.function == ROW_NORM   ? square_root(sum)
           : c.function == ROW_MEAN ? sum / (float)c.n
                                    : sum;
}

template <typename T>
DEVICE void reduce(const row_functions_args &a, const row_call &c)
{
    T *out = (T *)c.out;
    if (c.inner == 1) {
        for (int j = threadIdx.x; j < c.kept; j += blockDim.x)
            out[j] = store<T>(reduced_column<T>(a, c, j));
        return;
    }
    for (int j = 0; j < c.kept; j++) {
        const float made = reduced<T>(a, c, j);
        if (threadIdx.x == 0) out[j] = store<T>(made);
    }
}

/* Rare, so by one thread a column. */
DEVICE void reduce_integers(const row_functions_args &a, const row_call &c)
{
    for (int j = threadIdx.x; j < c.kept; j += blockDim.x) {
        int64_t made = c.function == ROW_AMAX ? INT64_MIN : c.function == ROW_AMIN ? INT64_MAX : 0;
        for (int r = 0; r < c.n; r++)
            for (int i = 0; i < c.inner; i++) {
                const int64_t x = row_operand<int64_t>(a, c, r, j)[i];
                if (c.function == ROW_SUM) made = (int64_t)((uint64_t)made + (uint64_t)x);
                else if (c.function == ROW_AMAX ? x > made : x < made) made = x;
            }
        ((int64_t *)c.out)[j] = made;
    }
}

/* ---- a row of a row ------------------------------------------------------ */

template <typename T>
DEVICE void softmax_row(const T *x, T *out, int n, bool logarithmic)
{
    float most = -INFINITE;
    for (int i = threadIdx.x; i < n; i += blockDim.x) most = maximum(load(x[i]), most);
    const float largest = block_max(most);
    const float sum = block_sum_of(n, [=](int i) { return exponential(load(x[i]) - largest); });
    const float log_sum = logarithmic ? logarithm(sum) : 0.0f;
    if (logarithmic)
        for (int i = threadIdx.x; i < n; i += blockDim.x)
            out[i] = store<T>(load(x[i]) - largest - log_sum);
    else
        for (int i = threadIdx.x; i < n; i += blockDim.x)
            out[i] = store<T>(exponential(load(x[i]) - largest) / sum);
}

/* A NaN counts as infinity. */
template <typename T>
DEVICE float sorted_as(const T *x, int i)
{
    const float at = load(x[i]);
    return at != at ? INFINITE : at;
}

/* The place behind `last` in the order of size, and of equal ones in that of their places: the same
 * in every thread. last < 0: the first. */
template <typename T>
DEVICE int next_largest(const T *x, int n, int last)
{
    const float before = last < 0 ? INFINITE : sorted_as(x, last);
    float most = -INFINITE;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        const float at = sorted_as(x, i);
        const bool is_left = at < before || (at == before && i > last);
        most = is_left && at > most ? at : most;
    }
    const float largest = block_max(most);
    float first = -INFINITE; /* of -place */
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        if (sorted_as(x, i) == largest && (largest < before || i > last))
            first = -(float)i > first ? -(float)i : first;
    return (int)-block_max(first);
}

/* Of argmax alone a NaN is larger than infinity. */
template <typename T>
DEVICE int place_of_largest(const T *x, int n)
{
    float first = -INFINITE;
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        if (load(x[i]) != load(x[i])) first = -(float)i > first ? -(float)i : first;
    const float broken = block_max(first);
    return broken > -INFINITE ? (int)-broken : next_largest(x, n, -1);
}

template <typename T>
DEVICE void largest_of(const row_functions_args &a, const row_call &c, int j)
{
    const T *x = row_operand<T>(a, c, 0, j);
    const int64_t to = (int64_t)j * c.made;
    for (int i = 0, at = -1; i < c.made; i++) {
        at = next_largest(x, c.inner, at);
        if (threadIdx.x > 0) continue;
        if (c.function == ROW_TOPK) ((T *)c.out)[to + i] = x[at];
        else ((int64_t *)c.out)[to + i] = at;
    }
}

template <typename T>
DEVICE void largest_back(const row_functions_args &a, const row_call &c, int j)
{
    const T *x = row_operand<T>(a, c, 0, j);
    const T *given = (const T *)a.operands[c.first + 1] + (int64_t)j * c.k;
    T *out = (T *)c.out + (int64_t)j * c.made;
    for (int i = threadIdx.x; i < c.made; i += blockDim.x) out[i] = store<T>(0.0f);
    __syncthreads();
    for (int i = 0, at = -1; i < c.k; i++) {
        at = next_largest(x, c.inner, at);
        if (threadIdx.x == 0) out[at] = given[i];
    }
}

template <typename T>
DEVICE void row_function_of(const row_functions_args &a, const row_call &c)
{
    if (c.function < ROW_ARGMAX) {
        reduce<T>(a, c);
        return;
    }
    for (int j = 0; j < c.kept; j++) {
        const T *x = row_operand<T>(a, c, 0, j);
        switch (c.function) {
        case ROW_ARGMAX: {
            const int at = place_of_largest(x, c.inner);
            if (threadIdx.x == 0) ((int64_t *)c.out)[j] = at;
            break;
        }
        case ROW_SOFTMAX:
        case ROW_LOG_SOFTMAX:
            softmax_row(x, (T *)c.out + (int64_t)j * c.made, c.inner, c.function != ROW_SOFTMAX);
            break;
        case ROW_TOPK_BACK: largest_back<T>(a, c, j); break;
        default: largest_of<T>(a, c, j);
        }
    }
}

/* Bits, of any type of that size. */
template <typename T>
DEVICE void choose(const row_functions_args &a, const row_call &c)
{
    const uint8_t *chosen = (const uint8_t *)a.operands[c.first];
    const T *x = (const T *)a.operands[c.first + 1], *y = (const T *)a.operands[c.first + 2];
    for (int j = threadIdx.x; j < c.kept; j += blockDim.x)
        ((T *)c.out)[j] = chosen[j] ? x[j] : y[j];
}

DEVICE void choose_any(const row_functions_args &a, const row_call &c)
{
    switch (type_bytes(c.out_type)) {
    case 8: choose<uint64_t>(a, c); break;
    case 4: choose<uint32_t>(a, c); break;
    case 2: choose<uint16_t>(a, c); break;
    default: choose<uint8_t>(a, c);
    }
}

KERNEL(row_functions, row_functions_args a)
{
    const row_call c = a.calls[blockIdx.x];
    if (c.function == ROW_WHERE) choose_any(a, c);
    else if (c.type == F32) row_function_of<float>(a, c);
    else if (c.type == BF16) row_function_of<bf16>(a, c);
    else if (c.type == F16) row_function_of<f16>(a, c);
    else reduce_integers(a, c);
}

void row_functions_entries(kernel_table *table)
{
    KERNEL_ENTRY(table, KERNEL_ROW_FUNCTIONS, 0, row_functions_args, row_functions);
}

} // namespace KERNEL_NAMESPACE
