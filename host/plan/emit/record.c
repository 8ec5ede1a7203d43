/* record.c: what records make, what is saved, and what is put aside for later passes: rectangles of
 * elements, level by level, a launch a level, for what the step's own launch does not apply
 * (emit/fused.c). */
#include "plan/emit/emit.h"

#include <stdlib.h>
#include <string.h>

/* ---- records ------------------------------------------------------------ */

/* Joins b to a where its rows go on from a's; false when it does not. */
static bool join_records(record *a, const record *b)
{
    if (a->op != b->op || a->columns != b->columns || a->out_type != b->out_type
        || a->a_type != b->a_type || a->b_type != b->b_type || a->compute != b->compute
        || a->out_column != b->out_column || a->a_column != b->a_column
        || a->b_column != b->b_column || !a->a != !b->a || !a->b != !b->b
        || memcmp(&a->a_constant, &b->a_constant, sizeof(double))
        || memcmp(&a->b_constant, &b->b_constant, sizeof(double)) || a->rows > INT32_MAX - b->rows)
        return false;
    const void *at[3][2] = {{a->out, b->out}, {a->a, b->a}, {a->b, b->b}};
    int64_t *stride[3] = {&a->out_row, &a->a_row, &a->b_row},
            next[3] = {b->out_row, b->a_row, b->b_row}, step[3];
    const uint8_t types[3] = {a->out_type, a->a_type, a->b_type};
    for (int k = 0; k < 3; k++) {
        if (!at[k][0]) {
            step[k] = 0;
            continue;
        }
        int64_t bytes = (const char *)at[k][1] - (const char *)at[k][0],
                size = (int64_t)type_size((inset_type)types[k]);
        if (bytes % (size * a->rows)) return false;
        step[k] = bytes / size / a->rows;
        if (step[k] < 0 || step[k] > INT32_MAX || (a->rows > 1 && step[k] != *stride[k])
            || (b->rows > 1 && step[k] != next[k]))
            return false;
    }
    for (int k = 0; k < 3; k++) *stride[k] = step[k];
    a->rows += b->rows;
    return true;
}

bool emit_record(emitter *e, const record *r)
{
    plan *out = e->out;
    if (!r->rows || !r->columns) return true;
    if (out->n_records > e->first_record && join_records(&out->records[out->n_records - 1], r))
        return true;
    if (!array_extend(e->p->context, &out->records, &out->records_capacity, out->n_records + 1,
            sizeof *out->records))
        return false;
    out->records[out->n_records++] = *r;
    return true;
}

/* An operand of a record: rows lo .. of a piece, from its column c0 on. */
void emit_record_operand(const emitter *e, const piece *from, int32_t lo, int32_t c0,
    const void **at, double *constant, int64_t *row, int64_t *column, uint8_t *type,
    inset_type constant_type)
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
    const moment_plan *chosen = emit_chosen_columns(e, from->domain, from->strand);
    /* what a record reads is one range of them, so its columns stay side by side */
    if (chosen) {
        int32_t lo = 0, hi = chosen->n_columns - 1;
        while (lo < hi) {
            int32_t middle = lo + (hi - lo) / 2;
            if (chosen->columns[middle] < source) lo = middle + 1;
            else hi = middle;
        }
        source = lo;
    }
    *at = moved(emit_row_address(e, from->domain, from->strand, first), source * size);
    *row = from->row_step ? emit_row_bytes(e, from->domain, from->strand) / size : 0;
    *column = from->column_step;
}

/* A comparison is computed in the type of what it compares, a number of which has it too. */
static void compute_as_compared(const emitter *e, const strand *t, record *r)
{
    const piece *from = &t->pieces[t->pieces[0].domain == DOMAIN_CONSTANT];
    const inset_type type = from->domain == DOMAIN_CONSTANT
                                ? INSET_F64
                                : strand_type(e->p, from->domain, from->strand);
    r->compute = (uint8_t)type;
    if (!r->a) r->a_type = type_is_float(type) ? INSET_F64 : INSET_I64;
    if (!r->b) r->b_type = type_is_float(type) ? INSET_F64 : INSET_I64;
}

