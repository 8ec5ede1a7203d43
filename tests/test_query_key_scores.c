/* test_query_key_scores.c: AtP*'s scores of queries and keys, whose softmax is exact, beside plain
 * loops in double over the q, k and v that a trace saves, and the gradient of z.
 *
 *   query    g . (softmax(q' K) V - softmax(q K) V), q and k behind the rotation where heads turn
 *   key      the same summed over all queries that see it, with that key in the place of its own
 *
 * For each way a family's attention differs: grouped heads, a window, a cap, scores that grow with
 * position (BLOOM), sinks (gpt-oss), rows that see each other both ways (BERT). */
#include "test.h"

#include "base/base.h"
#include "file/file.h"
#include "sweep/sweep.h"
#include "sweeps.h"

enum { N = 6, MOST_HEADS = 8, SAVED = 7 };
static const char clean[] = "[[5, 17, 42, 8, 33, 21]]", corrupt[] = "[[5, 18, 42, 9, 33, 20]]";
static const char *const metrics[] = {"logit_diff:11,12", NULL};

/* One layer's attention: q, k, v of the patched run, the other run's q and k, what comes back to z;
 * [N, heads, d]. */
typedef struct layer {
    const step *attention;
    const float *q, *k, *v, *other_q, *other_k, *back;
    double sinks[MOST_HEADS];
} layer;

static inset_attribution_options options_of(const char *patch)
{
    inset_attribution_options o = INSET_ATTRIBUTION_OPTIONS;
    o.sweep.clean.text = clean;
    o.sweep.corrupt.text = corrupt;
    o.sweep.patch = patch;
    o.sweep.metrics = metrics;
    o.qk = 1;
    return o;
}

/* ---- what is expected ---------------------------------------------------- */

/* g . softmax(query K) V for the query at `position`; key `changed` (-1: none) is `instead`. */
static double through(
    const layer *a, const float *query, int position, int head, int changed, const float *instead)
{
    const step *s = a->attention;
    const int d = s->head_dim, group = head / (s->n_heads / s->n_kv_heads),
              end = s->both_ways ? N : position + 1,
              from = s->window && position + 1 > s->window ? position + 1 - s->window : 0;
    double weights[N] = {0}, sum = s->weight >= 0 ? exp(a->sinks[head]) : 0, total = 0;
    for (int j = from; j < end; j++) {
        const float *key = j == changed ? instead : a->k + (j * s->n_kv_heads + group) * d;
        double score = 0;
        for (int c = 0; c < d; c++) score += (double)query[c] * (double)key[c];
        score *= (double)s->scale;
        if (s->softcap > 0) score = (double)s->softcap * tanh(score / (double)s->softcap);
        if (s->slopes) score += (double)s->slopes[head] * j;
        sum += weights[j] = exp(score);
    }
    for (int j = from; j < end; j++)
        for (int c = 0; c < d; c++)
            total += weights[j] / sum * (double)a->v[(j * s->n_kv_heads + group) * d + c]
                     * (double)a->back[(position * s->n_heads + head) * d + c];
    return total;
}

static double query_expected(const layer *a, int position, int head)
{
    const int64_t at = (position * a->attention->n_heads + head) * a->attention->head_dim;
    return through(a, a->other_q + at, position, head, -1, NULL)
           - through(a, a->q + at, position, head, -1, NULL);
}

static double key_expected(const layer *a, int position, int group)
{
    const step *s = a->attention;
    const int shared = s->n_heads / s->n_kv_heads;
    const float *other = a->other_k + (position * s->n_kv_heads + group) * s->head_dim;
    double sum = 0;
    for (int i = 0; i < N; i++)
        for (int h = group * shared; h < (group + 1) * shared; h++) {
            const float *query = a->q + (i * s->n_heads + h) * s->head_dim;
            sum += through(a, query, i, h, position, other) - through(a, query, i, h, -1, NULL);
        }
    return sum;
}

/* ---- the runs ------------------------------------------------------------ */

/* Both runs of a layer; the corrupt one is patched. */
static inset_status run_layer(inset_model *model, const int32_t *sites, inset_trace **trace,
    inset_plan **plan, inset_tensor *out)
{
    const program *p = ((struct inset_model *)model)->program;
    char path[4][128], values[160], text[2000];
    for (int i = 0; i < 4; i++) program_site_name(p, sites[i], path[i], 128);
    snprintf(values, sizeof values, "    x4 = %s.save()\n", path[2]);
    /* the turned ones stand behind v */
    const bool first = p->sites[sites[2]].event < p->sites[sites[0]].event;
    snprintf(text, sizeof text,
        "with invoke(%s):\n    x0 = %s.save()\n    x1 = %s.save()\n"
        "with invoke(%s):\n%s    x2 = %s.save()\n    x3 = %s.save()\n%s"
        "    z = %s\n    m = output.logits[0, -1].logit_diff(11, 12)\n"
        "    with m.backward():\n        x5 = z.grad.save()\n",
        clean, path[0], path[1], corrupt, first ? values : "", path[0], path[1],
        first ? "" : values, path[3]);
    inset_status status = inset_trace_create(model, trace);
    if (!status) status = inset_script(*trace, "runs", "", text, strlen(text));
    if (!status) status = inset_plan_create(*trace, NULL, plan);
    if (!status) status = inset_run(*plan);
    for (int i = 0; i < 6 && !status; i++) {
        char name[8];
        snprintf(name, sizeof name, "x%d", i);
        status = inset_saved(*plan, name, &out[i]);
    }
    return status;
}

