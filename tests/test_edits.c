/* test_edits.c: edits through the public interface: of a trace, by calls and by script, and of a
 * model; what is refused and where, what is shared, handles freed in every order, and each
 * allocation failing in turn. What their lines mean in scripts: script/same.txt and the cases of
 * fixtures. */
#include "failing_allocator.h"
#include "inset.h"
#include "test.h"

static const int64_t one[] = {3}, prompt[] = {5, 6, 7}, other[] = {5, 6, 8};

typedef struct bench {
    failing_allocator memory;
    inset_context *context;
    inset_model *model;
} bench;

static inset_status open_bench(bench *b)
{
    inset_model_options options = INSET_MODEL_OPTIONS;
    options.device = "cpu";
    inset_status status = inset_context_create(
        failing_allocator_interface(&b->memory), &b->context);
    return status ? status : inset_model_open(b->context, "fixtures/gpt2", &options, &b->model);
}

static void close_bench(bench *b, const char *what)
{
    inset_context_free(b->context);
    CHECK(b->memory.live == 0 && b->memory.damaged == 0, "%s: %lld blocks left, %lld damaged", what,
        (long long)b->memory.live, (long long)b->memory.damaged);
}

static void refused(const bench *b, inset_status status, inset_status expected, const char *words)
{
    CHECK(status == expected && strstr(inset_message(b->context), words),
        "%s with '%s' was expected, found %s: %s", inset_status_name(expected), words,
        inset_status_name(status), inset_message(b->context));
}

/* h[1].output[:, 0] = 2 * h[0].output[:, 1] + 1; h[2].skip(h[2].input * 0.5) */
static inset_status edit_lines(inset_trace *t)
{
    inset_value *x, *number, *y;
    inset_status status = inset_get(t, "transformer.h[0].output[:, 1]", &x);
    if (!status) status = inset_number(t, 2, &number);
    if (!status) status = inset_arithmetic(x, INSET_MULTIPLY, number, &x);
    if (!status) status = inset_integer(t, 1, &number);
    if (!status) status = inset_arithmetic(x, INSET_ADD, number, &x);
    if (!status) status = inset_set(t, "transformer.h[1].output[:, 0]", x);
    if (!status) status = inset_get(t, "transformer.h[2].input", &y);
    if (!status) status = inset_number(t, 0.5, &number);
    if (!status) status = inset_arithmetic(y, INSET_MULTIPLY, number, &y);
    return status ? status : inset_skip(t, "transformer.h[2]", y);
}

static const char edited_script[] = "with edit():\n"
                                    "    x = transformer.h[0].output[:, 1] * 2 + 1\n"
                                    "    transformer.h[1].output[:, 0] = x\n"
                                    "    transformer.h[2].skip(transformer.h[2].input * 0.5)\n"
                                    "with invoke([[5, 6, 7]]):\n"
                                    "    y = transformer.h[1].output.save()\n"
                                    "    z = lm_head.output.save()\n";

static inset_status read_both(inset_trace *t, const char *y, const char *z)
{
    inset_value *x;
    inset_status status = inset_get(t, "transformer.h[1].output", &x);
    if (!status) status = inset_save(t, y, x);
    if (!status) status = inset_get(t, "lm_head.output", &x);
    return status ? status : inset_save(t, z, x);
}

static inset_status run_of(inset_trace *t, inset_plan **plan)
{
    inset_status status = inset_plan_create(t, NULL, plan);
    return status ? status : inset_run(*plan);
}

/* Are two saved values the same? To rounding, since a CPU's products may depend on what is computed
 * beside them. */
static bool same(inset_plan *a, const char *name, inset_plan *b, const char *with)
{
    inset_tensor x, y;
    if (inset_saved(a, name, &x) || inset_saved(b, with, &y)) return false;
    const int64_t n = inset_tensor_count(&x);
    bool found = n == inset_tensor_count(&y);
    for (int64_t i = 0; i < n && found; i++)
        found = fabs(inset_tensor_element(&x, i) - inset_tensor_element(&y, i)) < 1e-5;
    return found;
}

