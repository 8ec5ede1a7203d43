/* open_back.c: what comes back through attention in the open. The fused attention goes back as one
 * (reverse.c); where an invoke touches `.scores` or `.pattern`, or asks for their gradients, the
 * chain rule is run in the open, too:
 *
 *     dv_j  = sum over i of pattern_ij dz_i         pattern: the rows that mixed the values
 *     dP_ij = dz_i . v_j                            a scores strand, without a mask
 *     dS_i  = P_i (dP_i - sum P_i dP_i)             P: the softmax, whatever was set in it after
 *     dq_i  = sum over j of w_ij k_j                w: dS through the cap, times the scale
 *     dk_j  = sum over i of w_ij q_i
 *
 * dP, dS and w are free tensors as the scores are. dv and [dq | dk] are values of the reversed
 * program; a sequence's rows of them are a unit, like those of attention backwards. Parts of such a
 * strand:
 *     numbers: step, how many segments of x and of keys, how many runs of weights; these segments;
 *     the runs, each a count of rows and the piece that they are */
#include "plan/rows/rows.h"

#include <string.h>

enum { UNIT_HEAD = 4, INTS_SEGMENT = sizeof(segment) / sizeof(int32_t) };
enum { INTS_RUN = sizeof(weight_run) / sizeof(int32_t) };

/* ---- parts of a unit ---------------------------------------------------- */

const segment *open_unit_rows(const strand *s, int k, int32_t *n)
{
    const segment *at = (const segment *)(const void *)(s->numbers + UNIT_HEAD);
    return *n = s->numbers[1 + k], k ? at + s->numbers[1] : at;
}

const weight_run *open_unit_weights(const strand *s, int32_t *n)
{
    const int32_t *at = s->numbers + UNIT_HEAD + (s->numbers[1] + s->numbers[2]) * INTS_SEGMENT;
    return *n = s->numbers[3], (const weight_run *)(const void *)at;
}

static int32_t open_unit(planner *p, const step *s, const map *x, const map *keys,
    const weight_list *weights, int32_t *made)
{
    const int32_t n_keys = keys ? keys->n : 0;
    const int32_t n = UNIT_HEAD + (x->n + n_keys) * INTS_SEGMENT + (int32_t)weights->n * INTS_RUN;
    int32_t *parts = arena_new(&p->scratch, (size_t)n * sizeof *parts), *to = parts + UNIT_HEAD;
    if (!parts) return INSET_NO_MEMORY;
    parts[0] = (int32_t)(s - p->program->steps);
    parts[1] = x->n, parts[2] = n_keys, parts[3] = (int32_t)weights->n;
    memcpy(to, x->at, (size_t)x->n * sizeof(segment));
    if (keys) memcpy(to + x->n * INTS_SEGMENT, keys->at, (size_t)n_keys * sizeof(segment));
    to += (x->n + n_keys) * INTS_SEGMENT;
    memcpy(to, weights->at, weights->n * sizeof(weight_run));
    strand like = {.kind = STRAND_OPEN_BACK,
        .type = (uint8_t)p->trace->model_type,
        .born = s->value,
        .time = s->value,
        .width = p->program->values[s->value].width,
        .parent = PARENT_NONE,
        .pass = latest_pass(p, x, p->floor)};
    if (keys) like.pass = latest_pass(p, keys, like.pass);
    for (size_t i = 0; i < weights->n; i++) {
        /* as where values are mixed: weights from later in the model make a pass of their own */
        const piece *w = &weights->at[i].from;
        const moment at = strand_moment(p, w->domain, w->strand);
        const int32_t pass = at.value < like.born ? at.pass : at.pass + 1;
        if (pass > like.pass) like.pass = pass;
    }
    *made = strand_intern(p, &like, n, sizeof *parts, parts, 0);
    return *made < 0 ? INSET_NO_MEMORY : INSET_OK;
}

/* ---- what the forward had ----------------------------------------------- */

/* Of the attention that a forward step is part of: scores, pattern, pair, attention. */
static open_seen *seen_at(const planner *p, const step *of)
{
    const int32_t i = (int32_t)(of - p->program->steps);
    return &p->open_seen[of->kind == STEP_SCORES ? i : of->kind == STEP_PATTERN ? i - 1 : i - 3];
}

bool open_was(const planner *p, const step *of)
{
    const int32_t i = (int32_t)(of - p->program->steps);
    if (of->kind == STEP_ATTENTION && (i < 3 || of[-3].kind != STEP_SCORES)) return false;
    return p->open_seen && seen_at(p, of)->scores;
}

