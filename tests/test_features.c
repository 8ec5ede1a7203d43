/* test_features.c: sweeps and attributions over the features of sparse autoencoders.
 *
 *   expected     every point of every case of fixtures/features (feature_cases.py): transformers'
 *                model with the features set, decoded and the error added back
 *   unchanged    points that patches do not change have the unpatched run's number to the bit, and
 *                cost no row
 *   16 bits      a row is x.float() + by * W_dec, rounded once: values beside the same row set by
 *                hand
 *   together     with other sites in one sweep; by ranges of features and positions
 *   chunks       little memory, a resumed state file: the same numbers
 *   verify       the exact effects of an attribution are the sweep's
 *   refusals     status and sentence, as a table; files that are no SAE
 *   no memory    each allocation fails in turn */
#include "test.h"

#include "base/base.h"
#include "failing_allocator.h"
#include "file/file.h"
#include "sweeps.h"

#include <unistd.h>

#define RELU "features:fixtures/features/relu/sae.safetensors@resid_pre.1"
enum { FEATURES = 22, WIDTH = 28 };

static const char clean[] = "[[5, 17, 42, 8, 33, 21], [1, 2, 3, 4]]",
                  corrupt[] = "[[5, 18, 42, 8, 33, 20], [1, 7, 3, 5]]";
static const char *const metrics[] = {"logit_diff:11,12", NULL}, *const several[] = {
                                                                     "logit_diff:11,12", "kl",
                                                                     "probability:7", NULL};

static inset_sweep_options options_of(const char *patch, const char *by)
{
    inset_sweep_options o = INSET_SWEEP_OPTIONS;
    o.clean.text = clean;
    o.corrupt.text = corrupt;
    o.patch = patch;
    o.by = by;
    o.metrics = metrics;
    return o;
}

/* A finished sweep, and its first result. */
static inset_sweep *swept(
    inset_context *context, inset_model *model, const inset_sweep_options *o, inset_sweep_result *r)
{
    inset_sweep *sweep = NULL;
    inset_status status = inset_sweep_create(model, o, &sweep);
    if (!status) status = run_all(sweep);
    if (!status) status = inset_sweep_result_at(sweep, 0, r);
    CHECK(!status, "%s: %s", o->patch, inset_message(context));
    return status ? NULL : sweep;
}

/* ---- transformers' numbers ---------------------------------------------- */

static const char *source_of(const char *word)
{
    if (!strcmp(word, "clean")) return NULL;
    if (!strcmp(word, "mean")) return "mean:[[4, 9, 2, 7, 1, 6], [8, 8, 3, 2, 9, 9, 1], [3, 2]]";
    if (!strcmp(word, "resample")) return "resample:[[9, 4, 40, 4, 1, 30, 12]]";
    if (!strcmp(word, "tensor")) return "fixtures/features/gpt2.safetensors:tensor";
    if (!strcmp(word, "tensors")) return "fixtures/features/gpt2.safetensors:tensors";
    return word;
}

