/* device.h: where a plan runs: memory, copies, matrix products and kernel launches, with two
 * implementations (device/cpu/cpu.c, device/cuda/cuda.c). Nothing above knows which it has, and a
 * device knows kernels and nothing of traces.
 *
 * All work given to a device happens in the order given (one stream). Failures set the context's
 * message (INSET_NO_MEMORY with the bytes asked for and the bytes there are; INSET_DEVICE_ERROR
 * otherwise, the driver's words in it). */
#ifndef INSET_DEVICE_H
#define INSET_DEVICE_H

#include "base/base.h"
#include "kernels/kernels.h"
#include "kernels/products.h"

typedef struct device device;
/* a weight matrix, with its bias, laid out as the device's matrix product wants it */
typedef struct matrix matrix;
/* launches that were captured, to be given to the device again as one */
typedef struct device_graph device_graph;
/* host memory where numbers arrive while the device goes on */
typedef struct device_landing device_landing;
/* memory of the device where weights come and go */
typedef struct device_slot device_slot;

/* out [rows, columns] = a b in fp32, all on the device: a [rows, inner], b [inner, columns], or
 * [columns, inner] where it lies `across`. Strides are from row to row. The sums are in an order
 * that depends on the shape alone. */
typedef struct float_product {
    float *out;
    const float *a, *b;
    int64_t rows, columns, inner, out_stride, a_stride, b_stride;
    bool b_across;
} float_product;

/* Memory of the device that belongs to nobody here: whoever has it calls release(owner) once, in
 * any thread, even after the device is closed. */
typedef struct device_share {
    void *data, *owner;
    void (*release)(void *owner);
} device_share;

/* The functions an implementation fills in. */
typedef struct device_functions {
    void (*close)(device *d);
    inset_status (*allocate)(device *d, size_t bytes, void **out);
    void (*release)(device *d, void *memory, size_t bytes);
    /* NULL where it is not asked again (cpu) */
    inset_status (*memory_left)(device *d, size_t *bytes);
    /* `from` may be reused on return */
    inset_status (*upload)(device *d, void *to, const void *from, size_t bytes);
    inset_status (*upload_as)(device *d, void *to, inset_type type, const void *from,
        inset_type from_type, int64_t count);
    /* complete on return */
    inset_status (*download)(device *d, void *to, const void *from, size_t bytes);
    inset_status (*zero)(device *d, void *at, size_t bytes);
    inset_status (*copy)(device *d, void *to, const void *from, size_t bytes);
    inset_status (*share)(device *d, size_t bytes, device_share *out);
    inset_status (*matrix_create)(device *d, inset_type type, int64_t in, int64_t out,
        const void *weight, inset_type weight_type, bool in_out, const void *bias,
        inset_type bias_type, matrix **result);
    inset_status (*matrix_over)(device *d, inset_type type, int64_t in, int64_t out,
        const void *table, const void *bias, inset_type bias_type, matrix **result);
    inset_status (*matrix_reverse)(device *d, const matrix *of, matrix **result);
    void (*matrix_free)(device *d, matrix *m);
    int64_t (*matrix_bytes)(const matrix *m, bool reverse);
    inset_status (*matmul)(device *d, const matrix *m, const void *x, int64_t x_stride, void *y,
        int64_t y_stride, int64_t rows);
    inset_status (*matmul_group)(device *d, const matrix *const *group, int32_t n,
        const int32_t *offsets, const void *x, void *y, int64_t most);
    inset_status (*float_products)(device *d, const float_product *x, int64_t n);
    const void *(*matrix_numbers)(const matrix *m);   /* NULL: they are packed (cpu) */
    bool (*widens)(const device *d, inset_type type); /* NULL: none (cuda) */
    /* weights that come and go */
    inset_status (*slot_create)(device *d, size_t bytes, device_slot **out);
    void (*slot_free)(device *d, device_slot *s);
    inset_status (*slot_used)(device *d, device_slot *s);
    inset_status (*slot_arrive)(device *d, device_slot *s);
    inset_status (*matrix_empty)(device *d, inset_type type, int64_t in, int64_t out, bool in_out,
        const void *bias, inset_type bias_type, const matrix *reverse_of, matrix **result);
    int64_t (*matrix_room)(const matrix *m);
    inset_status (*matrix_put)(device *d, matrix *m, device_slot *s, size_t offset,
        const void *weight, inset_type weight_type);
    /* both NULL where nothing is gained by it (cpu) */
    inset_status (*matrix_gelu)(device *d, matrix *m, bool *allowed);
    inset_status (*matmul_gelu)(device *d, const matrix *m, const void *x, int64_t x_stride,
        void *y, int64_t y_stride, int64_t rows);
    inset_status (*launch)(device *d, kernel_id kernel, inset_type type, const void *args,
        size_t args_size, int64_t blocks, int64_t work);
    inset_status (*synchronize)(device *d);
    inset_status (*wait_for)(device *d, void *stream); /* NULL: it has no streams (cpu) */
    /* Launches captured and replayed; NULL on a device where a launch costs nothing (cpu). */
    inset_status (*capture_begin)(device *d);
    inset_status (*capture_end)(device *d, device_graph **out);
    inset_status (*replay)(device *d, device_graph *g);
    void (*graph_free)(device *d, device_graph *g);
    /* Downloads that are not waited for; NULL on a device whose work is done when the call returns
     * (cpu). */
    inset_status (*landing_create)(device *d, device_landing **out);
    void (*landing_free)(device *d, device_landing *l);
    inset_status (*landing_start)(device *d, device_landing *l, const void *from, size_t bytes);
    inset_status (*landing_wait)(device *d, device_landing *l, const void **at);
    /* NULL: it takes none (cpu) */
    bool (*takes_attention)(device *d, inset_type type, const whole_attention_args *shape);
} device_functions;

