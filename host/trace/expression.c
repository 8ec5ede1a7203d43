/* expression.c: tensors that a trace makes itself: loaded ones, literals, indexing, arithmetic,
 * in-place sets. PyTorch's rules for shapes and types; every operation is recorded, none is
 * computed. */
#include "trace/edit.h"
#include "trace/heads.h"

#include <stdio.h>
#include <string.h>

/* ---- records ------------------------------------------------------------ */

static inset_status add_record(trace *t, const trace_record *r)
{
    if (!array_reserve(
            t->context, &t->records, &t->records_capacity, t->n_records + 1, sizeof *t->records))
        return INSET_NO_MEMORY;
    t->records[t->n_records] = *r;
    if (t->open) {
        t->records[t->n_records].event = t->invokes[t->n_invokes - 1].current_event;
        t->invokes[t->n_invokes - 1].n_records++;
    }
    t->n_records++;
    return INSET_OK;
}

/* A line of an invoke that has ended, or outside of all, has no place in a run. */
inset_status trace_need_line(trace *t, const char *what)
{
    if (!t->open)
        return error_set(t->context, INSET_SYNTAX_ERROR,
            "%s belongs inside an invoke; at top level values are only loaded, named and saved",
            what);
    const invoke *v = &t->invokes[t->n_invokes - 1];
    if (!v->stopped) return INSET_OK;
    inset_status status = error_set(
        t->context, INSET_MISSED_PROVIDER, "%s is never reached: the invoke ends at stop()", what);
    if (v->stop_line)
        error_help(t->context, "stop() (line %d) ended this invoke; put the line before it.",
            v->stop_line);
    return status;
}

static source source_of(trace *t, const operand *o, bool *lost)
{
    if (o->kind != OPERAND_TENSOR) return (source){NULL, o->number};
    const view *kept = view_keep(t, &o->view);
    if (!kept) *lost = true;
    return (source){kept, 0};
}

/* Records `made` = a op b over all of it. */
inset_status trace_record_make(
    trace *t, trace_op op, const view *made, const operand *a, const operand *b)
{
    bool lost = false;
    trace_record r = {.kind = TRACE_MAKE,
        .op = op,
        .event = -1,
        .target = view_keep(t, made),
        .a = source_of(t, a, &lost)};
    if (b) r.b = source_of(t, b, &lost);
    return lost || !r.target ? INSET_NO_MEMORY : add_record(t, &r);
}

inset_status trace_record_metric(
    trace *t, int32_t metric, const view *made, const operand *rows, const operand *reference)
{
    bool lost = false;
    trace_record r = {.kind = TRACE_METRIC,
        .event = -1,
        .metric = metric,
        .target = view_keep(t, made),
        .a = source_of(t, rows, &lost)};
    if (reference) r.b = source_of(t, reference, &lost);
    return lost || !r.target ? INSET_NO_MEMORY : add_record(t, &r);
}

inset_status trace_record_call(trace *t, int32_t module, const view *made, const operand *rows)
{
    bool lost = false;
    trace_record r = {.kind = TRACE_CALL,
        .event = -1,
        .module = module,
        .target = view_keep(t, made),
        .a = source_of(t, rows, &lost)};
    return lost || !r.target ? INSET_NO_MEMORY : add_record(t, &r);
}

inset_status trace_record_rows(trace *t, const view *made, const row_operation *rows)
{
    trace_record r = {.kind = TRACE_ROWS, .event = -1, .target = view_keep(t, made), .rows = rows};
    return r.target ? add_record(t, &r) : INSET_NO_MEMORY;
}

inset_status trace_record_product(trace *t, int32_t matrix, const view *made, const operand *rows)
{
    bool lost = false;
    trace_record r = {.kind = TRACE_PRODUCT,
        .event = -1,
        .matrix = matrix,
        .target = view_keep(t, made),
        .a = source_of(t, rows, &lost)};
    return lost || !r.target ? INSET_NO_MEMORY : add_record(t, &r);
}

inset_status trace_record_slope(
    trace *t, int32_t metric, const view *made, const view *rows, const view *reference)
{
    trace_record r = {.kind = TRACE_METRIC,
        .event = -1,
        .metric = metric,
        .slope = true,
        .target = view_keep(t, made),
        .a = {rows, 0},
        .b = {reference, 0}};
    return r.target ? add_record(t, &r) : INSET_NO_MEMORY;
}

