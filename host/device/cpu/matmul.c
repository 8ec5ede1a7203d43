/* matmul.c: matrix products on the CPU: oneDNN behind one file, and a plain loop for the tiny ones.
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
#include "device/cpu/cpu.h"

#include <string.h>
#include <oneapi/dnnl/dnnl.h>

enum {
    TINY = 1024,
    MOST_ROWS = 256,
    ROUNDING = 32,
    PIECE = 4096, /* weights converted at a time */
    /* columns of a row by dot products that a thread takes at a time */
    DOT_COLUMNS = 512,
    /* the height at which oneDNN is asked which layout of the weights it wants */
    LAYOUT_ROWS = 64,
    MOST_PRODUCTS = 128 /* kept for a shape; the one unused for longest goes */
};

/* ---- oneDNN 2 and 3 ----------------------------------------------------- */

#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t description;
typedef const_dnnl_memory_desc_t description_view;
static description_view description_of(const description *d) { return *d; }
static void description_free(description *d)
{
    if (*d) dnnl_memory_desc_destroy(*d);
}
static dnnl_status_t describe_strided(
    description *d, const dnnl_dims_t dims, dnnl_data_type_t type, const dnnl_dims_t strides)
{
    return dnnl_memory_desc_create_with_strides(d, 2, dims, type, strides);
}
static dnnl_status_t describe_any(description *d, const dnnl_dims_t dims, dnnl_data_type_t type)
{
    return dnnl_memory_desc_create_with_tag(d, 2, dims, type, dnnl_format_tag_any);
}
static dnnl_status_t description_copy(description *to, description_view from)
{
    return dnnl_memory_desc_clone(to, from);
}
static dnnl_status_t matmul_describe(dnnl_primitive_desc_t *out, dnnl_engine_t engine,
    description_view x, description_view w, description_view bias, description_view y)
{
    return dnnl_matmul_primitive_desc_create(out, engine, x, w, bias, y, NULL);
}
#else
typedef dnnl_memory_desc_t description;
typedef const dnnl_memory_desc_t *description_view;
static description_view description_of(const description *d) { return d; }
static void description_free(description *d) { (void)d; }
static dnnl_status_t describe_strided(
    description *d, const dnnl_dims_t dims, dnnl_data_type_t type, const dnnl_dims_t strides)
{
    return dnnl_memory_desc_init_by_strides(d, 2, dims, type, strides);
}
static dnnl_status_t describe_any(description *d, const dnnl_dims_t dims, dnnl_data_type_t type)
{
    return dnnl_memory_desc_init_by_tag(d, 2, dims, type, dnnl_format_tag_any);
}
static dnnl_status_t description_copy(description *to, description_view from)
{
    *to = *from;
    return dnnl_success;
}
static dnnl_status_t matmul_describe(dnnl_primitive_desc_t *out, dnnl_engine_t engine,
    description_view x, description_view w, description_view bias, description_view y)
{
    dnnl_matmul_desc_t operation;
    dnnl_status_t status = dnnl_matmul_desc_init(&operation, x, w, bias, y);
    return status != dnnl_success ? status
                                  : dnnl_primitive_desc_create(out, &operation, NULL, engine, NULL);
}
#endif

/* A matrix [rows, columns] with its strides; row_stride 0 leaves the layout to oneDNN. */
static dnnl_status_t describe(description *d, dnnl_data_type_t type, int64_t rows, int64_t columns,
    int64_t row_stride, int64_t column_stride)
{
    const dnnl_dims_t dims = {rows, columns}, strides = {row_stride, column_stride};
    return row_stride ? describe_strided(d, dims, type, strides) : describe_any(d, dims, type);
}

/* ---- what is kept ------------------------------------------------------- */

/* A product prepared for one height. */
typedef struct product {
    int64_t rows, x_stride, y_stride;
    uint64_t used; /* the shape's clock when it was last used */
    dnnl_primitive_t primitive;
    dnnl_memory_t x, y;
} product;

