/* sae.c: a sparse autoencoder from a file and the cfg.json beside it, and its activation. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "file/file.h"
#include "sweep/features/features.h"

/* ---- tensors ------------------------------------------------------------ */

typedef struct reader {
    sweep *s;
    sae *e;
    const char *site;
    safetensors *file;
    json_document *config; /* NULL: no cfg.json */
} reader;

static const file_tensor *find_either(const reader *r, const char *name, const char *other)
{
    const file_tensor *found = safetensors_find(r->file, name);
    return found || !other ? found : safetensors_find(r->file, other);
}

static inset_status refuse_missing(const reader *r, const char *name)
{
    char there[256] = "";
    size_t n = 0;
    for (size_t i = 0; i < safetensors_count(r->file) && n < sizeof there; i++)
        n += (size_t)snprintf(
            there + n, sizeof there - n, "%s%s", i ? ", " : "", safetensors_at(r->file, i)->name);
    inset_status status = error_set(r->s->context, INSET_FILE_ERROR,
        "%s is no SAE that inset reads: it has no %s", r->e->path, name);
    error_help(r->s->context,
        "An SAE has W_enc [width, features], b_enc, W_dec [features, width] and b_dec, as SAELens "
        "saves it, or encoder.weight, encoder.bias, decoder.weight and bias. There is %s.",
        there);
    return status;
}

/* A tensor of floats and of one shape (columns 0: [rows]) as f32, transposed where `across`. */
static inset_status take(const reader *r, const char *name, const file_tensor *from, int64_t rows,
    int64_t columns, bool across, float **out)
{
    inset_context *c = r->s->context;
    const int n = columns ? 2 : 1;
    const int64_t wanted[2] = {across ? columns : rows, across ? rows : columns};
    if (!from) return refuse_missing(r, name);
    if (!type_is_float(from->type))
        return error_set(c, INSET_TYPE_ERROR, "%s: %s holds %s, floats were expected", r->e->path,
            name, from->stored_type ? from->stored_type : type_torch_name(from->type));
    if (from->n_dimensions != n || from->shape[0] != wanted[0]
        || (n == 2 && from->shape[1] != wanted[1])) {
        char found[96] = "", expected[48];
        for (int i = 0, at = 0; i < from->n_dimensions && at < (int)sizeof found - 24; i++)
            at += snprintf(found + at, sizeof found - (size_t)at, "%s%lld", i ? ", " : "",
                (long long)from->shape[i]);
        if (n == 2)
            snprintf(expected, sizeof expected, "%lld, %lld", (long long)wanted[0],
                (long long)wanted[1]);
        else snprintf(expected, sizeof expected, "%lld", (long long)wanted[0]);
        return error_set(c, INSET_SHAPE_ERROR,
            "%s: %s has the shape [%s], [%s] was expected: %s has rows of %lld numbers", r->e->path,
            name, found, expected, r->site, (long long)r->e->width);
    }
    const int64_t across_by = across ? rows : 1, count = columns ? columns : 1;
    float *to = *out = arena_new(&r->s->memory, (size_t)(rows * count) * sizeof **out);
    if (!to) return INSET_NO_MEMORY;
    const size_t size = type_size(from->type);
    if (from->type == INSET_F32 && !across) {
        memcpy(to, from->data, from->bytes);
        return INSET_OK;
    }
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < count; j++)
            to[i * count + j] = (float)element_get(
                from->type, (const char *)from->data
                                + (size_t)(across ? j * across_by + i : i * count + j) * size);
    return INSET_OK;
}

/* How many features: the side of the encoder's matrix that is not the row's width. */
static inset_status count_features(reader *r, bool *across)
{
    const file_tensor *encoder = find_either(r, "W_enc", "encoder.weight");
    if (!encoder || encoder->n_dimensions != 2) return refuse_missing(r, "matrix W_enc");
    *across = strcmp(encoder->name, "W_enc") != 0;
    r->e->count = encoder->shape[*across ? 0 : 1];
    if (r->e->count > 0 && r->e->count < INT32_MAX) return INSET_OK;
    return error_set(r->s->context, INSET_SHAPE_ERROR, "%s: %s has %lld features", r->e->path,
        encoder->name, (long long)r->e->count);
}

