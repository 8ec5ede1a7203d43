/* base.h: the context of everything: memory, errors, arrays. Nothing here knows about models.
 *
 * Every allocation of the library goes through one context, so that a test can make each of them
 * fail in turn and count what is left. The message of the last failure lives in the context too; a
 * failure is described once, where the facts are, and callers only pass the status on. */
#ifndef INSET_BASE_H
#define INSET_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "inset.h"

/* A growing text; never fails: when memory runs out it keeps what it has. */
typedef struct text {
    char *bytes; /* NUL-terminated, or NULL while empty */
    size_t length, capacity;
} text;

typedef struct arena_block arena_block;

/* What a user holds (a model, a trace, a plan) begins with or contains one of these. The context
 * frees what is left, newest first, so that what was made from another thing goes before it. */
typedef struct handle {
    struct handle *newer, *older; /* the context's list */
    /* the object this one was made from, or NULL for the context itself */
    void *owner;
    void *object;               /* what `free` is given */
    void (*free)(void *object); /* frees the object and removes the handle */
} handle;

struct inset_context {
    inset_allocator allocator;
    int64_t live_blocks;        /* blocks handed out and not yet freed */
    inset_status status;        /* of the last failure */
    text place, help, sentence; /* the three parts of its message; see error_set */
    text message;               /* the parts put together by inset_message */
    /* arena blocks kept for reuse, so that planning small traces allocates nothing */
    arena_block *spare;
    size_t spare_bytes;
    handle *handles; /* newest first; see handle_add */
    inset_watcher watcher;
    void *watcher_user;
    double watch_every, watched; /* seconds: between two calls; when it was called last */
};

/* ---- memory -------------------------------------------------------------- */

/* All return NULL when
 * memory is out and have then set INSET_NO_MEMORY in the context (so `return INSET_NO_MEMORY` is
 * enough). */
/* zeroed; size 0 gives a block too */
void *memory_new(inset_context *context, size_t size);
/* what is added is zeroed */
void *memory_resize(inset_context *context, void *block, size_t old_size, size_t size);
void memory_free(inset_context *context, void *block); /* takes NULL */
/* a NUL-terminated copy */
char *memory_text(inset_context *context, const char *bytes, size_t length);

/* Makes room for `need` items in a growing array; *items may move. False when memory is out. */
bool array_reserve(
    inset_context *context, void *items, size_t *capacity, size_t need, size_t item_size);
/* The same for large arrays whose items are written whole: what is added is not zeroed. */
bool array_extend(
    inset_context *context, void *items, size_t *capacity, size_t need, size_t item_size);
/* Gives back room beyond the first `count` items; *items may move. False when memory is out. */
bool array_trim(
    inset_context *context, void *items, size_t *capacity, size_t count, size_t item_size);

/* ---- arena: many small objects freed together --------------------------- */
typedef struct arena {
    inset_context *context;
    arena_block *blocks; /* newest first */
    char *next, *end;    /* free part of the newest block */
    size_t used;         /* bytes handed out */
} arena;

void arena_start(arena *a, inset_context *context); /* allocates nothing */
/* zeroed, aligned to 16 bytes; NULL when memory is out */
void *arena_new(arena *a, size_t size);
void *arena_copy(arena *a, const void *bytes, size_t size);
char *arena_text(arena *a, const char *bytes, size_t length);
/* frees or keeps for reuse all blocks; the arena may be used again */
void arena_free(arena *a);

/* ---- table: hash -> index, for interning -------------------------------- */
/* index + 1; 0 = empty */
typedef struct table_slot {
    uint32_t hash;
    int32_t index;
} table_slot;
typedef struct table {
    table_slot *slots;
    size_t capacity, count; /* capacity is a power of two or 0 */
} table;

/* Walks the entries whose hash is `hash`: start with *cursor = 0; returns the next index or -1. */
int32_t table_next(const table *t, uint64_t hash, size_t *cursor);
/* false when memory is out */
bool table_add(inset_context *context, table *t, uint64_t hash, int32_t index);
void table_free(inset_context *context, table *t);
uint64_t hash_bytes(uint64_t seed, const void *bytes, size_t size);

/* ---- handles ------------------------------------------------------------ */
void handle_add(
    inset_context *context, handle *h, void *owner, void *object, void (*free)(void *object));
/* does nothing when it was not added */
void handle_remove(inset_context *context, handle *h);
/* frees all that was made from `owner`, newest first */
void handle_free_owned(inset_context *context, void *owner);

/* ---- errors -------------------------------------------------------------
 * A message has up to three parts, printed in this order:
 *     place     file:line:column, the line and a caret (set by the script reader)
 *     help      lines that help the user to mend it
 *     sentence  what is wrong; printed as "NAME: sentence", always the last line
 * error_set starts a new message and returns the status it was given, so that one writes `return
 * error_set(...)`. */
inset_status error_set(inset_context *context, inset_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* adds one line */
void error_help(inset_context *context, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* replaces the place */
void error_place(inset_context *context, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* "MemoryError: out of memory on the host" without allocating */
inset_status error_no_memory(inset_context *context);

/* ---- long calls ---------------------------------------------------------- */
/* Tells the watcher, if there is one and it is time, that `done` of `total` are done: to be called
 * before each piece of work. INSET_STOPPED, with a message: the call is to end. */
inset_status context_watch(inset_context *context, const char *doing, int64_t done, int64_t total);

/* ---- text --------------------------------------------------------------- */
void text_add(inset_context *context, text *t, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void text_clear(text *t);
void text_free(inset_context *context, text *t);

/* The edit distance of two names, at most `limit` + 1: for "did you mean". */
int text_distance(const char *a, const char *b, int limit);

/* ---- types -------------------------------------------------------------- */
/* bytes of one element; these four take INSET_TYPE_COUNT too: no bytes, no float */
size_t type_size(inset_type type);
const char *type_name(inset_type type);       /* "f32" */
const char *type_torch_name(inset_type type); /* "torch.float32", for messages users know */
bool type_is_float(inset_type type);

/* bf16 and f16 on the host, rounding to nearest even as hardware does. */
uint16_t bf16_from_float(float x);
float bf16_to_float(uint16_t x);
uint16_t f16_from_float(float x);
float f16_to_float(uint16_t x);

/* One element of any type as a double, and back: integers truncate; 16-bit floats round to fp32
 * first, as PyTorch's conversions from double do. An i64 beyond 2^53 loses its low bits. */
double element_get(inset_type type, const void *element);
void element_put(inset_type type, void *element, double value);
/* `count` elements of one float type as another, by way of fp32, each rounded once. Neither needs
 * alignment; they do not overlap. */
void elements_convert(
    inset_type type, void *to, inset_type from_type, const void *from, int64_t count);

#endif
