/* emit.c: from needs to launches: for every moment in order, the step over all its rows at once, then the records whose rows are due, and
 * what is saved or kept of them. */
#include "plan/emit.h"

#include <string.h>

/* ---- where rows are ------------------------------------------------------------------------------------------------------------------------- */

/* Which columns the buffer of a strand's rows holds, when not all. */
const moment_plan *emit_chosen_columns(const emitter *e, int32_t domain, int32_t strand_index)
{
    if (domain < 0) return NULL;
    const moment_plan *m = &e->s->moments[moment_number(e->p, (moment){e->p->strands[strand_index].pass, domain})];
    return m->columns ? m : NULL;
}

int64_t emit_row_bytes(const emitter *e, int32_t domain, int32_t strand_index)
{
    const moment_plan *chosen = emit_chosen_columns(e, domain, strand_index);
    int64_t width = chosen ? chosen->n_columns : domain >= 0 ? e->p->program->values[domain].width : e->p->strands[strand_index].width;
    return width * (int64_t)type_size(strand_type(e->p, domain, strand_index));
}

/* The value need of a strand's row: mostly the one after the last that was asked for, since rows keep their order from value to value. */
static const need *expected_need(const emitter *e, int32_t at, int32_t strand_index, int32_t row)
{
    moment_plan *m = &e->s->moments[at];
    for (int32_t i = m->hint, tries = 0; tries < 2 && i < m->n_order; i++, tries++) {
        const need *n = &e->s->needs[m->order[i]];
        if (n->strand != strand_index || row < n->lo || row >= n->hi || place_of(n->kind) != PLACE_VALUE) continue;
        m->hint = i;
        return n;
    }
    const need *n = schedule_find(e->s, at, strand_index, row, PLACE_VALUE);
    if (n) m->hint = n->place;
    return n;
}

/* The row number of a strand's row in the buffer of (pass, value). */
int32_t emit_buffer_row(const emitter *e, int32_t pass, int32_t value, int32_t strand_index, int32_t row)
{
    const need *n = expected_need(e, moment_number(e->p, (moment){pass, value}), strand_index, row);
    return n ? n->first_row + row - n->lo : -1;
}

void *emit_value_buffer(const emitter *e, int32_t pass, int32_t value)
{
    return tagged(AREA_ARENA, e->s->moments[moment_number(e->p, (moment){pass, value})].value.offset);
}

/* Where a row of a value was put aside for later passes. */
void *emit_kept_address(const emitter *e, int32_t domain, int32_t strand_index, int32_t row)
{
    int32_t at = moment_number(e->p, (moment){e->p->strands[strand_index].pass, domain});
    const need *n = schedule_find(e->s, at, strand_index, row, PLACE_KEPT);
    return tagged(AREA_ARENA, e->s->moments[at].kept.offset + n->offset + (row - n->lo) * emit_row_bytes(e, domain, strand_index));
}

/* The address of a row that a record reads or writes; rows of an earlier pass are read where that pass put them aside. */
void *emit_row_address(const emitter *e, int32_t domain, int32_t strand_index, int32_t row)
{
    const strand *t = &e->p->strands[strand_index];
    int64_t bytes = emit_row_bytes(e, domain, strand_index);
    if (domain >= 0 && t->pass < e->when.pass) return emit_kept_address(e, domain, strand_index, row);
    if (domain >= 0) return moved(emit_value_buffer(e, t->pass, domain), emit_buffer_row(e, t->pass, domain, strand_index, row) * bytes);
    if (t->kind == STRAND_EXTERNAL) return tagged(AREA_EXTERNAL, e->s->external_offset[t->storage] + row * bytes);
    int32_t at = moment_number(e->p, (moment){t->pass, t->time});
    const need *n = schedule_find(e->s, at, strand_index, row, PLACE_FREE);
    return tagged(AREA_ARENA, e->s->moments[at].free.offset + n->offset + (row - n->lo) * bytes);
}

/* ---- launches --------------------------------------------------------------------------------------------------------------------------------- */

