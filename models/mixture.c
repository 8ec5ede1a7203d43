/* mixture.c: an MLP of experts; see mixture.h. */
#include "models/mixture.h"

#include <stdio.h>

/* Of one product of every expert. */
typedef struct bank {
    const char *alone;   /* name in files that have each on its own; NULL: there are none */
    const char *stacked; /* ... and of the tensor with all of them */
    int32_t in, out;     /* of one expert's product */
    int32_t rows, from;  /* rows that the stack has of an expert, and the first of this product */
} bank;

static void layer_name(const place *at, const char *path, char *out, size_t size)
{
    snprintf(out, size, "%s.%d.%s", at->layers, (int)at->layer, path);
}

/* The weights of all experts, [out, in] each; the index of the first. */
static int32_t add_bank(const place *at, const mixture *of, const bank *b)
{
    char stacked[128], name[128], path[96];
    int32_t first = -1;
    layer_name(at, b->stacked, stacked, sizeof stacked);
    for (int32_t i = 0; i < of->n; i++) {
        if (b->alone) snprintf(path, sizeof path, b->alone, (int)i);
        else snprintf(path, sizeof path, "%s[%d]", b->stacked, (int)i);
        layer_name(at, path, name, sizeof name);
        const bool in_out = !b->alone;
        const int32_t made = in_out ? program_weight_in_out(at->p, name, b->in, b->out)
                                    : program_weight(at->p, WEIGHT_MATRIX, name, b->out, b->in),
                      stack[3] = {of->n, in_out ? b->in : b->rows, in_out ? b->out : b->in};
        program_weight_stacked(at->p, made, stacked, stack,
            ((int64_t)i * stack[1] + (in_out ? 0 : b->from)) * stack[2]);
        if (!i) first = made;
    }
    return first;
}

/* Their biases [width], which are stacked wherever there are any. */
static int32_t add_biases(const place *at, const mixture *of, const char *path, int32_t width)
{
    char stacked[128], name[144];
    int32_t first = -1;
    const int32_t stack[3] = {of->n, width, 0};
    layer_name(at, path, stacked, sizeof stacked);
    for (int32_t i = 0; i < of->n; i++) {
        snprintf(name, sizeof name, "%s[%d]", stacked, (int)i);
        const int32_t made = program_weight(at->p, WEIGHT_VECTOR, name, 1, width);
        program_weight_stacked(at->p, made, stacked, stack, (int64_t)i * width);
        if (!i) first = made;
    }
    return first;
}

static const char *const stacks[2] = {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"};

static void add_experts(const place *at, const mixture *of, int32_t d, experts *out)
{
    static const char *const alone[2][3] = {
        [MIXTURE_EACH] = {"mlp.experts.%d.gate_proj.weight", "mlp.experts.%d.up_proj.weight",
            "mlp.experts.%d.down_proj.weight"},
        [MIXTURE_NUMBERED] = {"block_sparse_moe.experts.%d.w1.weight",
            "block_sparse_moe.experts.%d.w3.weight", "block_sparse_moe.experts.%d.w2.weight"}};
    const int32_t m = of->m;
    out->up = out->gate_bias = out->down_bias = -1;
    if (of->layout == MIXTURE_INTERLEAVED) {
        out->gate = add_bank(at, of, &(bank){NULL, stacks[0], d, 2 * m, 0, 0});
        out->down = add_bank(at, of, &(bank){NULL, stacks[1], m, d, 0, 0});
        out->gate_bias = add_biases(at, of, "mlp.experts.gate_up_proj_bias", 2 * m);
        out->down_bias = add_biases(at, of, "mlp.experts.down_proj_bias", d);
        return;
    }
    const char *const *names = alone[of->layout];
    out->gate = add_bank(at, of, &(bank){names[0], stacks[0], d, m, 2 * m, 0});
    out->up = add_bank(at, of, &(bank){names[1], stacks[0], d, m, 2 * m, m});
    out->down = add_bank(at, of, &(bank){names[2], stacks[1], m, d, d, 0});
}

/* The router's product, with its module. */
static int32_t add_router(const place *at, const mixture *of, int32_t x, int32_t d)
{
    char path[64], also[128];
    snprintf(path, sizeof path, "%s.%s",
        of->layout == MIXTURE_NUMBERED ? "block_sparse_moe" : "mlp", of->router);
    x = place_linear(at, path, x, d, of->n, of->layout == MIXTURE_INTERLEAVED);
    if (of->layout != MIXTURE_NUMBERED || x < 0) return x;
    snprintf(path, sizeof path, "mlp.%s.weight", of->router);
    layer_name(at, path, also, sizeof also);
    program_weight_also(at->p, program_maker(at->p, x)->weight, also);
    return x;
}

int32_t place_mixture(const place *at, const mixture *of, int32_t x, int32_t d, activation act)
{
    program *p = at->p;
    experts all = {.n = of->n,
        .chosen = of->chosen,
        .d = d,
        .m = of->m,
        .act = act,
        .limit = of->limit,
        .alpha = of->alpha,
        .over_all = of->over_all};
    x = program_enter(p, "mlp", x);
    int32_t weights = add_router(at, of, x, d);
    weights = program_site_view_last(p, "router", weights, 0, 1, &of->n);
    weights = program_route(p, weights, &all);
    weights = program_site_view(p, "expert_weights", weights, 0, 1, &of->n);
    add_experts(at, of, d, &all);
    return program_leave(p, program_experts_module(p, x, weights, &all));
}
