/* kernels.h: what the kernels take. Plain C, shared by the host and by kernels/ *.cu, which know
 * nothing of traces or models.
 *
 * Letters: d = width of a row, rows are numbered in a packed buffer [rows, stride]. T is the
 * storage type (f32, bf16, f16); all arithmetic is fp32, statistics and sums too, and each result
 * is rounded once to T. Strides count elements; a pointer may point at any column of a buffer. A
 * `..._rows` table gives, for each output row, the row of that operand's buffer to read; NULL means
 * the same row. No pointer needs more alignment than its type unless a kernel says so; kernels pick
 * wide accesses themselves where the addresses allow. Outputs never overlap inputs, except where a
 * kernel says so.
 *
 * One kernel = one function over a grid of blocks. A device has a table kernel x type -> function;
 * see device/device.h. */
#ifndef INSET_KERNELS_H
#define INSET_KERNELS_H

#include <stdint.h>

typedef enum kernel_id {
    KERNEL_EMBED,
    KERNEL_GATHER,
    KERNEL_LAYERNORM,
    KERNEL_RMSNORM,
    KERNEL_ACTIVATION,
    KERNEL_GATE,
    KERNEL_ADD,
    KERNEL_ADD_LAYERNORM,
    KERNEL_ADD_RMSNORM,
    KERNEL_SCALE,
    KERNEL_ROPE,
    KERNEL_ATTENTION,
    KERNEL_COLUMNS,
    KERNEL_SCORES,
    KERNEL_SOFTMAX,
    KERNEL_MIX,
    KERNEL_NORM_SCALE,
    KERNEL_NORM_BY_SCALE,
    KERNEL_METRICS,
    KERNEL_NORM_BACK,
    KERNEL_ACTIVATION_BACK,
    KERNEL_JOIN,
    KERNEL_SPREAD,
    KERNEL_FOLD,
    KERNEL_ATTENTION_BACK,
    KERNEL_SOFTMAX_BACK,
    KERNEL_MIX_BACK,
    KERNEL_DIVISOR_BACK,
    KERNEL_NORM_SCALE_BACK, /* norm_back_args; dy [rows, groups] is the gradient of the scale */
    KERNEL_ROUTE,
    KERNEL_ROUTE_BACK,
    KERNEL_EXPERT_COUNT,
    KERNEL_EXPERT_PLACE,
    KERNEL_EXPERT_GATHER,
    KERNEL_EXPERT_GATE,
    KERNEL_EXPERT_SUM,
    KERNEL_EXPERT_GATE_BACK,
    KERNEL_EXPERT_WEIGHT_BACK,
    KERNEL_EXPERT_SUM_BACK,
    KERNEL_EXPERTS_JOINED_BACK,
    KERNEL_GROUPED_PRODUCT, /* a GPU's */
    KERNEL_THROUGH_NORM,
    KERNEL_WIDEN,
    KERNEL_TILE_ATTENTION_64,
    KERNEL_TILE_ATTENTION_128,
    KERNEL_TILE_ATTENTION_256, /* what a GPU does for KERNEL_ATTENTION: see tile_shapes.h */
    /* no kernel of ours: what a device does that takes it (device.h, device_takes_attention) */
    KERNEL_WHOLE_ATTENTION,
    /* this and the next three: one function for all storage types, in column 0 (f32) */
    KERNEL_EXPAND,
    KERNEL_RECORDS,
    KERNEL_FUNCTIONS, /* records_args; records that are functions */
    KERNEL_ROW_FUNCTIONS,
    KERNEL_COUNT,
    /* KERNEL_COUNT + k: kernel k with records, see fused_records */
    KERNEL_ALL = 2 * KERNEL_COUNT
} kernel_id;

/* out[r, :] = table[ids[r], :] */
typedef struct embed_args {
    void *out;
    const void *table;
    const int32_t *ids;
    int64_t n_rows, width, out_stride;
} embed_args;

/* out[r, :] = x[rows[r], :] */
typedef struct gather_args {
    void *out;
    const void *x;
    const int32_t *x_rows;
    int64_t n_rows, width, out_stride, x_stride;
} gather_args;

/* out = (x - mean) * rsqrt(variance + eps) * weight + bias; variance is the mean of squared
 * deviations (PyTorch layer_norm). Each row is `groups` parts, each normalised on its own; weight
 * and bias are [width / groups] in T; either may be NULL. */