static inset_status record_set(trace *t, const view *target, const operand *source)
{
    bool lost = false;
    trace_record r = {.kind = TRACE_SET,
        .event = -1,
        .target = view_keep(t, target),
        .a = source_of(t, source, &lost)};
    if (lost || !r.target) return INSET_NO_MEMORY;
    t->storages[target->storage].changed = true;
    inset_status status = add_record(t, &r);
    return status ? status : heads_note_set(t, target);
}

/* ---- tensors from outside ----------------------------------------------- */

static inset_status checked_shape(trace *t, int n_dimensions, const int64_t *shape, view *out)
{
    *out = (view){.n_dimensions = n_dimensions, .position_dimension = -1};
    if (n_dimensions > INSET_MAX_DIMENSIONS)
        return error_set(t->context, INSET_SHAPE_ERROR,
            "a tensor of %d dimensions is more than the %d inset knows", n_dimensions,
            INSET_MAX_DIMENSIONS);
    int64_t elements = 1;
    for (int i = 0; i < n_dimensions; i++) {
        if (shape[i] < 0)
            return error_set(t->context, INSET_SHAPE_ERROR,
                "dimension %d of a tensor has extent %lld", i, (long long)shape[i]);
        if (shape[i] && elements > INT64_MAX / 16 / shape[i])
            return error_set(t->context, INSET_SHAPE_ERROR,
                "a tensor's extents multiply to more than fits in memory");
        elements *= shape[i] ? shape[i] : 1;
        out->dimensions[i] = (dimension){.kind = DIMENSION_COLUMN, .extent = shape[i]};
    }
    return INSET_OK;
}

inset_status trace_external(trace *t, inset_type type, int n_dimensions, const int64_t *shape,
    const void *data, operand *out)
{
    if (t->edit)
        return edit_add_external(t, EDIT_EXTERNAL, type, false, n_dimensions, shape, data, out);
    view wanted, made;
    inset_status status = checked_shape(t, n_dimensions, shape, &wanted);
    if (status || (status = storage_for_shape(t, STORAGE_EXTERNAL, type, &wanted, &made)))
        return status;
    int64_t elements = view_elements(&made);
    storage *s = &t->storages[made.storage];
    s->data = arena_copy(&t->memory, data, (size_t)elements * type_size(type));
    if (!s->data) return INSET_NO_MEMORY;
    *out = tensor_operand(&made);
    return INSET_OK;
}

inset_status trace_external_there(trace *t, inset_type type, int n_dimensions, const int64_t *shape,
    const void *data, operand *out)
{
    view wanted, made;
    inset_status status = checked_shape(t, n_dimensions, shape, &wanted);
    if (status || (status = storage_for_shape(t, STORAGE_EXTERNAL, type, &wanted, &made)))
        return status;
    t->storages[made.storage].there = data;
    *out = tensor_operand(&made);
    return INSET_OK;
}

bool trace_is_external(const trace *t, const operand *a, int32_t *storage_index, inset_type *type)
{
    if (a->kind != OPERAND_TENSOR || a->edit) return false;
    const storage *s = &t->storages[a->view.storage];
    *storage_index = a->view.storage;
    *type = s->type;
    return s->kind == STORAGE_EXTERNAL && view_elements(&a->view) == s->lengths[0] * s->width;
}

inset_status trace_literal(trace *t, int n_dimensions, const int64_t *shape, const double *numbers,
    bool integers, operand *out)
{
    if (t->edit)
        return edit_add_external(
            t, EDIT_LITERAL, INSET_F64, integers, n_dimensions, shape, numbers, out);
    inset_status status = trace_external(t, INSET_F64, n_dimensions, shape, numbers, out);
    if (status) return status;
    if (integers) {
        storage *s = &t->storages[out->view.storage];
        int64_t n = view_elements(&out->view), *ids = (int64_t *)(uintptr_t)s->data;
        for (int64_t i = 0; i < n; i++) element_put(INSET_I64, &ids[i], numbers[i]);
        s->type = INSET_I64;
    }
    t->storages[out->view.storage].literal = true;
    out->literal = true;
    return INSET_OK;
}

inset_status trace_literal_before(trace *t, int n_dimensions, const int64_t *shape,
    const double *numbers, bool integers, operand *out)
{
    edit *open = t->edit;
    t->edit = NULL;
    inset_status status = trace_literal(t, n_dimensions, shape, numbers, integers, out);
    t->edit = open;
    return status;
}

inset_status trace_zeros(trace *t, int n_dimensions, const int64_t *shape, operand *out)
{
    if (t->edit)
        return edit_add_external(t, EDIT_ZEROS, INSET_F32, false, n_dimensions, shape, NULL, out);
    view wanted, made;
    inset_status status = checked_shape(t, n_dimensions, shape, &wanted);
    if (status || (status = storage_for_shape(t, STORAGE_FILLED, INSET_F32, &wanted, &made)))
        return status;
    *out = tensor_operand(&made);
    return INSET_OK;
}