static inset_status scripted(bench *b, inset_plan **plan)
{
    inset_trace *t;
    inset_status status = inset_trace_create(b->model, &t);
    if (!status) status = inset_script(t, "x.inset", "", edited_script, strlen(edited_script));
    return status ? status : run_of(t, plan);
}

/* ---- of a trace --------------------------------------------------------- */

static void by_calls(void)
{
    bench b = {0};
    inset_trace *t;
    inset_plan *script = NULL, *calls = NULL;
    char words[200];
    size_t length;
    inset_status status = open_bench(&b);
    if (!status) status = scripted(&b, &script);
    if (!status) status = inset_trace_create(b.model, &t);
    if (!status) status = inset_edit(t);
    if (!status) status = edit_lines(t);
    if (!status) status = inset_invoke_tokens(t, 1, one, prompt);
    if (!status) status = read_both(t, "y", "z");
    if (!status) status = inset_edits(t, words, sizeof words, &length);
    if (!status) status = inset_clear_edits(t);
    if (!status) status = inset_invoke_tokens(t, 1, one, prompt);
    if (!status) status = read_both(t, "plain y", "plain z");
    if (!status) status = run_of(t, &calls);
    if (CHECK(!status, "%s", inset_message(b.context))) {
        CHECK(same(script, "y", calls, "y") && same(script, "z", calls, "z"), "the edits differ");
        CHECK(!same(script, "y", calls, "plain y") && !same(script, "z", calls, "plain z"),
            "an edit that was cleared holds");
        CHECK(!strcmp(words, "reads transformer.h.0.output, sets transformer.h.1.output, reads "
                             "transformer.h.2.input, skips transformer.h.2\n")
                  && length == strlen(words),
            "the edits in words: %s", words);
        CHECK(!inset_edits(t, words, 3, &length) && !*words && !length, "none are left");
    }
    close_bench(&b, "by calls");
}

/* What stands behind the last site of an open invoke is in its plan. */
static void open_invoke(void)
{
    bench b = {0};
    inset_trace *t, *ended;
    inset_value *x, *zero;
    inset_plan *plan = NULL, *whole = NULL;
    inset_status status = open_bench(&b);
    for (int k = 0; k < 2 && !status; k++) {
        inset_trace **made = k ? &ended : &t;
        status = inset_trace_create(b.model, made);
        if (!status) status = inset_edit(*made);
        if (!status) status = inset_number(*made, 0, &zero);
        if (!status) status = inset_set(*made, "transformer.h[0].output[:, 0]", zero);
        if (!status) status = inset_invoke_tokens(*made, 1, one, prompt);
        if (!status) status = inset_get(*made, "transformer.h[0].input", &x);
        if (!status) status = inset_save_site(*made, inset_site_count(b.model) - 1, "logits");
        if (!status && k) status = inset_invoke_end(*made);
        if (!status) status = run_of(*made, k ? &whole : &plan);
    }
    CHECK(!status && same(plan, "logits", whole, "logits"), "%s", inset_message(b.context));
    close_bench(&b, "an open invoke");
}

/* Each invoke has its own of a tensor that an edit puts in a site's place. */
static void own_tensors(void)
{
    bench b = {0};
    inset_trace *t;
    inset_value *x, *number;
    inset_plan *plan = NULL;
    static float numbers[3 * 28];
    inset_tensor out;
    inset_status status = open_bench(&b);
    for (int i = 0; i < 3 * 28; i++) numbers[i] = (float)i;
    if (!status) status = inset_trace_create(b.model, &t);
    if (!status) status = inset_edit(t);
    if (!status) status = inset_external(t, INSET_TENSOR(numbers, INSET_F32, 1, 3, 28), &x);
    if (!status) status = inset_set(t, "transformer.h[1].output", x);
    for (int k = 0; k < 2 && !status; k++) {
        status = inset_invoke_tokens(t, 1, one, prompt);
        if (!status) status = inset_get(t, "transformer.h[1].output[0, 0, :2]", &x);
        if (!status) status = inset_save(t, k ? "second" : "first", x);
        if (!status && k) status = inset_number(t, -1, &number);
        if (!status && k) status = inset_set_value(x, "", number);
    }
    if (!status) status = run_of(t, &plan);
    if (CHECK(!status, "%s", inset_message(b.context))) {
        CHECK(!inset_saved(plan, "first", &out) && inset_tensor_element(&out, 1) == 1,
            "the second invoke changed the first one's");
        CHECK(!inset_saved(plan, "second", &out) && inset_tensor_element(&out, 1) == -1, "second");
    }
    close_bench(&b, "own tensors");
}

