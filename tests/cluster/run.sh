#!/bin/bash
# What partitions leave behind on a real Slurm cluster of three nodes, which this starts on this machine and
# stops again: the tables of one process, byte for byte but for recorded times, also when a node loses its
# power in the middle, another is drained, jobs run into their time limit, and a plan is submitted twice at
# once. As root: `make test-cluster`. Takes some minutes.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
cgil=$(realpath "${CGIL:-$here/../../target/release/cgil}")
for program in slurmctld slurmd sbatch munged unshare python3; do
    command -v "$program" >/dev/null || { echo "needs $program: apt-get install slurmctld slurmd slurm-client munge"; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "needs to be root, who starts the nodes"; exit 2; }

work=$(mktemp -d /tmp/cgil-cluster-XXXXXX)
chmod 755 "$work"
. "$here/slurm.sh" "$work/cluster"
trap 'cluster_down; rm -rf "$work"' EXIT
cluster_up
cd "$work"
clip=$here/../../data/demo/clip

say() { echo "== $*  ($SECONDS s)"; }
fail() { echo "FAILED: $*"; "$cgil" status --run "${run:-whole}" || true; tail -n 3 "${run:-whole}"/jobs/logs/* || true; exit 1; } >&2

# Until no job waits or runs. Slurm lets a job that starts again wait for two minutes, so that the nodes have
# forgotten its last start, for which some seconds do. One that waits for what cannot come is gone.
settle() {
    local until=$((SECONDS + 600)) job start
    while [ -n "$(squeue --noheader)" ]; do
        [ $SECONDS -lt $until ] || { squeue; fail "jobs do not end"; }
        squeue --noheader --array --states=pending --format='%F_%K %S %r' | sed -n '/N\/A/d; s/ BeginTime$//p' | while read -r job start; do
            [ "$(date -d "$start" +%s)" -lt $(($(date +%s) + 30)) ] || scontrol update JobId="$job" StartTime=now+8 2>"$work/late" || true
        done
        sleep 0.5
    done
}

shards() { find "$1/sources/base/embeddings" -name 'part-*' 2>/dev/null | wc -l; }
classes() { find "$1/latents" -name 'class-*' 2>/dev/null | wc -l; }

# What a run has, but for what processes say of themselves, listings of tars, and the tables with a column of seconds.
files() {
    (cd "$1" && find . -type f -not -path './jobs/*' -not -path './listings/*' -not -name .commit -not -path './latents/*/index.parquet' | sort)
}

