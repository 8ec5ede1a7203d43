/* trace.c: traces of the public API. Each call does what the same line of a script would do,
 * through the same calls of trace/trace.h. */
#include "api/api.h"
#include "run/tokens.h"
#include "script/script.h"

#include <stdio.h>
#include <string.h>

static void free_object(void *object) { inset_trace_free(object); }

inset_status inset_trace_create(inset_model *model, inset_trace **out)
{
    if (!model) return INSET_USAGE_ERROR;
    if (!out) return api_null(model->context, "a place for the trace");
    inset_trace *t = memory_new(model->context, sizeof *t);
    if (!t) return INSET_NO_MEMORY;
    t->context = model->context;
    t->model = model;
    inset_status status = trace_create(model->context, model->program, model->type, &t->trace);
    if (status) {
        memory_free(model->context, t);
        return status;
    }
    const text_source texts = model_text_source(model);
    trace_set_text_source(t->trace, &texts);
    handle_add(model->context, &t->handle, model, t, free_object);
    if ((status = api_begin_edited(t))) {
        inset_trace_free(t);
        return status;
    }
    *out = t;
    return INSET_OK;
}

void inset_trace_free(inset_trace *t)
{
    if (!t) return;
    handle_free_owned(t->context, t);
    handle_remove(t->context, &t->handle);
    trace_free(t->trace);
    api_free_kept(t);
    memory_free(t->context, t);
}

/* ---- invokes ------------------------------------------------------------ */

inset_status inset_invoke_tokens(
    inset_trace *t, int64_t n_sequences, const int64_t *lengths, const int64_t *tokens)
{
    if (!t) return INSET_USAGE_ERROR;
    if (!lengths || !tokens) return api_null(t->context, lengths ? "token ids" : "lengths");
    return trace_invoke_tokens(t->trace, n_sequences, lengths, tokens);
}

inset_status inset_invoke_rows(inset_trace *t, int64_t n_rows, int64_t width, const float *rows)
{
    if (!t) return INSET_USAGE_ERROR;
    if (!rows) return api_null(t->context, "rows");
    return trace_invoke_rows(t->trace, n_rows, width, rows);
}

inset_status inset_invoke_end(inset_trace *t)
{
    if (!t) return INSET_USAGE_ERROR;
    trace_end_backward(t->trace);
    inset_status status = api_end_edit(t);
    return status ? status : trace_end_invoke(t->trace);
}

inset_status inset_invoke_reopen(inset_trace *t)
{
    if (!t) return INSET_USAGE_ERROR;
    trace_reopen(t->trace);
    return INSET_OK;
}

/* ---- values ------------------------------------------------------------- */

inset_status api_check_value(inset_trace *t, const inset_value *value)
{
    if (!value) return api_null(t->context, "a value");
    if (value->trace == t) return INSET_OK;
    return error_set(t->context, INSET_USAGE_ERROR, "a value of another trace was given");
}

inset_status api_give(inset_trace *t, inset_status status, const operand *made, inset_value **out)
{
    if (status) return status;
    inset_value *value = arena_new(trace_arena(t->trace), sizeof *value);
    if (!value) return INSET_NO_MEMORY;
    *value = (inset_value){t, *made};
    value->operand.copy = false; /* a handle keeps it: what is written to it is not lost */
    *out = value;
    return INSET_OK;
}

#define NEED_OUT(t, out) \
    if (!(out)) return api_null((t)->context, "a place for the value")

inset_status inset_invoke_value(inset_trace *t, inset_value *input)
{
    if (!t) return INSET_USAGE_ERROR;
    inset_status status = api_check_value(t, input);
    return status ? status : trace_invoke_operand(t->trace, &input->operand);
}

inset_status inset_trace_again(inset_trace *t, int again)
{
    if (!t) return INSET_USAGE_ERROR;
    return trace_again(t->trace, again != 0), INSET_OK;
}

inset_status inset_backward(inset_trace *t, inset_value *metric)
{
    if (!t) return INSET_USAGE_ERROR;
    inset_status status = api_check_value(t, metric);
    if (status) return status;
    trace_end_backward(t->trace);
    return trace_backward(t->trace, &metric->operand);
}

inset_status inset_gradient(inset_trace *t, inset_value *value, inset_value **out)
{
    operand made;
    if (!t) return INSET_USAGE_ERROR;
    NEED_OUT(t, out);
    inset_status status = api_check_value(t, value);
    if (!status) status = trace_gradient(t->trace, &value->operand, &made);
    return api_give(t, status, &made, out);
}

