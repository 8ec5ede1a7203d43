/* sweep.c: a sweep from its options to its last chunk.
 *
 * Whatever can be wrong is found in sweep_create, which also plans the first chunk, so that a sweep
 * that does not fit says so before it starts. How jobs are cut into chunks depends on the options,
 * the model, the kind of device and the memory limit alone (see chunk_size), never on time or on
 * how far an earlier process came. */
#include "sweep/attribution/attribute.h"
#include "sweep/chunks/book.h"

#include <string.h>
#include <unistd.h>

#include "run/run.h"
#include "run/tokens.h"

/* Jobs of a chunk; where several run it more, since unpatched runs and planning show below it. */
enum { LEAST_JOBS = 64, LEAST_SHARED = 128 };

/* Most positions of all patched runs of a chunk, beyond which matrix products gain nothing, and
 * most FLOPs if nothing were shared, which is what is lost when a process ends: some seconds or
 * minutes. */
typedef struct chunk_limits {
    int64_t rows;
    double flops;
} chunk_limits;
static const chunk_limits cpu_chunks = {32768, 4e13}, gpu_chunks = {131072, 4e15};

/* ---- options ------------------------------------------------------------ */

/* What stands at the positions, where that is the same for all that is known: texts of one
 * length. */
static inset_status read_position_texts(sweep *s)
{
    const tokenizer *t = s->model->tokenizer; /* open where there were texts */
    for (int64_t i = 0; i < s->pairs; i++)
        if (s->clean.lengths[i] != s->clean.longest) return INSET_OK;
    if (!t) return INSET_OK;
    s->position_texts = arena_new(&s->memory, (size_t)s->n_labels * sizeof *s->position_texts);
    if (!s->position_texts) return INSET_NO_MEMORY;
    for (int64_t i = 0; i < s->n_labels; i++) {
        text piece = {0};
        tokenizer_piece(t, s->clean.tokens[s->position_labels[i]], &piece);
        s->position_texts[i] = arena_text(&s->memory, piece.bytes ? piece.bytes : "", piece.length);
        text_free(s->context, &piece);
        if (!s->position_texts[i]) return INSET_NO_MEMORY;
    }
    return INSET_OK;
}

static void help_with_pieces(
    sweep *s, const tokenizer *t, const char *what, const prompts *p, int64_t i)
{
    text pieces = {0};
    if (t) model_pieces(t, p->tokens + p->starts[i], (size_t)p->lengths[i], &pieces);
    if (pieces.bytes) error_help(s->context, "%s: %s", what, pieces.bytes);
    text_free(s->context, &pieces);
}

static inset_status refuse_lengths(sweep *s, int64_t i)
{
    const tokenizer *t = model_tokenizer_if_any(s->model);
    inset_status status = error_set(s->context, INSET_VALUE_ERROR,
        "pair %lld: the clean prompt has %lld tokens, the corrupt one %lld", (long long)i,
        (long long)s->clean.lengths[i], (long long)s->corrupt.lengths[i]);
    help_with_pieces(s, t, "clean", &s->clean, i);
    help_with_pieces(s, t, "corrupt", &s->corrupt, i);
    return status;
}

static inset_status read_prompts(sweep *s, const inset_sweep_options *o)
{
    bool has_clean = o->clean.text || o->clean.count;
    s->has_corrupt = o->corrupt.text || o->corrupt.count;
    if (!has_clean)
        return error_set(
            s->context, INSET_USAGE_ERROR, "which prompts? The clean ones are missing");
    inset_status status = prompts_read(s, "clean", &o->clean, &s->clean);
    if (status) return status;
    s->pairs = s->clean.count;
    if (!s->has_corrupt) return INSET_OK;
    if ((status = prompts_read(s, "corrupt", &o->corrupt, &s->corrupt))) return status;
    if (s->corrupt.count != s->pairs)
        return error_set(s->context, INSET_VALUE_ERROR,
            "there are %lld clean prompts and %lld corrupt ones: pairs were expected",
            (long long)s->pairs, (long long)s->corrupt.count);
    for (int64_t i = 0; i < s->pairs; i++)
        if (s->clean.lengths[i] != s->corrupt.lengths[i]) return refuse_lengths(s, i);
    return INSET_OK;
}

