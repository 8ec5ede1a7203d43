/* sweep.c: sweeps of the public API. */
#include "api/api.h"

#include <string.h>

#include "sweep/attribution/attribute.h"
#include "sweep/chunks/book.h"

struct inset_sweep {
    handle handle; /* owner: the model */
    inset_context *context;
    sweep *sweep;
    char *record; /* of the chunk run last for somebody else */
};

inset_status api_need_device(const inset_model *model)
{
    if (model->device) return INSET_OK;
    return error_set(model->context, INSET_USAGE_ERROR,
        "the model was opened without a device (\"none\"): it cannot run");
}

static void free_object(void *object) { inset_sweep_free(object); }

static inset_status create(inset_model *model, const inset_sweep_options *options,
    const attribution_method *method, inset_sweep **out)
{
    inset_context *context = model->context;
    inset_sweep_options given = INSET_SWEEP_OPTIONS;
    if (!out) return api_null(context, "a place for the sweep");
    if (options->size < sizeof options->size || options->size > sizeof given)
        return error_set(context, INSET_USAGE_ERROR,
            "sweep options of %zu bytes were given, at most %zu are known; begin with "
            "INSET_SWEEP_OPTIONS",
            options->size, sizeof given);
    memcpy(&given, options, options->size);
    /* an attribution may be planned without one, for what it would cost */
    inset_status there = api_need_unedited(model, method ? "attribution" : "a sweep");
    if (!there && !method) there = api_need_device(model);
    if (there) return there;
    inset_sweep *s = memory_new(context, sizeof *s);
    if (!s) return INSET_NO_MEMORY;
    s->context = context;
    inset_status status = sweep_create(model, &given, method, &s->sweep);
    if (status) {
        memory_free(context, s);
        return status;
    }
    handle_add(context, &s->handle, model, s, free_object);
    *out = s;
    return INSET_OK;
}

inset_status inset_sweep_create(
    inset_model *model, const inset_sweep_options *options, inset_sweep **out)
{
    if (!model) return INSET_USAGE_ERROR;
    if (!options) return api_null(model->context, "the options of a sweep");
    return create(model, options, NULL, out);
}

/* "ln,half" as bits of reverse_rule; false, and a message, for a name that is none. */
static bool read_rules(inset_context *context, const char *text, int *out)
{
    static const struct {
        const char *name;
        int rules;
    } known[] = {{"ln", RULE_LN}, {"identity", RULE_IDENTITY}, {"half", RULE_HALF},
        {"pattern", RULE_PATTERN}, {"relp", RULE_LN | RULE_IDENTITY | RULE_HALF}};
    for (*out = 0; text && *text;) {
        const size_t n = strcspn(text, ",");
        int found = 0;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            if (strlen(known[i].name) == n && !strncmp(known[i].name, text, n))
                found = known[i].rules;
        if (!found) {
            error_set(context, INSET_VALUE_ERROR,
                "'%.*s' is no rule: ln, identity, half, pattern, or relp for the first three",
                (int)(n < 64 ? n : 64), text);
            return false;
        }
        *out |= found;
        text += n + (text[n] == ',');
    }
    return true;
}

inset_status api_attribution(inset_context *context, const inset_attribution_options *options,
    inset_sweep_options *runs, attribution_method *method)
{
    inset_attribution_options given = INSET_ATTRIBUTION_OPTIONS;
    if (!options) return api_null(context, "the options of an attribution");
    if (options->size < sizeof options->size || options->size > sizeof given)
        return error_set(context, INSET_USAGE_ERROR,
            "attribution options of %zu bytes were given, at most %zu are known; begin with "
            "INSET_ATTRIBUTION_OPTIONS",
            options->size, sizeof given);
    memcpy(&given, options, options->size);
    if (given.steps < 0 || given.steps > 10000)
        return error_set(context, INSET_VALUE_ERROR,
            "%d steps of integrated gradients; 1 to 10000 were expected", given.steps);
    *method = (attribution_method){.estimates = true,
        .steps = given.steps,
        .ends = given.ends != 0,
        .qk = given.qk != 0,
        .graddrop = given.graddrop != 0};
    *runs = given.sweep;
    return read_rules(context, given.rules, &method->rules) ? INSET_OK : INSET_VALUE_ERROR;
}

