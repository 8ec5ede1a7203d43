/* metric.c: metrics as rows: which numbers are the same number, and which need no row of logits at
 * all.
 *
 * Every number is a row of a strand whose identity is the kind, the tokens and the rows it is made
 * from, so that equal rows of equal tokens share one. Tokens may be replaced when a plan runs
 * again: a strand reads those of the first metric that made it, and the others are tied to
 * these. */
#include "plan/rows/rows.h"

#include <string.h>

/* ---- a metric's strand: numbers are its rows (kl: two pieces), how many tokens the first set has,
 * the tokens ---- */

enum { INTS_PIECE = sizeof(piece) / sizeof(int32_t), MOST_ROWS = 2 };

static int rows_of_kind(int kind) { return (kind & ~METRIC_SLOPE) == INSET_KL ? 2 : 1; }

bool metric_reads_rows(const strand *s)
{
    return s->op != METRIC_SLOPE + METRIC_LOGIT && s->op != METRIC_SLOPE + METRIC_LOGIT_DIFF;
}

const piece *metric_rows(const strand *s, int k)
{
    return k < rows_of_kind(s->op) ? (const piece *)(const void *)(s->numbers + k * INTS_PIECE)
                                   : NULL;
}

void metric_counts(const strand *s, int32_t *n_a, int32_t *n_b)
{
    int32_t at = rows_of_kind(s->op) * INTS_PIECE;
    *n_a = s->numbers[at];
    *n_b = s->n - at - 1 - *n_a;
}

/* ---- logits that need not be computed ----------------------------------- */

static bool shows_all(const planner *p, const slot *s)
{
    return !s->shape.stride && !s->shape.column
           && slot_column_end(s) == p->program->values[s->value].width;
}

const step *last_linear(const planner *p)
{
    for (size_t i = p->program->n_steps; i-- > 0;)
        if (p->program->steps[i].kind == STEP_LINEAR) return &p->program->steps[i];
    return NULL;
}

const step *metric_product(const planner *p, const strand *s, piece *operand, metric_behind *out)
{
    const program *g = p->program;
    const piece *from = metric_rows(s, 0);
    *out = (metric_behind){0};
    if ((s->op != INSET_LOGIT && s->op != INSET_LOGIT_DIFF) || from->domain < 0) return NULL;
    if (from->column || from->c1 - from->c0 != g->values[from->domain].width) return NULL;
    const step *st = &g->steps[g->values[from->domain].step];
    const bool caps = st->kind == STEP_SOFTCAP,
               scales = st->kind == STEP_SCALE && st->scale_in_fp32;
    if ((caps || scales) && shows_all(p, &g->slots[st->operands[0]])) {
        *(caps ? &out->softcap : &out->scale) = st->scale;
        st = program_maker(g, st->operands[0]);
    }
    if (st != last_linear(p) || g->weights[st->weight].in_out) return NULL;
    const slot *x = &g->slots[st->operands[0]];
    /* patched on the way to the logits */
    if (!shows_all(p, x) || p->strands[from->strand].born > x->value) return NULL;
    *operand = *from;
    operand->domain = x->value;
    operand->c0 = 0;
    operand->c1 = g->values[x->value].width;
    return st;
}

/* ---- making them -------------------------------------------------------- */

/* Rows of kl's reference, in the order of the target's. */
typedef struct reference_rows {
    int32_t sequence, rows;
    piece from;
} reference_rows;

typedef struct metric_maker {
    planner *p;
    const trace_metric_call *call;
    bool slope; /* what the metric changes by, in place of its number */
    tensor *t;
    inset_type type;             /* of the rows of logits */
    int32_t *numbers, n_numbers; /* a strand's, its tokens filled in */
    piece *parts;                /* one a column of the result, when it has several */
    reference_rows *references;
    size_t n_references, references_capacity;
    size_t reference;
    int32_t reference_done; /* of them, taken so far */
    segment_list out;
    int32_t sequence;
} metric_maker;

