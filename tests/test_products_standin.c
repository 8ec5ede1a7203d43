/* test_products_standin.c: whole models on the stand-in: weights go up once, through pinned memory
 * alone and without another copy on the host; a GELU is part of its product where the device's bits
 * allow it, and looking between the two changes nothing; and a product's padding lies over nobody's
 * rows (whose numbers test_cases_standin and test_properties_standin hold to others': there every
 * run has padding). */
#include "failing_allocator.h"
#include "file/file.h"
#include "models/models.h"
#include "plan/emit/launches.h"
#include "run/model.h"
#include "run/run.h"
#include "script/script.h"
#include "standin/standin.h"
#include "test.h"

typedef struct world {
    failing_allocator memory; /* counts; none fails */
    inset_context *context;
    struct inset_model *model;
} world;

static void world_start(world *w)
{
    *w = (world){0};
    if (inset_context_create(failing_allocator_interface(&w->memory), &w->context)) abort();
}

static void world_end(world *w, const char *name)
{
    model_free(w->model);
    inset_context_free(w->context);
    CHECK(standin_live() == 0 && !*standin_problems(), "%s: %lld left; %s", name,
        (long long)standin_live(), standin_problems());
    CHECK(w->memory.live == 0, "%s: %lld blocks are left", name, (long long)w->memory.live);
    standin_reset();
}

/* ---- weights ------------------------------------------------------------ */

/* What was copied into memory that is still there is every weight once: a tied one too, and a table
 * that is also a product's. */
static void weights_go_up_once(const char *name, inset_type type)
{
    char path[64];
    world w;
    world_start(&w);
    snprintf(path, sizeof path, "fixtures/%s", name);
    if (CHECK(!model_open(w.context, path, "cuda", type, false, false, 0, &w.model), "%s: %s", name,
            inset_message(w.context)))
        CHECK(standin_bytes_in_use() == w.model->weight_bytes,
            "%s: %lld bytes went up, the weights are %lld", name, (long long)standin_bytes_in_use(),
            (long long)w.model->weight_bytes);
    world_end(&w, name);
}

static program *build_program(world *w, const char *config)
{
    json_document *document = NULL;
    program *made = NULL;
    inset_status status = json_parse(w->context, "config", config, strlen(config), &document);
    if (!status) status = models_build(w->context, document, false, &made);
    CHECK(!status, "%s", inset_message(w->context));
    json_close(document);
    return made;
}

/* A table of 8 MB in fp32 goes up as 4 MB of bf16: on the host there is never so much more than
 * before. */
static void tables_have_no_copy_on_the_host(void)
{
    static const char config[] = "{\"model_type\": \"gpt2\", \"n_embd\": 32, \"n_head\": 2, "
                                 "\"n_layer\": 1, \"n_positions\": 65536, \"vocab_size\": 17}";
    enum { MOST = 2 << 20 };
    world w;
    world_start(&w);
    program *made = build_program(&w, config);
    float *numbers = calloc(65536 * 32, sizeof *numbers);
    for (size_t i = 0; made && i < made->n_weights; i++)
        made->weights[i].data = numbers, made->weights[i].data_type = INSET_F32;
    const size_t before = w.memory.peak = w.memory.bytes;
    if (made
        && CHECK(!model_from_program(made, "cuda", INSET_BF16, false, &w.model), "%s",
            inset_message(w.context)))
        CHECK(w.memory.peak - before < MOST, "%zu bytes on the host while opening",
            w.memory.peak - before);
    free(numbers);
    world_end(&w, "a large table");
}

/* The same for a matrix; the first of its shape is probed, which takes memory of its own. */
static void matrices_have_no_copy_on_the_host(void)
{
    enum { WIDTH = 512, MOST = 4096 };
    world w;
    world_start(&w);
    device *d = NULL;
    matrix *first = NULL, *second = NULL;
    float *weight = calloc(WIDTH * WIDTH, sizeof *weight);
    if (CHECK(!device_open(w.context, "cuda", &d)
                  && !device_matrix_create(d, INSET_BF16, WIDTH, WIDTH, weight, INSET_F32, true,
                      NULL, INSET_F32, &first),
            "%s", inset_message(w.context))) {
        const size_t before = w.memory.peak = w.memory.bytes;
        CHECK(!device_matrix_create(
                  d, INSET_BF16, WIDTH, WIDTH, weight, INSET_F32, true, NULL, INSET_F32, &second),
            "%s", inset_message(w.context));
        CHECK(w.memory.peak - before < MOST, "%zu bytes on the host for a matrix",
            w.memory.peak - before);
    }
    device_matrix_free(d, first);
    device_matrix_free(d, second);
    device_close(d);
    free(weight);
    world_end(&w, "a large matrix");
}

/* ---- a GELU in the product ---------------------------------------------- */

static const char plain[] = "with invoke([[3, 1, 4, 1, 5]]):\n    logits = lm_head.output.save()\n";
static const char looked[] =
    "with invoke([[3, 1, 4, 1, 5]]):\n    pre = transformer.h[1].mlp.pre.save()\n    logits = "
    "lm_head.output.save()\n";
static const char patched[] = "with invoke([[3, 1, 4, 1, 5]]):\n    transformer.h[1].mlp.pre[:, 2] "
                              "*= 2\n    logits = lm_head.output.save()\n";
static const char after[] = "with invoke([[3, 1, 4, 1, 5]]):\n    transformer.h[1].mlp.post[:, 2] "
                            "*= 2\n    logits = lm_head.output.save()\n";
enum { LAYERS = 3, LOGITS = 5 * 96 * 4 };

/* Runs a script and gives the bytes of its logits, how many launches and how many products with a
 * GELU it took. */
