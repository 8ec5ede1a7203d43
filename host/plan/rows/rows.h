/* rows.h: the planner's data: strands, maps, tensors.
 *
 * A *row* is one position of one sequence at one value. A *strand* is a block of consecutive rows
 * that were made together; row i of a strand at a value is what the steps since the strand's birth
 * made of it, so a strand is made once and lives on through all later steps, and planning costs
 * work per record and per fork, not per layer. Rows with the same (strand, index) at one value are
 * the same row and are computed once; so the keys under which strands are interned are what
 * identity means:
 *
 *   embed     (position, token); tokens seen before at their position are rows of older strands
 *   fork      (attention, parent row, first key-value row): a context that no strand has
 *   context   (attention, key-value rows): all of a sequence, where its rows see each other
 *   step      (step, operand rows): operands that do not belong together
 *   copy      (value, pieces): a row patched together by columns, or taken from another value,
 *             position or type
 *   expr      (operation, operands): arithmetic of the trace
 *   metric    (kind, tokens, rows of logits): numbers made from rows; see metric.c
 *   rows      (function, rows): a function of whole rows; see row_function.c
 *   product   (matrix, row)
 *   external  rows of a tensor from outside; position: the rows of the position ids
 *   scores, softmax, mix   attention in the open, for sequences whose scores or pattern somebody
 *                          touches (open.c, open_back.c)
 *
 * A *map* says which rows a sequence has at one value: segments of strands. Maps are immutable and
 * shared; a set gives a tensor new maps, and whoever took the old ones (a step that ran, a clone)
 * keeps them: that is a version.
 *
 * A *domain* names where a row's numbers are: a value of the program (>= 0), a free tensor, or a
 * constant. */
#ifndef INSET_PLAN_ROWS_H
#define INSET_PLAN_ROWS_H

#include "plan/rows/options.h"
#include "trace/records.h"

enum { DOMAIN_FREE = -1, DOMAIN_CONSTANT = -2 };
enum { PARENT_ROOT = -1, PARENT_NONE = -2 };

typedef struct segment {
    int32_t strand, first, count;
} segment;
typedef struct map {
    int32_t n, rows;
    segment at[];
} map;

/* Columns c0 .. c1 of a row: row (index * row_step + shift) of a strand, its columns from `column`
 * on, every column_step-th (0: one repeated). A constant keeps its double's bits in strand and
 * shift. */
typedef struct piece {
    int32_t c0, c1, domain, strand, shift, row_step, column, column_step;
} piece;

/* When rows can be read: in `pass`, after `value` (and its records) is complete; value -1: from the
 * start of the pass. */
typedef struct moment {
    int32_t pass, value;
} moment;

typedef enum strand_kind {
    STRAND_EMBED,
    STRAND_POSITION,
    STRAND_FORK,
    STRAND_CONTEXT,
    STRAND_STEP,
    STRAND_COPY,
    STRAND_EXPR,
    STRAND_EXTERNAL,
    STRAND_SCORES,
    STRAND_SOFTMAX,
    STRAND_MIX,
    STRAND_METRIC,
    STRAND_ROWS,    /* a function of whole rows; op is it, parent_row its inner, start its k */
    STRAND_PRODUCT, /* rows times a matrix of the trace; parent_row is which */
    STRAND_SLOPE,   /* of a metric: what it changes by as its logits do */
    STRAND_BACK,    /* attention backwards: see reverse.c */
    /* in the open: see open_back.c */
    STRAND_SOFTMAX_BACK,
    STRAND_OPEN_BACK
} strand_kind;

typedef struct operand_row {
    int32_t strand, shift;
} operand_row;