inset_status inset_get(inset_trace *t, const char *text, inset_value **out)
{
    int32_t site;
    size_t n_items;
    index_item *items;
    operand whole, made;
    if (!t) return INSET_USAGE_ERROR;
    if (!text) return api_null(t->context, "a site");
    NEED_OUT(t, out);
    inset_status status = script_parse_site(t->trace, text, &site, &n_items, &items);
    if (!status) status = trace_site(t->trace, site, &whole);
    if (status || !n_items) return api_give(t, status, &whole, out);
    status = trace_index(t->trace, &whole, n_items, items, &made);
    return api_give(t, status, &made, out);
}

inset_status api_check_tensor(inset_context *context, const inset_tensor *tensor)
{
    if (!tensor) return api_null(context, "a tensor");
    if (tensor->type < 0 || tensor->type >= INSET_TYPE_COUNT)
        return error_set(context, INSET_USAGE_ERROR, "a tensor of type %d was given, which is none",
            (int)tensor->type);
    if (tensor->n_dimensions < 0 || tensor->n_dimensions > INSET_MAX_DIMENSIONS)
        return error_set(context, INSET_USAGE_ERROR,
            "a tensor of %d dimensions was given; at most %d are possible",
            (int)tensor->n_dimensions, (int)INSET_MAX_DIMENSIONS);
    int64_t count = 1;
    for (int i = 0; i < tensor->n_dimensions; i++) {
        if (tensor->shape[i] < 0 || __builtin_mul_overflow(count, tensor->shape[i], &count)
            || count > INT64_MAX / 8)
            return error_set(context, INSET_USAGE_ERROR,
                "a tensor was given whose dimension %d is %lld", i, (long long)tensor->shape[i]);
    }
    return tensor->data || !count ? INSET_OK : api_null(context, "a tensor's data");
}

inset_status inset_external(inset_trace *t, const inset_tensor *tensor, inset_value **out)
{
    operand made;
    if (!t) return INSET_USAGE_ERROR;
    NEED_OUT(t, out);
    inset_status status = api_check_tensor(t->context, tensor);
    if (status) return status;
    status = trace_external(
        t->trace, tensor->type, tensor->n_dimensions, tensor->shape, tensor->data, &made);
    return api_give(t, status, &made, out);
}

inset_status inset_zeros(
    inset_trace *t, int32_t n_dimensions, const int64_t *shape, inset_value **out)
{
    operand made;
    if (!t) return INSET_USAGE_ERROR;
    NEED_OUT(t, out);
    if (n_dimensions < 0 || n_dimensions > INSET_MAX_DIMENSIONS)
        return error_set(t->context, INSET_USAGE_ERROR,
            "%d dimensions were asked for; at most %d are possible", (int)n_dimensions,
            (int)INSET_MAX_DIMENSIONS);
    if (!shape && n_dimensions) return api_null(t->context, "a shape");
    inset_status status = trace_zeros(t->trace, n_dimensions, shape, &made);
    return api_give(t, status, &made, out);
}

inset_status inset_number(inset_trace *t, double number, inset_value **out)
{
    if (!t) return INSET_USAGE_ERROR;
    NEED_OUT(t, out);
    operand made = {.kind = OPERAND_FLOAT, .number = number};
    return api_give(t, INSET_OK, &made, out);
}

inset_status inset_integer(inset_trace *t, int64_t number, inset_value **out)
{
    if (!t) return INSET_USAGE_ERROR;
    NEED_OUT(t, out);
    operand made = {.kind = OPERAND_INTEGER, .integer = number, .number = (double)number};
    return api_give(t, INSET_OK, &made, out);
}

inset_status inset_index(inset_value *value, const char *index, inset_value **out)
{
    size_t n_items;
    index_item *items;
    operand made;
    if (!value) return INSET_USAGE_ERROR;
    inset_trace *t = value->trace;
    NEED_OUT(t, out);
    if (!index) return api_null(t->context, "an index");
    inset_status status = script_parse_index(t->trace, index, &n_items, &items);
    if (!status) status = trace_index(t->trace, &value->operand, n_items, items, &made);
    return api_give(t, status, &made, out);
}

inset_status inset_clone(inset_value *value, inset_value **out)
{
    operand made;
    if (!value) return INSET_USAGE_ERROR;
    NEED_OUT(value->trace, out);
    inset_status status = trace_clone(value->trace->trace, &value->operand, &made);
    return api_give(value->trace, status, &made, out);
}

