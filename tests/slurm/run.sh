#!/usr/bin/env bash
# `make test-slurm`: parts of the mini workflow through `--profile slurm` on a real Slurm with one node on loopback.
#
# It works in a scratch copy of the working tree, so that results/ here stays as it is, and always stops the cluster.
#   MLIP_STUDIES_SLURM_PARTS      "slice", "interruptions" (both are the default), "whole" (an hour)
#   MLIP_STUDIES_SLURM_LENGTH     factor on the jobs that must outlast a limit of one minute (1); 2 on a fast machine
#   MLIP_STUDIES_REQUIRE_SLURM=1  being unable to install or start Slurm is a failure, not a skip
#   MLIP_STUDIES_KEEP=1           keep the scratch copy and the cluster's logs
set -euo pipefail

parts=${MLIP_STUDIES_SLURM_PARTS:-slice interruptions}
# shellcheck source=tests/slurm/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
for part in $parts; do
  case $part in
    slice | interruptions | whole) ;;
    *)
      echo "MLIP_STUDIES_SLURM_PARTS: unknown part '$part'; expected slice, interruptions, whole" >&2
      exit 2
      ;;
  esac
done

need_slurm
need_environment
set_up
for part in $parts; do
  say "part: $part"
  # shellcheck source=/dev/null
  source "$here/$part.sh"
done

echo "slurm: $((SECONDS - started)) s in all"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
