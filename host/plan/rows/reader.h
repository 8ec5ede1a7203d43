/* reader.h: how a record's sources are read: strip by strip, each a list of pieces (records.c,
 * views.c). */
#ifndef INSET_PLAN_READER_H
#define INSET_PLAN_READER_H

#include "plan/rows/rows.h"

/* One strip at a time: which rows the sources have, and for how many rows that stays so. */
typedef struct reader {
    planner *p;
    const trace_record *record;
    tensor *target;
    tensor *sources[STRIP_SOURCES];
    /* columns of the target that count (all but for view_as_value) */
    int32_t c0, c1;
    /* rows made so far, for records that make whole tensors */
    segment_list out;
    const map **maps;
    int32_t sequence; /* whose rows `out` holds; -1 none */
    const map *old;   /* record_set: the target's rows before */
    int32_t old_done; /* ... of them copied to out so far */
} reader;

/* The pieces that source k gives for the strip's rows from row `at` on; *left shrinks to the rows
 * for which they hold. */
bool source_pieces(reader *r, const strip *s, int k, int32_t at, piece_list *list, int32_t *left,
    inset_type constant_type, double number);

#endif
