/* site.c: sites by the names that TransformerLens users know, found in any family's program.
 *
 * No table of module paths: a block is a numbered module around one attention step, and what it
 * adds to the residual stream shows in its STEP_ADDs. The stream's values:
 *
 *     resid_pre      what the block is given                 its .input
 *     attn_out       what the first addition adds            the last site that shows that value
 *                    before the addition
 *     resid_mid      the sum; not there when one addition adds both branches (a parallel block);
 *                    before the norm of it that goes on where there is one (BERT)
 *     mlp_out        what the second addition adds
 *     resid_post     what the block returns                  its .output
 *
 * So attn_out is behind a norm of the branch's output where the family has one (Gemma 2), as in
 * TransformerLens. What lies inside attention and MLP are the named sites of that name in the
 * block. */
#include "sweep/sweep.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* ---- blocks ------------------------------------------------------------- */

static bool is_number(const char *name)
{
    for (; *name; name++)
        if (!isdigit((unsigned char)*name)) return false;
    return true;
}

static bool holds_event(const module *m, int32_t event)
{
    return m->enter >= 0 && m->enter <= event && event <= m->leave;
}

/* The innermost numbered module around an event, or -1. */
static int32_t numbered_module(const program *p, int32_t event)
{
    int32_t found = -1;
    for (size_t i = 1; i < p->n_modules; i++)
        if (is_number(p->modules[i].name) && holds_event(&p->modules[i], event)) found = (int32_t)i;
    return found;
}

/* The module of every attention step, in order: out [layers_count]. */
static int32_t find_blocks(const program *p, int32_t *out)
{
    int32_t n = 0, last = -1;
    for (size_t i = 0; i < p->n_steps; i++) {
        if (p->steps[i].kind != STEP_ATTENTION) continue;
        int32_t block = numbered_module(p, p->steps[i].event);
        if (block < 0 || block == last) continue;
        if (out) out[n] = block;
        last = block;
        n++;
    }
    return n;
}

int32_t layers_count(const program *p) { return find_blocks(p, NULL); }

inset_status blocks_read(sweep *s)
{
    s->blocks = arena_new(&s->memory, (size_t)s->n_layers * sizeof *s->blocks);
    if (!s->blocks) return INSET_NO_MEMORY;
    find_blocks(s->program, s->blocks);
    return INSET_OK;
}

/* ---- the residual stream of a block ------------------------------------- */

/* sites; -1: there is none */
typedef struct stream {
    int32_t pre, attn_out, mid, mlp_out, post;
} stream;

static int32_t site_named(const program *p, const module *block, const char *name, bool of_block)
{
    for (size_t i = 0; i < p->n_sites; i++) {
        const site *s = &p->sites[i];
        bool inside = of_block ? &p->modules[s->module] == block : holds_event(block, s->event);
        if (inside && !strcmp(s->name, name)) return (int32_t)i;
    }
    return -1;
}

/* A settable site of the block that shows all of `value`: the last one before `event`, or the first
 * one after it. */
static int32_t site_showing(
    const program *p, const module *block, int32_t value, int32_t event, bool after)
{
    int32_t found = -1;
    for (size_t i = 0; i < p->n_sites; i++) {
        const site *s = &p->sites[i];
        const slot *shown = &p->slots[s->slot];
        if (shown->value != value || shown->shape.n_columns != 1
            || shown->shape.extent[0] != p->values[value].width || !shown->settable)
            continue;
        if (!holds_event(block, s->event) || (s->event > event) != after) continue;
        if (after) return (int32_t)i;
        found = (int32_t)i;
    }
    return found;
}

/* Is what a slot shows the stream's value x, or the norm of it? */
static bool is_stream(const program *p, int32_t slot, int32_t x)
{
    const int32_t value = p->slots[slot].value;
    const step *maker = &p->steps[p->values[value].step];
    return value == x || (step_is_norm(maker) && p->slots[maker->operands[0]].value == x);
}

/* Sets the branches that an addition adds to what is in `sums`, the values of the stream so far. */
static stream find_stream(const program *p, const module *block)
{
    stream found = {-1, -1, -1, -1, -1};
    found.pre = site_named(p, block, "input", true);
    found.post = site_named(p, block, "output", true);
    if (found.pre < 0) return found;
    int32_t x = p->slots[p->sites[found.pre].slot].value,
            *branches[2] = {&found.attn_out, &found.mlp_out};
    int n = 0, sums = 0;
    for (size_t i = 0; i < p->n_steps && n < 2; i++) {
        const step *s = &p->steps[i];
        if (s->kind != STEP_ADD || !holds_event(block, s->event)) continue;
        bool has_stream = false;
        for (int k = 0; k < s->n_operands; k++) has_stream |= is_stream(p, s->operands[k], x);
        int32_t values[2], count = 0;
        for (int k = 0; k < s->n_operands && count < 2; k++)
            if (!is_stream(p, s->operands[k], x)) values[count++] = p->slots[s->operands[k]].value;
        /* a value's number is its place in the order: attention comes first */
        if (count == 2 && values[0] > values[1]) {
            int32_t later = values[0];
            values[0] = values[1];
            values[1] = later;
        }
        for (int k = 0; k < count && n < 2; k++)
            *branches[n++] = site_showing(p, block, values[k], s->event, false);
        if (has_stream && count == 1 && !sums++)
            found.mid = site_showing(p, block, s->value, s->event, true);
        if (has_stream) x = s->value;
    }
    return found;
}

