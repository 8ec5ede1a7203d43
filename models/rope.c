/* rope.c: rotary embedding's frequencies from a config, as transformers' modeling_rope_utils
 * computes them: in fp32, one for each pair of dimensions, with the scalings whose frequencies do
 * not depend on a prompt's length. */
#include "models/decoder.h"

#include <math.h>
#include <string.h>

/* Llama 3.1: long waves are stretched by `factor`, short ones kept, those between interpolated. */
typedef struct llama3 {
    double factor, low, high, positions;
} llama3;

static float llama3_scaled(float frequency, const llama3 *s)
{
    const float wave = (float)(2 * M_PI) / frequency, longest = (float)(s->positions / s->low),
                shortest = (float)(s->positions / s->high);
    if (wave > longest) return frequency / (float)s->factor;
    if (wave < shortest) return frequency;
    const float smooth = ((float)s->positions / wave - (float)s->low) / (float)(s->high - s->low);
    return (1 - smooth) * frequency / (float)s->factor + smooth * frequency;
}

static double need_number(
    config *c, const config *parameters, const char *key, double least, double most)
{
    if (!c->status && !config_has(parameters, key))
        config_refuse(c, "'rope_scaling' lacks '%s'", key);
    config part = *parameters;
    part.status = c->status;
    double found = config_number(&part, key, least, most, least);
    c->status = part.status;
    return found;
}

/* The object with the rope's parameters: the older rope_scaling first, as transformers takes them;
 * an empty one when there is none. */
static config find_parameters(const config *c)
{
    config found = *c;
    const json_node *scaling = json_member(c->object, "rope_scaling"),
                    *parameters = json_member(c->object, "rope_parameters");
    found.object = json_is_object(scaling) && json_length(scaling) ? scaling : parameters;
    return found;
}

enum { ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3, ROPE_LONG, ROPE_YARN };

static int read_type(config *c, const program *p, config *parameters)
{
    const char *type = "default";
    if (!parameters->object) return ROPE_DEFAULT;
    if (!json_is_object(parameters->object))
        config_refuse(c, "'rope_parameters' must be an object");
    if (c->status) return ROPE_DEFAULT;
    if (json_is_object(json_member(parameters->object, "full_attention")))
        config_refuse(
            c, "'rope_parameters' differ between kinds of layers, which inset does not support");
    type = config_string(parameters, "type", type);
    type = config_string(parameters, "rope_type", type);
    if (!c->status) c->status = parameters->status;
    if (c->status || strcmp(type, "default") == 0) return ROPE_DEFAULT;
    if (strcmp(type, "linear") == 0) return ROPE_LINEAR;
    if (strcmp(type, "llama3") == 0) return ROPE_LLAMA3;
    /* Phi-3's first files say "su" or "yarn" for what is called longrope now. */
    bool phi3 = strcmp(p->model_type, "phi3") == 0;
    if (strcmp(type, "longrope") == 0
        || (phi3 && (strcmp(type, "su") == 0 || strcmp(type, "yarn") == 0)))
        return ROPE_LONG;
    if (strcmp(type, "yarn") == 0) return ROPE_YARN;
    /* It changes frequencies for prompts beyond max_position_embeddings alone, which are
     * refused. */
    if (strcmp(type, "dynamic") == 0) return ROPE_DEFAULT;
    config_refuse(c,
        "'rope_type' must be default, linear, dynamic, yarn, llama3 or longrope, found \"%.60s\"",
        type);
    return ROPE_DEFAULT;
}

/* `key` among the parameters, else at the top under its older name. */
static double read_number(config *c, config *parameters, const char *key, const char *older,
    double least, double most, double otherwise)
{
    double found = older ? config_number(c, older, least, most, otherwise) : otherwise;
    if (!parameters->object || c->status) return found;
    found = config_number(parameters, key, least, most, found);
    c->status = parameters->status;
    return found;
}

/* LongRoPE: a factor for each frequency, one list for prompts up to the original length and one for
 * longer ones. Which list serves depends on the prompt, so inset takes the first and refuses longer
 * prompts. Sets frequencies to the factors. */
