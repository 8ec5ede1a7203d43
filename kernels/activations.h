/* activations.h: activation functions and their derivatives in fp32, as PyTorch has them. */
#ifndef INSET_ACTIVATIONS_H
#define INSET_ACTIVATIONS_H

#include "kernels/math.h"

namespace KERNEL_NAMESPACE {

/* relu as PyTorch's: a NaN stays one. */
DEVICE float relu(float x)
{
    return bits_to_float(float_to_bits(x) & (x < 0.0f ? 0u : 0xffffffffu));
}
DEVICE float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }
DEVICE float silu(float x) { return x / (1.0f + exponential(-x)); }
DEVICE float gelu_erf(float x)
{
    return x * 0.5f * (1.0f + error_function(x * 0.70710678118654752f));
}
DEVICE float gelu_tanh(float x)
{
    return 0.5f * x
           * (1.0f + hyperbolic_tangent(0.79788456080286536f * (x + 0.044715f * (x * x * x))));
}

/* The derivative at x of the kinds of activation_args. */
DEVICE float gelu_slope(float x) /* Phi(x) + x phi(x) */
{
    return 0.5f * (1.0f + error_function(x * 0.70710678118654752f))
           + x * 0.39894228040143268f * exponential(-0.5f * (x * x));
}
DEVICE float gelu_tanh_slope(float x)
{
    const float t = hyperbolic_tangent(0.79788456080286536f * (x + 0.044715f * (x * x * x)));
    return 0.5f * (1.0f + t)
           + 0.5f * x * (1.0f - t * t) * (0.79788456080286536f * (1.0f + 0.134145f * (x * x)));
}
DEVICE float silu_slope(float x)
{
    const float s = 1.0f / (1.0f + exponential(-x));
    return s * (1.0f + x * (1.0f - s));
}
DEVICE float tanh_slope(float x)
{
    const float t = hyperbolic_tangent(x);
    return 1.0f - t * t;
}
DEVICE float sigmoid_slope(float x)
{
    const float s = 1.0f / (1.0f + exponential(-x));
    return s * (1.0f - s);
}

} // namespace KERNEL_NAMESPACE

#endif
