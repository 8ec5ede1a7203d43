/* choose.c: which edges a circuit has. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "edges/edges.h"

typedef struct ranked {
    double key;
    int64_t index;
} ranked;

static int compare(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->key != y->key) return x->key > y->key ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

int64_t edges_count(const edges *e)
{
    int64_t n = 0;
    for (int64_t u = 0; u < e->n_writers; u++)
        for (int64_t v = 0; v < e->n_readers; v++) n += edge_exists(e, u, v);
    return n;
}

bool edge_is_of_node(const edges *e, const edge_node *reader, const edge_node *writer)
{
    if (reader->layer != writer->layer || writer->part == 'i') return false;
    if (writer->part == 'm') return reader->part == 'm';
    if (reader->part == 'm') return false;
    return reader->head
           == (reader->part == 'q' ? writer->head : writer->head / (e->n_heads / e->n_kv_heads));
}

/* Takes the strongest edge whose reader leads to the logits, n times; a writer that is taken makes
 * its own readers lead there. */
static void choose_greedily(
    const edges *e, const ranked *sorted, int64_t n_sorted, int64_t n, bool *kept, bool *leads)
{
    for (int64_t v = 0; v < e->n_readers; v++) leads[v] = e->readers[v].part == 'l';
    for (int64_t taken = 0; taken < n; taken++) {
        int64_t i = 0;
        while (i < n_sorted && (kept[sorted[i].index] || !leads[sorted[i].index % e->n_readers]))
            i++;
        if (i == n_sorted) return;
        kept[sorted[i].index] = true;
        for (int64_t v = 0; v < e->n_readers; v++)
            leads[v] |= edge_is_of_node(
                e, &e->readers[v], &e->writers[sorted[i].index / e->n_readers]);
    }
}

inset_status edges_choose(
    const edges *e, const float *scores, edge_order order, int64_t n, bool *kept)
{
    inset_context *context = e->s->context;
    const int64_t all = e->n_writers * e->n_readers;
    ranked *sorted = memory_new(context, (size_t)all * sizeof *sorted);
    bool *leads = memory_new(context, (size_t)e->n_readers * sizeof *leads);
    int64_t there = 0;
    memset(kept, 0, (size_t)all * sizeof *kept);
    for (int64_t i = 0; i < all && sorted && leads; i++)
        if (edge_exists(e, i / e->n_readers, i % e->n_readers))
            sorted[there++] = (ranked){
                order == ORDER_SCORE ? (double)scores[i] : fabs((double)scores[i]), i};
    if (sorted && leads) {
        qsort(sorted, (size_t)there, sizeof *sorted, compare);
        if (order == ORDER_GREEDY) choose_greedily(e, sorted, there, n, kept, leads);
        else
            for (int64_t i = 0; i < n && i < there; i++) kept[sorted[i].index] = true;
    }
    const bool fine = sorted && leads;
    memory_free(context, sorted);
    memory_free(context, leads);
    return fine ? INSET_OK : INSET_NO_MEMORY;
}

/* Does a writer see anything of this run? */
static bool sees(const edges *e, const bool *kept, int64_t u)
{
    if (e->writers[u].part == 'i') return true;
    for (int64_t v = 0; v < e->n_readers; v++)
        for (int64_t w = 0; w < u && edge_is_of_node(e, &e->readers[v], &e->writers[u]); w++)
            if (kept[w * e->n_readers + v]) return true;
    return false;
}

/* Does a reader lead to the logits? */
static bool leads_on(const edges *e, const bool *kept, int64_t v)
{
    if (e->readers[v].part == 'l') return true;
    for (int64_t u = 0; u < e->n_writers; u++)
        for (int64_t w = 0; w < e->n_readers && edge_is_of_node(e, &e->readers[v], &e->writers[u]);
             w++)
            if (kept[u * e->n_readers + w]) return true;
    return false;
}

void edges_prune(const edges *e, bool *kept)
{
    /* writers are in the order of the run: what the first ones see decides about the later ones */
    for (int64_t u = 0; u < e->n_writers; u++)
        if (!sees(e, kept, u))
            memset(kept + u * e->n_readers, 0, (size_t)e->n_readers * sizeof *kept);
    for (int64_t v = e->n_readers - 1; v >= 0; v--)
        for (int64_t u = 0; u < e->n_writers && !leads_on(e, kept, v); u++)
            kept[u * e->n_readers + v] = false;
}
