/* stream.h: weights larger than the device. Some matrices stay, the others come and go: a run goes
 * through its products in order, in visits, each of which has all its coming matrices in one of two
 * slots; while a visit runs, the next one's are copied into the other slot.
 *
 * Example: 4 layers of which the second and the fourth stream, each as large as a slot. A run has
 * two visits, launches 0 .. 20 with layer 2 in slot 0 and 20 .. 40 with layer 4 in slot 1. Layers 1
 * and 3 give the copies time, which is why those that stream are spread over the model. */
#ifndef INSET_RUN_STREAM_H
#define INSET_RUN_STREAM_H

#include "plan/plan.h"
#include "run/model.h"

enum { STREAM_SLOTS = 2 };

struct weight_stream {
    model_weights *numbers; /* where they come from */
    bool *comes;            /* [n_weights] */
    device_slot *slots[STREAM_SLOTS];
    size_t slot_bytes;
    int64_t bytes;          /* of all that come, once */
    int64_t copied, visits; /* so far */
};

/* What is asked for and what there is, for messages and `check`; all in bytes. */
typedef struct stream_sizes {
    int64_t tables;   /* embeddings, norms, the head: they stay */
    int64_t matrices; /* of linear layers, all */
    int64_t largest;  /* of them */
} stream_sizes;
stream_sizes stream_measure(const program *p, inset_type type, bool widened);
/* Which matrices come and go, [n_weights], where the weights may take `limit` bytes; *slot: bytes
 * of one. comes all false: none. False: not even that fits; *least says what would. */
bool stream_choose(const program *p, inset_type type, bool widened, int64_t limit, bool *comes,
    int64_t *slot, int64_t *least);
/* m->stream for weights that may take `limit` bytes, without slots and numbers; *fits: false where
 * not even that will do, and *least says what would. INSET_NO_MEMORY. */
inset_status stream_make(
    struct inset_model *m, bool widened, int64_t limit, bool *fits, int64_t *least);
/* The bytes that a pass over the matrices copies. */
int64_t stream_bytes(const program *p, inset_type type, bool widened, const bool *comes);

/* Makes the slots, when the empty matrices of m->stream->comes are there. */
inset_status stream_open(struct inset_model *m);
void stream_close(struct inset_model *m); /* takes a model without */
/* The reverse of a matrix that comes: an empty one, too. */
inset_status stream_reverse(struct inset_model *m, int32_t weight, matrix **out);

/* ---- a run's visits ---- */
typedef struct stream_visits stream_visits;
struct launch; /* plan/emit/launches.h */
/* Of a run's bound launches; *out NULL where no product needs a matrix that comes. */
inset_status stream_plan(
    struct inset_model *m, const struct launch *launches, size_t n, stream_visits **out);
void stream_visits_free(stream_visits *v); /* takes NULL */
/* Around every launch, in their order. */
inset_status stream_before(stream_visits *v, size_t launch_index);
inset_status stream_after(stream_visits *v, size_t launch_index);

#endif