typedef struct layernorm_args {
    void *out;
    const void *x;
    const int32_t *x_rows;
    const void *weight, *bias;
    int64_t n_rows, width, out_stride, x_stride, groups;
    float eps;
} layernorm_args;

/* Each row is `groups` parts of width / groups, each normalised on its own with the same weight
 * [width / groups]. plus_one = 0: out = T(x * rsqrt(mean(x^2) + eps)) * weight, the product rounded
 * again (Llama). plus_one = 1: out = T(x * rsqrt(mean(x^2) + eps) * (1 + weight)) (Gemma).
 * round_once = 1: out = T(x * rsqrt(mean(x^2) + eps) * weight) (OLMo-2). */
typedef struct rmsnorm_args {
    void *out;
    const void *x;
    const int32_t *x_rows;
    const void *weight;
    int64_t n_rows, width, out_stride, x_stride, groups;
    float eps;
    int32_t plus_one, round_once;
} rmsnorm_args;

/* out = f(T(x + bias)); bias [width] or NULL. kind is enum activation of program.h: 0 gelu (erf), 1
 * gelu (tanh), 2 relu, 3 silu, 4 tanh, 5 sigmoid. */
typedef struct activation_args {
    void *out;
    const void *x;
    const int32_t *x_rows;
    const void *bias;
    int64_t n_rows, width, out_stride, x_stride;
    int32_t kind;
} activation_args;

/* out = a * b */
typedef struct gate_args {
    void *out;
    const void *a, *b;
    const int32_t *a_rows, *b_rows;
    int64_t n_rows, width, out_stride, a_stride, b_stride;
} gate_args;

/* out = T(a + b), and with c: T(T(a + b) + c) */
typedef struct add_args {
    void *out;
    const void *a, *b, *c;
    const int32_t *a_rows, *b_rows, *c_rows;
    int64_t n_rows, width, out_stride, a_stride, b_stride, c_stride;
} add_args;

/* out = T(a + b), and norm = layernorm(out) as KERNEL_LAYERNORM computes it from the rounded sum:
 * the same bits. */
typedef struct add_layernorm_args {
    void *out, *norm;
    const void *a, *b;
    const int32_t *a_rows, *b_rows;
    const void *weight, *bias;
    int64_t n_rows, width, out_stride, norm_stride, a_stride, b_stride;
    float eps;
} add_layernorm_args;

/* out = T(a + b), and norm = rmsnorm(out) as KERNEL_RMSNORM computes it, in one group, from the
 * rounded sum: the same bits. */
typedef struct add_rmsnorm_args {
    void *out, *norm;
    const void *a, *b;
    const int32_t *a_rows, *b_rows;
    const void *weight;
    int64_t n_rows, width, out_stride, norm_stride, a_stride, b_stride;
    float eps;
    int32_t plus_one, round_once;
} add_rmsnorm_args;

/* softcap = 0: out = x * scale (scale already rounded to T by the caller).  softcap > 0: out =
 * softcap * tanh(x / softcap), rounded to T after each operation. */
typedef struct scale_args {
    void *out;
    const void *x;
    const int32_t *x_rows;
    int64_t n_rows, width, out_stride, x_stride;
    float scale, softcap;
} scale_args;

/* ---- gradients (back.cu has the formulas); dy is the gradient of what the step made of x ---- */

/* out = the gradient of a norm's x: of a layer norm (centred) or an rms norm in `groups` equal
 * parts of a row. weight [width / groups] or NULL; plus_one: 1 + weight. constant_scale: what the
 * norm divides by counts as a constant; so it does where it is given, scale [rows, groups]. */
typedef struct norm_back_args {
    void *out;
    const void *x, *dy, *scale;
    const int32_t *x_rows, *dy_rows, *scale_rows;
    const void *weight;
    int64_t n_rows, width, out_stride, x_stride, dy_stride, scale_stride, groups;
    float eps;
    int32_t centred, plus_one, constant_scale;
} norm_back_args;

/* out = dy * slope at x: the derivative of activation_args's kind, or with secant a(x) / x~, x~ = x
 * + 1e-6 sign(x). kind ACTIVATION_BACK_SOFTCAP: 1 - tanh(x / softcap)^2. */
enum { ACTIVATION_BACK_SOFTCAP = 32 };
typedef struct activation_back_args {
    void *out;
    const void *x, *dy;
    const int32_t *x_rows, *dy_rows;
    int64_t n_rows, width, out_stride, x_stride, dy_stride;
    int32_t kind, secant;
    float softcap;
} activation_back_args;

