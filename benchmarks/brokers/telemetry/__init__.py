"""The suite of telemetry: what spans and metrics cost for each event, beside FastStream's."""
