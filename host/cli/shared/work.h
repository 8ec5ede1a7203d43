/* work.h: a sweep, an attribution, circuits or paths, as those see it who share it: numbered
 * chunks, each of which anyone may run who made the same thing, and whose numbers go as bytes to
 * the one that has the book.
 *
 *     the one with the book      take -> chunk,  put <- numbers,  done
 *     another                    run(chunk) -> numbers
 *
 * What is behind it: work.c for sweeps and edges, units.c for circuits and paths. Who shares it:
 * ranks.c (processes), crew.c (other devices). */
#ifndef INSET_CLI_WORK_H
#define INSET_CLI_WORK_H

#include "cli/cli.h"

typedef struct work_kind {
    const char *things; /* what progress counts: "patches" */
    /* ---- of the one with the book; the first three in any thread, so they set no message ---- */
    int64_t (*take)(void *of); /* -1: none is free now */
    void (*give_back)(void *of, int64_t chunk);
    inset_status (*put)(void *of, const void *bytes, size_t size);
    bool (*done)(const void *of);
    inset_status (*step)(void *of); /* runs a chunk itself, or waits for those of others */
    void (*progress)(const void *of, inset_sweep_progress *out);
    inset_status (*cut)(const void *of, inset_cut *out);
    /* ---- of the others ---- */
    inset_status (*cut_as)(void *of, const inset_cut *cut);
    /* ahead: the chunk that is next, or -1; bytes hold until the next call */
    inset_status (*run)(void *of, int64_t chunk, int64_t ahead, const void **bytes, size_t *size);
    bool works_ahead; /* a GPU may begin with the next chunk */
} work_kind;

typedef struct work {
    const work_kind *kind; /* NULL: it could not be made */
    void *of;
    inset_context *context;
    inset_model *model;
} work;

work work_of_sweep(inset_context *context, inset_model *model, inset_sweep *sweep);
work work_of_edges(inset_context *context, inset_model *model, inset_edges *edges);

/* ---- units.c: work of pieces that each give a few numbers ---- */
typedef struct units units;
/* Makes the numbers of a piece, [most]; fewer may be made, and the others are 0. */
typedef inset_status run_unit(void *of, inset_edges *edges, int64_t unit, double *numbers);
/* Example: circuits of 3 sizes over 10 pairs are 30 units of 1 number each. */
struct units {
    inset_edges *edges; /* of this device, and what decides that two are the same work */
    int64_t n, most;    /* units; numbers of one */
    run_unit *run;
    void *of;        /* for run; each device has its own */
    uint64_t hash;   /* of what `of` brings that edges do not know */
    double *numbers; /* [n, most] of whoever has the book */
    struct unit_book *book;
    struct unit_record *record;
};
/* Opens the book. EXIT_MACHINE: memory is out, and it is said. */
int units_open(units *u);
void units_close(units *u);
work work_of_units(inset_context *context, inset_model *model, units *u);
uint64_t units_hash(uint64_t seed, const void *bytes, size_t size);

#endif
