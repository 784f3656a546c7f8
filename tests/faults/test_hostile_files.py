"""Files made to do harm: one line each, nothing executed, nothing read elsewhere, little memory."""

import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from test_md import network
from test_reader_fuzz import SAMPLES, outcome, sample

from mlip_studies import artifacts
from mlip_studies.errors import InputError
from mlip_studies.models.potential import load_potential
from mlip_studies.training.checkpoint import Checkpoints

HDF5 = [name for name in SAMPLES if name.endswith((".h5", ".hdf5"))]
TEXT = h5py.string_dtype()


def memory(key):
    """Memory of this process in MB: ``VmRSS``, now, or ``VmHWM``, the peak since :func:`at_most` began."""
    return int(re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)[1]) / 1000


@contextmanager
def at_most(megabytes):
    """The block may add so much memory, at any time; the peaks of tests before it do not count."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak back (proc(5))
    except OSError:
        pytest.skip("the peak of memory cannot be set back here")
    before = memory("VmRSS")
    yield
    assert memory("VmHWM") - before < megabytes


def test_memory_that_was_given_back_is_noticed():
    """Also where a peak before was higher."""
    np.ones(40_000_000)
    with at_most(100):
        pass
    with pytest.raises(AssertionError), at_most(100):
        np.ones(20_000_000)


def members(file):
    """Groups that hold data sets, and the names of these."""
    found = {}
    file.visititems(lambda name, item: found.setdefault(item.parent.name, []).append(name.rpartition("/")[2])
                    if isinstance(item, h5py.Dataset) else None)  # fmt: skip
    return found


def each(file, change, texts=False):
    """Put something else in place of every array of numbers (or of every text)."""
    for group, names in members(file).items():
        for name in names:
            is_text = file[group][name].dtype.kind in "SO"
            if is_text == texts:
                old = file[group][name][()]
                del file[group][name]
                change(file[group], name, old)


def huge(file, folder):
    each(file, lambda group, name, old: group.create_dataset(name, shape=(1 << 40, *old.shape[1:]), dtype="f8"))


def huge_packed(file, folder):
    """The bytes of one chunk of zeros that stand for very many."""
    each(file, lambda group, name, old: group.create_dataset(
        name, shape=(1 << 34, *old.shape[1:]), dtype=old.dtype, chunks=(1024, *old.shape[1:]), compression=9
    ))  # fmt: skip


def huge_text(file, folder):
    each(file, lambda group, name, old: group.create_dataset(name, shape=(1,), dtype="S2000000000"), texts=True)


def many_texts(file, folder):
    each(file, lambda group, name, old: group.create_dataset(name, data=["x" * 60_000] * 40, dtype=TEXT), texts=True)


def external_links(file, folder):
    each(file, lambda group, name, old: group.__setitem__(name, h5py.ExternalLink(str(folder / "secret.h5"), "x")))


def external_groups(file, folder):
    for group in list(members(file)):
        del file[group]
        file[group] = h5py.ExternalLink(str(folder / "whole.h5"), group)


def soft_links(file, folder):
    each(file, lambda group, name, old: group.__setitem__(name, h5py.SoftLink(f"{group.name}/{name}")))


def soft_loops(file, folder):
    for group in list(members(file)):
        del file[group]
        file[group] = h5py.SoftLink(group)


def hard_loops(file, folder):
    """Groups that contain themselves, many times."""
    for name in list(file):
        del file[name]
    group = file.create_group("a")
    for number in range(200):
        group[f"{number}"] = group


def references(file, folder):
    each(file, lambda group, name, old: group.create_dataset(name, data=[file.ref] * 3, dtype=h5py.ref_dtype))


def external_storage(file, folder):
    each(file, lambda group, name, old: group.create_dataset(
        name, shape=old.shape, dtype=old.dtype, external=[(str(folder / "secret.bin"), 0, h5py.h5f.UNLIMITED)]
    ) if old.shape else group.__setitem__(name, old))  # fmt: skip


def virtual(file, folder):
    def change(group, name, old):
        layout = h5py.VirtualLayout(old.shape, old.dtype)
        layout[...] = h5py.VirtualSource(str(folder / "secret.h5"), "x", old.shape)
        group.create_virtual_dataset(name, layout)

    each(file, change)


ATTACKS = (
    huge, huge_packed, huge_text, many_texts, external_links, external_groups, soft_links, soft_loops, hard_loops,
    references, external_storage, virtual,
)  # fmt: skip
WITHOUT_TEXTS = ("qm7x.hdf5", "ani1x.h5")


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
@pytest.mark.parametrize("name", HDF5)
def test_hostile_hdf5_is_one_line_and_little_memory(tmp_path, name, attack):
    path = tmp_path / name
    (tmp_path / "whole.h5").write_bytes(sample(name))
    (tmp_path / "secret.bin").write_bytes(bytes(1 << 16))
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.zeros(10)
    path.write_bytes(sample(name))
    with h5py.File(path, "a") as file:
        attack(file, tmp_path)
    with at_most(100):
        message = outcome(name, path)
    if attack in (huge_text, many_texts) and name in WITHOUT_TEXTS:
        assert message == ""  # nothing was there to be replaced
    else:
        assert message
    assert "secret" not in message


# Models


class Harm:
    """Makes a file when it is unpickled."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def safetensors(header, body=b""):
    return struct.pack("<Q", len(header)) + header + body


