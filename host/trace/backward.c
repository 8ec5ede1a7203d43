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
#include "trace/records.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum action_kind { ACTION_RECEIVE, ACTION_READER, ACTION_RECORD } action_kind;
typedef struct action {
    int32_t mark, event;
    action_kind kind;
    int32_t index;
} action;

/* A gradient that waits for its invoke's shadow. of: views of the original invoke's storages. */
typedef struct parcel {
    int32_t invoke;
    const view *of;
    operand gradient; /* the number 1 for the metric itself */
} parcel;

/* What a factor or divisor was when it was read. */
typedef struct factor {
    int32_t record, operand;
    operand value;
} factor;

struct backward {
    bool *involved; /* per original invoke */
    int32_t n_originals;
    size_t n_storages; /* when it began: what later ones are, is shadows' */
    int32_t *owner;    /* of those: the invoke that made it, or -1 */
    int32_t original;  /* whose shadow is open; n_originals before the first */
    parcel *parcels;
    size_t n_parcels, parcels_capacity;
    /* of the open shadow */
    int32_t *map;      /* [n_storages] its storage of each of the original's; -1 */
    int32_t *settled;  /* [n_storages] the event after which nothing changes it */
    bool *needed;      /* [n_storages] */
    int32_t *gradient; /* [n_storages] storage of the gradient of a free tensor, or -1 */
    /* what lines were given in place of gradients that sets will still be undone in: copies, whose
     * changes go back before anything else happens */
    view *given, *given_for;
    size_t n_given, given_capacity, given_for_capacity;
    bool *is_one;  /* [n_storages] that gradient is the seed */
    bool *reached; /* [values] something came back to it */
    factor *factors;
    size_t n_factors, factors_capacity;
    action *actions;
    size_t n_actions, actions_capacity, done;
    int32_t event;  /* the forward event whose mark is being worked at */
    int32_t asked;  /* the mark of the last gradient that a line asked for */
    char last[256]; /* and what it was of */
};

static invoke *shadow_of(trace *t) { return &t->invokes[t->n_invokes - 1]; }

static operand tensor(const view *v)
{
    operand o = {.kind = OPERAND_TENSOR};
    memcpy(
        &o.view, v, offsetof(view, dimensions) + (size_t)v->n_dimensions * sizeof v->dimensions[0]);
    return o;
}

static operand tensor_on(const view *v, int32_t storage_index)
{
    operand o = tensor(v);
    o.view.storage = storage_index;
    return o;
}

static operand number(double x) { return (operand){.kind = OPERAND_FLOAT, .number = x}; }

static bool is_view(const source *s) { return s->view != NULL; }

/* ---- names -------------------------------------------------------------- */

static void name_of(const trace *t, const view *v, char *out, size_t size)
{
    const storage *s = &t->storages[v->storage];
    const program *g = t->program;
    snprintf(out, size, "a value");
    for (size_t i = 0; s->kind == STORAGE_VALUE && i < g->n_sites; i++) {
        const slot *shown = &g->slots[g->sites[i].slot];
        if (shown->value != s->value || v->column < shown->shape.column
            || v->column >= slot_column_end(shown))
            continue;
        program_site_name(g, (int32_t)i, out, size);
        if (v->column == shown->shape.column) return;
    }
}

static inset_status not_yet(trace *t, const char *what)
{
    inset_status status = error_set(
        t->context, INSET_USAGE_ERROR, "gradients do not go through %s yet", what);
    error_help(t->context, "Leave the lines that touch it out of this invoke.");
    return status;
}

static inset_status does_not_reach(trace *t, const view *v)
{
    char name[256];
    name_of(t, v, name, sizeof name);
    return error_set(t->context, INSET_VALUE_ERROR, "%s does not reach the metric", name);
}

/* ---- storages of the shadow --------------------------------------------- */

static bool add_storage(trace *t, const storage *like, int32_t *index)
{
    if (!array_reserve(t->context, &t->storages, &t->storages_capacity, t->n_storages + 1,
            sizeof *t->storages))
        return false;
    *index = (int32_t)t->n_storages;
    t->storages[t->n_storages++] = *like;
    return true;
}

