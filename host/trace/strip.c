/* strip.c: walks a target and its sources together, as long runs of rows with the same columns.
 *
 * The planner thinks in rows, a record in shapes. For every row coordinate of the target (its
 * sequence and row dimensions) this finds the sources' rows, and the columns that go with each.
 * Where positions run alike in target and sources, a whole span is one strip; otherwise rows, and
 * if need be single elements, are taken one by one. */
#include "trace/records.h"

#include <string.h>

typedef struct walk {
    inset_context *context;
    strip_scratch *scratch;
    const view *target;
    const view *sources[STRIP_SOURCES];
    int shift[STRIP_SOURCES]; /* target dimension = source dimension + shift */
    int sequence_dimension, strip_dimension;
    int64_t at[INSET_MAX_DIMENSIONS]; /* current coordinate in the target */
    strip_function *visit;
    void *user;
    size_t n_pieces;
} walk;

/* Where an element of a view lies. */
typedef struct place {
    int32_t sequence, row;
    int64_t column;
} place;

static place place_in(const view *v, const int64_t *at, int shift)
{
    int32_t span = 0;
    int64_t row = 0, column = v->column;
    for (int i = 0; i < v->n_dimensions; i++) {
        const dimension *d = &v->dimensions[i];
        if (i + shift < 0 || (d->extent == 1 && !d->ragged)) continue;
        int64_t index = at[i + shift];
        if (d->kind == DIMENSION_SEQUENCE) span = (int32_t)index;
        else if (d->kind == DIMENSION_ROW) row += index * d->stride;
        else column += index * d->stride;
    }
    return (place){v->spans[span].sequence, v->spans[span].start + (int32_t)row, column};
}

/* The dimension of source k that runs along target dimension d; NULL when it repeats. */
static const dimension *along(const walk *w, int k, int d)
{
    const view *v = w->sources[k];
    int i = d - w->shift[k];
    if (i < 0 || i >= v->n_dimensions || (v->dimensions[i].extent == 1 && !v->dimensions[i].ragged))
        return NULL;
    return &v->dimensions[i];
}

static bool same_course(const strip_piece *a, const strip_piece *b, const view *const *sources)
{
    for (int k = 0; k < STRIP_SOURCES; k++) {
        if (!sources[k]) continue;
        if (a->source_sequence[k] != b->source_sequence[k] || a->source_row[k] != b->source_row[k])
            return false;
        int64_t step = b->source_column[k] - a->source_column[k];
        if (a->count == 1) {
            if (step < 0 || step > INT32_MAX) return false;
            if (b->count > 1 && b->source_step[k] != step) return false;
        } else if (step != a->count * a->source_step[k]
                   || (b->count > 1 && b->source_step[k] != a->source_step[k])) {
            return false;
        }
    }
    return true;
}

/* Adds a piece, joined to the one before where they continue each other. */
static bool add_piece(walk *w, const strip_piece *piece)
{
    strip_scratch *s = w->scratch;
    strip_piece *last = w->n_pieces ? &s->pieces[w->n_pieces - 1] : NULL;
    if (last && last->column + last->count == piece->column
        && same_course(last, piece, w->sources)) {
        if (last->count == 1)
            for (int k = 0; k < STRIP_SOURCES; k++)
                if (w->sources[k])
                    last->source_step[k] = (int32_t)(piece->source_column[k]
                                                     - last->source_column[k]);
        last->count += piece->count;
        return true;
    }
    if (!array_reserve(w->context, &s->pieces, &s->capacity, w->n_pieces + 1, sizeof *s->pieces))
        return false;
    s->pieces[w->n_pieces++] = *piece;
    return true;
}

/* Pieces of the row at w->at: all column coordinates from dimension d on. */
static bool collect_pieces(walk *w, int d)
{
    const view *target = w->target;
    while (d < target->n_dimensions && target->dimensions[d].kind != DIMENSION_COLUMN) d++;
    int last = target->n_dimensions - 1;
    while (last >= 0 && target->dimensions[last].kind != DIMENSION_COLUMN) last--;
    if (d <= last && d < target->n_dimensions && d != last) {
        for (w->at[d] = 0; w->at[d] < target->dimensions[d].extent; w->at[d]++)
            if (!collect_pieces(w, d + 1)) return false;
        w->at[d] = 0;
        return true;
    }
    /* d is the innermost column dimension, if there is any */
    bool inner = d < target->n_dimensions;
    int64_t extent = inner ? target->dimensions[d].extent : 1;
    bool together = inner && target->dimensions[d].stride == 1;
    for (int k = 0; together && k < STRIP_SOURCES; k++) {
        const dimension *s = w->sources[k] ? along(w, k, d) : NULL;
        if (s && (s->kind != DIMENSION_COLUMN || s->stride > INT32_MAX)) together = false;
    }
    int64_t chunk = together ? extent : 1;
    for (int64_t i = 0; i < extent; i += chunk) {
        if (inner) w->at[d] = i;
        strip_piece piece = {.column = place_in(target, w->at, 0).column, .count = chunk};
        for (int k = 0; k < STRIP_SOURCES; k++) {
            if (!w->sources[k]) continue;
            place p = place_in(w->sources[k], w->at, w->shift[k]);
            const dimension *s = inner ? along(w, k, d) : NULL;
            piece.source_sequence[k] = p.sequence;
            piece.source_row[k] = p.row;
            piece.source_column[k] = p.column;
            piece.source_step[k] = together && s ? (int32_t)s->stride : 0;
        }
        if (chunk && !add_piece(w, &piece)) return false;
    }
    if (inner) w->at[d] = 0;
    return true;
}

