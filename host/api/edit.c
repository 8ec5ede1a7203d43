/* edit.c: edits of the public API: those of a trace, and those of a model, which every trace made
 * later begins with. */
#include "api/api.h"

inset_status inset_edit(inset_trace *t)
{
    if (!t) return INSET_USAGE_ERROR;
    if (t->edits_model)
        return error_set(t->context, INSET_USAGE_ERROR, "these lines are an edit of the model");
    inset_status status = trace_end_edit(t->trace);
    return status ? status : trace_edit(t->trace);
}

inset_status inset_clear_edits(inset_trace *t)
{
    if (!t) return INSET_USAGE_ERROR;
    trace_clear_edits(t->trace);
    return INSET_OK;
}

inset_status inset_edits(inset_trace *t, char *buffer, size_t capacity, size_t *length)
{
    if (!t) return INSET_USAGE_ERROR;
    if (capacity && !buffer) return api_null(t->context, "a buffer of the capacity given");
    text words = {0};
    trace_describe_edits(t->trace, &words);
    return api_give_text(t->context, &words, buffer, capacity, length);
}

/* ---- of a model --------------------------------------------------------- */

inset_status inset_model_edit(inset_model *model, inset_trace **out)
{
    inset_trace *t = NULL;
    if (!model) return INSET_USAGE_ERROR;
    if (!out) return api_null(model->context, "a place for the edit's trace");
    inset_status status = inset_trace_create(model, &t);
    if (status) return status;
    trace_clear_edits(t->trace);
    trace_without_invokes(t->trace);
    t->edits_model = true;
    if ((status = trace_edit(t->trace))) {
        inset_trace_free(t);
        return status;
    }
    *out = t;
    return INSET_OK;
}

inset_status api_end_edit(inset_trace *t)
{
    inset_model *m = t->model;
    if (!t->edits_model) return trace_end_edit(t->trace);
    if (!trace_in_edit(t->trace)) return INSET_OK;
    if (!array_reserve(t->context, &m->edits, &m->edits_capacity, m->n_edits + 1, sizeof *m->edits))
        return INSET_NO_MEMORY;
    m->edits[m->n_edits++] = trace_take_edit(t->trace);
    return INSET_OK;
}

inset_status api_begin_edited(inset_trace *t)
{
    inset_status status = INSET_OK;
    for (size_t i = 0; i < t->model->n_edits && !status; i++)
        status = trace_add_edit(t->trace, t->model->edits[i]);
    return status;
}

inset_status inset_model_clear_edits(inset_model *model)
{
    if (!model) return INSET_USAGE_ERROR;
    model_clear_edits(model);
    return INSET_OK;
}

inset_status inset_model_edits(inset_model *model, char *buffer, size_t capacity, size_t *length)
{
    if (!model) return INSET_USAGE_ERROR;
    if (capacity && !buffer) return api_null(model->context, "a buffer of the capacity given");
    text words = {0};
    for (size_t i = 0; i < model->n_edits; i++)
        edit_describe(model->program, model->edits[i], &words);
    return api_give_text(model->context, &words, buffer, capacity, length);
}

inset_status api_need_unedited(const inset_model *model, const char *what)
{
    if (!model->n_edits) return INSET_OK;
    inset_status status = error_set(
        model->context, INSET_USAGE_ERROR, "the model has edits, and %s runs it as it is", what);
    error_help(model->context, "inset_model_clear_edits (model.clear_edits() in Python) takes them "
                               "away.");
    return status;
}