static int64_t rows_of(inset_trace *t)
{
    inset_plan *plan;
    inset_statistics s = INSET_STATISTICS;
    return inset_plan_create(t, NULL, &plan) || inset_plan_statistics(plan, &s) ? -1 : s.rows;
}

/* Invokes with equal edits are computed once. */
static void shared(void)
{
    bench b = {0};
    int64_t rows[2] = {0};
    inset_status status = open_bench(&b);
    for (int many = 0; many < 2 && !status; many++) {
        inset_trace *t;
        status = inset_trace_create(b.model, &t);
        if (!status) status = inset_edit(t);
        if (!status) status = edit_lines(t);
        for (int k = 0; k < (many ? 20 : 1) && !status; k++) {
            char y[16], z[16];
            snprintf(y, sizeof y, "y%d", k);
            snprintf(z, sizeof z, "z%d", k);
            status = inset_invoke_tokens(t, 1, one, prompt);
            if (!status) status = read_both(t, y, z);
        }
        if (!status) rows[many] = rows_of(t);
    }
    CHECK(!status && rows[0] > 0 && rows[0] == rows[1],
        "%lld rows of one invoke, %lld of twenty: %s", (long long)rows[0], (long long)rows[1],
        inset_message(b.context));
    close_bench(&b, "shared");
}

/* ---- refusals ----------------------------------------------------------- */

static void refusals_in_edits(const bench *b, inset_trace *t)
{
    inset_value *x = NULL, *y = NULL;
    char shape[20];
    NEED(!inset_edit(t) && !inset_get(t, "transformer.h[1].output", &x), "%s",
        inset_message(b->context));
    refused(b, inset_save(t, "x", x), INSET_SYNTAX_ERROR, "a save belongs in an invoke");
    refused(b, inset_save_site(t, 1, "x"), INSET_SYNTAX_ERROR, "a save belongs in an invoke");
    refused(b, inset_save_stack(t, "x", 1, &x), INSET_SYNTAX_ERROR, "a save belongs in an invoke");
    refused(b, inset_stop(t), INSET_SYNTAX_ERROR, "stop() belongs in an invoke");
    refused(b, inset_backward(t, x), INSET_SYNTAX_ERROR, "backward() belongs in an invoke");
    refused(b, inset_gradient(t, x, &y), INSET_SYNTAX_ERROR, ".grad");
    refused(b, inset_get(t, "transformer.h[0].output", &y), INSET_OUT_OF_ORDER, "");
    refused(b, inset_call(t, "transformer.wte", x, &y), INSET_TYPE_ERROR, "");
    refused(b, inset_value_shape(x, shape, sizeof shape, NULL), INSET_USAGE_ERROR, "a shape");
    refused(b, inset_invoke_value(t, x), INSET_TYPE_ERROR, "no invoke's input");
    NEED(!inset_invoke_tokens(t, 1, one, prompt), "%s", inset_message(b->context));
    refused(b, inset_index(x, "[0]", &y), INSET_NAME_ERROR, "a value of an edit()");
    refused(b, inset_clone(x, &y), INSET_NAME_ERROR, "a value of an edit()");
    refused(b, inset_negate(x, &y), INSET_NAME_ERROR, "a value of an edit()");
    refused(b, inset_arithmetic(x, INSET_ADD, x, &y), INSET_NAME_ERROR, "a value of an edit()");
    refused(b, inset_apply(x, INSET_FUNCTION_EXP, &y), INSET_NAME_ERROR, "a value of an edit()");
    refused(b, inset_cast(x, INSET_F32, &y), INSET_NAME_ERROR, "a value of an edit()");
    refused(b, inset_call(t, "lm_head", x, &y), INSET_NAME_ERROR, "a value of an edit()");
    refused(b, inset_metric(x, INSET_KL, 0, NULL, 0, NULL, x, &y), INSET_NAME_ERROR, "edit()");
    refused(b, inset_set_value(x, "", x), INSET_NAME_ERROR, "a value of an edit()");
    refused(b, inset_set(t, "transformer.h[2].output", x), INSET_NAME_ERROR, "edit()");
    refused(b, inset_skip(t, "transformer.h[2].mlp", x), INSET_NAME_ERROR, "edit()");
    refused(b, inset_save(t, "x", x), INSET_NAME_ERROR, "a value of an edit()");
    refused(b, inset_save_stack(t, "x", 1, &x), INSET_NAME_ERROR, "a value of an edit()");
    refused(b, inset_backward(t, x), INSET_NAME_ERROR, "a value of an edit()");
    refused(b, inset_invoke_value(t, x), INSET_NAME_ERROR, "a value of an edit()");
}