struct device {
    inset_context *context;
    const device_functions *functions;
    /* "cpu: Intel Xeon ..., AVX-512, 2 threads" or "cuda:0: NVIDIA H200" */
    char name[128];
    bool is_cuda;
    int32_t index; /* which of the machine's GPUs; 0 for a CPU */
    /* set once it is open, before it is given anything: a row's bits may depend on what is computed
     * beside it where that is faster. cpu.c has nothing that would be */
    bool fast;
    /* while it is not `fast`, the device stands for it that a row of a product has the same bits
     * beside any others. Not so a CPU without AVX-512, whose products add up in an order of the
     * height's (cpu/matmul.c) */
    bool steady;
    size_t memory_total, memory_free; /* bytes, when it was opened (see device_memory_left) */
    bool shares_host_memory;          /* device pointers may be read by the host (cpu) */
    /* PRODUCT_TALLEST where products run at fixed heights (kernels/products.h), else 1 */
    int32_t row_block;
};

/* Opens `name`: "auto" (a CUDA device where there is one, else the CPU), "cpu", "cuda" or "cuda:N".
 * INSET_USAGE_ERROR for another name; INSET_DEVICE_ERROR when a CUDA device is asked for and there
 * is none, saying why. */
inset_status device_open(inset_context *context, const char *name, device **out);
void device_close(device *d); /* takes NULL */
/* One line a device that answers, and the libraries with their versions; for `inset version`. */
void device_describe(inset_context *context, text *out);

/* Implementations; a build without nvcc has device_open_cuda answer INSET_DEVICE_ERROR. */
inset_status device_open_cpu(inset_context *context, device **out);
inset_status device_open_cuda(inset_context *context, int index, device **out);
/* No CUDA in this build, no driver, no device, or one that is too old for inset: then a CPU is the
 * device of "auto". Not so where there is one and something else is wrong. */
bool device_cuda_absent(inset_context *context);
/* How many GPUs there are; 0 in a build without CUDA and on a machine without a driver. */
int device_count_cuda(inset_context *context);
/* Add their lines to device_describe's text; CUDA's adds none when no device answers. */
void device_describe_cpu(inset_context *context, text *out);
void device_describe_cuda(inset_context *context, text *out);

