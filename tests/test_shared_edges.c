/* test_shared_edges.c: one attribution of edges that several run: chunks of pairs carried between
 * processes, shards that are merged, an interruption that is resumed.
 *
 *   reference    the same edges stepped by one alone, cut alike; and, but for rounding, edges that
 *                nobody shares, whose numbers test_edges.c holds against PyTorch
 *   carried      chunks taken, run by others (some twice) and put back in random order, some twice,
 *                some given back, some damaged; the sums are the same to the bit, as the state file
 *                has them in double, before they are divided
 *   ahead        no chunk is given out further ahead than may wait
 *   resumed      stopped after each number of chunks, from the state file
 *   shards       each alone, stopped and resumed, merged in random order: the same file
 *   pairs        a circuit's and a path's effects pair by pair are those of the whole
 *   refusals     parts that are missing, twice, another's, a sweep's, cut off, or changed in a
 *                byte; another's cut; what a shard and merged edges have not got
 *   failures     each allocation of a merge fails in turn */
#include "failing_allocator.h"
#include "test.h"
#include "world.h"

#include <math.h>
#include <unistd.h>

enum { PAIRS = 150, LENGTH = 7, CASES = 6, MOST_SHARDS = 5, OTHERS = 2 };

typedef struct own {
    inset_context *context;
    inset_model *model;
    inset_edges *edges;
} own;

typedef struct wanted {
    inset_attribution_options o;
    int per_pair;
    const char *model;
} wanted;

static uint64_t state_of_random = 11;
static int64_t below(int64_t n)
{
    state_of_random = state_of_random * 6364136223846793005u + 1442695040888963407u;
    return (int64_t)((state_of_random >> 33) % (uint64_t)n);
}

static const char *const two[] = {"logit_diff:11,12", "logit:7", NULL}, *const one[] = {
                                                                            "logit:7", NULL};
static int64_t clean[PAIRS * LENGTH], corrupt[PAIRS * LENGTH], lengths[PAIRS];

/* Pairs of several lengths that differ in a token. */
static void make_wanted(wanted *w, int kind)
{
    size_t n = 0;
    for (int i = 0; i < PAIRS; i++) {
        lengths[i] = kind % 2 ? LENGTH : 3 + below(LENGTH - 2);
        const int64_t other = below(lengths[i]);
        for (int64_t k = 0; k < lengths[i]; k++, n++)
            clean[n] = below(30), corrupt[n] = k == other ? 31 : clean[n];
    }
    *w = (wanted){.o = INSET_ATTRIBUTION_OPTIONS,
        .per_pair = kind == 2,
        .model = kind % 3 ? "gpt2" : "llama"};
    w->o.sweep.clean = (inset_prompts){.count = PAIRS, .lengths = lengths, .tokens = clean};
    w->o.sweep.corrupt = (inset_prompts){.count = PAIRS, .lengths = lengths, .tokens = corrupt};
    w->o.sweep.metrics = kind < 3 ? one : two;
    w->o.sweep.by = kind == 4 ? "position" : NULL;
    w->o.sweep.version = "v1";
    w->o.sweep.shared = 1;
    w->o.steps = kind == 1 || kind == 2 ? 3 : 0;
    w->o.ends = kind == 3;
}

static own open_own(const char *model)
{
    own o = {0};
    char folder[64];
    inset_model_options on = INSET_MODEL_OPTIONS;
    on.device = "cpu";
    snprintf(folder, sizeof folder, "fixtures/%s", model);
    if (CHECK(!inset_context_create(NULL, &o.context), "no context"))
        CHECK(!inset_model_open(o.context, folder, &on, &o.model), "%s", inset_message(o.context));
    return o;
}

static inset_status create(own *in, const wanted *w)
{
    return inset_edges_create(in->model, &w->o, w->per_pair, &in->edges);
}

