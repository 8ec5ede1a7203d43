/* cache.c: caches of the public API. */
#include "cache/cache.h"

#include <string.h>

#include "api/api.h"

struct inset_cache {
    handle handle; /* owner: the model */
    inset_context *context;
    cache *cache;
};

static void free_object(void *object) { inset_cache_free(object); }

inset_status inset_cache_create(
    inset_model *model, const inset_cache_options *options, inset_cache **out)
{
    inset_cache_options given = INSET_CACHE_OPTIONS;
    if (!model) return INSET_USAGE_ERROR;
    inset_context *context = model->context;
    if (!options || !out)
        return api_null(context, options ? "a place for the cache" : "the options of a cache");
    if (options->size < sizeof options->size || options->size > sizeof given)
        return error_set(context, INSET_USAGE_ERROR,
            "cache options of %zu bytes were given, at most %zu are known; begin with "
            "INSET_CACHE_OPTIONS",
            options->size, sizeof given);
    memcpy(&given, options, options->size);
    inset_status status = api_need_device(model);
    if (status) return status;
    inset_cache *c = memory_new(context, sizeof *c);
    if (!c) return INSET_NO_MEMORY;
    c->context = context;
    if ((status = cache_create(model, &given, &c->cache))) {
        memory_free(context, c);
        return status;
    }
    handle_add(context, &c->handle, model, c, free_object);
    *out = c;
    return INSET_OK;
}

void inset_cache_free(inset_cache *c)
{
    if (!c) return;
    handle_remove(c->context, &c->handle);
    cache_free(c->cache);
    memory_free(c->context, c);
}

inset_status inset_cache_step(inset_cache *c)
{
    return c ? cache_step(c->cache) : INSET_USAGE_ERROR;
}

int inset_cache_done(const inset_cache *c) { return !c || c->cache->finished; }

inset_status inset_cache_progress_of(const inset_cache *c, inset_cache_progress *out)
{
    if (!c) return INSET_USAGE_ERROR;
    if (!out) return api_null(c->context, "a place for the progress");
    inset_cache_progress all = c->cache->progress;
    if (out->size < sizeof out->size || out->size > sizeof all)
        return error_set(c->context, INSET_USAGE_ERROR,
            "a progress of %zu bytes was asked for, at most %zu are known; begin with "
            "INSET_CACHE_PROGRESS",
            out->size, sizeof all);
    all.size = out->size;
    memcpy(out, &all, out->size);
    return INSET_OK;
}
