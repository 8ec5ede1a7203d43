inset run -m ../fixtures/notebook -d cpu -o . -c 'x = zeros(2)
x.save()'
