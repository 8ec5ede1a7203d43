/* list.c: what names hold: bindings, lists, saves.
 *
 * Names and list items hold operands, which are references already, so that binding copies no
 * tensor. A list is one object however many names it has. Saves wait until the script has ended: a
 * saved list may still grow, and values are saved as they are then; their order stays that of the
 * lines. */
#include "script/reader.h"

#include <inttypes.h>
#include <string.h>

/* ---- keeping ------------------------------------------------------------ */

inset_status script_keep(script *s, const script_value *v, kept_value *out)
{
    if (v->kind == VALUE_OPERAND && v->operand.kind == OPERAND_TENSOR) {
        if (!out->operand) out->operand = arena_new(&s->memory, sizeof *out->operand);
        if (!out->operand) return INSET_NO_MEMORY;
        *out->operand = v->operand;
        /* it has a name now: what is written to it is not lost */
        out->operand->copy = false;
    }
    out->kind = v->kind;
    if (v->kind == VALUE_LIST) out->list = v->list;
    if (v->kind == VALUE_LITERAL) out->literal = v->literal;
    if (v->kind == VALUE_OPERAND) {
        out->number_kind = v->operand.kind;
        out->integer = v->operand.integer;
        out->number = v->operand.number;
    }
    return INSET_OK;
}

void script_recall(const kept_value *kept, script_value *out)
{
    out->kind = kept->kind;
    if (kept->kind == VALUE_LIST) out->list = kept->list;
    if (kept->kind == VALUE_LITERAL) out->literal = kept->literal;
    if (kept->kind != VALUE_OPERAND) return;
    if (kept->number_kind == OPERAND_TENSOR) {
        out->operand = *kept->operand;
        return;
    }
    memset(&out->operand, 0, sizeof out->operand);
    out->operand.kind = kept->number_kind;
    out->operand.integer = kept->integer;
    out->operand.number = kept->number;
}

/* ---- names -------------------------------------------------------------- */

static int quoted(const name *n) { return script_quote_length(0, (uint32_t)n->length); }

static void compare_name(const char *candidate, const char *wanted, int *limit, const char **best)
{
    int distance = text_distance(candidate, wanted, *limit);
    if (distance > *limit) return;
    *best = candidate;
    *limit = distance - 1;
}

/* The name nearest to `wanted` among those that are bound and the model's top-level modules; NULL
 * when none is near. */
static const char *nearest(const script *s, const name *wanted)
{
    int limit = wanted->length < 4 ? 1 : 2;
    const char *best = NULL;
    for (size_t i = 0; i < s->n_names && limit; i++)
        if (s->names[i].value.kind != VALUE_NONE)
            compare_name(s->names[i].text, wanted->text, &limit, &best);
    const module *modules = s->program->modules;
    for (int32_t m = modules[0].first_child; m >= 0 && limit; m = modules[m].next_sibling)
        compare_name(modules[m].name, wanted->text, &limit, &best);
    return best;
}

static inset_status not_bound(script *s, const name *n, uint32_t at)
{
    const char *near = nearest(s, n);
    inset_status status = script_refuse(
        s, at, INSET_NAME_ERROR, "name '%.*s' is not defined", quoted(n), n->text);
    if (n->bound_line)
        error_help(s->context, "It is bound on line %d, and that has not run when this line does.",
            (int)n->bound_line);
    else if (near) error_help(s->context, "Did you mean '%s'?", near);
    return status;
}

inset_status script_look_up(script *s, int32_t index, uint32_t at, script_value *out)
{
    const name *n = &s->names[index];
    if (n->of_loop && n->module >= 0)
        return script_refuse(s, at, INSET_UNKNOWN_SITE, "%s is a module, not a tensor",
            s->program->modules[n->module].path);
    if (n->value.kind == VALUE_NONE) return not_bound(s, n, at);
    script_recall(&n->value, out);
    return INSET_OK;
}

inset_status script_check_bindable(script *s, int32_t index, uint32_t at)
{
    const name *n = &s->names[index];
    if (n->module >= 0)
        return script_refuse(s, at, INSET_NAME_ERROR,
            "'%.*s' is a module of the model; bind another name", quoted(n), n->text);
    if (!n->saved_line) return INSET_OK;
    script_refuse(s, at, INSET_NAME_ERROR, "'%.*s' is saved on line %d and cannot be bound again",
        quoted(n), n->text, (int)n->saved_line);
    if (s->loops)
        error_help(s->context,
            "To save a value in each turn of a loop, append to a list: xs.append(value.save()).");
    return INSET_NAME_ERROR;
}

inset_status script_bind(script *s, int32_t index, uint32_t at, const script_value *v)
{
    inset_status status = script_check_bindable(s, index, at);
    if (status) return status;
    return script_keep(s, v, &s->names[index].value);
}

/* ---- lists -------------------------------------------------------------- */

inset_status script_list_new(script *s, script_value *out)
{
    out->kind = VALUE_LIST;
    out->list = arena_new(&s->memory, sizeof *out->list);
    return out->list ? INSET_OK : INSET_NO_MEMORY;
}