typedef struct strand {
    uint8_t kind, type;
    uint8_t op;   /* expr: trace_op; metric: inset_metric_kind */
    int32_t born; /* value, or DOMAIN_FREE */
    int32_t pass; /* its rows are made in this pass */
    /* ... at this value: `born`, or for free strands the value after which their sources are
     * there */
    int32_t time;
    /* 0: by the step; n: by a record that reads rows of level n - 1 of the same moment */
    int32_t level;
    int32_t width; /* elements a row */
    /* embed, fork: position of row 0; context: its rows; softmax: keys that take part; metric: its
     * first answer, no part of its identity */
    int32_t start;
    /* the row before row 0 in the tree of contexts; PARENT_ROOT: nothing; PARENT_NONE: not of the
     * tree */
    int32_t parent, parent_row;
    int32_t sinks; /* softmax: the weight of its sinks + 1 (gpt-oss), or 0 */
    int32_t n;     /* parts below */
    union {
        const segment *origin;       /* fork, context: its key-value rows */
        const operand_row *operands; /* step */
        /* copy; expr: its one or two operands, columns 0 .. width; softmax: its operand; softmax
         * back: the softmax and its gradient, or (op 1) the scores and theirs */
        const piece *pieces;
        const int32_t *numbers; /* scores, mix: see open.c; metric: see metric.c */
        int32_t first_word;     /* embed: row i is word first_word + i */
        int32_t storage;        /* external */
    };
} strand;

/* A token at a position: a row of an embed strand. `source` is where the token stands among all
 * tokens of the trace. */
typedef struct word {
    int64_t token, source;
    int32_t position, strand, row;
    const float *content; /* of an input row */
} word;

/* Rows of a tensor while many sets fill it (zeros, gathers): pieces are kept per row and become
 * maps when somebody reads. */
typedef struct draft_row {
    piece *pieces;
    size_t n, capacity;
} draft_row;

typedef struct tensor {
    int32_t domain;
    inset_type type;
    int32_t n_sequences;
    int64_t width;
    const map **rows;  /* per sequence */
    draft_row **draft; /* [sequence][row]; NULL when `rows` holds */
    const int32_t *lengths;
} tensor;

/* The residual stream between two blocks: its slot, the value behind it, its event, and the first
 * step after it. */
typedef struct boundary {
    int32_t slot, value, event, first_step;
} boundary;

/* The rows of a prompt behind block 0, and where it stood first: in which invoke, and whether that
 * has no other. */
typedef struct prompt {
    const int64_t *tokens;
    int32_t n;
    int64_t first_token;
    const map *rows;
    int32_t invoke;
    bool alone;
} prompt;

/* Answers first .. first + count of the trace are read from those at `stands`. */
typedef struct answer_tie {
    int32_t first, stands, count;
} answer_tie;

typedef struct segment_list {
    segment *at;
    size_t n, capacity;
    int32_t rows;
} segment_list;
typedef struct piece_list {
    piece *at;
    size_t n, capacity;
} piece_list;

/* Rows of weights in the open, each run one piece. */
typedef struct weight_run {
    int32_t rows;
    piece from;
} weight_run;
typedef struct weight_list {
    weight_run *at;
    size_t n, capacity;
} weight_list;

/* What an attention in the open had in the forward, per sequence: rows of the scores and the
 * pattern as the model made them (NULL: not in the open), and the pattern that mixed the values. */
typedef struct open_seen {
    const map **scores, **pattern;
    weight_list *mixed;
} open_seen;

/* A sequence's rows behind attentions from the one that makes `value` on, until its next entry;
 * rows NULL: it is not taken whole there. */
typedef struct whole {
    const map *rows;
    int32_t sequence, value, before;
} whole;

/* What the device answered, asked once in a planning. */
typedef struct whole_answer {
    whole_attention_args shape;
    bool taken;
} whole_answer;

/* What whole.c knows of the trace's sequences, numbered over all invokes. */
typedef struct whole_sequences {
    int32_t *first_sequence; /* per invoke; NULL: none is taken whole */
    int32_t n_sequences;
    int64_t *first_tokens; /* of all sequences, sorted */
    /* per invoke: its values are set in another, or another's in it */
    bool *entangled, all_entangled;
    whole *at;
    size_t n, capacity;
    int32_t *last; /* per sequence: its last entry, or below 0 */
    whole_answer *answers;
    size_t n_answers, answers_capacity;
    int32_t *of_strand; /* per strand: the sequence that it belongs to, or below 0 */
} whole_sequences;

