/* heads.c: what lines set where a head stands alone, taken to where all heads meet (head_path in
 * program/program.h). The set itself is a set like any other, of rows that steps aside make; what
 * is recorded here is a second one, as soon as the run has gone past the step that makes
 * `path->made`: the same positions and heads of it, set in `path->target`. */
#include "trace/heads.h"

static const site *site_of(const trace *t, const head_path *path)
{
    return &t->program->sites[path->site];
}

/* The elements of `slot` that go with those of the path's site that `set` shows: the same rows
 * and heads, and of each head all its columns. */
static inset_status mirror(
    trace *t, int32_t invoke_index, const head_path *path, const view *set, int32_t slot, view *out)
{
    view all;
    inset_status status = view_of_value(t, invoke_index, slot, &all);
    if (status) return status;
    const slot_shape *from = &t->program->slots[site_of(t, path)->slot].shape,
                     *to = &t->program->slots[slot].shape;
    const int64_t width = from->extent[from->n_columns - 1], apart = !path->by_head ? 0
                                                                     : to->stride   ? to->stride
                                                                                    : to->extent[1];
    *out = *set;
    out->storage = all.storage;
    out->column = all.column + (set->column - from->column) / width * apart;
    out->n_dimensions = 0;
    out->position_dimension = -1;
    for (int i = 0; i < set->n_dimensions; i++) {
        dimension d = set->dimensions[i];
        if (d.kind == DIMENSION_COLUMN) {
            if (!path->by_head || d.stride % width) continue; /* inside a head */
            d.stride = d.stride / width * apart;
        }
        if (i == set->position_dimension) out->position_dimension = out->n_dimensions;
        out->dimensions[out->n_dimensions++] = d;
    }
    out->dimensions[out->n_dimensions++] = (dimension){.kind = DIMENSION_COLUMN,
        .extent = path->by_head ? to->extent[1] : to->extent[0],
        .stride = 1};
    return INSET_OK;
}

const head_path *heads_path_of(const trace *t, int32_t value_index)
{
    const program *g = t->program;
    if (!g->steps[g->values[value_index].step].aside) return NULL;
    for (size_t i = 0; i < g->n_head_paths; i++)
        if (g->slots[g->sites[g->head_paths[i].site].slot].value == value_index)
            return &g->head_paths[i];
    return NULL;
}

/* Is the product that the path ends in left out by a skip? */
static bool is_skipped(const trace *t, const invoke *v, const head_path *path)
{
    const program *g = t->program;
    const int32_t event = program_maker(g, path->target)->event;
    for (size_t i = 0; i < v->n_skips; i++)
        if (event > v->skips[i].enter && event < v->skips[i].leave) return true;
    return false;
}

static inset_status note(trace *t, const head_path *path, const view *set)
{
    invoke *v = &t->invokes[t->n_invokes - 1];
    if (v->current_event > path->event) return INSET_OK; /* too late to be read */
    head_set *made = arena_new(&t->memory, sizeof *made);
    if (!made) return INSET_NO_MEMORY;
    *made = (head_set){.path = path, .next = NULL};
    inset_status status = mirror(t, (int32_t)t->n_invokes - 1, path, set, path->made, &made->from);
    if (!status) status = mirror(t, (int32_t)t->n_invokes - 1, path, set, path->target, &made->to);
    if (status) return status;
    v = &t->invokes[t->n_invokes - 1];
    head_set **end = &v->head_sets;
    while (*end) end = &(*end)->next;
    *end = made;
    return INSET_OK;
}

inset_status heads_note_set(trace *t, const view *target)
{
    const storage *s = &t->storages[target->storage];
    if (s->kind != STORAGE_VALUE || !t->open || !t->program->n_head_paths) return INSET_OK;
    if (t->invokes[t->n_invokes - 1].reversed) return INSET_OK;
    const head_path *path = heads_path_of(t, s->value);
    return path ? note(t, path, target) : INSET_OK;
}

/* A site of an expert on its own shows a part of what all experts have. */
static bool is_part(const program *g, int32_t slot)
{
    const struct slot *s = &g->slots[slot];
    const step *made = &g->steps[g->values[s->value].step];
    return made->aside && s->source >= 0 && s->shape.n_columns == 1
           && s->shape.extent[0] < g->values[s->value].width;
}

inset_status heads_bind_part(trace *t, int32_t *slot, view *v)
{
    if (!is_part(t->program, *slot)) return INSET_OK;
    const struct slot *part = &t->program->slots[*slot], *all = &t->program->slots[part->source];
    view before;
    operand copy, to;
    inset_status status = view_of_slot(t, (int32_t)t->n_invokes - 1, part->source, &before);
    if (!status) status = trace_copy_shaped(t, &before, &before, &copy);
    if (status) return status;
    to = copy;
    to.view.column += part->shape.column - all->shape.column;
    to.view.dimensions[to.view.n_dimensions - 1].extent = part->shape.extent[0];
    const operand from = {.kind = OPERAND_TENSOR, .view = *v};
    if ((status = trace_set(t, &to, 0, NULL, TRACE_COPY, &from))) return status;
    *slot = part->source;
    *v = copy.view;
    return INSET_OK;
}