/* A line of an edit that does not fit an invoke: before the model, at a site, at its end. */
static void refusals_in_invokes(const bench *b, inset_trace *t)
{
    static const float numbers[3];
    inset_value *x = NULL, *zero = NULL, *y = NULL;
    NEED(!inset_external(t, INSET_TENSOR(numbers, INSET_F32, 3), &x) && !inset_edit(t)
             && !inset_index(x, "[7]", &y),
        "%s", inset_message(b->context));
    refused(b, inset_invoke_tokens(t, 1, one, prompt), INSET_INDEX_ERROR, "repeated in invoke 1");
    CHECK(!inset_clear_edits(t) && !inset_edit(t) && !inset_number(t, 0, &zero)
              && !inset_set(t, "transformer.h[1].output[:, 3]", zero)
              && !inset_invoke_tokens(t, 1, one, prompt)
              && !inset_get(t, "transformer.h[0].output", &y),
        "%s", inset_message(b->context));
    refused(b, inset_get(t, "transformer.h[1].output", &y), INSET_INDEX_ERROR,
        "This is an edit's, repeated in invoke 1: it sets transformer.h.1.output.");
    refused(b, inset_plan_create(t, NULL, &(inset_plan *){NULL}), INSET_INDEX_ERROR, "invoke 1");
    refused(b, inset_invoke_end(t), INSET_INDEX_ERROR, "repeated in invoke 1");
}

/* An edit of a script in an invoke by calls: no line of it is named; in one of the same script it
 * is, in one of another script it is not. */
static void refusals_of_scripts(const bench *b, inset_trace *t)
{
    static const char edit[] = "with edit():\n    transformer.h[1].output[:, 9] = 0\n",
                      invoke[] = "\n\nwith invoke([[5, 6]]):\n    x = lm_head.output.save()\n";
    inset_value *y = NULL;
    char both[200];
    CHECK(!inset_script(t, "a.inset", "", edit, strlen(edit))
              && !inset_invoke_tokens(t, 1, one, prompt),
        "%s", inset_message(b->context));
    refused(b, inset_get(t, "lm_head.output", &y), INSET_INDEX_ERROR,
        "This is an edit's, repeated in invoke 1: it sets transformer.h.1.output.");
    CHECK(!strstr(inset_message(b->context), "line"), "%s", inset_message(b->context));
    inset_invoke_end(t); /* fails, and ends it */
    refused(b, inset_script(t, "b.inset", "", invoke, strlen(invoke)), INSET_INDEX_ERROR,
        "b.inset:4:9");
    inset_invoke_end(t);
    inset_clear_edits(t);
    snprintf(both, sizeof both, "%s%s", edit, invoke);
    refused(
        b, inset_script(t, "c.inset", "", both, strlen(both)), INSET_INDEX_ERROR, "c.inset:2:5");
    CHECK(strstr(inset_message(b->context), "edit() repeats this line in the invoke on line 5."),
        "%s", inset_message(b->context));
}

