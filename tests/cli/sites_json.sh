inset sites ../fixtures/notebook --json
