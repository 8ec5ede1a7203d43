/* trace.c: building a trace: invokes, sites in order, replacement, skip, stop, save. Each call
 * checks first and records last. */
#include "trace/edit.h"
#include "trace/heads.h"

#include <stdio.h>
#include <string.h>

inset_status trace_create(
    inset_context *context, const program *p, inset_type model_type, trace **out)
{
    *out = NULL;
    trace *t = memory_new(context, sizeof *t);
    if (!t) return INSET_NO_MEMORY;
    t->context = context;
    t->program = p;
    t->model_type = model_type;
    arena_start(&t->memory, context);
    *out = t;
    return INSET_OK;
}

void trace_set_text_source(trace *t, const text_source *source) { t->texts = *source; }

const text_source *trace_text_source(const trace *t) { return &t->texts; }

void trace_free(trace *t)
{
    if (!t) return;
    for (size_t i = 0; i < t->n_invokes; i++) {
        memory_free(t->context, t->invokes[i].rebindings);
        memory_free(t->context, t->invokes[i].skips);
        memory_free(t->context, t->invokes[i].values);
    }
    edits_free(t);
    memory_free(t->context, t->head_records);
    memory_free(t->context, t->storages);
    memory_free(t->context, t->records);
    memory_free(t->context, t->invokes);
    memory_free(t->context, t->saves);
    memory_free(t->context, t->metrics);
    memory_free(t->context, t->answers);
    memory_free(t->context, (void *)t->matrices);
    trace_end_backward(t);
    reversal_free(t->context, t->reversal);
    arena_free(&t->memory);
    memory_free(t->context, t);
}

arena *trace_arena(trace *t) { return &t->memory; }
inset_context *trace_context(trace *t) { return t->context; }
const program *trace_program(const trace *t) { return t->program; }
bool trace_in_invoke(const trace *t) { return t->open; }
void trace_line(trace *t, int32_t line) { t->line = line; }
void trace_begin_script(trace *t) { t->script++; }
void trace_without_invokes(trace *t) { t->without_invokes = true; }

inset_status trace_end_invoke(trace *t)
{
    inset_status status = edits_finish(t);
    t->open = false;
    return status;
}

/* Where lines are in the model: the invoke, or the edit. */
static invoke *current(trace *t)
{
    return t->edit ? &t->edit->place : &t->invokes[t->n_invokes - 1];
}

/* ---- invokes ------------------------------------------------------------ */

static inset_status begin_invoke(
    trace *t, int64_t n_sequences, const int64_t *lengths, invoke **out)
{
    if (t->without_invokes)
        return error_set(t->context, INSET_USAGE_ERROR,
            "these lines are the model's edit: invokes belong to traces that are made after it");
    inset_status status = edits_finish(t);
    if (!status) status = trace_end_edit(t);
    if (status) return status;
    trace_end_backward(t);
    if (n_sequences < 1)
        return error_set(t->context, INSET_VALUE_ERROR,
            "an invoke needs at least one sequence, found an empty batch");
    if (n_sequences > INT32_MAX / 2)
        return error_set(t->context, INSET_VALUE_ERROR,
            "an invoke of %lld sequences is more than inset holds", (long long)n_sequences);
    if (!array_reserve(
            t->context, &t->invokes, &t->invokes_capacity, t->n_invokes + 1, sizeof *t->invokes))
        return INSET_NO_MEMORY;
    int32_t *copy = arena_new(&t->memory, (size_t)n_sequences * sizeof *copy);
    if (!copy) return INSET_NO_MEMORY;
    invoke *v = &t->invokes[t->n_invokes];
    *v = (invoke){.n_sequences = (int32_t)n_sequences,
        .lengths = copy,
        .first_token = t->n_tokens,
        .first_record = t->n_records,
        .line = t->line,
        .current_event = -1,
        .current_site = -1};
    for (int64_t i = 0; i < n_sequences; i++) {
        copy[i] = lengths ? (int32_t)lengths[i] : 1;
        if (copy[i] > v->longest) v->longest = copy[i];
    }
    *out = v;
    return INSET_OK;
}

