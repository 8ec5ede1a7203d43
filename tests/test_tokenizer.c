/* test_tokenizer.c: texts to token ids.
 *
 *   cases        what Hugging Face's tokenizers makes of the same files (fixtures/tokenizers, made
 *                by make_tokenizers.py), with and without special tokens; and SentencePiece of the
 *                vocabularies of GGUF files (make_sentencepiece.py)
 *   pieces       the pieces of a text, put together, are the text
 *   long         a word of 200,000 letters, in the time that its length takes
 *   refusals     parts of a file that are not known, or wrong; text that is no UTF-8
 *   model        a model's tokenizer through the public API; words in scripts and sweeps
 *   no memory    each allocation fails in turn */
#include "test.h"

#include "failing_allocator.h"
#include "file/file.h"
#include "text/tokenizer.h"

#include <unistd.h>

static const char *const files[] = {"gpt2", "gpt2_prefix", "gpt_neox", "llama3", "qwen2", "smollm2",
    "olmo2", "llama", "mistral", "metaspace", "gemma2", "phi3", "lower", "words", "small",
    "sentencepiece_llama", "sentencepiece_gemma2", "sentencepiece_phi3"};
enum { N_FILES = sizeof files / sizeof *files };

/* ---- cases --------------------------------------------------------------- */

static void same_ids(inset_context *context, tokenizer *t, const char *file, const char *text,
    bool special, const json_node *want)
{
    id_list got;
    inset_status status = tokenizer_encode(t, text, strlen(text), special, &got);
    CHECK(!status, "%s, '%s': %s", file, text, inset_message(context));
    CHECK(got.count == json_length(want), "%s, '%s', special %d: %zu ids were expected, found %zu",
        file, text, special, json_length(want), got.count);
    for (size_t i = 0; i < got.count && i < json_length(want); i++) {
        int64_t id = -1;
        json_as_integer(json_item(want, i), &id);
        CHECK(got.ids[i] == id, "%s, '%s', special %d, %zu: %lld was expected, found %lld", file,
            text, special, i, (long long)id, (long long)got.ids[i]);
    }
    id_list_free(context, &got);
}

static void path_of(const char *name, char *path, size_t size)
{
    const bool gguf = !strncmp(name, "sentencepiece_", 14);
    snprintf(path, size, "fixtures/tokenizers/%s.%s", name, gguf ? "gguf" : "json");
}

static void agrees(inset_context *context, const char *name)
{
    char path[128], *bytes;
    size_t size, cases = 0;
    tokenizer *t = NULL;
    path_of(name, path, sizeof path);
    NEED(!tokenizer_open(context, path, &t), "%s", inset_message(context));
    snprintf(path, sizeof path, "fixtures/tokenizers/%s.cases", name);
    NEED(!file_read(context, path, 1 << 24, &bytes, &size), "%s", inset_message(context));
    for (char *line = bytes, *end; line < bytes + size; line = end + 1, cases++) {
        json_document *d;
        const char *text = "";
        end = memchr(line, '\n', (size_t)(bytes + size - line));
        NEED(end && !json_parse(context, name, line, (size_t)(end - line), &d), "%s",
            inset_message(context));
        const json_node *root = json_root(d);
        json_as_string(json_item(root, 0), &text);
        same_ids(context, t, name, text, true, json_item(root, 1));
        same_ids(context, t, name, text, false, json_item(root, 2));
        json_close(d);
    }
    CHECK(cases > 100, "%s: %zu cases", name, cases);
    memory_free(context, bytes);
    tokenizer_free(t);
}

/* ---- pieces -------------------------------------------------------------- */

static void shows(inset_context *context, const char *file, const char *given, const char *want)
{
    char path[128];
    tokenizer *t = NULL;
    id_list ids = {0};
    text all = {0};
    path_of(file, path, sizeof path);
    NEED(!tokenizer_open(context, path, &t)
             && !tokenizer_encode(t, given, strlen(given), false, &ids),
        "%s", inset_message(context));
    for (size_t i = 0; i < ids.count; i++) tokenizer_piece(t, ids.ids[i], &all);
    CHECK(all.bytes && !strcmp(all.bytes, want), "%s: '%s' was expected, found '%s'", file, want,
        all.bytes ? all.bytes : "");
    text_clear(&all);
    tokenizer_piece(t, 1 << 20, &all);
    CHECK(all.bytes && !strcmp(all.bytes, "#1048576"), "an id without a token: %s", all.bytes);
    text_free(context, &all);
    id_list_free(context, &ids);
    tokenizer_free(t);
}

