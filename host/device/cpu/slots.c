/* slots.c: memory where weights come and go. A CPU packs them there when they are wanted: there is
 * nothing to overlap with and nothing to wait for. */
#include "device/cpu/cpu.h"

struct device_slot {
    char *memory;
    size_t bytes;
};

inset_status cpu_slot_create(device *d, size_t bytes, device_slot **out)
{
    device_slot *s = memory_new(d->context, sizeof *s);
    void *memory = NULL;
    *out = NULL;
    if (!s) return INSET_NO_MEMORY;
    inset_status status = cpu_memory_new(d->context, bytes, &memory);
    *s = (device_slot){memory, bytes};
    if (status) memory_free(d->context, s);
    else *out = s;
    return status;
}

void cpu_slot_free(device *d, device_slot *s)
{
    cpu_memory_free(d->context, s->memory, s->bytes);
    memory_free(d->context, s);
}

void *cpu_slot_at(const device_slot *s, size_t offset) { return s->memory + offset; }

inset_status cpu_slot_pass(device *d, device_slot *s)
{
    (void)d, (void)s;
    return INSET_OK;
}
