# Prompts and answers as texts: words on the map, in the file, in a script
mkdir /tmp/inset-words && cp ../fixtures/gpt2/config.json ../fixtures/gpt2/model.safetensors /tmp/inset-words && cp ../fixtures/tokenizers/small.json /tmp/inset-words/tokenizer.json
inset sweep -d cpu -m /tmp/inset-words --clean 'When Mary gave' --corrupt 'When John gave' --metric 'logit_diff:" Mary"," John"' --patch resid_pre --layers 1: \
    -o /tmp/inset-words/out.csv --plot /tmp/inset-words/out.svg
head -n 3 /tmp/inset-words/out.csv | sed 's/\(\.[0-9][0-9][0-9]\)[0-9]*/\1/g'
grep -c "' Mary'" /tmp/inset-words/out.svg
inset sweep -d cpu -m /tmp/inset-words --clean 'When Mary gave' --corrupt 'When John gave' --metric 'logit_diff:" Mary"," John"' --patch resid_pre --layers 2 --json | sed -n '/tokens/p'
printf 'When Mary gave\nMary gave it to John\n' > /tmp/inset-words/clean.txt
printf '["When John gave", "John gave it to Mary"]' > /tmp/inset-words/corrupt.json
inset sweep -d cpu -m /tmp/inset-words --clean /tmp/inset-words/clean.txt --corrupt /tmp/inset-words/corrupt.json --metric 'probability:" Mary"+" John"' --patch z --by layer
inset run -d cpu -m /tmp/inset-words -c 'answers = [" John", 3]
with invoke(["When Mary gave", "When\nJohn"]):
    m = output.logits[:, -1].logit_diff(" Mary", " John").save()
with invoke("When Mary"):
    n = output.logits[:, -1].logit([" Mary", 31]).save()' 2> /tmp/inset-words/message
tail -n 1 /tmp/inset-words/message
rm -r /tmp/inset-words