static void long_word(inset_context *context)
{
    enum { LETTERS = 200000 };
    char *word = malloc(LETTERS);
    tokenizer *t = NULL;
    id_list ids = {0};
    for (int i = 0; i < LETTERS; i++) word[i] = "When Mary gave"[i % 14];
    NEED(!tokenizer_open(context, "fixtures/tokenizers/llama.json", &t)
             && !tokenizer_encode(t, word, LETTERS, true, &ids),
        "%s", inset_message(context));
    CHECK(ids.count > LETTERS / 14 && ids.count < LETTERS, "%zu tokens", ids.count);
    id_list_free(context, &ids);
    tokenizer_free(t);
    free(word);
}

/* ---- refusals ------------------------------------------------------------ */

#define VOCABULARY "\"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": [\"a b\"]"
#define MODEL "\"model\": {\"type\": \"BPE\", " VOCABULARY "}"
typedef struct refusal {
    const char *json, *says;
} refusal;
static const refusal refusals[] = {
    {"[]", "an object was expected"},
    {"{", "t.json"},
    {"{}", "there is no model"},
    {"{\"model\": {\"type\": \"Unigram\"}}", "the model Unigram is not known"},
    {"{\"model\": {\"type\": \"WordPiece\"}}", "the model WordPiece is not known"},
    {"{\"model\": {\"type\": \"BPE\"}}", "the model has no vocab"},
    {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}}}", "the model has no merges"},
    {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": -1}, \"merges\": []}}",
        "a token has the id -1"},
    {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 99999999}, \"merges\": []}}",
        "a token has the id 99999999"},
    {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 0}, \"merges\": []}}",
        "two tokens have the id 0"},
    {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": \"x\"}, \"merges\": []}}", "no integer"},
    {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a b\"]}}",
        "the merge of 'a' and 'b' is of no tokens"},
    {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"ab\"]}}",
        "a merge is two tokens"},
    {"{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [[\"a\"]]}}",
        "a merge is two tokens"},
    {"{\"model\": {\"type\": \"BPE\", \"dropout\": 0.1, " VOCABULARY "}}", "dropout"},
    {"{\"model\": {\"type\": \"BPE\", \"end_of_word_suffix\": \"</w>\", " VOCABULARY "}}",
        "end_of_word_suffix </w> is not known"},
    {"{\"normalizer\": {\"type\": \"Precompiled\"}, " MODEL "}",
        "the normalizer Precompiled is not known"},
    {"{\"normalizer\": {\"type\": \"Sequence\"}, " MODEL "}", "a Sequence without its parts"},
    {"{\"normalizer\": {\"type\": \"Replace\", \"content\": \"x\"}, " MODEL "}",
        "a pattern was expected"},
    {"{\"pre_tokenizer\": {\"type\": \"UnicodeScripts\"}, " MODEL "}",
        "the pre-tokenizer UnicodeScripts is not known"},
    {"{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"(a\"}, \"behavior\": "
     "\"Isolated\"}, " MODEL "}",
        "the regular expression '(a' is not understood"},
    {"{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"a\"}, \"behavior\": "
     "\"Somehow\"}, " MODEL "}",
        "the behavior Somehow is not known"},
    {"{\"pre_tokenizer\": {\"type\": \"Metaspace\", \"prepend_scheme\": \"last\"}, " MODEL "}",
        "the prepend_scheme last is not known"},
    {"{\"post_processor\": {\"type\": \"BertProcessing\"}, " MODEL "}",
        "the post-processor BertProcessing is not known"},
    {"{\"post_processor\": {\"type\": \"TemplateProcessing\"}, " MODEL "}", "has no single"},
    {"{\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": []}, " MODEL "}",
        "leaves the text out"},
    {"{\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": "
     "{\"id\": \"<s>\"}}]}, " MODEL "}",
        "a token that it has no ids of"},
};

static void refuses(inset_context *context, const refusal *r)
{
    tokenizer *t = NULL;
    inset_status status = tokenizer_parse(context, "t.json", r->json, strlen(r->json), &t);
    CHECK(status == INSET_FILE_ERROR && !t && strstr(inset_message(context), r->says),
        "%s: '%s' was expected, found %s: %s", r->json, r->says, inset_status_name(status),
        inset_message(context));
    tokenizer_free(t);
}

static void refuses_bytes(inset_context *context)
{
    static const struct {
        const char *text;
        size_t length;
        int at;
    } bad[] = {{"a\xff", 2, 1}, {"\x80", 1, 0}, {"ab\xe2\x82", 4, 2}, {"\xc0\xaf", 2, 0},
        {"\xed\xa0\x80", 3, 0}, {"x\xf4\x90\x80\x80", 5, 1}};
    tokenizer *t = NULL;
    NEED(!tokenizer_open(context, "fixtures/tokenizers/gpt2.json", &t), "%s",
        inset_message(context));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        id_list ids;
        char says[64];
        snprintf(says, sizeof says, "no UTF-8 from its byte %d on", bad[i].at);
        inset_status status = tokenizer_encode(t, bad[i].text, bad[i].length, true, &ids);
        CHECK(status == INSET_VALUE_ERROR && strstr(inset_message(context), says) && !ids.count,
            "%zu: %s", i, inset_message(context));
    }
    tokenizer_free(t);
}

