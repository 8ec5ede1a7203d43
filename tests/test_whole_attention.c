/* test_whole_attention.c: attention of whole sequences by cuDNN, on the stand-in: which sequences
 * the planner gives it, that what it computes is what the own kernel computes, and that neither
 * sharing, chunks, saves nor replays change a bit. */
#include "failing_allocator.h"
#include "file/file.h"
#include "models/models.h"
#include "plan/emit/launches.h"
#include "run/model.h"
#include "run/run.h"
#include "script/script.h"
#include "standin/standin.h"
#include "test.h"

static const char *const configs[] = {
    "{\"model_type\": \"gpt2\", \"n_embd\": 32, \"n_head\": 4, \"n_layer\": 4, \"n_positions\": "
    "320, \"vocab_size\": 61}",
    "{\"model_type\": \"llama\", \"hidden_size\": 24, \"num_attention_heads\": 4, "
    "\"num_key_value_heads\": 2, \"head_dim\": 8, \"num_hidden_layers\": 4, "
    "\"intermediate_size\": 20, \"max_position_embeddings\": 320, \"vocab_size\": 61, "
    "\"tie_word_embeddings\": false}",
};
static const char *const blocks[] = {"transformer.h", "model.layers"}, *const attentions[] = {
                                                                           "attn", "self_attn"};
enum { GPT2, LLAMA, LAYERS = 4 };

typedef struct bench {
    inset_context *context;
    struct inset_model *model;
    void *numbers;
    int family;
    failing_allocator memory;
} bench;

/* A model of random weights; `device` NULL: a program alone, in a type. */
static bool bench_start(bench *b, int family, inset_type type, bool fast)
{
    json_document *document = NULL;
    program *g = NULL;
    uint64_t state = 7;
    *b = (bench){.family = family};
    if (inset_context_create(failing_allocator_interface(&b->memory), &b->context)) abort();
    inset_status status = json_parse(
        b->context, "config", configs[family], strlen(configs[family]), &document);
    if (!status) status = models_build(b->context, document, false, &g);
    json_close(document);
    if (!CHECK(!status, "%s", inset_message(b->context))) return false;
    size_t n = 0;
    for (size_t i = 0; i < g->n_weights; i++)
        n += (size_t)g->weights[i].rows * (size_t)g->weights[i].columns;
    float *at = b->numbers = malloc(n * sizeof *at);
    if (!at) abort();
    for (size_t i = 0; i < g->n_weights; i++) {
        weight *w = &g->weights[i];
        w->data = at;
        w->data_type = INSET_F32;
        for (size_t k = (size_t)w->rows * (size_t)w->columns; k > 0; k--)
            *at++ = (float)(test_uniform(&state)
                                * (w->role == WEIGHT_VECTOR   ? 0.3
                                    : w->role == WEIGHT_TABLE ? 1.0
                                                              : 0.35)
                            + (w->role == WEIGHT_VECTOR));
    }
    return CHECK(
        !model_from_program(g, "cuda", type, fast, &b->model), "%s", inset_message(b->context));
}

static void bench_end(bench *b)
{
    model_free(b->model);
    inset_context_free(b->context);
    free(b->numbers);
}

/* ---- scripts: $ is the model's blocks, % a block's attention, @N:F@ a prompt of N tokens that
 * begins with F ---- Prompts have the tokens 1 .. 20 in common where F is below 10; above, none. */

static void write_prompt(char **to, int n, int first)
{
    *to += sprintf(*to, "[");
    for (int i = 0; i < n; i++)
        *to += sprintf(*to, "%s%d", i ? ", " : "",
            i ? (i * i + 3 * i + first * (i > 20 || first >= 10)) % 61 : first);
    *to += sprintf(*to, "]");
}

