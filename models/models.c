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
    {"gptj", gptj_build},
    {"llama", llama_build},
    {"mistral", mistral_build},
    {"qwen2", qwen2_build},
    {"qwen3", qwen3_build},
    {"mixtral", mixtral_build},
    {"qwen3_moe", qwen3_moe_build},
    {"gpt_oss", gpt_oss_build},
    {"gemma", gemma_build},
    {"gemma2", gemma2_build},
    {"gemma3_text", gemma3_build},
    {"bloom", bloom_build},
    {"granite", granite_build},
    {"cohere", cohere_build},
    {"cohere2", cohere2_build},
    {"opt", opt_build},
    {"phi", phi_build},
    {"phi3", phi3_build},
    {"olmo", olmo_build},
    {"olmo2", olmo2_build},
    {"olmo3", olmo3_build},
    {"smollm3", smollm3_build},
    {"stablelm", stablelm_build},
    {"starcoder2", starcoder2_build},
    {"bert", bert_build},
    {"sequential", sequential_build},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

/* Models of images and text whose text alone goes through a decoder as it would without images. */
static const char *const composites[] = {
    "gemma3", "idefics3", "internvl", "llava", "llava_next", "mistral3", "smolvlm", NULL};

/* Help: the family whose name is nearest, and what serves for any model. */
static void help_unknown(config *c, const char *model_type)
{
    int limit = (int)strlen(model_type) / 3 + 1, nearest = -1;
    for (int i = 0; i < N_FAMILIES; i++) {
        const int distance = text_distance(model_type, families[i].model_type, limit);
        if (distance > limit) continue;
        limit = distance - 1;
        nearest = i;
    }
    if (nearest >= 0)
        error_help(c->context, "the nearest that is known is %s", families[nearest].model_type);
    error_help(c->context, "another architecture can be run as a chain of plain layers "
                           "(\"sequential\") or be built by "
                           "the C API (inset_builder_create)");
}

/* The family's place in the list, or -1 with the list of those there are as the message. */
static int find_family(config *c, const char *model_type)
{
    for (int i = 0; i < N_FAMILIES; i++)
        if (strcmp(families[i].model_type, model_type) == 0) return i;
    text known = {0};
    for (int i = 0; i < N_FAMILIES; i++)
        text_add(c->context, &known, "%s%s", i ? ", " : "", families[i].model_type);
    config_refuse(c, "'%smodel_type' must be one of %s, found \"%.60s\"",
        c->part_of ? "text_config." : "", known.bytes ? known.bytes : "", model_type);
    text_free(c->context, &known);
    help_unknown(c, model_type);
    return -1;
}

/* What would make any family's weights mean something else than their numbers. */
static void refuse_quantized(config *c)
{
    if (config_has(c, "quantization_config"))
        config_refuse(
            c, "'quantization_config' is set, and inset reads fp32, bf16 and fp16 weights only");
}

/* From a composite's config to that of its text. */
static void enter_text_config(config *c, const char **model_type)
{
    int i = 0;
    while (composites[i] && strcmp(composites[i], *model_type)) i++;
    if (c->status || !composites[i]) return;
    c->part_of = composites[i];
    c->object = json_member(c->object, "text_config");
    if (!json_is_object(c->object)) config_refuse(c, "'text_config' must be an object");
    else if (!config_has(c, "model_type"))
        config_refuse(c, "'text_config' must name its 'model_type'");
    else *model_type = config_string(c, "model_type", "");
    if (!c->status) refuse_quantized(c);
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
    refuse_quantized(&c);
    enter_text_config(&c, &model_type);
    int family = c.status ? -1 : find_family(&c, model_type);
    if (c.status) return c.status;

    program *p;
    inset_status status = program_create(context, model_type, &p);
    if (status) return status;
    p->ungroup = ungroup;
    p->part_of = c.part_of;
    families[family].build(&c, p);
    status = c.status ? c.status : program_finish(p);
    if (status) program_free(p);
    else *out = p;
    return status;
}