/* The storage of a value of the open shadow. */
static inset_status value_storage_of(trace *t, int32_t value_index, int32_t *index)
{
    invoke *v = shadow_of(t);
    for (size_t i = 0; i < v->n_values; i++)
        if (v->values[i].value == value_index) return *index = v->values[i].storage, INSET_OK;
    const value *made = &t->program->values[value_index];
    const storage fresh = {.kind = STORAGE_VALUE,
        .type = made->integer ? INSET_I64 : t->model_type,
        .invoke = (int32_t)t->n_invokes - 1,
        .value = value_index,
        .n_sequences = v->n_sequences,
        .lengths = v->lengths,
        .width = made->width};
    if (!array_reserve(
            t->context, &v->values, &v->values_capacity, v->n_values + 1, sizeof *v->values)
        || !add_storage(t, &fresh, index))
        return INSET_NO_MEMORY;
    v->values[v->n_values++] = (value_storage){value_index, *index};
    return INSET_OK;
}

/* Values that have no row a position, or are made only where they are touched. */
static inset_status check_value(trace *t, int32_t value_index)
{
    const value *made = &t->program->values[value_index];
    switch (t->program->steps[made->step].kind) {
    case STEP_SCORES:
    case STEP_PATTERN: return not_yet(t, "attention scores and patterns");
    case STEP_NORM_SCALE: return not_yet(t, "what a norm divides by (.scale)");
    default: return made->per_position ? not_yet(t, "the position embedding") : INSET_OK;
    }
}

/* The shadow's storage of one of the original's; what is not the invoke's own stays itself. */
static inset_status map_storage(trace *t, int32_t from, int32_t *to)
{
    backward *b = t->backward;
    *to = from;
    if (from >= (int32_t)b->n_storages || b->owner[from] != b->original) return INSET_OK;
    if (b->map[from] >= 0) return *to = b->map[from], INSET_OK;
    storage like = t->storages[from];
    inset_status status;
    if (like.kind == STORAGE_VALUE) {
        if ((status = check_value(t, like.value)) || (status = value_storage_of(t, like.value, to)))
            return status;
        t->storages[*to].changed = like.changed;
        b->settled[from] = t->program->steps[t->program->values[like.value].step].event;
    } else if (!add_storage(t, &like, to)) return INSET_NO_MEMORY;
    b->map[from] = *to;
    return INSET_OK;
}

static inset_status map_view(trace *t, const view *from, const view **out)
{
    *out = NULL;
    if (!from) return INSET_OK;
    view *kept = (view *)(uintptr_t)view_keep(t, from);
    if (!kept) return INSET_NO_MEMORY;
    *out = kept;
    return map_storage(t, from->storage, &kept->storage);
}

/* ---- what to repeat ----------------------------------------------------- */

static void need(backward *b, const view *v)
{
    if (v && v->storage < (int32_t)b->n_storages) b->needed[v->storage] = true;
}

/* Marks the records' storages on which the metric, or what the model reads, depends. */
static void mark_needed(trace *t, const invoke *v)
{
    backward *b = t->backward;
    memset(b->needed, 0, b->n_storages * sizeof *b->needed);
    for (size_t i = 0; i < b->n_parcels; i++)
        if (b->parcels[i].invoke == b->original) need(b, b->parcels[i].of);
    for (size_t i = 0; i < v->n_rebindings; i++) need(b, v->rebindings[i].view);
    for (size_t i = v->n_records; i-- > 0;) {
        const trace_record *r = &t->records[v->first_record + i];
        const int32_t target = r->target->storage;
        const bool of_model = t->storages[target].kind == STORAGE_VALUE;
        if (r->kind == TRACE_SET && of_model && b->owner[target] == b->original)
            b->needed[target] = true;
        if (!b->needed[target]) continue;
        need(b, r->a.view);
        need(b, r->b.view);
    }
}

/* ---- the shadow --------------------------------------------------------- */