/* How weights lie: as oneDNN wants them, or where somebody else has them, [out, in] or [in,
 * out]. */
typedef enum layout { PACKED, OUT_IN, IN_OUT } layout;

/* What all matrices of one shape share. */
typedef struct shape {
    struct shape *next;
    int64_t in, out;
    dnnl_data_type_t type; /* of weights and activations, in oneDNN */
    bool has_bias;
    layout layout;
    description packed; /* the layout of the weights */
    size_t packed_bytes;
    uint64_t clock;
    int n_products;
    product products[MOST_PRODUCTS];
} shape;

struct cpu_products {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    shape *shapes;
    bool bf16;                         /* the processor has bf16 products */
    kernel_blocks *convert;            /* the records kernel, which converts rows between types */
    kernel_blocks *dot_f32, *dot_bf16; /* the columns kernel */
    int threads;
    /* widened activations: MOST_ROWS rows of the widest input, and of the widest output */
    float *scratch;
    size_t scratch_bytes;
    int64_t widest_in, widest_out;
};

struct matrix {
    inset_type type; /* of activations, as the caller sees them */
    bool widened;    /* they are converted to fp32 and back */
    int64_t in, out;
    shape *shape; /* NULL for a tiny one */
    /* packed; for a tiny one fp32 [in, out]; NULL when the product reads `table` */
    void *weight;
    size_t weight_bytes;
    /* somebody else's, as shape->layout says, in the matrix's type or widened; or NULL */
    const void *table;
    float *bias; /* fp32 [out], or NULL */
    dnnl_memory_t weight_memory, bias_memory;
};

static inset_status refused(inset_context *context, const char *what, dnnl_status_t status)
{
    if (status == dnnl_out_of_memory) return error_no_memory(context);
    return error_set(
        context, INSET_DEVICE_ERROR, "oneDNN could not %s (status %d)", what, (int)status);
}

static bool has_instructions(int isa)
{
#if defined(__x86_64__)
    return ((int)dnnl_get_effective_cpu_isa() & isa) == isa;
#else
    (void)isa;
    return false;
#endif
}

bool cpu_products_steady(void) { return has_instructions(dnnl_cpu_isa_avx512_core); }

static bool has_bf16_products(void) { return has_instructions(dnnl_cpu_isa_avx512_core_bf16); }

static cpu_products *products_of(device *d) { return ((cpu_device *)d)->products; }

/* ---- converting rows ---------------------------------------------------- */

/* Copies [rows, columns] from one float type to another; strides in elements. */
static void convert(const cpu_products *p, void *out, inset_type out_type, int64_t out_stride,
    const void *from, inset_type from_type, int64_t from_stride, int64_t rows, int64_t columns)
{
    record r = {.out = out,
        .a = from,
        .out_row = out_stride,
        .a_row = from_stride,
        .out_column = 1,
        .a_column = 1,
        .rows = (int32_t)rows,
        .columns = (int32_t)columns,
        .op = RECORD_COPY,
        .out_type = (uint8_t)out_type,
        .a_type = (uint8_t)from_type,
        .compute = INSET_F32};
    const records_args args = {&r, 1};
    const int64_t blocks = records_number_blocks(&r, 1);
    if (p->threads == 1 || blocks < 16) {
        p->convert(&args, 0, blocks);
        return;
    }
#ifdef _OPENMP
#pragma omp parallel for schedule(static) num_threads(p->threads)
#endif
    for (int share = 0; share < p->threads; share++)
        p->convert(&args, blocks * share / p->threads, blocks * (share + 1) / p->threads);
}

/* ---- shapes and their products ------------------------------------------ */

static void product_free(product *q)
{
    if (q->primitive) dnnl_primitive_destroy(q->primitive);
    if (q->x) dnnl_memory_destroy(q->x);
    if (q->y) dnnl_memory_destroy(q->y);
    *q = (product){0};
}

