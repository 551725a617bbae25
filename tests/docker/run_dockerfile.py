"""Runs the Dockerfile's own command lines in a clean root, for machines without a container engine.

Run as root with ``python tests/docker/run_dockerfile.py ROOT [NAME=VALUE ...]``, NAME an ARG of the Dockerfile. ROOT is
a folder that ``debootstrap --variant=minbase --include=python3.11,python3-venv,python-is-python3,ca-certificates
bookworm ROOT`` made, /proc mounted in it and its dev/shm open to all (1777), as an engine has them.
The stages share the root, so ``COPY --from`` finds its files in place. After the build it does what ``docker run`` is
for: trains the smallest run, serves it with a token, runs the health check and asks for a reward. What an engine alone
does (layers, VOLUME, EXPOSE, HEALTHCHECK as a timer) is not tried. Not a part of ``make test``: it takes root, a
network and six minutes.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
TOKEN = "a-token-of-this-test"


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


@dataclass
class Root:
    """A clean root that stands in for the image, and what the Dockerfile has said so far."""

    path: Path
    values: dict[str, str]
    """Of each ARG."""
    environment: dict[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
    )
    folder: str = "/"
    user: str = "root"
    health: str = ""
    """The command of HEALTHCHECK."""

    def enter(self, command: str, **more: str) -> list[str]:
        """The host's command line that runs ``command`` in the root, as the user and in the folder that are set."""
        variables = {**self.environment, **self.values, **more}
        chroot = ["chroot", f"--userspec={self.user}", str(self.path), "/usr/bin/env", "-i"]
        pairs = [f"{name}={value}" for name, value in variables.items()]
        home = 'export HOME="$(getent passwd "$(id -u)" | cut -d: -f6)"'
        return [*chroot, *pairs, "/bin/sh", "-c", f"{home}; cd {shlex.quote(self.folder)} && exec {command}"]

    def run(self, command: str) -> int:
        """Show and run ``command``; its exit status."""
        print(f"{self.user}$ {command}", flush=True)
        return subprocess.run(self.enter(f"sh -c {shlex.quote(command)}"), check=False).returncode


def main() -> int:
    """Build and use the image; the exit status of the first command that fails, or 0."""
    place, *given = sys.argv[1:]
    root = Root(Path(place), dict(entry.split("=", 1) for entry in given))
    return build(root) or use(root)


def build(root: Root) -> int:
    """Follow the Dockerfile; the exit status of the first RUN that fails."""
    for step in parse((HERE / "Dockerfile").read_text(encoding="utf-8")):
        known = {**root.values, **root.environment}
        rest = step.rest if step.word in {"RUN", "HEALTHCHECK"} else expand(step.rest, known)
        if step.word == "ARG":
            name, _, value = rest.partition("=")
            root.values.setdefault(name, value)
        elif step.word == "ENV":
            root.environment |= dict(entry.split("=", 1) for entry in shlex.split(rest))
        elif step.word == "WORKDIR":
            root.folder = rest
            (root.path / root.folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif step.word == "USER":
            root.user = rest
        elif step.word == "HEALTHCHECK":
            root.health = shlex.join(json.loads(rest.partition("CMD ")[2]))
        elif step.word == "COPY" and not rest.startswith("--from"):
            copy(rest.split(), root.path / root.folder.lstrip("/"))
        elif step.word == "RUN" and (status := root.run(expand(rest, root.values))):
            return status
    return root.run("realm --help")  # ENTRYPOINT and CMD


def use(root: Root) -> int:
    """What ``docker run`` is for: train a run, serve it to other machines with a token, and ask it."""
    if status := root.run("make PROFILE=test"):
        return status
    command = "realm serve --run outputs/test --host 0.0.0.0 --port 8765"
    health = root.health.replace(":8000", ":8765")
    print(f"{root.user}$ {command}", flush=True)
    with subprocess.Popen(root.enter(command, REALM_SERVER_TOKEN=TOKEN)) as server:
        try:
            while root.run(health) and server.poll() is None:
                time.sleep(1)
            request = urllib.request.Request(
                "http://127.0.0.1:8765/predict",
                json.dumps({"prompt": "Why does bread rise?", "response": "Yeast makes gas."}).encode(),
                {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=120) as answer:
                print(answer.read().decode(), flush=True)
        finally:
            server.terminate()
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
