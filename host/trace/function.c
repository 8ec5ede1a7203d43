/* function.c: functions of each element, exp(x) and its like, and casts. They are records as sums
 * are (expression.c), with PyTorch's types. */
#include "trace/edit.h"

static const char *const names[] = {"exp", "log", "sqrt", "abs", "relu", "sigmoid", "tanh", "gelu",
    "gelu_tanh", "silu", "clamp", "clamp"};

const char *trace_function_name(trace_op op) { return names[(op & ~TRACE_SLOPE) - TRACE_EXP]; }

/* Has it integer values for integers? */
static bool keeps_integers(int op)
{
    op &= ~TRACE_SLOPE;
    return op == TRACE_ABS || op == TRACE_RELU || op == TRACE_AT_LEAST || op == TRACE_AT_MOST;
}

/* The operand in the type that the function computes in. */
static inset_status settle(trace *t, trace_op op, const operand *a, operand *out)
{
    const inset_type type = trace_operand_type(t, a);
    *out = *a;
    if (a->literal) return type == INSET_F32 ? INSET_OK : trace_convert(t, a, INSET_F32, out);
    if (type_is_float(type)) return INSET_OK;
    if (!keeps_integers(op)) return trace_convert(t, a, INSET_F32, out);
    return type != INSET_BOOL ? INSET_OK
                              : error_set(t->context, INSET_TYPE_ERROR,
                                  "%s() of a tensor of torch.bool", trace_function_name(op));
}

inset_status trace_function(
    trace *t, trace_op op, const operand *a, const operand *bound, operand *out)
{
    const char *name = trace_function_name(op);
    operand x;
    view made;
    const bool edits = edit_takes(t, a, bound);
    inset_status status = edits ? INSET_OK : trace_need_line(t, name);
    if (status) return status;
    if (a->kind != OPERAND_TENSOR)
        return error_set(t->context, INSET_TYPE_ERROR, "%s() of a number", name);
    if (bound && bound->kind == OPERAND_TENSOR)
        return error_set(t->context, INSET_TYPE_ERROR,
            "the bounds of clamp() are numbers, this one is a tensor");
    if (edits)
        return edit_add(t, (edit_entry){.kind = EDIT_FUNCTION, .op = op, .a = a, .b = bound}, out);
    if ((status = settle(t, op, a, &x))) return status;
    inset_type type = trace_operand_type(t, &x);
    if (bound && bound->kind == OPERAND_FLOAT && !type_is_float(type)) { /* as PyTorch promotes */
        const operand integers = x;
        if ((status = trace_convert(t, &integers, type = INSET_F32, &x))) return status;
    }
    status = storage_for_shape(t, STORAGE_FREE, type, &x.view, &made);
    if (!status) status = trace_record_make(t, op, &made, &x, bound);
    if (!status) *out = tensor_operand(&made);
    return status;
}

inset_status trace_cast(trace *t, const operand *a, inset_type type, operand *out)
{
    const bool edits = edit_takes(t, a, NULL);
    inset_status status = edits ? INSET_OK : trace_need_line(t, "a cast");
    if (status) return status;
    if (a->kind != OPERAND_TENSOR)
        return error_set(t->context, INSET_TYPE_ERROR, "a cast of a number");
    if (edits) return edit_add(t, (edit_entry){.kind = EDIT_CAST, .type = type, .a = a}, out);
    return trace_convert(t, a, type, out);
}
