/* live.c: dead code goes. Backwards from what is saved, moment by moment, every row asks for the
 * rows it is made from; what nobody asks for is never run. */
#include "plan/wanted/wanted.h"

#include <string.h>

/* ---- rows of operands --------------------------------------------------- */

void slot_window(const planner *p, int32_t slot_index, int32_t *c0, int32_t *c1)
{
    const slot *s = &p->program->slots[slot_index];
    *c0 = s->shape.column;
    *c1 = slot_column_end(s);
}

static bool born_here(const planner *p, int32_t strand_index, const step *s)
{
    const strand *t = &p->strands[strand_index];
    return t->kind == STRAND_STEP && t->born == s->value;
}

operand_row attention_part(const planner *p, const step *s, int32_t strand_index, int k)
{
    return born_here(p, strand_index, s) ? p->strands[strand_index].operands[k]
                                         : (operand_row){strand_index, 0};
}

operand_row pair_part(const planner *p, const step *pair, int32_t strand_index, int k)
{
    return born_here(p, strand_index, pair) ? p->strands[strand_index].operands[k]
                                            : (operand_row){strand_index, 0};
}

/* Rows lo .. hi of a strand at a value at or before its birth. */
static bool rows_before(const planner *p, int32_t strand_index, int32_t value, int32_t lo,
    int32_t hi, rows_function *visit, void *user)
{
    while (lo < hi) {
        segment o = strand_origin_row(p, strand_index, value, lo);
        int32_t n = o.count < hi - lo ? o.count : hi - lo;
        if (!visit(user, o.strand, o.first, n)) return false;
        lo += n;
    }
    return true;
}

bool operand_rows(const planner *p, const step *s, int k, int32_t strand_index, int32_t lo,
    int32_t hi, rows_function *visit, void *user)
{
    int32_t value = p->program->slots[s->operands[k]].value;
    if (born_here(p, strand_index, s)) {
        operand_row o = p->strands[strand_index].operands[k];
        return visit(user, o.strand, lo + o.shift, hi - lo);
    }
    if (p->program->values[value].per_position && !p->program->values[s->value].per_position)
        return visit(user, p->position_strand, strand_position(p, strand_index, lo), hi - lo);
    return rows_before(p, strand_index, value, lo, hi, visit, user);
}

bool context_rows(const planner *p, const step *attention, int32_t node, int32_t last,
    rows_function *visit, void *user)
{
    const strand *s = &p->strands[node];
    if (s->parent >= 0 && !context_rows(p, attention, s->parent, s->parent_row - 1, visit, user))
        return false;
    return rows_before(p, node, pair_step(p, attention)->value, 0, last + 1, visit, user);
}

/* Only products with large tables are worth looking at: a model's vocabulary. */
enum { LARGE_TABLE = 1 << 20, MOST_RANGES = 512 };

static bool by_columns(const planner *p, int32_t value_index)
{
    const step *st = &p->program->steps[p->program->values[value_index].step];
    if (st->kind != STEP_LINEAR) return false;
    const weight *w = &p->program->weights[st->weight];
    return !w->in_out && (int64_t)w->rows * w->columns >= LARGE_TABLE && st == last_linear(p);
}

/* Notes that records read columns c0 .. c1 of a moment's rows; ranges stay sorted and apart. */
static bool note_columns(planner *p, moment_plan *m, int32_t c0, int32_t c1)
{
    int32_t i = 0;
    while (i < m->n_ranges && m->ranges[i].c1 < c0) i++;
    if (i < m->n_ranges && m->ranges[i].c0 <= c0 && c1 <= m->ranges[i].c1) return true;
    int32_t joined = i;
    for (; joined < m->n_ranges && m->ranges[joined].c0 <= c1; joined++) {
        if (m->ranges[joined].c0 < c0) c0 = m->ranges[joined].c0;
        if (m->ranges[joined].c1 > c1) c1 = m->ranges[joined].c1;
    }
    if (joined == i && m->n_ranges == m->ranges_capacity) {
        if (m->n_ranges == MOST_RANGES) return m->all_columns = true;
        int32_t capacity = m->ranges_capacity ? 2 * m->ranges_capacity : 8;
        column_range *grown = arena_new(&p->scratch, (size_t)capacity * sizeof *grown);
        if (!grown) return false;
        if (m->n_ranges) memcpy(grown, m->ranges, (size_t)m->n_ranges * sizeof *grown);
        m->ranges = grown;
        m->ranges_capacity = capacity;
    }
    memmove(
        &m->ranges[i + 1], &m->ranges[joined], (size_t)(m->n_ranges - joined) * sizeof *m->ranges);
    m->n_ranges += 1 - (joined - i);
    m->ranges[i] = (column_range){c0, c1};
    return true;
}

