/* back.c: launches of the gradients' steps. */
#include "plan/emit/emit.h"

/* Where a unit's rows of one operand lie: a table over all units, in the order of their rows. */
static const int32_t *unit_rows(
    emitter *e, const step *st, const moment_plan *m, int k, operand_ref *out)
{
    planner *p = e->p;
    const int32_t slot_index = k < 3 ? p->program->steps[st->of].operands[k] : st->operands[0];
    const slot *s = &p->program->slots[slot_index];
    row_gatherer g = {e, s->value, &e->rows};
    runs_clear(&e->rows);
    for (int32_t i = 0; i < computed_count(m); i++) {
        int32_t n;
        const segment *rows = back_rows(&p->strands[computed_need(e->s, m, i)->strand], k, &n);
        for (int32_t r = 0; r < n; r++)
            if (!emit_gather_rows(&g, rows[r].strand, rows[r].first, rows[r].count)) return NULL;
    }
    out->stride = p->program->values[s->value].width;
    out->at = moved(emit_value_buffer(e, e->when.pass, s->value),
        s->shape.column * (int64_t)type_size(strand_type(p, s->value, -1)));
    return out->rows = emit_table(e, &e->rows);
}

/* Each unit's rows in the buffer: first, count. Sets the products of a query and a key. */
static const attention_context *unit_table(emitter *e, const moment_plan *m, double *pairs)
{
    const int32_t n = computed_count(m);
    int32_t *units = arena_new(&e->p->scratch, (size_t)n * 2 * sizeof *units);
    *pairs = 0;
    for (int32_t i = 0; units && i < n; i++) {
        const need *d = computed_need(e->s, m, i);
        units[2 * i] = d->first_row;
        units[2 * i + 1] = d->hi - d->lo;
        *pairs += 0.5 * (d->hi - d->lo) * (d->hi - d->lo + 1.0);
    }
    return units ? emit_literal_table(e, units, (size_t)n * 2) : NULL;
}

static inset_status emit_attention_back(
    emitter *e, const step *st, const moment_plan *m, void *out, int64_t width)
{
    const step *of = &e->p->program->steps[st->of];
    operand_ref in[4];
    double pairs;
    for (int k = 0; k < 4; k++)
        if (!unit_rows(e, st, m, k, &in[k])) return INSET_NO_MEMORY;
    const attention_context *units = unit_table(e, m, &pairs);
    const double work = pairs * of->n_heads * of->head_dim;
    void *slopes = NULL;
    inset_status status = units ? emit_slopes(e, of, &slopes) : INSET_NO_MEMORY;
    if (status) return status;
    launch *l = units ? emit_kernel(e, KERNEL_ATTENTION_BACK, sizeof(attention_back_args),
                    (int64_t)computed_count(m) * of->n_kv_heads, (int64_t)(5 * work))
                      : NULL;
    if (!l) return INSET_NO_MEMORY;
    const int64_t scratch = (int64_t)of->n_kv_heads * m->n_computed * (2 * of->head_dim + 3)
                            * (int64_t)sizeof(float);
    if (scratch > e->scratch_bytes) e->scratch_bytes = scratch;
    l->args.attention_back = (attention_back_args){.out = out,
        .q = in[0].at,
        .k = in[1].at,
        .v = in[2].at,
        .dz = in[3].at,
        .q_rows = in[0].rows,
        .key_rows = in[1].rows,
        .value_rows = in[2].rows,
        .dz_rows = in[3].rows,
        .units = units,
        .slopes = slopes,
        .sinks = emit_weight(of->weight),
        .scratch = tagged(AREA_ARENA, e->s->arena_bytes),
        .n_units = computed_count(m),
        .n_rows = m->n_computed,
        .out_stride = width,
        .q_stride = in[0].stride,
        .k_stride = in[1].stride,
        .v_stride = in[2].stride,
        .dz_stride = in[3].stride,
        .n_heads = of->n_heads,
        .n_kv_heads = of->n_kv_heads,
        .head_dim = of->head_dim,
        .window = of->window,
        .both_ways = of->both_ways,
        .scale = of->scale,
        .softcap = of->softcap};
    e->out->statistics.flops += 10.0 * work;
    return INSET_OK;
}