/* out[r, column + i * part_stride + j] = x[r, i * part + j] for i < parts, j < part; 0
 * elsewhere. */
typedef struct join_args {
    void *out;
    const void *x;
    const int32_t *x_rows;
    int64_t n_rows, width, out_stride, x_stride;
    int32_t column, parts, part, part_stride;
} join_args;

/* Rows of parts, each `part` wide, and rows that have `copies` of each, one behind the other:
 * part i's are parts i * copies .. Spread: out has the copies; fold: x has, and out[r, i] is their
 * sum, first to last in fp32, plus bias [width] or NULL. width is out's. */
typedef struct copies_args {
    void *out;
    const void *x, *bias;
    const int32_t *x_rows;
    int64_t n_rows, width, out_stride, x_stride;
    int32_t part, copies;
} copies_args;

/* ---- mixtures of experts (experts.cu) ---- */

enum { KERNEL_MOST_EXPERTS = 1024 };

/* Weights [n_experts] of rows, from logits x: softmax(x) over all or over the `chosen` largest, 0
 * for those that are not among these (of equal ones the first are). Back: dy is the gradient of the
 * weights, out that of x. */
typedef struct route_args {
    void *out;
    const void *x, *dy;
    const int32_t *x_rows, *dy_rows;
    int64_t n_rows, n_experts, out_stride, x_stride, dy_stride;
    int32_t chosen, over_all;
} route_args;

/* Which rows each expert has, of n_rows; a pair is a row and an expert that it has. For example,
 * rows 0 and 1 with experts {0, 2} and {2}: pairs (0, 0), (0, 2), (1, 2), offsets 0 1 1 3.
 * int32, in this order:
 *     counts   [n_experts]            rows of each expert
 *     offsets  [n_experts + 1]        its first pair; at the end how many pairs there are
 *     rows     [n_pairs]              of each pair
 *     experts  [n_pairs]
 *     pairs    [n_rows, n_experts]    the pair, or -1
 * n_pairs is how many there may be. */
typedef struct expert_tables {
    int32_t *at;
    int64_t n_rows, n_experts, n_pairs;
} expert_tables;
static inline int64_t expert_tables_bytes(int64_t rows, int64_t n_experts, int64_t pairs)
{
    return 4 * (2 * n_experts + 1 + 2 * pairs + rows * n_experts);
}

/* Rows of weights [n_experts]; an expert whose weight is 0 is none of the row's. NULL: every row
 * has every expert, with the weight 1. */
typedef struct expert_weights {
    const void *at;
    const int32_t *rows;
    int64_t stride;
} expert_weights;

/* Blocks: n_experts. KERNEL_EXPERT_COUNT makes the counts, KERNEL_EXPERT_PLACE all else of them. */
typedef struct expert_table_args {
    expert_tables tables;
    expert_weights weights;
} expert_table_args;

/* Blocks: n_pairs, here and where nothing else is said. out [pairs, width] = the pair's row of x;
 * apart: of its columns expert * width .. */
typedef struct expert_gather_args {
    void *out;
    const void *x;
    const int32_t *x_rows;
    expert_tables tables;
    int64_t width, x_stride;
    int32_t apart;
} expert_gather_args;

/* out [pairs, width] = T(act(gate)) * up, of gate and up [pairs, stride]; out may be gate then.
 * limit above 0: of columns 2i of gate and up, see experts in program/program.h, rounded behind
 * every operation. kind: activation_args's. */
typedef struct expert_gate_args {
    void *out;
    const void *gate, *up;
    expert_tables tables;
    int64_t width, stride;
    int32_t kind;
    float limit, alpha;
} expert_gate_args;

/* gate and up in, their gradients out, where back [pairs, width] is the gradient of what
 * KERNEL_EXPERT_GATE made, but for the pair's weight. secant, half: RelP's rules. */
typedef struct expert_gate_back_args {
    void *gate, *up;
    const void *back;
    expert_tables tables;
    expert_weights weights;
    int64_t width, stride;
    int32_t kind, secant, half;
    float limit, alpha;
} expert_gate_back_args;

/* out [pairs], fp32: the sum of y * dy, both [pairs, width]. */
typedef struct expert_weight_back_args {
    float *out;
    const void *y, *dy;
    expert_tables tables;
    int64_t width;
    int32_t half;
} expert_weight_back_args;

/* Blocks: n_rows. out = the sum of T(weight * part), experts in order; a part is the pair's row of
 * y [pairs, width], or y_apart: columns expert * width .. of row y_rows[r]. apart: out has the
 * parts themselves, side by side. */
