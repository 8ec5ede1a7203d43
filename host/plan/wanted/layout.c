/* layout.c: rows that moments have in common. The rows that a step needs are mostly those of the
 * step behind it; they are listed once, and a moment says which list and how much of it. See the
 * head of schedule.h.
 *
 * Why a part from the front is enough: a strand lives on through all later steps, so going back
 * from a moment to the one before it, the only strands that may be missing are those born in
 * between, and a layout has the youngest last. */
#include "plan/wanted/wanted.h"

#include <stdlib.h>
#include <string.h>

int32_t strand_age(const planner *p, int32_t strand_index)
{
    const strand *t = &p->strands[strand_index];
    const step *s = &p->program->steps[p->program->values[t->born].step];
    bool apart = t->kind == STRAND_MIX || scale_given(p, s, strand_index);
    return 4 * t->born + (t->kind == STRAND_COPY ? 2 : apart);
}

int32_t layout_prefix(const layout *l, int32_t age)
{
    int32_t low = 0, high = l->n;
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (l->ages[middle] <= age) low = middle + 1;
        else high = middle;
    }
    return low;
}

int32_t layout_rows(const schedule *s, int32_t layout_index, int32_t n)
{
    if (layout_index < 0) return 0;
    const layout *l = &s->layouts[layout_index];
    return n < l->n ? s->needs[l->order[n]].first_row : l->rows;
}

/* A layout's first need of a strand, and its next one. Needs of one strand stand side by side. */
static need *first_of(const schedule *s, int32_t layout_index, int32_t strand_index)
{
    const layout *l = &s->layouts[layout_index];
    if (l->by_strand) {
        const int64_t i = (int64_t)strand_index - l->first_strand;
        return i >= 0 && i < l->n_strands && l->by_strand[i] ? &s->needs[l->by_strand[i] - 1]
                                                             : NULL;
    }
    const int32_t key = s->n_moments + layout_index;
    size_t cursor = 0;
    for (int32_t at;
         (at = table_next(&s->lookup, need_hash(key, strand_index, PLACE_VALUE), &cursor)) >= 0;)
        if (s->needs[at].moment == key && s->needs[at].strand == strand_index) return &s->needs[at];
    return NULL;
}

static need *next_of(const schedule *s, int32_t layout_index, const need *d)
{
    const layout *l = &s->layouts[layout_index];
    need *next = d->place + 1 < l->n ? &s->needs[l->order[d->place + 1]] : NULL;
    return next && next->strand == d->strand ? next : NULL;
}

need *layout_find(
    const schedule *s, int32_t layout_index, int32_t n, int32_t strand_index, int32_t row)
{
    if (layout_index < 0) return NULL;
    for (need *d = first_of(s, layout_index, strand_index); d && row >= d->lo;
         d = next_of(s, layout_index, d))
        if (row < d->hi) return d->place < n ? d : NULL;
    return NULL;
}

static bool layout_has(const schedule *s, int32_t layout_index, int32_t n, const need *wanted)
{
    const need *d = layout_find(s, layout_index, n, wanted->strand, wanted->lo);
    return d && wanted->hi <= d->hi;
}

/* ---- making one --------------------------------------------------------- */

typedef struct item {
    int32_t age, strand, lo, hi;
} item;
typedef struct item_list {
    item *at;
    int32_t n;
} item_list;

static int compare_items(const void *a, const void *b)
{
    const item *x = a, *y = b;
    if (x->age != y->age) return x->age < y->age ? -1 : 1;
    if (x->strand != y->strand) return x->strand < y->strand ? -1 : 1;
    return (x->lo > y->lo) - (x->lo < y->lo);
}

/* Sorts them and joins rows of one strand that touch. */
static void join_items(item_list *list)
{
    int32_t kept = 0;
    qsort(list->at, (size_t)list->n, sizeof *list->at, compare_items);
    for (int32_t i = 0; i < list->n; i++) {
        item *last = kept ? &list->at[kept - 1] : NULL;
        if (last && last->strand == list->at[i].strand && list->at[i].lo <= last->hi) {
            if (list->at[i].hi > last->hi) last->hi = list->at[i].hi;
        } else list->at[kept++] = list->at[i];
    }
    list->n = kept;
}

/* Room to find a layout's needs by their strands, where these are not scattered. */
static bool index_strands(planner *p, const item_list *list, layout *made)
{
    int32_t first = INT32_MAX, last = -1;
    for (int32_t i = 0; i < list->n; i++) {
        if (list->at[i].strand < first) first = list->at[i].strand;
        if (list->at[i].strand > last) last = list->at[i].strand;
    }
    if (last < 0 || (int64_t)last - first >= 8 * (int64_t)list->n + 64) return true;
    made->first_strand = first;
    made->n_strands = last - first + 1;
    return (made->by_strand = arena_new(
                &p->scratch, (size_t)made->n_strands * sizeof *made->by_strand))
           != NULL;
}

