/* test_edges.c: scores of edges, edges patched and circuits beside PyTorch's (make_edges.py),
 * and what must hold of them on every family: rows of the matrix add up to scores of nodes,
 * keeping all edges is the run itself and keeping none the other, and what edges have not got is
 * refused. */
#include "test.h"

#include <inset.h>
#include <stdlib.h>
#include <unistd.h>

#include "file/file.h"
#include "world.h"

static const char *const metrics[] = {"logit_diff:3,7", NULL};

static inset_attribution_options options_of(void)
{
    inset_attribution_options o = INSET_ATTRIBUTION_OPTIONS;
    o.sweep.clean.text = "[[3,7,11,2,5,9],[8,1,4,2,6,13]]";
    o.sweep.corrupt.text = "[[3,7,20,2,8,9],[8,5,4,2,6,13]]";
    o.sweep.metrics = metrics;
    return o;
}

static inset_model *open_model_as(inset_context *context, const char *name, int ungroup)
{
    char path[256];
    inset_model *model = NULL;
    inset_model_options cpu = INSET_MODEL_OPTIONS;
    cpu.device = getenv("INSET_TEST_DEVICE") ? getenv("INSET_TEST_DEVICE") : "cpu";
    cpu.ungroup = ungroup;
    snprintf(path, sizeof path, "fixtures/%s", name);
    CHECK(!inset_model_open(context, path, &cpu, &model), "%s: %s", name, inset_message(context));
    return model;
}

static inset_model *open_model(inset_context *context, const char *name)
{
    return open_model_as(context, name, 0);
}

/* Frees the context where there is none. */
static bool device_answers(inset_context *context)
{
    inset_model *model = NULL;
    inset_model_options o = INSET_MODEL_OPTIONS;
    o.device = getenv("INSET_TEST_DEVICE");
    if (!o.device) return true;
    const inset_status status = inset_model_open(context, "fixtures/gpt2", &o, &model);
    inset_model_free(model);
    if (status != INSET_DEVICE_ERROR) return true;
    fprintf(stderr, "%s\n", inset_message(context));
    inset_context_free(context);
    return false;
}

static inset_edges *edges_of(inset_context *context, inset_model *model, const char *name,
    const inset_attribution_options *o, inset_edge_result *r)
{
    inset_edges *e = NULL;
    inset_status status = inset_edges_create(model, o, 0, &e);
    while (!status && !inset_edges_done(e)) status = inset_edges_step(e);
    if (!status) status = inset_edges_result(e, 0, r);
    CHECK(!status, "%s: %s", name, inset_message(context));
    return status ? NULL : e;
}

static double distance(const float *a, const float *b, int64_t n)
{
    double apart = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        apart += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += (double)b[i] * b[i];
    }
    return sqrt(apart / size);
}

/* ---- beside PyTorch ----------------------------------------------------- */

static void check_exact(inset_context *context, inset_edges *e, const char *name, const float *want)
{
    const inset_verified_edge *found;
    size_t n;
    double rank, size = 0;
    if (!CHECK(
            !inset_edges_verify(e, 12, &found, &n, &rank), "%s: %s", name, inset_message(context)))
        return;
    for (size_t i = 0; i < n; i++) size = fmax(size, fabs((double)want[i]));
    for (size_t i = 0; i < n; i++)
        CHECK(fabs(found[i].exact - (double)want[i]) < 1e-4 * size, "%s: %s to %s: %g and not %g",
            name, found[i].source, found[i].destination, found[i].exact, (double)want[i]);
    CHECK(n == 12 && rank > -1 && rank <= 1, "%s: %zu were verified, rank %g", name, n, rank);
}

