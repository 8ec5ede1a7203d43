/* identity.c: which rows are the same row. Strands are found or made here; see planner.h for what
 * they are.
 *
 * Nothing in this file knows a number: identities depend only on which tokens are equal and what
 * the records say. */
#include "plan/rows/rows.h"

#include <string.h>

/* ---- maps --------------------------------------------------------------- */

bool segments_add(
    planner *p, segment_list *list, int32_t strand_index, int32_t first, int32_t count)
{
    if (count <= 0) return true;
    segment *last = list->n ? &list->at[list->n - 1] : NULL;
    list->rows += count;
    if (last && last->strand == strand_index && last->first + last->count == first) {
        last->count += count;
        return true;
    }
    if (!array_extend(p->context, &list->at, &list->capacity, list->n + 1, sizeof *list->at))
        return false;
    list->at[list->n++] = (segment){strand_index, first, count};
    return true;
}

/* Behind a map's segments lies the row at which each ends, so that a row is found by halving: the
 * rows of zeros(100000, 2) are as many segments. */
static const int32_t *segment_ends(const map *m) { return (const int32_t *)(m->at + m->n); }

const map *segments_finish(planner *p, segment_list *list)
{
    map *m = arena_new(&p->memory, sizeof *m + list->n * (sizeof m->at[0] + sizeof(int32_t)));
    if (!m) return NULL;
    m->n = (int32_t)list->n;
    m->rows = list->rows;
    if (list->n) memcpy(m->at, list->at, list->n * sizeof m->at[0]);
    int32_t end = 0, *ends = (int32_t *)(m->at + m->n);
    for (int32_t i = 0; i < m->n; i++) ends[i] = end += m->at[i].count;
    return m;
}

/* The first segment that ends behind `row`; n when none does. */
static int32_t segment_at(const map *m, int32_t row)
{
    const int32_t *ends = segment_ends(m);
    int32_t low = 0, high = m->n;
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (ends[middle] > row) high = middle;
        else low = middle + 1;
    }
    return low;
}

static int32_t segment_start(const map *m, int32_t i) { return i ? segment_ends(m)[i - 1] : 0; }

int32_t map_find(const map *m, int32_t row, int32_t *index, int32_t *left)
{
    int32_t i = segment_at(m, row);
    if (i == m->n) return -1;
    int32_t inside = row - segment_start(m, i);
    *index = m->at[i].first + inside;
    *left = m->at[i].count - inside;
    return i;
}

bool segments_add_cut(planner *p, segment_list *list, const map *m, int32_t from, int32_t to)
{
    if (from >= to) return true;
    int32_t i = segment_at(m, from), at = segment_start(m, i);
    for (; i < m->n && at < to; i++) {
        const segment *s = &m->at[i];
        int32_t lo = from > at ? from : at, hi = to < at + s->count ? to : at + s->count;
        if (lo < hi && !segments_add(p, list, s->strand, s->first + lo - at, hi - lo)) return false;
        at += s->count;
    }
    return true;
}

/* ---- strands ------------------------------------------------------------ */

static uint64_t strand_hash(const planner *p, const strand *s, int32_t n_parts, size_t part_size,
    const void *parts, int32_t extra)
{
    int32_t head[12] = {s->kind, s->type, s->op, s->born, s->width, s->parent, s->parent_row,
        n_parts, extra, p->options.no_share ? p->invoke : 0,
        s->kind == STRAND_SOFTMAX || s->kind == STRAND_ROWS ? s->start : 0, s->sinks};
    uint64_t h = hash_bytes(0x1d, head, sizeof head);
    return n_parts ? hash_bytes(h, parts, (size_t)n_parts * part_size) : h;
}

/* A fork is found by its parent and its first key-value row alone; later sequences walk its origin
 * as far as they agree. */
static bool strand_equals(
    const strand *a, const strand *b, int32_t n_parts, size_t part_size, const void *parts)
{
    if (a->kind != b->kind || a->type != b->type || a->op != b->op || a->born != b->born
        || a->width != b->width || a->sinks != b->sinks)
        return false;
    if (a->parent != b->parent || a->parent_row != b->parent_row
        || ((a->kind == STRAND_SOFTMAX || a->kind == STRAND_ROWS) && a->start != b->start))
        return false;
    if (a->kind == STRAND_FORK)
        return a->origin[0].strand == ((const segment *)parts)->strand
               && a->origin[0].first == ((const segment *)parts)->first;
    return a->n == n_parts && !memcmp(a->pieces, parts, (size_t)n_parts * part_size);
}

