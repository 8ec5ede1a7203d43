/* test_gradients.c: the gradient at every site of every family, held against the difference that a
 * small change of it makes. What a site holds is scaled by 1 + e and 1 - e from there on:
 *
 *     (metric(1 + e) - metric(1 - e)) / 2e = sum of x * x.grad
 *
 * In fp32 with e = 1/256 this is good to about a percent, which no wrong formula survives; digits
 * are test_cases.c's, beside autograd. */
#include "test.h"

#include <ctype.h>
#include <inset.h>

enum { TOKENS = 7, MOST_PATH = 256 };
static const double STEP = 1.0 / 256;

/* "transformer.h.0.output" -> "transformer.h[0].output" */
static void path_of(const char *name, char *out)
{
    size_t n = 0;
    for (const char *c = name; *c && n < MOST_PATH - 4; c++) {
        if (*c != '.' || !isdigit((unsigned char)c[1])) {
            out[n++] = *c;
            continue;
        }
        out[n++] = '[';
        for (c++; isdigit((unsigned char)*c); c++) out[n++] = *c;
        out[n++] = ']';
        c--;
    }
    out[n] = 0;
}

static void script_of(const char *site, char *out, size_t size)
{
    static const char tokens[] = "[[3, 7, 11, 2, 5, 9, 4]]";
    static const char metric[] = "output.logits[0, -1].log_probability(3) + output.logits[0, 3, 7]";
    snprintf(out, size,
        "with invoke(%s):\n    x = %s\n    x *= %.9f\n    more = (%s).save()\n"
        "with invoke(%s):\n    x = %s\n    x *= %.9f\n    less = (%s).save()\n"
        "with invoke(%s):\n    x = %s\n    x *= 1.0\n    kept = x.clone().save()\n    m = %s\n"
        "    with m.backward():\n        g = x.grad.save()\n",
        tokens, site, 1 + STEP, metric, tokens, site, 1 - STEP, metric, tokens, site, metric);
}

static const float *saved(inset_plan *plan, const char *name, int64_t *n)
{
    inset_tensor x;
    if (inset_saved(plan, name, &x)) return NULL;
    *n = 1;
    for (int i = 0; i < x.n_dimensions; i++) *n *= x.shape[i];
    return x.data;
}

/* Whether the site could be tried. */
static bool check_site(
    inset_context *context, inset_model *model, const char *family, const char *name)
{
    char path[MOST_PATH], script[2048];
    inset_trace *trace = NULL;
    inset_plan *plan = NULL;
    path_of(name, path);
    script_of(path, script, sizeof script);
    inset_status status = inset_trace_create(model, &trace);
    if (!status) status = inset_script(trace, "x.inset", NULL, script, strlen(script));
    /* the tensor may be read-only, or nothing of it be there: the metric itself */
    const bool refused = status == INSET_VALUE_ERROR || status == INSET_TYPE_ERROR
                         || status == INSET_USAGE_ERROR;
    if (!status) status = inset_plan_create(trace, NULL, &plan);
    if (!status) status = inset_run(plan);
    if (CHECK(!status || refused, "%s: %s: %s", family, name, inset_message(context)) && !status) {
        int64_t one, n = 0, m = 0;
        const double change = (double)*saved(plan, "more", &one)
                              - (double)*saved(plan, "less", &one);
        const float *x = saved(plan, "kept", &n), *g = saved(plan, "g", &m);
        double sum = 0, size = 0;
        for (int64_t i = 0; i < n && i < m; i++) {
            if (!isfinite(x[i])) continue; /* a masked score */
            sum += (double)x[i] * (double)g[i];
            size += fabs((double)x[i] * (double)g[i]);
        }
        CHECK(n == m && fabs(change / (2 * STEP) - sum) < 0.01 * fabs(sum) + 0.002 * size + 0.003,
            "%s: %s: a small change says %g, the gradient %g (terms of %g)", family, name,
            change / (2 * STEP), sum, size);
    }
    inset_trace_free(trace);
    return !status;
}

int main(void)
{
    static const char *const families[] = {"gpt2", "gpt_neox", "gpt_neox_serial", "llama", "llama3",
        "mistral", "qwen2", "qwen3", "gemma2", "phi3", "olmo2", "gemma", "gemma3", "olmo3",
        "smollm3", "gpt_neo", "gptj", "phi", "stablelm", "stablelm_parallel", "starcoder2", "bloom",
        "granite", "olmo", "cohere", "cohere2", "opt", "mixtral", "qwen3_moe", "gpt_oss", "bert"};
    inset_context *context = NULL;
    if (!CHECK(!inset_context_create(NULL, &context), "no context")) return test_result();
    /* four of grouped heads once more with keys and values for each query head */
    const size_t n = sizeof families / sizeof *families, grouped[] = {3, 7, 8, 9};
    for (size_t i = 0; i < n + 4; i++) {
        const size_t f = i < n ? i : grouped[i - n];
        char path[256];
        inset_model *model = NULL;
        inset_model_options cpu = INSET_MODEL_OPTIONS;
        cpu.device = "cpu";
        cpu.ungroup = i >= n;
        snprintf(path, sizeof path, "fixtures/%s", families[f]);
        if (!CHECK(!inset_model_open(context, path, &cpu, &model), "%s", inset_message(context)))
            continue;
        size_t tried = 0, sites = inset_site_count(model);
        for (size_t k = 0; k < sites; k++) {
            inset_site s;
            if (!inset_site_at(model, k, &s) && s.settable && !s.integer)
                tried += check_site(context, model, families[f], s.path);
        }
        CHECK(tried > 30, "%s: only %zu of %zu sites were tried", families[f], tried, sites);
        inset_model_free(model);
    }
    inset_context_free(context);
    return test_result();
}