/* ---- indexing ----------------------------------------------------------- */

/* The `.z` of the attention module whose output this storage is, to point at where heads are; -1
 * when it is none. */
static int32_t heads_site(const trace *t, const view *v)
{
    const storage *s = &t->storages[v->storage];
    if (s->kind != STORAGE_VALUE) return -1;
    for (size_t i = 0; i < t->program->n_sites; i++) {
        const site *out = &t->program->sites[i];
        if (strcmp(out->name, "output") || t->program->slots[out->slot].value != s->value) continue;
        int32_t z = program_site(t->program, out->module, "z", 1);
        if (z >= 0) return z;
    }
    return -1;
}

typedef struct index_plan {
    bool lists;
    int first_list_item, last_list_item; /* the items that belong to the lists */
    int64_t length;                      /* of the lists */
    /* dimension of the result where the list's dimension stands */
    int place;
} index_plan;

static inset_status too_many(trace *t, const view *base, int64_t named, const index_item *items)
{
    inset_status status = error_set(t->context, INSET_INDEX_ERROR,
        "too many indices for tensor of dimension %d: found %lld", base->n_dimensions,
        (long long)named);
    int32_t z = heads_site(t, base);
    if (z >= 0) {
        char name[256];
        program_site_name(t->program, z, name, sizeof name);
        error_help(t->context,
            "Heads are not in an attention module's output; they are in %s, shape [batch, "
            "position, head, head_dim].",
            name);
        if (items->kind == INDEX_INTEGER && !items->integer)
            error_help(t->context,
                "[0] is sequence 0: what the module returns is no tuple here, as since "
                "transformers 5.");
    }
    return status;
}

static inset_status check_items(
    trace *t, const view *base, size_t n_items, const index_item *items, index_plan *plan)
{
    int64_t named = 0;
    int ellipses = 0, added = 0, first = -1, last = -1;
    for (size_t i = 0; i < n_items; i++) {
        ellipses += items[i].kind == INDEX_ELLIPSIS;
        added += items[i].kind == INDEX_NEW;
        named += items[i].kind != INDEX_ELLIPSIS && items[i].kind != INDEX_NEW;
        if (items[i].kind == INDEX_SLICE && items[i].has_step && items[i].step < 1)
            return error_set(t->context, INSET_VALUE_ERROR,
                "a slice's step must be 1 or more, found %lld", (long long)items[i].step);
        if (items[i].kind == INDEX_LIST) plan->lists = true;
    }
    if (ellipses > 1)
        return error_set(t->context, INSET_INDEX_ERROR, "an index can have only one '...'");
    if (named > base->n_dimensions) return too_many(t, base, named, items);
    if (!plan->lists) return INSET_OK;
    if (added)
        return error_set(t->context, INSET_INDEX_ERROR,
            "None and a list in one index; take them one after the other, x[[0, 2]][:, None]");
    plan->length = 1;
    for (size_t i = 0; i < n_items; i++) {
        if (items[i].kind != INDEX_LIST && items[i].kind != INDEX_INTEGER) continue;
        if (first < 0) first = (int)i;
        else if (last != (int)i - 1)
            return error_set(t->context, INSET_INDEX_ERROR,
                "lists and integers of one index must stand side by side, without a slice between "
                "them");
        last = (int)i;
        if (items[i].kind != INDEX_LIST) continue;
        int64_t n = (int64_t)items[i].list_length;
        if (n != 1 && plan->length != 1 && n != plan->length)
            return error_set(t->context, INSET_INDEX_ERROR,
                "lists of one index are zipped and need one length, found %lld and %lld",
                (long long)plan->length, (long long)n);
        if (n != 1) plan->length = n;
    }
    plan->first_list_item = first;
    plan->last_list_item = last;
    for (int i = 0; i < first; i++)
        plan->place += items[i].kind == INDEX_ELLIPSIS ? base->n_dimensions - (int)named
                                                       : items[i].kind == INDEX_SLICE;
    return INSET_OK;
}

/* base[items] with element k of every list. */
static inset_status index_element(
    trace *t, const view *base, size_t n_items, const index_item *items, int64_t k, view *out)
{
    index_item one[INSET_MAX_DIMENSIONS + 1];
    for (size_t i = 0; i < n_items; i++) {
        one[i] = items[i];
        if (items[i].kind != INDEX_LIST) continue;
        one[i] = (index_item){
            .kind = INDEX_INTEGER, .integer = items[i].list[items[i].list_length == 1 ? 0 : k]};
    }
    return view_index(t, base, n_items, one, out);
}

