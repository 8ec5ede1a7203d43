/* metric.c: from a metric's text to a value of every run's trace: the device makes the number, and
 * numbers are all that comes back. */
#include "sweep/sweep.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "run/tokens.h"

/* ---- reading the text --------------------------------------------------- */

static const struct {
    const char *name;
    inset_metric_kind kind;
    int n_sets;
    bool needs_row;
} kinds[] = {
    {"logit_diff", INSET_LOGIT_DIFF, 2, false},
    {"logit", INSET_LOGIT, 1, false},
    {"probability", INSET_PROBABILITY, 1, true},
    {"log_probability", INSET_LOG_PROBABILITY, 1, true},
    {"rank", INSET_RANK, 1, true},
    {"kl", INSET_KL, 0, true},
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static inset_status refuse(sweep *s, const char *text)
{
    inset_status status = error_set(s->context, INSET_VALUE_ERROR, "'%s' is no metric", text);
    error_help(s->context, "Metrics are logit_diff:A,B  logit:A  probability:A  log_probability:A  "
                           "rank:A  kl, each with @POSITION behind it if "
                           "it is not the last. A and B are token ids, words in quotes \" Mary\", "
                           "sets 11+12, or files of integers [pair] or [pair, set].");
    return status;
}

static bool parse_integer(const char *text, size_t length, int64_t *out)
{
    char digits[24], *end;
    if (!length || length >= sizeof digits) return false;
    memcpy(digits, text, length);
    digits[length] = 0;
    errno = 0;
    *out = strtoll(digits, &end, 10);
    return !*end && !errno && (digits[0] == '-' || (digits[0] >= '0' && digits[0] <= '9'));
}

static inset_status check_tokens(sweep *s, const char *metric_name, const token_set *set)
{
    int64_t n = set->count * (set->per_pair ? s->pairs : 1);
    for (int64_t i = 0; i < n; i++)
        if (set->tokens[i] < 0 || set->tokens[i] >= s->program->vocabulary)
            return error_set(s->context, INSET_INDEX_ERROR,
                "%s: token %lld is outside the vocabulary of %d", metric_name,
                (long long)set->tokens[i], s->program->vocabulary);
    return INSET_OK;
}

static inset_status set_from_file(
    sweep *s, const char *metric_name, const char *path, token_set *out)
{
    int n_dimensions;
    int64_t shape[INSET_MAX_DIMENSIONS], *tokens;
    inset_status status = integers_load(s, path, &n_dimensions, shape, &tokens);
    if (status) return status;
    if (n_dimensions < 1 || n_dimensions > 2 || shape[0] != s->pairs
        || (n_dimensions == 2 && shape[1] == 0))
        return error_set(s->context, INSET_SHAPE_ERROR,
            "%s: %s: one row for each of the %lld pairs was expected, [pair] or [pair, set]; found "
            "%d dimensions, the first %lld",
            metric_name, path, (long long)s->pairs, n_dimensions,
            n_dimensions ? (long long)shape[0] : 0);
    *out = (token_set){
        .count = n_dimensions == 2 ? shape[1] : 1, .tokens = tokens, .per_pair = true};
    return INSET_OK;
}

/* The first `wanted` outside of quotes, from `text` to before `end`; NULL: there is none. In quotes
 * a backslash stands before a quote or a backslash. */
static const char *find_outside(const char *text, const char *end, char wanted)
{
    bool quoted = false;
    for (; text < end; text++) {
        if (quoted && *text == '\\' && text + 1 < end) text++;
        else if (*text == '"') quoted = !quoted;
        else if (!quoted && *text == wanted) return text;
    }
    return NULL;
}

/* " Mary" in quotes, as the token it is. */
static inset_status read_word(
    sweep *s, const char *metric_name, const char *text, size_t length, int64_t *out)
{
    char *plain = arena_new(&s->memory, length + 1);
    size_t n = 0;
    if (!plain) return INSET_NO_MEMORY;
    for (size_t i = 1; i + 1 < length; i++) {
        if (text[i] == '\\' && i + 2 < length) i++;
        plain[n++] = text[i];
    }
    return length < 2 || text[length - 1] != '"' ? refuse(s, metric_name)
                                                 : model_answer(s->model, plain, n, out);
}

/* "11", "11+12", words in quotes or a file, `length` bytes. */
static inset_status read_set(
    sweep *s, const char *metric_name, const char *text, size_t length, token_set *out)
{
    inset_status status;
    if (*text != '"' && is_file_name(text, length)) {
        const char *path = arena_text(&s->memory, text, length);
        if (!path) return INSET_NO_MEMORY;
        status = set_from_file(s, metric_name, path, out);
        return status ? status : check_tokens(s, metric_name, out);
    }
    int64_t count = 1, *tokens;
    for (const char *c = text; (c = find_outside(c, text + length, '+')); c++) count++;
    if (!(tokens = arena_new(&s->memory, (size_t)count * sizeof *tokens))) return INSET_NO_MEMORY;
    *out = (token_set){.count = count, .tokens = tokens};
    for (int64_t i = 0; i < count; i++) {
        const char *plus = find_outside(text, text + length, '+');
        size_t n = plus ? (size_t)(plus - text) : length;
        if (n && *text == '"') {
            if ((status = read_word(s, metric_name, text, n, &tokens[i]))) return status;
        } else if (!parse_integer(text, n, &tokens[i])) return refuse(s, metric_name);
        text += n + (plus != NULL);
        length -= n + (plus != NULL);
    }
    return check_tokens(s, metric_name, out);
}

static inset_status check_position(sweep *s, const metric *m)
{
    for (int64_t i = 0; i < s->pairs; i++)
        if (m->position >= s->clean.lengths[i] || m->position < -s->clean.lengths[i])
            return error_set(s->context, INSET_INDEX_ERROR,
                "%s: position %lld is outside pair %lld, whose prompts have %lld tokens", m->name,
                (long long)m->position, (long long)i, (long long)s->clean.lengths[i]);
    return INSET_OK;
}

static inset_status read_metric(sweep *s, const char *text, metric *out)
{
    *out = (metric){.name = arena_text(&s->memory, text, strlen(text)), .position = -1};
    if (!out->name) return INSET_NO_MEMORY;
    const char *colon = strchr(text, ':'), *at = strrchr(text, '@');
    if (at && !parse_integer(at + 1, strlen(at + 1), &out->position)) at = NULL;
    const char *end = at ? at : text + strlen(text);
    size_t length = (size_t)((colon && colon < end ? colon : end) - text);
    int k = 0;
    while (k < N_KINDS && (strlen(kinds[k].name) != length || memcmp(kinds[k].name, text, length)))
        k++;
    if (k == N_KINDS) return refuse(s, text);
    out->kind = kinds[k].kind;
    out->needs_row = kinds[k].needs_row;
    const char *part = text + length + 1,
               *comma = kinds[k].n_sets == 2 && part < end ? find_outside(part, end, ',') : NULL;
    if (text + length == end ? kinds[k].n_sets > 0
                             : kinds[k].n_sets == 0 || (kinds[k].n_sets == 2 && !comma))
        return refuse(s, text);
    inset_status status = check_position(s, out);
    if (!status && kinds[k].n_sets)
        status = read_set(
            s, out->name, part, (size_t)((comma ? comma : end) - part), &out->sets[0]);
    if (!status && comma)
        status = read_set(s, out->name, comma + 1, (size_t)(end - comma - 1), &out->sets[1]);
    return status;
}

inset_status metrics_read(sweep *s, const char *const *texts)
{
    size_t count = 0;
    while (texts && texts[count]) count++;
    if (!count)
        return error_set(
            s->context, INSET_USAGE_ERROR, "which metric? logit_diff:A,B, for example");
    s->metrics = arena_new(&s->memory, count * sizeof *s->metrics);
    if (!s->metrics) return INSET_NO_MEMORY;
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; k < i; k++)
            if (!strcmp(texts[k], texts[i]))
                return error_set(
                    s->context, INSET_VALUE_ERROR, "the metric %s is named twice", texts[i]);
        inset_status status = read_metric(s, texts[i], &s->metrics[i]);
        if (status) return status;
        s->n_metrics++;
    }
    int64_t most = 1;
    for (size_t i = 0; i < count; i++)
        if (s->metrics[i].sets[0].count + s->metrics[i].sets[1].count > most)
            most = s->metrics[i].sets[0].count + s->metrics[i].sets[1].count;
    if (!(s->metric_scratch = arena_new(&s->memory, (size_t)most * sizeof *s->metric_scratch)))
        return INSET_NO_MEMORY;
    return INSET_OK;
}

