/* edges.c: attribution of edges, and circuits, of the public API. */
#include "edges/path.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "api/api.h"

struct inset_edges {
    handle handle; /* owner: the model */
    inset_context *context;
    edges *edges;
    inset_verified_edge *verified;
    inset_edge_effect *effects;
};

static void free_object(void *object) { inset_edges_free(object); }

inset_status inset_edges_create(
    inset_model *model, const inset_attribution_options *options, int per_pair, inset_edges **out)
{
    if (!model) return INSET_USAGE_ERROR;
    inset_context *context = model->context;
    inset_sweep_options runs;
    attribution_method method;
    if (!out) return api_null(context, "a place for the edges");
    inset_status status = api_need_unedited(model, "attribution of edges");
    if (!status) status = api_attribution(context, options, &runs, &method);
    if (status) return status;
    inset_edges *e = memory_new(context, sizeof *e);
    if (!e) return INSET_NO_MEMORY;
    e->context = context;
    if ((status = edges_create(model, &runs, &method, per_pair != 0, &e->edges))) {
        memory_free(context, e);
        return status;
    }
    handle_add(context, &e->handle, model, e, free_object);
    *out = e;
    return INSET_OK;
}

void inset_edges_free(inset_edges *e)
{
    if (!e) return;
    handle_remove(e->context, &e->handle);
    memory_free(e->context, e->verified);
    memory_free(e->context, e->effects);
    edges_free(e->edges);
    memory_free(e->context, e);
}

inset_status inset_edges_step(inset_edges *e)
{
    if (!e) return INSET_USAGE_ERROR;
    inset_status status = api_need_device(e->edges->s->model);
    return status ? status : edges_step(e->edges);
}

inset_status inset_edges_cost(inset_edges *e, inset_cost *out)
{
    if (!e) return INSET_USAGE_ERROR;
    return out ? edges_cost(e->edges, out) : api_null(e->context, "a place for the cost");
}

int inset_edges_done(const inset_edges *e) { return !e || edges_done(e->edges); }

inset_status inset_edges_result(inset_edges *e, size_t metric, inset_edge_result *out)
{
    if (!e) return INSET_USAGE_ERROR;
    if (!out) return api_null(e->context, "a place for the result");
    const edges *is = e->edges;
    const sweep *s = is->s;
    const int64_t all = is->n_positions * is->n_writers * is->n_readers;
    if (metric >= s->n_metrics)
        return error_set(e->context, INSET_INDEX_ERROR, "metric %zu of %zu", metric, s->n_metrics);
    *out = (inset_edge_result){.metric = s->metrics[metric].name,
        .pairs = s->pairs,
        .done = is->next,
        .positions = is->n_positions,
        .sources = is->n_writers,
        .destinations = is->n_readers,
        .edges = edges_count(is),
        .layers = s->n_layers,
        .heads = is->n_heads,
        .key_value_heads = is->n_kv_heads,
        .width = is->width,
        .parallel = is->layers[0].parallel,
        .source_names = is->writer_names,
        .destination_names = is->reader_names,
        .mean = edges_means(e->edges) + (int64_t)metric * all,
        .per_pair = is->per_pair ? is->per_pair + (int64_t)metric * s->pairs * all : NULL,
        .clean = s->clean_values + (int64_t)metric * s->pairs,
        .corrupt = s->corrupt_values + (int64_t)metric * s->pairs};
    return INSET_OK;
}

int inset_edge_exists(const inset_edges *e, int64_t source, int64_t destination)
{
    return e && source >= 0 && destination >= 0 && source < e->edges->n_writers
           && destination < e->edges->n_readers && edge_exists(e->edges, source, destination);
}

static inset_status need_done(const inset_edges *e, const char *what)
{
    if (edges_done(e->edges)) return INSET_OK;
    return error_set(e->context, INSET_USAGE_ERROR,
        "%s takes edges that are done: step them to their end first", what);
}

static inset_status need_one_matrix(const inset_edges *e, const char *what)
{
    if (e->edges->n_positions == 1) return INSET_OK;
    return error_set(e->context, INSET_USAGE_ERROR,
        "%s takes one score an edge: leave out the axis position", what);
}

