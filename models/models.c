/* models.c: the list of families, and what all configs have in common. */
#include "models/models.h"

#include <string.h>

static const struct {
    const char *model_type;
    void (*build)(config *c, program *p);
} families[] = {
    {"gpt2", gpt2_build},
    {"gpt_neo", gpt_neo_build},
    {"gpt_neox", gpt_neox_build},
    {"llama", llama_build},
    {"mistral", mistral_build},
    {"qwen2", qwen2_build},
    {"qwen3", qwen3_build},
    {"gemma", gemma_build},
    {"gemma2", gemma2_build},
    {"gemma3_text", gemma3_build},
    {"phi", phi_build},
    {"phi3", phi3_build},
    {"olmo2", olmo2_build},
    {"olmo3", olmo3_build},
    {"smollm3", smollm3_build},
    {"stablelm", stablelm_build},
    {"starcoder2", starcoder2_build},
    {"sequential", sequential_build},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

/* The family's place in the list, or -1 with the list of those there are as the message. */
static int find_family(config *c, const char *model_type)
{
    for (int i = 0; i < N_FAMILIES; i++)
        if (strcmp(families[i].model_type, model_type) == 0) return i;
    text known = {0};
    for (int i = 0; i < N_FAMILIES; i++)
        text_add(c->context, &known, "%s%s", i ? ", " : "", families[i].model_type);
    config_refuse(c, "'model_type' must be one of %s, found \"%.60s\"",
        known.bytes ? known.bytes : "", model_type);
    text_free(c->context, &known);
    return -1;
}

/* What would make any family's weights mean something else than their numbers. */
static void refuse_quantized(config *c)
{
    if (config_has(c, "quantization_config"))
        config_refuse(
            c, "'quantization_config' is set, and inset reads fp32, bf16 and fp16 weights only");
}

inset_status models_build(
    inset_context *context, const json_document *document, bool ungroup, program **out)
{
    config c = {.context = context, .document = document, .object = json_root(document)};
    const char *model_type = "";
    *out = NULL;
    if (!json_is_object(c.object))
        return error_set(context, INSET_FILE_ERROR, "%s: must be an object, {\"model_type\": ...}",
            json_document_name(document));
    c.status = json_need_string(document, c.object, "model_type", &model_type);
    int family = c.status ? -1 : find_family(&c, model_type);
    refuse_quantized(&c);
    if (c.status) return c.status;

    program *p;
    inset_status status = program_create(context, model_type, &p);
    if (status) return status;
    p->ungroup = ungroup;
    families[family].build(&c, p);
    status = c.status ? c.status : program_finish(p);
    if (status) program_free(p);
    else *out = p;
    return status;
}
