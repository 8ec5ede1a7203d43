# what cannot be merged, and shards that are none
fixtures=$PWD/../fixtures
mkdir "$SCRATCH/merge" && cd "$SCRATCH/merge" || exit 1
sweep="inset sweep -d cpu -m $fixtures/induction --clean [[11,3,42,7]] --corrupt [[11,50,42,7]] --metric logit_diff:42,7"
$sweep --patch z --shard 1/2 -o out.safetensors > /dev/null
$sweep --patch resid_pre --shard 2/2 -o other.safetensors > /dev/null
inset merge out.safetensors out.safetensors.1-of-2; echo "exit $?" >&2
inset merge out.safetensors out.safetensors.1-of-2 other.safetensors.2-of-2; echo "exit $?" >&2
inset merge out.safetensors out.safetensors.1-of-2 out.safetensors.1-of-2; echo "exit $?" >&2
inset merge out.safetensors nothing.there; echo "exit $?" >&2
inset merge out.pt out.safetensors.1-of-2; echo "exit $?" >&2
inset merge out.safetensors; echo "exit $?" >&2
inset merge; echo "exit $?" >&2
inset merge other.safetensors.2-of-2.csv other.safetensors.2-of-2 other.safetensors.2-of-2; echo "exit $?" >&2
$sweep --patch z --shard 1/2 -o out.safetensors; echo "exit $?" >&2
for shard in 3/2 0/2 x 1/ 1/2x /2; do $sweep --patch z --shard $shard -o out.safetensors; echo "exit $?" >&2; done
$sweep --patch z --shard 1/2; echo "exit $?" >&2
inset attribute ${sweep#inset sweep} --patch z --verify 3 --shard 1/2 -o a.safetensors; echo "exit $?" >&2
