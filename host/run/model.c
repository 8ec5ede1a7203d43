/* model.c: from a directory, or from a program with numbers in memory, to weights on a device.
 *
 * The order is what makes a bad directory cheap to refuse: config and program first, then the
 * names, shapes and types of all weights (no page of them read), then the device, and only then the
 * numbers. Each weight is packed or copied once, straight out of the mapped file, and its pages are
 * given back, so that memory peaks at the packed weights. A GPU gets each once, converted while it
 * is written into pinned memory: no other copy is made of it on the host. */
#include "run/model.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "file/file.h"
#include "file/gguf/gguf.h"
#include "models/models.h"
#include "run/sources.h"
#include "run/stream.h"
#include "text/tokenizer.h"

/* ---- the config --------------------------------------------------------- */

/* A GGUF file has what a config.json says in its metadata. */
static inset_status config_of_gguf(inset_context *context, const char *path, json_document **out)
{
    gguf *g;
    char *text = NULL;
    size_t length;
    *out = NULL;
    inset_status status = gguf_open(context, path, &g);
    if (!status) status = gguf_config(context, g, &text, &length);
    if (!status) status = json_parse(context, path, text, length, out);
    memory_free(context, text);
    gguf_close(g);
    return status;
}

/* A directory with an adapter and no model: says what it is, and which model it was made for. */
static inset_status refuse_adapter(inset_context *context, const char *directory, const char *path)
{
    json_document *adapter = NULL;
    const char *base = "";
    if (json_open(context, path, &adapter)) return INSET_FILE_ERROR;
    json_as_string(json_member(json_root(adapter), "base_model_name_or_path"), &base);
    inset_status status = error_set(context, INSET_FILE_ERROR,
        "%s: is an adapter%s%.200s, and inset opens whole models", directory, *base ? " of " : "",
        base);
    error_help(context,
        "merge it first, with peft: PeftModel.from_pretrained(model, \"%s\")"
        ".merge_and_unload().save_pretrained(OUT)",
        directory);
    json_close(adapter);
    return status;
}

static inset_status open_config(inset_context *context, const char *directory, json_document **out)
{
    if (is_gguf(directory)) return config_of_gguf(context, directory, out);
    size_t size = strlen(directory) + sizeof "/adapter_config.json";
    char *path = memory_new(context, size), *adapter = memory_new(context, size);
    inset_status status = path && adapter ? INSET_OK : INSET_NO_MEMORY;
    if (!status) {
        snprintf(path, size, "%s/config.json", directory);
        snprintf(adapter, size, "%s/adapter_config.json", directory);
        status = access(path, F_OK) && !access(adapter, F_OK)
                     ? refuse_adapter(context, directory, adapter)
                     : json_open(context, path, out);
    }
    memory_free(context, path);
    memory_free(context, adapter);
    return status;
}

inset_status model_program(
    inset_context *context, const char *directory, bool ungroup, program **out)
{
    json_document *config = NULL;
    *out = NULL;
    inset_status status = open_config(context, directory, &config);
    if (!status) status = models_build(context, config, ungroup, out);
    json_close(config);
    return status;
}

inset_status model_program_of(
    inset_context *context, const char *text, size_t length, bool ungroup, program **out)
{
    json_document *config = NULL;
    *out = NULL;
    inset_status status = json_parse(context, "the config", text, length, &config);
    if (!status) status = models_build(context, config, ungroup, out);
    json_close(config);
    return status;
}

/* ---- the weights' numbers ----------------------------------------------- */

static void give_back_pages(const opening *o, int32_t index)
{
    if (o->files && o->sources[index].tensor)
        weight_files_release_pages(o->files, o->sources[index].tensor);
}

static bool is_there(const source *s) { return s->tensor && s->tensor->gpu; }

