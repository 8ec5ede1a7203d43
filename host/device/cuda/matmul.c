/* matmul.c: y = x W + bias by cuBLASLt, such that a row's bits do not depend on the rows beside it.
 *
 * cuBLASLt sees matrices by columns. A packed buffer [rows, width] is to it [width, rows] with a
 * column stride, so a product is
 *     y' [out, rows] = op(W') [out, in] . x' [in, rows]
 * and a weight stays as its file has it: [in, out] by rows is W' itself, [out, in] is taken
 * transposed. The bias runs along y's first dimension, which is what the bias epilogue adds; it is
 * added in fp32 before the one rounding.
 *
 * Sharing rows between invokes must not change a bit, so a weight's products run at few heights
 * (kernels/products.h, which also says why these), by algorithms that were all seen to give a row
 * the same bits (choose.c). What an algorithm needs to be told of x and y at a height is made once
 * and kept with the matrix: a product writes no descriptor, so a first run and a captured one do
 * the same.
 *
 * A weight goes to the device once: straight from where the caller has it, a mapped file, converted
 * while it is written into pinned memory (cuda_upload_as), in the layout it has there. A table that
 * the device holds for its own sake is used where it is. */
#include "device/cuda/cuda.h"

static int cuda_type(inset_type type)
{
    return type == INSET_F32 ? CUDA_TYPE_F32 : type == INSET_BF16 ? CUDA_TYPE_BF16 : CUDA_TYPE_F16;
}

inset_status cuda_product_failed(cuda_device *d, const matrix *m, int status, const char *doing)
{
    d->library.cudaGetLastError();
    const char *why = d->library.cublasLtGetStatusString(status);
    return error_set(d->base.context,
        status == CUBLAS_ALLOC_FAILED ? INSET_NO_MEMORY : INSET_DEVICE_ERROR,
        "cuda:%d: %s for a %s weight [%lld, %lld] failed: %s", d->index, doing, type_name(m->type),
        (long long)m->in, (long long)m->out, why);
}

/* ---- descriptors -------------------------------------------------------- */

static int describe_product(cuda_device *d, matrix *m, epilogue e)
{
    cuda_library *l = &d->library;
    cublas_product *product = &m->products[e];
    const int32_t weight_operation = m->in_out ? CUBLAS_PLAIN : CUBLAS_TRANSPOSED,
                  x_operation = CUBLAS_PLAIN;
    const uint32_t number = e == EPILOGUE_GELU
                                ? m->bias ? CUBLAS_EPILOGUE_GELU_BIAS : CUBLAS_EPILOGUE_GELU_ONLY
                            : m->bias ? CUBLAS_EPILOGUE_ADD_BIAS
                                      : CUBLAS_EPILOGUE_NONE;
    const int compute = d->base.fast && m->type == INSET_F32 ? CUBLAS_COMPUTE_TF32
                                                             : CUBLAS_COMPUTE_F32;
    int error;
    if ((error = l->cublasLtMatmulDescCreate(product, compute, CUDA_TYPE_F32))
        || (error = l->cublasLtMatmulDescSetAttribute(
                *product, CUBLAS_PRODUCT_TRANS_A, &weight_operation, sizeof weight_operation))
        || (error = l->cublasLtMatmulDescSetAttribute(
                *product, CUBLAS_PRODUCT_TRANS_B, &x_operation, sizeof x_operation))
        || (error = l->cublasLtMatmulDescSetAttribute(
                *product, CUBLAS_PRODUCT_EPILOGUE, &number, sizeof number)))
        return error;
    return m->bias ? l->cublasLtMatmulDescSetAttribute(
               *product, CUBLAS_PRODUCT_BIAS, &m->bias, sizeof m->bias)
                   : 0;
}

