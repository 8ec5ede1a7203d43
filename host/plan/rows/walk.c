/* walk.c: goes through the invokes one after the other, from event to event, and gives every value
 * its rows. Steps make new identities or none; records change tensors at their event. The order
 * here is the order of a user's lines, which is what makes versions right. */
#include "plan/rows/rows.h"

#include <string.h>

const step *pair_step(const planner *p, const step *attention)
{
    for (const step *before = attention - 1; before >= p->program->steps; before--)
        if (before->kind == STEP_PAIR) return before;
    return NULL;
}

/* An invoke's tensor of a value, with these maps; NULL: with room for them. It goes with the
 * invoke, unless something refers to it. */
static tensor *value_tensor(planner *p, const invoke *v, int32_t value_index, const map **rows)
{
    const value *made = &p->program->values[value_index];
    bool stays = p->value_storage[value_index] >= 0;
    arena *a = stays ? &p->scratch : &p->passing;
    tensor *t = arena_new(a, sizeof *t);
    if (!t) return NULL;
    *t = (tensor){.domain = value_index,
        .type = strand_type(p, value_index, -1),
        .width = made->width,
        .rows = rows,
        .n_sequences = made->per_position ? 1 : v->n_sequences,
        .lengths = made->per_position ? &v->longest : v->lengths};
    size_t bytes = (size_t)t->n_sequences * sizeof *t->rows;
    if ((!rows || stays) && !(t->rows = rows ? arena_copy(a, rows, bytes) : arena_new(a, bytes)))
        return NULL;
    if (!p->values[value_index]) p->made[p->n_made++] = value_index;
    p->values[value_index] = t;
    if (stays) p->tensors[p->value_storage[value_index]] = t;
    return t;
}