static inset_status run_all(inset_edges *e)
{
    inset_status status = INSET_OK;
    while (!status && !inset_edges_done(e)) status = inset_edges_step(e);
    return status;
}

static void forget(own *in)
{
    inset_edges_free(in->edges);
    in->edges = NULL;
}

static char folder[] = "/tmp/inset-edges-XXXXXX";
static const char *in_folder(const char *name)
{
    static char path[4][256];
    static int at;
    char *out = path[at++ % 4];
    snprintf(out, 256, "%s/%s", folder, name);
    return out;
}

static void same_file(const char *reference, const char *name, const char *what)
{
    size_t n = 0, m = 0;
    char *a = test_read(in_folder(reference), &n), *b = test_read(in_folder(name), &m);
    CHECK(a && b && n == m && !memcmp(a, b, n), "%s: other bytes than the reference (%zu, %zu)",
        what, n, m);
    free(a);
    free(b);
}

static void close_own(own *o)
{
    forget(o);
    inset_model_free(o->model);
    inset_context_free(o->context);
    *o = (own){0};
}

/* ---- reference ----------------------------------------------------------- */

/* Into one of four places, which are used in turn. */
static wanted with_state(const wanted *w, const char *name)
{
    wanted made = *w;
    remove(made.o.sweep.state = in_folder(name));
    return made;
}

static int copy_file(const char *from, const char *to)
{
    char command[600];
    snprintf(command, sizeof command, "cp %s %s", in_folder(from), in_folder(to));
    return system(command);
}

static void make_reference(own *in, const wanted *w)
{
    wanted alone = *w;
    own other = *in;
    inset_edge_result a, b;
    inset_sweep_progress is = INSET_SWEEP_PROGRESS;
    alone.o.sweep.shared = 0;
    const wanted kept = with_state(w, "reference.state");
    NEED(!create(in, &kept) && !run_all(in->edges)
             && !copy_file("reference.state", "reference.sums")
             && !inset_edges_write(in->edges, in_folder("reference"), "command")
             && !inset_edges_progress_of(in->edges, &is),
        "%s", inset_message(in->context));
    CHECK(is.done == PAIRS && is.patches == PAIRS, "%lld of %lld pairs", (long long)is.done,
        (long long)is.patches);
    NEED(!create(&other, &alone) && !run_all(other.edges), "%s", inset_message(in->context));
    for (size_t m = 0; w->o.sweep.metrics[m]; m++) {
        NEED(!inset_edges_result(in->edges, m, &a) && !inset_edges_result(other.edges, m, &b),
            "no result");
        double most = 0, far = 0;
        for (int64_t i = 0; i < a.positions * a.sources * a.destinations; i++) {
            most = fmax(most, fabs((double)b.mean[i]));
            far = fmax(far, fabs((double)a.mean[i] - (double)b.mean[i]));
        }
        CHECK(most > 0 && far < 1e-5 * most, "%g from %g of edges that are not shared", far, most);
        for (int64_t i = 0; i < PAIRS; i++)
            CHECK(fabs(a.clean[i] - b.clean[i]) < 1e-4 && fabs(a.corrupt[i] - b.corrupt[i]) < 1e-4,
                "pair %lld: metrics", (long long)i);
    }
    forget(&other);
    forget(in);
}

/* ---- carried ------------------------------------------------------------- */

static void put_damaged(own *in, const void *data, size_t size)
{
    char *bytes = malloc(size);
    memcpy(bytes, data, size);
    bytes[below((int64_t)size)] ^= 1;
    CHECK(inset_edges_put(in->edges, bytes, size) == INSET_VALUE_ERROR, "a damaged record");
    CHECK(inset_edges_put(in->edges, data, size - 1) == INSET_VALUE_ERROR, "a short record");
    CHECK(inset_edges_put(in->edges, bytes, 3) == INSET_VALUE_ERROR, "three bytes");
    free(bytes);
}

typedef struct kept_record {
    char *bytes;
    size_t size;
} kept_record;

