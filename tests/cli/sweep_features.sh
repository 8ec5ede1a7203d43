# Features of an autoencoder: the strongest of 22, and the effects of some in a file
inset sweep -d cpu -m ../fixtures/gpt2 --clean '[[5, 17, 42, 8, 33, 21]]' --corrupt '[[5, 18, 42, 8, 33, 20]]' --metric logit_diff:11,12 \
    --patch features:../fixtures/features/relu/sae.safetensors@resid_pre.1
inset sweep -d cpu -m ../fixtures/gpt2 --clean '[[5, 17, 42, 8, 33, 21]]' --corrupt '[[5, 18, 42, 8, 33, 20]]' --metric logit_diff:11,12 \
    --patch features:../fixtures/features/plain/sae.safetensors@post.1 --features 12:16 --positions -1 -o /tmp/inset-features.csv > /dev/null
sed 's/\(\.[0-9][0-9][0-9]\)[0-9]*/\1/g' /tmp/inset-features.csv
rm /tmp/inset-features.csv
