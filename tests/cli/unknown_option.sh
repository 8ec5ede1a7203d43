inset run -m ../fixtures/notebook --fast x.inset
