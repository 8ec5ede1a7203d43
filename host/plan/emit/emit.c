/* emit.c: from needs to launches: for every moment in order, the step over all its rows at once,
 * then the records whose rows are due, and what is saved or kept of them. */
#include "plan/emit/emit.h"

#include <string.h>

/* ---- where rows are ----------------------------------------------------- */

/* Which columns the buffer of a strand's rows holds, when not all. */
const moment_plan *emit_chosen_columns(const emitter *e, int32_t domain, int32_t strand_index)
{
    if (domain < 0) return NULL;
    const moment_plan *m =
        &e->s->moments[moment_number(e->p, (moment){e->p->strands[strand_index].pass, domain})];
    return m->columns ? m : NULL;
}

int64_t emit_row_bytes(const emitter *e, int32_t domain, int32_t strand_index)
{
    const moment_plan *chosen = emit_chosen_columns(e, domain, strand_index);
    int64_t width = chosen        ? chosen->n_columns
                    : domain >= 0 ? e->p->program->values[domain].width
                                  : e->p->strands[strand_index].width;
    return width * (int64_t)type_size(strand_type(e->p, domain, strand_index));
}

/* The value need of a strand's row: mostly the one after the last that was asked for, since rows
 * keep their order from value to value. */
static const need *expected_need(const emitter *e, int32_t at, int32_t strand_index, int32_t row)
{
    moment_plan *m = &e->s->moments[at];
    const need *shared = layout_find(e->s, m->base, m->n_base, strand_index, row);
    if (shared) return shared;
    for (int32_t i = m->hint, tries = 0; tries < 2 && i < m->n_order; i++, tries++) {
        const need *n = &e->s->needs[m->order[i]];
        if (n->strand != strand_index || row < n->lo || row >= n->hi
            || place_of(n->kind) != PLACE_VALUE)
            continue;
        m->hint = i;
        return n;
    }
    const need *n = schedule_find(e->s, at, strand_index, row, PLACE_VALUE);
    if (n) m->hint = n->place;
    return n;
}

/* The row number of a strand's row in the buffer of (pass, value). */
int32_t emit_buffer_row(
    const emitter *e, int32_t pass, int32_t value, int32_t strand_index, int32_t row)
{
    const need *n = expected_need(e, moment_number(e->p, (moment){pass, value}), strand_index, row);
    return n ? n->first_row + row - n->lo : -1;
}

void *emit_value_buffer(const emitter *e, int32_t pass, int32_t value)
{
    return tagged(
        AREA_ARENA, e->s->moments[moment_number(e->p, (moment){pass, value})].value.offset);
}

/* Where a row of a value was put aside for later passes. */
void *emit_kept_address(const emitter *e, int32_t domain, int32_t strand_index, int32_t row)
{
    int32_t at = moment_number(e->p, (moment){e->p->strands[strand_index].pass, domain});
    const need *n = schedule_find(e->s, at, strand_index, row, PLACE_KEPT);
    return tagged(AREA_ARENA, e->s->moments[at].kept.offset + n->offset
                                  + (row - n->lo) * emit_row_bytes(e, domain, strand_index));
}

/* The address of a row that a record reads or writes; rows of an earlier pass are read where that
 * pass put them aside. */
void *emit_row_address(const emitter *e, int32_t domain, int32_t strand_index, int32_t row)
{
    const strand *t = &e->p->strands[strand_index];
    int64_t bytes = emit_row_bytes(e, domain, strand_index);
    if (domain >= 0 && t->pass < e->when.pass)
        return emit_kept_address(e, domain, strand_index, row);
    if (domain >= 0)
        return moved(emit_value_buffer(e, t->pass, domain),
            emit_buffer_row(e, t->pass, domain, strand_index, row) * bytes);
    if (t->kind == STRAND_EXTERNAL && e->p->trace->storages[t->storage].weight)
        return tagged(
            AREA_WEIGHT, weight_offset(e->p->trace->storages[t->storage].weight - 1, row * bytes));
    if (t->kind == STRAND_EXTERNAL)
        return tagged(AREA_EXTERNAL, e->s->external_offset[t->storage] + row * bytes);
    int32_t at = moment_number(e->p, (moment){t->pass, t->time});
    const need *n = schedule_find(e->s, at, strand_index, row, PLACE_FREE);
    return tagged(AREA_ARENA, e->s->moments[at].free.offset + n->offset + (row - n->lo) * bytes);
}

