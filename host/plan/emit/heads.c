/* heads.c: launches of heads that stand alone: rows spread and folded, and a product for each
 * head by its part of a weight. */
#include "plan/emit/emit.h"

inset_status emit_copies(emitter *e, const step *st, const moment_plan *m, void *out, int64_t width)
{
    operand_ref x;
    inset_status status = emit_operand(e, st, 0, &x);
    const bool fold = (st->kind == STEP_FOLD);
    launch *l = status ? NULL
                       : emit_kernel(e, fold ? KERNEL_FOLD : KERNEL_SPREAD, sizeof(copies_args),
                           m->n_computed, (int64_t)m->n_computed * st->n_heads * st->head_dim);
    if (!l) return status ? status : INSET_NO_MEMORY;
    l->bias = fold ? st->bias : -1;
    l->args.copies = (copies_args){.out = out,
        .x = x.at,
        .bias = fold && st->bias >= 0 ? emit_weight(st->bias) : NULL,
        .x_rows = x.rows,
        .n_rows = m->n_computed,
        .width = width,
        .out_stride = width,
        .x_stride = x.stride,
        .part = st->head_dim,
        .copies = st->n_heads / st->n_kv_heads};
    return INSET_OK;
}

inset_status emit_heads(emitter *e, const step *st, const moment_plan *m, void *out, int64_t width)
{
    const program *g = e->p->program;
    const bool back = st->kind == STEP_HEADS_BACK;
    const int64_t size = (int64_t)type_size(e->out->model_type);
    const head_part first = program_head_part(g, st, 0);
    const int32_t in = back ? first.n_out : first.n_in, made = back ? first.n_in : first.n_out;
    operand_ref x;
    inset_status status = emit_operand(e, st, 0, &x);
    if (!status) status = emit_in_order(e, m, (int64_t)in * st->n_heads, &x);
    for (int32_t h = 0; h < st->n_heads && !status; h++) {
        launch *l = emit_launch(e);
        if (!l) return INSET_NO_MEMORY;
        l->is_matmul = true;
        l->reverse = back;
        l->weight = st->weight;
        l->bias = back ? -1 : st->bias;
        l->part = program_head_part(g, st, h);
        l->x = moved((void *)(uintptr_t)x.at, (int64_t)h * in * size), l->x_stride = x.stride;
        l->y = moved(out, (int64_t)h * made * size), l->y_stride = width;
        l->rows = m->n_computed;
    }
    if (!status) emit_note_reading(e, st, &x, m->n_computed, (int64_t)in * st->n_heads);
    e->out->statistics.flops += 2.0 * m->n_computed * in * width;
    return status;
}
