/* pieces.c: what records do to rows. A set gives a tensor new maps whose changed rows are patched together from pieces of others; a row
 * that turns out to be a whole existing row is that row, so that setting a row to itself changes nothing. */
#include "plan/planner.h"

#include <string.h>

/* ---- lists of pieces -------------------------------------------------------------------------------------------------------------------- */

piece piece_constant(inset_type type, double number, int32_t c0, int32_t c1)
{
    unsigned char rounded[8];
    element_put(type, rounded, number);
    number = element_get(type, rounded);
    piece c = {.c0 = c0, .c1 = c1, .domain = DOMAIN_CONSTANT};
    memcpy(&c.strand, &number, 4);
    memcpy(&c.shift, (const char *)&number + 4, 4);
    return c;
}

double piece_number(const piece *c)
{
    double number;
    memcpy(&number, &c->strand, 4);
    memcpy((char *)&number + 4, &c->shift, 4);
    return number;
}

/* Does b go on where a ends, in the same source row? Sets the column step the two have together. */
static bool goes_on(const piece *a, const piece *b, int32_t *step)
{
    if (a->c1 != b->c0 || a->domain != b->domain || a->strand != b->strand || a->shift != b->shift || a->row_step != b->row_step) return false;
    if (a->domain == DOMAIN_CONSTANT) return *step = 0, true;
    int32_t n_a = a->c1 - a->c0, n_b = b->c1 - b->c0;
    *step = n_a > 1 ? a->column_step : n_b > 1 ? b->column_step : b->column - a->column;
    if (*step < 0 || (n_b > 1 && b->column_step != *step)) return false;
    return (int64_t)b->column == a->column + (int64_t)n_a * *step;
}

bool pieces_add(planner *p, piece_list *list, const piece *one)
{
    if (one->c0 >= one->c1) return true;
    int32_t step;
    if (list->n && goes_on(&list->at[list->n - 1], one, &step)) {
        list->at[list->n - 1].c1 = one->c1;
        list->at[list->n - 1].column_step = step;
        return true;
    }
    if (!array_extend(p->context, &list->at, &list->capacity, list->n + 1, sizeof *list->at)) return false;
    list->at[list->n++] = *one;
    return true;
}

/* Columns from .. to of a piece, to stand from column `at` on. */
static piece piece_part(const piece *one, int32_t from, int32_t to, int32_t at)
{
    piece part = *one;
    if (one->domain != DOMAIN_CONSTANT) part.column += (from - one->c0) * one->column_step;
    part.c0 = at;
    part.c1 = at + (to - from);
    return part;
}

/* A copied row may be read through to what it was copied from, unless a conversion on the way would be lost. */
static bool reads_through(const planner *p, int32_t domain, int32_t strand_index)
{
    const strand *s = &p->strands[strand_index];
    return s->kind == STRAND_COPY && s->born == domain;
}

static bool keeps_type(const planner *p, const piece *one, inset_type type)
{
    return one->domain == DOMAIN_CONSTANT || strand_type(p, one->domain, one->strand) == type;
}

static piece source_piece(int32_t domain, int32_t strand_index, int32_t index, int32_t row_step, int64_t column, int32_t step, int32_t at, int32_t count)
{
    return (piece){.c0 = at, .c1 = at + count, .domain = domain, .strand = strand_index, .shift = index, .row_step = row_step,
                   .column = (int32_t)column, .column_step = count == 1 ? 1 : step};
}

