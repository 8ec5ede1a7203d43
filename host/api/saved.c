/* saved.c: what a run left, by name and by place, and as a file. */
#include "api/api.h"
#include "file/file.h"

#include <string.h>

static inset_status check_place(inset_plan *p, size_t index)
{
    size_t count = plan_saved_count(p->plan);
    if (index < count) return INSET_OK;
    return error_set(p->context, INSET_INDEX_ERROR, "saved value %zu was asked for; there are %zu",
        index, count);
}

static inset_status check_ran(inset_plan *p)
{
    if (p->ran) return INSET_OK;
    return error_set(p->context, INSET_USAGE_ERROR,
        "the plan has saved nothing yet: it has not run, or its last run failed");
}

size_t inset_saved_count(const inset_plan *p) { return p ? plan_saved_count(p->plan) : 0; }

inset_status inset_saved_describe(inset_plan *p, size_t index, const char **name, inset_tensor *out)
{
    if (!p) return INSET_USAGE_ERROR;
    if (!out) return api_null(p->context, "a place for the tensor");
    inset_status status = check_place(p, index);
    if (status) return status;
    if (name) *name = plan_saved_name(p->plan, index);
    plan_saved_describe(p->plan, index, out);
    return INSET_OK;
}

inset_status inset_saved_at(inset_plan *p, size_t index, const char **name, inset_tensor *out)
{
    inset_tensor found;
    if (!p) return INSET_USAGE_ERROR;
    if (!out) return api_null(p->context, "a place for the tensor");
    inset_status status = check_place(p, index);
    if (!status) status = check_ran(p);
    if (!status) status = run_saved(p->run, index, &found);
    if (status) return status;
    if (name) *name = plan_saved_name(p->plan, index);
    *out = found;
    return INSET_OK;
}

inset_status inset_saved_device(
    inset_plan *p, size_t index, const char **name, inset_device_tensor *out)
{
    if (!p) return INSET_USAGE_ERROR;
    if (!out) return api_null(p->context, "a place for the tensor");
    inset_tensor tensor;
    device_share share;
    inset_status status = check_place(p, index);
    if (!status) status = check_ran(p);
    if (!status) status = run_saved_share(p->run, index, &tensor, &share);
    if (status) return status;
    if (name) *name = plan_saved_name(p->plan, index);
    const device *d = p->model->device;
    *out = (inset_device_tensor){.tensor = tensor,
        .device_type = d->is_cuda ? INSET_ON_CUDA : INSET_ON_CPU,
        .device_index = d->index,
        .memory = share.owner,
        .release = share.release};
    return INSET_OK;
}

static inset_status unknown_name(inset_plan *p, const char *name)
{
    size_t count = plan_saved_count(p->plan);
    inset_status status = error_set(
        p->context, INSET_NAME_ERROR, "nothing was saved under \"%s\"", name);
    text names = {0};
    for (size_t i = 0; i < count; i++)
        text_add(p->context, &names, "%s%s", i ? ", " : "", plan_saved_name(p->plan, i));
    error_help(p->context, "Saved are: %s.", count && names.bytes ? names.bytes : "no values");
    text_free(p->context, &names);
    return status;
}

inset_status inset_saved(inset_plan *p, const char *name, inset_tensor *out)
{
    if (!p) return INSET_USAGE_ERROR;
    if (!name) return api_null(p->context, "a name");
    for (size_t i = 0; i < plan_saved_count(p->plan); i++)
        if (!strcmp(plan_saved_name(p->plan, i), name)) return inset_saved_at(p, i, NULL, out);
    return unknown_name(p, name);
}

static inset_status to_file_tensor(inset_plan *p, size_t index, file_tensor *out)
{
    inset_tensor tensor;
    const char *name;
    inset_status status = inset_saved_at(p, index, &name, &tensor);
    if (status) return status;
    *out = (file_tensor){.name = name,
        .type = tensor.type,
        .n_dimensions = tensor.n_dimensions,
        .data = tensor.data,
        .bytes = (size_t)inset_tensor_count(&tensor) * type_size(tensor.type)};
    memcpy(out->shape, tensor.shape, sizeof tensor.shape);
    return INSET_OK;
}

inset_status inset_saved_write(inset_plan *p, const char *path)
{
    if (!p) return INSET_USAGE_ERROR;
    if (!path) return api_null(p->context, "a path");
    size_t count = plan_saved_count(p->plan);
    inset_status status = check_ran(p);
    if (status) return status;
    file_tensor *tensors = memory_new(p->context, count * sizeof *tensors);
    if (!tensors) return INSET_NO_MEMORY;
    for (size_t i = 0; i < count && !status; i++) status = to_file_tensor(p, i, &tensors[i]);
    if (!status) status = safetensors_write(p->context, path, tensors, count, NULL);
    memory_free(p->context, tensors);
    return status;
}
