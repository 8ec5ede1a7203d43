/* scan.c: bytes to tokens, one at a time.
 *
 * A token is a kind and a byte range. Two things depend on where the scanner is: inside brackets
 * the end of a line is a space, and a dot behind a name or a bracket is the dot of a path, so that
 * h.5.output and h.0.5 are paths although 5. and .5 are numbers. */
#include "script/reader.h"

#include <string.h>

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
static bool is_word(char c) { return is_letter(c) || is_digit(c); }

/* The byte at `at`, NUL behind the end (the text itself holds none). */
static char byte(const script *s, uint32_t at) { return at < s->length ? s->text[at] : 0; }

bool script_is(const script *s, token t, const char *word)
{
    size_t n = strlen(word);
    return t.kind == TOKEN_NAME && t.end - t.at == n && !memcmp(s->text + t.at, word, n);
}

static void set(script *s, int kind, uint32_t at, uint32_t end)
{
    s->current = (token){kind, at, end};
    s->next = end;
}

/* ---- bytes -------------------------------------------------------------- */

uint32_t script_character(const script *s, uint32_t at)
{
    const unsigned char *c = (const unsigned char *)s->text + at;
    if (c[0] < 0x80) return 1;
    uint32_t n = c[0] >= 0xc2 && c[0] <= 0xdf   ? 2
                 : c[0] >= 0xe0 && c[0] <= 0xef ? 3
                 : c[0] >= 0xf0 && c[0] <= 0xf4 ? 4
                                                : 0;
    if (!n || n > s->length - at) return 0;
    for (uint32_t i = 1; i < n; i++)
        if ((c[i] & 0xc0) != 0x80) return 0;
    if ((c[0] == 0xe0 && c[1] < 0xa0) || (c[0] == 0xed && c[1] > 0x9f)
        || (c[0] == 0xf0 && c[1] < 0x90) || (c[0] == 0xf4 && c[1] > 0x8f))
        return 0;
    return n;
}

static bool check_bytes(script *s)
{
    const unsigned char *text = (const unsigned char *)s->text;
    for (uint32_t at = 0, n; at < s->length; at += n) {
        n = script_character(s, at);
        if (n && text[at]) continue;
        if (n) script_refuse(s, at, INSET_SYNTAX_ERROR, "the script holds a NUL byte");
        else
            script_refuse(
                s, at, INSET_SYNTAX_ERROR, "byte 0x%02x is not UTF-8 text here", text[at]);
        return false;
    }
    return true;
}

/* ---- space -------------------------------------------------------------- */

static bool at_line_end(const script *s, uint32_t at)
{
    return at >= s->length || s->text[at] == '\n'
           || (s->text[at] == '\r' && byte(s, at + 1) == '\n');
}

/* Behind blanks and a comment. */
static uint32_t skip_blanks(const script *s, uint32_t at)
{
    while (byte(s, at) == ' ' || byte(s, at) == '\t') at++;
    if (byte(s, at) == '#')
        while (!at_line_end(s, at)) at++;
    return at;
}

bool script_followed_by(const script *s, char c) { return byte(s, skip_blanks(s, s->next)) == c; }

static uint32_t behind_line_end(const script *s, uint32_t at)
{
    return at + (byte(s, at) == '\r') + 1;
}

/* From the start of a line to the first token of the next line that has one; notes its
 * indentation. */
static uint32_t skip_to_line(script *s, uint32_t at)
{
    for (;;) {
        uint32_t first = skip_blanks(s, at);
        if (first >= s->length) {
            s->indent = 0;
            return s->length;
        }
        if (!at_line_end(s, first)) {
            const char *tab = memchr(s->text + at, '\t', first - at);
            if (tab)
                script_refuse(s, (uint32_t)(tab - s->text), INSET_SYNTAX_ERROR,
                    "indentation is made of spaces, this is a tab");
            s->indent = first - at;
            return first;
        }
        at = behind_line_end(s, first);
    }
}

/* ---- tokens ------------------------------------------------------------- */

