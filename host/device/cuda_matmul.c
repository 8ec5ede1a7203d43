/* cuda_matmul.c: y = x W + bias by cuBLASLt, such that a row's bits do not depend on the rows beside it.
 *
 * cuBLASLt sees matrices by columns. A packed buffer [rows, width] is to it [width, rows] with a column stride, so a product is
 *     y' [out, rows] = op(W') [out, in] . x' [in, rows]
 * and a weight stays as its file has it: [in, out] by rows is W' itself, [out, in] is taken transposed. The bias runs along y's first
 * dimension, which is what the bias epilogue adds; it is added in fp32 before the one rounding.
 *
 * Sharing rows between invokes must not change a bit, so one algorithm serves all heights of a product, without split-K. It is chosen
 * once per shape: cuBLASLt's heuristic proposes candidates for a tall product, and a probe takes the first for which rows
 * keep their bits at other places, among other rows and at other heights (which refuses kernels that split sums by where a tile lies). */
#include "device/cuda.h"

#include <string.h>

enum {
    HEIGHT = 512,                /* rows of the product that the heuristic is asked about */
    CANDIDATES = 8,
    WIDE = 16,                   /* bytes: rows that begin at such addresses may be read by the widest accesses */
    PROBE_ROWS = 300,
    PROBE_SHIFT = 37,
};

struct matrix {
    inset_type type;
    int64_t in, out;
    bool in_out;
    void *weight, *bias;
    size_t weight_bytes, bias_bytes;
    cublas_product product;
    cublas_layout weight_layout, x_layout, y_layout;
    int chosen[2];               /* for rows that are not `WIDE` and rows that are: index into the device's choices, or -1 */
};

static int cuda_type(inset_type type)
{
    return type == INSET_F32 ? CUDA_TYPE_F32 : type == INSET_BF16 ? CUDA_TYPE_BF16 : CUDA_TYPE_F16;
}

static inset_status product_failed(cuda_device *d, const matrix *m, int status, const char *doing)
{
    d->library.cudaGetLastError();
    const char *why = d->library.cublasLtGetStatusString(status);
    return error_set(d->base.context, status == CUBLAS_ALLOC_FAILED ? INSET_NO_MEMORY : INSET_DEVICE_ERROR,
                     "cuda:%d: %s for a %s weight [%lld, %lld] failed: %s", d->index, doing, type_name(m->type), (long long)m->in,
                     (long long)m->out, why);
}

/* ---- products ---------------------------------------------------------------------------------------------------------------- */

/* Layouts are kept with the weight; of x and y only height and stride change from call to call. */
static int shape_layouts(cuda_device *d, const matrix *m, int64_t x_stride, int64_t y_stride, int64_t rows)
{
    cuda_library *l = &d->library;
    const uint64_t columns = (uint64_t)rows;
    int error;
    if ((error = l->cublasLtMatrixLayoutSetAttribute(m->x_layout, CUBLAS_LAYOUT_COLUMNS, &columns, sizeof columns))
        || (error = l->cublasLtMatrixLayoutSetAttribute(m->x_layout, CUBLAS_LAYOUT_STRIDE, &x_stride, sizeof x_stride))
        || (error = l->cublasLtMatrixLayoutSetAttribute(m->y_layout, CUBLAS_LAYOUT_COLUMNS, &columns, sizeof columns)))
        return error;
    return l->cublasLtMatrixLayoutSetAttribute(m->y_layout, CUBLAS_LAYOUT_STRIDE, &y_stride, sizeof y_stride);
}

/* algorithm: NULL lets cuBLASLt choose. */
static int multiply(cuda_device *d, const matrix *m, const cublas_algorithm *algorithm, const void *x, int64_t x_stride, void *y,
                    int64_t y_stride, int64_t rows)
{
    const float one = 1, none = 0;
    int error = shape_layouts(d, m, x_stride, y_stride, rows);
    if (error) return error;
    return d->library.cublasLtMatmul(d->products, m->product, &one, m->weight, m->weight_layout, x, m->x_layout, &none, y, m->y_layout, y,
                                     m->y_layout, algorithm, d->workspace, WORKSPACE_BYTES, d->stream);
}