/* Describes y [rows, out] = x [rows, in] weight + bias; weight NULL lets oneDNN choose its layout.
 * x and y may be NULL. */
static dnnl_status_t product_describe(dnnl_engine_t engine, const shape *s, int64_t rows,
    int64_t x_stride, int64_t y_stride, description_view weight, dnnl_primitive_desc_t *out,
    description x_out[1], description y_out[1])
{
    description any, bias;
    memset(&any, 0, sizeof any);
    memset(&bias, 0, sizeof bias);
    dnnl_status_t status = describe(x_out, s->type, rows, s->in, x_stride, 1);
    if (!status) status = describe(y_out, s->type, rows, s->out, y_stride, 1);
    if (!status) status = describe(&any, s->type, s->in, s->out, 0, 0);
    if (!status && s->has_bias) status = describe(&bias, dnnl_f32, 1, s->out, s->out, 1);
    if (!status)
        status = matmul_describe(out, engine, description_of(x_out),
            weight ? weight : description_of(&any), s->has_bias ? description_of(&bias) : NULL,
            description_of(y_out));
    description_free(&any);
    description_free(&bias);
    return status;
}

static dnnl_status_t product_prepare(dnnl_engine_t engine, const shape *s, product *q)
{
    dnnl_primitive_desc_t described = NULL;
    description x, y;
    memset(&x, 0, sizeof x);
    memset(&y, 0, sizeof y);
    dnnl_status_t status = product_describe(engine, s, q->rows, q->x_stride, q->y_stride,
        description_of(&s->packed), &described, &x, &y);
    if (!status) status = dnnl_primitive_create(&q->primitive, described);
    if (!status) status = dnnl_memory_create(&q->x, description_of(&x), engine, DNNL_MEMORY_NONE);
    if (!status) status = dnnl_memory_create(&q->y, description_of(&y), engine, DNNL_MEMORY_NONE);
    if (described) dnnl_primitive_desc_destroy(described);
    description_free(&x);
    description_free(&y);
    return status;
}

/* The product for `rows` rows, prepared now if it is not there; NULL and the context's message when
 * that fails. */
static product *shape_product(inset_context *context, dnnl_engine_t engine, shape *s, int64_t rows,
    int64_t x_stride, int64_t y_stride)
{
    s->clock++;
    product *oldest = &s->products[0];
    for (int i = 0; i < s->n_products; i++) {
        product *q = &s->products[i];
        if (q->rows == rows && q->x_stride == x_stride && q->y_stride == y_stride) {
            q->used = s->clock;
            return q;
        }
        if (q->used < oldest->used) oldest = q;
    }
    product *q = s->n_products < MOST_PRODUCTS ? &s->products[s->n_products] : oldest;
    product fresh = {.rows = rows, .x_stride = x_stride, .y_stride = y_stride, .used = s->clock};
    dnnl_status_t status = product_prepare(engine, s, &fresh);
    if (status) {
        product_free(&fresh);
        refused(context, "prepare a matrix product", status);
        return NULL;
    }
    if (s->n_products < MOST_PRODUCTS) s->n_products++;
    else product_free(q);
    *q = fresh;
    return q;
}

static void shape_free(inset_context *context, shape *s)
{
    for (int i = 0; i < s->n_products; i++) product_free(&s->products[i]);
    description_free(&s->packed);
    memory_free(context, s);
}

/* Asks oneDNN which layout it wants the weights in, unless they stay as they are. */
static dnnl_status_t shape_choose_layout(dnnl_engine_t engine, shape *s)
{
    if (s->layout == OUT_IN) return describe(&s->packed, s->type, s->in, s->out, 1, s->in);
    if (s->layout == IN_OUT) return describe(&s->packed, s->type, s->in, s->out, s->out, 1);
    dnnl_primitive_desc_t described = NULL;
    description x, y;
    memset(&x, 0, sizeof x);
    memset(&y, 0, sizeof y);
    dnnl_status_t status = product_describe(
        engine, s, LAYOUT_ROWS, s->in, s->out, NULL, &described, &x, &y);
    if (!status) {
        description_view chosen = dnnl_primitive_desc_query_md(described, dnnl_query_weights_md, 0);
        status = description_copy(&s->packed, chosen);
        s->packed_bytes = dnnl_memory_desc_get_size(chosen);
    }
    if (described) dnnl_primitive_desc_destroy(described);
    description_free(&x);
    description_free(&y);
    return status;
}

