/* experts.cu: mixtures of experts. Which rows an expert has is found here, from the rows' weights:
 * a pair is a row and an expert whose weight in it is not 0. Pairs are in order of their experts,
 * and of one expert in order of their rows (expert_tables), so that each expert's products run over
 * rows side by side; what they make is added up in a row of its own, in the order of the experts.
 * So a row's bits depend on its own numbers, whatever rows run beside it. */
#include "kernels/activations.h"

namespace KERNEL_NAMESPACE {

/* ---- the router --------------------------------------------------------- */

/* Whether x comes before y: larger, or as large and earlier. A NaN is the largest. */
DEVICE bool comes_before(float x, int i, float y, int j)
{
    const bool x_odd = x != x, y_odd = y != y;
    if (x_odd || y_odd) return x_odd && (!y_odd || i < j);
    return x > y || (x == y && i < j);
}

template <typename T>
DEVICE bool is_chosen(const T *x, int n, int i, int chosen)
{
    const float own = load(x[i]);
    int before = 0;
    for (int j = 0; j < n; j++) before += comes_before(load(x[j]), j, own, i);
    return before < chosen;
}

/* What logits are taken less of, and what they are divided by: over all, or the chosen ones. flags
 * holds 1 for those. */
template <typename T>
DEVICE float route_sum(const route_args &a, const T *x, T *flags, float *most)
{
    const int n = (int)a.n_experts;
    float largest = -INFINITE, sum = 0.0f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) largest = maximum(load(x[i]), largest);
    largest = block_max(largest);
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        const bool chosen = is_chosen(x, n, i, a.chosen);
        flags[i] = store<T>(chosen ? 1.0f : 0.0f);
        if (chosen || a.over_all) sum += exponential(load(x[i]) - largest);
    }
    *most = largest;
    return block_sum(sum);
}

/* One block a row. A thread comes back to the elements of `out` that it wrote itself. */
template <typename T>
KERNEL(route, route_args a)
{
    const int64_t row = blockIdx.x;
    const T *x = (const T *)a.x + (a.x_rows ? a.x_rows[row] : row) * a.x_stride;
    T *out = (T *)a.out + row * a.out_stride;
    float most;
    const float sum = route_sum(a, x, out, &most);
    for (int i = threadIdx.x; i < (int)a.n_experts; i += blockDim.x)
        out[i] = store<T>(load(out[i]) > 0.0f ? exponential(load(x[i]) - most) / sum : 0.0f);
}

/* With p the softmax that the weights are of: dx = p (dy - sum of p dy), dy 0 where not chosen. */
template <typename T>
KERNEL(route_back, route_args a)
{
    const int64_t row = blockIdx.x;
    const T *x = (const T *)a.x + (a.x_rows ? a.x_rows[row] : row) * a.x_stride;
    const T *dy = (const T *)a.dy + (a.dy_rows ? a.dy_rows[row] : row) * a.dy_stride;
    T *out = (T *)a.out + row * a.out_stride;
    const int n = (int)a.n_experts;
    float most, all = 0.0f;
    const float sum = route_sum(a, x, out, &most);
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        if (load(out[i]) > 0.0f) all += exponential(load(x[i]) - most) / sum * load(dy[i]);
    all = block_sum(all);
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        const bool chosen = load(out[i]) > 0.0f;
        const float p = chosen || a.over_all ? exponential(load(x[i]) - most) / sum : 0.0f;
        out[i] = store<T>(p * ((chosen ? load(dy[i]) : 0.0f) - all));
    }
}

/* ---- pairs -------------------------------------------------------------- */

DEVICE int32_t *table_counts(const expert_tables &t) { return t.at; }
DEVICE int32_t *table_offsets(const expert_tables &t) { return t.at + t.n_experts; }
DEVICE int32_t *table_rows(const expert_tables &t) { return t.at + 2 * t.n_experts + 1; }
DEVICE int32_t *table_experts(const expert_tables &t) { return table_rows(t) + t.n_pairs; }
DEVICE int32_t *table_pairs(const expert_tables &t) { return table_experts(t) + t.n_pairs; }
DEVICE int64_t pair_count(const expert_tables &t) { return table_offsets(t)[t.n_experts]; }

/* A row's weight of an expert; without weights every row has every expert. */
template <typename T>
DEVICE float weight_of(const expert_weights &w, int64_t row, int64_t expert)
{
    if (!w.at) return 1.0f;
    return load(((const T *)w.at)[(w.rows ? w.rows[row] : row) * w.stride + expert]);
}

