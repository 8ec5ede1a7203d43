/* edit.c: recording the lines of an edit. Names, order and what modules and sites can do are
 * checked here, as in an invoke; shapes, types and ranges when a later invoke repeats the line. */
#include "trace/edit.h"

#include <string.h>

/* ---- edits as objects --------------------------------------------------- */

edit *edit_hold(edit *e)
{
    e->references++;
    return e;
}

void edit_release(edit *e)
{
    if (!e || --e->references) return;
    memory_free(e->context, e->place.skips);
    memory_free(e->context, e->entries);
    arena_free(&e->memory);
    memory_free(e->context, e);
}

inset_status trace_edit(trace *t)
{
    if (t->edit)
        return error_set(
            t->context, INSET_SYNTAX_ERROR, "edit() belongs outside of another edit()");
    inset_status status = trace_end_invoke(t);
    if (status) return status;
    trace_end_backward(t);
    edit *e = memory_new(t->context, sizeof *e);
    if (!e) return INSET_NO_MEMORY;
    *e = (edit){.context = t->context,
        .references = 1,
        .number = ++t->last_edit,
        .script = t->line ? t->script : 0,
        .place = {.current_event = -1, .current_site = -1}};
    arena_start(&e->memory, t->context);
    t->edit = e;
    return INSET_OK;
}

bool trace_in_edit(const trace *t) { return t->edit != NULL; }

edit *trace_take_edit(trace *t)
{
    edit *e = t->edit;
    t->edit = NULL;
    return e;
}

inset_status trace_end_edit(trace *t)
{
    edit *e = trace_take_edit(t);
    inset_status status = e && e->n_entries ? trace_add_edit(t, e) : INSET_OK;
    edit_release(e);
    return status;
}

/* ---- what may be in one ------------------------------------------------- */

inset_status edit_check(trace *t, const operand *a, const operand *b)
{
    const operand *both[] = {a, b};
    for (int i = 0; i < 2; i++) {
        if (!both[i] || !both[i]->edit || (t->edit && t->edit->number == both[i]->edit)) continue;
        inset_status status = error_set(t->context, INSET_NAME_ERROR,
            "this is a value of an edit(), which is there only inside it");
        error_help(t->context,
            "Each later invoke makes it anew: to read it, ask for its site in the invoke.");
        return status;
    }
    return INSET_OK;
}

inset_status edit_refuse(trace *t, const char *what)
{
    return error_set(
        t->context, INSET_SYNTAX_ERROR, "%s belongs in an invoke, not in an edit()", what);
}

/* ---- entries ------------------------------------------------------------ */

static const operand *kept_operand(edit *e, const operand *o)
{
    return o ? arena_copy(&e->memory, o, sizeof *o) : NULL;
}

static const index_item *kept_items(edit *e, size_t n, const index_item *items)
{
    index_item *copy = arena_copy(&e->memory, items, n * sizeof *copy);
    for (size_t i = 0; copy && i < n; i++) {
        if (copy[i].kind != INDEX_LIST || !copy[i].list_length) continue;
        copy[i].list = arena_copy(
            &e->memory, copy[i].list, copy[i].list_length * sizeof *copy[i].list);
        if (!copy[i].list) return NULL;
    }
    return copy;
}

static bool keep_tokens(edit *e, metric_request *m)
{
    for (int k = 0; k < 2; k++) {
        if (!m->sets[k].count) continue;
        m->sets[k].tokens = arena_copy(
            &e->memory, m->sets[k].tokens, m->sets[k].count * sizeof *m->sets[k].tokens);
        if (!m->sets[k].tokens) return false;
    }
    return true;
}

/* Does an index give a copy, which is lost when it is written to without a name? */
static bool has_list(size_t n, const index_item *items)
{
    for (size_t i = 0; i < n; i++)
        if (items[i].kind == INDEX_LIST) return true;
    return false;
}

/* The entry that an operand is, or is a view of; NULL: it is from outside of the edit. */
static edit_entry *entry_behind(const edit *e, const operand *o)
{
    edit_entry *entry = NULL;
    for (; o && o->edit; o = entry->kind == EDIT_INDEX ? entry->a : NULL)
        entry = &e->entries[o->edit_entry];
    return entry;
}

/* What stands in a site's place, or is set, is some invoke's to change. */
static void note_written(edit *e, const edit_entry *x)
{
    if (x->kind != EDIT_SET && x->kind != EDIT_REPLACE && x->kind != EDIT_SKIP) return;
    edit_entry *entry = entry_behind(e, x->a);
    if (entry) entry->anew = true;
}

