/* metric.c: what is read of every run's logits, and the number that becomes of it.
 *
 * A metric of a few logits (logit, logit_diff) reads just these columns, so that the planner runs the vocabulary projection for them
 * alone; one that needs all of them (probability, KL, rank) reads a row. Numbers are made from them on the host, in double. Metrics that
 * need the same are given the same reading. This file alone knows what a metric is. */
#include "sweep/sweep.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- reading the text --------------------------------------------------------------------------------------------------------------- */

static const struct { const char *name; metric_kind kind; int n_sets; bool needs_row; } kinds[] = {
    {"logit_diff", METRIC_LOGIT_DIFF, 2, false},
    {"logit", METRIC_LOGIT, 1, false},
    {"probability", METRIC_PROBABILITY, 1, true},
    {"log_probability", METRIC_LOG_PROBABILITY, 1, true},
    {"rank", METRIC_RANK, 1, true},
    {"kl", METRIC_KL, 0, true},
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static inset_status refuse(sweep *s, const char *text)
{
    inset_status status = error_set(s->context, INSET_VALUE_ERROR, "'%s' is no metric", text);
    error_help(s->context, "Metrics are logit_diff:A,B  logit:A  probability:A  log_probability:A  rank:A  kl, each with @POSITION behind it if "
                           "it is not the last. A and B are token ids, sets 11+12, or files of integers [pair] or [pair, set].");
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
            return error_set(s->context, INSET_INDEX_ERROR, "%s: token %lld is outside the vocabulary of %d", metric_name,
                             (long long)set->tokens[i], s->program->vocabulary);
    return INSET_OK;
}

static inset_status set_from_file(sweep *s, const char *metric_name, const char *path, token_set *out)
{
    int n_dimensions;
    int64_t shape[INSET_MAX_DIMENSIONS], *tokens;
    inset_status status = integers_load(s, path, &n_dimensions, shape, &tokens);
    if (status) return status;
    if (n_dimensions < 1 || n_dimensions > 2 || shape[0] != s->pairs || (n_dimensions == 2 && shape[1] == 0))
        return error_set(s->context, INSET_SHAPE_ERROR, "%s: %s: one row for each of the %lld pairs was expected, [pair] or [pair, set]; found %d dimensions, the first %lld",
                         metric_name, path, (long long)s->pairs, n_dimensions, n_dimensions ? (long long)shape[0] : 0);
    *out = (token_set){.count = n_dimensions == 2 ? shape[1] : 1, .tokens = tokens, .per_pair = true};
    return INSET_OK;
}

/* "11", "11+12" or a file, `length` bytes. */
static inset_status read_set(sweep *s, const char *metric_name, const char *text, size_t length, token_set *out)
{
    inset_status status;
    if (is_file_name(text, length)) {
        const char *path = arena_text(&s->memory, text, length);
        if (!path) return INSET_NO_MEMORY;
        status = set_from_file(s, metric_name, path, out);
        return status ? status : check_tokens(s, metric_name, out);
    }
    int64_t count = 1, *tokens;
    for (size_t i = 0; i < length; i++) count += text[i] == '+';
    if (!(tokens = arena_new(&s->memory, (size_t)count * sizeof *tokens))) return INSET_NO_MEMORY;
    *out = (token_set){.count = count, .tokens = tokens};
    for (int64_t i = 0; i < count; i++) {
        const char *plus = memchr(text, '+', length);
        size_t n = plus ? (size_t)(plus - text) : length;
        if (!parse_integer(text, n, &tokens[i])) return refuse(s, metric_name);
        text += n + (plus != NULL);
        length -= n + (plus != NULL);
    }
    return check_tokens(s, metric_name, out);
}

/* Metrics of one position that take a whole row share it; columns are a metric's own. */
static void find_reading(sweep *s, metric *m)
{
    size_t i = 0;
    while (i < s->n_readings && !(m->needs_row && s->readings[i].row && s->readings[i].position == m->position)) i++;
    m->reading = (int32_t)i;
    if (i == s->n_readings)
        s->readings[s->n_readings++] = (reading){.row = m->needs_row, .position = m->position,
                                                 .count = m->needs_row ? s->program->vocabulary : m->sets[0].count + m->sets[1].count};
    s->readings[i].needs_sum |= m->needs_row && m->kind != METRIC_RANK;
    s->readings[i].needs_distribution |= m->kind == METRIC_KL;
}

static inset_status check_position(sweep *s, const metric *m)
{
    for (int64_t i = 0; i < s->pairs; i++)
        if (m->position >= s->clean.lengths[i] || m->position < -s->clean.lengths[i])
            return error_set(s->context, INSET_INDEX_ERROR, "%s: position %lld is outside pair %lld, whose prompts have %lld tokens", m->name,
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
    while (k < N_KINDS && (strlen(kinds[k].name) != length || memcmp(kinds[k].name, text, length))) k++;
    if (k == N_KINDS) return refuse(s, text);
    out->kind = kinds[k].kind;
    out->needs_row = kinds[k].needs_row;
    const char *part = text + length + 1, *comma = kinds[k].n_sets == 2 && part < end ? memchr(part, ',', (size_t)(end - part)) : NULL;
    if (text + length == end ? kinds[k].n_sets > 0 : kinds[k].n_sets == 0 || (kinds[k].n_sets == 2 && !comma)) return refuse(s, text);
    inset_status status = check_position(s, out);
    if (!status && kinds[k].n_sets) status = read_set(s, out->name, part, (size_t)((comma ? comma : end) - part), &out->sets[0]);
    if (!status && comma) status = read_set(s, out->name, comma + 1, (size_t)(end - comma - 1), &out->sets[1]);
    if (!status) find_reading(s, out);
    return status;
}

inset_status metrics_read(sweep *s, const char *const *texts)
{
    size_t count = 0;
    while (texts && texts[count]) count++;
    if (!count) return error_set(s->context, INSET_USAGE_ERROR, "which metric? logit_diff:A,B, for example");
    s->metrics = arena_new(&s->memory, count * sizeof *s->metrics);
    s->readings = arena_new(&s->memory, count * sizeof *s->readings);
    if (!s->metrics || !s->readings) return INSET_NO_MEMORY;
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; k < i; k++)
            if (!strcmp(texts[k], texts[i])) return error_set(s->context, INSET_VALUE_ERROR, "the metric %s is named twice", texts[i]);
        inset_status status = read_metric(s, texts[i], &s->metrics[i]);
        if (status) return status;
        s->n_metrics++;
    }
    return INSET_OK;
}