static bool start_numbers(metric_maker *m)
{
    const trace_metric_call *c = m->call;
    int32_t at = rows_of_kind(c->kind) * INTS_PIECE;
    m->n_numbers = at + 1 + c->n_a + c->n_b;
    m->numbers = arena_new(&m->p->passing, (size_t)m->n_numbers * sizeof *m->numbers);
    m->parts = arena_new(&m->p->passing, (size_t)m->t->width * sizeof *m->parts);
    if (!m->numbers || !m->parts) return false;
    m->numbers[at] = c->n_a;
    if (c->n_a + c->n_b)
        memcpy(m->numbers + at + 1, m->p->trace->answers + c->first_answer,
            (size_t)(c->n_a + c->n_b) * sizeof *m->numbers);
    return true;
}

/* Two metrics are one number, so their tokens must stay equal. */
static bool tie_answers(planner *p, const trace_metric_call *c, int32_t stands)
{
    answer_tie tie = {(int32_t)c->first_answer, stands, c->n_a + c->n_b};
    if (tie.first == tie.stands || !tie.count) return true;
    if (p->n_ties && !memcmp(&p->ties[p->n_ties - 1], &tie, sizeof tie)) return true;
    if (!array_extend(p->context, &p->ties, &p->ties_capacity, p->n_ties + 1, sizeof *p->ties))
        return false;
    p->ties[p->n_ties++] = tie;
    return true;
}

/* The numbers of rows [c0 .. c1) of these pieces: row *row of a strand and those behind it, or that
 * one row for all. */
static inset_status make_numbers(metric_maker *m, const piece *given, int32_t c0, int32_t c1,
    int32_t *made, int32_t *row, bool *repeats)
{
    planner *p = m->p;
    piece from[MOST_ROWS];
    int n = rows_of_kind(m->call->kind);
    *row = 0;
    *repeats = true;
    for (int k = n - 1; k >= 0; k--) {
        from[k] = given[k];
        if (from[k].domain != DOMAIN_CONSTANT)
            from[k].column += (c0 - from[k].c0) * from[k].column_step;
        from[k].c0 = 0, from[k].c1 = c1 - c0;
        inset_status status = pieces_readable(p, &from[k], m->type, from[k].c1);
        if (status) return status;
        if (from[k].row_step) *row = from[k].shift, *repeats = false;
    }
    for (int k = 0; k < n; k++)
        if (from[k].row_step) from[k].shift -= *row;
    memcpy(m->numbers, from, (size_t)n * sizeof *from);
    strand like = {.kind = STRAND_METRIC,
        .type = INSET_F32,
        .op = (uint8_t)(m->call->kind + (m->slope ? METRIC_SLOPE : 0)),
        .born = DOMAIN_FREE,
        .width = m->slope ? c1 - c0 : 1,
        .parent = PARENT_NONE,
        .start = (int32_t)m->call->first_answer};
    pieces_moment(p, &like, from, (size_t)n);
    *made = strand_intern(p, &like, m->n_numbers, sizeof *m->numbers, m->numbers, 0);
    return *made >= 0 && tie_answers(p, m->call, p->strands[*made].start) ? INSET_OK
                                                                          : INSET_NO_MEMORY;
}

/* A row of the result: mostly one number, else one a column. */
static inset_status make_row(
    metric_maker *m, const piece *from, int32_t *made, int32_t *row, bool *repeats)
{
    const int32_t width = m->call->width, size = m->slope ? width : 1,
                  columns = (int32_t)m->t->width / size;
    if (columns == 1) return make_numbers(m, from, 0, width, made, row, repeats);
    for (int32_t c = 0; c < columns; c++) {
        inset_status status = make_numbers(m, from, c * width, (c + 1) * width, made, row, repeats);
        if (status) return status;
        m->parts[c] = (piece){.c0 = c * size,
            .c1 = (c + 1) * size,
            .domain = DOMAIN_FREE,
            .strand = *made,
            .shift = *row,
            .row_step = !*repeats,
            .column_step = 1};
    }
    return pieces_row(m->p, DOMAIN_FREE, INSET_F32, columns * size, m->parts, (size_t)columns, 0,
        columns * size, made, row, repeats);
}

