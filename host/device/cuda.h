/* cuda.h: the inside of the CUDA device, shared by cuda.c (memory, copies, launches), cuda_landing.c (results that arrive later) and cuda_matmul.c (matrix
 * products). */
#ifndef INSET_CUDA_H
#define INSET_CUDA_H

#include "device/cuda_library.h"
#include "device/device.h"

/* Pinned host memory through which copies go. Uploads fill one half from the front, each piece queued as soon as it is there; when
 * the half is full, `done` is recorded behind its copies and the other half takes over, once its own copies have run. */
typedef struct staging_half {
    char *bytes;
    size_t used;
    cuda_event done;
    bool pending;                    /* `done` is recorded and nobody has waited for it */
} staging_half;

/* The algorithm that products of one shape use; see cuda_matmul.c. */
typedef struct product_choice {
    int64_t in, out;
    inset_type type;
    bool in_out, has_bias, aligned;
    bool pinned;                     /* `algorithm` serves every height; where none does, cuBLASLt chooses at each call */
    bool steady;                     /* the probe found that a row's bits depend on that row alone */
    cublas_algorithm algorithm;
} product_choice;

typedef struct cuda_device {
    device base;                     /* first, so that a device * is a cuda_device * */
    cuda_library library;
    int index;
    cuda_stream stream;              /* all work, in order */
    kernel_table kernels;
    staging_half halves[2];
    int half;                        /* the one being filled */
    cublas_handle products;
    void *workspace;                 /* of WORKSPACE_BYTES, for one product at a time */
    product_choice *choices;
    size_t n_choices, choices_capacity;
    bool capturing;                  /* between capture_begin and capture_end: work is written down, not run */
} cuda_device;

enum { STAGING_BYTES = 4 << 20, WORKSPACE_BYTES = 4 << 20 };

/* Makes the device the calling thread's; every function of the device begins with it. */
inset_status cuda_enter(cuda_device *d);
/* INSET_DEVICE_ERROR with the driver's words; takes CUDA's sticky error back. doing: "waiting for the device". */
inset_status cuda_failed(cuda_device *d, int error, const char *doing);

/* The device functions that products use too. */
inset_status cuda_allocate(device *base, size_t bytes, void **out);
void cuda_release(device *base, void *memory, size_t bytes);
inset_status cuda_upload(device *base, void *to, const void *from, size_t bytes);
inset_status cuda_download(device *base, void *to, const void *from, size_t bytes);
/* Uploads `count` elements of a float type, converted to another on the way through the staging memory. */
inset_status cuda_upload_as(cuda_device *d, void *to, inset_type type, const void *from, inset_type from_type, int64_t count);

/* cuda_landing.c */
inset_status cuda_landing_create(device *base, device_landing **out);
void cuda_landing_free(device *base, device_landing *l);
inset_status cuda_landing_start(device *base, device_landing *l, const void *from, size_t bytes);
inset_status cuda_landing_wait(device *base, device_landing *l, const void **at);

/* cuda_matmul.c */
inset_status cuda_matrix_create(device *base, inset_type type, int64_t in, int64_t out, const void *weight, inset_type weight_type,
                                bool in_out, const void *bias, inset_type bias_type, matrix **result);
void cuda_matrix_free(device *base, matrix *m);
inset_status cuda_matmul(device *base, const matrix *m, const void *x, int64_t x_stride, void *y, int64_t y_stride, int64_t rows);

#endif
