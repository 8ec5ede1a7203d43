/* test_cases.c: trace scripts beside what PyTorch, transformers and nnsight made of them.
 *
 * fixtures/MODEL/cases/NAME.inset is a script, NAME.safetensors beside it the values it saves, in
 * order. fixtures/MODEL/random.cases holds many scripts in one text, each after a line "--- NAME",
 * their values in random.safetensors as NAME/VALUE; "--- NAME ERROR LINE" is a script that must be
 * refused with that error (or one of several, A|B) at that line (0: any). All are made by
 * make_fixtures.py. Each script runs three times: with rows shared between invokes, without, and in
 * chunks of one invoke.
 *
 * With INSET_TEST_STREAMED set, most weights come and go (run/stream.h).
 *
 *     test_cases [-d DEVICE] [NAME]     DEVICE: cpu unless given here or in INSET_TEST_DEVICE;
 *                                       NAME: only cases whose name has this in it */
#include "script/script.h"
#include "streamed.h"
#include "test.h"

#include <dirent.h>
#include <signal.h>
#include <unistd.h>

#include "base/base.h"
#include "file/file.h"
#include "plan/plan.h"
#include "run/model.h"
#include "run/run.h"
#include "trace/trace.h"

/* Which model runs which scripts. A 16-bit file and a 32-bit file that is converted must give the
 * same, and so must shards. */
typedef struct suite {
    const char *name, *model, *cases;
    inset_type type;  /* INSET_TYPE_COUNT: the file's own */
    double tolerance; /* relative error of a whole tensor */
    /* the same where attention by tiles rounds weights before they meet values; 0: no other */
    double on_gpu;
} suite;

static const suite suites[] = {
    {"notebook", "notebook", "notebook", INSET_TYPE_COUNT, 1e-5, 0},
    {"deep", "deep", "deep", INSET_TYPE_COUNT, 1e-5, 0},
    {"gpt2", "gpt2", "gpt2", INSET_TYPE_COUNT, 1e-5, 0},
    {"gpt2_sharded", "gpt2_sharded", "gpt2", INSET_TYPE_COUNT, 1e-5, 0},
    {"gpt2_options", "gpt2_options", "gpt2_options", INSET_TYPE_COUNT, 1e-5, 0},
    {"gpt2_bf16", "gpt2_bf16", "gpt2_bf16", INSET_TYPE_COUNT, 1e-2, 0},
    {"gpt2_f16", "gpt2_f16", "gpt2_f16", INSET_TYPE_COUNT, 1e-2, 0},
    {"gpt2_as_bf16", "gpt2", "gpt2_bf16", INSET_BF16, 1e-2, 0},
    {"gpt2_as_f16", "gpt2", "gpt2_f16", INSET_F16, 1e-2, 0},
    {"gpt_neox", "gpt_neox", "gpt_neox", INSET_TYPE_COUNT, 1e-5, 0},
    {"gpt_neox_serial", "gpt_neox_serial", "gpt_neox_serial", INSET_TYPE_COUNT, 1e-5, 0},
    {"llama", "llama", "llama", INSET_TYPE_COUNT, 1e-5, 0},
    {"llama_bf16", "llama_bf16", "llama_bf16", INSET_TYPE_COUNT, 1e-2, 0},
    {"llama3", "llama3", "llama3", INSET_TYPE_COUNT, 1e-5, 0},
    {"mistral", "mistral", "mistral", INSET_TYPE_COUNT, 1e-5, 0},
    {"qwen2", "qwen2", "qwen2", INSET_TYPE_COUNT, 1e-5, 0},
    {"qwen3", "qwen3", "qwen3", INSET_TYPE_COUNT, 1e-5, 0},
    {"gemma2", "gemma2", "gemma2", INSET_TYPE_COUNT, 1e-5, 0},
    {"gemma2_bf16", "gemma2_bf16", "gemma2_bf16", INSET_TYPE_COUNT, 1e-2,
        2e-2}, /* its KL doubles that */
    {"phi3", "phi3", "phi3", INSET_TYPE_COUNT, 1e-5, 0},
    {"olmo2", "olmo2", "olmo2", INSET_TYPE_COUNT, 1e-5, 0},
    {"olmo3", "olmo3", "olmo3", INSET_TYPE_COUNT, 1e-5, 0},
    {"gemma", "gemma", "gemma", INSET_TYPE_COUNT, 1e-5, 0},
    {"gemma3", "gemma3", "gemma3", INSET_TYPE_COUNT, 1e-5, 0},
    {"smollm3", "smollm3", "smollm3", INSET_TYPE_COUNT, 1e-5, 0},
    {"gpt_neo", "gpt_neo", "gpt_neo", INSET_TYPE_COUNT, 1e-5, 0},
    {"gptj", "gptj", "gptj", INSET_TYPE_COUNT, 1e-5, 0},
    {"phi", "phi", "phi", INSET_TYPE_COUNT, 1e-5, 0},
    {"stablelm", "stablelm", "stablelm", INSET_TYPE_COUNT, 1e-5, 0},
    {"stablelm_parallel", "stablelm_parallel", "stablelm_parallel", INSET_TYPE_COUNT, 1e-5, 0},
    {"starcoder2", "starcoder2", "starcoder2", INSET_TYPE_COUNT, 1e-5, 0},
    {"bloom", "bloom", "bloom", INSET_TYPE_COUNT, 1e-5, 0},
    {"granite", "granite", "granite", INSET_TYPE_COUNT, 1e-5, 0},
    {"olmo", "olmo", "olmo", INSET_TYPE_COUNT, 1e-5, 0},
    {"cohere", "cohere", "cohere", INSET_TYPE_COUNT, 1e-5, 0},
    {"cohere2", "cohere2", "cohere2", INSET_TYPE_COUNT, 1e-5, 0},
    {"opt", "opt", "opt", INSET_TYPE_COUNT, 1e-5, 0},
    {"mixtral", "mixtral", "mixtral", INSET_TYPE_COUNT, 1e-5, 0},
    {"qwen3_moe", "qwen3_moe", "qwen3_moe", INSET_TYPE_COUNT, 1e-5, 0},
    {"gpt_oss", "gpt_oss", "gpt_oss", INSET_TYPE_COUNT, 1e-5, 0},
    {"bert", "bert", "bert", INSET_TYPE_COUNT, 1e-5, 0},
};

