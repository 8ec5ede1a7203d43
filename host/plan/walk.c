/* walk.c: goes through the invokes one after the other, from event to event, and gives every value its rows. Steps make new identities or
 * none; records change tensors at their event. The order here is the order of a user's lines, which is what makes versions right. */
#include "plan/planner.h"

#include <string.h>

const step *pair_step(const planner *p, const step *attention)
{
    for (const step *before = attention - 1; before >= p->program->steps; before--)
        if (before->kind == STEP_PAIR) return before;
    return NULL;
}

static tensor *value_tensor(planner *p, const invoke *v, int32_t value_index)
{
    const value *made = &p->program->values[value_index];
    tensor *t = arena_new(&p->scratch, sizeof *t);
    if (!t) return NULL;
    *t = (tensor){.domain = value_index, .type = strand_type(p, value_index, -1), .width = made->width,
                  .n_sequences = made->per_position ? 1 : v->n_sequences, .lengths = made->per_position ? &v->longest : v->lengths};
    t->rows = arena_new(&p->scratch, (size_t)t->n_sequences * sizeof *t->rows);
    if (!t->rows) return NULL;
    p->values[value_index] = t;
    if (p->value_storage[value_index] >= 0) p->tensors[p->value_storage[value_index]] = t;
    return t;
}

/* The maps that a slot shows a step: [n_sequences]. */
static inset_status operand_maps(planner *p, const invoke *v, int32_t invoke_index, int32_t slot_index, const map ***out)
{
    if (slot_is_plain(p->trace, v, slot_index)) {
        *out = p->values[p->program->slots[slot_index].value]->rows;
        return INSET_OK;
    }
    view shown;
    inset_status status = view_of_slot((trace *)(uintptr_t)p->trace, invoke_index, slot_index, &shown);
    if (status) return status;
    const map **maps = arena_new(&p->scratch, (size_t)v->n_sequences * sizeof *maps);
    if (!maps) return INSET_NO_MEMORY;
    *out = maps;
    return view_as_value(p, &shown, v, slot_index, maps);
}

/* The first `rows` rows of a map that is at least that long. */
static const map *map_head(planner *p, const map *m, int32_t rows)
{
    if (m->rows == rows) return m;
    segments_clear(&p->segments);
    return segments_add_cut(p, &p->segments, m, 0, rows) ? segments_finish(p, &p->segments) : NULL;
}

/* Rows of one sequence after a step, from its operands' rows. */
static const map *step_rows(planner *p, const step *s, const map *const *in, int32_t rows)
{
    switch (s->kind) {
    case STEP_ADD:
    case STEP_GATE: return identity_combine(p, s, s->n_operands, in, rows);
    case STEP_ROPE: {
        const map *with_position[2] = {in[0], in[1]};
        return identity_combine(p, s, 2, with_position, rows);
    }
    case STEP_PAIR: return in[0];            /* made where attention asks for it */
    case STEP_ATTENTION: return identity_attention(p, s, pair_step(p, s), in[0], in[1], in[2]);
    default: return in[0];
    }
}

/* Every sequence's rows of an operand, as the slot shows them. */
static inset_status slot_maps(planner *p, const invoke *v, int32_t invoke_index, int32_t slot_index, const map ***out)
{
    inset_status status = operand_maps(p, v, invoke_index, slot_index, out);
    if (status) return status;
    const map **shown = arena_copy(&p->scratch, *out, (size_t)v->n_sequences * sizeof **out);
    if (!shown) return INSET_NO_MEMORY;
    for (int32_t i = 0; i < v->n_sequences; i++)
        if (!(shown[i] = identity_slot(p, &p->program->slots[slot_index], shown[i]))) return INSET_NO_MEMORY;
    *out = shown;
    return INSET_OK;
}

/* Scores and pattern are made only for invokes that touch them, as free tensors: a row a query, its columns (head, key). */
static inset_status run_open_step(planner *p, const invoke *v, int32_t invoke_index, const step *s)
{
    bool scores = s->kind == STEP_SCORES;
    const map ***before = scores ? &p->open_scores : &p->open_pattern;
    *before = NULL;
    p->values[s->value] = NULL;
    if (scores ? !open_touched(p, v, s) : !p->open_scores) return INSET_OK;
    tensor *t = value_tensor(p, v, s->value);
    if (!t) return INSET_NO_MEMORY;
    t->domain = DOMAIN_FREE;
    t->width = (int64_t)s->n_heads * v->longest;
    inset_status status;
    if (scores) {
        const map **q, **k;
        if ((status = slot_maps(p, v, invoke_index, s->operands[0], &q)) || (status = slot_maps(p, v, invoke_index, s->operands[1], &k))) return status;
        status = open_scores(p, v, s, q, k, t);
    } else status = open_pattern(p, v, invoke_index, s, t);
    if (status) return status;
    *before = arena_copy(&p->scratch, t->rows, (size_t)t->n_sequences * sizeof *t->rows);
    return *before ? INSET_OK : INSET_NO_MEMORY;
}

