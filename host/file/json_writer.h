/* json_writer.h: JSON text that is put together piece by piece. A failure is kept until the end. */
#ifndef INSET_FILE_JSON_WRITER_H
#define INSET_FILE_JSON_WRITER_H

#include "base/base.h"

typedef struct writer {
    inset_context *context;
    char *at;
    size_t n, capacity;
    bool failed; /* memory is out */
} writer;

void writer_bytes(writer *w, const char *bytes, size_t length);
/* printf's form, of at most 511 bytes. */
void writer_add(writer *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
void writer_text(writer *w, const char *text); /* "text", escaped */
/* What was written [*length], NUL-terminated, to be freed with memory_free; NULL where `status` is
 * a failure, which it returns, or where memory was out. */
inset_status writer_finish(writer *w, inset_status status, char **out, size_t *length);

#endif
