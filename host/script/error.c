/* error.c: where a message points.
 *
 * The place of an error is the file, line and column, the line itself without its indentation, and
 * a caret below the column; inside loops also the values of the loop names. Only here are lines and
 * columns counted. What is echoed is made harmless: a script may hold bytes that would move a
 * terminal's cursor or turn its text around. */
#include "script/reader.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    /* characters of a line that are shown, around the column when it is longer */
    SHOWN = 100,
    QUOTED = 60, /* bytes of a word that are quoted */
};

int32_t script_line_of(const script *s, uint32_t at)
{
    int32_t line = 1;
    for (uint32_t i = 0; i < at && i < s->length; i++) line += s->text[i] == '\n';
    return line;
}

int script_quote_length(uint32_t at, uint32_t end)
{
    return (int)(end - at < QUOTED ? end - at : QUOTED);
}

static bool is_continuation(char c) { return ((unsigned char)c & 0xc0) == 0x80; }

/* Bytes of the character at `at` when it is safe to print, else 0. */
static uint32_t printable(const script *s, uint32_t at)
{
    const unsigned char *c = (const unsigned char *)s->text + at;
    uint32_t n = script_character(s, at);
    if (c[0] < 0x20 || c[0] == 0x7f) return 0;
    /* U+0080 to U+009F: control characters */
    if (n == 2 && c[0] == 0xc2 && c[1] < 0xa0) return 0;
    if (n == 3 && c[0] == 0xe2 && c[1] == 0x80
        && (c[2] == 0x8e || c[2] == 0x8f || (c[2] >= 0xa8 && c[2] <= 0xae)))
        /* marks and overrides of direction, line separators */
        return 0;
    /* isolates of direction */
    if (n == 3 && c[0] == 0xe2 && c[1] == 0x81 && c[2] >= 0xa6 && c[2] <= 0xa9) return 0;
    return n;
}

/* The next character behind `at`. */
static uint32_t next_character(const script *s, uint32_t at, uint32_t end)
{
    do at++;
    while (at < end && is_continuation(s->text[at]));
    return at;
}

static uint32_t characters(const script *s, uint32_t from, uint32_t to)
{
    uint32_t n = 0;
    for (uint32_t at = from; at < to; at = next_character(s, at, to)) n++;
    return n;
}

/* Writes the characters from `first` on, at most SHOWN of them; returns where it ended. */
static uint32_t echo(const script *s, uint32_t first, uint32_t end, char *out)
{
    uint32_t at = first;
    for (int i = 0; i < SHOWN && at < end; i++) {
        uint32_t n = printable(s, at);
        if (n) memcpy(out, s->text + at, n);
        else *out = s->text[at] == '\t' ? ' ' : '?';
        out += n ? n : 1;
        at = next_character(s, at, end);
    }
    *out = 0;
    return at;
}

/* "with layer = 3, pos = 2", outermost first. */
static void add_loops(script *s, text *out, const running_loop *loop)
{
    if (!loop) return;
    add_loops(s, out, loop->outer);
    text_add(s->context, out, "%s%.*s = %" PRId64, loop->outer ? ", " : "with ",
        script_quote_length(0, (uint32_t)s->names[loop->name].length), s->names[loop->name].text,
        loop->value);
}

static void place(script *s, uint32_t at)
{
    char shown[4 * SHOWN + 8], location[64] = "";
    if (at > s->length) at = s->length;
    uint32_t start = at, end = at;
    while (start && s->text[start - 1] != '\n') start--;
    while (end < s->length && s->text[end] != '\n') end++;
    if (end > start && s->text[end - 1] == '\r') end--;
    if (at > end) at = end;
    uint32_t column = characters(s, start, at) + 1, first = start;
    while (first < at && (s->text[first] == ' ' || s->text[first] == '\t')) first++;

    /* Of a long line, half of what is shown lies before the column. */
    bool cut = characters(s, first, end) > SHOWN && characters(s, first, at) > SHOWN / 2;
    for (uint32_t skip = cut ? characters(s, first, at) - SHOWN / 2 : 0; skip; skip--)
        first = next_character(s, first, end);
    uint32_t shown_to = echo(s, first, end, shown);
    int caret = (int)characters(s, first, at) + (cut ? 3 : 0);

    if (s->file)
        snprintf(
            location, sizeof location, ":%" PRId32 ":%" PRIu32 "\n", script_line_of(s, at), column);
    text loops = {0};
    add_loops(s, &loops, s->loops);
    error_place(s->context, "%s%s    %s%s%s\n    %*s^\n%s%s", s->file ? s->file : "", location,
        cut ? "..." : "", shown, shown_to < end ? "..." : "", caret, "",
        loops.bytes ? loops.bytes : "", loops.bytes ? "\n" : "");
    text_free(s->context, &loops);
}

/* Where the words of a line begin, counted from 1. */
static uint32_t start_of_line(const script *s, int32_t line)
{
    uint32_t at = 0;
    for (; line > 1 && at < s->length; at++) line -= s->text[at] == '\n';
    while (at < s->length && (s->text[at] == ' ' || s->text[at] == '\t')) at++;
    return at;
}

inset_status script_at(script *s, uint32_t at, inset_status status)
{
    if (!status) return INSET_OK;
    const int32_t edited = trace_take_failed_line(s->trace);
    place(s, edited ? start_of_line(s, edited) : at);
    if (!s->status) s->status = status;
    return status;
}

inset_status script_refuse(script *s, uint32_t at, inset_status status, const char *format, ...)
{
    char sentence[512];
    va_list list;
    /* the first error is the one that is told */
    if (s->status) return s->status;
    va_start(list, format);
    vsnprintf(sentence, sizeof sentence, format, list);
    va_end(list);
    error_set(s->context, status, "%s", sentence);
    return script_at(s, at, status);
}
