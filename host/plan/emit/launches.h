/* launches.h: the finished plan: launches in order, with their tables. Read by run/.
 *
 * Memory is named by area and offset until a run knows addresses: every pointer in launches and
 * records holds (area << 56 | offset), 0 for none, until run/run.c puts addresses in. */
#ifndef INSET_PLAN_LAUNCHES_H
#define INSET_PLAN_LAUNCHES_H

#include <stddef.h>

#include "plan/wanted/wanted.h"

typedef struct plan plan;

typedef enum area {
    AREA_NONE,
    AREA_ARENA,  /* intermediate values and scratch */
    AREA_TABLES, /* row tables, int32; made on the device from the plan's runs */
    /* record tables, those of launches that apply records to their rows among them */
    AREA_RECORDS,
    AREA_METRICS,   /* tables of metrics */
    AREA_ROW_CALLS, /* tables of functions of whole rows, and what they are of */
    AREA_ROW_OPERANDS,
    AREA_SAVED, /* saved values */
    /* From here to AREA_WEIGHT is what may be other numbers at the next run: a run keeps these
     * areas side by side, so that all of it goes up in one copy. */
    AREA_EXTERNAL, /* tensors from outside */
    AREA_INPUT,    /* sequential models: the invokes' rows, fp32 */
    AREA_IDS,      /* token ids of embedded rows, int32 */
    AREA_ANSWERS,  /* tokens that metrics are of, int32 */
    AREA_WEIGHT,   /* see weight_offset */
    AREA_COUNT,
    AREA_FIRST_INPUT = AREA_EXTERNAL
} area;

/* An offset in AREA_WEIGHT: bytes from the start of one of the program's weights. */
enum { WEIGHT_BITS = 40 };
static inline int64_t weight_offset(int32_t weight, int64_t bytes)
{
    return (int64_t)weight << WEIGHT_BITS | bytes;
}

typedef union launch_args {
    embed_args embed;
    gather_args gather;
    layernorm_args layernorm;
    rmsnorm_args rmsnorm;
    activation_args activation;
    gate_args gate;
    add_args add;
    add_layernorm_args add_layernorm;
    add_rmsnorm_args add_rmsnorm;
    scale_args scale;
    rope_args rope;
    columns_args columns;
    scores_args scores;
    softmax_args softmax;
    mix_args mix;
    norm_scale_args norm_scale;
    norm_by_scale_args norm_by_scale;
    attention_args attention;
    whole_attention_args whole_attention;
    metrics_args metrics;
    norm_back_args norm_back;
    activation_back_args activation_back;
    join_args join;
    copies_args copies;
    attention_back_args attention_back;
    softmax_back_args softmax_back;
    mix_back_args mix_back;
    divisor_back_args divisor_back;
    route_args route;
    expert_table_args expert_table;
    expert_gather_args expert_gather;
    expert_gate_args expert_gate;
    expert_gate_back_args expert_gate_back;
    expert_weight_back_args expert_weight_back;
    expert_sum_args expert_sum;
    expert_sum_back_args expert_sum_back;
    expert_joined_back_args expert_joined_back;
    records_args records;
    row_functions_args row_functions;
} launch_args;

/* A matrix [in, out] of products that a trace brings: element (i, o) is number base + i * in_step +
 * o * out_step of a tensor [rows, width] from outside, or of a weight. in 0: no launch has it. */
typedef struct given_matrix {
    int32_t storage, weight; /* weight -1: from outside, of the trace's storage */
    inset_type type;
    int32_t in, out;
    int64_t rows, width;
    int64_t base, in_step, out_step;
    void *data;        /* the plan's own copy; or NULL, and */
    const void *there; /* where the trace has it on the device */
} given_matrix;

struct matrix; /* device/device.h */

typedef struct launch {
    /* gelu: a matmul with the tanh GELU behind it; reverse: by the weight's transpose, no bias */
    bool is_matmul, gelu, reverse;
    uint8_t kernel, type; /* kernel_id, inset_type */
    int32_t args_size;
    int32_t weight;       /* matmul: the weight's index */
    int32_t given;        /* ... or that of the plan's matrices, + 1; 0: a weight */
    int32_t bias;         /* of a product by a part of the weight, and of KERNEL_FOLD, or -1 */
    head_part part;       /* ... which part; n_in 0: all of it */
    int64_t blocks, work; /* kernel */
    const void *x;
    void *y;            /* matmul */
    const void *matrix; /* ... its matrix on the device: run.c's */
    /* a product of experts: so many weights from `weight` on (and biases), of which weight i
     * multiplies rows offsets[i] .. offsets[i + 1], numbers that are on the device; 0: no such.
     * `rows` is the most there can be. */
    int32_t n_group;
    const int32_t *offsets;
    const struct matrix **matrices; /* ... their matrices: run.c's */
    int64_t x_stride, y_stride, rows;
    /* kernel; with records (fused.lists) it takes both, as they lie here */
    struct {
        fused_records fused;
        launch_args args;
    };
} launch;

