/* patching.h: pieces of which traces of patched edges are made: exact.c patches one edge, along.c a
 * path of them, circuit.c all but those kept.
 *
 * A reader alone sees another stream: for an MLP or the logits its input is replaced (an MLP's
 * behind the norm, by what the norm makes of that stream, where attention reads that norm too), for
 * a head's q, k or v that head's part of `.q_input`, `.k_input`, `.v_input` is set.
 *
 * A writer's difference: the stream's or the MLP's own; a head's `.result`. Where a norm stands
 * behind the projection, what the norm makes of that head's z in the place of the other's, less
 * what it made before. */
#ifndef INSET_EDGES_PATCHING_H
#define INSET_EDGES_PATCHING_H

#include "edges/edges.h"
#include "trace/records.h"

/* What a run is given in the place of its own: a head of a site, or all that a module reads. */
typedef struct change {
    int32_t site, event, head; /* CHANGE_SLOT: the site's slot is replaced */
    operand value;
} change;
enum { CHANGE_SLOT = -1, CHANGE_ALL = -2 }; /* all of the site's tensor is set */

/* A site of a run that somebody wants to see. */
typedef struct wanted {
    int32_t site, event;
    operand *to;
} wanted;

/* The trace of one pair that is being made. */
typedef struct maker {
    edges *e;
    trace *t;
    arena memory;
    int64_t pair;
    operand *base, *other; /* [n_layers * PLACE_COUNT] of the two runs of the pair */
    operand base_metric;
    operand *scratch; /* [n_metrics] */
    /* what makes the other run of the base: an ablation; else it is the pair's other prompt */
    change *ablated;
    size_t n_ablated;
    /* a circuit: what the run has so far, and what each writer's output is in it, less the other
     * run's */
    change *changes;
    size_t n_changes;
    operand *own;    /* [n_layers * PLACE_COUNT] of the run with the changes */
    operand *deltas; /* [n_writers] */
    bool *has_delta;
    operand *results; /* [n_results] numbers to be saved */
    size_t n_results;
} maker;

inset_status patching_open(maker *m, edges *e, size_t n_results);
void patching_close(maker *m);
/* Runs the trace; the results' numbers are added to out [of]: result i to out[i % of]. */
inset_status patching_finish(maker *m, double *out, size_t of);

/* The other run, up to what is read of it. */
inset_status patching_other_run(maker *m, const wanted *reads, size_t n);
/* Begins the base run's or the other run's prompt. */
inset_status patching_begin(maker *m, bool base);
/* Notes a site, in the order of the run; none where site is -1. */
void patching_want(const maker *m, wanted *list, size_t *n, int32_t site, operand *to);
/* Goes on with the open invoke: changes and reads, each in the order of the run. */
inset_status patching_travel(
    maker *m, const change *changes, size_t n_changes, const wanted *reads, size_t n_reads);
/* The first metric of the open invoke. */
inset_status patching_metric(maker *m, operand *out);
/* Patches n things one by one in a pair: `patch` makes the trace of the i-th of `things` and gives
 * its metric. out [n]: what each changes the first metric by. */
typedef inset_status patch_one(maker *m, const void *things, size_t i, operand *metric);
inset_status patching_pair(
    edges *e, int64_t pair, size_t n, patch_one *patch, const void *things, double *out);
/* The same in every pair; out [n]: mean over the pairs. */
inset_status patching_each(edges *e, size_t n, patch_one *patch, const void *things, double *out);

/* The base and the other run with all their places, and the base's metric. */
inset_status patching_both_runs(maker *m);

/* A head of [batch, position, head, d]. */
inset_status patching_head(maker *m, const operand *x, int32_t head, operand *out);
/* What a writer's output is in one run less another's: `of` and `less` hold the places of both; a
 * head's z of `of` among those of `less`. Opens an invoke where a head asks for one. */
inset_status patching_delta(maker *m, int64_t u, operand *of, operand *less, operand *out);
int patching_which(const edge_node *reader); /* q 0, k 1, v 2 */
static inline bool edge_is_of_head(const edge_node *reader)
{
    return reader->part != 'm' && reader->part != 'l';
}
/* The site through which a reader reads the stream. */
int32_t patching_reads_at(const edges *e, const edge_node *reader);
/* The site at which it alone is given something: a head's own, an MLP's behind a shared norm. */
int32_t patching_alone_at(const edges *e, const edge_node *reader);
/* What is to be put there that it sees `stream`: that, or what the shared norm makes of it. An
 * invoke is open. */
inset_status patching_seen(maker *m, const edge_node *reader, const operand *stream, operand *out);
/* The change by which a reader alone sees `stream`. An invoke is open. */
inset_status patching_change(maker *m, const edge_node *reader, const operand *stream, change *out);

/* Takes the means that an ablation wants, where they are not there yet (ablation.c). */
inset_status ablation_prepare(edges *e);
/* The changes that make the ablated run of the base, where edges carry zero or a
 * mean. */
inset_status ablation_changes(maker *m);

#endif
