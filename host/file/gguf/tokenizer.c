/* tokenizer.c: a GGUF file's vocabulary as a tokenizer.json's text. Two kinds are known, as
 * llama.cpp calls them: "gpt2", bytes as letters and merges in the file, and "llama",
 * SentencePiece's, whose pieces have scores (text/scores.c). Defaults are llama.cpp's
 * (llama-vocab.cpp). */
#include <stdio.h>
#include <string.h>

#include "file/gguf/gguf.h"
#include "file/json_writer.h"

#define KEY "tokenizer.ggml."

/* What a token is (tokenizer.ggml.token_type). */
enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER_DEFINED = 4 };

static int type_of(const gguf *g, size_t i)
{
    double type = NORMAL;
    gguf_number_at(g, KEY "token_type", i, &type);
    return type >= NORMAL && type <= 6 ? (int)type : 0;
}

/* ---- what both have ------------------------------------------------------ */

/* Do Phi-3's special tokens take white space that follows? All but these do (llama.cpp knows it by
 * the model's name, the file does not say it). */
static bool takes_spaces(const gguf *g, const char *token)
{
    const char *architecture = "";
    gguf_text(g, "general.architecture", &architecture);
    return !strcmp(architecture, "phi3") && strcmp(token, "<unk>") && strcmp(token, "<s>")
           && strcmp(token, "<|endoftext|>");
}

/* normal: user-defined pieces are looked for in normal text, where spaces are "▁". */
static void add_added(writer *w, const gguf *g, size_t n, bool normal)
{
    size_t count = 0;
    writer_add(w, "\"added_tokens\": [");
    for (size_t i = 0; i < n; i++) {
        const char *token = "";
        const int type = type_of(g, i);
        if ((type != UNKNOWN && type != CONTROL && type != USER_DEFINED)
            || !gguf_text_at(g, KEY "tokens", i, &token) || !*token)
            continue;
        writer_add(w, "%s{\"id\": %zu, \"content\": ", count++ ? ", " : "", i);
        writer_text(w, token);
        writer_add(w, ", \"normalized\": %s, \"rstrip\": %s}",
            normal && type == USER_DEFINED ? "true" : "false",
            type != USER_DEFINED && takes_spaces(g, token) ? "true" : "false");
    }
    writer_add(w, "], ");
}

/* The special token of a kind, "bos", if it is added by itself; -1: it is not. */
static long long added_id(const gguf *g, const char *kind, int64_t adds, int64_t id)
{
    char key[64];
    snprintf(key, sizeof key, KEY "add_%s_token", kind);
    gguf_integer(g, key, &adds);
    snprintf(key, sizeof key, KEY "%s_token_id", kind);
    gguf_integer(g, key, &id);
    return adds ? (long long)id : -1;
}

static void add_template(writer *w, long long bos, long long eos)
{
    if (bos < 0 && eos < 0) return;
    writer_add(w, "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [");
    if (bos >= 0) writer_add(w, "{\"SpecialToken\": {\"id\": \"bos\"}}, ");
    writer_add(w, "{\"Sequence\": {\"id\": \"A\"}}");
    if (eos >= 0) writer_add(w, ", {\"SpecialToken\": {\"id\": \"eos\"}}");
    writer_add(w,
        "], \"special_tokens\": {\"bos\": {\"ids\": [%lld]}, \"eos\": {\"ids\": [%lld]}}}, ", bos,
        eos);
}

static void add_vocabulary(writer *w, const gguf *g, size_t n)
{
    const char *token = "";
    writer_add(w, "\"vocab\": {");
    for (size_t i = 0; i < n && gguf_text_at(g, KEY "tokens", i, &token); i++) {
        if (i) writer_add(w, ", ");
        writer_text(w, token);
        writer_add(w, ": %zu", i);
    }
    writer_add(w, "}, ");
}

/* ---- bytes as letters ---------------------------------------------------- */

/* How llama.cpp calls a pre-tokenizer, and what tokenizer.json has for it. */
static const char gpt2_split[] =
    "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": true}";
#define ISOLATED(pattern)                                       \
    "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"" pattern \
    "\"}, \"behavior\": \"Isolated\", \"invert\": false}"
#define BYTES "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": false}"
#define CASES "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}"
#define REST "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
static const char digits_split[] =
    "{\"type\": \"Digits\", \"individual_digits\": true}, "
    "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": true}";
typedef struct byte_kind {
    const char *name, *splits;
    bool ignores_merges, composes;
} byte_kind;
static const byte_kind byte_kinds[] = {{"gpt-2", gpt2_split, false, false},
    {"smollm", digits_split, false, false},
    {"llama-bpe", ISOLATED(CASES "{1,3}" REST) ", " BYTES, true, false},
    {"qwen2", ISOLATED(CASES REST) ", " BYTES, false, true}};

static const byte_kind *byte_kind_of(const char *pre)
{
    for (size_t k = 0; k < sizeof byte_kinds / sizeof *byte_kinds; k++)
        if (!strcmp(byte_kinds[k].name, pre)) return &byte_kinds[k];
    return NULL;
}

