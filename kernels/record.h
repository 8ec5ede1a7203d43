/* record.h: the element code of records, shared by the kernel that applies a table of them
 * (records.cu) and by the kernels that apply records to the row they have just written (fused.h),
 * so that a record gives the same bits wherever it is applied (of two NaNs in one operation, which
 * one comes out is left to the compiler).
 *
 * Arithmetic is PyTorch's: floats up to 32 bits compute in fp32, f64 in double, integers and bool
 * in wrapping 64-bit integers cut to their type at the end. */
#ifndef INSET_RECORD_H
#define INSET_RECORD_H

#include "kernels/grid.h"

namespace KERNEL_NAMESPACE {

/* The values of inset_type. */
enum { F32, BF16, F16, F64, I64, I32, I16, I8, U8, BOOL };

template <typename T>
struct type_number;
template <>
struct type_number<float> {
    enum { is = F32 };
};
template <>
struct type_number<bf16> {
    enum { is = BF16 };
};
template <>
struct type_number<f16> {
    enum { is = F16 };
};

DEVICE int type_bytes(int type)
{
    return type == F64 || type == I64                   ? 8
           : type == F32 || type == I32                 ? 4
           : type == BF16 || type == F16 || type == I16 ? 2
                                                        : 1;
}

/* ---- one element of any type -------------------------------------------- */

/* Truncates; what no 64-bit integer holds becomes the smallest, as x86 has it. */
DEVICE int64_t truncated(double x) { return x >= -0x1p63 && x < 0x1p63 ? (int64_t)x : INT64_MIN; }

DEVICE int64_t cut_integer(int type, int64_t x)
{
    switch (type) {
    case I32: return (int32_t)x;
    case I16: return (int16_t)x;
    case I8: return (int8_t)x;
    case U8: return (uint8_t)x;
    case BOOL: return x != 0;
    default: return x;
    }
}

/* A number in one of the three arithmetics: `f` is used by F32, BF16 and F16, `d` by F64, `i` by
 * integers. */
struct number {
    float f;
    double d;
    int64_t i;
};
enum arithmetic { IN_FLOAT, IN_DOUBLE, IN_INTEGER };

DEVICE arithmetic arithmetic_of(int type)
{
    return type <= F16 ? IN_FLOAT : type == F64 ? IN_DOUBLE : IN_INTEGER;
}

DEVICE float rounded_float(int type, float x)
{
    return type == BF16 ? load(store<bf16>(x)) : type == F16 ? load(store<f16>(x)) : x;
}

/* A float, a double or an integer, as `compute` holds it. */
DEVICE number from_float(int compute, float x)
{
    number n = {rounded_float(compute, x), x, 0};
    if (arithmetic_of(compute) == IN_INTEGER)
        n.i = compute == BOOL ? x != 0.0f : cut_integer(compute, truncated(x));
    return n;
}
DEVICE number from_double(int compute, double x)
{
    number n = {rounded_float(compute, (float)x), x, 0};
    if (arithmetic_of(compute) == IN_INTEGER)
        n.i = compute == BOOL ? x != 0.0 : cut_integer(compute, truncated(x));
    return n;
}
DEVICE number from_integer(int compute, int64_t x)
{
    number n = {rounded_float(compute, (float)x), (double)x, cut_integer(compute, x)};
    return n;
}

DEVICE number read_element(int compute, int type, const void *p, int64_t at)
{
    switch (type) {
    case F32: return from_float(compute, ((const float *)p)[at]);
    case BF16: return from_float(compute, load(((const bf16 *)p)[at]));
    case F16: return from_float(compute, load(((const f16 *)p)[at]));
    case F64: return from_double(compute, ((const double *)p)[at]);
    case I64: return from_integer(compute, ((const int64_t *)p)[at]);
    case I32: return from_integer(compute, ((const int32_t *)p)[at]);
    case I16: return from_integer(compute, ((const int16_t *)p)[at]);
    case I8: return from_integer(compute, ((const int8_t *)p)[at]);
    case U8: return from_integer(compute, ((const uint8_t *)p)[at]);
    default: return from_integer(compute, ((const uint8_t *)p)[at] != 0);
    }
}

/* A constant operand. PyTorch rounds a Python number to a 16-bit tensor's type in sums, and keeps
 * it in fp32 in products and quotients. */
DEVICE number read_constant(int compute, int op, double x)
{
    const bool kept = (compute == BF16 || compute == F16)
                      && (op == RECORD_MULTIPLY || op == RECORD_DIVIDE);
    return from_double(kept ? (int)F32 : compute, x);
}

DEVICE float calculate(int op, float a, float b)
{
    switch (op) {
    case RECORD_ADD: return a + b;
    case RECORD_SUBTRACT: return a - b;
    case RECORD_MULTIPLY: return a * b;
    case RECORD_DIVIDE: return a / b;
    case RECORD_NEGATE: return -a;
    default: return a;
    }
}
DEVICE double calculate(int op, double a, double b)
{
    switch (op) {
    case RECORD_ADD: return a + b;
    case RECORD_SUBTRACT: return a - b;
    case RECORD_MULTIPLY: return a * b;
    case RECORD_DIVIDE: return a / b;
    case RECORD_NEGATE: return -a;
    default: return a;
    }
}
/* Unsigned, where overflow wraps. The host turns integer division into a float one; here it would
 * give 0. */
DEVICE int64_t calculate(int op, int64_t a, int64_t b)
{
    const uint64_t x = (uint64_t)a, y = (uint64_t)b;
    switch (op) {
    case RECORD_ADD: return (int64_t)(x + y);
    case RECORD_SUBTRACT: return (int64_t)(x - y);
    case RECORD_MULTIPLY: return (int64_t)(x * y);
    case RECORD_DIVIDE: return 0;
    case RECORD_NEGATE: return (int64_t)(0 - x);
    default: return a;
    }
}

DEVICE number calculate(int compute, int op, number a, number b)
{
    number n = {0.0f, 0.0, 0};
    switch (arithmetic_of(compute)) {
    case IN_FLOAT: n.f = rounded_float(compute, calculate(op, a.f, b.f)); break;
    case IN_DOUBLE: n.d = calculate(op, a.d, b.d); break;
    case IN_INTEGER: n.i = cut_integer(compute, calculate(op, a.i, b.i)); break;
    }
    return n;
}

DEVICE void write_element(int compute, number n, int type, void *p, int64_t at)
{
    const arithmetic in = arithmetic_of(compute);
    const float f = in == IN_FLOAT ? n.f : in == IN_DOUBLE ? (float)n.d : (float)n.i;
    const double d = in == IN_FLOAT ? (double)n.f : in == IN_DOUBLE ? n.d : (double)n.i;
    switch (type) {
    case F32: ((float *)p)[at] = f; return;
    case BF16: ((bf16 *)p)[at] = store<bf16>(f); return;
    case F16: ((f16 *)p)[at] = store<f16>(f); return;
    case F64: ((double *)p)[at] = d; return;
    case BOOL: ((uint8_t *)p)[at] = in == IN_INTEGER ? n.i != 0 : d != 0.0; return;
    }
    const int64_t i = in == IN_INTEGER ? n.i : truncated(d);
    switch (type) {
    case I64: ((int64_t *)p)[at] = i; return;
    case I32: ((int32_t *)p)[at] = (int32_t)i; return;
    case I16: ((int16_t *)p)[at] = (int16_t)i; return;
    case I8: ((int8_t *)p)[at] = (int8_t)i; return;
    case U8: ((uint8_t *)p)[at] = (uint8_t)i; return;
    }
}

/* ---- a row of a record -------------------------------------------------- */

/* Below: columns first .. first + n of row i of a record, shared by the threads of a block. */

/* Copies elements of one size, whatever they are, bit by bit. */
template <typename U>
DEVICE void copy_row(const record &r, int64_t i, int64_t first, int n)
{
    U *RESTRICT out = (U *)r.out + i * r.out_row + first * r.out_column;
    const U *RESTRICT a = (const U *)r.a + i * r.a_row + first * r.a_column;
    const int64_t out_column = r.out_column, a_column = r.a_column;
    if (out_column == 1 && a_column == 1)
        for (int j = threadIdx.x; j < n; j += blockDim.x) out[j] = a[j];
    else
        ONE_BY_ONE for (int j = threadIdx.x; j < n; j += blockDim.x)
            out[j * out_column] = a[j * a_column];
}

/* Whether such a row of elements of `size` bytes lies side by side and aligned to 16 bytes on both
 * sides; and its copy then. */
DEVICE bool lies_by_sixteen(const record &r, int64_t i, int64_t first, int size)
{
    const uint64_t places = (uint64_t)(uintptr_t)r.out | (uint64_t)(uintptr_t)r.a
                            | (uint64_t)(i * r.out_row * size) | (uint64_t)(i * r.a_row * size)
                            | (uint64_t)(first * size);
    return SIXTEEN_BYTES && r.out_column == 1 && r.a_column == 1 && places % 16 == 0;
}
DEVICE void copy_row_by_sixteen(const record &r, int64_t i, int64_t first, int n, int size)
{
    char *RESTRICT out = (char *)r.out + (i * r.out_row + first) * size;
    const char *RESTRICT a = (const char *)r.a + (i * r.a_row + first) * size;
    const int bytes = n * size, whole = bytes / 16;
    for (int j = threadIdx.x; j < whole; j += blockDim.x)
        ((sixteen *)out)[j] = ((const sixteen *)a)[j];
    ONE_BY_ONE for (int j = whole * 16 + threadIdx.x; j < bytes; j += blockDim.x) out[j] = a[j];
}

/* From one float type into another, rounded to a third between them. */
template <typename O, typename C, typename A>
DEVICE void convert_row(const record &r, int64_t i, int64_t first, int n)
{
    O *RESTRICT out = (O *)r.out + i * r.out_row + first;
    const A *RESTRICT a = (const A *)r.a + i * r.a_row + first * r.a_column;
    const int64_t column = r.a_column;
    if (column == 1)
        for (int j = threadIdx.x; j < n; j += blockDim.x)
            out[j] = store<O>(load(store<C>(load(a[j]))));
    else
        ONE_BY_ONE for (int j = threadIdx.x; j < n; j += blockDim.x)
            out[j] = store<O>(load(store<C>(load(a[j * column]))));
}

/* f of one float type: a and b run along, or are NULL for one value all along. */
template <typename T, typename F>
DEVICE void calculate_elements(T *RESTRICT out, const T *RESTRICT a, const T *RESTRICT b,
    float a_value, float b_value, int n, F f)
{
    if (a && b)
        ONE_BY_ONE for (int j = threadIdx.x; j < n; j += blockDim.x)
            out[j] = store<T>(f(load(a[j]), load(b[j])));
    else if (a)
        ONE_BY_ONE for (int j = threadIdx.x; j < n; j += blockDim.x)
            out[j] = store<T>(f(load(a[j]), b_value));
    else if (b)
        ONE_BY_ONE for (int j = threadIdx.x; j < n; j += blockDim.x)
            out[j] = store<T>(f(a_value, load(b[j])));
    else
        ONE_BY_ONE for (int j = threadIdx.x; j < n; j += blockDim.x)
            out[j] = store<T>(f(a_value, b_value));
}

/* A record that computes in T, between rows or constants of T: out runs along its row, each operand
 * runs along its own or stands still. */
template <typename T>
DEVICE void calculate_row(const record &r, int64_t i, int64_t first, int n)
{
    T *out = (T *)r.out + i * r.out_row + first;
    const T *a = r.a ? (const T *)r.a + i * r.a_row + first * r.a_column : 0;
    const T *b = r.b ? (const T *)r.b + i * r.b_row + first * r.b_column : 0;
    const float a_value = a ? load(*a) : read_constant(type_number<T>::is, r.op, r.a_constant).f;
    const float b_value = b ? load(*b) : read_constant(type_number<T>::is, r.op, r.b_constant).f;
    a = r.a_column ? a : 0;
    b = r.b_column ? b : 0;
    switch (r.op) {
    case RECORD_COPY:
        calculate_elements(out, a, b, a_value, b_value, n, [](float x, float) { return x; });
        break;
    case RECORD_ADD:
        calculate_elements(out, a, b, a_value, b_value, n, [](float x, float y) { return x + y; });
        break;
    case RECORD_SUBTRACT:
        calculate_elements(out, a, b, a_value, b_value, n, [](float x, float y) { return x - y; });
        break;
    case RECORD_MULTIPLY:
        calculate_elements(out, a, b, a_value, b_value, n, [](float x, float y) { return x * y; });
        break;
    case RECORD_DIVIDE:
        calculate_elements(out, a, b, a_value, b_value, n, [](float x, float y) { return x / y; });
        break;
    case RECORD_NEGATE:
        calculate_elements(out, a, b, a_value, b_value, n, [](float x, float) { return -x; });
        break;
    }
}

} // namespace KERNEL_NAMESPACE

#endif