/* ---- the probe --------------------------------------------------------------------------------------------------------------- */

/* Random rows, of which the first PROBE_SHIFT stand behind the last once more. Each run takes some of them, from `first` on, so that
 * over the runs a row lies at different places among different others. The first run is what the others must agree with, and has them
 * all. Many rows are compared and not one, because 16-bit results hide most differences between sums. */
static const struct { int64_t first, height; } runs[] = {
    {0, PROBE_ROWS}, {PROBE_SHIFT, PROBE_ROWS}, {0, 1}, {150, 2}, {65, 17}, {PROBE_SHIFT, 64}, {101, 130},
};

typedef struct probe {
    char *x, *y;                     /* on the device, at the alignment that is asked about */
    void *x_memory, *y_memory;
    int64_t x_stride, y_stride;
    size_t x_bytes, y_bytes;
    char *expected, *got;            /* on the host: y of the first run and of another */
} probe;

/* Values in [-1, 1) from a counter, so that every run of a program probes with the same. */
static float noise(uint64_t n)
{
    n = (n + 1) * 0x9e3779b97f4a7c15u;
    n = (n ^ n >> 31) * 0xbf58476d1ce4e5b9u;
    return (float)(n >> 40) * 0x1p-23f - 1;
}

static inset_status upload_rows(cuda_device *d, const matrix *m, const probe *p)
{
    const size_t size = type_size(m->type);
    char *rows = memory_new(d->base.context, p->x_bytes);
    if (!rows) return INSET_NO_MEMORY;
    for (int64_t r = 0; r < PROBE_ROWS + PROBE_SHIFT; r++)
        for (int64_t i = 0; i < m->in; i++)
            element_put(m->type, rows + (size_t)(r * p->x_stride + i) * size, noise((uint64_t)(r % PROBE_ROWS * m->in + i)));
    inset_status status = cuda_upload(&d->base, p->x, rows, p->x_bytes);
    memory_free(d->base.context, rows);
    return status;
}

static inset_status probe_start(cuda_device *d, const matrix *m, bool aligned, probe *p)
{
    const size_t size = type_size(m->type), shift = aligned ? 0 : size;
    p->x_stride = aligned ? m->in : m->in | 1;
    p->y_stride = aligned ? m->out : m->out | 1;
    p->x_bytes = (size_t)p->x_stride * (PROBE_ROWS + PROBE_SHIFT) * size;
    p->y_bytes = (size_t)p->y_stride * PROBE_ROWS * size;
    inset_status status;
    p->expected = memory_new(d->base.context, p->y_bytes);
    p->got = memory_new(d->base.context, p->y_bytes);
    if (!p->expected || !p->got) return INSET_NO_MEMORY;
    if ((status = cuda_allocate(&d->base, p->x_bytes + shift, &p->x_memory))
        || (status = cuda_allocate(&d->base, p->y_bytes + shift, &p->y_memory)))
        return status;
    p->x = (char *)p->x_memory + shift;
    p->y = (char *)p->y_memory + shift;
    return upload_rows(d, m, p);
}

static void probe_end(cuda_device *d, probe *p)
{
    cuda_release(&d->base, p->x_memory, 0);
    cuda_release(&d->base, p->y_memory, 0);
    memory_free(d->base.context, p->expected);
    memory_free(d->base.context, p->got);
}

/* Whether the rows of a run have the bits that the first run gave them. */
static bool same_rows(const matrix *m, const probe *p, int64_t first, int64_t height)
{
    const size_t size = type_size(m->type), stride = (size_t)p->y_stride * size;
    for (int64_t r = 0; r < height; r++) {
        const char *expected = p->expected + (size_t)((first + r) % PROBE_ROWS) * stride;
        if (memcmp(p->got + (size_t)r * stride, expected, (size_t)m->out * size) != 0) return false;
    }
    return true;
}