/* The records that make rows of a copy or an expression. */
static bool emit_rows_of(emitter *e, const need *n)
{
    const strand *t = &e->p->strands[n->strand];
    inset_type type = strand_type(e->p, t->born, n->strand);
    char *out = emit_row_address(e, t->born, n->strand, n->lo);
    int64_t size = (int64_t)type_size(type), stride = emit_row_bytes(e, t->born, n->strand) / size;
    record r = {.out_row = stride,
        .out_column = 1,
        .rows = n->hi - n->lo,
        .out_type = (uint8_t)type,
        .compute = (uint8_t)type};
    if (t->kind == STRAND_EXPR) {
        /* trace_op and record_op name the same operations in the same order */
        r.op = t->op;
        r.columns = n->c1 - n->c0;
        r.out = moved(out, n->c0 * size);
        emit_record_operand(e, &t->pieces[0], n->lo, n->c0, &r.a, &r.a_constant, &r.a_row,
            &r.a_column, &r.a_type, type_is_float(type) ? INSET_F64 : INSET_I64);
        if (t->n > 1)
            emit_record_operand(e, &t->pieces[1], n->lo, n->c0, &r.b, &r.b_constant, &r.b_row,
                &r.b_column, &r.b_type, type_is_float(type) ? INSET_F64 : INSET_I64);
        if (trace_op_is_comparison(t->op)) compute_as_compared(e, t, &r);
        return emit_record(e, &r);
    }
    for (int32_t i = 0; i < t->n; i++) {
        const piece *from = &t->pieces[i];
        int32_t c0 = from->c0 > n->c0 ? from->c0 : n->c0, c1 = from->c1 < n->c1 ? from->c1 : n->c1;
        if (c0 >= c1) continue;
        record one = r;
        one.op = RECORD_COPY;
        one.columns = c1 - c0;
        one.out = moved(out, c0 * size);
        emit_record_operand(e, from, n->lo, c0, &one.a, &one.a_constant, &one.a_row, &one.a_column,
            &one.a_type, type);
        if (!emit_record(e, &one)) return false;
    }
    return true;
}

/* Rows of this moment that a later pass reads are put aside; rows of earlier passes are fetched
 * from where those put them. */
static bool emit_kept(emitter *e, const need *n)
{
    planner *p = e->p;
    int32_t value_index = e->when.value;
    inset_type type = strand_type(p, value_index, -1);
    int64_t bytes = emit_row_bytes(e, value_index, n->strand),
            width = bytes / (int64_t)type_size(type);
    record r = {.op = RECORD_COPY,
        .out_type = (uint8_t)type,
        .a_type = (uint8_t)type,
        .compute = (uint8_t)type,
        .out_row = width,
        .a_row = width,
        .out_column = 1,
        .a_column = 1,
        .rows = n->hi - n->lo,
        .columns = (int32_t)width};
    r.out = n->kind == NEED_KEEP
                ? emit_kept_address(e, value_index, n->strand, n->lo)
                : moved(emit_value_buffer(e, e->when.pass, value_index), n->first_row * bytes);
    r.a = emit_row_address(e, value_index, n->strand, n->lo);
    return emit_record(e, &r);
}

/* The level at which a need's rows are made by a record: what is put aside comes after what it is
 * made of. */
static int32_t need_level(const emitter *e, const need *n)
{
    return n->kind == NEED_KEEP ? strand_level(e->p, e->when.value, n->strand) + 1 : n->level;
}

static bool emit_saved(emitter *e, const saved_rows *g)
{
    const saved_tensor *save = &e->s->saved[g->save];
    int64_t size = (int64_t)type_size(save->type);
    record r = {.op = RECORD_COPY,
        .out_type = (uint8_t)save->type,
        .compute = (uint8_t)save->type,
        .out_row = g->stride,
        .out_column = 1,
        .rows = g->rows,
        .columns = g->from.c1 - g->from.c0};
    r.out = tagged(AREA_SAVED, save->offset + g->offset + g->from.c0 * size);
    emit_record_operand(e, &g->from, 0, g->from.c0, &r.a, &r.a_constant, &r.a_row, &r.a_column,
        &r.a_type, save->type);
    return emit_record(e, &r);
}

static int32_t saved_level(const emitter *e, const saved_rows *g)
{
    return strand_level(e->p, g->from.domain, g->from.strand) + 1;
}

static int32_t saved_moment(const planner *p, const saved_rows *g)
{
    return moment_number(p, strand_moment(p, g->from.domain, g->from.strand));
}

/* Closes the launch of records that began at first_record. */
inset_status emit_finish_records(emitter *e, kernel_id kernel)
{
    plan *out = e->out;
    size_t n = out->n_records - e->first_record;
    if (!n) return INSET_OK;
    int64_t blocks = records_number_blocks(out->records + e->first_record, (int64_t)n), work = 0;
    for (size_t i = e->first_record; i < out->n_records; i++)
        work += (int64_t)out->records[i].rows * out->records[i].columns;
    launch *l = emit_kernel(e, kernel, sizeof(records_args), blocks, work);
    if (!l) return INSET_NO_MEMORY;
    l->type = INSET_F32;
    l->args.records = (records_args){
        tagged(AREA_RECORDS, (int64_t)e->first_record * (int64_t)sizeof(record)), (int64_t)n};
    return INSET_OK;
}

