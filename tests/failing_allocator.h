/* failing_allocator.h: an allocator that counts, fences, poisons, and fails at the n-th allocation.
 *
 *     failing_allocator memory = {.fail_at = n};                    n = 1: the first; 0: never
 *     inset_context_create(failing_allocator_interface(&memory), &context);
 *
 * The pattern: raise n until the call succeeds; before that the answer is always INSET_NO_MEMORY
 * and memory.live is what it was. Blocks handed out hold 0xa5, freed ones 0x5a; writing past a
 * block's end is counted in `damaged` when the block is freed or moved. */
#ifndef INSET_FAILING_ALLOCATOR_H
#define INSET_FAILING_ALLOCATOR_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "inset.h"

typedef struct failing_allocator {
    int64_t fail_at;    /* this allocation fails, counted from 1; 0 = none */
    bool fail_after;    /* all that follow fail too, until fail_at is set to 0 */
    int64_t calls;      /* allocations asked for, moves to a larger size included */
    int64_t live;       /* blocks not yet freed */
    size_t bytes, peak; /* in live blocks, and the most there were */
    int64_t damaged;    /* blocks whose fence was overwritten */
    inset_allocator interface;
} failing_allocator;

enum { FAILING_HEADER = 16, FAILING_FENCE = 16 };

static inline int64_t failing_allocator_damaged(const unsigned char *start, size_t size)
{
    for (int i = 0; i < FAILING_FENCE; i++)
        if (start[FAILING_HEADER + size + i] != 0xfd) return 1;
    return 0;
}

static inline void failing_allocator_free(failing_allocator *f, void *block)
{
    if (!block) return;
    unsigned char *start = (unsigned char *)block - FAILING_HEADER;
    size_t size;
    memcpy(&size, start, sizeof size);
    f->damaged += failing_allocator_damaged(start, size);
    memset(block, 0x5a, size);
    f->live--;
    f->bytes -= size;
    free(start);
}

static inline void *failing_allocator_resize(void *user, void *block, size_t size)
{
    failing_allocator *f = user;
    if (size == 0) {
        failing_allocator_free(f, block);
        return NULL;
    }
    f->calls++;
    if (f->fail_at && (f->calls == f->fail_at || (f->fail_after && f->calls > f->fail_at)))
        return NULL;
    if (size > SIZE_MAX - FAILING_HEADER - FAILING_FENCE) return NULL;
    unsigned char *start = malloc(FAILING_HEADER + size + FAILING_FENCE);
    if (!start) return NULL;
    memcpy(start, &size, sizeof size);
    memset(start + FAILING_HEADER, 0xa5, size);
    memset(start + FAILING_HEADER + size, 0xfd, FAILING_FENCE);
    f->live++;
    f->bytes += size;
    if (f->bytes > f->peak) f->peak = f->bytes;
    if (block) {
        size_t old;
        memcpy(&old, (unsigned char *)block - FAILING_HEADER, sizeof old);
        memcpy(start + FAILING_HEADER, block, old < size ? old : size);
        failing_allocator_free(f, block);
    }
    return start + FAILING_HEADER;
}

static inline const inset_allocator *failing_allocator_interface(failing_allocator *f)
{
    f->interface = (inset_allocator){failing_allocator_resize, f};
    return &f->interface;
}

#endif
