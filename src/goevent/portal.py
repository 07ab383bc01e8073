"""The portal: a bus in a thread of its own, for programs that do not run on Trio."""
