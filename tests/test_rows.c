/* test_rows.c: functions of whole rows, products, choices and weights by calls: what the script
 * gives, bit for bit; other numbers in the place of a matrix; what is refused.
 *
 *     test_rows [-d DEVICE]     DEVICE: cpu unless given here or in INSET_TEST_DEVICE */
#include "inset.h"
#include "test.h"

static const char *device = "cpu";

enum { WIDTH = 28, FEATURES = 3 };

/* Rows [WIDTH, FEATURES], other ones for each seed. */
static inset_tensor matrix_of(float *numbers, uint64_t seed)
{
    for (int i = 0; i < WIDTH * FEATURES; i++) numbers[i] = (float)test_uniform(&seed);
    return (inset_tensor){
        .type = INSET_F32, .n_dimensions = 2, .shape = {WIDTH, FEATURES}, .data = numbers};
}

/* ---- by calls and by lines ------------------------------------------------ */

static const char script[] = "with invoke([[5, 6, 7], [8, 9]]):\n"
                             "    x = transformer.h[0].output\n"
                             "    a = x.sum(-1).save()\n"
                             "    b = x.mean((0, 1), keepdim=True).save()\n"
                             "    c = x.norm(dim=-1, keepdim=True).save()\n"
                             "    d = x.log_softmax(-1).save()\n"
                             "    e, f = x[0].topk(2)\n"
                             "    e.save()\n"
                             "    f.save()\n"
                             "    g = where(x > 0.25, x, 0).save()\n"
                             "    h = (x @ transformer.wte.weight.T).save()\n"
                             "    i = (x @ x[0, 0])[..., None].save()\n"
                             "    j = (x[0].T @ x[0].detach()).save()\n"
                             "    k = x.argmax(-1).save()\n"
                             "    l = transformer.h[1](x).save()\n"
                             "    m = (x[0] != x[0].amax(0)).save()\n";

#define GIVE(call) \
    if (!s) s = (call)
#define KEEP(name) \
    if (!s) s = inset_save(t, name, y)

static inset_status by_calls(inset_trace *t)
{
    static const int64_t lengths[] = {3, 2}, tokens[] = {5, 6, 7, 8, 9}, last[] = {-1},
                         both[] = {0, 1}, first[] = {0};
    inset_value *x, *y, *z, *one, *zero;
    inset_status s = inset_invoke_tokens(t, 2, lengths, tokens);
    GIVE(inset_get(t, "transformer.h[0].output", &x));
    GIVE(inset_rows(x, INSET_SUM, 1, last, 0, &y));
    KEEP("a");
    GIVE(inset_rows(x, INSET_MEAN, 2, both, 1, &y));
    KEEP("b");
    GIVE(inset_rows(x, INSET_NORM, 1, last, 1, &y));
    KEEP("c");
    GIVE(inset_rows(x, INSET_LOG_SOFTMAX, 1, last, 0, &y));
    KEEP("d");
    GIVE(inset_index(x, "[0]", &one));
    GIVE(inset_topk(one, 2, -1, &y, &z));
    KEEP("e");
    GIVE(inset_save(t, "f", z));
    GIVE(inset_number(t, 0.25, &z));
    GIVE(inset_arithmetic(x, INSET_GREATER, z, &z));
    GIVE(inset_integer(t, 0, &zero));
    GIVE(inset_where(z, x, zero, &y));
    KEEP("g");
    GIVE(inset_weight(t, "transformer.wte.weight", &z));
    GIVE(inset_transpose(z, -2, -1, &z));
    GIVE(inset_arithmetic(x, INSET_MATRIX_PRODUCT, z, &y));
    KEEP("h");
    GIVE(inset_index(x, "[0, 0]", &z));
    GIVE(inset_arithmetic(x, INSET_MATRIX_PRODUCT, z, &y));
    GIVE(inset_index(y, "[..., None]", &y));
    KEEP("i");
    GIVE(inset_transpose(one, 0, 1, &y));
    GIVE(inset_detach(one, &z));
    GIVE(inset_arithmetic(y, INSET_MATRIX_PRODUCT, z, &y));
    KEEP("j");
    GIVE(inset_rows(x, INSET_ARGMAX, 1, last, 0, &y));
    KEEP("k");
    GIVE(inset_call(t, "transformer.h.1", x, &y));
    KEEP("l");
    GIVE(inset_rows(one, INSET_AMAX, 1, first, 0, &z));
    GIVE(inset_arithmetic(one, INSET_UNEQUAL, z, &y));
    KEEP("m");
    return s;
}

