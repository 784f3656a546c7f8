"""What a network of config/models.yaml is: its parameters and the equivariance of its layers, measured."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlip_studies.artifacts import PathLike, write_text
from mlip_studies.errors import InputError
from mlip_studies.graph.batch import make_batch
from mlip_studies.models.base import AtomisticModel
from mlip_studies.models.equivariance import layer_errors, network_errors
from mlip_studies.models.registry import build_model

#: molecules of ASE's G2 collection, of the elements that every network knows
MOLECULES = ("CH3CH2OH", "CH3CONH2", "CH3CN", "C6H6")
#: models whose layers and whole networks are also measured with roto-translations
ROTOTRANSLATED = ("se3_transformer",)
#: standard deviation of each component of the translations, Å: molecules stay near the origin, where single precision
#: still resolves their distances
TRANSLATION = 1.0
PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


def measured_molecules(seed: int = 0, spread: float = 0.05) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Small organic molecules with randomly displaced atoms.

    Args:
        seed: of the displacements.
        spread: their standard deviation, Å.

    Returns:
        (atomic numbers (n,), positions (n, 3) in Å) of each.
    """
    from ase.build import molecule

    rng = np.random.default_rng(seed)
    result = []
    for name in MOLECULES:
        atoms = molecule(name)
        positions = atoms.positions + rng.normal(scale=spread, size=atoms.positions.shape)
        result.append((atoms.numbers.astype(np.int64), positions - positions.mean(axis=0)))
    return result


def excite(model: AtomisticModel, seed: int) -> None:
    """Give every layer something to do: biases and weights that start at zero get small random values.

    Freshly drawn output layers are often zero, and the error of nothing says nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and float(parameter.abs().max()) == 0.0:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def measure_model(
    name: str, entry: dict[str, Any], output: PathLike, seed: int = 0, n_rotations: int = 20, threads: int = 1
) -> None:
    """Count the parameters of a network and measure its layers; write both as JSON.

    ``layers`` has the errors of each layer with rotations. Of the models in :data:`ROTOTRANSLATED` there are also
    ``rototranslations``: the same with roto-translations, and ``whole network``, energies and forces from positions.

    Args:
        name: name in config/models.yaml.
        entry: its entry.
        output: path of the JSON file.
        seed: of the weights, the molecules and the rotations.
        n_rotations: rotations per layer.
        threads: CPU threads.

    Raises:
        InputError: unknown model or option.
    """
    torch.set_num_threads(threads)
    layers: list[dict[str, Any]] = []
    moved: list[dict[str, Any]] = []
    model = None
    for precision, dtype in PRECISIONS.items() if entry.get("measure_layers", True) else ():
        torch.manual_seed(seed)
        model = build_model(entry["model"], entry["options"])
        excite(model, seed)
        model.to(dtype)
        batch = make_batch(measured_molecules(seed), model.cutoff, dtype=dtype)
        layers += [{"precision": precision, **vars(error)} for error in layer_errors(model, batch, n_rotations, seed)]
        if entry["model"] in ROTOTRANSLATED:
            errors = layer_errors(model, batch, n_rotations, seed, TRANSLATION)
            errors += network_errors(model, batch, n_rotations, seed, TRANSLATION)
            moved += [{"precision": precision, **vars(error)} for error in errors]
    model = model if model is not None else build_model(entry["model"], entry["options"])
    if layers and not all(np.isfinite(layer["maximum"]) for layer in [*layers, *moved]):
        raise InputError(f"config/models.yaml: {name}: a layer puts out numbers that are not finite; check its options")
    result = {
        "name": name,
        "title": entry["title"],
        "source": entry["source"],
        "model": entry["model"],
        "options": entry["options"],
        "parameters": model.n_parameters(),
        "parameters_published": entry.get("parameters"),
        "cutoff": model.cutoff,
        "forces": "direct" if model.direct_forces else "gradient",
        "layers": layers,
        **({"rototranslations": moved, "translation_angstrom": TRANSLATION} if moved else {}),
        "molecules": list(MOLECULES),
        "n_rotations": n_rotations,
        "seed": seed,
        "torch": torch.__version__,
    }
    write_text(output, json.dumps(result, indent=1))
