/* gpu.c: models with weights from a seed, and how the programs beside this file end when something
 * fails. */
#include "gpu.h"

#include <string.h>

void gpu_need(inset_context *context, inset_status status)
{
    if (!status) return;
    fprintf(stderr, "gpu: %s\n", inset_message(context));
    exit(1);
}

void gpu_good(int error, const char *doing)
{
    if (!error) return;
    fprintf(stderr, "gpu: %s failed: error %d\n", doing, error);
    exit(1);
}

void gpu_random(inset_type type, void *at, int64_t count, float scale, uint64_t seed)
{
    const size_t size = type_size(type);
    for (int64_t i = 0; i < count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        const float x = scale * 0x1p-31f * (float)(int32_t)(seed >> 32);
        element_put(type, (char *)at + (size_t)i * size, x);
    }
}

/* The first part of the numbers is small, for matrices and biases; what lies behind is about 1, for
 * the weights of norms. */
enum { NEAR_ONE = 1 << 16 };

static int64_t largest_weight(const program *p)
{
    int64_t most = 1;
    for (size_t i = 0; i < p->n_weights; i++) {
        const int64_t count = (int64_t)p->weights[i].rows * p->weights[i].columns;
        if (count > most) most = count;
    }
    return most;
}

static bool is_near_one(const weight *w)
{
    const size_t length = strlen(w->name);
    return w->role == WEIGHT_VECTOR && (length < 4 || strcmp(w->name + length - 4, "bias"));
}

static char *config_of(const char *directory)
{
    char path[600], *text = NULL;
    snprintf(path, sizeof path, "%s/config.json", directory);
    FILE *file = fopen(path, "rb");
    if (file && (text = calloc(1, 1 << 16)) && !fread(text, 1, (1 << 16) - 1, file)) *text = 0;
    if (file) fclose(file);
    return text;
}

/* Tensors by the names of a program's weights, each at a place of its own in the list. */
static size_t name_tensors(const program *p, inset_type type, char *at, int64_t behind,
    inset_device_tensor *out, const char **names)
{
    enum { SPARE = 1 << 20, DLPACK_CPU = 1 };
    size_t n = 0;
    for (size_t i = 0; i < p->n_weights; i++) {
        const weight *w = &p->weights[i];
        const int64_t place = is_near_one(w) ? behind : (int64_t)i * 7919 * 8 % SPARE;
        const bool vector = w->role == WEIGHT_VECTOR;
        if (w->same_as >= 0) continue;
        names[n] = w->name;
        out[n++] = (inset_device_tensor){.device_type = DLPACK_CPU,
            .tensor = {.type = type,
                .n_dimensions = vector ? 1 : 2,
                .shape = {vector ? w->columns : w->rows, w->columns},
                .data = at + (size_t)place * type_size(type)}};
    }
    return n;
}

inset_status gpu_model(inset_context *context, const char *directory, inset_type type,
    const inset_model_options *options, void **numbers, inset_model **out)
{
    program *p;
    inset_status status = model_program(context, directory, false, &p);
    if (status) return status;
    const size_t size = type_size(type);
    const int64_t behind = largest_weight(p) + (1 << 20);
    char *at = *numbers = malloc((size_t)(behind + NEAR_ONE) * size),
         *config = config_of(directory);
    inset_device_tensor *tensors = calloc(p->n_weights, sizeof *tensors);
    const char **names = calloc(p->n_weights, sizeof *names);
    if (at && config && tensors && names) {
        gpu_random(type, at, behind, 0.035f, 1);
        for (int64_t i = 0; i < NEAR_ONE; i++)
            element_put(type, at + (size_t)(behind + i) * size, 1 + 0.1 * (double)(i % 7 - 3) / 3);
        const size_t n = name_tensors(p, type, at, behind, tensors, names);
        status = inset_model_from_tensors(context, config, n, names, tensors, options, out);
    } else status = INSET_NO_MEMORY;
    free(config);
    free(tensors);
    free(names);
    program_free(p);
    return status;
}
