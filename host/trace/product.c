/* product.c: a @ b. A matrix from outside or a weight, all of it or a part, as it lies or
 * transposed, is multiplied by in planned products, in which rows that are the same are multiplied
 * once. What lines made, a vector or a matrix, is a dot product an element (row_function.c). */
#include "trace/edit.h"

#include <string.h>

/* ---- weights as values --------------------------------------------------- */

inset_status trace_weight(trace *t, int32_t index, operand *out)
{
    if (t->edit) {
        inset_status added = edit_add(t, (edit_entry){.kind = EDIT_WEIGHT, .place = index}, out);
        out->unchangeable = !added;
        return added;
    }
    const weight *w = &t->program->weights[index];
    while (w->same_as >= 0) w = &t->program->weights[index = w->same_as];
    const bool vector = w->role == WEIGHT_VECTOR;
    const int64_t extents[2] = {vector ? w->columns : w->rows, w->columns};
    view shape = {.n_dimensions = vector ? 1 : 2, .position_dimension = -1}, made;
    for (int i = 0; i < shape.n_dimensions; i++)
        shape.dimensions[i] = (dimension){.kind = DIMENSION_COLUMN, .extent = extents[i]};
    inset_status status = storage_for_shape(t, STORAGE_EXTERNAL, t->model_type, &shape, &made);
    if (status) return status;
    const int32_t fresh = made.storage;
    for (int32_t i = 0; i < fresh && made.storage == fresh; i++)
        if (t->storages[i].weight == index + 1) made.storage = i;
    if (made.storage != fresh) t->n_storages--; /* one storage a weight */
    t->storages[made.storage].weight = index + 1;
    *out = tensor_operand(&made);
    out->unchangeable = true;
    return INSET_OK;
}

/* ---- matrices ------------------------------------------------------------ */

static bool same_matrix(const trace *t, const view *a, const view *b)
{
    if (!storages_equal(t, a->storage, b->storage) || a->column != b->column
        || a->spans[0].start != b->spans[0].start)
        return false;
    for (int i = 0; i < 2; i++)
        if (a->dimensions[i].kind != b->dimensions[i].kind
            || a->dimensions[i].extent != b->dimensions[i].extent
            || a->dimensions[i].stride != b->dimensions[i].stride)
            return false;
    return true;
}

static inset_status find_matrix(trace *t, const view *v, int32_t *out)
{
    for (size_t i = 0; i < t->n_matrices; i++)
        if (same_matrix(t, t->matrices[i], v)) return *out = (int32_t)i, INSET_OK;
    if (!array_reserve(t->context, &t->matrices, &t->matrices_capacity, t->n_matrices + 1,
            sizeof *t->matrices))
        return INSET_NO_MEMORY;
    if (!(t->matrices[t->n_matrices] = view_keep(t, v))) return INSET_NO_MEMORY;
    *out = (int32_t)t->n_matrices++;
    return INSET_OK;
}

inset_status product_across(trace *t, int32_t matrix, int32_t *out)
{
    view v = {.n_dimensions = 0};
    memcpy(&v, t->matrices[matrix],
        offsetof(view, dimensions) + 2 * sizeof t->matrices[matrix]->dimensions[0]);
    view_move(&v, 0, 1);
    return find_matrix(t, &v, out);
}

/* Is it a matrix whose numbers are known before the run, so that rows are multiplied by it at
 * once? */
static bool is_given(const trace *t, const operand *b)
{
    const storage *s = &t->storages[b->view.storage];
    return b->view.n_dimensions == 2 && s->kind == STORAGE_EXTERNAL && !s->changed;
}

/* Heads of ragged positions do not lie in one row each. */
static bool has_plain_rows(const view *v)
{
    int columns = 0;
    for (int i = 0; i < v->n_dimensions; i++) columns += v->dimensions[i].kind == DIMENSION_COLUMN;
    return columns == 1 || !view_is_ragged(v);
}

static inset_status fits(trace *t, const operand *a, const operand *b, inset_type *type)
{
    const view *x = &a->view, *w = &b->view;
    const dimension *last = x->n_dimensions ? &x->dimensions[x->n_dimensions - 1] : NULL;
    const int first = w->n_dimensions > 1 ? w->n_dimensions - 2 : 0;
    if (!last || last->ragged || !w->n_dimensions || last->extent != w->dimensions[first].extent
        || view_is_ragged(w)) {
        char left[128], right[128];
        view_shape_text(x, left, sizeof left);
        view_shape_text(w, right, sizeof right);
        return error_set(t->context, INSET_SHAPE_ERROR,
            "'@' of shapes %s and %s: the last dimension at the left and the %s at the right must "
            "be "
            "one, and no prompts of different lengths",
            left, right, w->n_dimensions > 2 ? "one before the last" : "first");
    }
    const inset_type types[2] = {trace_operand_type(t, a), trace_operand_type(t, b)};
    *type = !a->literal ? types[0] : !b->literal ? types[1] : INSET_F32;
    const bool one = (a->literal || types[0] == *type) && (b->literal || types[1] == *type);
    if (one && type_is_float(*type) && *type != INSET_F64) return INSET_OK;
    inset_status status = error_set(t->context, INSET_TYPE_ERROR,
        "'@' of %s and %s: floats of one type were expected", type_torch_name(types[0]),
        type_torch_name(types[1]));
    error_help(t->context, "Convert one of them before, as in x.float().");
    return status;
}