static int32_t strand_add(planner *p, const strand *like)
{
    if (p->n_strands >= INT32_MAX) return error_no_memory(p->context), -1;
    if (!array_extend(
            p->context, &p->strands, &p->strands_capacity, p->n_strands + 1, sizeof *p->strands))
        return -1;
    p->strands[p->n_strands] = *like;
    return (int32_t)p->n_strands++;
}

int32_t strand_intern(planner *p, const strand *like, int32_t n_parts, size_t part_size,
    const void *parts, int32_t extra)
{
    bool fork = like->kind == STRAND_FORK;
    segment first = {0};
    if (fork) first = *(const segment *)parts, first.count = 0;
    uint64_t h = strand_hash(
        p, like, fork ? 1 : n_parts, part_size, fork ? (const void *)&first : parts, extra);
    size_t cursor = 0;
    for (int32_t at; (at = table_next(&p->interned, h, &cursor)) >= 0;)
        if (strand_equals(&p->strands[at], like, n_parts, part_size, parts)) return at;
    strand made = *like;
    made.n = n_parts;
    made.pieces = arena_copy(&p->memory, parts, (size_t)n_parts * part_size);
    if (!made.pieces) return -1;
    int32_t index = strand_add(p, &made);
    return index >= 0 && table_add(p->context, &p->interned, h, index) ? index : -1;
}

int32_t strand_position(const planner *p, int32_t strand_index, int32_t row)
{
    const strand *s = &p->strands[strand_index];
    switch (s->kind) {
    case STRAND_EMBED:
    case STRAND_FORK: return s->start + row;
    case STRAND_CONTEXT:
    case STRAND_POSITION:
    case STRAND_OPEN_BACK:
    case STRAND_BACK: return row;
    case STRAND_STEP: return strand_position(p, s->operands[0].strand, row + s->operands[0].shift);
    default: return -1;
    }
}

inset_type strand_type(const planner *p, int32_t domain, int32_t strand_index)
{
    if (domain >= 0) return p->program->values[domain].integer ? INSET_I64 : p->trace->model_type;
    return p->strands[strand_index].type;
}

moment strand_moment(const planner *p, int32_t domain, int32_t strand_index)
{
    if (domain == DOMAIN_CONSTANT) return (moment){0, -1};
    const strand *s = &p->strands[strand_index];
    return domain >= 0 ? (moment){s->pass, domain} : (moment){s->pass, s->time};
}

int32_t strand_level(const planner *p, int32_t domain, int32_t strand_index)
{
    if (domain == DOMAIN_CONSTANT) return 0;
    const strand *s = &p->strands[strand_index];
    if (domain >= 0) return s->kind == STRAND_COPY && s->born == domain ? s->level : 0;
    return s->level;
}

/* ---- embedding ---------------------------------------------------------- */

static uint64_t word_hash(const planner *p, int32_t position, int64_t token)
{
    int64_t key[3] = {position, token, p->options.no_share ? p->sequence : 0};
    return hash_bytes(7, key, sizeof key);
}

