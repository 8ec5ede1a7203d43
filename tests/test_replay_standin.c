/* test_replay_standin.c: what a plan costs the host on a GPU, counted by the stand-in: the first
 * run is as many launches and copies as the plan says, the second captures them, and every later
 * one is one replay, with one copy where the inputs changed. That replays give what launches do;
 * and that a site without records costs no launch. */
#include "plan/emit/launches.h"
#include "run/model.h"
#include "run/run.h"
#include "script/script.h"
#include "standin/standin.h"
#include "test.h"

typedef struct bench {
    inset_context *context;
    struct inset_model *model;
    trace *trace;
    plan *plan;
    run *run;
} bench;

/* Scripts of one model, and how many of the launches are of records alone at most: less where steps
 * apply them. */
typedef struct costed {
    const char *name, *text;
    int64_t records;
} costed;

static const char metric[] =
    "with invoke([[3, 1, 4, 1, 5]]):\n    a = output.logits[:, -1].logit_diff(3, 5).save()\n";
static const char plain[] =
    "with invoke([[3, 1, 4, 1, 5]]):\n    logits = lm_head.output[:, -1].save()\n";
static const char patched[] =
    "with invoke([[3, 1, 4, 1, 5]]):\n    h = transformer.h[1].output[:, 2]\n    logits = "
    "lm_head.output[:, -1].save()\n"
    "with invoke([[2, 7, 1, 8, 2]]):\n    transformer.h[1].output[:, 2] = h\n    "
    "transformer.h[2].mlp.output[:, -1, 2:9] *= 2\n    patched = lm_head.output[:, -1].save()\n";

/* Two tensors from outside. */
static const char loaded[] =
    "row = load(\"fixtures/gpt2/cases/data.safetensors\", \"vec\")\nfactor = "
    "load(\"fixtures/gpt2/cases/data.safetensors\", \"f16\")\nwith invoke([[3, 1, 4, 1, 5]]):\n"
    "    transformer.h[0].output[:, 1] = row\n    transformer.h[1].output[:, 2:] *= factor\n    "
    "logits = lm_head.output[:, -1].save()\n";
/* Named and unused, read for another value, saved: what nobody reads costs nothing, and the records
 * of one place are one launch. */
static const char unused[] = "with invoke([[3, 1, 4, 1, 5]]):\n    a = transformer.h[0].output\n   "
                             " b = transformer.h[1].attn.z * 2\n"
                             "    logits = lm_head.output[:, -1].save()\n";
static const char saved_twice[] =
    "with invoke([[3, 1, 4, 1, 5]]):\n    a = transformer.h[0].output[:, 1].save()\n    b = "
    "transformer.h[0].output[:, 3, 4:8].save()\n"
    "    logits = lm_head.output[:, -1].save()\n";
static const char many[] =
    "with invoke([[3, 1, 4, 1, 5]]):\n    base = lm_head.output[:, -1].save()\n"
    "with invoke([[3, 1, 4, 1, 5]]):\n    transformer.h[0].output[:, 1] *= 2\n    a = "
    "lm_head.output[:, -1].save()\n"
    "with invoke([[3, 1, 4, 1, 5]]):\n    transformer.h[0].output[:, 2] += 1\n    b = "
    "lm_head.output[:, -1].save()\n"
    "with invoke([[3, 1, 4, 1, 5]]):\n    transformer.h[2].attn.output[:, 3] = 0\n    c = "
    "lm_head.output[:, -1].save()\n";
static const char outside[] =
    "w = load(\"fixtures/notebook/model.safetensors\", \"layer1.weight\")\nwith invoke([[3, 1, 4, "
    "1, 5]]):\n"
    "    transformer.h[1].output[:, 2, 0:5] = w[0]\n    logits = lm_head.output[:, -1].save()\n";
static const char ragged[] =
    "with invoke([[3, 1, 4, 1, 5], [2, 7]]):\n    all = transformer.h[2].output.save()\n";

static void bench_end(bench *b)
{
    run_free(b->run);
    plan_free(b->plan);
    trace_free(b->trace);
    b->run = NULL, b->plan = NULL, b->trace = NULL;
}