static void check_circuits(inset_context *context, inset_edges *e, const inset_edge_result *r,
    const char *name, const file_tensor *sizes, const float *want)
{
    unsigned char *kept = malloc((size_t)(r->sources * r->destinations));
    for (int64_t i = 0; i < sizes->shape[0]; i++) {
        int64_t size;
        double metric = 0;
        memcpy(&size, (const char *)sizes->data + 8 * i, sizeof size);
        inset_status status = inset_edges_choose(e, NULL, NULL, size, kept);
        if (!status) status = inset_edges_circuit(e, kept, &metric);
        CHECK(!status && fabs(metric - (double)want[i]) < 1e-4 * (1 + fabs((double)want[i])),
            "%s: a circuit of %lld edges: %g and not %g (%s)", name, (long long)size, metric,
            (double)want[i], status ? inset_message(context) : "");
    }
    free(kept);
}

/* As in make_edges.py. */
static const char paths[] =
    "m1->logits, input->a0.h1<v>->logits, a0.h0->a1.h0<k>->logits, a0.h1->m1->logits\n"
    "input->m0->a1.h0<v>->logits, a0.h0+a0.h1->a1.h0<q>+a1.h0<k>+a1.h0<v>->logits,\n"
    "input+m0->a1.h0<v>+m1->logits";

static void check_paths(
    inset_context *context, inset_edges *e, const char *name, const file_tensor *want)
{
    const inset_edge_effect *found;
    const float *numbers = want->data;
    size_t n = 0;
    double size = 0;
    CHECK(!inset_edges_patch(e, paths, 1, &found, &n), "%s: %s", name, inset_message(context));
    if (!CHECK((int64_t)n == want->shape[0], "%s: %zu paths", name, n)) return;
    for (size_t i = 0; i < n; i++) size = fmax(size, fabs((double)numbers[i]));
    for (size_t i = 0; i < n; i++)
        CHECK(fabs(found[i].effect - (double)numbers[i]) < 1e-4 * size, "%s: %s: %g and not %g",
            name, found[i].path, found[i].effect, (double)numbers[i]);
}

static void check_ablations(inset_context *context, inset_edges *e, const inset_edge_result *r,
    const char *name, const safetensors *file)
{
    static const char *const ways[] = {"zero",
        "mean:[[3,7,11,2,5,9],[8,1,4,2,6,13],[3,7,20,2,8,9],[8,5,4,2,6,13],[1,2,3,4,5,6,7,8]]",
        "other"};
    static const char *const kinds[] = {"zero", "mean", "circuits"};
    for (int k = 0; k < 3; k++) {
        CHECK(!inset_edges_ablate(e, ways[k]), "%s: %s", name, inset_message(context));
        check_circuits(context, e, r, name, safetensors_find(file, "sizes"),
            safetensors_find(file, kinds[k])->data);
    }
    CHECK(inset_edges_ablate(e, "none") == INSET_VALUE_ERROR, "%s: a way was made up", name);
    CHECK(
        inset_edges_ablate(e, "mean:[[3,7]]") == INSET_VALUE_ERROR, "%s: a mean of too few", name);
}

static void beside_pytorch(inset_context *context, const char *name)
{
    char path[256];
    safetensors *file = NULL;
    inset_edge_result r;
    const inset_attribution_options o = options_of();
    snprintf(path, sizeof path, "fixtures/edges/%s.safetensors", name);
    inset_model *model = open_model(context, name);
    inset_edges *e = model ? edges_of(context, model, name, &o, &r) : NULL;
    if (!e
        || !CHECK(!safetensors_open(context, path, &file), "%s: %s", name, inset_message(context)))
        return;
    const file_tensor *scores = safetensors_find(file, "scores");
    if (CHECK(scores->shape[0] == r.sources && scores->shape[1] == r.destinations,
            "%s: scores [%lld, %lld]", name, (long long)r.sources, (long long)r.destinations)) {
        const double apart = distance(r.mean, scores->data, r.sources * r.destinations);
        CHECK(apart < 1e-4, "%s: scores are %g apart", name, apart);
        check_exact(context, e, name, safetensors_find(file, "exact")->data);
        check_circuits(context, e, &r, name, safetensors_find(file, "sizes"),
            safetensors_find(file, "circuits")->data);
        check_paths(context, e, name, safetensors_find(file, "paths"));
        check_ablations(context, e, &r, name, file);
    }
    safetensors_close(file);
    inset_model_free(model);
}

/* ---- sums --------------------------------------------------------------- */

