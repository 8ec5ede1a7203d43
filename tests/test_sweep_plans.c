/* test_sweep_plans.c: chunks whose prompts have the same pattern of equal tokens run by one plan,
 * and nobody can tell from the numbers.
 *
 *   plans        how many are made, for pairs alike and not, in chunks of a part of a pair, of one
 *                pair and of two
 *   numbers      bit for bit those of a sweep of each pair alone, which plans it anew
 *   resume       a sweep that goes on in another process's place gives the same bytes */
#include "test.h"

#include "run/model.h"
#include "file/file.h"

#include <unistd.h>

enum { PAIRS = 6, LENGTH = 6, ONE_PAIR = 120000, TWO_PAIRS = 230000, PARTS = 50000 };

/* Pairs 0, 2, 3 and 5 differ at positions 1 and 5; pair 1 at 1 alone; in pair 4 a token of the
 * clean prompt comes back at another position of the corrupt one, which is no difference in what is
 * equal where. */
static const int64_t clean[PAIRS][LENGTH] = {{5, 17, 42, 8, 33, 21}, {1, 2, 3, 4, 5, 6},
    {7, 7, 7, 7, 7, 7}, {60, 59, 58, 57, 56, 55}, {9, 8, 7, 6, 5, 4}, {0, 1, 0, 1, 0, 1}};
static const int64_t corrupt[PAIRS][LENGTH] = {{5, 18, 42, 8, 33, 20}, {1, 7, 3, 4, 5, 6},
    {7, 8, 7, 7, 7, 9}, {60, 1, 58, 57, 56, 2}, {9, 9, 7, 6, 5, 8}, {0, 2, 0, 1, 0, 3}};
static const char *const plain_metrics[] = {"logit_diff:11,12", NULL};

static inset_sweep_options options_of(int first, int count, size_t memory)
{
    static int64_t lengths[PAIRS] = {LENGTH, LENGTH, LENGTH, LENGTH, LENGTH, LENGTH};
    inset_sweep_options o = INSET_SWEEP_OPTIONS;
    o.clean = (inset_prompts){.count = count, .lengths = lengths, .tokens = clean[first]};
    o.corrupt = (inset_prompts){.count = count, .lengths = lengths, .tokens = corrupt[first]};
    o.patch = "resid_pre";
    o.metrics = plain_metrics;
    o.memory_limit = memory;
    return o;
}

/* Runs all of it; how many steps and plans it took. */
static inset_sweep *sweep_all(
    inset_model *model, const inset_sweep_options *o, int *steps, int64_t *plans)
{
    inset_sweep *sweep = NULL;
    inset_sweep_progress is = INSET_SWEEP_PROGRESS;
    *steps = 0;
    inset_status status = inset_sweep_create(model, o, &sweep);
    for (; !status && !inset_sweep_done(sweep); ++*steps) status = inset_sweep_step(sweep);
    if (!status) status = inset_sweep_progress_of(sweep, &is);
    CHECK(!status, "%s", inset_message(model->context));
    *plans = is.plans;
    if (!status) return sweep;
    inset_sweep_free(sweep);
    return NULL;
}

typedef struct plans_case {
    const char *name, *patch, *by, *source;
    size_t memory;
    const char *const *metrics;
    int steps;
    int64_t plans;
} plans_case;

