"""The builder: filters and their funnel, checksums in one pass, configurations that occur twice, interrupted builds."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlip_studies import artifacts
from mlip_studies.data import build
from mlip_studies.data.build import build_store
from mlip_studies.data.readers import READERS
from mlip_studies.data.store import Block, Store
from mlip_studies.errors import InputError


def molecule(group: str, n: int, first: int, elements=(1, 8), columns=None, info=None) -> Block:
    """Frames of an unlikely molecule without forces."""
    rng = np.random.default_rng(first + len(group))
    center = 0.7 * np.arange(len(elements))[:, None] * np.ones(3)
    shift = 0.1 * rng.normal(size=(n, len(elements), 3))
    energy = -2057.0 + 2.0 * (shift**2).sum(axis=(1, 2))
    return Block(
        group,
        np.array(elements, dtype=np.uint8),
        center + shift,
        {"e": energy},
        {},
        np.arange(first, first + n),
        info or {},
        {name: np.asarray(values) for name, values in (columns or {}).items()},
    )


def entry(name: str = "toy", reader: str = "md17", **changes: Any) -> dict[str, Any]:
    part = {
        "name": name,
        "title": name,
        "reader": reader,
        "elements": ["H", "O"],
        "levels": {"e": "a level"},
        "fidelities": {"e": {"energy": "E"}},
        "units": {"energy": "eV", "length": "angstrom"},
        "citation": "nobody",
        "licence": "none",
    }
    return part | changes


def dataset(*names: str, **changes: Any) -> dict[str, Any]:
    """A data set with one file per name."""
    one = entry(**changes)
    return one | {"source_entries": [one | {"file": {"name": name}} for name in names]}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Make files that 'hold' the blocks given; the readers keep what they declare, but yield these."""
    held: dict[Path, list[Block]] = {}

    @dataclasses.dataclass(frozen=True)
    class Spec:
        info: tuple[str, ...]
        columns: tuple[str, ...]
        positions_dtype: str = "float64"

        def load(self):
            def read(path: Path, entry: Any, block_rows: int) -> Iterator[Block]:
                yield from held[path]

            return read

    monkeypatch.setattr(build, "get_reader", lambda name: Spec(READERS[name].info, READERS[name].columns))

    def make(name: str, *blocks: Block) -> Path:
        path = tmp_path / name
        path.write_text(f"the bytes of {name}")
        held[path] = list(blocks)
        return path

    return make


class OneFilter:
    """Keeps what a rule says; the reason tells how often it was asked."""

    def __init__(self, name: str, rule) -> None:
        self.name, self.rule, self.seen = name, rule, 0

    def keep(self, block: Block) -> np.ndarray:
        self.seen += len(block)
        return self.rule(block)

    def reason(self) -> str:
        return f"saw {self.seen}"


@pytest.fixture
def filters(monkeypatch):
    """Filters by name, and the arguments with which they were asked for."""
    rules = {
        "odd": lambda block: block.source_rows % 2 == 1,
        "nothing": lambda block: np.zeros(len(block), dtype=bool),
        "not a": lambda block: np.full(len(block), block.group != "a"),
    }
    asked: list[tuple[str, dict[str, Path]]] = []

    def make(entry, aux):
        asked.append((entry["name"], dict(aux)))
        return [OneFilter(options["name"], rules[options["name"]]) for options in entry["filters"]]

    monkeypatch.setattr(build, "make_filters", make)
    return asked


def run(data, sources, folder: Path, aux=None) -> tuple[Store, list[dict[str, str]]]:
    build_store(data, sources, folder / "out" / "store.h5", folder / "out" / "funnel.csv", aux)
    with (folder / "out" / "funnel.csv").open(newline="") as stream:
        return Store(folder / "out" / "store.h5"), list(csv.DictReader(stream))


def fails(data, sources, folder: Path, *fragments: str, aux=None) -> None:
    """One line that holds the fragments, and nothing written."""
    with pytest.raises(InputError) as caught:
        build_store(data, sources, folder / "out" / "store.h5", folder / "out" / "funnel.csv", aux)
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message, message
    assert [item for item in (folder / "out").rglob("*") if item.is_file()] == []