static void agrees(inset_context *context, inset_model *model, const file_tensor *want)
{
    char kind[32], site[64], by[64], word[32], method[32], patch[256];
    inset_sweep *sweep = NULL;
    inset_sweep_result r = {.n_axes = 0};
    NEED(sscanf(want->name, "%31s %63s %63s %31s %31s", kind, site, by, word, method) == 5, "%s",
        want->name);
    snprintf(patch, sizeof patch, "features:fixtures/features/%s/sae.safetensors@%s", kind, site);
    inset_sweep_options o = options_of(patch, strcmp(by, "-") ? by : "");
    o.source = source_of(word);
    if (!strcmp(method, "noise")) o.direction = "noise";
    inset_attribution_options a = INSET_ATTRIBUTION_OPTIONS;
    a.sweep = o;
    a.ends = !strcmp(method, "ends");
    a.steps = strcmp(method, "steps") ? 0 : 3;
    const bool patches = !strcmp(method, "patch") || !strcmp(method, "noise");
    inset_status status = patches ? inset_sweep_create(model, &o, &sweep)
                                  : inset_attribution_create(model, &a, &sweep);
    if (!status) status = run_all(sweep);
    if (!status) status = inset_sweep_result_at(sweep, 0, &r);
    CHECK(!status, "%s: %s", want->name, inset_message(context));
    bool fits = want->n_dimensions == r.n_axes + 1 && want->shape[0] == r.pairs;
    for (int i = 0; i < r.n_axes && fits; i++) fits = want->shape[i + 1] == r.axes[i].count;
    CHECK(status || fits, "%s: another shape", want->name);
    for (int64_t i = 0; !status && fits && i < r.pairs * r.points; i++) {
        float number = ((const float *)want->data)[i];
        CHECK((isnan(number) && isnan(r.values[i]))
                  || fabsf(r.values[i] - number) < 2e-5f * (1 + fabsf(number)),
            "%s, number %lld: %.8g expected, %.8g found", want->name, (long long)i, number,
            r.values[i]);
    }
    inset_sweep_free(sweep);
}

static void agrees_with_transformers(inset_context *context, inset_model *model)
{
    safetensors *file = NULL;
    int cases = 0;
    NEED(!safetensors_open(context, "fixtures/features/gpt2.safetensors", &file), "%s",
        inset_message(context));
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const file_tensor *want = safetensors_at(file, i);
        if (!strchr(want->name, ' ')) continue;
        agrees(context, model, want);
        cases++;
    }
    CHECK(cases > 18, "%d cases", cases);
    safetensors_close(file);
}

/* ---- what is not changed ------------------------------------------------ */

/* Pairs that are alike up to position 3: features before it have no change. */
static void leaves_unchanged(inset_context *context, inset_model *model)
{
    inset_sweep_result r;
    inset_sweep_progress is = INSET_SWEEP_PROGRESS, none = INSET_SWEEP_PROGRESS;
    inset_sweep_options o = options_of(RELU, NULL);
    o.clean.text = "[[5, 17, 42, 8, 33, 21]]";
    o.corrupt.text = "[[5, 17, 42, 9, 33, 21]]";
    o.metrics = several;
    inset_sweep *sweep = swept(context, model, &o, &r);
    if (!sweep) return;
    int unchanged = 0, changed = 0;
    for (size_t m = 0; m < 3; m++) {
        inset_sweep_result of;
        NEED(!inset_sweep_result_at(sweep, m, &of), "%s", inset_message(context));
        for (int64_t i = 0; i < 3 * FEATURES; i++, unchanged++)
            CHECK(of.values[i] == (m == 1 ? 0 : of.corrupt[0]), "metric %zu, point %lld: %g", m,
                (long long)i, of.values[i]);
        for (int64_t i = 3 * FEATURES; i < of.points; i++) changed += of.values[i] != of.corrupt[0];
    }
    CHECK(changed > 3 * FEATURES, "only %d are changed", changed);
    NEED(!inset_sweep_progress_of(sweep, &is), "%s", inset_message(context));
    CHECK(is.unchanged >= 3 * FEATURES && is.unchanged < 6 * FEATURES, "%lld unchanged",
        (long long)is.unchanged);
    CHECK(is.patches == 6 * FEATURES && is.done == is.patches, "%lld of %lld patches",
        (long long)is.done, (long long)is.patches);
    inset_sweep_free(sweep);
    /* the same without any patch that changes something */
    o.positions = ":3";
    sweep = swept(context, model, &o, &r);
    if (!sweep) return;
    NEED(!inset_sweep_progress_of(sweep, &none), "%s", inset_message(context));
    CHECK(none.rows < is.rows && none.done == 3 * FEATURES, "%lld rows, %lld without a change",
        (long long)is.rows, (long long)none.rows);
    inset_sweep_free(sweep);
}

