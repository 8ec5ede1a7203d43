/* bpe.c: a word into tokens: byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909). A word's
 * letters are its first symbols; of all neighbours that have a merge those with the least rank, and
 * of these the first, become one, until none has. */
#include <string.h>

#include "text/tokenizer.h"

int32_t tokenizer_find(const tokenizer *t, const char *text, size_t length)
{
    const uint64_t hash = hash_bytes(1, text, length);
    size_t cursor = 0;
    int32_t id;
    while ((id = table_next(&t->by_text, hash, &cursor)) >= 0)
        if (t->lengths[id] == length && !memcmp(t->texts[id], text, length)) return id;
    return -1;
}

bool tokenizer_add_merge(tokenizer *t, merge m)
{
    const int32_t pair[2] = {m.left, m.right};
    if (!array_extend(
            t->context, &t->merges, &t->merges_capacity, t->n_merges + 1, sizeof *t->merges))
        return false;
    t->merges[t->n_merges] = m;
    return table_add(
        t->context, &t->by_pair, hash_bytes(2, pair, sizeof pair), (int32_t)t->n_merges++);
}

/* The merge of two tokens: its index; -1: none. */
static int32_t find_merge(const tokenizer *t, int32_t left, int32_t right)
{
    const int32_t pair[2] = {left, right};
    const uint64_t hash = hash_bytes(2, pair, sizeof pair);
    size_t cursor = 0;
    int32_t m;
    while ((m = table_next(&t->by_pair, hash, &cursor)) >= 0)
        if (t->merges[m].left == left && t->merges[m].right == right) return m;
    return -1;
}

/* ---- symbols ------------------------------------------------------------- */

/* A symbol of the word and its neighbours; id -1: merged into the one before. */
typedef struct symbol {
    int32_t id, previous, next;
} symbol;

/* A merge that may be done, and the first of its symbols. Both must still be what they were when it
 * was found. */
typedef struct candidate {
    int32_t rank, at, merge;
} candidate;

typedef struct word {
    tokenizer *t;
    symbol *symbols;
    size_t n, symbols_capacity;
    candidate *heap; /* the least first */
    size_t n_heap, heap_capacity;
} word;

static bool is_less(candidate a, candidate b)
{
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static bool push(word *w, candidate c)
{
    if (!array_extend(w->t->context, &w->heap, &w->heap_capacity, w->n_heap + 1, sizeof *w->heap))
        return false;
    size_t at = w->n_heap++;
    for (size_t up; at && is_less(c, w->heap[up = (at - 1) / 2]); at = up)
        w->heap[at] = w->heap[up];
    w->heap[at] = c;
    return true;
}

static candidate pop(word *w)
{
    const candidate least = w->heap[0], last = w->heap[--w->n_heap];
    size_t at = 0;
    for (size_t down; (down = 2 * at + 1) < w->n_heap; at = down) {
        if (down + 1 < w->n_heap && is_less(w->heap[down + 1], w->heap[down])) down++;
        if (!is_less(w->heap[down], last)) break;
        w->heap[at] = w->heap[down];
    }
    w->heap[at] = last;
    return least;
}

static bool add_symbol(word *w, int32_t id)
{
    if (!array_extend(
            w->t->context, &w->symbols, &w->symbols_capacity, w->n + 1, sizeof *w->symbols))
        return false;
    w->symbols[w->n] = (symbol){id, (int32_t)w->n - 1, (int32_t)w->n + 1};
    w->n++;
    return true;
}

/* A letter that is no token: its bytes' tokens, or the unknown one, once for several side by side
 * where these are fused; or nothing. */
static bool add_unknown(word *w, const char *letter, int bytes, bool *was_unknown)
{
    const tokenizer *t = w->t;
    bool all = t->byte_fallback;
    for (int i = 0; i < bytes; i++) all = all && t->bytes[(unsigned char)letter[i]] >= 0;
    for (int i = 0; i < bytes && all; i++)
        if (!add_symbol(w, t->bytes[(unsigned char)letter[i]])) return false;
    if (all || t->unknown < 0) {
        *was_unknown = false;
        return true;
    }
    const bool again = *was_unknown && t->fuse_unknown;
    *was_unknown = true;
    return again || add_symbol(w, t->unknown);
}

static bool make_symbols(word *w, const char *text, size_t length)
{
    bool was_unknown = false;
    for (size_t i = 0; i < length;) {
        int bytes;
        utf8_next(text + i, length - i, &bytes);
        const int32_t id = tokenizer_find(w->t, text + i, (size_t)bytes);
        if (id >= 0) was_unknown = false;
        if (!(id >= 0 ? add_symbol(w, id) : add_unknown(w, text + i, bytes, &was_unknown)))
            return false;
        i += (size_t)bytes;
    }
    if (w->n) w->symbols[w->n - 1].next = -1;
    return true;
}

/* ---- merging ------------------------------------------------------------- */

static bool look_at(word *w, int32_t at)
{
    if (at < 0 || w->symbols[at].next < 0) return true;
    const int32_t m = find_merge(w->t, w->symbols[at].id, w->symbols[w->symbols[at].next].id);
    return m < 0 || push(w, (candidate){w->t->merges[m].rank, at, m});
}

static bool merge_all(word *w)
{
    bool fine = true;
    for (int32_t i = 0; i < (int32_t)w->n && fine; i++) fine = look_at(w, i);
    while (w->n_heap && fine) {
        const candidate c = pop(w);
        const merge *m = &w->t->merges[c.merge];
        symbol *left = &w->symbols[c.at];
        if (left->id != m->left || left->next < 0 || w->symbols[left->next].id != m->right)
            continue;
        symbol *right = &w->symbols[left->next];
        left->id = m->made;
        left->next = right->next;
        right->id = -1;
        if (left->next >= 0) w->symbols[left->next].previous = c.at;
        fine = look_at(w, left->previous) && look_at(w, c.at);
    }
    return fine;
}

inset_status word_tokens(tokenizer *t, const char *text, size_t length, id_list *out)
{
    const int32_t whole = t->ignore_merges || t->word_level ? tokenizer_find(t, text, length) : -1;
    if (whole >= 0 || t->word_level) {
        const int32_t id = whole >= 0 ? whole : t->unknown;
        return id < 0 || id_list_add(t->context, out, id) ? INSET_OK : INSET_NO_MEMORY;
    }
    word w = {.t = t};
    bool fine = make_symbols(&w, text, length) && merge_all(&w);
    for (int32_t i = w.n ? 0 : -1; i >= 0 && fine; i = w.symbols[i].next)
        fine = id_list_add(t->context, out, w.symbols[i].id);
    memory_free(t->context, w.symbols);
    memory_free(t->context, w.heap);
    return fine ? INSET_OK : INSET_NO_MEMORY;
}
