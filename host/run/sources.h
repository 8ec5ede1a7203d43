/* sources.h: which tensor of a checkpoint is which weight of a program. */
#ifndef INSET_RUN_SOURCES_H
#define INSET_RUN_SOURCES_H

#include "file/file.h"
#include "program/program.h"

/* Where the numbers of a program's weight come from. */
typedef struct source {
    const void *data;
    inset_type type;
    const file_tensor *tensor; /* that they are in; NULL for numbers in memory */
    size_t bytes;
} source;

/* A model on its way: filled in by model.c, step by step. */
typedef struct opening {
    inset_context *context;
    const char *directory;
    json_document *config;
    weight_files *files;  /* NULL for a model in memory */
    source *sources;      /* one a weight */
    void *fetched[2];     /* numbers of a weight and of its bias, brought from the device */
    size_t weight_memory; /* most that weights take there; 0: what there is */
    struct inset_model *model;
} opening;

/* Finds every weight's tensor by its names, shape and type; a tied weight has its partner's. Reads
 * no page of them. INSET_FILE_ERROR names what is missing or misshapen. */
inset_status sources_find(opening *o);
/* Refuses tensors that the program knows nothing of: most likely they belong to another model than
 * the config. */
inset_status sources_refuse_extra(opening *o);
/* Numbers that a program brought with it. */
inset_status sources_in_memory(opening *o);
/* The type a model runs in: as asked, or the type its weights have; where they differ the config
 * decides, then the first matrix. */
inset_type sources_type(const opening *o, inset_type asked);

#endif