/* The invoke is there, and the edits that stand before the model; where one fails, it is not. */
static inset_status commit_invoke(trace *t, int64_t n_tokens)
{
    const size_t metrics = t->n_metrics, answers = t->n_answers;
    t->n_tokens += n_tokens;
    t->n_invokes++;
    t->open = true;
    inset_status status = edits_begin(t);
    if (!status) return INSET_OK;
    invoke *v = current(t);
    memory_free(t->context, v->rebindings);
    memory_free(t->context, v->skips);
    memory_free(t->context, v->values);
    t->n_records = v->first_record;
    t->n_metrics = metrics;
    t->n_answers = answers;
    t->n_tokens -= n_tokens;
    t->n_invokes--;
    t->open = false;
    return status;
}

inset_status trace_invoke_tokens(
    trace *t, int64_t n_sequences, const int64_t *lengths, const int64_t *tokens)
{
    const program *p = t->program;
    if (p->input_width)
        return error_set(t->context, INSET_TYPE_ERROR,
            "this model takes rows of %d numbers, not token ids", p->input_width);
    if (n_sequences < 1)
        return error_set(t->context, INSET_VALUE_ERROR,
            "an invoke needs at least one prompt, found an empty batch");
    int64_t count = 0;
    for (int64_t s = 0; s < n_sequences; s++) {
        if (lengths[s] < 1)
            return error_set(t->context, INSET_VALUE_ERROR,
                "prompt %lld is empty; a prompt needs at least one token", (long long)s);
        if (p->max_positions && lengths[s] > p->max_positions)
            return error_set(t->context, INSET_VALUE_ERROR,
                "prompt %lld has %lld tokens, and the model has %d positions", (long long)s,
                (long long)lengths[s], p->max_positions);
        for (int64_t i = 0; i < lengths[s]; i++)
            if (tokens[count + i] < 0 || tokens[count + i] >= p->vocabulary)
                return error_set(t->context, INSET_INDEX_ERROR,
                    "token %lld (prompt %lld, position %lld) is outside the vocabulary of %d",
                    (long long)tokens[count + i], (long long)s, (long long)i, p->vocabulary);
        count += lengths[s];
        if (lengths[s] > INT32_MAX / 2 || count > INT32_MAX / 2)
            return error_set(t->context, INSET_VALUE_ERROR,
                "an invoke of %lld tokens is more than inset holds", (long long)count);
    }
    invoke *v;
    inset_status status = begin_invoke(t, n_sequences, lengths, &v);
    if (status) return status;
    v->tokens = arena_copy(&t->memory, tokens, (size_t)count * sizeof *tokens);
    if (!v->tokens) return INSET_NO_MEMORY;
    return commit_invoke(t, count);
}

inset_status trace_invoke_rows(trace *t, int64_t n_sequences, int64_t width, const float *rows)
{
    const program *p = t->program;
    if (!p->input_width)
        return error_set(t->context, INSET_TYPE_ERROR,
            "this model takes token ids (integers below %d), not rows of numbers", p->vocabulary);
    if (width != p->input_width)
        return error_set(t->context, INSET_SHAPE_ERROR,
            "the model takes rows of %d numbers, found shape (%lld, %lld)", p->input_width,
            (long long)n_sequences, (long long)width);
    invoke *v;
    inset_status status = begin_invoke(t, n_sequences, NULL, &v);
    if (status) return status;
    v->rows = arena_copy(&t->memory, rows, (size_t)(n_sequences * width) * sizeof *rows);
    if (!v->rows) return INSET_NO_MEMORY;
    return commit_invoke(t, n_sequences);
}

static inset_status invoke_rows_operand(
    trace *t, const view *v, const storage *s, int64_t n, int64_t width)
{
    float *rows = memory_new(t->context, (size_t)(n * width) * sizeof *rows);
    if (!rows) return INSET_NO_MEMORY;
    for (int64_t i = 0; i < n * width; i++)
        rows[i] = (float)element_get(s->type,
            (const char *)s->data
                + (size_t)(v->spans[0].start * s->width + v->column + i) * type_size(s->type));
    inset_status status = trace_invoke_rows(t, n, width, rows);
    memory_free(t->context, rows);
    return status;
}