/* The rows from the current coordinate on, `n` of them along the strip dimension. */
static inset_status emit(walk *w, int32_t n, const int32_t *row_step)
{
    w->n_pieces = 0;
    if (!collect_pieces(w, 0)) return INSET_NO_MEMORY;
    if (!w->n_pieces || !n) return INSET_OK;
    place p = place_in(w->target, w->at, 0);
    strip s = {.sequence = p.sequence,
        .row = p.row,
        .n = n,
        .n_pieces = w->n_pieces,
        .pieces = w->scratch->pieces};
    /* one row repeats nothing */
    for (int k = 0; k < STRIP_SOURCES; k++) s.row_step[k] = n == 1 ? 1 : row_step[k];
    return w->visit(w->user, &s);
}

/* Rows along the strip dimension of the current span: at once where every source goes along row by
 * row or stays. */
static inset_status walk_strip(walk *w)
{
    int d = w->strip_dimension;
    int32_t row_step[STRIP_SOURCES] = {0, 0};
    if (d < 0) return emit(w, 1, row_step);
    int32_t span = w->sequence_dimension < 0 ? 0 : (int32_t)w->at[w->sequence_dimension];
    int64_t n = view_extent(w->target, d, span);
    bool together = w->target->dimensions[d].stride == 1;
    for (int k = 0; together && k < STRIP_SOURCES; k++) {
        const dimension *s = w->sources[k] ? along(w, k, d) : NULL;
        if (s && (s->kind != DIMENSION_ROW || s->stride > 1)) together = false;
        row_step[k] = s ? 1 : 0;
    }
    w->at[d] = 0;
    if (together) return emit(w, (int32_t)n, row_step);
    row_step[0] = row_step[1] = 0;
    for (; w->at[d] < n; w->at[d]++) {
        inset_status status = emit(w, 1, row_step);
        if (status) return status;
    }
    w->at[d] = 0;
    return INSET_OK;
}

/* All coordinates of the target's sequence and row dimensions but the strip dimension. */
static inset_status walk_outer(walk *w, int d)
{
    const view *target = w->target;
    while (d < target->n_dimensions
           && (target->dimensions[d].kind == DIMENSION_COLUMN || d == w->strip_dimension))
        d++;
    if (d >= target->n_dimensions) return walk_strip(w);
    int32_t span = w->sequence_dimension < 0 ? 0 : (int32_t)w->at[w->sequence_dimension];
    int64_t extent = view_extent(target, d, span);
    for (w->at[d] = 0; w->at[d] < extent; w->at[d]++) {
        inset_status status = walk_outer(w, d + 1);
        if (status) return status;
    }
    w->at[d] = 0;
    return INSET_OK;
}

inset_status strips_walk(inset_context *context, strip_scratch *scratch, const view *target,
    const view *const sources[STRIP_SOURCES], strip_function *visit, void *user)
{
    walk w = {.context = context,
        .scratch = scratch,
        .target = target,
        .visit = visit,
        .user = user,
        .strip_dimension = -1};
    for (int i = 0; i < target->n_dimensions; i++)
        if (target->dimensions[i].extent == 0) return INSET_OK;
    for (int k = 0; k < STRIP_SOURCES; k++) {
        w.sources[k] = sources[k];
        if (sources[k]) w.shift[k] = target->n_dimensions - sources[k]->n_dimensions;
    }
    w.sequence_dimension = view_sequence_dimension(target);
    w.strip_dimension = target->position_dimension;
    for (int i = target->n_dimensions - 1; w.strip_dimension < 0 && i >= 0; i--)
        if (target->dimensions[i].kind == DIMENSION_ROW) w.strip_dimension = i;
    return walk_outer(&w, 0);
}