/* ---- the trace's part --------------------------------------------------------------------------------------------------------------- */

static const int64_t *tokens_of(const token_set *set, int64_t pair) { return set->tokens + (set->per_pair ? pair * set->count : 0); }

inset_status readout_start(sweep *s, arena *a, readout *r, size_t runs)
{
    *r = (readout){.views = arena_new(a, s->n_readings * sizeof *r->views), .counts = arena_new(a, s->n_readings * sizeof *r->counts)};
    if (!r->views || !r->counts) return INSET_NO_MEMORY;
    for (size_t i = 0; i < s->n_readings; i++)
        if (!(r->views[i] = arena_new(a, runs * (size_t)(s->readings[i].row ? 1 : s->readings[i].count) * sizeof **r->views)))
            return INSET_NO_MEMORY;
    return INSET_OK;
}

static inset_status take_columns(trace *t, readout *r, size_t reading_index, const operand *logits, int64_t position, const token_set *set,
                                 int64_t pair)
{
    const int64_t *tokens = tokens_of(set, pair);
    for (int64_t i = 0; i < set->count; i++) {
        const index_item items[3] = {{.kind = INDEX_INTEGER}, {.kind = INDEX_INTEGER, .integer = position},
                                     {.kind = INDEX_INTEGER, .integer = tokens[i]}};
        inset_status status = trace_index(t, logits, 3, items, &r->views[reading_index][r->counts[reading_index]]);
        if (status) return status;
        r->counts[reading_index]++;
    }
    return INSET_OK;
}

