/* test_exchange.c: numbers that come and go without files and without the host: models of tensors
 * in memory (on the host, on the device, mixed), saved values on the device, tensors from the
 * device; and watchers that stop long calls. The device comes from INSET_TEST_DEVICE, "cpu" without
 * it. */
#include <unistd.h>

#include "api/api.h"
#include "failing_allocator.h"
#include "file/file.h"
#include "test.h"

#if __has_include(<dlpack/dlpack.h>)
#include "inset_dlpack.h"
#endif

static const char *device_name = "cpu";

static const char *const families[] = {"gpt2", "gpt2_f16", "gpt2_bf16", "gpt_neox", "llama",
    "llama_bf16", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "olmo2", "gemma3", "smollm3",
    "gpt_neo", "mixtral"};
enum { FAMILIES = sizeof families / sizeof *families, LENGTH = 6 };
static const int64_t prompt[LENGTH] = {3, 1, 4, 1, 5, 2}, other[LENGTH] = {2, 7, 1, 8, 2, 8};

/* ---- a forward ---------------------------------------------------------- */

typedef struct forward {
    inset_trace *trace;
    inset_plan *plan;
    inset_tensor logits;
} forward;

static inset_status record_forward(inset_model *model, forward *f)
{
    const int64_t length = LENGTH;
    inset_value *logits = NULL;
    inset_status status = inset_trace_create(model, &f->trace);
    if (!status) status = inset_invoke_tokens(f->trace, 1, &length, prompt);
    if (!status) status = inset_get(f->trace, "output.logits", &logits);
    return status ? status : inset_save(f->trace, "logits", logits);
}

static inset_status run_forward(inset_model *model, forward *f)
{
    inset_status status = record_forward(model, f);
    if (!status) status = inset_plan_create(f->trace, NULL, &f->plan);
    if (!status) status = inset_run(f->plan);
    return status ? status : inset_saved(f->plan, "logits", &f->logits);
}

static size_t bytes_of(const inset_tensor *t)
{
    return (size_t)inset_tensor_count(t) * inset_type_size(t->type);
}

/* ---- models of tensors in memory ---------------------------------------- */

/* The weights of a directory as tensors: on the device, on the host, or in turn. */
typedef enum where { ON_HOST, ON_DEVICE, MIXED } where;
typedef struct tensors {
    char *config;
    weight_files *files;
    const char **names;
    inset_device_tensor *all;
    size_t n;
    device *device; /* whose memory they are in */
} tensors;

static void tensors_free(tensors *t)
{
    for (size_t i = 0; i < t->n; i++) inset_device_tensor_free(&t->all[i]);
    free(t->config);
    free(t->names);
    free(t->all);
    weight_files_close(t->files);
}

static inset_status tensors_read(
    inset_context *context, const char *directory, device *d, where where, tensors *t)
{
    char path[256];
    snprintf(path, sizeof path, "%s/config.json", directory);
    t->config = test_read(path, NULL);
    inset_status status = weight_files_open(context, directory, &t->files);
    if (status) return status;
    const size_t n = weight_files_count(t->files);
    t->names = calloc(n, sizeof *t->names);
    t->all = calloc(n, sizeof *t->all);
    for (size_t i = 0; i < n && !status; i++) {
        const file_tensor *from = weight_files_at(t->files, i);
        inset_device_tensor *to = &t->all[i];
        t->names[i] = from->name;
        *to = (inset_device_tensor){
            .tensor = {from->data, from->type, from->n_dimensions, {0}}, INSET_ON_CPU, 0, 0, 0};
        memcpy(to->tensor.shape, from->shape, sizeof to->tensor.shape);
        t->n = i + 1;
        if (where == ON_HOST || (where == MIXED && i % 2)) continue;
        device_share share;
        if ((status = device_share_new(d, from->bytes, &share))) break;
        to->memory = share.owner, to->release = share.release, to->tensor.data = share.data;
        if (d->is_cuda) to->device_type = INSET_ON_CUDA, to->device_index = d->index;
        if (!(status = device_upload(d, share.data, from->data, from->bytes)))
            status = device_synchronize(d);
    }
    return status;
}

