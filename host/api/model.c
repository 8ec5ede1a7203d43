/* model.c: models of the public API: opened from a directory, with or without a device, and the
 * sites they have. */
#include "api/api.h"
#include "run/stream.h"

#include <stdio.h>
#include <string.h>

static void free_object(void *object) { inset_model_free(object); }

void api_model_register(inset_model *model)
{
    handle_add(model->context, &model->handle, NULL, model, free_object);
}

inset_status api_model_choice(
    inset_context *context, const inset_model_options *options, model_choice *out)
{
    inset_model_options given = INSET_MODEL_OPTIONS;
    if (options) {
        if (options->size < sizeof options->size || options->size > sizeof given)
            return error_set(context, INSET_USAGE_ERROR,
                "model options of %zu bytes were given, at most %zu are known; begin with "
                "INSET_MODEL_OPTIONS",
                options->size, sizeof given);
        memcpy(&given, options, options->size);
    }
    *out = (model_choice){given.device ? given.device : "auto", INSET_TYPE_COUNT, given.fast != 0,
        given.ungroup != 0, given.weight_memory};
    if (!strcmp(out->device, "none")) out->device = NULL;
    if (!given.dtype) return INSET_OK;
    for (inset_type type = INSET_F32; type <= INSET_F16; type++)
        if (!strcmp(given.dtype, type_name(type))) out->type = type;
    if (out->type == INSET_TYPE_COUNT)
        return error_set(context, INSET_USAGE_ERROR,
            "\"%s\" is no dtype of a model: f32, bf16 or f16 was expected", given.dtype);
    return INSET_OK;
}

/* What would come and go on a device that gave weights so much room. */
static inset_status choose_stream(inset_model *m, size_t weight_memory)
{
    int64_t least;
    bool fits;
    inset_status status = stream_make(m, false, (int64_t)weight_memory, &fits, &least);
    if (status) return status;
    if (!fits)
        return error_set(m->context, INSET_NO_MEMORY,
            "weights may take %.4g GB; with layers that come and go %.4g GB are needed",
            (double)weight_memory / 1e9, (double)least / 1e9);
    m->stream->bytes = stream_bytes(m->program, m->type, false, m->stream->comes);
    return INSET_OK;
}

inset_status api_model_without_device(
    program *p, inset_type type, size_t weight_memory, inset_model **out)
{
    inset_model *model = memory_new(p->context, sizeof *model);
    if (!model) {
        program_free(p);
        return INSET_NO_MEMORY;
    }
    *model = (inset_model){
        .context = p->context, .program = p, .type = type == INSET_TYPE_COUNT ? INSET_F32 : type};
    inset_status status = weight_memory ? choose_stream(model, weight_memory) : INSET_OK;
    if (status) model_free(model);
    else *out = model;
    return status;
}

inset_status inset_model_open(inset_context *context, const char *directory,
    const inset_model_options *options, inset_model **out)
{
    model_choice choice;
    inset_model *model = NULL;
    if (!context) return INSET_USAGE_ERROR;
    if (!directory) return api_null(context, "a model's directory");
    if (!out) return api_null(context, "a place for the model");
    inset_status status = api_model_choice(context, options, &choice);
    if (status) return status;
    if (choice.device) {
        status = model_open(context, directory, choice.device, choice.type, choice.fast,
            choice.ungroup, choice.weight_memory, &model);
    } else {
        program *p = NULL;
        if (!(status = model_program(context, directory, choice.ungroup, &p)))
            status = api_model_without_device(p, choice.type, choice.weight_memory, &model);
        if (!status && (status = model_set_folder(model, directory))) model_free(model);
    }
    if (status) return status;
    api_model_register(model);
    *out = model;
    return INSET_OK;
}

/* Takes tensors over into the files' form. */
static inset_status convert_tensors(inset_context *context, size_t n, const char *const *names,
    const inset_device_tensor *tensors, file_tensor *out)
{
    for (size_t i = 0; i < n; i++) {
        const inset_tensor *t = &tensors[i].tensor;
        if (!names[i]) return api_null(context, "a tensor's name");
        inset_status status = api_check_tensor(context, t);
        if (status) return status;
        if (tensors[i].device_type != INSET_ON_CPU && tensors[i].device_type != INSET_ON_CUDA)
            return error_set(context, INSET_DEVICE_ERROR,
                "%s is on a device of DLPack's type %d: the CPU or a CUDA device was expected",
                names[i], (int)tensors[i].device_type);
        out[i] = (file_tensor){.name = names[i],
            .type = t->type,
            .n_dimensions = t->n_dimensions,
            .data = t->data,
            .bytes = (size_t)inset_tensor_count(t) * type_size(t->type),
            .gpu = tensors[i].device_type == INSET_ON_CUDA ? tensors[i].device_index + 1 : 0};
        memcpy(out[i].shape, t->shape, sizeof t->shape);
    }
    return INSET_OK;
}