/* The shape of base[items] with lists: element 0's shape with a dimension of the lists' length put
 * in. */
static inset_status list_shape(trace *t, const view *base, size_t n_items, const index_item *items,
    const index_plan *plan, view *shape)
{
    view first;
    inset_status status = index_element(t, base, n_items, items, 0, &first);
    if (status) return status;
    /* the dimension of base that the lists' first item indexes */
    int at = 0;
    int64_t named = 0;
    for (size_t i = 0; i < n_items; i++) named += items[i].kind != INDEX_ELLIPSIS;
    for (int i = 0; i < plan->first_list_item; i++)
        at += items[i].kind == INDEX_ELLIPSIS ? base->n_dimensions - (int)named : 1;
    uint8_t kind = base->dimensions[at].kind;
    *shape = first;
    if (shape->position_dimension >= plan->place) shape->position_dimension++;
    memmove(&shape->dimensions[plan->place + 1], &shape->dimensions[plan->place],
        (size_t)(shape->n_dimensions - plan->place) * sizeof shape->dimensions[0]);
    shape->dimensions[plan->place] = (dimension){.kind = kind, .extent = plan->length};
    shape->n_dimensions++;
    if (kind == DIMENSION_ROW && shape->position_dimension < 0)
        shape->position_dimension = plan->place;
    if (kind != DIMENSION_SEQUENCE) return INSET_OK;
    span *spans = arena_new(&t->memory, (size_t)plan->length * sizeof *spans);
    if (!spans) return INSET_NO_MEMORY;
    for (int64_t k = 0; k < plan->length; k++) {
        view element;
        if ((status = index_element(t, base, n_items, items, k, &element))) return status;
        spans[k] = element.spans[0];
        if (shape->position_dimension < 0) continue;
        dimension *d = &shape->dimensions[shape->position_dimension];
        if (spans[k].count != spans[0].count) d->ragged = true;
        if (spans[k].count > d->extent) d->extent = spans[k].count;
    }
    shape->spans = spans;
    shape->n_spans = (int32_t)plan->length;
    return INSET_OK;
}

static inset_status element_of(trace *t, const view *v, int place, int64_t k, view *out)
{
    index_item items[INSET_MAX_DIMENSIONS];
    for (int i = 0; i < place; i++) items[i] = (index_item){.kind = INDEX_SLICE};
    items[place] = (index_item){.kind = INDEX_INTEGER, .integer = k};
    return view_index(t, v, (size_t)place + 1, items, out);
}

static inset_status gather(trace *t, const operand *base, size_t n_items, const index_item *items,
    const index_plan *plan, operand *out)
{
    view shape, made;
    inset_status status = list_shape(t, &base->view, n_items, items, plan, &shape);
    if (status) return status;
    /* every index before anything is recorded */
    for (int64_t k = 0; k < plan->length; k++) {
        view element;
        if ((status = index_element(t, &base->view, n_items, items, k, &element))) return status;
    }
    if ((status = storage_for_shape(t, STORAGE_FILLED, trace_operand_type(t, base), &shape, &made)))
        return status;
    for (int64_t k = 0; k < plan->length; k++) {
        view from, to;
        if ((status = index_element(t, &base->view, n_items, items, k, &from))
            || (status = element_of(t, &made, plan->place, k, &to)))
            return status;
        operand element = tensor_operand(&from);
        if ((status = record_set(t, &to, &element))) return status;
    }
    *out = tensor_operand(&made);
    out->copy = true;
    out->literal = base->literal;
    return INSET_OK;
}

inset_status trace_index(
    trace *t, const operand *base, size_t n_items, const index_item *items, operand *out)
{
    if (base->kind != OPERAND_TENSOR)
        return error_set(t->context, INSET_TYPE_ERROR, "a number has no elements to index");
    if (edit_takes(t, base, NULL))
        return edit_add(t,
            (edit_entry){.kind = EDIT_INDEX, .a = base, .n_items = n_items, .items = items}, out);
    index_plan plan = {0};
    inset_status status = trace_refuse_tuple(t, base, n_items, items);
    if (!status) status = check_items(t, &base->view, n_items, items, &plan);
    if (status) return status;
    if (plan.lists) {
        if ((status = trace_need_line(t, "indexing with a list"))) return status;
        return gather(t, base, n_items, items, &plan, out);
    }
    operand result = *base;
    if ((status = view_index(t, &base->view, n_items, items, &result.view))) return status;
    const bool first = n_items == 1 && items->kind == INDEX_INTEGER && !items->integer;
    result.first_of = first ? base->output_of : 0;
    result.output_of = 0;
    *out = result;
    return INSET_OK;
}