static inset_status begin_shadow(trace *t, int32_t original)
{
    if (!array_reserve(
            t->context, &t->invokes, &t->invokes_capacity, t->n_invokes + 1, sizeof *t->invokes))
        return INSET_NO_MEMORY;
    const invoke *from = &t->invokes[original];
    invoke *v = &t->invokes[t->n_invokes];
    int64_t tokens = 0;
    for (int32_t i = 0; i < from->n_sequences; i++) tokens += from->lengths[i];
    *v = (invoke){.n_sequences = from->n_sequences,
        .lengths = from->lengths,
        .longest = from->longest,
        .tokens = from->tokens,
        .rows = from->rows,
        .first_token = t->n_tokens,
        .first_record = t->n_records,
        .current_event = -1,
        .current_site = -1,
        .reversed = true,
        .shadow_of = original};
    t->n_tokens += tokens;
    t->n_invokes++;
    t->open = true;
    return INSET_OK;
}

/* The factors of a product or quotient, as they are when it reads them. */
static inset_status keep_factors(trace *t, int32_t index, const trace_record *r)
{
    backward *b = t->backward;
    if (r->kind != TRACE_MAKE || (r->op != TRACE_MULTIPLY && r->op != TRACE_DIVIDE))
        return INSET_OK;
    for (int k = 0; k < 2; k++) {
        const source *s = k ? &r->b : &r->a;
        if (!array_extend(t->context, &b->factors, &b->factors_capacity, b->n_factors + 1,
                sizeof *b->factors))
            return INSET_NO_MEMORY;
        factor *f = &b->factors[b->n_factors++];
        *f = (factor){index, k, number(s->number)};
        if (!s->view) continue;
        const operand read = tensor(s->view);
        operand kept;
        inset_status status = trace_clone(t, &read, &kept);
        if (status) return status;
        b->factors[b->n_factors - 1].value = kept;
    }
    return INSET_OK;
}

static bool add_action(trace *t, int32_t event, action_kind kind, int32_t index)
{
    backward *b = t->backward;
    if (!array_extend(
            t->context, &b->actions, &b->actions_capacity, b->n_actions + 1, sizeof *b->actions))
        return false;
    b->actions[b->n_actions++] = (action){reversal_mark(t->reversal, event), event, kind, index};
    return true;
}

static inset_status repeat_record(trace *t, const trace_record *from)
{
    backward *b = t->backward;
    trace_record r = *from;
    invoke *v = shadow_of(t);
    inset_status status;
    v->current_event = from->event;
    if ((status = map_view(t, from->target, &r.target))
        || (status = map_view(t, from->a.view, &r.a.view))
        || (status = map_view(t, from->b.view, &r.b.view)))
        return status;
    const int32_t index = (int32_t)(from - t->records);
    if ((status = keep_factors(t, index, &r))) return status;
    if (!array_reserve(
            t->context, &t->records, &t->records_capacity, t->n_records + 1, sizeof *t->records))
        return INSET_NO_MEMORY;
    t->records[t->n_records++] = r;
    shadow_of(t)->n_records++;
    const int32_t target = t->records[index].target->storage;
    if (b->settled[target] < r.event) b->settled[target] = r.event;
    return add_action(t, r.event, ACTION_RECORD, index) ? INSET_OK : INSET_NO_MEMORY;
}

static inset_status repeat_bindings(trace *t, int32_t original)
{
    const size_t n = t->invokes[original].n_rebindings, skips = t->invokes[original].n_skips;
    invoke *v = shadow_of(t);
    if (!array_reserve(
            t->context, &v->rebindings, &v->rebindings_capacity, n + 1, sizeof *v->rebindings)
        || !array_reserve(t->context, &v->skips, &v->skips_capacity, skips + 1, sizeof *v->skips))
        return INSET_NO_MEMORY;
    for (size_t i = 0; i < n; i++) {
        const rebinding *from = &t->invokes[original].rebindings[i];
        const view *kept;
        inset_status status = map_view(t, from->view, &kept);
        if (status) return status;
        shadow_of(t)->rebindings[i] = (rebinding){from->slot, kept};
    }
    v = shadow_of(t);
    v->n_rebindings = n;
    v->n_skips = skips;
    if (skips) memcpy(v->skips, t->invokes[original].skips, skips * sizeof *v->skips);
    return INSET_OK;
}