inset_status inset_model_from_tensors(inset_context *context, const char *config, size_t n,
    const char *const *names, const inset_device_tensor *tensors,
    const inset_model_options *options, inset_model **out)
{
    model_choice choice;
    inset_model *model = NULL;
    if (!context) return INSET_USAGE_ERROR;
    if (!config || (n && (!names || !tensors)))
        return api_null(context, !config ? "a config" : "the tensors and their names");
    if (!out) return api_null(context, "a place for the model");
    inset_status status = api_model_choice(context, options, &choice);
    if (status) return status;
    file_tensor *given = memory_new(context, n * sizeof *given);
    if (!given) return INSET_NO_MEMORY;
    status = convert_tensors(context, n, names, tensors, given);
    if (!status && choice.device)
        status = model_from_tensors(context, config, strlen(config), given, n, choice.device,
            choice.type, choice.fast, choice.ungroup, choice.weight_memory, &model);
    program *p = NULL;
    if (!status && !choice.device
        && !(status = model_program_of(context, config, strlen(config), choice.ungroup, &p)))
        status = api_model_without_device(p, choice.type, choice.weight_memory, &model);
    memory_free(context, given);
    if (status) return status;
    api_model_register(model);
    *out = model;
    return INSET_OK;
}

void inset_model_free(inset_model *model)
{
    if (!model) return;
    handle_free_owned(model->context, model);
    handle_remove(model->context, &model->handle);
    model_free(model);
}

const char *inset_model_device(const inset_model *model)
{
    return model && model->device ? model->device->name : "none";
}
const char *inset_model_kind(const inset_model *model)
{
    return model ? model->program->model_type : "";
}
const char *inset_model_part_of(const inset_model *model)
{
    return model ? model->program->part_of : NULL;
}
inset_type inset_model_type(const inset_model *model)
{
    return model ? model->type : INSET_TYPE_COUNT;
}

/* ---- sites: program->sites are in execution order as a program is written in it ---- */

size_t inset_site_count(const inset_model *model) { return model ? model->program->n_sites : 0; }

/* How many modules that have sites contain this one: not containers such as transformer.h, nor
 * transformer, which returns no tensor. */
static int32_t depth_of(const program *p, int32_t at)
{
    int32_t depth = 0;
    for (at = p->modules[at].parent; at > 0; at = p->modules[at].parent)
        depth += p->modules[at].n_sites > 0;
    return depth;
}

static void describe_shape(const program *p, const slot *s, inset_site *out)
{
    const slot_shape *shape = &s->shape;
    bool one_sequence = p->values[s->value].per_position;
    int n = 0;
    if (shape->has_batch) out->shape[n++] = one_sequence ? 1 : INSET_BATCH;
    if (shape->by_keys) { /* [batch, head, query, key] */
        out->shape[n++] = shape->extent[0];
        out->shape[n++] = INSET_POSITION;
        out->shape[n++] = INSET_POSITION;
        out->n_dimensions = n;
        return;
    }
    if (shape->has_position) out->shape[n++] = INSET_POSITION;
    for (int i = 0; i < shape->n_columns; i++) out->shape[n++] = shape->extent[i];
    out->n_dimensions = n;
}

inset_status inset_site_at(inset_model *model, size_t index, inset_site *out)
{
    if (!model) return INSET_USAGE_ERROR;
    const program *p = model->program;
    if (!out) return api_null(model->context, "a place for the site");
    if (index >= p->n_sites)
        return error_set(model->context, INSET_INDEX_ERROR,
            "site %zu was asked for; the model has %zu", index, p->n_sites);
    const site *at = &p->sites[index];
    const slot *s = &p->slots[at->slot];
    *out = (inset_site){.module = p->modules[at->module].path,
        .name = at->name,
        .depth = depth_of(p, at->module),
        .settable = s->settable,
        .integer = p->values[s->value].integer};
    program_site_name(p, (int32_t)index, out->path, sizeof out->path);
    describe_shape(p, s, out);
    return INSET_OK;
}
