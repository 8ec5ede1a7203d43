/* prompt_runs.h: the prompts that a mean is taken over, run some at a time. */
#ifndef INSET_PROMPT_RUNS_H
#define INSET_PROMPT_RUNS_H

#include "sweep/sweep.h"

struct run;

/* What is made of prompts that run together. Example: a sweep's `record` saves a tensor a tap, and
 * its `take` adds their rows to sums. */
typedef struct prompt_reader {
    void *of;
    /* Saves what is read in the open invoke, whose prompts these are. */
    inset_status (*record)(void *of, trace *t);
    /* Prompts first .. first + count have run. What is saved has `longest` positions of each, and
     * zeros behind a prompt's end. */
    inset_status (*take)(
        void *of, struct run *r, const prompts *p, int64_t first, int64_t count, int64_t longest);
    int64_t most_rows; /* positions that run at once, where fewer than usual; 0: as usual */
} prompt_reader;

/* Prompts as inset_prompts.text; one at least is as long as the longest pair. VALUE_ERROR, and the
 * errors of prompts. */
inset_status prompts_for_mean(sweep *s, const char *text, prompts *out);
/* Runs all of them. cost (or NULL): nothing is run, what it would take is added there. */
inset_status prompts_run(sweep *s, const prompts *p, const prompt_reader *reader, inset_cost *cost);

/* Adds a plan that runs on its own: rows and FLOPs add up, the most bytes on the device count. */
void cost_add_plan(inset_cost *cost, const struct plan *planned);

#endif