static void add_bytes_model(writer *w, const gguf *g, size_t n, const byte_kind *kind)
{
    const size_t merges = gguf_length(g, KEY "merges");
    const char *text = "";
    add_added(w, g, n, false);
    add_template(w, added_id(g, "bos", 0, -1), added_id(g, "eos", 0, -1));
    if (kind->composes) writer_add(w, "\"normalizer\": {\"type\": \"NFC\"}, ");
    writer_add(w, "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [");
    writer_bytes(w, kind->splits, strlen(kind->splits));
    writer_add(w,
        "]}, \"decoder\": {\"type\": \"ByteLevel\"}, \"model\": {\"type\": \"BPE\", "
        "\"ignore_merges\": %s, ",
        kind->ignores_merges ? "true" : "false");
    add_vocabulary(w, g, n);
    writer_add(w, "\"merges\": [");
    for (size_t i = 0; i < merges && gguf_text_at(g, KEY "merges", i, &text); i++) {
        if (i) writer_add(w, ", ");
        writer_text(w, text);
    }
    writer_add(w, "]}");
}

/* ---- pieces with scores -------------------------------------------------- */

/* Scores by id; null for tokens that no merge makes: control tokens, bytes, unused ones. */
static void add_scores(writer *w, const gguf *g, size_t n)
{
    writer_add(w, "\"scores\": [");
    for (size_t i = 0; i < n; i++) {
        const int type = type_of(g, i);
        double score = 0;
        gguf_number_at(g, KEY "scores", i, &score);
        if (i) writer_add(w, ", ");
        if (type == NORMAL || type == USER_DEFINED) writer_add(w, "%.9g", score);
        else writer_add(w, "null");
    }
    writer_add(w, "]}");
}

static void add_scores_model(writer *w, const gguf *g, size_t n)
{
    int64_t prefix = 1, unknown = 0;
    const char *token = NULL;
    gguf_integer(g, KEY "add_space_prefix", &prefix);
    /* a prefix would become part of a user-defined piece's normal form */
    add_added(w, g, n, !prefix);
    gguf_integer(g, KEY "unknown_token_id", &unknown);
    add_template(w, added_id(g, "bos", 1, 1), added_id(g, "eos", 0, 2));
    writer_add(w, "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [");
    if (prefix) writer_add(w, "{\"type\": \"Prepend\", \"prepend\": \"\u2581\"}, ");
    writer_add(w,
        "{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"\u2581\"}]}, "
        "\"model\": {\"type\": \"SentencePiece\", \"byte_fallback\": true, \"fuse_unk\": true, ");
    if (unknown >= 0 && (size_t)unknown < n
        && gguf_text_at(g, KEY "tokens", (size_t)unknown, &token)) {
        writer_add(w, "\"unk_token\": ");
        writer_text(w, token);
        writer_add(w, ", ");
    }
    add_vocabulary(w, g, n);
    add_scores(w, g, n);
}

/* What of SentencePiece's own normal forms the file asks for and is not done here. */
static const char *unknown_form(const gguf *g)
{
    int64_t removes = 0;
    if (gguf_length(g, KEY "precompiled_charsmap")) return KEY "precompiled_charsmap";
    gguf_integer(g, KEY "remove_extra_whitespaces", &removes);
    return removes ? KEY "remove_extra_whitespaces" : NULL;
}

/* ---- all ----------------------------------------------------------------- */

static inset_status refuse(inset_context *context, const gguf *g, const char *model)
{
    const char *pre = "none", *form = strcmp(model, "llama") ? NULL : unknown_form(g);
    gguf_text(g, KEY "pre", &pre);
    inset_status status = INSET_FILE_ERROR;
    if (form)
        error_set(context, status, "%s: its tokenizer asks for %s, which is not known",
            gguf_name(g), form);
    else if (!strcmp(model, "llama"))
        error_set(context, status, "%s: its tokenizer has %zu scores for %zu tokens", gguf_name(g),
            gguf_length(g, KEY "scores"), gguf_length(g, KEY "tokens"));
    else
        error_set(context, status,
            "%s: its tokenizer (model %.40s, pre-tokenizer %.40s) is not known; llama is, and gpt2 "
            "with gpt-2, smollm, llama-bpe or qwen2",
            gguf_name(g), model, pre);
    error_help(context, "Token ids work without a tokenizer: [[464, 412]].");
    return status;
}

inset_status gguf_tokenizer(inset_context *context, const gguf *g, char **out, size_t *length)
{
    const char *model = "none", *pre = "none";
    const size_t n = gguf_length(g, KEY "tokens");
    writer w = {.context = context};
    *out = NULL;
    *length = 0;
    gguf_text(g, KEY "model", &model);
    gguf_text(g, KEY "pre", &pre);
    const bool scored = !strcmp(model, "llama");
    const byte_kind *kind = strcmp(model, "gpt2") ? NULL : byte_kind_of(pre);
    if (scored ? unknown_form(g) || !n || gguf_length(g, KEY "scores") != n : !kind)
        return refuse(context, g, model);
    writer_add(&w, "{");
    if (scored) add_scores_model(&w, g, n);
    else add_bytes_model(&w, g, n, kind);
    writer_add(&w, "}");
    return writer_finish(&w, INSET_OK, out, length);
}
