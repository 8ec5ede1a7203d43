/* attribute.h: attribution: what a patch would do, estimated from gradients (Nanda 2023,
 * attribution patching; EAP-IG, arXiv 2403.17806; AtP*, arXiv 2403.00745; RelP, arXiv 2508.21258).
 * It takes the prompts, sites, axes, metrics and sources of a sweep and gives a number for each of
 * its points:
 *
 *     score = sum over what is no axis of (source - u) * g
 *
 * u is what stands at the place in the run that is patched, g the gradient of the metric with
 * respect to it there. */
#ifndef INSET_ATTRIBUTE_H
#define INSET_ATTRIBUTE_H

#include "sweep/sweep.h"

/* Checks the method against what the sweep is of. cuts: plans its first pairs, so many as go
 * together, which is what its chunks are from then on. */
inset_status attribute_begin(sweep *s, bool cuts);
/* Runs a chunk of pairs; their scores become the sweep's values. */
inset_status attribute_run(sweep *s, int64_t chunk, chunk_counts *counts);
void attribute_free(sweep *s);
/* What the first pairs' plan takes, and all pairs; nothing is run. */
inset_status attribute_cost(sweep *s, inset_cost *out);
/* What holds for all methods: they go together, and every metric has a gradient. */
inset_status attribute_check_method(sweep *s);
/* The site of the token embeddings; UNKNOWN_SITE: there is none. */
inset_status attribute_embedding(sweep *s, int32_t *site);
/* The first position at which a pair's prompts differ; their length: nowhere. */
int64_t attribute_first_difference(const sweep *s, int64_t pair);
/* In the open invoke, a corrupt run: puts its embeddings (at that site) k steps of the way to the
 * clean ones. */
inset_status attribute_point(const sweep *s, trace *t, int64_t pair, int32_t place, int32_t k,
    const operand *clean, const operand *corrupt);

/* verify.c: Spearman's correlation of two lists of numbers; NaN for fewer than two, or memory
 * out. */
double rank_correlation(inset_context *context, const double *a, const double *b, size_t n);
/* verify.c: patches the `count` points with the largest mean scores (of the first metric); found
 * lies in the sweep's memory. rank: Spearman's correlation of scores and effects. */
inset_status attribute_verify(
    sweep *s, size_t count, inset_verified **found, size_t *n, double *rank);

/* ---- softmax.c: queries and keys without a linear softmax ---- */
/* What attention of one sequence in one layer read, and what comes back to its z; rows of heads
 * [n_positions, heads, head_dim]. */
typedef struct attention_rows {
    const step *attention;
    const float *sinks; /* [n_heads] of the attention, or NULL */
    int64_t n;
    const float *q, *k, *v, *back; /* back: gradient of z */
    const float *patched;          /* the other q, or the other k */
} attention_rows;
/* What patching the query of (position, head) does, its softmax exact: sum_j (p'_j - p_j)
 * dM/dp_j. */
double query_score(const attention_rows *a, int64_t position, int64_t head);
/* The same for a key: over all rows that attend to it, and heads that share it. */
double key_score(const attention_rows *a, int64_t position, int64_t head);

#endif
