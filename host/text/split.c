/* split.c: pre-tokenizers: a text into the words that the model takes one by one. */
#include <string.h>

#include "text/tokenizer.h"

/* ---- by what matches ----------------------------------------------------- */

/* Stretches of a text that match and that lie between, in order. */
typedef struct stretch {
    size_t start, end;
    bool match;
} stretch;
typedef struct stretches {
    stretch *at;
    size_t n, capacity;
} stretches;

static bool add_stretch(tokenizer *t, stretches *s, size_t start, size_t end, bool match)
{
    if (!array_extend(t->context, &s->at, &s->capacity, s->n + 1, sizeof *s->at)) return false;
    s->at[s->n++] = (stretch){start, end, match};
    return true;
}

static inset_status find_stretches(tokenizer *t, const part *p, const piece *of, stretches *out)
{
    size_t from = 0, done = 0, start, end;
    int found;
    while (from <= of->length
           && (found = regex_find(p->pattern, of->text, of->length, from, &start, &end)) != 0) {
        if (found < 0)
            return error_set(t->context, INSET_VALUE_ERROR,
                "%s: a pattern of its pre-tokenizer takes too long on this text", t->name);
        if (start > done && !add_stretch(t, out, done, start, p->invert)) return INSET_NO_MEMORY;
        if (!add_stretch(t, out, start, end, !p->invert)) return INSET_NO_MEMORY;
        done = from = end;
        if (end > start) continue;
        if (end == of->length) break;
        int bytes; /* an empty match */
        utf8_next(of->text + end, of->length - end, &bytes);
        from = end + (size_t)bytes;
    }
    return done == of->length || add_stretch(t, out, done, of->length, p->invert) ? INSET_OK
                                                                                  : INSET_NO_MEMORY;
}

/* Digits, as a pattern would find them. */
static inset_status find_digits(tokenizer *t, const part *p, const piece *of, stretches *out)
{
    (void)p;
    for (size_t i = 0; i < of->length;) {
        int bytes;
        const bool digit = is_numeric(utf8_next(of->text + i, of->length - i, &bytes));
        stretch *last = out->n ? &out->at[out->n - 1] : NULL;
        if (!digit && last && !last->match) last->end += (size_t)bytes;
        else if (!add_stretch(t, out, i, i + (size_t)bytes, digit)) return INSET_NO_MEMORY;
        i += (size_t)bytes;
    }
    return INSET_OK;
}

static void join_with_next(stretches *s)
{
    size_t n = s->n;
    for (size_t i = s->n; i-- > 0;) {
        const stretch here = s->at[i];
        const bool joins = here.match && n < s->n && !s->at[n].match;
        if (joins) s->at[n].start = here.start, s->at[n].match = true;
        else s->at[--n] = here;
    }
    memmove(s->at, s->at + n, (s->n - n) * sizeof *s->at);
    s->n -= n;
}

/* As the crate's `split` has it: what is joined, or left out. */
static void join_stretches(behaviour how, stretches *s)
{
    size_t n = 0;
    bool previous = false;
    if (how == SPLIT_WITH_NEXT) {
        join_with_next(s);
        return;
    }
    for (size_t i = 0; i < s->n; i++) {
        const stretch here = s->at[i];
        bool join = false;
        if (how == SPLIT_REMOVED && here.match) continue;
        if (how == SPLIT_WITH_PREVIOUS) join = here.match && !previous && n;
        if (how == SPLIT_CONTIGUOUS) join = n && here.match == previous;
        if (join) s->at[n - 1].end = here.end;
        else s->at[n++] = here;
        previous = here.match;
    }
    s->n = n;
}

static inset_status split_by(tokenizer *t, const part *p, behaviour how, const piece *of,
    inset_status (*find)(tokenizer *, const part *, const piece *, stretches *), piece_list *out)
{
    stretches s = {0};
    inset_status status = find(t, p, of, &s);
    if (!status) join_stretches(how, &s);
    for (size_t i = 0; i < s.n && !status; i++)
        if (!piece_add(t, out, of->text + s.at[i].start, s.at[i].end - s.at[i].start, -1,
                of->first && !s.at[i].start))
            status = INSET_NO_MEMORY;
    memory_free(t->context, s.at);
    return status;
}

/* ---- the kinds ----------------------------------------------------------- */

static bool begins_with(const piece *p, const char *text)
{
    const size_t n = strlen(text);
    return p->length >= n && !memcmp(p->text, text, n);
}

static inset_status put_before(arena *a, const char *text, piece *p)
{
    const size_t n = strlen(text);
    char *to = arena_new(a, n + p->length + 1);
    if (!to) return INSET_NO_MEMORY;
    memcpy(to, text, n);
    memcpy(to + n, p->text, p->length);
    p->text = to;
    p->length += n;
    return INSET_OK;
}

/* Words by the pattern, and their bytes as letters. */
static inset_status split_bytes(tokenizer *t, arena *a, const part *p, piece of, piece_list *out)
{
    const size_t before = out->n;
    inset_status status = p->prefix_space && !begins_with(&of, " ") ? put_before(a, " ", &of)
                                                                    : INSET_OK;
    if (!status && p->pattern) status = split_by(t, p, SPLIT_ISOLATED, &of, find_stretches, out);
    else if (!status && !piece_add(t, out, of.text, of.length, -1, of.first))
        return INSET_NO_MEMORY;
    for (size_t i = before; i < out->n && !status; i++) {
        piece *made = &out->at[i];
        made->text = letters_of(a, made->text, made->length, &made->length);
        if (!made->text) status = INSET_NO_MEMORY;
    }
    return status;
}

/* Spaces become the letter, one stands before the text, and words begin with it. */
static inset_status split_metaspace(
    tokenizer *t, arena *a, const part *p, piece of, piece_list *out)
{
    const size_t n = strlen(p->text);
    char *to = arena_new(a, of.length * n + n + 1), *at = to;
    if (!to) return INSET_NO_MEMORY;
    for (size_t i = 0; i < of.length; i++)
        if (of.text[i] == ' ') {
            memcpy(at, p->text, n);
            at += n;
        } else *at++ = of.text[i];
    of.text = to;
    of.length = (size_t)(at - to);
    const bool wanted = p->scheme == PREPEND_ALWAYS || (p->scheme == PREPEND_FIRST && of.first);
    inset_status status = wanted && !begins_with(&of, p->text) ? put_before(a, p->text, &of)
                                                               : INSET_OK;
    if (status) return status;
    if (p->apart) return split_by(t, p, SPLIT_WITH_NEXT, &of, find_stretches, out);
    return piece_add(t, out, of.text, of.length, -1, of.first) ? INSET_OK : INSET_NO_MEMORY;
}

inset_status split_pieces(
    tokenizer *t, arena *a, const part *p, const piece_list *from, piece_list *out)
{
    inset_status status = INSET_OK;
    for (size_t i = 0; i < from->n && !status; i++) {
        const piece *of = &from->at[i];
        if (of->id >= 0) {
            if (!piece_add(t, out, of->text, of->length, of->id, of->first))
                status = INSET_NO_MEMORY;
        } else if (p->kind == SPLIT_BYTES) status = split_bytes(t, a, p, *of, out);
        else if (p->kind == SPLIT_METASPACE) status = split_metaspace(t, a, p, *of, out);
        else if (p->kind == SPLIT_DIGITS)
            status = split_by(
                t, p, p->apart ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS, of, find_digits, out);
        else status = split_by(t, p, p->behaviour, of, find_stretches, out);
    }
    return status;
}