static inset_status take_tensors(reader *r)
{
    sae *e = r->e;
    bool across = false, gated = e->kind == SAE_GATED;
    inset_status status = count_features(r, &across);
    if (status) return status;
    const char *bias = gated ? "b_mag" : "b_enc";
    const file_tensor *decoder = find_either(r, "W_dec", "decoder.weight");
    const file_tensor *decoder_bias = find_either(r, "b_dec", "bias");
    if (!decoder_bias) decoder_bias = safetensors_find(r->file, "decoder.bias");
    if ((status = take(r, "W_enc", find_either(r, "W_enc", "encoder.weight"), e->width, e->count,
             across, &e->encoder))
        || (status = take(r, bias, find_either(r, bias, gated ? NULL : "encoder.bias"), e->count, 0,
                false, &e->bias))
        || (status = take(r, "W_dec", decoder, e->count, e->width,
                decoder && strcmp(decoder->name, "W_dec"), &e->decoder))
        || (status = take(r, "b_dec", decoder_bias, e->width, 0, false, &e->decoder_bias)))
        return status;
    if (e->kind == SAE_JUMP_RELU)
        return take(r, "threshold", safetensors_find(r->file, "threshold"), e->count, 0, false,
            &e->threshold);
    if (!gated) return INSET_OK;
    status = take(
        r, "b_gate", safetensors_find(r->file, "b_gate"), e->count, 0, false, &e->gate_bias);
    if (!status)
        status = take(
            r, "r_mag", safetensors_find(r->file, "r_mag"), e->count, 0, false, &e->gate_scale);
    for (int64_t i = 0; i < e->count && !status; i++) e->gate_scale[i] = expf(e->gate_scale[i]);
    return status;
}

/* ---- cfg.json ----------------------------------------------------------- */

static inset_status refuse_config(const reader *r, const char *key, const char *value)
{
    return error_set(r->s->context, INSET_FILE_ERROR,
        "%s: the cfg.json beside it says \"%s\": %s, which inset does not compute", r->e->path, key,
        value);
}

/* Keys that change what the SAE computes, and the one value that inset computes. */
static inset_status check_config(const reader *r, const json_node *root)
{
    static const char *const flags[] = {"finetuning_scaling_factor", "transcode", "signed",
        "skip_connection", "rescale_acts_by_decoder_norm"};
    inset_status status = INSET_OK;
    for (size_t i = 0; i < sizeof flags / sizeof *flags && !status; i++) {
        bool on = false;
        status = json_get_bool(r->config, root, flags[i], &on);
        if (!status && on) status = refuse_config(r, flags[i], "true");
    }
    const char *normal = "none", *shape = "none";
    if (!status) status = json_get_string(r->config, root, "normalize_activations", &normal);
    if (!status) status = json_get_string(r->config, root, "reshape_activations", &shape);
    /* SAELens folds the average into the weights when it saves them */
    if (!status && strcmp(normal, "none") && strcmp(normal, "expected_average_only_in"))
        status = refuse_config(r, "normalize_activations", normal);
    if (!status && strcmp(shape, "none")) status = refuse_config(r, "reshape_activations", shape);
    return status;
}

static inset_status read_k(const reader *r, const json_node *root)
{
    const json_node *arguments = json_member(root, "activation_fn_kwargs");
    int64_t k = 0;
    inset_status status = json_get_integer(r->config, root, "k", 0, INT32_MAX, &k);
    if (!status && !k && json_is_object(arguments))
        status = json_get_integer(r->config, arguments, "k", 0, INT32_MAX, &k);
    r->e->k = k;
    return status;
}

/* What stands under "architecture", or the activation's name that older files have. */
static inset_status read_kind(const reader *r, const json_node *root)
{
    static const struct {
        const char *name;
        sae_kind kind;
    } known[] = {{"standard", SAE_RELU}, {"relu", SAE_RELU}, {"jumprelu", SAE_JUMP_RELU},
        {"topk", SAE_TOP_K}, {"gated", SAE_GATED}};
    static const char *const keys[] = {
        "architecture", "activation_fn", "activation_fn_str", "activation"};
    const bool has_threshold = safetensors_find(r->file, "threshold") != NULL;
    bool named = false;
    inset_status status = read_k(r, root);
    for (size_t i = 0; i < sizeof keys / sizeof *keys && !status; i++) {
        const char *name = NULL;
        if ((status = json_get_string(r->config, root, keys[i], &name)) || !name) continue;
        /* one training batch's largest: kept as thresholds */
        if (!strcmp(name, "batchtopk") && has_threshold) name = "jumprelu";
        size_t k = 0;
        while (k < sizeof known / sizeof *known && strcmp(known[k].name, name)) k++;
        if (k == sizeof known / sizeof *known) return refuse_config(r, keys[i], name);
        /* older files: architecture "standard", activation_fn "topk" */
        if (!named || known[k].kind == SAE_TOP_K) r->e->kind = known[k].kind;
        named = true;
    }
    if (!status && !named && r->e->k) r->e->kind = SAE_TOP_K;
    if (!status && r->e->kind == SAE_TOP_K && !r->e->k)
        status = error_set(r->s->context, INSET_FILE_ERROR,
            "%s: the cfg.json beside it says topk, and no k", r->e->path);
    return status;
}

