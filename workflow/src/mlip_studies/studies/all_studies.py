"""Figures and tables over all studies: counts of verdicts, the energy regression, and what each network is good for.

Everything is read from tidy files that the studies leave; nothing here knows what a study should have found. What has
no file is "not run".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from mlip_studies.artifacts import PathLike, atomic_path, write_text
from mlip_studies.claims.all_claims import SHORT, StudyVerdicts
from mlip_studies.claims.inputs import Tables as MultiFidelityTables
from mlip_studies.claims.inputs import read_json, read_table
from mlip_studies.claims.run_tables import RunTables
from mlip_studies.claims.verdicts import Verdict
from mlip_studies.errors import InputError
from mlip_studies.plotting.html_table import format_value, render_html_table, render_table, write_html_table
from mlip_studies.plotting.save import save_figure
from mlip_studies.plotting.style import FULL_WIDTH, GREY, OKABE_ITO, footer, panel_letters, style
from mlip_studies.units import EV_TO_KCAL_PER_MOL, EV_TO_MEV

NOT_RUN, NO_FORCES = "not run", "no forces"


@dataclass(frozen=True)
class AllContext:
    """What the rules know besides the results.

    Attributes:
        scale: mini or full.
        titles: title of each enabled study.
        runs: of each study with a list of runs, what is known of each run: ``network``, ``data``, ``dataset``,
            ``fidelity``.
        networks: title of each network of config/models.yaml.
        experiments: of the multi-fidelity study, by experiment: ``dataset``, ``high`` (fidelity) and ``self_energies``
            (train or all).
        variants: of the multi-fidelity study, title of each variant's network.
        untreated: its variants that are trained on energies as they are.
        potentials: of the study of adequacy, the ``study`` and ``run`` of each potential that was trained here.
    """

    scale: str
    titles: Mapping[str, str]
    runs: Mapping[str, Mapping[str, Mapping[str, Any]]]
    networks: Mapping[str, str]
    experiments: Mapping[str, Mapping[str, str]]
    variants: Mapping[str, str]
    potentials: Mapping[str, Mapping[str, str]]
    untreated: Sequence[str] = ()

    def title(self, study: str) -> str:
        """Title of a study, its name where it has none."""
        return self.titles.get(study, study)

    def network(self, name: str) -> str:
        """Title of a network, its name where it has none."""
        return self.networks.get(name, name)


@dataclass(frozen=True)
class StudyFiles:
    """Files of one study: all of its tidy files that are read here."""

    study: str
    paths: tuple[Path, ...]

    def named(self, name: str) -> list[Path]:
        """Files with this name."""
        return [path for path in self.paths if path.name == name]


def by_study(paths: Sequence[PathLike], studies: Sequence[str]) -> list[StudyFiles]:
    """Tell the files of the studies apart by the folder of their study.

    Args:
        paths: below ``results/<scale>/<study>``; files of no study are left out.
        studies: their names.
    """
    found: dict[str, list[Path]] = {study: [] for study in studies}
    for path in dict.fromkeys(map(Path, paths)):
        folder = next((part for part in reversed(path.parts[:-1]) if part in found), None)
        if folder is not None:
            found[folder].append(path)
    return [StudyFiles(study, tuple(files)) for study, files in found.items()]


# --- counts of verdicts

VERDICT_COLORS: Mapping[Verdict, str] = {
    Verdict.REPRODUCED: OKABE_ITO["blue"],
    Verdict.CONTRADICTED: OKABE_ITO["vermillion"],
    Verdict.INCONCLUSIVE: OKABE_ITO["orange"],
    Verdict.NOT_COMPARABLE: "#BDBDBD",
    Verdict.NOT_RUN: "#FFFFFF",
}
#: for those who do not see the colours, and for print in grey
HATCHES: Mapping[Verdict, str] = {Verdict.CONTRADICTED: "xx", Verdict.INCONCLUSIVE: "..", Verdict.NOT_COMPARABLE: "//"}


def summary(studies: Sequence[StudyVerdicts], context: AllContext, output: PathLike) -> list[Path]:
    """Draw the number of claims by verdict, one bar per study; predictions of this project in a panel of their own.

    Args:
        studies: what became of their claims.
        context: titles of the studies.
        output: path of the PNG file; SVG and CSV lie beside it.

    Returns:
        the paths written.
    """
    lines = []
    for one in studies:
        for by, whose in (("paper", "the paper"), ("ours", "prediction of this project")):
            counts: dict[Verdict, int] = one.counts(by)
            if by == "paper" or any(counts.values()):
                lines += [
                    {"study": one.study, "title": context.title(one.study), "by": whose, "verdict": str(v), "n": n}
                    for v, n in counts.items()
                ]
    tidy = pd.DataFrame(lines)
    panels = [whose for whose in ("the paper", "prediction of this project") if (tidy["by"] == whose).any()]
    rows = [tidy.loc[tidy["by"] == whose, "title"].nunique() for whose in panels]
    with style():
        figure, axes = plt.subplots(
            len(panels), 1, figsize=(FULL_WIDTH, 1.5 + 0.42 * sum(rows) + 0.45 * len(panels)), squeeze=False,
            height_ratios=[n + 0.6 for n in rows],
        )  # fmt: skip
        for axis, whose in zip(axes[:, 0], panels, strict=True):
            _bars(axis, tidy[tidy["by"] == whose])
            axis.set_title("claims of the papers" if whose == "the paper" else "predictions of this project")
        if len(panels) > 1:
            panel_letters(axes[:, 0])
        axes[-1, 0].set_xlabel("number of statements")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3)
        footer(figure, f"{context.scale} scale; {_judged(tidy)}")
    return save_figure(figure, tidy, output)


def _judged(tidy: pd.DataFrame) -> str:
    """In words how many claims of the papers there are."""
    theirs = tidy[tidy["by"] == "the paper"]
    return f"{int(theirs['n'].sum())} claims of {theirs['study'].nunique()} source(s)"


def _bars(axis: Axes, tidy: pd.DataFrame) -> None:
    """Stacked horizontal bars with their numbers inside."""
    names = list(dict.fromkeys(tidy["title"]))
    totals = tidy.groupby("title")["n"].sum()
    left, aside = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for verdict in Verdict:
        own = tidy[tidy["verdict"] == str(verdict)].set_index("title")["n"]
        axis.barh(
            range(len(names)), [own[name] for name in names], left=[left[name] for name in names], height=0.72,
            color=VERDICT_COLORS[verdict], hatch=HATCHES.get(verdict), edgecolor="#4D4D4D", linewidth=0.6,
            label=SHORT[verdict],
        )  # fmt: skip
        for place, name in enumerate(names):
            # Numbers of bars that are narrower than a digit stand above and below these in turn.
            narrow = 0 < own[name] < 0.03 * totals.max()
            aside[name] += narrow
            offset = 0.0 if not narrow else 0.48 * (-1) ** aside[name]
            if own[name]:
                axis.text(
                    left[name] + own[name] / 2, place + offset, str(own[name]), ha="center",
                    va="center", fontsize=7 if narrow else 9,
                    bbox=None if narrow else {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
                )  # fmt: skip
            left[name] += int(own[name])
    axis.set_yticks(range(len(names)), [f"{_folded(name)} ({totals[name]})" for name in names])
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.margins(y=0.02)


def _folded(text: str, width: int = 30) -> str:
    """A title on at most two lines."""
    words, lines = text.split(), [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


# --- with and without energies per element

WITHOUT, ATOMS = "none", "isolated atoms, no fit"
BEFORE, AFTER_TRAIN, AFTER_TEST = (
    "before training, fitted to training rows",
    "after training, fitted to training rows",
    "after training, fitted to TEST rows",
)
BEFORE_ALL = "before training, fitted to ALL rows, test rows among them"
TREATMENTS: Mapping[str, tuple[str, str]] = {  # marker and colour
    WITHOUT: ("o", OKABE_ITO["black"]),
    ATOMS: ("v", OKABE_ITO["reddish purple"]),
    BEFORE: ("s", OKABE_ITO["blue"]),
    BEFORE_ALL: ("P", OKABE_ITO["orange"]),
    AFTER_TRAIN: ("D", OKABE_ITO["bluish green"]),
    AFTER_TEST: ("x", OKABE_ITO["vermillion"]),
}
#: name, marker and colour of what a regression leaves of the labels
LESS = ("labels less the regression", "^", OKABE_ITO["sky blue"])
_OF_SHIFT = {"per_element": BEFORE, "isolated_atoms": ATOMS, "none": WITHOUT, "mean": WITHOUT, "mean_padded": WITHOUT}
NETWORK, STATISTICS = "network", "statistics, no network"
# What is compared comes first, so that it is on the screen; where it comes from follows.
REGRESSION_COLUMNS = (
    "study", "architecture", "dataset", "regression", "energy_mae_mev_per_atom", "seed_std_mev_per_atom",
    "energy_mae_kcal_per_mol", "spread_mev_per_atom", "n_train", "n_test", "seeds", "label", "loss", "what", "data",
    "run", "note", "source",
)  # fmt: skip
_RUN_NEEDS = (
    "run", "seed", "model", "shift", "beta", "n_train", "n_test", "energy_mae_ev", "energy_per_atom_mae_ev",
    "corrected_train_energy_mae_ev", "corrected_train_energy_per_atom_mae_ev", "corrected_test_energy_mae_ev",
    "corrected_test_energy_per_atom_mae_ev", "correction_note",
)  # fmt: skip


def regression_rows(
    studies: Sequence[StudyFiles], fits: Sequence[PathLike], context: AllContext
) -> Iterator[dict[str, Any]]:
    """Errors and spreads of energies with and without an energy per element, one row each.

    Args:
        studies: their runs.csv.
        fits: ``self_energies.json`` of the data sets.
        context: what runs, experiments and networks are called.

    Yields:
        a row with REGRESSION_COLUMNS; energies in meV/atom, per molecule in kcal/mol.

    Raises:
        InputError: a damaged file, or one without a column.
    """
    for files in studies:
        if files.study in context.runs:
            for path in files.named("runs.csv"):
                yield from _rows_of_run(path, files.study, context)
        elif files.named("runs.csv"):
            yield from _rows_of_mixes(files, context)
    for fit in fits:
        yield from _rows_of_fit(Path(fit))


def _empty(**values: Any) -> dict[str, Any]:
    numbers = ("energy_mae_mev_per_atom", "seed_std_mev_per_atom", "energy_mae_kcal_per_mol", "spread_mev_per_atom")
    return {**dict.fromkeys(REGRESSION_COLUMNS, ""), **dict.fromkeys(numbers, math.nan), **values}


def _errors(per_atom: pd.Series, per_molecule: pd.Series) -> dict[str, float]:
    """Mean and spread over seeds of two columns in eV."""
    return {
        "energy_mae_mev_per_atom": EV_TO_MEV * float(per_atom.mean()),
        "seed_std_mev_per_atom": EV_TO_MEV * float(per_atom.std(ddof=1)) if len(per_atom) > 1 else math.nan,
        "energy_mae_kcal_per_mol": EV_TO_KCAL_PER_MOL * float(per_molecule.mean()),
    }


def _rows_of_run(path: Path, study: str, context: AllContext) -> Iterator[dict[str, Any]]:
    frame = read_table(path, _RUN_NEEDS, ("run", "model", "shift", "correction_note"))
    first = frame.iloc[0]
    known = context.runs[study].get(str(first["run"]), {})
    beta = float(first["beta"])
    common = {
        "study": study,
        "data": known.get("data", ""),
        "dataset": known.get("dataset", ""),
        "label": known.get("fidelity", ""),
        "architecture": context.network(str(known.get("network", first["model"]))),
        "loss": "forces only" if beta == 1.0 else "",
        "what": NETWORK,
        "run": first["run"],
        "n_train": int(first["n_train"]),
        "n_test": int(first["n_test"]),
        "seeds": len(frame),
        "source": _source(path),
    }
    treatment = _OF_SHIFT.get(str(first["shift"]))
    if treatment is None:
        raise InputError(f"{path}: shift '{first['shift']}' is unknown; known: {', '.join(_OF_SHIFT)}")
    shift = f"shift {first['shift']}"
    yield _empty(
        **common, **_errors(frame["energy_per_atom_mae_ev"], frame["energy_mae_ev"]), regression=treatment, note=shift
    )
    if treatment in (BEFORE, ATOMS):
        return
    note = "" if pd.isna(first["correction_note"]) else f"; {first['correction_note']}"
    for part, after in (("train", AFTER_TRAIN), ("test", AFTER_TEST)):
        own = frame[frame[f"corrected_{part}_energy_per_atom_mae_ev"].notna()]
        if own.empty:
            continue
        yield _empty(
            **common,
            **_errors(own[f"corrected_{part}_energy_per_atom_mae_ev"], own[f"corrected_{part}_energy_mae_ev"]),
            regression=after,
            note=f"{shift}{note}",
        )


def _rows_of_mixes(files: StudyFiles, context: AllContext) -> Iterator[dict[str, Any]]:
    tables = MultiFidelityTables.from_paths(files.paths)
    for experiment, variant in tables.pairs():
        entry = context.experiments.get(experiment, {})
        treatment = BEFORE_ALL if entry.get("self_energies") == "all" else BEFORE
        if variant in context.untreated:
            treatment = WITHOUT
        frame = tables.runs(experiment, variant)
        source = _source(tables.files[f"runs/{experiment}/{variant}"])
        for mix, own in frame.groupby("mix", sort=False):
            first = own.iloc[0]
            yield _empty(
                study=files.study,
                data=experiment,
                dataset=entry.get("dataset", experiment),
                label=f"mix {mix}",
                architecture=context.variants.get(variant, variant),
                what=NETWORK,
                regression=treatment,
                run=f"{experiment}/{variant}/{mix}",
                **_errors(own["test_mae_per_atom_ev"], own["test_mae_ev"]),
                n_train=int(first["n_train_low"]) + int(first["n_train_high"]),
                n_test=int(first["n_test"]),
                seeds=len(own),
                note="both fidelities as they are" if treatment == WITHOUT else "",
                source=source,
            )


def _rows_of_fit(path: Path) -> Iterator[dict[str, Any]]:
    content = read_json(path)
    if not isinstance(content.get("fidelities"), dict):
        raise InputError(f"{path}: key 'fidelities' is missing; delete the file and run again")
    for label, fit in content["fidelities"].items():
        if not isinstance(fit, dict) or not fit.get("n_rows"):
            continue
        try:
            spreads = {part: float(fit[part]["std_per_atom_ev"]) for part in ("before", "after")}
            error = float(fit["after"]["mae_per_atom_ev"])
        except (KeyError, TypeError, ValueError) as problem:
            raise InputError(f"{path}: key 'fidelities.{label}': {problem}; delete the file and run again") from None
        rows = "all rows, test rows among them" if content.get("rows") == "all" else "training rows"
        common = {
            "dataset": str(content.get("dataset", path.parent.name)),
            "label": label,
            "what": STATISTICS,
            "n_train": int(fit["n_rows"]),
            "source": _source(path),
        }
        yield _empty(
            **common,
            regression=WITHOUT,
            spread_mev_per_atom=EV_TO_MEV * spreads["before"],
            note="standard deviation of the labels",
        )
        yield _empty(
            **common,
            regression=f"fitted to {rows}",
            energy_mae_mev_per_atom=EV_TO_MEV * error,
            spread_mev_per_atom=EV_TO_MEV * spreads["after"],
            note=str(fit.get("note") or f"rank {fit.get('rank')} of {len(fit.get('elements', []))}"),
        )


def _source(path: Path) -> str:
    """A file relative to the folder of the scale: what follows mini or full."""
    parts = path.parts
    place = max((index for index, part in enumerate(parts) if part in ("mini", "full")), default=-1)
    return "/".join(parts[place + 1 :])


REGRESSION_HEADINGS: Mapping[str, str] = {
    "study": "Study", "data": "Data", "dataset": "Data set", "label": "Label or mix", "architecture": "Architecture",
    "loss": "Loss", "what": "What", "regression": "Energies per element", "run": "Run",
    "energy_mae_mev_per_atom": "Energy MAE (meV/atom)", "seed_std_mev_per_atom": "± over seeds (meV/atom)",
    "energy_mae_kcal_per_mol": "Energy MAE (kcal/mol)", "spread_mev_per_atom": "Standard deviation (meV/atom)",
    "n_train": "Rows fitted or trained on", "n_test": "Test rows", "seeds": "Seeds", "note": "Note", "source": "File",
}  # fmt: skip
REGRESSION_NOTES = (
    "“none”: no energy per element was subtracted before training; a mean over the data (shift mean, mean_padded) "
    "may have been.",
    "“after training, fitted to TEST rows” uses the very energies that are then judged: it shows what the form of "
    "the correction can take away, and is no error of a method.",
    "“after training, fitted to training rows” exists where the predictions on training rows were kept.",
    "Where a row says “statistics, no network”, nothing was trained: it gives the standard deviation of the energies "
    "per atom and what the regression alone leaves of it; their errors are over the rows that were fitted.",
    "Rows of different data sets or labels, or with another number of training rows, cannot be compared with each "
    "other; runs of one row of the figure may also differ in weights of the loss, learning rate, clipping, layers or "
    "scale of the labels, so that the gap between their markers is not that of the regression alone.",
    "The study of physical adequacy trains nothing and has no row.",
)


def regression(
    studies: Sequence[StudyFiles],
    fits: Sequence[PathLike],
    context: AllContext,
    output_figure: PathLike,
    output_table: PathLike,
) -> list[Path]:
    """Draw and tabulate energy errors with and without energies per element, for all data sets and networks.

    Args:
        studies: see :func:`regression_rows`.
        fits: see :func:`regression_rows`.
        context: names and scale.
        output_figure: path of the PNG file; SVG and CSV lie beside it.
        output_table: path of the HTML file; CSV lies beside it.

    Returns:
        the paths written.
    """
    frame = pd.DataFrame(regression_rows(studies, fits, context), columns=list(REGRESSION_COLUMNS))
    for column in ("n_train", "n_test", "seeds"):
        frame[column] = pd.to_numeric(frame[column]).astype("Int64")
    n_runs = frame.loc[frame["what"] == NETWORK, "run"].nunique()
    caption = (
        f"{context.scale} scale; {n_runs} runs and {len(fits)} data sets. Errors are means over seeds on test rows of "
        "the absolute error of each molecule's energy, divided by its number of atoms (meV/atom) or not (kcal/mol)."
    )
    written = write_html_table(
        frame,
        output_table,
        "Energies with and without a regression per element, all studies",
        caption,
        headings=REGRESSION_HEADINGS,
        cards=True,
        after={"How to read it": list(REGRESSION_NOTES)},
    )
    return [*written, *_draw_regression(frame, context, output_figure)]


def _draw_regression(frame: pd.DataFrame, context: AllContext, output: PathLike) -> list[Path]:
    networks, data = frame[frame["what"] == NETWORK].copy(), frame[frame["what"] == STATISTICS].copy()
    networks["row"] = [_network_row(row) for _, row in networks.iterrows()]
    networks = networks[networks["n_train"] == networks["row"].map(_sizes_shown(networks))]
    data["row"] = [f"{row['dataset']}\n{row['label']}" for _, row in data.iterrows()]
    parts = [part for part in (networks, data) if len(part)]
    heights = [part["row"].nunique() for part in parts]
    with style():
        figure, axes = plt.subplots(
            max(len(parts), 1), 1, figsize=(FULL_WIDTH, 2.2 + 0.36 * sum(heights)), squeeze=False,
            height_ratios=[n + 1 for n in heights] or [1],
        )  # fmt: skip
        used: list[str] = []
        for axis, part in zip(axes[:, 0], parts, strict=False):
            names = list(dict.fromkeys(part["row"]))
            is_data = part["what"].iloc[0] == STATISTICS
            column = "spread_mev_per_atom" if is_data else "energy_mae_mev_per_atom"
            for place, name in enumerate(names):
                own = part[part["row"] == name]
                axis.plot([own[column].min(), own[column].max()], [place, place], color="#BBBBBB", zorder=1)
                for _, row in own.iterrows():
                    treatment = str(row["regression"])
                    marker, color = TREATMENTS.get(treatment, LESS[1:])
                    hollow = not is_data and treatment in (WITHOUT, BEFORE)
                    axis.plot(
                        row[column], place, marker, color=color, markersize=6, zorder=2,
                        markerfacecolor="none" if hollow else color, markeredgewidth=1.4,
                    )  # fmt: skip
                    if not is_data and treatment not in used:
                        used.append(treatment)
            axis.set_yticks(range(len(names)), names)
            axis.invert_yaxis()
            axis.set_ylim(len(names) - 0.4, -0.6)
            _decades(axis, part[column])
            axis.set_xlabel(
                "standard deviation of energies (meV/atom)" if is_data else "energy MAE on test rows (meV/atom)"
            )
            axis.set_title("labels alone, no network" if is_data else "networks")
        if len(parts) > 1:
            panel_letters(axes[:, 0])
        handles = [
            Line2D(
                [], [], linestyle="", marker=marker, color=color, label=_legend(name), markeredgewidth=1.4,
                markerfacecolor="none" if name in (WITHOUT, BEFORE) else color,
            )
            for name, (marker, color) in TREATMENTS.items()
            if name in used
        ]  # fmt: skip
        if len(data):
            for label, marker, color in (("labels as they are", *TREATMENTS[WITHOUT]), LESS):
                handles.append(Line2D([], [], linestyle="", marker=marker, color=color, label=label))
        if handles:
            figure.legend(handles=handles, loc="outside upper center", ncols=2)
        footer(
            figure,
            f"{context.scale} scale. Networks: means over seeds, largest training set of each row that was learnt both "
            "ways; one marker per run. Crosses: the correction was fitted to the test energies themselves. Rows are "
            "not comparable with each other.",
        )
    return save_figure(figure, frame, output)


def _sizes_shown(networks: pd.DataFrame) -> dict[str, int]:
    """Rows of the figure, and the training set that they show: the largest one that was learnt both ways, if any."""
    result = {}
    for name, own in networks.groupby("row"):
        without = set(own.loc[own["regression"] == WITHOUT, "n_train"])
        both = without & set(own.loc[own["regression"].isin((BEFORE, BEFORE_ALL, ATOMS)), "n_train"])
        result[str(name)] = int(max(both or set(own["n_train"])))
    return result


def _decades(axis: Axes, values: pd.Series) -> None:
    """A logarithmic axis over whole decades, which alone have ticks; no change without a positive number."""
    positive = values[values > 0].astype(float)
    if len(positive):
        axis.set_xscale("log")
        low, high = math.floor(math.log10(positive.min())), math.ceil(math.log10(positive.max()))
        axis.set_xlim(10.0**low / 1.3, 1.3 * 10.0 ** max(high, low + 1))
        axis.xaxis.set_minor_formatter(NullFormatter())


def _legend(treatment: str) -> str:
    return "no energies per element" if treatment == WITHOUT else treatment


def _network_row(row: pd.Series) -> str:
    """Name of a row of the figure: architecture, what its loss leaves out, and data."""
    loss = f", {row['loss']}" if row["loss"] else ""
    return f"{row['architecture']}{loss}\n{row['dataset']}: {row['data']}"


# --- what each network is good for

MEASURES: Mapping[str, tuple[str, str]] = {  # unit and heading
    "energy_mae": ("meV/atom", "Energy MAE (meV/atom)"),
    "force_mae": ("meV/Å", "Force MAE (meV/Å)"),
    "survival": ("fraction", "Dynamics survived"),
    "adequacy": ("fraction", "Adequacy tests passed"),
    "training_cost": ("min", "Training (min per seed)"),
    "md_speed": ("steps/s", "Dynamics (steps/s)"),
}
_LOGARITHMIC = {
    "energy_mae": True, "force_mae": True, "survival": False, "adequacy": False, "training_cost": True,
    "md_speed": True,
}  # fmt: skip
MATRIX_COLUMNS = (
    "architecture", "study", "data", "dataset", "run", "n_train", "measure", "value", "unit", "text", "n", "note",
    "source",
)  # fmt: skip


def matrix_rows(studies: Sequence[StudyFiles], scorecard: PathLike | None, context: AllContext) -> pd.DataFrame:
    """What is known of each architecture on each data, one row per measure; without a result the text is "not run".

    Of several runs of an architecture on the same data the one counts that the study of adequacy tests, or else the
    one with energies in its loss, the largest training set, the most dynamics and the most seeds, in this order.

    Args:
        studies: their tidy files.
        scorecard: scorecard.csv of the study of adequacy, if there is one.
        context: what runs and networks are called.

    Returns:
        columns MATRIX_COLUMNS.

    Raises:
        InputError: a damaged file, or one without a column.
    """
    scores = _scores(scorecard, context)
    lines: list[dict[str, Any]] = []
    for files in studies:
        if files.study in context.runs:
            lines += _matrix_of_runs(files, context, scores)
        elif files.named("runs.csv"):
            lines += _matrix_of_mixes(files, context)
    return pd.DataFrame(lines, columns=list(MATRIX_COLUMNS))


def _scores(scorecard: PathLike | None, context: AllContext) -> dict[tuple[str, str], dict[str, Any]]:
    """Tests passed by the potentials that were trained here, by (study, run)."""
    if scorecard is None:
        return {}
    frame = read_table(scorecard, ("name", "verdict"), ("name", "verdict"))
    result = {}
    for name, origin in context.potentials.items():
        own = frame.loc[frame["name"] == name, "verdict"]
        judged = own[own.isin(("pass", "fail"))]
        if len(judged):
            passed = int((judged == "pass").sum())
            result[origin["study"], origin["run"]] = {
                "value": passed / len(judged),
                "text": f"{passed} of {len(judged)}",
                "n": f"{len(judged)} tests",
                "note": f"potential {name}",
                "source": _source(Path(scorecard)),
            }
    return result


def _cells(common: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for measure, (unit, _) in MEASURES.items():
        empty = {"value": math.nan, "text": NOT_RUN, "n": "", "note": "", "source": ""}
        yield {**common, "measure": measure, "unit": unit, **empty, **found.get(measure, {})}


def _matrix_of_runs(
    files: StudyFiles, context: AllContext, scores: Mapping[tuple[str, str], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    tables = RunTables.from_paths(files.paths)
    jobs: dict[str, list[str]] = {}
    for job, run in tables.md_jobs("summary"):
        jobs.setdefault(run, []).append(job)
    groups: dict[tuple[str, str], list[str]] = {}
    for run in tables.names("runs"):
        known = context.runs[files.study].get(run, {})
        groups.setdefault((str(known.get("network", "")), str(known.get("data", ""))), []).append(run)
    speed = tables.speed() if files.named("speed.csv") else None
    lines: list[dict[str, Any]] = []
    for (network, _), runs in groups.items():
        frames = {run: tables.get("runs", run) for run in runs}

        def rank(run: str, frames: Mapping[str, pd.DataFrame] = frames) -> tuple[Any, ...]:
            frame = frames[run]
            with_energies = float(frame["beta"].iloc[0]) != 1.0
            n_train = int(frame["n_train"].iloc[0])
            return (files.study, run) in scores, with_energies, n_train, len(jobs.get(run, ())), len(frame)

        run = max(runs, key=rank)
        frame, known = frames[run], context.runs[files.study].get(run, {})
        common = {
            "architecture": context.network(network or str(frame["model"].iloc[0])),
            "study": files.study,
            "data": known.get("data", ""),
            "dataset": f"{known.get('dataset', '')} ({known.get('fidelity', '')})",
            "run": run,
            "n_train": int(frame["n_train"].iloc[0]),
        }
        found = _errors_and_cost(frame, _source(_run_path(files, run)))
        if (files.study, run) in scores:
            found["adequacy"] = dict(scores[files.study, run])
        found |= _dynamics(tables, files, run, jobs.get(run, []), speed)
        lines += _cells(common, found)
    return lines


def _run_path(files: StudyFiles, run: str) -> Path:
    return next(path for path in files.named("runs.csv") if path.parent.name == run)


def _errors_and_cost(frame: pd.DataFrame, source: str) -> dict[str, dict[str, Any]]:
    """Cells of the errors and of the training of a run, all seeds."""
    found: dict[str, dict[str, Any]] = {}
    n = f"{int(frame['n_test'].iloc[0])} test rows, {len(frame)} seed(s)"
    forces_only = "beta" in frame and float(frame["beta"].iloc[0]) == 1.0
    for measure, column, factor in (
        ("energy_mae", "energy_per_atom_mae_ev", EV_TO_MEV),
        ("force_mae", "force_mae_ev_per_angstrom", EV_TO_MEV),
    ):
        values = factor * frame[column].dropna() if column in frame else pd.Series(dtype=float)
        if len(values):
            found[measure] = {
                "value": float(values.mean()), "text": format_value(float(values.mean())), "n": n,
                "note": "mean over seeds" + ("; its loss has forces alone" if forces_only else ""), "source": source,
            }  # fmt: skip
        elif measure == "force_mae":
            found[measure] = {"text": NO_FORCES, "note": "its labels or its network have none", "source": source}
    seconds = frame["train_seconds"].dropna() if "train_seconds" in frame else pd.Series(dtype=float)
    if len(seconds):
        devices = ", ".join(sorted(set(frame["device"].astype(str)))) if "device" in frame else "unknown device"
        minutes = float(seconds.mean()) / 60.0
        found["training_cost"] = {
            "value": minutes, "text": f"{format_value(minutes)} ({devices})", "n": f"{len(seconds)} seed(s)",
            "note": "mean over seeds, wall time", "source": source,
        }  # fmt: skip
    return found


def _dynamics(
    tables: RunTables, files: StudyFiles, run: str, jobs: Sequence[str], speed: pd.DataFrame | None
) -> dict[str, dict[str, Any]]:
    """Cells of survival and speed of a run's network."""
    found: dict[str, dict[str, Any]] = {}
    survived = total = 0
    parts, sources = [], []
    rates: list[tuple[float, str, str]] = []
    analysed = set(tables.robustness_jobs())
    for job in jobs:
        summary = tables.md_summary(job, run)
        if (job, run) in analysed:
            alive = ~tables.robustness(job, run)["failed"]
            source = "robustness.csv"
        elif "alive" in (replicas := tables.md("replicas", job, run)):
            alive = replicas["alive"].astype(str).str.lower().eq("true")
            if "first_reason" in replicas:
                # A broken molecule may have gone on: what happened to it is noted.
                alive &= replicas["first_reason"].fillna("").eq("")
            source = "replicas.csv"
        else:
            continue
        survived, total = survived + int(alive.sum()), total + len(alive)
        parts.append(f"{job} {int(alive.sum())} of {len(alive)} over {summary.get('time_ps')} ps")
        folder = next(path.parent for path in files.named("summary.json") if path.parts[-3:-1] == (job, run))
        sources.append(_source(folder / source))
        rate = summary.get("steps_per_second")
        if rate:
            device = str(summary.get("device", ""))
            rates.append((float(rate), f"{job}, {summary.get('n_trajectories')} molecules at once, {device}",
                          _source(folder / "summary.json")))  # fmt: skip
    if total:
        found["survival"] = {
            "value": survived / total, "text": f"{survived} of {total}", "n": f"{total} trajectories",
            "note": "; ".join(parts), "source": "; ".join(sources),
        }  # fmt: skip
    own = None if speed is None else speed[speed["label"] == run]
    if own is not None and len(own):
        line = own.loc[own["batch"].idxmin()]
        rates = [
            (float(line["steps_per_second"]), f"timed alone, {int(line['batch'])} molecule(s) at once",
             _source(files.named("speed.csv")[0]))
        ]  # fmt: skip
    if rates:
        value, note, source = rates[0]
        found["md_speed"] = {
            "value": value, "text": format_value(value), "n": "1 measurement", "note": note, "source": source,
        }  # fmt: skip
    return found


