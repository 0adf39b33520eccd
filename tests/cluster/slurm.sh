# A Slurm cluster of three nodes on this machine, on loopback alone, for tests: `. slurm.sh DIR`, as root.
#
# Each node is a slurmd in a process namespace of its own, so that killing the first process there is a
# power cut: daemon, job steps and jobs are gone at once, and nobody says goodbye. There are no cgroups,
# no accounting and no systemd. Needs Debian's slurmctld, slurmd, slurm-client and munge.

cluster=$(realpath -m "$1")
nodes="n1 n2 n3"
port=${CGIL_SLURM_PORT:-18000}
export SLURM_CONF=$cluster/slurm.conf

# Writes the configuration, starts everything, and waits until all nodes are idle.
cluster_up() {
    local node number=0 host
    host=$(hostname -s)
    mkdir -p "$cluster"/{state,log,pids,munge,spool}
    chmod 755 "$cluster"
    dd if=/dev/urandom of="$cluster/munge/key" bs=128 count=1 status=none
    chmod 400 "$cluster/munge/key"
    chown -R munge: "$cluster/munge"
    runuser -u munge -- munged --key-file="$cluster/munge/key" --socket="$cluster/munge/socket" \
        --pid-file="$cluster/munge/pid" --log-file="$cluster/munge/log" --seed-file="$cluster/munge/seed"
    {
        cat <<EOF
ClusterName=small
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmctldPidFile=$cluster/pids/slurmctld
SlurmctldLogFile=$cluster/log/slurmctld
SlurmdPidFile=$cluster/spool/%n/pid
SlurmdLogFile=$cluster/log/%n
SlurmdSpoolDir=$cluster/spool/%n
StateSaveLocation=$cluster/state
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$cluster/munge/socket
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
MaxArraySize=${CGIL_MAX_ARRAY:-1001}
JobRequeue=1
ReturnToService=2
SlurmdTimeout=5
MessageTimeout=5
InactiveLimit=0
KillWait=2
MinJobAge=3600
EOF
        for node in $nodes; do
            number=$((number + 1))
            echo "NodeName=$node NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + number)) CPUs=2 RealMemory=2000"
        done
        echo "PartitionName=all Nodes=$(echo "$nodes" | tr ' ' ',') Default=YES MaxTime=INFINITE OverSubscribe=NO"
    } >"$SLURM_CONF"
    slurmctld -f "$SLURM_CONF"
    for node in $nodes; do node_up "$node"; done
    wait_for 30 all_idle || { sinfo -N -l; tail -n 5 "$cluster"/log/*; return 1; }
}

all_idle() { [ "$(sinfo --noheader --states=idle --format=%D)" = 3 ]; }

node_up() {
    mkdir -p "$cluster/spool/$1"
    setsid unshare --pid --fork --kill-child --mount-proc slurmd -D -f "$SLURM_CONF" -N "$1" \
        </dev/null >>"$cluster/log/$1.out" 2>&1 &
    echo $! >"$cluster/pids/$1"
    disown # its end is not worth a word
}

# Cuts a node's power.
node_dies() { kill -KILL "$(cat "$cluster/pids/$1")"; }

cluster_down() {
    local pid
    for pid in "$cluster"/pids/* "$cluster/munge/pid"; do
        [ ! -s "$pid" ] || kill -KILL "$(cat "$pid")" 2>/dev/null || true
    done
}

# Waits up to so many seconds until a command succeeds.
wait_for() {
    local until=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $until ] || return 1
        sleep 0.2
    done
}
