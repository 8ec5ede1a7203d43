/* parts.c: parts of a weight as matrices of their own, for heads that stand alone. The device has
 * weights whole; the first run that touches a head on its own brings the part that head has from
 * the file, rounded as the whole was. */
#include <string.h>

#include "run/model.h"

typedef struct part {
    int32_t weight, bias;
    head_part is;
    matrix *matrix, *reverse;
} part;

struct model_parts {
    model_weights *weights;
    part *at;
    size_t n, capacity;
    table lookup;
};

static uint64_t hash_of(int32_t weight, int32_t bias, const head_part *is)
{
    const int32_t key[6] = {weight, bias, is->in, is->n_in, is->out, is->n_out};
    return hash_bytes(0, key, sizeof key);
}

static part *find(model_parts *all, int32_t weight, int32_t bias, const head_part *is)
{
    size_t cursor = 0;
    const uint64_t hash = hash_of(weight, bias, is);
    for (int32_t i; (i = table_next(&all->lookup, hash, &cursor)) >= 0;) {
        part *p = &all->at[i];
        if (p->weight == weight && p->bias == bias && !memcmp(&p->is, is, sizeof *is)) return p;
    }
    return NULL;
}

/* The part as [out, in], whatever way the weight lies. */
static inset_status copy_part(struct inset_model *m, model_parts *all, const part *p, float *to)
{
    const weight *w = &m->program->weights[p->weight];
    const float *from = NULL;
    inset_status status = model_weights_get(all->weights, p->weight, 0, &from);
    for (int32_t o = 0; o < p->is.n_out && !status; o++)
        for (int32_t i = 0; i < p->is.n_in; i++) {
            const int64_t in = p->is.in + i, out = p->is.out + o;
            *to++ = from[w->in_out ? in * w->columns + out : out * w->columns + in];
        }
    return status;
}

static inset_status make_matrix(struct inset_model *m, model_parts *all, part *p)
{
    float *numbers = memory_new(
        m->context, (size_t)p->is.n_in * (size_t)p->is.n_out * sizeof *numbers);
    if (!numbers) return INSET_NO_MEMORY;
    const float *bias = NULL;
    inset_status status = copy_part(m, all, p, numbers);
    if (!status && p->bias >= 0) status = model_weights_get(all->weights, p->bias, 1, &bias);
    if (!status)
        status = device_matrix_create(m->device, m->type, p->is.n_in, p->is.n_out, numbers,
            INSET_F32, false, bias ? bias + p->is.out : NULL, INSET_F32, &p->matrix);
    memory_free(m->context, numbers);
    return status;
}

static inset_status add_part(
    struct inset_model *m, int32_t weight, int32_t bias, const head_part *is, part **out)
{
    model_parts *all = m->parts;
    part made = {.weight = weight, .bias = bias, .is = *is};
    if (!array_reserve(m->context, &all->at, &all->capacity, all->n + 1, sizeof *all->at))
        return INSET_NO_MEMORY;
    inset_status status = make_matrix(m, all, &made);
    if (!status && !table_add(m->context, &all->lookup, hash_of(weight, bias, is), (int32_t)all->n))
        status = INSET_NO_MEMORY;
    if (status) {
        device_matrix_free(m->device, made.matrix);
        return status;
    }
    all->at[all->n] = made;
    *out = &all->at[all->n++];
    return INSET_OK;
}

static inset_status open_parts(struct inset_model *m)
{
    if (m->parts) return INSET_OK;
    if (!(m->parts = memory_new(m->context, sizeof *m->parts))) return INSET_NO_MEMORY;
    inset_status status = model_weights_open(m, &m->parts->weights);
    if (!status) return INSET_OK;
    memory_free(m->context, m->parts);
    m->parts = NULL;
    return status;
}

inset_status model_part(struct inset_model *m, int32_t weight, int32_t bias, const head_part *is,
    bool reverse, const matrix **out)
{
    inset_status status = open_parts(m);
    if (status) return status;
    part *found = find(m->parts, weight, bias, is);
    if (!found && (status = add_part(m, weight, bias, is, &found))) return status;
    if (reverse && !found->reverse)
        status = device_matrix_reverse(m->device, found->matrix, &found->reverse);
    if (!status) *out = reverse ? found->reverse : found->matrix;
    return status;
}

const head_part *model_part_of(const struct inset_model *model, const matrix *m, bool *reverse)
{
    const model_parts *all = model->parts;
    for (size_t i = 0; all && i < all->n; i++)
        if (all->at[i].matrix == m || all->at[i].reverse == m)
            return *reverse = all->at[i].reverse == m, &all->at[i].is;
    return NULL;
}

inset_status model_numbers(struct inset_model *m, int32_t index)
{
    device_weight *to = &m->weights[index];
    const float *from = NULL;
    const weight *is = &m->program->weights[index];
    const int64_t count = (int64_t)is->rows * is->columns;
    if (to->data) return INSET_OK;
    inset_status status = open_parts(m);
    if (!status) status = model_weights_get(m->parts->weights, index, 1, &from);
    if (status) return status;
    const size_t bytes = (size_t)count * type_size(m->type);
    void *data;
    if ((status = device_allocate(m->device, bytes, &data))) return status;
    if ((status = device_upload_as(m->device, data, m->type, from, INSET_F32, count))) {
        device_release(m->device, data, bytes); /* the next run is to try again */
        return status;
    }
    to->data = data;
    to->bytes = bytes;
    return INSET_OK;
}

inset_status model_part_numbers(struct inset_model *m, int32_t index, const float **out)
{
    inset_status status = open_parts(m);
    return status ? status : model_weights_get(m->parts->weights, index, 0, out);
}

void model_parts_free(struct inset_model *m)
{
    model_parts *all = m->parts;
    if (!all) return;
    for (size_t i = 0; i < all->n; i++) {
        device_matrix_free(m->device, all->at[i].reverse);
        device_matrix_free(m->device, all->at[i].matrix);
    }
    memory_free(m->context, all->at);
    table_free(m->context, &all->lookup);
    model_weights_close(all->weights);
    memory_free(m->context, all);
    m->parts = NULL;
}
