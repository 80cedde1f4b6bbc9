#!/usr/bin/env bash
# A real SLURM on one machine, for development and tests: virtual nodes, no systemd, no cgroups.
#
#   cluster.sh start | stop | status | env | install | missing | packages | node-down NODE | node-up NODE | forget
#
# start      munged, slurmctld and the nodes, in about a second; installs nothing
# install    the Debian packages that are missing (../system_packages.sh)
# packages   prints those packages, one a line
# env        prints the line a shell needs to talk to it: eval "$(cluster.sh env)"
# missing    prints the programs that are missing, one a line, and installs nothing
# node-down  kills the node's daemon and leaves its job steps running, as a lost network does
# forget     restarts the controller without its state: no job is known any more
#
# Settings, by environment (the defaults of `make cluster-up`):
#   AFD_SLURM_ROOT        where everything lives           ${TMPDIR:-/tmp}/afd-slurm
#   AFD_SLURM_PORT        first of the ports               16817
#   AFD_SLURM_NODES       virtual nodes n1, n2, ...        4
#   AFD_SLURM_CPUS        claimed by each                  4
#   AFD_SLURM_MEM_MB      claimed by each                  8000
#   AFD_SLURM_MAX_ARRAY   MaxArraySize                     1001
#   AFD_SLURM_GPUS        stand-in GPUs of each node       0
#   AFD_SLURM_ACCOUNTING  1: with slurmdbd and MariaDB     0
set -euo pipefail

ROOT=${AFD_SLURM_ROOT:-${TMPDIR:-/tmp}/afd-slurm}
PORT=${AFD_SLURM_PORT:-16817}
NODES=${AFD_SLURM_NODES:-4}
CPUS=${AFD_SLURM_CPUS:-4}
MEM_MB=${AFD_SLURM_MEM_MB:-8000}
MAX_ARRAY=${AFD_SLURM_MAX_ARRAY:-1001}
GPUS=${AFD_SLURM_GPUS:-0}
ACCOUNTING=${AFD_SLURM_ACCOUNTING:-0}
HOST=$(hostname -s)
ME=$(id -un)
export SLURM_CONF=$ROOT/slurm.conf
PATH=$PATH:/usr/sbin:/sbin

say() { printf 'cluster: %s\n' "$*" >&2; }

# ------------------------------------------------------------------ programs

declare -A PACKAGE=([munged]=munge [slurmctld]=slurmctld [slurmd]=slurmd [sbatch]=slurm-client)
if ((ACCOUNTING)); then
  PACKAGE+=([slurmdbd]=slurmdbd [mariadbd]=mariadb-server)
fi

missing() {
  local program
  for program in "${!PACKAGE[@]}"; do
    command -v "$program" >/dev/null || echo "$program"
  done
  if ((ACCOUNTING)) && ! compgen -G "/usr/lib/*/slurm*/accounting_storage_mysql.so" >/dev/null; then
    echo slurm-wlm-mysql-plugin
  fi
}

packages() { # of Debian, for the missing programs
  local program
  for program in $(missing); do echo "${PACKAGE[$program]:-$program}"; done
}

install() { AFD_SYSTEM_PACKAGES=${AFD_SYSTEM_PACKAGES:-yes} "$(dirname "$0")/../system_packages.sh" slurm; }

complete() {
  [[ -z $(missing) ]] && return
  say "missing: $(missing | xargs): $0 install, or apt-get install --no-install-recommends $(packages | xargs)"
  return 3
}

# ------------------------------------------------------------------ processes

lives() { # a zombie whose parent reaps late counts as gone
  local state
  state=$(sed -E 's/^.*\) ([A-Z]).*/\1/' "/proc/$1/stat" 2>/dev/null) || return 1
  [[ -n $state && $state != Z ]]
}
runs() { [[ -s $ROOT/run/$1.pid ]] && lives "$(cat "$ROOT/run/$1.pid")"; }
until_true() { # seconds, command...
  local left=$(($1 * 20))
  shift
  while ! "$@" >/dev/null 2>&1 </dev/null; do
    ((left-- > 0)) || return 1
    sleep 0.05
  done
}
end() { # name [seconds before SIGKILL]
  local file=$ROOT/run/$1.pid pid
  if runs "$1"; then
    pid=$(cat "$file")
    kill -TERM "$pid" 2>/dev/null || true
    until_true "${2:-10}" eval "! lives $pid" || kill -KILL "$pid" 2>/dev/null || true
  fi
  rm -f "$file"
}
nodes() { seq -f 'n%g' 1 "$NODES"; }