/* ---- launches ----------------------------------------------------------- */

launch *emit_launch(emitter *e)
{
    plan *out = e->out;
    if (!array_extend(e->p->context, &out->launches, &out->launches_capacity, out->n_launches + 1,
            sizeof *out->launches))
        return NULL;
    launch *l = &out->launches[out->n_launches++];
    *l = (launch){.type = (uint8_t)out->model_type, .weight = -1, .bias = -1};
    return l;
}

launch *emit_kernel(emitter *e, kernel_id kernel, size_t args_size, int64_t blocks, int64_t work)
{
    launch *l = emit_launch(e);
    if (!l) return NULL;
    l->kernel = (uint8_t)kernel;
    l->args_size = (int32_t)args_size;
    l->blocks = blocks;
    l->work = work;
    return l;
}

/* ---- operands ----------------------------------------------------------- */

bool emit_gather_rows(void *user, int32_t strand_index, int32_t first, int32_t count)
{
    row_gatherer *g = user;
    emitter *e = g->e;
    /* rows side by side in a strand may be apart in the buffer */
    while (count > 0) {
        const need *n = expected_need(
            e, moment_number(e->p, (moment){e->when.pass, g->value}), strand_index, first);
        int32_t here = n->hi - first < count ? n->hi - first : count;
        if (!runs_add(e, g->list, n->first_row + first - n->lo, here, 1)) return false;
        first += here, count -= here;
    }
    return true;
}

/* Turns the gathered rows into an operand: rows in order need no table. */
inset_status emit_finish_operand(emitter *e, int32_t slot_index, operand_ref *out)
{
    const slot *s = &e->p->program->slots[slot_index];
    const value *v = &e->p->program->values[s->value];
    int64_t element = (int64_t)type_size(strand_type(e->p, s->value, -1));
    out->stride = v->width;
    out->at = moved(emit_value_buffer(e, e->when.pass, s->value), s->shape.column * element);
    out->rows = NULL;
    if (!e->rows.n) return INSET_OK;
    if (e->rows.n == 1 && (e->rows.at[0].step == 1 || e->rows.at[0].count == 1)) {
        out->at = moved(out->at, (int64_t)e->rows.at[0].first * v->width * element);
        return INSET_OK;
    }
    out->rows = emit_table(e, &e->rows);
    return out->rows ? INSET_OK : INSET_NO_MEMORY;
}

bool emit_common_rows(emitter *e, const moment_plan *m, int32_t value, int32_t *n)
{
    const moment_plan *read = &e->s->moments[moment_number(e->p, (moment){e->when.pass, value})];
    runs_clear(&e->rows);
    *n = 0;
    if (m->base < 0 || m->base != read->base || e->p->program->values[value].per_position)
        return true;
    *n = layout_prefix(&e->s->layouts[m->base], computed_age(value));
    if (*n > m->n_base) *n = m->n_base;
    if (*n > read->n_base) *n = read->n_base;
    return runs_add(e, &e->rows, 0, layout_rows(e->s, m->base, *n), 1);
}

inset_status emit_operand(emitter *e, const step *st, int k, operand_ref *out)
{
    const moment_plan *m = &e->s->moments[e->now];
    row_gatherer g = {e, e->p->program->slots[st->operands[k]].value, &e->rows};
    int32_t from;
    if (!emit_common_rows(e, m, g.value, &from)) return INSET_NO_MEMORY;
    for (int32_t i = from; i < computed_count(m); i++) {
        const need *n = computed_need(e->s, m, i);
        if (!operand_rows(e->p, st, k, n->strand, n->lo, n->hi, emit_gather_rows, &g))
            return INSET_NO_MEMORY;
    }
    return emit_finish_operand(e, st->operands[k], out);
}

