/* emit.c: from needs to launches: for every moment in order, the step over all its rows at once, then the records whose rows are due, and
 * what is saved or kept of them. */
#include "plan/launches.h"

#include <stdlib.h>
#include <string.h>

typedef struct emitter {
    planner *p;
    schedule *s;
    plan *out;
    int32_t now;
    moment when;
    int64_t scratch_bytes;               /* of the moment being emitted; behind all buffers of the arena */
    int32_t *rows; size_t n_rows, rows_capacity;     /* an operand's rows while they are gathered */
    table table_lookup;                  /* equal row tables are stored once */
    struct { size_t at, n; } *stored; size_t n_stored, stored_capacity;
    int32_t *saved_order;                /* saved rows by moment */
    size_t saved_next;
    size_t first_record;                 /* of the launch being filled */
    int32_t *leaf_rows, *leaf_table;     /* per strand: rows its context table needs at this attention, and where it is; -1 */
    int32_t *row_of_word;                /* unused ids */
} emitter;

static void *tagged(area at, int64_t offset) { return (void *)(uintptr_t)((uint64_t)at << 56 | (uint64_t)offset); }
static void *moved(void *at, int64_t bytes) { return (char *)at + bytes; }

/* ---- where rows are ------------------------------------------------------------------------------------------------------------------------- */

/* Which columns the buffer of a strand's rows holds, when not all. */
static const moment_plan *chosen_columns(const emitter *e, int32_t domain, int32_t strand_index)
{
    if (domain < 0) return NULL;
    const moment_plan *m = &e->s->moments[moment_number(e->p, (moment){e->p->strands[strand_index].pass, domain})];
    return m->columns ? m : NULL;
}

