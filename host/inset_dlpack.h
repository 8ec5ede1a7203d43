/* inset_dlpack.h: inset's tensors as DLPack's and back, for programs that have DLPack's header
 * (<dlpack/dlpack.h>, Debian's libdlpack-dev). The library itself does not need it: these are
 * inline functions over inset_saved_device and inset_external_device.
 *
 *     DLManagedTensor *logits = NULL;
 *     status = inset_saved_dlpack(plan, 0, &logits);      on the model's device
 *     ...                                                 read by whoever takes DLPack
 *     logits->deleter(logits); */
#ifndef INSET_DLPACK_H
#define INSET_DLPACK_H

#include <dlpack/dlpack.h>
#include <stdlib.h>
#include <string.h>

#include "inset.h"

/* False for a type that inset has not got. */
static inline int inset_type_of_dlpack(DLDataType from, inset_type *out)
{
    static const struct {
        uint8_t code, bits;
        inset_type type;
    } known[] = {{kDLFloat, 32, INSET_F32}, {kDLBfloat, 16, INSET_BF16}, {kDLFloat, 16, INSET_F16},
        {kDLFloat, 64, INSET_F64}, {kDLInt, 64, INSET_I64}, {kDLInt, 32, INSET_I32},
        {kDLInt, 16, INSET_I16}, {kDLInt, 8, INSET_I8}, {kDLUInt, 8, INSET_U8},
        {6, 8, INSET_BOOL} /* kDLBool, which older headers have not got */};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (from.code == known[i].code && from.bits == known[i].bits && from.lanes == 1)
            return *out = known[i].type, 1;
    return 0;
}

static inline DLDataType inset_type_to_dlpack(inset_type type)
{
    DLDataType to = {kDLInt, (uint8_t)(8 * inset_type_size(type)), 1};
    if (type == INSET_F32 || type == INSET_F16 || type == INSET_F64) to.code = kDLFloat;
    if (type == INSET_BF16) to.code = kDLBfloat;
    if (type == INSET_U8) to.code = kDLUInt;
    if (type == INSET_BOOL) to.code = 6;
    return to;
}

typedef struct inset_dlpack {
    DLManagedTensor managed; /* first: the deleter gets its address */
    inset_device_tensor from;
} inset_dlpack;

static inline void inset_dlpack_delete(DLManagedTensor *managed)
{
    inset_dlpack *all = (inset_dlpack *)managed;
    inset_device_tensor_free(&all->from);
    free(all);
}

/* Saved value `index` of the last run, on the model's device: the caller's, until its deleter.
 * Errors as inset_saved_device's; INSET_NO_MEMORY. */
static inline inset_status inset_saved_dlpack(inset_plan *plan, size_t index, DLManagedTensor **out)
{
    inset_dlpack *all = (inset_dlpack *)calloc(1, sizeof *all);
    if (!all) return INSET_NO_MEMORY;
    inset_status status = inset_saved_device(plan, index, NULL, &all->from);
    if (status) {
        free(all);
        return status;
    }
    DLTensor *t = &all->managed.dl_tensor;
    t->data = (void *)(uintptr_t)all->from.tensor.data;
    t->device.device_type = (DLDeviceType)all->from.device_type;
    t->device.device_id = all->from.device_index;
    t->ndim = all->from.tensor.n_dimensions;
    t->dtype = inset_type_to_dlpack(all->from.tensor.type);
    t->shape = all->from.tensor.shape;
    all->managed.deleter = inset_dlpack_delete;
    *out = &all->managed;
    return INSET_OK;
}

/* Whether the numbers lie one after the other, row by row. */
static inline int inset_dlpack_is_dense(const DLTensor *t)
{
    int64_t step = 1;
    for (int i = t->ndim - 1; i >= 0 && t->strides; i--) {
        if (t->shape[i] != 1 && t->strides[i] != step) return 0;
        step *= t->shape[i];
    }
    return 1;
}

/* A value of the trace from somebody's tensor, whose numbers are copied: it stays the caller's.
 *   stream  as inset_external_device has it
 * INSET_TYPE_ERROR: a type that inset has not got, more than 8 dimensions, or numbers that do not
 * lie one after the other (the context's message is then not set); else as
 * inset_external_device. */
static inline inset_status inset_external_dlpack(
    inset_trace *trace, const DLManagedTensor *from, void *stream, inset_value **out)
{
    const DLTensor *t = &from->dl_tensor;
    inset_device_tensor in;
    memset(&in, 0, sizeof in);
    if (t->ndim > INSET_MAX_DIMENSIONS || !inset_dlpack_is_dense(t)
        || !inset_type_of_dlpack(t->dtype, &in.tensor.type))
        return INSET_TYPE_ERROR;
    in.tensor.data = (const char *)t->data + t->byte_offset;
    in.tensor.n_dimensions = t->ndim;
    for (int i = 0; i < t->ndim; i++) in.tensor.shape[i] = t->shape[i];
    in.device_type = (int32_t)t->device.device_type;
    in.device_index = t->device.device_id;
    return inset_external_device(trace, &in, stream, out);
}

#endif
