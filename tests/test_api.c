/* test_api.c: the public interface: models of one's own against plain loops, the same trace by
 * calls and by script, plans that run again, handles freed in every order, misuse, and each
 * allocation failing in turn. */
#include "failing_allocator.h"
#include "inset.h"
#include "test.h"

/* ---- the two-layer model, as README declares it ------------------------- */

typedef struct two_layers {
    float w1[10 * 5], b1[10], w2[2 * 10], b2[2];
} two_layers;

static void fill_two_layers(two_layers *m)
{
    for (int i = 0; i < 50; i++) m->w1[i] = (float)(i % 7 - 3);
    for (int i = 0; i < 10; i++) m->b1[i] = (float)i;
    for (int i = 0; i < 20; i++) m->w2[i] = (float)(i % 5 - 2);
    for (int i = 0; i < 2; i++) m->b2[i] = (float)(i + 1);
}

static inset_status build_two_layers(inset_context *context, const two_layers *m,
    const inset_model_options *options, inset_model **model)
{
    inset_builder *builder = NULL;
    inset_status status = inset_builder_create(context, &builder);
    inset_slot x = inset_builder_input(builder, 5);
    x = inset_builder_linear(builder, "layer1", x, INSET_TENSOR(m->w1, INSET_F32, 10, 5),
        INSET_TENSOR(m->b1, INSET_F32, 10));
    x = inset_builder_linear(builder, "layer2", x, INSET_TENSOR(m->w2, INSET_F32, 2, 10),
        INSET_TENSOR(m->b2, INSET_F32, 2));
    return status ? status : inset_builder_finish(builder, x, options, model);
}

/* layer1's output with column 0 set to `set` (NAN: not set), then layer2's. */
static void expect_two_layers(
    const two_layers *m, const float *x, double set, double *hidden, double *out)
{
    for (int i = 0; i < 10; i++) {
        hidden[i] = m->b1[i];
        for (int j = 0; j < 5; j++) hidden[i] += (double)m->w1[i * 5 + j] * x[j];
    }
    if (!isnan(set)) hidden[0] = set;
    for (int i = 0; i < 2; i++) {
        out[i] = m->b2[i];
        for (int j = 0; j < 10; j++) out[i] += m->w2[i * 10 + j] * hidden[j];
    }
}

/* The trace of README on the model: saves `before`, `after` and `result`. */
static inset_status record_two_layers(
    inset_model *model, const float *x, double set, inset_trace **trace)
{
    inset_value *number = NULL, *before = NULL, *copy = NULL, *after = NULL, *result = NULL;
    inset_status status = inset_trace_create(model, trace);
    if (!status) status = inset_invoke_rows(*trace, 1, 5, x);
    if (!status) status = inset_get(*trace, "layer1.output", &before);
    if (!status) status = inset_clone(before, &copy);
    if (!status) status = inset_save(*trace, "before", copy);
    if (!status) status = inset_number(*trace, set, &number);
    if (!status) status = inset_set(*trace, "layer1.output[:, 0]", number);
    if (!status) status = inset_get(*trace, "layer1.output", &after);
    if (!status) status = inset_save(*trace, "after", after);
    if (!status) status = inset_get(*trace, "layer2.output", &result);
    return status ? status : inset_save(*trace, "result", result);
}

static void check_saved(
    inset_plan *plan, const char *name, const double *expected, int64_t count, const char *what)
{
    inset_tensor out;
    inset_status status = inset_saved(plan, name, &out);
    NEED(!status, "%s: %s was not saved", what, name);
    NEED(inset_tensor_count(&out) == count, "%s: %s has %lld elements, %lld expected", what, name,
        (long long)inset_tensor_count(&out), (long long)count);
    for (int64_t i = 0; i < count; i++)
        CHECK(fabs(inset_tensor_element(&out, i) - expected[i]) <= 1e-5 * (1 + fabs(expected[i])),
            "%s: %s[%lld] is %g, %g expected", what, name, (long long)i,
            inset_tensor_element(&out, i), expected[i]);
}

static void check_two_layers(
    inset_plan *plan, const two_layers *m, const float *x, double set, const char *what)
{
    double before[10], after[10], result[2];
    expect_two_layers(m, x, NAN, before, result);
    expect_two_layers(m, x, set, after, result);
    check_saved(plan, "before", before, 10, what);
    check_saved(plan, "after", after, 10, what);
    check_saved(plan, "result", result, 2, what);
}

static const float first_input[5] = {1, 2, 3, 4, 5}, second_input[5] = {-2, 0.5f, 7, 0, 1};

static void own_model(void)
{
    two_layers m;
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_trace *trace = NULL;
    inset_plan *plan = NULL;
    inset_model_options options = INSET_MODEL_OPTIONS;
    options.device = "cpu";
    fill_two_layers(&m);
    NEED(!inset_context_create(NULL, &context), "no context");
    bool good = CHECK(
                    !build_two_layers(context, &m, &options, &model), "%s", inset_message(context))
                && CHECK(!record_two_layers(model, first_input, 100, &trace), "%s",
                    inset_message(context))
                && CHECK(!inset_plan_create(trace, NULL, &plan), "%s", inset_message(context))
                && CHECK(!inset_run(plan), "%s", inset_message(context));
    if (good) {
        check_two_layers(plan, &m, first_input, 100, "first run");
        CHECK(!inset_run(plan), "%s", inset_message(context));
        check_two_layers(plan, &m, first_input, 100, "second run");
        CHECK(!inset_plan_rows(plan, 0, 1, 5, second_input) && !inset_run(plan), "%s",
            inset_message(context));
        check_two_layers(plan, &m, second_input, 100, "other input");
        CHECK(inset_plan_rows(plan, 0, 1, 4, second_input) == INSET_SHAPE_ERROR,
            "four numbers for five were taken");
        CHECK(inset_plan_rows(plan, 1, 1, 5, second_input) == INSET_INDEX_ERROR,
            "an invoke that is not there was given input");
        CHECK(!strcmp(inset_model_kind(model), "own") && inset_model_type(model) == INSET_F32, "%s",
            inset_model_kind(model));
        CHECK(!strncmp(inset_model_device(model), "cpu", 3), "%s", inset_model_device(model));
    }
    inset_context_free(context);
}

/* ---- other tensors at the next run -------------------------------------- */

/* layer1.output is `hidden` from outside, but its column 3, which is `number`; layer2 makes of it
 * what loops make. */
static void check_replaced(
    inset_plan *plan, const two_layers *m, const float *hidden, float number, const char *what)
{
    double result[2];
    for (int j = 0; j < 2; j++) {
        result[j] = m->b2[j];
        for (int i = 0; i < 10; i++)
            result[j] += (double)m->w2[j * 10 + i] * (i == 3 ? number : hidden[i]);
    }
    check_saved(plan, "result", result, 2, what);
}

/* layer1.output = hidden; layer1.output[:, 3] = number; result = layer2.output.save() */
static inset_status record_replaced(
    inset_trace *t, const float *hidden, const float *number, inset_value **h, inset_value **n)
{
    inset_value *result;
    inset_status status = inset_external(t, INSET_TENSOR(hidden, INSET_F32, 1, 10), h);
    if (!status) status = inset_external(t, INSET_TENSOR(number, INSET_F32, 1), n);
    if (!status) status = inset_invoke_rows(t, 1, 5, first_input);
    if (!status) status = inset_set(t, "layer1.output", *h);
    if (!status) status = inset_set(t, "layer1.output[:, 3]", *n);
    if (!status) status = inset_get(t, "layer2.output", &result);
    return status ? status : inset_save(t, "result", result);
}

