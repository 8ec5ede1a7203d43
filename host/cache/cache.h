/* cache.h: what sites hold in the runs of many prompts, written to a folder of safetensors shards:
 * what `inset cache` and inset_cache_* do. The words:
 *
 *   tap      a place whose rows are kept, and the name of their tensor: resid_post.3, z.0,
 *            transformer.h.3.mlp.output
 *   row      one position of one prompt, in all taps; the tensors `prompt`, `position` and `token`
 *            say which
 *   shard    a file with the rows of consecutive prompts, in their order
 *   batch    prompts of one shard that go through the model together, packed by length
 *   group    prompts of one length in a batch: one invoke
 *   packet   a batch's rows on their way to the file; there are two, so that one is written while
 *            the next batch runs
 *
 * pick.c reads which taps and positions, pack.c cuts shards and packs batches, batch.c plans and
 * runs one, shard.c writes in a thread of its own, index.c is cache.json, and cache.c goes through
 * it all. What is in memory is the prompts, two batches and two packets, however many rows there
 * are. */
#ifndef INSET_CACHE_H
#define INSET_CACHE_H

#include "sweep/sweep.h"

/* ---- the writer (shard.c) ----------------------------------------------- */

/* `size` bytes of a packet that belong at `at` in the file. */
typedef struct piece {
    uint64_t at;
    size_t from, size;
} piece;

typedef struct packet {
    char *bytes;
    size_t n_bytes, bytes_capacity;
    piece *pieces;
    size_t n_pieces, pieces_capacity;
    bool begins, ends;  /* the first or last packet of a shard */
    int64_t shard;      /* its number */
    uint64_t file_size; /* where it begins: of the whole file */
    char *index;        /* what the index becomes when the packet is written (malloc), or NULL */
    const char *index_name; /* its file: cache.json, or a part's */
    bool full;              /* it is the writer's */
} packet;

typedef struct shard_writer shard_writer;
/* Starts the thread. `directory` is a descriptor that stays open as long as the writer. */
inset_status shard_writer_create(
    inset_context *context, int directory, const char *path, shard_writer **out);
/* Ends the thread; a shard that is not whole is removed. Takes NULL. */
void shard_writer_free(shard_writer *w);
/* Waits for a packet to fill. FILE_ERROR: something before could not be written. */
inset_status shard_packet(shard_writer *w, packet **out);
void shard_submit(shard_writer *w, packet *p);
/* Waits until all is on the disk. */
inset_status shard_drain(shard_writer *w);
/* Adds `size` bytes for `at` to a packet, merging what is side by side. */
bool packet_add(inset_context *context, packet *p, uint64_t at, const void *bytes, size_t size);
void shard_name(int64_t shard, char out[40]); /* "00012.safetensors" */

/* ---- the cache ---------------------------------------------------------- */
typedef struct cache_tap {
    const char *name;
    int32_t place, event; /* of the program */
    int32_t n_dimensions; /* of a row */
    int64_t shape[2];
    size_t row_bytes;
} cache_tap;

/* The tensors behind the taps' own: which row is which. */
enum { INDEX_PROMPT, INDEX_POSITION, INDEX_TOKEN, INDEX_TENSORS };

typedef struct batch_span {
    int64_t first, count; /* of the shard's order */
} batch_span;

typedef struct group {
    int64_t length, first, count; /* first: of the work's prompts */
    int64_t positions;            /* rows a prompt */
} group;

/* A batch, or the part of it that fits, planned and perhaps started. */
typedef struct work {
    int64_t shard, batch, offset; /* where in the shard's batches it begins */
    int64_t n;
    int64_t *prompts; /* [n] */
    group *groups;
    int64_t n_groups;
    bool last; /* of its shard */
    struct cache_plan *plan;
    struct run *run;
    int slot;
    bool started;
} work;

/* A plan and what it is for: the lengths of its groups and how many prompts each has. */
typedef struct cache_plan {
    struct cache_plan *older;
    struct plan *plan;
    int64_t *key;
    int64_t n_key;
    bool kept; /* for other prompts of these lengths: nothing in it is shared */
    int64_t used;
} cache_plan;

typedef struct setting {
    const char *name, *value;
} setting;
enum { MOST_SETTINGS = 16 };