static inset_status read_direction(sweep *s, const inset_sweep_options *o)
{
    bool other = source_is_other_run(o->source);
    s->noise = o->direction ? !strcmp(o->direction, "noise") : !other;
    if (o->direction && !s->noise && strcmp(o->direction, "denoise"))
        return error_set(s->context, INSET_VALUE_ERROR,
            "'%s' is no direction: denoise (the corrupt run is patched) or noise (the clean run "
            "is)",
            o->direction);
    if (s->has_corrupt || (!other && s->noise)) return INSET_OK;
    return error_set(s->context, INSET_USAGE_ERROR, "which prompts? The corrupt ones are missing");
}

static inset_status read_layers(sweep *s, const char *text)
{
    s->n_layers = layers_count(s->program);
    if (!s->n_layers || !s->program->vocabulary)
        return error_set(s->context, INSET_UNKNOWN_SITE,
            "%s: a sweep takes a model of tokens with numbered blocks of attention",
            s->program->model_type);
    inset_status status = range_read(s, "layers", text, &s->layers);
    if (status) return status;
    s->chosen_layers = range_resolve(&s->layers, s->n_layers, &s->first_layer);
    if (!s->chosen_layers)
        return error_set(s->context, INSET_VALUE_ERROR,
            "layers: '%s' chooses none of the %d layers", text, s->n_layers);
    if (!(s->layer_labels = arena_new(
              &s->memory, (size_t)s->chosen_layers * sizeof *s->layer_labels)))
        return INSET_NO_MEMORY;
    if ((status = blocks_read(s))) return status;
    for (int64_t i = 0; i < s->chosen_layers; i++)
        s->layer_labels[i] = s->first_layer + i * s->layers.step;
    return INSET_OK;
}

/* The labels of the position axis. Where prompts differ in length and the range counts from the
 * end, so do the labels; the longest prompt has them all. */
static inset_status read_positions(sweep *s, const char *text)
{
    inset_status status = range_read(s, "positions", text, &s->positions);
    if (status) return status;
    range *r = &s->positions;
    bool alike = true, from_end = (r->single || r->has_start) && r->start < 0;
    int64_t first;
    for (int64_t i = 0; i < s->pairs; i++) alike = alike && s->clean.lengths[i] == s->clean.longest;
    if (!alike && from_end && !r->single && ((r->has_stop && r->stop >= 0) || r->step != 1))
        return error_set(s->context, INSET_VALUE_ERROR,
            "positions: '%s' counts from the end and from the start, and the prompts differ in "
            "length",
            text);
    s->n_labels = range_resolve(r, s->clean.longest, &first);
    if (!s->n_labels)
        return error_set(s->context, INSET_VALUE_ERROR,
            "positions: '%s' chooses none of the %lld positions", text,
            (long long)s->clean.longest);
    if (!(s->position_labels = arena_new(
              &s->memory, (size_t)s->n_labels * sizeof *s->position_labels)))
        return INSET_NO_MEMORY;
    for (int64_t i = 0; i < s->n_labels; i++)
        s->position_labels[i] = first + i * r->step - (!alike && from_end ? s->clean.longest : 0);
    return INSET_OK;
}

const int64_t *axis_labels(const sweep *s, const sweep_site *site, sweep_axis axis)
{
    switch (axis) {
    case AXIS_LAYER: return s->layer_labels;
    case AXIS_POSITION: return s->position_labels;
    case AXIS_HEAD: return site->head_labels;
    case AXIS_FEATURE: return site->feature_labels;
    default: return NULL;
    }
}

int64_t position_label(const sweep *s, int64_t pair, int64_t position)
{
    const int64_t first = s->position_labels[0];
    if (first < 0) position -= s->clean.lengths[pair];
    return (position - first) / s->positions.step;
}

/* ---- taps --------------------------------------------------------------- */

