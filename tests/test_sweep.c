/* test_sweep.c: sweeps against plain loops, one patched run after the other, each alone and without
 * sharing; refusals; resuming; memory that runs out.
 *
 *   loops        every value of sweeps over sites, axes, sources, directions and ragged pairs, in
 *                fp64 from whole rows of logits
 *   families     which sites of every family the names stand for
 *   whole stream a property of all families: with the whole of the clean stream the metric is the
 *   clean run's
 *   refusals     status and sentence, as a table
 *   resume       a sweep that was ended in the middle, or in the middle of a record, gives the same
 *                bytes; another sweep's state is refused
 *   chunks       little memory, more chunks, the same numbers
 *   wrong calls  NULLs, models that cannot be swept, results too early
 *   no memory    each allocation fails in turn */
#include "sweep/chunks/state.h"
#include "test.h"

#include "file/file.h"
#include "models/models.h"
#include "plan/plan.h"
#include "run/model.h"
#include "run/run.h"
#include "sweep/sweep.h"
#include "sweeps.h"
#include "trace/trace.h"
#include "world.h"

#include <unistd.h>

enum { LAYERS = 3, HEADS = 4, WIDTH = 28, VOCABULARY = 61, MOST_POSITIONS = 8 };

/* ---- plain loops -------------------------------------------------------- */

static const char clean_text[] = "[[5, 17, 42, 8, 33, 21], [1, 2, 3, 4], [9, 9, 30, 31, 32, 33]]";
static const char corrupt_text[] =
    "[[5, 18, 42, 8, 33, 20], [1, 7, 3, 5], [9, 10, 30, 31, 32, 33]]";
static const int64_t clean_tokens[3][MOST_POSITIONS] = {
    {5, 17, 42, 8, 33, 21}, {1, 2, 3, 4}, {9, 9, 30, 31, 32, 33}};
static const int64_t corrupt_tokens[3][MOST_POSITIONS] = {
    {5, 18, 42, 8, 33, 20}, {1, 7, 3, 5}, {9, 10, 30, 31, 32, 33}};
static const int64_t prompt_lengths[3] = {6, 4, 6};

typedef enum from { FROM_OTHER, FROM_ZERO } from;

typedef struct sweep_case {
    const char *name, *patch, *by, *layers, *positions, *heads, *direction;
    from from;
} sweep_case;

static const sweep_case cases[] = {
    {"stream", "resid_pre,resid_mid,resid_post,attn_out,mlp_out", NULL, NULL, NULL, NULL, NULL,
        FROM_OTHER},
    {"heads", "z,q,k,v", NULL, NULL, NULL, NULL, NULL, FROM_OTHER},
    {"noise", "resid_pre,z", "layer,position", NULL, NULL, NULL, "noise", FROM_OTHER},
    {"by position alone", "mlp_out,attn_head_out", "position", NULL, NULL, NULL, NULL, FROM_OTHER},
    {"no axis", "resid_mid", "", NULL, NULL, NULL, NULL, FROM_OTHER},
    {"head, then layer", "v", "head,layer", "1:", "-3:", "::2", NULL, FROM_OTHER},
    {"three axes", "attn_head_k_by_pos", NULL, "-2", "1:3", "1:3", NULL, FROM_OTHER},
    {"every", "block_every", NULL, NULL, "2:", NULL, NULL, FROM_OTHER},
    {"one position", "attn_out", "layer", NULL, "-1", NULL, NULL, FROM_OTHER},
    {"zero", "resid_post,q", "layer,position", NULL, NULL, NULL, NULL, FROM_ZERO},
    {"zero, denoise", "attn_out", "layer", NULL, NULL, NULL, "denoise", FROM_ZERO},
};

static const char *const case_metrics[] = {"logit_diff:11,12+13", "logit:5@1", "probability:7+9",
    "log_probability:60@-2", "rank:3", "kl", NULL};

/* A member's path in the layers of the fixture. */
static const char *path_of(const char *member)
{
    static const char *const paths[][2] = {{"resid_pre", "input"}, {"resid_mid", "ln_2.input"},
        {"resid_post", "output"}, {"attn_out", "attn.output"}, {"mlp_out", "mlp.output"},
        {"z", "attn.z"}, {"q", "attn.q"}, {"k", "attn.k"}, {"v", "attn.v"}};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        if (!strcmp(paths[i][0], member)) return paths[i][1];
    return "?";
}

/* One patch, written out: which layers, positions and heads. */
typedef struct patch {
    const char *member;
    int64_t layers[LAYERS], positions[MOST_POSITIONS], heads[HEADS];
    int n_layers, n_positions, n_heads;
} patch;

static index_item integer(int64_t i) { return (index_item){.kind = INDEX_INTEGER, .integer = i}; }

static inset_status set_places(
    trace *t, const patch *p, int layer, const operand *target, const operand *source)
{
    inset_status status = INSET_OK;
    for (int i = 0; i < p->n_positions && !status; i++)
        for (int h = 0; h < (p->n_heads ? p->n_heads : 1) && !status; h++) {
            const index_item items[3] = {{.kind = INDEX_SLICE}, integer(p->positions[i]),
                integer(p->n_heads ? p->heads[h] : 0)};
            operand value = {.kind = OPERAND_INTEGER};
            size_t n = p->n_heads ? 3 : 2;
            if (source) status = trace_index(t, &source[layer], n, items, &value);
            if (!status) status = trace_set(t, target, n, items, TRACE_COPY, &value);
        }
    return status;
}

static inset_status find(const program *g, int64_t layer, const char *member, int32_t *site)
{
    char path[96];
    snprintf(path, sizeof path, "transformer.h.%d.%s", (int)layer, path_of(member));
    return program_find_site(g, path, strlen(path), site);
}

