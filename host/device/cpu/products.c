/* products.c: oneDNN's engine, the shapes of matrices, and the products that were prepared for
 * them. */
#include "device/cpu/products.h"

inset_status product_refused(inset_context *context, const char *what, dnnl_status_t status)
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

/* ---- converting rows ---------------------------------------------------- */

void product_convert(const cpu_products *p, void *out, inset_type out_type, int64_t out_stride,
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

product *product_for(inset_context *context, dnnl_engine_t engine, shape *s, int64_t rows,
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
        product_refused(context, "prepare a matrix product", status);
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

inset_status shape_find(inset_context *context, cpu_products *p, int64_t in, int64_t out,
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
        return product_refused(context, "choose a layout for a weight matrix", status);
    }
    s->next = p->shapes;
    p->shapes = s;
    *result = s;
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
        return product_refused(context, "start", status);
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
