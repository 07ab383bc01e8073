"""The reports of the suites: the tables that they print, and the JSON that they write."""
