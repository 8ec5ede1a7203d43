model=$PWD/../fixtures/induction; mkdir "$SCRATCH/circuit" && cd "$SCRATCH/circuit" || exit 1
inset attribute -d cpu -m "$model" --clean '[[11,3,42,7,55,20,33,9,3]]' --corrupt '[[11,50,42,7,55,20,33,9,3]]' --metric logit_diff:42,55 --edges --steps 4 --direction noise -o e.safetensors --top 2 > /dev/null
inset circuit -d cpu -m "$model" --clean '[[11,3,42,7,55,20,33,9,3]]' --corrupt '[[11,50,42,7,55,20,33,9,3]]' --metric logit_diff:42,55 --direction noise --edges-from e.safetensors --sizes 0,8,50,100% -o c.csv --plot c.svg | sed "s/\(\.[0-9][0-9][0-9]\)[0-9]*/\1/g"
wc -l < c.csv; grep -c circle c.svg
