/* test_sweep_sites.c: sweeps of the sites inside attention and MLP against transformers' model, one
 * patched run after the other (fixtures/sweeps, made by sweep_cases.py); what the axes are called,
 * and what is refused.
 *
 *   expected     every point of every case of the fixtures
 *   axes         names and labels of a pattern's destinations and of key-value heads, in results
 *                and in the file's metadata
 *   sums         in every family the stream behind a block is the stream before it, attn_out and
 *                mlp_out
 *   spellings    TransformerLens' names are these sites with these axes
 *   refusals     axes and sites that are not there, heads beyond, tensors of the wrong shape */
#include "test.h"

#include "base/base.h"
#include "file/file.h"
#include "sweep/sweep.h"
#include "sweeps.h"

#include <unistd.h>

static const char clean[] = "[[5, 17, 42, 8, 33, 21], [1, 2, 3, 4]]",
                  corrupt[] = "[[5, 18, 42, 8, 33, 20], [1, 7, 3, 5]]";
static const char *const metrics[] = {"logit_diff:11,12", NULL};

/* An option from the name of a fixture's case: "pattern layer,head mean". */
static const char *source_of(
    const char *word, const char *fixture, const char *site, char *out, size_t size)
{
    if (!strcmp(word, "clean")) return NULL;
    if (!strcmp(word, "mean")) return "mean:[[4, 9, 2, 7, 1, 6], [8, 8, 3, 2, 9, 9, 1], [3, 2]]";
    if (!strcmp(word, "resample")) return "resample:[[9, 4, 40, 4, 1, 30, 12]]";
    if (strcmp(word, "tensor")) return word;
    snprintf(out, size, "%s:%s.tensor", fixture, site);
    return out;
}

static inset_sweep_options options_of(const char *patch, const char *by, const char *source)
{
    inset_sweep_options o = INSET_SWEEP_OPTIONS;
    o.clean.text = clean;
    o.corrupt.text = corrupt;
    o.patch = patch;
    o.by = by;
    o.source = source;
    o.metrics = metrics;
    return o;
}

static void agrees(
    inset_context *context, inset_model *model, const char *fixture, const file_tensor *want)
{
    char site[32], by[64], word[32], place[600];
    inset_sweep *sweep = NULL;
    inset_sweep_result r = {.n_axes = 0};
    NEED(sscanf(want->name, "%31s %63s %31s", site, by, word) == 3, "%s", want->name);
    inset_sweep_options o = options_of(
        site, by, source_of(word, fixture, site, place, sizeof place));
    inset_status status = inset_sweep_create(model, &o, &sweep);
    if (!status) status = run_all(sweep);
    if (!status) status = inset_sweep_result_at(sweep, 0, &r);
    CHECK(!status, "%s, %s: %s", fixture, want->name, inset_message(context));
    bool fits = want->n_dimensions == r.n_axes + 1 && want->shape[0] == r.pairs;
    for (int i = 0; i < r.n_axes && fits; i++) fits = want->shape[i + 1] == r.axes[i].count;
    CHECK(status || fits, "%s, %s: another shape", fixture, want->name);
    for (int64_t i = 0; !status && fits && i < r.pairs * r.points; i++) {
        float number = ((const float *)want->data)[i];
        CHECK((isnan(number) && isnan(r.values[i]))
                  || fabsf(r.values[i] - number) < 2e-5f * (1 + fabsf(number)),
            "%s, %s, number %lld: %.8g expected, %.8g found", fixture, want->name, (long long)i,
            number, r.values[i]);
    }
    inset_sweep_free(sweep);
}

static void agrees_with_transformers(inset_context *context, inset_model *model, const char *name)
{
    char path[512];
    safetensors *file = NULL;
    int cases = 0;
    snprintf(path, sizeof path, "fixtures/sweeps/%s.safetensors", name);
    NEED(!safetensors_open(context, path, &file), "%s", inset_message(context));
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const file_tensor *want = safetensors_at(file, i);
        if (!strchr(want->name, ' ')) continue;
        agrees(context, model, path, want);
        cases++;
    }
    CHECK(cases > 10, "%s: %d cases", name, cases);
    safetensors_close(file);
}

/* ---- what a block adds --------------------------------------------------- */

enum { N_PARTS = 4 };

