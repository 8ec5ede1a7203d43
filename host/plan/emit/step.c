/* step.c: the launch of a step over all rows that its moment needs. */
#include "plan/emit/emit.h"

#include "kernels/products.h"

/* ---- steps -------------------------------------------------------------- */

/* Token ids (or positions, or one row of the table) of the rows to embed. */
static inset_status emit_embed(
    emitter *e, const step *st, const moment_plan *m, void *out, int64_t width)
{
    planner *p = e->p;
    plan *made = e->out;
    const bool positions =
        st->by_position || st->one_row
        || p->program->values[p->program->slots[st->operands[0]].value].per_position;
    void *ids = NULL;
    runs_clear(&e->rows);
    if (!positions) ids = tagged(AREA_IDS, (int64_t)made->n_ids * 4);
    for (int32_t i = 0; i < computed_count(m); i++) {
        const need *n = computed_need(e->s, m, i);
        if (positions) {
            const int32_t at = st->one_row ? 0 : strand_position(p, n->strand, n->lo);
            if (!runs_add(e, &e->rows, st->first_row + at, n->hi - n->lo, !st->one_row))
                return INSET_NO_MEMORY;
            continue;
        }
        if (!array_extend(p->context, &made->id_source, &made->ids_capacity,
                made->n_ids + (size_t)(n->hi - n->lo), sizeof *made->id_source))
            return INSET_NO_MEMORY;
        for (int32_t r = n->lo; r < n->hi; r++)
            made->id_source[made->n_ids++] = p->words[p->strands[n->strand].first_word + r].source;
    }
    if (positions && !(ids = emit_table(e, &e->rows))) return INSET_NO_MEMORY;
    launch *l = emit_kernel(
        e, KERNEL_EMBED, sizeof(embed_args), m->n_computed, m->n_computed * width);
    if (!l) return INSET_NO_MEMORY;
    l->args.embed = (embed_args){.out = out,
        .table = emit_weight(st->weight),
        .ids = ids,
        .n_rows = m->n_computed,
        .width = width,
        .out_stride = width};
    return INSET_OK;
}

/* A product reads padding behind its rows: whatever lies there, as long as it is the arena's.
 * Outputs have room for theirs (pack.c). */
void emit_note_reading(emitter *e, const step *st, const operand_ref *x, int64_t rows, int64_t in)
{
    int64_t first = (int64_t)((uint64_t)(uintptr_t)x->at & ((1ull << 56) - 1)),
            padded = product_padded(e->p->options.traits.row_block, rows, step_widest(e->p, st));
    int64_t end = first + ((padded - 1) * x->stride + in) * (int64_t)type_size(e->out->model_type);
    if (end > e->read_end) e->read_end = end;
}

/* A matrix product wants its rows in order. */
inset_status emit_in_order(emitter *e, const moment_plan *m, int64_t width, operand_ref *x)
{
    if (!x->rows) return INSET_OK;
    void *scratch = tagged(AREA_ARENA, e->s->arena_bytes);
    launch *g = emit_kernel(
        e, KERNEL_GATHER, sizeof(gather_args), m->n_computed, m->n_computed * width);
    if (!g) return INSET_NO_MEMORY;
    g->args.gather = (gather_args){.out = scratch,
        .x = x->at,
        .x_rows = x->rows,
        .n_rows = m->n_computed,
        .width = width,
        .out_stride = width,
        .x_stride = x->stride};
    int64_t bytes = m->n_computed * width * (int64_t)type_size(e->out->model_type);
    if (bytes > e->scratch_bytes) e->scratch_bytes = bytes;
    *x = (operand_ref){scratch, NULL, width};
    return INSET_OK;
}