/* The trace's name for an operation; false for a number that is none. */
static bool operation_of(inset_operation operation, trace_op *out)
{
    static const trace_op operations[] = {TRACE_ADD, TRACE_SUBTRACT, TRACE_MULTIPLY, TRACE_DIVIDE};
    if ((unsigned)operation >= sizeof operations / sizeof *operations) return false;
    *out = operations[operation];
    return true;
}

static inset_status no_operation(inset_trace *t, inset_operation operation)
{
    return error_set(t->context, INSET_USAGE_ERROR, "%d is no operation", (int)operation);
}

static inset_status compare(inset_value *a, trace_op op, inset_value *b, operand *out)
{
    if (a->operand.kind != OPERAND_TENSOR && b->operand.kind != OPERAND_TENSOR)
        return error_set(
            a->trace->context, INSET_TYPE_ERROR, "a comparison of two numbers needs no trace");
    return trace_binary(a->trace->trace, op, &a->operand, &b->operand, out);
}

inset_status inset_arithmetic(
    inset_value *a, inset_operation operation, inset_value *b, inset_value **out)
{
    trace_op op;
    operand made;
    if (!a) return INSET_USAGE_ERROR;
    NEED_OUT(a->trace, out);
    inset_status status = api_check_value(a->trace, b);
    if (status) return status;
    if (operation == INSET_MATRIX_PRODUCT)
        status = trace_product(a->trace->trace, &a->operand, &b->operand, &made);
    else if (operation >= INSET_EQUAL && operation <= INSET_GREATER_EQUAL)
        status = compare(a, (trace_op)(TRACE_EQUAL + (int)(operation - INSET_EQUAL)), b, &made);
    else if (!operation_of(operation, &op)) return no_operation(a->trace, operation);
    else status = trace_binary(a->trace->trace, op, &a->operand, &b->operand, &made);
    return api_give(a->trace, status, &made, out);
}

/* False, with a message, when tokens are missing that the kind needs. */
static bool has_tokens(inset_value *row, inset_metric_kind kind, size_t n_a, const int64_t *a,
    size_t n_b, const int64_t *b)
{
    bool missing = (kind != INSET_KL && n_a && !a) || (kind == INSET_LOGIT_DIFF && n_b && !b);
    if (missing) api_null(row->trace->context, "tokens");
    return !missing;
}

inset_status inset_metric(inset_value *row, inset_metric_kind kind, size_t n_a, const int64_t *a,
    size_t n_b, const int64_t *b, inset_value *reference, inset_value **out)
{
    operand made;
    inset_status status = INSET_OK;
    if (!row) return INSET_USAGE_ERROR;
    inset_trace *t = row->trace;
    NEED_OUT(t, out);
    if ((int)kind < 0 || kind > INSET_KL)
        return error_set(t->context, INSET_USAGE_ERROR, "%d is no kind of metric", (int)kind);
    if (!has_tokens(row, kind, n_a, a, n_b, b)) return INSET_USAGE_ERROR;
    if (kind == INSET_KL && (status = api_check_value(t, reference))) return status;
    const metric_request m = {.kind = kind,
        .sets = {{n_a, a}, {n_b, b}},
        .reference = reference ? &reference->operand : NULL};
    status = trace_metric(t->trace, &row->operand, &m, &made);
    return api_give(t, status, &made, out);
}

inset_status inset_apply(inset_value *value, inset_function function, inset_value **out)
{
    operand made;
    if (!value) return INSET_USAGE_ERROR;
    inset_trace *t = value->trace;
    NEED_OUT(t, out);
    if ((int)function < 0 || function > INSET_FUNCTION_SILU)
        return error_set(t->context, INSET_USAGE_ERROR, "%d is no function", (int)function);
    inset_status status = trace_function(
        t->trace, (trace_op)(TRACE_EXP + (int)function), &value->operand, NULL, &made);
    return api_give(t, status, &made, out);
}

inset_status inset_clamp(inset_value *value, inset_value *low, inset_value *high, inset_value **out)
{
    operand made, from;
    if (!value) return INSET_USAGE_ERROR;
    inset_trace *t = value->trace;
    NEED_OUT(t, out);
    if (!low && !high) return api_null(t->context, "a bound");
    inset_status status = INSET_OK;
    from = value->operand;
    for (int k = 0; k < 2 && !status; k++) {
        const inset_value *bound = k ? high : low;
        if (!bound) continue;
        status = api_check_value(t, bound);
        if (!status)
            status = trace_function(
                t->trace, k ? TRACE_AT_MOST : TRACE_AT_LEAST, &from, &bound->operand, &made);
        if (!status) from = made;
    }
    return api_give(t, status, &made, out);
}

