/* tensors.cc: arrays of other libraries as the C API's tensors and back, on the CPU and on a
 * GPU. */
#include "tensors.h"

bool type_of(nb::dlpack::dtype d, inset_type *out)
{
    typedef nb::dlpack::dtype_code code;
    const struct {
        code kind;
        int bits;
        inset_type type;
    } known[] = {{code::Float, 32, INSET_F32}, {code::Bfloat, 16, INSET_BF16},
        {code::Float, 16, INSET_F16}, {code::Float, 64, INSET_F64}, {code::Int, 64, INSET_I64},
        {code::Int, 32, INSET_I32}, {code::Int, 16, INSET_I16}, {code::Int, 8, INSET_I8},
        {code::UInt, 8, INSET_U8}, {code::Bool, 8, INSET_BOOL}, {code::UInt, 16, INSET_I16}};
    for (const auto &k : known)
        if ((int)d.code == (int)k.kind && d.bits == k.bits && d.lanes == 1)
            return *out = k.type, true;
    return false;
}

nb::dlpack::dtype dtype_of(inset_type type)
{
    const uint8_t bits = (uint8_t)(8 * inset_type_size(type));
    switch (type) {
    case INSET_F32:
    case INSET_F16:
    case INSET_F64: return {(uint8_t)nb::dlpack::dtype_code::Float, bits, 1};
    case INSET_BF16: return {(uint8_t)nb::dlpack::dtype_code::Bfloat, bits, 1};
    case INSET_U8: return {(uint8_t)nb::dlpack::dtype_code::UInt, bits, 1};
    case INSET_BOOL: return {(uint8_t)nb::dlpack::dtype_code::Bool, bits, 1};
    default: return {(uint8_t)nb::dlpack::dtype_code::Int, bits, 1};
    }
}

inset_device_tensor tensor_of(const any_array &a)
{
    inset_device_tensor t = {};
    t.tensor.data = a.data();
    t.tensor.n_dimensions = (int32_t)a.ndim();
    t.device_type = a.device_type();
    t.device_index = a.device_id();
    if (a.ndim() > INSET_MAX_DIMENSIONS || !type_of(a.dtype(), &t.tensor.type))
        fail("TypeError",
            "an array of up to 8 dimensions of floats, integers or bools was expected");
    for (size_t i = 0; i < a.ndim(); i++) t.tensor.shape[i] = (int64_t)a.shape(i);
    return t;
}

nb::object give(inset_device_tensor &tensor)
{
    auto *own = new inset_device_tensor(tensor);
    nb::capsule owner(own, [](void *p) noexcept {
        inset_device_tensor_free((inset_device_tensor *)p);
        delete (inset_device_tensor *)p;
    });
    size_t shape[INSET_MAX_DIMENSIONS];
    for (int i = 0; i < own->tensor.n_dimensions; i++) shape[i] = (size_t)own->tensor.shape[i];
    return nb::cast(nb::ndarray<>((void *)own->tensor.data, (size_t)own->tensor.n_dimensions, shape,
        owner, nullptr, dtype_of(own->tensor.type), own->device_type, own->device_index));
}