static inset_status emit_linear(
    emitter *e, const step *st, const moment_plan *m, void *out, int64_t width)
{
    planner *p = e->p;
    operand_ref x;
    inset_status status = emit_operand(e, st, 0, &x);
    if (status) return status;
    const weight *w = &p->program->weights[st->weight];
    const bool back = st->kind == STEP_LINEAR_BACK;
    int64_t in = (w->in_out != 0) != back ? w->rows : w->columns;
    if (m->columns) {
        const int32_t *columns = emit_literal_table(e, m->columns, (size_t)m->n_columns);
        launch *l = columns ? emit_kernel(e, KERNEL_COLUMNS, sizeof(columns_args), m->n_computed,
                        m->n_computed * in * m->n_columns)
                            : NULL;
        if (!l) return INSET_NO_MEMORY;
        l->args.columns = (columns_args){out, x.at, x.rows, emit_weight(st->weight),
            emit_weight(st->bias), columns, m->n_computed, m->n_columns, in, m->n_columns,
            x.stride};
        e->out->statistics.flops += 2.0 * m->n_computed * in * m->n_columns;
        return INSET_OK;
    }
    if ((status = emit_in_order(e, m, in, &x))) return status;
    launch *l = emit_launch(e);
    if (!l) return INSET_NO_MEMORY;
    l->is_matmul = true;
    l->reverse = back;
    l->gelu = m->activation != 0;
    l->weight = st->weight;
    l->x = x.at, l->x_stride = x.stride;
    l->y = m->activation ? tagged(AREA_ARENA, e->s->moments[m->activation].value.offset) : out,
    l->y_stride = width;
    l->rows = m->n_computed;
    emit_note_reading(e, st, &x, l->rows, in);
    e->out->statistics.flops += 2.0 * m->n_computed * in * width;
    return INSET_OK;
}

/* The positions of the rows of a layout's first n needs: a table that all rotary embeddings of the
 * layout share. -1: memory is out. */
static int32_t layout_positions(emitter *e, int32_t layout_index, int32_t n)
{
    layout_tables *t = &e->layouts[layout_index];
    const layout *l = &e->s->layouts[layout_index];
    if (t->positions < 0 && (t->positions = table_reserve(e, l->rows)) < 0) return -1;
    for (; t->n_positions < n; t->n_positions++) {
        const need *d = &e->s->needs[l->order[t->n_positions]];
        if (!table_fill(e, t->positions + d->first_row, d->hi - d->lo, 1,
                strand_position(e->p, d->strand, d->lo), 1))
            return -1;
    }
    return t->positions;
}

/* Positions of a moment's rows: its layout's, and behind them those of rows that the step makes
 * new. */
static const int32_t *rope_positions(emitter *e, const step *st, const moment_plan *m)
{
    int32_t age = computed_age(st->value - 1),
            n = m->n_base ? layout_prefix(&e->s->layouts[m->base], age) : 0, shared = 0, rows = 0;
    if (n > m->n_base) n = m->n_base;
    if (n && (shared = layout_positions(e, m->base, n)) < 0) return NULL;
    if (n && n == computed_count(m)) return table_address(shared);
    runs_clear(&e->rows);
    for (int32_t i = n; i < computed_count(m); i++) {
        const need *d = computed_need(e->s, m, i);
        const strand *t = &e->p->strands[d->strand];
        /* its second operand is the position */
        bool own = t->kind == STRAND_STEP && t->born == st->value;
        if (!runs_add(e, &e->rows,
                own ? d->lo + t->operands[1].shift : strand_position(e->p, d->strand, d->lo),
                d->hi - d->lo, 1))
            return NULL;
    }
    if (!n) return emit_table(e, &e->rows);
    rows = layout_rows(e->s, m->base, n);
    int32_t to = table_reserve(e, rows + e->rows.count);
    if (to < 0 || !table_repeat(e, to, rows, shared)) return NULL;
    for (size_t i = 0; i < e->rows.n; i++) {
        const table_run *r = &e->rows.at[i];
        if (!table_fill(e, to + rows + r->to, r->count, 1, r->first, r->step)) return NULL;
    }
    return table_address(to);
}

static inset_status emit_rope(
    emitter *e, const step *st, const moment_plan *m, void *out, int64_t width)
{
    operand_ref x;
    inset_status status = emit_operand(e, st, 0, &x);
    if (status) return status;
    const int32_t *positions = rope_positions(e, st, m);
    launch *l = positions ? emit_kernel(
                    e, KERNEL_ROPE, sizeof(rope_args), m->n_computed, m->n_computed * width * 2)
                          : NULL;
    if (!l) return INSET_NO_MEMORY;
    /* The frequencies are a table of the program: they travel with the row tables, bit by bit. */
    size_t half = (size_t)st->rotary_dims / 2;
    void *frequencies = half ? emit_literal_table(
                            e, (const int32_t *)(const void *)st->frequencies, half)
                             : NULL;
    if (half && !frequencies) return INSET_NO_MEMORY;
    l = &e->out->launches[e->out->n_launches - 1];
    l->args.rope = (rope_args){.out = out,
        .x = x.at,
        .x_rows = x.rows,
        .positions = positions,
        .frequencies = frequencies,
        .n_rows = m->n_computed,
        .out_stride = width,
        .x_stride = x.stride,
        .n_heads = st->n_heads,
        .head_dim = st->head_dim,
        .rotary_dims = st->rotary_dims,
        .attention_scale = st->rope_attention_scale,
        .x_head_stride = e->p->program->slots[st->operands[0]].shape.stride,
        .round_once = st->rope_round_once,
        .inverse = st->inverse,
        .interleaved = st->rope_interleaved};
    return INSET_OK;
}

