/* source.c: what is put at a patched place: the other run's value, zero, a mean over prompts, another prompt's value, a tensor.
 *
 * Values of runs stay in the trace, as references to what the source run holds. Means and tensors come from outside: a mean is
 * taken beforehand, over all prompts that have a position, in double. */
#include "sweep/sweep.h"

#include <stdio.h>
#include <string.h>

#include "run/run.h"

enum { MOST_ROWS_A_MEAN = 2048 };        /* prompt positions that are run at once */

bool source_is_other_run(const char *text) { return !text || !strcmp(text, "clean"); }

static const char *behind(const char *text, const char *start)
{
    size_t n = strlen(start);
    return strncmp(text, start, n) ? NULL : text + n;
}

/* ---- resample ------------------------------------------------------------------------------------------------------------------------- */

/* The next number of a sequence that is the same everywhere (splitmix64). */
static uint64_t random_next(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Every pair takes one of the other prompts that are at least as long. `own`: the prompts are those of the pairs themselves. */
static inset_status draw_partners(sweep *s, bool own, uint64_t seed)
{
    const prompts *o = &s->others;
    s->partners = arena_new(&s->memory, (size_t)s->pairs * sizeof *s->partners);
    if (!s->partners) return INSET_NO_MEMORY;
    for (int64_t pair = 0; pair < s->pairs; pair++) {
        int64_t fit = 0, wanted;
        for (int64_t i = 0; i < o->count; i++) fit += o->lengths[i] >= s->clean.lengths[pair] && !(own && i == pair);
        if (!fit)
            return error_set(s->context, INSET_VALUE_ERROR, "resample: no other prompt is as long as pair %lld, which has %lld tokens", (long long)pair,
                             (long long)s->clean.lengths[pair]);
        wanted = (int64_t)(random_next(&seed) % (uint64_t)fit);
        for (int64_t i = 0; i < o->count; i++)
            if (o->lengths[i] >= s->clean.lengths[pair] && !(own && i == pair) && wanted-- == 0) s->partners[pair] = i;
    }
    return INSET_OK;
}

static inset_status read_resample(sweep *s, const char *file, uint64_t seed)
{
    s->source = SOURCE_RESAMPLE;
    if (!file) {
        s->others = s->noise ? s->clean : s->corrupt;
        return draw_partners(s, true, seed);
    }
    inset_prompts given = {.text = file};
    inset_status status = prompts_read(s, "resample", &given, &s->others);
    return status ? status : draw_partners(s, false, seed);
}

/* ---- a tensor from a file ----------------------------------------------------------------------------------------------------------------- */

static inset_status refuse_shape(sweep *s, const char *text, const inset_tensor *t, const sweep_site *site)
{
    char found[160] = "", heads[32] = "";
    for (int i = 0; i < t->n_dimensions; i++) {
        size_t n = strlen(found);
        snprintf(found + n, sizeof found - n, "%s%lld", i ? ", " : "", (long long)t->shape[i]);
    }
    if (site->per_head) snprintf(heads, sizeof heads, "%d, ", site->n_heads);
    return error_set(s->context, INSET_SHAPE_ERROR, "%s has the shape [%s]; %s takes [%s%d], [position, %s%d] or [%d, position, %s%d], where a position of 1 stands for all",
                     text, found, site->name, heads, site->width, heads, site->width, s->n_layers, heads, site->width);
}

/* The tensor as [layers, positions, heads, width] for one site. */
static inset_status fit_tensor(sweep *s, const char *text, const inset_tensor *t, const sweep_site *site, source_tensor *out)
{
    int row = site->per_head ? 2 : 1, n = t->n_dimensions;
    bool fits = n >= row && n <= row + 2 && t->shape[n - 1] == site->width && (!site->per_head || t->shape[n - 2] == site->n_heads);
    *out = (source_tensor){.type = t->type, .data = t->data, .layers = n == row + 2 ? t->shape[0] : 1,
                           .positions = n > row ? t->shape[n - row - 1] : 1, .heads = site->per_head ? site->n_heads : 0, .width = site->width};
    fits = fits && (out->layers == 1 || out->layers == s->n_layers);
    for (int64_t pair = 0; pair < s->pairs && out->positions != 1; pair++) fits = fits && out->positions >= s->clean.lengths[pair];
    return fits ? INSET_OK : refuse_shape(s, text, t, site);
}

static inset_status read_tensor(sweep *s, const char *text)
{
    inset_tensor tensor;
    inset_status status = tensor_load(s, text, &tensor);
    for (size_t i = 0; i < s->n_sites && !status; i++)
        for (int32_t m = 0; m < s->sites[i].n_members && !status; m++)
            status = fit_tensor(s, text, &tensor, &s->sites[i], &s->tensors[i * MAX_MEMBERS + (size_t)m]);
    return status;
}

/* ---- the mean over prompts ----------------------------------------------------------------------------------------------------------------- */

/* Sums [n_taps][positions * numbers a row]; counts [positions]. */
typedef struct means { double **sums; int64_t *counts; int64_t positions; } means;

static int64_t row_of(const sweep *s, const tap *t) { return (int64_t)s->sites[t->site].width * s->sites[t->site].n_heads; }

static inset_status means_start(sweep *s, arena *a, const prompts *p, means *out)
{
    out->positions = p->longest;
    out->counts = arena_new(a, (size_t)p->longest * sizeof *out->counts);
    out->sums = arena_new(a, s->n_taps * sizeof *out->sums);
    if (!out->counts || !out->sums) return INSET_NO_MEMORY;
    for (size_t i = 0; i < s->n_taps; i++)
        if (!(out->sums[i] = arena_new(a, (size_t)(p->longest * row_of(s, &s->taps[i])) * sizeof **out->sums))) return INSET_NO_MEMORY;
    return INSET_OK;
}

/* Prompts first .. first + count as one invoke, every tap saved. */
static inset_status record_prompts(sweep *s, const prompts *p, int64_t first, int64_t count, trace *t)
{
    char name[32];
    operand value;
    inset_status status = trace_invoke_tokens(t, count, p->lengths + first, p->tokens + p->starts[first]);
    for (size_t i = 0; i < s->n_taps && !status; i++) {
        snprintf(name, sizeof name, "tap%zu", i);
        if (!(status = trace_site(t, s->taps[i].place, &value))) status = trace_save(t, name, &value);
    }
    return status;
}

static inset_status add_up(sweep *s, run *r, const prompts *p, int64_t first, int64_t count, means *out)
{
    for (size_t i = 0; i < s->n_taps; i++) {
        inset_tensor saved;                      /* [count, longest of these, ...], zeros behind a prompt's end */
        inset_status status = run_saved(r, i, &saved);
        if (status) return status;
        int64_t width = row_of(s, &s->taps[i]);
        const char *data = saved.data;
        for (int64_t k = 0; k < count; k++)
            for (int64_t j = 0; j < p->lengths[first + k] * width; j++)
                out->sums[i][j] += element_get(saved.type, data + (size_t)(k * saved.shape[1] * width + j) * type_size(saved.type));
    }
    for (int64_t k = 0; k < count; k++)
        for (int64_t j = 0; j < p->lengths[first + k]; j++) out->counts[j]++;
    return INSET_OK;
}

static inset_status run_prompts(sweep *s, const prompts *p, int64_t first, int64_t count, means *out)
{
    trace *t = NULL;
    plan *plan_made = NULL;
    run *r = NULL;
    plan_options options = {.memory_limit = s->memory_limit, .traits = model_traits(s->model)};
    inset_status status = trace_create(s->context, s->program, s->model->type, &t);
    if (!status) status = record_prompts(s, p, first, count, t);
    if (!status) status = plan_create(t, &options, &plan_made);
    if (!status) status = run_create(s->model, plan_made, &r);
    if (!status) status = run_execute(r);
    if (!status) status = add_up(s, r, p, first, count, out);
    run_free(r);
    plan_free(plan_made);
    trace_free(t);
    return status;
}

/* Sums become tensors [chosen layers, positions, heads, width] of each site's members. */
static inset_status means_finish(sweep *s, const means *m)
{
    for (size_t i = 0; i < s->n_taps; i++) {
        const tap *t = &s->taps[i];
        const sweep_site *site = &s->sites[t->site];
        source_tensor *out = &s->tensors[(size_t)t->site * MAX_MEMBERS + (size_t)t->member];
        int64_t width = row_of(s, t), size = m->positions * width;
        if (!out->data) {
            *out = (source_tensor){.type = INSET_F32, .layers = s->n_layers, .positions = m->positions, .heads = site->per_head ? site->n_heads : 0,
                                   .width = site->width, .data = arena_new(&s->memory, (size_t)(s->n_layers * size) * sizeof(float))};
            if (!out->data) return INSET_NO_MEMORY;
        }
        float *to = (float *)(uintptr_t)out->data + (s->first_layer + t->layer * s->layers.step) * size;
        for (int64_t k = 0; k < size; k++) to[k] = (float)(m->sums[i][k] / (double)m->counts[k / width]);
    }
    return INSET_OK;
}

static inset_status read_mean(sweep *s, const char *text)
{
    prompts p;
    means m;
    arena scratch;
    inset_prompts given = {.text = text};
    inset_status status = prompts_read(s, "mean", &given, &p);
    if (status) return status;
    if (p.longest < s->clean.longest)
        return error_set(s->context, INSET_VALUE_ERROR, "mean: the longest of these prompts has %lld tokens, the longest pair %lld", (long long)p.longest,
                         (long long)s->clean.longest);
    s->others = p;
    arena_start(&scratch, s->context);
    status = means_start(s, &scratch, &p, &m);
    for (int64_t first = 0, count; first < p.count && !status; first += count) {
        int64_t rows = p.lengths[first];
        for (count = 1; first + count < p.count && rows + p.lengths[first + count] <= MOST_ROWS_A_MEAN; count++) rows += p.lengths[first + count];
        status = run_prompts(s, &p, first, count, &m);
    }
    if (!status) status = means_finish(s, &m);
    arena_free(&scratch);
    return status;
}

/* ---- all ------------------------------------------------------------------------------------------------------------------------------------ */

inset_status source_read(sweep *s, const char *text, uint64_t seed)
{
    if (source_is_other_run(text)) {
        s->source = SOURCE_OTHER_RUN;
        return INSET_OK;
    }
    if (!strcmp(text, "zero")) {
        s->source = SOURCE_ZERO;
        return INSET_OK;
    }
    if (!strcmp(text, "resample") || behind(text, "resample:")) return read_resample(s, behind(text, "resample:"), seed);
    bool mean = behind(text, "mean:");
    if (!mean && !is_file_name(text, strlen(text)))
        return error_set(s->context, INSET_VALUE_ERROR, "'%s' is no source: clean, zero, mean:PROMPTS, resample, resample:PROMPTS, FILE.npy or "
                         "FILE.safetensors:NAME was expected", text);
    s->source = SOURCE_TENSOR;
    s->tensors = arena_new(&s->memory, s->n_sites * MAX_MEMBERS * sizeof *s->tensors);
    if (!s->tensors) return INSET_NO_MEMORY;
    return mean ? read_mean(s, behind(text, "mean:")) : read_tensor(s, text);
}

inset_status source_externals(const sweep *s, trace *t, operand *out)
{
    for (size_t i = 0; i < s->n_taps; i++) {
        const tap *at = &s->taps[i];
        const source_tensor *from = &s->tensors[(size_t)at->site * MAX_MEMBERS + (size_t)at->member];
        int64_t shape[3], layer = from->layers == 1 ? 0 : s->first_layer + at->layer * s->layers.step, count = from->positions * from->width;
        int n = 0;
        shape[n++] = from->positions;
        if (from->heads) shape[n++] = from->heads;
        shape[n++] = from->width;
        if (from->heads) count *= from->heads;
        const char *data = from->data + (size_t)(layer * count) * type_size(from->type);
        inset_status status = trace_external(t, from->type, n, shape, data, &out[i]);
        if (status) return status;
    }
    return INSET_OK;
}

inset_status source_take(const sweep *s, trace *t, const operand *taken, const operand *external, int32_t tap_index, const place_items *where,
                         operand *out)
{
    if (s->source == SOURCE_ZERO) {
        *out = (operand){.kind = OPERAND_INTEGER};
        return INSET_OK;
    }
    if (taken) return trace_index(t, &taken[tap_index], where->n, where->items, out);
    const tap *at = &s->taps[tap_index];
    index_item items[2] = {where->items[1], where->items[2]};            /* no batch */
    if (s->tensors[(size_t)at->site * MAX_MEMBERS + (size_t)at->member].positions == 1)
        items[0] = items[0].kind == INDEX_INTEGER ? (index_item){.kind = INDEX_INTEGER} : (index_item){.kind = INDEX_SLICE};
    return trace_index(t, &external[tap_index], where->n - 1, items, out);
}
