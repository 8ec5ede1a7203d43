/* records.h: what a trace is once recorded: storages, invokes, records in order, saves. Written by
 * trace/, read by plan/.
 *
 * Aliasing is resolved while recording: a record refers to storages through views, so the planner
 * never looks at names. What the planner adds is which rows a storage holds at each moment. */
#ifndef INSET_TRACE_RECORDS_H
#define INSET_TRACE_RECORDS_H

#include <stddef.h>
#include <string.h>

#include "trace/trace.h"

typedef enum storage_kind {
    STORAGE_VALUE,   /* what a step makes in one invoke */
    STORAGE_FREE,    /* the result of an operation: made by one RECORD_MAKE */
    STORAGE_FILLED,  /* starts as zeros, filled by sets (zeros(), gathers) */
    STORAGE_EXTERNAL /* loaded, or a literal */
} storage_kind;

typedef struct storage {
    storage_kind kind;
    inset_type type;
    int32_t invoke, value; /* STORAGE_VALUE */
    int32_t n_sequences;
    const int32_t *lengths; /* rows of each sequence */
    int64_t width;          /* elements a row */
    /* STORAGE_EXTERNAL: rows one after the other, in the trace's arena; or else on the device */
    const void *data, *there;
    int32_t weight; /* STORAGE_EXTERNAL: of the model, + 1: neither of these; 0: none */
    bool literal;   /* STORAGE_EXTERNAL: written in a line, so its numbers stay what they are */
    bool changed;   /* a set wrote to it */
} storage;

/* A number or a view: what an operation reads. */
typedef struct source {
    const view *view; /* NULL: the number */
    double number;
} source;

typedef enum record_kind {
    /* storage `made` = a op b, over the whole of it; see trace_op_operands */
    TRACE_MAKE,
    TRACE_SET,    /* target = a, converted to its type */
    TRACE_METRIC, /* storage `made` = a metric of a's rows; b: kl's reference */
    TRACE_CALL,   /* storage `made` = what a module makes of a's rows */
    TRACE_ROWS,   /* storage `made` = a function of whole rows, see row_operation */
    TRACE_PRODUCT /* storage `made` = a's rows times a matrix */
} record_kind;

/* Operands of a TRACE_ROWS. Each is read in the shape of `made` without its own last dimension, if
 * it has one (`made` above 1 or not a sum), and with the operand's last n_inner dimensions behind
 * it; what it lacks is broadcast. Of x [2, 5, 8].sum(-1): one operand, x, n_inner 1; of x.sum(0):
 * two operands, x[0] and x[1], n_inner 0. */
typedef struct row_operation {
    trace_row_op function;
    int32_t n, n_inner, kept, inner, made, k; /* see row_call */
    const view *const *operands;              /* [n] */
    const view *shape;                        /* of operands; `made` elsewhere where NULL */
    const view *second;                       /* TOPK_BACK: the shape of operand 1 */
} row_operation;

typedef struct trace_record {
    record_kind kind;
    trace_op op;
    int32_t event;             /* runs after this event of its invoke; -1: before the model */
    int32_t metric;            /* TRACE_METRIC: which of the trace's */
    int32_t module;            /* TRACE_CALL */
    int32_t matrix;            /* TRACE_PRODUCT: which of the trace's */
    const row_operation *rows; /* TRACE_ROWS: its operands, in place of a and b; else NULL */
    bool detached;             /* TRACE_MAKE: its gradient goes nowhere */
    bool slope; /* ... what it changes by as each logit of its rows does, not the metric */
    /* what is written: the view of all of `made`, or the set's target */
    const view *target;
    source a, b;
} trace_record;

/* The views that a record reads, NULL for a number. */
static inline int32_t record_reads(const trace_record *r) { return r->rows ? r->rows->n : 2; }
static inline const view *record_view(const trace_record *r, int32_t k)
{
    return r->rows ? r->rows->operands[k] : k ? r->b.view : r->a.view;
}

/* What a metric is of. Its tokens are n_a + n_b of the trace's answers. */
typedef struct trace_metric_call {
    inset_metric_kind kind;
    int32_t invoke;
    int64_t first_answer;
    int32_t n_a, n_b;
    int32_t width; /* logits a row */
} trace_metric_call;

/* A slot that refers to another tensor than the model would give it (replacement, skip). */
typedef struct rebinding {
    int32_t slot;
    const view *view;
} rebinding;

typedef struct skipped {
    int32_t module, enter, leave, line;
    bool edit; /* an edit() does */
} skipped;

typedef struct value_storage {
    int32_t value, storage;
} value_storage;

/* a set where a head stands alone that waits for its step (heads.h) */
typedef struct head_set head_set;

