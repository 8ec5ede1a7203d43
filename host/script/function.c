/* function.c: functions of each element, written exp(x) or x.exp(), bounds, x.clamp(a, b), and
 * casts, x.float(). */
#include "script/reader.h"

#include <string.h>

bool script_function_named(script *s, token t, link *l)
{
    static const struct {
        const char *name;
        trace_op op;
        bool both;
    } functions[] = {{"exp", TRACE_EXP, 0}, {"log", TRACE_LOG, 0}, {"sqrt", TRACE_SQRT, 0},
        {"abs", TRACE_ABS, 0}, {"relu", TRACE_RELU, 0}, {"sigmoid", TRACE_SIGMOID, 0},
        {"tanh", TRACE_TANH, 0}, {"gelu", TRACE_GELU, 0}, {"gelu_tanh", TRACE_GELU_TANH, 0},
        {"silu", TRACE_SILU, 0}, {"clamp", TRACE_AT_LEAST, 1}, {"clamp_min", TRACE_AT_LEAST, 0},
        {"clamp_max", TRACE_AT_MOST, 0}};
    static const struct {
        const char *name;
        inset_type type;
    } casts[] = {{"float", INSET_F32}, {"half", INSET_F16}, {"bfloat16", INSET_BF16}};
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (script_is(s, t, functions[i].name)) {
            l->kind = LINK_FUNCTION;
            l->function = functions[i].op;
            l->both = functions[i].both;
            return true;
        }
    for (size_t i = 0; i < sizeof casts / sizeof *casts; i++)
        if (script_is(s, t, casts[i].name)) {
            l->kind = LINK_CAST;
            l->type = casts[i].type;
            return true;
        }
    return false;
}

/* bounds = expr [ "," expr ] */
void script_function_arguments(script *s, link *l, bool behind)
{
    if (l->kind != LINK_FUNCTION || trace_op_operands(l->function) < 2) return;
    if (behind) script_expect(s, ',', "',' and a bound");
    if (s->status) return;
    l->argument = script_expression(s);
    if (!l->both || s->status) return;
    script_expect(s, ',', "',' and the upper bound (clamp_min() has the lower alone)");
    if (!s->status) l->argument->next = script_expression(s);
}

inset_status script_function(script *s, link *l, operand *v)
{
    operand x = *v, bound;
    if (l->kind == LINK_CAST) return script_at(s, l->at, trace_cast(s->trace, &x, l->type, v));
    inset_status status = l->argument ? script_operand(s, l->argument, &bound) : INSET_OK;
    if (!status)
        status = script_at(
            s, l->at, trace_function(s->trace, l->function, &x, l->argument ? &bound : NULL, v));
    if (status || !l->both) return status;
    x = *v;
    status = script_operand(s, l->argument->next, &bound);
    return status ? status
                  : script_at(s, l->at, trace_function(s->trace, TRACE_AT_MOST, &x, &bound, v));
}
