# output[0] of a block, indexed again
inset check -d none -m ../fixtures/gpt2 -c 'with invoke([[3, 7, 11]]):
    x = transformer.h[1].output[0]
    x[:, 1] = 0'