/* Mean scores of nodes, [points]; NULL and a failed check. */
static float *nodes_of(inset_context *context, inset_model *model, const char *name,
    inset_attribution_options o, const char *patch, const char *by, const char *layers, int64_t *n)
{
    inset_sweep *made = NULL;
    inset_sweep_result r;
    o.sweep.patch = patch, o.sweep.by = by, o.sweep.layers = layers;
    inset_status status = inset_attribution_create(model, &o, &made);
    while (!status && !inset_sweep_done(made)) status = inset_sweep_step(made);
    if (!status) status = inset_sweep_result_at(made, 0, &r);
    if (!CHECK(!status, "%s: %s: %s", name, patch, inset_message(context))) return NULL;
    *n = r.points;
    float *copy = malloc((size_t)r.points * sizeof *copy);
    memcpy(copy, r.mean, (size_t)r.points * sizeof *copy);
    inset_sweep_free(made);
    return copy;
}

/* The edges out of a writer add up to its score as a node. heads: theirs, too; behind a norm,
 * which is linear at the patched run for edges and as each run has it for nodes, only AtP's do. */
static void rows_add_up(inset_context *context, inset_model *model, const char *name,
    const inset_attribution_options *o, const inset_edge_result *r, bool heads)
{
    int64_t n[3] = {0}, next[3] = {0};
    float *nodes[3] = {nodes_of(context, model, name, *o, "resid_pre", "layer", "0", &n[0]),
        nodes_of(context, model, name, *o, "z", "layer,head", NULL, &n[1]),
        nodes_of(context, model, name, *o, "mlp_out", "layer", NULL, &n[2])};
    double size = 0;
    for (int64_t i = 0; i < r->sources * r->destinations; i++) size += fabs((double)r->mean[i]);
    for (int64_t u = 0; u < r->sources && nodes[0] && nodes[1] && nodes[2]; u++) {
        const char *writer = r->source_names[u];
        const int kind = *writer == 'i' ? 0 : *writer == 'a' ? 1 : 2;
        double sum = 0;
        for (int64_t v = 0; v < r->destinations; v++)
            sum += (double)r->mean[u * r->destinations + v];
        if (!CHECK(next[kind] < n[kind], "%s: no node for %s", name, writer)) break;
        const double node = (double)nodes[kind][next[kind]++];
        CHECK((kind == 1 && !heads) || fabs(sum - node) < 2e-5 * size,
            "%s: edges out of %s add up to %g, the node is %g", name, writer, sum, node);
    }
    for (int k = 0; k < 3; k++) free(nodes[k]);
}

static void all_and_none(inset_context *context, inset_edges *e, const inset_edge_result *r,
    const char *name, bool noise, bool steady)
{
    const size_t n = (size_t)(r->sources * r->destinations);
    unsigned char *kept = malloc(n);
    for (int all = 0; all < 2; all++) {
        double metric = 0, want = 0;
        const float *own = (all != 0) == noise ? r->clean : r->corrupt;
        for (int64_t i = 0; i < r->pairs; i++) want += (double)own[i] / (double)r->pairs;
        memset(kept, all, n);
        CHECK(!inset_edges_circuit(e, kept, &metric), "%s: %s", name, inset_message(context));
        /* to the bit where a row has the same bits beside any others */
        const double apart = fabs(metric - want), most = steady ? 0 : 1e-5 * fabs(want);
        CHECK(apart <= most || (float)metric == (float)want,
            "%s: %s edges kept: %.9g, the run is %.9g", name, all ? "all" : "no", metric, want);
    }
    free(kept);
}

