/* piece.c: what a token stands for, as people read it. */
#include <string.h>

#include "text/tokenizer.h"

int64_t tokenizer_size(const tokenizer *t) { return t->n_ids; }

/* The bytes of "<0x0A>": one; -1 for other texts. */
static int fallback_byte(const tokenizer *t, int32_t id)
{
    for (int byte = 0; t->byte_fallback && byte < 256; byte++)
        if (t->bytes[byte] == id) return byte;
    return -1;
}

static void add_byte(const tokenizer *t, text *raw, int byte)
{
    text_add(t->context, raw, "%c", byte);
}

/* "\x93" for what is no UTF-8 and "\n", "\x07" for control characters. */
static void add_shown(const tokenizer *t, const char *bytes, size_t length, text *out)
{
    for (size_t i = 0; i < length;) {
        int n;
        const int32_t c = utf8_next(bytes + i, length - i, &n);
        if (c == '\n') text_add(t->context, out, "\\n");
        else if (c == '\t') text_add(t->context, out, "\\t");
        else if (c == '\r') text_add(t->context, out, "\\r");
        else if (c < 0 || c < 0x20 || (c >= 0x7f && c < 0xa0)) {
            for (int k = 0; k < n; k++)
                text_add(t->context, out, "\\x%02x", (unsigned)(unsigned char)bytes[i + (size_t)k]);
        } else text_add(t->context, out, "%.*s", n, bytes + i);
        i += (size_t)n;
    }
}

/* Letters back to bytes. Code units of added tokens may be no letters: they stay. */
static void add_letters(const tokenizer *t, const char *letters, size_t length, text *raw)
{
    for (size_t i = 0; i < length;) {
        int n;
        const int byte = byte_of_letter(utf8_next(letters + i, length - i, &n));
        if (byte > 0) add_byte(t, raw, byte);
        else if (byte < 0) text_add(t->context, raw, "%.*s", n, letters + i);
        i += (size_t)n;
    }
}

static bool is_added(const tokenizer *t, int32_t id)
{
    for (size_t i = 0; i < t->n_added; i++)
        if (t->added[i].id == id) return true;
    return false;
}

void tokenizer_piece(const tokenizer *t, int64_t id, text *out)
{
    static const char space[] = "\xe2\x96\x81";
    text raw = {0};
    if (id < 0 || id >= t->n_ids || !t->texts[id]) {
        text_add(t->context, out, "#%lld", (long long)id);
        return;
    }
    const char *of = t->texts[id];
    const size_t length = t->lengths[id];
    const int byte = fallback_byte(t, (int32_t)id);
    if (byte > 0) add_byte(t, &raw, byte);
    else if (byte < 0 && t->bytes_as_letters && !is_added(t, (int32_t)id))
        add_letters(t, of, length, &raw);
    else if (byte < 0)
        for (size_t i = 0; i < length;) {
            const bool is_space = length - i >= 3 && !memcmp(of + i, space, 3)
                                  && !t->bytes_as_letters;
            if (is_space) text_add(t->context, &raw, " ");
            else add_byte(t, &raw, of[i]);
            i += is_space ? 3 : 1;
        }
    if (raw.length) add_shown(t, raw.bytes, raw.length, out);
    else text_add(t->context, out, "\\x00");
    text_free(t->context, &raw);
}
