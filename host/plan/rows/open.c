/* open.c: attention in the open. The fused attention never shows its scores or its pattern, so
 * where an invoke touches `.scores` or `.pattern` of a layer they become free tensors of that
 * invoke, a row a query: scores from queries and keys, pattern by softmax, and, only if either was
 * set or replaced, the values mixed by the pattern, in the rows where that shows. A trace that only
 * reads them leaves everybody on the fused path.
 *
 * A sequence of an open layer is a unit: its strands are interned by all of its rows. Their parts:
 *     scores    numbers: step, n queries, segments of the query rows, segments of the key rows
 *     softmax   one piece: the row of scores; parent_row is the number of heads, start that of the
 *               sequence's keys
 *     mix       numbers: one piece (the row of the pattern), segments of the value rows */
#include "plan/rows/rows.h"

#include <string.h>

enum {
    INTS_SEGMENT = sizeof(segment) / sizeof(int32_t),
    INTS_PIECE = sizeof(piece) / sizeof(int32_t)
};

const segment *scores_queries(const strand *s, int32_t *n)
{
    return *n = s->numbers[1], (const segment *)(const void *)(s->numbers + 2);
}

const segment *scores_keys(const strand *s, int32_t *n)
{
    int32_t queries = s->numbers[1];
    *n = (s->n - 2) / INTS_SEGMENT - queries;
    return (const segment *)(const void *)(s->numbers + 2) + queries;
}

const step *scores_step(const planner *p, const strand *s)
{
    return &p->program->steps[s->numbers[0]];
}
const piece *mix_pattern(const strand *s) { return (const piece *)(const void *)s->numbers; }

const segment *mix_values(const strand *s, int32_t *n)
{
    *n = (s->n - INTS_PIECE) / INTS_SEGMENT;
    return (const segment *)(const void *)(s->numbers + INTS_PIECE);
}

bool open_touched(const planner *p, const invoke *v, const step *scores)
{
    int32_t values[2] = {scores->value, (scores + 1)->value};
    for (int k = 0; k < 2; k++) {
        if (p->value_storage[values[k]] >= 0) return true;
        for (size_t i = 0; i < v->n_rebindings; i++)
            if (p->program->slots[v->rebindings[i].slot].value == values[k]) return true;
    }
    return false;
}

int32_t latest_pass(const planner *p, const map *m, int32_t pass)
{
    for (int32_t i = 0; i < m->n; i++)
        if (p->strands[m->at[i].strand].pass > pass) pass = p->strands[m->at[i].strand].pass;
    return pass;
}

/* The slot of a value's named site. */
static int32_t shown_slot(const planner *p, int32_t value_index)
{
    for (size_t i = p->program->n_slots; i-- > 0;)
        if (p->program->slots[i].value == value_index) return (int32_t)i;
    return -1;
}

/* The view of all rows of an open value, as a target for strips. */
static inset_status whole_view(planner *p, const invoke *v, int32_t n_heads, view *out)
{
    span *spans = arena_new(&p->scratch, (size_t)v->n_sequences * sizeof *spans);
    if (!spans) return INSET_NO_MEMORY;
    bool ragged = false;
    for (int32_t i = 0; i < v->n_sequences; i++) {
        spans[i] = (span){i, 0, v->lengths[i]};
        ragged |= v->lengths[i] != v->lengths[0];
    }
    *out = (view){.storage = -1,
        .n_spans = v->n_sequences,
        .spans = spans,
        .n_dimensions = 4,
        .position_dimension = 2};
    out->dimensions[0] = (dimension){.kind = DIMENSION_SEQUENCE, .extent = v->n_sequences};
    out->dimensions[1] = (dimension){
        .kind = DIMENSION_COLUMN, .extent = n_heads, .stride = v->longest};
    out->dimensions[2] = (dimension){
        .kind = DIMENSION_ROW, .ragged = ragged, .extent = v->longest, .stride = 1};
    out->dimensions[3] = (dimension){.kind = DIMENSION_COLUMN, .extent = v->longest, .stride = 1};
    return INSET_OK;
}

inset_status open_rows(planner *p, const invoke *v, int32_t invoke_index, int32_t n_heads,
    int32_t value_index, piece_function *visit, void *user)
{
    int32_t slot_index = shown_slot(p, value_index), width = n_heads * v->longest;
    if (!slot_is_plain(p->trace, v, slot_index)) {
        view shown, shape;
        inset_status status = view_of_slot(
            (trace *)(uintptr_t)p->trace, invoke_index, slot_index, &shown);
        if (status || (status = whole_view(p, v, n_heads, &shape))) return status;
        return view_pieces(p, &shown, &shape, width, visit, user);
    }
    const tensor *t = p->values[value_index];
    for (int32_t s = 0; s < t->n_sequences; s++)
        for (int32_t i = 0; i < t->rows[s]->n; i++) {
            const segment *g = &t->rows[s]->at[i];
            piece one;
            p->new_pieces.n = 0;
            if (!pieces_of_row(
                    p, &p->new_pieces, DOMAIN_FREE, g->strand, g->first, 1, 0, 1, 0, width))
                return INSET_NO_MEMORY;
            inset_status status = pieces_operand(p, &p->new_pieces, t->type, width, &one);
            if (status || (status = visit(user, s, g->count, &one))) return status;
        }
    return INSET_OK;
}

