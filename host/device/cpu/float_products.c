/* float_products.c: products of plain fp32 matrices, beside those of a model's weights. */
#include <oneapi/dnnl/dnnl.h>

#include "device/cpu/cpu.h"

static dnnl_status_t multiply(const float_product *x)
{
    if (!x->rows || !x->columns) return dnnl_success;
    return dnnl_sgemm('N', x->b_across ? 'T' : 'N', x->rows, x->columns, x->inner, 1.0f, x->a,
        x->a_stride, x->b, x->b_stride, 0.0f, x->out, x->out_stride);
}

/* One after the other, each on all threads: a thread for each was slower. */
inset_status cpu_float_products(device *d, const float_product *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const dnnl_status_t status = multiply(&x[i]);
        if (status == dnnl_out_of_memory) return error_no_memory(d->context);
        if (status != dnnl_success)
            return error_set(d->context, INSET_DEVICE_ERROR, "oneDNN refused a product");
    }
    return INSET_OK;
}
