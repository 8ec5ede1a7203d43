/* literal.c: numbers and nested lists of numbers, from tokens to values. */
#include "script/reader.h"

#include <errno.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

/* ---- numbers ------------------------------------------------------------ */

/* The number's text without underscores, NUL-terminated; a dot becomes what this process's locale
 * calls one, for strtod. */
static char *plain_digits(script *s, token t)
{
    const char *point = localeconv()->decimal_point;
    size_t point_length = strlen(point), n = 0;
    char *plain = script_new(s, t.end - t.at + point_length + 1);
    if (s->status) return NULL;
    for (uint32_t i = t.at; i < t.end; i++) {
        if (s->text[i] == '.') {
            memcpy(plain + n, point, point_length);
            n += point_length;
        } else if (s->text[i] != '_') {
            plain[n++] = s->text[i];
        }
    }
    return plain;
}

/* False, and 0, for what 64 bits do not hold. */
static bool read_integer(const script *s, token t, int64_t *out)
{
    int64_t value = 0;
    *out = 0;
    for (uint32_t i = t.at; i < t.end; i++) {
        if (s->text[i] == '_') continue;
        if (__builtin_mul_overflow(value, 10, &value)
            || __builtin_add_overflow(value, s->text[i] - '0', &value))
            return false;
    }
    *out = value;
    return true;
}

static double read_float(script *s, token t)
{
    char *plain = plain_digits(s, t);
    return plain ? strtod(plain, NULL) : 0;
}

/* NUMBER */
expression *script_number(script *s)
{
    token t = s->current;
    expression *e = script_new_expression(s, EXPRESSION_NUMBER, t.at, t.end);
    e->is_float = t.kind == TOKEN_FLOAT;
    if (e->is_float) e->number = read_float(s, t);
    else e->too_large = !read_integer(s, t, &e->integer);
    script_advance(s);
    return e;
}

/* ---- literals ----------------------------------------------------------- */

static bool add_number(script *s, literal *l, token t, bool negative)
{
    if (!array_reserve(
            s->context, &s->numbers, &s->numbers_capacity, l->count + 1, sizeof *s->numbers)) {
        s->status = INSET_NO_MEMORY;
        return false;
    }
    bool integers = !l->float_at, is_float = t.kind == TOKEN_FLOAT;
    int64_t integer = 0;
    if (!is_float && !read_integer(s, t, &integer) && !l->too_large) {
        l->too_large = true;
        l->too_large_at = t.at;
    }
    if (is_float && integers) {
        for (size_t i = 0; i < l->count; i++) s->numbers[i].number = (double)s->numbers[i].integer;
        l->float_at = t.at;
        integers = false;
    }
    double number = is_float ? read_float(s, t) : (double)integer;
    if (integers) s->numbers[l->count++].integer = negative ? -integer : integer;
    else s->numbers[l->count++].number = negative ? -number : number;
    return true;
}

static void irregular(literal *l, uint32_t at)
{
    if (!l->irregular) l->irregular_at = at;
    l->irregular = true;
}

/* A number, or a list that is empty, `depth` lists deep: all must lie at one depth. */
static void note_depth(literal *l, int depth, uint32_t at)
{
    if (!l->n_dimensions) l->n_dimensions = depth;
    else if (l->n_dimensions != depth) irregular(l, at);
}

static void note_row(script *s, literal *l, int64_t length)
{
    if (!array_reserve(s->context, &s->rows, &s->rows_capacity, l->n_rows + 1, sizeof *s->rows))
        s->status = INSET_NO_MEMORY;
    else s->rows[l->n_rows++] = length;
}

/* A list `depth` deep has ended: is it as long as the ones beside it? */
static void note_length(script *s, literal *l, int depth, int64_t length, uint32_t at)
{
    bool innermost = depth == l->n_dimensions;
    if (innermost) note_row(s, l, length);
    if (depth > INSET_MAX_DIMENSIONS) return;
    int64_t *extent = &l->shape[depth - 1];
    if (*extent < 0) *extent = length;
    else if (*extent != length && !innermost) irregular(l, at);
    else if (*extent != length && !l->ragged) {
        l->ragged = true;
        l->ragged_at = at;
    }
}

/* A text is a list of its token ids. */
static void text_list(script *s, literal *l, int depth)
{
    const token t = s->current;
    const text_source *source = trace_text_source(s->trace);
    int64_t *ids = NULL;
    size_t count = 0;
    const char *plain = script_unquoted(s, t);
    inset_status status = plain ? INSET_OK : INSET_NO_MEMORY;
    if (!status)
        status = source->prompt ? source->prompt(source->of, plain, strlen(plain), &ids, &count)
                                : error_set(s->context, INSET_USAGE_ERROR,
                                    "a text needs a model's tokenizer, and there is none here");
    if (status) s->status = script_at(s, t.at, status);
    for (size_t i = 0; i < count && !s->status; i++) {
        note_depth(l, depth, t.at);
        if (!array_reserve(
                s->context, &s->numbers, &s->numbers_capacity, l->count + 1, sizeof *s->numbers))
            s->status = INSET_NO_MEMORY;
        else if (l->float_at) s->numbers[l->count++].number = (double)ids[i];
        else s->numbers[l->count++].integer = ids[i];
    }
    memory_free(s->context, ids);
    if (s->status) return;
    if (!count) note_depth(l, depth, t.at);
    note_length(s, l, depth, (int64_t)count, t.at);
    script_advance(s);
}

/* literal = "[" [ ( literal | STRING | [ "-" | "+" ] NUMBER ) { "," ... } [ "," ] ] "]" */
static void literal_list(script *s, literal *l, int depth)
{
    uint32_t at = s->current.at;
    int64_t length = 0;
    script_advance(s);
    while (s->current.kind != ']') {
        bool negative = s->current.kind == '-', sign = negative || s->current.kind == '+';
        if (sign) script_advance(s);
        token t = s->current;
        if (t.kind == TOKEN_INTEGER || t.kind == TOKEN_FLOAT) {
            note_depth(l, depth, t.at);
            if (!add_number(s, l, t, negative)) return;
            script_advance(s);
        } else if (t.kind == '[' && !sign) {
            literal_list(s, l, depth + 1);
        } else if (t.kind == TOKEN_STRING && !sign) {
            text_list(s, l, depth + 1);
        } else {
            script_unexpected(s, "a number");
            return;
        }
        length++;
        if (!script_accept(s, ',') && s->current.kind != ']') script_unexpected(s, "',' or ']'");
        if (s->status) return;
    }
    if (!length) note_depth(l, depth, at);
    note_length(s, l, depth, length, at);
    script_advance(s);
}

static void *keep(script *s, const void *items, size_t count, size_t size)
{
    void *kept = arena_copy(&s->memory, items, count * size);
    if (!kept) s->status = INSET_NO_MEMORY;
    return kept;
}

expression *script_literal(script *s)
{
    expression *e = script_new_expression(s, EXPRESSION_LITERAL, s->current.at, s->current.end);
    literal *l = script_new(s, sizeof *l);
    if (s->status) return e;
    for (int i = 0; i < INSET_MAX_DIMENSIONS; i++) l->shape[i] = -1;
    if (s->current.kind == TOKEN_STRING) text_list(s, l, 1);
    else literal_list(s, l, 1);
    if (s->status) return e;
    l->row_lengths = keep(s, s->rows, l->n_rows, sizeof *s->rows);
    if (l->float_at) l->numbers = keep(s, s->numbers, l->count, sizeof *s->numbers);
    else l->integers = keep(s, s->numbers, l->count, sizeof *s->numbers);
    e->literal = l;
    return e;
}