/* The whole logits [positions, VOCABULARY] of one run, alone, patched unless p is NULL. */
static void plain_run(inset_model *model, const int64_t *base, const int64_t *other, int64_t length,
    const patch *p, from from, double *logits)
{
    trace *t = NULL;
    plan *made = NULL;
    run *r = NULL;
    operand source[LAYERS], target, out;
    int32_t site;
    inset_tensor saved;
    const plan_options options = {.no_share = true};
    inset_status status = trace_create(model->context, model->program, model->type, &t);
    if (!status && p && from == FROM_OTHER) {
        status = trace_invoke_tokens(t, 1, &length, other);
        for (int i = 0; i < p->n_layers && !status; i++)
            if (!(status = find(model->program, p->layers[i], p->member, &site)))
                status = trace_site(t, site, &source[i]);
    }
    if (!status) status = trace_invoke_tokens(t, 1, &length, base);
    for (int i = 0; p && i < p->n_layers && !status; i++) {
        if (!(status = find(model->program, p->layers[i], p->member, &site)))
            status = trace_site(t, site, &target);
        if (!status) status = set_places(t, p, i, &target, from == FROM_OTHER ? source : NULL);
    }
    if (!status) status = program_find_site(model->program, "output.logits", 13, &site);
    if (!status) status = trace_site(t, site, &out);
    if (!status) status = trace_save(t, "logits", &out);
    if (!status) status = plan_create(t, &options, &made);
    if (!status) status = run_create(model, made, &r);
    if (!status) status = run_execute(r);
    if (!status) status = run_saved(r, 0, &saved);
    CHECK(!status, "a plain run: %s", inset_message(model->context));
    for (int64_t i = 0; !status && i < length * VOCABULARY; i++)
        logits[i] = ((const float *)saved.data)[i];
    run_free(r);
    plan_free(made);
    trace_free(t);
}

static double log_softmax(const double *row, int token)
{
    double sum = 0;
    for (int i = 0; i < VOCABULARY; i++) sum += exp(row[i] - row[token]);
    return -log(sum);
}

/* case_metrics[index] of logits [length, VOCABULARY]. */
static double plain_metric(int index, const double *logits, const double *unpatched, int64_t length)
{
    const double *last = logits + (length - 1) * VOCABULARY,
                 *base = unpatched + (length - 1) * VOCABULARY;
    double sum = 0;
    switch (index) {
    case 0: return last[11] - (last[12] + last[13]) / 2;
    case 1: return logits[VOCABULARY + 5];
    case 2: return exp(log_softmax(last, 7)) + exp(log_softmax(last, 9));
    case 3: return log_softmax(last - VOCABULARY, 60);
    case 4:
        for (int i = 0; i < VOCABULARY; i++) sum += last[i] > last[3];
        return sum;
    default:
        for (int i = 0; i < VOCABULARY; i++)
            sum += exp(log_softmax(base, i)) * (log_softmax(base, i) - log_softmax(last, i));
        return sum;
    }
}

/* ---- what a point of a result patches, from its labels ------------------ */

static int python_slice(const char *text, int64_t length, int64_t *out)
{
    int64_t start = 0, stop = length, step = 1;
    int n = 0;
    if (text && !strchr(text, ':')) {
        int64_t i = atoi(text) < 0 ? atoi(text) + length : atoi(text);
        if (i >= 0 && i < length) out[n++] = i;
        return n;
    }
    if (text) {
        const char *first = strchr(text, ':'), *second = strchr(first + 1, ':');
        if (first != text) start = atoi(text);
        if (first[1] && first[1] != ':') stop = atoi(first + 1);
        if (second) step = atoi(second + 1);
        if (start < 0) start = start + length < 0 ? 0 : start + length;
        if (stop < 0) stop += length;
        if (stop > length) stop = length;
    }
    for (int64_t i = start; i < stop; i += step) out[n++] = i;
    return n;
}

/* False: the pair has no such position. */
static bool patch_at(
    const sweep_case *c, const inset_sweep_result *r, int64_t point, int64_t length, patch *out)
{
    const char *site = r->site;
    bool per_head = false;
    int64_t chosen[MOST_POSITIONS];
    *out = (patch){.member = !strcmp(site, "attn_head_out")        ? "z"
                             : !strcmp(site, "attn_head_k_by_pos") ? "k"
                                                                   : site};
    per_head = strlen(out->member) == 1;
    out->n_layers = python_slice(c->layers, LAYERS, out->layers);
    out->n_positions = python_slice(c->positions, length, out->positions);
    if (per_head) out->n_heads = python_slice(c->heads, HEADS, out->heads);
    for (int a = r->n_axes - 1; a >= 0; point /= r->axes[a--].count) {
        const inset_sweep_axis *axis = &r->axes[a];
        int64_t i = point % axis->count;
        if (!strcmp(axis->name, "site")) out->member = axis->names[i];
        if (!strcmp(axis->name, "layer")) out->layers[0] = axis->labels[i], out->n_layers = 1;
        if (!strcmp(axis->name, "head")) out->heads[0] = axis->labels[i], out->n_heads = 1;
        if (strcmp(axis->name, "position")) continue;
        int64_t position = axis->labels[i] < 0 ? axis->labels[i] + length : axis->labels[i];
        int n = python_slice(c->positions, length, chosen), k = 0;
        while (k < n && chosen[k] != position) k++;
        out->positions[0] = position;
        out->n_positions = k < n;
    }
    return out->n_positions > 0;
}

static void compare_point(inset_model *model, const sweep_case *c,
    const inset_sweep_result *results, size_t n_metrics, int64_t pair, int64_t point)
{
    static double logits[MOST_POSITIONS * VOCABULARY], unpatched[MOST_POSITIONS * VOCABULARY];
    bool noise = c->direction ? !strcmp(c->direction, "noise") : c->from == FROM_ZERO;
    const int64_t *base = noise ? clean_tokens[pair] : corrupt_tokens[pair],
                  *other = noise ? corrupt_tokens[pair] : clean_tokens[pair];
    int64_t length = prompt_lengths[pair];
    patch p;
    bool there = patch_at(c, &results[0], point, length, &p);
    if (there) plain_run(model, base, other, length, &p, c->from, logits);
    if (there) plain_run(model, base, other, length, NULL, c->from, unpatched);
    for (size_t m = 0; m < n_metrics; m++) {
        float got = results[m].values[pair * results[m].points + point];
        if (!there) {
            CHECK(isnan(got), "%s, %s, pair %lld, point %lld: NaN was expected, found %g", c->name,
                results[m].site, (long long)pair, (long long)point, got);
            continue;
        }
        double want = plain_metric((int)m, logits, unpatched, length);
        CHECK(fabs(got - want) < 2e-5 * (1 + fabs(want)),
            "%s, %s, %s, pair %lld, point %lld: %.9g expected, %.9g found", c->name,
            results[m].site, results[m].metric, (long long)pair, (long long)point, want, got);
        float clean = results[m].clean[pair], corrupt = results[m].corrupt[pair],
              normal = results[m].normalised[pair * results[m].points + point];
        if (clean != corrupt)
            CHECK(fabs(normal - (got - corrupt) / (clean - corrupt)) < 1e-4 * (1 + fabs(normal)),
                "%s, %s: normalised %g", c->name, results[m].metric, normal);
    }
}

