/* device_tensors.c: tensors that come in from the model's device and stay there (those that go out:
 * saved.c). */
#include "api/api.h"

#include <stdio.h>

void inset_device_tensor_free(inset_device_tensor *tensor)
{
    if (!tensor) return;
    if (tensor->release) tensor->release(tensor->memory);
    *tensor = (inset_device_tensor){.device_type = tensor->device_type};
}

static void place_text(const inset_device_tensor *tensor, char *out, size_t size)
{
    if (tensor->device_type == INSET_ON_CPU) snprintf(out, size, "cpu");
    else if (tensor->device_type == INSET_ON_CUDA)
        snprintf(out, size, "cuda:%d", (int)tensor->device_index);
    else snprintf(out, size, "a device of DLPack's type %d", (int)tensor->device_type);
}

/* INSET_OK when the tensor's numbers are where the model runs. */
static inset_status check_place(const inset_model *model, const inset_device_tensor *tensor)
{
    const device *d = model->device;
    char place[64];
    if (d && d->is_cuda && tensor->device_type == INSET_ON_CUDA && tensor->device_index == d->index)
        return INSET_OK;
    place_text(tensor, place, sizeof place);
    return error_set(model->context, INSET_DEVICE_ERROR,
        "the tensor is on %s and the model on %s: a tensor goes in from the model's device or from "
        "the CPU",
        place, d ? d->name : "none");
}

/* The trace's own copy, on the device. */
static inset_status keep(inset_trace *t, const inset_tensor *tensor, void *stream, const void **out)
{
    device *d = t->model->device;
    kept_tensor *kept = memory_new(t->context, sizeof *kept);
    if (!kept) return INSET_NO_MEMORY;
    kept->bytes = (size_t)inset_tensor_count(tensor) * type_size(tensor->type);
    inset_status status = device_wait_for(d, stream);
    if (!status) status = device_allocate(d, kept->bytes ? kept->bytes : 1, &kept->data);
    if (status) {
        memory_free(t->context, kept);
        return status;
    }
    kept->next = t->kept;
    t->kept = kept;
    *out = kept->data;
    status = device_copy(d, kept->data, tensor->data, kept->bytes);
    /* the tensor is the caller's again on return */
    return status ? status : device_synchronize(d);
}

void api_free_kept(inset_trace *t)
{
    for (kept_tensor *k = t->kept, *next; k; k = next) {
        next = k->next;
        device_release(t->model->device, k->data, k->bytes ? k->bytes : 1);
        memory_free(t->context, k);
    }
}

inset_status inset_external_device(
    inset_trace *t, const inset_device_tensor *tensor, void *stream, inset_value **out)
{
    operand made;
    const void *there = NULL;
    if (!t) return INSET_USAGE_ERROR;
    if (!out) return api_null(t->context, "a place for the value");
    if (!tensor) return api_null(t->context, "a tensor");
    if (tensor->device_type == INSET_ON_CPU) return inset_external(t, &tensor->tensor, out);
    inset_status status = api_check_tensor(t->context, &tensor->tensor);
    if (!status && t->edits_model)
        status = error_set(t->context, INSET_USAGE_ERROR,
            "an edit of a model keeps numbers in host memory: bring this tensor there first");
    if (!status) status = check_place(t->model, tensor);
    if (!status) status = keep(t, &tensor->tensor, stream, &there);
    if (status) return status;
    status = trace_external_there(t->trace, tensor->tensor.type, tensor->tensor.n_dimensions,
        tensor->tensor.shape, there, &made);
    return api_give(t, status, &made, out);
}
