/* check.h: checks that the readers and the writer share; for the files of this folder only. */
#ifndef INSET_FILE_CHECK_H
#define INSET_FILE_CHECK_H

#include "base/base.h"

/* Whether a name from a file may stand in messages and be compared as text: not empty, at most
 * `most` bytes, no control characters. That it is UTF-8 without NUL is the JSON reader's affair. */
bool name_is_plain(const char *name, size_t most);

/* The product of `unit` (at least 1) and the extents, 0 when one of them is 0. False when an extent
 * is negative, or when those that are not 0 multiply to more than 63 bits hold: also beside a 0,
 * because strides are computed from them. */
bool shape_product(int64_t unit, int n_dimensions, const int64_t *shape, int64_t *product);

#endif
