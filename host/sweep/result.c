/* result.c: the numbers of all jobs as one array a site and metric, with means and normalised
 * values, in memory and as a file. */
#include "sweep/sweep.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "file/file.h"
#include "sweep/chunks/book.h"

/* ---- arrays ------------------------------------------------------------- */

static void describe_axes(const sweep *s, const sweep_site *site, inset_sweep_result *out)
{
    out->n_axes = site->n_axes;
    for (int i = 0; i < site->n_axes; i++) {
        sweep_axis axis = site->axes[i];
        out->axes[i] = (inset_sweep_axis){.name = axis_name(site, axis),
            .count = site->extents[axis],
            .labels = axis_labels(s, site, axis),
            .names = axis == AXIS_SITE ? site->members : NULL,
            .texts = axis == AXIS_POSITION ? s->position_texts : NULL};
    }
}

static float *array(sweep *s, int64_t count)
{
    return arena_new(&s->memory, (size_t)count * sizeof(float));
}

static inset_status allocate_result(
    sweep *s, const sweep_site *site, size_t metric_index, inset_sweep_result *out)
{
    *out = (inset_sweep_result){.site = site->name,
        .metric = s->metrics[metric_index].name,
        .pairs = s->pairs,
        .points = site->n_points,
        .clean = s->clean_values + (int64_t)metric_index * s->pairs,
        .corrupt = s->corrupt_values + (int64_t)metric_index * s->pairs};
    describe_axes(s, site, out);
    out->values = array(s, s->pairs * site->n_points);
    out->normalised = array(s, s->pairs * site->n_points);
    out->mean = array(s, site->n_points);
    out->normalised_mean = array(s, site->n_points);
    return out->values && out->normalised && out->mean && out->normalised_mean ? INSET_OK
                                                                               : INSET_NO_MEMORY;
}

static inset_status allocate_results(sweep *s)
{
    inset_status status = INSET_OK;
    inset_sweep_result *all = arena_new(&s->memory, s->n_sites * s->n_metrics * sizeof *all);
    if (!all) return INSET_NO_MEMORY;
    for (size_t i = 0; i < s->n_sites && !status; i++)
        for (size_t m = 0; m < s->n_metrics && !status; m++)
            status = allocate_result(s, &s->sites[i], m, &all[i * s->n_metrics + m]);
    if (!status) s->results = all;
    s->results_of = -1;
    return status;
}

/* What the metric is where `value` was measured; an estimate says by how much it would change. */
static double metric_at(const sweep *s, double value, double clean, double corrupt)
{
    return !s->method.estimates ? value : value + (s->noise ? clean : corrupt);
}

static float normal(double value, double clean, double corrupt)
{
    return (float)((value - corrupt) / (clean - corrupt));
}

/* The mean over pairs of one point, and of the unpatched runs of these same pairs. */
static void fill_mean(const sweep *s, const inset_sweep_result *r, int64_t point)
{
    double sum = 0, clean = 0, corrupt = 0;
    int64_t n = 0;
    for (int64_t pair = 0; pair < r->pairs; pair++) {
        float value = r->values[pair * r->points + point];
        if (isnan(value)) continue;
        sum += value;
        clean += r->clean[pair];
        corrupt += r->corrupt[pair];
        n++;
    }
    double count = n ? (double)n : (double)NAN;
    ((float *)(uintptr_t)r->mean)[point] = (float)(sum / count);
    ((float *)(uintptr_t)r->normalised_mean)[point] = normal(
        metric_at(s, sum / count, clean / count, corrupt / count), clean / count, corrupt / count);
}

static void fill_result(
    const sweep *s, const sweep_site *site, size_t metric_index, const inset_sweep_result *r)
{
    float *values = (float *)(uintptr_t)r->values, *normalised = (float *)(uintptr_t)r->normalised;
    for (int64_t pair = 0; pair < r->pairs; pair++)
        for (int64_t point = 0; point < r->points; point++) {
            float value = s->values[(int64_t)metric_index * s->jobs + pair * s->points
                                    + site->first_point + point];
            values[pair * r->points + point] = value;
            normalised[pair * r->points + point] = normal(
                metric_at(s, value, r->clean[pair], r->corrupt[pair]), r->clean[pair],
                r->corrupt[pair]);
        }
    for (int64_t point = 0; point < r->points; point++) fill_mean(s, r, point);
}

inset_status results_get(sweep *s, size_t index, inset_sweep_result *out)
{
    if (index >= s->n_sites * s->n_metrics)
        return error_set(s->context, INSET_INDEX_ERROR, "result %zu was asked for; there are %zu",
            index, s->n_sites * s->n_metrics);
    inset_status status = s->results ? INSET_OK : allocate_results(s);
    if (status) return status;
    if (s->results_of != s->book->done)
        for (size_t i = 0; i < s->n_sites * s->n_metrics; i++)
            fill_result(s, &s->sites[i / s->n_metrics], i % s->n_metrics, &s->results[i]);
    s->results_of = s->book->done;
    *out = s->results[index];
    return INSET_OK;
}

/* ---- the file ----------------------------------------------------------- */

enum { TENSORS_A_RESULT = 6 };