static bool bench_start(bench *b, const char *text)
{
    inset_status status = trace_create(b->context, b->model->program, b->model->type, &b->trace);
    if (!status) status = script_read(b->trace, "script", ".", text, strlen(text));
    const plan_options options = {.traits = model_traits(b->model)};
    if (!status) status = plan_create(b->trace, &options, &b->plan);
    if (!status) status = run_create(b->model, b->plan, &b->run);
    return CHECK(!status, "%s", inset_message(b->context));
}

/* What one run asked of the device. */
typedef struct cost {
    int64_t single, records, copies, fills, captures, replays, replayed;
} cost;

static cost run_once(bench *b)
{
    const standin_counts before = standin_counted();
    CHECK(!run_execute(b->run), "%s", inset_message(b->context));
    const standin_counts after = standin_counted();
    CHECK(after.descriptor_writes == before.descriptor_writes
              && after.heuristics == before.heuristics,
        "a run described or chose products");
    return (cost){after.launches + after.products - before.launches - before.products,
        after.kernels[KERNEL_RECORDS] - before.kernels[KERNEL_RECORDS],
        after.copies_up - before.copies_up, after.fills - before.fills,
        after.captures - before.captures, after.replays - before.replays,
        after.replayed - before.replayed};
}

static void expect_cost(const char *name, cost got, cost want)
{
    CHECK(!memcmp(&got, &want, sizeof got),
        "%s: %lld launches (%lld of records), %lld copies, %lld fills, %lld captures, %lld replays "
        "of %lld; expected %lld (%lld), %lld, %lld, %lld, "
        "%lld of %lld",
        name, (long long)got.single, (long long)got.records, (long long)got.copies,
        (long long)got.fills, (long long)got.captures, (long long)got.replays,
        (long long)got.replayed, (long long)want.single, (long long)want.records,
        (long long)want.copies, (long long)want.fills, (long long)want.captures,
        (long long)want.replays, (long long)want.replayed);
}

enum { MOST = 4096, MOST_OUTSIDE = 128 };

static size_t saved_bytes(bench *b, char *out)
{
    inset_tensor tensor;
    size_t at = 0;
    for (size_t i = 0; i < plan_saved_count(b->plan); i++) {
        if (!CHECK(!run_saved(b->run, i, &tensor), "%s", inset_message(b->context))) break;
        size_t bytes = type_size(tensor.type);
        for (int d = 0; d < tensor.n_dimensions; d++) bytes *= (size_t)tensor.shape[d];
        if (at + bytes > MOST) break;
        memcpy(out + at, tensor.data, bytes);
        at += bytes;
    }
    return at;
}

/* Launches of the records kernel that a plan has. */
static int64_t record_launches(const plan *p)
{
    int64_t records = 0;
    for (size_t i = 0; i < p->n_launches; i++)
        records += !p->launches[i].is_matmul && p->launches[i].kernel == KERNEL_RECORDS;
    return records;
}

/* All copies since `before`, with the one of what was saved. */
static void expect_copies(const char *name, standin_counts before, int64_t wanted)
{
    const int64_t copies = standin_counted().copies_up + standin_counted().copies_down
                           - before.copies_up - before.copies_down;
    CHECK(copies == wanted, "%s: %lld copies, the plan says %lld", name, (long long)copies,
        (long long)wanted);
}