static void refuses_tensors(
    inset_context *context, inset_trace *t, inset_plan *plan, inset_value *h)
{
    static const float numbers[10];
    inset_value *part, *number;
    CHECK(inset_plan_tensor(NULL, h, INSET_TENSOR(numbers, INSET_F32, 1, 10)) == INSET_USAGE_ERROR,
        "no plan");
    CHECK(
        inset_plan_tensor(plan, NULL, INSET_TENSOR(numbers, INSET_F32, 1, 10)) == INSET_USAGE_ERROR,
        "no value");
    CHECK(inset_plan_tensor(plan, h, NULL) == INSET_USAGE_ERROR, "no tensor");
    CHECK(inset_plan_tensor(plan, h, INSET_TENSOR(numbers, INSET_F32, 10)) == INSET_SHAPE_ERROR,
        "one dimension for two");
    CHECK(inset_plan_tensor(plan, h, INSET_TENSOR(numbers, INSET_F32, 1, 9)) == INSET_SHAPE_ERROR,
        "nine numbers for ten");
    CHECK(inset_plan_tensor(plan, h, INSET_TENSOR(numbers, INSET_BF16, 1, 10)) == INSET_TYPE_ERROR
              && strstr(inset_message(context), "torch.float32"),
        "%s", inset_message(context));
    NEED(!inset_index(h, "[:, 1:3]", &part) && !inset_number(t, 4, &number), "%s",
        inset_message(context));
    CHECK(
        inset_plan_tensor(plan, part, INSET_TENSOR(numbers, INSET_F32, 1, 2)) == INSET_USAGE_ERROR,
        "a part");
    CHECK(inset_plan_tensor(plan, number, INSET_TENSOR(numbers, INSET_F32, 1)) == INSET_USAGE_ERROR,
        "a number");
}

static void other_tensors(void)
{
    static const float hidden[2][10] = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10},
        {-3, 0, 0.5f, 9, 2, 2, -1, 4, 0, 1}},
                       number[3] = {100, -7, 0.25f};
    two_layers m;
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_trace *trace = NULL, *another = NULL;
    inset_plan *plan = NULL;
    inset_value *h, *n, *foreign;
    inset_model_options options = INSET_MODEL_OPTIONS;
    options.device = "cpu";
    fill_two_layers(&m);
    NEED(!inset_context_create(NULL, &context), "no context");
    bool good = CHECK(!build_two_layers(context, &m, &options, &model)
                          && !inset_trace_create(model, &trace)
                          && !inset_trace_create(model, &another)
                          && !record_replaced(trace, hidden[0], &number[0], &h, &n)
                          && !inset_plan_create(trace, NULL, &plan),
        "%s", inset_message(context));
    if (good) {
        CHECK(
            !inset_plan_tensor(plan, n, INSET_TENSOR(&number[1], INSET_F32, 1)) && !inset_run(plan),
            "%s", inset_message(context));
        check_replaced(plan, &m, hidden[0], number[1], "another number before the first run");
        CHECK(!inset_plan_tensor(plan, h, INSET_TENSOR(hidden[1], INSET_F32, 1, 10))
                  && !inset_run(plan),
            "%s", inset_message(context));
        check_replaced(plan, &m, hidden[1], number[1], "another tensor");
        CHECK(!inset_plan_tensor(plan, h, INSET_TENSOR(hidden[0], INSET_F32, 1, 10))
                  && !inset_plan_tensor(plan, n, INSET_TENSOR(&number[2], INSET_F32, 1))
                  && !inset_run(plan),
            "%s", inset_message(context));
        check_replaced(plan, &m, hidden[0], number[2], "both");
        refuses_tensors(context, trace, plan, h);
        NEED(!inset_external(another, INSET_TENSOR(hidden[1], INSET_F32, 1, 10), &foreign), "%s",
            inset_message(context));
        CHECK(inset_plan_tensor(plan, foreign, INSET_TENSOR(hidden[1], INSET_F32, 1, 10))
                  == INSET_USAGE_ERROR,
            "another trace's value");
        CHECK(!inset_run(plan), "%s", inset_message(context));
        check_replaced(plan, &m, hidden[0], number[2], "after refusals");
    }
    inset_context_free(context);
}

/* Options of a caller that was compiled before `fast` was there, what lies behind them being no
 * option; and with it. */
static void older_and_fast_options(void)
{
    two_layers m;
    inset_context *context = NULL;
    fill_two_layers(&m);
    NEED(!inset_context_create(NULL, &context), "no context");
    for (int fast = 0; fast < 2; fast++) {
        inset_model *model = NULL;
        inset_trace *trace = NULL;
        inset_plan *plan = NULL;
        inset_model_options options = INSET_MODEL_OPTIONS;
        options.device = "cpu";
        options.fast = fast;
        if (!fast) {
            options.size = offsetof(inset_model_options, fast);
            memset(&options.fast, 0x5a, sizeof options.fast);
        }
        bool good = CHECK(!build_two_layers(context, &m, &options, &model), "%s",
                        inset_message(context))
                    && CHECK(!record_two_layers(model, first_input, 100, &trace), "%s",
                        inset_message(context))
                    && CHECK(!inset_plan_create(trace, NULL, &plan) && !inset_run(plan), "%s",
                        inset_message(context));
        if (good) check_two_layers(plan, &m, first_input, 100, fast ? "fast" : "older options");
        inset_model_free(model);
    }
    inset_context_free(context);
}

/* ---- a small transformer of one's own, against loops in double ---------- */

/* vocabulary, positions, width, heads, numbers a head, hidden */
enum { V = 7, P = 6, D = 4, H = 2, HD = 2, F = 8 };
typedef struct tiny {
    float wte[V * D], wpe[P * D], qkv_w[3 * D * D], qkv_b[3 * D], proj_w[D * D], fc_w[F * D],
        out_w[D * F], ln_w[D], ln_b[D], head[V * D];
} tiny;

static inset_status build_tiny(inset_context *context, const tiny *m, inset_model **model)
{
    inset_builder *b = NULL;
    inset_model_options options = INSET_MODEL_OPTIONS;
    options.device = "cpu";
    inset_status status = inset_builder_create(context, &b);
    inset_slot ids = inset_builder_tokens(b, V, P);
    inset_slot x = inset_builder_add(b,
        inset_builder_embed(b, "wte", ids, INSET_TENSOR(m->wte, INSET_F32, V, D)),
        inset_builder_embed(
            b, "wpe", inset_builder_positions(b), INSET_TENSOR(m->wpe, INSET_F32, P, D)));
    x = inset_builder_enter(b, "h.0", x);
    inset_slot y = inset_builder_enter(b, "attn", x);
    y = inset_builder_linear(b, "qkv", y, INSET_TENSOR(m->qkv_w, INSET_F32, 3 * D, D),
        INSET_TENSOR(m->qkv_b, INSET_F32, 3 * D));
    inset_slot q = inset_builder_view(b, "q", y, 0, H, HD);
    inset_slot k = inset_builder_view(b, "k", y, D, H, HD);
    inset_slot v = inset_builder_view(b, "v", y, 2 * D, H, HD);
    y = inset_builder_attention(b, q, k, v, H, H, HD);
    y = inset_builder_leave(
        b, inset_builder_linear(b, "proj", y, INSET_TENSOR(m->proj_w, INSET_F32, D, D), NULL));
    x = inset_builder_add(b, x, y);
    y = inset_builder_linear(b, "fc", x, INSET_TENSOR(m->fc_w, INSET_F32, F, D), NULL);
    y = inset_builder_linear(b, "out", inset_builder_activation(b, "act", y, INSET_GELU),
        INSET_TENSOR(m->out_w, INSET_F32, D, F), NULL);
    x = inset_builder_leave(b, inset_builder_add(b, x, y));
    x = inset_builder_layernorm(b, "ln", x, INSET_TENSOR(m->ln_w, INSET_F32, D),
        INSET_TENSOR(m->ln_b, INSET_F32, D), 1e-5f);
    x = inset_builder_linear(b, "head", x, INSET_TENSOR(m->head, INSET_F32, V, D), NULL);
    return status ? status : inset_builder_finish(b, x, &options, model);
}

