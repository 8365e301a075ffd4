"""The wheel, the sdist and an editable install carry what the package needs at run time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NEEDED = (
    "datasette_embed/templates/embed_models.html",
    "datasette_embed/providers/minilm/model.onnx",
    "datasette_embed/providers/minilm/tokenizer.json",
    "datasette_embed/providers/minilm/LICENSE",
    "datasette_embed/py.typed",
)
CODE = """
import sqlite3, datasette_embed
from pathlib import Path
conn = sqlite3.connect(":memory:")
datasette_embed.register(conn)
print(conn.execute("select length(llm_embed('minilm', 'a cat'))").fetchone()[0])
print(Path(datasette_embed.__file__).parent.joinpath("templates/embed_models.html").exists())
"""


def test_templates_link_points_at_the_packages_templates() -> None:
    """The folder at the top is a relative link, so that there is one copy."""
    link = ROOT / "templates"
    assert link.is_symlink()
    assert os.readlink(link) == "datasette_embed/templates"
    assert (link / "embed_models.html").is_file()


def test_bundled_model_is_at_most_40_megabytes() -> None:
    """Every version of the model stays in the history for ever."""
    folder = ROOT / "datasette_embed" / "providers" / "minilm"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 40_000_000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist, and the wheel from it, from the files that git has."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(folder), str(source)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.packaging
def test_wheel_carries_templates_and_model(built: Path) -> None:
    """The wheel holds every file that is read at run time, and no tests."""
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    assert set(NEEDED) <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


@pytest.mark.packaging
def test_sdist_carries_templates_and_model(built: Path) -> None:
    """The sdist holds every file that is read at run time, and the licence."""
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
    assert {*NEEDED, "LICENSE", "README.md"} <= names


@pytest.mark.packaging
@pytest.mark.parametrize("how", ["wheel", "editable"])
def test_installed_package_embeds(built: Path, tmp_path: Path, how: str) -> None:
    """In an environment of its own the installed package finds its model and templates."""
    venv.create(tmp_path / "venv", with_pip=True, system_site_packages=False)
    python = tmp_path / "venv" / "bin" / "python"
    target = [str(next(built.glob("*.whl")))] if how == "wheel" else ["-e", str(ROOT)]
    done = subprocess.run(
        [python, "-m", "pip", "install", "-q", *target], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", CODE], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["1536", "True"], done.stderr
    done = subprocess.run(
        [tmp_path / "venv" / "bin" / "datasette", "embed", "models", "list"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "minilm" in done.stdout, done.stderr
