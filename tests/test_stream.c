/* test_stream.c: weights that come and go give the bits of weights that stay. The device comes from
 * INSET_TEST_DEVICE, "cpu" without it.
 *
 *   choice      what stays is spread over the layers, and fits; the least that is allowed
 *   families    every family, at several limits: logits of ragged prompts, sweeps, attribution with
 *               steps (so products the other way round), to the bit
 *   counts      a run copies what check says; a second run the same again; check without a device
 *   refusals    too little memory, with what is needed; weights that were given in memory
 *   no memory   each allocation fails in turn
 *   and on the stand-in:
 *   order       copies as early as they may be, and as late: the same bits
 *   failures    each call fails in turn: an error or the right numbers, then the right numbers */
#include "failing_allocator.h"
#include "streamed.h"
#include "sweeps.h"
#include "test.h"
#include "world.h"

#include <string.h>

#ifdef INSET_STANDIN
#include "standin/standin.h"
enum { LIMITS = 2 };
#else
enum { LIMITS = 4 };
#endif

static const char *device_name = "cpu";

/* ---- choice -------------------------------------------------------------- */

static void chooses(inset_context *context, const char *folder)
{
    program *p = NULL;
    char path[64];
    snprintf(path, sizeof path, "fixtures/%s", folder);
    NEED(!model_program(context, path, false, &p), "%s", inset_message(context));
    const stream_sizes is = stream_measure(p, INSET_F32, false);
    const int64_t all = is.tables + is.matrices;
    bool *comes = calloc(p->n_weights, sizeof *comes);
    int64_t slot, least, before = all;
    CHECK(!stream_choose(p, INSET_F32, false, is.tables + 2 * is.largest - 1, comes, &slot, &least)
              && least == is.tables + 2 * is.largest,
        "%s: the least", folder);
    for (int k = 0; k <= 20; k++) {
        const int64_t limit = least + (all - least) * k / 20;
        CHECK(stream_choose(p, INSET_F32, false, limit, comes, &slot, &least), "%s: %d", folder, k);
        const int64_t come = stream_bytes(p, INSET_F32, false, comes);
        const int64_t taken = all - come + (come ? 2 * slot : 0);
        CHECK(taken <= limit, "%s: %lld bytes of %lld", folder, (long long)taken, (long long)limit);
        CHECK(k < 20 || !come, "%s: %lld bytes come where all fit", folder, (long long)come);
        CHECK(come <= before + is.largest, "%s: more room, and more comes", folder);
        before = come;
    }
    free(comes);
    program_free(p);
}

/* ---- the same bits ------------------------------------------------------- */

/* Everything that is compared, as bytes. */
typedef struct numbers {
    char *at;
    size_t n;
} numbers;

static void keep(numbers *to, const void *bytes, size_t n)
{
    to->at = realloc(to->at, to->n + n + 1);
    memcpy(to->at + to->n, bytes, n);
    to->n += n;
}

static inset_status logits(struct inset_model *model, numbers *out)
{
    static const char script[] = "with invoke([[5, 17, 42, 8, 3], [1, 2], [5, 17, 9]]):\n"
                                 "    x = output.logits.save()\n";
    inset_trace *t = NULL;
    inset_plan *plan = NULL;
    inset_tensor x;
    inset_status status = inset_trace_create(model, &t);
    if (!status) status = inset_script(t, "s", "", script, strlen(script));
    if (!status) status = inset_plan_create(t, NULL, &plan);
    for (int again = 0; again < 3 && !status; again++) {
        status = inset_run(plan);
        if (!status) status = inset_saved(plan, "x", &x);
        if (!status) keep(out, x.data, (size_t)inset_tensor_count(&x) * inset_type_size(x.type));
    }
    inset_trace_free(t);
    return status;
}

static inset_status sweeps(struct inset_model *model, bool estimates, numbers *out)
{
    static const char *const metrics[] = {"logit_diff:11,12", NULL};
    inset_attribution_options o = INSET_ATTRIBUTION_OPTIONS;
    inset_sweep *sweep = NULL;
    o.sweep.clean.text = "[[5, 17, 42, 8, 33], [1, 2, 3, 4, 9]]";
    o.sweep.corrupt.text = "[[5, 18, 42, 8, 33], [1, 7, 3, 4, 9]]";
    o.sweep.patch = "resid_pre,z";
    o.sweep.metrics = metrics;
    o.steps = 2;
    inset_status status = estimates ? inset_attribution_create(model, &o, &sweep)
                                    : inset_sweep_create(model, &o.sweep, &sweep);
    if (!status) status = run_all(sweep);
    for (size_t i = 0; i < inset_sweep_result_count(sweep) && !status; i++) {
        inset_sweep_result r;
        if (!(status = inset_sweep_result_at(sweep, i, &r)))
            keep(out, r.values, (size_t)(r.pairs * r.points) * sizeof(float));
    }
    inset_sweep_free(sweep);
    return status;
}