/* The rows from `first` to `end` that have an expert. */
template <typename T>
DEVICE int32_t count_rows(const expert_table_args &a, int64_t expert, int64_t first, int64_t end)
{
    int32_t n = 0;
    for (int64_t row = first; row < end; row++) n += weight_of<T>(a.weights, row, expert) != 0.0f;
    return n;
}

/* One block an expert; a thread counts rows side by side. */
template <typename T>
KERNEL(expert_count, expert_table_args a)
{
    const int64_t expert = blockIdx.x, n = a.tables.n_rows, threads = blockDim.x, t = threadIdx.x;
    SHARED(int32_t, counts, KERNEL_THREADS);
    counts[t] = count_rows<T>(a, expert, n * t / threads, n * (t + 1) / threads);
    __syncthreads();
    if (t) return;
    int32_t sum = 0;
    for (int i = 0; i < threads; i++) sum += counts[i];
    table_counts(a.tables)[expert] = sum;
}

/* One block an expert, when all are counted. */
template <typename T>
KERNEL(expert_place, expert_table_args a)
{
    const expert_tables tables = a.tables;
    const int64_t expert = blockIdx.x, n = tables.n_rows, threads = blockDim.x, t = threadIdx.x,
                  first = n * t / threads, end = n * (t + 1) / threads;
    SHARED(int32_t, places, KERNEL_THREADS);
    places[t] = count_rows<T>(a, expert, first, end);
    __syncthreads();
    if (t == 0) {
        int32_t place = 0;
        for (int64_t e = 0; e < expert; e++) place += table_counts(tables)[e];
        table_offsets(tables)[expert] = place;
        for (int i = 0; i < threads; i++) {
            const int32_t own = places[i];
            places[i] = place;
            place += own;
        }
        if (expert + 1 == tables.n_experts) table_offsets(tables)[tables.n_experts] = place;
    }
    __syncthreads();
    int32_t place = places[t];
    for (int64_t row = first; row < end; row++) {
        const bool has = weight_of<T>(a.weights, row, expert) != 0.0f;
        table_pairs(tables)[row * tables.n_experts + expert] = has ? place : -1;
        if (!has) continue;
        table_rows(tables)[place] = (int32_t)row;
        table_experts(tables)[place++] = (int32_t)expert;
    }
}

/* One block a pair: the row that its expert reads. */
template <typename T>
KERNEL(expert_gather, expert_gather_args a)
{
    const int64_t pair = blockIdx.x;
    if (pair >= pair_count(a.tables)) return;
    const int64_t row = table_rows(a.tables)[pair],
                  column = a.apart ? table_experts(a.tables)[pair] * a.width : 0;
    const T *x = (const T *)a.x + (a.x_rows ? a.x_rows[row] : row) * a.x_stride + column;
    T *out = (T *)a.out + pair * a.width;
    for (int i = threadIdx.x; i < (int)a.width; i += blockDim.x) out[i] = x[i];
}

/* ---- inside an expert --------------------------------------------------- */

/* Calls f with the activation and its derivative. The kind is decided before the loop in f. */
template <typename F>
DEVICE void with_activation(int kind, F f)
{
    switch (kind) {
    case 0: f([](float v) { return gelu_erf(v); }, [](float v) { return gelu_slope(v); }); break;
    case 1:
        f([](float v) { return gelu_tanh(v); }, [](float v) { return gelu_tanh_slope(v); });
        break;
    case 2:
        f([](float v) { return relu(v); }, [](float v) { return v > 0.0f ? 1.0f : 0.0f; });
        break;
    case 3: f([](float v) { return silu(v); }, [](float v) { return silu_slope(v); }); break;
    case 4:
        f([](float v) { return hyperbolic_tangent(v); }, [](float v) { return tanh_slope(v); });
        break;
    default: f([](float v) { return sigmoid(v); }, [](float v) { return sigmoid_slope(v); });
    }
}

template <typename T>
DEVICE float rounded(float x)
{
    return load(store<T>(x));
}

DEVICE float clamp_gate(float x, float limit) { return x > limit ? limit : x; }
DEVICE float clamp_up(float x, float limit) { return x > limit ? limit : x < -limit ? -limit : x; }

