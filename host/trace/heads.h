/* heads.h: sets where a head stands alone, on their way to where all heads meet; see heads.c. */
#ifndef INSET_TRACE_HEADS_H
#define INSET_TRACE_HEADS_H

#include "trace/records.h"

/* A set that waits until the run has gone past `path->event`. */
struct head_set {
    const head_path *path;
    view from, to; /* of path->made and path->target */
    head_set *next;
};

/* The path that begins at a value, or NULL. */
const head_path *heads_path_of(const trace *t, int32_t value_index);
/* Called with every set, and with every replaced slot, of the open invoke. */
inset_status heads_note_set(trace *t, const view *target);
inset_status heads_note_replaced(trace *t, int32_t slot);
/* Where `slot` shows an expert's part of what all have, and v is to take its place: all of them
 * with v in its place, and the slot that shows these. */
inset_status heads_bind_part(trace *t, int32_t *slot, view *v);
/* The open invoke goes on to an event: records what waits for one before it. */
inset_status heads_go_on(trace *t, int32_t event);

/* Gradients with respect to what heads read and write on their own go through the steps aside. So
 * the shadow of an invoke that touches a site of them takes all heads that way: a record for each
 * such site, in t->head_records. Not where lines change what all heads have in common between the
 * site and where it ends; then only what was set goes that way. */
inset_status heads_for_gradients(trace *t);

#endif