/* Taps in execution order: a stable sort by event. */
static void sort_taps(sweep *s, tap *scratch, size_t n)
{
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t from = 0; from < n; from += 2 * width) {
            size_t middle = from + width < n ? from + width : n,
                   end = from + 2 * width < n ? from + 2 * width : n, a = from, b = middle;
            for (size_t i = from; i < end; i++)
                scratch[i] = a < middle && (b >= end || s->taps[a].event <= s->taps[b].event)
                                 ? s->taps[a++]
                                 : s->taps[b++];
        }
        memcpy(s->taps, scratch, n * sizeof *scratch);
    }
}

static inset_status make_taps(sweep *s)
{
    size_t most = s->n_sites * MAX_MEMBERS * (size_t)s->chosen_layers, n = 0;
    tap *scratch = arena_new(&s->memory, most * sizeof *scratch);
    s->taps = arena_new(&s->memory, most * sizeof *s->taps);
    if (!scratch || !s->taps) return INSET_NO_MEMORY;
    for (size_t i = 0; i < s->n_sites; i++)
        for (int32_t m = 0; m < s->sites[i].n_members; m++) {
            if (!(s->sites[i].taps[m] = arena_new(
                      &s->memory, (size_t)s->chosen_layers * sizeof(int32_t))))
                return INSET_NO_MEMORY;
            const bool one = s->sites[i].features; /* of one layer, whatever is chosen */
            for (int64_t layer = 0; layer < (one ? 1 : s->chosen_layers); layer++) {
                int32_t place =
                    one ? s->sites[i].feature_place
                        : s->sites[i].places[m][s->first_layer + layer * s->layers.step];
                s->taps[n++] = (tap){.place = place,
                    .event = s->program->sites[place].event,
                    .site = (int32_t)i,
                    .member = m,
                    .layer = layer};
            }
        }
    s->n_taps = n;
    sort_taps(s, scratch, n);
    for (size_t i = 0; i < n; i++)
        s->sites[s->taps[i].site].taps[s->taps[i].member][s->taps[i].layer] = (int32_t)i;
    return INSET_OK;
}

/* ---- chunks ------------------------------------------------------------- */

static int64_t smaller(int64_t a, double b) { return b < (double)a ? (int64_t)b : a; }

/* About what a patched run takes on the device: at every position the widest value of a block and
 * what it is made from, or all heads' scores and pattern; and whole rows of logits where a metric
 * needs them. */
static double bytes_a_job(const sweep *s)
{
    double open = 0;
    for (size_t i = 0; i < s->n_sites; i++)
        if (s->sites[i].by_keys) open = (double)s->sites[i].n_heads * (double)s->clean.longest;
    int32_t widest = 1, logits = s->program->slots[s->program->sites[s->logits].slot].value;
    for (int32_t i = 0; i < logits; i++)
        if (s->program->values[i].width > widest
            && s->program->values[i].width != s->program->values[logits].width)
            widest = s->program->values[i].width;
    double numbers = 2.0 * (widest > open ? widest : open) * (double)s->clean.longest
                     + (double)metrics_whole_rows(s) * s->program->vocabulary;
    return numbers * (double)type_size(s->model->type);
}

/* The most jobs of a chunk. */
static int64_t chunk_size(const sweep *s)
{
    double numbers = 0, positions = (double)s->clean.longest;
    for (size_t i = 0; i < s->program->n_weights; i++) {
        const weight *w = &s->program->weights[i];
        if (w->role == WEIGHT_MATRIX) numbers += (double)w->rows * w->columns;
    }
    const chunk_limits limits = s->model->device && s->model->device->is_cuda ? gpu_chunks
                                                                              : cpu_chunks;
    int64_t most = smaller(s->jobs, (double)limits.rows / positions);
    most = smaller(most, limits.flops / (2 * numbers * positions + 1));
    if (most < LEAST_JOBS) most = LEAST_JOBS;
    if (s->shared) {
        const int64_t part = (s->jobs + SHARED_CHUNKS - 1) / SHARED_CHUNKS;
        most = smaller(most, (double)(part < LEAST_SHARED ? LEAST_SHARED : part));
    }
    most = smaller(most, (double)s->memory_limit / bytes_a_job(s));
    if (most < 1) most = 1;
    if (most > s->jobs) most = s->jobs;
    return most;
}

