/* sweep.h: activation patching over a grid of places: what `inset sweep` and inset_sweep_* do.
 *
 * A sweep only builds traces, runs them and gathers numbers; what makes it fast is the planner's
 * affair. The words:
 *
 *   pair     a clean and a corrupt prompt of one length
 *   site     what the user names; it has one member, or several on an axis of their own
 *            (block_every)
 *   member   one of the residual stream, attention output, MLP output, pre, post, z, q, k, v,
 *            pattern, ...: a place in every layer
 *   point    one entry of a site's grid: a member, and a layer, a position, a head and a feature
 *            where these are axes
 *   job      one pair at one point of one site: one invoke with its sets. Jobs are numbered by
 *            pair, then site, then point
 *   chunk    consecutive jobs, run as one trace together with the clean and the corrupt run of
 *            their pairs; who runs which is in the sweep's book (chunks/book.h)
 *   shard    some of the chunks, when a sweep is run as several jobs whose parts are merged
 *   pattern  what decides the plan of a chunk: chunks with the same pattern of equal tokens share
 *            one; see pattern.c
 *
 * sweep_create checks everything; then sweep_step runs chunk after chunk. Everything lies in the
 * sweep's arena. */
#ifndef INSET_SWEEP_H
#define INSET_SWEEP_H

#include "base/base.h"
#include "program/program.h"
#include "run/model.h"
#include "trace/trace.h"

/* ---- prompts (prompts.c) ------------------------------------------------ */
typedef struct prompts {
    int64_t count, longest;
    int64_t *lengths, *starts; /* [count]; where in tokens each prompt begins */
    int64_t *tokens;
} prompts;

typedef struct sweep sweep;
/* Reads and checks prompts: ids inside the vocabulary, none empty, none longer than the model's
 * positions. `what` names them in messages. */
inset_status prompts_read(sweep *s, const char *what, const inset_prompts *given, prompts *out);
/* The integers of a tensor in "FILE.npy" or "FILE.safetensors:NAME", copied to the arena; TypeError
 * for floats. */
inset_status integers_load(
    sweep *s, const char *text, int *n_dimensions, int64_t *shape, int64_t **out);
/* The same for any type; data is copied to the arena. */
inset_status tensor_load(sweep *s, const char *text, inset_tensor *out);
/* True when `text` ends in .npy or has .safetensors: in it. */
bool is_file_name(const char *text, size_t length);

/* ---- sites (site.c) ----------------------------------------------------- */
enum { MAX_MEMBERS = 3 };
typedef enum sweep_axis {
    AXIS_SITE,
    AXIS_LAYER,
    AXIS_POSITION,
    AXIS_HEAD,
    AXIS_FEATURE,
    AXIS_COUNT
} sweep_axis;

typedef struct sweep_site {
    const char *name; /* as the user spelt it */
    int32_t n_members;
    const char *members[MAX_MEMBERS];
    bool per_head;
    /* pattern, scores: [head, position, position attended to]; a position is a destination */
    bool by_keys;
    bool grouped;    /* its heads are key-value heads, fewer than attention's */
    int32_t n_heads; /* 1 where there are none */
    /* numbers a row, or a row and head; 0 by keys: as many as the prompt has positions */
    int32_t width;
    const int32_t *places[MAX_MEMBERS]; /* [n_layers]: the program's site */
    int32_t *taps[MAX_MEMBERS];         /* [chosen_layers]: which tap */
    int32_t n_axes;
    sweep_axis axes[AXIS_COUNT]; /* in the order of the results' dimensions */
    /* by axis: what it ranges over; 1 for one that is no axis of this site */
    int64_t extents[AXIS_COUNT];
    int64_t first_head, heads;     /* the heads chosen: first_head + i * the range's step */
    int64_t *head_labels;          /* [heads] */
    struct feature_site *features; /* NULL: not one of features (features/features.h); else: */
    int32_t feature_place;         /* the program's site */
    int64_t n_features, *feature_labels; /* those chosen */
    int64_t n_points, first_point; /* first_point: points of the sites before, for job numbers */
} sweep_site;

/* What an axis of a site is called: a pattern's position is a "destination", a key-value head a
 * "key_value_head". */
const char *axis_name(const sweep_site *site, sweep_axis axis);
/* What its places are called, [extents[axis]]; NULL for AXIS_SITE. */
const int64_t *axis_labels(const sweep *s, const sweep_site *site, sweep_axis axis);
/* Which label of the position axis a chosen position of a pair has. */
int64_t position_label(const sweep *s, int64_t pair, int64_t position);
/* Sites and their axes from the options' texts; layers, positions and ranges must be read
 * before. */
