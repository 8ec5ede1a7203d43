/* undo.c: what the lines of an invoke did, undone from the last to the first (see backward.c): the
 * gradient of what a record made goes to what it read. */
#include "trace/gradient/backward.h"

/* ---- sending gradients -------------------------------------------------- */

/* The view of a storage's gradient that goes with a view of the storage (one of the original's
 * numbers), at the event at hand. *found false: nothing has come back to it. */
inset_status gradient_view(trace *t, const view *of, bool make, operand *out, bool *found)
{
    backward *b = t->backward;
    const int32_t at = of->storage;
    const storage s = t->storages[at];
    *found = true;
    if (s.kind == STORAGE_VALUE) {
        int32_t made, value_index = reversal_gradient(t->reversal, s.value, b->event);
        if (value_index < 0) return *found = false, INSET_OK;
        /* what is made only where somebody touches it, must be there for its gradient */
        const value *of_model = &t->program->values[s.value];
        const bool in_open = of_model->by_keys
                             || t->program->steps[of_model->step].kind == STEP_NORM_SCALE
                             || t->program->steps[of_model->step].aside;
        inset_status status = in_open ? shadow_value(t, s.value, &made) : INSET_OK;
        if (!status) status = shadow_value(t, value_index, &made);
        if (status) return status;
        *out = tensor_on(of, made);
        return INSET_OK;
    }
    int32_t *gradient = b->owner[at] == OWNER_SEVERAL ? &b->shared[at] : &b->gradient[at];
    if (*gradient < 0 && make) {
        storage zeros = s;
        zeros.kind = STORAGE_FILLED;
        zeros.changed = true;
        if (!shadow_add_storage(t, &zeros, gradient)) return INSET_NO_MEMORY;
    }
    *found = *gradient >= 0;
    if (*found) *out = tensor_on(of, *gradient);
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

/* What several invokes filled sends back to all of them. One that wrote after this one read would
 * have to be undone first: what was read is gone. */
static inset_status involve_writers(trace *t, int32_t at)
{
    backward *b = t->backward;
    for (int32_t i = 0; i < b->n_originals; i++) {
        const invoke *v = &t->invokes[i];
        bool writes = false;
        for (size_t k = 0; k < v->n_records && !writes; k++) {
            const trace_record *r = &t->records[v->first_record + k];
            writes = r->kind == TRACE_SET && r->target->storage == at;
        }
        if (writes && i > b->original)
            return gradient_not_yet(t, "zeros() that a later invoke writes to");
        b->involved[i] |= writes;
    }
    return INSET_OK;
}

inset_status undo_send(trace *t, const view *to, const operand *gradient)
{
    backward *b = t->backward;
    const int32_t at = to->storage;
    const storage *s = &t->storages[at];
    if (!type_is_float(s->type) || s->kind == STORAGE_EXTERNAL) return INSET_OK;
    if (at >= (int32_t)b->n_storages) return INSET_OK;
    if (b->owner[at] == OWNER_NONE) return INSET_OK; /* zeros that nobody filled */
    if (b->owner[at] == OWNER_SEVERAL) {
        inset_status found = involve_writers(t, at);
        if (found) return found;
    } else if (b->owner[at] != b->original) {
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
    if (status) return status;
    /* a value that takes part in lines has a gradient from the start (find_touched) */
    if (!found)
        return error_set(t->context, INSET_USAGE_ERROR,
            "a gradient has no place to go to: please "
            "report this trace as a fault of inset");
    b->is_one[at] = false;
    return accumulate(t, &target, gradient);
}

/* ---- undoing records ---------------------------------------------------- */

const operand *undo_factor(const backward *b, int32_t record, int k)
{
    for (size_t i = 0; i < b->n_factors; i++)
        if (b->factors[i].record == record && b->factors[i].operand == k)
            return &b->factors[i].value;
    return NULL;
}

/* f(a): the derivative at what a was, times the gradient. */
static inset_status undo_function(
    trace *t, const trace_record *r, int32_t index, const operand *gradient)
{
    const operand bound = number(r->b.number);
    operand slope, sent;
    if (!is_view(&r->a)) return INSET_OK;
    inset_status status = trace_function(t, (trace_op)(r->op + TRACE_SLOPE),
        undo_factor(t->backward, index, 0), trace_op_operands(r->op) > 1 ? &bound : NULL, &slope);
    if (!status) status = trace_binary(t, TRACE_MULTIPLY, gradient, &slope, &sent);
    return status ? status : undo_send(t, r->a.view, &sent);
}

static inset_status undo_arithmetic(
    trace *t, const trace_record *r, int32_t index, const operand *gradient)
{
    backward *b = t->backward;
    operand sent, part;
    inset_status status = INSET_OK;
    const operand *first = undo_factor(b, index, 0), *second = undo_factor(b, index, 1);
    switch (r->op) {
    case TRACE_COPY: return is_view(&r->a) ? undo_send(t, r->a.view, gradient) : INSET_OK;
    case TRACE_NEGATE:
        if (!is_view(&r->a)) return INSET_OK;
        status = trace_negate(t, gradient, &sent);
        return status ? status : undo_send(t, r->a.view, &sent);
    case TRACE_ADD:
    case TRACE_SUBTRACT:
        if (is_view(&r->a) && (status = undo_send(t, r->a.view, gradient))) return status;
        if (!is_view(&r->b)) return INSET_OK;
        sent = *gradient;
        if (r->op == TRACE_SUBTRACT) status = trace_negate(t, gradient, &sent);
        return status ? status : undo_send(t, r->b.view, &sent);
    case TRACE_MULTIPLY:
        if (is_view(&r->a)
            && ((status = trace_binary(t, TRACE_MULTIPLY, gradient, second, &sent))
                || (status = undo_send(t, r->a.view, &sent))))
            return status;
        if (!is_view(&r->b)) return INSET_OK;
        status = trace_binary(t, TRACE_MULTIPLY, gradient, first, &sent);
        return status ? status : undo_send(t, r->b.view, &sent);
    default: /* a / b: 1 / b and -a / b^2 */
        if ((status = trace_binary(t, TRACE_DIVIDE, gradient, second, &sent))) return status;
        if (is_view(&r->a) && (status = undo_send(t, r->a.view, &sent))) return status;
        if (!is_view(&r->b)) return INSET_OK;
        if ((status = trace_binary(t, TRACE_MULTIPLY, &sent, first, &part))
            || (status = trace_binary(t, TRACE_DIVIDE, &part, second, &sent))
            || (status = trace_negate(t, &sent, &part)))
            return status;
        return undo_send(t, r->b.view, &part);
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
    if (status || (status = shadow_view(t, r->a.view, &rows))
        || (status = shadow_view(t, r->b.view, &reference))
        || (status = trace_record_slope(t, r->metric, &made, rows, reference)))
        return status;
    operand slope = tensor_operand(&made), factor = *gradient, sent = slope;
    if (!b->is_one[r->target->storage]) {
        dimension *last = &factor.view.dimensions[factor.view.n_dimensions++];
        *last = (dimension){.kind = DIMENSION_COLUMN, .extent = 1, .stride = 1};
        if ((status = trace_binary(t, TRACE_MULTIPLY, &slope, &factor, &sent))) return status;
    }
    return undo_send(t, r->a.view, &sent);
}

static inset_status undo_record(trace *t, int32_t index)
{
    const trace_record r = t->records[index];
    const operand none = number(0);
    operand gradient, kept;
    bool found;
    inset_status status = gradient_view(t, r.target, false, &gradient, &found);
    if (status || !found || r.detached) return status;
    if (r.kind == TRACE_METRIC) return undo_metric(t, &r, &gradient);
    if (r.kind == TRACE_CALL) return undo_call(t, &r, index, &gradient);
    if (r.kind == TRACE_ROWS) return undo_rows(t, &r, index, &gradient);
    if (r.kind == TRACE_PRODUCT) return undo_product(t, &r, &gradient);
    if (r.kind == TRACE_MAKE && trace_op_is_comparison(r.op)) return INSET_OK;
    if (r.kind == TRACE_MAKE && trace_op_is_function(r.op))
        return undo_function(t, &r, index, &gradient);
    if (r.kind == TRACE_MAKE) return undo_arithmetic(t, &r, index, &gradient);
    if (is_view(&r.a) && (status = trace_clone(t, &gradient, &kept))) return status;
    if ((status = trace_set(t, &gradient, 0, NULL, TRACE_COPY, &none))) return status;
    return is_view(&r.a) ? undo_send(t, r.a.view, &kept) : INSET_OK;
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
    if (status || (status = shadow_value(t, c->value, &made))) return status;
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
    const operand gradient = tensor_operand(&sent);
    const view *kept = view_keep(t, &through);
    return kept ? undo_send(t, kept, &gradient) : INSET_NO_MEMORY;
}

static inset_status receive(trace *t, int32_t index)
{
    backward *b = t->backward;
    const parcel p = b->parcels[index];
    inset_status status = undo_send(t, p.of, &p.gradient);
    if (!status && p.gradient.kind != OPERAND_TENSOR) b->is_one[p.of->storage] = true;
    return status;
}

/* Lines may have changed what they were given. */
inset_status undo_take_back(trace *t)
{
    backward *b = t->backward;
    inset_status status = INSET_OK;
    for (size_t i = 0; i < b->n_given && !status; i++) {
        const operand to = tensor_operand(&b->given_for[i]), from = tensor_operand(&b->given[i]);
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
bool undo_will_change(const trace *t, int32_t at)
{
    const backward *b = t->backward;
    for (size_t i = b->done; i < b->n_actions; i++)
        if (b->actions[i].kind == ACTION_RECORD && t->records[b->actions[i].index].kind == TRACE_SET
            && t->records[b->actions[i].index].target->storage == at)
            return true;
    return false;
}

/* Puts a copy in the place of a gradient that will still be worked on. */
inset_status undo_give_copy(trace *t, operand *gradient)
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
    const operand from = tensor_operand(&all);
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
        inset_status status = undo_take_back(t);
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
inset_status undo_until(trace *t, int32_t mark, int32_t record)
{
    backward *b = t->backward;
    for (; b->done < b->n_actions; b->done++) {
        const action *a = &b->actions[b->done];
        const bool later = a->kind == ACTION_RECORD ? a->index > record : record < INT32_MAX;
        if (a->mark > mark || (a->mark == mark && a->kind != ACTION_RECEIVE && !later)) break;
        inset_status status = act(t, a);
        if (status) return status;
    }
    return INSET_OK;
}
