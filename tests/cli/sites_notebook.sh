inset sites ../fixtures/notebook
