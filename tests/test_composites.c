/* test_composites.c: the text part of models of images and text, and folders with an adapter alone.
 *
 * fixtures/llava is a model that transformers saved, with its logits. The other names that such
 * tensors have had, heads that are tied and heads that are not, are made from plain models'
 * fixtures, whose bits must come out. */
#include "files.h"
#include "inset.h"

#include <stdlib.h>
#include <sys/stat.h>

enum { MOST_TENSORS = 64 };
static const char script[] = "with invoke([[7, 31, 2, 55, 19, 4, 44, 8, 50, 11, 12]]):\n"
                             "    x = output.logits.save()\n";

/* The logits of a folder's model, [*count]; NULL, and a check that failed, where there are none. */
static float *logits_of(inset_context *context, const char *folder, const char *part_of, int64_t *n)
{
    inset_model_options on = INSET_MODEL_OPTIONS;
    inset_model *model = NULL;
    inset_trace *t = NULL;
    inset_plan *plan = NULL;
    inset_tensor x;
    float *out = NULL;
    on.device = "cpu";
    inset_status status = inset_model_open(context, folder, &on, &model);
    if (!status) status = inset_trace_create(model, &t);
    if (!status) status = inset_script(t, "s", "", script, strlen(script));
    if (!status) status = inset_plan_create(t, NULL, &plan);
    if (!status) status = inset_run(plan);
    if (!status) status = inset_saved(plan, "x", &x);
    if (CHECK(!status, "%s: %s", folder, inset_message(context))) {
        const char *found = inset_model_part_of(model);
        CHECK(part_of ? found && !strcmp(found, part_of) : !found, "%s: part of %s", folder,
            found ? found : "nothing");
        *n = inset_tensor_count(&x);
        out = malloc((size_t)*n * sizeof *out);
        memcpy(out, x.data, (size_t)*n * sizeof *out);
    }
    inset_model_free(model);
    return out;
}

static void as_transformers(inset_context *context)
{
    safetensors *file;
    const file_tensor *wanted;
    int64_t n = 0;
    double apart = 0, size = 0;
    float *found = logits_of(context, "fixtures/llava", "llava", &n);
    NEED(found && !safetensors_open(context, "fixtures/llava/logits.safetensors", &file), "%s",
        inset_message(context));
    NEED(!safetensors_need(file, "logits", &wanted), "%s", inset_message(context));
    CHECK(wanted->bytes == (size_t)n * sizeof *found, "%lld logits", (long long)n);
    for (int64_t i = 0; i < n; i++) {
        const double y = ((const float *)wanted->data)[i];
        apart += (found[i] - y) * (found[i] - y), size += y * y;
    }
    CHECK(apart < 1e-12 * size, "fixtures/llava: apart by %g of %g", apart, size);
    safetensors_close(file);
    free(found);
}

/* ---- other names -------------------------------------------------------- */

/* A composite made of a plain model's folder: its names with `inner` for "model." and `outer`
 * before the head, beside a tensor of another part. */
typedef struct naming {
    const char *family, *whole, *inner, *outer;
} naming;

static size_t rename_all(const naming *as, weight_files *from, file_tensor *to, char (*names)[160])
{
    static const float pixel[2] = {1, 2};
    size_t n = weight_files_count(from);
    if (!CHECK(n < MOST_TENSORS, "%s: %zu tensors", as->family, n)) return 0;
    for (size_t i = 0; i < n; i++) {
        to[i] = *weight_files_at(from, i);
        const bool inside = !strncmp(to[i].name, "model.", 6);
        snprintf(names[i], sizeof names[i], "%s%s", inside ? as->inner : as->outer,
            to[i].name + (inside ? 6 : 0));
        to[i].name = names[i];
    }
    to[n] = (file_tensor){"vision_tower.patch.weight", INSET_F32, 1, {2}, pixel, sizeof pixel, NULL,
        0, NULL, 0, false};
    return n + 1;
}

/* In the run's own folder. */
static void write_composite(inset_context *context, const naming *as)
{
    static char names[MOST_TENSORS][160];
    file_tensor tensors[MOST_TENSORS];
    char path[256], text[8192];
    weight_files *from;
    snprintf(path, sizeof path, "fixtures/%s", as->family);
    NEED(!weight_files_open(context, path, &from), "%s", inset_message(context));
    const size_t n = rename_all(as, from, tensors, names);
    CHECK(!safetensors_write(context, at("model.safetensors"), tensors, n, NULL), "%s",
        inset_message(context));
    weight_files_close(from);
    snprintf(path, sizeof path, "fixtures/%s/config.json", as->family);
    char *inner = test_read(path, NULL);
    snprintf(text, sizeof text, "{\"model_type\": \"%s\", \"text_config\": %s}", as->whole, inner);
    free(inner);
    write_text(at("config.json"), text);
}

