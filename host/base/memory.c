/* memory.c: blocks, arenas and growing arrays, all of them through the context's allocator. */
#include "base/base.h"

#include <stdlib.h>
#include <string.h>

static void *default_resize(void *user, void *block, size_t size)
{
    (void)user;
    if (size == 0) {
        free(block);
        return NULL;
    }
    return realloc(block, size);
}

inset_status inset_context_create(const inset_allocator *allocator, inset_context **out)
{
    static const inset_allocator standard = {default_resize, NULL};
    if (!out) return INSET_USAGE_ERROR;
    if (!allocator || !allocator->resize) allocator = &standard;
    inset_context *context = allocator->resize(allocator->user, NULL, sizeof *context);
    *out = context;
    if (!context) return INSET_NO_MEMORY;
    memset(context, 0, sizeof *context);
    context->allocator = *allocator;
    return INSET_OK;
}

void *memory_new(inset_context *context, size_t size)
{
    void *block = context->allocator.resize(context->allocator.user, NULL, size ? size : 1);
    if (!block) {
        error_no_memory(context);
        return NULL;
    }
    memset(block, 0, size);
    context->live_blocks++;
    return block;
}

void *memory_resize(inset_context *context, void *block, size_t old_size, size_t size)
{
    if (!block) return memory_new(context, size);
    char *moved = context->allocator.resize(context->allocator.user, block, size ? size : 1);
    if (!moved) {
        error_no_memory(context);
        return NULL;
    }
    if (size > old_size) memset(moved + old_size, 0, size - old_size);
    return moved;
}

void memory_free(inset_context *context, void *block)
{
    if (!block) return;
    context->allocator.resize(context->allocator.user, block, 0);
    context->live_blocks--;
}

char *memory_text(inset_context *context, const char *bytes, size_t length)
{
    char *copy = memory_new(context, length + 1);
    if (copy && length) memcpy(copy, bytes, length);
    return copy;
}

static bool array_grow(inset_context *context, void *items, size_t *capacity, size_t need,
    size_t item_size, bool zeroed)
{
    if (need <= *capacity) return true;
    size_t grown = *capacity ? *capacity * 2 : 8;
    if (grown < need) grown = need;
    if (grown > SIZE_MAX / 2 / item_size) {
        error_no_memory(context);
        return false;
    }
    void *block;
    memcpy(&block, items, sizeof block);
    char *moved = context->allocator.resize(context->allocator.user, block, grown * item_size);
    if (!moved) {
        error_no_memory(context);
        return false;
    }
    if (!block) context->live_blocks++;
    if (zeroed) memset(moved + *capacity * item_size, 0, (grown - *capacity) * item_size);
    block = moved;
    memcpy(items, &block, sizeof block);
    *capacity = grown;
    return true;
}

bool array_reserve(
    inset_context *context, void *items, size_t *capacity, size_t need, size_t item_size)
{
    return array_grow(context, items, capacity, need, item_size, true);
}

bool array_extend(
    inset_context *context, void *items, size_t *capacity, size_t need, size_t item_size)
{
    return array_grow(context, items, capacity, need, item_size, false);
}

bool array_trim(
    inset_context *context, void *items, size_t *capacity, size_t count, size_t item_size)
{
    void *block;
    memcpy(&block, items, sizeof block);
    if (!count || count >= *capacity) return true;
    block = context->allocator.resize(context->allocator.user, block, count * item_size);
    if (!block) {
        error_no_memory(context);
        return false;
    }
    memcpy(items, &block, sizeof block);
    *capacity = count;
    return true;
}

/* ---- arena -------------------------------------------------------------- */

struct arena_block {
    arena_block *next;
    size_t size;   /* bytes behind this header */
    size_t pad[2]; /* keeps what follows aligned to 16 */
};

enum { ARENA_FIRST = 8 << 10, ARENA_LARGEST = 1 << 20, ARENA_SPARE_LIMIT = 4 << 20 };

void arena_start(arena *a, inset_context *context)
{
    memset(a, 0, sizeof *a);
    a->context = context;
}

/* A spare block of at least `size` bytes, unlinked from the context's list; NULL when there is
 * none. */
static arena_block *take_spare(inset_context *context, size_t size)
{
    for (arena_block **at = &context->spare; *at; at = &(*at)->next) {
        if ((*at)->size < size) continue;
        arena_block *block = *at;
        *at = block->next;
        context->spare_bytes -= block->size;
        return block;
    }
    return NULL;
}

static bool arena_grow(arena *a, size_t size)
{
    size_t want = a->blocks ? a->blocks->size * 2 : ARENA_FIRST;
    if (want > ARENA_LARGEST) want = ARENA_LARGEST;
    if (want < size) want = size;
    arena_block *block = take_spare(a->context, size);
    if (!block) {
        if (want > SIZE_MAX - sizeof *block) {
            error_no_memory(a->context);
            return false;
        }
        block = a->context->allocator.resize(
            a->context->allocator.user, NULL, sizeof *block + want);
        if (!block) {
            error_no_memory(a->context);
            return false;
        }
        a->context->live_blocks++;
        block->size = want;
    }
    block->next = a->blocks;
    a->blocks = block;
    a->next = (char *)(block + 1);
    a->end = a->next + block->size;
    return true;
}