def test_filters_follow_each_other_and_have_a_step_each(tmp_path, files, filters):
    source = files("x", molecule("a", 10, 0), molecule("b", 6, 10), molecule("c", 5, 16))
    data = dataset("x", filters=[{"name": "odd"}, {"name": "not a"}])
    store, funnel = run(data, [source], tmp_path)
    with store:
        assert store.source_rows().tolist() == [11, 13, 15, 17, 19]
        assert store.group_names == ["b", "c"]
        assert store.provenance["filters"] == {"toy": [{"name": "odd"}, {"name": "not a"}]}
        assert [step["step"] for step in store.provenance["funnel"]] == [step["step"] for step in funnel]
    assert [(step["step"], step["rows"], step["removed"]) for step in funnel] == [
        ("read", "21", "0"),
        ("expected elements", "21", "0"),
        ("odd", "10", "11"),
        ("not a", "5", "5"),
        ("finite labels", "5", "0"),
        ("stored", "5", "0"),
    ]
    # The second filter saw only what the first one kept.
    assert (funnel[2]["reason"], funnel[3]["reason"]) == ("saw 21", "saw 10")


def test_one_set_of_filters_sees_all_files_of_a_data_set(tmp_path, files, filters):
    sources = [files("x", molecule("a", 4, 0)), files("y", molecule("b", 6, 0))]
    store, funnel = run(dataset("x", "y", filters=[{"name": "odd"}]), sources, tmp_path)
    with store:
        assert [part["rows"] for part in store.provenance["sources"]] == [4, 6]
    assert funnel[2] == {"step": "odd", "rows": "5", "removed": "5", "reason": "saw 10"}
    assert filters == [("toy", {})]


def test_filters_of_a_composed_data_set(tmp_path, files, filters):
    parts = [
        entry("one", filters=[{"name": "odd"}], file={"name": "x"}),
        entry("two", fidelities={"f": {"energy": "E"}}, file={"name": "y"}),
    ]
    data = entry("both", reader="compose", sources={}, source_entries=parts, filters=[{"name": "not a"}])
    second = molecule("a", 3, 0)
    second = dataclasses.replace(second, energies={"f": second.energies["e"]})
    third = dataclasses.replace(second, group="b", source_rows=second.source_rows + 3)
    sources = [files("x", molecule("b", 4, 0)), files("y", second, third)]
    store, funnel = run(data, sources, tmp_path)
    with store:
        assert store.fidelities == ("e", "f")
        assert store.source_rows().tolist() == [1, 3, 3, 4, 5]
    assert [(step["step"], step["removed"]) for step in funnel[2:4]] == [("odd (one)", "2"), ("not a (both)", "3")]


def test_everything_filtered_away(tmp_path, files, filters):
    data = dataset("x", filters=[{"name": "nothing"}])
    fails(data, [files("x", molecule("a", 10, 0))], tmp_path, "no row has an energy of fidelity 'e'", "filters")


def test_files_for_filters(tmp_path, files, filters):
    aux = {"duplicates": tmp_path / "list.dat"}
    source = files("x", molecule("a", 10, 0))
    data = dataset("x", filters=[{"name": "odd"}])
    fails(data, [source], tmp_path, "list.dat: no such file; fetch the file with the role duplicates", aux=aux)
    aux["duplicates"].write_text("a list")
    digest = hashlib.sha256(b"a list").hexdigest()
    wrong = data | {"aux_files": {"duplicates": {"name": "list.dat", "bytes": 7}}}
    fails(wrong, [source], tmp_path, "list.dat: wrong content, it has 6 bytes, expected 7", aux=aux)
    right = data | {"aux_files": {"duplicates": {"name": "list.dat", "bytes": 6, "sha256": digest}}}
    store, _ = run(right, [source], tmp_path, aux)
    with store:
        assert store.provenance["aux"] == [{"role": "duplicates", "file": "list.dat", "sha256": digest, "bytes": 6}]
    assert filters[-1] == ("toy", aux)


def test_groups_without_rows_are_counted(tmp_path, files, filters):
    empty = [molecule("a", 0, 0), molecule("c", 0, 5, elements=(1, 26))]
    data = dataset("x", filters=[{"name": "odd"}])
    store, funnel = run(data, [files("x", empty[0], molecule("b", 6, 0), empty[1])], tmp_path)
    with store:
        assert store.group_names == ["b"]
    assert funnel[0]["reason"] == "6 rows of toy; 2 group(s) without rows"


