/* test_shared_sweeps.c: one sweep that several run: helpers on devices of their own, chunks carried
 * between processes, and shards that are merged.
 *
 *   reference    the same sweep stepped by one alone, cut alike; and, but for rounding, one that
 *                nobody shares
 *   helpers      one to three, random sweeps and attributions: the same file to the last byte
 *   carried      chunks taken, run by others and put back in random order, some twice, some given
 *                back
 *   shards       each alone, stopped and resumed, merged in random order: the same file
 *   schedule     chunks by cost on a simulated cluster: at most 10 % over the best possible time
 *   refusals     parts that are missing, twice, another's, unfinished, cut off, or changed in a
 *                byte; another's cut and chunks; a helper of another sweep
 *   failures     a helper whose memory ends: told with its device, and the others finish; each
 *                allocation of a merge fails in turn */
#include "failing_allocator.h"
#include "sweep/chunks/state.h"
#include "sweeps.h"
#include "test.h"
#include "world.h"

#include <unistd.h>

enum { MOST = 3 };

/* A model in a context of its own. */
typedef struct own {
    inset_context *context;
    inset_model *model;
    inset_sweep *sweep;
} own;

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

static void close_own(own *o)
{
    inset_sweep_free(o->sweep);
    inset_model_free(o->model);
    inset_context_free(o->context);
    *o = (own){0};
}

/* ---- random sweeps ------------------------------------------------------- */

typedef struct wanted {
    inset_sweep_options o;
    int steps; /* of an attribution; -1: a sweep */
    const char *model;
    char clean[1024], corrupt[1024];
} wanted;

static const char *const metrics[] = {"logit_diff:11,12", "kl", NULL}, *const one[] = {
                                                                           "logit:7", NULL};
static uint64_t state_of_random = 7;
static int64_t below(int64_t n)
{
    state_of_random = state_of_random * 6364136223846793005u + 1442695040888963407u;
    return (int64_t)((state_of_random >> 33) % (uint64_t)n);
}

/* Pairs that differ in a token or two, of one or several lengths. */
static void make_prompts(wanted *w)
{
    size_t a = 0, b = 0;
    const int64_t pairs = 1 + below(4), ragged = below(2), longest = 4 + below(4);
    for (int64_t p = 0; p < pairs; p++) {
        const int64_t n = ragged ? 3 + below(longest - 2) : longest, other = below(n);
        for (int64_t i = 0; i < n; i++) {
            const int token = (int)below(30);
            a += (size_t)snprintf(w->clean + a, sizeof w->clean - a, "%s%d",
                i   ? ", "
                : p ? "], ["
                    : "[[",
                token);
            b += (size_t)snprintf(w->corrupt + b, sizeof w->corrupt - b, "%s%d",
                i   ? ", "
                : p ? "], ["
                    : "[[",
                i == other ? 31 : token);
        }
    }
    snprintf(w->clean + a, sizeof w->clean - a, "]]");
    snprintf(w->corrupt + b, sizeof w->corrupt - b, "]]");
}

static void make_wanted(wanted *w, int kind)
{
    static const char *const patches[] = {"resid_pre,z", "block_every", "mlp_out,pattern", "q,k",
        "resid_pre,features:fixtures/features/relu/sae.safetensors@resid_pre.1"};
    static const char *const sources[] = {
        NULL, "zero", "mean:[[1, 2, 3, 4, 5, 6, 7, 8]]", "resample"};
    *w = (wanted){.o = INSET_SWEEP_OPTIONS, .steps = kind % 3 == 2 ? (int)below(3) : -1};
    make_prompts(w);
    w->o.clean.text = w->clean;
    w->o.corrupt.text = w->corrupt;
    w->o.patch = patches[below(5)];
    w->o.source = sources[below(4)];
    if (strstr(w->o.patch, "features")) w->o.source = NULL;
    w->model = strstr(w->o.patch, "features") || below(2) ? "gpt2" : "llama";
    w->o.metrics = w->steps >= 0 ? one : metrics;
    w->o.memory_limit = below(4) ? 60000 + (size_t)below(150000) : 0;
    w->o.seed = 3;
    w->o.shared = 1;
    w->o.version = "v1";
    if (w->steps > 0) w->o.source = NULL;
    if (w->steps >= 0) w->o.memory_limit = 0;
}