typedef struct expert_sum_args {
    void *out;
    const void *y;
    const int32_t *y_rows;
    expert_tables tables;
    expert_weights weights;
    int64_t width, out_stride, y_stride;
    int32_t y_apart, apart;
} expert_sum_args;

/* Blocks: n_rows. out [width + n_experts] = the sum of a row's pairs of by_gate + by_up (or NULL),
 * both [pairs, width], and its pairs' numbers of weights; apart: [n_experts * width], the pairs
 * side by side. */
typedef struct expert_sum_back_args {
    void *out;
    const void *by_gate, *by_up;
    const float *weights;
    expert_tables tables;
    int64_t width, out_stride;
    int32_t apart;
} expert_sum_back_args;

/* Blocks: n_rows. Of the sum of weight * part, parts side by side in y: out [n_experts * width +
 * n_experts], 0 for experts whose weight is 0. */
typedef struct expert_joined_back_args {
    void *out;
    const void *y, *dy;
    const int32_t *y_rows, *dy_rows;
    expert_weights weights;
    int64_t n_rows, n_experts, width, out_stride, y_stride, dy_stride;
    int32_t half;
} expert_joined_back_args;

/* Rows of x [pairs, in] times the matrix they are of, and its bias (or NULL), into y [pairs, out]:
 * matrix i has rows offsets[i] .. offsets[i + 1]. in_out: matrices are [in, out], else [out, in].
 * Blocks: see grouped.cu. */
enum { GROUPED_MATRICES = 64, GROUPED_ROWS = 64 };
#define GROUPED_COLUMNS(element_bytes) ((element_bytes) == 4 ? 64 : 128) /* of a block */
typedef struct grouped_args {
    void *y;
    const void *x;
    const int32_t *offsets;
    int64_t in, out;
    int32_t n, in_out;
    const void *weights[GROUPED_MATRICES], *biases[GROUPED_MATRICES];
} grouped_args;

/* Rotates the first rotary_dims of each head: with h = rotary_dims / 2, angle = position *
 * frequencies[i], out[i] = x[i] cos - x[i + h] sin, out[i + h] = x[i + h] cos + x[i] sin; with
 * interleaved the two columns are 2i and 2i + 1. cos and sin are rounded to T and scaled by
 * attention_scale first, and each product is rounded to T, as transformers' apply_rotary_pos_emb
 * does; with round_once (OLMo-2) nothing but the result is. */
typedef struct rope_args {
    void *out;
    const void *x;
    const int32_t *x_rows;
    const int32_t *positions;
    const float *frequencies;
    int64_t n_rows, out_stride, x_stride;
    int32_t n_heads, head_dim, rotary_dims;
    float attention_scale;
    int32_t x_head_stride; /* columns from one head of x to the next; 0 = head_dim */
    int32_t round_once;
    int32_t inverse; /* turns back */
    int32_t interleaved;
} rope_args;

/* What one query row attends to: `count` entries of the key-value row tables, from `first` on, in
 * order of position. The last is the row's own position. */
typedef struct attention_context {
    int32_t first, count;
} attention_context;

/* For each head h with key-value head g = h / (n_heads / n_kv_heads), over the last min(count,
 * window) entries j (window 0: all):
 *     s_j = softcap(scale * q_h . k_g[key_rows[first + j]]) + slopes[h] * j,
 *     out_h = sum_j softmax(s)_j * v_g[value_rows[first + j]]
 * sinks [n_heads] in T, or NULL: a score of each head's own that takes its part of the softmax and
 * has no value (gpt-oss).
 * Online softmax in fp32, keys in order of position, so that a row's bits depend on its own context
 * alone. head_dim <= 256. q, k, v are [rows, stride] at the first column of their head 0. softcap
 * 0: none. slopes [n_heads] (ALiBi), or NULL. */
typedef struct attention_args {
    void *out;
    const void *q, *k, *v;
    const int32_t *q_rows; /* per output row, or NULL */
    /* the key-value row tables; value_rows may equal key_rows */
    const int32_t *key_rows, *value_rows;
    const attention_context *contexts; /* per output row */
    const float *slopes;
    const void *sinks;
    int64_t n_rows, out_stride, q_stride, k_stride, v_stride;
    int32_t n_heads, n_kv_heads, head_dim, window;
    float scale, softcap;
} attention_args;

