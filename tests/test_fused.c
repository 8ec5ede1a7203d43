/* test_fused.c: records inside steps: which are, and that they give the bits of records in launches
 * of their own.
 *
 *   sites    the common places of patches and saves, and whether their records need launches of
 *            their own
 *   bits     random traces planned with and without: what they save is the same, bit by bit, and
 *            there are no more launches; in one go and in chunks
 *
 * The device comes from INSET_TEST_DEVICE, "cpu" without it. test_fused [-n COUNT] [SEED] */
#include "plan/emit/launches.h"
#include "random_traces.h"
#include "run/run.h"
#include "script/script.h"
#include "test.h"

#include <math.h>

static const char *device_name = "cpu";

/* ---- sites -------------------------------------------------------------- */

/* A script's lines behind its invoke, and the launches of records that it needs beside the one that
 * saves the logits (a product's). */
typedef struct site_case {
    const char *lines;
    int64_t alone, fused;
} site_case;

static const site_case gpt2_cases[] = {
    /* what passes over rows make: sets of columns, sets from another row, arithmetic, saves */
    {"    transformer.wte.output[:, 1, 2:5] = 0\n", 0, 1},
    {"    transformer.drop.output[:, 1, 2:5] = 0\n", 0, 1},
    {"    transformer.h[1].input[:, 1, 2:5] = 0\n", 0, 1},
    {"    transformer.h[1].ln_1.output[:, 1, 2:5] = 0\n", 0, 1},
    {"    transformer.h[1].attn.z[:, 1, 2] = 0\n", 0, 1},
    {"    transformer.h[1].ln_2.input[:, 1, 2:5] = 0\n", 0, 1},
    {"    transformer.h[1].mlp.act.output[:, 1, 2:5] = 0\n", 0, 1},
    {"    transformer.h[1].output[:, 1, 2:5] = 0\n", 0, 1},
    {"    transformer.ln_f.output[:, -1, 2:5] = 0\n", 0, 1},
    {"    transformer.h[1].output[:, 1] = 3\n", 0, 1},
    {"    transformer.h[1].output[:, 1, 3:9] = transformer.h[1].output[:, 2, 1:7]\n", 0, 1},
    {"    transformer.h[1].attn.z[:, 1, 2] = transformer.h[1].attn.z[:, 3, 2]\n", 0, 1},
    {"    a = transformer.wte.output.save()\n", 0, 1},
    {"    a = transformer.h[1].input.save()\n", 0, 1},
    {"    a = transformer.h[1].ln_1.output.save()\n", 0, 1},
    {"    a = transformer.h[1].attn.z[:, :, 1].save()\n", 0, 1},
    {"    a = transformer.h[1].ln_2.input[:, 2].save()\n    b = "
     "transformer.h[1].ln_2.output.save()\n",
        0, 1}, /* an addition's and its norm's */
    {"    a = transformer.h[1].mlp.act.output[..., 4].save()\n", 0, 1},
    /* what products make */
    {"    transformer.h[1].attn.c_attn.output[:, 1, 2:5] = 0\n", 1, 0},
    {"    transformer.h[1].attn.output[:, 1, 2:5] = 0\n", 1, 0},
    {"    transformer.h[1].mlp.c_fc.output[:, 1, 2:5] = 0\n", 1, 0},
    {"    transformer.h[1].mlp.output[:, 1, 2:5] = 0\n", 1, 0},
    {"    a = transformer.h[1].mlp.output.save()\n", 1, 0},
    /* what reads a record's result; two rows in one operation, two heads in one, and what reads
     * it */
    {"    transformer.h[1].mlp.act.output[:, 1:4] *= 0.5\n", 0, 1},
    {"    transformer.h[1].output[:, 1, 2:5] = transformer.h[1].output[:, 1, 2:5] + "
     "transformer.h[1].output[:, 3, 2:5]\n",
        2, 1},
    {"    transformer.h[1].output[:, 1] *= 2\n    transformer.h[1].output[:, 1] += 1\n", 0, 1},
    {"    transformer.h[1].attn.z[:, 1, 2] = transformer.h[1].attn.z[:, 1, 2] + "
     "transformer.h[1].attn.z[:, 1, 3]\n",
        2, 1}, /* of two heads */
};

