"""Published potentials behind this package's model interface: ANI, MACE and Orb.

Their packages are optional and imported on use; their weights are files at hand, named in the configuration by path
and SHA-256. Nothing of a file is parsed before its checksum holds: MACE's files are pickles, and the text of ANI's
NeuroChem networks is evaluated by its reader.

All of them return total energies, their atoms' energies included, so that a potential around them has zero shifts.

Sources: ANI-1x, J. S. Smith et al., J. Chem. Phys. 148, 241733 (2018); ANI-1ccx, J. S. Smith et al., Nat. Commun. 10,
2903 (2019); ANI-2x, C. Devereux et al., J. Chem. Theory Comput. 16, 4192 (2020); MACE, I. Batatia et al., NeurIPS 2022;
Orb, M. Neumann et al., arXiv:2410.22570.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mlip_studies.artifacts import sha256_of
from mlip_studies.elements import symbols
from mlip_studies.errors import InputError
from mlip_studies.graph.batch import GraphBatch
from mlip_studies.graph.scatter import gather
from mlip_studies.models.base import AtomisticModel
from mlip_studies.models.compat import foreign_imports
from mlip_studies.models.potential import Potential, dtype_of
from mlip_studies.units import HARTREE_TO_EV

#: kind -> (module that must be there, how to get it)
PACKAGES = {
    "ani": ("torchani", "torchani>=2.9"),
    "mace": ("mace", "mace-torch>=0.3.14 with e3nn==0.4.4, in the `pretrained` environment"),
    "orb": ("orb_models", "orb-models>=0.5, in the `pretrained` environment"),
}
#: kind -> options of a specification and what they mean
OPTIONS = {
    "ani": {"member": "number of one network of the ensemble; the mean of all if not given"},
    "mace": {"head": "name of the readout of a model with several"},
    "orb": {"variant": "name of the architecture in orb-models, such as orb-v2 or orb-d3-v2"},
}
#: the 89 elements of the training data (MPtrj, B. Deng et al., Nat. Mach. Intell. 5, 1031 (2023)): up to plutonium
#: without polonium to radium. Orb's embedding has rows for all others too, which were never trained.
ORB_ELEMENTS = (*range(1, 84), *range(89, 95))


@dataclass(frozen=True)
class PretrainedSpec:
    """A published potential as the configuration names it.

    Attributes:
        name: how tables and figures call it.
        kind: ``ani``, ``mace`` or ``orb``.
        path: its weights. ANI: the ``.info`` file of a NeuroChem ensemble, whose paths are relative to its folder.
            MACE: the ``.model`` file. Orb: the ``.ckpt`` file.
        sha256: of the weights, see :func:`weights_sha256`.
        options: see :data:`OPTIONS`.
        licence: of the weights, for the report.
    """

    name: str
    kind: str
    path: Path
    sha256: str
    options: dict[str, Any] = field(default_factory=dict)
    licence: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in PACKAGES:
            raise InputError(f"{self.name}: kind {self.kind!r} is unknown; choose one of {', '.join(PACKAGES)}")
        unknown = sorted(set(self.options) - set(OPTIONS[self.kind]))
        if unknown:
            raise InputError(
                f"{self.name}: option {unknown[0]!r} is unknown; {self.kind} has {', '.join(OPTIONS[self.kind])}"
            )
        digits = self.sha256.lower() if isinstance(self.sha256, str) else ""
        if len(digits) != 64 or set(digits) - set("0123456789abcdef"):
            raise InputError(f"{self.name}: sha256 {self.sha256!r}; expected 64 hexadecimal digits")
        object.__setattr__(self, "sha256", digits)
        object.__setattr__(self, "path", Path(self.path).expanduser())

    @classmethod
    def from_dict(cls, name: str, entry: Mapping[str, Any], root: Path | str = ".") -> PretrainedSpec:
        """Read an entry of the configuration.

        Args:
            name: of the potential.
            entry: ``kind``, ``path``, ``sha256``, and where wanted ``options`` and ``licence``.
            root: folder that a relative path starts from.

        Raises:
            InputError: unknown or missing keys, or values that make no sense.
        """
        known = [item.name for item in fields(cls) if item.name != "name"]
        unknown = sorted(set(entry) - set(known))
        if unknown:
            raise InputError(f"{name}: key {unknown[0]!r} is unknown; expected {', '.join(known)}")
        missing = [key for key in ("kind", "path", "sha256") if not entry.get(key)]
        if missing:
            raise InputError(f"{name}: key {missing[0]!r} is missing; a published potential has kind, path and sha256")
        path = Path(root) / Path(str(entry["path"])).expanduser()
        options = dict(entry.get("options") or {})
        return cls(name, str(entry["kind"]), path, str(entry["sha256"]), options, entry.get("licence"))


def _ani_files(info: Path) -> tuple[Path, Path, Path, int]:
    """Constants, self energies, prefix of the networks' folders and number of networks that an ANI info file names."""
    try:
        lines = [line.strip() for line in info.read_text(encoding="utf-8").splitlines()][:4]
        constants, self_energies, prefix = (info.parent / line for line in lines[:3])
        size = int(lines[3])
    except (OSError, ValueError, IndexError) as error:
        raise InputError(
            f"{info}: expected an ANI info file of four lines (constants, self energies, prefix of the networks, their "
            "number)"
        ) from error
    root = info.parent.resolve()
    for path in (constants, self_energies, prefix):
        if not path.resolve().is_relative_to(root):
            raise InputError(f"{info}: names {path}, which is outside its own folder")
    return constants, self_energies, prefix, size


