/* items.c: sites by number and indices item by item, of the public API. */
#include <string.h>

#include "api/api.h"

static inset_status check_site(inset_trace *t, size_t site)
{
    const program *p = trace_program(t->trace);
    if (site < p->n_sites) return INSET_OK;
    return error_set(t->context, INSET_INDEX_ERROR, "site %zu was asked for; the model has %zu",
        site, p->n_sites);
}

inset_status inset_get_site(inset_trace *t, size_t site, inset_value **out)
{
    operand made;
    if (!t) return INSET_USAGE_ERROR;
    if (!out) return api_null(t->context, "a place for the value");
    inset_status status = check_site(t, site);
    if (!status) status = trace_site(t->trace, (int32_t)site, &made);
    return api_give(t, status, &made, out);
}

inset_status inset_set_site(inset_trace *t, size_t site, inset_value *source)
{
    if (!t) return INSET_USAGE_ERROR;
    inset_status status = api_check_value(t, source);
    if (!status) status = check_site(t, site);
    return status ? status : trace_replace(t->trace, (int32_t)site, &source->operand);
}

/* Lists are copied: records refer to them. */
static inset_status read_item(inset_trace *t, const inset_index_item *from, index_item *to)
{
    static const index_kind kinds[] = {
        INDEX_INTEGER, INDEX_SLICE, INDEX_ELLIPSIS, INDEX_LIST, INDEX_NEW};
    if (from->kind < INSET_AT || from->kind > INSET_NEW)
        return error_set(t->context, INSET_USAGE_ERROR,
            "an index item of kind %d was given, which is none", (int)from->kind);
    *to = (index_item){.kind = kinds[from->kind],
        .integer = from->at,
        .has_start = from->has_start != 0,
        .has_stop = from->has_stop != 0,
        .has_step = from->has_step != 0,
        .start = from->start,
        .stop = from->stop,
        .step = from->step,
        .list_length = from->count};
    if (from->kind != INSET_LIST || !from->count) return INSET_OK;
    if (!from->list) return api_null(t->context, "a list of an index");
    int64_t *list = arena_new(trace_arena(t->trace), from->count * sizeof *list);
    if (!list) return INSET_NO_MEMORY;
    memcpy(list, from->list, from->count * sizeof *list);
    to->list = list;
    return INSET_OK;
}

enum { FEW_ITEMS = 16 };

/* The items in `few`, or where they are more in the trace's arena. */
static inset_status read_items(
    inset_trace *t, size_t n, const inset_index_item *from, index_item *few, index_item **out)
{
    if (n && !from) return api_null(t->context, "an index");
    *out = n <= FEW_ITEMS ? few : arena_new(trace_arena(t->trace), n * sizeof **out);
    inset_status status = *out ? INSET_OK : INSET_NO_MEMORY;
    for (size_t i = 0; i < n && !status; i++) status = read_item(t, &from[i], &(*out)[i]);
    return status;
}

inset_status inset_index_items(
    inset_value *value, size_t n, const inset_index_item *from, inset_value **out)
{
    index_item few[FEW_ITEMS], *items;
    operand made;
    if (!value) return INSET_USAGE_ERROR;
    if (!out) return api_null(value->trace->context, "a place for the value");
    inset_status status = read_items(value->trace, n, from, few, &items);
    if (!status) status = trace_index(value->trace->trace, &value->operand, n, items, &made);
    return api_give(value->trace, status, &made, out);
}

inset_status inset_set_items(
    inset_value *target, size_t n, const inset_index_item *from, inset_value *source)
{
    index_item few[FEW_ITEMS], *items;
    if (!target) return INSET_USAGE_ERROR;
    inset_status status = api_check_value(target->trace, source);
    if (!status) status = read_items(target->trace, n, from, few, &items);
    return status ? status
                  : trace_set(target->trace->trace, &target->operand, n, items, TRACE_COPY,
                      &source->operand);
}