/* ---- the trace's part --------------------------------------------------- */

static const int64_t *tokens_of(const token_set *set, int64_t pair)
{
    return set->tokens + (set->per_pair ? pair * set->count : 0);
}

int64_t metrics_whole_rows(const sweep *s)
{
    int64_t n = 0;
    for (size_t i = 0; i < s->n_metrics; i++) {
        bool fresh = s->metrics[i].needs_row;
        for (size_t k = 0; k < i; k++)
            fresh = fresh
                    && !(s->metrics[k].needs_row
                         && s->metrics[k].position == s->metrics[i].position);
        n += fresh;
    }
    return n;
}

const int64_t *metric_tokens_of(const sweep *s, size_t metric_index, int64_t pair, int64_t *count)
{
    const metric *m = &s->metrics[metric_index];
    *count = 0;
    for (int k = 0; k < 2; k++)
        if (m->sets[k].count) {
            memcpy(s->metric_scratch + *count, tokens_of(&m->sets[k], pair),
                (size_t)m->sets[k].count * sizeof *s->metric_scratch);
            *count += m->sets[k].count;
        }
    return s->metric_scratch;
}

uint64_t metric_hash(const sweep *s, size_t index, int64_t pair)
{
    const metric *m = &s->metrics[index];
    uint64_t h = m->kind;
    for (int k = 0; k < 2; k++)
        if (m->sets[k].count)
            h = hash_bytes(
                h, tokens_of(&m->sets[k], pair), (size_t)m->sets[k].count * sizeof(int64_t));
    return h;
}