typedef struct cache {
    inset_context *context;
    struct inset_model *model;
    const program *program;
    arena memory;
    sweep reader; /* for its reading of prompts and names; it runs nothing */
    prompts prompts;
    cache_tap *taps; /* in execution order */
    size_t n_taps;
    range *positions; /* n_positions 0: all */
    int64_t n_positions;
    bool *mark;             /* [longest] scratch of positions_of */
    int64_t *rows_a_length; /* [longest + 1] */
    inset_type type;        /* of what is written */
    size_t row_bytes;       /* of all tensors together */
    size_t shard_bytes, memory_limit;
    int64_t batch_tokens;
    bool no_share;
    const char *directory, *model_name;
    int64_t part, parts; /* see inset_cache_options; 0, 0: all */
    char index_name[48]; /* "cache.json", "cache.3-of-16.json" */
    int descriptor;      /* of the directory, locked; -1: not open */
    int part_lock;       /* a part's own; -1: none */
    setting settings[MOST_SETTINGS];
    int n_settings;
    /* shard k has the prompts first_prompt[k] .. first_prompt[k + 1] */
    int64_t n_shards, *first_prompt;
    int64_t *rows; /* [n_shards] */
    bool *done;    /* [n_shards] whole, or on its way to be */
    int64_t total_rows, total_tokens;
    /* of the shard that batches are taken from */
    int64_t shard, batch, offset;
    int64_t *order; /* its prompts, batch after batch */
    batch_span *batches;
    int64_t n_batches;
    size_t order_capacity, batches_capacity;
    /* of the shard whose rows are on their way; -1: none */
    int64_t open_shard;
    int64_t *row_starts; /* by prompt of the shard */
    size_t row_starts_capacity;
    uint64_t *offsets; /* [n_taps + INDEX_TENSORS] */
    work *now, *following;
    cache_plan *plans;
    int64_t n_plans, uses;
    struct run_room *room;
    struct run *run; /* of the work started last */
    cache_plan *run_plan;
    int slot;
    shard_writer *writer;
    bool finished;
    inset_cache_progress progress;
} cache;

inset_status cache_create(
    struct inset_model *model, const inset_cache_options *options, cache **out);
void cache_free(cache *c); /* takes NULL */
inset_status cache_step(cache *c);

/* pick.c */
inset_status pick_read(cache *c, const inset_cache_options *o);
/* The positions of a prompt of this length that are kept, ascending: fills out [length] where it is
 * not NULL and returns how many. */
int64_t positions_of(const cache *c, int64_t length, int64_t *out);
int64_t prompt_rows(const cache *c, int64_t prompt);

/* pack.c */
inset_status pack_cut(cache *c);                   /* all prompts into shards */
inset_status pack_shard(cache *c, int64_t number); /* c->order and c->batches */
/* Tokens whose rows would be computed for others of these prompts too. */
int64_t pack_shared(const cache *c, int64_t n, int64_t *prompts);

/* batch.c */
/* Plans the next work and moves the cursor behind it; *out NULL: there is none. */
inset_status work_next(cache *c, work **out);
inset_status work_start(cache *c, work *w);
inset_status work_finish(cache *c, work *w); /* and its rows go to the writer */
void work_free(cache *c, work *w);           /* takes NULL */
/* All runs and plans. */
void works_leave_device(cache *c);
void plans_drop(cache *c);

/* index.c */
enum { INDEX_NAME_MOST = 40 };
/* Is a shard this process's to make? Of parts every parts-th is. */
static inline bool shard_is_mine(const cache *c, int64_t shard)
{
    return !c->parts || shard % c->parts == c->part - 1;
}
/* Opens, makes and locks the directory, and reads what is done there, by all parts. */
inset_status index_open(cache *c);
/* When this process's part is done: where all are, *complete, and cache.json takes the place of
 * the parts' files. */
inset_status index_join(cache *c, bool *complete);
void index_close(cache *c);
/* What cache.json says with shard `and` done too (-1: none); NULL: out of memory. malloc. */
char *index_text(const cache *c, int64_t and);
/* The header of a shard, freed with memory_free, and its tensors' places, c->offsets. */
inset_status index_shard_layout(
    cache *c, int64_t number, char **header, size_t *header_size, uint64_t *file_size);

#endif