/* The same logits, bit for bit, as from the directory; by gradients and heads too, which read the
 * weights once more. */
static void same_as_directory(const char *family, where where, const char *dtype)
{
    char directory[128];
    snprintf(directory, sizeof directory, "fixtures/%s", family);
    inset_context *context = NULL;
    inset_model *whole = NULL, *made = NULL;
    forward a = {0}, b = {0};
    tensors t = {0};
    inset_model_options options = INSET_MODEL_OPTIONS;
    options.device = device_name;
    options.dtype = dtype;
    NEED(!inset_context_create(NULL, &context), "context");
    inset_status status = inset_model_open(context, directory, &options, &whole);
    if (!status) status = tensors_read(context, directory, whole->device, where, &t);
    if (!status)
        status = inset_model_from_tensors(context, t.config, t.n, t.names, t.all, &options, &made);
    if (!status) status = run_forward(whole, &a);
    if (!status) status = run_forward(made, &b);
    if (CHECK(!status, "%s: %s", family, inset_message(context))) {
        CHECK(a.logits.type == b.logits.type && bytes_of(&a.logits) == bytes_of(&b.logits)
                  && !memcmp(a.logits.data, b.logits.data, bytes_of(&a.logits)),
            "%s, %d: other logits than the directory's", family, where);
        const int64_t bytes = model_bytes_backward(made), all = model_bytes_backward(whole);
        CHECK(where != ON_DEVICE || dtype || !made->device->is_cuda || bytes < all,
            "%s: %lld bytes on the device beside tensors that are there, %lld for the directory",
            family, (long long)bytes, (long long)all);
    }
    inset_model_free(made);
    tensors_free(&t);
    inset_context_free(context);
}

/* z of a head by its part of a weight, which comes from the tensors a second time. */
static void heads_of_given(void)
{
    inset_context *context = NULL;
    inset_model *models[2] = {NULL, NULL};
    tensors t = {0};
    inset_tensor out[2];
    inset_model_options options = INSET_MODEL_OPTIONS;
    options.device = device_name;
    NEED(!inset_context_create(NULL, &context), "context");
    inset_status status = inset_model_open(context, "fixtures/llama_bf16", &options, &models[0]);
    if (!status)
        status = tensors_read(context, "fixtures/llama_bf16", models[0]->device, ON_DEVICE, &t);
    if (!status)
        status = inset_model_from_tensors(
            context, t.config, t.n, t.names, t.all, &options, &models[1]);
    for (int i = 0; i < 2 && !status; i++) {
        const int64_t length = LENGTH;
        inset_trace *trace = NULL;
        inset_plan *plan = NULL;
        inset_value *result = NULL;
        status = inset_trace_create(models[i], &trace);
        if (!status) status = inset_invoke_tokens(trace, 1, &length, prompt);
        if (!status) status = inset_get(trace, "model.layers[1].self_attn.result", &result);
        if (!status) status = inset_save(trace, "result", result);
        if (!status) status = inset_plan_create(trace, NULL, &plan);
        if (!status) status = inset_run(plan);
        if (!status) status = inset_saved(plan, "result", &out[i]);
    }
    if (CHECK(!status, "%s", inset_message(context)))
        CHECK(!memcmp(out[0].data, out[1].data, bytes_of(&out[0])), "other results of heads");
    inset_model_free(models[1]);
    tensors_free(&t);
    inset_context_free(context);
}

static void refuses(inset_context *context, inset_status status, inset_status expected,
    const char *words, const char *what)
{
    CHECK(status == expected && strstr(inset_message(context), words), "%s: %s, \"%s\"", what,
        inset_status_name(status), inset_message(context));
}

