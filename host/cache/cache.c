/* cache.c: a cache from its options to its last shard.
 *
 * Whatever can be wrong with the options is found in cache_create. Then each step runs a batch:
 * where the device works ahead, the next one is planned and waits there while the rows of the first
 * go to the writer. */
#include "cache/cache.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "device/device.h"
#include "run/run.h"

enum { SHARD_BYTES = 512 << 20, CPU_TOKENS = 2048, GPU_TOKENS = 16384 };

/* ---- settings ----------------------------------------------------------- */

static bool set(cache *c, const char *name, const char *value)
{
    const char *kept = arena_text(&c->memory, value ? value : "", value ? strlen(value) : 0);
    c->settings[c->n_settings++] = (setting){name, kept};
    return kept != NULL;
}

static bool set_number(cache *c, const char *name, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%" PRId64, value);
    return set(c, name, text);
}

static bool set_hash(cache *c, const char *name)
{
    const prompts *p = &c->prompts;
    char text[64];
    uint64_t hash = hash_bytes(1, p->lengths, (size_t)p->count * sizeof *p->lengths);
    hash = hash_bytes(hash, p->tokens, (size_t)c->total_tokens * sizeof *p->tokens);
    snprintf(text, sizeof text, "%" PRId64 ", hash %016" PRIx64, p->count, hash);
    return set(c, name, text);
}

/* All that decides the bytes of the shards. */
static inset_status take_settings(cache *c, const inset_cache_options *o)
{
    const struct device *d = c->model->device;
    const char *kind = sweep_device_kind(&c->memory, d);
    const bool good = set(c, "inset", INSET_VERSION) && set(c, "family", c->program->model_type)
                      && set(c, "weights", o->version)
                      && set(c, "computed in", type_name(c->model->type)) && kind
                      && set(c, "device", kind) && set_hash(c, "prompts")
                      && set(c, "sites", o->sites)
                      && set(c, "layers", o->layers ? o->layers : "all")
                      && set(c, "positions", o->positions ? o->positions : "all")
                      && set(c, "dtype", type_name(c->type))
                      && set_number(c, "shard bytes", (int64_t)c->shard_bytes)
                      && set_number(c, "batch tokens", c->batch_tokens)
                      && set_number(c, "memory", (int64_t)o->memory_limit)
                      && set(c, "shared", c->no_share ? "no" : "yes")
                      && set(c, "fast", d->fast ? "yes" : "no")
                      && set(c, "ungroup", c->program->ungroup ? "yes" : "no");
    return good ? INSET_OK : INSET_NO_MEMORY;
}

/* ---- create ------------------------------------------------------------- */

static inset_status check_options(const cache *c, const inset_cache_options *o)
{
    const char *missing = !o->prompts.text && !o->prompts.count ? "prompts"
                          : !o->sites || !*o->sites             ? "sites"
                          : !o->directory || !*o->directory     ? "directory"
                                                                : NULL;
    if (missing) return error_set(c->context, INSET_USAGE_ERROR, "a cache needs %s", missing);
    if (o->parts < 0 || o->part < (o->parts > 0) || o->part > o->parts)
        return error_set(c->context, INSET_VALUE_ERROR,
            "part %" PRId64 " of %" PRId64 ": 1 to as many as there are was expected", o->part,
            o->parts);
    if (o->batch_tokens < 0)
        return error_set(c->context, INSET_VALUE_ERROR,
            "batches of %" PRId64 " tokens; 1 or more were expected", o->batch_tokens);
    return INSET_OK;
}

/* What reads prompts and names is a sweep's; this is one that has neither points nor runs. */
static inset_status start_reader(cache *c)
{
    sweep *s = &c->reader;
    *s = (sweep){.context = c->context, .model = c->model, .program = c->program};
    arena_start(&s->memory, c->context);
    s->n_layers = layers_count(c->program);
    if (!s->n_layers || !c->program->vocabulary)
        return error_set(c->context, INSET_UNKNOWN_SITE,
            "%s: a cache takes a model of tokens with numbered blocks of attention",
            c->program->model_type);
    return blocks_read(s);
}

static inset_status keep_texts(cache *c, const inset_cache_options *o)
{
    c->directory = arena_text(&c->memory, o->directory, strlen(o->directory));
    c->model_name = o->model ? arena_text(&c->memory, o->model, strlen(o->model)) : "";
    return c->directory && c->model_name ? INSET_OK : INSET_NO_MEMORY;
}

static void take_numbers(cache *c, const inset_cache_options *o)
{
    c->no_share = o->no_share != 0;
    c->memory_limit = o->memory_limit ? o->memory_limit : model_memory_left(c->model);
    c->shard_bytes = o->shard_bytes ? o->shard_bytes : SHARD_BYTES;
    c->batch_tokens = o->batch_tokens                        ? o->batch_tokens
                      : device_works_ahead(c->model->device) ? GPU_TOKENS
                                                             : CPU_TOKENS;
    c->part = o->parts > 1 ? o->part : 0;
    c->parts = o->parts > 1 ? o->parts : 0;
    c->descriptor = c->part_lock = -1;
    c->open_shard = c->batch = -1;
}