def _matrix_of_mixes(files: StudyFiles, context: AllContext) -> list[dict[str, Any]]:
    """The mix with the smallest error of each variant and experiment."""
    tables = MultiFidelityTables.from_paths(files.paths)
    lines: list[dict[str, Any]] = []
    for experiment, variant in tables.pairs():
        frame = tables.runs(experiment, variant)
        best = str(frame.groupby("mix")["test_mae_per_atom_ev"].mean().idxmin())
        own = frame[frame["mix"] == best].rename(columns={"test_mae_per_atom_ev": "energy_per_atom_mae_ev"})
        first, entry = own.iloc[0], context.experiments.get(experiment, {})
        source = _source(tables.files[f"runs/{experiment}/{variant}"])
        found = _errors_and_cost(own, source)
        found["energy_mae"]["note"] = f"mix {best}, the one with the smallest error; mean over seeds"
        found["force_mae"] = {"text": NO_FORCES, "note": "the study has energies alone", "source": source}
        lines += _cells(
            {
                "architecture": context.variants.get(variant, variant),
                "study": files.study,
                "data": experiment,
                "dataset": f"{entry.get('dataset', experiment)} ({entry.get('high', '')})",
                "run": f"{experiment}/{variant}/{best}",
                "n_train": int(first["n_train_low"]) + int(first["n_train_high"]),
            },
            found,
        )
    return lines