static void times(const float *w, int out, int in, const double *x, double *y)
{
    for (int i = 0; i < out; i++) {
        y[i] = 0;
        for (int j = 0; j < in; j++) y[i] += w[i * in + j] * x[j];
    }
}

/* The attention of query `t` over qkv [t + 1][3 D], with value numbers of head 0 at position 0 set
 * to `set` unless it is NAN. */
static void attend(double (*qkv)[3 * D], int t, double *z)
{
    for (int h = 0; h < H; h++) {
        double score[P], total = 0;
        for (int j = 0; j <= t; j++) {
            score[j] = 0;
            for (int i = 0; i < HD; i++) score[j] += qkv[t][h * HD + i] * qkv[j][D + h * HD + i];
            total += score[j] = exp(score[j] / sqrt(HD));
        }
        for (int i = 0; i < HD; i++) {
            z[h * HD + i] = 0;
            for (int j = 0; j <= t; j++)
                z[h * HD + i] += score[j] / total * qkv[j][2 * D + h * HD + i];
        }
    }
}

static void expect_tiny(const tiny *m, const int64_t *tokens, int n, double set, double *logits)
{
    double qkv[P][3 * D], x[P][D];
    for (int t = 0; t < n; t++) {
        for (int i = 0; i < D; i++) x[t][i] = (double)m->wte[tokens[t] * D + i] + m->wpe[t * D + i];
        times(m->qkv_w, 3 * D, D, x[t], qkv[t]);
        for (int i = 0; i < 3 * D; i++) qkv[t][i] += m->qkv_b[i];
        if (t == 0 && !isnan(set)) qkv[0][2 * D] = qkv[0][2 * D + 1] = set;
        double z[D], y[D], hidden[F], mean = 0, variance = 0;
        attend(qkv, t, z);
        times(m->proj_w, D, D, z, y);
        for (int i = 0; i < D; i++) x[t][i] += y[i];
        times(m->fc_w, F, D, x[t], hidden);
        for (int i = 0; i < F; i++) hidden[i] = hidden[i] / 2 * (1 + erf(hidden[i] / sqrt(2)));
        times(m->out_w, D, F, hidden, y);
        for (int i = 0; i < D; i++) mean += (x[t][i] += y[i]) / D;
        for (int i = 0; i < D; i++) variance += (x[t][i] - mean) * (x[t][i] - mean) / D;
        for (int i = 0; i < D; i++)
            y[i] = (x[t][i] - mean) / sqrt(variance + 1e-5) * m->ln_w[i] + m->ln_b[i];
        times(m->head, V, D, y, logits + t * V);
    }
}

static void own_transformer(void)
{
    tiny m;
    uint64_t state = 5;
    const int64_t tokens[] = {3, 1, 4, 1, 5}, length = 5;
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_trace *trace = NULL;
    inset_plan *plan = NULL;
    inset_value *logits = NULL, *set = NULL;
    double expected[P * V];
    for (size_t i = 0; i < sizeof m / sizeof(float); i++)
        ((float *)&m)[i] = (float)test_uniform(&state);
    NEED(!inset_context_create(NULL, &context), "no context");
    inset_status status = build_tiny(context, &m, &model);
    for (int patched = 0; patched < 2 && !status; patched++) {
        status = inset_trace_create(model, &trace);
        if (!status) status = inset_invoke_tokens(trace, 1, &length, tokens);
        if (!status) status = inset_number(trace, 0.75, &set);
        if (!status && patched) status = inset_set(trace, "h[0].attn.v[:, 0, 0]", set);
        if (!status) status = inset_get(trace, "output.logits", &logits);
        if (!status) status = inset_save(trace, "logits", logits);
        if (!status) status = inset_plan_create(trace, NULL, &plan);
        if (!status) status = inset_run(plan);
        if (status) break;
        expect_tiny(&m, tokens, 5, patched ? 0.75 : NAN, expected);
        check_saved(plan, "logits", expected, 5 * V,
            patched ? "transformer, head 0's v set" : "transformer");
    }
    CHECK(!status, "%s", inset_message(context));
    inset_context_free(context);
}

/* ---- by calls and by script --------------------------------------------- */

static const char script[] =
    "with invoke([[5, 6, 7], [8, 9]]):\n"
    "    source = transformer.h[1].output\n"
    "    clean = lm_head.output[:, -1].save()\n"
    "with invoke([[5, 11, 7], [8, 3]]):\n"
    "    transformer.h[0].mlp.output += 0.5\n"
    "    transformer.h[1].output[:, -1] = -(source[:, -1] * 2 - 1) / 4\n"
    "    patched = lm_head.output[:, -1].save()\n"
    "    difference = lm_head.output[:, -1].logit_diff([11, 12], 13).save()\n"
    "    moved = lm_head.output[:, -1].kl(clean).save()\n";

static inset_status record_by_calls(inset_trace *t)
{
    const int64_t lengths[] = {3, 2}, clean_ids[] = {5, 6, 7, 8, 9},
                  corrupt_ids[] = {5, 11, 7, 8, 3};
    inset_value *source = NULL, *clean = NULL, *patched = NULL, *half = NULL, *one = NULL,
                *two = NULL, *four = NULL, *x = NULL;
    inset_status s = inset_invoke_tokens(t, 2, lengths, clean_ids);
    if (!s) s = inset_get(t, "transformer.h[1].output", &source);
    if (!s) s = inset_get(t, "lm_head.output[:, -1]", &clean);
    if (!s) s = inset_save(t, "clean", clean);
    if (!s) s = inset_invoke_tokens(t, 2, lengths, corrupt_ids);
    if (!s) s = inset_number(t, 0.5, &half);
    if (!s) s = inset_update(t, "transformer.h.0.mlp.output", INSET_ADD, half);
    if (!s) s = inset_index(source, "[:, -1]", &x);
    if (!s) s = inset_integer(t, 2, &two);
    if (!s) s = inset_integer(t, 1, &one);
    if (!s) s = inset_integer(t, 4, &four);
    if (!s) s = inset_arithmetic(x, INSET_MULTIPLY, two, &x);
    if (!s) s = inset_arithmetic(x, INSET_SUBTRACT, one, &x);
    if (!s) s = inset_negate(x, &x);
    if (!s) s = inset_arithmetic(x, INSET_DIVIDE, four, &x);
    if (!s) s = inset_set(t, "transformer.h[1].output[:, -1]", x);
    if (!s) s = inset_get(t, "lm_head.output[:, -1]", &patched);
    if (!s) s = inset_save(t, "patched", patched);
    if (!s)
        s = inset_metric(patched, INSET_LOGIT_DIFF, 2, (const int64_t[]){11, 12}, 1,
            (const int64_t[]){13}, NULL, &x);
    if (!s) s = inset_save(t, "difference", x);
    if (!s) s = inset_metric(patched, INSET_KL, 0, NULL, 0, NULL, clean, &x);
    return s ? s : inset_save(t, "moved", x);
}

static void calls_and_script(void)
{
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_trace *traces[2] = {NULL, NULL};
    inset_plan *plans[2] = {NULL, NULL};
    inset_model_options options = INSET_MODEL_OPTIONS;
    options.device = "cpu";
    NEED(!inset_context_create(NULL, &context), "no context");
    inset_status status = inset_model_open(context, "fixtures/gpt2", &options, &model);
    for (int i = 0; i < 2 && !status; i++) {
        status = inset_trace_create(model, &traces[i]);
        if (!status)
            status = i ? inset_script(traces[i], "api.inset", NULL, script, strlen(script))
                       : record_by_calls(traces[i]);
        if (!status) status = inset_plan_create(traces[i], NULL, &plans[i]);
        if (!status) status = inset_run(plans[i]);
    }
    CHECK(!status, "%s", inset_message(context));
    for (size_t i = 0; !status && i < 4; i++) {
        inset_tensor a, b;
        const char *name;
        CHECK(!inset_saved_at(plans[0], i, &name, &a) && !inset_saved(plans[1], name, &b), "%s",
            inset_message(context));
        CHECK(a.type == b.type && a.n_dimensions == b.n_dimensions
                  && !memcmp(a.shape, b.shape, sizeof a.shape[0] * (size_t)a.n_dimensions)
                  && !memcmp(
                      a.data, b.data, (size_t)inset_tensor_count(&a) * inset_type_size(a.type)),
            "%s differs between calls and script", name);
    }
    inset_context_free(context);
}