/* Attention backwards, unit by unit: unit u is rows first .. first + count of out, the first
 * `count` positions of a sequence in order, and the tables say where their q, k, v and dz lie. A
 * row of out is dq [n_heads * head_dim], dk and dv [n_kv_heads * head_dim] each: the gradients of
 * the row's own query, key and value. window, scale, softcap, slopes, sinks: attention_args's.
 * both_ways 1: a query sees all of its unit's keys, later ones too (and window is 0).
 * scratch: n_kv_heads * n_rows * (2 head_dim + 3) numbers. Blocks: n_units * n_kv_heads. */
typedef struct attention_back_args {
    void *out;
    const void *q, *k, *v, *dz;
    const int32_t *q_rows, *key_rows, *value_rows, *dz_rows;
    const attention_context *units;
    const float *slopes;
    const void *sinks;
    float *scratch;
    int64_t n_units, n_rows, out_stride, q_stride, k_stride, v_stride, dz_stride;
    int32_t n_heads, n_kv_heads, head_dim, window, both_ways;
    float scale, softcap;
} attention_back_args;

/* Causal attention of n_sequences sequences of `length` positions each: rows s * length .. of q, k,
 * v and out are sequence s, position by position. statistics [n_sequences, n_heads, length]: the
 * logarithm of the sum that a row's softmax divides by. All head_dim, strides and columns are
 * multiples of 8; softmax without cap or window. */
typedef struct whole_attention_args {
    void *out;
    const void *q, *k, *v;
    float *statistics;
    int64_t n_sequences, length, out_stride, q_stride, k_stride, v_stride;
    int32_t n_heads, n_kv_heads, head_dim;
    float scale;
} whole_attention_args;

/* out[r, h, j] for queries at positions first_position + r and the keys of one sequence, j <
 * n_columns (>= n_keys): T(T(q_h . k_g) * scale), softcapped or (slopes not NULL)
 * T(q_h . k_g * scale + T(slopes[h] * j)), `masked` (-inf) where j is later than
 * the query, outside its window or no key of this sequence. Blocks: n_rows * n_heads. */
typedef struct scores_args {
    void *out;
    const void *q, *k;
    const int32_t *q_rows, *key_rows;
    const float *slopes;
    int64_t n_rows, n_keys, n_columns, first_position, out_stride, q_stride, k_stride;
    int32_t n_heads, n_kv_heads, head_dim, window;
    float scale, softcap, masked;
} scores_args;

/* Softmax over the first n_keys of n_columns of each of `groups` parts of a row; the columns behind
 * them, which only longer sequences of the invoke have keys for, become 0 whatever they hold.
 * x_stride 0 repeats a row. sinks [groups] in T, or NULL: attention_args's. */
typedef struct softmax_args {
    void *out;
    const void *x, *sinks;
    int64_t n_rows, groups, n_keys, n_columns, out_stride, x_stride;
} softmax_args;

/* out[r, h, :] = sum over j < n_keys of pattern[r, h, j] * v[value_rows[j], group of h, :]; a row
 * of pattern has n_columns a head. */
typedef struct mix_args {
    void *out;
    const void *pattern, *v;
    const int32_t *value_rows;
    int64_t n_rows, n_keys, n_columns, out_stride, pattern_stride, v_stride;
    int32_t n_heads, n_kv_heads, head_dim;
} mix_args;

/* Softmax backwards in each of `groups` parts of n_columns of a row, x being what it made; scaled:
 * through the scale and the cap of scores x instead (open_back.cu). A stride of 0 repeats a row. */
typedef struct softmax_back_args {
    void *out;
    const void *x, *dy;
    int64_t n_rows, groups, n_columns, out_stride, x_stride, dy_stride;
    float scale, softcap;
    int32_t scaled;
} softmax_back_args;

/* KERNEL_MIX transposed: out[j, g, :] = sum over rows r and the heads h of group g of pattern[r, h,
 * j] * x[x_rows[r], h, :], for j < n_keys. Sums go on in scratch [n_keys, n_kv_heads * head_dim]
 * from the launch that is `first` to the one that is `last`. Blocks: n_keys. */
typedef struct mix_back_args {
    void *out;
    const void *pattern, *x;
    const int32_t *x_rows;
    float *scratch;
    int64_t n_rows, n_keys, n_columns, out_stride, pattern_stride, x_stride;
    int32_t n_heads, n_kv_heads, head_dim, first, last;
} mix_back_args;

/* out [rows, groups]: the gradient of the scale [rows, groups] that a norm divided by. */
typedef struct divisor_back_args {
    void *out;
    const void *x, *scale, *dy;
    const int32_t *x_rows, *scale_rows, *dy_rows;
    const void *weight;
    int64_t n_rows, width, out_stride, x_stride, scale_stride, dy_stride, groups;
    int32_t centred, plus_one;
} divisor_back_args;

