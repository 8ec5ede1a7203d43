/* undo_rows.c: gradients of functions of whole rows and of products (see undo.c). What a function
 * was of is kept as factors; its result, where the gradient needs it, is made of these once more,
 * which is the same rows. */
#include "trace/gradient/backward.h"

/* The record at hand, and what came back to what it made: g [kept..], or of functions that keep
 * the last dimension [kept.., made]. */
typedef struct undoing {
    trace *t;
    const row_operation *rows;
    int32_t index;
    inset_type type; /* of operands and gradients */
    operand g;
} undoing;

static const operand *read(const undoing *u, int32_t k)
{
    return undo_factor(u->t->backward, u->index, k);
}

/* The same function, or another, of tensors like the record's operands. */
static inset_status again(
    const undoing *u, trace_row_op function, int32_t n, const operand *of, operand *out)
{
    row_making m = {.function = function,
        .shape = of[0].view,
        .n_inner = u->rows->n_inner,
        .k = u->rows->k,
        .type = u->type,
        .n = n,
        .operands = of};
    for (int i = 0; i < m.n_inner; i++) {
        const int d = m.shape.n_dimensions - 1 - i;
        m.shape.dimensions[d].kind = DIMENSION_COLUMN;
        if (m.shape.position_dimension == d) m.shape.position_dimension = -1;
    }
    return row_function_make(u->t, &m, out);
}

static inset_status send_to(const undoing *u, int32_t k, const operand *gradient)
{
    return undo_send(u->t, u->rows->operands[k], gradient);
}

/* f as it was made. */
static inset_status made_again(const undoing *u, operand *out)
{
    operand *of = arena_new(&u->t->memory, (size_t)u->rows->n * sizeof *of);
    if (!of) return INSET_NO_MEMORY;
    for (int32_t k = 0; k < u->rows->n; k++) of[k] = *read(u, k);
    return again(u, u->rows->function, u->rows->n, of, out);
}

/* Of sum and mean: g, or its part, to each element. */
static inset_status undo_sum(const undoing *u)
{
    operand part = u->g;
    const double n = (double)u->rows->n * u->rows->inner;
    const operand count = {.kind = OPERAND_FLOAT, .number = n};
    inset_status status = u->rows->function == TRACE_ROW_SUM
                              ? INSET_OK
                              : trace_binary(u->t, TRACE_DIVIDE, &u->g, &count, &part);
    const operand sent = row_function_behind(&part, u->rows->n_inner);
    for (int32_t k = 0; k < u->rows->n && !status; k++) status = send_to(u, k, &sent);
    return status;
}

/* Of a norm: g x / norm, zero where the norm is. */
static inset_status undo_norm(const undoing *u)
{
    trace *t = u->t;
    const operand zero = number(0);
    operand norm, is_zero, ratio, part, sent;
    inset_status status = made_again(u, &norm);
    if (!status) status = trace_binary(t, TRACE_EQUAL, &norm, &zero, &is_zero);
    if (!status) status = trace_binary(t, TRACE_DIVIDE, &u->g, &norm, &ratio);
    if (!status) status = trace_where(t, &is_zero, &zero, &ratio, &part);
    const operand factor = row_function_behind(&part, u->rows->n_inner);
    for (int32_t k = 0; k < u->rows->n && !status; k++) {
        status = trace_binary(t, TRACE_MULTIPLY, &factor, read(u, k), &sent);
        if (!status) status = send_to(u, k, &sent);
    }
    return status;
}

/* Of the largest or smallest: g to the places that have it, in equal parts. */
static inset_status undo_extreme(const undoing *u)
{
    trace *t = u->t;
    const int32_t n = u->rows->n;
    operand *places = arena_new(&t->memory, (size_t)n * sizeof *places), found, count, part, sent;
    if (!places) return INSET_NO_MEMORY;
    inset_status status = made_again(u, &found);
    found = row_function_behind(&found, u->rows->n_inner);
    for (int32_t k = 0; k < n && !status; k++) {
        operand equal;
        status = trace_binary(t, TRACE_EQUAL, read(u, k), &found, &equal);
        if (!status) status = trace_convert(t, &equal, u->type, &places[k]);
    }
    if (!status) status = again(u, TRACE_ROW_SUM, n, places, &count);
    if (!status) status = trace_binary(t, TRACE_DIVIDE, &u->g, &count, &part);
    const operand factor = row_function_behind(&part, u->rows->n_inner);
    for (int32_t k = 0; k < n && !status; k++) {
        status = trace_binary(t, TRACE_MULTIPLY, &factor, &places[k], &sent);
        if (!status) status = send_to(u, k, &sent);
    }
    return status;
}

