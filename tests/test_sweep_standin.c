/* test_sweep_standin.c: a sweep on a device that works ahead, through the stand-in, which runs what
 * was queued only when somebody waits for it:
 *
 *   order        when a chunk's numbers are there, the next chunk is with the device and has not
 *                run; a chunk of the same plan is one copy up, one replay, and one copy down;
 *                numbers are those of a sweep of each pair alone
 *   devices      two and four of them run chunks of one sweep, each with the next one with it: the
 *                same numbers
 *   giving up    a sweep freed in the middle leaves nothing under way
 *   failures     each call fails in turn, each operation breaks in turn: an error or the right
 *                numbers, then the right numbers; nothing left over */
#include "run/model.h"
#include "standin/standin.h"
#include "test.h"
#include "world.h"

enum { PAIRS = 5, LENGTH = 6, ONE_PAIR = 120000 };

static const int64_t lengths[PAIRS] = {LENGTH, LENGTH, LENGTH, LENGTH, LENGTH};
static const int64_t clean[PAIRS][LENGTH] = {{5, 17, 42, 8, 33, 21}, {1, 2, 3, 4, 5, 6},
    {7, 7, 7, 7, 7, 7}, {9, 8, 7, 6, 5, 4}, {0, 1, 0, 1, 0, 1}};
static const int64_t corrupt[PAIRS][LENGTH] = {{5, 18, 42, 8, 33, 20}, {1, 7, 3, 4, 5, 9},
    {7, 8, 7, 7, 7, 9}, {9, 9, 7, 6, 5, 8}, {0, 2, 0, 1, 0, 3}};
/* The same but for pair 2, which differs at one place: another plan between chunks of the first. */
static const int64_t mixed[PAIRS][LENGTH] = {{5, 18, 42, 8, 33, 20}, {1, 7, 3, 4, 5, 9},
    {7, 8, 7, 7, 7, 7}, {9, 9, 7, 6, 5, 8}, {0, 2, 0, 1, 0, 3}};
static const char *const metrics[] = {"logit_diff:11,12", "kl", NULL};

static inset_sweep_options options_of(const int64_t (*other)[LENGTH], int first, int count)
{
    inset_sweep_options o = INSET_SWEEP_OPTIONS;
    o.clean = (inset_prompts){.count = count, .lengths = lengths, .tokens = clean[first]};
    o.corrupt = (inset_prompts){.count = count, .lengths = lengths, .tokens = other[first]};
    o.patch = "resid_pre";
    o.metrics = metrics;
    o.memory_limit = ONE_PAIR;
    return o;
}

enum { MOST = PAIRS * 18 * 2 };
/* Values of both metrics, [2, pairs, points]. */
static int64_t values_of(inset_sweep *sweep, float *out)
{
    int64_t n = 0;
    inset_sweep_result r;
    for (size_t i = 0; i < inset_sweep_result_count(sweep) && !inset_sweep_result_at(sweep, i, &r);
         i++)
        for (int64_t k = 0; k < r.pairs * r.points && n < MOST; k++) out[n++] = r.values[k];
    return n;
}

/* ---- order -------------------------------------------------------------- */

static void alone(
    inset_context *context, inset_model *model, const int64_t (*other)[LENGTH], float *out)
{
    for (int pair = 0; pair < PAIRS; pair++) {
        float one[MOST];
        inset_sweep *sweep = NULL;
        inset_sweep_options o = options_of(other, pair, 1);
        NEED(!inset_sweep_create(model, &o, &sweep) && !inset_sweep_step(sweep), "%s",
            inset_message(context));
        NEED(inset_sweep_done(sweep) && values_of(sweep, one) == 36, "pair %d", pair);
        for (int m = 0; m < 2; m++)
            memcpy(out + (m * PAIRS + pair) * 18, one + m * 18, 18 * sizeof *out);
        inset_sweep_free(sweep);
    }
}