/* Whether the candidate can do every height, and whether a row then always has the same bits. */
static inset_status probe_candidate(cuda_device *d, const matrix *m, const probe *p, const cublas_algorithm *algorithm, bool *works,
                                    bool *steady)
{
    const size_t size = type_size(m->type);
    *works = *steady = false;
    bool same = true;
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        const int64_t first = runs[i].first, height = runs[i].height;
        int error = multiply(d, m, algorithm, p->x + (size_t)(first * p->x_stride) * size, p->x_stride, p->y, p->y_stride, height);
        if (error == CUBLAS_INVALID_VALUE || error == CUBLAS_NOT_SUPPORTED) return INSET_OK;
        if (error) return product_failed(d, m, error, "trying a matrix product");
        inset_status status = cuda_download(&d->base, i == 0 ? p->expected : p->got, p->y, (size_t)(height * p->y_stride) * size);
        if (status) return status;
        if (i > 0 && !same_rows(m, p, first, height)) same = false;
    }
    *works = true;
    *steady = same;
    return INSET_OK;
}

/* ---- choosing an algorithm --------------------------------------------------------------------------------------------------- */

/* No reduction schemes: no algorithm may cut the sum over `in` into parts. */
static int set_preferences(cuda_device *d, cublas_preference preference, uint32_t alignment)
{
    cuda_library *l = &d->library;
    const uint64_t workspace = WORKSPACE_BYTES;
    const uint32_t reduction = CUBLAS_NO_REDUCTION;
    static const int attributes[] = {CUBLAS_PREFER_ALIGNMENT_B, CUBLAS_PREFER_ALIGNMENT_C, CUBLAS_PREFER_ALIGNMENT_D};
    int error = l->cublasLtMatmulPreferenceSetAttribute(preference, CUBLAS_PREFER_WORKSPACE, &workspace, sizeof workspace);
    if (!error) error = l->cublasLtMatmulPreferenceSetAttribute(preference, CUBLAS_PREFER_REDUCTION, &reduction, sizeof reduction);
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes && !error; i++)
        error = l->cublasLtMatmulPreferenceSetAttribute(preference, attributes[i], &alignment, sizeof alignment);
    return error;
}

static inset_status propose(cuda_device *d, const matrix *m, bool aligned, const probe *p, cublas_candidate *candidates, int *n)
{
    cuda_library *l = &d->library;
    cublas_preference preference = NULL;
    int error = l->cublasLtMatmulPreferenceCreate(&preference);
    if (!error) error = set_preferences(d, preference, aligned ? WIDE : (uint32_t)type_size(m->type));
    if (!error) error = shape_layouts(d, m, p->x_stride, p->y_stride, HEIGHT);
    if (!error)
        error = l->cublasLtMatmulAlgoGetHeuristic(d->products, m->product, m->weight_layout, m->x_layout, m->y_layout, m->y_layout,
                                                  preference, CANDIDATES, candidates, n);
    if (preference) l->cublasLtMatmulPreferenceDestroy(preference);
    if (error == CUBLAS_NOT_SUPPORTED) *n = 0;
    else if (error) return product_failed(d, m, error, "choosing a matrix product");
    return INSET_OK;
}

/* The first steady candidate; where there is none, the first that works at every height. */
static inset_status pick(cuda_device *d, const matrix *m, bool aligned, product_choice *choice)
{
    cublas_candidate candidates[CANDIDATES];
    probe p = {0};
    int n = 0;
    inset_status status = probe_start(d, m, aligned, &p);
    if (!status) status = propose(d, m, aligned, &p, candidates, &n);
    for (int i = 0; i < n && !status && !choice->steady; i++) {
        bool works, steady;
        if (candidates[i].state || candidates[i].workspace > WORKSPACE_BYTES) continue;
        status = probe_candidate(d, m, &p, &candidates[i].algorithm, &works, &steady);
        if (status || !works || (choice->pinned && !steady)) continue;
        choice->pinned = true;
        choice->steady = steady;
        choice->algorithm = candidates[i].algorithm;
    }
    probe_end(d, &p);
    return status;
}