static inset_sweep_options options_of(const sweep_case *c)
{
    inset_sweep_options o = INSET_SWEEP_OPTIONS;
    o.clean.text = clean_text;
    o.corrupt.text = corrupt_text;
    o.patch = c->patch;
    o.by = c->by;
    o.layers = c->layers;
    o.positions = c->positions;
    o.heads = c->heads;
    o.direction = c->direction;
    o.source = c->from == FROM_ZERO ? "zero" : NULL;
    o.metrics = case_metrics;
    return o;
}

enum { N_METRICS = sizeof case_metrics / sizeof *case_metrics - 1 };

static void agrees_with_loops(inset_model *model, const sweep_case *c)
{
    inset_sweep *sweep = NULL;
    inset_sweep_options o = options_of(c);
    inset_sweep_result results[N_METRICS];
    inset_status status = inset_sweep_create(model, &o, &sweep);
    if (!status) status = run_all(sweep);
    NEED(!status, "%s: %s", c->name, inset_message(model->context));
    for (size_t i = 0; i < inset_sweep_result_count(sweep); i += N_METRICS) {
        for (size_t m = 0; m < N_METRICS; m++)
            NEED(!inset_sweep_result_at(sweep, i + m, &results[m]), "%s", c->name);
        for (int64_t pair = 0; pair < 3; pair++)
            for (int64_t point = (pair + (int64_t)i) % 2;
                 point<results[0].points; point += results[0].points> 30 ? 5 : 2)
                compare_point(model, c, results, N_METRICS, pair, point);
    }
    inset_sweep_progress is = INSET_SWEEP_PROGRESS;
    CHECK(
        !inset_sweep_progress_of(sweep, &is) && is.done == is.patches && is.rows < is.rows_unshared,
        "%s: %lld of %lld patches", c->name, (long long)is.done, (long long)is.patches);
    inset_sweep_free(sweep);
}

/* ---- families ----------------------------------------------------------- */

/* path in block 1; NULL: refused */
typedef struct family_case {
    const char *family, *member, *path;
} family_case;
static const family_case families[] = {
    {"gpt2", "resid_pre", "transformer.h.1.input"},
    {"gpt2", "resid_mid", "transformer.h.1.ln_2.input"},
    {"gpt2", "attn_out", "transformer.h.1.attn.output"},
    {"gpt2", "mlp_out", "transformer.h.1.mlp.output"},
    {"gpt2", "attn_head_out", "transformer.h.1.attn.z"},
    {"gpt2", "resid_post", "transformer.h.1.output"},
    {"gpt_neox", "resid_pre", "gpt_neox.layers.1.input"},
    {"gpt_neox", "resid_mid", NULL},
    {"gpt_neox", "attn_out", "gpt_neox.layers.1.post_attention_dropout.output"},
    {"gpt_neox", "mlp_out", "gpt_neox.layers.1.post_mlp_dropout.output"},
    {"gpt_neox", "q", "gpt_neox.layers.1.attention.q"},
    {"gpt_neox_serial", "resid_mid", "gpt_neox.layers.1.post_attention_layernorm.input"},
    {"llama", "resid_mid", "model.layers.1.post_attention_layernorm.input"},
    {"llama", "attn_out", "model.layers.1.self_attn.output"},
    {"llama", "k", "model.layers.1.self_attn.k"},
    {"llama", "mlp_out", "model.layers.1.mlp.output"},
    {"qwen3", "z", "model.layers.1.self_attn.z"},
    {"mistral", "resid_post", "model.layers.1.output"},
    {"gemma2", "resid_mid", "model.layers.1.pre_feedforward_layernorm.input"},
    {"gemma2", "attn_out", "model.layers.1.post_attention_layernorm.output"},
    {"gemma2", "mlp_out", "model.layers.1.post_feedforward_layernorm.output"},
    {"olmo2", "resid_mid", "model.layers.1.mlp.input"},
    {"gemma", "attn_out", "model.layers.1.self_attn.output"},
};

static void finds_site(const family_case *c)
{
    world w;
    char path[128];
    json_document *document;
    program *p = NULL;
    inset_context *context = world_start(&w);
    snprintf(path, sizeof path, "fixtures/trees/%s.json", c->family);
    NEED(!json_open(context, path, &document), "%s: %s", c->family, inset_message(context));
    NEED(!models_build(context, document, false, &p), "%s: %s", c->family, inset_message(context));
    json_close(document);
    sweep s = {.context = context,
        .program = p,
        .n_layers = layers_count(p),
        .chosen_layers = 1,
        .n_labels = 1,
        .heads = {.all = true, .step = 1}};
    arena_start(&s.memory, context);
    CHECK(s.n_layers == 2, "%s: %d layers", c->family, s.n_layers);
    inset_status status = sites_read(&s, c->member, "layer");
    CHECK(c->path ? status == INSET_OK : status == INSET_UNKNOWN_SITE, "%s, %s: %s", c->family,
        c->member, inset_message(context));
    if (!status && c->path) {
        program_site_name(p, s.sites[0].places[0][1], path, sizeof path);
        CHECK(!strcmp(path, c->path), "%s, %s: %s was expected, found %s", c->family, c->member,
            c->path, path);
    }
    arena_free(&s.memory);
    program_free(p);
    world_end(&w, c->family);
}

