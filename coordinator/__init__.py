"""The coordinator on a laptop: enrolment, rounds, aggregation, store, report, simulation."""
