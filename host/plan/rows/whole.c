/* whole.c: attention of whole sequences, which some devices compute faster than row by row, with
 * other bits. So the choice may depend on nothing but the trace: not on what is shared, nor on who
 * needs which row, nor on chunks. A sequence is taken whole behind an attention where
 *
 *     it is long enough for that to pay, and the device takes such an attention; no other sequence
 *     of the trace begins with its first token, nothing changed its first position before this
 *     attention, and nothing is set from or in another invoke by its invoke's values: then every
 *     row of it has a context that no other sequence can have; the pattern was not set.
 *
 * Whoever then needs some of its rows gets all of them made (live.c). Where the device is to be
 * fast above all, it is enough that no other long sequence has any of its rows in this plan.
 *
 * A sequence's rows behind one attention are those behind the next, until something is set: they
 * are noted where the walk passes. */
#include "plan/rows/rows.h"

#include <stdlib.h>
#include <string.h>

enum { SHORTEST = 256 }; /* positions from which it pays */
enum { FROM_NOTHING = -1, FROM_SEVERAL = -2 };

/* ---- what the trace says ------------------------------------------------ */

static int32_t joined(int32_t a, int32_t b)
{
    return a == FROM_NOTHING || a == b ? b : b == FROM_NOTHING ? a : FROM_SEVERAL;
}

/* Values that depend on invoke `from` are put into `invoke_index`: both are entangled. */
static void entangle(planner *p, int32_t invoke_index, int32_t from)
{
    if (from == FROM_NOTHING || from == invoke_index) return;
    p->whole.entangled[invoke_index] = true;
    if (from == FROM_SEVERAL) p->whole.all_entangled = true;
    else p->whole.entangled[from] = true;
}

/* Which invokes set values in each other: from[storage] is the invoke that its numbers come
 * from. */
static inset_status find_entangled(planner *p)
{
    const trace *t = p->trace;
    int32_t *from = arena_new(&p->scratch, t->n_storages * sizeof *from);
    p->whole.entangled = arena_new(&p->scratch, t->n_invokes * sizeof *p->whole.entangled);
    if (!from || !p->whole.entangled) return INSET_NO_MEMORY;
    for (size_t i = 0; i < t->n_storages; i++)
        from[i] = t->storages[i].kind == STORAGE_VALUE ? t->storages[i].invoke : FROM_NOTHING;
    for (size_t i = 0; i < t->n_records; i++) {
        const trace_record *r = &t->records[i];
        const int32_t target = r->target->storage;
        int32_t source = FROM_NOTHING;
        for (int32_t k = 0; k < record_reads(r); k++)
            if (record_view(r, k)) source = joined(source, from[record_view(r, k)->storage]);
        if (t->storages[target].kind == STORAGE_VALUE)
            entangle(p, t->storages[target].invoke, source);
        from[target] = joined(from[target], source);
    }
    for (size_t i = 0; i < t->n_invokes; i++)
        for (size_t k = 0; k < t->invokes[i].n_rebindings; k++)
            entangle(p, (int32_t)i, from[t->invokes[i].rebindings[k].view->storage]);
    return INSET_OK;
}

static int compare_tokens(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

inset_status whole_begin(planner *p)
{
    const trace *t = p->trace;
    whole_sequences *w = &p->whole;
    int32_t longest = 0;
    size_t n = 0;
    for (size_t i = 0; i < t->n_invokes; i++) {
        n += (size_t)t->invokes[i].n_sequences;
        if (t->invokes[i].tokens && t->invokes[i].longest > longest)
            longest = t->invokes[i].longest;
    }
    if (!p->options.traits.takes_attention || p->trace->model_type == INSET_F32
        || longest < SHORTEST)
        return INSET_OK;
    w->first_sequence = arena_new(&p->scratch, t->n_invokes * sizeof *w->first_sequence);
    w->first_tokens = arena_new(&p->scratch, n * sizeof *w->first_tokens);
    w->last = arena_new(&p->scratch, n * sizeof *w->last);
    if (!w->first_sequence || !w->first_tokens || !w->last) return INSET_NO_MEMORY;
    for (size_t i = 0; i < t->n_invokes; i++) {
        const invoke *v = &t->invokes[i];
        int64_t at = 0;
        w->first_sequence[i] = w->n_sequences;
        for (int32_t s = 0; s < v->n_sequences; at += v->lengths[s++]) {
            w->last[w->n_sequences] = -1;
            w->first_tokens[w->n_sequences++] = v->tokens ? v->tokens[at] : -1;
        }
    }
    qsort(w->first_tokens, n, sizeof *w->first_tokens, compare_tokens);
    return find_entangled(p);
}

static bool is_only_first(const planner *p, int64_t token)
{
    const int64_t *list = p->whole.first_tokens;
    size_t low = 0, high = (size_t)p->whole.n_sequences, n = high;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (list[middle] < token) low = middle + 1;
        else high = middle;
    }
    return low < n && list[low] == token && (low + 1 == n || list[low + 1] != token);
}

/* ---- what the walk passes ----------------------------------------------- */

static bool can_be_whole(
    const planner *p, int32_t invoke_index, int64_t first_token, const map *rows)
{
    const bool fast = p->options.traits.fast;
    const strand *first = &p->strands[rows->at[0].strand];
    for (int32_t i = 0; i < rows->n; i++) {
        const strand *s = &p->strands[rows->at[i].strand];
        if (s->kind == STRAND_MIX || s->pass != first->pass) return false;
    }
    if (fast) return true;
    if (p->whole.all_entangled || p->whole.entangled[invoke_index]
        || !is_only_first(p, first_token))
        return false;
    return first->kind == STRAND_EMBED && first->start == 0 && rows->at[0].first == 0
           && p->words[first->first_word].token == first_token;
}

