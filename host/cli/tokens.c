/* tokens.c: `inset tokens -m MODEL TEXT`: the tokens of a text, a line each. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

static void print_tokens(inset_model *model, const int64_t *ids, size_t count, bool json)
{
    char piece[512];
    if (json) printf("{\"tokens\": [");
    for (size_t i = 0; i < count && !inset_token_text(model, ids[i], piece, sizeof piece); i++) {
        if (json) {
            printf("%s\n  {\"position\": %zu, \"id\": %" PRId64 ", \"text\": ", i ? "," : "", i,
                ids[i]);
            print_json_text(stdout, piece);
            printf("}");
        } else printf("%4zu  %7" PRId64 "  '%s'\n", i, ids[i], piece);
    }
    if (json) printf("\n]}\n");
}

static int show(inset_context *context, inset_model *model, const options *given)
{
    size_t count = 0;
    if (inset_tokens(model, given->script, 1, NULL, 0, &count))
        return report(context, EXIT_REQUEST);
    int64_t *ids = calloc(count + 1, sizeof *ids);
    if (!ids) {
        fprintf(stderr, "MemoryError: out of memory on the host\n");
        return EXIT_MACHINE;
    }
    int status = inset_tokens(model, given->script, 1, ids, count, &count)
                     ? report(context, EXIT_REQUEST)
                     : EXIT_OK;
    if (!status) print_tokens(model, ids, count, given->json);
    free(ids);
    return status;
}

int command_tokens(const options *given) { return show_model(given, show); }