static inset_status create(own *in, const wanted *w)
{
    if (w->steps < 0) return inset_sweep_create(in->model, &w->o, &in->sweep);
    inset_attribution_options all = INSET_ATTRIBUTION_OPTIONS;
    all.sweep = w->o;
    all.steps = w->steps;
    return inset_attribution_create(in->model, &all, &in->sweep);
}

static char folder[] = "/tmp/inset-shared-XXXXXX";
static const char *in_folder(const char *name)
{
    static char path[4][256];
    static int at;
    char *out = path[at++ % 4];
    snprintf(out, 256, "%s/%s", folder, name);
    return out;
}

static void same_file(const char *name, const char *what)
{
    size_t n = 0, m = 0;
    char *a = test_read(in_folder("reference"), &n), *b = test_read(in_folder(name), &m);
    CHECK(a && b && n == m && !memcmp(a, b, n), "%s: other bytes than the reference (%zu, %zu)",
        what, n, m);
    free(a);
    free(b);
}

/* ---- reference ----------------------------------------------------------- */

/* Values of a sweep that is not shared: the same but for the order of sums. */
static void near_unshared(own *in, const wanted *w)
{
    wanted alone = *w;
    own other = *in;
    alone.o.shared = 0;
    NEED(!create(&other, &alone) && !run_all(other.sweep), "%s", inset_message(in->context));
    for (size_t k = 0; k < inset_sweep_result_count(in->sweep); k++) {
        inset_sweep_result a, b;
        NEED(!inset_sweep_result_at(in->sweep, k, &a) && !inset_sweep_result_at(other.sweep, k, &b),
            "no result");
        for (int64_t i = 0; i < a.pairs * a.points; i++)
            CHECK(isnan(a.values[i]) ? isnan(b.values[i]) : fabs(a.values[i] - b.values[i]) < 2e-4,
                "%s, point %lld: %g and %g", a.site, (long long)i, a.values[i], b.values[i]);
    }
    inset_sweep_free(other.sweep);
}

static bool make_reference(own *in, const wanted *w)
{
    inset_status status = create(in, w);
    if (status == INSET_VALUE_ERROR && w->o.source && strstr(w->o.source, "resample"))
        return false; /* no other prompt is as long */
    if (!status) status = run_all(in->sweep);
    if (!status) status = inset_sweep_write(in->sweep, in_folder("reference"), "command");
    return CHECK(!status, "%s of %s: %s", w->o.patch, w->model, inset_message(in->context));
}

/* ---- helpers ------------------------------------------------------------- */

static void helpers(own *in, own *others, const wanted *w, int count)
{
    inset_status status = create(in, w);
    for (int i = 0; i < count && !status; i++) {
        NEED(!create(&others[i], w), "%s", inset_message(others[i].context));
        status = inset_sweep_help(in->sweep, others[i].sweep);
    }
    if (!status) status = run_all(in->sweep);
    if (!status) status = inset_sweep_write(in->sweep, in_folder("helped"), "command");
    CHECK(!status, "%d helpers: %s", count, inset_message(in->context));
    same_file("helped", "helpers");
    inset_sweep_progress is = INSET_SWEEP_PROGRESS;
    CHECK(!inset_sweep_progress_of(in->sweep, &is) && is.done == is.patches, "%lld of %lld patches",
        (long long)is.done, (long long)is.patches);
    inset_sweep_free(in->sweep);
    for (int i = 0; i < count; i++) inset_sweep_free(others[i].sweep), others[i].sweep = NULL;
    in->sweep = NULL;
}

/* Freed in the middle: its helpers end. */
static void freed_early(own *in, own *others, const wanted *w)
{
    inset_status status = create(in, w);
    if (!status) status = create(&others[0], w);
    if (!status) status = inset_sweep_help(in->sweep, others[0].sweep);
    if (!status) status = inset_sweep_step(in->sweep);
    CHECK(!status, "%s", inset_message(in->context));
    inset_sweep_free(in->sweep);
    inset_sweep_free(others[0].sweep);
    in->sweep = others[0].sweep = NULL;
}

/* ---- carried ------------------------------------------------------------- */

static void put_damaged(own *in, const void *data, size_t size)
{
    char *bytes = malloc(size);
    memcpy(bytes, data, size);
    bytes[below((int64_t)size)] ^= 1;
    CHECK(inset_sweep_put(in->sweep, bytes, size) == INSET_VALUE_ERROR, "a damaged record");
    CHECK(inset_sweep_put(in->sweep, data, size - 1) == INSET_VALUE_ERROR, "a short record");
    CHECK(inset_sweep_put(in->sweep, bytes, 3) == INSET_VALUE_ERROR, "three bytes");
    free(bytes);
}

