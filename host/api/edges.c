/* edges.c: attribution of edges, and circuits, of the public API. */
#include "api/edges.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void free_object(void *object) { inset_edges_free(object); }
static void forget_paths(inset_edges *e);

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
    memory_free(e->context, e->path_names);
    memory_free(e->context, e->record);
    forget_paths(e);
    edges_free(e->edges);
    memory_free(e->context, e);
}

inset_status inset_edges_step(inset_edges *e)
{
    if (!e) return INSET_USAGE_ERROR;
    inset_status status = edges_need_device(e);
    return status ? status : edges_step(e->edges);
}

inset_status inset_edges_cost(inset_edges *e, inset_cost *out)
{
    if (!e) return INSET_USAGE_ERROR;
    if (!out) return api_null(e->context, "a place for the cost");
    inset_status status = edges_need_model(e);
    return status ? status : edges_cost(e->edges, out);
}

int inset_edges_done(const inset_edges *e) { return !e || edges_done(e->edges); }

/* A shard's scores are in its file, chunk by chunk, and not added up. */
static inset_status need_whole(const inset_edges *e, const char *what)
{
    const sweep *s = e->edges->s;
    if (!s->shards) return INSET_OK;
    return error_set(e->context, INSET_USAGE_ERROR,
        "%s takes all scores, and this is shard %lld of %lld: inset_edges_merge puts them together",
        what, (long long)s->shard, (long long)s->shards);
}

inset_status inset_edges_result(inset_edges *e, size_t metric, inset_edge_result *out)
{
    if (!e) return INSET_USAGE_ERROR;
    if (!out) return api_null(e->context, "a place for the result");
    const edges *is = e->edges;
    const sweep *s = is->s;
    inset_status status = need_whole(e, "a result");
    if (status) return status;
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
    inset_status status = need_whole(e, what);
    if (status) return status;
    if (edges_done(e->edges)) return INSET_OK;
    return error_set(e->context, INSET_USAGE_ERROR,
        "%s takes edges that are done: step them to their end first", what);
}