bool pieces_of_row(planner *p, piece_list *list, int32_t domain, int32_t strand_index, int32_t index, int32_t row_step, int64_t column,
                   int32_t step, int32_t at, int32_t count)
{
    piece direct = source_piece(domain, strand_index, index, row_step, column, step, at, count);
    if (!reads_through(p, domain, strand_index)) return pieces_add(p, list, &direct);
    const strand *s = &p->strands[strand_index];
    int32_t chunk = step == 1 ? count : 1, columns = step ? count : 1;       /* one column repeated is looked up once */
    for (int32_t done = 0; done < columns; done += chunk) {
        int32_t from = (int32_t)column + done * step, to = from + chunk;
        for (int32_t i = 0; i < s->n; i++) {
            const piece *in = &s->pieces[i];
            int32_t lo = in->c0 > from ? in->c0 : from, hi = in->c1 < to ? in->c1 : to;
            if (lo >= hi) continue;
            piece part;
            if (keeps_type(p, in, (inset_type)s->type)) {
                part = piece_part(in, lo, hi, at + done + lo - from);
                if (part.domain != DOMAIN_CONSTANT) {
                    part.shift += part.row_step * index;
                    part.row_step *= row_step;
                }
            } else part = source_piece(domain, strand_index, index, row_step, lo, 1, at + done + lo - from, hi - lo);
            if (!step && count > 1) part.c1 = at + count, part.column_step = 0;
            if (!pieces_add(p, list, &part)) return false;
        }
    }
    return true;
}

/* old with `fresh` (sorted, apart from each other) laid over it -> list. */
static bool pieces_lay(planner *p, const piece_list *old, const piece_list *fresh, piece_list *list)
{
    list->n = 0;
    int32_t done = 0;                        /* columns laid so far */
    size_t o = 0;
    for (size_t f = 0; f <= fresh->n; f++) {
        int32_t until = f < fresh->n ? fresh->at[f].c0 : INT32_MAX;
        for (; o < old->n && old->at[o].c0 < until; o++) {
            int32_t lo = old->at[o].c0 > done ? old->at[o].c0 : done, hi = old->at[o].c1 < until ? old->at[o].c1 : until;
            if (lo < hi) {
                piece part = piece_part(&old->at[o], lo, hi, lo);
                if (!pieces_add(p, list, &part)) return false;
            }
            if (old->at[o].c1 > until) break;
        }
        if (f == fresh->n) break;
        if (!pieces_add(p, list, &fresh->at[f])) return false;
        done = fresh->at[f].c1;
    }
    return true;
}

/* ---- rows from pieces ---------------------------------------------------------------------------------------------------------------------- */

void pieces_moment(const planner *p, strand *s, const piece *pieces, size_t n)
{
    moment latest = {0, -1};
    for (size_t i = 0; i < n; i++) latest = moment_later(latest, strand_moment(p, pieces[i].domain, pieces[i].strand));
    if (s->born >= 0) {
        s->pass = latest.value <= s->born ? latest.pass : latest.pass + 1;
        s->time = s->born;
    } else {
        s->pass = latest.pass;
        s->time = latest.value;
    }
    if (s->pass < p->floor) {
        s->pass = p->floor;
        if (s->born < 0) s->time = -1;
    }
    int32_t level = 0;
    for (size_t i = 0; i < n; i++) {
        if (pieces[i].domain == DOMAIN_CONSTANT) continue;
        moment m = strand_moment(p, pieces[i].domain, pieces[i].strand);
        int32_t here = strand_level(p, pieces[i].domain, pieces[i].strand);
        if (m.pass == s->pass && m.value == s->time && here > level) level = here;
    }
    s->level = level + 1;
}

inset_status pieces_row(planner *p, int32_t domain, inset_type type, int32_t width, piece *pieces, size_t n, int32_t c0, int32_t c1,
                        int32_t *strand_index, int32_t *row, bool *repeats)
{
    const piece *one = &pieces[0];
    *repeats = true;
    for (size_t i = 0; i < n; i++) *repeats &= !pieces[i].row_step;
    bool whole = n == 1 && one->c0 == c0 && one->c1 == c1 && one->domain == domain && one->column == c0 && (one->column_step == 1 || c1 - c0 == 1);
    if (whole && (!p->options.no_share || one->strand >= p->first_strand) && (domain >= 0 || (p->strands[one->strand].width == width && p->strands[one->strand].type == type))) {
        *strand_index = one->strand;
        *row = one->shift;
        return INSET_OK;
    }
    int32_t anchor = 0;
    for (size_t i = 0; i < n; i++)
        if (pieces[i].row_step) {
            anchor = pieces[i].shift;
            break;
        }
    for (size_t i = 0; i < n; i++)
        if (pieces[i].row_step) pieces[i].shift -= anchor;
    strand like = {.kind = STRAND_COPY, .type = (uint8_t)type, .born = domain, .width = width, .parent = PARENT_NONE};
    pieces_moment(p, &like, pieces, n);
    *strand_index = strand_intern(p, &like, (int32_t)n, sizeof *pieces, pieces, 0);
    for (size_t i = 0; i < n; i++)
        if (pieces[i].row_step) pieces[i].shift += anchor;
    *row = anchor;
    return *strand_index < 0 ? INSET_NO_MEMORY : INSET_OK;
}

