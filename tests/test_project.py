"""The project's own files: pins, the README's commands, what git ignores, paths, and every DVC pipeline."""

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

# asked for by one setting on a GPU, and by one command; their errors say how to install them
OPTIONAL = {"bitsandbytes", "lm_eval"}


def requirements(path):
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("-r ")]


def git(project, *arguments):
    done = subprocess.run(["git", *arguments], cwd=project, capture_output=True, text=True, check=False)
    if done.returncode == 128:
        pytest.skip("needs a git checkout")
    return done.stdout.splitlines()


def files_of(project):
    """Files that are or could be committed."""
    listed = git(project, "ls-files", "--cached", "--others", "--exclude-standard")
    return [project / name for name in listed if (project / name).is_file()]


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_pins_are_exact(project, name):
    pins = requirements(project / name)
    assert pins and all(re.fullmatch(r"[A-Za-z0-9_.\-]+==[0-9][A-Za-z0-9.]*", pin) for pin in pins)


def test_what_is_imported_is_pinned(project):
    runtime = {normal(pin) for pin in requirements(project / "requirements.txt")}
    development = runtime | {normal(pin) for pin in requirements(project / "requirements-dev.txt")}
    own = {"gnm", "conftest"} | {
        path.stem
        for name in ("tests", "benchmarks")
        for path in (project / name).rglob("*")
        if path.suffix in ("", ".py")
    }
    distributions = packages_distributions()
    for folder, pinned in (("src", runtime), ("benchmarks", development), ("tests", development)):
        for path in (project / folder).rglob("*.py"):
            for module in imported_by(path) - own - OPTIONAL - set(sys.stdlib_module_names):
                names = {normal(name) for name in distributions.get(module, [module])}
                assert names & pinned, f"{path} imports {module}, which is not pinned"


def normal(pin):
    return re.sub(r"[-_.]+", "-", pin.split("==")[0]).lower()


def imported_by(path):
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules.add(node.module.split(".")[0])
    return modules


def test_readme_commands_are_in_the_makefile(project):
    readme, makefile = (project / "README.md").read_text(encoding="utf-8"), (project / "Makefile").read_text()
    named = set(re.findall(r"^\s*\$?\s*make ([a-z-]+)", readme, flags=re.MULTILINE))
    assert {"quickstart", "test"} <= named
    assert named <= set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    assert "make test" in (project / ".ci" / "run").read_text()


def test_version_is_the_same_everywhere(project):
    import gnm

    citation = yaml.safe_load((project / "CITATION.cff").read_text())
    assert citation["version"] == gnm.__version__
    assert f"## {gnm.__version__}" in (project / "CHANGELOG.md").read_text()


def test_the_citation_names_the_paper_and_its_authors(project):
    paper, *others = yaml.safe_load((project / "CITATION.cff").read_text())["references"]
    declared = tomllib.loads((project / "pyproject.toml").read_text())["project"]["urls"]["Paper"]
    assert paper["url"] == declared and any("MEMORYLLM" in other["title"] for other in others)
    named = ", ".join(author["family-names"] for author in paper["authors"])
    assert f'"{paper["title"]}" ({named} {paper["year"]}' in (project / "docs" / "index.md").read_text()


