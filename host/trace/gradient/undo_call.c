/* undo_call.c: gradients of modules applied to values (see undo.c). The module's steps are made
 * once more of what it was applied to, as lines would write them, and then gone through backwards,
 * each by its formula: y = x W gives dy W^T, y = x / s of a norm with s^2 = mean(x^2) + eps gives
 * (dy - y mean(dy y)) / s, with x and dy about their means in a layer norm. Sequences that attend
 * go through one by one. */
#include "trace/gradient/undo_call.h"

static bool is_there(const operand *o) { return o->kind == OPERAND_TENSOR; }

/* Do heads lie apart in the value, as where q, k and v of each stand side by side (NeoX)? */
static bool lies_apart(const slot_shape *shape)
{
    return shape->n_columns == 2 && shape->stride && shape->stride != shape->extent[1];
}

/* The columns of a value that a slot shows: a view, or a copy where heads lie apart. */
static inset_status shown(const passing *w, int32_t slot_index, const operand *whole, operand *out)
{
    const slot *s = &w->t->program->slots[slot_index];
    const slot_shape *shape = &s->shape;
    const int32_t end = slot_column_end(s), width = shape->extent[1];
    *out = *whole;
    if (!lies_apart(shape)) {
        if (!shape->column && end == w->t->program->values[s->value].width) return INSET_OK;
        return pass_columns(w->t, whole, shape->column, end - shape->column, out);
    }
    inset_status status = pass_zeros(w->t, whole, (int64_t)shape->extent[0] * width, out);
    for (int32_t h = 0; h < shape->extent[0] && !status; h++) {
        operand head;
        status = pass_columns(w->t, whole, shape->column + h * shape->stride, width, &head);
        if (!status) status = pass_set(w->t, out, h * width, width, TRACE_COPY, &head);
    }
    return status;
}

inset_status pass_columns(trace *t, const operand *x, int64_t first, int64_t count, operand *out)
{
    const index_item items[2] = {{.kind = INDEX_ELLIPSIS}, {.kind = INDEX_SLICE,
                                                               .has_start = true,
                                                               .has_stop = true,
                                                               .start = first,
                                                               .stop = first + count}};
    return trace_index(t, x, 2, items, out);
}

inset_status pass_zeros(trace *t, const operand *like, int64_t columns, operand *out)
{
    view shape = like->view, made;
    shape.dimensions[shape.n_dimensions - 1].extent = columns;
    inset_status status = storage_for_shape(
        t, STORAGE_FILLED, trace_operand_type(t, like), &shape, &made);
    if (!status) *out = tensor_operand(&made);
    return status;
}

inset_status pass_set(
    trace *t, const operand *to, int64_t first, int64_t count, trace_op op, const operand *value)
{
    operand part;
    inset_status status = pass_columns(t, to, first, count, &part);
    return status ? status : trace_set(t, &part, 0, NULL, op, value);
}

static inset_status row_mean(trace *t, const operand *x, operand *out)
{
    static const int64_t last = -1;
    const row_request r = {
        .function = TRACE_ROW_MEAN, .n_dimensions = 1, .dimensions = &last, .keep = true};
    return trace_row_function(t, x, &r, out);
}

inset_status pass_binary(trace *t, trace_op op, const operand *a, const operand *b, operand *out)
{
    const operand x = *a, y = *b; /* *out may be one of them */
    return trace_binary(t, op, &x, &y, out);
}

/* ---- forwards ------------------------------------------------------------ */

static inset_status matrix_of(trace *t, const step *s, bool back, operand *out)
{
    inset_status status = trace_weight(t, s->weight, out);
    const operand lies = *out;
    return status || (t->program->weights[s->weight].in_out != 0) != back
               ? status
               : trace_transpose(t, &lies, 0, 1, out);
}

static inset_status linear(trace *t, const step *s, const operand *x, operand *out)
{
    operand w, bias;
    inset_status status = matrix_of(t, s, false, &w);
    if (!status) status = trace_product(t, x, &w, out);
    if (status || s->bias < 0) return status;
    status = trace_weight(t, s->bias, &bias);
    return status ? status : pass_binary(t, TRACE_ADD, out, &bias, out);
}

static trace_op function_of(activation a)
{
    static const trace_op ops[] = {
        TRACE_GELU, TRACE_GELU_TANH, TRACE_RELU, TRACE_SILU, TRACE_TANH, TRACE_SIGMOID};
    return ops[a];
}

/* What a norm multiplies its rows by; *out a number where it is 1. */
static inset_status norm_weight(trace *t, const step *s, operand *out)
{
    const operand one = number(1);
    *out = one;
    if (s->weight < 0) return INSET_OK;
    inset_status status = trace_weight(t, s->weight, out);
    if (status || s->kind != STEP_RMSNORM || s->rms_weight != RMS_WEIGHT_PLUS_ONE) return status;
    return pass_binary(t, TRACE_ADD, out, &one, out);
}