inset_status inset_cast(inset_value *value, inset_type type, inset_value **out)
{
    operand made;
    if (!value) return INSET_USAGE_ERROR;
    inset_trace *t = value->trace;
    NEED_OUT(t, out);
    if ((int)type < 0 || type >= INSET_TYPE_COUNT)
        return error_set(t->context, INSET_USAGE_ERROR, "%d is no type", (int)type);
    inset_status status = trace_cast(t->trace, &value->operand, type, &made);
    return api_give(t, status, &made, out);
}

inset_status inset_call(inset_trace *t, const char *module, inset_value *x, inset_value **out)
{
    operand made;
    int32_t found;
    if (!t) return INSET_USAGE_ERROR;
    NEED_OUT(t, out);
    if (!module) return api_null(t->context, "a module");
    inset_status status = api_check_value(t, x);
    if (!status)
        status = program_find_module(trace_program(t->trace), module, strlen(module), &found);
    if (!status) status = trace_call(t->trace, found, &x->operand, &made);
    return api_give(t, status, &made, out);
}

inset_status inset_negate(inset_value *value, inset_value **out)
{
    operand made;
    if (!value) return INSET_USAGE_ERROR;
    NEED_OUT(value->trace, out);
    inset_status status = trace_negate(value->trace->trace, &value->operand, &made);
    return api_give(value->trace, status, &made, out);
}

/* ---- setting ------------------------------------------------------------ */

inset_status inset_set(inset_trace *t, const char *text, inset_value *source)
{
    int32_t site;
    size_t n_items;
    index_item *items;
    operand target;
    if (!t) return INSET_USAGE_ERROR;
    if (!text) return api_null(t->context, "a site");
    inset_status status = api_check_value(t, source);
    if (!status) status = script_parse_site(t->trace, text, &site, &n_items, &items);
    if (status) return status;
    if (!n_items) return trace_replace(t->trace, site, &source->operand);
    status = trace_site(t->trace, site, &target);
    return status ? status
                  : trace_set(t->trace, &target, n_items, items, TRACE_COPY, &source->operand);
}

inset_status inset_update(
    inset_trace *t, const char *text, inset_operation operation, inset_value *source)
{
    int32_t site;
    size_t n_items;
    index_item *items;
    operand target;
    trace_op op;
    if (!t) return INSET_USAGE_ERROR;
    if (!text) return api_null(t->context, "a site");
    inset_status status = api_check_value(t, source);
    if (status) return status;
    if (!operation_of(operation, &op)) return no_operation(t, operation);
    status = script_parse_site(t->trace, text, &site, &n_items, &items);
    if (!status) status = trace_site(t->trace, site, &target);
    return status ? status : trace_set(t->trace, &target, n_items, items, op, &source->operand);
}

/* target[index] op= source */
static inset_status change_value(
    inset_value *target, const char *index, trace_op op, inset_value *source)
{
    size_t n_items;
    index_item *items;
    inset_trace *t = target->trace;
    if (!index) return api_null(t->context, "an index");
    inset_status status = api_check_value(t, source);
    if (!status) status = script_parse_index(t->trace, index, &n_items, &items);
    return status ? status
                  : trace_set(t->trace, &target->operand, n_items, items, op, &source->operand);
}

inset_status inset_set_value(inset_value *target, const char *index, inset_value *source)
{
    return target ? change_value(target, index, TRACE_COPY, source) : INSET_USAGE_ERROR;
}

inset_status inset_update_value(
    inset_value *target, const char *index, inset_operation operation, inset_value *source)
{
    trace_op op;
    if (!target) return INSET_USAGE_ERROR;
    if (!operation_of(operation, &op)) return no_operation(target->trace, operation);
    return change_value(target, index, op, source);
}

inset_status inset_skip(inset_trace *t, const char *text, inset_value *output)
{
    int32_t module;
    if (!t) return INSET_USAGE_ERROR;
    if (!text) return api_null(t->context, "a module");
    inset_status status = api_check_value(t, output);
    if (!status) status = program_find_module(trace_program(t->trace), text, strlen(text), &module);
    return status ? status : trace_skip(t->trace, module, &output->operand);
}