static void carried(own *in, own *others, const wanted *w)
{
    inset_cut cut;
    char *kept[64] = {NULL};
    size_t sizes[64];
    int n = 0;
    NEED(!create(in, w) && !inset_sweep_cut(in->sweep, &cut), "%s", inset_message(in->context));
    for (int i = 0; i < 2; i++)
        NEED(!create(&others[i], w) && !inset_sweep_cut_as(others[i].sweep, &cut), "%s",
            inset_message(others[i].context));
    for (int64_t chunk; (chunk = inset_sweep_take(in->sweep)) >= 0;) {
        const void *data;
        size_t size;
        own *by = &others[below(2)];
        if (below(4) == 0) {
            inset_sweep_give_back(in->sweep, chunk);
            continue;
        }
        NEED(!inset_sweep_run_chunk(by->sweep, chunk, -1, &data, &size), "%s",
            inset_message(by->context));
        if (below(4) == 0) put_damaged(in, data, size);
        if (n < 64 && below(2)) { /* put later, in another order */
            kept[n] = memcpy(malloc(size), data, size);
            sizes[n++] = size;
        } else CHECK(!inset_sweep_put(in->sweep, data, size), "not taken");
    }
    while (n-- > 0) {
        for (int again = 0; again < 2; again++)
            CHECK(!inset_sweep_put(in->sweep, kept[n], sizes[n]), "not taken");
        free(kept[n]);
    }
    inset_status status = run_all(in->sweep); /* what is left, if anything */
    if (!status) status = inset_sweep_write(in->sweep, in_folder("carried"), "command");
    CHECK(!status, "%s", inset_message(in->context));
    same_file("carried", "carried");
    for (int i = 0; i < 2; i++) inset_sweep_free(others[i].sweep), others[i].sweep = NULL;
    inset_sweep_free(in->sweep);
    in->sweep = NULL;
}

/* ---- shards -------------------------------------------------------------- */

enum { MOST_SHARDS = 5 };
static char part_names[MOST_SHARDS][256];

static void run_shard(own *in, const wanted *w, int64_t shard, int64_t shards, bool stops)
{
    wanted mine = *w;
    mine.o.shard = shard;
    mine.o.shards = shards;
    mine.o.state = part_names[shard - 1];
    for (int again = 0; again < 2; again++, mine.o.resume = 1) {
        NEED(!create(in, &mine), "%s", inset_message(in->context));
        inset_status status = INSET_OK;
        for (int i = 0; !status && !inset_sweep_done(in->sweep) && (again || !stops || i < 1); i++)
            status = inset_sweep_step(in->sweep);
        CHECK(!status, "%s", inset_message(in->context));
        CHECK(!inset_sweep_done(in->sweep) || shards < 2
                  || inset_sweep_write(in->sweep, in_folder("one"), NULL) == INSET_USAGE_ERROR,
            "a shard was written as a whole");
        inset_sweep_free(in->sweep);
        in->sweep = NULL;
        if (!stops) return;
    }
}

static int64_t make_shards(own *in, const wanted *w, bool stops)
{
    const int64_t shards = 1 + below(MOST_SHARDS);
    for (int64_t i = 1; i <= shards; i++) {
        snprintf(part_names[i - 1], sizeof part_names[0], "%s/part%lld", folder, (long long)i);
        remove(part_names[i - 1]);
        run_shard(in, w, i, shards, stops);
    }
    return shards;
}

static inset_status merge(inset_context *context, int64_t shards, int64_t from, inset_sweep **out)
{
    const char *parts[MOST_SHARDS];
    for (int64_t i = 0; i < shards; i++) parts[i] = part_names[(i + from) % shards];
    return inset_sweep_merge(context, (size_t)shards, parts, out);
}

static void sharded(own *in, const wanted *w)
{
    const int64_t shards = make_shards(in, w, below(2));
    inset_sweep *whole = NULL;
    inset_status status = merge(in->context, shards, below(shards), &whole);
    if (!status) status = inset_sweep_write(whole, in_folder("merged"), "command");
    CHECK(
        !status && inset_sweep_step(whole) == INSET_USAGE_ERROR, "%s", inset_message(in->context));
    same_file("merged", "merged");
    inset_sweep_free(whole);
}

