/* edges.h: attribution of edges, and circuits made of them.
 *
 * A model whose residual stream is a sum is a graph: *writers* add to the stream, *readers* read
 * it, and an edge is what one writer's output is to one later reader (EAP, arXiv 2310.10348;
 * EAP-IG, arXiv 2403.17806).
 *
 *     writers   input (the token embeddings), a head's z times its part of the output projection
 *               (a3.h1), what an MLP adds (m3)
 *     readers   each head's q, k and v (a3.h1<q>), each MLP (m3), what the logits are made of
 *               (logits): each the stream as it alone reads it, before its norm
 *
 *     score[u, v] = mean over pairs of the sum over positions of delta_u . g_v
 *
 * delta_u is u of the other run less u of the run that is patched, g_v the gradient of the
 * metric with respect to what v reads. Where a norm stands behind a sublayer (Gemma 2, OLMo 2),
 * a head's delta is taken through that norm, linearised at the patched run.
 *
 * What is needed of the runs comes out of one trace of some pairs (trace.c); differences,
 * readers' gradients and their products are made from it on the device, a layer's readers at a
 * time (score.c). Pairs are cut into chunks, which others may run (share.c). */
#ifndef INSET_EDGES_H
#define INSET_EDGES_H

#include "run/model.h"
#include "sweep/attribution/attribute.h"
#include "sweep/chunks/book.h"

/* Places that every run is asked for, by layer; those of the model as a whole are layer 0's. */
typedef enum edge_place {
    PLACE_STREAM,     /* the stream that layer 0 begins with */
    PLACE_NORM_INPUT, /* what the norm before attention reads; not there without such a norm */
    PLACE_Q,
    PLACE_K,
    PLACE_V,
    PLACE_Z,
    PLACE_RESULT,    /* each head's part of the projection, before a norm behind it */
    PLACE_OUT,       /* what a norm behind attention reads; not there without */
    PLACE_ATTN_OUT,  /* what attention adds to the stream */
    PLACE_MLP_INPUT, /* what the MLP (or its norm) reads */
    /* the MLP's own input behind a norm that attention reads too (GPT-J, Phi); else not there, and
     * nothing but the MLP reads through PLACE_MLP_INPUT */
    PLACE_MLP_NORMED,
    PLACE_MLP_OUT, /* what the MLP adds to the stream */
    PLACE_LAST,    /* what the norm before the logits reads */
    PLACE_COUNT
} edge_place;

/* One layer: sites of the program (-1: not there) and the steps behind them. */
typedef struct edge_layer {
    int32_t place[PLACE_COUNT];
    int32_t linear[3]; /* the products that q, k and v are columns of */
    int32_t heads[3];  /* and the same for each head alone, which knows the columns */
    int32_t read[3];   /* sites of the slots that attention reads the stream through, for q, k, v */
    int32_t alone[3];  /* sites .q_input, .k_input, .v_input */
    int32_t norm;      /* step of the norm before them, or -1 */
    int32_t out;       /* step of the output projection */
    int32_t out_norm;  /* step of the norm behind it, or -1 */
    float out_scale;   /* factor on its result before it is added to the stream (Granite), or 1 */
    bool parallel;     /* its MLP reads the stream that attention reads */
} edge_layer;

/* Writers and readers in order: input, then a layer's heads and its MLP; a layer's q, k and v heads
 * and its MLP, and at last the logits. */
typedef struct edge_node {
    char name[24];
    int32_t layer; /* -1: input; the number of layers: logits */
    int8_t part;   /* 'i', 'q', 'k', 'v', 'z', 'm', 'l' */
    int32_t head;
} edge_node;

/* What an edge that is let go carries (ablation.c): the other run's value, unless `given`; then
 * nothing, or where `mean` the mean over prompts, taken when a circuit first runs. */
typedef struct edge_ablation {
    bool given, mean;
    int32_t embedding; /* site */
    prompts prompts;
    float *means; /* of the embeddings, each layer's z and MLP: [longest prompt, width] each */
    bool taken;   /* the means are there */
    bool counted; /* a cost has what they take */
} edge_ablation;

