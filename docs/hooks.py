"""What mkdocs does beside its own: plots of the project go into the site, links to tables become the tables.

A page links to `../plots/NAME.md` or shows `../plots/NAME.png`, as it must where it is read in the repository.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

PLOTS = Path(__file__).resolve().parents[1] / "plots"
TABLE = re.compile(r"^\[[^\]]*\]\(\.\./plots/([\w-]+\.md)\)$", flags=re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every figure of `plots/` to the site."""
    for path in sorted(PLOTS.glob("*.png")):
        files.append(File.generated(config, f"plots/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_) -> str:
    """Put tables in the place of the links to them. PluginError ends the build if one is not there."""
    return TABLE.sub(lambda link: table(link[1]), markdown).replace("](../plots/", "](plots/")


def table(name: str) -> str:
    """The text of a table of `plots/`."""
    try:
        return (PLOTS / name).read_text(encoding="utf-8")
    except OSError as error:
        raise PluginError(f"plots/{name} cannot be read: {error.strerror}; run the experiment's report") from error