/* digits, with single underscores between them as Python has them */
static uint32_t digits(const script *s, uint32_t at)
{
    while (is_digit(byte(s, at))
           || (byte(s, at) == '_' && is_digit(byte(s, at + 1)) && is_digit(byte(s, at - 1))))
        at++;
    return at;
}

static bool all_zeros(const script *s, uint32_t at, uint32_t end)
{
    while (at < end && (s->text[at] == '0' || s->text[at] == '_')) at++;
    return at == end;
}

static void number(script *s, uint32_t start, bool in_path)
{
    uint32_t at = digits(s, start);
    int kind = TOKEN_INTEGER;
    if (!in_path && byte(s, at) == '.') {
        at = digits(s, at + 1);
        kind = TOKEN_FLOAT;
    }
    if (!in_path && (byte(s, at) == 'e' || byte(s, at) == 'E')) {
        uint32_t first = at + 1 + (byte(s, at + 1) == '+' || byte(s, at + 1) == '-');
        if (is_digit(byte(s, first))) {
            at = digits(s, first);
            kind = TOKEN_FLOAT;
        }
    }
    set(s, kind, start, at);
    s->path_number = in_path;
    if (is_word(byte(s, at))) {
        while (is_word(byte(s, at))) at++;
        script_refuse(s, start, INSET_SYNTAX_ERROR, "'%.*s' is not a number",
            script_quote_length(start, at), s->text + start);
    } else if (kind == TOKEN_INTEGER && !in_path && byte(s, start) == '0'
               && !all_zeros(s, start, at)) {
        script_refuse(s, start, INSET_SYNTAX_ERROR, "an integer does not begin with 0");
    }
}

static void string(script *s, uint32_t start)
{
    char quote = s->text[start];
    uint32_t at = start + 1;
    for (; byte(s, at) != quote; at++) {
        unsigned char c = (unsigned char)byte(s, at);
        if (at_line_end(s, at)) {
            script_refuse(s, start, INSET_SYNTAX_ERROR, "this string does not end on its line");
            return;
        }
        if (c < 0x20 || c == 0x7f) {
            script_refuse(s, at, INSET_SYNTAX_ERROR, "a control character (0x%02x) in a string", c);
            return;
        }
        if (c != '\\') continue;
        char escaped = byte(s, ++at);
        if (!escaped || !strchr("\\'\"ntr", escaped)) {
            script_refuse(s, at - 1, INSET_SYNTAX_ERROR,
                "in a string, \\ is followed by \\, ', \", n, t or r");
            return;
        }
    }
    set(s, TOKEN_STRING, start, at + 1);
}

static void open_bracket_at(script *s, char bracket, uint32_t at)
{
    if (s->depth == SCRIPT_NESTING) {
        script_refuse(s, at, INSET_SYNTAX_ERROR, "brackets nest more than %d deep", SCRIPT_NESTING);
        return;
    }
    s->open[s->depth++] = (open_bracket){bracket, at};
    set(s, bracket, at, at + 1);
}

static void close_bracket_at(script *s, char bracket, uint32_t at)
{
    if (!s->depth) {
        script_refuse(s, at, INSET_SYNTAX_ERROR, "'%c' closes nothing", bracket);
        return;
    }
    open_bracket open = s->open[--s->depth];
    if ((open.bracket == '(') != (bracket == ')')) {
        int32_t line = script_line_of(s, open.at);
        script_refuse(s, at, INSET_SYNTAX_ERROR, "'%c' does not close '%c' of line %d", bracket,
            open.bracket, (int)line);
        return;
    }
    set(s, bracket, at, at + 1);
}