static inset_status need_pair(const inset_edges *e, int64_t pair)
{
    const int64_t n = e->edges->s->pairs;
    if (pair >= 0 && pair < n) return INSET_OK;
    return error_set(
        e->context, INSET_INDEX_ERROR, "pair %lld of %lld", (long long)pair, (long long)n);
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
    inset_status status = edges_need_device(e);
    if (!status) status = need_done(e, "verify");
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

/* What each path does, mean over the pairs. */
static inset_status patch_paths(
    inset_edges *e, const edge_path *paths, size_t n, bool freeze, double *out)
{
    const int64_t pairs = e->edges->s->pairs;
    double *effects = memory_new(e->context, (n + 1) * sizeof *effects);
    inset_status status = effects ? INSET_OK : INSET_NO_MEMORY;
    for (size_t i = 0; i < n; i++) out[i] = 0;
    for (int64_t pair = 0; pair < pairs && !status; pair++) {
        status = edges_along(e->edges, pair, paths, n, freeze, effects);
        for (size_t i = 0; i < n && !status; i++) out[i] += effects[i] / (double)pairs;
    }
    memory_free(e->context, effects);
    return status;
}

static void forget_paths(inset_edges *e)
{
    memory_free(e->context, e->paths_text);
    e->paths_text = NULL;
    edge_paths_free(e->edges, &e->paths);
}

/* Into e->paths, unless they are there. Their names stay in the edges' memory, so a text that is
 * asked for piece by piece is read once. */
static inset_status read_paths(inset_edges *e, const char *text)
{
    if (e->paths_text && !strcmp(e->paths_text, text)) return INSET_OK;
    forget_paths(e);
    inset_status status = edges_read_paths(e->edges, text, &e->paths);
    if (status) return status;
    e->paths_text = memory_text(e->context, text, strlen(text));
    if (e->paths_text) return INSET_OK;
    forget_paths(e);
    return INSET_NO_MEMORY;
}

/* All of them, checked. */
static inset_status read_all(inset_edges *e, const char *text, bool freeze)
{
    inset_status status = read_paths(e, text);
    return status ? status : edges_check_paths(e->edges, &e->paths, freeze);
}

inset_status inset_edges_patch(
    inset_edges *e, const char *text, int freeze, const inset_edge_effect **found, size_t *n)
{
    if (!e) return INSET_USAGE_ERROR;
    if (!text || !found || !n) return api_null(e->context, "paths and a place for what they do");
    inset_status status = edges_need_device(e);
    if (status || (status = read_all(e, text, freeze != 0))) return status;
    const edge_paths *paths = &e->paths;
    inset_edge_effect *effects = memory_new(e->context, paths->n * sizeof *effects);
    double *numbers = memory_new(e->context, paths->n * sizeof *numbers);
    status = effects && numbers ? patch_paths(e, paths->at, paths->n, freeze != 0, numbers)
                                : INSET_NO_MEMORY;
    for (size_t i = 0; i < paths->n && !status; i++)
        effects[i] = (inset_edge_effect){paths->at[i].name, numbers[i]};
    memory_free(e->context, numbers);
    memory_free(e->context, status ? effects : e->effects);
    if (!status) e->effects = effects, *found = effects, *n = paths->n;
    return status;
}

inset_status inset_edges_paths(
    inset_edges *e, const char *text, int freeze, const char *const **names, size_t *n)
{
    if (!e) return INSET_USAGE_ERROR;
    if (!text || !names || !n) return api_null(e->context, "paths and a place for their names");
    inset_status status = edges_need_model(e);
    if (status || (status = read_all(e, text, freeze != 0))) return status;
    const char **list = memory_new(e->context, e->paths.n * sizeof *list);
    if (!list) return INSET_NO_MEMORY;
    for (size_t i = 0; i < e->paths.n; i++) list[i] = e->paths.at[i].name;
    memory_free(e->context, e->path_names);
    *names = e->path_names = list;
    *n = e->paths.n;
    return INSET_OK;
}

inset_status inset_edges_patch_pair(inset_edges *e, const char *text, int freeze, int64_t pair,
    size_t first, size_t count, double *effects)
{
    if (!e) return INSET_USAGE_ERROR;
    if (!text || !effects) return api_null(e->context, "paths and a place for what they do");
    inset_status status = edges_need_device(e);
    if (!status) status = need_pair(e, pair);
    if (status || (status = read_paths(e, text))) return status;
    if (first > e->paths.n || count > e->paths.n - first)
        return error_set(e->context, INSET_INDEX_ERROR,
            "%zu paths from the %zu-th on were asked for; there are %zu", count, first, e->paths.n);
    const edge_paths some = {.at = e->paths.at + first, .n = count};
    status = edges_check_paths(e->edges, &some, freeze != 0);
    return status ? status : edges_along(e->edges, pair, some.at, count, freeze != 0, effects);
}

inset_status inset_edges_patch_cost(inset_edges *e, const char *text, int freeze, inset_cost *out)
{
    if (!e) return INSET_USAGE_ERROR;
    if (!text || !out) return api_null(e->context, "paths and a place for the cost");
    inset_status status = edges_need_model(e);
    if (status || (status = read_all(e, text, freeze != 0))) return status;
    inset_cost cost = {.pairs = e->edges->s->pairs, .pairs_at_once = 1};
    double *none = memory_new(e->context, e->paths.n * sizeof *none);
    e->edges->only_cost = &cost;
    status = none ? patch_paths(e, e->paths.at, e->paths.n, freeze != 0, none) : INSET_NO_MEMORY;
    e->edges->only_cost = NULL;
    memory_free(e->context, none);
    if (!status) *out = cost;
    return status;
}

inset_status inset_edges_ablate(inset_edges *e, const char *what)
{
    if (!e) return INSET_USAGE_ERROR;
    inset_status status = edges_need_model(e);
    return status ? status : edges_ablate(e->edges, what);
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
        inset_status status = need_whole(e, "a choice of edges");
        if (!status) status = need_one_matrix(e, "a choice of edges");
        if (status) return status;
        scores = edges_means(e->edges);
    }
    return edges_choose(e->edges, scores, order, size, (bool *)kept);
}

/* Of one pair, or of all (pair -1): their mean. */
static inset_status run_circuit(
    inset_edges *e, const unsigned char *kept, int64_t pair, double *metric)
{
    edges *is = e->edges;
    const int64_t all = is->n_writers * is->n_readers, first = pair < 0 ? 0 : pair,
                  n = pair < 0 ? is->s->pairs : 1;
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
    inset_status status = INSET_OK;
    double sum = 0;
    for (int64_t i = first; i < first + n && !status; i++) {
        double one;
        status = edges_circuit(is, pruned, i, &one);
        sum += one;
    }
    *metric = sum / (double)n;
    memory_free(e->context, pruned);
    return status;
}

inset_status inset_edges_circuit(inset_edges *e, const unsigned char *kept, double *metric)
{
    if (!e) return INSET_USAGE_ERROR;
    if (!kept || !metric) return api_null(e->context, "the edges and a place for the metric");
    inset_status status = edges_need_device(e);
    return status ? status : run_circuit(e, kept, -1, metric);
}

inset_status inset_edges_circuit_pair(
    inset_edges *e, const unsigned char *kept, int64_t pair, double *metric)
{
    if (!e) return INSET_USAGE_ERROR;
    if (!kept || !metric) return api_null(e->context, "the edges and a place for the metric");
    inset_status status = edges_need_device(e);
    if (!status) status = need_pair(e, pair);
    return status ? status : run_circuit(e, kept, pair, metric);
}

inset_status inset_edges_circuit_cost(inset_edges *e, const unsigned char *kept, inset_cost *out)
{
    if (!e) return INSET_USAGE_ERROR;
    if (!kept || !out) return api_null(e->context, "the edges and a place for the cost");
    double none;
    inset_cost cost = {.pairs = e->edges->s->pairs, .pairs_at_once = 1};
    inset_status status = edges_need_model(e);
    if (status) return status;
    e->edges->only_cost = &cost;
    status = run_circuit(e, kept, -1, &none);
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
