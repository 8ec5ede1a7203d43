/* view.c: some elements of a storage, with a shape: PyTorch's views over rows of sequences.
 *
 * A view's dimensions are of three kinds. The sequence dimension chooses spans (rows of one
 * sequence each); row dimensions step through the rows of a span; column dimensions step through
 * the elements of a row. One row dimension may be ragged: then each span has its own extent,
 * negative positions count from its own end, and slices clip to it. */
#include "trace/records.h"

#include <stdio.h>
#include <string.h>

const view *view_keep(trace *t, const view *v)
{
    size_t size = offsetof(view, dimensions) + (size_t)v->n_dimensions * sizeof v->dimensions[0];
    return arena_copy(&t->memory, v, size);
}

int view_sequence_dimension(const view *v)
{
    for (int i = 0; i < v->n_dimensions; i++)
        if (v->dimensions[i].kind == DIMENSION_SEQUENCE) return i;
    return -1;
}

int64_t view_extent(const view *v, int d, int32_t span)
{
    if (d == v->position_dimension && v->dimensions[d].ragged) return v->spans[span].count;
    return v->dimensions[d].extent;
}

int64_t view_elements(const view *v)
{
    int64_t n = 1;
    for (int i = 0; i < v->n_dimensions; i++) n *= v->dimensions[i].extent;
    return n;
}

void view_shape_text(const view *v, char *out, size_t size)
{
    size_t at = 0;
    at += (size_t)snprintf(out, size, "(");
    for (int i = 0; i < v->n_dimensions && at + 32 < size; i++) {
        const dimension *d = &v->dimensions[i];
        if (i) at += (size_t)snprintf(out + at, size - at, ", ");
        if (!d->ragged) {
            at += (size_t)snprintf(out + at, size - at, "%lld", (long long)d->extent);
            continue;
        }
        for (int32_t s = 0; s < v->n_spans && at + 32 < size; s++)
            at += (size_t)snprintf(out + at, size - at, s ? "|%d" : "%d", v->spans[s].count);
    }
    if (at < size) snprintf(out + at, size - at, v->n_dimensions == 1 ? ",)" : ")");
}

/* Brings a view's position dimension up to date with its spans' counts. */
static void settle_position(view *v)
{
    if (v->position_dimension < 0) return;
    dimension *d = &v->dimensions[v->position_dimension];
    d->ragged = false;
    /* of no sequences, the extent stays what it was */
    if (v->n_spans) d->extent = v->spans[0].count;
    for (int32_t s = 1; s < v->n_spans; s++) {
        if (v->spans[s].count != v->spans[0].count) d->ragged = true;
        if (v->spans[s].count > d->extent) d->extent = v->spans[s].count;
    }
}