/* Everything that begins with none of the above. */
static void operator(script *s, uint32_t at)
{
    static const struct {
        char text[4];
        int kind;
    } longer[] = {
        {"...", TOKEN_ELLIPSIS},
        {"//", TOKEN_FLOOR},
        {"+=", TOKEN_ADD_SET},
        {"-=", TOKEN_SUBTRACT_SET},
        {"*=", TOKEN_MULTIPLY_SET},
        {"/=", TOKEN_DIVIDE_SET},
        {"==", TOKEN_EQUAL},
        {"!=", TOKEN_UNEQUAL},
        {"<=", TOKEN_LESS_EQUAL},
        {">=", TOKEN_GREATER_EQUAL},
    };
    static const char *const refused[] = {
        "**", "->", ":=", "@=", "<<", ">>", "{", "}", ";", "&", "|", "^", "~"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        size_t n = strlen(refused[i]);
        if (n > s->length - at || memcmp(s->text + at, refused[i], n)) continue;
        script_refuse(
            s, at, INSET_SYNTAX_ERROR, "'%s' is not part of the trace language", refused[i]);
        return;
    }
    for (size_t i = 0; i < sizeof longer / sizeof *longer; i++) {
        size_t n = strlen(longer[i].text);
        if (n > s->length - at || memcmp(s->text + at, longer[i].text, n)) continue;
        set(s, longer[i].kind, at, at + (uint32_t)n);
        return;
    }
    char c = s->text[at];
    if (strchr("+-*/%=,:.@<>", c)) {
        set(s, c, at, at + 1);
    } else if (c == '\\' && at_line_end(s, at + 1)) {
        script_refuse(s, at, INSET_SYNTAX_ERROR, "a line goes on inside brackets, not behind '\\'");
    } else if ((unsigned char)c < 0x20 || c == 0x7f) {
        script_refuse(
            s, at, INSET_SYNTAX_ERROR, "a control character (0x%02x)", (unsigned)(unsigned char)c);
    } else {
        script_refuse(s, at, INSET_SYNTAX_ERROR, "'%.*s' is not part of the trace language",
            (int)script_character(s, at), s->text + at);
    }
}

/* The end of the text: closes the last line first, and finds brackets left open. */
static void end(script *s)
{
    if (s->depth) {
        open_bracket open = s->open[s->depth - 1];
        script_refuse(s, open.at, INSET_SYNTAX_ERROR, "'%c' is never closed", open.bracket);
    } else if (s->current.kind != TOKEN_NEWLINE && s->current.kind != TOKEN_END) {
        set(s, TOKEN_NEWLINE, s->current.end, s->current.end);
        s->next = s->length;
        s->indent = 0;
    } else {
        set(s, TOKEN_END, s->length, s->length);
    }
}

void script_advance(script *s)
{
    if (s->status) {
        s->current.kind = TOKEN_END;
        return;
    }
    int before = s->current.kind;
    bool behind_value = before == TOKEN_NAME || before == ']' || before == ')'
                        || (before == TOKEN_INTEGER && s->path_number);
    uint32_t at = skip_blanks(s, s->next);
    while (s->depth && at < s->length && at_line_end(s, at))
        at = skip_blanks(s, behind_line_end(s, at));
    s->path_number = false;
    char c = byte(s, at);
    if (at >= s->length) {
        end(s);
    } else if (at_line_end(s, at)) {
        set(s, TOKEN_NEWLINE, at, behind_line_end(s, at));
        s->next = skip_to_line(s, s->next);
    } else if (is_letter(c)) {
        uint32_t word = at;
        while (is_word(byte(s, word))) word++;
        set(s, TOKEN_NAME, at, word);
    } else if (is_digit(c)) {
        number(s, at, before == '.');
    } else if (c == '.' && !behind_value && is_digit(byte(s, at + 1))) {
        number(s, at, false);
    } else if (c == '.' && behind_value) {
        set(s, '.', at, at + 1);
    } else if (c == '"' || c == '\'') {
        string(s, at);
    } else if (c == '(' || c == '[') {
        open_bracket_at(s, c, at);
    } else if (c == ')' || c == ']') {
        close_bracket_at(s, c, at);
    } else {
        operator(s, at);
    }
    if (s->status) s->current.kind = TOKEN_END;
}

void script_scan_start(script *s)
{
    s->current = (token){TOKEN_NEWLINE, 0, 0};
    if (!check_bytes(s)) {
        s->current.kind = TOKEN_END;
        return;
    }
    /* a byte order mark says nothing */
    bool mark = s->length >= 3 && !memcmp(s->text, "\xef\xbb\xbf", 3);
    s->next = skip_to_line(s, mark ? 3 : 0);
    script_advance(s);
}