/* ---- 16 bits ------------------------------------------------------------ */

/* relu((x - b_dec) @ W_enc + b_enc) of one row, in double. */
static void features_of(const safetensors *sae, const float *x, double *out)
{
    const float *encoder = safetensors_find(sae, "W_enc")->data,
                *bias = safetensors_find(sae, "b_enc")->data,
                *first = safetensors_find(sae, "b_dec")->data;
    for (int j = 0; j < FEATURES; j++) {
        out[j] = bias[j];
        for (int i = 0; i < WIDTH; i++)
            out[j] += ((double)x[i] - first[i]) * encoder[i * FEATURES + j];
        if (out[j] < 0) out[j] = 0;
    }
}

/* The stream into layer 1 of a run, [6, WIDTH]; with `row` set at a position the metric. */
static bool run_by_hand(inset_context *context, inset_model *model, const int64_t *tokens,
    int position, const float *row, float *stream, double *metric)
{
    static const int64_t a = 11, b = 12, length = 6;
    inset_trace *t = NULL;
    inset_plan *p = NULL;
    inset_value *x, *logits, *m, *given;
    inset_tensor saved;
    char index[32];
    const inset_tensor numbers = {
        .type = INSET_F32, .n_dimensions = 1, .shape = {WIDTH}, .data = row};
    snprintf(index, sizeof index, "[:, %d]", position);
    inset_status s = inset_trace_create(model, &t);
    if (!s) s = inset_invoke_tokens(t, 1, &length, tokens);
    if (!s) s = inset_get(t, "transformer.h.1.input", &x);
    if (!s) s = inset_save(t, "x", x);
    if (!s && row) s = inset_external(t, &numbers, &given);
    if (!s && row) s = inset_set_value(x, index, given);
    if (!s) s = inset_get(t, "output.logits[0, -1]", &logits);
    if (!s) s = inset_metric(logits, INSET_LOGIT_DIFF, 1, &a, 1, &b, NULL, &m);
    if (!s) s = inset_save(t, "m", m);
    if (!s) s = inset_plan_create(t, NULL, &p);
    if (!s) s = inset_run(p);
    if (!s) s = inset_saved(p, "m", &saved);
    if (!s) *metric = inset_tensor_element(&saved, 0);
    if (!s) s = inset_saved(p, "x", &saved);
    for (int i = 0; i < 6 * WIDTH && !s; i++) stream[i] = (float)inset_tensor_element(&saved, i);
    CHECK(!s, "%s", inset_message(context));
    inset_plan_free(p);
    inset_trace_free(t);
    return !s;
}

/* What is saved is the stream as it ends, so the run without a row comes first. */
static void rounds_once(inset_context *context, const inset_model_options *on)
{
    static const int64_t prompts[2][6] = {{5, 17, 42, 8, 33, 21}, {5, 18, 42, 8, 33, 20}};
    inset_model *model = NULL;
    inset_sweep_result r;
    safetensors *sae = NULL;
    float x[2][6 * WIDTH], scratch[6 * WIDTH], row[WIDTH];
    double metric[2], expected, f[2][FEATURES];
    NEED(!inset_model_open(context, "fixtures/gpt2_bf16", on, &model)
             && !safetensors_open(context, "fixtures/features/relu/sae.safetensors", &sae),
        "%s", inset_message(context));
    const float *decoder = safetensors_find(sae, "W_dec")->data;
    inset_sweep_options o = options_of(RELU, NULL);
    o.clean.text = "[[5, 17, 42, 8, 33, 21]]";
    o.corrupt.text = "[[5, 18, 42, 8, 33, 20]]";
    inset_sweep *sweep = swept(context, model, &o, &r);
    bool fine = sweep != NULL;
    for (int k = 0; k < 2 && fine; k++)
        fine = run_by_hand(context, model, prompts[k], 0, NULL, x[k], &metric[k]);
    for (int position = 1; position < 6 && fine; position += 4) {
        for (int k = 0; k < 2; k++) features_of(sae, x[k] + position * WIDTH, f[k]);
        for (int j = 0; j < FEATURES && fine; j++) {
            for (int i = 0; i < WIDTH; i++)
                row[i] = x[1][position * WIDTH + i]
                         + (float)(f[0][j] - f[1][j]) * decoder[j * WIDTH + i];
            fine = run_by_hand(context, model, prompts[1], position, row, scratch, &expected);
            const float found = r.values[position * FEATURES + j];
            /* a last bit of f may turn the rounding of a number to bf16 */
            CHECK(fabs(found - expected) < 0.02 * (1 + fabs(expected)),
                "position %d, feature %d: %g expected, %g found", position, j, expected, found);
        }
    }
    inset_sweep_free(sweep);
    safetensors_close(sae);
    inset_model_free(model);
}