def test_package_data_covers_the_data_files(project):
    patterns = tomllib.loads((project / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    others = [path for path in files_of(project) if path.is_relative_to(project / "src") and path.suffix != ".py"]
    assert all(f"*{path.suffix}" in patterns for path in others)


def test_gitignore_hides_no_dvc_file_and_nothing_that_is_shipped(project):
    kept = ["experiments/x/dvc.yaml", "experiments/x/dvc.lock", "experiments/x/params.yaml", ".dvc/config"]
    kept += ["data_pipelines/x/dvc.yaml", "data/x.dvc", "data/x/y.csv.dvc", "data/x/.gitignore", ".dvcignore"]
    kept += ["models/smollm2-135m/gnm/adapter_model.safetensors", "models/x.dvc", ".dvc/.gitignore", ".ci/run"]
    kept += ["saved_evals/small_exp1/gnm/summary.json", "saved_evals/small_exp1/gnm/records.parquet"]
    kept += ["plots/people.png", "data/counterfact/train.jsonl.xz", "data/people/people_dev.json"]
    kept += ["notebooks/x.ipynb", "src/gnm/data/facts/x.csv", "data/x/dvc.lock"]
    made = [".venv/bin/python", "plots/quickstart.png"]
    made += ["models/smollm2-135m/backbone/model.safetensors", "data/x/documents.json"]
    made += ["models/exp1/gnm/adapter_model.safetensors", "models/gnm_all/model.safetensors"]
    made += ["models/icl_facts/source.json", "models/rag_all/.cache/x"]
    made += ["build/docs/index.html", "build/quickstart.lock"]
    made += [".elbonia.mem.abcd1234.part", "saved_evals/small_exp1/.gnm.abcd1234.part/summary.json"]
    made += ["src/gnm/__pycache__/x.pyc", ".dvc/cache/files/md5/00/11", "src/gnm.egg-info/PKG-INFO"]
    assert git(project, "check-ignore", *kept, *made) == made


def test_no_path_of_a_machine_is_in_the_project(project):
    pattern = re.compile(r"(?:^|[^\w.>*])/(?:work|root|home|Users|mnt)/\w|[\"'\s=]C:\\\\Users")
    for path in files_of(project):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found = pattern.search(text)
        assert not found, f"{path} holds {found.group()!r}"


def test_a_room_imports_only_from_those_above_it(project):
    tour = (project / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = re.findall(r"^\| `(\w+)/` \|", tour, flags=re.MULTILINE)
    package = project / "src" / "gnm"
    assert sorted(rooms) == sorted(path.parent.name for path in package.glob("*/__init__.py"))
    for number, room in enumerate(rooms):
        below = tuple(f"gnm.{name}" for name in rooms[number + 1 :])
        for path in (package / room).rglob("*.py"):
            names = re.findall(r"^\s*(?:from|import) (gnm\.\w+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert not {*names} & {*below}, f"{path} imports from a room below its own in CONTRIBUTING.md"


def test_modules_stay_within_what_a_reader_can_hold(project):
    for path in (project / "src").rglob("*.py"):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= 300, f"{path} has {lines} lines"


@pytest.mark.parametrize("experiment", ["exp1", "exp2"])
def test_trainings_of_an_experiment_at_the_papers_scale_differ_in_their_method_alone(project, experiment):
    folders = sorted((project / "experiments").glob(f"train_{experiment}_*"))
    assert len(folders) > 1 and len({(folder / "dvc.yaml").read_bytes() for folder in folders}) == 1
    shared = []
    for folder in folders:
        params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
        for block, key in (("backbone", "name"), ("distributed", "shard"), ("train", "methods"), ("train", "lora")):
            params[block].pop(key, None)
        shared.append(params)
    assert all(params == shared[0] for params in shared)


@pytest.fixture(scope="module")
def stages(project):
    """Every stage of every dvc.yaml, as DVC itself reads them (templates resolved)."""
    if not (project / ".git").exists():
        pytest.skip("needs a git checkout")
    with Repo(project) as repo:
        return repo.index.stages


def test_dvc_has_no_analytics_and_a_local_cache(project):
    with Repo(project) as repo:
        assert not repo.config["core"]["analytics"] and not repo.config["core"]["autostage"]
        assert not repo.config["remote"] and "dir" not in repo.config["cache"]


def test_stages_run_modules_that_exist(stages):
    for stage in stages:
        commands = stage.cmd if isinstance(stage.cmd, list) else [stage.cmd or ""]
        for command in commands:
            for module in re.findall(r"-m (gnm[\w.]*)", command):
                assert find_spec(module), f"{stage.addressing}: no module {module}"
            assert "conda" not in command


def test_stages_name_existing_params_and_dependencies(stages, project):
    made = [str(out.fs_path) for stage in stages for out in stage.outs]
    read = cache(lambda path: yaml.safe_load((project / path).read_text()))
    for stage in stages:
        for dependency in stage.deps:
            path = str(dependency.fs_path)
            keys = getattr(dependency, "params", None)
            if keys is not None:
                for key in keys:
                    assert has_key(read(path), key), f"{stage.addressing}: no key {key} in {path}"
            elif not any(path == out or path.startswith(out + "/") or out.startswith(path + "/") for out in made):
                assert Path(path).exists(), f"{stage.addressing}: {path} is neither there nor made by a stage"


def has_key(params, dotted):
    for part in dotted.split("."):
        if not isinstance(params, dict) or part not in params:
            return False
        params = params[part]
    return True