static size_t run_script(
    world *w, const char *text, char *logits, int64_t *launches, int64_t *gelus)
{
    trace *t = NULL;
    plan *p = NULL;
    run *r = NULL;
    size_t bytes = 0;
    inset_tensor tensor;
    inset_status status = trace_create(w->context, w->model->program, w->model->type, &t);
    const plan_options options = {.traits = model_traits(w->model)};
    if (!status) status = script_read(t, "script", ".", text, strlen(text));
    if (!status) status = plan_create(t, &options, &p);
    if (!status) status = run_create(w->model, p, &r);
    const standin_counts before = standin_counted();
    if (!status) status = run_execute(r);
    *gelus = standin_counted().gelu_products - before.gelu_products;
    *launches = standin_counted().launches + standin_counted().products - before.launches
                - before.products;
    CHECK(status || *launches == plan_get_statistics(p)->launches,
        "%lld launches, the plan says %lld", (long long)*launches,
        (long long)plan_get_statistics(p)->launches);
    for (size_t i = 0; !status && i < plan_saved_count(p); i++) {
        if (strcmp(plan_saved_name(p, i), "logits")) continue;
        status = run_saved(r, i, &tensor);
        bytes = type_size(tensor.type);
        for (int k = 0; k < tensor.n_dimensions; k++) bytes *= (size_t)tensor.shape[k];
        if (CHECK(bytes <= LOGITS, "%zu bytes of logits", bytes))
            memcpy(logits, tensor.data, bytes);
    }
    CHECK(!status, "%s", inset_message(w->context));
    run_free(r);
    plan_free(p);
    trace_free(t);
    return bytes;
}

/* fused: of the layers, how many whose GELU is part of the product when nobody looks. */
static void gelu_where_it_rounds_alike(
    const char *fixture, standin_gelu rounding, bool fast, int64_t fused, bool same)
{
    char name[96], path[64], logits[3][LOGITS] = {{0}};
    int64_t launches[3], gelus[3];
    snprintf(name, sizeof name, "%s, a GELU that rounds in way %d%s", fixture, rounding,
        fast ? ", fast" : "");
    snprintf(path, sizeof path, "fixtures/%s", fixture);
    world w;
    world_start(&w);
    standin_gelu_rounding(rounding);
    if (CHECK(!model_open(w.context, path, "cuda", INSET_TYPE_COUNT, fast, false, 0, &w.model),
            "%s: %s", name, inset_message(w.context))) {
        const size_t bytes = run_script(&w, plain, logits[0], &launches[0], &gelus[0]);
        CHECK(run_script(&w, looked, logits[1], &launches[1], &gelus[1]) == bytes && bytes > 0,
            "%s: other logits", name);
        run_script(&w, patched, logits[2], &launches[2], &gelus[2]);
        CHECK(gelus[0] == fused && gelus[1] == (fused ? fused - 1 : 0) && gelus[2] == gelus[1],
            "%s: %lld, %lld and %lld fused", name, (long long)gelus[0], (long long)gelus[1],
            (long long)gelus[2]);
        CHECK(launches[1] - launches[0] == (fused ? 2 : 1), "%s: looking takes %lld launches", name,
            (long long)(launches[1] - launches[0]));
        CHECK(!memcmp(logits[0], logits[1], bytes) == same,
            "%s: looking between product and GELU %s the logits", name, same ? "changed" : "kept");
        CHECK(memcmp(logits[1], logits[2], bytes),
            "%s: a patch between product and GELU changed nothing", name);
        run_script(&w, after, logits[2], &launches[2], &gelus[2]);
        CHECK(gelus[2] == fused, "%s: %lld fused with a patch behind the GELU", name,
            (long long)gelus[2]);
    }
    world_end(&w, name);
}

/* ---- traits ------------------------------------------------------------- */

/* A plan without room for padding is no plan for a device that writes it. */
static void refuses_plans_without_room(void)
{
    world w;
    world_start(&w);
    trace *t = NULL;
    plan *p = NULL;
    run *r = NULL;
    if (CHECK(!model_open(
                  w.context, "fixtures/gpt2", "cuda", INSET_TYPE_COUNT, false, false, 0, &w.model),
            "%s", inset_message(w.context))
        && CHECK(!trace_create(w.context, w.model->program, w.model->type, &t)
                     && !script_read(t, "script", ".", plain, strlen(plain))
                     && !plan_create(t, NULL, &p),
            "%s", inset_message(w.context)))
        CHECK(run_create(w.model, p, &r) == INSET_USAGE_ERROR && !r, "it was taken");
    plan_free(p);
    trace_free(t);
    world_end(&w, "traits");
}

int main(void)
{
    static const char *const fixtures[] = {
        "gpt2", "gpt2_bf16", "gpt2_options", "llama", "gemma2", "gpt_neox", "phi3", "qwen3"};
    for (size_t i = 0; i < sizeof fixtures / sizeof *fixtures; i++)
        weights_go_up_once(fixtures[i], INSET_TYPE_COUNT);
    weights_go_up_once("gpt2", INSET_BF16);
    weights_go_up_once("gpt2_bf16", INSET_F32);
    tables_have_no_copy_on_the_host();
    matrices_have_no_copy_on_the_host();
    gelu_where_it_rounds_alike("gpt2", GELU_ONCE, false, LAYERS, true);
    gelu_where_it_rounds_alike("gpt2", GELU_OTHERWISE, false, 0, true);
    gelu_where_it_rounds_alike("gpt2", GELU_OTHERWISE, true, LAYERS, false);
    gelu_where_it_rounds_alike("gpt2_bf16", GELU_ONCE, false, 0, true);
    gelu_where_it_rounds_alike("gpt2_bf16", GELU_AS_KERNEL, false, LAYERS, true);
    refuses_plans_without_room();
    return test_result();
}
