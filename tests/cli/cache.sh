# What is kept, where it lies, and going on with it.
inset cache -d cpu -m ../fixtures/induction --prompts '[[11,3,42],[7,55],[20,33,9,3]]' --sites 'z,resid_post,transformer.h[*].mlp.output' --layers 0,2 --positions 0,-1 --dtype bf16 -o "$SCRATCH/cache" | sed "s:$SCRATCH:SCRATCH:"
grep -v '"weights"\|"device"' "$SCRATCH/cache/cache.json" | tr -d '\n ' ; echo
ls "$SCRATCH/cache"
head -c 1400 "$SCRATCH/cache/00000.safetensors" | tr -c '[:print:]' '\n' | grep -o '{.*}'
inset cache -d cpu -m ../fixtures/induction --prompts '[[11,3,42],[7,55],[20,33,9,3]]' --sites 'z,resid_post,transformer.h[*].mlp.output' --layers 0,2 --positions 0,-1 --dtype bf16 -o "$SCRATCH/cache" | sed "s:$SCRATCH:SCRATCH:"
