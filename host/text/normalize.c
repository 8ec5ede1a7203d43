/* normalize.c: normal forms and what else changes a text's letters, over utf8proc, the only file
 * that includes it; and what a code point is. */
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "text/tokenizer.h"

/* ---- code points --------------------------------------------------------- */

int32_t utf8_next(const char *text, size_t length, int *bytes)
{
    utf8proc_int32_t c = 0;
    const utf8proc_ssize_t n = utf8proc_iterate(
        (const utf8proc_uint8_t *)text, (utf8proc_ssize_t)length, &c);
    *bytes = n > 0 ? (int)n : 1;
    return n > 0 ? c : -1;
}

size_t utf8_valid(const char *text, size_t length)
{
    size_t at = 0;
    while (at < length) {
        int bytes;
        if (utf8_next(text + at, length - at, &bytes) < 0) return at;
        at += (size_t)bytes;
    }
    return at;
}

bool is_white_space(int32_t c)
{
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680
           || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f
           || c == 0x205f || c == 0x3000;
}

static bool is_mark(int category)
{
    return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC
           || category == UTF8PROC_CATEGORY_ME;
}

bool is_numeric(int32_t c)
{
    const int category = utf8proc_category(c);
    return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL
           || category == UTF8PROC_CATEGORY_NO;
}

bool is_word(int32_t c)
{
    const int category = utf8proc_category(c);
    return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO)
           || is_mark(category) || category == UTF8PROC_CATEGORY_ND
           || category == UTF8PROC_CATEGORY_NL || category == UTF8PROC_CATEGORY_PC;
}

/* ---- bytes as letters ---------------------------------------------------- */

