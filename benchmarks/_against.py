"""For `--against`: two sources of goevent, side by side, each a contender of its own.

Both are copies in a directory that is removed at the end, so that an edit during the run changes
neither, and both are measured by the working tree's benchmarks.
"""

import shutil
import subprocess
import tarfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks._contenders import BY_NAME, Contender
from benchmarks._runner import REPOSITORY, SUBJECT, Selection

NOW, BEFORE = "now", "before"
SOURCES = "src"


class NoSuchSources(Exception):
    """Git does not know the commit, or the commit has no sources."""


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Args:
        ref: What was asked for, such as "HEAD~3".
        commit: Its abbreviated hash.
        now: The working tree as it was at the start.
        before: The commit.
    """

    ref: str
    commit: str
    now: Contender
    before: Contender

    def of(self, selection: Selection) -> Selection:
        """Replace goevent by both of its sources, and leave out its peers."""
        return [
            (workload, [self.now, self.before])
            for workload, contenders in selection
            if any(contender.name == SUBJECT for contender in contenders)
        ]


@contextmanager
def unpacked(ref: str) -> Generator[Comparison, None, None]:
    """Lay out both sources, and remove them in the end.

    Raises:
        NoSuchSources: there is no such commit, or nothing to measure in it.
    """
    commit = _git("rev-parse", "--verify", "--short", f"{ref}^{{commit}}").decode().strip()
    archive = _git("archive", "--format=tar", commit, SOURCES)
    with TemporaryDirectory(prefix="goevent-against-") as directory:
        now, before = (Path(directory).resolve() / name for name in (NOW, BEFORE))
        with tarfile.open(fileobj=BytesIO(archive)) as tar:
            tar.extractall(before, filter="data")
        shutil.copytree(
            REPOSITORY / SOURCES, now / SOURCES, ignore=shutil.ignore_patterns("__pycache__")
        )
        subject = BY_NAME[SUBJECT]
        yield Comparison(
            ref,
            commit,
            replace(subject, name=NOW, source=now / SOURCES),
            replace(subject, name=BEFORE, source=before / SOURCES),
        )


def _git(*arguments: str) -> bytes:
    done = subprocess.run(
        ["git", "-C", str(REPOSITORY), *arguments], capture_output=True, check=False
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise NoSuchSources(f"git {' '.join(arguments)}: {said}")
    return done.stdout
