/* context.c: what a context says about itself and about types and tensors. (It is created and freed
 * in base/memory.c.) */
#include "api/api.h"

#include <string.h>

inset_status api_null(inset_context *context, const char *what)
{
    return error_set(context, INSET_USAGE_ERROR, "%s was expected, found NULL", what);
}

inset_status api_give_text(
    inset_context *context, text *from, char *buffer, size_t capacity, size_t *length)
{
    if (length) *length = from->length;
    if (capacity) {
        size_t n = from->length < capacity ? from->length : capacity - 1;
        if (n) memcpy(buffer, from->bytes, n);
        buffer[n] = 0;
    }
    text_free(context, from);
    return INSET_OK;
}

inset_status inset_describe(inset_context *context, char *buffer, size_t capacity, size_t *length)
{
    if (!context) return INSET_USAGE_ERROR;
    if (capacity && !buffer) return api_null(context, "a buffer of the capacity given");
    text description = {0};
    device_describe(context, &description);
    return api_give_text(context, &description, buffer, capacity, length);
}

int inset_gpu_count(inset_context *context) { return context ? device_count_cuda(context) : 0; }

static bool type_exists(inset_type type) { return type >= 0 && type < INSET_TYPE_COUNT; }

size_t inset_type_size(inset_type type) { return type_exists(type) ? type_size(type) : 0; }
const char *inset_type_name(inset_type type) { return type_exists(type) ? type_name(type) : "?"; }

int64_t inset_tensor_count(const inset_tensor *tensor)
{
    int64_t count = 1;
    for (int i = 0; i < tensor->n_dimensions; i++) count *= tensor->shape[i];
    return count;
}

double inset_tensor_element(const inset_tensor *tensor, int64_t index)
{
    return element_get(
        tensor->type, (const char *)tensor->data + (size_t)index * type_size(tensor->type));
}
