# three shards, one of them in two goes, make the file of a whole sweep; -d with two devices does, too
fixtures=$PWD/../fixtures
mkdir "$SCRATCH/shards" && cd "$SCRATCH/shards" || exit 1
sweep="inset sweep -m $fixtures/induction --clean [[11,3,42,7,55,20,33,9,3]] --corrupt [[11,50,42,7,55,20,33,9,3]] --patch z --metric logit_diff:42,7"
$sweep -d cpu,cpu -o whole.safetensors
for k in 2 3 1; do $sweep -d cpu --shard $k/3 -o out.safetensors; done
inset merge out.safetensors out.safetensors.*-of-3
cmp whole.safetensors out.safetensors && echo the same
inset merge out.csv out.safetensors.*-of-3 > map.txt && head -n 3 out.csv
inset merge out.npy out.safetensors.*-of-3 --json --plot map.svg | head -n 3
$sweep -d cpu --shard 1/2 -o json.safetensors --json | grep shard