static void put_kept(own *in, kept_record *kept, int *n, int64_t which)
{
    for (int again = 0; again < 2; again++)
        CHECK(!inset_edges_put(in->edges, kept[which].bytes, kept[which].size), "not taken");
    free(kept[which].bytes);
    kept[which] = kept[--*n];
}

static void carried(own *in, own *others, const wanted *w)
{
    enum { MOST_KEPT = 8 };
    inset_cut cut;
    kept_record kept[MOST_KEPT];
    int n = 0, chunks = 0;
    const wanted kept_state = with_state(w, "carried.state");
    NEED(!create(in, &kept_state) && !inset_edges_cut(in->edges, &cut), "%s",
        inset_message(in->context));
    for (int i = 0; i < OTHERS; i++)
        NEED(!create(&others[i], w) && !inset_edges_cut_as(others[i].edges, &cut), "%s",
            inset_message(others[i].context));
    for (int64_t chunk; (chunk = inset_edges_take(in->edges)) >= 0;) {
        const void *data;
        size_t size;
        own *by = &others[below(OTHERS)];
        if (below(4) == 0) {
            inset_edges_give_back(in->edges, chunk);
            continue;
        }
        for (int64_t again = below(2); again >= 0; again--)
            NEED(!inset_edges_run_chunk(by->edges, chunk, &data, &size), "%s",
                inset_message(by->context));
        if (below(4) == 0) put_damaged(in, data, size);
        chunks++;
        if (n == MOST_KEPT) put_kept(in, kept, &n, below(n));
        kept[n].bytes = memcpy(malloc(size), data, size);
        kept[n++].size = size;
        if (below(2)) put_kept(in, kept, &n, below(n));
    }
    while (n) put_kept(in, kept, &n, below(n));
    CHECK(chunks > 3, "%d chunks are too few to carry", chunks);
    CHECK(inset_edges_done(in->edges), "all were put and it is not done");
    same_file("reference.sums", "carried.state", "the sums");
    inset_status status = inset_edges_write(in->edges, in_folder("carried"), "command");
    CHECK(!status, "%s", inset_message(in->context));
    same_file("reference", "carried", "carried");
    for (int i = 0; i < OTHERS; i++) forget(&others[i]);
    forget(in);
}

/* The second chunk is there and the first is not, when the process ends: neither counts as done. */
static void ends_early(own *in, own *other, const wanted *w)
{
    wanted mine = with_state(w, "early.state");
    char state[256];
    inset_cut cut;
    const void *data;
    size_t size;
    snprintf(state, sizeof state, "%s", mine.o.sweep.state);
    mine.o.sweep.state = state;
    NEED(!create(in, &mine) && !inset_edges_cut(in->edges, &cut) && !create(other, w)
             && !inset_edges_cut_as(other->edges, &cut),
        "%s", inset_message(in->context));
    CHECK(inset_edges_take(in->edges) == 0 && inset_edges_take(in->edges) == 1, "two chunks");
    NEED(!inset_edges_run_chunk(other->edges, 1, &data, &size)
             && !inset_edges_put(in->edges, data, size),
        "%s", inset_message(other->context));
    forget(in);
    forget(other);
    mine.o.sweep.resume = 1;
    NEED(!create(in, &mine) && !run_all(in->edges)
             && !inset_edges_write(in->edges, in_folder("early"), "command"),
        "%s", inset_message(in->context));
    same_file("reference", "early", "ended early");
    forget(in);
}

/* ---- resumed ------------------------------------------------------------- */

