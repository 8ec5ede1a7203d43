/* fuzz_gguf.c: any bytes as a GGUF file. Tensors lie inside the bytes and are read to their end; a
 * config and a tokenizer come out as JSON, or a refusal. */
#include "fuzz.h"
#include "file/gguf/gguf.h"

#include <string.h>

static const char *const words[] = {"GGUF", "general.architecture", "llama", "qwen2",
    "general.alignment", "llama.block_count", "llama.embedding_length", "llama.rope.freq_base",
    "token_embd.weight", "blk.0.attn_q.weight", "blk.0.ffn_up.weight", "output.weight",
    "rope_freqs.weight", "tokenizer.ggml.model", "gpt2", "tokenizer.ggml.pre", "smollm",
    "tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.token_type",
    "tokenizer.ggml.scores", "tokenizer.ggml.add_space_prefix", NULL};

const fuzz_hints fuzz_target = {words, NULL};

static void read_tensors(inset_context *context, const gguf *g, const uint8_t *data, size_t size)
{
    arena memory;
    file_tensor *tensors;
    size_t count;
    arena_start(&memory, context);
    if (!gguf_weights(g, &memory, &tensors, &count))
        for (size_t i = 0; i < count; i++) {
            const gguf_tensor *t = gguf_find(g, gguf_at(g, i)->name);
            fuzz_need(t == gguf_at(g, i) && (const uint8_t *)t->data >= data
                          && (const uint8_t *)t->data + t->bytes <= data + size,
                "a tensor outside the file");
            if (tensors[i].bytes > 1 << 20) continue;
            float *numbers = memory_new(context, tensors[i].bytes + 1);
            if (numbers) gguf_numbers(&tensors[i], numbers);
            memory_free(context, numbers);
        }
    arena_free(&memory);
}

static void read_texts(inset_context *context, const gguf *g)
{
    for (int k = 0; k < 2; k++) {
        char *text = NULL;
        size_t length;
        json_document *document = NULL;
        inset_status status = (k ? gguf_tokenizer : gguf_config)(context, g, &text, &length);
        fuzz_need(!status == !!text, "a text, or a refusal");
        /* texts of the file that are no UTF-8 are Jansson's to refuse */
        if (text) status = json_parse(context, "made", text, length, &document);
        json_close(document);
        memory_free(context, text);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_run run;
    gguf *g;
    inset_context *context = fuzz_start(&run);
    inset_status status = gguf_parse(context, "input.gguf", data, size, &g);
    if (!status) {
        read_tensors(context, g, data, size);
        read_texts(context, g);
    } else
        fuzz_need((status == INSET_FILE_ERROR || status == INSET_NO_MEMORY) && !g,
            "a refusal is a FileError and gives nothing");
    gguf_close(g);
    fuzz_end(&run, status);
    return 0;
}