static bool list_grow(script *s, list *l)
{
    if (l->length < l->capacity) return true;
    size_t capacity = l->capacity ? l->capacity * 2 : 8;
    kept_value *items = arena_new(&s->memory, capacity * sizeof *items);
    if (!items) return false;
    if (l->length) memcpy(items, l->items, l->length * sizeof *items);
    l->items = items;
    l->capacity = capacity;
    return true;
}

inset_status script_list_item(
    script *s, uint32_t at, const script_value *of, link *index, kept_value **out)
{
    if (index->n_items != 1 || index->items->kind != INDEX_INTEGER)
        return script_refuse(s, at, INSET_TYPE_ERROR, "a list takes one integer as its index");
    inset_status status = script_evaluate_index(s, index);
    if (status) return status;
    int64_t i = index->values[0].integer, length = (int64_t)of->list->length;
    if (i < -length || i >= length)
        return script_refuse(s, at, INSET_INDEX_ERROR,
            "index %" PRId64 " is out of range for a list of %" PRId64, i, length);
    *out = &of->list->items[i < 0 ? i + length : i];
    return INSET_OK;
}

/* A list's values are saved one and all, or none. */
static inset_status note_saved_item(
    script *s, const statement *line, list *l, const script_value *as)
{
    bool saved = line->value->saved;
    const name *n = &s->names[line->names->name];
    if (l->length && saved != l->saved)
        return script_refuse(s, saved ? line->value->save_at : line->at, INSET_VALUE_ERROR,
            "the values appended to '%.*s' are saved either all or none", quoted(n), n->text);
    if (!saved || l->length) return INSET_OK;
    l->saved = true;
    return script_save(s, line->names->name, line->value->save_at, as);
}

inset_status script_append(script *s, const statement *line)
{
    script_value to, v;
    inset_status status = script_look_up(s, line->names->name, line->at, &to);
    if (status) return status;
    if (to.kind != VALUE_LIST)
        return script_refuse(
            s, line->at, INSET_TYPE_ERROR, "append() is for lists, and this is none");
    status = script_evaluate(s, line->value, &v);
    if (status) return status;
    if (line->value->saved && v.kind == VALUE_LIST)
        return script_refuse(
            s, line->value->save_at, INSET_TYPE_ERROR, "save() of a list inside a list");
    if (line->value->saved) status = script_as_operand(s, line->value->at, &v);
    if (!status && line->value->saved && v.operand.kind != OPERAND_TENSOR)
        status = script_refuse(s, line->value->save_at, INSET_TYPE_ERROR,
            "save() of a number; only tensors are saved");
    if (!status) status = note_saved_item(s, line, to.list, &to);
    if (status) return status;
    kept_value kept = {0};
    if (!list_grow(s, to.list) || script_keep(s, &v, &kept)) return INSET_NO_MEMORY;
    to.list->items[to.list->length++] = kept;
    return INSET_OK;
}

/* ---- saves -------------------------------------------------------------- */

inset_status script_save(script *s, int32_t index, uint32_t at, const script_value *v)
{
    name *n = &s->names[index];
    script_value saved = *v;
    if (n->saved_line)
        return script_refuse(s, at, INSET_NAME_ERROR, "'%.*s' is saved already, on line %d",
            quoted(n), n->text, (int)n->saved_line);
    inset_status status = v->kind == VALUE_LIST ? INSET_OK : script_as_operand(s, at, &saved);
    if (status) return status;
    if (saved.kind == VALUE_OPERAND && saved.operand.kind != OPERAND_TENSOR)
        return script_refuse(s, at, INSET_TYPE_ERROR, "save() of a number; only tensors are saved");
    pending_save *p = arena_new(&s->memory, sizeof *p);
    if (!p || script_keep(s, &saved, &p->value)) return INSET_NO_MEMORY;
    p->name = index;
    p->at = at;
    p->line = n->saved_line = s->running_line;
    *s->last_save = p;
    s->last_save = &p->next;
    return INSET_OK;
}

static inset_status save_list(script *s, const pending_save *p, const char *name)
{
    const list *l = p->value.list;
    operand *values = memory_new(s->context, l->length * sizeof *values);
    if (!values) return INSET_NO_MEMORY;
    inset_status status = INSET_OK;
    for (size_t i = 0; i < l->length && !status; i++) {
        script_value v;
        script_recall(&l->items[i], &v);
        if (v.kind == VALUE_LIST)
            status = script_refuse(s, p->at, INSET_TYPE_ERROR, "save() of a list of lists");
        else status = script_as_operand(s, p->at, &v);
        if (!status && v.operand.kind != OPERAND_TENSOR)
            status = script_refuse(
                s, p->at, INSET_TYPE_ERROR, "save() of a list of numbers; only tensors are saved");
        values[i] = v.operand;
    }
    if (!status) status = script_at(s, p->at, trace_save_stack(s->trace, name, l->length, values));
    memory_free(s->context, values);
    return status;
}

inset_status script_save_all(script *s)
{
    for (const pending_save *p = s->saves; p; p = p->next) {
        const name *n = &s->names[p->name];
        trace_line(s->trace, p->line);
        inset_status status = p->value.kind == VALUE_LIST
                                  ? save_list(s, p, n->text)
                                  : script_at(
                                      s, p->at, trace_save(s->trace, n->text, p->value.operand));
        if (status) return status;
    }
    return INSET_OK;
}