static bool same_shape(const product_choice *c, const matrix *m, bool aligned)
{
    return c->in == m->in && c->out == m->out && c->type == m->type && c->in_out == m->in_out && c->has_bias == !!m->bias
        && c->aligned == aligned;
}

/* The choice for this shape: layers share it. */
static inset_status choose(cuda_device *d, matrix *m, bool aligned)
{
    if (m->chosen[aligned] >= 0) return INSET_OK;
    for (size_t i = 0; i < d->n_choices; i++)
        if (same_shape(&d->choices[i], m, aligned)) {
            m->chosen[aligned] = (int)i;
            return INSET_OK;
        }
    if (d->capturing)
        return error_set(d->base.context, INSET_DEVICE_ERROR, "%s: a product that never ran cannot be captured", d->base.name);
    product_choice choice = {.in = m->in, .out = m->out, .type = m->type, .in_out = m->in_out, .has_bias = m->bias, .aligned = aligned};
    inset_status status = pick(d, m, aligned, &choice);
    if (status) return status;
    if (!array_reserve(d->base.context, &d->choices, &d->choices_capacity, d->n_choices + 1, sizeof choice)) return INSET_NO_MEMORY;
    m->chosen[aligned] = (int)d->n_choices;
    d->choices[d->n_choices++] = choice;
    return INSET_OK;
}

static bool is_wide(const matrix *m, const void *x, int64_t stride)
{
    return (uintptr_t)x % WIDE == 0 && (uint64_t)stride * type_size(m->type) % WIDE == 0;
}

/* ---- weights ----------------------------------------------------------------------------------------------------------------- */

static inset_status put_on_device(cuda_device *d, inset_type type, const void *from, inset_type from_type, int64_t count, void **out,
                                  size_t *bytes)
{
    *bytes = (size_t)count * type_size(type);
    inset_status status = cuda_allocate(&d->base, *bytes, out);
    return status ? status : cuda_upload_as(d, *out, type, from, from_type, count);
}

static int describe_product(cuda_device *d, matrix *m)
{
    cuda_library *l = &d->library;
    const int32_t weight_operation = m->in_out ? CUBLAS_PLAIN : CUBLAS_TRANSPOSED, x_operation = CUBLAS_PLAIN;
    const uint32_t epilogue = m->bias ? CUBLAS_EPILOGUE_ADD_BIAS : CUBLAS_EPILOGUE_NONE;
    int error;
    if ((error = l->cublasLtMatmulDescCreate(&m->product, CUBLAS_COMPUTE_F32, CUDA_TYPE_F32))
        || (error = l->cublasLtMatmulDescSetAttribute(m->product, CUBLAS_PRODUCT_TRANS_A, &weight_operation, sizeof weight_operation))
        || (error = l->cublasLtMatmulDescSetAttribute(m->product, CUBLAS_PRODUCT_TRANS_B, &x_operation, sizeof x_operation))
        || (error = l->cublasLtMatmulDescSetAttribute(m->product, CUBLAS_PRODUCT_EPILOGUE, &epilogue, sizeof epilogue)))
        return error;
    return m->bias ? l->cublasLtMatmulDescSetAttribute(m->product, CUBLAS_PRODUCT_BIAS, &m->bias, sizeof m->bias) : 0;
}

