"""The training runs of a study, from lists of settings in its configuration.

A study lists its ``data`` (store, split and columns, by name) and ``groups`` of runs; a group is the product of its
lists. Runs that several groups ask for exist once. Light: the rules read it, so nothing here imports torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mlip_studies.config import merge
from mlip_studies.errors import InputError
from mlip_studies.run_names import AXES, run_name


@dataclass(frozen=True)
class Run:
    """One training, for one or more seeds.

    Attributes:
        name: unique within the study; see :mod:`mlip_studies.run_names`.
        groups: the groups that ask for it.
        data: name of the data in the study's configuration.
        network: name in config/models.yaml.
        shift: reference of the energies, see :func:`mlip_studies.training.data.fit_reference`.
        scale: what energies and forces are divided by: std, the spread of the training energies; None: nothing.
        energy_weight: weight of the energies in the SE(3)-Transformer's loss; None: the network's own loss.
        clip_norm: largest norm of the gradient, 0 for any; None: as the network is trained.
        learning_rate: first learning rate; None: as the network is trained.
        beta: weight of the forces in So3krates' loss; None: the network's own loss.
        n_layers: number of layers where it is not the network's own.
        max_steps: number of steps where it is not the group's; a decay of the learning rate is stretched with it.
        train_size: which of the split's nested training sets; None: its largest.
        seeds: of weights and order of the data.
        training: what differs from the network's own training.
        paper_network: the network and training of the paper at every scale.
        demo: whether ``make demo`` trains it.
    """

    name: str
    groups: tuple[str, ...]
    data: str
    network: str
    shift: str
    scale: str | None
    energy_weight: float | None
    clip_norm: float | None
    learning_rate: float | None
    beta: float | None
    n_layers: int | None
    max_steps: int | None
    train_size: int | None
    seeds: tuple[int, ...]
    training: Mapping[str, Any] = field(default_factory=dict)
    paper_network: bool = False
    demo: bool = False


def expand_runs(study: str, numbers: Mapping[str, Any]) -> dict[str, Run]:
    """All runs of a study by name.

    Args:
        study: its name, for messages.
        numbers: its merged configuration, with ``seeds``, ``training``, ``data`` and ``groups``.

    Raises:
        InputError: a group that names unknown data, or two groups that train the same run in different ways.
    """
    runs: dict[str, Run] = {}
    for group, entry in numbers["groups"].items():
        where = f"config/studies/{study}.yaml: key 'groups.{group}'"
        lists = {axis: entry[axis] if isinstance(entry.get(axis), list) else [entry.get(axis)] for axis in AXES}
        sizes = entry.get("steps_by_size")
        if sizes and {int(size) for size in sizes} != set(lists["train_size"]):
            raise InputError(f"{where}.steps_by_size: expected the group's sizes, {lists['train_size']}")
        for data in lists["data"]:
            if data not in numbers["data"]:
                raise InputError(f"{where}: {data!r} is none of the study's data; known: {', '.join(numbers['data'])}")
        training = merge(dict(numbers["training"]), dict(entry.get("training", {})))
        seeds = tuple(numbers["seeds"])[: entry.get("n_seeds")]
        by_size = {int(size): steps for size, steps in (entry.get("steps_by_size") or {}).items()}
        for values in itertools.product(*lists.values()):
            chosen = dict(zip(AXES, values, strict=True))
            name = run_name(chosen)
            # Larger training sets deserve more steps; the number is no part of the name.
            own = merge(training, {"max_steps": by_size[chosen["train_size"]]}) if by_size else training
            paper, demo = bool(entry.get("paper_network")), bool(entry.get("demo"))
            new = Run(name, (group,), **chosen, seeds=seeds, training=own, paper_network=paper, demo=demo)
            old = runs.get(name)
            if old is not None:
                if dict(old.training) != own or old.paper_network != paper:
                    raise InputError(f"{where}: run {name} is trained in another way in group {old.groups[0]}")
                new = replace(
                    new,
                    groups=(*old.groups, group),
                    seeds=max(old.seeds, new.seeds, key=len),
                    demo=old.demo or new.demo,
                )
            runs[name] = new
    return runs


def lookup_run(study: str, runs: Mapping[str, Run], name: str) -> Run:
    """A run by name.

    Raises:
        InputError: the study has no such run.
    """
    if name not in runs:
        raise InputError(f"study {study} has no run {name}; it has {', '.join(runs)}")
    return runs[name]


def run_configuration(
    run: Run,
    seed: int,
    data: Mapping[str, Any],
    networks: Mapping[str, Any],
    data_folder: str,
    budget: float = 1.0,
    study_folder: str = "",
) -> dict[str, Any]:
    """What :meth:`mlip_studies.training.run.RunConfig.from_dict` reads.

    Args:
        run: the run.
        seed: one of its seeds.
        data: the entry of its data: ``dataset``, ``split``, ``fidelity`` and optionally ``force_fidelity``,
            ``train_predictions`` and ``extends`` (its rows and its split come from the study itself).
        networks: config/models.yaml at this scale.
        data_folder: folder of the data sets' stores.
        budget: factor on the limits of steps and epochs.
        study_folder: folder of the study's results, with its energies of isolated atoms and extended data.

    Raises:
        InputError: a network that does not exist, or is not trained on energies and forces.
    """
    if run.network not in networks or not networks[run.network]["trained"].get("training"):
        raise InputError(f"run {run.name}: {run.network!r} is no network of config/models.yaml that can be trained")
    network = networks[run.network]
    entry = network if run.paper_network else network["trained"]
    training = merge(entry["training"], dict(run.training))
    if run.beta is not None:
        training["loss"] = {"name": "so3krates", "beta": run.beta}
    if run.energy_weight is not None:
        training["loss"] = {"name": "se3", "energy_weight": run.energy_weight}
    if run.clip_norm is not None:
        training["clip_norm"] = run.clip_norm or None
    if run.learning_rate is not None:
        training["optimizer"] = {**training.get("optimizer", {}), "learning_rate": run.learning_rate}
    if run.max_steps is not None:
        usual, schedule = training.get("max_steps"), training.get("schedule", {})
        if usual and "steps" in schedule:
            training["schedule"] = {**schedule, "steps": round(schedule["steps"] * run.max_steps / usual)}
        training["max_steps"] = run.max_steps
    for key in ("max_steps", "max_epochs"):
        if training.get(key):
            training[key] = max(1, round(training[key] * budget))
    options = dict(entry["options"])
    if run.n_layers is not None:
        options["n_layers"] = run.n_layers
    folder = f"{data_folder}/{data['dataset']}"
    split = f"{folder}/splits/{data['split']}.npz"
    result: dict[str, Any] = {
        "store": data_store(run.data, data, data_folder, study_folder),
        "split": f"{study_folder}/extended/{run.data}/split.npz" if "extends" in data else split,
        "fidelity": data["fidelity"],
        "shift": run.shift,
        "model": {"name": network["model"], "options": options},
        "training": training,
        "seed": seed,
        "label": f"{run.name}, seed {seed}",
    }
    if run.shift == "per_element":
        result["self_energies"] = f"{folder}/splits/{data['split']}.self_energies.json"
    elif run.shift == "isolated_atoms":
        result["self_energies"] = f"{study_folder}/isolated_atoms/{run.data}.json"
    if run.scale is not None:
        result["scale"] = run.scale
    if run.train_size is not None:
        result["train_size"] = run.train_size
    for key in ("force_fidelity", "train_predictions"):
        if key in data:
            result[key] = data[key]
    return result


def data_store(name: str, data: Mapping[str, Any], data_folder: str, study_folder: str) -> str:
    """Path of the store that an entry of a study's data means.

    Args:
        name: of the entry.
        data: the entry.
        data_folder: folder of the data sets' stores.
        study_folder: folder of the study's results, where data sets that it extends lie.
    """
    return (
        f"{study_folder}/extended/{name}/store.h5" if "extends" in data else f"{data_folder}/{data['dataset']}/store.h5"
    )
