/* lists.c: what grows while a text becomes tokens: ids, bytes, pieces. */
#include <string.h>

#include "text/tokenizer.h"

bool id_list_add(inset_context *context, id_list *list, int64_t id)
{
    if (!array_extend(context, &list->ids, &list->capacity, list->count + 1, sizeof *list->ids))
        return false;
    list->ids[list->count++] = id;
    return true;
}

void id_list_free(inset_context *context, id_list *list)
{
    memory_free(context, list->ids);
    *list = (id_list){0};
}

bool byte_list_add(inset_context *context, byte_list *list, const char *bytes, size_t length)
{
    if (!array_extend(context, &list->at, &list->capacity, list->n + length + 1, 1)) return false;
    memcpy(list->at + list->n, bytes, length);
    list->n += length;
    list->at[list->n] = 0;
    return true;
}

bool piece_add(
    tokenizer *t, piece_list *out, const char *text, size_t length, int32_t id, bool first)
{
    if (!length && id < 0) return true;
    if (!array_extend(t->context, &out->at, &out->capacity, out->n + 1, sizeof *out->at))
        return false;
    out->at[out->n++] = (piece){text, length, id, first};
    return true;
}

void piece_list_free(tokenizer *t, piece_list *list)
{
    memory_free(t->context, list->at);
    *list = (piece_list){0};
}
