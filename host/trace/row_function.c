/* row_function.c: functions of whole rows: sums over dimensions, norms, softmax, the k largest, and
 * where(). Each is one record (row_operation), whose operands are views, so that the planner
 * follows single rows through it: a mean over sequences reads a row of each, one over the last
 * dimension one row. PyTorch's shapes and types. */
#include "trace/edit.h"

#include <string.h>

enum { WIDEST = 1 << 24 }; /* elements of one function: places are counted in fp32 */

const char *trace_row_function_name(trace_row_op function)
{
    static const char *const names[] = {"sum", "mean", "amax", "amin", "norm", "dot", "argmax",
        "softmax", "log_softmax", "topk", "topk", "topk", "where"};
    return names[function];
}

/* Has its result the inner dimension too? */
static bool keeps_inner(trace_row_op f)
{
    return f == TRACE_ROW_SOFTMAX || f == TRACE_ROW_LOG_SOFTMAX || f == TRACE_ROW_TOPK
           || f == TRACE_ROW_TOPK_AT || f == TRACE_ROW_TOPK_BACK;
}

/* ---- the plain form ------------------------------------------------------ */

/* The result's dimensions, and how many elements the inner ones have. */
static inset_status result_shape(trace *t, const row_making *m, view *out, int64_t *inner)
{
    *out = m->shape;
    *inner = 1;
    for (int i = 0; i < m->n_inner; i++)
        *inner *= m->shape.dimensions[m->shape.n_dimensions - 1 - i].extent;
    if (*inner >= WIDEST)
        return error_set(t->context, INSET_VALUE_ERROR,
            "%s() over %lld elements is more than the %d inset takes",
            trace_row_function_name(m->function), (long long)*inner, WIDEST - 1);
    out->n_dimensions -= m->n_inner;
    if (!keeps_inner(m->function)) return INSET_OK;
    const bool chosen = m->function == TRACE_ROW_TOPK || m->function == TRACE_ROW_TOPK_AT;
    out->dimensions[out->n_dimensions++] = (dimension){
        .kind = DIMENSION_COLUMN, .extent = chosen ? m->k : *inner, .stride = 1};
    return INSET_OK;
}

/* `made` with the operands' inner dimensions in the place of its own. */
static view operand_shape(
    const row_making *m, const view *made, const view *inner, int n_inner, int64_t n)
{
    view shape = *made;
    const int64_t own = keeps_inner(m->function) ? made->dimensions[--shape.n_dimensions].extent
                                                 : 1;
    for (int i = 0; i < shape.n_dimensions; i++)
        if (shape.dimensions[i].kind == DIMENSION_COLUMN)
            shape.dimensions[i].stride = own ? shape.dimensions[i].stride / own * n : 0;
    const int kept = shape.n_dimensions;
    shape.n_dimensions += n_inner;
    int64_t stride = 1;
    for (int i = n_inner - 1; i >= 0; i--) {
        const int64_t extent = inner->dimensions[inner->n_dimensions - n_inner + i].extent;
        shape.dimensions[kept + i] = (dimension){
            .kind = DIMENSION_COLUMN, .extent = extent, .stride = stride};
        stride *= extent;
    }
    return shape;
}

static row_operation *keep_operands(trace *t, const row_making *m)
{
    row_operation *o = arena_new(&t->memory, sizeof *o);
    const view **views = arena_new(&t->memory, (size_t)m->n * sizeof *views);
    if (!o || !views) return NULL;
    for (int32_t i = 0; i < m->n; i++)
        if (!(views[i] = view_keep(t, &m->operands[i].view))) return NULL;
    *o = (row_operation){
        .function = m->function, .n = m->n, .n_inner = m->n_inner, .k = m->k, .operands = views};
    return o;
}

