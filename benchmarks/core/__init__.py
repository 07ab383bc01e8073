"""The suite within one process: goevent beside its peers, or beside an earlier commit of itself.

`runner` is the parent, `child` the process that takes one figure. `workloads` has the workloads and
goevent's loops, `peers` one module for each peer.
"""