inset_status inset_attribution_create(
    inset_model *model, const inset_attribution_options *options, inset_sweep **out)
{
    if (!model) return INSET_USAGE_ERROR;
    inset_sweep_options runs;
    attribution_method method;
    inset_status status = api_attribution(model->context, options, &runs, &method);
    return status ? status : create(model, &runs, &method, out);
}

void inset_sweep_free(inset_sweep *s)
{
    if (!s) return;
    handle_remove(s->context, &s->handle);
    memory_free(s->context, s->record);
    sweep_free(s->sweep);
    memory_free(s->context, s);
}

inset_status inset_attribution_cost(inset_sweep *s, inset_cost *out)
{
    if (!s) return INSET_USAGE_ERROR;
    if (!out) return api_null(s->context, "a place for the cost");
    if (!s->sweep->method.estimates || s->sweep->book->done)
        return error_set(
            s->context, INSET_USAGE_ERROR, "cost takes an attribution that was not stepped yet");
    return attribute_cost(s->sweep, out);
}

inset_status inset_attribution_verify(
    inset_sweep *s, size_t count, const inset_verified **found, size_t *n, double *rank)
{
    inset_verified *made = NULL;
    if (!s) return INSET_USAGE_ERROR;
    if (!found || !n || !rank) return api_null(s->context, "a place for what is found");
    if (!s->sweep->method.estimates || !inset_sweep_done(s))
        return error_set(s->context, INSET_USAGE_ERROR,
            "verify takes an attribution that is done: step it to its end first");
    if (!s->sweep->model || s->sweep->shards > 0)
        return error_set(s->context, INSET_USAGE_ERROR,
            "verify takes an attribution that was run "
            "here as a whole, not shards");
    inset_status status = attribute_verify(s->sweep, count, &made, n, rank);
    if (!status) *found = made;
    return status;
}

inset_status api_progress(const sweep *s, inset_sweep_progress *out)
{
    pthread_mutex_lock(&s->book->lock);
    inset_sweep_progress all = s->progress;
    pthread_mutex_unlock(&s->book->lock);
    if (out->size < sizeof out->size || out->size > sizeof all)
        return error_set(s->context, INSET_USAGE_ERROR,
            "a progress of %zu bytes was asked for, at most %zu are known; begin with "
            "INSET_SWEEP_PROGRESS",
            out->size, sizeof all);
    all.size = out->size;
    memcpy(out, &all, out->size);
    return INSET_OK;
}

inset_status inset_sweep_progress_of(const inset_sweep *s, inset_sweep_progress *out)
{
    if (!s) return INSET_USAGE_ERROR;
    return out ? api_progress(s->sweep, out) : api_null(s->context, "a place for the progress");
}

/* Not so a merged one. */
static inset_status need_steps(const inset_sweep *s)
{
    if (s->sweep->model) return api_need_device(s->sweep->model);
    return error_set(
        s->context, INSET_USAGE_ERROR, "the sweep was merged from parts: it has results alone");
}

inset_status inset_sweep_step(inset_sweep *s)
{
    if (!s) return INSET_USAGE_ERROR;
    inset_status status = need_steps(s);
    return status ? status : sweep_step(s->sweep);
}

int inset_sweep_done(const inset_sweep *s) { return !s || book_done(s->sweep); }

size_t inset_sweep_result_count(const inset_sweep *s)
{
    return s ? s->sweep->n_sites * s->sweep->n_metrics : 0;
}

inset_status inset_sweep_result_at(inset_sweep *s, size_t index, inset_sweep_result *out)
{
    if (!s) return INSET_USAGE_ERROR;
    if (!out) return api_null(s->context, "a place for the result");
    return results_get(s->sweep, index, out);
}