bool sweep_has_features(const sweep *s)
{
    for (size_t i = 0; i < s->n_sites; i++)
        if (s->sites[i].features) return true;
    return false;
}

/* Where most jobs are not run, a chunk goes on until enough of them are; a pair's own two runs
 * count. */
static int64_t count_scattered(const sweep *s, int64_t first)
{
    int64_t i = first, runs = 2;
    for (; i < s->jobs; i++) {
        runs += job_runs(s, i) + (i > first && i % s->points == 0 ? 2 : 0);
        if (runs > s->chunk + 2) break;
    }
    return i > first ? i - first : 1;
}

int64_t sweep_count_from(const sweep *s, int64_t first)
{
    if (s->method.estimates) {
        const int64_t left = s->pairs - first / s->points;
        return (s->chunk_pairs < left ? s->chunk_pairs : left) * s->points;
    }
    if (s->chosen || sweep_has_features(s)) return count_scattered(s, first);
    if (s->chunk >= s->points) {
        int64_t count = s->chunk / s->points * s->points - first % s->points;
        return count < s->jobs - first ? count : s->jobs - first;
    }
    int64_t parts = (s->points + s->chunk - 1) / s->chunk, part = (s->points + parts - 1) / parts,
            left = s->points - first % s->points;
    return part < left ? part : left;
}

/* Numbers are held for every job: a sweep that is too large for that says so. */
static inset_status check_arrays(sweep *s)
{
    double needed = 3.0 * sizeof(float) * (double)s->n_metrics * (double)s->jobs,
           there = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    if (needed <= there) return INSET_OK;
    return error_set(s->context, INSET_NO_MEMORY,
        "the results of %lld patches take %.3g GB; the machine has %.3g GB", (long long)s->jobs,
        needed / 1e9, there / 1e9);
}

static inset_status make_arrays(sweep *s)
{
    if (s->points > (int64_t)1 << 40 || s->pairs > ((int64_t)1 << 40) / s->points)
        return error_set(s->context, INSET_VALUE_ERROR,
            "%lld points of %lld pairs are more than a sweep takes", (long long)s->points,
            (long long)s->pairs);
    s->jobs = s->pairs * s->points;
    inset_status status = check_arrays(s);
    if (status) return status;
    size_t values = s->n_metrics * (size_t)s->jobs, pairs = s->n_metrics * (size_t)s->pairs;
    s->values = arena_new(&s->memory, values * sizeof *s->values);
    s->clean_values = arena_new(&s->memory, pairs * sizeof *s->clean_values);
    s->corrupt_values = arena_new(&s->memory, pairs * sizeof *s->corrupt_values);
    if (!s->values || !s->clean_values || !s->corrupt_values) return INSET_NO_MEMORY;
    for (size_t i = 0; i < values; i++) s->values[i] = __builtin_nanf("");
    for (size_t i = 0; i < pairs; i++)
        s->clean_values[i] = s->corrupt_values[i] = __builtin_nanf("");
    for (int64_t i = 0; i < s->jobs; i++) {
        job j;
        const bool there = job_at(s, i, &j);
        s->patches += there;
        s->progress.unchanged += there && features_unchanged(&j);
    }
    s->progress.patches = s->patches;
    return INSET_OK;
}

/* ---- what decides the numbers ------------------------------------------- */

static uint64_t hash_text(uint64_t seed, const char *text)
{
    return text ? hash_bytes(seed, text, strlen(text) + 1) : hash_bytes(seed, "?", 1);
}

static uint64_t hash_prompts(uint64_t seed, const prompts *p)
{
    if (!p->count) return hash_bytes(seed, "?", 1);
    seed = hash_bytes(seed, p->lengths, (size_t)p->count * sizeof *p->lengths);
    return hash_bytes(seed, p->tokens,
        (size_t)(p->starts[p->count - 1] + p->lengths[p->count - 1]) * sizeof *p->tokens);
}