/* A launch list and its tables grow in plan/emit. */
typedef struct planner {
    inset_context *context;
    const trace *trace;
    const program *program;
    plan_options options;
    arena memory;  /* everything interned */
    arena scratch; /* freed when planning ends */
    /* of the invoke that is walked: tensors of values that nothing refers to later */
    arena passing;
    strand *strands;
    size_t n_strands, strands_capacity;
    table interned;
    word *words;
    size_t n_words, words_capacity;
    table word_table;
    answer_tie *ties;
    size_t n_ties, ties_capacity;
    /* word of each token of the trace; not of an invoke that has the input of another */
    int32_t *embed_row;
    /* of each invoke: one before it that has the same input and embeds the same rows, or itself */
    int32_t *input_of;
    tensor **tensors;        /* of the trace's storages; NULL until they exist */
    int32_t position_strand; /* or -1 */
    int32_t *made;
    size_t n_made; /* values that the invoke being walked has tensors of */
    /* of each value: the event at which it is there, a boundary's for the residual stream */
    int32_t *value_event;
    boundary *boundaries;
    int32_t n_boundaries;
    /* last_prompt: found before */
    prompt *prompts;
    size_t n_prompts, prompts_capacity, last_prompt;
    table prompt_table;
    int32_t invoke, sequence; /* running numbers; with no_share they are part of every key */
    int32_t first_strand;     /* of those that this invoke made */
    /* groups of invokes; first pass that new strands may be in: the group of the invoke */
    int32_t chunks, floor;
    bool runs_aside; /* this invoke touches a head on its own */
    /* of the invoke being walked */
    tensor **values;        /* [n_values] */
    int32_t *value_storage; /* [n_values] storage or -1 */
    /* of the attention being walked: the rows before records; NULL when it is not open */
    const map **open_scores, **open_pattern;
    /* of an invoke with gradients: [3 * steps] the maps that each step saw, per sequence */
    const map ***seen;
    open_seen *open_seen; /* [steps], at the scores' step */
    strip_scratch strips;
    segment_list segments; /* scratch for building maps */
    piece_list old_pieces, new_pieces, row_pieces;
    whole_sequences whole;
    struct schedule *schedule; /* plan/wanted/live.c on */
} planner;

/* ---- identity.c: strands and maps --------------------------------------- */
bool segments_add(
    planner *p, segment_list *list, int32_t strand_index, int32_t first, int32_t count);
const map *segments_finish(planner *p, segment_list *list); /* NULL when memory is out */
static inline void segments_clear(segment_list *list)
{
    list->n = 0;
    list->rows = 0;
}
/* The segment of row `row` and where in it: sets *index to the row's index in the strand and *left
 * to the rows from it to the segment's end. */
int32_t map_find(const map *m, int32_t row, int32_t *index, int32_t *left);
/* How many keys a row of a context's strand sees; and how many of the strand's rows (with what they
 * go on from) its first `rows` rows see. */
int32_t context_length(const planner *p, int32_t strand_index, int32_t row);
int32_t context_rows_of(const planner *p, int32_t strand_index, int32_t rows);
/* A map whose every segment goes on from the row before it: attention over it makes no new
 * context. */
bool map_is_settled(const planner *p, const map *m);
bool segments_add_cut(planner *p, segment_list *list, const map *m, int32_t from, int32_t to);

/* Finds or makes a strand; `like` has kind, key fields and (in the union) its parts, which are
 * copied. Returns its index, -1 out of memory. */
int32_t strand_intern(planner *p, const strand *like, int32_t n_parts, size_t part_size,
    const void *parts, int32_t extra);
