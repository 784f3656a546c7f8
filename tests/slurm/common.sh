# shellcheck shell=bash
# What the parts of `make test-slurm` share; sourced by run.sh, which sets -euo pipefail.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
export MLIP_STUDIES_SLURM_STATE=${MLIP_STUDIES_SLURM_STATE:-/var/tmp/mlip-studies-slurm}
started=$SECONDS
passed=0
failed=0
scratch=""
cluster=0
background=""

# ---- messages --------------------------------------------------------------------------------------------------------
say() { printf '[slurm +%ds] %s\n' $((SECONDS - started)) "$*"; }
pass() {
  passed=$((passed + 1))
  say "PASSED $*"
}
fail() {
  failed=$((failed + 1))
  say "FAILED $*"
}
skip() {
  if [ "${MLIP_STUDIES_REQUIRE_SLURM:-0}" = 1 ]; then
    echo "Slurm is required here, but $*"
    echo "0 passed, 1 failed"
    exit 1
  fi
  echo "SKIPPED test-slurm: $*"
  exit 0
}
show_end() {
  tail -n "${2:-25}" "$1" | sed 's/^/    /'
}

# ---- Slurm itself ------------------------------------------------------------------------------------------------------
have_slurm() {
  local tool
  for tool in slurmctld slurmd munged sbatch srun squeue scancel scontrol sinfo; do
    command -v "$tool" >/dev/null || return 1
  done
}
need_slurm() {
  [ "$(id -u)" = 0 ] || skip "starting a test cluster needs root"
  if ! have_slurm; then
    command -v apt-get >/dev/null || skip "slurm-wlm and munge are missing and there is no apt-get"
    say "installing slurm-wlm and munge"
    export DEBIAN_FRONTEND=noninteractive
    local apt_log
    apt_log=$(mktemp)
    { timeout 180 apt-get update -qq || true; timeout 300 apt-get install -y -qq --no-install-recommends slurm-wlm munge; } \
      >"$apt_log" 2>&1 || { tail -n 5 "$apt_log"; skip "apt-get install slurm-wlm munge did not work"; }
    rm -f "$apt_log"
    have_slurm || skip "the packages are installed, but Slurm's programs are not in PATH"
  fi
}
need_environment() {
  if ! command -v snakemake >/dev/null; then
    # shellcheck disable=SC1091
    source "$root/.venv/bin/activate" 2>/dev/null || skip "there is no environment: run make env"
  fi
}

# ---- scratch copy and cluster --------------------------------------------------------------------------------------------
copy_tree() {
  if git -C "$root" rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    git -C "$root" ls-files -z --cached --others --exclude-standard |
      tar -C "$root" --null --files-from=- --ignore-failed-read -cf - 2>/dev/null
  else
    tar -C "$root" --exclude=./.venv --exclude=./results --exclude=./.snakemake -cf - .
  fi | tar -C "$scratch" -xf -
}
finish() {
  local status=$?
  trap - EXIT INT TERM
  if [ -n "$background" ] && kill -0 "$background" 2>/dev/null; then
    kill -INT "$background" 2>/dev/null || true
    for _ in $(seq 60); do
      kill -0 "$background" 2>/dev/null || break
      sleep 0.5
    done
    kill -KILL "$background" 2>/dev/null || true
  fi
  if [ "${MLIP_STUDIES_KEEP:-0}" = 1 ]; then
    if [ -d "$MLIP_STUDIES_SLURM_STATE" ]; then cp "$MLIP_STUDIES_SLURM_STATE"/*.log "$scratch/" || true; fi
    say "kept $scratch"
  fi
  if [ $cluster = 1 ]; then "$here/stop_cluster.sh" || true; fi
  if [ "${MLIP_STUDIES_KEEP:-0}" != 1 ] && [ -n "$scratch" ]; then rm -rf "$scratch"; fi
  exit $status
}
# A scratch copy of the working tree, so that results/ here stays as it is, and a cluster that is always stopped.
set_up() {
  scratch=$(mktemp -d "${TMPDIR:-/tmp}/mlip-studies-slurm.XXXXXX")
  trap finish EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  copy_tree || true
  [ -f "$scratch/Snakefile" ] || { echo "copying the working tree to $scratch failed" >&2; exit 1; }
  cd "$scratch" || exit 1
  # The installed package points at the original tree; jobs must run the copy's.
  export PYTHONPATH=$scratch/workflow/src
  export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
  "$here/start_cluster.sh" || { echo "0 passed, 1 failed"; exit 1; }
  cluster=1
  say "cluster is up"
}

# ---- snakemake -----------------------------------------------------------------------------------------------------------
# The test cluster has no accounting database, and jobs of seconds should not be asked about every 20 s.
# shellcheck disable=SC2034 # used by the parts
through_slurm=(snakemake --profile slurm --slurm-status-command squeue --slurm-init-seconds-before-status-checks 5
  --seconds-between-status-checks 5 --latency-wait 10 --default-resources mem_mb=1000 runtime=15)

# The slice once more without Slurm, in a folder of its own: what the cluster's results are compared with.
local_results=results-local
run_locally() {
  if [ -e "$local_results/mini/krcelic/runs" ]; then return 0; fi
  timeout 900 snakemake --cores 2 --configfile tests/slurm/config.yaml --config "results=$local_results" \
    -- "${figure/#results/$local_results}" >local.log 2>&1
}
# shellcheck disable=SC2034 # used by the parts
figure=results/mini/krcelic/figures/fig3.3-test-loss.png

# ---- waiting -------------------------------------------------------------------------------------------------------------
# wait_until SECONDS COMMAND...: true as soon as the command is; false when the time is over.
wait_until() {
  local limit=$((SECONDS + $1))
  shift
  while ! "$@"; do
    [ $SECONDS -lt $limit ] || return 1
    sleep 1
  done
}
in_line() { paste -sd ' ' -; }
ended() { ! kill -0 "$1" 2>/dev/null; }
# job_of RULE [STATES]: number of the first job of a rule; Snakemake puts the rule's name into the job's comment.
job_of() {
  squeue --noheader --states="${2:-RUNNING}" --format='%i %k' 2>/dev/null |
    awk -v rule="rule_$1_" 'index($2, rule) == 1 { print $1; exit }'
}
jobs_in() { squeue --noheader --states="$1" --format='%i' 2>/dev/null | sort -n; }
no_jobs() { [ -z "$(jobs_in RUNNING,PENDING,COMPLETING)" ]; }
