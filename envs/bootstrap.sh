#!/usr/bin/env bash
# Make the virtual environment of this checkout, or confirm in under a second that it is there and current.
#
# Settings, all optional (environment or `make env NAME=value`):
#   PYTHON       interpreter to build from                                    (python3)
#   VENV         where the environment goes                                   (.venv; .venv-pretrained for that lock)
#   LOCK         cpu | gpu | pretrained: which envs/requirements-*.txt        (cpu)
#   TORCH_INDEX  index tried first for torch; empty: only pip's configured    (PyTorch's CPU wheels, unless LOCK=gpu)
#   SCATTER      0: do not compile torch-scatter                              (1; 0 for LOCK=pretrained)
#   ALLOW_CUDA   1: CUDA packages are welcome although no GPU is visible      (0)
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
python=${PYTHON:-python3}
lock_name=${LOCK:-cpu}
lock=envs/requirements-$lock_name.txt
if [ "$lock_name" = pretrained ]; then
  # Beside the main one, for published potentials: nothing is trained there, so nothing is compiled for speed.
  venv=${VENV:-.venv-pretrained}
  scatter=${SCATTER:-0}
else
  venv=${VENV:-.venv}
  scatter=${SCATTER:-1}
fi
case $venv in /*) ;; *) venv=$root/$venv ;; esac
if [ "$lock_name" = gpu ]; then
  torch_index=${TORCH_INDEX-}
else
  torch_index=${TORCH_INDEX-https://download.pytorch.org/whl/cpu}
fi
# An activated environment of this checkout must not become the parent of its own successor.
PATH=${PATH//"$venv/bin:"/}
complete=$venv/.mlip-studies-complete # hash of what the environment was made from; written last
project=$venv/.mlip-studies-project   # hash of the project metadata at the last editable install
log=$venv/install.log

say() { printf '[env] %s\n' "$*"; }
die() {
  printf '[env] error: %s\n' "$*" >&2
  exit 1
}

# ---- what is needed from the system -------------------------------------------------------------------------------
missing() { die "$1 is missing: apt-get install $2"; }

command -v make >/dev/null || missing make make
command -v "$python" >/dev/null || missing "$python" "python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  die "$python is $("$python" -V 2>&1), but Python >= 3.11 is needed: install a newer one and run make env PYTHON=python3.12"
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
  missing "Python's venv module" "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])') python3-venv"
[ -f "$lock" ] || die "no lock file $lock: LOCK must be cpu, gpu or pretrained"

fingerprint() {
  { "$python" -c 'import sys; print(sys.version_info[:2])'; cat "$lock" envs/requirements-scatter.txt; } |
    sha256sum | cut -d' ' -f1
}
want=$(fingerprint)
want_project=$(sha256sum pyproject.toml | cut -d' ' -f1)

# ---- one at a time --------------------------------------------------------------------------------------------------
exec 9>"$root/.venv.lock"
if command -v flock >/dev/null && ! flock -n 9; then
  say "another make env is at work here; waiting for it"
  flock -w 1800 9 || die "another make env has held $root/.venv.lock for 30 minutes: end it, or delete the file"
fi

py=$venv/bin/python

install_project() {
  "$py" -m pip install --quiet --no-deps --no-build-isolation -e "$root" >>"$log" 2>&1 ||
    die "installing the package itself failed: see $log"
  echo "$want_project" >"$project"
}

# The import finds a moved checkout, whose environment still points at the old place.
usable() {
  [ -x "$py" ] && [ -s "$complete" ] && [ "$(cat "$complete")" = "$want" ] &&
    "$py" -c 'import sys, pathlib, mlip_studies
package = pathlib.Path(mlip_studies.__file__).resolve()
sys.exit(not package.is_relative_to(pathlib.Path(sys.argv[1]).resolve()))' "$root" 2>/dev/null
}

if usable; then
  if [ "$(cat "$project" 2>/dev/null)" != "$want_project" ]; then
    say "pyproject.toml changed: installing the package again"
    install_project
  fi
  exit 0
fi

# ---- from nothing ---------------------------------------------------------------------------------------------------
if [ -e "$venv" ] || [ -L "$venv" ]; then
  if [ -L "$venv" ] || { [ ! -f "$venv/pyvenv.cfg" ] && [ "$venv" != "$root/.venv" ]; }; then
    die "$venv exists and is not a virtual environment made here: move it away or choose another VENV"
  fi
  if [ -s "$complete" ]; then reason="made from other locks, or moved"; else reason="incomplete"; fi
  say "rebuilding $venv ($reason)"
  rm -rf "$venv"
fi

started=$SECONDS
step_started=$SECONDS
step_done() {
  say "$1: $((SECONDS - step_started)) s"
  step_started=$SECONDS
}
pip_install() { "$py" -m pip install --disable-pip-version-check --progress-bar off "$@" >>"$log" 2>&1; }
pip_or_die() {
  local what=$1
  shift
  pip_install "$@" || {
    tail -n 15 "$log" >&2
    die "installing $what failed: see $log"
  }
}
pin() { grep -m1 -E "^$1==" "$lock"; }

say "making $venv from $lock (about 2.5 GB on disk; log: $log)"
"$python" -m venv "$venv" || die "$python -m venv failed: apt-get install python3-venv"
# A current pip, because older ones download whole wheels for a dry run.
pip_or_die "pip and setuptools" "$(pin pip)" "$(pin setuptools)"
step_done "virtual environment"

torch_pin=$(pin torch)
# A direct look with a time limit: pip itself would ask an unreachable index again for every dependency.
index_offers() {
  timeout 25 "$py" - "$1" "$2" 2>>"$log" <<'PY'
import os, ssl, sys, urllib.request
url, pin = sys.argv[1].rstrip("/") + "/torch/", sys.argv[2].replace("==", "-")
context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT") or None)
with urllib.request.urlopen(url, timeout=10, context=context) as answer:
    page = answer.read().decode("utf-8", "replace")
if pin not in page:
    sys.exit(f"{url} does not list {pin}")
PY
}
report=$venv/torch-resolution.json
resolve_torch() { pip_install --dry-run --report "$report" -c "$lock" "$@" "$torch_pin"; }
torch_args=()
if [ -n "$torch_index" ] && index_offers "$torch_index" "$torch_pin"; then
  torch_args=(--extra-index-url "$torch_index")
  if ! resolve_torch "${torch_args[@]}"; then torch_args=(); fi
fi
if [ ${#torch_args[@]} -eq 0 ]; then
  if [ -n "$torch_index" ]; then say "$torch_index does not give $torch_pin: using pip's configured index"; fi
  resolve_torch || {
    tail -n 5 "$log" >&2
    die "no index offers $torch_pin for $("$py" -V): see $log"
  }
fi
if [ "${ALLOW_CUDA:-0}" = 1 ]; then
  torch_found=$torch_pin
else
  torch_found=$("$py" envs/check_resolution.py "$report" 2>&1) || die "$torch_found"
fi
pip_or_die "$torch_pin" -c "$lock" "${torch_args[@]}" "$torch_pin"
step_done "torch ${torch_found#torch==}"

# ---- torch-scatter: optional, compiled while the other packages are installed ---------------------------------------
scatter_log=$venv/torch-scatter.log
scatter_pid=""
scatter_started=$SECONDS
end_compiler() { if [ -n "$scatter_pid" ]; then kill -- "-$scatter_pid" 2>/dev/null || true; fi; }
trap end_compiler EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
scatter_skipped() {
  say "warning: torch-scatter is not used ($1); scatter operations run on native torch (for another try, remove ${venv#"$root"/} and run make env)"
  "$py" -m pip uninstall --quiet -y torch-scatter >>"$scatter_log" 2>&1 || true
}
scatter_check='
import torch, torch_scatter
out = torch_scatter.scatter(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 1, 1]), dim=0, reduce="sum")
assert out.tolist() == [1.0, 6.0], out
'
python_header=$("$py" -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")')
if [ "$scatter" = 0 ]; then
  say "torch-scatter: left out (SCATTER=0)"
elif ! command -v g++ >/dev/null; then
  scatter_skipped "no C++ compiler: apt-get install g++"
elif [ ! -f "$python_header" ]; then
  scatter_skipped "no Python headers: apt-get install python3-dev"
else
  say "compiling torch-scatter meanwhile: several minutes, once (SCATTER=0 leaves it out)"
  # Its extensions side by side and without debug information: half the time.
  printf '[build_ext]\nparallel = 2\n' >"$venv/torch-scatter.cfg"
  # FORCE_ONLY_CPU: the CPU build of torch cannot use CUDA code even where a CUDA compiler is installed.
  FORCE_ONLY_CPU=$([ "$lock_name" = gpu ] && echo 0 || echo 1) \
    DIST_EXTRA_CONFIG="$venv/torch-scatter.cfg" CFLAGS="${CFLAGS:-} -g0" \
    setsid "$py" -m pip wheel --disable-pip-version-check --no-deps --no-build-isolation --no-cache-dir \
    --no-binary torch-scatter --wheel-dir "$venv/wheels" -r envs/requirements-scatter.txt >"$scatter_log" 2>&1 9>&- &
  scatter_pid=$!
fi

# The lock is complete, so nothing needs resolving; pip check below would show a gap.
pip_or_die "the packages of $lock" --no-deps -r "$lock"
"$py" -m pip check >>"$log" 2>&1 || {
  tail -n 5 "$log" >&2
  die "the packages of $lock do not fit together: see $log"
}
step_done "$(grep -c '==' "$lock") pinned packages"

if [ -n "$scatter_pid" ]; then
  scatter_status=0
  wait "$scatter_pid" || scatter_status=$?
  scatter_pid=""
  if [ "$scatter_status" != 0 ] || ! pip_install --no-deps --no-index "$venv"/wheels/torch_scatter-*.whl; then
    scatter_skipped "its build failed: see $scatter_log"
  elif ! (cd "$venv" && "$py" -c "$scatter_check") >>"$scatter_log" 2>&1; then
    scatter_skipped "it was built, but its import or a check of its numbers failed: see $scatter_log"
  else
    say "torch-scatter compiled, imported and checked: $((SECONDS - scatter_started)) s since its start"
  fi
  rm -rf "$venv/wheels"
  step_done "waiting for torch-scatter"
fi

install_project
echo "$want" >"$complete"
step_done "the package"
say "done in $((SECONDS - started)) s; activate with: source ${venv#"$root"/}/bin/activate"
