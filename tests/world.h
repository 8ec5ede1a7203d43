/* world.h: a context whose blocks are counted, for tests of what allocates. */
#ifndef INSET_WORLD_H
#define INSET_WORLD_H

#include "base/base.h"
#include "failing_allocator.h"
#include "test.h"

typedef struct world {
    failing_allocator memory;
    inset_context *context;
} world;

/* The context; nothing fails until memory.fail_at is set. */
__attribute__((unused)) static inset_context *world_start(world *w)
{
    *w = (world){0};
    inset_context_create(failing_allocator_interface(&w->memory), &w->context);
    return w->context;
}

/* Frees the context; every block must be gone then, and undamaged. */
__attribute__((unused)) static void world_end(world *w, const char *name)
{
    CHECK(w->context->live_blocks + 1 == w->memory.live,
        "%s: the context counts %lld blocks, the allocator %lld", name,
        (long long)w->context->live_blocks, (long long)w->memory.live);
    inset_context_free(w->context);
    CHECK(w->memory.live == 0 && w->memory.damaged == 0, "%s: %lld blocks left, %lld damaged", name,
        (long long)w->memory.live, (long long)w->memory.damaged);
}

#endif
