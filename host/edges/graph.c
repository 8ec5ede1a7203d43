/* graph.c: writers and readers of a program, found by walking back from what the sites show: q is
 * columns of a product, the product reads a norm or the stream, and so on. No family is named. */
#include "edges/edges.h"

#include <stdio.h>
#include <string.h>

static int32_t value_of_slot(const program *p, int32_t slot) { return p->slots[slot].value; }

static int32_t value_of_site(const program *p, int32_t site)
{
    return value_of_slot(p, p->sites[site].slot);
}

static int32_t step_index(const program *p, const step *s) { return (int32_t)(s - p->steps); }

/* A site whose slot this is: the input of the module that reads through it. */
static int32_t site_of_slot(const program *p, int32_t slot)
{
    for (size_t i = 0; i < p->n_sites; i++)
        if (p->sites[i].slot == slot) return (int32_t)i;
    return -1;
}

/* The same, of the module around where two products read through the one that holds both. */
static int32_t module_reading(const program *p, int32_t slot)
{
    const int32_t source = p->slots[slot].source;
    return site_of_slot(p, source >= 0 ? source : slot);
}

/* The product behind a value, through steps that go row by row. */
static const step *product_behind(const program *p, int32_t value)
{
    const step *s = &p->steps[p->values[value].step];
    while (s->kind != STEP_LINEAR && s->n_operands > 0) s = program_maker(p, s->operands[0]);
    return s->kind == STEP_LINEAR ? s : NULL;
}

static bool is_linear(const step *s) { return s->kind == STEP_LINEAR; }
static bool is_scale(const step *s) { return s->kind == STEP_SCALE; }

/* The first step of a kind that reads a value. */
static const step *reader_of(const program *p, int32_t value, bool (*is_kind)(const step *s))
{
    for (size_t i = 0; i < p->n_steps; i++) {
        const step *s = &p->steps[i];
        if (is_kind(s) && value_of_slot(p, s->operands[0]) == value) return s;
    }
    return NULL;
}

static inset_status no_graph(const edges *e, int32_t layer, const char *what)
{
    const inset_status status = error_set(e->s->context, INSET_UNKNOWN_SITE,
        "edges are of models whose stream is a sum: layer %d of %s has no %s", (int)layer,
        e->s->program->model_type, what);
    error_help(
        e->s->context, "places can be scored and patched: --patch resid_pre,attn_out,mlp_out");
    return status;
}

/* The step that makes each head of what it reads at a site of its own, or -1. */
static int32_t heads_behind(const edges *e, int32_t layer, const char *input)
{
    const program *p = e->s->program;
    const int32_t site = layer_place(e->s, layer, input);
    for (size_t i = 0; i < p->n_head_paths && site >= 0; i++)
        if (p->head_paths[i].site == site)
            return p->values[value_of_slot(p, p->head_paths[i].made)].step;
    return -1;
}

/* How attention reads the stream: through one norm, or each product by itself. */
static inset_status find_reading(edges *e, int32_t layer, edge_layer *at, int32_t stream)
{
    const program *p = e->s->program;
    static const char *const names[3] = {"q", "k", "v"}, *const inputs[3] = {
                                                             "q_input", "k_input", "v_input"};
    at->norm = -1;
    for (int k = 0; k < 3; k++) {
        const int32_t site = at->place[PLACE_Q + k] = layer_place(e->s, layer, names[k]);
        if (site < 0) return no_graph(e, layer, names[k]);
        const step *linear = program_maker(p, p->sites[site].slot);
        if (linear->kind == STEP_SPREAD) /* ungrouped */
            linear = program_maker(p, linear->operands[0]);
        if (linear->kind != STEP_LINEAR) return no_graph(e, layer, "product that makes q, k and v");
        at->linear[k] = step_index(p, linear);
        if ((at->heads[k] = heads_behind(e, layer, inputs[k])) < 0)
            return no_graph(e, layer, inputs[k]);
        at->alone[k] = layer_place(e->s, layer, inputs[k]);
        const step *norm = program_maker(p, linear->operands[0]);
        int32_t slot = linear->operands[0];
        if (step_is_norm(norm) && value_of_slot(p, norm->operands[0]) == stream) {
            at->norm = step_index(p, norm);
            slot = norm->operands[0];
        }
        if ((at->read[k] = site_of_slot(p, slot)) < 0) return no_graph(e, layer, "site to read at");
    }
    at->place[PLACE_NORM_INPUT] = at->norm < 0 ? -1 : at->read[0];
    return INSET_OK;
}