void open_note_made(planner *p, const step *s, const map **rows)
{
    if (s->kind == STEP_SCORES) seen_at(p, s)->scores = rows;
    else seen_at(p, s)->pattern = rows;
}

static inset_status note_run(void *user, int32_t sequence, int32_t rows, const piece *one)
{
    struct noting {
        planner *p;
        weight_list *lists;
    } *n = user;
    weight_list *list = &n->lists[sequence];
    if (list->n == list->capacity) {
        const size_t capacity = list->capacity ? 2 * list->capacity : 4;
        weight_run *grown = arena_new(&n->p->passing, capacity * sizeof *grown);
        if (!grown) return INSET_NO_MEMORY;
        if (list->n) memcpy(grown, list->at, list->n * sizeof *grown);
        list->at = grown, list->capacity = capacity;
    }
    weight_run run = {.rows = rows, .from = *one};
    inset_status status = pieces_readable(
        n->p, &run.from, n->p->trace->model_type, one->c1 - one->c0);
    list->at[list->n++] = run;
    return status;
}

inset_status open_note_mixed(
    planner *p, const invoke *v, int32_t invoke_index, const step *attention)
{
    struct noting {
        planner *p;
        weight_list *lists;
    } n = {p, arena_new(&p->passing, (size_t)v->n_sequences * sizeof *n.lists)};
    if (!n.lists) return INSET_NO_MEMORY;
    seen_at(p, attention)->mixed = n.lists;
    return open_rows(p, v, invoke_index, attention->n_heads, attention[-2].value, note_run, &n);
}

/* ---- free rows ---------------------------------------------------------- */

static bool all_zero(const planner *p, int32_t domain, const map *m)
{
    for (int32_t i = 0; i < m->n; i++)
        if (!reverse_is_zero(p, domain, m->at[i].strand)) return false;
    return true;
}

static piece run_of(const map *m, int32_t at, int32_t width, int32_t *left)
{
    int32_t index = 0, rows = 0;
    const int32_t i = map_find(m, at, &index, &rows);
    if (rows < *left) *left = rows;
    return (piece){.c0 = 0,
        .c1 = width,
        .domain = DOMAIN_FREE,
        .strand = m->at[i].strand,
        .shift = index,
        .row_step = 1,
        .column_step = 1};
}

/* Rows made of the rows of two free tensors: a's where b's are zero, and so on; `like` says of what
 * kind, a sum or a softmax backwards. */
static inset_status combine_rows(
    planner *p, strand like, const map *a, const map *b, int32_t width, segment_list *list)
{
    const bool sum = like.kind == STRAND_EXPR;
    for (int32_t at = 0; at < a->rows;) {
        int32_t n = a->rows - at, made, row;
        bool repeats;
        piece from[2] = {run_of(a, at, width, &n), run_of(b, at, width, &n)};
        const bool no_a = sum && reverse_is_zero(p, DOMAIN_FREE, from[0].strand),
                   no_b = reverse_is_zero(p, DOMAIN_FREE, from[1].strand);
        inset_status status = INSET_OK;
        if (no_a || (sum && no_b)) {
            const piece *one = &from[no_a];
            if (!segments_add(p, list, one->strand, one->shift, n)) status = INSET_NO_MEMORY;
        } else if (no_b) {
            status = reverse_add_zeros(p, list, DOMAIN_FREE, width, n);
        } else {
            for (int k = 0; k < 2 && !status && !sum; k++)
                status = pieces_readable(p, &from[k], p->trace->model_type, width);
            if (!status) status = pieces_combine(p, like, from, 2, &made, &row, &repeats);
            if (!status && !pieces_add_rows(p, list, made, row, n, repeats))
                status = INSET_NO_MEMORY;
        }
        if (status) return status;
        at += n;
    }
    return INSET_OK;
}

static strand softmax_back(const planner *p, const step *s, int32_t width, bool scaled)
{
    return (strand){.kind = STRAND_SOFTMAX_BACK,
        .type = (uint8_t)p->trace->model_type,
        .op = scaled,
        .born = DOMAIN_FREE,
        .width = width,
        .parent = PARENT_NONE,
        .parent_row = (int32_t)(s - p->program->steps)};
}

/* ---- steps -------------------------------------------------------------- */

typedef struct turn {
    planner *p;
    const invoke *v;
    int32_t invoke_index;
    const step *s;
    tensor *t;
} turn;

