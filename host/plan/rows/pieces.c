/* pieces.c: rows patched together from columns of others. A row that turns out to be a whole
 * existing row is that row, so that setting a row to itself changes nothing. */
#include "plan/rows/rows.h"

#include <string.h>

/* ---- lists of pieces ---------------------------------------------------- */

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
    if (a->c1 != b->c0 || a->domain != b->domain || a->strand != b->strand || a->shift != b->shift
        || a->row_step != b->row_step)
        return false;
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
    if (!array_extend(p->context, &list->at, &list->capacity, list->n + 1, sizeof *list->at))
        return false;
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

/* A copied row may be read through to what it was copied from, unless a conversion on the way would
 * be lost. */
static bool reads_through(const planner *p, int32_t domain, int32_t strand_index)
{
    const strand *s = &p->strands[strand_index];
    return s->kind == STRAND_COPY && s->born == domain;
}

static bool keeps_type(const planner *p, const piece *one, inset_type type)
{
    return one->domain == DOMAIN_CONSTANT || strand_type(p, one->domain, one->strand) == type;
}

static piece source_piece(int32_t domain, int32_t strand_index, int32_t index, int32_t row_step,
    int64_t column, int32_t step, int32_t at, int32_t count)
{
    return (piece){.c0 = at,
        .c1 = at + count,
        .domain = domain,
        .strand = strand_index,
        .shift = index,
        .row_step = row_step,
        .column = (int32_t)column,
        .column_step = count == 1 ? 1 : step};
}

bool pieces_of_row(planner *p, piece_list *list, int32_t domain, int32_t strand_index,
    int32_t index, int32_t row_step, int64_t column, int32_t step, int32_t at, int32_t count)
{
    piece direct = source_piece(domain, strand_index, index, row_step, column, step, at, count);
    if (!reads_through(p, domain, strand_index)) return pieces_add(p, list, &direct);
    const strand *s = &p->strands[strand_index];
    /* one column repeated is looked up once */
    int32_t chunk = step == 1 ? count : 1, columns = step ? count : 1;
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
            } else
                part = source_piece(
                    domain, strand_index, index, row_step, lo, 1, at + done + lo - from, hi - lo);
            if (!step && count > 1) part.c1 = at + count, part.column_step = 0;
            if (!pieces_add(p, list, &part)) return false;
        }
    }
    return true;
}

bool pieces_lay(planner *p, const piece_list *old, const piece_list *fresh, piece_list *list)
{
    list->n = 0;
    int32_t done = 0; /* columns laid so far */
    size_t o = 0;
    for (size_t f = 0; f <= fresh->n; f++) {
        int32_t until = f < fresh->n ? fresh->at[f].c0 : INT32_MAX;
        for (; o < old->n && old->at[o].c0 < until; o++) {
            int32_t lo = old->at[o].c0 > done ? old->at[o].c0 : done,
                    hi = old->at[o].c1 < until ? old->at[o].c1 : until;
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

/* ---- rows from pieces --------------------------------------------------- */

void pieces_moment(const planner *p, strand *s, const piece *pieces, size_t n)
{
    moment latest = {0, -1};
    for (size_t i = 0; i < n; i++)
        latest = moment_later(latest, strand_moment(p, pieces[i].domain, pieces[i].strand));
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

inset_status pieces_row(planner *p, int32_t domain, inset_type type, int32_t width, piece *pieces,
    size_t n, int32_t c0, int32_t c1, int32_t *strand_index, int32_t *row, bool *repeats)
{
    const piece *one = &pieces[0];
    *repeats = true;
    for (size_t i = 0; i < n; i++) *repeats &= !pieces[i].row_step;
    bool whole = n == 1 && one->c0 == c0 && one->c1 == c1 && one->domain == domain
                 && one->column == c0 && (one->column_step == 1 || c1 - c0 == 1);
    if (whole && (!p->options.no_share || one->strand >= p->first_strand)
        && (domain >= 0
            || (p->strands[one->strand].width == width && p->strands[one->strand].type == type))) {
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
    strand like = {.kind = STRAND_COPY,
        .type = (uint8_t)type,
        .born = domain,
        .width = width,
        .parent = PARENT_NONE};
    pieces_moment(p, &like, pieces, n);
    *strand_index = strand_intern(p, &like, (int32_t)n, sizeof *pieces, pieces, 0);
    for (size_t i = 0; i < n; i++)
        if (pieces[i].row_step) pieces[i].shift += anchor;
    *row = anchor;
    return *strand_index < 0 ? INSET_NO_MEMORY : INSET_OK;
}

inset_status pieces_readable(planner *p, piece *one, inset_type type, int32_t width)
{
    if (one->domain != DOMAIN_CONSTANT && one->column_step == 1
        && strand_type(p, one->domain, one->strand) == type)
        return INSET_OK;
    int32_t made, row;
    bool repeats;
    piece from = *one;
    inset_status status = pieces_row(
        p, DOMAIN_FREE, type, width, &from, 1, 0, width, &made, &row, &repeats);
    *one = (piece){.c0 = 0,
        .c1 = width,
        .domain = DOMAIN_FREE,
        .strand = made,
        .shift = row,
        .row_step = !repeats,
        .column_step = 1};
    return status;
}

bool pieces_add_rows(
    planner *p, segment_list *list, int32_t strand_index, int32_t row, int32_t n, bool repeats)
{
    if (!repeats) return segments_add(p, list, strand_index, row, n);
    /* each its own segment: the next row of the strand is another one */
    for (int32_t i = 0; i < n; i++) {
        if (!array_extend(p->context, &list->at, &list->capacity, list->n + 1, sizeof *list->at))
            return false;
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
        if (one->domain != value || one->strand != pieces->strand || one->shift != pieces->shift
            || one->row_step != 1 || one->column != one->c0
            || (one->column_step != 1 && one->c1 - one->c0 != 1))
            return false;
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
    const int32_t width = p->program->values[s->value].width, c0 = shape->column,
                  c1 = slot_column_end(s);
    const int32_t parts = shape->stride ? shape->extent[0] : 1,
                  part = shape->stride ? shape->extent[1] : c1 - c0;
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
            fine = pieces_of_row(
                p, &p->row_pieces, s->value, g->strand, g->first, 1, at, 1, at, part);
        }
        if (fine && !p->options.no_share && in_place(p->row_pieces.at, p->row_pieces.n, s->value))
            fine = segments_add(
                p, &list, p->row_pieces.at->strand, p->row_pieces.at->shift, g->count);
        else
            fine = fine
                   && !pieces_row(p, s->value, type, width, p->row_pieces.at, p->row_pieces.n, c0,
                       c1, &made, &row, &repeats)
                   && pieces_add_rows(p, &list, made, row, g->count, repeats && g->count > 1);
    }
    p->segments = list;
    return fine ? segments_finish(p, &p->segments) : NULL;
}
