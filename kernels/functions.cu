/* functions.cu: records that are functions of one element (exp, relu, their derivatives, ...) or
 * comparisons of two, as
 * records.cu does sums and products; apart from it, so that those need not have the registers that
 * these take. Arithmetic is PyTorch's: floats of up to 32 bits are computed in fp32 and rounded
 * once, f64 in double, integers (abs, relu and bounds alone) as such. Any block size. */
#include "kernels/activations.h"
#include "kernels/record_parts.h"

namespace KERNEL_NAMESPACE {

/* What is 1 where two numbers compare so; false: op is no comparison. */
template <typename A>
DEVICE bool compare(int op, A x, A y, A *result)
{
    switch (op) {
    case RECORD_EQUAL: *result = x == y; return true;
    case RECORD_UNEQUAL: *result = x != y; return true;
    case RECORD_LESS: *result = x < y; return true;
    case RECORD_LESS_EQUAL: *result = x <= y; return true;
    case RECORD_GREATER: *result = x > y; return true;
    case RECORD_GREATER_EQUAL: *result = x >= y; return true;
    default: return false;
    }
}

/* ---- fp32 --------------------------------------------------------------- */

/* NaN where one is. */
DEVICE float at_least(float x, float low) { return x < low || low != low ? low : x; }
DEVICE float at_most(float x, float high) { return x > high || high != high ? high : x; }
DEVICE float sign_of(float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x; }

DEVICE float function_of(int op, float x, float y)
{
    switch (op) {
    case RECORD_EXP: return exponential(x);
    case RECORD_LOG: return logarithm(x);
    case RECORD_SQRT: return square_root(x);
    case RECORD_ABS: return bits_to_float(float_to_bits(x) & 0x7fffffffu);
    case RECORD_RELU: return relu(x);
    case RECORD_SIGMOID: return sigmoid(x);
    case RECORD_TANH: return hyperbolic_tangent(x);
    case RECORD_GELU: return gelu_erf(x);
    case RECORD_GELU_TANH: return gelu_tanh(x);
    case RECORD_SILU: return silu(x);
    case RECORD_AT_LEAST: return at_least(x, y);
    case RECORD_AT_MOST: return at_most(x, y);
    case RECORD_SLOPE + RECORD_EXP: return exponential(x);
    case RECORD_SLOPE + RECORD_LOG: return 1.0f / x;
    case RECORD_SLOPE + RECORD_SQRT: return 0.5f / square_root(x);
    case RECORD_SLOPE + RECORD_ABS: return sign_of(x);
    case RECORD_SLOPE + RECORD_RELU: return x > 0.0f ? 1.0f : 0.0f;
    case RECORD_SLOPE + RECORD_SIGMOID: return sigmoid_slope(x);
    case RECORD_SLOPE + RECORD_TANH: return tanh_slope(x);
    case RECORD_SLOPE + RECORD_GELU: return gelu_slope(x);
    case RECORD_SLOPE + RECORD_GELU_TANH: return gelu_tanh_slope(x);
    case RECORD_SLOPE + RECORD_SILU: return silu_slope(x);
    case RECORD_SLOPE + RECORD_AT_LEAST: return x >= y ? 1.0f : 0.0f;
    default: return x <= y ? 1.0f : 0.0f; /* of AT_MOST */
    }
}

/* ---- f64: rare, so by the library's functions --------------------------- */

#if defined(__CUDACC__)
DEVICE double exponential(double x) { return exp(x); }
DEVICE double logarithm(double x) { return log(x); }
DEVICE double square_root(double x) { return sqrt(x); }
DEVICE double hyperbolic_tangent(double x) { return tanh(x); }
DEVICE double error_function(double x) { return erf(x); }
#else
DEVICE double exponential(double x) { return __builtin_exp(x); }
DEVICE double logarithm(double x) { return __builtin_log(x); }
DEVICE double square_root(double x) { return __builtin_sqrt(x); }
DEVICE double hyperbolic_tangent(double x) { return __builtin_tanh(x); }
DEVICE double error_function(double x) { return __builtin_erf(x); }
#endif

/* The argument of gelu_tanh's tanh. */
DEVICE double inner(double x) { return 0.79788456080286536 * (x + 0.044715 * (x * x * x)); }

DEVICE double function_of(int op, double x, double y)
{
    switch (op) {
    case RECORD_EXP: return exponential(x);
    case RECORD_LOG: return logarithm(x);
    case RECORD_SQRT: return square_root(x);
    case RECORD_ABS: return x < 0 ? -x : x == 0 ? 0 : x;
    case RECORD_RELU: return x < 0 ? 0 : x;
    case RECORD_SIGMOID: return 1 / (1 + exponential(-x));
    case RECORD_TANH: return hyperbolic_tangent(x);
    case RECORD_GELU: return x * 0.5 * (1 + error_function(x * 0.70710678118654752));
    case RECORD_GELU_TANH: return 0.5 * x * (1 + hyperbolic_tangent(inner(x)));
    case RECORD_SILU: return x / (1 + exponential(-x));
    case RECORD_AT_LEAST: return x < y || y != y ? y : x;
    default: return x > y || y != y ? y : x; /* AT_MOST; slopes are the model's type */
    }
}

DEVICE int64_t function_of(int op, int64_t x, int64_t y)
{
    switch (op) {
    case RECORD_ABS: return x < 0 ? (int64_t)(0 - (uint64_t)x) : x;
    case RECORD_RELU: return x < 0 ? 0 : x;
    case RECORD_AT_LEAST: return x < y ? y : x;
    default: return x > y ? y : x;
    }
}

/* ---- a part of a record ------------------------------------------------- */

DEVICE number function_number(int compute, int op, number a, number b)
{
    number n = {0.0f, 0.0, 0};
    switch (arithmetic_of(compute)) {
    case IN_FLOAT:
        if (!compare(op, a.f, b.f, &n.f)) n.f = rounded_float(compute, function_of(op, a.f, b.f));
        break;
    case IN_DOUBLE:
        if (!compare(op, a.d, b.d, &n.d)) n.d = function_of(op, a.d, b.d);
        break;
    case IN_INTEGER:
        if (!compare(op, a.i, b.i, &n.i)) n.i = cut_integer(compute, function_of(op, a.i, b.i));
        break;
    }
    return n;
}

DEVICE_APART void function_part(const record &r, const rectangle &part)
{
    apply_plain(
        r, part, [&](number a, number b) { return function_number(r.compute, r.op, a, b); });
}

/* Rows of one float type side by side, of one operand, for functions that are worth a loop of their
 * own: it is straight, and vectorises. */
template <typename T, typename F>
DEVICE void function_rows(const record &r, const rectangle &part, F f)
{
    for (int row = 0; row < part.rows; row++) {
        const int64_t i = part.first_row + row;
        T *RESTRICT out = (T *)r.out + i * r.out_row + part.first_column;
        const T *RESTRICT a = (const T *)r.a + i * r.a_row + part.first_column;
        for (int j = threadIdx.x; j < part.columns; j += blockDim.x)
            out[j] = store<T>(f(load(a[j])));
    }
}
template <typename T>
DEVICE_APART void plain_function(const record &r, const rectangle &part)
{
    switch (r.op) {
    case RECORD_EXP: function_rows<T>(r, part, [](float x) { return exponential(x); }); break;
    case RECORD_RELU: function_rows<T>(r, part, [](float x) { return relu(x); }); break;
    case RECORD_SIGMOID: function_rows<T>(r, part, [](float x) { return sigmoid(x); }); break;
    case RECORD_GELU: function_rows<T>(r, part, [](float x) { return gelu_erf(x); }); break;
    case RECORD_GELU_TANH: function_rows<T>(r, part, [](float x) { return gelu_tanh(x); }); break;
    default: function_part(r, part);
    }
}

DEVICE bool is_plain_function(const record &r, const rectangle &part)
{
    return r.compute <= F16 && r.a && r.a_type == r.compute && r.out_type == r.compute
           && r.a_column == 1 && r.out_column == 1 && part.columns >= 16;
}

KERNEL(functions, records_args a)
{
    SHARED(record, here, 1);
    bring_record(here, a, blockIdx.x);
    const record &r = *here;
    const rectangle part = find_rectangle(r, blockIdx.x);
    if (!is_plain_function(r, part)) function_part(r, part);
    else if (r.compute == F32) plain_function<float>(r, part);
    else if (r.compute == BF16) plain_function<bf16>(r, part);
    else plain_function<f16>(r, part);
}

void functions_entries(kernel_table *table)
{
    KERNEL_ENTRY(table, KERNEL_FUNCTIONS, 0, records_args, functions);
}

} // namespace KERNEL_NAMESPACE
