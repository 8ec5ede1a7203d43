/* test_gguf.c: quantised checkpoints.
 *
 *   blocks      random blocks of every kind, bit for bit what the package `gguf` makes of them
 *   models      small files of each architecture, of mixed kinds: transformers' logits of the same
 *               file, and text by the file's own tokenizer
 *   refusals    what is no GGUF file, or one of something unknown; files cut off anywhere
 *   no memory   each allocation fails in turn */
#include "test.h"

#include "failing_allocator.h"
#include "file/gguf/gguf.h"

#include <unistd.h>

/* ---- blocks -------------------------------------------------------------- */

static void widens(const safetensors *file, const char *name)
{
    char key[32];
    const gguf_block *block = NULL;
    for (uint32_t type = 0; type < 64; type++)
        if (gguf_block_of(type) && !strcmp(gguf_block_of(type)->name, name))
            block = gguf_block_of(type);
    snprintf(key, sizeof key, "%s.blocks", name);
    const file_tensor *raw = safetensors_find(file, key);
    snprintf(key, sizeof key, "%s.numbers", name);
    const file_tensor *want = safetensors_find(file, key);
    NEED(block && raw && want && raw->shape[1] == block->bytes
             && want->shape[0] == raw->shape[0] * block->numbers,
        "%s", name);
    const int64_t n = want->shape[0];
    float *got = malloc((size_t)n * sizeof *got);
    gguf_widen(block->type, raw->data, n, got);
    for (int64_t i = 0; i < n; i++) {
        float number;
        memcpy(&number, (const char *)want->data + (size_t)i * 4, 4);
        CHECK(!memcmp(&got[i], &number, 4) || (isnan(got[i]) && isnan(number)),
            "%s, number %lld: %.9g expected, %.9g found", name, (long long)i, number, got[i]);
    }
    free(got);
}

static void all_blocks(inset_context *context)
{
    static const char *const names[] = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K",
        "Q4_K", "Q5_K", "Q6_K", "Q8_K", "F16", "BF16", "F32"};
    safetensors *file;
    NEED(!safetensors_open(context, "fixtures/gguf/blocks.safetensors", &file), "%s",
        inset_message(context));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) widens(file, names[i]);
    safetensors_close(file);
}

/* ---- models -------------------------------------------------------------- */

static void same_logits(inset_context *context, const char *name)
{
    char path[128];
    safetensors *file;
    inset_model *model = NULL;
    inset_trace *t = NULL;
    inset_plan *plan = NULL;
    inset_value *x;
    inset_tensor got;
    inset_model_options on = INSET_MODEL_OPTIONS;
    on.device = "cpu";
    snprintf(path, sizeof path, "fixtures/gguf/%s.safetensors", name);
    NEED(!safetensors_open(context, path, &file), "%s", inset_message(context));
    const file_tensor *prompt = safetensors_find(file, "prompt"),
                      *want = safetensors_find(file, "logits");
    snprintf(path, sizeof path, "fixtures/gguf/%s.gguf", name);
    inset_status s = inset_model_open(context, path, &on, &model);
    if (!s) s = inset_trace_create(model, &t);
    if (!s) s = inset_invoke_tokens(t, 1, prompt->shape, prompt->data);
    if (!s) s = inset_get(t, "output.logits", &x);
    if (!s) s = inset_save(t, "logits", x);
    if (!s) s = inset_plan_create(t, NULL, &plan);
    if (!s) s = inset_run(plan);
    if (!s) s = inset_saved(plan, "logits", &got);
    CHECK(!s && inset_tensor_count(&got) == want->shape[0] * want->shape[1], "%s: %s", name,
        inset_message(context));
    double apart = 0, size = 0;
    for (int64_t i = 0; !s && i < inset_tensor_count(&got); i++) {
        float number;
        memcpy(&number, (const char *)want->data + (size_t)i * 4, 4);
        const double d = inset_tensor_element(&got, i) - number;
        apart += d * d, size += (double)number * number;
    }
    CHECK(
        !s && size > 1 && apart < 1e-11 * size, "%s: relative error %g", name, sqrt(apart / size));
    int64_t ids[8];
    size_t count = 0;
    CHECK(!inset_tokens(model, "When Mary gave", 1, ids, 8, &count) && count == 4 && ids[0] == 0
              && ids[2] == 32,
        "%s: %zu tokens: %s", name, count, inset_message(context));
    inset_model_free(model);
    safetensors_close(file);
}

