/* trace.h: what a user asks for: invokes, each with records in order, checked as they are made.
 *
 * A trace is built line by line, by the script reader or by the C API, through the calls below.
 * Each call checks everything it can (names, order, indices, shapes, types) and records what to do;
 * nothing is computed. The planner then reads the recorded list.
 *
 * The model of a trace is PyTorch's. A *storage* is a tensor's memory: a value that a step makes in
 * one invoke, or a free tensor (a clone, the result of arithmetic, a loaded tensor). A *view* is
 * some elements of a storage with a shape. Names and slots refer to views; two of them may show one
 * storage, and an in-place set changes the storage.
 *
 * Every storage is rows and columns: `n_sequences` sequences of rows, each row `width` elements. A
 * model's value has a row per position; a free tensor keeps that structure where its shape has it,
 * so that the planner can follow single rows. Else the last dimension is its columns and all others
 * its rows, in one sequence. */
#ifndef INSET_TRACE_H
#define INSET_TRACE_H

#include "base/base.h"
#include "program/program.h"
#include "program/reverse.h"

typedef struct trace trace;

/* ---- views -------------------------------------------------------------- */
typedef enum dimension_kind { DIMENSION_SEQUENCE, DIMENSION_ROW, DIMENSION_COLUMN } dimension_kind;

typedef struct dimension {
    uint8_t kind; /* dimension_kind */
    /* its extent differs between sequences: see span.count; extent is then the longest */
    bool ragged;
    int64_t extent;
    /* rows (DIMENSION_ROW) or columns (DIMENSION_COLUMN) from one to the next */
    int64_t stride;
} dimension;

/* The rows of one sequence that a view shows. */
typedef struct span {
    int32_t sequence; /* of the storage */
    int32_t start;    /* first row */
    /* extent of the view's position dimension for this sequence (1 when it has none) */
    int32_t count;
} span;

typedef struct view {
    int32_t storage;
    int32_t n_spans;   /* = extent of the DIMENSION_SEQUENCE dimension, or 1 */
    const span *spans; /* in the trace's arena */
    int64_t column;    /* first column */
    int32_t n_dimensions;
    int32_t position_dimension; /* which DIMENSION_ROW dimension span.count belongs to, or -1 */
    dimension dimensions[INSET_MAX_DIMENSIONS];
} view;

/* ---- operands: what an expression yields -------------------------------- */
typedef enum operand_kind { OPERAND_INTEGER, OPERAND_FLOAT, OPERAND_TENSOR } operand_kind;
typedef struct operand {
    operand_kind kind;
    int64_t integer; /* OPERAND_INTEGER: a Python int */
    double number;   /* OPERAND_INTEGER and OPERAND_FLOAT: the number */
    view view;       /* OPERAND_TENSOR */
    bool literal;    /* a nested list of numbers: takes the dtype of what it meets */
    /* made by indexing with a list: writing through it would be lost */
    bool copy;
    bool unchangeable; /* token ids, positions */
    /* site + 1: all of an `.output` (tuple.c); or that output's [0] */
    int32_t output_of, first_of;
    /* the value that an entry of an edit() makes in each invoke (edit.h); edit 0: none */
    int32_t edit, edit_entry;
} operand;

/* One item of an index. */
typedef enum index_kind {
    INDEX_INTEGER,
    INDEX_SLICE,
    INDEX_ELLIPSIS,
    INDEX_LIST,
    INDEX_NEW /* None: a dimension of extent 1 */
} index_kind;
typedef struct index_item {
    index_kind kind;
    int64_t integer;
    bool has_start, has_stop, has_step;
    int64_t start, stop, step;
    const int64_t *list;
    size_t list_length;
} index_item;

typedef enum trace_op {
    TRACE_COPY,
    TRACE_ADD,
    TRACE_SUBTRACT,
    TRACE_MULTIPLY,
    TRACE_DIVIDE,
    TRACE_NEGATE,
    /* functions of one tensor; AT_LEAST and AT_MOST have a bound, which is a number */
    TRACE_EXP,
    TRACE_LOG,
    TRACE_SQRT,
    TRACE_ABS,
    TRACE_RELU,
    TRACE_SIGMOID,
    TRACE_TANH,
    TRACE_GELU,
    TRACE_GELU_TANH,
    TRACE_SILU,
    TRACE_AT_LEAST,
    TRACE_AT_MOST,
    /* comparisons of two tensors or a tensor and a number: bools */
    TRACE_EQUAL,
    TRACE_UNEQUAL,
    TRACE_LESS,
    TRACE_LESS_EQUAL,
    TRACE_GREATER,
    TRACE_GREATER_EQUAL,
    TRACE_SLOPE = 32 /* added to one of these: its derivative */
} trace_op;
static inline bool trace_op_is_comparison(int op)
{
    return op >= TRACE_EQUAL && op <= TRACE_GREATER_EQUAL;
}
static inline bool trace_op_is_function(int op)
{
    return op > TRACE_NEGATE && !trace_op_is_comparison(op);
}
static inline int trace_op_operands(int op)
{
    const int plain = op & ~TRACE_SLOPE;
    return op == TRACE_COPY || (plain >= TRACE_NEGATE && plain < TRACE_AT_LEAST) ? 1 : 2;
}
/* "exp"; of no other ops */
const char *trace_function_name(trace_op op);

