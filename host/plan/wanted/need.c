/* need.c: finding the needs of a moment, and adding to them. */
#include "plan/wanted/wanted.h"

uint64_t need_hash(int32_t moment_index, int32_t strand_index, need_place where)
{
    uint64_t h = ((uint64_t)(uint32_t)moment_index << 32 | (uint32_t)strand_index) * 4 + where;
    h *= 0x9e3779b97f4a7c15u;
    return h ^ h >> 31;
}

need *schedule_find(
    const schedule *s, int32_t moment_index, int32_t strand_index, int32_t row, need_place where)
{
    size_t cursor = 0;
    const moment_plan *m = &s->moments[moment_index];
    need *shared = where == PLACE_VALUE ? layout_find(s, m->base, m->n_base, strand_index, row)
                                        : NULL;
    if (shared) return shared;
    for (int32_t at;
         (at = table_next(&s->lookup, need_hash(moment_index, strand_index, where), &cursor))
         >= 0;) {
        need *n = &s->needs[at];
        if (n->moment == moment_index && n->strand == strand_index && n->kind != NEED_JOINED
            && place_of(n->kind) == where && row >= n->lo && row < n->hi)
            return n;
    }
    return NULL;
}

bool schedule_widen_need(schedule *s, int32_t at, need_place where, int32_t strand_index,
    int32_t lo, int32_t hi, int32_t c0, int32_t c1)
{
    need *wide = NULL;
    size_t cursor = 0;
    for (int32_t i;
         (i = table_next(&s->lookup, need_hash(at, strand_index, where), &cursor)) >= 0;) {
        need *n = &s->needs[i];
        if (n == wide || n->moment != at || n->strand != strand_index || n->kind == NEED_JOINED
            || place_of(n->kind) != where)
            continue;
        if (hi < n->lo || lo > n->hi) continue;
        if (n->lo < lo) lo = n->lo;
        if (n->hi > hi) hi = n->hi;
        if (n->c0 < c0) c0 = n->c0;
        if (n->c1 > c1) c1 = n->c1;
        if (wide) {
            n->kind = NEED_JOINED;
            cursor = 0; /* wider now: it may touch what it did not before */
        } else wide = n;
        wide->lo = lo, wide->hi = hi, wide->c0 = c0, wide->c1 = c1;
    }
    return wide != NULL;
}

bool schedule_add_need(planner *p, schedule *s, const need *n)
{
    if (!array_extend(p->context, &s->needs, &s->needs_capacity, s->n_needs + 1, sizeof *s->needs))
        return false;
    moment_plan *m = &s->moments[n->moment];
    int32_t index = (int32_t)s->n_needs++;
    s->needs[index] = *n;
    s->needs[index].next = m->first_need;
    m->first_need = index;
    if (n->level > m->n_levels) m->n_levels = n->level;
    return table_add(
        p->context, &s->lookup, need_hash(n->moment, n->strand, place_of(n->kind)), index);
}