/* ---- all of it ---------------------------------------------------------- */

static inset_status emit_all(emitter *e)
{
    planner *p = e->p;
    e->leaf_rows = arena_new(&p->scratch, p->n_strands * sizeof *e->leaf_rows);
    e->leaf_table = arena_new(&p->scratch, p->n_strands * sizeof *e->leaf_table);
    e->layouts = arena_new(&p->scratch, e->s->n_layouts * sizeof *e->layouts);
    e->out->rows_of_value = arena_new(
        &e->out->memory, p->program->n_values * sizeof *e->out->rows_of_value);
    e->answer_place = arena_new(&p->scratch, p->trace->n_answers * sizeof *e->answer_place);
    e->whole_seen = arena_new(&p->scratch, (size_t)p->whole.n_sequences * sizeof *e->whole_seen);
    if (!e->leaf_rows || !e->leaf_table || !e->layouts || !e->out->rows_of_value || !e->answer_place
        || !e->whole_seen)
        return INSET_NO_MEMORY;
    for (size_t i = 0; i < e->s->n_layouts; i++)
        e->layouts[i] = (layout_tables){.contexts = -1, .keys = -1, .kept_at = -1, .positions = -1};
    for (size_t i = 0; i < p->trace->n_answers; i++) e->answer_place[i] = -1;
    e->out->n_matrices = p->trace->n_matrices;
    e->out->matrices = arena_new(&e->out->memory, p->trace->n_matrices * sizeof *e->out->matrices);
    if (!e->out->matrices) return INSET_NO_MEMORY;
    inset_status status = emit_order_saved(e);
    for (e->now = 0; e->now < e->s->n_moments && !status; e->now++) {
        e->when = moment_of(p, e->now);
        size_t before = e->out->n_launches;
        if (e->s->moments[e->now].n_computed)
            status = emit_step(e, &p->program->steps[p->program->values[e->when.value].step]);
        if (!status) emit_start_fusion(e, before);
        if (!status) status = emit_records(e);
        if (!status) status = emit_finish_fusion(e);
    }
    return status;
}

inset_status plan_emit(planner *p, schedule *s, plan *out)
{
    emitter e = {.p = p, .s = s, .out = out};
    inset_status status = emit_all(&e);
    memory_free(p->context, e.rows.at);
    memory_free(p->context, e.more_rows.at);
    memory_free(p->context, e.stored);
    emit_free_fusions(&e);
    table_free(p->context, &e.table_lookup);
    out->area_bytes[AREA_ARENA] = s->arena_bytes + e.scratch_bytes > e.read_end
                                      ? s->arena_bytes + e.scratch_bytes
                                      : e.read_end;
    out->area_bytes[AREA_TABLES] = (int64_t)out->n_tables * 4;
    out->area_bytes[AREA_RECORDS] = (int64_t)(out->n_records * sizeof *out->records);
    out->area_bytes[AREA_METRICS] = (int64_t)(out->n_metric_rows * sizeof *out->metric_rows);
    out->area_bytes[AREA_ROW_CALLS] = (int64_t)(out->n_row_calls * sizeof *out->row_calls);
    out->area_bytes[AREA_ROW_OPERANDS] = (int64_t)(out->n_row_operands * sizeof *out->row_operands);
    out->area_bytes[AREA_ANSWERS] = (int64_t)(out->n_answer_source * sizeof(int32_t));
    out->area_bytes[AREA_SAVED] = s->saved_bytes;
    out->area_bytes[AREA_EXTERNAL] = s->external_bytes;
    out->area_bytes[AREA_INPUT] = out->rows ? out->n_tokens * out->row_width * 4 : 0;
    out->area_bytes[AREA_IDS] = (int64_t)(out->n_ids * 4);
    return status;
}