/* ---- asking ------------------------------------------------------------- */

typedef struct asker {
    planner *p;
    schedule *s;
    int32_t now;
    int32_t pass, value, c0, c1;
} asker;

static void use_buffer(buffer *b, int32_t from, int32_t to)
{
    if (from < b->first_use) b->first_use = from;
    if (to > b->last_use) b->last_use = to;
}

/* Attention backwards makes all rows of a unit or none. */
static bool is_unit(const planner *p, int32_t strand_index, int32_t value)
{
    const strand *t = &p->strands[strand_index];
    return (t->kind == STRAND_BACK || t->kind == STRAND_OPEN_BACK) && t->born == value;
}

static bool makes_units(const step *s)
{
    return s->kind == STEP_ATTENTION_BACK || s->kind == STEP_VALUES_BACK
           || s->kind == STEP_QUERIES_BACK;
}

static int32_t unit_length(const planner *p, int32_t strand_index)
{
    int32_t n, rows = 0;
    const strand *t = &p->strands[strand_index];
    const segment *at = t->kind == STRAND_BACK ? back_rows(t, 3, &n) : open_unit_rows(t, 0, &n);
    for (int32_t i = 0; i < n; i++) rows += at[i].count;
    return rows;
}

/* Rows lo .. hi, columns c0 .. c1 of a strand at a moment are needed by something that runs at
 * moment `now`. */
static bool ask_at(planner *p, schedule *s, int32_t at, need_kind kind, int32_t strand_index,
    int32_t lo, int32_t hi, int32_t c0, int32_t c1, int32_t level, int32_t now)
{
    moment_plan *m = &s->moments[at];
    need_place where = place_of(kind);
    use_buffer(where == PLACE_FREE   ? &m->free
               : where == PLACE_KEPT ? &m->kept
                                     : &m->value,
        at, now);
    if (kind == NEED_COMPUTED && is_unit(p, strand_index, moment_of(p, at).value))
        lo = 0, hi = unit_length(p, strand_index);
    if (kind == NEED_COMPUTED) {
        const need *n = layout_find(s, m->base, m->n_base, strand_index, lo);
        if (n && hi <= n->hi) return true;
    }
    if (schedule_widen_need(s, at, where, strand_index, lo, hi, c0, c1)) return true;
    return schedule_add_need(p, s,
        &(need){.strand = strand_index,
            .lo = lo,
            .hi = hi,
            .c0 = c0,
            .c1 = c1,
            .moment = at,
            .kind = (int8_t)kind,
            .level = level});
}

/* Rows of an earlier pass that something at moment `now` reads: put aside when they are made, so
 * that the rest of that pass's rows can go. */
static bool ask_kept(planner *p, schedule *s, int32_t value, int32_t strand_index, int32_t lo,
    int32_t hi, int32_t c0, int32_t c1, int32_t now)
{
    const strand *t = &p->strands[strand_index];
    int32_t made = moment_number(p, (moment){t->pass, value});
    bool copied = t->kind == STRAND_COPY && t->born == value;
    s->moments[made].read_by_records = true;
    return ask_at(p, s, made, NEED_KEEP, strand_index, lo, hi, c0, c1, 0, now)
           && ask_at(p, s, made, copied ? NEED_COPY : NEED_COMPUTED, strand_index, lo, hi, c0, c1,
               copied ? t->level : 0, made);
}

/* Rows that a step of `pass` reads at a value: they must lie in that pass's buffer, so rows of an
 * earlier pass are copied into it. */