/* ---- the schedule -------------------------------------------------------- */

/* Hands a sweep's chunks to workers that each take chunk_cost seconds, as they become free. */
static void schedule(own *in)
{
    enum { WORKERS = 16, PAIRS = 300, LENGTH = 9 };
    static int64_t clean[PAIRS * LENGTH], corrupt[PAIRS * LENGTH], lengths[PAIRS];
    for (int i = 0; i < PAIRS; i++) {
        lengths[i] = LENGTH;
        for (int k = 0; k < LENGTH; k++) {
            clean[i * LENGTH + k] = below(30);
            corrupt[i * LENGTH + k] = k == 2 ? 31 : clean[i * LENGTH + k];
        }
    }
    inset_sweep_options o = INSET_SWEEP_OPTIONS;
    o.clean = (inset_prompts){.count = PAIRS, .lengths = lengths, .tokens = clean};
    o.corrupt = (inset_prompts){.count = PAIRS, .lengths = lengths, .tokens = corrupt};
    o.patch = "resid_pre,z";
    o.metrics = one;
    o.shared = 1;
    o.memory_limit = 40000; /* few jobs a chunk */
    sweep *s = NULL;
    const inset_status status = sweep_create((struct inset_model *)in->model, &o, NULL, &s);
    NEED(!status, "%s: %s", inset_status_name(status), inset_message(in->context));
    s->chunk = 1;
    book_close(s);
    NEED(!book_open(s), "no book");
    CHECK(s->book->n >= 10000, "%lld chunks", (long long)s->book->n);
    double until[WORKERS] = {0}, sum = 0, most = 0, last = 1e300;
    for (int64_t chunk; (chunk = book_take(s)) >= 0;) {
        const double cost = chunk_cost(s, chunk);
        int first = 0;
        for (int i = 1; i < WORKERS; i++)
            if (until[i] < until[first]) first = i;
        CHECK(cost <= last, "chunk %lld: a dearer one behind a cheaper", (long long)chunk);
        until[first] += last = cost;
        sum += cost;
    }
    for (int i = 0; i < WORKERS; i++) most = fmax(most, until[i]);
    CHECK(most <= 1.1 * sum / WORKERS, "%g, the best possible is %g", most, sum / WORKERS);
    sweep_free(s);
}

/* ---- refusals ------------------------------------------------------------ */

static void refused(inset_context *c, size_t n, const char *const *parts,
    inset_status wanted_status, const char *says)
{
    inset_sweep *out = NULL;
    const inset_status status = inset_sweep_merge(c, n, parts, &out);
    CHECK(status == wanted_status && !out && strstr(inset_message(c), says),
        "'%s' was expected, found %s: %s", says, inset_status_name(status), inset_message(c));
    inset_sweep_free(out);
}

static wanted plain_wanted(void)
{
    wanted w = {.o = INSET_SWEEP_OPTIONS, .steps = -1, .model = "gpt2"};
    snprintf(w.clean, sizeof w.clean, "[[5, 17, 42, 8], [1, 2, 3, 4]]");
    snprintf(w.corrupt, sizeof w.corrupt, "[[5, 18, 42, 8], [1, 7, 3, 4]]");
    w.o.clean.text = w.clean;
    w.o.corrupt.text = w.corrupt;
    w.o.patch = "resid_pre";
    w.o.metrics = one;
    w.o.shared = 1;
    w.o.memory_limit = 60000;
    return w;
}

static void make_three(own *in)
{
    wanted w = plain_wanted();
    w.o.clean.text = w.clean;
    w.o.corrupt.text = w.corrupt;
    for (int64_t i = 1; i <= 3; i++) {
        snprintf(part_names[i - 1], sizeof part_names[0], "%s/three%lld", folder, (long long)i);
        remove(part_names[i - 1]);
        run_shard(in, &w, i, 3, false);
    }
}