inset_status inset_edges_write(inset_edges *e, const char *path, const char *command)
{
    if (!e) return INSET_USAGE_ERROR;
    if (!path) return api_null(e->context, "a path");
    inset_status status = need_done(e, "write");
    return status ? status : edges_write(e->edges, path, command);
}

inset_status inset_edges_verify(
    inset_edges *e, size_t count, const inset_verified_edge **found, size_t *n, double *rank)
{
    if (!e) return INSET_USAGE_ERROR;
    if (!found || !n || !rank) return api_null(e->context, "a place for what is found");
    inset_status status = need_done(e, "verify");
    if (!status) status = need_one_matrix(e, "verify");
    if (status) return status;
    edges *is = e->edges;
    const int64_t all = is->n_writers * is->n_readers, there = edges_count(is);
    const float *scores = edges_means(is);
    if ((int64_t)count > there) count = (size_t)there;
    bool *kept = memory_new(e->context, (size_t)all * sizeof *kept);
    int64_t(*chosen)[2] = memory_new(e->context, (count + 1) * sizeof *chosen);
    double *numbers = memory_new(e->context, (2 * count + 1) * sizeof *numbers);
    memory_free(e->context, e->verified);
    e->verified = memory_new(e->context, (count + 1) * sizeof *e->verified);
    status = kept && chosen && numbers && e->verified ? INSET_OK : INSET_NO_MEMORY;
    if (!status) status = edges_choose(is, scores, ORDER_ABS, (int64_t)count, kept);
    size_t k = 0;
    for (int64_t i = 0; i < all && !status; i++)
        if (kept[i]) {
            chosen[k][0] = i / is->n_readers, chosen[k][1] = i % is->n_readers;
            numbers[k++] = scores[i];
        }
    if (!status) status = edges_exact(is, k, (const int64_t(*)[2])chosen, numbers + count);
    for (size_t i = 0; i < k && !status; i++) {
        /* the largest first */
        const inset_verified_edge made = {is->writer_names[chosen[i][0]],
            is->reader_names[chosen[i][1]], numbers[i], numbers[count + i]};
        size_t at = i;
        for (; at > 0 && fabs(e->verified[at - 1].score) < fabs(made.score); at--)
            e->verified[at] = e->verified[at - 1];
        e->verified[at] = made;
    }
    if (!status) {
        *rank = rank_correlation(e->context, numbers, numbers + count, k);
        *found = e->verified;
        *n = k;
    }
    memory_free(e->context, kept);
    memory_free(e->context, chosen);
    memory_free(e->context, numbers);
    return status;
}

static inset_status patch_paths(inset_edges *e, const edge_paths *paths, bool freeze)
{
    inset_edge_effect *effects = memory_new(e->context, paths->n * sizeof *effects);
    double *numbers = memory_new(e->context, paths->n * sizeof *numbers);
    inset_status status = effects && numbers ? edges_along(e->edges, paths, freeze, numbers)
                                             : INSET_NO_MEMORY;
    for (size_t i = 0; i < paths->n && !status; i++)
        effects[i] = (inset_edge_effect){paths->at[i].name, numbers[i]};
    memory_free(e->context, numbers);
    memory_free(e->context, status ? effects : e->effects);
    if (!status) e->effects = effects;
    return status;
}

inset_status inset_edges_patch(
    inset_edges *e, const char *text, int freeze, const inset_edge_effect **found, size_t *n)
{
    if (!e) return INSET_USAGE_ERROR;
    if (!text || !found || !n) return api_null(e->context, "paths and a place for what they do");
    edge_paths paths;
    inset_status status = api_need_device(e->edges->s->model);
    if (status || (status = edges_read_paths(e->edges, text, &paths))) return status;
    if (!(status = patch_paths(e, &paths, freeze != 0))) *found = e->effects, *n = paths.n;
    edge_paths_free(e->edges, &paths);
    return status;
}

