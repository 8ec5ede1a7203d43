/* program.h: a model as data: a flat list of steps with numbered values, and a module tree whose
 * nodes are spans of that list.
 *
 * A family in models/ turns a config into a program with the calls below and says nothing about
 * devices; a user's own model is built with the same calls. The pieces:
 *
 *   value    the tensor a step produces: rows (one a token position of a sequence) of `width`
 *            elements. Values are numbered in the order they are computed. Interventions change
 *            values, so the planner knows each value in many versions.
 *   step     one operation: reads slots, makes a value.
 *   slot     a name that refers to a value (or to some columns of one): a module's input and
 *            output, a named site such as `.q`, an operand of a step. A slot is bound once in a
 *            run, at its event: to a step's value, or to whatever another slot refers to at that
 *            moment. Several slots thus refer to one value, as several Python names refer to one
 *            tensor.
 *   event    a module entered, a step run, a named site, a module left. Order in a trace is order
 *            of events: a comparison of integers.
 *   site     what users name: module + "input" | "output" | a named site; it has an event and a
 *            slot.
 *   module   a node of the tree, with the events between which it runs.
 *
 * Everything in a program is immutable once built and lives in its arena. Indices (int32_t) refer
 * to its arrays; -1 is none. */
#ifndef INSET_PROGRAM_H
#define INSET_PROGRAM_H

#include "base/base.h"

typedef enum step_kind {
    STEP_INPUT,  /* rows given from outside (sequential models): value [row, width] */
    STEP_TOKENS, /* the token ids themselves, int64, width 1; read-only */
    /* 0, 1, ..., T-1, int64, width 1, one sequence as long as the longest; read-only */
    STEP_POSITIONS,
    /* rows of a table [n, width] chosen by the ids of operand 0 (STEP_TOKENS or STEP_POSITIONS) */
    STEP_EMBED,
    STEP_LINEAR,     /* x W (+ b) */
    STEP_LAYERNORM,  /* (x - mean) / sqrt(variance + eps) * weight + bias; statistics in fp32 */
    STEP_RMSNORM,    /* x / sqrt(mean(x^2) + eps), then * weight (see rms_weight) */
    STEP_ACTIVATION, /* activation(x) */
    STEP_GATE,       /* operand 0 * operand 1, rounded once (gated MLP: act(gate) * up) */
    STEP_ADD,        /* sum of two or three operands, each addition rounded, left to right */
    STEP_SCALE,      /* x * scale; see step.scale_in_fp32 */
    STEP_SOFTCAP,    /* scale * tanh(x / scale) */
    /* rotary embedding of every head by the row's position */
    STEP_ROPE,
    /* computes nothing and is never stored: joins a key row and a value row of one position into
     * one identity */
    STEP_PAIR,
    /* operands q, k, v: causal softmax(q k^T * scale) v; value [row, n_heads * head_dim] */
    STEP_ATTENTION,
    /* q, k: attention's scores in the open; run only for invokes that touch `.scores` or
     * `.pattern` */
    STEP_SCORES,
    STEP_PATTERN, /* softmax of the scores */
    /* what the norm behind it divides by, a number a group; run only for invokes that touch
     * `.scale` */
    STEP_NORM_SCALE,
    /* Heads that stand alone (heads.c), aside of what all run: the n_kv_heads parts of a row, each
     * head_dim wide, n_heads / n_kv_heads times one behind the other */
    STEP_SPREAD,
    STEP_FOLD,  /* the other way: the sum of each part's copies (+ b) */
    STEP_HEADS, /* each of n_heads parts of a row through its own part of a weight (head_part) */
    /* Mixtures of experts (experts.c); which experts a row has is known when it is run. */
    STEP_ROUTE,         /* router logits: rows of weights, 0 for experts that are not chosen */
    STEP_EXPERTS,       /* x, weights: the sum of weight * expert(x), over weights that are not 0 */
    STEP_EXPERTS_APART, /* aside: an x for each expert: what each makes of its own */
    STEP_EXPERTS_JOINED, /* aside: what each makes, weights: the sum as STEP_EXPERTS makes it */
    /* Steps of a reversed program (reverse.h). Their values are gradients of a metric with respect
     * to forward values, row by row; dy is that of what the forward step `of` made. */
    STEP_ZERO,            /* rows of zeros: a gradient that nothing has reached yet */
    STEP_LINEAR_BACK,     /* dy W^T of y = x W */
    STEP_HEADS_BACK,      /* the same of a STEP_HEADS, part by part */
    STEP_NORM_BACK,       /* x, dy: of a layer norm or an rms norm of x */
    STEP_ACTIVATION_BACK, /* x, dy: dy activation'(x) */
    STEP_SOFTCAP_BACK,    /* x, dy: dy (1 - tanh(x / scale)^2) */
    STEP_JOIN, /* dy in those columns of a wider row that the slot `through` shows; others 0 */
    STEP_ATTENTION_BACK, /* dz (and the q, k, v that `of` read): rows [dq | dk | dv] */
    /* What comes back through attention in the open and a norm's scale: only in programs reversed
     * for invokes that touch them, and run for those only. */
    STEP_VALUES_BACK,         /* dz, through the pattern that mixed the values: dv */
    STEP_PATTERN_BACK,        /* dz, v: the gradient of the pattern, made as scores are */
    STEP_SCORES_BACK,         /* the pattern's gradient: that of the scores, through the softmax */
    STEP_QUERIES_BACK,        /* the scores' gradient: rows [dq | dk] */
    STEP_NORM_GIVEN_BACK,     /* x, scale, dy: of a norm that divides by a scale in the open */
    STEP_DIVISOR_BACK,        /* x, scale, dy: the gradient of that scale */
    STEP_NORM_SCALE_BACK,     /* x and the gradient of its norm's scale */
    STEP_ROUTE_BACK,          /* logits, dy */
    STEP_EXPERTS_BACK,        /* x, weights, dy: rows [dx | dweights] */
    STEP_EXPERTS_APART_BACK,  /* an x for each, a dy for each: a dx for each */
    STEP_EXPERTS_JOINED_BACK, /* what each made, weights, dy: rows [d of each | dweights] */
} step_kind;