/* A source's numbers on the host. place: 0 or 1; they hold until the next call with the same. */
static inset_status on_host(opening *o, const source *s, int place, const void **out)
{
    const bool blocks = s->tensor && s->tensor->blocks;
    if (!is_there(s) && !blocks) return *out = s->data, INSET_OK;
    memory_free(o->context, o->fetched[place]);
    if (!(o->fetched[place] = memory_new(o->context, s->bytes))) return INSET_NO_MEMORY;
    *out = o->fetched[place];
    if (blocks) return gguf_numbers(s->tensor, o->fetched[place]), INSET_OK;
    return device_download(o->model->device, o->fetched[place], s->data, s->bytes);
}

/* Puts a vector or table on the device, once however many steps read it; one that is there already,
 * in the model's type, is read where it is. */
static inset_status load_data(opening *o, int32_t index)
{
    struct inset_model *m = o->model;
    if (index < 0 || m->weights[index].data) return INSET_OK;
    const weight *w = &m->program->weights[index];
    const source *from = &o->sources[index];
    const void *numbers;
    if (is_there(from) && from->type == m->type && (uintptr_t)from->data % 16 == 0)
        return m->weights[index].data = (void *)(uintptr_t)from->data, INSET_OK;
    if (w->same_as >= 0) { /* the partner owns it: bytes stays 0 here */
        inset_status status = load_data(o, w->same_as);
        m->weights[index].data = m->weights[w->same_as].data;
        return status;
    }
    size_t count = (size_t)w->rows * (size_t)w->columns, bytes = count * type_size(m->type);
    inset_status status = device_allocate(m->device, bytes, &m->weights[index].data);
    if (status) return status;
    m->weights[index].bytes = bytes;
    if (!(status = on_host(o, from, 0, &numbers)))
        status = device_upload_as(
            m->device, m->weights[index].data, m->type, numbers, from->type, (int64_t)count);
    give_back_pages(o, index);
    return status;
}

static bool is_head(const program *p, const step *s)
{
    if (s->kind != STEP_LINEAR) return false;
    for (const step *later = s + 1; later < p->steps + p->n_steps; later++)
        if (later->kind == STEP_LINEAR) return false;
    return true;
}

/* Whether a step is the tanh GELU of what another makes. */
static bool is_gelu_of(const program *p, const step *s, const step *made)
{
    return s->kind == STEP_ACTIVATION && s->activation == ACTIVATION_GELU_TANH
           && p->slots[s->operands[0]].value == made->value;
}

/* Asks the device whether a product's GELU may be part of it: for the whole model, so that all
 * layers do alike. */
static inset_status load_gelu(opening *o, const step *s)
{
    struct inset_model *m = o->model;
    const step *end = m->program->steps + m->program->n_steps, *later = s + 1;
    bool allowed = true;
    while (later < end && !is_gelu_of(m->program, later, s)) later++;
    inset_status status = later < end ? device_matrix_gelu(
                              m->device, m->weights[s->weight].matrix, &allowed)
                                      : INSET_OK;
    m->gelu_in_product = m->gelu_in_product && allowed;
    return status;
}

/* Prepares the matrix of a product, its bias inside. */
static inset_status load_matrix(
    opening *o, int32_t index, int32_t bias_index, bool is_last, int32_t *biases)
{
    struct inset_model *m = o->model;
    const weight *w = &m->program->weights[index];
    if (m->weights[index].matrix) {
        if (biases[index] == bias_index) return INSET_OK;
        return error_set(o->context, INSET_USAGE_ERROR,
            "weight %s is used by two linear steps with different biases: declare it twice, "
            "the second tied to the first",
            w->name);
    }
    const source *from = &o->sources[index],
                 *bias = bias_index >= 0 ? &o->sources[bias_index] : NULL;
    int64_t in = w->in_out ? w->rows : w->columns, out = w->in_out ? w->columns : w->rows;
    /* The last product, a language model's head, is also kept as it is stored: a plan that reads a
     * few of its columns takes dot products. */
    const bool is_table = is_last && !w->in_out;
    inset_status status = is_table ? load_data(o, index) : INSET_OK;
    if (is_table && !status) status = load_data(o, bias_index);
    if (status) return status;
    const bool in_place = is_there(from) && from->type == m->type && !w->in_out
                          && (uintptr_t)from->data % 16 == 0;
    const void *numbers = NULL, *bias_data = NULL;
    const inset_type bias_type = bias ? bias->type : INSET_F32;
    matrix **result = &m->weights[index].matrix;
    if (bias) status = on_host(o, bias, 1, &bias_data);
    if (m->stream && m->stream->comes[index]) {
        biases[index] = bias_index;
        return status ? status
                      : device_matrix_empty(m->device, m->type, in, out, w->in_out, bias_data,
                          bias_type, NULL, result);
    }
    if (!status && !is_table && !in_place) status = on_host(o, from, 0, &numbers);
    if (status) return status;
    if (numbers)
        status = device_matrix_create(m->device, m->type, in, out, numbers, from->type, w->in_out,
            bias_data, bias_type, result);
    else
        status = device_matrix_over(m->device, m->type, in, out,
            in_place ? from->data : m->weights[index].data, bias_data, bias_type, result);
    biases[index] = bias_index;
    give_back_pages(o, index);
    return status;
}

