/* plain_executor.h: what a trace means, executed literally: one invoke after the other, step by
 * step, every row, in place truly in place. No planner, no sharing, no device. Tests compare the
 * product with it.
 *
 * It runs over one of two kinds of elements:
 *
 *   numbers      doubles, plain loops: the values that the trace saves
 *   identities   every element is a number that stands for what it was computed from, so that equal
 *                elements are those that any executor may compute once. Counting the rows that the
 *                saved elements need gives the least rows that each step must compute. Nothing here
 *                knows of strands or segments. Where the product's rules are coarser on purpose, so
 *                are these: an embedded row is (position, token), rotary attention's position is an
 *                operand, a sliding window does not shorten a context, and scores and pattern of
 *                one sequence are made together.
 *
 * The program's weights must have been given in memory (weight.data). */
#ifndef INSET_PLAIN_EXECUTOR_H
#define INSET_PLAIN_EXECUTOR_H

#include <stdbool.h>
#include "trace/records.h"

typedef union plain_cell {
    double number;
    int64_t identity;
} plain_cell;
typedef struct plain plain;

/* Executes the trace; memory is malloc's, and out of memory ends the program. To be freed with
 * plain_free. */
plain *plain_execute(trace *t, bool identities);
void plain_free(plain *p);

/* Elements of saved value `save` in row-major order, zeros (identity -1) where a ragged tensor is
 * padded; *count of them. Free with free(). */
plain_cell *plain_saved(const plain *p, size_t save, int64_t *count);

/* Identities: how many rows of each of the program's values the saved elements need: [n_values], to
 * be freed with free(). */
int64_t *plain_rows_needed(plain *p);

#endif
