/* call.c: modules that can be applied to rows: those whose output is made of their input and of
 * nothing else, by the steps between the two. Norms, linear layers and MLPs make row i of row i;
 * attention modules and blocks attend, so they take whole sequences. */
#include <string.h>

#include "program/program.h"

static bool is_attending(step_kind kind) { return kind == STEP_ATTENTION || kind == STEP_ROPE; }

static bool is_row_step(step_kind kind)
{
    return kind == STEP_LINEAR || kind == STEP_LAYERNORM || kind == STEP_RMSNORM
           || kind == STEP_ACTIVATION || kind == STEP_GATE || kind == STEP_ADD || kind == STEP_SCALE
           || kind == STEP_SOFTCAP || kind == STEP_ROUTE || kind == STEP_EXPERTS;
}

/* Is what the slot shows made of value `input` alone, within the module? *attends: by attention. */
static bool made_of(
    const program *p, const module *m, int32_t slot_index, int32_t input, bool *attends)
{
    const int32_t value_index = p->slots[slot_index].value;
    if (value_index == input) return true;
    const step *s = &p->steps[p->values[value_index].step];
    if ((!is_row_step(s->kind) && !is_attending(s->kind)) || s->aside || s->event < m->enter
        || s->event > m->leave)
        return false;
    *attends |= is_attending(s->kind);
    for (int k = 0; k < s->n_operands; k++)
        if (!made_of(p, m, s->operands[k], input, attends)) return false;
    return true;
}

/* Rows of numbers, one a position of each sequence. */
static bool shows_rows(const program *p, int32_t slot_index)
{
    const slot *s = &p->slots[slot_index];
    return s->shape.n_columns == 1 && !s->shape.stride && !s->shape.by_keys
           && !p->values[s->value].integer && !p->values[s->value].per_position;
}

bool program_callable(const program *p, int32_t module_index, module_call *out)
{
    const int32_t in = program_site(p, module_index, "input", 5),
                  made = program_site(p, module_index, "output", 6);
    if (in < 0 || made < 0) return false;
    *out = (module_call){p->sites[in].slot, p->sites[made].slot, false};
    return shows_rows(p, out->in) && shows_rows(p, out->out)
           && slot_columns(&p->slots[out->out]) == p->values[p->slots[out->out].value].width
           && made_of(
               p, &p->modules[module_index], out->out, p->slots[out->in].value, &out->attends);
}

static bool has_number(const char *path) { return strpbrk(path, "0123456789") != NULL; }

/* Those within the module, and those that stand outside of blocks. */
static void list_callable(const program *p, int32_t module_index)
{
    text names = {0};
    int n = 0;
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 1; i < p->n_modules && n < 8; i++) {
            module_call known;
            const module *m = &p->modules[i];
            const bool inside = module_index && m->parent == module_index;
            if (pass ? inside || has_number(m->path) : !inside) continue;
            if (program_callable(p, (int32_t)i, &known))
                text_add(p->context, &names, "%s%s", n++ ? ", " : "", m->path);
        }
    if (n)
        error_help(p->context, "Norms, linear layers, MLPs, attention modules and blocks can: %s.",
            names.bytes);
    text_free(p->context, &names);
}

inset_status program_call(const program *p, int32_t module_index, module_call *out)
{
    if (program_callable(p, module_index, out)) return INSET_OK;
    const char *path = p->modules[module_index].path;
    inset_status status = error_set(p->context, INSET_TYPE_ERROR,
        "%s cannot be applied to a value: its output is made of more than its input, or its input "
        "is no tensor of rows",
        *path ? path : "the model");
    list_callable(p, module_index);
    return status;
}
