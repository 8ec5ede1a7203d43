/* backward.c: gradients in a trace. `with m.backward():` needs the forward once more, from the end
 * to the beginning, so every invoke that the metric depends on gets a second one, its *shadow*,
 * which does the same and goes on into the reversed program. The rows of the two are the same rows,
 * so the shadow's forward costs nothing.
 *
 * What the lines of an invoke did is undone in the shadow, from the last to the first, each at the
 * mark of its event (program/reverse.h):
 *
 *     x[i] = a       g = gradient of x[i];  gradient of x[i] = 0;  gradient of a += g
 *     c = a * b      gradient of a += gradient of c * b;  gradient of b += gradient of c * a
 *     site = a       what the readers of the site send back goes to a
 *
 * These are records like any other. A gradient of a model's value is a value of the reversed
 * program; that of a tensor that lines made is a tensor of zeros to which its readers add. What is
 * sent to another invoke waits until that invoke's shadow begins: shadows run from the last invoke
 * to the first.
 *
 * A user's lines stand between: `x.grad` is the gradient of x as it was when the forward ended, so
 * everything that comes later in the forward is undone first. */
#include "trace/gradient/backward.h"
#include "trace/edit.h"
#include "trace/heads.h"

#include <string.h>

static void find_owners(trace *t)
{
    backward *b = t->backward;
    for (size_t i = 0; i < b->n_storages; i++)
        b->owner[i] = t->storages[i].kind == STORAGE_VALUE ? t->storages[i].invoke : OWNER_NONE;
    for (int32_t i = 0; i < b->n_originals; i++) {
        const invoke *v = &t->invokes[i];
        for (size_t k = 0; k < v->n_records; k++) {
            const trace_record *r = &t->records[v->first_record + k];
            const int32_t to = r->target->storage;
            if (r->kind != TRACE_SET) b->owner[to] = i;
            else if (t->storages[to].kind == STORAGE_FILLED)
                b->owner[to] = b->owner[to] == OWNER_NONE || b->owner[to] == i ? i : OWNER_SEVERAL;
        }
    }
}

static inset_status check_metric(trace *t, const operand *metric)
{
    if (t->backward)
        return error_set(t->context, INSET_SYNTAX_ERROR, "a backward() inside another");
    if (metric->kind != OPERAND_TENSOR)
        return error_set(t->context, INSET_TYPE_ERROR,
            "backward() starts at a number that the run computes, found a number of the script");
    if (!type_is_float(trace_operand_type(t, metric)))
        return error_set(t->context, INSET_TYPE_ERROR, "backward() starts at a float, found %s",
            type_torch_name(trace_operand_type(t, metric)));
    if (view_elements(&metric->view) == 1) return INSET_OK;
    char shape[128];
    trace_shape_text(t, metric, shape, sizeof shape);
    inset_status status = error_set(
        t->context, INSET_SHAPE_ERROR, "backward() starts at one number, found shape %s", shape);
    error_help(t->context, "Take one element, as in output.logits[0, -1].logit_diff(11, 12).");
    return status;
}

/* What the invokes so far touch in the open: scores, patterns, scales of norms. */
static void find_open(const trace *t, const program *forward, bool *open)
{
    for (size_t i = 0; i < t->n_invokes; i++) {
        const invoke *v = &t->invokes[i];
        for (size_t k = 0; k < v->n_values; k++)
            if (v->values[k].value < (int32_t)forward->n_values) open[v->values[k].value] = true;
        for (size_t k = 0; k < v->n_rebindings; k++)
            open[forward->slots[v->rebindings[k].slot].value] = true;
    }
    for (size_t i = 0; i < forward->n_steps; i++) {
        const step *s = &forward->steps[i];
        if (s->kind == STEP_PATTERN) /* both or none: scores are the step before */
            open[s->value] = open[s[-1].value] = open[s->value] || open[s[-1].value];
        else if (s->kind != STEP_SCORES && s->kind != STEP_NORM_SCALE && !s->aside)
            open[s->value] = false;
    }
    /* all of a path, from what it makes back to its site */
    for (size_t i = 0; i < forward->n_head_paths; i++) {
        const head_path *path = &forward->head_paths[i];
        const int32_t begin = forward->slots[forward->sites[path->site].slot].value;
        int32_t at = forward->slots[path->made].value;
        for (bool touched = open[begin] || open[at]; touched && at != begin;) {
            open[at] = open[begin] = true;
            at = forward->slots[forward->steps[forward->values[at].step].operands[0]].value;
        }
    }
}

