/* build.c: the calls with which a model family, or a user's own model, writes its program.
 *
 * A family reads as the forward pass it describes; so no call here needs a check after it. The
 * first failure is kept in program->status, later calls do nothing and return -1, and
 * program_finish reports it. What is checked here is what could otherwise make a later layer read
 * outside an array: slots that do not exist, widths that do not fit. */
#include "program/program.h"

#include <stdio.h>
#include <string.h>

enum { WIDEST = 1 << 30, MOST_EVENTS = 1 << 28 };

static int32_t fail(program *p, inset_status status)
{
    if (!p->status) p->status = status;
    return -1;
}

/* Room for one more item in an array of the program; sets the status when memory is out. */
static bool room(program *p, void *items, size_t *capacity, size_t count, size_t size)
{
    if (p->status) return false;
    if (count >= MOST_EVENTS) {
        fail(p, error_set(p->context, INSET_VALUE_ERROR,
                    "the model has too many parts: at most %d of a kind", (int)MOST_EVENTS));
        return false;
    }
    if (array_reserve(p->context, items, capacity, count + 1, size)) return true;
    fail(p, INSET_NO_MEMORY);
    return false;
}

static const char *open_path(const program *p)
{
    const char *path = p->modules[p->open_module].path;
    return *path ? path : "the model's root";
}

static bool slot_exists(program *p, int32_t slot, const char *what)
{
    if (p->status) return false;
    if (slot >= 0 && (size_t)slot < p->n_slots) return true;
    fail(p, error_set(p->context, INSET_USAGE_ERROR,
                "in %s: %s is no slot of this program (%d; there are %zu)", open_path(p), what,
                (int)slot, p->n_slots));
    return false;
}

static bool weight_exists(program *p, int32_t weight, const char *what)
{
    if (p->status) return false;
    if (weight >= 0 && (size_t)weight < p->n_weights) return true;
    fail(p, error_set(p->context, INSET_USAGE_ERROR,
                "in %s: %s is no weight of this program (%d; there are %zu)", open_path(p), what,
                (int)weight, p->n_weights));
    return false;
}

static bool width_fits(program *p, const char *what, int64_t expected, int64_t found)
{
    if (p->status) return false;
    if (expected == found) return true;
    fail(p, error_set(p->context, INSET_SHAPE_ERROR,
                "in %s: %s is expected to be %lld wide, found %lld", open_path(p), what,
                (long long)expected, (long long)found));
    return false;
}

/* Columns that a row of the slot has. */
static int32_t slot_width(const program *p, int32_t slot)
{
    const slot_shape *s = &p->slots[slot].shape;
    if (s->n_columns == 0) return 1;
    return s->n_columns == 1 ? s->extent[0] : s->extent[0] * s->extent[1];
}

static void set_columns(slot_shape *shape, int n_columns, const int32_t *extent)
{
    shape->n_columns = (int8_t)n_columns;
    shape->extent[0] = extent[0];
    shape->extent[1] = n_columns == 2 ? extent[1] : 0;
    shape->stride = 0;
}

int32_t slot_column_end(const slot *s)
{
    const slot_shape *shape = &s->shape;
    if (shape->n_columns < 2) return shape->column + (shape->n_columns ? shape->extent[0] : 1);
    return shape->column
           + (shape->extent[0] - 1) * (shape->stride ? shape->stride : shape->extent[1])
           + shape->extent[1];
}

static int32_t add_event(program *p, event_kind kind, int32_t index)
{
    if (!room(p, &p->events, &p->events_capacity, p->n_events, sizeof *p->events)) return -1;
    p->events[p->n_events] = (event){kind, index};
    return (int32_t)p->n_events++;
}

static int32_t add_slot(program *p, slot s)
{
    if (!room(p, &p->slots, &p->slots_capacity, p->n_slots, sizeof *p->slots)) return -1;
    p->slots[p->n_slots] = s;
    return (int32_t)p->n_slots++;
}

/* A slot that takes its binding from another when `event` happens, and shows the same. */
static int32_t add_alias(program *p, int32_t source, int32_t at_event)
{
    if (p->status) return -1;
    slot s = p->slots[source];
    s.source = source;
    s.event = at_event;
    s.whole = false;
    return add_slot(p, s);
}