launch *emit_launch(emitter *e)
{
    plan *out = e->out;
    if (!array_extend(e->p->context, &out->launches, &out->launches_capacity, out->n_launches + 1, sizeof *out->launches)) return NULL;
    launch *l = &out->launches[out->n_launches++];
    *l = (launch){.type = (uint8_t)out->model_type, .weight = -1};
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

/* Stores a row table, or finds an equal one; its address, NULL when memory is out. */
void *emit_table(emitter *e, const int32_t *rows, size_t n)
{
    plan *out = e->out;
    uint64_t h = hash_bytes(3, rows, n * sizeof *rows);
    size_t cursor = 0;
    for (int32_t at; (at = table_next(&e->table_lookup, h, &cursor)) >= 0; )
        if (e->stored[at].n == n && !memcmp(out->tables + e->stored[at].at, rows, n * sizeof *rows)) return tagged(AREA_TABLES, (int64_t)e->stored[at].at * 4);
    if (!array_extend(e->p->context, &out->tables, &out->tables_capacity, out->n_tables + n, sizeof *out->tables)
        || !array_extend(e->p->context, &e->stored, &e->stored_capacity, e->n_stored + 1, sizeof *e->stored)) return NULL;
    memcpy(out->tables + out->n_tables, rows, n * sizeof *rows);
    e->stored[e->n_stored].at = out->n_tables;
    e->stored[e->n_stored].n = n;
    out->n_tables += n;
    if (!table_add(e->p->context, &e->table_lookup, h, (int32_t)e->n_stored++)) return NULL;
    return tagged(AREA_TABLES, (int64_t)(out->n_tables - n) * 4);
}

/* ---- operands ---------------------------------------------------------------------------------------------------------------------------------- */

bool emit_gather_rows(void *user, int32_t strand_index, int32_t first, int32_t count)
{
    row_gatherer *g = user;
    emitter *e = g->e;
    if (!array_extend(e->p->context, &e->rows, &e->rows_capacity, e->n_rows + (size_t)count, sizeof *e->rows)) return false;
    int32_t row = emit_buffer_row(e, e->when.pass, g->value, strand_index, first);
    for (int32_t i = 0; i < count; i++) e->rows[e->n_rows++] = row + i;
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
    bool in_order = true;
    for (size_t i = 1; i < e->n_rows && in_order; i++) in_order = e->rows[i] == e->rows[0] + (int32_t)i;
    if (in_order) {
        if (e->n_rows) out->at = moved(out->at, (int64_t)e->rows[0] * v->width * element);
        return INSET_OK;
    }
    out->rows = emit_table(e, e->rows, e->n_rows);
    return out->rows ? INSET_OK : INSET_NO_MEMORY;
}

inset_status emit_operand(emitter *e, const step *st, int k, operand_ref *out)
{
    const moment_plan *m = &e->s->moments[e->now];
    row_gatherer g = {e, e->p->program->slots[st->operands[k]].value};
    e->n_rows = 0;
    int32_t read = moment_number(e->p, (moment){e->when.pass, g.value});
    if (e->s->moments[read].same_as >= 0 && e->s->moments[read].same_as == value_moment(e->s, e->now))
        return emit_finish_operand(e, st->operands[k], out);          /* the same rows in the same order */
    for (int32_t i = 0; i < m->n_order; i++) {
        const need *n = &e->s->needs[m->order[i]];
        if (n->kind == NEED_COMPUTED && !operand_rows(e->p, st, k, n->strand, n->lo, n->hi, emit_gather_rows, &g)) return INSET_NO_MEMORY;
    }
    return emit_finish_operand(e, st->operands[k], out);
}

/* ---- all of it ------------------------------------------------------------------------------------------------------------------------------------------ */

static inset_status emit_all(emitter *e)
{
    planner *p = e->p;
    e->leaf_rows = arena_new(&p->scratch, p->n_strands * sizeof *e->leaf_rows);
    e->leaf_table = arena_new(&p->scratch, p->n_strands * sizeof *e->leaf_table);
    e->out->rows_of_value = arena_new(&e->out->memory, p->program->n_values * sizeof *e->out->rows_of_value);
    inset_status status = e->leaf_rows && e->leaf_table && e->out->rows_of_value ? emit_order_saved(e) : INSET_NO_MEMORY;
    for (e->now = 0; e->now < e->s->n_moments && !status; e->now++) {
        e->when = moment_of(p, e->now);
        if (e->s->moments[e->now].n_computed) status = emit_step(e, &p->program->steps[p->program->values[e->when.value].step]);
        if (!status) status = emit_records(e);
    }
    return status;
}

inset_status plan_emit(planner *p, schedule *s, plan *out)
{
    emitter e = {.p = p, .s = s, .out = out};
    inset_status status = emit_all(&e);
    memory_free(p->context, e.rows);
    memory_free(p->context, e.stored);
    table_free(p->context, &e.table_lookup);
    out->area_bytes[AREA_ARENA] = s->arena_bytes + e.scratch_bytes;
    out->area_bytes[AREA_TABLES] = (int64_t)(out->n_tables * sizeof *out->tables);
    out->area_bytes[AREA_RECORDS] = (int64_t)(out->n_records * sizeof *out->records);
    out->area_bytes[AREA_SAVED] = s->saved_bytes;
    out->area_bytes[AREA_EXTERNAL] = s->external_bytes;
    out->area_bytes[AREA_INPUT] = out->rows ? out->n_tokens * out->row_width * 4 : 0;
    out->area_bytes[AREA_IDS] = (int64_t)(out->n_ids * 4);
    return status;
}