/* ---- building. Each returns a status; on failure nothing was recorded and the message is set
 * (without a place). ---- */
inset_status trace_create(
    inset_context *context, const program *p, inset_type model_type, trace **out);
void trace_free(trace *t); /* takes NULL */
/* How texts in lines become token ids, which who has the model knows: a prompt's, freed with
 * memory_free, and the one token of an answer. A trace that was given none has no texts. */
typedef struct text_source {
    void *of;
    inset_status (*prompt)(void *of, const char *text, size_t length, int64_t **ids, size_t *count);
    inset_status (*answer)(void *of, const char *text, size_t length, int64_t *id);
} text_source;
void trace_set_text_source(trace *t, const text_source *source);
const text_source *trace_text_source(const trace *t); /* its functions may be NULL */

/* The line that the next calls belong to, for messages such as "layer2.output (line 2) comes after
 * ..."; 0 = none (C API). */
void trace_line(trace *t, int32_t line);

/* Begins an invoke (and ends the one before). Token models: `tokens` are n_sequences lists one
 * after the other, of the given lengths; checked: no empty batch or prompt (ValueError), ids inside
 * the vocabulary (IndexError), not more positions than the model has (ValueError). */
inset_status trace_invoke_tokens(
    trace *t, int64_t n_sequences, const int64_t *lengths, const int64_t *tokens);
/* Sequential models: rows [n_sequences, width]; width must be the model's input width
 * (ShapeError). */
inset_status trace_invoke_rows(trace *t, int64_t n_sequences, int64_t width, const float *rows);
/* From an operand that trace_external or trace_literal made (integers [batch, position] or
 * [position] for token models, numbers [batch, in] for sequential ones). TypeError for floats as
 * tokens or for a tensor that a line of an invoke has changed or made. */
inset_status trace_invoke_operand(trace *t, const operand *input);
/* After it only top-level lines (save, zeros, external) may follow. Fails where an edit's last
 * lines do; the invoke has then ended, too. */
inset_status trace_end_invoke(trace *t);
bool trace_in_invoke(const trace *t);

/* ---- edits (edit/) ---- */
/* Begins `with edit():`, which ends the invoke. Until trace_end_edit the calls below, but for
 * saves, stop and gradients, are lines that every later invoke repeats, each before the user's own
 * lines at its place; what they give are operands for these lines alone (NameError elsewhere).
 * Order is checked at once; what depends on shapes when an invoke repeats it, and the errors of
 * that come out of the call that goes past the place, with help that says so. */
inset_status trace_edit(trace *t);
inset_status trace_end_edit(trace *t); /* nothing where none is open */
bool trace_in_edit(const trace *t);
/* Later invokes go without the edits so far. */
void trace_clear_edits(trace *t);
/* A line of words for each edit that holds. */
void trace_describe_edits(const trace *t, text *out);
/* Ends the open edit as an object of its own, for trace_add_edit: NULL where none is open. It lives
 * as long as somebody holds it, and must name no value of a trace's own. */
typedef struct edit edit;
edit *trace_take_edit(trace *t);
inset_status trace_add_edit(trace *t, edit *e); /* holds it */
edit *edit_hold(edit *e);
void edit_release(edit *e); /* takes NULL */
void edit_describe(const program *p, const edit *e, text *out);
/* The trace is for an edit that is taken, and has no invokes (UsageError). */
void trace_without_invokes(trace *t);
/* What edits have still to do in the open invoke, which is behind its last place then. */
inset_status trace_finish_edits(trace *t);
/* A script begins: the lines that trace_line names are its. */
void trace_begin_script(trace *t);
/* After a failure: the line of this script's edit() that failed, or 0. */
int32_t trace_take_failed_line(trace *t);

/* Asks for a site: checks the order (OutOfOrderError, MissedProviderError) and gives what it refers
 * to. */
inset_status trace_site(trace *t, int32_t site, operand *out);

/* Values. */
/* copied; may be unaligned */
inset_status trace_external(trace *t, inset_type type, int n_dimensions, const int64_t *shape,
    const void *data, operand *out);
/* The same for numbers on the device that the trace's plans run on, where they stay, unchanged, as
 * long as the trace. */
