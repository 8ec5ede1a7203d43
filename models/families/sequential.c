/* sequential.c: a chain of plain layers, written out in config.json: linear, layernorm, relu, gelu,
 * tanh, sigmoid.
 *
 * The layers' widths must chain: a linear or layernorm says what it takes, the others pass on what
 * they get. An invoke's rows are [batch, in]; there are no positions. */
#include "models/models.h"

#include <stdio.h>
#include <string.h>

typedef struct layer {
    const char *name, *type;
    int32_t in, out; /* in: 0 where the type does not say */
    bool bias;
    float eps;
} layer;

static bool is_activation(const char *type, activation *kind)
{
    static const struct {
        const char *type;
        activation kind;
    } known[] = {{"relu", ACTIVATION_RELU}, {"gelu", ACTIVATION_GELU}, {"tanh", ACTIVATION_TANH},
        {"sigmoid", ACTIVATION_SIGMOID}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(type, known[i].type) == 0) {
            *kind = known[i].kind;
            return true;
        }
    return false;
}

/* Reads layer `index`; `width` is what the layer before it gives, 0 for the first. */
static layer read_layer(config *whole, const json_node *node, size_t index, int32_t width)
{
    layer l = {.name = "", .type = ""};
    activation kind;
    if (!json_is_object(node)) {
        config_refuse(whole, "'layers'[%zu] must be an object", index);
        return l;
    }
    config c = *whole;
    c.object = node;
    if (!c.status) c.status = json_need_string(c.document, node, "name", &l.name);
    if (!c.status) c.status = json_need_string(c.document, node, "type", &l.type);
    if (c.status) {
    } else if (strcmp(l.type, "linear") == 0) {
        l.in = config_size(&c, "in");
        l.out = config_size(&c, "out");
        l.bias = config_bool(&c, "bias", true);
    } else if (strcmp(l.type, "layernorm") == 0) {
        l.in = l.out = config_size(&c, "in");
        l.eps = (float)config_number(&c, "eps", 0, 1, 1e-5);
    } else if (is_activation(l.type, &kind)) {
        l.out = width;
        if (!width)
            config_refuse(&c,
                "layer \"%.60s\" is the first, so it must be linear or layernorm, found \"%.60s\"",
                l.name, l.type);
    } else {
        config_refuse(&c,
            "layer \"%.60s\": 'type' must be linear, layernorm, relu, gelu, tanh or sigmoid, found "
            "\"%.60s\"",
            l.name, l.type);
    }
    if (l.in && width && l.in != width)
        config_refuse(&c,
            "layer \"%.60s\" takes %d numbers ('in'), and the layer before it gives %d", l.name,
            (int)l.in, (int)width);
    whole->status = c.status;
    return l;
}

static int32_t add_weight(
    program *p, const layer *l, const char *kind, weight_role role, int32_t rows, int32_t columns)
{
    char name[160];
    snprintf(name, sizeof name, "%s.%s", l->name, kind);
    return program_weight(p, role, name, rows, columns);
}

static int32_t add_layer(program *p, const layer *l, int32_t x)
{
    activation kind;
    if (is_activation(l->type, &kind)) return program_activation_module(p, l->name, x, kind);
    if (strcmp(l->type, "layernorm") == 0) {
        int32_t scale = add_weight(p, l, "weight", WEIGHT_VECTOR, 1, l->in),
                bias = add_weight(p, l, "bias", WEIGHT_VECTOR, 1, l->in);
        return program_layernorm_module(p, l->name, x, scale, bias, l->eps);
    }
    int32_t matrix = add_weight(p, l, "weight", WEIGHT_MATRIX, l->out, l->in);
    return program_linear_module(
        p, l->name, x, matrix, l->bias ? add_weight(p, l, "bias", WEIGHT_VECTOR, 1, l->out) : -1);
}

/* A name is one part of a path, and not one that a path could not reach. */
static void check_name(config *c, const program *p, const char *name)
{
    size_t length = strlen(name);
    bool fine = length > 0 && length < 128 && !(name[0] >= '0' && name[0] <= '9');
    for (const char *at = name; *at && fine; at++)
        fine = *at == '_' || (*at >= '0' && *at <= '9') || (*at >= 'a' && *at <= 'z')
               || (*at >= 'A' && *at <= 'Z');
    if (!fine)
        config_refuse(c,
            "a layer's 'name' must be letters, digits and _, not starting with a digit, found "
            "\"%.60s\"",
            name);
    if (program_child(p, 0, name, length) >= 0)
        config_refuse(c, "two layers are named \"%.60s\"", name);
}

void sequential_build(config *c, program *p)
{
    enum { MOST_LAYERS = 4096 };
    const json_node *layers = json_member(c->object, "layers");
    if (!json_is_array(layers) || !json_length(layers) || json_length(layers) > MOST_LAYERS) {
        config_refuse(c, "'layers' must be a list of 1 to %d layers", (int)MOST_LAYERS);
        return;
    }
    int32_t x = -1, width = 0;
    for (size_t i = 0; i < json_length(layers); i++) {
        layer l = read_layer(c, json_item(layers, i), i, width);
        check_name(c, p, l.name);
        if (c->status || p->status) return;
        if (i == 0) x = program_input(p, l.in);
        x = add_layer(p, &l, x);
        width = l.out;
    }
}
