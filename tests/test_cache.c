/* test_cache.c: caches against scripts that save the same sites, one prompt after the other.
 *
 *   families      random prompts, lengths, positions, types and sizes of batches and shards, on all
 *                 families: every row is there, in its place, and has the numbers of the script
 *   alone         batches of one prompt: bit for bit the script's numbers
 *   memory        little of it: batches in parts
 *   interrupted   stopped at every step and begun anew: the bytes of one that was not
 *   settings      a folder that was begun with something else is refused, by name
 *   refusals      options that make no sense, as a table
 *   folders       locked, not empty, a shard that is gone
 *   patterns      what patterns stand for, and what is left out
 *   prompts       files of lists, whole and by line
 *   full          a file that may not grow: an error, and what is whole stays
 *   no memory     each allocation fails in turn
 *
 * The device comes from INSET_TEST_DEVICE, "cpu" without it. */
#define _GNU_SOURCE /* unshare */
#include "test.h"

#include <dirent.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache/cache.h"
#include "file/file.h"
#include "run/model.h"
#include "world.h"

enum { MOST_PROMPTS = 24, MOST_LENGTH = 12, MOST_TENSORS = 200 };

static char scratch[] = "/tmp/inset-cache-XXXXXX";

static const char *folder(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", scratch, name);
    return path;
}

static void remove_folder(const char *path)
{
    char command[512];
    snprintf(command, sizeof command, "rm -rf '%s'", path);
    CHECK(system(command) == 0, "%s was not removed", path);
}

static const char *device_name = "cpu"; /* or INSET_TEST_DEVICE */

static inset_model *open_fixture(inset_context *context, const char *name, const char *dtype)
{
    char path[128];
    inset_model *model = NULL;
    inset_model_options options = INSET_MODEL_OPTIONS;
    options.device = device_name;
    options.dtype = dtype;
    snprintf(path, sizeof path, "fixtures/%s", name);
    CHECK(
        !inset_model_open(context, path, &options, &model), "%s: %s", name, inset_message(context));
    return model;
}

/* ---- prompts and positions ---------------------------------------------- */

typedef struct data_set {
    int64_t n, lengths[MOST_PROMPTS], starts[MOST_PROMPTS], tokens[MOST_PROMPTS * MOST_LENGTH];
} data_set;

/* Some begin alike, some are of one length. */
static void draw_prompts(uint64_t *seed, int64_t vocabulary, bool alike, data_set *out)
{
    out->n = 1 + (int64_t)(test_random(seed) % MOST_PROMPTS);
    const int64_t range = 1 + (int64_t)(test_random(seed) % MOST_LENGTH);
    for (int64_t i = 0, at = 0; i < out->n; i++) {
        out->starts[i] = at;
        out->lengths[i] = 1 + (int64_t)(test_random(seed) % (uint64_t)range);
        for (int64_t k = 0; k < out->lengths[i]; k++)
            out->tokens[at++] = alike && k < 4
                                    ? k
                                    : (int64_t)(test_random(seed) % (uint64_t)vocabulary);
    }
}

static const char *const position_texts[] = {
    NULL, "all", "-1", "0,-1", "1:4", "::2", "2-3,-2", "0", "-3:", "5,1"};
enum { POSITIONS = sizeof position_texts / sizeof *position_texts };

static bool is_kept(int spec, int64_t i, int64_t length)
{
    switch (spec) {
    case 2: return i == length - 1;
    case 3: return i == 0 || i == length - 1;
    case 4: return i >= 1 && i < 4;
    case 5: return i % 2 == 0;
    case 6: return i == 2 || i == 3 || i == length - 2;
    case 7: return i == 0;
    case 8: return i >= length - 3;
    case 9: return i == 5 || i == 1;
    default: return true;
    }
}

static int64_t count_rows(const data_set *d, int spec)
{
    int64_t n = 0;
    for (int64_t p = 0; p < d->n; p++)
        for (int64_t i = 0; i < d->lengths[p]; i++) n += is_kept(spec, i, d->lengths[p]);
    return n;
}

/* ---- what is cached ----------------------------------------------------- */

typedef struct tensor_of {
    char name[128], site[128];
} tensor_of;

/* A cache's numbers in the order of its rows, read back from its shards. */
typedef struct found {
    size_t n_tensors;
    tensor_of tensors[MOST_TENSORS];
    int64_t rows, shards;
    double *values[MOST_TENSORS];
    int64_t *index[3]; /* prompt, position, token */
} found;

static void free_found(found *f)
{
    for (size_t i = 0; i < f->n_tensors; i++) free(f->values[i]);
    for (int i = 0; i < 3; i++) free(f->index[i]);
    free(f);
}

static bool read_tensors(const json_node *root, found *f)
{
    const json_node *all = json_member(root, "tensors");
    f->n_tensors = json_length(all);
    if (!CHECK(f->n_tensors <= MOST_TENSORS, "%zu tensors", f->n_tensors)) return false;
    for (size_t i = 0; i < f->n_tensors; i++) {
        const char *name = "", *site = "";
        json_as_string(json_member(json_item(all, i), "name"), &name);
        json_as_string(json_member(json_item(all, i), "site"), &site);
        snprintf(f->tensors[i].name, sizeof f->tensors[i].name, "%s", name);
        snprintf(f->tensors[i].site, sizeof f->tensors[i].site, "%s", site);
    }
    return true;
}

static void add_index(found *f, int which, const file_tensor *t, int64_t rows)
{
    f->index[which] = realloc(f->index[which], (size_t)(f->rows + rows) * sizeof(int64_t) + 1);
    memcpy(f->index[which] + f->rows, t->data, t->bytes);
}