bool pieces_add_rows(planner *p, segment_list *list, int32_t strand_index, int32_t row, int32_t n, bool repeats)
{
    if (!repeats) return segments_add(p, list, strand_index, row, n);
    for (int32_t i = 0; i < n; i++) {        /* each its own segment: the next row of the strand is another one */
        if (!array_extend(p->context, &list->at, &list->capacity, list->n + 1, sizeof *list->at)) return false;
        list->at[list->n++] = (segment){strand_index, row, 1};
        list->rows++;
    }
    return true;
}

/* The pieces are a row's own columns in their own places: that row itself will do. */
static bool in_place(const piece *pieces, size_t n, int32_t value)
{
    for (size_t i = 0; i < n; i++) {
        const piece *one = &pieces[i];
        if (one->domain != value || one->strand != pieces->strand || one->shift != pieces->shift || one->row_step != 1 || one->column != one->c0
            || (one->column_step != 1 && one->c1 - one->c0 != 1)) return false;
    }
    return n > 0;
}

const map *identity_slot(planner *p, const slot *s, const map *m)
{
    bool patched = false;
    for (int32_t i = 0; i < m->n; i++) {
        const strand *here = &p->strands[m->at[i].strand];
        patched |= here->kind == STRAND_COPY && here->born == s->value;
    }
    const slot_shape *shape = &s->shape;
    const int32_t width = p->program->values[s->value].width, c0 = shape->column, c1 = slot_column_end(s);
    const int32_t parts = shape->stride ? shape->extent[0] : 1, part = shape->stride ? shape->extent[1] : c1 - c0;
    if (!patched || parts * part == width) return m;
    inset_type type = strand_type(p, s->value, -1);
    segment_list list = p->segments;
    segments_clear(&list);
    bool fine = true;
    for (int32_t i = 0; i < m->n && fine; i++) {
        const segment *g = &m->at[i];
        const strand *here = &p->strands[g->strand];
        if (here->kind != STRAND_COPY || here->born != s->value) {
            fine = segments_add(p, &list, g->strand, g->first, g->count);
            continue;
        }
        int32_t made, row;
        bool repeats;
        p->row_pieces.n = 0;
        for (int32_t k = 0; k < parts && fine; k++) {
            const int32_t at = c0 + k * shape->stride;
            fine = pieces_of_row(p, &p->row_pieces, s->value, g->strand, g->first, 1, at, 1, at, part);
        }
        if (fine && !p->options.no_share && in_place(p->row_pieces.at, p->row_pieces.n, s->value))
            fine = segments_add(p, &list, p->row_pieces.at->strand, p->row_pieces.at->shift, g->count);
        else
            fine = fine && !pieces_row(p, s->value, type, width, p->row_pieces.at, p->row_pieces.n, c0, c1, &made, &row, &repeats)
                   && pieces_add_rows(p, &list, made, row, g->count, repeats && g->count > 1);
    }
    p->segments = list;
    return fine ? segments_finish(p, &p->segments) : NULL;
}

/* ---- tensors ---------------------------------------------------------------------------------------------------------------------------------- */

