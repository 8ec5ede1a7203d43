inset sites ../fixtures/nowhere
