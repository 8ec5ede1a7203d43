/* regex.c: regular expressions over PCRE2, the only file that includes it. */
#include <string.h>

#include "text/tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

struct regex {
    pcre2_code *code;
    pcre2_match_data *match;
};

/* Unicode's White_Space: PCRE2 has U+180E beside it. */
#define SPACES \
    "\\t-\\r " \
    "\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

/* Oniguruma's letters of words; PCRE2's have no marks and all numbers. */
#define LETTERS "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"

static bool add(inset_context *context, byte_list *out, const char *text)
{
    return byte_list_add(context, out, text, strlen(text));
}

/* \s, \S, \w and \W written out. */
static bool translate(inset_context *context, const char *pattern, byte_list *out)
{
    bool in_class = false, fine = true;
    for (const char *c = pattern; *c && fine; c++) {
        if (*c == '\\' && c[1]) {
            const bool outside = !in_class;
            if (c[1] == 's') fine = add(context, out, outside ? "[" SPACES "]" : SPACES);
            else if (c[1] == 'w') fine = add(context, out, outside ? "[" LETTERS "]" : LETTERS);
            else if (c[1] == 'S' && outside) fine = add(context, out, "[^" SPACES "]");
            else if (c[1] == 'W' && outside) fine = add(context, out, "[^" LETTERS "]");
            else fine = byte_list_add(context, out, c, 2);
            c++;
            continue;
        }
        if (*c == '[') in_class = true;
        else if (*c == ']') in_class = false;
        fine = byte_list_add(context, out, c, 1);
    }
    return fine;
}

regex *regex_new(inset_context *context, const char *pattern, bool literal, char *error)
{
    int number = 0;
    PCRE2_SIZE at;
    byte_list translated = {0};
    *error = 0;
    regex *r = memory_new(context, sizeof *r);
    if (!r) return NULL;
    if (!literal && !translate(context, pattern, &translated)) {
        memory_free(context, translated.at);
        regex_free(context, r);
        return NULL;
    }
    const char *source = literal || !translated.at ? pattern : translated.at;
    r->code = pcre2_compile((PCRE2_SPTR)source, PCRE2_ZERO_TERMINATED,
        PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C), &number, &at,
        NULL);
    memory_free(context, translated.at);
    if (!r->code) {
        pcre2_get_error_message(number, (PCRE2_UCHAR *)error, 120);
        regex_free(context, r);
        return NULL;
    }
    pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE); /* where there is one */
    r->match = pcre2_match_data_create(1, NULL);
    if (r->match) return r;
    regex_free(context, r);
    error_no_memory(context);
    return NULL;
}

void regex_free(inset_context *context, regex *r)
{
    if (!r) return;
    pcre2_match_data_free(r->match);
    pcre2_code_free(r->code);
    memory_free(context, r);
}

int regex_find(
    const regex *r, const char *text, size_t length, size_t from, size_t *start, size_t *end)
{
    const int found = pcre2_match(
        r->code, (PCRE2_SPTR)text, length, from, PCRE2_NO_UTF_CHECK, r->match, NULL);
    if (found == PCRE2_ERROR_NOMATCH) return 0;
    if (found < 0) return -1;
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(r->match);
    *start = ends[0] < ends[1] ? ends[0] : ends[1];
    *end = ends[1];
    return 1;
}
