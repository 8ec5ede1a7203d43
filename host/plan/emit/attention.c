/* attention.c: attention over the key-value row tables, and attention in the open for rows whose
 * scores or pattern somebody touches. */
#include "plan/emit/emit.h"

#include <math.h>

/* ---- attention ---------------------------------------------------------- */

/* A row that the fused attention computes, not one that is mixed by a pattern in the open. */
static bool is_fused(const emitter *e, const step *st, const need *n)
{
    const strand *t = &e->p->strands[n->strand];
    return !(t->kind == STRAND_MIX && t->born == st->value);
}

const int32_t *emit_segment_table(emitter *e, int32_t pass, int32_t slot_index, const segment *at,
    int32_t n, operand_ref *buffer, int64_t *rows)
{
    const slot *s = &e->p->program->slots[slot_index];
    row_gatherer g = {e, s->value, &e->rows};
    int32_t kept = e->when.pass;
    e->when.pass = pass;
    runs_clear(&e->rows);
    bool fine = true;
    for (int32_t i = 0; i < n && fine; i++)
        fine = emit_gather_rows(&g, at[i].strand, at[i].first, at[i].count);
    buffer->stride = e->p->program->values[s->value].width;
    buffer->at = moved(emit_value_buffer(e, pass, s->value),
        s->shape.column * (int64_t)type_size(strand_type(e->p, s->value, -1)));
    e->when.pass = kept;
    *rows = e->rows.count;
    return fine ? emit_table(e, &e->rows) : NULL;
}

/* Rows of z that are the values mixed by a pattern, which come behind the fused ones: one launch a
 * strand. Sets how many needs come before them. Behind them are only those of whole sequences. */
static inset_status emit_mixes(
    emitter *e, const step *st, const moment_plan *m, void *out, int64_t width, int32_t *fused)
{
    planner *p = e->p;
    int32_t end = computed_count(m);
    while (end > 0 && whole_of(p, st, computed_need(e->s, m, end - 1)->strand)) end--;
    *fused = end;
    while (*fused > 0 && !is_fused(e, st, computed_need(e->s, m, *fused - 1))) (*fused)--;
    for (int32_t i = *fused; i < end; i++) {
        const need *n = computed_need(e->s, m, i);
        const strand *t = &p->strands[n->strand];
        const piece *from = mix_pattern(t);
        int32_t n_values;
        int64_t keys, size = (int64_t)type_size(e->out->model_type);
        const segment *values = mix_values(t, &n_values);
        operand_ref v;
        const int32_t *value_rows = emit_segment_table(
            e, e->when.pass, st->operands[2], values, n_values, &v, &keys);
        int64_t rows = n->hi - n->lo;
        /* where it lies is a record's affair: constants and conversions were copied to a row
         * first */
        record pattern = {0};
        emit_record_operand(e, from, n->lo, from->c0, &pattern.a, &pattern.a_constant,
            &pattern.a_row, &pattern.a_column, &pattern.a_type, e->out->model_type);
        launch *l = value_rows
                        ? emit_kernel(e, KERNEL_MIX, sizeof(mix_args), rows, rows * keys * width)
                        : NULL;
        if (!l) return INSET_NO_MEMORY;
        l->args.mix = (mix_args){.out = moved(out, n->first_row * width * size),
            .pattern = pattern.a,
            .v = v.at,
            .value_rows = value_rows,
            .n_rows = rows,
            .n_keys = keys,
            .n_columns = (from->c1 - from->c0) / st->n_heads,
            .out_stride = width,
            .pattern_stride = pattern.a_row,
            .v_stride = v.stride,
            .n_heads = st->n_heads,
            .n_kv_heads = st->n_kv_heads,
            .head_dim = st->head_dim};
        e->out->statistics.flops += 2.0 * (double)(rows * keys * width);
    }
    return INSET_OK;
}

/* Attention over the tables, of the moment's needs below n_fused. The first n_shared of them are
 * rows of the layout that keys and values have too, and of strands born before this attention:
 * their contexts are the same at all moments of the layout. */
typedef struct attending {
    emitter *e;
    const step *st, *pair;
    const moment_plan *m;
    int32_t n_fused, n_shared;
    /* the layout of keys and values, where they have the same */
    int32_t keys;
    int32_t n_keys; /* of its needs */
    int64_t total;  /* entries of all rows' contexts */
} attending;

typedef struct pair_rows {
    emitter *e;
    const step *pair;
    int k;
    run_list *list;
    bool apart; /* some keys' rows are not their values' */
} pair_rows;

