/* scores.c: from what a chunk saved to the scores of its points: sums of products over what is no
 * axis, and differences of softmaxes where those are exact (softmax.c). */
#include "sweep/attribution/scores.h"

#include <math.h>
#include <string.h>

#include "run/run.h"

/* Adds to the score of a point. */
static void add_point(
    sweep *s, const tap *t, int64_t position, int64_t head, double score, double *points)
{
    const sweep_site *site = &s->sites[t->site];
    const int64_t at[AXIS_COUNT] = {t->member, t->layer, position, head, 0};
    int64_t point = 0;
    for (int i = 0; i < site->n_axes; i++)
        point = point * site->extents[site->axes[i]] + at[site->axes[i]];
    points[site->first_point + point] += score;
}

/* The label of the pair's i-th chosen position. */
static int64_t label_of(const sweep *s, int64_t pair, int64_t i)
{
    int64_t first;
    range_resolve(&s->positions, s->clean.lengths[pair], &first);
    return position_label(s, pair, first + i * s->positions.step);
}

/* Scores and patterns: [1, heads, queries, keys], of which the keys are no axis. What a query does
 * not see is -inf in both runs' scores, and has no difference. */
static void add_rows_of_keys(sweep *s, const product *p, const inset_tensor *x, double *points)
{
    const tap *t = &s->taps[p->tap];
    const step *attention = &s->program->steps[layer_attention(
        s, (int32_t)(s->first_layer + t->layer * s->layers.step))];
    const int64_t heads = x->shape[1], n = x->shape[2], keys = x->shape[3];
    int64_t first;
    range_resolve(&s->positions, s->clean.lengths[p->pair], &first);
    const float *at = x->data;
    for (int64_t h = 0; h < heads; h++)
        for (int64_t i = 0; i < n; i++, at += keys) {
            const int64_t query = first + i * s->positions.step;
            const int64_t from = attention->window > 0 ? query + 1 - attention->window : 0;
            double sum = 0;
            for (int64_t c = from > 0 ? from : 0; c <= query && c < keys; c++) sum += at[c];
            add_point(s, t, label_of(s, p->pair, i), h, sum, points);
        }
}

/* What is saved is the gradient itself, [1, positions, width]. */
static void add_features(sweep *s, const product *p, const inset_tensor *x, double *points)
{
    int64_t first;
    range_resolve(&s->positions, s->clean.lengths[p->pair], &first);
    features_score(
        s, &s->sites[s->taps[p->tap].site], p->pair, x->data, first, s->positions.step, points);
}

static void add_scores(sweep *s, const product *p, const inset_tensor *x, double *points)
{
    const tap *t = &s->taps[p->tap];
    const sweep_site *site = &s->sites[t->site];
    if (site->by_keys) return add_rows_of_keys(s, p, x, points);
    if (site->features) return add_features(s, p, x, points);
    const int64_t heads = site->per_head ? site->heads : 1, width = x->shape[x->n_dimensions - 1],
                  n = x->shape[1];
    const float *at = x->data;
    for (int64_t i = 0; i < n; i++)
        for (int64_t h = 0; h < heads; h++, at += width) {
            double sum = 0;
            for (int64_t c = 0; c < width; c++) sum += at[c];
            add_point(s, t, label_of(s, p->pair, i), h, sum, points);
        }
}

static void add_softmax(sweep *s, const product *p, const inset_tensor *x, double *points)
{
    const tap *t = &s->taps[p->tap];
    const sweep_site *site = &s->sites[t->site];
    const attention_rows a = {.attention = &s->program->steps[s->attribution->attention[t->layer]],
        .sinks = s->attribution->sinks[t->layer],
        .n = s->clean.lengths[p->pair],
        .q = x[0].data,
        .k = x[1].data,
        .v = x[2].data,
        .patched = x[3].data,
        .back = x[4].data};
    int64_t first, n = range_resolve(&s->positions, a.n, &first);
    for (int64_t i = 0; i < n; i++)
        for (int64_t h = 0; h < site->heads; h++) {
            const int64_t position = first + i * s->positions.step, head = site->head_labels[h];
            add_point(s, t, label_of(s, p->pair, i), h,
                p->kind == PRODUCT_KEYS ? key_score(&a, position, head)
                                        : query_score(&a, position, head),
                points);
        }
}

/* The products of one pair, metric and backward; they lie side by side. */
static size_t same_backward(const struct attribution *a, size_t from, size_t n_taps)
{
    const size_t end = from + n_taps;
    return end < a->n_products ? end : a->n_products;
}

static void keep_metrics(sweep *s, run *r)
{
    struct attribution *a = s->attribution;
    for (size_t m = 0; m < s->n_metrics; m++) {
        inset_tensor x;
        if (run_saved(r, a->n_saved + m, &x)) return;
        const float *value = x.data;
        for (int64_t pair = a->first; pair < a->first + a->count; pair++) {
            s->clean_values[(int64_t)m * s->pairs + pair] = *value++;
            if (s->has_corrupt) s->corrupt_values[(int64_t)m * s->pairs + pair] = *value++;
        }
    }
}

inset_status scores_keep(sweep *s, run *r)
{
    struct attribution *a = s->attribution;
    double *points = memory_new(s->context, (size_t)s->points * sizeof *points);
    if (!points) return INSET_NO_MEMORY;
    const double share = s->method.steps      ? s->method.steps
                         : s->method.ends     ? 2
                         : s->method.graddrop ? s->n_layers - 1
                                              : 1;
    inset_status status = INSET_OK;
    for (size_t i = 0; i < a->n_products && !status;) {
        const product *of = &a->products[i];
        float *values = s->values + (int64_t)of->metric * s->jobs + of->pair * s->points;
        const size_t end = same_backward(a, i, s->n_taps);
        memset(points, 0, (size_t)s->points * sizeof *points);
        for (; i < end && !status; i++) {
            const product *p = &a->products[i];
            inset_tensor x[5];
            const int n = p->kind == PRODUCT_SCORES ? 1 : 5;
            for (int k = 0; k < n && !status; k++)
                status = run_saved(r, p->saved + (size_t)k, &x[k]);
            if (status) break;
            if (n == 1) add_scores(s, p, x, points);
            else add_softmax(s, p, x, points);
        }
        for (int64_t k = 0; k < s->points && !status; k++) {
            const double score = (s->method.graddrop ? fabs(points[k]) : points[k]) / share;
            job j;
            if (!job_at(s, of->pair * s->points + k, &j)) continue;
            values[k] = isnan(values[k]) ? (float)score : values[k] + (float)score;
        }
    }
    memory_free(s->context, points);
    keep_metrics(s, r);
    return status;
}