const map *identity_embed(planner *p, const invoke *v, int32_t sequence, int64_t first)
{
    const program *g = p->program;
    size_t row_bytes = (size_t)g->input_width * sizeof *v->rows;
    int32_t born = g->slots[g->tokens_slot].value, fresh = -1;
    /* without sharing, only this sequence's words count */
    int32_t word_floor = (int32_t)p->n_words;
    p->sequence++;
    segments_clear(&p->segments);
    for (int32_t i = 0; i < v->lengths[sequence]; i++) {
        const float *content = v->rows ? v->rows
                                             + (size_t)(first - v->first_token + i)
                                                   * (size_t)g->input_width
                                       : NULL;
        int64_t token = v->tokens ? v->tokens[first - v->first_token + i]
                                  : (int64_t)hash_bytes(11, content, row_bytes);
        uint64_t h = word_hash(p, i, token);
        int32_t found = -1, at;
        for (size_t cursor = 0; (at = table_next(&p->word_table, h, &cursor)) >= 0;) {
            bool same = p->words[at].position == i && p->words[at].token == token
                        && (!content || !memcmp(p->words[at].content, content, row_bytes));
            if (same && (!p->options.no_share || at >= word_floor)) {
                found = at;
                break;
            }
        }
        if (found >= 0) fresh = -1;
        else {
            if (fresh < 0) {
                strand s = {.kind = STRAND_EMBED,
                    .type = (uint8_t)p->trace->model_type,
                    .born = born,
                    .pass = p->floor,
                    .time = born,
                    .start = i,
                    .parent = i ? PARENT_NONE : PARENT_ROOT,
                    .first_word = (int32_t)p->n_words};
                if ((fresh = strand_add(p, &s)) < 0) return NULL;
            }
            if (!array_extend(
                    p->context, &p->words, &p->words_capacity, p->n_words + 1, sizeof *p->words))
                return NULL;
            found = (int32_t)p->n_words;
            p->words[p->n_words++] = (word){
                token, first + i, i, fresh, p->strands[fresh].n++, content};
            if (!table_add(p->context, &p->word_table, h, found)) return NULL;
        }
        p->embed_row[first + i] = found;
        if (!segments_add(p, &p->segments, p->words[found].strand, p->words[found].row, 1))
            return NULL;
    }
    return segments_finish(p, &p->segments);
}

const map *identity_positions(planner *p, int32_t n)
{
    if (p->position_strand < 0) {
        strand s = {.kind = STRAND_POSITION, .type = INSET_I64, .parent = PARENT_NONE};
        for (size_t i = 0; i < p->program->n_steps; i++)
            if (p->program->steps[i].kind == STEP_POSITIONS)
                s.born = s.time = p->program->steps[i].value;
        if ((p->position_strand = strand_add(p, &s)) < 0) return NULL;
    }
    segments_clear(&p->segments);
    if (!segments_add(p, &p->segments, p->position_strand, 0, n)) return NULL;
    return segments_finish(p, &p->segments);
}

/* ---- steps with several operands ---------------------------------------- */

int32_t identity_stepped(planner *p, const step *s, int n, const segment *rows)
{
    operand_row operands[3];
    strand like = {.kind = STRAND_STEP,
        .type = (uint8_t)p->trace->model_type,
        .born = s->value,
        .time = s->value,
        .pass = p->floor,
        .parent = PARENT_NONE,
        .width = p->program->values[s->value].width};
    for (int k = 0; k < n; k++) {
        operands[k] = (operand_row){rows[k].strand, rows[k].first - rows[0].first};
        if (p->strands[rows[k].strand].pass > like.pass)
            like.pass = p->strands[rows[k].strand].pass;
    }
    return strand_intern(p, &like, n, sizeof operands[0], operands, 0);
}

segment strand_origin_row(const planner *p, int32_t strand_index, int32_t value, int32_t row)
{
    const strand *s = &p->strands[strand_index];
    segment self = {strand_index, row, INT32_MAX};
    if ((s->kind != STRAND_FORK && s->kind != STRAND_CONTEXT) || s->born <= value) return self;
    int32_t at = 0;
    for (int32_t i = 0; i < s->n; i++) {
        const segment *o = &s->origin[i];
        if (row < at + o->count)
            return (segment){o->strand, o->first + row - at, at + o->count - row};
        at += o->count;
    }
    return self;
}

bool strand_origin(
    planner *p, int32_t strand_index, int32_t value, int32_t first, int32_t n, segment_list *list)
{
    while (n > 0) {
        segment o = strand_origin_row(p, strand_index, value, first);
        int32_t m = o.count < n ? o.count : n;
        if (!segments_add(p, list, o.strand, o.first, m)) return false;
        first += m, n -= m;
    }
    return true;
}

/* How many of `most` rows from these on have operands that belong together, all of them rows of
 * `top` or rows it came from; 0 when none. */
static int32_t together(
    const planner *p, const step *s, int n, const segment *rows, int top, int32_t *most)
{
    const segment *t = &rows[top];
    bool same = true;
    for (int k = 0; k < n; k++) {
        const strand *here = &p->strands[rows[k].strand];
        if (here->kind == STRAND_POSITION && k != top) {
            same &= strand_position(p, t->strand, t->first) == rows[k].first;
            continue;
        }
        segment o = strand_origin_row(
            p, t->strand, p->program->slots[s->operands[k]].value, t->first);
        if (o.count < *most) *most = o.count;
        same &= o.strand == rows[k].strand && o.first == rows[k].first;
    }
    return same ? *most : 0;
}