/* Whatever the family: with all of the stream from the clean run the metric is the clean run's. The
 * other sites give numbers. */
static void whole_stream(inset_context *context, const char *fixture)
{
    const char *const metrics[] = {"logit_diff:3,4", NULL};
    static const struct {
        const char *patch, *by;
        bool clean;
    } ways[] = {{"resid_pre,resid_post", "layer", true}, {"resid_mid", "layer", true},
        {"z,q,k,v", "head", false}, {"block_every", "layer", false}};
    inset_model *model = NULL;
    inset_model_options on = INSET_MODEL_OPTIONS;
    on.device = "cpu";
    inset_status status = inset_model_open(context, fixture, &on, &model);
    NEED(!status, "%s: %s", fixture, inset_message(context));
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        inset_sweep *sweep = NULL;
        inset_sweep_result r;
        inset_sweep_options o = INSET_SWEEP_OPTIONS;
        o.clean.text = "[[1, 2, 3, 4, 5], [6, 7]]";
        o.corrupt.text = "[[2, 8, 3, 4, 1], [5, 7]]";
        o.patch = ways[i].patch;
        o.by = ways[i].by;
        o.metrics = metrics;
        status = inset_sweep_create(model, &o, &sweep);
        if (status == INSET_UNKNOWN_SITE && strstr(inset_message(context), "parallel")) continue;
        if (!status) status = run_all(sweep);
        NEED(!status, "%s, %s: %s", fixture, ways[i].patch, inset_message(context));
        for (size_t k = 0;
             k < inset_sweep_result_count(sweep) && !inset_sweep_result_at(sweep, k, &r); k++)
            for (int64_t j = 0; j < r.pairs * r.points; j++) {
                CHECK(isfinite(r.values[j]), "%s, %s: %g", fixture, r.site, r.values[j]);
                if (ways[i].clean)
                    CHECK(fabs(r.normalised[j] - 1) < 1e-4,
                        "%s, %s, point %lld: %g of the clean run's value", fixture, r.site,
                        (long long)j, r.normalised[j]);
            }
        inset_sweep_free(sweep);
    }
    inset_model_free(model);
}

/* ---- sources ------------------------------------------------------------ */

/* With the mean over one prompt, or over two equal ones, everything is as with that prompt's
 * value. */
static void mean_of_one(inset_model *model)
{
    const char *const metrics[] = {"logit:5", NULL};
    inset_sweep *sweeps[3] = {NULL};
    inset_sweep_result r[3];
    inset_sweep_options o = INSET_SWEEP_OPTIONS;
    const char *const sources[] = {"mean:[[5, 17, 42, 8, 33, 21]]",
        "mean:[[5, 17, 42, 8, 33, 21], [5, 17, 42, 8, 33, 21, 4], [5, 17]]",
        "resample:[[5, 17, 42, 8, 33, 21]]"};
    o.clean.text = "[[5, 18, 42, 8, 30, 20]]";
    o.patch = "resid_post,v";
    o.metrics = metrics;
    for (int i = 0; i < 3; i++) {
        o.source = sources[i];
        inset_status status = inset_sweep_create(model, &o, &sweeps[i]);
        NEED(!status, "%s: %s", sources[i], inset_message(model->context));
        NEED(!run_all(sweeps[i]), "%s", inset_message(model->context));
    }
    for (size_t k = 0; k < 2; k++) {
        for (int i = 0; i < 3; i++)
            NEED(!inset_sweep_result_at(sweeps[i], k, &r[i]), "source %d", i);
        for (int64_t j = 0; j < r[0].points; j++)
            CHECK(fabs(r[0].values[j] - r[2].values[j]) < 1e-4
                      && fabs(r[0].values[j] - r[1].values[j]) < 1e-4,
                "%s, point %lld: %g %g %g", r[0].site, (long long)j, r[0].values[j], r[1].values[j],
                r[2].values[j]);
        CHECK(isnan(r[0].normalised[0]) && isnan(r[0].corrupt[0]), "%s: nothing to normalise by",
            r[0].site);
    }
    for (int i = 0; i < 3; i++) inset_sweep_free(sweeps[i]);
}

/* A tensor of zeros is zero, in each of its shapes. */
static void tensor_of_zeros(inset_model *model, const char *folder)
{
    static const float zeros[LAYERS * 6 * WIDTH];
    static const struct {
        int n;
        int64_t shape[4];
        const char *site;
    } shapes[] = {
        {1, {WIDTH}, "resid_mid"},
        {2, {6, WIDTH}, "resid_mid"},
        {2, {1, WIDTH}, "resid_mid"},
        {3, {LAYERS, 6, WIDTH}, "resid_mid"},
        {2, {HEADS, WIDTH / HEADS}, "z"},
        {3, {6, HEADS, WIDTH / HEADS}, "z"},
        {4, {LAYERS, 1, HEADS, WIDTH / HEADS}, "z"},
    };
    const char *const metrics[] = {"logit:5", NULL};
    char path[512], source[600];
    snprintf(path, sizeof path, "%s/zeros.safetensors", folder);
    snprintf(source, sizeof source, "%s:zeros", path);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        file_tensor tensor = {.name = "zeros",
            .type = INSET_F32,
            .n_dimensions = shapes[i].n,
            .data = zeros,
            .bytes = sizeof(float)};
        for (int k = 0; k < shapes[i].n; k++)
            tensor.bytes *= (size_t)(tensor.shape[k] = shapes[i].shape[k]);
        NEED(!safetensors_write(model->context, path, &tensor, 1, NULL), "%s",
            inset_message(model->context));
        inset_sweep_options o = INSET_SWEEP_OPTIONS;
        inset_sweep *sweeps[2] = {NULL};
        inset_sweep_result r[2];
        o.clean.text = "[[5, 18, 42, 8, 30, 20]]";
        o.patch = shapes[i].site;
        o.metrics = metrics;
        for (int k = 0; k < 2; k++) {
            o.source = k ? source : "zero";
            inset_status status = inset_sweep_create(model, &o, &sweeps[k]);
            if (!status) status = run_all(sweeps[k]);
            if (!status) status = inset_sweep_result_at(sweeps[k], 0, &r[k]);
            NEED(!status, "shape %zu: %s", i, inset_message(model->context));
        }
        for (int64_t at = 0; at < r[0].points; at++) {
            const float a = r[0].values[at], b = r[1].values[at];
            CHECK(model->device->steady ? a == b : fabsf(a - b) <= 1e-5f + 1e-5f * fabsf(b),
                "shape %zu, point %d: %.9g, %.9g", i, (int)at, (double)a, (double)b);
        }
        for (int k = 0; k < 2; k++) inset_sweep_free(sweeps[k]);
    }
}