/* ---- metrics of other tokens -------------------------------------------- */

/* Invokes of equal prompts: the first metric of both is one number as long as its tokens are
 * equal. */
static inset_status record_metrics(inset_trace *t)
{
    const int64_t length = 3, ids[] = {5, 6, 7}, a[] = {11, 12}, b[] = {13};
    char name[8];
    inset_value *row = NULL, *x = NULL;
    inset_status s = INSET_OK;
    for (int i = 0; i < 2 && !s; i++) {
        s = inset_invoke_tokens(t, 1, &length, ids);
        if (!s) s = inset_get(t, "output.logits[0, -1]", &row);
        for (int k = 0; k < 3 && !s; k++) {
            int64_t own[] = {20 + i, 30};
            s = inset_metric(row, k == 1 ? INSET_LOG_PROBABILITY : INSET_LOGIT_DIFF, k == 1 ? 1 : 2,
                k == 2 ? own : a, 1, b, NULL, &x);
            snprintf(name, sizeof name, "m%d%d", i, k);
            if (!s) s = inset_save(t, name, x);
        }
        if (!s && !i) s = inset_save(t, "row", row);
    }
    return s;
}

static double log_softmax_of(const float *x, int n, int token)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += exp((double)x[i] - x[token]);
    return -log(sum);
}

static void check_metric(inset_plan *plan, const char *name, double want, const char *when)
{
    inset_tensor got;
    if (!CHECK(!inset_saved(plan, name, &got), "%s", name)) return;
    CHECK(fabs(inset_tensor_element(&got, 0) - want) < 1e-5, "%s %s is %g and should be %g", name,
        when, inset_tensor_element(&got, 0), want);
}

/* y = x W2^T + b2 for x of layer1: the gradient of y[0] - 2 y[1] is a row of W2 less two of the
 * other. Two refusals before it leave the trace as it was. */
static void gradients(void)
{
    two_layers m;
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_trace *t = NULL;
    inset_plan *plan = NULL;
    inset_value *x = NULL, *row = NULL, *y[2] = {NULL}, *two = NULL, *metric = NULL, *g = NULL,
                *outside = NULL;
    inset_tensor out;
    inset_model_options options = INSET_MODEL_OPTIONS;
    options.device = "cpu";
    fill_two_layers(&m);
    NEED(!inset_context_create(NULL, &context), "no context");
    inset_status s = build_two_layers(context, &m, &options, &model);
    if (!s) s = inset_trace_create(model, &t);
    if (!s) s = inset_external(t, INSET_TENSOR(m.b1, INSET_F32, 1), &outside);
    if (!s) s = inset_invoke_rows(t, 1, 5, first_input);
    if (!s) s = inset_get(t, "layer1.output", &x);
    CHECK(inset_gradient(t, x, &g) == INSET_SYNTAX_ERROR, "a gradient of nothing");
    CHECK(inset_backward(t, x) == INSET_SHAPE_ERROR, "backward from a row");
    CHECK(inset_backward(t, outside) == INSET_VALUE_ERROR, "backward from a tensor from outside");
    if (!s) s = inset_get(t, "layer2.output", &row); /* the invoke is open still */
    if (!s) s = inset_index(row, "[0, 0]", &y[0]);
    if (!s) s = inset_index(row, "[0, 1]", &y[1]);
    if (!s) s = inset_number(t, 2, &two);
    if (!s) s = inset_arithmetic(y[1], INSET_MULTIPLY, two, &two);
    if (!s) s = inset_arithmetic(y[0], INSET_SUBTRACT, two, &metric);
    if (!s) s = inset_backward(t, metric);
    CHECK(inset_get(t, "layer1.output", &row) == INSET_SYNTAX_ERROR, "a place inside backward");
    if (!s) s = inset_gradient(t, x, &g);
    if (!s) s = inset_save(t, "g", g);
    if (!s) s = inset_plan_create(t, NULL, &plan);
    if (!s) s = inset_run(plan);
    if (!s) s = inset_saved(plan, "g", &out);
    if (CHECK(!s, "%s", inset_message(context)))
        for (int i = 0; i < 10; i++)
            CHECK(inset_tensor_element(&out, i) == m.w2[i] - 2 * m.w2[10 + i],
                "gradient %d is %g, should be %g", i, inset_tensor_element(&out, i),
                m.w2[i] - 2 * m.w2[10 + i]);
    inset_context_free(context);
}

static void other_answers(void)
{
    enum { VOCABULARY = 61 };
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_trace *t = NULL;
    inset_plan *plan = NULL;
    inset_tensor row;
    inset_model_options options = INSET_MODEL_OPTIONS;
    options.device = "cpu";
    NEED(!inset_context_create(NULL, &context), "no context");
    inset_status s = inset_model_open(context, "fixtures/gpt2", &options, &model);
    if (!s) s = inset_trace_create(model, &t);
    if (!s) s = record_metrics(t);
    if (!s) s = inset_plan_create(t, NULL, &plan);
    if (!s) s = inset_run(plan);
    if (!s) s = inset_saved(plan, "row", &row);
    if (CHECK(!s && row.shape[0] == VOCABULARY, "%s", inset_message(context))) {
        float x[VOCABULARY];
        memcpy(x, row.data, sizeof x);
        check_metric(plan, "m10", (x[11] + x[12]) / 2 - x[13], "at first");
        check_metric(plan, "m11", log_softmax_of(x, VOCABULARY, 11), "at first");
        check_metric(plan, "m12", (x[21] + x[30]) / 2 - x[13], "at first");
        CHECK(!inset_plan_answers(plan, 1, 2, 3, (const int64_t[]){40, 41, 42}), "%s",
            inset_message(context));
        CHECK(!inset_plan_answers(plan, 0, 1, 1, (const int64_t[]){7})
                  && !inset_plan_answers(plan, 1, 1, 1, (const int64_t[]){7}),
            "%s", inset_message(context));
        CHECK(!inset_run(plan), "%s", inset_message(context));
        check_metric(plan, "m12", (x[40] + x[41]) / 2 - x[42], "of other tokens");
        check_metric(plan, "m02", (x[20] + x[30]) / 2 - x[13], "of its own tokens");
        check_metric(plan, "m01", log_softmax_of(x, VOCABULARY, 7), "of other tokens");
        CHECK(!inset_plan_answers(plan, 1, 0, 3, (const int64_t[]){11, 12, 14}), "%s",
            inset_message(context));
        CHECK(inset_run(plan) == INSET_VALUE_ERROR
                  && strstr(inset_message(context), "two metrics as one"),
            "%s", inset_message(context));
        CHECK(!inset_plan_answers(plan, 0, 0, 3, (const int64_t[]){11, 12, 14}) && !inset_run(plan),
            "%s", inset_message(context));
        check_metric(plan, "m00", (x[11] + x[12]) / 2 - x[14], "set after a refusal");
        CHECK(inset_plan_answers(plan, 2, 0, 3, (const int64_t[]){0, 0, 0}) == INSET_INDEX_ERROR,
            "an invoke that is not there");
        CHECK(inset_plan_answers(plan, 1, 3, 3, (const int64_t[]){0, 0, 0}) == INSET_INDEX_ERROR,
            "a metric that is not there");
        CHECK(inset_plan_answers(plan, 1, 1, 2, (const int64_t[]){0, 0}) == INSET_SHAPE_ERROR,
            "two tokens for one");
        CHECK(inset_plan_answers(plan, 1, 1, 1, (const int64_t[]){VOCABULARY}) == INSET_INDEX_ERROR,
            "a token outside");
        CHECK(inset_plan_answers(plan, 1, 1, 1, NULL) == INSET_USAGE_ERROR
                  && inset_plan_answers(NULL, 0, 0, 0, NULL) == INSET_USAGE_ERROR,
            "no tokens");
    }
    inset_context_free(context);
}

