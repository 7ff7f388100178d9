"""Build the wheel, look at what is in it, and use it where there is nothing but it and what it declares.

    .venv/bin/python .ci/wheel.py            # dependencies are links to those installed here: no download
    .venv/bin/python .ci/wheel.py --index    # dependencies are installed from the index, as by a user

The bare environment holds the wheel and the distributions that its metadata asks for, and those that they ask
for. It is filled twice: first without extras, where `bilevel` has to work, then with the extra `istd`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("bilevel", "istd")
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv", ".*cache", ".hypothesis", "__pycache__", "*.egg-info", "build", "dist", "runs", "site"
)

CORE = """
import pathlib, sys, torch, bilevel
assert pathlib.Path(bilevel.__file__).is_relative_to(sys.prefix), bilevel.__file__

def inner_loss(model, weights, batch):
    x, y, cluster = batch
    return (weights(cluster) * (model(x)[:, 0] - y).square()).mean()

def outer_loss(model, weights, batch):
    return (model(batch[0])[:, 0] - batch[1]).square().mean()

torch.manual_seed(0)
x, cluster = torch.randn(40, 3), torch.arange(40) % 4
y = x.sum(1) * torch.where(cluster == 3, -1.0, 1.0)
model, weights = torch.nn.Linear(3, 1), bilevel.ClusterWeights(num_clusters=4)
solver = bilevel.Solver(
    inner_loss, outer_loss, inner=model, outer=weights,
    inner_optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
    outer_optimizer=torch.optim.Adam(weights.parameters(), lr=0.1),
    hypergradient=bilevel.Unrolled(steps=3),
)
good = cluster != 3
for _ in range(20):
    solver.step((x, y, cluster), (x[good], y[good]))
learned = weights(torch.arange(4)).tolist()
assert learned[3] < min(learned[:3]), learned
print("weights", [round(one, 2) for one in learned])
"""

EXTRAS = """
import importlib.metadata as md, pathlib, sys, istd
assert pathlib.Path(istd.__file__).is_relative_to(sys.prefix), istd.__file__
assert "istd" in md.metadata("bilevel-istd").get_all("Provides-Extra")
from istd import create_model, list_models
print(len(list_models()), "networks;", create_model("mlclnet").name)
"""

COMMANDS = (
    "istd --help",
    "istd synth data --train 8 --val 2 --test 2 --height 48 --width 48",
    "istd doctor data",
    "istd train --data data --vfm random:test_vit --epochs 1 --crop 32 --batch-size 4 --out run",
    "istd eval run --out eval",
    "istd report run --out report.html",
)
WRITTEN = ("data/images", "run/results.json", "run/checkpoints", "eval/metrics.json", "report.html")


def main() -> None:
    """Do all of it in a temporary folder; the first thing that is wrong ends it with its reason."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--index", action="store_true", help="install the dependencies from the index")
    index = parser.parse_args().index
    with tempfile.TemporaryDirectory(prefix="wheel-") as name:
        work = Path(name)
        wheel = build(work)
        check_contents(wheel)
        environment = work / "bare"
        venv.create(environment, symlinks=True, with_pip=False)
        pip(environment, "install", "--no-index", "--no-deps", str(wheel))
        for extras in ((), ("istd",)):
            add_dependencies(environment, wheel, extras, index)
            use(environment, work / f"empty{len(extras)}", extras)
        pip(environment, "check")
    print("the wheel is whole, and works with what it declares")


