/* fused.c: records that the step's own launch applies, row by row, to the rows it has just made, so
 * that they cost no launch.
 *
 * A record goes to the block of the one row of the step that it reads, or that a record reads whose
 * result it reads. One that reads only what was complete before goes to any block, unless a launch
 * of records is needed here anyway. What does not fit stays with KERNEL_RECORDS: types and strides
 * that the kernels do not take (fits), records of two rows, of results that several records made
 * together or that a launch of records made, and what would keep one block busy for long while
 * others are done. Rectangles stay whole: a launch row has a list of the rectangles that have a row
 * for it (fused_records in kernels.h).
 *
 * An addition and its norm are one launch that makes the rows of two moments. The records of both
 * are in it: those of the addition wait for the norm's moment, where they and the norm's become one
 * table. */
#include "plan/emit/emit.h"

#include <stdlib.h>
#include <string.h>

/* What one block may be given beside its own work: a launch of records would spread it over other
 * blocks. */
enum { MOST_ELEMENTS = 4 * RECORD_BLOCK_ELEMENTS };

/* Where a record's rows go: row i to the block of row first + i * step of the launch. */
typedef struct placing {
    int32_t own, first, step, column;
    uint8_t after;
} placing;

/* Where a record of the launch writes, in order of addresses. */
typedef struct result_place {
    int64_t offset;
    int32_t record;
} result_place;

typedef enum source_kind {
    SOURCE_COMPLETE,
    SOURCE_OWN,
    SOURCE_RESULT,
    SOURCE_LATE,
    SOURCE_MIXED
} source_kind;

static int64_t offset_of(const void *tagged_address)
{
    return (int64_t)((uint64_t)(uintptr_t)tagged_address & ((1ull << 56) - 1));
}
static area area_of(const void *tagged_address)
{
    return (area)((uint64_t)(uintptr_t)tagged_address >> 56);
}
static bool inside(const buffer *b, int64_t offset)
{
    return b->bytes > 0 && offset >= b->offset && offset < b->offset + b->bytes;
}

/* The launch that has just been emitted can take records of its rows, which are the first of its
 * moment's buffer. */
void emit_start_fusion(emitter *e, size_t launches_before)
{
    plan *out = e->out;
    fusion *f = &e->fusion;
    const moment_plan *m = &e->s->moments[e->now];
    f->open = false;
    if (e->p->options.no_fuse || out->n_launches == launches_before || out->model_type > INSET_F16)
        return;
    const launch *l = &out->launches[out->n_launches - 1];
    if (l->is_matmul || !kernel_takes_records((kernel_id)l->kernel) || !m->n_rows) return;
    bool by_heads = l->kernel == KERNEL_ATTENTION;
    int64_t rows = by_heads ? l->args.attention.n_rows : l->blocks;
    if (rows > INT32_MAX / 2) return;
    *f = (fusion){.open = true,
        .launch = out->n_launches - 1,
        .at = e->now,
        .norm = m->norm,
        .rows = (int32_t)rows,
        .parts = by_heads ? l->args.attention.n_heads : 1,
        .records = f->records,
        .capacity = f->capacity};
    f->own[f->n_own++] = (struct own_rows){m->value.offset, m->value.bytes / m->n_rows};
    if (!m->norm) return;
    const moment_plan *norm = &e->s->moments[m->norm];
    f->own[f->n_own++] = (struct own_rows){norm->value.offset, norm->value.bytes / norm->n_rows};
}

/* ---- which records ------------------------------------------------------ */

/* The kernels' forms with records take these types and strides. */
static bool fits(const emitter *e, const record *r)
{
    const uint8_t type = (uint8_t)e->out->model_type;
    if (r->out_type != type || r->compute != type) return false;
    if (r->op == RECORD_COPY && r->a)
        return r->a_type == type || (r->a_type <= INSET_F16 && r->out_column == 1);
    if (r->out_column != 1) return false;
    return (!r->a || (r->a_type == type && (r->a_column == 0 || r->a_column == 1)))
           && (!r->b || (r->b_type == type && (r->b_column == 0 || r->b_column == 1)));
}