/* The shape, found or made. */
static inset_status find_shape(inset_context *context, cpu_products *p, int64_t in, int64_t out,
    dnnl_data_type_t type, bool has_bias, layout lies, shape **result)
{
    for (shape *s = p->shapes; s; s = s->next)
        if (s->in == in && s->out == out && s->type == type && s->has_bias == has_bias
            && s->layout == lies) {
            *result = s;
            return INSET_OK;
        }
    shape *s = memory_new(context, sizeof *s);
    if (!s) return INSET_NO_MEMORY;
    s->in = in;
    s->out = out;
    s->type = type;
    s->has_bias = has_bias;
    s->layout = lies;
    dnnl_status_t status = shape_choose_layout(p->engine, s);
    if (status) {
        shape_free(context, s);
        return refused(context, "choose a layout for a weight matrix", status);
    }
    s->next = p->shapes;
    p->shapes = s;
    *result = s;
    return INSET_OK;
}

/* ---- making a matrix ---------------------------------------------------- */

/* oneDNN reads the weights where they are if they need no conversion but to bf16, and lie on their
 * own alignment. */
static bool can_read_directly(const matrix *m, const void *weight, inset_type weight_type)
{
    if ((uintptr_t)weight % type_size(weight_type)) return false;
    return weight_type == m->type
               ? !m->widened
               : m->type == INSET_BF16 && !m->widened && weight_type == INSET_F32;
}

static dnnl_status_t reorder(cpu_products *p, const shape *s, const void *weight,
    dnnl_data_type_t type, bool in_out, dnnl_memory_t packed)
{
    description plain;
    dnnl_primitive_desc_t described = NULL;
    dnnl_primitive_t primitive = NULL;
    dnnl_memory_t from = NULL;
    memset(&plain, 0, sizeof plain);
    dnnl_status_t status = describe(
        &plain, type, s->in, s->out, in_out ? s->out : 1, in_out ? 1 : s->in);
    if (!status)
        status = dnnl_memory_create(
            &from, description_of(&plain), p->engine, (void *)(uintptr_t)weight);
    if (!status)
        status = dnnl_reorder_primitive_desc_create(&described, description_of(&plain), p->engine,
            description_of(&s->packed), p->engine, NULL);
    if (!status) status = dnnl_primitive_create(&primitive, described);
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, packed}};
    if (!status) status = dnnl_primitive_execute(primitive, p->stream, 2, args);
    if (!status) status = dnnl_stream_wait(p->stream);
    if (primitive) dnnl_primitive_destroy(primitive);
    if (described) dnnl_primitive_desc_destroy(described);
    if (from) dnnl_memory_destroy(from);
    description_free(&plain);
    return status;
}

/* n weights to fp32, rounded to the model's type on the way. They may lie at any address of a file,
 * but kernels want elements on their own alignment; rounding takes a step between, for what is not
 * of that type already. */
static void read_some_weights(const cpu_products *p, float *out, const char *weight,
    inset_type weight_type, int64_t n, inset_type type)
{
    double aligned[PIECE / 2];
    uint16_t rounded[PIECE];
    if ((uintptr_t)weight % type_size(weight_type)) {
        memcpy(aligned, weight, (size_t)n * type_size(weight_type));
        weight = (const char *)aligned;
    }
    if (weight_type != type && type != INSET_F32) {
        convert(p, rounded, type, n, weight, weight_type, n, 1, n);
        weight = (const char *)rounded;
        weight_type = type;
    }
    convert(p, out, INSET_F32, n, weight, weight_type, n, 1, n);
}