/* ---- ranges, other sites, chunks, state --------------------------------- */

static void agrees_in_parts(inset_context *context, inset_model *model)
{
    inset_sweep_result all, part, mixed;
    inset_sweep_options o = options_of(RELU, NULL);
    inset_sweep *whole = swept(context, model, &o, &all);
    o.features = "3:20:4";
    o.positions = "-3:";
    inset_sweep *some = swept(context, model, &o, &part);
    o = options_of(
        "mlp_out," RELU ",features:fixtures/features/plain/sae.safetensors@post.1", "position");
    inset_sweep *both = swept(context, model, &o, &mixed);
    if (whole && some && both) {
        CHECK(part.n_axes == 2 && part.axes[0].count == 3 && part.axes[1].count == 5
                  && !strcmp(part.site, "features@resid_pre.1")
                  && !strcmp(part.axes[1].name, "feature") && part.axes[1].labels[2] == 11,
            "axes of a part");
        for (int64_t pair = 0; pair < 2; pair++)
            for (int64_t p = 0; p < 3; p++)
                for (int64_t i = 0; i < 5; i++) {
                    const int64_t position = (pair ? 4 : 6) - 3 + p;
                    const float a = part.values[(pair * 3 + p) * 5 + i],
                                b = all.values[(pair * 6 + position) * FEATURES + 3 + 4 * i];
                    CHECK(fabsf(a - b) < 1e-5f * (1 + fabsf(b)), "pair %lld: %g and %g",
                        (long long)pair, a, b);
                }
        CHECK(inset_sweep_result_count(both) == 3, "three sites");
    }
    inset_sweep_free(whole);
    inset_sweep_free(some);
    inset_sweep_free(both);
}

/* Chunks of one patch each, ended in the middle and gone on with. */
static void survives_an_end(inset_context *context, inset_model *model)
{
    inset_sweep_result all, again;
    inset_sweep *first = NULL;
    inset_sweep_progress is = INSET_SWEEP_PROGRESS;
    char state[] = "/tmp/inset-features-XXXXXX";
    int made = mkstemp(state);
    NEED(made >= 0 && close(made) == 0 && remove(state) == 0, "no file");
    inset_sweep_options o = options_of(RELU, NULL);
    o.metrics = several;
    inset_sweep *whole = swept(context, model, &o, &all);
    o.memory_limit = 200000;
    o.state = state;
    inset_status status = inset_sweep_create(model, &o, &first);
    for (int i = 0; i < 3 && !status; i++) status = inset_sweep_step(first);
    if (!status) status = inset_sweep_progress_of(first, &is);
    CHECK(!status && is.done > 0 && is.done < is.patches, "%lld of %lld: %s", (long long)is.done,
        (long long)is.patches, inset_message(context));
    inset_sweep_free(first);
    o.features = ":21"; /* another sweep's */
    o.resume = 1;
    CHECK(inset_sweep_create(model, &o, &first) == INSET_FILE_ERROR, "a state of other features");
    o.features = NULL;
    inset_sweep *rest = swept(context, model, &o, &again);
    for (size_t m = 0; whole && rest && m < 3; m++) {
        NEED(!inset_sweep_result_at(whole, m, &all) && !inset_sweep_result_at(rest, m, &again),
            "%s", inset_message(context));
        for (int64_t i = 0; i < all.pairs * all.points; i++)
            CHECK(
                (isnan(all.values[i]) && isnan(again.values[i]))
                    || fabsf(all.values[i] - again.values[i]) < 1e-5f * (1 + fabsf(all.values[i])),
                "metric %zu, number %lld: %g and %g", m, (long long)i, all.values[i],
                again.values[i]);
    }
    inset_sweep_free(whole);
    inset_sweep_free(rest);
    remove(state);
}

