# shellcheck shell=bash disable=SC2154 # variables of common.sh
# Part of run.sh: what a cluster does to jobs and to snakemake, and that the results are the same afterwards.

# ---- 1: snakemake is killed while its jobs run ---------------------------------------------------------------------------------
# The slice in a folder of its own, compared at the end with the same slice made without Slurm or interruption.
again=results-again
figure_again=${figure/#results/$again}
slice_again=("${through_slurm[@]}" --configfile tests/slurm/config.yaml --config "results=$again" -- "$figure_again")
mine=""
# Both trainings are submitted and one of them runs.
two_submitted() { [ "$(jobs_in RUNNING,PENDING | wc -l)" -ge 2 ] && [ -n "$(job_of train)" ]; }
say "starting the slice, whose snakemake will be killed (log: killed.log)"
"${slice_again[@]}" >killed.log 2>&1 &
background=$!
if wait_until 300 two_submitted; then
  kill -KILL "$background"
  wait "$background" 2>/dev/null || true
  orphans=$(jobs_in RUNNING,PENDING)
  # At once: they are short, and what they finish would leave nothing to wait for below.
  # shellcheck disable=SC2086 # a list of numbers
  scancel $orphans || true
  named=$(sed -n 's/.*SLURM jobid \([0-9]*\).*/\1/p' killed.log | sort -n)
  if [ -n "$orphans" ] && [ -z "$(comm -23 <(echo "$orphans" | sort) <(echo "$named" | sort))" ]; then
    pass "snakemake was killed; the jobs it left ($(in_line <<<"$orphans")) are named in its log"
  else
    fail "jobs left by a killed snakemake: $(in_line <<<"$orphans"); named in its log: $(in_line <<<"$named")"
  fi
  mine=1
else
  fail "no two jobs were submitted within 300 s"
  show_end killed.log 40
  kill -KILL "$background" 2>/dev/null || true
fi
background=""

if [ -n "$mine" ]; then
  if timeout 120 "${slice_again[@]}" >locked.log 2>&1; then
    fail "snakemake started in a directory that a killed one had locked"
  elif grep -q 'Directory cannot be locked' locked.log; then
    pass "the next snakemake says that the directory is locked"
  else
    fail "the next snakemake failed without naming the lock"
    show_end locked.log
  fi
  wait_until 60 no_jobs || fail "scancel did not end the jobs that were left"
  if snakemake --unlock --configfile tests/slurm/config.yaml --config "results=$again" >unlock.log 2>&1; then
    pass "snakemake --unlock"
  else
    fail "snakemake --unlock"
    show_end unlock.log
  fi

  # ---- 2: the node is drained while jobs wait -----------------------------------------------------------------------------------
  node=$(sinfo --noheader --format=%n | head -n 1)
  scontrol update "nodename=$node" state=drain reason=test-slurm
  say "starting it again on a drained node (log: again.log)"
  "${slice_again[@]}" >again.log 2>&1 &
  background=$!
  waiting_for_node() { [ -n "$(jobs_in PENDING)" ]; }
  if wait_until 300 waiting_for_node && sleep 6 && waiting_for_node && [ -z "$(jobs_in RUNNING)" ]; then
    why=$(squeue --noheader --states=PENDING --format=%r | sort -u | head -n 1)
    pass "on a drained node the jobs wait ($why)"
  else
    fail "on a drained node: pending $(jobs_in PENDING | in_line), running $(jobs_in RUNNING | in_line)"
  fi
  scontrol update "nodename=$node" state=resume
  if wait_until 600 ended "$background" && wait "$background" && [ -s "$figure_again" ]; then
    pass "after the node came back the slice was finished"
  else
    fail "the slice was not finished after the node came back"
    show_end again.log 40
  fi
  background=""
  if run_locally && python "$here/check_runs.py" same "$again/mini/krcelic" "$local_results/mini/krcelic" >same-again.log 2>&1; then
    pass "killed and drained, against undisturbed: $(tail -n 1 same-again.log)"
  else
    fail "the interrupted slice differs from an undisturbed one (local.log, same-again.log)"
    show_end same-again.log
  fi
fi

# ---- 3: cancelled, killed, out of time ------------------------------------------------------------------------------------------
# One reference curve, and a training and a simulation that are longer than the minute that Slurm can limit to.
settings=(--configfile tests/slurm/config-interruptions.yaml)
python "$here/lengthen.py" config/studies/stocker.yaml "${MLIP_STUDIES_SLURM_LENGTH:-1}"
curve=results/mini/ortiz/reference/water-hoh/pbe0-def2-svp.csv
simulation=results/mini/stocker/md/thermal/qm7x-schnet-per_element-n12/summary.json
training=results/mini/stocker/runs/qm7x-gemnet_q-per_element-n36/seed0/run.json
before=(results/mini/ortiz/scans/water-hoh.npz results/mini/stocker/starts/qm7x.xyz
  results/mini/stocker/runs/qm7x-schnet-per_element-n12/seed0/run.json)
say "preparing dynamics (log: before.log)"
if ! timeout 600 snakemake --cores 2 "${settings[@]}" -- "${before[@]}" >before.log 2>&1; then
  fail "preparing dynamics"
  show_end before.log
fi
say "starting a training, a simulation and a reference curve (log: interrupted.log)"
# From the third attempt on there is time enough, so that this ends on slow machines, too.
limited="1 if attempt < 3 else 60"
"${through_slurm[@]}" --retries 4 --set-resources "train_run:runtime=$limited" "md:runtime=$limited" "${settings[@]}" \
  -- "$curve" "$simulation" "$training" >interrupted.log 2>&1 &
background=$!
curve_log=results/mini/logs/reference_curve/water-hoh.log
has_points() { [ "$(cat results/mini/.state/reference_curve/*/*/points.jsonl 2>/dev/null | wc -l)" -ge 2 ]; }
has_segment() { find results/mini/.state/md -name 'md*.pt' 2>/dev/null | grep -q .; }

# SIGKILL leaves a job no time to save: only what it wrote by the clock counts.
interrupt() {
  local rule=$1 ready=$2 job
  shift 2
  if wait_until 240 "$ready" && job=$(job_of "$rule") && [ -n "$job" ] && "$@" "$job"; then
    say "$*: job $job of rule $rule"
  else
    fail "rule $rule had nothing to go on from within 240 s"
    show_end interrupted.log
  fi
}
interrupt reference_curve has_points scancel
interrupt md has_segment scancel --signal=KILL
if wait_until 900 ended "$background" && wait "$background"; then
  pass "a training, a simulation and a reference curve were finished by retries"
else
  fail "retries did not finish the interrupted jobs"
  show_end interrupted.log 60
fi
background=""

states=$(squeue --noheader --states=all --format='%i %k %T %m')
times_of() { echo "$states" | awk -v rule="rule_$1_" -v state="$2" 'index($2, rule) == 1 && $3 == state' | wc -l; }
for rule in train_run md; do
  if [ "$(times_of "$rule" TIMEOUT)" -ge 1 ]; then
    pass "rule $rule hit its time limit $(times_of "$rule" TIMEOUT) times and went on"
  else
    fail "rule $rule never hit its limit of one minute: try MLIP_STUDIES_SLURM_LENGTH=2"
  fi
done
if python "$here/check_runs.py" resumed "$training" "$simulation" >resumed-all.log 2>&1; then
  pass "$(paste -sd ';' resumed-all.log)"
else
  fail "not resumed: $(tail -n 1 resumed-all.log)"
fi
if [ "$(times_of reference_curve CANCELLED)" -ge 1 ] && grep -q 'going on, [1-9][0-9]* calculations are done' "$curve_log"; then
  pass "the cancelled reference curve: $(grep -o 'going on, .*' "$curve_log" | tail -n 1)"
else
  fail "the cancelled reference curve did not go on from its points"
  show_end "$curve_log"
fi

# ---- 4: memory grows with the attempt -------------------------------------------------------------------------------------------
for rule in train_run md reference_curve; do
  asked=$(echo "$states" | sort -n | awk -v rule="rule_$rule""_" 'index($2, rule) == 1 { print $4 }' | paste -sd ' ')
  base=$(echo "$asked" | awk '{ print $1 + 0 }')
  # shellcheck disable=SC2086 # a list of amounts
  if echo $asked | awk -v base="$base" 'NF < 2 { exit 1 } { for (i = 1; i <= NF; i++) if ($i + 0 != i * base) exit 1 }'; then
    pass "rule $rule asked for $asked in turn"
  else
    fail "memory of rule $rule does not grow with the attempt: $asked"
  fi
done
