# Prompts whose tokens do not pair up, and an answer that is not one token, are shown in pieces
mkdir /tmp/inset-words && cp ../fixtures/gpt2/config.json ../fixtures/gpt2/model.safetensors /tmp/inset-words && cp ../fixtures/tokenizers/small.json /tmp/inset-words/tokenizer.json
inset sweep -d cpu -m /tmp/inset-words --clean 'When Mary gave' --corrupt 'When John and Mary gave' --metric 'logit:" Mary"' --patch resid_pre
inset sweep -d cpu -m /tmp/inset-words --clean 'When Mary gave' --corrupt 'When John gave' --metric 'logit:"stare"' --patch resid_pre
inset run -d cpu -m /tmp/inset-words -c 'with invoke("When Mary gave"):
    m = output.logits[:, -1].logit("stare").save()'
status=$?
rm -r /tmp/inset-words
exit $status