static int32_t add_site(
    program *p, int32_t in_module, const char *name, int32_t at_event, int32_t at_slot)
{
    if (!room(p, &p->sites, &p->sites_capacity, p->n_sites, sizeof *p->sites)) return -1;
    const char *copy = arena_text(&p->memory, name, strlen(name));
    if (!copy) return fail(p, INSET_NO_MEMORY);
    p->sites[p->n_sites] = (site){
        .module = in_module, .name = copy, .event = at_event, .slot = at_slot};
    return (int32_t)p->n_sites++;
}

/* ---- modules ------------------------------------------------------------ */

static bool name_is_fine(program *p, const char *name)
{
    size_t length = strlen(name);
    bool fine = length > 0 && name[0] != '.' && name[length - 1] != '.' && !strstr(name, "..");
    for (const char *c = name; *c && fine; c++)
        fine = *c == '.' || *c == '_' || (*c >= '0' && *c <= '9') || (*c >= 'a' && *c <= 'z')
               || (*c >= 'A' && *c <= 'Z') || (unsigned char)*c >= 0x80;
    if (!fine)
        fail(p, error_set(p->context, INSET_VALUE_ERROR,
                    "\"%s\" is no name of a module: letters, digits and _, parts apart by one dot",
                    name));
    return fine;
}

static int32_t add_module(program *p, int32_t parent, const char *name, size_t length)
{
    if (!room(p, &p->modules, &p->modules_capacity, p->n_modules, sizeof *p->modules)) return -1;
    const char *above = p->modules[parent].path;
    size_t path_length = strlen(above) + (*above ? 1 : 0) + length;
    char *path = arena_new(&p->memory, path_length + 1);
    if (!path) return fail(p, INSET_NO_MEMORY);
    snprintf(path, path_length + 1, "%s%s%.*s", above, *above ? "." : "", (int)length, name);

    int32_t index = (int32_t)p->n_modules++;
    p->modules[index] = (module){.name = path + path_length - length,
        .path = path,
        .parent = parent,
        .first_child = -1,
        .next_sibling = -1,
        .enter = -1,
        .leave = -1};
    int32_t *link = &p->modules[parent].first_child;
    while (*link >= 0) link = &p->modules[*link].next_sibling;
    *link = index;
    p->modules[parent].n_children++;
    return index;
}

/* The module for a dotted name below the open one: containers on the way are made or found, the
 * last part must be new. */
static int32_t declare_module(program *p, const char *name)
{
    if (p->status || !name_is_fine(p, name)) return -1;
    int32_t parent = p->open_module;
    for (const char *dot; (dot = strchr(name, '.')); name = dot + 1) {
        int32_t child = program_child(p, parent, name, (size_t)(dot - name));
        parent = child >= 0 ? child : add_module(p, parent, name, (size_t)(dot - name));
        if (parent < 0) return -1;
    }
    if (program_child(p, parent, name, strlen(name)) >= 0)
        return fail(p, error_set(p->context, INSET_VALUE_ERROR, "%s has two modules named \"%s\"",
                           open_path(p), name));
    return add_module(p, parent, name, strlen(name));
}

int32_t program_enter(program *p, const char *name, int32_t input)
{
    if (input >= 0 && !slot_exists(p, input, "a module's input")) return -1;
    int32_t index = declare_module(p, name);
    int32_t at = add_event(p, EVENT_ENTER, index);
    if (p->status) return -1;
    p->modules[index].enter = at;
    p->open_module = index;
    if (input < 0) return -1;
    int32_t bound = add_alias(p, input, at);
    add_site(p, index, "input", at, bound);
    return p->status ? -1 : bound;
}

int32_t program_enter_flat(program *p, const char *name, int32_t input)
{
    int32_t bound = program_enter(p, name, input);
    if (bound < 0) return -1;
    const int32_t width = slot_width(p, bound);
    set_columns(&p->slots[bound].shape, 1, &width);
    return bound;
}

