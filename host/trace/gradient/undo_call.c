/* undo_call.c: gradients of modules applied to values (see undo.c). The module's steps are made once
 * more of what it was applied to, as lines would write them, and then gone through backwards, each
 * by its formula: y = x W gives dy W^T, y = x / s of a norm with s^2 = mean(x^2) + eps gives
 * (dy - y mean(dy y)) / s, with x and dy about their means in a layer norm. */
#include "trace/gradient/backward.h"

/* Values of the module's steps on the way: [program->n_values]. */
typedef struct passing {
    trace *t;
    int32_t input;
    operand *made, *back; /* of kind TENSOR where they are there */
    /* of a norm: its rows divided by s, and s */
    operand *divided, *divisor;
} passing;

static bool is_there(const operand *o) { return o->kind == OPERAND_TENSOR; }

/* The columns of a value that a slot shows. */
static inset_status shown(const passing *w, int32_t slot_index, const operand *whole, operand *out)
{
    const slot *s = &w->t->program->slots[slot_index];
    const int32_t end = slot_column_end(s);
    *out = *whole;
    if (!s->shape.column && end == w->t->program->values[s->value].width) return INSET_OK;
    const index_item items[2] = {{.kind = INDEX_ELLIPSIS}, {.kind = INDEX_SLICE,
                                                               .has_start = true,
                                                               .has_stop = true,
                                                               .start = s->shape.column,
                                                               .stop = end}};
    return trace_index(w->t, whole, 2, items, out);
}

static inset_status row_mean(trace *t, const operand *x, operand *out)
{
    static const int64_t last = -1;
    const row_request r = {
        .function = TRACE_ROW_MEAN, .n_dimensions = 1, .dimensions = &last, .keep = true};
    return trace_row_function(t, x, &r, out);
}

static inset_status binary(trace *t, trace_op op, const operand *a, const operand *b, operand *out)
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
    return status ? status : binary(t, TRACE_ADD, out, &bias, out);
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
    return binary(t, TRACE_ADD, out, &one, out);
}

static inset_status norm(passing *w, const step *s, const operand *x, operand *out)
{
    trace *t = w->t;
    operand y = *x, mean, weight, bias, *divisor = &w->divisor[s->value],
            *divided = &w->divided[s->value];
    const operand eps = number(s->eps);
    inset_status status = s->kind == STEP_LAYERNORM ? row_mean(t, x, &mean) : INSET_OK;
    if (!status && s->kind == STEP_LAYERNORM) status = binary(t, TRACE_SUBTRACT, x, &mean, &y);
    if (!status) status = binary(t, TRACE_MULTIPLY, &y, &y, divisor);
    if (!status) status = row_mean(t, divisor, &mean);
    if (!status) status = binary(t, TRACE_ADD, &mean, &eps, &mean);
    if (!status) status = trace_function(t, TRACE_SQRT, &mean, NULL, divisor);
    if (!status) status = binary(t, TRACE_DIVIDE, &y, divisor, divided);
    if (!status) status = norm_weight(t, s, &weight);
    if (!status) status = binary(t, TRACE_MULTIPLY, divided, &weight, out);
    if (status || s->kind != STEP_LAYERNORM || s->bias < 0) return status;
    status = trace_weight(t, s->bias, &bias);
    return status ? status : binary(t, TRACE_ADD, out, &bias, out);
}

static inset_status softcapped(trace *t, const step *s, const operand *x, operand *tanh_of)
{
    const operand cap = number(s->scale);
    operand ratio;
    inset_status status = binary(t, TRACE_DIVIDE, x, &cap, &ratio);
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
    case STEP_RMSNORM:
        return s->norm_groups > 1 ? gradient_not_yet(t, "a norm of each head, applied to a value,")
                                  : norm(w, s, &in[0], out);
    case STEP_ACTIVATION: return trace_function(t, function_of(s->activation), &in[0], NULL, out);
    case STEP_GATE: return binary(t, TRACE_MULTIPLY, &in[0], &in[1], out);
    case STEP_SCALE: return binary(t, TRACE_MULTIPLY, &in[0], &scale, out);
    case STEP_SOFTCAP:
        status = softcapped(t, s, &in[0], out);
        return status ? status : binary(t, TRACE_MULTIPLY, out, &scale, out);
    case STEP_ADD:
        *out = in[0];
        for (int k = 1; k < s->n_operands && !status; k++)
            status = binary(t, TRACE_ADD, out, &in[k], out);
        return status;
    default: return gradient_not_yet(t, "attention applied to a value");
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
        inset_status status = storage_for_shape(
            t, STORAGE_FILLED, trace_operand_type(t, gradient), &w->made[value_index].view, &zeros);
        if (status) return status;
        *back = tensor_operand(&zeros);
    }
    inset_status status = shown(w, slot_index, back, &part);
    return status ? status : trace_set(t, &part, 0, NULL, TRACE_ADD, gradient);
}