inset_status sites_read(sweep *s, const char *patch, const char *by);
int32_t layers_count(const program *p); /* blocks with attention */
inset_status blocks_read(sweep *s);     /* which modules they are */
/* The program's site of a member ("attn_out", "rot_q") in a layer; -1: it has none. And its
 * attention step. */
int32_t layer_place(const sweep *s, int32_t layer, const char *member);
int32_t layer_attention(const sweep *s, int32_t layer);
/* The member that a name or one of its other spellings ("attn_head_out") stands for; NULL: none. */
const char *site_member(const char *name);
/* Refuses a name that is no member, or one that the family has not got in a layer. */
inset_status site_unknown(sweep *s, const char *name, const char *purpose);
inset_status site_not_there(sweep *s, const char *member, int32_t layer);

/* ---- ranges (range.c) --------------------------------------------------- */
typedef struct range {
    bool all, single;
    bool has_start, has_stop;
    int64_t start, stop, step;
} range;
inset_status range_read(sweep *s, const char *option, const char *text, range *out);
/* What the range chooses of `extent` things: first, step, and count (0: nothing). */
int64_t range_resolve(const range *r, int64_t extent, int64_t *first);

/* ---- metrics (metric.c) ------------------------------------------------- */
typedef struct token_set {
    int64_t count;         /* tokens a pair */
    const int64_t *tokens; /* [count], or [pairs, count] */
    bool per_pair;
} token_set;

typedef struct metric {
    inset_metric_kind kind;
    const char *name;  /* as the user spelt it */
    token_set sets[2]; /* A and B */
    int64_t position;  /* from the end when negative */
    bool needs_row;    /* all of the vocabulary, not only the sets' columns */
} metric;

inset_status metrics_read(sweep *s, const char *const *texts);

/* The metrics of a trace's runs, in the order of the runs. kl is taken from the pair's unpatched
 * run; a run before that one waits for it. */
typedef struct readout {
    operand **values; /* [n_metrics][runs] */
    size_t runs;
    int64_t pair; /* of the latest run; -1 before any */
    bool has_reference;
    /* [n_metrics]: rows of the unpatched run, and of the one that waits */
    operand *reference, *waiting;
    size_t waiting_run;
} readout;
inset_status readout_start(sweep *s, arena *a, readout *r, size_t runs);
/* Takes the metrics of the open invoke, which is a run of `pair`, perhaps the one that its patches
 * start from. */
inset_status readout_take(const sweep *s, trace *t, readout *r, int64_t pair, bool unpatched);
/* The metrics of the open invoke, [n_metrics], without a place among the runs. Not kl. */
inset_status metrics_take(const sweep *s, trace *t, int64_t pair, operand *out);
inset_status readout_save(const sweep *s, trace *t, const readout *r);
/* The tokens of a metric for a pair, its first set's and then its second's, in the sweep's scratch
 * until the next call; *count 0: none. */
const int64_t *metric_tokens_of(const sweep *s, size_t metric_index, int64_t pair, int64_t *count);
/* Have two metrics, each of a pair, the same kind and tokens? */
bool metrics_alike(const sweep *s, size_t a, int64_t pair_of_a, size_t b, int64_t pair_of_b);
/* equal for metrics that are alike */
uint64_t metric_hash(const sweep *s, size_t index, int64_t pair);
/* Positions whose whole row of logits some metric needs, in every run. */
int64_t metrics_whole_rows(const sweep *s);

/* ---- sources (source.c) ------------------------------------------------- */
typedef enum source_kind {
    SOURCE_OTHER_RUN,
    SOURCE_ZERO,
    SOURCE_TENSOR,
    SOURCE_RESAMPLE
} source_kind;

/* A tensor put at a member's places: [layers or 1, positions or 1, width], [layers or 1, positions
 * or 1, heads, width], or by keys [layers or 1, heads, positions, positions]. */
typedef struct source_tensor {
    inset_type type;
    const char *data;
    int64_t layers;
    int n_dimensions; /* of one layer's */
    int64_t shape[3];
    bool for_all_positions; /* one position, for all */
} source_tensor;

/* What `text` asks for; files are read, resample's partners drawn, and a mean's prompts run. */
inset_status source_read(sweep *s, const char *text, uint64_t seed);
bool source_is_other_run(const char *text);
/* The places of one job at one tap, as the site's index: [batch, position], [batch, position, head]
 * or [batch, head, position, key]. */
typedef struct place_items {
    size_t n;
    index_item items[4];
} place_items;
/* The operand that is put there. `taken` are the values at the taps of the run that is the source,
 * or NULL when it is no run. */
inset_status source_take(const sweep *s, trace *t, const operand *taken, const operand *external,
    int32_t tap_index, const place_items *where, operand *out);