static const char *expand(const bench *b, const char *script)
{
    static char text[1 << 16];
    char *to = text;
    for (const char *c = script; *c; c++) {
        int n, first, used;
        if (*c == '@' && sscanf(c, "@%d:%d@%n", &n, &first, &used) == 2)
            write_prompt(&to, n, first), c += used - 1;
        else if (*c == '$') to += sprintf(to, "%s", blocks[b->family]);
        else if (*c == '%') to += sprintf(to, "%s", attentions[b->family]);
        else *to++ = *c;
    }
    *to = 0;
    return text;
}

typedef struct trial {
    trace *trace;
    plan *plan;
    run *run;
} trial;

static bool trial_start(bench *b, const char *script, plan_options options, trial *out)
{
    const char *text = expand(b, script);
    *out = (trial){0};
    options.traits = model_traits(b->model);
    inset_status status = trace_create(b->context, b->model->program, b->model->type, &out->trace);
    if (!status) status = script_read(out->trace, "script", ".", text, strlen(text));
    if (!status) status = plan_create(out->trace, &options, &out->plan);
    return CHECK(!status, "%s\n%s", script, inset_message(b->context));
}

static void trial_end(trial *t)
{
    run_free(t->run);
    plan_free(t->plan);
    trace_free(t->trace);
}

static int count_launches(const plan *p)
{
    int n = 0;
    for (size_t i = 0; i < p->n_launches; i++)
        n += !p->launches[i].is_matmul && p->launches[i].kernel == KERNEL_WHOLE_ATTENTION;
    return n;
}

/* ---- who is taken whole ------------------------------------------------- */

#define LAST "    last = output.logits[:, -1].save()\n"
static const struct {
    const char *what, *script;
    int sequences, launches;
} cases[] = {
    {"alone", "with invoke([@300:1@]):\n" LAST, 1, 4},
    {"as long as it must be", "with invoke([@256:1@]):\n" LAST, 1, 4},
    {"too short", "with invoke([@255:1@]):\n" LAST, 0, 0},
    {"two in one invoke", "with invoke([@300:1@, @257:2@]):\n" LAST, 2, 8},
    {"one first token",
        "with invoke([@300:1@]):\n    a = output.logits[:, -1].save()\nwith invoke([@257:1@]):\n   "
        " b = output.logits[:, -1].save()\n",
        0, 0},
    {"another first token beside a shared one",
        "with invoke([@300:1@]):\n    a = output.logits[:, -1].save()\nwith invoke([@40:1@]):\n    "
        "b = output.logits[:, -1].save()\n"
        "with invoke([@300:2@]):\n    c = output.logits[:, -1].save()\n",
        1, 4},
    {"set from another invoke",
        "with invoke([@300:1@]):\n    h = $[1].output[:, 4]\nwith invoke([@300:2@]):\n    "
        "$[1].output[:, 5] = h\n" LAST
        "with invoke([@300:3@]):\n    c = output.logits[:, -1].save()\n",
        1, 4},
    {"replaced by what was computed from another",
        "with invoke([@300:1@]):\n    h = $[1].output * 2\nwith invoke([@300:2@]):\n    "
        "$[1].output = h\n" LAST,
        0, 0},
    {"compared with another",
        "with invoke([@300:1@]):\n    a = output.logits[:, -1]\nwith invoke([@300:2@]):\n    d = "
        "(a - output.logits[:, -1]).save()\n",
        2, 8},
    {"its own values set",
        "with invoke([@300:1@]):\n    $[0].output[:, 7] = $[0].output[:, 9] * 2\n    "
        "$[1].output[:, 3:200:5] = 0\n" LAST,
        1, 4},
    {"its first position set", "with invoke([@300:1@]):\n    $[1].output[:, 0] = 0\n" LAST, 1, 2},
    {"its first query set", "with invoke([@300:1@]):\n    $[1].%.q[:, 0] = 0\n" LAST, 1, 1},
    {"its pattern set", "with invoke([@300:1@]):\n    $[2].%.pattern[:, :, 9] = 0\n" LAST, 1, 3},
    {"its pattern seen", "with invoke([@300:1@]):\n    p = $[2].%.pattern[:, 0, 9].save()\n" LAST,
        1, 4},
    {"only its beginning", "with invoke([@300:1@]):\n    h = $[2].output[:, 3].save()\n", 1, 3},
    {"a block skipped", "with invoke([@300:1@]):\n    $[1].skip($[1].input)\n" LAST, 1, 1},
};