/* The columns of a norm's group: [1, groups] equal parts of a row, each with all of the weight. */
static inset_status group_of(trace *t, const step *s, int group, const operand *x, operand *out)
{
    const int64_t width = x->view.dimensions[x->view.n_dimensions - 1].extent / s->norm_groups;
    *out = *x;
    return s->norm_groups > 1 ? pass_columns(t, x, group * width, width, out) : INSET_OK;
}

/* kept: the rows divided by s, and s. */
static inset_status norm_rows(
    trace *t, const step *s, const operand *x, operand *kept, operand *out)
{
    operand y = *x, mean, weight, bias;
    const operand eps = number(s->eps);
    inset_status status = s->kind == STEP_LAYERNORM ? row_mean(t, x, &mean) : INSET_OK;
    if (!status && s->kind == STEP_LAYERNORM) status = pass_binary(t, TRACE_SUBTRACT, x, &mean, &y);
    if (!status) status = pass_binary(t, TRACE_MULTIPLY, &y, &y, &kept[1]);
    if (!status) status = row_mean(t, &kept[1], &mean);
    if (!status) status = pass_binary(t, TRACE_ADD, &mean, &eps, &mean);
    if (!status) status = trace_function(t, TRACE_SQRT, &mean, NULL, &kept[1]);
    if (!status) status = pass_binary(t, TRACE_DIVIDE, &y, &kept[1], &kept[0]);
    if (!status) status = norm_weight(t, s, &weight);
    if (!status) status = pass_binary(t, TRACE_MULTIPLY, &kept[0], &weight, out);
    if (status || s->kind != STEP_LAYERNORM || s->bias < 0) return status;
    status = trace_weight(t, s->bias, &bias);
    return status ? status : pass_binary(t, TRACE_ADD, out, &bias, out);
}

static inset_status norm(passing *w, const step *s, const operand *x, operand *out)
{
    trace *t = w->t;
    const int groups = s->norm_groups > 1 ? s->norm_groups : 1;
    const int64_t columns = x->view.dimensions[x->view.n_dimensions - 1].extent;
    operand *kept = w->kept[s->value] = arena_new(&t->memory, 2 * (size_t)groups * sizeof *kept);
    if (!kept) return INSET_NO_MEMORY;
    if (groups == 1) return norm_rows(t, s, x, kept, out);
    inset_status status = pass_zeros(t, x, columns, out);
    for (int i = 0; i < groups && !status; i++) {
        operand part, made;
        status = group_of(t, s, i, x, &part);
        if (!status) status = norm_rows(t, s, &part, &kept[2 * i], &made);
        if (!status)
            status = pass_set(t, out, i * (columns / groups), columns / groups, TRACE_COPY, &made);
    }
    return status;
}

static inset_status softcapped(trace *t, const step *s, const operand *x, operand *tanh_of)
{
    const operand cap = number(s->scale);
    operand ratio;
    inset_status status = pass_binary(t, TRACE_DIVIDE, x, &cap, &ratio);
    return status ? status : trace_function(t, TRACE_TANH, &ratio, NULL, tanh_of);
}

static inset_status forward(passing *w, int32_t slot_index, operand *out);

static inset_status make(passing *w, const step *s, operand *out)
{
    trace *t = w->t;
    operand in[3];
    const operand scale = number(s->scale);
    inset_status status = INSET_OK;
    for (int k = 0; k < s->n_operands && !status; k++) status = forward(w, s->operands[k], &in[k]);
    if (status) return status;
    switch (s->kind) {
    case STEP_LINEAR: return linear(t, s, &in[0], out);
    case STEP_LAYERNORM:
    case STEP_RMSNORM: return norm(w, s, &in[0], out);
    case STEP_ROPE: return pass_rope(w, s, &in[0], false, out);
    case STEP_ATTENTION: return pass_attention(w, s, in, out);
    case STEP_ACTIVATION: return trace_function(t, function_of(s->activation), &in[0], NULL, out);
    case STEP_GATE: return pass_binary(t, TRACE_MULTIPLY, &in[0], &in[1], out);
    case STEP_SCALE: return pass_binary(t, TRACE_MULTIPLY, &in[0], &scale, out);
    case STEP_SOFTCAP:
        status = softcapped(t, s, &in[0], out);
        return status ? status : pass_binary(t, TRACE_MULTIPLY, out, &scale, out);
    case STEP_ADD:
        *out = in[0];
        for (int k = 1; k < s->n_operands && !status; k++)
            status = pass_binary(t, TRACE_ADD, out, &in[k], out);
        return status;
    default: return gradient_not_yet(t, "a mixture of experts applied to a value");
    }
}