typedef struct invoke {
    int32_t n_sequences;
    const int32_t *lengths; /* positions of each sequence (1 for sequential models) */
    int32_t longest;
    const int64_t *tokens; /* all sequences' ids one after the other, or NULL */
    const float *rows;     /* sequential: [n_sequences, width], or NULL */
    int64_t first_token;   /* of this invoke among all of the trace's tokens (or rows) */
    size_t first_record, n_records;
    int32_t current_event;              /* the latest event a line asked for; -1 before any */
    int32_t current_site, current_line; /* who asked */
    int32_t shadow_of;                  /* of which invoke it is the shadow, where `reversed` */
    bool reversed; /* goes on into the gradients; no line of the user's made it (gradient/) */
    int32_t first_step, end_step; /* of its gradients */
    head_set *head_sets;          /* in the trace's arena */
    bool stopped;
    int32_t stop_line, line; /* line: where it began */
    rebinding *rebindings;
    size_t n_rebindings, rebindings_capacity;
    skipped *skips;
    size_t n_skips, skips_capacity;
    /* storages of this invoke's values that something refers to */
    value_storage *values;
    size_t n_values, values_capacity;
} invoke;

typedef struct saved_value {
    const char *name;
    const view *view; /* n_views of them when stacked */
    size_t n_views;
    bool stacked;
} saved_value;

typedef struct backward backward;

/* A record of no invoke, which the invoke's shadow repeats. */
typedef struct head_record {
    int32_t invoke, record;
} head_record;

typedef struct edit_run edit_run;

struct trace {
    inset_context *context;
    const program *program;
    inset_type model_type;
    arena memory;
    int32_t line;
    bool open; /* inside an invoke */
    text_source texts;
    storage *storages;
    size_t n_storages, storages_capacity;
    trace_record *records;
    size_t n_records, records_capacity;
    invoke *invokes;
    size_t n_invokes, invokes_capacity;
    saved_value *saves;
    size_t n_saves, saves_capacity;
    int64_t n_tokens; /* tokens (or input rows) of all invokes */
    /* in the order of their records */
    trace_metric_call *metrics;
    size_t n_metrics, metrics_capacity;
    /* matrices of products, each once: views [in, out] of tensors from outside that no line
     * changes */
    const view **matrices;
    size_t n_matrices, matrices_capacity;
    int rules;                 /* of reverse_rule, for gradients */
    bool again;                /* blocks are run again for them, see reverse.h */
    struct backward *backward; /* inside `with METRIC.backward():` */
    /* of invokes that touch heads on their own: what their shadows do besides (heads.h); by
     * event, those of one event as they were added */
    head_record *head_records;
    size_t n_head_records, head_records_capacity;
    edit *edit;      /* inside edit(): what takes the calls (edit.h) */
    edit_run *edits; /* all that there were, the oldest first */
    size_t n_edits, edits_capacity;
    int32_t last_edit;   /* the number of the last that began */
    int32_t script;      /* how many have begun */
    int32_t failed_line; /* of the edit's line that failed in an invoke; 0: none */
    bool repeating;      /* the calls at hand are an edit's lines */
    bool without_invokes;
    /* Once a line asked for a gradient: `program` is then that of the last reversal. */
    reversal *reversal;
    int32_t *answers;
    size_t n_answers, answers_capacity;
};

/* Two tensors from outside that are one, or were written with the same numbers. */
static inline bool storages_equal(const trace *t, int32_t a, int32_t b)
{
    const storage *x = &t->storages[a], *y = &t->storages[b];
    return a == b
           || (x->literal && y->literal && x->type == y->type && x->width == y->width
               && x->lengths[0] == y->lengths[0]
               && !memcmp(
                   x->data, y->data, (size_t)(x->lengths[0] * x->width) * type_size(x->type)));
}

/* ---- views (view.c) ----------------------------------------------------- */
/* The view that shows all of a value of an invoke, as the slot's shape says. */
inset_status view_of_value(trace *t, int32_t invoke_index, int32_t slot, view *out);
/* What a slot of an invoke refers to, replacements followed. Creates the value's storage when there
 * is none. */
inset_status view_of_slot(trace *t, int32_t invoke_index, int32_t slot, view *out);
/* True when the slot refers, through no replacement, to the value the model makes for it; then
 * nothing need be created. */
bool slot_is_plain(const trace *t, const invoke *v, int32_t slot);
/* Cuts `v`, a padded tensor that takes the place of one of the shape `ragged`, to the lengths of
 * its sequences: the same elements, without those behind a sequence's end. False when memory is
 * out. */
bool view_cut_to(trace *t, view *v, const view *ragged);
/* A new storage for a tensor of these dimensions (extents, kinds, ragged counts from `shape`), and
 * the view of all of it. */
inset_status storage_for_shape(
    trace *t, storage_kind kind, inset_type type, const view *shape, view *out);
/* a copy in the trace's arena; NULL when memory is out */
const view *view_keep(trace *t, const view *v);
/* A view as an operand. Only the dimensions it has are copied: a view has room for many. */
static inline operand tensor_operand(const view *v)
{
    operand o = {.kind = OPERAND_TENSOR};
    memcpy(
        &o.view, v, offsetof(view, dimensions) + (size_t)v->n_dimensions * sizeof v->dimensions[0]);
    return o;
}

/* A dense copy of `from` in a new storage whose dimensions are like `shape`'s, which has the same
 * extents. */
inset_status trace_copy_shaped(trace *t, const view *from, const view *shape, operand *out);
/* base[items]; no lists among them. */
inset_status view_index(
    trace *t, const view *base, size_t n_items, const index_item *items, view *out);
