"""Batches: pairs, triplets, padding, sums over groups."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlip_studies.errors import InputError
from mlip_studies.graph.batch import Budget, RaggedDataset, all_pairs, make_batch
from mlip_studies.graph.scatter import gather, scatter_sum
from mlip_studies.graph.triplets import edge_pairs


def dataset(counts, cutoff=None, seed=0, **options):
    rng = np.random.default_rng(seed)
    ptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    n = int(ptr[-1])
    return RaggedDataset(
        rng.choice([1, 6, 8], n),
        rng.normal(size=(n, 3)) * 2.0,
        ptr,
        rng.normal(size=len(counts)),
        rng.integers(0, 2, len(counts)),
        dtype=torch.float64,
        cutoff=cutoff,
        forces=rng.normal(size=(n, 3)),
        **options,
    )


def brute_force_pairs(counts):
    first = np.concatenate([[0], np.cumsum(counts)])
    return {
        frozenset((first[g] + i, first[g] + j))
        for g, n in enumerate(counts)
        for i in range(n)
        for j in range(n)
        if i < j
    }


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5))
def test_all_pairs_meets_every_pair_of_a_molecule_once(counts):
    i, j = all_pairs(torch.tensor(counts))
    found = [frozenset(pair) for pair in zip(i.tolist(), j.tolist(), strict=True)]
    assert len(set(found)) == len(found)
    assert set(found) == brute_force_pairs(counts)


@pytest.mark.parametrize("cutoff", [None, 3.0])
def test_edges_come_in_pairs_and_respect_the_cutoff(cutoff):
    batch, _ = dataset([5, 1, 7, 2], cutoff).batch(np.array([2, 0, 3, 1]))
    back = batch.reverse_edge()
    assert torch.equal(batch.receivers[back], batch.senders)
    vectors = batch.positions[batch.senders] - batch.positions[batch.receivers]
    assert torch.allclose(batch.edge_vectors(), vectors, atol=1e-15)
    distance = torch.cdist(batch.positions, batch.positions)
    same = batch.graph_index[:, None] == batch.graph_index[None, :]
    same.fill_diagonal_(False)
    expected = same if cutoff is None else same & (distance <= cutoff)
    found = torch.zeros_like(expected)
    found[batch.receivers, batch.senders] = True
    assert torch.equal(found, expected)


def test_symmetric_evaluates_half_of_the_edges():
    batch, _ = dataset([4, 3]).batch(np.array([0, 1]))
    seen = []

    def square(d):
        seen.append(len(d))
        return d**2

    d = batch.edge_vectors().norm(dim=1)
    assert torch.equal(batch.symmetric(square, d), d**2)
    assert seen == [batch.n_edges // 2]


@pytest.mark.parametrize("cutoff", [None, 3.0])
def test_triplets_against_a_loop(cutoff):
    batch, _ = dataset([5, 1, 6, 2], cutoff).batch(np.arange(4))
    edge, other = edge_pairs(batch)
    r = batch.receivers.tolist()
    expected = {(a, b) for a in range(batch.n_edges) for b in range(batch.n_edges) if a != b and r[a] == r[b]}
    assert set(zip(edge.tolist(), other.tolist(), strict=True)) == expected
    assert len(edge) == len(expected)
    assert torch.equal(edge, edge.sort()[0])


def test_a_batch_without_edges_has_no_triplets():
    batch = make_batch([([8], [[0.0, 0.0, 0.0]]), ([1], [[1.0, 0.0, 0.0]])], cutoff=5.0)
    assert batch.n_edges == 0
    edge, other = edge_pairs(batch)
    assert len(edge) == len(other) == 0


def test_padded_batch_holds_the_ragged_one_and_nothing_else_touches_it():
    counts = [5, 1, 6, 2, 4]
    data = dataset(counts)
    rows = np.array([3, 2, 0])
    chosen = np.array(counts)[rows]
    atoms, pairs, triplets = Budget.of_counts(chosen)
    budget = Budget(3, atoms + 3, pairs + 5, triplets + 7, 6)
    assert budget.holds(chosen)
    ragged, labels = data.batch(rows)
    padded, padded_labels = data.padded_batch(torch.tensor(rows), budget, reach=5.0)
    assert padded.is_padded and padded.n_atoms == atoms + 3 and padded.n_edges == 2 * (pairs + 5)
    assert torch.equal(padded.positions[:atoms], ragged.positions)
    assert torch.equal(padded.atomic_numbers[:atoms], ragged.atomic_numbers)
    assert torch.equal(padded.fidelity[:3], ragged.fidelity)
    for half, offset in ((0, 0), (pairs, pairs + 5)):
        assert torch.equal(padded.receivers[offset : offset + pairs], ragged.receivers[half : half + pairs])
        assert torch.equal(padded.senders[offset : offset + pairs], ragged.senders[half : half + pairs])
    extra = torch.cat([padded.receivers[pairs : pairs + 5], padded.senders[pairs : pairs + 5]])
    assert int(extra.min()) >= atoms
    assert float(padded.edge_vectors()[pairs : pairs + 5].norm(dim=1).min()) > 5.0
    assert torch.equal(padded_labels.energy, torch.cat([labels.energy, torch.zeros(1, dtype=torch.float64)]))
    assert torch.equal(padded_labels.forces[:atoms], labels.forces)
    assert float(padded_labels.forces[atoms:].abs().max()) == 0.0
    assert padded_labels.graph_weight.tolist() == [1.0, 1.0, 1.0, 0.0]
    assert float(padded_labels.atom_weight.sum()) == atoms
    edge, other = edge_pairs(padded)
    assert len(edge) == triplets + 7
    ragged_edge, ragged_other = edge_pairs(ragged)

    def renumber(index):
        return torch.where(index < pairs + 5, index, index - 5)

    found = set(zip(renumber(edge[:triplets]).tolist(), renumber(other[:triplets]).tolist(), strict=True))
    assert found == set(zip(ragged_edge.tolist(), ragged_other.tolist(), strict=True))
    left_over = padded.edge_vectors()
    cosine = (left_over[edge[triplets:]] * left_over[other[triplets:]]).sum(dim=1)
    assert float(cosine.abs().max()) < 1e-12


def test_budget_of_a_data_set_holds_its_batches():
    data = dataset([3, 8, 5, 6, 4, 7, 2, 5] * 4)
    budget = data.budget(6)
    rng = np.random.default_rng(1)
    fits = [budget.holds(rng.choice(data.counts, 6, replace=False)) for _ in range(100)]
    assert np.mean(fits) > 0.9
    assert not budget.holds(np.full(6, 8))
    assert not budget.holds(data.counts[:5])


def test_centring_moves_no_pair():
    rng = np.random.default_rng(0)
    positions = rng.normal(size=(4, 3)) + 50.0
    data = RaggedDataset(np.array([1, 1, 6, 8]), positions, np.array([0, 4]), np.zeros(1), dtype=torch.float64)
    assert float(data.positions.mean(dim=0).abs().max()) < 1e-12
    assert np.allclose(data.positions.numpy() - data.positions[0].numpy(), positions - positions[0])


def test_make_batch_says_what_is_wrong():
    with pytest.raises(InputError, match="at least one molecule"):
        make_batch([])
    with pytest.raises(InputError, match=r"molecule 1: 2 atomic numbers and positions of shape \(3, 3\)"):
        make_batch([([1], [[0, 0, 0]]), ([1, 1], np.zeros((3, 3)))])


def test_gather_is_the_transpose_of_scatter_sum():
    torch.manual_seed(0)
    index = torch.randint(0, 5, (20,))
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(20, 3, dtype=torch.float64)
    assert torch.allclose((gather(x, index) * y).sum(), (x * scatter_sum(y, index, 5)).sum())
    assert torch.autograd.gradgradcheck(lambda v: gather(v, index).square(), (x,))
