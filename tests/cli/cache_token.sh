inset cache -d cpu -m ../fixtures/induction --prompts '[[1],[2,64]]' --sites z -o "$SCRATCH/none"