static bool ask_value(planner *p, schedule *s, int32_t pass, int32_t value, int32_t strand_index,
    int32_t lo, int32_t hi, int32_t c0, int32_t c1, int32_t now)
{
    const strand *t = &p->strands[strand_index];
    int32_t at = moment_number(p, (moment){pass, value});
    bool copied = t->kind == STRAND_COPY && t->born == value;
    need_kind kind = t->pass < pass ? NEED_KEPT : copied ? NEED_COPY : NEED_COMPUTED;
    if (!ask_at(p, s, at, kind, strand_index, lo, hi, c0, c1,
            kind == NEED_KEPT ? 1
            : copied          ? t->level
                              : 0,
            now))
        return false;
    if (kind != NEED_KEPT) return true;
    s->moments[moment_number(p, (moment){t->pass, value})].all_columns = true;
    return ask_kept(p, s, value, strand_index, lo, hi, c0, c1, at);
}

/* Rows that a record reads, wherever they are. */
static bool ask_piece(planner *p, schedule *s, const piece *from, int32_t lo, int32_t hi,
    int32_t c0, int32_t c1, int32_t now)
{
    if (from->domain == DOMAIN_CONSTANT || lo >= hi || c0 >= c1) return true;
    const strand *t = &p->strands[from->strand];
    int32_t first = from->row_step ? lo + from->shift : from->shift,
            last = from->row_step ? hi - 1 + from->shift : from->shift;
    int32_t left = from->column + (c0 - from->c0) * from->column_step,
            right = from->column + (c1 - 1 - from->c0) * from->column_step;
    if (from->domain >= 0) {
        moment_plan *m = &s->moments[moment_number(p, (moment){t->pass, from->domain})];
        m->read_by_records = true;
        if (!m->all_columns && by_columns(p, from->domain) && !note_columns(p, m, left, right + 1))
            return false;
        if (moment_of(p, now).pass > t->pass)
            return ask_kept(
                p, s, from->domain, from->strand, first, last + 1, left, right + 1, now);
        return ask_value(
            p, s, t->pass, from->domain, from->strand, first, last + 1, left, right + 1, now);
    }
    if (t->kind == STRAND_EXTERNAL) {
        s->external_offset[t->storage] = 0;
        return true;
    }
    int32_t at = moment_number(p, (moment){t->pass, t->time});
    return ask_at(
        p, s, at, NEED_FREE, from->strand, first, last + 1, left, right + 1, t->level, now);
}

static bool ask_operand(void *user, int32_t strand_index, int32_t first, int32_t count)
{
    asker *a = user;
    a->s->moments[moment_number(a->p, (moment){a->pass, a->value})].all_columns = true;
    return ask_value(
        a->p, a->s, a->pass, a->value, strand_index, first, first + count, a->c0, a->c1, a->now);
}

/* Keys and values of rows of a pair step. */
typedef struct pair_asker {
    asker a;
    const step *pair;
} pair_asker;

static bool ask_pair(void *user, int32_t strand_index, int32_t first, int32_t count)
{
    pair_asker *pa = user;
    const slot *slots = pa->a.p->program->slots, *key = &slots[pa->pair->operands[0]],
               *value = &slots[pa->pair->operands[1]];
    /* both are columns of one row */
    if (key->value == value->value
        && pair_part(pa->a.p, pa->pair, strand_index, 0).strand == strand_index) {
        int32_t c0, c1;
        slot_window(pa->a.p, pa->pair->operands[0], &pa->a.c0, &pa->a.c1);
        slot_window(pa->a.p, pa->pair->operands[1], &c0, &c1);
        if (c0 < pa->a.c0) pa->a.c0 = c0;
        if (c1 > pa->a.c1) pa->a.c1 = c1;
        pa->a.value = key->value;
        return ask_operand(&pa->a, strand_index, first, count);
    }
    for (int k = 0; k < 2; k++) {
        operand_row o = pair_part(pa->a.p, pa->pair, strand_index, k);
        pa->a.value = pa->a.p->program->slots[pa->pair->operands[k]].value;
        slot_window(pa->a.p, pa->pair->operands[k], &pa->a.c0, &pa->a.c1);
        if (!ask_operand(&pa->a, o.strand, first + o.shift, count)) return false;
    }
    return true;
}

