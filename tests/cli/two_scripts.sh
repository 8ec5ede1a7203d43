inset run -m ../fixtures/notebook one.inset two.inset
