/* heads.c: heads that stand alone: what one head reads of the stream, and what one head writes to
 * it. A model's own steps make all heads of a row at once; the steps here make each from a row of
 * its own. They stand aside: they are run only for invokes that touch them, and what a line sets
 * there is taken to where all heads meet (head_path). */
#include <string.h>

#include "program/program.h"

enum { WIDEST_SITE = 1 << 28 };

static int32_t step_aside(program *p, step s, int32_t width, int32_t x)
{
    s.aside = true;
    return program_step(p, &s, width, x, -1, -1);
}

int32_t program_spread(
    program *p, int32_t x, int32_t parts, int32_t copies, int32_t head_dim, bool aside)
{
    if (p->status) return -1;
    step s = program_like(STEP_SPREAD);
    s.n_heads = parts * copies;
    s.n_kv_heads = parts;
    s.head_dim = head_dim;
    s.aside = aside;
    return program_step(p, &s, s.n_heads * head_dim, x, -1, -1);
}

/* The norm that attention reads through; NULL: it reads the stream itself, also where a norm ended
 * the block before (BERT). */
static const step *norm_before(const program *p, int32_t slot)
{
    const step *maker = program_maker(p, slot);
    const bool is_stream = p->n_blocks
                           && p->slots[p->blocks[p->n_blocks - 1]].value == p->slots[slot].value;
    return step_is_norm(maker) && !is_stream ? maker : NULL;
}

void program_head_inputs(
    program *p, int32_t x, int32_t n_heads, int32_t n_kv_heads, int32_t inputs[3])
{
    static const char *const names[3] = {"q_input", "k_input", "v_input"};
    inputs[0] = inputs[1] = inputs[2] = -1;
    if (p->status) return;
    const step *norm = norm_before(p, x);
    const int32_t stream = norm ? norm->operands[0] : x,
                  d = p->values[p->slots[stream].value].width;
    if ((int64_t)n_heads * d > WIDEST_SITE) return;
    for (int k = 0; k < 3 && !p->status; k++) {
        const int32_t heads[2] = {k ? n_kv_heads : n_heads, d};
        const int32_t made = program_spread(p, stream, 1, heads[0], d, true);
        inputs[k] = program_site_of(p, p->open_module, names[k], made, 2, heads);
    }
}

static int32_t site_of(const program *p, int32_t slot_index)
{
    for (size_t i = p->n_sites; i-- > 0;)
        if (p->sites[i].slot == slot_index) return (int32_t)i;
    return -1;
}

void program_head_path(program *p, int32_t site_slot, int32_t made, int32_t target, bool by_head)
{
    if (p->status) return;
    if (!array_reserve(p->context, &p->head_paths, &p->head_paths_capacity, p->n_head_paths + 1,
            sizeof *p->head_paths))
        p->status = INSET_NO_MEMORY;
    else
        p->head_paths[p->n_head_paths++] = (head_path){
            site_of(p, site_slot), made, target, p->slots[made].event, by_head};
}

/* The norm before the product, for each head's row on its own. */
static int32_t norm_of_heads(program *p, int32_t input, int32_t linear, int32_t n_heads)
{
    const step *before = norm_before(p, program_maker(p, linear)->operands[0]);
    if (!before) return input;
    step norm = *before;
    norm.norm_groups = n_heads;
    return step_aside(p, norm, p->values[p->slots[input].value].width, input);
}

void program_head_input_made(program *p, int32_t input, const head_columns *heads, int32_t target)
{
    if (p->status || input < 0) return;
    const int32_t extent[2] = {heads->n_heads, heads->head_dim};
    const int32_t x = norm_of_heads(p, input, heads->linear, heads->n_heads);
    if (p->status) return;
    const step *linear = program_maker(p, heads->linear);
    step s = program_like(STEP_HEADS);
    s.weight = linear->weight, s.bias = linear->bias;
    s.n_heads = heads->n_heads, s.head_dim = heads->head_dim;
    s.head_column = heads->column, s.head_stride = heads->stride;
    s.heads_a_part = heads->heads_a_part;
    const int32_t made = step_aside(p, s, heads->n_heads * heads->head_dim, x);
    if (made < 0) return;
    p->slots[made].shape.n_columns = 2;
    memcpy(p->slots[made].shape.extent, extent, sizeof extent);
    const int32_t event = p->slots[made].event;
    /* the columns of all heads, seen as the heads they are */
    const bool own = target < 0;
    const int32_t to = program_slot_heads(p, own ? heads->linear : target, own ? heads->column : 0,
        heads->n_heads, heads->head_dim, own ? heads->stride : heads->head_dim, event);
    program_head_path(p, input, made, to, true);
}

void program_head_results(program *p, int32_t z, int32_t linear, int32_t n_heads, int32_t head_dim)
{
    if (p->status) return;
    const step *joined = program_maker(p, linear);
    const int32_t d = p->values[joined->value].width, heads[2] = {n_heads, d};
    if ((int64_t)n_heads * d > WIDEST_SITE) return;
    step s = program_like(STEP_HEADS), fold = program_like(STEP_FOLD);
    s.weight = joined->weight;
    s.n_heads = n_heads, s.head_dim = head_dim;
    s.heads_join = true;
    fold.bias = joined->bias;
    fold.n_heads = n_heads, fold.n_kv_heads = 1, fold.head_dim = d;
    const int32_t made = step_aside(p, s, n_heads * d, z);
    const int32_t result = program_site_of(
        p, p->modules[p->open_module].parent, "result", made, 2, heads);
    const int32_t sum = p->status ? -1 : step_aside(p, fold, d, result);
    if (sum < 0) return;
    program_head_path(p, result, sum, linear, false);
}

head_part program_head_part(const program *p, const step *heads, int32_t h)
{
    const weight *w = &p->weights[heads->weight];
    const int32_t in = w->in_out ? w->rows : w->columns, out = w->in_out ? w->columns : w->rows;
    if (heads->heads_join) return (head_part){h * heads->head_dim, heads->head_dim, 0, out};
    return (head_part){
        0, in, heads->head_column + h / heads->heads_a_part * heads->head_stride, heads->head_dim};
}