/* Segments of rows that a step or an open attention reads at a slot's value. */
static bool ask_segments(planner *p, schedule *s, int32_t slot_index, const segment *at, int32_t n,
    int32_t pass, int32_t now)
{
    asker a = {
        .p = p, .s = s, .now = now, .pass = pass, .value = p->program->slots[slot_index].value};
    slot_window(p, slot_index, &a.c0, &a.c1);
    for (int32_t i = 0; i < n; i++)
        if (!ask_operand(&a, at[i].strand, at[i].first, at[i].count)) return false;
    return true;
}

/* An open attention asks for all of its sequence: a unit. */
static bool ask_scores(planner *p, schedule *s, const strand *t, int32_t now)
{
    int32_t n;
    const step *st = scores_step(p, t);
    const segment *queries = scores_queries(t, &n);
    if (!ask_segments(p, s, st->operands[0], queries, n, t->pass, now)) return false;
    const segment *keys = scores_keys(t, &n);
    return ask_segments(p, s, st->operands[1], keys, n, t->pass, now);
}

static bool ask_mix(
    planner *p, schedule *s, const step *st, const need *n, int32_t pass, int32_t now)
{
    const strand *t = &p->strands[n->strand];
    const piece *pattern = mix_pattern(t);
    int32_t n_values;
    const segment *values = mix_values(t, &n_values);
    return ask_piece(p, s, pattern, n->lo, n->hi, pattern->c0, pattern->c1, now)
           && ask_segments(p, s, st->operands[2], values, n_values, pass, now);
}

static bool ask_attention(
    planner *p, schedule *s, const step *st, const need *n, int32_t pass, int32_t now)
{
    if (p->strands[n->strand].kind == STRAND_MIX && p->strands[n->strand].born == st->value)
        return ask_mix(p, s, st, n, pass, now);
    asker a = {.p = p,
        .s = s,
        .now = now,
        .pass = pass,
        .value = p->program->slots[st->operands[0]].value};
    slot_window(p, st->operands[0], &a.c0, &a.c1);
    operand_row q = attention_part(p, st, n->strand, 0), node = attention_part(p, st, n->strand, 1);
    if (!rows_before(p, q.strand, a.value, n->lo + q.shift, n->hi + q.shift, ask_operand, &a))
        return false;
    pair_asker pa = {a, pair_step(p, st)};
    const int32_t rows = context_rows_of(p, node.strand, n->hi + node.shift);
    return context_rows(p, st, node.strand, rows - 1, ask_pair, &pa);
}

/* Attention backwards asks for all that a unit reads. */
static bool ask_back(
    planner *p, schedule *s, const step *st, const strand *t, int32_t pass, int32_t now)
{
    const step *of = back_step(p, t);
    for (int k = 0; k < 4; k++) {
        int32_t n;
        const segment *rows = back_rows(t, k, &n);
        if (!ask_segments(p, s, k < 3 ? of->operands[k] : st->operands[0], rows, n, pass, now))
            return false;
    }
    return true;
}

/* So do values and queries of an attention in the open. */
static bool ask_open_back(
    planner *p, schedule *s, const step *st, const strand *t, int32_t pass, int32_t now)
{
    const step *of = &p->program->steps[st->of];
    const bool values = st->kind == STEP_VALUES_BACK;
    int32_t n, n_keys;
    const segment *x = open_unit_rows(t, 0, &n), *keys = open_unit_rows(t, 1, &n_keys);
    if (!ask_segments(p, s, values ? st->operands[0] : of->operands[0], x, n, pass, now)
        || (!values && !ask_segments(p, s, of->operands[1], keys, n_keys, pass, now)))
        return false;
    const weight_run *w = open_unit_weights(t, &n);
    for (int32_t i = 0; i < n; i++) {
        const piece *from = &w[i].from;
        if (!ask_piece(p, s, from, 0, w[i].rows, from->c0, from->c1, now)) return false;
    }
    return true;
}