static inset_status find_writing(edges *e, int32_t layer, edge_layer *at)
{
    const program *p = e->s->program;
    const step *attention = &p->steps[layer_attention(e->s, layer)],
               *out = reader_of(p, attention->value, is_linear);
    if ((at->place[PLACE_Z] = layer_place(e->s, layer, "z")) < 0 || !out)
        return no_graph(e, layer, "projection of its heads");
    at->out = step_index(p, out);
    const step *norm = reader_of(p, out->value, step_is_norm),
               *scale = reader_of(p, out->value, is_scale);
    at->out_scale = scale ? scale->scale : 1;
    at->out_norm = norm ? step_index(p, norm) : -1;
    at->place[PLACE_OUT] = norm ? site_of_slot(p, norm->operands[0]) : -1;
    if ((at->place[PLACE_RESULT] = layer_place(e->s, layer, "result")) < 0)
        return no_graph(e, layer, "result of each head");
    if ((at->place[PLACE_ATTN_OUT] = layer_place(e->s, layer, "attn_out")) < 0)
        return no_graph(e, layer, "attention output");
    if ((at->place[PLACE_MLP_OUT] = layer_place(e->s, layer, "mlp_out")) < 0)
        return no_graph(e, layer, "MLP output");
    return INSET_OK;
}

static inset_status find_mlp(edges *e, int32_t layer, edge_layer *at, int32_t stream)
{
    const program *p = e->s->program;
    const int32_t inside = layer_place(e->s, layer, "pre"),
                  pre = inside < 0 ? layer_place(e->s, layer, "router") : inside, /* of experts */
        mid = layer_place(e->s, layer, "resid_mid");
    if (pre < 0) return no_graph(e, layer, "MLP");
    const step *linear = product_behind(p, value_of_site(p, pre));
    int32_t slot = linear ? linear->operands[0] : -1;
    const step *norm = linear ? program_maker(p, slot) : NULL;
    const int32_t from = mid < 0 ? stream : value_of_site(p, mid);
    const bool behind_norm = norm && step_is_norm(norm) && value_of_slot(p, slot) != from,
               shared = behind_norm && step_index(p, norm) == at->norm;
    const int32_t normed = slot;
    if (behind_norm) slot = norm->operands[0];
    if (slot < 0 || value_of_slot(p, slot) != from)
        return no_graph(e, layer, "MLP that reads the stream");
    at->place[PLACE_MLP_INPUT] = behind_norm ? site_of_slot(p, slot) : module_reading(p, slot);
    if (shared) at->place[PLACE_MLP_NORMED] = module_reading(p, normed);
    if (at->place[PLACE_MLP_INPUT] < 0 || (shared && at->place[PLACE_MLP_NORMED] < 0))
        return no_graph(e, layer, "MLP that reads the stream");
    at->parallel = mid < 0;
    return INSET_OK;
}

/* BERT norms its stream behind each addition: what was written before is no part of it then. */
static inset_status need_sum(edges *e, int32_t layer)
{
    const program *p = e->s->program;
    const int32_t post = layer_place(e->s, layer, "resid_post");
    if (post < 0 || !step_is_norm(&p->steps[p->values[value_of_site(p, post)].step]))
        return INSET_OK;
    const inset_status status = error_set(e->s->context, INSET_UNKNOWN_SITE,
        "edges are of models whose stream is a sum: %s norms it in layer %d", p->model_type,
        (int)layer);
    error_help(
        e->s->context, "places can be scored and patched: --patch resid_pre,attn_out,mlp_out");
    return status;
}

static inset_status find_layer(edges *e, int32_t layer)
{
    const program *p = e->s->program;
    edge_layer *at = &e->layers[layer];
    const int32_t pre = layer_place(e->s, layer, "resid_pre");
    for (int k = 0; k < PLACE_COUNT; k++) at->place[k] = -1;
    if (pre < 0) return no_graph(e, layer, "stream");
    inset_status sum = need_sum(e, layer);
    if (sum) return sum;
    const int32_t stream = value_of_site(p, pre);
    const step *attention = &p->steps[layer_attention(e->s, layer)];
    if (layer && (attention->n_heads != e->n_heads || attention->n_kv_heads != e->n_kv_heads))
        return no_graph(e, layer, "heads as layer 0 has them");
    e->n_heads = attention->n_heads, e->n_kv_heads = attention->n_kv_heads;
    e->head_dim = attention->head_dim, e->width = p->values[stream].width;
    inset_status status = find_reading(e, layer, at, stream);
    if (!layer) at->place[PLACE_STREAM] = pre;
    if (!status) status = find_writing(e, layer, at);
    return status ? status : find_mlp(e, layer, at, stream);
}