/* Many rows v of one row x that a norm reads: out[h, r, :] = share * J(v[h, r, :]), or where `add`
 * that much more. forward: J takes a small difference of x[r] through the norm; else a gradient
 * back through it (edges.cu has the formulas). x NULL: J v = v. v, x and out are fp32 whatever the
 * type, which is the weight's; out may be v. constant_scale: what the norm divides by counts as a
 * constant. Blocks: n_rows * ceil(n_heads / heads_a_block). */
typedef struct through_norm_args {
    float *out;
    const float *v, *x; /* [n_heads, n_rows, width], [n_rows, width] */
    const void *weight; /* [width] or NULL */
    int64_t n_rows, width;
    int32_t n_heads, heads_a_block;
    float eps, share;
    int32_t centred, plus_one, constant_scale, forward, add;
} through_norm_args;

/* out[i] = x[i] in fp32, for i < count. Blocks: ceil(count / WIDEN_A_BLOCK). */
enum { WIDEN_A_BLOCK = 4096 };
typedef struct widen_args {
    float *out;
    const void *x;
    int64_t count;
} widen_args;

/* What a norm divides by: out[r, g] = sqrt(mean(y^2) + eps) over part g of row r, `groups` equal
 * parts; y is x less the part's mean where `centred` (a layer norm), else x (rms). */
typedef struct norm_scale_args {
    void *out;
    const void *x;
    const int32_t *x_rows;
    int64_t n_rows, width, out_stride, x_stride, groups;
    float eps;
    int32_t centred;
} norm_scale_args;

/* A norm that divides by a given scale [rows, groups]: y / scale, then as KERNEL_LAYERNORM
 * (centred; weight and bias may be NULL) or as KERNEL_RMSNORM (weight, plus_one, round_once) go
 * on. */
typedef struct norm_by_scale_args {
    void *out;
    const void *x, *scale;
    const int32_t *x_rows, *scale_rows;
    const void *weight, *bias;
    int64_t n_rows, width, out_stride, x_stride, scale_stride, groups;
    int32_t centred, plus_one, round_once;
} norm_by_scale_args;

/* out[r, j] = x[r] . weight[columns[j]] (+ bias[columns[j]]): a few columns of a product with a
 * matrix stored [out, in]. columns NULL: the first n_columns. */
typedef struct columns_args {
    void *out;
    const void *x;
    const int32_t *x_rows;
    const void *weight, *bias;
    const int32_t *columns;
    /* width: of x and of a row of weight */
    int64_t n_rows, n_columns, width, out_stride, x_stride;
} columns_args;

/* Numbers of a table in short form, for i < count:
 *     TABLE_COUNT     table[to + i * stride] = first + i * step
 *     TABLE_REPEAT    table[to + i] = table[first + i], which no run of the launch writes
 *     TABLE_LITERAL   table[to + i] = literals[first + i] */
typedef enum table_run_kind { TABLE_COUNT, TABLE_REPEAT, TABLE_LITERAL } table_run_kind;
typedef struct table_run {
    int32_t to, count, first;
    int16_t step;
    uint8_t stride, kind;
} table_run;
typedef struct expand_args {
    int32_t *table;
    const table_run *runs;
    const int32_t *literals;
    int64_t n_runs;
} expand_args;

/* What a metric makes of a row of logits. Of a set of tokens: LOGIT the mean of their logits,
 * LOGIT_DIFF that of the first set less that of the second, PROBABILITY the sum of their
 * probabilities, LOG_PROBABILITY its logarithm, RANK how many logits are larger than their best; KL
 * takes no tokens but the row whose distribution is p: sum p log(p / q), q the row's own. Sums of
 * logits and of exponentials are fp32. */
typedef enum metric_kind {
    METRIC_LOGIT_DIFF,
    METRIC_LOGIT,
    METRIC_PROBABILITY,
    METRIC_LOG_PROBABILITY,
    METRIC_RANK,
    METRIC_KL,
    /* added to a kind: not the number but what it changes by as the row's logits do, one number a
     * logit; of kl, the row's own, not the reference's. Not of RANK */
    METRIC_SLOPE = 64
} metric_kind;