/* A new layout of these rows; -1 when memory is out. */
static int32_t layout_create(planner *p, schedule *s, item_list *list)
{
    join_items(list);
    if (!array_extend(
            p->context, &s->layouts, &s->layouts_capacity, s->n_layouts + 1, sizeof *s->layouts))
        return -1;
    layout made = {.n = list->n,
        .order = arena_new(&p->scratch, (size_t)list->n * sizeof *made.order),
        .ages = arena_new(&p->scratch, (size_t)list->n * sizeof *made.ages),
        .closed = -1,
        .closure = -1};
    if (!made.order || !made.ages
        || !array_extend(p->context, &s->needs, &s->needs_capacity, s->n_needs + (size_t)list->n,
            sizeof *s->needs))
        return -1;
    if (!index_strands(p, list, &made)) return -1;
    int32_t index = (int32_t)s->n_layouts, key = s->n_moments + index;
    for (int32_t i = 0; i < list->n; i++) {
        const item *from = &list->at[i];
        if (made.rows > INT32_MAX - (from->hi - from->lo)) {
            error_set(p->context, INSET_NO_MEMORY, "a step would have more than 2^31 rows");
            return -1;
        }
        made.order[i] = (int32_t)s->n_needs;
        made.ages[i] = from->age;
        s->needs[s->n_needs++] = (need){.strand = from->strand,
            .lo = from->lo,
            .hi = from->hi,
            .moment = key,
            .next = -1,
            .place = i,
            .first_row = made.rows,
            .list = -1,
            .kind = NEED_COMPUTED};
        made.rows += from->hi - from->lo;
        if (i && list->at[i - 1].strand == from->strand) continue;
        if (made.by_strand) made.by_strand[from->strand - made.first_strand] = made.order[i] + 1;
        else if (!table_add(p->context, &s->lookup, need_hash(key, from->strand, PLACE_VALUE),
                     made.order[i]))
            return -1;
    }
    s->layouts[s->n_layouts++] = made;
    return index;
}

static void add_item(
    const planner *p, item_list *list, int32_t strand_index, int32_t lo, int32_t hi)
{
    list->at[list->n++] = (item){strand_age(p, strand_index), strand_index, lo, hi};
}

static void add_layout_items(const schedule *s, item_list *list, int32_t layout_index, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        const layout *l = &s->layouts[layout_index];
        const need *d = &s->needs[l->order[i]];
        list->at[list->n++] = (item){l->ages[i], d->strand, d->lo, d->hi};
    }
}

/* ---- giving moments layouts --------------------------------------------- */

/* Does the first part of layout a have all of the first part of b? */
static bool layout_covers(const schedule *s, int32_t a, int32_t n_a, int32_t b, int32_t n_b)
{
    if (layout_rows(s, a, n_a) < layout_rows(s, b, n_b)) return false;
    for (int32_t i = 0; i < n_b; i++)
        if (!layout_has(s, a, n_a, &s->needs[s->layouts[b].order[i]])) return false;
    return true;
}

bool layout_attach(planner *p, schedule *s, int32_t at, int32_t layout_index, int32_t n)
{
    moment_plan *m = &s->moments[at];
    if (!n) return true;
    if (m->base == layout_index) {
        if (n > m->n_base) m->n_base = n;
        return true;
    }
    if (m->base >= 0 && layout_covers(s, m->base, m->n_base, layout_index, n)) return true;
    if (m->base < 0 || layout_covers(s, layout_index, n, m->base, m->n_base)) {
        m->base = layout_index;
        m->n_base = n;
        return true;
    }
    /* neither has the other: what is missing becomes the moment's own until it settles */
    for (int32_t i = 0; i < n; i++) {
        need d = s->needs[s->layouts[layout_index].order[i]];
        if (layout_has(s, m->base, m->n_base, &d)
            || schedule_widen_need(s, at, PLACE_VALUE, d.strand, d.lo, d.hi, 0, 0))
            continue;
        d.moment = at;
        if (!schedule_add_need(p, s, &d)) return false;
    }
    return true;
}

/* Rows that a launch of its own makes must be the last of their moment. */
static bool comes_last(const planner *p, int32_t value_index, int32_t strand_index)
{
    return strand_age(p, strand_index) == computed_age(value_index);
}

/* Own needs that the layout has go. Counts those that stay; *apart: they can stand behind the
 * layout's rows as they are. */
static int32_t drop_covered(
    const planner *p, schedule *s, moment_plan *m, int32_t value_index, bool *apart)
{
    int32_t n = 0;
    *apart = true;
    bool last = m->n_base && s->layouts[m->base].ages[m->n_base - 1] == computed_age(value_index);
    for (int32_t i = m->first_need; i >= 0; i = s->needs[i].next) {
        need *d = &s->needs[i];
        if (d->kind != NEED_COMPUTED) continue;
        if (layout_has(s, m->base, m->n_base, d)) {
            d->kind = NEED_JOINED;
            continue;
        }
        n++;
        *apart &= !last && !comes_last(p, value_index, d->strand);
        for (const need *other = m->base >= 0 ? first_of(s, m->base, d->strand) : NULL; other;
             other = next_of(s, m->base, other))
            /* rows must not come twice */
            if (other->place < m->n_base && other->lo < d->hi && d->lo < other->hi) *apart = false;
    }
    return n;
}

