"""Readers against damaged files: the outcome is blocks or an InputError of one line, and no temporary file is left."""

from __future__ import annotations

import functools
import io
import lzma
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_readers_layouts import (
    entry,
    write_ani1,
    write_ani1_member,
    write_ani1x,
    write_comp6,
    write_extxyz,
    write_md17,
    write_qm7x,
    write_qm7x_hdf5,
    write_rmd17,
    write_rmd17_archive,
    write_spice,
    xyz_entry,
)

from mlip_studies.data.readers import READERS, get_reader
from mlip_studies.data.readers.rmd17 import official_split
from mlip_studies.data.store import check_block
from mlip_studies.errors import InputError

MEMBER = {"reader_options": {"member": "rmd17_ethanol.npz"}}
HIGH = {"reader_options": {"high_energy": "separate"}}
# Name -> reader, writer, options of the entry.
SAMPLES: dict[str, tuple[str, Callable[[Path], Path], dict]] = {
    "spice.hdf5": ("spice", functools.partial(write_spice, n=3), {}),
    "qm7x.hdf5": ("qm7x", functools.partial(write_qm7x_hdf5, n=1, more=1), {}),
    "qm7x.xz": ("qm7x", functools.partial(write_qm7x, n=1, more=1), {}),
    "ani1.h5": ("ani1", functools.partial(write_ani1_member, n=3), HIGH),
    "ani1.tar.gz": ("ani1", functools.partial(write_ani1, numbers=(1, 2)), HIGH),
    "ani1x.h5": ("ani1x", functools.partial(write_ani1x, n=3), {}),
    "comp6.h5": ("comp6", functools.partial(write_comp6, n=3), {}),
    "md17.npz": ("md17", write_md17, {}),
    "rmd17.npz": ("rmd17", write_rmd17, {}),
    "rmd17.tar.bz2": ("rmd17", write_rmd17_archive, MEMBER),
    "user.xyz": ("extxyz", functools.partial(write_extxyz, n=2), xyz_entry(charge="charge")),
}
# Examples are fixed, so that a run that passes once passes always; a wider search is run by raising the number.
FUZZ = settings(
    max_examples=12,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@functools.cache
def sample(name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return SAMPLES[name][1](Path(folder) / name).read_bytes()


def outcome(name: str, path: Path) -> str:
    """Read a file; anything but blocks or one line of an InputError fails the test."""
    reader, _, options = SAMPLES[name]
    scratch = path.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    try:
        for block in get_reader(reader).load()(path, entry(reader) | options | {"scratch": str(scratch)}, 2):
            check_block(block, path)
            assert block.positions.dtype == READERS[reader].positions_dtype
            assert set(block.columns) == set(READERS[reader].columns)
            assert set(block.info) == set(READERS[reader].info)
    except InputError as error:
        assert "\n" not in str(error) and path.name in str(error)
        return str(error)
    finally:
        assert list(scratch.iterdir()) == []
    return ""


damages = st.one_of(
    st.tuples(st.just("cut"), st.floats(0, 1, exclude_max=True), st.just(0)),
    st.tuples(st.just("flip"), st.floats(0, 1, exclude_max=True), st.integers(1, 255)),
    st.tuples(st.just("set"), st.floats(0, 1, exclude_max=True), st.sampled_from([0, 1, 0x7F, 0xFF])),
    st.tuples(st.just("insert"), st.floats(0, 1, exclude_max=True), st.integers(0, 255)),
)


def damaged(content: bytes, changes: list[tuple[str, float, int]]) -> bytes:
    data = bytearray(content)
    for kind, place, value in changes:
        position = int(place * len(data))
        if kind == "cut":
            del data[position:]
        elif kind == "insert":
            data.insert(position, value)
        elif position < len(data):
            data[position] = data[position] ^ value if kind == "flip" else value
    return bytes(data)


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_read(tmp_path, name):
    (tmp_path / name).write_bytes(sample(name))
    assert outcome(name, tmp_path / name) == ""


@pytest.mark.parametrize("name", SAMPLES)
@given(changes=st.lists(damages, min_size=1, max_size=4))
@FUZZ
def test_damaged_bytes(tmp_path, name, changes):
    path = tmp_path / name
    path.write_bytes(damaged(sample(name), changes))
    outcome(name, path)


@pytest.mark.parametrize("name", ["qm7x.xz", "ani1.tar.gz"])
@given(changes=st.lists(damages, min_size=1, max_size=4))
@FUZZ
def test_damaged_bytes_inside_an_intact_archive(tmp_path, name, changes):
    inner = damaged(sample(f"{name.split('.')[0]}.{'hdf5' if name == 'qm7x.xz' else 'h5'}"), changes)
    path = tmp_path / name
    if name == "qm7x.xz":
        path.write_bytes(lzma.compress(inner, preset=0))
    else:
        with tarfile.open(path, "w:gz", compresslevel=1) as archive:
            info = tarfile.TarInfo("ani_gdb_s01.h5")
            info.size = len(inner)
            archive.addfile(info, io.BytesIO(inner))
    outcome(name, path)


values = st.one_of(
    st.sampled_from(
        [np.float64(1.0), np.zeros(0), np.zeros((0, 3, 3)), np.array(np.nan), np.array([["a", "b"]], "S1")]
    ),
    st.builds(
        lambda shape, dtype, number: np.full(shape, number).astype(dtype),
        st.lists(st.integers(0, 6), max_size=4),
        st.sampled_from(["f8", "f4", "i8", "u1", ">f8", "?", "S3", "c16", "M8[s]"]),
        st.sampled_from([0, 1, 6, 255]),
    ),
    st.sampled_from(["group", "delete", "text", "dangling", "unwritten", "object"]),
)


def put(file: h5py.File, key: str, value) -> None:
    """Put something else where a data set or group was."""
    del file[key]
    if isinstance(value, str):
        if value == "group":
            file.create_group(key)
        elif value == "text":
            file.create_dataset(key, data=["C", "O", ""], dtype=h5py.string_dtype())
        elif value == "dangling":
            file[key] = h5py.SoftLink("/nowhere")
        elif value == "unwritten":
            file.create_dataset(key, shape=(6, 3, 3), chunks=(2, 3, 3), dtype="f8")
        elif value == "object":
            file[key] = h5py.Empty("f8")
    else:
        file[key] = value.astype("i8") if np.asarray(value).dtype.kind == "M" else value


@pytest.mark.parametrize("name", [name for name in SAMPLES if name.endswith(("h5", "hdf5"))])
@given(choices=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), values), min_size=1, max_size=2))
@FUZZ
def test_other_structures_in_hdf5(tmp_path, name, choices):
    path = tmp_path / name
    path.write_bytes(sample(name))
    with h5py.File(path, "a") as file:
        for place, value in choices:
            keys: list[str] = []
            file.visit(keys.append)
            if keys:
                put(file, keys[int(place * len(keys))], value)
    outcome(name, path)