static void takes_what_nobody_else_has(int family)
{
    bench b;
    if (bench_start(&b, family, INSET_BF16, false))
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
            for (int way = 0; way < 3; way++) {
                trial t;
                if (trial_start(&b, cases[i].script,
                        (plan_options){.no_share = way == 1, .chunks = way == 2 ? INT32_MAX : 0},
                        &t)) {
                    const int sequences = (int)plan_get_statistics(t.plan)->whole_sequences,
                              launches = count_launches(t.plan);
                    CHECK(sequences == cases[i].sequences && launches == cases[i].launches,
                        "%s, %s, way %d: %d sequences in %d launches, expected %d in %d",
                        blocks[family], cases[i].what, way, sequences, launches, cases[i].sequences,
                        cases[i].launches);
                }
                trial_end(&t);
            }
    bench_end(&b);
}

static void needs_a_device_that_does(void)
{
    for (int way = 0; way < 3; way++) {
        bench b;
        trial t;
        standin_attention(way == 1, 0, way == 2 ? 300 : 0);
        if (bench_start(&b, GPT2, way ? INSET_F16 : INSET_F32, false)
            && trial_start(&b, "with invoke([@300:1@]):\n" LAST, (plan_options){0}, &t)) {
            CHECK(count_launches(t.plan) == 0, "way %d: %d launches", way, count_launches(t.plan));
            trial_end(&t);
        }
        bench_end(&b);
        standin_attention(false, 0, 0);
    }
}

/* ---- what comes out ----------------------------------------------------- */

typedef struct saved {
    size_t bytes;
    char *at;
} saved;

/* Runs once more and collects what was saved, the first `most` values. */
static saved run_trial(bench *b, trial *t, size_t most)
{
    saved out = {0};
    inset_status status = t->run ? INSET_OK : run_create(b->model, t->plan, &t->run);
    if (!status) status = run_execute(t->run);
    CHECK(!status, "%s", inset_message(b->context));
    for (size_t i = 0; !status && i < plan_saved_count(t->plan) && i < most; i++) {
        inset_tensor tensor;
        if (!CHECK(!run_saved(t->run, i, &tensor), "%s", inset_message(b->context))) break;
        const size_t bytes = (size_t)inset_tensor_count(&tensor) * type_size(tensor.type);
        out.at = realloc(out.at, out.bytes + bytes);
        if (!out.at) abort();
        memcpy(out.at + out.bytes, tensor.data, bytes);
        out.bytes += bytes;
    }
    return out;
}

static saved run_script(bench *b, const char *script, plan_options options, size_t most)
{
    trial t;
    saved out = {0};
    if (trial_start(b, script, options, &t)) out = run_trial(b, &t, most);
    trial_end(&t);
    return out;
}

static bool same(saved a, saved b)
{
    return a.bytes && a.bytes == b.bytes && !memcmp(a.at, b.at, a.bytes);
}

/* The largest difference of two lists of 16-bit floats, in units of the largest number. */
static double apart(saved a, saved b, inset_type type)
{
    double largest = 0, difference = 0;
    if (!a.bytes || a.bytes != b.bytes) return INFINITY;
    for (size_t i = 0; i < a.bytes; i += 2) {
        const double x = element_get(type, a.at + i), y = element_get(type, b.at + i);
        if (!(fabs(x - y) <= difference)) difference = fabs(x - y);
        if (fabs(y) > largest) largest = fabs(y);
    }
    return difference / largest;
}

