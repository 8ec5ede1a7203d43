/* source.c: what is put at a patched place: the other run's value, zero, a mean over prompts,
 * another prompt's value, a tensor.
 *
 * Values of runs stay in the trace, as references to what the source run holds. Means and tensors
 * come from outside: a mean is taken beforehand, over all prompts that have a position, in
 * double. */
#include "sweep/prompt_runs.h"

#include <stdio.h>
#include <string.h>

#include "run/run.h"

bool source_is_other_run(const char *text) { return !text || !strcmp(text, "clean"); }

static const char *behind(const char *text, const char *start)
{
    size_t n = strlen(start);
    return strncmp(text, start, n) ? NULL : text + n;
}

/* ---- resample ----------------------------------------------------------- */

/* The next number of a sequence that is the same everywhere (splitmix64). */
static uint64_t random_next(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Every pair takes one of the other prompts that are at least as long. `own`: the prompts are those
 * of the pairs themselves. */
static inset_status draw_partners(sweep *s, bool own, uint64_t seed)
{
    const prompts *o = &s->others;
    s->partners = arena_new(&s->memory, (size_t)s->pairs * sizeof *s->partners);
    if (!s->partners) return INSET_NO_MEMORY;
    for (int64_t pair = 0; pair < s->pairs; pair++) {
        int64_t fit = 0, wanted;
        for (int64_t i = 0; i < o->count; i++)
            fit += o->lengths[i] >= s->clean.lengths[pair] && !(own && i == pair);
        if (!fit)
            return error_set(s->context, INSET_VALUE_ERROR,
                "resample: no other prompt is as long as pair %lld, which has %lld tokens",
                (long long)pair, (long long)s->clean.lengths[pair]);
        wanted = (int64_t)(random_next(&seed) % (uint64_t)fit);
        for (int64_t i = 0; i < o->count; i++)
            if (o->lengths[i] >= s->clean.lengths[pair] && !(own && i == pair) && wanted-- == 0)
                s->partners[pair] = i;
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

/* ---- a tensor from a file ----------------------------------------------- */

static inset_status refuse_shape(
    sweep *s, const char *text, const inset_tensor *t, const sweep_site *site)
{
    char found[160] = "", heads[32] = "";
    int64_t longest = s->clean.longest;
    for (int i = 0; i < t->n_dimensions; i++) {
        size_t n = strlen(found);
        snprintf(found + n, sizeof found - n, "%s%lld", i ? ", " : "", (long long)t->shape[i]);
    }
    if (site->by_keys)
        return error_set(s->context, INSET_SHAPE_ERROR,
            "%s has the shape [%s]; %s takes [%d, P, P] or [%d, %d, P, P], P positions and at "
            "least %lld",
            text, found, site->name, site->n_heads, s->n_layers, site->n_heads, (long long)longest);
    if (site->per_head) snprintf(heads, sizeof heads, "%d, ", site->n_heads);
    return error_set(s->context, INSET_SHAPE_ERROR,
        "%s has the shape [%s]; %s takes [%s%d], [position, %s%d] or [%d, position, %s%d], where a "
        "position of 1 stands for all",
        text, found, site->name, heads, site->width, heads, site->width, s->n_layers, heads,
        site->width);
}

/* The tensor as [layers, heads, positions, positions] for one site. */
static inset_status fit_by_keys(
    sweep *s, const char *text, const inset_tensor *t, const sweep_site *site, source_tensor *out)
{
    int n = t->n_dimensions;
    const int64_t *of_layer = t->shape + (n == 4);
    if ((n != 3 && n != 4) || (n == 4 && t->shape[0] != 1 && t->shape[0] != s->n_layers)
        || of_layer[0] != site->n_heads || of_layer[1] != of_layer[2]
        || of_layer[1] < s->clean.longest)
        return refuse_shape(s, text, t, site);
    *out = (source_tensor){
        .type = t->type, .data = t->data, .layers = n == 4 ? t->shape[0] : 1, .n_dimensions = 3};
    memcpy(out->shape, of_layer, sizeof out->shape);
    return INSET_OK;
}

/* The tensor as [layers, positions, heads, width] for one site. */
static inset_status fit_tensor(
    sweep *s, const char *text, const inset_tensor *t, const sweep_site *site, source_tensor *out)
{
    if (site->by_keys) return fit_by_keys(s, text, t, site, out);
    int row = site->per_head ? 2 : 1, n = t->n_dimensions;
    int64_t positions = n > row ? t->shape[n - row - 1] : 1;
    bool fits = n >= row && n <= row + 2 && t->shape[n - 1] == site->width
                && (!site->per_head || t->shape[n - 2] == site->n_heads);
    *out = (source_tensor){.type = t->type,
        .data = t->data,
        .layers = n == row + 2 ? t->shape[0] : 1,
        .n_dimensions = row + 1,
        .shape = {positions, site->per_head ? site->n_heads : site->width, site->width},
        .for_all_positions = positions == 1};
    fits = fits && (out->layers == 1 || out->layers == s->n_layers)
           && (positions == 1 || positions >= s->clean.longest);
    return fits ? INSET_OK : refuse_shape(s, text, t, site);
}

static inset_status read_tensor(sweep *s, const char *text)
{
    inset_tensor tensor;
    inset_status status = tensor_load(s, text, &tensor);
    for (size_t i = 0; i < s->n_sites && !status; i++)
        for (int32_t m = 0; m < s->sites[i].n_members && !status && !s->sites[i].features; m++)
            status = fit_tensor(
                s, text, &tensor, &s->sites[i], &s->tensors[i * MAX_MEMBERS + (size_t)m]);
    return status;
}

/* ---- the mean over prompts ---------------------------------------------- */

/* Sums, a tap each: [planes, positions, row]; counts [positions]. */
typedef struct means {
    sweep *of;
    double **sums;
    int64_t *counts;
    int64_t positions;
} means;

/* How the numbers of a site lie: a position's row once, or by keys once a head. */
static int64_t planes_of(const sweep_site *site) { return site->by_keys ? site->n_heads : 1; }
static int64_t row_of(const sweep_site *site, int64_t positions)
{
    return site->by_keys ? positions : (int64_t)site->width * site->n_heads;
}
static int64_t numbers_of(const sweep_site *site, int64_t positions)
{
    return planes_of(site) * positions * row_of(site, positions);
}

static inset_status means_start(arena *a, const prompts *p, means *out)
{
    const sweep *s = out->of;
    out->positions = p->longest;
    out->counts = arena_new(a, (size_t)p->longest * sizeof *out->counts);
    out->sums = arena_new(a, s->n_taps * sizeof *out->sums);
    if (!out->counts || !out->sums) return INSET_NO_MEMORY;
    for (size_t i = 0; i < s->n_taps; i++)
        if (!(out->sums[i] = arena_new(a,
                  (size_t)numbers_of(&s->sites[s->taps[i].site], p->longest) * sizeof **out->sums)))
            return INSET_NO_MEMORY;
    return INSET_OK;
}

/* Saves every tap. */
static inset_status record_taps(void *of, trace *t)
{
    const means *m = of;
    char name[32];
    operand value;
    inset_status status = INSET_OK;
    for (size_t i = 0; i < m->of->n_taps && !status; i++) {
        snprintf(name, sizeof name, "tap%zu", i);
        if (!(status = trace_site(t, m->of->taps[i].place, &value)))
            status = trace_save(t, name, &value);
    }
    return status;
}

/* Adds a prompt's rows to the sums of a site: `from` [planes, positions of `width` numbers, row],
 * of which the prompt has `length`. */
static void add_prompt(const sweep_site *site, inset_type type, const char *from, int64_t positions,
    int64_t length, const means *m, double *sums)
{
    int64_t row = row_of(site, m->positions), row_here = row_of(site, positions),
            n = site->by_keys ? length : row;
    for (int64_t plane = 0; plane < planes_of(site); plane++)
        for (int64_t t = 0; t < length; t++) {
            double *to = sums + (plane * m->positions + t) * row;
            const char *at = from + (size_t)((plane * positions + t) * row_here) * type_size(type);
            for (int64_t j = 0; j < n; j++)
                to[j] += element_get(type, at + (size_t)j * type_size(type));
        }
}

static inset_status add_up(
    void *of, run *r, const prompts *p, int64_t first, int64_t count, int64_t longest)
{
    means *m = of;
    for (size_t i = 0; i < m->of->n_taps; i++) {
        inset_tensor saved;
        const sweep_site *site = &m->of->sites[m->of->taps[i].site];
        inset_status status = run_saved(r, i, &saved);
        if (status) return status;
        size_t size = (size_t)numbers_of(site, longest) * type_size(saved.type);
        for (int64_t k = 0; k < count; k++)
            add_prompt(site, saved.type, (const char *)saved.data + (size_t)k * size, longest,
                p->lengths[first + k], m, m->sums[i]);
    }
    for (int64_t k = 0; k < count; k++)
        for (int64_t j = 0; j < p->lengths[first + k]; j++) m->counts[j]++;
    return INSET_OK;
}

/* Sums become tensors of each site's members. */
static inset_status means_finish(sweep *s, const means *m)
{
    for (size_t i = 0; i < s->n_taps; i++) {
        const tap *t = &s->taps[i];
        const sweep_site *site = &s->sites[t->site];
        source_tensor *out = &s->tensors[(size_t)t->site * MAX_MEMBERS + (size_t)t->member];
        int64_t row = row_of(site, m->positions), size = numbers_of(site, m->positions);
        if (!out->data) {
            *out = (source_tensor){.type = INSET_F32,
                .layers = s->n_layers,
                .n_dimensions = site->per_head ? 3 : 2,
                .shape = {m->positions, site->per_head ? site->n_heads : site->width, site->width},
                .data = arena_new(&s->memory, (size_t)(s->n_layers * size) * sizeof(float))};
            if (site->by_keys)
                memcpy(out->shape, (const int64_t[3]){site->n_heads, m->positions, m->positions},
                    sizeof out->shape);
            if (!out->data) return INSET_NO_MEMORY;
        }
        float *to = (float *)(uintptr_t)out->data
                    + (s->first_layer + t->layer * s->layers.step) * size;
        for (int64_t k = 0; k < size; k++)
            to[k] = (float)(m->sums[i][k] / (double)m->counts[k / row % m->positions]);
    }
    return INSET_OK;
}

static inset_status read_mean(sweep *s, const char *text)
{
    means m = {.of = s};
    arena scratch;
    inset_status status = prompts_for_mean(s, text, &s->others);
    if (status) return status;
    arena_start(&scratch, s->context);
    const prompt_reader reader = {.of = &m, .record = record_taps, .take = add_up};
    status = means_start(&scratch, &s->others, &m);
    if (!status) status = prompts_run(s, &s->others, &reader, NULL);
    if (!status) status = means_finish(s, &m);
    arena_free(&scratch);
    return status;
}

/* ---- all ---------------------------------------------------------------- */

/* A score of 0 above the diagonal would show a position those behind it; masked scores are -inf. */
static inset_status refuse_zero(sweep *s)
{
    for (size_t i = 0; i < s->n_sites; i++)
        if (!strcmp(s->sites[i].members[0], "scores"))
            return error_set(s->context, INSET_VALUE_ERROR,
                "%s: scores of zero would let every position attend to those behind it; zero the "
                "pattern instead",
                s->sites[i].name);
    return INSET_OK;
}

inset_status source_read(sweep *s, const char *text, uint64_t seed)
{
    if (source_is_other_run(text)) {
        s->source = SOURCE_OTHER_RUN;
        return INSET_OK;
    }
    if (!strcmp(text, "zero")) {
        s->source = SOURCE_ZERO;
        return refuse_zero(s);
    }
    if (!strcmp(text, "resample") || behind(text, "resample:"))
        return read_resample(s, behind(text, "resample:"), seed);
    bool mean = behind(text, "mean:");
    if (!mean && !is_file_name(text, strlen(text)))
        return error_set(s->context, INSET_VALUE_ERROR,
            "'%s' is no source: clean, zero, mean:PROMPTS, resample, resample:PROMPTS, FILE.npy or "
            "FILE.safetensors:NAME was expected",
            text);
    s->source = SOURCE_TENSOR;
    s->tensors = arena_new(&s->memory, s->n_sites * MAX_MEMBERS * sizeof *s->tensors);
    if (!s->tensors) return INSET_NO_MEMORY;
    return mean ? read_mean(s, behind(text, "mean:")) : read_tensor(s, text);
}

int64_t source_numbers(const source_tensor *t)
{
    int64_t count = 1;
    for (int i = 0; i < t->n_dimensions; i++) count *= t->shape[i];
    return count;
}

inset_status source_externals(const sweep *s, trace *t, operand *out)
{
    for (size_t i = 0; i < s->n_taps; i++) {
        const tap *at = &s->taps[i];
        if (s->sites[at->site].features) continue; /* its rows are made elsewhere */
        const source_tensor *from =
            &s->tensors[(size_t)at->site * MAX_MEMBERS + (size_t)at->member];
        int64_t layer = from->layers == 1 ? 0 : s->first_layer + at->layer * s->layers.step;
        const char *data = from->data
                           + (size_t)(layer * source_numbers(from)) * type_size(from->type);
        inset_status status = trace_external(
            t, from->type, from->n_dimensions, from->shape, data, &out[i]);
        if (status) return status;
    }
    return INSET_OK;
}

inset_status source_take(const sweep *s, trace *t, const operand *taken, const operand *external,
    int32_t tap_index, const place_items *where, operand *out)
{
    if (s->source == SOURCE_ZERO) {
        *out = (operand){.kind = OPERAND_INTEGER};
        return INSET_OK;
    }
    if (taken) return trace_index(t, &taken[tap_index], where->n, where->items, out);
    const tap *at = &s->taps[tap_index];
    /* no batch */
    index_item items[3] = {where->items[1], where->items[2], where->items[3]};
    if (s->tensors[(size_t)at->site * MAX_MEMBERS + (size_t)at->member].for_all_positions)
        items[0] = items[0].kind == INDEX_INTEGER ? (index_item){.kind = INDEX_INTEGER}
                                                  : (index_item){.kind = INDEX_SLICE};
    return trace_index(t, &external[tap_index], where->n - 1, items, out);
}