/* ---- scores ------------------------------------------------------------- */

static int32_t scores_strand(planner *p, const step *s, const map *q, const map *k, int32_t width)
{
    int32_t n = 2 + (q->n + k->n) * INTS_SEGMENT,
            *parts = arena_new(&p->scratch, (size_t)n * sizeof *parts);
    if (!parts) return -1;
    parts[0] = (int32_t)(s - p->program->steps);
    parts[1] = q->n;
    memcpy(parts + 2, q->at, (size_t)q->n * sizeof(segment));
    memcpy(parts + 2 + q->n * INTS_SEGMENT, k->at, (size_t)k->n * sizeof(segment));
    strand like = {.kind = STRAND_SCORES,
        .type = (uint8_t)p->trace->model_type,
        .born = DOMAIN_FREE,
        .time = s->value,
        .level = 1,
        .width = width,
        .parent = PARENT_NONE,
        .pass = latest_pass(p, k, latest_pass(p, q, p->floor))};
    return strand_intern(p, &like, n, sizeof *parts, parts, 0);
}

inset_status open_scores(
    planner *p, const invoke *v, const step *s, const map *const *q, const map *const *k, tensor *t)
{
    for (int32_t i = 0; i < t->n_sequences; i++) {
        int32_t made = scores_strand(p, s, q[i], k[i], (int32_t)t->width);
        segments_clear(&p->segments);
        if (made < 0 || !segments_add(p, &p->segments, made, 0, v->lengths[i])
            || !(t->rows[i] = segments_finish(p, &p->segments)))
            return INSET_NO_MEMORY;
    }
    return INSET_OK;
}

/* ---- pattern ------------------------------------------------------------ */

typedef struct row_maker {
    planner *p;
    tensor *t;
    const step *step;
    const int32_t *lengths;                                  /* of the invoke's sequences */
    const map *const *queries, *const *keys, *const *values; /* mix: per sequence */
    /* mix: the sequence's rows if nobody had touched them; NULL until asked for */
    const map *fused;
    int32_t n_heads, sequence;
    segment_list out;
} row_maker;

/* Begins a sequence: finishes the rows of the one before. */
static bool turn_to(row_maker *m, int32_t sequence)
{
    if (m->sequence == sequence) return true;
    if (m->sequence >= 0 && !(m->t->rows[m->sequence] = segments_finish(m->p, &m->out)))
        return false;
    segments_clear(&m->out);
    m->sequence = sequence;
    m->fused = NULL;
    return true;
}

static inset_status make_rows(
    row_maker *m, const invoke *v, int32_t invoke_index, int32_t value_index, piece_function *visit)
{
    m->sequence = -1;
    inset_status status = open_rows(m->p, v, invoke_index, m->n_heads, value_index, visit, m);
    if (!status && !turn_to(m, -1)) status = INSET_NO_MEMORY;
    memory_free(m->p->context, m->out.at);
    return status;
}

static inset_status softmax_rows(void *user, int32_t sequence, int32_t rows, const piece *one)
{
    row_maker *m = user;
    planner *p = m->p;
    piece from = *one;
    inset_status status = pieces_readable(p, &from, p->trace->model_type, (int32_t)m->t->width);
    if (status) return status;
    int32_t anchor = from.row_step ? from.shift : 0;
    from.shift -= anchor;
    strand like = {.kind = STRAND_SOFTMAX,
        .type = (uint8_t)p->trace->model_type,
        .born = DOMAIN_FREE,
        .width = (int32_t)m->t->width,
        .parent = PARENT_NONE,
        .parent_row = m->n_heads,
        .start = m->lengths[sequence],
        .sinks = m->step->weight + 1};
    pieces_moment(p, &like, &from, 1);
    int32_t made = strand_intern(p, &like, 1, sizeof from, &from, 0);
    return made >= 0 && turn_to(m, sequence)
                   && pieces_add_rows(p, &m->out, made, anchor, rows, !from.row_step)
               ? INSET_OK
               : INSET_NO_MEMORY;
}