static bool gather_pair_rows(void *user, int32_t strand_index, int32_t first, int32_t count)
{
    pair_rows *g = user;
    operand_row o = pair_part(g->e->p, g->pair, strand_index, g->k);
    g->apart |= o.strand != strand_index;
    row_gatherer rows = {g->e, g->e->p->program->slots[g->pair->operands[g->k]].value, g->list};
    return emit_gather_rows(&rows, o.strand, first + o.shift, count);
}

bool emit_gather_context(
    emitter *e, const step *st, int k, int32_t leaf, int32_t rows, run_list *list, bool *apart)
{
    const slot *slots = e->p->program->slots;
    const step *pair = pair_step(e->p, st);
    pair_rows g = {
        e, pair, k, list, slots[pair->operands[0]].value != slots[pair->operands[1]].value};
    bool fine = context_rows(e->p, st, leaf, rows - 1, gather_pair_rows, &g);
    *apart |= g.apart;
    return fine;
}

/* The i-th need of a moment on that was kept by an earlier pass; NULL behind the last. */
static const need *next_kept(const schedule *s, int32_t at, int32_t *i)
{
    const moment_plan *m = &s->moments[at];
    for (; *i < m->n_order; ++*i)
        if (s->needs[m->order[*i]].kind == NEED_KEPT) return &s->needs[m->order[(*i)++]];
    return NULL;
}

/* Do two moments have the same kept rows at the same places? */
static bool kept_alike(const schedule *s, int32_t a, int32_t b)
{
    for (int32_t i = 0, k = 0; a != b;) {
        const need *x = next_kept(s, a, &i), *y = next_kept(s, b, &k);
        if (!x || !y) return x == y;
        if (x->strand != y->strand || x->lo != y->lo || x->hi != y->hi
            || x->first_row != y->first_row)
            return false;
    }
    return true;
}

/* Contexts may go on from rows that an earlier pass kept. These are no part of the layout, so lists
 * of contexts hold only for moments that have them at the same places. False: keys and values have
 * not. */
static bool settle_kept(attending *a)
{
    emitter *e = a->e;
    const schedule *s = e->s;
    layout_tables *t = &e->layouts[a->keys];
    const slot *slots = e->p->program->slots;
    const int32_t key = moment_number(
        e->p, (moment){e->when.pass, slots[a->pair->operands[0]].value});
    const int32_t value = moment_number(
        e->p, (moment){e->when.pass, slots[a->pair->operands[1]].value});
    if (!kept_alike(s, key, value)) return false;
    if (t->kept_at >= 0 && !kept_alike(s, t->kept_at, key)) {
        t->kept_turn++;
        for (int32_t i = 0; i < s->layouts[a->keys].n; i++)
            s->needs[s->layouts[a->keys].order[i]].list = -1;
    }
    t->kept_at = key;
    return true;
}

static void find_shared(attending *a)
{
    emitter *e = a->e;
    const moment_plan *m = a->m;
    const slot *slots = e->p->program->slots;
    int32_t age = computed_age(slots[a->st->operands[0]].value);
    a->keys = -1;
    for (int k = 0; k < 2; k++) {
        int32_t value = slots[a->pair->operands[k]].value;
        const moment_plan *read =
            &e->s->moments[moment_number(e->p, (moment){e->when.pass, value})];
        if (computed_age(value) < age) age = computed_age(value);
        if (k && read->base != a->keys) return (void)(a->keys = -1);
        a->keys = read->base;
        if (!k || read->n_base < a->n_keys) a->n_keys = read->n_base;
    }
    if (m->base < 0 || a->keys < 0 || !settle_kept(a)) return;
    a->n_shared = layout_prefix(&e->s->layouts[m->base], age);
    if (a->n_shared > m->n_base) a->n_shared = m->n_base;
}

/* Where the list of a shared need's context begins; *at -1 when its keys and values are not all in
 * their layout. */
static bool shared_list(const attending *a, const need *n, int32_t *at)
{
    emitter *e = a->e;
    const int32_t end = context_rows_of(e->p, n->strand, n->hi);
    need *leaf = layout_find(e->s, a->keys, a->n_keys, n->strand, end - 1);
    *at = -1;
    if (!leaf || leaf->lo) return true;
    if (leaf->list < 0) {
        bool apart = false;
        runs_clear(&e->rows);
        runs_clear(&e->more_rows);
        if (!emit_gather_context(e, a->st, 0, n->strand, leaf->hi, &e->rows, &apart)
            || (apart
                && !emit_gather_context(e, a->st, 1, n->strand, leaf->hi, &e->more_rows, &apart)))
            return false;
        if (apart && !runs_equal(&e->rows, &e->more_rows)) return true;
        void *stored = emit_table(e, &e->rows);
        if (!stored) return false;
        leaf->list = table_index(stored);
    }
    *at = leaf->list;
    return true;
}