/* Runs a prompt and sets out[] to the rows of four sites, which are in the order of a run. */
static inset_status run_parts(inset_model *model, const int32_t *sites, inset_tensor *out,
    inset_trace **trace, inset_plan **plan)
{
    char script[1200] = "with invoke([[5, 17, 42, 8, 33, 21]]):\n", name[8];
    for (int i = 0; i < N_PARTS; i++) {
        const size_t n = strlen(script);
        char path[200];
        program_site_name(model->program, sites[i], path, sizeof path);
        snprintf(script + n, sizeof script - n, "    x%d = %s.save()\n", i, path);
    }
    inset_status status = inset_trace_create(model, trace);
    if (!status) status = inset_script(*trace, "sums", "", script, strlen(script));
    if (!status) status = inset_plan_create(*trace, NULL, plan);
    if (!status) status = inset_run(*plan);
    for (int i = 0; i < N_PARTS && !status; i++) {
        snprintf(name, sizeof name, "x%d", i);
        status = inset_saved(*plan, name, &out[i]);
    }
    return status;
}

/* Where a norm follows each sum (BERT) what attention adds makes resid_mid, and what the MLP adds
 * is known by its place. */
static void adds_up(inset_context *context, const char *family, const inset_model_options *on)
{
    static const char *const usual[N_PARTS] = {"resid_pre", "attn_out", "mlp_out", "resid_post"},
                             *const with_norms[N_PARTS] = {
                                 "resid_pre", "attn_out", "mlp_out", "resid_mid"};
    const bool normed = !strcmp(family, "bert");
    const char *const *parts = normed ? with_norms : usual;
    char path[128];
    inset_model *model = NULL;
    sweep *places = NULL;
    snprintf(path, sizeof path, "fixtures/%s", family);
    inset_sweep_options o = options_of("attn_out", NULL, NULL);
    NEED(!inset_model_open(context, path, on, &model) && !sweep_create(model, &o, NULL, &places),
        "%s: %s", family, inset_message(context));
    for (int32_t layer = 0; layer < layers_count(model->program); layer++) {
        int32_t sites[N_PARTS];
        inset_tensor out[N_PARTS];
        inset_trace *trace = NULL;
        inset_plan *plan = NULL;
        for (int i = 0; i < N_PARTS; i++) sites[i] = layer_place(places, layer, parts[i]);
        program_site_name(model->program, sites[2], path, sizeof path);
        CHECK(!normed || strstr(path, ".output.dropout.output"), "%s: mlp_out is %s", family, path);
        if (normed) sites[2] = sites[1];
        inset_status status = run_parts(model, sites, out, &trace, &plan);
        CHECK(!status, "%s: %s", family, inset_message(context));
        const float *x[N_PARTS];
        for (int i = 0; i < N_PARTS && !status; i++) x[i] = out[i].data;
        for (int64_t i = 0; !status && i < out[0].shape[1] * out[0].shape[2]; i++)
            CHECK(fabsf(x[0][i] + x[1][i] + (normed ? 0 : x[2][i]) - x[3][i])
                      < 1e-5f * (1 + fabsf(x[3][i])),
                "%s, layer %d, number %lld: %g + %g + %g is not %g", family, (int)layer,
                (long long)i, x[0][i], x[1][i], x[2][i], x[3][i]);
        inset_plan_free(plan);
        inset_trace_free(trace);
    }
    sweep_free(places);
    inset_model_free(model);
}

/* ---- axes --------------------------------------------------------------- */

typedef struct axes_case {
    const char *patch, *by, *names;
    int64_t counts[3];
} axes_case;
static const axes_case gpt2_axes[] = {{"attn_head_pattern_all_pos", NULL, "layer head", {3, 4}},
    {"attn_head_pattern_by_pos", NULL, "layer head destination", {3, 4, 6}},
    {"attn_head_pattern", NULL, "layer head", {3, 4}},
    {"pattern", "destination,head", "destination head", {6, 4}},
    {"pattern", "layer,position", "layer destination", {3, 6}},
    {"scores", NULL, "layer head", {3, 4}}, {"pre", NULL, "layer position", {3, 6}},
    {"post", "layer", "layer", {3}},
    {"attn_head_out_by_pos", NULL, "layer position head", {3, 6, 4}},
    {"attn_head_k_all_pos", NULL, "layer head", {3, 4}}, {"k", "layer,head", "layer head", {3, 4}},
    {"attn_head_scores_by_pos", NULL, "layer head destination", {3, 4, 6}}};
static const axes_case llama_axes[] = {{"k", NULL, "layer key_value_head", {2, 2}},
    {"v", "key_value_head,layer", "key_value_head layer", {2, 2}},
    {"rot_k", NULL, "layer key_value_head", {2, 2}},
    {"attn_head_k_by_pos", NULL, "layer position key_value_head", {2, 6, 2}},
    {"q", NULL, "layer head", {2, 4}}, {"rot_q", NULL, "layer head", {2, 4}},
    {"z", NULL, "layer head", {2, 4}}, {"pattern", NULL, "layer head", {2, 4}},
    {"up", NULL, "layer position", {2, 6}}};