/* One launch of two sequences against loops in double: grouped heads, queries, keys and values side
 * by side in rows with room behind them, and the statistics that a backward pass will read. `most`
 * sequences at once. */
static void agrees_with_plain_loops(int64_t most)
{
    enum { S = 2, T = 37, H = 4, K = 2, D = 8, ROW = (H + 2 * K) * D + 8, OUT = H * D };
    static float in[S * T * ROW], statistics[S * H * T];
    static uint16_t rounded[S * T * ROW], out[S * T * OUT];
    inset_context *context = NULL;
    device *d = NULL;
    uint64_t state = 3;
    void *memory = NULL;
    const size_t in_bytes = sizeof rounded, out_at = (in_bytes + 255) / 256 * 256,
                 statistics_at = out_at + (sizeof out + 255) / 256 * 256;
    standin_attention(false, most, 0);
    NEED(!inset_context_create(NULL, &context), "no context");
    inset_status status = device_open(context, "cuda", &d);
    if (!status) status = device_allocate(d, statistics_at + sizeof statistics, &memory);
    for (size_t i = 0; i < sizeof in / sizeof *in; i++)
        rounded[i] = bf16_from_float((float)(2 * test_uniform(&state))),
        in[i] = bf16_to_float(rounded[i]);
    if (!status) status = device_upload(d, memory, rounded, sizeof rounded);
    const whole_attention_args args = {.out = (char *)memory + out_at,
        .q = memory,
        .k = (char *)memory + H * D * 2,
        .v = (char *)memory + (H + K) * D * 2,
        .statistics = (float *)(void *)((char *)memory + statistics_at),
        .n_sequences = S,
        .length = T,
        .out_stride = OUT,
        .q_stride = ROW,
        .k_stride = ROW,
        .v_stride = ROW,
        .n_heads = H,
        .n_kv_heads = K,
        .head_dim = D,
        .scale = 0.4f};
    CHECK(!status && device_takes_attention(d, INSET_BF16, &args)
              && !device_takes_attention(d, INSET_F32, &args),
        "%s", inset_message(context));
    if (!status)
        status = device_launch(d, KERNEL_WHOLE_ATTENTION, INSET_BF16, &args, sizeof args, 1, 1);
    if (!status) status = device_download(d, out, args.out, sizeof out);
    if (!status) status = device_download(d, statistics, args.statistics, sizeof statistics);
    CHECK(!status, "%s", inset_message(context));
    double worst = 0, worst_statistic = 0;
    for (int s = 0; s < S; s++)
        for (int h = 0; h < H; h++)
            for (int t = 0; t < T; t++) {
                double sum = 0, z[D] = {0}, scores[T];
                const float *q = in + (s * T + t) * ROW + h * D;
                for (int j = 0; j <= t; j++) {
                    const float *k = in + (s * T + j) * ROW + (H + h / (H / K)) * D, *v = k + K * D;
                    scores[j] = 0;
                    for (int i = 0; i < D; i++) scores[j] += (double)q[i] * k[i];
                    sum += exp(0.4 * scores[j]);
                    for (int i = 0; i < D; i++) z[i] += exp(0.4 * scores[j]) * v[i];
                }
                for (int i = 0; i < D; i++)
                    worst = fmax(worst,
                        fabs(bf16_to_float(out[(s * T + t) * OUT + h * D + i]) - z[i] / sum));
                worst_statistic = fmax(
                    worst_statistic, fabs(statistics[(s * H + h) * T + t] - log(sum)));
            }
    CHECK(worst < 0.02 && worst_statistic < 1e-4,
        "%lld at once: %g from loops in double, statistics %g", (long long)most, worst,
        worst_statistic);
    device_release(d, memory, statistics_at + sizeof statistics);
    device_close(d);
    inset_context_free(context);
    standin_attention(false, 0, 0);
}