/* One block a pair: out = act(gate) * up, or gpt-oss's clamped form of columns in turn. */
template <typename T>
KERNEL(expert_gate, expert_gate_args a)
{
    const int64_t pair = blockIdx.x;
    if (pair >= pair_count(a.tables)) return;
    const T *gate = (const T *)a.gate + pair * a.stride, *up = (const T *)a.up + pair * a.stride;
    T *out = (T *)a.out + pair * a.width;
    const int m = (int)a.width;
    if (a.limit > 0.0f) {
        for (int i = threadIdx.x; i < m; i += blockDim.x) {
            const float g = clamp_gate(load(gate[2 * i]), a.limit),
                        u = clamp_up(load(up[2 * i]), a.limit),
                        s = rounded<T>(sigmoid(rounded<T>(g * a.alpha)));
            out[i] = store<T>(rounded<T>(u + 1.0f) * rounded<T>(g * s));
        }
        return;
    }
    with_activation(a.kind, [=](auto value, auto) {
        for (int i = threadIdx.x; i < m; i += blockDim.x)
            out[i] = store<T>(rounded<T>(value(load(gate[i]))) * load(up[i]));
    });
}

/* One block a pair: dh = weight * back is the gradient of act(gate) * up; gate and up become their
 * own gradients. */
template <typename T>
KERNEL(expert_gate_back, expert_gate_back_args a)
{
    const int64_t pair = blockIdx.x;
    if (pair >= pair_count(a.tables)) return;
    T *gate = (T *)a.gate + pair * a.stride, *up = (T *)a.up + pair * a.stride;
    const T *back = (const T *)a.back + pair * a.width;
    const int m = (int)a.width;
    const bool secant = a.secant;
    const float weight = weight_of<T>(
                             a.weights, table_rows(a.tables)[pair], table_experts(a.tables)[pair])
                         * (a.half && a.weights.at ? 0.5f : 1.0f),
                w = a.half ? 0.5f * weight : weight;
    if (a.limit > 0.0f) {
        for (int i = threadIdx.x; i < m; i += blockDim.x) {
            const float g = load(gate[2 * i]), u = load(up[2 * i]), dh = w * load(back[i]),
                        at = clamp_gate(g, a.limit), s = sigmoid(at * a.alpha),
                        slope = secant ? s : s + at * a.alpha * s * (1.0f - s);
            gate[2 * i] = store<T>(g > a.limit ? 0.0f : dh * (clamp_up(u, a.limit) + 1.0f) * slope);
            up[2 * i] = store<T>(u > a.limit || u < -a.limit ? 0.0f : dh * at * s);
        }
        return;
    }
    with_activation(a.kind, [=](auto value, auto slope) {
        for (int i = threadIdx.x; i < m; i += blockDim.x) {
            const float g = load(gate[i]), u = load(up[i]), dh = w * load(back[i]), made = value(g),
                        by = secant ? made / (g < 0.0f ? g - 1e-6f : g + 1e-6f) : slope(g);
            gate[i] = store<T>(dh * u * by);
            up[i] = store<T>(dh * made);
        }
    });
}

/* One block a pair: the gradient of its weight, the product of dy and what the expert made. */
template <typename T>
KERNEL(expert_weight_back, expert_weight_back_args a)
{
    const int64_t pair = blockIdx.x;
    if (pair >= pair_count(a.tables)) return;
    const T *y = (const T *)a.y + pair * a.width, *dy = (const T *)a.dy + pair * a.width;
    const float sum = block_sum_of((int)a.width, [=](int i) { return load(y[i]) * load(dy[i]); });
    if (threadIdx.x == 0) a.out[pair] = a.half ? 0.5f * sum : sum;
}

/* ---- rows again --------------------------------------------------------- */

/* Where an expert's part of a row is: its pair's row of y, or columns of a row of them all. */
template <typename T>
DEVICE const T *part_of(const expert_sum_args &a, int64_t row, int64_t expert)
{
    if (a.y_apart)
        return (const T *)a.y + (a.y_rows ? a.y_rows[row] : row) * a.y_stride + expert * a.width;
    return (const T *)a.y + table_pairs(a.tables)[row * a.tables.n_experts + expert] * a.width;
}

/* One block a row: the sum of weight * part in the order of the experts, each product rounded, the
 * sum in fp32; or the parts side by side (apart). */