/* A dimension of extent 1 before dimension d; false where there are too many. */
bool view_insert(view *v, int d);
/* Dimension `from` becomes dimension `to`; those between move up. */
void view_move(view *v, int from, int to);
bool view_is_ragged(const view *v);
/* Makes the last two dimensions one, as reshape does without copying; false when they do not lie
 * that way. */
bool view_flatten(view *v);
/* Elements a view shows in sequence `s` of its spans (all dimensions but the sequence one). */
int64_t view_elements(const view *v);
/* a ragged dimension's extent for one span */
int64_t view_extent(const view *v, int dimension, int32_t span);
/* which dimension is DIMENSION_SEQUENCE, or -1 */
int view_sequence_dimension(const view *v);
void view_shape_text(const view *v, char *out, size_t size);

/* ---- strips (strip.c): walking a target and its sources together -------- */
enum { STRIP_SOURCES = 2 };

/* Some columns of a strip: target columns column .. column + count, from each source's columns;
 * rows_off is added to the source's row. */
typedef struct strip_piece {
    int64_t column, count;
    int64_t source_column[STRIP_SOURCES];
    /* columns of the source from one to the next: 0 repeats */
    int32_t source_step[STRIP_SOURCES];
    int32_t source_row[STRIP_SOURCES];      /* added to the strip's row of that source */
    int32_t source_sequence[STRIP_SOURCES]; /* its sequence */
} strip_piece;

/* `n` rows of one target sequence. Row i of source k is piece.source_row[k] + i * row_step[k]. */
typedef struct strip {
    int32_t sequence, row, n;
    int32_t row_step[STRIP_SOURCES]; /* 0 or 1 */
    size_t n_pieces;
    const strip_piece *pieces;
} strip;

typedef inset_status strip_function(void *user, const strip *s);
/* Calls `visit` for every strip of `target`; sources broadcast to it (they were checked when
 * recorded). A NULL source is a number and takes no part. `scratch` grows as needed and is the
 * caller's to free. */
typedef struct strip_scratch {
    strip_piece *pieces;
    size_t capacity;
} strip_scratch;
inset_status strips_walk(inset_context *context, strip_scratch *scratch, const view *target,
    const view *const sources[STRIP_SOURCES], strip_function *visit, void *user);

/* Can `from` be broadcast to the shape of `to`? (PyTorch's rule; leading dimensions of 1 that `to`
 * lacks may be dropped.) */
bool view_broadcasts(const view *from, const view *to);

/* An error for an index of a block's or an attention module's `.output[0]`, which is read in two
 * ways (tuple.c). */
inset_status trace_refuse_tuple(
    trace *t, const operand *base, size_t n_items, const index_item *items);
/* An error when no invoke runs or stop() has ended it; `what` needs one (expression.c). */
inset_status trace_need_line(trace *t, const char *what);
/* storage `made` = a op b; b NULL: op has one operand. */
inset_status trace_record_make(
    trace *t, trace_op op, const view *made, const operand *a, const operand *b);
inset_status trace_record_metric(
    trace *t, int32_t metric, const view *made, const operand *rows, const operand *reference);
inset_status trace_record_call(trace *t, int32_t module, const view *made, const operand *rows);
/* ---- row_function.c, product.c ---- */
/* A function of rows in its plainest form: operands [kept.., inner..] of one shape (of WHERE they
 * broadcast to it), the last n_inner dimensions the inner ones; *made is a new tensor. */
typedef struct row_making {
    trace_row_op function;
    view shape;
    int n_inner;
    int32_t k;       /* TOPK, TOPK_AT, TOPK_BACK */
    inset_type type; /* of the result */
    int32_t n;
    const operand *operands;
} row_making;
inset_status row_function_make(trace *t, const row_making *m, operand *made);
/* x with a further last dimension of extent 1, n times. */
operand row_function_behind(const operand *x, int n);
/* rows [.., in] times one of the trace's matrices. */
inset_status product_make(trace *t, const operand *rows, int32_t matrix, operand *out);
/* The matrix that lies the other way, for gradients. */
inset_status product_across(trace *t, int32_t matrix, int32_t *out);
inset_status trace_record_rows(trace *t, const view *made, const row_operation *rows);
inset_status trace_record_product(trace *t, int32_t matrix, const view *made, const operand *rows);
/* x with one row [.., width] in each row of its storage: a copy where heads lie in one. `name`, of
 * what needs it, for the error about heads of ragged positions. */
inset_status trace_settle_rows(trace *t, const char *name, const operand *x, operand *out);
inset_status trace_record_slope(
    trace *t, int32_t metric, const view *made, const view *rows, const view *reference);
/* The type and shape of what is made of two operands elementwise (expression.c); SHAPE_ERROR
 * without a message where they do not broadcast. */
inset_status trace_promoted(
    trace *t, const operand *a, const operand *b, inset_type *type, view *shape);
/* A copy of a tensor in another type (expression.c). */
inset_status trace_convert(trace *t, const operand *a, inset_type type, operand *out);

#endif