static void add_values(found *f, size_t which, const file_tensor *t, int64_t rows)
{
    const size_t count = t->bytes / type_size(t->type),
                 before = rows ? count / (size_t)rows * (size_t)f->rows : 0;
    f->values[which] = realloc(f->values[which], (before + count) * sizeof(double) + 1);
    for (size_t i = 0; i < count; i++)
        f->values[which][before + i] = element_get(
            t->type, (const char *)t->data + i * type_size(t->type));
}

static bool read_shard(inset_context *context, const char *path, found *f)
{
    static const char *const names[] = {"prompt", "position", "token"};
    safetensors *file;
    const file_tensor *t;
    if (!CHECK(!safetensors_open(context, path, &file), "%s", inset_message(context))) return false;
    bool good = CHECK(safetensors_count(file) == f->n_tensors + 3, "%s: tensors", path)
                && !safetensors_need(file, "prompt", &t);
    const int64_t rows = good ? t->shape[0] : 0;
    for (int i = 0; i < 3 && good; i++) {
        good = CHECK(!safetensors_need(file, names[i], &t) && t->shape[0] == rows
                         && t->type == INSET_I64 && t->n_dimensions == 1,
            "%s: %s", path, names[i]);
        if (good) add_index(f, i, t, rows);
    }
    for (size_t i = 0; i < f->n_tensors && good; i++) {
        good = CHECK(!safetensors_need(file, f->tensors[i].name, &t) && t->shape[0] == rows,
            "%s: %s", path, f->tensors[i].name);
        if (good) add_values(f, i, t, rows);
    }
    f->rows += rows;
    f->shards++;
    safetensors_close(file);
    return good;
}

static found *read_cache(inset_context *context, const char *directory)
{
    char path[512];
    json_document *document;
    snprintf(path, sizeof path, "%s/cache.json", directory);
    if (!CHECK(!json_open(context, path, &document), "%s", inset_message(context))) return NULL;
    found *f = calloc(1, sizeof *f);
    const json_node *shards = json_member(json_root(document), "shards");
    bool complete = false, good = read_tensors(json_root(document), f);
    json_as_bool(json_member(json_root(document), "complete"), &complete);
    CHECK(complete, "%s: not complete", path);
    for (size_t i = 0; i < json_length(shards) && good; i++) {
        const char *name = "";
        json_as_string(json_member(json_item(shards, i), "file"), &name);
        snprintf(path, sizeof path, "%s/%s", directory, name);
        good = read_shard(context, path, f);
    }
    json_close(document);
    if (good) return f;
    free_found(f);
    return NULL;
}

static inset_status run_cache(
    inset_model *model, const inset_cache_options *options, inset_cache_progress *progress)
{
    inset_cache *cache = NULL;
    inset_status status = inset_cache_create(model, options, &cache);
    while (!status && !inset_cache_done(cache)) status = inset_cache_step(cache);
    if (!status && progress) status = inset_cache_progress_of(cache, progress);
    inset_cache_free(cache);
    return status;
}

/* ---- what a script saves ------------------------------------------------ */

/* All sites of one prompt, alone: the plan holds the numbers, in the order of the model. */
static inset_plan *run_script(inset_model *model, const found *f, const int64_t *tokens, int64_t n)
{
    static char text[1 << 16];
    size_t at = (size_t)snprintf(text, sizeof text, "with invoke([[");
    for (int64_t i = 0; i < n; i++)
        at += (size_t)snprintf(
            text + at, sizeof text - at, "%s%lld", i ? ", " : "", (long long)tokens[i]);
    at += (size_t)snprintf(text + at, sizeof text - at, "]]):\n    cache(");
    for (size_t i = 0; i < f->n_tensors; i++)
        at += (size_t)snprintf(
            text + at, sizeof text - at, "%s\"%s\"", i ? ", " : "", f->tensors[i].site);
    at += (size_t)snprintf(text + at, sizeof text - at, ")\n");
    inset_context *context = model->context;
    inset_trace *trace = NULL;
    inset_plan *plan = NULL;
    inset_plan_options options = INSET_PLAN_OPTIONS;
    options.no_share = 1;
    inset_status status = inset_trace_create(model, &trace);
    if (!status) status = inset_script(trace, "cache.inset", NULL, text, at);
    if (!status) status = inset_plan_create(trace, &options, &plan);
    if (!status) status = inset_run(plan);
    return CHECK(!status, "%s: %s", text, inset_message(context)) ? plan : NULL;
}

typedef struct comparing {
    const char *name;
    inset_model *model;
    const found *f;
    const data_set *d;
    int spec;
    inset_type type;  /* of the files */
    double tolerance; /* 0: bit for bit */
} comparing;

/* One tensor of one prompt: its kept rows, from row `first` of the cache on. */
static void compare_tensor(
    const comparing *c, inset_plan *plan, size_t tensor, int64_t prompt, int64_t first)
{
    inset_tensor saved;
    const int64_t length = c->d->lengths[prompt];
    double want[1 << 12], got[1 << 12];
    size_t n = 0;
    NEED(!inset_saved(plan, c->f->tensors[tensor].site, &saved), "%s: %s", c->name,
        inset_message(c->model->context));
    const int64_t width = inset_tensor_count(&saved) / length;
    for (int64_t i = 0, row = first; i < length; i++) {
        if (!is_kept(c->spec, i, length)) continue;
        for (int64_t k = 0; k < width && n < sizeof want / sizeof *want; k++, n++) {
            unsigned char converted[8];
            element_put(c->type, converted, inset_tensor_element(&saved, i * width + k));
            want[n] = element_get(c->type, converted);
            got[n] = c->f->values[tensor][row * width + k];
        }
        row++;
    }
    const double error = test_relative_error(got, want, n);
    CHECK(error <= c->tolerance, "%s: %s of prompt %lld: off by %g", c->name,
        c->f->tensors[tensor].name, (long long)prompt, error);
}

