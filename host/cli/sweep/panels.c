/* panels.c: results of up to four axes as panels of two, for the terminal and the SVG
 * alike. */
#include "cli/sweep/sweep.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void axis_label(const inset_sweep_axis *axis, int64_t i, char *out, size_t size)
{
    *out = 0;
    if (axis && axis->names) snprintf(out, size, "%s", axis->names[i]);
    else if (axis) snprintf(out, size, "%" PRId64, axis->labels[i]);
}

void axis_label_with_text(const inset_sweep_axis *axis, int64_t i, char *out, size_t size)
{
    axis_label(axis, i, out, size);
    const size_t n = strlen(out);
    if (axis && axis->texts) snprintf(out + n, size - n, " '%s'", axis->texts[i]);
}

void panel_number(double value, double scale, char *out, size_t size)
{
    int decimals = scale >= 100 ? 0 : scale >= 10 ? 1 : 2;
    double unit = pow(10, -decimals);
    snprintf(out, size, "%.*f", decimals, fabs(value) < unit / 2 ? 0.0 : value);
}

static bool any_number(const float *values, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (isfinite(values[i])) return true;
    return false;
}

bool panel_is_normalised(const panel *p)
{
    return any_number(p->result->normalised_mean, p->result->points);
}

/* The mean minus the clean run's mean. */
static void fill_changes(const inset_sweep_result *r, float *out)
{
    double clean = 0;
    for (int64_t i = 0; i < r->pairs; i++) clean += r->clean[i];
    for (int64_t i = 0; i < r->points; i++) out[i] = (float)(r->mean[i] - clean / (double)r->pairs);
}

static int leading_axes(const inset_sweep_result *r) { return r->n_axes > 2 ? r->n_axes - 2 : 0; }

static void make_title(panel *p, int64_t index)
{
    const inset_sweep_result *r = p->result;
    size_t n = (size_t)snprintf(p->title, sizeof p->title, "%s · %s", r->site, r->metric);
    int64_t below = index;
    for (int i = 0, lead = leading_axes(r); i < lead && n < sizeof p->title; i++) {
        char label[64];
        int64_t stride = 1;
        for (int k = i + 1; k < lead; k++) stride *= r->axes[k].count;
        axis_label(&r->axes[i], below / stride, label, sizeof label);
        below %= stride;
        if (r->axes[i].names)
            n += (size_t)snprintf(p->title + n, sizeof p->title - n, " · %s", label);
        else
            n += (size_t)snprintf(
                p->title + n, sizeof p->title - n, " · %s %s", r->axes[i].name, label);
    }
}

static bool make_panels(panels *p, const inset_sweep_result *r, float *changes)
{
    const float *values = any_number(r->normalised_mean, r->points) ? r->normalised_mean : changes;
    const inset_sweep_axis *row = r->n_axes >= 2 ? &r->axes[r->n_axes - 2] : NULL,
                           *column = r->n_axes ? &r->axes[r->n_axes - 1] : NULL;
    int64_t rows = row ? row->count : 1, columns = column ? column->count : 1,
            count = r->points / (rows * columns);
    fill_changes(r, changes);
    if (panel_wants_strongest(r))
        return panel_of_strongest(r, values, &p->at[p->count++], &p->strongest[r - p->results]);
    for (int64_t i = 0; i < count; i++) {
        panel *made = &p->at[p->count++];
        *made = (panel){.result = r,
            .values = values + i * rows * columns,
            .rows = rows,
            .columns = columns,
            .row_axis = row,
            .column_axis = column};
        make_title(made, i);
    }
    return true;
}

/* All axes but the last two. */
static size_t panels_of(const inset_sweep_result *r)
{
    size_t count = 1;
    for (int i = 0; i < leading_axes(r); i++) count *= (size_t)r->axes[i].count;
    return count;
}

bool panels_make(inset_sweep *sweep, panels *out)
{
    size_t n = inset_sweep_result_count(sweep), points = 0, count = 0;
    *out = (panels){.results = calloc(n, sizeof *out->results), .n_results = n};
    for (size_t i = 0; out->results && i < n; i++) {
        if (inset_sweep_result_at(sweep, i, &out->results[i])) return false;
        points += (size_t)out->results[i].points;
        count += panels_of(&out->results[i]);
    }
    out->changes = calloc(points, sizeof *out->changes);
    out->at = calloc(count, sizeof *out->at);
    out->strongest = calloc(n, sizeof *out->strongest);
    if (!out->results || !out->changes || !out->at || !out->strongest) return false;
    bool fine = true;
    for (size_t i = 0, at = 0; i < n && fine; at += (size_t)out->results[i++].points)
        fine = make_panels(out, &out->results[i], out->changes + at);
    return fine;
}

void panels_free(panels *p)
{
    free(p->at);
    free(p->changes);
    for (size_t i = 0; p->strongest && i < p->n_results; i++) strongest_free(&p->strongest[i]);
    free(p->strongest);
    free(p->results);
}

double panel_scale(const panels *p, const panel *of)
{
    double most = 1e-9;
    for (size_t i = 0; i < p->count; i++)
        for (int64_t k = 0; !strcmp(p->at[i].result->metric, of->result->metric)
                            && k < p->at[i].rows * p->at[i].columns;
             k++)
            if (isfinite(p->at[i].values[k]) && fabs(p->at[i].values[k]) > most)
                most = fabs(p->at[i].values[k]);
    return most;
}