/* ---- types -------------------------------------------------------------- */

/* bool < integers < floats: PyTorch's categories. */
static int category(inset_type type)
{
    return type_is_float(type) ? 2 : type == INSET_BOOL ? 0 : 1;
}

static inset_type promote_types(inset_type a, inset_type b)
{
    if (a == b) return a;
    if (category(a) != category(b)) return category(a) > category(b) ? a : b;
    if (category(a) == 2) {
        if (a == INSET_F64 || b == INSET_F64) return INSET_F64;
        return INSET_F32; /* f32 with a 16-bit type, or bf16 with f16 */
    }
    static const inset_type wider[] = {INSET_I8, INSET_I16, INSET_I32, INSET_I64};
    if (a == INSET_U8 || b == INSET_U8) { /* u8 with i8 is i16, with wider ones the wider */
        inset_type other = a == INSET_U8 ? b : a;
        return other == INSET_I8 ? INSET_I16 : other;
    }
    for (int i = 3; i >= 0; i--)
        if (a == wider[i] || b == wider[i]) return wider[i];
    return a;
}

/* PyTorch ranks tensors with dimensions over 0-d tensors over numbers; a lower rank matters only by
 * its category. */
static int rank_of(const operand *o)
{
    if (o->kind != OPERAND_TENSOR || o->literal) return 0;
    return o->view.n_dimensions ? 2 : 1;
}

static inset_type operand_type(const trace *t, const operand *o)
{
    inset_type type = trace_operand_type(t, o);
    return o->literal && type == INSET_F64 ? INSET_F32 : type;
}

static inset_type promoted(const trace *t, const operand *a, const operand *b)
{
    inset_type types[2] = {operand_type(t, a), operand_type(t, b)};
    int ranks[2] = {rank_of(a), rank_of(b)};
    if (ranks[0] == ranks[1]) return promote_types(types[0], types[1]);
    int high = ranks[0] > ranks[1] ? 0 : 1;
    return category(types[1 - high]) > category(types[high]) ? types[1 - high] : types[high];
}

static const char *op_text(trace_op op)
{
    static const char *const names[] = {"=", "+", "-", "*", "/", "-"}, *const comparisons[] = {
                                                                           "==", "!=", "<",
                                                                           "<=", ">", ">="};
    return trace_op_is_comparison(op) ? comparisons[op - TRACE_EQUAL] : names[op];
}

static inset_status result_type(
    trace *t, trace_op op, const operand *a, const operand *b, inset_type *out)
{
    inset_type type = b ? promoted(t, a, b) : operand_type(t, a);
    if (type == INSET_BOOL && (op == TRACE_SUBTRACT || op == TRACE_NEGATE))
        return error_set(t->context, INSET_TYPE_ERROR, "'-' is not defined for bool tensors");
    if (op == TRACE_DIVIDE && category(type) < 2) type = INSET_F32;
    *out = type;
    return INSET_OK;
}

/* ---- arithmetic --------------------------------------------------------- */

static int kind_rank(uint8_t kind)
{
    return kind == DIMENSION_SEQUENCE ? 2 : kind == DIMENSION_ROW ? 1 : 0;
}

/* Has `d` of `from` take its place as dimension i of `out`: one dimension of a result follows
 * sequences, one positions (the ragged one if there is one); what else meets there has columns. */
static void take_dimension(view *out, int i, const view *from, int d)
{
    const dimension *pick = &from->dimensions[d];
    dimension *made = &out->dimensions[i];
    *made = *pick;
    if (pick->kind == DIMENSION_SEQUENCE) {
        if (view_sequence_dimension(out) < i) made->kind = DIMENSION_COLUMN;
        else if (!out->spans) out->spans = from->spans, out->n_spans = from->n_spans;
    }
    if (pick->kind != DIMENSION_ROW || from->position_dimension != d) return;
    if (out->position_dimension >= 0 && !pick->ragged) {
        made->kind = DIMENSION_COLUMN;
        return;
    }
    if (out->position_dimension >= 0)
        out->dimensions[out->position_dimension].kind = DIMENSION_COLUMN;
    out->position_dimension = i;
    if (pick->ragged) out->spans = from->spans, out->n_spans = from->n_spans;
}