static void compare(const comparing *c)
{
    int64_t row = 0;
    NEED(c->f->rows == count_rows(c->d, c->spec), "%s: %lld rows", c->name, (long long)c->f->rows);
    for (int64_t p = 0; p < c->d->n; p++) {
        const int64_t first = row, length = c->d->lengths[p],
                      *tokens = c->d->tokens + c->d->starts[p];
        for (int64_t i = 0; i < length; i++) {
            if (!is_kept(c->spec, i, length)) continue;
            CHECK(c->f->index[0][row] == p && c->f->index[1][row] == i
                      && c->f->index[2][row] == tokens[i],
                "%s: row %lld is (%lld, %lld, %lld)", c->name, (long long)row,
                (long long)c->f->index[0][row], (long long)c->f->index[1][row],
                (long long)c->f->index[2][row]);
            row++;
        }
        if (row == first) continue;
        inset_plan *plan = run_script(c->model, c->f, tokens, length);
        if (!plan) return;
        for (size_t t = 0; t < c->f->n_tensors; t++) compare_tensor(c, plan, t, p, first);
        inset_plan_free(plan);
    }
}

/* ---- families ----------------------------------------------------------- */

static inset_cache_options options_of(const data_set *d, const char *directory)
{
    inset_cache_options options = INSET_CACHE_OPTIONS;
    options.prompts.count = d->n;
    options.prompts.lengths = d->lengths;
    options.prompts.tokens = d->tokens;
    options.sites = "resid_pre,resid_post,attn_out,mlp_out,z,q,k,v";
    options.directory = directory;
    return options;
}

static void one_family(const char *name, const char *dtype, const char *kept, uint64_t *seed)
{
    static const char *const sites[] = {"resid_pre,resid_post,attn_out,mlp_out,z,q,k,v",
        "*.*.*.output,resid_post", "lm_head.input,z", "resid_post"};
    inset_context *context = NULL;
    data_set d;
    char label[128];
    NEED(!inset_context_create(NULL, &context), "no context");
    inset_model *model = open_fixture(context, name, dtype);
    if (!model) return;
    draw_prompts(seed, model->program->vocabulary, test_random(seed) % 3 == 0, &d);
    int spec = (int)(test_random(seed) % POSITIONS);
    if (!count_rows(&d, spec)) spec = 0;
    inset_cache_options options = options_of(&d, folder("family"));
    options.sites = sites[test_random(seed) % 4];
    if (!strcmp(name, "bert") && strstr(options.sites, "lm_head")) options.sites = "cls.input,z";
    options.positions = position_texts[spec];
    options.dtype = kept;
    options.batch_tokens = 1 + (int64_t)(test_random(seed) % 64);
    options.shard_bytes = 1000 + test_random(seed) % 60000;
    snprintf(label, sizeof label, "%s %s %s, %s at %s, batches of %lld", name, dtype ? dtype : "",
        kept ? kept : "", options.sites, options.positions ? options.positions : "NULL",
        (long long)options.batch_tokens);
    inset_status status = run_cache(model, &options, NULL);
    if (CHECK(!status, "%s: %s", label, inset_message(context))) {
        found *f = read_cache(context, options.directory);
        const bool half = model->type != INSET_F32 || (kept && strcmp(kept, "f32"));
        comparing c = {label, model, f, &d, spec, model->type, half ? 2e-2 : 2e-5};
        for (inset_type t = INSET_F32; kept && t <= INSET_F16; t++)
            if (!strcmp(inset_type_name(t), kept)) c.type = t;
        if (f) compare(&c);
        if (f) free_found(f);
    }
    inset_context_free(context);
    remove_folder(folder("family"));
}

static void families(void)
{
    static const char *const names[] = {"gpt2", "gpt2_options", "gpt_neo", "gptj", "phi",
        "stablelm", "starcoder2", "bloom", "granite", "olmo", "cohere", "cohere2", "opt", "bert",
        "gpt_neox", "gpt_neox_serial", "llama", "llama3", "mistral", "qwen2", "qwen3", "gemma2",
        "phi3", "olmo2", "gemma", "gemma3", "olmo3", "smollm3", "mixtral", "qwen3_moe", "gpt_oss",
        "gpt2_bf16", "gpt2_f16", "llama_bf16", "gemma2_bf16"};
    static const char *const types[] = {NULL, "f32", "bf16", "f16"};
    uint64_t seed = 1;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (int k = 0; k < 4; k++)
            one_family(names[i], types[k % 2 ? 2 : 0], types[test_random(&seed) % 4], &seed);
}

/* A batch of one prompt is what the script runs. */
static void alone(void)
{
    inset_context *context = NULL;
    data_set d;
    uint64_t seed = 7;
    NEED(!inset_context_create(NULL, &context), "no context");
    inset_model *model = open_fixture(context, "llama", NULL);
    NEED(model, "no model");
    do draw_prompts(&seed, model->program->vocabulary, false, &d);
    while (count_rows(&d, 0) < 60);
    inset_cache_options options = options_of(&d, folder("alone"));
    options.batch_tokens = 1;
    options.shard_bytes = 20000;
    if (CHECK(!run_cache(model, &options, NULL), "%s", inset_message(context))) {
        found *f = read_cache(context, options.directory);
        const comparing c = {"alone", model, f, &d, 0, INSET_F32, 0};
        if (f) compare(&c);
        if (f) CHECK(f->shards > 1, "one shard");
        if (f) free_found(f);
    }
    inset_context_free(context);
    remove_folder(folder("alone"));
}