inset_status inset_stop(inset_trace *t) { return t ? trace_stop(t->trace) : INSET_USAGE_ERROR; }

/* ---- saving and asking -------------------------------------------------- */

inset_status inset_save(inset_trace *t, const char *name, inset_value *value)
{
    if (!t) return INSET_USAGE_ERROR;
    if (!name) return api_null(t->context, "a name");
    inset_status status = api_check_value(t, value);
    return status ? status : trace_save(t->trace, name, &value->operand);
}

inset_status inset_save_site(inset_trace *t, size_t site, const char *name)
{
    if (!t) return INSET_USAGE_ERROR;
    if (!name) return api_null(t->context, "a name");
    if (site >= t->model->program->n_sites)
        return error_set(t->context, INSET_INDEX_ERROR, "site %zu was asked for; the model has %zu",
            site, t->model->program->n_sites);
    return trace_save_site(t->trace, (int32_t)site, name);
}

inset_status inset_save_sites(inset_trace *t, const char *patterns, const char *prefix)
{
    inset_status status = INSET_OK;
    if (!t) return INSET_USAGE_ERROR;
    if (!patterns) return api_null(t->context, "a pattern of sites");
    bool *chosen = memory_new(t->context, t->model->program->n_sites + 1);
    if (!chosen) return INSET_NO_MEMORY;
    for (const char *at = patterns; at && !status;) {
        const size_t length = strcspn(at, ",");
        status = program_match_sites(t->model->program, at, length, chosen);
        at = at[length] ? at + length + 1 : NULL;
    }
    if (!status) status = trace_save_sites(t->trace, chosen, prefix ? prefix : "");
    memory_free(t->context, chosen);
    return status;
}

inset_status inset_save_stack(
    inset_trace *t, const char *name, size_t count, inset_value *const *values)
{
    inset_status status = INSET_OK;
    if (!t) return INSET_USAGE_ERROR;
    if (!name || (!values && count)) return api_null(t->context, name ? "values" : "a name");
    for (size_t i = 0; i < count && !status; i++) status = api_check_value(t, values[i]);
    if (status) return status;
    if (count > SIZE_MAX / sizeof(operand)) return error_no_memory(t->context);
    operand *operands = memory_new(t->context, count * sizeof *operands);
    if (!operands) return INSET_NO_MEMORY;
    for (size_t i = 0; i < count; i++) operands[i] = values[i]->operand;
    status = trace_save_stack(t->trace, name, count, operands);
    memory_free(t->context, operands);
    return status;
}

inset_status inset_value_shape(inset_value *value, char *out, size_t size, inset_type *type)
{
    if (!value) return INSET_USAGE_ERROR;
    if (!out && size) return api_null(value->trace->context, "a buffer");
    if (value->operand.edit)
        return error_set(value->trace->context, INSET_USAGE_ERROR,
            "a value of an edit has a shape only where an invoke repeats it");
    bool tensor = value->operand.kind == OPERAND_TENSOR;
    if (size && tensor) trace_shape_text(value->trace->trace, &value->operand, out, size);
    else if (size) snprintf(out, size, "()");
    if (type)
        *type = tensor ? trace_operand_type(value->trace->trace, &value->operand)
                : value->operand.kind == OPERAND_INTEGER ? INSET_I64
                                                         : INSET_F32;
    return INSET_OK;
}

size_t inset_trace_saved_count(const inset_trace *t) { return t ? trace_saved_count(t->trace) : 0; }

inset_status inset_trace_saved_at(
    inset_trace *t, size_t index, const char **name, inset_value **value)
{
    operand found;
    if (!t) return INSET_USAGE_ERROR;
    NEED_OUT(t, value);
    const size_t count = trace_saved_count(t->trace);
    if (index >= count)
        return error_set(t->context, INSET_INDEX_ERROR,
            "saved value %zu was asked for; the trace saves %zu so far", index, count);
    const char *saved = trace_saved_at(t->trace, index, &found);
    inset_status status = api_give(t, INSET_OK, &found, value);
    if (!status && name) *name = saved;
    return status;
}

inset_status inset_script(
    inset_trace *t, const char *file, const char *directory, const char *text, size_t length)
{
    if (!t) return INSET_USAGE_ERROR;
    if (!file || (!text && length)) return api_null(t->context, file ? "a script" : "a file name");
    return script_read(t->trace, file, directory ? directory : "", text ? text : "", length);
}