/* The shape of a op b. A dimension follows sequences or positions where either operand's does, so
 * that rows stay rows. */
static bool broadcast_shape(const view *a, const view *b, view *out)
{
    int n = a->n_dimensions > b->n_dimensions ? a->n_dimensions : b->n_dimensions;
    *out = (view){.n_dimensions = n, .position_dimension = -1};
    for (int i = 0; i < n; i++) {
        int ia = i - (n - a->n_dimensions), ib = i - (n - b->n_dimensions);
        const dimension *da = ia >= 0 ? &a->dimensions[ia] : NULL,
                        *db = ib >= 0 ? &b->dimensions[ib] : NULL;
        const dimension *pick = !db ? da : !da ? db : NULL;
        if (!pick && db->extent == 1 && !db->ragged && da->extent != 1) pick = da;
        if (!pick && da->extent == 1 && !da->ragged && db->extent != 1) pick = db;
        if (!pick) {
            if (da->extent != db->extent) return false;
            pick = da->ragged                                   ? da
                   : db->ragged                                 ? db
                   : kind_rank(da->kind) >= kind_rank(db->kind) ? da
                                                                : db;
        }
        take_dimension(out, i, pick == da ? a : b, pick == da ? ia : ib);
    }
    bool ragged = out->position_dimension >= 0 && out->dimensions[out->position_dimension].ragged;
    /* rows of a plain tensor, say zeros(4, 1, 1), beside ragged positions */
    for (int i = 0; ragged && i < n; i++)
        if (i != out->position_dimension && out->dimensions[i].kind == DIMENSION_ROW)
            out->dimensions[i].kind = DIMENSION_COLUMN;
    /* prompts of different lengths are a tensor's first dimension */
    if (ragged && view_sequence_dimension(out)) return false;
    return view_broadcasts(a, out) && view_broadcasts(b, out);
}

static inset_status shapes_differ(trace *t, trace_op op, const view *a, const view *b)
{
    char left[128], right[128];
    view_shape_text(a, left, sizeof left);
    view_shape_text(b, right, sizeof right);
    return error_set(t->context, INSET_SHAPE_ERROR, "shapes %s and %s do not broadcast for '%s'",
        left, right, op_text(op));
}

inset_status trace_convert(trace *t, const operand *a, inset_type type, operand *out)
{
    view made;
    inset_status status = storage_for_shape(t, STORAGE_FREE, type, &a->view, &made);
    if (status || (status = trace_record_make(t, TRACE_COPY, &made, a, NULL))) return status;
    *out = tensor_operand(&made);
    return INSET_OK;
}

inset_status trace_copy_shaped(trace *t, const view *from, const view *shape, operand *out)
{
    view made;
    const operand a = tensor_operand(from);
    inset_status status = storage_for_shape(t, STORAGE_FREE, operand_type(t, &a), shape, &made);
    if (!status) status = trace_record_make(t, TRACE_COPY, &made, &a, NULL);
    *out = tensor_operand(&made);
    return status;
}

inset_status trace_clone(trace *t, const operand *a, operand *out)
{
    if (a->kind != OPERAND_TENSOR)
        return error_set(
            t->context, INSET_TYPE_ERROR, "a number cannot be cloned; only tensors can");
    if (edit_takes(t, a, NULL)) return edit_add(t, (edit_entry){.kind = EDIT_CLONE, .a = a}, out);
    inset_status status = trace_need_line(t, "clone()");
    return status ? status : trace_convert(t, a, operand_type(t, a), out);
}

inset_status trace_promoted(
    trace *t, const operand *a, const operand *b, inset_type *type, view *shape)
{
    *type = promoted(t, a, b);
    if (a->kind != OPERAND_TENSOR && b->kind != OPERAND_TENSOR)
        *shape = (view){.position_dimension = -1};
    else if (a->kind != OPERAND_TENSOR) *shape = b->view;
    else if (b->kind != OPERAND_TENSOR) *shape = a->view;
    else if (!broadcast_shape(&a->view, &b->view, shape)) return INSET_SHAPE_ERROR;
    return INSET_OK;
}

/* What is compared is of one type: a comparison is exact in it, and rounds a number to it. */
static inset_status compared_as(trace *t, const operand *a, inset_type type, operand *out)
{
    *out = *a;
    if (a->kind == OPERAND_TENSOR)
        return trace_operand_type(t, a) == type ? INSET_OK : trace_convert(t, a, type, out);
    unsigned char bytes[8];
    element_put(type, bytes, a->number);
    out->number = element_get(type, bytes);
    return INSET_OK;
}

