inset check -d cpu -m ../fixtures/notebook --fast -c 'with invoke([[1, 2, 3, 4, 5]]):
    x = layer2.output.save()' | sed 's/ on cpu: .*/ on cpu/'