/* Little memory: batches go in parts, to the same numbers; too little is refused. */
static void little_memory(void)
{
    inset_context *context = NULL;
    data_set d;
    uint64_t seed = 23;
    NEED(!inset_context_create(NULL, &context), "no context");
    inset_model *model = open_fixture(context, "gpt2", NULL);
    NEED(model, "no model");
    do draw_prompts(&seed, model->program->vocabulary, false, &d);
    while (count_rows(&d, 0) < 80);
    int64_t most = 0;
    for (size_t limit = 1 << 22; limit > 1000; limit /= 2) {
        inset_cache_options options = options_of(&d, folder("little"));
        inset_cache_progress is = INSET_CACHE_PROGRESS;
        options.memory_limit = limit;
        inset_status status = run_cache(model, &options, &is);
        if (status) {
            CHECK(status == INSET_NO_MEMORY && most > 4, "%zu bytes: %s", limit,
                inset_message(context));
            remove_folder(options.directory);
            break;
        }
        CHECK(is.batches >= most, "%zu bytes: %lld batches", limit, (long long)is.batches);
        most = is.batches;
        found *f = read_cache(context, options.directory);
        const comparing c = {"little memory", model, f, &d, 0, INSET_F32, 2e-5};
        if (f) compare(&c);
        if (f) free_found(f);
        remove_folder(options.directory);
    }
    inset_context_free(context);
}

/* ---- interrupted -------------------------------------------------------- */

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* Do two folders have the same files, to the byte? */
static void same_folders(const char *a, const char *b, const char *what)
{
    struct dirent **x, **y;
    const int n = scandir(a, &x, NULL, by_name), m = scandir(b, &y, NULL, by_name);
    CHECK(n == m && n > 2, "%s: %d files and %d", what, n, m);
    for (int i = 0; i < n; i++) {
        char path[2][768];
        size_t size[2] = {0};
        const bool there = i < m && !strcmp(x[i]->d_name, y[i]->d_name);
        CHECK(there, "%s: %s", what, x[i]->d_name);
        if (!there || x[i]->d_name[0] == '.') continue;
        snprintf(path[0], sizeof path[0], "%s/%s", a, x[i]->d_name);
        snprintf(path[1], sizeof path[1], "%s/%s", b, x[i]->d_name);
        char *bytes[2] = {test_read(path[0], &size[0]), test_read(path[1], &size[1])};
        CHECK(bytes[0] && bytes[1] && size[0] == size[1] && !memcmp(bytes[0], bytes[1], size[0]),
            "%s: %s differs", what, x[i]->d_name);
        free(bytes[0]);
        free(bytes[1]);
    }
    for (int i = 0; i < n; i++) free(x[i]);
    for (int i = 0; i < m; i++) free(y[i]);
    free(x);
    free(y);
}

static int stop_now(void *user, const inset_progress *progress)
{
    int *left = user;
    (void)progress;
    return --*left == 0;
}

static void interrupted(void)
{
    inset_context *context = NULL;
    data_set d;
    char whole[256], parts[256];
    uint64_t seed = 11;
    NEED(!inset_context_create(NULL, &context), "no context");
    inset_model *model = open_fixture(context, "gpt2", NULL);
    NEED(model, "no model");
    do draw_prompts(&seed, model->program->vocabulary, false, &d);
    while (count_rows(&d, 0) < 100);
    snprintf(whole, sizeof whole, "%s", folder("whole"));
    snprintf(parts, sizeof parts, "%s", folder("parts"));
    inset_cache_options options = options_of(&d, whole);
    options.batch_tokens = 16;
    options.shard_bytes = 60000;
    inset_cache_progress is = INSET_CACHE_PROGRESS;
    NEED(!run_cache(model, &options, &is), "%s", inset_message(context));
    CHECK(is.shards > 2 && is.batches > is.shards && is.done == d.n && !is.restored,
        "%lld shards, %lld batches", (long long)is.shards, (long long)is.batches);
    /* given up behind each step */
    options.directory = parts;
    for (int64_t steps = 0; steps <= is.batches + 1; steps++) {
        inset_cache *cache = NULL;
        inset_status status = inset_cache_create(model, &options, &cache);
        for (int64_t i = 0; i < steps && !status; i++) status = inset_cache_step(cache);
        CHECK(!status, "%s", inset_message(context));
        inset_cache_free(cache);
    }
    same_folders(whole, parts, "given up");
    remove_folder(parts);
    /* stopped within runs, and stepped on */
    inset_cache *cache = NULL;
    int left = 5, stops = 0;
    NEED(!inset_cache_create(model, &options, &cache), "%s", inset_message(context));
    inset_watch(context, stop_now, &left, 0);
    while (!inset_cache_done(cache)) {
        inset_status status = inset_cache_step(cache);
        if (!CHECK(!status || status == INSET_STOPPED, "%s", inset_message(context))) break;
        stops += status == INSET_STOPPED;
        left = left > 0 ? left : 5 + 30 * stops;
    }
    inset_watch(context, NULL, NULL, 0);
    inset_cache_free(cache);
    CHECK(stops > 1, "it was stopped %d times", stops);
    same_folders(whole, parts, "stopped");
    /* a shard that is gone, and one that is too short, are made again */
    char path[512];
    snprintf(path, sizeof path, "%s/00001.safetensors", parts);
    CHECK(!remove(path), "no second shard");
    snprintf(path, sizeof path, "%s/00000.safetensors", parts);
    CHECK(!truncate(path, 100), "no first shard");
    CHECK(!run_cache(model, &options, &is), "%s", inset_message(context));
    CHECK(is.restored > 0 && is.restored < d.n, "%lld restored", (long long)is.restored);
    same_folders(whole, parts, "gone");
    inset_context_free(context);
    remove_folder(whole);
    remove_folder(parts);
}