int32_t program_leave(program *p, int32_t output)
{
    if (p->status || (output >= 0 && !slot_exists(p, output, "a module's output"))) return -1;
    if (!p->open_module)
        return fail(p, error_set(p->context, INSET_USAGE_ERROR,
                           "program_leave without a module that was entered"));
    int32_t index = p->open_module, at = add_event(p, EVENT_LEAVE, index);
    if (p->status) return -1;
    p->modules[index].leave = at;
    for (p->open_module = p->modules[index].parent;
         p->open_module && p->modules[p->open_module].enter < 0;)
        /* containers are not called: past them */
        p->open_module = p->modules[p->open_module].parent;
    if (output < 0) return -1;
    int32_t bound = add_alias(p, output, at);
    add_site(p, index, "output", at, bound);
    return p->status ? -1 : bound;
}

/* A slot at `event` that shows columns of another. */
static int32_t add_view(program *p, int32_t source, int32_t column, int n_columns,
    const int32_t *extent, int32_t at_event)
{
    if (!slot_exists(p, source, "a named site's source")) return -1;
    int64_t width = extent[0] * (int64_t)(n_columns == 2 ? extent[1] : 1);
    if (n_columns < 1 || n_columns > 2 || column < 0 || width < 1
        || column + width > slot_width(p, source))
        return fail(
            p, error_set(p->context, INSET_SHAPE_ERROR,
                   "in %s: a site of %lld columns from column %d does not fit in %d columns",
                   open_path(p), (long long)width, (int)column, (int)slot_width(p, source)));
    int32_t view = add_alias(p, source, at_event);
    if (view < 0) return -1;
    slot_shape *shape = &p->slots[view].shape;
    shape->column += column;
    set_columns(shape, n_columns, extent);
    return view;
}

static int32_t add_view_site(program *p, int32_t in_module, const char *name, int32_t source,
    int32_t column, int n_columns, const int32_t *extent)
{
    int32_t at = add_event(p, EVENT_SITE, (int32_t)p->n_sites);
    int32_t view = add_view(p, source, column, n_columns, extent, at);
    add_site(p, in_module, name, at, view);
    return p->status ? -1 : view;
}

int32_t program_site_view(program *p, const char *name, int32_t source, int32_t column,
    int n_columns, const int32_t *extent)
{
    return add_view_site(p, p->open_module, name, source, column, n_columns, extent);
}

int32_t program_site_of(program *p, int32_t in_module, const char *name, int32_t source,
    int n_columns, const int32_t *extent)
{
    return add_view_site(p, in_module, name, source, 0, n_columns, extent);
}

int32_t program_site_heads(program *p, const char *name, int32_t source, int32_t column,
    int32_t n_heads, int32_t head_dim, int32_t stride)
{
    const int32_t heads[2] = {n_heads, head_dim};
    if (n_heads < 1 || head_dim < 1 || stride < head_dim
        || (int64_t)(n_heads - 1) * stride > WIDEST)
        return fail(
            p, error_set(p->context, INSET_SHAPE_ERROR, "in %s: %d heads of %d columns, %d apart",
                   open_path(p), (int)n_heads, (int)head_dim, (int)stride));
    int32_t bound = program_site_view(p, name, source, column, 2, heads);
    if (bound < 0) return -1;
    p->slots[bound].shape.stride = stride;
    if (slot_column_end(&p->slots[bound]) <= p->values[p->slots[bound].value].width) return bound;
    return fail(p, error_set(p->context, INSET_SHAPE_ERROR,
                       "in %s: %d heads, %d columns apart, do not fit in %d columns", open_path(p),
                       (int)n_heads, (int)stride, (int)p->values[p->slots[bound].value].width));
}

int32_t program_slot_heads(program *p, int32_t source, int32_t column, int32_t n_heads,
    int32_t head_dim, int32_t stride, int32_t event)
{
    const int32_t heads[2] = {n_heads, head_dim};
    int32_t bound = add_view(p, source, column, 2, heads, event);
    if (bound >= 0) p->slots[bound].shape.stride = stride;
    return bound;
}

