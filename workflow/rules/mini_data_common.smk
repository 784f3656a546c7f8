# Recipes of the mini data sets, and the files that their rules make.
import yaml

from mlip_studies.mini_data.ani import shard_name
from mlip_studies.mini_data.recipe import SETS as MINI_SETS
from mlip_studies.mini_data.recipe import builder, load_recipe, n_rows
from mlip_studies.mini_data.shards import shard_ranges, system_shard_name

MINI_ROOT = f"{PROJECT.settings['results']}/mini_data"
MINI_ATOMS = "resources/isolated-atoms/isolated_atoms.csv"
# Minima with Hessians that normal-mode sampling starts from.
MINI_MINIMA = {
    "ani1": "resources/ani1x-mini/minima",
    "qm7x": "resources/qm7x-mini/minima",
}


# Mini ANI-1x, which is made in shards of rows.
MINI_RECIPE = "config/mini_data/ani.yaml"
MINI_ANI = yaml.safe_load((ROOT / MINI_RECIPE).read_text())
MINI_BUILD = f"{MINI_ROOT}/ani"


def mini_shards():
    """File names of all shards: molecule, fidelity and first row."""
    size = MINI_ANI["shard_size"]
    return [
        shard_name(molecule["name"], kind, first)
        for molecule in MINI_ANI["molecules"]
        for kind in ("dft", "cc")
        for first in range(0, molecule[f"n_{kind}"], size)
    ]


def mini_recipe(wildcards):
    return f"config/mini_data/{wildcards.set}.yaml"


def mini_recipe_of(name):
    try:
        return load_recipe(ROOT / f"config/mini_data/{name}.yaml")
    except InputError as error:
        raise WorkflowError(str(error)) from None


def mini_systems(name):
    return [entry["name"] for entry in mini_recipe_of(name)["systems"]]


def mini_outputs(name):
    """The finished files of a set."""
    return [
        f"{MINI_ROOT}/{name}/{file}"
        for file in builder(mini_recipe_of(name)).outputs(mini_recipe_of(name))
    ]


def mini_system_shards(name):
    """The shards of all systems of a set."""
    recipe = mini_recipe_of(name)
    return [
        f"{MINI_ROOT}/{name}/shards/{system_shard_name(entry['name'], first)}"
        for entry in recipe["systems"]
        for first, _ in shard_ranges(n_rows(recipe, entry), recipe["shard_size"])
    ]


def mini_shipped_geometries(name):
    return [
        f"resources/{name}-mini/geometries/{system}.json"
        for system in mini_systems(name)
    ]


def mini_shipped_minimum(wildcards):
    """The minimum that a system is sampled around; empty for sets that need none."""
    if wildcards.set not in MINI_MINIMA:
        return []
    recipe = mini_recipe_of(wildcards.set)
    entry = next(e for e in recipe["systems"] if e["name"] == wildcards.system)
    return f"{MINI_MINIMA[wildcards.set]}/{entry.get('molecule', entry['name'])}.json"


def mini_code(name):
    """Module that builds a set, with everything it imports."""
    return code(f"mlip_studies.mini_data.{name}")
