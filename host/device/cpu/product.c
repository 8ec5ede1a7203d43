/* product.c: products of plain fp32 matrices in host memory, beside those of a model's weights. */
#include <oneapi/dnnl/dnnl.h>

#include "device/device.h"

inset_status host_product(inset_context *context, const host_operands *x)
{
    if (!x->rows || !x->columns) return INSET_OK;
    const dnnl_status_t status = dnnl_sgemm(x->a_across ? 'T' : 'N', x->b_across ? 'T' : 'N',
        x->rows, x->columns, x->inner, 1.0f, x->a, x->a_stride, x->b, x->b_stride,
        x->add ? 1.0f : 0.0f, x->out, x->out_stride);
    if (status == dnnl_success) return INSET_OK;
    if (status == dnnl_out_of_memory) return error_no_memory(context);
    return error_set(context, INSET_DEVICE_ERROR,
        "oneDNN refused a product of [%lld, %lld] and [%lld, %lld]", (long long)x->rows,
        (long long)x->inner, (long long)x->inner, (long long)x->columns);
}