/* Asks for the operands of rows that a step computes. */
static bool ask_operands(planner *p, schedule *s, int32_t now, const need *n)
{
    moment m = moment_of(p, now);
    const step *st = &p->program->steps[p->program->values[m.value].step];
    switch (st->kind) {
    case STEP_INPUT:
    case STEP_TOKENS:
    case STEP_POSITIONS:
    case STEP_EMBED: return true; /* from tables of ids, or the caller's rows */
    case STEP_ATTENTION: return ask_attention(p, s, st, n, m.pass, now);
    case STEP_ATTENTION_BACK: return ask_back(p, s, st, &p->strands[n->strand], m.pass, now);
    case STEP_VALUES_BACK:
    case STEP_QUERIES_BACK: return ask_open_back(p, s, st, &p->strands[n->strand], m.pass, now);
    default: break;
    }
    bool same_columns = st->kind == STEP_SOFTCAP || st->kind == STEP_SCALE;
    int n_operands = st->kind == STEP_ROPE ? 1 : st->n_operands + scale_given(p, st, n->strand);
    for (int k = 0; k < n_operands; k++) {
        asker a = {.p = p,
            .s = s,
            .now = now,
            .pass = m.pass,
            .value = p->program->slots[st->operands[k]].value};
        slot_window(p, st->operands[k], &a.c0, &a.c1);
        if (same_columns) a.c1 = a.c0 + n->c1, a.c0 += n->c0;
        if (!operand_rows(p, st, k, n->strand, n->lo, n->hi, ask_operand, &a)) return false;
    }
    return true;
}

/* Of a row of which few logits are wanted, only what it is the product of. */
static bool ask_metric(planner *p, schedule *s, const strand *t, const need *n, int32_t now)
{
    piece operand;
    metric_behind behind;
    if (metric_product(p, t, &operand, &behind))
        return ask_piece(p, s, &operand, n->lo, n->hi, 0, operand.c1, now);
    for (int k = 0; metric_reads_rows(t) && metric_rows(t, k); k++) {
        const piece from = *metric_rows(t, k);
        if (!ask_piece(p, s, &from, n->lo, n->hi, 0, from.c1, now)) return false;
    }
    return true;
}

static bool ask_record(planner *p, schedule *s, int32_t now, const need *n)
{
    const strand *t = &p->strands[n->strand];
    if (t->kind == STRAND_SCORES) return ask_scores(p, s, t, now);
    if (t->kind == STRAND_METRIC) return ask_metric(p, s, t, n, now);
    const bool whole_rows = t->kind == STRAND_SOFTMAX || t->kind == STRAND_SOFTMAX_BACK
                            || t->kind == STRAND_ROWS || t->kind == STRAND_PRODUCT;
    for (int32_t i = 0; i < t->n && whole_rows; i++)
        if (!ask_piece(p, s, &t->pieces[i], n->lo, n->hi, 0, t->pieces[i].c1, now)) return false;
    if (whole_rows) return true;
    for (int32_t i = 0; i < t->n; i++) {
        const piece *from = &t->pieces[i];
        int32_t c0 = from->c0 > n->c0 ? from->c0 : n->c0, c1 = from->c1 < n->c1 ? from->c1 : n->c1;
        if (!ask_piece(p, s, from, n->lo, n->hi, c0, c1, now)) return false;
    }
    return true;
}

/* ---- rows of layouts ---------------------------------------------------- */

/* A value of the moment's pass needs the first n of a layout. */
static bool attach(
    planner *p, schedule *s, int32_t value, int32_t layout_index, int32_t n, int32_t now)
{
    int32_t at = moment_number(p, (moment){moment_of(p, now).pass, value});
    if (!n) return true;
    s->moments[at].all_columns = true;
    use_buffer(&s->moments[at].value, at, now);
    return layout_attach(p, s, at, layout_index, n);
}

/* Contexts that go on from rows of an earlier pass: those rows are asked for one by one; they are
 * few. */
static bool ask_earlier(planner *p, schedule *s, const step *st, int32_t layout_index, int32_t n,
    int32_t pass, int32_t now)
{
    pair_asker pa = {{.p = p, .s = s, .now = now, .pass = pass}, pair_step(p, st)};
    int32_t parent = -1, rows = 0;
    for (int32_t i = 0; i < n && pass > 0; i++) {
        const strand *t = &p->strands[s->needs[s->layouts[layout_index].order[i]].strand];
        if (t->parent < 0 || p->strands[t->parent].pass >= pass
            || (t->parent == parent && t->parent_row <= rows))
            continue;
        parent = t->parent;
        rows = t->parent_row;
        if (!context_rows(p, st, parent, rows - 1, ask_pair, &pa)) return false;
    }
    return true;
}