static int compare_actions(const void *a, const void *b)
{
    const action *x = a, *y = b;
    if (x->mark != y->mark) return x->mark < y->mark ? -1 : 1;
    if (x->kind != y->kind) return x->kind < y->kind ? -1 : 1;
    return (x->index < y->index) - (x->index > y->index); /* the last record first */
}

/* Readers of replaced slots: what they send back goes where the replacement came from. */
static bool add_readers(trace *t)
{
    backward *b = t->backward;
    const reversal *r = t->reversal;
    const invoke *v = shadow_of(t);
    for (size_t i = 0; v->n_rebindings && i < r->n_contributions; i++) {
        if (slot_is_plain(t, v, r->contributions[i].slot)) continue;
        if (!array_extend(t->context, &b->actions, &b->actions_capacity, b->n_actions + 1,
                sizeof *b->actions))
            return false;
        int32_t event = -1; /* the forward event of that mark */
        for (int32_t e = r->n_events - 1; e >= -1; e--)
            if (r->mark[e] == r->contributions[i].mark) event = e;
        b->actions[b->n_actions++] = (action){
            r->contributions[i].mark, event, ACTION_READER, (int32_t)i};
    }
    return true;
}

static inset_status open_shadow(trace *t, int32_t original)
{
    backward *b = t->backward;
    b->original = original;
    b->n_factors = b->n_actions = b->done = b->n_given = 0;
    b->asked = -1;
    for (size_t i = 0; i < b->n_storages; i++) b->map[i] = b->gradient[i] = b->settled[i] = -1;
    memset(b->is_one, 0, b->n_storages * sizeof *b->is_one);
    memset(b->reached, 0, t->program->n_values * sizeof *b->reached);
    mark_needed(t, &t->invokes[original]);
    inset_status status = begin_shadow(t, original);
    if (status) return status;
    for (size_t i = 0; i < t->invokes[original].n_records && !status; i++) {
        const size_t at = t->invokes[original].first_record + i;
        const int32_t target = t->records[at].target->storage;
        if (b->owner[target] == original && b->needed[target])
            status = repeat_record(t, &t->records[at]);
    }
    if (!status) status = repeat_bindings(t, original);
    for (size_t i = 0; i < b->n_parcels && !status; i++) {
        if (b->parcels[i].invoke != original) continue;
        int32_t mapped;
        const int32_t of = b->parcels[i].of->storage;
        if (!(status = map_storage(t, of, &mapped))
            && !add_action(t, b->settled[of], ACTION_RECEIVE, (int32_t)i))
            status = INSET_NO_MEMORY;
    }
    if (!status && !add_readers(t)) status = INSET_NO_MEMORY;
    if (b->n_actions) qsort(b->actions, b->n_actions, sizeof *b->actions, compare_actions);
    return status;
}

/* ---- sending gradients -------------------------------------------------- */

static inset_status send(trace *t, const view *to, const operand *gradient);

/* The view of a storage's gradient that goes with a view of the storage (one of the original's
 * numbers), at the event at hand. *found false: nothing has come back to it. */
static inset_status gradient_view(trace *t, const view *of, bool make, operand *out, bool *found)
{
    backward *b = t->backward;
    const int32_t at = of->storage;
    const storage s = t->storages[at];
    *found = true;
    if (s.kind == STORAGE_VALUE) {
        int32_t made, value_index = reversal_gradient(t->reversal, s.value, b->event);
        inset_status status = check_value(t, s.value);
        if (!status && value_index < 0) return *found = false, INSET_OK;
        if (status || (status = value_storage_of(t, value_index, &made))) return status;
        *out = tensor_on(of, made);
        return INSET_OK;
    }
    if (b->gradient[at] < 0 && make) {
        storage zeros = s;
        zeros.kind = STORAGE_FILLED;
        zeros.changed = true;
        if (!add_storage(t, &zeros, &b->gradient[at])) return INSET_NO_MEMORY;
    }
    *found = b->gradient[at] >= 0;
    if (*found) *out = tensor_on(of, b->gradient[at]);
    return INSET_OK;
}