static bool moment_makes(const emitter *e, int32_t moment_index, int64_t offset)
{
    const moment_plan *m = &e->s->moments[moment_index];
    return inside(&m->value, offset) || inside(&m->free, offset) || inside(&m->kept, offset);
}

/* Who makes the row at this place of the arena: the launch (own), records of its moments (a norm's
 * may read what the addition's made), something between an addition and its norm (late), or what is
 * complete before the launch? */
static source_kind source_at(const emitter *e, const fusion *f, int64_t offset, int *own)
{
    for (*own = 0; *own < f->n_own; ++*own)
        if (offset >= f->own[*own].offset
            && offset < f->own[*own].offset + f->rows * f->own[*own].row_bytes)
            return SOURCE_OWN;
    for (int32_t i = f->at + 1; i < e->now; i++)
        if (moment_makes(e, i, offset)) return SOURCE_LATE;
    const bool addition = f->at < e->now && moment_makes(e, f->at, offset),
               here = e->level > 1 && moment_makes(e, e->now, offset);
    return addition || here ? SOURCE_RESULT : SOURCE_COMPLETE;
}

/* The record of the launch that makes this place of the arena, and row and column of it there; NULL
 * when none does. */
static const record *result_at(
    const emitter *e, const fusion *f, int64_t offset, int32_t *row, int32_t *column)
{
    size_t lo = 0, hi = e->n_results; /* the last that begins at or before it */
    while (lo < hi) {
        const size_t middle = lo + (hi - lo) / 2;
        if (e->results[middle].offset <= offset) lo = middle + 1;
        else hi = middle;
    }
    if (!lo) return NULL;
    const record *r = &f->records[e->results[lo - 1].record];
    const int64_t size = (int64_t)type_size((inset_type)r->out_type),
                  from = (offset - e->results[lo - 1].offset) / size;
    *row = r->rows > 1 ? (int32_t)(from / r->out_row) : 0;
    *column = (int32_t)(from - *row * r->out_row);
    return r->out_column == 1 && *row < r->rows && *column < r->columns ? r : NULL;
}

/* Places a record by an operand that a record of the launch makes. */
static source_kind source_of_result(const emitter *e, const fusion *f, const record *r,
    int64_t offset, int64_t row, int64_t column, placing *where)
{
    int32_t first, from;
    const record *made = result_at(e, f, offset, &first, &from);
    if (!made || from + (r->columns - 1) * column >= made->columns
        || (f->parts > 1 && column != 1 && r->columns > 1))
        return SOURCE_LATE;
    const int64_t step = r->rows > 1 && made->rows > 1 ? row / made->out_row : 0;
    if (r->rows > 1 && row
        && (made->rows == 1 || row % made->out_row || step < 0
            || first + (r->rows - 1) * step >= made->rows))
        return SOURCE_MIXED;
    *where = (placing){1, made->first_row + first, r->rows > 1 ? (int32_t)step : 1,
        made->first_column < 0 ? -1 : made->first_column + from, 1};
    return SOURCE_OWN;
}

/* What an operand of a record is to the launch: rows that it makes, rows complete before it, or
 * later ones; MIXED: not all of one kind, or rows of its own that do not go on as they should
 * (records that have little to do with each other may have been joined). */
static source_kind source_of_record(const emitter *e, const fusion *f, const record *r,
    const void *at, int64_t row, int64_t column, uint8_t type, placing *where)
{
    if (!at || area_of(at) != AREA_ARENA) return SOURCE_COMPLETE;
    int own, other;
    const int64_t offset = offset_of(at), size = (int64_t)type_size((inset_type)type);
    const source_kind kind = source_at(e, f, offset, &own);
    if (kind != SOURCE_OWN) {
        for (int32_t i = 1; i < r->rows && row; i++)
            if (source_at(e, f, offset + i * row * size, &other) != kind) return SOURCE_MIXED;
        return kind == SOURCE_RESULT ? source_of_result(e, f, r, offset, row, column, where) : kind;
    }
    const struct own_rows *rows = &f->own[own];
    const int64_t first = (offset - rows->offset) / rows->row_bytes,
                  step = r->rows > 1 ? row * size / rows->row_bytes : 1;
    if (r->rows > 1
        && (row * size % rows->row_bytes || step < 0 || first + (r->rows - 1) * step >= f->rows))
        return SOURCE_MIXED;
    if (f->parts > 1 && column != 1 && r->columns > 1) return SOURCE_LATE;
    *where = (placing){1, (int32_t)first, (int32_t)step,
        (int32_t)((offset - rows->offset) % rows->row_bytes / size), 0};
    return SOURCE_OWN;
}

