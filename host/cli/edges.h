/* edges.h: what `inset attribute --edges` and `inset circuit` share. */
#ifndef INSET_CLI_EDGES_H
#define INSET_CLI_EDGES_H

#include "cli/sweep/sweep.h"

typedef struct session_of_edges {
    const options *given;
    inset_context *context;
    inset_model *model;
    inset_edges *edges;
    char command[8192], version[32], state[8192];
    const inset_verified_edge *verified;
    size_t n_verified;
    double rank, seconds;
} session_of_edges;

/* Opens the model and makes the edges; the exit status. */
int open_edges(session_of_edges *s);

/* The edges by size, [edges] indices source * destinations + destination; *n: at most as many.
 * To be freed; NULL: memory is out. */
int64_t *edges_strongest(inset_edges *e, const inset_edge_result *r, int64_t *n);

/* ---- edges_draw.c: the strongest `top` edges of the first metric ---- */
typedef struct edge_drawing {
    inset_edges *edges;
    int64_t top;
} edge_drawing;
bool edges_svg_write(const void *drawing, FILE *to);  /* a drawing by layer */
bool dot_write(const void *drawing, FILE *to);        /* for Graphviz */
bool graph_json_write(const void *drawing, FILE *to); /* as EAP-IG's Graph.from_json reads it */

#endif
