/* fuzz.h: what a fuzz target and its two drivers (driver.c, libfuzzer.c) know of each other. How to
 * add a target stands in driver.c. */
#ifndef INSET_FUZZ_H
#define INSET_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include "base/base.h"
#include "failing_allocator.h"

/* The target: takes any bytes, returns 0. What must never be ends in abort (see fuzz_need). */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What a target tells its drivers. */
typedef struct fuzz_hints {
    /* pieces of the format that mutations insert; ends with NULL */
    const char *const *words;
    /* mends lengths and checksums, so that mutations reach what is behind them; or NULL */
    void (*repair)(uint8_t *data, size_t size);
} fuzz_hints;
extern const fuzz_hints fuzz_target;

static inline void fuzz_need(bool good, const char *what)
{
    if (good) return;
    fprintf(stderr, "fuzz target: %s\n", what);
    abort();
}

/* A context whose blocks are fenced and counted. Between fuzz_start and fuzz_end the target frees
 * all that it made. */
typedef struct fuzz_run {
    failing_allocator memory;
    inset_context *context;
} fuzz_run;

static inline inset_context *fuzz_start(fuzz_run *run)
{
    *run = (fuzz_run){0};
    fuzz_need(!inset_context_create(failing_allocator_interface(&run->memory), &run->context),
        "no context");
    return run->context;
}

/* Checks that a refusal has a message and that nothing is left. */
static inline void fuzz_end(fuzz_run *run, inset_status status)
{
    if (status) fuzz_need(*inset_message(run->context), "a refusal without a message");
    inset_context_free(run->context);
    fuzz_need(run->memory.live == 0, "blocks are left");
    fuzz_need(run->memory.damaged == 0, "a block was written past its end");
}

#endif
