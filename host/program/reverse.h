/* reverse.h: a program with its own gradients behind it.
 *
 * The reversed program begins with all of the forward program, so that every index of that stays
 * what it was, and goes on with the chain rule, step by step from the last to the first. A gradient
 * is then a value like any other: the planner shares its rows, drops those that nobody needs, and a
 * record may change them on their way.
 *
 *     forward      ... event e: step s makes y of x ...
 *     reversed     ... mark of e; dx = step s backwards of (x, dy); gradient of x += dx; mark of e
 *                  - 1 ...
 *
 * Every forward value has a chain of *versions* of its gradient: zeros, then the sum with what its
 * last reader sends back, then with that of the one before, and so on. At the mark of e the version
 * is there that holds all readers behind e. So what a record did to a value at e is undone at the
 * mark of e: the same view, of the version that is there then. Where no line sends anything to a
 * value's gradient there are no zeros to begin with: its first version is what its last reader
 * sends back, the very same value.
 *
 * Only rows' gradients are made, none of weights. */
#ifndef INSET_PROGRAM_REVERSE_H
#define INSET_PROGRAM_REVERSE_H

#include "program/program.h"

/* Local slopes in place of the true ones (relevance patching, arXiv 2508.21258); bits. */
typedef enum reverse_rule {
    RULE_LN = 1,       /* what a norm divides by is a constant */
    RULE_IDENTITY = 2, /* an activation's slope is a(x) / x */
    RULE_HALF = 4,     /* each factor of a gate gets half of its gradient */
    RULE_PATTERN = 8,  /* attention weights are constants: nothing flows to queries and keys */
} reverse_rule;

/* The gradient of a forward value: with all readers behind `event`, down to the next version's. */
typedef struct gradient_version {
    int32_t event, value; /* of the forward program; of the reversed */
} gradient_version;

/* What one reader sends back through one slot. */
typedef struct contribution {
    int32_t slot;  /* the forward slot that was read */
    int32_t value; /* of the reversed program, as wide as what the slot shows */
    int32_t mark;  /* event of the reversed program from which it is there */
    int32_t column;
} contribution;

/* What gradients go through in the open, a bit for each forward value, is what decides which
 * steps a reversal has: most traces touch no scores and no norm's scale, and pay nothing for
 * them. A later backward() that needs more gets a further reversal behind the first: its program
 * begins with all of the other's. */
typedef struct reversal {
    const program *forward;
    program *program;             /* the reversed one */
    int32_t first_step, end_step; /* of the steps of this reversal */
    bool *open;                   /* [n_values] */
    uint8_t *touched;             /* [n_values] */
    bool skips;
    int32_t n_again;                              /* blocks that are run again */
    int32_t n_values, n_steps, n_events, n_slots; /* of the forward program */
    int32_t *mark;          /* [n_events] event of the mark of a forward event */
    int32_t *first_version; /* [n_values + 1] */
    gradient_version *versions;
    contribution *contributions;
    size_t n_contributions, contributions_capacity;
} reversal;

/* What lines do with a value: nothing; ask for its gradient, at its event; send something to its
 * gradient, or take something from it, at any event. */
enum reversal_touch { TOUCH_NONE, TOUCH_ASKED, TOUCH_SENT };

/* What the invokes at hand ask of a reversal. */
typedef struct reversal_options {
    int rules; /* bits of reverse_rule */
    /* the steps of a block are run once more before they are reversed, so that of the first run
     * only what blocks begin with is kept */
    bool again;
    bool skips;       /* some invoke skips a module */
    const bool *open; /* [n_values]: scores, patterns and scales of norms, and heads on their own */
    const uint8_t *touched; /* [n_values]: reversal_touch */
} reversal_options;

/* Reverses a finished program. before: a reversal of the same program whose steps come first, or
 * NULL. What it refers to stays `forward`'s, which must outlive it. INSET_NO_MEMORY. */
inset_status reversal_create(const program *forward, const reversal_options *options,
    const reversal *before, reversal **out);
void reversal_free(inset_context *context, reversal *r); /* takes NULL */
/* The value that is the gradient of a forward value at the mark of a forward event (-1: before all
 * of them); -1 for a value without a gradient. */
int32_t reversal_gradient(const reversal *r, int32_t value, int32_t event);
int32_t reversal_mark(const reversal *r, int32_t event);

#endif