static void properties(inset_context *context, const char *name)
{
    inset_model *model = open_model(context, name);
    const bool steady = model && strstr(inset_model_device(model), "AVX-512");
    for (int method = 0; model && method < 4; method++) {
        inset_attribution_options o = options_of();
        inset_edge_result r;
        o.steps = method == 1 ? 3 : 0;
        o.ends = method == 2;
        o.rules = method == 3 ? "relp" : NULL;
        o.sweep.direction = method % 2 ? "noise" : NULL;
        inset_edges *e = edges_of(context, model, name, &o, &r);
        if (!e) break;
        const bool norms = !strcmp(name, "gemma2") || !strcmp(name, "olmo2")
                           || !strcmp(name, "gemma3") || !strcmp(name, "olmo3");
        rows_add_up(context, model, name, &o, &r, !method || !norms);
        if (method < 2) all_and_none(context, e, &r, name, method % 2, steady);
        inset_edges_free(e);
    }
    inset_model_free(model);
}

/* Sharing and memory give the same scores: fewer pairs at once, and fewer rows of one. */
static void the_same_scores(inset_context *context, inset_model *model)
{
    static const struct {
        int no_share;
        size_t memory;
        const char *by, *what;
    } ways[] = {{0, 0, NULL, "plain"}, {1, 0, NULL, "without sharing"},
        {0, 170000, NULL, "in less memory"}, {0, 0, "position", "by position"},
        {0, 170000, "position", "a few positions at once"}};
    inset_edge_result r[5];
    inset_edges *e[5] = {NULL};
    for (int k = 0; k < 5; k++) {
        inset_attribution_options o = options_of();
        const int like = ways[k].by ? 3 : 0;
        o.steps = 2;
        o.sweep.no_share = ways[k].no_share;
        o.sweep.memory_limit = ways[k].memory;
        o.sweep.by = ways[k].by;
        e[k] = edges_of(context, model, "gpt2", &o, &r[k]);
        if (!e[k]) return;
        const double apart = distance(
            r[k].mean, r[like].mean, r[k].positions * r[k].sources * r[k].destinations);
        CHECK(apart < 1e-5, "scores are %g apart %s", apart, ways[k].what);
    }
    for (int k = 0; k < 5; k++) inset_edges_free(e[k]);
}

/* Ungrouped, a key-value head's edges are those of its query heads, and add up to it. */
static void ungrouped(inset_context *context, const char *name)
{
    inset_model *models[2] = {open_model(context, name), open_model_as(context, name, 1)};
    inset_edges *e[2] = {NULL};
    inset_edge_result r[2];
    for (int k = 0; k < 2 && models[k]; k++) {
        inset_attribution_options o = options_of();
        o.steps = 3;
        e[k] = edges_of(context, models[k], name, &o, &r[k]);
    }
    if (!e[0] || !e[1]) return;
    const int64_t group = r[0].heads / r[0].key_value_heads;
    CHECK(group > 1 && r[1].key_value_heads == r[1].heads, "%s: no heads share keys", name);
    float *sums = calloc((size_t)(r[0].sources * r[0].destinations), sizeof *sums);
    for (int64_t v = 0; v < r[1].destinations; v++) {
        char reader[64], *head = NULL, *part = NULL;
        snprintf(reader, sizeof reader, "%s", r[1].destination_names[v]);
        if ((part = strstr(reader, "<k>")) || (part = strstr(reader, "<v>"))) {
            const char kind = part[1];
            head = strchr(reader, 'h');
            const long shared = strtol(head + 1, NULL, 10) / group;
            sprintf(head, "h%ld<%c>", shared, kind);
        }
        for (int64_t to = 0; to < r[0].destinations; to++)
            for (int64_t u = 0; u < r[0].sources && !strcmp(reader, r[0].destination_names[to]);
                 u++)
                sums[u * r[0].destinations + to] += r[1].mean[u * r[1].destinations + v];
    }
    const double apart = distance(sums, r[0].mean, r[0].sources * r[0].destinations);
    CHECK(apart < 1e-5, "%s: ungrouped edges add up to scores %g apart", name, apart);
    all_and_none(context, e[1], &r[1], name, false, false);
    for (int k = 0; k < 2; k++) inset_edges_free(e[k]), inset_model_free(models[k]);
    free(sums);
}

/* 16 bits: weights are widened where products read them on the device. Beside the same file run in
 * fp32, whose scores are held against PyTorch elsewhere. */
