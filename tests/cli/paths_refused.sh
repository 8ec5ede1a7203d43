for edges in 'a0.h9->logits' 'a1.h0->a0.h1<q>' 'a0.h0->logits->m1' 'a0.h0->m0->logits' 'a0.h0->' '->m1' 'm0 m1' 'a0.h0<q>->m1' 'a0.h0+m0->m1' /no/such/file; do
    inset sweep -d cpu -m ../fixtures/induction --clean '[[11,3,42,7,55,20,33,9,3]]' --corrupt '[[11,50,42,7,55,20,33,9,3]]' --metric logit_diff:42,55 --patch edges --edges "$edges"; echo $?
done
inset sweep -d cpu -m ../fixtures/induction --clean '[[11,3,42,7,55,20,33,9,3]]' --corrupt '[[11,50,42,7,55,20,33,9,3]]' --metric logit_diff:42,55 --patch edges --by layer; echo $?
inset sweep -d cpu -m ../fixtures/induction --clean '[[11,3,42,7,55,20,33,9,3]]' --corrupt '[[11,50,42,7,55,20,33,9,3]]' --metric logit_diff:42,55 --patch edges -o x.npy; echo $?
inset sweep -d cpu -m ../fixtures/induction --clean '[[11,3,42,7,55,20,33,9,3]]' --corrupt '[[11,50,42,7,55,20,33,9,3]]' --metric logit_diff:42,55 --metric logit:3 --patch edges; echo $?
