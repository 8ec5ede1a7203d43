/* reverse.c: rows of gradients. Where nothing has reached a row of a gradient it is zero, and a row
 * of zeros goes backwards as a row of zeros: no step is run for it. So what the
 * metric does not depend on costs nothing, row by row, as what nobody asks for costs nothing.
 *
 *     metric at the last position of a prompt of 3: gradients of the logits are rows 0 0 g; so they
 *     are down to the last attention, which sends something back to all three.
 *
 * Steps read of the forward what its own steps read: `seen` has the maps from then, since a record
 * may have changed the tensor after.
 *
 * Attention goes back as a unit: a strand is all rows of a sequence up to the last that is not
 * zero, or all of them where they see each other both ways. Its numbers: the forward step, how many
 * segments of q, k, v and dz, and these. */
#include "plan/rows/rows.h"

#include <string.h>

enum { INTS_SEGMENT = sizeof(segment) / sizeof(int32_t), UNIT_HEAD = 5 };

/* ---- zeros -------------------------------------------------------------- */

bool reverse_is_zero(const planner *p, int32_t domain, int32_t strand_index)
{
    const strand *s = &p->strands[strand_index];
    if (s->kind != STRAND_COPY || s->born != domain || s->n != 1) return false;
    return s->pieces[0].domain == DOMAIN_CONSTANT && piece_number(&s->pieces[0]) == 0;
}

/* Row i of the strand stands for position i of every sequence, so that rows that go with them run
 * side by side. */
inset_status reverse_add_zeros(
    planner *p, segment_list *list, int32_t domain, int32_t width, int32_t count)
{
    const inset_type type = p->trace->model_type;
    piece zero = piece_constant(type, 0, 0, width);
    int32_t made, row;
    bool repeats;
    inset_status status = pieces_row(
        p, domain, type, width, &zero, 1, 0, width, &made, &row, &repeats);
    if (status) return status;
    return segments_add(p, list, made, list->rows, count) ? INSET_OK : INSET_NO_MEMORY;
}

static inset_status add_zeros(planner *p, segment_list *list, int32_t value_index, int32_t count)
{
    return reverse_add_zeros(p, list, value_index, p->program->values[value_index].width, count);
}

/* A map of them; NULL: memory is out. */
static const map *zeros_of(planner *p, int32_t value_index, int32_t count)
{
    segments_clear(&p->segments);
    return add_zeros(p, &p->segments, value_index, count) ? NULL : segments_finish(p, &p->segments);
}

/* ---- rows of a step ----------------------------------------------------- */

typedef struct reading {
    const map *rows[3];
    int32_t value[3]; /* whose rows they are */
    int n, dy;        /* which of them comes back */
} reading;

static segment row_of(const map *m, int32_t at)
{
    int32_t index = 0, left = 0, i = map_find(m, at, &index, &left);
    return (segment){m->at[i].strand, index, left};
}

/* Rows that go on as they are, as zeros, or as rows of a new strand of several operands. */
static inset_status rows_of_step(
    planner *p, const step *s, const reading *in, int32_t rows, segment_list *list)
{
    for (int32_t at = 0; at < rows;) {
        segment row[3];
        int32_t n = rows - at;
        for (int k = 0; k < in->n; k++) {
            row[k] = row_of(in->rows[k], at);
            if (row[k].count < n) n = row[k].count;
        }
        const bool zero = reverse_is_zero(p, in->value[in->dy], row[in->dy].strand)
                          && (s->kind != STEP_ADD
                              || reverse_is_zero(p, in->value[0], row[0].strand));
        inset_status status = INSET_OK;
        if (zero) {
            status = add_zeros(p, list, s->value, n);
        } else {
            int32_t made = in->n == 1 ? row[0].strand : identity_stepped(p, s, in->n, row);
            if (made < 0 || !segments_add(p, list, made, row[0].first, n)) status = INSET_NO_MEMORY;
        }
        if (status) return status;
        at += n;
    }
    return INSET_OK;
}

/* ---- attention ---------------------------------------------------------- */

const segment *back_rows(const strand *s, int k, int32_t *n)
{
    const segment *at = (const segment *)(const void *)(s->numbers + UNIT_HEAD);
    for (int i = 0; i < k; i++) at += s->numbers[1 + i];
    *n = s->numbers[1 + k];
    return at;
}