/* Pairs that look alike to a plan, in a chunk each: what is added differs all the same. */
static void plans_each_chunk(inset_context *context, inset_model *model)
{
    inset_sweep_result together, apart;
    inset_sweep_options o = options_of(RELU, "");
    o.clean.text = "[[5, 17, 42], [6, 18, 43], [7, 20, 44]]";
    o.corrupt.text = "[[5, 9, 42], [6, 19, 43], [7, 21, 44]]";
    inset_sweep *one = swept(context, model, &o, &together);
    o.memory_limit = 60000;
    inset_sweep *three = swept(context, model, &o, &apart);
    inset_sweep_progress is = INSET_SWEEP_PROGRESS;
    CHECK(three && !inset_sweep_progress_of(three, &is) && is.plans == 3, "%lld plans",
        (long long)is.plans);
    for (int64_t pair = 0; one && three && pair < 3; pair++)
        CHECK(fabsf(together.values[pair] - apart.values[pair]) < 1e-5f, "pair %lld: %g and %g",
            (long long)pair, together.values[pair], apart.values[pair]);
    inset_sweep_free(one);
    inset_sweep_free(three);
}

static void verifies(inset_context *context, inset_model *model)
{
    inset_sweep_result exact, r;
    const inset_verified *found = NULL;
    size_t n = 0;
    double rank = 0;
    inset_sweep *estimate = NULL;
    inset_attribution_options a = INSET_ATTRIBUTION_OPTIONS;
    a.sweep = options_of(RELU, NULL);
    inset_sweep *sweep = swept(context, model, &a.sweep, &exact);
    inset_status status = inset_attribution_create(model, &a, &estimate);
    if (!status) status = run_all(estimate);
    if (!status) status = inset_sweep_result_at(estimate, 0, &r);
    if (!status) status = inset_attribution_verify(estimate, 12, &found, &n, &rank);
    CHECK(!status && n == 12 && rank > 0.5, "%zu points, rank %g: %s", n, rank,
        inset_message(context));
    for (size_t i = 0; i < n && sweep; i++) {
        const int64_t point = found[i].at[0] * FEATURES + found[i].at[1];
        double effect = 0;
        int pairs = 0;
        for (int64_t pair = 0; pair < 2; pair++)
            if (!isnan(exact.values[pair * exact.points + point])) {
                effect += exact.values[pair * exact.points + point] - exact.corrupt[pair];
                pairs++;
            }
        CHECK(fabs(found[i].exact - effect / pairs) < 1e-5 && !strcmp(found[i].axes[1], "feature"),
            "%zu: %g and %g", i, found[i].exact, effect / pairs);
    }
    inset_sweep_free(estimate);
    inset_sweep_free(sweep);
}

/* ---- refusals ----------------------------------------------------------- */