/* ---- refusals ----------------------------------------------------------- */

typedef struct refusal {
    const char *what;
    const char *clean, *corrupt, *patch, *by, *layers, *positions, *heads, *source, *direction,
        *metric;
    inset_status status;
    const char *says;
} refusal;

#define PAIR "[[1, 2, 3]]", "[[1, 5, 3]]"
static const refusal refusals[] = {
    {"no clean", NULL, "[[1]]", "z", NULL, NULL, NULL, NULL, NULL, NULL, "kl", INSET_USAGE_ERROR,
        "The clean ones are missing"},
    {"no corrupt", "[[1]]", NULL, "z", NULL, NULL, NULL, NULL, NULL, NULL, "kl", INSET_USAGE_ERROR,
        "The corrupt ones are missing"},
    {"lengths", "[[1, 2], [3]]", "[[1, 2], [3, 4]]", "z", NULL, NULL, NULL, NULL, NULL, NULL, "kl",
        INSET_VALUE_ERROR, "pair 1: the clean prompt has 1 tokens, the corrupt one 2"},
    {"counts", "[[1, 2], [3]]", "[[1, 2]]", "z", NULL, NULL, NULL, NULL, NULL, NULL, "kl",
        INSET_VALUE_ERROR, "2 clean prompts and 1 corrupt"},
    {"vocabulary", "[[1, 61]]", "[[1, 2]]", "z", NULL, NULL, NULL, NULL, NULL, NULL, "kl",
        INSET_INDEX_ERROR, "clean: prompt 0, position 1: token 61 is outside the vocabulary of 61"},
    {"negative token", "[[1, 2]]", "[[-1, 2]]", "z", NULL, NULL, NULL, NULL, NULL, NULL, "kl",
        INSET_INDEX_ERROR, "corrupt: prompt 0, position 0"},
    {"empty prompt", "[[]]", "[[]]", "z", NULL, NULL, NULL, NULL, NULL, NULL, "kl",
        INSET_VALUE_ERROR, "prompt 0 is empty"},
    {"no prompts", "[]", "[]", "z", NULL, NULL, NULL, NULL, NULL, NULL, "kl", INSET_VALUE_ERROR,
        "there is no prompt"},
    {"float token", "[[1, 2.5]]", "[[1, 2]]", "z", NULL, NULL, NULL, NULL, NULL, NULL, "kl",
        INSET_TYPE_ERROR, "prompt 0, position 1: a token id is an integer"},
    {"mixed nesting", "[[1, 2], 3]", "[[1, 2], [3]]", "z", NULL, NULL, NULL, NULL, NULL, NULL, "kl",
        INSET_TYPE_ERROR, "lists of token ids or texts were expected"},
    {"words", "hello", "[[1]]", "z", NULL, NULL, NULL, NULL, NULL, NULL, "kl", INSET_FILE_ERROR,
        "there is no tokenizer.json, which a text needs; token ids work"},
    {"a file", "test_sweep.c", "[[1]]", "z", NULL, NULL, NULL, NULL, NULL, NULL, "kl",
        INSET_VALUE_ERROR, "'test_sweep.c' is a file; files of prompts end in"},
    {"unclosed", "[[1, 2", "[[1]]", "z", NULL, NULL, NULL, NULL, NULL, NULL, "kl", INSET_FILE_ERROR,
        "clean:1"},
    {"missing file", "/nowhere/x.npy", "[[1]]", "z", NULL, NULL, NULL, NULL, NULL, NULL, "kl",
        INSET_FILE_ERROR, "/nowhere/x.npy"},
    {"too long",
        "[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]",
        "[[1]]", "z", NULL, NULL, NULL, NULL, NULL, NULL, "kl", INSET_VALUE_ERROR,
        "41 tokens; the model has 40 positions"},
    {"unknown site", PAIR, "resid_pree", NULL, NULL, NULL, NULL, NULL, NULL, "kl",
        INSET_UNKNOWN_SITE, "Did you mean resid_pre?"},
    {"empty site", PAIR, "z,", NULL, NULL, NULL, NULL, NULL, NULL, "kl", INSET_UNKNOWN_SITE,
        "there is no site ''"},
    {"site twice", PAIR, "z,z", NULL, NULL, NULL, NULL, NULL, NULL, "kl", INSET_VALUE_ERROR,
        "named twice"},
    {"no site", PAIR, NULL, NULL, NULL, NULL, NULL, NULL, NULL, "kl", INSET_USAGE_ERROR,
        "which site"},
    {"no such axis", PAIR, "z", "layer,token", NULL, NULL, NULL, NULL, NULL, "kl",
        INSET_VALUE_ERROR, "there is no axis 'token'"},
    {"axis twice", PAIR, "z", "layer,layer", NULL, NULL, NULL, NULL, NULL, "kl", INSET_VALUE_ERROR,
        "layer is named twice"},
    {"no head", PAIR, "resid_pre", "layer,head", NULL, NULL, NULL, NULL, NULL, "kl",
        INSET_VALUE_ERROR, "resid_pre has no axis head"},
    {"layers", PAIR, "z", NULL, "7:9", NULL, NULL, NULL, NULL, "kl", INSET_VALUE_ERROR,
        "layers: '7:9' chooses none of the 3 layers"},
    {"a layer", PAIR, "z", NULL, "3", NULL, NULL, NULL, NULL, "kl", INSET_VALUE_ERROR,
        "none of the 3 layers"},
    {"positions", PAIR, "z", NULL, NULL, "3:", NULL, NULL, NULL, "kl", INSET_VALUE_ERROR,
        "none of the 3 positions"},
    {"heads", PAIR, "z", NULL, NULL, NULL, "4", NULL, NULL, "kl", INSET_VALUE_ERROR,
        "none of the 4 heads of z"},
    {"no range", PAIR, "z", NULL, "a:b", NULL, NULL, NULL, NULL, "kl", INSET_VALUE_ERROR,
        "a range such as 4:9"},
    {"step 0", PAIR, "z", NULL, "::0", NULL, NULL, NULL, NULL, "kl", INSET_VALUE_ERROR,
        "a range such as 4:9"},
    {"mixed range", "[[1, 2, 3], [1, 2]]", "[[1, 2, 4], [1, 3]]", "z", NULL, NULL, "-2:1", NULL,
        NULL, NULL, "kl", INSET_VALUE_ERROR, "differ in length"},
    {"source", PAIR, "z", NULL, NULL, NULL, NULL, "average", NULL, "kl", INSET_VALUE_ERROR,
        "'average' is no source"},
    {"resample alone", PAIR, "z", NULL, NULL, NULL, NULL, "resample", NULL, "kl", INSET_VALUE_ERROR,
        "no other prompt is as long as pair 0"},
    {"short mean", PAIR, "z", NULL, NULL, NULL, NULL, "mean:[[1, 2]]", NULL, "kl",
        INSET_VALUE_ERROR, "the longest of these prompts has 2 tokens"},
    {"direction", PAIR, "z", NULL, NULL, NULL, NULL, NULL, "up", "kl", INSET_VALUE_ERROR,
        "'up' is no direction"},
    {"no metric", PAIR, "z", NULL, NULL, NULL, NULL, NULL, NULL, NULL, INSET_USAGE_ERROR,
        "which metric"},
    {"metric", PAIR, "z", NULL, NULL, NULL, NULL, NULL, NULL, "loss", INSET_VALUE_ERROR,
        "'loss' is no metric"},
    {"metric without tokens", PAIR, "z", NULL, NULL, NULL, NULL, NULL, NULL, "logit",
        INSET_VALUE_ERROR, "'logit' is no metric"},
    {"one token", PAIR, "z", NULL, NULL, NULL, NULL, NULL, NULL, "logit_diff:3", INSET_VALUE_ERROR,
        "is no metric"},
    {"three tokens", PAIR, "z", NULL, NULL, NULL, NULL, NULL, NULL, "logit_diff:3,4,5",
        INSET_VALUE_ERROR, "is no metric"},
    {"kl of a token", PAIR, "z", NULL, NULL, NULL, NULL, NULL, NULL, "kl:3", INSET_VALUE_ERROR,
        "is no metric"},
    {"half a set", PAIR, "z", NULL, NULL, NULL, NULL, NULL, NULL, "logit:3+", INSET_VALUE_ERROR,
        "is no metric"},
    {"metric's vocabulary", PAIR, "z", NULL, NULL, NULL, NULL, NULL, NULL, "logit_diff:3,61",
        INSET_INDEX_ERROR, "token 61 is outside the vocabulary of 61"},
    {"metric's position", PAIR, "z", NULL, NULL, NULL, NULL, NULL, NULL, "logit:3@3",
        INSET_INDEX_ERROR, "position 3 is outside pair 0"},
    {"metric's file", PAIR, "z", NULL, NULL, NULL, NULL, NULL, NULL, "logit:no.npy",
        INSET_FILE_ERROR, "no.npy"},
};