/* Whether the launch can do a record, and at which of its rows. COMPLETE: at any. LATE: it cannot.
 * MIXED: some of its rows, perhaps. */
static source_kind place(const emitter *e, const fusion *f, const record *r, placing *out)
{
    placing a = {0}, b = {0};
    *out = (placing){0, 0, 1, -1, 0};
    if (!fits(e, r)) return SOURCE_LATE;
    const source_kind first = source_of_record(e, f, r, r->a, r->a_row, r->a_column, r->a_type, &a);
    const source_kind second = source_of_record(
        e, f, r, r->b, r->b_row, r->b_column, r->b_type, &b);
    if (first == SOURCE_LATE || second == SOURCE_LATE) return SOURCE_LATE;
    if (first == SOURCE_MIXED || second == SOURCE_MIXED) return SOURCE_MIXED;
    if (first == SOURCE_COMPLETE && second == SOURCE_COMPLETE) return SOURCE_COMPLETE;
    *out = first == SOURCE_OWN ? a : b;
    if (first != SOURCE_OWN || second != SOURCE_OWN) return SOURCE_OWN;
    out->after = a.after | b.after;
    if (a.first != b.first || (f->parts > 1 && a.column != b.column)) return SOURCE_LATE;
    return a.step == b.step ? SOURCE_OWN : SOURCE_MIXED;
}

/* Adds elements to what the blocks of a record's rows do; false, and nothing added, where that is
 * too much for one of them. */
static bool add_work(emitter *e, const fusion *f, const placing *where, const record *r)
{
    const int64_t most = (int64_t)MOST_ELEMENTS * f->parts;
    if (where->step == 0 && (int64_t)r->rows * r->columns > most) return false;
    for (int32_t i = 0; i < r->rows; i++) {
        int64_t *work = &e->block_work[where->first + i * where->step];
        *work += r->columns;
        if (*work <= most) continue;
        for (; i >= 0; i--) e->block_work[where->first + i * where->step] -= r->columns;
        return false;
    }
    return true;
}

static bool keep(emitter *e, fusion *f, const record *r, const placing *where)
{
    if (!array_extend(e->p->context, &f->records, &f->capacity, f->n + 1, sizeof *f->records))
        return false;
    record *to = &f->records[f->n++];
    *to = *r;
    to->first_row = where->first;
    to->first_column = where->own ? where->column : -1;
    to->after = where->after;
    return true;
}

static record row_of(const record *r, int32_t i)
{
    record one = *r;
    one.rows = 1;
    one.out = moved(one.out, i * r->out_row * (int64_t)type_size((inset_type)r->out_type));
    if (r->a)
        one.a = moved(
            (void *)(uintptr_t)r->a, i * r->a_row * (int64_t)type_size((inset_type)r->a_type));
    if (r->b)
        one.b = moved(
            (void *)(uintptr_t)r->b, i * r->b_row * (int64_t)type_size((inset_type)r->b_type));
    return one;
}

/* A record of the launch; one whose rows do not go on as the launch's do is cut into rows. */
static bool take(emitter *e, fusion *f, const record *r, const placing *where)
{
    if (where->step == 1 || r->rows == 1) return keep(e, f, r, where);
    for (int32_t i = 0; i < r->rows; i++) {
        const record one = row_of(r, i);
        const placing here = {1, where->first + i * where->step, 1, where->column, where->after};
        if (!keep(e, f, &one, &here)) return false;
    }
    return true;
}

