/* tokenizer.h: text to token ids, by the tokenizer.json of a model's directory: what Hugging Face's
 * `tokenizers` makes of the same file.
 *
 *     added tokens    "<s>", "<|endoftext|>": found in the text as they stand, become ids at once
 *     normalizers     of what lies between: NFC, "▁" for spaces, ...
 *     splits          (the file's pre-tokenizers) into words, and bytes into letters for them
 *     model           each word into tokens: BPE, merges by rank
 *     template        ids before and after: BOS
 *
 * Example, GPT-2: "Mary gave" is split into "Mary" and " gave", written "Ġgave", and each is one
 * token. What of a file is not known is refused by its name when the file is opened.
 *
 *     load.c        the file
 *     regex.c       PCRE2
 *     normalize.c   utf8proc
 *     split.c       pre-tokenizers
 *     bpe.c         the model
 *     scores.c      its merges, where pieces have scores instead (SentencePiece)
 *     lists.c       what grows on the way
 *     encode.c      added tokens, and all of it in order
 *     piece.c       what a token stands for, to be shown */
#ifndef INSET_TOKENIZER_H
#define INSET_TOKENIZER_H

#include "base/base.h"
#include "file/file.h"

typedef struct tokenizer tokenizer;

/* Opens a tokenizer.json, or the vocabulary of a GGUF file; FILE_ERROR names what is missing, wrong
 * or not known. Freed with tokenizer_free. */
inset_status tokenizer_open(inset_context *context, const char *path, tokenizer **out);
/* A tokenizer.json from bytes in memory; `name` stands for the file. Also the fuzz target. */
inset_status tokenizer_parse(
    inset_context *context, const char *name, const void *bytes, size_t size, tokenizer **out);
void tokenizer_free(tokenizer *t); /* takes NULL */

/* Token ids, in the given array [capacity], of which *count are there (and needed). special: with
 * what the template adds. VALUE_ERROR: text that is no UTF-8. */
typedef struct id_list {
    int64_t *ids;
    size_t count, capacity;
} id_list;
inset_status tokenizer_encode(
    tokenizer *t, const char *text, size_t length, bool special, id_list *out);
void id_list_free(inset_context *context, id_list *list);

/* What a token stands for, " Mary": its bytes as UTF-8, others and control characters as \x0a or
 * \n; "#17" for an id that is no token. */
void tokenizer_piece(const tokenizer *t, int64_t id, text *out);
int64_t tokenizer_size(const tokenizer *t); /* the largest id + 1 */

/* ---- what the files share ------------------------------------------------ */

/* Bytes that grow; unlike a text, a failure is seen. */
typedef struct byte_list {
    char *at;
    size_t n, capacity;
} byte_list;
bool byte_list_add(inset_context *context, byte_list *list, const char *bytes, size_t length);

/* regex.c */
typedef struct regex regex;
/* A pattern as Oniguruma reads it (\s is Unicode's white space); literal: as it stands. *error: why
 * it is none, of 120 characters. NULL then, or when memory is out (*error empty). */
regex *regex_new(inset_context *context, const char *pattern, bool literal, char *error);
void regex_free(inset_context *context, regex *r); /* takes NULL */
/* The first match from `from` on: 1, 0 for none, -1 when the pattern took too long. */
int regex_find(
    const regex *r, const char *text, size_t length, size_t from, size_t *start, size_t *end);

typedef enum part_kind {
    NORMAL_NFC,
    NORMAL_NFD,
    NORMAL_NFKC,
    NORMAL_NFKD,
    NORMAL_LOWERCASE,
    NORMAL_STRIP, /* left, right */
    NORMAL_STRIP_ACCENTS,
    NORMAL_REPLACE,  /* pattern, text */
    NORMAL_PREPEND,  /* text */
    NORMAL_BYTES,    /* bytes as letters */
    SPLIT_BYTES,     /* prefix_space; pattern: of words, or NULL */
    SPLIT_PATTERN,   /* pattern, behaviour, invert */
    SPLIT_METASPACE, /* text: the letter for a space; scheme; apart: a word begins with it */
    SPLIT_DIGITS     /* apart: each digit alone */
} part_kind;
typedef enum behaviour {
    SPLIT_REMOVED,
    SPLIT_ISOLATED,
    SPLIT_WITH_PREVIOUS,
    SPLIT_WITH_NEXT,
    SPLIT_CONTIGUOUS
} behaviour;
typedef enum prepend_scheme { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER } prepend_scheme;
typedef struct part {
    part_kind kind;
    regex *pattern;
    const char *text;
    behaviour behaviour;
    prepend_scheme scheme;
    bool invert, left, right, prefix_space, apart;
} part;

