/* open_back.c: launches of attention in the open, backwards (plan/rows/open_back.c). */
#include "plan/emit/emit.h"

inset_status emit_softmax_back(emitter *e, const need *n, void *out)
{
    const strand *t = &e->p->strands[n->strand];
    const step *of = &e->p->program->steps[t->parent_row];
    const int64_t rows = n->hi - n->lo;
    record from = {0};
    emit_record_operand(e, &t->pieces[0], n->lo, 0, &from.a, &from.a_constant, &from.a_row,
        &from.a_column, &from.a_type, (inset_type)t->type);
    emit_record_operand(e, &t->pieces[1], n->lo, 0, &from.b, &from.b_constant, &from.b_row,
        &from.b_column, &from.b_type, (inset_type)t->type);
    launch *l = emit_kernel(
        e, KERNEL_SOFTMAX_BACK, sizeof(softmax_back_args), rows, rows * t->width * 4);
    if (!l) return INSET_NO_MEMORY;
    l->args.softmax_back = (softmax_back_args){.out = out,
        .x = from.a,
        .dy = from.b,
        .n_rows = rows,
        .groups = of->n_heads,
        .n_columns = t->width / of->n_heads,
        .out_stride = t->width,
        .x_stride = from.a_row,
        .dy_stride = from.b_row,
        .scale = of->scale,
        .softcap = of->softcap,
        .scaled = t->op};
    return INSET_OK;
}

/* One unit: its rows of the weighted operand and of its keys, and the weights run by run. */
typedef struct open_unit {
    emitter *e;
    const step *of;
    operand_ref x, keys;
    const int32_t *x_rows, *key_rows;
    int64_t n_keys, n_columns, width, size;
    char *out; /* of the unit's first row */
} open_unit;

/* dq of the rows of one run. */
static inset_status emit_queries(const open_unit *u, const record *w, int64_t at, int64_t rows)
{
    const step *of = u->of;
    const int64_t work = rows * u->n_keys * of->n_heads * of->head_dim;
    launch *l = emit_kernel(u->e, KERNEL_MIX, sizeof(mix_args), rows, work);
    if (!l) return INSET_NO_MEMORY;
    l->args.mix = (mix_args){.out = moved(u->out, at * u->width * u->size),
        .pattern = w->a,
        .v = u->keys.at,
        .value_rows = u->key_rows,
        .n_rows = rows,
        .n_keys = u->n_keys,
        .n_columns = u->n_columns,
        .out_stride = u->width,
        .pattern_stride = w->a_row,
        .v_stride = u->keys.stride,
        .n_heads = of->n_heads,
        .n_kv_heads = of->n_kv_heads,
        .head_dim = of->head_dim};
    u->e->out->statistics.flops += 2.0 * (double)work;
    return INSET_OK;
}

/* What the rows of one run add to dk or dv. */
static inset_status emit_keys(
    const open_unit *u, const record *w, int64_t at, int64_t rows, int64_t column, int ends)
{
    const step *of = u->of;
    const int64_t work = rows * u->n_keys * of->n_heads * of->head_dim;
    launch *l = emit_kernel(u->e, KERNEL_MIX_BACK, sizeof(mix_back_args), u->n_keys, work);
    if (!l) return INSET_NO_MEMORY;
    l->args.mix_back = (mix_back_args){.out = moved(u->out, column * u->size),
        .pattern = w->a,
        .x = u->x.at,
        .x_rows = moved((void *)(uintptr_t)u->x_rows, at * (int64_t)sizeof *u->x_rows),
        .scratch = tagged(AREA_ARENA, u->e->s->arena_bytes),
        .n_rows = rows,
        .n_keys = u->n_keys,
        .n_columns = u->n_columns,
        .out_stride = u->width,
        .pattern_stride = w->a_row,
        .x_stride = u->x.stride,
        .n_heads = of->n_heads,
        .n_kv_heads = of->n_kv_heads,
        .head_dim = of->head_dim,
        .first = ends & 1,
        .last = ends >> 1};
    u->e->out->statistics.flops += 2.0 * (double)work;
    return INSET_OK;
}

static inset_status emit_unit(emitter *e, const step *st, const need *n, char *out, int64_t width)
{
    const step *of = &e->p->program->steps[st->of];
    const strand *t = &e->p->strands[n->strand];
    const bool values = st->kind == STEP_VALUES_BACK;
    int32_t segments, runs;
    open_unit u = {.e = e, .of = of, .width = width, .out = out};
    u.size = (int64_t)type_size(e->out->model_type);
    const segment *x = open_unit_rows(t, 0, &segments);
    if (!(u.x_rows = emit_segment_table(e, e->when.pass, values ? st->operands[0] : of->operands[0],
              x, segments, &u.x, &u.n_keys)))
        return INSET_NO_MEMORY;
    const segment *keys = open_unit_rows(t, 1, &segments);
    if (!values
        && !(u.key_rows = emit_segment_table(
                 e, e->when.pass, of->operands[1], keys, segments, &u.keys, &u.n_keys)))
        return INSET_NO_MEMORY;
    const int64_t scratch = u.n_keys * of->n_kv_heads * of->head_dim * (int64_t)sizeof(float);
    if (scratch > e->scratch_bytes) e->scratch_bytes = scratch;
    const weight_run *w = open_unit_weights(t, &runs);
    int64_t at = 0;
    for (int32_t i = 0; i < runs; at += w[i++].rows) {
        record from = {0};
        u.n_columns = (w[i].from.c1 - w[i].from.c0) / of->n_heads;
        emit_record_operand(e, &w[i].from, 0, w[i].from.c0, &from.a, &from.a_constant, &from.a_row,
            &from.a_column, &from.a_type, e->out->model_type);
        inset_status status = values ? INSET_OK : emit_queries(&u, &from, at, w[i].rows);
        const int64_t column = values ? 0 : (int64_t)of->n_heads * of->head_dim;
        if (!status)
            status = emit_keys(&u, &from, at, w[i].rows, column, (i == 0) + 2 * (i == runs - 1));
        if (status) return status;
    }
    return INSET_OK;
}

inset_status emit_open_back(
    emitter *e, const step *st, const moment_plan *m, void *out, int64_t width)
{
    const int64_t size = (int64_t)type_size(e->out->model_type);
    for (int32_t i = 0; i < computed_count(m); i++) {
        const need *n = computed_need(e->s, m, i);
        inset_status status = emit_unit(
            e, st, n, (char *)moved(out, n->first_row * width * size), width);
        if (status) return status;
    }
    return INSET_OK;
}
