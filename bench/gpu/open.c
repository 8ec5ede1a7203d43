/* open.c: what opening a model costs on a GPU, and what the products chose.
 *
 *     gpu_open DEVICE SHAPES     SHAPES: the folder shapes/ beside this file */
#include "gpu.h"

#include <string.h>

static void print_choices(const cuda_device *d)
{
    printf("\n| in | out | type | stored | epilogue | 16-byte rows | algorithm for all heights | "
           "steady | heights with a faster one | as the kernel |\n"
           "|---|---|---|---|---|---|---|---|---|---|\n");
    for (size_t i = 0; i < d->n_choices; i++) {
        const product_choice *c = &d->choices[i];
        printf("| %lld | %lld | %s | %s | %s | %s | %s | %s | %d | %s |\n", (long long)c->in,
            (long long)c->out, type_name(c->type), c->in_out ? "[in, out]" : "[out, in]",
            c->epilogue ? "GELU" : "plain", c->aligned ? "yes" : "no", c->pinned ? "yes" : "**no**",
            c->steady ? "yes" : "**no**", c->faster,
            !c->epilogue   ? "-"
            : c->as_kernel ? "yes"
                           : "no");
    }
}

static void open_shape(
    const char *device_name, const char *shapes, const char *name, inset_type type)
{
    char directory[4096];
    inset_context *context;
    inset_model *model;
    void *numbers;
    snprintf(directory, sizeof directory, "%s/%s", shapes, name);
    if (inset_context_create(NULL, &context)) exit(1);
    double start = seconds();
    inset_model_options options = INSET_MODEL_OPTIONS;
    options.device = device_name;
    options.dtype = type_name(type);
    gpu_need(context, gpu_model(context, directory, type, &options, &numbers, &model));
    const double passed = seconds() - start;
    size_t now = 0, total = 0;
    const cuda_device *d = (cuda_device *)model->device;
    gpu_good(d->library.cudaMemGetInfo(&now, &total), "asking for the memory");
    printf("\n%s, %s, on %s: open in %.2f s (with making the numbers), weights %.2f GiB, taken "
           "from the card %.2f GiB\n",
        name, type_name(type), model->device->name, passed, (double)model->weight_bytes / (1 << 30),
        (double)(model->device->memory_free - now) / (1 << 30));
    print_choices(d);
    fflush(stdout);
    inset_context_free(context);
    free(numbers);
}

int main(int count, char **arguments)
{
    if (count != 3) return 2;
    open_shape(arguments[1], arguments[2], "gpt2", INSET_F32);
    open_shape(arguments[1], arguments[2], "gpt2", INSET_BF16);
    open_shape(arguments[1], arguments[2], "gpt2", INSET_F16);
    open_shape(arguments[1], arguments[2], "llama8b", INSET_BF16);
    return 0;
}
