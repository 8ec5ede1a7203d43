/* experts.c: mixtures of experts. A row's weights [n] say which experts it has: those whose weight
 * is not 0. The router makes rows with `chosen` of them, and lines may set others; so what runs is
 * found when it runs, row by row, and the program is the same for all.
 *
 * Each expert on its own, `experts[i].input` and `.output`, is made by steps aside, like heads that
 * stand alone (heads.c): a copy of x for each expert, what each makes of its copy, and their sum
 * once more. What a line sets there is brought to where all meet, the output of the module. */
#include "program/program.h"

enum { WIDEST_SITE = 1 << 28 };

static int32_t step_of(
    program *p, step_kind kind, const experts *of, bool aside, int32_t width, int32_t a, int32_t b)
{
    if (p->status) return -1;
    step s = program_like(kind);
    s.aside = aside;
    if (!(s.experts = arena_copy(&p->memory, of, sizeof *of))) p->status = INSET_NO_MEMORY;
    return program_step(p, &s, width, a, b, -1);
}

int32_t program_route(program *p, int32_t logits, const experts *of)
{
    return step_of(p, STEP_ROUTE, of, false, of->n, logits, -1);
}

/* The sites of each expert, and the path of what is set there to `joined`. */
static void add_parts(program *p, int32_t x, int32_t weights, int32_t joined, const experts *of)
{
    const int32_t inputs = program_spread(p, x, 1, of->n, of->d, true),
                  first = program_sites_of_parts(p, "input", inputs, of->n, of->d),
                  outputs = step_of(p, STEP_EXPERTS_APART, of, true, of->n * of->d, inputs, -1),
                  last = program_sites_of_parts(p, "output", outputs, of->n, of->d),
                  sum = step_of(p, STEP_EXPERTS_JOINED, of, true, of->d, outputs, weights);
    if (p->status) return;
    program_head_path(p, first, sum, joined, false);
    program_head_path(p, last, sum, joined, false);
}

int32_t program_experts_module(program *p, int32_t x, int32_t weights, const experts *of)
{
    x = program_enter(p, "experts", x);
    const int32_t joined = step_of(p, STEP_EXPERTS, of, false, of->d, x, weights);
    if ((int64_t)of->n * of->d <= WIDEST_SITE) add_parts(p, x, weights, joined, of);
    return program_leave(p, joined);
}

static bool has_experts(const step *s)
{
    return s->kind == STEP_EXPERTS || s->kind == STEP_EXPERTS_APART || s->kind == STEP_EXPERTS_BACK
           || s->kind == STEP_EXPERTS_APART_BACK;
}

int32_t program_products(const step *s)
{
    if (has_experts(s)) return (s->experts->up < 0 ? 2 : 3) * s->experts->n;
    return s->kind == STEP_LINEAR || s->kind == STEP_LINEAR_BACK;
}

void program_product(const step *s, int32_t i, int32_t *weight, int32_t *bias)
{
    const experts *of = s->experts;
    if (!has_experts(s)) {
        *weight = s->weight, *bias = s->bias;
        return;
    }
    const int32_t which = i / of->n, expert = i % of->n, weights[3] = {of->gate, of->down, of->up},
                  biases[3] = {of->gate_bias, of->down_bias, -1};
    *weight = weights[which] + expert;
    *bias = biases[which] < 0 ? -1 : biases[which] + expert;
}