inset_status row_function_make(trace *t, const row_making *m, operand *out)
{
    view shape, made;
    int64_t inner;
    inset_status status = result_shape(t, m, &shape, &inner);
    if (!status) status = storage_for_shape(t, STORAGE_FREE, m->type, &shape, &made);
    if (status) return status;
    row_operation *o = keep_operands(t, m);
    if (!o) return INSET_NO_MEMORY;
    const int64_t width = t->storages[made.storage].width;
    o->inner = (int32_t)inner;
    o->made = keeps_inner(m->function) ? (int32_t)made.dimensions[made.n_dimensions - 1].extent : 1;
    o->kept = (int32_t)(o->made ? width / o->made : 0);
    if ((int64_t)o->kept * inner > INT32_MAX)
        return error_set(t->context, INSET_VALUE_ERROR, "%s() of rows of %lld elements is too much",
            trace_row_function_name(m->function), (long long)(o->kept * inner));
    if (m->n_inner) {
        const view full = operand_shape(m, &made, &m->shape, m->n_inner, inner);
        if (!(o->shape = view_keep(t, &full))) return INSET_NO_MEMORY;
    }
    if (m->function == TRACE_ROW_TOPK_BACK) {
        const view second = operand_shape(m, &made, &m->operands[1].view, 1, m->k);
        if (!(o->second = view_keep(t, &second))) return INSET_NO_MEMORY;
    }
    if ((status = trace_record_rows(t, &made, o))) return status;
    *out = tensor_operand(&made);
    return INSET_OK;
}

operand row_function_behind(const operand *x, int n)
{
    operand out = *x;
    if (x->kind != OPERAND_TENSOR) return out;
    for (int i = 0; i < n; i++) view_insert(&out.view, out.view.n_dimensions);
    return out;
}

/* ---- checks -------------------------------------------------------------- */

typedef struct reducing {
    trace_row_op function;
    const char *name;
    bool over[INSET_MAX_DIMENSIONS];
    bool keep;
    int32_t k;
    inset_type computed, type; /* what the kernel makes, and the result */
} reducing;

static inset_status check_dimensions(
    trace *t, const view *v, const row_request *request, reducing *r)
{
    const int n = v->n_dimensions;
    const bool one = request->function >= TRACE_ROW_ARGMAX;
    memset(r->over, request->n_dimensions ? 0 : 1, sizeof r->over);
    for (int i = 0; i < request->n_dimensions; i++) {
        const int64_t d = request->dimensions[i], at = d < 0 ? d + n : d;
        if (at < 0 || at >= n)
            return error_set(t->context, INSET_INDEX_ERROR,
                "%s(): dimension %lld of a tensor of %d dimensions", r->name, (long long)d, n);
        if (r->over[at])
            return error_set(t->context, INSET_VALUE_ERROR, "%s(): dimension %lld appears twice",
                r->name, (long long)d);
        r->over[at] = true;
    }
    if (one && (request->n_dimensions != 1 || !n))
        return error_set(t->context, INSET_VALUE_ERROR,
            "%s() goes along one dimension, as in %s(%s-1)", r->name, r->name,
            request->function == TRACE_ROW_TOPK ? "5, " : "");
    for (int i = 0; i < n; i++)
        if (r->over[i] && !v->dimensions[i].extent)
            return error_set(t->context, INSET_VALUE_ERROR,
                "%s() over dimension %d, which has no elements", r->name, i);
    return INSET_OK;
}

/* The operand in a type that the kernel computes in, and the result's type. */
static inset_status settle_type(trace *t, const operand *a, reducing *r, operand *x)
{
    const inset_type type = a->literal && trace_operand_type(t, a) == INSET_F64
                                ? INSET_F32
                                : trace_operand_type(t, a);
    const bool integers = !type_is_float(type);
    *x = *a;
    r->type = type;
    if (type == INSET_F64)
        return error_set(t->context, INSET_TYPE_ERROR,
            "%s() of torch.float64: write .float() before it", r->name);
    if (integers && r->function != TRACE_ROW_SUM && r->function != TRACE_ROW_AMAX
        && r->function != TRACE_ROW_AMIN)
        return error_set(t->context, INSET_TYPE_ERROR, "%s() needs floats, found %s%s", r->name,
            type_torch_name(type), ": write .float() before it");
    if (integers && r->function == TRACE_ROW_SUM) r->type = INSET_I64;
    if (r->function == TRACE_ROW_ARGMAX || r->function == TRACE_ROW_TOPK_AT) r->type = INSET_I64;
    const inset_type read = integers ? INSET_I64 : type;
    r->computed = integers ? INSET_I64 : r->type;
    return trace_operand_type(t, a) == read ? INSET_OK : trace_convert(t, a, read, x);
}