static const char *const row_metrics[] = {"kl", "rank:11", "logit:5@2", NULL};
static const plans_case cases[] = {
    {"a chunk a pair", "resid_pre", NULL, NULL, ONE_PAIR, plain_metrics, 6, 2},
    {"parts of a pair", "resid_pre", NULL, NULL, PARTS, plain_metrics, 12, 4},
    {"two pairs a chunk", "resid_pre", NULL, NULL, TWO_PAIRS, plain_metrics, 3,
        2}, /* (0, 1) and twice two alike */
    {"all at once", "resid_pre", NULL, NULL, 0, plain_metrics, 1, 1},
    {"heads", "z,pattern", "layer,head", NULL, ONE_PAIR, plain_metrics, 12, 4},
    {"rows", "resid_pre", NULL, NULL, ONE_PAIR, row_metrics, 6, 2},
    {"zero", "mlp_out", NULL, "zero", ONE_PAIR, plain_metrics, 6, 2},
    {"mean", "post", NULL, "mean:[[1, 2, 3, 4, 5, 6], [7, 7, 7, 7, 7, 7, 7]]", ONE_PAIR,
        plain_metrics, 6, 2},
    {"resample", "attn_out", NULL, "resample:[[41, 41, 41, 41, 41, 41, 41]]", ONE_PAIR,
        plain_metrics, 6, 2},
};

/* The numbers of pair `pair` alone, planned anew in chunks of the same size. */
static void compare_pair(inset_model *model, const plans_case *c, inset_sweep *all, int pair)
{
    int steps;
    int64_t plans;
    inset_sweep_options o = options_of(pair, 1, c->memory);
    o.patch = c->patch, o.by = c->by, o.source = c->source, o.metrics = c->metrics;
    inset_sweep *alone = sweep_all(model, &o, &steps, &plans);
    NEED(alone, "%s", c->name);
    CHECK(plans == steps, "%s: %lld plans of %d chunks of one pair", c->name, (long long)plans,
        steps);
    for (size_t i = 0; i < inset_sweep_result_count(all); i++) {
        inset_sweep_result want, got;
        NEED(!inset_sweep_result_at(alone, i, &want) && !inset_sweep_result_at(all, i, &got), "%s",
            c->name);
        CHECK(
            !memcmp(want.values, got.values + pair * got.points, (size_t)got.points * sizeof(float))
                && want.clean[0] == got.clean[pair]
                && !memcmp(want.corrupt, got.corrupt + pair, sizeof(float)),
            "%s, %s, pair %d: other numbers than alone", c->name, got.site, pair);
    }
    inset_sweep_free(alone);
}

static void makes_few_plans(inset_model *model, const plans_case *c)
{
    int steps;
    int64_t plans;
    inset_sweep_options o = options_of(0, PAIRS, c->memory);
    o.patch = c->patch, o.by = c->by, o.source = c->source, o.metrics = c->metrics;
    inset_sweep *sweep = sweep_all(model, &o, &steps, &plans);
    NEED(sweep, "%s", c->name);
    CHECK(steps == c->steps && plans == c->plans,
        "%s: %d chunks by %lld plans, expected %d by %lld", c->name, steps, (long long)plans,
        c->steps, (long long)c->plans);
    for (int pair = 0; pair < PAIRS && (c->memory == ONE_PAIR || c->memory == PARTS); pair++)
        compare_pair(model, c, sweep, pair);
    inset_sweep_free(sweep);
}

/* Answers are no part of a plan, but which of them are equal: pairs with answers of their own share
 * one, alone or behind another metric. */