static void read_weights(const cpu_products *p, float *out, const void *weight,
    inset_type weight_type, int64_t n, inset_type type)
{
#ifdef _OPENMP
#pragma omp parallel for schedule(static) num_threads(p->threads) if (n > 16 * PIECE)
#endif
    for (int64_t start = 0; start < n; start += PIECE)
        read_some_weights(p, out + start,
            (const char *)weight + (size_t)start * type_size(weight_type), weight_type,
            n - start < PIECE ? n - start : PIECE, type);
}

static inset_status pack_weight(inset_context *context, cpu_products *p, matrix *m,
    const void *weight, inset_type weight_type, bool in_out)
{
    const size_t plain_bytes = (size_t)m->in * (size_t)m->out * sizeof(float);
    if (can_read_directly(m, weight, weight_type)) {
        dnnl_status_t status = reorder(p, m->shape, weight,
            weight_type == INSET_BF16 ? dnnl_bf16 : dnnl_f32, in_out, m->weight_memory);
        return status ? refused(context, "pack a weight matrix", status) : INSET_OK;
    }
    void *plain;
    inset_status status = cpu_memory_new(context, plain_bytes, &plain);
    if (status) return status;
    read_weights(p, plain, weight, weight_type, m->in * m->out, m->type);
    dnnl_status_t result = reorder(p, m->shape, plain, dnnl_f32, in_out, m->weight_memory);
    cpu_memory_free(context, plain, plain_bytes);
    return result ? refused(context, "pack a weight matrix", result) : INSET_OK;
}

/* oneDNN's view of the weights at `at`, and of the bias. */
static inset_status hold_weights(inset_context *context, cpu_products *p, matrix *m, const void *at)
{
    dnnl_status_t status = dnnl_memory_create(
        &m->weight_memory, description_of(&m->shape->packed), p->engine, (void *)(uintptr_t)at);
    if (!status && m->bias) {
        description bias;
        memset(&bias, 0, sizeof bias);
        status = describe(&bias, dnnl_f32, 1, m->out, m->out, 1);
        if (!status)
            status = dnnl_memory_create(&m->bias_memory, description_of(&bias), p->engine, m->bias);
        description_free(&bias);
    }
    return status ? refused(context, "hold a weight matrix", status) : INSET_OK;
}

static dnnl_data_type_t product_type(const matrix *m)
{
    return m->type == INSET_BF16 && !m->widened ? dnnl_bf16 : dnnl_f32;
}

static inset_status make_packed(inset_context *context, cpu_products *p, matrix *m,
    const void *weight, inset_type weight_type, bool in_out)
{
    inset_status status = find_shape(
        context, p, m->in, m->out, product_type(m), m->bias != NULL, PACKED, &m->shape);
    if (status) return status;
    m->weight_bytes = m->shape->packed_bytes;
    if ((status = cpu_memory_new(context, m->weight_bytes, &m->weight))) return status;
    status = hold_weights(context, p, m, m->weight);
    return status ? status : pack_weight(context, p, m, weight, weight_type, in_out);
}

static inset_status make_in_place(inset_context *context, cpu_products *p, matrix *m, layout lies)
{
    inset_status status = find_shape(
        context, p, m->in, m->out, product_type(m), m->bias != NULL, lies, &m->shape);
    return status ? status : hold_weights(context, p, m, m->table);
}

/* fp32 [in, out], whatever it was. */
static inset_status make_tiny(inset_context *context, const cpu_products *p, matrix *m,
    const void *weight, inset_type weight_type, bool in_out)
{
    m->weight_bytes = (size_t)m->in * (size_t)m->out * sizeof(float);
    inset_status status = cpu_memory_new(context, m->weight_bytes, &m->weight);
    if (status) return status;
    float plain[TINY];
    read_weights(p, plain, weight, weight_type, m->in * m->out, m->type);
    for (int64_t i = 0; i < m->in; i++)
        for (int64_t o = 0; o < m->out; o++)
            ((float *)m->weight)[i * m->out + o] = plain[in_out ? i * m->out + o : o * m->in + i];
    return INSET_OK;
}