static void costs_what_the_plan_says(bench *b, const costed *c)
{
    const int64_t other[] = {6, 1, 6, 1, 9, 2, 7};
    const char *name = c->name;
    char first[MOST] = {0}, now[MOST] = {0}, fresh[MOST] = {0};
    const standin_counts start = standin_counted();
    if (!bench_start(b, c->text)) return bench_end(b);
    const int64_t count = b->plan->invoke_first[1];
    const int64_t launches = plan_get_statistics(b->plan)->launches,
                  fills = b->plan->needs_clearing;
    const int64_t records = record_launches(b->plan);
    CHECK(records <= c->records, "%s: %lld launches of records", name, (long long)records);
    expect_cost(name, run_once(b), (cost){launches, records, 1, fills, 0, 0, 0});
    const size_t n = saved_bytes(b, first);
    expect_copies(name, start, run_first_copies(b->plan));
    CHECK(standin_counted().kernels[KERNEL_EXPAND] - start.kernels[KERNEL_EXPAND] <= 2,
        "%s: tables were written out more than once", name);
    CHECK(run_later_launches(b->model, b->plan) == 1, "%s: a replay is not one launch", name);
    expect_cost(name, run_once(b), (cost){launches, records, 0, fills, 1, 1, launches + fills});
    CHECK(saved_bytes(b, now) == n && n > 0 && !memcmp(now, first, n),
        "%s: the first replay has other bits", name);
    expect_cost(name, run_once(b), (cost){0, 0, 0, 0, 0, 1, launches + fills});
    for (int64_t i = 0; i < b->plan->n_invokes; i++)
        CHECK(!run_set_tokens(b->run, i, other, count), "%s", inset_message(b->context));
    const standin_counts before = standin_counted();
    expect_cost(name, run_once(b), (cost){0, 0, 1, 0, 0, 1, launches + fills});
    CHECK(saved_bytes(b, now) == n && memcmp(now, first, n), "%s: other tokens changed nothing",
        name);
    expect_copies(name, before, run_copies(b->plan));
    /* a run of its own, launched one by one, has the replay's bits */
    run_free(b->run);
    b->run = NULL;
    CHECK(!run_create(b->model, b->plan, &b->run), "%s", inset_message(b->context));
    for (int64_t i = 0; i < b->plan->n_invokes; i++)
        CHECK(!run_set_tokens(b->run, i, other, count), "%s", inset_message(b->context));
    expect_cost(name, run_once(b), (cost){launches, records, 1, fills, 0, 0, 0});
    CHECK(saved_bytes(b, fresh) == n && !memcmp(fresh, now, n),
        "%s: a replay and a first run have other bits", name);
    bench_end(b);
}

/* What a run of its own, launched one by one, makes of these inputs. */
static void run_alone(bench *b, char numbers[][MOST_OUTSIDE], const int64_t *tokens, char *out)
{
    bench one = {.context = b->context, .plan = b->plan, .model = b->model};
    CHECK(!run_create(b->model, b->plan, &one.run) && !run_set_tokens(one.run, 0, tokens, 5), "%s",
        inset_message(b->context));
    for (size_t i = 0; i < b->plan->n_externals; i++)
        run_set_external(one.run, b->plan->externals[i].storage, numbers[i]);
    CHECK(!run_execute(one.run), "%s", inset_message(b->context));
    saved_bytes(&one, out);
    run_free(one.run);
}

/* However many inputs are others, and how far apart they lie: one copy, one replay. What comes out
 * is what a run launched singly makes of them. */
static void one_copy_for_all_inputs(bench *b)
{
    const int64_t first[] = {3, 1, 4, 1, 5};
    char before[MOST] = {0}, now[MOST] = {0}, fresh[MOST] = {0}, numbers[2][MOST_OUTSIDE];
    if (!bench_start(b, loaded)) return bench_end(b);
    for (size_t i = 0; i < 2; i++)
        memcpy(numbers[i], b->plan->externals[i].data, (size_t)b->plan->externals[i].bytes);
    const int64_t launches = plan_get_statistics(b->plan)->launches,
                  fills = b->plan->needs_clearing;
    int64_t records = 0;
    for (size_t i = 0; i < b->plan->n_launches; i++)
        records += !b->plan->launches[i].is_matmul && b->plan->launches[i].kernel == KERNEL_RECORDS;
    CHECK(b->plan->n_externals == 2 && run_copies(b->plan) == 2, "%zu tensors, %lld copies",
        b->plan->n_externals, (long long)run_copies(b->plan));
    expect_cost("first", run_once(b), (cost){launches, records, 1, fills, 0, 0, 0});
    run_once(b);
    const size_t n = saved_bytes(b, before);
    /* 1: one tensor, 2: the other, 4: the tokens */
    for (int what = 1; what < 8; what++) {
        for (size_t i = 2; i-- > 0;) {
            const struct external *e = &b->plan->externals[i];
            for (int64_t k = 0; what & 1 << i && k < e->bytes; k++)
                numbers[i][k] = ((char *)e->data)[(k + 8 * what) % e->bytes];
            if (what & 1 << i) run_set_external(b->run, e->storage, numbers[i]);
        }
        const int64_t tokens[] = {9, 8, what, 6, 5};
        if (what & 4) CHECK(!run_set_tokens(b->run, 0, tokens, 5), "%s", inset_message(b->context));
        expect_cost("replaced", run_once(b), (cost){0, 0, 1, 0, 0, 1, launches + fills});
        CHECK(saved_bytes(b, now) == n && memcmp(now, before, n), "%d: nothing changed", what);
        run_alone(b, numbers, what < 4 ? first : tokens, fresh);
        CHECK(!memcmp(fresh, now, n), "%d: a replay and a first run have other bits", what);
        memcpy(before, now, n);
        expect_cost("the same again", run_once(b), (cost){0, 0, 0, 0, 0, 1, launches + fills});
    }
    bench_end(b);
}