static void refuses_parts(own *in)
{
    inset_context *c = in->context;
    const char *a = part_names[0], *b = part_names[1], *d = part_names[2];
    make_three(in);
    refused(c, 0, NULL, INSET_USAGE_ERROR, "which parts? There are none");
    refused(c, 2, (const char *const[]){a, d}, INSET_VALUE_ERROR, "of 3 shards are missing: 2");
    refused(c, 3, (const char *const[]){a, b, a}, INSET_FILE_ERROR, "this shard is there twice");
    refused(c, 2, (const char *const[]){a, "fixtures/gpt2/config.json"}, INSET_FILE_ERROR,
        "it is no part of a sweep");
    refused(c, 2, (const char *const[]){a, "fixtures/none"}, INSET_FILE_ERROR, "fixtures/none: No");
    wanted w = plain_wanted();
    w.o.clean.text = w.clean;
    w.o.corrupt.text = w.corrupt;
    w.o.seed = 9;
    char other[256];
    snprintf(other, sizeof other, "%s", in_folder("other"));
    w.o.shard = 2, w.o.shards = 3, w.o.state = other;
    NEED(!create(in, &w) && !run_all(in->sweep), "%s", inset_message(c));
    inset_sweep_free(in->sweep);
    in->sweep = NULL;
    refused(c, 2, (const char *const[]){a, other}, INSET_FILE_ERROR, "a part of another sweep");
    remove(other);
    w.o.shard = 4;
    CHECK(create(in, &w) == INSET_VALUE_ERROR && strstr(inset_message(c), "shard 4 of 3"), "%s",
        inset_message(c));
}

static void write_bytes(const char *path, const char *bytes, size_t n)
{
    FILE *file = fopen(path, "wb");
    CHECK(file && fwrite(bytes, 1, n, file) == n && !fclose(file), "%s", path);
}

/* A part that was cut off or changed anywhere gives an error, never a crash or another result. */
static void survives_damage(own *in)
{
    size_t size = 0;
    char *bytes = test_read(part_names[1], &size), *mine = malloc(size);
    const char *const parts[] = {part_names[0], in_folder("damaged"), part_names[2]};
    for (size_t n = 0; n < size; n += n < 600 ? 5 : 37) {
        for (int change = 0; change < 2; change++) {
            inset_sweep *out = NULL;
            memcpy(mine, bytes, size);
            if (change) mine[n] ^= (char)(1 << below(8));
            write_bytes(parts[1], mine, change ? size : n);
            const char *const turned[] = {parts[1], parts[0], parts[2]};
            const inset_status status = inset_sweep_merge(
                in->context, 3, below(2) ? parts : turned, &out);
            /* a byte of names or padding may change without a trace in the numbers */
            if (!status) CHECK(change && n < sizeof(state_header) + 2000, "byte %zu", n);
            inset_sweep_free(out);
        }
    }
    remove(parts[1]);
    free(mine);
    free(bytes);
}

static void refuses_others(own *in, own *other)
{
    wanted w = plain_wanted(), x = plain_wanted();
    w.o.clean.text = w.clean, w.o.corrupt.text = w.corrupt;
    x.o.clean.text = x.clean, x.o.corrupt.text = x.corrupt;
    x.o.patch = "z";
    inset_cut cut;
    NEED(!create(in, &w) && !create(other, &x) && !inset_sweep_cut(in->sweep, &cut), "%s",
        inset_message(in->context));
    CHECK(inset_sweep_cut_as(other->sweep, &cut) == INSET_USAGE_ERROR
              && strstr(inset_message(other->context), "not the same sweep"),
        "%s", inset_message(other->context));
    CHECK(inset_sweep_help(in->sweep, other->sweep) == INSET_USAGE_ERROR
              && strstr(inset_message(in->context), "not the same sweep"),
        "%s", inset_message(in->context));
    CHECK(inset_sweep_help(in->sweep, in->sweep) == INSET_USAGE_ERROR
              && strstr(inset_message(in->context), "a context and a model of its own"),
        "%s", inset_message(in->context));
    const void *data;
    size_t n;
    CHECK(inset_sweep_run_chunk(in->sweep, 9999, -1, &data, &n) == INSET_INDEX_ERROR, "chunk 9999");
    inset_sweep_free(in->sweep);
    inset_sweep_free(other->sweep);
    in->sweep = other->sweep = NULL;
}

/* ---- failures ------------------------------------------------------------ */