static inset_status check_k(trace *t, const view *v, const row_request *request, reducing *r)
{
    if (request->function != TRACE_ROW_TOPK && request->function != TRACE_ROW_TOPK_AT)
        return INSET_OK;
    for (int i = 0; i < v->n_dimensions; i++) {
        if (!r->over[i]) continue;
        int64_t least = v->dimensions[i].extent;
        for (int32_t s = 0; v->dimensions[i].ragged && s < v->n_spans; s++)
            if (v->spans[s].count < least) least = v->spans[s].count;
        if (request->k < 1 || request->k > least)
            return error_set(t->context, INSET_VALUE_ERROR,
                "topk(%lld) along a dimension of %lld elements", (long long)request->k,
                (long long)least);
    }
    r->k = (int32_t)request->k;
    return INSET_OK;
}

/* ---- over dimensions ----------------------------------------------------- */

/* The dimensions that a sum over rows takes one by one: those that are not columns. */
typedef struct slices {
    operand *at;
    size_t n, capacity;
} slices;

static inset_status add_slices(trace *t, const operand *x, const bool *over, slices *list)
{
    const view *v = &x->view;
    int d = 0;
    while (d < v->n_dimensions && (!over[d] || v->dimensions[d].kind == DIMENSION_COLUMN)) d++;
    if (d == v->n_dimensions) {
        if (!array_extend(t->context, &list->at, &list->capacity, list->n + 1, sizeof *list->at))
            return INSET_NO_MEMORY;
        list->at[list->n++] = *x;
        return INSET_OK;
    }
    bool left[INSET_MAX_DIMENSIONS] = {0};
    index_item items[INSET_MAX_DIMENSIONS];
    for (int i = 0; i < d; i++) items[i] = (index_item){.kind = INDEX_SLICE};
    for (int i = 0, k = 0; i < v->n_dimensions; i++)
        if (i != d) left[k++] = over[i];
    for (int64_t i = 0; i < v->dimensions[d].extent; i++) {
        operand one = *x;
        items[d] = (index_item){.kind = INDEX_INTEGER, .integer = i};
        inset_status status = view_index(t, v, (size_t)d + 1, items, &one.view);
        if (!status) status = add_slices(t, &one, left, list);
        if (status) return status;
    }
    return INSET_OK;
}

/* Columns that are summed over move behind those that stay. */
static int inner_last(view *v, const bool *over)
{
    int n = 0;
    bool move[INSET_MAX_DIMENSIONS];
    memcpy(move, over, sizeof move);
    for (int i = 0; i + n < v->n_dimensions;) {
        if (!move[i]) {
            i++;
            continue;
        }
        view_move(v, i, v->n_dimensions - 1);
        memmove(&move[i], &move[i + 1], (size_t)(INSET_MAX_DIMENSIONS - i - 1) * sizeof *move);
        n++;
    }
    return n;
}

static inset_status reduce(trace *t, const operand *x, const reducing *r, operand *out)
{
    slices list = {0};
    bool columns[INSET_MAX_DIMENSIONS] = {0};
    inset_status status = add_slices(t, x, r->over, &list);
    for (int i = 0, k = 0; i < x->view.n_dimensions; i++)
        if (!r->over[i] || x->view.dimensions[i].kind == DIMENSION_COLUMN)
            columns[k++] = r->over[i];
    row_making m = {.function = r->function, .type = r->computed, .n = (int32_t)list.n};
    for (size_t i = 0; i < list.n && !status; i++) {
        m.n_inner = inner_last(&list.at[i].view, columns);
        if (!i) m.shape = list.at[i].view;
    }
    m.operands = list.at;
    if (!status) status = row_function_make(t, &m, out);
    memory_free(t->context, list.at);
    return status;
}