/* An addition with the norm of its rows. */
static inset_status emit_add_norm(
    emitter *e, const moment_plan *m, const operand_ref *in, void *out, int64_t width)
{
    const program *g = e->p->program;
    const step *norm = &g->steps[g->values[moment_of(e->p, m->norm).value].step];
    const bool centred = norm->kind == STEP_LAYERNORM;
    void *normed = tagged(AREA_ARENA, e->s->moments[m->norm].value.offset);
    launch *l = emit_kernel(e, centred ? KERNEL_ADD_LAYERNORM : KERNEL_ADD_RMSNORM,
        centred ? sizeof(add_layernorm_args) : sizeof(add_rmsnorm_args), m->n_computed,
        m->n_computed * width * 2);
    if (!l) return INSET_NO_MEMORY;
    if (centred)
        l->args.add_layernorm = (add_layernorm_args){.out = out,
            .norm = normed,
            .a = in[0].at,
            .b = in[1].at,
            .a_rows = in[0].rows,
            .b_rows = in[1].rows,
            .weight = emit_weight(norm->weight),
            .bias = emit_weight(norm->bias),
            .n_rows = m->n_computed,
            .width = width,
            .out_stride = width,
            .norm_stride = width,
            .a_stride = in[0].stride,
            .b_stride = in[1].stride,
            .eps = norm->eps};
    else
        l->args.add_rmsnorm = (add_rmsnorm_args){.out = out,
            .norm = normed,
            .a = in[0].at,
            .b = in[1].at,
            .a_rows = in[0].rows,
            .b_rows = in[1].rows,
            .weight = emit_weight(norm->weight),
            .n_rows = m->n_computed,
            .width = width,
            .out_stride = width,
            .norm_stride = width,
            .a_stride = in[0].stride,
            .b_stride = in[1].stride,
            .eps = norm->eps,
            .plus_one = norm->rms_weight == RMS_WEIGHT_PLUS_ONE,
            .round_once = norm->rms_weight == RMS_WEIGHT_FIRST};
    return INSET_OK;
}

/* Rows of a norm that divide by a scale of their own: they come last. Sets how many they are. */
static inset_status emit_by_scale(
    emitter *e, const step *st, const moment_plan *m, void *out, int64_t width, int64_t *count)
{
    planner *p = e->p;
    operand_ref in[2] = {{0}, {0}};
    int32_t n = computed_count(m), from = n;
    *count = 0;
    for (; from > 0 && scale_given(p, st, computed_need(e->s, m, from - 1)->strand); from--)
        *count += computed_need(e->s, m, from - 1)->hi - computed_need(e->s, m, from - 1)->lo;
    if (!*count) return INSET_OK;
    for (int k = 0; k < 2; k++) {
        row_gatherer g = {e, p->program->slots[st->operands[k]].value, &e->rows};
        runs_clear(&e->rows);
        for (int32_t i = from; i < n; i++) {
            const need *d = computed_need(e->s, m, i);
            if (!operand_rows(p, st, k, d->strand, d->lo, d->hi, emit_gather_rows, &g))
                return INSET_NO_MEMORY;
        }
        inset_status status = emit_finish_operand(e, st->operands[k], &in[k]);
        if (status) return status;
    }
    launch *l = emit_kernel(
        e, KERNEL_NORM_BY_SCALE, sizeof(norm_by_scale_args), *count, *count * width);
    if (!l) return INSET_NO_MEMORY;
    l->args.norm_by_scale = (norm_by_scale_args){
        .out = moved(
            out, (m->n_computed - *count) * width * (int64_t)type_size(e->out->model_type)),
        .x = in[0].at,
        .scale = in[1].at,
        .x_rows = in[0].rows,
        .scale_rows = in[1].rows,
        .weight = emit_weight(st->weight),
        .bias = emit_weight(st->bias),
        .n_rows = *count,
        .width = width,
        .out_stride = width,
        .x_stride = in[0].stride,
        .scale_stride = in[1].stride,
        .groups = st->norm_groups > 1 ? st->norm_groups : 1,
        .centred = st->norm_centred,
        .plus_one = st->rms_weight == RMS_WEIGHT_PLUS_ONE,
        .round_once = st->rms_weight == RMS_WEIGHT_FIRST};
    return INSET_OK;
}

