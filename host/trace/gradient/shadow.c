/* shadow.c: the shadow of an invoke (see backward.c): the same input, the same replacements, and
 * those of its records on which the metric depends, on storages of its own. */
#include "trace/gradient/backward.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- names -------------------------------------------------------------- */

void gradient_name(const trace *t, const view *v, char *out, size_t size)
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

inset_status gradient_not_yet(trace *t, const char *what)
{
    inset_status status = error_set(
        t->context, INSET_USAGE_ERROR, "gradients do not go through %s yet", what);
    error_help(t->context, "Leave the lines that touch it out of this invoke.");
    return status;
}

inset_status gradient_unreached(trace *t, const view *v)
{
    char name[256];
    gradient_name(t, v, name, sizeof name);
    return error_set(t->context, INSET_VALUE_ERROR, "%s does not reach the metric", name);
}

/* ---- storages of the shadow --------------------------------------------- */

bool shadow_add_storage(trace *t, const storage *like, int32_t *index)
{
    if (!array_reserve(t->context, &t->storages, &t->storages_capacity, t->n_storages + 1,
            sizeof *t->storages))
        return false;
    *index = (int32_t)t->n_storages;
    t->storages[t->n_storages++] = *like;
    return true;
}

/* The storage of a value of the open shadow. */
inset_status shadow_value(trace *t, int32_t value_index, int32_t *index)
{
    invoke *v = shadow_of(t);
    for (size_t i = 0; i < v->n_values; i++)
        if (v->values[i].value == value_index) return *index = v->values[i].storage, INSET_OK;
    const value *made = &t->program->values[value_index];
    storage fresh = {.kind = STORAGE_VALUE,
        .type = made->integer ? INSET_I64 : t->model_type,
        .invoke = (int32_t)t->n_invokes - 1,
        .value = value_index,
        .n_sequences = made->per_position ? 1 : v->n_sequences,
        .lengths = v->lengths,
        .width = made->by_keys ? (int64_t)made->width * v->longest : made->width};
    /* invokes move when their array grows: the length needs a place of its own */
    if (made->per_position
        && !(fresh.lengths = arena_copy(&t->memory, &v->longest, sizeof v->longest)))
        return INSET_NO_MEMORY;
    if (!array_reserve(
            t->context, &v->values, &v->values_capacity, v->n_values + 1, sizeof *v->values)
        || !shadow_add_storage(t, &fresh, index))
        return INSET_NO_MEMORY;
    v->values[v->n_values++] = (value_storage){value_index, *index};
    return INSET_OK;
}

/* The shadow's storage of one of the original's; what is not the invoke's own stays itself. */
inset_status shadow_storage(trace *t, int32_t from, int32_t *to)
{
    backward *b = t->backward;
    *to = from;
    if (from >= (int32_t)b->n_storages || b->owner[from] != b->original) return INSET_OK;
    if (b->map[from] >= 0) return *to = b->map[from], INSET_OK;
    storage like = t->storages[from];
    inset_status status;
    if (like.kind == STORAGE_VALUE) {
        if ((status = shadow_value(t, like.value, to))) return status;
        t->storages[*to].changed = like.changed;
        b->settled[from] = t->program->steps[t->program->values[like.value].step].event;
    } else if (!shadow_add_storage(t, &like, to)) return INSET_NO_MEMORY;
    b->map[from] = *to;
    return INSET_OK;
}

inset_status shadow_view(trace *t, const view *from, const view **out)
{
    *out = NULL;
    if (!from) return INSET_OK;
    view *kept = (view *)(uintptr_t)view_keep(t, from);
    if (!kept) return INSET_NO_MEMORY;
    *out = kept;
    return shadow_storage(t, from->storage, &kept->storage);
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
    for (size_t i = 0; i < b->n_storages; i++) b->needed[i] |= b->shared[i] >= 0;
    for (size_t i = 0; i < v->n_rebindings; i++) need(b, v->rebindings[i].view);
    for (size_t i = 0; i < t->n_head_records; i++)
        if (t->head_records[i].invoke == b->original) {
            need(b, t->records[t->head_records[i].record].target);
            need(b, t->records[t->head_records[i].record].a.view);
        }
    for (size_t i = v->n_records; i-- > 0;) {
        const trace_record *r = &t->records[v->first_record + i];
        const int32_t target = r->target->storage;
        const bool of_model = t->storages[target].kind == STORAGE_VALUE;
        if (r->kind == TRACE_SET && of_model && b->owner[target] == b->original)
            b->needed[target] = true;
        if (!b->needed[target]) continue;
        for (int32_t k = 0; k < record_reads(r); k++) need(b, record_view(r, k));
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
        .first_step = t->reversal->first_step,
        .end_step = t->reversal->end_step,
        .shadow_of = original};
    t->n_tokens += tokens;
    t->n_invokes++;
    t->open = true;
    return INSET_OK;
}

static inset_status keep_factor(trace *t, int32_t index, int32_t k, const view *read, double is)
{
    backward *b = t->backward;
    operand kept = number(is);
    const operand from = read ? tensor_operand(read) : kept;
    inset_status status = read ? trace_clone(t, &from, &kept) : INSET_OK;
    if (status) return status;
    if (!array_extend(
            t->context, &b->factors, &b->factors_capacity, b->n_factors + 1, sizeof *b->factors))
        return INSET_NO_MEMORY;
    b->factors[b->n_factors++] = (factor){index, k, kept};
    return INSET_OK;
}