/* Along one dimension, which may run over rows: it becomes the last, of columns, and goes back. */
static inset_status along_one(trace *t, const operand *x, const reducing *r, operand *out)
{
    operand moved = *x;
    int d = 0;
    while (!r->over[d]) d++;
    const int last = x->view.n_dimensions - 1;
    view_move(&moved.view, d, last);
    row_making m = {.function = r->function,
        .shape = moved.view,
        .n_inner = 1,
        .k = r->k,
        .type = r->computed,
        .n = 1,
        .operands = &moved};
    m.shape.dimensions[last].kind = DIMENSION_COLUMN;
    if (m.shape.position_dimension == last) m.shape.position_dimension = -1;
    inset_status status = row_function_make(t, &m, out);
    if (!status && keeps_inner(r->function)) view_move(&out->view, last, d);
    return status;
}

static inset_status make(trace *t, const operand *x, const reducing *r, operand *out)
{
    return r->function < TRACE_ROW_ARGMAX ? reduce(t, x, r, out) : along_one(t, x, r, out);
}

/* Prompts of different lengths, each over its own positions: one after the other, into one
 * tensor. */
static inset_status by_sequences(
    trace *t, const operand *x, const reducing *r, int position, operand *out)
{
    const view *v = &x->view;
    view shape = *v, made;
    if (r->function == TRACE_ROW_TOPK || r->function == TRACE_ROW_TOPK_AT) {
        shape.dimensions[position] = (dimension){.kind = DIMENSION_COLUMN, .extent = r->k};
        shape.position_dimension = -1;
    }
    for (int i = v->n_dimensions - 1; i >= 0 && !keeps_inner(r->function); i--) {
        if (!r->over[i]) continue;
        memmove(&shape.dimensions[i], &shape.dimensions[i + 1],
            (size_t)(shape.n_dimensions - i - 1) * sizeof shape.dimensions[0]);
        shape.n_dimensions--;
    }
    if (!keeps_inner(r->function)) shape.position_dimension = -1;
    inset_status status = storage_for_shape(t, STORAGE_FILLED, r->computed, &shape, &made);
    reducing of_one = *r;
    memmove(of_one.over, r->over + 1, sizeof of_one.over - sizeof of_one.over[0]);
    for (int32_t s = 0; s < v->n_spans && !status; s++) {
        const index_item item = {.kind = INDEX_INTEGER, .integer = s};
        operand one = *x, result, to = tensor_operand(&made);
        status = view_index(t, v, 1, &item, &one.view);
        if (!status) status = make(t, &one, &of_one, &result);
        if (!status) status = view_index(t, &made, 1, &item, &to.view);
        if (!status) status = trace_set(t, &to, 0, NULL, TRACE_COPY, &result);
    }
    *out = tensor_operand(&made);
    return status;
}

static inset_status put_back(trace *t, const view *of, const reducing *r, operand *out)
{
    for (int i = 0; i < of->n_dimensions && r->keep && !keeps_inner(r->function); i++)
        if (r->over[i] && !view_insert(&out->view, i)) return INSET_SHAPE_ERROR;
    return !view_is_ragged(&out->view) || view_sequence_dimension(&out->view) <= 0
               ? INSET_OK
               : error_set(t->context, INSET_SHAPE_ERROR,
                   "%s() leaves prompts of different lengths behind another dimension", r->name);
}

static inset_status add_to_edit(
    trace *t, const operand *a, const row_request *request, operand *out)
{
    edit_entry entry = {.kind = EDIT_ROWS, .a = a, .rows = *request};
    if (request->n_dimensions > INSET_MAX_DIMENSIONS)
        return error_set(t->context, INSET_VALUE_ERROR, "%d dimensions", request->n_dimensions);
    for (int i = 0; i < request->n_dimensions; i++) entry.shape[i] = request->dimensions[i];
    return edit_add(t, entry, out);
}

