#!/usr/bin/env bash
# `make test-slurm`: a slice of the mini workflow through `--profile slurm` on a real Slurm with one node on loopback.
#
# It works in a scratch copy of the working tree, so that results/ here stays as it is, and always stops the cluster.
#   MLIP_STUDIES_REQUIRE_SLURM=1  being unable to install or start Slurm is a failure, not a skip
#   MLIP_STUDIES_KEEP=1           keep the scratch copy and the cluster's logs
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
export MLIP_STUDIES_SLURM_STATE=${MLIP_STUDIES_SLURM_STATE:-/var/tmp/mlip-studies-slurm}
started=$SECONDS
passed=0
failed=0

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

# ---- Slurm itself ------------------------------------------------------------------------------------------------------
have_slurm() {
  local tool
  for tool in slurmctld slurmd munged sbatch srun squeue scancel sinfo; do
    command -v "$tool" >/dev/null || return 1
  done
}
[ "$(id -u)" = 0 ] || skip "starting a test cluster needs root"
if ! have_slurm; then
  command -v apt-get >/dev/null || skip "slurm-wlm and munge are missing and there is no apt-get"
  say "installing slurm-wlm and munge"
  export DEBIAN_FRONTEND=noninteractive
  apt_log=$(mktemp)
  { timeout 180 apt-get update -qq || true; timeout 300 apt-get install -y -qq --no-install-recommends slurm-wlm munge; } \
    >"$apt_log" 2>&1 || { tail -n 5 "$apt_log"; skip "apt-get install slurm-wlm munge did not work"; }
  rm -f "$apt_log"
  have_slurm || skip "the packages are installed, but Slurm's programs are not in PATH"
fi
if ! command -v snakemake >/dev/null; then
  # shellcheck disable=SC1091
  source "$root/.venv/bin/activate" 2>/dev/null || skip "there is no environment: run make env"
fi

# ---- scratch copy and cluster --------------------------------------------------------------------------------------------
scratch=$(mktemp -d "${TMPDIR:-/tmp}/mlip-studies-slurm.XXXXXX")
cluster=0
background=""
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
  if [ "${MLIP_STUDIES_KEEP:-0}" != 1 ]; then rm -rf "$scratch"; fi
  exit $status
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

copy_tree() {
  if git -C "$root" rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    git -C "$root" ls-files -z --cached --others --exclude-standard |
      tar -C "$root" --null --files-from=- --ignore-failed-read -cf - 2>/dev/null
  else
    tar -C "$root" --exclude=./.venv --exclude=./results --exclude=./.snakemake -cf - .
  fi | tar -C "$scratch" -xf -
}
copy_tree || true
[ -f "$scratch/Snakefile" ] || { echo "copying the working tree to $scratch failed" >&2; exit 1; }
cd "$scratch"
# The installed package points at the original tree; jobs must run the copy's.
export PYTHONPATH=$scratch/workflow/src
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE

"$here/start_cluster.sh" || { echo "0 passed, 1 failed"; exit 1; }
cluster=1
say "cluster is up"

# The test cluster has no accounting database, and jobs of seconds should not be asked about every 20 s.
through_slurm=(snakemake --profile slurm --slurm-status-command squeue --slurm-init-seconds-before-status-checks 5
  --seconds-between-status-checks 5 --latency-wait 10 --default-resources mem_mb=1000 runtime=15)
figure=results/mini/krcelic/figures/fig3.3-test-loss.png

show_end() {
  tail -n "${2:-25}" "$1" | sed 's/^/    /'
}

# ---- 1: the profile resolves as typed --------------------------------------------------------------------------------------
if timeout 180 snakemake --profile slurm -n "$figure" >dry-run.log 2>&1 && grep -q 'Job stats' dry-run.log; then
  pass "snakemake --profile slurm -n resolves the figure"
else
  fail "snakemake --profile slurm -n"
  show_end dry-run.log
fi

# ---- 2: a slice of the workflow ----------------------------------------------------------------------------------------------
say "running the slice through Slurm (log: slice.log)"
if timeout 900 "${through_slurm[@]}" --configfile tests/slurm/config.yaml -- "$figure" >slice.log 2>&1 && [ -s "$figure" ]; then
  pass "$(basename "$figure") made through Slurm"
else
  fail "the slice through Slurm"
  show_end slice.log 60
fi
submitted=$(grep -c 'SLURM jobid' slice.log || true)
if [ "$submitted" -ge 2 ]; then
  pass "$submitted jobs were submitted"