/* ---- weights that come and go ------------------------------------------- */

/* What weights may take: as given, or so much that runs have room too. */
static int64_t weights_limit(const opening *o)
{
    const double there = (double)o->model->device->memory_free;
    return o->weight_memory ? (int64_t)o->weight_memory : (int64_t)(0.6 * there);
}

static inset_status refuse_weights(const opening *o, const stream_sizes *is, int64_t least)
{
    return error_set(o->context, INSET_NO_MEMORY,
        "%s: its weights take %.4g GB on %s; %.4g GB are allowed, and with layers that come and go "
        "%.4g GB are needed",
        *o->directory ? o->directory : "the model", (double)(is->tables + is->matrices) / 1e9,
        o->model->device->name, (double)weights_limit(o) / 1e9, (double)least / 1e9);
}

/* Decides which weights come and go: none where they fit (nobody gave a limit: in nine tenths of
 * what is free), or where their numbers cannot be had again. */
static inset_status choose_stream(opening *o)
{
    struct inset_model *m = o->model;
    const bool widened = device_widens(m->device, m->type);
    const stream_sizes is = stream_measure(m->program, m->type, widened);
    const double all = (double)(is.tables + is.matrices);
    int64_t least;
    bool fits;
    if (!o->weight_memory
        && (!m->device->memory_free || all < 0.9 * (double)m->device->memory_free))
        return INSET_OK;
    if (o->weight_memory && all <= (double)o->weight_memory) return INSET_OK;
    if (!o->files) {
        if (!o->weight_memory) return INSET_OK;
        return error_set(o->context, INSET_USAGE_ERROR,
            "weights that were given in memory cannot come and go: open a directory");
    }
    inset_status status = stream_make(m, widened, weights_limit(o), &fits, &least);
    return status || fits ? status : refuse_weights(o, &is, least);
}

static inset_status load_weights(opening *o)
{
    struct inset_model *m = o->model;
    const program *p = m->program;
    m->weights = memory_new(o->context, p->n_weights * sizeof *m->weights);
    int32_t *biases = memory_new(o->context, p->n_weights * sizeof *biases);
    inset_status status = m->weights && biases ? choose_stream(o) : INSET_NO_MEMORY;
    m->gelu_in_product = !m->stream; /* it has the bits of the two on their own */
    /* the last first: a head is the largest, and room to convert it is there while little else
     * is */
    for (size_t i = p->n_steps; i-- > 0 && !status;) {
        const step *s = &p->steps[i];
        status = context_watch(
            o->context, "opening", (int64_t)(p->n_steps - 1 - i), (int64_t)p->n_steps);
        if (status) break;
        for (int32_t k = 0; k < program_products(s) && !status; k++) {
            int32_t index, bias;
            program_product(s, k, &index, &bias);
            status = load_matrix(o, index, bias, is_head(p, s), biases);
        }
        if (s->kind == STEP_LINEAR) {
            if (!status && !m->stream) status = load_gelu(o, s);
        } else if (status || s->aside) continue; /* it comes when it is asked for (parts.c) */
        else if (!(status = load_data(o, s->weight))) status = load_data(o, s->bias);
    }
    memory_free(o->context, biases);
    if (!status) status = device_synchronize(m->device);
    for (size_t i = 0; i < p->n_weights; i++)
        if (p->weights[i].same_as < 0)
            m->weight_bytes += (int64_t)p->weights[i].rows * p->weights[i].columns
                               * (int64_t)type_size(m->type);
    return status;
}