/* Entries of the contexts of a need's rows: how many the first has, and all together. */
static int32_t first_length(const planner *p, const step *st, const need *n)
{
    operand_row node = attention_part(p, st, n->strand, 1);
    return context_length(p, node.strand, n->lo + node.shift);
}

/* Each row sees a key more than the one before it (1), or as many (0). */
static int32_t length_step(const step *st) { return !st->both_ways; }

static int64_t all_lengths(const step *st, int32_t first, int32_t rows)
{
    return (int64_t)rows * first + length_step(st) * ((int64_t)rows * (rows - 1) / 2);
}

/* Contexts of the shared needs, in the layout's table; fewer of them count as shared when there is
 * one that is not. -1: memory is out. */
static int32_t shared_contexts(attending *a)
{
    emitter *e = a->e;
    const layout *l = &e->s->layouts[a->m->base];
    layout_tables *t = &e->layouts[a->m->base];
    if (t->contexts < 0 || t->keys != a->keys || t->turn != e->layouts[a->keys].kept_turn) {
        if ((t->contexts = table_reserve(e, 2 * (int64_t)l->rows)) < 0) return -1;
        if (!t->total
            && !(t->total = arena_new(&e->p->scratch, ((size_t)l->n + 1) * sizeof *t->total)))
            return -1;
        t->keys = a->keys;
        t->turn = e->layouts[a->keys].kept_turn;
        t->n_contexts = 0;
    }
    for (; t->n_contexts < a->n_shared; t->n_contexts++) {
        const need *n = &e->s->needs[l->order[t->n_contexts]];
        int32_t list, rows = n->hi - n->lo, first = first_length(e->p, a->st, n),
                      to = t->contexts + 2 * n->first_row;
        if (!shared_list(a, n, &list)) return -1;
        if (list < 0) {
            a->n_shared = t->n_contexts;
            break;
        }
        if (!table_fill(e, to, rows, 2, list, 0)
            || !table_fill(e, to + 1, rows, 2, first, length_step(a->st)))
            return -1;
        t->total[t->n_contexts + 1] = t->total[t->n_contexts] + all_lengths(a->st, first, rows);
    }
    a->total = t->total[a->n_shared];
    return t->contexts;
}

/* Lists of key (k = 0) or value (k = 1) rows, one after the other, for every context that the other
 * needs' rows end in; leaf_table gets where each begins in them. *apart: as emit_gather_context. */
static bool gather_lists(const attending *a, int k, run_list *list, bool *apart)
{
    emitter *e = a->e;
    for (int32_t i = a->n_shared; i < a->n_fused; i++) {
        const need *n = computed_need(e->s, a->m, i);
        operand_row node = attention_part(e->p, a->st, n->strand, 1);
        e->leaf_table[node.strand] = -1;
        const int32_t rows = context_rows_of(e->p, node.strand, n->hi + node.shift);
        if (rows > e->leaf_rows[node.strand]) e->leaf_rows[node.strand] = rows;
    }
    runs_clear(list);
    for (int32_t i = a->n_shared; i < a->n_fused; i++) {
        operand_row node = attention_part(e->p, a->st, computed_need(e->s, a->m, i)->strand, 1);
        if (e->leaf_table[node.strand] >= 0) continue;
        e->leaf_table[node.strand] = (int32_t)list->count;
        if (!emit_gather_context(e, a->st, k, node.strand, e->leaf_rows[node.strand], list, apart))
            return false;
    }
    for (int32_t i = a->n_shared; i < a->n_fused; i++)
        e->leaf_rows[attention_part(e->p, a->st, computed_need(e->s, a->m, i)->strand, 1).strand] =
            0;
    return true;
}

/* Contexts of all rows: the shared ones, and behind them the others', whose lists begin at
 * `lists`. */
static const attention_context *context_table(attending *a, int32_t shared, int32_t lists)
{
    emitter *e = a->e;
    int32_t rows = layout_rows(e->s, a->m->base, a->n_shared), to;
    int64_t count = rows;
    if (a->n_shared == a->n_fused) return table_address(shared);
    for (int32_t i = a->n_shared; i < a->n_fused; i++)
        count += computed_need(e->s, a->m, i)->hi - computed_need(e->s, a->m, i)->lo;
    if ((to = table_reserve(e, 2 * count)) < 0 || (rows && !table_repeat(e, to, 2 * rows, shared)))
        return NULL;
    int32_t at = to + 2 * rows;
    for (int32_t i = a->n_shared; i < a->n_fused; i++) {
        const need *n = computed_need(e->s, a->m, i);
        int32_t first = first_length(e->p, a->st, n), here = n->hi - n->lo,
                list = lists + e->leaf_table[attention_part(e->p, a->st, n->strand, 1).strand];
        if (!table_fill(e, at, here, 2, list, 0)
            || !table_fill(e, at + 1, here, 2, first, length_step(a->st)))
            return NULL;
        a->total += all_lengths(a->st, first, here);
        at += 2 * here;
    }
    return table_address(to);
}

