inset run -d cpu -m ../fixtures/induction -o "$SCRATCH/run_cache.safetensors" -c 'with invoke([[11, 3, 42]]):
    cache("transformer.h[*].output", "lm_head.input")
    transformer.h[1].output[:, 0] = 0
for i in range(2):
    with invoke([[11, 3]]):
        cache("transformer.h[-1].mlp.*", prefix=i)
' && head -c 2000 "$SCRATCH/run_cache.safetensors" | tr -c '[:print:]' '\n' | grep -o '{.*}' | tr '}' '\n' | grep -o '"[a-z0-9_.]*":{.*shape":[^]]*]'