inset_status view_of_value(trace *t, int32_t invoke_index, int32_t slot_index, view *out)
{
    invoke *v = &t->invokes[invoke_index];
    const slot *s = &t->program->slots[slot_index];
    const value *made = &t->program->values[s->value];
    int32_t at = -1;
    for (size_t i = 0; i < v->n_values && at < 0; i++)
        if (v->values[i].value == s->value) at = v->values[i].storage;
    if (at < 0) {
        if (!array_reserve(t->context, &t->storages, &t->storages_capacity, t->n_storages + 1,
                sizeof *t->storages)
            || !array_reserve(
                t->context, &v->values, &v->values_capacity, v->n_values + 1, sizeof *v->values))
            return INSET_NO_MEMORY;
        storage *fresh = &t->storages[t->n_storages];
        *fresh = (storage){.kind = STORAGE_VALUE,
            .type = made->integer ? INSET_I64 : t->model_type,
            .invoke = invoke_index,
            .value = s->value,
            .n_sequences = made->per_position ? 1 : v->n_sequences,
            .width = made->width};
        fresh->lengths = made->per_position ? &v->longest : v->lengths;
        /* invokes move when their array grows: the length needs a place of its own */
        if (made->per_position) {
            fresh->lengths = arena_copy(&t->memory, &v->longest, sizeof v->longest);
            if (!fresh->lengths) return INSET_NO_MEMORY;
        }
        at = (int32_t)t->n_storages++;
        v->values[v->n_values++] = (value_storage){s->value, at};
    }
    if (s->shape.by_keys) t->storages[at].width = (int64_t)made->width * v->longest;
    const storage *memory = &t->storages[at];
    span *spans = arena_new(&t->memory, (size_t)memory->n_sequences * sizeof *spans);
    if (!spans) return INSET_NO_MEMORY;
    for (int32_t i = 0; i < memory->n_sequences; i++) spans[i] = (span){i, 0, memory->lengths[i]};
    *out = (view){.storage = at,
        .n_spans = memory->n_sequences,
        .spans = spans,
        .column = s->shape.column,
        .position_dimension = -1};
    out->dimensions[out->n_dimensions++] = (dimension){
        .kind = DIMENSION_SEQUENCE, .extent = memory->n_sequences};
    if (s->shape.has_position) {
        out->position_dimension = out->n_dimensions;
        out->dimensions[out->n_dimensions++] = (dimension){.kind = DIMENSION_ROW, .stride = 1};
        settle_position(out);
    }
    int64_t stride = 1;
    if (s->shape.by_keys) { /* batch, head, query, key */
        dimension query = out->dimensions[--out->n_dimensions];
        out->dimensions[out->n_dimensions++] = (dimension){
            .kind = DIMENSION_COLUMN, .extent = s->shape.extent[0], .stride = v->longest};
        out->position_dimension = out->n_dimensions;
        out->dimensions[out->n_dimensions++] = query;
        out->dimensions[out->n_dimensions++] = (dimension){
            .kind = DIMENSION_COLUMN, .extent = v->longest, .stride = 1};
        return INSET_OK;
    }
    for (int i = s->shape.n_columns - 1; i >= 0; i--) {
        out->dimensions[out->n_dimensions + i] = (dimension){
            .kind = DIMENSION_COLUMN, .extent = s->shape.extent[i], .stride = stride};
        stride = s->shape.stride ? s->shape.stride : stride * s->shape.extent[i];
    }
    out->n_dimensions += s->shape.n_columns;
    return INSET_OK;
}

bool slot_is_plain(const trace *t, const invoke *v, int32_t slot)
{
    if (!v->n_rebindings) return true;
    for (; slot >= 0; slot = t->program->slots[slot].source)
        for (size_t i = 0; i < v->n_rebindings; i++)
            if (v->rebindings[i].slot == slot) return false;
    return true;
}

bool view_flatten(view *v)
{
    if (v->n_dimensions < 2) return false;
    dimension *outer = &v->dimensions[v->n_dimensions - 2], *inner = outer + 1;
    bool dense = outer->stride == inner->stride * inner->extent || outer->extent == 1
                 || inner->extent == 1;
    if (outer->kind != inner->kind || !dense) return false;
    if (inner->extent == 1 && outer->extent != 1) inner->stride = outer->stride;
    inner->extent *= outer->extent;
    *outer = *inner;
    v->n_dimensions--;
    return true;
}

/* Shows `v`, a tensor of the source slot's shape, as the slot `to` does: a window of the last
 * dimension, split anew. */
static void view_through_window(const slot *from, const slot *to, view *v)
{
    int32_t shift = to->shape.column - from->shape.column;
    bool same = !shift && to->shape.n_columns == from->shape.n_columns;
    for (int i = 0; same && i < to->shape.n_columns; i++)
        same = to->shape.extent[i] == from->shape.extent[i];
    if (from->shape.n_columns == 2 && to->shape.n_columns == 1) view_flatten(v);
    if (same || from->shape.n_columns != 1) return;
    dimension last = v->dimensions[--v->n_dimensions];
    if (last.kind == DIMENSION_COLUMN) v->column += shift * last.stride;
    int64_t stride = last.stride;
    for (int i = to->shape.n_columns - 1; i >= 0; i--) {
        v->dimensions[v->n_dimensions + i] = (dimension){
            .kind = last.kind, .extent = to->shape.extent[i], .stride = stride};
        stride *= to->shape.stride ? to->shape.stride : to->shape.extent[i];
    }
    v->n_dimensions += to->shape.n_columns;
}

