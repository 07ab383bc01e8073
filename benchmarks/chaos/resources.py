"""The CPU time and the memory of another process, as Linux shows them."""

import os
from pathlib import Path

KIB_PER_MIB = 1024


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, with all its threads; 0 if it has ended."""
    try:
        # The name of the program, in brackets, may contain blanks.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mib(pid: int) -> float:
    """Return the largest resident set that a process has had, in MiB; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / KIB_PER_MIB for line in lines if "VmHWM" in line), 0.0)