static void refuses(inset_model *model, const refusal *c)
{
    const char *const metrics[] = {c->metric, NULL};
    inset_sweep *sweep = NULL;
    inset_sweep_options o = INSET_SWEEP_OPTIONS;
    o.clean.text = c->clean;
    o.corrupt.text = c->corrupt;
    o.patch = c->patch;
    o.by = c->by;
    o.layers = c->layers;
    o.positions = c->positions;
    o.heads = c->heads;
    o.source = c->source;
    o.direction = c->direction;
    o.metrics = metrics;
    int64_t live = model->context->live_blocks;
    inset_status status = inset_sweep_create(model, &o, &sweep);
    const char *message = inset_message(model->context);
    CHECK(status == c->status && strstr(message, c->says),
        "%s: %s with '%s' was expected, found %s: %s", c->what, inset_status_name(c->status),
        c->says, inset_status_name(status), message);
    CHECK(!sweep, "%s: a sweep came out", c->what);
    /* the message */
    CHECK(model->context->live_blocks <= live + 3, "%s: %lld blocks more", c->what,
        (long long)(model->context->live_blocks - live));
    inset_sweep_free(sweep);
}

/* ---- resume, chunks, sharing -------------------------------------------- */

static const char *const small_metrics[] = {"logit_diff:11,12", "kl", NULL};

/* Little memory, so that there are several chunks. */
static inset_sweep_options small_options(const char *state)
{
    inset_sweep_options o = INSET_SWEEP_OPTIONS;
    o.clean.text = clean_text;
    o.corrupt.text = corrupt_text;
    o.patch = "resid_pre,z";
    o.metrics = small_metrics;
    o.memory_limit = 120000;
    o.state = state;
    return o;
}

/* Steps `steps` times (-1: to the end), writes to `path` when done; returns how many steps it
 * took. */
static int sweep_to(inset_model *model, const inset_sweep_options *o, int steps, const char *path)
{
    inset_sweep *sweep = NULL;
    int taken = 0;
    inset_status status = inset_sweep_create(model, o, &sweep);
    while (!status && !inset_sweep_done(sweep) && (steps < 0 || taken < steps)) {
        status = inset_sweep_step(sweep);
        taken++;
    }
    if (!status && inset_sweep_done(sweep)) status = inset_sweep_write(sweep, path, "command");
    CHECK(!status, "%s", inset_message(model->context));
    inset_sweep_free(sweep);
    return taken;
}

