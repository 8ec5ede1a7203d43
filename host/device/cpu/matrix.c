/* matrix.c: weights as the CPU's products read them: packed in oneDNN's layout, or where they lie;
 * and the same the other way round. */
#include "device/cpu/products.h"

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
        product_convert(p, rounded, type, n, weight, weight_type, n, 1, n);
        weight = (const char *)rounded;
        weight_type = type;
    }
    product_convert(p, out, INSET_F32, n, weight, weight_type, n, 1, n);
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
        return status ? product_refused(context, "pack a weight matrix", status) : INSET_OK;
    }
    void *plain;
    inset_status status = cpu_memory_new(context, plain_bytes, &plain);
    if (status) return status;
    read_weights(p, plain, weight, weight_type, m->in * m->out, m->type);
    dnnl_status_t result = reorder(p, m->shape, plain, dnnl_f32, in_out, m->weight_memory);
    cpu_memory_free(context, plain, plain_bytes);
    return result ? product_refused(context, "pack a weight matrix", result) : INSET_OK;
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
    return status ? product_refused(context, "hold a weight matrix", status) : INSET_OK;
}

static dnnl_data_type_t product_type(const matrix *m)
{
    return m->type == INSET_BF16 && !m->widened ? dnnl_bf16 : dnnl_f32;
}

static inset_status make_packed(inset_context *context, cpu_products *p, matrix *m,
    const void *weight, inset_type weight_type, bool in_out)
{
    inset_status status = shape_find(
        context, p, m->in, m->out, product_type(m), m->bias != NULL, PACKED, &m->shape);
    if (status) return status;
    m->weight_bytes = m->shape->packed_bytes;
    if ((status = cpu_memory_new(context, m->weight_bytes, &m->weight))) return status;
    status = hold_weights(context, p, m, m->weight);
    return status ? status : pack_weight(context, p, m, weight, weight_type, in_out);
}

static inset_status make_in_place(inset_context *context, cpu_products *p, matrix *m, layout lies)
{
    inset_status status = shape_find(
        context, p, m->in, m->out, product_type(m), m->bias != NULL, lies, &m->shape);
    return status ? status : hold_weights(context, p, m, m->table);
}

/* fp32 [in, out], whatever it was. */
static void fill_tiny(
    const cpu_products *p, matrix *m, const void *weight, inset_type weight_type, bool in_out)
{
    float plain[TINY];
    read_weights(p, plain, weight, weight_type, m->in * m->out, m->type);
    for (int64_t i = 0; i < m->in; i++)
        for (int64_t o = 0; o < m->out; o++)
            ((float *)m->weight)[i * m->out + o] = plain[in_out ? i * m->out + o : o * m->in + i];
}

static inset_status make_tiny(inset_context *context, const cpu_products *p, matrix *m,
    const void *weight, inset_type weight_type, bool in_out)
{
    m->weight_bytes = (size_t)m->in * (size_t)m->out * sizeof(float);
    inset_status status = cpu_memory_new(context, m->weight_bytes, &m->weight);
    if (!status) fill_tiny(p, m, weight, weight_type, in_out);
    return status;
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
    return product_refused(context, "unpack a weight matrix", result);
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
    if (!m->comes) cpu_memory_free(d->context, m->weight, m->weight_bytes);
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

/* ---- weights that come and go -------------------------------------------- */

/* The layout of a product's reverse is that of cpu_matrix_reverse, so that it has the same bits. */
static layout layout_of_empty(const matrix *reverse_of)
{
    layout lies;
    return reverse_of && lies_plain(reverse_of, &lies) ? lies : PACKED;
}

inset_status cpu_matrix_empty(device *d, inset_type type, int64_t in, int64_t out, bool in_out,
    const void *bias, inset_type bias_type, const matrix *reverse_of, matrix **result)
{
    cpu_products *p = products_of(d);
    matrix *m;
    inset_status status = matrix_begin(d, type, in, out, bias, bias_type, &m);
    if (status) return matrix_end(d, m, status, result);
    m->comes = true;
    m->in_out = in_out;
    if (is_tiny(in, out)) return matrix_end(d, m, INSET_OK, result);
    status = shape_find(d->context, p, in, out, product_type(m), m->bias != NULL,
        layout_of_empty(reverse_of), &m->shape);
    if (!status) status = hold_weights(d->context, p, m, DNNL_MEMORY_NONE);
    if (!status && m->widened) status = reserve_scratch(d->context, p, m);
    return matrix_end(d, m, status, result);
}

bool cpu_widens(const device *d, inset_type type)
{
    return type == INSET_F16 || (type == INSET_BF16 && !((const cpu_device *)d)->products->bf16);
}

int64_t cpu_matrix_room(const matrix *m)
{
    const int64_t size = m->shape && m->shape->type == dnnl_bf16 ? 2 : (int64_t)sizeof(float);
    return m->shape && m->shape->layout == PACKED ? (int64_t)m->shape->packed_bytes
                                                  : m->in * m->out * size;
}

inset_status cpu_matrix_put(
    device *d, matrix *m, device_slot *s, size_t offset, const void *weight, inset_type weight_type)
{
    cpu_products *p = products_of(d);
    m->weight = cpu_slot_at(s, offset);
    if (!m->shape) return fill_tiny(p, m, weight, weight_type, m->in_out), INSET_OK;
    dnnl_status_t status = dnnl_memory_set_data_handle(m->weight_memory, m->weight);
    if (status) return product_refused(d->context, "hold a weight matrix", status);
    if (m->shape->layout != PACKED) m->table = m->weight;
    return pack_weight(d->context, p, m, weight, weight_type, m->in_out);
}