/* Queries of the first n needs of a layout, and the keys and values of their contexts. */
static bool attach_attention(
    planner *p, schedule *s, const step *st, int32_t base, int32_t n, int32_t now)
{
    int32_t count, whole = layout_closure(p, s, base, n, &count);
    if (whole < 0 || !attach(p, s, p->program->slots[st->operands[0]].value, base, n, now))
        return false;
    const step *pair = pair_step(p, st);
    for (int k = 0; k < 2; k++)
        if (!attach(p, s, p->program->slots[pair->operands[k]].value, whole, count, now))
            return false;
    return ask_earlier(p, s, st, whole, count, moment_of(p, now).pass, now);
}

/* What the rows of a moment's layout are made of: rows of strands that are older than the operands
 * are the operands' own; the others are asked for one by one. */
static bool ask_layout(planner *p, schedule *s, int32_t now)
{
    const int32_t base = s->moments[now].base, n_base = s->moments[now].n_base;
    const program *g = p->program;
    /* among them the start of a pass, which is no step's moment */
    if (base < 0) return true;
    const step *st = &g->steps[g->values[moment_of(p, now).value].step];
    if (st->kind == STEP_INPUT || st->kind == STEP_TOKENS || st->kind == STEP_POSITIONS
        || st->kind == STEP_EMBED)
        return true;
    const bool attention = st->kind == STEP_ATTENTION;
    int32_t n = n_base;
    for (int k = 0; k < (st->kind == STEP_ROPE ? 1 : st->n_operands); k++) {
        int32_t value = g->slots[st->operands[k]].value,
                older = layout_prefix(&s->layouts[base], computed_age(value));
        if (makes_units(&g->steps[g->values[value].step])) /* see ask_at */
            older = layout_prefix(&s->layouts[base], computed_age(value - 1));
        if (g->values[value].per_position != g->values[st->value].per_position) older = 0;
        if (older < n) n = older;
    }
    if (attention ? !attach_attention(p, s, st, base, n, now) : false) return false;
    for (int k = 0; k < (st->kind == STEP_ROPE ? 1 : st->n_operands) && !attention; k++)
        if (!attach(p, s, g->slots[st->operands[k]].value, base, n, now)) return false;
    for (int32_t i = n; i < n_base; i++) {
        need d = s->needs[s->layouts[base].order[i]];
        d.c0 = 0, d.c1 = g->values[st->value].width;
        if (!ask_operands(p, s, now, &d)) return false;
    }
    return true;
}

/* The moment's needs become all its own. */
static bool own_needs(planner *p, schedule *s, int32_t at)
{
    moment_plan *m = &s->moments[at];
    for (int32_t i = 0; i < m->n_base; i++) {
        need d = s->needs[s->layouts[m->base].order[i]];
        if (schedule_widen_need(s, at, PLACE_VALUE, d.strand, d.lo, d.hi, 0, 0)) continue;
        d.moment = at;
        if (!schedule_add_need(p, s, &d)) return false;
    }
    m->base = -1;
    m->n_base = 0;
    return true;
}

/* Attention that is taken whole is of all rows of its sequence, whoever asks for some: who needs
 * what must not decide how a row is computed. The moment then has no layout, and pack.c puts its
 * rows in an order of their own. *found: there is a sequence that is taken whole. */
