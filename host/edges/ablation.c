/* ablation.c: what edges that are let go carry in a circuit: the other run's value, nothing, or the
 * mean over prompts. Zero and mean make an other run of the base's own: every writer's output is
 * set, so that what its readers see there is the stream of a model without any edge. A head's
 * output is set by its z, which is the same since the projection is linear (behind a norm the
 * mean z goes through it). */
#include <stdio.h>
#include <string.h>

#include "edges/patching.h"
#include "plan/plan.h"
#include "run/run.h"

enum { MOST_ROWS = 2048 }; /* prompt positions that are run at once */

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
    return e->ablation.positions * ((i + 1) / 2 * e->width + i / 2 * wide);
}

/* ---- the mean over prompts ---------------------------------------------- */

static inset_status record_prompts(
    edges *e, const prompts *p, int64_t first, int64_t count, trace *t)
{
    inset_status status = trace_invoke_tokens(
        t, count, p->lengths + first, p->tokens + p->starts[first]);
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
    edges *e, run *r, const prompts *p, int64_t first, int64_t count, double *sums)
{
    int64_t longest = 0; /* of these: what is saved has zeros behind a prompt's end */
    for (int64_t k = 0; k < count; k++)
        if (p->lengths[first + k] > longest) longest = p->lengths[first + k];
    for (int64_t i = 0; i < places(e); i++) {
        inset_tensor saved;
        inset_status status = run_saved(r, (size_t)i, &saved);
        if (status) return status;
        const int64_t width = width_at(e, i);
        for (int64_t k = 0; k < count; k++) {
            const float *from = (const float *)saved.data + k * longest * width;
            double *to = sums + offset_of(e, i);
            for (int64_t j = 0; j < p->lengths[first + k] * width; j++) to[j] += from[j];
        }
    }
    return INSET_OK;
}

static inset_status run_prompts(
    edges *e, const prompts *p, int64_t first, int64_t count, double *sums)
{
    trace *t = NULL;
    plan *planned = NULL;
    run *r = NULL;
    const plan_options options = {.memory_limit = e->s->memory_limit, .traits = sweep_traits(e->s)};
    inset_status status = trace_create(e->s->context, e->s->program, e->s->model->type, &t);
    if (!status) status = record_prompts(e, p, first, count, t);
    if (!status) status = plan_create(t, &options, &planned);
    if (!status) status = run_create(e->s->model, planned, &r);
    if (!status) status = run_execute(r);
    if (!status) status = add_up(e, r, p, first, count, sums);
    run_free(r);
    plan_free(planned);
    trace_free(t);
    return status;
}

static inset_status take_means(edges *e, const prompts *p)
{
    edge_ablation *a = &e->ablation;
    a->positions = p->longest;
    const int64_t n = offset_of(e, places(e));
    double *sums = memory_new(e->s->context, (size_t)n * sizeof *sums);
    a->means = arena_new(&e->s->memory, (size_t)n * sizeof *a->means);
    inset_status status = sums && a->means ? INSET_OK : INSET_NO_MEMORY;
    for (int64_t first = 0, count; first < p->count && !status; first += count) {
        int64_t rows = p->lengths[first];
        for (count = 1; first + count < p->count && rows + p->lengths[first + count] <= MOST_ROWS;
             count++)
            rows += p->lengths[first + count];
        status = run_prompts(e, p, first, count, sums);
    }
    for (int64_t i = 0; i < places(e) && !status; i++)
        for (int64_t position = 0; position < a->positions; position++) {
            int64_t there = 0, width = width_at(e, i), at = offset_of(e, i) + position * width;
            for (int64_t k = 0; k < p->count; k++) there += p->lengths[k] > position;
            for (int64_t j = 0; j < width; j++)
                a->means[at + j] = (float)(sums[at + j] / (double)there);
        }
    memory_free(e->s->context, sums);
    return status;
}

inset_status edges_ablate(edges *e, const char *text)
{
    inset_context *c = e->s->context;
    edge_ablation made = {.embedding = -1};
    if (!text || !strcmp(text, "other")) return e->ablation = made, INSET_OK;
    const bool mean = !strncmp(text, "mean:", 5);
    if (!mean && strcmp(text, "zero"))
        return error_set(c, INSET_VALUE_ERROR,
            "an edge that is let go carries other, zero or mean:PROMPTS, found '%s'", text);
    made.given = true;
    inset_status status = attribute_embedding(e->s, &made.embedding);
    e->ablation = made;
    if (status || !mean) return status;
    prompts p;
    const inset_prompts given = {.text = text + 5};
    if ((status = prompts_read(e->s, "mean", &given, &p))) return status;
    if (p.longest < e->s->clean.longest)
        return error_set(c, INSET_VALUE_ERROR,
            "mean: the longest of these prompts has %lld tokens, the longest pair %lld",
            (long long)p.longest, (long long)e->s->clean.longest);
    return take_means(e, &p);
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
        if (a->means) {
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
