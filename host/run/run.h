/* run.h: a plan on a device: memory, tables, launches, and the saved values that come out. */
#ifndef INSET_RUN_H
#define INSET_RUN_H

#include "plan/plan.h"
#include "run/model.h"

typedef struct run run;

/* Allocates what the plan needs on the model's device and uploads its tables. The plan stays the
 * caller's and must outlive the run. INSET_NO_MEMORY names both figures; INSET_USAGE_ERROR: the
 * plan was made for a device with other traits. Nothing is launched. */
inset_status run_create(struct inset_model *model, plan *p, run **out);
void run_free(run *r); /* takes NULL */
/* Copies between host and device that a run takes when inputs changed: one for all of them, however
 * many (CUDA cuts copies beyond 4 MiB in pieces), and one for all that is saved. On a device that
 * shares the host's memory inputs are written in place. */
int64_t run_copies(const plan *p);
/* Bytes of weights that come and go which a run copies, about: of each matrix once forward and once
 * backward. 0 where all stay. */
int64_t run_weight_copies(const struct inset_model *model, const plan *p);
/* The same of a plan's first run, with the tables, records and tensors from outside that go up for
 * it. Large ones go in several pieces. The launches that write tables out on the device, two at
 * most, are no run's. */
int64_t run_first_copies(const plan *p);
/* What a later run asks of the device: one graph where launches are captured, else all of them
 * again. */
int64_t run_later_launches(const struct inset_model *model, const plan *p);
/* Runs the plan; may be called again. */
inset_status run_execute(run *r);
/* The saved value `index` of the last run, in host memory; holds until the next run_execute or
 * run_free. */
inset_status run_saved(run *r, size_t index, inset_tensor *out);
/* The same where the device has it, of a run that was executed: out's data is device memory, until
 * run_free. Nothing is copied. */
void run_saved_there(const run *r, size_t index, inset_tensor *out);
/* A copy on the device that is the caller's (share->release). */
inset_status run_saved_share(run *r, size_t index, inset_tensor *out, device_share *share);
/* Give an invoke other input of the same shape for the next run_execute. Tokens (rows) that were
 * equal at one position of several prompts when the plan was made are computed once, so they must
 * be equal still: run_execute answers INSET_VALUE_ERROR otherwise, and runs nothing. Set all
 * invokes first. INSET_INDEX_ERROR: no such invoke, or a token outside the vocabulary.
 * INSET_SHAPE_ERROR: another count. */
inset_status run_set_tokens(run *r, int64_t invoke, const int64_t *tokens, int64_t count);
inset_status run_set_rows(run *r, int64_t invoke, const float *rows, int64_t count);
/* Give the metric of this number, counted within its invoke, other tokens for the next run_execute:
 * as many as it has, those of its first set, then those of its second. Metrics that the plan
 * computes as one must have equal tokens still: run_execute answers INSET_VALUE_ERROR otherwise.
 * INSET_INDEX_ERROR: no such metric, or a token that its rows have not got. INSET_SHAPE_ERROR:
 * another count. */
inset_status run_set_answers(
    run *r, int64_t invoke, int64_t metric, const int64_t *tokens, int64_t count);
/* Puts other numbers in the place of the external tensor of the trace's storage `storage`: as many,
 * of its type. Nothing happens where the plan reads none of it. */
inset_status run_set_external(run *r, int32_t storage, const void *data);

/* ---- one run behind the other -------------------------------------------- */

/* Runs of several plans,
 * or many of one, that keep the device busy: the next is started before the numbers of the last are
 * looked at. They share one room, device memory as large as the largest of them needs; the order of
 * the device's work keeps them apart. */
typedef struct run_room run_room;
/* where numbers arrive: so many runs may be started and not yet finished */
enum { RUN_SLOTS = 2 };

inset_status run_room_create(struct inset_model *model, run_room **out);
void run_room_free(run_room *room); /* takes NULL; after its runs */
/* As run_create, in the room. A run made earlier in it may be finished still, but not started
 * again. */
inset_status run_create_in(run_room *room, plan *p, run **out);
/* Gives the device all work of a run, and the download of what it saves into slot 0 .. RUN_SLOTS -
 * 1, which must be finished. Where the device does not work ahead (device_works_ahead) the run is
 * done on return, and the next start overwrites what it saved, in whatever slot. */
inset_status run_start(run *r, int slot);
/* Waits for the numbers of the run that was started into the slot. On failure they are lost. */
inset_status run_finish(run *r, int slot);
/* The saved value `index` of the run finished last in the slot; holds until the slot's next
 * run_start. */
void run_arrived(const run *r, int slot, size_t index, inset_tensor *out);

#endif
