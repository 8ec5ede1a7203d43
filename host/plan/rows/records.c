/* records.c: what records do to rows: a set gives a tensor new maps, arithmetic and clones make new
 * tensors. */
#include "plan/rows/reader.h"

#include <string.h>

bool source_pieces(reader *r, const strip *s, int k, int32_t at, piece_list *list, int32_t *left,
    inset_type constant_type, double number)
{
    planner *p = r->p;
    const tensor *t = r->sources[k];
    list->n = 0;
    for (size_t i = 0; i < s->n_pieces; i++) {
        const strip_piece *sp = &s->pieces[i];
        if (!t) {
            piece c = piece_constant(
                constant_type, number, (int32_t)sp->column, (int32_t)(sp->column + sp->count));
            if (!pieces_add(p, list, &c)) return false;
            continue;
        }
        const map *m = t->rows[sp->source_sequence[k]];
        int32_t index = 0, rows = 0, row = sp->source_row[k] + at * s->row_step[k];
        int32_t g = map_find(m, row, &index, &rows);
        if (s->row_step[k] && rows < *left) *left = rows;
        if (!pieces_of_row(p, list, t->domain, m->at[g].strand, index, s->row_step[k],
                sp->source_column[k], sp->source_step[k], (int32_t)sp->column, (int32_t)sp->count))
            return false;
    }
    return true;
}

/* ---- sets --------------------------------------------------------------- */

/* Ends the sequence whose rows are being rewritten: what lies behind the last strip stays. */
static bool finish_sequence(reader *r)
{
    if (r->sequence < 0) return true;
    if (!segments_add_cut(r->p, &r->out, r->old, r->old_done, r->old->rows)) return false;
    const map *made = r->maps[r->sequence] = segments_finish(r->p, &r->out);
    r->sequence = -1;
    return made != NULL;
}

static inset_status set_draft_strip(reader *r, const strip *s)
{
    planner *p = r->p;
    tensor *t = r->target;
    for (int32_t i = 0; i < s->n; i++) {
        int32_t left = 1;
        p->old_pieces.n = 0;
        if (!source_pieces(r, s, 0, i, &p->new_pieces, &left, t->type, r->record->a.number)
            || !draft_pieces(p, t, s->sequence, s->row + i, &p->old_pieces)
            || !pieces_lay(p, &p->old_pieces, &p->new_pieces, &p->row_pieces))
            return INSET_NO_MEMORY;
        draft_row *d = &t->draft[s->sequence][s->row + i];
        if (d->capacity < p->row_pieces.n) {
            d->capacity = p->row_pieces.n * 2;
            d->pieces = arena_new(&p->scratch, d->capacity * sizeof *d->pieces);
            if (!d->pieces) return INSET_NO_MEMORY;
        }
        if (p->row_pieces.n)
            memcpy(d->pieces, p->row_pieces.at, p->row_pieces.n * sizeof *d->pieces);
        d->n = p->row_pieces.n;
    }
    return INSET_OK;
}

static inset_status set_strip(void *user, const strip *s)
{
    reader *r = user;
    planner *p = r->p;
    tensor *t = r->target;
    if (t->draft) return set_draft_strip(r, s);
    if (r->sequence != s->sequence || s->row < r->old_done) {
        if (!finish_sequence(r)) return INSET_NO_MEMORY;
        r->sequence = s->sequence;
        r->old = r->maps[s->sequence];
        r->old_done = 0;
        segments_clear(&r->out);
    }
    if (!segments_add_cut(p, &r->out, r->old, r->old_done, s->row)) return INSET_NO_MEMORY;
    bool whole = s->n_pieces == 1 && s->pieces[0].column == 0 && s->pieces[0].count == t->width;
    for (int32_t at = 0; at < s->n;) {
        int32_t index = 0, left = 0, made = 0, row = 0,
                g = map_find(r->old, s->row + at, &index, &left);
        bool repeats;
        if (left > s->n - at) left = s->n - at;
        if (!source_pieces(r, s, 0, at, &p->new_pieces, &left, t->type, r->record->a.number))
            return INSET_NO_MEMORY;
        piece_list *pieces = &p->new_pieces;
        if (!whole) {
            p->old_pieces.n = 0;
            if (!pieces_of_row(p, &p->old_pieces, t->domain, r->old->at[g].strand, index, 1, 0, 1,
                    0, (int32_t)t->width)
                || !pieces_lay(p, &p->old_pieces, &p->new_pieces, &p->row_pieces))
                return INSET_NO_MEMORY;
            pieces = &p->row_pieces;
        }
        inset_status status = pieces_row(p, t->domain, t->type, (int32_t)t->width, pieces->at,
            pieces->n, 0, (int32_t)t->width, &made, &row, &repeats);
        if (status) return status;
        if (!pieces_add_rows(p, &r->out, made, row, left, repeats)) return INSET_NO_MEMORY;
        at += left;
    }
    r->old_done = s->row + s->n;
    return INSET_OK;
}

