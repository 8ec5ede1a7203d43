/* plan.h: what a trace compiles to. The head of plan/plan.c says in which steps.
 *
 * plan_create reads a trace and produces, on the host alone and without a device: the launches in
 * order, their tables, and the memory map. Launches refer to memory by (area, offset); run/run.c
 * binds them to a device's addresses. */
#ifndef INSET_PLAN_H
#define INSET_PLAN_H

#include "plan/rows/options.h"
#include "program/program.h"
#include "trace/trace.h"

typedef struct plan plan;

inset_status plan_create(trace *t, const plan_options *options, plan **out);
void plan_free(plan *p); /* takes NULL */
const plan_statistics *plan_get_statistics(const plan *p);
/* The plan in words, where options asked for it; else NULL. */
const char *plan_explanation(const plan *p);
/* Rows that the step of a value of the program computes, over all passes. */
int64_t plan_rows(const plan *p, int32_t value);

/* Saved values, in the order they were saved. */
size_t plan_saved_count(const plan *p);
const char *plan_saved_name(const plan *p, size_t index);
/* Shape and type; tensor->data is NULL. */
void plan_saved_describe(const plan *p, size_t index, inset_tensor *tensor);

#endif