# Fails unless a run has the tables of another, but for recorded times.
same_tables() {
    local file
    diff <(files "$1") <(files "$2") || fail "$2 has other files than $1"
    files "$1" | while read -r file; do
        case $file in
        ./latents/*/manifest.json) diff <(sed '/"index.parquet"/,/}/d' "$1/$file") <(sed '/"index.parquet"/,/}/d' "$2/$file") ;;
        *) cmp "$1/$file" "$2/$file" ;;
        esac || fail "$file differs"
    done
    local sql='SELECT task, label, class_name, slot, rows, reconstruction, kl, bytes FROM latents'
    diff <("$cgil" query --run "$1" "$sql") <("$cgil" query --run "$2" "$sql") || fail "latents differ"
    local twice='SELECT COUNT(*) - COUNT(DISTINCT sample_id) AS twice FROM embeddings'
    [ "$("$cgil" query --run "$2" --format csv "$twice" | tail -n 1)" = 0 ] || fail "rows are there twice"
}

say "pictures: 8 tars of 120, one of which is broken"
python3 "$here/tars.py" tars
data=(--model "$clip" --data tars --holdout 0.2 --shard-rows 20)
fit=(--tasks 4 --epochs "${EPOCHS:-500}" --seed 7)
sweep=(--seeds 7,8 --method ncm --method lda --method cgil,generator=gaussian,epochs=2,samples=16)
say "one process"
"$cgil" extract --run whole "${data[@]}" --quiet
"$cgil" fit-vae --run whole "${fit[@]}" --quiet
"$cgil" sweep --run whole --tasks 4 "${sweep[@]}" --quiet
"$cgil" query --run whole "SELECT COUNT(*), MIN(error) FROM quarantine"
plan() { "$cgil" plan --run "$1" --partitions "$2" "${data[@]}" "${fit[@]}" "${sweep[@]}" --quiet; }

say "the three stages as arrays of up to 12 jobs"
run=arrays
plan $run 12 >$run.toml
"$cgil" submit slurm $run.toml --per-job 1
settle
same_tables whole $run
"$cgil" status --run $run
"$cgil" submit slurm $run.toml 2>&1 | grep -c ' 0 submitted' | grep -qx 3 || fail "something was submitted again"

say "a node loses its power, another is drained, jobs run into their time limit"
run=disturbed
plan $run 3 >$run.toml
"$cgil" submit slurm $run.toml --per-job 1 --sbatch-arg=--time=1 --sbatch-arg=--signal=B:USR1@45
wait_for 60 eval '[ "$(shards disturbed)" -gt 3 ]' || fail "no shard is made"
node_dies n1
scontrol update NodeName=n2 State=drain Reason=test
say "n1 is gone, n2 drains, $(shards $run) shards are there"
wait_for 60 eval 'sinfo --noheader --nodes=n1 --format=%T | grep -q down' || fail "nobody missed n1"
wait_for 300 eval '[ "$(classes disturbed)" -gt 1 ]' || { settle; }
"$cgil" status --run $run || true
node_up n1
scontrol update NodeName=n2 State=resume
settle
"$cgil" submit slurm $run.toml --per-job 1
settle
same_tables whole $run
ended=$(cat $run/jobs/logs/*.log | grep -c "stopping when what is in hand is done" || true)
[ "$ended" -gt 0 ] || fail "no job was told that its time is up"
say "jobs ended before their time limit: $ended"
say "a plan is submitted twice at once, and again by one who does not know"
run=twice
plan $run 6 >$run.toml
"$cgil" submit slurm $run.toml --per-job 1 & "$cgil" submit slurm $run.toml --per-job 1
wait $!
rm $run/jobs/slurm.json
"$cgil" submit slurm $run.toml --per-job 1
settle
"$cgil" submit slurm $run.toml --per-job 1
settle
same_tables whole $run

say "a file that cannot be read in places costs its shards alone"
run=bad
mkdir parquet
cp "$here"/../../data/demo/pictures/*.parquet parquet
cp parquet/train-00000-of-00001.parquet good
dd if=/dev/zero of=parquet/train-00000-of-00001.parquet bs=1 seek=1400000 count=2000 conv=notrunc status=none
data=(--model "$clip" --data parquet --shard-rows 50)
fit=(--tasks 2 --epochs 5 --seed 1)
sweep=(--seeds 1 --method lda)
plan $run 4 >$run.toml
"$cgil" submit slurm $run.toml --per-job 1
settle
"$cgil" status --run $run && fail "status says that nothing failed"
"$cgil" status --run $run --missing
[ ! -e $run/latents ] || fail "generators were fitted of a table that is not complete"
cp good parquet/train-00000-of-00001.parquet
"$cgil" submit slurm $run.toml --per-job 1
settle
"$cgil" extract --run whole-2 "${data[@]}" --quiet
"$cgil" fit-vae --run whole-2 "${fit[@]}" --quiet
"$cgil" sweep --run whole-2 --tasks 2 "${sweep[@]}" --quiet
same_tables whole-2 $run

say "an archive that is cut is refused, and with --skip-damaged taken up to there"
run=cut
cp -r tars cut-tars
truncate --size=-100000 cut-tars/003.tar
data=(--model "$clip" --data cut-tars --holdout 0.2 --shard-rows 20)
plan $run 4 >$run.toml && fail "a plan of an archive that is cut"
[ ! -e $run ] || fail "data that was refused began a run"
data+=(--skip-damaged)
plan $run 4 >$run.toml
"$cgil" submit slurm $run.toml --per-job 1
settle
"$cgil" extract --run whole-3 "${data[@]}" --quiet
"$cgil" fit-vae --run whole-3 "${fit[@]}" --quiet
"$cgil" sweep --run whole-3 --tasks 2 "${sweep[@]}" --quiet
same_tables whole-3 $run
say "all as it should be"