/* Does a replaced slot get a copy of what it refers to anyway? */
static bool is_copy(const trace *t, const invoke *v, const rebinding *r)
{
    for (size_t i = 0; i < v->n_records; i++) {
        const trace_record *made = &t->records[v->first_record + i];
        if (made->target->storage != r->view->storage) continue;
        return made->kind == TRACE_MAKE && made->op == TRACE_COPY && made->a.view
               && t->storages[made->a.view->storage].kind == STORAGE_VALUE
               && t->storages[made->a.view->storage].value == t->program->slots[r->slot].value;
    }
    return false;
}

/* A block's second run is the model's own: lines that set something within one are not in it. */
static bool runs_plain(const trace *t, const program *forward)
{
    if (!forward->n_blocks) return false;
    const int32_t begin = forward->slots[forward->blocks[0]].event;
    for (size_t i = 0; i < t->n_invokes; i++) {
        const invoke *v = &t->invokes[i];
        if (v->reversed) continue;
        if (v->n_skips) return false;
        for (size_t k = 0; k < v->n_rebindings; k++)
            if (!is_copy(t, v, &v->rebindings[k])) return false;
        for (size_t k = 0; k < v->n_records; k++) {
            const trace_record *r = &t->records[v->first_record + k];
            if (r->kind == TRACE_SET && r->event > begin
                && t->storages[r->target->storage].kind == STORAGE_VALUE)
                return false;
        }
    }
    return true;
}

/* Marks a storage on which the metric depends; true when that is new. */
static bool involve(bool *involved, const view *v)
{
    if (!v || involved[v->storage]) return false;
    return involved[v->storage] = true;
}

/* The storages that the metric, or what the model reads, is made of. */
static void find_involved(const trace *t, const view *metric, bool *involved)
{
    involve(involved, metric);
    for (size_t i = 0; i < t->n_invokes; i++)
        for (size_t k = 0; k < t->invokes[i].n_rebindings; k++)
            involve(involved, t->invokes[i].rebindings[k].view);
    for (bool more = true; more;) {
        more = false;
        for (size_t i = t->n_records; i-- > 0;) {
            const trace_record *r = &t->records[i];
            const bool into_model = r->kind == TRACE_SET
                                    && t->storages[r->target->storage].kind == STORAGE_VALUE;
            if (into_model) more |= involve(involved, r->target);
            if (!involved[r->target->storage]) continue;
            for (int32_t k = 0; k < record_reads(r); k++)
                more |= involve(involved, record_view(r, k));
        }
    }
}

/* Of the forward's values, those that lines of any invoke look at; and those whose gradients what
 * lines did sends something to. */
static inset_status find_touched(
    const trace *t, const program *forward, const view *metric, uint8_t *touched)
{
    bool *involved = memory_new(t->context, (t->n_storages + 1) * sizeof *involved);
    if (!involved) return INSET_NO_MEMORY;
    find_involved(t, metric, involved);
    for (size_t i = 0; i < t->n_invokes; i++) {
        const invoke *v = &t->invokes[i];
        for (size_t k = 0; k < v->n_values; k++)
            if (v->values[k].value < (int32_t)forward->n_values) {
                const uint8_t how = involved[v->values[k].storage] ? TOUCH_SENT : TOUCH_ASKED;
                if (touched[v->values[k].value] < how) touched[v->values[k].value] = how;
            }
        for (size_t k = 0; k < v->n_rebindings; k++)
            touched[forward->slots[v->rebindings[k].slot].value] = TOUCH_SENT;
    }
    memory_free(t->context, involved);
    return INSET_OK;
}

static bool some_skip(const trace *t)
{
    for (size_t i = 0; i < t->n_invokes; i++)
        if (t->invokes[i].n_skips) return true;
    return false;
}

/* Will the reversal that is there do? */
static bool suffices(const reversal *r, const reversal_options *o)
{
    if (!r || (r->n_again && !o->again) || (o->skips && !r->skips)) return false;
    for (int32_t i = 0; i < r->n_values; i++)
        if ((o->open[i] && !r->open[i]) || o->touched[i] > r->touched[i]) return false;
    return true;
}

/* The reversal that all invokes so far can have: the one that is there, or a further one. */
static inset_status reverse_program(trace *t, const view *metric)
{
    const program *forward = t->reversal ? t->reversal->forward : t->program;
    bool *open = memory_new(t->context, forward->n_values * sizeof *open);
    uint8_t *touched = memory_new(t->context, forward->n_values);
    inset_status status = open && touched ? find_touched(t, forward, metric, touched)
                                          : INSET_NO_MEMORY;
    if (status) {
        memory_free(t->context, open);
        memory_free(t->context, touched);
        return status;
    }
    const reversal_options o = {.rules = t->rules,
        .again = t->again && runs_plain(t, forward),
        .skips = some_skip(t),
        .open = open,
        .touched = touched};
    find_open(t, forward, open);
    reversal *made = NULL;
    if (!suffices(t->reversal, &o)) status = reversal_create(forward, &o, t->reversal, &made);
    memory_free(t->context, open);
    memory_free(t->context, touched);
    if (!made) return status;
    reversal_free(t->context, t->reversal);
    t->reversal = made;
    t->program = made->program;
    return INSET_OK;
}

