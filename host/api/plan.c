/* plan.c: plans of the public API, and running them. A plan meets the device only at its first
 * run. */
#include "api/api.h"
#include "run/run.h"
#include "run/stream.h"

#include <string.h>

static void free_object(void *object) { inset_plan_free(object); }

static inset_status read_options(
    inset_context *context, const inset_plan_options *options, inset_plan_options *out)
{
    *out = (inset_plan_options)INSET_PLAN_OPTIONS;
    if (!options) return INSET_OK;
    if (options->size < sizeof options->size || options->size > sizeof *out)
        return error_set(context, INSET_USAGE_ERROR,
            "plan options of %zu bytes were given, at most %zu are known; begin with "
            "INSET_PLAN_OPTIONS",
            options->size, sizeof *out);
    memcpy(out, options, options->size);
    return INSET_OK;
}

inset_status inset_plan_create(inset_trace *t, const inset_plan_options *options, inset_plan **out)
{
    inset_plan_options given;
    if (!t) return INSET_USAGE_ERROR;
    if (!out) return api_null(t->context, "a place for the plan");
    inset_status status = read_options(t->context, options, &given);
    if (!status) status = trace_finish_edits(t->trace);
    if (status) return status;
    inset_plan *p = memory_new(t->context, sizeof *p);
    if (!p) return INSET_NO_MEMORY;
    p->context = t->context;
    p->model = t->model;
    plan_options wanted = {.no_share = given.no_share != 0,
        .explain = given.explain != 0,
        .memory_limit = given.memory_limit ? given.memory_limit : model_memory_left(t->model),
        .traits = model_traits(t->model)};
    if ((status = plan_create(t->trace, &wanted, &p->plan))) {
        inset_plan_free(p);
        return status;
    }
    handle_add(t->context, &p->handle, t, p, free_object);
    *out = p;
    return INSET_OK;
}

const char *inset_plan_explanation(const inset_plan *p)
{
    return p ? plan_explanation(p->plan) : NULL;
}

void inset_plan_free(inset_plan *p)
{
    if (!p) return;
    handle_remove(p->context, &p->handle);
    run_free(p->run);
    plan_free(p->plan);
    memory_free(p->context, p);
}

inset_status inset_plan_statistics(const inset_plan *p, inset_statistics *out)
{
    if (!p) return INSET_USAGE_ERROR;
    if (!out) return api_null(p->context, "a place for the statistics");
    const plan_statistics *s = plan_get_statistics(p->plan);
    inset_statistics all = {.size = out->size,
        .invokes = s->invokes,
        .sequences = s->sequences,
        .records = s->records,
        .saved = (int64_t)plan_saved_count(p->plan),
        .rows = s->rows,
        .rows_unshared = s->rows_unshared,
        .flops = s->flops,
        .flops_unshared = s->flops_unshared,
        .steps = s->steps,
        .launches = s->launches,
        .passes = s->passes,
        .arena_bytes = s->arena_bytes,
        .table_bytes = s->table_bytes,
        .saved_bytes = s->saved_bytes,
        .weight_bytes = p->model->device ? p->model->weight_bytes : s->weight_bytes,
        .copies = run_copies(p->plan),
        .first_copies = run_first_copies(p->plan),
        .later_launches = run_later_launches(p->model, p->plan),
        .fused_records = s->fused_records,
        .fused_launches = s->fused_launches,
        .alone_records = s->alone_records,
        .alone_launches = s->alone_launches,
        .whole_sequences = s->whole_sequences,
        .blocks_again = s->blocks_again};
    if (p->model->stream) all.coming_bytes = p->model->stream->bytes;
    if (p->model->stream) all.copied_bytes = run_weight_copies(p->model, p->plan);
    if (out->size < sizeof out->size || out->size > sizeof all)
        return error_set(p->context, INSET_USAGE_ERROR,
            "statistics of %zu bytes were asked for, at most %zu are known; begin with "
            "INSET_STATISTICS",
            out->size, sizeof all);
    memcpy(out, &all, out->size);
    return INSET_OK;
}

/* The plan's memory and tables on the device, made once. */
static inset_status prepare(inset_plan *p)
{
    if (p->run) return INSET_OK;
    if (!p->model->device)
        return error_set(p->context, INSET_USAGE_ERROR,
            "the model was opened without a device (\"none\"): it cannot run");
    return run_create(p->model, p->plan, &p->run);
}

inset_status inset_run(inset_plan *p)
{
    if (!p) return INSET_USAGE_ERROR;
    inset_status status = prepare(p);
    if (!status) status = run_execute(p->run);
    p->ran = !status;
    return status;
}

inset_status inset_plan_tokens(inset_plan *p, int64_t invoke, int64_t count, const int64_t *tokens)
{
    if (!p) return INSET_USAGE_ERROR;
    if (!tokens) return api_null(p->context, "token ids");
    inset_status status = prepare(p);
    return status ? status : run_set_tokens(p->run, invoke, tokens, count);
}

inset_status inset_plan_tensor(
    inset_plan *p, const inset_value *external, const inset_tensor *tensor)
{
    if (!p) return INSET_USAGE_ERROR;
    int32_t storage;
    inset_type type;
    if (!external) return api_null(p->context, "a value");
    if (external->trace != p->handle.owner)
        return error_set(p->context, INSET_USAGE_ERROR, "a value of another trace was given");
    inset_status status = api_check_tensor(p->context, tensor);
    if (status) return status;
    const view *v = &external->operand.view;
    if (!trace_is_external(external->trace->trace, &external->operand, &storage, &type))
        return error_set(p->context, INSET_USAGE_ERROR,
            "the value is no tensor that inset_external took: nothing else can be other numbers at "
            "the next run");
    bool same = tensor->n_dimensions == v->n_dimensions;
    for (int i = 0; i < v->n_dimensions && same; i++)
        same = tensor->shape[i] == v->dimensions[i].extent;
    if (!same)
        return error_set(p->context, INSET_SHAPE_ERROR,
            "a tensor of the same shape as the one in its place was expected");
    if (tensor->type != type)
        return error_set(p->context, INSET_TYPE_ERROR,
            "%s was expected, as the tensor in its place has, found %s", type_torch_name(type),
            type_torch_name(tensor->type));
    if ((status = prepare(p))) return status;
    return run_set_external(p->run, storage, tensor->data);
}

inset_status inset_plan_rows(
    inset_plan *p, int64_t invoke, int64_t n_rows, int64_t width, const float *rows)
{
    if (!p) return INSET_USAGE_ERROR;
    if (!rows) return api_null(p->context, "rows");
    int32_t wanted = p->model->program->input_width;
    if (wanted && width != wanted)
        return error_set(p->context, INSET_SHAPE_ERROR,
            "the model takes rows of %d numbers, found %lld", (int)wanted, (long long)width);
    inset_status status = prepare(p);
    return status ? status : run_set_rows(p->run, invoke, rows, n_rows);
}

inset_status inset_plan_answers(
    inset_plan *p, int64_t invoke, int64_t metric, int64_t count, const int64_t *tokens)
{
    if (!p) return INSET_USAGE_ERROR;
    if (!tokens) return api_null(p->context, "tokens");
    inset_status status = prepare(p);
    return status ? status : run_set_answers(p->run, invoke, metric, tokens, count);
}