static const site_case llama_cases[] = {
    {"    model.embed_tokens.output[:, 1, 2:5] = 0\n", 0, 1},
    {"    model.layers[0].input_layernorm.output[:, 1, 2:5] = 0\n", 0, 1},
    {"    model.layers[0].self_attn.rot_q[:, 1, 0] = 0\n", 0, 1},
    {"    model.layers[0].self_attn.rot_k[:, 1, 0] = 0\n", 0, 1},
    {"    model.layers[0].self_attn.z[:, 1, 0] = 0\n", 0, 1},
    {"    model.layers[0].post_attention_layernorm.input[:, 1, 2:5] = 0\n", 0, 1},
    {"    model.layers[0].mlp.post[:, 1, 2:5] = 0\n", 0, 1},
    {"    model.layers[0].output[:, 1, 2:5] = 0\n", 0, 1},
    {"    model.layers[0].post_attention_layernorm.output[:, 1, 2:5] = 0\n", 0, 1},
    {"    model.norm.output[:, -1, 2:5] = 0\n", 0, 1},
    {"    a = model.layers[0].post_attention_layernorm.input.save()\n    b = "
     "model.layers[0].post_attention_layernorm.output.save()\n",
        0, 1},
    {"    a = model.layers[0].self_attn.rot_k.save()\n", 0, 1},
    {"    a = model.layers[0].mlp.post[:, -1].save()\n", 0, 1},
    {"    model.layers[0].self_attn.q[:, 1, 0] = 0\n", 1, 0},
    {"    model.layers[0].mlp.output[:, 1, 2:5] = 0\n", 1, 0},
};

static inset_status plan_script(
    struct inset_model *model, const char *text, bool no_fuse, trace **t, plan **p)
{
    plan_options options = {.no_fuse = no_fuse, .traits = model_traits(model)};
    /* a GELU inside its product is no step of its own to fuse into */
    options.traits.gelu_in_product = false;
    inset_status status = trace_create(model->context, model->program, model->type, t);
    if (!status) status = script_read(*t, "script", ".", text, strlen(text));
    return status ? status : plan_create(*t, &options, p);
}

static void check_site(struct inset_model *model, const site_case *c)
{
    char text[512];
    trace *traces[2] = {NULL, NULL};
    plan *plans[2] = {NULL, NULL};
    snprintf(text, sizeof text,
        "with invoke([[3, 1, 4, 1, 5]]):\n%s    logits = lm_head.output[:, -1].save()\n", c->lines);
    inset_status status = plan_script(model, text, false, &traces[0], &plans[0]);
    if (!status) status = plan_script(model, text, true, &traces[1], &plans[1]);
    if (CHECK(!status, "%s%s", c->lines, inset_message(model->context))) {
        const plan_statistics *s = plan_get_statistics(plans[0]),
                              *apart = plan_get_statistics(plans[1]);
        CHECK(s->alone_launches == 1 + c->alone && (s->fused_launches > 0) == (c->fused > 0)
                  && (s->fused_records > 0) == (c->fused > 0),
            "%s%lld records in %lld steps, %lld in %lld launches of their own", c->lines,
            (long long)s->fused_records, (long long)s->fused_launches, (long long)s->alone_records,
            (long long)s->alone_launches);
        CHECK(!apart->fused_records && !apart->fused_launches
                  && apart->launches - s->launches == apart->alone_launches - s->alone_launches,
            "%s%lld launches, %lld with records apart", c->lines, (long long)s->launches,
            (long long)apart->launches);
    }
    for (int i = 0; i < 2; i++) {
        plan_free(plans[i]);
        trace_free(traces[i]);
    }
}

static void check_sites(
    inset_context *context, const char *fixture, const site_case *cases, size_t n)
{
    struct inset_model *model = NULL;
    if (CHECK(!model_open(context, fixture, device_name, INSET_TYPE_COUNT, false, false, 0, &model),
            "%s: %s", fixture, inset_message(context)))
        for (size_t i = 0; i < n; i++) check_site(model, &cases[i]);
    model_free(model);
}

/* ---- bits --------------------------------------------------------------- */

typedef struct result {
    char *bytes;
    size_t n;
    double *numbers;
    size_t n_numbers;
    int64_t launches, fused;
} result;

static void result_free(result *r)
{
    free(r->bytes);
    free(r->numbers);
}

/* The same bits; but which of two NaNs an operation between them gives is the processor's affair,
 * and the compiler's. */
static bool same_bits(const result *a, const result *b)
{
    if (a->n != b->n || a->n_numbers != b->n_numbers) return false;
    if (!a->n || !memcmp(a->bytes, b->bytes, a->n)) return true;
    for (size_t i = 0; i < a->n_numbers; i++) {
        const double x = a->numbers[i], y = b->numbers[i];
        if (isnan(x) ? !isnan(y) : memcmp(&x, &y, sizeof x) != 0) return false;
    }
    return true;
}