static void works_ahead(inset_context *context, inset_model *model, const char *name,
    const int64_t (*other)[LENGTH], int64_t plans)
{
    float want[MOST], got[MOST];
    inset_sweep *sweep = NULL;
    inset_sweep_progress is = INSET_SWEEP_PROGRESS;
    inset_sweep_options o = options_of(other, 0, PAIRS);
    alone(context, model, other, want);
    NEED(!inset_sweep_create(model, &o, &sweep), "%s: %s", name, inset_message(context));
    for (int chunk = 0; chunk < PAIRS; chunk++) {
        const standin_counts before = standin_counted();
        CHECK(standin_waiting() > 0 || chunk == 0,
            "%s, chunk %d is not with the device before it is asked for", name, chunk);
        NEED(!inset_sweep_step(sweep), "%s, chunk %d: %s", name, chunk, inset_message(context));
        const standin_counts after = standin_counted();
        if (chunk + 1 < PAIRS)
            CHECK(standin_waiting() > 0,
                "%s: chunk %d was not given to the device before chunk %d was waited for", name,
                chunk + 1, chunk);
        CHECK(after.waits - before.waits == 1, "%s, chunk %d: %lld waits", name, chunk,
            (long long)(after.waits - before.waits));
        if (plans > 1 || chunk < 2 || chunk + 1 == PAIRS) continue;
        CHECK(after.replays - before.replays == 1 && after.launches == before.launches
                  && after.products == before.products && after.copies_up - before.copies_up == 1
                  && after.copies_down - before.copies_down == 1 && after.waits - before.waits == 1,
            "%s, chunk %d: %lld replays, %lld copies up, %lld down, %lld waits", name, chunk,
            (long long)(after.replays - before.replays),
            (long long)(after.copies_up - before.copies_up),
            (long long)(after.copies_down - before.copies_down),
            (long long)(after.waits - before.waits));
    }
    CHECK(inset_sweep_done(sweep) && !inset_sweep_progress_of(sweep, &is) && is.plans == plans
              && is.done == 90,
        "%s: %lld plans, %lld patches", name, (long long)is.plans, (long long)is.done);
    CHECK(values_of(sweep, got) == MOST && !memcmp(got, want, sizeof got),
        "%s: other numbers than alone", name);
    inset_sweep_free(sweep);
    CHECK(!*standin_problems(), "%s: %s", name, standin_problems());
}

/* ---- several devices ----------------------------------------------------- */

enum { DEVICES = 4 };

/* A device's own model and sweep, and the chunks that it has. */
typedef struct worker {
    inset_context *context;
    inset_model *model;
    inset_sweep *sweep;
    int64_t chunk, ahead;
} worker;

static void open_worker(worker *w, int index, const inset_sweep_options *o)
{
    char name[16];
    inset_model_options on = INSET_MODEL_OPTIONS;
    snprintf(name, sizeof name, "cuda:%d", index);
    on.device = name;
    *w = (worker){.chunk = -1, .ahead = -1};
    NEED(!inset_context_create(NULL, &w->context)
             && !inset_model_open(w->context, "fixtures/gpt2", &on, &w->model)
             && !inset_sweep_create(w->model, o, &w->sweep),
        "%s", inset_message(w->context));
}

/* One chunk of a device; false: there was none for it. */
static bool works(worker *w, inset_sweep *book)
{
    const void *data;
    size_t size;
    if (w->chunk < 0) w->chunk = inset_sweep_take(book);
    if (w->chunk < 0) return false;
    w->ahead = inset_sweep_take(book);
    const inset_status status = inset_sweep_run_chunk(w->sweep, w->chunk, w->ahead, &data, &size);
    CHECK(!status, "%s", inset_message(w->context));
    CHECK(w->ahead < 0 || standin_waiting() > 0, "chunk %lld is not with its device",
        (long long)w->ahead);
    CHECK(status || !inset_sweep_put(book, data, size), "chunk %lld", (long long)w->chunk);
    w->chunk = w->ahead;
    return !status;
}

static void many_devices(inset_context *context, inset_model *model, int devices)
{
    float want[MOST], got[MOST];
    worker all[DEVICES];
    inset_cut cut;
    inset_sweep_options o = options_of(mixed, 0, PAIRS);
    alone(context, model, mixed, want);
    standin_machine(devices, 9, 0, 1 << 26, 0, 13000); /* of 64 MiB each */
    o.shared = 1;
    for (int i = 0; i < devices; i++) open_worker(&all[i], i, &o);
    NEED(!inset_sweep_cut(all[0].sweep, &cut), "no cut");
    for (int i = 1; i < devices; i++)
        CHECK(!inset_sweep_cut_as(all[i].sweep, &cut), "%s", inset_message(all[i].context));
    for (bool any = true; any;) {
        any = false;
        for (int i = 0; i < devices; i++) any |= works(&all[i], all[0].sweep);
    }
    CHECK(inset_sweep_done(all[0].sweep) && values_of(all[0].sweep, got) == MOST
              && !memcmp(got, want, sizeof got),
        "%d devices: other numbers", devices);
    for (int i = devices; i-- > 0;) inset_context_free(all[i].context);
    standin_machine(1, 9, 0, 1 << 30, 0, 13000);
    CHECK(!*standin_problems(), "%s", standin_problems());
}

static void is_given_up(inset_context *context, inset_model *model, const int64_t (*other)[LENGTH])
{
    for (int steps = 0; steps < PAIRS; steps++) {
        const int64_t live = standin_live();
        inset_sweep *sweep = NULL;
        inset_sweep_options o = options_of(other, 0, PAIRS);
        NEED(!inset_sweep_create(model, &o, &sweep), "%s", inset_message(context));
        for (int i = 0; i < steps; i++)
            NEED(!inset_sweep_step(sweep), "%s", inset_message(context));
        inset_sweep_free(sweep);
        CHECK(standin_waiting() == 0 && standin_live() == live,
            "after %d steps: %lld operations, %lld handles", steps, (long long)standin_waiting(),
            (long long)(standin_live() - live));
    }
}

