/* math.h: exp, log, tanh, erf, sin and cos in fp32. On a GPU they are CUDA's; on the CPU they are
 * written here without branches and without calls, so that loops over them vectorise (log, sin and
 * cos excepted: a handful a row). Each is within 3 units in the last place, keeps NaN, and is right
 * at infinities, overflow and subnormal results. The polynomials are least-squares fits on
 * Chebyshev nodes, weighted until their relative error was level (below 5e-9, a tenth of
 * fp32's). */
#ifndef INSET_KERNEL_MATH_H
#define INSET_KERNEL_MATH_H

#include "kernels/grid.h"

namespace KERNEL_NAMESPACE {

#if defined(__CUDACC__)

DEVICE float exponential(float x) { return expf(x); }
DEVICE float logarithm(float x) { return logf(x); }
DEVICE float hyperbolic_tangent(float x) { return tanhf(x); }
DEVICE float error_function(float x) { return erff(x); }
DEVICE float cosine(float x) { return cosf(x); }
DEVICE float sine(float x) { return sinf(x); }

#else

DEVICE float absolute(float x) { return bits_to_float(float_to_bits(x) & 0x7fffffffu); }
DEVICE float with_sign(float magnitude, float sign)
{
    return bits_to_float(float_to_bits(magnitude) | (float_to_bits(sign) & 0x80000000u));
}

/* exp(x) = 2^n exp(r), n the nearest integer to x / log 2, |r| <= log(2) / 2; exp(r) by its series.
 * Adding 1.5 * 2^23 rounds to an integer, which is then also in the low bits. log 2 is split so
 * that n times its first part is exact. 2^n is multiplied in as two factors, because n reaches from
 * -150 (the result is subnormal or 0) to 128 (infinity). */
DEVICE float exponential(float x)
{
    x = x > 89.0f ? 89.0f : x;
    x = x < -104.0f ? -104.0f : x;
    const float shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = (p * r * r + r) + 1.0f;
    const int32_t power = (int32_t)(float_to_bits(shifted) - 0x4b400000u), half = power >> 1;
    return p * bits_to_float((uint32_t)(half + 127) << 23)
           * bits_to_float((uint32_t)(power - half + 127) << 23);
}

/* Below 0.625 an odd polynomial, above 1 - 2 / (exp(2x) + 1). */
DEVICE float hyperbolic_tangent(float x)
{
    const float magnitude = absolute(x), square = x * x;
    float p = -0.00571704f;
    p = p * square + 0.02065058f;
    p = p * square - 0.0537435f;
    p = p * square + 0.13331491f;
    p = p * square - 0.33333284f;
    const float near_zero = magnitude + magnitude * square * p;
    const float far = 1.0f - 2.0f / (exponential(2.0f * magnitude) + 1.0f);
    return with_sign(magnitude < 0.625f ? near_zero : far, x);
}

/* Below 1 an odd polynomial, above 1 - exp(q(x)) with q fitted to log(1 - erf), which is 1 from 4
 * on. */
DEVICE float error_function(float x)
{
    const float magnitude = absolute(x), square = x * x;
    float p = 7.889119576523169e-05f;
    p = p * square - 0.0008020841291792341f;
    p = p * square + 0.005189535340537258f;
    p = p * square - 0.026854444592444526f;
    p = p * square + 0.11283600176267806f;
    p = p * square - 0.3761262713596649f;
    p = p * square + 1.1283791659137519f;
    const float y = magnitude > 4.0f ? 4.0f : magnitude;
    float q = 0.0001915050328429408f;
    q = q * y - 0.0029995490513312737f;
    q = q * y + 0.02205202911545344f;
    q = q * y - 0.10356695470550065f;
    q = q * y - 0.6375999705175756f;
    q = q * y - 1.1274261250079944f;
    q = q * y - 0.00025643664033496834f;
    return with_sign(magnitude < 1.0f ? magnitude * p : 1.0f - exponential(q), x);
}

DEVICE float logarithm(float x) { return __builtin_logf(x); }
DEVICE float cosine(float x) { return __builtin_cosf(x); }
DEVICE float sine(float x) { return __builtin_sinf(x); }

#endif

} // namespace KERNEL_NAMESPACE

#endif
