#!/usr/bin/env bash
# End what start_cluster.sh started, and only that; give its files back.
set -uo pipefail

state=${MLIP_STUDIES_SLURM_STATE:-/var/tmp/mlip-studies-slurm}
mark="tests/slurm/start_cluster.sh of mlip-studies"

end_daemon() {
  local file=$1 pid
  [ -s "$file" ] || return 0
  pid=$(cat "$file")
  kill "$pid" 2>/dev/null || return 0
  for _ in $(seq 40); do
    kill -0 "$pid" 2>/dev/null || return 0
    sleep 0.25
  done
  kill -KILL "$pid" 2>/dev/null
}

if [ -d "$state" ] && [ -e /etc/slurm/slurm.conf ] && grep -qF "$mark" /etc/slurm/slurm.conf; then
  # Jobs first: slurmd leaves the processes of running jobs alone when it ends.
  if timeout 10 scancel --user="$(id -un)" --quiet 2>/dev/null; then
    for _ in $(seq 40); do
      [ -z "$(timeout 5 squeue --noheader 2>/dev/null)" ] && break
      sleep 0.5
    done
  fi
fi
end_daemon "$state/slurmd.pid"
end_daemon "$state/slurmctld.pid"
if [ -e "$state/munge" ]; then end_daemon /run/munge/munged.pid; fi
for file in /etc/slurm/slurm.conf /etc/slurm/gres.conf; do
  if [ -e "$file" ] && grep -qF "$mark" "$file"; then rm -f "$file"; fi
done
rm -f /dev/mlipgpu0 /dev/mlipgpu1
rm -rf "$state"