/* What is wrong with tensors is said as what is wrong with files. */
static void wrong_tensors(void)
{
    inset_context *context = NULL;
    inset_model *model = NULL, *made = NULL;
    tensors t = {0};
    inset_model_options options = INSET_MODEL_OPTIONS;
    options.device = device_name;
    NEED(!inset_context_create(NULL, &context), "context");
    inset_status status = inset_model_open(context, "fixtures/gpt2", &options, &model);
    if (!status) status = tensors_read(context, "fixtures/gpt2", model->device, ON_HOST, &t);
    NEED(!status, "%s", inset_message(context));
#define MAKE(n) inset_model_from_tensors(context, t.config, n, t.names, t.all, &options, &made)
    refuses(context, MAKE(t.n - 1), INSET_FILE_ERROR, "missing", "one too few");
    const char *name = t.names[1];
    t.names[1] = t.names[0];
    refuses(context, MAKE(t.n), INSET_VALUE_ERROR, "there twice", "a name twice");
    t.names[1] = "nobody.weight";
    refuses(context, MAKE(t.n), INSET_FILE_ERROR, "missing", "an unknown name");
    t.names[1] = NULL;
    refuses(context, MAKE(t.n), INSET_USAGE_ERROR, "NULL", "no name");
    t.names[1] = name;
    t.all[1].tensor.shape[0]++;
    refuses(context, MAKE(t.n), INSET_FILE_ERROR, name, "another shape");
    t.all[1].tensor.shape[0]--;
    t.all[1].tensor.type = INSET_I32;
    refuses(context, MAKE(t.n), INSET_FILE_ERROR, "torch.int32", "integers");
    t.all[1].tensor.type = INSET_F32;
    t.all[1].device_type = INSET_ON_CUDA;
    t.all[1].device_index = 7;
    refuses(context, MAKE(t.n), INSET_DEVICE_ERROR, "cuda:7", "another GPU's");
    t.all[1].device_type = 8;
    refuses(context, MAKE(t.n), INSET_DEVICE_ERROR, "type 8", "a device of another kind");
    t.all[1].device_type = INSET_ON_CPU;
    refuses(context, inset_model_from_tensors(context, "{", t.n, t.names, t.all, &options, &made),
        INSET_FILE_ERROR, "the config:1", "a broken config");
    refuses(context, inset_model_from_tensors(context, NULL, 0, NULL, NULL, NULL, &made),
        INSET_USAGE_ERROR, "config", "no config");
    options.device = "none";
    CHECK(!MAKE(0) && inset_site_count(made) == inset_site_count(model), "without a device");
#undef MAKE
    tensors_free(&t);
    inset_context_free(context);
}

/* ---- saved values on the device, and back in ---------------------------- */

/* What was saved goes out on the device and, into another trace, in again: the same numbers come
 * out of it, also when the plan ran again in between with another prompt. */
static void out_and_in(const char *family)
{
    char directory[128];
    snprintf(directory, sizeof directory, "fixtures/%s", family);
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_model_options options = INSET_MODEL_OPTIONS;
    options.device = device_name;
    NEED(!inset_context_create(NULL, &context), "context");
    forward f = {0}, g = {0};
    inset_device_tensor there = {0};
    inset_value *in = NULL, *logits = NULL;
    inset_tensor back;
    const char *name = NULL;
    inset_status status = inset_model_open(context, directory, &options, &model);
    if (!status) status = run_forward(model, &f);
    NEED(!status, "%s", inset_message(context));
    void *before = malloc(bytes_of(&f.logits));
    memcpy(before, f.logits.data, bytes_of(&f.logits));
    status = inset_saved_device(f.plan, 0, &name, &there);
    NEED(!status && !strcmp(name, "logits"), "%s", inset_message(context));
    CHECK(there.device_type == (model->device->is_cuda ? INSET_ON_CUDA : INSET_ON_CPU),
        "on a device of type %d", (int)there.device_type);
    CHECK(!inset_plan_tokens(f.plan, 0, LENGTH, other) && !inset_run(f.plan), "%s",
        inset_message(context));

    const int64_t length = LENGTH;
    status = inset_trace_create(model, &g.trace);
    if (!status) status = inset_external_device(g.trace, &there, NULL, &in);
    inset_device_tensor_free(&there); /* it was borrowed */
    inset_device_tensor_free(&there);
    if (!status) status = inset_invoke_tokens(g.trace, 1, &length, other);
    if (!status) status = inset_get(g.trace, "output.logits", &logits);
    if (!status) status = inset_set_value(logits, "[:]", in);
    if (!status) status = inset_save(g.trace, "logits", logits);
    if (!status) status = inset_plan_create(g.trace, NULL, &g.plan);
    for (int times = 0; times < 4 && !status; times++) { /* launches, a capture, replays */
        status = inset_run(g.plan);
        if (!status) status = inset_saved(g.plan, "logits", &back);
        if (CHECK(!status, "%s", inset_message(context)))
            CHECK(!memcmp(back.data, before, bytes_of(&back)), "%s: run %d: other numbers", family,
                times);
        /* other inputs go up beside it */
        if (!status) status = inset_plan_tokens(g.plan, 0, LENGTH, times % 2 ? other : prompt);
    }
    /* other numbers of the host in its place */
    memset(before, 0, bytes_of(&back));
    const void *zeros = before;
    inset_tensor replaced = back;
    replaced.data = zeros;
    status = inset_plan_tensor(g.plan, in, &replaced);
    if (!status) status = inset_run(g.plan);
    if (!status) status = inset_saved(g.plan, "logits", &back);
    if (CHECK(!status, "%s", inset_message(context)))
        CHECK(!memcmp(back.data, zeros, bytes_of(&back)), "%s: not replaced", family);
    free(before);
    inset_context_free(context);
}