/* A literal as a tensor of the type. */
static inset_status as_type(trace *t, const operand *a, inset_type type, operand *out)
{
    *out = *a;
    return trace_operand_type(t, a) == type ? INSET_OK : trace_convert(t, a, type, out);
}

/* A literal matrix stays a tensor from outside: its numbers in the type that it meets. */
static inset_status literal_matrix(trace *t, const operand *b, inset_type type, operand *out)
{
    const storage from = t->storages[b->view.storage];
    const int64_t n = from.lengths[0] * from.width;
    char *to = arena_new(&t->memory, (size_t)n * type_size(type));
    if (!to) return INSET_NO_MEMORY;
    for (int64_t i = 0; i < n; i++)
        element_put(type, to + (size_t)i * type_size(type),
            element_get(from.type, (const char *)from.data + (size_t)i * type_size(from.type)));
    if (!array_reserve(t->context, &t->storages, &t->storages_capacity, t->n_storages + 1,
            sizeof *t->storages))
        return INSET_NO_MEMORY;
    *out = *b;
    out->literal = false;
    out->view.storage = (int32_t)t->n_storages;
    t->storages[t->n_storages] = from;
    t->storages[t->n_storages].data = to;
    t->storages[t->n_storages++].type = type;
    return INSET_OK;
}

/* ---- products ------------------------------------------------------------ */

inset_status product_make(trace *t, const operand *rows, int32_t matrix, operand *out)
{
    view shape = rows->view, made;
    dimension *last = &shape.dimensions[shape.n_dimensions - 1];
    *last = (dimension){
        .kind = DIMENSION_COLUMN, .extent = t->matrices[matrix]->dimensions[1].extent};
    inset_status status = storage_for_shape(
        t, STORAGE_FREE, trace_operand_type(t, rows), &shape, &made);
    if (!status) status = trace_record_product(t, matrix, &made, rows);
    if (!status) *out = tensor_operand(&made);
    return status;
}

/* Sums over the last dimension of what two tensors broadcast to. */
static inset_status dot(trace *t, const operand *x, const operand *v, inset_type type, operand *out)
{
    const operand both[2] = {*x, *v};
    inset_type unused;
    row_making m = {
        .function = TRACE_ROW_DOT, .n_inner = 1, .type = type, .n = 2, .operands = both};
    if (trace_promoted(t, x, v, &unused, &m.shape)) {
        char left[128], right[128];
        view_shape_text(&x->view, left, sizeof left);
        view_shape_text(&v->view, right, sizeof right);
        return error_set(t->context, INSET_SHAPE_ERROR,
            "'@': rows of shape %s and columns of shape %s do not broadcast", left, right);
    }
    const int last = m.shape.n_dimensions - 1;
    m.shape.dimensions[last].kind = DIMENSION_COLUMN;
    if (m.shape.position_dimension == last) m.shape.position_dimension = -1;
    return row_function_make(t, &m, out);
}

/* Any two tensors: [.., n, 1, d] and [.., 1, k, d], a dot product an element. */
static inset_status of_values(
    trace *t, const operand *a, const operand *b, inset_type type, operand *out)
{
    operand x = *a, y = *b;
    const int n = y.view.n_dimensions;
    bool fits = true;
    if (n > 1) view_move(&y.view, n - 2, n - 1);
    if (n > 1 && x.view.n_dimensions > 1)
        fits = view_insert(&y.view, n - 2) && view_insert(&x.view, x.view.n_dimensions - 1);
    if (!fits)
        return error_set(
            t->context, INSET_SHAPE_ERROR, "'@' of tensors of %d dimensions", INSET_MAX_DIMENSIONS);
    return dot(t, &x, &y, type, out);
}

inset_status trace_product(trace *t, const operand *a, const operand *b, operand *out)
{
    inset_type type = INSET_F32;
    operand x, y;
    if (edit_takes(t, a, b))
        return edit_add(t, (edit_entry){.kind = EDIT_PRODUCT, .a = a, .b = b}, out);
    inset_status status = trace_need_line(t, "'@'");
    if (status) return status;
    if (a->kind != OPERAND_TENSOR || b->kind != OPERAND_TENSOR)
        return error_set(t->context, INSET_TYPE_ERROR, "'@' of a number; write '*'");
    if ((status = fits(t, a, b, &type)) || (status = as_type(t, a, type, &x))) return status;
    if (!is_given(t, b) || !has_plain_rows(&x.view)) {
        status = as_type(t, b, type, &y);
        return status ? status : of_values(t, &x, &y, type, out);
    }
    int32_t matrix;
    y = *b;
    if (b->literal && (status = literal_matrix(t, b, type, &y))) return status;
    if ((status = find_matrix(t, &y.view, &matrix))) return status;
    operand rows = x;
    if ((status = trace_settle_rows(t, "'@'", &x, &rows))) return status;
    return product_make(t, &rows, matrix, out);
}
