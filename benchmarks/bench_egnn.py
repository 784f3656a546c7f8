"""Training throughput of the thesis's network: this package against the plain message-passing formulation.

The plain formulation is what one writes first with a graph library: every molecule is a separate record, a batch is
made by concatenating records in Python, the message network reads the concatenation [h_i, h_j, features(d_ij)] of every
edge, and sums go through scatter_add on an expanded index. Ours keeps the data set on the device, makes batches by
arithmetic, and splits the first message layer into products per atom (models/egnn_rff.py). Same weights, same batches,
same losses; the two are timed in turn, and the ratio is what counts.

    python benchmarks/bench_egnn.py [--seconds 10] [--batch 32 128]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor, nn

from mlip_studies.graph.batch import RaggedDataset
from mlip_studies.models.egnn_rff import EGNNAsCoded
from mlip_studies.training.device import choose_device, environment

ROOT = Path(__file__).parents[1]


def read_mini() -> tuple[list[np.ndarray], list[np.ndarray], list[float]]:
    """Atomic numbers, positions and (centred) energies of all rows of the shipped data set."""
    numbers, positions, energies = [], [], []
    with h5py.File(ROOT / "resources" / "ani1x-mini" / "ani1x-mini.h5") as stream:
        for name in stream:
            group = stream[name]
            energy = group["wb97x_dz.energy"][:] * 27.211386245981
            for row, frame in enumerate(group["coordinates"][:]):
                numbers.append(group["atomic_numbers"][:])
                positions.append(frame.astype(np.float64))
                energies.append(energy[row] - energy.mean())
    return numbers, positions, energies


class PlainNetwork(nn.Module):
    """The same network in the plain formulation, sharing the parameters of ``reference``."""

    def __init__(self, reference: EGNNAsCoded) -> None:
        super().__init__()
        self.reference = reference

    def forward(self, features: Tensor, positions: Tensor, edges: Tensor, graph: Tensor, n_graphs: int) -> Tensor:
        """Energies (n_graphs,) from atom features (n, 5), positions (n, 3), edges (2, e) and graph index (n,)."""
        nodes = self.reference.embed(features)
        receivers, senders = edges
        distances = (positions[receivers] - positions[senders]).norm(dim=1)
        for layer in self.reference.layers:
            inputs = torch.cat([nodes[receivers], nodes[senders], layer.fourier(distances)], dim=1)
            messages = layer.message_out(layer.message_in.linear(inputs))
            received = torch.zeros_like(nodes).scatter_add_(0, receivers[:, None].expand_as(messages), messages)
            nodes = nodes + layer.update(torch.cat([nodes, received], dim=1))
        pooled = nodes.new_zeros(n_graphs, nodes.shape[1]).scatter_add_(0, graph[:, None].expand_as(nodes), nodes)
        return self.reference.head(pooled).squeeze(1)


class PlainData:
    """Records with their own edge lists, concatenated per batch in Python."""

    def __init__(self, numbers: list[np.ndarray], positions: list[np.ndarray], energies: list[float], device) -> None:
        self.device = device
        self.records = []
        for z, x, energy in zip(numbers, positions, energies, strict=True):
            n = len(z)
            pairs = torch.tensor([(i, j) for i in range(n) for j in range(n) if i != j], dtype=torch.int64).T
            one_hot = torch.zeros(n, 5)
            one_hot[torch.arange(n), torch.tensor([{1: 0, 6: 1, 7: 2, 8: 3}[int(v)] for v in z])] = 1.0
            one_hot[:, 4] = 1.0
            self.records.append((one_hot, torch.tensor(x, dtype=torch.float32), pairs, energy))

    def batch(self, rows: np.ndarray):
        """Concatenate the records ``rows``."""
        features, positions, edges, graph, target, offset = [], [], [], [], [], 0
        for index, row in enumerate(rows):
            one_hot, x, pairs, energy = self.records[row]
            features.append(one_hot)
            positions.append(x)
            edges.append(pairs + offset)
            graph.append(torch.full((len(x),), index))
            target.append(energy)
            offset += len(x)
        tensors = [torch.cat(features), torch.cat(positions), torch.cat(edges, dim=1), torch.cat(graph)]
        return [t.to(self.device) for t in tensors], torch.tensor(target, device=self.device)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Measure and print a Markdown table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="time per formulation and batch size")
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    numbers, positions, energies = read_mini()
    ptr = np.concatenate([[0], np.cumsum([len(z) for z in numbers])])
    ours_data = RaggedDataset(
        np.concatenate(numbers), np.concatenate(positions), ptr, np.array(energies), np.ones(len(numbers)), device
    )
    plain_data = PlainData(numbers, positions, energies, device)
    torch.manual_seed(0)
    model = EGNNAsCoded().to(device)
    plain = PlainNetwork(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)

    def step_ours(rows: np.ndarray) -> Tensor:
        batch, target = ours_data.batch(rows)
        return (model(batch) - target).square().mean()

    def step_plain(rows: np.ndarray) -> Tensor:
        (features, x, edges, graph), target = plain_data.batch(rows)
        return (plain(features, x, edges, graph, len(rows)) - target).square().mean()

    rng = np.random.default_rng(0)
    rows = rng.choice(len(numbers), 64, replace=False)
    with torch.no_grad():
        difference = abs(float(step_ours(rows)) - float(step_plain(rows))) / float(step_plain(rows))
    assert difference < 1e-4, f"the formulations disagree: relative difference of the loss {difference:.1e}"
    print(
        f"{len(numbers)} molecules, mean {ptr[-1] / len(numbers):.2f} atoms; device {device}, threads {options.threads}"
    )
    print("\n| batch | plain, configurations/s | ours, configurations/s | ratio (median of pairs) |\n|---|---|---|---|")
    results = []
    for size in options.batch:
        rates: dict[str, list[float]] = {"plain": [], "ours": []}
        ratios = []
        end = time.perf_counter() + 2 * options.seconds
        first = True
        while time.perf_counter() < end or len(ratios) < 3:
            pair = {}
            for name, step in (("plain", step_plain), ("ours", step_ours)):
                synchronise(device)
                start = time.perf_counter()
                for _ in range(5):
                    loss = step(rng.choice(len(numbers), size, replace=False))
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
                synchronise(device)
                pair[name] = 5 * size / (time.perf_counter() - start)
            if first:  # warm-up
                first = False
                continue
            for name, value in pair.items():
                rates[name].append(value)
            ratios.append(pair["ours"] / pair["plain"])
        row = {name: statistics.median(values) for name, values in rates.items()}
        results.append({"batch": size, **row, "ratio": statistics.median(ratios), "pairs": len(ratios)})
        print(f"| {size} | {row['plain']:.0f} | {row['ours']:.0f} | {statistics.median(ratios):.2f} |")
    print("\n" + json.dumps({"results": results, "environment": environment(device)}))


if __name__ == "__main__":
    main()