static bool ask_whole(planner *p, schedule *s, int32_t now, bool *found)
{
    const int32_t value_index = moment_of(p, now).value;
    const step *st = value_index >= 0 ? &p->program->steps[p->program->values[value_index].step]
                                      : NULL;
    const moment_plan *m = &s->moments[now];
    *found = false;
    if (!p->whole.of_strand || !st || st->kind != STEP_ATTENTION) return true;
    for (int32_t i = 0; i < m->n_base; i++)
        *found |= whole_of(p, st, s->needs[s->layouts[m->base].order[i]].strand) != NULL;
    for (int32_t i = m->first_need; i >= 0; i = s->needs[i].next)
        *found |= s->needs[i].kind == NEED_COMPUTED && whole_of(p, st, s->needs[i].strand);
    if (!*found) return true;
    if (!own_needs(p, s, now)) return false;
    for (int32_t i = m->first_need, next; i >= 0; i = next) {
        const need n = s->needs[i];
        const whole *w = n.kind == NEED_COMPUTED ? whole_of(p, st, n.strand) : NULL;
        next = n.next;
        for (int32_t k = 0; w && k < w->rows->n; k++) {
            const segment *g = &w->rows->at[k];
            if (!ask_at(p, s, now, NEED_COMPUTED, g->strand, g->first, g->first + g->count, 0,
                    p->program->values[value_index].width, 0, now))
                return false;
        }
    }
    return true;
}

/* All needs of one moment: records from the last level down (they may need rows of the same
 * moment), then what the step computes. */
static bool ask_moment(planner *p, schedule *s, int32_t now)
{
    for (int32_t level = s->moments[now].n_levels; level > 0; level--)
        for (int32_t i = s->moments[now].first_need; i >= 0; i = s->needs[i].next) {
            if (s->needs[i].level != level || s->needs[i].done || s->needs[i].kind == NEED_JOINED)
                continue;
            s->needs[i].done = true;
            need n = s->needs[i];
            if (n.kind != NEED_KEPT && !ask_record(p, s, now, &n)) return false;
        }
    bool whole_rows;
    if (!ask_whole(p, s, now, &whole_rows)) return false;
    if (!whole_rows && (!layout_settle(p, s, now) || !ask_layout(p, s, now))) return false;
    for (int32_t i = s->moments[now].first_need; i >= 0; i = s->needs[i].next) {
        need n = s->needs[i];
        if (n.kind == NEED_COMPUTED && !ask_operands(p, s, now, &n)) return false;
    }
    return true;
}

/* Saved rows are copied out at the moment they are made. */
static bool ask_saved(planner *p, schedule *s)
{
    for (size_t i = 0; i < s->n_rows; i++) {
        saved_rows r = s->rows[i];
        if (r.from.domain == DOMAIN_CONSTANT) continue;
        int32_t now = moment_number(p, strand_moment(p, r.from.domain, r.from.strand));
        if (!ask_piece(p, s, &r.from, 0, r.rows, r.from.c0, r.from.c1, now)) return false;
    }
    return true;
}

inset_status plan_live(planner *p, schedule *s)
{
    s->external_offset = arena_new(
        &p->memory, (p->trace->n_storages + 1) * sizeof *s->external_offset);
    if (!s->external_offset) return INSET_NO_MEMORY;
    for (size_t i = 0; i < p->trace->n_storages; i++) s->external_offset[i] = -1;
    inset_status status = plan_collect_saves(p, s);
    if (status) return status;
    s->n_passes = 1;
    for (size_t i = 0; i < p->n_strands; i++)
        if (p->strands[i].pass >= s->n_passes) s->n_passes = p->strands[i].pass + 1;
    int64_t n = (int64_t)s->n_passes * ((int64_t)p->program->n_values + 1);
    if (n > INT32_MAX / 2)
        return error_set(p->context, INSET_VALUE_ERROR,
            "the trace needs %d passes over the model, more than inset plans", s->n_passes);
    s->n_moments = (int32_t)n;
    s->moments = arena_new(&p->memory, (size_t)n * sizeof *s->moments);
    if (!s->moments) return INSET_NO_MEMORY;
    for (int32_t i = 0; i < s->n_moments; i++) {
        s->moments[i].first_need = s->moments[i].base = -1;
        s->moments[i].value.first_use = s->moments[i].free.first_use =
            s->moments[i].kept.first_use = INT32_MAX;
        s->moments[i].value.last_use = s->moments[i].free.last_use = s->moments[i].kept.last_use =
            -1;
    }
    if (!ask_saved(p, s)) return INSET_NO_MEMORY;
    for (int32_t now = s->n_moments - 1; now >= 0; now--)
        if (!ask_moment(p, s, now)) return INSET_NO_MEMORY;
    return INSET_OK;
}