inset_status trace_external_there(trace *t, inset_type type, int n_dimensions, const int64_t *shape,
    const void *data, operand *out);
/* Is the operand all of a tensor that trace_external took? Then *storage names it, *type is its
 * type. */
bool trace_is_external(const trace *t, const operand *a, int32_t *storage, inset_type *type);
/* A literal: numbers in row-major order; `integers` when all were written as integers. */
inset_status trace_literal(trace *t, int n_dimensions, const int64_t *shape, const double *numbers,
    bool integers, operand *out);
/* The same as if it stood before the edit that is open. */
inset_status trace_literal_before(trace *t, int n_dimensions, const int64_t *shape,
    const double *numbers, bool integers, operand *out);
/* f32 */
inset_status trace_zeros(trace *t, int n_dimensions, const int64_t *shape, operand *out);
inset_status trace_index(
    trace *t, const operand *base, size_t n_items, const index_item *items, operand *out);

/* A function of each element; bound: a number, of AT_LEAST and AT_MOST alone (else NULL). Integers
 * become f32 where a function has no integer values. TypeError for numbers and, of abs, relu and
 * bounds, for bools. */
inset_status trace_function(
    trace *t, trace_op op, const operand *a, const operand *bound, operand *out);
/* Functions of whole rows; kernels.h says what they are (row_function, the same in the same
 * order). */
typedef enum trace_row_op {
    TRACE_ROW_SUM,
    TRACE_ROW_MEAN,
    TRACE_ROW_AMAX,
    TRACE_ROW_AMIN,
    TRACE_ROW_NORM,
    TRACE_ROW_DOT,
    /* from here on along one dimension */
    TRACE_ROW_ARGMAX,
    TRACE_ROW_SOFTMAX,
    TRACE_ROW_LOG_SOFTMAX,
    TRACE_ROW_TOPK,
    TRACE_ROW_TOPK_AT,
    TRACE_ROW_TOPK_BACK,
    TRACE_ROW_WHERE
} trace_row_op;
/* What sum(), softmax() and their like are over: dimensions, negative ones from the end; none of
 * them named: all, of sums and their like; of argmax and what follows it in trace_row_op exactly
 * one. keep: a dimension that is summed over stays, of extent 1. k: of topk. */
typedef struct row_request {
    trace_row_op function; /* TRACE_ROW_SUM to TRACE_ROW_TOPK_AT but TRACE_ROW_DOT */
    int n_dimensions;
    const int64_t *dimensions;
    bool keep;
    int64_t k;
} row_request;
/* Sums, means, the largest and smallest, 2-norms and argmax over dimensions; softmax, log_softmax
 * and topk along one. Prompts of different lengths have each its own positions. Sums of integers
 * are i64, argmax and the places of topk are i64, all else has a's type. TypeError for what needs
 * floats, IndexError for a dimension that a has not got, ValueError for one named twice, for
 * nothing to take the largest of and for k, ShapeError for sums over sequences of ragged
 * positions. */
inset_status trace_row_function(
    trace *t, const operand *a, const row_request *request, operand *out);
const char *trace_row_function_name(trace_row_op function); /* "sum" */
/* Elements of a where condition (bools) is true, else of b; tensors or numbers, which broadcast. */
inset_status trace_where(
    trace *t, const operand *condition, const operand *a, const operand *b, operand *out);
/* a @ b, as torch.matmul: floats of one type. Fast where b is a matrix from outside or a weight
 * that no line changed. ShapeError, TypeError. */
inset_status trace_product(trace *t, const operand *a, const operand *b, operand *out);
/* The same elements with two dimensions exchanged; negative ones count from the end. */
inset_status trace_transpose(
    trace *t, const operand *a, int64_t first, int64_t second, operand *out);
/* A weight of the model (an index of program->weights), of its type and shape in transformers:
 * [rows, columns], or [columns]. It can be read and not set. */
inset_status trace_weight(trace *t, int32_t weight, operand *out);

/* A copy in another type, as .float(), .half(), .bfloat16(). */
inset_status trace_cast(trace *t, const operand *a, inset_type type, operand *out);
/* What a module makes of rows of the model's type, [.., in] -> [.., out]: a module that
 * program_callable takes; of one that attends [batch, position, in], whose positions count from
 * each sequence's first. TypeError for others and for other types, ShapeError; ValueError for more
 * positions than the model has. */
inset_status trace_call(trace *t, int32_t module, const operand *x, operand *out);

inset_status trace_clone(trace *t, const operand *a, operand *out);
/* A clone through which no gradient goes back. */
inset_status trace_detach(trace *t, const operand *a, operand *out);
/* TRACE_ADD, SUBTRACT, MULTIPLY, DIVIDE and comparisons; numbers and tensors in any combination;
 * ShapeError with both shapes, TypeError for bool - bool. */
