/* undo_attention.c: attention of a module applied to values, as lines would write it, and its
 * gradient. Of one sequence and head, with scores s = scale q k^T (capped, masked), p = softmax(s)
 * and z = p v:
 *
 *     dv = p^T dz,   dp = dz v^T,   ds = p (dp - sum(dp p)),   dq = scale ds k,   dk = scale ds^T q
 *
 * and ds times 1 - tanh^2 where scores are capped. */
#include <math.h>

#include "trace/gradient/undo_call.h"

/* ---- rope ---------------------------------------------------------------- */

/* Cosines and sines of positions 0 to n - 1, [n, half], as the kernel makes them. */
static inset_status make_angles(
    trace *t, const step *s, int64_t n, operand *cosines, operand *sines)
{
    const int64_t half = s->rotary_dims / 2, shape[2] = {n, half};
    const size_t count = (size_t)(n * half);
    float *c = arena_new(&t->memory, count * sizeof *c),
          *turned = arena_new(&t->memory, count * sizeof *turned);
    if (!c || !turned) return INSET_NO_MEMORY;
    for (int64_t i = 0; i < n * half; i++) {
        const float angle = (float)(i / half) * s->frequencies[i % half];
        c[i] = cosf(angle) * s->rope_attention_scale;
        turned[i] = sinf(angle) * s->rope_attention_scale;
    }
    operand x;
    inset_status status = trace_external(t, INSET_F32, 2, shape, c, &x);
    if (!status) status = trace_cast(t, &x, t->model_type, cosines);
    if (!status) status = trace_external(t, INSET_F32, 2, shape, turned, &x);
    return status ? status : trace_cast(t, &x, t->model_type, sines);
}

/* Columns of x that turn together: `half` of them from `first` on, `apart` from one to the next. */
static inset_status turning(
    trace *t, const operand *x, int64_t first, int64_t half, int64_t apart, operand *out)
{
    const index_item items[2] = {
        {.kind = INDEX_ELLIPSIS}, {.kind = INDEX_SLICE,
                                      .has_start = true,
                                      .has_stop = true,
                                      .has_step = true,
                                      .start = first,
                                      .stop = first + (half - 1) * apart + 1,
                                      .step = apart}};
    return trace_index(t, x, 2, items, out);
}

/* One head: low = low cos - high sin, high = high cos + low sin; the other way with -sin. */
static inset_status turn_head(trace *t, const step *s, const operand *x, operand *out,
    int64_t first, const operand *c, const operand *turned, bool inverse)
{
    const int64_t half = s->rotary_dims / 2, apart = s->rope_interleaved ? 2 : 1,
                  second = first + (s->rope_interleaved ? 1 : half);
    const trace_op minus = inverse ? TRACE_ADD : TRACE_SUBTRACT,
                   plus = inverse ? TRACE_SUBTRACT : TRACE_ADD;
    operand low, high, kept, moved, to;
    inset_status status = turning(t, x, first, half, apart, &low);
    if (!status) status = turning(t, x, second, half, apart, &high);
    if (!status) status = pass_binary(t, TRACE_MULTIPLY, &low, c, &kept);
    if (!status) status = pass_binary(t, TRACE_MULTIPLY, &high, turned, &moved);
    if (!status) status = pass_binary(t, minus, &kept, &moved, &kept);
    if (!status) status = turning(t, out, first, half, apart, &to);
    if (!status) status = trace_set(t, &to, 0, NULL, TRACE_COPY, &kept);
    if (!status) status = pass_binary(t, TRACE_MULTIPLY, &high, c, &kept);
    if (!status) status = pass_binary(t, TRACE_MULTIPLY, &low, turned, &moved);
    if (!status) status = pass_binary(t, plus, &kept, &moved, &kept);
    if (!status) status = turning(t, out, second, half, apart, &to);
    return status ? status : trace_set(t, &to, 0, NULL, TRACE_COPY, &kept);
}

inset_status pass_rope(passing *w, const step *s, const operand *x, bool inverse, operand *out)
{
    trace *t = w->t;
    const int64_t d = s->head_dim, width = x->view.dimensions[1].extent, half = s->rotary_dims / 2;
    operand c, turned, rest;
    inset_status status = make_angles(t, s, x->view.dimensions[0].extent, &c, &turned);
    if (!status) status = pass_zeros(t, x, width, out);
    for (int64_t first = 0; first < width && !status; first += d) {
        status = turn_head(t, s, x, out, first, &c, &turned, inverse);
        if (status || 2 * half == d) continue;
        status = pass_columns(t, x, first + 2 * half, d - 2 * half, &rest);
        if (!status) status = pass_set(t, out, first + 2 * half, d - 2 * half, TRACE_COPY, &rest);
    }
    return status;
}