bool metrics_alike(const sweep *s, size_t a, int64_t pair_of_a, size_t b, int64_t pair_of_b)
{
    const metric *x = &s->metrics[a], *y = &s->metrics[b];
    if (x->kind != y->kind) return false;
    for (int k = 0; k < 2; k++) {
        if (x->sets[k].count != y->sets[k].count) return false;
        if (x->sets[k].count
            && memcmp(tokens_of(&x->sets[k], pair_of_a), tokens_of(&y->sets[k], pair_of_b),
                (size_t)x->sets[k].count * sizeof(int64_t)))
            return false;
    }
    return true;
}

inset_status readout_start(sweep *s, arena *a, readout *r, size_t runs)
{
    *r = (readout){.pair = -1,
        .values = arena_new(a, s->n_metrics * sizeof *r->values),
        .reference = arena_new(a, s->n_metrics * sizeof *r->reference),
        .waiting = arena_new(a, s->n_metrics * sizeof *r->waiting)};
    if (!r->values || !r->reference || !r->waiting) return INSET_NO_MEMORY;
    for (size_t i = 0; i < s->n_metrics; i++)
        if (!(r->values[i] = arena_new(a, runs * sizeof **r->values))) return INSET_NO_MEMORY;
    return INSET_OK;
}

static inset_status take_tokens(
    const metric *m, trace *t, const operand *row, int64_t pair, operand *out)
{
    metric_request request = {.kind = m->kind};
    for (int k = 0; k < 2; k++)
        if (m->sets[k].count)
            request.sets[k] = (token_list){(size_t)m->sets[k].count, tokens_of(&m->sets[k], pair)};
    return trace_metric(t, row, &request, out);
}

/* kl from the pair's unpatched run. */
static inset_status take_divergence(
    trace *t, readout *r, size_t index, const operand *row, bool unpatched)
{
    const metric_request request = {.kind = INSET_KL, .reference = &r->reference[index]};
    inset_status status = INSET_OK;
    if (!unpatched && !r->has_reference) {
        r->waiting[index] = *row;
        r->waiting_run = r->runs;
        return INSET_OK;
    }
    if (unpatched) {
        r->reference[index] = *row;
        if (r->waiting[index].kind == OPERAND_TENSOR)
            status = trace_metric(
                t, &r->waiting[index], &request, &r->values[index][r->waiting_run]);
        r->waiting[index].kind = OPERAND_INTEGER;
    }
    return status ? status : trace_metric(t, row, &request, &r->values[index][r->runs]);
}

inset_status readout_take(const sweep *s, trace *t, readout *r, int64_t pair, bool unpatched)
{
    operand logits, row;
    inset_status status = trace_site(t, s->logits, &logits);
    if (pair != r->pair) r->has_reference = false;
    r->pair = pair;
    for (size_t i = 0; i < s->n_metrics && !status; i++) {
        const metric *m = &s->metrics[i];
        const index_item items[2] = {
            {.kind = INDEX_INTEGER}, {.kind = INDEX_INTEGER, .integer = m->position}};
        if ((status = trace_index(t, &logits, 2, items, &row))) break;
        status = m->kind == INSET_KL ? take_divergence(t, r, i, &row, unpatched)
                                     : take_tokens(m, t, &row, pair, &r->values[i][r->runs]);
    }
    r->has_reference |= unpatched;
    r->runs++;
    return status;
}

inset_status metrics_take(const sweep *s, trace *t, int64_t pair, operand *out)
{
    operand logits, row;
    inset_status status = trace_site(t, s->logits, &logits);
    for (size_t i = 0; i < s->n_metrics && !status; i++) {
        const metric *m = &s->metrics[i];
        const index_item items[2] = {
            {.kind = INDEX_INTEGER}, {.kind = INDEX_INTEGER, .integer = m->position}};
        status = trace_index(t, &logits, 2, items, &row);
        if (!status) status = take_tokens(m, t, &row, pair, &out[i]);
    }
    return status;
}

inset_status readout_save(const sweep *s, trace *t, const readout *r)
{
    char name[32];
    inset_status status = INSET_OK;
    for (size_t i = 0; i < s->n_metrics && !status; i++) {
        snprintf(name, sizeof name, "metric%zu", i);
        status = trace_save_stack(t, name, r->runs, r->values[i]);
    }
    return status;
}
