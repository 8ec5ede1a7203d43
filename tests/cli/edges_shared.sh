# Edges, circuits and paths by two devices; shards of edges put together; what cannot be
fixtures=$PWD/../fixtures
mkdir "$SCRATCH/edges_shared" && cd "$SCRATCH/edges_shared" || exit 1
export OMP_NUM_THREADS=1
clean='[[11,3,42,7,55,20,33,9,3],[5,6,7,8],[1,2,3],[9,9,4,1],[3,4,5,6,7,8]]' corrupt='[[11,50,42,7,55,20,33,9,3],[5,16,7,8],[1,8,3],[9,5,4,1],[3,4,9,6,7,8]]'
these="-m $fixtures/induction --clean $clean --corrupt $corrupt --metric logit_diff:42,55 --direction noise"
for method in '' '--steps 3 --per-pair' '--by position'; do
    for shard in 2 1 3; do inset attribute $these --edges $method -d cpu --shard $shard/3 -o shards.safetensors > out; done
    tail -n 1 out
    inset merge shards.safetensors shards.safetensors.*-of-3 | head -n 5 | sed 's/\(\.[0-9][0-9]\)[0-9]*/\1/g'
    inset attribute $these --edges $method -d cpu,cpu,cpu -o devices.safetensors > out
    cmp shards.safetensors devices.safetensors
    [ "$method" ] || cp devices.safetensors edges.safetensors
    rm shards.safetensors* devices.safetensors
done
for d in cpu cpu,cpu; do inset circuit $these --edges-from edges.safetensors --sizes 5,20,100 -d $d -o circuit.$d.csv > out; done
cmp circuit.cpu.csv circuit.cpu,cpu.csv && sed 's/\(\.[0-9][0-9]\)[0-9]*/\1/g' circuit.cpu.csv
for d in cpu cpu,cpu; do inset sweep $these --patch edges -d $d -o paths.$d.csv | head -n 1 | sed 's/\(\.[0-9][0-9]\)[0-9]*/\1/g'; done
cmp paths.cpu.csv paths.cpu,cpu.csv; wc -l < paths.cpu.csv
# refused
for shard in 1 2; do inset attribute $these --edges -d cpu --shard $shard/2 -o e.csv > out; done
inset attribute $these --patch z -d cpu --shard 2/2 -o z.csv > out
inset merge e.csv e.csv.1-of-2 z.csv.2-of-2; echo "exit $?" >&2
inset merge e.csv z.csv.2-of-2 e.csv.1-of-2; echo "exit $?" >&2
inset merge e.csv e.csv.1-of-2; echo "exit $?" >&2
inset merge e.csv e.csv.1-of-2 e.csv.1-of-2; echo "exit $?" >&2
inset merge e.npy e.csv.1-of-2 e.csv.2-of-2; echo "exit $?" >&2
inset merge e.csv e.csv.1-of-2 e.csv.2-of-2 --plot e.png; echo "exit $?" >&2
head -c 3000 e.csv.1-of-2 > cut; inset merge e.csv cut e.csv.2-of-2; echo "exit $?" >&2
inset attribute $these --edges -d cpu --shard 1/2 -o e.csv > out; echo "exit $?" >&2
inset attribute $these --edges -d cpu --shard 1/2 -o f.csv --plot f.svg; echo "exit $?" >&2
inset merge e.csv e.csv.1-of-2 e.csv.2-of-2 --plot e.svg > out; echo "exit $?" >&2
ls