static inset_status invoke_tokens_operand(
    trace *t, const view *v, const storage *s, int64_t n, int64_t length)
{
    if (type_is_float(s->type) || s->type == INSET_BOOL)
        return error_set(t->context, INSET_TYPE_ERROR,
            "token ids are integers, found a tensor of %s", type_torch_name(s->type));
    int64_t *tokens = memory_new(t->context, (size_t)(n * length + n) * sizeof *tokens),
            *lengths = tokens ? tokens + n * length : NULL;
    if (!tokens) return INSET_NO_MEMORY;
    for (int64_t i = 0; i < n * length; i++) {
        const char *at = (const char *)s->data
                         + (size_t)(v->spans[0].start * s->width + v->column + i)
                               * type_size(s->type);
        if (s->type == INSET_I64) memcpy(&tokens[i], at, sizeof tokens[i]);
        else tokens[i] = (int64_t)element_get(s->type, at);
    }
    for (int64_t i = 0; i < n; i++) lengths[i] = length;
    inset_status status = trace_invoke_tokens(t, n, lengths, tokens);
    memory_free(t->context, tokens);
    return status;
}

inset_status trace_invoke_operand(trace *t, const operand *input)
{
    const char *wanted = t->program->input_width ? "numbers [batch, in]"
                                                 : "token ids [batch, position]";
    if (input->kind != OPERAND_TENSOR)
        return error_set(
            t->context, INSET_TYPE_ERROR, "an invoke takes %s, found a number", wanted);
    inset_status status = edit_check(t, input, NULL);
    if (!status && input->edit)
        status = error_set(
            t->context, INSET_TYPE_ERROR, "a value of an edit() can be no invoke's input");
    if (status) return status;
    const storage *s = &t->storages[input->view.storage];
    if (s->kind != STORAGE_EXTERNAL || s->changed)
        return error_set(t->context, INSET_TYPE_ERROR,
            "an invoke's input is a literal or a loaded tensor that no line changes");
    if (s->there)
        return error_set(t->context, INSET_TYPE_ERROR,
            "an invoke's input is a tensor in host memory, found one on the device");
    const view *v = &input->view;
    int64_t elements = view_elements(v);
    bool whole = elements == s->lengths[0] * s->width;
    if (v->n_dimensions < 1 || v->n_dimensions > 2 || !whole) {
        char shape[128];
        view_shape_text(v, shape, sizeof shape);
        return error_set(
            t->context, INSET_SHAPE_ERROR, "an invoke takes %s, found shape %s", wanted, shape);
    }
    int64_t last = v->dimensions[v->n_dimensions - 1].extent,
            n = v->n_dimensions == 2 ? v->dimensions[0].extent : 1;
    return t->program->input_width ? invoke_rows_operand(t, v, s, n, last)
                                   : invoke_tokens_operand(t, v, s, n, last);
}

/* ---- order -------------------------------------------------------------- */

enum { SITE_NAME = 512 };

static inset_status out_of_order(trace *t, const char *wanted)
{
    const invoke *v = current(t);
    char before[SITE_NAME] = "";
    program_site_name(t->program, v->current_site, before, sizeof before);
    inset_status status = error_set(t->context, INSET_OUT_OF_ORDER,
        "Value was missed for model.%s.i0. Did you call an Envoy out of order?", wanted);
    if (v->current_line)
        error_help(t->context, "%s (line %d) comes after %s; ask for %s first.", before,
            v->current_line, wanted, wanted);
    else
        error_help(t->context, "%s was asked for before and comes after %s; ask for %s first.",
            before, wanted, wanted);
    return status;
}

