inset run -d cpu -m ../fixtures/notebook -c 'x = zeros(400000, 2)
with invoke([[1, 2, 3, 4, 5]]):
    x[399998:, 1] = 5
    y = x[399997:].save()
    z = x[::9223372036854775807][:, ::9223372036854775807][:, ::9223372036854775807].save()
pass'