static inset_status read_config(reader *r)
{
    char path[PATH_MAX];
    const char *slash = strrchr(r->e->path, '/');
    snprintf(
        path, sizeof path, "%.*scfg.json", slash ? (int)(slash - r->e->path) + 1 : 0, r->e->path);
    r->e->kind = safetensors_find(r->file, "threshold") ? SAE_JUMP_RELU
                 : safetensors_find(r->file, "b_gate")  ? SAE_GATED
                                                        : SAE_RELU;
    r->e->subtracts_bias = true;
    if (access(path, F_OK)) return INSET_OK;
    inset_status status = json_open(r->s->context, path, &r->config);
    const json_node *root = status ? NULL : json_root(r->config);
    if (!status && !json_is_object(root))
        status = error_set(r->s->context, INSET_FILE_ERROR, "%s: an object was expected", path);
    if (!status) status = check_config(r, root);
    if (!status)
        status = json_get_bool(r->config, root, "apply_b_dec_to_input", &r->e->subtracts_bias);
    return status ? status : read_kind(r, root);
}

inset_status sae_read(sweep *s, const char *path, const char *site, int64_t width, sae *out)
{
    *out = (sae){.path = path, .width = width};
    reader r = {.s = s, .e = out, .site = site};
    inset_status status = safetensors_open(s->context, path, &r.file);
    if (!status) status = read_config(&r);
    if (!status) status = take_tensors(&r);
    if (!status && out->kind == SAE_TOP_K && out->k > out->count) out->k = out->count;
    json_close(r.config);
    safetensors_close(r.file);
    return status;
}

/* ---- the activation ----------------------------------------------------- */

/* The k-th largest of n numbers, by quickselect; moves them. NaN counts as the largest, as in
 * torch.topk. */
static float kth_largest(float *x, int64_t n, int64_t k)
{
    int64_t from = 0, to = n - 1;
    for (int64_t i = 0; i < n; i++)
        if (isnan(x[i])) x[i] = INFINITY;
    while (from < to) {
        const float pivot = x[from + (to - from) / 2];
        int64_t i = from, j = to;
        while (i <= j) {
            while (x[i] > pivot) i++;
            while (x[j] < pivot) j--;
            if (i > j) break;
            const float kept = x[i];
            x[i++] = x[j], x[j--] = kept;
        }
        if (k - 1 <= j) to = j;
        else if (k - 1 >= i) from = i;
        else break;
    }
    return x[k - 1];
}

/* Where several are as large as the k-th, the first of them count. */
static void keep_largest(const sae *e, float *v, float *scratch)
{
    memcpy(scratch, v, (size_t)e->count * sizeof *v);
    const float least = kth_largest(scratch, e->count, e->k);
    int64_t above = 0;
    for (int64_t i = 0; i < e->count; i++) above += isnan(v[i]) || v[i] > least;
    int64_t equal = e->k - above;
    for (int64_t i = 0; i < e->count; i++) {
        const bool kept = isnan(v[i]) || v[i] > least || (v[i] == least && equal-- > 0);
        if (!kept || v[i] < 0) v[i] = 0;
    }
}

void sae_activate(const sae *e, float *v, float *scratch)
{
    if (e->kind == SAE_GATED) {
        for (int64_t i = 0; i < e->count; i++) {
            const float size = v[i] * e->gate_scale[i] + e->bias[i];
            v[i] = v[i] + e->gate_bias[i] <= 0 || size < 0 ? 0 : size;
        }
        return;
    }
    for (int64_t i = 0; i < e->count; i++) v[i] += e->bias[i];
    if (e->kind == SAE_TOP_K) keep_largest(e, v, scratch);
    for (int64_t i = 0; i < e->count && e->kind != SAE_TOP_K; i++)
        if (v[i] <= 0 || (e->kind == SAE_JUMP_RELU && v[i] <= e->threshold[i])) v[i] = 0;
}