inset_status inset_sweep_write(inset_sweep *s, const char *path, const char *command)
{
    if (!s) return INSET_USAGE_ERROR;
    if (!path) return api_null(s->context, "a path");
    if (!inset_sweep_done(s))
        return error_set(s->context, INSET_USAGE_ERROR,
            "the sweep is not done: %lld of %lld patches", (long long)s->sweep->progress.done,
            (long long)s->sweep->progress.patches);
    if (s->sweep->shards > 0)
        return error_set(s->context, INSET_USAGE_ERROR,
            "this is shard %lld of %lld: inset_sweep_merge puts them together",
            (long long)s->sweep->shard, (long long)s->sweep->shards);
    inset_status status = results_write(s->sweep, path, command);
    if (!status) state_remove(s->sweep);
    return status;
}

/* ---- several who run one sweep ------------------------------------------- */

inset_status inset_sweep_help(inset_sweep *s, inset_sweep *helper)
{
    if (!s) return INSET_USAGE_ERROR;
    if (!helper) return api_null(s->context, "the helper");
    inset_status status = need_steps(s);
    if (status) return status;
    if (!helper->sweep->model || !helper->sweep->model->device)
        return error_set(s->context, INSET_USAGE_ERROR, "the helper has no device to run on");
    return helper_add(s->sweep, helper->sweep);
}

_Static_assert(sizeof(sweep_cut) <= sizeof(inset_cut), "a cut");

inset_status inset_sweep_cut(const inset_sweep *s, inset_cut *out)
{
    if (!s) return INSET_USAGE_ERROR;
    if (!out) return api_null(s->context, "a place for the cut");
    const sweep_cut cut = cut_of(s->sweep);
    *out = (inset_cut){{0}};
    memcpy(out, &cut, sizeof cut);
    return INSET_OK;
}

inset_status inset_sweep_cut_as(inset_sweep *s, const inset_cut *cut)
{
    sweep_cut wanted;
    if (!s) return INSET_USAGE_ERROR;
    if (!cut) return api_null(s->context, "the cut");
    inset_status status = need_steps(s);
    memcpy(&wanted, cut, sizeof wanted);
    return status ? status : sweep_cut_as(s->sweep, &wanted);
}

int64_t inset_sweep_take(inset_sweep *s) { return s ? book_take(s->sweep) : -1; }

void inset_sweep_give_back(inset_sweep *s, int64_t chunk)
{
    if (s && chunk >= 0 && chunk < s->sweep->book->n) book_give_back(s->sweep, chunk);
}

inset_status inset_sweep_run_chunk(
    inset_sweep *s, int64_t chunk, int64_t ahead, const void **data, size_t *size)
{
    chunk_counts counts;
    if (!s) return INSET_USAGE_ERROR;
    if (!data || !size) return api_null(s->context, "a place for the chunk's numbers");
    inset_status status = need_steps(s);
    if (status) return status;
    const int64_t n = s->sweep->book->n;
    if (chunk < 0 || chunk >= n || ahead < -1 || ahead >= n)
        return error_set(s->context, INSET_INDEX_ERROR, "chunk %lld was asked for; there are %lld",
            (long long)(chunk < 0 || chunk >= n ? chunk : ahead), (long long)n);
    memory_free(s->context, s->record);
    s->record = NULL;
    status = sweep_run_chunk(s->sweep, chunk, ahead, &counts);
    if (!status) status = record_make(s->sweep, chunk, &counts, &s->record, size);
    *data = s->record;
    return status;
}

inset_status inset_sweep_put(inset_sweep *s, const void *data, size_t size)
{
    if (!s) return INSET_USAGE_ERROR;
    const int64_t chunk = data ? record_chunk(s->sweep, data, size) : -1;
    if (chunk < 0) return INSET_VALUE_ERROR;
    return sweep_keep_chunk(s->sweep, chunk, data, size) ? INSET_FILE_ERROR : INSET_OK;
}

inset_status inset_sweep_merge(
    inset_context *context, size_t n, const char *const *parts, inset_sweep **out)
{
    if (!context) return INSET_USAGE_ERROR;
    if (!out || (n && !parts)) return api_null(context, "the parts, or a place for the sweep");
    inset_sweep *s = memory_new(context, sizeof *s);
    if (!s) return INSET_NO_MEMORY;
    s->context = context;
    inset_status status = sweep_merge(context, n, parts, &s->sweep);
    if (status) {
        memory_free(context, s);
        return status;
    }
    handle_add(context, &s->handle, context, s, free_object);
    *out = s;
    return INSET_OK;
}