/* a row's natural position, or -1 */
int32_t strand_position(const planner *p, int32_t strand_index, int32_t row);
moment strand_moment(const planner *p, int32_t domain, int32_t strand_index);
/* Level of a row of a domain at its moment. */
int32_t strand_level(const planner *p, int32_t domain, int32_t strand_index);
inset_type strand_type(const planner *p, int32_t domain, int32_t strand_index);
static inline moment moment_later(moment a, moment b)
{
    return a.pass > b.pass || (a.pass == b.pass && a.value >= b.value) ? a : b;
}

/* A sequence's tokens (or input rows); `first` is where they begin among all of the trace's. */
const map *identity_embed(planner *p, const invoke *v, int32_t sequence, int64_t first);
const map *identity_positions(planner *p, int32_t n);
/* A strand for rows whose operands do not belong together; its rows are counted as the first
 * operand's. -1: memory is out. */
int32_t identity_stepped(planner *p, const step *s, int n, const segment *rows);
/* Rows of a step with several row operands. */
const map *identity_combine(
    planner *p, const step *s, int n, const map *const *operands, int32_t rows);
const map *identity_attention(
    planner *p, const step *s, const step *pair, const map *q, const map *k, const map *v);
/* Rows idx .. idx+n of a strand at a value before its birth: appended to *list. */
bool strand_origin(
    planner *p, int32_t strand_index, int32_t value, int32_t first, int32_t n, segment_list *list);
/* One row of it. */
segment strand_origin_row(const planner *p, int32_t strand_index, int32_t value, int32_t row);

/* ---- pieces.c: rows patched together ------------------------------------ */
/* A row that has these pieces over columns c0 .. c1 (sorted, in old_pieces' form): a row that
 * exists where they are one, else of a copy. *repeats: all rows of it are the same row, `*row`. */
inset_status pieces_row(planner *p, int32_t domain, inset_type type, int32_t width, piece *pieces,
    size_t n, int32_t c0, int32_t c1, int32_t *strand_index, int32_t *row, bool *repeats);
/* The identity of the columns of rows that a slot shows: a patch of other columns does not show. */
const map *identity_slot(planner *p, const slot *s, const map *m);

/* ---- records.c, views.c: what records do */
inset_status record_apply(planner *p, const trace_record *r);
/* The maps of a view where the model expects columns of a value: [n_sequences] of them. */
inset_status view_as_value(
    planner *p, const view *v, const invoke *inv, int32_t slot, const map **out);

/* The same for rows of no invoke: as many as `target` shows, whose columns are the slot's. */
inset_status view_as_rows(
    planner *p, const view *v, const view *target, int32_t slot_index, const map **out);

/* ---- call.c, row_function.c, product.c: modules, functions and matrices applied to rows ---- */
inset_status call_apply(planner *p, const trace_record *r);
inset_status row_function_apply(planner *p, const trace_record *r);
inset_status product_apply(planner *p, const trace_record *r);

/* ---- tensors.c
 * Turns a draft into maps; nothing for a tensor that has maps. */
inset_status tensor_freeze(planner *p, tensor *t);
/* The pieces of a draft's row; zeros where nothing was set yet. */
bool draft_pieces(planner *p, const tensor *t, int32_t sequence, int32_t row, piece_list *list);
/* made when it is not there yet; NULL when memory is out */
tensor *storage_tensor(planner *p, int32_t storage);
/* Appends the pieces of `count` columns (from `column`, every step-th) of row (strand, index) of a
 * tensor, to stand at column `at`. */
bool pieces_of_row(planner *p, piece_list *list, int32_t domain, int32_t strand_index,
    int32_t index, int32_t row_step, int64_t column, int32_t step, int32_t at, int32_t count);
bool pieces_add(planner *p, piece_list *list, const piece *one);
/* old with `fresh` (sorted, apart from each other) laid over it -> list. */
bool pieces_lay(planner *p, const piece_list *old, const piece_list *fresh, piece_list *list);
piece piece_constant(inset_type type, double number, int32_t c0, int32_t c1);
double piece_number(const piece *c);

/* One operand of an expression as one piece over the whole row: what is patched together is copied
 * first. */
inset_status pieces_operand(
    planner *p, piece_list *pieces, inset_type type, int32_t width, piece *out);