typedef struct edges {
    sweep *s; /* prompts, metrics, direction */
    edge_layer *layers;
    int32_t n_heads, n_kv_heads, head_dim, width;
    int32_t embedding; /* site of the token embeddings, for steps */
    edge_node *writers, *readers;
    int64_t n_writers, n_readers;
    int64_t n_positions;    /* as many as there are matrices: 1, or the longest prompt's */
    model_weights *weights; /* where products read them on the host; else NULL */
    /* chunks of s->chunk_pairs pairs, given out by s->book; `next` pairs are in the sums, those of
     * the first `folded` chunks, and others' records wait for their turn */
    int64_t next, folded;
    struct waiting_record *waiting;
    double *chunk_sums; /* [n_metrics, n_positions, n_writers, n_readers] of the chunk at work */
    double *sums;       /* the same over the pairs so far */
    float *means;       /* the same, divided; made by edges_means */
    float *per_pair;    /* [n_metrics, pairs, n_positions, n_writers, n_readers], or NULL */
    const char **writer_names, **reader_names;
    edge_ablation ablation;
    /* not NULL: what patching would run is planned and added up here, and nothing is run */
    inset_cost *only_cost;
} edges;

/* A place of a layer in a table [n_layers * PLACE_COUNT]. */
static inline operand *entry(operand *table, int32_t layer, edge_place place)
{
    return &table[(size_t)layer * PLACE_COUNT + (size_t)place];
}

/* Where the MLP reads, and nobody else. */
static inline edge_place edges_mlp_reads(const edge_layer *at)
{
    return at->place[PLACE_MLP_NORMED] >= 0 ? PLACE_MLP_NORMED : PLACE_MLP_INPUT;
}

/* Is there an edge from writer u to reader v? */
bool edge_exists(const edges *e, int64_t u, int64_t v);

/* Is it the reader of a writer's node: all of a head's (of its group's, where keys are shared), or
 * the MLP's? */
bool edge_is_of_node(const edges *e, const edge_node *reader, const edge_node *writer);

/* ---- graph.c: writers and readers of a program ---- */
inset_status edges_find(edges *e);
/* Writers and readers of the layers and heads that are known. */
inset_status edges_make_nodes(edges *e);

/* ---- trace.c: what is needed of some pairs' runs ---- */
/* What one run gives, as indices of saved values; -1: not saved. */
typedef struct edge_gradients {
    int32_t *at; /* [n_layers * PLACE_COUNT]: x of PLACE_NORM_INPUT, else gradients */
} edge_gradients;
typedef struct edge_saved {
    int64_t first, count; /* pairs */
    int32_t runs;         /* whose gradients are taken, of a pair */
    int32_t *deltas; /* [count, n_layers * PLACE_COUNT] source less base; PLACE_OUT: of the base */
    int32_t *gradients; /* [n_metrics, count, runs, n_layers * PLACE_COUNT] */
    int32_t metrics;    /* the first of the metrics' own, [n_metrics] */
    int32_t n;
} edge_saved;
/* Plans pairs first .. first + count; what is saved lies in `memory`. */
inset_status edges_plan(
    edges *e, int64_t first, int64_t count, arena *memory, edge_saved *saved, struct plan **out);

/* ---- score.c: products ---- */
struct run;
/* Adds the scores of the pairs that ran to the chunk's. */
inset_status edges_add_scores(edges *e, struct run *r, const edge_saved *saved);
/* What that takes on the device beside the run. */
int64_t edges_room_bytes(const edges *e);
/* Rows of differences and gradients that are there at once: sums are made of so many. */
int64_t edges_rows_at_once(const edges *e);

/* ---- share.c: chunks of pairs, and who runs them ---- */
/* What decides how pairs are cut, and that two attributions are the same one but for the device. */
typedef struct edge_cut {
    uint64_t identity;
    int64_t pairs, metrics;
    uint64_t memory_limit;
    int64_t chunk; /* most pairs */
    int64_t rows;  /* edges_rows_at_once */
    int64_t shard, shards;
} edge_cut;
edge_cut edges_cut(const edges *e);
/* USAGE_ERROR: it is not the same attribution. */
inset_status edges_cut_as(edges *e, const edge_cut *cut);
/* Decides how many pairs a chunk has. */
void edges_choose_chunk(edges *e);
/* Opens the book; the first `next` pairs are done. FILE_ERROR: no chunk begins there. */
inset_status edges_open_book(edges *e);
void edges_forget_waiting(edges *e);
int64_t edges_score_numbers(const edges *e); /* of a metric: positions, writers, readers */
/* A chunk that has just run here, as bytes to be freed with memory_free. */
inset_status edges_record_make(
    const edges *e, int64_t chunk, const chunk_counts *counts, char **bytes, size_t *size);
