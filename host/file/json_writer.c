/* json_writer.c: JSON, piece by piece. */
#include "file/json_writer.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void writer_bytes(writer *w, const char *bytes, size_t length)
{
    if (w->failed) return;
    if (!array_extend(w->context, &w->at, &w->capacity, w->n + length + 1, 1)) {
        w->failed = true;
        return;
    }
    memcpy(w->at + w->n, bytes, length);
    w->n += length;
    w->at[w->n] = 0;
}

void writer_add(writer *w, const char *format, ...)
{
    char text[512];
    va_list list;
    va_start(list, format);
    const int n = vsnprintf(text, sizeof text, format, list);
    va_end(list);
    writer_bytes(w, text, (size_t)(n < (int)sizeof text ? n : (int)sizeof text - 1));
}

void writer_text(writer *w, const char *text)
{
    writer_bytes(w, "\"", 1);
    for (; *text; text++) {
        const unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') writer_add(w, "\\%c", c);
        else if (c < 0x20) writer_add(w, "\\u%04x", c);
        else writer_bytes(w, text, 1);
    }
    writer_bytes(w, "\"", 1);
}

inset_status writer_finish(writer *w, inset_status status, char **out, size_t *length)
{
    if (!status && w->failed) status = INSET_NO_MEMORY;
    *out = status ? NULL : w->at;
    *length = status ? 0 : w->n;
    if (status) memory_free(w->context, w->at);
    return status;
}
