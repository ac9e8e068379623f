"""The documentation: it builds strictly, its tables are those of the reports, and it names every command."""

import re
import runpy
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO

import pytest

from gnm.cli import main


@pytest.fixture(scope="module")
def site(project, tmp_path_factory):
    """The pages as `make docs` builds them: a warning, such as of a link to nowhere, is an error."""
    build = pytest.importorskip("mkdocs.commands.build", reason="needs mkdocs (requirements-dev.txt)")
    pytest.importorskip("mkdocstrings", reason="needs mkdocstrings (requirements-dev.txt)")
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    build.build(load_config(str(project / "mkdocs.yml"), site_dir=str(folder)))
    return folder


def test_tables_and_figures_are_those_of_the_reports(site, project):
    linked = set(re.findall(r"\.\./plots/([\w-]+)\.md", (project / "docs" / "results.md").read_text()))
    page = (site / "results.html").read_text(encoding="utf-8")
    assert len(linked) >= 4
    for name in linked:
        first = (project / "plots" / f"{name}.md").read_text(encoding="utf-8").splitlines()[2]
        for cell in (cell.strip() for cell in first.strip("| ").split("|")):
            assert f">{cell}</td>" in page, f"{name}: {cell}"
    for image in re.findall(r'src="(plots/[^"]+)"', page):
        assert (site / image).stat().st_size > 10_000


def test_the_contracts_are_on_their_pages(site):
    assert 'id="gnm.conversation.Conversation.write"' in (site / "python.html").read_text()
    assert 'id="gnm.learners.base.Learner.answer"' in (site / "extending.html").read_text()


def test_a_table_that_is_not_there_ends_the_build(project, monkeypatch):
    monkeypatch.syspath_prepend(str(project / "docs"))
    pytest.importorskip("mkdocs")
    hooks = import_module("hooks")
    with pytest.raises(hooks.PluginError, match=r"plots/nowhere.md cannot be read.*run the experiment's report"):
        hooks.on_page_markdown("[Table](../plots/nowhere.md)")


def test_every_command_is_on_the_page_of_the_shell(project):
    said = StringIO()
    with redirect_stdout(said), pytest.raises(SystemExit):
        main(["--help"])
    commands = set(re.findall(r"^    ([a-z]+)(?:\s|$)", said.getvalue(), flags=re.MULTILINE))
    page = (project / "docs" / "shell.md").read_text()
    assert {"write", "ask", "plan"} <= commands
    assert not [name for name in commands if f"gnm {name}" not in page]


def test_files_that_are_named_exist(project):
    """Paths in code style, of folders that are in every checkout."""
    pages = [project / "README.md", project / "CONTRIBUTING.md", *(project / "docs").glob("*.md")]
    for page in pages:
        for path in re.findall(r"`((?:src|docs|experiments|tests|notebooks|benchmarks)/[\w./-]+)`", page.read_text()):
            assert (project / path).exists() or "your_method" in path, f"{page.name}: {path}"


def test_the_readme_is_a_door(project):
    assert len((project / "README.md").read_bytes()) <= 8_192


def test_numbers_of_the_readme_are_those_of_the_reports(project):
    tool = runpy.run_path(str(project / "tools" / "readme.py"))
    text = (project / "README.md").read_text(encoding="utf-8")
    assert tool["filled"](text) == text
    row = next(line for line in text.splitlines() if line.startswith("| Generalist |"))
    assert tool["filled"](text.replace(row, row.replace("[", "[1"))) == text
    with pytest.raises(SystemExit, match="no place for the table 'people'"):
        tool["filled"](text.replace("<!-- people -->", ""))