static uint64_t hash_sets(const sweep *s, uint64_t seed)
{
    for (size_t i = 0; i < s->n_metrics; i++)
        for (int k = 0; k < 2; k++) {
            const token_set *set = &s->metrics[i].sets[k];
            if (set->count)
                seed = hash_bytes(seed, set->tokens,
                    (size_t)(set->count * (set->per_pair ? s->pairs : 1)) * sizeof *set->tokens);
        }
    return seed;
}

/* A tensor from a file; a mean is what its prompts are. */
static uint64_t hash_tensors(const sweep *s, uint64_t seed)
{
    for (size_t i = 0; s->tensors && !s->others.count && i < s->n_sites * MAX_MEMBERS; i++) {
        const source_tensor *t = &s->tensors[i];
        if (!t->data) continue;
        seed = hash_bytes(
            seed, t->data, (size_t)(t->layers * source_numbers(t)) * type_size(t->type));
    }
    return seed;
}

const char *sweep_device_kind(arena *memory, const struct device *device)
{
    const char *name = device ? device->name : "none", *end = name + strlen(name), *colon;
    if (device && device->is_cuda && (colon = strstr(name, ": "))) name = colon + 2;
    for (const char *at = name; device && !device->is_cuda && *at; at++)
        if (*at == ',') end = at;
    return arena_text(memory, name, (size_t)(end - name));
}

inset_status sweep_take_fingerprint(sweep *s, const inset_sweep_options *o)
{
    const struct device *device = s->model->device;
    const char *const texts[] = {INSET_VERSION, s->program->model_type, o->version, o->patch, o->by,
        o->layers, o->positions, o->heads, o->features, o->source, o->direction};
    uint64_t h = 1;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) h = hash_text(h, texts[i]);
    for (size_t i = 0; i < s->n_metrics; i++) h = hash_text(h, s->metrics[i].name);
    h = hash_prompts(hash_prompts(hash_prompts(h, &s->clean), &s->corrupt), &s->others);
    h = features_hash(s, hash_tensors(s, hash_sets(s, h)));
    const int64_t numbers[] = {(int64_t)o->seed, s->no_share, s->model->type,
        device && device->fast, s->method.estimates, s->method.steps, s->method.ends, s->method.qk,
        s->method.graddrop, s->method.rules, s->program->ungroup};
    s->identity = hash_bytes(h, numbers, sizeof numbers);
    h = hash_text(s->identity, device ? device->name : "none");
    s->fingerprint = hash_bytes(h, &o->memory_limit, sizeof o->memory_limit);
    s->device = sweep_device_kind(&s->memory, s->model->device);
    return s->device ? INSET_OK : INSET_NO_MEMORY;
}

/* A sweep is as many traces as memory makes it, and what a device takes whole depends on the trace:
 * it is left alone, so that chunks do not show. */
plan_traits sweep_traits(const sweep *s)
{
    plan_traits traits = model_traits(s->model);
    if (!traits.fast) traits.takes_attention = NULL;
    return traits;
}

/* ---- create, step, free ------------------------------------------------- */

static inset_status keep_texts(sweep *s, const inset_sweep_options *o)
{
    if (o->version && !(s->version = arena_text(&s->memory, o->version, strlen(o->version))))
        return INSET_NO_MEMORY;
    if (o->command && !(s->command = arena_text(&s->memory, o->command, strlen(o->command))))
        return INSET_NO_MEMORY;
    if (o->state && !(s->state_path = arena_text(&s->memory, o->state, strlen(o->state))))
        return INSET_NO_MEMORY;
    s->no_share = o->no_share != 0;
    s->shared = o->shared != 0 || o->shards > 0;
    s->shard = o->shard;
    s->shards = o->shards;
    s->given_limit = o->memory_limit;
    s->memory_limit = o->memory_limit ? o->memory_limit : model_memory_left(s->model);
    return INSET_OK;
}

static inset_status find_logits(sweep *s)
{
    return program_find_site(s->program, "output.logits", strlen("output.logits"), &s->logits);
}

static inset_status check_shard(sweep *s, const inset_sweep_options *o)
{
    if (!o->shard && !o->shards) return INSET_OK;
    if (o->shards > 0 && o->shard > 0 && o->shard <= o->shards && o->shards < (int64_t)1 << 24)
        return INSET_OK;
    return error_set(s->context, INSET_VALUE_ERROR, "shard %lld of %lld: 1 of 16 to 16 of 16 are",
        (long long)o->shard, (long long)o->shards);
}