/* ---- members ------------------------------------------------------------ */

static const char *const stream_members[] = {
    "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", NULL};
static const char *const mlp_members[] = {"pre", "up", "post", "router", "expert_weights", NULL};
static const char *const head_members[] = {"z", "q", "k", "v", "rot_q", "rot_k", "result",
    "q_input", "k_input", "v_input", "pattern", "scores", NULL};
enum { N_STREAM = 5, N_PATTERN = 10 }; /* head_members from N_PATTERN on are by keys */

static int index_of(const char *const *names, const char *name)
{
    for (int i = 0; names[i]; i++)
        if (!strcmp(names[i], name)) return i;
    return -1;
}

static int32_t member_place(const program *p, const module *block, const char *name)
{
    if (index_of(stream_members, name) < 0) return site_named(p, block, name, false);
    stream found = find_stream(p, block);
    const int32_t places[N_STREAM] = {
        found.pre, found.mid, found.post, found.attn_out, found.mlp_out};
    for (int i = 0; i < N_STREAM; i++)
        if (!strcmp(stream_members[i], name)) return places[i];
    return -1;
}

/* The attention step of a block, or -1. */
static int32_t attention_of(const program *p, const module *block)
{
    for (size_t i = 0; i < p->n_steps; i++)
        if (p->steps[i].kind == STEP_ATTENTION && holds_event(block, p->steps[i].event))
            return (int32_t)i;
    return -1;
}

int32_t layer_place(const sweep *s, int32_t layer, const char *member)
{
    return member_place(s->program, &s->program->modules[s->blocks[layer]], member);
}

int32_t layer_attention(const sweep *s, int32_t layer)
{
    return attention_of(s->program, &s->program->modules[s->blocks[layer]]);
}

/* Says what the family has instead. */
inset_status site_not_there(sweep *s, const char *name, int32_t layer)
{
    const module *block = &s->program->modules[s->blocks[layer]];
    static const char *const *const lists[] = {stream_members, mlp_members, head_members};
    char has[256] = "";
    size_t n = 0;
    for (int k = 0; k < 3; k++)
        for (int i = 0; lists[k][i] && n < sizeof has; i++)
            if (member_place(s->program, block, lists[k][i]) >= 0)
                n += (size_t)snprintf(has + n, sizeof has - n, "%s%s", n ? ", " : "", lists[k][i]);
    inset_status status = error_set(s->context, INSET_UNKNOWN_SITE, "%s has no %s in layer %d%s",
        s->program->model_type, name, layer,
        strcmp(name, "resid_mid")
            ? ""
            : ": its blocks are parallel, one addition takes attention and MLP");
    error_help(s->context, "It has %s.", has);
    return status;
}

static inset_status find_places(sweep *s, sweep_site *site)
{
    const program *p = s->program;
    for (int32_t m = 0; m < site->n_members; m++) {
        int32_t *places = arena_new(&s->memory, (size_t)s->n_layers * sizeof *places);
        if (!places) return INSET_NO_MEMORY;
        site->places[m] = places;
        for (int32_t layer = 0; layer < s->n_layers; layer++) {
            places[layer] = layer_place(s, layer, site->members[m]);
            if (places[layer] < 0) return site_not_there(s, site->members[m], layer);
            const slot_shape *shape = &p->slots[p->sites[places[layer]].slot].shape;
            int32_t heads = site->per_head ? shape->extent[0] : 1,
                    width = shape->extent[site->per_head];
            if ((site->n_heads && site->n_heads != heads) || (site->width && site->width != width))
                return error_set(s->context, INSET_SHAPE_ERROR,
                    "%s differs in shape between layers", site->name);
            site->n_heads = heads;
            site->width = width;
            site->grouped = site->per_head && heads < p->steps[layer_attention(s, layer)].n_heads;
        }
    }
    return INSET_OK;
}

/* ---- names -------------------------------------------------------------- */

typedef enum spelling { SPELT_PLAIN, SPELT_BY_POSITION, SPELT_ALL_POSITIONS } spelling;

