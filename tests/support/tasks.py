"""The tasks of a run, as the tests count them."""

from __future__ import annotations

import trio
from trio.lowlevel import Task


def descendants(task: Task) -> set[Task]:
    """Return the children of a task, their children, and so on."""
    children = {child for nursery in task.child_nurseries for child in nursery.child_tasks}
    return children.union(*(descendants(child) for child in children))


def living_tasks() -> set[Task]:
    """Return all tasks of the run but its root."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    return descendants(root)