# ------------------------------------------------------------------ configuration

configure() {
  [[ -s $ROOT/munge/key ]] || (umask 077 && head -c 128 /dev/urandom >"$ROOT/munge/key")
  chmod 400 "$ROOT/munge/key"
  local storage="AccountingStorageType=accounting_storage/none"
  if ((ACCOUNTING)); then
    storage="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((PORT + 2))
AccountingStoragePass=$ROOT/run/munge.sock"
  fi
  local gres="" gres_types=""
  if ((GPUS)); then # slurmd drops a GPU without a file, so stand-ins are named
    gres=" Gres=gpu:$GPUS" gres_types="GresTypes=gpu"
    local index files=()
    for ((index = 0; index < GPUS; index++)); do
      : >"$ROOT/gpu$index"
      files+=("NodeName=n[1-$NODES] Name=gpu Count=1 File=$ROOT/gpu$index")
    done
    printf '%s\n' "${files[@]}" >"$ROOT/gres.conf"
  fi
  echo "CgroupAutomount=no" >"$ROOT/cgroup.conf"
  # cred_expire: a requeued job waits that long for its old credential, 2 minutes by default.
  # preempt_send_user_signal: preemption sends the signal that --signal named, before SIGTERM.
  cat >"$ROOT/slurm.conf" <<CONF
ClusterName=afd
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=$PORT
SlurmUser=$ME
SlurmdUser=$ME
AuthType=auth/munge
AuthInfo=socket=$ROOT/run/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation=$ROOT/state
SlurmdSpoolDir=$ROOT/spool/%n
SlurmctldPidFile=$ROOT/run/slurmctld.pid
SlurmdPidFile=$ROOT/run/%n.pid
SlurmctldLogFile=$ROOT/log/slurmctld.log
SlurmdLogFile=$ROOT/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=500
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
SlurmdTimeout=20
SlurmctldTimeout=20
InactiveLimit=0
KillWait=3
MinJobAge=300
MaxJobCount=20000
MaxArraySize=$MAX_ARRAY
CompleteWait=0
SlurmdParameters=config_overrides
$storage
$gres_types
NodeName=n[1-$NODES] NodeHostname=$HOST NodeAddr=127.0.0.1 Port=[$((PORT + 11))-$((PORT + 10 + NODES))] CPUs=$CPUS RealMemory=$MEM_MB$gres State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=10 PreemptMode=REQUEUE GraceTime=5 State=UP
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=100 PreemptMode=OFF State=UP
CONF
  if ((ACCOUNTING)); then
    (umask 077 && cat >"$ROOT/slurmdbd.conf") <<CONF
AuthType=auth/munge
AuthInfo=socket=$ROOT/run/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((PORT + 2))
SlurmUser=$ME
LogFile=$ROOT/log/slurmdbd.log
PidFile=$ROOT/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((PORT + 3))
StorageUser=slurm
StoragePass=slurm
StorageLoc=afd
CONF
  fi
}

# ------------------------------------------------------------------ daemons

start_munge() {
  runs munged && return 0
  rm -f "$ROOT"/run/munge.sock*
  munged --force --socket="$ROOT/run/munge.sock" --key-file="$ROOT/munge/key" --num-threads=2 \
    --pid-file="$ROOT/run/munged.pid" --log-file="$ROOT/log/munged.log" \
    --seed-file="$ROOT/munge/seed" 2>>"$ROOT/log/munged.err"
  until_true 10 munge -S "$ROOT/run/munge.sock" -n
}

start_accounting() {
  local data=$ROOT/mysql socket=$ROOT/run/mysqld.sock as=$ME
  [[ $ME == root ]] && as=mysql
  local client=(mariadb --no-defaults --socket="$socket")
  if ! runs mariadbd; then
    mkdir -p "$data"
    touch "$ROOT/log/mariadbd.log"
    chmod 777 "$ROOT/run"
    [[ $ME == root ]] && chown mysql "$data" "$ROOT/log/mariadbd.log"
    [[ -d $data/mysql ]] || mariadb-install-db --no-defaults --user="$as" --datadir="$data" \
      --skip-test-db --auth-root-authentication-method=socket >"$ROOT/log/mariadb-install.log" 2>&1
    setsid nohup mariadbd --no-defaults --user="$as" --datadir="$data" --socket="$socket" \
      --pid-file="$ROOT/run/mariadbd.pid" --bind-address=127.0.0.1 --port=$((PORT + 3)) \
      --innodb-buffer-pool-size=64M --innodb-log-file-size=16M --innodb-lock-wait-timeout=900 \
      --performance-schema=OFF >>"$ROOT/log/mariadbd.log" 2>&1 </dev/null &
    until_true 30 "${client[@]}" -e 'select 1'
    "${client[@]}" -e "create database if not exists afd;
      create user if not exists slurm@'127.0.0.1' identified by 'slurm';
      create user if not exists slurm@localhost identified by 'slurm';
      grant all on afd.* to slurm@'127.0.0.1'; grant all on afd.* to slurm@localhost;"
  fi
  runs slurmdbd && return 0
  slurmdbd
  until_true 15 timeout 3 sacctmgr -n show cluster
  timeout 10 sacctmgr -i add cluster afd >/dev/null 2>&1 || true
}

