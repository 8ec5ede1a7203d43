for what in --edges '--patch resid_pre,z'; do
    inset attribute -d none -m ../fixtures/llama --clean '[[3,7,11,2],[3,7,11,9]]' --corrupt '[[3,7,20,2],[3,7,20,9]]' --metric logit_diff:3,7 --steps 3 --dry-run $what
done