static inset_status compare(trace *t, trace_op op, const operand *a, const operand *b, operand *out)
{
    inset_type type;
    view shape, made;
    operand x, y;
    if (trace_promoted(t, a, b, &type, &shape)) return shapes_differ(t, op, &a->view, &b->view);
    inset_status status = compared_as(t, a, type, &x);
    if (!status) status = compared_as(t, b, type, &y);
    if (!status) status = storage_for_shape(t, STORAGE_FREE, INSET_BOOL, &shape, &made);
    if (!status) status = trace_record_make(t, op, &made, &x, &y);
    if (!status) *out = tensor_operand(&made);
    return status;
}

inset_status trace_detach(trace *t, const operand *a, operand *out)
{
    if (edit_takes(t, a, NULL)) return edit_add(t, (edit_entry){.kind = EDIT_DETACH, .a = a}, out);
    inset_status status = trace_clone(t, a, out);
    if (!status) t->records[t->n_records - 1].detached = true;
    return status;
}

inset_status trace_transpose(
    trace *t, const operand *a, int64_t first, int64_t second, operand *out)
{
    if (edit_takes(t, a, NULL))
        return edit_add(
            t, (edit_entry){.kind = EDIT_TRANSPOSE, .a = a, .shape = {first, second}}, out);
    if (a->kind != OPERAND_TENSOR)
        return error_set(t->context, INSET_TYPE_ERROR, "a number has no dimensions to exchange");
    const int n = a->view.n_dimensions;
    int64_t at[2] = {first < 0 ? first + n : first, second < 0 ? second + n : second};
    for (int k = 0; k < 2; k++)
        if (at[k] < 0 || at[k] >= n)
            return error_set(t->context, INSET_INDEX_ERROR,
                "dimension %lld of a tensor of %d dimensions", (long long)(k ? second : first), n);
    operand result = *a;
    const int low = (int)(at[0] < at[1] ? at[0] : at[1]), high = (int)(at[0] + at[1]) - low;
    view_move(&result.view, low, high);
    if (high > low + 1) view_move(&result.view, high - 1, low);
    if (view_is_ragged(&result.view) && view_sequence_dimension(&result.view) > 0)
        return error_set(t->context, INSET_SHAPE_ERROR,
            "prompts of different lengths stay a tensor's first dimension");
    result.output_of = result.first_of = 0;
    *out = result;
    return INSET_OK;
}

inset_status trace_binary(trace *t, trace_op op, const operand *a, const operand *b, operand *out)
{
    if (a->kind != OPERAND_TENSOR && b->kind != OPERAND_TENSOR)
        return error_set(
            t->context, INSET_TYPE_ERROR, "'%s' of two numbers needs no trace", op_text(op));
    if (edit_takes(t, a, b))
        return edit_add(t, (edit_entry){.kind = EDIT_BINARY, .op = op, .a = a, .b = b}, out);
    inset_type type;
    inset_status status = trace_need_line(t, "arithmetic");
    if (status) return status;
    if (trace_op_is_comparison(op)) return compare(t, op, a, b, out);
    if ((status = result_type(t, op, a, b, &type))) return status;
    view shape, made;
    if (trace_promoted(t, a, b, &(inset_type){0}, &shape))
        return shapes_differ(t, op, &a->view, &b->view);
    if ((status = storage_for_shape(t, STORAGE_FREE, type, &shape, &made))
        || (status = trace_record_make(t, op, &made, a, b)))
        return status;
    *out = tensor_operand(&made);
    return INSET_OK;
}

inset_status trace_negate(trace *t, const operand *a, operand *out)
{
    inset_type type;
    view made;
    if (edit_takes(t, a, NULL)) return edit_add(t, (edit_entry){.kind = EDIT_NEGATE, .a = a}, out);
    inset_status status = trace_need_line(t, "arithmetic");
    if (status || (status = result_type(t, TRACE_NEGATE, a, NULL, &type))) return status;
    if ((status = storage_for_shape(t, STORAGE_FREE, type, &a->view, &made))
        || (status = trace_record_make(t, TRACE_NEGATE, &made, a, NULL)))
        return status;
    *out = tensor_operand(&made);
    return INSET_OK;
}

/* ---- in place ----------------------------------------------------------- */

