/* matmul.c: matrix products on the CPU: by oneDNN, and a plain loop for the tiny ones.
 *
 * A weight matrix is brought into oneDNN's own blocked layout once, at load. A product is prepared
 * ("primitive") for one height, that is, number of rows, and prepared products are kept, for all
 * matrices of a shape together: preparing one takes 200 to 700 microseconds, a GPT-2 step at 15
 * rows 60 to 350. Up to MOST_ROWS rows take one product of just their height. More rows are done
 * MOST_ROWS at a time, and the rest in a last window whose height is rounded up to a multiple of
 * ROUNDING and which begins earlier, so that it ends with the last row; the rows it shares with the
 * one before are computed twice, to the same values. So the heights are at most MOST_ROWS different
 * ones, and nothing is copied or padded. (DNNL_RUNTIME_DIM_VAL as the height needs no preparation
 * but takes plain weights and is 5 to 50 percent slower.)
 *
 * Does a row's result depend on the height? With oneDNN 2.6 on AVX-512 and AMX, packed products
 * gave a row the same bits at every height tried (tests/test_matmul.c prints it); AVX2's plain
 * products do not.
 *
 * Types. fp32 is computed as it is. bf16 is computed by bf16 products where the processor has them
 * (AVX512_BF16, AMX). Otherwise, and for f16, weights are widened to fp32 at load and activations
 * on their way in and out. Weights and bias are always rounded to the model's type first.
 *
 * A table that is on the device anyway (the embedding, where it is the head too) is multiplied
 * where it lies, [out, in], and takes memory once. Measured on a GPT-2 small head that costs 7
 * percent at 128 rows and 30 at few; one row, which a plan that reads the last logits asks for,
 * takes dot products instead, at the speed of memory.
 *
 * Matrices of up to TINY elements take a plain loop: oneDNN's call alone costs more than the
 * two-layer model's whole run. The choice looks at the matrix only, so that it cannot make a row
 * depend on how many there are.
 *
 * oneDNN 2 describes memory by a struct, 3 by a handle; `description` and the few functions around
 * it are the whole difference. */
#include "device/cpu/products.h"

static float load_element(inset_type type, const void *x, int64_t i)
{
    if (type == INSET_F32) return ((const float *)x)[i];
    return type == INSET_BF16 ? bf16_to_float(((const uint16_t *)x)[i])
                              : f16_to_float(((const uint16_t *)x)[i]);
}

static void store_element(inset_type type, void *y, int64_t i, float value)
{
    if (type == INSET_F32) ((float *)y)[i] = value;
    else ((uint16_t *)y)[i] = type == INSET_BF16 ? bf16_from_float(value) : f16_from_float(value);
}

/* A row at a time: a sum per column, in the order of the inputs. */
static void multiply_tiny(
    const matrix *m, const void *x, int64_t x_stride, void *y, int64_t y_stride, int64_t rows)
{
    const int64_t in = m->in, out = m->out;
    for (int64_t r = 0; r < rows; r++) {
        float sums[TINY];
        if (m->bias) memcpy(sums, m->bias, (size_t)out * sizeof(float));
        else memset(sums, 0, (size_t)out * sizeof(float));
        for (int64_t i = 0; i < in; i++) {
            const float value = load_element(m->type, x, r * x_stride + i),
                        *restrict w = (const float *)m->weight + i * out;
            for (int64_t o = 0; o < out; o++) sums[o] += value * w[o];
        }
        if (m->type == INSET_F32)
            memcpy((float *)y + r * y_stride, sums, (size_t)out * sizeof(float));
        else
            for (int64_t o = 0; o < out; o++) store_element(m->type, y, r * y_stride + o, sums[o]);
    }
}

static inset_status execute(inset_context *context, cpu_products *p, const matrix *m, const void *x,
    int64_t x_stride, void *y, int64_t y_stride, int64_t rows)
{
    product *q = product_for(context, p->engine, m->shape, rows, x_stride, y_stride);
    if (!q) return context->status;
    dnnl_status_t status = dnnl_memory_set_data_handle(q->x, (void *)(uintptr_t)x);
    if (!status) status = dnnl_memory_set_data_handle(q->y, y);
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, q->x}, {DNNL_ARG_WEIGHTS, m->weight_memory},
        {DNNL_ARG_DST, q->y}, {DNNL_ARG_BIAS, m->bias_memory}};
    if (!status) status = dnnl_primitive_execute(q->primitive, p->stream, m->bias ? 4 : 3, args);
    if (!status) status = dnnl_stream_wait(p->stream);
    return status ? product_refused(context, "multiply", status) : INSET_OK;
}

