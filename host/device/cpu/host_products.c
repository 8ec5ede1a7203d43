/* host_products.c: products of plain fp32 matrices in host memory, beside those of a model's weights. */
#include <oneapi/dnnl/dnnl.h>

#include "device/device.h"

static dnnl_status_t multiply(const host_operands *x)
{
    if (!x->rows || !x->columns) return dnnl_success;
    return dnnl_sgemm(x->a_across ? 'T' : 'N', x->b_across ? 'T' : 'N', x->rows, x->columns,
        x->inner, 1.0f, x->a, x->a_stride, x->b, x->b_stride, x->add ? 1.0f : 0.0f, x->out,
        x->out_stride);
}

/* One after the other, each on all threads: a thread for each was slower. */
inset_status host_products(inset_context *context, const host_operands *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const dnnl_status_t status = multiply(&x[i]);
        if (status == dnnl_out_of_memory) return error_no_memory(context);
        if (status != dnnl_success)
            return error_set(context, INSET_DEVICE_ERROR, "oneDNN refused a product on the host");
    }
    return INSET_OK;
}