static void names_axes(inset_context *context, inset_model *model, const axes_case *c)
{
    inset_sweep *sweep = NULL;
    inset_sweep_result r;
    char names[128] = "";
    inset_sweep_options o = options_of(c->patch, c->by, NULL);
    NEED(!inset_sweep_create(model, &o, &sweep), "%s: %s", c->patch, inset_message(context));
    NEED(!inset_sweep_result_at(sweep, 0, &r), "%s", c->patch);
    for (int i = 0; i < r.n_axes; i++) {
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", i ? " " : "",
            r.axes[i].name);
        CHECK(r.axes[i].count == c->counts[i], "%s, %s: %lld places", c->patch, r.axes[i].name,
            (long long)r.axes[i].count);
        for (int64_t k = 0; k < r.axes[i].count; k++)
            CHECK(r.axes[i].labels[k] == k, "%s, %s: label %lld", c->patch, r.axes[i].name,
                (long long)r.axes[i].labels[k]);
    }
    CHECK(
        !strcmp(names, c->names), "%s: axes %s were expected, found %s", c->patch, c->names, names);
    inset_sweep_free(sweep);
}

static void file_names_axes(inset_context *context, inset_model *model)
{
    static const char *const says[] = {
        "\"k.axes\":\"[\\\"pair\\\", \\\"layer\\\", \\\"key_value_head\\\"]\"",
        "\"k.labels.key_value_head\":\"[0, 1]\"",
        ("\"attn_head_pattern_by_pos.axes\":\"[\\\"pair\\\", \\\"layer\\\", \\\"head\\\", "
         "\\\"destination\\\"]\""),
        "\"attn_head_pattern_by_pos.labels.destination\":\"[0, 1, 2, 3, 4, 5]\""};
    char path[] = "/tmp/inset-sites-XXXXXX";
    int made = mkstemp(path);
    inset_sweep *sweep = NULL;
    inset_sweep_options o = options_of("k,attn_head_pattern_by_pos", NULL, NULL);
    NEED(made >= 0 && close(made) == 0, "no file");
    NEED(!inset_sweep_create(model, &o, &sweep) && !run_all(sweep)
             && !inset_sweep_write(sweep, path, NULL),
        "%s", inset_message(context));
    char *bytes = test_read(path, NULL);
    for (size_t i = 0; bytes && i < sizeof says / sizeof *says; i++)
        CHECK(strstr(bytes + 8, says[i]), "metadata lacks %s", says[i]);
    free(bytes);
    remove(path);
    inset_sweep_free(sweep);
}

/* ---- refusals ----------------------------------------------------------- */

typedef struct refusal {
    const char *patch, *by, *heads, *source;
    inset_status status;
    const char *says;
} refusal;
static const refusal gpt2_refusals[] = {{"rot_k", NULL, NULL, NULL, INSET_UNKNOWN_SITE,
                                            "It has resid_pre, resid_mid, resid_post, attn_out, "
                                            "mlp_out, pre, post, z, q, k, v, result, "
                                            "q_input, k_input, v_input, pattern, scores."},
    {"up", NULL, NULL, NULL, INSET_UNKNOWN_SITE, "gpt2 has no up in layer 0"},
    {"patern", NULL, NULL, NULL, INSET_UNKNOWN_SITE, "Did you mean pattern?"},
    {"pre", "layer,head", NULL, NULL, INSET_VALUE_ERROR,
        "pre has no axis head: its axes are layer and position"},
    {"pre", "destination", NULL, NULL, INSET_VALUE_ERROR,
        "pre has no axis destination: its axes are layer and position"},
    {"z", "destination", NULL, NULL, INSET_VALUE_ERROR,
        "z has no axis destination: its axes are layer, position and head"},
    {"pattern", "layer,key_value_head", NULL, NULL, INSET_VALUE_ERROR,
        "pattern has no axis key_value_head: its axes are layer, destination and head"},
    {"pattern", "source", NULL, NULL, INSET_VALUE_ERROR, "there is no axis 'source'"},
    {"pattern", "destination,position", NULL, NULL, INSET_VALUE_ERROR,
        "the axis position is named twice"},
    {"pattern", NULL, "4:", NULL, INSET_VALUE_ERROR,
        "the range of heads chooses none of the 4 heads of pattern"},
    {"scores", NULL, NULL, "zero", INSET_VALUE_ERROR, "zero the pattern instead"}};