static inset_status edges_of(struct inset_model *model, numbers *out)
{
    static const char *const metrics[] = {"logit_diff:11,12", NULL};
    inset_attribution_options o = INSET_ATTRIBUTION_OPTIONS;
    inset_edges *edges = NULL;
    inset_edge_result r;
    o.sweep.clean.text = "[[5, 17, 42, 8, 33]]";
    o.sweep.corrupt.text = "[[5, 18, 42, 8, 33]]";
    o.sweep.metrics = metrics;
    inset_status status = inset_edges_create(model, &o, 0, &edges);
    while (!status && !inset_edges_done(edges)) status = inset_edges_step(edges);
    if (!status && !(status = inset_edges_result(edges, 0, &r)))
        keep(out, r.mean, (size_t)(r.sources * r.destinations) * sizeof *r.mean);
    inset_edges_free(edges);
    return status;
}

static inset_status everything(struct inset_model *model, numbers *out)
{
    *out = (numbers){0};
    inset_status status = logits(model, out);
    if (!status) status = sweeps(model, false, out);
    if (!status && !model->program->both_ways) status = edges_of(model, out); /* BERT has none */
    return status ? status : sweeps(model, true, out);
}

static void compare(
    struct inset_model *model, const numbers *wanted, const char *folder, const char *what)
{
    numbers found;
    const inset_status status = everything(model, &found);
    CHECK(!status, "%s, %s: %s", folder, what, inset_message(model->context));
    CHECK(status || (found.n == wanted->n && !memcmp(found.at, wanted->at, found.n)),
        "%s, %s: other bits", folder, what);
    free(found.at);
}

static void same_bits(inset_context *context, const char *folder, inset_type type)
{
    struct inset_model *all = NULL, *some = NULL;
    char path[64], what[64];
    size_t least;
    numbers wanted = {0};
    snprintf(path, sizeof path, "fixtures/%s", folder);
    NEED(!model_open(context, path, device_name, type, false, false, 0, &all)
             && !everything(all, &wanted),
        "%s: %s", folder, inset_message(context));
    CHECK(!all->stream, "%s: weights that fit come and go", folder);
    NEED(!open_least(context, path, device_name, type, &least, &some), "%s: %s", folder,
        inset_message(context));
    for (int k = 0; k < LIMITS; k++) {
        snprintf(what, sizeof what, "%.2f of the least", 1 + 0.3 * k);
        if (CHECK(some && some->stream, "%s, %s: nothing comes", folder, what)) {
            CHECK(some->stream->bytes > 0 && !some->stream->copied, "%s", folder);
            compare(some, &wanted, folder, what);
            CHECK(some->stream->copied >= some->stream->bytes, "%s: nothing was copied", folder);
        }
        model_free(some);
        some = NULL;
        const inset_status status = model_open(context, path, device_name, type, false, false,
            (size_t)((1.3 + 0.3 * k) * (double)least), &some);
        NEED(!status, "%s: %s", folder, inset_message(context));
        if (!some->stream) break; /* it all fits */
    }
    model_free(some);
    model_free(all);
    free(wanted.at);
}

/* ---- counts -------------------------------------------------------------- */

static void counts(inset_context *context)
{
    static const char script[] =
        "with invoke([[5, 17, 42, 8]]):\n    x = output.logits[0, -1].save()\n";
    inset_model_options on = INSET_MODEL_OPTIONS;
    inset_model *model = NULL;
    inset_trace *t = NULL;
    inset_plan *plan = NULL;
    inset_statistics is = INSET_STATISTICS, none = INSET_STATISTICS;
    on.device = device_name;
    on.weight_memory = 70000;
    NEED(!inset_model_open(context, "fixtures/gpt2", &on, &model) && !inset_trace_create(model, &t)
             && !inset_script(t, "s", "", script, strlen(script))
             && !inset_plan_create(t, NULL, &plan) && !inset_plan_statistics(plan, &is),
        "%s", inset_message(context));
    CHECK(is.coming_bytes > 0 && is.copied_bytes > 0 && is.copied_bytes <= is.coming_bytes
              && is.weight_bytes > 70000,
        "%lld come, %lld are copied", (long long)is.coming_bytes, (long long)is.copied_bytes);
    int64_t before = 0;
    for (int k = 0; k < 3; k++) {
        NEED(!inset_run(plan), "%s", inset_message(context));
        const int64_t now = model->stream->copied;
        CHECK(now - before >= is.copied_bytes && now - before <= 2 * is.copied_bytes,
            "run %d copied %lld, %lld was said", k, (long long)(now - before),
            (long long)is.copied_bytes);
        before = now;
    }
    inset_model_free(model);
    t = NULL;
    on.device = "none";
    NEED(!inset_model_open(context, "fixtures/gpt2", &on, &model) && !inset_trace_create(model, &t)
             && !inset_script(t, "s", "", script, strlen(script))
             && !inset_plan_create(t, NULL, &plan) && !inset_plan_statistics(plan, &none),
        "%s", inset_message(context));
    CHECK(none.coming_bytes > 0 && none.copied_bytes > 0, "without a device nothing comes");
    inset_model_free(model);
}

/* ---- refusals ------------------------------------------------------------ */

