"""Reading and checking of the configuration files; every mistake is one line that names file and key."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mlip_studies.errors import InputError

SCALES = ("mini", "full")


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping.

    Raises:
        InputError: missing file, broken YAML, or no mapping.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; restore it from the repository")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}: not valid YAML{where} ({getattr(error, 'problem', error)}); mend the file") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: a mapping of keys was expected, found {type(content).__name__}")
    return content


def validate(content: dict[str, Any], schema_path: Path, label: str) -> None:
    """Check a mapping against a JSON schema.

    Raises:
        InputError: one line with the file, the key, what was expected and, for an unknown key, the nearest known one.
    """
    import jsonschema

    validator = jsonschema.Draft202012Validator(read_yaml(schema_path))
    errors = sorted(validator.iter_errors(content), key=lambda e: (len(e.absolute_path), str(e.absolute_path)))
    if not errors:
        return
    error = errors[0]
    key = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        unknown = sorted(str(name) for name in set(error.instance) - set(known))
        name = unknown[0] if unknown else "?"
        close = difflib.get_close_matches(name, list(known), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(sorted(known))}"
        full = f"{key}.{name}" if key else name
        raise InputError(f"{label}: unknown key {full!r}; {hint}")
    raise InputError(f"{label}: key {key or '(top level)'!r}: {_expected(error)}")


_KINDS = {
    "array": "a list in brackets, such as [one, two]",
    "object": "a mapping of keys",
    "string": "a text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "null",
}


def _expected(error: Any) -> str:
    """What a schema's error expected, in the words of YAML rather than JSON."""
    if error.validator == "type":
        wanted = [error.validator_value] if isinstance(error.validator_value, str) else error.validator_value
        return f"expected {' or '.join(_KINDS[kind] for kind in wanted)}, found {error.instance!r}"
    if error.validator == "enum":
        choices = [str(choice) for choice in error.validator_value]
        close = difflib.get_close_matches(str(error.instance), choices, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return f"expected one of {', '.join(choices)}, found {error.instance!r}{hint}"
    if error.validator == "required":
        missing = sorted(set(error.validator_value) - set(error.instance))
        return f"key {missing[0]!r} is missing"
    return str(error.message)


def merge(base: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    """``override`` laid over ``base``: mappings merge, everything else replaces."""
    result = copy.deepcopy(base)
    for key, value in override.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merge(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


@dataclass(frozen=True)
class Project:
    """The whole configuration of one scale, checked.

    Attributes:
        scale: ``mini`` or ``full``.
        settings: config/config.yaml.
        studies: merged numbers of each enabled study.
        titles: title and citation of each study.
        datasets: config/datasets.yaml.
        data: merged content of config/data.yaml: data sets to describe, named splits, charged particles.
        models: config/models.yaml: the networks of the papers, and the check of their training.
        pretrained: config/pretrained.yaml: published potentials; ``path`` is None where no folder of weights is named.
    """

    scale: str
    settings: dict[str, Any]
    studies: dict[str, dict[str, Any]]
    titles: dict[str, dict[str, str]]
    datasets: dict[str, dict[str, Any]]
    data: dict[str, Any]
    models: dict[str, Any]
    pretrained: dict[str, dict[str, Any]]

    @property
    def results(self) -> str:
        """Folder of this scale's results."""
        return f"{self.settings['results']}/{self.scale}"


def load_study(root: Path, name: str, scale: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The numbers of one study at one scale, and its title and citation."""
    path = root / "config" / "studies" / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in (root / "config" / "studies").glob("*.yaml"))
        raise InputError(f"config/config.yaml: study {name!r} is unknown; choose from {', '.join(known)}")
    content = read_yaml(path)
    label = f"config/studies/{name}.yaml"
    unknown = set(content) - {"study", "title", "citation", *SCALES}
    if unknown:
        raise InputError(f"{label}: unknown key {sorted(unknown)[0]!r}; known keys: study, title, citation, full, mini")
    if "full" not in content:
        raise InputError(f"{label}: key 'full' is missing; it holds the study's numbers")
    numbers = content["full"] if scale == "full" else merge(content["full"], content.get("mini") or {})
    validate(numbers, root / "workflow" / "schemas" / f"{name}.schema.yaml", label)
    return numbers, {"title": content.get("title", name), "citation": content.get("citation", "")}


def load_project(settings: dict[str, Any], root: Path) -> Project:
    """Check the settings and load every enabled study and the data sets.

    Raises:
        InputError: see :func:`validate`.
    """
    settings = dict(settings)
    if isinstance(settings.get("seeds"), list):
        # On the command line (--config 'seeds=[0,1]') the members of a list arrive as text.
        settings["seeds"] = [int(s) if isinstance(s, str) and s.isdigit() else s for s in settings["seeds"]]
    validate(settings, root / "workflow" / "schemas" / "config.schema.yaml", "config/config.yaml")
    mirror = settings.get("mirror")
    if mirror is not None and "://" not in mirror and not Path(mirror).expanduser().is_dir():
        raise InputError(
            f"config/config.yaml: key 'mirror': no folder {mirror}; name the one that holds the data files"
        )
    datasets = read_yaml(root / "config" / "datasets.yaml")
    validate(datasets, root / "workflow" / "schemas" / "datasets.schema.yaml", "config/datasets.yaml")
    datasets = datasets.get("datasets", datasets)
    studies, titles = {}, {}
    for name in settings["studies"]:
        numbers, titles[name] = load_study(root, name, settings["scale"])
        studies[name] = _with_overrides(numbers, settings, name)
        for kind in ("experiments", "data", "tests"):
            for key, entry in numbers.get(kind, {}).items():
                if entry["dataset"] not in datasets:
                    raise InputError(
                        f"config/studies/{name}.yaml: key '{kind}.{key}.dataset': {entry['dataset']!r} is not in "
                        f"config/datasets.yaml; known data sets: {', '.join(sorted(datasets))}"
                    )
    return Project(
        settings["scale"],
        settings,
        studies,
        titles,
        datasets,
        load_data(root, settings, datasets),
        load_models(root, settings["scale"]),
        load_pretrained(root, settings),
    )


def load_pretrained(root: Path, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """config/pretrained.yaml, with paths below the folder of weights of the settings.

    Raises:
        InputError: a mistake in the file, or a folder of weights that is not there.
    """
    label = "config/pretrained.yaml"
    content = read_yaml(root / "config" / "pretrained.yaml")
    validate(content, root / "workflow" / "schemas" / "pretrained.schema.yaml", label)
    folder = settings.get("weights")
    if folder is not None and not Path(folder).expanduser().is_dir():
        raise InputError(f"config/config.yaml: key 'weights': no folder {folder}; name the one that holds the weights")
    return {
        name: {**entry, "path": None if folder is None else str(Path(folder).expanduser() / entry["path"])}
        for name, entry in content.items()
    }


def load_models(root: Path, scale: str) -> dict[str, Any]:
    """config/models.yaml at one scale: ``networks`` by name and ``training_check``.

    A network's ``options`` and ``training`` are those of the paper, with which parameters are counted and layers
    measured. ``trained`` has what the check of training uses: with ``training_options``, and at the mini scale with
    those of ``mini``.

    Raises:
        InputError: a mistake in the file, or a model that is not in the catalog.
    """
    from mlip_studies.models.catalog import MODELS

    label = "config/models.yaml"
    content = read_yaml(root / "config" / "models.yaml")
    validate(content, root / "workflow" / "schemas" / "models.schema.yaml", label)
    for name, entry in content["networks"].items():
        if entry["model"] not in MODELS:
            known = _nearest(entry["model"], MODELS)
            raise InputError(f"{label}: key 'networks.{name}.model': {entry['model']!r} is no model{known}")
        trained = {"options": merge(entry["options"], entry.pop("training_options", {}))}
        if entry["training"] is not None:
            trained["training"] = entry["training"]
        entry["trained"] = merge(trained, entry.pop("mini", {})) if scale == "mini" else trained
    check = content["training_check"]
    content["training_check"] = check["full"] if scale == "full" else merge(check["full"], check["mini"])
    return content


def load_data(root: Path, settings: dict[str, Any], datasets: dict[str, Any]) -> dict[str, Any]:
    """config/data.yaml at one scale: data sets to describe, named splits, charged particles.

    A split that is null at a scale does not exist there. ``data_sets`` of the settings replaces the list of data sets.

    Raises:
        InputError: a mistake in the file, or a data set or base split that does not exist.
    """
    label = "config/data.yaml"
    content = read_yaml(root / "config" / "data.yaml")
    unknown = set(content) - set(SCALES)
    if unknown or "full" not in content:
        raise InputError(f"{label}: expected the keys full and mini, found {', '.join(sorted(content))}")
    data = content["full"] if settings["scale"] == "full" else merge(content["full"], content.get("mini") or {})
    data["splits"] = {name: spec for name, spec in data.get("splits", {}).items() if spec is not None}
    validate(data, root / "workflow" / "schemas" / "data.schema.yaml", label)
    used = {f"splits.{name}.dataset": spec["dataset"] for name, spec in data["splits"].items()}
    used |= {f"table31.{name}": dataset for name, dataset in data["table31"].items()}
    used |= {f"datasets[{i}]": name for i, name in enumerate(data["datasets"] or [])}
    for key, name in used.items():
        if name not in datasets:
            raise InputError(f"{label}: key '{key}': {name!r} is not in config/datasets.yaml{_nearest(name, datasets)}")
    for name in settings.get("data_sets") or []:
        if name not in datasets:
            known = _nearest(name, datasets)
            raise InputError(f"config/config.yaml: key 'data_sets': {name!r} is not in config/datasets.yaml{known}")
    for name, spec in data["splits"].items():
        base = spec.get("base")
        if base and (base not in data["splits"] or data["splits"][base]["dataset"] != spec["dataset"]):
            owner = spec["dataset"]
            raise InputError(f"{label}: key 'splits.{name}.base': {base!r} is not a split of data set {owner!r}")
        if len(spec.get("val", [])) not in (0, 1, len(spec.get("train", []))):
            raise InputError(f"{label}: key 'splits.{name}.val': expected one size, or one per training size")
    return data


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"


def _with_overrides(numbers: dict[str, Any], settings: dict[str, Any], name: str) -> dict[str, Any]:
    """Apply the settings that shrink a study: seeds, mixes, and budget_scale to trainings.

    Dynamics and checks are shortened where their jobs are made, as their least lengths depend on these.
    """
    numbers = copy.deepcopy(numbers)
    if settings.get("seeds"):
        numbers["seeds"] = list(settings["seeds"])
    if settings.get("mixes"):
        available = {mix for entry in numbers.get("experiments", {}).values() for mix in entry["mixes"]}
        for mix in settings["mixes"]:
            if available and mix not in available:
                raise InputError(
                    f"config/config.yaml: key 'mixes': {mix!r} is not a mix of study {name}; "
                    f"known: {', '.join(sorted(available))}"
                )
        for entry in numbers.get("experiments", {}).values():
            entry["mixes"] = _restricted(entry["mixes"], settings["mixes"])
    factor = settings.get("budget_scale", 1.0)
    for training in _trainings(numbers):
        for key in ("max_steps", "max_epochs"):
            if training.get(key):
                training[key] = max(1, round(training[key] * factor))
    return numbers


def _restricted(mixes: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Only the named mixes; an experiment that has none of them keeps all of its own."""
    return {key: mixes[key] for key in mixes if key in set(names)} or mixes


def _trainings(numbers: dict[str, Any]) -> list[dict[str, Any]]:
    # Studies with groups of runs have the factor applied to each run, whichever of its settings holds the limit.
    result = [numbers["training"]] if "training" in numbers and "groups" not in numbers else []
    result += [entry["training"] for entry in numbers.get("variants", {}).values() if "training" in entry]
    return result
