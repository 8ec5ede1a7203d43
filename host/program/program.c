/* program.c: a program as an object: created, closed, freed. What fills it is in build.c, what asks
 * it is in find.c. */
#include "program/program.h"

#include <string.h>

inset_status program_create(inset_context *context, const char *model_type, program **out)
{
    *out = NULL;
    program *p = memory_new(context, sizeof *p);
    if (!p) return INSET_NO_MEMORY;
    p->context = context;
    arena_start(&p->memory, context);
    p->tokens_slot = -1;
    p->model_type = arena_text(&p->memory, model_type, strlen(model_type));
    p->modules = memory_new(context, sizeof *p->modules);
    p->events = memory_new(context, sizeof *p->events);
    if (!p->model_type || !p->modules || !p->events) {
        program_free(p);
        return INSET_NO_MEMORY;
    }
    /* The root is entered at event 0 and left by program_finish. */
    p->modules[0] = (module){
        .name = "", .path = "", .parent = -1, .first_child = -1, .next_sibling = -1, .leave = -1};
    p->events[0] = (event){EVENT_ENTER, 0};
    p->n_modules = p->modules_capacity = p->n_events = p->events_capacity = 1;
    *out = p;
    return INSET_OK;
}

void program_free(program *p)
{
    if (!p) return;
    void *const arrays[] = {p->values, p->slots, p->steps, p->events, p->sites, p->modules,
        p->weights, p->module_sites, p->blocks, p->head_paths};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) memory_free(p->context, arrays[i]);
    arena_free(&p->memory);
    memory_free(p->context, p);
}

/* Fills program->module_sites: the sites of each module side by side, in the order they were
 * declared. */
static inset_status group_sites(program *p)
{
    p->module_sites = memory_new(p->context, p->n_sites * sizeof *p->module_sites);
    if (!p->module_sites) return INSET_NO_MEMORY;
    for (size_t i = 0; i < p->n_modules; i++) p->modules[i].n_sites = 0;
    for (size_t i = 0; i < p->n_sites; i++) p->modules[p->sites[i].module].n_sites++;
    int32_t first = 0;
    for (size_t i = 0; i < p->n_modules; i++) {
        p->modules[i].first_site = first;
        first += p->modules[i].n_sites;
        p->modules[i].n_sites = 0;
    }
    for (size_t i = 0; i < p->n_sites; i++) {
        module *m = &p->modules[p->sites[i].module];
        p->module_sites[m->first_site + m->n_sites++] = (int32_t)i;
    }
    return INSET_OK;
}

inset_status program_finish(program *p)
{
    if (p->status) return p->status;
    if (p->open_module)
        return p->status = error_set(p->context, INSET_USAGE_ERROR,
                   "module %s was entered and never left", p->modules[p->open_module].path);
    if (p->tokens_slot < 0)
        return p->status = error_set(p->context, INSET_USAGE_ERROR,
                   "a program needs an input: token ids or rows of numbers");
    if (!array_reserve(
            p->context, &p->events, &p->events_capacity, p->n_events + 1, sizeof *p->events))
        return p->status = INSET_NO_MEMORY;
    p->modules[0].leave = (int32_t)p->n_events;
    p->events[p->n_events++] = (event){EVENT_LEAVE, 0};
    return p->status = group_sites(p);
}