/* ---- attention ----------------------------------------------------------- */

/* Who sees whom, [n, n]. */
static inset_status make_mask(trace *t, const step *s, int64_t n, operand *out)
{
    const int64_t shape[2] = {n, n};
    bool *seen = arena_new(&t->memory, (size_t)(n * n) * sizeof *seen);
    if (!seen) return INSET_NO_MEMORY;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < (s->both_ways ? n : i + 1); j++)
            seen[i * n + j] = s->window <= 0 || j > i - s->window;
    return trace_external(t, INSET_BOOL, 2, shape, seen, out);
}

/* One head's columns of q, and those of k and v that it shares. */
typedef struct head_rows {
    operand q, k, v, out;
    int64_t first, shared; /* of its columns; of the shared ones */
} head_rows;

static inset_status rows_of_head(trace *t, const step *s, const operand *in, int h, head_rows *out)
{
    const int64_t d = s->head_dim;
    out->first = h * d;
    out->shared = h / (s->n_heads / s->n_kv_heads) * d;
    inset_status status = pass_columns(t, &in[0], out->first, d, &out->q);
    if (!status) status = pass_columns(t, &in[1], out->shared, d, &out->k);
    return status ? status : pass_columns(t, &in[2], out->shared, d, &out->v);
}

/* a @ b^T */
static inset_status across_product(trace *t, const operand *a, const operand *b, operand *out)
{
    operand across;
    inset_status status = trace_transpose(t, b, 0, 1, &across);
    return status ? status : trace_product(t, a, &across, out);
}

/* a^T @ b */
static inset_status down_product(trace *t, const operand *a, const operand *b, operand *out)
{
    operand across;
    inset_status status = trace_transpose(t, a, 0, 1, &across);
    return status ? status : trace_product(t, &across, b, out);
}

/* Adds to scores [n, n] what each key's grows by (ALiBi). */
static inset_status add_slope(trace *t, const step *s, int head, operand *scores)
{
    const int64_t n = scores->view.dimensions[1].extent;
    const inset_type type = trace_operand_type(t, scores);
    char *grown = arena_new(&t->memory, (size_t)n * type_size(type));
    operand row;
    if (!grown) return INSET_NO_MEMORY;
    for (int64_t j = 0; j < n; j++)
        element_put(type, grown + (size_t)j * type_size(type), s->slopes[head] * (float)j);
    const inset_status status = trace_external(t, type, 1, &n, grown, &row);
    return status ? status : pass_binary(t, TRACE_ADD, scores, &row, scores);
}

/* What a head's sink leaves of a softmax: with s the scores, softmax(s) times
 * sum(e^s) / (sum(e^s) + e^sink), which is sigmoid(log(sum(e^s)) - sink). */
static inset_status leave_sink(
    trace *t, const step *s, int h, const operand *scores, operand *pattern)
{
    static const int64_t last = -1;
    const row_request logarithm = {.function = TRACE_ROW_LOG_SOFTMAX,
                          .n_dimensions = 1,
                          .dimensions = &last},
                      largest = {.function = TRACE_ROW_AMAX,
                          .n_dimensions = 1,
                          .dimensions = &last,
                          .keep = true};
    const index_item head = {.kind = INDEX_INTEGER, .integer = h};
    operand sinks, sink, logs, top, less;
    inset_status status = trace_weight(t, s->weight, &sinks);
    if (!status) status = trace_index(t, &sinks, 1, &head, &sink);
    if (!status) status = trace_row_function(t, scores, &logarithm, &logs);
    if (!status) status = trace_row_function(t, scores, &largest, &top);
    if (!status) status = trace_row_function(t, &logs, &largest, &less);
    if (!status) status = pass_binary(t, TRACE_SUBTRACT, &top, &less, &top);
    if (!status) status = pass_binary(t, TRACE_SUBTRACT, &top, &sink, &top);
    if (!status) status = trace_function(t, TRACE_SIGMOID, &top, NULL, &top);
    return status ? status : pass_binary(t, TRACE_MULTIPLY, pattern, &top, pattern);
}

