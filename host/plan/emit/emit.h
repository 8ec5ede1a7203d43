/* emit.h: what the files that make launches share.
 *
 *     emit.c            moments in order; where rows are, launches, operands
 *     table.c      tables of row numbers, in short form
 *     step.c       the launch of a step
 *     attention.c  attention, fused or in the open
 *     back.c       launches of gradients
 *     whole.c      attention of sequences that the device takes whole
 *     record.c     records, saved values, rows put aside
 *     fused.c      those of them that the step's own launch applies
 *     metric.c     metrics of rows of logits
 */
#ifndef INSET_PLAN_EMIT_H
#define INSET_PLAN_EMIT_H

#include "plan/emit/launches.h"

/* Numbers of a table while they are gathered: runs of them, one after the other. */
typedef struct run_list {
    table_run *at;
    size_t n, capacity;
    int64_t count;
} run_list;

/* Tables that all moments with a layout have in common: for its needs in order, as many as some
 * moment wanted so far. Room is taken for all. */
typedef struct layout_tables {
    /* where they begin among the tables (-1: nowhere yet), and of how many needs they are there */
    int32_t contexts, n_contexts;
    /* the layout of the keys and values that the contexts are of, and its turn then */
    int32_t keys, turn;
    /* of keys and values: the moment whose kept rows the lists of contexts go on from (-1: no list
     * yet); how often another's lay elsewhere, and the lists were made anew */
    int32_t kept_at, kept_turn;
    /* [needs + 1]: entries of the contexts of all rows of the needs before */
    int64_t *total;
    int32_t positions, n_positions; /* rotary embedding's */
} layout_tables;

/* A launch that takes records of the rows it makes, while they are gathered. */
typedef struct fusion {
    bool open;
    size_t launch; /* its number */
    /* the moment whose rows it makes; of an addition also that of its norm, or 0 */
    int32_t at, norm;
    int32_t rows, parts; /* rows it makes; blocks a row */
    int n_own;
    /* where they lie in the arena: the moment's, the norm's */
    struct own_rows {
        int64_t offset, row_bytes;
    } own[2];
    record *records;
    size_t n, capacity;
} fusion;

typedef struct emitter {
    planner *p;
    schedule *s;
    plan *out;
    int32_t now;
    moment when;
    /* of the moment being emitted; behind all buffers of the arena */
    int64_t scratch_bytes;
    /* where in the arena the last row ends that a product reads, padding too */
    int64_t read_end;
    /* a table while it is gathered; the second where two are compared */
    run_list rows, more_rows;
    table table_lookup; /* equal tables are stored once */
    struct stored_table {
        size_t at, n_runs;
        int32_t to;
    } * stored;
    size_t n_stored, stored_capacity;
    layout_tables *layouts; /* per layout */
    int32_t *saved_order;   /* saved rows by moment */
    size_t saved_next;
    size_t first_record; /* of the launch being filled */
    int32_t level;       /* its records' */
    /* of this moment's launch; of an addition whose norm's moment is still to come */
    fusion fusion, addition;
    /* of a launch's rows: elements of records */
    int64_t *block_work;
    size_t block_work_capacity;
    int32_t block_work_of; /* the moment that it counts, + 1 */
    int32_t *lists;
    size_t lists_capacity; /* a launch's, while they are made */
    /* the records of a moment, while they are sorted */
    record *gathered;
    size_t gathered_capacity;
    /* where records of the launch write */
    struct result_place *results;
    size_t n_results, results_capacity;
    record *others;
    size_t n_others, others_capacity; /* those that read no row of the launch */
    /* per answer of the trace that is a metric's first: where its tokens are in AREA_ANSWERS; -1:
     * not yet */
    int32_t *answer_place;
    bool *whole_seen; /* per sequence: one of its attentions was taken whole */
    /* per strand: rows its context needs at this attention, and where their list begins; -1 */
    int32_t *leaf_rows, *leaf_table;
} emitter;

static inline void *tagged(area at, int64_t offset)
{
    return (void *)(uintptr_t)((uint64_t)at << 56 | (uint64_t)offset);
}
static inline void *moved(void *at, int64_t bytes) { return (char *)at + bytes; }

/* What a step reads for its rows: an address, and a table where rows are not in order. */
typedef struct operand_ref {
    void *at;
    const int32_t *rows;
    int64_t stride;
} operand_ref;
typedef struct row_gatherer {
    emitter *e;
    int32_t value;
    run_list *list;
} row_gatherer;

/* ---- where rows are (emit.c) */
int64_t emit_row_bytes(const emitter *e, int32_t domain, int32_t strand_index);
int32_t emit_buffer_row(
    const emitter *e, int32_t pass, int32_t value, int32_t strand_index, int32_t row);
void *emit_value_buffer(const emitter *e, int32_t pass, int32_t value);
void *emit_kept_address(const emitter *e, int32_t domain, int32_t strand_index, int32_t row);
void *emit_row_address(const emitter *e, int32_t domain, int32_t strand_index, int32_t row);
const moment_plan *emit_chosen_columns(const emitter *e, int32_t domain, int32_t strand_index);

/* ---- launches, tables, operands (emit.c). NULL: memory is out. A launch may move when the next
 * one is added. */
