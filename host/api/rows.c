/* rows.c: functions of whole rows, choices, other shapes and weights as values, of the public
 * API. */
#include <string.h>

#include "api/api.h"

static inset_status need_out(inset_trace *t, inset_value **out)
{
    return out ? INSET_OK : api_null(t->context, "a place for the value");
}

inset_status inset_rows(inset_value *value, inset_row_function function, int32_t n_dimensions,
    const int64_t *dimensions, int keep, inset_value **out)
{
    static const trace_row_op functions[] = {TRACE_ROW_SUM, TRACE_ROW_MEAN, TRACE_ROW_AMAX,
        TRACE_ROW_AMIN, TRACE_ROW_NORM, TRACE_ROW_ARGMAX, TRACE_ROW_SOFTMAX, TRACE_ROW_LOG_SOFTMAX};
    operand made;
    if (!value) return INSET_USAGE_ERROR;
    inset_trace *t = value->trace;
    inset_status status = need_out(t, out);
    if (status) return status;
    if ((int)function < 0 || function > INSET_LOG_SOFTMAX)
        return error_set(t->context, INSET_USAGE_ERROR, "%d is no function", (int)function);
    if (n_dimensions < 0 || (n_dimensions && !dimensions))
        return api_null(t->context, "a list of dimensions");
    const row_request r = {.function = functions[function],
        .n_dimensions = n_dimensions,
        .dimensions = dimensions,
        .keep = keep != 0};
    status = trace_row_function(t->trace, &value->operand, &r, &made);
    return api_give(t, status, &made, out);
}

inset_status inset_topk(
    inset_value *value, int64_t k, int64_t dimension, inset_value **values, inset_value **places)
{
    if (!value) return INSET_USAGE_ERROR;
    inset_trace *t = value->trace;
    inset_value **const outs[2] = {values, places};
    inset_status status = values || places ? INSET_OK : need_out(t, NULL);
    for (int i = 0; i < 2 && !status; i++) {
        operand made;
        const row_request r = {.function = i ? TRACE_ROW_TOPK_AT : TRACE_ROW_TOPK,
            .n_dimensions = 1,
            .dimensions = &dimension,
            .k = k};
        if (!outs[i]) continue;
        status = trace_row_function(t->trace, &value->operand, &r, &made);
        status = api_give(t, status, &made, outs[i]);
    }
    return status;
}

inset_status inset_where(inset_value *condition, inset_value *a, inset_value *b, inset_value **out)
{
    operand made;
    if (!condition) return INSET_USAGE_ERROR;
    inset_trace *t = condition->trace;
    inset_status status = need_out(t, out);
    if (!status) status = api_check_value(t, a);
    if (!status) status = api_check_value(t, b);
    if (!status)
        status = trace_where(t->trace, &condition->operand, &a->operand, &b->operand, &made);
    return api_give(t, status, &made, out);
}

inset_status inset_transpose(inset_value *value, int64_t first, int64_t second, inset_value **out)
{
    operand made;
    if (!value) return INSET_USAGE_ERROR;
    inset_trace *t = value->trace;
    inset_status status = need_out(t, out);
    if (!status) status = trace_transpose(t->trace, &value->operand, first, second, &made);
    return api_give(t, status, &made, out);
}

inset_status inset_detach(inset_value *value, inset_value **out)
{
    operand made;
    if (!value) return INSET_USAGE_ERROR;
    inset_trace *t = value->trace;
    inset_status status = need_out(t, out);
    if (!status) status = trace_detach(t->trace, &value->operand, &made);
    return api_give(t, status, &made, out);
}

inset_status inset_weight(inset_trace *t, const char *path, inset_value **out)
{
    operand made;
    int32_t module = 0;
    if (!t) return INSET_USAGE_ERROR;
    inset_status status = need_out(t, out);
    if (status) return status;
    if (!path) return api_null(t->context, "a weight's path");
    const program *p = trace_program(t->trace);
    const char *dot = strrchr(path, '.');
    if (!dot) status = program_unknown_module(p, 0, path, strlen(path));
    if (!status) status = program_find_module(p, path, (size_t)(dot - path), &module);
    if (status) return status;
    const int32_t weight = program_weight_of(p, module, dot + 1, strlen(dot + 1));
    if (weight < 0)
        return error_set(t->context, INSET_UNKNOWN_SITE, "%s has no weight '%s'",
            p->modules[module].path, dot + 1);
    if ((status = model_need_numbers(t->model))) return status;
    status = trace_weight(t->trace, weight, &made);
    return api_give(t, status, &made, out);
}