/* A tensor that outlives all that it came from. */
static void outlives(void)
{
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_model_options options = INSET_MODEL_OPTIONS;
    options.device = device_name;
    forward f = {0};
    inset_device_tensor there = {0};
    NEED(!inset_context_create(NULL, &context), "context");
    inset_status status = inset_model_open(context, "fixtures/gpt2", &options, &model);
    if (!status) status = run_forward(model, &f);
    if (!status) status = inset_saved_device(f.plan, 0, NULL, &there);
    NEED(!status, "%s", inset_message(context));
    const size_t bytes = bytes_of(&there.tensor);
    void *before = malloc(bytes);
    memcpy(before, f.logits.data, bytes);
    inset_context_free(context);
    if (there.device_type == INSET_ON_CPU)
        CHECK(!memcmp(there.tensor.data, before, bytes), "other numbers");
    inset_device_tensor_free(&there);
    inset_device_tensor_free(NULL);
    free(before);
}

static void wrong_exchange(void)
{
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_model_options options = INSET_MODEL_OPTIONS;
    options.device = device_name;
    forward f = {0};
    inset_device_tensor there = {0};
    inset_value *value = NULL;
    NEED(!inset_context_create(NULL, &context), "context");
    inset_status status = inset_model_open(context, "fixtures/gpt2", &options, &model);
    if (!status) status = record_forward(model, &f);
    if (!status) status = inset_plan_create(f.trace, NULL, &f.plan);
    NEED(!status, "%s", inset_message(context));
    refuses(context, inset_saved_device(f.plan, 0, NULL, &there), INSET_USAGE_ERROR, "not run",
        "before a run");
    NEED(!inset_run(f.plan), "%s", inset_message(context));
    refuses(context, inset_saved_device(f.plan, 1, NULL, &there), INSET_INDEX_ERROR, "there are 1",
        "past the last");
    refuses(context, inset_saved_device(f.plan, 0, NULL, NULL), INSET_USAGE_ERROR, "NULL", "NULL");
    const float numbers[2] = {1, 2};
    inset_device_tensor elsewhere = {
        .tensor = *INSET_TENSOR(numbers, INSET_F32, 2), .device_type = INSET_ON_CUDA};
    elsewhere.device_index = 5;
    refuses(context, inset_external_device(f.trace, &elsewhere, NULL, &value), INSET_DEVICE_ERROR,
        "cuda:5", "another GPU");
    elsewhere.device_type = 2000;
    refuses(context, inset_external_device(f.trace, &elsewhere, NULL, &value), INSET_DEVICE_ERROR,
        "2000", "another kind");
    elsewhere.device_type = INSET_ON_CPU;
    CHECK(!inset_external_device(f.trace, &elsewhere, NULL, &value), "%s", inset_message(context));
    CHECK(inset_external_device(NULL, &elsewhere, NULL, &value) == INSET_USAGE_ERROR
              && inset_external_device(f.trace, NULL, NULL, &value) == INSET_USAGE_ERROR
              && inset_external_device(f.trace, &elsewhere, NULL, NULL) == INSET_USAGE_ERROR,
        "NULLs");
    if (model->device->is_cuda) {
        NEED(!inset_saved_device(f.plan, 0, NULL, &there), "%s", inset_message(context));
        CHECK(!inset_external_device(f.trace, &there, NULL, &value), "%s", inset_message(context));
        refuses(context, inset_invoke_value(f.trace, value), INSET_TYPE_ERROR, "on the device",
            "an input on the device");
        inset_device_tensor_free(&there);
    }
    inset_context_free(context);
}

