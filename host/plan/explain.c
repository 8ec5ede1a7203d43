/* explain.c: a plan in words, for readers: which strands there are, and moment by moment which rows
 * of them a step computes and what records make of them. Strands are numbered in the order in which
 * they were found; S3[1-2] are rows 1 and 2 of the fourth. */
#include "plan/explain.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

typedef struct teller {
    planner *p;
    schedule *s;
    text *out;
    bool *wanted; /* [strands] somebody needs a row of it */
    bool failed;  /* memory is out */
} teller;

static void say(teller *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(teller *t, const char *format, ...)
{
    char line[512];
    va_list list;
    va_start(list, format);
    vsnprintf(line, sizeof line, format, list);
    va_end(list);
    const size_t before = t->out->length;
    text_add(t->p->context, t->out, "%s", line);
    t->failed |= t->out->length != before + strlen(line);
}

/* The site that shows all of a value, or what its step is. */
static void value_name(const teller *t, int32_t value_index, char *out, size_t size)
{
    const program *g = t->p->program;
    const step *made = &g->steps[g->values[value_index].step];
    snprintf(out, size, "value %d", (int)value_index);
    for (size_t i = 0; i < g->n_sites; i++) {
        const slot *shown = &g->slots[g->sites[i].slot];
        if (shown->value != value_index || shown->shape.column) continue;
        program_site_name(g, (int32_t)i, out, size);
        if (shown->shape.n_columns == 1) return;
    }
    if (made->again >= 0 && made->of < 0) {
        char of[256];
        value_name(t, g->steps[made->again].value, of, sizeof of);
        snprintf(out, size, "again %.200s", of);
    } else if (made->of >= 0) {
        char of[256];
        value_name(t, g->steps[made->of].value, of, sizeof of);
        snprintf(out, size, "back through %.200s", of);
    }
}

static const char *kind_name(const step *s)
{
    static const char *const names[] = {[STEP_INPUT] = "input",
        [STEP_TOKENS] = "tokens",
        [STEP_POSITIONS] = "positions",
        [STEP_EMBED] = "embed",
        [STEP_LINEAR] = "linear",
        [STEP_LAYERNORM] = "layernorm",
        [STEP_RMSNORM] = "rmsnorm",
        [STEP_ACTIVATION] = "activation",
        [STEP_GATE] = "gate",
        [STEP_ADD] = "add",
        [STEP_SCALE] = "scale",
        [STEP_SOFTCAP] = "softcap",
        [STEP_ROPE] = "rope",
        [STEP_PAIR] = "pair",
        [STEP_ATTENTION] = "attention",
        [STEP_SCORES] = "scores",
        [STEP_PATTERN] = "softmax",
        [STEP_NORM_SCALE] = "norm scale",
        [STEP_SPREAD] = "spread",
        [STEP_FOLD] = "fold",
        [STEP_HEADS] = "heads",
        [STEP_ROUTE] = "route",
        [STEP_EXPERTS] = "experts",
        [STEP_EXPERTS_APART] = "experts apart",
        [STEP_EXPERTS_JOINED] = "experts joined",
        [STEP_HEADS_BACK] = "heads back",
        [STEP_ZERO] = "zeros",
        [STEP_LINEAR_BACK] = "linear back",
        [STEP_NORM_BACK] = "norm back",
        [STEP_ACTIVATION_BACK] = "activation back",
        [STEP_SOFTCAP_BACK] = "softcap back",
        [STEP_JOIN] = "join",
        [STEP_ATTENTION_BACK] = "attention back",
        [STEP_VALUES_BACK] = "values back",
        [STEP_PATTERN_BACK] = "pattern back",
        [STEP_SCORES_BACK] = "softmax back",
        [STEP_QUERIES_BACK] = "queries back",
        [STEP_NORM_GIVEN_BACK] = "norm back",
        [STEP_DIVISOR_BACK] = "divisor back",
        [STEP_NORM_SCALE_BACK] = "norm scale back",
        [STEP_ROUTE_BACK] = "route back",
        [STEP_EXPERTS_BACK] = "experts back",
        [STEP_EXPERTS_APART_BACK] = "experts apart back",
        [STEP_EXPERTS_JOINED_BACK] = "experts joined back"};
    return names[s->kind];
}

static void say_rows(teller *t, int32_t strand_index, int32_t lo, int32_t hi)
{
    if (hi - lo == 1) say(t, "S%d[%d]", (int)strand_index, (int)lo);
    else say(t, "S%d[%d-%d]", (int)strand_index, (int)lo, (int)hi - 1);
}

/* ---- strands ------------------------------------------------------------ */

static void say_piece(teller *t, const piece *from)
{
    char name[256];
    if (from->domain == DOMAIN_CONSTANT) {
        say(t, "%.6g", piece_number(from));
        return;
    }
    /* row i of the strand is made of row i + shift, or all of them of one row */
    if (!from->row_step) say_rows(t, from->strand, from->shift, from->shift + 1);
    else if (from->shift) say(t, "S%d[i%+d]", (int)from->strand, (int)from->shift);
    else say(t, "S%d[i]", (int)from->strand);
    if (from->domain < 0) return;
    value_name(t, from->domain, name, sizeof name);
    say(t, " at %s", name);
}

static const char *operation_name(int op)
{
    static const char *const names[] = {"copy", "add", "subtract", "multiply", "divide", "negate"};
    static const char *const compared[] = {"==", "!=", "<", "<=", ">", ">="};
    return op <= TRACE_NEGATE           ? names[op]
           : trace_op_is_comparison(op) ? compared[op - TRACE_EQUAL]
                                        : trace_function_name((trace_op)op);
}

static void say_operands(teller *t, const strand *s)
{
    for (int32_t i = 0; i < s->n; i++) {
        if (i) say(t, ", ");
        say_piece(t, &s->pieces[i]);
    }
}

static void say_pieces(teller *t, const strand *s)
{
    say(t, s->kind == STRAND_EXPR ? "arithmetic: %s of " : "rows set: ", operation_name(s->op));
    for (int32_t i = 0; i < s->n; i++) {
        if (i) say(t, ", ");
        if (s->kind == STRAND_COPY && (s->pieces[i].c0 || s->pieces[i].c1 != s->width))
            say(t, "columns %d-%d ", (int)s->pieces[i].c0, (int)s->pieces[i].c1 - 1);
        say_piece(t, &s->pieces[i]);
    }
}

static void say_strand(teller *t, int32_t index)
{
    const strand *s = &t->p->strands[index];
    char name[256];
    say(t, "  S%-4d ", (int)index);
    switch (s->kind) {
    case STRAND_EMBED: say(t, "tokens at %d-%d", (int)s->start, (int)(s->start + s->n - 1)); break;
    case STRAND_POSITION: say(t, "positions"); break;
    case STRAND_FORK:
        value_name(t, s->born, name, sizeof name);
        say(t, "a context that parts at position %d, of ", (int)s->start);
        for (int32_t i = 0; i < s->n; i++) {
            if (i) say(t, ", ");
            say_rows(t, s->origin[i].strand, s->origin[i].first,
                s->origin[i].first + s->origin[i].count);
        }
        if (s->parent >= 0) {
            say(t, " behind ");
            say_rows(t, s->parent, 0, s->parent_row);
        }
        say(t, ", from %s on", name);
        break;
    case STRAND_CONTEXT:
        value_name(t, s->born, name, sizeof name);
        say(t, "a sequence whose rows see each other, of ");
        for (int32_t i = 0; i < s->n; i++) {
            if (i) say(t, ", ");
            say_rows(t, s->origin[i].strand, s->origin[i].first,
                s->origin[i].first + s->origin[i].count);
        }
        say(t, ", from %s on", name);
        break;
    case STRAND_STEP:
        value_name(t, s->born, name, sizeof name);
        say(t, "rows that meet at %s: ", name);
        for (int32_t i = 0; i < s->n; i++)
            say(t, "%sS%d[i%+d]", i ? " with " : "", (int)s->operands[i].strand,
                (int)s->operands[i].shift);
        break;
    case STRAND_COPY:
    case STRAND_EXPR: say_pieces(t, s); break;
    case STRAND_EXTERNAL: say(t, "a tensor from outside"); break;
    case STRAND_SCORES: say(t, "scores in the open"); break;
    case STRAND_SOFTMAX: say(t, "a pattern in the open"); break;
    case STRAND_MIX: say(t, "values mixed by a pattern in the open"); break;
    case STRAND_METRIC: say(t, "a metric"); break;
    case STRAND_ROWS:
        say(t, "%s of ", trace_row_function_name((trace_row_op)s->op));
        say_operands(t, s);
        break;
    case STRAND_PRODUCT:
        say(t, "product by matrix %d of ", (int)s->parent_row);
        say_operands(t, s);
        break;
    case STRAND_SLOPE: say(t, "what a metric changes by as its logits do"); break;
    default: say(t, "attention backwards, a sequence at a time"); break;
    }
    if (s->pass) say(t, "; pass %d", (int)s->pass);
    say(t, "\n");
}

static void say_strands(teller *t)
{
    for (int32_t i = 0; i < t->s->n_moments; i++) {
        const moment_plan *m = &t->s->moments[i];
        for (int32_t k = 0; k < computed_count(m); k++)
            t->wanted[computed_need(t->s, m, k)->strand] = true;
        for (int32_t k = 0; k < m->n_order; k++) t->wanted[t->s->needs[m->order[k]].strand] = true;
    }
    say(t, "strands\n");
    for (size_t i = 0; i < t->p->n_strands; i++)
        if (t->wanted[i]) say_strand(t, (int32_t)i);
}

/* ---- moments ------------------------------------------------------------ */

static void say_step(teller *t, const moment_plan *m, moment when)
{
    const program *g = t->p->program;
    const step *made = &g->steps[g->values[when.value].step];
    char name[256];
    value_name(t, when.value, name, sizeof name);
    say(t, "  %-44s %-15s %d row%s: ", name, kind_name(made), (int)m->n_computed,
        m->n_computed == 1 ? "" : "s");
    for (int32_t i = 0; i < computed_count(m); i++) {
        const need *n = computed_need(t->s, m, i);
        if (i) say(t, ", ");
        say_rows(t, n->strand, n->lo, n->hi);
    }
    say(t, "%s%s\n", m->in_addition ? " (in the addition's launch)" : "",
        m->in_product ? " (in the product's launch)" : "");
}

static void say_records(teller *t, const moment_plan *m)
{
    for (int32_t level = 1; level <= m->n_levels; level++)
        for (int32_t i = 0; i < m->n_order; i++) {
            const need *n = &t->s->needs[m->order[i]];
            if (n->kind == NEED_COMPUTED || n->level != level) continue;
            say(t, "    %s ",
                n->kind == NEED_KEEP   ? "puts aside"
                : n->kind == NEED_KEPT ? "fetches"
                                       : "makes");
            say_rows(t, n->strand, n->lo, n->hi);
            say(t, "\n");
        }
}

static void say_saved(teller *t, int32_t now)
{
    for (size_t i = 0; i < t->s->n_rows; i++) {
        const saved_rows *r = &t->s->rows[i];
        if (r->from.domain == DOMAIN_CONSTANT) continue;
        if (moment_number(t->p, strand_moment(t->p, r->from.domain, r->from.strand)) != now)
            continue;
        say(t, "    saves ");
        say_rows(
            t, r->from.strand, r->from.shift, r->from.shift + (r->from.row_step ? r->rows : 1));
        say(t, " as %s\n", t->s->saved[r->save].name);
    }
}

inset_status plan_explain(planner *p, schedule *s, text *out)
{
    teller t = {.p = p, .s = s, .out = out};
    t.wanted = memory_new(p->context, (p->n_strands + 1) * sizeof *t.wanted);
    if (!t.wanted) return INSET_NO_MEMORY;
    say_strands(&t);
    for (int32_t i = 0, pass = -1; i < s->n_moments; i++) {
        const moment_plan *m = &s->moments[i];
        const moment when = moment_of(p, i);
        if (!computed_count(m) && !m->n_order) continue;
        if (when.pass != pass) say(&t, "%s\n", when.pass ? "the next pass" : "steps");
        pass = when.pass;
        if (computed_count(m)) say_step(&t, m, when);
        else if (when.value >= 0) {
            char name[256];
            value_name(&t, when.value, name, sizeof name);
            say(&t, "  %s\n", name);
        }
        say_records(&t, m);
        say_saved(&t, i);
    }
    memory_free(p->context, t.wanted);
    return t.failed ? INSET_NO_MEMORY : INSET_OK;
}