inset_status readout_take(const sweep *s, trace *t, readout *r, int64_t pair)
{
    operand logits;
    inset_status status = trace_site(t, s->logits, &logits);
    r->runs++;
    for (size_t i = 0; i < s->n_readings && !status; i++) {
        const index_item items[2] = {{.kind = INDEX_INTEGER}, {.kind = INDEX_INTEGER, .integer = s->readings[i].position}};
        if (s->readings[i].row) status = trace_index(t, &logits, 2, items, &r->views[i][r->counts[i]++]);
    }
    for (size_t i = 0; i < s->n_metrics && !status; i++) {
        const metric *m = &s->metrics[i];
        for (int k = 0; k < 2 && !status && !m->needs_row; k++)
            status = take_columns(t, r, (size_t)m->reading, &logits, m->position, &m->sets[k], pair);
    }
    return status;
}

inset_status readout_save(const sweep *s, trace *t, const readout *r)
{
    char name[32];
    inset_status status = INSET_OK;
    for (size_t i = 0; i < s->n_readings && !status; i++) {
        snprintf(name, sizeof name, "reading%zu", i);
        status = trace_save_stack(t, name, r->counts[i], r->views[i]);
    }
    return status;
}

/* ---- numbers -------------------------------------------------------------------------------------------------------------------------- */

static double log_sum(const float *x, int64_t n)
{
    double most = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++)
        if (x[i] > most) most = x[i];
    for (int64_t i = 0; i < n; i++) sum += exp(x[i] - most);
    return most + log(sum);
}

void row_read(const sweep *s, const reading *r, const float *numbers, row *out)
{
    *out = (row){.x = numbers};
    if (r->row && r->needs_sum) out->log_sum = log_sum(numbers, s->program->vocabulary);
}

void row_keep(const sweep *s, const reading *r, const row *unpatched, distribution *out)
{
    out->row = *unpatched;
    out->negative_entropy = 0;
    if (!r->needs_distribution) return;
    for (int64_t i = 0; i < s->program->vocabulary; i++) {
        double log_p = unpatched->x[i] - unpatched->log_sum;
        out->p[i] = exp(log_p);
        out->negative_entropy += out->p[i] * log_p;
    }
}

static double mean_of(const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i];
    return sum / (double)n;
}

static double probability(const row *of, const int64_t *tokens, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += exp(of->x[tokens[i]] - of->log_sum);
    return sum;
}

/* log(sum of probabilities), exact also where these underflow. */
static double log_probability(const row *of, const int64_t *tokens, int64_t count)
{
    double most = -INFINITY, sum = 0;
    for (int64_t i = 0; i < count; i++) most = fmax(most, of->x[tokens[i]]);
    for (int64_t i = 0; i < count; i++) sum += exp(of->x[tokens[i]] - most);
    return most + log(sum) - of->log_sum;
}

/* How many tokens have a larger logit than the best of the set. */
static double rank(const row *of, int64_t n, const int64_t *tokens, int64_t count)
{
    double best = -INFINITY, larger = 0;
    for (int64_t i = 0; i < count; i++) best = fmax(best, of->x[tokens[i]]);
    for (int64_t i = 0; i < n; i++) larger += of->x[i] > best;
    return larger;
}

/* sum p log(p / q), p of the unpatched run, q = exp(x - log_sum); 0 for equal rows, not only nearly. */
static double divergence(const distribution *unpatched, const row *of, int64_t n)
{
    double sum = 0;
    if (!memcmp(unpatched->row.x, of->x, (size_t)n * sizeof *of->x)) return 0;
    for (int64_t i = 0; i < n; i++) sum += unpatched->p[i] * of->x[i];
    return fmax(0, unpatched->negative_entropy - sum + of->log_sum);
}

double metric_value(const sweep *s, const metric *m, int64_t pair, const row *of, const distribution *unpatched)
{
    const int64_t n = s->program->vocabulary, *tokens = tokens_of(&m->sets[0], pair), count = m->sets[0].count;
    switch (m->kind) {
    case METRIC_LOGIT_DIFF: return mean_of(of->x, count) - mean_of(of->x + count, m->sets[1].count);
    case METRIC_LOGIT: return mean_of(of->x, count);
    case METRIC_PROBABILITY: return probability(of, tokens, count);
    case METRIC_LOG_PROBABILITY: return log_probability(of, tokens, count);
    case METRIC_RANK: return rank(of, n, tokens, count);
    case METRIC_KL: break;
    }
    return divergence(unpatched, of, n);
}
