# Three kinds of files; what exists is not replaced unless that is asked for; a plot.
model=$PWD/../fixtures/induction
sweep() { inset sweep -d cpu -m "$model" --clean '[[11,3,42,7,55,20,33,9,3]]' --corrupt '[[11,50,42,7,55,20,33,9,3]]' --layers :2 "$@"; }
mkdir "$SCRATCH/sweeps" && cd "$SCRATCH/sweeps" || exit 1
sweep --patch z --metric rank:42 -o ranks.csv > shown && cat ranks.csv
sweep --patch z --metric rank:42 -o ranks.csv || echo "refused: $?"
sweep --patch z --metric rank:42 -o ranks.csv --force > again && cmp shown again && echo replaced
sweep --patch block_every --metric rank:42 -o ranks.npy > shown && tail -c 216 ranks.npy | od -An -v -w36 -tf4
sweep --patch resid_pre --metric rank:42 --metric logit:5 -o ranks.safetensors --plot ranks.svg > shown
grep -ao '"resid_pre.rank:42[^"]*":{"dtype":"F32","shape":[^]]*]' ranks.safetensors
grep -c '<title>' ranks.svg; tail -n 1 ranks.svg
rm ranks.csv && touch ranks.csv.partial
sweep --patch z --metric rank:42 -o ranks.csv || echo "refused: $?"
sweep --patch z --metric rank:42 -o ranks.csv --resume || echo "refused: $?"
sweep --patch z --metric rank:42 -o ranks.csv --force > again && rm shown again && ls
