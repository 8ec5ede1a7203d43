/* print.c: what several commands share: failures, the end of standard output, JSON strings, and
 * opening a model. */
#include "cli/cli.h"

#include <errno.h>
#include <string.h>

int report(inset_context *context, int status)
{
    fflush(stdout);
    if (!ranks_are_silent()) fprintf(stderr, "%s\n", inset_message(context));
    return status;
}

int finish_output(void)
{
    if (!ferror(stdout) && fflush(stdout) == 0) return EXIT_OK;
    fprintf(stderr, "FileError: standard output: %s\n", strerror(errno));
    return EXIT_MACHINE;
}

inset_model_options model_options(const options *given, const char *device)
{
    inset_model_options wanted = INSET_MODEL_OPTIONS;
    wanted.device = device;
    wanted.dtype = given->dtype;
    wanted.fast = given->fast;
    wanted.ungroup = given->ungroup;
    wanted.weight_memory = given->weights;
    return wanted;
}

inset_model *open_model(
    inset_context *context, const options *given, const char *device, int *status)
{
    inset_model *model = NULL;
    const inset_model_options wanted = model_options(given, device);
    inset_status found = inset_model_open(context, given->model, &wanted, &model);
    if (found) *status = report(context, found == INSET_USAGE_ERROR ? EXIT_REQUEST : EXIT_MACHINE);
    return model;
}

int show_model(const options *given,
    int (*show)(inset_context *context, inset_model *model, const options *given))
{
    inset_context *context = NULL;
    int status = EXIT_OK;
    if (inset_context_create(NULL, &context)) {
        fprintf(stderr, "MemoryError: out of memory on the host\n");
        return EXIT_MACHINE;
    }
    inset_model *model = open_model(context, given, "none", &status);
    if (model) status = show(context, model, given);
    inset_context_free(context);
    return status ? status : finish_output();
}

void print_json_text(FILE *to, const char *text)
{
    fputc('"', to);
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c == '"' || *c == '\\') fprintf(to, "\\%c", *c);
        else if (*c < 0x20) fprintf(to, "\\u%04x", *c);
        else fputc(*c, to);
    }
    fputc('"', to);
}

void print_shape(FILE *to, const inset_tensor *tensor)
{
    fputc('[', to);
    for (int i = 0; i < tensor->n_dimensions; i++)
        fprintf(to, "%s%lld", i ? ", " : "", (long long)tensor->shape[i]);
    fputc(']', to);
}