/* ---- DLPack ------------------------------------------------------------- */

#ifdef INSET_DLPACK_H
static void dlpack(void)
{
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_model_options options = INSET_MODEL_OPTIONS;
    options.device = device_name;
    forward f = {0};
    DLManagedTensor *out = NULL;
    inset_value *in = NULL;
    char shape[64];
    inset_type type;
    NEED(!inset_context_create(NULL, &context), "context");
    inset_status status = inset_model_open(context, "fixtures/llama_bf16", &options, &model);
    if (!status) status = run_forward(model, &f);
    if (!status) status = inset_saved_dlpack(f.plan, 0, &out);
    NEED(!status, "%s", inset_message(context));
    const DLTensor *t = &out->dl_tensor;
    CHECK(t->ndim == 3 && t->shape[1] == LENGTH && t->dtype.code == kDLBfloat && t->dtype.bits == 16
              && t->dtype.lanes == 1 && !t->strides && !t->byte_offset,
        "%d dimensions, type %d of %d bits", t->ndim, t->dtype.code, t->dtype.bits);
    CHECK((int)t->device.device_type == (model->device->is_cuda ? kDLCUDA : kDLCPU), "device %d",
        (int)t->device.device_type);
    status = inset_external_dlpack(f.trace, out, NULL, &in);
    CHECK(!status && !inset_value_shape(in, shape, sizeof shape, &type) && type == INSET_BF16
              && strstr(shape, "(1, 6, "),
        "%s, %s", inset_message(context), shape);
    /* dense in other words, and not dense */
    int64_t strides[3] = {1, t->shape[2], 1};
    out->dl_tensor.strides = strides;
    CHECK(!inset_external_dlpack(f.trace, out, NULL, &in), "%s", inset_message(context));
    strides[1] *= 2;
    CHECK(inset_external_dlpack(f.trace, out, NULL, &in) == INSET_TYPE_ERROR, "rows apart");
    out->dl_tensor.strides = NULL;
    out->dl_tensor.dtype.lanes = 2;
    CHECK(inset_external_dlpack(f.trace, out, NULL, &in) == INSET_TYPE_ERROR, "pairs");
    CHECK(inset_saved_dlpack(f.plan, 9, &out) == INSET_INDEX_ERROR, "past the last");
    inset_context_free(context);
    out->deleter(out);
    for (int i = 0; i < INSET_TYPE_COUNT; i++) {
        inset_type same = INSET_TYPE_COUNT;
        CHECK(inset_type_of_dlpack(inset_type_to_dlpack((inset_type)i), &same)
                  && same == (inset_type)i,
            "type %d comes back as %d", i, (int)same);
    }
}
#else
static void dlpack(void) {}
#endif

/* ---- a trace under construction ----------------------------------------- */

