/* sweep.c: sweeps of the public API. */
#include "api/api.h"

#include <string.h>

#include "sweep/attribution/attribute.h"

struct inset_sweep {
    handle handle; /* owner: the model */
    inset_context *context;
    sweep *sweep;
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
    sweep_free(s->sweep);
    memory_free(s->context, s);
}

inset_status inset_attribution_cost(inset_sweep *s, inset_cost *out)
{
    if (!s) return INSET_USAGE_ERROR;
    if (!out) return api_null(s->context, "a place for the cost");
    if (!s->sweep->method.estimates || s->sweep->next)
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
    inset_status status = attribute_verify(s->sweep, count, &made, n, rank);
    if (!status) *found = made;
    return status;
}

inset_status inset_sweep_progress_of(const inset_sweep *s, inset_sweep_progress *out)
{
    if (!s) return INSET_USAGE_ERROR;
    if (!out) return api_null(s->context, "a place for the progress");
    inset_sweep_progress all = s->sweep->progress;
    if (out->size < sizeof out->size || out->size > sizeof all)
        return error_set(s->context, INSET_USAGE_ERROR,
            "a progress of %zu bytes was asked for, at most %zu are known; begin with "
            "INSET_SWEEP_PROGRESS",
            out->size, sizeof all);
    all.size = out->size;
    memcpy(out, &all, out->size);
    return INSET_OK;
}

inset_status inset_sweep_step(inset_sweep *s)
{
    if (!s) return INSET_USAGE_ERROR;
    inset_status status = api_need_device(s->sweep->model);
    return status ? status : sweep_step(s->sweep);
}

int inset_sweep_done(const inset_sweep *s) { return !s || s->sweep->next >= s->sweep->jobs; }

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
    inset_status status = results_write(s->sweep, path, command);
    if (!status) state_remove(s->sweep);
    return status;
}