MATRIX_NOTES = (
    "Rows with different data sets, labels or numbers of training rows cannot be compared with each other.",
    "Survived: share of all trajectories of the network without a failure, over the jobs that the list below names; "
    "jobs differ in molecules, temperatures and lengths.",
    "Speed: timed alone where the study times its networks, else as the first job of dynamics ran, with as many "
    "molecules at once as the list says, beside whatever else ran on the machine.",
    "“not run” means that no file of this scale has the number; “no forces” that labels or network have none.",
)


def matrix(
    studies: Sequence[StudyFiles],
    scorecard: PathLike | None,
    context: AllContext,
    output_figure: PathLike,
    output_table: PathLike,
) -> list[Path]:
    """Tabulate and draw what is known of each architecture.

    Args:
        studies: see :func:`matrix_rows`.
        scorecard: see :func:`matrix_rows`.
        context: names and scale.
        output_figure: path of the PNG file; SVG and CSV (one line per cell) lie beside it.
        output_table: path of the HTML file; CSV lies beside it.

    Returns:
        the paths written.
    """
    tidy = matrix_rows(studies, scorecard, context)
    keys = ["architecture", "study", "data", "dataset", "run", "n_train"]
    lines: list[dict[str, Any]] = []
    details = []
    for key, own in tidy.groupby(keys, sort=False):
        line = dict(zip(keys, key, strict=True))
        lines.append(line | dict(zip(own["measure"], own["text"], strict=True)))
        for _, cell in own[own["source"] != ""].iterrows():
            about = "; ".join(part for part in (cell["n"], cell["note"]) if part)
            details.append(
                {"architecture": line["architecture"], "run": line["run"], "measure": MEASURES[cell["measure"]][1],
                 "cell": cell["text"], "about": about, "source": cell["source"]}
            )  # fmt: skip
    # What is measured comes first, so that it is on the screen; which run it was follows.
    ordered = ["architecture", "dataset", *MEASURES, *(key for key in keys if key not in ("architecture", "dataset"))]
    wide = pd.DataFrame(lines, columns=ordered).sort_values(["architecture", "study"], kind="stable", ignore_index=True)
    headings = {
        "architecture": "Architecture", "study": "Study", "data": "Data", "dataset": "Data set (label)", "run": "Run",
        "n_train": "Training rows", **{name: heading for name, (_, heading) in MEASURES.items()},
    }  # fmt: skip
    sources = render_table(
        pd.DataFrame(details, columns=["architecture", "run", "measure", "cell", "about", "source"]),
        "Where every cell comes from",
        "Where every cell comes from: n, what was measured, and the file.",
        headings={"architecture": "Architecture", "run": "Run", "measure": "Measure", "cell": "Cell",
                  "about": "n and what", "source": "File"},
        cards=True,
    )  # fmt: skip
    page = render_html_table(
        wide,
        "What each network is good for, all studies",
        f"{context.scale} scale; one run for each architecture and data.",
        headings=headings,
        cell_class=lambda column, value: "none" if column in MEASURES and value in (NOT_RUN, NO_FORCES) else None,
        cards=True,
        after={"How to read it": list(MATRIX_NOTES)},
    )
    path = Path(output_table)
    write_text(path, page.replace("</main>", f"{sources}</main>"))
    with atomic_path(path.with_suffix(".csv")) as temporary:
        wide.to_csv(temporary, index=False, lineterminator="\n")
    return [path, path.with_suffix(".csv"), *_draw_matrix(tidy, context, output_figure)]