/* One metric of one row: *out = kind(x, tokens). `tokens` are n_a of the first set, then n_b of the
 * second, each below the number of logits.
 *   product 0   x [width] are the logits themselves
 *   product 1   the logits are T(weight x + bias), of which only the tokens' are computed (LOGIT
 *               and LOGIT_DIFF alone); with softcap > 0 as KERNEL_SCALE caps them, with scale
 *               not 0 times that. x [width] is a row of the product's operand */
typedef struct metric_row {
    float *out;
    const void *x, *other;
    const int32_t *tokens;
    int32_t n_a, n_b, width, kind, product;
    float softcap, scale;
} metric_row;

/* Block r does rows[r]. weight [logits, width] and bias [logits] are the product's; NULL where no
 * row has one, or it has no bias. */
typedef struct metrics_args {
    const metric_row *rows;
    const void *weight, *bias;
    int64_t n_rows;
} metrics_args;

/* What becomes of the elements of whole rows. Operands are rows [kept, inner], all of one type
 * unless said otherwise, and out is [kept, made]: for each j < kept, over the inner elements j of
 * all n operands where those are many (made is 1), else of the one operand (n is 1). Sums are fp32;
 * of integers they wrap. */
typedef enum row_function {
    ROW_SUM,
    ROW_MEAN, /* the sum divided by how many there are; 0 / 0 of none */
    ROW_AMAX, /* a NaN where one is */
    ROW_AMIN,
    ROW_NORM, /* the root of the sum of squares */
    ROW_DOT,  /* operands in pairs: the sum of their products */
    /* from here on of one operand */
    ROW_ARGMAX,      /* i64: the first place of the largest; a NaN is larger than all */
    ROW_SOFTMAX,     /* exp(x - largest) / sum; made = inner */
    ROW_LOG_SOFTMAX, /* x - largest - log(sum) */
    ROW_TOPK,        /* the made largest, in order; the first of equal ones first */
    ROW_TOPK_AT,     /* i64: their places */
    /* operand 0 x [kept, inner], operand 1 [kept, k]: the numbers of 1 at the places of the k
     * largest of x, else 0; made = inner */
    ROW_TOPK_BACK,
    /* operand 0 bool, operands 1 and 2 of out's type: 1's element where 0's is true, else 2's;
     * inner = made = 1 */
    ROW_WHERE
} row_function;

/* One row of results. The operands are first .. first + n of those of the launch. Types are
 * inset_type values: f32, bf16, f16; i64 of SUM, AMAX, AMIN; any of WHERE. */
typedef struct row_call {
    void *out;
    int32_t first, n;
    int32_t kept, inner, made;
    int32_t k; /* TOPK_BACK */
    uint8_t function, type, out_type;
} row_call;

/* Block i does calls[i]. inner is below 2^24. */
typedef struct row_functions_args {
    const row_call *calls;
    const void *const *operands;
    int64_t n_calls;
} row_functions_args;

/* One record: a rectangle of elements, out = a op b. */
typedef enum record_op {
    RECORD_COPY /* out = a */,
    RECORD_ADD,
    RECORD_SUBTRACT,
    RECORD_MULTIPLY,
    RECORD_DIVIDE,
    RECORD_NEGATE,
    /* what KERNEL_FUNCTIONS does: functions of a; AT_LEAST and AT_MOST are the larger and the
     * smaller of a and b, a NaN where one is */
    RECORD_EXP,
    RECORD_LOG,
    RECORD_SQRT,
    RECORD_ABS,
    RECORD_RELU,
    RECORD_SIGMOID,
    RECORD_TANH,
    RECORD_GELU,
    RECORD_GELU_TANH,
    RECORD_SILU,
    RECORD_AT_LEAST,
    RECORD_AT_MOST,
    RECORD_EQUAL, /* of a and b: 1 or 0 */
    RECORD_UNEQUAL,
    RECORD_LESS,
    RECORD_LESS_EQUAL,
    RECORD_GREATER,
    RECORD_GREATER_EQUAL,
    /* added to a function: its derivative at a, as PyTorch has it (of AT_LEAST and AT_MOST 1 where
     * a is what comes out, also where both are) */
    RECORD_SLOPE = 32
} record_op;

/* Element (i, j), i < rows, j < columns: at pointer + i * row + j * column elements; a stride of 0
 * repeats. Types are inset_type values: 0 f32, 1 bf16, 2 f16, 3 f64, 4 i64, 5 i32, 6 i16, 7 i8, 8
 * u8, 9 bool. A NULL operand is its constant. The operation is done as PyTorch does it in `compute`
 * type: operands are converted to it (and a 16-bit float then to fp32; a constant factor or divisor
 * of a 16-bit operation stays fp32, an added one is rounded), the result is rounded to `compute`
 * once (so a 16-bit type rounds) and then converted to the type of out: floats to integers
 * truncate, to bool is != 0; a copy between equal types keeps every bit, NaNs included, whatever
 * `compute` is. Integers wrap; integer division does not occur (the host promotes it). No two
 * records of one launch write one element, and none reads what another writes. */