static const char busy[] = "with invoke([@300:1@, @280:2@]):\n"
                           "    z = $[0].%.output.save()\n"
                           "    $[0].output[:, 7] = $[0].output[:, 9] * 2\n"
                           "    $[2].output[:, 100:200:7] *= 0.5\n"
                           "    $[3].%.q[:, 30, 1] = 0.25\n"
                           "    a = output.logits[:, -3:].save()\n"
                           "with invoke([@270:3@]):\n"
                           "    $[2].%.pattern[:, :, 50] = 0\n"
                           "    b = output.logits[:, -1].save()\n"
                           "with invoke([@300:4@]):\n"
                           "    $[1].%.k[:, 270] = $[1].%.k[:, 3]\n"
                           "    c = output.logits[:, -1].save()\n"
                           "with invoke([@290:4@]):\n"
                           "    d = output.logits[:, -1].save()\n";

static void computes_what_the_own_kernel_does(int family, inset_type type)
{
    bench b;
    saved whole = {0}, own = {0}, refused = {0};
    const double tolerance = type == INSET_BF16 ? 0.02 : 0.003;
    if (bench_start(&b, family, type, false)) {
        const standin_counts before = standin_counted();
        whole = run_script(&b, busy, (plan_options){0}, 99);
        CHECK(standin_counted().attentions - before.attentions == 11, "%lld attentions",
            (long long)(standin_counted().attentions - before.attentions));
    }
    bench_end(&b);
    standin_attention(true, 0, 0);
    if (bench_start(&b, family, type, false)) own = run_script(&b, busy, (plan_options){0}, 99);
    bench_end(&b);
    CHECK(!same(whole, own) && apart(whole, own, type) < tolerance,
        "%s: the own kernel and cuDNN are %g apart", blocks[family], apart(whole, own, type));
    /* what is refused, the own kernel does */
    for (int64_t length = 270; length <= 300; length += 10) {
        standin_attention(false, 0, length);
        if (bench_start(&b, family, type, false))
            refused = run_script(&b, busy, (plan_options){0}, 99);
        CHECK(apart(refused, own, type) < tolerance, "without %lld: %g apart", (long long)length,
            apart(refused, own, type));
        bench_end(&b);
        free(refused.at);
    }
    standin_attention(false, 0, 0);
    free(whole.at);
    free(own.at);
}

static const char busier[] = "with invoke([@300:1@, @280:2@]):\n"
                             "    z = $[0].%.output.save()\n"
                             "    $[0].output[:, 7] = $[0].output[:, 9] * 2\n"
                             "    s = $[1].%.scores[:, 0, 3].save()\n"
                             "    r = $[1].output.save()\n"
                             "    $[2].output[:, 100:200:7] *= 0.5\n"
                             "    $[3].%.q[:, 30, 1] = 0.25\n"
                             "    m = $[3].mlp.output[:, 40].save()\n"
                             "    a = output.logits[:, -3:].save()\n";

/* Sharing, chunks, what else is saved, and replays. */
static void changes_no_bit(int family)
{
    bench b;
    trial t;
    if (bench_start(&b, family, INSET_BF16, false)
        && trial_start(&b, busy, (plan_options){0}, &t)) {
        const saved first = run_trial(&b, &t, 99), again = run_trial(&b, &t, 99);
        const standin_counts before = standin_counted();
        const saved replayed = run_trial(&b, &t, 99),
                    unshared = run_script(&b, busy, (plan_options){.no_share = true}, 99),
                    chunked = run_script(&b, busy, (plan_options){.chunks = INT32_MAX}, 99);
        CHECK(standin_counted().replays > before.replays, "nothing was replayed");
        CHECK(same(first, again) && same(first, replayed), "%s: a replay has other bits",
            blocks[family]);
        CHECK(same(first, unshared), "%s: without sharing there are other bits", blocks[family]);
        CHECK(same(first, chunked), "%s: in chunks there are other bits", blocks[family]);
        free(first.at), free(again.at), free(replayed.at), free(unshared.at), free(chunked.at);
        trial_end(&t);
        static const char few[] = "with invoke([@300:1@]):\n" LAST,
                          many[] = "with invoke([@300:1@]):\n" LAST
                                   "    x = output.logits.save()\n";
        const saved one = run_script(&b, few, (plan_options){0}, 1),
                    more = run_script(&b, many, (plan_options){0}, 1);
        CHECK(same(one, more), "%s: saving more changed bits", blocks[family]);
        free(one.at), free(more.at);
        const saved seen = run_script(&b, busier, (plan_options){0}, 1),
                    alone = run_script(&b, busy, (plan_options){0}, 1);
        CHECK(same(seen, alone), "%s: saving in between changed bits", blocks[family]);
        free(seen.at), free(alone.at);
    }
    bench_end(&b);
}

