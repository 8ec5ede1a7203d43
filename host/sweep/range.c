/* range.c: "4:9", "-5:", "::2", "3": what Python's slices and indices choose. */
#include "sweep/sweep.h"

#include <errno.h>
#include <stdlib.h>

static bool read_number(const char **text, bool *found, int64_t *out)
{
    char *end;
    errno = 0;
    long long number = strtoll(*text, &end, 10);
    *found = end != *text;
    if (*found) *out = number;
    *text = end;
    return !errno && number > INT32_MIN && number < INT32_MAX;
}

inset_status range_read(sweep *s, const char *option, const char *text, range *out)
{
    *out = (range){.all = !text, .step = 1};
    if (!text) return INSET_OK;
    const char *at = text;
    bool good = read_number(&at, &out->has_start, &out->start), has_step;
    if (good && !*at && out->has_start) {
        out->single = true;
        return INSET_OK;
    }
    good = good && *at++ == ':' && read_number(&at, &out->has_stop, &out->stop);
    if (good && *at == ':') {
        at++;
        good = read_number(&at, &has_step, &out->step);
    }
    if (good && !*at && out->step > 0) return INSET_OK;
    return error_set(s->context, INSET_VALUE_ERROR,
        "%s: a range such as 4:9, -5: or 3 was expected, found '%s'", option, text);
}

int64_t range_resolve(const range *r, int64_t extent, int64_t *first)
{
    if (r->single) {
        *first = r->start < 0 ? r->start + extent : r->start;
        return *first >= 0 && *first < extent;
    }
    int64_t start = !r->has_start ? 0 : r->start < 0 ? r->start + extent : r->start;
    int64_t stop = !r->has_stop ? extent : r->stop < 0 ? r->stop + extent : r->stop;
    if (start < 0) start = 0;
    if (stop > extent) stop = extent;
    *first = start;
    return start < stop ? (stop - start + r->step - 1) / r->step : 0;
}
