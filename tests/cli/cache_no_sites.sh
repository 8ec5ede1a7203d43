inset cache -d cpu -m ../fixtures/induction --prompts '[[1]]' -o "$SCRATCH/none"