static void resumed(own *in, const wanted *w)
{
    wanted mine = *w;
    char state[256];
    snprintf(state, sizeof state, "%s", in_folder("state"));
    mine.o.sweep.state = state;
    for (int steps = 1;; steps++) {
        NEED(!create(in, &mine), "%s", inset_message(in->context));
        inset_status status = INSET_OK;
        for (int i = 0; i < steps && !status && !inset_edges_done(in->edges); i++)
            status = inset_edges_step(in->edges);
        CHECK(!status, "%s", inset_message(in->context));
        const bool whole = inset_edges_done(in->edges);
        forget(in);
        mine.o.sweep.resume = 1;
        if (whole) break;
    }
    NEED(!create(in, &mine) && inset_edges_done(in->edges)
             && !inset_edges_write(in->edges, in_folder("resumed"), "command"),
        "%s", inset_message(in->context));
    CHECK(access(state, F_OK), "the state file is still there");
    same_file("reference", "resumed", "resumed");
    forget(in);
}

/* ---- shards -------------------------------------------------------------- */

static char part_names[MOST_SHARDS][256];

static void run_shard(own *in, const wanted *w, int64_t shard, int64_t shards, bool stops)
{
    wanted mine = *w;
    mine.o.sweep.shard = shard;
    mine.o.sweep.shards = shards;
    mine.o.sweep.state = part_names[shard - 1];
    mine.o.sweep.command = "command";
    for (int again = 0; again < 2; again++, mine.o.sweep.resume = 1) {
        NEED(!create(in, &mine), "%s", inset_message(in->context));
        inset_status status = INSET_OK;
        for (int i = 0; !status && !inset_edges_done(in->edges) && (again || !stops || i < 1); i++)
            status = inset_edges_step(in->edges);
        CHECK(!status, "%s", inset_message(in->context));
        inset_edge_result r;
        CHECK(inset_edges_result(in->edges, 0, &r) == INSET_USAGE_ERROR, "a shard has scores");
        CHECK(inset_edges_write(in->edges, in_folder("one"), NULL) == INSET_USAGE_ERROR
                  && strstr(inset_message(in->context), "inset_edges_merge puts them together"),
            "a shard was written as a whole");
        forget(in);
        if (!stops) return;
    }
}

static void make_shards(own *in, const wanted *w, int64_t shards, bool stops)
{
    for (int64_t i = 1; i <= shards; i++) {
        snprintf(part_names[i - 1], sizeof part_names[0], "%s/part%lld", folder, (long long)i);
        remove(part_names[i - 1]);
        run_shard(in, w, i, shards, stops);
    }
}

static inset_status merge(inset_context *context, int64_t shards, int64_t from, inset_edges **out)
{
    const char *parts[MOST_SHARDS];
    for (int64_t i = 0; i < shards; i++) parts[i] = part_names[(i + from) % shards];
    return inset_edges_merge(context, (size_t)shards, parts, out);
}

static void sharded(own *in, const wanted *w)
{
    const int64_t shards = 1 + below(MOST_SHARDS);
    inset_edges *whole = NULL;
    make_shards(in, w, shards, below(2));
    inset_status status = merge(in->context, shards, below(shards), &whole);
    if (!status) status = inset_edges_write(whole, in_folder("merged"), NULL);
    if (!CHECK(!status, "%s", inset_message(in->context))) return;
    same_file("reference", "merged", "merged");
    double number;
    inset_cut cut;
    unsigned char kept[1] = {1};
    CHECK(inset_edges_step(whole) == INSET_USAGE_ERROR
              && inset_edges_cut(whole, &cut) == INSET_USAGE_ERROR
              && inset_edges_circuit(whole, kept, &number) == INSET_USAGE_ERROR
              && inset_edges_ablate(whole, NULL) == INSET_USAGE_ERROR
              && strstr(inset_message(in->context), "merged from parts"),
        "merged edges have no model: %s", inset_message(in->context));
    inset_edges_free(whole);
}

/* ---- ahead --------------------------------------------------------------- */

