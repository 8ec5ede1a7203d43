/* tokens.c: the peer of make_tokenizers.py fuzz. Reads texts from standard input, each with its
 * length before it (32 bits), and writes for each its number of tokens and their ids (32 bits; a
 * number of -1: refused).
 *
 *     tokens FILE.json 0|1      1: with special tokens */
#include <stdio.h>
#include <stdlib.h>

#include "text/tokenizer.h"

int main(int count, char **arguments)
{
    inset_context *context;
    tokenizer *t;
    uint32_t length;
    if (count != 3 || inset_context_create(NULL, &context)) return 2;
    if (tokenizer_open(context, arguments[1], &t)) {
        fprintf(stderr, "%s\n", inset_message(context));
        return 1;
    }
    while (fread(&length, sizeof length, 1, stdin) == 1) {
        char *text = malloc(length + 1u);
        id_list ids = {0};
        if (!text || fread(text, 1, length, stdin) != length) return 2;
        int32_t n = tokenizer_encode(t, text, length, *arguments[2] == '1', &ids)
                        ? -1
                        : (int32_t)ids.count;
        fwrite(&n, sizeof n, 1, stdout);
        for (int32_t i = 0; i < n; i++) {
            const int32_t id = (int32_t)ids.ids[i];
            fwrite(&id, sizeof id, 1, stdout);
        }
        id_list_free(context, &ids);
        free(text);
    }
    tokenizer_free(t);
    inset_context_free(context);
    return 0;
}