typedef struct runner {
    const suite *suite;
    const char *device, *wanted; /* wanted: NULL, or part of the names to run */
    inset_context *context;
    struct inset_model *model;
    char cases[4096]; /* the folder that load() looks in */
} runner;

static int cases_run, cases_named;
/* Every third script, and the one of all sites: weights that come and go take long (streamed), and
 * so do sanitizers. */
static bool brief;

/* ---- a crash names its case, then goes the way it would have gone (a sanitizer's report, a core)
 * ---- */

static char running[300];
static struct sigaction handlers_before[NSIG];

static void name_the_case(int signal)
{
    ssize_t written = write(STDERR_FILENO, running, strlen(running));
    written = write(STDERR_FILENO, ": crashed\n", 10);
    (void)written;
    sigaction(signal, &handlers_before[signal], NULL);
}

static void watch_for_crashes(void)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    struct sigaction action = {.sa_handler = name_the_case};
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        sigaction(signals[i], &action, &handlers_before[signals[i]]);
}

/* ---- comparing ---------------------------------------------------------- */

/* false for NaN and infinities */
static bool is_ordinary(double x) { return fabs(x) < 1e30; }

/* Says in `why` how `got` differs from `want`; true when it does not. The allowance beside the
 * relative one is for tensors that are all rounding, such as x - x computed in two ways: fp32
 * rounds numbers of size 1 to 6e-8, so a tensor of n such numbers may be off by 1e-7 sqrt(n)
 * however small what is left of it. make_fixtures.py keeps out scripts whose values carry more
 * rounding than that. */