/* Which chunk a record is of; -1: none of these edges', or not whole. */
int64_t edges_record_chunk(const edges *e, const void *bytes, size_t size);
size_t edges_record_size(const edges *e, int64_t chunk);
/* Takes a record, once: into the sums when its turn has come, and what is done into the state file,
 * where there is one. Any thread may call it; so it sets no message. 0, or errno's number. */
int edges_keep(edges *e, int64_t chunk, const void *bytes, size_t size);

/* ---- exact.c, circuit.c: edges patched, circuits run ---- */
/* What patching one edge alone changes the first metric by, mean over the pairs: out [n]. */
inset_status edges_exact(edges *e, size_t n, const int64_t (*chosen)[2], double *out);
inset_status edges_exact_pair(/* the same in one pair */
    edges *e, int64_t pair, size_t n, const int64_t (*chosen)[2], double *out);
/* A pair's first metric with the kept edges [n_writers, n_readers] as they are and the other run's
 * value along all others. */
inset_status edges_circuit(edges *e, const bool *kept, int64_t pair, double *out);

/* What the edges that a circuit lets go carry: "other" (NULL), "zero" or "mean:PROMPTS".
 * VALUE_ERROR, and the errors of prompts. */
inset_status edges_ablate(edges *e, const char *text);

/* ---- choose.c: which edges a circuit has ---- */
typedef enum edge_order { ORDER_SCORE, ORDER_ABS, ORDER_GREEDY } edge_order;
/* Keeps the n strongest edges by `scores` [n_writers, n_readers]: the largest, the largest in size,
 * or, greedy, one after the other the largest in size whose reader already leads to the logits. */
inset_status edges_choose(
    const edges *e, const float *scores, edge_order order, int64_t n, bool *kept);
int64_t edges_count(const edges *e); /* of the graph */
/* Lets go of what is not connected: edges out of writers that see nothing of this run, and into
 * readers that lead nowhere. It changes no number. */
void edges_prune(const edges *e, bool *kept);

/* ---- state.c: what is done, kept on disk ---- */
/* None of these do anything without a state's path. resume: takes up what the file holds, how pairs
 * are cut first of all, where there is one; else there must be none. FILE_ERROR. */
inset_status edges_state_open(edges *e, bool resume);
int edges_state_save(edges *e); /* 0, or errno's number */
void edges_state_remove(edges *e);

/* ---- part.c: what a shard leaves, and parts put together ---- */
/* Looks for the file; where *found, pairs are cut as it says. USAGE_ERROR: no state's path. */
inset_status edges_part_open(edges *e, bool resume, bool *found);
inset_status edges_part_restore(edges *e); /* what it has is done in the open book */
inset_status edges_part_begin(edges *e);   /* the file without any records */
int edges_part_append(edges *e, const void *bytes, size_t size); /* 0, or errno's number */
/* Edges that are done, with the sums of parts (of all shards) and without a model. FILE_ERROR,
 * VALUE_ERROR: not all are there; TYPE_ERROR: the first is a sweep's. */
inset_status edges_merge(inset_context *context, size_t n, const char *const *parts, edges **out);

/* ---- edges.c, write.c ---- */
inset_status edges_create(struct inset_model *model, const inset_sweep_options *options,
    const attribution_method *method, bool per_pair, edges **out);
/* The sums; NO_MEMORY: more than the machine has. */
inset_status edges_make_arrays(edges *e, bool per_pair);
void edges_free(edges *e); /* takes NULL */
/* Runs the next chunk that is free; where others have all that are left, waits for them. */
inset_status edges_step(edges *e);
inset_status edges_run_chunk(edges *e, int64_t chunk, chunk_counts *counts);
bool edges_done(const edges *e);
/* What the first pairs' plan takes on the device and on the host, and all pairs; nothing is run. */
inset_status edges_cost(edges *e, inset_cost *out);
const float *edges_means(edges *e); /* NULL: memory is out */
inset_status edges_write(edges *e, const char *path, const char *command);
/* Scores of the first metric from a file that edges_write made, of this graph: out [n_writers,
 * n_readers]. FILE_ERROR: no such file or tensor; SHAPE_ERROR, VALUE_ERROR: another graph's. */
inset_status edges_read(edges *e, const char *path, float *out);

#endif