/* cache.json is there before the first shard is. */
static inset_status start_writer(cache *c)
{
    packet *p;
    inset_status status = shard_writer_create(c->context, c->descriptor, c->directory, &c->writer);
    if (!status) status = shard_packet(c->writer, &p);
    if (status) return status;
    p->index_name = c->index_name;
    if (!(p->index = index_text(c, -1))) return error_no_memory(c->context);
    shard_submit(c->writer, p);
    return INSET_OK;
}

static void count_restored(cache *c)
{
    inset_cache_progress *p = &c->progress;
    c->finished = true;
    for (int64_t i = 0; i < c->n_shards; i++) {
        const int64_t n = c->first_prompt[i + 1] - c->first_prompt[i];
        if (!shard_is_mine(c, i)) continue;
        c->finished = c->finished && c->done[i];
        p->mine += n;
        if (c->done[i]) p->restored += n;
    }
    p->prompts = c->prompts.count;
    p->rows = c->total_rows;
    p->shards = c->n_shards;
    p->tensors = (int64_t)c->n_taps;
    p->done = p->restored;
}

/* What is to be known of the parts when this one is done. */
static inset_status join(cache *c)
{
    bool complete = true;
    inset_status status = index_join(c, &complete);
    c->progress.complete = complete;
    return status;
}

static inset_status build(cache *c, const inset_cache_options *o)
{
    inset_status status = check_options(c, o);
    if (!status) status = start_reader(c);
    if (!status) status = keep_texts(c, o);
    if (!status) status = prompts_read(&c->reader, "prompts", &o->prompts, &c->prompts);
    if (!status) status = pick_read(c, o);
    if (status) return status;
    c->offsets = arena_new(&c->memory, (c->n_taps + INDEX_TENSORS) * sizeof *c->offsets);
    if (!c->offsets) return INSET_NO_MEMORY;
    if ((status = pack_cut(c)) || (status = take_settings(c, o)) || (status = index_open(c)))
        return status;
    count_restored(c);
    return c->finished ? join(c) : start_writer(c);
}

inset_status cache_create(
    struct inset_model *model, const inset_cache_options *options, cache **out)
{
    cache *c = memory_new(model->context, sizeof *c);
    *out = NULL;
    if (!c) return INSET_NO_MEMORY;
    c->context = model->context;
    c->model = model;
    c->program = model->program;
    arena_start(&c->memory, c->context);
    take_numbers(c, options);
    inset_status status = build(c, options);
    if (status) {
        cache_free(c);
        return status;
    }
    *out = c;
    return INSET_OK;
}

void cache_free(cache *c)
{
    if (!c) return;
    works_leave_device(c);
    plans_drop(c);
    shard_writer_free(c->writer);
    index_close(c);
    memory_free(c->context, c->order);
    memory_free(c->context, c->batches);
    memory_free(c->context, c->row_starts);
    arena_free(&c->reader.memory);
    arena_free(&c->memory);
    memory_free(c->context, c);
}

/* ---- step --------------------------------------------------------------- */

/* After a failure nobody knows what is in the device's memory: the next step begins anew with the
 * batch that was not finished. */
static inset_status give_up(cache *c, inset_status status)
{
    const work *first = c->now ? c->now : c->following;
    const int64_t shard = first ? first->shard : c->shard, batch = first ? first->batch : c->batch,
                  offset = first ? first->offset : c->offset;
    works_leave_device(c);
    if (!first) return status;
    c->shard = shard;
    c->batch = -1;
    if (!pack_shard(c, shard)) {
        c->batch = batch;
        c->offset = offset;
    }
    return status;
}

/* The batch behind the one that the device is at waits there. Where that fails the next step tries
 * again and tells. */
static void start_ahead(cache *c)
{
    if (c->following || !device_works_ahead(c->model->device)) return;
    if (work_next(c, &c->following) || !c->following) return;
    work_start(c, c->following);
}

static inset_status finish_all(cache *c)
{
    inset_status status = shard_drain(c->writer);
    if (status) return status;
    works_leave_device(c);
    c->finished = true;
    return join(c);
}

inset_status cache_step(cache *c)
{
    if (c->finished) return INSET_OK;
    inset_status status = c->now ? INSET_OK : work_next(c, &c->now);
    if (status) return give_up(c, status);
    if (!c->now) return finish_all(c);
    if (!c->now->started) status = work_start(c, c->now);
    if (status) return give_up(c, status);
    start_ahead(c);
    if ((status = work_finish(c, c->now))) return give_up(c, status);
    work *finished = c->now;
    c->now = NULL;
    work_free(c, finished);
    c->now = c->following;
    c->following = NULL;
    return INSET_OK;
}