/* Bytes on the device; released with the same size. */
static inline inset_status device_allocate(device *d, size_t bytes, void **out)
{
    return d->functions->allocate(d, bytes, out);
}
static inline void device_release(device *d, void *memory, size_t bytes)
{
    if (memory) d->functions->release(d, memory, bytes);
}
static inline inset_status device_upload(device *d, void *to, const void *from, size_t bytes)
{
    return bytes ? d->functions->upload(d, to, from, bytes) : INSET_OK;
}
/* The same for `count` elements of a float type, as another float type on the device. */
static inline inset_status device_upload_as(
    device *d, void *to, inset_type type, const void *from, inset_type from_type, int64_t count)
{
    return count ? d->functions->upload_as(d, to, type, from, from_type, count) : INSET_OK;
}
static inline inset_status device_download(device *d, void *to, const void *from, size_t bytes)
{
    return bytes ? d->functions->download(d, to, from, bytes) : INSET_OK;
}
/* From one place on the device to another. */
static inline inset_status device_copy(device *d, void *to, const void *from, size_t bytes)
{
    return bytes ? d->functions->copy(d, to, from, bytes) : INSET_OK;
}
static inline inset_status device_share_new(device *d, size_t bytes, device_share *out)
{
    return d->functions->share(d, bytes, out);
}
/* Waits for a stream of somebody else's (a cudaStream_t; NULL: the default one) on this device. */
static inline inset_status device_wait_for(device *d, void *stream)
{
    return d->functions->wait_for ? d->functions->wait_for(d, stream) : INSET_OK;
}
static inline inset_status device_zero(device *d, void *at, size_t bytes)
{
    return bytes ? d->functions->zero(d, at, bytes) : INSET_OK;
}

/* Prepares y = x W (+ bias) with x [rows, in], y [rows, out] in `type` (f32, bf16, f16),
 * accumulated in fp32 and rounded once.
 *   weight     host memory (may be a mapped file; not needed after the call), [in, out] if in_out,
 *              else [out, in], weight_type a float type
 *   bias       host [out] of bias_type, or NULL */
static inline inset_status device_matrix_create(device *d, inset_type type, int64_t in, int64_t out,
    const void *weight, inset_type weight_type, bool in_out, const void *bias, inset_type bias_type,
    matrix **result)
{
    return d->functions->matrix_create(
        d, type, in, out, weight, weight_type, in_out, bias, bias_type, result);
}
/* The same for a weight that the device has already, [out, in] in `type`, and keeps for longer than
 * the matrix: where the product can read it there, it is not copied. */
static inline inset_status device_matrix_over(device *d, inset_type type, int64_t in, int64_t out,
    const void *table, const void *bias, inset_type bias_type, matrix **result)
{
    return d->functions->matrix_over(d, type, in, out, table, bias, bias_type, result);
}
/* Prepares y = x W^T for a matrix W that stays the caller's and must outlive it: x [rows, out of
 * W], y [rows, in of W], without a bias. A GPU reads W's own numbers; the CPU keeps a second
 * copy. */
static inline inset_status device_matrix_reverse(device *d, const matrix *of, matrix **result)
{
    return d->functions->matrix_reverse(d, of, result);
}
static inline void device_matrix_free(device *d, matrix *m)
{
    if (m) d->functions->matrix_free(d, m);
}
/* Weights that come and go: a matrix without numbers, and slots that it is put in before it is
 * used:
 *
 *     device_matrix_put(d, m, slot, 0, weight, type);   copies, beside the products of other slots
 *     device_slot_arrive(d, slot);                      what is given to the device now sees them
 *     device_matmul(d, m, ...);
 *     device_slot_used(d, slot);                        and from here on others may be put there
 *
 * in_out: how the weight lies that is put. reverse_of: the matrix it is the reverse of, whose bits
 * it is to have, with its own in and out; or NULL. */