static inset_status forward(passing *w, int32_t slot_index, operand *out)
{
    const program *g = w->t->program;
    const int32_t value_index = g->slots[slot_index].value;
    operand *made = &w->made[value_index];
    if (!is_there(made)) {
        operand fresh;
        inset_status status = make(w, &g->steps[g->values[value_index].step], &fresh);
        if (status) return status;
        *made = fresh;
    }
    return shown(w, slot_index, made, out);
}

/* ---- backwards ----------------------------------------------------------- */

/* Adds to the gradient of what a slot shows. */
static inset_status add_back(passing *w, int32_t slot_index, const operand *gradient)
{
    trace *t = w->t;
    const int32_t value_index = t->program->slots[slot_index].value;
    operand *back = &w->back[value_index], part;
    if (!is_there(back)) {
        view zeros;
        inset_status made = storage_for_shape(
            t, STORAGE_FILLED, trace_operand_type(t, gradient), &w->made[value_index].view, &zeros);
        if (made) return made;
        *back = tensor_operand(&zeros);
    }
    const slot_shape *shape = &t->program->slots[slot_index].shape;
    inset_status status = INSET_OK;
    if (!lies_apart(shape)) {
        status = shown(w, slot_index, back, &part);
        return status ? status : trace_set(t, &part, 0, NULL, TRACE_ADD, gradient);
    }
    for (int32_t h = 0, width = shape->extent[1]; h < shape->extent[0] && !status; h++) {
        status = pass_columns(t, gradient, h * width, width, &part);
        if (!status)
            status = pass_set(t, back, shape->column + h * shape->stride, width, TRACE_ADD, &part);
    }
    return status;
}

static inset_status back_norm_rows(
    trace *t, const step *s, const operand *kept, const operand *g, operand *out)
{
    const operand *y = &kept[0];
    operand weight, dy, product, mean, part;
    inset_status status = norm_weight(t, s, &weight);
    if (!status) status = pass_binary(t, TRACE_MULTIPLY, g, &weight, &dy);
    if (!status) status = pass_binary(t, TRACE_MULTIPLY, &dy, y, &product);
    if (!status) status = row_mean(t, &product, &mean);
    if (!status) status = pass_binary(t, TRACE_MULTIPLY, y, &mean, &part);
    if (!status && s->kind == STEP_LAYERNORM) {
        status = row_mean(t, &dy, &mean);
        if (!status) status = pass_binary(t, TRACE_ADD, &part, &mean, &part);
    }
    if (!status) status = pass_binary(t, TRACE_SUBTRACT, &dy, &part, &part);
    return status ? status : pass_binary(t, TRACE_DIVIDE, &part, &kept[1], out);
}

static inset_status back_norm(passing *w, const step *s, const operand *g, operand *out)
{
    trace *t = w->t;
    const operand *kept = w->kept[s->value];
    const int groups = s->norm_groups > 1 ? s->norm_groups : 1;
    const int64_t columns = g->view.dimensions[g->view.n_dimensions - 1].extent;
    if (groups == 1) return back_norm_rows(t, s, kept, g, out);
    inset_status status = pass_zeros(t, g, columns, out);
    for (int i = 0; i < groups && !status; i++) {
        operand part, made;
        status = group_of(t, s, i, g, &part);
        if (!status) status = back_norm_rows(t, s, &kept[2 * i], &part, &made);
        if (!status)
            status = pass_set(t, out, i * (columns / groups), columns / groups, TRACE_COPY, &made);
    }
    return status;
}

/* The gradient of operand k, of a step whose result has gradient g. */
static inset_status back_step(passing *w, const step *s, int k, const operand *g, operand *out)
{
    trace *t = w->t;
    const operand scale = number(s->scale), one = number(1);
    operand x, other;
    inset_status status = forward(w, s->operands[s->kind == STEP_GATE ? 1 - k : k], &x);
    if (status) return status;
    *out = *g;
    switch (s->kind) {
    case STEP_LINEAR:
        status = matrix_of(t, s, true, &other);
        return status ? status : trace_product(t, g, &other, out);
    case STEP_ACTIVATION:
        status = trace_function(
            t, (trace_op)(function_of(s->activation) + TRACE_SLOPE), &x, NULL, &other);
        return status ? status : pass_binary(t, TRACE_MULTIPLY, g, &other, out);
    case STEP_GATE: return pass_binary(t, TRACE_MULTIPLY, g, &x, out);
    case STEP_SCALE: return pass_binary(t, TRACE_MULTIPLY, g, &scale, out);
    case STEP_SOFTCAP:
        status = softcapped(t, s, &x, &other);
        if (!status) status = pass_binary(t, TRACE_MULTIPLY, &other, &other, &other);
        if (!status) status = pass_binary(t, TRACE_SUBTRACT, &one, &other, &other);
        return status ? status : pass_binary(t, TRACE_MULTIPLY, g, &other, out);
    case STEP_LAYERNORM:
    case STEP_RMSNORM: return back_norm(w, s, g, out);
    case STEP_ROPE: return pass_rope(w, s, g, true, out);
    default: return INSET_OK; /* of a sum each part has it whole */
    }
}

