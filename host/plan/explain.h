/* explain.h: a plan in words (`inset check --explain`). */
#ifndef INSET_PLAN_EXPLAIN_H
#define INSET_PLAN_EXPLAIN_H

#include "plan/wanted/wanted.h"

/* Adds the strands, and a line for every step of every pass with the rows it computes, the rows
 * that records make behind it, and what is saved of them. NO_MEMORY. */
inset_status plan_explain(planner *p, schedule *s, text *out);

#endif
