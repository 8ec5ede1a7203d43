/* reverse.c: writes the chain rule behind a program. Each function below is the gradient of one
 * kind of step; the formulas are at the kernels (kernels/back.cu). */
#include "program/reverse.h"

#include <string.h>

typedef struct reverser {
    const program *forward;
    program *to;
    reversal *r;
    int rules;
    bool skips;      /* some invoke skips a module */
    int32_t *latest; /* [n_values] slot of the latest version of each value's gradient; -1: none */
    gradient_version *chain;
    int32_t *chain_value; /* which value's each is */
    size_t n_chain, chain_capacity, chain_value_capacity;
    int32_t event; /* the forward event that is being reversed */
    /* of a block that is run again: the slots, values and steps that stand for the forward's; -1 */
    int32_t *slot_again, *value_again, *step_again;
    inset_status status;
} reverser;

static bool room(reverser *v, void *items, size_t *capacity, size_t count, size_t size)
{
    if (v->status) return false;
    if (array_extend(v->to->context, items, capacity, count, size)) return true;
    v->status = INSET_NO_MEMORY;
    return false;
}

/* ---- the copy of the forward program ------------------------------------ */

static bool copy_array(
    reverser *v, void *to, size_t *capacity, const void *from, size_t n, size_t size)
{
    void **items = to;
    if (!room(v, items, capacity, n + 1, size)) return false;
    if (n) memcpy(*items, from, n * size);
    return true;
}

/* The forward program, or one that has a reversal behind it already. */
static bool copy_program(reverser *v, const program *f)
{
    program *t = v->to;
    inset_context *context = f->context;
    *t = *f;
    t->context = context;
    t->values = NULL, t->slots = NULL, t->steps = NULL, t->events = NULL, t->sites = NULL;
    t->modules = NULL, t->weights = NULL, t->module_sites = NULL, t->blocks = NULL;
    t->head_paths = NULL;
    t->values_capacity = t->slots_capacity = t->steps_capacity = t->events_capacity = 0;
    t->sites_capacity = t->modules_capacity = t->weights_capacity = t->blocks_capacity = 0;
    t->head_paths_capacity = 0;
    arena_start(&t->memory, context);
    size_t grouped = 0;
    return copy_array(v, &t->values, &t->values_capacity, f->values, f->n_values, sizeof *f->values)
           && copy_array(v, &t->slots, &t->slots_capacity, f->slots, f->n_slots, sizeof *f->slots)
           && copy_array(v, &t->steps, &t->steps_capacity, f->steps, f->n_steps, sizeof *f->steps)
           && copy_array(
               v, &t->events, &t->events_capacity, f->events, f->n_events, sizeof *f->events)
           && copy_array(v, &t->sites, &t->sites_capacity, f->sites, f->n_sites, sizeof *f->sites)
           && copy_array(
               v, &t->modules, &t->modules_capacity, f->modules, f->n_modules, sizeof *f->modules)
           && copy_array(
               v, &t->weights, &t->weights_capacity, f->weights, f->n_weights, sizeof *f->weights)
           && copy_array(
               v, &t->blocks, &t->blocks_capacity, f->blocks, f->n_blocks, sizeof *f->blocks)
           && copy_array(v, &t->head_paths, &t->head_paths_capacity, f->head_paths, f->n_head_paths,
               sizeof *f->head_paths)
           && copy_array(
               v, &t->module_sites, &grouped, f->module_sites, f->n_sites, sizeof *f->module_sites);
}

/* ---- adding steps ------------------------------------------------------- */

static int32_t add_mark(reverser *v)
{
    program *t = v->to;
    if (!room(v, &t->events, &t->events_capacity, t->n_events + 1, sizeof *t->events)) return -1;
    t->events[t->n_events] = (event){EVENT_SITE, 0};
    return (int32_t)t->n_events++;
}

