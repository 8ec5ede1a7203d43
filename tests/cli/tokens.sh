# A text's tokens, by a tokenizer beside the model
mkdir /tmp/inset-words && cp ../fixtures/gpt2/config.json ../fixtures/gpt2/model.safetensors /tmp/inset-words && cp ../fixtures/tokenizers/small.json /tmp/inset-words/tokenizer.json
inset tokens -m /tmp/inset-words 'When Mary and John'
inset tokens -m /tmp/inset-words --json ' Mary'
inset tokens -m /tmp/inset-words
status=$?
rm -r /tmp/inset-words
exit $status
