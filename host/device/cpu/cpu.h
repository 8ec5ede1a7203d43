/* cpu.h: the CPU device, shared by cpu.c (memory, kernels, threads) and the files of its matrix
 * products (products.h). */
#ifndef INSET_DEVICE_CPU_H
#define INSET_DEVICE_CPU_H

#include "device/device.h"
#include "kernels/table.h"

/* what all matrices of a device share: oneDNN's engine and its prepared products */
typedef struct cpu_products cpu_products;

enum { CPU_SPARES = 4, CPU_SPARE_BYTES = 1 << 30 }; /* of all of them, at most */

typedef struct cpu_device {
    device base;
    /* of the widest instruction set this processor has */
    kernel_table kernels;
    const char *instructions; /* its name: "AVX-512" */
    int threads;              /* work is spread over; 1 in builds without OpenMP */
    cpu_products *products;
    /* large blocks that were released, for the next that is as large: pages are dear to get */
    void *spares[CPU_SPARES];
} cpu_device;

/* Memory aligned to 64 bytes. Large blocks are pages that cost nothing until they are touched. Each
 * takes one block of the context's allocator, so that tests can make it fail. INSET_NO_MEMORY names
 * both figures. */
inset_status cpu_memory_new(inset_context *context, size_t bytes, void **out);
/* takes NULL; `bytes` as allocated */
void cpu_memory_free(inset_context *context, void *memory, size_t bytes);

/* Matrix products; the functions of device.h, see there. */
inset_status cpu_products_open(
    inset_context *context, const kernel_table *kernels, int threads, cpu_products **out);
void cpu_products_close(inset_context *context, cpu_products *p); /* takes NULL */
inset_status cpu_matrix_create(device *d, inset_type type, int64_t in, int64_t out,
    const void *weight, inset_type weight_type, bool in_out, const void *bias, inset_type bias_type,
    matrix **result);
inset_status cpu_matrix_reverse(device *d, const matrix *of, matrix **result);
inset_status cpu_matrix_over(device *d, inset_type type, int64_t in, int64_t out, const void *table,
    const void *bias, inset_type bias_type, matrix **result);
void cpu_matrix_free(device *d, matrix *m);
int64_t cpu_matrix_bytes(const matrix *m, bool reverse);
inset_status cpu_matmul(device *d, const matrix *m, const void *x, int64_t x_stride, void *y,
    int64_t y_stride, int64_t rows);
inset_status cpu_matmul_group(device *d, const matrix *const *group, int32_t n,
    const int32_t *offsets, const void *x, void *y, int64_t most);
inset_status cpu_matrix_empty(device *d, inset_type type, int64_t in, int64_t out, bool in_out,
    const void *bias, inset_type bias_type, const matrix *reverse_of, matrix **result);
bool cpu_widens(const device *d, inset_type type);
int64_t cpu_matrix_room(const matrix *m);
inset_status cpu_matrix_put(device *d, matrix *m, device_slot *s, size_t offset, const void *weight,
    inset_type weight_type);
inset_status cpu_slot_create(device *d, size_t bytes, device_slot **out);
void cpu_slot_free(device *d, device_slot *s);
void *cpu_slot_at(const device_slot *s, size_t offset);
inset_status cpu_slot_pass(device *d, device_slot *s);
inset_status cpu_float_products(device *d, const float_product *x, int64_t n);
/* Whether a row has the same bits beside any others (device.h). */
bool cpu_products_steady(void);
/* One line: oneDNN's version, and which types have products of their own. */
void cpu_products_describe(inset_context *context, text *out);

#endif
