/* float_products.c: products of plain fp32 matrices on the device, as the scores of edges want
 * them: few rows and columns, and sums over hundreds of thousands of numbers.
 *
 * To cuBLASLt, which sees matrices by columns, out = a b is out' = b' a'. Unlike a weight's, these
 * products may be cut into parts along the sum (split-K): without it a sum that long would keep a
 * few multiprocessors busy. Which parts, and in which order they are added, is the algorithm's,
 * and that is looked up by the shape alone. TF32 only where the device may be fast. */
#include "device/cuda/cuda.h"

#include <string.h>

/* Neighbours of one shape, `count` of them, evenly apart: one launch. */
typedef struct float_batch {
    const float_product *first;
    int64_t count, out_step, a_step, b_step; /* in elements; 0 where there is one */
} float_batch;

/* What cuBLASLt is told of a batch. */
typedef struct float_descriptors {
    cublas_product product;
    cublas_layout out, a, b;
} float_descriptors;

static inset_status failed(cuda_device *d, const float_product *x, int status)
{
    d->library.cudaGetLastError();
    return error_set(d->base.context,
        status == CUBLAS_ALLOC_FAILED ? INSET_NO_MEMORY : INSET_DEVICE_ERROR,
        "cuda:%d: a product [%lld, %lld] x [%lld, %lld] failed: %s", d->index, (long long)x->rows,
        (long long)x->inner, (long long)x->inner, (long long)x->columns,
        d->library.cublasLtGetStatusString(status));
}

/* ---- batches ------------------------------------------------------------ */

static bool is_shaped_alike(const float_product *x, const float_product *y)
{
    return x->rows == y->rows && x->columns == y->columns && x->inner == y->inner
           && x->out_stride == y->out_stride && x->a_stride == y->a_stride
           && x->b_stride == y->b_stride && x->b_across == y->b_across;
}

/* The first of n products and as many behind it as go with it. */
static float_batch batch_of(const float_product *x, int64_t n)
{
    float_batch batch = {.first = x, .count = 1};
    if (n < 2 || !is_shaped_alike(x, x + 1) || x[1].out <= x->out || x[1].a < x->a || x[1].b < x->b)
        return batch;
    batch.out_step = x[1].out - x->out;
    batch.a_step = x[1].a - x->a;
    batch.b_step = x[1].b - x->b;
    while (batch.count < n) {
        const float_product *last = &x[batch.count - 1], *next = &x[batch.count];
        if (!is_shaped_alike(x, next) || next->out - last->out != batch.out_step
            || next->a - last->a != batch.a_step || next->b - last->b != batch.b_step)
            break;
        batch.count++;
    }
    return batch;
}

/* ---- descriptors -------------------------------------------------------- */

static int describe_layout(cuda_library *l, int64_t rows, int64_t columns, int64_t stride,
    int64_t count, int64_t step, cublas_layout *out)
{
    const int32_t n = (int32_t)count;
    int error = l->cublasLtMatrixLayoutCreate(
        out, CUDA_TYPE_F32, (uint64_t)rows, (uint64_t)columns, stride);
    if (error || count == 1) return error;
    if ((error = l->cublasLtMatrixLayoutSetAttribute(*out, CUBLAS_LAYOUT_BATCH, &n, sizeof n)))
        return error;
    return l->cublasLtMatrixLayoutSetAttribute(*out, CUBLAS_LAYOUT_STEP, &step, sizeof step);
}

static int describe(cuda_device *d, const float_batch *batch, float_descriptors *out)
{
    cuda_library *l = &d->library;
    const float_product *x = batch->first;
    const int32_t b_operation = x->b_across ? CUBLAS_TRANSPOSED : CUBLAS_PLAIN;
    int error;
    if ((error = l->cublasLtMatmulDescCreate(
             &out->product, d->base.fast ? CUBLAS_COMPUTE_TF32 : CUBLAS_COMPUTE_F32, CUDA_TYPE_F32))
        || (error = l->cublasLtMatmulDescSetAttribute(
                out->product, CUBLAS_PRODUCT_TRANS_A, &b_operation, sizeof b_operation))
        || (error = describe_layout(
                l, x->columns, x->rows, x->out_stride, batch->count, batch->out_step, &out->out))
        || (error = describe_layout(
                l, x->inner, x->rows, x->a_stride, batch->count, batch->a_step, &out->a)))
        return error;
    return describe_layout(l, x->b_across ? x->inner : x->columns,
        x->b_across ? x->columns : x->inner, x->b_stride, batch->count, batch->b_step, &out->b);
}

static void destroy(cuda_device *d, const float_descriptors *is)
{
    cuda_library *l = &d->library;
    if (is->product) l->cublasLtMatmulDescDestroy(is->product);
    if (is->out) l->cublasLtMatrixLayoutDestroy(is->out);
    if (is->a) l->cublasLtMatrixLayoutDestroy(is->a);
    if (is->b) l->cublasLtMatrixLayoutDestroy(is->b);
}

