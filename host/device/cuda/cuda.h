/* cuda.h: the inside of the CUDA device, shared by cuda.c (memory, copies, launches), landing.c
 * (results that arrive later), matmul.c (products by weights), choose.c (their algorithms), slots.c
 * (weights that come and go),
 * float_products.c (other products) and tiles.c (attention by tiles). */
#ifndef INSET_CUDA_H
#define INSET_CUDA_H

#include "device/cuda/library.h"
#include "device/device.h"

/* Pinned host memory through which copies go. Uploads fill one half from the front, each piece
 * queued as soon as it is there; when the half is full, `done` is recorded behind its copies and
 * the other half takes over, once its own copies have run. */
typedef struct staging_half {
    char *bytes;
    size_t used;
    cuda_event done;
    bool pending; /* `done` is recorded and nobody has waited for it */
} staging_half;

/* What a product does behind the sums and the bias: it is a descriptor and a choice of its own. */
typedef enum epilogue { EPILOGUE_PLAIN, EPILOGUE_GELU, EPILOGUES } epilogue;

/* The algorithms that products of one shape use, one a height; see cuda/choose.c. */
typedef struct product_choice {
    int64_t in, out;
    inset_type type;
    epilogue epilogue;
    bool in_out, has_bias, aligned;
    /* there is an algorithm for every height; where not, cuBLASLt chooses at each call */
    bool pinned;
    /* the probe found that a row's bits depend on that row alone */
    bool steady;
    /* EPILOGUE_GELU: it has the bits of the plain product and KERNEL_ACTIVATION behind it */
    bool as_kernel;
    /* heights that have an algorithm of their own, faster than the tallest's and with its bits */
    int faster;
    cublas_algorithm algorithms[PRODUCT_HEIGHTS];
} product_choice;

/* A product of plain matrices as cuBLASLt sees it, and the algorithm for it; float_products.c. */
typedef struct float_shape {
    int64_t rows, columns, inner, out_stride, a_stride, b_stride, count, out_step, a_step, b_step;
    uint32_t b_across, out_alignment, a_alignment, b_alignment; /* bytes */
} float_shape;
typedef struct float_choice {
    float_shape shape;
    cublas_algorithm algorithm;
} float_choice;

typedef struct cuda_attention cuda_attention; /* attention.c */
typedef struct cuda_copier cuda_copier;       /* slots.c */

typedef struct cuda_device {
    device base; /* first, so that a device * is a cuda_device * */
    cuda_library library;
    int index;
    cuda_stream stream; /* all work, in order */
    kernel_table kernels;
    staging_half halves[2];
    int half; /* the one being filled */
    cublas_handle products;
    void *workspace; /* of WORKSPACE_BYTES, for one product at a time */
    product_choice *choices;
    size_t n_choices, choices_capacity;
    float_choice *float_choices;
    size_t n_float_choices, float_choices_capacity;
    int multiprocessors, shared_bytes; /* of the card; of a block at most */
    cuda_attention *attention;         /* NULL until somebody asks for it */
    bool attention_missing;            /* there is none */
    cuda_copier *copier;               /* NULL until there is a slot */
    /* between capture_begin and capture_end: work is written down, not run */
    bool capturing;
} cuda_device;

enum { STAGING_BYTES = 4 << 20, WORKSPACE_BYTES = 4 << 20 };

/* Makes the device the calling thread's; every function of the device begins with it. */
inset_status cuda_enter(cuda_device *d);
/* INSET_DEVICE_ERROR with the driver's words; takes CUDA's sticky error back. doing: "waiting for
 * the device". */
inset_status cuda_failed(cuda_device *d, int error, const char *doing);

/* The device functions that products use too. */
inset_status cuda_launch(device *base, kernel_id kernel, inset_type type, const void *args,
    size_t args_size, int64_t blocks, int64_t work);
inset_status cuda_allocate(device *base, size_t bytes, void **out);
/* share.c: what device.h says of them */
inset_status cuda_share(device *base, size_t bytes, device_share *out);
inset_status cuda_wait_for(device *base, void *stream);
void cuda_release(device *base, void *memory, size_t bytes);
inset_status cuda_upload(device *base, void *to, const void *from, size_t bytes);
inset_status cuda_download(device *base, void *to, const void *from, size_t bytes);
inset_status cuda_upload_as(
    device *base, void *to, inset_type type, const void *from, inset_type from_type, int64_t count);

/* ---- landing.c ---------------------------------------------------------- */

inset_status cuda_landing_create(device *base, device_landing **out);
void cuda_landing_free(device *base, device_landing *l);
inset_status cuda_landing_start(device *base, device_landing *l, const void *from, size_t bytes);
inset_status cuda_landing_wait(device *base, device_landing *l, const void **at);

/* ---- matmul.c ----------------------------------------------------------- */