/* Many pairs a chunk each: 64 are given out before the first is back. */
static void ahead(own *in)
{
    enum { MANY = 3000, LONG = 40, WAITING = 64 };
    int64_t *tokens = malloc(2 * MANY * LONG * sizeof *tokens),
            *sizes = malloc(MANY * sizeof *sizes);
    for (int i = 0; i < MANY; i++) sizes[i] = LONG;
    for (int i = 0; i < 2 * MANY * LONG; i++) tokens[i] = below(30);
    wanted w = {.o = INSET_ATTRIBUTION_OPTIONS};
    w.o.sweep.clean = (inset_prompts){.count = MANY, .lengths = sizes, .tokens = tokens};
    w.o.sweep.corrupt = (inset_prompts){
        .count = MANY, .lengths = sizes, .tokens = tokens + MANY * LONG};
    w.o.sweep.metrics = one;
    w.o.sweep.shared = 1;
    w.o.steps = 100;
    inset_status made = create(in, &w);
    NEED(!made, "%s: %s", inset_status_name(made), inset_message(in->context));
    int n = 0;
    int64_t chunk, last = -1;
    while ((chunk = inset_edges_take(in->edges)) >= 0)
        n++, CHECK(chunk > last, "order"), last = chunk;
    CHECK(n == WAITING, "%d chunks were given out", n);
    inset_edges_give_back(in->edges, 7);
    inset_edges_give_back(in->edges, -1);
    inset_edges_give_back(in->edges, 1 << 30);
    CHECK(inset_edges_take(in->edges) == 7 && inset_edges_take(in->edges) < 0, "given back");
    forget(in);
    free(tokens);
    free(sizes);
}

/* ---- pair by pair -------------------------------------------------------- */

static void pair_by_pair(own *in)
{
    enum { FEW = 4 };
    static const char text[] = "*->logits, a0.h1->m1";
    wanted w;
    make_wanted(&w, 1);
    w.o.sweep.clean.count = w.o.sweep.corrupt.count = FEW;
    const inset_edge_effect *found;
    const char *const *names;
    size_t n, named;
    inset_edge_result r;
    NEED(!create(in, &w) && !inset_edges_patch(in->edges, text, 0, &found, &n)
             && !inset_edges_paths(in->edges, text, 0, &names, &named)
             && !inset_edges_result(in->edges, 0, &r),
        "%s", inset_message(in->context));
    CHECK(named == n, "%zu names of %zu", named, n);
    double *sum = calloc(n, sizeof *sum), *effects = calloc(n, sizeof *effects), whole, part,
           mean = 0;
    unsigned char *kept = calloc((size_t)(r.sources * r.destinations), 1);
    for (int64_t i = 0; i < r.sources * r.destinations; i++) kept[i] = below(2);
    NEED(!inset_edges_circuit(in->edges, kept, &whole), "%s", inset_message(in->context));
    for (int64_t pair = 0; pair < FEW; pair++) {
        NEED(!inset_edges_patch_pair(in->edges, text, 0, pair, 0, n, effects)
                 && !inset_edges_circuit_pair(in->edges, kept, pair, &part),
            "%s", inset_message(in->context));
        mean += part / FEW;
        for (size_t i = 0; i < n; i++) sum[i] += effects[i] / FEW;
        NEED(!inset_edges_patch_pair(in->edges, text, 0, pair, n - 1, 1, effects), "%s",
            inset_message(in->context));
    }
    CHECK(fabs(mean - whole) < 1e-9 * (1 + fabs(whole)), "circuit: %g of %g", mean, whole);
    for (size_t i = 0; i < n; i++)
        CHECK(!strcmp(names[i], found[i].path) && fabs(sum[i] - found[i].effect) < 1e-9,
            "%s: %g of %g", names[i], sum[i], found[i].effect);
    CHECK(
        inset_edges_circuit_pair(in->edges, kept, FEW, &part) == INSET_INDEX_ERROR, "pair 4 of 4");
    CHECK(inset_edges_patch_pair(in->edges, text, 0, -1, 0, n, effects) == INSET_INDEX_ERROR
              && inset_edges_patch_pair(in->edges, text, 0, 0, 1, n, effects) == INSET_INDEX_ERROR,
        "a pair or a path that is not there");
    CHECK(
        inset_edges_patch_pair(in->edges, "m0->a0.h0<q>", 0, 0, 0, 1, effects) == INSET_VALUE_ERROR
            && inset_edges_paths(in->edges, "m0->m1->logits", 0, &names, &n) == INSET_USAGE_ERROR,
        "no edge; a path that is not frozen");
    free(sum);
    free(effects);
    free(kept);
    forget(in);
}