static void sixteen_bits(inset_context *context)
{
    inset_model *models[2] = {open_model(context, "llama_bf16"), NULL};
    inset_model_options o = INSET_MODEL_OPTIONS;
    o.device = getenv("INSET_TEST_DEVICE") ? getenv("INSET_TEST_DEVICE") : "cpu";
    o.dtype = "f32";
    CHECK(!inset_model_open(context, "fixtures/llama_bf16", &o, &models[1]), "%s",
        inset_message(context));
    for (int steps = 0; steps < 4 && models[0] && models[1]; steps += 3) {
        inset_attribution_options given = options_of();
        inset_edge_result r[2];
        inset_edges *e[2];
        given.steps = steps;
        for (int k = 0; k < 2; k++)
            e[k] = edges_of(context, models[k], "llama_bf16", &given, &r[k]);
        if (!e[0] || !e[1]) break;
        const double apart = distance(r[0].mean, r[1].mean, r[0].sources * r[0].destinations);
        CHECK(apart > 0 && apart < 5e-2, "scores in 16 bits are %g from those in 32", apart);
        for (int k = 0; k < 2; k++) inset_edges_free(e[k]);
    }
    for (int k = 0; k < 2; k++) inset_model_free(models[k]);
}

/* So little memory that not one row of differences fits is refused before anything runs. */
static void no_room(inset_context *context, inset_model *model)
{
    inset_attribution_options o = options_of();
    inset_edges *e = NULL;
    o.sweep.memory_limit = 2000;
    CHECK(!inset_edges_create(model, &o, 0, &e), "%s", inset_message(context));
    CHECK(inset_edges_step(e) == INSET_NO_MEMORY
              && strstr(inset_message(context), "all writers' differences"),
        "%s", inset_message(context));
    inset_edges_free(e);
}

/* Two metrics in one run are each what it is alone. */
static void two_metrics(inset_context *context, inset_model *model)
{
    static const char *const both[] = {"logit_diff:3,7", "probability:5", NULL};
    inset_attribution_options o = options_of();
    inset_edge_result alone, together;
    o.steps = 2;
    o.sweep.metrics = both;
    inset_edges *e = edges_of(context, model, "gpt2", &o, &together);
    for (size_t m = 0; m < 2 && e; m++) {
        const char *const one[] = {both[m], NULL};
        o.sweep.metrics = one;
        inset_edges *single = edges_of(context, model, "gpt2", &o, &alone);
        if (!single || !CHECK(!inset_edges_result(e, m, &together), "%s", inset_message(context)))
            break;
        const double apart = distance(
            together.mean, alone.mean, alone.sources * alone.destinations);
        CHECK(apart < 1e-5, "%s beside another metric: scores %g apart", both[m], apart);
        inset_edges_free(single);
    }
    inset_edges_free(e);
}

/* A matrix a position: they add up to the plain one. */
static void by_position(inset_context *context, inset_model *model)
{
    inset_attribution_options o = options_of();
    inset_edge_result plain, apart;
    inset_edges *e = edges_of(context, model, "gpt2", &o, &plain);
    o.sweep.by = "position";
    inset_edges *by = edges_of(context, model, "gpt2", &o, &apart);
    if (!e || !by || !CHECK(apart.positions == 6, "%lld positions", (long long)apart.positions))
        return;
    const int64_t n = plain.sources * plain.destinations;
    float *sums = calloc((size_t)n, sizeof *sums);
    double early = 0;
    for (int64_t i = 0; i < apart.positions * n; i++) sums[i % n] += apart.mean[i];
    for (int64_t i = 0; i < n; i++) early += fabs((double)apart.mean[i]);
    CHECK(distance(sums, plain.mean, n) < 1e-5, "positions add up to scores %g apart",
        distance(sums, plain.mean, n));
    CHECK(early == 0, "before the first token that differs an edge has a score");
    const inset_verified_edge *found;
    size_t k;
    double rank;
    CHECK(
        inset_edges_verify(by, 3, &found, &k, &rank) == INSET_USAGE_ERROR, "verified by position");
    inset_edges_free(e);
    inset_edges_free(by);
    free(sums);
}

