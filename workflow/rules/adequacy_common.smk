# What the scans and tests of potentials are made of: which potentials can be run here, and where their results lie.
import importlib
import importlib.util

from mlip_studies.adequacy.potentials import precisions, resolve
from mlip_studies.adequacy.scans import scan_names, start_file
from mlip_studies.runtime.options import did_you_mean
from mlip_studies.studies.products import alias as product_alias

# Package that each kind of potential needs.
PACKAGES = {
    "ani": "torchani",
    "mace": "mace",
    "orb": "orb_models",
    "xtb": "tblite",
    "level": "pyscf",
}


def adequacy_numbers():
    return study_numbers("ortiz")


def adequacy_entries():
    """Potentials of the study with all that is known of them, by name."""
    try:
        return {
            name: resolve(
                name,
                entry,
                PROJECT.pretrained,
                f"{OUT}/{{study}}/runs/{{run}}/seed0/model.safetensors",
            )
            for name, entry in adequacy_numbers()["potentials"].items()
        }
    except InputError as error:
        raise WorkflowError(str(error)) from None


def runnable(entry):
    """Whether a potential's weights and package are at hand, as far as can be seen without opening it."""
    if "trained" in entry:
        return entry["trained"]["study"] in PROJECT.studies
    if "pretrained" in entry:
        path = entry.get("path")
        if not (path and entry.get("sha256") and Path(path).is_file()):
            return False
    kind = entry.get("kind") or ("xtb" if "xtb" in entry else "level")
    return importlib.util.find_spec(PACKAGES[kind]) is not None


ADEQUACY = importlib.import_module("mlip_studies.studies.ortiz_products")
ADEQUACY_OUT = f"{OUT}/ortiz"
ENTRIES = adequacy_entries()
RUNNABLE = {name: entry for name, entry in ENTRIES.items() if runnable(entry)}
ADEQUACY_SCANS = scan_names(adequacy_numbers()["scans"])
# (potential, precision) whose curves and tests are made.
TESTED = [
    (name, precision)
    for name, entry in RUNNABLE.items()
    if name not in adequacy_numbers()["cost_only"]
    for precision in precisions(entry)
]


def weights_of(name):
    """File that a potential is read from."""
    path = ENTRIES[name].get("path")
    return [path] if path else []


def scan_files(names=None):
    return [f"{ADEQUACY_OUT}/scans/{scan}.npz" for scan in names or ADEQUACY_SCANS]


def scan_starts():
    """Start geometries of the scans that are not built from nothing."""
    files = {start_file(scan) for scan in ADEQUACY_SCANS} - {None}
    return [f"resources/adequacy/{file}" for file in sorted(files)]


def curve_files(potential, precision, scans=None, suffix="csv"):
    folder = f"{ADEQUACY_OUT}/curves/{potential}/{precision}"
    return [f"{folder}/{scan}.{suffix}" for scan in scans or ADEQUACY_SCANS]


def all_curves(scans=None, suffix="csv"):
    return [
        path
        for pair in TESTED
        for path in curve_files(*pair, scans=scans, suffix=suffix)
    ]


def level_file():
    """The reference level as part of a path."""
    level = adequacy_numbers()["reference"]["level"]
    return re.sub(r"[^a-z0-9+-]+", "-", level.lower()).strip("-")


def reference_scans():
    """Scans with a reference curve."""
    settings = adequacy_numbers()["reference"]
    wanted = PROJECT.settings.get("reference_scans") or settings.get("scans")
    if wanted in (None, ["all"]):
        wanted = ADEQUACY_SCANS
    for scan in wanted:
        if scan not in ADEQUACY_SCANS:
            raise WorkflowError(
                f"config/config.yaml: key 'reference_scans': no scan {scan!r}"
                f"{did_you_mean(scan, ADEQUACY_SCANS)}; the scans are: {', '.join(ADEQUACY_SCANS)}"
            )
    moved = ("rotation-", "translation-")
    left_out = settings.get("exclude", [])
    return [
        scan
        for scan in ADEQUACY_SCANS
        if scan in wanted and scan not in left_out and not scan.startswith(moved)
    ]


def reference_files(scans=None):
    return [
        f"{ADEQUACY_OUT}/reference/{scan}/{level_file()}.csv"
        for scan in reference_scans()
        if scans is None or scan in scans
    ]


def symmetry_files():
    return [
        f"{ADEQUACY_OUT}/symmetry/{potential}/{precision}.csv"
        for potential, precision in TESTED
    ]


def adequacy_inputs(key):
    """Tidy files that a figure or table is made from."""
    files = [f"{ADEQUACY_OUT}/unavailable.json", f"{ADEQUACY_OUT}/potentials.json"]
    if key in ADEQUACY.ALL_SCANS:
        files += all_curves() + reference_files()
    elif key in ADEQUACY.SCANS:
        scans = [scan for scan in ADEQUACY.SCANS[key] if scan in ADEQUACY_SCANS]
        files += all_curves(scans) + reference_files(scans)
    if key in ADEQUACY.SYMMETRY:
        files += symmetry_files()
    if key in ADEQUACY.COST:
        files.append(f"{ADEQUACY_OUT}/cost/cost.csv")
    if key in ADEQUACY.ANALYSIS:
        files.append(f"{ADEQUACY_OUT}/analysis.csv")
    return list(dict.fromkeys(files))


def adequacy_context():
    """What products know about their study besides its results."""
    return {
        "scale": SCALE,
        "n_train": {},
        "runs": {},
        "settings": adequacy_numbers() | {"potentials": ENTRIES},
    }
