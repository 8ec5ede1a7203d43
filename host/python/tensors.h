/* tensors.h: arrays of other libraries as the C API's tensors and back. */
#ifndef INSET_PYTHON_TENSORS_H
#define INSET_PYTHON_TENSORS_H

#include <nanobind/ndarray.h>

#include "handles.h"

/* dense, wherever it lies */
typedef nb::ndarray<nb::ro, nb::c_contig> any_array;

/* What an array's elements are; false for what inset has no type for. 16-bit unsigned integers
 * stand for bits of bfloat16, which numpy has not got. */
bool type_of(nb::dlpack::dtype d, inset_type *out);
nb::dlpack::dtype dtype_of(inset_type type);
/* An array's tensor; the array stays the owner of its numbers. TypeError. */
inset_device_tensor tensor_of(const any_array &a);
/* A tensor as a capsule of DLPack's, which it belongs to from now on. */
nb::object give(inset_device_tensor &tensor);

#endif