/* ---- failures ----------------------------------------------------------- */

/* Steps to the end, trying again what failed; how many steps failed. */
static int run_through(
    inset_context *context, inset_sweep *sweep, bool mend, const char *what, int64_t n)
{
    int failed = 0;
    while (!inset_sweep_done(sweep) && failed < 20) {
        inset_status status = inset_sweep_step(sweep);
        if (!status) continue;
        failed++;
        CHECK(status == INSET_DEVICE_ERROR || status == INSET_NO_MEMORY, "%s %lld: %s", what,
            (long long)n, inset_message(context));
        if (mend) standin_mend();
    }
    return failed;
}

static void each_fails(
    inset_context *context, inset_model *model, const char *what, void (*arm)(int64_t n), bool mend)
{
    float want[MOST], got[MOST];
    bool reached = true;
    int failures = 0;
    alone(context, model, mixed, want);
    for (int64_t n = 1; reached && !test_failures; n += n < 60 ? 1 : 7) {
        inset_sweep *sweep = NULL;
        const int64_t live = standin_live();
        inset_sweep_options o = options_of(mixed, 0, PAIRS);
        NEED(!inset_sweep_create(model, &o, &sweep), "%s", inset_message(context));
        arm(n);
        int failed = run_through(context, sweep, mend, what, n);
        failures += failed;
        reached = failed > 0 || n < 400;
        arm(0);
        CHECK(inset_sweep_done(sweep) && values_of(sweep, got) == MOST
                  && !memcmp(got, want, sizeof got),
            "%s %lld: other numbers", what, (long long)n);
        inset_sweep_free(sweep);
        CHECK(!*standin_problems(), "%s %lld: %s", what, (long long)n, standin_problems());
        CHECK(standin_live() == live, "%s %lld: %lld handles are left", what, (long long)n,
            (long long)(standin_live() - live));
        CHECK(n < 5000, "it never ends");
    }
    CHECK(failures > 20, "%s: %d failures", what, failures);
}

/* Each allocation of the host fails in turn. */
static void each_allocation_fails(void)
{
    float want[MOST], got[MOST];
    inset_model *model = NULL;
    inset_model_options on = INSET_MODEL_OPTIONS;
    world w;
    inset_context *context = world_start(&w);
    on.device = "cuda";
    NEED(!inset_model_open(context, "fixtures/gpt2", &on, &model), "%s", inset_message(context));
    alone(context, model, mixed, want);
    int failed = 1;
    int64_t n = 1;
    for (; failed && n < 5000; n += n < 30 ? 1 : 5) {
        inset_sweep *sweep = NULL;
        const int64_t live = w.memory.live, handles = standin_live();
        inset_sweep_options o = options_of(mixed, 0, PAIRS);
        NEED(!inset_sweep_create(model, &o, &sweep), "%s", inset_message(context));
        w.memory.fail_at = w.memory.calls + n;
        for (failed = 0; !inset_sweep_done(sweep) && failed < 3;) {
            inset_status status = inset_sweep_step(sweep);
            failed += status != INSET_OK;
            CHECK(!status || status == INSET_NO_MEMORY, "allocation %lld: %s", (long long)n,
                inset_message(context));
        }
        /* planning ahead may fail and nobody notices */
        failed |= w.memory.calls >= w.memory.fail_at;
        w.memory.fail_at = 0;
        CHECK(inset_sweep_done(sweep) && values_of(sweep, got) == MOST
                  && !memcmp(got, want, sizeof got),
            "allocation %lld: other numbers", (long long)n);
        inset_sweep_free(sweep);
        CHECK(!*standin_problems() && standin_live() == handles,
            "allocation %lld: %lld handles, %s", (long long)n,
            (long long)(standin_live() - handles), standin_problems());
        /* spare arena blocks */
        CHECK(w.memory.live <= live + 40, "allocation %lld: %lld blocks more", (long long)n,
            (long long)(w.memory.live - live));
    }
    CHECK(n > 60 && n < 5000, "%lld allocations", (long long)n);
    world_end(&w, "allocations");
}

int main(void)
{
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_model_options on = INSET_MODEL_OPTIONS;
    on.device = "cuda";
    if (inset_context_create(NULL, &context)) return 1;
    if (CHECK(!inset_model_open(context, "fixtures/gpt2", &on, &model), "%s",
            inset_message(context))) {
        works_ahead(context, model, "one plan", corrupt, 1);
        works_ahead(context, model, "two plans", mixed, 2);
        many_devices(context, model, 2);
        many_devices(context, model, 4);
        is_given_up(context, model, corrupt);
        is_given_up(context, model, mixed);
        each_fails(context, model, "call", standin_fail_call, false);
        each_fails(context, model, "operation", standin_break, true);
    }
    inset_context_free(context);
    each_allocation_fails();
    return test_result();
}
