# shellcheck shell=bash disable=SC2154 # variables of common.sh
# Part of run.sh, by hand only (an hour on two cores): the whole mini scale through Slurm, with its snakemake killed half-way
# and jobs cancelled, against a run without Slurm. Not after "interruptions", which changes the configuration.
#   MLIP_STUDIES_SLURM_REFERENCE  results/mini of a finished `make demo` of the same commit; without it, one is made

whole=("${through_slurm[@]}" --config scale=mini -- demo)
steps_done() { sed -n 's/^\([0-9]*\) of [0-9]* steps.*/\1/p' "$1" | tail -n 1; }
steps_all() { sed -n 's/^[0-9]* of \([0-9]*\) steps.*/\1/p' "$1" | tail -n 1; }
half_way() {
  local all
  all=$(steps_all whole-1.log)
  [ -n "$all" ] && [ "$(steps_done whole-1.log)" -gt $((all * 2 / 5)) ] && [ -n "$(job_of train_run)" ]
}
at_half_or_ended() { half_way || ended "$background"; }

# ---- 1: to the middle, and killed there ------------------------------------------------------------------------------------------
say "starting the whole mini scale (log: whole-1.log)"
"${whole[@]}" >whole-1.log 2>&1 &
background=$!
wait_until 7200 at_half_or_ended || true
if half_way && ! ended "$background"; then
  kill -KILL "$background"
  wait "$background" 2>/dev/null || true
  orphans=$(jobs_in RUNNING,PENDING)
  pass "snakemake was killed after $(steps_done whole-1.log) of $(steps_all whole-1.log) steps, with jobs $(in_line <<<"$orphans")"
  # shellcheck disable=SC2086 # a list of numbers
  scancel $orphans || true
else
  fail "the first half did not get to a training"
  show_end whole-1.log 40
fi
background=""
wait_until 120 no_jobs || fail "scancel did not end the jobs that were left"
snakemake --unlock --config scale=mini >unlock-whole.log 2>&1 || fail "snakemake --unlock"

# ---- 2: to the end, with one job of each long kind cancelled -----------------------------------------------------------------------
say "the same command again (log: whole-2.log)"
"${whole[@]}" >whole-2.log 2>&1 &
background=$!
cancelled=""
while ! ended "$background"; do
  for rule in train_run md md_robustness spot_check reference_curve; do
    case " $cancelled " in *" $rule "*) continue ;; esac
    job=$(job_of "$rule")
    # Some seconds, so that there is work to lose.
    if [ -n "$job" ] && sleep 8 && squeue --noheader --jobs="$job" --states=RUNNING --format=%i 2>/dev/null | grep -q .; then
      scancel "$job" && cancelled="$cancelled $rule" && say "scancel: job $job of rule $rule"
    fi
  done
  sleep 2
done
if wait "$background"; then
  pass "the whole mini scale was finished through Slurm; cancelled on the way:${cancelled:- nothing}"
else
  fail "the second half ended with an error"
  show_end whole-2.log 60
fi
background=""
submitted=$(cat whole-1.log whole-2.log | grep -c 'SLURM jobid' || true)
say "$submitted jobs were submitted"

# ---- 3: the same verdicts as without Slurm -----------------------------------------------------------------------------------------
reference=${MLIP_STUDIES_SLURM_REFERENCE:-}
if [ -z "$reference" ]; then
  say "the same without Slurm (log: whole-local.log)"
  snakemake demo --cores all --config scale=mini results=results-whole-local >whole-local.log 2>&1 || show_end whole-local.log 40
  reference=results-whole-local/mini
fi
if python "$here/check_runs.py" verdicts results/mini "$reference" >verdicts.log 2>&1; then
  pass "through Slurm against without: $(tail -n 1 verdicts.log)"
else
  fail "through Slurm against without (verdicts.log)"
fi
sed 's/^/    /' verdicts.log