/* Room for MOST_ROWS widened rows of the widest matrix; pages that are never touched cost
 * nothing. */
static inset_status reserve_scratch(inset_context *context, cpu_products *p, const matrix *m)
{
    const int64_t in = m->in > p->widest_in ? m->in : p->widest_in,
                  out = m->out > p->widest_out ? m->out : p->widest_out;
    const size_t bytes = (size_t)(in + out) * MOST_ROWS * sizeof(float);
    if (bytes <= p->scratch_bytes) return INSET_OK;
    void *scratch;
    inset_status status = cpu_memory_new(context, bytes, &scratch);
    if (status) return status;
    cpu_memory_free(context, p->scratch, p->scratch_bytes);
    p->scratch = scratch;
    p->scratch_bytes = bytes;
    p->widest_in = in;
    p->widest_out = out;
    return INSET_OK;
}

static bool is_tiny(int64_t in, int64_t out)
{
    return in <= TINY && out <= TINY && in * out <= TINY;
}

/* A matrix with its bias, and no weights yet. */
static inset_status matrix_begin(device *d, inset_type type, int64_t in, int64_t out,
    const void *bias, inset_type bias_type, matrix **result)
{
    cpu_products *p = products_of(d);
    matrix *m = memory_new(d->context, sizeof *m);
    *result = m;
    if (!m) return INSET_NO_MEMORY;
    m->type = type;
    m->widened = type == INSET_F16 || (type == INSET_BF16 && !p->bf16);
    m->in = in;
    m->out = out;
    if (!bias) return INSET_OK;
    void *memory;
    inset_status status = cpu_memory_new(d->context, (size_t)out * sizeof(float), &memory);
    m->bias = memory;
    if (!status) read_weights(p, m->bias, bias, bias_type, out, type);
    return status;
}

/* The matrix goes out, or is freed when `status` says that something failed. */
static inset_status matrix_end(device *d, matrix *m, inset_status status, matrix **result)
{
    if (status) cpu_matrix_free(d, m);
    *result = status ? NULL : m;
    return status;
}

inset_status cpu_matrix_create(device *d, inset_type type, int64_t in, int64_t out,
    const void *weight, inset_type weight_type, bool in_out, const void *bias, inset_type bias_type,
    matrix **result)
{
    cpu_products *p = products_of(d);
    matrix *m;
    inset_status status = matrix_begin(d, type, in, out, bias, bias_type, &m);
    if (!status)
        status = is_tiny(in, out) ? make_tiny(d->context, p, m, weight, weight_type, in_out)
                                  : make_packed(d->context, p, m, weight, weight_type, in_out);
    if (!status && !is_tiny(in, out) && m->widened) status = reserve_scratch(d->context, p, m);
    return matrix_end(d, m, status, result);
}

inset_status cpu_matrix_over(device *d, inset_type type, int64_t in, int64_t out, const void *table,
    const void *bias, inset_type bias_type, matrix **result)
{
    matrix *m;
    inset_status status = matrix_begin(d, type, in, out, bias, bias_type, &m);
    if (status || is_tiny(in, out) || m->widened) { /* those need numbers of their own */
        matrix_end(d, m, INSET_NO_MEMORY, result);
        return status ? status
                      : cpu_matrix_create(
                          d, type, in, out, table, type, false, bias, bias_type, result);
    }
    m->table = table;
    return matrix_end(d, m, make_in_place(d->context, products_of(d), m, OUT_IN), result);
}

