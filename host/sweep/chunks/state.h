/* state.h: the state file as those see it that read it: state.c, to resume, and merge.c. */
#ifndef INSET_SWEEP_STATE_H
#define INSET_SWEEP_STATE_H

#include <stdio.h>

#include "sweep/chunks/book.h"

static const char state_magic[8] = "inset\n2";

typedef struct state_header {
    char magic[8];
    sweep_cut cut;
    uint64_t given_limit; /* of memory */
    int64_t pairs, points;
    uint64_t description; /* bytes of JSON behind the header */
    char device[128];
} state_header;

bool state_read_header(FILE *file, state_header *out); /* false: it is none */
/* The next record, checked, in *bytes, which grows; -1 at the end of what is whole, -2 when
 * memory is out. */
int64_t state_read_record(const sweep *s, FILE *file, char **bytes, size_t *capacity, size_t *size);

/* merge.c: have parts of all shards been seen? VALUE_ERROR, and which have not. */
inset_status shards_are_there(inset_context *context, const bool *seen, int64_t shards);

#endif
