/* error.c: the message of the last failure, and growing texts. */
#include "base/base.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *inset_status_name(inset_status status)
{
    switch (status) {
    case INSET_OK: return "OK";
    case INSET_NO_MEMORY: return "MemoryError";
    case INSET_SYNTAX_ERROR: return "SyntaxError";
    case INSET_NAME_ERROR: return "NameError";
    case INSET_UNKNOWN_SITE: return "UnknownSiteError";
    case INSET_OUT_OF_ORDER: return "OutOfOrderError";
    case INSET_MISSED_PROVIDER: return "MissedProviderError";
    case INSET_INDEX_ERROR: return "IndexError";
    case INSET_VALUE_ERROR: return "ValueError";
    case INSET_SHAPE_ERROR: return "ShapeError";
    case INSET_TYPE_ERROR: return "TypeError";
    case INSET_FILE_ERROR: return "FileError";
    case INSET_DEVICE_ERROR: return "DeviceError";
    case INSET_USAGE_ERROR: return "UsageError";
    case INSET_STOPPED: return "StoppedError";
    }
    return "Error";
}

const char *inset_version(void) { return INSET_VERSION; }

/* Texts allocate past the failure messages' own path: a text that cannot grow keeps what it has. */
static bool text_reserve(inset_context *context, text *t, size_t need)
{
    if (need <= t->capacity) return true;
    size_t capacity = t->capacity ? t->capacity : 128;
    while (capacity < need) capacity *= 2;
    char *bytes = context->allocator.resize(context->allocator.user, t->bytes, capacity);
    if (!bytes) return false;
    if (!t->bytes) context->live_blocks++;
    t->bytes = bytes;
    t->capacity = capacity;
    return true;
}

static void text_add_list(inset_context *context, text *t, const char *format, va_list list)
{
    va_list again;
    va_copy(again, list);
    int length = vsnprintf(NULL, 0, format, list);
    if (length >= 0 && text_reserve(context, t, t->length + (size_t)length + 1)) {
        vsnprintf(t->bytes + t->length, (size_t)length + 1, format, again);
        t->length += (size_t)length;
    }
    va_end(again);
}

void text_add(inset_context *context, text *t, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    text_add_list(context, t, format, list);
    va_end(list);
}

void text_clear(text *t)
{
    t->length = 0;
    if (t->bytes) t->bytes[0] = 0;
}

void text_free(inset_context *context, text *t)
{
    if (t->bytes) {
        context->allocator.resize(context->allocator.user, t->bytes, 0);
        context->live_blocks--;
    }
    *t = (text){0};
}

inset_status error_set(inset_context *context, inset_status status, const char *format, ...)
{
    va_list list;
    context->status = status;
    text_clear(&context->place);
    text_clear(&context->help);
    text_clear(&context->sentence);
    va_start(list, format);
    text_add_list(context, &context->sentence, format, list);
    va_end(list);
    return status;
}

void error_help(inset_context *context, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    text_add_list(context, &context->help, format, list);
    va_end(list);
    text_add(context, &context->help, "\n");
}

void error_place(inset_context *context, const char *format, ...)
{
    va_list list;
    text_clear(&context->place);
    va_start(list, format);
    text_add_list(context, &context->place, format, list);
    va_end(list);
}

inset_status error_no_memory(inset_context *context)
{
    context->status = INSET_NO_MEMORY;
    text_clear(&context->place);
    text_clear(&context->help);
    text_clear(&context->sentence);
    return INSET_NO_MEMORY;
}

static const char *bytes_of(const text *t) { return t->bytes ? t->bytes : ""; }

const char *inset_message(inset_context *context)
{
    if (!context || context->status == INSET_OK) return "";
    text_clear(&context->message);
    const char *sentence = bytes_of(&context->sentence);
    if (!*sentence) sentence = "out of memory on the host";
    text_add(context, &context->message, "%s%s%s: %s", bytes_of(&context->place),
        bytes_of(&context->help), inset_status_name(context->status), sentence);
    return context->message.length ? context->message.bytes
                                   : "MemoryError: out of memory on the host";
}

int text_distance(const char *a, const char *b, int limit)
{
    enum { LONGEST = 64 };
    int n = (int)strlen(a), m = (int)strlen(b), row[LONGEST + 1];
    if (n > LONGEST || m > LONGEST || abs(n - m) > limit) return limit + 1;
    for (int j = 0; j <= m; j++) row[j] = j;
    for (int i = 1; i <= n; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= m; j++) {
            int change = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            int least = row[j] < row[j - 1] ? row[j] : row[j - 1];
            row[j] = change < least + 1 ? change : least + 1;
        }
    }
    return row[m] <= limit ? row[m] : limit + 1;
}