static bool same_bytes(const char *a, const char *b)
{
    size_t n = 0, m = 0;
    char *x = test_read(a, &n), *y = test_read(b, &m);
    bool same = x && y && n == m && !memcmp(x, y, n);
    free(x);
    free(y);
    return same;
}

static void resumes(inset_model *model, const char *folder)
{
    char whole[512], parts[512], state[512];
    snprintf(whole, sizeof whole, "%s/whole.safetensors", folder);
    snprintf(parts, sizeof parts, "%s/parts.safetensors", folder);
    snprintf(state, sizeof state, "%s/parts.partial", folder);
    inset_sweep_options o = small_options(NULL);
    int steps = sweep_to(model, &o, -1, whole);
    NEED(steps >= 4, "%d chunks: too few for this test", steps);
    /* the last two lose the end of a record, and all but a few bytes of it */
    for (int cut = 0; cut < 4; cut++) {
        o.state = state;
        o.resume = 0;
        sweep_to(model, &o, cut < 3 ? 1 + cut : 2, parts);
        size_t size = 0;
        state_header h = {.description = 0};
        char *bytes = test_read(state, &size);
        if (bytes) memcpy(&h, bytes, sizeof h);
        free(bytes);
        if (cut >= 2)
            CHECK(
                truncate(state, cut == 2 ? (off_t)size - 1 : (off_t)(sizeof h + h.description) + 2)
                    == 0,
                "truncate");
        inset_sweep *sweep = NULL;
        CHECK(inset_sweep_create(model, &o, &sweep) == INSET_FILE_ERROR
                  && strstr(inset_message(model->context), "unfinished"),
            "an unasked state");
        inset_sweep_options other = o;
        other.resume = 1;
        other.seed = 5;
        CHECK(inset_sweep_create(model, &other, &sweep) == INSET_FILE_ERROR
                  && strstr(inset_message(model->context), "another sweep"),
            "another's state");
        o.resume = 1;
        int rest = sweep_to(model, &o, -1, parts);
        CHECK(rest
                  == (cut == 0   ? steps - 1
                      : cut == 3 ? steps
                                 : steps - 2),
            "cut %d: %d of %d chunks were run again", cut, rest, steps);
        CHECK(same_bytes(whole, parts), "cut %d: other bytes", cut);
        CHECK(access(state, F_OK), "cut %d: the state is still there", cut);
        remove(parts);
    }
    remove(whole);
}

/* Little memory and no sharing change nothing beyond rounding, but rows. */
static void chunks_agree(inset_model *model)
{
    inset_sweep *sweeps[3] = {NULL};
    inset_sweep_progress is[3] = {INSET_SWEEP_PROGRESS, INSET_SWEEP_PROGRESS, INSET_SWEEP_PROGRESS};
    inset_sweep_result r[3];
    for (int i = 0; i < 3; i++) {
        inset_sweep_options o = small_options(NULL);
        if (i != 1) o.memory_limit = 0;
        o.no_share = i == 2;
        inset_status status = inset_sweep_create(model, &o, &sweeps[i]);
        if (!status) status = run_all(sweeps[i]);
        if (!status) status = inset_sweep_progress_of(sweeps[i], &is[i]);
        NEED(!status, "%s", inset_message(model->context));
    }
    CHECK(is[0].rows <= is[1].rows && is[0].rows < is[2].rows, "rows %lld %lld %lld",
        (long long)is[0].rows, (long long)is[1].rows, (long long)is[2].rows);
    for (size_t k = 0; k < inset_sweep_result_count(sweeps[0]); k++) {
        for (int i = 0; i < 3; i++)
            NEED(!inset_sweep_result_at(sweeps[i], k, &r[i]), "result %zu", k);
        for (int64_t j = 0; j < r[0].pairs * r[0].points; j++)
            for (int i = 1; i < 3; i++)
                CHECK((isnan(r[0].values[j]) && isnan(r[i].values[j]))
                          || fabs(r[0].values[j] - r[i].values[j]) < 2e-5,
                    "result %zu, way %d: %g %g", k, i, r[0].values[j], r[i].values[j]);
    }
    for (int i = 0; i < 3; i++) inset_sweep_free(sweeps[i]);
}

/* A limit that not even one patch fits. */
static void too_little_memory(inset_model *model)
{
    inset_sweep *sweep = NULL;
    inset_sweep_options o = small_options(NULL);
    o.memory_limit = 1000;
    CHECK(inset_sweep_create(model, &o, &sweep) == INSET_NO_MEMORY
              && strstr(inset_message(model->context), "there are 1000"),
        "%s", inset_message(model->context));
}

/* The arrays of a file, their shapes, and what its metadata says of axes. */
static void file_says(inset_model *model, const char *folder)
{
    char path[512];
    safetensors *file = NULL;
    snprintf(path, sizeof path, "%s/says.safetensors", folder);
    inset_sweep_options o = small_options(NULL);
    o.positions = "2:";
    o.memory_limit = 0;
    sweep_to(model, &o, -1, path);
    NEED(!safetensors_open(model->context, path, &file), "%s", inset_message(model->context));
    CHECK(safetensors_count(file) == 24, "%zu tensors", safetensors_count(file));
    const file_tensor *t = safetensors_find(file, "resid_pre.logit_diff:11,12");
    CHECK(
        t && t->n_dimensions == 3 && t->shape[0] == 3 && t->shape[1] == LAYERS && t->shape[2] == 4,
        "resid_pre");
    t = safetensors_find(file, "z.kl.mean");
    CHECK(t && t->n_dimensions == 2 && t->shape[0] == LAYERS && t->shape[1] == HEADS, "z");
    safetensors_close(file);
    char *bytes = test_read(path, NULL);
    static const char *const says[] = {"\"inset\":\"" INSET_VERSION "\"", "\"model\":\"gpt2\"",
        "\"command\":\"command\"",
        "\"resid_pre.axes\":\"[\\\"pair\\\", \\\"layer\\\", \\\"position\\\"]\"",
        "\"resid_pre.labels.position\":\"[2, 3, 4, 5]\""};
    for (size_t i = 0; bytes && i < sizeof says / sizeof *says; i++)
        CHECK(strstr(bytes + 8, says[i]), "metadata lacks %s", says[i]);
    free(bytes);
    remove(path);
}