inset_status trace_binary(trace *t, trace_op op, const operand *a, const operand *b, operand *out);
inset_status trace_negate(trace *t, const operand *a, operand *out);

/* Tokens of a metric: one, or a set. */
typedef struct token_list {
    size_t count;
    const int64_t *tokens;
} token_list;
typedef struct metric_request {
    inset_metric_kind kind;
    token_list sets[2]; /* INSET_LOGIT_DIFF: both; INSET_KL: none; else the first */
    /* INSET_KL: the rows whose distribution is p in sum p log(p / q); broadcasts to the row's
     * shape */
    const operand *reference;
} metric_request;
/* A number for every row of logits along `row`'s last dimension: an f32 tensor of the other
 * dimensions. inset.h has what the kinds mean. TypeError for numbers and integers, ShapeError for a
 * tensor without rows or a reference of another shape, IndexError for a token that the row has not
 * got, ValueError for an empty set. */
inset_status trace_metric(trace *t, const operand *row, const metric_request *m, operand *out);
const char *trace_metric_name(inset_metric_kind kind); /* "logit_diff" */

/* target[items] op= source (TRACE_COPY: plain assignment). n_items 0 means the whole target in
 * place (`x += v`). */
inset_status trace_set(trace *t, const operand *target, size_t n_items, const index_item *items,
    trace_op op, const operand *source);
/* site = source */
inset_status trace_replace(trace *t, int32_t site, const operand *source);
inset_status trace_skip(trace *t, int32_t module, const operand *source);
inset_status trace_stop(trace *t);
/* Saves what `value` refers to, as it is when the trace ends. NameError for a name saved twice,
 * TypeError for a number. */
inset_status trace_save(trace *t, const char *name, const operand *value);
/* Saves values of one shape and type stacked along a new first dimension (`xs.save()` for a list).
 * ShapeError otherwise; ValueError when empty. */
inset_status trace_save_stack(trace *t, const char *name, size_t count, const operand *values);
/* Saves what a site of the open invoke holds when the trace ends, whatever was asked for before.
 * MissedProviderError for what is skipped or stopped before; NameError. */
inset_status trace_save_site(trace *t, int32_t site, const char *name);

/* The same for all sites that are chosen, [n_sites], each under its path behind `prefix`. What the
 * invoke does not come to (skipped, behind stop()) is left out; MissedProviderError where that is
 * all. NameError before anything is saved. */
inset_status trace_save_sites(trace *t, const bool *chosen, const char *prefix);

/* How many values are saved so far; the name of one, and in *out the value (of a stack the
 * first). */
size_t trace_saved_count(const trace *t);
const char *trace_saved_at(const trace *t, size_t index, operand *out);
/* Asking: the shape of an operand as users see it, "(2, 5, 48)"; ragged dimensions as "3|5". */
void trace_shape_text(const trace *t, const operand *value, char *out, size_t size);
inset_type trace_operand_type(const trace *t, const operand *value);
/* extent of the first dimension, -1 for numbers and 0-d tensors: len(x) */
int64_t trace_operand_length(const trace *t, const operand *value);

/* ---- gradients (gradient/) ---- */
/* Local slopes of gradients, bits of reverse_rule; before the first backward. */
void trace_rules(trace *t, int rules);
/* Gradients in less memory: every block is run a second time before it is gone through backwards,
 * so that of the first run only what blocks begin with is kept: about one forward more. Where lines
 * set something within a block, all is kept as without. Before the first backward. */
void trace_again(trace *t, bool again);
/* How many blocks the last backward runs again. */
int32_t trace_blocks_again(const trace *t);
/* Begins `with METRIC.backward():`, which ends the invoke. metric: one float that a run computes;
 * it may be of several invokes. Until trace_end_backward only trace_gradient and the calls that
 * work on values may follow. SHAPE, TYPE, VALUE errors; USAGE: what gradients do not go through. */
inset_status trace_backward(trace *t, const operand *metric);
void trace_end_backward(trace *t);
/* Opens the last invoke once more, for arithmetic of its metrics; nothing where it is a shadow. */
void trace_reopen(trace *t);
bool trace_in_backward(const trace *t);
/* `of`.grad: the gradient of the metric with respect to what `of` holds when the forward ends, of
 * its shape. What is done to it goes on backwards. In reverse order of execution (OUT_OF_ORDER);
 * VALUE: it does not reach the metric; TYPE: integers, tensors from outside. */
inset_status trace_gradient(trace *t, const operand *of, operand *out);

/* What the script reader asks. */
arena *trace_arena(trace *t);
inset_context *trace_context(trace *t);
const program *trace_program(const trace *t);

#endif