static void read_long(config *c, const program *p, config *parameters, rope *r, float *frequencies)
{
    const double most = config_number(c, "max_position_embeddings", 1, 1e9, 4096);
    double original = read_number(
        c, parameters, "original_max_position_embeddings", NULL, 2, 1e9, most);
    /* Phi-3's own key, and its default, come before what stands among the parameters. */
    original = config_number(c, "original_max_position_embeddings", 2, 1e9,
        strcmp(p->model_type, "phi3") ? original : 4096);
    double factor = read_number(c, parameters, "factor", NULL, 1e-3, 1e6, most / original);
    double scale = factor <= 1 ? 1 : sqrt(1 + log(factor) / log(original));
    r->attention_scale = (float)read_number(
        c, parameters, "attention_factor", NULL, 1e-3, 1e6, scale);
    r->positions = original < most ? (int32_t)original : 0;
    const json_node *factors = json_member(parameters->object, "short_factor");
    if (!json_is_array(factors) || json_length(factors) != (size_t)r->dims / 2)
        config_refuse(c, "'short_factor' must be a list of %d numbers", (int)r->dims / 2);
    for (int32_t i = 0; !c->status && i < r->dims / 2; i++) {
        double found = 0;
        if (!json_as_number(json_item(factors, (size_t)i), &found)
            || !(found > 1e-6 && found < 1e6))
            config_refuse(c, "'short_factor'[%d] must be a number above 0", (int)i);
        frequencies[i] = (float)found;
    }
}

/* YaRN (Peng et al. 2023, arXiv 2309.00071): between two dimensions, found from how often they turn
 * over the original length, the mean moves from kept to stretched frequencies. */
typedef struct yarn {
    double factor, low, high;
} yarn;

/* The dimension that turns so many times over the original length. */
static double yarn_dimension(double turns, int32_t dims, double theta, double original)
{
    return dims * log(original / (turns * 2 * M_PI)) / (2 * log(theta));
}

static double yarn_magnitude(double factor, double by)
{
    return factor <= 1 ? 1 : 0.1 * by * log(factor) + 1;
}

static yarn read_yarn(config *c, config *parameters, double factor, double theta, rope *r)
{
    const double most = config_number(c, "max_position_embeddings", 1, 1e9, 2048);
    double original = read_number(
        c, parameters, "original_max_position_embeddings", NULL, 1, 1e9, most);
    /* a key of its own at the top comes first */
    original = config_number(c, "original_max_position_embeddings", 1, 1e9, original);
    const double fast = read_number(c, parameters, "beta_fast", NULL, 1e-3, 1e6, 32),
                 slow = read_number(c, parameters, "beta_slow", NULL, 1e-3, 1e6, 1),
                 by = read_number(c, parameters, "mscale", NULL, 0, 1e6, 0),
                 all = read_number(c, parameters, "mscale_all_dim", NULL, 0, 1e6, 0),
                 scale = by > 0 && all > 0
                             ? yarn_magnitude(factor, by) / yarn_magnitude(factor, all)
                             : yarn_magnitude(factor, 1);
    r->attention_scale = (float)read_number(
        c, parameters, "attention_factor", NULL, 1e-6, 1e6, scale);
    yarn y = {factor, yarn_dimension(fast, r->dims, theta, original),
        yarn_dimension(slow, r->dims, theta, original)};
    const bool truncate = !parameters->object || config_bool(parameters, "truncate", true);
    if (!c->status) c->status = parameters->status;
    if (truncate) y.low = floor(y.low), y.high = ceil(y.high);
    if (y.low < 0) y.low = 0;
    if (y.high > r->dims - 1) y.high = r->dims - 1;
    if (y.low == y.high) y.high += 0.001;
    return y;
}

static float yarn_scaled(float wave, int32_t index, const yarn *y)
{
    float ramp = ((float)index - (float)y->low) / (float)(y->high - y->low);
    ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
    const float kept = 1 - ramp;
    return 1 / ((float)y->factor * wave) * (1 - kept) + 1 / wave * kept;
}

