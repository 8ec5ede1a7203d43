/* changes.c: which features patches change, by how much, and the rows that they add. */
#include <stdlib.h>
#include <string.h>

#include "sweep/features/features.h"

static const char prefix[] = "features:";

bool names_features(const char *name) { return !strncmp(name, prefix, sizeof prefix - 1); }

const float *feature_direction(const feature_site *f, int64_t feature)
{
    return f->sae.decoder + f->labels[feature] * f->sae.width;
}

void features_free(sweep *s)
{
    for (size_t i = 0; i < s->n_sites; i++)
        if (s->sites[i].features) memory_free(s->context, s->sites[i].features->at);
}

/* ---- the site ----------------------------------------------------------- */

static inset_status refuse_spelling(sweep *s, const char *text)
{
    return error_set(s->context, INSET_VALUE_ERROR,
        "'%s': features:FILE.safetensors@SITE.LAYER was expected, such as "
        "features:sae.safetensors@resid_pre.8",
        text);
}

/* The place of "resid_pre.8" and the width of its rows. */
static inset_status find_place(sweep *s, const char *member, int64_t layer, feature_site *f)
{
    const char *known = site_member(member);
    if (!known || s->n_layers <= layer)
        return known ? error_set(s->context, INSET_INDEX_ERROR,
                   "features of layer %lld: the model has layers 0 to %d", (long long)layer,
                   s->n_layers - 1)
                     : site_unknown(s, member, "read features from");
    if ((f->place = layer_place(s, (int32_t)layer, known)) < 0)
        return site_not_there(s, known, (int32_t)layer);
    const program *p = s->program;
    const slot_shape *shape = &p->slots[p->sites[f->place].slot].shape;
    f->sae.width = shape->extent[0];
    if (shape->n_columns == 1) return INSET_OK;
    return error_set(s->context, INSET_VALUE_ERROR,
        "features of %s: an SAE reads whole rows (the residual stream, attn_out, mlp_out, pre, up, "
        "post), and %s has heads",
        member, member);
}

static inset_status choose_features(sweep *s, feature_site *f)
{
    f->chosen = range_resolve(&s->features, f->sae.count, &f->first);
    if (!f->chosen)
        return error_set(s->context, INSET_VALUE_ERROR,
            "the range of features chooses none of the %lld features of %s",
            (long long)f->sae.count, f->sae.path);
    if (!(f->labels = arena_new(&s->memory, (size_t)f->chosen * sizeof *f->labels)))
        return INSET_NO_MEMORY;
    for (int64_t i = 0; i < f->chosen; i++) f->labels[i] = f->first + i * s->features.step;
    return INSET_OK;
}

inset_status features_read(sweep *s, const char *text, sweep_site *out)
{
    arena *m = &s->memory;
    const char *path = text + sizeof prefix - 1, *at = strrchr(path, '@');
    char *end = NULL, *dot = at ? strrchr(at, '.') : NULL;
    const long layer = dot && dot[1] >= '0' && dot[1] <= '9' ? strtol(dot + 1, &end, 10) : -1;
    if (!end || *end || at == path || dot == at + 1 || layer > INT32_MAX)
        return refuse_spelling(s, text);
    const char *file = arena_text(m, path, (size_t)(at - path)),
               *member = arena_text(m, at + 1, (size_t)(dot - at - 1)),
               *where = arena_text(m, at + 1, strlen(at + 1));
    char *name = arena_new(m, strlen(at) + sizeof "features");
    feature_site *f = out->features = arena_new(m, sizeof *f);
    if (!file || !member || !where || !name || !f) return INSET_NO_MEMORY;
    strcpy(name, "features");
    strcat(name, at);
    *out = (sweep_site){
        .name = name, .n_members = 1, .members = {member}, .n_heads = 1, .features = f};
    *f = (feature_site){.site = out};
    inset_status status = find_place(s, member, layer, f);
    out->width = (int32_t)f->sae.width;
    if (!status) status = sae_read(s, file, where, f->sae.width, &f->sae);
    if (!status) status = choose_features(s, f);
    out->feature_place = f->place;
    out->n_features = f->chosen;
    out->feature_labels = f->labels;
    return status;
}

/* ---- changes ------------------------------------------------------------ */