/* ---- refusals ----------------------------------------------------------- */

static const int64_t few_lengths[] = {3, 2, 5}, few_tokens[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};

static inset_cache_options few(const char *directory)
{
    inset_cache_options options = INSET_CACHE_OPTIONS;
    options.prompts = (inset_prompts){NULL, 3, few_lengths, few_tokens};
    options.sites = "resid_post";
    options.directory = directory;
    return options;
}

typedef struct refusal {
    inset_status status;
    const char *sites, *layers, *positions, *dtype, *message; /* message: part of it */
} refusal;
static const refusal refusals[] = {
    {INSET_UNKNOWN_SITE, "resid_pots", NULL, NULL, NULL, "Did you mean resid_post?"},
    {INSET_UNKNOWN_SITE, "transformer.h[9].output", NULL, NULL, NULL, "has 3 modules"},
    {INSET_UNKNOWN_SITE, "transformer.h[*].outptu", NULL, NULL, NULL, "did you mean"},
    {INSET_UNKNOWN_SITE, "transformer.h[*", NULL, NULL, NULL, "is no pattern of sites"},
    {INSET_UNKNOWN_SITE, "transformer..h", NULL, NULL, NULL, "is no pattern of sites"},
    {INSET_UNKNOWN_SITE, "lm_head.*.*", NULL, NULL, NULL, "matches nothing"},
    {INSET_UNKNOWN_SITE, "rot_q", NULL, NULL, NULL, "gpt2 has no rot_q"},
    {INSET_USAGE_ERROR, "pattern", NULL, NULL, NULL, "as wide as its prompt is long"},
    {INSET_USAGE_ERROR, "transformer.wte.input", NULL, NULL, NULL, "token ids"},
    {INSET_USAGE_ERROR, "transformer.wpe.output", NULL, NULL, NULL, "one row a position"},
    {INSET_USAGE_ERROR, "*.wpe.*", NULL, NULL, NULL, "stands for nothing that has rows"},
    {INSET_USAGE_ERROR, "", NULL, NULL, NULL, "a cache needs sites"},
    {INSET_VALUE_ERROR, "z,resid_post,z", NULL, NULL, NULL, "named twice"},
    {INSET_VALUE_ERROR, "z", "3", NULL, NULL, "part 1 of '3' chooses none of the 3 layers"},
    {INSET_VALUE_ERROR, "z", "0,5-7", NULL, NULL, "part 2"},
    {INSET_VALUE_ERROR, "z", "0,x", NULL, NULL, "a range such as"},
    {INSET_VALUE_ERROR, "z", "2-1", NULL, NULL, "a range such as"},
    {INSET_VALUE_ERROR, "lm_head.input", "0", NULL, NULL, "a path names its own"},
    {INSET_VALUE_ERROR, "z", NULL, "7", NULL, "the longest has 5"},
    {INSET_VALUE_ERROR, "z", NULL, "last", NULL, "a range such as"},
    {INSET_VALUE_ERROR, "z", NULL, NULL, "int8", "f32, bf16 or f16 was expected"},
};

static void refused(void)
{
    inset_context *context = NULL;
    NEED(!inset_context_create(NULL, &context), "no context");
    inset_model *model = open_fixture(context, "gpt2", NULL);
    NEED(model, "no model");
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const refusal *r = &refusals[i];
        inset_cache_options options = few(folder("refused"));
        inset_cache *cache = NULL;
        options.sites = r->sites;
        options.layers = r->layers;
        options.positions = r->positions;
        options.dtype = r->dtype;
        const inset_status status = inset_cache_create(model, &options, &cache);
        CHECK(status == r->status && strstr(inset_message(context), r->message) && !cache, "%s: %s",
            r->sites, inset_message(context));
        CHECK(access(options.directory, F_OK), "%s: the folder was made", r->sites);
        inset_cache_free(cache);
    }
    inset_cache *cache = NULL;
    inset_cache_options options = few(folder("refused"));
    options.size = 3;
    CHECK(inset_cache_create(model, &options, &cache) == INSET_USAGE_ERROR, "a size");
    CHECK(inset_cache_create(model, NULL, &cache) == INSET_USAGE_ERROR
              && inset_cache_create(NULL, &options, &cache) == INSET_USAGE_ERROR
              && inset_cache_step(NULL) == INSET_USAGE_ERROR && inset_cache_done(NULL),
        "NULLs");
    options = few(folder("refused"));
    options.prompts.tokens = (const int64_t[]){1, 2, 3, 4, 5, 6, 7, 8, 9, 99999};
    CHECK(inset_cache_create(model, &options, &cache) == INSET_INDEX_ERROR
              && strstr(inset_message(context), "outside the vocabulary"),
        "%s", inset_message(context));
    inset_context_free(context);
}

