/* gather.c: a chunk's numbers, one a run and metric, go into the sweep's arrays. */
#include "sweep/chunks/chunk.h"

#include <math.h>

#include "sweep/chunks/book.h"

/* The unpatched runs of a pair are in each of its chunks: the first one says, whoever comes
 * first. */
static void keep_pair(prepared *c, int64_t pair, float *to, float value)
{
    if (c->first <= pair * c->sweep->points || isnan(to[pair])) to[pair] = value;
}

/* A patch that changes nothing has the number of the chunk's own unpatched run. */
static void keep_unchanged(prepared *c, int64_t pair, float *values, float unpatched)
{
    const sweep *s = c->sweep;
    const int64_t begins = pair * s->points, from = begins > c->first ? begins : c->first;
    for (int64_t i = from; i < c->first + c->count && i < begins + s->points; i++) {
        job j;
        if (job_at(s, i, &j) && features_unchanged(&j)) values[i] = unpatched;
    }
}

static void keep_value(prepared *c, const run_of *of, int64_t metric_index, float value)
{
    sweep *s = c->sweep;
    float *values = s->values + metric_index * s->jobs;
    if (of->kind == RUN_PATCHED) {
        values[of->job] = value;
        return;
    }
    float *pairs = of->kind == RUN_CLEAN ? s->clean_values : s->corrupt_values;
    keep_pair(c, of->pair, pairs + metric_index * s->pairs, value);
    if (sweep_has_features(s) && of->kind == (s->noise ? RUN_CLEAN : RUN_CORRUPT))
        keep_unchanged(c, of->pair, values, value);
}

void gather_values(prepared *c)
{
    book *b = c->sweep->book;
    pthread_mutex_lock(&b->lock);
    for (size_t m = 0; m < c->sweep->n_metrics; m++) {
        inset_tensor saved;
        run_arrived(c->run, c->slot, m, &saved);
        const float *value = saved.data;
        for (size_t i = 0; i < c->n_runs; i++)
            if (c->runs[i].kind != RUN_OTHER) keep_value(c, &c->runs[i], (int64_t)m, *value++);
    }
    pthread_mutex_unlock(&b->lock);
}