def _draw_matrix(tidy: pd.DataFrame, context: AllContext, output: PathLike) -> list[Path]:
    """One panel per measure, one line per architecture and data; a cross where nothing was run."""
    tidy = tidy.sort_values(["architecture", "study"], kind="stable", ignore_index=True)
    keys = (tidy[name] for name in ("architecture", "dataset", "data", "study", "run"))
    rows = list(dict.fromkeys(zip(*keys, strict=True)))
    studies = list(dict.fromkeys(tidy["study"]))
    colors = dict(zip(studies, list(OKABE_ITO.values())[1:], strict=False))
    with style():
        figure, axes = plt.subplots(
            2, 3, figsize=(FULL_WIDTH, 2.4 + 2 * (0.7 + 0.34 * max(len(rows), 1))), sharey=True, squeeze=False
        )
        for axis, (measure, (_, heading)) in zip(axes.flat, MEASURES.items(), strict=True):
            own = tidy[tidy["measure"] == measure].set_index(["study", "run"])
            if _LOGARITHMIC[measure]:
                _decades(axis, own["value"].dropna())
            else:
                axis.set_xlim(-0.05, 1.05)
            for place, (*_, study, run) in enumerate(rows):
                cell = own.loc[(study, run)]
                if math.isfinite(cell["value"]):
                    axis.plot(cell["value"], place, "o", color=colors.get(study, GREY), markersize=6)
                else:
                    axis.text(0.03, place, cell["text"], transform=axis.get_yaxis_transform(), color=GREY, fontsize=9,
                              va="center")  # fmt: skip
            axis.set_title(heading.replace(" (", "\n("))
        names = [f"{architecture}\n{dataset.partition(' (')[0]}: {data}" for architecture, dataset, data, *_ in rows]
        axes[0, 0].set_yticks(range(len(rows)), names)
        axes[0, 0].set_ylim(len(rows) - 0.4, -0.6)
        handles = [
            Line2D([], [], linestyle="", marker="o", color=colors.get(study, GREY), label=context.title(study))
            for study in studies
        ]
        if handles:
            figure.legend(handles=handles, loc="outside upper center", ncols=1)
        footer(
            figure,
            f"{context.scale} scale. One run for each architecture and data, named with its n in the table beside this "
            "figure. Studies (colours) have different data: compare within a colour only.",
        )
    return save_figure(figure, tidy, output)