static inline inset_status device_matrix_empty(device *d, inset_type type, int64_t in, int64_t out,
    bool in_out, const void *bias, inset_type bias_type, const matrix *reverse_of, matrix **result)
{
    return d->functions->matrix_empty(
        d, type, in, out, in_out, bias, bias_type, reverse_of, result);
}
/* Whether matrices of a type are widened to fp32 there (a CPU without products of it). */
static inline bool device_widens(const device *d, inset_type type)
{
    return type != INSET_F32 && d->functions->widens && d->functions->widens(d, type);
}
/* Bytes of a slot that its numbers take. */
static inline int64_t device_matrix_room(const device *d, const matrix *m)
{
    return d->functions->matrix_room(m);
}
/* offset: a multiple of 64. The weight may go when the call returns. */
static inline inset_status device_matrix_put(
    device *d, matrix *m, device_slot *s, size_t offset, const void *weight, inset_type weight_type)
{
    return d->functions->matrix_put(d, m, s, offset, weight, weight_type);
}
static inline inset_status device_slot_create(device *d, size_t bytes, device_slot **out)
{
    return d->functions->slot_create(d, bytes, out);
}
static inline void device_slot_free(device *d, device_slot *s)
{
    if (s) d->functions->slot_free(d, s);
}
static inline inset_status device_slot_used(device *d, device_slot *s)
{
    return d->functions->slot_used(d, s);
}
static inline inset_status device_slot_arrive(device *d, device_slot *s)
{
    return d->functions->slot_arrive(d, s);
}

/* What a matrix takes on the device beside what is somebody else's; reverse: what
 * device_matrix_reverse would add. */
static inline int64_t device_matrix_bytes(const device *d, const matrix *m, bool reverse)
{
    return m ? d->functions->matrix_bytes(m, reverse) : 0;
}
/* Rows that a product of `rows` rows reads and writes: its own and padding behind them. */
static inline int64_t device_padded_rows(
    const device *d, inset_type type, int64_t in, int64_t out, int64_t rows)
{
    return product_padded(d->row_block, rows, (in > out ? in : out) * (int64_t)type_size(type));
}
/* y[r, :] = x[r, :] W + bias for `rows` rows; strides in elements, at least the width (one row's
 * may be anything and counts as the width). rows may be 0. x must be readable and y writable for
 * device_padded_rows rows; what x holds in the padding is the same to the rows, what y holds there
 * afterwards is nothing. */
static inline inset_status device_matmul(device *d, const matrix *m, const void *x,
    int64_t x_stride, void *y, int64_t y_stride, int64_t rows)
{
    return rows ? d->functions->matmul(d, m, x, x_stride, y, y_stride, rows) : INSET_OK;
}

/* Packed rows of x [most, in] and y [most, out] by n matrices of one shape: matrix i takes rows
 * offsets[i] .. offsets[i + 1], int32 on the device, which nobody on the host need know (of
 * experts, kernels.h). Rows behind the last offset are not touched. */
static inline inset_status device_matmul_group(device *d, const matrix *const *group, int32_t n,
    const int32_t *offsets, const void *x, void *y, int64_t most)
{
    return most ? d->functions->matmul_group(d, group, n, offsets, x, y, most) : INSET_OK;
}

/* Prepares y = gelu(x W + bias), the tanh form, as one launch. *allowed: device_matmul_gelu may
 * stand for device_matmul and KERNEL_ACTIVATION, since a probe found that it gives the same bits
 * (or the device may be fast and give them up). False where the device has nothing of the kind. */
static inline inset_status device_matrix_gelu(device *d, matrix *m, bool *allowed)
{
    return *allowed = false,
           d->functions->matrix_gelu ? d->functions->matrix_gelu(d, m, allowed) : INSET_OK;
}
/* As device_matmul, for a matrix of which it was allowed, and packed rows (strides of the widths)
 * from an address aligned to 16 bytes or a whole number of rows behind one. */