/* One entry of a dimension; the dimension stays, of extent 1, where `keep`. */
static inset_status entry_of(
    trace *t, const operand *x, int dimension, int64_t i, bool keep, operand *out)
{
    index_item items[INSET_MAX_DIMENSIONS];
    for (int k = 0; k <= dimension; k++)
        items[k] = k < dimension ? (index_item){.kind = INDEX_SLICE}
                   : keep        ? (index_item){.kind = INDEX_SLICE,
                                .has_start = true,
                                .has_stop = true,
                                .start = i,
                                .stop = i + 1}
                                 : (index_item){.kind = INDEX_INTEGER, .integer = i};
    return trace_index(t, x, (size_t)dimension + 1, items, out);
}

/* to += gradient, summed over what was broadcast. */
static inset_status accumulate(trace *t, const operand *to, const operand *gradient)
{
    if (gradient->kind == OPERAND_TENSOR) {
        const int extra = gradient->view.n_dimensions - to->view.n_dimensions;
        for (int d = 0; d < gradient->view.n_dimensions; d++) {
            const int64_t n = gradient->view.dimensions[d].extent;
            const bool missing = d < extra;
            if (!missing && (to->view.dimensions[d - extra].extent != 1 || n == 1)) continue;
            for (int64_t i = 0; i < n; i++) {
                operand part;
                inset_status status = entry_of(t, gradient, d, i, !missing, &part);
                if (status || (status = accumulate(t, to, &part))) return status;
            }
            return INSET_OK;
        }
    }
    return trace_set(t, to, 0, NULL, TRACE_ADD, gradient);
}

static inset_status send(trace *t, const view *to, const operand *gradient)
{
    backward *b = t->backward;
    const int32_t at = to->storage;
    const storage *s = &t->storages[at];
    if (!type_is_float(s->type) || s->kind == STORAGE_EXTERNAL) return INSET_OK;
    if (at >= (int32_t)b->n_storages) return INSET_OK;
    if (b->owner[at] < 0) return not_yet(t, "a tensor of zeros() that several invokes fill");
    if (b->owner[at] != b->original) {
        if (!array_extend(t->context, &b->parcels, &b->parcels_capacity, b->n_parcels + 1,
                sizeof *b->parcels))
            return INSET_NO_MEMORY;
        b->parcels[b->n_parcels++] = (parcel){b->owner[at], to, *gradient};
        b->involved[b->owner[at]] = true;
        return INSET_OK;
    }
    if (s->kind == STORAGE_VALUE) b->reached[s->value] = true;
    operand target;
    bool found;
    inset_status status = gradient_view(t, to, true, &target, &found);
    if (status || !found) return status;
    b->is_one[at] = false;
    return accumulate(t, &target, gradient);
}

/* ---- undoing records ---------------------------------------------------- */

static const operand *factor_of(const backward *b, int32_t record, int k)
{
    for (size_t i = 0; i < b->n_factors; i++)
        if (b->factors[i].record == record && b->factors[i].operand == k)
            return &b->factors[i].value;
    return NULL;
}

static inset_status undo_arithmetic(
    trace *t, const trace_record *r, int32_t index, const operand *gradient)
{
    backward *b = t->backward;
    operand sent, part;
    inset_status status = INSET_OK;
    const operand *first = factor_of(b, index, 0), *second = factor_of(b, index, 1);
    switch (r->op) {
    case TRACE_COPY: return is_view(&r->a) ? send(t, r->a.view, gradient) : INSET_OK;
    case TRACE_NEGATE:
        if (!is_view(&r->a)) return INSET_OK;
        status = trace_negate(t, gradient, &sent);
        return status ? status : send(t, r->a.view, &sent);
    case TRACE_ADD:
    case TRACE_SUBTRACT:
        if (is_view(&r->a) && (status = send(t, r->a.view, gradient))) return status;
        if (!is_view(&r->b)) return INSET_OK;
        sent = *gradient;
        if (r->op == TRACE_SUBTRACT) status = trace_negate(t, gradient, &sent);
        return status ? status : send(t, r->b.view, &sent);
    case TRACE_MULTIPLY:
        if (is_view(&r->a)
            && ((status = trace_binary(t, TRACE_MULTIPLY, gradient, second, &sent))
                || (status = send(t, r->a.view, &sent))))
            return status;
        if (!is_view(&r->b)) return INSET_OK;
        status = trace_binary(t, TRACE_MULTIPLY, gradient, first, &sent);
        return status ? status : send(t, r->b.view, &sent);
    default: /* a / b: 1 / b and -a / b^2 */
        if ((status = trace_binary(t, TRACE_DIVIDE, gradient, second, &sent))) return status;
        if (is_view(&r->a) && (status = send(t, r->a.view, &sent))) return status;
        if (!is_view(&r->b)) return INSET_OK;
        if ((status = trace_binary(t, TRACE_MULTIPLY, &sent, first, &part))
            || (status = trace_binary(t, TRACE_DIVIDE, &part, second, &sent))
            || (status = trace_negate(t, &sent, &part)))
            return status;
        return send(t, r->b.view, &part);
    }
}