static inset_status after_stop(trace *t, const char *what)
{
    const invoke *v = current(t);
    inset_status status = error_set(
        t->context, INSET_MISSED_PROVIDER, "%s is never reached: the invoke ends at stop()", what);
    if (v->stop_line)
        error_help(t->context, "stop() (line %d) ended this invoke; put the line before it.",
            v->stop_line);
    return status;
}

static inset_status need_invoke(trace *t, const char *what)
{
    if (t->backward)
        return error_set(t->context, INSET_SYNTAX_ERROR,
            "inside backward() there are only gradients: bind %s to a name before, and ask for "
            "NAME.grad",
            what);
    if (t->edit) return INSET_OK;
    if (!t->open)
        return error_set(t->context, INSET_NAME_ERROR,
            "%s is a place in a run; it is only there inside an invoke", what);
    return current(t)->stopped ? after_stop(t, what) : INSET_OK;
}

/* Is the event in no module that is skipped? */
static inset_status check_skips(trace *t, int32_t event, const char *name)
{
    const invoke *v = current(t);
    for (size_t i = 0; i < v->n_skips; i++) {
        if (event <= v->skips[i].enter || event >= v->skips[i].leave) continue;
        const char *path = t->program->modules[v->skips[i].module].path;
        inset_status status = error_set(t->context, INSET_MISSED_PROVIDER,
            "model.%s.i0 is never reached: %s is skipped", name, path);
        if (v->skips[i].line)
            error_help(t->context, "%s.skip (line %d%s) leaves out everything inside the module.",
                path, v->skips[i].line, v->skips[i].edit ? ", in edit()" : "");
        else if (v->skips[i].edit)
            error_help(t->context, "An edit skips %s and everything inside it.", path);
        return status;
    }
    return INSET_OK;
}

/* Is the event reached, and not passed already? */
static inset_status check_order(trace *t, int32_t event, const char *name)
{
    inset_status status = check_skips(t, event, name);
    if (status) return status;
    return event < current(t)->current_event ? out_of_order(t, name) : INSET_OK;
}

static inset_status reached(trace *t, int32_t event, int32_t site)
{
    inset_status status = t->edit ? INSET_OK : heads_go_on(t, event);
    if (status) return status;
    invoke *v = current(t);
    v->current_event = event;
    v->current_site = site;
    v->current_line = t->line;
    return INSET_OK;
}

/* Whether the open invoke can go on to a site: what no error needs is not spelt out. */
static inset_status may_reach(trace *t, int32_t site_index)
{
    const int32_t event = t->program->sites[site_index].event;
    char name[SITE_NAME];
    if (!t->backward && t->open && !current(t)->stopped && !current(t)->n_skips
        && event >= current(t)->current_event)
        return INSET_OK;
    program_site_name(t->program, site_index, name, sizeof name);
    inset_status status = need_invoke(t, name);
    return status ? status : check_order(t, event, name);
}

/* Edits come before the line that goes on to their place; they may skip where it wants to go. */
static inset_status edits_first(trace *t, int32_t event, const char *name)
{
    inset_status status = edits_wait(t) ? edits_go_on(t, event) : INSET_OK;
    return status ? status : check_skips(t, event, name);
}

inset_status trace_site(trace *t, int32_t site_index, operand *out)
{
    const site *s = &t->program->sites[site_index];
    inset_status status = may_reach(t, site_index);
    if (!status && edits_wait(t) && !(status = edits_go_on(t, s->event)))
        status = may_reach(t, site_index); /* an edit may skip it */
    if (status) return status;
    if (t->edit) {
        status = reached(t, s->event, site_index);
        return status ? status
                      : edit_add(t, (edit_entry){.kind = EDIT_SITE, .place = site_index}, out);
    }
    operand result = {.kind = OPERAND_TENSOR,
        .unchangeable = !t->program->slots[s->slot].settable,
        .output_of = strcmp(s->name, "output") ? 0 : site_index + 1};
    if ((status = view_of_slot(t, (int32_t)t->n_invokes - 1, s->slot, &result.view))
        || (status = reached(t, s->event, site_index)))
        return status;
    *out = result;
    return INSET_OK;
}