static bool is_function(const emitter *e, const need *n)
{
    const strand *t = &e->p->strands[n->strand];
    return t->kind == STRAND_EXPR && t->op > RECORD_NEGATE;
}

static inset_status finish_alone(emitter *e, kernel_id kernel)
{
    const size_t n = e->out->n_records - e->first_record;
    e->out->statistics.alone_records += (int64_t)n;
    e->out->statistics.alone_launches += n > 0;
    return emit_finish_records(e, kernel);
}

/* Functions have a launch of their own, behind the other records of the level. */
static inset_status emit_functions(emitter *e, const moment_plan *m, int32_t level)
{
    e->first_record = e->out->n_records;
    for (int32_t i = 0; i < m->n_order; i++) {
        const need *n = &e->s->needs[m->order[i]];
        if (n->kind == NEED_COMPUTED || n->kind == NEED_KEPT || n->kind == NEED_KEEP) continue;
        if (need_level(e, n) == level && is_function(e, n) && !emit_rows_of(e, n))
            return INSET_NO_MEMORY;
    }
    return finish_alone(e, KERNEL_FUNCTIONS);
}

inset_status emit_records(emitter *e)
{
    const schedule *s = e->s;
    const moment_plan *m = &s->moments[e->now];
    size_t saved_end = e->saved_next;
    int32_t last = m->n_levels;
    for (;
         saved_end < s->n_rows && saved_moment(e->p, &s->rows[e->saved_order[saved_end]]) == e->now;
         saved_end++) {
        int32_t level = saved_level(e, &s->rows[e->saved_order[saved_end]]);
        if (level > last) last = level;
    }
    for (int32_t i = 0; i < m->n_order && s->n_passes > 1; i++) {
        int32_t level = need_level(e, &s->needs[m->order[i]]);
        if (level > last) last = level;
    }
    for (int32_t level = 1; level <= last; level++) {
        e->first_record = e->out->n_records;
        e->level = level;
        bool fine = true, metrics = false, functions = false, rows = false, products = false;
        for (int32_t i = 0; i < m->n_order && fine; i++) {
            const need *n = &s->needs[m->order[i]];
            if (n->kind == NEED_COMPUTED || need_level(e, n) != level) continue;
            uint8_t kind = e->p->strands[n->strand].kind;
            if (n->kind == NEED_KEPT || n->kind == NEED_KEEP) fine = emit_kept(e, n);
            else if (kind == STRAND_METRIC) metrics = true;
            else if (kind == STRAND_ROWS) rows = true;
            else if (kind == STRAND_PRODUCT) products = true;
            else if (is_function(e, n)) functions = true;
            else
                fine = kind == STRAND_SCORES || kind == STRAND_SOFTMAX
                               || kind == STRAND_SOFTMAX_BACK
                           ? !emit_open(e, n)
                           : emit_rows_of(e, n);
        }
        for (size_t i = e->saved_next; i < saved_end && fine; i++) {
            const saved_rows *g = &s->rows[e->saved_order[i]];
            if (saved_level(e, g) == level) fine = emit_saved(e, g);
        }
        if (!fine) return INSET_NO_MEMORY;
        inset_status status = emit_fuse(e);
        if (!status && metrics) status = emit_metrics(e, level);
        if (status || (status = finish_alone(e, KERNEL_RECORDS))
            || (functions && (status = emit_functions(e, m, level)))
            || (rows && (status = emit_row_functions(e, level)))
            || (products && (status = emit_products(e, level))))
            return status;
    }
    e->saved_next = saved_end;
    return INSET_OK;
}

/* ---- the order of saved rows -------------------------------------------- */

typedef struct moment_key {
    int32_t moment, row;
} moment_key;

static int compare_moments(const void *a, const void *b)
{
    const moment_key *x = a, *y = b;
    if (x->moment != y->moment) return x->moment < y->moment ? -1 : 1;
    return (x->row > y->row) - (x->row < y->row);
}

inset_status emit_order_saved(emitter *e)
{
    schedule *s = e->s;
    moment_key *keys = arena_new(&e->p->scratch, s->n_rows * sizeof *keys);
    e->saved_order = arena_new(&e->p->scratch, s->n_rows * sizeof *e->saved_order);
    if (!keys || !e->saved_order) return INSET_NO_MEMORY;
    for (size_t i = 0; i < s->n_rows; i++)
        keys[i] = (moment_key){saved_moment(e->p, &s->rows[i]), (int32_t)i};
    qsort(keys, s->n_rows, sizeof *keys, compare_moments);
    for (size_t i = 0; i < s->n_rows; i++) e->saved_order[i] = keys[i].row;
    return INSET_OK;
}
