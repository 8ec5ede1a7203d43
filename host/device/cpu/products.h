/* products.h: oneDNN's products on the CPU, shared by products.c (what is prepared and kept),
 * matrix.c (weights in its layouts) and matmul.c (multiplying). See matmul.c for the whole. */
#ifndef INSET_DEVICE_CPU_PRODUCTS_H
#define INSET_DEVICE_CPU_PRODUCTS_H

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
static inline description_view description_of(const description *d) { return *d; }
static inline void description_free(description *d)
{
    if (*d) dnnl_memory_desc_destroy(*d);
}
static inline dnnl_status_t describe_strided(
    description *d, const dnnl_dims_t dims, dnnl_data_type_t type, const dnnl_dims_t strides)
{
    return dnnl_memory_desc_create_with_strides(d, 2, dims, type, strides);
}
static inline dnnl_status_t describe_any(
    description *d, const dnnl_dims_t dims, dnnl_data_type_t type)
{
    return dnnl_memory_desc_create_with_tag(d, 2, dims, type, dnnl_format_tag_any);
}
static inline dnnl_status_t description_copy(description *to, description_view from)
{
    return dnnl_memory_desc_clone(to, from);
}
static inline dnnl_status_t matmul_describe(dnnl_primitive_desc_t *out, dnnl_engine_t engine,
    description_view x, description_view w, description_view bias, description_view y)
{
    return dnnl_matmul_primitive_desc_create(out, engine, x, w, bias, y, NULL);
}
#else
typedef dnnl_memory_desc_t description;
typedef const dnnl_memory_desc_t *description_view;
static inline description_view description_of(const description *d) { return d; }
static inline void description_free(description *d) { (void)d; }
static inline dnnl_status_t describe_strided(
    description *d, const dnnl_dims_t dims, dnnl_data_type_t type, const dnnl_dims_t strides)
{
    return dnnl_memory_desc_init_by_strides(d, 2, dims, type, strides);
}
static inline dnnl_status_t describe_any(
    description *d, const dnnl_dims_t dims, dnnl_data_type_t type)
{
    return dnnl_memory_desc_init_by_tag(d, 2, dims, type, dnnl_format_tag_any);
}
static inline dnnl_status_t description_copy(description *to, description_view from)
{
    *to = *from;
    return dnnl_success;
}
static inline dnnl_status_t matmul_describe(dnnl_primitive_desc_t *out, dnnl_engine_t engine,
    description_view x, description_view w, description_view bias, description_view y)
{
    dnnl_matmul_desc_t operation;
    dnnl_status_t status = dnnl_matmul_desc_init(&operation, x, w, bias, y);
    return status != dnnl_success ? status
                                  : dnnl_primitive_desc_create(out, &operation, NULL, engine, NULL);
}
#endif

/* A matrix [rows, columns] with its strides; row_stride 0 leaves the layout to oneDNN. */
static inline dnnl_status_t describe(description *d, dnnl_data_type_t type, int64_t rows,
    int64_t columns, int64_t row_stride, int64_t column_stride)
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
    size_t weight_bytes; /* 0: it is in a slot, which is not the matrix's */
    bool comes, in_out;  /* it comes and goes (slots.c), from a weight that lies so */
    /* somebody else's, as shape->layout says, in the matrix's type or widened; or NULL */
    const void *table;
    float *bias; /* fp32 [out], or NULL */
    dnnl_memory_t weight_memory, bias_memory;
};

static inline cpu_products *products_of(device *d) { return ((cpu_device *)d)->products; }

static inline bool is_tiny(int64_t in, int64_t out)
{
    return in <= TINY && out <= TINY && in * out <= TINY;
}

/* Sets the context's message: "oneDNN could not WHAT"; returns it. */
inset_status product_refused(inset_context *context, const char *what, dnnl_status_t status);
/* Copies [rows, columns] from one float type to another; strides in elements. */
void product_convert(const cpu_products *p, void *out, inset_type out_type, int64_t out_stride,
    const void *from, inset_type from_type, int64_t from_stride, int64_t rows, int64_t columns);
/* The shape, found or made. */
inset_status shape_find(inset_context *context, cpu_products *p, int64_t in, int64_t out,
    dnnl_data_type_t type, bool has_bias, layout lies, shape **result);
/* The product for `rows` rows, prepared now if it is not there; NULL and the context's message when
 * that fails. */
product *product_for(inset_context *context, dnnl_engine_t engine, shape *s, int64_t rows,
    int64_t x_stride, int64_t y_stride);

#endif