/* ---- replacement, skip, stop -------------------------------------------- */

static inset_status rebind(trace *t, int32_t slot, const view *v)
{
    invoke *now = current(t);
    const view *kept = view_keep(t, v);
    if (!kept
        || !array_reserve(t->context, &now->rebindings, &now->rebindings_capacity,
            now->n_rebindings + 1, sizeof *now->rebindings))
        return INSET_NO_MEMORY;
    for (size_t i = 0; i < now->n_rebindings; i++)
        if (now->rebindings[i].slot == slot) {
            now->rebindings[i].view = kept;
            return INSET_OK;
        }
    now->rebindings[now->n_rebindings++] = (rebinding){slot, kept};
    return INSET_OK;
}

/* Same extents, sequence by sequence; a dense tensor will do for a ragged one, whose ends it
 * pads. */
static bool same_shape(const view *a, const view *b)
{
    if (a->n_dimensions != b->n_dimensions) return false;
    for (int i = 0; i < a->n_dimensions; i++) {
        if (a->dimensions[i].extent != b->dimensions[i].extent) return false;
        bool ragged = a->dimensions[i].ragged || b->dimensions[i].ragged;
        if (ragged && !view_broadcasts(a, b)) return false;
    }
    return true;
}

static inset_status need_tensor(trace *t, const char *name, const operand *source)
{
    if (source->kind == OPERAND_TENSOR) return INSET_OK;
    inset_status status = error_set(
        t->context, INSET_TYPE_ERROR, "%s is a tensor and cannot become a number", name);
    error_help(
        t->context, "To fill it with a number, set its elements: %s[:] = %g", name, source->number);
    return status;
}

/* The view that `source`, a tensor, gives for a slot: shape and dtype must be the slot's; a literal
 * takes its dtype. */
static inset_status check_replacement(
    trace *t, int32_t slot, const char *name, const operand *source, view *out)
{
    view expected;
    inset_status status = view_of_slot(t, (int32_t)t->n_invokes - 1, slot, &expected);
    if (status) return status;
    if (!same_shape(&source->view, &expected)) {
        char found[128], wanted[128];
        view_shape_text(&source->view, found, sizeof found);
        view_shape_text(&expected, wanted, sizeof wanted);
        return error_set(t->context, INSET_SHAPE_ERROR,
            "%s has shape %s, and its replacement has shape %s", name, wanted, found);
    }
    inset_type type = t->program->values[t->program->slots[slot].value].integer ? INSET_I64
                                                                                : t->model_type;
    inset_type found = trace_operand_type(t, source);
    if (source->literal) {
        operand converted;
        if ((status = trace_convert(t, source, type, &converted))) return status;
        *out = converted.view;
        return INSET_OK;
    }
    if (found != type)
        return error_set(t->context, INSET_TYPE_ERROR, "%s is %s, and its replacement is %s", name,
            type_torch_name(type), type_torch_name(found));
    *out = source->view;
    return view_cut_to(t, out, &expected) ? INSET_OK : INSET_NO_MEMORY;
}

/* Some slot shows this one's heads as one dimension (a norm over all heads at once). */
static bool shown_flat(const program *p, int32_t slot)
{
    for (size_t i = (size_t)slot + 1; i < p->n_slots; i++)
        if (p->slots[i].source == slot
            && p->slots[i].shape.n_columns < p->slots[slot].shape.n_columns)
            return true;
    return false;
}

/* What a replacement by `v` binds: the slot itself or, where the slot is all of another in heads,
 * that one. Heads that have to become one dimension and do not lie side by side are copied first,
 * as PyTorch's reshape does. */
static inset_status bind_heads(trace *t, int32_t *slot, view *v)
{
    const struct slot *s = &t->program->slots[*slot];
    view flat = *v, shape;
    bool flatten = s->whole || (s->shape.n_columns == 2 && shown_flat(t->program, *slot));
    if (flatten && !view_flatten(&flat)) {
        operand copy;
        inset_status status = view_of_slot(t, (int32_t)t->n_invokes - 1, *slot, &shape);
        if (status || (status = trace_copy_shaped(t, v, &shape, &copy))) return status;
        flat = *v = copy.view;
        view_flatten(&flat);
    }
    if (!s->whole) return INSET_OK;
    *slot = s->source;
    *v = flat;
    return INSET_OK;
}

