/* features.c: of a sweep over thousands of features the panel of those that do most. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/sweep/sweep.h"

enum { MOST_FEATURES = 20 };

/* A feature by how far the value at any position lies from what most points have. */
typedef struct strength {
    double most;
    int64_t feature;
} strength;

static int compare_strengths(const void *a, const void *b)
{
    const strength *x = a, *y = b;
    if (x->most != y->most) return x->most > y->most ? -1 : 1;
    return (x->feature > y->feature) - (x->feature < y->feature);
}

static int compare_floats(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* The median: that of the unpatched run, since most patches of features change nothing. */
static float usual_value(const float *values, int64_t count, float *scratch)
{
    int64_t n = 0;
    for (int64_t i = 0; i < count; i++)
        if (isfinite(values[i])) scratch[n++] = values[i];
    qsort(scratch, (size_t)n, sizeof *scratch, compare_floats);
    return n ? scratch[n / 2] : 0;
}

bool panel_wants_strongest(const inset_sweep_result *r)
{
    for (int i = 0; i < r->n_axes; i++)
        if (!strcmp(r->axes[i].name, "feature") && r->axes[i].count > MOST_FEATURES) return true;
    return false;
}

/* Feature f at position p of the result: its axes are feature and perhaps position, in any
 * order. */
static int64_t place_of(const inset_sweep_result *r, int64_t f, int64_t p)
{
    if (r->n_axes == 1) return f;
    return strcmp(r->axes[0].name, "feature") ? p * r->axes[1].count + f : f * r->axes[1].count + p;
}

static void choose(const inset_sweep_result *r, const float *values, float usual, strength *all,
    int64_t features, int64_t positions)
{
    for (int64_t f = 0; f < features; f++) {
        all[f] = (strength){0, f};
        for (int64_t p = 0; p < positions; p++) {
            const double far = fabs((double)values[place_of(r, f, p)] - usual);
            if (far > all[f].most) all[f].most = far;
        }
    }
    qsort(all, (size_t)features, sizeof *all, compare_strengths);
}

bool panel_of_strongest(
    const inset_sweep_result *r, const float *values, panel *out, strongest *kept)
{
    const int at = strcmp(r->axes[0].name, "feature") ? 1 : 0;
    const int64_t features = r->axes[at].count, positions = r->points / features;
    strength *all = calloc((size_t)features, sizeof *all);
    float *scratch = calloc((size_t)r->points, sizeof *scratch);
    *kept = (strongest){.values = calloc((size_t)(MOST_FEATURES * positions), sizeof(float)),
        .labels = calloc(MOST_FEATURES, sizeof(int64_t)),
        .axis = {.name = "feature", .count = MOST_FEATURES}};
    const bool fine = all && scratch && kept->values && kept->labels;
    if (fine) choose(r, values, usual_value(values, r->points, scratch), all, features, positions);
    for (int64_t i = 0; fine && i < MOST_FEATURES; i++) {
        kept->labels[i] = r->axes[at].labels[all[i].feature];
        for (int64_t p = 0; p < positions; p++)
            kept->values[i * positions + p] = values[place_of(r, all[i].feature, p)];
    }
    free(all);
    free(scratch);
    kept->axis.labels = kept->labels;
    *out = (panel){.result = r,
        .values = kept->values,
        .rows = MOST_FEATURES,
        .columns = positions,
        .row_axis = &kept->axis,
        .column_axis = r->n_axes > 1 ? &r->axes[1 - at] : NULL};
    snprintf(out->title, sizeof out->title, "%s · %s · the %d strongest of %lld features", r->site,
        r->metric, MOST_FEATURES, (long long)features);
    return fine;
}

void strongest_free(strongest *kept)
{
    free(kept->values);
    free(kept->labels);
}
