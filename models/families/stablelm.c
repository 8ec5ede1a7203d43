/* stablelm.c: StableLM as transformers' StableLmForCausalLM runs it: Llama with LayerNorm, of whose
 * heads a quarter turns; attention and MLP may read one norm and be added at once. */
#include "models/decoder.h"

void stablelm_build(config *c, program *p)
{
    static const decoder_defaults otherwise = {.d = 2560,
        .m = 6912,
        .n_layers = 32,
        .n_heads = 32,
        .n_kv_heads = 32,
        .vocabulary = 50304,
        .positions = 4096,
        .eps = 1e-5,
        .eps_key = "layer_norm_eps",
        .act_key = "hidden_act",
        .act = "silu",
        .rotary_part = 0.25};
    decoder g = decoder_read(c, p, &otherwise);
    g.norm = NORM_LAYER;
    g.qkv_bias = config_bool(c, "use_qkv_bias", false);
    g.dropout_after_mlp = "dropout";
    if (config_bool(c, "use_parallel_residual", false)) g.parallel = PARALLEL_STREAM_FIRST;
    config_refuse_if_true(c, "qk_layernorm");
    if (!c->status) decoder_build(&g, p);
}
