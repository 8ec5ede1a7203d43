/* scores.c: merges of a vocabulary that has scores instead, as SentencePiece's BPE goes through it
 * (Kudo and Richardson 2018, arXiv 1808.06226; bpe_model.cc): of all neighbours that together are a
 * piece those of the highest score, and of these the first, become one. So each way to cut a piece
 * in two pieces is a merge, ranked by the score of what it makes.
 *
 * Example: "▁the" of score -3 with "▁t", "▁th", "he" and all letters: ▁t+he and ▁th+e, both of the
 * rank of -3. */
#include <math.h>
#include <stdlib.h>

#include "text/tokenizer.h"

typedef struct scored {
    double score;
    int32_t id;
} scored;

static int by_score(const void *a, const void *b)
{
    const scored *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* The pieces that take part, [*n], the best first; to be freed. takes_part: [n_ids]. */
static inset_status read_scores(
    tokenizer *t, const json_node *scores, scored **out, size_t *n, bool *takes_part)
{
    const size_t given = json_length(scores);
    scored *list = *out = memory_new(t->context, (given + 1) * sizeof *list);
    *n = 0;
    if (!list) return INSET_NO_MEMORY;
    for (size_t i = 0; i < given && i < (size_t)t->n_ids; i++) {
        double score = 0;
        if (!json_as_number(json_item(scores, i), &score)) continue;
        /* of tokens with one text the first counts */
        if (!t->texts[i] || tokenizer_find(t, t->texts[i], t->lengths[i]) != (int32_t)i) continue;
        takes_part[i] = true;
        list[(*n)++] = (scored){score, (int32_t)i};
    }
    qsort(list, *n, sizeof *list, by_score);
    return INSET_OK;
}

/* All ways to make a piece of two. */
static inset_status cut(tokenizer *t, int32_t id, int32_t rank, const bool *takes_part)
{
    const char *of = t->texts[id];
    const size_t length = t->lengths[id];
    int bytes;
    for (size_t at = 0;
         utf8_next(of + at, length - at, &bytes), at += (size_t)bytes, at < length;) {
        const int32_t left = tokenizer_find(t, of, at),
                      right = left < 0 ? -1 : tokenizer_find(t, of + at, length - at);
        if (right < 0 || !takes_part[left] || !takes_part[right]) continue;
        if (!tokenizer_add_merge(t, (merge){left, right, id, rank})) return INSET_NO_MEMORY;
    }
    return INSET_OK;
}

inset_status merges_by_scores(tokenizer *t, const json_node *scores)
{
    scored *list = NULL;
    size_t n = 0;
    int32_t rank = 0;
    bool *takes_part = memory_new(t->context, (size_t)t->n_ids + 1);
    inset_status status = takes_part ? read_scores(t, scores, &list, &n, takes_part)
                                     : INSET_NO_MEMORY;
    for (size_t i = 0; i < n && !status; i++) {
        if (i && list[i].score < list[i - 1].score) rank++;
        status = cut(t, list[i].id, rank, takes_part);
    }
    memory_free(t->context, list);
    memory_free(t->context, takes_part);
    return status;
}