/* f' of all prompts, as a list, or dense, or zeros (neither). */
typedef struct feature_source {
    feature_list list;
    const int64_t *partners; /* the list's prompt for each pair; NULL: the pair itself */
    const float *dense;      /* [positions, chosen] */
    int64_t positions;       /* 1: for all */
} feature_source;

/* Where on the site's axes a change lies; -1: at a position that is not chosen. */
static int64_t point_of(
    const sweep *s, const sweep_site *site, int64_t pair, int64_t position, int64_t feature)
{
    const int64_t length = s->clean.lengths[pair];
    int64_t first, n = range_resolve(&s->positions, length, &first), point = 0,
                   i = position - first;
    if (i < 0 || i % s->positions.step || i / s->positions.step >= n) return -1;
    for (int k = 0; k < site->n_axes; k++) {
        const sweep_axis axis = site->axes[k];
        const int64_t label = axis == AXIS_POSITION ? position_label(s, pair, position) : feature;
        point = point * site->extents[axis] + label;
    }
    return point;
}

static inset_status add_change(
    sweep *s, feature_site *f, int64_t pair, int64_t position, int64_t feature, float by)
{
    if (by == 0) return INSET_OK;
    const int64_t point = point_of(s, f->site, pair, position, feature);
    if (point < 0) return INSET_OK;
    if (!array_extend(s->context, &f->at, &f->capacity, f->n + 1, sizeof *f->at))
        return INSET_NO_MEMORY;
    f->at[f->n++] = (feature_change){point, (int32_t)position, (int32_t)feature, by};
    return INSET_OK;
}

static int compare_changes(const void *a, const void *b)
{
    const feature_change *x = a, *y = b;
    if (x->point != y->point) return x->point < y->point ? -1 : 1;
    if (x->position != y->position) return x->position < y->position ? -1 : 1;
    return (x->feature > y->feature) - (x->feature < y->feature);
}

static bool is_before(const feature_value *a, const feature_value *b)
{
    return a->position != b->position ? a->position < b->position : a->feature < b->feature;
}

/* f' - f of one pair, both from lists. */
static inset_status compare_lists(sweep *s, feature_site *f, int64_t pair, const feature_list *base,
    const feature_list *other, int64_t of_other)
{
    const feature_value *a = base->at + base->starts[pair],
                        *end_a = base->at + base->starts[pair + 1];
    const feature_value *b = other->n ? other->at + other->starts[of_other] : NULL,
                        *end_b = other->n ? other->at + other->starts[of_other + 1] : NULL;
    const int64_t length = s->clean.lengths[pair];
    inset_status status = INSET_OK;
    while ((a < end_a || b < end_b) && !status) {
        const bool only_a = b == end_b || (a < end_a && is_before(a, b)),
                   only_b = a == end_a || (b < end_b && is_before(b, a));
        const feature_value *at = only_b ? b : a;
        const float from = only_b ? 0 : a->value, to = only_a ? 0 : b->value;
        /* a partner may be longer */
        if (at->position < length)
            status = add_change(s, f, pair, at->position, at->feature, to - from);
        a += !only_b;
        b += !only_a;
    }
    return status;
}

static inset_status compare_dense(
    sweep *s, feature_site *f, int64_t pair, const feature_list *base, const feature_source *from)
{
    const feature_value *a = base->at + base->starts[pair],
                        *end = base->at + base->starts[pair + 1];
    inset_status status = INSET_OK;
    for (int64_t t = 0; t < s->clean.lengths[pair]; t++)
        for (int64_t i = 0; i < f->chosen && !status; i++) {
            const bool there = a < end && a->position == t && a->feature == i;
            const float wanted = from->dense[(from->positions == 1 ? 0 : t) * f->chosen + i];
            status = add_change(s, f, pair, t, i, there ? wanted - a->value : wanted);
            a += there;
        }
    return status;
}