/* ---- plans of a model without a device, statistics, sites --------------- */

static void without_device(void)
{
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_trace *trace = NULL;
    inset_plan *plan = NULL;
    inset_statistics is = INSET_STATISTICS;
    inset_model_options options = INSET_MODEL_OPTIONS;
    inset_tensor out;
    const char *name;
    options.device = "none";
    NEED(!inset_context_create(NULL, &context), "no context");
    inset_status status = inset_model_open(context, "fixtures/gpt2", &options, &model);
    if (!status) status = inset_trace_create(model, &trace);
    if (!status) status = inset_script(trace, "api.inset", "", script, strlen(script));
    if (!status) status = inset_plan_create(trace, NULL, &plan);
    if (CHECK(!status, "%s", inset_message(context))) {
        CHECK(!strcmp(inset_model_device(model), "none"), "%s", inset_model_device(model));
        CHECK(!inset_plan_statistics(plan, &is) && is.invokes == 2 && is.sequences == 4
                  && is.saved == 4 && is.rows > 0 && is.rows <= is.rows_unshared && is.steps > 0
                  && is.launches > 0 && is.flops > 0,
            "invokes %lld, sequences %lld, rows %lld", (long long)is.invokes,
            (long long)is.sequences, (long long)is.rows);
        CHECK(!inset_saved_describe(plan, 1, &name, &out) && !strcmp(name, "patched")
                  && out.n_dimensions == 2 && out.shape[0] == 2,
            "%s", inset_message(context));
        CHECK(inset_run(plan) == INSET_USAGE_ERROR, "a model without a device ran");
        CHECK(inset_saved(plan, "clean", &out) == INSET_USAGE_ERROR,
            "a plan that has not run gave a value");
        is.size = 24;
        is.invokes = is.records = -1;
        CHECK(!inset_plan_statistics(plan, &is) && is.invokes == 2 && is.records == -1,
            "a shorter struct of statistics was overrun");
    }
    inset_context_free(context);
}

static void sites(void)
{
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_site site;
    inset_model_options options = INSET_MODEL_OPTIONS;
    int found = 0;
    options.device = "none";
    NEED(!inset_context_create(NULL, &context), "no context");
    if (CHECK(!inset_model_open(context, "fixtures/gpt2", &options, &model), "%s",
            inset_message(context))) {
        size_t count = inset_site_count(model);
        for (size_t i = 0; i < count; i++) {
            CHECK(!inset_site_at(model, i, &site), "%s", inset_message(context));
            if (!strcmp(site.path, "transformer.wte.input"))
                found += CHECK(site.integer && !site.settable && site.n_dimensions == 2
                                   && site.shape[0] == INSET_BATCH
                                   && site.shape[1] == INSET_POSITION,
                    "wte.input");
            if (!strcmp(site.path, "transformer.wpe.output"))
                found += CHECK(site.shape[0] == 1 && site.n_dimensions == 3, "wpe.output");
            if (!strcmp(site.path, "transformer.h.1.ln_2.input"))
                found += CHECK(site.depth == 1 && site.settable && !site.integer, "ln_2.input");
            if (!strcmp(site.path, "output.logits"))
                found += CHECK(site.n_dimensions == 3, "output.logits");
        }
        CHECK(found == 4, "%d of 4 sites found", found);
        CHECK(inset_site_at(model, count, &site) == INSET_INDEX_ERROR, "a site past the last");
    }
    inset_context_free(context);
}

/* ---- misuse ------------------------------------------------------------- */

static void nothing_given(void)
{
    inset_value *value = NULL;
    inset_tensor out;
    inset_context_free(NULL);
    inset_model_free(NULL);
    inset_trace_free(NULL);
    inset_plan_free(NULL);
    inset_builder_free(NULL);
    CHECK(inset_model_open(NULL, "x", NULL, NULL) == INSET_USAGE_ERROR, "model");
    CHECK(inset_trace_create(NULL, NULL) == INSET_USAGE_ERROR, "trace");
    CHECK(inset_get(NULL, "x", &value) == INSET_USAGE_ERROR, "get");
    CHECK(inset_set(NULL, "x", value) == INSET_USAGE_ERROR, "set");
    CHECK(inset_clone(NULL, &value) == INSET_USAGE_ERROR, "clone");
    CHECK(inset_plan_create(NULL, NULL, NULL) == INSET_USAGE_ERROR, "plan");
    CHECK(inset_run(NULL) == INSET_USAGE_ERROR, "run");
    CHECK(inset_saved(NULL, "x", &out) == INSET_USAGE_ERROR, "saved");
    CHECK(inset_builder_input(NULL, 3) == INSET_NO_SLOT
              && inset_builder_finish(NULL, 0, NULL, NULL) == INSET_USAGE_ERROR,
        "builder");
    CHECK(!strcmp(inset_message(NULL), "") && inset_saved_count(NULL) == 0
              && inset_site_count(NULL) == 0,
        "asking");
    CHECK(inset_type_size((inset_type)99) == 0 && !strcmp(inset_type_name((inset_type)-1), "?"),
        "types");
}

/* A call that must be refused, with a message that has `words` in it. */
static void refused(
    inset_context *context, inset_status status, inset_status expected, const char *words)
{
    CHECK(status == expected && strstr(inset_message(context), words),
        "%s with '%s' was expected, found %s: %s", inset_status_name(expected), words,
        inset_status_name(status), inset_message(context));
}