/* Another value of each setting, and the name that the message has. */
static void settings(void)
{
    inset_context *context = NULL;
    NEED(!inset_context_create(NULL, &context), "no context");
    inset_model *model = open_fixture(context, "gpt2", NULL),
                *half = open_fixture(context, "gpt2", "bf16");
    NEED(model && half, "no model");
    const inset_cache_options first = few(folder("settings"));
    NEED(!run_cache(model, &first, NULL), "%s", inset_message(context));
    static const char *const names[] = {"prompts", "sites", "layers", "positions", "dtype",
        "shard bytes", "batch tokens", "memory", "shared", "weights", "computed in"};
    for (int i = 0; i < 11; i++) {
        inset_cache_options options = first;
        inset_cache *cache = NULL;
        char expected[64];
        if (i == 0) options.prompts.count = 2;
        if (i == 1) options.sites = "resid_pre";
        if (i == 2) options.layers = "0";
        if (i == 3) options.positions = "-1";
        if (i == 4) options.dtype = "f16";
        if (i == 5) options.shard_bytes = 10000;
        if (i == 6) options.batch_tokens = 3;
        if (i == 7) options.memory_limit = 1 << 24;
        if (i == 8) options.no_share = 1;
        if (i == 9) options.version = "other";
        snprintf(expected, sizeof expected, ": %s was '", names[i]);
        const inset_status status = inset_cache_create(i == 10 ? half : model, &options, &cache);
        CHECK(status == INSET_VALUE_ERROR && strstr(inset_message(context), expected), "%s: %s",
            names[i], inset_message(context));
        inset_cache_free(cache);
    }
    inset_cache_progress is = INSET_CACHE_PROGRESS;
    CHECK(!run_cache(model, &first, &is) && is.restored == 3 && !is.batches, "the same: %s",
        inset_message(context));
    inset_context_free(context);
    remove_folder(first.directory);
}

static void folders(void)
{
    inset_context *context = NULL;
    NEED(!inset_context_create(NULL, &context), "no context");
    inset_model *model = open_fixture(context, "gpt2", NULL);
    NEED(model, "no model");
    inset_cache *cache = NULL, *other = NULL;
    inset_cache_options options = few(folder("locked"));
    NEED(!inset_cache_create(model, &options, &cache), "%s", inset_message(context));
    CHECK(inset_cache_create(model, &options, &other) == INSET_FILE_ERROR
              && strstr(inset_message(context), "another process is writing"),
        "locked: %s", inset_message(context));
    inset_cache_free(cache);
    CHECK(!run_cache(model, &options, NULL), "unlocked: %s", inset_message(context));
    remove_folder(options.directory);
    options.directory = scratch;
    FILE *file = fopen(folder("stranger"), "w");
    NEED(file && !fclose(file), "no file");
    CHECK(inset_cache_create(model, &options, &other) == INSET_FILE_ERROR
              && strstr(inset_message(context), "has other files"),
        "not empty: %s", inset_message(context));
    options.directory = folder("stranger");
    CHECK(inset_cache_create(model, &options, &other) == INSET_FILE_ERROR
              && strstr(inset_message(context), "Not a directory"),
        "a file: %s", inset_message(context));
    remove(folder("stranger"));
    options.directory = folder("none/none");
    CHECK(inset_cache_create(model, &options, &other) == INSET_FILE_ERROR
              && strstr(inset_message(context), "No such file"),
        "no parent: %s", inset_message(context));
    inset_context_free(context);
}

/* ---- patterns ----------------------------------------------------------- */

static size_t chosen_by(const program *p, const char *pattern, const char *also)
{
    size_t n = 0;
    int32_t site = -1;
    bool chosen[1024] = {false};
    if (program_match_sites(p, pattern, strlen(pattern), chosen)) return 0;
    for (size_t i = 0; i < p->n_sites; i++) n += chosen[i];
    if (also && (program_find_site(p, also, strlen(also), &site) || !chosen[site])) return 0;
    return n;
}

static void patterns(void)
{
    inset_context *context = NULL;
    NEED(!inset_context_create(NULL, &context), "no context");
    inset_model *model = open_fixture(context, "gpt2", NULL);
    NEED(model, "no model");
    const program *p = model->program;
    CHECK(chosen_by(p, "transformer.h[*].output", "transformer.h.2.output") == 3, "a list");
    CHECK(chosen_by(p, "transformer.h.*.output", "transformer.h.0.output") == 3, "by dots");
    CHECK(chosen_by(p, "transformer.h[-1].output", "transformer.h.2.output") == 1, "from the end");
    CHECK(chosen_by(p, "transformer.h.-1.output", "transformer.h.2.output") == 1, "and by dots");
    CHECK(chosen_by(p, "transformer.h[1].inputs", "transformer.h.1.input") == 1, "inputs");
    CHECK(chosen_by(p, "transformer.h[*].*.output", "transformer.h.1.mlp.output") == 12, "modules");
    CHECK(chosen_by(p, "transformer.h[0].attn.*", "transformer.h.0.attn.z") > 8, "sites");
    CHECK(chosen_by(p, "*.logits", "output.logits") == 1, "logits");
    CHECK(!chosen_by(p, "h[*].output", NULL) && !chosen_by(p, "", NULL)
              && !chosen_by(p, "transformer.h[3].output", NULL)
              && !chosen_by(p, "transformer.h[*].output.x", NULL)
              && !chosen_by(p, "transformer.h[*].output.", NULL)
              && !chosen_by(p, "transformer.h[]", NULL) && !chosen_by(p, "transformer.h", NULL),
        "nothing");
    inset_context_free(context);
}

/* ---- prompts ------------------------------------------------------------ */

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    NEED(file, "%s", path);
    fputs(text, file);
    fclose(file);
}