/* Attention's three operands get their gradients together. */
static inset_status back_attended(passing *w, const step *s, const operand *gradient)
{
    operand in[3], back[3];
    inset_status status = INSET_OK;
    for (int k = 0; k < 3 && !status; k++) status = forward(w, s->operands[k], &in[k]);
    if (!status) status = back_attention(w, s, in, gradient, back);
    for (int k = 0; k < 3 && !status; k++) status = add_back(w, s->operands[k], &back[k]);
    return status;
}

static inset_status back_any(passing *w, const step *s, const operand *gradient)
{
    inset_status status = INSET_OK;
    if (s->kind == STEP_ATTENTION) return back_attended(w, s, gradient);
    for (int k = 0; k < s->n_operands && !status; k++) {
        operand part;
        status = back_step(w, s, k, gradient, &part);
        if (!status) status = add_back(w, s->operands[k], &part);
    }
    return status;
}

/* x as the value that the module reads, of which it may read a part (the gate of a fused gate and
 * up): nobody looks at the other columns. */
static inset_status take_input(passing *w, int32_t slot_index, const operand *x)
{
    const slot *in = &w->t->program->slots[slot_index];
    const int32_t width = w->t->program->values[in->value].width;
    operand *whole = &w->made[w->input];
    *whole = *x;
    if (slot_columns(in) == width) return INSET_OK;
    inset_status status = pass_zeros(w->t, x, width, whole);
    return status ? status
                  : pass_set(w->t, whole, in->shape.column, slot_columns(in), TRACE_COPY, x);
}

/* From the gradient of what the module made of x to that of x; *out stays no tensor where nothing
 * comes back. */
static inset_status go_back(
    trace *t, const module_call *call, const operand *x, const operand *gradient, operand *out)
{
    const program *g = t->program;
    const size_t n = g->n_values;
    passing w = {.t = t, .input = g->slots[call->in].value};
    operand unused;
    w.made = arena_new(&t->memory, n * sizeof *w.made);
    w.back = arena_new(&t->memory, n * sizeof *w.back);
    w.kept = arena_new(&t->memory, n * sizeof *w.kept);
    if (!w.made || !w.back || !w.kept) return INSET_NO_MEMORY;
    inset_status status = take_input(&w, call->in, x);
    if (!status) status = forward(&w, call->out, &unused);
    if (!status) status = add_back(&w, call->out, gradient);
    for (int32_t v = g->slots[call->out].value; v > w.input && !status; v--) {
        const operand here = w.back[v];
        if (is_there(&here)) status = back_any(&w, &g->steps[g->values[v].step], &here);
    }
    *out = w.back[w.input];
    return status || !is_there(out) ? status : shown(&w, call->in, &w.back[w.input], out);
}

/* Sequences that attend, one by one; *out has the shape of x. */
static inset_status go_back_by_sequence(
    trace *t, const module_call *call, const operand *x, const operand *gradient, operand *out)
{
    inset_status status = pass_zeros(t, x, x->view.dimensions[2].extent, out);
    for (int64_t i = 0; i < x->view.dimensions[0].extent && !status; i++) {
        const index_item item = {.kind = INDEX_INTEGER, .integer = i};
        operand one, g, back;
        status = trace_index(t, x, 1, &item, &one);
        if (!status) status = trace_index(t, gradient, 1, &item, &g);
        if (!status) status = go_back(t, call, &one, &g, &back);
        if (!status && is_there(&back)) status = trace_set(t, out, 1, &item, TRACE_COPY, &back);
    }
    return status;
}

inset_status undo_call(trace *t, const trace_record *r, int32_t index, const operand *gradient)
{
    module_call call;
    operand back;
    if (!program_callable(t->program, r->module, &call)) return INSET_USAGE_ERROR;
    const operand *x = undo_factor(t->backward, index, 0);
    inset_status status = (call.attends ? go_back_by_sequence : go_back)(
        t, &call, x, gradient, &back);
    return status || !is_there(&back) ? status : undo_send(t, r->a.view, &back);
}