@pytest.mark.parametrize("name", ["md17.npz", "rmd17.npz"])
@given(choices=st.lists(st.tuples(st.integers(0, 6), values), min_size=1, max_size=2))
@FUZZ
def test_other_structures_in_npz(tmp_path, name, choices):
    with np.load(io.BytesIO(sample(name))) as archive:
        arrays = dict(archive)
    for place, value in choices:
        key = sorted(arrays)[place % len(arrays)]
        arrays[key] = np.array([None, key], dtype=object) if isinstance(value, str) else value
        if isinstance(value, str) and value == "delete":
            del arrays[key]
        if not arrays:
            break
    np.savez(tmp_path / name, **arrays)
    outcome(name, tmp_path / name)


lines = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            "2",
            "-1",
            "1e3",
            "0",
            'Properties=species:S:1:pos:R:3 REF_energy=1.0 charge=0 pbc="F F F"',
            'Properties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=nan charge="a b"',
            "Properties=species:S:1 REF_energy=1 charge=0",
            'Lattice="1 0 0" REF_energy=1',
            "H 0 0 0",
            "H 0 0 0 1 1 1",
            "Xx 1e400 0 nan",
            "VEC1 0 0 1",
        ]
    ),
)


@given(content=st.lists(lines, max_size=8))
@FUZZ
def test_other_text_in_extxyz(tmp_path, content):
    path = tmp_path / "user.xyz"
    path.write_text("\n".join(content), encoding="utf-8", errors="replace")
    outcome("user.xyz", path)


@given(place=st.integers(0, 19), line=lines)
@FUZZ
def test_another_line_in_extxyz(tmp_path, place, line):
    content = sample("user.xyz").decode().splitlines()
    content[place % len(content)] = line
    path = tmp_path / "user.xyz"
    path.write_text("\n".join(content), encoding="utf-8", errors="replace")
    outcome("user.xyz", path)


@given(content=st.binary(max_size=60))
@FUZZ
def test_any_bytes_as_a_split(tmp_path, content):
    path = tmp_path / "index.csv"
    path.write_bytes(content)
    try:
        assert (official_split(path) >= 0).all()
    except InputError as error:
        assert "index.csv" in str(error) and len(str(error).splitlines()) == 1