static const map *external_rows(planner *p, int32_t storage_index)
{
    const storage *s = &p->trace->storages[storage_index];
    strand like = {.kind = STRAND_EXTERNAL, .type = (uint8_t)s->type, .born = DOMAIN_FREE, .time = -1, .width = (int32_t)s->width,
                   .parent = PARENT_NONE, .storage = storage_index};
    if (!array_extend(p->context, &p->strands, &p->strands_capacity, p->n_strands + 1, sizeof *p->strands)) return NULL;
    p->strands[p->n_strands] = like;
    segments_clear(&p->segments);
    return segments_add(p, &p->segments, (int32_t)p->n_strands++, 0, s->lengths[0]) ? segments_finish(p, &p->segments) : NULL;
}

static bool start_draft(planner *p, tensor *t)
{
    t->draft = arena_new(&p->scratch, (size_t)t->n_sequences * sizeof *t->draft);
    if (!t->draft) return false;
    for (int32_t s = 0; s < t->n_sequences; s++) {
        t->draft[s] = arena_new(&p->scratch, (size_t)t->lengths[s] * sizeof **t->draft);
        if (!t->draft[s]) return false;
    }
    return true;
}

tensor *storage_tensor(planner *p, int32_t index)
{
    if (p->tensors[index]) return p->tensors[index];
    const storage *s = &p->trace->storages[index];
    tensor *t = arena_new(&p->scratch, sizeof *t);
    if (!t) return NULL;
    *t = (tensor){.domain = DOMAIN_FREE, .type = s->type, .n_sequences = s->n_sequences, .width = s->width, .lengths = s->lengths};
    t->rows = arena_new(&p->scratch, (size_t)s->n_sequences * sizeof *t->rows);
    if (!t->rows) return NULL;
    if (s->kind == STORAGE_EXTERNAL && !(t->rows[0] = external_rows(p, index))) return NULL;
    if (s->kind == STORAGE_FILLED && !start_draft(p, t)) return NULL;
    return p->tensors[index] = t;
}

/* The pieces of a draft's row; zeros where nothing was set yet. */
static bool draft_pieces(planner *p, const tensor *t, int32_t sequence, int32_t row, piece_list *list)
{
    const draft_row *d = &t->draft[sequence][row];
    piece zero = piece_constant(t->type, 0, 0, (int32_t)t->width);
    if (!d->n) return pieces_add(p, list, &zero);
    for (size_t i = 0; i < d->n; i++)
        if (!pieces_add(p, list, &d->pieces[i])) return false;
    return true;
}

inset_status tensor_freeze(planner *p, tensor *t)
{
    if (!t->draft) return INSET_OK;
    for (int32_t s = 0; s < t->n_sequences; s++) {
        segment_list list = {0};
        inset_status status = INSET_OK;
        for (int32_t r = 0; r < t->lengths[s] && !status; r++) {
            int32_t made = 0, row = 0;
            bool repeats;
            p->row_pieces.n = 0;
            if (t->width == 0) continue;
            if (!draft_pieces(p, t, s, r, &p->row_pieces)) status = INSET_NO_MEMORY;
            else status = pieces_row(p, DOMAIN_FREE, t->type, (int32_t)t->width, p->row_pieces.at, p->row_pieces.n, 0, (int32_t)t->width, &made, &row, &repeats);
            if (!status && !(repeats ? pieces_add_rows(p, &list, made, row, 1, true) : segments_add(p, &list, made, row, 1))) status = INSET_NO_MEMORY;
        }
        if (!status && !(t->rows[s] = segments_finish(p, &list))) status = INSET_NO_MEMORY;
        memory_free(p->context, list.at);
        if (status) return status;
    }
    t->draft = NULL;
    return INSET_OK;
}

/* ---- reading sources ---------------------------------------------------------------------------------------------------------------------------- */

/* One strip at a time: which rows the sources have, and for how many rows that stays so. */
typedef struct reader {
    planner *p;
    const trace_record *record;
    tensor *target;
    tensor *sources[STRIP_SOURCES];
    int32_t c0, c1;                          /* columns of the target that count (all but for view_as_value) */
    segment_list out;                        /* rows made so far, for records that make whole tensors */
    const map **maps;
    int32_t sequence;                        /* whose rows `out` holds; -1 none */
    const map *old;                          /* record_set: the target's rows before */
    int32_t old_done;                        /* ... of them copied to out so far */
} reader;