/* Records that read no row of the launch: over the rows in turn, when they are no more work than
 * the step itself. */
static bool take_others(emitter *e, fusion *f, bool *taken)
{
    int64_t elements = 0, next = 0;
    *taken = false;
    for (size_t i = 0; i < e->n_others; i++) {
        const record *r = &e->others[i];
        elements += (int64_t)r->rows * r->columns;
        if (r->rows > f->rows || r->columns > MOST_ELEMENTS) return true;
    }
    if (elements * (int64_t)type_size(e->out->model_type) > f->rows * f->own[0].row_bytes)
        return true;
    *taken = true;
    for (size_t i = 0; i < e->n_others; i++) {
        const record *r = &e->others[i];
        if (next + r->rows > f->rows) next = 0;
        const placing where = {0, (int32_t)next, 1, -1, 0};
        next += r->rows;
        if (!keep(e, f, r, &where)) return false;
    }
    return true;
}

/* Gives a record to the launch, to those that any block may do, or back to the launch of
 * records. */
static bool sort_record(emitter *e, fusion *f, const record *r, bool split)
{
    placing where;
    switch (place(e, f, r, &where)) {
    case SOURCE_OWN: return add_work(e, f, &where, r) ? take(e, f, r, &where) : emit_record(e, r);
    case SOURCE_COMPLETE:
        if (!array_extend(
                e->p->context, &e->others, &e->others_capacity, e->n_others + 1, sizeof *e->others))
            return false;
        e->others[e->n_others++] = *r;
        return true;
    case SOURCE_MIXED:
        for (int32_t i = 0; i < r->rows && !split; i++) {
            const record one = row_of(r, i);
            if (!sort_record(e, f, &one, true)) return false;
        }
        return !split || emit_record(e, r);
    default: return emit_record(e, r);
    }
}

