# Gradients go through a block that is applied to a value: by the chain rule twice those of the value itself
inset run -d cpu -m ../fixtures/gpt2 -c 'with invoke([[3, 7, 11]]):
    x = transformer.h[0].output
    y = transformer.h[2](x * 2)
    m = y[0, -1, 3]
    with m.backward():
        a = x.grad[0, :, 0].save()
with invoke([[3, 7, 11]]):
    x = transformer.h[0].output
    u = x * 2
    y = transformer.h[2](u)
    m = y[0, -1, 3]
    with m.backward():
        b = (u.grad[0, :, 0] * 2).save()'
