"""The jobs that a command of Snakemake would run, as JSON: a dry run whose graph is kept instead of printed.

A process of its own, run from the top folder of a checkout: ``python workflow/scripts/forecast_jobs.py REQUEST``, where
REQUEST is a JSON object with ``targets``, ``config`` (as after ``--config``), ``from_scratch`` (count what is there
already too) and ``params_of`` (rules whose parameters are wanted). Nothing is written, no lock is taken, and a lock of
a running workflow does not matter.
"""

import json
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path

# More than any rule asks for, so that no thread is taken away before the hardware is known.
MANY_CORES = 4096


def plain(value):
    """JSON-ready form of a parameter."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(each) for each in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def described(job, number, numbers, dependencies, runs, with_params):
    """One job as a mapping; of a job that need not run only what others have to know about it."""
    params = {str(key): plain(value) for key, value in job.params.items()} if with_params else {}
    known = {
        "id": number,
        "rule": job.rule.name,
        "run": runs,
        "inputs": sorted(str(path) for path in job.input),
        "outputs": sorted(str(path) for path in job.output),
        "needs": sorted(numbers[each] for each in dependencies),
        "params": params,
    }
    if not runs:
        return known
    resources = {key: value for key, value in job.resources.items() if isinstance(value, (int, float))}
    return known | {
        "threads": int(job.threads),
        "gpus": int(resources.get("gpu", 0)),
        "mem_mb": float(resources.get("mem_mb", 0)),
        "runtime_min": float(resources.get("runtime", 0)),
        # Not job.is_local, which is about the executor of this dry run.
        "local": job.rule.name in job.rule.workflow._localrules,
        "priority": float(job.rule.priority),
        # A rule that only collects others starts no process.
        "empty": not job.output,
        "benchmark": str(job.benchmark) if job.benchmark else None,
    }


def jobs_of(request):
    """The jobs, those that need not run included, with ``run`` saying which do."""
    from snakemake.api import SnakemakeApi
    from snakemake.settings.enums import Quietness
    from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings

    output = OutputSettings(dryrun=True, quiet={Quietness.ALL}, enable_file_logging=False)
    with SnakemakeApi(output) as api:
        try:
            workflow_api = api.workflow(
                resource_settings=ResourceSettings(cores=MANY_CORES),
                config_settings=ConfigSettings(config=request["config"]),
                snakefile=Path("Snakefile"),
            )
            settings = DAGSettings(targets=request["targets"], forceall=request["from_scratch"])
            dag_api = workflow_api.dag(settings)
            workflow = dag_api.workflow_api._workflow
            # What Snakemake's own --dag does: no lock, and half-written files of a running workflow are no error.
            workflow._prepare_dag(forceall=settings.forceall, ignore_incomplete=True, lock_warn_only=True, nolock=True)
            workflow._build_dag()
            dag = workflow.dag
            wanted = set(dag.needrun_jobs())
            every = list(dag.jobs)
            numbers = {job: number for number, job in enumerate(every)}
            params_of = set(request["params_of"])
            return [
                described(job, number, numbers, dag.dependencies[job], job in wanted, job.rule.name in params_of)
                for job, number in numbers.items()
            ]
        except Exception as error:
            api.print_exception(error)
            return None


def main():
    """Write the jobs to standard output; everything else goes to standard error."""
    # The workflow's own jobs set these for themselves; here they would be taken for settings of this dry run.
    os.environ.pop("SNAKEMAKE_PROFILE", None)
    with redirect_stdout(sys.stderr):
        jobs = jobs_of(json.loads(sys.argv[1]))
    if jobs is None:
        return 1
    json.dump(jobs, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