inset_status trace_replace(trace *t, int32_t site_index, const operand *source)
{
    const site *s = &t->program->sites[site_index];
    char name[SITE_NAME];
    program_site_name(t->program, site_index, name, sizeof name);
    inset_status status = need_invoke(t, name);
    if (status || (status = check_order(t, s->event, name))
        || (status = edits_first(t, s->event, name)))
        return status;
    if (!t->program->slots[s->slot].settable)
        return error_set(t->context, INSET_TYPE_ERROR,
            "%s holds token ids or positions, which can be read and not set", name);
    if ((status = need_tensor(t, name, source))) return status;
    if (edit_takes(t, source, NULL)) {
        edit_entry line = {.kind = EDIT_REPLACE, .place = site_index, .a = source};
        if (!(status = edit_check(t, source, NULL))) status = reached(t, s->event, site_index);
        return status ? status : edit_add(t, line, NULL);
    }
    view v;
    int32_t bound = s->slot;
    if ((status = check_replacement(t, s->slot, name, source, &v))
        || (status = reached(t, s->event, site_index)) || (status = bind_heads(t, &bound, &v))
        || (status = heads_bind_part(t, &bound, &v)) || (status = rebind(t, bound, &v)))
        return status;
    return heads_note_replaced(t, s->slot);
}

inset_status trace_skip(trace *t, int32_t module_index, const operand *source)
{
    const module *m = &t->program->modules[module_index];
    int32_t input = program_site(t->program, module_index, "input", 5),
            output = program_site(t->program, module_index, "output", 6);
    inset_status status = need_invoke(t, m->path);
    if (status) return status;
    if (m->enter < 0 || output < 0)
        return error_set(t->context, INSET_UNKNOWN_SITE,
            "%s returns no tensor and cannot be skipped", *m->path ? m->path : "the model");
    char name[SITE_NAME];
    program_site_name(t->program, input >= 0 ? input : output, name, sizeof name);
    if ((status = check_order(t, m->enter, name)) || (status = edits_first(t, m->enter, name)))
        return status;
    const site *s = &t->program->sites[output];
    if (!t->program->slots[s->slot].settable)
        return error_set(t->context, INSET_TYPE_ERROR,
            "%s cannot be skipped: its output holds token ids or positions", m->path);
    program_site_name(t->program, output, name, sizeof name);
    view v;
    const bool edits = edit_takes(t, source, NULL);
    if ((status = need_tensor(t, name, source))) return status;
    status = edits ? edit_check(t, source, NULL) : check_replacement(t, s->slot, name, source, &v);
    if (status) return status;
    invoke *now = current(t);
    if (!array_reserve(
            t->context, &now->skips, &now->skips_capacity, now->n_skips + 1, sizeof *now->skips))
        return INSET_NO_MEMORY;
    if (!edits && (status = rebind(t, s->slot, &v))) return status;
    now->skips[now->n_skips++] = (skipped){
        module_index, m->enter, m->leave, t->line, edits || t->repeating};
    status = reached(t, m->enter, input >= 0 ? input : output);
    if (status || !edits) return status;
    return edit_add(t, (edit_entry){.kind = EDIT_SKIP, .place = module_index, .a = source}, NULL);
}

inset_status trace_stop(trace *t)
{
    if (t->edit) return edit_refuse(t, "stop()");
    if (!t->open)
        return error_set(t->context, INSET_SYNTAX_ERROR, "stop() belongs inside an invoke");
    invoke *v = current(t);
    if (v->stopped) return after_stop(t, "a second stop()");
    v->stopped = true;
    v->stop_line = t->line;
    return INSET_OK;
}

/* ---- save --------------------------------------------------------------- */

