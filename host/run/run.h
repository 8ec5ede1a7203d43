/* run.h: a plan on a device: memory, tables, launches, and the saved values that come out. */
#ifndef INSET_RUN_H
#define INSET_RUN_H

#include "plan/plan.h"
#include "run/model.h"

typedef struct run run;

/* Allocates what the plan needs on the model's device and uploads its tables. The plan stays the caller's and must outlive the run.
 * INSET_NO_MEMORY names both figures. Nothing is launched. */
inset_status run_create(struct inset_model *model, plan *p, run **out);
void run_free(run *r);                               /* takes NULL */
/* Runs the plan; may be called again. */
inset_status run_execute(run *r);
/* The saved value `index` of the last run, in host memory; holds until the next run_execute or run_free. */
inset_status run_saved(run *r, size_t index, inset_tensor *out);
/* Gives an invoke other input of the same shape for the next run_execute. Tokens must be equal where the plan's were equal and differ where they
 * differed (a plan depends on that pattern alone): INSET_VALUE_ERROR otherwise, and nothing has changed. */
inset_status run_set_tokens(run *r, int64_t invoke, const int64_t *tokens, int64_t count);
inset_status run_set_rows(run *r, int64_t invoke, const float *rows, int64_t count);

#endif