inset_status view_of_slot(trace *t, int32_t invoke_index, int32_t slot_index, view *out)
{
    const invoke *v = &t->invokes[invoke_index];
    const slot *s = &t->program->slots[slot_index];
    if (slot_is_plain(t, v, slot_index)) return view_of_value(t, invoke_index, slot_index, out);
    for (size_t i = v->n_rebindings; i-- > 0;)
        if (v->rebindings[i].slot == slot_index) {
            const view *kept = v->rebindings[i].view;
            memset(out, 0, sizeof *out);
            memcpy(out, kept,
                offsetof(view, dimensions)
                    + (size_t)kept->n_dimensions * sizeof kept->dimensions[0]);
            return INSET_OK;
        }
    inset_status status = view_of_slot(t, invoke_index, s->source, out);
    if (status) return status;
    const slot *from = &t->program->slots[s->source];
    dimension last = out->dimensions[out->n_dimensions - 1];
    int32_t shift = s->shape.column - from->shape.column;
    view_through_window(from, s, out);
    /* the window of a tensor whose last dimension runs over rows */
    if (last.kind == DIMENSION_ROW && shift) {
        span *spans = arena_copy(&t->memory, out->spans, (size_t)out->n_spans * sizeof *spans);
        if (!spans) return INSET_NO_MEMORY;
        for (int32_t i = 0; i < out->n_spans; i++) spans[i].start += (int32_t)(shift * last.stride);
        out->spans = spans;
    }
    return INSET_OK;
}

bool view_cut_to(trace *t, view *v, const view *ragged)
{
    int position = ragged->position_dimension, sequence = view_sequence_dimension(ragged);
    if (position < 0 || sequence < 0 || !ragged->dimensions[position].ragged
        || v->dimensions[position].ragged)
        return true;
    if (v->dimensions[position].kind != DIMENSION_ROW
        || v->dimensions[sequence].kind == DIMENSION_COLUMN)
        return true;
    /* one span holds all sequences, one behind the other */
    bool by_rows = v->dimensions[sequence].kind == DIMENSION_ROW;
    span *spans = arena_new(&t->memory, (size_t)ragged->n_spans * sizeof *spans);
    if (!spans) return false;
    for (int32_t s = 0; s < ragged->n_spans; s++) {
        spans[s] = v->spans[by_rows ? 0 : s];
        if (by_rows) spans[s].start += (int32_t)(s * v->dimensions[sequence].stride);
        spans[s].count = ragged->spans[s].count;
    }
    v->spans = spans;
    v->n_spans = ragged->n_spans;
    v->dimensions[sequence].kind = DIMENSION_SEQUENCE;
    v->position_dimension = position;
    settle_position(v);
    return true;
}

/* ---- new storages ------------------------------------------------------- */

/* Sequences first if at all, at most one dimension of positions, the others columns: such a tensor
 * keeps its rows. */
static bool is_structured(const view *shape, int *position)
{
    *position = -1;
    bool rows = false;
    for (int i = 0; i < shape->n_dimensions; i++) {
        uint8_t kind = shape->dimensions[i].kind;
        rows |= kind != DIMENSION_COLUMN;
        if (kind == DIMENSION_SEQUENCE && i) return false;
        if (kind != DIMENSION_ROW) continue;
        if (*position >= 0) return false;
        *position = i;
    }
    return rows;
}