inset_status open_pattern(
    planner *p, const invoke *v, int32_t invoke_index, const step *s, tensor *t)
{
    row_maker m = {.p = p, .t = t, .step = s, .lengths = v->lengths, .n_heads = s->n_heads};
    return make_rows(&m, v, invoke_index, p->program->slots[s->operands[0]].value, softmax_rows);
}

/* ---- mix ---------------------------------------------------------------- */

bool open_changed(planner *p, const invoke *v, const step *attention)
{
    const step *pattern = pair_step(p, attention) - 1, *scores = pattern - 1;
    if (!p->open_scores) return false;
    if (!slot_is_plain(p->trace, v, shown_slot(p, scores->value))
        || !slot_is_plain(p->trace, v, shown_slot(p, pattern->value)))
        return true;
    for (int32_t i = 0; i < v->n_sequences; i++)
        if (p->open_scores[i] != p->values[scores->value]->rows[i]
            || p->open_pattern[i] != p->values[pattern->value]->rows[i])
            return true;
    return false;
}

/* Is the pattern's row what the model made of its own scores, for the row it is used at? */
static bool is_untouched(const planner *p, const step *attention, int32_t sequence, int32_t row,
    int32_t rows, const piece *one)
{
    if (one->domain != DOMAIN_FREE || one->column || (!one->row_step && rows > 1)) return false;
    const strand *softmax = &p->strands[one->strand];
    if (softmax->kind != STRAND_SOFTMAX || softmax->sinks != attention->weight + 1
        || one->c1 - one->c0 != softmax->width)
        return false;
    const piece *scores = softmax->pieces;
    const map *own = p->open_scores[sequence];
    int32_t index = 0, left = 0, at = map_find(own, row, &index, &left);
    return scores->domain == DOMAIN_FREE && scores->strand == own->at[at].strand
           && (scores->row_step || rows == 1) && left >= rows
           && scores->shift + one->shift * scores->row_step == index && !scores->column;
}

/* Rows that nobody touched are those of the fused attention: a patch of one query leaves the others
 * shared. */
static inset_status fused_rows(row_maker *m, int32_t rows)
{
    planner *p = m->p;
    int32_t q = m->sequence;
    if (!m->fused
        && !(m->fused = identity_attention(
                 p, m->step, pair_step(p, m->step), m->queries[q], m->keys[q], m->values[q])))
        return INSET_NO_MEMORY;
    return segments_add_cut(p, &m->out, m->fused, m->out.rows, m->out.rows + rows)
               ? INSET_OK
               : INSET_NO_MEMORY;
}

static inset_status mix_rows(void *user, int32_t sequence, int32_t rows, const piece *one)
{
    row_maker *m = user;
    planner *p = m->p;
    if (!turn_to(m, sequence)) return INSET_NO_MEMORY;
    if (is_untouched(p, m->step, sequence, m->out.rows, rows, one)) return fused_rows(m, rows);
    const map *values = m->values[sequence];
    int32_t n = INTS_PIECE + values->n * INTS_SEGMENT,
            *parts = arena_new(&p->scratch, (size_t)n * sizeof *parts);
    if (!parts) return INSET_NO_MEMORY;
    piece from = *one;
    inset_status status = pieces_readable(p, &from, p->trace->model_type, from.c1 - from.c0);
    if (status) return status;
    int32_t anchor = from.row_step ? from.shift : 0;
    from.shift -= anchor;
    memcpy(parts, &from, sizeof from);
    memcpy(parts + INTS_PIECE, values->at, (size_t)values->n * sizeof(segment));
    strand like = {.kind = STRAND_MIX,
        .type = (uint8_t)p->trace->model_type,
        .born = m->step->value,
        .width = (int32_t)m->t->width,
        .parent = PARENT_NONE};
    /* The step reads the pattern: one that is there only after this value, or from later in the
     * model, makes a pass of its own. */
    moment made_at = strand_moment(p, from.domain, from.strand);
    like.pass = made_at.value < like.born ? made_at.pass : made_at.pass + 1;
    if (like.pass < p->floor) like.pass = p->floor;
    like.time = like.born;
    like.pass = latest_pass(p, values, like.pass);
    int32_t made = strand_intern(p, &like, n, sizeof *parts, parts, 0);
    return made >= 0 && pieces_add_rows(p, &m->out, made, anchor, rows, !from.row_step)
               ? INSET_OK
               : INSET_NO_MEMORY;
}

inset_status open_mix(planner *p, const invoke *v, int32_t invoke_index, const step *attention,
    const map *const *const in[3], tensor *t)
{
    row_maker m = {.p = p,
        .t = t,
        .step = attention,
        .queries = in[0],
        .keys = in[1],
        .values = in[2],
        .n_heads = attention->n_heads};
    return make_rows(&m, v, invoke_index, (pair_step(p, attention) - 1)->value, mix_rows);
}
