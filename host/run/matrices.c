/* matrices.c: see matrices.h. A weight's rows or columns side by side are a part of it (parts.c),
 * which the model keeps; all else is gathered as [in, out] and belongs to the run. */
#include "run/matrices.h"

#include <string.h>

/* ---- weights ------------------------------------------------------------- */

/* Its rectangle [rows, columns] of the file's matrix as a part of the layer's product. */
static bool as_part(const weight *w, const given_matrix *g, head_part *part, bool *reverse)
{
    const bool across = g->in_step == 1 && g->out_step == g->width;
    if (w->role == WEIGHT_VECTOR || (!across && (g->in_step != g->width || g->out_step != 1)))
        return false;
    const int32_t row = (int32_t)(g->base / g->width), column = (int32_t)(g->base % g->width),
                  rows = across ? g->out : g->in, columns = across ? g->in : g->out;
    *part = w->in_out ? (head_part){.in = row, .n_in = rows, .out = column, .n_out = columns}
                      : (head_part){.in = column, .n_in = columns, .out = row, .n_out = rows};
    *reverse = (w->in_out != 0) == across;
    return true;
}

/* The layer's own matrix, where the part is all of it and it brings no bias along; or NULL. */
static inset_status layer_matrix(struct inset_model *model, int32_t index, const head_part *part,
    bool reverse, const matrix **out)
{
    const program *g = model->program;
    const weight *w = &g->weights[index];
    *out = NULL;
    if ((int64_t)part->n_in * part->n_out != (int64_t)w->rows * w->columns) return INSET_OK;
    for (size_t i = 0; i < g->n_steps; i++) {
        const step *s = &g->steps[i];
        if (s->kind != STEP_LINEAR || s->bias >= 0
            || (s->weight != index && g->weights[s->weight].same_as != index)
            || (g->weights[s->weight].in_out != 0) != (w->in_out != 0))
            continue;
        return model_matrix(model, s->weight, reverse, out);
    }
    return INSET_OK;
}

/* ---- numbers ------------------------------------------------------------- */

/* Elements of a tensor as [in, out], in its type. */
static void gather(const given_matrix *g, const char *from, char *to)
{
    const size_t size = type_size(g->type);
    for (int32_t i = 0; i < g->in; i++)
        for (int32_t o = 0; o < g->out; o++, to += size)
            memcpy(to, from + (size_t)(g->base + i * g->in_step + o * g->out_step) * size, size);
}

/* A matrix of numbers on the host, where they lie as one without a copy. */
static inset_status from_numbers(
    run_matrices *m, const given_matrix *g, const void *numbers, inset_type type, matrix **out)
{
    device *d = m->model->device;
    const size_t size = type_size(type);
    const char *at = (const char *)numbers + (size_t)g->base * size;
    const bool dense = g->in_step == g->out && g->out_step == 1,
               across = g->in_step == 1 && g->out_step == g->in;
    if (dense || across)
        return device_matrix_create(
            d, g->type, g->in, g->out, at, type, dense, NULL, INSET_F32, out);
    given_matrix of = *g;
    of.type = type;
    char *gathered = memory_new(m->model->context, (size_t)g->in * (size_t)g->out * size);
    if (!gathered) return INSET_NO_MEMORY;
    gather(&of, numbers, gathered);
    inset_status status = device_matrix_create(
        d, g->type, g->in, g->out, gathered, type, true, NULL, INSET_F32, out);
    memory_free(m->model->context, gathered);
    return status;
}

static inset_status from_device(run_matrices *m, const given_matrix *g, matrix **out)
{
    const size_t bytes = (size_t)(g->rows * g->width) * type_size(g->type);
    void *numbers = memory_new(m->model->context, bytes);
    if (!numbers) return INSET_NO_MEMORY;
    inset_status status = device_download(m->model->device, numbers, g->there, bytes);
    if (!status) status = from_numbers(m, g, numbers, g->type, out);
    memory_free(m->model->context, numbers);
    return status;
}

/* ---- a run's ------------------------------------------------------------- */

static inset_status make(run_matrices *m, size_t index)
{
    const given_matrix *g = &m->plan->matrices[index];
    const weight *w = g->weight < 0 ? NULL : &m->model->program->weights[g->weight];
    head_part part = {0};
    bool reverse;
    inset_status status;
    if (w && as_part(w, g, &part, &reverse)) {
        status = layer_matrix(m->model, g->weight, &part, reverse, &m->at[index]);
        return status || m->at[index]
                   ? status
                   : model_part(m->model, g->weight, -1, &part, reverse, &m->at[index]);
    }
    if (w) {
        const float *numbers;
        status = model_part_numbers(m->model, g->weight, &numbers);
        if (!status) status = from_numbers(m, g, numbers, INSET_F32, &m->owned[index]);
    } else if (m->fresh[index] || g->data)
        status = from_numbers(
            m, g, m->fresh[index] ? m->fresh[index] : g->data, g->type, &m->owned[index]);
    else status = from_device(m, g, &m->owned[index]);
    m->at[index] = m->owned[index];
    return status;
}

inset_status matrices_create(struct inset_model *model, const plan *p, run_matrices **out)
{
    run_matrices *m = *out = memory_new(model->context, sizeof *m);
    if (!m) return INSET_NO_MEMORY;
    *m = (run_matrices){.model = model, .plan = p};
    m->at = memory_new(model->context, p->n_matrices * sizeof *m->at);
    m->owned = memory_new(model->context, p->n_matrices * sizeof *m->owned);
    m->fresh = memory_new(model->context, p->n_matrices * sizeof *m->fresh);
    inset_status status = m->at && m->owned && m->fresh ? INSET_OK : INSET_NO_MEMORY;
    for (size_t i = 0; i < p->n_matrices && !status; i++)
        if (p->matrices[i].in) status = make(m, i);
    return status;
}

void matrices_free(run_matrices *m)
{
    if (!m) return;
    inset_context *c = m->model->context;
    for (size_t i = 0; i < m->plan->n_matrices; i++) {
        if (m->owned) device_matrix_free(m->model->device, m->owned[i]);
        if (m->fresh) memory_free(c, m->fresh[i]);
    }
    memory_free(c, (void *)m->at);
    memory_free(c, m->owned);
    memory_free(c, m->fresh);
    memory_free(c, m);
}

inset_status matrices_set(run_matrices *m, int32_t storage, const void *data)
{
    for (size_t i = 0; i < m->plan->n_matrices; i++) {
        const given_matrix *g = &m->plan->matrices[i];
        if (!g->in || g->storage != storage || g->weight >= 0) continue;
        const size_t bytes = (size_t)(g->rows * g->width) * type_size(g->type);
        void *fresh = memory_new(m->model->context, bytes);
        if (!fresh) return INSET_NO_MEMORY;
        memcpy(fresh, data, bytes);
        memory_free(m->model->context, m->fresh[i]);
        m->fresh[i] = fresh;
    }
    return INSET_OK;
}

inset_status matrices_renew(run_matrices *m, bool *renewed)
{
    *renewed = false;
    for (size_t i = 0; i < m->plan->n_matrices; i++) {
        if (!m->fresh[i]) continue;
        device_matrix_free(m->model->device, m->owned[i]);
        m->owned[i] = NULL;
        m->at[i] = NULL;
        inset_status status = make(m, i);
        if (status) return status;
        memory_free(m->model->context, m->fresh[i]);
        m->fresh[i] = NULL;
        *renewed = true;
    }
    return INSET_OK;
}