static void prompt_files(void)
{
    static const struct {
        const char *name, *text, *message; /* NULL: it is taken, and has the three prompts */
    } cases[] = {
        {"p.json", "[[1, 2, 3], [4, 5], [6, 7, 8, 9, 10]]", NULL},
        {"p.jsonl", "[1, 2, 3]\n[4, 5]\n\n  [6, 7, 8, 9, 10]", NULL},
        {"p.jsonl", "[1, 2, 3]\r\n[4, 5]\n[6, 7, 8, 9, 10]\n\n", NULL},
        {"p.jsonl", "[1, 2, 3]\n{\"tokens\": [4, 5]}\n", "line 2: a list of token ids"},
        {"p.jsonl", "[1, 2, 3]\n[4, 5.5]\n", "line 2: position 1: a token id is an integer"},
        {"p.jsonl", "[1, 2, 3]\n[4, 5\n", "line 2"},
        {"p.jsonl", "\n\n", "there is no prompt"},
        {"p.jsonl", "", "there is no prompt"},
        {"p.jsonl", "[1]\n[]\n", "prompt 1 is empty"},
        {"p.json", "{}", "lists of token ids"},
        {"gone.json", NULL, "gone.json"},
    };
    inset_context *context = NULL;
    char path[256];
    NEED(!inset_context_create(NULL, &context), "no context");
    inset_model *model = open_fixture(context, "gpt2", NULL);
    NEED(model, "no model");
    inset_cache_options options = few(folder("files"));
    NEED(!run_cache(model, &options, NULL), "%s", inset_message(context));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(path, sizeof path, "%s/%s", scratch, cases[i].name);
        if (cases[i].text) write_text(path, cases[i].text);
        options = few(folder("files"));
        options.prompts = (inset_prompts){.text = path};
        const inset_status status = run_cache(model, &options, NULL);
        CHECK(
            cases[i].message ? status && strstr(inset_message(context), cases[i].message) : !status,
            "%s: %s", cases[i].text ? cases[i].text : "none", inset_message(context));
        if (cases[i].text) remove(path);
    }
    inset_context_free(context);
    remove_folder(folder("files"));
}

/* ---- a full disk -------------------------------------------------------- */

/* In a process of its own, whose files may not grow beyond a shard and a half. */
static int fill_up(const data_set *d, const char *directory)
{
    inset_context *context = NULL;
    const struct rlimit limit = {30000, 30000};
    if (inset_context_create(NULL, &context)) return 2;
    inset_model *model = open_fixture(context, "gpt2", NULL);
    inset_cache_options options = options_of(d, directory);
    options.sites = "resid_post";
    options.batch_tokens = 8;
    options.shard_bytes = 24000;
    /* one shard that is too large among those that are not */
    if (!model || setrlimit(RLIMIT_FSIZE, &limit)) return 3;
    inset_status status = run_cache(model, &options, NULL);
    if (status) return 4;
    options.directory = folder("fuller");
    options.shard_bytes = 60000;
    inset_cache *cache = NULL;
    status = inset_cache_create(model, &options, &cache);
    while (!status && !inset_cache_done(cache)) status = inset_cache_step(cache);
    const bool told = status == INSET_FILE_ERROR && strstr(inset_message(context), "File too large")
                      && strstr(inset_message(context), "00000.safetensors")
                      && strstr(inset_message(context), "goes on with");
    const bool stays = inset_cache_step(cache) == INSET_FILE_ERROR && !inset_cache_done(cache);
    inset_context_free(context);
    return told && stays ? 0 : 5;
}

/* The same on a file system with 200 KB, where that can be had: the shards that had room stay. */
static int fill_disk(const data_set *d, const char *directory)
{
    inset_context *context = NULL;
    char path[512], cache[256];
    if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL)
        || mount("none", directory, "tmpfs", 0, "size=200k"))
        return TEST_SKIP;
    if (inset_context_create(NULL, &context)) return 2;
    inset_model *model = open_fixture(context, "gpt2", NULL);
    snprintf(cache, sizeof cache, "%.200s/cache", directory);
    inset_cache_options options = options_of(d, cache);
    options.batch_tokens = 8;
    options.shard_bytes = 100000;
    if (!model) return 3;
    const inset_status status = run_cache(model, &options, NULL);
    json_document *index;
    safetensors *shard;
    const bool told = status == INSET_FILE_ERROR
                      && strstr(inset_message(context), "No space left on device")
                      && strstr(inset_message(context), "00001.safetensors");
    snprintf(path, sizeof path, "%s/cache/00000.safetensors", directory);
    if (!told || safetensors_open(context, path, &shard)) return 4;
    safetensors_close(shard);
    snprintf(path, sizeof path, "%s/cache/cache.json", directory);
    if (json_open(context, path, &index)) return 5;
    const bool listed = json_length(json_member(json_root(index), "shards")) == 1;
    json_close(index);
    /* with room again it goes on */
    if (!listed || mount("none", directory, NULL, MS_REMOUNT, "size=2m")) return 6;
    inset_cache_progress is = INSET_CACHE_PROGRESS;
    if (run_cache(model, &options, &is) || !is.restored || is.restored == is.prompts) return 7;
    inset_context_free(context);
    return 0;
}

static void full_disk(const data_set *d)
{
    char path[256];
    int status = -1;
    snprintf(path, sizeof path, "%s", folder("disk"));
    NEED(!mkdir(path, 0777), "%s", path);
    const pid_t child = fork();
    if (!child) _exit(fill_disk(d, path));
    NEED(child > 0 && waitpid(child, &status, 0) == child, "no child");
    CHECK(WIFEXITED(status) && (!WEXITSTATUS(status) || WEXITSTATUS(status) == TEST_SKIP),
        "a full disk: the child ended with %x", status);
    if (WIFEXITED(status) && WEXITSTATUS(status)) fprintf(stderr, "no small disk can be mounted\n");
    remove_folder(path);
}

