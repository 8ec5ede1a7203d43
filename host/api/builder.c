/* builder.c: a model of one's own, declared through the calls that the families in models/ use.
 *
 * Slots are passed through as they are. What is added is the shape and type of each weight that is
 * given, and the few checks that a family may take for granted about itself: ids are embedded and
 * nothing else is, tables cover what is looked up in them. */
#include "api/api.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct inset_builder {
    handle handle;
    inset_context *context;
    program *program;
};

static void free_object(void *object) { inset_builder_free(object); }

inset_status inset_builder_create(inset_context *context, inset_builder **out)
{
    if (!context) return INSET_USAGE_ERROR;
    if (!out) return api_null(context, "a place for the builder");
    inset_builder *builder = memory_new(context, sizeof *builder);
    if (!builder) return INSET_NO_MEMORY;
    builder->context = context;
    inset_status status = program_create(context, "own", &builder->program);
    if (status) {
        memory_free(context, builder);
        return status;
    }
    handle_add(context, &builder->handle, NULL, builder, free_object);
    *out = builder;
    return INSET_OK;
}

void inset_builder_free(inset_builder *builder)
{
    if (!builder) return;
    handle_remove(builder->context, &builder->handle);
    program_free(builder->program);
    memory_free(builder->context, builder);
}

/* ---- checks: the first failure sticks in program->status ---------------- */

static bool usable(const inset_builder *builder) { return builder && !builder->program->status; }

__attribute__((format(printf, 3, 4))) static inset_slot fail(
    inset_builder *builder, inset_status status, const char *format, ...)
{
    char sentence[512];
    va_list list;
    va_start(list, format);
    vsnprintf(sentence, sizeof sentence, format, list);
    va_end(list);
    builder->program->status = error_set(builder->context, status, "%s", sentence);
    return INSET_NO_SLOT;
}

static const char *named(const char *name) { return name ? name : "a step"; }

static bool slot_exists(inset_builder *builder, inset_slot x)
{
    if (x >= 0 && (size_t)x < builder->program->n_slots) return true;
    fail(builder, INSET_USAGE_ERROR, "slot %d was given; the builder has made %zu", (int)x,
        builder->program->n_slots);
    return false;
}

static bool is_integer(const inset_builder *builder, inset_slot x)
{
    const program *p = builder->program;
    return p->values[p->slots[x].value].integer;
}

static bool is_numbers(inset_builder *builder, const char *name, inset_slot x)
{
    if (!slot_exists(builder, x)) return false;
    if (!is_integer(builder, x)) return true;
    fail(builder, INSET_TYPE_ERROR,
        "%s was given token ids or positions, which only an embedding takes", named(name));
    return false;
}

static int64_t width_of(const inset_builder *builder, inset_slot x)
{
    const slot_shape *shape = &builder->program->slots[x].shape;
    return shape->n_columns == 2 ? (int64_t)shape->extent[0] * shape->extent[1] : shape->extent[0];
}

static bool int32_fits(inset_builder *builder, const char *what, int64_t least, int64_t number)
{
    if (number >= least && number <= 1 << 30) return true;
    fail(builder, INSET_VALUE_ERROR, "%s: %lld to %d was expected, found %lld", what,
        (long long)least, 1 << 30, (long long)number);
    return false;
}

static void shape_text(const inset_tensor *tensor, char *out, size_t size)
{
    size_t n = (size_t)snprintf(out, size, "[");
    for (int i = 0; i < tensor->n_dimensions && i < INSET_MAX_DIMENSIONS && n < size; i++)
        n += (size_t)snprintf(
            out + n, size - n, "%s%lld", i ? ", " : "", (long long)tensor->shape[i]);
    if (n < size) snprintf(out + n, size - n, "]");
}

/* A float tensor of n dimensions, none of them empty; an expected extent of 0 takes any. */
static bool weight_fits(inset_builder *builder, const char *name, const char *what,
    const inset_tensor *given, int n, int64_t first, int64_t second)
{
    const int64_t expected[2] = {first, second};
    bool fits = given && given->data && given->n_dimensions == n;
    for (int i = 0; fits && i < n; i++)
        fits = given->shape[i] > 0 && given->shape[i] <= 1 << 30
               && (!expected[i] || given->shape[i] == expected[i]);
    if (fits && type_is_float(given->type)) return true;
    if (!given || !given->data) {
        fail(builder, INSET_USAGE_ERROR, "the %s of %s: a tensor was expected, found NULL", what,
            named(name));
    } else if (fits) {
        fail(builder, INSET_TYPE_ERROR, "the %s of %s: a float type was expected, found %s", what,
            named(name), inset_type_name(given->type));
    } else {
        char found[128], wanted[64], extents[2][24];
        shape_text(given, found, sizeof found);
        for (int i = 0; i < 2; i++)
            snprintf(extents[i], sizeof extents[i], expected[i] ? "%lld" : "any",
                (long long)expected[i]);
        snprintf(wanted, sizeof wanted, n == 2 ? "[%s, %s]" : "[%s]", extents[0], extents[1]);
        fail(builder, INSET_SHAPE_ERROR, "the %s of %s: the shape %s was expected, found %s", what,
            named(name), wanted, found);
    }
    return false;
}