/* "attn_head_out_by_pos" -> "z", SPELT_BY_POSITION; NULL when it is none of these. */
static const char *head_alias(const char *name, spelling *how)
{
    static const char *const ends[] = {"", "_by_pos", "_all_pos"};
    static const char start[] = "attn_head_";
    if (strncmp(name, start, sizeof start - 1)) return NULL;
    name += sizeof start - 1;
    for (int i = 0; head_members[i]; i++) {
        const char *spelt = i ? head_members[i] : "out";
        size_t n = strlen(spelt);
        if (strncmp(name, spelt, n)) continue;
        for (int e = SPELT_PLAIN; e <= SPELT_ALL_POSITIONS; e++)
            if (!strcmp(name + n, ends[e])) {
                *how = (spelling)e;
                return head_members[i];
            }
    }
    return NULL;
}

inset_status site_unknown(sweep *s, const char *name, const char *purpose)
{
    static const char *const every[] = {"block_every", NULL}, *const *const lists[] = {
                                                                  stream_members, mlp_members,
                                                                  head_members, every};
    const char *nearest = NULL;
    int best = 3;
    for (int k = 0; k < 4; k++)
        for (int i = 0; lists[k][i]; i++) {
            int distance = text_distance(name, lists[k][i], best);
            if (distance >= best || strlen(lists[k][i]) < 3) continue;
            best = distance;
            nearest = lists[k][i];
        }
    inset_status status = error_set(
        s->context, INSET_UNKNOWN_SITE, "there is no site '%s' to %s", name, purpose);
    if (nearest) error_help(s->context, "Did you mean %s?", nearest);
    error_help(s->context,
        "Sites are resid_pre, resid_mid, resid_post, attn_out, mlp_out and block_every, pre, up "
        "and post "
        "in the MLP, and per head z, q, k, v, rot_q, rot_k, result, q_input, k_input, v_input, "
        "pattern and scores%s.",
        strcmp(purpose, "sweep") ? "" : "; and features:SAE.safetensors@SITE.LAYER");
    return status;
}

const char *site_member(const char *name)
{
    spelling how;
    const char *alias = head_alias(name, &how);
    if (alias) return alias;
    const bool known = index_of(head_members, name) >= 0 || index_of(stream_members, name) >= 0
                       || index_of(mlp_members, name) >= 0;
    return known ? name : NULL;
}

static bool name_site(const char *name, sweep_site *out, spelling *how)
{
    static const char *const every[MAX_MEMBERS] = {"resid_pre", "attn_out", "mlp_out"};
    const char *alias = head_alias(name, how);
    out->name = name;
    out->n_members = 1;
    out->members[0] = alias ? alias : name;
    out->per_head = index_of(head_members, out->members[0]) >= 0;
    out->by_keys = index_of(head_members, out->members[0]) >= N_PATTERN;
    if (out->per_head) return true;
    if (!strcmp(name, "block_every")) {
        out->n_members = MAX_MEMBERS;
        memcpy(out->members, every, sizeof every);
        return true;
    }
    return index_of(stream_members, name) >= 0 || index_of(mlp_members, name) >= 0;
}

/* ---- axes --------------------------------------------------------------- */

static const char *default_axes(const sweep_site *site, spelling how)
{
    if (site->features) return "position,feature";
    if (!site->per_head) return "layer,position";
    if (how != SPELT_BY_POSITION) return "layer,head";
    return site->by_keys ? "layer,head,destination" : "layer,position,head";
}

const char *axis_name(const sweep_site *site, sweep_axis axis)
{
    static const char *const names[AXIS_COUNT] = {"site", "layer", "position", "head", "feature"};
    if (axis == AXIS_POSITION && site->by_keys) return "destination";
    if (axis == AXIS_HEAD && site->grouped) return "key_value_head";
    return names[axis];
}

/* Layer, position and head name the axis of any site, so that several can be swept by the same
 * axes; a name of its own only its own. */
static sweep_axis find_axis(const sweep_site *site, const char *name)
{
    static const char *const usual[AXIS_COUNT] = {NULL, "layer", "position", "head", "feature"};
    for (sweep_axis axis = AXIS_LAYER; axis < AXIS_COUNT; axis++)
        if (!strcmp(usual[axis], name) || !strcmp(axis_name(site, axis), name)) return axis;
    return AXIS_COUNT;
}

/* A name of no axis, or of one that this site has not got. */
static inset_status refuse_axis(sweep *s, const sweep_site *site, const char *name)
{
    static const char *const known[] = {
        "layer", "head", "destination", "key_value_head", "feature", NULL};
    if (index_of(known, name) < 0)
        return error_set(s->context, INSET_VALUE_ERROR,
            "there is no axis '%s': layer, position and head are axes, and feature of features",
            name);
    if (site->features)
        return error_set(s->context, INSET_VALUE_ERROR,
            "%s has no axis %s: its axes are position and feature", site->name, name);
    const char *head = site->per_head ? axis_name(site, AXIS_HEAD) : "";
    return error_set(s->context, INSET_VALUE_ERROR,
        "%s has no axis %s: its axes are layer%s %s%s%s", site->name, name, *head ? "," : " and",
        axis_name(site, AXIS_POSITION), *head ? " and " : "", head);
}