/* A number as the model's type holds it. */
static float as_stored(const emitter *e, float number)
{
    unsigned char bytes[8];
    element_put(e->out->model_type, bytes, number);
    return (float)element_get(e->out->model_type, bytes);
}

/* Steps that go row by row through one kernel. */
static inset_status emit_rowwise(
    emitter *e, const step *st, const moment_plan *m, void *out, int64_t width)
{
    operand_ref in[3] = {{0}, {0}, {0}};
    int64_t by_scale;
    inset_status status = emit_by_scale(e, st, m, out, width, &by_scale);
    for (int k = 0; k < st->n_operands && !status; k++) status = emit_operand(e, st, k, &in[k]);
    if (status) return status;
    static const struct {
        kernel_id kernel;
        size_t size;
    } which[] = {
        [STEP_LAYERNORM] = {KERNEL_LAYERNORM, sizeof(layernorm_args)},
        [STEP_RMSNORM] = {KERNEL_RMSNORM, sizeof(rmsnorm_args)},
        [STEP_ACTIVATION] = {KERNEL_ACTIVATION, sizeof(activation_args)},
        [STEP_GATE] = {KERNEL_GATE, sizeof(gate_args)},
        [STEP_NORM_SCALE] = {KERNEL_NORM_SCALE, sizeof(norm_scale_args)},
        [STEP_ADD] = {KERNEL_ADD, sizeof(add_args)},
        [STEP_SCALE] = {KERNEL_SCALE, sizeof(scale_args)},
        [STEP_SOFTCAP] = {KERNEL_SCALE, sizeof(scale_args)},
    };
    if (m->norm) return emit_add_norm(e, m, in, out, width);
    int64_t n = m->n_computed - by_scale,
            cost = st->kind == STEP_ACTIVATION || st->kind == STEP_SOFTCAP ? 4 : 1;
    if (!n) return INSET_OK;
    launch *l = emit_kernel(e, which[st->kind].kernel, which[st->kind].size, n, n * width * cost);
    if (!l) return INSET_NO_MEMORY;
    switch (st->kind) {
    case STEP_LAYERNORM:
        l->args.layernorm = (layernorm_args){out, in[0].at, in[0].rows, emit_weight(st->weight),
            emit_weight(st->bias), n, width, width, in[0].stride,
            st->norm_groups > 1 ? st->norm_groups : 1, st->eps};
        break;
    case STEP_RMSNORM:
        l->args.rmsnorm = (rmsnorm_args){out, in[0].at, in[0].rows, emit_weight(st->weight), n,
            width, width, in[0].stride, st->norm_groups > 1 ? st->norm_groups : 1, st->eps,
            st->rms_weight == RMS_WEIGHT_PLUS_ONE, st->rms_weight == RMS_WEIGHT_FIRST};
        break;
    case STEP_NORM_SCALE: {
        const slot *x = &e->p->program->slots[st->operands[0]];
        l->args.norm_scale = (norm_scale_args){.out = out,
            .x = in[0].at,
            .x_rows = in[0].rows,
            .n_rows = n,
            .width = slot_column_end(x) - x->shape.column,
            .out_stride = width,
            .x_stride = in[0].stride,
            .groups = width,
            .eps = st->eps,
            .centred = st->norm_centred};
        break;
    }
    case STEP_ACTIVATION:
        l->args.activation = (activation_args){out, in[0].at, in[0].rows, NULL, n, width, width,
            in[0].stride, (int32_t)st->activation};
        break;
    case STEP_GATE:
        l->args.gate = (gate_args){out, in[0].at, in[1].at, in[0].rows, in[1].rows, n, width, width,
            in[0].stride, in[1].stride};
        break;
    case STEP_ADD:
        l->args.add = (add_args){out, in[0].at, in[1].at, in[2].at, in[0].rows, in[1].rows,
            in[2].rows, n, width, width, in[0].stride, in[1].stride, in[2].stride};
        break;
    default:
        l->args.scale = (scale_args){out, in[0].at, in[0].rows, n, width, width, in[0].stride,
            st->kind == STEP_SOFTCAP ? 1
            : st->scale_in_fp32      ? st->scale
                                     : as_stored(e, st->scale),
            st->kind == STEP_SOFTCAP ? st->scale : 0};
    }
    return INSET_OK;
}

