/* inputs.c: what invokes are given, for the runs of a plan. Thousands of invokes of a sweep are
 * given one prompt: equal lists of tokens are kept once. */
#include "plan/emit/launches.h"

#include <string.h>

/* Lists of tokens while they are gathered, and how to find an equal one. */
typedef struct gathering {
    table found;
    struct {
        int64_t first, count;
    } * lists;
    size_t n, capacity;
} gathering;

static bool list_is(
    const plan *out, int64_t first, const int64_t *tokens, const int32_t *words, size_t n)
{
    return !memcmp(out->tokens + first, tokens, n * sizeof *tokens)
           && !memcmp(out->token_word + first, words, n * sizeof *words);
}

/* Where an invoke's tokens, and the rows that they are, lie among the kept ones; they are added
 * when no other invoke has the same. */
static inset_status keep_list(planner *p, plan *out, gathering *g, const int64_t *tokens,
    const int32_t *words, int64_t count, int64_t *first)
{
    const size_t n = (size_t)count;
    const uint64_t h = hash_bytes(
        hash_bytes(3, tokens, n * sizeof *tokens), words, n * sizeof *words);
    size_t cursor = 0;
    for (int32_t at; (at = table_next(&g->found, h, &cursor)) >= 0;)
        if (g->lists[at].count == count && list_is(out, g->lists[at].first, tokens, words, n))
            return *first = g->lists[at].first, INSET_OK;
    const int64_t end = g->n ? g->lists[g->n - 1].first + g->lists[g->n - 1].count : 0;
    if (!array_extend(
            p->context, &out->tokens, &out->tokens_capacity, (size_t)end + n, sizeof *tokens)
        || !array_extend(
            p->context, &out->token_word, &out->words_capacity, (size_t)end + n, sizeof *words)
        || !array_extend(p->context, &g->lists, &g->capacity, g->n + 1, sizeof *g->lists))
        return INSET_NO_MEMORY;
    memcpy(out->tokens + end, tokens, n * sizeof *tokens);
    memcpy(out->token_word + end, words, n * sizeof *words);
    g->lists[g->n].first = *first = end;
    g->lists[g->n].count = count;
    return table_add(p->context, &g->found, h, (int32_t)g->n++) ? INSET_OK : INSET_NO_MEMORY;
}

static inset_status keep_tokens(planner *p, plan *out)
{
    const trace *t = p->trace;
    gathering g = {0};
    inset_status status = INSET_OK;
    for (size_t i = 0; i < t->n_invokes && !status; i++) {
        const int64_t first = out->invoke_first[i], count = out->invoke_first[i + 1] - first;
        if (p->input_of[i] != (int32_t)i) out->invoke_list[i] = out->invoke_list[p->input_of[i]];
        else
            status = keep_list(p, out, &g, t->invokes[i].tokens, p->embed_row + first, count,
                &out->invoke_list[i]);
    }
    table_free(p->context, &g.found);
    memory_free(p->context, g.lists);
    return status;
}

static inset_status keep_rows(planner *p, plan *out)
{
    const trace *t = p->trace;
    const size_t n = (size_t)t->n_tokens, width = (size_t)out->row_width;
    out->rows = arena_new(&out->memory, n * width * sizeof *out->rows);
    if (!out->rows
        || !array_extend(
            p->context, &out->token_word, &out->words_capacity, n + 1, sizeof *out->token_word))
        return INSET_NO_MEMORY;
    memcpy(out->token_word, p->embed_row, n * sizeof *out->token_word);
    for (size_t i = 0; i < t->n_invokes; i++) {
        const size_t first = (size_t)out->invoke_first[i],
                     count = (size_t)out->invoke_first[i + 1] - first;
        out->invoke_list[i] = out->invoke_first[i];
        memcpy(out->rows + first * width, t->invokes[i].rows, count * width * sizeof *out->rows);
    }
    return INSET_OK;
}

inset_status plan_keep_inputs(planner *p, plan *out)
{
    const trace *t = p->trace;
    out->n_tokens = t->n_tokens;
    out->n_invokes = (int64_t)t->n_invokes;
    out->vocabulary = t->program->vocabulary;
    out->row_width = t->program->input_width;
    out->invoke_first = arena_new(&out->memory, (t->n_invokes + 1) * sizeof *out->invoke_first);
    out->invoke_list = arena_new(&out->memory, t->n_invokes * sizeof *out->invoke_list);
    out->word_source = arena_new(&out->memory, p->n_words * sizeof *out->word_source);
    out->user = arena_new(&out->memory, t->n_invokes * sizeof *out->user);
    out->shadows = arena_new(&out->memory, t->n_invokes * sizeof *out->shadows);
    if (!out->invoke_first || !out->invoke_list || !out->word_source || !out->user || !out->shadows)
        return INSET_NO_MEMORY;
    for (size_t i = 0; i < t->n_invokes; i++) {
        const invoke *v = &t->invokes[i];
        out->shadows[i] = v->reversed ? v->shadow_of : -1;
        if (!v->reversed) out->user[out->n_users++] = (int64_t)i;
    }
    for (size_t i = 0; i < p->n_words; i++) out->word_source[i] = p->words[i].source;
    for (size_t i = 0; i < t->n_invokes; i++) out->invoke_first[i] = t->invokes[i].first_token;
    out->invoke_first[t->n_invokes] = t->n_tokens;
    return out->row_width ? keep_rows(p, out) : keep_tokens(p, out);
}
