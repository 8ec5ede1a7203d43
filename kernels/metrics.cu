/* metrics.cu: a row of logits becomes one number: the read-out of a study. A launch does all
 * metrics of a moment, one block each, whatever they are of and wherever their rows lie; any block
 * size. Which tokens a metric is of is read from a table when it runs.
 *
 * A row that only a few tokens are wanted of need not be there: where the row says what it is the
 * product of, its logits are dot products with these tokens' rows of the weight, the bits that
 * KERNEL_COLUMNS gives. */
#include "kernels/grid.h"
#include "kernels/math.h"

namespace KERNEL_NAMESPACE {

template <typename T>
DEVICE float capped(float x, float cap)
{
    return load(store<T>(load(store<T>(hyperbolic_tangent(load(store<T>(x / cap))))) * cap));
}

/* The logit of one token, the same in every thread. */
template <typename T>
DEVICE float logit_of(const metrics_args &a, const metric_row &m, int32_t token)
{
    const T *x = (const T *)m.x;
    if (!m.product) return load(x[token]);
    const T *w = (const T *)a.weight + (int64_t)token * m.width;
    const float sum = block_sum_of(m.width, [=](int i) { return load(x[i]) * load(w[i]); });
    const float logit = load(store<T>(a.bias ? sum + load(((const T *)a.bias)[token]) : sum));
    if (m.scale != 0.0f) return load(store<T>(logit * m.scale));
    return m.softcap > 0.0f ? capped<T>(logit, m.softcap) : logit;
}

template <typename T>
DEVICE float mean_logit(const metrics_args &a, const metric_row &m, const int32_t *tokens, int n)
{
    float sum = 0.0f;
    for (int i = 0; i < n; i++) sum += logit_of<T>(a, m, tokens[i]);
    return sum / (float)n;
}

template <typename T>
DEVICE float best_logit(const metric_row &m)
{
    float best = -INFINITE;
    for (int i = 0; i < m.n_a; i++) best = maximum(load(((const T *)m.x)[m.tokens[i]]), best);
    return best;
}

/* A softmax is exp(x - largest) / sum. */
struct softmax_of {
    float largest, sum;
};

template <typename T>
DEVICE softmax_of softmax_over(const T *x, int n)
{
    float most = -INFINITE;
    for (int i = threadIdx.x; i < n; i += blockDim.x) most = maximum(load(x[i]), most);
    const float largest = block_max(most);
    return softmax_of{
        largest, block_sum_of(n, [=](int i) { return exponential(load(x[i]) - largest); })};
}

template <typename T>
DEVICE float probability(const metric_row &m)
{
    const softmax_of s = softmax_over((const T *)m.x, m.width);
    float sum = 0.0f;
    for (int i = 0; i < m.n_a; i++)
        sum += exponential(load(((const T *)m.x)[m.tokens[i]]) - s.largest);
    return sum / s.sum;
}

/* Also where the probabilities themselves are too small for fp32. */
template <typename T>
DEVICE float log_probability(const metric_row &m)
{
    const softmax_of s = softmax_over((const T *)m.x, m.width);
    /* probabilities of 0: their sum's logarithm */
    const float found = best_logit<T>(m), best = found == -INFINITE ? s.largest : found;
    float sum = 0.0f;
    for (int i = 0; i < m.n_a; i++) sum += exponential(load(((const T *)m.x)[m.tokens[i]]) - best);
    return best - s.largest + (logarithm(sum) - logarithm(s.sum));
}

/* How many logits are larger than the best of the set. */
template <typename T>
DEVICE float rank(const metric_row &m)
{
    const T *x = (const T *)m.x;
    const float best = best_logit<T>(m);
    return block_sum_of(m.width, [=](int i) { return load(x[i]) > best ? 1.0f : 0.0f; });
}

/* What one token adds to sum p log(p / q), with d = log(p / q): p d + q - p, which adds up to the
 * same since p and q each add up to 1. No term is below 0, an error in the sums that p and q are
 * divided by hardly shows, and equal rows give 0. Near d = 0 it is p times the series of d +
 * exp(-d) - 1. */
DEVICE float divergence_term(float p, float q, float d)
{
    float series = 1.0f / 40320.0f;
    series = series * -d + 1.0f / 5040.0f;
    series = series * -d + 1.0f / 720.0f;
    series = series * -d + 1.0f / 120.0f;
    series = series * -d + 1.0f / 24.0f;
    series = series * -d + 1.0f / 6.0f;
    series = series * -d + 0.5f;
    const float near_zero = p * (d * d * series), far = p * d + (q - p);
    const float term = d < 0.5f && d > -0.5f ? near_zero : far;
    return p == 0.0f ? q : term;
}

template <typename T>
DEVICE float divergence(const metric_row &m)
{
    const T *x = (const T *)m.x, *y = (const T *)m.other;
    const softmax_of s = softmax_over(x, m.width), r = softmax_over(y, m.width);
    const float shift = (r.largest - s.largest) + (logarithm(r.sum) - logarithm(s.sum));
    return block_sum_of(m.width, [=](int i) {
        const float a = load(x[i]), b = load(y[i]);
        return divergence_term(exponential(b - r.largest) / r.sum,
            exponential(a - s.largest) / s.sum, (b - a) - shift);
    });
}

template <typename T>
DEVICE float metric_of(const metrics_args &a, const metric_row &m)
{
    switch (m.kind) {
    case METRIC_LOGIT: return mean_logit<T>(a, m, m.tokens, m.n_a);
    case METRIC_LOGIT_DIFF: {
        const float first = mean_logit<T>(a, m, m.tokens, m.n_a);
        return first - mean_logit<T>(a, m, m.tokens + m.n_a, m.n_b);
    }
    case METRIC_PROBABILITY: return probability<T>(m);
    case METRIC_LOG_PROBABILITY: return log_probability<T>(m);
    case METRIC_RANK: return rank<T>(m);
    default: return divergence<T>(m);
    }
}

/* Of mean logits: +-1 / n at the tokens. A token may stand in a set twice. */
DEVICE void slope_of_logits(const metric_row &m)
{
    for (int i = threadIdx.x; i < m.width; i += blockDim.x) {
        float slope = 0.0f;
        for (int k = 0; k < m.n_a; k++) slope += m.tokens[k] == i ? 1.0f / (float)m.n_a : 0.0f;
        for (int k = m.n_a; k < m.n_a + m.n_b; k++)
            slope -= m.tokens[k] == i ? 1.0f / (float)m.n_b : 0.0f;
        m.out[i] = slope;
    }
}

/* Of P, the sum of some probabilities p_t: p_i (how often i is among them - P); of its logarithm,
 * that divided by P. */
template <typename T>
DEVICE void slope_of_probability(const metric_row &m, bool logarithmic)
{
    const T *x = (const T *)m.x;
    const softmax_of s = softmax_over(x, m.width);
    const float best = logarithmic ? best_logit<T>(m) : 0.0f;
    float in_set = 0.0f, relative = 0.0f; /* the set's share; the same beside its best */
    for (int k = 0; k < m.n_a; k++) {
        const float logit = load(x[m.tokens[k]]);
        in_set += exponential(logit - s.largest) / s.sum;
        relative += logarithmic ? exponential(logit - best) : 0.0f;
    }
    for (int i = threadIdx.x; i < m.width; i += blockDim.x) {
        const float p = exponential(load(x[i]) - s.largest) / s.sum;
        float often = 0.0f;
        for (int k = 0; k < m.n_a; k++) often += m.tokens[k] == i ? 1.0f : 0.0f;
        m.out[i] = !logarithmic   ? p * (often - in_set)
                   : often > 0.0f ? often * exponential(load(x[i]) - best) / relative - p
                                  : -p;
    }
}

/* Of sum p log(p / q) by the logits of q: q - p. */
template <typename T>
DEVICE void slope_of_divergence(const metric_row &m)
{
    const T *x = (const T *)m.x, *y = (const T *)m.other;
    const softmax_of s = softmax_over(x, m.width), r = softmax_over(y, m.width);
    for (int i = threadIdx.x; i < m.width; i += blockDim.x)
        m.out[i] = exponential(load(x[i]) - s.largest) / s.sum
                   - exponential(load(y[i]) - r.largest) / r.sum;
}

template <typename T>
DEVICE void slope_row(const metric_row &m)
{
    switch (m.kind - METRIC_SLOPE) {
    case METRIC_LOGIT:
    case METRIC_LOGIT_DIFF: slope_of_logits(m); return;
    case METRIC_PROBABILITY: slope_of_probability<T>(m, false); return;
    case METRIC_LOG_PROBABILITY: slope_of_probability<T>(m, true); return;
    default: slope_of_divergence<T>(m); return;
    }
}

template <typename T>
KERNEL(metrics, metrics_args a)
{
    const metric_row m = a.rows[blockIdx.x];
    if (m.kind >= METRIC_SLOPE) {
        slope_row<T>(m);
        return;
    }
    const float number = metric_of<T>(a, m);
    if (threadIdx.x == 0) *m.out = number;
}

void metrics_entries(kernel_table *table)
{
    KERNEL_ENTRIES(table, KERNEL_METRICS, metrics_args, metrics);
}

} // namespace KERNEL_NAMESPACE