/* The key-value row tables and every row's place in them. Where a row's key and value lie at
 * different rows two tables run side by side, for all rows of the launch. */
static inset_status attention_tables(attending *a, const int32_t **key_rows,
    const int32_t **value_rows, const attention_context **contexts)
{
    emitter *e = a->e;
    int32_t shared = 0;
    bool apart = false;
    find_shared(a);
    if (a->n_shared > a->n_fused) a->n_shared = a->n_fused;
    if (a->n_shared && (shared = shared_contexts(a)) < 0) return INSET_NO_MEMORY;
    if (!gather_lists(a, 0, &e->rows, &apart)
        || (apart && !gather_lists(a, 1, &e->more_rows, &apart)))
        return INSET_NO_MEMORY;
    *key_rows = *value_rows = table_address(0);
    if (!apart || runs_equal(&e->rows, &e->more_rows)) {
        void *lists = e->rows.n ? emit_table(e, &e->rows) : table_address(0);
        return lists && (*contexts = context_table(a, shared, table_index(lists)))
                   ? INSET_OK
                   : INSET_NO_MEMORY;
    }
    a->n_shared = 0;
    a->total = 0;
    if (!gather_lists(a, 0, &e->rows, &apart) || !gather_lists(a, 1, &e->more_rows, &apart)
        || !(*key_rows = emit_table(e, &e->rows)) || !(*value_rows = emit_table(e, &e->more_rows)))
        return INSET_NO_MEMORY;
    return (*contexts = context_table(a, 0, 0)) ? INSET_OK : INSET_NO_MEMORY;
}

bool emit_gather_queries(emitter *e, const step *st, int32_t strand_index, int32_t lo, int32_t hi)
{
    row_gatherer g = {e, e->p->program->slots[st->operands[0]].value, &e->rows};
    operand_row o = attention_part(e->p, st, strand_index, 0);
    for (lo += o.shift, hi += o.shift; lo < hi;) {
        segment row = strand_origin_row(e->p, o.strand, g.value, lo);
        int32_t count = row.count < hi - lo ? row.count : hi - lo;
        if (!emit_gather_rows(&g, row.strand, row.first, count)) return false;
        lo += count;
    }
    return true;
}

static inset_status query_rows(
    emitter *e, const step *st, const moment_plan *m, int32_t n_fused, operand_ref *out)
{
    int32_t from;
    if (!emit_common_rows(e, m, e->p->program->slots[st->operands[0]].value, &from))
        return INSET_NO_MEMORY;
    for (int32_t i = from; i < n_fused; i++) {
        const need *n = computed_need(e->s, m, i);
        if (!emit_gather_queries(e, st, n->strand, n->lo, n->hi)) return INSET_NO_MEMORY;
    }
    return emit_finish_operand(e, st->operands[0], out);
}

inset_status emit_attention(
    emitter *e, const step *st, const moment_plan *m, void *out, int64_t width)
{
    attending a = {.e = e, .st = st, .pair = pair_step(e->p, st), .m = m};
    operand_ref q, k, v;
    const int32_t *key_rows, *value_rows;
    const attention_context *contexts = NULL;
    int64_t fused = m->n_computed;
    inset_status status = emit_mixes(e, st, m, out, width, &a.n_fused);
    for (int32_t i = a.n_fused; i < computed_count(m); i++)
        fused -= computed_need(e->s, m, i)->hi - computed_need(e->s, m, i)->lo;
    if (status || (status = emit_whole(e, st, m, out, width)) || !fused) return status;
    if ((status = query_rows(e, st, m, a.n_fused, &q))) return status;
    runs_clear(&e->rows);
    if ((status = emit_finish_operand(e, a.pair->operands[0], &k))
        || (status = emit_finish_operand(e, a.pair->operands[1], &v))
        || (status = attention_tables(&a, &key_rows, &value_rows, &contexts)))
        return status;
    void *slopes;
    if ((status = emit_slopes(e, st, &slopes))) return status;
    int64_t keys = a.total * st->n_heads * st->head_dim;
    launch *l = emit_kernel(
        e, KERNEL_ATTENTION, sizeof(attention_args), fused * st->n_heads, keys * 2);
    if (!l) return INSET_NO_MEMORY;
    l->args.attention = (attention_args){.out = out,
        .q = q.at,
        .k = k.at,
        .v = v.at,
        .q_rows = q.rows,
        .key_rows = key_rows,
        .value_rows = value_rows,
        .contexts = contexts,
        .slopes = slopes,
        .sinks = emit_weight(st->weight),
        .n_rows = fused,
        .out_stride = width,
        .q_stride = q.stride,
        .k_stride = k.stride,
        .v_stride = v.stride,
        .n_heads = st->n_heads,
        .n_kv_heads = st->n_kv_heads,
        .head_dim = st->head_dim,
        .window = st->window,
        .scale = st->scale,
        .softcap = st->softcap};
    e->out->statistics.flops += 4.0 * (double)keys;
    return INSET_OK;
}

