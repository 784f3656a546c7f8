"""Figures and tables of a study: what each is made from. Light, so that the rules can read it.

A study's products stand in ``studies/<study>_products.py``: ``PRODUCTS`` by name, and ``CATEGORY`` and ``SOURCE`` for
the report. Rules, targets and the inputs of verdicts follow from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from mlip_studies.errors import InputError
from mlip_studies.studies.runs import Run, lookup_run

#: files of one job of dynamics with one network
MD_TABLES = ("replicas.csv", "samples.csv", "distances.csv", "summary.json")
ROBUSTNESS_TABLES = ("replicas.csv", "samples.csv", "summary.json", "robustness.csv", "topology.csv")


@dataclass(frozen=True)
class StudyProduct:
    """A figure (png, svg, csv) or a table (html, csv) and what it is made from.

    Attributes:
        file_name: without suffix.
        kind: figure or table.
        module: where its function is.
        function: draws or writes it.
        runs: runs that it needs, by name.
        groups: groups whose runs it needs.
        kinds: which tables of each run.
        md: jobs of dynamics that it needs.
        simulated: of these jobs, the runs of which groups; empty: of all.
        published: whether published potentials belong to these jobs' runs, where their weights are at hand.
        sizes: of these runs, those with which numbers of training rows, by place in the order of size (0: fewest, -1:
            most); empty: all.
        md_tables: which files of a job.
        checks: whether it needs the reference calculations on these dynamics (of jobs that have some), and what each
            network says about them.
        crossed: whether it needs what networks say about frames of another network's dynamics.
        components: whether it needs the components of forces of these frames.
        starts: set of start structures that it shows.
        speed: whether it needs the speeds of the networks.
        shift_check: whether it needs the check of energy references.
        floor: whether it needs the difference between the labels and the reference calculations.
        forecast: whether it needs the forecast of costs.
        active: whether it needs the active-learning loop.
        tests: tests of trained networks on other data sets that it needs, by name.
        curl: whether it needs the check that forces are those of an energy.
        charged_particles: whether it needs the networks for charged particles.
        files: other files, in which ``{out}`` stands for the study's results and ``{results}`` for those of the scale.
        min_seeds: one of its runs needs so many.
        in_paper: what it corresponds to in the paper.
        demo: whether ``make demo`` makes it.
    """

    file_name: str
    kind: Literal["figure", "table"]
    module: str
    function: str
    runs: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("runs",)
    md: tuple[str, ...] = ()
    simulated: tuple[str, ...] = ()
    published: bool = False
    sizes: tuple[int, ...] = ()
    md_tables: tuple[str, ...] = MD_TABLES
    checks: bool = False
    crossed: bool = False
    components: bool = False
    starts: str = ""
    speed: bool = False
    shift_check: bool = False
    floor: bool = False
    forecast: bool = False
    active: bool = False
    tests: tuple[str, ...] = ()
    curl: bool = False
    charged_particles: bool = False
    files: tuple[str, ...] = ()
    min_seeds: int = 1
    in_paper: str = ""
    demo: bool = True

    def paths(self, root: str) -> list[str]:
        """Paths of its files below ``root`` (results/<scale>/<study>); the first one is what the report shows."""
        suffixes = ("png", "svg", "csv") if self.kind == "figure" else ("html", "csv")
        return [f"{root}/{self.kind}s/{self.file_name}.{suffix}" for suffix in suffixes]

    def run_names(self, runs: Mapping[str, Run]) -> list[str]:
        """Names of the runs that it needs, of those that the study has.

        Args:
            runs: all runs of the study.

        Raises:
            InputError: it names a run that the study does not have.
        """
        unknown = [name for name in self.runs if name not in runs]
        if unknown:
            raise InputError(
                f"config/studies: no group makes run {unknown[0]}, which {self.file_name} needs; add it to its study"
            )
        members = [name for name, run in runs.items() if set(run.groups) & set(self.groups)]
        return list(dict.fromkeys([*self.runs, *members]))

    def possible(self, runs: Mapping[str, Run]) -> bool:
        """Whether a run of the study has the seeds that it needs."""
        return self.min_seeds == 1 or any(len(runs[name].seeds) >= self.min_seeds for name in self.run_names(runs))

    def simulations(self, study: str, numbers: Mapping[str, Any], runs: Mapping[str, Run]) -> list[tuple[str, str]]:
        """The (job, run) of the dynamics that it needs, in the order of the configuration.

        Args:
            study: its name.
            numbers: its configuration; ``published``: whether the weights of each published potential are at hand.
            runs: its runs.

        Raises:
            InputError: dynamics with a run that the study does not have.
        """
        sizes = sorted({run.train_size for run in runs.values() if run.train_size is not None})
        chosen = {sizes[place] for place in self.sizes if -len(sizes) <= place < len(sizes)}
        published = numbers.get("published", {})
        result = []
        for job in self.md:
            for entry in numbers["md"].get(job, {"runs": ()})["runs"]:
                if entry["run"] in published:
                    if self.published and published[entry["run"]]:
                        result.append((job, entry["run"]))
                    continue
                run = lookup_run(study, runs, entry["run"])
                if self.simulated and not {*self.simulated} & {*run.groups}:
                    continue
                if self.sizes and run.train_size not in chosen:
                    continue
                result.append((job, run.name))
        return result


def product_inputs(
    product: StudyProduct, study: str, numbers: Mapping[str, Any], runs: Mapping[str, Run], out: str, data_folder: str
) -> list[str]:
    """Tidy files that a figure or table is made from.

    Args:
        product: the figure or table.
        study: name of the study.
        numbers: its configuration.
        runs: its runs.
        out: folder of its results.
        data_folder: folder of the data sets.

    Raises:
        InputError: a run that the study does not have.
    """
    return list(dict.fromkeys(_inputs(product, study, numbers, runs, out, data_folder)))


def _inputs(
    product: StudyProduct, study: str, numbers: Mapping[str, Any], runs: Mapping[str, Run], out: str, data_folder: str
) -> Iterator[str]:
    simulations = product.simulations(study, numbers, runs)
    # Whoever shows a simulation also shows the errors of its network.
    trained = [run for _, run in simulations if run in runs]
    for name in dict.fromkeys([*product.run_names(runs), *trained]):
        yield from (f"{out}/tables/{name}/{kind}.csv" for kind in product.kinds)
    for job, run in simulations:
        yield from (f"{out}/md/{job}/{run}/{name}" for name in product.md_tables)
        checked = job in numbers["checks"]["jobs"] if "checks" in numbers else False
        if product.checks and checked:
            yield f"{out}/checks/{job}/{run}/labels.csv"
            yield f"{out}/checks/{job}/{run}/judged/{run}.csv"
        if product.components and checked:
            yield f"{out}/checks/{job}/{run}/judged/{run}.components.csv"
    if product.crossed:
        for pair in numbers["checks"]["crossed"]:
            for frames in dict.fromkeys((pair["frames"], pair["judge"])):
                yield f"{out}/checks/{pair['job']}/{frames}/labels.csv"
                yield f"{out}/checks/{pair['job']}/{frames}/judged/{pair['judge']}.csv"
    if product.starts:
        yield f"{out}/starts/{product.starts}.xyz"
    if product.speed:
        yield f"{out}/speed.csv"
    if product.shift_check:
        for name in dict.fromkeys(numbers["data"][key]["dataset"] for key in numbers["shift_checks"]):
            yield f"{data_folder}/{name}/shift_check.csv"
    if product.floor:
        yield f"{out}/floor/floor.csv"
    if product.forecast:
        yield f"{out}/forecast.csv"
    if product.active:
        yield f"{out}/active/active.csv"
    for test in product.tests:
        yield from (f"{out}/tests/{test}/{run}.csv" for run in numbers["tests"][test]["runs"])
    if product.curl:
        yield from (f"{out}/curl/{run}.csv" for run in numbers["curl"]["runs"])
    if product.charged_particles:
        yield f"{out}/nbody/baselines.csv"
        for network in numbers["nbody"]["networks"]:
            yield from (f"{out}/nbody/{network}/{name}" for name in ("run.json", "history.csv", "predictions.npz"))
    yield from (name.format(out=out, results=str(PurePosixPath(out).parent)) for name in product.files)


def alias(study: str, key: str) -> str:
    """Short name of a target: pavlovic_fig3_left_energies, pavlovic_results_table."""
    return f"{study}_{key.replace('-', '_')}"
