/* undo_call.h: what the steps of a module that is applied to values share on the way back. */
#ifndef INSET_TRACE_UNDO_CALL_H
#define INSET_TRACE_UNDO_CALL_H

#include "trace/gradient/backward.h"

/* Values of the module's steps on the way, [program->n_values]; of kind TENSOR where they are
 * there. kept: what a step remembers for the way back; of a norm two a group (its rows divided by
 * s, and s), of attention two a head (the pattern, and tanh of the scores over the cap). */
typedef struct passing {
    trace *t;
    int32_t input;
    operand *made, *back, **kept;
} passing;

/* *out may be one of a and b. */
inset_status pass_binary(trace *t, trace_op op, const operand *a, const operand *b, operand *out);
/* Columns of rows: a view. */
inset_status pass_columns(trace *t, const operand *x, int64_t first, int64_t count, operand *out);
/* Zeros, shaped as `like` but for the number of columns, and of its type: its parts are set. */
inset_status pass_zeros(trace *t, const operand *like, int64_t columns, operand *out);
inset_status pass_set(
    trace *t, const operand *to, int64_t first, int64_t count, trace_op op, const operand *value);

/* undo_attention.c: of one sequence, rows [position, columns]. in: rows of q, k and v; back: where
 * their gradients are added. */
inset_status pass_attention(passing *w, const step *s, const operand *in, operand *out);
inset_status back_attention(
    passing *w, const step *s, const operand *in, const operand *gradient, operand *back);
/* The rotation of rows by their positions, and back. */
inset_status pass_rope(passing *w, const step *s, const operand *x, bool inverse, operand *out);

#endif
