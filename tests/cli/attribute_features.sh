# What patches of features would do, and what the first of them do
inset attribute -d cpu -m ../fixtures/gpt2 --clean '[[5, 17, 42, 8, 33, 21]]' --corrupt '[[5, 18, 42, 8, 33, 20]]' --metric logit_diff:11,12 \
    --patch features:../fixtures/features/topk/sae.safetensors@resid_post.1 --by feature --verify 3 | sed 's/\(\.[0-9][0-9]\)[0-9]*/\1/g'
