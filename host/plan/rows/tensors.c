/* tensors.c: the tensors that records work on: made when first asked for, filled as a draft of
 * pieces, frozen into maps. */
#include "plan/rows/rows.h"

/* The strand of an earlier literal of the same numbers; -1: there is none. */
static int32_t same_literal(planner *p, int32_t storage_index, uint64_t hash)
{
    size_t cursor = 0;
    for (int32_t at; (at = table_next(&p->interned, hash, &cursor)) >= 0;)
        if (p->strands[at].kind == STRAND_EXTERNAL
            && storages_equal(p->trace, p->strands[at].storage, storage_index))
            return at;
    return -1;
}

/* The strand of a tensor from outside. What is written in a line is one in all lines that write the
 * same, so that what a loop's invokes make of it is one, too. */
static int32_t external_strand(planner *p, int32_t storage_index)
{
    const storage *s = &p->trace->storages[storage_index];
    const bool shared = s->literal && !p->options.no_share;
    const size_t bytes = (size_t)(s->lengths[0] * s->width) * type_size(s->type);
    const uint64_t hash = shared ? hash_bytes(0x117, s->data, bytes) : 0;
    const int32_t found = shared ? same_literal(p, storage_index, hash) : -1;
    if (found >= 0) return found;
    const strand like = {.kind = STRAND_EXTERNAL,
        .type = (uint8_t)s->type,
        .born = DOMAIN_FREE,
        .time = -1,
        .width = (int32_t)s->width,
        .parent = PARENT_NONE,
        .storage = storage_index};
    if (!array_extend(
            p->context, &p->strands, &p->strands_capacity, p->n_strands + 1, sizeof *p->strands))
        return -1;
    p->strands[p->n_strands] = like;
    if (shared && !table_add(p->context, &p->interned, hash, (int32_t)p->n_strands)) return -1;
    return (int32_t)p->n_strands++;
}

static const map *external_rows(planner *p, int32_t storage_index)
{
    const int32_t made = external_strand(p, storage_index);
    segments_clear(&p->segments);
    return made >= 0
                   && segments_add(
                       p, &p->segments, made, 0, p->trace->storages[storage_index].lengths[0])
               ? segments_finish(p, &p->segments)
               : NULL;
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
    *t = (tensor){.domain = DOMAIN_FREE,
        .type = s->type,
        .n_sequences = s->n_sequences,
        .width = s->width,
        .lengths = s->lengths};
    t->rows = arena_new(&p->scratch, (size_t)s->n_sequences * sizeof *t->rows);
    if (!t->rows) return NULL;
    if (s->kind == STORAGE_EXTERNAL && !(t->rows[0] = external_rows(p, index))) return NULL;
    if (s->kind == STORAGE_FILLED && !start_draft(p, t)) return NULL;
    return p->tensors[index] = t;
}

/* The pieces of a draft's row; zeros where nothing was set yet. */
bool draft_pieces(planner *p, const tensor *t, int32_t sequence, int32_t row, piece_list *list)
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
            else
                status = pieces_row(p, DOMAIN_FREE, t->type, (int32_t)t->width, p->row_pieces.at,
                    p->row_pieces.n, 0, (int32_t)t->width, &made, &row, &repeats);
            if (!status
                && !(repeats ? pieces_add_rows(p, &list, made, row, 1, true)
                             : segments_add(p, &list, made, row, 1)))
                status = INSET_NO_MEMORY;
        }
        if (!status && !(t->rows[s] = segments_finish(p, &list))) status = INSET_NO_MEMORY;
        memory_free(p->context, list.at);
        if (status) return status;
    }
    t->draft = NULL;
    return INSET_OK;
}