static inset_status describe(cuda_device *d, matrix *m)
{
    cuda_library *l = &d->library;
    const int type = cuda_type(m->type);
    const int64_t rows = m->in_out ? m->out : m->in, columns = m->in_out ? m->in : m->out;      /* as cuBLASLt sees the weight */
    int error = describe_product(d, m);
    if (!error) error = l->cublasLtMatrixLayoutCreate(&m->weight_layout, type, (uint64_t)rows, (uint64_t)columns, rows);
    if (!error) error = l->cublasLtMatrixLayoutCreate(&m->x_layout, type, (uint64_t)m->in, HEIGHT, m->in);
    if (!error) error = l->cublasLtMatrixLayoutCreate(&m->y_layout, type, (uint64_t)m->out, HEIGHT, m->out);
    return error ? product_failed(d, m, error, "describing a matrix product") : INSET_OK;
}

/* Packed rows keep the alignment of the first only where a row is a multiple of it. */
static bool packs_wide(const matrix *m) { return is_wide(m, NULL, m->in) && is_wide(m, NULL, m->out); }

inset_status cuda_matrix_create(device *base, inset_type type, int64_t in, int64_t out, const void *weight, inset_type weight_type,
                                bool in_out, const void *bias, inset_type bias_type, matrix **result)
{
    cuda_device *d = (cuda_device *)base;
    matrix *m = memory_new(base->context, sizeof *m);
    *result = NULL;
    if (!m) return INSET_NO_MEMORY;
    *m = (matrix){.type = type, .in = in, .out = out, .in_out = in_out, .chosen = {-1, -1}};
    inset_status status = put_on_device(d, type, weight, weight_type, in * out, &m->weight, &m->weight_bytes);
    if (!status && bias) status = put_on_device(d, type, bias, bias_type, out, &m->bias, &m->bias_bytes);
    if (!status) status = describe(d, m);
    if (!status) status = choose(d, m, packs_wide(m));
    if (status) {
        cuda_matrix_free(base, m);
        return status;
    }
    *result = m;
    return INSET_OK;
}

void cuda_matrix_free(device *base, matrix *m)
{
    cuda_library *l = &((cuda_device *)base)->library;
    if (!m) return;
    if (m->y_layout) l->cublasLtMatrixLayoutDestroy(m->y_layout);
    if (m->x_layout) l->cublasLtMatrixLayoutDestroy(m->x_layout);
    if (m->weight_layout) l->cublasLtMatrixLayoutDestroy(m->weight_layout);
    if (m->product) l->cublasLtMatmulDescDestroy(m->product);
    cuda_release(base, m->bias, m->bias_bytes);
    cuda_release(base, m->weight, m->weight_bytes);
    memory_free(base->context, m);
}

inset_status cuda_matmul(device *base, const matrix *m, const void *x, int64_t x_stride, void *y, int64_t y_stride, int64_t rows)
{
    cuda_device *d = (cuda_device *)base;
    if (rows == 1 && x_stride < m->in) x_stride = m->in;         /* one row has no stride, cuBLASLt wants a valid one all the same */
    if (rows == 1 && y_stride < m->out) y_stride = m->out;
    if (x_stride < m->in || y_stride < m->out)
        return error_set(base->context, INSET_DEVICE_ERROR, "%s: a product of rows that overlap (strides %lld and %lld for a weight "
                         "[%lld, %lld])", base->name, (long long)x_stride, (long long)y_stride, (long long)m->in, (long long)m->out);
    const bool aligned = packs_wide(m) && is_wide(m, x, x_stride) && is_wide(m, y, y_stride);
    inset_status status = cuda_enter(d);
    if (!status) status = choose(d, (matrix *)m, aligned);       /* rows in an unusual place: chosen when they first occur */
    if (status) return status;
    const product_choice *choice = &d->choices[m->chosen[aligned]];
    int error = multiply(d, m, choice->pinned ? &choice->algorithm : NULL, x, x_stride, y, y_stride, rows);
    return error ? product_failed(d, m, error, "a matrix product") : INSET_OK;
}