/* The pattern of a head; kept[1]: tanh of the scores over the cap, where there is one. */
static inset_status make_pattern(
    trace *t, const step *s, int h, const head_rows *head, const operand *mask, operand *kept)
{
    static const int64_t last = -1;
    const row_request softmax = {
        .function = TRACE_ROW_SOFTMAX, .n_dimensions = 1, .dimensions = &last};
    const operand scale = number(s->scale), cap = number(s->softcap), none = number(-INFINITY);
    operand scores;
    inset_status status = across_product(t, &head->q, &head->k, &scores);
    if (!status) status = pass_binary(t, TRACE_MULTIPLY, &scores, &scale, &scores);
    if (!status && s->softcap > 0) {
        status = pass_binary(t, TRACE_DIVIDE, &scores, &cap, &scores);
        if (!status) status = trace_function(t, TRACE_TANH, &scores, NULL, &kept[1]);
        if (!status) status = pass_binary(t, TRACE_MULTIPLY, &kept[1], &cap, &scores);
    }
    if (!status && s->slopes) status = add_slope(t, s, h, &scores);
    const operand whole = scores;
    if (!status) status = trace_where(t, mask, &whole, &none, &scores);
    if (!status) status = trace_row_function(t, &scores, &softmax, &kept[0]);
    return status || s->weight < 0 ? status : leave_sink(t, s, h, &scores, &kept[0]);
}

inset_status pass_attention(passing *w, const step *s, const operand *in, operand *out)
{
    trace *t = w->t;
    operand *kept = w->kept[s->value] = arena_new(
        &t->memory, 2 * (size_t)s->n_heads * sizeof *kept);
    if (!kept) return INSET_NO_MEMORY;
    operand mask;
    head_rows head;
    inset_status status = make_mask(t, s, in[0].view.dimensions[0].extent, &mask);
    if (!status) status = pass_zeros(t, &in[0], (int64_t)s->n_heads * s->head_dim, out);
    for (int h = 0; h < s->n_heads && !status; h++) {
        status = rows_of_head(t, s, in, h, &head);
        if (!status) status = make_pattern(t, s, h, &head, &mask, &kept[2 * h]);
        if (!status) status = trace_product(t, &kept[2 * h], &head.v, &head.out);
        if (!status) status = pass_set(t, out, head.first, s->head_dim, TRACE_COPY, &head.out);
    }
    return status;
}

/* From the gradient of a pattern to that of q k^T. */
static inset_status back_pattern(trace *t, const step *s, const operand *kept, operand *g)
{
    static const int64_t last = -1;
    const row_request sum = {
        .function = TRACE_ROW_SUM, .n_dimensions = 1, .dimensions = &last, .keep = true};
    const operand scale = number(s->scale), one = number(1);
    operand product, total;
    inset_status status = pass_binary(t, TRACE_MULTIPLY, g, &kept[0], &product);
    if (!status) status = trace_row_function(t, &product, &sum, &total);
    if (!status) status = pass_binary(t, TRACE_SUBTRACT, g, &total, g);
    if (!status) status = pass_binary(t, TRACE_MULTIPLY, g, &kept[0], g);
    if (!status && s->softcap > 0) {
        status = pass_binary(t, TRACE_MULTIPLY, &kept[1], &kept[1], &product);
        if (!status) status = pass_binary(t, TRACE_SUBTRACT, &one, &product, &product);
        if (!status) status = pass_binary(t, TRACE_MULTIPLY, g, &product, g);
    }
    return status ? status : pass_binary(t, TRACE_MULTIPLY, g, &scale, g);
}

inset_status back_attention(
    passing *w, const step *s, const operand *in, const operand *gradient, operand *back)
{
    trace *t = w->t;
    const operand *kept = w->kept[s->value];
    inset_status status = INSET_OK;
    for (int k = 0; k < 3 && !status; k++)
        status = pass_zeros(t, &in[k], in[k].view.dimensions[1].extent, &back[k]);
    for (int h = 0; h < s->n_heads && !status; h++) {
        head_rows head;
        operand dz, g, part;
        const int64_t d = s->head_dim;
        status = rows_of_head(t, s, in, h, &head);
        if (!status) status = pass_columns(t, gradient, head.first, d, &dz);
        if (!status) status = down_product(t, &kept[2 * h], &dz, &part);
        if (!status) status = pass_set(t, &back[2], head.shared, d, TRACE_ADD, &part);
        if (!status) status = across_product(t, &dz, &head.v, &g);
        if (!status) status = back_pattern(t, s, &kept[2 * h], &g);
        if (!status) status = trace_product(t, &g, &head.k, &part);
        if (!status) status = pass_set(t, &back[0], head.first, d, TRACE_ADD, &part);
        if (!status) status = down_product(t, &g, &head.q, &part);
        if (!status) status = pass_set(t, &back[1], head.shared, d, TRACE_ADD, &part);
    }
    return status;
}
