/* metric.c: numbers made from rows of logits: logit_diff and its like. A metric is recorded as one
 * operation over the last dimension of a view; which tokens it is of lies apart from the record, so
 * that a plan can take others later. */
#include "trace/edit.h"

#include <stdio.h>

const char *trace_metric_name(inset_metric_kind kind)
{
    static const char *const names[] = {
        "logit_diff", "logit", "probability", "log_probability", "rank", "kl"};
    return names[kind];
}

/* ---- tokens ------------------------------------------------------------- */

enum { MOST_TOKENS = 1 << 24 };

static inset_status check_set(trace *t, const char *name, const token_list *set, int64_t width)
{
    if (!set->count)
        return error_set(t->context, INSET_VALUE_ERROR, "%s of an empty set of tokens", name);
    if (set->count > MOST_TOKENS)
        return error_set(t->context, INSET_VALUE_ERROR, "%s of %zu tokens is more than inset takes",
            name, set->count);
    for (size_t i = 0; i < set->count; i++)
        if (set->tokens[i] < 0 || set->tokens[i] >= width)
            return error_set(t->context, INSET_INDEX_ERROR,
                "%s: token %lld is outside a row of %lld logits", name, (long long)set->tokens[i],
                (long long)width);
    return INSET_OK;
}

static inset_status check_tokens(trace *t, const metric_request *m, int64_t width)
{
    const char *name = trace_metric_name(m->kind);
    int sets = m->kind == INSET_KL ? 0 : m->kind == INSET_LOGIT_DIFF ? 2 : 1;
    inset_status status = sets > 0 ? check_set(t, name, &m->sets[0], width) : INSET_OK;
    return !status && sets > 1 ? check_set(t, name, &m->sets[1], width) : status;
}

/* ---- rows --------------------------------------------------------------- */

static inset_status check_row(trace *t, const char *name, const operand *row)
{
    if (row->kind != OPERAND_TENSOR)
        return error_set(
            t->context, INSET_TYPE_ERROR, "%s needs rows of logits, this is a number", name);
    const view *v = &row->view;
    inset_type type = trace_operand_type(t, row);
    if (!v->n_dimensions || !v->dimensions[v->n_dimensions - 1].extent) {
        char shape[128];
        view_shape_text(v, shape, sizeof shape);
        return error_set(t->context, INSET_SHAPE_ERROR,
            "%s needs rows of logits along the last dimension, found a tensor of shape %s", name,
            shape);
    }
    if (v->dimensions[v->n_dimensions - 1].ragged)
        return error_set(t->context, INSET_SHAPE_ERROR,
            "%s needs rows of one length, and the last dimension's differs between sequences",
            name);
    if (!type_is_float(type) && !row->literal)
        return error_set(t->context, INSET_TYPE_ERROR, "%s needs rows of floats, found %s", name,
            type_torch_name(type));
    return INSET_OK;
}

/* The reference of kl, against which every row is held. */
static inset_status check_reference(trace *t, const operand *row, const operand *reference)
{
    inset_status status = check_row(t, "kl", reference);
    if (status) return status;
    const view *a = &row->view, *b = &reference->view;
    if (a->dimensions[a->n_dimensions - 1].extent == b->dimensions[b->n_dimensions - 1].extent
        && view_broadcasts(b, a))
        return INSET_OK;
    char of[128], from[128];
    view_shape_text(a, of, sizeof of);
    view_shape_text(b, from, sizeof from);
    return error_set(t->context, INSET_SHAPE_ERROR,
        "kl of a tensor of shape %s from one of shape %s: rows of one length, as many or a single "
        "one, were expected",
        of, from);
}

/* The rows as a kernel can read them: in `type`, the last dimension along columns. */
static inset_status settle_rows(trace *t, const operand *row, inset_type type, operand *out)
{
    const view *v = &row->view;
    *out = *row;
    if (v->dimensions[v->n_dimensions - 1].kind != DIMENSION_COLUMN) {
        view shape = *v;
        for (int i = 0; i < shape.n_dimensions; i++) shape.dimensions[i].kind = DIMENSION_COLUMN;
        shape.position_dimension = -1;
        inset_status status = trace_copy_shaped(t, v, &shape, out);
        if (status) return status;
    }
    if (trace_operand_type(t, out) == type) return INSET_OK;
    operand from = *out;
    return trace_convert(t, &from, type, out);
}

static inset_type rows_type(const trace *t, const operand *row)
{
    inset_type type = trace_operand_type(t, row);
    return type == INSET_BF16 || type == INSET_F16 ? type : INSET_F32;
}

/* ---- recording ---------------------------------------------------------- */

static inset_status keep_request(trace *t, const metric_request *m, int64_t width)
{
    size_t count = m->sets[0].count + m->sets[1].count;
    if (count > (size_t)INT32_MAX - t->n_answers)
        return error_set(t->context, INSET_VALUE_ERROR,
            "the metrics of a trace are of at most 2^31 tokens in all");
    if (!array_extend(
            t->context, &t->answers, &t->answers_capacity, t->n_answers + count, sizeof *t->answers)
        || !array_extend(
            t->context, &t->metrics, &t->metrics_capacity, t->n_metrics + 1, sizeof *t->metrics))
        return INSET_NO_MEMORY;
    t->metrics[t->n_metrics] = (trace_metric_call){.kind = m->kind,
        .invoke = (int32_t)t->n_invokes - 1,
        .first_answer = (int64_t)t->n_answers,
        .n_a = (int32_t)m->sets[0].count,
        .n_b = (int32_t)m->sets[1].count,
        .width = (int32_t)width};
    for (int k = 0; k < 2; k++)
        for (size_t i = 0; i < m->sets[k].count; i++)
            t->answers[t->n_answers + k * m->sets[0].count + i] = (int32_t)m->sets[k].tokens[i];
    return INSET_OK;
}

inset_status trace_metric(trace *t, const operand *row, const metric_request *request, operand *out)
{
    metric_request m = *request;
    if (m.kind != INSET_LOGIT_DIFF) m.sets[1] = (token_list){0};
    if (m.kind == INSET_KL) m.sets[0] = (token_list){0};
    else m.reference = NULL;
    if (edit_takes(t, row, m.reference))
        return edit_add(
            t, (edit_entry){.kind = EDIT_METRIC, .metric = m, .a = row, .b = m.reference}, out);
    inset_status status = trace_need_line(t, trace_metric_name(m.kind));
    if (status || (status = check_row(t, trace_metric_name(m.kind), row))) return status;
    int64_t width = row->view.dimensions[row->view.n_dimensions - 1].extent;
    if ((status = check_tokens(t, &m, width))
        || (m.kind == INSET_KL && (status = check_reference(t, row, m.reference))))
        return status;
    operand rows, reference = {0};
    inset_type type = rows_type(t, row);
    if (m.kind == INSET_KL && rows_type(t, m.reference) != type) type = INSET_F32;
    if ((status = settle_rows(t, row, type, &rows))) return status;
    if (m.kind == INSET_KL && (status = settle_rows(t, m.reference, type, &reference)))
        return status;
    view shape = rows.view, made;
    shape.n_dimensions--;
    if ((status = storage_for_shape(t, STORAGE_FREE, INSET_F32, &shape, &made))
        || (status = keep_request(t, &m, width)))
        return status;
    status = trace_record_metric(
        t, (int32_t)t->n_metrics, &made, &rows, m.kind == INSET_KL ? &reference : NULL);
    if (status) return status;
    t->n_answers += m.sets[0].count + m.sets[1].count;
    t->n_metrics++;
    *out = tensor_operand(&made);
    return INSET_OK;
}
