/* edges.h: attribution of edges, as its handle has it: edges.c, and edges_shared.c for those that
 * several run. */
#ifndef INSET_API_EDGES_H
#define INSET_API_EDGES_H

#include "api/api.h"
#include "edges/path.h"

struct inset_edges {
    handle handle; /* owner: the model; of merged ones the context */
    inset_context *context;
    edges *edges;
    inset_verified_edge *verified;
    inset_edge_effect *effects;
    /* the text of paths that was read last: who shares it asks for a few of them at a time */
    char *paths_text;
    edge_paths paths;
    const char **path_names;
    char *record; /* of the chunk that ran last for somebody else */
};

/* INSET_OK where there is a model, as not in merged edges; and one that can run. */
inset_status edges_need_model(const inset_edges *e);
inset_status edges_need_device(const inset_edges *e);

#endif