static inset_status check_target(trace *t, const operand *target)
{
    inset_status status = trace_need_line(t, "an assignment to a tensor's elements");
    if (status) return status;
    if (target->kind != OPERAND_TENSOR)
        return error_set(t->context, INSET_TYPE_ERROR, "a number has no elements to set");
    if (target->unchangeable)
        return error_set(t->context, INSET_TYPE_ERROR, "%s can be read and not set",
            t->storages[target->view.storage].weight ? "weights" : "token ids and positions");
    if (target->copy) {
        status = error_set(t->context, INSET_VALUE_ERROR,
            "this writes to a copy: an index with a list makes one, and the result would be lost");
        error_help(t->context, "Put everything in one index, as in x[[0, 2], 1] = v.");
    }
    return status;
}

static inset_status check_source_shape(trace *t, const view *target, const operand *source)
{
    if (source->kind != OPERAND_TENSOR || view_broadcasts(&source->view, target)) return INSET_OK;
    char to[128], from[128];
    view_shape_text(target, to, sizeof to);
    view_shape_text(&source->view, from, sizeof from);
    return error_set(t->context, INSET_SHAPE_ERROR,
        "a value of shape %s does not broadcast to the shape %s of what is set", from, to);
}

/* target op source in the promoted type, checked to fit back into the target's: what `+=` and its
 * like compute before they write. */
static inset_status operate(
    trace *t, trace_op op, const operand *target, const operand *source, operand *out)
{
    inset_type type, kept = trace_operand_type(t, target);
    inset_status status = result_type(t, op, target, source, &type);
    if (status) return status;
    if (category(type) > category(kept))
        return error_set(t->context, INSET_TYPE_ERROR,
            "the result is %s and cannot be written back into a tensor of %s",
            type_torch_name(type), type_torch_name(kept));
    view made;
    if ((status = storage_for_shape(t, STORAGE_FREE, type, &target->view, &made))
        || (status = trace_record_make(t, op, &made, target, source)))
        return status;
    *out = tensor_operand(&made);
    return INSET_OK;
}

static inset_status set_view(trace *t, const operand *target, trace_op op, const operand *source)
{
    inset_status status = check_source_shape(t, &target->view, source);
    if (status) return status;
    operand result = *source;
    if (op != TRACE_COPY && (status = operate(t, op, target, source, &result))) return status;
    return record_set(t, &target->view, &result);
}

/* target[lists] op= source: gathered, computed once, and written element by element, as PyTorch
 * does. */
static inset_status set_lists(trace *t, const operand *target, size_t n_items,
    const index_item *items, const index_plan *plan, trace_op op, const operand *source)
{
    view shape;
    inset_status status = list_shape(t, &target->view, n_items, items, plan, &shape);
    if (status || (status = check_source_shape(t, &shape, source))) return status;
    for (int64_t k = 0; k < plan->length; k++) {
        view element;
        if ((status = index_element(t, &target->view, n_items, items, k, &element))) return status;
    }
    operand values = *source;
    if (op != TRACE_COPY) {
        operand gathered;
        if ((status = gather(t, target, n_items, items, plan, &gathered))
            || (status = operate(t, op, &gathered, source, &values)))
            return status;
    } else if (source->kind == OPERAND_TENSOR) { /* read whole before any element is written */
        if ((status = trace_convert(t, source, trace_operand_type(t, source), &values)))
            return status;
    }
    for (int64_t k = 0; k < plan->length; k++) {
        view to;
        operand element = values;
        if ((status = index_element(t, &target->view, n_items, items, k, &to))) return status;
        int place = plan->place
                    - (shape.n_dimensions
                        - (values.kind == OPERAND_TENSOR ? values.view.n_dimensions : 0));
        if (values.kind == OPERAND_TENSOR && place >= 0) {
            int64_t at = values.view.dimensions[place].extent == 1 ? 0 : k;
            if ((status = element_of(t, &values.view, place, at, &element.view))) return status;
        }
        if ((status = record_set(t, &to, &element))) return status;
    }
    return INSET_OK;
}

inset_status trace_set(trace *t, const operand *target, size_t n_items, const index_item *items,
    trace_op op, const operand *source)
{
    if (edit_takes(t, target, source)) {
        const edit_entry line = {.kind = EDIT_SET,
            .op = op,
            .a = target,
            .b = source,
            .n_items = n_items,
            .items = items};
        return edit_add(t, line, NULL);
    }
    inset_status status = check_target(t, target);
    if (!status) status = trace_refuse_tuple(t, target, n_items, items);
    if (status) return status;
    index_plan plan = {0};
    if ((status = check_items(t, &target->view, n_items, items, &plan))) return status;
    if (plan.lists) return set_lists(t, target, n_items, items, &plan, op, source);
    operand narrowed = *target;
    if ((status = view_index(t, &target->view, n_items, items, &narrowed.view))) return status;
    return set_view(t, &narrowed, op, source);
}