/* A site that is named and not used is no launch; records of one place are one more, in a device
 * that fuses none. */
static void nothing_costs_nothing(bench *b)
{
    int64_t launches[2];
    const char *const texts[] = {plain, unused};
    for (int i = 0; i < 2 && bench_start(b, texts[i]); i++, bench_end(b)) {
        const cost got = run_once(b);
        launches[i] = got.single;
        CHECK(got.records <= 1 && got.single == plan_get_statistics(b->plan)->launches,
            "%lld launches of records", (long long)got.records);
    }
    CHECK(launches[0] == launches[1], "sites that nobody uses take %lld launches",
        (long long)(launches[1] - launches[0]));
}

/* A product of more rows than a block has is several launches, and the plan says so. */
static void tall_products_are_counted(bench *b)
{
    enum { ROWS = 5000, ROW = 64 };
    bench tall = {.context = b->context};
    char *text = malloc(ROWS * ROW + 200), *at = text;
    at += sprintf(at, "with invoke([");
    for (int i = 0; i < ROWS; i++) at += sprintf(at, "[%d, 1, %d, 0.5, -1], ", i % 71, i / 71);
    sprintf(at, "]):\n    x = layer2.output.save()\n");
    if (CHECK(!model_open(b->context, "fixtures/notebook", "cuda", INSET_TYPE_COUNT, false, false,
                  0, &tall.model),
            "%s", inset_message(b->context))
        && bench_start(&tall, text)) {
        const standin_counts before = standin_counted();
        const cost got = run_once(&tall);
        const int64_t products = standin_counted().products - before.products;
        CHECK(got.single == plan_get_statistics(tall.plan)->launches,
            "%lld launches, the plan says %lld", (long long)got.single,
            (long long)plan_get_statistics(tall.plan)->launches);
        CHECK(products == 4, "two products of 5000 rows are %lld", (long long)products);
    }
    bench_end(&tall);
    model_free(tall.model);
    free(text);
}

/* Metrics: one launch for all of a moment, no product with the head where a few logits are wanted,
 * and other tokens are one copy and one replay. */
