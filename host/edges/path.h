/* path.h: edges and paths of them that somebody named (path.c), patched (along.c). */
#ifndef INSET_EDGES_PATH_H
#define INSET_EDGES_PATH_H

#include "edges/edges.h"

enum { MOST_PATH_STEPS = 16 };

/* Step 0 are writers, the others readers; the nodes of a step go together. */
typedef struct edge_path {
    const char *name; /* "a0.h1->m2" */
    int32_t n;
    struct {
        const int64_t *nodes;
        int32_t n;
    } steps[MOST_PATH_STEPS];
} edge_path;

typedef struct edge_paths {
    edge_path *at;
    size_t n, capacity;
} edge_paths;

/* VALUE_ERROR: what is no node, no edge or no path, by name. */
inset_status edges_read_paths(edges *e, const char *text, edge_paths *out);
void edge_paths_free(edges *e, edge_paths *p);
/* Does what a reader reads go into what writer u writes? */
bool edge_leads_on(const edges *e, int64_t reader, int64_t u);

/* Paths that go through one plan, with the runs of their pair. */
enum { PATHS_A_PLAN = 256 };
/* Not frozen, USAGE_ERROR for a path of more than one edge. */
inset_status edges_check_paths(const edges *e, const edge_paths *paths, bool freeze);
/* What patching each of some checked paths changes a pair's first metric by: out [n]. A path of one
 * edge is patched as edges_exact does, unless `freeze`: then every head and MLP keeps the base
 * run's value but those on the path, each of which sees what the path brings it and nothing else,
 * and what the last one changes reaches the logits alone (path patching, arXiv 2211.00593). */
inset_status edges_along(
    edges *e, int64_t pair, const edge_path *paths, size_t n, bool freeze, double *out);

#endif