typedef struct refusal {
    const char *patch, *by, *features, *source;
    inset_status status;
    const char *says;
} refusal;
static const refusal refusals[] = {
    {"features:a.safetensors", NULL, NULL, NULL, INSET_VALUE_ERROR,
        "features:FILE.safetensors@SITE.LAYER was expected, such as"},
    {"features:@resid_pre.1", NULL, NULL, NULL, INSET_VALUE_ERROR, "was expected, such as"},
    {"features:a@.1", NULL, NULL, NULL, INSET_VALUE_ERROR, "was expected, such as"},
    {"features:a@resid_pre", NULL, NULL, NULL, INSET_VALUE_ERROR, "was expected, such as"},
    {"features:a@resid_pre.x", NULL, NULL, NULL, INSET_VALUE_ERROR, "was expected, such as"},
    {"features:a@resid_pre.-1", NULL, NULL, NULL, INSET_VALUE_ERROR, "was expected, such as"},
    {"features:a@resid_pre.1x", NULL, NULL, NULL, INSET_VALUE_ERROR, "was expected, such as"},
    {"features:a@resid_pre.99999999999999999999", NULL, NULL, NULL, INSET_VALUE_ERROR,
        "was expected, such as"},
    {"features:a@resid_pre.3", NULL, NULL, NULL, INSET_INDEX_ERROR, "the model has layers 0 to 2"},
    {"features:a@resid_per.1", NULL, NULL, NULL, INSET_UNKNOWN_SITE, "Did you mean resid_pre?"},
    {"features:a@up.1", NULL, NULL, NULL, INSET_UNKNOWN_SITE, "gpt2 has no up in layer 1"},
    {"features:a@z.1", NULL, NULL, NULL, INSET_VALUE_ERROR, "and z has heads"},
    {"features:a@pattern.1", NULL, NULL, NULL, INSET_VALUE_ERROR, "and pattern has heads"},
    {"features:fixtures/none.safetensors@resid_pre.1", NULL, NULL, NULL, INSET_FILE_ERROR,
        "fixtures/none.safetensors"},
    {"features:fixtures/gpt2/model.safetensors@resid_pre.1", NULL, NULL, NULL, INSET_FILE_ERROR,
        "is no SAE that inset reads: it has no matrix W_enc"},
    {"features:fixtures/features/plain/sae.safetensors@resid_pre.1", NULL, NULL, NULL,
        INSET_SHAPE_ERROR, "W_enc has the shape [22, 112], [22, 28] was expected"},
    {RELU, "layer", NULL, NULL, INSET_VALUE_ERROR,
        "features@resid_pre.1 has no axis layer: its axes are position and feature"},
    {RELU, "position,head", NULL, NULL, INSET_VALUE_ERROR, "has no axis head"},
    {RELU, "neuron", NULL, NULL, INSET_VALUE_ERROR, "there is no axis 'neuron'"},
    {"resid_pre", "feature", NULL, NULL, INSET_VALUE_ERROR,
        "resid_pre has no axis feature: its axes are layer and position"},
    {RELU "," RELU, NULL, NULL, NULL, INSET_VALUE_ERROR,
        "the site features@resid_pre.1 is named twice"},
    {RELU, NULL, "22:", NULL, INSET_VALUE_ERROR, "chooses none of the 22 features"},
    {RELU, NULL, "x", NULL, INSET_VALUE_ERROR, "features: a range such as"},
    {RELU, NULL, NULL, "fixtures/features/gpt2.safetensors:relu resid_pre.1 - clean patch",
        INSET_SHAPE_ERROR, "features@resid_pre.1 takes [22] or [position, 22]"},
};

static void refuses(inset_context *context, inset_model *model, const refusal *c)
{
    inset_sweep *sweep = NULL;
    inset_sweep_options o = options_of(c->patch, c->by);
    o.features = c->features;
    o.source = c->source;
    inset_status status = inset_sweep_create(model, &o, &sweep);
    CHECK(status == c->status && strstr(inset_message(context), c->says),
        "%s: '%s' was expected, found %s: %s", c->patch, c->says, inset_status_name(status),
        inset_message(context));
    CHECK(!sweep, "%s: a sweep came out", c->patch);
}