/* The gradient of rows of logits: what the metric changes by, times the metric's own. */
static inset_status undo_metric(trace *t, const trace_record *r, const operand *gradient)
{
    backward *b = t->backward;
    if (t->metrics[r->metric].kind == INSET_RANK)
        return error_set(t->context, INSET_TYPE_ERROR,
            "rank has no gradient: it counts; take logit_diff, logit or log_probability");
    view made;
    const view *rows, *reference;
    inset_status status = storage_for_shape(t, STORAGE_FREE, INSET_F32, r->a.view, &made);
    if (status || (status = map_view(t, r->a.view, &rows))
        || (status = map_view(t, r->b.view, &reference))
        || (status = trace_record_slope(t, r->metric, &made, rows, reference)))
        return status;
    operand slope = tensor(&made), factor = *gradient, sent = slope;
    if (!b->is_one[r->target->storage]) {
        dimension *last = &factor.view.dimensions[factor.view.n_dimensions++];
        *last = (dimension){.kind = DIMENSION_COLUMN, .extent = 1, .stride = 1};
        if ((status = trace_binary(t, TRACE_MULTIPLY, &slope, &factor, &sent))) return status;
    }
    return send(t, r->a.view, &sent);
}

static inset_status undo_record(trace *t, int32_t index)
{
    const trace_record r = t->records[index];
    const operand none = number(0);
    operand gradient, kept;
    bool found;
    inset_status status = gradient_view(t, r.target, false, &gradient, &found);
    if (status || !found) return status;
    if (r.kind == TRACE_METRIC) return undo_metric(t, &r, &gradient);
    if (r.kind == TRACE_MAKE) return undo_arithmetic(t, &r, index, &gradient);
    if (is_view(&r.a) && (status = trace_clone(t, &gradient, &kept))) return status;
    if ((status = trace_set(t, &gradient, 0, NULL, TRACE_COPY, &none))) return status;
    return is_view(&r.a) ? send(t, r.a.view, &kept) : INSET_OK;
}

/* What a reader of a replaced slot sends back goes to what stands there. */
static inset_status undo_reader(trace *t, int32_t index)
{
    const contribution *c = &t->reversal->contributions[index];
    const int32_t original = t->backward->original;
    view through;
    int32_t made;
    /* as the original has it: its storages are what gradients are sent to */
    inset_status status = view_of_slot(t, original, c->slot, &through);
    if (status || (status = value_storage_of(t, c->value, &made))) return status;
    view sent;
    if ((status = view_of_value(t, original, c->slot, &sent))) return status;
    sent.storage = made;
    sent.column = c->column;
    /* what was sent lies side by side */
    int64_t stride = 1;
    for (int i = sent.n_dimensions - 1; i >= 0 && sent.dimensions[i].kind == DIMENSION_COLUMN;
         i--) {
        sent.dimensions[i].stride = stride;
        stride *= sent.dimensions[i].extent;
    }
    const operand gradient = tensor(&sent);
    const view *kept = view_keep(t, &through);
    return kept ? send(t, kept, &gradient) : INSET_NO_MEMORY;
}

static inset_status receive(trace *t, int32_t index)
{
    backward *b = t->backward;
    const parcel p = b->parcels[index];
    inset_status status = send(t, p.of, &p.gradient);
    if (!status && p.gradient.kind != OPERAND_TENSOR) b->is_one[p.of->storage] = true;
    return status;
}

