inset run -m ../fixtures/nowhere -d cpu -c pass