static void refusals(void)
{
    bench b = {0};
    inset_trace *t = NULL, *u = NULL, *v = NULL;
    CHECK(inset_edit(NULL) == INSET_USAGE_ERROR && inset_clear_edits(NULL) == INSET_USAGE_ERROR
              && inset_edits(NULL, NULL, 0, NULL) == INSET_USAGE_ERROR
              && inset_model_edit(NULL, &t) == INSET_USAGE_ERROR
              && inset_model_clear_edits(NULL) == INSET_USAGE_ERROR
              && inset_model_edits(NULL, NULL, 0, NULL) == INSET_USAGE_ERROR,
        "NULLs");
    if (CHECK(!open_bench(&b) && !inset_trace_create(b.model, &t)
                  && !inset_trace_create(b.model, &u) && !inset_trace_create(b.model, &v),
            "%s", inset_message(b.context))) {
        refusals_in_edits(&b, t);
        refusals_in_invokes(&b, u);
        refusals_of_scripts(&b, v);
        refused(&b, inset_edits(t, NULL, 5, NULL), INSET_USAGE_ERROR, "buffer");
        refused(&b, inset_model_edit(b.model, NULL), INSET_USAGE_ERROR, "");
    }
    close_bench(&b, "refusals");
}

/* ---- of a model --------------------------------------------------------- */

static void check_sweeps(bench *b)
{
    inset_sweep_options options = INSET_SWEEP_OPTIONS;
    inset_attribution_options attribution = INSET_ATTRIBUTION_OPTIONS;
    static const char *const metrics[] = {"logit:3", NULL};
    inset_sweep *sweep = NULL;
    inset_edges *edges = NULL;
    options.clean.text = "[[5, 6, 7]]";
    options.corrupt.text = "[[5, 6, 8]]";
    options.patch = "z";
    options.metrics = metrics;
    attribution.sweep = options;
    refused(b, inset_sweep_create(b->model, &options, &sweep), INSET_USAGE_ERROR, "has edits");
    refused(
        b, inset_attribution_create(b->model, &attribution, &sweep), INSET_USAGE_ERROR, "edits");
    attribution.sweep.patch = NULL;
    refused(b, inset_edges_create(b->model, &attribution, 0, &edges), INSET_USAGE_ERROR, "edits");
}

static inset_status plain_trace(inset_model *model, const int64_t *tokens, inset_trace **out)
{
    inset_status status = inset_trace_create(model, out);
    if (!status) status = inset_invoke_tokens(*out, 1, one, tokens);
    return status ? status : read_both(*out, "y", "z");
}

static void of_a_model(void)
{
    bench b = {0};
    inset_trace *before = NULL, *edit = NULL, *dropped = NULL, *t = NULL, *after = NULL;
    inset_plan *script = NULL, *plain = NULL, *edited = NULL, *cleared = NULL;
    char words[200] = "";
    inset_status status = open_bench(&b);
    if (!status) status = scripted(&b, &script);
    if (!status) status = inset_trace_create(b.model, &before);
    if (!status) status = inset_model_edit(b.model, &dropped);
    if (!status) status = edit_lines(dropped);
    inset_trace_free(dropped); /* before its end: there is no edit */
    if (!status) status = inset_model_edit(b.model, &edit);
    if (!status) status = edit_lines(edit);
    if (CHECK(!status, "%s", inset_message(b.context))) {
        refused(&b, inset_edit(edit), INSET_USAGE_ERROR, "edit of the model");
        refused(
            &b, inset_invoke_tokens(edit, 1, one, prompt), INSET_USAGE_ERROR, "the model's edit");
        status = inset_invoke_end(edit);
        if (!status) status = inset_invoke_end(edit); /* once is enough */
        refused(
            &b, inset_invoke_tokens(edit, 1, one, prompt), INSET_USAGE_ERROR, "the model's edit");
    }
    inset_trace_free(edit);
    if (!status) status = inset_model_edits(b.model, words, sizeof words, NULL);
    if (!status) check_sweeps(&b);
    if (!status) status = plain_trace(b.model, prompt, &t);
    if (!status) status = inset_model_clear_edits(b.model);
    if (!status) status = run_of(t, &edited);
    if (!status) status = plain_trace(b.model, prompt, &after);
    if (!status) status = run_of(after, &cleared);
    if (!status) status = inset_invoke_tokens(before, 1, one, prompt);
    if (!status) status = read_both(before, "y", "z");
    if (!status) status = run_of(before, &plain);
    if (CHECK(!status, "%s", inset_message(b.context))) {
        CHECK(strstr(words, "sets transformer.h.1.output") && strchr(words, '\n')
                  && !strchr(words, '\n')[1],
            "the model's edits in words: %s", words);
        CHECK(same(edited, "y", script, "y") && same(edited, "z", script, "z"), "the edit differs");
        CHECK(same(cleared, "z", plain, "z") && !same(edited, "z", plain, "z"),
            "a trace from before or behind the edit has it");
    }
    close_bench(&b, "of a model");
}

