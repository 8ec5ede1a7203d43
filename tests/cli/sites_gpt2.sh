inset sites ../fixtures/gpt2
