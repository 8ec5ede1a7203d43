/* gather.c: what a chunk's runs read of their logits becomes values in the sweep's arrays. */
#include "sweep/chunk.h"

/* The readings of all runs as floats: [n_readings]. */
static inset_status read_saved(prepared *c, const float **out)
{
    size_t runs = 0;
    for (size_t i = 0; i < c->n_runs; i++) runs += c->runs[i].kind != RUN_OTHER;
    for (size_t i = 0; i < c->sweep->n_readings; i++) {
        inset_tensor saved;
        run_arrived(c->run, c->slot, i, &saved);
        out[i] = saved.data;
        if (saved.type == INSET_F32) continue;
        size_t count = runs * (size_t)c->sweep->readings[i].count;
        float *widened = arena_new(&c->memory, count * sizeof *widened);
        if (!widened) return INSET_NO_MEMORY;
        for (size_t k = 0; k < count; k++) widened[k] = (float)element_get(saved.type, (const char *)saved.data + k * type_size(saved.type));
        out[i] = widened;
    }
    return INSET_OK;
}

static void keep_value(prepared *c, const run_of *of, size_t metric_index, double value)
{
    sweep *s = c->sweep;
    if (of->kind == RUN_PATCHED) s->values[(int64_t)metric_index * s->jobs + of->job] = (float)value;
    else if (c->first <= of->pair * s->points)           /* a pair's first chunk says */
        (of->kind == RUN_CLEAN ? s->clean_values : s->corrupt_values)[(int64_t)metric_index * s->pairs + of->pair] = (float)value;
}

/* Numbers become values. With every pair the run begins that its patches start from. */
static inset_status gather(prepared *c, const float *const *readings)
{
    sweep *s = c->sweep;
    row now_read;
    distribution *unpatched = arena_new(&c->memory, s->n_readings * sizeof *unpatched);
    if (!unpatched) return INSET_NO_MEMORY;
    for (size_t i = 0; i < s->n_readings; i++)
        if (s->readings[i].needs_distribution
            && !(unpatched[i].p = arena_new(&c->memory, (size_t)s->program->vocabulary * sizeof *unpatched[i].p))) return INSET_NO_MEMORY;
    for (size_t i = 0; i < s->n_readings; i++) {
        const reading *reading = &s->readings[i];
        const float *at = readings[i];
        for (size_t r = 0; r < c->n_runs; r++) {
            if (c->runs[r].kind == RUN_OTHER) continue;
            if (c->runs[r].kind == RUN_CLEAN) {
                row_read(s, reading, at + !s->noise * reading->count, &now_read);
                row_keep(s, reading, &now_read, &unpatched[i]);
            }
            row_read(s, reading, at, &now_read);
            at += reading->count;
            for (size_t m = 0; m < s->n_metrics; m++)
                if (s->metrics[m].reading == (int32_t)i)
                    keep_value(c, &c->runs[r], m, metric_value(s, &s->metrics[m], c->runs[r].pair, &now_read, &unpatched[i]));
        }
    }
    return INSET_OK;
}

inset_status gather_values(prepared *c)
{
    const float **readings = arena_new(&c->memory, c->sweep->n_readings * sizeof *readings);
    if (!readings) return INSET_NO_MEMORY;
    inset_status status = read_saved(c, readings);
    return status ? status : gather(c, readings);
}