start_node() {
  runs "$1" && return 0
  rm -f "$ROOT/run/$1.pid"
  mkdir -p "$ROOT/spool/$1"
  slurmd -N "$1" -f "$SLURM_CONF"
}

all_usable() { # and what an earlier run left drained or down is resumed
  local node state usable=0
  while read -r node state; do
    case $state in
      idle | mix | alloc) usable=$((usable + 1)) ;;
      drain* | drng* | down* | inval* | fail*) scontrol update nodename="$node" state=resume || true ;;
    esac
  done < <(timeout 3 sinfo -h -N -p main -o '%N %t')
  ((usable >= NODES))
}

line_of_env() { printf 'export SLURM_CONF=%q\n' "$(realpath -m "$SLURM_CONF")"; }

start() {
  complete
  mkdir -p "$ROOT"/{log,run,state,spool,munge}
  chmod 755 "$ROOT" "$ROOT"/{log,run,state,spool}
  chmod 700 "$ROOT/munge" # munged refuses a folder that others may look into
  configure
  start_munge || { tail -5 "$ROOT/log/munged.err" >&2; say "munged did not start"; return 1; }
  ((ACCOUNTING)) && start_accounting
  runs slurmctld || { rm -f "$ROOT/run/slurmctld.pid"; slurmctld -f "$SLURM_CONF"; }
  until_true 15 timeout 3 scontrol ping || { tail -5 "$ROOT/log/slurmctld.log" >&2; return 1; }
  local node
  for node in $(nodes); do start_node "$node"; done
  until_true 30 all_usable || { sinfo -N -l >&2; return 1; }
  say "up: $NODES nodes. In your shell: $(line_of_env)"
}

end_steps() { # of nodes that were made to lose their daemon: nobody else would end them
  local folder
  for folder in /proc/[0-9]*; do
    [[ $(cat "$folder/comm" 2>/dev/null) == slurmstepd ]] || continue
    [[ $(readlink "$folder/cwd" 2>/dev/null) == "$ROOT/log" ]] || continue
    kill -KILL "${folder#/proc/}" 2>/dev/null || true
  done
}
no_jobs() { [[ -z $(timeout 3 squeue -h -t R,CG,S -o %i) ]]; }
stop() {
  if runs slurmctld; then
    scancel --state=PENDING --user="$ME" >/dev/null 2>&1 || true
    scancel --state=RUNNING --user="$ME" >/dev/null 2>&1 || true
    until_true 8 no_jobs || true
  fi
  local node
  for node in $(nodes); do end "$node"; done
  end_steps
  end slurmctld 20
  end slurmdbd 20
  end mariadbd 30
  end munged
  say "stopped; its folder is $ROOT"
}

status() {
  local file
  for file in "$ROOT"/run/*.pid; do
    [[ -e $file ]] || continue
    runs "$(basename "$file" .pid)" && echo "$(basename "$file" .pid) runs" || echo "$(basename "$file" .pid) is gone"
  done
  timeout 5 sinfo 2>/dev/null || echo "no cluster runs in $ROOT: $0 start"
}

case ${1:-} in
  start) start ;;
  stop) stop ;;
  status) status ;;
  env) line_of_env ;;
  install) install ;;
  missing) missing ;;
  packages) packages ;;
  node-down)
    kill -KILL "$(cat "$ROOT/run/$2.pid")"
    rm -f "$ROOT/run/$2.pid"
    scontrol update nodename="$2" state=down reason=node-down
    ;;
  node-up)
    start_node "$2"
    scontrol update nodename="$2" state=resume 2>/dev/null || true
    ;;
  forget)
    end slurmctld 20
    slurmctld -c -f "$SLURM_CONF"
    until_true 15 timeout 3 scontrol ping
    ;;
  *)
    sed -n '2,/^set -/p' "$0" | sed '$d; s/^# \{0,1\}//' >&2
    exit 2
    ;;
esac
