/* version.c: `inset version`. */
#include "cli/cli.h"

#include <stdlib.h>

int command_version(const options *given)
{
    (void)given;
    inset_context *context = NULL;
    size_t length = 0;
    if (inset_context_create(NULL, &context)) {
        fprintf(stderr, "MemoryError: out of memory on the host\n");
        return EXIT_MACHINE;
    }
    inset_status status = inset_describe(context, NULL, 0, &length);
    char *text = malloc(length + 1);
    if (!status && text) status = inset_describe(context, text, length + 1, NULL);
    int exit_status = status ? report(context, EXIT_MACHINE) : EXIT_OK;
    if (!status && text) printf("inset %s\n%s", inset_version(), text);
    free(text);
    inset_context_free(context);
    return exit_status ? exit_status : finish_output();
}
