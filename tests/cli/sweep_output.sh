# Three kinds of files; what exists is not replaced unless that is asked for; a plot.
sweep() { inset sweep -d cpu -m ../fixtures/induction --clean '[[11,3,42,7,55,20,33,9,3]]' --corrupt '[[11,50,42,7,55,20,33,9,3]]' --layers :2 "$@"; }
cd "$SCRATCH" || exit 1
cp -r "$OLDPWD/../fixtures/induction" . && mkdir -p here && cd here || exit 1
sweep --patch z --metric rank:42 -o ranks.csv && cat ranks.csv
sweep --patch z --metric rank:42 -o ranks.csv || echo "refused: $?"
sweep --patch z --metric rank:42 -o ranks.csv --force > again && echo replaced
sweep --patch block_every --metric rank:42 -o ranks.npy > again && tail -c 216 ranks.npy | od -An -v -tf4
sweep --patch resid_pre --metric rank:42 --metric logit:5 -o ranks.safetensors --plot ranks.svg > again
grep -ao '"resid_pre.rank:42[^:]*":{"dtype":"F32","shape":[^]]*]' ranks.safetensors
grep -c '<rect' ranks.svg; tail -1 ranks.svg
touch ranks.csv.partial
sweep --patch z --metric rank:42 -o ranks.csv --plot ranks.svg || echo "refused: $?"
ls | grep -v again
