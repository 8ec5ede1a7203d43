/* ablation.c: what edges that are let go carry in a circuit: the other run's value, nothing, or the
 * mean over prompts. Zero and mean make an other run of the base's own: every writer's output is
 * set, so that what its readers see there is the stream of a model without any edge. A head's
 * output is set by its z, which is the same since the projection is linear (behind a norm the
 * mean z goes through it). */
#include <stdio.h>
#include <string.h>

#include "edges/patching.h"
#include "run/run.h"
#include "sweep/prompt_runs.h"

/* Where writers write: a site, and numbers a row there. The embeddings, then each layer's z and
 * MLP. */
static int32_t written_at(const edges *e, int64_t i)
{
    if (!i) return e->ablation.embedding;
    const edge_layer *at = &e->layers[(i - 1) / 2];
    return at->place[i % 2 ? PLACE_Z : PLACE_MLP_OUT];
}

static int64_t width_at(const edges *e, int64_t i)
{
    return i % 2 ? (int64_t)e->n_heads * e->head_dim : e->width;
}

static int64_t places(const edges *e) { return 1 + 2 * (int64_t)e->s->n_layers; }

/* Means of one place begin here: [positions, width] each. */
static int64_t offset_of(const edges *e, int64_t i)
{
    const int64_t wide = (int64_t)e->n_heads * e->head_dim;
    return e->ablation.prompts.longest * ((i + 1) / 2 * e->width + i / 2 * wide);
}

/* ---- the mean over prompts ---------------------------------------------- */

/* Sums over prompts, as the means lie. */
typedef struct ablation_sums {
    edges *e;
    double *at;
} ablation_sums;

static inset_status record_written(void *of, trace *t)
{
    const edges *e = ((const ablation_sums *)of)->e;
    inset_status status = INSET_OK;
    for (int64_t i = 0; i < places(e) && !status; i++) {
        char name[32];
        operand here, kept;
        snprintf(name, sizeof name, "w%lld", (long long)i);
        if ((status = trace_site(t, written_at(e, i), &here))
            || (status = trace_operand_type(t, &here) == INSET_F32
                             ? trace_clone(t, &here, &kept)
                             : trace_convert(t, &here, INSET_F32, &kept)))
            return status;
        status = trace_save(t, name, &kept);
    }
    return status;
}

static inset_status add_up(
    void *of, run *r, const prompts *p, int64_t first, int64_t count, int64_t longest)
{
    const ablation_sums *sums = of;
    const edges *e = sums->e;
    for (int64_t i = 0; i < places(e); i++) {
        inset_tensor saved;
        inset_status status = run_saved(r, (size_t)i, &saved);
        if (status) return status;
        const int64_t width = width_at(e, i);
        for (int64_t k = 0; k < count; k++) {
            const float *from = (const float *)saved.data + k * longest * width;
            double *to = sums->at + offset_of(e, i);
            for (int64_t j = 0; j < p->lengths[first + k] * width; j++) to[j] += from[j];
        }
    }
    return INSET_OK;
}

static void divide(const edges *e, const double *sums, float *means)
{
    const edge_ablation *a = &e->ablation;
    for (int64_t position = 0; position < a->prompts.longest; position++) {
        int64_t there = 0; /* prompts that have this position */
        for (int64_t k = 0; k < a->prompts.count; k++) there += a->prompts.lengths[k] > position;
        for (int64_t i = 0; i < places(e); i++) {
            const int64_t width = width_at(e, i), at = offset_of(e, i) + position * width;
            for (int64_t j = 0; j < width; j++)
                means[at + j] = (float)(sums[at + j] / (double)there);
        }
    }
}

inset_status ablation_prepare(edges *e)
{
    edge_ablation *a = &e->ablation;
    if (!a->mean || a->taken || (e->only_cost && a->counted)) return INSET_OK;
    ablation_sums sums = {.e = e};
    const prompt_reader reader = {.of = &sums, .record = record_written, .take = add_up};
    if (e->only_cost) {
        a->counted = true;
        return prompts_run(e->s, &a->prompts, &reader, e->only_cost);
    }
    const int64_t n = offset_of(e, places(e));
    sums.at = memory_new(e->s->context, (size_t)n * sizeof *sums.at);
    inset_status status = sums.at ? prompts_run(e->s, &a->prompts, &reader, NULL) : INSET_NO_MEMORY;
    if (!status) divide(e, sums.at, a->means);
    a->taken = !status;
    memory_free(e->s->context, sums.at);
    return status;
}

inset_status edges_ablate(edges *e, const char *text)
{
    inset_context *c = e->s->context;
    edge_ablation made = {.embedding = -1};
    if (!text || !strcmp(text, "other")) return e->ablation = made, INSET_OK;
    made.mean = !strncmp(text, "mean:", 5);
    if (!made.mean && strcmp(text, "zero"))
        return error_set(c, INSET_VALUE_ERROR,
            "an edge that is let go carries other, zero or mean:PROMPTS, found '%s'", text);
    made.given = true;
    inset_status status = attribute_embedding(e->s, &made.embedding);
    if (!status && made.mean) status = prompts_for_mean(e->s, text + 5, &made.prompts);
    if (status) return status;
    e->ablation = made;
    if (!made.mean) return INSET_OK;
    e->ablation.means = arena_new(
        &e->s->memory, (size_t)offset_of(e, places(e)) * sizeof *made.means);
    if (e->ablation.means) return INSET_OK;
    e->ablation = (edge_ablation){.embedding = -1};
    return INSET_NO_MEMORY;
}

/* ---- the ablated run ---------------------------------------------------- */

inset_status ablation_changes(maker *m)
{
    const edges *e = m->e;
    const edge_ablation *a = &e->ablation;
    const int64_t length = e->s->clean.lengths[m->pair];
    if (!a->given) return INSET_OK;
    if (!(m->ablated = arena_new(&m->memory, (size_t)places(e) * sizeof *m->ablated)))
        return INSET_NO_MEMORY;
    for (int64_t i = 0; i < places(e); i++) {
        const int32_t site = written_at(e, i), event = e->s->program->sites[site].event;
        const bool heads = i % 2 == 1;
        change made = {site, event, CHANGE_ALL, {.kind = OPERAND_FLOAT, .number = 0}};
        if (a->mean) {
            const int64_t shape[3] = {length, heads ? e->n_heads : e->width, e->head_dim};
            inset_status status = trace_external(
                m->t, INSET_F32, heads ? 3 : 2, shape, a->means + offset_of(e, i), &made.value);
            if (status) return status;
        }
        size_t at = m->n_ablated++;
        for (; at > 0 && m->ablated[at - 1].event > event; at--)
            m->ablated[at] = m->ablated[at - 1];
        m->ablated[at] = made;
    }
    return INSET_OK;
}