static inset_status check_name(trace *t, const char *name)
{
    if (t->edit) return edit_refuse(t, "a save");
    if (!strcmp(name, "__metadata__"))
        return error_set(t->context, INSET_NAME_ERROR,
            "'%s' is a name that safetensors files keep for themselves; save under another", name);
    for (size_t i = 0; i < t->n_saves; i++)
        if (!strcmp(t->saves[i].name, name))
            return error_set(t->context, INSET_NAME_ERROR, "'%s' is saved twice", name);
    if (!array_reserve(t->context, &t->saves, &t->saves_capacity, t->n_saves + 1, sizeof *t->saves))
        return INSET_NO_MEMORY;
    return INSET_OK;
}

static inset_status check_save(trace *t, const char *name)
{
    return t->open && current(t)->stopped ? after_stop(t, "a save") : check_name(t, name);
}

/* What a save keeps of an operand: a literal becomes the tensor PyTorch would make of it. */
static inset_status save_view(trace *t, const char *name, const operand *value, view *out)
{
    if (value->kind != OPERAND_TENSOR)
        return error_set(
            t->context, INSET_TYPE_ERROR, "'%s' is a number; only tensors are saved", name);
    *out = value->view;
    if (!value->literal) return INSET_OK;
    operand made;
    inset_status status = trace_convert(t, value,
        t->storages[value->view.storage].type == INSET_I64 ? INSET_I64 : INSET_F32, &made);
    if (!status) *out = made.view;
    return status;
}

/* Under a name that was checked. */
static inset_status keep_save(trace *t, const char *name, const operand *value)
{
    view v;
    inset_status status = save_view(t, name, value, &v);
    if (status) return status;
    char *kept_name = arena_text(&t->memory, name, strlen(name));
    const view *kept = view_keep(t, &v);
    if (!kept_name || !kept) return INSET_NO_MEMORY;
    t->saves[t->n_saves++] = (saved_value){.name = kept_name, .view = kept, .n_views = 1};
    return INSET_OK;
}

inset_status trace_save(trace *t, const char *name, const operand *value)
{
    inset_status status = check_save(t, name);
    if (!status) status = edit_check(t, value, NULL);
    return status ? status : keep_save(t, name, value);
}

/* In any order, since a save shows what there is when the trace ends; later lines find themselves
 * behind the site as behind any other. */
inset_status trace_save_site(trace *t, int32_t site_index, const char *name)
{
    const site *s = &t->program->sites[site_index];
    operand held = {.kind = OPERAND_TENSOR};
    char wanted[SITE_NAME];
    program_site_name(t->program, site_index, wanted, sizeof wanted);
    const bool before_stop = t->open && current(t)->stopped
                             && s->event <= current(t)->current_event;
    inset_status status = before_stop ? INSET_OK : need_invoke(t, wanted);
    if (!status) status = check_name(t, name);
    if (!status) status = edits_first(t, s->event, wanted);
    if (!status) status = view_of_slot(t, (int32_t)t->n_invokes - 1, s->slot, &held.view);
    if (!status && s->event > current(t)->current_event) status = reached(t, s->event, site_index);
    return status ? status : keep_save(t, name, &held);
}

static void prefixed_name(const trace *t, int32_t site, const char *prefix, char *out, size_t size)
{
    char path[SITE_NAME];
    program_site_name(t->program, site, path, sizeof path);
    snprintf(out, size, "%s%s", prefix, path);
}

/* The names of all that is chosen, before any of it is saved. */
static inset_status check_site_names(trace *t, const bool *chosen, const char *prefix)
{
    char name[2 * SITE_NAME];
    for (size_t i = 0; i < t->program->n_sites; i++) {
        if (!chosen[i]) continue;
        prefixed_name(t, (int32_t)i, prefix, name, sizeof name);
        inset_status status = check_name(t, name);
        if (status == INSET_NAME_ERROR)
            error_help(t->context, "A prefix of its own keeps it apart: cache(..., "
                                   "prefix=\"other.\"), in a loop prefix=i.");
        if (status) return status;
    }
    return INSET_OK;
}

