/* session.c: how commands of edges begin and end, and who does their work. */
#include "cli/edges/edges.h"

bool session_is_first(const session_of_edges *s) { return ranks_is_first(s->ranks); }

int session_open(session_of_edges *s, int (*check)(session_of_edges *s))
{
    int status = ranks_start(&s->ranks);
    if (status) return status;
    if (inset_context_create(NULL, &s->context)) {
        fprintf(stderr, "MemoryError: out of memory on the host\n");
        return EXIT_MACHINE;
    }
    if (session_is_first(s)) status = check(s);
    if (!status) status = devices_read(s->context, s->given->device, &s->devices);
    if (!status) ranks_choose_device(s->ranks, s->context, &s->devices);
    model_version(s->given->model, s->version, sizeof s->version);
    return ranks_agree(s->ranks, s->context, status);
}

int session_close(session_of_edges *s, int status)
{
    if (!status) status = finish_output();
    ranks_end(s->ranks, status);
    inset_context_free(s->context);
    return status;
}

/* On a device; only the first process keeps what is done. */
static int make_edges(session_of_edges *s, inset_context *context, const char *device,
    const char *state, inset_model **model, inset_edges **edges)
{
    int status = EXIT_OK;
    char rules[256];
    const options *given = s->given;
    inset_sweep_options runs = sweep_options(given, s->version);
    if (given->edges_from) runs.by = NULL; /* of `circuit`: how edges are chosen */
    if (!given->edges) runs.patch = NULL;  /* of `sweep`: "edges" */
    runs.state = state;
    runs.resume = given->resume && state;
    runs.shared = s->ranks || s->devices.n > 1;
    runs.shard = s->shard.number;
    runs.shards = s->shard.of;
    runs.command = s->command;
    const inset_attribution_options all = attribution_options(given, &runs, rules, sizeof rules);
    *model = open_model(context, given, device, &status);
    if (!*model) return status;
    const inset_status made = inset_edges_create(*model, &all, given->per_pair, edges);
    if (!made) return EXIT_OK;
    return report(context,
        made == INSET_NO_MEMORY || made == INSET_DEVICE_ERROR ? EXIT_MACHINE : EXIT_REQUEST);
}

int session_make_edges(session_of_edges *s)
{
    const bool keeps = s->given->edges && s->given->output && session_is_first(s);
    return make_edges(s, s->context, s->devices.names[0],
        keeps && !s->given->dry_run ? s->state : NULL, &s->model, &s->edges);
}

/* ---- others -------------------------------------------------------------- */

typedef struct helpers {
    edge_helper at[MOST_DEVICES];
    int n;
} helpers;

static int open_helper(session_of_edges *s, const char *device, const inset_cut *cut,
    const work_elsewhere *elsewhere, edge_helper *h, crew *crew)
{
    work with;
    if (inset_context_create(NULL, &h->context)) {
        fprintf(stderr, "MemoryError: out of memory on the host\n");
        return EXIT_MACHINE;
    }
    int status = make_edges(s, h->context, device, NULL, &h->model, &h->edges);
    if (!status) status = elsewhere->make(elsewhere->of, h, &with);
    return status ? status : crew_add(crew, &with, cut);
}

static void close_helpers(helpers *others, const work_elsewhere *elsewhere)
{
    for (int i = 0; i < others->n; i++) {
        edge_helper *h = &others->at[i];
        if (elsewhere->unmake) elsewhere->unmake(h);
        inset_context_free(h->context);
    }
}

int session_work(session_of_edges *s, int status, const work *w, const work_elsewhere *elsewhere)
{
    static helpers others;
    static crew crew;
    inset_cut cut;
    const double started = now_seconds();
    if ((status = ranks_meet(s->ranks, w, status))) return status;
    if (!session_is_first(s)) return ranks_work(s->ranks);
    if (w->kind->cut(w->of, &cut)) return report(s->context, EXIT_MACHINE);
    status = ranks_serve(s->ranks);
    crew_open(&crew, w);
    for (int i = 1; i < s->devices.n && !status; i++)
        status = open_helper(
            s, s->devices.names[i], &cut, elsewhere, &others.at[others.n++], &crew);
    if (!status) status = work_run_all(w, s->ranks, &crew);
    crew_close(&crew, status != EXIT_OK);
    if (!status) ranks_served(s->ranks);
    close_helpers(&others, elsewhere);
    s->seconds = now_seconds() - started;
    return status;
}