static bool same_tensor(
    const inset_tensor *got, const file_tensor *want, double tolerance, char *why, size_t size)
{
    if (got->type != want->type) {
        snprintf(why, size, "type %s, expected %s", type_name(got->type), type_name(want->type));
        return false;
    }
    bool same_shape = got->n_dimensions == want->n_dimensions;
    int64_t n = 1;
    for (int i = 0; same_shape && i < want->n_dimensions; i++) {
        same_shape = got->shape[i] == want->shape[i];
        n *= want->shape[i];
    }
    if (!same_shape) {
        int at = snprintf(why, size, "shape");
        for (int i = 0; i < got->n_dimensions; i++)
            at += snprintf(why + at, size - (size_t)at, " %lld", (long long)got->shape[i]);
        at += snprintf(why + at, size - (size_t)at, ", expected");
        for (int i = 0; i < want->n_dimensions; i++)
            at += snprintf(why + at, size - (size_t)at, " %lld", (long long)want->shape[i]);
        return false;
    }
    double error = 0, norm = 0, worst = -1, worst_got = 0, worst_want = 0;
    int64_t worst_at = 0;
    for (int64_t i = 0; i < n; i++) {
        double a = element_get(
            got->type, (const char *)got->data + (size_t)i * type_size(got->type));
        double b = element_get(
            want->type, (const char *)want->data + (size_t)i * type_size(want->type));
        if (!is_ordinary(a) || !is_ordinary(b)) {
            if (a == b || (isnan(a) && isnan(b))) continue;
            snprintf(why, size, "element %lld is %g, expected %g", (long long)i, a, b);
            return false;
        }
        error += (a - b) * (a - b);
        norm += b * b;
        if (fabs(a - b) > worst) {
            worst = fabs(a - b);
            worst_at = i;
            worst_got = a;
            worst_want = b;
        }
    }
    double allowed = tolerance * sqrt(norm) + 1e-7 * sqrt((double)n);
    if (sqrt(error) <= allowed) return true;
    snprintf(why, size, "relative error %.3g, worst at element %lld of %lld: %.9g, expected %.9g",
        sqrt(error / norm), (long long)worst_at, (long long)n, worst_got, worst_want);
    return false;
}

/* The comparator itself: one wrong element among a thousand, a wrong type, a wrong shape, a NaN. */
static void comparator_notices(void)
{
    enum { N = 1000 };
    static float got[N], want[N];
    char why[200];
    uint64_t seed = 1;
    for (int i = 0; i < N; i++) got[i] = want[i] = (float)test_uniform(&seed);
    inset_tensor g = {got, INSET_F32, 2, {10, N / 10}};
    file_tensor w = {.name = "x",
        .type = INSET_F32,
        .n_dimensions = 2,
        .shape = {10, N / 10},
        .data = want,
        .bytes = sizeof want};
    CHECK(same_tensor(&g, &w, 1e-5, why, sizeof why), "equal tensors: %s", why);
    got[N - 1] += 0.01f;
    CHECK(!same_tensor(&g, &w, 1e-5, why, sizeof why), "one element off by 0.01");
    got[N - 1] = -2;
    CHECK(!same_tensor(&g, &w, 1e-2, why, sizeof why),
        "one element of another value, at the tolerance of 16 bits");
    got[N - 1] = NAN;
    CHECK(!same_tensor(&g, &w, 1e-2, why, sizeof why), "one NaN");
    got[N - 1] = want[N - 1];
    g.type = INSET_I32;
    CHECK(!same_tensor(&g, &w, 1e-2, why, sizeof why), "another type");
    g.type = INSET_F32;
    g.shape[0] = N / 10;
    g.shape[1] = 10;
    CHECK(!same_tensor(&g, &w, 1e-2, why, sizeof why), "another shape");
}

/* ---- one script --------------------------------------------------------- */

static double tolerance_of(const runner *r)
{
    return r->model->device->is_cuda && r->suite->on_gpu > 0 ? r->suite->on_gpu
                                                             : r->suite->tolerance;
}

/* Compares what a run saved with the tensors of `expected` whose names begin with `prefix`, in
 * order. */
static void check_saved(runner *r, const char *label, plan *p, run *work,
    const safetensors *expected, const char *prefix)
{
    size_t length = strlen(prefix), next = 0;
    for (size_t i = 0; i < safetensors_count(expected); i++) {
        const file_tensor *want = safetensors_at(expected, i);
        if (strncmp(want->name, prefix, length)) continue;
        const char *name = want->name + length;
        NEED(next < plan_saved_count(p), "%s: %s was not saved", label, name);
        NEED(!strcmp(plan_saved_name(p, next), name), "%s: value %zu is %s, expected %s", label,
            next, plan_saved_name(p, next), name);
        inset_tensor got, described;
        char why[400];
        plan_saved_describe(p, next, &described);
        NEED(run_saved(work, next, &got) == INSET_OK, "%s: %s: %s", label, name,
            inset_message(r->context));
        CHECK(same_tensor(&got, want, tolerance_of(r), why, sizeof why), "%s: %s: %s", label, name,
            why);
        CHECK(described.type == got.type && described.n_dimensions == got.n_dimensions
                  && !memcmp(
                      described.shape, got.shape, sizeof got.shape[0] * (size_t)got.n_dimensions),
            "%s: %s: the plan's description is not what the run gives", label, name);
        next++;
    }
    CHECK(next == plan_saved_count(p), "%s: saved %zu values, expected %zu", label,
        plan_saved_count(p), next);
}

