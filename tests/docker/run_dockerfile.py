"""Runs the Dockerfile's own command lines in a clean root, for machines without a container engine.

Run as root with ``python tests/docker/run_dockerfile.py ROOT [NAME=VALUE ...]``, NAME an ARG of the Dockerfile. ROOT is
a folder that ``debootstrap bookworm ROOT`` made, with python3.11, python3-venv and python-is-python3 installed in it.
The stages share the root, so ``COPY --from`` finds its files in place. What an engine alone does (layers, VOLUME,
EXPOSE, HEALTHCHECK as a timer) is not tried. Not a part of ``make test``: it takes root, a network and some minutes.
"""

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Instruction:
    """One line of a Dockerfile: its word, and what follows."""

    word: str
    rest: str


def parse(text: str) -> list[Instruction]:
    """The instructions in order, without comments, continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    split = [line.split(maxsplit=1) for line in joined.splitlines()]
    return [Instruction(word.upper(), rest) for word, rest in split]


def expand(text: str, values: dict[str, str]) -> str:
    """``text`` with $NAME and ${NAME} replaced where the name is known."""
    return re.sub(r"\$\{?(\w+)\}?", lambda found: values.get(found[1], found[0]), text)


def main() -> int:
    """Run each instruction; the exit status of the first command that fails, or of the last one."""
    root, *given = sys.argv[1:]
    values = dict(entry.split("=", 1) for entry in given)
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/root"}
    folder, user = "/", "root"
    for step in parse((HERE / "Dockerfile").read_text(encoding="utf-8")):
        rest = step.rest if step.word == "RUN" else expand(step.rest, {**values, **environment})
        if step.word == "ARG":
            name, _, value = rest.partition("=")
            values.setdefault(name, value)
        elif step.word == "ENV":
            environment |= dict(entry.split("=", 1) for entry in shlex.split(rest))
        elif step.word == "WORKDIR":
            folder = rest
            (Path(root) / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif step.word == "USER":
            user = rest
        elif step.word == "COPY" and not rest.startswith("--from"):
            copy(rest.split(), Path(root) / folder.lstrip("/"))
        elif step.word in {"RUN", "ENTRYPOINT"}:
            command = expand(rest, values) if step.word == "RUN" else "realm --help"
            print(f"{step.word} {command}", flush=True)
            line = f"cd {shlex.quote(folder)} && {command}"
            chroot = ["chroot", f"--userspec={user}", root, "/usr/bin/env", "-i"]
            pairs = [f"{name}={value}" for name, value in {**environment, **values}.items()]
            done = subprocess.run([*chroot, *pairs, "/bin/sh", "-c", line], check=False)
            if done.returncode:
                return done.returncode
    return 0


def copy(names: list[str], into: Path) -> None:
    """Copy files and folders of the project as COPY does."""
    *sources, target = names
    for name in sources:
        source = HERE / name
        place = into / name if target in {".", "./"} else into / target
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, place)


if __name__ == "__main__":
    sys.exit(main())
