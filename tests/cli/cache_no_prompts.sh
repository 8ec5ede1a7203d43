inset cache -d cpu -m ../fixtures/induction --sites z -o "$SCRATCH/none"