static void run_script(runner *r, const char *name, const char *text, size_t length,
    const safetensors *expected, const char *prefix, plan_options options, const char *way)
{
    char label[300];
    trace *t = NULL;
    plan *p = NULL;
    run *work = NULL;
    snprintf(label, sizeof label, "%s/%s%s", r->suite->name, name, way);
    snprintf(running, sizeof running, "%s", label);
    inset_status status = trace_create(r->context, r->model->program, r->model->type, &t);
    if (!status) trace_again(t, strstr(way, "again") != NULL);
    if (!status) status = script_read(t, name, r->cases, text, length);
    options.traits = model_traits(r->model);
    if (!status) status = plan_create(t, &options, &p);
    if (!status) status = run_create(r->model, p, &work);
    if (!status) status = run_execute(work);
    if (CHECK(status == INSET_OK, "%s: %s", label, inset_message(r->context)))
        check_saved(r, label, p, work, expected, prefix);
    run_free(work);
    plan_free(p);
    trace_free(t);
}

/* Rows shared between invokes, none shared, and every invoke a chunk of its own. */
static void run_all_ways(runner *r, const char *name, const char *text, size_t length,
    const safetensors *expected, const char *prefix)
{
    run_script(r, name, text, length, expected, prefix, (plan_options){0}, "");
    run_script(r, name, text, length, expected, prefix, (plan_options){.no_share = true},
        " without sharing");
    run_script(
        r, name, text, length, expected, prefix, (plan_options){.chunks = INT32_MAX}, " in chunks");
    if (!strncmp(name, "gradients", 9))
        run_script(
            r, name, text, length, expected, prefix, (plan_options){0}, " with blocks run again");
}

/* A script that must be refused: `accept` is "AError|BError". */
static void refuse_script(
    runner *r, const char *name, const char *text, size_t length, const char *accept, int line)
{
    char label[300], place[32];
    trace *t = NULL;
    plan *p = NULL;
    plan_options options = {.traits = model_traits(r->model)};
    snprintf(label, sizeof label, "%s/%s", r->suite->name, name);
    snprintf(running, sizeof running, "%s", label);
    inset_status status = trace_create(r->context, r->model->program, r->model->type, &t);
    if (!status) status = script_read(t, name, r->cases, text, length);
    options.traits = model_traits(r->model);
    if (!status) status = plan_create(t, &options, &p);
    const char *message = inset_message(r->context), *error = inset_status_name(status);
    if (CHECK(status != INSET_OK, "%s: not refused, expected %s", label, accept)) {
        const char *found = strstr(accept, error);
        CHECK(found, "%s: %s, expected %s: %s", label, error, accept, message);
        snprintf(place, sizeof place, ":%d:", line);
        CHECK(
            !line || strstr(message, place), "%s: line %d is not named: %s", label, line, message);
    }
    plan_free(p);
    trace_free(t);
}

static bool wanted(const runner *r, const char *name)
{
    char full[300];
    snprintf(full, sizeof full, "%s/%s", r->suite->name, name);
    if (r->wanted && !strstr(full, r->wanted)) return false;
    if (brief && !r->wanted && cases_named++ % 3 && strcmp(name, "every_site")) return false;
    cases_run++;
    return true;
}

/* ---- all scripts of a model --------------------------------------------- */

static int is_script(const struct dirent *entry)
{
    size_t n = strlen(entry->d_name);
    return n > 6 && !strcmp(entry->d_name + n - 6, ".inset");
}