/* Descriptors of x and y for rows that are so far apart (in elements), one of each a height. */
typedef struct row_layouts {
    int64_t x_stride, y_stride;
    cublas_layout x[PRODUCT_HEIGHTS], y[PRODUCT_HEIGHTS];
} row_layouts;

struct matrix {
    inset_type type;
    int64_t in, out;
    bool in_out;
    bool borrowed; /* the weight is somebody else's table */
    bool comes;    /* it comes and goes (slots.c); NULL: it was never there */
    void *weight, *bias;
    size_t weight_bytes, bias_bytes;
    cublas_product products[EPILOGUES]; /* NULL: not asked for */
    cublas_layout weight_layout;
    int n_heights; /* of product_heights, the first */
    row_layouts *layouts;
    size_t n_layouts, layouts_capacity;
    /* for rows that are not PRODUCT_WIDE and rows that are: index into the device's choices, or
     * -1 */
    int chosen[EPILOGUES][2];
};

/* bytes: rows that begin at such addresses may be read by the widest accesses */
enum { PRODUCT_WIDE = 16 };

inset_status cuda_matrix_create(device *base, inset_type type, int64_t in, int64_t out,
    const void *weight, inset_type weight_type, bool in_out, const void *bias, inset_type bias_type,
    matrix **result);
inset_status cuda_matrix_over(device *base, inset_type type, int64_t in, int64_t out,
    const void *table, const void *bias, inset_type bias_type, matrix **result);
inset_status cuda_matrix_reverse(device *base, const matrix *of, matrix **result);
void cuda_matrix_free(device *base, matrix *m);
int64_t cuda_matrix_bytes(const matrix *m, bool reverse);
inset_status cuda_matrix_gelu(device *base, matrix *m, bool *allowed);
inset_status cuda_matmul(device *base, const matrix *m, const void *x, int64_t x_stride, void *y,
    int64_t y_stride, int64_t rows);
inset_status cuda_matmul_gelu(device *base, const matrix *m, const void *x, int64_t x_stride,
    void *y, int64_t y_stride, int64_t rows);
/* Makes the descriptors for such strides; cublasStatus_t. What was made is to be destroyed also
 * after a failure. */
int cuda_describe_rows(
    cuda_device *d, const matrix *m, int64_t x_stride, int64_t y_stride, row_layouts *out);
void cuda_destroy_rows(cuda_device *d, row_layouts *rows);
/* Queues one product of product_heights[height] rows; cublasStatus_t. algorithm: NULL lets cuBLASLt
 * choose. */
int cuda_multiply(cuda_device *d, const matrix *m, epilogue e, const cublas_algorithm *algorithm,
    const row_layouts *rows, int height, const void *x, void *y);
/* The error of a cublasStatus_t. doing: "a matrix product". */
inset_status cuda_product_failed(cuda_device *d, const matrix *m, int status, const char *doing);

/* ---- slots.c ------------------------------------------------------------ */

inset_status cuda_slot_create(device *base, size_t bytes, device_slot **out);
void cuda_slot_free(device *base, device_slot *s);
inset_status cuda_slot_used(device *base, device_slot *s);
inset_status cuda_slot_arrive(device *base, device_slot *s);
inset_status cuda_matmul_group(device *base, const matrix *const *group, int32_t n,
    const int32_t *offsets, const void *x, void *y, int64_t most);
inset_status cuda_matrix_empty(device *base, inset_type type, int64_t in, int64_t out, bool in_out,
    const void *bias, inset_type bias_type, const matrix *reverse_of, matrix **result);
int64_t cuda_matrix_room(const matrix *m);
inset_status cuda_matrix_put(device *base, matrix *m, device_slot *s, size_t offset,
    const void *weight, inset_type weight_type);

/* ---- float_products.c --------------------------------------------------- */

inset_status cuda_float_products(device *base, const float_product *x, int64_t n);
const void *cuda_matrix_numbers(const matrix *m);

/* ---- choose.c ----------------------------------------------------------- */

/* Sees that m->chosen[e][aligned] is there: the choice of another matrix of this shape, or a new
 * one. Not while capturing. */
inset_status cuda_choose(cuda_device *d, matrix *m, epilogue e, bool aligned);

/* ---- tiles.c ------------------------------------------------------------ */

/* Lets the kernels of attention by tiles have the shared memory that they need; those that need
 * more than the card has are taken out of the table. Which there are depends on the card alone. */
inset_status cuda_tiles_open(cuda_device *d);
/* Launches attention, with records where args are those of KERNEL_COUNT + KERNEL_ATTENTION, by
 * tiles; no more blocks than KERNEL_ATTENTION would have. *error: cudaError_t of the launch. False,
 * with nothing done, where the card has no such kernel for heads of this width. */
bool cuda_tiles_launch(
    cuda_device *d, inset_type type, const void *args, bool with_records, int *error);

#endif
