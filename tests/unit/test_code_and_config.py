"""Code hashes, configuration, artefacts, jobs, provenance."""

import json
import subprocess
import sys

import pytest
import yaml

from mlip_studies import codehash
from mlip_studies.artifacts import atomic_path, is_intact, require, verify_tree, write_text
from mlip_studies.claims import Claim, ClaimSet, Outcome, Verdict, table
from mlip_studies.config import load_project, merge
from mlip_studies.errors import InputError
from mlip_studies.jobs import job
from mlip_studies.models.pretrained import PretrainedSpec
from mlip_studies.provenance import front_page, summarise_costs

SETTINGS = {
    "scale": "mini",
    "studies": ["krcelic"],
    "results": "results",
    "device": "auto",
    "mirror": None,
    "budget_scale": 1.0,
    "seeds": None,
    "mixes": None,
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small package tree in place of ours."""
    root = tmp_path / "mlip_studies"
    root.mkdir()
    (root / "__init__.py").write_text("")
    (root / "a.py").write_text(
        '"""Doc."""\nfrom mlip_studies import b\n\ndef f(x):\n    """Doc."""\n    return b.g(x)\n'
    )
    (root / "b.py").write_text("def g(x):\n    return x + 1\n")
    (root / "c.py").write_text("VALUE = 3\n")
    codehash._parsed.cache_clear()
    yield root
    codehash._parsed.cache_clear()


def rehash(root, *names):
    codehash._parsed.cache_clear()
    return codehash.raw_code_hash(*names, root=root)


def test_hash_ignores_comments_docstrings_and_layout(package):
    before = rehash(package, "mlip_studies.a")
    (package / "a.py").write_text(
        '"""Other."""\nfrom mlip_studies import b\n\n\ndef f(x):\n    # why\n    return b.g(\n        x\n    )\n'
    )
    assert rehash(package, "mlip_studies.a") == before


def test_hash_follows_imports_and_nothing_else(package):
    before = rehash(package, "mlip_studies.a")
    (package / "c.py").write_text("VALUE = 4\n")
    assert rehash(package, "mlip_studies.a") == before
    (package / "b.py").write_text("def g(x):\n    return x + 2\n")
    assert rehash(package, "mlip_studies.a") != before


def test_training_does_not_depend_on_plotting_and_models_do_matter():
    training = codehash.reachable_modules("mlip_studies.training.multi_fidelity", "mlip_studies.models.egnn_rff")
    assert "mlip_studies.models.egnn_rff" in training
    assert "mlip_studies.graph.batch" in training
    assert not [name for name in training if "plotting" in name or ".studies." in name or "claims" in name]
    drawing = codehash.reachable_modules("mlip_studies.studies.krcelic")
    assert not [name for name in drawing if ".models." in name or ".training." in name]


def test_layers_point_downwards():
    """Allowed imports: studies to plotting and claims; training to models and data; nothing back up."""
    forbidden = {
        "data": ("models", "training", "adequacy", "studies", "claims", "plotting", "dft"),
        "graph": ("models", "training", "studies", "claims", "plotting"),
        "models": ("training", "adequacy", "studies", "claims", "plotting"),
        "runtime": ("data", "graph", "models", "training", "md", "dft", "studies", "claims", "plotting"),
        "training": ("md", "adequacy", "studies", "claims", "plotting"),
        "md": ("dft", "adequacy", "studies", "claims", "plotting"),
        "dft": ("models", "training", "adequacy", "studies", "claims", "plotting"),
        "adequacy": ("studies", "claims", "plotting"),
        "claims": ("models", "training", "studies"),
        "plotting": ("models", "training", "studies", "claims"),
        "forecast": ("studies", "claims", "adequacy", "md", "dft"),
    }
    for layer, above in forbidden.items():
        for path in (codehash.ROOT / layer).rglob("*.py"):
            name = ".".join(("mlip_studies", *path.relative_to(codehash.ROOT).with_suffix("").parts))
            _, imports = codehash._parsed(path)
            bad = [i for i in imports if i.split(".")[1:2] and i.split(".")[1] in above]
            assert not bad, f"{name} imports {bad}"


def test_accepted_code_keeps_the_old_hash(package, tmp_path, monkeypatch):
    monkeypatch.setattr(codehash, "ROOT", package)
    monkeypatch.setenv("MLIP_STUDIES_ACCEPTED_CODE", str(tmp_path / "accepted.json"))
    monkeypatch.setattr(codehash.module_path, "__defaults__", (package,))
    monkeypatch.setattr(codehash.reachable_modules, "__kwdefaults__", {"root": package})
    monkeypatch.setattr(codehash.raw_code_hash, "__kwdefaults__", {"root": package})
    old = codehash.code_hash("mlip_studies.a")
    (package / "b.py").write_text("def g(x):\n    return 1 + x\n")
    codehash._parsed.cache_clear()
    assert codehash.code_hash("mlip_studies.a") != old
    changed = codehash.accept([["mlip_studies.a"]], {"mlip_studies.a": old}, "the sum commutes", "abc")
    assert changed == ["mlip_studies.a"]
    assert codehash.code_hash("mlip_studies.a") == old
    record = json.loads((tmp_path / "accepted.json").read_text())
    assert [entry["reason"] for entry in record.values()] == ["the sum commutes"]


@pytest.mark.parametrize("scale", ["mini", "full"])
def test_project_loads(repository, scale):
    project = load_project({**SETTINGS, "scale": scale}, repository)
    mixes = project.studies["krcelic"]["experiments"]["ani"]["mixes"]
    assert len(mixes) == 8
    factor = 1 if scale == "full" else 100
    assert mixes["160k-60k"]["train_low"] * factor == 160_000
    assert mixes["160k-60k"]["train_high"] * factor == 60_000
    assert project.results == f"results/{scale}"
    assert project.pretrained["ani2x"]["path"] is None


def test_weights_of_published_potentials_lie_in_the_named_folder(repository, tmp_path):
    entry = load_project({**SETTINGS, "weights": str(tmp_path)}, repository).pretrained["ani2x"]
    assert entry["path"] == f"{tmp_path}/ani/ani-2x_8x.info"
    PretrainedSpec.from_dict("ani2x", {key: entry[key] for key in ("kind", "path", "sha256", "licence")})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scael": "mini"}, "config/config.yaml: unknown key 'scael'; did you mean 'scale'"),
        ({"scale": "minni"}, "key 'scale': expected one of mini, full, found 'minni'; did you mean 'mini'?"),
        ({"studies": "krcelic"}, "key 'studies': expected a list in brackets, such as [one, two], found 'krcelic'"),
        ({"mirror": "no/such/folder"}, "key 'mirror': no folder no/such/folder"),
        ({"device": 3}, "config/config.yaml: key 'device'"),
        ({"seeds": ["zero"]}, "config/config.yaml: key 'seeds.0'"),
        ({"budget_scale": 0}, "config/config.yaml: key 'budget_scale'"),
        ({"studies": ["krcelik"]}, "study 'krcelik' is unknown; choose from hedelius, krcelic"),
        ({"weights": "no/such/folder"}, "key 'weights': no folder no/such/folder"),
        ({"mixes": ["20k/20k"]}, "'20k/20k' is not a mix of study krcelic"),
    ],
)
def test_settings_mistakes_are_one_line(repository, change, message):
    with pytest.raises(InputError) as caught:
        load_project({**SETTINGS, **change}, repository)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def copy_configuration(repository, tmp_path):
    for folder in ("config", "workflow/schemas"):
        for path in (repository / folder).rglob("*.yaml"):
            target = tmp_path / path.relative_to(repository)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s["full"]["training"].update(learnig_rate=1), "unknown key 'training.learnig_rate'; did you mean"),
        (lambda s: s["full"]["training"].update(batch_size=-1), "key 'training.batch_size'"),
        (lambda s: s["full"]["experiments"]["ani"].update(dataset="ani2x"), "'ani2x' is not in config/datasets.yaml"),
        (lambda s: s["full"]["experiments"]["ani"]["split"].update(n_test="many"), "experiments.ani.split.n_test"),
        (lambda s: s.update(tiny={}), "unknown key 'tiny'"),
    ],
)
def test_study_mistakes_are_one_line(repository, tmp_path, edit, message):
    root = copy_configuration(repository, tmp_path)
    path = root / "config" / "studies" / "krcelic.yaml"
    content = yaml.safe_load(path.read_text())
    edit(content)
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError) as caught:
        load_project({**SETTINGS, "scale": "full"}, root)
    assert message in str(caught.value)
    assert "config/studies/krcelic.yaml" in str(caught.value)


def test_broken_yaml_names_the_line(repository, tmp_path):
    root = copy_configuration(repository, tmp_path)
    (root / "config" / "datasets.yaml").write_text("a: 1\nb: [1\nc: 2\n")
    with pytest.raises(InputError, match=r"datasets.yaml: not valid YAML in line \d"):
        load_project(SETTINGS, root)


def test_budget_and_seeds_override(repository):
    settings = {**SETTINGS, "budget_scale": 0.1, "seeds": ["4"], "mixes": ["20k-20k"]}
    study = load_project(settings, repository).studies["krcelic"]
    whole = load_project(SETTINGS, repository).studies["krcelic"]
    assert study["training"]["max_steps"] == round(whole["training"]["max_steps"] * 0.1)
    assert study["seeds"] == [4]
    assert list(study["experiments"]["ani"]["mixes"]) == ["20k-20k"]
    assert study["experiments"]["ethanol"]["mixes"] == whole["experiments"]["ethanol"]["mixes"]


def test_merge_replaces_leaves_and_keeps_the_rest():
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 3}
    assert merge(base, {"a": {"c": [9]}}) == {"a": {"b": 1, "c": [9]}, "d": 3}
    assert base["a"]["c"] == [1, 2]


def test_atomic_path_leaves_nothing_behind(tmp_path):
    target = tmp_path / "sub" / "x.txt"
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(target.parent.iterdir()) == []
    write_text(target, "whole")
    assert target.read_text() == "whole"
    assert is_intact(target)


def test_changed_artifacts_are_found_and_moved(tmp_path):
    good, bad = tmp_path / "a" / "good.txt", tmp_path / "b" / "bad.txt"
    write_text(good, "1")
    write_text(bad, "2")
    bad.write_text("3")
    with pytest.raises(InputError, match="make verify"):
        require(bad)
    with pytest.raises(InputError, match="no such file"):
        require(tmp_path / "nothing")
    command = [sys.executable, "-m", "mlip_studies", "verify", "--results", str(tmp_path)]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 1
    assert "bad.txt: content changed" in first.stdout
    assert not bad.exists()
    assert (tmp_path / "b" / "bad.txt.corrupt").read_text() == "3"
    assert good.exists()
    assert verify_tree(tmp_path) == []


def test_unwritable_folder_is_one_line():
    with pytest.raises(InputError, match="cannot write"):
        write_text("/proc/nowhere/x.txt", "1")


def test_job_prints_one_line_and_fails(tmp_path, capsys):
    log = tmp_path / "x.log"
    with pytest.raises(SystemExit) as caught, job(log):
        print("working")
        raise InputError("config: key 'a' is wrong; mend it")
    assert caught.value.code == 1
    assert capsys.readouterr().err == "error: config: key 'a' is wrong; mend it\n"
    assert "working" in log.read_text()


def test_job_keeps_the_traceback_of_a_bug_in_the_log(tmp_path, capsys):
    log = tmp_path / "x.log"
    with pytest.raises(SystemExit), job(log):
        raise ZeroDivisionError("boom")
    assert "Traceback" in log.read_text()
    assert "Traceback" not in capsys.readouterr().err


def test_job_records_its_code(tmp_path):
    with job(tmp_path / "x.log", "mlip_studies.a+mlip_studies.b=0123", str(tmp_path / "code")):
        pass
    assert (tmp_path / "code" / "mlip_studies.a+mlip_studies.b").read_text() == "0123"


def test_costs_and_front_page(tmp_path):
    benchmarks = tmp_path / "benchmarks"
    (benchmarks / "train").mkdir(parents=True)
    line = {"s": 10.0, "max_rss": 200.0, "cpu_time": 36.0}
    (benchmarks / "train" / "a.jsonl").write_text(json.dumps(line) + "\n")
    (benchmarks / "train" / "b.jsonl").write_text(json.dumps({**line, "s": 30.0, "max_rss": "NA"}) + "\n")
    (benchmarks / "store.jsonl").write_text(json.dumps({**line, "max_rss": 500.0}) + "\n")
    write_text(tmp_path / "run.json", json.dumps({"device": "cuda", "wall_seconds": 3600.0}))
    rows = summarise_costs(benchmarks, tmp_path)
    by_rule = {row["rule"]: row for row in rows}
    assert by_rule["train"]["jobs"] == 2
    assert by_rule["train"]["wall_s"] == 40.0
    assert by_rule["train"]["longest_job_s"] == 30.0
    assert by_rule["train"]["gpu_h"] == 1.0
    assert by_rule["all"]["peak_memory_mb"] == 500.0
    assert by_rule["all"]["cpu_h"] == pytest.approx(0.03)
    page = front_page(str(tmp_path), "mini", {"krcelic": {"title": "Study", "citation": "A. Author"}})
    assert "does not claim to reproduce" in page
    assert "No verdicts yet" in page


@pytest.mark.parametrize("whose", [("paper", "ours"), ("paper", "paper"), ("ours",)])
def test_front_page_lists_the_claims_of_the_source(tmp_path, whose):
    """The page is built from the files that the verdict table writes, and is reStructuredText without an error."""
    docutils_core = pytest.importorskip("docutils.core")
    common = {"place": "4.1", "sentence": "It is *ten*", "wording": "paraphrase", "unit": "eV", "kind": "value"}
    common |= {"study": "krcelic", "tolerance": 1.0, "reason": "rounding", "metric": "m", "figure": "f"}
    claims = [
        Claim(id=f"c{i}", quantity=f"quantity of c{i}", paper=10.0, judged_at=("full",), by=by, **common)
        for i, by in enumerate(whose)
    ]
    outcomes = [Outcome(claim, "mini", (), Verdict.CONTRADICTED, None, "twelve") for claim in claims]
    claim_set = ClaimSet("krcelic", "A thesis", {claim.id: claim for claim in claims}, (), ())
    (tmp_path / "krcelic").mkdir()
    table.write(claim_set, outcomes, tmp_path / "krcelic" / "verdicts.html")
    page = front_page(str(tmp_path), "mini", {"krcelic": {"title": "Study", "citation": "A. Author"}})
    theirs = whose.count("paper")
    assert f"{theirs} claims of the source" in page
    assert ("predictions of this project" in page) == ("ours" in whose)
    # What was contradicted is listed, predictions with their mark; the first words count the source's claims alone.
    assert page.count("quantity of c") == len(whose)
    assert page.count("(prediction of this project)") == whose.count("ours")
    assert page.startswith(f"**{theirs}** claims of 1 source: ")
    docutils_core.publish_string(page, writer="html", settings_overrides={"halt_level": 2, "report_level": 2})