static void metrics_of_other_tokens(bench *b)
{
    static const char text[] =
        "with invoke([[3, 1, 4, 1, 5]]):\n    h = transformer.h[1].output[:, 2]\n    a = "
        "output.logits[:, -1].logit_diff(%d, [7, 8]).save()\n"
        "with invoke([[2, 7, 1, 8, 2]]):\n    transformer.h[1].output[:, 2] = h\n    b = "
        "output.logits[:, -1].logit_diff(5, [7, %d]).save()\n"
        "    c = output.logits[0].logit(%d).save()\n";
    char first[2][512], now[MOST] = {0}, want[MOST] = {0};
    int64_t metrics = 0, heads = 0;
    snprintf(first[0], sizeof first[0], text, 3, 9, 11);
    snprintf(first[1], sizeof first[1], text, 40, 41, 42);
    if (!bench_start(b, first[1])) return bench_end(b);
    run_once(b);
    size_t n = saved_bytes(b, want);
    bench_end(b);
    if (!bench_start(b, first[0])) return bench_end(b);
    const program *g = b->model->program;
    for (size_t i = 0; i < b->plan->n_launches; i++) {
        const launch *l = &b->plan->launches[i];
        metrics += !l->is_matmul && l->kernel == KERNEL_METRICS;
        heads += l->is_matmul ? l->weight == g->steps[g->n_steps - 1].weight
                              : l->kernel == KERNEL_COLUMNS;
    }
    CHECK(metrics == 1 && !heads, "%lld launches of metrics, %lld of the head", (long long)metrics,
        (long long)heads);
    run_once(b);
    cost second = run_once(b);
    CHECK(saved_bytes(b, now) == n && memcmp(now, want, n), "other tokens give other numbers");
    CHECK(!run_set_answers(b->run, 0, 0, (const int64_t[]){40, 7, 8}, 3)
              && !run_set_answers(b->run, 1, 0, (const int64_t[]){5, 7, 41}, 3)
              && !run_set_answers(b->run, 1, 1, (const int64_t[]){42}, 1),
        "%s", inset_message(b->context));
    expect_cost("other tokens", run_once(b), (cost){0, 0, 1, 0, 0, 1, second.replayed});
    CHECK(saved_bytes(b, now) == n && !memcmp(now, want, n),
        "a plan of other tokens has other bits than one made for them");
    bench_end(b);
}

/* A second run while each of its calls fails in turn: the right numbers or an error, then the right
 * numbers, and nothing left over. */
static void each_call_of_a_capture_fails(bench *b)
{
    char first[MOST] = {0}, now[MOST] = {0};
    bool failed = true;
    int64_t errors = 0, singly = 0;
    for (int64_t n = 1; failed && !test_failures; n++) {
        if (!bench_start(b, patched)) break;
        const int64_t live = standin_live();
        run_once(b);
        const size_t bytes = saved_bytes(b, first);
        const standin_counts before = standin_counted();
        standin_fail_call(n);
        const inset_status status = run_execute(b->run);
        failed = standin_counted().calls - before.calls >= n;
        standin_fail_call(0);
        errors += status != INSET_OK;
        singly += !status && standin_counted().replays == before.replays;
        if (!status)
            CHECK(saved_bytes(b, now) == bytes && !memcmp(now, first, bytes),
                "call %lld failed: other bits", (long long)n);
        run_once(b);
        CHECK(saved_bytes(b, now) == bytes && !memcmp(now, first, bytes),
            "after call %lld failed: other bits", (long long)n);
        CHECK(!*standin_problems(), "call %lld: %s", (long long)n, standin_problems());
        CHECK(standin_live() <= live + 1, "call %lld: %lld handles are left", (long long)n,
            (long long)(standin_live() - live));
        CHECK(n < 2000, "it never ends");
        bench_end(b);
    }
    CHECK(errors > 0 && singly > 10, "%lld errors, %lld runs without a graph", (long long)errors,
        (long long)singly);
}

int main(void)
{
    bench b = {0};
    if (inset_context_create(NULL, &b.context)) return 1;
    if (CHECK(!model_open(
                  b.context, "fixtures/gpt2", "cuda", INSET_TYPE_COUNT, false, false, 0, &b.model),
            "%s", inset_message(b.context))) {
        const costed scripts[] = {{"plain", plain, 1}, {"unused", unused, 1},
            {"patched", patched, 3}, {"saved twice", saved_twice, 2}, {"many", many, 4},
            {"from outside", outside, 2}, {"ragged", ragged, 1}, {"metric", metric, 1}};
        for (size_t i = 0; i < sizeof scripts / sizeof *scripts; i++)
            costs_what_the_plan_says(&b, &scripts[i]);
        nothing_costs_nothing(&b);
        tall_products_are_counted(&b);
        one_copy_for_all_inputs(&b);
        metrics_of_other_tokens(&b);
        each_call_of_a_capture_fails(&b);
    }
    model_free(b.model);
    inset_context_free(b.context);
    return test_result();
}