/* One row of a product with a table: each column is a dot product with a row of the table, and
 * threads share the columns. */
static void multiply_one(const cpu_products *p, const matrix *m, const void *x, void *y)
{
    kernel_blocks *dot = m->type == INSET_F32 ? p->dot_f32 : p->dot_bf16;
    const int64_t size = (int64_t)type_size(m->type),
                  shares = (m->out + DOT_COLUMNS - 1) / DOT_COLUMNS;
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic) num_threads(p->threads) if (shares > 1)
#endif
    for (int64_t share = 0; share < shares; share++) {
        const int64_t first = share * DOT_COLUMNS,
                      n = m->out - first < DOT_COLUMNS ? m->out - first : DOT_COLUMNS;
        const columns_args args = {.out = (char *)y + first * size,
            .x = x,
            .weight = (const char *)m->table + first * m->in * size,
            .n_rows = 1,
            .n_columns = n,
            .width = m->in,
            .out_stride = m->out,
            .x_stride = m->in};
        dot(&args, 0, 1);
    }
}

/* Up to MOST_ROWS rows. */
static inset_status multiply_window(inset_context *context, cpu_products *p, const matrix *m,
    const void *x, int64_t x_stride, void *y, int64_t y_stride, int64_t rows)
{
    if (!m->widened)
        return execute(
            context, p, m, x, rows == 1 ? m->in : x_stride, y, rows == 1 ? m->out : y_stride, rows);
    float *wide_x = p->scratch, *wide_y = wide_x + p->widest_in * MOST_ROWS;
    product_convert(p, wide_x, INSET_F32, m->in, x, m->type, x_stride, rows, m->in);
    inset_status status = execute(context, p, m, wide_x, m->in, wide_y, m->out, rows);
    if (!status) product_convert(p, y, m->type, y_stride, wide_y, INSET_F32, m->out, rows, m->out);
    return status;
}

inset_status cpu_matmul(device *d, const matrix *m, const void *x, int64_t x_stride, void *y,
    int64_t y_stride, int64_t rows)
{
    if (!m->shape) {
        multiply_tiny(m, x, x_stride, y, y_stride, rows);
        return INSET_OK;
    }
    if (m->table && !m->widened && m->shape->layout == OUT_IN && !m->bias && rows == 1) {
        multiply_one(products_of(d), m, x, y);
        return INSET_OK;
    }
    const int64_t x_bytes = x_stride * (int64_t)type_size(m->type),
                  y_bytes = y_stride * (int64_t)type_size(m->type);
    for (int64_t done = 0; done < rows;) {
        int64_t height = rows - done < MOST_ROWS ? rows - done : MOST_ROWS;
        if (rows > MOST_ROWS) height = (height + ROUNDING - 1) / ROUNDING * ROUNDING;
        const int64_t first = done + height > rows ? rows - height : done;
        inset_status status = multiply_window(d->context, products_of(d), m,
            (const char *)x + first * x_bytes, x_stride, (char *)y + first * y_bytes, y_stride,
            height);
        if (status) return status;
        done = first + height;
    }
    return INSET_OK;
}

inset_status cpu_matmul_group(device *d, const matrix *const *group, int32_t n,
    const int32_t *offsets, const void *x, void *y, int64_t most)
{
    (void)most;
    for (int32_t i = 0; i < n; i++) {
        const matrix *m = group[i];
        const size_t size = type_size(m->type), first = (size_t)offsets[i];
        const int64_t rows = offsets[i + 1] - offsets[i];
        if (!rows) continue;
        inset_status status = cpu_matmul(d, m, (const char *)x + first * (size_t)m->in * size,
            m->in, (char *)y + first * (size_t)m->out * size, m->out, rows);
        if (status) return status;
    }
    return INSET_OK;
}