inset_status heads_note_replaced(trace *t, int32_t slot)
{
    const head_path *path = heads_path_of(t, t->program->slots[slot].value);
    view all;
    if (!path || (site_of(t, path)->slot != slot && !is_part(t->program, slot))) return INSET_OK;
    inset_status status = view_of_value(t, (int32_t)t->n_invokes - 1, slot, &all);
    return status ? status : note(t, path, &all);
}

inset_status heads_go_on(trace *t, int32_t event)
{
    for (;;) {
        /* the earliest first; of one path in the order of the lines */
        head_set **earliest = NULL;
        invoke *v = &t->invokes[t->n_invokes - 1];
        for (head_set **at = &v->head_sets; *at; at = &(*at)->next)
            if ((*at)->path->event < event
                && (!earliest || (*at)->path->event < (*earliest)->path->event))
                earliest = at;
        if (!earliest) return INSET_OK;
        const head_set now = **earliest;
        *earliest = now.next;
        if (is_skipped(t, v, now.path)) continue;
        const operand to = {.kind = OPERAND_TENSOR, .view = now.to},
                      from = {.kind = OPERAND_TENSOR, .view = now.from};
        v->current_event = now.path->event;
        inset_status status = trace_set(t, &to, 0, NULL, TRACE_COPY, &from);
        if (status) return status;
    }
}

/* ---- for gradients ------------------------------------------------------ */

/* Do lines change what the product of all heads reads or makes? What was taken there from a
 * site's own heads does not count. */
static bool is_changed(const trace *t, const invoke *v, const head_path *path)
{
    const program *g = t->program;
    const int32_t made = g->slots[path->target].value;
    const step *product = &g->steps[g->values[made].step];
    const int32_t read = path->by_head ? g->slots[product->operands[0]].value : -1;
    for (size_t i = 0; i < v->n_rebindings; i++) {
        const int32_t at = g->slots[v->rebindings[i].slot].value;
        if ((at == made || (read >= 0 && at == read))
            && g->slots[v->rebindings[i].slot].event < path->event)
            return true;
    }
    for (size_t i = 0; i < v->n_records; i++) {
        const trace_record *r = &t->records[v->first_record + i];
        const storage *to = &t->storages[r->target->storage];
        if (to->kind != STORAGE_VALUE || r->event > path->event) continue;
        if ((read >= 0 && to->value == read) || (to->value == made && r->event < path->event))
            return true;
    }
    return false;
}

static bool is_there(const trace *t, int32_t invoke_index, const view *target)
{
    for (size_t i = 0; i < t->n_head_records; i++) {
        const head_record *h = &t->head_records[i];
        const view *to = t->records[h->record].target;
        if (h->invoke == invoke_index && to->storage == target->storage
            && to->column == target->column)
            return true;
    }
    return false;
}

static inset_status add_whole(trace *t, int32_t invoke_index, const head_path *path)
{
    view from, to;
    inset_status status = view_of_value(t, invoke_index, path->made, &from);
    if (!status) status = view_of_value(t, invoke_index, path->target, &to);
    if (status || is_there(t, invoke_index, &to)) return status;
    trace_record r = {.kind = TRACE_SET,
        .event = path->event,
        .target = view_keep(t, &to),
        .a = {.view = view_keep(t, &from)}};
    if (!r.target || !r.a.view
        || !array_reserve(
            t->context, &t->records, &t->records_capacity, t->n_records + 1, sizeof *t->records)
        || !array_reserve(t->context, &t->head_records, &t->head_records_capacity,
            t->n_head_records + 1, sizeof *t->head_records))
        return INSET_NO_MEMORY;
    size_t at = t->n_head_records++;
    for (; at > 0 && t->records[t->head_records[at - 1].record].event > r.event; at--)
        t->head_records[at] = t->head_records[at - 1];
    t->head_records[at] = (head_record){invoke_index, (int32_t)t->n_records};
    t->records[t->n_records++] = r;
    return INSET_OK;
}

inset_status heads_for_gradients(trace *t)
{
    for (size_t i = 0; i < t->n_invokes; i++) {
        if (t->invokes[i].reversed) continue;
        for (size_t k = 0; k < t->invokes[i].n_values; k++) {
            const invoke *v = &t->invokes[i];
            const head_path *path = heads_path_of(t, v->values[k].value);
            if (!path || path->event > v->current_event || is_skipped(t, v, path)
                || is_changed(t, v, path))
                continue;
            inset_status status = add_whole(t, (int32_t)i, path);
            if (status) return status;
        }
    }
    return INSET_OK;
}