static void same(const char *what, inset_plan *a, inset_plan *b, size_t n)
{
    for (size_t k = 0; k < n; k++) {
        inset_tensor x, y;
        const char *name = "?", *other = "";
        CHECK(!inset_saved_at(a, k, &name, &x) && !inset_saved_at(b, k, &other, &y)
                  && !strcmp(name, other) && x.type == y.type
                  && inset_tensor_count(&x) == inset_tensor_count(&y)
                  && !memcmp(
                      x.data, y.data, (size_t)inset_tensor_count(&x) * inset_type_size(x.type)),
            "%s: %s is not %s", what, name, other);
    }
}

static void calls_are_lines(inset_context *context, inset_model *model)
{
    inset_trace *t[2] = {NULL, NULL};
    inset_plan *plan[2] = {NULL, NULL};
    inset_status status = INSET_OK;
    for (int i = 0; i < 2 && !status; i++) {
        if ((status = inset_trace_create(model, &t[i]))) break;
        status = i ? inset_script(t[i], "script", NULL, script, strlen(script)) : by_calls(t[i]);
        if (!status) status = inset_plan_create(t[i], NULL, &plan[i]);
        if (!status) status = inset_run(plan[i]);
    }
    if (CHECK(!status, "%s", inset_message(context))) same("calls", plan[0], plan[1], 13);
    for (int i = 0; i < 2; i++) inset_trace_free(t[i]);
}

/* ---- other numbers -------------------------------------------------------- */

/* x @ W, and a row of W beside it. */
static inset_status multiply(
    inset_model *model, const inset_tensor *w, inset_trace **t, inset_value **matrix)
{
    static const int64_t length = 3, tokens[] = {5, 6, 7};
    inset_value *x, *y;
    inset_status s = inset_trace_create(model, t);
    GIVE(inset_external(*t, w, matrix));
    GIVE(inset_invoke_tokens(*t, 1, &length, tokens));
    GIVE(inset_get(*t, "transformer.h[0].output", &x));
    GIVE(inset_arithmetic(x, INSET_MATRIX_PRODUCT, *matrix, &y));
    GIVE(inset_save(*t, "y", y));
    GIVE(inset_index(*matrix, "[4]", &y));
    GIVE(inset_save(*t, "row", y));
    return s;
}

/* A plan that gets another matrix gives what a plan made with it gives, also once it was run often
 * enough to be replayed, and goes back. */
static void other_matrices(inset_context *context, inset_model *model)
{
    float numbers[2][WIDTH * FEATURES];
    inset_trace *t[2] = {NULL, NULL};
    inset_plan *plan[3] = {NULL, NULL, NULL};
    inset_value *matrix[2];
    inset_tensor w[2];
    inset_status s = INSET_OK;
    for (int i = 0; i < 2 && !s; i++) {
        w[i] = matrix_of(numbers[i], (uint64_t)(i + 1));
        s = multiply(model, &w[i], &t[i], &matrix[i]);
        GIVE(inset_plan_create(t[i], NULL, &plan[i]));
        GIVE(inset_run(plan[i]));
    }
    GIVE(inset_plan_create(t[0], NULL, &plan[2]));
    for (int turn = 0; turn < 6 && CHECK(!s, "%s", inset_message(context)); turn++) {
        const int now = turn / 2 % 2;
        s = inset_plan_tensor(plan[2], matrix[0], &w[now]);
        for (int run = 0; run <= turn % 3 && !s; run++) s = inset_run(plan[2]);
        if (!s) same("another matrix", plan[2], plan[now], 2);
    }
    for (int i = 0; i < 2; i++) inset_trace_free(t[i]);
}

/* ---- refusals ------------------------------------------------------------- */

