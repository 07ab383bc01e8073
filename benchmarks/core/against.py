"""The sources of `--against`: goevent of the working tree and of a commit, as two contenders.

Both are copies in a temporary directory, so an edit during the run changes neither. The benchmarks
of the working tree measure both.
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

from benchmarks.core.contenders import BY_NAME, Contender
from benchmarks.core.runner import REPOSITORY, SUBJECT, Selection

NOW, BEFORE = "now", "before"
SOURCES = "src"


class NoSuchSources(Exception):
    """Git does not know the commit, or the commit has no sources."""


@dataclass(frozen=True)
class Comparison:
    """The two sources.

    Args:
        ref: The commit as the user named it, such as "HEAD~3".
        commit: Its abbreviated hash.
        now: The working tree as it was at the start.
        before: The commit.
    """

    ref: str
    commit: str
    now: Contender
    before: Contender

    def select(self, selection: Selection) -> Selection:
        """Return the selection with both sources in place of goevent, and without peers."""
        return [
            (workload, [self.now, self.before])
            for workload, contenders in selection
            if any(contender.name == SUBJECT for contender in contenders)
        ]


@contextmanager
def unpacked(ref: str) -> Generator[Comparison, None, None]:
    """Copy both sources, and remove the copies at the end.

    Raises:
        NoSuchSources: There is no such commit, or no sources in it.
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
        errors = done.stderr.decode(errors="replace").strip()
        raise NoSuchSources(f"git {' '.join(arguments)}: {errors}")
    return done.stdout