static void tensor_of(inset_context *context, arena *a, const inset_sweep_result *r,
    const char *end, const float *data, bool by_pair, bool by_point, file_tensor *out)
{
    text name = {0};
    text_add(context, &name, "%s.%s%s", r->site, r->metric, end);
    *out = (file_tensor){.type = INSET_F32, .data = data, .bytes = sizeof(float)};
    if (name.bytes) out->name = arena_text(a, name.bytes, name.length);
    text_free(context, &name);
    if (by_pair) out->shape[out->n_dimensions++] = r->pairs;
    for (int i = 0; by_point && i < r->n_axes; i++)
        out->shape[out->n_dimensions++] = r->axes[i].count;
    for (int i = 0; i < out->n_dimensions; i++) out->bytes *= (size_t)out->shape[i];
}

static inset_status tensors_of(sweep *s, arena *a, size_t index, file_tensor *out)
{
    inset_sweep_result r;
    inset_status status = results_get(s, index, &r);
    if (status) return status;
    tensor_of(s->context, a, &r, "", r.values, true, true, &out[0]);
    tensor_of(s->context, a, &r, ".mean", r.mean, false, true, &out[1]);
    tensor_of(s->context, a, &r, ".normalised", r.normalised, true, true, &out[2]);
    tensor_of(s->context, a, &r, ".normalised.mean", r.normalised_mean, false, true, &out[3]);
    tensor_of(s->context, a, &r, ".clean", r.clean, true, false, &out[4]);
    tensor_of(s->context, a, &r, ".corrupt", r.corrupt, true, false, &out[5]);
    for (int i = 0; i < TENSORS_A_RESULT; i++)
        if (!out[i].name) return INSET_NO_MEMORY;
    return INSET_OK;
}

static void write_labels(sweep *s, const inset_sweep_axis *axis, text *out)
{
    text_add(s->context, out, "[");
    for (int64_t k = 0; k < axis->count; k++) {
        if (axis->names) text_add(s->context, out, "%s\"%s\"", k ? ", " : "", axis->names[k]);
        else text_add(s->context, out, "%s%" PRId64, k ? ", " : "", axis->labels[k]);
    }
    text_add(s->context, out, "]");
}

/* Metadata: what ran, and for each site "SITE.axes", ["pair", "layer", ...], and
 * "SITE.labels.layer", [0, 1, ...]. */
typedef struct metadata {
    sweep *sweep;
    arena *memory;
    const char **at;
    size_t n;
    bool failed;
} metadata;

static void add_entry(metadata *m, const char *key, const char *value)
{
    m->at[m->n++] = arena_text(m->memory, key, strlen(key));
    m->at[m->n++] = arena_text(m->memory, value ? value : "", value ? strlen(value) : 0);
    m->failed |= !m->at[m->n - 1] || !m->at[m->n - 2];
}

static void add_site(metadata *m, const inset_sweep_result *r)
{
    inset_context *c = m->sweep->context;
    text key = {0}, value = {0}, axes = {0};
    text_add(c, &axes, "[\"pair\"");
    for (int i = 0; i < r->n_axes; i++) {
        text_clear(&key);
        text_clear(&value);
        text_add(c, &key, "%s.labels.%s", r->site, r->axes[i].name);
        write_labels(m->sweep, &r->axes[i], &value);
        text_add(c, &axes, ", \"%s\"", r->axes[i].name);
        if (key.bytes) add_entry(m, key.bytes, value.bytes);
    }
    text_add(c, &axes, "]");
    text_clear(&key);
    text_add(c, &key, "%s.axes", r->site);
    if (key.bytes) add_entry(m, key.bytes, axes.bytes);
    text_free(c, &key);
    text_free(c, &value);
    text_free(c, &axes);
}

static inset_status make_metadata(sweep *s, arena *a, const char *command, const char ***out)
{
    metadata m = {.sweep = s,
        .memory = a,
        .at = arena_new(a, (2 * (8 + s->n_sites * (AXIS_COUNT + 1)) + 1) * sizeof *m.at)};
    inset_sweep_result r;
    if (!m.at) return INSET_NO_MEMORY;
    add_entry(&m, "inset", INSET_VERSION);
    add_entry(&m, "model", s->model_type);
    if (s->version) add_entry(&m, "model_version", s->version);
    add_entry(&m, "dtype", type_name(s->type));
    if (!command) command = s->command;
    if (command) add_entry(&m, "command", command);
    for (size_t i = 0; i < s->n_sites; i++) {
        inset_status status = results_get(s, i * s->n_metrics, &r);
        if (status) return status;
        add_site(&m, &r);
    }
    *out = m.at;
    return m.failed ? INSET_NO_MEMORY : INSET_OK;
}

inset_status results_write(sweep *s, const char *path, const char *command)
{
    arena scratch;
    const char **entries = NULL;
    size_t n = s->n_sites * s->n_metrics;
    arena_start(&scratch, s->context);
    file_tensor *tensors = arena_new(&scratch, n * TENSORS_A_RESULT * sizeof *tensors);
    inset_status status = tensors ? make_metadata(s, &scratch, command, &entries) : INSET_NO_MEMORY;
    for (size_t i = 0; i < n && !status; i++)
        status = tensors_of(s, &scratch, i, tensors + i * TENSORS_A_RESULT);
    if (!status)
        status = safetensors_write(s->context, path, tensors, n * TENSORS_A_RESULT, entries);
    arena_free(&scratch);
    return status;
}