static inset_status structured_storage(
    trace *t, const view *shape, int position, storage *s, view *out)
{
    int sequence = view_sequence_dimension(shape);
    bool rows = position >= 0;
    s->n_sequences = sequence < 0 ? 1 : (int32_t)shape->dimensions[sequence].extent;
    int32_t *lengths = arena_new(&t->memory, (size_t)s->n_sequences * sizeof *lengths);
    span *spans = arena_new(&t->memory, (size_t)s->n_sequences * sizeof *spans);
    if (!lengths || !spans) return INSET_NO_MEMORY;
    for (int32_t i = 0; i < s->n_sequences; i++) {
        lengths[i] = !rows ? 1
                     : shape->dimensions[position].ragged
                         ? shape->spans[i].count
                         : (int32_t)shape->dimensions[position].extent;
        spans[i] = (span){i, 0, lengths[i]};
    }
    s->lengths = lengths;
    out->spans = spans;
    out->n_spans = s->n_sequences;
    out->position_dimension = rows ? position : -1;
    s->width = 1;
    for (int i = shape->n_dimensions - 1; i >= 0; i--) {
        dimension *d = &out->dimensions[i];
        *d = (dimension){.kind = shape->dimensions[i].kind, .extent = shape->dimensions[i].extent};
        if (d->kind == DIMENSION_ROW) d->stride = 1;
        if (d->kind != DIMENSION_COLUMN) continue;
        d->stride = s->width;
        s->width *= d->extent;
    }
    settle_position(out);
    return INSET_OK;
}

static inset_status plain_storage(trace *t, const view *shape, storage *s, view *out)
{
    int n = shape->n_dimensions;
    int64_t rows = 1;
    s->width = n ? shape->dimensions[n - 1].extent : 1;
    if (n > 0)
        out->dimensions[n - 1] = (dimension){
            .kind = DIMENSION_COLUMN, .extent = s->width, .stride = 1};
    for (int i = n - 2; i >= 0; i--) {
        out->dimensions[i] = (dimension){
            .kind = DIMENSION_ROW, .extent = shape->dimensions[i].extent, .stride = rows};
        rows *= shape->dimensions[i].extent;
    }
    if (rows > INT32_MAX || s->width > INT32_MAX)
        return error_set(t->context, INSET_VALUE_ERROR,
            "a tensor of %lld rows of %lld elements is more than inset holds", (long long)rows,
            (long long)s->width);
    int32_t *lengths = arena_new(&t->memory, sizeof *lengths);
    span *spans = arena_new(&t->memory, sizeof *spans);
    if (!lengths || !spans) return INSET_NO_MEMORY;
    lengths[0] = (int32_t)rows;
    spans[0] = (span){0, 0, 1};
    s->n_sequences = 1;
    s->lengths = lengths;
    out->spans = spans;
    out->n_spans = 1;
    out->position_dimension = -1;
    return INSET_OK;
}

inset_status storage_for_shape(
    trace *t, storage_kind kind, inset_type type, const view *shape, view *out)
{
    storage s = {.kind = kind, .type = type, .invoke = -1, .value = -1};
    view made = {.n_dimensions = shape->n_dimensions};
    int position;
    inset_status status = is_structured(shape, &position)
                              ? structured_storage(t, shape, position, &s, &made)
                              : plain_storage(t, shape, &s, &made);
    if (status) return status;
    if (!array_reserve(t->context, &t->storages, &t->storages_capacity, t->n_storages + 1,
            sizeof *t->storages))
        return INSET_NO_MEMORY;
    made.storage = (int32_t)t->n_storages;
    t->storages[t->n_storages++] = s;
    *out = made;
    return INSET_OK;
}

/* ---- indexing ----------------------------------------------------------- */

static inset_status out_of_range(trace *t, int64_t index, int d, int64_t extent, int32_t sequence)
{
    inset_status status = error_set(t->context, INSET_INDEX_ERROR,
        "index %lld is out of bounds for dimension %d with size %lld", (long long)index, d,
        (long long)extent);
    if (sequence >= 0)
        error_help(t->context,
            "Sequence %d of this invoke has %lld positions; a single position must exist in every "
            "sequence.",
            sequence, (long long)extent);
    return status;
}

