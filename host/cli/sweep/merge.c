/* merge.c: `inset merge`: the parts that `inset sweep --shard` or `attribute --shard` wrote, as the
 * whole's results. */
#include <string.h>

#include "cli/edges/edges.h"

static int merge(sweep_session *s)
{
    const options *given = s->given;
    inset_sweep_progress is = INSET_SWEEP_PROGRESS;
    const inset_status found = inset_sweep_merge(
        s->context, given->n_words - 1, given->words + 1, &s->sweep);
    if (found)
        return report(s->context,
            found == INSET_VALUE_ERROR || found == INSET_USAGE_ERROR ? EXIT_REQUEST : EXIT_MACHINE);
    inset_sweep_progress_of(s->sweep, &is);
    if (is.mixed_devices)
        fprintf(stderr,
            "The shards ran on several kinds of devices, between which the last bits of a "
            "number differ.\n");
    if (s->kind == FILE_NPY && inset_sweep_result_count(s->sweep) != 1)
        return usage_error("merge", "an npy file holds one site and one metric; there are %zu",
            inset_sweep_result_count(s->sweep));
    const int status = sweep_write(s);
    return status ? status : sweep_show(s);
}

int command_merge(const options *given)
{
    static options mine;
    sweep_session s = {.given = &mine};
    if (!given->n_words) return usage_error("merge", "which file? OUT.safetensors, .npy or .csv");
    if (given->n_words < 2) return usage_error("merge", "which parts? OUT.*-of-16, for example");
    mine = *given;
    mine.output = given->words[0];
    bool of_sweep = false;
    int status = check_place(&mine, mine.output);
    if (!status) status = check_place(&mine, mine.plot);
    if (status) return status;
    if (inset_context_create(NULL, &s.context)) {
        fprintf(stderr, "MemoryError: out of memory on the host\n");
        return EXIT_MACHINE;
    }
    status = merge_edges(s.context, &mine, &of_sweep);
    if (of_sweep) status = sweep_find_kind(&s, "merge");
    if (of_sweep && !status) status = merge(&s);
    inset_context_free(s.context);
    return status ? status : finish_output();
}