/* ---- refusals ------------------------------------------------------------ */

static void refused(inset_context *c, size_t n, const char *const *parts,
    inset_status wanted_status, const char *says)
{
    inset_edges *out = NULL;
    const inset_status status = inset_edges_merge(c, n, parts, &out);
    CHECK(status == wanted_status && !out && strstr(inset_message(c), says),
        "'%s' was expected, found %s: %s", says, inset_status_name(status), inset_message(c));
    inset_edges_free(out);
}

static void write_bytes(const char *path, const char *bytes, size_t n)
{
    FILE *file = fopen(path, "wb");
    NEED(file, "%s cannot be written", path);
    fwrite(bytes, 1, n, file);
    fclose(file);
}

/* A part cut off or changed anywhere is refused: it is no part, or chunks are missing. */
static void refuses_damage(inset_context *c)
{
    size_t n = 0;
    char *bytes = test_read(part_names[0], &n), *own = malloc(n);
    char path[256];
    snprintf(path, sizeof path, "%s", in_folder("damaged"));
    const char *parts[] = {path, part_names[1], part_names[2]};
    for (int i = 0; i < 60; i++) {
        inset_edges *out = NULL;
        const size_t at = i < 40 ? (size_t)below(400) : (size_t)below((int64_t)n);
        memcpy(own, bytes, n);
        const bool cut = i % 2;
        if (!cut) own[at] = (char)(own[at] ^ (1 << below(8)));
        write_bytes(path, own, cut ? at : n);
        const inset_status status = inset_edges_merge(c, 3, parts, &out);
        /* what is left of a damaged name, say, is a name */
        if (cut || at > 600) CHECK(status, "damaged at byte %zu of %zu", at, n);
        CHECK(status || out, "%s", inset_message(c));
        inset_edges_free(out);
    }
    free(own);
    free(bytes);
}

static void refuses_parts(own *in)
{
    inset_context *c = in->context;
    wanted w;
    make_wanted(&w, 1);
    make_shards(in, &w, 3, false);
    const char *a = part_names[0], *b = part_names[1], *d = part_names[2];
    refused(c, 0, NULL, INSET_USAGE_ERROR, "which parts? There are none");
    refused(c, 2, (const char *const[]){a, d}, INSET_VALUE_ERROR, "of 3 shards are missing: 2");
    refused(c, 3, (const char *const[]){a, b, a}, INSET_FILE_ERROR, "this shard is there twice");
    refused(c, 2, (const char *const[]){a, "fixtures/gpt2/config.json"}, INSET_FILE_ERROR,
        "it is no part of edges");
    refused(c, 2, (const char *const[]){a, "fixtures/none"}, INSET_FILE_ERROR, "fixtures/none: No");
    refuses_damage(c);
    wanted other = w;
    char path[256];
    snprintf(path, sizeof path, "%s", in_folder("other"));
    other.o.ends = 1, other.o.steps = 0;
    other.o.sweep.shard = 2, other.o.sweep.shards = 3, other.o.sweep.state = path;
    NEED(!create(in, &other) && !inset_edges_step(in->edges), "%s", inset_message(c));
    forget(in);
    refused(c, 3, (const char *const[]){a, path, d}, INSET_FILE_ERROR,
        "it is a part of another attribution");
    other.o.sweep.state = b;
    other.o.sweep.resume = 1;
    CHECK(create(in, &other) == INSET_FILE_ERROR
              && strstr(inset_message(c), "this is the state of another attribution"),
        "another's part was resumed: %s", inset_message(c));
    other.o.sweep.resume = 0;
    CHECK(create(in, &other) == INSET_FILE_ERROR && strstr(inset_message(c), "can be resumed"),
        "a part was written over: %s", inset_message(c));
}

