/* edges.h: commands of edges: `inset attribute --edges` (attribute.c), `inset circuit` (circuit.c),
 * `inset sweep --patch edges` (paths.c). How they begin, and are shared by devices and processes:
 * session.c; drawings: draw.c. */
#ifndef INSET_CLI_EDGES_H
#define INSET_CLI_EDGES_H

#include "cli/sweep/sweep.h"

typedef struct session_of_edges {
    const options *given;
    inset_context *context;
    inset_model *model;
    inset_edges *edges;
    struct rank_room *ranks; /* NULL: mpirun did not start this process */
    device_list devices;
    shard shard;
    char command[8192], version[32], state[PATH_MAX];
    const inset_verified_edge *verified;
    size_t n_verified;
    double rank, seconds;
} session_of_edges;

/* One of the other devices of -d, with the same edges there. */
typedef struct edge_helper {
    inset_context *context;
    inset_model *model;
    inset_edges *edges;
    units units; /* of circuits and paths */
    void *own;   /* what its units read */
} edge_helper;

/* Joins mpirun's processes, makes a context and finds the devices; `check` says whether output and
 * plots can be written, and is asked in the first process alone. The exit status; on failure all
 * processes know of it. */
int session_open(session_of_edges *s, int (*check)(session_of_edges *s));
/* `status`, or that of the end. */
int session_close(session_of_edges *s, int status);
/* Opens the model and makes the edges, on the first device. */
int session_make_edges(session_of_edges *s);
/* Is this the process that has the results? */
bool session_is_first(const session_of_edges *s);

/* What others than the first device need: the work on a helper's edges, and its end. */
typedef struct work_elsewhere {
    int (*make)(void *of, edge_helper *h, work *out); /* prints what is wrong */
    void (*unmake)(edge_helper *h);                   /* NULL: there is nothing to do */
    void *of;
} work_elsewhere;
/* Does the work with everyone who shares it. status: of what was to be done before, here; `w` has
 * no kind where that failed. In the first process all is done then; in others there is nothing
 * left to do. */
int session_work(session_of_edges *s, int status, const work *w, const work_elsewhere *elsewhere);

/* attribute.c, of `inset merge`: puts the parts together and shows them. *none: they are a
 * sweep's. */
int merge_edges(inset_context *context, const options *given, bool *none);

/* The edges by size, [edges] indices source * destinations + destination; *n: at most as many.
 * To be freed; NULL: memory is out. */
int64_t *edges_strongest(inset_edges *e, const inset_edge_result *r, int64_t *n);

/* ---- draw.c: the strongest `top` edges of the first metric ---- */
typedef struct edge_drawing {
    inset_edges *edges;
    int64_t top;
} edge_drawing;
bool edges_svg_write(const void *drawing, FILE *to);  /* a drawing by layer */
bool dot_write(const void *drawing, FILE *to);        /* for Graphviz */
bool graph_json_write(const void *drawing, FILE *to); /* as EAP-IG's Graph.from_json reads it */

#endif
