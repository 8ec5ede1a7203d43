inset run -m ../fixtures/notebook