static int32_t add_weight(inset_builder *builder, weight_role role, const char *name,
    const char *what, const inset_tensor *given)
{
    char full[256];
    bool vector = given->n_dimensions == 1;
    snprintf(full, sizeof full, "%s.%s", named(name), what);
    int32_t index = program_weight(builder->program, role, full,
        vector ? 1 : (int32_t)given->shape[0], (int32_t)given->shape[vector ? 0 : 1]);
    if (index >= 0) {
        builder->program->weights[index].data = given->data;
        builder->program->weights[index].data_type = given->type;
    }
    return index;
}

/* A step as a module of its own, or bare: its input is entered, and its output left, only when it
 * has a name. */
static inset_slot open_step(inset_builder *builder, const char *name, inset_slot x)
{
    return name ? program_enter(builder->program, name, x) : x;
}
static inset_slot close_step(inset_builder *builder, const char *name, inset_slot made)
{
    return name ? program_leave(builder->program, made) : made;
}

/* ---- declarations ------------------------------------------------------- */

static bool is_first(inset_builder *builder)
{
    if (!usable(builder)) return false;
    if (builder->program->n_steps == 0) return true;
    fail(builder, INSET_USAGE_ERROR, "a model has one input, declared first");
    return false;
}

inset_slot inset_builder_input(inset_builder *builder, int64_t width)
{
    if (!is_first(builder) || !int32_fits(builder, "the width of the input", 1, width))
        return INSET_NO_SLOT;
    return program_input(builder->program, (int32_t)width);
}

inset_slot inset_builder_tokens(inset_builder *builder, int64_t vocabulary, int64_t max_positions)
{
    if (!is_first(builder) || !int32_fits(builder, "the vocabulary", 1, vocabulary)
        || !int32_fits(builder, "the number of positions", 1, max_positions))
        return INSET_NO_SLOT;
    builder->program->vocabulary = (int32_t)vocabulary;
    builder->program->max_positions = (int32_t)max_positions;
    return program_tokens(builder->program);
}

static bool has_tokens(inset_builder *builder, const char *what)
{
    if (!usable(builder)) return false;
    if (builder->program->vocabulary) return true;
    fail(builder, INSET_USAGE_ERROR,
        "%s: only a model of tokens has positions (inset_builder_tokens)", what);
    return false;
}

inset_slot inset_builder_positions(inset_builder *builder)
{
    return has_tokens(builder, "inset_builder_positions") ? program_positions(builder->program)
                                                          : INSET_NO_SLOT;
}

inset_slot inset_builder_enter(inset_builder *builder, const char *name, inset_slot x)
{
    if (!usable(builder) || !slot_exists(builder, x)) return INSET_NO_SLOT;
    if (!name) return fail(builder, INSET_USAGE_ERROR, "inset_builder_enter needs a name");
    return program_enter(builder->program, name, x);
}

inset_slot inset_builder_leave(inset_builder *builder, inset_slot x)
{
    if (!usable(builder) || !slot_exists(builder, x)) return INSET_NO_SLOT;
    return program_leave(builder->program, x);
}

inset_slot inset_builder_embed(
    inset_builder *builder, const char *name, inset_slot ids, const inset_tensor *table)
{
    if (!usable(builder) || !slot_exists(builder, ids)) return INSET_NO_SLOT;
    const program *p = builder->program;
    if (!is_integer(builder, ids))
        return fail(builder, INSET_TYPE_ERROR,
            "%s embeds token ids or positions, and was given numbers", named(name));
    if (!weight_fits(builder, name, "table", table, 2, 0, 0)) return INSET_NO_SLOT;
    int64_t need = p->values[p->slots[ids].value].per_position ? p->max_positions : p->vocabulary;
    if (table->shape[0] < need)
        return fail(builder, INSET_SHAPE_ERROR,
            "the table of %s has %lld rows; %lld ids need one each", named(name),
            (long long)table->shape[0], (long long)need);
    int32_t weight = add_weight(builder, WEIGHT_TABLE, name, "weight", table);
    return close_step(
        builder, name, program_embed(builder->program, open_step(builder, name, ids), weight));
}

inset_slot inset_builder_linear(inset_builder *builder, const char *name, inset_slot x,
    const inset_tensor *weight, const inset_tensor *bias)
{
    if (!usable(builder) || !is_numbers(builder, name, x)
        || !weight_fits(builder, name, "weight", weight, 2, 0, width_of(builder, x))
        || (bias && !weight_fits(builder, name, "bias", bias, 1, weight->shape[0], 0)))
        return INSET_NO_SLOT;
    int32_t w = add_weight(builder, WEIGHT_MATRIX, name, "weight", weight);
    int32_t b = bias ? add_weight(builder, WEIGHT_VECTOR, name, "bias", bias) : -1;
    return close_step(
        builder, name, program_linear(builder->program, open_step(builder, name, x), w, b));
}