static void reads_back(void)
{
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_model_options options = INSET_MODEL_OPTIONS;
    options.device = "none";
    inset_trace *trace = NULL;
    inset_value *hidden = NULL, *number = NULL, *twice[2], *value = NULL;
    const char *name = NULL;
    char shape[64];
    const int64_t lengths[2] = {3, 2};
    NEED(!inset_context_create(NULL, &context), "context");
    inset_status status = inset_model_open(context, "fixtures/gpt2", &options, &model);
    if (!status) status = inset_trace_create(model, &trace);
    if (!status) status = inset_invoke_tokens(trace, 2, lengths, prompt);
    NEED(!status && inset_trace_saved_count(trace) == 0, "%s", inset_message(context));
    refuses(context, inset_trace_saved_at(trace, 0, &name, &value), INSET_INDEX_ERROR, "0 so far",
        "nothing yet");
    status = inset_get(trace, "transformer.h[0].output", &hidden);
    if (!status) status = inset_save(trace, "hidden", hidden);
    if (!status) status = inset_index(hidden, "[:, -1]", &number);
    twice[0] = twice[1] = number;
    if (!status) status = inset_save_stack(trace, "last", 2, twice);
    NEED(!status && inset_trace_saved_count(trace) == 2, "%s", inset_message(context));
    CHECK(!inset_trace_saved_at(trace, 0, &name, &value) && !strcmp(name, "hidden")
              && !inset_value_shape(value, shape, sizeof shape, NULL)
              && !strncmp(shape, "(2, 3|2, ", 9),
        "%s has %s", name, shape);
    CHECK(!inset_trace_saved_at(trace, 1, NULL, &value)
              && !inset_value_shape(value, shape, sizeof shape, NULL) && !strncmp(shape, "(2, ", 4),
        "a stack's first has %s", shape);
    CHECK(inset_trace_saved_count(NULL) == 0
              && inset_trace_saved_at(NULL, 0, NULL, &value) == INSET_USAGE_ERROR,
        "NULLs");
    inset_context_free(context);
}

/* ---- watchers ----------------------------------------------------------- */

typedef struct watched {
    int calls, stop_at; /* stops at this call; 0: never */
    int opening, planning, running;
    bool sane;
} watched;

static int watch(void *user, const inset_progress *p)
{
    watched *w = user;
    w->calls++;
    w->opening += !strcmp(p->doing, "opening");
    w->planning += !strcmp(p->doing, "planning");
    w->running += !strcmp(p->doing, "running");
    w->sane = w->sane && p->done >= 0 && p->done < p->total;
    return w->calls == w->stop_at;
}

/* Opens, sweeps; returns the first failure. The sum of the sweep's values comes back in *sum. */
static inset_status all_of_it(inset_context *context, double *sum)
{
    inset_model *model = NULL;
    inset_sweep *sweep = NULL;
    inset_sweep_result result;
    inset_model_options options = INSET_MODEL_OPTIONS;
    inset_sweep_options wanted = INSET_SWEEP_OPTIONS;
    const int64_t length = LENGTH;
    options.device = device_name;
    wanted.clean = (inset_prompts){NULL, 1, &length, prompt};
    wanted.corrupt = (inset_prompts){NULL, 1, &length, other};
    wanted.patch = "resid_pre,z";
    wanted.metrics = (const char *const[]){"logit_diff:3,5", NULL};
    inset_status status = inset_model_open(context, "fixtures/gpt2", &options, &model);
    if (!status) status = inset_sweep_create(model, &wanted, &sweep);
    while (!status && !inset_sweep_done(sweep)) status = inset_sweep_step(sweep);
    if (!status) status = inset_sweep_result_at(sweep, 0, &result);
    *sum = 0;
    for (int64_t i = 0; !status && i < result.points; i++) *sum += result.values[i];
    inset_model_free(model);
    return status;
}