static void same_as_plain(inset_context *context, const naming *as)
{
    char plain[256];
    int64_t n[2] = {0, 0};
    write_composite(context, as);
    snprintf(plain, sizeof plain, "fixtures/%s", as->family);
    float *wanted = logits_of(context, plain, NULL, &n[0]),
          *found = logits_of(context, directory, as->whole, &n[1]);
    if (wanted && found)
        CHECK(n[0] == n[1] && !memcmp(wanted, found, (size_t)n[0] * sizeof *found),
            "%s with %s and %s: other logits", as->family, as->inner, as->outer);
    free(wanted);
    free(found);
}

static const naming namings[] = {
    {"llama", "llava", "language_model.model.", "language_model."},
    {"llama", "llava", "model.language_model.", ""},
    {"llama", "idefics3", "model.text_model.", ""},
    {"mistral", "mistral3", "language_model.model.", "language_model."},
    {"mistral", "mistral3", "model.language_model.", ""},
    {"gemma3", "gemma3", "language_model.model.", "language_model."}, /* tied: without a head */
    {"gemma3", "gemma3", "model.language_model.", ""},
    {"qwen2", "internvl", "model.language_model.", ""},
};

/* ---- refusals ----------------------------------------------------------- */

static void refused(inset_context *context, const char *words, const char *help)
{
    inset_model_options on = INSET_MODEL_OPTIONS;
    inset_model *model = NULL;
    on.device = "cpu";
    const inset_status status = inset_model_open(context, directory, &on, &model);
    CHECK(status == INSET_FILE_ERROR && strstr(inset_message(context), words)
              && (!help || strstr(inset_message(context), help)),
        "\"%s\": %s", words, inset_message(context));
    inset_model_free(model);
}

static void refusals(inset_context *context)
{
    const naming strange = {"llama", "llava", "model.language_model.extra.", ""};
    write_composite(context, &strange);
    refused(context, "weights are missing", NULL);
    static const char *const configs[][2] = {
        {"{\"model_type\": \"llava\"}", "'text_config' must be an object"},
        {"{\"model_type\": \"llava\", \"text_config\": [1]}", "'text_config' must be an object"},
        {"{\"model_type\": \"llava\", \"text_config\": {}}", "must name its 'model_type'"},
        {"{\"model_type\": \"llava\", \"text_config\": {\"model_type\": 3}}", "model_type"},
        {"{\"model_type\": \"llava\", \"text_config\": {\"model_type\": \"lama\"}}",
            "'text_config.model_type' must be one of gpt2"},
        {"{\"model_type\": \"llava\", \"text_config\": {\"model_type\": \"llava\"}}",
            "'text_config.model_type' must be one of gpt2"},
        {"{\"model_type\": \"llava\", \"quantization_config\": {}, \"text_config\": {}}",
            "'quantization_config' is set"},
        {"{\"model_type\": \"gemma3\", \"text_config\": {\"model_type\": \"llava\", "
         "\"text_config\": {\"model_type\": \"llama\"}}}",
            "'text_config.model_type' must be one of gpt2"},
        {"{\"model_type\": \"llava\", \"text_config\": {\"model_type\": \"llama\", "
         "\"quantization_config\": {}}}",
            "'quantization_config' is set"},
        {"{\"model_type\": \"paligemma\", \"text_config\": {\"model_type\": \"gemma\"}}",
            "'model_type' must be one of gpt2"},
    };
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        write_text(at("config.json"), configs[i][0]);
        refused(context, configs[i][1], NULL);
    }
    write_text(at("config.json"), "{\"model_type\": \"mistrall\"}");
    refused(context, "found \"mistrall\"", "the nearest that is known is mistral");
    unlink(at("config.json"));
    refused(context, "config.json", NULL);
    write_text(at("adapter_config.json"), "{\"base_model_name_or_path\": \"meta/base\"}");
    refused(context, "is an adapter of meta/base", "merge_and_unload");
    write_text(at("adapter_config.json"), "{\"base_model_name_or_path\": 3}");
    refused(context, "is an adapter, and", "merge_and_unload");
    write_text(at("adapter_config.json"), "{");
    refused(context, "adapter_config.json", NULL);
    unlink(at("adapter_config.json"));
    unlink(at("model.safetensors"));
}

int main(void)
{
    inset_context *context = NULL;
    snprintf(directory, sizeof directory, "/tmp/inset_test_composites_XXXXXX");
    if (!CHECK(mkdtemp(directory), "no folder")) return test_result();
    if (CHECK(!inset_context_create(NULL, &context), "no context")) {
        as_transformers(context);
        for (size_t i = 0; i < sizeof namings / sizeof *namings; i++)
            same_as_plain(context, &namings[i]);
        refusals(context);
    }
    inset_context_free(context);
    rmdir(directory);
    return test_result();
}