/* A step with the value it makes, which looks like `like`; its slot shows all of it. */
static int32_t add_step_like(reverser *v, step s, value like, int32_t a, int32_t b, int32_t c)
{
    program *t = v->to;
    if (v->status || !room(v, &t->steps, &t->steps_capacity, t->n_steps + 1, sizeof *t->steps)
        || !room(v, &t->values, &t->values_capacity, t->n_values + 1, sizeof *t->values)
        || !room(v, &t->slots, &t->slots_capacity, t->n_slots + 1, sizeof *t->slots)
        || !room(v, &t->events, &t->events_capacity, t->n_events + 1, sizeof *t->events))
        return -1;
    s.operands[0] = a, s.operands[1] = b, s.operands[2] = c;
    s.n_operands = (a >= 0) + (b >= 0) + (c >= 0);
    s.value = (int32_t)t->n_values;
    s.event = (int32_t)t->n_events;
    s.bias = -1;
    t->events[t->n_events++] = (event){EVENT_STEP, (int32_t)t->n_steps};
    like.step = (int32_t)t->n_steps;
    t->values[t->n_values] = like;
    t->slots[t->n_slots] = (slot){.source = -1,
        .value = s.value,
        .event = s.event,
        .settable = true,
        .shape = {.has_position = t->input_width == 0,
            .has_batch = true,
            .n_columns = like.by_keys ? 2 : 1,
            .extent = {like.width, 0},
            .by_keys = like.by_keys}};
    t->steps[t->n_steps++] = s;
    t->n_values++;
    return (int32_t)t->n_slots++;
}

static int32_t add_step(reverser *v, step s, int32_t width, int32_t a, int32_t b)
{
    const program *t = v->to;
    const bool per_position = s.of >= 0 && s.kind != STEP_JOIN
                              && t->values[t->steps[s.of].value].per_position;
    return add_step_like(v, s, (value){.width = width, .per_position = per_position}, a, b, -1);
}

/* A slot that shows columns of another's value. */
static int32_t add_window(reverser *v, int32_t of, int32_t column, int32_t width)
{
    program *t = v->to;
    if (v->status || !room(v, &t->slots, &t->slots_capacity, t->n_slots + 1, sizeof *t->slots))
        return -1;
    slot s = t->slots[of];
    s.shape.column = column;
    s.shape.extent[0] = width;
    t->slots[t->n_slots] = s;
    return (int32_t)t->n_slots++;
}

/* The slot to read for what a forward step read: of the block's second run, where there is one. */
static int32_t seen(const reverser *v, int32_t slot_index)
{
    return v->slot_again && v->slot_again[slot_index] >= 0 ? v->slot_again[slot_index] : slot_index;
}

static step backward(const reverser *v, step_kind kind, const step *of)
{
    step s = *of;
    s.kind = kind;
    s.of = (int32_t)(of - v->forward->steps);
    if (kind == STEP_ATTENTION_BACK && v->step_again && v->step_again[s.of] >= 0)
        s.of = v->step_again[s.of]; /* it reads that step's queries, keys and values */
    s.through = -1;
    return s;
}

/* ---- versions ----------------------------------------------------------- */

static bool add_version(reverser *v, int32_t value_index, int32_t slot_index)
{
    if (slot_index < 0 || !room(v, &v->chain, &v->chain_capacity, v->n_chain + 1, sizeof *v->chain)
        || !room(
            v, &v->chain_value, &v->chain_value_capacity, v->n_chain + 1, sizeof *v->chain_value))
        return false;
    v->chain[v->n_chain] = (gradient_version){v->event, v->to->slots[slot_index].value};
    v->chain_value[v->n_chain++] = value_index;
    v->latest[value_index] = slot_index;
    return true;
}

static int32_t shown_width(const slot *s)
{
    const slot_shape *shape = &s->shape;
    return shape->n_columns == 0   ? 1
           : shape->n_columns == 1 ? shape->extent[0]
                                   : shape->extent[0] * shape->extent[1];
}