static inset_status emit_join(
    emitter *e, const step *st, const moment_plan *m, void *out, int64_t width)
{
    const slot_shape *to = &e->p->program->slots[st->through].shape;
    operand_ref x;
    inset_status status = emit_operand(e, st, 0, &x);
    launch *l = status ? NULL
                       : emit_kernel(
                           e, KERNEL_JOIN, sizeof(join_args), m->n_computed, m->n_computed * width);
    if (!l) return status ? status : INSET_NO_MEMORY;
    const bool heads = to->n_columns == 2;
    l->args.join = (join_args){.out = out,
        .x = x.at,
        .x_rows = x.rows,
        .n_rows = m->n_computed,
        .width = width,
        .out_stride = width,
        .x_stride = x.stride,
        .column = to->column,
        .parts = heads ? to->extent[0] : 1,
        .part = heads ? to->extent[1] : to->extent[0],
        .part_stride = !heads       ? to->extent[0]
                       : to->stride ? to->stride
                                    : to->extent[1]};
    return INSET_OK;
}

static inset_status emit_divisor_back(
    emitter *e, const step *st, const moment_plan *m, void *out, int64_t width)
{
    const int64_t x_width = e->p->program->values[e->p->program->steps[st->of].value].width;
    operand_ref in[3];
    for (int k = 0; k < 3; k++) {
        inset_status status = emit_operand(e, st, k, &in[k]);
        if (status) return status;
    }
    launch *l = emit_kernel(
        e, KERNEL_DIVISOR_BACK, sizeof(divisor_back_args), m->n_computed, m->n_computed * x_width);
    if (!l) return INSET_NO_MEMORY;
    l->args.divisor_back = (divisor_back_args){.out = out,
        .x = in[0].at,
        .scale = in[1].at,
        .dy = in[2].at,
        .x_rows = in[0].rows,
        .scale_rows = in[1].rows,
        .dy_rows = in[2].rows,
        .weight = emit_weight(st->weight),
        .n_rows = m->n_computed,
        .width = x_width,
        .out_stride = width,
        .x_stride = in[0].stride,
        .scale_stride = in[1].stride,
        .dy_stride = in[2].stride,
        .groups = width,
        .centred = st->norm_centred,
        .plus_one = st->rms_weight == RMS_WEIGHT_PLUS_ONE};
    return INSET_OK;
}

inset_status emit_back(emitter *e, const step *st, const moment_plan *m, void *out, int64_t width)
{
    if (st->kind == STEP_ATTENTION_BACK) return emit_attention_back(e, st, m, out, width);
    if (st->kind == STEP_JOIN) return emit_join(e, st, m, out, width);
    if (st->kind == STEP_DIVISOR_BACK) return emit_divisor_back(e, st, m, out, width);
    const bool of_scale = st->kind == STEP_NORM_SCALE_BACK,
               given = st->kind == STEP_NORM_GIVEN_BACK,
               norm = of_scale || given || st->kind == STEP_NORM_BACK;
    operand_ref x, dy, scale = {0};
    inset_status status = emit_operand(e, st, 0, &x);
    if (status || (status = emit_operand(e, st, given ? 2 : 1, &dy))
        || (given && (status = emit_operand(e, st, 1, &scale))))
        return status;
    launch *l = emit_kernel(e,
        of_scale ? KERNEL_NORM_SCALE_BACK
        : norm   ? KERNEL_NORM_BACK
                 : KERNEL_ACTIVATION_BACK,
        norm ? sizeof(norm_back_args) : sizeof(activation_back_args), m->n_computed,
        m->n_computed * width * (norm ? 3 : 6));
    if (!l) return INSET_NO_MEMORY;
    if (norm)
        l->args.norm_back = (norm_back_args){.out = out,
            .x = x.at,
            .dy = dy.at,
            .scale = scale.at,
            .x_rows = x.rows,
            .dy_rows = dy.rows,
            .scale_rows = scale.rows,
            .weight = emit_weight(st->weight),
            .n_rows = m->n_computed,
            .width = width,
            .out_stride = width,
            .x_stride = x.stride,
            .dy_stride = dy.stride,
            .scale_stride = scale.stride,
            .groups = st->norm_groups > 1 ? st->norm_groups : 1,
            .eps = st->eps,
            .centred = st->norm_centred,
            .plus_one = st->rms_weight == RMS_WEIGHT_PLUS_ONE,
            .constant_scale = st->constant_scale};
    else
        l->args.activation_back = (activation_back_args){.out = out,
            .x = x.at,
            .dy = dy.at,
            .x_rows = x.rows,
            .dy_rows = dy.rows,
            .n_rows = m->n_computed,
            .width = width,
            .out_stride = width,
            .x_stride = x.stride,
            .dy_stride = dy.stride,
            .kind = st->kind == STEP_SOFTCAP_BACK ? ACTIVATION_BACK_SOFTCAP
                                                  : (int32_t)st->activation,
            .secant = st->secant,
            .softcap = st->scale};
    return INSET_OK;
}
