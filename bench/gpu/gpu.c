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

inset_status gpu_model(inset_context *context, const char *directory, const char *device_name,
    inset_type type, bool fast, void **numbers, inset_model **out)
{
    program *p;
    inset_status status = model_program(context, directory, false, &p);
    if (status) return status;
    const size_t size = type_size(type);
    const int64_t largest = largest_weight(p), spare = 1 << 20;
    char *at = *numbers = malloc((size_t)(largest + spare + NEAR_ONE) * size);
    if (!at) return INSET_NO_MEMORY;
    gpu_random(type, at, largest + spare, 0.035f, 1);
    for (int64_t i = 0; i < NEAR_ONE; i++)
        element_put(
            type, at + (size_t)(largest + spare + i) * size, 1 + 0.1 * (double)(i % 7 - 3) / 3);
    for (size_t i = 0; i < p->n_weights; i++) {
        weight *w = &p->weights[i];
        const int64_t place = is_near_one(w) ? largest + spare : (int64_t)i * 7919 * 8 % spare;
        w->data = at + (size_t)place * size;
        w->data_type = type;
    }
    status = model_from_program(p, device_name, type, fast, out);
    if (!status) api_model_register(*out);
    return status;
}