static int compare_results(const void *a, const void *b)
{
    const result_place *x = a, *y = b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* Where the records that the launch has so far write, for those that read it. */
static bool index_results(emitter *e, const fusion *f)
{
    e->n_results = 0;
    if (!array_extend(e->p->context, &e->results, &e->results_capacity, f->n, sizeof *e->results))
        return false;
    for (size_t i = 0; i < f->n; i++)
        if (area_of(f->records[i].out) == AREA_ARENA)
            e->results[e->n_results++] = (result_place){offset_of(f->records[i].out), (int32_t)i};
    if (e->n_results > 1) qsort(e->results, e->n_results, sizeof *e->results, compare_results);
    return true;
}

static fusion *fusion_here(emitter *e)
{
    if (e->addition.open && e->addition.norm == e->now) return &e->addition;
    return e->fusion.open && e->fusion.at == e->now ? &e->fusion : NULL;
}

inset_status emit_fuse(emitter *e)
{
    plan *out = e->out;
    fusion *f = fusion_here(e);
    const size_t n = out->n_records - e->first_record;
    if (!f || !n) return INSET_OK;
    if (!array_extend(e->p->context, &e->block_work, &e->block_work_capacity, (size_t)f->rows,
            sizeof *e->block_work)
        || !array_extend(
            e->p->context, &e->gathered, &e->gathered_capacity, n, sizeof *e->gathered))
        return INSET_NO_MEMORY;
    if (!index_results(e, f)) return INSET_NO_MEMORY;
    for (int32_t i = 0; i < f->rows && e->block_work_of != e->now + 1; i++) e->block_work[i] = 0;
    e->block_work_of = e->now + 1;
    memcpy(e->gathered, out->records + e->first_record, n * sizeof *e->gathered);
    out->n_records = e->first_record;
    e->n_others = 0;
    for (size_t i = 0; i < n; i++)
        if (!sort_record(e, f, &e->gathered[i], false)) return INSET_NO_MEMORY;
    bool taken = false;
    if (out->n_records == e->first_record && !take_others(e, f, &taken)) return INSET_NO_MEMORY;
    for (size_t i = 0; i < e->n_others && !taken; i++)
        if (!emit_record(e, &e->others[i])) return INSET_NO_MEMORY;
    return INSET_OK;
}

/* ---- tables ------------------------------------------------------------- */

/* For rows first .. end: where each row's list begins, one more, and the lists. */
static inset_status make_lists(
    emitter *e, const fusion *f, int32_t first, int32_t end, const int32_t **out)
{
    const int32_t n = end - first;
    size_t entries = 0;
    for (size_t i = 0; i < f->n; i++) entries += (size_t)f->records[i].rows;
    const size_t total = (size_t)n + 1 + entries;
    if (total > INT32_MAX)
        return error_set(
            e->p->context, INSET_NO_MEMORY, "a step would have more than 2^31 records");
    if (!array_extend(e->p->context, &e->lists, &e->lists_capacity, total + 1, sizeof *e->lists))
        return INSET_NO_MEMORY;
    int32_t *starts = e->lists;
    for (int32_t i = 0; i <= n + 1; i++) starts[i] = 0;
    for (size_t i = 0; i < f->n; i++)
        for (int32_t k = 0; k < f->records[i].rows; k++)
            starts[f->records[i].first_row + k - first + 1]++;
    starts[0] = n + 1;
    for (int32_t i = 1; i <= n; i++) starts[i] += starts[i - 1];
    /* where the next entry of row i - 1 goes */
    for (int32_t i = n; i > 0; i--) starts[i] = starts[i - 1];
    for (size_t i = 0; i < f->n; i++)
        for (int32_t k = 0; k < f->records[i].rows; k++)
            starts[starts[f->records[i].first_row + k - first + 1]++] = (int32_t)i;
    return (*out = emit_literal_table(e, e->lists, total)) ? INSET_OK : INSET_NO_MEMORY;
}

/* Gives the launch its records. */
static inset_status finish(emitter *e, fusion *f)
{
    plan *out = e->out;
    if (!f->open || !f->n) {
        f->open = false;
        return INSET_OK;
    }
    int32_t first = INT32_MAX, end = 0;
    int64_t work = 0;
    for (size_t i = 0; i < f->n; i++) {
        const record *r = &f->records[i];
        if (r->first_row < first) first = r->first_row;
        if (r->first_row + r->rows > end) end = r->first_row + r->rows;
        work += (int64_t)r->rows * r->columns;
    }
    const int32_t *lists = NULL;
    inset_status status = make_lists(e, f, first, end, &lists);
    if (status) return status;
    if (!array_extend(e->p->context, &out->records, &out->records_capacity, out->n_records + f->n,
            sizeof *out->records))
        return INSET_NO_MEMORY;
    launch *l = &out->launches[f->launch];
    l->fused = (fused_records){lists,
        tagged(AREA_RECORDS, (int64_t)out->n_records * (int64_t)sizeof(record)), first,
        end - first};
    l->work += work;
    for (size_t i = 0; i < f->n; i++) out->records[out->n_records++] = f->records[i];
    out->statistics.fused_records += (int64_t)f->n;
    out->statistics.fused_launches++;
    f->n = 0;
    f->open = false;
    return INSET_OK;
}

inset_status emit_finish_fusion(emitter *e)
{
    if (e->addition.open && e->addition.norm == e->now) return finish(e, &e->addition);
    if (!e->fusion.open || !e->fusion.norm || e->addition.open) return finish(e, &e->fusion);
    /* the norm's records come to it at their moment */
    const fusion spare = e->addition;
    e->addition = e->fusion;
    e->fusion = spare;
    e->fusion.open = false;
    return INSET_OK;
}

void emit_free_fusions(emitter *e)
{
    memory_free(e->p->context, e->fusion.records);
    memory_free(e->p->context, e->addition.records);
    memory_free(e->p->context, e->block_work);
    memory_free(e->p->context, e->others);
    memory_free(e->p->context, e->lists);
    memory_free(e->p->context, e->gathered);
    memory_free(e->p->context, e->results);
}