inset_slot inset_builder_layernorm(inset_builder *builder, const char *name, inset_slot x,
    const inset_tensor *weight, const inset_tensor *bias, float epsilon)
{
    if (!usable(builder) || !is_numbers(builder, name, x)) return INSET_NO_SLOT;
    int64_t width = width_of(builder, x);
    if (!weight_fits(builder, name, "weight", weight, 1, width, 0)
        || (bias && !weight_fits(builder, name, "bias", bias, 1, width, 0)))
        return INSET_NO_SLOT;
    if (!(epsilon >= 0) || !isfinite(epsilon))
        return fail(builder, INSET_VALUE_ERROR,
            "the epsilon of %s: 0 or more was expected, found %g", named(name), (double)epsilon);
    int32_t w = add_weight(builder, WEIGHT_VECTOR, name, "weight", weight);
    int32_t b = bias ? add_weight(builder, WEIGHT_VECTOR, name, "bias", bias) : -1;
    return close_step(builder, name,
        program_layernorm(builder->program, open_step(builder, name, x), w, b, epsilon));
}

inset_slot inset_builder_activation(
    inset_builder *builder, const char *name, inset_slot x, inset_activation kind)
{
    static const activation kinds[] = {ACTIVATION_GELU, ACTIVATION_GELU_TANH, ACTIVATION_RELU,
        ACTIVATION_SILU, ACTIVATION_TANH, ACTIVATION_SIGMOID};
    if (!usable(builder) || !is_numbers(builder, name, x)) return INSET_NO_SLOT;
    if ((unsigned)kind >= sizeof kinds / sizeof *kinds)
        return fail(builder, INSET_VALUE_ERROR, "%s: %d is no activation", named(name), (int)kind);
    return close_step(builder, name,
        program_activation(builder->program, open_step(builder, name, x), kinds[kind]));
}

inset_slot inset_builder_add(inset_builder *builder, inset_slot x, inset_slot y)
{
    if (!usable(builder) || !is_numbers(builder, "a sum", x) || !is_numbers(builder, "a sum", y))
        return INSET_NO_SLOT;
    return program_add(builder->program, x, y, -1);
}

inset_slot inset_builder_attention(inset_builder *builder, inset_slot q, inset_slot k, inset_slot v,
    int64_t n_heads, int64_t n_kv_heads, int64_t head_dim)
{
    if (!has_tokens(builder, "attention") || !is_numbers(builder, "attention", q)
        || !is_numbers(builder, "attention", k) || !is_numbers(builder, "attention", v)
        || !int32_fits(builder, "heads", 1, n_heads)
        || !int32_fits(builder, "key-value heads", 1, n_kv_heads)
        || !int32_fits(builder, "numbers a head", 1, head_dim))
        return INSET_NO_SLOT;
    step like = program_like(STEP_ATTENTION);
    like.n_heads = (int32_t)n_heads;
    like.n_kv_heads = (int32_t)n_kv_heads;
    like.head_dim = (int32_t)head_dim;
    like.scale = (float)(1 / sqrt((double)head_dim));
    return program_attention(builder->program, q, k, v, &like);
}

inset_slot inset_builder_view(inset_builder *builder, const char *name, inset_slot x, int64_t first,
    int64_t n_heads, int64_t head_dim)
{
    if (!usable(builder) || !is_numbers(builder, "a view", x)
        || !int32_fits(builder, "the first column of a view", 0, first)
        || !int32_fits(builder, "heads of a view", 0, n_heads)
        || !int32_fits(builder, "columns of a view", 1, head_dim))
        return INSET_NO_SLOT;
    if (!name) return fail(builder, INSET_USAGE_ERROR, "inset_builder_view needs a name");
    const int32_t extent[2] = {n_heads ? (int32_t)n_heads : (int32_t)head_dim, (int32_t)head_dim};
    return program_site_view(builder->program, name, x, (int32_t)first, n_heads ? 2 : 1, extent);
}

/* ---- the model ---------------------------------------------------------- */

/* The builder's program, complete; the builder is gone. */
static inset_status take_program(inset_builder *builder, inset_slot x, program **out)
{
    if (usable(builder) && is_numbers(builder, "the model's output", x)
        && builder->program->vocabulary)
        program_logits(builder->program, x);
    inset_status status = program_finish(builder->program);
    if (!status) {
        *out = builder->program;
        builder->program = NULL;
    }
    inset_builder_free(builder);
    return status;
}

inset_status inset_builder_finish(
    inset_builder *builder, inset_slot x, const inset_model_options *options, inset_model **out)
{
    model_choice choice;
    program *p = NULL;
    inset_model *model = NULL;
    if (!builder) return INSET_USAGE_ERROR;
    inset_context *context = builder->context;
    inset_status status = out ? api_model_choice(context, options, &choice)
                              : api_null(context, "a place for the model");
    if (status) {
        inset_builder_free(builder);
        return status;
    }
    if ((status = take_program(builder, x, &p))) return status;
    if (choice.type == INSET_TYPE_COUNT) choice.type = INSET_F32;
    status = choice.device ? model_from_program(p, choice.device, choice.type, choice.fast, &model)
                           : api_model_without_device(p, choice.type, 0, &model);
    if (status) return status;
    api_model_register(model);
    *out = model;
    return INSET_OK;
}