/* A slice's first index and its number of steps, as Python clips them. */
static void clip_slice(const index_item *item, int64_t extent, int64_t *first, int64_t *count)
{
    int64_t start = item->has_start ? item->start : 0, stop = item->has_stop ? item->stop : extent;
    int64_t step = item->has_step ? item->step : 1;
    if (start < 0) start = start < -extent ? 0 : start + extent;
    if (stop < 0) stop = stop < -extent ? 0 : stop + extent;
    if (start > extent) start = extent;
    if (stop > extent) stop = extent;
    *first = start;
    *count = stop > start ? (stop - start - 1) / step + 1 : 0;
}

static span *own_spans(trace *t, view *v)
{
    span *spans = arena_copy(&t->memory, v->spans, (size_t)v->n_spans * sizeof *spans);
    if (spans) v->spans = spans;
    return spans;
}

/* Applies an integer or a slice to dimension d of *v in place; an integer leaves the dimension with
 * extent 1, to be dropped. */
static inset_status narrow(trace *t, view *v, int d, int shown, const index_item *item)
{
    dimension *dim = &v->dimensions[d];
    bool integer = item->kind == INDEX_INTEGER;
    int64_t step = item->has_step ? item->step : 1, first, count;
    if (!integer && step < 1)
        return error_set(t->context, INSET_VALUE_ERROR,
            "a slice's step must be 1 or more, found %lld", (long long)step);
    /* one element at most, and a stride that does not overflow */
    if (step > dim->extent) step = dim->extent ? dim->extent : 1;
    if (d == v->position_dimension && v->n_spans) {
        span *spans = own_spans(t, v);
        if (!spans && v->n_spans) return INSET_NO_MEMORY;
        bool ragged = dim->ragged;
        for (int32_t s = 0; s < v->n_spans; s++) {
            int64_t extent = spans[s].count,
                    at = item->integer < 0 ? item->integer + extent : item->integer;
            if (integer && (at < 0 || at >= extent))
                return out_of_range(t, item->integer, shown, extent, ragged ? s : -1);
            if (integer) first = at, count = 1;
            else clip_slice(item, extent, &first, &count);
            spans[s].start += (int32_t)(first * dim->stride);
            spans[s].count = (int32_t)count;
        }
        dim->stride *= integer ? 1 : step;
        settle_position(v);
        return INSET_OK;
    }
    int64_t extent = dim->extent, at = item->integer < 0 ? item->integer + extent : item->integer;
    if (integer && (at < 0 || at >= extent))
        return out_of_range(t, item->integer, shown, extent, -1);
    if (integer) first = at, count = 1;
    else clip_slice(item, extent, &first, &count);
    dim->extent = count;
    if (dim->kind == DIMENSION_SEQUENCE) {
        span *spans = arena_new(&t->memory, (size_t)count * sizeof *spans);
        if (!spans) return INSET_NO_MEMORY;
        for (int64_t s = 0; s < count; s++) spans[s] = v->spans[first + s * step];
        v->spans = spans;
        v->n_spans = (int32_t)count;
        settle_position(v);
        return INSET_OK;
    }
    if (dim->kind == DIMENSION_ROW && first) {
        span *spans = own_spans(t, v);
        if (!spans && v->n_spans) return INSET_NO_MEMORY;
        for (int32_t s = 0; s < v->n_spans; s++) spans[s].start += (int32_t)(first * dim->stride);
    }
    if (dim->kind == DIMENSION_COLUMN) v->column += first * dim->stride;
    dim->stride *= integer ? 1 : step;
    return INSET_OK;
}