static bool has_gradient(const reverser *v, int32_t value_index)
{
    const value *made = &v->forward->values[value_index];
    const step_kind kind = v->forward->steps[made->step].kind;
    if (kind == STEP_SCORES || kind == STEP_PATTERN || kind == STEP_NORM_SCALE
        || v->forward->steps[made->step].aside)
        return v->r->open[value_index];
    return !made->integer && kind != STEP_PAIR;
}

/* The first version of a gradient: zeros. */
static void begin_versions(reverser *v, int32_t value_index)
{
    const value *like = &v->forward->values[value_index];
    step zero = program_like(STEP_ZERO);
    if (like->by_keys) zero.of = like->step;
    add_version(v, value_index, add_step_like(v, zero, *like, -1, -1, -1));
}

/* Is what a reader sends back the whole gradient so far, with nothing to add it to? Not where lines
 * send something to it. What goes through an addition is another value's gradient too: it stands
 * alone only if no line can see it, and no module is skipped (a step of the reader's own makes
 * zeros then). A gradient that lines ask for is a value of its own, and not columns of one. */
static bool stands_alone(const reverser *v, const step *of, int32_t value_index, int32_t sent)
{
    const value *like = &v->forward->values[value_index];
    const uint8_t touched = v->r->touched[value_index];
    if (touched == TOUCH_SENT || v->latest[value_index] >= 0 || like->by_keys || like->per_position)
        return false;
    if (of->kind == STEP_ADD) return touched == TOUCH_NONE && !v->skips;
    const slot *s = &v->to->slots[sent];
    return touched == TOUCH_NONE
           || (!s->shape.column && v->to->values[s->value].width == like->width);
}

/* What a reader sends back through a forward slot: noted, and added to the gradient of the value
 * behind it. */
static void contribute(reverser *v, const step *of, int32_t through, int32_t sent)
{
    if (sent < 0 || v->status) return;
    const slot *s = &v->forward->slots[through];
    reversal *r = v->r;
    if (!has_gradient(v, s->value)) return;
    if (!room(v, &r->contributions, &r->contributions_capacity, r->n_contributions + 1,
            sizeof *r->contributions))
        return;
    r->contributions[r->n_contributions++] = (contribution){
        through, v->to->slots[sent].value, -1, v->to->slots[sent].shape.column};
    const value *like = &v->forward->values[s->value];
    const int32_t width = like->width;
    int32_t whole = sent;
    if (!like->by_keys && shown_width(s) != width) {
        step join = backward(v, STEP_JOIN, of);
        join.through = through;
        whole = add_step(v, join, width, sent, -1);
        if (whole < 0) return;
    }
    if (stands_alone(v, of, s->value, whole)) {
        add_version(v, s->value, whole);
        return;
    }
    if (v->latest[s->value] < 0) begin_versions(v, s->value);
    step add = backward(v, STEP_ADD, of);
    add.through = through;
    add_version(v, s->value, add_step_like(v, add, *like, v->latest[s->value], whole, -1));
}

/* ---- the chain rule, step by step --------------------------------------- */

static void reverse_gate(reverser *v, const step *s, int32_t dy)
{
    const int32_t width = v->forward->values[s->value].width;
    for (int k = 0; k < 2; k++) {
        int32_t sent = add_step(
            v, backward(v, STEP_GATE, s), width, seen(v, s->operands[1 - k]), dy);
        if (v->rules & RULE_HALF) {
            step half = backward(v, STEP_SCALE, s);
            half.scale = 0.5f;
            sent = add_step(v, half, width, sent, -1);
        }
        contribute(v, s, s->operands[k], sent);
    }
}

static void reverse_attention(reverser *v, const step *s, int32_t dz)
{
    const int32_t q = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim;
    const int32_t back = add_step(v, backward(v, STEP_ATTENTION_BACK, s), q + 2 * kv, dz, -1);
    if (back < 0) return;
    if (!(v->rules & RULE_PATTERN)) {
        contribute(v, s, s->operands[0], add_window(v, back, 0, q));
        contribute(v, s, s->operands[1], add_window(v, back, q, kv));
    }
    contribute(v, s, s->operands[2], add_window(v, back, q + kv, kv));
}

