/* backward.h: what the files of gradients in a trace share.
 *
 *     backward.c   what lines call: backward() and .grad, in order
 *     shadow.c     the second run of an invoke, which goes on into the gradients
 *     undo.c       what the forward's records did, backwards
 *     undo_rows.c  the same of functions of whole rows and of products
 *     undo_call.c  the same of modules applied to values, and undo_attention.c of what attends in
 *                  them */
#ifndef INSET_TRACE_BACKWARD_H
#define INSET_TRACE_BACKWARD_H

#include <string.h>

#include "trace/records.h"

typedef enum action_kind { ACTION_RECEIVE, ACTION_READER, ACTION_RECORD } action_kind;
typedef struct action {
    int32_t mark, event;
    action_kind kind;
    int32_t index;
} action;

/* A gradient that waits for its invoke's shadow. of: views of the original invoke's storages. */
typedef struct parcel {
    int32_t invoke;
    const view *of;
    operand gradient; /* the number 1 for the metric itself */
} parcel;

/* What a factor or divisor was when it was read. */
typedef struct factor {
    int32_t record, operand;
    operand value;
} factor;

/* A storage from outside, and zeros() that several invokes write to. */
enum { OWNER_NONE = -1, OWNER_SEVERAL = -2 };

struct backward {
    bool *involved; /* per original invoke */
    int32_t n_originals;
    size_t n_storages; /* when it began: what later ones are, is shadows' */
    int32_t *owner;    /* of those: the invoke that made it, or OWNER_... */
    int32_t original;  /* whose shadow is open; n_originals before the first */
    parcel *parcels;
    size_t n_parcels, parcels_capacity;
    /* of the open shadow */
    int32_t *map;      /* [n_storages] its storage of each of the original's; -1 */
    int32_t *settled;  /* [n_storages] the event after which nothing changes it */
    int32_t *written;  /* [n_storages] the last record that does; -1 */
    bool *needed;      /* [n_storages] */
    int32_t *gradient; /* [n_storages] storage of the gradient of a free tensor, or -1 */
    /* [n_storages] the gradient of one that several invokes fill, or -1: one for all shadows, to
     * which each adds and out of which each takes */
    int32_t *shared;
    /* what lines were given in place of gradients that sets will still be undone in: copies, whose
     * changes go back before anything else happens */
    view *given, *given_for;
    size_t n_given, given_capacity, given_for_capacity;
    bool *is_one;  /* [n_storages] that gradient is the seed */
    bool *reached; /* [values] something came back to it */
    factor *factors;
    size_t n_factors, factors_capacity;
    action *actions;
    size_t n_actions, actions_capacity, done;
    int32_t event; /* the forward event whose mark is being worked at */
    /* the mark of the last gradient that a line asked for, and at that mark the record that wrote
     * it last; INT32_MAX: it is a value of the model's */
    int32_t asked, asked_record;
    char last[256]; /* and what it was of */
};

static inline invoke *shadow_of(trace *t) { return &t->invokes[t->n_invokes - 1]; }

static inline operand tensor_on(const view *v, int32_t storage_index)
{
    operand o = tensor_operand(v);
    o.view.storage = storage_index;
    return o;
}

static inline operand number(double x) { return (operand){.kind = OPERAND_FLOAT, .number = x}; }

static inline bool is_view(const source *s) { return s->view != NULL; }

/* ---- shadow.c: the invoke that does the same and goes on ---- */
/* The site that a view is of, "transformer.h.5.output". */
void gradient_name(const trace *t, const view *v, char *out, size_t size);
inset_status gradient_not_yet(trace *t, const char *what);
inset_status gradient_unreached(trace *t, const view *v);
/* A new storage like another; false: memory is out. */
bool shadow_add_storage(trace *t, const storage *like, int32_t *index);
/* The storage of a value of the open shadow. */
inset_status shadow_value(trace *t, int32_t value_index, int32_t *index);
/* The shadow's storage, or view, of one of the original's; what is not the invoke's own stays
 * itself. */
inset_status shadow_storage(trace *t, int32_t from, int32_t *to);
inset_status shadow_view(trace *t, const view *from, const view **out);
/* Begins the shadow of an invoke: its forward, and the list of what is to be undone. */
inset_status shadow_open(trace *t, int32_t original);

/* ---- undo.c: what the forward's lines did, backwards ---- */
/* The view of a storage's gradient that goes with a view of the storage (one of the original's
 * numbers), at the event at hand. make: a tensor that lines made gets one; *found false: nothing
 * has come back to it. */
inset_status gradient_view(trace *t, const view *of, bool make, operand *out, bool *found);
/* Adds a gradient to that of a view (one of the original's numbers). */
inset_status undo_send(trace *t, const view *to, const operand *gradient);
/* What operand k of a record was when it was read: a factor, or what a function is of. */
const operand *undo_factor(const backward *b, int32_t record, int k);
/* Undoes all that comes before a mark, receives what is sent there, and undoes what the records
 * after `record` did there. */
inset_status undo_until(trace *t, int32_t mark, int32_t record);
/* A set of the forward is still to be undone in the gradient of storage `at`: a line then gets a
 * copy, whose changes are taken back before anything else happens. */
bool undo_will_change(const trace *t, int32_t at);
inset_status undo_give_copy(trace *t, operand *gradient);
inset_status undo_take_back(trace *t);

/* ---- undo_rows.c: functions of whole rows, and products ---- */
inset_status undo_rows(trace *t, const trace_record *r, int32_t index, const operand *gradient);
inset_status undo_product(trace *t, const trace_record *r, const operand *gradient);
/* ---- undo_call.c: modules applied to values ---- */
inset_status undo_call(trace *t, const trace_record *r, int32_t index, const operand *gradient);

#endif