int32_t program_site_view_last(program *p, const char *name, int32_t source, int32_t column,
    int n_columns, const int32_t *extent)
{
    int32_t at = (int32_t)p->n_events - 1;
    int32_t view = add_view(p, source, column, n_columns, extent, at);
    add_site(p, p->open_module, name, at, view);
    return p->status ? -1 : view;
}

int32_t program_enter_site(program *p, const char *name, int32_t input, const char *site_name,
    int n_columns, const int32_t *extent)
{
    int32_t outer = p->open_module, bound = program_enter(p, name, input), view = bound;
    if (!slot_exists(p, bound, "the module's input")) return -1;
    if (n_columns == 2) {
        view = add_view(p, bound, 0, n_columns, extent, p->slots[bound].event);
        if (view < 0 || !width_fits(p, site_name, slot_width(p, bound), slot_width(p, view)))
            return -1;
        p->slots[view].whole = true;
    }
    add_site(p, outer, site_name, p->slots[bound].event, view);
    return p->status ? -1 : bound;
}

int32_t program_sites_of_parts(
    program *p, const char *name, int32_t source, int32_t n, int32_t width)
{
    const int32_t at = add_event(p, EVENT_SITE, (int32_t)p->n_sites);
    int32_t first = -1;
    for (int32_t i = 0; i < n && !p->status; i++) {
        char number[16];
        const size_t length = (size_t)snprintf(number, sizeof number, "%d", (int)i);
        int32_t part = program_child(p, p->open_module, number, length);
        if (part < 0) part = add_module(p, p->open_module, number, length);
        const int32_t view = add_view(p, source, i * width, 1, &width, at);
        add_site(p, part, name, at, view);
        if (!i) first = view;
    }
    return p->status ? -1 : first;
}

/* ---- weights ------------------------------------------------------------ */

static int32_t add_weight(program *p, weight w)
{
    if (!room(p, &p->weights, &p->weights_capacity, p->n_weights, sizeof *p->weights)) return -1;
    if (w.rows < 1 || w.columns < 1 || w.rows > WIDEST || w.columns > WIDEST)
        return fail(p, error_set(p->context, INSET_SHAPE_ERROR, "weight %s has the shape [%d, %d]",
                           w.name, (int)w.rows, (int)w.columns));
    w.name = arena_text(&p->memory, w.name, strlen(w.name));
    if (!w.name) return fail(p, INSET_NO_MEMORY);
    p->weights[p->n_weights] = w;
    return (int32_t)p->n_weights++;
}

int32_t program_weight(
    program *p, weight_role role, const char *name, int32_t rows, int32_t columns)
{
    return add_weight(
        p, (weight){.name = name, .role = role, .rows = rows, .columns = columns, .same_as = -1});
}

int32_t program_weight_in_out(program *p, const char *name, int32_t rows, int32_t columns)
{
    return add_weight(p, (weight){.name = name,
                             .role = WEIGHT_MATRIX,
                             .rows = rows,
                             .columns = columns,
                             .in_out = true,
                             .same_as = -1});
}

int32_t program_weight_tied(program *p, const char *name, int32_t same_as)
{
    if (!weight_exists(p, same_as, "a tied weight's other")) return -1;
    const weight *other = &p->weights[same_as];
    return add_weight(p, (weight){.name = name,
                             .role = WEIGHT_MATRIX,
                             .rows = other->rows,
                             .columns = other->columns,
                             .same_as = same_as});
}

void program_weight_also(program *p, int32_t index, const char *name)
{
    if (!weight_exists(p, index, "the weight")) return;
    if (!(name = arena_text(&p->memory, name, strlen(name)))) fail(p, INSET_NO_MEMORY);
    else p->weights[index].also = name;
}

void program_weight_stacked(
    program *p, int32_t index, const char *name, const int32_t stack[3], int64_t first)
{
    if (!weight_exists(p, index, "the weight")) return;
    weight *w = &p->weights[index];
    if (!(w->stacked = arena_text(&p->memory, name, strlen(name)))) fail(p, INSET_NO_MEMORY);
    memcpy(w->stack, stack, sizeof w->stack);
    w->stack_first = first;
}