inset_status edit_add(trace *t, edit_entry entry, operand *out)
{
    inset_status status = edit_check(t, entry.a, entry.b);
    if (!status) status = edit_check(t, entry.c, NULL);
    if (status) return status;
    edit *e = t->edit;
    const bool copy = entry.kind == EDIT_INDEX && has_list(entry.n_items, entry.items);
    const edit_entry given = entry;
    entry.a = kept_operand(e, given.a);
    entry.b = kept_operand(e, given.b);
    entry.c = kept_operand(e, given.c);
    if (given.n_items) entry.items = kept_items(e, given.n_items, given.items);
    if ((given.a && !entry.a) || (given.b && !entry.b) || (given.c && !entry.c)
        || (given.n_items && !entry.items)
        || (given.kind == EDIT_METRIC && !keep_tokens(e, &entry.metric))
        || !array_reserve(
            t->context, &e->entries, &e->capacity, e->n_entries + 1, sizeof *e->entries))
        return INSET_NO_MEMORY;
    entry.line = t->line;
    entry.event = e->place.current_event;
    e->entries[e->n_entries++] = entry;
    note_written(e, &entry);
    if (out)
        *out = (operand){.kind = OPERAND_TENSOR,
            .view = {.storage = -1, .position_dimension = -1},
            .copy = copy,
            .edit = e->number,
            .edit_entry = (int32_t)e->n_entries - 1};
    return INSET_OK;
}

inset_status edit_add_external(trace *t, edit_kind kind, inset_type type, bool integers,
    int n_dimensions, const int64_t *shape, const void *data, operand *out)
{
    edit_entry entry = {
        .kind = kind, .type = type, .integers = integers, .n_dimensions = n_dimensions};
    size_t count = 1;
    for (int i = 0; i < n_dimensions; i++) {
        if (shape[i] < 0)
            return error_set(t->context, INSET_SHAPE_ERROR,
                "dimension %d of a tensor has extent %lld", i, (long long)shape[i]);
        entry.shape[i] = shape[i];
        if (__builtin_mul_overflow(count, (size_t)shape[i], &count) || count > SIZE_MAX / 16)
            return error_set(t->context, INSET_SHAPE_ERROR,
                "a tensor's extents multiply to more than fits in memory");
    }
    if (data) {
        entry.data = arena_copy(&t->edit->memory, data, count * type_size(type));
        if (!entry.data) return INSET_NO_MEMORY;
    }
    return edit_add(t, entry, out);
}

/* ---- in words ----------------------------------------------------------- */

/* The site that an operand is, or is a part of; -1: none. */
static int32_t site_behind(const edit *e, const operand *o)
{
    const edit_entry *entry = entry_behind(e, o);
    return entry && entry->kind == EDIT_SITE ? entry->place : -1;
}

static bool is_set(const edit *e, int32_t site)
{
    for (size_t i = 0; i < e->n_entries; i++)
        if (e->entries[i].kind == EDIT_SET && site_behind(e, e->entries[i].a) == site) return true;
    return false;
}

/* Has an entry before it said the same? */
static bool is_said(const edit *e, size_t at, edit_kind kind, int32_t place)
{
    for (size_t i = 0; i < at; i++) {
        const edit_entry *x = &e->entries[i];
        if (x->kind != kind) continue;
        if ((kind == EDIT_SET ? site_behind(e, x->a) : x->place) == place) return true;
    }
    return false;
}

void edit_describe(const program *p, const edit *e, text *out)
{
    static const struct {
        edit_kind kind;
        const char *verb;
    } said[] = {
        {EDIT_SITE, "reads"}, {EDIT_SET, "sets"}, {EDIT_REPLACE, "replaces"}, {EDIT_SKIP, "skips"}};
    const char *apart = "";
    for (size_t i = 0; i < e->n_entries; i++)
        for (size_t k = 0; k < sizeof said / sizeof *said; k++) {
            const edit_entry *x = &e->entries[i];
            char name[512];
            const int32_t place = x->kind == EDIT_SET ? site_behind(e, x->a) : x->place;
            if (x->kind != said[k].kind || place < 0 || is_said(e, i, x->kind, place)) continue;
            if (x->kind == EDIT_SITE && is_set(e, place)) continue;
            if (x->kind != EDIT_SKIP) program_site_name(p, place, name, sizeof name);
            text_add(e->context, out, "%s%s %s", apart, said[k].verb,
                x->kind == EDIT_SKIP ? p->modules[place].path : name);
            apart = ", ";
        }
    if (!*apart) text_add(e->context, out, "names no site");
    text_add(e->context, out, "\n");
}