static void refuses_cuts(own *in)
{
    wanted w, other;
    inset_cut cut;
    const void *data;
    size_t size;
    make_wanted(&w, 1);
    other = w;
    other.o.sweep.metrics = two;
    NEED(
        !create(in, &other) && !inset_edges_cut(in->edges, &cut), "%s", inset_message(in->context));
    forget(in);
    NEED(!create(in, &w), "%s", inset_message(in->context));
    CHECK(inset_edges_cut_as(in->edges, &cut) == INSET_USAGE_ERROR
              && strstr(inset_message(in->context), "these are not the same edges"),
        "another's cut: %s", inset_message(in->context));
    CHECK(inset_edges_run_chunk(in->edges, 1 << 20, &data, &size) == INSET_INDEX_ERROR
              && inset_edges_run_chunk(in->edges, -1, &data, &size) == INSET_INDEX_ERROR,
        "a chunk that is not there");
    CHECK(inset_edges_put(in->edges, NULL, 9) == INSET_VALUE_ERROR
              && inset_edges_put(NULL, &cut, 9) == INSET_USAGE_ERROR,
        "nothing was put");
    CHECK(!inset_edges_cut(in->edges, &cut) && !inset_edges_step(in->edges)
              && inset_edges_cut_as(in->edges, &cut) == INSET_USAGE_ERROR,
        "cut again after a step");
    forget(in);
}

/* ---- failures ------------------------------------------------------------ */

static void merge_fails(void)
{
    inset_status status = INSET_NO_MEMORY;
    const char *const parts[] = {part_names[0], part_names[1], part_names[2]};
    for (int64_t n = 1; status == INSET_NO_MEMORY && n < 2000; n++) {
        failing_allocator memory = {.fail_at = 0};
        inset_context *context;
        inset_edges *out = NULL;
        inset_edge_result r;
        NEED(!inset_context_create(failing_allocator_interface(&memory), &context), "no context");
        memory.calls = 0;
        memory.fail_at = n;
        status = inset_edges_merge(context, 3, parts, &out);
        if (!status) status = inset_edges_result(out, 0, &r);
        memory.fail_at = 0;
        CHECK(
            !status || status == INSET_NO_MEMORY, "%lld: %s", (long long)n, inset_message(context));
        inset_edges_free(out);
        inset_context_free(context);
        CHECK(!memory.live && !memory.damaged, "%lld: %lld blocks left", (long long)n,
            (long long)memory.live);
    }
    CHECK(!status, "it never succeeded");
}

int main(void)
{
    own others[OTHERS];
    if (!mkdtemp(folder)) return 1;
    for (int kind = 0; kind < CASES; kind++) {
        wanted w;
        make_wanted(&w, kind);
        own in = open_own(w.model);
        for (int i = 0; i < OTHERS; i++) others[i] = open_own(w.model);
        make_reference(&in, &w);
        carried(&in, others, &w);
        ends_early(&in, &others[0], &w);
        resumed(&in, &w);
        sharded(&in, &w);
        for (int i = 0; i < OTHERS; i++) close_own(&others[i]);
        close_own(&in);
    }
    own in = open_own("gpt2");
    ahead(&in);
    pair_by_pair(&in);
    refuses_cuts(&in);
    refuses_parts(&in);
    merge_fails();
    close_own(&in);
    char command[300];
    snprintf(command, sizeof command, "rm -r %s", folder);
    CHECK(system(command) == 0, "%s", command);
    return test_result();
}