def test_columns_and_facts_reach_the_store(tmp_path, files):
    one = molecule("a", 2, 0, info={"smiles": "O", "subset": "water"})
    store, _ = run(dataset("x", reader="spice"), [files("x", one)], tmp_path)
    with store:
        assert store.group_info("smiles") == ["O"] and store.group_info("subset") == ["water"]
    columns = {"isomer": [1, 1], "conformer": [2, 2], "displacement": [0, 7]}
    store, _ = run(dataset("x", reader="qm7x"), [files("x", molecule("a", 2, 0, columns=columns))], tmp_path)
    with store:
        assert store.column("displacement").tolist() == [0, 7]
        assert set(store.columns) == {"isomer", "conformer", "displacement"}


def test_configurations_that_occur_twice(tmp_path, files):
    def frame(file: str, displacement: int) -> Path:
        columns = {"isomer": [1], "conformer": [1], "displacement": [displacement]}
        return files(file, molecule("5", 1, 0, columns=columns))

    data = dataset("x", "y", reader="qm7x")
    fails(data, [frame("x", 3), frame("y", 3)], tmp_path, "y: group 5: isomer 1, conformer 1, displacement 3 occurs")
    store, _ = run(data, [frame("x", 3), frame("y", 4)], tmp_path)
    with store:
        assert store.n_rows == 2 and store.group_names == ["5"]
    sources = [files("x", molecule("a", 2, 0)), files("y", molecule("a", 2, 0))]
    (tmp_path / "out" / "store.h5").unlink()
    (tmp_path / "out" / "funnel.csv").unlink()
    for record in (tmp_path / "out" / ".sha256").iterdir():
        record.unlink()
    fails(dataset("x", "y", reader="spice"), sources, tmp_path, "y: group a occurs also in ")
    # Where groups may recur, only the same file twice is surely a mistake.
    for path in sources:
        path.write_text("the same")
    fails(dataset("x", "y"), sources, tmp_path, "y: the same content as x (of toy); list every file once")


def test_checksums_are_taken_in_one_pass(tmp_path, files, monkeypatch):
    content = bytes(range(256)) * 40_000
    source = files("x", molecule("a", 4, 0))
    source.write_bytes(content)
    passed: list[int] = []

    class Counting(build.Digests):
        def update(self, block):
            passed.append(len(block))
            super().update(block)

    monkeypatch.setattr(build, "Digests", Counting)
    sums = {kind: hashlib.new(kind, content).hexdigest() for kind in ("sha256", "md5")}
    data = dataset("x")
    data["source_entries"][0]["file"] |= {"bytes": len(content), **sums}
    store, _ = run(data, [source], tmp_path)
    with store:
        assert store.provenance["sources"][0]["sha256"] == sums["sha256"]
        assert store.provenance["sources"][0]["bytes"] == len(content)
    assert sum(passed) == len(content)


def test_energies_that_are_declared_to_differ_by_a_constant(tmp_path, files):
    relative = {"e": {"energy": "E"}, "f": {"energy": "F", "same_differences_as": "e"}}
    rng = np.random.default_rng(0)
    total = {name: rng.normal(size=6) for name in ("one", "two")}

    def made(wrong: float) -> Path:
        return files(
            "a",
            *(
                Block(name, np.array([8, 1], dtype=np.uint8), rng.normal(size=(6, 2, 3)),
                      {"e": energy, "f": wrong * energy + 5.0}, {}, np.arange(6))
                for name, energy in total.items()
            ),
        )  # fmt: skip

    data = dataset("a", fidelities=relative)
    store, _ = run(data, [made(1.0)], tmp_path / "right")
    with store:
        found = store.provenance["sources"][0]["force_check"]["f"]["differences"]
        assert found["of"] == "e" and found["groups"] == 2 and found["largest_deviation_ev"] < 1e-9
    fails(data, [made(27.2)], tmp_path / "wrong", "energies of f do not differ from those of e by a constant")
    relative["f"] = {"energy": "F", "same_differences_as": "g"}
    unknown = dataset("a", fidelities=relative)
    fails(unknown, [made(1.0)], tmp_path / "unknown", "same_differences_as: 'g' is not a fidelity", "one of e, f")


@pytest.mark.parametrize("kind", ["sha256", "md5", "bytes"])
def test_another_content_than_the_entry_states(tmp_path, files, kind):
    data = dataset("x")
    data["source_entries"][0]["file"] |= {kind: 3 if kind == "bytes" else "0" * (64 if kind == "sha256" else 32)}
    what = "it has 14 bytes, expected 3" if kind == "bytes" else f"its {kind} is "
    fails(data, [files("x", molecule("a", 4, 0))], tmp_path, f"x: wrong content, {what}", "fetch it again")


