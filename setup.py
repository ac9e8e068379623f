"""Puts the default adapter into the package when it is built; all else of the build stands in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ADAPTER = Path("models/smollm2-135m/gnm")


class BuildWithAdapter(build_py):
    """Copies the adapter to `gnm/adapter` of what is built. An editable install finds it in the checkout instead."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            self.copy_tree(str(ADAPTER), str(Path(self.build_lib, "gnm", "adapter")))


setup(cmdclass={"build_py": BuildWithAdapter})