/* A tensor [features], or [positions, features], of which the chosen are taken. */
static inset_status read_dense(
    sweep *s, const feature_site *f, const char *text, feature_source *out)
{
    inset_tensor x;
    inset_status status = tensor_load(s, text, &x);
    if (status) return status;
    const int n = x.n_dimensions;
    const int64_t positions = n == 2 ? x.shape[0] : 1;
    if (n < 1 || n > 2 || x.shape[n - 1] != f->sae.count
        || (positions != 1 && positions < s->clean.longest))
        return error_set(s->context, INSET_SHAPE_ERROR,
            "%s: %s takes [%lld] or [position, %lld], one number a feature, and at least %lld "
            "positions",
            text, f->site->name, (long long)f->sae.count, (long long)f->sae.count,
            (long long)s->clean.longest);
    float *dense = arena_new(&s->memory, (size_t)(positions * f->chosen) * sizeof *dense);
    if (!dense) return INSET_NO_MEMORY;
    for (int64_t t = 0; t < positions; t++)
        for (int64_t i = 0; i < f->chosen; i++)
            dense[t * f->chosen + i] = (float)element_get(
                x.type, (const char *)x.data
                            + (size_t)(t * f->sae.count + f->labels[i]) * type_size(x.type));
    out->dense = dense;
    out->positions = positions;
    return INSET_OK;
}

static inset_status read_source(sweep *s, feature_site *f, const char *text, feature_source *out)
{
    float *mean = NULL;
    inset_status status = INSET_OK;
    switch (s->source) {
    case SOURCE_ZERO: break;
    case SOURCE_OTHER_RUN:
        return features_of_prompts(s, f, s->noise ? &s->corrupt : &s->clean, &out->list);
    case SOURCE_RESAMPLE:
        out->partners = s->partners;
        return features_of_prompts(s, f, &s->others, &out->list);
    case SOURCE_TENSOR:
        if (!s->others.count) return read_dense(s, f, text, out);
        status = features_mean(s, f, &s->others, &mean);
        out->dense = mean;
        out->positions = s->others.longest;
        break;
    }
    return status;
}

static inset_status find_changes(sweep *s, feature_site *f, const char *text)
{
    feature_source source = {0};
    feature_list base = {0};
    f->starts = arena_new(&s->memory, (size_t)(s->pairs + 1) * sizeof *f->starts);
    inset_status status = f->starts ? read_source(s, f, text, &source) : INSET_NO_MEMORY;
    if (!status) status = features_of_prompts(s, f, s->noise ? &s->clean : &s->corrupt, &base);
    for (int64_t pair = 0; pair < s->pairs && !status; pair++) {
        const size_t first = f->n;
        status = source.dense ? compare_dense(s, f, pair, &base, &source)
                              : compare_lists(s, f, pair, &base, &source.list,
                                  source.partners ? source.partners[pair] : pair);
        if (f->n > first) qsort(f->at + first, f->n - first, sizeof *f->at, compare_changes);
        f->starts[pair + 1] = (int64_t)f->n;
    }
    feature_list_free(s->context, &source.list);
    feature_list_free(s->context, &base);
    return status;
}

inset_status features_find(sweep *s, const char *source)
{
    inset_status status = INSET_OK;
    for (size_t i = 0; i < s->n_sites && !status; i++)
        if (s->sites[i].features) status = find_changes(s, s->sites[i].features, source);
    return status;
}

uint64_t features_hash(const sweep *s, uint64_t seed)
{
    for (size_t i = 0; i < s->n_sites; i++) {
        const feature_site *f = s->sites[i].features;
        if (!f) continue;
        const int64_t numbers[] = {f->first, f->chosen, s->features.step};
        seed = hash_bytes(seed, numbers, sizeof numbers);
        seed = hash_bytes(
            seed, f->sae.decoder, (size_t)(f->sae.count * f->sae.width) * sizeof(float));
        for (size_t k = 0; k < f->n; k++) { /* fields, since a structure has padding */
            seed = hash_bytes(seed, &f->at[k].point, sizeof f->at[k].point);
            seed = hash_bytes(seed, &f->at[k].by, sizeof f->at[k].by);
        }
    }
    return seed;
}

/* ---- what jobs add ------------------------------------------------------ */

/* The changes of a point of a pair: *at [count]. */
static int64_t changes_at(
    const feature_site *f, int64_t pair, int64_t point, const feature_change **at)
{
    int64_t low = f->starts[pair], high = f->starts[pair + 1];
    const int64_t end = high;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (f->at[middle].point < point) low = middle + 1;
        else high = middle;
    }
    *at = f->at + low;
    int64_t count = 0;
    while (low + count < end && f->at[low + count].point == point) count++;
    return count;
}

bool features_unchanged(const job *j)
{
    const feature_change *at;
    return j->site->features && !changes_at(j->site->features, j->pair, j->point, &at);
}