const map *identity_combine(
    planner *p, const step *s, int n, const map *const *operands, int32_t rows)
{
    /* the common case: every operand shows the same rows */
    bool one = true;
    for (int k = 1; k < n; k++) one &= operands[k] == operands[0];
    if (one) return operands[0];
    segment_list list = p->segments;
    segments_clear(&list);
    for (int32_t at = 0; at < rows;) {
        segment row[3];
        int32_t m = rows - at;
        int top = 0;
        for (int k = 0; k < n; k++) {
            int32_t index = 0, left = 0, i = map_find(operands[k], at, &index, &left);
            row[k] = (segment){operands[k]->at[i].strand, index, left};
            if (left < m) m = left;
            const strand *here = &p->strands[row[k].strand], *best = &p->strands[row[top].strand];
            if (here->kind != STRAND_POSITION
                && (best->kind == STRAND_POSITION || here->born > best->born))
                top = k;
        }
        bool added;
        if (together(p, s, n, row, top, &m))
            added = segments_add(p, &list, row[top].strand, row[top].first, m);
        else {
            int32_t made = identity_stepped(p, s, n, row);
            added = made >= 0 && segments_add(p, &list, made, row[0].first, m);
        }
        if (!added) {
            p->segments = list;
            return NULL;
        }
        at += m;
    }
    p->segments = list;
    return segments_finish(p, &p->segments);
}

/* ---- attention: contexts are a tree whose nodes are rows of strands ----- */

/* How many rows two lists of segments have in common from their beginnings. */
static int32_t common_rows(const segment *a, int32_t n_a, const segment *b, int32_t n_b)
{
    int32_t common = 0, i = 0, j = 0, x = 0, y = 0;
    while (i < n_a && j < n_b && a[i].strand == b[j].strand && a[i].first + x == b[j].first + y) {
        int32_t n = a[i].count - x < b[j].count - y ? a[i].count - x : b[j].count - y;
        common += n, x += n, y += n;
        if (x == a[i].count) i++, x = 0;
        if (y == b[j].count) j++, y = 0;
    }
    return common;
}

int32_t context_length(const planner *p, int32_t strand_index, int32_t row)
{
    const strand *s = &p->strands[strand_index];
    return s->kind == STRAND_CONTEXT ? s->start : s->start + row + 1;
}

int32_t context_rows_of(const planner *p, int32_t strand_index, int32_t rows)
{
    const strand *s = &p->strands[strand_index];
    return s->kind == STRAND_CONTEXT ? s->start : rows;
}

/* Both ways: all rows of a context's strand, in their order. */
static bool is_whole_context(const planner *p, const map *m)
{
    const strand *s = &p->strands[m->at[0].strand];
    return m->n == 1 && !m->at[0].first && s->kind == STRAND_CONTEXT && s->start == m->rows;
}

bool map_is_settled(const planner *p, const map *m)
{
    if (p->program->both_ways) return is_whole_context(p, m);
    int32_t parent = PARENT_ROOT, row = 0;
    for (int32_t i = 0; i < m->n; i++) {
        const segment *g = &m->at[i];
        const strand *s = &p->strands[g->strand];
        if (g->first || s->parent != parent || s->parent_row != row) return false;
        parent = g->strand;
        row = g->count;
    }
    return true;
}

/* Makes or finds the fork that goes on from (parent, parent_row) with the key-value rows `rest`;
 * sets how many rows of them it has. */
static int32_t fork_for(planner *p, const step *s, int32_t parent, int32_t parent_row,
    int32_t start, const segment *rest, int32_t n, int32_t *rows)
{
    int32_t pass = parent >= 0 ? p->strands[parent].pass : 0, body = 0;
    if (p->strands[rest[0].strand].pass > pass) pass = p->strands[rest[0].strand].pass;
    if (p->floor > pass) pass = p->floor;
    /* a strand is made in one pass: cut where a later one begins */
    while (body < n && p->strands[rest[body].strand].pass <= pass) body++;
    strand like = {.kind = STRAND_FORK,
        .type = (uint8_t)p->trace->model_type,
        .born = s->value,
        .time = s->value,
        .pass = pass,
        .parent = parent,
        .parent_row = parent_row,
        .start = start,
        .width = p->program->values[s->value].width};
    int32_t made = strand_intern(p, &like, body, sizeof *rest, rest, 0);
    if (made >= 0) *rows = common_rows(p->strands[made].origin, p->strands[made].n, rest, n);
    return made;
}