int cuda_describe_rows(
    cuda_device *d, const matrix *m, int64_t x_stride, int64_t y_stride, row_layouts *out)
{
    cuda_library *l = &d->library;
    const int type = cuda_type(m->type);
    *out = (row_layouts){.x_stride = x_stride, .y_stride = y_stride};
    int error = 0;
    for (int i = 0; i < m->n_heights && !error; i++) {
        const uint64_t rows = (uint64_t)product_heights[i];
        error = l->cublasLtMatrixLayoutCreate(&out->x[i], type, (uint64_t)m->in, rows, x_stride);
        if (!error)
            error = l->cublasLtMatrixLayoutCreate(
                &out->y[i], type, (uint64_t)m->out, rows, y_stride);
    }
    return error;
}

void cuda_destroy_rows(cuda_device *d, row_layouts *rows)
{
    for (int i = 0; i < PRODUCT_HEIGHTS; i++) {
        if (rows->x[i]) d->library.cublasLtMatrixLayoutDestroy(rows->x[i]);
        if (rows->y[i]) d->library.cublasLtMatrixLayoutDestroy(rows->y[i]);
    }
}

/* The descriptors for rows that are so far apart: packed ones are there from the start, others come
 * when they first occur. */
static inset_status find_layouts(
    cuda_device *d, matrix *m, int64_t x_stride, int64_t y_stride, const row_layouts **out)
{
    for (size_t i = 0; i < m->n_layouts; i++)
        if (m->layouts[i].x_stride == x_stride && m->layouts[i].y_stride == y_stride) {
            *out = &m->layouts[i];
            return INSET_OK;
        }
    if (d->capturing)
        return error_set(d->base.context, INSET_DEVICE_ERROR,
            "%s: a product that never ran cannot be captured", d->base.name);
    if (!array_reserve(d->base.context, &m->layouts, &m->layouts_capacity, m->n_layouts + 1,
            sizeof *m->layouts))
        return INSET_NO_MEMORY;
    row_layouts *made = &m->layouts[m->n_layouts];
    int error = cuda_describe_rows(d, m, x_stride, y_stride, made);
    if (error) {
        cuda_destroy_rows(d, made);
        return cuda_product_failed(d, m, error, "describing a matrix product");
    }
    m->n_layouts++;
    *out = made;
    return INSET_OK;
}

static inset_status describe(cuda_device *d, matrix *m)
{
    const row_layouts *packed;
    /* as cuBLASLt sees the weight */
    const int64_t rows = m->in_out ? m->out : m->in, columns = m->in_out ? m->in : m->out;
    int error = describe_product(d, m, EPILOGUE_PLAIN);
    if (!error)
        error = d->library.cublasLtMatrixLayoutCreate(
            &m->weight_layout, cuda_type(m->type), (uint64_t)rows, (uint64_t)columns, rows);
    return error ? cuda_product_failed(d, m, error, "describing a matrix product")
                 : find_layouts(d, m, m->in, m->out, &packed);
}

/* ---- weights ------------------------------------------------------------ */

static bool is_wide(const matrix *m, const void *x, int64_t stride)
{
    return (uintptr_t)x % PRODUCT_WIDE == 0
           && (uint64_t)stride * type_size(m->type) % PRODUCT_WIDE == 0;
}

/* Packed rows keep the alignment of the first only where a row is a multiple of it. */
static bool packs_wide(const matrix *m)
{
    return is_wide(m, NULL, m->in) && is_wide(m, NULL, m->out);
}

static inset_status put_on_device(cuda_device *d, inset_type type, const void *from,
    inset_type from_type, int64_t count, void **out, size_t *bytes)
{
    *bytes = (size_t)count * type_size(type);
    inset_status status = cuda_allocate(&d->base, *bytes, out);
    return status ? status : cuda_upload_as(&d->base, *out, type, from, from_type, count);
}

static inset_status matrix_begin(
    cuda_device *d, inset_type type, int64_t in, int64_t out, matrix **result)
{
    matrix *m = *result = memory_new(d->base.context, sizeof *m);
    if (!m) return INSET_NO_MEMORY;
    *m = (matrix){.type = type, .in = in, .out = out, .chosen = {{-1, -1}, {-1, -1}}};
    m->n_heights = product_count_heights((in > out ? in : out) * (int64_t)type_size(type));
    return INSET_OK;
}