static void refuses(inset_context *context)
{
    inset_model_options on = INSET_MODEL_OPTIONS;
    inset_model *model = NULL;
    on.weight_memory = 5000;
    for (int none = 0; none < 2; none++) {
        on.device = none ? "none" : device_name;
        CHECK(inset_model_open(context, "fixtures/gpt2", &on, &model) == INSET_NO_MEMORY && !model
                  && strstr(inset_message(context), "GB are needed"),
            "%s", inset_message(context));
    }
}

static void survives_no_memory(void)
{
    inset_status status = INSET_NO_MEMORY;
    int tried = 0;
    for (int64_t n = 1; status == INSET_NO_MEMORY && n < 6000; n += n < 100 ? 3 : 37, tried++) {
        failing_allocator memory = {.fail_at = 0};
        inset_context *context;
        struct inset_model *model = NULL;
        numbers found = {0};
        NEED(!inset_context_create(failing_allocator_interface(&memory), &context), "no context");
        memory.calls = 0;
        memory.fail_at = n;
        status = model_open(
            context, "fixtures/llama", device_name, INSET_TYPE_COUNT, false, false, 100000, &model);
        if (!status) status = logits(model, &found);
        memory.fail_at = 0;
        CHECK(
            !status || status == INSET_NO_MEMORY, "%lld: %s", (long long)n, inset_message(context));
        free(found.at);
        model_free(model);
        inset_context_free(context);
        CHECK(!memory.live && !memory.damaged, "%lld: %lld blocks left", (long long)n,
            (long long)memory.live);
    }
    CHECK(!status && tried > 20, "%d tries", tried);
}

/* ---- the stand-in -------------------------------------------------------- */

#ifdef INSET_STANDIN
static void any_order(inset_context *context)
{
    static const char *const folders[] = {"gpt2", "llama_bf16"};
    for (size_t i = 0; i < 2; i++)
        for (int eager = 0; eager < 2; eager++) {
            standin_eager(eager);
            same_bits(context, folders[i], INSET_TYPE_COUNT);
        }
    standin_eager(false);
    CHECK(!*standin_problems(), "%s", standin_problems());
}

static void calls_fail(inset_context *context)
{
    struct inset_model *model = NULL;
    numbers wanted = {0};
    int failed = 0;
    standin_eager(true);
    NEED(!model_open(
             context, "fixtures/gpt2", device_name, INSET_TYPE_COUNT, false, false, 70000, &model)
             && !logits(model, &wanted),
        "%s", inset_message(context));
    for (int64_t n = 1; n < 400; n += 9) {
        numbers found = {0}, again = {0};
        standin_fail_call(n);
        const inset_status status = logits(model, &found);
        standin_fail_call(0);
        failed += status != INSET_OK;
        CHECK(status || (found.n == wanted.n && !memcmp(found.at, wanted.at, found.n)),
            "call %lld failed, and the numbers are wrong", (long long)n);
        CHECK(!logits(model, &again) && !memcmp(again.at, wanted.at, wanted.n),
            "call %lld failed: %s", (long long)n, inset_message(context));
        free(found.at);
        free(again.at);
    }
    CHECK(failed > 15, "%d calls failed", failed);
    standin_eager(false);
    model_free(model);
    free(wanted.at);
    CHECK(!*standin_problems(), "%s", standin_problems());
}
#endif

int main(void)
{
#ifdef INSET_STANDIN /* the others: test_cases_standin_streamed */
    static const char *const folders[] = {"gpt2", "gpt2_f16", "gpt_neox", "gemma2", "phi3"};
#else
    static const char *const folders[] = {"gpt2", "gpt2_bf16", "gpt2_f16", "gpt2_options",
        "gpt2_sharded", "gpt_neox", "gpt_neox_serial", "llama", "llama3", "llama_bf16", "mistral",
        "olmo2", "phi3", "qwen2", "qwen3", "gemma2", "gemma2_bf16", "gemma", "gemma3", "olmo3",
        "smollm3", "gpt_neo", "stablelm", "starcoder2", "bloom", "granite", "olmo", "opt", "bert",
        "gptj", "phi", "stablelm_parallel", "cohere", "cohere2", "mixtral", "qwen3_moe", "gpt_oss",
        "induction"};
#endif
    inset_context *context = NULL;
    if (getenv("INSET_TEST_DEVICE")) device_name = getenv("INSET_TEST_DEVICE");
    if (!CHECK(!inset_context_create(NULL, &context), "no context")) return test_result();
#ifndef INSET_STANDIN
    struct inset_model *model = NULL;
    const inset_status there = model_open(
        context, "fixtures/gpt2", device_name, INSET_TYPE_COUNT, false, false, 0, &model);
    if (there == INSET_DEVICE_ERROR) return inset_context_free(context), TEST_SKIP;
    model_free(model);
#endif
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        chooses(context, folders[i]);
        same_bits(context, folders[i], INSET_TYPE_COUNT);
    }
    same_bits(context, "llama", INSET_BF16);
    counts(context);
    refuses(context);
    survives_no_memory();
#ifdef INSET_STANDIN
    any_order(context);
    calls_fail(context);
#endif
    inset_context_free(context);
    return test_result();
}