static void misused_trace(inset_context *context, inset_model *model)
{
    inset_trace *t = NULL, *other = NULL;
    inset_value *foreign = NULL, *own = NULL, *x = NULL;
    inset_plan *plan = NULL;
    inset_plan_options options = INSET_PLAN_OPTIONS;
    inset_tensor out;
    NEED(!inset_trace_create(model, &t) && !inset_trace_create(model, &other), "%s",
        inset_message(context));
    CHECK(!inset_number(other, 1, &foreign) && !inset_number(t, 1, &own), "%s",
        inset_message(context));
    CHECK(!inset_invoke_rows(t, 1, 5, first_input), "%s", inset_message(context));
    refused(
        context, inset_set(t, "layer1.output[:, 0]", foreign), INSET_USAGE_ERROR, "another trace");
    refused(context, inset_set(t, "layer1.output[:, 0]", NULL), INSET_USAGE_ERROR, "NULL");
    refused(
        context, inset_arithmetic(own, INSET_ADD, foreign, &x), INSET_USAGE_ERROR, "another trace");
    refused(context, inset_arithmetic(own, (inset_operation)99, own, &x), INSET_USAGE_ERROR,
        "operation");
    refused(
        context, inset_metric(NULL, INSET_KL, 0, NULL, 0, NULL, NULL, &x), INSET_USAGE_ERROR, "");
    refused(context, inset_metric(own, INSET_LOGIT, 1, (const int64_t[]){0}, 0, NULL, NULL, NULL),
        INSET_USAGE_ERROR, "NULL");
    refused(context, inset_metric(own, INSET_LOGIT, 1, NULL, 0, NULL, NULL, &x), INSET_USAGE_ERROR,
        "tokens");
    refused(context,
        inset_metric(own, INSET_LOGIT_DIFF, 1, (const int64_t[]){0}, 1, NULL, NULL, &x),
        INSET_USAGE_ERROR, "tokens");
    refused(context, inset_metric(own, INSET_KL, 0, NULL, 0, NULL, foreign, &x), INSET_USAGE_ERROR,
        "another trace");
    refused(context, inset_metric(own, (inset_metric_kind)6, 0, NULL, 0, NULL, NULL, &x),
        INSET_USAGE_ERROR, "no kind of metric");
    refused(context, inset_metric(own, INSET_LOGIT, 1, (const int64_t[]){0}, 0, NULL, NULL, &x),
        INSET_TYPE_ERROR, "number");
    refused(context, inset_get(t, "layer9.output", &x), INSET_UNKNOWN_SITE, "layer");
    refused(context, inset_get(t, "layer1.output[", &x), INSET_SYNTAX_ERROR, "");
    refused(context, inset_get(t, "layer1.output[:, 10]", &x), INSET_INDEX_ERROR, "10");
    refused(context, inset_save(t, "number", own), INSET_TYPE_ERROR, "");
    refused(context, inset_external(t, &(inset_tensor){first_input, (inset_type)42, 1, {5}}, &x),
        INSET_USAGE_ERROR, "type 42");
    refused(context, inset_external(t, &(inset_tensor){first_input, INSET_F32, 9, {5}}, &x),
        INSET_USAGE_ERROR, "9 dimensions");
    refused(context,
        inset_external(t, &(inset_tensor){first_input, INSET_F32, 2, {INT64_MAX, 4}}, &x),
        INSET_USAGE_ERROR, "dimension");
    refused(context, inset_external(t, &(inset_tensor){NULL, INSET_F32, 1, {4}}, &x),
        INSET_USAGE_ERROR, "NULL");
    CHECK(!inset_get(t, "layer2.output", &x) && !inset_save(t, "result", x), "%s",
        inset_message(context));
    refused(context, inset_save(t, "result", x), INSET_NAME_ERROR, "result");
    refused(context, inset_get(t, "layer1.output", &x), INSET_OUT_OF_ORDER,
        "Value was missed for model.layer1.output.i0. Did you call an Envoy out of order?");
    options.size = 4000;
    refused(context, inset_plan_create(t, &options, &plan), INSET_USAGE_ERROR, "4000 bytes");
    options = (inset_plan_options)INSET_PLAN_OPTIONS;
    options.memory_limit = 100;
    refused(context, inset_plan_create(t, &options, &plan), INSET_NO_MEMORY, "there are 100");
    options.memory_limit = 1 << 20;
    CHECK(!inset_plan_create(t, &options, &plan), "%s", inset_message(context));
    if (CHECK(
            !inset_plan_create(t, NULL, &plan) && !inset_run(plan), "%s", inset_message(context))) {
        refused(
            context, inset_saved(plan, "nothing", &out), INSET_NAME_ERROR, "Saved are: result.");
        refused(context, inset_saved_at(plan, 1, NULL, &out), INSET_INDEX_ERROR, "there are 1");
        refused(context, inset_saved_write(plan, "/nowhere/at/all.safetensors"), INSET_FILE_ERROR,
            "/nowhere/at/all.safetensors");
    }
}

static void misused_builder(inset_context *context)
{
    static const struct {
        const char *what;
        inset_status expected;
        const char *words;
    } rows[] = {
        {"narrow weight", INSET_SHAPE_ERROR, "[any, 5] was expected, found [3, 4]"},
        {"integer weight", INSET_TYPE_ERROR, "i64"},
        {"no weight", INSET_USAGE_ERROR, "NULL"},
        {"two inputs", INSET_USAGE_ERROR, "one input"},
        {"two of a name", INSET_VALUE_ERROR, "layer1"},
        {"tokens as numbers", INSET_TYPE_ERROR, "token ids"},
        {"short table", INSET_SHAPE_ERROR, "3 rows; 7 ids"},
        {"attention on rows", INSET_USAGE_ERROR, "tokens"},
        {"a slot that is not there", INSET_USAGE_ERROR, "slot 77"},
        {"no output", INSET_USAGE_ERROR, "slot -1"},
        {"left open", INSET_USAGE_ERROR, ""},
    };
    static const float numbers[64];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        inset_builder *b = NULL;
        inset_model *model = NULL;
        inset_model_options options = INSET_MODEL_OPTIONS;
        options.device = "none";
        NEED(!inset_builder_create(context, &b), "%s", inset_message(context));
        inset_slot x = i == 5 || i == 6 ? inset_builder_tokens(b, 7, 4) : inset_builder_input(b, 5);
        if (i == 0)
            x = inset_builder_linear(b, "layer1", x, INSET_TENSOR(numbers, INSET_F32, 3, 4), NULL);
        if (i == 1)
            x = inset_builder_linear(b, "layer1", x, INSET_TENSOR(numbers, INSET_I64, 3, 5), NULL);
        if (i == 2) x = inset_builder_linear(b, "layer1", x, NULL, NULL);
        if (i == 3) x = inset_builder_input(b, 5);
        if (i == 4)
            x = inset_builder_activation(
                b, "layer1", inset_builder_activation(b, "layer1", x, INSET_RELU), INSET_RELU);
        if (i == 5)
            x = inset_builder_linear(b, "layer1", x, INSET_TENSOR(numbers, INSET_F32, 5, 1), NULL);
        if (i == 6) x = inset_builder_embed(b, "wte", x, INSET_TENSOR(numbers, INSET_F32, 3, 4));
        if (i == 7) x = inset_builder_attention(b, x, x, x, 1, 1, 5);
        if (i == 8) x = inset_builder_add(b, x, 77);
        if (i == 9) x = INSET_NO_SLOT;
        if (i == 10) inset_builder_enter(b, "open", x);
        inset_status status = inset_builder_finish(b, x, &options, &model);
        CHECK(status == rows[i].expected && strstr(inset_message(context), rows[i].words) && !model,
            "%s: %s with '%s' was expected, found %s: %s", rows[i].what,
            inset_status_name(rows[i].expected), rows[i].words, inset_status_name(status),
            inset_message(context));
    }
}

static void misuse(void)
{
    two_layers m;
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_model_options options = INSET_MODEL_OPTIONS;
    fill_two_layers(&m);
    NEED(!inset_context_create(NULL, &context), "no context");
    options.device = "gpu7";
    refused(context, build_two_layers(context, &m, &options, &model), INSET_USAGE_ERROR, "gpu7");
    options.device = "cpu";
    options.dtype = "f8";
    refused(context, build_two_layers(context, &m, &options, &model), INSET_USAGE_ERROR, "f8");
    options = (inset_model_options){.size = 3};
    refused(context, build_two_layers(context, &m, &options, &model), INSET_USAGE_ERROR, "3 bytes");
    refused(context, inset_model_open(context, "/nowhere/at/all", NULL, &model), INSET_FILE_ERROR,
        "/nowhere/at/all");
    options = (inset_model_options)INSET_MODEL_OPTIONS;
    options.device = "cpu";
    if (CHECK(!build_two_layers(context, &m, &options, &model), "%s", inset_message(context)))
        misused_trace(context, model);
    misused_builder(context);
    inset_context_free(context);
}

/* Everything may be freed by hand, in any order that the rules allow, or left to what it was made
 * from. */
