"""Build the wheel, install it into a clean environment and use it away from the checkout.

An editable install hides what a wheel forgets: a sub-package missing from setup.cfg, a YAML that is no package data.
The clean environment sees the dependencies of this one through a path file, and our own package only from the wheel:
path files below a path file are not read, so the editable install stays out of sight. `pip install --no-index` then
fails for a dependency that is needed but not installed here.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

IMPORT_ALL = """
import importlib, pkgutil, sys
import evolvedirector
assert evolvedirector.__file__.startswith(sys.prefix), evolvedirector.__file__
modules = [found.name for found in pkgutil.walk_packages(evolvedirector.__path__, "evolvedirector.")]
for name in modules:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(f"wheel: {len(modules)} modules imported")
"""


def main() -> None:
    """Run the check; it raises where something is missing."""
    with tempfile.TemporaryDirectory() as temporary:
        away = Path(temporary)
        run = lambda *words: subprocess.run([str(word) for word in words], cwd=away, check=True)  # noqa: E731
        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", away / "dist", ROOT)
        venv.create(away / "clean", with_pip=True)
        python = away / "clean" / "bin" / "python"
        site = next((away / "clean" / "lib").glob("python*")) / "site-packages"
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
        wheel = next((away / "dist").glob("*.whl"))
        run(python, "-m", "pip", "install", "--quiet", "--no-index", "--force-reinstall", "--no-deps", wheel)
        # Its own old setuptools would hide the newer one of this environment.
        run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools")
        # With its dependencies, without an index: only asks whether they are there.
        run(python, "-m", "pip", "install", "--quiet", "--no-index", wheel)
        run(python, "-I", "-W", "ignore", "-c", IMPORT_ALL)
        # The configs that the wheel installed, parsed by the test that parses those of the checkout.
        # Copied: with the checkout on its path, the test would import the package from there.
        (away / "tests").mkdir()
        for name in ("test_configs.py", "parsed_config.py"):
            shutil.copy(ROOT / "tests" / name, away / "tests" / name)
        (away / "pytest.ini").write_text("[pytest]\npythonpath = .\n", encoding="utf-8")
        options = ("-q", "-p", "no:cacheprovider", "-c", away / "pytest.ini", "--import-mode=importlib")
        run(python, "-W", "ignore", "-m", "pytest", *options, away / "tests" / "test_configs.py")
        run(away / "clean" / "bin" / "evolvedirector", "--help")


if __name__ == "__main__":
    main()
