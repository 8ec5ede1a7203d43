# What cfg.json says is not passed over
mkdir /tmp/inset-transcoder
cp ../fixtures/features/relu/sae.safetensors /tmp/inset-transcoder
echo '{"architecture": "transcoder"}' > /tmp/inset-transcoder/cfg.json
inset sweep -d cpu -m ../fixtures/gpt2 --clean '[[5, 17]]' --corrupt '[[5, 18]]' --metric logit_diff:11,12 --patch features:/tmp/inset-transcoder/sae.safetensors@resid_pre.1
status=$?
rm -r /tmp/inset-transcoder
exit $status