inset_status trace_row_function(
    trace *t, const operand *a, const row_request *request, operand *out)
{
    reducing r = {.function = request->function,
        .name = trace_row_function_name(request->function),
        .keep = request->keep};
    operand x;
    const bool edits = edit_takes(t, a, NULL);
    inset_status status = edits ? INSET_OK : trace_need_line(t, r.name);
    if (status) return status;
    if (edits) return add_to_edit(t, a, request, out);
    if (a->kind != OPERAND_TENSOR)
        return error_set(t->context, INSET_TYPE_ERROR, "%s() of a number", r.name);
    if ((status = check_dimensions(t, &a->view, request, &r))
        || (status = check_k(t, &a->view, request, &r)) || (status = settle_type(t, a, &r, &x)))
        return status;
    const int position = x.view.position_dimension, sequence = view_sequence_dimension(&x.view);
    const bool ragged = view_is_ragged(&x.view);
    if (ragged && r.over[sequence] && (!r.over[position] || r.function >= TRACE_ROW_ARGMAX))
        return error_set(t->context, INSET_SHAPE_ERROR,
            "%s() over sequences of prompts of different lengths: which positions belong together "
            "is not said; take one position of each, as in x[:, -1]",
            r.name);
    status = ragged && r.over[position] && !r.over[sequence]
                 ? by_sequences(t, &x, &r, position, out)
                 : make(t, &x, &r, out);
    if (!status && r.type != trace_operand_type(t, out)) {
        const operand computed = *out;
        status = trace_convert(t, &computed, r.type, out);
    }
    return status ? status : put_back(t, &x.view, &r, out);
}

/* ---- where --------------------------------------------------------------- */

/* A tensor of the type, in the operand's place. */
static inset_status as_tensor(trace *t, const operand *a, inset_type type, operand *out)
{
    if (a->kind != OPERAND_TENSOR) return trace_literal(t, 0, NULL, &a->number, false, out);
    *out = *a;
    return trace_operand_type(t, a) == type ? INSET_OK : trace_convert(t, a, type, out);
}

inset_status trace_where(
    trace *t, const operand *condition, const operand *a, const operand *b, operand *out)
{
    if (edit_takes(t, a, b) || edit_takes(t, condition, NULL))
        return edit_add(t, (edit_entry){.kind = EDIT_WHERE, .a = a, .b = b, .c = condition}, out);
    inset_status status = trace_need_line(t, "where()");
    if (status) return status;
    if (condition->kind != OPERAND_TENSOR || trace_operand_type(t, condition) != INSET_BOOL)
        return error_set(t->context, INSET_TYPE_ERROR,
            "where() chooses by a tensor of torch.bool, as x > 0 makes one; found %s",
            condition->kind != OPERAND_TENSOR ? "a number"
                                              : type_torch_name(trace_operand_type(t, condition)));
    inset_type type, unused;
    view shape;
    operand all[3] = {*condition};
    status = trace_promoted(t, a, b, &type, &shape);
    if (!status) {
        const operand both = {.kind = OPERAND_TENSOR, .view = shape};
        status = trace_promoted(t, condition, &both, &unused, &shape);
    }
    if (status)
        return error_set(t->context, INSET_SHAPE_ERROR,
            "where(): the shapes of its three operands do not broadcast");
    for (int k = 0; k < 2 && !status; k++) {
        const operand *from = k ? b : a;
        status = as_tensor(t, from, type, &all[k + 1]);
        if (!status && trace_operand_type(t, &all[k + 1]) != type) {
            const operand number = all[k + 1];
            status = trace_convert(t, &number, type, &all[k + 1]);
        }
    }
    if (status) return status;
    const row_making m = {
        .function = TRACE_ROW_WHERE, .shape = shape, .type = type, .n = 3, .operands = all};
    return row_function_make(t, &m, out);
}