int64_t source_numbers(const source_tensor *t); /* of one layer */
/* The tensors of SOURCE_TENSOR as operands of a trace: [n_taps]. */
inset_status source_externals(const sweep *s, trace *t, operand *out);

/* ---- the sweep (sweep.c, chunk.c, pattern.c, gather.c, result.c, state.c) ---- */
/* A place that some site patches; a sweep's taps are in execution order. */
typedef struct tap {
    int32_t place, event; /* of the program */
    int32_t site, member; /* of the sweep */
    int64_t layer;        /* of those chosen */
} tap;

/* How a point's effect is estimated; all 0: it is not, but patched (a sweep). See attribute.h. */
typedef struct attribution_method {
    bool estimates;    /* in place of patches */
    int32_t steps;     /* integrated gradients: points on the way; 0: none */
    bool ends;         /* the mean of the clean and the corrupt run's gradients */
    bool qk, graddrop; /* AtP*'s two parts */
    int rules;         /* of reverse_rule: relevance patching */
} attribution_method;

struct sweep {
    inset_context *context;
    attribution_method method;
    struct attribution *attribution; /* while it estimates */
    const bool *chosen;              /* [points] which are patched; NULL: all */
    struct inset_model *model;
    const program *program;
    arena memory;
    prompts clean, corrupt, others; /* others: those of resample or of a mean */
    bool has_corrupt, noise;        /* noise: the clean run is patched */
    int64_t pairs;
    int32_t n_layers; /* of the model */
    int32_t *blocks;  /* [n_layers] the module of each */
    range layers, positions, heads, features;
    int64_t first_layer, chosen_layers; /* chosen: first + i * step */
    int64_t n_labels;                   /* of the position axis */
    int64_t *position_labels;           /* [n_labels]; negative: from the end */
    const char **position_texts;        /* [n_labels] of the first clean prompt; NULL: none */
    sweep_site *sites;
    size_t n_sites;
    tap *taps;
    size_t n_taps;
    metric *metrics;
    size_t n_metrics;
    int64_t *metric_scratch; /* as many as the largest metric has tokens */
    int32_t logits;          /* the program's site output.logits */
    source_kind source;
    int64_t *partners;      /* resample: which of `others` each pair takes; [pairs] */
    source_tensor *tensors; /* SOURCE_TENSOR: [n_sites * MAX_MEMBERS] */
    bool no_share;
    size_t memory_limit;
    int64_t points; /* of all sites */
    /* pairs * points; of these, jobs that exist (a prompt has the position) */
    int64_t jobs, patches;
    int64_t chunk;         /* most jobs a chunk */
    int64_t chunk_pairs;   /* most pairs a chunk of an attribution */
    bool shared;           /* several run it: chunks are smaller */
    int64_t shard, shards; /* 3 of 16; 0 of 0: all of it */
    struct book *book;     /* which chunks are whose */
    struct helper *helpers;
    float *values;                        /* [n_metrics, jobs] */
    float *clean_values, *corrupt_values; /* [n_metrics, pairs] */
    inset_sweep_progress progress;
    /* the next chunk, planned, perhaps started; the one after it, where the device works ahead */
    struct prepared *prepared, *following;
    struct planned *plans; /* made so far and kept, newest first */
    int64_t uses;          /* of plans */
    struct run_room *room; /* of all chunks' runs */
    /* of the chunk started last, for the next of the same plan */
    struct run *run;
    struct planned *run_plan;
    int slot;                    /* of the room, for the next start */
    int64_t ahead;               /* the chunk that was taken and begun behind the last; -1: none */
    const char *version;         /* of the model, as the options give it */
    const char *command;         /* likewise */
    const char *model_type;      /* the program's */
    const char *device;          /* without its number and threads: what bits may depend on */
    inset_type type;             /* the model's */
    int64_t *layer_labels;       /* [chosen_layers] */
    inset_sweep_result *results; /* made when first asked for, for what was done then */
    int64_t results_of;
    char *state_path;
    size_t given_limit;   /* of memory, as the options give it */
    bool again;           /* attribution: blocks are run a second time, since memory is short */
    uint64_t fingerprint; /* of all that decides the numbers */
    uint64_t identity;    /* the same without the device and the memory limit */
};

inset_status sweep_create(struct inset_model *model, const inset_sweep_options *options,
    const attribution_method *method, sweep **out); /* method: NULL for a sweep */
/* Prompts, direction and metrics alone, for what has runs and no points. */
inset_status sweep_of_runs(struct inset_model *model, const inset_sweep_options *options,
    const attribution_method *method, sweep **out);
/* "cuda:0: NVIDIA H200" and "cpu: AMD EPYC, AVX2, 2 threads" without what bits do not depend on:
 * which of several, and how many threads. NULL: memory is out. */