template <typename T>
KERNEL(expert_sum, expert_sum_args a)
{
    const int64_t row = blockIdx.x, n = a.tables.n_experts;
    T *out = (T *)a.out + row * a.out_stride;
    const int d = (int)a.width;
    if (a.apart) {
        for (int64_t e = 0; e < n; e++) {
            const T *part = part_of<T>(a, row, e);
            for (int i = threadIdx.x; i < d; i += blockDim.x) out[e * d + i] = part[i];
        }
        return;
    }
    SHARED(int32_t, chosen, KERNEL_MOST_EXPERTS);
    SHARED(int32_t, count, 1);
    if (threadIdx.x == 0) {
        int32_t found = 0;
        for (int64_t e = 0; e < n; e++)
            if (weight_of<T>(a.weights, row, e) != 0.0f) chosen[found++] = (int32_t)e;
        count[0] = found;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        float sum = 0.0f;
        for (int k = 0; k < count[0]; k++)
            sum += rounded<T>(
                weight_of<T>(a.weights, row, chosen[k]) * load(part_of<T>(a, row, chosen[k])[i]));
        out[i] = store<T>(sum);
    }
}

/* One block a row: dx, the sum of what its experts send back to it (or each side by side), and the
 * gradients of its weights, 0 for experts that it does not have. */
template <typename T>
KERNEL(expert_sum_back, expert_sum_back_args a)
{
    const int64_t row = blockIdx.x, n = a.tables.n_experts;
    const int32_t *pairs = table_pairs(a.tables) + row * n;
    T *out = (T *)a.out + row * a.out_stride;
    const int d = (int)a.width;
    for (int64_t c = threadIdx.x; c < (a.apart ? n * d : d); c += blockDim.x) {
        const int64_t first = a.apart ? c / d : 0, end = a.apart ? first + 1 : n, i = c % d;
        float sum = 0.0f;
        for (int64_t e = first; e < end; e++) {
            if (pairs[e] < 0) continue;
            const int64_t at = pairs[e] * a.width + i;
            sum += load(((const T *)a.by_gate)[at]);
            if (a.by_up) sum += load(((const T *)a.by_up)[at]);
        }
        out[c] = store<T>(sum);
    }
    if (a.apart) return;
    for (int64_t e = threadIdx.x; e < n; e += blockDim.x)
        out[d + e] = store<T>(pairs[e] < 0 ? 0.0f : a.weights[pairs[e]]);
}

/* One block a row of y [n, width] and weights: the gradient of each part, and those of the
 * weights. */
template <typename T>
KERNEL(experts_joined_back, expert_joined_back_args a)
{
    const int64_t row = blockIdx.x, n = a.n_experts;
    const T *y = (const T *)a.y + (a.y_rows ? a.y_rows[row] : row) * a.y_stride;
    const T *dy = (const T *)a.dy + (a.dy_rows ? a.dy_rows[row] : row) * a.dy_stride;
    T *out = (T *)a.out + row * a.out_stride;
    const int d = (int)a.width;
    const float part = a.half ? 0.5f : 1.0f;
    for (int64_t e = 0; e < n; e++) {
        const float weight = weight_of<T>(a.weights, row, e);
        const T *own = y + e * d;
        const float sum = block_sum_of(d, [=](int i) { return load(own[i]) * load(dy[i]); });
        for (int i = threadIdx.x; i < d; i += blockDim.x)
            out[e * d + i] = store<T>(weight != 0.0f ? part * weight * load(dy[i]) : 0.0f);
        if (threadIdx.x == 0) out[n * d + e] = store<T>(weight != 0.0f ? part * sum : 0.0f);
    }
}

void experts_entries(kernel_table *table)
{
    KERNEL_ENTRIES(table, KERNEL_ROUTE, route_args, route);
    KERNEL_ENTRIES(table, KERNEL_ROUTE_BACK, route_args, route_back);
    KERNEL_ENTRIES(table, KERNEL_EXPERT_COUNT, expert_table_args, expert_count);
    KERNEL_ENTRIES(table, KERNEL_EXPERT_PLACE, expert_table_args, expert_place);
    KERNEL_ENTRIES(table, KERNEL_EXPERT_GATHER, expert_gather_args, expert_gather);
    KERNEL_ENTRIES(table, KERNEL_EXPERT_GATE, expert_gate_args, expert_gate);
    KERNEL_ENTRIES(table, KERNEL_EXPERT_SUM, expert_sum_args, expert_sum);
    KERNEL_ENTRIES(table, KERNEL_EXPERT_GATE_BACK, expert_gate_back_args, expert_gate_back);
    KERNEL_ENTRIES(table, KERNEL_EXPERT_WEIGHT_BACK, expert_weight_back_args, expert_weight_back);
    KERNEL_ENTRIES(table, KERNEL_EXPERT_SUM_BACK, expert_sum_back_args, expert_sum_back);
    KERNEL_ENTRIES(table, KERNEL_EXPERTS_JOINED_BACK, expert_joined_back_args, experts_joined_back);
}

} // namespace KERNEL_NAMESPACE
