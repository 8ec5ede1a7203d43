/* pointwise.cu: what acts on each element of a row alone: activation with bias, gate, residual add,
 * scale and softcap.
 *
 * One block a row; any block size. Rows need no alignment; threads move 16 bytes at a time where a
 * row has it (packs.h). What is the same for the whole launch (the kind of activation, whether
 * there is a bias) is decided before the loop, so that each loop body is straight and
 * vectorises. */
#include "kernels/fused.h"
#include "kernels/activations.h"
#include "kernels/packs.h"

namespace KERNEL_NAMESPACE {

/* out = f(T(x + bias)): PyTorch rounds the linear layer's result before the activation sees it. */
template <typename T, typename F>
DEVICE void activate_row(T *RESTRICT out, const T *RESTRICT x, const T *RESTRICT bias, int d, F f)
{
    if (moves_sixteen()) {
        if (bias)
            map_packs(out, x, bias, (const T *)nullptr, d,
                [=](float a, float b, float) { return f(load(store<T>(a + b))); });
        else
            map_packs(out, x, (const T *)nullptr, (const T *)nullptr, d,
                [=](float a, float, float) { return f(a); });
        return;
    }
    if (bias)
        for (int i = threadIdx.x; i < d; i += blockDim.x)
            out[i] = store<T>(f(load(store<T>(load(x[i]) + load(bias[i])))));
    else
        for (int i = threadIdx.x; i < d; i += blockDim.x) out[i] = store<T>(f(load(x[i])));
}

template <typename T>
DEVICE void activation_row(const activation_args &a, int64_t row)
{
    const int64_t from = a.x_rows ? a.x_rows[row] : row;
    T *out = (T *)a.out + row * a.out_stride;
    const T *x = (const T *)a.x + from * a.x_stride, *bias = (const T *)a.bias;
    const int d = (int)a.width;
    switch (a.kind) {
    case 0: activate_row(out, x, bias, d, [](float v) { return gelu_erf(v); }); break;
    case 1: activate_row(out, x, bias, d, [](float v) { return gelu_tanh(v); }); break;
    case 2: activate_row(out, x, bias, d, [](float v) { return relu(v); }); break;
    case 3: activate_row(out, x, bias, d, [](float v) { return silu(v); }); break;
    case 4: activate_row(out, x, bias, d, [](float v) { return hyperbolic_tangent(v); }); break;
    case 5: activate_row(out, x, bias, d, [](float v) { return sigmoid(v); }); break;
    }
}
ROW_KERNEL(activation, activation_args)

template <typename T>
DEVICE void gate_row(const gate_args &args, int64_t row)
{
    T *RESTRICT out = (T *)args.out + row * args.out_stride;
    const T *RESTRICT a = (const T *)args.a
                          + (int64_t)(args.a_rows ? args.a_rows[row] : row) * args.a_stride;
    const T *RESTRICT b = (const T *)args.b
                          + (int64_t)(args.b_rows ? args.b_rows[row] : row) * args.b_stride;
    const int d = (int)args.width;
    if (moves_sixteen()) {
        map_packs(out, a, b, (const T *)nullptr, d, [](float x, float y, float) { return x * y; });
        return;
    }
    for (int i = threadIdx.x; i < d; i += blockDim.x) out[i] = store<T>(load(a[i]) * load(b[i]));
}
ROW_KERNEL(gate, gate_args)

template <typename T>
DEVICE void add_row(const add_args &args, int64_t row)
{
    T *RESTRICT out = (T *)args.out + row * args.out_stride;
    const T *RESTRICT a = (const T *)args.a
                          + (int64_t)(args.a_rows ? args.a_rows[row] : row) * args.a_stride;
    const T *RESTRICT b = (const T *)args.b
                          + (int64_t)(args.b_rows ? args.b_rows[row] : row) * args.b_stride;
    const int d = (int)args.width;
    const T *RESTRICT c = args.c ? (const T *)args.c
                                       + (int64_t)(args.c_rows ? args.c_rows[row] : row)
                                             * args.c_stride
                                 : nullptr;
    if (moves_sixteen()) {
        if (c)
            map_packs(out, a, b, c, d,
                [](float x, float y, float z) { return load(store<T>(x + y)) + z; });
        else map_packs(out, a, b, c, d, [](float x, float y, float) { return x + y; });
        return;
    }
    if (!c) {
        for (int i = threadIdx.x; i < d; i += blockDim.x)
            out[i] = store<T>(load(a[i]) + load(b[i]));
        return;
    }
    for (int i = threadIdx.x; i < d; i += blockDim.x)
        out[i] = store<T>(load(store<T>(load(a[i]) + load(b[i]))) + load(c[i]));
}
ROW_KERNEL(add, add_args)

template <typename T>
DEVICE void scale_row(const scale_args &a, int64_t row)
{
    const int64_t from = a.x_rows ? a.x_rows[row] : row;
    T *RESTRICT out = (T *)a.out + row * a.out_stride;
    const T *RESTRICT x = (const T *)a.x + from * a.x_stride;
    const int d = (int)a.width;
    const float factor = a.scale, cap = a.softcap;
    if (moves_sixteen() && cap <= 0.0f) {
        map_packs(out, x, (const T *)nullptr, (const T *)nullptr, d,
            [=](float v, float, float) { return v * factor; });
        return;
    }
    if (cap > 0.0f)
        for (int i = threadIdx.x; i < d; i += blockDim.x)
            out[i] = store<T>(
                cap * load(store<T>(hyperbolic_tangent(load(store<T>(load(x[i]) / cap))))));
    else
        for (int i = threadIdx.x; i < d; i += blockDim.x) out[i] = store<T>(load(x[i]) * factor);
}
ROW_KERNEL(scale, scale_args)

void pointwise_entries(kernel_table *table)
{
    BOTH_ENTRIES(table, KERNEL_ACTIVATION, activation_args, activation);
    BOTH_ENTRIES(table, KERNEL_GATE, gate_args, gate);
    BOTH_ENTRIES(table, KERNEL_ADD, add_args, add);
    BOTH_ENTRIES(table, KERNEL_SCALE, scale_args, scale);
}

} // namespace KERNEL_NAMESPACE