static inset_status undo_dot(const undoing *u)
{
    const operand g = row_function_behind(&u->g, u->rows->n_inner);
    inset_status status = INSET_OK;
    for (int32_t k = 0; k < u->rows->n && !status; k++) {
        operand sent;
        status = trace_binary(u->t, TRACE_MULTIPLY, &g, read(u, k ^ 1), &sent);
        if (!status) status = send_to(u, k, &sent);
    }
    return status;
}

/* Of p = softmax(x): p (g - sum of g p); of its logarithm: g - p sum of g. */
static inset_status undo_softmax(const undoing *u)
{
    trace *t = u->t;
    const bool logarithmic = u->rows->function == TRACE_ROW_LOG_SOFTMAX;
    operand both[2] = {u->g}, sum, p, part, sent;
    inset_status status = again(u, TRACE_ROW_SOFTMAX, 1, read(u, 0), &p);
    both[1] = p;
    if (!status)
        status = again(
            u, logarithmic ? TRACE_ROW_SUM : TRACE_ROW_DOT, logarithmic ? 1 : 2, both, &sum);
    sum = row_function_behind(&sum, 1);
    if (!status && logarithmic) {
        status = trace_binary(t, TRACE_MULTIPLY, &p, &sum, &part);
        if (!status) status = trace_binary(t, TRACE_SUBTRACT, &u->g, &part, &sent);
    } else if (!status) {
        status = trace_binary(t, TRACE_SUBTRACT, &u->g, &sum, &part);
        if (!status) status = trace_binary(t, TRACE_MULTIPLY, &p, &part, &sent);
    }
    return status ? status : send_to(u, 0, &sent);
}

static inset_status undo_topk(const undoing *u)
{
    const operand both[2] = {*read(u, 0), u->g};
    operand sent;
    inset_status status = again(u, TRACE_ROW_TOPK_BACK, 2, both, &sent);
    return status ? status : send_to(u, 0, &sent);
}

static inset_status undo_where(const undoing *u)
{
    const operand zero = number(0);
    operand a, b;
    inset_status status = trace_where(u->t, read(u, 0), &u->g, &zero, &a);
    if (!status) status = send_to(u, 1, &a);
    if (!status) status = trace_where(u->t, read(u, 0), &zero, &u->g, &b);
    return status ? status : send_to(u, 2, &b);
}

inset_status undo_rows(trace *t, const trace_record *r, int32_t index, const operand *gradient)
{
    const undoing u = {.t = t,
        .rows = r->rows,
        .index = index,
        .type = t->storages[r->target->storage].type,
        .g = *gradient};
    switch (r->rows->function) {
    case TRACE_ROW_SUM:
    case TRACE_ROW_MEAN: return undo_sum(&u);
    case TRACE_ROW_AMAX:
    case TRACE_ROW_AMIN: return undo_extreme(&u);
    case TRACE_ROW_NORM: return undo_norm(&u);
    case TRACE_ROW_DOT: return undo_dot(&u);
    case TRACE_ROW_SOFTMAX:
    case TRACE_ROW_LOG_SOFTMAX: return undo_softmax(&u);
    case TRACE_ROW_TOPK: return undo_topk(&u);
    case TRACE_ROW_WHERE: return undo_where(&u);
    default: return INSET_OK; /* places are integers */
    }
}

/* Of x W: g W transposed. */
inset_status undo_product(trace *t, const trace_record *r, const operand *gradient)
{
    int32_t across;
    operand rows, sent;
    inset_status status = product_across(t, r->matrix, &across);
    if (!status) status = trace_settle_rows(t, "a gradient", gradient, &rows);
    if (!status) status = product_make(t, &rows, across, &sent);
    return status ? status : undo_send(t, r->a.view, &sent);
}