/* Lines may have changed what they were given. */
static inset_status take_back(trace *t)
{
    backward *b = t->backward;
    inset_status status = INSET_OK;
    for (size_t i = 0; i < b->n_given && !status; i++) {
        const operand to = tensor(&b->given_for[i]), from = tensor(&b->given[i]);
        status = trace_set(t, &to, 0, NULL, TRACE_COPY, &from);
    }
    b->n_given = 0;
    return status;
}

/* All of a storage. */
static inset_status whole_view(trace *t, int32_t index, view *out)
{
    const storage *s = &t->storages[index];
    span *spans = arena_new(&t->memory, (size_t)s->n_sequences * sizeof *spans);
    if (!spans) return INSET_NO_MEMORY;
    *out = (view){.storage = index,
        .n_spans = s->n_sequences,
        .spans = spans,
        .n_dimensions = 3,
        .position_dimension = 1};
    int32_t longest = 0;
    bool ragged = false;
    for (int32_t i = 0; i < s->n_sequences; i++) {
        spans[i] = (span){i, 0, s->lengths[i]};
        ragged |= s->lengths[i] != s->lengths[0];
        if (s->lengths[i] > longest) longest = s->lengths[i];
    }
    out->dimensions[0] = (dimension){.kind = DIMENSION_SEQUENCE, .extent = s->n_sequences};
    out->dimensions[1] = (dimension){
        .kind = DIMENSION_ROW, .ragged = ragged, .extent = longest, .stride = 1};
    out->dimensions[2] = (dimension){.kind = DIMENSION_COLUMN, .extent = s->width, .stride = 1};
    return INSET_OK;
}

/* A set of the forward that is still to be undone in a storage's gradient. */
static bool will_change(const trace *t, int32_t at)
{
    const backward *b = t->backward;
    for (size_t i = b->done; i < b->n_actions; i++)
        if (b->actions[i].kind == ACTION_RECORD && t->records[b->actions[i].index].kind == TRACE_SET
            && t->records[b->actions[i].index].target->storage == at)
            return true;
    return false;
}

/* Puts a copy in the place of a gradient that will still be worked on. */
static inset_status give_copy(trace *t, operand *gradient)
{
    backward *b = t->backward;
    const int32_t of = gradient->view.storage;
    for (size_t i = 0; i < b->n_given; i++)
        if (b->given_for[i].storage == of)
            return gradient->view.storage = b->given[i].storage, INSET_OK;
    view all;
    operand copy;
    if (!array_extend(t->context, &b->given, &b->given_capacity, b->n_given + 1, sizeof all)
        || !array_extend(
            t->context, &b->given_for, &b->given_for_capacity, b->n_given + 1, sizeof all))
        return INSET_NO_MEMORY;
    inset_status status = whole_view(t, of, &all);
    const operand from = tensor(&all);
    if (status || (status = trace_clone(t, &from, &copy))) return status;
    b->given_for[b->n_given] = all;
    b->given[b->n_given++] = copy.view;
    gradient->view.storage = copy.view.storage;
    return INSET_OK;
}

static inset_status act(trace *t, const action *a)
{
    backward *b = t->backward;
    if (b->n_given) {
        inset_status status = take_back(t);
        if (status) return status;
    }
    b->event = a->event;
    shadow_of(t)->current_event = a->mark;
    switch (a->kind) {
    case ACTION_RECEIVE: return receive(t, a->index);
    case ACTION_READER: return undo_reader(t, a->index);
    default: return undo_record(t, a->index);
    }
}

/* Undoes all that comes before a mark, and receives what is sent there. */
static inset_status undo_until(trace *t, int32_t mark)
{
    backward *b = t->backward;
    for (; b->done < b->n_actions; b->done++) {
        const action *a = &b->actions[b->done];
        if (a->mark > mark || (a->mark == mark && a->kind != ACTION_RECEIVE)) break;
        inset_status status = act(t, a);
        if (status) return status;
    }
    return INSET_OK;
}

/* ---- a line's calls ----------------------------------------------------- */