/* The rest, once the weight is there; frees the matrix when `status` or something here says that it
 * failed. */
static inset_status matrix_end(
    cuda_device *d, inset_status status, const void *bias, inset_type bias_type, matrix **result)
{
    matrix *m = *result;
    if (!status && bias)
        status = put_on_device(d, m->type, bias, bias_type, m->out, &m->bias, &m->bias_bytes);
    if (!status) status = describe(d, m);
    if (!status) status = cuda_choose(d, m, EPILOGUE_PLAIN, packs_wide(m));
    if (!status) return INSET_OK;
    cuda_matrix_free(&d->base, m);
    *result = NULL;
    return status;
}

inset_status cuda_matrix_create(device *base, inset_type type, int64_t in, int64_t out,
    const void *weight, inset_type weight_type, bool in_out, const void *bias, inset_type bias_type,
    matrix **result)
{
    cuda_device *d = (cuda_device *)base;
    inset_status status = matrix_begin(d, type, in, out, result);
    if (status) return status;
    (*result)->in_out = in_out;
    status = put_on_device(
        d, type, weight, weight_type, in * out, &(*result)->weight, &(*result)->weight_bytes);
    return matrix_end(d, status, bias, bias_type, result);
}

inset_status cuda_matrix_over(device *base, inset_type type, int64_t in, int64_t out,
    const void *table, const void *bias, inset_type bias_type, matrix **result)
{
    cuda_device *d = (cuda_device *)base;
    inset_status status = matrix_begin(d, type, in, out, result);
    if (status) return status;
    (*result)->borrowed = true;
    (*result)->weight = (void *)table;
    return matrix_end(d, INSET_OK, bias, bias_type, result);
}

/* Its algorithms are chosen by its first product, when it has numbers. */
inset_status cuda_matrix_empty(device *base, inset_type type, int64_t in, int64_t out, bool in_out,
    const void *bias, inset_type bias_type, const matrix *reverse_of, matrix **result)
{
    cuda_device *d = (cuda_device *)base;
    (void)reverse_of;
    inset_status status = matrix_begin(d, type, in, out, result);
    if (status) return status;
    matrix *m = *result;
    m->in_out = in_out;
    m->borrowed = m->comes = true;
    if (bias) status = put_on_device(d, type, bias, bias_type, out, &m->bias, &m->bias_bytes);
    if (!status) status = describe(d, m);
    if (!status) return INSET_OK;
    cuda_matrix_free(base, m);
    *result = NULL;
    return status;
}

/* The same weight, transposed the other way. */
inset_status cuda_matrix_reverse(device *base, const matrix *of, matrix **result)
{
    cuda_device *d = (cuda_device *)base;
    inset_status status = matrix_begin(d, of->type, of->out, of->in, result);
    if (status) return status;
    (*result)->borrowed = true;
    (*result)->in_out = !of->in_out;
    (*result)->weight = of->weight;
    return matrix_end(d, INSET_OK, NULL, INSET_F32, result);
}

int64_t cuda_matrix_bytes(const matrix *m, bool reverse)
{
    return reverse ? 0 : (int64_t)((m->borrowed ? 0 : m->weight_bytes) + m->bias_bytes);
}

void cuda_matrix_free(device *base, matrix *m)
{
    cuda_device *d = (cuda_device *)base;
    if (!m) return;
    for (size_t i = 0; i < m->n_layouts; i++) cuda_destroy_rows(d, &m->layouts[i]);
    if (m->weight_layout) d->library.cublasLtMatrixLayoutDestroy(m->weight_layout);
    for (int e = 0; e < EPILOGUES; e++)
        if (m->products[e]) d->library.cublasLtMatmulDescDestroy(m->products[e]);
    cuda_release(base, m->bias, m->bias_bytes);
    if (!m->borrowed) cuda_release(base, m->weight, m->weight_bytes);
    memory_free(base->context, m->layouts);
    memory_free(base->context, m);
}