/* ---- a model ------------------------------------------------------------- */

static void copy(const char *from, const char *folder, const char *name)
{
    char to[256];
    size_t size;
    char *bytes = test_read(from, &size);
    snprintf(to, sizeof to, "%s/%s", folder, name);
    FILE *file = fopen(to, "wb");
    NEED(bytes && file && fwrite(bytes, 1, size, file) == size && !fclose(file), "%s", to);
    free(bytes);
}

static void speaks(inset_context *context, const char *folder)
{
    inset_model *model = NULL;
    inset_model_options on = INSET_MODEL_OPTIONS;
    inset_sweep *sweep[2] = {NULL, NULL};
    inset_sweep_result r[2];
    int64_t ids[8];
    size_t count = 0;
    char piece[32], small[4];
    on.device = "cpu";
    NEED(!inset_model_open(context, folder, &on, &model), "%s", inset_message(context));
    CHECK(!inset_tokens(model, "When Mary gave", 1, ids, 8, &count) && count == 4 && ids[0] == 0,
        "%zu tokens: %s", count, inset_message(context));
    CHECK(!inset_tokens(model, "When Mary gave", 0, NULL, 0, &count) && count == 3, "%zu", count);
    CHECK(inset_tokens(model, "When Mary gave", 0, NULL, 8, &count) == INSET_USAGE_ERROR, "%s",
        inset_message(context));
    CHECK(!inset_token_text(model, ids[2], piece, sizeof piece) && !strcmp(piece, " Mary"), "%s",
        piece);
    CHECK(!inset_token_text(model, ids[2], small, sizeof small) && !strcmp(small, " Ma"), "%s",
        small);
    const char *const words[] = {"logit_diff:\" Mary\",\" John\"+\" gave\"", NULL},
                      *numbers[] = {NULL, NULL};
    char text[64];
    int64_t answers[3];
    const char *const names[] = {" Mary", " John", " gave"};
    for (int i = 0; i < 3; i++)
        CHECK(!inset_tokens(model, names[i], 0, &answers[i], 1, &count) && count == 1, "%s",
            names[i]);
    snprintf(text, sizeof text, "logit_diff:%lld,%lld+%lld", (long long)answers[0],
        (long long)answers[1], (long long)answers[2]);
    numbers[0] = text;
    for (int k = 0; k < 2; k++) {
        inset_sweep_options o = INSET_SWEEP_OPTIONS;
        char lists[2][64];
        for (int c = 0; c < 2; c++) {
            NEED(!inset_tokens(model, c ? "When John gave" : "When Mary gave", 1, ids, 8, &count),
                "%s", inset_message(context));
            snprintf(lists[c], sizeof lists[c], "[[%lld, %lld, %lld, %lld]]", (long long)ids[0],
                (long long)ids[1], (long long)ids[2], (long long)ids[3]);
        }
        o.clean.text = k ? lists[0] : "When Mary gave";
        o.corrupt.text = k ? lists[1] : "[\"When John gave\"]";
        o.patch = "resid_pre";
        o.metrics = k ? numbers : words;
        inset_status status = inset_sweep_create(model, &o, &sweep[k]);
        while (!status && !inset_sweep_done(sweep[k])) status = inset_sweep_step(sweep[k]);
        if (!status) status = inset_sweep_result_at(sweep[k], 0, &r[k]);
        NEED(!status, "%s", inset_message(context));
    }
    for (int64_t i = 0; i < r[0].points; i++)
        CHECK(r[0].values[i] == r[1].values[i], "point %lld: %g and %g", (long long)i,
            r[0].values[i], r[1].values[i]);
    CHECK(r[0].axes[1].texts && !strcmp(r[0].axes[1].texts[2], " Mary"), "positions have texts");
    inset_model_free(model);
}

