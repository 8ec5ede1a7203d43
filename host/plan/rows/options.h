/* options.h: what the planner is asked to heed, and what it says of the plan it made. */
#ifndef INSET_PLAN_OPTIONS_H
#define INSET_PLAN_OPTIONS_H

#include "base/base.h"
#include "kernels/kernels.h"

/* What the planner must know of the device that is to run the plan. All zeros: of a device that
 * pads nothing and fuses nothing. */
typedef struct plan_traits {
    /* of its products (kernels/products.h): above 1 their buffers have room for padding; else 0 or
     * 1 */
    int32_t row_block;
    /* a product and the tanh GELU behind it may be one launch where nobody looks in between */
    bool gelu_in_product;
    bool fast; /* a row's bits may depend on what is computed beside it */
    /* Whether `device` does attention of whole sequences of this shape (its pointers are not looked
     * at); NULL: it does none. */
    bool (*takes_attention)(void *device, inset_type type, const whole_attention_args *shape);
    void *device;
} plan_traits;

typedef struct plan_options {
    plan_traits traits;
    bool no_share; /* no identity between invokes */
    /* bytes of device memory a run may take beside the weights; 0 = any */
    size_t memory_limit;
    /* run the invokes in at least this many groups, at most one an invoke; 0 or 1: only if memory
     * asks for it */
    int32_t chunks;
    /* no records inside steps: a launch of records behind each step that has some; the same bits */
    bool no_fuse;
    bool explain; /* keep the plan in words, too */
} plan_options;

/* What `inset check` prints. */
typedef struct plan_statistics {
    int64_t invokes, sequences, records;
    int64_t rows; /* rows that steps compute, summed over all steps */
    /* the same with each invoke on its own and every row of every step run */
    int64_t rows_unshared;
    double flops, flops_unshared;
    int64_t steps; /* steps run, over all passes */
    /* kernel launches and matrix products, each block of a product at fixed heights */
    int64_t launches;
    /* rectangles of elements (sets, arithmetic, saves, rows put aside) that steps apply to the rows
     * they make */
    int64_t fused_records;
    int64_t fused_launches;                /* ... of so many launches */
    int64_t alone_records, alone_launches; /* those applied in launches of their own */
    int64_t passes, strands;
    int64_t whole_sequences; /* sequences that the device takes whole in some attention */
    int64_t arena_bytes;     /* intermediate values and tables on the device */
    int64_t table_bytes;     /* of these: tables */
    int64_t saved_bytes;
    int64_t weight_bytes; /* of the model, in its type */
    int64_t blocks_again; /* run a second time for gradients (trace_again) */
} plan_statistics;

#endif