static inline inset_status device_matmul_gelu(device *d, const matrix *m, const void *x,
    int64_t x_stride, void *y, int64_t y_stride, int64_t rows)
{
    return rows ? d->functions->matmul_gelu(d, m, x, x_stride, y, y_stride, rows) : INSET_OK;
}

/* Runs a kernel: `blocks` blocks (one a row, for KERNEL_RECORDS as records_number_blocks says, for
 * attention one a row and head: n_rows * n_heads; KERNEL_COUNT + k is kernel k with records, see
 * fused_records). `work` estimates the elements touched: small work is not spread over threads.
 * args is copied. */
static inline inset_status device_launch(device *d, kernel_id kernel, inset_type type,
    const void *args, size_t args_size, int64_t blocks, int64_t work)
{
    return blocks ? d->functions->launch(d, kernel, type, args, args_size, blocks, work) : INSET_OK;
}
/* Whether the device does KERNEL_WHOLE_ATTENTION of this shape, whose pointers are not looked at;
 * another n_sequences is taken as well then. The first question of a kind may take a second. It
 * never fails: what cannot be had is not taken. */
static inline bool device_takes_attention(
    device *d, inset_type type, const whole_attention_args *shape)
{
    return d->functions->takes_attention && d->functions->takes_attention(d, type, shape);
}
static inline inset_status device_synchronize(device *d) { return d->functions->synchronize(d); }

/* Whether the device can capture; where it cannot, nothing is gained by it and the functions below
 * are not to be called. */
static inline bool device_captures(const device *d) { return d->functions->replay != NULL; }
/* From here to device_capture_end, zeroing, products and launches are written down with their
 * arguments instead of run. Nothing else may be asked of the device in between, and every product
 * must have run before, at the same addresses. */
static inline inset_status device_capture_begin(device *d)
{
    return d->functions->capture_begin(d);
}
/* Ends it, also after a failure in between. *out: what was written down, NULL on failure. out NULL:
 * throws it away. */
static inline inset_status device_capture_end(device *d, device_graph **out)
{
    return d->functions->capture_end(d, out);
}
/* Gives the device all of it, in order. What it reads from device memory is read then: other inputs
 * need no other graph. */
static inline inset_status device_replay(device *d, device_graph *g)
{
    return d->functions->replay(d, g);
}
static inline void device_graph_free(device *d, device_graph *g)
{
    if (g) d->functions->graph_free(d, g);
}

/* Whether the device works on while the host does something else; where it does not, the functions
 * below are not to be called. */
static inline bool device_works_ahead(const device *d)
{
    return d->functions->landing_wait != NULL;
}
static inline inset_status device_landing_create(device *d, device_landing **out)
{
    return d->functions->landing_create(d, out);
}
/* Also while a download is under way. */
static inline void device_landing_free(device *d, device_landing *l)
{
    if (l) d->functions->landing_free(d, l);
}
/* Downloads `bytes` in the order of the device's work, and returns without waiting. What arrived
 * before in this landing is lost. */
static inline inset_status device_landing_start(
    device *d, device_landing *l, const void *from, size_t bytes)
{
    return d->functions->landing_start(d, l, from, bytes);
}
/* Waits until all of it is there, and for nothing that was given to the device later. *at: the
 * bytes, until the next device_landing_start. */
static inline inset_status device_landing_wait(device *d, device_landing *l, const void **at)
{
    return d->functions->landing_wait(d, l, at);
}

/* n products, none of which writes what another reads or writes. Neighbours of one shape that lie
 * evenly apart are one launch on a GPU. Not while capturing. INSET_NO_MEMORY,
 * INSET_DEVICE_ERROR. */
static inline inset_status device_float_products(device *d, const float_product *x, int64_t n)
{
    return d->functions->float_products(d, x, n);
}
/* The numbers of a matrix's weight on the device, in the matrix's type and the order that the file
 * has; NULL where they lie packed (cpu). */
static inline const void *device_matrix_numbers(const device *d, const matrix *m)
{
    return d->functions->matrix_numbers ? d->functions->matrix_numbers(m) : NULL;
}

#endif