def test_a_source_that_changed_after_the_download(tmp_path, files):
    source = files("x", molecule("a", 4, 0))
    artifacts.record(source)
    store, _ = run(dataset("x"), [source], tmp_path / "first")
    store.close()
    source.write_text("other bytes")
    fails(dataset("x"), [source], tmp_path, "x: checksum mismatch, the file changed after it was written")


def test_a_source_that_changes_while_it_is_read(tmp_path, files, monkeypatch):
    source = files("x", molecule("a", 4, 0))
    original = build.ForceCheck.add

    def add(self, block):
        source.write_text("more bytes than before, or fewer")
        original(self, block)

    monkeypatch.setattr(build.ForceCheck, "add", add)
    fails(dataset("x"), [source], tmp_path, "x: it changed while it was read")


def test_a_funnel_that_cannot_be_written_leaves_no_store(tmp_path, files):
    (tmp_path / "out" / "funnel.csv").mkdir(parents=True)
    fails(dataset("x"), [files("x", molecule("a", 4, 0))], tmp_path, "funnel.csv: cannot write")


def test_an_error_in_the_middle_leaves_nothing_and_ends_the_checksums(tmp_path, files):
    import threading

    source = files("x", molecule("a", 20_000, 0), molecule("b", 2, 0, elements=(26,)))
    with source.open("wb") as stream:
        stream.truncate(1 << 31)
    before = threading.active_count()
    fails(dataset("x"), [source], tmp_path, "x: group b holds Fe")
    assert threading.active_count() == before


SCRIPT = """
import dataclasses, json, resource, sys
from pathlib import Path
import numpy as np
from mlip_studies.data import build
from mlip_studies.data.store import Block, Store
from mlip_studies.errors import InputError

folder, n_blocks, limit = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
# Four atoms in a row with springs between neighbors.
x = 0.85 * np.arange(4)[:, None] * np.ones((500, 1, 3)) + 0.05 * np.random.default_rng(0).normal(size=(500, 4, 3))
step = np.diff(x, axis=1)
length = np.linalg.norm(step, axis=-1, keepdims=True)
energy = -4 * 2043.0 + 5 * ((length - 1.47) ** 2).sum(axis=(1, 2))
pull = 10 * (length - 1.47) / length * step
forces = np.zeros_like(x)
forces[:, :-1] += pull
forces[:, 1:] -= pull

class Spec:
    positions_dtype, info, columns = "float32", (), ("number",)
    def load(self):
        return lambda path, entry, rows: (
            Block(str(i), np.full(4, 8, dtype=np.uint8), x.astype(np.float32), {"e": energy}, {"e": forces},
                  np.arange(500 * i, 500 * i + 500), {}, {"number": np.arange(500)})
            for i in range(n_blocks)
        )

build.get_reader = lambda name: Spec()
(folder / "in").write_text("something")
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
entry = {"name": "toy", "reader": "md17", "elements": ["O"], "levels": {}, "units": {},
         "fidelities": {"e": {"energy": "E", "forces": "F"}}}
try:
    build.build_store(entry, [folder / "in"], folder / "out" / "store.h5", folder / "out" / "funnel.csv")
except InputError as error:
    print(json.dumps({"error": str(error)}))
else:
    status = Path("/proc/self/status").read_text().splitlines()
    print(json.dumps({"peak": int(next(line.split()[1] for line in status if line.startswith("VmHWM")))}))
"""


def build_elsewhere(folder: Path, n_blocks: int, limit: int = 0) -> dict[str, Any]:
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(folder), str(n_blocks), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("limit", [5_000, 2_000_000])
def test_a_full_disk_ends_the_build_with_one_line(tmp_path, limit):
    result = build_elsewhere(tmp_path, 200, limit)
    assert "store.h5: cannot write the store (File too large); make room on the disk" in result["error"]
    assert "\n" not in result["error"]
    assert [item for item in (tmp_path / "out").rglob("*") if item.is_file()] == []


def test_the_memory_of_a_build_is_flat(tmp_path):
    few, many = (build_elsewhere(tmp_path, n)["peak"] for n in (20, 600))
    with Store(tmp_path / "out" / "store.h5") as store:
        assert store.n_rows == 300_000
    # The store has 44 MB.
    assert many - few < 25_000