/* cases/NAME.inset, NAME.safetensors */
static void run_written(runner *r)
{
    struct dirent **entries = NULL;
    int n = scandir(r->cases, &entries, is_script, alphasort);
    for (int i = 0; i < n; i++) {
        char name[256], path[4400];
        snprintf(
            name, sizeof name, "%.*s", (int)strlen(entries[i]->d_name) - 6, entries[i]->d_name);
        free(entries[i]);
        if (!wanted(r, name)) continue;
        size_t length = 0;
        safetensors *expected = NULL;
        snprintf(path, sizeof path, "%s/%s.inset", r->cases, name);
        char *text = test_read(path, &length);
        snprintf(path, sizeof path, "%s/%s.safetensors", r->cases, name);
        inset_status status = safetensors_open(r->context, path, &expected);
        if (CHECK(text && !status, "%s/%s: %s", r->suite->name, name,
                text ? inset_message(r->context) : "cannot be read")) {
            run_all_ways(r, name, text, length, expected, "");
        }
        safetensors_close(expected);
        free(text);
    }
    free(entries);
}

/* One block of random.cases: the heading without its "--- ", and the script. */
static void run_block(
    runner *r, const char *heading, const char *text, size_t length, const safetensors *expected)
{
    char name[64] = "", accept[128] = "", prefix[80];
    int line = 0, parts = sscanf(heading, "%63s %127s %d", name, accept, &line);
    if (!wanted(r, name)) return;
    if (parts > 1) {
        refuse_script(r, name, text, length, accept, line);
        return;
    }
    snprintf(prefix, sizeof prefix, "%s/", name);
    run_all_ways(r, name, text, length, expected, prefix);
}

/* which: "random", or "edits", whose scripts all have edit() blocks */
static void run_random(runner *r, const char *which)
{
    char path[4400];
    safetensors *expected = NULL;
    snprintf(path, sizeof path, "%s/../%s.cases", r->cases, which);
    char *text = test_read(path, NULL);
    if (!text) return; /* this model has none */
    snprintf(path, sizeof path, "%s/../%s.safetensors", r->cases, which);
    if (CHECK(!safetensors_open(r->context, path, &expected), "%s", inset_message(r->context)))
        for (char *block = strstr(text, "--- "); block;) {
            char *heading = block + 4, *script = strchr(heading, '\n');
            if (!script) break;
            *script++ = 0;
            char *next = strstr(script, "\n--- ");
            run_block(
                r, heading, script, next ? (size_t)(next + 1 - script) : strlen(script), expected);
            block = next ? next + 1 : NULL;
        }
    safetensors_close(expected);
    free(text);
}

/* False when the device is not there. */
static bool run_suite(const suite *s, const char *device, const char *name)
{
    runner r = {.suite = s, .device = device, .wanted = name};
    char model[64];
    snprintf(model, sizeof model, "fixtures/%s", s->model);
    snprintf(r.cases, sizeof r.cases, "fixtures/%s/cases", s->cases);
    if (!CHECK(!inset_context_create(NULL, &r.context), "no context")) return true;
    size_t least;
    inset_status status = getenv("INSET_TEST_STREAMED")
                              ? open_least(r.context, model, device, s->type, &least, &r.model)
                              : model_open(
                                  r.context, model, device, s->type, false, false, 0, &r.model);
    bool missing = status == INSET_DEVICE_ERROR && strcmp(device, "cpu");
    if (missing) fprintf(stderr, "%s\n", inset_message(r.context));
    else if (CHECK(!status, "%s: %s", s->name, inset_message(r.context))) {
        run_written(&r);
        run_random(&r, "random");
        run_random(&r, "edits");
    }
    model_free(r.model);
    inset_context_free(r.context);
    return !missing;
}

int main(int argc, char **argv)
{
    const char *device = getenv("INSET_TEST_DEVICE"), *name = NULL;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-d") && i + 1 < argc) device = argv[++i];
        else name = argv[i];
    }
    brief = test_is_brief() || getenv("INSET_TEST_STREAMED");
    comparator_notices();
    watch_for_crashes();
    for (size_t i = 0; i < sizeof suites / sizeof suites[0]; i++)
        if (!run_suite(&suites[i], device ? device : "cpu", name)) return TEST_SKIP;
    CHECK(cases_run > 0, "no case is called %s", name ? name : "anything");
    return test_result();
}