/* Rows that come from outside: a sequential model's input, token ids and positions when somebody
 * reads them. */
static inset_status emit_source(emitter *e, const step *st, const moment_plan *m)
{
    planner *p = e->p;
    int32_t width = p->program->values[st->value].width;
    inset_type type = strand_type(p, st->value, -1);
    e->first_record = e->out->n_records;
    for (int32_t i = 0; i < computed_count(m); i++) {
        const need *n = computed_need(e->s, m, i);
        for (int32_t r = n->lo; r < n->hi; r++) {
            record one = {.op = RECORD_COPY,
                .out_type = (uint8_t)type,
                .compute = (uint8_t)type,
                .out_row = width,
                .out_column = 1,
                .a_column = 1,
                .rows = 1,
                .columns = width,
                .out = emit_row_address(e, st->value, n->strand, r)};
            if (st->kind == STEP_POSITIONS) one.a_constant = r, one.a_type = INSET_I64;
            else {
                int64_t source = p->words[p->strands[n->strand].first_word + r].source;
                bool input = st->kind == STEP_INPUT;
                if (!input
                    && !array_extend(p->context, &e->out->id_source, &e->out->ids_capacity,
                        e->out->n_ids + 1, sizeof *e->out->id_source))
                    return INSET_NO_MEMORY;
                one.a_type = input ? INSET_F32 : INSET_I32;
                one.a = input ? tagged(AREA_INPUT, source * width * 4)
                              : tagged(AREA_IDS, (int64_t)e->out->n_ids * 4);
                if (!input) e->out->id_source[e->out->n_ids++] = source;
            }
            if (!emit_record(e, &one)) return INSET_NO_MEMORY;
        }
    }
    return emit_finish_records(e, KERNEL_RECORDS);
}

inset_status emit_step(emitter *e, const step *st)
{
    const moment_plan *m = &e->s->moments[e->now];
    void *out = emit_value_buffer(e, e->when.pass, e->when.value);
    int64_t width = e->p->program->values[st->value].width;
    e->out->statistics.rows += m->n_computed;
    e->out->rows_of_value[st->value] += m->n_computed;
    e->out->statistics.steps++;
    if (m->in_addition || m->in_product) return INSET_OK;
    switch (st->kind) {
    case STEP_INPUT:
    case STEP_TOKENS:
    case STEP_POSITIONS: return emit_source(e, st, m);
    case STEP_EMBED: return emit_embed(e, st, m, out, width);
    case STEP_LINEAR:
    case STEP_LINEAR_BACK: return emit_linear(e, st, m, out, width);
    case STEP_HEADS:
    case STEP_HEADS_BACK: return emit_heads(e, st, m, out, width);
    case STEP_SPREAD:
    case STEP_FOLD: return emit_copies(e, st, m, out, width);
    case STEP_ROUTE:
    case STEP_EXPERTS:
    case STEP_EXPERTS_APART:
    case STEP_EXPERTS_JOINED:
    case STEP_ROUTE_BACK:
    case STEP_EXPERTS_BACK:
    case STEP_EXPERTS_APART_BACK:
    case STEP_EXPERTS_JOINED_BACK: return emit_experts(e, st, m, out, width);
    case STEP_NORM_BACK:
    case STEP_ACTIVATION_BACK:
    case STEP_SOFTCAP_BACK:
    case STEP_JOIN:
    case STEP_NORM_GIVEN_BACK:
    case STEP_DIVISOR_BACK:
    case STEP_NORM_SCALE_BACK:
    case STEP_ATTENTION_BACK: return emit_back(e, st, m, out, width);
    case STEP_ZERO: return INSET_OK; /* its rows are constants, which records make */
    case STEP_ATTENTION: return emit_attention(e, st, m, out, width);
    case STEP_ROPE: return emit_rope(e, st, m, out, width);
    case STEP_VALUES_BACK:
    case STEP_QUERIES_BACK: return emit_open_back(e, st, m, out, width);
    case STEP_PATTERN_BACK:
    case STEP_SCORES_BACK:
    case STEP_PAIR:
    case STEP_SCORES:
    case STEP_PATTERN: return INSET_OK;
    default: return emit_rowwise(e, st, m, out, width);
    }
}