/* The helper's memory ends at some point of its work; the others do its chunks. */
static void helper_fails(own *in)
{
    wanted w = plain_wanted();
    size_t at = 0;
    for (int i = 0; i < 60; i++) /* so that there is something to do for it */
        at += (size_t)snprintf(
            w.clean + at, sizeof w.clean - at, "%s%d, 2, 3, 4]", i ? ", [" : "[[", i / 2);
    snprintf(w.clean + at, sizeof w.clean - at, "]");
    w.o.clean.text = w.clean;
    w.o.corrupt = (inset_prompts){.count = 0};
    w.o.source = "zero";
    int told = 0;
    NEED(make_reference(in, &w), "no reference");
    inset_sweep_free(in->sweep);
    for (int64_t n = 1; n < 300; n += 29) {
        failing_allocator memory = {.fail_at = 0};
        own helper = {0};
        inset_model_options on = INSET_MODEL_OPTIONS;
        on.device = "cpu";
        NEED(!inset_context_create(failing_allocator_interface(&memory), &helper.context)
                 && !inset_model_open(helper.context, "fixtures/gpt2", &on, &helper.model)
                 && !create(&helper, &w) && !create(in, &w),
            "%s", inset_message(helper.context));
        inset_status status = inset_sweep_help(in->sweep, helper.sweep);
        memory.calls = 0;
        memory.fail_at = n;
        memory.fail_after = true;
        while (!status && !inset_sweep_done(in->sweep)) {
            status = inset_sweep_step(in->sweep);
            if (status != INSET_NO_MEMORY) continue;
            told += strstr(inset_message(in->context), "cpu: ") != NULL;
            status = INSET_OK; /* go on without it */
        }
        if (!status) status = inset_sweep_write(in->sweep, in_folder("failed"), "command");
        CHECK(!status, "%lld: %s", (long long)n, inset_message(in->context));
        same_file("failed", "a helper failed");
        inset_sweep_free(in->sweep);
        in->sweep = NULL;
        memory.fail_at = 0;
        close_own(&helper);
        CHECK(!memory.live && !memory.damaged, "%lld blocks left", (long long)memory.live);
    }
    CHECK(told > 0, "no helper failed");
}

static void merge_survives_no_memory(void)
{
    inset_status status = INSET_NO_MEMORY;
    const char *const parts[] = {part_names[0], part_names[1], part_names[2]};
    for (int64_t n = 1; status == INSET_NO_MEMORY && n < 2000; n++) {
        failing_allocator memory = {.fail_at = 0};
        inset_context *context;
        inset_sweep *out = NULL;
        inset_sweep_result r;
        NEED(!inset_context_create(failing_allocator_interface(&memory), &context), "no context");
        memory.calls = 0;
        memory.fail_at = n;
        status = inset_sweep_merge(context, 3, parts, &out);
        if (!status) status = inset_sweep_result_at(out, 0, &r);
        memory.fail_at = 0;
        CHECK(
            !status || status == INSET_NO_MEMORY, "%lld: %s", (long long)n, inset_message(context));
        inset_sweep_free(out);
        inset_context_free(context);
        CHECK(!memory.live && !memory.damaged, "%lld: %lld blocks left", (long long)n,
            (long long)memory.live);
    }
    CHECK(!status, "it never succeeded");
}

static void random_sweeps(own *gpt2, own *llama, int count)
{
    for (int k = 0; k < count; k++) {
        wanted w;
        make_wanted(&w, k);
        w.o.clean.text = w.clean, w.o.corrupt.text = w.corrupt;
        own *all = strcmp(w.model, "llama") ? gpt2 : llama;
        if (!make_reference(&all[0], &w)) continue;
        near_unshared(&all[0], &w);
        inset_sweep_free(all[0].sweep);
        all[0].sweep = NULL;
        helpers(&all[0], all + 1, &w, 1 + (int)below(MOST));
        freed_early(&all[0], all + 1, &w);
        carried(&all[0], all + 1, &w);
        sharded(&all[0], &w);
    }
}

int main(int count, char **arguments)
{
    own gpt2[1 + MOST], llama[1 + MOST];
    if (!mkdtemp(folder)) return 1;
    for (int i = 0; i <= MOST; i++) gpt2[i] = open_own("gpt2"), llama[i] = open_own("llama");
    random_sweeps(gpt2, llama, count > 1 ? atoi(arguments[1]) : 12);
    schedule(&gpt2[0]);
    refuses_parts(&gpt2[0]);
    survives_damage(&gpt2[0]);
    refuses_others(&gpt2[0], &gpt2[1]);
    merge_survives_no_memory();
    helper_fails(&gpt2[0]);
    for (int i = 0; i <= MOST; i++) close_own(&gpt2[i]), close_own(&llama[i]);
    char command[300];
    snprintf(command, sizeof command, "rm -r %s", folder);
    CHECK(system(command) == 0, "%s", command);
    return test_result();
}
