/* check.c: what a name and a shape must be like before anybody relies on them. */
#include "file/check.h"

#include <string.h>

bool name_is_plain(const char *name, size_t most)
{
    size_t length = strnlen(name, most + 1);
    if (!length || length > most) return false;
    for (const unsigned char *at = (const unsigned char *)name; *at; at++) {
        if (*at < 0x20 || *at == 0x7f) return false;
        /* U+0080 to U+009F: control characters too */
        if (*at == 0xc2 && at[1] >= 0x80 && at[1] < 0xa0) return false;
    }
    return true;
}

bool shape_product(int64_t unit, int n_dimensions, const int64_t *shape, int64_t *product)
{
    bool empty = false;
    for (int i = 0; i < n_dimensions; i++) {
        if (shape[i] < 0) return false;
        if (!shape[i]) empty = true;
        else if (__builtin_mul_overflow(unit, shape[i], &unit)) return false;
    }
    *product = empty ? 0 : unit;
    return true;
}
