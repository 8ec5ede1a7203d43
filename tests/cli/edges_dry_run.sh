given="-m ../fixtures/induction --clean [[11,3,42,7,55,20,33,9,3]] --corrupt [[11,50,42,7,55,20,33,9,3]] --metric logit_diff:42,55 --direction noise"
inset attribute -d cpu $given --edges -o $SCRATCH/dry.safetensors >/dev/null
inset sweep -d none $given --patch edges --edges '*->a2.h1<q>' --freeze --dry-run --json
inset sweep -d none $given --patch edges --dry-run
inset circuit -d none $given --edges-from $SCRATCH/dry.safetensors --sizes 0,262 --dry-run
inset sweep -d none $given --patch z --dry-run; echo $?
inset circuit -d none $given --edges-from $SCRATCH/dry.safetensors --ablation 'mean:[[11,3,42,7,55,20,33,9,3],[1,2,3,4]]' --sizes 0,262 --dry-run