static void refusals(inset_context *context, inset_model *model)
{
    static const int64_t length = 3, tokens[] = {5, 6, 7}, twice[] = {1, 1}, far[] = {7};
    inset_trace *t = NULL;
    inset_value *x = NULL, *y = NULL, *z = NULL, *number = NULL, *ids = NULL;
    NEED(!inset_trace_create(model, &t) && !inset_invoke_tokens(t, 1, &length, tokens)
             && !inset_get(t, "transformer.wte.input", &ids)
             && !inset_get(t, "transformer.h[0].output", &x) && !inset_number(t, 1, &number),
        "%s", inset_message(context));
    CHECK(inset_rows(x, INSET_SUM, 2, twice, 0, &y) == INSET_VALUE_ERROR
              && inset_rows(x, INSET_SUM, 1, far, 0, &y) == INSET_INDEX_ERROR
              && inset_rows(ids, INSET_MEAN, 0, NULL, 0, &y) == INSET_TYPE_ERROR
              && inset_rows(x, INSET_SOFTMAX, 0, NULL, 0, &y) == INSET_VALUE_ERROR
              && inset_rows(number, INSET_SUM, 0, NULL, 0, &y) == INSET_TYPE_ERROR,
        "sums");
    CHECK(inset_rows(x, (inset_row_function)99, 0, NULL, 0, &y) == INSET_USAGE_ERROR
              && inset_rows(x, (inset_row_function)-1, 0, NULL, 0, &y) == INSET_USAGE_ERROR
              && inset_rows(x, INSET_SUM, 1, NULL, 0, &y) == INSET_USAGE_ERROR
              && inset_rows(x, INSET_SUM, -1, far, 0, &y) == INSET_USAGE_ERROR
              && inset_rows(NULL, INSET_SUM, 0, NULL, 0, &y) == INSET_USAGE_ERROR
              && inset_rows(x, INSET_SUM, 0, NULL, 0, NULL) == INSET_USAGE_ERROR,
        "no function");
    CHECK(inset_topk(x, 0, -1, &y, &z) == INSET_VALUE_ERROR
              && inset_topk(x, 3, 9, &y, &z) == INSET_INDEX_ERROR
              && inset_topk(x, 3, -1, NULL, NULL) == INSET_USAGE_ERROR
              && inset_topk(NULL, 3, -1, &y, NULL) == INSET_USAGE_ERROR,
        "topk");
    CHECK(inset_where(x, x, x, &y) == INSET_TYPE_ERROR
              && inset_where(number, x, x, &y) == INSET_TYPE_ERROR
              && inset_where(x, NULL, x, &y) == INSET_USAGE_ERROR
              && inset_where(NULL, x, x, &y) == INSET_USAGE_ERROR,
        "where");
    CHECK(inset_transpose(x, 0, 9, &y) == INSET_INDEX_ERROR
              && inset_transpose(number, 0, 1, &y) == INSET_TYPE_ERROR
              && inset_transpose(NULL, 0, 1, &y) == INSET_USAGE_ERROR
              && inset_detach(number, &y) == INSET_TYPE_ERROR
              && inset_detach(NULL, &y) == INSET_USAGE_ERROR,
        "transpose, detach");
    CHECK(inset_weight(t, "transformer.wte.bias", &y) == INSET_UNKNOWN_SITE
              && inset_weight(t, "nothing", &y) == INSET_UNKNOWN_SITE
              && inset_weight(t, "transformer.x.weight", &y) == INSET_UNKNOWN_SITE
              && inset_weight(t, NULL, &y) == INSET_USAGE_ERROR
              && inset_weight(NULL, "transformer.wte.weight", &y) == INSET_USAGE_ERROR,
        "weights");
    CHECK(inset_arithmetic(x, INSET_MATRIX_PRODUCT, number, &y) == INSET_TYPE_ERROR
              && inset_arithmetic(x, INSET_MATRIX_PRODUCT, x, &y) == INSET_SHAPE_ERROR
              && inset_arithmetic(number, INSET_LESS, number, &y) == INSET_TYPE_ERROR
              && inset_arithmetic(x, (inset_operation)99, x, &y) == INSET_USAGE_ERROR
              && inset_update_value(x, "", INSET_LESS, number) == INSET_USAGE_ERROR,
        "products, comparisons");
    CHECK(!y && !z, "a refused call gave a value");
    inset_trace_free(t);
}

int main(int argc, char **argv)
{
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_model_options options = INSET_MODEL_OPTIONS;
    if (getenv("INSET_TEST_DEVICE")) device = getenv("INSET_TEST_DEVICE");
    if (argc > 2 && !strcmp(argv[1], "-d")) device = argv[2];
    options.device = device;
    if (!CHECK(!inset_context_create(NULL, &context), "no context")) return test_result();
    inset_status status = inset_model_open(context, "fixtures/gpt2", &options, &model);
    if (status == INSET_DEVICE_ERROR && !strcmp(device, "cuda")) {
        inset_context_free(context);
        return TEST_SKIP; /* no GPU */
    }
    if (CHECK(!status, "%s", inset_message(context))) {
        calls_are_lines(context, model);
        other_matrices(context, model);
        refusals(context, model);
    }
    inset_context_free(context);
    return test_result();
}