/* The pieces that source k gives for the strip's rows from row `at` on; *left shrinks to the rows for which they hold. */
static bool source_pieces(reader *r, const strip *s, int k, int32_t at, piece_list *list, int32_t *left, inset_type constant_type, double number)
{
    planner *p = r->p;
    const tensor *t = r->sources[k];
    list->n = 0;
    for (size_t i = 0; i < s->n_pieces; i++) {
        const strip_piece *sp = &s->pieces[i];
        if (!t) {
            piece c = piece_constant(constant_type, number, (int32_t)sp->column, (int32_t)(sp->column + sp->count));
            if (!pieces_add(p, list, &c)) return false;
            continue;
        }
        const map *m = t->rows[sp->source_sequence[k]];
        int32_t index = 0, rows = 0, row = sp->source_row[k] + at * s->row_step[k];
        int32_t g = map_find(m, row, &index, &rows);
        if (s->row_step[k] && rows < *left) *left = rows;
        if (!pieces_of_row(p, list, t->domain, m->at[g].strand, index, s->row_step[k], sp->source_column[k], sp->source_step[k],
                           (int32_t)sp->column, (int32_t)sp->count)) return false;
    }
    return true;
}

/* ---- sets ---------------------------------------------------------------------------------------------------------------------------------------- */

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
            || !pieces_lay(p, &p->old_pieces, &p->new_pieces, &p->row_pieces)) return INSET_NO_MEMORY;
        draft_row *d = &t->draft[s->sequence][s->row + i];
        if (d->capacity < p->row_pieces.n) {
            d->capacity = p->row_pieces.n * 2;
            d->pieces = arena_new(&p->scratch, d->capacity * sizeof *d->pieces);
            if (!d->pieces) return INSET_NO_MEMORY;
        }
        if (p->row_pieces.n) memcpy(d->pieces, p->row_pieces.at, p->row_pieces.n * sizeof *d->pieces);
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
    for (int32_t at = 0; at < s->n; ) {
        int32_t index = 0, left = 0, made = 0, row = 0, g = map_find(r->old, s->row + at, &index, &left);
        bool repeats;
        if (left > s->n - at) left = s->n - at;
        if (!source_pieces(r, s, 0, at, &p->new_pieces, &left, t->type, r->record->a.number)) return INSET_NO_MEMORY;
        piece_list *pieces = &p->new_pieces;
        if (!whole) {
            p->old_pieces.n = 0;
            if (!pieces_of_row(p, &p->old_pieces, t->domain, r->old->at[g].strand, index, 1, 0, 1, 0, (int32_t)t->width)
                || !pieces_lay(p, &p->old_pieces, &p->new_pieces, &p->row_pieces)) return INSET_NO_MEMORY;
            pieces = &p->row_pieces;
        }
        inset_status status = pieces_row(p, t->domain, t->type, (int32_t)t->width, pieces->at, pieces->n, 0, (int32_t)t->width, &made, &row, &repeats);
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
    const map **maps = t->draft ? NULL : arena_copy(&p->scratch, t->rows, (size_t)t->n_sequences * sizeof *maps);
    if (!t->draft && !maps) return INSET_NO_MEMORY;
    if (t->draft && r->sources[0] == t) {    /* it reads what it writes: settle it first */
        inset_status status = tensor_freeze(p, t);
        if (status) return status;
        return apply_set(r);
    }
    r->maps = maps;
    r->sequence = -1;
    inset_status status = strips_walk(p->context, &p->strips, r->record->target, sources, set_strip, r);
    if (!status && !t->draft && !finish_sequence(r)) status = INSET_NO_MEMORY;
    if (!status && maps) t->rows = maps;
    return status;
}

/* ---- making tensors ---------------------------------------------------------------------------------------------------------------------------- */

inset_status pieces_operand(planner *p, piece_list *pieces, inset_type type, int32_t width, piece *out)
{
    if (pieces->n == 1) {
        *out = pieces->at[0];
        return INSET_OK;
    }
    int32_t made, row;
    bool repeats;
    inset_status status = pieces_row(p, DOMAIN_FREE, type, width, pieces->at, pieces->n, 0, width, &made, &row, &repeats);
    *out = (piece){.c0 = 0, .c1 = width, .domain = DOMAIN_FREE, .strand = made, .shift = row, .row_step = !repeats, .column_step = 1};
    return status;
}

