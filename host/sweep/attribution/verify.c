/* verify.c: the points that an attribution ranks first, patched: what their estimates are worth.
 * The same chunks and plans as a sweep's, of the chosen points alone. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sweep/attribution/attribute.h"
#include "sweep/chunks/book.h"

typedef struct ranked {
    double key;
    size_t index;
} ranked;

static int compare_ranked(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->key != y->key) return x->key > y->key ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

/* Ranks of numbers, from 0; equal numbers share the mean of theirs. */
static void ranks_of(const double *x, size_t n, ranked *scratch, double *out)
{
    for (size_t i = 0; i < n; i++) scratch[i] = (ranked){x[i], i};
    qsort(scratch, n, sizeof *scratch, compare_ranked);
    for (size_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && scratch[end].key == scratch[i].key;) end++;
        for (size_t k = i; k < end; k++) out[scratch[k].index] = 0.5 * (double)(i + end - 1);
    }
}

static double correlation(const double *a, const double *b, size_t n)
{
    double mean_a = 0, mean_b = 0, aa = 0, bb = 0, ab = 0;
    for (size_t i = 0; i < n; i++) mean_a += a[i] / (double)n, mean_b += b[i] / (double)n;
    for (size_t i = 0; i < n; i++) {
        const double x = a[i] - mean_a, y = b[i] - mean_b;
        aa += x * x, bb += y * y, ab += x * y;
    }
    return ab / sqrt(aa * bb);
}

double rank_correlation(inset_context *context, const double *a, const double *b, size_t n)
{
    ranked *scratch = memory_new(context, (n + 1) * sizeof *scratch);
    double *ranks = memory_new(context, (2 * n + 1) * sizeof *ranks), found = NAN;
    if (scratch && ranks && n > 1) {
        ranks_of(a, n, scratch, ranks);
        ranks_of(b, n, scratch, ranks + n);
        found = correlation(ranks, ranks + n, n);
    }
    memory_free(context, scratch);
    memory_free(context, ranks);
    return found;
}

/* Mean over pairs of what a point's patch changes the first metric by. */
static double effect(const sweep *s, int64_t point)
{
    double sum = 0;
    int64_t n = 0;
    for (int64_t pair = 0; pair < s->pairs; pair++) {
        const float value = s->values[pair * s->points + point];
        if (isnan(value)) continue;
        sum += (double)value - (s->noise ? s->clean_values : s->corrupt_values)[pair];
        n++;
    }
    return n ? sum / (double)n : NAN;
}

static double mean_score(const sweep *s, int64_t point)
{
    double sum = 0;
    int64_t n = 0;
    for (int64_t pair = 0; pair < s->pairs; pair++) {
        const float value = s->values[pair * s->points + point];
        if (isnan(value)) continue;
        sum += value;
        n++;
    }
    return n ? sum / (double)n : NAN;
}

/* Where a point is, as its labels say it. */
static void describe(const sweep *s, int64_t point, inset_verified *out)
{
    const sweep_site *site = s->sites + s->n_sites - 1;
    while (site->first_point > point) site--;
    point -= site->first_point;
    *out = (inset_verified){.site = site->name, .n_axes = site->n_axes};
    for (int i = site->n_axes - 1; i >= 0; i--) {
        const sweep_axis axis = site->axes[i];
        const int64_t at = point % site->extents[axis], *labels = axis_labels(s, site, axis);
        point /= site->extents[axis];
        out->axes[i] = axis_name(site, axis);
        out->at[i] = labels ? labels[at] : at;
    }
}

/* Patches the chosen points; values: [n_metrics, jobs] for what comes out. */
static inset_status patch_chosen(sweep *s, const bool *chosen, float *values)
{
    sweep kept = *s;
    for (size_t i = 0; i < s->n_metrics * (size_t)s->jobs; i++) values[i] = NAN;
    s->method.estimates = false;
    s->attribution = NULL;
    s->chosen = chosen;
    s->values = values;
    s->state_path = NULL;
    s->book = NULL;
    s->shared = false;
    inset_status status = book_open(s);
    while (!status && !book_done(s)) status = sweep_step(s);
    sweep_leave_device(s);
    plans_free(s); /* they are of the chosen points alone, which no pattern says */
    book_close(s);
    s->book = kept.book;
    s->shared = kept.shared;
    s->method = kept.method;
    s->attribution = kept.attribution;
    s->chosen = NULL;
    s->state_path = kept.state_path;
    s->progress = kept.progress;
    return status;
}

inset_status attribute_verify(sweep *s, size_t count, inset_verified **out, size_t *n, double *rank)
{
    arena *m = &s->memory;
    ranked *order = arena_new(m, (size_t)s->points * sizeof *order);
    bool *chosen = arena_new(m, (size_t)s->points * sizeof *chosen);
    float *values = arena_new(m, s->n_metrics * (size_t)s->jobs * sizeof *values);
    if (!order || !chosen || !values) return INSET_NO_MEMORY;
    size_t there = 0;
    for (int64_t i = 0; i < s->points; i++) {
        const double score = mean_score(s, i);
        if (!isnan(score)) order[there++] = (ranked){fabs(score), (size_t)i};
    }
    qsort(order, there, sizeof *order, compare_ranked);
    if (count > there) count = there;
    inset_verified *found = arena_new(m, count * sizeof *found);
    double *numbers = arena_new(m, 2 * count * sizeof *numbers);
    if (!found || !numbers) return INSET_NO_MEMORY;
    for (size_t i = 0; i < count; i++) {
        chosen[order[i].index] = true;
        describe(s, (int64_t)order[i].index, &found[i]);
        found[i].score = numbers[i] = mean_score(s, (int64_t)order[i].index);
    }
    float *scores = s->values;
    inset_status status = patch_chosen(s, chosen, values);
    for (size_t i = 0; i < count && !status; i++)
        found[i].exact = numbers[count + i] = effect(s, (int64_t)order[i].index);
    s->values = scores;
    if (status) return status;
    *rank = rank_correlation(s->context, numbers, numbers + count, count);
    *out = found;
    *n = count;
    return INSET_OK;
}