static void full(void)
{
    data_set d = {.n = 12};
    for (int64_t i = 0; i < d.n; i++) {
        d.lengths[i] = MOST_LENGTH;
        d.starts[i] = i * MOST_LENGTH;
        for (int64_t k = 0; k < MOST_LENGTH; k++) d.tokens[d.starts[i] + k] = (7 * i + k * k) % 61;
    }
    const pid_t child = fork();
    if (!child) _exit(fill_up(&d, folder("full")));
    int status = -1;
    NEED(child > 0 && waitpid(child, &status, 0) == child, "no child");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with %x", status);
    struct dirent **names;
    const int n = scandir(folder("fuller"), &names, NULL, by_name);
    CHECK(n == 3, "%d names were left", n); /* ., .. and cache.json */
    for (int i = 0; i < n; i++) free(names[i]);
    free(names);
    remove_folder(folder("full"));
    remove_folder(folder("fuller"));
    full_disk(&d);
}

/* ---- parts -------------------------------------------------------------- */

/* A cache by parts, in any order, with another number of them in between: the folder that one
 * process makes. A part is written by one process at a time. */
static void parts(void)
{
    static const int64_t turns[][2] = {{3, 4}, {1, 2}, {4, 4}, {2, 2}};
    uint64_t seed = 31;
    data_set d;
    inset_context *context = NULL;
    char whole[256];
    if (!CHECK(!inset_context_create(NULL, &context), "no context")) return;
    inset_model *model = open_fixture(context, "gpt2", NULL);
    NEED(model, "%s", inset_message(context));
    draw_prompts(&seed, 61, false, &d);
    snprintf(whole, sizeof whole, "%s", folder("whole"));
    inset_cache_options options = options_of(&d, whole);
    options.shard_bytes = 3000;
    CHECK(!run_cache(model, &options, NULL), "%s", inset_message(context));
    options.directory = folder("parts");
    for (size_t i = 0; i < sizeof turns / sizeof *turns; i++) {
        inset_cache_progress is = INSET_CACHE_PROGRESS;
        inset_cache *other = NULL;
        options.part = turns[i][0], options.parts = turns[i][1];
        CHECK(!run_cache(model, &options, &is), "part %d: %s", (int)i, inset_message(context));
        CHECK(is.done == is.mine && is.mine < is.prompts && is.complete == (i == 3),
            "part %d: %d of %d prompts, complete %d", (int)i, (int)is.done, (int)is.mine,
            is.complete);
        if (i) continue;
        inset_cache *same = NULL;
        options.part = 1;
        CHECK(!inset_cache_create(model, &options, &other)
                  && inset_cache_create(model, &options, &same) == INSET_FILE_ERROR
                  && strstr(inset_message(context), "this part of the cache"),
            "one part twice: %s", inset_message(context));
        inset_cache_free(other);
        options.part = options.parts = 0;
        options.sites = "resid_mid";
        CHECK(inset_cache_create(model, &options, &same) == INSET_VALUE_ERROR,
            "other settings than a part's: %s", inset_message(context));
        options.sites = options_of(&d, whole).sites;
    }
    same_folders(whole, options.directory, "parts");
    options.part = 5, options.parts = 4;
    inset_cache *none = NULL;
    CHECK(inset_cache_create(model, &options, &none) == INSET_VALUE_ERROR, "part 5 of 4");
    inset_context_free(context);
    remove_folder(whole);
    remove_folder(options.directory);
}

/* ---- no memory ---------------------------------------------------------- */

static void no_memory(void)
{
    world w;
    inset_context *context = world_start(&w);
    inset_model *model = open_fixture(context, "gpt2", NULL);
    NEED(model, "no model");
    inset_cache_options options = few(folder("memory"));
    options.shard_bytes = 1000;
    options.positions = "0,-1";
    options.dtype = "bf16";
    int64_t failures = 0;
    inset_status status;
    do {
        w.memory.calls = 0;
        w.memory.fail_at = failures += failures < 400 ? 1 : 7;
        status = run_cache(model, &options, NULL);
        const bool reached = w.memory.calls >= w.memory.fail_at;
        w.memory.fail_at = 0;
        CHECK(!status || status == INSET_NO_MEMORY, "allocation %lld: %s", (long long)failures,
            inset_message(context));
        remove_folder(options.directory);
        if (!reached) break;
    } while (failures < 20000);
    CHECK(failures > 100 && failures < 20000, "%lld allocations", (long long)failures);
    inset_model_free(model);
    world_end(&w, "no memory");
}

/* False where there is no such device. */
static bool has_device(void)
{
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_model_options options = INSET_MODEL_OPTIONS;
    options.device = device_name;
    if (!CHECK(!inset_context_create(NULL, &context), "no context")) return false;
    const inset_status status = inset_model_open(context, "fixtures/gpt2", &options, &model);
    inset_context_free(context);
    return status != INSET_DEVICE_ERROR;
}

int main(void)
{
    if (!CHECK(mkdtemp(scratch), "no scratch folder")) return test_result();
    full(); /* forks, before there are threads */
    if (getenv("INSET_TEST_DEVICE")) device_name = getenv("INSET_TEST_DEVICE");
    if (!has_device()) return rmdir(scratch) ? 1 : TEST_SKIP;
    patterns();
    refused();
    settings();
    folders();
    prompt_files();
    alone();
    little_memory();
    interrupted();
    families();
    parts();
    no_memory();
    CHECK(!rmdir(scratch), "%s is not empty", scratch);
    return test_result();
}