const char *sweep_device_kind(arena *memory, const struct device *device);
/* Hashes all that decides the numbers, for the state file. */
inset_status sweep_take_fingerprint(sweep *s, const inset_sweep_options *o);
void sweep_free(sweep *s); /* takes NULL */
/* Runs a chunk; where others have all that are left, waits for them. */
inset_status sweep_step(sweep *s);
/* Jobs of the chunk that begins at `first`: whole pairs, or an equal part of one. */
int64_t sweep_count_from(const sweep *s, int64_t first);
/* Frees what is on the device, and the chunks that were begun. */
void sweep_leave_device(sweep *s);
plan_traits sweep_traits(const sweep *s); /* for its plans */

typedef struct sweep_cut sweep_cut;
typedef struct chunk_counts chunk_counts;

/* chunk.c: the trace of a chunk's jobs, planned; and its run, whose numbers go into the sweep's
 * arrays. */
typedef struct prepared prepared;
inset_status chunk_prepare(sweep *s, int64_t chunk, prepared **out);
void chunk_free(prepared *c); /* takes NULL */
/* Gives the chunk's work to the device: two chunks may be started and not finished, where it works
 * ahead, and else one. */
inset_status chunk_start(prepared *c);
bool chunk_started(const prepared *c); /* and not yet finished */
/* Waits for its numbers and makes values of them. */
inset_status chunk_finish(prepared *c, chunk_counts *counts);
int64_t chunk_of(const prepared *c);
void plans_free(sweep *s); /* pattern.c */
/* Where a job is: its site and point, and the pair's sequence of positions. False: the pair has no
 * such position. */
typedef struct job {
    int64_t pair, point; /* point: of its site */
    const sweep_site *site;
    int64_t at[AXIS_COUNT]; /* index on each axis; -1: not an axis of the site */
} job;
bool job_at(const sweep *s, int64_t index, job *out);
/* Is it a job, and is there anything to run for it? */
bool job_runs(const sweep *s, int64_t index);
bool sweep_has_features(const sweep *s);
/* Where a job's sets are: items of its site's index. */
place_items job_items(const sweep *s, const job *j);
/* The positions that a pair's job patches: first, count. */
int64_t job_positions(const sweep *s, const job *j, int64_t *first, int64_t *step);

/* ---- features of autoencoders (features/) ---- */
/* Is the name of a site one of features? */
bool names_features(const char *name);
/* Reads "features:FILE@SITE.LAYER"; out's name becomes "features@SITE.LAYER". */
inset_status features_read(sweep *s, const char *text, sweep_site *out);
/* Finds the changes of all sites of features, once the source has been read; source: the option's
 * text. Nothing where no site is one of features. */
inset_status features_find(sweep *s, const char *source);
void features_free(sweep *s);
/* Is it a job of features whose patch would change nothing? */
bool features_unchanged(const job *j);
uint64_t features_hash(const sweep *s, uint64_t seed);

/* The rows that the jobs of a chunk add, of each site: they go into the trace as one tensor a site,
 * and are used up in the order of the jobs. */
typedef struct feature_rows {
    operand all;
    int64_t next;
} feature_rows;
/* out: [n_sites]; scratch lives as long as the trace is being made. */
inset_status features_rows(
    const sweep *s, trace *t, arena *scratch, int64_t first, int64_t count, feature_rows *out);
/* Adds a job's rows in the open invoke. */
inset_status features_patch(const sweep *s, trace *t, const job *j, feature_rows *rows);
/* Adds the scores of a pair's points, [points of the sweep]: by * (gradient . W_dec[feature]).
 * gradient: [positions, width], the i-th that of position first + i * step. */
void features_score(const sweep *s, const sweep_site *site, int64_t pair, const float *gradient,
    int64_t first, int64_t step, double *points);

/* result.c */
inset_status results_get(sweep *s, size_t index, inset_sweep_result *out);
inset_status results_write(sweep *s, const char *path, const char *command);

/* state.c: a file beside the output that grows by every finished chunk. */
/* Looks for it; *cut is what its chunks were cut by where *found. */
inset_status state_open(sweep *s, bool resume, sweep_cut *cut, bool *found);
inset_status state_restore(sweep *s); /* its records, into the open book */
inset_status state_begin(sweep *s);   /* the file without any */
/* Appends a record: 0, or errno's number. Under the book's lock. */
int state_append(sweep *s, const void *bytes, size_t size);
void state_remove(sweep *s);
/* chunks/merge.c: a sweep that is done, with the numbers of parts (state files of all shards) and
 * without a model. */
inset_status sweep_merge(inset_context *context, size_t n, const char *const *parts, sweep **out);
/* What a merged sweep must know, as JSON; freed with memory_free. */
inset_status sweep_describe(const sweep *s, char **out, size_t *length);

#endif