static void freeing(void)
{
    two_layers m;
    fill_two_layers(&m);
    for (int order = 0; order < 5; order++) {
        failing_allocator memory = {0};
        inset_context *context = NULL;
        inset_model *model = NULL, *second = NULL;
        inset_trace *trace = NULL;
        inset_plan *plan = NULL, *again = NULL;
        NEED(!inset_context_create(failing_allocator_interface(&memory), &context), "no context");
        inset_status status = build_two_layers(context, &m, NULL, &model);
        if (!status) status = build_two_layers(context, &m, NULL, &second);
        if (!status) status = record_two_layers(model, first_input, 1, &trace);
        if (!status) status = inset_plan_create(trace, NULL, &plan);
        if (!status) status = inset_plan_create(trace, NULL, &again);
        if (!status) status = inset_run(plan);
        CHECK(!status, "%s", inset_message(context));
        if (order == 1) inset_model_free(model);
        if (order == 2) inset_trace_free(trace);
        if (order == 3 || order == 4) inset_plan_free(order == 3 ? plan : again);
        if (order == 3) inset_trace_free(trace);
        if (order == 4) inset_model_free(second);
        inset_context_free(context);
        CHECK(memory.live == 0 && memory.damaged == 0, "order %d: %lld blocks left, %lld damaged",
            order, (long long)memory.live, (long long)memory.damaged);
    }
}

/* ---- memory that runs out ----------------------------------------------- */

static inset_status whole_path(failing_allocator *memory, inset_context **context)
{
    two_layers m;
    inset_model *model = NULL, *opened = NULL;
    inset_trace *trace = NULL, *scripted = NULL;
    inset_plan *plan = NULL;
    inset_tensor out;
    inset_model_options options = INSET_MODEL_OPTIONS;
    static const char text[] = "with invoke([[1, 2, 3, 4, 5]]):\n    x = layer1.output.save()\n    "
                               "layer1.output[:, [0, 2]] = x[:, 1:3] * 2\n"
                               "    some = [0, 1]\n    m = layer2.output.logit_diff(some, "
                               "[1]).save()\n    k = layer2.output.kl(layer2.output * 2).save()\n"
                               "    with m.backward():\n        x.grad[:, 1] = 2\n        g = "
                               "x.grad.save()\n";
    options.device = "cpu";
    fill_two_layers(&m);
    inset_status status = inset_context_create(failing_allocator_interface(memory), context);
    if (!status) status = build_two_layers(*context, &m, &options, &model);
    if (!status) status = record_two_layers(model, first_input, 100, &trace);
    if (!status) status = inset_plan_create(trace, NULL, &plan);
    if (!status) status = inset_run(plan);
    if (!status) status = inset_saved(plan, "result", &out);
    if (!status) status = inset_model_open(*context, "fixtures/notebook", &options, &opened);
    if (!status) status = inset_trace_create(opened, &scripted);
    if (!status) status = inset_script(scripted, "memory.inset", "", text, strlen(text));
    if (!status) status = inset_plan_create(scripted, NULL, &plan);
    return status ? status : inset_run(plan);
}

static void failing_allocations(void)
{
    inset_status status = INSET_NO_MEMORY;
    int64_t n = 0;
    while (status && n < 100000 && test_failures < 3) {
        failing_allocator memory = {.fail_at = ++n};
        inset_context *context = NULL;
        status = whole_path(&memory, &context);
        CHECK(status == INSET_OK || status == INSET_NO_MEMORY, "allocation %lld: %s: %s",
            (long long)n, inset_status_name(status), inset_message(context));
        /* a failure that a spare path made up for: go on */
        if (status == INSET_OK && memory.calls >= n) status = INSET_NO_MEMORY;
        inset_context_free(context);
        CHECK(memory.live == 0 && memory.damaged == 0,
            "allocation %lld: %lld blocks left, %lld damaged", (long long)n, (long long)memory.live,
            (long long)memory.damaged);
    }
    CHECK(n > 50, "only %lld allocations", (long long)n);
}

/* ---- modules applied to values, and functions ---------------------------- */

static const char applied_script[] =
    "with invoke([[5, 6, 7], [8, 9]]):\n"
    "    x = transformer.h[0].output\n"
    "    lens = lm_head(transformer.ln_f(x[:, -1])).save()\n"
    "    e = (x[0] * 0.5).exp().save()\n"
    "    c = transformer.h[1].mlp(x).clamp(-0.1, 0.2)[:, -1].save()\n"
    "    low = x[1].clamp_min(0.25).save()\n"
    "    half = x[0].half().save()\n"
    "    g = gelu_tanh(silu(x[1])).save()\n";

static inset_status applied_by_calls(inset_trace *t)
{
    const int64_t lengths[] = {3, 2}, tokens[] = {5, 6, 7, 8, 9};
    inset_value *x, *y, *number, *low, *high;
    inset_status status = inset_invoke_tokens(t, 2, lengths, tokens);
    if (!status) status = inset_get(t, "transformer.h[0].output", &x);
    if (!status) status = inset_index(x, "[:, -1]", &y);
    if (!status) status = inset_call(t, "transformer.ln_f", y, &y);
    if (!status) status = inset_call(t, "lm_head", y, &y);
    if (!status) status = inset_save(t, "lens", y);
    if (!status) status = inset_index(x, "[0]", &y);
    if (!status) status = inset_number(t, 0.5, &number);
    if (!status) status = inset_arithmetic(y, INSET_MULTIPLY, number, &y);
    if (!status) status = inset_apply(y, INSET_FUNCTION_EXP, &y);
    if (!status) status = inset_save(t, "e", y);
    if (!status) status = inset_call(t, "transformer.h.1.mlp", x, &y);
    if (!status) status = inset_number(t, -0.1, &low);
    if (!status) status = inset_number(t, 0.2, &high);
    if (!status) status = inset_clamp(y, low, high, &y);
    if (!status) status = inset_index(y, "[:, -1]", &y);
    if (!status) status = inset_save(t, "c", y);
    if (!status) status = inset_index(x, "[1]", &number);
    if (!status) status = inset_number(t, 0.25, &low);
    if (!status) status = inset_clamp(number, low, NULL, &y);
    if (!status) status = inset_save(t, "low", y);
    if (!status) status = inset_index(x, "[0]", &y);
    if (!status) status = inset_cast(y, INSET_F16, &y);
    if (!status) status = inset_save(t, "half", y);
    if (!status) status = inset_apply(number, INSET_FUNCTION_SILU, &y);
    if (!status) status = inset_apply(y, INSET_FUNCTION_GELU_TANH, &y);
    return status ? status : inset_save(t, "g", y);
}

static void applied_refusals(inset_context *context, inset_trace *t)
{
    inset_value *x = NULL, *y = NULL, *number = NULL;
    NEED(!inset_get(t, "transformer.h[1].output", &x) && !inset_number(t, 1, &number), "%s",
        inset_message(context));
    CHECK(inset_call(t, "transformer.h.7", x, &y) == INSET_UNKNOWN_SITE, "no such module");
    CHECK(inset_call(t, "transformer", x, &y) == INSET_TYPE_ERROR, "of token ids");
    CHECK(inset_call(t, "lm_head", number, &y) == INSET_TYPE_ERROR, "of a number");
    CHECK(inset_call(t, NULL, x, &y) == INSET_USAGE_ERROR
              && inset_call(t, "lm_head", NULL, &y) == INSET_USAGE_ERROR
              && inset_call(t, "lm_head", x, NULL) == INSET_USAGE_ERROR
              && inset_call(NULL, "lm_head", x, &y) == INSET_USAGE_ERROR,
        "NULLs");
    CHECK(inset_apply(x, (inset_function)99, &y) == INSET_USAGE_ERROR
              && inset_apply(x, (inset_function)-1, &y) == INSET_USAGE_ERROR
              && inset_apply(NULL, INSET_FUNCTION_EXP, &y) == INSET_USAGE_ERROR
              && inset_apply(x, INSET_FUNCTION_EXP, NULL) == INSET_USAGE_ERROR,
        "no function");
    CHECK(inset_apply(number, INSET_FUNCTION_EXP, &y) == INSET_TYPE_ERROR, "of a number");
    CHECK(inset_clamp(x, NULL, NULL, &y) == INSET_USAGE_ERROR
              && inset_clamp(NULL, NULL, NULL, &y) == INSET_USAGE_ERROR
              && inset_clamp(x, x, NULL, &y) == INSET_TYPE_ERROR,
        "no bounds");
    CHECK(inset_cast(x, INSET_TYPE_COUNT, &y) == INSET_USAGE_ERROR
              && inset_cast(number, INSET_F16, &y) == INSET_TYPE_ERROR
              && inset_cast(NULL, INSET_F16, &y) == INSET_USAGE_ERROR,
        "no type");
    CHECK(!y, "a refused call gave a value");
}