static inset_status run_step(planner *p, const invoke *v, int32_t invoke_index, const step *s)
{
    if (s->kind == STEP_SCORES || s->kind == STEP_PATTERN) return run_open_step(p, v, invoke_index, s);
    tensor *t = value_tensor(p, v, s->value);
    if (!t) return INSET_NO_MEMORY;
    if (s->kind == STEP_ATTENTION && open_changed(p, v, s)) {
        const map **values;
        inset_status status = slot_maps(p, v, invoke_index, s->operands[2], &values);
        return status ? status : open_mix(p, v, invoke_index, s, values, t);
    }
    if (s->kind == STEP_TOKENS || s->kind == STEP_INPUT) {
        int64_t first = v->first_token;
        for (int32_t i = 0; i < v->n_sequences; first += v->lengths[i++])
            if (!(t->rows[i] = identity_embed(p, v, i, first))) return INSET_NO_MEMORY;
        return INSET_OK;
    }
    if (s->kind == STEP_POSITIONS) return (t->rows[0] = identity_positions(p, v->longest)) ? INSET_OK : INSET_NO_MEMORY;
    const map **in[3] = {NULL, NULL, NULL};
    for (int k = 0; k < s->n_operands; k++) {
        inset_status status = operand_maps(p, v, invoke_index, s->operands[k], &in[k]);
        if (status) return status;
    }
    const map *positions = NULL;
    if (s->kind == STEP_ROPE && !(positions = identity_positions(p, v->longest))) return INSET_NO_MEMORY;
    for (int32_t q = 0; q < t->n_sequences; q++) {
        const map *one[3];
        int n = s->n_operands;
        int32_t rows = t->lengths[q];
        for (int k = 0; k < n; k++) {
            const slot *o = &p->program->slots[s->operands[k]];
            bool shared = p->program->values[o->value].per_position;
            one[k] = in[k][shared ? 0 : q];
            if (shared && !(one[k] = map_head(p, one[k], rows))) return INSET_NO_MEMORY;
            if (!(one[k] = identity_slot(p, o, one[k]))) return INSET_NO_MEMORY;
        }
        if (s->kind == STEP_ROPE && !(one[1] = map_head(p, positions, rows))) return INSET_NO_MEMORY;
        if (!(t->rows[q] = step_rows(p, s, one, rows))) return INSET_NO_MEMORY;
    }
    return INSET_OK;
}

static bool is_skipped(const invoke *v, int32_t event)
{
    for (size_t i = 0; i < v->n_skips; i++)
        if (event > v->skips[i].enter && event < v->skips[i].leave) return true;
    return false;
}

static inset_status walk_invoke(planner *p, int32_t index)
{
    const invoke *v = &p->trace->invokes[index];
    const program *g = p->program;
    const trace_record *record = p->trace->records + v->first_record, *end = record + v->n_records;
    for (size_t i = 0; i < v->n_values; i++) p->value_storage[v->values[i].value] = v->values[i].storage;
    inset_status status = INSET_OK;
    for (size_t i = 0; i < g->n_steps && !status; i++) {
        const step *s = &g->steps[i];
        for (; record < end && record->event < s->event && !status; record++) status = record_apply(p, record);
        if (status || (s->event > v->current_event)) break;      /* nothing later was asked for */
        if (!is_skipped(v, s->event)) status = run_step(p, v, index, s);
        else if (s->kind == STEP_SCORES) p->open_scores = NULL;
    }
    for (; record < end && !status; record++) status = record_apply(p, record);
    for (size_t i = 0; i < v->n_values; i++) p->value_storage[v->values[i].value] = -1;
    return status;
}

inset_status plan_walk(planner *p)
{
    const program *g = p->program;
    p->values = arena_new(&p->scratch, g->n_values * sizeof *p->values);
    p->value_storage = arena_new(&p->scratch, g->n_values * sizeof *p->value_storage);
    p->tensors = arena_new(&p->scratch, p->trace->storages_capacity * sizeof *p->tensors);
    p->embed_row = arena_new(&p->memory, (size_t)p->trace->n_tokens * sizeof *p->embed_row);
    if (!p->values || !p->value_storage || !p->tensors || !p->embed_row) return INSET_NO_MEMORY;
    for (size_t i = 0; i < g->n_values; i++) p->value_storage[i] = -1;
    for (int64_t i = 0; i < p->trace->n_tokens; i++) p->embed_row[i] = -1;       /* an invoke that nobody looks into embeds nothing */
    p->position_strand = -1;
    for (size_t i = 0; i < p->trace->n_invokes; i++) {
        p->invoke++;
        inset_status status = walk_invoke(p, (int32_t)i);
        if (status) return status;
    }
    return INSET_OK;
}