static inset_status run_plan(
    struct inset_model *model, trace *t, const plan_options *options, result *out)
{
    plan *p = NULL;
    run *work = NULL;
    *out = (result){0};
    inset_status status = plan_create(t, options, &p);
    if (!status) status = run_create(model, p, &work);
    if (!status) status = run_execute(work);
    for (size_t i = 0; !status && i < plan_saved_count(p); i++) {
        inset_tensor tensor;
        if ((status = run_saved(work, i, &tensor))) break;
        const size_t size = type_size(tensor.type);
        size_t count = 1;
        for (int d = 0; d < tensor.n_dimensions; d++) count *= (size_t)tensor.shape[d];
        out->bytes = realloc(out->bytes, out->n + count * size + 1);
        out->numbers = realloc(out->numbers, (out->n_numbers + count + 1) * sizeof(double));
        if (!out->bytes || !out->numbers) abort();
        memcpy(out->bytes + out->n, tensor.data, count * size);
        for (size_t k = 0; k < count; k++)
            out->numbers[out->n_numbers + k] = element_get(
                tensor.type, (const char *)tensor.data + k * size);
        out->n += count * size;
        out->n_numbers += count;
    }
    if (!status) {
        out->launches = plan_get_statistics(p)->launches;
        out->fused = plan_get_statistics(p)->fused_records;
    }
    run_free(work);
    plan_free(p);
    return status;
}

/* Returns how many records were inside steps. */
static int64_t check_bits(
    struct inset_model *model, const char *name, uint64_t seed, int32_t chunks)
{
    trace *t = NULL;
    result inside = {0}, apart = {0};
    inset_status status = random_trace(model, seed, &t);
    if (!status)
        status = run_plan(
            model, t, &(plan_options){.chunks = chunks, .traits = model_traits(model)}, &inside);
    if (!status)
        status = run_plan(model, t,
            &(plan_options){.chunks = chunks, .no_fuse = true, .traits = model_traits(model)},
            &apart);
    if (CHECK(!status, "%s, seed %llu: %s", name, (unsigned long long)seed,
            inset_message(model->context))) {
        CHECK(same_bits(&inside, &apart),
            "%s, seed %llu, %d chunks: other bits with records inside steps", name,
            (unsigned long long)seed, (int)chunks);
        CHECK(inside.launches <= apart.launches,
            "%s, seed %llu: %lld launches, %lld with records apart", name, (unsigned long long)seed,
            (long long)inside.launches, (long long)apart.launches);
    }
    result_free(&inside);
    result_free(&apart);
    trace_free(t);
    return inside.fused;
}

static void check_model(struct inset_model *model, const char *name, uint64_t first, uint64_t count)
{
    int64_t fused = 0;
    for (uint64_t seed = first; seed < first + count; seed++) {
        fused += check_bits(model, name, seed, 1);
        fused += check_bits(model, name, seed, 3);
    }
    CHECK(fused > 0 || count < 5 || !strcmp(name, "sequential"), "%s: no record was inside a step",
        name);
}

int main(int argc, char **argv)
{
    static const char *const in_16_bits[] = {
        "fixtures/gpt2_bf16", "fixtures/gpt2_f16", "fixtures/llama_bf16", "fixtures/gemma2_bf16"};
    uint64_t first = 1, count = 30;
    inset_context *context;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-n") && i + 1 < argc) count = strtoull(argv[++i], NULL, 10);
        else first = strtoull(argv[i], NULL, 10);
    }
    if (getenv("INSET_TEST_DEVICE")) device_name = getenv("INSET_TEST_DEVICE");
    if (inset_context_create(NULL, &context)) return 1;
    check_sites(context, "fixtures/gpt2", gpt2_cases, sizeof gpt2_cases / sizeof *gpt2_cases);
    check_sites(context, "fixtures/llama", llama_cases, sizeof llama_cases / sizeof *llama_cases);
    for (int i = 0; tiny_models[i]; i++) {
        struct inset_model *model = NULL;
        void *numbers = NULL;
        if (CHECK(!tiny_model(context, tiny_models[i], device_name, 7, &model, &numbers), "%s: %s",
                tiny_models[i], inset_message(context)))
            check_model(model, tiny_models[i], first, count);
        model_free(model);
        free(numbers);
    }
    for (size_t i = 0; i < sizeof in_16_bits / sizeof *in_16_bits; i++) {
        struct inset_model *model = NULL;
        if (CHECK(!model_open(context, in_16_bits[i], device_name, INSET_TYPE_COUNT, false, false,
                      0, &model),
                "%s: %s", in_16_bits[i], inset_message(context)))
            check_model(model, in_16_bits[i], first, count);
        model_free(model);
    }
    inset_context_free(context);
    return test_result();
}