static inset_status apply_set(reader *r)
{
    planner *p = r->p;
    tensor *t = r->target;
    const view *const sources[STRIP_SOURCES] = {r->record->a.view, NULL};
    const map **maps = t->draft ? NULL
                                : arena_copy(
                                    &p->scratch, t->rows, (size_t)t->n_sequences * sizeof *maps);
    if (!t->draft && !maps) return INSET_NO_MEMORY;
    if (t->draft && r->sources[0] == t) { /* it reads what it writes: settle it first */
        inset_status status = tensor_freeze(p, t);
        if (status) return status;
        return apply_set(r);
    }
    r->maps = maps;
    r->sequence = -1;
    inset_status status = strips_walk(
        p->context, &p->strips, r->record->target, sources, set_strip, r);
    if (!status && !t->draft && !finish_sequence(r)) status = INSET_NO_MEMORY;
    if (!status && maps) t->rows = maps;
    return status;
}

/* ---- making tensors ----------------------------------------------------- */

inset_status pieces_operand(
    planner *p, piece_list *pieces, inset_type type, int32_t width, piece *out)
{
    if (pieces->n == 1) {
        *out = pieces->at[0];
        return INSET_OK;
    }
    int32_t made, row;
    bool repeats;
    inset_status status = pieces_row(
        p, DOMAIN_FREE, type, width, pieces->at, pieces->n, 0, width, &made, &row, &repeats);
    *out = (piece){.c0 = 0,
        .c1 = width,
        .domain = DOMAIN_FREE,
        .strand = made,
        .shift = row,
        .row_step = !repeats,
        .column_step = 1};
    return status;
}

inset_status pieces_combine(planner *p, strand like, piece *operands, int n, int32_t *strand_index,
    int32_t *row, bool *repeats)
{
    int32_t anchor = 0;
    *repeats = true;
    for (int k = n - 1; k >= 0; k--)
        if (operands[k].row_step) anchor = operands[k].shift, *repeats = false;
    for (int k = 0; k < n; k++)
        if (operands[k].row_step) operands[k].shift -= anchor;
    pieces_moment(p, &like, operands, (size_t)n);
    *strand_index = strand_intern(p, &like, n, sizeof *operands, operands, 0);
    *row = anchor;
    return *strand_index < 0 ? INSET_NO_MEMORY : INSET_OK;
}

static strand expression_like(const trace_record *r, inset_type type, int32_t width)
{
    return (strand){.kind = STRAND_EXPR,
        .type = (uint8_t)type,
        .op = (uint8_t)r->op,
        .born = DOMAIN_FREE,
        .width = width,
        .parent = PARENT_NONE};
}

static inset_status make_strip(void *user, const strip *s)
{
    reader *r = user;
    planner *p = r->p;
    tensor *t = r->target;
    const trace_record *record = r->record;
    int32_t width = (int32_t)t->width;
    const int n = trace_op_operands(record->op);
    if (r->sequence != s->sequence) {
        if (r->sequence >= 0 && !(r->maps[r->sequence] = segments_finish(p, &r->out)))
            return INSET_NO_MEMORY;
        segments_clear(&r->out);
        r->sequence = s->sequence;
    }
    for (int32_t at = 0; at < s->n;) {
        int32_t left = s->n - at, made = 0, row = 0;
        bool repeats = false;
        piece operands[2];
        inset_status status = INSET_OK;
        /* Where operands run over different rows, `left` may shrink at the second: then the first
         * holds for fewer rows, which is right too. */
        for (int k = 0; k < n && !status; k++) {
            double number = k ? record->b.number : record->a.number;
            if (!source_pieces(r, s, k, at, &p->new_pieces, &left, INSET_F64, number))
                return INSET_NO_MEMORY;
            if (record->op == TRACE_COPY) break;
            status = pieces_operand(p, &p->new_pieces,
                r->sources[k] ? r->sources[k]->type : t->type, width, &operands[k]);
        }
        if (status) return status;
        if (record->op == TRACE_COPY)
            status = pieces_row(p, t->domain, t->type, width, p->new_pieces.at, p->new_pieces.n, 0,
                width, &made, &row, &repeats);
        else
            status = pieces_combine(
                p, expression_like(record, t->type, width), operands, n, &made, &row, &repeats);
        if (status) return status;
        if (!pieces_add_rows(p, &r->out, made, row, left, repeats)) return INSET_NO_MEMORY;
        at += left;
    }
    return INSET_OK;
}

