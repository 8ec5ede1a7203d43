inset attribute -d cpu -m ../fixtures/induction --clean '[[11,3,42,7,55,20,33,9,3]]' --corrupt '[[11,50,42,7,55,20,33,9,3]]' --metric logit_diff:42,55 --direction noise --edges -o $SCRATCH/e.safetensors >/dev/null
for what in zero 'mean:[[11,3,42,7,55,20,33,9,3],[1,2,3,4,5,6,7,8,9]]' nothing 'mean:[[1,2]]'; do
    inset circuit -d cpu -m ../fixtures/induction --clean '[[11,3,42,7,55,20,33,9,3]]' --metric logit_diff:42,55 --direction noise --edges-from $SCRATCH/e.safetensors --ablation "$what" --sizes 0,100,262 | tr -s ' ' | sed 's/-*[0-9.]*%$/%/; s/\(\.[0-9][0-9]\)[0-9]*/\1/g; s/ $//'; echo $?
done