def weights_files(kind: str, path: Path | str) -> list[Path]:
    """All files that make up the weights, sorted by name.

    Raises:
        InputError: one of them is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; get the weights from their publisher, or correct `path`")
    files = [path]
    if kind == "ani":
        constants, self_energies, prefix, size = _ani_files(path)
        files += [constants, self_energies]
        for index in range(size):
            folder = prefix.parent / f"{prefix.name}{index}" / "networks"
            found = sorted(item for item in folder.glob("*") if item.is_file())
            if not found:
                raise InputError(f"{folder}: no networks, but {path} names {size} of them; copy the weights again")
            files += found
        for each in files:
            if not each.is_file():
                raise InputError(f"{each}: no such file, but {path} names it; copy the weights again")
    return sorted(set(files))


def weights_sha256(kind: str, path: Path | str) -> str:
    """Checksum of the weights.

    Of a single file its SHA-256. Of several files (ANI) the SHA-256 of the lines ``<sha256>  <relative path>`` of all
    of them, sorted by path: what ``sha256sum`` prints for the files in this order, hashed once more.

    Raises:
        InputError: a file is missing.
    """
    path = Path(path)
    files = weights_files(kind, path)
    if len(files) == 1:
        return sha256_of(files[0])
    lines = sorted((each.relative_to(path.parent).as_posix(), sha256_of(each)) for each in files)
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in lines).encode()).hexdigest()


def unavailable(spec: PretrainedSpec) -> str | None:
    """Why a potential cannot be used here (its package or its weights are not at hand), None if it can."""
    module, requirement = PACKAGES[spec.kind]
    if importlib.util.find_spec(module) is None:
        return f"{spec.name}: the package {module} is not installed; install {requirement}"
    try:
        weights_files(spec.kind, spec.path)
    except InputError as error:
        return f"{spec.name}: {error}"
    return None


def load_pretrained(
    spec: PretrainedSpec, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64
) -> AtomisticModel:
    """Load a published potential.

    Args:
        spec: which one.
        device: where to put it.
        dtype: type of its weights, and of the positions that it takes.

    Raises:
        InputError: the package or the weights are missing, the checksum does not hold, or the file is none of its kind.
    """
    reason = unavailable(spec)
    if reason is not None:
        raise InputError(reason)
    found = weights_sha256(spec.kind, spec.path)
    if found != spec.sha256:
        raise InputError(
            f"{spec.path}: sha256 is {found}, expected {spec.sha256}; copy the weights again or correct `sha256`"
        )
    model = {"ani": _load_ani, "mace": _load_mace, "orb": _load_orb}[spec.kind](spec, dtype)
    return model.to(device=device, dtype=dtype).eval().requires_grad_(False)


def load_pretrained_potential(
    spec: PretrainedSpec, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64
) -> Potential:
    """A published potential with zero shifts; see :func:`load_pretrained`."""
    return Potential.of_total_energies(load_pretrained(spec, device, dtype), spec.name).to(device).eval()


def _package(spec: PretrainedSpec, module: str) -> Any:
    """Import a module of an optional package."""
    try:
        with foreign_imports(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except Exception as error:  # whatever a foreign package does at import
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{spec.name}: {module} cannot be imported ({reason}); install {PACKAGES[spec.kind][1]}"
        ) from error


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Set torch's default type for a while: orb-models makes tensors of that type when it is called."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _row_of(elements: tuple[int, ...]) -> Tensor:
    """Row of each atomic number in ``elements``, -1 for all others, shape (119,), int64."""
    lookup = torch.full((119,), -1, dtype=torch.int64)
    lookup[list(elements)] = torch.arange(len(elements))
    return lookup


class PublishedModel(AtomisticModel):
    """What the published potentials share.

    They are for inference: their reading of the graph may wait for the device. Energies of single atoms are summed in
    float64 where the package gives them; ``sum_as_published`` sums them in the model's own type, as the package does
    (in single precision the energy of a molecule then moves in visible steps). ``cutoff`` is in Å.
    """

    sum_as_published: bool = False
    lookup: Tensor

    def __init__(self, elements: tuple[int, ...], cutoff: float | None) -> None:
        super().__init__()
        self.elements, self.cutoff = elements, cutoff
        self.register_buffer("lookup", _row_of(elements), persistent=False)

    def rows(self, batch: GraphBatch) -> Tensor:
        """Row of each atom's element, shape (n_atoms,), int64.

        Raises:
            InputError: an element that the model does not know.
        """
        rows = gather(self.lookup, batch.atomic_numbers)
        if bool((rows < 0).any()):
            foreign = sorted(set(batch.atomic_numbers[rows < 0].tolist()))
            raise InputError(
                f"unknown element {', '.join(symbols(foreign))}; the model knows {', '.join(symbols(self.elements))}"
            )
        return rows

    def total(self, batch: GraphBatch, *parts: Tensor) -> Tensor:
        """Sum of atomic energies, each (n_atoms,), over each molecule, shape (n_graphs,), float64."""
        if not self.sum_as_published:
            return sum((batch.sum_atoms(part) for part in parts[1:]), batch.sum_atoms(parts[0]))
        dtype = parts[0].dtype
        sums = [part.new_zeros(batch.n_graphs).index_add(0, batch.graph_index, part.to(dtype)) for part in parts]
        return sum(sums[1:], sums[0]).double()


class ANI(PublishedModel):
    """An ensemble of ANI networks, evaluated by torchani.

    torchani's feature and network modules are called with this package's own edges, all molecules being one set of
    atoms: molecules of any sizes share a batch without padding.
    """

    self_energies: Tensor

    def __init__(self, network: Any) -> None:
        """Wrap a :class:`torchani.arch.ANI`."""
        super().__init__(tuple(int(z) for z in network.atomic_numbers), float(network.cutoff))
        potentials = list(network.potentials)
        if potentials != ["nnp"]:
            raise InputError(f"ANI model with the terms {', '.join(potentials)}; expected its networks only")
        self.features = network.potentials["nnp"].aev_computer
        self.networks = network.potentials["nnp"].neural_networks
        # As torchani keeps them: the single-precision values of the file's numbers.
        self.register_buffer("self_energies", network.energy_shifter.self_energies.detach().clone())

    def _atomic(self, batch: GraphBatch, members: bool) -> tuple[Tensor, Tensor]:
        """Energies of the networks and self energies of the atoms, hartree."""
        from torchani.neighbors import Neighbors, discard_outside_cutoff

        rows = self.rows(batch).unsqueeze(0)
        vectors = batch.edge_vectors()
        if batch.n_pairs is None:
            one_way = torch.nonzero(batch.receivers < batch.senders).squeeze(1)
        else:
            one_way = torch.arange(batch.n_pairs, device=vectors.device)
        vectors = gather(vectors, one_way)
        pairs = torch.stack([gather(batch.senders, one_way), gather(batch.receivers, one_way)])
        neighbors = discard_outside_cutoff(Neighbors(pairs, vectors.norm(dim=1), vectors), self.cutoff)
        features = self.features.compute_from_neighbors(rows, batch.positions.unsqueeze(0), neighbors)
        return self.networks(rows, features, True, members), gather(self.self_energies, rows[0])

    def forward(self, batch: GraphBatch) -> Tensor:
        """Total energy, the mean of the ensemble, shape (n_graphs,), eV, float64."""
        atomic, self_energies = self._atomic(batch, members=False)
        return self.total(batch, atomic[0], self_energies) * HARTREE_TO_EV

    def member_energies(self, batch: GraphBatch) -> Tensor:
        """Total energy by each network of the ensemble, shape (n_members, n_graphs), eV, float64."""
        atomic, self_energies = self._atomic(batch, members=True)
        rows = [self.total(batch, member[0], self_energies) for member in atomic]
        return torch.stack(rows) * HARTREE_TO_EV


def _load_ani(spec: PretrainedSpec, dtype: torch.dtype) -> ANI:
    os.environ.setdefault("TORCHANI_NO_WARN_EXTENSIONS", "1")
    neurochem, arch = _package(spec, "torchani.neurochem"), _package(spec, "torchani.arch")
    constants, self_energies, prefix, size = _ani_files(spec.path)
    member = spec.options.get("member")
    if member is not None and (isinstance(member, bool) or not isinstance(member, int) or not 0 <= member < size):
        raise InputError(f"{spec.name}: member {member!r}; expected a number from 0 to {size - 1}")
    try:
        info = neurochem.NeurochemInfo(self_energies, constants, prefix, size)
        features, networks, shifter, names = neurochem.modules_from_info(info, member)
        network = arch.ANI(names, features, networks, shifter)
    except Exception as error:  # the reader has no error of its own for damaged files
        raise InputError(
            f"{spec.path}: torchani cannot read these weights ({type(error).__name__}: {error})"
        ) from error
    return ANI(network)


class MACE(PublishedModel):
    """A MACE model, evaluated by mace-torch."""

    network: nn.Module

    def __init__(self, network: Any, head: str | None = None) -> None:
        """Wrap a :class:`mace.modules.MACE`.

        Args:
            network: the model.
            head: name of its readout; may be left out if it has one, or one called ``default``.

        Raises:
            InputError: it has no such head, or is no plain energy model.
        """
        missing = [name for name in ("atomic_numbers", "r_max", "atomic_energies_fn") if not hasattr(network, name)]
        if missing or hasattr(network, "joint_embedding"):
            raise InputError(f"{type(network).__name__}: no MACE model of energies without charge and spin")
        super().__init__(tuple(int(z) for z in network.atomic_numbers), float(network.r_max))
        self.network = network
        heads = [str(name) for name in getattr(network, "heads", None) or ["Default"]]
        if head is None:
            chosen = heads if len(heads) == 1 else [name for name in heads if name.lower() == "default"]
        else:
            chosen = [name for name in heads if name == head]
        if not chosen:
            raise InputError(f"head {head!r} of a MACE model; choose one of {', '.join(heads)}")
        self.head = heads.index(chosen[0])

    def forward(self, batch: GraphBatch) -> Tensor:
        """Total energy, shape (n_graphs,), eV, float64."""
        rows = self.rows(batch)
        positions = batch.positions
        # The package marks the positions that it gets as differentiable: never the caller's.
        positions = positions if positions.requires_grad else positions.clone()
        near = torch.nonzero(batch.edge_vectors().detach().norm(dim=1) <= self.cutoff).squeeze(1)
        edges = torch.stack([gather(batch.senders, near), gather(batch.receivers, near)])
        # Vectors go from the first atom of an edge to the second there, against ours.
        shifts = positions.new_zeros(len(near), 3) if batch.edge_shift is None else -gather(batch.edge_shift, near)
        counts = batch.atoms_per_graph
        data = {
            "positions": positions,
            "node_attrs": nn.functional.one_hot(rows, len(self.elements)).to(positions.dtype),
            "edge_index": edges,
            "shifts": shifts,
            "unit_shifts": torch.zeros_like(shifts),
            "cell": positions.new_zeros(3 * batch.n_graphs, 3),
            "batch": batch.graph_index,
            "ptr": torch.cat([counts.new_zeros(1), torch.cumsum(counts, 0)]),
            "head": torch.full((batch.n_graphs,), self.head, device=positions.device),
        }
        output = self.network(data, training=True, compute_force=False)
        energy = output["energy"].double() if self.sum_as_published else batch.sum_atoms(output["node_energy"])
        return energy if torch.is_grad_enabled() and batch.positions.requires_grad else energy.detach()


def _load_mace(spec: PretrainedSpec, dtype: torch.dtype) -> MACE:
    _package(spec, "mace.modules")
    try:
        with foreign_imports(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A pickled module; its checksum was compared before.
            network = torch.load(spec.path, map_location="cpu", weights_only=False)
    except Exception as error:  # unpickling runs code of several packages
        reason = " ".join(str(error).split())
        raise InputError(
            f"{spec.path}: mace-torch cannot read these weights ({type(error).__name__}: {reason}); e3nn must be 0.4.4"
        ) from error
    if not isinstance(network, nn.Module):
        raise InputError(f"{spec.path}: holds a {type(network).__name__}; expected a MACE model")
    return MACE(network, spec.options.get("head"))


class Orb(PublishedModel):
    """An Orb model, evaluated by orb-models.

    Each atom takes messages from its nearest neighbours only (20 in version 2), which the package finds on the host;
    the batch's edges are not used. Version 2 predicts forces by a head of their own, whose mean and torque are
    subtracted.
    """

    extensive = False

    network: Any

    def __init__(self, network: Any) -> None:
        """Wrap a regressor of :mod:`orb_models.forcefield`."""
        super().__init__(ORB_ELEMENTS, float(network.system_config.radius))
        self.network = network
        self.direct_forces = not hasattr(network, "grad_forces_name")

    def _predict(self, batch: GraphBatch) -> dict[str, Tensor]:
        """What the package predicts for a batch; the padding graph is left out."""
        from ase import Atoms
        from orb_models.forcefield.atomic_system import ase_atoms_to_atom_graphs
        from orb_models.forcefield.base import batch_graphs

        self.rows(batch)
        positions, dtype = batch.positions, dtype_of(self.network)
        numbers = batch.atomic_numbers.cpu().numpy()
        host = positions.detach().cpu().double().numpy()
        counts = batch.atoms_per_graph.cpu().numpy()
        counts = counts[:-1] if batch.is_padded else counts
        first = np.concatenate([[0], np.cumsum(counts)])
        with _default_dtype(dtype):
            graphs = [
                ase_atoms_to_atom_graphs(
                    Atoms(numbers[start:end], host[start:end]),
                    self.network.system_config,
                    edge_method="knn_scipy",
                    device=torch.device("cpu"),
                )
                for start, end in pairwise(first)
            ]
            graph = batch_graphs(graphs).to(device=positions.device)
            if positions.requires_grad:
                own = positions[: first[-1]]
                graph.node_features["positions"] = own
                graph.edge_features["vectors"] = gather(own, graph.receivers) - gather(own, graph.senders)
            predicted: dict[str, Tensor] = self.network.predict(graph)
            return predicted

    def _padded(self, values: Tensor, size: int) -> Tensor:
        """Values followed by zeros, ``size`` rows."""
        return torch.cat([values, values.new_zeros((size - values.shape[0], *values.shape[1:]))])

    def forward(self, batch: GraphBatch) -> Tensor:
        """Total energy, shape (n_graphs,), eV, float64.

        It is differentiable at positions that require gradients if the model has a head for forces: minus its gradient
        is not the force then, which tells how far the two are apart.
        """
        energy = self._predict(batch)["energy"].reshape(-1).double()
        return self._padded(energy if self.direct_forces else energy.detach(), batch.n_graphs)

    def energy_and_forces(self, batch: GraphBatch, create_graph: bool = False) -> tuple[Tensor, Tensor]:
        """Energy (n_graphs,), eV, and the predicted forces (n_atoms, 3), eV/Å.

        Args:
            batch: molecules.
            create_graph: must be False.

        Raises:
            InputError: ``create_graph``; these models are not trained here.
        """
        if create_graph:
            raise InputError("Orb models are for inference only: their forces cannot be differentiated here")
        output = self._predict(batch.with_positions(batch.positions.detach()))
        forces = output["forces" if self.direct_forces else self.network.grad_forces_name].detach()
        energy = output["energy"].reshape(-1).double().detach()
        return self._padded(energy, batch.n_graphs), self._padded(forces, batch.n_atoms)


def _load_orb(spec: PretrainedSpec, dtype: torch.dtype) -> Orb:
    module = _package(spec, "orb_models.forcefield.pretrained")
    variant = spec.options.get("variant")
    known = module.ORB_PRETRAINED_MODELS
    if variant not in known:
        raise InputError(f"{spec.name}: variant {variant!r} is unknown; orb-models has {', '.join(sorted(known))}")
    precision = "float64" if dtype == torch.float64 else "float32-highest"
    try:
        with foreign_imports(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = known[variant](weights_path=str(spec.path), device="cpu", precision=precision, compile=False)
    except Exception as error:  # whatever a foreign package does with a foreign file
        reason = " ".join(str(error).split())
        raise InputError(
            f"{spec.path}: orb-models cannot read these weights as {variant} ({type(error).__name__}: {reason})"
        ) from error
    return Orb(network)
