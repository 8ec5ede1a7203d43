# An embedding takes token ids: it cannot be applied to a value
inset check -d none -m ../fixtures/gpt2 -c 'with invoke([[3, 7, 11]]):
    x = transformer.h[0].output
    y = transformer.wte(x).save()'
