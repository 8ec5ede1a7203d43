/* edit.h: lines that every later invoke repeats, `with edit():`.
 *
 * While an edit is open (t->edit), the calls of trace.h that make records do not make them: shapes
 * are known only where an invoke is. Each adds an entry to the edit (edit.c), and what it gives is
 * an operand that names the entry. Every later invoke makes these calls again (repeat.c), so that
 * what comes of it are records as any others. */
#ifndef INSET_TRACE_EDIT_H
#define INSET_TRACE_EDIT_H

#include "trace/records.h"

typedef enum edit_kind {
    EDIT_SITE,
    EDIT_EXTERNAL,
    EDIT_LITERAL,
    EDIT_ZEROS,
    EDIT_INDEX,
    EDIT_FUNCTION,
    EDIT_CAST,
    EDIT_CALL,
    EDIT_CLONE,
    EDIT_BINARY,
    EDIT_NEGATE,
    EDIT_DETACH,
    EDIT_ROWS,
    EDIT_WHERE,
    EDIT_PRODUCT,
    EDIT_TRANSPOSE,
    EDIT_WEIGHT,
    EDIT_METRIC,
    EDIT_SET,
    EDIT_REPLACE,
    EDIT_SKIP
} edit_kind;

/* One call; what of it there is depends on the kind. */
typedef struct edit_entry {
    edit_kind kind;
    int32_t line;
    int32_t event; /* it is made again before the lines that ask for this event; -1: at the start */
    int32_t place; /* the site; CALL, SKIP: the module; WEIGHT: the weight */
    trace_op op;
    inset_type type;
    bool integers; /* LITERAL */
    bool anew;     /* EXTERNAL, LITERAL: some line writes to it, so each invoke has its own */
    const operand *a, *b; /* SET: target and source; REPLACE, SKIP: the source */
    const operand *c;     /* WHERE: what it chooses by */
    size_t n_items;
    const index_item *items;
    metric_request metric; /* its reference is b */
    row_request rows;      /* its dimensions are in `shape` */
    int n_dimensions;
    int64_t shape[INSET_MAX_DIMENSIONS]; /* TRANSPOSE: the two dimensions */
    const void *data;                    /* EXTERNAL: of the type; LITERAL: doubles */
} edit_entry;

struct edit {
    inset_context *context;
    int32_t references;
    arena memory;
    /* tells its values from those of another edit of the trace */
    int32_t number;
    int32_t script; /* which of the trace's scripts it stands in; 0: in none */
    edit_entry *entries;
    size_t n_entries, capacity;
    invoke place; /* how far its lines are in the model, as if it was an invoke */
};

/* An edit that is there for invokes of a trace. */
typedef struct edit_run {
    edit *edit;
    bool holds;  /* for the next invokes */
    size_t next; /* of its entries, in the last invoke; all of them: it is through */
    /* [n_entries] what the entries made there */
    operand *made;
    uint8_t *state; /* of edit_state */
} edit_run;
typedef enum edit_state {
    EDIT_TO_MAKE,
    EDIT_MADE,
    EDIT_MISSING /* where it stands is skipped */
} edit_state;

/* ---- recording (edit.c) ------------------------------------------------- */
/* Is a call, of these operands (NULL: it has none such), one for the edit? Also where the edit has
 * ended and an operand is one of its values, which the call then refuses. */
static inline bool edit_takes(const trace *t, const operand *a, const operand *b)
{
    return t->edit || (a && a->edit) || (b && b->edit);
}
/* INSET_OK, unless one of the operands is a value of another edit than the open one. */
inset_status edit_check(trace *t, const operand *a, const operand *b);
/* Adds what is recorded of a call, whose operands and texts are copied; out may be NULL. */
inset_status edit_add(trace *t, edit_entry entry, operand *out);
inset_status edit_add_external(trace *t, edit_kind kind, inset_type type, bool integers,
    int n_dimensions, const int64_t *shape, const void *data, operand *out);
/* For calls that an edit has not got. */
inset_status edit_refuse(trace *t, const char *what);

/* ---- repeating (repeat.c) ----------------------------------------------- */
/* The last invoke has begun: all edits that hold begin in it. */
inset_status edits_begin(trace *t);
/* Repeats what stands at this event or before it. The user's lines at an event come after. */
inset_status edits_go_on(trace *t, int32_t event);
static inline bool edits_wait(const trace *t)
{
    return t->n_edits && t->open && !t->repeating && !t->backward;
}
/* The open invoke is at its end: repeats the rest, unless stop() ended it. */
inset_status edits_finish(trace *t);
void edits_free(trace *t);

#endif
