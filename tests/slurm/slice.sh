# shellcheck shell=bash disable=SC2154 # variables of common.sh
# Part of run.sh: the profile, a slice of the workflow, GPUs, and a training job that is cancelled.

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

# ---- 3: the same results without Slurm ---------------------------------------------------------------------------------------
if run_locally && python "$here/check_runs.py" same results/mini/krcelic "$local_results/mini/krcelic" >same.log 2>&1; then
  pass "the slice on this machine alone: $(tail -n 1 same.log)"
else
  fail "the slice on this machine alone differs from the one through Slurm (local.log, same.log)"
  show_end same.log
fi

# ---- 4: training jobs saw their GPU --------------------------------------------------------------------------------------------
if python "$here/check_runs.py" devices results/mini/krcelic/runs 2 >devices.log 2>&1; then
  pass "$(cat devices.log)"
else
  fail "CUDA_VISIBLE_DEVICES of the training jobs: $(tail -n 1 devices.log)"
fi

# ---- 5: what a GPU job does without a usable GPU -----------------------------------------------------------------------------
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

# ---- 6: a cancelled training resumes ------------------------------------------------------------------------------------------
# The costlier network, so that there is time between its first checkpoint and its end.
long_run=results/mini/krcelic/runs/ani/described/ANI-1ccx/seed1/run.json
find results/mini/.state -name 'stage*.pt' 2>/dev/null | sort >checkpoints-before || true
# Their names are numbered: the last one is the newest.
new_checkpoint() {
  find results/mini/.state/train -name 'stage*.pt' 2>/dev/null | sort | comm -13 checkpoints-before - | tail -n 1 || true
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
    if [ "$checkpoint" != "$first_checkpoint" ]; then job=$(job_of train); fi
    if [ -n "$job" ]; then
      scancel "$job" && cancelled=$job
      break
    fi
  fi
  ended "$background" && break
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
  if wait_until 600 ended "$background" && wait "$background"; then
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
background=""