/* Stopped at every call in turn, nothing is left and the next time it works. */
static void stops_anywhere(void)
{
    inset_context *context = NULL;
    watched w = {.sane = true};
    double whole = 0, again = 0;
    NEED(!inset_context_create(NULL, &context), "context");
    CHECK(!inset_watch(context, watch, &w, 0), "%s", inset_message(context));
    NEED(!all_of_it(context, &whole), "%s", inset_message(context));
    CHECK(w.sane && w.opening > 10 && w.planning > 10 && w.running > 10,
        "called %d times opening, %d planning, %d running", w.opening, w.planning, w.running);
    const int calls = w.calls, step = calls / (strcmp(device_name, "cpu") ? 12 : 60) + 1;
    const int64_t blocks = context->live_blocks;
    for (int stop = 1; stop <= calls; stop += step) {
        w = (watched){.stop_at = stop, .sane = true};
        inset_status status = all_of_it(context, &again);
        refuses(context, status, INSET_STOPPED, "stopped by the watcher while ", "a stop");
        CHECK(w.calls == stop, "stopped at call %d, called %d times", stop, w.calls);
    }
    CHECK(!inset_watch(context, NULL, NULL, 0), "%s", inset_message(context));
    CHECK(!all_of_it(context, &again) && again == whole, "%.9g behind the stops, %.9g before",
        again, whole);
    CHECK(context->live_blocks <= blocks + 8, "%lld blocks live, %lld before",
        (long long)context->live_blocks, (long long)blocks);
    inset_context_free(context);
}

/* A plan that was stopped runs whole the next time, and a sweep goes on where it was. */
static void goes_on(void)
{
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_model_options options = INSET_MODEL_OPTIONS;
    options.device = device_name;
    forward f = {0}, g = {0};
    watched w = {.sane = true};
    NEED(!inset_context_create(NULL, &context), "context");
    inset_status status = inset_model_open(context, "fixtures/gpt2", &options, &model);
    if (!status) status = run_forward(model, &f);
    if (!status) status = record_forward(model, &g);
    if (!status) status = inset_plan_create(g.trace, NULL, &g.plan);
    NEED(!status, "%s", inset_message(context));
    inset_watch(context, watch, &w, 0);
    for (int stop = 1; stop < 25; stop += 3) {
        w = (watched){.stop_at = stop, .sane = true};
        CHECK(inset_run(g.plan) == INSET_STOPPED, "call %d did not stop it", stop);
        CHECK(inset_saved(g.plan, "logits", &g.logits) == INSET_USAGE_ERROR, "half a run's values");
    }
    for (int times = 0; times < 3; times++) {
        w = (watched){.sane = true};
        status = inset_run(g.plan);
        if (!status) status = inset_saved(g.plan, "logits", &g.logits);
        if (CHECK(!status, "%s", inset_message(context)))
            CHECK(!memcmp(f.logits.data, g.logits.data, bytes_of(&g.logits)), "other logits");
    }
    /* a second apart: never called in a test's time */
    w = (watched){.sane = true};
    inset_watch(context, watch, &w, 1000);
    CHECK(!inset_run(g.plan) && !w.calls, "called %d times", w.calls);
    CHECK(inset_watch(NULL, watch, &w, 0) == INSET_USAGE_ERROR
              && inset_watch(context, watch, &w, -1) == INSET_USAGE_ERROR
              && inset_watch(context, watch, &w, NAN) == INSET_USAGE_ERROR,
        "seconds that are none");
    inset_context_free(context);
}

int main(void)
{
    if (getenv("INSET_TEST_DEVICE")) device_name = getenv("INSET_TEST_DEVICE");
    inset_context *context = NULL;
    device *d = NULL;
    if (inset_context_create(NULL, &context)) return 1;
    const inset_status opened = device_open(context, device_name, &d);
    if (opened) fprintf(stderr, "%s\n", inset_message(context));
    device_close(d);
    inset_context_free(context);
    if (opened) return TEST_SKIP;
    for (int i = 0; i < FAMILIES; i++)
        for (int w = ON_HOST; w <= MIXED; w++) same_as_directory(families[i], (where)w, NULL);
    for (int w = ON_HOST; w <= MIXED; w++) {
        same_as_directory("gpt2", (where)w, "bf16");
        same_as_directory("llama_bf16", (where)w, "f32");
        same_as_directory("gpt2_f16", (where)w, "bf16");
    }
    heads_of_given();
    wrong_tensors();
    out_and_in("gpt2");
    out_and_in("llama_bf16");
    outlives();
    wrong_exchange();
    dlpack();
    reads_back();
    stops_anywhere();
    goes_on();
    return test_result();
}