/* ---- files and choices -------------------------------------------------- */

static void files(inset_context *context, inset_model *model)
{
    char path[] = "/tmp/test_edges_XXXXXX";
    const inset_attribution_options o = options_of();
    inset_edge_result r;
    inset_edges *e = edges_of(context, model, "gpt2", &o, &r);
    const int file = mkstemp(path);
    if (!e || !CHECK(file >= 0, "no file can be made")) return;
    close(file);
    const size_t n = (size_t)(r.sources * r.destinations);
    float *read = calloc(n, sizeof *read);
    CHECK(!inset_edges_write(e, path, NULL) && !inset_edges_read(e, path, read), "%s",
        inset_message(context));
    CHECK(!memcmp(read, r.mean, n * sizeof *read), "scores read are not those written");
    inset_model *other = open_model(context, "llama");
    inset_edges *of_other = NULL;
    if (other && !inset_edges_create(other, &o, 0, &of_other))
        CHECK(inset_edges_read(of_other, path, read) == INSET_SHAPE_ERROR,
            "scores of another model were taken: %s", inset_message(context));
    CHECK(inset_edges_read(e, "fixtures/gpt2/model.safetensors", read) == INSET_FILE_ERROR,
        "weights were taken for scores: %s", inset_message(context));
    inset_model_free(other);
    inset_edges_free(e);
    unlink(path);
    free(read);
}

/* Ended after its first pair and taken up again, it gives the same bytes; other options are not
 * taken up, nor is a damaged file. */
static void resumed(inset_context *context, inset_model *model)
{
    char path[] = "/tmp/test_edges_state_XXXXXX";
    const int made = mkstemp(path);
    if (!CHECK(made >= 0, "no file can be made")) return;
    close(made);
    unlink(path);
    inset_attribution_options o = options_of();
    inset_edge_result plain, again;
    inset_edges *whole = NULL, *part = NULL, *rest = NULL, *other = NULL;
    o.steps = 400; /* a pair is a step then */
    whole = edges_of(context, model, "gpt2", &o, &plain);
    o.sweep.state = path;
    CHECK(!inset_edges_create(model, &o, 1, &part) && !inset_edges_step(part)
              && !inset_edges_done(part),
        "%s", inset_message(context));
    inset_edges_free(part);
    CHECK(inset_edges_create(model, &o, 1, &part) == INSET_FILE_ERROR, "began anew over a state");
    o.sweep.resume = 1;
    CHECK(inset_edges_create(model, &o, 0, &other) == INSET_FILE_ERROR, "took up other options");
    o.steps = 399;
    CHECK(inset_edges_create(model, &o, 1, &other) == INSET_FILE_ERROR, "took up other steps");
    o.steps = 400;
    CHECK(!inset_edges_create(model, &o, 1, &rest), "%s", inset_message(context));
    CHECK(!inset_edges_step(rest) && inset_edges_done(rest) && !inset_edges_result(rest, 0, &again),
        "%s", inset_message(context));
    const int64_t n = plain.sources * plain.destinations;
    CHECK(!memcmp(plain.mean, again.mean, (size_t)n * sizeof *plain.mean)
              && plain.clean[0] == again.clean[0] && plain.corrupt[1] == again.corrupt[1],
        "resumed scores are %g apart", distance(again.mean, plain.mean, n));
    FILE *file = fopen(path, "r+b");
    if (CHECK(file && !fseek(file, -5, SEEK_END) && fputc(1, file) != EOF, "no state was kept"))
        fclose(file);
    CHECK(inset_edges_create(model, &o, 1, &other) == INSET_FILE_ERROR, "took up a damaged file");
    inset_edges_free(whole);
    inset_edges_free(rest);
    unlink(path);
}

