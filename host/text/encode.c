/* encode.c: a text through all parts of a tokenizer, added tokens first. */
#include <string.h>

#include "text/tokenizer.h"

/* ---- added tokens -------------------------------------------------------- */

static bool is_word_before(const char *text, size_t at)
{
    if (!at) return false;
    size_t from = at - 1;
    while (from > 0 && (text[from] & 0xc0) == 0x80) from--;
    int bytes;
    return is_word(utf8_next(text + from, at - from, &bytes));
}

static bool is_word_at(const char *text, size_t length, size_t at)
{
    int bytes;
    return at < length && is_word(utf8_next(text + at, length - at, &bytes));
}

/* The longest added token that begins at a place; NULL: none. */
static const added_token *token_at(
    const tokenizer *t, bool normalized, const char *text, size_t length, size_t at)
{
    const added_token *best = NULL;
    for (size_t i = 0; i < t->n_added; i++) {
        const added_token *a = &t->added[i];
        if (a->normalized != normalized || !a->length || a->length > length - at
            || (best && a->length <= best->length) || memcmp(a->text, text + at, a->length))
            continue;
        best = a;
    }
    return best;
}

/* White space that belongs to a token: start moves to the left, not before `done`; end to the
 * right. */
static void take_spaces(
    const added_token *a, const char *text, size_t length, size_t done, size_t *start, size_t *end)
{
    int bytes;
    while (a->lstrip && *start > done) {
        size_t from = *start - 1;
        while (from > done && (text[from] & 0xc0) == 0x80) from--;
        if (!is_white_space(utf8_next(text + from, *start - from, &bytes))) break;
        *start = from;
    }
    while (
        a->rstrip && *end < length && is_white_space(utf8_next(text + *end, length - *end, &bytes)))
        *end += (size_t)bytes;
}

/* Text between added tokens, and these. */
static inset_status find_added(tokenizer *t, bool normalized, const piece *of, piece_list *out)
{
    size_t done = 0;
    bool fine = true;
    for (size_t at = 0; at < of->length && fine;) {
        const added_token *a = token_at(t, normalized, of->text, of->length, at);
        if (!a) {
            at++;
            continue;
        }
        size_t start = at, end = at + a->length;
        at = end;
        if (a->single_word
            && (is_word_before(of->text, start) || is_word_at(of->text, of->length, end)))
            continue;
        take_spaces(a, of->text, of->length, done, &start, &end);
        fine = piece_add(t, out, of->text + done, start - done, -1, of->first && !done)
               && piece_add(t, out, of->text + start, end - start, a->id, of->first && !start);
        done = at = end;
    }
    fine = fine && piece_add(t, out, of->text + done, of->length - done, -1, of->first && !done);
    return fine ? INSET_OK : INSET_NO_MEMORY;
}

/* ---- all parts ----------------------------------------------------------- */

static inset_status find_and_normalize(
    tokenizer *t, arena *a, const char *text, size_t length, piece_list *out)
{
    piece_list raw = {0};
    inset_status status = find_added(t, false, &(piece){text, length, -1, true}, &raw);
    for (size_t i = 0; i < raw.n && !status; i++) {
        piece *p = &raw.at[i];
        if (p->id >= 0)
            status = piece_add(t, out, p->text, p->length, p->id, p->first) ? INSET_OK
                                                                            : INSET_NO_MEMORY;
        else if (!(status = normalize_piece(t, a, p))) status = find_added(t, true, p, out);
    }
    piece_list_free(t, &raw);
    return status;
}

static inset_status split_all(tokenizer *t, arena *a, piece_list *list)
{
    inset_status status = INSET_OK;
    for (size_t i = 0; i < t->n_splits && !status; i++) {
        piece_list made = {0};
        status = split_pieces(t, a, &t->splits[i], list, &made);
        piece_list_free(t, list);
        *list = made;
    }
    return status;
}

static inset_status add_ids(tokenizer *t, const int32_t *ids, size_t n, id_list *out)
{
    for (size_t i = 0; i < n; i++)
        if (!id_list_add(t->context, out, ids[i])) return INSET_NO_MEMORY;
    return INSET_OK;
}

inset_status tokenizer_encode(
    tokenizer *t, const char *text, size_t length, bool special, id_list *out)
{
    arena a;
    piece_list list = {0};
    const size_t valid = utf8_valid(text, length);
    *out = (id_list){0};
    if (valid < length)
        return error_set(t->context, INSET_VALUE_ERROR,
            "the text is no UTF-8 from its byte %zu on (0x%02x)", valid,
            (unsigned)(unsigned char)text[valid]);
    if (length > (size_t)1 << 28)
        return error_set(t->context, INSET_VALUE_ERROR, "a text of %zu bytes is too long", length);
    arena_start(&a, t->context);
    inset_status status = find_and_normalize(t, &a, text, length, &list);
    if (!status) status = split_all(t, &a, &list);
    if (!status && special) status = add_ids(t, t->before, t->n_before, out);
    for (size_t i = 0; i < list.n && !status; i++) {
        const piece *p = &list.at[i];
        status = p->id >= 0 ? add_ids(t, &p->id, 1, out) : word_tokens(t, p->text, p->length, out);
    }
    if (!status && special) status = add_ids(t, t->after, t->n_after, out);
    piece_list_free(t, &list);
    arena_free(&a);
    if (status) id_list_free(t->context, out);
    return status;
}