/* What the runs are of. */
static inset_status read_runs(sweep *s, const inset_sweep_options *o)
{
    inset_status status = check_shard(s, o);
    if (!status) status = keep_texts(s, o);
    if (!status) status = read_layers(s, o->layers);
    if (!status) status = find_logits(s);
    if (!status) status = read_prompts(s, o);
    return status ? status : read_direction(s, o);
}

static inset_status sweep_build(sweep *s, const inset_sweep_options *o)
{
    inset_status status;
    if ((status = read_runs(s, o)) || (status = read_positions(s, o->positions))
        || (status = read_position_texts(s))
        || (status = range_read(s, "heads", o->heads, &s->heads))
        || (status = range_read(s, "features", o->features, &s->features))
        || (status = sites_read(s, o->patch, o->by)) || (status = metrics_read(s, o->metrics))
        || (status = make_taps(s)) || (status = source_read(s, o->source, o->seed))
        || (status = features_find(s, o->source)) || (status = make_arrays(s)))
        return status;
    return sweep_take_fingerprint(s, o);
}

/* How it is cut: as the state file says, where there is one; and its first chunk. */
static inset_status cut_and_plan(sweep *s, const inset_sweep_options *o)
{
    sweep_cut cut;
    bool found = false;
    inset_status status = s->state_path ? state_open(s, o->resume != 0, &cut, &found) : INSET_OK;
    if (status) return status;
    s->chunk = chunk_size(s);
    if (found) cut_apply(s, &cut);
    if (s->method.estimates) status = attribute_begin(s, !found);
    if (!status) status = book_open(s);
    if (!status && found) status = state_restore(s);
    /* a shard without chunks is a part too */
    if (!status && s->state_path && !found && book_done(s)) status = state_begin(s);
    if (status || s->method.estimates) return status;
    const int64_t first = book_take(s);
    if (first < 0) return INSET_OK;
    status = chunk_prepare(s, first, &s->prepared);
    book_give_back(s, first);
    return status;
}

static sweep *new_sweep(struct inset_model *model, const attribution_method *method)
{
    sweep *s = memory_new(model->context, sizeof *s);
    if (!s) return NULL;
    s->context = model->context;
    s->model = model;
    s->program = model->program;
    s->model_type = model->program->model_type;
    s->type = model->type;
    s->ahead = -1;
    if (method) s->method = *method;
    arena_start(&s->memory, s->context);
    return s;
}

inset_status sweep_of_runs(struct inset_model *model, const inset_sweep_options *options,
    const attribution_method *method, sweep **out)
{
    *out = NULL;
    sweep *s = new_sweep(model, method);
    if (!s) return INSET_NO_MEMORY;
    inset_status status = read_runs(s, options);
    if (!status) status = metrics_read(s, options->metrics);
    size_t pairs = s->n_metrics * (size_t)s->pairs;
    if (!status) {
        s->clean_values = arena_new(&s->memory, pairs * sizeof *s->clean_values);
        s->corrupt_values = arena_new(&s->memory, pairs * sizeof *s->corrupt_values);
        if (!s->clean_values || !s->corrupt_values) status = INSET_NO_MEMORY;
    }
    if (status) {
        sweep_free(s);
        return status;
    }
    for (size_t i = 0; i < pairs; i++)
        s->clean_values[i] = s->corrupt_values[i] = __builtin_nanf("");
    *out = s;
    return INSET_OK;
}

inset_status sweep_create(struct inset_model *model, const inset_sweep_options *options,
    const attribution_method *method, sweep **out)
{
    *out = NULL;
    sweep *s = new_sweep(model, method);
    if (!s) return INSET_NO_MEMORY;
    inset_status status = sweep_build(s, options);
    if (!status) status = cut_and_plan(s, options);
    if (status) {
        sweep_free(s);
        return status;
    }
    *out = s;
    return INSET_OK;
}

/* ---- steps --------------------------------------------------------------- */

