/* streamed.h: models whose weights come and go in tests. */
#ifndef INSET_STREAMED_H
#define INSET_STREAMED_H

#include "run/stream.h"

/* The least that the weights can do with; it grows by a tenth until the model opens. */
static inline inset_status open_least(inset_context *context, const char *folder,
    const char *device, inset_type type, size_t *limit, struct inset_model **out)
{
    inset_status status = INSET_NO_MEMORY;
    for (*limit = 1000; status == INSET_NO_MEMORY && *limit < (size_t)1 << 34;) {
        *limit += *limit / 10;
        status = model_open(context, folder, device, type, false, false, *limit, out);
    }
    return status;
}

#endif