/* A row of an expression; rows are counted as those of its first operand that runs along. */
static inset_status expression_row(planner *p, const trace_record *r, inset_type type, int32_t width, piece *operands, int n, int32_t *strand_index, int32_t *row,
                                   bool *repeats)
{
    int32_t anchor = 0;
    *repeats = true;
    for (int k = n - 1; k >= 0; k--)
        if (operands[k].row_step) anchor = operands[k].shift, *repeats = false;
    for (int k = 0; k < n; k++)
        if (operands[k].row_step) operands[k].shift -= anchor;
    strand like = {.kind = STRAND_EXPR, .type = (uint8_t)type, .op = (uint8_t)r->op, .born = DOMAIN_FREE, .width = width, .parent = PARENT_NONE};
    pieces_moment(p, &like, operands, (size_t)n);
    *strand_index = strand_intern(p, &like, n, sizeof *operands, operands, 0);
    *row = anchor;
    return *strand_index < 0 ? INSET_NO_MEMORY : INSET_OK;
}

static inset_status make_strip(void *user, const strip *s)
{
    reader *r = user;
    planner *p = r->p;
    tensor *t = r->target;
    const trace_record *record = r->record;
    int32_t width = (int32_t)t->width;
    int n = record->op == TRACE_COPY || record->op == TRACE_NEGATE ? 1 : 2;
    if (r->sequence != s->sequence) {
        if (r->sequence >= 0 && !(r->maps[r->sequence] = segments_finish(p, &r->out))) return INSET_NO_MEMORY;
        segments_clear(&r->out);
        r->sequence = s->sequence;
    }
    for (int32_t at = 0; at < s->n; ) {
        int32_t left = s->n - at, made = 0, row = 0;
        bool repeats = false;
        piece operands[2];
        inset_status status = INSET_OK;
        /* Where operands run over different rows, `left` may shrink at the second: then the first holds for fewer rows, which is right too. */
        for (int k = 0; k < n && !status; k++) {
            double number = k ? record->b.number : record->a.number;
            if (!source_pieces(r, s, k, at, &p->new_pieces, &left, INSET_F64, number)) return INSET_NO_MEMORY;
            if (record->op == TRACE_COPY) break;
            status = pieces_operand(p, &p->new_pieces, r->sources[k] ? r->sources[k]->type : t->type, width, &operands[k]);
        }
        if (status) return status;
        if (record->op == TRACE_COPY)
            status = pieces_row(p, t->domain, t->type, width, p->new_pieces.at, p->new_pieces.n, 0, width, &made, &row, &repeats);
        else status = expression_row(p, record, t->type, width, operands, n, &made, &row, &repeats);
        if (status) return status;
        if (!pieces_add_rows(p, &r->out, made, row, left, repeats)) return INSET_NO_MEMORY;
        at += left;
    }
    return INSET_OK;
}

/* A clone of all of a tensor is the same rows: later sets give either of them new maps. */
static bool is_whole_clone(const planner *p, const trace_record *r, const tensor *target, const tensor *from)
{
    if (r->op != TRACE_COPY || !from || from->type != target->type || from->width != target->width || from->n_sequences != target->n_sequences) return false;
    const view *a = r->a.view, *to = r->target;
    const storage *s = &p->trace->storages[a->storage];
    if (a->column || a->n_spans != to->n_spans || a->n_dimensions != to->n_dimensions) return false;
    for (int i = 0; i < a->n_dimensions; i++)
        if (a->dimensions[i].kind != to->dimensions[i].kind || a->dimensions[i].stride != to->dimensions[i].stride
            || a->dimensions[i].extent != to->dimensions[i].extent) return false;
    for (int32_t i = 0; i < a->n_spans; i++)
        if (a->spans[i].sequence != i || a->spans[i].start || (a->position_dimension >= 0 && a->spans[i].count != s->lengths[i])) return false;
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
    for (int32_t s = 0; s < t->n_sequences; s++)
        if (!(t->rows[s] = segments_finish(p, &r->out))) return INSET_NO_MEMORY;     /* empty, until rows are made */
    r->maps = t->rows;
    r->sequence = -1;
    inset_status status = strips_walk(p->context, &p->strips, r->record->target, sources, make_strip, r);
    if (!status && r->sequence >= 0 && !(t->rows[r->sequence] = segments_finish(p, &r->out))) status = INSET_NO_MEMORY;
    return status;
}