/* The bytes that stand for themselves; the others, in order, are 0x100, 0x101, ... */
static bool stands_for_itself(int byte)
{
    return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

static int letter_number(int byte)
{
    if (stands_for_itself(byte)) return byte;
    int before = 0;
    for (int i = 0; i < byte; i++) before += !stands_for_itself(i);
    return 0x100 + before;
}

int letter_of_byte(unsigned char byte, char *out)
{
    return (int)utf8proc_encode_char(letter_number(byte), (utf8proc_uint8_t *)out);
}

int byte_of_letter(int32_t c)
{
    if (c >= 0 && c < 0x100) return stands_for_itself(c) ? c : -1;
    for (int byte = 0; byte < 0x100; byte++)
        if (!stands_for_itself(byte) && letter_number(byte) == c) return byte;
    return -1;
}

char *letters_of(arena *a, const char *text, size_t length, size_t *out_length)
{
    char *to = arena_new(a, 2 * length + 1), *at = to;
    for (size_t i = 0; to && i < length; i++) at += letter_of_byte((unsigned char)text[i], at);
    *out_length = to ? (size_t)(at - to) : 0;
    return to;
}

/* ---- normalizers --------------------------------------------------------- */

static inset_status take(arena *a, const char *made, size_t length, piece *p)
{
    char *copy = arena_new(a, length + 1);
    if (!copy) return INSET_NO_MEMORY;
    memcpy(copy, made, length);
    p->text = copy;
    p->length = length;
    return INSET_OK;
}

static inset_status normal_form(tokenizer *t, arena *a, part_kind kind, piece *p)
{
    const int compose = kind == NORMAL_NFC || kind == NORMAL_NFKC ? UTF8PROC_COMPOSE
                                                                  : UTF8PROC_DECOMPOSE,
              compatible = kind == NORMAL_NFKC || kind == NORMAL_NFKD ? UTF8PROC_COMPAT : 0;
    utf8proc_uint8_t *made = NULL;
    const utf8proc_ssize_t length = utf8proc_map((const utf8proc_uint8_t *)p->text,
        (utf8proc_ssize_t)p->length, &made,
        (utf8proc_option_t)(UTF8PROC_STABLE | compose | compatible));
    if (length < 0) return error_no_memory(t->context);
    const inset_status status = take(a, (const char *)made, (size_t)length, p);
    free(made);
    return status;
}

/* Each code point in the place of which others stand, or none. */
static inset_status map_points(arena *a, part_kind kind, piece *p)
{
    char *to = arena_new(a, 4 * p->length + 1), *at = to;
    if (!to) return INSET_NO_MEMORY;
    for (size_t i = 0; i < p->length;) {
        int bytes;
        int32_t c = utf8_next(p->text + i, p->length - i, &bytes);
        i += (size_t)bytes;
        if (kind == NORMAL_STRIP_ACCENTS && is_mark(utf8proc_category(c))) continue;
        if (kind == NORMAL_LOWERCASE && c == 0x130) { /* the one with two */
            at += utf8proc_encode_char('i', (utf8proc_uint8_t *)at);
            c = 0x307;
        } else if (kind == NORMAL_LOWERCASE) c = utf8proc_tolower(c);
        at += utf8proc_encode_char(c, (utf8proc_uint8_t *)at);
    }
    p->text = to;
    p->length = (size_t)(at - to);
    return INSET_OK;
}

static void strip(const part *n, piece *p)
{
    int bytes;
    while (n->left && p->length && is_white_space(utf8_next(p->text, p->length, &bytes)))
        p->text += bytes, p->length -= (size_t)bytes;
    while (n->right && p->length) {
        size_t last = p->length - 1;
        while (last > 0 && (p->text[last] & 0xc0) == 0x80) last--;
        if (!is_white_space(utf8_next(p->text + last, p->length - last, &bytes))) return;
        p->length = last;
    }
}

/* Every match by the part's text; *failed: the pattern took too long. */
static bool replace_all(tokenizer *t, const part *n, const piece *p, byte_list *made, bool *failed)
{
    const size_t more = strlen(n->text);
    size_t from = 0, done = 0, start, end;
    int found = 0;
    while (from <= p->length
           && (found = regex_find(n->pattern, p->text, p->length, from, &start, &end)) > 0) {
        if (!byte_list_add(t->context, made, p->text + done, start - done)
            || !byte_list_add(t->context, made, n->text, more))
            return false;
        done = from = end;
        if (end > start) continue;
        if (end == p->length) break;
        int bytes; /* an empty match: go on behind the next code point */
        utf8_next(p->text + end, p->length - end, &bytes);
        from = end + (size_t)bytes;
    }
    *failed = found < 0;
    return byte_list_add(t->context, made, p->text + done, p->length - done);
}

static inset_status replace(tokenizer *t, arena *a, const part *n, piece *p)
{
    byte_list made = {0};
    bool failed = false;
    inset_status status = INSET_NO_MEMORY;
    if (replace_all(t, n, p, &made, &failed)) status = take(a, made.at, made.n, p);
    if (!status && failed)
        status = error_set(t->context, INSET_VALUE_ERROR,
            "%s: a pattern of its normalizer takes too long on this text", t->name);
    memory_free(t->context, made.at);
    return status;
}

static inset_status prepend(arena *a, const part *n, piece *p)
{
    const size_t more = strlen(n->text);
    if (!p->length) return INSET_OK;
    char *to = arena_new(a, more + p->length + 1);
    if (!to) return INSET_NO_MEMORY;
    memcpy(to, n->text, more);
    memcpy(to + more, p->text, p->length);
    p->text = to;
    p->length += more;
    return INSET_OK;
}

inset_status normalize_piece(tokenizer *t, arena *a, piece *p)
{
    inset_status status = INSET_OK;
    for (size_t i = 0; i < t->n_normalizers && !status; i++) {
        const part *n = &t->normalizers[i];
        switch (n->kind) {
        case NORMAL_LOWERCASE:
        case NORMAL_STRIP_ACCENTS: status = map_points(a, n->kind, p); break;
        case NORMAL_STRIP: strip(n, p); break;
        case NORMAL_REPLACE: status = replace(t, a, n, p); break;
        case NORMAL_PREPEND: status = prepend(a, n, p); break;
        case NORMAL_BYTES:
            p->text = letters_of(a, p->text, p->length, &p->length);
            status = p->text ? INSET_OK : INSET_NO_MEMORY;
            break;
        default: status = normal_form(t, a, n->kind, p);
        }
    }
    return status;
}