inset_status inset_edges_patch_cost(inset_edges *e, const char *text, int freeze, inset_cost *out)
{
    if (!e) return INSET_USAGE_ERROR;
    if (!text || !out) return api_null(e->context, "paths and a place for the cost");
    edge_paths paths;
    inset_status status = edges_read_paths(e->edges, text, &paths);
    if (status) return status;
    inset_cost cost = {.pairs = e->edges->s->pairs, .pairs_at_once = 1};
    double *none = memory_new(e->context, paths.n * sizeof *none);
    e->edges->only_cost = &cost;
    status = none ? edges_along(e->edges, &paths, freeze != 0, none) : INSET_NO_MEMORY;
    e->edges->only_cost = NULL;
    memory_free(e->context, none);
    edge_paths_free(e->edges, &paths);
    if (!status) *out = cost;
    return status;
}

inset_status inset_edges_ablate(inset_edges *e, const char *what)
{
    if (!e) return INSET_USAGE_ERROR;
    return edges_ablate(e->edges, what);
}

static bool read_order(const char *by, edge_order *out)
{
    static const char *const names[] = {"score", "abs", "greedy"};
    *out = ORDER_ABS;
    for (int i = 0; by && i < 3; i++)
        if (!strcmp(by, names[i])) return *out = (edge_order)i, true;
    return !by;
}

inset_status inset_edges_choose(
    inset_edges *e, const float *scores, const char *by, int64_t size, unsigned char *kept)
{
    if (!e) return INSET_USAGE_ERROR;
    if (!kept) return api_null(e->context, "a place for the edges");
    edge_order order;
    if (!read_order(by, &order))
        return error_set(e->context, INSET_VALUE_ERROR,
            "'%s' is no way to choose edges: score, abs or greedy", by);
    if (size < 0)
        return error_set(e->context, INSET_VALUE_ERROR, "a circuit of %lld edges", (long long)size);
    if (!scores) {
        inset_status status = need_one_matrix(e, "a choice of edges");
        if (status) return status;
        scores = edges_means(e->edges);
    }
    return edges_choose(e->edges, scores, order, size, (bool *)kept);
}

static inset_status run_circuit(inset_edges *e, const unsigned char *kept, double *metric)
{
    edges *is = e->edges;
    const int64_t all = is->n_writers * is->n_readers;
    bool *pruned = memory_new(e->context, (size_t)all * sizeof *pruned);
    if (!pruned) return INSET_NO_MEMORY;
    bool every = true;
    for (int64_t i = 0; i < all; i++) {
        const bool is_edge = edge_exists(is, i / is->n_readers, i % is->n_readers);
        pruned[i] = is_edge && kept[i];
        every &= !is_edge || kept[i];
    }
    /* what is not connected changes no number, unless differences go through norms and do not add
     * up; what edges carry that is no run's own is another matter, and then it goes as in EAP-IG */
    if (!every && (is->ablation.given || is->layers[0].out_norm < 0)) edges_prune(is, pruned);
    inset_status status = edges_circuit(is, pruned, metric);
    memory_free(e->context, pruned);
    return status;
}

inset_status inset_edges_circuit(inset_edges *e, const unsigned char *kept, double *metric)
{
    if (!e) return INSET_USAGE_ERROR;
    if (!kept || !metric) return api_null(e->context, "the edges and a place for the metric");
    inset_status there = api_need_device(e->edges->s->model);
    return there ? there : run_circuit(e, kept, metric);
}

inset_status inset_edges_circuit_cost(inset_edges *e, const unsigned char *kept, inset_cost *out)
{
    if (!e) return INSET_USAGE_ERROR;
    if (!kept || !out) return api_null(e->context, "the edges and a place for the cost");
    double none;
    inset_cost cost = {.pairs = e->edges->s->pairs, .pairs_at_once = 1};
    e->edges->only_cost = &cost;
    inset_status status = run_circuit(e, kept, &none);
    e->edges->only_cost = NULL;
    if (!status) *out = cost;
    return status;
}

inset_status inset_edges_read(inset_edges *e, const char *path, float *scores)
{
    if (!e) return INSET_USAGE_ERROR;
    if (!path || !scores) return api_null(e->context, "a path and a place for the scores");
    return edges_read(e->edges, path, scores);
}