/* Rows that are apart where a block begins, and are older than the block before it, mostly stay
 * apart in all blocks before: there they are taken into the layout. */
static bool stays_apart(
    const planner *p, const schedule *s, const moment_plan *m, int32_t value_index)
{
    int32_t k = 1;
    while (k < p->n_boundaries && p->boundaries[k].value != value_index) k++;
    if (k >= p->n_boundaries) return false;
    for (int32_t i = m->first_need; i >= 0; i = s->needs[i].next)
        if (s->needs[i].kind == NEED_COMPUTED
            && strand_age(p, s->needs[i].strand) <= computed_age(p->boundaries[k - 1].value))
            return true;
    return false;
}

bool layout_settle(planner *p, schedule *s, int32_t at)
{
    moment_plan *m = &s->moments[at];
    int32_t value_index = moment_of(p, at).value;
    bool apart;
    if (value_index < 0 || m->first_need < 0) return true;
    int32_t n = drop_covered(p, s, m, value_index, &apart);
    step_kind kind = p->program->steps[p->program->values[value_index].step].kind;
    if (!n || (apart && m->base >= 0 && n <= m->n_base / 4 && !stays_apart(p, s, m, value_index)))
        return true;
    /* they pass columns on, which a layout does not know */
    if (m->base < 0 && (kind == STEP_SOFTCAP || kind == STEP_SCALE)) return true;
    item_list list = {arena_new(&p->scratch, (size_t)(n + m->n_base) * sizeof *list.at), 0};
    if (!list.at) return false;
    add_layout_items(s, &list, m->base, m->n_base);
    for (int32_t i = m->first_need; i >= 0; i = s->needs[i].next) {
        need *d = &s->needs[i];
        if (d->kind != NEED_COMPUTED) continue;
        add_item(p, &list, d->strand, d->lo, d->hi);
        d->kind = NEED_JOINED;
    }
    m->base = layout_create(p, s, &list);
    m->n_base = m->base < 0 ? 0 : s->layouts[m->base].n;
    return m->base >= 0;
}

/* ---- contexts ----------------------------------------------------------- */

/* The strand that a strand's context goes on from, where its rows are made in the same pass; -1:
 * none. Rows of earlier passes are no layout's affair. */
static int32_t parent_here(const planner *p, int32_t strand_index)
{
    const strand *t = &p->strands[strand_index];
    return t->parent >= 0 && p->strands[t->parent].pass == t->pass ? t->parent : -1;
}

/* A layout has the rows of a strand from its first on, and those that its context goes on from. */
static bool has_context(const planner *p, const schedule *s, int32_t layout_index, const need *d)
{
    const strand *t = &p->strands[d->strand];
    if (d->lo || t->parent == PARENT_NONE || d->hi < context_rows_of(p, d->strand, d->hi))
        return false;
    if (parent_here(p, d->strand) < 0) return true;
    return layout_has(
        s, layout_index, d->place, &(need){.strand = t->parent, .lo = 0, .hi = t->parent_row});
}

/* Parents are older, so where a need's parent is in the layout with its context, the need has its
 * own. */
static void extend_closed(const planner *p, schedule *s, int32_t layout_index, int32_t n)
{
    layout *l = &s->layouts[layout_index];
    if (l->closed < 0) l->closed = 0;
    while (l->closed < n && has_context(p, s, layout_index, &s->needs[l->order[l->closed]]))
        l->closed++;
}

/* The layout of the first n needs and all rows in their contexts; -1: memory is out. A strand is
 * gone up from again only where more of its rows are asked for than before. */
static int32_t with_contexts(planner *p, schedule *s, const layout *l, int32_t n)
{
    /* rows of each strand */
    int32_t *asked = arena_new(&p->scratch, p->n_strands * sizeof *asked), strands = 0;
    if (!asked) return -1;
    for (int32_t i = 0; i < n; i++) {
        const need *d = &s->needs[l->order[i]];
        int32_t rows = context_rows_of(p, d->strand, d->hi);
        for (int32_t at = d->strand; at >= 0 && asked[at] < rows;
             rows = p->strands[at].parent_row, at = parent_here(p, at)) {
            strands += !asked[at];
            asked[at] = rows;
        }
    }
    item_list list = {arena_new(&p->scratch, (size_t)strands * sizeof *list.at), 0};
    if (!list.at) return -1;
    for (size_t at = 0; at < p->n_strands; at++)
        if (asked[at]) add_item(p, &list, (int32_t)at, 0, asked[at]);
    return layout_create(p, s, &list);
}

int32_t layout_closure(planner *p, schedule *s, int32_t layout_index, int32_t n, int32_t *count)
{
    extend_closed(p, s, layout_index, n);
    layout *l = &s->layouts[layout_index];
    *count = n;
    if (l->closed >= n) return layout_index;
    if (l->closure < 0 || l->closure_of != n) {
        int32_t made = with_contexts(p, s, l, n);
        if (made < 0) return -1;
        l = &s->layouts[layout_index];
        l->closure = made;
        l->closure_of = n;
    }
    *count = s->layouts[l->closure].n;
    return l->closure;
}
