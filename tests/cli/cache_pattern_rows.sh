inset cache -d cpu -m ../fixtures/induction --prompts '[[1]]' --sites pattern -o "$SCRATCH/none"