inset_status whole_note(
    planner *p, const invoke *v, int32_t invoke_index, int32_t value, const map *const *rows)
{
    whole_sequences *w = &p->whole;
    int64_t at = 0;
    if (!w->first_sequence || !v->tokens) return INSET_OK;
    for (int32_t s = 0; s < v->n_sequences; at += v->lengths[s++]) {
        if (v->lengths[s] < SHORTEST) continue;
        const map *shown = can_be_whole(p, invoke_index, v->tokens[at], rows[s]) ? rows[s] : NULL;
        const int32_t sequence = w->first_sequence[invoke_index] + s, before = w->last[sequence];
        if (before >= 0 && w->at[before].rows == shown) continue;
        if (!array_extend(p->context, &w->at, &w->capacity, w->n + 1, sizeof *w->at))
            return INSET_NO_MEMORY;
        w->last[sequence] = (int32_t)w->n;
        w->at[w->n++] = (whole){shown, sequence, value, before};
    }
    return INSET_OK;
}

static const whole_answer *find_answer(const planner *p, const whole_attention_args *shape)
{
    const whole_sequences *w = &p->whole;
    for (size_t i = 0; i < w->n_answers; i++)
        if (!memcmp(&w->answers[i].shape, shape, sizeof *shape)) return &w->answers[i];
    return NULL;
}

/* Asks the device about every length in every attention. */
static inset_status ask_device(planner *p)
{
    whole_sequences *w = &p->whole;
    int32_t asked = 0;
    for (size_t i = 0; i < w->n; i++) {
        if (!w->at[i].rows || w->at[i].rows->rows == asked) continue;
        asked = w->at[i].rows->rows;
        for (const step *s = p->program->steps; s < p->program->steps + p->program->n_steps; s++) {
            whole_attention_args shape;
            if (s->kind != STEP_ATTENTION || !whole_shape(p, s, asked, &shape)
                || find_answer(p, &shape))
                continue;
            if (!array_extend(p->context, &w->answers, &w->answers_capacity, w->n_answers + 1,
                    sizeof *w->answers))
                return INSET_NO_MEMORY;
            const bool taken = p->options.traits.takes_attention(
                p->options.traits.device, p->trace->model_type, &shape);
            w->answers[w->n_answers++] = (whole_answer){shape, taken};
        }
    }
    return INSET_OK;
}

/* Which sequence each strand belongs to. A strand of two sequences is of none, and so are both:
 * only where fast, see above. */
inset_status whole_settle(planner *p)
{
    enum { NONE = -1, DROPPED = -2 };
    whole_sequences *w = &p->whole;
    bool again = w->n > 0;
    if (!again) return INSET_OK;
    w->of_strand = arena_new(&p->scratch, p->n_strands * sizeof *w->of_strand);
    if (!w->of_strand) return INSET_NO_MEMORY;
    while (again) {
        again = false;
        for (size_t i = 0; i < p->n_strands; i++) w->of_strand[i] = NONE;
        for (size_t i = 0; i < w->n; i++) {
            const int32_t sequence = w->at[i].sequence;
            for (int32_t k = 0;
                 w->at[i].rows && w->last[sequence] != DROPPED && k < w->at[i].rows->n; k++) {
                int32_t *owner = &w->of_strand[w->at[i].rows->at[k].strand];
                if (*owner != NONE && *owner != sequence) {
                    w->last[*owner] = w->last[sequence] = DROPPED;
                    again = true;
                }
                *owner = sequence;
            }
        }
    }
    return ask_device(p);
}

/* ---- what live.c, pack.c and emit ask ----------------------------------- */

bool whole_shape(const planner *p, const step *attention, int64_t length, whole_attention_args *out)
{
    const program *g = p->program;
    const step *pair = pair_step(p, attention);
    const slot *q = &g->slots[attention->operands[0]], *k = &g->slots[pair->operands[0]],
               *v = &g->slots[pair->operands[1]];
    *out = (whole_attention_args){.n_sequences = 1,
        .length = length,
        .q_stride = g->values[q->value].width,
        .k_stride = g->values[k->value].width,
        .v_stride = g->values[v->value].width,
        .out_stride = g->values[attention->value].width,
        .n_heads = attention->n_heads,
        .n_kv_heads = attention->n_kv_heads,
        .head_dim = attention->head_dim,
        .scale = attention->scale};
    const int64_t all = q->shape.column | k->shape.column | v->shape.column | out->q_stride
                        | out->k_stride | out->v_stride | out->out_stride;
    return !attention->both_ways && attention->softcap == 0 && !attention->slopes
           && attention->weight < 0 && (attention->window == 0 || attention->window >= length)
           && (all | attention->head_dim) % 8 == 0;
}

const whole *whole_of(const planner *p, const step *attention, int32_t strand_index)
{
    const whole_sequences *w = &p->whole;
    whole_attention_args shape;
    if (!w->of_strand || w->of_strand[strand_index] < 0) return NULL;
    int32_t at = w->last[w->of_strand[strand_index]];
    while (at >= 0 && w->at[at].value > attention->value) at = w->at[at].before;
    if (at < 0 || !w->at[at].rows || !whole_shape(p, attention, w->at[at].rows->rows, &shape))
        return NULL;
    const whole_answer *answer = find_answer(p, &shape);
    return answer && answer->taken ? &w->at[at] : NULL;
}

int64_t whole_place(const whole *w, int32_t strand_index, int32_t row)
{
    int64_t before = 0;
    for (int32_t i = 0; i < w->rows->n; before += w->rows->at[i++].count) {
        const segment *s = &w->rows->at[i];
        if (s->strand == strand_index && row >= s->first && row < s->first + s->count)
            return before + row - s->first;
    }
    return before;
}
