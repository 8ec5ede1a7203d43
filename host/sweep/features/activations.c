/* activations.c: the features of prompts. The product with the encoder is a step on the device, as
 * any product with a matrix from outside; the activation and what is kept of it are made here. */
#include <string.h>

#include "run/run.h"
#include "sweep/features/features.h"
#include "sweep/prompt_runs.h"

enum { MOST_NUMBERS = 1 << 26 }; /* that one run brings to the host */

void feature_list_free(inset_context *context, feature_list *list)
{
    memory_free(context, list->starts);
    memory_free(context, list->at);
    *list = (feature_list){0};
}

/* What reads the prompts: each row of features goes to `row`. */
typedef struct feature_reader {
    const feature_site *site;
    sweep *s;
    float *scratch; /* [2, count] */
    inset_status (*row)(
        struct feature_reader *r, int64_t prompt, int64_t position, const float *features);
    feature_list *list;
    double *sums; /* [longest, chosen] */
} feature_reader;

/* Saves (x - b_dec) @ W_enc, in f32 whatever the model's type is. */
static inset_status record_encoded(void *of, trace *t)
{
    const feature_reader *r = of;
    const sae *e = &r->site->sae;
    operand x, bias, matrix, made;
    const int64_t shape[2] = {e->width, e->count};
    inset_status status = trace_site(t, r->site->place, &x);
    if (!status) status = trace_external(t, INSET_F32, 2, shape, e->encoder, &matrix);
    if (!status) status = trace_cast(t, &x, INSET_F32, &made);
    if (!status && e->subtracts_bias) {
        x = made;
        status = trace_external(t, INSET_F32, 1, shape, e->decoder_bias, &bias);
        if (!status) status = trace_binary(t, TRACE_SUBTRACT, &x, &bias, &made);
    }
    x = made;
    if (!status) status = trace_product(t, &x, &matrix, &made);
    return status ? status : trace_save(t, "features", &made);
}

static inset_status take(
    void *of, run *ran, const prompts *p, int64_t first, int64_t count, int64_t longest)
{
    feature_reader *r = of;
    const sae *e = &r->site->sae;
    inset_tensor saved;
    inset_status status = run_saved(ran, 0, &saved);
    for (int64_t k = 0; k < count && !status; k++)
        for (int64_t t = 0; t < p->lengths[first + k] && !status; t++) {
            memcpy(r->scratch, (const float *)saved.data + (k * longest + t) * e->count,
                (size_t)e->count * sizeof(float));
            sae_activate(e, r->scratch, r->scratch + e->count);
            status = r->row(r, first + k, t, r->scratch);
        }
    return status;
}

static inset_status read_features(feature_reader *r, const prompts *p)
{
    const sae *e = &r->site->sae;
    const prompt_reader reader = {
        .of = r, .record = record_encoded, .take = take, .most_rows = MOST_NUMBERS / e->count};
    if (!r->s->model->device)
        return error_set(r->s->context, INSET_USAGE_ERROR,
            "%s: which features patches change is found by running the prompts, and the model was "
            "opened without a device (\"none\")",
            r->site->site->name);
    r->scratch = memory_new(r->s->context, 2 * (size_t)e->count * sizeof(float));
    inset_status status = r->scratch ? prompts_run(r->s, p, &reader, NULL) : INSET_NO_MEMORY;
    memory_free(r->s->context, r->scratch);
    return status;
}

/* ---- as a list ---------------------------------------------------------- */

static inset_status list_row(
    feature_reader *r, int64_t prompt, int64_t position, const float *features)
{
    const feature_site *site = r->site;
    feature_list *l = r->list;
    for (int64_t i = 0; i < site->chosen; i++) {
        const float value = features[site->labels[i]];
        if (value == 0) continue;
        if (!array_extend(r->s->context, &l->at, &l->capacity, l->n + 1, sizeof *l->at))
            return INSET_NO_MEMORY;
        l->at[l->n++] = (feature_value){(int32_t)position, (int32_t)i, value};
    }
    l->starts[prompt + 1] = (int64_t)l->n;
    return INSET_OK;
}

inset_status features_of_prompts(
    sweep *s, const feature_site *site, const prompts *p, feature_list *out)
{
    feature_reader r = {.site = site, .s = s, .row = list_row, .list = out};
    *out = (feature_list){
        .starts = memory_new(s->context, (size_t)(p->count + 1) * sizeof *out->starts)};
    inset_status status = out->starts ? read_features(&r, p) : INSET_NO_MEMORY;
    if (status) feature_list_free(s->context, out);
    return status;
}

/* ---- as a mean ---------------------------------------------------------- */

static inset_status add_row(
    feature_reader *r, int64_t prompt, int64_t position, const float *features)
{
    (void)prompt;
    double *to = r->sums + position * r->site->chosen;
    for (int64_t i = 0; i < r->site->chosen; i++) to[i] += features[r->site->labels[i]];
    return INSET_OK;
}

inset_status features_mean(sweep *s, const feature_site *site, const prompts *p, float **out)
{
    const size_t count = (size_t)(p->longest * site->chosen);
    feature_reader r = {.site = site,
        .s = s,
        .row = add_row,
        .sums = memory_new(s->context, count * sizeof(double))};
    float *mean = *out = arena_new(&s->memory, count * sizeof **out);
    inset_status status = r.sums && mean ? read_features(&r, p) : INSET_NO_MEMORY;
    for (int64_t t = 0; t < p->longest && !status; t++) {
        int64_t n = 0;
        for (int64_t i = 0; i < p->count; i++) n += p->lengths[i] > t;
        for (int64_t i = t * site->chosen; i < (t + 1) * site->chosen; i++)
            mean[i] = (float)(r.sums[i] / (double)n);
    }
    memory_free(s->context, r.sums);
    return status;
}