_Static_assert(offsetof(launch, args) == offsetof(launch, fused) + sizeof(fused_records),
    "a kernel with records takes its arguments behind them");

/* The kernel that a launch runs, and its arguments. */
static inline kernel_id launch_kernel(const launch *l)
{
    return (kernel_id)(l->kernel + (l->fused.lists ? KERNEL_COUNT : 0));
}
static inline const void *launch_arguments(const launch *l, size_t *size)
{
    *size = (size_t)l->args_size + (l->fused.lists ? sizeof l->fused : 0);
    return l->fused.lists ? (const void *)&l->fused : (const void *)&l->args;
}

struct plan {
    inset_context *context;
    arena memory;
    inset_type model_type;
    plan_traits traits; /* of the device that may run it */
    int64_t area_bytes[AREA_COUNT];
    launch *launches;
    size_t n_launches, launches_capacity;
    /* the tables of AREA_TABLES, as KERNEL_EXPAND makes them */
    table_run *runs;
    size_t n_runs, runs_capacity;
    /* parts of tables that repeat others, made after them */
    table_run *repeats;
    size_t n_repeats, repeats_capacity;
    int32_t *literals;
    size_t n_literals, literals_capacity; /* numbers that no run gives */
    int32_t n_tables;                     /* numbers of all tables */
    record *records;
    size_t n_records, records_capacity;
    metric_row *metric_rows;
    size_t n_metric_rows, metric_rows_capacity;
    row_call *row_calls;
    size_t n_row_calls, row_calls_capacity;
    const void **row_operands;
    size_t n_row_operands, row_operands_capacity;
    given_matrix *matrices; /* [n_matrices] as the trace numbers them */
    size_t n_matrices;
    int32_t *used_weights; /* [n_used_weights] whose rows are read as they lie */
    size_t n_used_weights;
    /* for every number of AREA_ANSWERS: which answer of the trace it is */
    int32_t *answer_source;
    size_t n_answer_source, answer_source_capacity;
    /* the trace's: tokens that metrics are of */
    int32_t *answers;
    size_t n_answers;
    answer_tie *ties;
    size_t n_ties; /* answers that must stay equal */
    /* of the trace, in order */
    struct asked_metric {
        int64_t first_answer;
        int32_t count, width;
    } * metrics;
    /* first metric of each invoke; one more at the end */
    int64_t *invoke_metric;
    /* for every id of AREA_IDS: which token of the trace it is */
    int64_t *id_source;
    size_t n_ids, ids_capacity;
    int64_t
        n_users; /* invokes that a user made; the others are shadows (trace/gradient/backward.c) */
    int64_t *user;               /* [n_users] which of all each is */
    int64_t *shadows;            /* [n_invokes] of a shadow, the invoke that it repeats; else -1 */
    int64_t n_tokens, n_invokes; /* tokens (or rows) of the trace */
    /* first token (or row) of each invoke; one more at the end */
    int64_t *invoke_first;
    /* lists of tokens, equal ones once; NULL for sequential models */
    int64_t *tokens;
    size_t tokens_capacity;
    /* which row each of them is; -1: none */
    int32_t *token_word;
    size_t words_capacity;
    /* where the list of each invoke begins in these two */
    int64_t *invoke_list;
    /* which token of the trace stands for a row */
    int64_t *word_source;
    /* sequential models: the trace's rows */
    float *rows;
    int32_t row_width;
    int32_t vocabulary;
    saved_tensor *saved;
    size_t n_saved;
    /* by the trace's storages, rising */
    struct external {
        int32_t storage;
        int64_t offset, bytes;
        void *data;        /* the plan's own copy; or NULL, and */
        const void *there; /* where the trace has it on the device */
    } * externals;
    size_t n_externals;
    /* the saved area has padding: zero it before a run */
    bool needs_clearing;
    plan_statistics statistics;
    text explanation;       /* empty unless asked for */
    int64_t *rows_of_value; /* computed, over all passes */
};

inset_status plan_emit(planner *p, schedule *s, plan *out);
/* Keeps what the trace's invokes are given (inputs.c). */
inset_status plan_keep_inputs(planner *p, plan *out);

/* Where the pointers of a kernel's arguments are: offsets into its struct, ended by -1. */
const int16_t *launch_pointers(kernel_id kernel);
#endif
