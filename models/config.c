/* config.c: typed, bounded reading of a config.json for the families. */
#include "models/models.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Large enough for any model there is, small enough that four times a product of two still is an
 * int64 and three times one an int32. */
enum { LARGEST_SIZE = 1 << 24 };

int64_t config_integer(config *c, const char *key, int64_t least, int64_t most, int64_t otherwise)
{
    int64_t found = otherwise;
    if (!c->status) c->status = json_get_integer(c->document, c->object, key, least, most, &found);
    /* after a failure too a family may divide by what it read */
    return c->status ? otherwise : found;
}

double config_number(config *c, const char *key, double least, double most, double otherwise)
{
    double found = otherwise;
    if (!c->status) c->status = json_get_number(c->document, c->object, key, &found);
    if (!(found >= least && found <= most))
        config_refuse(c, "'%s' must be from %g to %g, found %g", key, least, most, found);
    return found;
}

bool config_bool(config *c, const char *key, bool otherwise)
{
    bool found = otherwise;
    if (!c->status) c->status = json_get_bool(c->document, c->object, key, &found);
    return found;
}

bool config_tied(config *c, bool otherwise)
{
    const bool said = config_bool(c, "tie_word_embeddings", otherwise);
    return said || c->part_of;
}

const char *config_string(config *c, const char *key, const char *otherwise)
{
    const char *found = otherwise;
    if (!c->status) c->status = json_get_string(c->document, c->object, key, &found);
    return found;
}

int32_t config_size(config *c, const char *key)
{
    int64_t found = 1;
    if (!c->status)
        c->status = json_need_integer(c->document, c->object, key, 1, LARGEST_SIZE, &found);
    return c->status ? 1 : (int32_t)found;
}

int32_t config_size_or(config *c, const char *key, int64_t otherwise)
{
    return (int32_t)config_integer(c, key, 1, LARGEST_SIZE, otherwise);
}

activation config_activation(config *c, const char *key, const char *otherwise)
{
    /* transformers' names; some differ only in how the same function is computed there. */
    static const struct {
        const char *name;
        activation kind;
    } known[] = {
        {"gelu", ACTIVATION_GELU},
        {"gelu_python", ACTIVATION_GELU},
        {"gelu_new", ACTIVATION_GELU_TANH},
        {"gelu_pytorch_tanh", ACTIVATION_GELU_TANH},
        {"gelu_python_tanh", ACTIVATION_GELU_TANH},
        {"gelu_fast", ACTIVATION_GELU_TANH},
        {"gelu_accurate", ACTIVATION_GELU_TANH},
        {"relu", ACTIVATION_RELU},
        {"silu", ACTIVATION_SILU},
        {"swish", ACTIVATION_SILU},
        {"tanh", ACTIVATION_TANH},
        {"sigmoid", ACTIVATION_SIGMOID},
    };
    const char *name = config_string(c, key, otherwise);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].name, name) == 0) return known[i].kind;
    config_refuse(c,
        "'%s' must be one of gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, relu, silu, swish, "
        "tanh, sigmoid, found \"%.60s\"",
        key, name);
    return ACTIVATION_GELU;
}

bool config_has(const config *c, const char *key) { return json_member(c->object, key) != NULL; }

bool config_is_null(const config *c, const char *key)
{
    void *cursor = NULL;
    const char *name;
    const json_node *value;
    while (json_next(c->object, &cursor, &name, &value))
        if (strcmp(name, key) == 0) return !json_member(c->object, key);
    return false;
}

void config_divides(config *c, const char *key_a, int64_t a, const char *key_b, int64_t b)
{
    if (!c->status && a % b)
        config_refuse(
            c, "'%s' (%lld) must divide by '%s' (%lld)", key_a, (long long)a, key_b, (long long)b);
}

int32_t config_head_dim(
    config *c, const char *width_key, int32_t width, const char *heads_key, int32_t heads)
{
    config_divides(c, width_key, width, heads_key, heads);
    if (width / heads > PROGRAM_MAX_HEAD_DIM)
        config_refuse(c, "'%s' / '%s' must be at most %d, found %d", width_key, heads_key,
            (int)PROGRAM_MAX_HEAD_DIM, (int)(width / heads));
    return width / heads;
}

void config_refuse(config *c, const char *format, ...)
{
    if (c->status) return;
    char words[512];
    va_list list;
    va_start(list, format);
    vsnprintf(words, sizeof words, format, list);
    va_end(list);
    c->status = error_set(
        c->context, INSET_FILE_ERROR, "%s: %s", json_document_name(c->document), words);
}

void config_refuse_if_true(config *c, const char *key)
{
    if (config_bool(c, key, false))
        config_refuse(c, "'%s' is true, which inset does not support (only false)", key);
}