typedef struct added_token {
    const char *text; /* normalised where `normalized` is set */
    size_t length;
    int32_t id;
    bool single_word, lstrip, rstrip, normalized;
} added_token;

/* Two tokens that become one. Where several merges have one rank, the first in the text is done. */
typedef struct merge {
    int32_t left, right, made, rank;
} merge;

/* A piece of the text: a token already (id >= 0), or text that becomes some. */
typedef struct piece {
    const char *text;
    size_t length;
    int32_t id;
    bool first; /* it begins where the text does */
} piece;
typedef struct piece_list {
    piece *at;
    size_t n, capacity;
} piece_list;

struct tokenizer {
    inset_context *context;
    arena memory;
    const char *name;
    json_document *document;
    /* token texts by id, [n_ids]; NULL: no token */
    const char **texts;
    size_t *lengths;
    int32_t n_ids;
    table by_text, by_pair;
    merge *merges; /* [n_merges] */
    size_t n_merges, merges_capacity;
    bool word_level; /* a word is a token, or `unknown` */
    bool byte_fallback, ignore_merges, fuse_unknown;
    int32_t unknown;    /* -1: none */
    int32_t bytes[256]; /* tokens "<0x0A>"; -1: none */
    part *normalizers, *splits;
    size_t n_normalizers, n_splits;
    added_token *added;
    size_t n_added;
    int32_t *before, *after; /* what the template adds */
    size_t n_before, n_after;
    bool bytes_as_letters; /* how tokens are shown */
};

/* Hashes as by_text and by_pair have them. */
int32_t tokenizer_find(const tokenizer *t, const char *text, size_t length); /* -1: no token */
bool tokenizer_add_merge(tokenizer *t, merge m); /* false when memory is out */
/* scores.c: all merges, by the scores of tokens, [n_ids] numbers; null for those that no merge
 * makes or takes. */
inset_status merges_by_scores(tokenizer *t, const json_node *scores);

/* Each appends to `out`; text lies in the arena or in what was given. */
bool piece_add(
    tokenizer *t, piece_list *out, const char *text, size_t length, int32_t id, bool first);
void piece_list_free(tokenizer *t, piece_list *list);
/* normalize.c: replaces the text of `p` by its normal form. */
inset_status normalize_piece(tokenizer *t, arena *a, piece *p);
/* The first code point of a text that is UTF-8, and its bytes. */
int32_t utf8_next(const char *text, size_t length, int *bytes);
/* The byte at which a text stops being UTF-8; its length: nowhere. */
size_t utf8_valid(const char *text, size_t length);
bool is_white_space(int32_t c);
bool is_word(int32_t c); /* a letter, digit, mark or underscore */
bool is_numeric(int32_t c);
/* A byte as a letter (GPT-2's bytes_to_unicode), in UTF-8; returns its length, at most 2. And back:
 * -1 for what is none. */
int letter_of_byte(unsigned char byte, char *out);
int byte_of_letter(int32_t c);
char *letters_of(arena *a, const char *text, size_t length, size_t *out_length);
/* split.c */
inset_status split_pieces(
    tokenizer *t, arena *a, const part *p, const piece_list *from, piece_list *out);
/* bpe.c: the tokens of a word. */
inset_status word_tokens(tokenizer *t, const char *word, size_t length, id_list *out);
bool id_list_add(inset_context *context, id_list *list, int64_t id);

#endif
