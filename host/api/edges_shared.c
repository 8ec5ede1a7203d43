/* edges_shared.c: attribution of edges that several run, of the public API. */
#include "api/edges.h"

#include <string.h>

inset_status edges_need_model(const inset_edges *e)
{
    if (e->edges->s->model) return INSET_OK;
    return error_set(
        e->context, INSET_USAGE_ERROR, "the edges were merged from parts: they have scores alone");
}

inset_status edges_need_device(const inset_edges *e)
{
    inset_status status = edges_need_model(e);
    return status ? status : api_need_device(e->edges->s->model);
}

inset_status inset_edges_progress_of(const inset_edges *e, inset_sweep_progress *out)
{
    if (!e) return INSET_USAGE_ERROR;
    if (!out) return api_null(e->context, "a place for the progress");
    return api_progress(e->edges->s, out);
}

_Static_assert(sizeof(edge_cut) <= sizeof(inset_cut), "a cut");

inset_status inset_edges_cut(const inset_edges *e, inset_cut *out)
{
    if (!e) return INSET_USAGE_ERROR;
    if (!out) return api_null(e->context, "a place for the cut");
    inset_status status = edges_need_model(e);
    if (status) return status;
    const edge_cut cut = edges_cut(e->edges);
    *out = (inset_cut){{0}};
    memcpy(out, &cut, sizeof cut);
    return INSET_OK;
}

inset_status inset_edges_cut_as(inset_edges *e, const inset_cut *cut)
{
    edge_cut wanted;
    if (!e) return INSET_USAGE_ERROR;
    if (!cut) return api_null(e->context, "the cut");
    inset_status status = edges_need_model(e);
    memcpy(&wanted, cut, sizeof wanted);
    return status ? status : edges_cut_as(e->edges, &wanted);
}

int64_t inset_edges_take(inset_edges *e) { return e ? book_take(e->edges->s) : -1; }

void inset_edges_give_back(inset_edges *e, int64_t chunk)
{
    if (e && chunk >= 0 && chunk < e->edges->s->book->n) book_give_back(e->edges->s, chunk);
}

inset_status inset_edges_run_chunk(inset_edges *e, int64_t chunk, const void **data, size_t *size)
{
    chunk_counts counts;
    if (!e) return INSET_USAGE_ERROR;
    if (!data || !size) return api_null(e->context, "a place for the chunk's numbers");
    inset_status status = edges_need_device(e);
    if (status) return status;
    const int64_t n = e->edges->s->book->n;
    if (chunk < 0 || chunk >= n)
        return error_set(e->context, INSET_INDEX_ERROR, "chunk %lld was asked for; there are %lld",
            (long long)chunk, (long long)n);
    memory_free(e->context, e->record);
    e->record = NULL;
    status = edges_run_chunk(e->edges, chunk, &counts);
    if (!status) status = edges_record_make(e->edges, chunk, &counts, &e->record, size);
    *data = e->record;
    return status;
}

inset_status inset_edges_put(inset_edges *e, const void *data, size_t size)
{
    if (!e) return INSET_USAGE_ERROR;
    const int64_t chunk = data ? edges_record_chunk(e->edges, data, size) : -1;
    if (chunk < 0) return INSET_VALUE_ERROR;
    return edges_keep(e->edges, chunk, data, size) ? INSET_FILE_ERROR : INSET_OK;
}

static void free_object(void *object) { inset_edges_free(object); }

inset_status inset_edges_merge(
    inset_context *context, size_t n, const char *const *parts, inset_edges **out)
{
    if (!context) return INSET_USAGE_ERROR;
    if (!out || (n && !parts)) return api_null(context, "the parts, or a place for the edges");
    inset_edges *e = memory_new(context, sizeof *e);
    if (!e) return INSET_NO_MEMORY;
    e->context = context;
    inset_status status = edges_merge(context, n, parts, &e->edges);
    if (status) {
        memory_free(context, e);
        return status;
    }
    handle_add(context, &e->handle, context, e, free_object);
    *out = e;
    return INSET_OK;
}