typedef struct bad_sae {
    const char *config;                   /* cfg.json; NULL: none */
    const char *without, *integer, *wide; /* tensors: left out, of integers, with a number more */
    inset_status status;
    const char *says;
} bad_sae;
static const bad_sae bad[] = {
    {NULL, "W_enc", NULL, NULL, INSET_FILE_ERROR, "There is b_enc, W_dec, b_dec"},
    {NULL, "b_enc", NULL, NULL, INSET_FILE_ERROR, "it has no b_enc"},
    {NULL, "W_dec", NULL, NULL, INSET_FILE_ERROR, "it has no W_dec"},
    {NULL, "b_dec", NULL, NULL, INSET_FILE_ERROR, "it has no b_dec"},
    {NULL, NULL, "W_enc", NULL, INSET_TYPE_ERROR, "W_enc holds I32, floats were expected"},
    {NULL, NULL, NULL, "b_enc", INSET_SHAPE_ERROR, "b_enc has the shape [23], [22] was expected"},
    {NULL, NULL, NULL, "b_dec", INSET_SHAPE_ERROR, "b_dec has the shape [29], [28] was expected"},
    {"{\"architecture\": \"jumprelu\"}", NULL, NULL, NULL, INSET_FILE_ERROR, "it has no threshold"},
    {"{\"architecture\": \"gated\"}", NULL, NULL, NULL, INSET_FILE_ERROR, "it has no b_mag"},
    {"{\"architecture\": \"transcoder\"}", NULL, NULL, NULL, INSET_FILE_ERROR,
        "\"architecture\": transcoder, which inset does not compute"},
    {"{\"architecture\": \"topk\"}", NULL, NULL, NULL, INSET_FILE_ERROR, "says topk, and no k"},
    {"{\"activation\": \"groupmax\", \"k\": 4}", NULL, NULL, NULL, INSET_FILE_ERROR,
        "\"activation\": groupmax"},
    {"{\"activation\": \"batchtopk\"}", NULL, NULL, NULL, INSET_FILE_ERROR,
        "\"activation\": batchtopk"},
    {"{\"normalize_activations\": \"layer_norm\"}", NULL, NULL, NULL, INSET_FILE_ERROR,
        "\"normalize_activations\": layer_norm"},
    {"{\"reshape_activations\": \"hook_z\"}", NULL, NULL, NULL, INSET_FILE_ERROR,
        "\"reshape_activations\": hook_z"},
    {"{\"finetuning_scaling_factor\": true}", NULL, NULL, NULL, INSET_FILE_ERROR,
        "\"finetuning_scaling_factor\": true"},
    {"{\"k\": -4}", NULL, NULL, NULL, INSET_FILE_ERROR, "k"},
    {"{\"apply_b_dec_to_input\": 1}", NULL, NULL, NULL, INSET_FILE_ERROR, "apply_b_dec_to_input"},
    {"[]", NULL, NULL, NULL, INSET_FILE_ERROR, "cfg.json: an object was expected"},
    {"{", NULL, NULL, NULL, INSET_FILE_ERROR, "cfg.json"},
};