void program_module_also(program *p, int32_t index, const char *name)
{
    if (p->status || index < 0 || (size_t)index >= p->n_modules) return;
    if (!(name = arena_text(&p->memory, name, strlen(name)))) fail(p, INSET_NO_MEMORY);
    else p->modules[index].also = name;
}

/* ---- steps -------------------------------------------------------------- */

int32_t program_step(program *p, const step *like, int32_t width, int32_t a, int32_t b, int32_t c)
{
    step s = *like;
    const int32_t operands[3] = {a, b, c};
    /* a sum of something a sequence and something a position is one a sequence */
    bool per_position = a >= 0;
    for (s.n_operands = 0; s.n_operands < 3 && operands[s.n_operands] >= 0; s.n_operands++) {
        int32_t operand = operands[s.n_operands];
        if (!slot_exists(p, operand, "an operand")) return -1;
        const slot_shape *shape = &p->slots[operand].shape;
        if (shape->stride && shape->stride != shape->extent[1] && s.kind != STEP_ROPE)
            return fail(p, error_set(p->context, INSET_SHAPE_ERROR,
                               "in %s: heads that lie apart must go through a rotary step first",
                               open_path(p)));
        s.operands[s.n_operands] = operand;
        per_position = per_position && p->values[p->slots[operand].value].per_position;
    }
    for (int32_t i = s.n_operands; i < 3; i++) s.operands[i] = -1;
    if (p->status) return -1;
    if (width < 1 || width > WIDEST)
        return fail(p, error_set(p->context, INSET_SHAPE_ERROR, "in %s: a value of %d columns",
                           open_path(p), (int)width));
    if (!room(p, &p->steps, &p->steps_capacity, p->n_steps, sizeof *p->steps)
        || !room(p, &p->values, &p->values_capacity, p->n_values, sizeof *p->values))
        return -1;
    s.value = (int32_t)p->n_values;
    s.event = add_event(p, EVENT_STEP, (int32_t)p->n_steps);
    slot made = {.source = -1,
        .value = s.value,
        .event = s.event,
        .settable = true,
        .shape = {.has_position = p->input_width == 0,
            .has_batch = true,
            .n_columns = 1,
            .extent = {width, 0}}};
    int32_t bound = add_slot(p, made);
    if (p->status) return -1;
    p->values[p->n_values++] = (value){
        .width = width, .step = (int32_t)p->n_steps, .per_position = per_position};
    p->steps[p->n_steps++] = s;
    return bound;
}

static const step plain_step = {.weight = -1,
    .bias = -1,
    .scale = 1,
    .norm_groups = 1,
    .rope_attention_scale = 1,
    .of = -1,
    .through = -1,
    .again = -1};

step program_like(step_kind kind)
{
    step s = plain_step;
    s.kind = kind;
    return s;
}

/* Token ids and positions: integers that nobody sets, without a dimension for columns. */
static int32_t add_integers(program *p, step_kind kind, bool per_position)
{
    step s = program_like(kind);
    int32_t bound = program_step(p, &s, 1, -1, -1, -1);
    if (bound < 0) return -1;
    value *v = &p->values[p->slots[bound].value];
    v->integer = true;
    v->per_position = per_position;
    p->slots[bound].settable = false;
    p->slots[bound].shape.n_columns = 0;
    return bound;
}

int32_t program_tokens(program *p) { return p->tokens_slot = add_integers(p, STEP_TOKENS, false); }
int32_t program_positions(program *p) { return add_integers(p, STEP_POSITIONS, true); }

int32_t program_input(program *p, int32_t width)
{
    if (p->status) return -1;
    p->input_width = width;
    step s = program_like(STEP_INPUT);
    return p->tokens_slot = program_step(p, &s, width, -1, -1, -1);
}

int32_t program_embed(program *p, int32_t ids, int32_t table)
{
    if (!slot_exists(p, ids, "the ids") || !weight_exists(p, table, "the table")) return -1;
    step s = program_like(STEP_EMBED);
    s.weight = table;
    return program_step(p, &s, p->weights[table].columns, ids, -1, -1);
}