/* The weights as fp32 or bf16 numbers [in, out], in memory of their own. */
static inset_status unpack(
    inset_context *context, cpu_products *p, const matrix *m, void **out, size_t *bytes)
{
    description plain;
    dnnl_primitive_desc_t described = NULL;
    dnnl_primitive_t primitive = NULL;
    dnnl_memory_t to = NULL;
    *bytes = (size_t)m->in * (size_t)m->out * (m->shape->type == dnnl_bf16 ? 2 : 4);
    inset_status status = cpu_memory_new(context, *bytes, out);
    if (status) return status;
    memset(&plain, 0, sizeof plain);
    dnnl_status_t result = describe(&plain, m->shape->type, m->in, m->out, m->out, 1);
    if (!result) result = dnnl_memory_create(&to, description_of(&plain), p->engine, *out);
    if (!result)
        result = dnnl_reorder_primitive_desc_create(&described, description_of(&m->shape->packed),
            p->engine, description_of(&plain), p->engine, NULL);
    if (!result) result = dnnl_primitive_create(&primitive, described);
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, m->weight_memory}, {DNNL_ARG_TO, to}};
    if (!result) result = dnnl_primitive_execute(primitive, p->stream, 2, args);
    if (!result) result = dnnl_stream_wait(p->stream);
    if (primitive) dnnl_primitive_destroy(primitive);
    if (described) dnnl_primitive_desc_destroy(described);
    if (to) dnnl_memory_destroy(to);
    description_free(&plain);
    if (!result) return INSET_OK;
    cpu_memory_free(context, *out, *bytes);
    return refused(context, "unpack a weight matrix", result);
}

#if DNNL_VERSION_MAJOR >= 3
static bool same_description(const description *a, const description *b)
{
    return dnnl_memory_desc_equal(*a, *b) != 0;
}
#else
static bool same_description(const description *a, const description *b)
{
    return dnnl_memory_desc_equal(a, b) != 0;
}
#endif

/* Whether weights lie row by row, [in, out] or [out, in] (as a processor without AVX-512 wants
 * them): then the reverse is the same numbers, looked at the other way. */
static bool lies_plain(const matrix *m, layout *reversed)
{
    static const layout other[2] = {OUT_IN, IN_OUT};
    bool found = false;
    for (int k = 0; k < 2 && !found; k++) {
        description plain;
        memset(&plain, 0, sizeof plain);
        found = !describe(&plain, m->shape->type, m->in, m->out, k ? 1 : m->out, k ? m->in : 1)
                && same_description(&plain, &m->shape->packed);
        description_free(&plain);
        *reversed = other[k];
    }
    return found;
}

static inset_status reverse_in_place(
    device *d, const matrix *of, const void *at, layout lies, matrix **result)
{
    matrix *m;
    inset_status status = matrix_begin(d, of->type, of->out, of->in, NULL, INSET_F32, &m);
    if (!status) m->table = at;
    if (!status) status = make_in_place(d->context, products_of(d), m, lies);
    if (!status && m->widened) status = reserve_scratch(d->context, products_of(d), m);
    return matrix_end(d, m, status, result);
}

/* oneDNN's layout of a matrix mostly serves one direction, and the other has numbers of its own. */
inset_status cpu_matrix_reverse(device *d, const matrix *of, matrix **result)
{
    const inset_type type = of->type;
    if (is_tiny(of->in, of->out))
        return cpu_matrix_create(
            d, type, of->out, of->in, of->weight, INSET_F32, false, NULL, INSET_F32, result);
    layout lies;
    if (of->table) return reverse_in_place(d, of, of->table, IN_OUT, result);
    if (lies_plain(of, &lies)) return reverse_in_place(d, of, of->weight, lies, result);
    void *plain;
    size_t bytes;
    inset_status status = unpack(d->context, products_of(d), of, &plain, &bytes);
    if (status) return status;
    status = cpu_matrix_create(d, type, of->out, of->in, plain,
        of->shape->type == dnnl_bf16 ? INSET_BF16 : INSET_F32, false, NULL, INSET_F32, result);
    cpu_memory_free(d->context, plain, bytes);
    return status;
}