/* The slot of a value's named site. */
static int32_t shown_slot(const program *f, int32_t value_index)
{
    for (size_t i = f->n_slots; i-- > 0;)
        if (f->slots[i].value == value_index) return (int32_t)i;
    return -1;
}

/* Of attention in the open: values and pattern each get what comes back through the mix. */
static void reverse_mix(reverser *v, const step *s, int32_t dz)
{
    const program *f = v->forward;
    const step *pattern = s - 2; /* scores, pattern, pair, attention */
    if (s - f->steps < 3 || pattern->kind != STEP_PATTERN || !v->r->open[pattern->value]) return;
    contribute(v, s, s->operands[2],
        add_step(v, backward(v, STEP_VALUES_BACK, s), s->n_kv_heads * s->head_dim, dz, -1));
    step back = backward(v, STEP_PATTERN_BACK, s);
    back.scale = 1, back.softcap = 0, back.window = 0, back.slopes = NULL;
    contribute(v, s, shown_slot(f, pattern->value),
        add_step_like(v, back, f->values[pattern->value], dz, s->operands[2], -1));
}

static void reverse_scores(reverser *v, const step *s, int32_t dy)
{
    const int32_t q = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim;
    const int32_t back = add_step(v, backward(v, STEP_QUERIES_BACK, s), q + kv, dy, -1);
    if (back < 0 || (v->rules & RULE_PATTERN)) return;
    contribute(v, s, s->operands[0], add_window(v, back, 0, q));
    contribute(v, s, s->operands[1], add_window(v, back, q, kv));
}

/* Of a norm, and of the scale that it divides by where that is in the open. */
static void reverse_norm(reverser *v, const step *s, int32_t dy)
{
    const program *f = v->forward;
    const int32_t x = s->operands[0], scale = s->operands[1], width = f->values[s->value].width;
    step back = backward(v, STEP_NORM_BACK, s);
    back.norm_centred = s->kind == STEP_LAYERNORM;
    back.constant_scale = (v->rules & RULE_LN) != 0;
    contribute(v, s, x, add_step(v, back, width, seen(v, x), dy));
    if (scale < 0 || !v->r->open[f->slots[scale].value]) return;
    const value *divisor = &f->values[f->slots[scale].value];
    back.kind = STEP_NORM_GIVEN_BACK;
    contribute(v, s, x, add_step_like(v, back, (value){.width = width}, x, scale, dy));
    back.kind = STEP_DIVISOR_BACK;
    if (!(v->rules & RULE_LN))
        contribute(v, s, scale, add_step_like(v, back, *divisor, x, scale, dy));
}

/* Experts, and their sum where each stands alone: what they are made of and the weights. */
static void reverse_experts(reverser *v, const step *s, step_kind kind, int32_t dy)
{
    const program *f = v->forward;
    const int32_t width = shown_width(&f->slots[s->operands[0]]), n = s->experts->n;
    step back = backward(v, kind, s);
    back.half = (v->rules & RULE_HALF) != 0;
    back.secant = (v->rules & RULE_IDENTITY) && s->experts->act != ACTIVATION_RELU;
    const int32_t made = add_step_like(
        v, back, (value){.width = width + n}, seen(v, s->operands[0]), seen(v, s->operands[1]), dy);
    if (made < 0) return;
    contribute(v, s, s->operands[0], add_window(v, made, 0, width));
    contribute(v, s, s->operands[1], add_window(v, made, width, n));
}