inset_status record_apply(planner *p, const trace_record *record)
{
    reader r = {.p = p, .record = record, .sequence = -1};
    const view *sources[STRIP_SOURCES] = {record->a.view, record->b.view};
    inset_status status = INSET_OK;
    if (record->kind == TRACE_METRIC) return metric_apply(p, record);
    if (!(r.target = storage_tensor(p, record->target->storage))) return INSET_NO_MEMORY;
    for (int k = 0; k < STRIP_SOURCES && !status; k++) {
        if (!sources[k]) continue;
        if (!(r.sources[k] = storage_tensor(p, sources[k]->storage))) return INSET_NO_MEMORY;
        if (r.sources[k] != r.target || record->kind == TRACE_MAKE) status = tensor_freeze(p, r.sources[k]);
    }
    r.out = (segment_list){0};
    if (!status) status = record->kind == TRACE_SET ? apply_set(&r) : apply_make(&r);
    memory_free(p->context, r.out.at);
    return status;
}

/* ---- what a step reads after a replacement ---------------------------------------------------------------------------------------------------- */

typedef struct caster { reader r; int32_t value, c0, c1; } caster;

static inset_status cast_strip(void *user, const strip *s)
{
    caster *c = user;
    reader *r = &c->r;
    planner *p = r->p;
    if (r->sequence != s->sequence) {
        if (r->sequence >= 0 && !(r->maps[r->sequence] = segments_finish(p, &r->out))) return INSET_NO_MEMORY;
        segments_clear(&r->out);
        r->sequence = s->sequence;
    }
    inset_type type = strand_type(p, c->value, -1);
    for (int32_t at = 0; at < s->n; ) {
        int32_t left = s->n - at, made = 0, row = 0;
        bool repeats;
        if (!source_pieces(r, s, 0, at, &p->new_pieces, &left, type, 0)) return INSET_NO_MEMORY;
        inset_status status = pieces_row(p, c->value, type, p->program->values[c->value].width, p->new_pieces.at, p->new_pieces.n, c->c0, c->c1, &made,
                                         &row, &repeats);
        if (status) return status;
        if (!pieces_add_rows(p, &r->out, made, row, left, repeats)) return INSET_NO_MEMORY;
        at += left;
    }
    return INSET_OK;
}

/* The view a slot would have if nothing were replaced, for its shape and columns alone. */
static inset_status nominal_view(planner *p, const invoke *inv, const slot *s, view *out)
{
    const value *made = &p->program->values[s->value];
    int32_t n = made->per_position ? 1 : inv->n_sequences;
    span *spans = arena_new(&p->scratch, (size_t)n * sizeof *spans);
    if (!spans) return INSET_NO_MEMORY;
    *out = (view){.storage = -1, .n_spans = n, .spans = spans, .column = s->shape.column, .position_dimension = -1};
    out->dimensions[out->n_dimensions++] = (dimension){.kind = DIMENSION_SEQUENCE, .extent = n};
    bool ragged = false;
    for (int32_t i = 0; i < n; i++) {
        spans[i] = (span){i, 0, made->per_position ? inv->longest : inv->lengths[i]};
        ragged |= spans[i].count != spans[0].count;
    }
    if (s->shape.has_position) {
        out->position_dimension = out->n_dimensions;
        out->dimensions[out->n_dimensions++] = (dimension){.kind = DIMENSION_ROW, .extent = inv->longest, .stride = 1, .ragged = ragged};
    }
    int64_t stride = 1;
    for (int i = s->shape.n_columns - 1; i >= 0; i--) {
        out->dimensions[out->n_dimensions + i] = (dimension){.kind = DIMENSION_COLUMN, .extent = s->shape.extent[i], .stride = stride};
        stride = s->shape.stride ? s->shape.stride : stride * s->shape.extent[i];
    }
    out->n_dimensions += s->shape.n_columns;
    return INSET_OK;
}