typedef enum activation {
    ACTIVATION_GELU, /* x/2 (1 + erf(x/sqrt 2)) */
    /* gelu_new, gelu_pytorch_tanh: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
    ACTIVATION_GELU_TANH,
    ACTIVATION_RELU,
    ACTIVATION_SILU,
    ACTIVATION_TANH,
    ACTIVATION_SIGMOID,
} activation;

/* How a slot's tensor looks to users. Rows are [sequence, position]; the columns of a row may be
 * split in two dimensions. */
typedef struct slot_shape {
    bool has_position; /* false for sequential models: [batch, width] */
    bool has_batch;    /* true: a leading batch dimension (all sites; kept for clarity) */
    int8_t n_columns;  /* dimensions of a row: 0 (token ids), 1, or 2 (head, head_dim) */
    int32_t extent[2]; /* their extents; n_columns == 1: {width} */
    int32_t column;    /* first column of the value that the slot shows */
    /* `.scores`, `.pattern`: [batch, head, query, key]; a row is a query, its columns (head,
     * key) */
    bool by_keys;
    /* n_columns == 2: columns from one index of the first dimension to the next; 0 = extent[1],
     * side by side */
    int32_t stride;
} slot_shape;

typedef struct value {
    int32_t width; /* elements a row */
    int32_t step;  /* the step that makes it */
    bool integer;  /* int64 (token ids, positions); else the model's type */
    /* one sequence as long as the longest of the invoke (wpe.output), not one a sequence */
    bool per_position;
    /* scores and pattern: `width` times the longest sequence's keys a row, of which an invoke that
     * touches them makes free tensors */
    bool by_keys;
} value;

enum { PROGRAM_MAX_HEAD_DIM = 256 }; /* what the attention kernels take */

/* A slot whose event is its source's event too (an MLP's `.pre` and its first linear's output)
 * follows the source until that event is over: a replacement of the source at that event is seen
 * through it, unless the slot was replaced itself. */
typedef struct slot {
    /* slot it takes its binding from, or -1: bound to `value` by its step */
    int32_t source;
    int32_t value; /* the value it refers to when nothing was replaced */
    int32_t event; /* when it is bound */
    bool settable; /* token ids and positions are not */
    /* shows all of its source, split in heads (`.z`): a replacement of it replaces the source */
    bool whole;
    slot_shape shape;
} slot;

/* When an rms norm multiplies by its weight: after the normalised row was rounded to the model's
 * type (Llama), by 1 + weight before that (Gemma), by weight before that (OLMo-2). */
typedef enum rms_weight { RMS_WEIGHT_ROUNDED, RMS_WEIGHT_PLUS_ONE, RMS_WEIGHT_FIRST } rms_weight;

/* The experts of one layer: gated MLPs of one shape, of which each row has a few. Expert i has the
 * weights gate + i, up + i, down + i, [d -> m], [d -> m], [m -> d]; up -1: gate makes both, [d ->
 * 2m], gates in even columns. A bias is -1 or the first of n, too. Let g = gate(x), u = up(x):
 *
 *     limit 0        down(act(g) * u)
 *     limit above 0  down((u' + 1) * g' * sigmoid(alpha * g')) with g' = min(g, limit) and u' = u
 *                    between -limit and limit (gpt-oss) */
typedef struct experts {
    int32_t n, chosen; /* how many there are; how many the router gives a row */
    int32_t d, m;
    int32_t gate, up, down, gate_bias, down_bias;
    activation act;
    float limit, alpha;
    /* weights are the router's softmax over all experts; false: over the chosen alone */
    bool over_all;
} experts;

typedef struct step {
    step_kind kind;
    int32_t value; /* what it makes */
    int32_t event;
    int32_t n_operands;
    /* slots; a norm has its `.scale` as operands[1] beyond n_operands, for invokes that touch it
     * (-1: it shows none) */
    int32_t operands[3];
    /* indices into weights, or -1; attention's weight is its sinks, a score of each head's own that
     * takes its part of the softmax (gpt-oss) */
    int32_t weight, bias;
    activation activation;
    float eps;   /* norms */
    float scale; /* STEP_SCALE, STEP_SOFTCAP, attention's factor on q k^T */
    /* STEP_SCALE: scale is a number (Granite); else a tensor of the model's type, and so rounded
     * to it before the product (Gemma) */
    bool scale_in_fp32;
    /* STEP_EMBED: a token's position is its id, and id i has row first_row + i of the table (OPT);
     * rows of tokens are told apart by position already */
    bool by_position;
    bool one_row; /* STEP_EMBED: every token has row first_row (BERT's token types) */
    int32_t first_row;
    float softcap; /* attention: cap before the mask, 0 = none */
    /* attention: a query sees itself and window - 1 keys before it; 0 = all */
    int32_t window;
    bool both_ways; /* attention: a query sees all keys of its sequence, later ones too (BERT) */
    /* attention: [n_heads] what a key's score grows by with each position it is later (ALiBi,
     * arXiv 2108.12409), in the program's arena; NULL: nothing */
    const float *slopes;
    int32_t n_heads, n_kv_heads, head_dim;
    int32_t rotary_dims; /* rope: first dimensions of each head that turn */
    const float
        *frequencies; /* rope: [rotary_dims / 2] angle per position, in the program's arena */
    /* rope: factor on cos and sin (1 unless a scaling type says otherwise) */
    float rope_attention_scale;
    /* rope: all in fp32, rounded once (OLMo-2); else cos, sin and each product are rounded too */
    bool rope_round_once;
    bool rope_interleaved; /* rope: pairs are columns 2i and 2i + 1 (GPT-J); else i and i + half */
    bool norm_centred;     /* norms: about the mean (layer norm) */
    rms_weight rms_weight; /* rms norm: when the weight comes in */
    /* rms norm: normalise this many equal parts of a row on their own (per-head q/k norm); 1 =
     * whole row */
    int32_t norm_groups;
    /* of a reversed program: the forward step whose gradient it makes, and the forward slot that
     * the gradient goes through; -1 in a forward program. See reverse.h */
    int32_t of, through;
    int32_t again; /* of a forward step that is run again (reverse.c): which; else -1 */
    bool inverse;  /* rope: turns back */
    /* STEP_HEADS: which part of the weight each head has, see head_part */
    int32_t head_column, head_stride, heads_a_part;
    bool heads_join; /* parts of its rows, as an output projection has them, not of its columns */
    /* run only for invokes that touch a value of theirs, or one of a step aside */
    bool aside;
    const experts *experts; /* steps of experts; in the program's arena */
    bool half;              /* STEP_EXPERTS_BACK: products send half back (RelP's rule half) */
    bool constant_scale;    /* norm: what it divides by counts as a constant (RelP's rule ln) */
    bool secant;            /* activation: the slope is a(x) / x (RelP's rule identity) */
} step;

typedef enum event_kind { EVENT_ENTER, EVENT_STEP, EVENT_SITE, EVENT_LEAVE } event_kind;
typedef struct event {
    event_kind kind;
    int32_t index; /* module (enter, leave), step, or site */
} event;

typedef struct site {
    int32_t module;
    const char *name; /* "input", "output", "q", ... */
    int32_t event, slot;
} site;

typedef struct module {
    const char *name; /* last part of its path: "mlp", "5" */
    const char *path; /* "transformer.h.5.mlp"; the root's is "" */
    /* another name that finds it ("embed_out" for NeoX's lm_head), or NULL */
    const char *also;
    int32_t parent, first_child, next_sibling, n_children;
    int32_t enter, leave; /* events; -1 for a container that is never called (transformer.h) */
    /* filled by program_finish; sites of one module are consecutive in program->module_sites */
    int32_t first_site, n_sites;
} module;

/* A head (or an expert) alone: `.q_input`, `.k_input`, `.v_input` (the stream as it reads it) and
 * `.result` (what it adds to attention's output). Both are made by steps aside. What a line sets
 * there is taken to where all heads meet: the same elements of `made` are set in `target` behind
 * `event`, and nothing else of it changes.
 *
 *     q_input[:, 5, 3] = v      makes head 3's query of position 5, and sets it in q [.., 5, 3]
 *     result[:, 5, 3] = v       makes the sum of all heads' results there, and sets it in the
 *                               output of the projection, at position 5 */
typedef struct head_path {
    int32_t site;         /* where lines set */
    int32_t made, target; /* slots of one shape */
    int32_t event;        /* of the step that makes `made` */
    bool by_head;         /* made and target have a dimension of heads as the site has */
} head_path;

typedef enum weight_role { WEIGHT_MATRIX, WEIGHT_VECTOR, WEIGHT_TABLE } weight_role;
typedef struct weight {
    const char *name; /* in the file, without the optional prefix of the program */
    const char *also; /* another name it may have there, or NULL */
    /* or it lies in a tensor of this name, [stack[0], ...], from element stack_first on; NULL: in
     * none. stack[2] 0: that has two dimensions */
    const char *stacked;
    int32_t stack[3];
    int64_t stack_first;
    weight_role role;
    int32_t rows, columns; /* shape in the file; a vector has rows 1 */
    bool in_out;           /* a matrix stored [in, out] (GPT-2's Conv1D); else [out, in] */
    int32_t same_as;       /* a tied weight: index of the one it shares, else -1 */
    /* for models built in memory: the caller's numbers, type `data_type`; NULL when they come from
     * a file */
    const void *data;
    inset_type data_type;
} weight;

typedef struct program {
    inset_context *context;
    arena memory;
    const char *model_type; /* "gpt2", "sequential" */
    /* "llava": the program is that model's text part, whose tensors may be named so, and its files
     * hold others; NULL: it is a model */
    const char *part_of;
    /* tensor names in a file may carry it ("transformer.") or not; NULL = none */
    const char *optional_prefix;
    /* NULL-terminated shell-like patterns of tensors a file may hold and nobody needs */
    const char *const *ignored;
    int32_t vocabulary, max_positions; /* 0 for sequential models */
    int32_t input_width;               /* sequential: numbers an input row has; else 0 */
    value *values;
    size_t n_values, values_capacity;
    slot *slots;
    size_t n_slots, slots_capacity;
    step *steps;
    size_t n_steps, steps_capacity;
    event *events;
    size_t n_events, events_capacity;
    site *sites;
    size_t n_sites, sites_capacity;
    module *modules;
    size_t n_modules, modules_capacity; /* [0] is the root */
    weight *weights;
    size_t n_weights, weights_capacity;
    int32_t *module_sites; /* sites grouped by module: see module.first_site */
    /* query heads that share a key-value head have a copy of it each: `.k` and `.v` are as many
     * as `.q` */
    bool ungroup;
    bool both_ways;      /* its attentions are: rows of a sequence see later ones too */
    int32_t tokens_slot; /* slot of the token ids (or of the input rows) */
    /* slots of the residual stream where a block begins (planner shortcuts) */
    int32_t *blocks;
    size_t n_blocks, blocks_capacity;
    head_path *head_paths; /* in the order of their sites */
    size_t n_head_paths, head_paths_capacity;
    int32_t open_module; /* while building */
    /* first failure while building: it sticks, so that families need no checks in between */
    inset_status status;
} program;

/* ---- building. All of these do nothing once program->status is set; program_finish returns it.
 * ---- */
inset_status program_create(inset_context *context, const char *model_type, program **out);
void program_free(program *p); /* takes NULL */

/* Enters a module called `name` ("h.0" makes the container h and the module 0) below the open one.
 * `input` is the slot its `.input` takes its binding from, or -1 for a module that is called
 * without a tensor. Returns the slot of its `.input`. */
int32_t program_enter(program *p, const char *name, int32_t input);
/* The same, and the `.input` has one dimension of columns where `input` has two (a norm over all
 * heads at once). */
int32_t program_enter_flat(program *p, const char *name, int32_t input);
/* Leaves the open module; its `.output` is bound from `output` (-1: the module returns no tensor).
 * Returns the slot of `.output`. */
int32_t program_leave(program *p, int32_t output);
/* Declares a named site of the open module at this point of the order: a view of `source` that
 * starts at `column` and has rows of `n_columns` dimensions `extent`. Returns its slot. */
int32_t program_site_view(program *p, const char *name, int32_t source, int32_t column,
    int n_columns, const int32_t *extent);
/* The same for heads that do not lie side by side (NeoX has each head's q, k and v together):
 * `stride` columns from one to the next. */
int32_t program_site_heads(program *p, const char *name, int32_t source, int32_t column,
    int32_t n_heads, int32_t head_dim, int32_t stride);
/* The same without a place of its own in the order: the site is at the last event (an MLP's `.pre`,
 * when its first linear is left), so that the two may be asked for in either order. */
int32_t program_site_view_last(program *p, const char *name, int32_t source, int32_t column,
    int n_columns, const int32_t *extent);
/* program_enter, and the module around the one entered gets a named site at the same event that
 * shows its input (`.z`, `.post`). With one dimension of columns the two sites are one slot. With
 * two, the named site's slot shows the other `whole`, so that what is done to either is seen
 * through both. Returns the slot of the entered module's `.input`. */
int32_t program_enter_site(program *p, const char *name, int32_t input, const char *site_name,
    int n_columns, const int32_t *extent);

/* Weights: return an index. `same_as` ties. */
int32_t program_weight(
    program *p, weight_role role, const char *name, int32_t rows, int32_t columns);
int32_t program_weight_in_out(program *p, const char *name, int32_t rows, int32_t columns);
int32_t program_weight_tied(program *p, const char *name, int32_t same_as);
/* Second names, for what was called differently in older files. */
void program_weight_also(program *p, int32_t weight, const char *name);
void program_module_also(program *p, int32_t module, const char *name);
/* It may lie in a tensor with others: see weight.stacked. */
void program_weight_stacked(
    program *p, int32_t weight, const char *name, const int32_t stack[3], int64_t first);

/* Steps: return the slot that refers to the new value. `like` gives kind and parameters; operands
 * are slots. */
/* a step of this kind with no weights and neutral parameters */
step program_like(step_kind kind);
int32_t program_step(program *p, const step *like, int32_t width, int32_t a, int32_t b, int32_t c);
int32_t program_tokens(program *p);
int32_t program_positions(program *p);
int32_t program_input(program *p, int32_t width);
int32_t program_embed(program *p, int32_t ids, int32_t weight);
/* The rows of a table by the positions of tokens, one for each row of every sequence: the one at
 * position i is first_row + i. */
int32_t program_embed_positions(program *p, int32_t tokens, int32_t weight, int32_t first_row);
/* The same row of a table for every token. */
int32_t program_embed_row(program *p, int32_t tokens, int32_t weight, int32_t row);
int32_t program_linear(program *p, int32_t x, int32_t weight, int32_t bias);
int32_t program_layernorm(program *p, int32_t x, int32_t weight, int32_t bias, float eps);
/* Both show what they divide by as the site `.scale` of the open module (the first norm of a module
 * does): [row, groups]. groups, when: see step.norm_groups and rms_weight. */
int32_t program_rmsnorm(
    program *p, int32_t x, int32_t weight, float eps, rms_weight when, int32_t groups);
int32_t program_activation(program *p, int32_t x, activation kind);
int32_t program_gate(program *p, int32_t a, int32_t b);
int32_t program_scale(program *p, int32_t x, float scale); /* see step.scale_in_fp32 */
int32_t program_scale_in_fp32(program *p, int32_t x, float scale);
int32_t program_softcap(program *p, int32_t x, float cap);
/* How heads turn; the fields are step's. */
typedef struct rotation {
    int32_t dims;             /* 0: nothing turns, heads are laid side by side */
    const float *frequencies; /* [dims / 2], in the program's arena */
    float attention_scale;
    bool round_once, interleaved;
} rotation;
int32_t program_rope(program *p, int32_t x, int32_t n_heads, int32_t head_dim, const rotation *how);
int32_t program_add(program *p, int32_t a, int32_t b, int32_t c); /* c may be -1 */
/* STEP_PAIR on k and v, then STEP_ATTENTION on q, k and v: the pair is always the step before its
 * attention. `like` has n_heads, n_kv_heads, head_dim, scale, softcap, window,
 * slopes and, as its weight, sinks. */
int32_t program_attention(program *p, int32_t q, int32_t k, int32_t v, const step *like);

/* ---- heads.c: heads that stand alone ---- */
/* The sites `.q_input`, `.k_input`, `.v_input` of the open module, whose input is x: what each head
 * reads, before the norm that made x where there is one. Sets their slots, or -1 where they would
 * be too wide to be shown. */
void program_head_inputs(
    program *p, int32_t x, int32_t n_heads, int32_t n_kv_heads, int32_t inputs[3]);
/* Heads as a product makes them: `linear` is its slot, head h has its columns
 * column + h / heads_a_part * stride .. + head_dim. */
typedef struct head_columns {
    int32_t linear, column, stride, heads_a_part, n_heads, head_dim;
} head_columns;
/* Behind the product: the same for each head of `input` (of program_head_inputs) alone. target:
 * where the heads lie side by side behind the product, or -1: its own columns. */
void program_head_input_made(program *p, int32_t input, const head_columns *heads, int32_t target);
/* Behind `linear`, which joins the heads of z: the site `.result` of the module around. */
void program_head_results(program *p, int32_t z, int32_t linear, int32_t n_heads, int32_t head_dim);
/* What a line sets at the site of a slot is brought by `made` to `target`: see head_path. */
void program_head_path(program *p, int32_t site_slot, int32_t made, int32_t target, bool by_head);
/* The part of its weight that head h of a STEP_HEADS has: rows `in` .. of what goes in, columns
 * `out` .. of what comes out. */
typedef struct head_part {
    int32_t in, n_in, out, n_out;
} head_part;
static inline int64_t part_widest(const head_part *p)
{
    return p->n_in > p->n_out ? p->n_in : p->n_out;
}
head_part program_head_part(const program *p, const step *heads, int32_t h);
/* Each part of a row `copies` times: parts * copies of them, head_dim wide. */
int32_t program_spread(
    program *p, int32_t x, int32_t parts, int32_t copies, int32_t head_dim, bool aside);

/* ---- experts.c: mixtures of experts ---- */
/* Rows of weights, one an expert, from router logits [row, n]. */
int32_t program_route(program *p, int32_t logits, const experts *of);
/* The module "experts" on x with such weights: `.input`, `.output`, and in it a module an expert,
 * `experts[i]`, whose `.input` and `.output` [row, d] are what that expert alone would read and
 * make, chosen or not. Returns the slot of its `.output`. */
int32_t program_experts_module(program *p, int32_t x, int32_t weights, const experts *of);
/* Operations of a row with as many experts as the router gives it. */
static inline double experts_flops(const experts *of, bool back)
{
    return 6.0 * of->chosen * of->d * of->m * (back ? 3 : 1);
}
/* The products of a step, with the weights and biases (-1: none) that each has: a linear step's
 * one, the 2n or 3n of experts. */
int32_t program_products(const step *s);
void program_product(const step *s, int32_t i, int32_t *weight, int32_t *bias);

/* A module that is one step: enter, the step on its input, leave. Return the slot of its
 * `.output`. */
int32_t program_linear_module(
    program *p, const char *name, int32_t x, int32_t weight, int32_t bias);
int32_t program_layernorm_module(
    program *p, const char *name, int32_t x, int32_t weight, int32_t bias, float eps);
int32_t program_activation_module(program *p, const char *name, int32_t x, activation kind);
int32_t program_rmsnorm_module(program *p, const char *name, int32_t x, int32_t weight, float eps,
    rms_weight when, int32_t groups);
int32_t program_embed_module(program *p, const char *name, int32_t ids, int32_t weight);
/* dropout in inference: input and output one value */
int32_t program_identity_module(program *p, const char *name, int32_t x);

/* `slot` is the residual stream where a block begins */
void program_block(program *p, int32_t slot);
/* The root's `output.logits`: a module "output" that users see as `output.logits`. */
void program_logits(program *p, int32_t slot);

/* program_site_view for a module that need not be the open one: for heads.c. Returns
 * its slot. */
int32_t program_site_of(program *p, int32_t in_module, const char *name, int32_t source,
    int n_columns, const int32_t *extent);
/* Modules "0", "1", ... in the open one, which are never called and have this site: module i shows
 * columns i * width .. of the source. Returns the slot of the first. */
int32_t program_sites_of_parts(
    program *p, const char *name, int32_t source, int32_t n, int32_t width);
/* A slot, and no site, that shows columns of another as heads, `stride` columns apart. */
int32_t program_slot_heads(program *p, int32_t source, int32_t column, int32_t n_heads,
    int32_t head_dim, int32_t stride, int32_t event);

/* Closes the root, groups the sites, checks that all is in order. After it the program is
 * immutable. */
inset_status program_finish(program *p);

/* The columns of its value that a slot shows lie in column .. column_end. */
int32_t slot_column_end(const slot *s);
/* Columns that a slot shows, where they lie side by side. */
static inline int32_t slot_columns(const slot *s) { return slot_column_end(s) - s->shape.column; }

/* ---- asking ------------------------------------------------------------- */
static inline bool step_is_norm(const step *s)
{
    return s->kind == STEP_LAYERNORM || s->kind == STEP_RMSNORM;
}
/* The step that makes what a slot shows. */
static inline const step *program_maker(const program *p, int32_t slot)
{
    return &p->steps[p->values[p->slots[slot].value].step];
}
/* The child of `module` with this name (`length` bytes) or, for a container of numbered modules, at
 * this index (negative: from the end); -1 when there is none. */
int32_t program_child(const program *p, int32_t module, const char *name, size_t length);
int32_t program_child_at(const program *p, int32_t module, int64_t index);
/* A module that can be applied to rows (call.c): its `.input` and `.output`. */
typedef struct module_call {
    int32_t in, out; /* slots: columns side by side of a value, and all of one */
    bool attends;    /* its rows are made of the rows before them in a sequence, too */
} module_call;
/* False for a module that is made of more than its input, or of none. */
bool program_callable(const program *p, int32_t module, module_call *out);
/* The same; INSET_TYPE_ERROR names the module and those that can be applied. */
inset_status program_call(const program *p, int32_t module, module_call *out);

/* The site of a module by name ("inputs" is "input"); -1 when it has none. */
int32_t program_site(const program *p, int32_t module, const char *name, size_t length);
/* The weight of a module by name, "weight" or "bias"; -1 when it has none. */
int32_t program_weight_of(const program *p, int32_t module, const char *name, size_t length);
/* Set INSET_UNKNOWN_SITE with the nearest names; return it. `wanted` is what the user wrote. */
inset_status program_unknown_module(
    const program *p, int32_t parent, const char *wanted, size_t length);
inset_status program_unknown_site(
    const program *p, int32_t module, const char *wanted, size_t length);
/* Parses "transformer.h[5].mlp.output" or "transformer.h.5.mlp.output" to a site;
 * INSET_UNKNOWN_SITE otherwise. */
inset_status program_find_site(const program *p, const char *text, size_t length, int32_t *site);
inset_status program_find_module(
    const program *p, const char *text, size_t length, int32_t *module);
/* Sets chosen[site], of [n_sites], for all that a pattern stands for: a path with `*` in the place
 * of a name or an index, "transformer.h[*].output" (match.c). INSET_UNKNOWN_SITE, with the nearest
 * names, where it stands for nothing. */
inset_status program_match_sites(
    const program *p, const char *pattern, size_t length, bool *chosen);
/* Writes "transformer.h.5.mlp.output"; `output.logits` for the root's. */
void program_site_name(const program *p, int32_t site, char *out, size_t size);

#endif