def build(work: Path) -> Path:
    """The wheel, made from the source distribution; one made from the tree directly must hold the same."""
    tree = work / "tree"
    shutil.copytree(ROOT, tree, ignore=NOT_SOURCE)
    for folder, options in (("dist", ()), ("direct", ("--wheel",))):
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(work / folder), *options]
        done = subprocess.run([*command, str(tree)], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    (wheel,), (direct,) = ((work / folder).glob("*.whl") for folder in ("dist", "direct"))
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(direct) as other:
        first, second = ({item.filename: item.CRC for item in each.infolist()} for each in (one, other))
    if first != second:
        sys.exit(f"sdist and tree build different wheels: {sorted(set(first.items()) ^ set(second.items()))}")
    return wheel


def check_contents(wheel: Path) -> None:
    """The wheel holds every file of the two packages, its metadata, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = {name.partition(".dist-info/")[2] for name in archive.namelist()} - {""}
    there = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    if names != there:
        sys.exit(f"not in the wheel: {sorted(there - names)}; in it by mistake: {sorted(names - there)}")
    missing = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"} - metadata
    if missing:
        sys.exit(f"not in the metadata of the wheel: {sorted(missing)}")


def pip(environment: Path, *arguments: str) -> None:
    """Run this environment's pip on the bare one."""
    command = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python")]
    subprocess.run([*command, "--disable-pip-version-check", "-q", *arguments], check=True)


def add_dependencies(environment: Path, wheel: Path, extras: tuple[str, ...], index: bool) -> None:
    """Put what the wheel asks for, with these extras, into the environment."""
    if index:
        pip(environment, "install", f"{wheel}[{','.join(extras)}]" if extras else str(wheel))
        return
    (site,) = environment.glob("lib/python*/site-packages")
    (info,) = site.glob("bilevel_istd-*.dist-info")
    for found in needed(Distribution.at(info), extras).values():
        link(found, site)


def needed(start: Distribution, extras: Iterable[str]) -> dict[str, Distribution]:
    """The distributions that `start` asks for with these extras, and those that they ask for, and so on."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, tuple[str, ...]]] = set()
    waiting = [(start, tuple(extras))]
    while waiting:
        asking, wanted = waiting.pop()
        for text in asking.requires or []:
            requirement = Requirement(text)
            marker = requirement.marker
            if marker and not any(marker.evaluate({"extra": extra}) for extra in ("", *wanted)):
                continue
            key = (requirement.name, tuple(sorted(requirement.extras)))
            if key not in seen:
                seen.add(key)
                found[requirement.name] = distribution(requirement.name)
                waiting.append((found[requirement.name], key[1]))
    return found


def link(found: Distribution, site: Path) -> None:
    """Put links to the files of a distribution into `site`, where they are not there yet."""
    if found.files is None:
        sys.exit(f"{found.name} does not say which files it has; try --index")
    for file in found.files:
        target, source = site / file, Path(str(found.locate_file(file)))
        if ".." in file.parts or target.is_symlink() or not source.is_file():
            continue  # scripts are not needed
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.resolve())


def use(environment: Path, empty: Path, extras: tuple[str, ...]) -> None:
    """Try the packages from an empty folder, with no trace of the repository around."""
    empty.mkdir()
    programs = environment / "bin"
    kept = ("LANG", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
    around = {key: os.environ[key] for key in kept if key in os.environ}
    around |= {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(empty), "ISTD_CACHE": str(empty / "cache")}

    def run(*command: str) -> None:
        print("$", command[0] if command[0] != "python" else "python -c …", *command[1:2], flush=True)
        subprocess.run([str(programs / command[0]), *command[1:]], cwd=empty, env=around, check=True)

    if not extras:
        run("python", "-I", "-c", CORE)
        told = subprocess.run(
            [programs / "istd"], cwd=empty, env=around, capture_output=True, text=True, check=False
        )
        if "bilevel-istd[istd]" not in told.stderr or "Traceback" in told.stderr:
            sys.exit(f"without its extra the command istd should say what to install:\n{told.stderr}")
        return
    run("python", "-I", "-c", EXTRAS)
    for command in COMMANDS:
        run(*command.split())
    missing = [name for name in WRITTEN if not (empty / name).exists()]
    if missing:
        sys.exit(f"the commands did not write {missing}")


if __name__ == "__main__":
    main()
