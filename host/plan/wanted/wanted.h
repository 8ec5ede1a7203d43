/* wanted.h: what of the identities is needed, when, and where it lies in memory. Filled by live.c,
 * layout.c and need.c (needs), saved.c (saved values), pack.c (rows and memory), read by emit.c
 * (launches).
 *
 * Time is counted in *moments*: (pass, value), in order; moment number = pass * (n_values + 1) +
 * value + 1. At each moment the step that makes the value runs for all needed rows of all invokes,
 * then the records whose rows are due, level by level.
 *
 * Most moments need the rows of the moment after them, less the strands that were not born yet. So
 * an order of rows, a *layout*, is made once and serves many moments: its needs are sorted by when
 * their strands were born, and what a moment needs is the first so many of them. Only what is
 * different at a moment is a need of its own. Planning thus costs work where strands begin and end,
 * not per strand and step. */
#ifndef INSET_PLAN_WANTED_H
#define INSET_PLAN_WANTED_H

#include "plan/rows/rows.h"

typedef enum need_kind {
    NEED_COMPUTED, /* by the step */
    NEED_COPY,     /* by a record, at the value it was made for */
    NEED_KEPT,     /* made in an earlier pass: copied from where that pass kept it */
    NEED_FREE,     /* a free tensor's rows, by a record */
    /* rows of this moment that a later pass reads, put aside when they are made */
    NEED_KEEP,
    NEED_JOINED /* became part of another need */
} need_kind;

/* Rows lo .. hi and columns c0 .. c1 of a strand, needed at a moment. Rows that do not touch are
 * needs of their own: a row in between may not exist at that value (another strand went on from
 * it). Columns are a hull. */
typedef struct need {
    int32_t strand, lo, hi, c0, c1;
    /* next need of the same moment, -1; of a layout's: n_moments + its number */
    int32_t moment, next;
    int32_t place;     /* in its moment's (or layout's) order */
    int32_t first_row; /* of row lo, in the moment's buffer (not NEED_FREE) */
    /* of a layout's: where in the tables the key-value rows of its context are; -1: not made yet
     * (emit) */
    int32_t list;
    /* NEED_FREE, NEED_KEEP: bytes from the moment's free or kept buffer to row lo */
    int64_t offset;
    int8_t kind;
    bool done;
    int32_t level;
} need;

typedef struct column_range {
    int32_t c0, c1;
} column_range;

/* A block of the arena. */
typedef struct buffer {
    int64_t bytes, offset;
    int32_t first_use, last_use; /* moments */
} buffer;

/* Rows that moments have in common. */
typedef struct layout {
    int32_t n;
    /* [n]: needs, oldest strands first; their first_row counts from the layout's first row */
    int32_t *order;
    int32_t *ages; /* [n]: strand_age of each */
    int32_t rows;  /* of all of them */
    /* its strands lie in first_strand .. first_strand + n_strands - 1 */
    int32_t first_strand, n_strands;
    /* of each of these: its first need here, + 1; 0: none. NULL where they are scattered: the needs
     * are in `lookup` */
    int32_t *by_strand;
    /* so many from the first on have their whole contexts in the layout; -1: not known yet */
    int32_t closed;
    /* the layout that the first closure_of needs make with their contexts; -1: none made yet */
    int32_t closure, closure_of;
} layout;

typedef struct moment_plan {
    /* the step computes the first n_base needs of this layout; -1, 0: none */
    int32_t base, n_base;
    int32_t first_need; /* its own needs beside these; -1: none */
    /* rows of the step; rows of the buffer, records' and kept ones included */
    int32_t n_computed, n_rows;
    bool all_columns; /* a step reads whole rows */
    /* or saved, or put aside: rows are looked at by others than steps */
    bool read_by_records;
    /* of a product with a large table: which columns records read, in order */
    column_range *ranges;
    int32_t n_ranges, ranges_capacity;
    /* when they are few, the buffer holds these alone; NULL: all */
    int32_t *columns;
    int32_t n_columns;
    int32_t n_levels;
    buffer value, free, kept; /* bytes 0: none */
    /* its own needs in order of rows, those that are computed first, NEED_FREE and NEED_KEEP
     * last */
    int32_t *order;
    int32_t n_order;
    int32_t n_own; /* so many of them are computed */
    int32_t hint;  /* where in `order` the last row that was looked up is */
    /* of an addition: the moment of the norm that runs in the same launch, or 0 */
    int32_t norm;
    bool in_addition; /* of that norm */
    /* of a product: the moment of the GELU that runs in the same launch, or 0 */
    int32_t activation;
    bool in_product; /* of that GELU */
} moment_plan;

/* Rows of a saved tensor: `rows` rows from byte `offset` of the saved area on, `stride` elements
 * apart, columns from one piece. */
typedef struct saved_rows {
    int32_t save, rows;
    int64_t offset, stride;
    piece from; /* its c0 .. c1 count elements of the saved row */
} saved_rows;

typedef struct saved_tensor {
    const char *name;
    inset_type type;
    int32_t n_dimensions;
    int64_t shape[INSET_MAX_DIMENSIONS];
    int64_t offset, bytes; /* in the saved area */
    bool padded;           /* ragged: what lies behind a sequence's end is zero */
} saved_tensor;