const step *back_step(const planner *p, const strand *s)
{
    return &p->program->steps[s->numbers[0]];
}

static int32_t unit_strand(planner *p, const step *s, const map *const cut[4], int32_t pass)
{
    int32_t n = UNIT_HEAD;
    for (int k = 0; k < 4; k++) n += cut[k]->n * INTS_SEGMENT;
    int32_t *parts = arena_new(&p->scratch, (size_t)n * sizeof *parts), *to = parts + UNIT_HEAD;
    if (!parts) return -1;
    parts[0] = s->of;
    for (int k = 0; k < 4; k++) {
        parts[1 + k] = cut[k]->n;
        memcpy(to, cut[k]->at, (size_t)cut[k]->n * sizeof(segment));
        to += cut[k]->n * INTS_SEGMENT;
    }
    strand like = {.kind = STRAND_BACK,
        .type = (uint8_t)p->trace->model_type,
        .born = s->value,
        .time = s->value,
        .width = p->program->values[s->value].width,
        .parent = PARENT_NONE,
        .pass = pass};
    return strand_intern(p, &like, n, sizeof *parts, parts, 0);
}

static inset_status rows_of_attention(planner *p, const step *s, const map *const forward[3],
    const map *dz, int32_t dz_value, int32_t rows, segment_list *list)
{
    int32_t end = 0;
    for (int32_t i = 0, at = 0; i < dz->n; at += dz->at[i++].count)
        if (!reverse_is_zero(p, dz_value, dz->at[i].strand)) end = at + dz->at[i].count;
    if (end && p->program->both_ways) end = rows; /* all rows see all */
    if (end) {
        const map *all[4] = {forward[0], forward[1], forward[2], dz}, *cut[4];
        int32_t pass = p->floor;
        for (int k = 0; k < 4; k++) {
            segments_clear(&p->segments);
            if (!segments_add_cut(p, &p->segments, all[k], 0, end)
                || !(cut[k] = segments_finish(p, &p->segments)))
                return INSET_NO_MEMORY;
            for (int32_t i = 0; i < cut[k]->n; i++)
                if (p->strands[cut[k]->at[i].strand].pass > pass)
                    pass = p->strands[cut[k]->at[i].strand].pass;
        }
        const int32_t made = unit_strand(p, s, cut, pass);
        if (made < 0 || !segments_add(p, list, made, 0, end)) return INSET_NO_MEMORY;
    }
    return add_zeros(p, list, s->value, rows - end);
}

/* ---- a step ------------------------------------------------------------- */

/* The maps of what a step reads: of the forward, those that the forward step saw. NULL: it was
 * skipped. */
static inset_status reading_of(
    planner *p, const invoke *v, int32_t invoke_index, const step *s, int k, const map ***out)
{
    const int32_t slot_index = s->operands[k];
    if (slot_index >= p->trace->reversal->n_slots)
        return slot_maps(p, v, invoke_index, slot_index, out);
    const step *of = &p->program->steps[s->of];
    for (int j = 0; j < 3; j++)
        if (of->operands[j] == slot_index && p->seen[s->of * 3 + j]) *out = p->seen[s->of * 3 + j];
    return INSET_OK;
}

/* A norm's scale and attention go back either fused or in the open, as they ran. */
static bool runs_here(const planner *p, const step *s)
{
    const step *of = &p->program->steps[s->of];
    switch (s->kind) {
    case STEP_NORM_BACK: return !p->seen[s->of * 3 + 1];
    case STEP_NORM_GIVEN_BACK:
    case STEP_DIVISOR_BACK: return p->seen[s->of * 3 + 1] != NULL;
    case STEP_ATTENTION_BACK: return !open_was(p, of);
    case STEP_VALUES_BACK:
    case STEP_QUERIES_BACK: return false; /* else open_back.c makes them */
    default: return true;
    }
}

/* The gradient of a row that all sequences share (of a position embedding): the sum over them.
 * sent: NULL when it goes elsewhere. */