int32_t program_embed_positions(program *p, int32_t tokens, int32_t table, int32_t first_row)
{
    const int32_t made = program_embed(p, tokens, table);
    if (made < 0) return made;
    p->steps[p->n_steps - 1].by_position = true;
    p->steps[p->n_steps - 1].first_row = first_row;
    return made;
}

int32_t program_embed_row(program *p, int32_t tokens, int32_t table, int32_t row)
{
    const int32_t made = program_embed(p, tokens, table);
    if (made < 0) return made;
    p->steps[p->n_steps - 1].one_row = true;
    p->steps[p->n_steps - 1].first_row = row;
    return made;
}

int32_t program_linear(program *p, int32_t x, int32_t matrix, int32_t bias)
{
    if (!slot_exists(p, x, "the input") || !weight_exists(p, matrix, "the matrix")) return -1;
    const weight *w = &p->weights[matrix];
    int32_t in = w->in_out ? w->rows : w->columns, out = w->in_out ? w->columns : w->rows;
    if (!width_fits(p, "the input of a linear step", in, slot_width(p, x))) return -1;
    if (bias >= 0
        && (!weight_exists(p, bias, "the bias")
            || !width_fits(p, "the bias", out, p->weights[bias].columns)))
        return -1;
    step s = program_like(STEP_LINEAR);
    s.weight = matrix;
    s.bias = bias;
    return program_step(p, &s, out, x, -1, -1);
}

/* The named site .scale: a value of its own, which the norm behind it computes without showing it.
 * Returns its slot. */
static int32_t add_norm_scale(program *p, const step *norm, int32_t x)
{
    for (size_t i = 0; i < p->n_sites; i++)
        if (p->sites[i].module == p->open_module && strcmp(p->sites[i].name, "scale") == 0)
            return -1;
    step s = *norm;
    s.kind = STEP_NORM_SCALE;
    s.weight = s.bias = -1;
    int32_t made = program_step(p, &s, s.norm_groups, x, -1, -1);
    if (made < 0) return -1;
    const int32_t heads[2] = {s.norm_groups, 1};
    /* a norm over heads, be it one head, shows a number for each */
    const slot_shape *of = &p->slots[x].shape;
    if (s.norm_groups > 1 || (of->n_columns == 2 && of->extent[0] == 1))
        set_columns(&p->slots[made].shape, 2, heads);
    int32_t at = add_event(p, EVENT_SITE, (int32_t)p->n_sites), shown = add_alias(p, made, at);
    add_site(p, p->open_module, "scale", at, shown);
    return shown;
}

/* A norm's weight and bias must be as wide as a row, or as one of its groups. */
static int32_t add_norm(program *p, step s, int32_t x)
{
    if (!slot_exists(p, x, "the input")) return -1;
    int32_t width = slot_width(p, x);
    if (s.norm_groups < 1 || width % s.norm_groups)
        return fail(p, error_set(p->context, INSET_SHAPE_ERROR,
                           "in %s: %d columns do not make %d equal groups", open_path(p),
                           (int)width, (int)s.norm_groups));
    const int32_t vectors[2] = {s.weight, s.bias};
    for (int i = 0; i < 2; i++)
        if (vectors[i] >= 0
            && (!weight_exists(p, vectors[i], "a norm's weight")
                || !width_fits(
                    p, "a norm's weight", width / s.norm_groups, p->weights[vectors[i]].columns)))
            return -1;
    int32_t scale = add_norm_scale(p, &s, x), bound = program_step(p, &s, width, x, -1, -1);
    if (bound >= 0) p->steps[p->n_steps - 1].operands[1] = scale;
    if (bound >= 0 && p->slots[x].shape.n_columns == 2) /* a norm over heads gives heads */
        set_columns(&p->slots[bound].shape, 2, p->slots[x].shape.extent);
    return bound;
}

int32_t program_layernorm(program *p, int32_t x, int32_t scale, int32_t bias, float eps)
{
    step s = program_like(STEP_LAYERNORM);
    s.weight = scale;
    s.bias = bias;
    s.eps = eps;
    s.norm_centred = true;
    return add_norm(p, s, x);
}