launch *emit_launch(emitter *e);
launch *emit_kernel(emitter *e, kernel_id kernel, size_t args_size, int64_t blocks, int64_t work);
bool emit_gather_rows(void *user, int32_t strand_index, int32_t first, int32_t count);
inset_status emit_finish_operand(emitter *e, int32_t slot_index, operand_ref *out);
inset_status emit_operand(emitter *e, const step *st, int k, operand_ref *out);
/* Begins the gathering of an operand's rows with those that the moment's layout and the operand's
 * have in common: of the moment's first *n needs. */
bool emit_common_rows(emitter *e, const moment_plan *m, int32_t value, int32_t *n);
static inline void *emit_weight(int32_t index)
{
    return index < 0 ? NULL : tagged(AREA_WEIGHT, weight_offset(index, 0));
}

/* ---- tables (table.c). NULL, -1 or false: memory is out. ---------------- */
void runs_clear(run_list *list);
/* Appends first, first + step, ...: `count` numbers. */
bool runs_add(emitter *e, run_list *list, int32_t first, int32_t count, int32_t step);
bool runs_equal(const run_list *a, const run_list *b);
/* Room for `count` numbers among the tables: the index of the first. */
int32_t table_reserve(emitter *e, int64_t count);
/* Numbers at a place that was reserved: `count` of them, every `stride`-th place from `to` on. */
bool table_fill(emitter *e, int32_t to, int32_t count, int32_t stride, int32_t first, int32_t step);
/* The same numbers as from another place, which is filled by table_fill. */
bool table_repeat(emitter *e, int32_t to, int32_t count, int32_t from);
/* Stores the gathered numbers as a table, or finds an equal one. */
void *emit_table(emitter *e, const run_list *list);
void *emit_literal_table(emitter *e, const int32_t *numbers, size_t n);
/* A table of an attention's slopes, or NULL where it has none. */
inset_status emit_slopes(emitter *e, const step *attention, void **out);
static inline void *table_address(int32_t at) { return tagged(AREA_TABLES, (int64_t)at * 4); }
static inline int32_t table_index(const void *address)
{
    return (int32_t)(((uint64_t)(uintptr_t)address & ((1ull << 56) - 1)) / 4);
}

/* ---- steps (step.c, attention.c, whole.c) */
inset_status emit_step(emitter *e, const step *st);
inset_status emit_attention(
    emitter *e, const step *st, const moment_plan *m, void *out, int64_t width);
inset_status emit_open(emitter *e, const need *n);
/* The row numbers of segments at a slot's value, as a table; *rows: how many. NULL: memory is
 * out. */
const int32_t *emit_segment_table(emitter *e, int32_t pass, int32_t slot_index, const segment *at,
    int32_t n, operand_ref *buffer, int64_t *rows);
/* Adds the buffer rows of an attention's queries, for rows lo .. hi of a strand of its value, to
 * those being gathered. */
bool emit_gather_queries(emitter *e, const step *st, int32_t strand_index, int32_t lo, int32_t hi);
/* Adds the rows of keys (k = 0) or values (k = 1) of the context that ends with a leaf's first
 * `rows` rows. *apart: the other list may be another. */
bool emit_gather_context(
    emitter *e, const step *st, int k, int32_t leaf, int32_t rows, run_list *list, bool *apart);
/* What is in the open, backwards (open_back.c): a row of the softmax or the scores; rows of dv,
 * or of [dq | dk]. */
inset_status emit_softmax_back(emitter *e, const need *n, void *out);
inset_status emit_open_back(
    emitter *e, const step *st, const moment_plan *m, void *out, int64_t width);
/* Notes how far a product reads, padding and all; lays its operand's rows in order. */
void emit_note_reading(emitter *e, const step *st, const operand_ref *x, int64_t rows, int64_t in);
inset_status emit_in_order(emitter *e, const moment_plan *m, int64_t width, operand_ref *x);
/* Heads that stand alone (heads.c). */
inset_status emit_heads(emitter *e, const step *st, const moment_plan *m, void *out, int64_t width);
inset_status emit_copies(
    emitter *e, const step *st, const moment_plan *m, void *out, int64_t width);
/* Mixtures of experts (experts.c). */
inset_status emit_experts(
    emitter *e, const step *st, const moment_plan *m, void *out, int64_t width);
inset_status emit_back(emitter *e, const step *st, const moment_plan *m, void *out, int64_t width);
inset_status emit_whole(emitter *e, const step *st, const moment_plan *m, void *out, int64_t width);

/* ---- records (record.c) */
void emit_record_operand(const emitter *e, const piece *from, int32_t lo, int32_t c0,
    const void **at, double *constant, int64_t *row, int64_t *column, uint8_t *type,
    inset_type constant_type);
bool emit_record(emitter *e, const record *r);
inset_status emit_finish_records(emitter *e, kernel_id kernel);
inset_status emit_records(emitter *e);
/* The metrics, functions of whole rows and products of this moment that are made at `level`. */
inset_status emit_metrics(emitter *e, int32_t level);
inset_status emit_row_functions(emitter *e, int32_t level);
inset_status emit_products(emitter *e, int32_t level);
/* Puts the saved rows in order of their moments. */
inset_status emit_order_saved(emitter *e);

/* ---- records inside the step's launch (fused.c), at each moment in this order */
/* After the step, which began with that many launches: can its launch take records? */
void emit_start_fusion(emitter *e, size_t launches_before);
/* Takes what it can of the records from first_record on, all of one level; the others stay
 * there. */
inset_status emit_fuse(emitter *e);
/* After all records of the moment: gives the launch its tables. */
inset_status emit_finish_fusion(emitter *e);
void emit_free_fusions(emitter *e);

#endif