static inset_status sum_of_sequences(planner *p, const step *s, const map *before,
    const map *const *sent, int32_t n_sequences, segment_list *list)
{
    const int32_t width = p->program->values[s->value].width;
    const strand sum = {.kind = STRAND_EXPR,
        .type = (uint8_t)p->trace->model_type,
        .op = TRACE_ADD,
        .born = DOMAIN_FREE,
        .width = width,
        .parent = PARENT_NONE};
    for (int32_t at = 0; at < before->rows; at++) {
        piece parts[2];
        int n = 0;
        inset_status status = INSET_OK;
        for (int32_t q = -1; q < (sent ? n_sequences : 0) && !status; q++) {
            const map *m = q < 0 ? before : sent[q];
            if (at >= m->rows) continue;
            const segment row = row_of(m, at);
            const int32_t value_index = p->program->slots[s->operands[q >= 0]].value;
            if (reverse_is_zero(p, value_index, row.strand)) continue;
            parts[n++] = (piece){.c1 = width,
                .domain = value_index,
                .strand = row.strand,
                .shift = row.first,
                .row_step = 1,
                .column_step = 1};
            if (n < 2) continue;
            bool repeats;
            int32_t made, index;
            status = pieces_combine(p, sum, parts, 2, &made, &index, &repeats);
            parts[0] = (piece){.c1 = width,
                .domain = DOMAIN_FREE,
                .strand = made,
                .shift = index,
                .row_step = 1,
                .column_step = 1};
            n = 1;
        }
        int32_t made = 0, index = 0;
        bool repeats;
        if (!status && n)
            status = pieces_row(
                p, s->value, sum.type, width, parts, 1, 0, width, &made, &index, &repeats);
        if (!status && !n) status = add_zeros(p, list, s->value, 1);
        else if (!status && !segments_add(p, list, made, index, 1)) status = INSET_NO_MEMORY;
        if (status) return status;
    }
    return INSET_OK;
}

inset_status reverse_rows(
    planner *p, const invoke *v, int32_t invoke_index, const step *s, tensor *t)
{
    const map **in[3] = {NULL, NULL, NULL}, **const *seen = s->of < 0 ? NULL : &p->seen[s->of * 3];
    const bool skipped = seen && (!seen[0] || !runs_here(p, s));
    int n = s->n_operands;
    for (int k = 0; k < n; k++) {
        inset_status status = skipped && s->operands[k] < p->trace->reversal->n_slots
                                  ? INSET_OK
                                  : reading_of(p, v, invoke_index, s, k, &in[k]);
        if (status) return status;
    }
    const map *positions = s->kind == STEP_ROPE ? identity_positions(p, v->longest) : NULL;
    if (s->kind == STEP_ROPE && !positions) return INSET_NO_MEMORY;
    const bool elsewhere = s->kind == STEP_ADD && !slot_is_plain(p->trace, v, s->through);
    const bool sums = s->kind == STEP_ADD && p->program->values[s->value].per_position
                      && !p->program->values[p->program->slots[s->operands[1]].value].per_position;
    for (int32_t q = 0; q < t->n_sequences; q++) {
        const int32_t rows = t->lengths[q];
        segment_list list = {0};
        inset_status status;
        const map *nothing = NULL; /* what is sent goes elsewhere, or nobody sent it */
        if (s->kind == STEP_ADD && (elsewhere || skipped)
            && !(nothing = zeros_of(p, p->program->slots[s->operands[1]].value, rows)))
            return INSET_NO_MEMORY;
        if (s->kind == STEP_ZERO || (skipped && !nothing))
            status = add_zeros(p, &list, s->value, rows);
        else if (sums)
            status = sum_of_sequences(
                p, s, in[0][q], nothing ? NULL : in[1], v->n_sequences, &list);
        else if (s->kind == STEP_ATTENTION_BACK) {
            const map *forward[3] = {seen[0][q], seen[1][q], seen[2][q]};
            status = rows_of_attention(
                p, s, forward, in[0][q], p->program->slots[s->operands[0]].value, rows, &list);
        } else {
            reading r = {.n = n, .dy = n - 1};
            for (int k = 0; k < n; k++) {
                r.rows[k] = in[k][q];
                r.value[k] = p->program->slots[s->operands[k]].value;
            }
            if (nothing) r.rows[1] = nothing;
            if (s->kind == STEP_ROPE) r.rows[r.n++] = positions;
            status = rows_of_step(p, s, &r, rows, &list);
        }
        if (!status && !(t->rows[q] = segments_finish(p, &list))) status = INSET_NO_MEMORY;
        memory_free(p->context, list.at);
        if (status) return status;
    }
    return INSET_OK;
}
