# Gradients do not go through a block that is applied to a value
inset check -d none -m ../fixtures/gpt2 -c 'with invoke([[3, 7, 11]]):
    x = transformer.h[0].output
    y = transformer.h[2](transformer.ln_f(x))[0, -1].logit(3)
    with y.backward():
        g = x.grad.save()'