/* Of one operand, through a step that reads it (where the formula wants it) and dy. */
static void reverse_plain(reverser *v, const step *s, step back, bool reads, int32_t dy)
{
    const int32_t width = shown_width(&v->forward->slots[s->operands[0]]);
    contribute(v, s, s->operands[0],
        reads ? add_step(v, back, width, seen(v, s->operands[0]), dy)
              : add_step(v, back, width, dy, -1));
}

static void reverse_step(reverser *v, const step *s)
{
    const int32_t dy = v->latest[s->value];
    if (dy < 0) return;
    step back;
    switch (s->kind) {
    case STEP_LINEAR: reverse_plain(v, s, backward(v, STEP_LINEAR_BACK, s), false, dy); return;
    case STEP_LAYERNORM:
    case STEP_RMSNORM: reverse_norm(v, s, dy); return;
    case STEP_NORM_SCALE:
        reverse_plain(v, s, backward(v, STEP_NORM_SCALE_BACK, s), true, dy);
        return;
    case STEP_ACTIVATION:
        back = backward(v, STEP_ACTIVATION_BACK, s);
        back.secant = (v->rules & RULE_IDENTITY) && s->activation != ACTIVATION_RELU;
        reverse_plain(v, s, back, true, dy);
        return;
    case STEP_SOFTCAP: reverse_plain(v, s, backward(v, STEP_SOFTCAP_BACK, s), true, dy); return;
    case STEP_SCALE: reverse_plain(v, s, backward(v, STEP_SCALE, s), false, dy); return;
    case STEP_SPREAD: reverse_plain(v, s, backward(v, STEP_FOLD, s), false, dy); return;
    case STEP_FOLD: reverse_plain(v, s, backward(v, STEP_SPREAD, s), false, dy); return;
    case STEP_HEADS: reverse_plain(v, s, backward(v, STEP_HEADS_BACK, s), false, dy); return;
    case STEP_ROPE:
        back = backward(v, STEP_ROPE, s);
        back.inverse = true;
        reverse_plain(v, s, back, false, dy);
        return;
    case STEP_ROUTE: reverse_plain(v, s, backward(v, STEP_ROUTE_BACK, s), true, dy); return;
    case STEP_EXPERTS: reverse_experts(v, s, STEP_EXPERTS_BACK, dy); return;
    case STEP_EXPERTS_JOINED: reverse_experts(v, s, STEP_EXPERTS_JOINED_BACK, dy); return;
    case STEP_EXPERTS_APART:
        back = backward(v, STEP_EXPERTS_APART_BACK, s);
        back.half = (v->rules & RULE_HALF) != 0;
        back.secant = (v->rules & RULE_IDENTITY) && s->experts->act != ACTIVATION_RELU;
        reverse_plain(v, s, back, true, dy);
        return;
    case STEP_GATE: reverse_gate(v, s, dy); return;
    case STEP_ADD:
        for (int k = 0; k < s->n_operands; k++) contribute(v, s, s->operands[k], dy);
        return;
    case STEP_ATTENTION:
        reverse_attention(v, s, dy);
        reverse_mix(v, s, dy);
        return;
    case STEP_PATTERN:
        contribute(v, s, s->operands[0],
            add_step_like(
                v, backward(v, STEP_SCORES_BACK, s), v->forward->values[s->value], dy, -1, -1));
        return;
    case STEP_SCORES: reverse_scores(v, s, dy); return;
    default: return;
    }
}

/* ---- blocks that are run again ------------------------------------------ */

/* A slot that shows of a step's second value what a forward slot shows of the first. */
static int32_t add_slot_again(reverser *v, int32_t of)
{
    program *t = v->to;
    const int32_t made = v->value_again[v->forward->slots[of].value];
    if (made < 0) return of; /* from outside of the block */
    if (v->slot_again[of] >= 0) return v->slot_again[of];
    if (!room(v, &t->slots, &t->slots_capacity, t->n_slots + 1, sizeof *t->slots)) return -1;
    slot s = v->forward->slots[of];
    s.source = -1;
    s.value = made;
    s.event = t->steps[t->values[made].step].event;
    s.whole = false;
    t->slots[t->n_slots] = s;
    return v->slot_again[of] = (int32_t)t->n_slots++;
}

