# The lens of three blocks: two rows more at the norm and at the head, and nothing else
inset check -d cpu -m ../fixtures/gpt2 --explain -c 'with invoke([[3, 7, 11]]):
    a = lm_head(transformer.ln_f(transformer.h[0].output[:, -1])).save()
    b = lm_head(transformer.ln_f(transformer.h[1].output[:, -1])).save()
    c = lm_head(transformer.ln_f(transformer.h[2].output[:, -1])).save()
    logits = output.logits[:, -1].save()'
