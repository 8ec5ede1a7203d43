# lists of devices that are none
fixtures=$PWD/../fixtures
sweep="inset sweep -m $fixtures/induction --clean [[11,3,42,7]] --corrupt [[11,50,42,7]] --metric logit_diff:42,7 --patch z"
for d in cpu, ,cpu cpu,tpu cuda:0,cuda:0 tpu; do $sweep -d $d; echo "exit $?" >&2; done
$sweep --patch edges --shard 1/2 -o e.csv; echo "exit $?" >&2
inset attribute ${sweep#inset sweep} --edges --shard 1/2; echo "exit $?" >&2
inset run -d cpu,cpu -m $fixtures/induction -c 'with model.trace([[1]]):'; echo "exit $?" >&2