static void run_again(reverser *v, int32_t index)
{
    const program *f = v->forward;
    step again = f->steps[index];
    int32_t operands[3] = {-1, -1, -1};
    for (int k = 0; k < again.n_operands; k++) operands[k] = add_slot_again(v, again.operands[k]);
    const int32_t bias = again.bias, n = again.n_operands, value_index = again.value;
    again.again = index;
    const int32_t made = add_step_like(
        v, again, f->values[value_index], operands[0], operands[1], operands[2]);
    if (made < 0) return;
    step *s = &v->to->steps[v->to->n_steps - 1];
    s->bias = bias, s->n_operands = n;
    v->value_again[value_index] = s->value;
    v->step_again[index] = (int32_t)v->to->n_steps - 1;
}

/* Nobody looks at scores, patterns and scales there, which a second run does not show. */
static bool is_shut(const reverser *v, int32_t first, int32_t end)
{
    for (int32_t i = first; i < end; i++)
        if (v->r->open[v->forward->steps[i].value]) return false;
    return true;
}

/* Of a forward event that ends a block: the block's steps once more, from the stream that it begins
 * with. What the gradients of its steps read is then that, and the first run's rows need not be
 * kept. */
static void begin_block(reverser *v, int32_t leaving)
{
    const program *f = v->forward;
    for (size_t b = 0; b < f->n_blocks && v->slot_again; b++) {
        const int32_t enter = f->slots[f->blocks[b]].event + 1;
        const event *at = enter < (int32_t)f->n_events ? &f->events[enter] : NULL;
        if (!at || at->kind != EVENT_ENTER || f->modules[at->index].leave != leaving) continue;
        int32_t first = 0, end = 0;
        while (first < (int32_t)f->n_steps && f->steps[first].event < enter) first++;
        for (end = first; end < (int32_t)f->n_steps && f->steps[end].event < leaving;) end++;
        if (!is_shut(v, first, end)) return;
        v->r->n_again++;
        for (int32_t i = first; i < end; i++) {
            const step_kind kind = f->steps[i].kind;
            if (!f->steps[i].aside && kind != STEP_SCORES && kind != STEP_PATTERN
                && kind != STEP_NORM_SCALE)
                run_again(v, i);
        }
        /* what reads within the block reads the second run */
        for (int32_t i = first; i < end; i++)
            for (int k = 0; k < f->steps[i].n_operands; k++)
                add_slot_again(v, f->steps[i].operands[k]);
    }
}

static bool make_again(reverser *v)
{
    const program *f = v->forward;
    int32_t **const arrays[] = {&v->slot_again, &v->value_again, &v->step_again};
    const size_t counts[] = {f->n_slots, f->n_values, f->n_steps};
    for (int i = 0; i < 3; i++) {
        if (!(*arrays[i] = memory_new(f->context, (counts[i] + 1) * sizeof(int32_t)))) return false;
        for (size_t k = 0; k < counts[i]; k++) (*arrays[i])[k] = -1;
    }
    return true;
}

static void reverse_all(reverser *v)
{
    const program *f = v->forward;
    v->event = (int32_t)f->n_events - 1;
    for (size_t i = 0; i < f->n_values && !v->status; i++) {
        v->latest[i] = -1;
        if (v->r->touched[i] == TOUCH_SENT && has_gradient(v, (int32_t)i))
            begin_versions(v, (int32_t)i);
    }
    size_t sent = 0;
    for (int32_t e = (int32_t)f->n_events - 1; e >= 0 && !v->status; e--) {
        v->event = e - 1;
        if (f->events[e].kind == EVENT_LEAVE) begin_block(v, e);
        v->r->mark[e] = add_mark(v);
        for (; sent < v->r->n_contributions; sent++) v->r->contributions[sent].mark = v->r->mark[e];
        if (f->events[e].kind == EVENT_STEP) reverse_step(v, &f->steps[f->events[e].index]);
    }
    v->r->mark[-1] = add_mark(v);
    for (; sent < v->r->n_contributions; sent++) v->r->contributions[sent].mark = v->r->mark[-1];
}

