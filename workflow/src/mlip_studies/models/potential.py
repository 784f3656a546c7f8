"""A trained model with its frozen per-element shifts, and its one-file form.

The file is safetensors: weights, shifts, scale and constant as tensors, everything else (model name, options, elements,
units, provenance) as JSON in its header, with a checksum over all of it. Loading executes nothing from the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mlip_studies.artifacts import PathLike, atomic_path, require
from mlip_studies.elements import symbols
from mlip_studies.errors import InputError
from mlip_studies.graph.batch import GraphBatch
from mlip_studies.graph.scatter import gather
from mlip_studies.models.base import AtomisticModel
from mlip_studies.models.catalog import MODELS
from mlip_studies.models.registry import build_model

FORMAT = "mlip-studies-potential"
VERSION = 2
UNITS = {"energy": "eV", "length": "angstrom"}
#: rows of the shift table, in the order of :attr:`GraphBatch.fidelity`
FIDELITIES = ("high", "low")
_N_NUMBERS = 119
_KEY = "mlip_studies"
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Potential(nn.Module):
    """Total energies: scale times the model's energy, plus a shift per atom, plus a constant per molecule.

    E = scale * E_model + sum_i shift(fidelity, Z_i) + constant, in eV. The three references are float64 whatever the
    type of the model's weights, and so is the sum: single-precision weights do not round energies of thousands of eV.
    An element outside :attr:`elements` has the shift NaN, so that nothing unknown passes for an energy.
    """

    shifts: Tensor
    scale: Tensor
    constant: Tensor

    def __init__(
        self,
        model: AtomisticModel,
        name: str,
        options: dict[str, Any],
        shifts: Mapping[str, Sequence[float]],
        scale: float = 1.0,
        constant: float = 0.0,
        elements: Sequence[int] | None = None,
    ) -> None:
        """Wrap a model.

        Args:
            model: predicts energies relative to the shifts.
            name: its name in the catalog.
            options: its constructor's options.
            shifts: for ``high`` and ``low``, one energy per element of ``elements``, eV; if one of them is missing,
                both fidelities have the same shifts.
            scale: factor on the model's energies and forces.
            constant: energy of every molecule besides, eV.
            elements: atomic numbers that the potential was trained for; all that the model knows if not given.

        Raises:
            InputError: elements that the model does not know, or shifts that do not fit the elements.
        """
        super().__init__()
        self.model, self.name, self.options = model, name, options
        self.elements = tuple(int(z) for z in (model.elements if elements is None else elements))
        foreign = sorted(set(self.elements) - set(model.elements))
        if foreign or not self.elements or len(set(self.elements)) != len(self.elements):
            raise InputError(
                f"model {name!r}: elements {list(self.elements)} of a potential; expected some of those that the model "
                f"knows, each once ({', '.join(symbols(model.elements))})"
            )
        given = [key for key in FIDELITIES if key in shifts]
        if not given:
            raise InputError(f"model {name!r}: no shifts; give one energy per element for {' and '.join(FIDELITIES)}")
        table = torch.full((len(FIDELITIES), _N_NUMBERS), torch.nan, dtype=torch.float64)
        for row, fidelity in enumerate(FIDELITIES):
            values = torch.as_tensor(list(shifts[fidelity if fidelity in given else given[0]]), dtype=torch.float64)
            if values.shape != (len(self.elements),) or not bool(torch.isfinite(values).all()):
                raise InputError(
                    f"model {name!r}: shifts of {fidelity!r} are {values.tolist()}; expected {len(self.elements)} "
                    f"finite energies (eV) for {', '.join(symbols(self.elements))}"
                )
            table[row, list(self.elements)] = values
        self.register_buffer("shifts", table)
        self.register_buffer("scale", torch.tensor(float(scale), dtype=torch.float64))
        self.register_buffer("constant", torch.tensor(float(constant), dtype=torch.float64))
        if not bool(torch.isfinite(self.scale) & torch.isfinite(self.constant)):
            raise InputError(f"model {name!r}: scale {scale} and constant {constant} must be finite numbers")

    @classmethod
    def of_total_energies(cls, model: AtomisticModel, name: str, options: dict[str, Any] | None = None) -> Potential:
        """Wrap a model that predicts total energies itself, as published potentials do: all shifts are zero."""
        return cls(model, name, {} if options is None else options, {"high": [0.0] * len(model.elements)})

    @property
    def cutoff(self) -> float | None:
        """Longest distance at which atoms interact directly (Å); None: any."""
        return self.model.cutoff

    @property
    def direct_forces(self) -> bool:
        """Whether forces come from a head of their own instead of the energy's gradient."""
        return self.model.direct_forces

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights, and of the positions that the model takes."""
        return dtype_of(self.model)

    @property
    def device(self) -> torch.device:
        """Where the potential is."""
        return self.shifts.device

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Potential:
        """Move or cast everything; the references stay float64."""
        exact = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch has it unannotated
        for name, value in exact.items():
            moved = self._buffers[name]
            if value is not None and moved is not None and moved.dtype != value.dtype:
                self._buffers[name] = value.to(moved.device)
        return self

    def reference_energy(self, batch: GraphBatch) -> Tensor:
        """Sum of shifts plus the constant, shape (n_graphs,), eV, float64."""
        row = gather(batch.fidelity, batch.graph_index)
        per_atom = gather(self.shifts.view(-1), row * _N_NUMBERS + batch.atomic_numbers)
        return batch.sum_atoms(per_atom) + self.constant

    def forward(self, batch: GraphBatch) -> Tensor:
        """Total energy, shape (n_graphs,), eV, float64."""
        energies: Tensor = self.scale * self.model(batch).double() + self.reference_energy(batch)
        return energies

    def energy_and_forces(self, batch: GraphBatch, create_graph: bool = False) -> tuple[Tensor, Tensor]:
        """Total energy (n_graphs,), eV, float64, and forces (n_atoms, 3), eV/Å, in the type of the positions.

        Args:
            batch: molecules; only known elements (see :mod:`mlip_studies.models.checks`).
            create_graph: keep what is needed to differentiate the forces.
        """
        energy, forces = self.model.energy_and_forces(batch, create_graph)
        total = self.scale * energy.double() + self.reference_energy(batch)
        return total, forces * self.scale.to(forces.dtype)

    def save(self, path: PathLike, provenance: dict[str, Any]) -> None:
        """Write the potential to one file.

        Args:
            path: a ``.safetensors`` file.
            provenance: where it comes from; anything that JSON can hold.

        Raises:
            InputError: the model is none of the catalog (published weights stay in their own files), or the folder
                cannot be written to.
        """
        from safetensors.torch import save_file

        if self.name not in MODELS:
            raise InputError(f"model {self.name!r} cannot be saved: it is none of {', '.join(sorted(MODELS))}")
        header = {
            "format": FORMAT,
            "version": VERSION,
            "model": self.name,
            "options": self.options,
            "elements": list(self.elements),
            "dtype": str(self.dtype).removeprefix("torch."),
            "units": UNITS,
            "provenance": provenance,
        }
        # Clones, because safetensors refuses tensors that share memory (tied weights).
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in self.state_dict().items()}
        # What a reader will see: tuples become lists.
        header = json.loads(json.dumps(header))
        header["sha256"] = _digest(header, tensors)
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={_KEY: json.dumps(header, sort_keys=True)})


def dtype_of(model: nn.Module) -> torch.dtype:
    """Floating-point type of a model's parameters (of its buffers if it has none; else torch's default)."""
    for values in (model.parameters(), model.buffers()):
        for value in values:
            if value.is_floating_point():
                return value.dtype
    return torch.get_default_dtype()


def _digest(header: dict[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the header (without this digest) and all tensors: safetensors itself has no checksum."""
    content = {key: value for key, value in header.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for key in sorted(tensors):
        value = tensors[key]
        digest.update(f"\n{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: PathLike) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a potential's file, after checking that they are ours and whole."""
    from safetensors import SafetensorError, safe_open

    path = require(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as stream:
            metadata = stream.metadata() or {}
            tensors = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable safetensors file ({reason}); train the model again") from error
    if _KEY not in metadata:
        raise InputError(f"{path}: weights without this package's header; expected a file that `Potential.save` wrote")
    try:
        header = json.loads(metadata[_KEY])
        if not isinstance(header, dict):
            raise ValueError("no table")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged header ({error}); train the model again") from error
    if header.get("format") != FORMAT or header.get("version") != VERSION:
        raise InputError(
            f"{path}: format {header.get('format')!r} version {header.get('version')!r}; expected {FORMAT!r} version "
            f"{VERSION}: train the model again"
        )
    if header.get("units") != UNITS:
        raise InputError(f"{path}: units {header.get('units')}; expected {UNITS}")
    if header.get("sha256") != _digest(header, tensors):
        raise InputError(f"{path}: damaged, its content does not match its checksum; restore it or train it again")
    return header, tensors


def _check_tensors(path: PathLike, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Stop with one line unless the tensors are those of the model.

    Raises:
        InputError: missing, foreign or non-finite tensors, or other shapes or types.
    """
    missing, foreign = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or foreign:
        kind, names = ("missing", missing) if missing else ("unknown to the model", foreign)
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise InputError(
            f"{path}: tensor {names[0]!r}{more} {kind}; the file and its model's options do not belong together"
        )
    for key, value in expected.items():
        other = found[key]
        if other.shape != value.shape or other.dtype != value.dtype:
            raise InputError(
                f"{path}: tensor {key!r} is {other.dtype} {tuple(other.shape)}; the model has {value.dtype} "
                f"{tuple(value.shape)}: the file and its model's options do not belong together"
            )
        if other.is_floating_point() and key != "shifts" and not bool(torch.isfinite(other).all()):
            raise InputError(f"{path}: tensor {key!r} has values that are not finite; train the model again")


def load_potential(
    path: PathLike, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> tuple[Potential, dict[str, Any]]:
    """Read a potential and its header; nothing in the file is executed.

    Args:
        path: a file that :meth:`Potential.save` wrote.
        device: where to put it.
        dtype: type to convert the weights to; as saved if not given.

    Raises:
        InputError: the file is missing, damaged, of another format, version or units, or does not fit its own model.
    """
    header, tensors = _read(path)
    try:
        name, options, elements = header["model"], dict(header["options"]), list(header["elements"])
        weights = _DTYPES[header["dtype"]]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: incomplete header ({error!r}); train the model again") from error
    try:
        model = build_model(name, options).to(weights)
        potential = Potential(model, name, options, {"high": [0.0] * len(elements)}, elements=elements)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    _check_tensors(path, potential.state_dict(), tensors)
    if not torch.equal(potential.shifts.isnan(), tensors["shifts"].isnan()):
        raise InputError(f"{path}: its shifts and its elements do not belong together; train the model again")
    potential.load_state_dict(tensors)
    return potential.to(device=device, dtype=dtype).eval(), header
