"""Commands beside the workflow: ``python -m mlip_studies verify``, and others that ``--help`` lists."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from mlip_studies import codehash
from mlip_studies.artifacts import restore_times, verify_tree
from mlip_studies.config import SCALES, read_yaml
from mlip_studies.data.download import fetch_many, published_files
from mlip_studies.errors import InputError


def verify(results: Path) -> int:
    """Move files whose content changed aside; of those rebuilt since then, the unchanged ones get their time back."""
    if not results.exists():
        raise InputError(f"{results}: no such folder; run the pipeline first or give --results")
    for path in restore_times(results):
        print(f"{path}: rebuilt with the same content; what was made from it stays")
    bad = verify_tree(results)
    for path in bad:
        print(f"{path}: content changed since it was written; moved to {path.name}.corrupt")
    print(f"{len(bad)} corrupt file(s) below {results}" + ("; run the pipeline again to rebuild them" if bad else ""))
    if bad:
        print(f"to rebuild nothing else: snakemake {' '.join(map(str, bad))}, then verify again, before anything else")
    return 1 if bad else 0


def accept_code(results: Path, reason: str) -> int:
    """Record that the present code gives the results that are there."""
    if not reason.strip():
        raise InputError('accept-code: a reason is needed, for example make accept-code REASON="renamed a variable"')
    recorded = {
        path.name: path.read_text().strip()
        for folder in results.glob("*/.state/code")
        for path in folder.iterdir()
        if not path.name.startswith(".")
    }
    if not recorded:
        raise InputError(f"{results}: no record of code that made results; run the pipeline first")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    changed = codehash.accept([key.split("+") for key in recorded], recorded, reason, commit or "unknown")
    for key in changed:
        print(f"accepted: {key}")
    print(f"{len(changed)} change(s) accepted in {codehash.accepted_path()}; commit that file")
    return 0


def fetch(names: list[str], scale: str, results: Path, mirror: str | None, workers: int) -> int:
    """Download the files of data sets into the folder where the workflow looks for them."""
    datasets = read_yaml(Path("config/datasets.yaml"))
    folder = results / scale / "data" / "raw"
    paths = fetch_many(published_files(datasets, names, scale), folder, mirror, workers)
    print(f"{len(paths)} file(s) in {folder}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m mlip_studies", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("verify", "move corrupt artefacts aside"), ("accept-code", "accept a change of code")):
        sub = commands.add_parser(name, help=text)
        sub.add_argument("--results", type=Path, default=Path("results"), help="folder of results")
        if name == "accept-code":
            sub.add_argument("--reason", required=True, help="why the change does not alter results")
    sub = commands.add_parser("fetch", help="download the published files of data sets")
    sub.add_argument("datasets", nargs="+", help="names in config/datasets.yaml")
    sub.add_argument("--scale", choices=SCALES, default="full", help="whose files (default: full)")
    sub.add_argument("--results", type=Path, default=Path("results"), help="folder of results")
    sub.add_argument("--mirror", help="folder or URL that holds the files")
    sub.add_argument("--workers", type=int, default=4, help="files at a time (default: 4)")
    commands.add_parser("train", help="train one model from a YAML file (train --help says more)", add_help=False)
    commands.add_parser("md", help="molecular dynamics from a YAML file (md --help says more)", add_help=False)
    text = "DFT labels of frames from a YAML file (spot-check --help says more)"
    commands.add_parser("spot-check", help=text, add_help=False)
    commands.add_parser("forecast", help="what targets will cost (forecast --help says more)", add_help=False)
    commands.add_parser("progress", help="condense snakemake's messages (progress --help says more)", add_help=False)
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["train"]:
            from mlip_studies.training.run import main_train

            return main_train(arguments[1:])
        if arguments[:1] == ["md"]:
            from mlip_studies.md.engine import main_md

            return main_md(arguments[1:])
        if arguments[:1] == ["spot-check"]:
            from mlip_studies.dft.spot_check import main_spot_check

            return main_spot_check(arguments[1:])
        if arguments[:1] == ["forecast"]:
            from mlip_studies.forecast.command import main_forecast

            return main_forecast(arguments[1:])
        if arguments[:1] == ["progress"]:
            from mlip_studies.forecast.progress import main_progress

            return main_progress(arguments[1:])
        options = parser.parse_args(arguments)
        if options.command == "fetch":
            return fetch(options.datasets, options.scale, options.results, options.mirror, options.workers)
        if options.command == "verify":
            return verify(options.results)
        return accept_code(options.results, options.reason)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