/* ---- opening ------------------------------------------------------------ */

static inset_status check_type(inset_context *context, inset_type type)
{
    if (type == INSET_F32 || type == INSET_BF16 || type == INSET_F16 || type == INSET_TYPE_COUNT)
        return INSET_OK;
    return error_set(context, INSET_USAGE_ERROR, "a model runs in f32, bf16 or f16, not in %s",
        (unsigned)type < INSET_TYPE_COUNT ? type_name(type) : "an unknown type");
}

/* INSET_OK when all numbers are on the host or on the model's GPU, whose copies from elsewhere are
 * then waited for. */
static inset_status check_places(const opening *o)
{
    device *d = o->model->device;
    bool any = false;
    for (size_t i = 0; i < weight_files_count(o->files); i++) {
        const file_tensor *t = weight_files_at(o->files, i);
        any = any || t->gpu;
        if (t->gpu && (!d->is_cuda || d->index != t->gpu - 1))
            return error_set(o->context, INSET_DEVICE_ERROR,
                "%s: %s is on cuda:%d and the model runs on %s: open it on cuda:%d", o->directory,
                t->name, (int)t->gpu - 1, d->name, (int)t->gpu - 1);
    }
    return any ? device_wait_for(d, NULL) : INSET_OK;
}

/* From a program in o->model to a model that is ready. */
static inset_status finish(opening *o, const char *device_name, inset_type type, bool fast)
{
    struct inset_model *m = o->model;
    o->sources = memory_new(o->context, m->program->n_weights * sizeof *o->sources);
    if (!o->sources) return INSET_NO_MEMORY;
    inset_status status = o->files ? sources_find(o) : sources_in_memory(o);
    if (!status && o->files) status = sources_refuse_extra(o);
    if (status) return status;
    m->type = sources_type(o, type);
    if ((status = device_open(o->context, device_name, &m->device))) return status;
    m->device->fast = fast;
    status = o->files ? check_places(o) : INSET_OK;
    return status ? status : load_weights(o);
}

/* Ends an opening: the model goes out, or is freed with all it has when `status` says that
 * something failed. */
static inset_status conclude(opening *o, inset_status status, struct inset_model **out)
{
    memory_free(o->context, o->sources);
    for (int i = 0; i < 2; i++) memory_free(o->context, o->fetched[i]);
    if (o->files != o->model->given) weight_files_close(o->files);
    json_close(o->config);
    if (status) model_free(o->model);
    else *out = o->model;
    return status;
}

/* What weights take on the device, about. */
static int64_t weights_there(const struct inset_model *m)
{
    const struct weight_stream *s = m->stream;
    if (!s) return m->weight_bytes;
    return m->weight_bytes - stream_bytes(m->program, m->type, false, s->comes)
           + STREAM_SLOTS * (int64_t)s->slot_bytes;
}

size_t model_memory_left(const struct inset_model *m)
{
    size_t left = 0;
    if (!m->device || !m->device->memory_free) return 0;
    if (m->device->functions->memory_left) {
        if (m->device->functions->memory_left(m->device, &left)) return 0; /* the run will say */
    } else if (m->device->memory_free > (size_t)weights_there(m))
        left = m->device->memory_free - (size_t)weights_there(m);
    return left ? left : 1;
}

inset_status model_set_folder(struct inset_model *m, const char *folder)
{
    m->folder = memory_text(m->context, folder, strlen(folder));
    return m->folder ? INSET_OK : INSET_NO_MEMORY;
}

static struct inset_model *new_model(inset_context *context)
{
    struct inset_model *m = memory_new(context, sizeof *m);
    if (m) m->context = context;
    return m;
}