/* One part of "a,b,c", trimmed of nothing; *at moves behind the comma, and is NULL after the
 * last. */
static const char *next_part(arena *a, const char **at)
{
    const char *comma = strchr(*at, ','), *from = *at;
    size_t length = comma ? (size_t)(comma - from) : strlen(from);
    *at = comma ? comma + 1 : NULL;
    return arena_text(a, from, length);
}

static inset_status add_axis(sweep *s, sweep_site *site, const char *name)
{
    sweep_axis axis = find_axis(site, name);
    const bool there = axis == AXIS_HEAD      ? site->per_head
                       : axis == AXIS_LAYER   ? !site->features
                       : axis == AXIS_FEATURE ? site->features != NULL
                                              : axis != AXIS_COUNT;
    if (!there) return refuse_axis(s, site, name);
    for (int i = 0; i < site->n_axes; i++)
        if (site->axes[i] == axis)
            return error_set(s->context, INSET_VALUE_ERROR, "the axis %s is named twice", name);
    site->axes[site->n_axes++] = axis;
    return INSET_OK;
}

static inset_status read_axes(sweep *s, const char *by, sweep_site *site)
{
    if (site->n_members > 1) site->axes[site->n_axes++] = AXIS_SITE;
    for (const char *at = *by ? by : NULL; at;) {
        const char *name = next_part(&s->memory, &at);
        if (!name) return INSET_NO_MEMORY;
        inset_status status = !strcmp(name, "site") && site->n_members > 1
                                  ? INSET_OK
                                  : add_axis(s, site, name);
        if (status) return status;
    }
    return INSET_OK;
}

static inset_status count_points(sweep *s, sweep_site *site)
{
    site->heads = range_resolve(&s->heads, site->n_heads, &site->first_head);
    if (!site->per_head) {
        site->heads = 1;
        site->first_head = 0;
    }
    if (!site->heads)
        return error_set(s->context, INSET_VALUE_ERROR,
            "the range of heads chooses none of the %d %sheads of %s", site->n_heads,
            site->grouped ? "key-value " : "", site->name);
    if (!(site->head_labels = arena_new(
              &s->memory, (size_t)site->heads * sizeof *site->head_labels)))
        return INSET_NO_MEMORY;
    for (int64_t i = 0; i < site->heads; i++)
        site->head_labels[i] = site->first_head + i * s->heads.step;
    const int64_t extents[AXIS_COUNT] = {site->n_members, s->chosen_layers, s->n_labels,
        site->heads, site->features ? site->n_features : 1};
    site->n_points = 1;
    for (int a = 0; a < AXIS_COUNT; a++) site->extents[a] = 1;
    for (int i = 0; i < site->n_axes; i++) {
        site->extents[site->axes[i]] = extents[site->axes[i]];
        site->n_points *= extents[site->axes[i]];
    }
    site->first_point = s->points;
    s->points += site->n_points;
    return INSET_OK;
}

static inset_status read_site(sweep *s, const char *name, const char *by, sweep_site *out)
{
    spelling how = SPELT_PLAIN;
    const bool features = names_features(name);
    inset_status status = features ? features_read(s, name, out) : INSET_OK;
    if (status) return status;
    if (!features && !name_site(name, out, &how)) return site_unknown(s, name, "sweep");
    for (const sweep_site *before = s->sites; before < out; before++)
        if (!strcmp(before->name, out->name))
            return error_set(
                s->context, INSET_VALUE_ERROR, "the site %s is named twice", out->name);
    if (!features) status = find_places(s, out);
    if (!status) status = read_axes(s, by ? by : default_axes(out, how), out);
    return status ? status : count_points(s, out);
}

inset_status sites_read(sweep *s, const char *patch, const char *by)
{
    size_t count = 1;
    if (!patch || !*patch)
        return error_set(
            s->context, INSET_USAGE_ERROR, "which site is to be patched? resid_pre, for example");
    for (const char *c = patch; *c; c++) count += *c == ',';
    s->sites = arena_new(&s->memory, count * sizeof *s->sites);
    if (!s->sites) return INSET_NO_MEMORY;
    if (!s->blocks && blocks_read(s)) return INSET_NO_MEMORY;
    for (const char *at = patch; at;) {
        const char *name = next_part(&s->memory, &at);
        if (!name) return INSET_NO_MEMORY;
        inset_status status = read_site(s, name, by, &s->sites[s->n_sites]);
        if (status) return status;
        s->n_sites++;
    }
    return INSET_OK;
}