static void drop_dimension(view *v, int d)
{
    if (d == v->position_dimension) v->position_dimension = -1;
    else if (d < v->position_dimension) v->position_dimension--;
    memmove(&v->dimensions[d], &v->dimensions[d + 1],
        (size_t)(v->n_dimensions - d - 1) * sizeof v->dimensions[0]);
    v->n_dimensions--;
}

bool view_insert(view *v, int d)
{
    if (v->n_dimensions >= INSET_MAX_DIMENSIONS) return false;
    memmove(&v->dimensions[d + 1], &v->dimensions[d],
        (size_t)(v->n_dimensions - d) * sizeof v->dimensions[0]);
    v->dimensions[d] = (dimension){.kind = DIMENSION_COLUMN, .extent = 1, .stride = 1};
    if (v->position_dimension >= d) v->position_dimension++;
    v->n_dimensions++;
    return true;
}

void view_move(view *v, int from, int to)
{
    const int step = from < to ? 1 : -1;
    for (int i = from; i != to; i += step) {
        const dimension moved = v->dimensions[i];
        v->dimensions[i] = v->dimensions[i + step];
        v->dimensions[i + step] = moved;
        if (v->position_dimension == i) v->position_dimension = i + step;
        else if (v->position_dimension == i + step) v->position_dimension = i;
    }
}

bool view_is_ragged(const view *v)
{
    return v->position_dimension >= 0 && v->dimensions[v->position_dimension].ragged;
}

inset_status view_index(
    trace *t, const view *base, size_t n_items, const index_item *items, view *out)
{
    view v = {.n_dimensions = 0};
    memcpy(&v, base,
        offsetof(view, dimensions) + (size_t)base->n_dimensions * sizeof base->dimensions[0]);
    size_t named = 0;
    for (size_t i = 0; i < n_items; i++)
        named += items[i].kind != INDEX_ELLIPSIS && items[i].kind != INDEX_NEW;
    int d = 0, shown = 0;
    for (size_t i = 0; i < n_items; i++) {
        if (items[i].kind == INDEX_NEW) {
            if (!view_insert(&v, d++))
                return error_set(t->context, INSET_SHAPE_ERROR,
                    "None makes a tensor of more than the %d dimensions inset knows",
                    INSET_MAX_DIMENSIONS);
            continue;
        }
        if (items[i].kind == INDEX_ELLIPSIS) {
            int skip = base->n_dimensions - (int)named;
            d += skip, shown += skip;
            continue;
        }
        inset_status status = narrow(t, &v, d, shown++, &items[i]);
        if (status) return status;
        if (items[i].kind == INDEX_INTEGER) drop_dimension(&v, d);
        else d++;
    }
    if (view_is_ragged(&v) && view_sequence_dimension(&v) > 0)
        return error_set(t->context, INSET_SHAPE_ERROR,
            "prompts of different lengths are a tensor's first dimension: None cannot stand before "
            "them");
    *out = v;
    return INSET_OK;
}

/* ---- broadcasting ------------------------------------------------------- */

bool view_broadcasts(const view *from, const view *to)
{
    int shift = to->n_dimensions - from->n_dimensions;
    int to_sequence = view_sequence_dimension(to), from_sequence = view_sequence_dimension(from);
    for (int i = 0; i < from->n_dimensions; i++) {
        const dimension *f = &from->dimensions[i];
        if (i + shift < 0) {
            if (f->extent != 1 || f->ragged) return false;
            continue;
        }
        const dimension *d = &to->dimensions[i + shift];
        if (f->extent == 1 && !f->ragged) continue;
        if (!d->ragged && !f->ragged) {
            if (f->extent != d->extent) return false;
            continue;
        }
        /* padded to the longest: what lies behind a sequence's end is ignored */
        if (!f->ragged) {
            if (f->extent != d->extent) return false;
            continue;
        }
        if (from_sequence + shift != to_sequence) return false;
        for (int32_t s = 0; s < to->n_spans; s++)
            if (view_extent(to, i + shift, s) != from->spans[s].count) return false;
    }
    return true;
}
