inset run -m ../fixtures/notebook one.inset -c pass