static void answers_of_each_pair(inset_model *model, const char *folder)
{
    static const int64_t answers[PAIRS] = {11, 12, 13, 14, 15, 11};
    char path[512], columns[600], rows[600];
    snprintf(path, sizeof path, "%s/answers.safetensors", folder);
    file_tensor t = {.name = "a",
        .type = INSET_I64,
        .n_dimensions = 1,
        .shape = {PAIRS},
        .data = answers,
        .bytes = sizeof answers};
    NEED(
        !safetensors_write(model->context, path, &t, 1, NULL), "%s", inset_message(model->context));
    snprintf(columns, sizeof columns, "logit:%s:a", path);
    snprintf(rows, sizeof rows, "probability:%s:a", path);
    for (int k = 0; k < 4; k++) {
        int steps;
        int64_t plans, want = 2; /* pair 1 differs from all */
        const char *const metrics[] = {k < 2 ? k ? rows : columns : "kl",
            k < 2    ? NULL
            : k == 2 ? columns
                     : rows,
            NULL};
        inset_sweep_options o = options_of(0, PAIRS, ONE_PAIR);
        o.metrics = metrics;
        inset_sweep *sweep = sweep_all(model, &o, &steps, &plans);
        NEED(sweep, "answers");
        CHECK(plans == want, "%s: %lld plans, expected %lld", metrics[0], (long long)plans,
            (long long)want);
        for (int pair = 0; pair < PAIRS; pair++) { /* as with this answer for all */
            char one[32];
            inset_sweep_result got, expected;
            snprintf(one, sizeof one, "%s:%lld", k % 2 ? "probability" : "logit",
                (long long)answers[pair]);
            const char *const same[] = {one, NULL};
            o.metrics = same;
            inset_sweep *other = sweep_all(model, &o, &steps, &plans);
            NEED(other && !inset_sweep_result_at(sweep, k / 2, &got)
                     && !inset_sweep_result_at(other, 0, &expected),
                "answers");
            CHECK(!memcmp(got.values + pair * got.points, expected.values + pair * got.points,
                      (size_t)got.points * sizeof(float)),
                "%s, pair %d", one, pair);
            inset_sweep_free(other);
        }
        inset_sweep_free(sweep);
    }
    remove(path);
}

static bool same_bytes(const char *a, const char *b)
{
    size_t n = 0, m = 0;
    char *x = test_read(a, &n), *y = test_read(b, &m);
    bool same = x && y && n == m && !memcmp(x, y, n);
    free(x);
    free(y);
    return same;
}

static void resumes(inset_model *model, const char *folder)
{
    char whole[512], parts[512], state[512];
    int steps;
    int64_t plans;
    snprintf(whole, sizeof whole, "%s/whole.safetensors", folder);
    snprintf(parts, sizeof parts, "%s/parts.safetensors", folder);
    snprintf(state, sizeof state, "%s/parts.partial", folder);
    inset_sweep_options o = options_of(0, PAIRS, PARTS);
    inset_sweep *sweep = sweep_all(model, &o, &steps, &plans);
    NEED(sweep && !inset_sweep_write(sweep, whole, "command"), "%s", inset_message(model->context));
    inset_sweep_free(sweep);
    o.state = state;
    for (int cut = 1; cut < steps; cut++) {
        o.resume = 0;
        NEED(!inset_sweep_create(model, &o, &sweep), "%s", inset_message(model->context));
        for (int i = 0; i < cut; i++)
            NEED(!inset_sweep_step(sweep), "%s", inset_message(model->context));
        inset_sweep_free(sweep); /* as if it had been killed */
        o.resume = 1;
        int rest;
        sweep = sweep_all(model, &o, &rest, &plans);
        NEED(sweep && !inset_sweep_write(sweep, parts, "command"), "%s",
            inset_message(model->context));
        CHECK(rest == steps - cut, "cut %d: %d chunks were run again", cut, rest);
        CHECK(same_bytes(whole, parts), "cut %d: other bytes", cut);
        inset_sweep_free(sweep);
        remove(parts);
    }
    remove(whole);
}

int main(void)
{
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_model_options on = INSET_MODEL_OPTIONS;
    const char *device = getenv("INSET_TEST_DEVICE");
    char folder[] = "/tmp/inset-plans-XXXXXX";
    on.device = device ? device : "cpu";
    if (!CHECK(mkdtemp(folder) && !inset_context_create(NULL, &context), "no folder or context"))
        return test_result();
    inset_status status = inset_model_open(context, "fixtures/gpt2", &on, &model);
    if (status == INSET_DEVICE_ERROR && device)
        return inset_context_free(context), rmdir(folder), TEST_SKIP;
    if (!CHECK(!status, "%s", inset_message(context))) return test_result();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) makes_few_plans(model, &cases[i]);
    answers_of_each_pair(model, folder);
    resumes(model, folder);
    inset_context_free(context);
    CHECK(rmdir(folder) == 0, "%s is not empty", folder);
    return test_result();
}