/* A clone of all of a tensor is the same rows: later sets give either of them new maps. */
static bool is_whole_clone(
    const planner *p, const trace_record *r, const tensor *target, const tensor *from)
{
    if (r->op != TRACE_COPY || !from || from->type != target->type || from->width != target->width
        || from->n_sequences != target->n_sequences)
        return false;
    const view *a = r->a.view, *to = r->target;
    const storage *s = &p->trace->storages[a->storage];
    if (a->column || a->n_spans != to->n_spans || a->n_dimensions != to->n_dimensions) return false;
    for (int i = 0; i < a->n_dimensions; i++)
        if (a->dimensions[i].kind != to->dimensions[i].kind
            || a->dimensions[i].stride != to->dimensions[i].stride
            || a->dimensions[i].extent != to->dimensions[i].extent)
            return false;
    for (int32_t i = 0; i < a->n_spans; i++)
        if (a->spans[i].sequence != i || a->spans[i].start
            || (a->position_dimension >= 0 && a->spans[i].count != s->lengths[i]))
            return false;
    for (int32_t i = 0; i < from->n_sequences; i++)
        if (from->lengths[i] != target->lengths[i]) return false;
    return view_elements(a) > 0;
}

static inset_status apply_make(reader *r)
{
    planner *p = r->p;
    tensor *t = r->target;
    const view *const sources[STRIP_SOURCES] = {r->record->a.view, r->record->b.view};
    if (is_whole_clone(p, r->record, t, r->sources[0])) {
        memcpy(t->rows, r->sources[0]->rows, (size_t)t->n_sequences * sizeof *t->rows);
        t->domain = r->sources[0]->domain;
        return INSET_OK;
    }
    segments_clear(&r->out);
    for (int32_t s = 0; s < t->n_sequences; s++) /* empty, until rows are made */
        if (!(t->rows[s] = segments_finish(p, &r->out))) return INSET_NO_MEMORY;
    r->maps = t->rows;
    r->sequence = -1;
    inset_status status = strips_walk(
        p->context, &p->strips, r->record->target, sources, make_strip, r);
    if (!status && r->sequence >= 0 && !(t->rows[r->sequence] = segments_finish(p, &r->out)))
        status = INSET_NO_MEMORY;
    return status;
}

inset_status record_apply(planner *p, const trace_record *record)
{
    reader r = {.p = p, .record = record, .sequence = -1};
    const view *sources[STRIP_SOURCES] = {record->a.view, record->b.view};
    inset_status status = INSET_OK;
    if (record->kind == TRACE_METRIC) return metric_apply(p, record);
    if (record->kind == TRACE_CALL) return call_apply(p, record);
    if (record->kind == TRACE_ROWS) return row_function_apply(p, record);
    if (record->kind == TRACE_PRODUCT) return product_apply(p, record);
    if (!(r.target = storage_tensor(p, record->target->storage))) return INSET_NO_MEMORY;
    for (int k = 0; k < STRIP_SOURCES && !status; k++) {
        if (!sources[k]) continue;
        if (!(r.sources[k] = storage_tensor(p, sources[k]->storage))) return INSET_NO_MEMORY;
        if (r.sources[k] != r.target || record->kind == TRACE_MAKE)
            status = tensor_freeze(p, r.sources[k]);
    }
    r.out = (segment_list){0};
    if (!status) status = record->kind == TRACE_SET ? apply_set(&r) : apply_make(&r);
    memory_free(p->context, r.out.at);
    return status;
}