/* ---- refusals ------------------------------------------------------------ */

/* A file piece by piece. */
typedef struct maker {
    unsigned char bytes[4096];
    size_t n;
} maker;
static void put(maker *m, const void *bytes, size_t n)
{
    memcpy(m->bytes + m->n, bytes, n);
    m->n += n;
}
static void put32(maker *m, uint32_t x) { put(m, &x, 4); }
static void put64(maker *m, uint64_t x) { put(m, &x, 8); }
static void put_text(maker *m, const char *text)
{
    put64(m, strlen(text));
    put(m, text, strlen(text));
}
static maker begin(uint32_t version, uint64_t tensors, uint64_t entries)
{
    maker m = {.n = 0};
    put(&m, "GGUF", 4);
    put32(&m, version);
    put64(&m, tensors);
    put64(&m, entries);
    return m;
}

static void refuses(inset_context *context, const maker *m, const char *says)
{
    gguf *g = NULL;
    inset_status status = gguf_parse(context, "t.gguf", m->bytes, m->n, &g);
    CHECK(status == INSET_FILE_ERROR && !g && strstr(inset_message(context), says),
        "'%s' was expected, found %s: %s", says, inset_status_name(status), inset_message(context));
    gguf_close(g);
}

static maker one_tensor(
    const char *name, uint32_t n, uint64_t first, uint64_t second, uint32_t type, uint64_t offset)
{
    maker m = begin(3, 1, 0);
    put_text(&m, name);
    put32(&m, n);
    put64(&m, first);
    if (n > 1) put64(&m, second);
    put32(&m, type);
    put64(&m, offset);
    return m;
}

static void refuses_all(inset_context *context)
{
    maker m = {.n = 4, .bytes = "GGUX"};
    refuses(context, &m, "does not begin with GGUF");
    m = begin(1, 0, 0);
    refuses(context, &m, "neither 2 nor 3");
    m = begin(3, UINT64_MAX, 0);
    refuses(context, &m, "its counts");
    m = begin(3, 0, 3);
    refuses(context, &m, "beyond its end");
    m = begin(3, 0, 1);
    put_text(&m, "key");
    put32(&m, 77);
    refuses(context, &m, "a type that the format has not got");
    m = begin(3, 0, 1);
    put_text(&m, "key");
    put32(&m, 9);
    put32(&m, 8);
    put64(&m, (uint64_t)1 << 23);
    refuses(context, &m, "an array goes beyond its end");
    m = one_tensor("a", 9, 1, 1, 0, 0);
    refuses(context, &m, "a tensor's dimensions");
    m = one_tensor("a", 2, (uint64_t)1 << 40, (uint64_t)1 << 40, 0, 0);
    refuses(context, &m, "a tensor's dimensions");
    m = one_tensor("a", 2, 32, 2, 999, 0);
    refuses(context, &m, "tensor a has the type 999; F32, F16");
    m = one_tensor("a", 2, 33, 2, GGUF_Q4_0, 0);
    refuses(context, &m, "no whole blocks");
    m = one_tensor("a", 2, 32, 2, GGUF_Q4_0, 0);
    refuses(context, &m, "the data of tensor a goes beyond the end of the file");
    m = one_tensor("a", 2, 32, 2, GGUF_Q4_0, UINT64_MAX - 8);
    refuses(context, &m, "goes beyond the end of the file");
    inset_model *model = NULL;
    inset_model_options on = INSET_MODEL_OPTIONS;
    on.device = "cpu";
    CHECK(
        inset_model_open(context, "fixtures/none.gguf", &on, &model) == INSET_FILE_ERROR && !model,
        "no file: %s", inset_message(context));
}

/* An architecture, and vocabularies, that are not known. */
static void refuses_models(inset_context *context)
{
    gguf *g = NULL;
    char *text = NULL;
    size_t length;
    maker m = begin(3, 0, 2);
    put_text(&m, "general.architecture");
    put32(&m, 8);
    put_text(&m, "mamba");
    put_text(&m, "tokenizer.ggml.model");
    put32(&m, 8);
    put_text(&m, "wordpiece");
    NEED(!gguf_parse(context, "t.gguf", m.bytes, m.n, &g), "%s", inset_message(context));
    CHECK(gguf_config(context, g, &text, &length) == INSET_FILE_ERROR && !text
              && strstr(inset_message(context), "its architecture, mamba, is not known"),
        "%s", inset_message(context));
    CHECK(gguf_tokenizer(context, g, &text, &length) == INSET_FILE_ERROR && !text
              && strstr(
                  inset_message(context), "its tokenizer (model wordpiece, pre-tokenizer none)"),
        "%s", inset_message(context));
    gguf_close(g);
}