/* Does the view show whole rows, in order, of a tensor that has the value's own rows? Then its maps are what the step reads. */
static bool shows_value(const view *v, const tensor *t, const slot *s)
{
    if (t->domain != s->value || v->column != s->shape.column || v->n_spans != t->n_sequences || t->draft) return false;
    int64_t stride = 1;
    for (int i = v->n_dimensions - 1; i >= 0; i--) {
        const dimension *d = &v->dimensions[i];
        if (d->kind != DIMENSION_COLUMN) {
            if (d->kind == DIMENSION_ROW && d->stride != 1) return false;
            continue;
        }
        if (d->stride != stride && d->extent != 1) return false;
        stride = s->shape.stride ? s->shape.stride : stride * d->extent;
    }
    for (int32_t i = 0; i < v->n_spans; i++)
        if (v->spans[i].sequence != i || v->spans[i].start || (v->position_dimension >= 0 && v->spans[i].count != t->rows[i]->rows)) return false;
    return v->position_dimension >= 0 || !s->shape.has_position;
}

inset_status view_as_value(planner *p, const view *v, const invoke *inv, int32_t slot_index, const map **out)
{
    const slot *s = &p->program->slots[slot_index];
    tensor *t = storage_tensor(p, v->storage);
    inset_status status = t ? tensor_freeze(p, t) : INSET_NO_MEMORY;
    if (status) return status;
    if (shows_value(v, t, s)) {
        memcpy(out, t->rows, (size_t)t->n_sequences * sizeof *out);
        return INSET_OK;
    }
    view target;
    if ((status = nominal_view(p, inv, s, &target))) return status;
    caster c = {.r = {.p = p, .sequence = -1, .maps = out, .sources = {t, NULL}}, .value = s->value, .c0 = s->shape.column,
                .c1 = slot_column_end(s)};
    const view *const sources[STRIP_SOURCES] = {v, NULL};
    status = strips_walk(p->context, &p->strips, &target, sources, cast_strip, &c);
    if (!status && c.r.sequence >= 0 && !(out[c.r.sequence] = segments_finish(p, &c.r.out))) status = INSET_NO_MEMORY;
    memory_free(p->context, c.r.out.at);
    return status;
}

/* ---- rows of a view, one piece each ---------------------------------------------------------------------------------------------------------- */

typedef struct piece_walk { reader r; int32_t width; piece_function *visit; void *user; } piece_walk;

static inset_status piece_strip(void *user, const strip *s)
{
    piece_walk *w = user;
    planner *p = w->r.p;
    for (int32_t at = 0; at < s->n; ) {
        int32_t left = s->n - at;
        piece one;
        if (!source_pieces(&w->r, s, 0, at, &p->new_pieces, &left, INSET_F64, 0)) return INSET_NO_MEMORY;
        inset_status status = pieces_operand(p, &p->new_pieces, w->r.sources[0]->type, w->width, &one);
        if (status || (status = w->visit(w->user, s->sequence, left, &one))) return status;
        at += left;
    }
    return INSET_OK;
}

inset_status view_pieces(planner *p, const view *v, const view *shape, int32_t width, piece_function *visit, void *user)
{
    tensor *t = storage_tensor(p, v->storage);
    inset_status status = t ? tensor_freeze(p, t) : INSET_NO_MEMORY;
    if (status) return status;
    piece_walk w = {.r = {.p = p, .sequence = -1, .sources = {t, NULL}}, .width = width, .visit = visit, .user = user};
    const view *const sources[STRIP_SOURCES] = {v, NULL};
    return strips_walk(p->context, &p->strips, shape, sources, piece_strip, &w);
}
