"""The conformance suite for drivers.

`suite` is the class that driver authors derive from. `runner` runs one case with a broker of its
own; `environment` gives the case its buses and its waits. All other modules are the cases, one
module for each subject, and their helpers. A case uses a driver only through buses: it must never
know which driver it tests.
"""