/* SentencePiece's vocabularies: scores for all tokens, and no normal form of its own. */
static void refuses_scores(inset_context *context)
{
    static const char *const says[] = {"its tokenizer has 1 scores for 2 tokens",
        "asks for tokenizer.ggml.remove_extra_whitespaces"};
    for (uint32_t k = 0; k < 2; k++) {
        gguf *g = NULL;
        char *text = NULL;
        size_t length;
        maker m = begin(3, 0, 3 + k);
        put_text(&m, "tokenizer.ggml.model");
        put32(&m, 8);
        put_text(&m, "llama");
        put_text(&m, "tokenizer.ggml.tokens");
        put32(&m, 9);
        put32(&m, 8);
        put64(&m, 2);
        put_text(&m, "a");
        put_text(&m, "b");
        put_text(&m, "tokenizer.ggml.scores");
        put32(&m, 9);
        put32(&m, 6);
        put64(&m, 1 + k);
        put(&m, (float[2]){-1, -2}, 4 * (1 + k));
        if (k) {
            put_text(&m, "tokenizer.ggml.remove_extra_whitespaces");
            put32(&m, 7);
            put(&m, "\1", 1);
        }
        NEED(!gguf_parse(context, "t.gguf", m.bytes, m.n, &g), "%s", inset_message(context));
        CHECK(gguf_tokenizer(context, g, &text, &length) == INSET_FILE_ERROR && !text
                  && strstr(inset_message(context), says[k]),
            "%s", inset_message(context));
        gguf_close(g);
    }
}

/* Whatever is missing at the end is told, and nothing is read behind it. */
static void survives_cuts(inset_context *context)
{
    size_t size = 0;
    char *bytes = test_read("fixtures/gguf/llama.gguf", &size);
    NEED(bytes, "no file");
    for (size_t n = 0; n < size; n += n < 6000 ? 7 : 997) {
        char *cut = malloc(n + 1); /* so that a sanitizer sees the end */
        gguf *g = NULL;
        memcpy(cut, bytes, n);
        inset_status status = gguf_parse(context, "cut.gguf", cut, n, &g);
        CHECK(status == INSET_FILE_ERROR && !g, "cut at %zu: %s", n, inset_status_name(status));
        gguf_close(g);
        free(cut);
    }
    free(bytes);
}

/* ---- no memory ----------------------------------------------------------- */

static void survives_no_memory(void)
{
    failing_allocator memory = {.fail_at = 0};
    inset_context *context = NULL;
    inset_status status = INSET_NO_MEMORY;
    int tried = 0;
    NEED(!inset_context_create(failing_allocator_interface(&memory), &context), "no context");
    inset_model_options on = INSET_MODEL_OPTIONS;
    on.device = "cpu";
    for (int64_t n = 1; status == INSET_NO_MEMORY && n < 4000; n += n < 100 ? 1 : 3, tried++) {
        inset_model *model = NULL;
        size_t count;
        memory.calls = 0;
        memory.fail_at = n;
        status = inset_model_open(context, "fixtures/gguf/qwen2.gguf", &on, &model);
        if (!status) status = inset_tokens(model, "Mary", 1, NULL, 0, &count);
        memory.fail_at = 0;
        CHECK(
            !status || status == INSET_NO_MEMORY, "%lld: %s", (long long)n, inset_message(context));
        inset_model_free(model);
        CHECK(memory.damaged == 0, "%lld: written behind a block", (long long)n);
    }
    CHECK(!status && tried > 60, "%d tries: %s", tried, inset_message(context));
    inset_context_free(context);
    CHECK(memory.live == 0, "%lld blocks left", (long long)memory.live);
}

int main(void)
{
    inset_context *context = NULL;
    if (!CHECK(!inset_context_create(NULL, &context), "no context")) return test_result();
    all_blocks(context);
    same_logits(context, "llama");
    same_logits(context, "qwen2");
    same_logits(context, "qwen3");
    same_logits(context, "gemma2");
    same_logits(context, "phi3");
    refuses_all(context);
    refuses_models(context);
    refuses_scores(context);
    survives_cuts(context);
    inset_context_free(context);
    survives_no_memory();
    return test_result();
}