/* The maps that a slot shows a step: [n_sequences]. */
static inset_status operand_maps(
    planner *p, const invoke *v, int32_t invoke_index, int32_t slot_index, const map ***out)
{
    if (slot_is_plain(p->trace, v, slot_index)) {
        *out = p->values[p->program->slots[slot_index].value]->rows;
        return INSET_OK;
    }
    view shown;
    inset_status status = view_of_slot(
        (trace *)(uintptr_t)p->trace, invoke_index, slot_index, &shown);
    if (status) return status;
    const map **maps = arena_new(&p->passing, (size_t)v->n_sequences * sizeof *maps);
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

const map *step_rows(planner *p, const step *s, const map *const *in, int32_t rows)
{
    switch (s->kind) {
    case STEP_ADD:
    case STEP_EXPERTS:
    case STEP_EXPERTS_JOINED:
    case STEP_GATE: return identity_combine(p, s, s->n_operands, in, rows);
    case STEP_LAYERNORM:
    case STEP_RMSNORM: return in[1] ? identity_combine(p, s, 2, in, rows) : in[0];
    case STEP_ROPE: {
        const map *with_position[2] = {in[0], in[1]};
        return identity_combine(p, s, 2, with_position, rows);
    }
    case STEP_PAIR: return in[0]; /* made where attention asks for it */
    case STEP_ATTENTION: return identity_attention(p, s, pair_step(p, s), in[0], in[1], in[2]);
    default: return in[0];
    }
}

inset_status slot_maps(
    planner *p, const invoke *v, int32_t invoke_index, int32_t slot_index, const map ***out)
{
    inset_status status = operand_maps(p, v, invoke_index, slot_index, out);
    if (status) return status;
    const bool one = p->program->values[p->program->slots[slot_index].value].per_position;
    const int32_t n = one ? 1 : v->n_sequences;
    const map **shown = arena_copy(&p->passing, *out, (size_t)n * sizeof **out);
    if (!shown) return INSET_NO_MEMORY;
    for (int32_t i = 0; i < n; i++)
        if (!(shown[i] = identity_slot(p, &p->program->slots[slot_index], shown[i])))
            return INSET_NO_MEMORY;
    *out = shown;
    return INSET_OK;
}

/* A free tensor of an invoke: a row a query, its columns (head, key). */
static tensor *open_tensor(planner *p, const invoke *v, int32_t value_index)
{
    tensor *t = value_tensor(p, v, value_index, NULL);
    if (!t) return NULL;
    t->domain = DOMAIN_FREE;
    t->width = (int64_t)p->program->values[value_index].width * v->longest;
    return t;
}

/* Scores and pattern are made only for invokes that touch them, as free tensors: a row a query, its
 * columns (head, key). */
static inset_status run_open_step(planner *p, const invoke *v, int32_t invoke_index, const step *s)
{
    bool scores = s->kind == STEP_SCORES;
    const map ***before = scores ? &p->open_scores : &p->open_pattern;
    *before = NULL;
    p->values[s->value] = NULL;
    if (scores ? !open_touched(p, v, s) : !p->open_scores) return INSET_OK;
    tensor *t = open_tensor(p, v, s->value);
    if (!t) return INSET_NO_MEMORY;
    inset_status status;
    if (scores) {
        const map **q, **k;
        if ((status = slot_maps(p, v, invoke_index, s->operands[0], &q))
            || (status = slot_maps(p, v, invoke_index, s->operands[1], &k)))
            return status;
        status = open_scores(p, v, s, q, k, t);
        if (v->reversed) {
            p->seen[(s - p->program->steps) * 3] = q;
            p->seen[(s - p->program->steps) * 3 + 1] = k;
        }
    } else status = open_pattern(p, v, invoke_index, s, t);
    if (status) return status;
    *before = arena_copy(&p->passing, t->rows, (size_t)t->n_sequences * sizeof *t->rows);
    if (!*before) return INSET_NO_MEMORY;
    if (v->reversed) open_note_made(p, s, *before);
    return INSET_OK;
}

/* A step of the gradients; in the open only where the forward was. */
static inset_status run_back_step(planner *p, const invoke *v, int32_t invoke_index, const step *s)
{
    const bool free = p->program->values[s->value].by_keys;
    const bool in_open = free || s->kind == STEP_VALUES_BACK || s->kind == STEP_QUERIES_BACK;
    if (free && !open_was(p, &p->program->steps[s->of])) {
        p->values[s->value] = NULL;
        return INSET_OK;
    }
    tensor *t = free ? open_tensor(p, v, s->value) : value_tensor(p, v, s->value, NULL);
    if (!t) return INSET_NO_MEMORY;
    if (in_open && open_was(p, &p->program->steps[s->of]))
        return open_back_rows(p, v, invoke_index, s, t);
    return reverse_rows(p, v, invoke_index, s, t);
}

/* A step that makes row i of row i of the one value it reads, all of it: the maps are that value's.
 * A set replaces a tensor's maps and leaves the old ones as they are, so two tensors may have
 * them. */
static bool keeps_rows(const planner *p, const step *s)
{
    if (s->kind != STEP_LINEAR && s->kind != STEP_ACTIVATION && s->kind != STEP_SCALE
        && s->kind != STEP_SOFTCAP && s->kind != STEP_SPREAD && s->kind != STEP_FOLD
        && s->kind != STEP_HEADS && s->kind != STEP_ROUTE && s->kind != STEP_EXPERTS_APART
        && (!step_is_norm(s) || scale_operands(p, s) > 1))
        return false;
    const slot *o = &p->program->slots[s->operands[0]];
    const value *read = &p->program->values[o->value];
    return !o->shape.column && !o->shape.stride && slot_column_end(o) == read->width
           && read->per_position == p->program->values[s->value].per_position;
}

static inset_status run_step(planner *p, const invoke *v, int32_t invoke_index, const step *s)
{
    if (s->kind == STEP_SCORES || s->kind == STEP_PATTERN)
        return run_open_step(p, v, invoke_index, s);
    if (s->kind == STEP_NORM_SCALE && !scale_touched(p, v, s)) {
        p->values[s->value] = NULL;
        return INSET_OK;
    }
    if (s->aside && s->of < 0 && !p->runs_aside) {
        p->values[s->value] = NULL;
        return INSET_OK;
    }
    if (s->of >= 0 || s->kind == STEP_ZERO) return run_back_step(p, v, invoke_index, s);
    if (!v->reversed && keeps_rows(p, s) && slot_is_plain(p->trace, v, s->operands[0]))
        return value_tensor(
                   p, v, s->value, p->values[p->program->slots[s->operands[0]].value]->rows)
                   ? INSET_OK
                   : INSET_NO_MEMORY;
    tensor *t = value_tensor(p, v, s->value, NULL);
    if (!t) return INSET_NO_MEMORY;
    if (s->kind == STEP_ATTENTION && open_changed(p, v, s)) {
        const map **in[3];
        for (int k = 0; k < 3; k++) {
            inset_status status = slot_maps(p, v, invoke_index, s->operands[k], &in[k]);
            if (status) return status;
        }
        inset_status status = open_mix(p, v, invoke_index, s, (const map *const *const *)in, t);
        for (int k = 0; k < 3 && v->reversed; k++) p->seen[(s - p->program->steps) * 3 + k] = in[k];
        if (!status && v->reversed) status = open_note_mixed(p, v, invoke_index, s);
        return status ? status : whole_note(p, v, invoke_index, s->value, t->rows);
    }
    if (s->kind == STEP_TOKENS || s->kind == STEP_INPUT) {
        int64_t first = v->first_token;
        for (int32_t i = 0; i < v->n_sequences; first += v->lengths[i++])
            if (!(t->rows[i] = identity_embed(p, v, i, first))) return INSET_NO_MEMORY;
        return INSET_OK;
    }
    if (s->kind == STEP_POSITIONS)
        return (t->rows[0] = identity_positions(p, v->longest)) ? INSET_OK : INSET_NO_MEMORY;
    const map **in[3] = {NULL, NULL, NULL};
    int n = scale_operands(p, s);
    for (int k = 0; k < n; k++) {
        inset_status status = operand_maps(p, v, invoke_index, s->operands[k], &in[k]);
        if (status) return status;
    }
    const map **saw[3] = {NULL, NULL, NULL};
    for (int k = 0; v->reversed && k < n; k++) {
        saw[k] = arena_new(&p->passing, (size_t)t->n_sequences * sizeof **saw);
        if (!(p->seen[(s - p->program->steps) * 3 + k] = saw[k])) return INSET_NO_MEMORY;
    }
    const map *positions = NULL;
    if (s->kind == STEP_ROPE && !(positions = identity_positions(p, v->longest)))
        return INSET_NO_MEMORY;
    for (int32_t q = 0; q < t->n_sequences; q++) {
        const map *one[3] = {NULL, NULL, NULL};
        int32_t rows = t->lengths[q];
        for (int k = 0; k < n; k++) {
            const slot *o = &p->program->slots[s->operands[k]];
            bool shared = p->program->values[o->value].per_position;
            one[k] = in[k][shared ? 0 : q];
            if (shared && !(one[k] = map_head(p, one[k], rows))) return INSET_NO_MEMORY;
            if (!(one[k] = identity_slot(p, o, one[k]))) return INSET_NO_MEMORY;
            if (saw[k]) saw[k][q] = one[k];
        }
        if (s->kind == STEP_ROPE && !(one[1] = map_head(p, positions, rows)))
            return INSET_NO_MEMORY;
        if (!(t->rows[q] = step_rows(p, s, one, rows))) return INSET_NO_MEMORY;
    }
    if (s->kind != STEP_ATTENTION) return INSET_OK;
    inset_status status = v->reversed && open_was(p, s) ? open_note_mixed(p, v, invoke_index, s)
                                                        : INSET_OK;
    return status ? status : whole_note(p, v, invoke_index, s->value, t->rows);
}

static bool is_skipped(const invoke *v, int32_t event)
{
    for (size_t i = 0; i < v->n_skips; i++)
        if (event > v->skips[i].enter && event < v->skips[i].leave) return true;
    return false;
}

/* ---- from boundary to boundary ------------------------------------------- */

/* Between two blocks one
 * value is live, the residual stream. Where its maps are settled and nothing is due, the blocks on
 * the way would leave the maps as they are: the walk jumps to the last boundary before the next
 * thing an invoke asks for, so that a patch costs work where it patches and not per layer. And what
 * a prompt's maps are behind block 0, where contexts were made, is remembered. */

/* The slot of the residual stream behind the last block; -1 when the program has none. */
static int32_t last_boundary(const program *g)
{
    int32_t begin = g->blocks[g->n_blocks - 1];
    for (size_t i = 0; i < g->n_sites; i++) {
        const site *in = &g->sites[i];
        if (strcmp(in->name, "input") || g->slots[in->slot].source != begin) continue;
        int32_t out = program_site(g, in->module, "output", 6);
        if (out >= 0) return g->sites[out].slot;
    }
    return -1;
}

static inset_status find_boundaries(planner *p)
{
    const program *g = p->program;
    p->boundaries = arena_new(&p->scratch, (g->n_blocks + 1) * sizeof *p->boundaries);
    p->value_event = arena_new(&p->scratch, g->n_values * sizeof *p->value_event);
    if (!p->boundaries || !p->value_event) return INSET_NO_MEMORY;
    for (size_t i = 0; i < g->n_values; i++) p->value_event[i] = g->steps[g->values[i].step].event;
    for (size_t i = 0, k = 0; g->n_blocks && k <= g->n_blocks; k++) {
        int32_t slot_index = k < g->n_blocks ? g->blocks[k] : last_boundary(g);
        if (slot_index < 0) break;
        /* the step that binds it, where no module does, is behind */
        while (i < g->n_steps && g->steps[i].event <= g->slots[slot_index].event) i++;
        p->value_event[g->slots[slot_index].value] = g->slots[slot_index].event;
        p->boundaries[p->n_boundaries++] = (boundary){
            slot_index, g->slots[slot_index].value, g->slots[slot_index].event, (int32_t)i};
    }
    return INSET_OK;
}

/* The next event that an invoke asks for at or after `event`: a record, a value that something
 * refers to, a replacement, a skip. */
static int32_t next_due(const planner *p, const invoke *v, const trace_record *record,
    const trace_record *end, int32_t event)
{
    int32_t due = record < end ? record->event : INT32_MAX;
    for (size_t i = 0; i < v->n_values; i++) {
        int32_t at = p->value_event[v->values[i].value];
        if (at >= event && at < due) due = at;
    }
    for (size_t i = 0; i < v->n_rebindings; i++) {
        int32_t at = p->program->slots[v->rebindings[i].slot].event;
        if (at >= event && at < due) due = at;
    }
    for (size_t i = 0; i < v->n_skips; i++)
        if (v->skips[i].enter >= event && v->skips[i].enter < due) due = v->skips[i].enter;
    return due;
}

static bool all_settled(const planner *p, const tensor *t)
{
    for (int32_t s = 0; s < t->n_sequences; s++)
        if (!map_is_settled(p, t->rows[s])) return false;
    return true;
}

/* The last boundary at or before an event. */
static int32_t boundary_before(const planner *p, int32_t event)
{
    int32_t low = 0, high = p->n_boundaries - 1;
    while (low < high) {
        int32_t middle = low + (high - low + 1) / 2;
        if (p->boundaries[middle].event <= event) low = middle;
        else high = middle - 1;
    }
    return low;
}

/* Gives the residual stream at a boundary these rows, as if the steps up to it had run. */
static inset_status arrive(planner *p, const invoke *v, int32_t k, const map **rows)
{
    return value_tensor(p, v, p->boundaries[k].value, rows) ? INSET_OK : INSET_NO_MEMORY;
}

/* ---- prompts ------------------------------------------------------------ */

static bool is_prompt(const prompt *known, const int64_t *tokens, int32_t n)
{
    return known->n == n && !memcmp(known->tokens, tokens, (size_t)n * sizeof *tokens);
}

static uint64_t prompt_hash(const int64_t *tokens, int32_t n)
{
    return hash_bytes(5, tokens, (size_t)n * sizeof *tokens);
}

/* A prompt that is remembered; mostly the one that was asked for before. */
static const prompt *find_prompt(planner *p, const int64_t *tokens, int32_t n)
{
    size_t cursor = 0;
    if (p->n_prompts && is_prompt(&p->prompts[p->last_prompt], tokens, n))
        return &p->prompts[p->last_prompt];
    const uint64_t hash = prompt_hash(tokens, n);
    for (int32_t at; (at = table_next(&p->prompt_table, hash, &cursor)) >= 0;) {
        if (!is_prompt(&p->prompts[at], tokens, n)) continue;
        p->last_prompt = (size_t)at;
        return &p->prompts[at];
    }
    return NULL;
}

/* Remembers what an invoke's prompts are at boundary 1, when nothing was done to them on the way:
 * what they are at boundary k, which is 1 or one that the walk jumps on from, over all that changes
 * nothing. */
static inset_status remember_prompts(planner *p, const invoke *v, int32_t k)
{
    const tensor *t = p->values[p->boundaries[k].value];
    int64_t first = 0;
    for (int32_t s = 0; s < v->n_sequences; first += v->lengths[s++]) {
        const int64_t *tokens = v->tokens + first;
        if (find_prompt(p, tokens, v->lengths[s])) continue;
        if (!array_extend(p->context, &p->prompts, &p->prompts_capacity, p->n_prompts + 1,
                sizeof *p->prompts))
            return INSET_NO_MEMORY;
        p->prompts[p->n_prompts] = (prompt){tokens, v->lengths[s], v->first_token + first,
            t->rows[s], (int32_t)(v - p->trace->invokes), v->n_sequences == 1};
        if (!table_add(p->context, &p->prompt_table, prompt_hash(tokens, v->lengths[s]),
                (int32_t)p->n_prompts++))
            return INSET_NO_MEMORY;
    }
    return INSET_OK;
}

/* Starts an invoke at boundary 1 when all its prompts are known there and it asks for nothing
 * before; *started says so. */
static inset_status start_late(planner *p, const invoke *v, int32_t due, bool *started)
{
    *started = false;
    if (!p->n_prompts || !v->tokens || due < p->boundaries[1].event) return INSET_OK;
    const map **rows = arena_new(&p->passing, (size_t)v->n_sequences * sizeof *rows);
    if (!rows) return INSET_NO_MEMORY;
    int64_t first = 0;
    for (int32_t s = 0; s < v->n_sequences; first += v->lengths[s++]) {
        const int64_t *tokens = v->tokens + first;
        const prompt *known = find_prompt(p, tokens, v->lengths[s]);
        if (!known) return INSET_OK;
        rows[s] = known->rows;
        if (v->n_sequences == 1 && known->alone) p->input_of[v - p->trace->invokes] = known->invoke;
        else
            memcpy(p->embed_row + v->first_token + first, p->embed_row + known->first_token,
                (size_t)v->lengths[s] * sizeof *p->embed_row);
    }
    *started = true;
    return arrive(p, v, 1, rows);
}

/* ---- one invoke --------------------------------------------------------- */

typedef struct journey {
    const invoke *v;
    int32_t invoke_index;
    const trace_record *record, *end;
    bool untouched; /* no record so far */
    bool known;     /* its prompts are remembered */
} journey;

static inset_status apply_until(planner *p, journey *j, int32_t event)
{
    for (; j->record < j->end && j->record->event < event; j->record++) {
        j->untouched = false;
        inset_status status = record_apply(p, j->record);
        if (status) return status;
    }
    return INSET_OK;
}

/* Boundary k is inside a module that the invoke skips. */
static bool is_inside_skip(const planner *p, const invoke *v, int32_t k)
{
    for (size_t i = 0; i < v->n_skips; i++)
        if (p->boundaries[k].event > v->skips[i].enter
            && p->boundaries[k].event < v->skips[i].leave)
            return true;
    return false;
}

/* At boundary k: moves on to a later one if nothing is due on the way; *k becomes n_boundaries when
 * nothing is due at all. */
static inset_status jump(planner *p, journey *j, int32_t *k)
{
    const boundary *here = &p->boundaries[*k];
    const invoke *v = j->v;
    int32_t due = next_due(p, v, j->record, j->end, here->event + 1);
    if (due == INT32_MAX) return *k = p->n_boundaries, INSET_OK;
    int32_t target = boundary_before(p, due);
    bool plain = slot_is_plain(p->trace, v, here->slot);
    bool jumps = target > *k && plain && all_settled(p, p->values[here->value])
                 && !is_inside_skip(p, v, *k);
    if ((*k == 1 || (*k == 0 && jumps)) && j->untouched && !j->known && plain && !v->n_skips
        && !v->n_rebindings && v->tokens && !p->options.no_share) {
        inset_status status = remember_prompts(p, v, *k);
        if (status) return status;
    }
    if (!jumps) return INSET_OK;
    const map **rows = p->values[here->value]->rows;
    *k = target;
    inset_status status = whole_note(p, v, j->invoke_index, here->value, rows);
    return status ? status : arrive(p, v, target, rows);
}

/* A step of gradients that are another invoke's. */
static bool is_of_another(const planner *p, const invoke *v, int32_t i)
{
    return v->reversed && i >= p->trace->reversal->n_steps
           && (i < v->first_step || i >= v->end_step);
}

static inset_status travel(planner *p, journey *j)
{
    const program *g = p->program;
    int32_t k = 0; /* the next boundary */
    size_t i = 0;
    bool late = false;
    inset_status status = INSET_OK;
    if (p->n_boundaries > 1 && !p->options.no_share && !j->v->reversed
        && (status = start_late(p, j->v, next_due(p, j->v, j->record, j->end, -1), &late)))
        return status;
    j->known = late;
    if (late) k = 1, i = (size_t)p->boundaries[1].first_step;
    for (; i < g->n_steps; i++) {
        if ((status = apply_until(p, j, g->steps[i].event))) return status;
        while (k < p->n_boundaries && p->boundaries[k].first_step < (int32_t)i) k++;
        if (k < p->n_boundaries && p->boundaries[k].first_step == (int32_t)i && !j->v->reversed) {
            int32_t from = k;
            if ((status = jump(p, j, &k))) return status;
            if (k == p->n_boundaries) break;
            if (k != from) {
                i = (size_t)p->boundaries[k].first_step;
                if (i >= g->n_steps) break;
                if ((status = apply_until(p, j, g->steps[i].event))) return status;
            }
        }
        const step *s = &g->steps[i];
        if (s->event > j->v->current_event) break; /* nothing later was asked for */
        if (is_of_another(p, j->v, (int32_t)i)) continue;
        if (!is_skipped(j->v, s->event)) status = run_step(p, j->v, j->invoke_index, s);
        else if (s->kind == STEP_SCORES) p->open_scores = NULL;
        if (status) return status;
    }
    return apply_until(p, j, INT32_MAX);
}

/* Does an invoke look at, or replace, what steps aside make? */
static bool touches_aside(const planner *p, const invoke *v)
{
    const program *g = p->program;
    for (size_t i = 0; i < v->n_values; i++) {
        const step *made = &g->steps[g->values[v->values[i].value].step];
        if (made->aside && made->of < 0) return true;
    }
    for (size_t i = 0; i < v->n_rebindings; i++)
        if (program_maker(g, v->rebindings[i].slot)->aside) return true;
    return false;
}

static inset_status walk_invoke(planner *p, int32_t index)
{
    const invoke *v = &p->trace->invokes[index];
    journey j = {.v = v,
        .invoke_index = index,
        .record = p->trace->records + v->first_record,
        .untouched = true};
    j.end = j.record + v->n_records;
    for (size_t i = 0; i < v->n_values; i++)
        p->value_storage[v->values[i].value] = v->values[i].storage;
    if (v->reversed
        && (!(p->seen = arena_new(&p->passing, 3 * p->program->n_steps * sizeof *p->seen))
            || !(
                p->open_seen = arena_new(&p->passing, p->program->n_steps * sizeof *p->open_seen))))
        return INSET_NO_MEMORY;
    p->runs_aside = touches_aside(p, v);
    inset_status status = travel(p, &j);
    for (size_t i = 0; i < v->n_values; i++) p->value_storage[v->values[i].value] = -1;
    while (p->n_made) p->values[p->made[--p->n_made]] = NULL;
    p->open_scores = p->open_pattern = NULL;
    arena_free(&p->passing);
    return status;
}

inset_status plan_walk(planner *p)
{
    const program *g = p->program;
    p->values = arena_new(&p->scratch, g->n_values * sizeof *p->values);
    p->made = arena_new(&p->scratch, 2 * g->n_values * sizeof *p->made);
    p->value_storage = arena_new(&p->scratch, g->n_values * sizeof *p->value_storage);
    p->tensors = arena_new(&p->scratch, p->trace->storages_capacity * sizeof *p->tensors);
    p->embed_row = arena_new(&p->memory, (size_t)p->trace->n_tokens * sizeof *p->embed_row);
    p->input_of = arena_new(&p->memory, p->trace->n_invokes * sizeof *p->input_of);
    if (!p->values || !p->value_storage || !p->tensors || !p->embed_row || !p->input_of || !p->made)
        return INSET_NO_MEMORY;
    for (size_t i = 0; i < p->trace->n_invokes; i++) p->input_of[i] = (int32_t)i;
    for (size_t i = 0; i < g->n_values; i++) p->value_storage[i] = -1;
    /* an invoke that nobody looks into embeds nothing */
    for (int64_t i = 0; i < p->trace->n_tokens; i++) p->embed_row[i] = -1;
    p->position_strand = -1;
    inset_status found = find_boundaries(p);
    if (found) return found;
    for (size_t i = 0; i < p->trace->n_invokes; i++) {
        p->invoke++;
        p->first_strand = (int32_t)p->n_strands;
        p->floor = (int32_t)((int64_t)i * p->chunks / (int64_t)p->trace->n_invokes);
        inset_status status = context_watch(
            p->context, "planning", (int64_t)i, (int64_t)p->trace->n_invokes);
        if (!status) status = walk_invoke(p, (int32_t)i);
        if (status) return status;
    }
    return INSET_OK;
}