/* A fast device takes any that serves every height. */
inset_status cuda_matrix_gelu(device *base, matrix *m, bool *allowed)
{
    cuda_device *d = (cuda_device *)base;
    const bool aligned = packs_wide(m);
    *allowed = false;
    if (!m->products[EPILOGUE_GELU]) {
        int error = describe_product(d, m, EPILOGUE_GELU);
        if (error) return cuda_product_failed(d, m, error, "describing a matrix product");
    }
    inset_status status = cuda_choose(d, m, EPILOGUE_GELU, aligned);
    if (status) return status;
    const product_choice *choice = &d->choices[m->chosen[EPILOGUE_GELU][aligned]];
    *allowed = choice->pinned && (base->fast || (choice->steady && choice->as_kernel));
    return INSET_OK;
}

/* ---- products ----------------------------------------------------------- */

int cuda_multiply(cuda_device *d, const matrix *m, epilogue e, const cublas_algorithm *algorithm,
    const row_layouts *rows, int height, const void *x, void *y)
{
    const float one = 1, none = 0;
    const cublas_layout y_layout = rows->y[height];
    return d->library.cublasLtMatmul(d->products, m->products[e], &one, m->weight, m->weight_layout,
        x, rows->x[height], &none, y, y_layout, y, y_layout, algorithm, d->workspace,
        WORKSPACE_BYTES, d->stream);
}

/* Full blocks, then what is left at the smallest height that holds it; the padding is read and
 * written, and nobody's. */
static inset_status multiply_blocks(cuda_device *d, const matrix *m, epilogue e,
    const row_layouts *layouts, bool aligned, const char *x, char *y, int64_t rows)
{
    const product_choice *choice = &d->choices[m->chosen[e][aligned]];
    const size_t size = type_size(m->type);
    for (int64_t done = 0; done < rows;) {
        const int height = product_next_height(m->n_heights, rows - done);
        int error = cuda_multiply(d, m, e, choice->pinned ? &choice->algorithms[height] : NULL,
            layouts, height, x + (size_t)(done * layouts->x_stride) * size,
            y + (size_t)(done * layouts->y_stride) * size);
        if (error) return cuda_product_failed(d, m, error, "a matrix product");
        done += product_heights[height];
    }
    return INSET_OK;
}

static inset_status run_product(cuda_device *d, matrix *m, epilogue e, const void *x,
    int64_t x_stride, void *y, int64_t y_stride, int64_t rows)
{
    /* one row has no stride, the padding behind it has */
    if (rows == 1 && x_stride < m->in) x_stride = m->in;
    if (rows == 1 && y_stride < m->out) y_stride = m->out;
    if (x_stride < m->in || y_stride < m->out)
        return error_set(d->base.context, INSET_DEVICE_ERROR,
            "%s: a product of rows that overlap (strides %lld and %lld for a weight "
            "[%lld, %lld])",
            d->base.name, (long long)x_stride, (long long)y_stride, (long long)m->in,
            (long long)m->out);
    const bool aligned = packs_wide(m) && is_wide(m, x, x_stride) && is_wide(m, y, y_stride);
    const row_layouts *layouts;
    inset_status status = cuda_enter(d);
    /* rows in an unusual place: chosen when they first occur */
    if (!status) status = cuda_choose(d, m, e, aligned);
    if (!status) status = find_layouts(d, m, x_stride, y_stride, &layouts);
    return status ? status : multiply_blocks(d, m, e, layouts, aligned, x, y, rows);
}

inset_status cuda_matmul(device *base, const matrix *m, const void *x, int64_t x_stride, void *y,
    int64_t y_stride, int64_t rows)
{
    return run_product(
        (cuda_device *)base, (matrix *)m, EPILOGUE_PLAIN, x, x_stride, y, y_stride, rows);
}

inset_status cuda_matmul_gelu(device *base, const matrix *m, const void *x, int64_t x_stride,
    void *y, int64_t y_stride, int64_t rows)
{
    return run_product(
        (cuda_device *)base, (matrix *)m, EPILOGUE_GELU, x, x_stride, y, y_stride, rows);
}