inset_status trace_save_sites(trace *t, const bool *chosen, const char *prefix)
{
    char name[2 * SITE_NAME];
    inset_status missed = INSET_OK;
    size_t saved = 0;
    if (strlen(prefix) >= SITE_NAME)
        return error_set(t->context, INSET_NAME_ERROR, "a prefix of %zu bytes; %d are the most",
            strlen(prefix), SITE_NAME - 1);
    inset_status status = check_site_names(t, chosen, prefix);
    for (size_t i = 0; i < t->program->n_sites && !status; i++) {
        if (!chosen[i]) continue;
        prefixed_name(t, (int32_t)i, prefix, name, sizeof name);
        status = trace_save_site(t, (int32_t)i, name);
        saved += !status;
        if (status != INSET_MISSED_PROVIDER) continue;
        missed = status;
        status = INSET_OK;
    }
    return status || saved ? status : missed;
}

inset_status trace_save_stack(trace *t, const char *name, size_t count, const operand *values)
{
    inset_status status = check_save(t, name);
    if (status) return status;
    if (!count)
        return error_set(t->context, INSET_VALUE_ERROR,
            "'%s' is an empty list; there is nothing to stack", name);
    view *views = arena_new(&t->memory, count * sizeof *views);
    char *kept_name = arena_text(&t->memory, name, strlen(name));
    if (!views || !kept_name) return INSET_NO_MEMORY;
    for (size_t i = 0; i < count; i++) {
        if ((status = edit_check(t, &values[i], NULL))
            || (status = save_view(t, name, &values[i], &views[i])))
            return status;
        if (views[i].n_dimensions >= INSET_MAX_DIMENSIONS)
            return error_set(t->context, INSET_SHAPE_ERROR,
                "'%s' cannot be stacked: its values have %d dimensions already", name,
                views[i].n_dimensions);
        inset_type first = t->storages[views[0].storage].type,
                   here = t->storages[views[i].storage].type;
        if (!same_shape(&views[i], &views[0])) {
            char a[128], b[128];
            view_shape_text(&views[0], a, sizeof a);
            view_shape_text(&views[i], b, sizeof b);
            return error_set(t->context, INSET_SHAPE_ERROR,
                "'%s' holds values of shapes %s and %s (element %zu); a saved list is stacked and "
                "needs one shape",
                name, a, b, i);
        }
        if (first != here)
            return error_set(t->context, INSET_TYPE_ERROR,
                "'%s' holds values of %s and %s (element %zu); a saved list is stacked and needs "
                "one type",
                name, type_torch_name(first), type_torch_name(here), i);
    }
    t->saves[t->n_saves++] = (saved_value){
        .name = kept_name, .view = views, .n_views = count, .stacked = true};
    return INSET_OK;
}

/* ---- asking ------------------------------------------------------------- */

size_t trace_saved_count(const trace *t) { return t->n_saves; }

const char *trace_saved_at(const trace *t, size_t index, operand *out)
{
    *out = tensor_operand(&t->saves[index].view[0]);
    return t->saves[index].name;
}

void trace_shape_text(const trace *t, const operand *value, char *out, size_t size)
{
    (void)t;
    if (value->edit) snprintf(out, size, "that only an invoke knows"); /* of an edit() */
    else if (value->kind != OPERAND_TENSOR) snprintf(out, size, "a number");
    else view_shape_text(&value->view, out, size);
}

inset_type trace_operand_type(const trace *t, const operand *value)
{
    if (value->kind == OPERAND_INTEGER) return INSET_I64;
    if (value->kind == OPERAND_FLOAT || value->edit) return INSET_F32;
    return t->storages[value->view.storage].type;
}

int64_t trace_operand_length(const trace *t, const operand *value)
{
    (void)t;
    if (value->kind != OPERAND_TENSOR || !value->view.n_dimensions) return -1; /* edits' too */
    return value->view.dimensions[0].extent;
}
