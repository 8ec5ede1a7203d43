/* emit_attention.c: attention over the key-value row tables, and attention in the open for rows whose scores or pattern somebody touches. */
#include "plan/emit.h"

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
    row_gatherer g = {e, s->value};
    int32_t kept = e->when.pass;
    e->when.pass = pass;
    e->n_rows = 0;
    bool fine = true;
    for (int32_t i = 0; i < n && fine; i++) fine = emit_gather_rows(&g, at[i].strand, at[i].first, at[i].count);
    buffer->stride = e->p->program->values[s->value].width;
    buffer->at = moved(emit_value_buffer(e, pass, s->value), s->shape.column * (int64_t)type_size(strand_type(e->p, s->value, -1)));
    e->when.pass = kept;
    *rows = (int64_t)e->n_rows;
    return fine ? emit_table(e, e->rows, e->n_rows) : NULL;
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
        emit_record_operand(e, from, n->lo, from->c0, &pattern.a, &pattern.a_constant, &pattern.a_row, &pattern.a_column, &pattern.a_type, e->out->model_type);
        launch *l = value_rows ? emit_kernel(e, KERNEL_MIX, sizeof(mix_args), rows, rows * keys * width) : NULL;
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
    row_gatherer rows = {g->e, g->e->p->program->slots[g->pair->operands[g->k]].value};
    return emit_gather_rows(&rows, o.strand, first + o.shift, count);
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
    return (*out = emit_table(e, e->rows, e->n_rows)) ? INSET_OK : INSET_NO_MEMORY;
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
    return (*out = emit_table(e, e->rows, e->n_rows)) ? INSET_OK : INSET_NO_MEMORY;
}

inset_status emit_attention(emitter *e, const step *st, const moment_plan *m, void *out, int64_t width)
{
    planner *p = e->p;
    const step *pair = pair_step(p, st);
    operand_ref q, k, v;
    const int32_t *key_rows, *value_rows;
    bool apart = false;
    const attention_context *contexts = NULL;
    row_gatherer g = {e, p->program->slots[st->operands[0]].value};
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
            if (!emit_gather_rows(&g, row.strand, row.first, count)) return INSET_NO_MEMORY;
            lo += count;
        }
    }
    status = emit_finish_operand(e, st->operands[0], &q);
    e->n_rows = 0;
    if (status || (status = emit_finish_operand(e, pair->operands[0], &k)) || (status = emit_finish_operand(e, pair->operands[1], &v))
        || (status = context_tables(e, st, m, 0, &apart, &key_rows))) return status;
    /* Keys and values in one buffer, none patched apart: one table serves both. */
    if (!apart && p->program->slots[pair->operands[0]].value == p->program->slots[pair->operands[1]].value) value_rows = key_rows;
    else if ((status = context_tables(e, st, m, 1, &apart, &value_rows))) return status;
    if ((status = context_list(e, st, m, &contexts, &total))) return status;
    int64_t keys = total * st->n_heads * st->head_dim;
    launch *l = emit_kernel(e, KERNEL_ATTENTION, sizeof(attention_args), fused * st->n_heads, keys * 2);
    if (!l) return INSET_NO_MEMORY;
    l->args.attention = (attention_args){.out = out, .q = q.at, .k = k.at, .v = v.at, .q_rows = q.rows, .key_rows = key_rows, .value_rows = value_rows,
        .contexts = contexts, .n_rows = fused, .out_stride = width, .q_stride = q.stride, .k_stride = k.stride, .v_stride = v.stride,
        .n_heads = st->n_heads, .n_kv_heads = st->n_kv_heads, .head_dim = st->head_dim, .window = st->window, .scale = st->scale, .softcap = st->softcap};
    e->out->statistics.flops += 4.0 * (double)keys;
    return INSET_OK;
}

/* ---- in the open ----------------------------------------------------------------------------------------------------------------------------------- */

/* Scores and their softmax for rows of an open attention. */
inset_status emit_open(emitter *e, const need *n)
{
    planner *p = e->p;
    const strand *t = &p->strands[n->strand];
    void *out = emit_row_address(e, DOMAIN_FREE, n->strand, n->lo);
    int64_t rows = n->hi - n->lo;
    if (t->kind == STRAND_SOFTMAX) {
        record from = {0};
        emit_record_operand(e, t->pieces, n->lo, 0, &from.a, &from.a_constant, &from.a_row, &from.a_column, &from.a_type, (inset_type)t->type);
        launch *l = emit_kernel(e, KERNEL_SOFTMAX, sizeof(softmax_args), rows, rows * t->width * 4);
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
    launch *l = key_rows ? emit_kernel(e, KERNEL_SCORES, sizeof(scores_args), rows * st->n_heads, rows * keys * st->n_heads * st->head_dim) : NULL;
    if (!l) return INSET_NO_MEMORY;
    l->args.scores = (scores_args){.out = out, .q = q.at, .k = k.at, .q_rows = (const int32_t *)moved((void *)(uintptr_t)q_rows, n->lo * 4), .key_rows = key_rows,
        .n_rows = rows, .n_keys = keys, .n_columns = t->width / st->n_heads, .first_position = n->lo, .out_stride = t->width, .q_stride = q.stride,
        .k_stride = k.stride, .n_heads = st->n_heads, .n_kv_heads = st->n_kv_heads, .head_dim = st->head_dim, .window = st->window, .scale = st->scale,
        .softcap = st->softcap};
    e->out->statistics.flops += 2.0 * (double)(rows * keys * st->n_heads * st->head_dim);
    return INSET_OK;
}