static llama3 read_llama3(config *c, config *parameters, double factor)
{
    const llama3 found = {factor, need_number(c, parameters, "low_freq_factor", 1e-3, 1e6),
        need_number(c, parameters, "high_freq_factor", 1e-3, 1e6),
        read_number(c, parameters, "original_max_position_embeddings", "max_position_embeddings", 1,
            1e9, 1)};
    if (!c->status && found.high <= found.low)
        config_refuse(c, "'high_freq_factor' (%g) must be larger than 'low_freq_factor' (%g)",
            found.high, found.low);
    return found;
}

/* Frequencies of r->dims dimensions, into r. */
static void fill(
    config *c, program *p, config *parameters, int type, double theta, double factor, rope *r)
{
    llama3 scaling = {0};
    yarn stretched = {0};
    if (type == ROPE_LLAMA3) scaling = read_llama3(c, parameters, factor);
    if (type == ROPE_YARN) stretched = read_yarn(c, parameters, factor, theta, r);
    if (c->status) return;
    float *frequencies = arena_new(&p->memory, (size_t)r->dims / 2 * sizeof *frequencies);
    if (!frequencies) {
        c->status = INSET_NO_MEMORY;
        return;
    }
    if (type == ROPE_LONG) read_long(c, p, parameters, r, frequencies);
    for (int32_t i = 0; i < r->dims / 2; i++) {
        const float wave = powf((float)theta, (float)(2 * i) / (float)r->dims);
        frequencies[i] = type == ROPE_LONG ? 1 / (frequencies[i] * wave) : 1 / wave;
        if (type == ROPE_LINEAR) frequencies[i] /= (float)factor;
        if (type == ROPE_LLAMA3) frequencies[i] = llama3_scaled(frequencies[i], &scaling);
        if (type == ROPE_YARN) frequencies[i] = yarn_scaled(wave, i, &stretched);
    }
    r->frequencies = frequencies;
}

static rope rope_of(config *c, program *p, config *parameters, int32_t head_dim,
    const char *theta_key, double theta, const char *part_key, double part)
{
    rope r = {.attention_scale = 1};
    int type = read_type(c, p, parameters);
    theta = read_number(c, parameters, "rope_theta", theta_key, 1, 1e12, theta);
    double found = read_number(c, parameters, "partial_rotary_factor",
        part_key ? part_key : "partial_rotary_factor", 0, 1, part);
    if (part_key) part = found;
    else if (found != part && type != ROPE_DEFAULT)
        config_refuse(c,
            "'partial_rotary_factor' is %g, and whole heads turn in this family's models", found);
    double factor = type == ROPE_DEFAULT || type == ROPE_LONG
                        ? 1
                        : need_number(c, parameters, "factor", 1e-3, 1e6);
    r.dims = (int32_t)(head_dim * part);
    if (r.dims < 2 || r.dims % 2)
        config_refuse(c,
            "the rotary part of a head must be an even number of dimensions from 2 on, found %d of "
            "%d",
            (int)r.dims, (int)head_dim);
    if (!c->status) fill(c, p, parameters, type, theta, factor, &r);
    return r;
}

rope config_rope(config *c, program *p, int32_t head_dim, const char *theta_key, double theta,
    const char *part_key, double part)
{
    config parameters = find_parameters(c);
    return rope_of(c, p, &parameters, head_dim, theta_key, theta, part_key, part);
}

rope config_rope_of_layers(config *c, program *p, int32_t head_dim, const char *layer_type,
    const char *theta_key, double theta)
{
    const bool full = strcmp(layer_type, "full_attention") == 0;
    config parameters = *c;
    const json_node *both = json_member(c->object, "rope_parameters"),
                    *scaling = json_member(c->object, "rope_scaling");
    parameters.object = json_member(both, layer_type);
    /* older files have one scaling, for layers that see everything */
    if (!json_is_object(parameters.object))
        parameters.object = full && json_is_object(scaling) && json_length(scaling) ? scaling
                                                                                    : NULL;
    return rope_of(c, p, &parameters, head_dim, theta_key, theta, NULL, 1);
}
