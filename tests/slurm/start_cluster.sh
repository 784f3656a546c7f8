#!/usr/bin/env bash
# Start a one-node Slurm with two pretended GPUs on loopback; needs root, slurm-wlm and munge. stop_cluster.sh ends it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
state=${MLIP_STUDIES_SLURM_STATE:-/var/tmp/mlip-studies-slurm}
mark="tests/slurm/start_cluster.sh of mlip-studies"
host=$(hostname -s 2>/dev/null || hostname)
cpus=$(($(nproc) > 8 ? $(nproc) : 8))
memory=$(($(awk '/^MemTotal/ { print $2 }' /proc/meminfo) / 1024 - 512))

die() {
  echo "start_cluster: $*" >&2
  exit 1
}
alive() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }

[ "$(id -u)" = 0 ] || die "needs root"
for tool in slurmctld slurmd munged sinfo; do
  command -v "$tool" >/dev/null || die "$tool is missing: apt-get install slurm-wlm munge"
done
# Jobs lose SLURM_CONF on their way to srun, so the configuration must be the system's own; never touch a real one.
for file in /etc/slurm/slurm.conf /etc/slurm/gres.conf; do
  if [ -e "$file" ] && ! grep -qF "$mark" "$file"; then
    die "$file exists and was not written by these tests: this machine has a Slurm of its own, which stays untouched"
  fi
done
if alive "$state/slurmctld.pid" || alive "$state/slurmd.pid"; then
  die "the test cluster is already running (state in $state): stop it with tests/slurm/stop_cluster.sh"
fi

rm -rf "$state"
mkdir -p "$state/controller" "$state/node" /etc/slurm

# ---- munge authenticates the daemons and commands to each other ------------------------------------------------------
if ! munge -n 2>/dev/null | unmunge >/dev/null 2>&1; then
  [ -s /etc/munge/munge.key ] || die "/etc/munge/munge.key is missing: reinstall the package munge"
  install -d -o munge -g munge -m 0755 /run/munge
  install -d -o munge -g munge -m 0700 /var/log/munge /var/lib/munge
  runuser -u munge -- munged
  echo started >"$state/munge"
  for _ in $(seq 40); do
    munge -n 2>/dev/null | unmunge >/dev/null 2>&1 && break
    sleep 0.25
  done
  munge -n | unmunge >/dev/null || die "munged does not answer: see /var/log/munge/munged.log"
fi

# ---- configuration, devices, daemons -----------------------------------------------------------------------------------
render() {
  sed -e "s|%HOST%|$host|g" -e "s|%STATE%|$state|g" -e "s|%CPUS%|$cpus|g" -e "s|%MEMORY%|$memory|g" "$1"
}
render "$here/slurm.conf.in" >/etc/slurm/slurm.conf
render "$here/gres.conf.in" >/etc/slurm/gres.conf
for index in 0 1; do
  # The same device as /dev/null: a job may open it and nothing happens.
  [ -e "/dev/mlipgpu$index" ] || mknod -m 666 "/dev/mlipgpu$index" c 1 3
done
slurmctld
slurmd

for _ in $(seq 60); do
  if sinfo --noheader --format=%T 2>/dev/null | grep -qx idle; then
    sinfo --noheader --Node --format='node %N %T cpus=%c memory=%mMB gres=%G'
    exit 0
  fi
  sleep 0.5
done
sinfo --Node --long >&2 || true
tail -n 5 "$state/slurmctld.log" "$state/slurmd.log" >&2 || true
die "the node did not become idle within 30 s"