int32_t program_rmsnorm(
    program *p, int32_t x, int32_t scale, float eps, rms_weight when, int32_t groups)
{
    step s = program_like(STEP_RMSNORM);
    s.weight = scale;
    s.bias = -1;
    s.eps = eps;
    s.rms_weight = when;
    s.norm_groups = groups;
    return add_norm(p, s, x);
}

int32_t program_activation(program *p, int32_t x, activation kind)
{
    if (!slot_exists(p, x, "the input")) return -1;
    step s = program_like(STEP_ACTIVATION);
    s.activation = kind;
    return program_step(p, &s, slot_width(p, x), x, -1, -1);
}

/* A step on operands of one width, elementwise. */
static int32_t add_elementwise(program *p, step s, int32_t a, int32_t b, int32_t c)
{
    if (!slot_exists(p, a, "an operand") || !slot_exists(p, b, "an operand")
        || (c >= 0 && !slot_exists(p, c, "an operand")))
        return -1;
    int32_t width = slot_width(p, a);
    if (!width_fits(p, "an operand", width, slot_width(p, b))) return -1;
    if (c >= 0 && !width_fits(p, "an operand", width, slot_width(p, c))) return -1;
    return program_step(p, &s, width, a, b, c);
}

int32_t program_add(program *p, int32_t a, int32_t b, int32_t c)
{
    return add_elementwise(p, program_like(STEP_ADD), a, b, c);
}
int32_t program_gate(program *p, int32_t a, int32_t b)
{
    return add_elementwise(p, program_like(STEP_GATE), a, b, -1);
}

int32_t program_scale(program *p, int32_t x, float scale)
{
    if (!slot_exists(p, x, "the input")) return -1;
    step s = program_like(STEP_SCALE);
    s.scale = scale;
    return program_step(p, &s, slot_width(p, x), x, -1, -1);
}

int32_t program_scale_in_fp32(program *p, int32_t x, float scale)
{
    const int32_t made = program_scale(p, x, scale);
    if (made >= 0) p->steps[p->n_steps - 1].scale_in_fp32 = true;
    return made;
}

int32_t program_softcap(program *p, int32_t x, float cap)
{
    if (!slot_exists(p, x, "the input")) return -1;
    step s = program_like(STEP_SOFTCAP);
    s.scale = cap;
    return program_step(p, &s, slot_width(p, x), x, -1, -1);
}

int32_t program_rope(program *p, int32_t x, int32_t n_heads, int32_t head_dim, const rotation *how)
{
    if (!slot_exists(p, x, "the input")
        || !width_fits(
            p, "the input of a rotary embedding", (int64_t)n_heads * head_dim, slot_width(p, x)))
        return -1;
    if (how->dims < 0 || how->dims % 2 || how->dims > head_dim)
        return fail(p, error_set(p->context, INSET_VALUE_ERROR,
                           "in %s: %d rotary dimensions of a head of %d: an even number is needed",
                           open_path(p), (int)how->dims, (int)head_dim));
    step s = program_like(STEP_ROPE);
    s.n_heads = n_heads;
    s.head_dim = head_dim;
    s.rotary_dims = how->dims;
    s.frequencies = how->frequencies;
    s.rope_attention_scale = how->attention_scale;
    s.rope_round_once = how->round_once;
    s.rope_interleaved = how->interleaved;
    return program_step(p, &s, slot_width(p, x), x, -1, -1);
}

/* The named sites .scores and .pattern: values of their own, which the fused attention computes
 * without showing them. */
static void add_open_attention(program *p, int32_t q, int32_t k, const step *attention)
{
    static const struct {
        step_kind kind;
        const char *name;
    } shown[] = {{STEP_SCORES, "scores"}, {STEP_PATTERN, "pattern"}};
    int32_t before = -1;
    for (int i = 0; i < 2 && !p->status; i++) {
        step s = *attention;
        s.kind = shown[i].kind;
        int32_t made = program_step(p, &s, s.n_heads, i ? before : q, i ? -1 : k, -1);
        if (made < 0) return;
        p->slots[made].shape.n_columns = 2;
        p->slots[made].shape.extent[1] = 0;
        p->slots[made].shape.by_keys = true;
        p->values[p->slots[made].value].by_keys = true;
        int32_t at = add_event(p, EVENT_SITE, (int32_t)p->n_sites);
        before = add_alias(p, made, at);
        add_site(p, p->open_module, shown[i].name, at, before);
    }
}