else
  fail "only $submitted jobs were submitted: nothing was trained through Slurm"
fi

# ---- 3: training jobs saw their GPU --------------------------------------------------------------------------------------------
if python "$here/check_runs.py" devices results/mini/krcelic/runs 2 >devices.log 2>&1; then
  pass "$(cat devices.log)"
else
  fail "CUDA_VISIBLE_DEVICES of the training jobs: $(tail -n 1 devices.log)"
fi

# ---- 4: what a GPU job does without a usable GPU -----------------------------------------------------------------------------
# The devices are pretended: `auto` must say so once in each log and go on, `cuda` must stop.
logs=$(find results/mini/logs/train -name '*.log' 2>/dev/null)
told=0
silent=0
for log in $logs; do
  if [ "$(grep -c '^warning: .*CPU' "$log")" = 1 ]; then told=$((told + 1)); else silent=$((silent + 1)); fi
done
if [ $told -ge 2 ] && [ $silent = 0 ]; then
  pass "device auto: one warning in each of $told training logs"
else
  fail "device auto: $told training logs hold exactly one warning about the CPU, $silent do not"
fi
forced=results/mini/krcelic/runs/ani/coded/ANI-1ccx/seed2/run.json
if timeout 300 "${through_slurm[@]}" --retries 0 --configfile tests/slurm/config.yaml --config device=cuda 'seeds=[2]' \
  -- "$forced" >forced.log 2>&1; then
  fail "device cuda: a training without a GPU succeeded"
elif [ ! -e "$forced" ] && grep -rqi 'cuda' results/mini/logs/train/krcelic/ani/coded/ANI-1ccx-seed2.log 2>/dev/null; then
  pass "device cuda: the job failed: $(grep -ih 'cuda' results/mini/logs/train/krcelic/ani/coded/ANI-1ccx-seed2.log | tail -n 1)"
else
  fail "device cuda: failed without saying why in its log"
  show_end forced.log 30
fi

# ---- 5: a cancelled training resumes ------------------------------------------------------------------------------------------
# The costlier network, so that there is time between its first checkpoint and its end.
long_run=results/mini/krcelic/runs/ani/described/ANI-1ccx/seed1/run.json
find results/mini/.state -name 'stage*.pt' 2>/dev/null | sort >checkpoints-before || true
# Their names are numbered: the last one is the newest.
new_checkpoint() {
  find results/mini/.state/train -name 'stage*.pt' 2>/dev/null | sort | comm -13 checkpoints-before - | tail -n 1 || true
}
# Snakemake puts the rule's name into the job's comment.
training_job() {
  squeue --noheader --states=RUNNING --format='%i %k' 2>/dev/null | awk '/train/ { print $1; exit }'
}
say "starting a longer training, to be cancelled (log: long.log)"
"${through_slurm[@]}" --configfile tests/slurm/config-long.yaml -- "$long_run" >long.log 2>&1 &
background=$!
cancelled=""
first_checkpoint=""
for _ in $(seq 400); do
  checkpoint=$(new_checkpoint)
  if [ -n "$checkpoint" ]; then
    # The first one may hold step 0: wait for another.
    first_checkpoint=${first_checkpoint:-$checkpoint}
    job=""
    if [ "$checkpoint" != "$first_checkpoint" ]; then job=$(training_job); fi
    if [ -n "$job" ]; then
      scancel "$job" && cancelled=$job
      break
    fi
  fi
  kill -0 "$background" 2>/dev/null || break
  sleep 1
done
if [ -z "$cancelled" ]; then
  if [ -s "$long_run" ]; then
    fail "the training ended before it could be cancelled: it needs a larger budget in tests/slurm/config-long.yaml"
  else
    fail "no second checkpoint of a running training appeared within 400 s"
    show_end long.log 40
  fi
else
  say "cancelled job $cancelled after its checkpoint $checkpoint"
  for _ in $(seq 600); do
    kill -0 "$background" 2>/dev/null || break
    sleep 1
  done
  if ! kill -0 "$background" 2>/dev/null && wait "$background"; then
    pass "the retry of the cancelled training finished"
  else
    fail "the cancelled training was not finished by a retry"
    show_end long.log 40
  fi
  if python "$here/check_runs.py" resumed "$long_run" >resumed.log 2>&1; then
    pass "$(cat resumed.log)"
  else
    fail "the retry did not resume: $(tail -n 1 resumed.log)"
  fi
fi

echo "slurm: $((SECONDS - started)) s in all"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
