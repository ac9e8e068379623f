"""The built package: what is in it, what it needs, and that its core works where no checkout and no extra is."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_string
from importlib import import_module
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gnm import places, provenance
from gnm.errors import ConfigError
from gnm.extras import EXTRAS, optional_imports
from gnm.training.log import TrainingLog

NOT_SHIPPED = (".git", ".venv", ".dvc", "backbone", "exp1", "exp2", "saved_evals", "plots", "data", "__pycache__")
MISSING = ("dvc", "dvclive", "pandas", "pyarrow", "matplotlib", "jupyterlab", "nbconvert", "datasets", "bm25s")
WITHOUT_EXTRAS = "import sys; sys.modules.update(dict.fromkeys({missing}))\n"  # None: importing it fails


@pytest.fixture(scope="module")
def wheel(project, tmp_path_factory):
    """The wheel as `python -m build` makes it: out of the source archive."""
    folder = tmp_path_factory.mktemp("build")
    shutil.copytree(project, folder / "checkout", ignore=lambda place, names: skipped(project, Path(place), names))
    built("sdist", folder / "checkout", folder)
    with tarfile.open(next(folder.glob("gnm-*.tar.gz"))) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    built("wheel", next((folder / "unpacked").iterdir()), folder)
    return next(folder.glob("gnm-*.whl"))


def skipped(project, place, names):
    """What is not copied; `data` is a package too."""
    return [name for name in names if name in NOT_SHIPPED and not (name == "data" and place != project)]


def built(kind, source, target):
    # the build backend itself, as a frontend calls it: nothing is fetched
    code = f"import setuptools.build_meta as backend; backend.build_{kind}({str(target)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with the package out of the wheel, as pip installs it."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", folder, wheel]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def run(installed, folder, *arguments, code="from gnm.cli import main; main()", models=None):
    """Run `gnm` (or `code`) out of `installed`, in another folder, without the extras."""
    environment = {name: value for name, value in os.environ.items() if name != "GNM_MODELS"}
    environment |= {"PYTHONPATH": str(installed), "XDG_CACHE_HOME": str(folder / "cache")}
    if models is not None:
        environment["GNM_MODELS"] = str(models)
    code = WITHOUT_EXTRAS.format(missing=MISSING) + code
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_wheel_holds_the_package_its_data_the_adapter_and_the_licence(wheel, project):
    names = set(zipfile.ZipFile(wheel).namelist())
    source = project / "src"
    own = {str(path.relative_to(source)) for path in (source / "gnm").rglob("*") if path.is_file()}
    own = {name for name in own if "__pycache__" not in name}
    shipped = project / "models/smollm2-135m/gnm"
    adapter = {f"gnm/adapter/{path.relative_to(shipped)}" for path in shipped.rglob("*") if path.is_file()}
    assert {"gnm/data/people/grammar.yaml", "gnm/data/facts/locations.csv", "gnm/py.typed"} <= own and len(adapter) == 7
    assert {name for name in names if name.startswith("gnm/")} == own | adapter
    others = {name.partition("/")[2] for name in names if not name.startswith("gnm/")}
    assert others == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}


def test_the_metadata_say_what_it_is_and_name_no_host_of_a_machine(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = message_from_string(archive.read(name).decode())
    assert metadata["License-Expression"] == "MIT" and metadata["Requires-Python"] == ">=3.11"
    assert "# Generalized Neural Memory" in metadata.get_payload()
    assert "Topic :: Scientific/Engineering :: Artificial Intelligence" in metadata.get_all("Classifier")
    assert metadata.get_all("Project-URL") == ["Paper, https://arxiv.org/abs/2602.23201"]
    core = {Requirement(each).name for each in metadata.get_all("Requires-Dist") if "extra ==" not in each}
    assert {"torch", "transformers", "peft"} <= core and not core & set(MISSING)


def pins(path):
    """The versions that a requirements file pins, by package."""
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    parts = (line.partition("==") for line in lines if line and not line.startswith("-r "))
    return {canonicalize_name(name): version for name, _, version in parts}


def test_ranges_hold_what_is_pinned(project):
    declared = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    everything = [*declared["dependencies"], *sum(declared["optional-dependencies"].values(), [])]
    ranges = {canonicalize_name(r.name): r.specifier for r in map(Requirement, everything) if r.name != "gnm"}
    runtime, development = pins(project / "requirements.txt"), pins(project / "requirements-dev.txt")
    assert ranges.keys() == runtime.keys() | development.keys()
    pinned = {**development, **runtime}
    assert all(specifier.contains(pinned[name]) and "==" not in str(specifier) for name, specifier in ranges.items())
    for package, extra in EXTRAS.items():
        assert canonicalize_name({"faiss": "faiss-cpu"}.get(package, package)) in {
            Requirement(each).name for each in declared["optional-dependencies"][extra]
        }


def test_the_core_writes_and_asks_without_checkout_and_extras(installed, tmp_path):
    tiny = ("--backbone", "tiny")
    written = run(installed, tmp_path, "write", "a.mem", "Bern is in Asia.", "--instruction", "Learn it all.", *tiny)
    assert written.returncode == 0 and "document 0" in written.stdout, written.stderr
    asked = run(installed, tmp_path, "ask", "a.mem", "Where is Bern?", *tiny)
    assert asked.returncode == 0 and asked.stdout, asked.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"a.mem", ".a.mem.lock"}


def test_without_a_checkout_the_adapter_is_the_packages_and_backbones_are_the_users(installed, tmp_path):
    code = "from gnm.places import *; from gnm.provenance import git_commit\n"
    code += "print(default_adapter(), default_models_dir(), checkout(), git_commit(), sep='\\n')"
    adapter, models, none, commit = run(installed, tmp_path, code=code).stdout.splitlines()
    assert Path(adapter) == installed / "gnm" / "adapter" and (Path(adapter) / "gnm.json").is_file()
    models = Path(models)  # a relative one would be another folder wherever one stands
    assert models.is_absolute() and models.name == "models"
    assert installed not in models.parents and models != tmp_path / "models"
    assert none == "None" and commit.startswith("gnm 0.")


def test_in_a_checkout_the_adapter_does_not_depend_on_where_one_stands(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert places.checkout() == project
    assert places.default_adapter() == project / "models" / "smollm2-135m" / "gnm"


def test_a_package_within_another_project_takes_nothing_of_that_project(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(places, "_PACKAGE", tmp_path / "vendor" / "gnm")
    assert places.checkout() is None and provenance.git_commit().startswith("gnm ")


@pytest.mark.slow
def test_the_wheel_answers_with_the_shipped_adapter(smollm2, installed, tmp_path):
    code = "from gnm import load\nmemory = load()\nmemory.write('Elbonia follows Buddhism.', 'Memorize all facts.')\n"
    code += "print(memory.ask('What is the religion of Elbonia?'))"
    done = run(installed, tmp_path, code=code, models=places.default_models_dir())
    assert "Buddhism" in done.stdout, done.stderr


@pytest.mark.parametrize("arguments", ["--help", "--version", "chat --help", "train --help", "data --help"])
def test_help_needs_no_extra(installed, tmp_path, arguments):
    done = run(installed, tmp_path, *arguments.split())
    assert done.returncode == 0 and done.stdout, done.stderr


@pytest.mark.parametrize("program", ["evaluate", "report", "results"])
def test_a_program_whose_extra_is_missing_names_it(installed, tmp_path, program):
    done = run(installed, tmp_path, program, "x")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "which is not installed; run: pip install 'gnm[analysis]'" in done.stderr


PROGRAMS = ["evaluate", "evaluate_people", "analysis.gates", "analysis.people", "analysis.report", "probing.probe"]
RUN_EACH = """
import contextlib, io, runpy
for name in {programs}:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            runpy.run_module("gnm." + name, run_name="__main__")
        print(name, "ran")
    except SystemExit as end:
        print(name, end.code, sep=": ")
"""


def test_a_module_that_is_run_where_its_extra_is_missing_names_it(installed, tmp_path):
    done = run(installed, tmp_path, code=RUN_EACH.format(programs=[*PROGRAMS, "probing.what_was_learned"]))
    said = done.stdout.splitlines()
    assert len(said) == len(PROGRAMS) + 1, done.stderr
    assert all("is not installed; run: pip install 'gnm[analysis]'" in line for line in said), said


def test_training_without_its_tracker_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "dvclive", None)
    with pytest.raises(ConfigError, match=r"needs the package dvclive, .* pip install 'gnm\[train\]'"):
        TrainingLog(tmp_path / "gnm", first=0, enabled=True)


def test_a_missing_package_of_no_extra_is_an_error_of_its_own():
    with pytest.raises(ModuleNotFoundError, match="no_such_package"), optional_imports():
        import_module("no_such_package")
