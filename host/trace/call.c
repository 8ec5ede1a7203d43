/* call.c: a module of the model applied to rows of somebody's own: lm_head(ln_f(x)). What it gives
 * is the value that the module would make of these rows, so the planner finds rows that the model
 * has anyway (plan/rows/call.c). */
#include "trace/edit.h"

#include <stdio.h>

static inset_status check_rows(trace *t, int32_t module, const operand *x, int32_t width)
{
    const char *path = t->program->modules[module].path;
    if (x->kind != OPERAND_TENSOR)
        return error_set(t->context, INSET_TYPE_ERROR, "%s() of a number", path);
    const view *v = &x->view;
    const dimension *last = v->n_dimensions ? &v->dimensions[v->n_dimensions - 1] : NULL;
    if (!last || last->extent != width || last->ragged) {
        char shape[128];
        view_shape_text(v, shape, sizeof shape);
        return error_set(t->context, INSET_SHAPE_ERROR,
            "%s() takes rows of %d along the last dimension, found shape %s", path, (int)width,
            shape);
    }
    const inset_type type = trace_operand_type(t, x);
    if (type == t->model_type || x->literal) return INSET_OK;
    return error_set(t->context, INSET_TYPE_ERROR, "%s() takes %s, the model's type, found %s",
        path, type_torch_name(t->model_type), type_torch_name(type));
}

inset_status trace_settle_rows(trace *t, const char *name, const operand *x, operand *out)
{
    const view *v = &x->view;
    int columns = 0;
    bool ragged = false;
    *out = *x;
    for (int i = 0; i < v->n_dimensions; i++) {
        columns += v->dimensions[i].kind == DIMENSION_COLUMN;
        ragged |= v->dimensions[i].ragged;
    }
    if (columns == 1 && v->dimensions[v->n_dimensions - 1].kind == DIMENSION_COLUMN)
        return INSET_OK;
    if (ragged)
        return error_set(t->context, INSET_SHAPE_ERROR,
            "%s of heads of prompts of different lengths: take one position or one sequence", name);
    view shape = *v;
    for (int i = 0; i < shape.n_dimensions; i++) shape.dimensions[i].kind = DIMENSION_COLUMN;
    shape.position_dimension = -1;
    return trace_copy_shaped(t, v, &shape, out);
}

/* Sequences of positions, as attention wants them. */
static inset_status settle_sequences(trace *t, int32_t module, const operand *x, operand *out)
{
    const char *path = t->program->modules[module].path;
    const view *v = &x->view;
    if (v->n_dimensions != 3) {
        char shape[128];
        view_shape_text(v, shape, sizeof shape);
        inset_status status = error_set(t->context, INSET_SHAPE_ERROR,
            "%s() attends: it takes whole sequences [batch, position, width], found shape %s", path,
            shape);
        error_help(t->context, "One position of each prompt is x[:, -1:]; one prompt is x[:1].");
        return status;
    }
    if (t->program->max_positions && v->dimensions[1].extent > t->program->max_positions)
        return error_set(t->context, INSET_VALUE_ERROR, "%s() of %lld positions; the model has %d",
            path, (long long)v->dimensions[1].extent, t->program->max_positions);
    static const uint8_t kinds[] = {DIMENSION_SEQUENCE, DIMENSION_ROW, DIMENSION_COLUMN};
    view shape = *v;
    bool fits = true;
    for (int i = 0; i < 3; i++) {
        fits &= v->dimensions[i].kind == kinds[i];
        shape.dimensions[i].kind = kinds[i];
    }
    *out = *x;
    shape.position_dimension = 1;
    return fits ? INSET_OK : trace_copy_shaped(t, v, &shape, out);
}

inset_status trace_call(trace *t, int32_t module, const operand *x, operand *out)
{
    module_call call;
    operand rows;
    view made;
    const bool edits = edit_takes(t, x, NULL);
    inset_status status = edits ? INSET_OK : trace_need_line(t, "a call of a module");
    if (!status) status = program_call(t->program, module, &call);
    if (!status && edits)
        return edit_add(t, (edit_entry){.kind = EDIT_CALL, .place = module, .a = x}, out);
    if (!status) status = check_rows(t, module, x, slot_columns(&t->program->slots[call.in]));
    if (!status) {
        char name[160];
        snprintf(name, sizeof name, "%.150s()", t->program->modules[module].path);
        status = call.attends ? settle_sequences(t, module, x, &rows)
                              : trace_settle_rows(t, name, x, &rows);
    }
    if (!status && trace_operand_type(t, &rows) != t->model_type) {
        const operand literal = rows;
        status = trace_convert(t, &literal, t->model_type, &rows);
    }
    if (status) return status;
    view shape = rows.view;
    shape.dimensions[shape.n_dimensions - 1].extent = slot_column_end(&t->program->slots[call.out]);
    status = storage_for_shape(t, STORAGE_FREE, t->model_type, &shape, &made);
    if (!status) status = trace_record_call(t, module, &made, &rows);
    if (!status) *out = tensor_operand(&made);
    return status;
}