/* The factors of a product or quotient, and what a function is of, as they are when it reads
 * them. */
static inset_status keep_factors(trace *t, int32_t index, const trace_record *r)
{
    const bool function = r->kind == TRACE_MAKE && trace_op_is_function(r->op),
               product = r->kind == TRACE_MAKE
                         && (r->op == TRACE_MULTIPLY || r->op == TRACE_DIVIDE);
    const int32_t n = r->kind == TRACE_CALL                                         ? 1
                      : r->kind == TRACE_ROWS && r->rows->function > TRACE_ROW_MEAN ? r->rows->n
                      : function                                                    ? 1
                      : product                                                     ? 2
                                                                                    : 0;
    inset_status status = INSET_OK;
    for (int32_t k = 0; k < n && !status; k++)
        status = keep_factor(t, index, k, record_view(r, k), k ? r->b.number : r->a.number);
    return status;
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

static inset_status repeat_rows(trace *t, const row_operation *from, const row_operation **out)
{
    *out = from;
    if (!from) return INSET_OK;
    row_operation *rows = arena_copy(&t->memory, from, sizeof *from);
    const view **operands = arena_new(&t->memory, (size_t)from->n * sizeof *operands);
    if (!rows || !operands) return INSET_NO_MEMORY;
    rows->operands = operands;
    *out = rows;
    inset_status status = INSET_OK;
    for (int32_t i = 0; i < from->n && !status; i++)
        status = shadow_view(t, from->operands[i], &operands[i]);
    return status;
}

static inset_status repeat_record(trace *t, const trace_record *from)
{
    backward *b = t->backward;
    trace_record r = *from;
    invoke *v = shadow_of(t);
    inset_status status;
    v->current_event = from->event;
    if ((status = shadow_view(t, from->target, &r.target))
        || (status = shadow_view(t, from->a.view, &r.a.view))
        || (status = shadow_view(t, from->b.view, &r.b.view))
        || (status = repeat_rows(t, from->rows, &r.rows)))
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
    b->written[target] = index;
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
        inset_status status = shadow_view(t, from->view, &kept);
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

/* Repeats the records of the heads that the invoke looks at on their own, from the *next-th on,
 * up to an event. */
static inset_status repeat_head_records(trace *t, int32_t original, int32_t until, size_t *next)
{
    inset_status status = INSET_OK;
    for (; *next < t->n_head_records && !status; ++*next) {
        const head_record *h = &t->head_records[*next];
        const trace_record *r = &t->records[h->record];
        if (r->event > until) break;
        if (h->invoke == original) status = repeat_record(t, r);
    }
    return status;
}

/* Those of the invoke's own records on which something depends, and where heads are looked at on
 * their own, first at its event, the record that takes all of them that way. */
static inset_status repeat_records(trace *t, int32_t original)
{
    backward *b = t->backward;
    const invoke v = t->invokes[original];
    size_t next = 0;
    inset_status status = INSET_OK;
    for (size_t i = 0; i < v.n_records && !status; i++) {
        const size_t at = v.first_record + i;
        if ((status = repeat_head_records(t, original, t->records[at].event, &next))) break;
        const trace_record *r = &t->records[at];
        if (!b->needed[r->target->storage]) continue;
        const int32_t owner = b->owner[r->target->storage];
        if (owner == original) status = repeat_record(t, r);
        /* what others fill too has all its numbers; it is only undone */
        else if (owner == OWNER_SEVERAL && !add_action(t, r->event, ACTION_RECORD, (int32_t)at))
            status = INSET_NO_MEMORY;
    }
    return status ? status : repeat_head_records(t, original, INT32_MAX, &next);
}

inset_status shadow_open(trace *t, int32_t original)
{
    backward *b = t->backward;
    b->original = original;
    b->n_factors = b->n_actions = b->done = b->n_given = 0;
    b->asked = -1;
    b->asked_record = INT32_MAX;
    for (size_t i = 0; i < b->n_storages; i++)
        b->map[i] = b->gradient[i] = b->settled[i] = b->written[i] = -1;
    memset(b->is_one, 0, b->n_storages * sizeof *b->is_one);
    memset(b->reached, 0, t->program->n_values * sizeof *b->reached);
    mark_needed(t, &t->invokes[original]);
    inset_status status = begin_shadow(t, original);
    if (status) return status;
    status = repeat_records(t, original);
    if (!status) status = repeat_bindings(t, original);
    for (size_t i = 0; i < b->n_parcels && !status; i++) {
        if (b->parcels[i].invoke != original) continue;
        int32_t mapped;
        const int32_t of = b->parcels[i].of->storage;
        if (!(status = shadow_storage(t, of, &mapped))
            && !add_action(t, b->settled[of], ACTION_RECEIVE, (int32_t)i))
            status = INSET_NO_MEMORY;
    }
    if (!status && !add_readers(t)) status = INSET_NO_MEMORY;
    if (b->n_actions) qsort(b->actions, b->n_actions, sizeof *b->actions, compare_actions);
    return status;
}