int32_t program_attention(program *p, int32_t q, int32_t k, int32_t v, const step *like)
{
    if (!slot_exists(p, q, "q") || !slot_exists(p, k, "k") || !slot_exists(p, v, "v")) return -1;
    step s = *like;
    s.kind = STEP_ATTENTION;
    s.bias = -1;
    if (s.weight >= 0
        && (!weight_exists(p, s.weight, "the sinks")
            || !width_fits(p, "the sinks", s.n_heads, p->weights[s.weight].columns)))
        return -1;
    if (s.n_heads < 1 || s.n_kv_heads < 1 || s.head_dim < 1 || s.n_heads % s.n_kv_heads
        || s.head_dim > PROGRAM_MAX_HEAD_DIM)
        return fail(p, error_set(p->context, INSET_VALUE_ERROR,
                           "in %s: attention with %d heads, %d key-value heads, %d numbers a head; "
                           "heads must divide by "
                           "key-value heads, and a head has at most %d numbers",
                           open_path(p), (int)s.n_heads, (int)s.n_kv_heads, (int)s.head_dim,
                           (int)PROGRAM_MAX_HEAD_DIM));
    if (!width_fits(p, "q", (int64_t)s.n_heads * s.head_dim, slot_width(p, q))
        || !width_fits(p, "k", (int64_t)s.n_kv_heads * s.head_dim, slot_width(p, k))
        || !width_fits(p, "v", (int64_t)s.n_kv_heads * s.head_dim, slot_width(p, v)))
        return -1;
    p->both_ways |= s.both_ways;
    add_open_attention(p, q, k, &s);
    step pair = program_like(STEP_PAIR);
    program_step(p, &pair, slot_width(p, k) + slot_width(p, v), k, v, -1);
    return program_step(p, &s, s.n_heads * s.head_dim, q, k, v);
}

/* ---- modules of one step ------------------------------------------------ */

int32_t program_linear_module(program *p, const char *name, int32_t x, int32_t matrix, int32_t bias)
{
    return program_leave(p, program_linear(p, program_enter(p, name, x), matrix, bias));
}

int32_t program_layernorm_module(
    program *p, const char *name, int32_t x, int32_t scale, int32_t bias, float eps)
{
    return program_leave(p, program_layernorm(p, program_enter(p, name, x), scale, bias, eps));
}

int32_t program_rmsnorm_module(program *p, const char *name, int32_t x, int32_t scale, float eps,
    rms_weight when, int32_t groups)
{
    return program_leave(
        p, program_rmsnorm(p, program_enter(p, name, x), scale, eps, when, groups));
}

int32_t program_activation_module(program *p, const char *name, int32_t x, activation kind)
{
    return program_leave(p, program_activation(p, program_enter(p, name, x), kind));
}

int32_t program_embed_module(program *p, const char *name, int32_t ids, int32_t table)
{
    return program_leave(p, program_embed(p, program_enter(p, name, ids), table));
}

int32_t program_identity_module(program *p, const char *name, int32_t x)
{
    return program_leave(p, program_enter(p, name, x));
}

void program_block(program *p, int32_t slot)
{
    if (!slot_exists(p, slot, "a block's input")
        || !room(p, &p->blocks, &p->blocks_capacity, p->n_blocks, sizeof *p->blocks))
        return;
    p->blocks[p->n_blocks++] = slot;
}

void program_logits(program *p, int32_t slot)
{
    if (!slot_exists(p, slot, "the logits")) return;
    int32_t output = declare_module(p, "output"),
            at = add_event(p, EVENT_SITE, (int32_t)p->n_sites);
    if (p->status) return;
    add_site(p, output, "logits", at, add_alias(p, slot, at));
}
