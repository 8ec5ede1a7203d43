/* sites.c: `inset sites MODEL`: the tree in execution order. A site is on one line, as a trace
 * writes it, indented by the modules that are open around it; weights are not read. */
#include "cli/cli.h"

#include <string.h>

static const char *extent_name(int64_t extent)
{
    return extent == INSET_BATCH ? "batch" : extent == INSET_POSITION ? "position" : NULL;
}

static void print_site_shape(const inset_site *site, const char *quote)
{
    putchar('[');
    for (int i = 0; i < site->n_dimensions; i++) {
        const char *name = extent_name(site->shape[i]);
        if (i) printf(", ");
        if (name) printf("%s%s%s", quote, name, quote);
        else printf("%lld", (long long)site->shape[i]);
    }
    putchar(']');
}

/* Columns that a site's line takes before its shape. */
static int site_width(const inset_site *site) { return 2 * site->depth + (int)strlen(site->path); }

static void print_text(inset_model *model)
{
    inset_site site;
    size_t count = inset_site_count(model);
    int width = 0;
    const char *whole = inset_model_part_of(model);
    if (whole) printf("# the text part (%s) of a %s model\n", inset_model_kind(model), whole);
    for (size_t i = 0; i < count && !inset_site_at(model, i, &site); i++)
        if (site_width(&site) > width) width = site_width(&site);
    for (size_t i = 0; i < count && !inset_site_at(model, i, &site); i++) {
        printf("%*s%-*s  ", 2 * (int)site.depth, "", width - 2 * (int)site.depth, site.path);
        print_site_shape(&site, "");
        printf("%s%s\n", site.integer ? "  int64" : "", site.settable ? "" : ", read only");
    }
}

static void print_json(inset_model *model)
{
    inset_site site;
    printf("{\"model_type\": ");
    print_json_text(stdout, inset_model_kind(model));
    if (inset_model_part_of(model)) {
        printf(", \"part_of\": ");
        print_json_text(stdout, inset_model_part_of(model));
    }
    printf(", \"sites\": [");
    for (size_t i = 0; i < inset_site_count(model) && !inset_site_at(model, i, &site); i++) {
        printf("%s\n  {\"site\": ", i ? "," : "");
        print_json_text(stdout, site.path);
        printf(", \"module\": ");
        print_json_text(stdout, site.module);
        printf(", \"name\": ");
        print_json_text(stdout, site.name);
        printf(", \"depth\": %d, \"shape\": ", (int)site.depth);
        print_site_shape(&site, "\"");
        printf(", \"integer\": %s, \"settable\": %s}", site.integer ? "true" : "false",
            site.settable ? "true" : "false");
    }
    printf("\n]}\n");
}

static int show(inset_context *context, inset_model *model, const options *given)
{
    (void)context;
    if (given->json) print_json(model);
    else print_text(model);
    return EXIT_OK;
}

int command_sites(const options *given) { return show_model(given, show); }