static void free_backward(trace *t)
{
    backward *b = t->backward;
    void *const arrays[] = {b->involved, b->owner, b->map, b->settled, b->written, b->gradient,
        b->shared, b->needed, b->is_one, b->reached, b->parcels, b->given, b->given_for, b->factors,
        b->actions};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) memory_free(t->context, arrays[i]);
    memory_free(t->context, b);
    t->backward = NULL;
}

static inset_status start(trace *t, const view *of)
{
    inset_context *c = t->context;
    const size_t n = t->n_storages;
    backward *b = t->backward = memory_new(c, sizeof *b);
    if (!b) return INSET_NO_MEMORY;
    *b = (backward){.n_originals = (int32_t)t->n_invokes, .n_storages = n};
    b->involved = memory_new(c, t->n_invokes * sizeof *b->involved);
    b->owner = memory_new(c, n * sizeof *b->owner);
    b->map = memory_new(c, n * sizeof *b->map);
    b->settled = memory_new(c, n * sizeof *b->settled);
    b->written = memory_new(c, n * sizeof *b->written);
    b->gradient = memory_new(c, n * sizeof *b->gradient);
    b->shared = memory_new(c, n * sizeof *b->shared);
    b->needed = memory_new(c, n * sizeof *b->needed);
    b->is_one = memory_new(c, n * sizeof *b->is_one);
    b->reached = memory_new(c, t->program->n_values * sizeof *b->reached);
    if (!b->involved || !b->owner || !b->map || !b->settled || !b->written || !b->gradient
        || !b->shared || !b->needed || !b->is_one || !b->reached
        || !array_extend(c, &b->parcels, &b->parcels_capacity, 1, sizeof *b->parcels))
        return INSET_NO_MEMORY;
    for (size_t i = 0; i < n; i++) b->shared[i] = -1;
    find_owners(t);
    const int32_t owner = b->owner[of->storage];
    if (owner < 0)
        return error_set(c, INSET_VALUE_ERROR,
            "backward() starts at a number that a run computes, found one from outside");
    b->involved[owner] = true;
    b->parcels[b->n_parcels++] = (parcel){owner, of, number(1)};
    return shadow_open(t, owner); /* now, so that its refusals come with this line */
}

/* Takes back what a call made that failed: the shadow and what belongs to it. */
static void forget(trace *t, size_t n_invokes, size_t n_records, size_t n_storages, int64_t tokens)
{
    for (; t->n_invokes > n_invokes; t->n_invokes--) {
        memory_free(t->context, shadow_of(t)->rebindings);
        memory_free(t->context, shadow_of(t)->skips);
        memory_free(t->context, shadow_of(t)->values);
    }
    t->n_records = n_records;
    t->n_storages = n_storages;
    t->n_tokens = tokens;
}

inset_status trace_backward(trace *t, const operand *metric)
{
    inset_status status = t->edit ? edit_refuse(t, "backward()") : edit_check(t, metric, NULL);
    if (!status) status = edits_finish(t);
    if (!status) status = check_metric(t, metric);
    const view *of = NULL;
    if (status || (status = heads_for_gradients(t)) || (status = reverse_program(t, &metric->view)))
        return status;
    if (!(of = view_keep(t, &metric->view))) return INSET_NO_MEMORY;
    const size_t invokes = t->n_invokes, records = t->n_records, storages = t->n_storages;
    const int64_t tokens = t->n_tokens;
    const bool open = t->open;
    if (!(status = start(t, of))) return INSET_OK;
    if (t->backward) free_backward(t);
    forget(t, invokes, records, storages, tokens);
    t->open = open;
    return status;
}

void trace_end_backward(trace *t)
{
    if (!t->backward) return;
    free_backward(t);
    t->open = false;
}

void trace_rules(trace *t, int rules) { t->rules = rules; }

void trace_again(trace *t, bool again) { t->again = again; }

int32_t trace_blocks_again(const trace *t) { return t->reversal ? t->reversal->n_again : 0; }

void trace_reopen(trace *t)
{
    if (!t->backward && !t->edit && t->n_invokes && !shadow_of(t)->reversed) t->open = true;
}

bool trace_in_backward(const trace *t) { return t->backward != NULL; }

/* Goes on to the shadow of an earlier invoke. */
static inset_status turn_to(trace *t, int32_t original, const view *of)
{
    backward *b = t->backward;
    while (b->original > original) {
        inset_status status = undo_until(t, INT32_MAX - 1, INT32_MAX);
        if (status) return status;
        int32_t next = b->original - 1;
        while (next >= 0 && !b->involved[next]) next--;
        if (next < original) return gradient_unreached(t, of);
        if ((status = shadow_open(t, next))) return status;
    }
    return INSET_OK;
}