static inset_status back_norm(passing *w, const step *s, const operand *g, operand *out)
{
    trace *t = w->t;
    const operand *y = &w->divided[s->value];
    operand weight, dy, product, mean, part;
    inset_status status = norm_weight(t, s, &weight);
    if (!status) status = binary(t, TRACE_MULTIPLY, g, &weight, &dy);
    if (!status) status = binary(t, TRACE_MULTIPLY, &dy, y, &product);
    if (!status) status = row_mean(t, &product, &mean);
    if (!status) status = binary(t, TRACE_MULTIPLY, y, &mean, &part);
    if (!status && s->kind == STEP_LAYERNORM) {
        status = row_mean(t, &dy, &mean);
        if (!status) status = binary(t, TRACE_ADD, &part, &mean, &part);
    }
    if (!status) status = binary(t, TRACE_SUBTRACT, &dy, &part, &part);
    return status ? status : binary(t, TRACE_DIVIDE, &part, &w->divisor[s->value], out);
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
        return status ? status : binary(t, TRACE_MULTIPLY, g, &other, out);
    case STEP_GATE: return binary(t, TRACE_MULTIPLY, g, &x, out);
    case STEP_SCALE: return binary(t, TRACE_MULTIPLY, g, &scale, out);
    case STEP_SOFTCAP:
        status = softcapped(t, s, &x, &other);
        if (!status) status = binary(t, TRACE_MULTIPLY, &other, &other, &other);
        if (!status) status = binary(t, TRACE_SUBTRACT, &one, &other, &other);
        return status ? status : binary(t, TRACE_MULTIPLY, g, &other, out);
    case STEP_LAYERNORM:
    case STEP_RMSNORM: return back_norm(w, s, g, out);
    default: return INSET_OK; /* of a sum each part has it whole */
    }
}

static inset_status go_back(passing *w, const module_call *call, const operand *gradient)
{
    const program *g = w->t->program;
    operand unused;
    inset_status status = forward(w, call->out, &unused);
    if (!status) status = add_back(w, call->out, gradient);
    for (int32_t v = g->slots[call->out].value; v > w->input && !status; v--) {
        const step *s = &g->steps[g->values[v].step];
        const operand here = w->back[v];
        for (int k = 0; is_there(&here) && k < s->n_operands && !status; k++) {
            operand part;
            status = back_step(w, s, k, &here, &part);
            if (!status) status = add_back(w, s->operands[k], &part);
        }
    }
    return status;
}

inset_status undo_call(trace *t, const trace_record *r, int32_t index, const operand *gradient)
{
    module_call call;
    if (!program_callable(t->program, r->module, &call)) return INSET_USAGE_ERROR;
    const slot *in = &t->program->slots[call.in];
    if (call.attends) return gradient_not_yet(t, "attention applied to a value");
    if (in->shape.column || slot_column_end(in) != t->program->values[in->value].width)
        return gradient_not_yet(t, "a module of a part of a value, applied to another,");
    const size_t n = t->program->n_values;
    passing w = {.t = t, .input = in->value};
    w.made = arena_new(&t->memory, n * sizeof *w.made);
    w.back = arena_new(&t->memory, n * sizeof *w.back);
    w.divided = arena_new(&t->memory, n * sizeof *w.divided);
    w.divisor = arena_new(&t->memory, n * sizeof *w.divisor);
    if (!w.made || !w.back || !w.divided || !w.divisor) return INSET_NO_MEMORY;
    w.made[in->value] = *undo_factor(t->backward, index, 0);
    inset_status status = go_back(&w, &call, gradient);
    return status || !is_there(&w.back[in->value]) ? status
                                                   : undo_send(t, r->a.view, &w.back[in->value]);
}
