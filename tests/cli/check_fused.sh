# Records inside steps (the set of z, the save of the addition's rows) and apart (of what a product makes).
inset check -d cpu -m ../fixtures/gpt2 -c 'with invoke([[1, 2, 3]]):
    transformer.h[0].attn.z[:, 1, 2] = 0
    transformer.h[0].mlp.output[:, 1, 2:4] = 0
    x = transformer.h[0].output.save()' | sed 's/ on cpu.*/ on cpu/'