inset_status emit_slopes(emitter *e, const step *attention, void **out)
{
    const int32_t *bits = (const int32_t *)(const void *)attention->slopes;
    *out = bits ? emit_literal_table(e, bits, (size_t)attention->n_heads) : NULL;
    return bits && !*out ? INSET_NO_MEMORY : INSET_OK;
}

/* ---- in the open -------------------------------------------------------- */

/* Scores and their softmax for rows of an open attention. */
inset_status emit_open(emitter *e, const need *n)
{
    planner *p = e->p;
    const strand *t = &p->strands[n->strand];
    void *out = emit_row_address(e, DOMAIN_FREE, n->strand, n->lo);
    int64_t rows = n->hi - n->lo;
    if (t->kind == STRAND_SOFTMAX_BACK) return emit_softmax_back(e, n, out);
    if (t->kind == STRAND_SOFTMAX) {
        record from = {0};
        emit_record_operand(e, t->pieces, n->lo, 0, &from.a, &from.a_constant, &from.a_row,
            &from.a_column, &from.a_type, (inset_type)t->type);
        launch *l = emit_kernel(e, KERNEL_SOFTMAX, sizeof(softmax_args), rows, rows * t->width * 4);
        if (!l) return INSET_NO_MEMORY;
        l->args.softmax = (softmax_args){.out = out,
            .x = from.a,
            .sinks = emit_weight(t->sinks - 1),
            .n_rows = rows,
            .groups = t->parent_row,
            .n_keys = t->start,
            .n_columns = t->width / t->parent_row,
            .out_stride = t->width,
            .x_stride = from.a_row};
        return INSET_OK;
    }
    const step *st = scores_step(p, t);
    const bool back = st->kind == STEP_PATTERN_BACK, all_seen = back || st->both_ways;
    operand_ref q, k;
    int32_t n_queries, n_keys;
    int64_t all, keys;
    const segment *queries = scores_queries(t, &n_queries), *key_segments = scores_keys(t, &n_keys);
    const int32_t *q_rows = emit_segment_table(
        e, t->pass, st->operands[0], queries, n_queries, &q, &all);
    const int32_t *key_rows = q_rows ? emit_segment_table(
                                  e, t->pass, st->operands[1], key_segments, n_keys, &k, &keys)
                                     : NULL;
    void *slopes = NULL;
    inset_status status = key_rows ? emit_slopes(e, st, &slopes) : INSET_NO_MEMORY;
    if (status) return status;
    launch *l = key_rows ? emit_kernel(e, KERNEL_SCORES, sizeof(scores_args), rows * st->n_heads,
                    rows * keys * st->n_heads * st->head_dim)
                         : NULL;
    if (!l) return INSET_NO_MEMORY;
    l->args.scores = (scores_args){.out = out,
        .q = q.at,
        .k = k.at,
        .q_rows = (const int32_t *)moved((void *)(uintptr_t)q_rows, n->lo * 4),
        .key_rows = key_rows,
        .slopes = slopes,
        .n_rows = rows,
        .n_keys = keys,
        .n_columns = t->width / st->n_heads,
        .first_position = all_seen ? keys : n->lo, /* as behind them: no mask */
        .masked = back ? 0 : -INFINITY,
        .out_stride = t->width,
        .q_stride = q.stride,
        .k_stride = k.stride,
        .n_heads = st->n_heads,
        .n_kv_heads = st->n_kv_heads,
        .head_dim = st->head_dim,
        .window = st->window,
        .scale = st->scale,
        .softcap = st->softcap};
    e->out->statistics.flops += 2.0 * (double)(rows * keys * st->n_heads * st->head_dim);
    return INSET_OK;
}