/* Fast: sequences of equal length that lie side by side are one launch, run one by one where cuDNN
 * has no plan for several; and what else begins with a sequence's first token does not matter, if
 * it is not as long. */
static void joins_where_fast(void)
{
    static const char three[] =
        "with invoke([@300:10@, @300:11@, @300:12@]):\n    a = output.logits[:, -1].save()\n";
    static const char zeroed[] =
        "with invoke([@300:1@]):\n    $[1].output[:, 0] = 0\n    a = output.logits[:, -1].save()\n"
        "with invoke([@256:1@]):\n    b = $[0].output.save()\nwith invoke([@256:2@]):\n    c = "
        "$[0].output.save()\n";
    static const char shorter[] =
        "with invoke([@300:1@]):\n    $[1].output[:, 0] = 0\n    a = output.logits[:, "
        "-1].save()\nwith invoke([@40:1@]):\n    b = $[0].output.save()\n";
    bench b;
    trial t;
    saved together = {0}, apart_ = {0};
    if (bench_start(&b, GPT2, INSET_BF16, true) && trial_start(&b, three, (plan_options){0}, &t)) {
        const standin_counts before = standin_counted();
        CHECK(count_launches(t.plan) == LAYERS, "%d launches", count_launches(t.plan));
        together = run_trial(&b, &t, 1);
        CHECK(standin_counted().attentions - before.attentions == LAYERS, "%lld attentions",
            (long long)(standin_counted().attentions - before.attentions));
        trial_end(&t);
        if (trial_start(&b, zeroed, (plan_options){0}, &t))
            CHECK(plan_get_statistics(t.plan)->whole_sequences == 1,
                "a sequence that shares rows was taken");
        trial_end(&t);
        if (trial_start(&b, shorter, (plan_options){0}, &t))
            CHECK(count_launches(t.plan) == LAYERS, "%d launches beside a short prompt",
                count_launches(t.plan));
        trial_end(&t);
    }
    bench_end(&b);
    standin_attention(false, 1, 0);
    if (bench_start(&b, GPT2, INSET_BF16, true)) {
        const standin_counts before = standin_counted();
        apart_ = run_script(&b, three, (plan_options){0}, 1);
        CHECK(standin_counted().attentions - before.attentions == 3 * LAYERS, "%lld attentions",
            (long long)(standin_counted().attentions - before.attentions));
    }
    bench_end(&b);
    CHECK(same(together, apart_), "one by one there are other bits");
    free(together.at), free(apart_.at);
    standin_attention(false, 0, 0);
}

/* Whatever call fails while a device is opened, asked and run: an error, or the right numbers by
 * one kernel or the other. */