void sweep_leave_device(sweep *s)
{
    chunk_free(s->prepared);
    chunk_free(s->following);
    s->prepared = s->following = NULL;
    run_free(s->run);
    run_room_free(s->room);
    s->run = NULL;
    s->room = NULL;
}

void sweep_free(sweep *s)
{
    if (!s) return;
    helpers_end(s);
    attribute_free(s);
    features_free(s);
    sweep_leave_device(s);
    plans_free(s);
    book_close(s);
    arena_free(&s->memory);
    memory_free(s->context, s);
}

/* Plans the chunk behind the one that the device is at, and has it wait there: the device goes on
 * to it while the numbers of the first are looked at. Where that fails its own turn tells. */
static void start_ahead(sweep *s, int64_t chunk)
{
    if (chunk < 0 || s->following) return;
    if (chunk_prepare(s, chunk, &s->following)) return;
    if (!chunk_start(s->following)) return;
    chunk_free(s->following);
    s->following = NULL;
}

static inset_status finish_prepared(sweep *s, int64_t chunk, int64_t ahead, chunk_counts *counts)
{
    inset_status status = INSET_OK;
    if (s->prepared && chunk_of(s->prepared) != chunk) {
        chunk_free(s->prepared);
        s->prepared = NULL;
    }
    if (!s->prepared) status = chunk_prepare(s, chunk, &s->prepared);
    if (!status && !chunk_started(s->prepared)) status = chunk_start(s->prepared);
    if (status) return status;
    start_ahead(s, ahead);
    return chunk_finish(s->prepared, counts);
}

inset_status sweep_run_chunk(sweep *s, int64_t chunk, int64_t ahead, chunk_counts *counts)
{
    *counts = (chunk_counts){.done = 0};
    if (s->method.estimates) return attribute_run(s, chunk, counts);
    inset_status status = finish_prepared(s, chunk, ahead, counts);
    if (status) { /* nobody knows what is in the device's memory */
        sweep_leave_device(s);
        return status;
    }
    chunk_free(s->prepared);
    s->prepared = s->following;
    s->following = NULL;
    return INSET_OK;
}

int sweep_keep_chunk(sweep *s, int64_t chunk, const void *record, size_t size)
{
    int reason = 0;
    book *b = s->book;
    pthread_mutex_lock(&b->lock);
    if (s->state_path && b->states[chunk] != CHUNK_DONE) reason = state_append(s, record, size);
    pthread_mutex_unlock(&b->lock);
    if (!reason) record_take(s, record);
    return reason;
}

/* Takes a chunk, or the one that was begun; a second one where the device works ahead. */
static int64_t take_chunks(sweep *s, int64_t *ahead)
{
    const int64_t chunk = s->ahead >= 0 ? s->ahead : book_take(s);
    s->ahead = -1;
    *ahead = -1;
    if (chunk >= 0 && !s->method.estimates && device_works_ahead(s->model->device))
        *ahead = book_take(s);
    return chunk;
}

static inset_status step_own(sweep *s, int64_t chunk, int64_t ahead)
{
    chunk_counts counts;
    char *record = NULL;
    size_t size;
    inset_status status = sweep_run_chunk(s, chunk, ahead, &counts);
    if (!status) status = record_make(s, chunk, &counts, &record, &size);
    const int reason = status ? 0 : sweep_keep_chunk(s, chunk, record, size);
    if (reason)
        status = error_set(s->context, INSET_FILE_ERROR, "%s: %s", s->state_path, strerror(reason));
    memory_free(s->context, record);
    if (!status) {
        s->ahead = ahead;
        return status;
    }
    book_give_back(s, chunk);
    book_give_back(s, ahead);
    return status;
}

inset_status sweep_step(sweep *s)
{
    int64_t ahead;
    if (book_done(s)) return INSET_OK;
    inset_status status = book_check(s);
    if (!status) status = helpers_start(s);
    if (status) return status;
    const int64_t chunk = take_chunks(s, &ahead);
    status = chunk >= 0 ? step_own(s, chunk, ahead) : book_wait(s);
    if (status || !book_done(s)) return status;
    helpers_end(s);
    sweep_leave_device(s);
    return INSET_OK;
}