typedef struct schedule {
    int32_t n_passes, n_moments;
    moment_plan *moments;
    need *needs;
    size_t n_needs, needs_capacity;
    layout *layouts;
    size_t n_layouts, layouts_capacity;
    table lookup; /* (moment, or layout without by_strand; strand; place) -> need */
    saved_rows *rows;
    size_t n_rows, rows_capacity;
    saved_tensor *saved;
    size_t n_saved;
    int64_t saved_bytes;
    int64_t arena_bytes;      /* value and free buffers */
    int64_t *external_offset; /* per storage: bytes in the external area, -1 unused */
    int64_t external_bytes;
} schedule;

static inline int32_t moment_number(const planner *p, moment m)
{
    return m.pass * ((int32_t)p->program->n_values + 1) + m.value + 1;
}
static inline moment moment_of(const planner *p, int32_t number)
{
    int32_t n = (int32_t)p->program->n_values + 1;
    return (moment){number / n, number % n - 1};
}

/* Where rows lie: a moment's value buffer, its free tensors, or the rows it puts aside. */
typedef enum need_place { PLACE_VALUE, PLACE_FREE, PLACE_KEPT } need_place;
static inline need_place place_of(int kind)
{
    return kind == NEED_FREE ? PLACE_FREE : kind == NEED_KEEP ? PLACE_KEPT : PLACE_VALUE;
}

/* The needs that a moment's step computes, in order of rows: `computed_count` of them. */
static inline int32_t computed_count(const moment_plan *m) { return m->n_base + m->n_own; }
static inline const need *computed_need(const schedule *s, const moment_plan *m, int32_t i)
{
    return &s->needs[i < m->n_base ? s->layouts[m->base].order[i] : m->order[i - m->n_base]];
}

/* The need that covers a strand's row at a moment and place; NULL when nobody needs it there. */
need *schedule_find(
    const schedule *s, int32_t moment_index, int32_t strand_index, int32_t row, need_place where);
/* Rows an operand shows for rows of a strand at a step: calls visit(user, strand, first, count) in
 * order. */
typedef bool rows_function(void *user, int32_t strand_index, int32_t first, int32_t count);
bool operand_rows(const planner *p, const step *s, int k, int32_t strand_index, int32_t lo,
    int32_t hi, rows_function *visit, void *user);
/* The key-value rows (at the pair step's value) of the context that ends at row `last` of `node`,
 * oldest first. */
bool context_rows(const planner *p, const step *attention, int32_t node, int32_t last,
    rows_function *visit, void *user);
/* The query rows (k = 0) or the context node (k = 1) of an attention row. */
operand_row attention_part(const planner *p, const step *s, int32_t strand_index, int k);
/* Key (k = 0) or value (k = 1) row of a pair step's row. */
operand_row pair_part(const planner *p, const step *pair, int32_t strand_index, int k);
void slot_window(const planner *p, int32_t slot, int32_t *c0, int32_t *c1);

/* ---- layout.c: rows that moments have in common ------------------------- */
/* Orders strands by birth, at one value those that a launch of its own makes last, then those that
 * records make. A row that a step makes of value v lies in a strand of at most computed_age(v). */
int32_t strand_age(const planner *p, int32_t strand_index);
static inline int32_t computed_age(int32_t value_index) { return 4 * value_index + 1; }
/* How many needs of a layout are of at most this age, and how many rows the first n have. */
int32_t layout_prefix(const layout *l, int32_t age);
int32_t layout_rows(const schedule *s, int32_t layout_index, int32_t n);
/* The need among the first n of a layout that has a strand's row; NULL when there is none. */
need *layout_find(
    const schedule *s, int32_t layout_index, int32_t n, int32_t strand_index, int32_t row);
/* A step's moment needs the first n of a layout too. False: memory is out; so do the others say. */
bool layout_attach(planner *p, schedule *s, int32_t at, int32_t layout_index, int32_t n);
/* All that asks a moment for rows has asked: its own needs that its layout has go, and where they
 * are many they become a layout with it. */
bool layout_settle(planner *p, schedule *s, int32_t at);
/* The layout of the first n needs and of all rows in their contexts, *count needs of it; itself,
 * mostly. -1: memory is out. */
int32_t layout_closure(planner *p, schedule *s, int32_t layout_index, int32_t n, int32_t *count);

/* ---- need.c ------------------------------------------------------------- */
bool schedule_add_need(planner *p, schedule *s, const need *n);
/* Widens a need of these rows' strand that they touch, and joins what then touches it; false when
 * there is none. */
bool schedule_widen_need(schedule *s, int32_t at, need_place where, int32_t strand_index,
    int32_t lo, int32_t hi, int32_t c0, int32_t c1);
uint64_t need_hash(int32_t moment_index, int32_t strand_index, need_place where);

/* ---- saved.c ------------------------------------------------------------ */
inset_status plan_collect_saves(planner *p, schedule *s);

inset_status plan_live(planner *p, schedule *s);
inset_status plan_pack(planner *p, schedule *s);

#endif