/* How many of the changes, from the first, lie at one position. */
static int64_t of_one_position(const feature_change *at, int64_t count)
{
    int64_t n = 1;
    while (n < count && at[n].position == at->position) n++;
    return n;
}

/* The sum of by * W_dec[feature]; of one change each product rounded once, as PyTorch's is. */
static void make_row(
    const feature_site *f, const feature_change *at, int64_t count, double *sums, float *out)
{
    memset(sums, 0, (size_t)f->sae.width * sizeof *sums);
    for (int64_t i = 0; i < count; i++) {
        const float *direction = feature_direction(f, at[i].feature);
        for (int64_t c = 0; c < f->sae.width; c++) sums[c] += (double)at[i].by * direction[c];
    }
    for (int64_t c = 0; c < f->sae.width; c++) out[c] = (float)sums[c];
}

/* The rows of a site's jobs of first .. first + count: their number, and where out is given
 * they. */
static int64_t make_rows(
    const sweep *s, const feature_site *f, int64_t first, int64_t count, double *sums, float *out)
{
    int64_t rows = 0;
    for (int64_t index = first; index < first + count; index++) {
        job j;
        const feature_change *at;
        if (!job_at(s, index, &j) || j.site->features != f) continue;
        int64_t left = changes_at(f, j.pair, j.point, &at);
        for (int64_t n; left > 0; left -= n, at += n) {
            n = of_one_position(at, left);
            if (out) make_row(f, at, n, sums, out + rows * f->sae.width);
            rows++;
        }
    }
    return rows;
}

inset_status features_rows(
    const sweep *s, trace *t, arena *scratch, int64_t first, int64_t count, feature_rows *out)
{
    inset_status status = INSET_OK;
    for (size_t i = 0; i < s->n_sites && !status; i++) {
        const feature_site *f = s->sites[i].features;
        const int64_t rows = f ? make_rows(s, f, first, count, NULL, NULL) : 0;
        if (!rows) continue;
        const int64_t shape[2] = {rows, f->sae.width};
        double *sums = arena_new(scratch, (size_t)f->sae.width * sizeof *sums);
        float *made = arena_new(scratch, (size_t)(rows * f->sae.width) * sizeof *made);
        if (!sums || !made) return INSET_NO_MEMORY;
        make_rows(s, f, first, count, sums, made);
        status = trace_external(t, INSET_F32, 2, shape, made, &out[i].all);
    }
    return status;
}

/* x[:, position] += row, in f32 and rounded once to the model's type. */
static inset_status add_row(trace *t, int32_t place, int64_t position, const operand *row)
{
    const index_item items[2] = {
        {.kind = INDEX_SLICE}, {.kind = INDEX_INTEGER, .integer = position}};
    operand x, there, wide, sum;
    inset_status status = trace_site(t, place, &x);
    if (!status) status = trace_index(t, &x, 2, items, &there);
    if (!status) status = trace_cast(t, &there, INSET_F32, &wide);
    if (!status) status = trace_binary(t, TRACE_ADD, &wide, row, &sum);
    return status ? status : trace_set(t, &x, 2, items, TRACE_COPY, &sum);
}

inset_status features_patch(const sweep *s, trace *t, const job *j, feature_rows *rows)
{
    const feature_site *f = j->site->features;
    const feature_change *at;
    feature_rows *of = &rows[j->site - s->sites];
    inset_status status = INSET_OK;
    int64_t left = changes_at(f, j->pair, j->point, &at);
    for (int64_t n; left > 0 && !status; left -= n, at += n) {
        const index_item item = {.kind = INDEX_INTEGER, .integer = of->next++};
        operand row;
        n = of_one_position(at, left);
        status = trace_index(t, &of->all, 1, &item, &row);
        if (!status) status = add_row(t, f->place, at->position, &row);
    }
    return status;
}

void features_score(const sweep *s, const sweep_site *site, int64_t pair, const float *gradient,
    int64_t first, int64_t step, double *points)
{
    const feature_site *f = site->features;
    (void)s;
    for (int64_t i = f->starts[pair]; i < f->starts[pair + 1]; i++) {
        const feature_change *c = &f->at[i];
        const float *g = gradient + (c->position - first) / step * f->sae.width,
                    *direction = feature_direction(f, c->feature);
        double dot = 0;
        for (int64_t k = 0; k < f->sae.width; k++) dot += (double)g[k] * direction[k];
        points[site->first_point + c->point] += c->by * dot;
    }
}