static int64_t row_bytes(const emitter *e, int32_t domain, int32_t strand_index)
{
    const moment_plan *chosen = chosen_columns(e, domain, strand_index);
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
static int32_t buffer_row(const emitter *e, int32_t pass, int32_t value, int32_t strand_index, int32_t row)
{
    const need *n = expected_need(e, moment_number(e->p, (moment){pass, value}), strand_index, row);
    return n ? n->first_row + row - n->lo : -1;
}

static void *value_buffer(const emitter *e, int32_t pass, int32_t value)
{
    return tagged(AREA_ARENA, e->s->moments[moment_number(e->p, (moment){pass, value})].value.offset);
}

/* Where a row of a value was put aside for later passes. */
static void *kept_address(const emitter *e, int32_t domain, int32_t strand_index, int32_t row)
{
    int32_t at = moment_number(e->p, (moment){e->p->strands[strand_index].pass, domain});
    const need *n = schedule_find(e->s, at, strand_index, row, PLACE_KEPT);
    return tagged(AREA_ARENA, e->s->moments[at].kept.offset + n->offset + (row - n->lo) * row_bytes(e, domain, strand_index));
}

/* The address of a row that a record reads or writes; rows of an earlier pass are read where that pass put them aside. */
static void *row_address(const emitter *e, int32_t domain, int32_t strand_index, int32_t row)
{
    const strand *t = &e->p->strands[strand_index];
    int64_t bytes = row_bytes(e, domain, strand_index);
    if (domain >= 0 && t->pass < e->when.pass) return kept_address(e, domain, strand_index, row);
    if (domain >= 0) return moved(value_buffer(e, t->pass, domain), buffer_row(e, t->pass, domain, strand_index, row) * bytes);
    if (t->kind == STRAND_EXTERNAL) return tagged(AREA_EXTERNAL, e->s->external_offset[t->storage] + row * bytes);
    int32_t at = moment_number(e->p, (moment){t->pass, t->time});
    const need *n = schedule_find(e->s, at, strand_index, row, PLACE_FREE);
    return tagged(AREA_ARENA, e->s->moments[at].free.offset + n->offset + (row - n->lo) * bytes);
}

/* ---- launches --------------------------------------------------------------------------------------------------------------------------------- */

static launch *add_launch(emitter *e)
{
    plan *out = e->out;
    if (!array_extend(e->p->context, &out->launches, &out->launches_capacity, out->n_launches + 1, sizeof *out->launches)) return NULL;
    launch *l = &out->launches[out->n_launches++];
    *l = (launch){.type = (uint8_t)out->model_type, .weight = -1};
    return l;
}

static launch *add_kernel(emitter *e, kernel_id kernel, size_t args_size, int64_t blocks, int64_t work)
{
    launch *l = add_launch(e);
    if (!l) return NULL;
    l->kernel = (uint8_t)kernel;
    l->args_size = (int32_t)args_size;
    l->blocks = blocks;
    l->work = work;
    return l;
}

/* Stores a row table, or finds an equal one; its address, NULL when memory is out. */
static void *store_table(emitter *e, const int32_t *rows, size_t n)
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

/* What a step reads for its rows: an address, and a table where rows are not in order. */
typedef struct operand_ref { void *at; const int32_t *rows; int64_t stride; } operand_ref;

typedef struct row_gatherer { emitter *e; int32_t value; bool lost; } row_gatherer;

static bool gather_rows(void *user, int32_t strand_index, int32_t first, int32_t count)
{
    row_gatherer *g = user;
    emitter *e = g->e;
    if (!array_extend(e->p->context, &e->rows, &e->rows_capacity, e->n_rows + (size_t)count, sizeof *e->rows)) return false;
    int32_t row = buffer_row(e, e->when.pass, g->value, strand_index, first);
    for (int32_t i = 0; i < count; i++) e->rows[e->n_rows++] = row + i;
    return true;
}

/* Turns the gathered rows into an operand: rows in order need no table. */
static inset_status finish_operand(emitter *e, int32_t slot_index, operand_ref *out)
{
    const slot *s = &e->p->program->slots[slot_index];
    const value *v = &e->p->program->values[s->value];
    int64_t element = (int64_t)type_size(strand_type(e->p, s->value, -1));
    out->stride = v->width;
    out->at = moved(value_buffer(e, e->when.pass, s->value), s->shape.column * element);
    out->rows = NULL;
    bool in_order = true;
    for (size_t i = 1; i < e->n_rows && in_order; i++) in_order = e->rows[i] == e->rows[0] + (int32_t)i;
    if (in_order) {
        if (e->n_rows) out->at = moved(out->at, (int64_t)e->rows[0] * v->width * element);
        return INSET_OK;
    }
    out->rows = store_table(e, e->rows, e->n_rows);
    return out->rows ? INSET_OK : INSET_NO_MEMORY;
}

static inset_status step_operand(emitter *e, const step *st, int k, operand_ref *out)
{
    const moment_plan *m = &e->s->moments[e->now];
    row_gatherer g = {e, e->p->program->slots[st->operands[k]].value, false};
    e->n_rows = 0;
    int32_t read = moment_number(e->p, (moment){e->when.pass, g.value});
    if (e->s->moments[read].same_as >= 0 && e->s->moments[read].same_as == value_moment(e->s, e->now))
        return finish_operand(e, st->operands[k], out);          /* the same rows in the same order */
    for (int32_t i = 0; i < m->n_order; i++) {
        const need *n = &e->s->needs[m->order[i]];
        if (n->kind == NEED_COMPUTED && !operand_rows(e->p, st, k, n->strand, n->lo, n->hi, gather_rows, &g)) return INSET_NO_MEMORY;
    }
    return finish_operand(e, st->operands[k], out);
}

/* ---- steps ---------------------------------------------------------------------------------------------------------------------------------------- */

static void *weight_at(int32_t index) { return index < 0 ? NULL : tagged(AREA_WEIGHT, index); }

/* Token ids (or positions) of the rows to embed. */
static inset_status emit_embed(emitter *e, const step *st, const moment_plan *m, void *out, int64_t width)
{
    planner *p = e->p;
    plan *made = e->out;
    bool positions = p->program->values[p->program->slots[st->operands[0]].value].per_position;
    void *ids = NULL;
    e->n_rows = 0;
    if (!positions) ids = tagged(AREA_IDS, (int64_t)made->n_ids * 4);
    for (int32_t i = 0; i < m->n_order; i++) {
        const need *n = &e->s->needs[m->order[i]];
        if (n->kind != NEED_COMPUTED) continue;
        if (!array_extend(p->context, &e->rows, &e->rows_capacity, e->n_rows + (size_t)(n->hi - n->lo), sizeof *e->rows)
            || !array_extend(p->context, &made->id_source, &made->ids_capacity, made->n_ids + (size_t)(n->hi - n->lo), sizeof *made->id_source))
            return INSET_NO_MEMORY;
        for (int32_t r = n->lo; r < n->hi; r++) {
            if (positions) e->rows[e->n_rows++] = r;
            else made->id_source[made->n_ids++] = p->words[p->strands[n->strand].first_word + r].source;
        }
    }
    if (positions && !(ids = store_table(e, e->rows, e->n_rows))) return INSET_NO_MEMORY;
    launch *l = add_kernel(e, KERNEL_EMBED, sizeof(embed_args), m->n_computed, m->n_computed * width);
    if (!l) return INSET_NO_MEMORY;
    l->args.embed = (embed_args){.out = out, .table = weight_at(st->weight), .ids = ids, .n_rows = m->n_computed, .width = width, .out_stride = width};
    return INSET_OK;
}

static inset_status emit_linear(emitter *e, const step *st, const moment_plan *m, void *out, int64_t width)
{
    planner *p = e->p;
    operand_ref x;
    inset_status status = step_operand(e, st, 0, &x);
    if (status) return status;
    const weight *w = &p->program->weights[st->weight];
    int64_t in = w->in_out ? w->rows : w->columns;
    if (m->columns) {
        const int32_t *columns = store_table(e, m->columns, (size_t)m->n_columns);
        launch *l = columns ? add_kernel(e, KERNEL_COLUMNS, sizeof(columns_args), m->n_computed, m->n_computed * in * m->n_columns) : NULL;
        if (!l) return INSET_NO_MEMORY;
        l->args.columns = (columns_args){out, x.at, x.rows, weight_at(st->weight), weight_at(st->bias), columns, m->n_computed, m->n_columns, in, m->n_columns, x.stride};
        e->out->statistics.flops += 2.0 * m->n_computed * in * m->n_columns;
        return INSET_OK;
    }
    if (x.rows) {                        /* a matrix product wants its rows in order */
        void *scratch = tagged(AREA_ARENA, e->s->arena_bytes);
        launch *g = add_kernel(e, KERNEL_GATHER, sizeof(gather_args), m->n_computed, m->n_computed * in);
        if (!g) return INSET_NO_MEMORY;
        g->args.gather = (gather_args){.out = scratch, .x = x.at, .x_rows = x.rows, .n_rows = m->n_computed, .width = in, .out_stride = in, .x_stride = x.stride};
        int64_t bytes = m->n_computed * in * (int64_t)type_size(e->out->model_type);
        if (bytes > e->scratch_bytes) e->scratch_bytes = bytes;
        x = (operand_ref){scratch, NULL, in};
    }
    launch *l = add_launch(e);
    if (!l) return INSET_NO_MEMORY;
    l->is_matmul = true;
    l->weight = st->weight;
    l->x = x.at, l->x_stride = x.stride;
    l->y = out, l->y_stride = width;
    l->rows = m->n_computed;
    e->out->statistics.flops += 2.0 * m->n_computed * in * width;
    return INSET_OK;
}

static void record_operand(const emitter *e, const piece *from, int32_t lo, int32_t c0, const void **at, double *constant, int64_t *row, int64_t *column,
                           uint8_t *type, inset_type constant_type);

/* ---- attention -------------------------------------------------------------------------------------------------------------------------------------- */

/* A row that the fused attention computes, not one that is mixed by a pattern in the open. */
static bool is_fused(const emitter *e, const step *st, const need *n)
{
    const strand *t = &e->p->strands[n->strand];
    return n->kind == NEED_COMPUTED && !(t->kind == STRAND_MIX && t->born == st->value);
}

/* The row numbers of segments at a slot's value, as a table. */
static const int32_t *segment_table(emitter *e, int32_t pass, int32_t slot_index, const segment *at, int32_t n, operand_ref *buffer, int64_t *rows)
{
    const slot *s = &e->p->program->slots[slot_index];
    row_gatherer g = {e, s->value, false};
    int32_t kept = e->when.pass;
    e->when.pass = pass;
    e->n_rows = 0;
    bool fine = true;
    for (int32_t i = 0; i < n && fine; i++) fine = gather_rows(&g, at[i].strand, at[i].first, at[i].count);
    buffer->stride = e->p->program->values[s->value].width;
    buffer->at = moved(value_buffer(e, pass, s->value), s->shape.column * (int64_t)type_size(strand_type(e->p, s->value, -1)));
    e->when.pass = kept;
    *rows = (int64_t)e->n_rows;
    return fine ? store_table(e, e->rows, e->n_rows) : NULL;
}

/* Rows of z that are the values mixed by a pattern: one launch a strand. */
static inset_status emit_mixes(emitter *e, const step *st, const moment_plan *m, void *out, int64_t width)
{
    planner *p = e->p;
    for (int32_t i = 0; i < m->n_order; i++) {
        const need *n = &e->s->needs[m->order[i]];
        if (n->kind != NEED_COMPUTED || is_fused(e, st, n)) continue;
        const strand *t = &p->strands[n->strand];
        const piece *from = mix_pattern(t);
        int32_t n_values;
        int64_t keys, size = (int64_t)type_size(e->out->model_type);
        const segment *values = mix_values(t, &n_values);
        operand_ref v;
        const int32_t *value_rows = segment_table(e, e->when.pass, st->operands[2], values, n_values, &v, &keys);
        int64_t rows = n->hi - n->lo;
        record pattern = {0};            /* where it lies is a record's affair: constants and conversions were copied to a row first */
        record_operand(e, from, n->lo, from->c0, &pattern.a, &pattern.a_constant, &pattern.a_row, &pattern.a_column, &pattern.a_type, e->out->model_type);
        launch *l = value_rows ? add_kernel(e, KERNEL_MIX, sizeof(mix_args), rows, rows * keys * width) : NULL;
        if (!l) return INSET_NO_MEMORY;
        l->args.mix = (mix_args){.out = moved(out, n->first_row * width * size), .pattern = pattern.a, .v = v.at, .value_rows = value_rows, .n_rows = rows,
            .n_keys = keys, .n_columns = (from->c1 - from->c0) / st->n_heads, .out_stride = width, .pattern_stride = pattern.a_row, .v_stride = v.stride,
            .n_heads = st->n_heads, .n_kv_heads = st->n_kv_heads, .head_dim = st->head_dim};
        e->out->statistics.flops += 2.0 * (double)(rows * keys * width);
    }
    return INSET_OK;
}

typedef struct pair_rows { emitter *e; const step *pair; int k; bool apart; /* some keys' rows are not their values' */ } pair_rows;

static bool gather_pair_rows(void *user, int32_t strand_index, int32_t first, int32_t count)
{
    pair_rows *g = user;
    operand_row o = pair_part(g->e->p, g->pair, strand_index, g->k);
    g->apart |= o.strand != strand_index;
    row_gatherer rows = {g->e, g->e->p->program->slots[g->pair->operands[g->k]].value, false};
    return gather_rows(&rows, o.strand, first + o.shift, count);
}

/* One table of key (k = 0) or value (k = 1) rows for every context that the moment's rows end in; where each begins goes to leaf_table. */
static inset_status context_tables(emitter *e, const step *st, const moment_plan *m, int k, bool *apart, const int32_t **out)
{
    planner *p = e->p;
    pair_rows g = {e, pair_step(p, st), k, false};
    for (int32_t i = 0; i < m->n_order; i++) {
        const need *n = &e->s->needs[m->order[i]];
        if (!is_fused(e, st, n)) continue;
        operand_row node = attention_part(p, st, n->strand, 1);
        e->leaf_table[node.strand] = -1;
        if (n->hi + node.shift > e->leaf_rows[node.strand]) e->leaf_rows[node.strand] = n->hi + node.shift;
    }
    e->n_rows = 0;
    for (int32_t i = 0; i < m->n_order; i++) {
        const need *n = &e->s->needs[m->order[i]];
        if (!is_fused(e, st, n)) continue;
        operand_row node = attention_part(p, st, n->strand, 1);
        if (e->leaf_table[node.strand] >= 0) continue;
        e->leaf_table[node.strand] = (int32_t)e->n_rows;
        if (!context_rows(p, st, node.strand, e->leaf_rows[node.strand] - 1, gather_pair_rows, &g)) return INSET_NO_MEMORY;
    }
    for (int32_t i = 0; i < m->n_order; i++) {
        const need *n = &e->s->needs[m->order[i]];
        if (is_fused(e, st, n)) e->leaf_rows[attention_part(p, st, n->strand, 1).strand] = 0;
    }
    *apart = g.apart;
    return (*out = store_table(e, e->rows, e->n_rows)) ? INSET_OK : INSET_NO_MEMORY;
}

/* For each row: where its context begins in the tables and how long it is. Returns the total of their lengths. */
static inset_status context_list(emitter *e, const step *st, const moment_plan *m, const attention_context **out, int64_t *total)
{
    planner *p = e->p;
    e->n_rows = 0;
    *total = 0;
    for (int32_t i = 0; i < m->n_order; i++) {
        const need *n = &e->s->needs[m->order[i]];
        if (!is_fused(e, st, n)) continue;
        operand_row node = attention_part(p, st, n->strand, 1);
        int32_t before = p->strands[node.strand].start;
        if (!array_extend(p->context, &e->rows, &e->rows_capacity, e->n_rows + 2 * (size_t)(n->hi - n->lo), sizeof *e->rows)) return INSET_NO_MEMORY;
        for (int32_t r = n->lo; r < n->hi; r++) {
            e->rows[e->n_rows++] = e->leaf_table[node.strand];
            e->rows[e->n_rows++] = before + r + node.shift + 1;
            *total += before + r + node.shift + 1;
        }
    }
    return (*out = store_table(e, e->rows, e->n_rows)) ? INSET_OK : INSET_NO_MEMORY;
}

static inset_status emit_attention(emitter *e, const step *st, const moment_plan *m, void *out, int64_t width)
{
    planner *p = e->p;
    const step *pair = pair_step(p, st);
    operand_ref q, k, v;
    const int32_t *key_rows, *value_rows;
    bool apart = false;
    const attention_context *contexts = NULL;
    row_gatherer g = {e, p->program->slots[st->operands[0]].value, false};
    int64_t total = 0, fused = 0;
    inset_status status = emit_mixes(e, st, m, out, width);
    if (status) return status;
    for (int32_t i = 0; i < m->n_order; i++)
        if (is_fused(e, st, &e->s->needs[m->order[i]])) fused += e->s->needs[m->order[i]].hi - e->s->needs[m->order[i]].lo;
    if (!fused) return INSET_OK;
    e->n_rows = 0;
    for (int32_t i = 0; i < m->n_order; i++) {
        const need *n = &e->s->needs[m->order[i]];
        if (!is_fused(e, st, n)) continue;
        operand_row o = attention_part(p, st, n->strand, 0);
        for (int32_t lo = n->lo + o.shift, hi = n->hi + o.shift; lo < hi; ) {
            segment row = strand_origin_row(p, o.strand, g.value, lo);
            int32_t count = row.count < hi - lo ? row.count : hi - lo;
            if (!gather_rows(&g, row.strand, row.first, count)) return INSET_NO_MEMORY;
            lo += count;
        }
    }
    status = finish_operand(e, st->operands[0], &q);
    e->n_rows = 0;
    if (status || (status = finish_operand(e, pair->operands[0], &k)) || (status = finish_operand(e, pair->operands[1], &v))
        || (status = context_tables(e, st, m, 0, &apart, &key_rows))) return status;
    /* Keys and values in one buffer, none patched apart: one table serves both. */
    if (!apart && p->program->slots[pair->operands[0]].value == p->program->slots[pair->operands[1]].value) value_rows = key_rows;
    else if ((status = context_tables(e, st, m, 1, &apart, &value_rows))) return status;
    if ((status = context_list(e, st, m, &contexts, &total))) return status;
    int64_t keys = total * st->n_heads * st->head_dim;
    launch *l = add_kernel(e, KERNEL_ATTENTION, sizeof(attention_args), fused * st->n_heads, keys * 2);
    if (!l) return INSET_NO_MEMORY;
    l->args.attention = (attention_args){.out = out, .q = q.at, .k = k.at, .v = v.at, .q_rows = q.rows, .key_rows = key_rows, .value_rows = value_rows,
        .contexts = contexts, .n_rows = fused, .out_stride = width, .q_stride = q.stride, .k_stride = k.stride, .v_stride = v.stride,
        .n_heads = st->n_heads, .n_kv_heads = st->n_kv_heads, .head_dim = st->head_dim, .window = st->window, .scale = st->scale, .softcap = st->softcap};
    e->out->statistics.flops += 4.0 * (double)keys;
    return INSET_OK;
}

static inset_status emit_rope(emitter *e, const step *st, const moment_plan *m, void *out, int64_t width)
{
    planner *p = e->p;
    operand_ref x;
    inset_status status = step_operand(e, st, 0, &x);
    if (status) return status;
    e->n_rows = 0;
    for (int32_t i = 0; i < m->n_order; i++) {
        const need *n = &e->s->needs[m->order[i]];
        if (n->kind != NEED_COMPUTED) continue;
        const strand *t = &p->strands[n->strand];
        bool own = t->kind == STRAND_STEP && t->born == st->value;       /* its second operand is the position */
        if (!array_extend(p->context, &e->rows, &e->rows_capacity, e->n_rows + (size_t)(n->hi - n->lo), sizeof *e->rows)) return INSET_NO_MEMORY;
        for (int32_t r = n->lo; r < n->hi; r++) e->rows[e->n_rows++] = own ? r + t->operands[1].shift : strand_position(p, n->strand, r);
    }
    const int32_t *positions = store_table(e, e->rows, e->n_rows);
    launch *l = positions ? add_kernel(e, KERNEL_ROPE, sizeof(rope_args), m->n_computed, m->n_computed * width * 2) : NULL;
    if (!l) return INSET_NO_MEMORY;
    /* The frequencies are a table of the program: they travel with the row tables, bit by bit. */
    size_t half = (size_t)st->rotary_dims / 2;
    void *frequencies = half ? store_table(e, (const int32_t *)(const void *)st->frequencies, half) : NULL;
    if (half && !frequencies) return INSET_NO_MEMORY;
    l = &e->out->launches[e->out->n_launches - 1];
    l->args.rope = (rope_args){.out = out, .x = x.at, .x_rows = x.rows, .positions = positions, .frequencies = frequencies, .n_rows = m->n_computed,
        .out_stride = width, .x_stride = x.stride, .n_heads = st->n_heads, .head_dim = st->head_dim, .rotary_dims = st->rotary_dims,
        .attention_scale = st->rope_attention_scale, .x_head_stride = e->p->program->slots[st->operands[0]].shape.stride};
    return INSET_OK;
}

/* An addition with the layer norm of its rows. */
static inset_status emit_add_norm(emitter *e, const moment_plan *m, const operand_ref *in, void *out, int64_t width)
{
    const program *g = e->p->program;
    const step *norm = &g->steps[g->values[moment_of(e->p, m->norm).value].step];
    launch *l = add_kernel(e, KERNEL_ADD_LAYERNORM, sizeof(add_layernorm_args), m->n_computed, m->n_computed * width * 2);
    if (!l) return INSET_NO_MEMORY;
    l->args.add_layernorm = (add_layernorm_args){.out = out, .norm = tagged(AREA_ARENA, e->s->moments[m->norm].value.offset), .a = in[0].at, .b = in[1].at,
        .a_rows = in[0].rows, .b_rows = in[1].rows, .weight = weight_at(norm->weight), .bias = weight_at(norm->bias), .n_rows = m->n_computed, .width = width,
        .out_stride = width, .norm_stride = width, .a_stride = in[0].stride, .b_stride = in[1].stride, .eps = norm->eps};
    return INSET_OK;
}

/* Rows of a norm that divide by a scale of their own: they come last. Sets how many they are. */
static inset_status emit_by_scale(emitter *e, const step *st, const moment_plan *m, void *out, int64_t width, int64_t *count)
{
    planner *p = e->p;
    operand_ref in[2] = {{0}, {0}};
    *count = 0;
    for (int32_t i = 0; i < m->n_order; i++) {
        const need *n = &e->s->needs[m->order[i]];
        if (n->kind == NEED_COMPUTED && scale_given(p, st, n->strand)) *count += n->hi - n->lo;
    }
    if (!*count) return INSET_OK;
    for (int k = 0; k < 2; k++) {
        row_gatherer g = {e, p->program->slots[st->operands[k]].value, false};
        e->n_rows = 0;
        for (int32_t i = 0; i < m->n_order; i++) {
            const need *n = &e->s->needs[m->order[i]];
            if (n->kind == NEED_COMPUTED && scale_given(p, st, n->strand)
                && !operand_rows(p, st, k, n->strand, n->lo, n->hi, gather_rows, &g)) return INSET_NO_MEMORY;
        }
        inset_status status = finish_operand(e, st->operands[k], &in[k]);
        if (status) return status;
    }
    launch *l = add_kernel(e, KERNEL_NORM_BY_SCALE, sizeof(norm_by_scale_args), *count, *count * width);
    if (!l) return INSET_NO_MEMORY;
    l->args.norm_by_scale = (norm_by_scale_args){.out = moved(out, (m->n_computed - *count) * width * (int64_t)type_size(e->out->model_type)), .x = in[0].at,
        .scale = in[1].at, .x_rows = in[0].rows, .scale_rows = in[1].rows, .weight = weight_at(st->weight), .bias = weight_at(st->bias), .n_rows = *count,
        .width = width, .out_stride = width, .x_stride = in[0].stride, .scale_stride = in[1].stride, .groups = st->norm_groups > 1 ? st->norm_groups : 1,
        .centred = st->norm_centred, .plus_one = st->norm_plus_one};
    return INSET_OK;
}

/* Steps that go row by row through one kernel. */
static inset_status emit_rowwise(emitter *e, const step *st, const moment_plan *m, void *out, int64_t width)
{
    operand_ref in[3] = {{0}, {0}, {0}};
    int64_t by_scale;
    inset_status status = emit_by_scale(e, st, m, out, width, &by_scale);
    for (int k = 0; k < st->n_operands && !status; k++) status = step_operand(e, st, k, &in[k]);
    if (status) return status;
    static const struct { kernel_id kernel; size_t size; } which[] = {
        [STEP_LAYERNORM] = {KERNEL_LAYERNORM, sizeof(layernorm_args)}, [STEP_RMSNORM] = {KERNEL_RMSNORM, sizeof(rmsnorm_args)},
        [STEP_ACTIVATION] = {KERNEL_ACTIVATION, sizeof(activation_args)}, [STEP_GATE] = {KERNEL_GATE, sizeof(gate_args)},
        [STEP_NORM_SCALE] = {KERNEL_NORM_SCALE, sizeof(norm_scale_args)}, [STEP_ADD] = {KERNEL_ADD, sizeof(add_args)}, [STEP_SCALE] = {KERNEL_SCALE, sizeof(scale_args)}, [STEP_SOFTCAP] = {KERNEL_SCALE, sizeof(scale_args)},
    };
    if (m->norm) return emit_add_norm(e, m, in, out, width);
    int64_t n = m->n_computed - by_scale, cost = st->kind == STEP_ACTIVATION || st->kind == STEP_SOFTCAP ? 4 : 1;
    if (!n) return INSET_OK;
    launch *l = add_kernel(e, which[st->kind].kernel, which[st->kind].size, n, n * width * cost);
    if (!l) return INSET_NO_MEMORY;
    switch (st->kind) {
    case STEP_LAYERNORM:
        l->args.layernorm = (layernorm_args){out, in[0].at, in[0].rows, weight_at(st->weight), weight_at(st->bias), n, width, width, in[0].stride, st->eps};
        break;
    case STEP_RMSNORM:
        l->args.rmsnorm = (rmsnorm_args){out, in[0].at, in[0].rows, weight_at(st->weight), n, width, width, in[0].stride,
                                         st->norm_groups > 1 ? st->norm_groups : 1, st->eps, st->norm_plus_one};
        break;
    case STEP_NORM_SCALE: {
        const slot *x = &e->p->program->slots[st->operands[0]];
        l->args.norm_scale = (norm_scale_args){.out = out, .x = in[0].at, .x_rows = in[0].rows, .n_rows = n, .width = slot_column_end(x) - x->shape.column,
            .out_stride = width, .x_stride = in[0].stride, .groups = width, .eps = st->eps, .centred = st->norm_centred};
        break;
    }
    case STEP_ACTIVATION:
        l->args.activation = (activation_args){out, in[0].at, in[0].rows, NULL, n, width, width, in[0].stride, (int32_t)st->activation};
        break;
    case STEP_GATE:
        l->args.gate = (gate_args){out, in[0].at, in[1].at, in[0].rows, in[1].rows, n, width, width, in[0].stride, in[1].stride};
        break;
    case STEP_ADD:
        l->args.add = (add_args){out, in[0].at, in[1].at, in[2].at, in[0].rows, in[1].rows, in[2].rows, n, width, width, in[0].stride, in[1].stride, in[2].stride};
        break;
    default:
        l->args.scale = (scale_args){out, in[0].at, in[0].rows, n, width, width, in[0].stride, st->kind == STEP_SCALE ? st->scale : 1,
                                     st->kind == STEP_SOFTCAP ? st->scale : 0};
    }
    return INSET_OK;
}

/* ---- records ----------------------------------------------------------------------------------------------------------------------------------------- */

/* Joins b to a where its rows go on from a's; false when it does not. */
static bool join_records(record *a, const record *b)
{
    if (a->op != b->op || a->columns != b->columns || a->out_type != b->out_type || a->a_type != b->a_type || a->b_type != b->b_type || a->compute != b->compute
        || a->out_column != b->out_column || a->a_column != b->a_column || a->b_column != b->b_column || !a->a != !b->a || !a->b != !b->b
        || memcmp(&a->a_constant, &b->a_constant, sizeof(double)) || memcmp(&a->b_constant, &b->b_constant, sizeof(double))
        || a->rows > INT32_MAX - b->rows) return false;
    const void *at[3][2] = {{a->out, b->out}, {a->a, b->a}, {a->b, b->b}};
    int64_t *stride[3] = {&a->out_row, &a->a_row, &a->b_row}, next[3] = {b->out_row, b->a_row, b->b_row}, step[3];
    const uint8_t types[3] = {a->out_type, a->a_type, a->b_type};
    for (int k = 0; k < 3; k++) {
        if (!at[k][0]) {
            step[k] = 0;
            continue;
        }
        int64_t bytes = (const char *)at[k][1] - (const char *)at[k][0], size = (int64_t)type_size((inset_type)types[k]);
        if (bytes % (size * a->rows)) return false;
        step[k] = bytes / size / a->rows;
        if (step[k] < 0 || step[k] > INT32_MAX || (a->rows > 1 && step[k] != *stride[k]) || (b->rows > 1 && step[k] != next[k])) return false;
    }
    for (int k = 0; k < 3; k++) *stride[k] = step[k];
    a->rows += b->rows;
    return true;
}

static bool add_device_record(emitter *e, const record *r)
{
    plan *out = e->out;
    if (!r->rows || !r->columns) return true;
    if (out->n_records > e->first_record && join_records(&out->records[out->n_records - 1], r)) return true;
    if (!array_extend(e->p->context, &out->records, &out->records_capacity, out->n_records + 1, sizeof *out->records)) return false;
    out->records[out->n_records++] = *r;
    return true;
}

/* An operand of a record: rows lo .. of a piece, from its column c0 on. */
static void record_operand(const emitter *e, const piece *from, int32_t lo, int32_t c0, const void **at, double *constant, int64_t *row, int64_t *column,
                           uint8_t *type, inset_type constant_type)
{
    if (from->domain == DOMAIN_CONSTANT) {
        *at = NULL;
        *constant = piece_number(from);
        *type = (uint8_t)constant_type;
        return;
    }
    inset_type t = strand_type(e->p, from->domain, from->strand);
    int32_t first = from->row_step ? lo + from->shift : from->shift;
    int64_t size = (int64_t)type_size(t);
    *type = (uint8_t)t;
    int64_t source = from->column + (int64_t)(c0 - from->c0) * from->column_step;
    const moment_plan *chosen = chosen_columns(e, from->domain, from->strand);
    if (chosen) {                        /* what a record reads is one range of them, so its columns stay side by side */
        int32_t lo = 0, hi = chosen->n_columns - 1;
        while (lo < hi) {
            int32_t middle = lo + (hi - lo) / 2;
            if (chosen->columns[middle] < source) lo = middle + 1;
            else hi = middle;
        }
        source = lo;
    }
    *at = moved(row_address(e, from->domain, from->strand, first), source * size);
    *row = from->row_step ? row_bytes(e, from->domain, from->strand) / size : 0;
    *column = from->column_step;
}

/* The records that make rows of a copy or an expression. */
static bool emit_rows_of(emitter *e, const need *n)
{
    const strand *t = &e->p->strands[n->strand];
    inset_type type = strand_type(e->p, t->born, n->strand);
    char *out = row_address(e, t->born, n->strand, n->lo);
    int64_t size = (int64_t)type_size(type), stride = row_bytes(e, t->born, n->strand) / size;
    record r = {.out_row = stride, .out_column = 1, .rows = n->hi - n->lo, .out_type = (uint8_t)type, .compute = (uint8_t)type};
    if (t->kind == STRAND_EXPR) {
        r.op = t->op;                    /* trace_op and record_op name the same operations in the same order */
        r.columns = n->c1 - n->c0;
        r.out = moved(out, n->c0 * size);
        record_operand(e, &t->pieces[0], n->lo, n->c0, &r.a, &r.a_constant, &r.a_row, &r.a_column, &r.a_type, type_is_float(type) ? INSET_F64 : INSET_I64);
        if (t->n > 1)
            record_operand(e, &t->pieces[1], n->lo, n->c0, &r.b, &r.b_constant, &r.b_row, &r.b_column, &r.b_type, type_is_float(type) ? INSET_F64 : INSET_I64);
        return add_device_record(e, &r);
    }
    for (int32_t i = 0; i < t->n; i++) {
        const piece *from = &t->pieces[i];
        int32_t c0 = from->c0 > n->c0 ? from->c0 : n->c0, c1 = from->c1 < n->c1 ? from->c1 : n->c1;
        if (c0 >= c1) continue;
        record one = r;
        one.op = RECORD_COPY;
        one.columns = c1 - c0;
        one.out = moved(out, c0 * size);
        record_operand(e, from, n->lo, c0, &one.a, &one.a_constant, &one.a_row, &one.a_column, &one.a_type, type);
        if (!add_device_record(e, &one)) return false;
    }
    return true;
}

/* Scores and their softmax for rows of an open attention. */
static inset_status emit_open(emitter *e, const need *n)
{
    planner *p = e->p;
    const strand *t = &p->strands[n->strand];
    void *out = row_address(e, DOMAIN_FREE, n->strand, n->lo);
    int64_t rows = n->hi - n->lo;
    if (t->kind == STRAND_SOFTMAX) {
        record from = {0};
        record_operand(e, t->pieces, n->lo, 0, &from.a, &from.a_constant, &from.a_row, &from.a_column, &from.a_type, (inset_type)t->type);
        launch *l = add_kernel(e, KERNEL_SOFTMAX, sizeof(softmax_args), rows, rows * t->width * 4);
        if (!l) return INSET_NO_MEMORY;
        l->args.softmax = (softmax_args){.out = out, .x = from.a, .n_rows = rows, .groups = t->parent_row, .n_columns = t->width / t->parent_row,
                                         .out_stride = t->width, .x_stride = from.a_row};
        return INSET_OK;
    }
    const step *st = scores_step(p, t);
    operand_ref q, k;
    int32_t n_queries, n_keys;
    int64_t all, keys;
    const segment *queries = scores_queries(t, &n_queries), *key_segments = scores_keys(t, &n_keys);
    const int32_t *q_rows = segment_table(e, t->pass, st->operands[0], queries, n_queries, &q, &all);
    const int32_t *key_rows = q_rows ? segment_table(e, t->pass, st->operands[1], key_segments, n_keys, &k, &keys) : NULL;
    launch *l = key_rows ? add_kernel(e, KERNEL_SCORES, sizeof(scores_args), rows * st->n_heads, rows * keys * st->n_heads * st->head_dim) : NULL;
    if (!l) return INSET_NO_MEMORY;
    l->args.scores = (scores_args){.out = out, .q = q.at, .k = k.at, .q_rows = (const int32_t *)moved((void *)(uintptr_t)q_rows, n->lo * 4), .key_rows = key_rows,
        .n_rows = rows, .n_keys = keys, .n_columns = t->width / st->n_heads, .first_position = n->lo, .out_stride = t->width, .q_stride = q.stride,
        .k_stride = k.stride, .n_heads = st->n_heads, .n_kv_heads = st->n_kv_heads, .head_dim = st->head_dim, .window = st->window, .scale = st->scale,
        .softcap = st->softcap};
    e->out->statistics.flops += 2.0 * (double)(rows * keys * st->n_heads * st->head_dim);
    return INSET_OK;
}

/* Rows of this moment that a later pass reads are put aside; rows of earlier passes are fetched from where those put them. */
static bool emit_kept(emitter *e, const need *n)
{
    planner *p = e->p;
    int32_t value_index = e->when.value;
    inset_type type = strand_type(p, value_index, -1);
    int64_t bytes = row_bytes(e, value_index, n->strand), width = bytes / (int64_t)type_size(type);
    record r = {.op = RECORD_COPY, .out_type = (uint8_t)type, .a_type = (uint8_t)type, .compute = (uint8_t)type, .out_row = width, .a_row = width,
                .out_column = 1, .a_column = 1, .rows = n->hi - n->lo, .columns = (int32_t)width};
    r.out = n->kind == NEED_KEEP ? kept_address(e, value_index, n->strand, n->lo) : moved(value_buffer(e, e->when.pass, value_index), n->first_row * bytes);
    r.a = row_address(e, value_index, n->strand, n->lo);
    return add_device_record(e, &r);
}

/* The level at which a need's rows are made by a record: what is put aside comes after what it is made of. */
static int32_t need_level(const emitter *e, const need *n)
{
    return n->kind == NEED_KEEP ? strand_level(e->p, e->when.value, n->strand) + 1 : n->level;
}

static bool emit_saved(emitter *e, const saved_rows *g)
{
    const saved_tensor *save = &e->s->saved[g->save];
    int64_t size = (int64_t)type_size(save->type);
    record r = {.op = RECORD_COPY, .out_type = (uint8_t)save->type, .compute = (uint8_t)save->type, .out_row = g->stride, .out_column = 1, .rows = g->rows,
                .columns = g->from.c1 - g->from.c0};
    r.out = tagged(AREA_SAVED, save->offset + g->offset + g->from.c0 * size);
    record_operand(e, &g->from, 0, g->from.c0, &r.a, &r.a_constant, &r.a_row, &r.a_column, &r.a_type, save->type);
    return add_device_record(e, &r);
}

static int32_t saved_level(const emitter *e, const saved_rows *g) { return strand_level(e->p, g->from.domain, g->from.strand) + 1; }

static int32_t saved_moment(const planner *p, const saved_rows *g) { return moment_number(p, strand_moment(p, g->from.domain, g->from.strand)); }

/* Closes the record launch that began at first_record. */
static inset_status finish_records(emitter *e)
{
    plan *out = e->out;
    size_t n = out->n_records - e->first_record;
    if (!n) return INSET_OK;
    int64_t blocks = records_number_blocks(out->records + e->first_record, (int64_t)n), work = 0;
    for (size_t i = e->first_record; i < out->n_records; i++) work += (int64_t)out->records[i].rows * out->records[i].columns;
    launch *l = add_kernel(e, KERNEL_RECORDS, sizeof(records_args), blocks, work);
    if (!l) return INSET_NO_MEMORY;
    l->type = INSET_F32;
    l->args.records = (records_args){tagged(AREA_RECORDS, (int64_t)e->first_record * (int64_t)sizeof(record)), (int64_t)n};
    return INSET_OK;
}

static inset_status emit_records(emitter *e)
{
    const schedule *s = e->s;
    const moment_plan *m = &s->moments[e->now];
    size_t saved_end = e->saved_next;
    int32_t last = m->n_levels;
    for (; saved_end < s->n_rows && saved_moment(e->p, &s->rows[e->saved_order[saved_end]]) == e->now; saved_end++) {
        int32_t level = saved_level(e, &s->rows[e->saved_order[saved_end]]);
        if (level > last) last = level;
    }
    for (int32_t i = 0; i < m->n_order && s->n_passes > 1; i++) {
        int32_t level = need_level(e, &s->needs[m->order[i]]);
        if (level > last) last = level;
    }
    for (int32_t level = 1; level <= last; level++) {
        e->first_record = e->out->n_records;
        bool fine = true;
        for (int32_t i = 0; i < m->n_order && fine; i++) {
            const need *n = &s->needs[m->order[i]];
            if (n->kind == NEED_COMPUTED || need_level(e, n) != level) continue;
            uint8_t kind = e->p->strands[n->strand].kind;
            if (n->kind == NEED_KEPT || n->kind == NEED_KEEP) fine = emit_kept(e, n);
            else fine = kind == STRAND_SCORES || kind == STRAND_SOFTMAX ? !emit_open(e, n) : emit_rows_of(e, n);
        }
        for (size_t i = e->saved_next; i < saved_end && fine; i++) {
            const saved_rows *g = &s->rows[e->saved_order[i]];
            if (saved_level(e, g) == level) fine = emit_saved(e, g);
        }
        if (!fine) return INSET_NO_MEMORY;
        inset_status status = finish_records(e);
        if (status) return status;
    }
    e->saved_next = saved_end;
    return INSET_OK;
}

/* Rows that come from outside: a sequential model's input, token ids and positions when somebody reads them. */
static inset_status emit_source(emitter *e, const step *st, const moment_plan *m)
{
    planner *p = e->p;
    int32_t width = p->program->values[st->value].width;
    inset_type type = strand_type(p, st->value, -1);
    e->first_record = e->out->n_records;
    for (int32_t i = 0; i < m->n_order; i++) {
        const need *n = &e->s->needs[m->order[i]];
        if (n->kind != NEED_COMPUTED) continue;
        for (int32_t r = n->lo; r < n->hi; r++) {
            record one = {.op = RECORD_COPY, .out_type = (uint8_t)type, .compute = (uint8_t)type, .out_row = width, .out_column = 1, .a_column = 1, .rows = 1,
                          .columns = width, .out = row_address(e, st->value, n->strand, r)};
            if (st->kind == STEP_POSITIONS) one.a_constant = r, one.a_type = INSET_I64;
            else {
                int64_t source = p->words[p->strands[n->strand].first_word + r].source;
                bool input = st->kind == STEP_INPUT;
                if (!input && !array_extend(p->context, &e->out->id_source, &e->out->ids_capacity, e->out->n_ids + 1, sizeof *e->out->id_source)) return INSET_NO_MEMORY;
                one.a_type = input ? INSET_F32 : INSET_I32;
                one.a = input ? tagged(AREA_INPUT, source * width * 4) : tagged(AREA_IDS, (int64_t)e->out->n_ids * 4);
                if (!input) e->out->id_source[e->out->n_ids++] = source;
            }
            if (!add_device_record(e, &one)) return INSET_NO_MEMORY;
        }
    }
    return finish_records(e);
}

static inset_status emit_step(emitter *e, const step *st)
{
    const moment_plan *m = &e->s->moments[e->now];
    void *out = value_buffer(e, e->when.pass, e->when.value);
    int64_t width = e->p->program->values[st->value].width;
    e->out->statistics.rows += m->n_computed;
    e->out->rows_of_value[st->value] += m->n_computed;
    e->out->statistics.steps++;
    if (m->in_addition) return INSET_OK;
    switch (st->kind) {
    case STEP_INPUT: case STEP_TOKENS: case STEP_POSITIONS: return emit_source(e, st, m);
    case STEP_EMBED: return emit_embed(e, st, m, out, width);
    case STEP_LINEAR: return emit_linear(e, st, m, out, width);
    case STEP_ATTENTION: return emit_attention(e, st, m, out, width);
    case STEP_ROPE: return emit_rope(e, st, m, out, width);
    case STEP_PAIR: case STEP_SCORES: case STEP_PATTERN: return INSET_OK;
    default: return emit_rowwise(e, st, m, out, width);
    }
}

/* ---- all of it ------------------------------------------------------------------------------------------------------------------------------------------ */

typedef struct moment_key { int32_t moment, row; } moment_key;

static int compare_moments(const void *a, const void *b)
{
    const moment_key *x = a, *y = b;
    if (x->moment != y->moment) return x->moment < y->moment ? -1 : 1;
    return (x->row > y->row) - (x->row < y->row);
}

static inset_status order_saved(emitter *e)
{
    schedule *s = e->s;
    moment_key *keys = arena_new(&e->p->scratch, s->n_rows * sizeof *keys);
    e->saved_order = arena_new(&e->p->scratch, s->n_rows * sizeof *e->saved_order);
    if (!keys || !e->saved_order) return INSET_NO_MEMORY;
    for (size_t i = 0; i < s->n_rows; i++) keys[i] = (moment_key){saved_moment(e->p, &s->rows[i]), (int32_t)i};
    qsort(keys, s->n_rows, sizeof *keys, compare_moments);
    for (size_t i = 0; i < s->n_rows; i++) e->saved_order[i] = keys[i].row;
    return INSET_OK;
}

static inset_status emit_all(emitter *e)
{
    planner *p = e->p;
    e->leaf_rows = arena_new(&p->scratch, p->n_strands * sizeof *e->leaf_rows);
    e->leaf_table = arena_new(&p->scratch, p->n_strands * sizeof *e->leaf_table);
    e->out->rows_of_value = arena_new(&e->out->memory, p->program->n_values * sizeof *e->out->rows_of_value);
    inset_status status = e->leaf_rows && e->leaf_table && e->out->rows_of_value ? order_saved(e) : INSET_NO_MEMORY;
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

const int16_t *launch_pointers(kernel_id kernel)
{
#define AT(type, field) (int16_t)offsetof(type, field)
    static const int16_t embed[] = {AT(embed_args, out), AT(embed_args, table), AT(embed_args, ids), -1};
    static const int16_t gather[] = {AT(gather_args, out), AT(gather_args, x), AT(gather_args, x_rows), -1};
    static const int16_t layernorm[] = {AT(layernorm_args, out), AT(layernorm_args, x), AT(layernorm_args, x_rows), AT(layernorm_args, weight),
                                        AT(layernorm_args, bias), -1};
    static const int16_t rmsnorm[] = {AT(rmsnorm_args, out), AT(rmsnorm_args, x), AT(rmsnorm_args, x_rows), AT(rmsnorm_args, weight), -1};
    static const int16_t activation[] = {AT(activation_args, out), AT(activation_args, x), AT(activation_args, x_rows), AT(activation_args, bias), -1};
    static const int16_t gate[] = {AT(gate_args, out), AT(gate_args, a), AT(gate_args, b), AT(gate_args, a_rows), AT(gate_args, b_rows), -1};
    static const int16_t add[] = {AT(add_args, out), AT(add_args, a), AT(add_args, b), AT(add_args, c), AT(add_args, a_rows), AT(add_args, b_rows),
                                  AT(add_args, c_rows), -1};
    static const int16_t add_layernorm[] = {AT(add_layernorm_args, out), AT(add_layernorm_args, norm), AT(add_layernorm_args, a), AT(add_layernorm_args, b),
        AT(add_layernorm_args, a_rows), AT(add_layernorm_args, b_rows), AT(add_layernorm_args, weight), AT(add_layernorm_args, bias), -1};
    static const int16_t scale[] = {AT(scale_args, out), AT(scale_args, x), AT(scale_args, x_rows), -1};
    static const int16_t rope[] = {AT(rope_args, out), AT(rope_args, x), AT(rope_args, x_rows), AT(rope_args, positions), AT(rope_args, frequencies), -1};
    static const int16_t attention[] = {AT(attention_args, out), AT(attention_args, q), AT(attention_args, k), AT(attention_args, v), AT(attention_args, q_rows),
        AT(attention_args, key_rows), AT(attention_args, value_rows), AT(attention_args, contexts), -1};
    static const int16_t columns[] = {AT(columns_args, out), AT(columns_args, x), AT(columns_args, x_rows), AT(columns_args, weight), AT(columns_args, bias),
        AT(columns_args, columns), -1};
    static const int16_t scores[] = {AT(scores_args, out), AT(scores_args, q), AT(scores_args, k), AT(scores_args, q_rows), AT(scores_args, key_rows), -1};
    static const int16_t softmax[] = {AT(softmax_args, out), AT(softmax_args, x), -1};
    static const int16_t mix[] = {AT(mix_args, out), AT(mix_args, pattern), AT(mix_args, v), AT(mix_args, value_rows), -1};
    static const int16_t norm_scale[] = {AT(norm_scale_args, out), AT(norm_scale_args, x), AT(norm_scale_args, x_rows), -1};
    static const int16_t norm_by_scale[] = {AT(norm_by_scale_args, out), AT(norm_by_scale_args, x), AT(norm_by_scale_args, scale), AT(norm_by_scale_args, x_rows),
        AT(norm_by_scale_args, scale_rows), AT(norm_by_scale_args, weight), AT(norm_by_scale_args, bias), -1};
    static const int16_t records[] = {AT(records_args, records), -1};
#undef AT
    static const int16_t *const all[KERNEL_COUNT] = {
        [KERNEL_EMBED] = embed, [KERNEL_GATHER] = gather, [KERNEL_LAYERNORM] = layernorm, [KERNEL_RMSNORM] = rmsnorm, [KERNEL_ACTIVATION] = activation,
        [KERNEL_GATE] = gate, [KERNEL_ADD] = add, [KERNEL_ADD_LAYERNORM] = add_layernorm, [KERNEL_SCALE] = scale, [KERNEL_ROPE] = rope,
        [KERNEL_ATTENTION] = attention, [KERNEL_COLUMNS] = columns, [KERNEL_SCORES] = scores, [KERNEL_SOFTMAX] = softmax, [KERNEL_MIX] = mix,
        [KERNEL_NORM_SCALE] = norm_scale, [KERNEL_NORM_BY_SCALE] = norm_by_scale, [KERNEL_RECORDS] = records,
    };
    return all[kernel];
}