/* ---- algorithms --------------------------------------------------------- */

/* How many bytes the addresses of all a batch's rows are multiples of: 16, or 4. */
static uint32_t alignment_of(const float *at, int64_t stride, int64_t step)
{
    return (uintptr_t)at % PRODUCT_WIDE == 0 && stride % 4 == 0 && step % 4 == 0 ? PRODUCT_WIDE
                                                                                 : sizeof *at;
}

static float_choice shape_of(const float_batch *batch)
{
    const float_product *x = batch->first;
    float_choice is;
    memset(&is, 0, sizeof is); /* compared as bytes */
    is.shape = (float_shape){x->rows, x->columns, x->inner, x->out_stride, x->a_stride, x->b_stride,
        batch->count, batch->out_step, batch->a_step, batch->b_step, x->b_across,
        alignment_of(x->out, x->out_stride, batch->out_step),
        alignment_of(x->a, x->a_stride, batch->a_step),
        alignment_of(x->b, x->b_stride, batch->b_step)};
    return is;
}

static int ask(cuda_device *d, const float_descriptors *is, float_choice *choice)
{
    cuda_library *l = &d->library;
    cublas_preference wishes = NULL;
    cublas_candidate candidate;
    int found = 0;
    const uint64_t workspace = WORKSPACE_BYTES;
    const float_shape *s = &choice->shape;
    int error = l->cublasLtMatmulPreferenceCreate(&wishes);
    if (!error)
        error = l->cublasLtMatmulPreferenceSetAttribute(
            wishes, CUBLAS_PREFER_WORKSPACE, &workspace, sizeof workspace);
    const struct {
        int attribute;
        uint32_t bytes;
    } alignments[] = {{CUBLAS_PREFER_ALIGNMENT_A, s->b_alignment},
        {CUBLAS_PREFER_ALIGNMENT_B, s->a_alignment}, {CUBLAS_PREFER_ALIGNMENT_C, s->out_alignment},
        {CUBLAS_PREFER_ALIGNMENT_D, s->out_alignment}};
    for (int i = 0; i < 4 && !error; i++)
        error = l->cublasLtMatmulPreferenceSetAttribute(
            wishes, alignments[i].attribute, &alignments[i].bytes, sizeof alignments[i].bytes);
    if (!error)
        error = l->cublasLtMatmulAlgoGetHeuristic(d->products, is->product, is->b, is->a, is->out,
            is->out, wishes, 1, &candidate, &found);
    if (wishes) l->cublasLtMatmulPreferenceDestroy(wishes);
    if (!error && (!found || candidate.state)) error = CUBLAS_NOT_SUPPORTED;
    if (!error) choice->algorithm = candidate.algorithm;
    return error;
}

/* The algorithm of a shape, asked for when it first occurs. *out holds until the next call. */
static inset_status choose(cuda_device *d, const float_batch *batch, const float_descriptors *is,
    const cublas_algorithm **out)
{
    float_choice made = shape_of(batch);
    for (size_t i = 0; i < d->n_float_choices; i++)
        if (!memcmp(&d->float_choices[i].shape, &made.shape, sizeof made.shape))
            return *out = &d->float_choices[i].algorithm, INSET_OK;
    int error = ask(d, is, &made);
    if (error) return failed(d, batch->first, error);
    if (!array_reserve(d->base.context, &d->float_choices, &d->float_choices_capacity,
            d->n_float_choices + 1, sizeof *d->float_choices))
        return INSET_NO_MEMORY;
    d->float_choices[d->n_float_choices] = made;
    *out = &d->float_choices[d->n_float_choices++].algorithm;
    return INSET_OK;
}

/* ---- products ----------------------------------------------------------- */

static inset_status multiply(cuda_device *d, const float_batch *batch)
{
    const float one = 1, none = 0;
    const float_product *x = batch->first;
    const cublas_algorithm *algorithm = NULL;
    float_descriptors is = {0};
    int error = describe(d, batch, &is);
    inset_status status = error ? failed(d, x, error) : choose(d, batch, &is, &algorithm);
    if (!status) {
        error = d->library.cublasLtMatmul(d->products, is.product, &one, x->b, is.b, x->a, is.a,
            &none, x->out, is.out, x->out, is.out, algorithm, d->workspace, WORKSPACE_BYTES,
            d->stream);
        if (error) status = failed(d, x, error);
    }
    destroy(d, &is);
    return status;
}

inset_status cuda_float_products(device *base, const float_product *x, int64_t n)
{
    cuda_device *d = (cuda_device *)base;
    inset_status status = cuda_enter(d);
    for (int64_t i = 0; i < n && !status;) {
        const float_batch batch = batch_of(x + i, n - i);
        if (x[i].rows && x[i].columns) status = multiply(d, &batch);
        i += batch.count;
    }
    return status;
}

const void *cuda_matrix_numbers(const matrix *m) { return m->comes ? NULL : m->weight; }