void *arena_new(arena *a, size_t size)
{
    if (size > SIZE_MAX - 15) {
        error_no_memory(a->context);
        return NULL;
    }
    /* nothing has an address too: NULL means that memory is out */
    size = ((size ? size : 1) + 15) & ~(size_t)15;
    if (size > (size_t)(a->end - a->next) && !arena_grow(a, size)) return NULL;
    void *at = a->next;
    a->next += size;
    a->used += size;
    memset(at, 0, size);
    return at;
}

void *arena_copy(arena *a, const void *bytes, size_t size)
{
    void *copy = arena_new(a, size);
    if (copy && size) memcpy(copy, bytes, size);
    return copy;
}

char *arena_text(arena *a, const char *bytes, size_t length)
{
    char *copy = arena_new(a, length + 1);
    if (copy && length) memcpy(copy, bytes, length);
    return copy;
}

static void block_free(inset_context *context, arena_block *block)
{
    context->allocator.resize(context->allocator.user, block, 0);
    context->live_blocks--;
}

void arena_free(arena *a)
{
    for (arena_block *block = a->blocks, *next; block; block = next) {
        inset_context *context = a->context;
        next = block->next;
        if (context->spare_bytes + block->size > ARENA_SPARE_LIMIT) {
            block_free(context, block);
            continue;
        }
        block->next = context->spare;
        context->spare = block;
        context->spare_bytes += block->size;
    }
    arena_start(a, a->context);
}

/* ---- handles ------------------------------------------------------------ */

void handle_add(
    inset_context *context, handle *h, void *owner, void *object, void (*free)(void *object))
{
    *h = (handle){NULL, context->handles, owner, object, free};
    if (h->older) h->older->newer = h;
    context->handles = h;
}

void handle_remove(inset_context *context, handle *h)
{
    if (!h->object) return;
    if (h->newer) h->newer->older = h->older;
    else context->handles = h->older;
    if (h->older) h->older->newer = h->newer;
    *h = (handle){0};
}

/* Freeing one may free others made from it, so the walk starts again after each; there are few. */
void handle_free_owned(inset_context *context, void *owner)
{
    handle *h = context->handles;
    while (h) {
        if (h->owner == owner) {
            h->free(h->object);
            h = context->handles;
        } else {
            h = h->older;
        }
    }
}

void inset_context_free(inset_context *context)
{
    if (!context) return;
    while (context->handles) context->handles->free(context->handles->object);
    for (arena_block *block = context->spare, *next; block; block = next) {
        next = block->next;
        block_free(context, block);
    }
    text_free(context, &context->place);
    text_free(context, &context->help);
    text_free(context, &context->sentence);
    text_free(context, &context->message);
    context->allocator.resize(context->allocator.user, context, 0);
}

/* ---- table -------------------------------------------------------------- */

uint64_t hash_bytes(uint64_t seed, const void *bytes, size_t size)
{
    const unsigned char *at = bytes;
    uint64_t h = seed ^ (size * 0x9e3779b97f4a7c15u);
    for (; size >= 8; at += 8, size -= 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        h = (h ^ word) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
    }
    for (; size; at++, size--) h = (h ^ *at) * 0x100000001b3u;
    h ^= h >> 29;
    h *= 0xc4ceb9fe1a85ec53u;
    return h ^ (h >> 32);
}

/* Slots keep 32 bits of a hash, enough to find their place again when the table grows. */
static uint32_t table_hash(uint64_t hash) { return (uint32_t)(hash ^ hash >> 32); }

int32_t table_next(const table *t, uint64_t full_hash, size_t *cursor)
{
    if (!t->capacity) return -1;
    size_t mask = t->capacity - 1;
    uint32_t hash = table_hash(full_hash);
    for (size_t at = *cursor;; at++) {
        const table_slot *slot = &t->slots[(hash + at) & mask];
        if (!slot->index) return -1;
        if (slot->hash == hash) {
            *cursor = at + 1;
            return slot->index - 1;
        }
    }
}

static void table_put(table *t, uint32_t hash, int32_t index)
{
    size_t mask = t->capacity - 1, at = hash;
    while (t->slots[at & mask].index) at++;
    t->slots[at & mask] = (table_slot){hash, index + 1};
    t->count++;
}

bool table_add(inset_context *context, table *t, uint64_t hash, int32_t index)
{
    if (t->count * 3 >= t->capacity * 2) {
        table grown = {.capacity = t->capacity ? t->capacity * 4 : 64};
        grown.slots = memory_new(context, grown.capacity * sizeof *grown.slots);
        if (!grown.slots) return false;
        for (size_t i = 0; i < t->capacity; i++)
            if (t->slots[i].index) table_put(&grown, t->slots[i].hash, t->slots[i].index - 1);
        memory_free(context, t->slots);
        *t = grown;
    }
    table_put(t, table_hash(hash), index);
    return true;
}

void table_free(inset_context *context, table *t)
{
    memory_free(context, t->slots);
    *t = (table){0};
}
