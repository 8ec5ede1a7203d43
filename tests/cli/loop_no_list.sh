# What is no list of modules
inset check -d none -m ../fixtures/gpt2 -c 'with invoke([[3, 7, 11]]):
    for block in transformer.h[1:]:
        for part in transformer.ln_f:
            x = part.output'