inset_status model_open(inset_context *context, const char *directory, const char *device_name,
    inset_type type, bool fast, bool ungroup, size_t weight_memory, struct inset_model **out)
{
    *out = NULL;
    inset_status status = check_type(context, type);
    if (status) return status;
    opening o = {.context = context,
        .directory = directory,
        .weight_memory = weight_memory,
        .model = new_model(context)};
    if (!o.model) return INSET_NO_MEMORY;
    status = open_config(context, directory, &o.config);
    if (!status) status = models_build(context, o.config, ungroup, &o.model->program);
    if (!status) status = weight_files_open(context, directory, &o.files);
    if (!status) status = finish(&o, device_name, type, fast);
    if (!status && !(o.model->directory = memory_new(context, strlen(directory) + 1)))
        status = INSET_NO_MEMORY;
    if (!status) memcpy(o.model->directory, directory, strlen(directory));
    if (!status) status = model_set_folder(o.model, directory);
    if (!status && o.model->stream) status = stream_open(o.model);
    return conclude(&o, status, out);
}

inset_status model_from_tensors(inset_context *context, const char *config, size_t length,
    const file_tensor *tensors, size_t count, const char *device_name, inset_type type, bool fast,
    bool ungroup, size_t weight_memory, struct inset_model **out)
{
    static const char name[] = "the tensors given";
    *out = NULL;
    inset_status status = check_type(context, type);
    if (status) return status;
    opening o = {.context = context,
        .directory = name,
        .weight_memory = weight_memory,
        .model = new_model(context)};
    if (!o.model) return INSET_NO_MEMORY;
    status = json_parse(context, "the config", config, length, &o.config);
    if (!status) status = models_build(context, o.config, ungroup, &o.model->program);
    if (!status) status = weight_files_from(context, name, tensors, count, &o.model->given);
    o.files = o.model->given;
    if (!status) status = finish(&o, device_name, type, fast);
    if (!status && o.model->stream) status = stream_open(o.model);
    return conclude(&o, status, out);
}

/* ---- the weights once more ---------------------------------------------- */

enum { PLACES = 4 };
struct model_weights {
    opening opening;
    float *at[PLACES];
    int32_t which[PLACES];
};

inset_status model_need_numbers(const struct inset_model *model)
{
    /* numbers in memory are a builder's, who may have let go of them; a family's stay */
    if (!model->directory && !model->given && !model->program->n_head_paths)
        return error_set(model->context, INSET_USAGE_ERROR,
            "heads on their own and weights as values need the weights once more, and this model's "
            "were given in memory: open a directory");
    return INSET_OK;
}

inset_status model_weights_open(struct inset_model *model, model_weights **out)
{
    inset_context *c = model->context;
    *out = NULL;
    inset_status status = model_need_numbers(model);
    if (status) return status;
    model_weights *w = memory_new(c, sizeof *w);
    if (!w) return INSET_NO_MEMORY;
    w->opening = (opening){
        .context = c, .directory = model->directory, .files = model->given, .model = model};
    for (int i = 0; i < PLACES; i++) w->which[i] = -1;
    status = model->directory ? weight_files_open(c, model->directory, &w->opening.files)
                              : INSET_OK;
    w->opening.sources = memory_new(c, model->program->n_weights * sizeof *w->opening.sources);
    if (!status && !w->opening.sources) status = INSET_NO_MEMORY;
    if (!status)
        status = w->opening.files ? sources_find(&w->opening) : sources_in_memory(&w->opening);
    if (status) {
        model_weights_close(w);
        return status;
    }
    *out = w;
    return INSET_OK;
}

void model_weights_close(model_weights *w)
{
    if (!w) return;
    inset_context *c = w->opening.context;
    for (int i = 0; i < PLACES; i++) memory_free(c, w->at[i]);
    memory_free(c, w->opening.sources);
    memory_free(c, w->opening.fetched[0]);
    if (w->opening.files != w->opening.model->given) weight_files_close(w->opening.files);
    memory_free(c, w);
}

