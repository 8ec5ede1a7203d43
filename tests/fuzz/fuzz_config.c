/* fuzz_config.c: any bytes as a config.json, from which a family builds its program. What is built
 * must be consistent: later layers index its arrays without checking. */
#include "fuzz.h"
#include "models/models.h"

#include <string.h>

static const char *const words[] = {"{", "}", "[", "]", ",", "null", "true", "false", "0", "1", "2",
    "3", "1e-05", "-1", "257", "16777216", "\"gpt2\"", "\"gpt_neox\"", "\"llama\"", "\"mistral\"",
    "\"qwen2\"", "\"qwen3\"", "\"gemma2\"", "\"phi3\"", "\"olmo2\"", "\"sequential\"",
    "\"n_embd\":", "\"n_head\":", "\"n_inner\":", "\"activation_function\":\"relu\"",
    "\"hidden_size\":", "\"head_dim\":", "\"num_key_value_heads\":",
    "\"rope_scaling\":{\"rope_type\":\"llama3\"}",
    "\"rope_parameters\":", "\"partial_rotary_factor\":", "\"layer_types\":[\"full_attention\"]",
    "\"sliding_window\":", "\"tie_word_embeddings\":", "\"linear\"", "\"layernorm\"", "\"relu\"",
    "\"in\":", "\"out\":", NULL};
const fuzz_hints fuzz_target = {words, NULL};

/* Programs of many layers are right but slow to look at one by one. */
static bool is_large(const json_document *document)
{
    static const char *const keys[] = {"n_layer", "num_hidden_layers"};
    for (size_t i = 0; i < 2; i++) {
        int64_t n = 0;
        if (json_as_integer(json_member(json_root(document), keys[i]), &n) && n > 8) return true;
    }
    return false;
}

static void check_program(const program *p)
{
    for (size_t i = 0; i < p->n_slots; i++) {
        const slot *s = &p->slots[i];
        fuzz_need(s->source < (int32_t)i && s->value >= 0 && (size_t)s->value < p->n_values,
            "a slot refers to nothing");
        int32_t width = s->shape.n_columns == 2   ? s->shape.extent[0] * s->shape.extent[1]
                        : s->shape.n_columns == 1 ? s->shape.extent[0]
                                                  : 1;
        fuzz_need(s->shape.by_keys
                      || (width >= 1 && s->shape.column >= 0
                          && s->shape.column + width <= p->values[s->value].width),
            "a slot shows what is not there");
    }
    for (size_t i = 0; i < p->n_steps; i++) {
        const step *s = &p->steps[i];
        for (int32_t o = 0; o < s->n_operands; o++)
            fuzz_need(p->slots[s->operands[o]].event < s->event, "a step reads what comes later");
        fuzz_need(s->weight < (int32_t)p->n_weights && s->bias < (int32_t)p->n_weights,
            "a weight that is not there");
    }
    for (size_t i = 0; i < p->n_sites; i++)
        fuzz_need((size_t)p->sites[i].slot < p->n_slots && (size_t)p->sites[i].event < p->n_events,
            "a site without a slot");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_run run;
    json_document *document;
    inset_context *context = fuzz_start(&run);
    inset_status status = json_parse(context, "config.json", data, size, &document);
    if (!status && !is_large(document)) {
        program *p;
        status = models_build(context, document, false, &p);
        if (!status) check_program(p);
        else
            fuzz_need(!p && (status == INSET_FILE_ERROR || status == INSET_NO_MEMORY),
                "a refusal is a FileError and gives nothing");
        program_free(p);
    }
    json_close(document);
    fuzz_end(&run, status);
    return 0;
}