static void refuses_sae(inset_context *context, inset_model *model, const bad_sae *c)
{
    static const char *const names[] = {"W_enc", "b_enc", "W_dec", "b_dec"};
    static const int64_t shapes[][2] = {
        {WIDTH, FEATURES}, {FEATURES, 0}, {FEATURES, WIDTH}, {WIDTH, 0}};
    static const float numbers[WIDTH * FEATURES];
    char folder[] = "/tmp/inset-sae-XXXXXX", file[64], config[64], patch[128];
    file_tensor tensors[4];
    size_t n = 0;
    NEED(mkdtemp(folder), "no folder");
    snprintf(file, sizeof file, "%s/sae.safetensors", folder);
    snprintf(config, sizeof config, "%s/cfg.json", folder);
    snprintf(patch, sizeof patch, "features:%s@resid_pre.1", file);
    for (int i = 0; i < 4; i++) {
        if (c->without && !strcmp(c->without, names[i])) continue;
        const bool wide = c->wide && !strcmp(c->wide, names[i]);
        tensors[n] = (file_tensor){.name = names[i],
            .type = c->integer && !strcmp(c->integer, names[i]) ? INSET_I32 : INSET_F32,
            .n_dimensions = shapes[i][1] ? 2 : 1,
            .shape = {shapes[i][0] + wide, shapes[i][1]},
            .data = numbers};
        tensors[n].bytes = (size_t)((shapes[i][0] + wide) * (shapes[i][1] ? shapes[i][1] : 1)) * 4;
        n++;
    }
    NEED(!safetensors_write(context, file, tensors, n, NULL), "%s", inset_message(context));
    if (c->config) {
        FILE *to = fopen(config, "w");
        NEED(to && fputs(c->config, to) >= 0 && !fclose(to), "no cfg.json");
    }
    refuses(context, model, &(refusal){patch, NULL, NULL, NULL, c->status, c->says});
    remove(file);
    remove(config);
    remove(folder);
}

/* ---- no memory ---------------------------------------------------------- */

static void survives_no_memory(const inset_model_options *on)
{
    failing_allocator memory = {.fail_at = 0};
    inset_context *context = NULL;
    inset_model *model = NULL;
    NEED(!inset_context_create(failing_allocator_interface(&memory), &context)
             && !inset_model_open(context, "fixtures/gpt2", on, &model),
        "no model");
    inset_sweep_options o = options_of(RELU, NULL);
    o.clean.text = "[[5, 17, 42]]";
    o.corrupt.text = "[[5, 18, 42]]";
    o.features = ":4";
    inset_status status = INSET_NO_MEMORY;
    const int64_t live = memory.live;
    int64_t tried = 0;
    for (int64_t n = 1; status == INSET_NO_MEMORY && n < 4000; n += n < 150 ? 1 : 7, tried++) {
        inset_sweep *sweep = NULL;
        memory.calls = 0;
        memory.fail_at = n;
        status = inset_sweep_create(model, &o, &sweep);
        if (!status) status = run_all(sweep);
        memory.fail_at = 0;
        inset_sweep_free(sweep);
        CHECK(status == INSET_NO_MEMORY || !status, "allocation %lld: %s", (long long)n,
            inset_message(context));
        CHECK(memory.damaged == 0, "allocation %lld: written behind a block", (long long)n);
    }
    CHECK(!status && tried > 100, "%lld tries: %s", (long long)tried, inset_message(context));
    CHECK(memory.live <= live + 8, "%lld blocks before, %lld after", (long long)live,
        (long long)memory.live);
    inset_context_free(context);
    CHECK(memory.live == 0, "%lld blocks left", (long long)memory.live);
}

int main(void)
{
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_model_options on = INSET_MODEL_OPTIONS;
    const char *device = getenv("INSET_TEST_DEVICE");
    on.device = device ? device : "cpu";
    if (!CHECK(!inset_context_create(NULL, &context), "no context")) return test_result();
    inset_status status = inset_model_open(context, "fixtures/gpt2", &on, &model);
    if (status == INSET_DEVICE_ERROR && device) return inset_context_free(context), TEST_SKIP;
    if (!CHECK(!status, "%s", inset_message(context))) return test_result();
    agrees_with_transformers(context, model);
    leaves_unchanged(context, model);
    rounds_once(context, &on);
    agrees_in_parts(context, model);
    survives_an_end(context, model);
    plans_each_chunk(context, model);
    verifies(context, model);
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++)
        refuses(context, model, &refusals[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) refuses_sae(context, model, &bad[i]);
    inset_context_free(context);
    if (!device) survives_no_memory(&on);
    return test_result();
}