inset_status model_weights_get(model_weights *w, int32_t index, int place, const float **out)
{
    const weight *is = &w->opening.model->program->weights[index];
    const source *from = &w->opening.sources[index];
    const size_t count = (size_t)is->rows * (size_t)is->columns;
    if (from->type == INSET_F32 && (uintptr_t)from->data % sizeof(float) == 0 && !is_there(from)
        && !(from->tensor && from->tensor->blocks))
        return *out = from->data, INSET_OK;
    if (w->which[place] != index || !w->at[place]) {
        memory_free(w->opening.context, w->at[place]);
        w->which[place] = index;
        if (!(w->at[place] = memory_new(w->opening.context, count * sizeof(float))))
            return INSET_NO_MEMORY;
        const void *numbers;
        inset_status status = on_host(&w->opening, from, 0, &numbers);
        if (status) return status;
        elements_convert(INSET_F32, w->at[place], from->type, numbers, (int64_t)count);
        give_back_pages(&w->opening, index);
    }
    return *out = w->at[place], INSET_OK;
}

inset_status model_weights_raw(model_weights *w, int32_t index, const void **out, inset_type *type)
{
    const source *from = &w->opening.sources[index];
    *type = from->type;
    return on_host(&w->opening, from, 0, out);
}

inset_status model_from_program(
    program *p, const char *device_name, inset_type type, bool fast, struct inset_model **out)
{
    opening o = {.context = p->context, .directory = "", .model = new_model(p->context)};
    *out = NULL;
    if (!o.model) {
        program_free(p);
        return INSET_NO_MEMORY;
    }
    o.model->program = p;
    inset_status status = check_type(p->context, type);
    if (!status) status = finish(&o, device_name, type, fast);
    return conclude(&o, status, out);
}

static bool takes_attention(void *of, inset_type type, const whole_attention_args *shape)
{
    return device_takes_attention(of, type, shape);
}

inset_status model_matrix(struct inset_model *m, int32_t index, bool reverse, const matrix **out)
{
    device_weight *w = &m->weights[index];
    inset_status status = INSET_OK;
    if (reverse && !w->reverse)
        status = m->stream && m->stream->comes[index]
                     ? stream_reverse(m, index, &w->reverse)
                     : device_matrix_reverse(m->device, w->matrix, &w->reverse);
    *out = reverse ? w->reverse : w->matrix;
    return status;
}

int64_t model_bytes_backward(const struct inset_model *m)
{
    int64_t bytes = 0;
    for (size_t i = 0; i < m->program->n_weights; i++)
        bytes += (int64_t)m->weights[i].bytes
                 + device_matrix_bytes(m->device, m->weights[i].matrix, false)
                 + device_matrix_bytes(m->device, m->weights[i].matrix, true);
    if (m->stream) bytes += STREAM_SLOTS * (int64_t)m->stream->slot_bytes;
    return bytes;
}

plan_traits model_traits(const struct inset_model *m)
{
    plan_traits is = {
        .row_block = m->device ? m->device->row_block : 1, .gelu_in_product = m->gelu_in_product};
    if (!m->device) return is;
    is.fast = m->device->fast;
    is.takes_attention = m->device->functions->takes_attention ? takes_attention : NULL;
    is.device = m->device;
    return is;
}

void model_clear_edits(struct inset_model *m)
{
    while (m->n_edits) edit_release(m->edits[--m->n_edits]);
}

void model_free(struct inset_model *m)
{
    if (!m) return;
    model_clear_edits(m);
    memory_free(m->context, m->edits);
    model_parts_free(m);
    stream_close(m);
    tokenizer_free(m->tokenizer);
    for (size_t i = 0; m->weights && i < m->program->n_weights; i++) {
        device_matrix_free(m->device, m->weights[i].reverse);
        device_matrix_free(m->device, m->weights[i].matrix);
        if (m->weights[i].bytes) device_release(m->device, m->weights[i].data, m->weights[i].bytes);
    }
    memory_free(m->context, m->weights);
    memory_free(m->context, m->directory);
    memory_free(m->context, m->folder);
    weight_files_close(m->given);
    device_close(m->device);
    program_free(m->program);
    memory_free(m->context, m);
}