static void says_what_is_missing(inset_context *context)
{
    static const struct {
        const char *folder;
        inset_status status;
        const char *says;
    } cases[] = {
        {"fixtures/gpt2", INSET_FILE_ERROR, "there is no tokenizer.json, which a text needs"},
        {"fixtures/notebook", INSET_TYPE_ERROR, "takes numbers [batch, in], not a text"}};
    inset_model_options on = INSET_MODEL_OPTIONS;
    on.device = "none";
    for (size_t i = 0; i < 2; i++) {
        inset_model *model = NULL;
        size_t count = 7;
        NEED(
            !inset_model_open(context, cases[i].folder, &on, &model), "%s", inset_message(context));
        inset_status status = inset_tokens(model, "a", 1, NULL, 0, &count);
        CHECK(status == cases[i].status && !count && strstr(inset_message(context), cases[i].says),
            "%s: %s", cases[i].folder, inset_message(context));
        inset_model_free(model);
    }
}

/* A tokenizer that puts a space before each text: an answer needs none of its own. */
static void prefixes(inset_context *context, const char *folder)
{
    inset_model_options on = INSET_MODEL_OPTIONS;
    inset_model *model = NULL;
    inset_sweep *sweep = NULL;
    on.device = "cpu";
    NEED(!inset_model_open(context, folder, &on, &model), "%s", inset_message(context));
    inset_sweep_options o = INSET_SWEEP_OPTIONS;
    o.clean.text = "[[1, 2]]";
    o.corrupt.text = "[[1, 3]]";
    o.patch = "resid_pre";
    o.metrics = (const char *const[]){"logit:\" Mar\"", NULL};
    CHECK(inset_sweep_create(model, &o, &sweep) == INSET_VALUE_ERROR
              && strstr(inset_message(context), "the answer ' Mar' is 2 tokens, '  ' 'Mar'")
              && strstr(inset_message(context), "puts the space there by itself: \"Mar\""),
        "%s", inset_message(context));
    inset_model_free(model);
}

static void with_tokenizer(inset_context *context, const char *tokenizer_file,
    void (*check)(inset_context *, const char *))
{
    char folder[] = "/tmp/inset-text-XXXXXX", path[256];
    static const char *const names[] = {"config.json", "model.safetensors", "tokenizer.json"};
    NEED(mkdtemp(folder), "no folder");
    copy("fixtures/gpt2/config.json", folder, names[0]);
    copy("fixtures/gpt2/model.safetensors", folder, names[1]);
    copy(tokenizer_file, folder, names[2]);
    check(context, folder);
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        remove(path);
    }
    remove(folder);
}

/* ---- no memory ----------------------------------------------------------- */

static void survives_no_memory(void)
{
    static const char text[] = "  When 12 Mary's <|im_end|> caf\xc3\xa9\n\n";
    for (int f = 0; f < 2; f++) {
        const char *path = f ? "fixtures/tokenizers/llama.json" : "fixtures/tokenizers/qwen2.json";
        failing_allocator memory = {.fail_at = 0};
        inset_context *context = NULL;
        inset_status status = INSET_NO_MEMORY;
        NEED(!inset_context_create(failing_allocator_interface(&memory), &context), "no context");
        const int64_t live = memory.live;
        int tried = 0;
        for (int64_t n = 1; status == INSET_NO_MEMORY && n < 3000; n++, tried++) {
            tokenizer *t = NULL;
            id_list ids = {0};
            memory.calls = 0;
            memory.fail_at = n;
            status = tokenizer_open(context, path, &t);
            if (!status) status = tokenizer_encode(t, text, strlen(text), true, &ids);
            memory.fail_at = 0;
            CHECK(!status || status == INSET_NO_MEMORY, "%lld: %s", (long long)n,
                inset_message(context));
            id_list_free(context, &ids);
            tokenizer_free(t);
            CHECK(memory.damaged == 0 && memory.live <= live + 8, "%lld: %lld blocks", (long long)n,
                (long long)memory.live);
        }
        CHECK(!status && tried > 15, "%d tries: %s", tried, inset_message(context));
        inset_context_free(context);
        CHECK(memory.live == 0, "%lld blocks left", (long long)memory.live);
    }
}

int main(void)
{
    inset_context *context = NULL;
    if (!CHECK(!inset_context_create(NULL, &context), "no context")) return test_result();
    for (int i = 0; i < N_FILES; i++) agrees(context, files[i]);
    shows(context, "gpt2", "When Mary\n caf\xc3\xa9", "When Mary\\n caf\\xc3\\xa9");
    shows(context, "llama3", "x\x01y", "x\\x01y");
    shows(context, "llama", "When Mary", " When Mary");
    shows(context, "mistral", "a\xe2\x98\x83", " a\\xe2\\x98\\x83");
    long_word(context);
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) refuses(context, &refusals[i]);
    refuses_bytes(context);
    with_tokenizer(context, "fixtures/tokenizers/small.json", speaks);
    with_tokenizer(context, "fixtures/tokenizers/llama.json", prefixes);
    says_what_is_missing(context);
    inset_context_free(context);
    survives_no_memory();
    return test_result();
}