static void each_call_fails(void)
{
    static const char script[] = "with invoke([@256:1@]):\n    a = $[0].output.save()\n";
    saved whole = {0}, own = {0};
    int64_t errors = 0, others = 0;
    bool failed = true;
    /* weights take most of the first calls */
    for (int64_t n = 0; failed && !test_failures; n = n < 150 ? n + 1 : n + 13) {
        bench b;
        trial t;
        saved got = {0};
        standin_attention(n == 1, 0, 0);
        if (!bench_start(&b, GPT2, INSET_BF16, false)) break;
        const standin_counts before = standin_counted();
        if (n > 1) standin_fail_call(n - 1);
        const char *text = expand(&b, script);
        t = (trial){0};
        plan_options options = {.traits = model_traits(b.model)};
        inset_status status = trace_create(b.context, b.model->program, b.model->type, &t.trace);
        if (!status) status = script_read(t.trace, "script", ".", text, strlen(text));
        if (!status) status = plan_create(t.trace, &options, &t.plan);
        if (!status) status = run_create(b.model, t.plan, &t.run);
        if (!status) status = run_execute(t.run);
        failed = n < 2 || standin_counted().calls - before.calls >= n - 1;
        standin_fail_call(0);
        if (!status) got = run_trial(&b, &t, 1);
        if (n == 0) whole = got;
        else if (n == 1) own = got;
        else if (status) errors++;
        else
            CHECK(same(got, whole) || same(got, own), "call %lld failed: other bits", (long long)n);
        others += n > 1 && !status && same(got, own);
        if (n > 1) free(got.at);
        trial_end(&t);
        bench_end(&b);
        CHECK(!*standin_problems(), "call %lld: %s", (long long)n, standin_problems());
        CHECK(standin_live() == 0, "call %lld: %lld handles are left", (long long)n,
            (long long)standin_live());
        standin_reset();
    }
    CHECK(errors > 2 && others > 50, "%lld errors, %lld runs by the own kernel", (long long)errors,
        (long long)others);
    free(whole.at), free(own.at);
}

/* Plans and runs with every allocation failing in turn; then again, with none. */
static void each_allocation_fails(void)
{
    static const char script[] =
        "with invoke([@256:1@, @260:2@]):\n    $[0].output[:, 9] = 0\n    a = $[1].output.save()\n";
    bench b;
    bool failed = true;
    int64_t refused = 0;
    if (bench_start(&b, GPT2, INSET_BF16, false)) {
        const char *text = expand(&b, script);
        const plan_options options = {.traits = model_traits(b.model)};
        for (int64_t n = 1; failed && !test_failures; n += n < 200 ? 1 : 7) {
            trial t = {0};
            b.memory.fail_at = b.memory.calls + n;
            inset_status status = trace_create(
                b.context, b.model->program, b.model->type, &t.trace);
            if (!status) status = script_read(t.trace, "script", ".", text, strlen(text));
            if (!status) status = plan_create(t.trace, &options, &t.plan);
            if (!status) status = run_create(b.model, t.plan, &t.run);
            if (!status) status = run_execute(t.run);
            failed = b.memory.calls >= b.memory.fail_at;
            b.memory.fail_at = 0;
            CHECK(!status || status == INSET_NO_MEMORY, "allocation %lld: %s", (long long)n,
                inset_message(b.context));
            refused += status == INSET_NO_MEMORY;
            trial_end(&t);
        }
        CHECK(refused > 50, "only %lld allocations failed", (long long)refused);
    }
    bench_end(&b);
    CHECK(b.memory.live == 0 && b.memory.damaged == 0, "%lld blocks are left",
        (long long)b.memory.live);
}

int main(void)
{
    takes_what_nobody_else_has(GPT2);
    takes_what_nobody_else_has(LLAMA);
    needs_a_device_that_does();
    agrees_with_plain_loops(0);
    agrees_with_plain_loops(1);
    computes_what_the_own_kernel_does(GPT2, INSET_BF16);
    computes_what_the_own_kernel_does(LLAMA, INSET_F16);
    changes_no_bit(GPT2);
    changes_no_bit(LLAMA);
    joins_where_fast();
    each_call_fails();
    each_allocation_fails();
    return test_result();
}
