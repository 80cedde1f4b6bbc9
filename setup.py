"""Build step of wheels: params/ becomes data of the package. pyproject.toml has the rest."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PARAMS = Path("params")


class BuildWithParams(build_py):
    """Copy params/ to afd/shipped/params/; an editable install reads the checkout's own."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "afd" / "shipped" / PARAMS
            shutil.rmtree(target, ignore_errors=True)  # a file that was removed stays in build/
            shutil.copytree(PARAMS, target)


setup(cmdclass={"build_py": BuildWithParams})
