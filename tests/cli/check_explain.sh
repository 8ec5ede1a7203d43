# The trace of host/plan/README.md
inset check -d cpu -m ../fixtures/gpt2 --explain -c 'with invoke([[3, 7, 11]]):
    x = transformer.h[0].output
with invoke([[3, 7, 9]]):
    transformer.h[0].output[:, 1] = x[:, 1] * 2
    y = output.logits[0, -1].save()'