/* ---- calls that make no sense ------------------------------------------- */

static void wrong_calls(inset_context *context, inset_model *model)
{
    inset_sweep *sweep = NULL;
    inset_model *none = NULL, *notebook = NULL;
    inset_sweep_options o = small_options(NULL), longer = o;
    inset_sweep_progress is = INSET_SWEEP_PROGRESS;
    inset_sweep_result r;
    inset_model_options on = INSET_MODEL_OPTIONS;
    longer.size = sizeof longer + 8;
    on.device = "none";
    CHECK(inset_sweep_create(NULL, &o, &sweep) == INSET_USAGE_ERROR
              && inset_sweep_create(model, NULL, &sweep) == INSET_USAGE_ERROR
              && inset_sweep_create(model, &o, NULL) == INSET_USAGE_ERROR
              && inset_sweep_create(model, &longer, &sweep) == INSET_USAGE_ERROR,
        "create");
    CHECK(inset_sweep_step(NULL) == INSET_USAGE_ERROR && inset_sweep_done(NULL) == 1
              && inset_sweep_result_count(NULL) == 0
              && inset_sweep_result_at(NULL, 0, &r) == INSET_USAGE_ERROR
              && inset_sweep_progress_of(NULL, &is) == INSET_USAGE_ERROR
              && inset_sweep_write(NULL, "x", NULL) == INSET_USAGE_ERROR,
        "a NULL sweep");
    inset_sweep_free(NULL);
    NEED(!inset_model_open(context, "fixtures/gpt2", &on, &none), "%s", inset_message(context));
    CHECK(inset_sweep_create(none, &o, &sweep) == INSET_USAGE_ERROR
              && strstr(inset_message(context), "without a device"),
        "%s", inset_message(context));
    inset_model_free(none);
    on.device = "cpu";
    NEED(!inset_model_open(context, "fixtures/notebook", &on, &notebook), "%s",
        inset_message(context));
    CHECK(inset_sweep_create(notebook, &o, &sweep) == INSET_UNKNOWN_SITE
              && strstr(inset_message(context), "sequential"),
        "%s", inset_message(context));
    inset_model_free(notebook);
    o.memory_limit = 0;
    NEED(!inset_sweep_create(model, &o, &sweep), "%s", inset_message(context));
    CHECK(inset_sweep_write(sweep, "/tmp/never", NULL) == INSET_USAGE_ERROR
              && strstr(inset_message(context), "not done"),
        "%s", inset_message(context));
    CHECK(inset_sweep_result_at(sweep, 99, &r) == INSET_INDEX_ERROR, "result 99");
    CHECK(!inset_sweep_result_at(sweep, 0, &r) && isnan(r.values[0]) && isnan(r.mean[0]),
        "a result before the run");
    inset_sweep_free(sweep);
}

/* ---- memory that runs out ----------------------------------------------- */

static void fails_in_turn(void)
{
    const char *const metrics[] = {"logit_diff:11,12+5", "rank:4@1", NULL};
    inset_model *model = NULL;
    inset_model_options on = INSET_MODEL_OPTIONS;
    world w;
    inset_context *context = world_start(&w);
    on.device = "cpu";
    NEED(!inset_model_open(context, "fixtures/gpt2", &on, &model), "%s", inset_message(context));
    int64_t n = 0;
    for (inset_status status = INSET_NO_MEMORY; status == INSET_NO_MEMORY && n < 5000; n++) {
        inset_sweep *sweep = NULL;
        inset_sweep_result r;
        inset_sweep_options o = INSET_SWEEP_OPTIONS;
        o.clean.text = "[[1, 2, 3]]";
        o.corrupt.text = "[[1, 5, 3]]";
        o.patch = "block_every,z";
        o.source = n % 3 == 0 ? "mean:[[4, 5, 6]]" : n % 3 == 1 ? "resample:[[4, 5, 6]]" : NULL;
        o.metrics = metrics;
        int64_t live = w.memory.live;
        w.memory.fail_at = w.memory.calls + 1 + n / 3;
        status = inset_sweep_create(model, &o, &sweep);
        if (!status) status = run_all(sweep);
        if (!status) status = inset_sweep_result_at(sweep, 0, &r);
        w.memory.fail_at = 0;
        inset_sweep_free(sweep);
        CHECK(status == INSET_OK || status == INSET_NO_MEMORY, "allocation %lld: %s", (long long)n,
            inset_message(context));
        /* spare arena blocks */
        CHECK(w.memory.live <= live + 40, "allocation %lld: %lld blocks more", (long long)n,
            (long long)(w.memory.live - live));
    }
    CHECK(n > 30 && n < 5000, "%lld allocations", (long long)n);
    world_end(&w, "allocations");
}

int main(void)
{
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_model_options on = INSET_MODEL_OPTIONS;
    char folder[] = "/tmp/inset-sweep-XXXXXX", path[512];
    on.device = "cpu";
    if (!CHECK(mkdtemp(folder) && !inset_context_create(NULL, &context), "no folder or context"))
        return test_result();
    if (!CHECK(
            !inset_model_open(context, "fixtures/gpt2", &on, &model), "%s", inset_message(context)))
        return test_result();
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) finds_site(&families[i]);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) agrees_with_loops(model, &cases[i]);
    static const char *const fixtures[] = {
        "fixtures/gpt2", "fixtures/llama", "fixtures/gpt_neox", "fixtures/gemma2"};
    for (size_t i = 0; i < sizeof fixtures / sizeof *fixtures; i++)
        whole_stream(context, fixtures[i]);
    mean_of_one(model);
    tensor_of_zeros(model, folder);
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) refuses(model, &refusals[i]);
    resumes(model, folder);
    chunks_agree(model);
    too_little_memory(model);
    file_says(model, folder);
    wrong_calls(context, model);
    inset_context_free(context);
    fails_in_turn();
    snprintf(path, sizeof path, "%s/zeros.safetensors", folder);
    remove(path);
    CHECK(rmdir(folder) == 0, "%s is not empty", folder);
    return test_result();
}