static const refusal llama_refusals[] = {
    {"k", NULL, "2", NULL, INSET_VALUE_ERROR,
        "the range of heads chooses none of the 2 key-value heads of k"},
    {"q", "key_value_head", NULL, NULL, INSET_VALUE_ERROR,
        "q has no axis key_value_head: its axes are layer, position and head"},
    {"rot_k", "layer,destination", NULL, NULL, INSET_VALUE_ERROR,
        "rot_k has no axis destination: its axes are layer, position and key_value_head"}};

static void refuses(inset_context *context, inset_model *model, const refusal *c)
{
    inset_sweep *sweep = NULL;
    inset_sweep_options o = options_of(c->patch, c->by, c->source);
    o.heads = c->heads;
    inset_status status = inset_sweep_create(model, &o, &sweep);
    CHECK(status == c->status && strstr(inset_message(context), c->says),
        "%s: '%s' was expected, found %s: %s", c->patch, c->says, inset_status_name(status),
        inset_message(context));
    CHECK(!sweep, "%s: a sweep came out", c->patch);
}

static void refuses_tensors(inset_context *context, inset_model *model)
{
    static const float numbers[4 * 7 * 7];
    static const struct {
        int n;
        int64_t shape[4];
    } shapes[] = {{2, {7, 7}}, {3, {3, 7, 7}}, {3, {4, 7, 6}}, {3, {4, 5, 5}}, {4, {2, 4, 2, 2}}};
    char path[] = "/tmp/inset-sites-XXXXXX.safetensors", source[128];
    int made = mkstemps(path, 12);
    NEED(made >= 0 && close(made) == 0, "no file");
    snprintf(source, sizeof source, "%s:x", path);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        file_tensor t = {.name = "x",
            .type = INSET_F32,
            .n_dimensions = shapes[i].n,
            .data = numbers,
            .bytes = sizeof(float)};
        for (int k = 0; k < t.n_dimensions; k++)
            t.bytes *= (size_t)(t.shape[k] = shapes[i].shape[k]);
        NEED(!safetensors_write(context, path, &t, 1, NULL), "%s", inset_message(context));
        refuses(context, model,
            &(refusal){"pattern", NULL, NULL, source, INSET_SHAPE_ERROR,
                "pattern takes [4, P, P] or [3, 4, P, P], P positions and at least 6"});
    }
    remove(path);
}

int main(void)
{
    inset_context *context = NULL;
    inset_model *gpt2 = NULL, *llama = NULL;
    inset_model_options on = INSET_MODEL_OPTIONS;
    const char *device = getenv("INSET_TEST_DEVICE");
    on.device = device ? device : "cpu";
    if (!CHECK(!inset_context_create(NULL, &context), "no context")) return test_result();
    inset_status status = inset_model_open(context, "fixtures/gpt2", &on, &gpt2);
    if (status == INSET_DEVICE_ERROR && device) return inset_context_free(context), TEST_SKIP;
    if (!CHECK(!status, "%s", inset_message(context))) return test_result();
    if (!CHECK(!inset_model_open(context, "fixtures/llama", &on, &llama), "%s",
            inset_message(context)))
        return test_result();
    agrees_with_transformers(context, gpt2, "gpt2");
    agrees_with_transformers(context, llama, "llama");
    static const char *const families[] = {"gpt2", "gpt_neo", "gpt_neox", "gpt_neox_serial", "gptj",
        "llama", "gemma2", "gemma3", "phi", "phi3", "olmo", "olmo2", "olmo3", "smollm3", "stablelm",
        "stablelm_parallel", "starcoder2", "bloom", "granite", "cohere", "cohere2", "opt",
        "mixtral", "qwen3_moe", "gpt_oss", "bert"};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        adds_up(context, families[i], &on);
    for (size_t i = 0; i < sizeof gpt2_axes / sizeof *gpt2_axes; i++)
        names_axes(context, gpt2, &gpt2_axes[i]);
    for (size_t i = 0; i < sizeof llama_axes / sizeof *llama_axes; i++)
        names_axes(context, llama, &llama_axes[i]);
    file_names_axes(context, llama);
    for (size_t i = 0; i < sizeof gpt2_refusals / sizeof *gpt2_refusals; i++)
        refuses(context, gpt2, &gpt2_refusals[i]);
    for (size_t i = 0; i < sizeof llama_refusals / sizeof *llama_refusals; i++)
        refuses(context, llama, &llama_refusals[i]);
    refuses_tensors(context, gpt2);
    inset_context_free(context);
    return test_result();
}