static inset_status find_last(edges *e)
{
    const program *p = e->s->program;
    const step *head = product_behind(p, value_of_site(p, e->s->logits));
    const step *norm = head ? program_maker(p, head->operands[0]) : NULL;
    const int32_t slot = norm && step_is_norm(norm) ? norm->operands[0]
                         : head                     ? head->operands[0]
                                                    : -1;
    const int32_t site = slot < 0 ? -1 : site_of_slot(p, slot);
    if (site < 0) return no_graph(e, e->s->n_layers - 1, "norm before the logits");
    e->layers[0].place[PLACE_LAST] = site;
    return INSET_OK;
}

/* ---- nodes -------------------------------------------------------------- */

static void add_node(edge_node *nodes, int64_t *n, int32_t layer, char part, int32_t head)
{
    edge_node *made = &nodes[(*n)++];
    *made = (edge_node){.layer = layer, .part = (int8_t)part, .head = head};
    switch (part) {
    case 'i': snprintf(made->name, sizeof made->name, "input"); break;
    case 'l': snprintf(made->name, sizeof made->name, "logits"); break;
    case 'm': snprintf(made->name, sizeof made->name, "m%d", (int)layer); break;
    case 'z': snprintf(made->name, sizeof made->name, "a%d.h%d", (int)layer, (int)head); break;
    default: snprintf(made->name, sizeof made->name, "a%d.h%d<%c>", (int)layer, (int)head, part);
    }
}

inset_status edges_make_nodes(edges *e)
{
    const int32_t layers = e->s->n_layers, readers = e->n_heads + 2 * e->n_kv_heads;
    arena *m = &e->s->memory;
    e->writers = arena_new(m, (size_t)(1 + layers * (e->n_heads + 1)) * sizeof *e->writers);
    e->readers = arena_new(m, (size_t)(1 + layers * (readers + 1)) * sizeof *e->readers);
    if (!e->writers || !e->readers) return INSET_NO_MEMORY;
    add_node(e->writers, &e->n_writers, -1, 'i', 0);
    for (int32_t l = 0; l < layers; l++) {
        for (int32_t h = 0; h < e->n_heads; h++) add_node(e->writers, &e->n_writers, l, 'z', h);
        add_node(e->writers, &e->n_writers, l, 'm', 0);
        for (int k = 0; k < 3; k++)
            for (int32_t h = 0; h < (k ? e->n_kv_heads : e->n_heads); h++)
                add_node(e->readers, &e->n_readers, l, "qkv"[k], h);
        add_node(e->readers, &e->n_readers, l, 'm', 0);
    }
    add_node(e->readers, &e->n_readers, layers, 'l', 0);
    e->writer_names = arena_new(m, (size_t)e->n_writers * sizeof *e->writer_names);
    e->reader_names = arena_new(m, (size_t)e->n_readers * sizeof *e->reader_names);
    if (!e->writer_names || !e->reader_names) return INSET_NO_MEMORY;
    for (int64_t i = 0; i < e->n_writers; i++) e->writer_names[i] = e->writers[i].name;
    for (int64_t i = 0; i < e->n_readers; i++) e->reader_names[i] = e->readers[i].name;
    return INSET_OK;
}

bool edge_exists(const edges *e, int64_t u, int64_t v)
{
    const edge_node *from = &e->writers[u], *to = &e->readers[v];
    if (from->layer != to->layer) return from->layer < to->layer;
    return from->part == 'z' && to->part == 'm' && !e->layers[to->layer].parallel;
}

inset_status edges_find(edges *e)
{
    e->layers = arena_new(&e->s->memory, (size_t)e->s->n_layers * sizeof *e->layers);
    if (!e->layers) return INSET_NO_MEMORY;
    for (int32_t l = 0; l < e->s->n_layers; l++) {
        inset_status status = find_layer(e, l);
        if (status) return status;
    }
    inset_status status = find_last(e);
    return status ? status : edges_make_nodes(e);
}