static bool turn_to(metric_maker *m, int32_t sequence)
{
    if (m->sequence == sequence) return true;
    if (m->sequence >= 0 && !(m->t->rows[m->sequence] = segments_finish(m->p, &m->out)))
        return false;
    segments_clear(&m->out);
    m->sequence = sequence;
    return true;
}

/* The reference of the next rows; *left shrinks to those for which it holds. */
static piece next_reference(metric_maker *m, int32_t *left)
{
    const reference_rows *r = &m->references[m->reference];
    piece from = r->from;
    if (from.row_step) from.shift += m->reference_done;
    if (*left > r->rows - m->reference_done) *left = r->rows - m->reference_done;
    m->reference_done += *left;
    if (m->reference_done == r->rows) m->reference++, m->reference_done = 0;
    return from;
}

static inset_status metric_strip(void *user, int32_t sequence, int32_t rows, const piece *one)
{
    metric_maker *m = user;
    if (!turn_to(m, sequence)) return INSET_NO_MEMORY;
    for (int32_t at = 0; at < rows;) {
        piece from[MOST_ROWS] = {*one};
        int32_t left = rows - at, made = 0, row = 0;
        bool repeats;
        if (one->row_step) from[0].shift += at;
        if (m->n_references) from[1] = next_reference(m, &left);
        inset_status status = make_row(m, from, &made, &row, &repeats);
        if (status) return status;
        if (!pieces_add_rows(m->p, &m->out, made, row, left, repeats)) return INSET_NO_MEMORY;
        at += left;
    }
    return INSET_OK;
}

static inset_status reference_strip(void *user, int32_t sequence, int32_t rows, const piece *one)
{
    metric_maker *m = user;
    if (!array_extend(m->p->context, &m->references, &m->references_capacity, m->n_references + 1,
            sizeof *m->references))
        return INSET_NO_MEMORY;
    m->references[m->n_references++] = (reference_rows){sequence, rows, *one};
    return INSET_OK;
}

/* The result with its rows' logits as a last dimension (width 0: it has it already): what the rows
 * of logits broadcast to. */
static view rows_shape(const view *result, int32_t width)
{
    /* a view that a record keeps ends behind its last dimension */
    view shape = {0};
    memcpy(&shape, result,
        offsetof(view, dimensions) + (size_t)result->n_dimensions * sizeof result->dimensions[0]);
    if (!width) return shape;
    for (int i = 0; i < shape.n_dimensions; i++)
        if (shape.dimensions[i].kind == DIMENSION_COLUMN) shape.dimensions[i].stride *= width;
    shape.dimensions[shape.n_dimensions++] = (dimension){
        .kind = DIMENSION_COLUMN, .extent = width, .stride = 1};
    return shape;
}

static inset_status make_all(metric_maker *m, const trace_record *r)
{
    planner *p = m->p;
    const view shape = rows_shape(r->target, m->slope ? 0 : m->call->width);
    const int32_t width = (int32_t)m->t->width * (m->slope ? 1 : m->call->width);
    segments_clear(&m->out);
    for (int32_t s = 0; s < m->t->n_sequences; s++) /* empty, until rows are made */
        if (!(m->t->rows[s] = segments_finish(p, &m->out))) return INSET_NO_MEMORY;
    inset_status status = r->b.view ? view_pieces(p, r->b.view, &shape, width, reference_strip, m)
                                    : INSET_OK;
    if (!status) status = view_pieces(p, r->a.view, &shape, width, metric_strip, m);
    if (!status && m->sequence >= 0 && !(m->t->rows[m->sequence] = segments_finish(p, &m->out)))
        status = INSET_NO_MEMORY;
    return status;
}

inset_status metric_apply(planner *p, const trace_record *r)
{
    metric_maker m = {.p = p,
        .call = &p->trace->metrics[r->metric],
        .slope = r->slope,
        .t = storage_tensor(p, r->target->storage),
        .sequence = -1,
        .type = p->trace->storages[r->a.view->storage].type};
    if (!m.t || !start_numbers(&m)) return INSET_NO_MEMORY;
    inset_status status = make_all(&m, r);
    memory_free(p->context, m.references);
    memory_free(p->context, m.out.at);
    return status;
}