static const map **rows_of_slot(const planner *p, int32_t slot_index)
{
    return p->values[p->program->slots[slot_index].value]->rows;
}

static inset_status pattern_back(const turn *r)
{
    planner *p = r->p;
    const map **dz;
    const map **v = p->seen[r->s->of * 3 + 2];
    inset_status status = slot_maps(p, r->v, r->invoke_index, r->s->operands[0], &dz);
    return status ? status : open_scores(p, r->v, r->s, dz, v, r->t);
}

/* Free rows of one sequence, by kind of step. */
static inset_status free_rows(const turn *r, int32_t q, segment_list *list)
{
    planner *p = r->p;
    const step *s = r->s, *of = &p->program->steps[s->of];
    const int32_t width = (int32_t)r->t->width;
    if (s->kind == STEP_ZERO)
        return reverse_add_zeros(p, list, DOMAIN_FREE, width, r->t->lengths[q]);
    const map *first = rows_of_slot(p, s->operands[0])[q];
    if (s->kind == STEP_SCORES_BACK)
        return combine_rows(
            p, softmax_back(p, of, width, false), seen_at(p, of)->pattern[q], first, width, list);
    strand sum = {.kind = STRAND_EXPR,
        .type = (uint8_t)p->trace->model_type,
        .op = TRACE_ADD,
        .born = DOMAIN_FREE,
        .width = width,
        .parent = PARENT_NONE};
    const map *second = rows_of_slot(p, s->operands[1])[q];
    return slot_is_plain(p->trace, r->v, s->through)
               ? combine_rows(p, sum, first, second, width, list)
           : segments_add_cut(p, list, first, 0, first->rows) ? INSET_OK
                                                              : INSET_NO_MEMORY;
}

/* w of one sequence, as runs. */
static inset_status weights_of(
    planner *p, const step *scores, const map *made, const map *ds, int32_t width, weight_list *out)
{
    segment_list list = {0};
    struct noting {
        planner *p;
        weight_list *lists;
    } n = {p, out};
    inset_status status = combine_rows(
        p, softmax_back(p, scores, width, true), made, ds, width, &list);
    for (size_t i = 0; i < list.n && !status; i++) {
        const piece one = {.c0 = 0,
            .c1 = width,
            .domain = DOMAIN_FREE,
            .strand = list.at[i].strand,
            .shift = list.at[i].first,
            .row_step = 1,
            .column_step = 1};
        status = note_run(&n, 0, list.at[i].count, &one);
    }
    memory_free(p->context, list.at);
    return status;
}

/* A sequence's rows of dv, or of [dq | dk]. */
static inset_status unit_rows(const turn *r, int32_t q, segment_list *list)
{
    planner *p = r->p;
    const step *s = r->s, *of = &p->program->steps[s->of];
    const int32_t from_value = p->program->slots[s->operands[0]].value, rows = r->t->lengths[q];
    const tensor *from = p->values[from_value];
    const open_seen *seen = seen_at(p, of);
    weight_list w = {0};
    const map *x, *keys = NULL;
    int32_t made;
    inset_status status = INSET_OK;
    if (all_zero(p, from->domain, from->rows[q]))
        return reverse_add_zeros(p, list, s->value, p->program->values[s->value].width, rows);
    if (s->kind == STEP_VALUES_BACK) {
        x = from->rows[q];
        w = seen->mixed[q];
    } else {
        x = p->seen[s->of * 3][q];
        keys = p->seen[s->of * 3 + 1][q];
        status = weights_of(p, of, seen->scores[q], from->rows[q], (int32_t)from->width, &w);
    }
    if (status || (status = open_unit(p, s, x, keys, &w, &made))) return status;
    return segments_add(p, list, made, 0, rows) ? INSET_OK : INSET_NO_MEMORY;
}

inset_status open_back_rows(
    planner *p, const invoke *v, int32_t invoke_index, const step *s, tensor *t)
{
    const turn r = {p, v, invoke_index, s, t};
    if (s->kind == STEP_PATTERN_BACK) return pattern_back(&r);
    const bool unit = s->kind == STEP_VALUES_BACK || s->kind == STEP_QUERIES_BACK;
    for (int32_t q = 0; q < t->n_sequences; q++) {
        segment_list list = {0};
        inset_status status = unit ? unit_rows(&r, q, &list) : free_rows(&r, q, &list);
        if (!status && !(t->rows[q] = segments_finish(p, &list))) status = INSET_NO_MEMORY;
        memory_free(p->context, list.at);
        if (status) return status;
    }
    return INSET_OK;
}