def pickled(harm):
    return pickle.dumps(harm)


def torch_file(harm):
    buffer = io.BytesIO()
    torch.save({"model": harm}, buffer)
    return buffer.getvalue()


def zipped(harm):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(harm))
        archive.writestr("archive/version", "3")
    return buffer.getvalue()


def entry(shape, start, end):
    return json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}}).encode()


MODELS = {
    "pickle": pickled,
    "torch": torch_file,
    "zip": zipped,
    "length of the header": lambda harm: struct.pack("<Q", 1 << 62) + b"{}",
    "header of 100 MB": lambda harm: struct.pack("<Q", 99_000_000) + b"{",
    "nested header": lambda harm: safetensors(b'{"a":' * 100_000),
    "nested metadata": lambda harm: safetensors(json.dumps({"__metadata__": {"mlip_studies": "[" * 100_000}}).encode()),
    "huge tensor": lambda harm: safetensors(entry([1 << 40], 0, 1 << 42)),
    "overflow": lambda harm: safetensors(entry([1 << 32, 1 << 32], 0, 0)),
    "negative": lambda harm: safetensors(b'{"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', bytes(4)),
    "same name twice": lambda harm: safetensors(b'{"__metadata__":{"a":"b"},"__metadata__":{"a":"c"}}'),
    "empty": lambda harm: b"",
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_hostile_models_execute_nothing(tmp_path, kind, suffix):
    path, proof = tmp_path / f"model.{suffix}", tmp_path / "executed"
    path.write_bytes(MODELS[kind](Harm(proof)))
    artifacts.record(path)
    with at_most(200), pytest.raises(InputError) as caught:
        load_potential(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    assert not proof.exists()


@pytest.mark.parametrize("header", ["[" * 100_000, '{"model":' * 50_000, '{"format": 1e999}', "[]", '"x"', "NaN", ""])
def test_hostile_headers_of_our_own_files(tmp_path, header):
    """The tensors are whole; the description of the model inside is not."""
    from safetensors.torch import load_file, save_file

    from mlip_studies.models import potential

    path = tmp_path / "model.safetensors"
    network().save(path, {})
    save_file(load_file(path), path, metadata={potential._KEY: header})
    artifacts.record(path)
    with pytest.raises(InputError) as caught:
        load_potential(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize("kind", ["pickle", "torch", "zip"])
def test_hostile_checkpoints_execute_nothing(tmp_path, kind):
    import hashlib

    content, proof = MODELS[kind](Harm(tmp_path / "executed")), tmp_path / "executed"
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / f"md-00000001-{hashlib.sha256(content).hexdigest()[:16]}.pt").write_bytes(content)
    with pytest.raises(InputError) as caught:
        Checkpoints(folder, "md", {}).load()
    assert "\n" not in str(caught.value) and not proof.exists()


def test_the_harm_is_real(tmp_path):
    """Whoever unpickles such a file does execute it: the tests above prove something."""
    (tmp_path / "model").write_bytes(pickled(Harm(tmp_path / "executed")))
    script = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "model")], check=True)
    assert (tmp_path / "executed").exists()
    assert Path(tmp_path / "model").exists()