typedef struct record {
    void *out;
    const void *a, *b;
    double a_constant, b_constant;
    int64_t out_row, a_row, b_row;
    int64_t out_column, a_column, b_column;
    int32_t rows, columns;
    uint8_t op, out_type, a_type, b_type, compute;
    /* in a step: reads what records before it in its row's list made */
    uint8_t after;
    union {
        /* in a table of KERNEL_RECORDS: filled by records_number_blocks */
        int32_t first_block;
        /* in a step: the step's row whose block does row 0 */
        int32_t first_row;
    };
    /* in a step: the column of its row where operands of that row begin; -1: there is none */
    int32_t first_column;
} record;

typedef struct records_args {
    const record *records;
    int64_t n_records;
} records_args;

/* Records that a step's kernel applies to the row it has just written: kernel KERNEL_COUNT + k
 * takes this struct and right behind it the arguments of kernel k, does what k does, with the same
 * bits, and then, row by row, the records of the row. For row r of first_row .. first_row + n_rows
 * - 1, lists[r - first_row] .. lists[r - first_row + 1] are where in `lists` the numbers of its
 * records stand (in `records`); other rows have none. Row i of a record is done by the block of the
 * step's row first_row + i. Its operands may be that row, what records before it in the row's list
 * made (after = 1), or what was complete before the launch. Such records compute in the step's type
 * T, and so is the type of out; operands are T too, or any float type in a copy; out_column is 1
 * and operands' columns 0 or 1, but in a copy of T any. In KERNEL_ATTENTION each head's block does
 * the columns that are its own, so operands of the row begin at one column, first_column, with
 * columns side by side. */
typedef struct fused_records {
    const int32_t *lists;
    const record *records;
    int32_t first_row, n_rows;
} fused_records;

/* KERNEL_ATTENTION by tiles, for heads of up to 64, 128, 256 columns: rows_per_block rows a block
 * (tile_shapes.h), which shows in no bit. One form does both: fused.n_rows 0 where there are no
 * records. */
typedef struct tile_attention_args {
    fused_records fused;
    attention_args attention;
    int32_t rows_per_block;
} tile_attention_args;

/* Whether a kernel has this second form. */
static inline int kernel_takes_records(kernel_id kernel)
{
    switch (kernel) {
    case KERNEL_EMBED:
    case KERNEL_LAYERNORM:
    case KERNEL_RMSNORM:
    case KERNEL_ACTIVATION:
    case KERNEL_GATE:
    case KERNEL_ADD:
    case KERNEL_ADD_LAYERNORM:
    case KERNEL_ADD_RMSNORM:
    case KERNEL_SCALE:
    case KERNEL_ROPE:
    case KERNEL_ATTENTION:
    case KERNEL_COLUMNS: return 1;
    default: return 0;
    }
}

/* Numbers the blocks of a record table (record.first_block); returns how many blocks to launch. A
 * block does up to RECORD_BLOCK_ELEMENTS elements of one record, whole rows or a part of one. */
enum { RECORD_BLOCK_ELEMENTS = 4096 };
/* blocks a row is cut into, when a row is longer than a block */
static inline int64_t record_row_blocks(const record *r)
{
    return r->columns > RECORD_BLOCK_ELEMENTS
               ? (r->columns + RECORD_BLOCK_ELEMENTS - 1) / RECORD_BLOCK_ELEMENTS
               : 1;
}
/* whole rows a block does, when they fit */
static inline int64_t record_block_rows(const record *r)
{
    int64_t n = r->columns > 0 ? RECORD_BLOCK_ELEMENTS / r->columns : 1;
    return n > 0 ? n : 1;
}
static inline int64_t records_number_blocks(record *records, int64_t n)
{
    int64_t blocks = 0;
    for (int64_t i = 0; i < n; i++) {
        record *r = &records[i];
        r->first_block = (int32_t)blocks;
        int64_t cut = record_row_blocks(r), together = record_block_rows(r);
        blocks += cut > 1 ? r->rows * cut : (r->rows + together - 1) / together;
    }
    return blocks;
}

#endif