/* When rows made of these pieces are there (pass, time), and after how many rounds of records of
 * that moment (level). */
void pieces_moment(const planner *p, strand *s, const piece *pieces, size_t n);
/* A row of a strand like `like` that is made of rows of n operands, counted as those of the first
 * that runs along. */
inset_status pieces_combine(planner *p, strand like, piece *operands, int n, int32_t *strand_index,
    int32_t *row, bool *repeats);
bool pieces_add_rows(
    planner *p, segment_list *list, int32_t strand_index, int32_t row, int32_t n, bool repeats);
/* A piece that a kernel can read as a row of `width` elements of a type, side by side: constants,
 * other types and strided columns are copied to one first. */
inset_status pieces_readable(planner *p, piece *one, inset_type type, int32_t width);
/* Every row of a view of `width` columns a row, as one piece: calls visit(user, sequence, rows,
 * piece). `shape`: the view of the rows wanted. */
typedef inset_status piece_function(void *user, int32_t sequence, int32_t rows, const piece *one);
inset_status view_pieces(
    planner *p, const view *v, const view *shape, int32_t width, piece_function *visit, void *user);

/* ---- open.c: attention in the open -------------------------------------- */
/* Does this invoke touch the scores or the pattern that STEP_SCORES makes? */
bool open_touched(const planner *p, const invoke *v, const step *scores);
/* Rows of the scores and the pattern of every sequence of an open attention, into t->rows. */
inset_status open_scores(planner *p, const invoke *v, const step *s, const map *const *q,
    const map *const *k, tensor *t);
inset_status open_pattern(
    planner *p, const invoke *v, int32_t invoke_index, const step *s, tensor *t);
/* Were the scores or the pattern set or replaced, so that the values must be mixed by the
 * pattern? */
bool open_changed(planner *p, const invoke *v, const step *attention);
inset_status open_mix(planner *p, const invoke *v, int32_t invoke_index, const step *attention,
    const map *const *const in[3], tensor *t);
/* All rows of an open value, in order, each as one piece: of the tensor the model made, or of what
 * replaced it. */
inset_status open_rows(planner *p, const invoke *v, int32_t invoke_index, int32_t n_heads,
    int32_t value_index, piece_function *visit, void *user);
/* Parts of a scores or mix strand. */
const segment *scores_queries(const strand *s, int32_t *n);
const segment *scores_keys(const strand *s, int32_t *n);
const step *scores_step(const planner *p, const strand *s);
const piece *mix_pattern(const strand *s);
const segment *mix_values(const strand *s, int32_t *n);

/* ---- open_back.c: attention in the open, backwards ---- */
/* Was the attention that a forward step belongs to in the open, in the invoke being walked? */
bool open_was(const planner *p, const step *of);
/* Notes what STEP_SCORES or STEP_PATTERN made, and what mixed the values. */
void open_note_made(planner *p, const step *s, const map **rows);
inset_status open_note_mixed(
    planner *p, const invoke *v, int32_t invoke_index, const step *attention);
/* Rows of a step of an open attention backwards, into t->rows. */
inset_status open_back_rows(
    planner *p, const invoke *v, int32_t invoke_index, const step *s, tensor *t);
/* Parts of a STRAND_OPEN_BACK: rows of what is weighted (k = 0) and of keys (1); the weights. */
const segment *open_unit_rows(const strand *s, int k, int32_t *n);
const weight_run *open_unit_weights(const strand *s, int32_t *n);

/* ---- reverse.c: rows of gradients ---- */
/* Are the rows of this strand at a value, or of a free tensor, zeros that nobody computed? */
bool reverse_is_zero(const planner *p, int32_t domain, int32_t strand_index);
/* Rows of zeros for the positions from the list's end on. */
inset_status reverse_add_zeros(
    planner *p, segment_list *list, int32_t domain, int32_t width, int32_t count);
