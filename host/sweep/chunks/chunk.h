/* chunk.h: a chunk as the files that make, plan and run it see it: chunk.c (its runs and their
 * trace), pattern.c (which plan fits it), gather.c (its numbers). */
#ifndef INSET_SWEEP_CHUNK_H
#define INSET_SWEEP_CHUNK_H

#include "plan/plan.h"
#include "run/run.h"
#include "sweep/sweep.h"

/* An invoke of a chunk's trace. RUN_OTHER: the prompt that resample takes; nothing is read of
 * it. */
typedef enum run_kind { RUN_CLEAN, RUN_CORRUPT, RUN_OTHER, RUN_PATCHED } run_kind;
typedef struct run_of {
    run_kind kind;
    int64_t pair, job;
} run_of;

/* A plan, and for which chunks it is one. */
typedef struct planned {
    struct planned *older;
    plan *plan;
    int64_t *pattern;
    size_t n_pattern; /* see pattern.c */
    uint64_t hash;
    size_t bytes; /* of the host, about */
    int64_t used; /* the sweep's count of chunks when it was used last */
} planned;

struct prepared {
    sweep *sweep;
    int64_t chunk;
    int64_t first, count; /* its jobs */
    arena memory;
    run_of *runs;
    size_t n_runs; /* in the order of the trace's invokes */
    planned *plan; /* the sweep's */
    bool started;  /* and not yet finished */
    /* once it is started: the run that does it, the sweep's or, when that is another by now, its
     * own */
    run *run;
    int slot;
};

/* The prompt of a run: its tokens, their number in *length. */
const int64_t *run_prompt(const sweep *s, const run_of *r, int64_t *length);

/* ---- pattern.c ---------------------------------------------------------- */
/* Finds the plan that fits the chunk, or has it made by `make` from the chunk's trace and keeps
 * it. */
inset_status pattern_plan(prepared *c, inset_status (*make)(prepared *c, plan **out));
/* Gives a run of the chunk's plan the chunk's prompts and its metrics' tokens. */
inset_status pattern_set_inputs(const prepared *c, run *r);

/* ---- gather.c ----------------------------------------------------------- */
/* The numbers of a chunk's finished run become values of the sweep's arrays. */
void gather_values(prepared *c);

#endif