/* Greedy choices always lead to the logits: none is lost by pruning, and the metric moves. */
static void choices(inset_context *context, inset_model *model)
{
    const inset_attribution_options o = options_of();
    inset_edge_result r;
    inset_edges *e = edges_of(context, model, "gpt2", &o, &r);
    if (!e) return;
    const int64_t all = r.sources * r.destinations;
    unsigned char *kept = malloc((size_t)all);
    static const char *const ways[] = {"score", "abs", "greedy"};
    for (int w = 0; w < 3; w++)
        for (int64_t size = 0; size < 30; size += 7) {
            int64_t n = 0, worst = -1, best = -1;
            CHECK(!inset_edges_choose(e, NULL, ways[w], size, kept), "%s", inset_message(context));
            for (int64_t i = 0; i < all; i++) {
                n += kept[i];
                const bool there = inset_edge_exists(e, i / r.destinations, i % r.destinations);
                CHECK(!kept[i] || there, "%s: what is no edge was kept", ways[w]);
                const double key = w ? fabs((double)r.mean[i]) : (double)r.mean[i];
#define KEY(j) (w ? fabs((double)r.mean[j]) : (double)r.mean[j])
                if (kept[i] && (worst < 0 || key < KEY(worst))) worst = i;
                if (there && !kept[i] && (best < 0 || key > KEY(best))) best = i;
            }
            CHECK(n == size, "%s: %lld of %lld edges", ways[w], (long long)n, (long long)size);
            if (size && w < 2)
                CHECK(KEY(worst) >= KEY(best), "%s: a weaker edge was kept", ways[w]);
#undef KEY
        }
    CHECK(inset_edges_choose(e, NULL, "size", 3, kept) == INSET_VALUE_ERROR, "a way was made up");
    CHECK(inset_edges_choose(e, NULL, NULL, -1, kept) == INSET_VALUE_ERROR, "fewer than no edges");
    free(kept);
    inset_edges_free(e);
}

static void refused(inset_context *context, inset_model *model, const inset_attribution_options *o,
    inset_status want, const char *part)
{
    inset_edges *e = NULL;
    const inset_status status = inset_edges_create(model, o, 0, &e);
    CHECK(status == want && !e && strstr(inset_message(context), part),
        "expected %s with '%s', found %s", inset_status_name(want), part, inset_message(context));
    inset_edges_free(e);
}

static void refusals(inset_context *context, inset_model *model)
{
    static const char *const ranks[] = {"rank:3", NULL};
    inset_attribution_options o = options_of();
    o.sweep.patch = "z";
    refused(context, model, &o, INSET_USAGE_ERROR, "leave out --patch");
    o = options_of(), o.sweep.source = "zero";
    refused(context, model, &o, INSET_USAGE_ERROR, "leave out --source");
    o = options_of(), o.qk = 1;
    refused(context, model, &o, INSET_USAGE_ERROR, "AtP*");
    o = options_of(), o.steps = 2, o.ends = 1;
    refused(context, model, &o, INSET_USAGE_ERROR, "two methods");
    o = options_of(), o.sweep.metrics = ranks;
    refused(context, model, &o, INSET_VALUE_ERROR, "no gradient");
    o = options_of(), o.sweep.corrupt.text = "[[3,7,20,2,8],[8,5,4,2,6,13]]";
    refused(context, model, &o, INSET_VALUE_ERROR, "the clean prompt has 6 tokens");
    inset_model *bert = NULL; /* whose stream is normed behind each addition */
    if (CHECK(!inset_model_open(context, "fixtures/bert", NULL, &bert), "no bert")) {
        o = options_of();
        refused(context, bert, &o, INSET_UNKNOWN_SITE, "bert norms it in layer 0");
        inset_model_free(bert);
    }
    o = options_of();
    inset_edges *e = NULL;
    const inset_verified_edge *found;
    size_t n;
    double rank;
    CHECK(!inset_edges_create(model, &o, 0, &e), "%s", inset_message(context));
    CHECK(inset_edges_verify(e, 3, &found, &n, &rank) == INSET_USAGE_ERROR
              && inset_edges_write(e, "/tmp/x.safetensors", NULL) == INSET_USAGE_ERROR,
        "edges that are not done were verified or written");
    inset_edges_free(e);
}

/* ---- memory ------------------------------------------------------------- */