/* Both ways: rows of a strand that no other sequence has, unless all its key-value rows are the
 * same. */
static const map *whole_context(planner *p, const step *s, const map *rows)
{
    int32_t pass = p->floor;
    for (int32_t i = 0; i < rows->n; i++)
        if (p->strands[rows->at[i].strand].pass > pass) pass = p->strands[rows->at[i].strand].pass;
    strand like = {.kind = STRAND_CONTEXT,
        .type = (uint8_t)p->trace->model_type,
        .born = s->value,
        .time = s->value,
        .pass = pass,
        .parent = PARENT_ROOT,
        .start = rows->rows,
        .width = p->program->values[s->value].width};
    const int32_t made = strand_intern(p, &like, rows->n, sizeof *rows->at, rows->at, 0);
    segments_clear(&p->segments);
    return made >= 0 && segments_add(p, &p->segments, made, 0, rows->rows)
               ? segments_finish(p, &p->segments)
               : NULL;
}

/* Key-value rows -> the rows that stand for their contexts. */
static const map *contexts(planner *p, const step *s, const map *rows)
{
    if (map_is_settled(p, rows)) return rows;
    if (p->program->both_ways) return whole_context(p, s, rows);
    segment_list list = p->segments;
    segments_clear(&list);
    segment *rest = arena_copy(&p->scratch, rows->at, (size_t)rows->n * sizeof *rest);
    if (!rest) return NULL;
    int32_t n = rows->n, parent = PARENT_ROOT, row = 0, m = 0, made;
    while (n > 0) {
        const strand *here = &p->strands[rest->strand];
        bool goes_on = (rest->first == 0 && here->parent == parent && here->parent_row == row)
                       || (rest->strand == parent && rest->first == row);
        if (goes_on) made = rest->strand, m = rest->count, row = rest->first + m;
        else {
            made = fork_for(p, s, parent, row, list.rows, rest, n, &m);
            row = m;
        }
        if (made < 0 || !segments_add(p, &list, made, row - m, m)) {
            p->segments = list;
            return NULL;
        }
        parent = made;
        for (int32_t left = m; left > 0;) {
            if (rest->count > left) {
                rest->first += left, rest->count -= left;
                break;
            }
            left -= rest->count;
            rest++, n--;
        }
    }
    p->segments = list;
    return segments_finish(p, &p->segments);
}

const map *identity_attention(
    planner *p, const step *s, const step *pair, const map *q, const map *k, const map *v)
{
    const map *pair_maps[2] = {k, v};
    const map *keys = identity_combine(p, pair, 2, pair_maps, k->rows);
    const map *nodes = keys ? contexts(p, s, keys) : NULL;
    if (!nodes || (nodes == q && keys == q)) return nodes;
    segment_list list = p->segments;
    segments_clear(&list);
    for (int32_t at = 0; at < q->rows;) {
        int32_t query = 0, node = 0, left = 0, m = 0;
        int32_t a = map_find(q, at, &query, &m), b = map_find(nodes, at, &node, &left);
        if (left < m) m = left;
        segment row[2] = {{q->at[a].strand, query, 1}, {nodes->at[b].strand, node, 1}};
        /* the key-value row of the context's last node */
        segment own = strand_origin_row(p, row[1].strand, pair->value, node);
        if (own.count < m) m = own.count;
        bool added;
        if (own.strand == row[0].strand && own.first == query)
            added = segments_add(p, &list, row[1].strand, node, m);
        else {
            int32_t made = identity_stepped(p, s, 2, row);
            added = made >= 0 && segments_add(p, &list, made, query, m);
        }
        if (!added) {
            p->segments = list;
            return NULL;
        }
        at += m;
    }
    p->segments = list;
    return segments_finish(p, &p->segments);
}