static void read_sinks(inset_context *context, const program *p, const char *folder, layer *a)
{
    char path[160], name[160];
    safetensors *file = NULL;
    const int32_t at = a->attention->weight;
    if (at < 0) return;
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    snprintf(name, sizeof name, "%s%s", p->optional_prefix, p->weights[at].name);
    NEED(!safetensors_open(context, path, &file), "%s", inset_message(context));
    const file_tensor *sinks = safetensors_find(file, name);
    NEED(sinks && sinks->type == INSET_F32, "no %s", name);
    for (int h = 0; h < a->attention->n_heads; h++) {
        float one;
        memcpy(&one, (const char *)sinks->data + (size_t)h * sizeof one, sizeof one);
        a->sinks[h] = (double)one;
    }
    safetensors_close(file);
}

static void check_layer(inset_sweep *scores, const layer *a, const char *family, int at, bool keys)
{
    inset_sweep_result r;
    const int heads = keys ? a->attention->n_kv_heads : a->attention->n_heads;
    NEED(!inset_sweep_result_at(scores, keys, &r), "no result");
    CHECK(r.n_axes == 3 && r.axes[1].count == N && r.axes[2].count == heads,
        "%s, %s: axes of %lld and %lld", family, r.site, (long long)r.axes[1].count,
        (long long)r.axes[2].count);
    double size = 0;
    for (int64_t i = 0; i < r.points; i++) size = fmax(size, fabs((double)r.values[i]));
    for (int p = 0; p < N; p++)
        for (int h = 0; h < heads; h++) {
            const double want = keys ? key_expected(a, p, h) : query_expected(a, p, h),
                         got = (double)r.values[(at * N + p) * heads + h];
            CHECK(fabs(got - want) < 2e-5 * (size + fabs(want)),
                "%s, %s of layer %d, position %d, head %d: %g, expected %g", family, r.site, at, p,
                h, got, want);
        }
    CHECK(size > 0, "%s: all scores are 0", family);
}

static void agrees(
    inset_context *context, const char *family, bool rotates, const inset_model_options *on)
{
    static const char *const names[2][2] = {{"q", "k"}, {"rot_q", "rot_k"}};
    char path[128];
    inset_model *model = NULL;
    inset_sweep *scores = NULL;
    snprintf(path, sizeof path, "fixtures/%s", family);
    inset_attribution_options o = options_of("q,k");
    o.sweep.by = "layer,position,head";
    NEED(!inset_model_open(context, path, on, &model)
             && !inset_attribution_create(model, &o, &scores) && !run_all(scores),
        "%s: %s", family, inset_message(context));
    const program *p = ((struct inset_model *)model)->program;
    sweep *places = NULL;
    NEED(!sweep_create((struct inset_model *)model, &o.sweep, NULL, &places), "%s",
        inset_message(context));
    for (int32_t l = 0; l < layers_count(p); l++) {
        const char *const wanted[4] = {names[rotates][0], names[rotates][1], "v", "z"};
        int32_t sites[4];
        inset_trace *trace = NULL;
        inset_plan *plan = NULL;
        inset_tensor x[SAVED];
        for (int i = 0; i < 4; i++) sites[i] = layer_place(places, l, wanted[i]);
        const inset_status status = run_layer(model, sites, &trace, &plan, x);
        if (CHECK(!status, "%s: %s", family, inset_message(context))) {
            layer a = {&p->steps[layer_attention(places, l)], x[2].data, x[3].data, x[4].data,
                x[0].data, x[1].data, x[5].data, {0}};
            read_sinks(context, p, path, &a);
            check_layer(scores, &a, family, (int)l, false);
            check_layer(scores, &a, family, (int)l, true);
        }
        inset_plan_free(plan);
        inset_trace_free(trace);
    }
    sweep_free(places);
    inset_sweep_free(scores);
    inset_model_free(model);
}

int main(void)
{
    inset_context *context = NULL;
    inset_model_options on = INSET_MODEL_OPTIONS;
    on.device = "cpu";
    if (!CHECK(!inset_context_create(NULL, &context), "no context")) return test_result();
    agrees(context, "gpt2", false, &on);
    agrees(context, "bloom", false, &on);
    agrees(context, "bert", false, &on);
    agrees(context, "llama", true, &on);
    agrees(context, "mistral", true, &on);
    agrees(context, "gemma2", true, &on);
    agrees(context, "gpt_oss", true, &on);
    inset_context_free(context);
    return test_result();
}
