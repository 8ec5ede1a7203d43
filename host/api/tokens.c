/* tokens.c: text and tokens of the public API. */
#include <string.h>

#include "api/api.h"
#include "run/tokens.h"

inset_status inset_tokens(
    inset_model *model, const char *text, int special, int64_t *ids, size_t capacity, size_t *count)
{
    tokenizer *t;
    id_list made = {0};
    if (!model) return INSET_USAGE_ERROR;
    if (!text) return api_null(model->context, "a text");
    if (!count) return api_null(model->context, "a place for the count");
    if (!ids && capacity) return api_null(model->context, "a place for the ids");
    inset_status status = model_tokenizer(model, &t);
    if (!status) status = tokenizer_encode(t, text, strlen(text), special != 0, &made);
    *count = status ? 0 : made.count;
    for (size_t i = 0; i < *count && i < capacity; i++) ids[i] = made.ids[i];
    id_list_free(model->context, &made);
    return status;
}

inset_status inset_token_text(inset_model *model, int64_t token, char *out, size_t size)
{
    tokenizer *t;
    text piece = {0};
    if (!model) return INSET_USAGE_ERROR;
    if (!out || !size) return api_null(model->context, "a place for the text");
    *out = 0;
    inset_status status = model_tokenizer(model, &t);
    if (status) return status;
    tokenizer_piece(t, token, &piece);
    const size_t length = piece.length < size ? piece.length : size - 1;
    if (piece.bytes) memcpy(out, piece.bytes, length);
    out[length] = 0;
    text_free(model->context, &piece);
    return INSET_OK;
}
