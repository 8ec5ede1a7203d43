/* opt.c: OPT as transformers' OPTForCausalLM runs it: layer norms, embeddings of positions whose
 * table begins with two rows for none, and an MLP of two products that is no module of its own. In
 * transformers fc1, fc2 and what lies between have the positions of all prompts in one dimension;
 * here they are [batch, position, ...] as everywhere. */
#include "models/decoder.h"

static void refuse_others(config *c, const decoder *g)
{
    if (!config_bool(c, "do_layer_norm_before", true))
        config_refuse(
            c, "'do_layer_norm_before' is false, which inset does not support (only true)");
    if (!config_bool(c, "enable_bias", true))
        config_refuse(c, "'enable_bias' is false, which inset does not support (only true)");
    config_refuse_if_true(c, "_remove_final_layer_norm");
    const int32_t projected = config_size_or(c, "word_embed_proj_dim", g->d);
    if (projected != g->d)
        config_refuse(
            c, "'word_embed_proj_dim' (%d) must be 'hidden_size' (%d)", (int)projected, (int)g->d);
}

void opt_build(config *c, program *p)
{
    static const decoder_defaults otherwise = {.d = 768,
        .m = 3072,
        .m_key = "ffn_dim",
        .n_layers = 12,
        .n_heads = 12,
        .vocabulary = 50272,
        .positions = 2048,
        .act_key = "activation_function",
        .act = "relu",
        .tied = true,
        .no_rope = true};
    decoder g = decoder_read(c, p, &otherwise);
    g.norm = config_bool(c, "layer_norm_elementwise_affine", true) ? NORM_LAYER : NORM_LAYER_PLAIN;
    g.eps = 1e-5f; /* nn.LayerNorm's own */
    g.qkv_bias = g.o_bias = g.mlp_bias = true;
    g.inner = "decoder";
    g.embed_positions = "decoder.embed_positions";
    g.first_position = 2;
    g.norm_before_attention = "self_attn_layer_norm";
    g.norm_before_mlp = "final_layer_norm";
    g.norm_before_head = "decoder.final_layer_norm";
    g.attention_output = "out_proj";
    g.mlp_in_block = true;
    g.mlp_first = "fc1";
    g.act_name = "activation_fn";
    g.mlp_last = "fc2";
    refuse_others(c, &g);
    if (!c->status) decoder_build(&g, p);
}