/* What mixes the values is the pattern that the model made. */
static bool open_is_plain(const trace *t, const invoke *v, int32_t value_index)
{
    for (size_t i = 0; i < v->n_rebindings; i++)
        if (t->program->slots[v->rebindings[i].slot].value == value_index) return false;
    return true;
}

/* Which of the forward's values something comes back to, down to the event at hand. */
static bool is_reached(trace *t, int32_t value_index, int32_t event)
{
    backward *b = t->backward;
    const program *g = t->program;
    const invoke *v = shadow_of(t);
    for (int32_t i = t->reversal->n_steps; i-- > 0;) {
        const step *s = &g->steps[i];
        bool skipped = false;
        if (s->event <= event) break;
        for (size_t k = 0; k < v->n_skips; k++)
            skipped |= s->event > v->skips[k].enter && s->event < v->skips[k].leave;
        if (!b->reached[s->value] || skipped) continue;
        if (s->kind == STEP_ATTENTION && i >= 3 && s[-2].kind == STEP_PATTERN)
            b->reached[s[-2].value] |= open_is_plain(t, v, s[-2].value);
        if (step_is_norm(s) && s->operands[1] >= 0 && slot_is_plain(t, v, s->operands[1]))
            b->reached[g->slots[s->operands[1]].value] = true;
        for (int k = 0; k < s->n_operands; k++)
            if (slot_is_plain(t, v, s->operands[k]))
                b->reached[g->slots[s->operands[k]].value] = true;
    }
    return b->reached[value_index];
}

static inset_status out_of_order(trace *t, const char *name)
{
    backward *b = t->backward;
    inset_status status = error_set(t->context, INSET_OUT_OF_ORDER,
        "Value was missed for model.%s.grad.i0. Did you call an Envoy out of order?", name);
    error_help(t->context,
        "Gradients come from the last place to the first: %s.grad was asked for before; ask for "
        "%s.grad first.",
        b->last, name);
    return status;
}

inset_status trace_gradient(trace *t, const operand *of, operand *out)
{
    backward *b = t->backward;
    if (!b) {
        inset_status status = error_set(t->context, INSET_SYNTAX_ERROR,
            ".grad is a gradient on its way; it is only there inside `with METRIC.backward():`");
        return status;
    }
    inset_status known = edit_check(t, of, NULL);
    if (known) return known;
    if (of->kind != OPERAND_TENSOR)
        return error_set(t->context, INSET_TYPE_ERROR, "a number has no gradient");
    const int32_t at = of->view.storage;
    if (!type_is_float(trace_operand_type(t, of)))
        return error_set(t->context, INSET_TYPE_ERROR, "a tensor of %s has no gradient",
            type_torch_name(trace_operand_type(t, of)));
    if (at >= (int32_t)b->n_storages || t->storages[at].kind == STORAGE_EXTERNAL
        || b->owner[at] < 0)
        return error_set(
            t->context, INSET_TYPE_ERROR, "only what an invoke has computed has a gradient");
    char name[256];
    gradient_name(t, &of->view, name, sizeof name);
    if (b->owner[at] > b->original) return out_of_order(t, name);
    inset_status status = turn_to(t, b->owner[at], &of->view);
    if (status) return status;
    const bool of_model = t->storages[at].kind == STORAGE_VALUE;
    int32_t event = b->settled[at];
    if (b->map[at] < 0) {
        if (!of_model) return gradient_unreached(t, &of->view);
        event = t->program->steps[t->program->values[t->storages[at].value].step].event;
    }
    /* what lines made is behind what was made of it in the same place, the model's before all of
     * it */
    const int32_t mark = reversal_mark(t->reversal, event),
                  record = of_model ? INT32_MAX : b->written[at];
    if (mark < b->asked || (mark == b->asked && !of_model && record > b->asked_record))
        return out_of_order(t, name);
    if ((status = undo_until(t, mark, record))) return status;
    b->event = event;
    bool found = true;
    if (of_model) found = is_reached(t, t->storages[at].value, event);
    operand result;
    if (found && (status = gradient_view(t, &of->view, false, &result, &found))) return status;
    if (!found) return gradient_unreached(t, &of->view);
    if (mark > b->asked && b->n_given && (status = undo_take_back(t))) return status;
    shadow_of(t)->current_event = mark;
    if (undo_will_change(t, at) && (status = undo_give_copy(t, &result))) return status;
    b->asked = mark;
    b->asked_record = record;
    memcpy(b->last, name, sizeof b->last);
    b->is_one[at] = false;
    *out = result;
    return INSET_OK;
}
