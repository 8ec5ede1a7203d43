/* emit.h: what the files that make launches share.
 *
 *     emit.c            moments in order; where rows are, launches, row tables, operands
 *     emit_step.c       the launch of a step
 *     emit_attention.c  attention, fused or in the open
 *     emit_record.c     records, saved values, rows put aside
 */
#ifndef INSET_PLAN_EMIT_H
#define INSET_PLAN_EMIT_H

#include "plan/launches.h"

typedef struct emitter {
    planner *p;
    schedule *s;
    plan *out;
    int32_t now;
    moment when;
    int64_t scratch_bytes;               /* of the moment being emitted; behind all buffers of the arena */
    int32_t *rows; size_t n_rows, rows_capacity;     /* an operand's rows while they are gathered */
    table table_lookup;                  /* equal row tables are stored once */
    struct { size_t at, n; } *stored; size_t n_stored, stored_capacity;
    int32_t *saved_order;                /* saved rows by moment */
    size_t saved_next;
    size_t first_record;                 /* of the launch being filled */
    int32_t *leaf_rows, *leaf_table;     /* per strand: rows its context table needs at this attention, and where it is; -1 */
} emitter;

static inline void *tagged(area at, int64_t offset) { return (void *)(uintptr_t)((uint64_t)at << 56 | (uint64_t)offset); }
static inline void *moved(void *at, int64_t bytes) { return (char *)at + bytes; }

/* What a step reads for its rows: an address, and a table where rows are not in order. */
typedef struct operand_ref { void *at; const int32_t *rows; int64_t stride; } operand_ref;
typedef struct row_gatherer { emitter *e; int32_t value; } row_gatherer;

/* ---- where rows are (emit.c) */
int64_t emit_row_bytes(const emitter *e, int32_t domain, int32_t strand_index);
int32_t emit_buffer_row(const emitter *e, int32_t pass, int32_t value, int32_t strand_index, int32_t row);
void *emit_value_buffer(const emitter *e, int32_t pass, int32_t value);
void *emit_kept_address(const emitter *e, int32_t domain, int32_t strand_index, int32_t row);
void *emit_row_address(const emitter *e, int32_t domain, int32_t strand_index, int32_t row);
const moment_plan *emit_chosen_columns(const emitter *e, int32_t domain, int32_t strand_index);

/* ---- launches, tables, operands (emit.c). NULL: memory is out. A launch may move when the next one is added. */
launch *emit_launch(emitter *e);
launch *emit_kernel(emitter *e, kernel_id kernel, size_t args_size, int64_t blocks, int64_t work);
void *emit_table(emitter *e, const int32_t *rows, size_t n);
bool emit_gather_rows(void *user, int32_t strand_index, int32_t first, int32_t count);
inset_status emit_finish_operand(emitter *e, int32_t slot_index, operand_ref *out);
inset_status emit_operand(emitter *e, const step *st, int k, operand_ref *out);
static inline void *emit_weight(int32_t index) { return index < 0 ? NULL : tagged(AREA_WEIGHT, index); }

/* ---- steps (emit_step.c, emit_attention.c) */
inset_status emit_step(emitter *e, const step *st);
inset_status emit_attention(emitter *e, const step *st, const moment_plan *m, void *out, int64_t width);
inset_status emit_open(emitter *e, const need *n);

/* ---- records (emit_record.c) */
void emit_record_operand(const emitter *e, const piece *from, int32_t lo, int32_t c0, const void **at, double *constant, int64_t *row, int64_t *column,
                         uint8_t *type, inset_type constant_type);
bool emit_record(emitter *e, const record *r);
inset_status emit_finish_records(emitter *e);
inset_status emit_records(emitter *e);
/* Puts the saved rows in order of their moments. */
inset_status emit_order_saved(emitter *e);

#endif