void cpu_matrix_free(device *d, matrix *m)
{
    if (!m) return;
    if (m->weight_memory) dnnl_memory_destroy(m->weight_memory);
    if (m->bias_memory) dnnl_memory_destroy(m->bias_memory);
    cpu_memory_free(d->context, m->weight, m->weight_bytes);
    cpu_memory_free(d->context, m->bias, (size_t)m->out * sizeof(float));
    memory_free(d->context, m);
}

int64_t cpu_matrix_bytes(const matrix *m, bool reverse)
{
    layout lies;
    const int64_t bias = m->bias ? m->out * (int64_t)sizeof(float) : 0;
    if (!reverse) return (int64_t)m->weight_bytes + bias;
    const bool where_it_lies = !is_tiny(m->in, m->out) && (m->table || lies_plain(m, &lies));
    return where_it_lies ? 0 : (int64_t)m->weight_bytes;
}

/* ---- products ----------------------------------------------------------- */

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
    product *q = shape_product(context, p->engine, m->shape, rows, x_stride, y_stride);
    if (!q) return context->status;
    dnnl_status_t status = dnnl_memory_set_data_handle(q->x, (void *)(uintptr_t)x);
    if (!status) status = dnnl_memory_set_data_handle(q->y, y);
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, q->x}, {DNNL_ARG_WEIGHTS, m->weight_memory},
        {DNNL_ARG_DST, q->y}, {DNNL_ARG_BIAS, m->bias_memory}};
    if (!status) status = dnnl_primitive_execute(q->primitive, p->stream, m->bias ? 4 : 3, args);
    if (!status) status = dnnl_stream_wait(p->stream);
    return status ? refused(context, "multiply", status) : INSET_OK;
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
    convert(p, wide_x, INSET_F32, m->in, x, m->type, x_stride, rows, m->in);
    inset_status status = execute(context, p, m, wide_x, m->in, wide_y, m->out, rows);
    if (!status) convert(p, y, m->type, y_stride, wide_y, INSET_F32, m->out, rows, m->out);
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

/* ---- opening ------------------------------------------------------------ */

inset_status cpu_products_open(
    inset_context *context, const kernel_table *kernels, int threads, cpu_products **out)
{
    *out = NULL;
    cpu_products *p = memory_new(context, sizeof *p);
    if (!p) return INSET_NO_MEMORY;
    p->bf16 = has_bf16_products();
    p->threads = threads;
    p->convert = (kernel_blocks *)kernels->entry[KERNEL_RECORDS][0];
    p->dot_f32 = (kernel_blocks *)kernels->entry[KERNEL_COLUMNS][INSET_F32];
    p->dot_bf16 = (kernel_blocks *)kernels->entry[KERNEL_COLUMNS][INSET_BF16];
    dnnl_status_t status = dnnl_engine_create(&p->engine, dnnl_cpu, 0);
    if (!status) status = dnnl_stream_create(&p->stream, p->engine, dnnl_stream_default_flags);
    if (status) {
        cpu_products_close(context, p);
        return refused(context, "start", status);
    }
    *out = p;
    return INSET_OK;
}

void cpu_products_close(inset_context *context, cpu_products *p)
{
    if (!p) return;
    while (p->shapes) {
        shape *next = p->shapes->next;
        shape_free(context, p->shapes);
        p->shapes = next;
    }
    if (p->stream) dnnl_stream_destroy(p->stream);
    if (p->engine) dnnl_engine_destroy(p->engine);
    cpu_memory_free(context, p->scratch, p->scratch_bytes);
    memory_free(context, p);
}

void cpu_products_describe(inset_context *context, text *out)
{
    const dnnl_version_t *version = dnnl_version();
    text_add(context, out, "oneDNN %d.%d.%d: products in %s; %s weights are widened to f32\n",
        version->major, version->minor, version->patch,
        has_bf16_products() ? "f32 and bf16" : "f32", has_bf16_products() ? "f16" : "bf16 and f16");
}
