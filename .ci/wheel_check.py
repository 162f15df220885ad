"""Build the wheel, install it into a clean environment and use it away from the checkout.

An editable install hides what a wheel forgets: a sub-package missing from setup.cfg, a YAML that is no package data.
The clean environment sees the dependencies of this one through a path file, and our own package only from the wheel:
path files below a path file are not read, so the editable install stays out of sight. `pip install --no-index` then
fails for a dependency that is needed but not installed here.

Every other Python that the package allows and that is here gets the wheel, too: each file is compiled, and the words
that need no dependency are used. What is not here is skipped by name.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13")
Run = Callable[..., str]

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
EDGEN = ("-c", "configs/base.yaml", "-c", "configs/model/edgen.yaml", "-c", "experiment/edgen_512")


def main() -> None:
    """Run the check; it raises where something is missing."""
    with tempfile.TemporaryDirectory() as temporary:
        away = Path(temporary)

        def run(*words: object, code: int = 0) -> str:
            done = subprocess.run([str(w) for w in words], cwd=away, capture_output=True, text=True, check=False)
            if done.returncode != code:
                raise SystemExit(f"{words} ended with {done.returncode}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
            return done.stdout + done.stderr

        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", away / "dist", ROOT)
        wheel = next((away / "dist").glob("*.whl"))
        check_here(run, away, wheel)
        for version, python in other_pythons():
            if python is None:
                print(f"wheel: python{version} is not here: skipped")
            else:
                check_another_python(run, away / version, python, wheel)


def check_here(run: Run, away: Path, wheel: Path) -> None:
    """Import all of it, parse its recipes and give documented commands, with the dependencies of this environment."""
    venv.create(away / "clean", with_pip=True)
    python, command = away / "clean" / "bin" / "python", away / "clean" / "bin" / "evolvedirector"
    site = next((away / "clean" / "lib").glob("python*")) / "site-packages"
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    run(python, "-m", "pip", "install", "--quiet", "--no-index", "--force-reinstall", "--no-deps", wheel)
    # Its own old setuptools would hide the newer one of this environment.
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools")
    # With its dependencies, without an index: only asks whether they are there.
    run(python, "-m", "pip", "install", "--quiet", "--no-index", wheel)
    imported = run(python, "-I", "-W", "ignore", "-c", IMPORT_ALL)
    print(next(line for line in imported.splitlines() if line.startswith("wheel: ")))
    check_commands(run, away, command)
    checked = run(command, "check", "-c", "quickstart")
    assert "Nothing was started. The same options" in checked, checked
    printed = run(command, "fit", "--print_config", *EDGEN)
    named = (line.strip().partition(": ") for line in printed.splitlines())
    prompts = [value for key, _, value in named if key in ("seeds", "held_out") and value]
    assert len(prompts) == 2 and all(Path(path).is_relative_to(site) for path in prompts), prompts
    assert "mean `quickstart`?" in " ".join(run(command, "fit", "-c", "configs/quikstart.yaml", code=2).split())
    print("wheel: recipes and their prompts are found away from the checkout")
    # The configs that the wheel installed, parsed by the test that parses those of the checkout.
    # Copied: with the checkout on its path, the test would import the package from there.
    (away / "tests").mkdir()
    for name in ("test_configs.py", "parsed_config.py"):
        shutil.copy(ROOT / "tests" / name, away / "tests" / name)
    (away / "pytest.ini").write_text("[pytest]\npythonpath = .\n", encoding="utf-8")
    options = ("-q", "-p", "no:cacheprovider", "-c", away / "pytest.ini", "--import-mode=importlib")
    tested = run(python, "-W", "ignore", "-m", "pytest", *options, away / "tests" / "test_configs.py")
    print(tested.strip().splitlines()[-1])


def check_commands(run: Run, away: Path, command: Path) -> None:
    """Give the words that need no dependency."""
    assert "copy-configs" in run(command, "--help")
    run(command, "copy-configs", away / "recipes")
    assert (away / "recipes" / "quickstart.yaml").is_file() and (away / "recipes" / "prompts" / "seeds.jsonl").is_file()
    shutil.rmtree(away / "recipes")
    assert "teach --draw" in run(command, "sample", code=2)


def other_pythons() -> Iterator[tuple[str, Path | None]]:
    """Yield each further Python that the package allows, with its program, from PATH or pyenv; None: it is not here."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in PYTHONS:
        if version == own:
            continue
        on_path = shutil.which(f"python{version}")
        found = [*([Path(on_path)] if on_path else []), *sorted(pyenv.glob(f"{version}.*/bin/python{version}"))]
        yield version, next((python for python in found if answers(python, version)), None)


def answers(python: Path, version: str) -> bool:
    """Say whether a program really is that Python: a shim may stand for one that is not installed."""
    asked = [str(python), "-c", "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout.strip() == version


def check_another_python(run: Run, folder: Path, python: Path, wheel: Path) -> None:
    """Install the wheel, compile every file (a warning is an error) and use what needs no dependency."""
    run(python, "-m", "venv", folder)
    inside = folder / "bin" / "python"
    run(inside, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile", wheel)
    site = next((folder / "lib").glob("python*")) / "site-packages"
    run(inside, "-W", "error", "-m", "compileall", "-q", site / "evolvedirector")
    check_commands(run, folder, folder / "bin" / "evolvedirector")
    print(f"wheel: python{folder.name}: installed and compiled (its dependencies are not here: not imported)")


if __name__ == "__main__":
    main()
