# Other settings than what the folder was begun with are refused, and so is a folder with other things in it.
cache() { inset cache -d cpu -m ../fixtures/induction --prompts '[[11,3,42],[7,55]]' "$@" -o "$SCRATCH/cache_other" 2>&1 | sed "s:$SCRATCH:SCRATCH:"; }
cache --sites resid_post
cache --sites resid_post,z
cache --sites resid_post --positions -1
cache --sites resid_post --dtype f16
cache --sites resid_post --model-dtype bf16
cache --sites resid_post --layers 1
cache --sites resid_post --shard-bytes 1M
mkdir "$SCRATCH/taken" && touch "$SCRATCH/taken/file"
inset cache -d cpu -m ../fixtures/induction --prompts '[[11,3]]' --sites z -o "$SCRATCH/taken" 2>&1 | sed "s:$SCRATCH:SCRATCH:"
