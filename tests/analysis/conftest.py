"""What tests of notebooks share: a root with everything that they read, and tables without their pictures."""

import pytest
from notebooks import save_all

from gnm.analysis import page, people


@pytest.fixture(scope="session")
def own(tmp_path_factory):
    root = tmp_path_factory.mktemp("saved_evals")
    save_all(root)
    return root


@pytest.fixture
def unrendered(monkeypatch):
    """Figures are drawn and their tables written; pictures are not, which takes most of the time."""

    def table(figure, frame, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.dropna(axis="columns", how="all").to_csv(path.with_suffix(".csv"), index=False)
        return [path.with_suffix(".png")]

    monkeypatch.setattr(page, "save_with_table", table)
    monkeypatch.setattr(people, "save_figure", lambda *_: None)
