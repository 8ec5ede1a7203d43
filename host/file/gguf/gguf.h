/* gguf.h: GGUF, the one-file format of quantised checkpoints (versions 2 and 3, little-endian):
 * metadata by key, tensors by name, in blocks of several kinds. As hostile as any file: every
 * length is checked against what is left before it is used. Failures are INSET_FILE_ERROR and name
 * the file.
 *
 *     gguf.c        the file: metadata, tensors
 *     blocks.c      blocks of quantised numbers as floats
 *     model.c       a model of it as the rest of inset knows models: config.json's text, weights by
 *                   transformers' names
 *     tokenizer.c   a tokenizer.json's text */
#ifndef INSET_FILE_GGUF_H
#define INSET_FILE_GGUF_H

#include "file/file.h"

/* Kinds of blocks, as the file numbers them. */
typedef enum gguf_type {
    GGUF_F32 = 0,
    GGUF_F16 = 1,
    GGUF_Q4_0 = 2,
    GGUF_Q4_1 = 3,
    GGUF_Q5_0 = 6,
    GGUF_Q5_1 = 7,
    GGUF_Q8_0 = 8,
    GGUF_Q2_K = 10,
    GGUF_Q3_K = 11,
    GGUF_Q4_K = 12,
    GGUF_Q5_K = 13,
    GGUF_Q6_K = 14,
    GGUF_Q8_K = 15,
    GGUF_BF16 = 30
} gguf_type;

/* Numbers and bytes of a block; NULL for a kind that is not known. */
typedef struct gguf_block {
    gguf_type type;
    const char *name; /* "Q4_1" */
    int32_t numbers, bytes;
} gguf_block;
const gguf_block *gguf_block_of(uint32_t type);
/* `count` numbers, whole blocks, as fp32: what the package `gguf` makes of them, to the bit. */
void gguf_widen(gguf_type type, const void *blocks, int64_t count, float *out);

typedef struct gguf gguf;
typedef struct gguf_tensor {
    const char *name;
    const gguf_block *block;
    int32_t n_dimensions;
    int64_t shape[4]; /* rows first, as PyTorch has it (the file has it the other way round) */
    const void *data;
    size_t bytes;
} gguf_tensor;

inset_status gguf_open(inset_context *context, const char *path, gguf **out);
/* The check itself, on bytes in memory that outlive the object; `name` stands for the file. */
inset_status gguf_parse(
    inset_context *context, const char *name, const void *bytes, size_t size, gguf **out);
void gguf_close(gguf *g); /* takes NULL */
const char *gguf_name(const gguf *g);
size_t gguf_count(const gguf *g);
const gguf_tensor *gguf_at(const gguf *g, size_t index);
const gguf_tensor *gguf_find(const gguf *g, const char *name);

/* Metadata. False: no such key, or of another type. Texts are NUL-terminated copies, the file's. */
bool gguf_text(const gguf *g, const char *key, const char **out);
bool gguf_integer(const gguf *g, const char *key, int64_t *out); /* any integer type, or a bool */
bool gguf_number(const gguf *g, const char *key, double *out);   /* floats and integers */
/* Entries of an array; 0: there is none. And its entries, of texts and of numbers. */
size_t gguf_length(const gguf *g, const char *key);
bool gguf_text_at(const gguf *g, const char *key, size_t index, const char **out);
bool gguf_number_at(const gguf *g, const char *key, size_t index, double *out);

/* ---- model.c, tokenizer.c ---- */
bool is_gguf(const char *path); /* does it end so? */
/* A config.json's text for the model's architecture, and a tokenizer.json's for its vocabulary;
 * freed with memory_free. FILE_ERROR names an architecture or a kind of vocabulary that is not
 * known. */
inset_status gguf_config(inset_context *context, const gguf *g, char **out, size_t *length);
inset_status gguf_tokenizer(inset_context *context, const gguf *g, char **out, size_t *length);
/* The weights by transformers' names, [*count], in `memory`; they hold as long as g. */
inset_status gguf_weights(const gguf *g, arena *memory, file_tensor **out, size_t *count);
/* A tensor of gguf_weights as fp32 [rows, columns], in transformers' order of rows. */
void gguf_numbers(const file_tensor *t, float *out);

#endif
