/* fuzz_json_config.c: any bytes as a config.json, asked with every getter for the keys a model's
 * config has. */
#include "fuzz.h"
#include "file/file.h"

#include <string.h>

static const char *const words[] = {"{", "}", "[", "]", ",", ":", "null", "true", "false", "1e-05",
    "\"model_type\":", "\"gpt2\"", "\"llama\"", "\"sequential\"",
    "\"n_embd\":", "\"n_layer\":", "\"hidden_size\":", "\"rope_scaling\":", "\"rope_theta\":",
    "\"layers\":", "\"type\":", "\"linear\"",
    "\"layer_types\":", "\"eps\":", "\"activation_function\":", "\\u0000", "\\ud800", "\\", "\"",
    "\xff", "1e999", NULL};
const fuzz_hints fuzz_target = {words, NULL};

static const char *const keys[] = {"model_type", "n_embd", "n_layer", "hidden_size",
    "layer_norm_epsilon", "rope_scaling", "rope_theta", "layers", "layer_types",
    "tie_word_embeddings", "activation_function", "name", "type", "in", "", NULL};

/* A getter either succeeds or says why; what it gives is as announced. */
static void ask(inset_context *context, const json_document *d, const json_node *object)
{
    for (const char *const *key = keys; *key; key++) {
        int64_t integer = 3;
        double number = 0;
        bool yes = false;
        const char *text = "";
        inset_status status = json_need_integer(d, object, *key, 1, 100, &integer);
        fuzz_need(integer >= 1 && integer <= 100, "out of range");
        if (status) fuzz_need(*inset_message(context), "no message");
        json_get_integer(d, object, *key, INT64_MIN, INT64_MAX, &integer);
        json_get_number(d, object, *key, &number);
        json_get_bool(d, object, *key, &yes);
        if (!json_need_string(d, object, *key, &text)) fuzz_need(strlen(text) < SIZE_MAX, "a text");
        json_get_string(d, object, *key, &text);
    }
}

static void walk(inset_context *context, const json_document *d, const json_node *node, int depth)
{
    void *cursor = NULL;
    const char *key;
    const json_node *value;
    size_t members = 0;
    ask(context, d, node);
    if (depth == 4) return;
    for (; json_next(node, &cursor, &key, &value); members++)
        if (members < 8) walk(context, d, value, depth + 1);
    fuzz_need(json_is_object(node) ? members == json_length(node) : !members,
        "members and length differ");
    for (size_t i = 0; json_is_array(node) && i < json_length(node) && i < 8; i++)
        walk(context, d, json_item(node, i), depth + 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_run run;
    json_document *document;
    inset_context *context = fuzz_start(&run);
    inset_status status = json_parse(context, "config.json", data, size, &document);
    if (!status) walk(context, document, json_root(document), 0);
    else
        fuzz_need(
            status == INSET_FILE_ERROR && !document, "a refusal is a FileError and gives nothing");
    json_close(document);
    fuzz_end(&run, status);
    return 0;
}
