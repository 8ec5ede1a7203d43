# A directory without a tokenizer: token ids work
inset tokens -m ../fixtures/gpt2 'When Mary'
