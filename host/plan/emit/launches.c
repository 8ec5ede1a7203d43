/* launches.c: where a kernel's arguments hold addresses. */
#include "plan/emit/launches.h"

const int16_t *launch_pointers(kernel_id kernel)
{
#define AT(type, field) (int16_t) offsetof(type, field)
    static const int16_t embed[] = {
        AT(embed_args, out), AT(embed_args, table), AT(embed_args, ids), -1};
    static const int16_t gather[] = {
        AT(gather_args, out), AT(gather_args, x), AT(gather_args, x_rows), -1};
    static const int16_t layernorm[] = {AT(layernorm_args, out), AT(layernorm_args, x),
        AT(layernorm_args, x_rows), AT(layernorm_args, weight), AT(layernorm_args, bias), -1};
    static const int16_t rmsnorm[] = {AT(rmsnorm_args, out), AT(rmsnorm_args, x),
        AT(rmsnorm_args, x_rows), AT(rmsnorm_args, weight), -1};
    static const int16_t activation[] = {AT(activation_args, out), AT(activation_args, x),
        AT(activation_args, x_rows), AT(activation_args, bias), -1};
    static const int16_t gate[] = {AT(gate_args, out), AT(gate_args, a), AT(gate_args, b),
        AT(gate_args, a_rows), AT(gate_args, b_rows), -1};
    static const int16_t add[] = {AT(add_args, out), AT(add_args, a), AT(add_args, b),
        AT(add_args, c), AT(add_args, a_rows), AT(add_args, b_rows), AT(add_args, c_rows), -1};
    static const int16_t add_layernorm[] = {AT(add_layernorm_args, out),
        AT(add_layernorm_args, norm), AT(add_layernorm_args, a), AT(add_layernorm_args, b),
        AT(add_layernorm_args, a_rows), AT(add_layernorm_args, b_rows),
        AT(add_layernorm_args, weight), AT(add_layernorm_args, bias), -1};
    static const int16_t add_rmsnorm[] = {AT(add_rmsnorm_args, out), AT(add_rmsnorm_args, norm),
        AT(add_rmsnorm_args, a), AT(add_rmsnorm_args, b), AT(add_rmsnorm_args, a_rows),
        AT(add_rmsnorm_args, b_rows), AT(add_rmsnorm_args, weight), -1};
    static const int16_t scale[] = {
        AT(scale_args, out), AT(scale_args, x), AT(scale_args, x_rows), -1};
    static const int16_t rope[] = {AT(rope_args, out), AT(rope_args, x), AT(rope_args, x_rows),
        AT(rope_args, positions), AT(rope_args, frequencies), -1};
    static const int16_t attention[] = {AT(attention_args, out), AT(attention_args, q),
        AT(attention_args, k), AT(attention_args, v), AT(attention_args, q_rows),
        AT(attention_args, key_rows), AT(attention_args, value_rows), AT(attention_args, contexts),
        AT(attention_args, slopes), AT(attention_args, sinks), -1};
    static const int16_t whole_attention[] = {AT(whole_attention_args, out),
        AT(whole_attention_args, q), AT(whole_attention_args, k), AT(whole_attention_args, v),
        AT(whole_attention_args, statistics), -1};
    static const int16_t columns[] = {AT(columns_args, out), AT(columns_args, x),
        AT(columns_args, x_rows), AT(columns_args, weight), AT(columns_args, bias),
        AT(columns_args, columns), -1};
    static const int16_t scores[] = {AT(scores_args, out), AT(scores_args, q), AT(scores_args, k),
        AT(scores_args, q_rows), AT(scores_args, key_rows), AT(scores_args, slopes), -1};
    static const int16_t softmax[] = {
        AT(softmax_args, out), AT(softmax_args, x), AT(softmax_args, sinks), -1};
    static const int16_t softmax_back[] = {
        AT(softmax_back_args, out), AT(softmax_back_args, x), AT(softmax_back_args, dy), -1};
    static const int16_t mix_back[] = {AT(mix_back_args, out), AT(mix_back_args, pattern),
        AT(mix_back_args, x), AT(mix_back_args, x_rows), AT(mix_back_args, scratch), -1};
    static const int16_t divisor_back[] = {AT(divisor_back_args, out), AT(divisor_back_args, x),
        AT(divisor_back_args, scale), AT(divisor_back_args, dy), AT(divisor_back_args, x_rows),
        AT(divisor_back_args, scale_rows), AT(divisor_back_args, dy_rows),
        AT(divisor_back_args, weight), -1};
    static const int16_t mix[] = {
        AT(mix_args, out), AT(mix_args, pattern), AT(mix_args, v), AT(mix_args, value_rows), -1};
    static const int16_t norm_scale[] = {
        AT(norm_scale_args, out), AT(norm_scale_args, x), AT(norm_scale_args, x_rows), -1};
    static const int16_t norm_by_scale[] = {AT(norm_by_scale_args, out), AT(norm_by_scale_args, x),
        AT(norm_by_scale_args, scale), AT(norm_by_scale_args, x_rows),
        AT(norm_by_scale_args, scale_rows), AT(norm_by_scale_args, weight),
        AT(norm_by_scale_args, bias), -1};
    static const int16_t metrics[] = {
        AT(metrics_args, rows), AT(metrics_args, weight), AT(metrics_args, bias), -1};
    static const int16_t norm_back[] = {AT(norm_back_args, out), AT(norm_back_args, x),
        AT(norm_back_args, dy), AT(norm_back_args, x_rows), AT(norm_back_args, dy_rows),
        AT(norm_back_args, weight), AT(norm_back_args, scale), AT(norm_back_args, scale_rows), -1};
    static const int16_t activation_back[] = {AT(activation_back_args, out),
        AT(activation_back_args, x), AT(activation_back_args, dy), AT(activation_back_args, x_rows),
        AT(activation_back_args, dy_rows), -1};
    static const int16_t join[] = {AT(join_args, out), AT(join_args, x), AT(join_args, x_rows), -1};
    static const int16_t copies[] = {AT(copies_args, out), AT(copies_args, x),
        AT(copies_args, bias), AT(copies_args, x_rows), -1};
    static const int16_t attention_back[] = {AT(attention_back_args, out),
        AT(attention_back_args, q), AT(attention_back_args, k), AT(attention_back_args, v),
        AT(attention_back_args, dz), AT(attention_back_args, q_rows),
        AT(attention_back_args, key_rows), AT(attention_back_args, value_rows),
        AT(attention_back_args, dz_rows), AT(attention_back_args, units),
        AT(attention_back_args, slopes), AT(attention_back_args, sinks),
        AT(attention_back_args, scratch), -1};
    static const int16_t route[] = {AT(route_args, out), AT(route_args, x), AT(route_args, dy),
        AT(route_args, x_rows), AT(route_args, dy_rows), -1};
    static const int16_t expert_table[] = {AT(expert_table_args, tables.at),
        AT(expert_table_args, weights.at), AT(expert_table_args, weights.rows), -1};
    static const int16_t expert_gather[] = {AT(expert_gather_args, out), AT(expert_gather_args, x),
        AT(expert_gather_args, x_rows), AT(expert_gather_args, tables.at), -1};
    static const int16_t expert_gate[] = {AT(expert_gate_args, out), AT(expert_gate_args, gate),
        AT(expert_gate_args, up), AT(expert_gate_args, tables.at), -1};
    static const int16_t expert_gate_back[] = {AT(expert_gate_back_args, gate),
        AT(expert_gate_back_args, up), AT(expert_gate_back_args, back),
        AT(expert_gate_back_args, tables.at), AT(expert_gate_back_args, weights.at),
        AT(expert_gate_back_args, weights.rows), -1};
    static const int16_t expert_weight_back[] = {AT(expert_weight_back_args, out),
        AT(expert_weight_back_args, y), AT(expert_weight_back_args, dy),
        AT(expert_weight_back_args, tables.at), -1};
    static const int16_t expert_sum[] = {AT(expert_sum_args, out), AT(expert_sum_args, y),
        AT(expert_sum_args, y_rows), AT(expert_sum_args, tables.at),
        AT(expert_sum_args, weights.at), AT(expert_sum_args, weights.rows), -1};
    static const int16_t expert_sum_back[] = {AT(expert_sum_back_args, out),
        AT(expert_sum_back_args, by_gate), AT(expert_sum_back_args, by_up),
        AT(expert_sum_back_args, weights), AT(expert_sum_back_args, tables.at), -1};
    static const int16_t expert_joined_back[] = {AT(expert_joined_back_args, out),
        AT(expert_joined_back_args, y), AT(expert_joined_back_args, dy),
        AT(expert_joined_back_args, y_rows), AT(expert_joined_back_args, dy_rows),
        AT(expert_joined_back_args, weights.at), AT(expert_joined_back_args, weights.rows), -1};
    static const int16_t records[] = {AT(records_args, records), -1};
    static const int16_t row_functions[] = {
        AT(row_functions_args, calls), AT(row_functions_args, operands), -1};
#undef AT
    static const int16_t *const all[KERNEL_COUNT] = {
        [KERNEL_EMBED] = embed,
        [KERNEL_GATHER] = gather,
        [KERNEL_LAYERNORM] = layernorm,
        [KERNEL_RMSNORM] = rmsnorm,
        [KERNEL_ACTIVATION] = activation,
        [KERNEL_GATE] = gate,
        [KERNEL_ADD] = add,
        [KERNEL_ADD_LAYERNORM] = add_layernorm,
        [KERNEL_ADD_RMSNORM] = add_rmsnorm,
        [KERNEL_SCALE] = scale,
        [KERNEL_ROPE] = rope,
        [KERNEL_ATTENTION] = attention,
        [KERNEL_COLUMNS] = columns,
        [KERNEL_SCORES] = scores,
        [KERNEL_SOFTMAX] = softmax,
        [KERNEL_MIX] = mix,
        [KERNEL_NORM_SCALE] = norm_scale,
        [KERNEL_NORM_BY_SCALE] = norm_by_scale,
        [KERNEL_METRICS] = metrics,
        [KERNEL_NORM_BACK] = norm_back,
        [KERNEL_ACTIVATION_BACK] = activation_back,
        [KERNEL_JOIN] = join,
        [KERNEL_ATTENTION_BACK] = attention_back,
        [KERNEL_SOFTMAX_BACK] = softmax_back,
        [KERNEL_MIX_BACK] = mix_back,
        [KERNEL_DIVISOR_BACK] = divisor_back,
        [KERNEL_SPREAD] = copies,
        [KERNEL_FOLD] = copies,
        [KERNEL_NORM_SCALE_BACK] = norm_back,
        [KERNEL_WHOLE_ATTENTION] = whole_attention,
        [KERNEL_ROUTE] = route,
        [KERNEL_ROUTE_BACK] = route,
        [KERNEL_EXPERT_COUNT] = expert_table,
        [KERNEL_EXPERT_PLACE] = expert_table,
        [KERNEL_EXPERT_GATHER] = expert_gather,
        [KERNEL_EXPERT_GATE] = expert_gate,
        [KERNEL_EXPERT_GATE_BACK] = expert_gate_back,
        [KERNEL_EXPERT_WEIGHT_BACK] = expert_weight_back,
        [KERNEL_EXPERT_SUM] = expert_sum,
        [KERNEL_EXPERT_SUM_BACK] = expert_sum_back,
        [KERNEL_EXPERTS_JOINED_BACK] = expert_joined_back,
        [KERNEL_RECORDS] = records,
        [KERNEL_FUNCTIONS] = records,
        [KERNEL_ROW_FUNCTIONS] = row_functions,
    };
    return all[kernel];
}