/* The latest pass of a map's strands, or `pass`. */
int32_t latest_pass(const planner *p, const map *m, int32_t pass);
/* Rows of a step of the reversed program, into t->rows. */
inset_status reverse_rows(
    planner *p, const invoke *v, int32_t invoke_index, const step *s, tensor *t);
/* Parts of a STRAND_BACK: rows of q, k, v (k = 0, 1, 2) and of what comes back (3); its forward
 * step. */
const segment *back_rows(const strand *s, int k, int32_t *n);
const step *back_step(const planner *p, const strand *s);

/* ---- scale.c: what a norm divides by ------------------------------------ */
/* Does this invoke touch the scale that STEP_NORM_SCALE makes? */
bool scale_touched(const planner *p, const invoke *v, const step *scale);
/* How many operands a step has in the invoke being walked: a norm whose scale is shown has one
 * more. */
int32_t scale_operands(const planner *p, const step *s);
/* Is this strand rows of a norm that divide by a scale of their own? */
bool scale_given(const planner *p, const step *s, int32_t strand_index);

/* Bytes of a row of what a linear step reads or makes, whichever is wider. */
static inline int64_t step_widest(const planner *p, const step *linear)
{
    const weight *w = &p->program->weights[linear->weight];
    if (linear->kind == STEP_HEADS || linear->kind == STEP_HEADS_BACK) {
        const head_part part = program_head_part(p->program, linear, 0);
        return part_widest(&part) * (int64_t)type_size(p->trace->model_type);
    }
    return (w->rows > w->columns ? w->rows : w->columns) * (int64_t)type_size(p->trace->model_type);
}

/* ---- metric.c: numbers made from rows ----------------------------------- */
inset_status metric_apply(planner *p, const trace_record *r);
/* The last matrix product of the program: a language model's head. */
const step *last_linear(const planner *p);
/* Parts of a metric's strand: its rows (k = 0) and kl's reference (k = 1; NULL for others), and how
 * many tokens its sets have. */
const piece *metric_rows(const strand *s, int k);
/* Whether it depends on the numbers of its rows. */
bool metric_reads_rows(const strand *s);
void metric_counts(const strand *s, int32_t *n_a, int32_t *n_b);
/* What stands between the head's product and the logits: a cap or a factor, or neither (0). */
typedef struct metric_behind {
    float softcap, scale;
} metric_behind;
/* The product of which a metric wants so few columns that dot products with them will do, the rows
 * it multiplies and what is behind it. NULL: the metric reads its rows themselves. */
const step *metric_product(
    const planner *p, const strand *s, piece *operand, metric_behind *behind);

/* ---- whole.c: attention that the device takes whole --------------------- */
inset_status whole_begin(planner *p); /* before the walk */
/* Notes an invoke's rows [n_sequences] behind the attention that makes `value`, or at a boundary
 * from which the walk jumps over attentions. */
inset_status whole_note(
    planner *p, const invoke *v, int32_t invoke_index, int32_t value, const map *const *rows);
inset_status whole_settle(planner *p); /* after the walk */
/* The whole sequence that rows of a strand belong to behind an attention; NULL: its rows are
 * computed one by one. */
const whole *whole_of(const planner *p, const step *attention, int32_t strand_index);
/* What the device is asked about it, without pointers; false: such an attention is nothing to ask
 * about. */
bool whole_shape(
    const planner *p, const step *attention, int64_t length, whole_attention_args *out);
/* The position of a strand's row in the sequence. */
int64_t whole_place(const whole *w, int32_t strand_index, int32_t row);

/* ---- walk.c: one invoke after the other --------------------------------- */
inset_status plan_walk(planner *p);
/* Every sequence's rows of an operand, as the slot shows them. */
inset_status slot_maps(
    planner *p, const invoke *v, int32_t invoke_index, int32_t slot_index, const map ***out);
/* Rows of one sequence after a step, from its operands' rows. */
const map *step_rows(planner *p, const step *s, const map *const *in, int32_t rows);
/* The step that joins an attention step's keys and values. */
const step *pair_step(const planner *p, const step *attention);

#endif
