"""Molecules of different sizes, kept on one device and batched by index.

The whole training set stays in device memory; a batch is made there from row numbers, without a loader process.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class GraphBatch:
    """A batch of molecules; every ordered pair of atoms of a molecule within the cutoff is an edge.

    Attributes:
        atomic_numbers: shape (n_atoms,), int64.
        positions: shape (n_atoms, 3), Å.
        graph_index: molecule of each atom, shape (n_atoms,), int64.
        receivers: atom i that an edge's message goes to, shape (n_edges,), int64.
        senders: atom j that it comes from, shape (n_edges,), int64.
        atoms_per_graph: shape (n_graphs,), int64.
        fidelity: 1 for a row with low-fidelity label, 0 for high fidelity, shape (n_graphs,), int64.
    """

    atomic_numbers: Tensor
    positions: Tensor
    graph_index: Tensor
    receivers: Tensor
    senders: Tensor
    atoms_per_graph: Tensor
    fidelity: Tensor

    @property
    def n_graphs(self) -> int:
        """Number of molecules."""
        return self.atoms_per_graph.shape[0]

    def with_positions(self, positions: Tensor) -> GraphBatch:
        """The same graph at other positions (n_atoms, 3), for example ones that require gradients."""
        return GraphBatch(
            self.atomic_numbers,
            positions,
            self.graph_index,
            self.receivers,
            self.senders,
            self.atoms_per_graph,
            self.fidelity,
        )


def all_pairs(atoms_per_graph: Tensor, n_edges: int | None = None) -> tuple[Tensor, Tensor]:
    """All ordered pairs of distinct atoms within each molecule, sorted by receiver.

    Args:
        atoms_per_graph: shape (n_graphs,), int64.
        n_edges: sum of n (n - 1), if known (saves a synchronisation on a GPU).

    Returns:
        receivers and senders, each of shape (n_edges,).
    """
    counts = atoms_per_graph * (atoms_per_graph - 1)
    if n_edges is None:
        n_edges = int(counts.sum())
    graph = torch.repeat_interleave(counts, output_size=n_edges)
    first_edge = torch.cumsum(counts, 0) - counts
    first_atom = torch.cumsum(atoms_per_graph, 0) - atoms_per_graph
    within = torch.arange(n_edges, device=counts.device) - first_edge[graph]
    others = atoms_per_graph[graph] - 1
    receiver = torch.div(within, others.clamp(min=1), rounding_mode="floor")
    sender = within - receiver * others
    sender = sender + (sender >= receiver).to(sender.dtype)
    return receiver + first_atom[graph], sender + first_atom[graph]


class RaggedDataset:
    """Molecules with one target energy each, on one device."""

    def __init__(
        self,
        atomic_numbers: NDArray[np.integer],
        positions: NDArray[np.floating],
        ptr: NDArray[np.integer],
        target: NDArray[np.floating],
        fidelity: NDArray[np.integer],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        cutoff: float | None = None,
    ) -> None:
        """Copy arrays to the device.

        Args:
            atomic_numbers: shape (n_atoms,).
            positions: shape (n_atoms, 3), Å; each molecule is centred to keep single precision exact.
            ptr: first atom of each molecule, shape (n_graphs + 1,).
            target: energy to learn, shape (n_graphs,), eV.
            fidelity: 1 low, 0 high, shape (n_graphs,).
            device: where to keep everything.
            dtype: floating-point type.
            cutoff: pairs farther apart (Å) are no edges; None keeps all pairs.
        """
        counts = np.diff(ptr)
        graph = np.repeat(np.arange(len(counts)), counts)
        centre = np.zeros((len(counts), 3))
        np.add.at(centre, graph, positions)
        centred = positions - (centre / np.maximum(counts, 1)[:, None])[graph]
        self.device = torch.device(device)
        self.dtype = dtype
        self.atomic_numbers = torch.as_tensor(np.asarray(atomic_numbers), dtype=torch.int64, device=self.device)
        self.positions = torch.as_tensor(centred, dtype=dtype, device=self.device)
        self.first_atom = torch.as_tensor(ptr[:-1].astype(np.int64), device=self.device)
        self.atoms_per_graph = torch.as_tensor(counts.astype(np.int64), device=self.device)
        self._counts = counts.astype(np.int64)
        self.target = torch.as_tensor(np.asarray(target), dtype=dtype, device=self.device)
        self.fidelity = torch.as_tensor(np.asarray(fidelity), dtype=torch.int64, device=self.device)
        radius = float(np.linalg.norm(centred, axis=1).max()) if len(centred) else 0.0
        # No pair of any molecule can be beyond the cutoff: the mask would keep everything.
        self.cutoff = None if cutoff is None or 2.0 * radius <= cutoff else cutoff

    def __len__(self) -> int:
        """Number of molecules."""
        return len(self._counts)

    def batch(self, rows: NDArray[np.integer]) -> tuple[GraphBatch, Tensor]:
        """The molecules ``rows`` as one graph, and their targets (len(rows),) in eV."""
        counts = self._counts[rows]
        n_atoms, n_edges = int(counts.sum()), int((counts * (counts - 1)).sum())
        index = torch.as_tensor(rows, dtype=torch.int64, device=self.device)
        per_graph = self.atoms_per_graph[index]
        graph = torch.repeat_interleave(per_graph, output_size=n_atoms)
        offset = self.first_atom[index] - (torch.cumsum(per_graph, 0) - per_graph)
        atoms = torch.arange(n_atoms, device=self.device) + offset[graph]
        receivers, senders = all_pairs(per_graph, n_edges)
        positions = self.positions[atoms]
        if self.cutoff is not None:
            keep = (positions[receivers] - positions[senders]).norm(dim=1) <= self.cutoff
            receivers, senders = receivers[keep], senders[keep]
        batch = GraphBatch(
            self.atomic_numbers[atoms], positions, graph, receivers, senders, per_graph, self.fidelity[index]
        )
        return batch, self.target[index]