static void find_owners(trace *t)
{
    backward *b = t->backward;
    for (size_t i = 0; i < b->n_storages; i++)
        b->owner[i] = t->storages[i].kind == STORAGE_VALUE ? t->storages[i].invoke : -1;
    for (int32_t i = 0; i < b->n_originals; i++) {
        const invoke *v = &t->invokes[i];
        for (size_t k = 0; k < v->n_records; k++) {
            const trace_record *r = &t->records[v->first_record + k];
            if (r->kind != TRACE_SET) b->owner[r->target->storage] = i;
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

static inset_status reverse_program(trace *t)
{
    if (t->reversal) return INSET_OK;
    inset_status status = reversal_create(t->program, t->rules, &t->reversal);
    if (!status) t->program = t->reversal->program;
    return status;
}

static void free_backward(trace *t)
{
    backward *b = t->backward;
    void *const arrays[] = {b->involved, b->owner, b->map, b->settled, b->gradient, b->needed,
        b->is_one, b->reached, b->parcels, b->given, b->given_for, b->factors, b->actions};
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
    b->gradient = memory_new(c, n * sizeof *b->gradient);
    b->needed = memory_new(c, n * sizeof *b->needed);
    b->is_one = memory_new(c, n * sizeof *b->is_one);
    b->reached = memory_new(c, t->program->n_values * sizeof *b->reached);
    if (!b->involved || !b->owner || !b->map || !b->settled || !b->gradient || !b->needed
        || !b->is_one || !b->reached
        || !array_extend(c, &b->parcels, &b->parcels_capacity, 1, sizeof *b->parcels))
        return INSET_NO_MEMORY;
    find_owners(t);
    const int32_t owner = b->owner[of->storage];
    if (owner < 0)
        return error_set(c, INSET_VALUE_ERROR,
            "backward() starts at a number that a run computes, found one from outside");
    b->involved[owner] = true;
    b->parcels[b->n_parcels++] = (parcel){owner, of, number(1)};
    return open_shadow(t, owner); /* now, so that its refusals come with this line */
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
    inset_status status = check_metric(t, metric);
    const view *of = NULL;
    if (status || (status = reverse_program(t))) return status;
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

void trace_reopen(trace *t)
{
    if (!t->backward && t->n_invokes && !shadow_of(t)->reversed) t->open = true;
}

bool trace_in_backward(const trace *t) { return t->backward != NULL; }

/* Goes on to the shadow of an earlier invoke. */
static inset_status turn_to(trace *t, int32_t original, const view *of)
{
    backward *b = t->backward;
    while (b->original > original) {
        inset_status status = undo_until(t, INT32_MAX - 1);
        if (status) return status;
        int32_t next = b->original - 1;
        while (next >= 0 && !b->involved[next]) next--;
        if (next < original) return does_not_reach(t, of);
        if ((status = open_shadow(t, next))) return status;
    }
    return INSET_OK;
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
    name_of(t, &of->view, name, sizeof name);
    if (b->owner[at] > b->original) return out_of_order(t, name);
    inset_status status = turn_to(t, b->owner[at], &of->view);
    if (status) return status;
    const bool of_model = t->storages[at].kind == STORAGE_VALUE;
    if (of_model && (status = check_value(t, t->storages[at].value))) return status;
    int32_t event = b->settled[at];
    if (b->map[at] < 0) {
        if (!of_model) return does_not_reach(t, &of->view);
        event = t->program->steps[t->program->values[t->storages[at].value].step].event;
    }
    const int32_t mark = reversal_mark(t->reversal, event);
    if (mark < b->asked) return out_of_order(t, name);
    if ((status = undo_until(t, mark))) return status;
    b->event = event;
    bool found = true;
    if (of_model) found = is_reached(t, t->storages[at].value, event);
    operand result;
    if (found && (status = gradient_view(t, &of->view, false, &result, &found))) return status;
    if (!found) return does_not_reach(t, &of->view);
    if (mark > b->asked && b->n_given && (status = take_back(t))) return status;
    shadow_of(t)->current_event = mark;
    if (will_change(t, at) && (status = give_copy(t, &result))) return status;
    b->asked = mark;
    memcpy(b->last, name, sizeof b->last);
    b->is_one[at] = false;
    *out = result;
    return INSET_OK;
}