/* Other inputs and metrics' tokens for a plan of an edited trace. */
static void run_again(void)
{
    bench b = {0};
    inset_trace *t = NULL, *u = NULL;
    inset_plan *plan = NULL, *fresh = NULL;
    inset_status status = open_bench(&b);
    if (!status) status = inset_model_edit(b.model, &t);
    if (!status) status = edit_lines(t);
    if (!status) status = inset_invoke_end(t);
    if (!status) status = plain_trace(b.model, prompt, &t);
    if (!status) status = run_of(t, &plan);
    if (!status) status = inset_plan_tokens(plan, 0, 3, other);
    if (!status) status = inset_run(plan);
    if (!status) status = plain_trace(b.model, other, &u);
    if (!status) status = run_of(u, &fresh);
    CHECK(!status && same(plan, "z", fresh, "z"), "%s", inset_message(b.context));
    close_bench(&b, "run again");
}

/* ---- memory that runs out ----------------------------------------------- */

static inset_status whole_path(bench *b)
{
    inset_trace *t;
    inset_plan *plan;
    static const float numbers[28];
    inset_value *x;
    char words[100];
    inset_model_options options = INSET_MODEL_OPTIONS;
    options.device = "none";
    inset_status status = inset_context_create(
        failing_allocator_interface(&b->memory), &b->context);
    if (!status) status = inset_model_open(b->context, "fixtures/gpt2", &options, &b->model);
    if (!status) status = inset_model_edit(b->model, &t);
    if (!status) status = edit_lines(t);
    if (!status) status = inset_external(t, INSET_TENSOR(numbers, INSET_F32, 28), &x);
    if (!status) status = inset_set(t, "lm_head.input[:, [0, 1]]", x);
    if (!status) status = inset_invoke_end(t);
    if (!status) status = inset_model_edits(b->model, words, sizeof words, NULL);
    if (!status) status = inset_trace_create(b->model, &t);
    if (!status) status = inset_script(t, "x.inset", "", edited_script, strlen(edited_script));
    if (!status) status = inset_plan_create(t, NULL, &plan);
    return status ? status : inset_model_clear_edits(b->model);
}

static void failing_allocations(void)
{
    inset_status status = INSET_NO_MEMORY;
    int64_t n = 0;
    while (status && n < 100000 && test_failures < 3) {
        bench b = {.memory = {.fail_at = ++n}};
        status = whole_path(&b);
        CHECK(status == INSET_OK || status == INSET_NO_MEMORY, "allocation %lld: %s: %s",
            (long long)n, inset_status_name(status), inset_message(b.context));
        /* a failure that a spare path made up for: go on */
        if (status == INSET_OK && b.memory.calls >= n) status = INSET_NO_MEMORY;
        close_bench(&b, "an allocation that failed");
    }
    CHECK(n > 50, "only %lld allocations", (long long)n);
}

int main(void)
{
    by_calls();
    open_invoke();
    own_tensors();
    shared();
    refusals();
    of_a_model();
    run_again();
    failing_allocations();
    return test_result();
}