/* The versions by value, in the order in which they are made. */
static void sort_versions(reverser *v)
{
    reversal *r = v->r;
    for (size_t i = 0; i < v->n_chain; i++) r->first_version[v->chain_value[i] + 1]++;
    for (int32_t i = 0; i < r->n_values; i++) r->first_version[i + 1] += r->first_version[i];
    int32_t *next = v->latest;
    memcpy(next, r->first_version, (size_t)r->n_values * sizeof *next);
    for (size_t i = 0; i < v->n_chain; i++) r->versions[next[v->chain_value[i]]++] = v->chain[i];
}

inset_status reversal_create(
    const program *forward, const reversal_options *o, const reversal *before, reversal **out)
{
    inset_context *context = forward->context;
    *out = NULL;
    reversal *r = memory_new(context, sizeof *r);
    program *to = r ? memory_new(context, sizeof *to) : NULL;
    if (!to) {
        memory_free(context, r);
        return INSET_NO_MEMORY;
    }
    to->context = context;
    r->forward = forward;
    r->program = to;
    reverser v = {.forward = forward, .to = to, .r = r, .rules = o->rules, .skips = o->skips};
    r->n_values = (int32_t)forward->n_values, r->n_steps = (int32_t)forward->n_steps;
    r->n_events = (int32_t)forward->n_events, r->n_slots = (int32_t)forward->n_slots;
    const program *base = before ? before->program : forward;
    bool fine = copy_program(&v, base);
    r->first_step = (int32_t)base->n_steps;
    const size_t flags = forward->n_values * sizeof(bool);
    r->open = fine ? arena_copy(&to->memory, o->open, flags) : NULL;
    r->touched = fine ? arena_copy(&to->memory, o->touched, forward->n_values) : NULL;
    r->skips = o->skips;
    r->mark = fine ? arena_new(&to->memory, (forward->n_events + 1) * sizeof *r->mark) : NULL;
    r->first_version = fine ? arena_new(
                           &to->memory, (forward->n_values + 1) * sizeof *r->first_version)
                            : NULL;
    v.latest = memory_new(context, (forward->n_values + 1) * sizeof *v.latest);
    if (!r->mark || !r->first_version || !v.latest || !r->open || !r->touched
        || (o->again && !make_again(&v)))
        v.status = INSET_NO_MEMORY;
    else r->mark++, reverse_all(&v);
    if (!v.status) {
        r->versions = arena_new(&to->memory, v.n_chain * sizeof *r->versions);
        if (!r->versions) v.status = INSET_NO_MEMORY;
        else sort_versions(&v);
    }
    r->end_step = (int32_t)to->n_steps;
    memory_free(context, v.latest);
    memory_free(context, v.chain);
    memory_free(context, v.chain_value);
    memory_free(context, v.slot_again);
    memory_free(context, v.value_again);
    memory_free(context, v.step_again);
    if (v.status) {
        reversal_free(context, r);
        return v.status;
    }
    *out = r;
    return INSET_OK;
}

void reversal_free(inset_context *context, reversal *r)
{
    if (!r) return;
    memory_free(context, r->contributions);
    program_free(r->program);
    memory_free(context, r);
}

int32_t reversal_mark(const reversal *r, int32_t event) { return r->mark[event < 0 ? -1 : event]; }

int32_t reversal_gradient(const reversal *r, int32_t value_index, int32_t event)
{
    int32_t found = -1;
    for (int32_t i = r->first_version[value_index]; i < r->first_version[value_index + 1]; i++)
        if (r->versions[i].event >= event) found = r->versions[i].value;
    return found;
}