/* The calls give what the script gives, bit for bit. */
static void applied(void)
{
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_trace *by[2] = {NULL, NULL};
    inset_plan *plan[2] = {NULL, NULL};
    inset_model_options options = INSET_MODEL_OPTIONS;
    options.device = "cpu";
    NEED(!inset_context_create(NULL, &context), "no context");
    inset_status status = inset_model_open(context, "fixtures/gpt2", &options, &model);
    for (int i = 0; i < 2 && !status; i++) {
        if ((status = inset_trace_create(model, &by[i]))) break;
        status = i ? inset_script(by[i], "script", NULL, applied_script, strlen(applied_script))
                   : applied_by_calls(by[i]);
        if (!status) status = inset_plan_create(by[i], NULL, &plan[i]);
        if (!status) status = inset_run(plan[i]);
    }
    if (CHECK(!status, "%s", inset_message(context)))
        for (size_t k = 0; k < 6; k++) {
            inset_tensor x, y;
            const char *name = "?", *other = "";
            CHECK(!inset_saved_at(plan[0], k, &name, &x) && !inset_saved_at(plan[1], k, &other, &y)
                      && !strcmp(name, other) && x.type == y.type
                      && inset_tensor_count(&x) == inset_tensor_count(&y)
                      && !memcmp(
                          x.data, y.data, (size_t)inset_tensor_count(&x) * inset_type_size(x.type)),
                "%s is not %s", name, other);
        }
    if (!status) applied_refusals(context, by[0]);
    inset_context_free(context);
}

/* ---- saving sites in any order ------------------------------------------- */

static size_t site_called(inset_model *model, const char *path)
{
    inset_site site;
    for (size_t i = 0; i < inset_site_count(model); i++)
        if (!inset_site_at(model, i, &site) && !strcmp(site.path, path)) return i;
    return inset_site_count(model);
}

/* Sites that lines have passed, in any order, give what the same sites give in theirs; a later line
 * finds itself behind them. */
static void saves_sites(void)
{
    static const char *const paths[] = {"lm_head.output", "transformer.h.0.attn.z",
        "transformer.h.2.output", "transformer.h.1.attn.pattern", "transformer.wte.output"};
    enum { PATHS = sizeof paths / sizeof *paths };
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_trace *any = NULL, *ordered = NULL;
    inset_plan *plan[2] = {NULL, NULL};
    inset_value *x = NULL, *zero = NULL;
    inset_model_options options = INSET_MODEL_OPTIONS;
    const int64_t length = 4, tokens[] = {5, 6, 7, 8};
    options.device = "cpu";
    NEED(!inset_context_create(NULL, &context), "no context");
    inset_status status = inset_model_open(context, "fixtures/gpt2", &options, &model);
    for (int i = 0; i < 2 && !status; i++) {
        inset_trace **t = i ? &ordered : &any;
        status = inset_trace_create(model, t);
        if (!status) status = inset_invoke_tokens(*t, 1, &length, tokens);
        if (!status) status = inset_number(*t, 0, &zero);
        /* the lines of the second are in the model's order */
        for (size_t s = 0; i && s < inset_site_count(model) && !status; s++) {
            if (s == site_called(model, "transformer.h.1.output"))
                status = inset_set(*t, "transformer.h[1].output[:, 2]", zero);
            for (int k = 0; k < PATHS && !status; k++) {
                if (s != site_called(model, paths[k])) continue;
                status = inset_get_site(*t, s, &x);
                if (!status) status = inset_save(*t, paths[k], x);
            }
        }
        if (!i && !status) status = inset_set(*t, "transformer.h[1].output[:, 2]", zero);
        for (int k = 0; !i && k < PATHS && !status; k++)
            status = inset_save_site(*t, site_called(model, paths[k]), paths[k]);
        if (!status) status = inset_plan_create(*t, NULL, &plan[i]);
        if (!status) status = inset_run(plan[i]);
    }
    if (CHECK(!status, "%s", inset_message(context))) {
        for (int k = 0; k < PATHS; k++) {
            inset_tensor a, b;
            CHECK(!inset_saved(plan[0], paths[k], &a) && !inset_saved(plan[1], paths[k], &b)
                      && inset_tensor_count(&a) == inset_tensor_count(&b)
                      && !memcmp(a.data, b.data, (size_t)inset_tensor_count(&a) * sizeof(float)),
                "other numbers at %s", paths[k]);
        }
        CHECK(inset_get(any, "transformer.h[2].output", &x) == INSET_OUT_OF_ORDER, "behind all");
        CHECK(inset_save_site(any, 0, "lm_head.output") == INSET_NAME_ERROR, "a name twice");
        CHECK(inset_save_site(any, 99999, "far") == INSET_INDEX_ERROR
                  && inset_save_site(any, 0, NULL) == INSET_USAGE_ERROR
                  && inset_save_site(NULL, 0, "x") == INSET_USAGE_ERROR,
            "no such site");
        status = inset_invoke_tokens(any, 1, &length, tokens);
        if (!status) status = inset_get(any, "transformer.h[1].input", &x);
        if (!status) status = inset_skip(any, "transformer.h.1", x);
        NEED(!status, "%s", inset_message(context));
        CHECK(inset_save_site(any, site_called(model, "transformer.h.1.mlp.output"), "in")
                  == INSET_MISSED_PROVIDER,
            "inside a skipped module");
        status = inset_save_site(any, site_called(model, "transformer.h.0.output"), "before");
        if (!status) status = inset_stop(any);
        CHECK(!status, "before a stop: %s", inset_message(context));
        CHECK(inset_save_site(any, site_called(model, "lm_head.output"), "behind")
                  == INSET_MISSED_PROVIDER,
            "behind a stop");
        status = inset_save_site(any, site_called(model, "transformer.wte.output"), "first");
        CHECK(!status, "after a stop: %s", inset_message(context));
        inset_invoke_end(any);
        CHECK(inset_save_site(any, 0, "outside") == INSET_NAME_ERROR, "outside of an invoke");
        /* by patterns, with a prefix; a call that fails saves nothing */
        const char *name = NULL;
        inset_value *value;
        const size_t before = inset_trace_saved_count(any);
        status = inset_invoke_tokens(any, 1, &length, tokens);
        if (!status) status = inset_save_sites(any, "transformer.h[*].output,lm_head.input", "b.");
        CHECK(!status && inset_trace_saved_count(any) == before + 4, "%s", inset_message(context));
        CHECK(!inset_trace_saved_at(any, before, &name, &value)
                  && !strcmp(name, "b.transformer.h.0.output"),
            "%s", name ? name : "NULL");
        CHECK(
            inset_save_sites(any, "transformer.h[*].input,lm_head.input", "b.") == INSET_NAME_ERROR
                && inset_save_sites(any, "transformer.h[*].outptu", NULL) == INSET_UNKNOWN_SITE
                && inset_save_sites(any, NULL, NULL) == INSET_USAGE_ERROR
                && inset_save_sites(NULL, "*.logits", NULL) == INSET_USAGE_ERROR
                && inset_trace_saved_count(any) == before + 4,
            "refused patterns");
    }
    inset_context_free(context);
}

int main(void)
{
    own_model();
    other_tensors();
    older_and_fast_options();
    own_transformer();
    calls_and_script();
    gradients();
    other_answers();
    without_device();
    sites();
    nothing_given();
    misuse();
    freeing();
    failing_allocations();
    applied();
    saves_sites();
    return test_result();
}
