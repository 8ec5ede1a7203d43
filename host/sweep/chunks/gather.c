/* gather.c: a chunk's numbers, one a run and metric, go into the sweep's arrays. */
#include "sweep/chunks/chunk.h"

static void keep_value(prepared *c, const run_of *of, size_t metric_index, float value)
{
    sweep *s = c->sweep;
    if (of->kind == RUN_PATCHED) s->values[(int64_t)metric_index * s->jobs + of->job] = value;
    else if (c->first <= of->pair * s->points) /* a pair's first chunk says */
        (of->kind == RUN_CLEAN
                ? s->clean_values
                : s->corrupt_values)[(int64_t)metric_index * s->pairs + of->pair] = value;
}

/* A patch that changes nothing has the number of the unpatched run. */
static void keep_unchanged(prepared *c)
{
    sweep *s = c->sweep;
    const float *unpatched = s->noise ? s->clean_values : s->corrupt_values;
    for (int64_t i = c->first; i < c->first + c->count; i++) {
        job j;
        if (!job_at(s, i, &j) || !features_unchanged(&j)) continue;
        for (int64_t m = 0; m < (int64_t)s->n_metrics; m++)
            s->values[m * s->jobs + i] = unpatched[m * s->pairs + j.pair];
    }
}

void gather_values(prepared *c)
{
    for (size_t m = 0; m < c->sweep->n_metrics; m++) {
        inset_tensor saved;
        run_arrived(c->run, c->slot, m, &saved);
        const float *value = saved.data;
        for (size_t i = 0; i < c->n_runs; i++)
            if (c->runs[i].kind != RUN_OTHER) keep_value(c, &c->runs[i], m, *value++);
    }
    keep_unchanged(c);
}