static inset_status everything(inset_model *model, unsigned char *kept)
{
    inset_attribution_options o = options_of();
    inset_edges *e = NULL;
    const inset_verified_edge *found;
    size_t n;
    double rank, metric;
    o.steps = 2;
    o.sweep.clean.text = "[[3,7,11]]", o.sweep.corrupt.text = "[[3,9,11]]";
    inset_status status = inset_edges_create(model, &o, 1, &e);
    while (!status && !inset_edges_done(e)) status = inset_edges_step(e);
    if (!status) status = inset_edges_verify(e, 2, &found, &n, &rank);
    if (!status) status = inset_edges_choose(e, NULL, "greedy", 9, kept);
    if (!status) status = inset_edges_circuit(e, kept, &metric);
    inset_edges_free(e);
    return status;
}

/* An allocation that fails, early or late: NO_MEMORY, nothing is left behind, and the next try
 * works. */
static void allocations_may_fail(void)
{
    world w;
    inset_context *context = world_start(&w);
    inset_model *model = open_model(context, "llama");
    static unsigned char kept[4096];
    if (!model || !CHECK(!everything(model, kept), "%s", inset_message(context))) return;
    const int64_t live = w.memory.live;
    int64_t tries = 0;
    for (int64_t n = 1;; n += 1 + n / 25, tries++) {
        w.memory.fail_at = w.memory.calls + n;
        const inset_status status = everything(model, kept);
        const bool failed = w.memory.calls >= w.memory.fail_at;
        w.memory.fail_at = 0;
        CHECK(failed ? status == INSET_NO_MEMORY || status == INSET_OK : status == INSET_OK,
            "allocation %lld: %s", (long long)n, inset_status_name(status));
        CHECK(w.memory.live <= live + 4, "allocation %lld: %lld blocks are left", (long long)n,
            (long long)(w.memory.live - live));
        if (!failed) break;
    }
    CHECK(tries > 50, "only %lld allocations were tried", (long long)tries);
    world_end(&w, "failing allocations");
}

int main(void)
{
    static const char *const beside[] = {"gpt2", "gpt_neox", "llama", "phi3", "gemma2", "olmo2",
        "gemma", "gemma3", "olmo3", "smollm3", "gpt_neo", "stablelm", "starcoder2", "bloom",
        "granite", "olmo", "opt", "gptj", "phi", "stablelm_parallel", "cohere", "cohere2",
        "mixtral", "qwen3_moe", "gpt_oss"},
                             *const families[] = {"gpt2", "gpt_neox", "gpt_neox_serial", "llama",
                                 "llama3", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "olmo2",
                                 "gemma", "gemma3", "olmo3", "smollm3", "gpt_neo", "stablelm",
                                 "starcoder2", "bloom", "granite", "olmo", "opt", "gptj", "phi",
                                 "stablelm_parallel", "cohere", "cohere2", "mixtral", "qwen3_moe",
                                 "gpt_oss"},
                             *const grouped[] = {"llama", "qwen3", "gemma2", "phi3"};
    inset_context *context = NULL;
    if (!CHECK(!inset_context_create(NULL, &context), "no context")) return test_result();
    if (!device_answers(context)) return TEST_SKIP;
    for (size_t i = 0; i < sizeof beside / sizeof *beside; i++) beside_pytorch(context, beside[i]);
    /* what depends on the device alone is tried on all; the rest is slow on the stand-in */
    const bool cpu = !getenv("INSET_TEST_DEVICE");
    for (size_t i = 0; i < sizeof families / sizeof *families; i += cpu ? 1 : 4)
        properties(context, families[i]);
    for (size_t i = 0; i < sizeof grouped / sizeof *grouped; i++) ungrouped(context, grouped[i]);
    inset_model *model = open_model(context, "gpt2");
    if (model) {
        the_same_scores(context, model);
        by_position(context, model);
        no_room(context, model);
        two_metrics(context, model);
        if (cpu) files(context, model);
        if (cpu) resumed(context, model);
        if (cpu) choices(context, model);
        refusals(context, model);
    }
    sixteen_bits(context);
    if (cpu) allocations_may_fail();
    inset_context_free(context);
    return test_result();
}
